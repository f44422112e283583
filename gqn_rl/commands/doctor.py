"""``doctor``: whether rendering works here."""

from __future__ import annotations

import argparse

from gqn_rl.commands.options import above_zero
from gqn_rl.config import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``doctor``."""
    parser.add_argument("--seconds", type=above_zero, default=3.0, metavar="S", help="of each measurement (default: 3)")


def run(options: argparse.Namespace) -> None:
    """Say whether rendering works here, how fast, and if it does not what to install or set.

    Example:
      gqn-rl doctor
    """
    from gqn_rl.envs.doctor import main as examine

    if examine(options.seconds) != 0:
        raise UserError("rendering does not work here; see above for what to do")
