"""What a result depends on besides its configuration: which code made it, and with what."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

import gqn_rl

#: Packages whose version can change a result.
PACKAGES: Final = ("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco", "numpy")


def versions() -> dict[str, str | int | None]:
    """Versions by name, the clone's commit under ``git_commit``; None for what is not installed.

    ``threads`` are those that PyTorch computes with in this process: they decide how sums are rounded.
    """
    found: dict[str, str | int | None] = {
        "gqn_rl": gqn_rl.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def changed(begun_with: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not ``now`` as in ``begun_with``, two answers of :func:`versions`, as ``name old -> new``."""
    return [f"{name} {begun_with[name]} -> {now[name]}" for name in now if begun_with.get(name, now[name]) != now[name]]


def _git_commit() -> str | None:
    """The commit of the clone this code runs from, with ``+`` if files were changed; None outside a clone.

    Results that a benchmark has just written are no change of what makes them.
    """
    root = Path(gqn_rl.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--", ".", ":(exclude)benchmarks/results") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
