"""Files that are either whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gqn_rl.config import UserError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on failure it is removed.

    A reader, or a run that resumes after a kill at any moment, sees the old file or the new one, never a part.
    A full disk is a :class:`UserError`, and the old file is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (28, 122):  # ENOSPC, EDQUOT
            raise UserError(
                f"no space left to write {path}; free some space and run the same command to go on"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, values: Any) -> None:
    """Write ``values`` as indented JSON to ``path`` atomically."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """The JSON in ``path``; raises :class:`UserError` when it is missing or corrupt."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is corrupt: {error}") from None
