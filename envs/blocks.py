"""Chains of cubes, as Shepard and Metzler drew them, and what tells such an object from its mirror image.

An object is a set of cells of the cubic grid, an integer array (N, 3) whose rows are the cells in the chain's order.
Two objects are the same if a rotation and a shift carry the cells of one onto those of the other. Only the 24 rotations
of the grid can, so trying them all is a proof. An object that is not the same as its mirror image is *chiral*.
"""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.int64]

#: The six neighbours of the cell (0, 0, 0).
_STEPS: Final = np.concatenate([np.eye(3, dtype=np.int64), -np.eye(3, dtype=np.int64)])
#: Cells along an edge of the grid that objects are compared in; longer chains do not fit.
_SIDE: Final = 16


def _rotations() -> NDArray[np.int64]:
    """The rotations of the grid (24, 3, 3): permutations of the axes, with signs, that keep handedness."""
    every = [
        np.diag(signs) @ np.eye(3, dtype=np.int64)[list(order)]
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]
    return np.stack([each for each in every if np.linalg.det(each) > 0])


ROTATIONS: Final = _rotations()


def random_chain(parts: int, rng: np.random.Generator) -> Cells:
    """A self-avoiding random walk (parts, 3) from (0, 0, 0): each cell is one of the last one's free neighbours.

    Every free neighbour is as likely. A walk that has nowhere to go, which takes more than 7 parts, begins anew.
    """
    if not 1 <= parts <= _SIDE:
        raise ValueError(f"parts must be from 1 to {_SIDE}, got {parts!r}")
    while True:
        chain = [(0, 0, 0)]
        while len(chain) < parts:
            x, y, z = chain[-1]
            free = [cell for dx, dy, dz in _STEPS.tolist() if (cell := (x + dx, y + dy, z + dz)) not in chain]
            if not free:
                break
            chain.append(free[rng.integers(len(free))])
        else:
            return np.array(chain)


def random_chiral_chain(parts: int, rng: np.random.Generator) -> Cells:
    """The first :func:`random_chain` that is chiral; ``parts`` must be at least 4, as no shorter one is."""
    if parts < 4:
        raise ValueError(f"a chiral chain has at least 4 parts, got {parts!r}")
    while True:
        chain = random_chain(parts, rng)
        if is_chiral(chain):
            return chain


def mirror_image(cells: Cells) -> Cells:
    """``cells`` (N, 3) seen in a mirror: x turned to -x."""
    return cells * np.array([-1, 1, 1])


def same_object(one: Cells, other: Cells) -> bool:
    """Whether a rotation and a shift carry the cells of ``one`` (N, 3) onto those of ``other`` (M, 3)."""
    if len(one) != len(other):
        return False
    return bool((_numbers(one @ ROTATIONS) == _numbers(other)).all(axis=-1).any())


def is_chiral(cells: Cells) -> bool:
    """Whether no rotation carries ``cells`` (N, 3) onto their mirror image."""
    return not same_object(cells, mirror_image(cells))


def _numbers(cells: Cells) -> NDArray[np.int64]:
    """Each set of cells (..., N, 3) as its cells' numbers (..., N) in ascending order, wherever it lies."""
    corner = cells - cells.min(axis=-2, keepdims=True)
    return np.sort(corner @ np.array([_SIDE * _SIDE, _SIDE, 1]), axis=-1)
