"""The data-efficiency report: from the CSV files of runs to tables and a page in Markdown, by nothing else.

Runs are read by :mod:`gqn_rl.results` and compared by :mod:`gqn_rl.comparison`. The folder of a report::

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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from gqn_rl.comparison import SEED, round_down, round_up
from gqn_rl.files import write_text
from gqn_rl.findings import (
    CONVERGED,
    CURVES_PICTURE,
    NORMALISED,
    ORACLE,
    OURS,
    PROFILE_PICTURE,
    RIVAL,
    SCORE,
    STEPS_PICTURE,
    SUCCESS,
    THRESHOLD,
    Arm,
    Report,
    Task,
)
from gqn_rl.results import code_span
from gqn_rl.statistics import HELD, RESAMPLES, Estimate

PAGE, TABLES, RUNS = "report.md", "tables.csv", "runs.csv"
UNKNOWN: Final = "not known"


def to_markdown(report: Report) -> str:
    """The page: claims first, then what they rest on."""
    parts = [
        "# Data efficiency",
        "Made by `gqn-rl report` from the CSV and JSON files of runs; edits are lost. How to read it is at the end.",
        "## Claims",
        *_claims(report),
    ]
    if report.notes:
        parts += ["## Before you believe it", _bullets(report.notes)]
    parts += ["## Environment steps to 90", *_pictures(report, STEPS_PICTURE), *map(_steps_table, report.tasks)]
    if any(task.comparisons for task in report.tasks):
        parts += ["### At other heights", *_elsewhere_tables(report.tasks)]
    parts += ["## Learning curves", *_pictures(report, CURVES_PICTURE), *map(_scores_table, report.tasks)]
    if report.pooled:
        rows = [[code_span(arm), _interval(each, "{:.1f}")] for arm, each in report.pooled.items()]
        parts += [
            f"Over all {sum(task.scale.unit == NORMALISED for task in report.tasks)} normalised tasks, which weigh the "
            "same:",
            _table(("arm", "area under the curve"), rows),
        ]
    if PROFILE_PICTURE in report.pictures:
        parts += ["## Performance profile", *_pictures(report, PROFILE_PICTURE)]
    parts += ["## Time, updates and memory", *map(_cost_table, report.tasks)]
    parts += ["## When pretraining has paid for itself", *_break_even_table(report.tasks)]
    parts += ["## Scale and versions", _scale_table(report.tasks), _versions(report.tasks)]
    parts += ["## How to read it", _bullets(_METHOD)]
    return "\n\n".join(parts) + "\n"


#: How the figures are made. The text says what the code of gqn_rl.comparison does, no more.
_METHOD: Final = (
    f"*Scale.* Random actions score 0, the converged oracle (arm `{ORACLE}`: the mean over its seeds of its last "
    f"{CONVERGED} evaluations) 100.",
    f"*Steps to 90.* The first evaluation of {HELD} in a row at {THRESHOLD:.0f} or above. A run that never gets there "
    "is right-censored, at its last evaluation, or, where that and perhaps the one before it are at 90 or above, at "
    "the first of these. `>=` marks what censored runs only bound from below.",
    "*Mean* is the interquartile mean over seeds (a quarter of the seeds, rounded down, left out at either end).",
    f"*Intervals* are 95 % percentile intervals of a stratified bootstrap over seeds ({RESAMPLES:,} resamples, seed "
    f"{SEED}). Censored runs are at their least for the lower end and unbounded for the upper one, and the other way "
    f"round for `{OURS}` in the denominator of a ratio. The oracle's seeds, which say where 100 lies, are resampled as "
    "well for steps, times and ratios, not for scores and curves. Intervals of few seeds are too narrow: of normally "
    "distributed values, one of five holds the mean in about 89 of 100 cases, one of three in 75, one of two in 50.",
    f"*Ratio.* Mean steps to 90 of an arm, divided by those of `{OURS}`. A claim is the lower end of its interval, "
    "rounded to the cautious side; ends of intervals of ratios are rounded outwards. They have in them that a run got "
    "there at some step after the evaluation before. The same ratios at other heights show how much 90 decides.",
    "*Unfinished runs* are left out where their arm has finished ones.",
    "*Score at a step* is that of the last evaluation at or before it; *area under the curve* is the mean height of "
    f"the curve over the steps that `{OURS}` and `{ORACLE}` were evaluated at. Runs that did not get there are left "
    "out, with a count. Over several tasks, both and the performance profile are means of each task's.",
    f"*Pretraining has paid for itself* after as many tasks as its frames hold the steps that `{OURS}` saves beside "
    f"`{RIVAL}`, each to 90, by the means, which have no interval here. In frames, where a step renders several views. "
    "Its core hours are minutes by the clock times threads; recording is not in them.",
)


def _claims(report: Report) -> list[str]:
    lines = []
    for task in report.tasks:
        for name, comparison in task.comparisons.items():
            lines.append(f"{code_span(task.name)}, beside {code_span(name)}: {comparison.claim}.")
        if not task.comparisons:
            lines.append(
                f"{code_span(task.name)}: nothing to compare; ratios take {code_span(OURS)}, another arm and a scale."
            )
    return [_bullets(lines)]


def _steps_table(task: Task) -> str:
    rows = []
    for arm in task.arms.values():
        if arm.reached is None or arm.steps is None:
            rows.append([code_span(arm.name), _seeds(arm), "", _every(arm), "no threshold", "", "", ""])
            continue
        compared = task.comparisons.get(arm.name)
        ratio, interval = ("1" if arm.name == OURS else "", "") if compared is None else show_ratio(compared.ratio)
        rows.append(
            [
                code_span(arm.name),
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
    return f"**{code_span(task.name)}** ({task.scale.unit})\n\n" + _table(header, rows)


def _elsewhere_tables(tasks: Sequence[Task]) -> list[str]:
    """How many times the steps of ours each arm needs to other heights than the threshold."""
    tables = []
    for task in tasks:
        heights = list(dict.fromkeys(height for each in task.comparisons.values() for height in each.elsewhere))
        rows = []
        for name, comparison in task.comparisons.items():
            found = [comparison.elsewhere.get(height) for height in heights]
            rows.append([code_span(name), *("" if each is None else _ratio(each) for each in found)])
        if rows:
            header = ("arm", *(f"{unit} {at:.0f}{' %' if unit == SUCCESS else ''}" for unit, at in heights))
            tables.append(f"**{code_span(task.name)}**: ratio to {code_span(OURS)}\n\n" + _table(header, rows))
    return tables


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
        rows.append([code_span(arm.name), *cells, area + _count(count, arm)])
    title = f"**{code_span(task.name)}**: {task.scale.unit}" + ("" if task.scale.unit == SUCCESS else "; success")
    header = ("arm", *(f"at {step:,} steps" for step in steps), f"area, {task.span[0]:,} to {task.span[1]:,}")
    return f"{title}\n\n" + _table(header, rows)


def _cost_table(task: Task) -> str:
    ours = _bytes_a_step(task.arms[OURS]) if OURS in task.arms else None
    rows = []
    for arm in task.arms.values():
        memory, a_step, updates = arm.fact("replay_bytes"), _bytes_a_step(arm), arm.fact("updates")
        pace = float(
            np.median([1_000 * run.wall_s[-1] / run.steps[-1] for run in arm.runs if run.steps[-1]] or [math.nan])
        )
        rows.append(
            [
                code_span(arm.name),
                f"{float(np.median([run.steps[-1] for run in arm.runs])):,.0f}",
                f"{float(np.median([run.wall_s[-1] for run in arm.runs])) / 60:.1f}",
                f"{pace:.1f}",
                "" if arm.wall is None else _between(arm.wall.low / 60, arm.wall.high / 60, "{:.1f}"),
                UNKNOWN if updates is None else f"{updates:,.0f}",
                UNKNOWN if memory is None else f"{memory / 2**20:,.1f}",
                UNKNOWN if a_step is None else f"{a_step / 2**10:,.2f}",
                UNKNOWN if a_step is None or not ours else f"{a_step / ours:.3g}",
            ]
        )
    header = (
        "arm",
        "steps",
        "minutes",
        "s / 1,000 steps",
        "minutes to 90",
        "updates",
        "replay, MiB",
        "KiB a step",
        f"x {OURS}",
    )
    return f"**{code_span(task.name)}** (medians over runs; minutes to 90: mean)\n\n" + _table(header, rows)


def _bytes_a_step(arm: Arm) -> float | None:
    """The replay buffer's, over the budget, which differs between arms; less than a transition's if it holds fewer."""
    memory, budget = arm.fact("replay_bytes"), arm.fact("budget")
    return memory / budget if memory is not None and budget else None


def _break_even_table(tasks: Sequence[Task]) -> list[str]:
    rows = []
    for task in tasks:
        each = task.break_even
        if each is None:
            continue
        saved = UNKNOWN if math.isnan(each.saved[0]) else _between(*each.saved, "{:,.0f}")
        rows.append(
            [
                code_span(task.name),
                UNKNOWN if each.frames is None else f"{each.frames:,.0f}",
                UNKNOWN if each.cpu_s is None else f"{each.cpu_s / 3600:.2f}",
                saved,
                _paid(each.tasks(1)),
                UNKNOWN if each.views is None else f"{each.views:.0f}",
                _paid(each.tasks(each.views)),
            ]
        )
    if not rows:
        return [f"No task has runs of both {code_span(OURS)} and {code_span(RIVAL)}."]
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
                code_span(task.name),
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
                    if version is not None:
                        found[package].add(_short(str(version)) if package == "git_commit" else str(version))
    lines = [f"{package}: {', '.join(map(code_span, sorted(versions)))}" for package, versions in sorted(found.items())]
    if silent:
        lines.append(f"{silent} runs do not say what they ran with" if silent > 1 else "1 run does not say so")
    return "Runs were made with\n\n" + _bullets(lines)


def _short(commit: str) -> str:
    """A commit's first ten digits, and the ``+`` of one with changes beside it."""
    return commit[:10] + ("+" if commit.endswith("+") else "")


# Cells --------------------------------------------------------------------------------------------------------


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell or "-" for cell in line) + " |" for line in lines)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _pictures(report: Report, name: str) -> list[str]:
    return [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})"] if name in report.pictures else []


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
    return _between(ratio.low, ratio.high, "{:.2f}") if known else UNKNOWN, _ends(ratio, round_down, round_up)


def _ratio(ratio: Estimate) -> str:
    """A ratio and its interval in one cell, ``4.67 [4.2, 6.0]`` or ``4.67 (one seed)``."""
    value, interval = show_ratio(ratio)
    return f"{value} {interval}" if interval.startswith("[") else f"{value} ({interval})"


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
    return f"{most:.1f}" if least == most else f"<= {round_up(most)}"


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
                compared = task.comparisons[arm.name]
                add(task.name, arm.name, f"ratio_to_{OURS}", "", compared.ratio, len(arm.runs))
                for (unit, height), ratio in compared.elsewhere.items():
                    measure = f"ratio_to_{OURS}_in_{unit.replace(' ', '_')}"
                    add(task.name, arm.name, measure, int(height), ratio, len(arm.runs))
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
