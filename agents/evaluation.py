"""How good a policy is: deterministic episodes from held-out seeds, the same ones every time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from gqn_rl.agents.seeding import HELD_OUT, own_randomness
from gqn_rl.config import UserError

#: Steps after which an episode counts as one without an end. The longest of common use are Atari's: Gymnasium ends them
#: after 108,000 frames, four to a step.
LONGEST: Final = 30_000
#: A batch of observations, and which of them begin an episode (n,), to a batch of actions.
Policy = Callable[[Any, NDArray[np.bool_]], NDArray[Any]]


@dataclass(frozen=True)
class Evaluation:
    """What N episodes came to; nan where the environment does not say."""

    returns: NDArray[np.float64]  #: (N,) undiscounted sums of rewards
    lengths: NDArray[np.int64]  #: (N,) steps
    successes: NDArray[np.float64]  #: (N,) ``info["is_success"]`` at each episode's last step, 0 or 1
    distances: NDArray[np.float64]  #: (N,) ``info["distance"]`` at each episode's last step, metres

    @property
    def score(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def success(self) -> float:
        """Share of episodes that ended in success."""
        return float(self.successes.mean())

    @property
    def length(self) -> float:
        """Mean steps of an episode."""
        return float(self.lengths.mean())

    @property
    def distance(self) -> float:
        """Mean distance at the end of an episode, metres."""
        return float(self.distances.mean())

    def to_dict(self) -> dict[str, float | int | None]:
        """The means, with None in place of nan, for JSON."""
        means = {"score": self.score, "success": self.success, "distance": self.distance, "length": self.length}
        return {
            "episodes": len(self.returns),
            **{name: None if np.isnan(value) else value for name, value in means.items()},
        }


def evaluate(
    policy: Policy,
    venv: VecEnv,
    episodes: int,
    first_seed: int = 0,
    check_stop: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Run ``episodes`` episodes; episode i is the one that held-out seed ``first_seed + i`` gives.

    For a policy that goes by observations alone, the result does not depend on how many environments ``venv`` has, but
    for the rounding of batched arithmetic. The process's generators are left as they were. ``check_stop`` is called
    before every step and may raise.

    Raises:
        UserError: an episode does not end, or its rewards sum up to no finite number.
    """
    returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
    successes, distances = np.full(episodes, np.nan), np.full(episodes, np.nan)
    with own_randomness(HELD_OUT + first_seed):
        for first in range(0, episodes, venv.num_envs):
            running = np.arange(venv.num_envs) + first < episodes
            venv.seed(HELD_OUT + first_seed + first)
            observations, starts = venv.reset(), np.ones(venv.num_envs, bool)
            while running.any():
                check_stop()
                observations, rewards, dones, infos = venv.step(policy(observations, starts))
                starts = dones
                # An environment that is done goes on with an episode that nobody counts until all of them are.
                for index in np.flatnonzero(running):
                    returns[first + index] += rewards[index]
                    lengths[first + index] += 1
                    if dones[index]:
                        successes[first + index] = infos[index].get("is_success", np.nan)
                        distances[first + index] = infos[index].get("distance", np.nan)
                running &= ~dones
                if lengths[first : first + venv.num_envs].max() >= LONGEST and running.any():
                    raise UserError(
                        f"an episode has not ended after {LONGEST:,} steps, the most that is evaluated; give the "
                        "environment a max_episode_steps of at most that where it is registered"
                    )
    if not np.isfinite(returns).all():
        worst = int(np.flatnonzero(~np.isfinite(returns))[0])
        raise UserError(
            f"the environment's rewards are not finite: those of the episode with seed {HELD_OUT + first_seed + worst} "
            f"sum up to {returns[worst]}"
        )
    return Evaluation(returns, lengths, successes, distances)


def deterministic(model: BaseAlgorithm) -> Policy:
    """The policy of ``model`` without exploration; a recurrent one's memory begins anew with each episode."""
    memory: Any = None

    def act(observations: Any, starts: NDArray[np.bool_]) -> NDArray[Any]:
        nonlocal memory
        actions, memory = model.predict(observations, memory, episode_start=starts, deterministic=True)
        return actions

    return act


def uniform_random(space: spaces.Space[Any], n_envs: int, seed: int) -> Policy:
    """Actions drawn uniformly from ``space`` by a generator of its own, whatever is observed.

    One after the other for ``n_envs`` environments, so that an episode's actions depend on their number.
    """
    own = copy.deepcopy(space)
    own.seed(seed)
    return lambda observations, starts: np.stack([own.sample() for _ in range(n_envs)])
