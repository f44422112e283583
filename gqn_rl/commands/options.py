"""Kinds of options, and those that several commands have."""

from __future__ import annotations

import argparse
from typing import Any


def add_overrides(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--set KEY=VALUE``, as ``overrides``; ``what`` says what is set."""
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"{what}; may be repeated",
    )


def given(**values: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def names(text: str) -> list[str]:
    """``a, b`` to [a, b]."""
    return [name.strip() for name in text.split(",")]


def seeds(text: str) -> list[int]:
    """``0-2,7`` to [0, 1, 2, 7]."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (first.strip().isdecimal() and (last.strip().isdecimal() or not dash)):
            raise argparse.ArgumentTypeError(f"must be like 0-4 or 0,2,5, got {text!r}")
        seeds += range(int(first), int(last if dash else first) + 1)
    if not seeds:
        raise argparse.ArgumentTypeError(f"no seed in {text!r}")
    return seeds


def positive(text: str) -> int:
    """A whole number, at least 1."""
    return _whole(text, 1)


def two_or_more(text: str) -> int:
    """A whole number, at least 2."""
    return _whole(text, 2)


def several(text: str) -> int:
    """A whole number, at least 8."""
    return _whole(text, 8)


def not_negative(text: str) -> int:
    """A whole number, at least 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if not least <= number < 2**31:
        raise argparse.ArgumentTypeError(f"must be at least {least} and below 2**31, got {number}")
    return number


def above_zero(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return number
