"""``view``: a contact sheet of an environment."""

from __future__ import annotations

import argparse
from pathlib import Path

from gqn_rl import CAMERA_RIG
from gqn_rl.commands.options import add_overrides, not_negative, positive
from gqn_rl.commands.scenes import check_one_env, make_scene_source, rig_factors
from gqn_rl.config import UserError, parse_override


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``view``."""
    parser.add_argument("env", metavar="ENV_ID", help="a scene source, such as gqn_rl/RoomRing-v0")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture; replaced if there is one")
    parser.add_argument("--scenes", type=positive, default=4, metavar="N", help="how many, a row each (default: 4)")
    parser.add_argument("--views", type=positive, default=6, metavar="N", help="of each scene (default: 6)")
    parser.add_argument("--seed", type=not_negative, default=0, metavar="N", help="of scenes and cameras (default: 0)")
    parser.add_argument("--scale", type=positive, default=2, metavar="N", help="how much larger (default: 2 times)")
    add_overrides(parser, "an argument of the environment, such as image_size=128")


def run(options: argparse.Namespace) -> None:
    """Make a contact sheet of an environment: a row of views for each of some random scenes.

    The pictures are the first that record would take with the same seed and independent scenes.

    Example:
      gqn-rl view gqn_rl/RoomRing-v0 --scenes 4 --views 6 --out sheet.png
    """
    from gqn_rl.files import make_folder
    from gqn_rl.pictures import contact_sheet, grid, save_png

    if options.out.suffix.lower() != ".png":
        raise UserError(f"--out must name a .png file, got {options.out}")
    if options.out.is_dir():
        raise UserError(f"--out must name a .png file, and {options.out} is a folder")
    env, kwargs = options.env, dict(parse_override(text) for text in options.overrides)
    if rig_factors(env) is not None:
        check_one_env(env, kwargs)
        env, kwargs = CAMERA_RIG, {**kwargs, "env_id": env}
    source = make_scene_source(env, kwargs)
    make_folder(options.out.parent)
    rows = contact_sheet(source, options.scenes, options.views, options.seed)
    save_png(options.out, grid(rows, options.scale))
    print(f"{options.out}: {options.scenes} scenes of {options.env}, {options.views} views of each")
