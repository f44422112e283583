"""Random colours that a name tells apart: hues that keep a distance and have an order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def distinct_hues(rng: np.random.Generator, count: int, hues: tuple[float, float], gap: float) -> NDArray[np.float64]:
    """``count`` hues (degrees, in no order), uniform over all within ``hues`` that are at least ``gap`` apart.

    Raises ``ValueError`` when so many do not fit.
    """
    low, high = hues
    room = high - low - (count - 1) * gap
    if room < 0:
        raise ValueError(f"{count} hues that are {gap} degrees apart do not fit between {low} and {high}")
    free = np.sort(rng.uniform(low, low + room, count))
    return rng.permutation(free + gap * np.arange(count))


def rgb(hue: NDArray[np.float64], saturation: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Red, green and blue (N, 3) in [0, 1] of hue (degrees), saturation and value (in [0, 1]), each (N,)."""
    sector = (hue[:, None] / 60 + np.array([5.0, 3.0, 1.0])) % 6
    share = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    return value[:, None] * (1 - saturation[:, None] * share)
