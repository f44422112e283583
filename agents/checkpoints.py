"""Checkpoints from which a killed run goes on exactly: whole or not there, and checked before use.

One checkpoint is a folder ``step_<N>`` with ``model.zip``, the filled part of the replay buffer in ``replay.npz``
(off-policy algorithms), ``best_model.zip`` (once there is one) and ``manifest.json``, which holds the checksums.
It is written beside its place and renamed. There is no generator state in it: whoever saves or loads a checkpoint
seeds all of them anew (:mod:`gqn_rl.agents.seeding`).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer

from gqn_rl.config import UserError
from gqn_rl.files import disk_errors

MANIFEST: Final = "manifest.json"
MODEL: Final = "model.zip"
REPLAY: Final = "replay.npz"
BEST: Final = "best_model.zip"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    step: int  #: environment steps, all environments together
    wall_s: float  #: seconds of training before it

    @property
    def model(self) -> Path:
        """The Stable-Baselines3 zip."""
        return self.path / MODEL

    @property
    def best_model(self) -> Path | None:
        """The best policy so far; None before the first evaluation."""
        return self.path / BEST if (self.path / BEST).exists() else None

    def restore_replay(self, model: BaseAlgorithm) -> None:
        """Fill the replay buffer of ``model``, just loaded, as it was."""
        if (self.path / REPLAY).exists():
            load_replay(self.path / REPLAY, replay_buffer(model))


def save_checkpoint(root: Path, model: BaseAlgorithm, wall_s: float, best_model: Path | None) -> Checkpoint:
    """Write a checkpoint of ``model`` into ``root``; older ones are deleted once it is in place.

    Raises :class:`UserError` when the disk is full; the previous checkpoint is then untouched.
    """
    step = model.num_timesteps
    final = root / f"step_{step:09d}"
    temporary = root / f".{final.name}.tmp"
    with disk_errors(f"checkpoint {final}"):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            (temporary / MODEL).write_bytes(model_bytes(model))
            if has_replay(model):
                save_replay(temporary / REPLAY, replay_buffer(model))
            if best_model is not None:
                shutil.copyfile(best_model, temporary / BEST)
            files = {path.name: _checksum(path) for path in sorted(temporary.iterdir())}
            manifest = {"step": step, "wall_s": wall_s, "files": files}
            (temporary / MANIFEST).write_text(json.dumps({**manifest, "checksum": _digest(manifest)}, indent=2))
            for path in [*temporary.iterdir(), temporary]:
                _sync(path)
            shutil.rmtree(final, ignore_errors=True)  # only there if it was corrupt
            os.replace(temporary, final)
            _sync(root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    for older in _folders(root):
        if older != final:
            shutil.rmtree(older)
    return Checkpoint(final, step, wall_s)


def latest_checkpoint(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint in ``root`` that is whole, and one line about each newer one that is not.

    None when there is no checkpoint at all. Raises :class:`UserError` when there are some and none is whole.
    """
    problems: list[str] = []
    for folder in reversed(_folders(root)):
        try:
            return _read(folder), problems
        except ValueError as error:
            problems.append(f"checkpoint {folder} is corrupt: {error}")
    if problems:
        raise UserError(f"{'; '.join(problems)}; delete {root} to start this run over, or train into another --out")
    return None, []


def newest(root: Path) -> Path | None:
    """The newest checkpoint in ``root``, which is not read; None where there is none."""
    return max(_folders(root), default=None)


def step_of(folder: Path | None) -> int:
    """The step of a checkpoint by its name, 0 of none."""
    return 0 if folder is None else int(folder.name.removeprefix("step_"))


def has_replay(model: BaseAlgorithm) -> bool:
    """Whether ``model`` learns from a replay buffer."""
    return isinstance(getattr(model, "replay_buffer", None), ReplayBuffer)


def replay_buffer(model: BaseAlgorithm) -> ReplayBuffer:
    """The replay buffer of an off-policy ``model``."""
    buffer = getattr(model, "replay_buffer", None)
    assert isinstance(buffer, ReplayBuffer)
    return buffer


def save_replay(path: Path, buffer: ReplayBuffer) -> None:
    """Write the filled part of ``buffer``; SB3's own ``save_replay_buffer`` writes all that is allocated."""
    arrays: dict[str, Any] = {"pos": buffer.pos, "full": buffer.full}
    for name, array in _arrays(buffer):
        arrays[name] = array[: buffer.size()] if _grows(array, buffer) else array
    np.savez(path, **arrays)


def load_replay(path: Path, buffer: ReplayBuffer) -> None:
    """Fill ``buffer``, fresh and of the same shape, as it was when it was saved."""
    with np.load(path, allow_pickle=False) as saved:
        buffer.pos, buffer.full = int(saved["pos"]), bool(saved["full"])
        for name, array in _arrays(buffer):
            content = saved[name]  # read from the file each time that it is asked for
            array[: len(content)] = content


def cut_episodes(model: BaseAlgorithm) -> None:
    """Mark the newest transitions as the last of their episodes, cut by a time limit.

    To be called before the environments of an off-policy ``model`` are reset in mid-episode. One-step targets do not
    change; n-step returns must not run on into the next episode.
    """
    if not has_replay(model):
        return
    buffer = replay_buffer(model)
    if buffer.size() == 0:
        return
    last = (buffer.pos - 1) % buffer.buffer_size
    if not buffer.optimize_memory_usage:  # otherwise the next observation is about to be overwritten: a true end
        buffer.timeouts[last] = np.logical_or(buffer.timeouts[last], np.logical_not(buffer.dones[last]))
    buffer.dones[last] = 1
    truncate = getattr(buffer, "truncate_last_trajectory", None)  # HerReplayBuffer's own bookkeeping
    if truncate is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The last trajectory in the replay buffer will be truncated")
            truncate()


def model_bytes(model: BaseAlgorithm) -> memoryview:
    """The Stable-Baselines3 zip of ``model``. Written by ourselves, since torch reports a full disk as RuntimeError."""
    content = io.BytesIO()
    model.save(content)
    return content.getbuffer()


def _arrays(buffer: ReplayBuffer) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every array of numbers of the buffer by name; those in a dict (Dict observations) as ``name/key``.

    Objects are left out: a HerReplayBuffer's infos, which are empty (gqn_rl.agents.build refuses to fill them).
    """
    for name, value in sorted(vars(buffer).items()):
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            yield name, value
        elif isinstance(value, dict):
            yield from ((f"{name}/{key}", item) for key, item in sorted(value.items()) if isinstance(item, np.ndarray))


def _grows(array: NDArray[Any], buffer: ReplayBuffer) -> bool:
    return array.ndim > 0 and len(array) == buffer.buffer_size


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.glob("step_*") if path.is_dir())
    except FileNotFoundError:  # another process has just finished the run, and deleted them
        return []


def _read(folder: Path) -> Checkpoint:
    """The checkpoint in ``folder``; raises ``ValueError`` saying what is wrong with it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        checksum = manifest.pop("checksum")
        step, wall_s, files = manifest["step"], manifest["wall_s"], manifest["files"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{MANIFEST} is missing or damaged") from None
    if checksum != _digest(manifest):
        raise ValueError(f"{MANIFEST} does not match its checksum")
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if _checksum(folder / name) != expected:
            raise ValueError(f"{name} does not match its checksum")
    return Checkpoint(folder, step, wall_s)


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
