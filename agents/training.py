"""Train a policy: exactly resumable, evaluated on held-out episodes as it learns, and summed up at the end."""

from __future__ import annotations

import contextlib
import inspect
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Self

import torch
from gymnasium import spaces
from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from gqn_rl import photographed
from gqn_rl.agents.artifacts import draw_learning_curve
from gqn_rl.agents.build import (
    Workers,
    build_model,
    check_algorithm_kwargs,
    find_env,
    load_model,
    make_vec_env,
    resolve_algorithm,
    see_with,
)
from gqn_rl.agents.callbacks import Clock, EvaluationCallback, ProgressCallback, StretchCallback
from gqn_rl.agents.checkpoints import Checkpoint, latest_checkpoint, model_bytes, newest, step_of
from gqn_rl.agents.evaluation import Evaluation, deterministic, evaluate, uniform_random
from gqn_rl.agents.interrupts import StopRequest, TrainingInterrupted
from gqn_rl.agents.reporting import describe, film, say, scores
from gqn_rl.agents.runs import Row, RunFolder
from gqn_rl.agents.seeding import HELD_OUT, stretch_seeds
from gqn_rl.agents.tracking import Tracker, TrackingMode, check_tracking
from gqn_rl.agents.vec_scene import VIEW_KEYS, Context, encoder_hash
from gqn_rl.allocator import keep_freed_memory
from gqn_rl.config import Config, UserError, none_where_said
from gqn_rl.encoder import GQNEncoder
from gqn_rl.files import disk_errors, locked, read_json, write_bytes, write_json
from gqn_rl.types import SceneEncoder

#: What trains an encoder on.
FINETUNING_POLICY: Final = "gqn_rl.agents.drq:CriticEncoderPolicy"
#: Episodes in a run's video.
FILMED: Final = 4
#: What the policy sees, in the summary; of an encoder, its name.
EYES: Final = {"pixels": "the pictures themselves", "observation": "the environment's own observation"}
#: Evaluation environments that are stepped, and encoded, together.
EVALUATION_BATCH: Final = 10


class EnvConfig(Config):
    """Which environment."""

    id: str  #: Gymnasium's id; one of your own as ``module:Id``
    kwargs: dict[str, Any] = Field(default_factory=dict)  #: for its constructor


class AlgorithmConfig(Config):
    """Which algorithm."""

    id: str = "SAC"  #: of Stable-Baselines3, or ``module:Class`` with its interface
    policy: str | None = None  #: None picks the one for the observation
    kwargs: dict[str, Any] = Field(default_factory=dict)  #: for its constructor


class PixelsConfig(Config):
    """What a policy on pictures sees of each view."""

    stack: PositiveInt = 1  #: the newest picture and those just before, together


class EvaluationConfig(Config):
    """How often, and how well, the policy is measured."""

    every: PositiveInt = 1000  #: environment steps
    episodes: PositiveInt = 50


class TrainConfig(Config):
    """One training run."""

    env: EnvConfig
    #: A name, a path, or ``module:Class``; None: the policy sees the observation itself.
    encoder: Annotated[str | None, BeforeValidator(none_where_said)] = None
    #: The policy trains the encoder on, which is then a part of it. It and the replay buffer, which holds pictures, are
    #: those of :mod:`gqn_rl.agents.drq`.
    finetune: bool = False
    pixels: PixelsConfig | None = None  #: the policy gets the pictures themselves, and no encoder
    #: What the encoder's vector is of: the present views, or all since the episode began, which needs a static scene.
    context: Context = "now"
    proprio: bool = True  #: whether the policy gets the proprioception beside what it sees
    certainty: bool = False  #: whether the policy is told how sure the encoder is of each of its points
    algorithm: AlgorithmConfig = AlgorithmConfig()
    total_steps: PositiveInt  #: environment steps, all environments together
    n_envs: PositiveInt = 1
    workers: Workers = "in_process"
    evaluation: EvaluationConfig = EvaluationConfig()
    #: Environment steps, all environments together; also where every run resets its environments, in mid-episode.
    checkpoint_every: PositiveInt = 1000
    seed: NonNegativeInt = Field(default=0, lt=HELD_OUT)
    wandb: TrackingMode = "offline"
    threads: PositiveInt | None = None  #: PyTorch's threads; None leaves PyTorch's choice
    task: str | None = None  #: this run's name in tables; None: the environment's id
    #: What is compared, in tables; None: the encoder's name, ``pixels`` or ``observation``, ``+finetuned`` etc.
    arm: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.pixels is not None and self.encoder is not None:
            raise ValueError(f"with pixels there is no encoder: leave out encoder {self.encoder!r}, or pixels")
        if self.finetune and self.encoder is None:
            raise ValueError("finetune needs an encoder to begin with")
        if self.finetune and self.algorithm.policy is not None:
            raise ValueError(
                f"finetune brings a policy of its own: leave out algorithm.policy {self.algorithm.policy!r}"
            )
        return self

    @property
    def eyes(self) -> str:
        """What the policy sees, in a few words."""
        if self.pixels is not None:
            return "pixels"
        return self.encoder or "observation"

    @property
    def arm_name(self) -> str:
        """What this run is called in tables: ``arm``, or what the policy sees and how it differs from the usual."""
        if self.arm is not None:
            return self.arm
        unusual = {
            "finetuned": self.finetune,
            self.context: self.context != "now",
            "certainty": self.certainty,
            "no-proprio": not self.proprio,
        }
        return "+".join([self.eyes, *(name for name, is_so in unusual.items() if is_so)])


def train(folder: Path, config: TrainConfig, encoder: SceneEncoder | None = None) -> dict[str, Any]:
    """Do the run ``config`` in ``folder``, or go on with it; returns what ``summary.json`` holds.

    A run that was stopped, in whatever way, and is started again with the same arguments ends with the same policy
    and the same evaluations, bit for bit, as one that was not, given the same machine and versions, an environment
    that follows from its reset seed alone, and an algorithm whose state is in its zip and its replay buffer.

    Raises:
        UserError: something the user can mend, before any work is done where possible.
        TrainingInterrupted: SIGINT or SIGTERM came; the same call goes on from the last checkpoint.
    """
    run = RunFolder(folder)
    run.refuse_finished()
    check_tracking(config.wandb)
    algorithm = resolve_algorithm(config.algorithm.id)
    check_algorithm_kwargs(algorithm, config.algorithm.kwargs)
    check_episodes_end(config)
    keep_freed_memory()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    fingerprint = None if encoder is None else encoder_hash(encoder)

    with contextlib.ExitStack() as stack:
        venv = make_envs(config, encoder, config.n_envs)
        stack.callback(venv.close)
        check_seen(config, venv)
        venv.reset()  # pictures that cannot be rendered are noticed here, before there is a folder
        stack.enter_context(disk_errors(str(folder)))
        stack.enter_context(locked(folder))
        begun = run.claim(config, fingerprint)
        checkpoint = _find_checkpoint(run) if begun else None
        if checkpoint:
            model = _load(algorithm, config, checkpoint, venv)
        else:
            model = fresh_model(algorithm, config, venv, encoder)
        if begun and (changed := run.go_on(checkpoint.step if checkpoint else 0)):
            say(f"note: {', '.join(changed)} since this run was last at work; it will not repeat exactly")
        if _episode_limit(config.env) is None:
            say(f"note: {config.env.id} is registered without max_episode_steps; episodes have to end by themselves")
        if isinstance(model, TD3) and model.action_noise is None:  # DDPG is one, too
            say(
                f"note: {config.algorithm.id} explores by noise alone, and there is none; "
                "algorithm.kwargs.action_noise=0.1 adds some"
            )
        if not isinstance(model, OffPolicyAlgorithm | OnPolicyAlgorithm):
            say(
                f"note: {config.algorithm.id} collects in a way of its own, such as with noise that it draws before a "
                "checkpoint is written; a run of it that is resumed is not sure to repeat exactly"
            )
        say(f"resuming {folder} at step {checkpoint.step:,}" if checkpoint else f"training in {folder}")

        stop = stack.enter_context(StopRequest())

        def check_stop() -> None:
            if stop.received:
                raise TrainingInterrupted(model.num_timesteps, step_of(newest(run.checkpoints)))

        # In this process a larger batch of episodes saves encoder calls; in workers it would cost processes.
        batch = config.n_envs if config.workers == "subprocess" else EVALUATION_BATCH
        held_out = make_envs(config, encoder, min(batch, config.evaluation.episodes))
        stack.callback(held_out.close)
        random_policy = _random_policy(run, held_out, config.evaluation.episodes, check_stop)
        if not begun:  # not before whole episodes went well: until then the folder is free for other settings
            run.begin(config, config.encoder, fingerprint)
        write_json(run.random_policy, random_policy)
        clock = Clock(checkpoint.wall_s if checkpoint else 0.0)
        tracker = Tracker(config.wandb, folder, folder.name, config.to_dict(), say)
        stack.callback(tracker.close)
        model.set_logger(tracker.logger())
        bar = stack.enter_context(
            tqdm(total=config.total_steps, initial=model.num_timesteps, unit="step", disable=None, dynamic_ncols=True)
        )
        rows = _restore_records(run, checkpoint)
        recorder = _Recorder(run, config, model, held_out, random_policy, rows, clock, tracker, bar, check_stop)
        callbacks = [
            EvaluationCallback(config.evaluation.every, rows[-1].step if rows else 0, recorder.measure),
            StretchCallback(config.checkpoint_every, config.seed, run.checkpoints, recorder.best_model, clock),
            ProgressCallback(bar, check_stop),
        ]
        remaining = config.total_steps - model.num_timesteps
        model.learn(remaining, callback=callbacks, reset_num_timesteps=checkpoint is None)
        check_stop()
        result = recorder.measure(model.num_timesteps)
        bar.close()
        _save_model(model, run.final_model)
        summary = {"encoder_hash": fingerprint, **recorder.sum_up(result, partial(see, config, encoder))}
        write_json(run.summary, summary)
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # nobody goes on from there, and of pixels it is gigabytes
        say(str(summary["text"]))
        return summary


@dataclass(frozen=True)
class _Recorder:
    """Measures a model as it learns, and keeps what comes of it in the run's folder."""

    run: RunFolder
    config: TrainConfig
    model: BaseAlgorithm
    held_out: VecEnv
    random_policy: dict[str, Any]  #: how random actions do in the same episodes
    rows: list[Row]  #: the evaluations so far
    clock: Clock
    tracker: Tracker
    bar: tqdm[Any]
    check_stop: Callable[[], None]

    def measure(self, step: int) -> Evaluation:
        """Evaluate the model at ``step``; keep the figures, and the policy if it is the best so far."""
        config, by_chance = self.config, self.random_policy
        result = evaluate(
            deterministic(self.model), self.held_out, config.evaluation.episodes, check_stop=self.check_stop
        )
        if not self.rows or result.score > max(row.score for row in self.rows):
            _save_model(self.model, self.run.best_model)
        row = Row(
            task=config.task or config.env.id,
            arm=config.arm_name,
            seed=config.seed,
            step=step,
            score=result.score,
            success=result.success,
            wall_s=round(self.clock.seconds(), 1),
            length=result.length,
        )
        self.rows.append(row)
        self.run.append_row(row)
        self.tracker.log(step, {"score": result.score, "success": result.success, "length": result.length})
        self.bar.set_postfix_str(scores(result.success, result.score))
        say(
            f"step {step:>7,} of {config.total_steps:,}: {scores(result.success, result.score)}"
            f"   (random actions: {scores(by_chance['success'], by_chance['score'])})"
        )
        return result

    def best_model(self) -> Path | None:
        """The file of the best policy so far; None before the first evaluation."""
        return self.run.best_model if self.rows else None

    def sum_up(self, result: Evaluation, see: Callable[[VecEnv], VecEnv]) -> dict[str, Any]:
        """Draw the learning curve, film the policy, and say what the run achieved, ``result`` in the end.

        ``see`` wraps an environment as the policy sees it.
        """
        run, config = self.run, self.config
        final, best = self.rows[-1], max(self.rows, key=lambda row: row.score)
        draw_learning_curve(
            run.learning_curve, self.rows, self.random_policy, f"{final.task}: {final.arm}, seed {final.seed}"
        )
        video = film(
            run.path / "episodes.mp4",
            env_id=config.env.id,
            env_kwargs=config.env.kwargs,
            model=self.model,
            see=see,
            episodes=FILMED,
            check_stop=self.check_stop,
        )
        self.tracker.log_files(final.step, run.learning_curve, video)
        return {
            "task": final.task,
            "arm": final.arm,
            "seed": final.seed,
            "steps": final.step,
            "wall_s": final.wall_s,
            "policy": result.to_dict(),
            "best": {
                "step": best.step,
                "score": best.score,
                "success": None if math.isnan(best.success) else best.success,
            },
            "random": self.random_policy,
            "video": None if video is None else video.name,
            "text": describe(
                env_id=config.task or config.env.id,
                algorithm=config.algorithm.id,
                eyes=EYES.get(config.eyes, f"the scene vectors of encoder {config.encoder}"),
                result=result,
                random_policy=self.random_policy,
                steps=final.step,
                wall_s=final.wall_s,
                folder=run.path,
                video=video,
            ),
        }


def check_episodes_end(config: TrainConfig) -> None:
    """Raise :class:`UserError` if no whole episode fits between two checkpoints, where environments are reset."""
    limit = _episode_limit(config.env)
    each = max(config.checkpoint_every // config.n_envs, _rollout_steps(config.algorithm))
    if limit is not None and each < min(limit, config.total_steps // config.n_envs):
        raise UserError(
            f"checkpoint_every is {config.checkpoint_every}: each environment is reset every {each} steps, and "
            f"episodes of {limit} would never end; valid: {limit * config.n_envs} or more, and "
            f"{10 * limit * config.n_envs} cuts few of them short"
        )


def _rollout_steps(config: AlgorithmConfig) -> int:
    """Steps of each environment in an on-policy algorithm's rollout, within which nothing is reset; 1 of others."""
    algorithm = resolve_algorithm(config.id)
    parameters = inspect.signature(algorithm).parameters
    if not issubclass(algorithm, OnPolicyAlgorithm) or "n_steps" not in parameters:
        return 1
    steps: int = config.kwargs.get("n_steps", parameters["n_steps"].default)
    return steps


def _episode_limit(env: EnvConfig) -> int | None:
    """Steps after which Gymnasium ends an episode, in a camera rig those of what is in it; None: it does not."""
    inside = photographed(env.id, env.kwargs)
    limits = [env.kwargs.get("max_episode_steps", find_env(env.id).max_episode_steps)]
    if inside != env.id and isinstance(inside, str):
        limits.append(find_env(inside).max_episode_steps)
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def check_seen(config: TrainConfig, venv: VecEnv) -> None:
    """Raise :class:`UserError` for views that nothing makes sense of.

    SB3 would flatten pictures and camera poses into one perceptron.
    """
    space, arguments = venv.observation_space, config.algorithm.kwargs.get("policy_kwargs") or {}
    sees = isinstance(space, spaces.Dict) and {*VIEW_KEYS} <= space.spaces.keys()
    if sees and config.algorithm.policy is None and arguments.get("features_extractor_class") is None:
        raise UserError(
            "the environment shows views, and neither encoder nor pixels says what to make of them; set encoder, or "
            "pixels.stack=1 for a convolutional policy on the pictures, or env.kwargs.obs_mode=state where there is one"
        )


def make_envs(
    config: TrainConfig, encoder: SceneEncoder | None, n_envs: int, through: Callable[[VecEnv], VecEnv] | None = None
) -> VecEnv:
    """Environments as the policy of ``config`` sees them; the one way, for training and for evaluation.

    ``through`` changes what the cameras show before anybody sees it.

    Raises:
        UserError: they cannot be made, for whatever reason, or not seen as ``config`` wants it.
        RenderError: rendering cannot work here.
    """
    _, seed = stretch_seeds(config.seed, 0)
    venv = make_vec_env(config.env.id, config.env.kwargs, n_envs, seed, config.workers)
    try:
        return see(config, encoder, venv if through is None else through(venv))
    except BaseException:
        venv.close()
        raise


def see(config: TrainConfig, encoder: SceneEncoder | None, venv: VecEnv) -> VecEnv:
    """``venv`` as the policy of ``config`` sees it."""
    if config.finetune:
        stack: int | None = 1
    else:
        stack = config.pixels.stack if config.pixels else None
    return see_with(encoder, venv, config.proprio, stack, config.context, config.certainty)


def fresh_model(
    algorithm: type[BaseAlgorithm], config: TrainConfig, venv: VecEnv, encoder: SceneEncoder | None
) -> BaseAlgorithm:
    """A model of ``config`` at initialisation, for the ``venv`` that :func:`see` returns.

    Raises:
        UserError: the algorithm refuses its arguments, or ``finetune`` is given an encoder that it cannot train.
    """
    policy, kwargs = config.algorithm.policy, config.algorithm.kwargs
    if config.finetune:
        if not isinstance(encoder, GQNEncoder):
            raise UserError(f"finetune needs an encoder of gqn-rl's own, got {config.encoder!r}")
        if not issubclass(algorithm, SAC):
            raise UserError(
                f"finetune trains the encoder by SAC's critics, but algorithm.id is {config.algorithm.id!r}"
            )
        policy = FINETUNING_POLICY
        pretrained = {"pretrained": encoder.without_generator()}
        kwargs = {**kwargs, "policy_kwargs": {**(kwargs.get("policy_kwargs") or {}), **pretrained}}
    return build_model(algorithm, venv, policy=policy, kwargs=kwargs, total_steps=config.total_steps, seed=config.seed)


def _find_checkpoint(run: RunFolder) -> Checkpoint | None:
    checkpoint, problems = latest_checkpoint(run.checkpoints)
    for problem in problems:
        say(f"note: {problem}; using the one before it")
    return checkpoint


def _load(algorithm: type[BaseAlgorithm], config: TrainConfig, checkpoint: Checkpoint, venv: VecEnv) -> BaseAlgorithm:
    model = load_model(algorithm, checkpoint.model, venv, config.algorithm.kwargs.get("device", "auto"))
    checkpoint.restore_replay(model)
    return model


def _restore_records(run: RunFolder, checkpoint: Checkpoint | None) -> list[Row]:
    """Bring the records back to the checkpoint's moment; returns the evaluations until then."""
    best = checkpoint.best_model if checkpoint else None
    if best is not None:
        write_bytes(run.best_model, best.read_bytes())
    else:
        run.best_model.unlink(missing_ok=True)
    return run.cut_rows(checkpoint.step if checkpoint else 0)


def _random_policy(run: RunFolder, venv: VecEnv, episodes: int, check_stop: Callable[[], None]) -> dict[str, Any]:
    """How uniformly random actions do in the same episodes; measured once a run."""
    if run.random_policy.exists():
        known: dict[str, Any] = read_json(run.random_policy)
        return known
    policy = uniform_random(venv.action_space, venv.num_envs, seed=HELD_OUT)
    return evaluate(policy, venv, episodes, check_stop=check_stop).to_dict()


def _save_model(model: BaseAlgorithm, path: Path) -> None:
    write_bytes(path, model_bytes(model))
