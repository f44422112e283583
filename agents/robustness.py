"""What a trained policy is worth when its cameras stand elsewhere, or one of them is gone.

Nothing is trained. The episodes are those of :func:`gqn_rl.agents.evaluation.evaluate`, and a score is a *share*: 0 is
what uniformly random actions got in the run's own evaluations, 100 what the very same policy gets from its own cameras
in the very same episodes.

- ``own``: the cameras of training.
- ``unseen``: from poses inside the environment's dome that training never had. For a policy with fixed cameras, new
  poses each episode. One that was trained on random poses is always scored at poses of its own episodes, which training
  never drew: for it, ``unseen`` is ``own``.
- ``outside``: random poses in the band of ``DEGREES`` above the dome, new ones whenever training had new ones, at least
  each episode.
- ``missing``: the last camera is gone. A frozen encoder gets K - 1 views. A policy that reads pictures itself (pixels,
  or an encoder that it trained on) has a place for each camera, and gets a black picture there; the pose stays.
"""

from __future__ import annotations

import csv
import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from gqn_rl.agents.build import check_spaces, make_env
from gqn_rl.agents.evaluation import Evaluation, deterministic, evaluate
from gqn_rl.agents.replay import trained_policy
from gqn_rl.agents.runs import RunFolder
from gqn_rl.agents.training import EVALUATION_BATCH, EnvConfig, TrainConfig, make_envs
from gqn_rl.agents.vec_scene import VIEW_KEYS, check_views
from gqn_rl.cameras import Dome
from gqn_rl.config import UserError
from gqn_rl.files import in_turn, read_json, write_text
from gqn_rl.types import SceneEncoder

#: Where a policy may be made to look from, besides from its own cameras.
CAMERAS: Final = ("unseen", "outside", "missing")
OWN: Final = "own"
#: How far above the dome cameras outside stand at most.
DEGREES: Final = 15.0
#: What environments call the lowest and highest elevation of their cameras, degrees.
ELEVATIONS: Final = ("camera_elevation", "elevation")
#: The file in a run's folder.
TABLE: Final = "cameras.csv"


@dataclass(frozen=True)
class Line:
    """A policy, seen through by some cameras: a line of the table."""

    task: str
    arm: str
    seed: int
    model: str  #: the policy's file
    cameras: str  #: ``own`` or one of ``CAMERAS``
    episodes: int
    first_seed: int  #: of the held-out episodes
    score: float  #: mean undiscounted return
    success: float  #: share of episodes; nan if the environment does not say
    share: float  #: of the score, from random 0 to own 100; nan where own is no better than random

    @property
    def key(self) -> tuple[Any, ...]:
        """What a table has one line for."""
        return self.task, self.arm, self.seed, self.model, self.cameras, self.episodes, self.first_seed


def measure(
    folder: Path,
    encoder: SceneEncoder | None,
    cameras: Sequence[str],
    episodes: int,
    first_seed: int = 0,
    best: bool = False,
) -> list[Line]:
    """Score the policy of the run in ``folder`` from its own cameras, and from each of ``cameras``.

    Raises:
        UserError: as :func:`gqn_rl.agents.replay.trained_policy`; or the policy sees no cameras, the environment's
            cannot stand there, or there is only one and it would be missing.
    """
    config, path, model = trained_policy(folder, encoder, best)
    for name in cameras:  # every refusal before any work
        make_envs_seen_by(name, config, encoder, 1).close()
    random_score = float(read_json(RunFolder(folder).random_policy)["score"])
    found: dict[str, Evaluation] = {}
    for name in dict.fromkeys((OWN, *cameras)):
        if name == "unseen" and env_seen_by(name, config) == config.env:
            found[name] = found[OWN]
            continue
        venv = make_envs_seen_by(name, config, encoder, min(episodes, EVALUATION_BATCH))
        try:
            check_spaces(model, venv, path)
            found[name] = evaluate(deterministic(model), venv, episodes, first_seed)
        finally:
            venv.close()
    span = found[OWN].score - random_score
    return [
        Line(
            task=config.task or config.env.id,
            arm=config.arm_name,
            seed=config.seed,
            model=path.name,
            cameras=name,
            episodes=episodes,
            first_seed=first_seed,
            score=result.score,
            success=result.success,
            share=100 * (result.score - random_score) / span if span > 0 else float("nan"),
        )
        for name, result in found.items()
    ]


def make_envs_seen_by(cameras: str, config: TrainConfig, encoder: SceneEncoder | None, n_envs: int) -> VecEnv:
    """Environments of ``config``, with the policy's input made of what ``cameras`` see; raises :class:`UserError`."""
    if config.encoder is None and config.pixels is None:
        raise UserError("the policy has neither an encoder nor pixels, so there are no cameras to look through")
    elsewhere = config.model_copy(update={"env": env_seen_by(cameras, config), "workers": "in_process"})
    if cameras != "missing":
        return make_envs(elsewhere, encoder, n_envs)
    black = config.pixels is not None or config.finetune
    return make_envs(elsewhere, encoder, n_envs, through=lambda venv: MissingCamera(venv, black=black))


def env_seen_by(cameras: str, config: TrainConfig) -> EnvConfig:
    """The environment of ``config`` with its cameras elsewhere; it itself where that changes nothing.

    Raises:
        UserError: it has no attributes ``cameras`` (``fixed``, ``episode`` or ``moving``) and ``dome`` (a
            :class:`gqn_rl.cameras.Dome`), no room above the dome, or no argument that raises its cameras
            (``camera_elevation`` or ``elevation``).
    """
    if cameras in (OWN, "missing"):
        return config.env
    env = make_env(config.env.id, config.env.kwargs)
    mode, dome = getattr(env.unwrapped, "cameras", None), getattr(env.unwrapped, "dome", None)
    arguments = inspect.signature(type(env.unwrapped).__init__).parameters
    env.close()
    if mode is None or not isinstance(dome, Dome):
        raise UserError(
            f"--cameras {cameras} needs an environment with `cameras` and a `dome`, which {config.env.id} has not"
        )
    if cameras == "unseen" and mode != "fixed":
        return config.env
    kwargs = {name: value for name, value in config.env.kwargs.items() if name != "camera_names"}
    if mode == "fixed":
        kwargs["cameras"] = "episode"
    if cameras == "outside":
        if not dome.has_outside:
            raise UserError(f"--cameras outside: there is no room above a dome up to {dome.elevation[1]:g} degrees")
        raised = next((name for name in ELEVATIONS if name in arguments), None)
        if raised is None:
            raise UserError(
                f"--cameras outside: {config.env.id} takes no {' or '.join(ELEVATIONS)}, to raise its cameras"
            )
        if kwargs.pop("placement", None) == "ring":  # of a rig: it would have one elevation, and one radius
            kwargs["radius"] = list(dome.radius)
        kwargs[raised] = list(dome.outside(DEGREES).elevation)
    return EnvConfig(id=config.env.id, kwargs=kwargs)


class MissingCamera(VecEnvWrapper):
    """The last of K cameras is gone from ``images`` and ``poses``; or, with ``black``, shows nothing any more.

    Raises :class:`UserError` for environments that show no views, or a single one.
    """

    def __init__(self, venv: VecEnv, *, black: bool) -> None:
        try:
            parts = check_views(venv.observation_space, "--cameras missing")
        except ValueError as error:
            raise UserError(str(error)) from None
        images, poses = parts["images"].shape or (), parts["poses"].shape or ()
        if images[0] < 2:
            raise UserError("--cameras missing: the policy has one camera only, and would see nothing")
        self._black = black
        if black:
            super().__init__(venv)
            return
        fewer: dict[str, spaces.Space[Any]] = {
            "images": spaces.Box(0, 255, (images[0] - 1, *images[1:]), np.uint8),
            "poses": spaces.Box(-np.inf, np.inf, (poses[0] - 1, *poses[1:]), np.float32),
        }
        super().__init__(venv, observation_space=spaces.Dict({**parts.spaces, **fewer}))

    def reset(self) -> dict[str, NDArray[Any]]:
        """First observations."""
        observations = self.venv.reset()
        assert isinstance(observations, dict)
        return self._without(observations, axis=1)

    def step_wait(self) -> tuple[dict[str, NDArray[Any]], NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """Observations, rewards, dones and infos of the step begun by ``step_async``."""
        observations, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(observations, dict)
        for index in np.flatnonzero(dones):
            infos[index]["terminal_observation"] = self._without(infos[index]["terminal_observation"], axis=0)
        return self._without(observations, axis=1), rewards, dones, infos

    def _without(self, observations: Mapping[str, NDArray[Any]], axis: int) -> dict[str, NDArray[Any]]:
        """``observations`` whose views lie along ``axis``, without the last one."""
        changed = dict(observations)
        if self._black:
            changed["images"] = changed["images"].copy()
            np.moveaxis(changed["images"], axis, 0)[-1] = 0
        else:
            changed |= {key: np.delete(changed[key], -1, axis) for key in VIEW_KEYS}
        return changed


def write_table(path: Path, lines: Sequence[Line]) -> None:
    """Add ``lines`` to the CSV file ``path``, in place of those that were of the same; many processes may at once."""
    with in_turn(path.parent):
        table = {line.key: line for line in [*read_table(path), *lines]}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in fields(Line))
        writer.writerows(asdict(line).values() for line in table.values())
        write_text(path, text.getvalue())


def read_table(path: Path) -> list[Line]:
    """The lines of ``path``, none if there is no such file; raises :class:`UserError` for another kind of file."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [Line(**{name: _TYPES[name](text) for name, text in row.items()}) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is no table of cameras; give another file") from None


_TYPES: Final[dict[str, Callable[[str], Any]]] = {
    field.name: {"int": int, "float": float, "str": str}[str(field.type)] for field in fields(Line)
}
