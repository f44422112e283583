"""The data-efficiency report: from the CSV files of runs to tables and a page in Markdown, by nothing else.

A run is a CSV with a line for each evaluation, in the columns :data:`COLUMNS`, anywhere in a folder tree. What is known
of it beyond that may stand beside it, in a JSON file of the same stem, with the keys of :class:`Facts`; every one is
optional, and what is not known is reported as such.

The folder of a report::

    report.md    the page
    tables.csv   every figure of its tables, one a line: task, arm, measure, at (a step), value and interval
    runs.csv     every run: where it stood at the end, and when it got to the threshold
    *.png        drawn by gqn_rl.report_figures from the very same estimates
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gqn_rl.config import UserError
from gqn_rl.files import read_json, write_text
from gqn_rl.statistics import (
    HELD,
    RESAMPLES,
    Band,
    Bounds,
    Estimate,
    area_under_curve,
    estimate_mean,
    estimate_pooled_mean,
    estimate_ratio,
    mean_band,
    profile_band,
    steps_to,
    value_at,
)

#: Columns of a run's CSV; further ones are left alone.
COLUMNS: Final = ("task", "arm", "seed", "step", "score", "success", "wall_s", "length")
#: The arms of the protocol, in the order of the tables; others follow by name.
ARMS: Final = ("state", "gqn", "gqn_finetuned", "pixels_aug", "pixels", "autoencoder", "untrained")
#: The arm that defines 100, the one that the claims are about, and the one that pretraining has to pay off against.
ORACLE, OURS, RIVAL = "state", "gqn", "pixels_aug"
#: Units of a scale: points from random 0 to the oracle's 100, percent of episodes, or raw returns.
NORMALISED, SUCCESS, SCORE = "normalised score", "success", "score"
#: Points of the scale, on which random actions have 0 and the converged oracle 100.
THRESHOLD: Final = 90.0
#: Evaluations at the end of a run of the oracle that say where it converged.
CONVERGED: Final = 3
#: Seeds of an arm below which a claim is called provisional.
ENOUGH: Final = 5
#: Points by which the oracle's last evaluations may differ from as many before for it to count as converged.
DRIFT: Final = 2.0
#: Of the bootstrap. Every estimate has a generator of its own, so none depends on what else is in a report.
SEED: Final = 0
#: At which shares of the common budget scores are tabulated.
SHARES: Final = (0.25, 0.5, 1.0)
#: Where performance profiles are evaluated, in points.
PROFILE_POINTS: Final = np.linspace(0, 120, 481)
PAGE, TABLES, RUNS = "report.md", "tables.csv", "runs.csv"
CURVES_PICTURE, STEPS_PICTURE, PROFILE_PICTURE = "learning_curves.png", "steps_to_90.png", "performance_profile.png"
UNKNOWN: Final = "not known"


# Reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What the JSON beside a run's CSV says; None where it does not. The names are its keys."""

    random_score: float | None = None  #: mean return of uniformly random actions in the same episodes
    budget: float | None = None  #: environment steps that the run is to take
    replay_bytes: float | None = None  #: of the replay buffer, full
    updates: float | None = None  #: gradient updates of the whole run
    pretraining_frames: float | None = None  #: that the encoder was pretrained on
    pretraining_cpu_s: float | None = None  #: core seconds of recording and pretraining
    views: float | None = None  #: images in an observation
    versions: Mapping[str, Any] = field(default_factory=dict)  #: package: its version


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


def read_results(folder: str | Path) -> tuple[list[Run], list[str]]:
    """Every run below ``folder``, by task, arm and seed, and notes on what was left out.

    Raises:
        UserError: no such folder, nothing in it, a file that is no run's, or two files of one run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder} with results")
    paths = sorted(path for path in folder.rglob("*.csv") if not path.name.startswith("."))
    if not paths:
        raise UserError(f"{folder} holds no CSV of a run; its columns are {', '.join(COLUMNS)}")
    runs: dict[tuple[str, str, int], Run] = {}
    notes = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        run, cut = _read_run(path, name)
        if cut:
            notes.append(f"{_code(name)} ends in the middle of a line, which is left out.")
        if run is None:
            notes.append(f"{_code(name)} has no evaluation yet.")
            continue
        key = (run.task, run.arm, run.seed)
        if key in runs:
            raise UserError(
                f"{path}: task {run.task!r}, arm {run.arm!r}, seed {run.seed} is in {folder / runs[key].path} already"
            )
        runs[key] = run
    if not runs:
        raise UserError(f"no run below {folder} has an evaluation yet")
    return [runs[key] for key in sorted(runs, key=lambda key: (key[0], _rank(key[1]), key[2]))], notes


def _read_run(path: Path, name: str) -> tuple[Run | None, bool]:
    """The run of a CSV, None if it has no evaluation yet; and whether its last line was only half written."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text file; a run's columns are {', '.join(COLUMNS)}") from None
    cut = bool(text) and not text.endswith("\n")
    if cut:
        text = text[: text.rfind("\n") + 1]  # a run that was killed, or is at it
    reader = csv.reader(io.StringIO(text))
    header = next(reader, [])
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise UserError(
            f"{path}, line 1: no column {', '.join(map(repr, missing))}; a run's columns are {', '.join(COLUMNS)}"
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
        "step": (int, lambda value: value >= 0, "a whole number from 0"),
        "score": (float, math.isfinite, "a finite number"),
        "success": (float, lambda value: math.isnan(value) or 0 <= value <= 1, "from 0 to 1, or nan"),
        "wall_s": (float, lambda value: 0 <= value < math.inf, "a number from 0"),
        "length": (float, lambda value: math.isnan(value) or 0 <= value < math.inf, "a number from 0, or nan"),
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
        if key == "versions":
            if not isinstance(value, dict):
                raise UserError(f"{path}: 'versions' is {value!r}, must be an object of packages and versions")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{path}: {key!r} is {value!r}, must be a finite number")
        elif value < 0 and key != "random_score":
            raise UserError(f"{path}: {key!r} is {value!r}, must be a number from 0")
    return Facts(**known)


# What the runs say --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """What a task's scores are measured on."""

    unit: str  #: NORMALISED, SUCCESS or SCORE
    random: float | None  #: score of random actions, 0 of the normalised scale
    oracle: float | None  #: score of the converged oracle, 100 of the normalised scale
    drift: float  #: points by which the oracle's last three evaluations exceed the three before; nan if not known
    why: str  #: why it is not the normalised score; empty where it is

    @property
    def threshold(self) -> float | None:
        """Where a task counts as reached; None where nothing says so."""
        return None if self.unit == SCORE else THRESHOLD

    def points(self, run: Run) -> NDArray[np.float64]:
        """The evaluations (n,) of a run on this scale."""
        if self.unit == SUCCESS:
            return 100 * run.success
        if self.unit == SCORE or self.random is None or self.oracle is None:
            return run.scores
        return 100 * (run.scores - self.random) / (self.oracle - self.random)


@dataclass(frozen=True)
class Curve:
    """A group's interquartile mean and pointwise interval at each of its evaluations."""

    steps: NDArray[np.int64]
    band: Band


@dataclass(frozen=True)
class Arm:
    """What an arm did on a task. Lists and arrays over runs are in the order of ``runs``."""

    name: str
    runs: list[Run]
    points: list[NDArray[np.float64]]
    reached: Bounds | None  #: environment steps to the threshold; None on a scale that has none
    steps: Estimate | None  #: of ``reached``
    wall: Estimate | None  #: wall-clock seconds to the threshold
    curve: Curve
    success: Curve | None
    at: dict[int, tuple[Estimate | None, Estimate | None, int]]  #: step: score, success and how many runs got there
    areas: NDArray[np.float64]  #: under the curve, each run's; nan where it did not get to the common budget
    area: Estimate | None
    final: NDArray[np.float64]  #: points at the common budget of the runs that got there
    profile: Band | None

    @property
    def unfinished(self) -> list[Run]:
        """Runs that are known not to be at the end of their budget."""
        return [run for run in self.runs if run.finished is False]

    def fact(self, name: str) -> float | None:
        """The median of what is known of the runs; None where nothing is."""
        known = [value for run in self.runs if (value := getattr(run.facts, name)) is not None]
        return float(np.median(known)) if known else None


@dataclass(frozen=True)
class Comparison:
    """How many times the steps of ours another arm needs to the threshold."""

    ratio: Estimate
    claim: str


@dataclass(frozen=True)
class BreakEven:
    """After how many tasks the frames of pretraining are paid for."""

    frames: float | None  #: that the encoder was pretrained on
    cpu_s: float | None
    saved: tuple[float, float]  #: environment steps a task, from and to; (nan, nan) where not known
    views: float | None  #: images in an observation

    def tasks(self, views: float | None) -> tuple[float, float]:
        """From and to how many tasks, at ``views`` frames a step; inf: never, nan: not known."""
        least, most = self.saved
        if self.frames is None or views is None or math.isnan(least):
            return math.nan, math.nan
        return (
            self.frames / (views * most) if most > 0 else math.inf,
            self.frames / (views * least) if least > 0 else math.inf,
        )


@dataclass(frozen=True)
class Task:
    """All that a task's runs say."""

    name: str
    scale: Scale
    span: tuple[int, int]  #: steps from and to which every arm was evaluated
    arms: dict[str, Arm]
    comparisons: dict[str, Comparison]
    break_even: BreakEven | None  #: None without both arms


@dataclass(frozen=True)
class Report:
    """All tasks, what they say together, and what a reader must know."""

    tasks: list[Task]
    pooled: dict[str, Estimate]  #: area under the curve over all normalised tasks, of the arms that are in each
    profiles: dict[str, Band]  #: the same runs' performance profiles
    notes: list[str]

    @property
    def pictures(self) -> list[str]:
        """The figures that there is something to draw for."""
        shown = [CURVES_PICTURE]
        if any(task.scale.threshold is not None for task in self.tasks):
            shown.append(STEPS_PICTURE)
        if any(arm.profile is not None for task in self.tasks for arm in task.arms.values()):
            shown.append(PROFILE_PICTURE)
        return shown


def analyse(runs: Sequence[Run], notes: Sequence[str] = ()) -> Report:
    """Every figure of the report on ``runs``, whatever their order; ``notes`` come before its own."""
    by_task: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(runs, key=lambda run: (run.task, _rank(run.arm), run.seed)):
        by_task[run.task][run.arm].append(run)
    tasks = [_task(name, arms) for name, arms in by_task.items()]
    pooled, profiles = _together([task for task in tasks if task.scale.unit == NORMALISED])
    return Report(tasks, pooled, profiles, [*notes, *_notes(tasks)])


def _task(name: str, groups: Mapping[str, list[Run]]) -> Task:
    scale = _scale(groups)
    span = _span(groups)
    arms = {arm: _arm(arm, runs, scale, span) for arm, runs in groups.items()}
    ours = arms.get(OURS)
    comparisons = {}
    if ours is not None and ours.reached is not None:
        for other in arms.values():
            if other is not ours and other.reached is not None:
                ratio = estimate_ratio(other.reached, ours.reached, _rng())
                comparisons[other.name] = Comparison(ratio, _claim(ratio, ours, other))
    return Task(name, scale, span, arms, comparisons, _break_even(arms))


def _scale(groups: Mapping[str, list[Run]]) -> Scale:
    """Random 0 and the converged oracle 100, where both are known and differ; success where not."""
    everyone = [run for runs in groups.values() for run in runs]
    randoms = [run.facts.random_score for run in everyone if run.facts.random_score is not None]
    random = float(np.mean(np.sort(randoms))) if randoms else None
    oracle, drift = None, math.nan
    if ORACLE in groups:
        oracle = _mean_of_ends(groups[ORACLE], 0)
    reasons = []
    if oracle is None:
        reasons.append(f"there is no run of the oracle, arm {_code(ORACLE)}")
    if random is None:
        reasons.append("no run says what random actions score")
    if oracle is not None and random is not None:
        if oracle <= random:
            reasons.append(f"the oracle ({oracle:.4g}) is no better than random actions ({random:.4g})")
        elif min(len(run.steps) for run in groups[ORACLE]) >= 2 * CONVERGED:
            drift = 100 * (oracle - _mean_of_ends(groups[ORACLE], CONVERGED)) / (oracle - random)
    if not reasons:
        return Scale(NORMALISED, random, oracle, drift, "")
    has_success = not any(np.isnan(run.success).any() for run in everyone)
    return Scale(SUCCESS if has_success else SCORE, random, oracle, drift, " and ".join(reasons))


def _mean_of_ends(runs: Sequence[Run], skip: int) -> float:
    """Mean over ``runs`` of each one's mean over its last :data:`CONVERGED` scores but for the last ``skip``."""
    ends = [run.scores[: len(run.scores) - skip][-CONVERGED:].mean() for run in runs]
    return float(np.mean(ends))


def _span(groups: Mapping[str, list[Run]]) -> tuple[int, int]:
    """The first and the last step at which every arm has been evaluated, by its runs that are not known unfinished."""
    whole = [[run for run in runs if run.finished is not False] for runs in groups.values()]
    counted = [runs for runs in whole if runs] or list(groups.values())
    last = min(max(int(run.steps[-1]) for run in runs) for runs in counted)
    first = max(int(run.steps[0]) for runs in counted for run in runs)
    return min(first, last), last


def _arm(name: str, runs: list[Run], scale: Scale, span: tuple[int, int]) -> Arm:
    points = [scale.points(run) for run in runs]
    reached = steps = wall = None
    if scale.threshold is not None:
        ends = [steps_to(run.steps, each, scale.threshold) for run, each in zip(runs, points, strict=True)]
        reached = _bounds([run.steps for run in runs], ends)
        steps = estimate_mean(reached, _rng())
        wall = estimate_mean(_bounds([run.wall_s for run in runs], ends), _rng())
    has_success = not any(np.isnan(run.success).any() for run in runs)
    successes = [100 * run.success for run in runs] if has_success else None
    at = {}
    for step in sorted({round(share * span[1]) for share in SHARES}):
        there = _values_at(runs, points, step)
        won = None if successes is None else _known_mean(_values_at(runs, successes, step))
        at[step] = (_known_mean(there), won, int(np.sum(~np.isnan(there))))
    areas = np.array([area_under_curve(run.steps, each, *span) for run, each in zip(runs, points, strict=True)])
    final = _values_at(runs, points, span[1])
    final = final[~np.isnan(final)]
    return Arm(
        name,
        runs,
        points,
        reached,
        steps,
        wall,
        _curve(runs, points),
        None if successes is None else _curve(runs, successes),
        at,
        areas,
        _known_mean(areas),
        final,
        profile_band([final], PROFILE_POINTS, _rng()) if scale.threshold is not None and len(final) else None,
    )


def _bounds(measured: Sequence[NDArray[Any]], ends: Sequence[tuple[int, bool]]) -> Bounds:
    """What was measured where each run reached the threshold, or at least that where it is censored."""
    low = np.array([values[index] for values, (index, _) in zip(measured, ends, strict=True)], float)
    return Bounds(low, np.where([reached for _, reached in ends], low, np.inf))


def _values_at(runs: Sequence[Run], values: Sequence[NDArray[np.float64]], step: int) -> NDArray[np.float64]:
    return np.array([value_at(run.steps, each, step) for run, each in zip(runs, values, strict=True)])


def _known_mean(values: NDArray[np.float64]) -> Estimate | None:
    known = values[~np.isnan(values)]
    return estimate_mean(Bounds.exactly(known), _rng()) if len(known) else None


def _curve(runs: Sequence[Run], values: Sequence[NDArray[np.float64]]) -> Curve:
    """At every step at which a run was evaluated and at least half of them were under way."""
    steps = np.unique(np.concatenate([run.steps for run in runs]))
    table = np.stack([_values_at(runs, values, step) for step in steps], axis=1)
    enough = 2 * np.sum(~np.isnan(table), axis=0) >= len(runs)
    return Curve(steps[enough], mean_band(table[:, enough], _rng()))


def _break_even(arms: Mapping[str, Arm]) -> BreakEven | None:
    if OURS not in arms or RIVAL not in arms:
        return None
    ours, rival = arms[OURS], arms[RIVAL]
    saved = (math.nan, math.nan)
    if ours.steps is not None and rival.steps is not None and math.isfinite(ours.steps.high):
        saved = (rival.steps.low - ours.steps.high, rival.steps.high - ours.steps.low)
    return BreakEven(ours.fact("pretraining_frames"), ours.fact("pretraining_cpu_s"), saved, ours.fact("views"))


def _together(tasks: Sequence[Task]) -> tuple[dict[str, Estimate], dict[str, Band]]:
    """Area under the curve and final scores over ``tasks``, of the arms with a whole run in each; none of one task."""
    areas, profiles = {}, {}
    for name in tasks[0].arms if len(tasks) > 1 else ():
        arms = [task.arms[name] for task in tasks if name in task.arms]
        strata = [arm.areas[~np.isnan(arm.areas)] for arm in arms]
        if len(arms) == len(tasks) and all(map(len, strata)):
            areas[name] = estimate_pooled_mean([Bounds.exactly(each) for each in strata], _rng())
            profiles[name] = profile_band([arm.final for arm in arms], PROFILE_POINTS, _rng())
    return areas, profiles


def _claim(ratio: Estimate, ours: Arm, other: Arm) -> str:
    """What the lower end of the interval allows to say, rounded to the cautious side."""
    if not math.isfinite(ratio.low):
        return f"no claim: {_code(OURS)} was there before its first step"
    if ratio.low == 0 or ratio.lower == 0:
        return f"no claim: {_code(OURS)} is censored"
    if math.isnan(ratio.lower):
        return "no claim: an interval takes two seeds of both"
    if 1 <= ratio.lower < 1.01:
        said = f"{_code(OURS)} needs no more steps"
    elif ratio.lower > 1:
        said = f"{_code(OURS)} needs at least {_down(ratio.lower)} times fewer steps"
    else:
        said = f"{_code(OURS)} needs at most {_up(1 / ratio.lower)} times the steps"
    return said + ("" if min(len(ours.runs), len(other.runs)) >= ENOUGH else " (provisional)")


def _notes(tasks: Sequence[Task]) -> list[str]:
    """What a reader must know before believing a figure, a sentence each."""
    notes = []
    for task in tasks:
        name = _code(task.name)
        if task.scale.why:
            instead = {
                SUCCESS: f"scores are success in percent, and the threshold is {THRESHOLD:.0f} % success",
                SCORE: "scores are raw returns, and there is no threshold",
            }[task.scale.unit]
            notes.append(f"{name}: not normalised, for {task.scale.why}; {instead}.")
        if abs(task.scale.drift) > DRIFT:
            notes.append(
                f"{name}: the oracle may not have converged: its last {CONVERGED} evaluations are "
                f"{task.scale.drift:+.1f} points from the {CONVERGED} before."
            )
        randoms = [run.facts.random_score for arm in task.arms.values() for run in arm.runs]
        known = [score for score in randoms if score is not None]
        if known and not math.isclose(min(known), max(known), rel_tol=1e-6):
            notes.append(
                f"{name}: random actions score from {min(known):.4g} to {max(known):.4g}, so the runs were not "
                "evaluated in the same episodes; 0 of the scale is their mean."
            )
        few = [f"{_code(arm.name)} {len(arm.runs)}" for arm in task.arms.values() if len(arm.runs) < ENOUGH]
        if few:
            notes.append(f"{name}: fewer than {ENOUGH} seeds: {', '.join(few)}. What is said of them is provisional.")
        for arm in task.arms.values():
            notes += [
                f"{name}: {_code(arm.name)} seed {run.seed} is unfinished, at {int(run.steps[-1]):,} of "
                f"{run.facts.budget:,.0f} steps."
                for run in arm.unfinished
            ]
        unknown = [_code(arm.name) for arm in task.arms.values() if any(run.finished is None for run in arm.runs)]
        if unknown:
            notes.append(f"{name}: whether all runs are finished is not known of {', '.join(unknown)}.")
        absent = [_code(arm) for arm in ARMS if arm not in task.arms]
        if absent:
            notes.append(f"{name}: no runs of {', '.join(absent)}.")
    return notes


def _rank(arm: str) -> tuple[int, str]:
    return (ARMS.index(arm) if arm in ARMS else len(ARMS), arm)


def _rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


# The page -----------------------------------------------------------------------------------------------------


def to_markdown(report: Report) -> str:
    """The page: claims first, then what they rest on."""
    parts = [
        "# Data efficiency",
        "Made by `gqn-rl report` from the runs' CSV files alone; edits are lost. How to read it is at the end.",
        "## Claims",
        *_claims(report),
    ]
    if report.notes:
        parts += ["## Before you believe it", _bullets(report.notes)]
    parts += ["## Environment steps to 90", *_pictures(report, STEPS_PICTURE), *map(_steps_table, report.tasks)]
    parts += ["## Learning curves", *_pictures(report, CURVES_PICTURE), *map(_scores_table, report.tasks)]
    if report.pooled:
        rows = [[_code(arm), _interval(each, "{:.1f}")] for arm, each in report.pooled.items()]
        parts += [
            f"Over all {sum(task.scale.unit == NORMALISED for task in report.tasks)} normalised tasks:",
            _table(("arm", "area under the curve"), rows),
        ]
    if PROFILE_PICTURE in report.pictures:
        parts += ["## Performance profile", *_pictures(report, PROFILE_PICTURE)]
    parts += ["## Time, updates and memory", *map(_cost_table, report.tasks)]
    parts += ["## When pretraining has paid for itself", *_break_even_table(report.tasks)]
    parts += ["## Scale and versions", _scale_table(report.tasks), _versions(report.tasks)]
    parts += ["## How to read it", _bullets(_METHOD)]
    return "\n\n".join(parts) + "\n"


#: How the figures are made. The text says what the code above does, no more.
_METHOD: Final = (
    f"*Scale.* Random actions score 0, the converged oracle (arm `{ORACLE}`: the mean over its seeds of its last "
    f"{CONVERGED} evaluations) 100.",
    f"*Steps to 90.* The first evaluation of {HELD} in a row at {THRESHOLD:.0f} or above; known to within one interval "
    "of evaluations. A run that never gets there is right-censored, at its last evaluation, or, where that and perhaps "
    "the one before it are at 90 or above, at the first of these. `>=` marks what censored runs only bound from below.",
    "*Mean* is the interquartile mean over seeds (a quarter of the seeds, rounded down, left out at either end).",
    f"*Intervals* are 95 % percentile intervals of a stratified bootstrap over seeds ({RESAMPLES:,} resamples, seed "
    f"{SEED}). Censored runs are at their least for the lower end and unbounded for the upper one, and the other way "
    f"round for `{OURS}` in the denominator of a ratio. Intervals do not hold what the oracle's own score is uncertain "
    "by, and those of few seeds are known to be too narrow.",
    f"*Ratio.* Mean steps to 90 of an arm, divided by those of `{OURS}`. A claim is the lower end of its interval, "
    "rounded to the cautious side; ends of intervals of ratios are rounded outwards.",
    "*Score at a step* is that of the last evaluation at or before it; *area under the curve* is the mean height of "
    "the curve over the steps that every arm was evaluated at. Runs that did not get there are left out, with a count.",
    f"*Pretraining has paid for itself* after as many tasks as its frames hold the steps that `{OURS}` saves beside "
    f"`{RIVAL}`, each to 90. In frames, where a step renders several views.",
)


def _claims(report: Report) -> list[str]:
    lines = []
    for task in report.tasks:
        for name, comparison in task.comparisons.items():
            lines.append(f"{_code(task.name)}, beside {_code(name)}: {comparison.claim}.")
        if not task.comparisons:
            lines.append(f"{_code(task.name)}: nothing to compare; ratios take {_code(OURS)}, another arm and a scale.")
    return [_bullets(lines)]


def _steps_table(task: Task) -> str:
    rows = []
    for arm in task.arms.values():
        if arm.reached is None or arm.steps is None:
            rows.append([_code(arm.name), _seeds(arm), "", _every(arm), "no threshold", "", "", ""])
            continue
        compared = task.comparisons.get(arm.name)
        ratio, interval = ("1" if arm.name == OURS else "", "") if compared is None else show_ratio(compared.ratio)
        rows.append(
            [
                _code(arm.name),
                _seeds(arm),
                f"{int(np.sum(~arm.reached.censored))} of {len(arm.runs)}",
                _every(arm),
                _between(arm.steps.low, arm.steps.high, "{:,.0f}"),
                _ends(arm.steps, "{:,.0f}".format, "{:,.0f}".format),
                ratio,
                interval,
            ]
        )
    header = ("arm", "seeds", "reached", "evaluated every", "steps to 90", "95 %", f"ratio to {OURS}", "95 %")
    return f"**{_code(task.name)}** ({task.scale.unit})\n\n" + _table(header, rows)


def _scores_table(task: Task) -> str:
    """Score and success at fixed budgets, and the area under the curve."""
    steps = sorted({step for arm in task.arms.values() for step in arm.at})
    shown = "{:.3g}" if task.scale.unit == SCORE else "{:.1f}"
    rows = []
    for arm in task.arms.values():
        cells = []
        for step in steps:
            score, success, count = arm.at[step]
            cell = "" if score is None else _interval(score, shown)
            if success is not None and task.scale.unit != SUCCESS:
                cell += f"; {success.low:.0f} %"
            cells.append(cell + _count(count, arm))
        count = int(np.sum(~np.isnan(arm.areas)))
        area = "" if arm.area is None else _interval(arm.area, shown)
        rows.append([_code(arm.name), *cells, area + _count(count, arm)])
    title = f"**{_code(task.name)}**: {task.scale.unit}" + ("" if task.scale.unit == SUCCESS else "; success")
    header = ("arm", *(f"at {step:,} steps" for step in steps), f"area, {task.span[0]:,} to {task.span[1]:,}")
    return f"{title}\n\n" + _table(header, rows)


def _cost_table(task: Task) -> str:
    ours = task.arms[OURS].fact("replay_bytes") if OURS in task.arms else None
    rows = []
    for arm in task.arms.values():
        memory, updates = arm.fact("replay_bytes"), arm.fact("updates")
        pace = float(
            np.median([1_000 * run.wall_s[-1] / run.steps[-1] for run in arm.runs if run.steps[-1]] or [math.nan])
        )
        rows.append(
            [
                _code(arm.name),
                f"{float(np.median([run.steps[-1] for run in arm.runs])):,.0f}",
                f"{float(np.median([run.wall_s[-1] for run in arm.runs])) / 60:.1f}",
                f"{pace:.1f}",
                "" if arm.wall is None else _between(arm.wall.low / 60, arm.wall.high / 60, "{:.1f}"),
                UNKNOWN if updates is None else f"{updates:,.0f}",
                UNKNOWN if memory is None else f"{memory / 2**20:,.1f}",
                UNKNOWN if memory is None or not ours else f"{memory / ours:.3g}",
            ]
        )
    header = ("arm", "steps", "minutes", "s / 1,000 steps", "minutes to 90", "updates", "replay, MiB", f"x {OURS}")
    return f"**{_code(task.name)}** (medians over runs; minutes to 90: mean)\n\n" + _table(header, rows)


def _break_even_table(tasks: Sequence[Task]) -> list[str]:
    rows = []
    for task in tasks:
        each = task.break_even
        if each is None:
            continue
        saved = UNKNOWN if math.isnan(each.saved[0]) else _between(*each.saved, "{:,.0f}")
        rows.append(
            [
                _code(task.name),
                UNKNOWN if each.frames is None else f"{each.frames:,.0f}",
                UNKNOWN if each.cpu_s is None else f"{each.cpu_s / 3600:.2f}",
                saved,
                _paid(each.tasks(1)),
                UNKNOWN if each.views is None else f"{each.views:.0f}",
                _paid(each.tasks(each.views)),
            ]
        )
    if not rows:
        return [f"No task has runs of both {_code(OURS)} and {_code(RIVAL)}."]
    header = (
        "task",
        "frames of pretraining",
        "core hours",
        f"steps saved beside {RIVAL}",
        "tasks, a frame a step",
        "views a step",
        "tasks, in frames",
    )
    return [_table(header, rows)]


def _scale_table(tasks: Sequence[Task]) -> str:
    rows = []
    for task in tasks:
        scale, oracle = task.scale, task.arms.get(ORACLE)
        rows.append(
            [
                _code(task.name),
                scale.unit,
                UNKNOWN if scale.random is None else f"{scale.random:.4g}",
                UNKNOWN if scale.oracle is None else f"{scale.oracle:.4g}",
                "0" if oracle is None else _seeds(oracle),
                UNKNOWN if math.isnan(scale.drift) else f"{scale.drift:+.1f}",
            ]
        )
    header = ("task", "scale", "random", "oracle", "oracle's seeds", "oracle's last 3 above the 3 before")
    return _table(header, rows)


def _versions(tasks: Sequence[Task]) -> str:
    found: dict[str, set[str]] = defaultdict(set)
    silent = 0
    for task in tasks:
        for arm in task.arms.values():
            for run in arm.runs:
                silent += not run.facts.versions
                for package, version in run.facts.versions.items():
                    found[package].add(str(version))
    lines = [f"{package}: {', '.join(map(_code, sorted(versions)))}" for package, versions in sorted(found.items())]
    if silent:
        lines.append(f"{silent} runs do not say what they ran with" if silent > 1 else "1 run does not say so")
    return "Runs were made with\n\n" + _bullets(lines)


# Cells --------------------------------------------------------------------------------------------------------


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell or "-" for cell in line) + " |" for line in lines)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _pictures(report: Report, name: str) -> list[str]:
    return [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})"] if name in report.pictures else []


def _code(name: str) -> str:
    return f"`{name.replace('|', '/').replace('`', '')}`"


def _seeds(arm: Arm) -> str:
    unfinished = len(arm.unfinished)
    return f"{len(arm.runs)}" + (f" ({unfinished} unfinished)" if unfinished else "")


def _every(arm: Arm) -> str:
    """The median interval of evaluations."""
    gaps = np.concatenate([np.diff(run.steps) for run in arm.runs])
    return f"{np.median(gaps):,.0f}" if len(gaps) else ""


def _count(count: int, arm: Arm) -> str:
    return "" if count == len(arm.runs) else f" ({count} of {len(arm.runs)} runs)"


def _interval(estimate: Estimate, shown: str) -> str:
    """``82.1 [79.0, 84.3]``, without the interval where there is none."""
    if math.isnan(estimate.lower):
        return shown.format(estimate.low)
    return f"{shown.format(estimate.low)} [{shown.format(estimate.lower)}, {shown.format(estimate.upper)}]"


def _between(low: float, high: float, shown: str) -> str:
    """A number, ``>= `` it, or from one to another."""
    if low == high:
        return shown.format(low)
    return f">= {shown.format(low)}" if math.isinf(high) else f"{shown.format(low)} to {shown.format(high)}"


def show_ratio(ratio: Estimate) -> tuple[str, str]:
    """A ratio, ``>= `` it where it is a bound, and its interval, whose ends are rounded outwards."""
    known = math.isfinite(ratio.low) and ratio.low > 0
    return _between(ratio.low, ratio.high, "{:.2f}") if known else UNKNOWN, _ends(ratio, _down, _up)


def _ends(estimate: Estimate, down: Callable[[float], str], up: Callable[[float], str]) -> str:
    """``[3.1, 4.6]``; an open end where runs are censored, nothing where there is no interval."""
    if math.isnan(estimate.lower):
        return "one seed"
    return f"[{down(estimate.lower)}, {'open' if math.isinf(estimate.upper) else up(estimate.upper)}]"


def _paid(tasks: tuple[float, float]) -> str:
    least, most = tasks
    if math.isnan(least):
        return UNKNOWN
    if math.isinf(least):
        return "never"
    if math.isinf(most):
        return f">= {least:.1f}"
    return f"{most:.1f}" if least == most else f"<= {_up(most)}"


def _down(value: float) -> str:
    """Rounded down, to two digits after the point below 10, to one above."""
    digits = 2 if value < 10 else 1
    if math.isinf(value):
        return "inf"
    return f"{math.floor(value * 10**digits + 1e-9) / 10**digits:.{digits}f}"


def _up(value: float) -> str:
    """Rounded up, to two digits after the point below 10, to one above."""
    digits = 2 if value < 10 else 1
    return f"{math.ceil(value * 10**digits - 1e-9) / 10**digits:.{digits}f}"


# Files --------------------------------------------------------------------------------------------------------


def write_tables(folder: Path, report: Report) -> list[Path]:
    """Write the page and the two CSV files into ``folder``, each atomically; returns what was written."""
    write_text(folder / TABLES, _csv(("task", "arm", *_MEASURE), _measures(report)))
    write_text(folder / RUNS, _csv(_RUN, _run_rows(report)))
    write_text(folder / PAGE, to_markdown(report))
    return [folder / PAGE, folder / TABLES, folder / RUNS]


#: Columns of ``tables.csv`` after task and arm. ``value`` lies from ``value`` to ``value_at_most``, which is inf where
#: censoring leaves it open; ``lower`` and ``upper`` are the ends of the 95 % interval.
_MEASURE: Final = ("measure", "at", "value", "value_at_most", "lower", "upper", "runs")
_RUN: Final = (
    "task",
    "arm",
    "seed",
    "file",
    "last_step",
    "finished",
    "reached",
    "steps_to_90",
    "last_score",
    "last_points",
    "last_success",
    "wall_s",
    "area",
)


def _measures(report: Report) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = []

    def add(task: str, arm: str, measure: str, at: int | str, estimate: Estimate | None, runs: int) -> None:
        if estimate is not None:
            rows.append((task, arm, measure, at, *estimate, runs))

    for task in report.tasks:
        for arm in task.arms.values():
            add(task.name, arm.name, "steps_to_90", "", arm.steps, len(arm.runs))
            add(task.name, arm.name, "wall_s_to_90", "", arm.wall, len(arm.runs))
            if arm.name in task.comparisons:
                add(task.name, arm.name, f"ratio_to_{OURS}", "", task.comparisons[arm.name].ratio, len(arm.runs))
            for step, (score, success, count) in arm.at.items():
                add(task.name, arm.name, task.scale.unit.replace(" ", "_"), step, score, count)
                if task.scale.unit != SUCCESS:
                    add(task.name, arm.name, SUCCESS, step, success, count)
            add(task.name, arm.name, "area", task.span[1], arm.area, int(np.sum(~np.isnan(arm.areas))))
            for name in ("updates", "replay_bytes", "pretraining_frames", "pretraining_cpu_s", "views"):
                value = arm.fact(name)
                if value is not None:
                    rows.append((task.name, arm.name, name, "", value, value, math.nan, math.nan, len(arm.runs)))
        if task.break_even is not None:
            for name, views in (("tasks_to_break_even", 1.0), ("tasks_to_break_even_in_frames", task.break_even.views)):
                least, most = task.break_even.tasks(views)
                if not math.isnan(least):
                    rows.append((task.name, OURS, name, "", least, most, math.nan, math.nan, len(task.arms[OURS].runs)))
    for name, estimate in report.pooled.items():
        add(
            "all",
            name,
            "area",
            "",
            estimate,
            sum(len(task.arms[name].runs) for task in report.tasks if task.scale.unit == NORMALISED),
        )
    return rows


def _run_rows(report: Report) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = []
    for task in report.tasks:
        for arm in task.arms.values():
            for index, run in enumerate(arm.runs):
                reached = None if arm.reached is None else not arm.reached.censored[index]
                rows.append(
                    (
                        run.task,
                        run.arm,
                        run.seed,
                        run.path,
                        int(run.steps[-1]),
                        "" if run.finished is None else run.finished,
                        "" if reached is None else bool(reached),
                        "" if arm.reached is None else int(arm.reached.low[index]),
                        float(run.scores[-1]),
                        float(arm.points[index][-1]),
                        float(run.success[-1]),
                        float(run.wall_s[-1]),
                        float(arm.areas[index]),
                    )
                )
    return rows


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV text; numbers to ten digits, beyond which the order of a sum may decide."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{value:.10g}" if isinstance(value, float) else value for value in row] for row in rows)
    return text.getvalue()
