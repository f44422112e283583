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
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gqn_rl.algebra import Algebra, AlgebraPlan, add_up, draw, photograph_blocks
from gqn_rl.config import UserError
from gqn_rl.encoder import GQNEncoder
from gqn_rl.files import atomic_path, strangers, write_json
from gqn_rl.imagination import ImaginationPlan, Row, gallery, imagine, mean_95, photograph, table
from gqn_rl.map_imagination import MapPlan, MapRow, map_gallery, map_table, measure_maps, photograph_maps
from gqn_rl.pictures import grid, save_png, to_uint8
from gqn_rl.types import SceneSource

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
#: Rows of pictures (H, W, 3) in [0, 1].
Pictures = list[list[NDArray[np.float32]]]


class Plans(NamedTuple):
    """What is to be found out."""

    unseen: ImaginationPlan
    sums: AlgebraPlan | None  #: None of scenes that are not made of two factors
    walks: MapPlan | None  #: None of scenes without a map

    @property
    def frames(self) -> int:
        """Pictures to render."""
        return sum(plan.frames for plan in self if plan is not None)


class Findings(NamedTuple):
    """All that was found out."""

    rows: list[Row]
    views: Pictures  #: context | truth | mean of one view, of all | two samples
    algebra: Algebra | None
    sums: Pictures  #: a | b | c | what a - b + c looks like | what it should look like
    map_rows: list[MapRow]
    maps: Pictures  #: views so far | drawn map | true map


def claim(folder: Path) -> None:
    """Raise :class:`UserError` unless ``folder`` is free, or holds unfinished work of this kind."""
    if (folder / SUMMARY).exists():
        raise UserError(f"{folder} holds a finished {SUMMARY}, which is never overwritten; choose another --out")
    if others := strangers(folder, (TABLE, CURVES, VIEWS, ALGEBRA, MAP_TABLE, MAP_CURVES, MAP_VIEWS)):
        raise UserError(f"{folder} is not empty (it has {others[0]}); choose another --out")


def examine(encoder: GQNEncoder, source: SceneSource, plans: Plans, progress: Callable[[int], None]) -> Findings:
    """Carry out ``plans``; ``progress`` is called with the number of images just rendered."""
    shots = photograph(source, plans.unseen, progress)
    first = next(shots)
    rows = table(imagine(encoder.gqn, chain([first], shots), plans.unseen))
    views = gallery(encoder.gqn, first, plans.unseen, SCENES)
    algebra, sums = None, []
    if plans.sums is not None:
        blocks = photograph_blocks(source, plans.sums, progress)
        some = list(islice(blocks, ALGEBRA_ROWS))
        algebra = add_up(encoder, chain(some, blocks))
        sums = [draw(encoder, block) for block in some]
    map_rows, maps = [], []
    if plans.walks is not None:
        walked = photograph_maps(source, plans.walks, progress)
        begun = next(walked)
        map_rows = map_table(measure_maps(encoder.gqn, chain([begun], walked), plans.walks), plans.walks)
        maps = map_gallery(encoder.gqn, begun, plans.walks, MAP_SCENES)
    return Findings(rows, views, algebra, sums, map_rows, maps)


def print_findings(plans: Plans, found: Findings) -> None:
    """Print the tables, and what came of the sums."""
    _print_table(found.rows)
    if plans.sums is not None and found.algebra is not None:
        _print_algebra(plans.sums.factors, found.algebra)
    if found.map_rows:
        _print_maps(found.map_rows)


def _print_table(rows: Sequence[Row]) -> None:
    """Print a line for each number of context views."""
    print(
        f"{'views':>5}{'MSE of the mean':>20}{'spread':>17}{'surprise, nats':>19}{'contradicted':>19}{'told apart':>22}"
    )
    for row in rows:
        print(
            f"{row.views:>5}"
            f"{f'{row.relative_error:.1%} +- {row.relative_error_95:.1%}':>20}"
            f"{f'{row.spread:.4f} +- {row.spread_95:.4f}':>17}"
            f"{f'{row.surprise:.0f} +- {row.surprise_95:.0f}':>19}"
            f"{f'{row.contradicted:.0f} +- {row.contradicted_95:.0f}':>19}"
            f"{_share(row):>22}"
        )


def _share(row: Row | MapRow) -> str:
    return f"{row.told_apart:.1%} [{row.told_apart_low:.1%}, {row.told_apart_high:.1%}]"


def _print_algebra(factors: tuple[str, str], algebra: Algebra) -> None:
    """Print how often the nearest scene to a sum was the right one."""
    print(
        f"scenes added up ({factors[0]}, {factors[1]}): the nearest of {round(1 / algebra.chance)} is right in "
        f"{algebra.combined.mean():.1%} (the scene itself from other cameras: {algebra.recognised.mean():.1%}; "
        f"chance: {algebra.chance:.1%})"
    )


def _print_maps(rows: Sequence[MapRow]) -> None:
    """Print a line for each number of views of a walk."""
    print(f"{'walk':>5}{'MSE of the map':>20}{'told apart':>22}")
    for row in rows:
        print(f"{row.views:>5}{f'{row.relative_error:.1%} +- {row.relative_error_95:.1%}':>20}{_share(row):>22}")


def write_findings(folder: Path, plans: Plans, found: Findings, facts: Mapping[str, Any]) -> list[Path]:
    """Write everything into ``folder``, each file atomically, the summary last; returns what was written.

    ``facts`` go into the summary; what they call ``env`` is the title of the curves.
    """
    title, written = str(facts.get("env", "")), [TABLE, CURVES]
    _write_table(folder / TABLE, Row._fields, found.rows)
    draw_curves(folder / CURVES, found.rows, title)
    if found.map_rows:
        _write_table(folder / MAP_TABLE, MapRow._fields, found.map_rows)
        draw_map_curves(folder / MAP_CURVES, found.map_rows, title)
        written += [MAP_TABLE, MAP_CURVES]
    count = plans.unseen.views
    context = [f"view {i + 1}" for i in range(count)]
    walk = [f"view {i + 1}" for i in range(len(found.maps[0]) - 2)] if found.maps else []
    for name, pictures, labels in (
        (VIEWS, found.views, [*context, "truth", "mean of 1", f"mean of {count}", "sample", "sample"]),
        (ALGEBRA, found.sums, ["a", "- b", "+ c", "a - b + c", "truth"]),
        (MAP_VIEWS, found.maps, [*walk, "drawn map", "true map"]),
    ):
        if pictures:
            save_png(folder / name, grid([[to_uint8(picture) for picture in row] for row in pictures], labels=labels))
            written.append(name)
    summary = {
        **facts,
        "seed": plans.unseen.seed,
        "scenes": plans.unseen.scenes,
        "samples": plans.unseen.samples,
        "sigma": plans.unseen.sigma,
        "algebra": _summarise(plans.sums, found.algebra) if plans.sums and found.algebra else None,
        "map": [row._asdict() for row in found.map_rows],
        "rows": [row._asdict() for row in found.rows],
    }
    write_json(folder / SUMMARY, summary)
    return [folder / name for name in (*written, SUMMARY)]


def _summarise(plan: AlgebraPlan, algebra: Algebra) -> dict[str, Any]:
    """What came of the sums, with 95 % intervals."""
    combined, combined_95 = mean_95(algebra.combined)
    recognised, recognised_95 = mean_95(algebra.recognised)
    return {
        "factors": list(plan.factors),
        "blocks": plan.blocks,
        "views": plan.views,
        "chance": algebra.chance,
        "combined": round(combined, 6),
        "combined_95": round(combined_95, 6),
        "recognised": round(recognised, 6),
        "recognised_95": round(recognised_95, 6),
    }


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
    if f"{field}_low" in rows[0]._fields:
        low, high = (np.array([getattr(row, f"{field}_{end}") for row in rows]) for end in ("low", "high"))
    else:
        half = np.array([getattr(row, f"{field}_95") for row in rows])
        low, high = middle - half, middle + half
    axes.plot(views, middle, "o-", markersize=4, color=color, label=label)
    axes.fill_between(views, low, high, color=color, alpha=0.2, linewidth=0)
