"""The figures of the data-efficiency report, drawn from the very estimates that its tables hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from gqn_rl.files import atomic_path
from gqn_rl.findings import (
    CURVES_PICTURE,
    NORMALISED,
    ORACLE,
    OURS,
    PROFILE_PICTURE,
    PROFILE_POINTS,
    STEPS_PICTURE,
    SUCCESS,
    THRESHOLD,
    Arm,
    Curve,
    Report,
    Task,
)
from gqn_rl.report import show_ratio
from gqn_rl.results import arm_rank
from gqn_rl.statistics import Band

#: Colours that the colour-blind tell apart: Okabe and Ito, "Color Universal Design" (2008); ours is the strongest.
COLORS: Final = {
    "state": "#4d4d4d",
    "gqn": "#0072b2",
    "gqn_finetuned": "#56b4e9",
    "pixels_aug": "#d55e00",
    "pixels": "#e69f00",
    "autoencoder": "#009e73",
    "untrained": "#cc79a7",
}
#: For arms that the protocol does not have, in turn.
OTHER_COLORS: Final = ("#8c564b", "#7f7f00", "#5e4fa2", "#66c2a5")
INK, FAINT = "#222222", "#9a9a9a"
DPI: Final = 150
#: Inches: width of a figure, height of a row of panels.
WIDTH, ROW = 10.0, 3.5


def draw_figures(folder: Path, report: Report) -> list[Path]:
    """Write every PNG that the page of ``report`` shows into ``folder``; returns what was written.

    A figure that an earlier report had and this one has not is removed.
    """
    draw = {CURVES_PICTURE: draw_curves, STEPS_PICTURE: draw_steps, PROFILE_PICTURE: draw_profiles}
    written = []
    for name in draw.keys() - set(report.pictures):
        (folder / name).unlink(missing_ok=True)
    for name in report.pictures:
        with atomic_path(folder / name) as temporary:
            draw[name](report).savefig(temporary, format="png", dpi=DPI)
        written.append(folder / name)
    return written


def draw_curves(report: Report) -> Figure:
    """Interquartile means with 95 % bands against environment steps: a row for each task, success on the right."""
    colors = _colors(report)
    with_success = any(arm.success for task in report.tasks for arm in task.arms.values())
    figure = Figure(figsize=(WIDTH if with_success else WIDTH / 2 + 1, ROW * len(report.tasks)), layout="constrained")
    rows = figure.subplots(len(report.tasks), 2 if with_success else 1, squeeze=False)
    for task, row in zip(report.tasks, rows, strict=True):
        _draw_task(row[0], task, colors, lambda arm: arm.curve)
        row[0].set_ylabel({NORMALISED: "normalised score", SUCCESS: "success, %"}.get(task.scale.unit, "return"))
        if task.scale.unit == NORMALISED:
            low = min(float(np.nanmin(arm.curve.band.middle)) for arm in task.arms.values())
            row[0].set_ylim(max(-40.0, min(-4.0, low - 4)), 112)
            row[0].axhline(100, color=FAINT, linewidth=0.8, zorder=0)
        if task.scale.threshold is not None:
            row[0].axhline(THRESHOLD, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        row[0].set_title(task.name, loc="left", fontsize=11, fontweight="bold", color=INK)
        if with_success and task.scale.unit == SUCCESS:
            row[1].set_axis_off()  # it is on the left already
        elif with_success:
            _draw_task(row[1], task, colors, lambda arm: arm.success)
            row[1].set_ylabel("success, %")
            row[1].set_ylim(-4, 104)
    _legend(figure, colors)
    return figure


def draw_steps(report: Report) -> Figure:
    """Steps to 90 of every run, their interquartile mean and interval, on a logarithmic axis; a panel for each task.

    A dot is a run that got there, a hollow arrowhead one that had not by then. The lines are mean and interval.
    """
    colors = _colors(report)
    tasks = [task for task in report.tasks if task.scale.threshold is not None]
    heights = [len(task.arms) + 1.6 for task in tasks]
    figure = Figure(figsize=(WIDTH, 0.42 * sum(heights) + 0.5), layout="constrained")
    panels = figure.subplots(len(tasks), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, task in zip(panels, tasks, strict=True):
        for place, arm in enumerate(task.arms.values()):
            _draw_arm(axis, place, arm, colors[arm.name])
            compared = task.comparisons.get(arm.name)
            if compared is not None:
                _beside(axis, place, "  ".join(show_ratio(compared.ratio)).replace(">=", "≥"))
        axis.set_yticks(range(len(task.arms)), list(task.arms))
        axis.set_ylim(len(task.arms) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        axis.set_title(task.name, loc="left", fontsize=11, fontweight="bold", color=INK)
        _beside(axis, -0.85, f"times {OURS}'s steps", weight="bold")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.xaxis.set_minor_formatter(NullFormatter())
        low, high = _extent(task)
        axis.set_xlim(low / 1.3, high * 1.3)
        _plain(axis, grid="x")
    panels[-1].set_xlabel(
        "environment steps to 90   (dot: a run; arrowhead: a run not there by then; lines: mean, 95 % interval)"
    )
    return figure


def draw_profiles(report: Report) -> Figure:
    """The share of runs at a score or above, at the budget that all arms have; the last panel pools the tasks."""
    colors = _colors(report)
    panels: list[tuple[str, str, Mapping[str, Band]]] = [
        (
            f"{task.name}\nat {task.span[1]:,} steps",
            "success, %" if task.scale.unit == SUCCESS else "normalised score",
            {arm.name: arm.profile for arm in task.arms.values() if arm.profile is not None},
        )
        for task in report.tasks
        if any(arm.profile is not None for arm in task.arms.values())
    ]
    if report.profiles:
        panels.append(("all normalised tasks\n ", "normalised score", report.profiles))
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(max(WIDTH * columns / 3, 6.0), ROW * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, label, profiles) in zip(axes, panels, strict=False):
        for name in _back_to_front(profiles):
            band = profiles[name]
            axis.plot(PROFILE_POINTS, 100 * band.middle, **_line(name, colors[name]))
            axis.fill_between(PROFILE_POINTS, 100 * band.lower, 100 * band.upper, color=colors[name], alpha=0.12, lw=0)
        axis.axvline(THRESHOLD, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axis.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
        axis.set_xlabel(f"{label}, at least")
        axis.set_xlim(0, 104 if "%" in label else PROFILE_POINTS[-1])
        axis.set_ylim(-3, 103)
        _plain(axis)
    for axis in axes[::columns]:
        axis.set_ylabel("share of runs, %")
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    drawn = {name for _, _, profiles in panels for name in profiles}
    _legend(figure, {name: color for name, color in colors.items() if name in drawn})
    return figure


def _draw_task(axis: Axes, task: Task, colors: Mapping[str, str], curve_of: Callable[[Arm], Curve | None]) -> None:
    for name in _back_to_front(task.arms):
        curve = curve_of(task.arms[name])
        if curve is None:
            continue
        alone = len(curve.steps) == 1  # a line needs two
        axis.plot(curve.steps, curve.band.middle, **_line(name, colors[name]), marker="o" if alone else "", ms=4)
        axis.fill_between(curve.steps, curve.band.lower, curve.band.upper, color=colors[name], alpha=0.16, lw=0)
    axis.set_xlim(left=0)
    axis.set_xlabel("environment steps")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.xaxis.set_tick_params(labelsize=9)
    _plain(axis)


def _draw_arm(axis: Axes, place: int, arm: Arm, color: str) -> None:
    assert arm.reached is not None
    assert arm.steps is not None
    order = np.argsort(arm.reached.low, kind="stable")
    offsets = np.linspace(-0.26, 0.26, len(order)) if len(order) > 1 else np.zeros(1)
    low, censored = arm.reached.low[order], arm.reached.censored[order]
    # Runs lie before the mean, which would hide those that it is the mean of.
    axis.plot(low[~censored], place + offsets[~censored], "o", mfc=color, mec="white", ms=5, mew=0.7, zorder=6)
    axis.plot(low[censored], place + offsets[censored], ">", mfc="white", mec=color, ms=5.5, mew=1.1, zorder=6)
    if not math.isnan(arm.steps.lower):
        end = arm.steps.upper if math.isfinite(arm.steps.upper) else 1e12  # beyond the panel: open
        axis.plot([arm.steps.lower, end], [place, place], color=color, linewidth=2.2, solid_capstyle="butt", alpha=0.75)
    axis.plot([arm.steps.low], [place], "|", color=color, ms=15, mew=2.8, zorder=5)


def _beside(axis: Axes, place: float, text: str, weight: str = "normal") -> None:
    """Text right of the panel, at the height ``place`` of its rows."""
    beside = axis.get_yaxis_transform()
    axis.text(1.015, place, text, transform=beside, va="center", fontsize=9.5, fontweight=weight, color=INK)


def _extent(task: Task) -> tuple[float, float]:
    """The least and the most steps to show."""
    ends: list[float] = []
    for arm in task.arms.values():
        if arm.reached is not None and arm.steps is not None:
            ends += [*arm.reached.low, *arm.steps]
    known: NDArray[np.float64] = np.array([value for value in ends if math.isfinite(value) and value > 0])
    return (float(known.min()), float(known.max())) if len(known) else (1.0, 10.0)


def _colors(report: Report) -> dict[str, str]:
    """A colour for each arm, in the order of the tables."""
    names = list(dict.fromkeys(name for task in report.tasks for name in task.arms))
    others = [name for name in names if name not in COLORS]
    spare = {name: OTHER_COLORS[index % len(OTHER_COLORS)] for index, name in enumerate(others)}
    return {name: COLORS.get(name) or spare[name] for name in sorted(names, key=arm_rank)}


def _back_to_front(names: Iterable[str]) -> list[str]:
    """Ours is drawn last."""
    return sorted(names, key=lambda name: (name == OURS, name))


def _line(name: str, color: str) -> dict[str, Any]:
    """How an arm's curve is drawn."""
    return {
        "color": color,
        "linewidth": 2.4 if name == OURS else 1.6,
        "linestyle": (0, (5, 2)) if name == ORACLE else "-",
        "label": name,
    }


def _plain(axis: Axes, grid: str = "both") -> None:
    axis.grid(axis=grid, color="#e6e6e6", linewidth=0.7)  # type: ignore[arg-type]
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(color=FAINT, labelcolor=INK)


def _legend(figure: Figure, colors: Mapping[str, str]) -> None:
    handles = [Line2D([], [], **_line(name, color)) for name, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=10)
