"""The benchmark's grid: task x arm x seed from YAML files, each cell one ordinary training run.

A file names its task, what all arms share, and of each arm only what differs::

    task: arm_reach_fixed
    shared:
      env: {id: gqn_rl/ArmReach-v0, kwargs: {obs_mode: views, views: 2}}
      total_steps: 20000
    arms:
      state: {env: {kwargs: {obs_mode: state}}}
      gqn: {encoder: arm-reach}
      pixels: {pixels: {stack: 1}, total_steps: 60000}

``shared`` and an arm, laid over it key by key, are a :class:`gqn_rl.agents.training.TrainConfig`.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Self

import numpy as np
from gymnasium import spaces
from pydantic import Field, StringConstraints, model_validator
from stable_baselines3.common.base_class import BaseAlgorithm

from gqn_rl.agents.build import check_algorithm_kwargs, resolve_algorithm
from gqn_rl.agents.checkpoints import has_replay, replay_buffer
from gqn_rl.agents.runs import RunFolder, check_same_config
from gqn_rl.agents.training import TrainConfig, check_episodes_end, check_seen, fresh_model, make_envs
from gqn_rl.agents.vec_scene import encoder_hash
from gqn_rl.config import Config, UserError, read_yaml
from gqn_rl.encoder import UNTRAINED, load_encoder
from gqn_rl.files import read_json
from gqn_rl.types import SceneEncoder

#: Is shown a configuration and its encoder before anything runs.
Notice = Callable[[TrainConfig, SceneEncoder | None], None]
#: Of a task or an arm: it becomes part of file names.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]

#: What the benchmark itself sets in every run.
OURS: Final = ("task", "arm", "seed")
#: What it sets unless the file does. One thread a run: two runs with one thread each are faster than one after the
#: other with two, since SAC's small networks gain little from a second one.
DEFAULTS: Final = {"wandb": "disabled", "threads": 1}


class BenchmarkConfig(Config):
    """One task, and the arms that are compared on it."""

    task: Name
    shared: dict[str, Any]  #: what all arms have in common, keys of ``TrainConfig``
    arms: dict[Name, dict[str, Any]] = Field(min_length=1)  #: by name, what differs; {} for nothing

    @model_validator(mode="after")
    def _check(self) -> Self:
        for where, values in [("shared", self.shared), *((f"arm {name!r}", arm) for name, arm in self.arms.items())]:
            for key in OURS:
                if key in values:
                    raise ValueError(f"{where} sets {key!r}, which the benchmark does itself")
        return self

    def train_config(self, arm: str, seed: int, source: str = "benchmark") -> TrainConfig:
        """The run of ``arm`` with ``seed``; raises :class:`UserError` naming the arm and the key."""
        values = merged(merged(DEFAULTS, self.shared), self.arms[arm])
        values |= {"task": self.task, "arm": arm, "seed": seed}
        return TrainConfig.from_mapping(values, source=f"{source}, arm {arm!r}")


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` laid over ``base``: mappings key by key, anything else replaces what was there."""
    values = copy.deepcopy(dict(base))
    for key, change in changes.items():
        old = values.get(key)
        if isinstance(old, Mapping) and isinstance(change, Mapping):
            values[key] = merged(old, change)
        else:
            values[key] = copy.deepcopy(change)
    return values


@dataclass(frozen=True)
class Job:
    """One cell of the grid."""

    config: TrainConfig
    folder: Path  #: of the run
    results: Path  #: of its CSV and JSON files, without their suffixes

    @property
    def name(self) -> str:
        """``task/arm-seedN``."""
        return f"{self.config.task}/{self.config.arm}-seed{self.config.seed}"

    @property
    def run(self) -> RunFolder:
        """The files of the run."""
        return RunFolder(self.folder)

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def csv(self) -> Path:
        """Where the run's evaluations are published."""
        return self.results.with_name(f"{self.results.name}.csv")  # a name may have a dot: it is no suffix

    @property
    def json(self) -> Path:
        """Where all else that is known of the run is published."""
        return self.results.with_name(f"{self.results.name}.json")

    @property
    def kept(self) -> dict[str, Any] | None:
        """What is known of the run whose results lie there; None where there are none."""
        if not self.json.exists():
            return None
        facts = read_json(self.json)
        if not isinstance(facts, dict) or not isinstance(facts.get("config"), dict):
            raise UserError(f"{self.json} is no run's: it has no 'config'; choose another --out")
        return facts

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do: the run is finished, or the results of one that was are there."""
        return self.run.finished or self.published

    @property
    def published(self) -> bool:
        """Whether the results of a finished run are there: they are kept as they are."""
        kept = self.kept
        return kept is not None and kept.get("finished") is True and self.csv.exists()

    def check_kept(self, encoder_hash: str | None) -> None:
        """Raise :class:`UserError` where there are results of a run with another configuration or encoder."""
        kept = self.kept
        if kept is None:
            return
        # Read as a configuration: keys that came later have their defaults.
        before = type(self.config).from_mapping(kept["config"], source=str(self.json))
        check_same_config(self.json, before.to_dict(), self.config.to_dict())
        if kept.get("encoder_hash") != encoder_hash:
            raise UserError(
                f"{self.json} is of a run that saw with another encoder "
                f"({kept.get('encoder_hash')}, now {encoder_hash}); use another --out"
            )


def expand(
    paths: Sequence[Path], seeds: Sequence[int], runs: Path, results: Path, arms: Sequence[str] | None = None
) -> list[Job]:
    """All cells of the grids in ``paths``, seed by seed, so that soon there is one run of everything.

    ``arms`` picks some by name. Raises :class:`UserError` for a file that is wrong, an arm that is in none of them,
    and a task that is in two.
    """
    grids: dict[str, tuple[Path, BenchmarkConfig]] = {}
    for path in paths:
        config = BenchmarkConfig.from_mapping(read_yaml(path), source=str(path))
        if config.task in grids:
            raise UserError(f"{path} is of task {config.task!r}, as {grids[config.task][0]} is")
        grids[config.task] = (path, config)
    known = list(dict.fromkeys(arm for _, config in grids.values() for arm in config.arms))
    for arm in arms or ():
        if arm not in known:
            close = difflib.get_close_matches(arm, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UserError(f"no arm {arm!r}{hint}; there are {', '.join(known)}")
    return [
        Job(
            config.train_config(arm, seed, str(path)),
            runs / task / f"{arm}-seed{seed}",
            results / task / f"{arm}-seed{seed}",
        )
        for seed in dict.fromkeys(seeds)
        for task, (path, config) in grids.items()
        for arm in config.arms
        if arms is None or arm in arms
    ]


@dataclass(frozen=True)
class ArmFacts:
    """What is known of an arm before it runs."""

    encoder_hash: str | None
    replay_bytes: int | None  #: of the full replay buffer; None without one
    views: int  #: images in an observation
    pretraining_frames: int | None  #: that the encoder has seen before; None without an encoder, or if it does not say
    pretraining_cpu_s: float | None  #: of that, seconds by the clock times threads


def check(jobs: Iterable[Job], notice: Notice = lambda config, encoder: None) -> dict[tuple[str, str], ArmFacts]:
    """Build what each arm needs once, and compare its runs with what is in their folders and among the results.

    ``notice`` is shown each arm's configuration and encoder. Returns facts by (task, arm). Raises
    :class:`UserError`, with the arm's name, for whatever would stop it: an environment, encoder or algorithm that
    cannot be had, and a folder with another run, or with another run's results.
    """
    facts: dict[tuple[str, str], ArmFacts] = {}
    for job in jobs:
        key = (str(job.config.task), str(job.config.arm))
        try:
            if key not in facts:
                facts[key] = _examine(job.config, notice)
            if job.run.config.exists():
                job.run.check_same(job.config, facts[key].encoder_hash)
        except UserError as error:
            raise UserError(f"task {key[0]!r}, arm {key[1]!r}: {reworded(error)}") from None
        job.check_kept(facts[key].encoder_hash)
    return facts


def reworded(error: UserError) -> str:
    """What ``train`` would say, by this command's options: the folder of its runs is another one's than of results."""
    return str(error).replace("another --out", "another --runs")


def _examine(config: TrainConfig, notice: Notice) -> ArmFacts:
    algorithm = resolve_algorithm(config.algorithm.id)
    check_algorithm_kwargs(algorithm, config.algorithm.kwargs)
    check_episodes_end(config)
    encoder = load_encoder(config.encoder) if config.encoder is not None else None
    notice(config, encoder)
    venv = make_envs(config, encoder, config.n_envs)
    try:
        check_seen(config, venv)
        model = fresh_model(algorithm, config, venv, encoder)
        shown = venv.unwrapped.observation_space
    finally:
        venv.close()
    frames, seconds = _pretraining(config.encoder, encoder)
    return ArmFacts(
        encoder_hash=None if encoder is None else encoder_hash(encoder),
        replay_bytes=replay_bytes(model),
        views=_views(shown),
        pretraining_frames=frames,
        pretraining_cpu_s=seconds,
    )


def replay_bytes(model: BaseAlgorithm) -> int | None:
    """What the replay buffer of ``model`` takes when it is full; None if it has none.

    NumPy's arrays of zeros take no memory before they are written, so asking costs none.
    """
    if not has_replay(model):
        return None
    held: list[Any] = list(vars(replay_buffer(model)).values())
    arrays = [inner for value in held for inner in (value.values() if isinstance(value, dict) else [value])]
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def _views(shown: spaces.Space[Any]) -> int:
    """How many images an observation holds."""
    if isinstance(shown, spaces.Dict) and "images" in shown.spaces:
        return (shown["images"].shape or (0,))[0]
    pixels = shown["pixels"] if isinstance(shown, spaces.Dict) and "pixels" in shown.spaces else shown
    is_image = isinstance(pixels, spaces.Box) and pixels.dtype == np.uint8 and len(pixels.shape) == 3
    return pixels.shape[-1] // 3 if is_image and pixels.shape is not None else 0


def _pretraining(spec: str | None, encoder: SceneEncoder | None) -> tuple[int | None, float | None]:
    """Frames that went into an encoder, and seconds by the clock times threads, by its card: of all its stages."""
    if spec is not None and spec.startswith(UNTRAINED):
        return 0, 0.0
    card: Mapping[str, Any] = getattr(encoder, "card", {})
    stages = [*card.get("lineage", []), card]
    frames = [stage.get("data", {}).get("frames") for stage in stages]
    seconds = [_seconds(stage.get("compute", {})) for stage in stages]
    return None if None in frames else sum(frames), None if None in seconds else round(sum(seconds), 1)


def _seconds(compute: Mapping[str, Any]) -> Any:
    known = compute.get("device") == "cpu" and "wall_minutes" in compute
    return 60.0 * compute["wall_minutes"] * compute.get("threads", 1) if known else None
