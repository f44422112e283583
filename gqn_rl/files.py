"""Files that are either whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gqn_rl.config import UserError

#: What the operating system says when nothing more fits: no space, over quota, over the largest file allowed.
DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: The file that is locked while a process is at work in a folder.
LOCK: Final = ".lock"


@contextmanager
def disk_errors(what: object) -> Iterator[None]:
    """Turn a full disk into a :class:`UserError` of one line that names ``what`` was being written."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(
                f"no space left to write {what}; free some space and run the same command to go on"
            ) from error
        raise


def make_folder(folder: Path) -> None:
    """Make ``folder``, if it is not there; raises :class:`UserError` where that cannot be, or nothing can be put in."""
    with disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise UserError(f"cannot write to the folder {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to the folder {folder}: {os.strerror(errno.EACCES)}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make ``folder`` and keep other processes from writing there; the lock goes with the process, however it ends.

    Raises:
        UserError: another process is at work there, or the folder cannot be written.
    """
    make_folder(folder)
    with disk_errors(folder):
        try:
            file = open(folder / LOCK, "w")  # noqa: SIM115 - open as long as the work lasts
        except PermissionError as error:
            raise UserError(f"cannot write to the folder {folder}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is at work in {folder}; use another --out") from None
        yield


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Wait until no other process is in here for ``folder``: what is read and written inside is of one piece.

    It leaves no file behind, and has nothing to do with :func:`locked`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def strangers(folder: Path, ours: Collection[str]) -> list[str]:
    """What is in ``folder`` (which need not exist) beside ``ours``, the lock, and files that a killed write left."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.name not in (*ours, LOCK) and not is_leftover(path))


def is_leftover(path: Path) -> bool:
    """Whether ``path`` is what :func:`atomic_path` writes before it is whole."""
    return path.name.startswith(".") and ".tmp" in path.name


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on failure it is removed.

    A reader, or a run that resumes after a kill at any moment, sees the old file or the new one, never a part.
    A full disk is a :class:`UserError`, and the old file is still there.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{path.name}.*.tmp{path.suffix}"):  # a process was killed while it wrote this
            if not _runs(stale.name.removesuffix(f".tmp{path.suffix}").rpartition(".")[2]):
                stale.unlink(missing_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _runs(process: str) -> bool:
    """Whether ``process``, a number, is one of this machine that is at work, other than this one."""
    if not process.isdecimal() or int(process) == os.getpid():
        return False
    try:
        os.kill(int(process), 0)
    except PermissionError:
        return True  # somebody else's
    except (ProcessLookupError, OverflowError):
        return False
    return True


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    """Write ``content`` to ``path`` atomically.

    Serialise into memory and write the bytes here: libraries that write files themselves report a full disk each
    in its own way.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, values: Any) -> None:
    """Write ``values`` as indented JSON to ``path`` atomically."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The JSON in ``path``; raises :class:`UserError` when it is missing or corrupt."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is corrupt: {error}") from None
