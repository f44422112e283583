"""A tiny scene environment and a tiny encoder, real ones, for tests of everything that is not about MuJoCo.

Both are importable as ``conftest:...`` with ``tests/`` on the path, the way a user's own plug-ins are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from gqn_rl.data import BlockPlan, set_scene
from gqn_rl.types import SceneSource, Views

ROOT = Path(__file__).resolve().parent.parent
TOY_ID = "conftest:toy/Reach-v0"
VIEWS, SIDE, EPISODE = 2, 8, 8


class ToyReach(gym.Env[Any, Any]):
    """A point moves to a target in the plane; two cameras see both, from a new pose at every step.

    Every observation is different from every other: pixel (0, 0) and the poses carry the episode and the step.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self, obs_mode: str = "views", terminate: bool = False, render_mode: str | None = None, marker: int = 0
    ) -> None:
        if obs_mode not in ("views", "state"):
            raise ValueError(f"obs_mode must be one of views, state; got {obs_mode!r}")
        self.obs_mode, self.terminate, self.render_mode, self.marker = obs_mode, terminate, render_mode, marker
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        if obs_mode == "views":
            self.observation_space = spaces.Dict(
                images=spaces.Box(0, 255, (VIEWS, SIDE, SIDE, 3), np.uint8),
                poses=spaces.Box(-np.inf, np.inf, (VIEWS, 5), np.float32),
                proprio=spaces.Box(-1, 1, (2,), np.float32),
            )
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.episode = -1
        self.episode, self.steps = self.episode + 1, 0
        self.point = self.np_random.uniform(-1, 1, 2)
        self.target = self.np_random.uniform(-1, 1, 2)
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.point = np.clip(self.point + 0.4 * np.asarray(action), -1, 1)
        info = self._info()
        ended = self.terminate and bool(info["is_success"])
        return self._observe(), -float(info["distance"]), ended, False, info

    def render(self) -> Any:
        picture = np.full((96, 128, 3), 230, np.uint8)
        for place, color in ((self.target, (220, 30, 30)), (self.point, (30, 160, 30))):
            row, column = int((place[0] + 1) * 40), int((place[1] + 1) * 55)
            picture[row : row + 12, column : column + 12] = color
        return picture

    def _info(self) -> dict[str, Any]:
        distance = float(np.linalg.norm(self.point - self.target))
        return {"distance": distance, "is_success": distance < 0.3}

    def _observe(self) -> Any:
        if self.obs_mode == "state":
            return np.concatenate([self.point, self.target]).astype(np.float32)
        images = np.zeros((VIEWS, SIDE, SIDE, 3), np.uint8)
        for channel, place in enumerate((self.target, self.point)):
            row, column = ((place + 1) * (SIDE - 1) / 2).round().astype(int)
            images[:, row, column, channel] = 255
        images[:, 0, 0, 2] = 10 * self.episode + self.steps
        poses = np.zeros((VIEWS, 5), np.float32)
        poses[:, 0], poses[:, 1], poses[:, 2] = self.episode, self.steps, np.arange(VIEWS)
        return {"images": images, "poses": poses, "proprio": self.point.astype(np.float32)}


class SameInfo(gym.Wrapper[Any, Any, Any, Any]):
    """Hands out one and the same info at every step, as some environments do."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._info: dict[str, Any] = {}

    def step(self, action: Any) -> Any:
        *result, info = self.env.step(action)
        self._info.update(info)
        return *result, self._info


class ToyEncoder(nn.Module):
    """Integer sums of pixels and poses: the arithmetic is exact, so results do not depend on the batch."""

    def __init__(self, seed: int = 0, size: int = 6) -> None:
        super().__init__()
        self.size = size
        self.norm = nn.BatchNorm1d(size)  # in training mode it would mix the scenes of a batch, and count them
        self.mix = nn.Linear(VIEWS * 12, size, bias=False)
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randint(-1, 2, self.mix.weight.shape, generator=generator)
        self.mix.weight.data.copy_(weights)
        self.calls: list[int] = []

    def encode(self, images: Tensor, poses: Tensor) -> Tensor:
        self.calls.append(len(images))
        grid = torch.arange(SIDE, dtype=torch.float32)
        pixels = images.float()
        rows = torch.einsum("bkhwc,h->bkc", pixels, grid)
        columns = torch.einsum("bkhwc,w->bkc", pixels, grid)
        corner = pixels[:, :, 0, 0, 2:]
        features = torch.cat([rows, columns, corner, poses], dim=-1).flatten(1)
        mixed = self.mix(features) / 1024
        return self.norm(mixed) if self.training else mixed


class OtherEncoder(ToyEncoder):
    """The same with other weights."""

    def __init__(self) -> None:
        super().__init__(seed=1)


if "toy/Reach-v0" not in gym.registry:
    gym.register("toy/Reach-v0", entry_point=f"{__name__}:ToyReach", max_episode_steps=EPISODE)


def toy_values(**changes: Any) -> dict[str, Any]:
    """A training configuration of seconds; ``changes`` are dotted keys with ``__`` for the dot."""
    values: dict[str, Any] = {
        "env": {"id": TOY_ID, "kwargs": {}},
        "encoder": "conftest:ToyEncoder",
        "algorithm": {
            "id": "SAC",
            "kwargs": {"learning_starts": 40, "batch_size": 16, "policy_kwargs": {"net_arch": [16]}},
        },
        "total_steps": 400,
        "evaluation": {"every": 100, "episodes": 5},
        "checkpoint_every": 100,
        "wandb": "disabled",
        "threads": 1,
    }
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return values


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run that is complete, tracked offline; read it, and leave it as it is."""
    from gqn_rl.agents.training import TrainConfig, train

    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder, TrainConfig.from_mapping(toy_values(wandb="offline", total_steps=150)), ToyEncoder())
    return folder


@pytest.fixture(scope="session")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run, stopped right after its only checkpoint, that of step 100; read it alone."""
    from gqn_rl.agents.interrupts import TrainingInterrupted, stopping_when
    from gqn_rl.agents.training import TrainConfig, train

    folder = tmp_path_factory.mktemp("stopped") / "run"
    config = TrainConfig.from_mapping(toy_values(wandb="offline", total_steps=150))
    with stopping_when(lambda: any(folder.glob("checkpoint/step_*"))), pytest.raises(TrainingInterrupted):
        train(folder, config, ToyEncoder())
    return folder


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    """Runs may set PyTorch's threads; other tests should not notice."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the real command line in a process of its own, in an empty folder."""

    def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "train.py"), *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=cli_environment(), capture_output=True, text=True, timeout=300, **options
        )

    return run


def cli_environment() -> dict[str, str]:
    """Environment variables with which a process of its own finds ``conftest``."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "tests")}


def photograph(
    source: SceneSource, seed: int, scenes: int, views: int, sample_pose: Callable[[np.random.Generator], NDArray[Any]]
) -> tuple[Views, NDArray[np.float32]]:
    """Independent scenes in memory: ``views`` of each, (scenes, views), and their states (scenes, S)."""
    images, poses, states = [], [], []
    for scene in range(scenes):
        set_scene(source, BlockPlan(), seed, scene)
        states.append(source.state())
        rng = np.random.default_rng([seed, scene, 1])
        chosen = np.stack([sample_pose(rng) for _ in range(views)])
        poses.append(chosen)
        images.append(np.stack([source.render_view(pose) for pose in chosen]))
    return Views(np.stack(images), np.stack(poses)), np.stack(states)
