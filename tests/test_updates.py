"""Laws of faster updates: the same weights as Stable-Baselines3's own, gradients for all that need them, less work."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import NatureCNN
from torch import Tensor, nn

from gqn_rl.agents import updates
from gqn_rl.agents.build import build_model, load_model, make_vec_env
from gqn_rl.agents.updates import (
    fuse_optimizers,
    lay_out_channels_last,
    prepare_pictures_once,
    spare_critic_gradients,
)

SMALL: dict[str, Any] = {"learning_starts": 4, "batch_size": 4, "policy_kwargs": {"net_arch": [16]}}


class Square(gym.Env[NDArray[np.uint8], NDArray[np.float32]]):
    """A picture of a bright square, which an action moves; the reward is its row."""

    def __init__(self, discrete: bool = False) -> None:
        self.observation_space = spaces.Box(0, 255, (3, 40, 40), np.uint8)
        self.action_space: spaces.Space[Any] = spaces.Discrete(2) if discrete else spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(0, 36, 2)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = np.clip(self.place + 4 * np.asarray(action), 0, 36)
        return self._observe(), float(self.place[0] / 40), False, False, {}

    def _observe(self) -> NDArray[np.uint8]:
        image = np.full((3, 40, 40), 40, np.uint8)
        row, column = self.place.astype(int)
        image[:, row : row + 4, column : column + 4] = 220
        return image


if "test/Square-v0" not in gym.registry:
    gym.register("test/Square-v0", entry_point=f"{__name__}:Square", max_episode_steps=5)


class Pictured(Square):
    """The same with numbers beside the picture."""

    def __init__(self) -> None:
        super().__init__()
        numbers = spaces.Box(-1, 1, (3,), np.float32)
        self.observation_space = spaces.Dict({"pixels": spaces.Box(0, 255, (3, 40, 40), np.uint8), "numbers": numbers})

    def _observe(self) -> Any:
        return {"pixels": super()._observe(), "numbers": np.ones(3, np.float32)}


if "test/Pictured-v0" not in gym.registry:
    gym.register("test/Pictured-v0", entry_point=f"{__name__}:Pictured", max_episode_steps=5)


class Halving(NatureCNN):
    """Somebody's features extractor, which writes into what it is given."""

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations.mul_(0.5))


def sac(env_id: str = "test/Square-v0", policy: str = "CnnPolicy", steps: int = 30, **policy_kwargs: Any) -> SAC:
    """Stable-Baselines3's own, before its first step."""
    kwargs = {**SMALL, "policy_kwargs": {**SMALL["policy_kwargs"], **policy_kwargs}}
    return SAC(policy, gym.make(env_id), seed=0, buffer_size=steps, **kwargs)


def weights(model: BaseAlgorithm) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.policy.state_dict().items()}


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(("env_id", "policy"), [("test/Square-v0", "CnnPolicy"), ("Pendulum-v1", "MlpPolicy")])
def test_sparing_gradients_changes_no_bit(env_id: str, policy: str, share: bool) -> None:
    """With features extractors of their own, and with one that the actor trains and the critic reads."""
    ends = []
    for speed_up in (lambda model: None, spare_critic_gradients):
        model = sac(env_id, policy, share_features_extractor=share)  # seeds everything
        speed_up(model)
        before = weights(model)
        model.learn(12)
        ends.append(weights(model))
    own, spared = ends
    assert all(torch.equal(weight, spared[name]) for name, weight in own.items())
    for part in ("actor", "critic.", "critic_target"):
        assert any(not torch.equal(before[name], own[name]) for name in own if name.startswith(part))


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(
    ("env_id", "policy"), [("test/Square-v0", "CnnPolicy"), ("test/Pictured-v0", "MultiInputPolicy")]
)
def test_pictures_are_prepared_once_and_no_bit_changes(
    env_id: str, policy: str, share: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches an update, and what is acted on; SB3 itself prepares five."""
    calls = {"prepared": 0}

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls["prepared"] += 1
        return preprocess_obs(*args, **kwargs)

    monkeypatch.setattr(updates, "preprocess_obs", counting)
    ends = []
    for speed_up in (lambda model: None, prepare_pictures_once):
        model = sac(env_id, policy, share_features_extractor=share)
        lay_out_channels_last(model)
        speed_up(model)
        model.learn(12)
        ends.append(weights(model))
    own, once = ends
    assert all(torch.equal(weight, once[name]) for name, weight in own.items())
    updates_done, acted = model._n_updates, 12 - model.learning_starts
    assert calls["prepared"] == 2 * updates_done + acted


def test_what_is_acted_on_is_looked_at_anew() -> None:
    """Also where the observation is the same tensor with something else in it."""
    model = sac()
    prepare_pictures_once(model)
    model.learn(6)
    model.policy.set_training_mode(False)
    pictures = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    before = model.actor(pictures, deterministic=True)
    pictures.fill_(255)
    assert not torch.equal(model.actor(pictures, deterministic=True), before)


@pytest.mark.parametrize(("env_id", "policy"), [("test/Square-v0", "CnnPolicy"), ("Pendulum-v1", "MlpPolicy")])
def test_features_extractors_of_others_and_numbers_are_left_alone(env_id: str, policy: str) -> None:
    own = {"features_extractor_class": Halving} if policy == "CnnPolicy" else {}
    model = sac(env_id, policy, **own)
    prepare_pictures_once(model)
    for part in (model.actor, model.critic, model.critic_target):
        assert "extract_features" not in vars(part)


def test_the_actors_loss_leaves_no_gradient_in_the_critic() -> None:
    """Where SB3's own leaves one in every weight, as this test also sees."""
    for speed_up, expected in ((lambda model: None, True), (spare_critic_gradients, False)):
        model = sac("Pendulum-v1", "MlpPolicy")
        speed_up(model)
        model.learn(5)
        model.critic.optimizer.zero_grad()
        observations = torch.zeros(2, 3)
        actions, _ = model.actor.action_log_prob(observations)
        torch.cat(model.critic(observations, actions)).sum().backward()
        assert all((weight.grad is not None) == expected for weight in model.critic.parameters())
        assert all(weight.grad is not None for weight in model.actor.mu.parameters())


def test_weights_need_gradients_again_whatever_happens() -> None:
    """Frozen ones stay frozen, others are as before, after a forward pass and after one that fails."""
    model = sac("Pendulum-v1", "MlpPolicy")
    spare_critic_gradients(model)
    first, *others = model.critic.parameters()
    first.requires_grad_(False)
    actions = torch.zeros(2, 1, requires_grad=True)
    model.critic(torch.zeros(2, 3), actions)
    with pytest.raises(RuntimeError):
        model.critic(torch.zeros(2, 7), actions)
    assert not first.requires_grad
    assert all(weight.requires_grad for weight in others)
    values = torch.cat(model.critic(torch.zeros(2, 3), actions.detach()))
    values.sum().backward()
    assert all(weight.grad is not None for weight in others)


@pytest.mark.parametrize(
    "make", [lambda: sac(), lambda: PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=4, seed=0)]
)
def test_fused_optimizers_step_as_others_do(make: Any) -> None:
    """The same gradients, ten times: equal but for rounding. PPO's epsilon, which is not PyTorch's, is kept."""
    own, fused = make(), make()
    fuse_optimizers(fused)
    for model in (own, fused):
        generator = torch.Generator().manual_seed(0)
        part = getattr(model.policy, "critic", None) or model.policy
        for _ in range(10):
            for weight in part.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator)
            part.optimizer.step()
    start = weights(make())
    for name, weight in weights(fused).items():
        expected = weights(own)[name]
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)
        if name.startswith("critic.") and "bias" not in name:
            assert not torch.equal(expected, start[name])


@pytest.mark.parametrize(
    ("algorithm", "env_id", "kwargs"),
    [
        (SAC, "test_updates:test/Square-v0", SMALL),
        (DQN, "test_updates:test/Square-v0", SMALL),
        (PPO, "Pendulum-v1", {"n_steps": 8, "batch_size": 4}),
    ],
)
def test_models_are_fast_when_built_and_when_loaded(
    algorithm: type[BaseAlgorithm], env_id: str, kwargs: dict[str, Any], tmp_path: Path
) -> None:
    """Their Adams are fused, convolutions are laid out channels last, SAC's critic spares gradients; they learn on."""
    venv = make_vec_env(env_id, {"discrete": True} if algorithm is DQN else {}, 1, seed=0)
    built = build_model(algorithm, venv, policy=None, kwargs=kwargs, total_steps=20, seed=0)
    built.learn(12)
    built.save(tmp_path / "model.zip")
    loaded = load_model(algorithm, tmp_path / "model.zip", venv)
    for model in (built, loaded):
        optimizers = [part.optimizer for part in model.policy.modules() if hasattr(part, "optimizer")]
        assert optimizers
        assert all(group["fused"] for optimizer in optimizers for group in optimizer.param_groups)
        for module in model.policy.modules():
            if isinstance(module, nn.Conv2d):
                assert module.weight.is_contiguous(memory_format=torch.channels_last)
        assert bool(getattr(getattr(model, "critic", None), "_forward_pre_hooks", None)) == (algorithm is SAC)
        before = weights(model)
        model.learn(12, reset_num_timesteps=False)
        if isinstance(model, OffPolicyAlgorithm):
            assert any(not torch.equal(weight, before[name]) for name, weight in weights(model).items())


UPDATES = """
import resource, sys
import torch
from torch import nn
from gqn_rl.allocator import keep_freed_memory
assert sys.argv[1] == "leave" or keep_freed_memory()
torch.set_num_threads(1)
network = nn.Sequential(nn.Conv2d(6, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 32, 3, 2), nn.ReLU(), nn.Flatten())
pictures = torch.zeros(64, 6, 64, 64, dtype=torch.uint8)
def update():
    network(pictures.float() / 255).sum().backward()
for _ in range(3):
    update()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    update()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is changed where the C library is another")
def test_freed_memory_is_kept() -> None:
    """What an update frees, the next one gets back without the system's help: a tenth of its 10,000 pages at most."""
    faults = {}
    for mode in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", UPDATES, mode], capture_output=True, text=True, check=True)
        faults[mode] = float(done.stdout)
    assert faults["keep"] < 1000
    assert faults["keep"] < faults["leave"]


HUGE = """
from pathlib import Path
import torch
from gqn_rl.allocator import keep_freed_memory
def huge():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:"))
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4
def use():
    before = huge()
    kept.append([torch.ones(4 << 20, dtype=torch.uint8) for _ in range(8)])
    return huge() - before
kept = []
before = use()
start = resident()
assert keep_freed_memory()
taken = resident() - start
print(before, use(), taken)
"""
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is changed where the C library is another")
@pytest.mark.skipif(not THP.exists() or "[madvise]" not in THP.read_text(), reason="no huge pages for those who ask")
def test_kept_memory_lies_in_huge_pages() -> None:
    """Of 32 MiB at least 24, where before there was none; and what is not used takes no memory."""
    done = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, check=True)
    before, after, taken = map(int, done.stdout.split())
    assert before < 4 << 10
    assert after >= 24 << 10
    assert taken < 8 << 10
