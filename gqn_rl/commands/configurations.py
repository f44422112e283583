"""Configurations by path, and by name: those that come with gqn-rl."""

from __future__ import annotations

import difflib
from pathlib import Path

from gqn_rl.config import UserError


def find_config(name: str, command: str = "train") -> Path:
    """The YAML file called ``name``: a path, or the name of one that comes with gqn-rl for ``command``.

    Raises :class:`UserError` with the valid names.
    """
    path = Path(name)
    if path.is_file():
        return path
    folder = configs_folder()
    files = folder.glob("*.yaml" if command == "train" else f"{command}/*.yaml")
    packaged = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    if name in packaged:
        return packaged[name]
    close = [near for said in (name, f"{command}/{name}") for near in difflib.get_close_matches(said, packaged, n=1)]
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise UserError(
        f"no configuration {name!r}{hint}: it is neither a file nor one of {command}'s: {', '.join(sorted(packaged))}"
    )


def configs_folder() -> Path:
    """Where the configurations lie: beside the package in a clone, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
