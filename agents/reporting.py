"""What a run tells people: lines as it goes, a paragraph and a video at the end."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from gqn_rl.agents.artifacts import film_episodes, write_video
from gqn_rl.agents.evaluation import Evaluation, deterministic


def say(text: str) -> None:
    """Print a line to standard output at once, above any progress bar."""
    try:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read along has gone (`| head`); the run goes on
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def scores(success: float | None, score: float) -> str:
    """``success 80%, score -3.21``, without the first where the environment does not say."""
    shown = "" if success is None or math.isnan(success) else f"success {success:.0%}, "
    return f"{shown}score {score:.2f}"


def describe(
    *,
    env_id: str,
    algorithm: str,
    eyes: str,
    result: Evaluation,
    random_policy: Mapping[str, Any],
    steps: int,
    wall_s: float,
    folder: Path,
    video: Path | None,
) -> str:
    """One paragraph of plain English on what a run achieved, where it is, and how to watch it.

    ``eyes`` says what the policy sees, ``random_policy`` holds the ``score`` and ``success`` of uniformly random
    actions in the same episodes.
    """
    episodes = len(result.returns)
    by_chance = random_policy["success"]  # an environment may speak of success only where there is some
    if math.isnan(result.success):
        achieved = f"gets a mean return of {result.score:.2f} over {episodes} held-out episodes"
    else:
        achieved = f"succeeds in {result.success:.0%} of {episodes} held-out episodes (mean return {result.score:.2f})"
    if math.isnan(result.success) or by_chance is None:
        compared = f"get {random_policy['score']:.2f}"
    else:
        compared = f"succeed in {by_chance:.0%} (mean return {random_policy['score']:.2f})"
    shown = "learning_curve.png" + (f", {video.name}" if video else "")
    return (
        f"After {steps:,} steps of {env_id} ({_duration(wall_s)}), the {algorithm} policy on {eyes} {achieved}; "
        f"uniformly random actions {compared}. Everything is in {folder}: {shown}, evaluations.csv, and the policies "
        f"best_model.zip and final_model.zip. Watch it again with: gqn-rl evaluate {folder}"
    )


def film(
    path: Path,
    *,
    env_id: str,
    env_kwargs: Mapping[str, Any],
    model: BaseAlgorithm,
    see: Callable[[VecEnv], VecEnv],
    episodes: int,
    first_seed: int = 0,
    check_stop: Callable[[], None] = lambda: None,
) -> Path | None:
    """Write a video of held-out episodes; where that fails, say why and return None.

    ``see`` wraps the environment as it was for training.

    Renderers fail in ways of their own, which must not cost a trained policy its summary.
    """
    try:
        policy = deterministic(model)
        with film_episodes(env_id, env_kwargs, policy, see, episodes, first_seed, check_stop) as (frames, fps):
            if written := write_video(path, frames, fps):
                return written
        reason = "the environment does not draw itself"
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    say(f"note: no video ({reason})")
    return None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
