"""What ``probe`` leaves: a table, two CSV files, a summary in JSON, and pictures of what an encoder knows.

The folder::

    probe.csv           a row for each camera region, quantity and number of views
    probe_drawing.csv   a row for each camera region: how well unseen views are drawn (encoders with a GQN only)
    probe.png           held-out scenes: context views | an unseen view | its prior-mean image (the same)
    probe_points.png     the same scenes: context views, with the points that the encoder finds (where it has any)
    probe_errors.png    predicted against true positions, and how the errors are distributed (sources that tell any)
    probe.json          all figures and how they came about, fit to be the entry ``probes`` of an encoder's card;
                        written last, it marks the probe as finished
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gqn_rl.cameras import project
from gqn_rl.config import UserError
from gqn_rl.files import atomic_path, strangers, write_json
from gqn_rl.gqn import GQN
from gqn_rl.pictures import grid, mark, save_png, to_uint8
from gqn_rl.probes import COUNTS, INSIDE, ProbePlan, Reading, Shots, photograph, probe_encoder, quantities
from gqn_rl.types import SceneEncoder, SceneSource, Views

#: Scenes of which an unseen view is drawn, and those of them that the gallery shows.
DRAWN: Final = 1_000
GALLERY: Final = 8
#: Written last.
SUMMARY: Final = "probe.json"
READINGS, DRAWINGS, GALLERY_PICTURE, ERRORS = "probe.csv", "probe_drawing.csv", "probe.png", "probe_errors.png"
POINTS_PICTURE: Final = "probe_points.png"
#: What is reported of a reading, each where it has it; see :class:`gqn_rl.types.Quantity`.
FIGURES: Final = ("r2", "median_error_cm", "accuracy", "chance")


def claim(folder: Path) -> None:
    """Raise :class:`UserError` unless ``folder`` is free for a probe, or holds an unfinished one."""
    if (folder / SUMMARY).exists():
        raise UserError(f"{folder} holds a finished probe, which is never overwritten; choose another --out")
    if others := strangers(folder, (READINGS, DRAWINGS, GALLERY_PICTURE, POINTS_PICTURE, ERRORS)):
        raise UserError(f"{folder} is not empty and holds no probe (it has {others[0]}); choose another --out")


class Findings(NamedTuple):
    """All that a probe found out."""

    readings: list[Reading]  #: none from a source that tells no quantities
    drawings: list[Drawing]  #: one for each camera region; none by an encoder without a GQN
    gallery: list[list[NDArray[np.uint8]]]  #: rows of images: context views, the unseen view, its prior-mean image
    marked: list[list[NDArray[np.uint8]]]  #: rows of context views with the encoder's points; none where it has none


def examine(
    encoder: SceneEncoder, source: SceneSource, plan: ProbePlan, progress: Callable[[int], None] = lambda frames: None
) -> Findings:
    """Carry out ``plan``; ``progress`` is called with the number of images just rendered."""
    shots, asked = photograph(source, plan, progress), quantities(source)
    gqn = gqn_of(encoder)
    if gqn is None:
        return Findings(probe_encoder(encoder, shots, asked), [], [], [])
    judge = DrawingJudge(gqn, plan.seed)
    readings = probe_encoder(encoder, judge.watch(shots), asked)
    return Findings(readings, judge.drawings(), judge.gallery, judge.marked)


def gqn_of(encoder: SceneEncoder) -> GQN | None:
    """The network by which ``encoder`` can draw what it imagines: its attribute ``gqn``, if it is one."""
    gqn = getattr(encoder, "gqn", None)
    return gqn if isinstance(gqn, GQN) else None


# Drawing ------------------------------------------------------------------------------------------------------


class Drawing(NamedTuple):
    """How well views that the encoder did not get are drawn from those it got, over all pixels of all scenes."""

    region: str  #: where the cameras stood, those of the context and that of the view
    scenes: int
    prior_mse: float  #: of the prior-mean image, colours in [0, 1]
    mean_image_mse: float  #: of the mean of the very images to be drawn, the best that a constant can do
    relative_mse: float  #: the first divided by the second
    psnr_db: float  #: of ``prior_mse``, peak 1
    posterior_mse: float  #: of a sample from the posterior, which has seen the view to be drawn
    posterior_psnr_db: float  #: of ``posterior_mse``


class DrawingJudge:
    """Draws the last view of each scene from its others, where a scene has as many, and keeps count of the errors.

    Args:
        gqn: what draws.
        seed: of the posterior's samples.
    """

    def __init__(self, gqn: GQN, seed: int = 0) -> None:
        self._gqn = gqn
        self._noise = torch.Generator(gqn.device).manual_seed(seed)
        self._scenes: dict[str, int] = defaultdict(int)
        self._error: dict[str, float] = defaultdict(float)
        self._posterior_error: dict[str, float] = defaultdict(float)
        self._sum: dict[str, Any] = defaultdict(float)
        self._squares: dict[str, Any] = defaultdict(float)
        #: Rows of images for people: context views, the unseen view, its prior-mean image; cameras inside.
        self.gallery: list[list[NDArray[np.uint8]]] = []
        #: Rows of the same scenes: context views with the points that the encoder finds.
        self.marked: list[list[NDArray[np.uint8]]] = []

    def watch(self, shots: Iterable[Shots]) -> Iterator[Shots]:
        """Pass ``shots`` on, and judge those with an unseen view."""
        for shot in shots:
            for region, views in shot.views.items():
                if views.images.shape[1] > max(COUNTS):
                    self._add(region, views)
            yield shot

    def drawings(self) -> list[Drawing]:
        """How well each region's unseen views were drawn so far."""
        result = []
        for region, scenes in self._scenes.items():
            pixels = self._sum[region].size
            mse = self._error[region] / (scenes * pixels)
            mean_mse = float(np.mean(self._squares[region] / scenes - np.square(self._sum[region] / scenes)))
            relative = mse / mean_mse if mean_mse > 0 else math.nan
            posterior = self._posterior_error[region] / (scenes * pixels)
            result.append(Drawing(region, scenes, mse, mean_mse, relative, _psnr(mse), posterior, _psnr(posterior)))
        return result

    def _add(self, region: str, views: Views) -> None:
        drawn, explained = self._imagine(views)
        truth = views.images[:, -1].astype(np.float64) / 255
        self._scenes[region] += len(truth)
        self._error[region] += float(np.square(drawn - truth).sum())
        self._posterior_error[region] += float(np.square(explained - truth).sum())
        self._sum[region] += truth.sum(0)
        self._squares[region] += np.square(truth).sum(0)
        if region == INSIDE:
            shown = range(min(len(truth), GALLERY - len(self.gallery)))
            self.gallery += [[*views.images[i], to_uint8(drawn[i])] for i in shown]
            if self._gqn.representation.points and shown:
                self.marked += self._mark(Views(views.images[: len(shown), :-1], views.poses[: len(shown), :-1]))

    def _mark(self, views: Views) -> list[list[NDArray[np.uint8]]]:
        """Rows of ``views`` (n, K) with the points that they show together."""
        config, count = self._gqn.config, self._gqn.representation.points
        with torch.inference_mode():
            shares = self._gqn.represent_views(Views(*map(torch.from_numpy, views)))
            found = self._gqn.representation.vector(shares)[:, : 3 * count].unflatten(1, (count, 3))
        points = found.float().cpu().numpy() * config.length_scale
        return [
            [
                mark(image, project(scene_points, pose, config.fovy, *config.image_size))
                for image, pose in zip(images, poses, strict=True)
            ]
            for images, poses, scene_points in zip(views.images, views.poses, points, strict=True)
        ]

    def _imagine(self, views: Views) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Each scene's last view from its others, two times (n, H, W, 3): prior-mean images, posterior samples."""
        images, poses = torch.from_numpy(views.images), torch.from_numpy(views.poses)
        query = Views(images[:, -1:], poses[:, -1:])
        with torch.inference_mode():
            scene = self._gqn.represent(Views(images[:, :-1], poses[:, :-1]))
            prior = self._gqn.generate(scene, query.poses, deterministic=True)[0, :, 0]
            # Sigma weighs the likelihood; pictures do not depend on it.
            posterior = self._gqn.reconstruct(scene, query, 1.0, self._noise).reconstruction[:, 0].clamp(0, 1)
        return prior.float().cpu().numpy(), posterior.float().cpu().numpy()


def _psnr(mse: float) -> float:
    """Peak signal-to-noise ratio, dB, of colours in [0, 1]."""
    return -10 * math.log10(mse) if mse > 0 else math.inf


# Figures ------------------------------------------------------------------------------------------------------


def print_table(findings: Findings) -> None:
    """Print the probes, and how well unseen views are drawn."""
    readings, drawings = findings.readings, findings.drawings
    if readings:
        width = max(16, *(len(reading.quantity) + 2 for reading in readings))
        print(f"{'quantity':<{width}}{'cameras':<10}" + "".join(f"{_views(count):>24}" for count in COUNTS))
        found = {(reading.quantity, reading.region, reading.views): reading.figures for reading in readings}
        for quantity, region in dict.fromkeys((name, region) for name, region, _ in found):
            cells = [_cell(found[quantity, region, count]) for count in COUNTS]
            print(f"{quantity:<{width}}{region:<10}" + "".join(f"{cell:>24}" for cell in cells))
    for drawing in drawings:
        print(
            f"unseen views {drawing.region}, from {_views(max(COUNTS))}: MSE {drawing.prior_mse:.5f}, "
            f"{drawing.relative_mse:.0%} of the mean image's, PSNR {drawing.psnr_db:.1f} dB "
            f"(posterior: {drawing.posterior_psnr_db:.1f} dB)"
        )


def _cell(figures: Mapping[str, float]) -> str:
    if "accuracy" in figures:
        return f"{figures['accuracy']:.1%} (chance {figures['chance']:.1%})"
    if math.isnan(figures["r2"]):
        return "does not vary"
    r2 = f"R2 {figures['r2']:.3f}"
    return f"{r2}{figures['median_error_cm']:>7.1f} cm" if "median_error_cm" in figures else r2


def summarise(findings: Findings, facts: Mapping[str, Any]) -> dict[str, Any]:
    """All figures as plain data, after ``facts`` about how they came about.

    ``["ridge"][region][quantity][number of views]`` has those of ``FIGURES`` that are reported of the quantity's kind,
    ``["drawing"][region]`` the fields of :class:`Drawing`. A number that is not finite is None.
    """
    ridge: dict[str, Any] = {}
    for reading in findings.readings:
        names = ridge.setdefault(reading.region, {})
        names.setdefault(reading.quantity, {})[str(reading.views)] = _rounded(reading.figures)
    drawing = {
        drawing.region: _rounded({name: value for name, value in drawing._asdict().items() if name != "region"})
        for drawing in findings.drawings
    }
    return {**facts, "ridge": ridge, "drawing": drawing}


def write_report(folder: Path, findings: Findings, facts: Mapping[str, Any]) -> list[Path]:
    """Write everything into ``folder``, each file atomically, the summary last; returns what was written."""
    readings, drawings, gallery, marked = findings
    written = []
    if readings:
        rows = [(r.region, r.quantity, r.views, *(r.figures.get(name, "") for name in FIGURES)) for r in readings]
        written.append(_write_csv(folder / READINGS, ("cameras", "quantity", "views", *FIGURES), rows))
    if places := [reading for reading in readings if reading.kind == "position"]:
        written.append(draw_errors(folder / ERRORS, places))
    if drawings:
        written.append(_write_csv(folder / DRAWINGS, ("cameras", *Drawing._fields[1:]), drawings))
        context = [f"view {i + 1}" for i in range(len(gallery[0]) - 2)]
        save_png(folder / GALLERY_PICTURE, grid(gallery, labels=(*context, "unseen view", "drawn")))
        written.append(folder / GALLERY_PICTURE)
    if marked:
        labels = [f"view {i + 1}" for i in range(len(marked[0]))]
        save_png(folder / POINTS_PICTURE, grid(marked, scale=1, labels=labels))
        written.append(folder / POINTS_PICTURE)
    write_json(folder / SUMMARY, summarise(findings, facts))
    return [*written, folder / SUMMARY]


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def _rounded(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """To six digits after the point: far more than differ between machines, and few enough to read."""
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in numbers.items()}


def _views(count: int) -> str:
    return "1 view" if count == 1 else f"{count} views"


# Pictures -----------------------------------------------------------------------------------------------------


def draw_errors(path: Path, readings: Sequence[Reading]) -> Path:
    """Write a PNG, a row for each quantity: predicted against true by region, and a histogram of the errors.

    Of each quantity, the probes of the most views are shown.
    """
    most = max(reading.views for reading in readings)
    shown: dict[str, list[Reading]] = defaultdict(list)
    for reading in readings:
        if reading.views == most:
            shown[reading.quantity].append(reading)
    columns = max(map(len, shown.values())) + 1
    figure = Figure(figsize=(3.6 * columns, 3.4 * len(shown)), layout="constrained")
    figure.suptitle(f"Ridge probes of vectors of {_views(most)}, fitted with cameras inside")
    for axes, row in zip(figure.subplots(len(shown), columns, squeeze=False), shown.values(), strict=True):
        for axis, reading in zip(axes[:-1], row, strict=True):
            _draw_scatter(axis, reading)
        _draw_histogram(axes[-1], row)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path


def _draw_scatter(axis: Axes, reading: Reading) -> None:
    """Predicted against true, a colour for each coordinate, in metres."""
    size = reading.truth.shape[1]
    names = "xyz" if size == 3 else [str(i + 1) for i in range(size)]
    for i, name in enumerate(names):
        label = name if 1 < size <= 10 else None  # more than the colour cycle has tells nobody anything
        axis.plot(reading.truth[:, i], reading.predicted[:, i], ".", markersize=2, alpha=0.4, label=label)
    ends = [min(reading.truth.min(), reading.predicted.min()), max(reading.truth.max(), reading.predicted.max())]
    axis.plot(ends, ends, color="black", linewidth=0.8)
    axis.set_title(f"{reading.quantity}, cameras {reading.region}: R2 {reading.score.r2:.3f}", fontsize=10)
    axis.set_xlabel("true, m")
    axis.set_ylabel("predicted, m")
    axis.set_aspect("equal", adjustable="datalim")
    axis.grid(alpha=0.3)
    if 1 < size <= 10:
        axis.legend(markerscale=5, fontsize=8)


def _draw_histogram(axis: Axes, readings: Sequence[Reading]) -> None:
    """How the Euclidean errors of each region are distributed, and their medians."""
    errors = [100 * np.linalg.norm(reading.predicted - reading.truth, axis=1) for reading in readings]
    end = max(float(np.percentile(np.concatenate(errors), 99)), 1e-6)
    for index, (reading, error) in enumerate(zip(readings, errors, strict=True)):
        label = f"{reading.region}: median {np.median(error):.1f} cm"
        bins, weights = np.linspace(0, end, 41).tolist(), np.full(len(error), 1 / len(error))
        axis.margins(y=0.3)  # room for the legend
        axis.hist(np.minimum(error, end), bins, weights=weights, histtype="step", color=f"C{index}", label=label)
        axis.axvline(float(np.median(error)), color=f"C{index}", linestyle="--", linewidth=0.8)
    axis.set_title(f"{readings[0].quantity}: errors", fontsize=10)
    axis.set_xlabel("error, cm (last bar: and beyond)")
    axis.set_ylabel("share of scenes")
    axis.set_xlim(0, end)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
