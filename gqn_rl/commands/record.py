"""``record``: pictures of random scenes to pretrain on."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from gqn_rl import CAMERA_RIG
from gqn_rl.commands.configurations import find_config
from gqn_rl.commands.options import add_overrides, given, not_negative, positive
from gqn_rl.commands.scenes import make_scene_source, rig_factors
from gqn_rl.config import UserError, parse_override, read_yaml


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``record``."""
    parser.add_argument("config", nargs="?", default="record/arm_reach", help="a YAML file, or a name")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the recording's folder")
    parser.add_argument("--env", metavar="ID", help="another scene source; the configuration's env_kwargs and block go")
    parser.add_argument(
        "--cameras",
        choices=("dome", "ring"),
        help="where they stand around an environment that has none (default: dome)",
    )
    parser.add_argument("--scenes", type=positive, metavar="N", help="how many scenes")
    parser.add_argument("--seed", type=not_negative, metavar="N", help="of scenes and cameras")
    parser.add_argument("--workers", type=positive, default=_processors(), metavar="N", help="rendering processes")
    add_overrides(parser, "any key of the configuration, such as env_kwargs.image_size=128")


def run(options: argparse.Namespace) -> None:
    """Photograph random scenes of an environment, to pretrain on.

    A MuJoCo environment that shows no views gets cameras (docs/camera_rig.md). A recording that was
    stopped goes on with the same command.

    Example:
      gqn-rl record --out data/arm-reach --scenes 24000
    """
    from tqdm import tqdm

    from gqn_rl.agents.interrupts import StopRequest
    from gqn_rl.data import RecordConfig, record

    path = find_config(options.config, "record")
    overrides = given(env=options.env, scenes=options.scenes, seed=options.seed)
    if options.env is not None:
        overrides.update({"env_kwargs": {}, "block": {}})
    env = options.env or read_yaml(path).get("env", RecordConfig().env)
    rigged = _rigged_recording(env, options.cameras) if isinstance(env, str) else {}  # else it is refused below
    if options.env is None:
        rigged.pop("block", None)  # the configuration has its own
    overrides.update(rigged)
    overrides.update(parse_override(text) for text in options.overrides)
    config = RecordConfig.from_yaml(path, overrides)
    finished = 0  # beside the bar, which counts nothing where it is not shown
    with StopRequest() as request, tqdm(total=config.scenes, unit="scene", disable=None) as bar:

        def progress(scenes: int) -> None:
            nonlocal finished
            finished += scenes
            bar.update(scenes)

        try:
            manifest = record(
                config, options.out, make_scene_source, options.workers, progress, stop=lambda: request.received
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted with {finished:,} of {config.scenes:,} scenes done; run the same command to go on"
            ) from None
    frames = config.scenes * config.views
    print(f"{options.out}: {config.scenes} scenes, {frames} frames, sha256 {manifest.sha256[:12]}")


def _rigged_recording(env_id: str, placement: str | None) -> dict[str, Any]:
    """What a recording of ``env_id`` in a camera rig says beside the configuration; nothing where it needs none."""
    factors = rig_factors(env_id)
    if factors is None:
        if placement is not None:
            from gqn_rl.agents.build import find_env

            find_env(env_id)  # an unknown id is another mistake
            raise UserError(f"--cameras places a rig's cameras, but {env_id} has its own, or no MuJoCo model")
        return {}
    rigged: dict[str, Any] = {
        "env": CAMERA_RIG,
        "env_kwargs.env_id": env_id,
        "env_kwargs.placement": placement or "dome",
    }
    if factors == ("goal", "robot"):  # eight of each: a small goal is found among many that one robot meets
        rigged["block"] = {"rows": "goal", "columns": "robot", "height": 8, "width": 8, "family": 4}
    return rigged


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
