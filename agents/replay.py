"""Replay a trained run: episodes with fresh seeds, their numbers, and a video."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from gqn_rl.agents.build import check_spaces, load_model, resolve_algorithm
from gqn_rl.agents.evaluation import deterministic, evaluate
from gqn_rl.agents.reporting import film
from gqn_rl.agents.runs import RunFolder
from gqn_rl.agents.training import EVALUATION_BATCH, FILMED, TrainConfig, make_envs, see
from gqn_rl.agents.vec_scene import encoder_hash
from gqn_rl.config import UserError
from gqn_rl.files import write_json
from gqn_rl.types import SceneEncoder


def read_run(folder: Path) -> TrainConfig:
    """The configuration of the run in ``folder``; raises :class:`UserError` when there is none."""
    run = RunFolder(folder)
    if not run.config.exists():
        raise UserError(f"{folder} holds no run: there is no {run.config.name}")
    return TrainConfig.from_yaml(run.config)


def trained_policy(
    folder: Path, encoder: SceneEncoder | None, best: bool = False
) -> tuple[TrainConfig, Path, BaseAlgorithm]:
    """The run's configuration, the file of its policy, and that policy; sets the run's number of threads.

    The policy is the final one, or the best one so far while the run is unfinished or when ``best`` is set. Raises
    :class:`UserError` when there is none yet, or ``encoder`` is not the one that it was trained with.
    """
    run, config = RunFolder(folder), read_run(folder)
    run.check_encoder(None if encoder is None else encoder_hash(encoder))
    path = run.final_model if run.finished and not best else run.best_model
    if not path.exists() and run.finished:
        other = "" if best or not run.best_model.exists() else "; --best replays the best policy"
        raise UserError(f"{path} is missing, though the run is finished{other}")
    if not path.exists():
        raise UserError(f"{folder} has no policy yet: the first one is saved after {config.evaluation.every} steps")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return config, path, load_model(resolve_algorithm(config.algorithm.id), path)


def replay(
    folder: Path, encoder: SceneEncoder | None, episodes: int, first_seed: int = 0, best: bool = False
) -> dict[str, Any]:
    """Run the policy of ``folder`` on held-out episodes ``first_seed`` and on, without exploration.

    The policy is that of :func:`trained_policy`. Writes ``replay.json`` and a video of the first episodes, and returns
    what is in the former. Raises :class:`UserError` as :func:`trained_policy` does.
    """
    config, path, model = trained_policy(folder, encoder, best)
    venv = make_envs(config, encoder, min(episodes, EVALUATION_BATCH))
    try:
        check_spaces(model, venv, path)
        result = evaluate(deterministic(model), venv, episodes, first_seed)
    finally:
        venv.close()
    video = film(
        folder / "replay.mp4",
        env_id=config.env.id,
        env_kwargs=config.env.kwargs,
        model=model,
        see=partial(see, config, encoder),
        episodes=min(episodes, FILMED),
        first_seed=first_seed,
    )
    found = {
        "model": path.name,
        "first_seed": first_seed,
        **result.to_dict(),
        "video": None if video is None else video.name,
    }
    write_json(folder / "replay.json", found)
    return found
