"""``evaluate``: a trained policy, replayed and measured."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from gqn_rl.commands.options import not_negative, positive
from gqn_rl.config import UserError

if TYPE_CHECKING:
    from gqn_rl.types import SceneEncoder


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate``."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--episodes", type=positive, default=50, metavar="N", help="how many (default: 50)")
    parser.add_argument(
        "--seed", type=not_negative, default=0, metavar="N", help="held-out episodes from this one on (default: 0)"
    )
    parser.add_argument("--best", action="store_true", help="the best policy so far instead of the final one")
    parser.add_argument("--encoder", metavar="E", help="where the run's encoder is now, if it has moved")
    parser.add_argument(
        "--cameras",
        nargs="+",
        choices=("unseen", "outside", "missing"),
        metavar="C",
        help="look from elsewhere: unseen (inside the dome), outside (up to 15 degrees above it), missing (one fewer)",
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="where --cameras adds lines (default: RUN/cameras.csv)"
    )


def run(options: argparse.Namespace) -> None:
    """Replay a trained policy: how often it succeeds, its mean return, and a video.

    Episodes are held out: training never sees their seeds. Seed 0, the default, gives those that
    the run was evaluated with; another seed gives others.

    With --cameras, the policy is scored, not filmed, from its own cameras and from others, and the
    scores are compared: 0 is that of random actions, 100 that of its own cameras.

    Example:
      gqn-rl evaluate runs/arm_reach-seed0 --episodes 100 --seed 1000
      gqn-rl evaluate runs/arm_reach-seed0 --cameras unseen outside missing
    """
    from gqn_rl.agents.replay import read_run, replay
    from gqn_rl.encoder import load_encoder

    if options.csv is not None and options.cameras is None:
        raise UserError("--csv is for --cameras")
    config = read_run(options.folder)
    spec = options.encoder or config.encoder
    encoder = None if spec is None else load_encoder(spec)
    if options.cameras is not None:
        _evaluate_cameras(options, encoder)
        return
    found = replay(options.folder, encoder, options.episodes, options.seed, options.best)
    print(f"{found['model']} of {options.folder}, {found['episodes']} held-out episodes:")
    if found["success"] is not None:
        print(f"  success      {found['success']:.1%}")
    print(f"  mean return  {found['score']:.3f}")
    if found["distance"] is not None:
        print(f"  distance     {found['distance']:.3f} m, at the end of an episode")
    print(f"  length       {found['length']:.1f} steps")
    if found["video"] is not None:
        print(f"  video        {options.folder / found['video']}")


def _evaluate_cameras(options: argparse.Namespace, encoder: SceneEncoder | None) -> None:
    from gqn_rl.agents.robustness import TABLE, measure, read_table, write_table
    from gqn_rl.files import make_folder

    path = options.csv or options.folder / TABLE
    read_table(path)  # what is no such table is refused before any work, as is a place where none can be
    make_folder(path.parent)
    lines = measure(options.folder, encoder, options.cameras, options.episodes, options.seed, options.best)
    print(f"{lines[0].model} of {options.folder}, {options.episodes} held-out episodes from each:")
    print(f"  {'cameras':10}{'success':>10}{'mean return':>14}{'share':>8}")
    for line in lines:
        success = "-" if math.isnan(line.success) else f"{line.success:.1%}"
        share = "-" if math.isnan(line.share) else f"{line.share:.1f}%"
        print(f"  {line.cameras:10}{success:>10}{line.score:>14.3f}{share:>8}")
    if any(math.isnan(line.share) for line in lines):
        print("  no share: from its own cameras, the policy is no better than random actions")
    write_table(path, lines)
    print(f"  {path}")
