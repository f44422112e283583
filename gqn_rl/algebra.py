"""Whether the factors of a scene stand apart in its vector: red sphere - red cube + blue cube = blue sphere?

Eslami et al. (2018, figure 4) added and subtracted scene representations and drew what came out. Here the sums are also
counted: in blocks of scenes that combine every value of one factor with every value of another, all else equal, the
scene nearest to ``v(a, d) - v(c, d) + v(c, b)`` ought to be the one of ``a`` and ``b``. What is added and what it is
compared with were seen by different cameras.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gqn_rl.config import UserError
from gqn_rl.data import BlockPlan, look, set_scene, stack
from gqn_rl.encoder import GQNEncoder
from gqn_rl.types import SceneSource, Views

#: Values of each factor in a block: sixteen scenes to choose from.
SIDE: Final = 4


@dataclass(frozen=True)
class AlgebraPlan:
    """Which held-out scenes are added up."""

    seed: int  #: of scenes and poses
    blocks: int
    factors: tuple[str, str]  #: of the scene source; each block combines four values of each
    views: int  #: that each vector is made of

    @property
    def frames(self) -> int:
        """Images to render: of each scene, the views to add, those to compare with, and one to look at."""
        return self.blocks * SIDE**2 * (2 * self.views + 1)


class Block(NamedTuple):
    """The scenes of a block, numpy arrays; the first two axes are the values of the two factors."""

    added: Views  #: (SIDE, SIDE, K)
    compared: Views  #: (SIDE, SIDE, K), from other cameras
    shown: Views  #: (SIDE, SIDE, 1), from one camera for all


class Algebra(NamedTuple):
    """How often the nearest of the ``SIDE ** 2`` scenes of a block is the right one, for each block: (N,) in [0, 1]."""

    combined: NDArray[np.float64]  #: nearest to the sum of three others
    recognised: NDArray[np.float64]  #: nearest to the scene's own vector from other cameras: what is possible
    chance: float


def choose_factors(source: SceneSource, wanted: tuple[str, str] | None) -> tuple[str, str] | None:
    """Two factors of ``source``: the ``wanted`` ones, else its first two; None if it has fewer.

    Raises :class:`UserError` for a factor that it does not have, or the same one twice.
    """
    factors = source.scene_factors
    if wanted is None:
        return (factors[0], factors[1]) if len(factors) > 1 else None
    for factor in wanted:
        if factor not in factors:
            raise UserError(f"factor {factor!r}: the scene's factors are {', '.join(factors)}")
    if wanted[0] == wanted[1]:
        raise UserError(f"two different factors are needed, got {wanted[0]!r} twice")
    return wanted


def photograph_blocks(source: SceneSource, plan: AlgebraPlan, progress: Callable[[int], None]) -> Iterator[Block]:
    """Photograph the blocks of ``plan``; ``progress`` is called with the number of images just made."""
    block = BlockPlan(rows=plan.factors[0], columns=plan.factors[1], height=SIDE, width=SIDE)
    for number in range(plan.blocks):
        added: list[Views] = []
        compared: list[Views] = []
        shown: list[Views] = []
        pose_shown = None
        for scene in range(number * block.size, (number + 1) * block.size):
            set_scene(source, block, plan.seed, scene)
            rng = np.random.default_rng([plan.seed, scene, 1])
            for views in (added, compared):
                views.append(look(source, [source.sample_pose(rng) for _ in range(plan.views)]))
            pose_shown = source.sample_pose(rng) if pose_shown is None else pose_shown
            shown.append(look(source, [pose_shown]))
            progress(2 * plan.views + 1)
        yield Block(_square(added), _square(compared), _square(shown))


def combine(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """``v(a, d) - v(c, d) + v(c, b)`` for every (a, b) of ``vectors`` (SIDE, SIDE, D), c and d the next values."""
    c, d = np.roll(vectors, -1, axis=0), np.roll(vectors, -1, axis=1)
    return d - np.roll(c, -1, axis=1) + c


def nearest_is_right(found: NDArray[np.float32], candidates: NDArray[np.float32]) -> float:
    """Share of ``found`` (SIDE, SIDE, D) to which, of all ``candidates`` (the same), its own is the nearest."""
    one, other = (array.reshape(-1, array.shape[-1]) for array in (found, candidates))
    distances = np.square(one[:, None] - other[None]).sum(-1)
    return float((distances.argmin(1) == np.arange(len(one))).mean())


def add_up(encoder: GQNEncoder, blocks: Iterable[Block]) -> Algebra:
    """Count, in each of ``blocks``, how often the nearest scene is the right one."""
    combined, recognised = [], []
    for block in blocks:
        added, compared = (_encode(encoder, views) for views in (block.added, block.compared))
        combined.append(nearest_is_right(combine(added), compared))
        recognised.append(nearest_is_right(added, compared))
    return Algebra(np.array(combined), np.array(recognised), 1 / SIDE**2)


@torch.inference_mode()
def draw(encoder: GQNEncoder, block: Block) -> list[NDArray[np.float32]]:
    """Pictures (H, W, 3) in [0, 1]: the three scenes that are added, what the sum looks like, and what it should."""
    gqn = encoder.gqn
    read = gqn.representation.read(gqn.represent(_flat(block.added))).unflatten(0, (SIDE, SIDE))
    sum_ = (read[0, 1] - read[1, 1] + read[1, 0])[None]
    poses = torch.from_numpy(block.shown.poses[0, 0]).to(gqn.device)
    picture = gqn.generator.prior(sum_, poses, deterministic=True)[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy()
    truths = block.shown.images[:, :, 0].astype(np.float32) / 255
    return [truths[0, 1], truths[1, 1], truths[1, 0], picture, truths[0, 0]]


def _encode(encoder: GQNEncoder, views: Views) -> NDArray[np.float32]:
    flat = encoder.encode(*_flat(views)).float().cpu().numpy()
    return flat.reshape(SIDE, SIDE, -1)


def _square(scenes: Sequence[Views]) -> Views:
    return Views(*(array.reshape(SIDE, SIDE, *array.shape[1:]) for array in stack(scenes)))


def _flat(views: Views) -> Views:
    return Views(*(torch.from_numpy(array.reshape(SIDE**2, *array.shape[2:])) for array in views))
