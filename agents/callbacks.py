"""What happens between two stretches of learning: evaluate, checkpoint, report, stop.

All of it hangs on ``_on_rollout_start``, which Stable-Baselines3 calls after an update and before the next step: the
one moment when a model owes nothing to anything that is not in its zip and its replay buffer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from gqn_rl.agents.checkpoints import cut_episodes, save_checkpoint
from gqn_rl.agents.seeding import seed_process, stretch_seeds


class Clock:
    """Seconds of training, over all the processes that a run took."""

    def __init__(self, before: float) -> None:
        self._before = before
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Seconds so far, stops not counted."""
        return self._before + time.perf_counter() - self._start


class StretchCallback(BaseCallback):
    """Begins a new stretch of randomness every ``every`` steps, and writes a checkpoint there.

    Every run does this, interrupted or not, at the first rollout on or after each multiple of ``every``: it resets
    the training environments and seeds every generator from (``seed``, step). A run that resumes begins with the
    same, and so repeats what the uninterrupted one does.
    """

    def __init__(self, every: int, seed: int, root: Path, best_model: Callable[[], Path | None], clock: Clock) -> None:
        super().__init__()
        self._every = every
        self._seed = seed
        self._root = root
        self._best_model = best_model
        self._clock = clock
        self._begun: int | None = None  # the step at which the present stretch began

    def _on_rollout_start(self) -> None:
        step = self.model.num_timesteps
        if self._begun is None:
            self._begin(step)
        elif step // self._every > self._begun // self._every:
            cut_episodes(self.model)
            save_checkpoint(self._root, self.model, self._clock.seconds(), self._best_model())
            self._begin(step)

    def _begin(self, step: int) -> None:
        self._begun = step
        everything, environments = stretch_seeds(self._seed, step)
        seed_process(everything)
        model, venv = self.model, self.training_env
        model.action_space.seed(everything)
        venv.seed(environments)
        observations = venv.reset()
        assert not isinstance(observations, tuple)  # Stable-Baselines3 knows no Tuple observations
        model._last_obs = observations
        model._last_episode_starts = np.ones(venv.num_envs, dtype=bool)
        if model.action_noise is not None:
            model.action_noise.reset()
        if model.use_sde:  # its noise was drawn just before, by generators that a resumed run does not have
            actor: Any = getattr(model, "actor", model.policy)
            actor.reset_noise(venv.num_envs)

    def _on_step(self) -> bool:
        return True


class EvaluationCallback(BaseCallback):
    """Calls ``evaluate(step)`` at the first rollout on or after each multiple of ``every`` steps.

    ``last`` is the step of the newest evaluation that exists, 0 for none.
    """

    def __init__(self, every: int, last: int, evaluate: Callable[[int], object]) -> None:
        super().__init__()
        self._every = every
        self._last = last
        self._evaluate = evaluate

    def _on_rollout_start(self) -> None:
        step = self.model.num_timesteps
        if step // self._every > self._last // self._every:
            self._last = step
            self._evaluate(step)

    def _on_step(self) -> bool:
        return True


class ProgressCallback(BaseCallback):
    """Moves a progress bar, and calls ``check_stop`` after every step, which may raise.

    Not every algorithm (``sb3_contrib:ARS``) asks whether a callback wants it to go on.
    """

    def __init__(self, bar: tqdm[Any], check_stop: Callable[[], None]) -> None:
        super().__init__()
        self._bar = bar
        self._check_stop = check_stop

    def _on_step(self) -> bool:
        self._bar.update(self.model.num_timesteps - self._bar.n)
        self._check_stop()
        return True
