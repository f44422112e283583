"""What runs say of themselves: their CSV files, and what is known of them beyond, read and checked.

A run is a CSV with a line for each evaluation, in the columns :data:`COLUMNS`, anywhere in a folder tree. What is known
of it beyond that may stand beside it, in a JSON file of the same stem, with the keys of :class:`Facts`; every one is
optional, and what is not known is reported as such.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gqn_rl.cameras import is_whole
from gqn_rl.config import UserError
from gqn_rl.files import read_json

#: Columns of a run's CSV; further ones are left alone.
COLUMNS: Final = ("task", "arm", "seed", "step", "score", "success", "wall_s")
#: The arms of the protocol, in the order of the tables; others follow by name.
ARMS: Final = ("state", "gqn", "gqn_finetuned", "pixels_aug", "pixels", "autoencoder", "untrained")


@dataclass(frozen=True)
class Facts:
    """What the JSON beside a run's CSV says; None where it does not. The names are its keys."""

    random_score: float | None = None  #: mean return of uniformly random actions in the same episodes
    budget: float | None = None  #: environment steps that the run is to take
    replay_bytes: float | None = None  #: of the replay buffer, full
    updates: float | None = None  #: gradient updates of the whole run
    pretraining_frames: float | None = None  #: that the encoder was pretrained on
    pretraining_cpu_s: float | None = None  #: of pretraining, seconds by the clock times threads, by the encoder's card
    views: float | None = None  #: images in an observation
    versions: Mapping[str, Any] = field(default_factory=dict)  #: package: its version
    resumed: Sequence[Mapping[str, Any]] = ()  #: likewise, and ``step``: each time it went on with other ones
    config: Mapping[str, Any] = field(default_factory=dict)  #: of the run, as `train` takes it
    encoder_hash: str | None = None  #: of the encoder's weights


@dataclass(frozen=True)
class Run:
    """One run: its evaluations, (n,) each, n >= 1."""

    task: str
    arm: str
    seed: int
    path: str  #: of the CSV, below the folder that was read
    steps: NDArray[np.int64]
    scores: NDArray[np.float64]
    success: NDArray[np.float64]  #: shares; nan where the environment does not say
    wall_s: NDArray[np.float64]
    facts: Facts

    @property
    def finished(self) -> bool | None:
        """Whether the run got to the end of its budget; None where that is not known."""
        return None if self.facts.budget is None else bool(self.steps[-1] >= self.facts.budget)


def read_results(folder: str | Path, only: Sequence[str] | None = None) -> tuple[list[Run], list[str]]:
    """Every run below ``folder``, by task, arm and seed, and notes on what was left out.

    Args:
        folder: with the CSV files, at any depth.
        only: tasks whose runs are wanted; None: all.

    Raises:
        UserError: no such folder, nothing in it, a file that is no run's, two files of one run, or no run of a task
            that is wanted.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder} with results")
    paths = sorted(path for path in folder.rglob("*.csv") if not path.name.startswith("."))
    if not paths:
        raise UserError(f"{folder} holds no CSV of a run; its columns are {', '.join(COLUMNS)}")
    runs: dict[tuple[str, str, int], Run] = {}
    notes = []
    tasks = set()
    for path in paths:
        name = path.relative_to(folder).as_posix()
        run, cut = _read_run(path, name)
        if run is not None:
            tasks.add(run.task)
            if only is not None and run.task not in only:
                continue
        if cut:
            notes.append(f"{code_span(name)} ends in the middle of a line, which is left out.")
        if run is None:
            notes.append(f"{code_span(name)} has no evaluation yet.")
            continue
        key = (run.task, run.arm, run.seed)
        if key in runs:
            raise UserError(
                f"{path}: task {run.task!r}, arm {run.arm!r}, seed {run.seed} is in {folder / runs[key].path} already"
            )
        runs[key] = run
    if not tasks:
        raise UserError(f"no run below {folder} has an evaluation yet")
    if unknown := [name for name in only or () if name not in tasks]:
        raise UserError(f"no task {', '.join(map(repr, unknown))} in {folder}, only {', '.join(sorted(tasks))}")
    return [runs[key] for key in sorted(runs, key=lambda key: (key[0], arm_rank(key[1]), key[2]))], notes


def arm_rank(arm: str) -> tuple[int, str]:
    """What arms are sorted by: the order of :data:`ARMS`, then their names."""
    return (ARMS.index(arm) if arm in ARMS else len(ARMS), arm)


def code_span(name: str) -> str:
    """``name`` as a code span of Markdown that is safe in a table: without backticks, ``|`` as ``/``."""
    return f"`{name.replace('|', '/').replace('`', '')}`"


def _read_run(path: Path, name: str) -> tuple[Run | None, bool]:
    """The run of a CSV, None if it has no evaluation yet; and whether its last line was only half written."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text file; a run's columns are {', '.join(COLUMNS)}") from None
    cut = bool(text) and not text.endswith("\n")
    if cut:
        text = text[: text.rfind("\n") + 1]  # a run that was killed, or is at it
    if not text:
        return None, cut
    reader = csv.reader(io.StringIO(text))
    header = next(reader, [])
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise UserError(
            f"{path}, line 1: no column {', '.join(map(repr, missing))}; a run's columns are {', '.join(COLUMNS)}, and "
            "a folder of results holds no other CSV"
        )
    rows: list[dict[str, Any]] = []
    for values in reader:
        where = f"{path}, line {reader.line_num}"
        if len(values) != len(header):
            raise UserError(f"{where}: {len(values)} values for {len(header)} columns ({', '.join(header)})")
        row = _parse(dict(zip(header, values, strict=True)), where)
        if rows and any(row[key] != rows[0][key] for key in ("task", "arm", "seed")):
            raise UserError(f"{where}: another task, arm or seed than in the lines above; a file holds one run")
        if rows and row["step"] <= rows[-1]["step"]:
            raise UserError(f"{where}: step {row['step']} after step {rows[-1]['step']}; steps must rise")
        rows.append(row)
    if not rows:
        return None, cut
    run = Run(
        task=rows[0]["task"],
        arm=rows[0]["arm"],
        seed=rows[0]["seed"],
        path=name,
        steps=np.array([row["step"] for row in rows]),
        scores=np.array([row["score"] for row in rows]),
        success=np.array([row["success"] for row in rows]),
        wall_s=np.array([row["wall_s"] for row in rows]),
        facts=_read_facts(path.with_suffix(".json")),
    )
    return run, cut


def _parse(row: Mapping[str, str], where: str) -> dict[str, Any]:
    """Numbers for text; raises :class:`UserError` naming the line, the column and what it may hold."""
    rules: dict[str, tuple[Callable[[str], Any], Callable[[Any], bool], str]] = {
        "task": (str, bool, "a name"),
        "arm": (str, bool, "a name"),
        "seed": (int, lambda value: value >= 0, "a whole number from 0"),
        "step": (int, lambda value: 0 <= value < 2**63, "a whole number from 0"),
        "score": (float, math.isfinite, "a finite number"),
        "success": (float, lambda value: math.isnan(value) or 0 <= value <= 1, "from 0 to 1, or nan"),
        "wall_s": (float, lambda value: 0 <= value < math.inf, "a number from 0"),
    }
    parsed = {}
    for column in COLUMNS:
        convert, valid, choices = rules[column]
        try:
            parsed[column] = convert(row[column])
        except ValueError:
            parsed[column] = None
        if parsed[column] is None or not valid(parsed[column]):
            raise UserError(
                f"{where}: {column} is {row[column]!r}, must be {choices}; a run's columns are {', '.join(COLUMNS)}"
            )
    return parsed


def _read_facts(path: Path) -> Facts:
    """What the JSON at ``path`` says; nothing where there is none."""
    if not path.exists():
        return Facts()
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: the top level must be an object of keys and values")
    known = {key.name: values[key.name] for key in fields(Facts) if values.get(key.name) is not None}
    for key, value in known.items():
        if key in ("versions", "config"):
            if not isinstance(value, dict):
                raise UserError(f"{path}: {key!r} is {value!r}, must be an object")
        elif key == "resumed":
            if not isinstance(value, list) or not all(map(_is_resumption, value)):
                raise UserError(f"{path}: {key!r} is {value!r}, must be a list of objects, each with a step from 0")
        elif key == "encoder_hash":
            if not isinstance(value, str):
                raise UserError(f"{path}: {key!r} is {value!r}, must be text")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{path}: {key!r} is {value!r}, must be a finite number")
        elif value < 0 and key != "random_score":
            raise UserError(f"{path}: {key!r} is {value!r}, must be a number from 0")
    return Facts(**known)


def _is_resumption(one: Any) -> bool:
    return isinstance(one, dict) and is_whole(one.get("step")) and one["step"] >= 0
