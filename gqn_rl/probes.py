"""Linear probes: how well ground truth can be read off a frozen vector. They judge encoders, never train them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gqn_rl.cameras import Dome
from gqn_rl.config import UserError
from gqn_rl.data import BlockPlan, look, set_scene, stack
from gqn_rl.types import Described, Pose, Quantity, SceneEncoder, SceneSource, Views

#: The share of a number by which single precision may be off, rounded up.
ROUNDING: Final = 1e-6


class Ridge(NamedTuple):
    """A ridge regression from vectors (N, D) to targets (N, T)."""

    mean: NDArray[np.float64]  #: (D,) of the vectors
    scale: NDArray[np.float64]  #: (D,) their standard deviation; inf where they are the same but for rounding
    weight: NDArray[np.float64]  #: (D, T), for standardised vectors
    bias: NDArray[np.float64]  #: (T,) in the targets' units

    def predict(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Targets (N, T) for ``vectors`` (N, D)."""
        return (vectors - self.mean) / self.scale @ self.weight + self.bias


def fit_ridge(vectors: NDArray[np.floating], targets: NDArray[np.floating], strength: float = 1e-3) -> Ridge:
    """Fit on ``vectors`` (N, D) and ``targets`` (N, T).

    ``strength`` is the penalty on squared weights per sample, for standardised inputs.
    """
    x, y = np.asarray(vectors, np.float64), np.asarray(targets, np.float64)
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"a probe needs as many vectors as targets, at least 2; got {len(x)} and {len(y)}")
    mean, scale = x.mean(0), x.std(0)
    # Entries that only rounding moves say nothing here, and would say anything where they move after all.
    scale = np.where(scale > ROUNDING * np.abs(mean), scale, np.inf)
    z = (x - mean) / scale
    penalty, centred = strength * len(z), y - y.mean(0)
    if z.shape[1] <= len(z):
        weight = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ centred)
    else:  # the same weights by a matrix as large as there are samples: the paper's tower has 65,536 entries
        weight = z.T @ np.linalg.solve(z @ z.T + penalty * np.eye(len(z)), centred)
    return Ridge(mean, scale, weight, y.mean(0))


class ProbeScore(NamedTuple):
    """How well a probe predicts; nan both of what is the same in all scenes, which anybody predicts."""

    r2: float  #: 1 - squared error / variance, both summed over the target's coordinates
    median_error: float  #: median over scenes of the Euclidean distance, in the target's unit (metres)


def score(predicted: NDArray[np.floating], truth: NDArray[np.floating]) -> ProbeScore:
    """Compare predictions (N, T) with the truth (N, T)."""
    truth = np.asarray(truth, np.float64)
    error, deviation = predicted - truth, truth - truth.mean(0)
    if (np.abs(deviation) <= ROUNDING * np.abs(truth)).all():
        return ProbeScore(math.nan, math.nan)
    r2 = 1 - np.square(error).sum() / np.square(deviation).sum()
    return ProbeScore(float(r2), float(np.median(np.linalg.norm(error, axis=1))))


class ChoiceScore(NamedTuple):
    """How often a probe chooses right."""

    accuracy: float  #: in [0, 1]; nan, as chance is, of flags that are all the same, which anybody predicts
    chance: float  #: of whoever always answers with what is most common among these scenes


def score_class(predicted: NDArray[np.floating], truth: NDArray[np.floating]) -> ChoiceScore:
    """Compare the largest of each row of predictions (N, C) with that of the truth (N, C), one-hot."""
    right, counts = truth.argmax(1), np.bincount(truth.argmax(1))
    return ChoiceScore(float((predicted.argmax(1) == right).mean()), float(counts.max() / len(truth)))


def score_flags(predicted: NDArray[np.floating], truth: NDArray[np.floating]) -> ChoiceScore:
    """Compare predictions (N, C) with the truth (N, C), of two values: which of the two is nearer, over all entries."""
    middle = (float(truth.min()) + float(truth.max())) / 2
    if truth.min() == truth.max():
        return ChoiceScore(math.nan, math.nan)
    yes = truth > middle
    common = np.maximum(yes.mean(0), 1 - yes.mean(0))
    return ChoiceScore(float(((predicted > middle) == yes).mean()), float(common.mean()))


def probe(
    fit_vectors: NDArray[np.floating],
    fit_targets: NDArray[np.floating],
    vectors: NDArray[np.floating],
    targets: NDArray[np.floating],
) -> ProbeScore:
    """Fit a ridge probe on one set of scenes and score it on another."""
    return score(fit_ridge(fit_vectors, fit_targets).predict(vectors), targets)


def scene_share(vectors: NDArray[np.floating]) -> float:
    """The share of the variance of single-view vectors (scenes, views, D) that belongs to the scene, in [0, 1].

    The intraclass correlation of a one-way analysis of variance (Shrout and Fleiss 1979, ICC(1)), variances summed
    over dimensions. Zero: the vector says where the camera is, or nothing, but not what it sees.
    """
    scenes, views, _ = vectors.shape
    if scenes < 2 or views < 2:
        raise ValueError(f"needs at least two scenes and two views of each, got {scenes} and {views}")
    means = vectors.mean(1)
    between = views * np.square(means - means.mean(0)).sum() / (scenes - 1)
    within = np.square(vectors - means[:, None]).sum() / (scenes * (views - 1))
    return float(np.clip((between - within) / max(between + (views - 1) * within, 1e-12), 0, 1))


# Probing an encoder -------------------------------------------------------------------------------------------

#: Names of the camera regions: viewpoints like those of pretraining, and viewpoints above all of those.
INSIDE: Final = "inside"
OUTSIDE: Final = "outside"
#: Numbers of views that vectors are made of.
COUNTS: Final = (1, 2, 3)
#: Scenes in memory at a time: 64 scenes of 8 views with 64 x 64 pixels are 6 MB.
PART: Final = 64

PoseSampler = Callable[[np.random.Generator], Pose]


def raised(source: SceneSource, degrees: float) -> Dome | None:
    """The band above the dome of ``source``, ``degrees`` wide at most; None where there is no dome, or no room."""
    dome = getattr(source, "dome", None)
    return dome.outside(degrees) if isinstance(dome, Dome) and dome.has_outside else None


def camera_regions(source: SceneSource, degrees: float) -> dict[str, PoseSampler]:
    """Where to look from: ``inside``, the source's own viewpoints, and ``outside``, ``degrees`` above them.

    A source has an outside if it has an attribute ``dome``, the :class:`gqn_rl.cameras.Dome` that its own viewpoints
    come from, and the dome leaves room above (:meth:`gqn_rl.cameras.Dome.outside` ends at 89 degrees).
    """
    regions: dict[str, PoseSampler] = {INSIDE: source.sample_pose}
    if (band := raised(source, degrees)) is not None:
        regions[OUTSIDE] = band.sample
    return regions


@dataclass(frozen=True)
class ProbePlan:
    """Which held-out scenes are looked at, from where, and how often.

    The first half of the scenes fits the probes, the others score them. Only what is used is rendered: scenes that
    fit are not seen from outside, unless a view of them is drawn; and only of scenes of which one is drawn is there one
    view more than ``COUNTS`` asks.
    """

    seed: int  #: of scenes and poses; see :func:`photograph`
    scenes: int
    regions: Mapping[str, PoseSampler]  #: as :func:`camera_regions` has them
    drawn: int = 0  #: the first so many scenes also show a view to be drawn from the others, in all regions

    def __post_init__(self) -> None:
        if self.scenes < 4:
            raise ValueError(f"two scenes to fit a probe and two to score it are the least, got scenes={self.scenes}")

    def parts(self) -> list[range]:
        """The scenes in order, at most ``PART`` at a time; all scenes of a part are treated alike."""
        cuts = {*range(0, self.scenes, PART), self.scenes // 2, min(self.drawn, self.scenes), self.scenes}
        return [range(first, last) for first, last in pairwise(sorted(cuts))]

    def fits(self, scene: int) -> bool:
        """Whether ``scene`` fits the probes; the others score them."""
        return scene < self.scenes // 2

    def views(self, region: str, scene: int) -> int:
        """How many views of ``scene`` are taken from ``region``."""
        if scene < self.drawn:
            return max(COUNTS) + 1
        return 0 if region != INSIDE and self.fits(scene) else max(COUNTS)

    @property
    def frames(self) -> int:
        """Images to render."""
        return sum(len(part) * self.views(region, part.start) for part in self.parts() for region in self.regions)


class Shots(NamedTuple):
    """Some scenes of a plan, photographed."""

    fits: bool  #: whether they fit the probes; else they score them
    states: NDArray[np.float32]  #: (n, S) ground truth
    views: dict[str, Views]  #: by region, (n, K) numpy arrays


def photograph(source: SceneSource, plan: ProbePlan, progress: Callable[[int], None]) -> Iterator[Shots]:
    """Photograph the scenes of ``plan``, part by part; ``progress`` is called with the number of images just made.

    Scenes and poses are those of a recording without blocks with the plan's seed. Every region draws its poses from
    the same random numbers, so that a :class:`gqn_rl.cameras.Dome`'s camera k stands outside at the azimuth and
    distance that it has inside, and only its elevation differs.
    """
    for part in plan.parts():
        states = []
        seen: dict[str, list[Views]] = {name: [] for name in plan.regions if plan.views(name, part.start) > 0}
        for scene in part:
            set_scene(source, BlockPlan(), plan.seed, scene)
            states.append(np.array(source.state()))
            for name, views in seen.items():
                rng = np.random.default_rng([plan.seed, scene, 1])
                views.append(look(source, [plan.regions[name](rng) for _ in range(plan.views(name, scene))]))
                progress(plan.views(name, scene))
        yield Shots(plan.fits(part.start), np.stack(states), {name: stack(views) for name, views in seen.items()})


def quantities(source: SceneSource) -> dict[str, Quantity]:
    """What probes ask for: the places among the ``state_groups`` of ``source``, and what else it describes."""
    places = {name: Quantity(part, "position") for name, part in source.state_groups.items()}
    return {**places, **(source.state_quantities if isinstance(source, Described) else {})}


class Reading(NamedTuple):
    """What a probe reads off an encoder's vectors of the M scenes that score it."""

    region: str  #: where the cameras stood
    quantity: str  #: its name
    views: int  #: how many each vector was made of
    truth: NDArray[np.float32]  #: (M, T) in the state's units
    predicted: NDArray[np.float64]  #: (M, T) the same
    kind: Literal["position", "numbers", "class", "flags"] = "position"  #: see :class:`gqn_rl.types.Quantity`

    @property
    def score(self) -> ProbeScore:
        """How close the two are, as numbers."""
        return score(self.predicted, self.truth)

    @property
    def choice(self) -> ChoiceScore:
        """How often the two agree; of a ``class`` or ``flags``."""
        return (score_class if self.kind == "class" else score_flags)(self.predicted, self.truth)

    @property
    def figures(self) -> dict[str, float]:
        """What is reported of this kind, by name."""
        if self.kind in ("class", "flags"):
            return self.choice._asdict()
        r2, median_error = self.score
        return {"r2": r2, "median_error_cm": 100 * median_error} if self.kind == "position" else {"r2": r2}


def probe_encoder(encoder: SceneEncoder, shots: Iterable[Shots], asked: Mapping[str, Quantity]) -> list[Reading]:
    """Ridge probes from a frozen encoder to each named quantity, for each number of views in ``COUNTS``.

    A probe is fitted once, on vectors from inside, and then read in every region, on scenes that it was not fitted
    on. That is how a policy meets a frozen vector: it learned what the numbers mean from the cameras it had. A probe
    fitted anew in each region would not notice that the vector says the same thing in other numbers there. Classes and
    flags are regressed on like numbers.

    Args:
        encoder: what is judged; a module is put in eval mode.
        shots: scenes that the encoder was not trained on, held in memory only as long as each is encoded.
        asked: the quantities in a state, by name (:func:`quantities`).

    Raises:
        UserError: the encoder returns vectors of another shape than its ``size`` says, or they or the ground truth
            are not finite.
    """
    device = _freeze(encoder)
    states: dict[bool, list[NDArray[np.float32]]] = {True: [], False: []}
    vectors: dict[tuple[str, int, bool], list[NDArray[np.float32]]] = defaultdict(list)
    for shot in shots:
        for name, (part, _) in asked.items():
            if not np.isfinite(shot.states[:, part]).all():
                raise UserError(f"state() of a scene is not finite in {name!r}")
        states[shot.fits].append(shot.states)
        for region, (images, poses) in shot.views.items():
            if shot.fits and region != INSIDE:
                continue
            for count in COUNTS:
                seen = Views(images[:, :count], poses[:, :count])
                vectors[region, count, shot.fits].append(_encode(encoder, seen, device))
    truth = np.concatenate(states[False])
    regions = dict.fromkeys(region for region, _, _ in vectors)
    predicted = {}
    for count in COUNTS:
        # The columns of a ridge regression do not touch each other: all quantities in one.
        ridge = fit_ridge(np.concatenate(vectors[INSIDE, count, True]), np.concatenate(states[True]))
        for region in regions:
            predicted[region, count] = ridge.predict(np.concatenate(vectors[region, count, False]))
    return [
        Reading(region, name, count, truth[:, part], predicted[region, count][:, part], kind)
        for region in regions
        for name, (part, kind) in asked.items()
        for count in COUNTS
    ]


def _freeze(encoder: SceneEncoder) -> torch.device:
    """Put the encoder, or the modules that it holds, in eval mode; returns where its parameters are."""
    held = [encoder] if isinstance(encoder, nn.Module) else getattr(encoder, "__dict__", {}).values()
    device = torch.device("cpu")
    for module in held:
        if isinstance(module, nn.Module):
            module.eval()
            device = next((parameter.device for parameter in module.parameters()), device)
    return device


@torch.inference_mode()
def _encode(encoder: SceneEncoder, views: Views, device: torch.device) -> NDArray[np.float32]:
    """The vectors (n, D) of ``views`` (n, K), numpy arrays."""
    images, poses = (torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in views)
    name = type(encoder).__name__
    try:
        vectors = encoder.encode(images, poses).float().cpu().numpy()
    except Exception as error:  # a user's code may raise anything
        shapes = f"images {tuple(images.shape)} and poses {tuple(poses.shape)}"
        raise UserError(f"encoder {name} fails on {shapes}: {type(error).__name__}: {error}") from error
    what = f"{name}.encode returned"
    if vectors.shape != (len(images), encoder.size):
        raise UserError(
            f"{what} shape {vectors.shape} for {len(images)} scenes; with size {encoder.size} it must be "
            f"{(len(images), encoder.size)}"
        )
    if not np.isfinite(vectors).all():
        raise UserError(f"{what} numbers that are not finite for {poses.shape[1]} views of a scene")
    return vectors
