"""What a GQN understood of scenes that it has never seen: how its pictures of an unseen side change as views arrive.

Three questions, each asked with 0 to K context views of held-out scenes. How far off is the prior's mean picture? How
much do samples from the prior differ, the model's own uncertainty (Eslami et al. 2018, figure 5)? And how surprised is
it by the true view, and by one of another scene from the same camera, which contradicts the context?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gqn_rl.config import UserError
from gqn_rl.data import BlockPlan, look, set_scene, stack
from gqn_rl.gqn import GQN, likelihood_floor
from gqn_rl.types import SceneSource, Views

#: Scenes in memory at a time.
PART: Final = 32
#: Half the width of a 95 % interval of a mean, in standard errors.
NORMAL_95: Final = 1.96


@dataclass(frozen=True)
class ImaginationPlan:
    """Which held-out scenes are imagined, and how."""

    seed: int  #: of scenes, poses and samples
    scenes: int
    views: int  #: the most context views, K
    samples: int  #: pictures drawn from the prior for each scene and number of views
    sigma: float  #: standard deviation of the pixels in the likelihood

    def __post_init__(self) -> None:
        for name, least in (("scenes", 2), ("views", 1), ("samples", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def frames(self) -> int:
        """Images to render: K context views, the view to imagine, and what another scene shows from there."""
        return self.scenes * (self.views + 2)


class Shots(NamedTuple):
    """Some scenes, photographed; numpy arrays."""

    context: Views  #: (n, K)
    query: Views  #: (n, 1): the view to imagine
    contradiction: Views  #: (n, 1): the next scene from the query's camera


class Imagined(NamedTuple):
    """What was measured, for each number of context views 0 ... K and each of N scenes: (K + 1, N)."""

    error: NDArray[np.float64]  #: mean squared error of the prior-mean picture, colours in [0, 1]
    spread: NDArray[np.float64]  #: standard deviation over samples from the prior, root mean square over pixels
    surprise: NDArray[np.float64]  #: negative ELBO of the true view, nats above the likelihood's floor
    contradicted: NDArray[np.float64]  #: the same of the contradiction
    mean_error: float  #: mean squared error of the mean of all true views


class Row(NamedTuple):
    """Means over scenes for one number of context views, with their 95 % intervals: ``_95`` is half the width."""

    views: int
    relative_error: float  #: mean squared error of the prior-mean picture, as a share of the mean picture's
    relative_error_95: float
    spread: float  #: in colours, [0, 1]
    spread_95: float
    surprise: float  #: nats
    surprise_95: float
    contradicted: float  #: nats
    contradicted_95: float
    told_apart: float  #: share of scenes in which the contradiction surprises more than the truth
    told_apart_low: float  #: ends of its interval (:func:`share_95`)
    told_apart_high: float


def photograph(source: SceneSource, plan: ImaginationPlan, progress: Callable[[int], None]) -> Iterator[Shots]:
    """Photograph the scenes of ``plan``; ``progress`` is called with the number of images just made."""
    for first in range(0, plan.scenes, PART):
        contexts, queries, contradictions = [], [], []
        for scene in range(first, min(first + PART, plan.scenes)):
            rng = np.random.default_rng([plan.seed, scene, 1])
            set_scene(source, BlockPlan(), plan.seed, scene)
            *seen, unseen = (source.sample_pose(rng) for _ in range(plan.views + 1))
            contexts.append(look(source, seen))
            queries.append(look(source, [unseen]))
            set_scene(source, BlockPlan(), plan.seed, (scene + 1) % plan.scenes)
            contradictions.append(look(source, [unseen]))
            progress(plan.views + 2)
        yield Shots(stack(contexts), stack(queries), stack(contradictions))


@torch.inference_mode()
def imagine(gqn: GQN, shots: Iterator[Shots], plan: ImaginationPlan) -> Imagined:
    """Measure ``gqn`` on ``shots``, in eval mode; raises :class:`UserError` where all scenes look the same."""
    gqn.eval()
    noise = torch.Generator(gqn.device).manual_seed(plan.seed)
    floor: float | None = None
    kinds: list[list[NDArray[np.float64]]] = [[], [], [], []]
    truths = []
    for shot in shots:
        query, contradiction = (_tensors(views) for views in (shot.query, shot.contradiction))
        truth = query.images.float().to(gqn.device) / 255
        truths.append(shot.query.images[:, 0])
        floor = likelihood_floor(plan.sigma, truth[0].numel())
        own: list[list[NDArray[np.float64]]] = [[], [], [], []]
        for count in range(plan.views + 1):
            scene = gqn.represent(_tensors(Views(shot.context.images[:, :count], shot.context.poses[:, :count])))
            mean = gqn.generate(scene, query.poses, deterministic=True)[0]
            samples = gqn.generate(scene, query.poses, plan.samples, noise)
            numbers = [(mean - truth).square().flatten(1).mean(1), samples.var(0).flatten(1).mean(1).sqrt()]
            for views in (query, contradiction):
                output = gqn.reconstruct(scene, views, plan.sigma, noise)
                numbers.append((output.nll - floor + output.kl)[:, 0])
            for kind, value in zip(own, numbers, strict=True):
                kind.append(value.double().cpu().numpy())
        for whole, part in zip(kinds, own, strict=True):
            whole.append(np.stack(part))
    everything = np.concatenate(truths).astype(np.float64) / 255
    error, spread, surprise, contradicted = (np.concatenate(kind, axis=1) for kind in kinds)
    mean_error = float(np.square(everything - everything.mean(0)).mean())
    if mean_error == 0:
        raise UserError(f"nothing to imagine: all {plan.scenes} scenes look the same")
    return Imagined(error, spread, surprise, contradicted, mean_error)


def mean_95(values: NDArray[np.float64]) -> tuple[float, float]:
    """The mean of ``values`` (N,), N >= 2, and half the width of its 95 % interval."""
    return float(values.mean()), float(NORMAL_95 * values.std(ddof=1) / np.sqrt(len(values)))


def share_95(right: NDArray[np.float64]) -> tuple[float, float, float]:
    """The share of ``right`` (N,), each 0 or 1, N >= 1, and the ends of its 95 % interval (Wilson's, of 1927).

    In [0, 1], and of more than no width where all are right, or none.
    """
    share, z2 = float(right.mean()), NORMAL_95**2 / len(right)
    middle, half = share + z2 / 2, float(np.sqrt(z2 * (share * (1 - share) + z2 / 4)))
    return share, max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2))


def table(imagined: Imagined) -> list[Row]:
    """A :class:`Row` for each number of context views."""
    rows = []
    for views, (error, spread, surprise, contradicted) in enumerate(zip(*imagined[:4], strict=True)):
        numbers: list[float] = []
        apart = (contradicted > surprise).astype(np.float64)
        for values in (error / imagined.mean_error, spread, surprise, contradicted):
            numbers += mean_95(values)
        rows.append(Row._make([views, *numbers, *share_95(apart)]))
    return rows


@torch.inference_mode()
def gallery(gqn: GQN, shots: Shots, plan: ImaginationPlan, scenes: int) -> list[list[NDArray[np.float32]]]:
    """Rows of pictures (H, W, 3) in [0, 1]: K context views | truth | prior mean of 1 and of K views | two samples."""
    gqn.eval()
    noise = torch.Generator(gqn.device).manual_seed(plan.seed)
    context = _tensors(Views(*(array[:scenes] for array in shots.context)))
    query = _tensors(Views(*(array[:scenes] for array in shots.query)))
    one = gqn.represent(Views(context.images[:, :1], context.poses[:, :1]))
    everything = gqn.represent(context)
    pictures = [
        *(context.images.float() / 255).unbind(1),
        (query.images.float() / 255)[:, 0],
        gqn.generate(one, query.poses, deterministic=True)[0, :, 0].cpu(),
        gqn.generate(everything, query.poses, deterministic=True)[0, :, 0].cpu(),
        *gqn.generate(everything, query.poses, 2, noise)[:, :, 0].cpu(),
    ]
    return [[picture[row].numpy() for picture in pictures] for row in range(len(context.images))]


def _tensors(views: Views) -> Views:
    return Views(*(torch.from_numpy(np.ascontiguousarray(array)) for array in views))
