"""Where every random number of a run comes from.

A run is divided into stretches by its checkpoint boundaries. Everything random in a stretch follows from the run's
seed and the step at which the stretch begins, so a run that resumes there goes on exactly as the one that never
stopped. Evaluation has seeds of its own, which training never uses, and leaves no trace in training's generators.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from stable_baselines3.common.utils import set_random_seed

#: Seeds of training environments lie below, those of evaluation episodes from here on. NumPy's legacy generator,
#: which some environments seed, takes seeds below 2**32.
HELD_OUT: Final = 2**31


def stretch_seeds(seed: int, step: int) -> tuple[int, int]:
    """Seeds of the stretch that begins at ``step``: of the process's generators, and of the first environment.

    Environment i of a vectorised environment gets the latter plus i, which stays below ``HELD_OUT``.
    """
    everything, environments = np.random.SeedSequence([seed, step]).generate_state(2)
    return int(everything), int(environments) % (HELD_OUT // 2)


def seed_process(seed: int) -> None:
    """Seed the generators of ``random``, NumPy and PyTorch (all devices)."""
    set_random_seed(seed)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Run the body with the process's generators seeded by ``seed``, then put them back as they were."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - Stable-Baselines3 draws from it
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        seed_process(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
