"""What ``imagine`` leaves: a table and pictures of how a GQN's idea of an unseen side changes as views arrive.

The folder::

    imagination.csv         a row for each number of context views (:class:`gqn_rl.imagination.Row`)
    imagination.png         the same as curves with 95 % intervals
    imagination_views.png   held-out scenes: context | truth | prior mean of one view, of all | two samples
    imagination_algebra.png sums of scenes: a | minus b | plus c | what the sum looks like | what it should look like
    imagination_map.csv     where scenes have a map: a row for each number of views of a walk
                            (:class:`gqn_rl.map_imagination.MapRow`)
    imagination_map.png     the same as curves with 95 % intervals
    imagination_map_views.png  held-out scenes after 1, 2, 4, 8 ... views: views so far | predicted map | true map
    imagination.json        how it came about; written last, it marks the work as finished
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gqn_rl.algebra import Algebra, AlgebraPlan
from gqn_rl.config import UserError
from gqn_rl.files import atomic_path, strangers, write_json
from gqn_rl.imagination import NORMAL_95, Row
from gqn_rl.map_imagination import MapRow
from gqn_rl.pictures import grid, save_png, to_uint8

TABLE: Final = "imagination.csv"
CURVES: Final = "imagination.png"
VIEWS: Final = "imagination_views.png"
ALGEBRA: Final = "imagination_algebra.png"
MAP_TABLE: Final = "imagination_map.csv"
MAP_CURVES: Final = "imagination_map.png"
MAP_VIEWS: Final = "imagination_map_views.png"
#: Written last.
SUMMARY: Final = "imagination.json"
#: Scenes that are drawn, and of those with a map.
SCENES: Final = 6
MAP_SCENES: Final = 3
#: Sums that are drawn, and views of each scene that is added.
ALGEBRA_ROWS: Final = 6
ALGEBRA_VIEWS: Final = 2


def claim(folder: Path) -> None:
    """Raise :class:`UserError` unless ``folder`` is free, or holds unfinished work of this kind."""
    if (folder / SUMMARY).exists():
        raise UserError(f"{folder} holds a finished {SUMMARY}, which is never overwritten; choose another --out")
    if others := strangers(folder, (TABLE, CURVES, VIEWS, ALGEBRA, MAP_TABLE, MAP_CURVES, MAP_VIEWS)):
        raise UserError(f"{folder} is not empty (it has {others[0]}); choose another --out")


def print_table(rows: Sequence[Row]) -> None:
    """Print a line for each number of context views."""
    print(
        f"{'views':>5}{'MSE of the mean':>20}{'spread':>17}{'surprise, nats':>19}{'contradicted':>19}{'told apart':>12}"
    )
    for row in rows:
        print(
            f"{row.views:>5}"
            f"{f'{row.relative_error:.1%} +- {row.relative_error_95:.1%}':>20}"
            f"{f'{row.spread:.4f} +- {row.spread_95:.4f}':>17}"
            f"{f'{row.surprise:.0f} +- {row.surprise_95:.0f}':>19}"
            f"{f'{row.contradicted:.0f} +- {row.contradicted_95:.0f}':>19}"
            f"{row.told_apart:>12.1%}"
        )


def print_algebra(factors: tuple[str, str], algebra: Algebra) -> None:
    """Print how often the nearest scene to a sum was the right one."""
    print(
        f"scenes added up ({factors[0]}, {factors[1]}): the nearest of {round(1 / algebra.chance)} is right in "
        f"{algebra.combined.mean():.1%} (the scene itself from other cameras: {algebra.recognised.mean():.1%}; "
        f"chance: {algebra.chance:.1%})"
    )


def print_maps(rows: Sequence[MapRow]) -> None:
    """Print a line for each number of views of a walk."""
    print(f"{'walk':>5}{'MSE of the map':>20}{'told apart':>17}")
    for row in rows:
        print(
            f"{row.views:>5}"
            f"{f'{row.relative_error:.1%} +- {row.relative_error_95:.1%}':>20}"
            f"{f'{row.told_apart:.1%} +- {row.told_apart_95:.1%}':>17}"
        )


def summarise_algebra(plan: AlgebraPlan, algebra: Algebra) -> dict[str, Any]:
    """The same as plain data, with 95 % intervals."""
    half = NORMAL_95 / np.sqrt(len(algebra.combined))
    return {
        "factors": list(plan.factors),
        "blocks": plan.blocks,
        "views": plan.views,
        "chance": algebra.chance,
        "combined": round(float(algebra.combined.mean()), 6),
        "combined_95": round(float(half * algebra.combined.std()), 6),
        "recognised": round(float(algebra.recognised.mean()), 6),
        "recognised_95": round(float(half * algebra.recognised.std()), 6),
    }


def write_report(
    folder: Path,
    rows: Sequence[Row],
    gallery: list[list[NDArray[np.float32]]],
    sums: list[list[NDArray[np.float32]]],
    facts: Mapping[str, Any],
) -> list[Path]:
    """Write everything into ``folder``, each file atomically, the summary last; returns what was written."""
    _write_table(folder / TABLE, Row._fields, rows)
    draw_curves(folder / CURVES, rows, str(facts.get("env", "")))
    written = [TABLE, CURVES]
    views = len(gallery[0]) - 5 if gallery else 0
    seen = (*(f"view {i + 1}" for i in range(views)), "truth", "mean of 1", f"mean of {views}", "sample", "sample")
    for name, pictures, labels in ((VIEWS, gallery, seen), (ALGEBRA, sums, ("a", "- b", "+ c", "a - b + c", "truth"))):
        if pictures:
            save_png(folder / name, grid([[to_uint8(picture) for picture in row] for row in pictures], labels=labels))
            written.append(name)
    write_json(folder / SUMMARY, {**facts, "rows": [row._asdict() for row in rows]})
    return [folder / name for name in (*written, SUMMARY)]


def write_maps(
    folder: Path, rows: Sequence[MapRow], gallery: list[list[NDArray[np.float32]]], title: str
) -> list[Path]:
    """Write what was found out about maps into ``folder``, before the report; returns what was written."""
    _write_table(folder / MAP_TABLE, MapRow._fields, rows)
    draw_map_curves(folder / MAP_CURVES, rows, title)
    labels = (*(f"view {i + 1}" for i in range(len(gallery[0]) - 2)), "drawn map", "true map")
    save_png(folder / MAP_VIEWS, grid([[to_uint8(picture) for picture in row] for row in gallery], labels=labels))
    return [folder / name for name in (MAP_TABLE, MAP_CURVES, MAP_VIEWS)]


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Row] | Sequence[MapRow]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([value if isinstance(value, int) else round(value, 6) for value in row] for row in rows)


def draw_map_curves(path: Path, rows: Sequence[MapRow], title: str) -> None:
    """Write a PNG: the map's error, and how often it is told from another's, against the number of views."""
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    figure.suptitle(title)
    error, apart = figure.subplots(1, 2)
    _curve(error, rows, "relative_error", "prior mean", "C0")
    error.axhline(1, color="black", linewidth=0.8, linestyle=":")
    error.set_ylabel("squared error / mean map's")
    _curve(apart, rows, "told_apart", "the true map is nearer", "C2")
    apart.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    apart.set_ylabel("share nearer to the true map")
    for axes in (error, apart):
        axes.set_xscale("symlog", base=2, linthresh=1)  # views double, but for the first
        axes.set_xlabel("views of a walk")
        axes.set_xticks([row.views for row in rows], [str(row.views) for row in rows])
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def draw_curves(path: Path, rows: Sequence[Row], title: str) -> None:
    """Write a PNG: error, uncertainty and surprise against the number of context views."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    figure.suptitle(title)
    error, spread, surprise = figure.subplots(1, 3)
    _curve(error, rows, "relative_error", "prior mean", "C0")
    error.axhline(1, color="black", linewidth=0.8, linestyle=":")
    error.set_ylabel("squared error / mean image's")
    _curve(spread, rows, "spread", "samples from the prior", "C1")
    spread.set_ylabel("standard deviation of colours")
    _curve(surprise, rows, "surprise", "the true view", "C2")
    _curve(surprise, rows, "contradicted", "another scene's view", "C3")
    surprise.set_ylabel("negative ELBO, nats")
    surprise.legend(fontsize=8)
    for axes in (error, spread, surprise):
        axes.set_xlabel("context views")
        axes.set_xticks([row.views for row in rows])
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _curve(axes: Axes, rows: Sequence[Row] | Sequence[MapRow], field: str, label: str, color: str) -> None:
    views = [row.views for row in rows]
    middle = np.array([getattr(row, field) for row in rows])
    half = np.array([getattr(row, f"{field}_95") for row in rows])
    axes.plot(views, middle, "o-", markersize=4, color=color, label=label)
    axes.fill_between(views, middle - half, middle + half, color=color, alpha=0.2, linewidth=0)
