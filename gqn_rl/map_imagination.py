"""What a GQN makes of a map: it walks through a scene that it has never seen, and draws it from above.

A walker's views are added up one after the other, and after 1, 2, 4, 8 ... of them the prior's mean picture of the
scene from above is compared with the true one. Much of a map is looks, which one view gives away, so it is also counted
how often the drawing is nearer to the true map than to that of a scene that looks the same and is laid out otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gqn_rl.data import BlockPlan, look, set_scene, stack
from gqn_rl.gqn import GQN
from gqn_rl.imagination import PART, mean_95, share_95
from gqn_rl.types import Mapped, SceneSource, Views


@dataclass(frozen=True)
class MapPlan:
    """Which held-out scenes are walked through."""

    seed: int  #: of scenes and walks
    scenes: int
    views: int  #: the length of a walk, K

    def __post_init__(self) -> None:
        for name, least in (("scenes", 2), ("views", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def counts(self) -> tuple[int, ...]:
        """After how many views the map is drawn: 0, 1, 2, 4, 8 ... and K."""
        powers = [2**i for i in range(self.views.bit_length()) if 2**i < self.views]
        return (0, *powers, self.views)

    @property
    def frames(self) -> int:
        """Images to render: of each scene the walk's, its map, and that of the scene laid out otherwise."""
        return self.scenes * (self.views + 2)


class MapShots(NamedTuple):
    """Some scenes, photographed; numpy arrays."""

    walk: Views  #: (n, K), in order
    map: Views  #: (n, 1), from above
    other: NDArray[np.uint8]  #: (n, H, W, 3), from above: another layout that looks the same


class MapErrors(NamedTuple):
    """Of the prior-mean map of each of N scenes, after each of C numbers of views, in squared colours of [0, 1]."""

    error: NDArray[np.float64]  #: (C, N) mean squared difference from the true map
    other: NDArray[np.float64]  #: (C, N) the same from the map of the scene that is laid out otherwise
    mean_error: float  #: that of the mean of all true maps


class MapRow(NamedTuple):
    """Means over scenes after so many views, with their 95 % intervals: ``_95`` is half the width."""

    views: int
    relative_error: float  #: mean squared error of the prior-mean map, as a share of the mean map's
    relative_error_95: float
    told_apart: float  #: share of scenes whose drawing is nearer to the true map than to the other; 0.5 is chance
    told_apart_low: float  #: ends of its interval (:func:`gqn_rl.imagination.share_95`)
    told_apart_high: float


def photograph_maps(source: SceneSource, plan: MapPlan, progress: Callable[[int], None]) -> Iterator[MapShots]:
    """Photograph the scenes of ``plan``; ``progress`` is called with the number of images just made.

    ``source`` is also :class:`gqn_rl.types.Mapped`.
    """
    walker = cast(Mapped, source)
    pair = BlockPlan(columns=walker.map_factor, width=2)
    for first in range(0, plan.scenes, PART):
        walks, maps, others = [], [], []
        for number in range(first, min(first + PART, plan.scenes)):
            scene = pair.size * number
            set_scene(source, pair, plan.seed, scene)
            walks.append(look(source, walker.walk_poses(np.random.default_rng([plan.seed, scene, 1]), plan.views)))
            maps.append(look(source, [walker.map_pose]))
            set_scene(source, pair, plan.seed, scene + 1)
            others.append(look(source, [walker.map_pose]))
            progress(plan.views + 2)
        yield MapShots(stack(walks), stack(maps), stack(others).images[:, 0])


def measure_maps(gqn: GQN, shots: Iterable[MapShots], plan: MapPlan) -> MapErrors:
    """Compare the maps that ``gqn`` draws with those of ``shots``, in eval mode."""
    errors, others, truths = [], [], []
    for shot in shots:
        drawn = _draw(gqn, shot, plan.counts)
        truth = shot.map.images[:, 0]
        errors.append(_mse(drawn, truth))
        others.append(_mse(drawn, shot.other))
        truths.append(truth)
    everything = np.concatenate(truths).astype(np.float64) / 255
    mean_error = float(np.square(everything - everything.mean(0)).mean())
    return MapErrors(np.concatenate(errors, axis=1), np.concatenate(others, axis=1), mean_error)


def map_table(errors: MapErrors, plan: MapPlan) -> list[MapRow]:
    """A :class:`MapRow` for each number of views."""
    rows = []
    for views, error, other in zip(plan.counts, errors.error, errors.other, strict=True):
        apart = (error < other).astype(np.float64)
        rows.append(MapRow._make([views, *mean_95(error / errors.mean_error), *share_95(apart)]))
    return rows


def map_gallery(gqn: GQN, shots: MapShots, plan: MapPlan, scenes: int) -> list[list[NDArray[np.float32]]]:
    """For each of the first ``scenes`` and each number of views from 1 on, a row of pictures (H, W, 3) in [0, 1].

    The views seen so far, in white those not yet seen | the predicted map | the true map.
    """
    walk, above = (Views(*(array[:scenes] for array in views)) for views in (shots.walk, shots.map))
    some = MapShots(walk, above, shots.other[:scenes])
    drawn = _draw(gqn, some, plan.counts)
    walks, maps = (views.images.astype(np.float32) / 255 for views in (some.walk, some.map))
    rows = []
    for walk, true_map, predicted in zip(walks, maps[:, 0], drawn.swapaxes(0, 1), strict=True):
        for count, picture in list(zip(plan.counts, predicted, strict=True))[1:]:
            unseen = [np.ones_like(true_map)] * (plan.views - count)
            rows.append([*walk[:count], *unseen, picture, true_map])
    return rows


@torch.inference_mode()
def _draw(gqn: GQN, shots: MapShots, counts: tuple[int, ...]) -> NDArray[np.float32]:
    """The prior-mean map of each scene after each number of views: (C, n, H, W, 3) in [0, 1]."""
    gqn.eval()
    shares = gqn.represent_views(Views(*(torch.from_numpy(array) for array in shots.walk)))
    poses = torch.from_numpy(shots.map.poses)

    def picture(scene: Tensor) -> NDArray[np.float32]:
        return gqn.generate(scene, poses, deterministic=True)[0, :, 0].float().cpu().numpy()

    return np.stack([picture(shares[:, :count].sum(dim=1)) for count in counts])


def _mse(drawn: NDArray[np.float32], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean squared difference (C, n) of ``drawn`` (C, n, H, W, 3) in [0, 1] and ``truth`` (n, H, W, 3)."""
    return np.square(drawn - truth.astype(np.float64) / 255).mean(axis=(2, 3, 4))
