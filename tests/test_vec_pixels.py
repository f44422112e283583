"""Laws of the pixel arms' eyes: equal to a slow reference across episode ends, and the price of pictures in memory."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import EPISODE, SIDE, TOY_ID, VIEWS, SameInfo, ToyEncoder
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from gqn_rl.agents.build import build_model, make_vec_env, see_with
from gqn_rl.agents.checkpoints import replay_buffer
from gqn_rl.agents.training import TrainConfig, make_envs
from gqn_rl.agents.vec_pixels import VecPixels
from gqn_rl.config import UserError
from gqn_rl.encoder import load_encoder
from gqn_rl.types import SceneEncoder

STEPS = 3 * EPISODE + 2


class Wide(gym.Env[Any, Any]):
    """Small pictures that say which episode, step, view, colour and row they are of."""

    def __init__(self) -> None:
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = spaces.Dict(
            images=spaces.Box(0, 255, (2, 20, 24, 3), np.uint8),
            poses=spaces.Box(-np.inf, np.inf, (2, 5), np.float32),
            proprio=spaces.Box(-np.inf, np.inf, (1,), np.float32),
            frame=spaces.Box(-np.inf, np.inf, (4,), np.float32),
            goal=spaces.Box(-np.inf, np.inf, (3,), np.float32),
        )
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.episode, self.steps = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observe(), 0.0, False, self.steps == 3 + self.episode, {}

    def _observe(self) -> dict[str, NDArray[Any]]:
        view, row, _, color = np.ogrid[:2, :20, :24, :3]
        images = 60 * self.episode + 10 * self.steps + 100 * view + 2 * row + color
        return {
            "images": np.broadcast_to(images, (2, 20, 24, 3)).astype(np.uint8),
            "poses": np.arange(10, dtype=np.float32).reshape(2, 5) + 100 * self.episode + 10 * self.steps,
            "proprio": np.full(1, self.steps, np.float32),
            "frame": np.full(4, self.episode, np.float32),
            "goal": np.arange(3, dtype=np.float32),
        }


class Recorder(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps every observation of the episode that runs, and of the one before."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.history: list[Any] = []
        self.ended: list[Any] = []

    def reset(self, **options: Any) -> Any:
        observation, info = self.env.reset(**options)
        self.ended, self.history = self.history, [observation]
        return observation, info

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.history.append(result[0])
        return result


def stacked(history: list[Any], stack: int) -> dict[str, NDArray[Any]]:
    """The slow reference: one environment, from the list of all its observations in this episode."""
    padded = [history[0]] * (stack - 1) + history
    seen = padded[-stack:]
    planes = [seen[t]["images"][view, :, :, color] for view in range(2) for t in range(stack) for color in range(3)]
    poses = np.stack([np.concatenate([one["poses"][view] for one in seen]) for view in range(2)])
    return {**history[-1], "pixels": np.stack(planes), "poses": poses}


def assert_same(observation: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]], index: int | None) -> None:
    assert set(observation) == set(expected) - {"images"}
    for key, value in observation.items():
        np.testing.assert_array_equal(value if index is None else value[index], expected[key], err_msg=key)


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_stacks_equal_a_slow_reference_across_episode_ends(stack: int, n_envs: int) -> None:
    recorders = [Recorder(Wide()) for _ in range(n_envs)]
    for index, recorder in enumerate(recorders):
        recorder.env.unwrapped.episode += index  # type: ignore[attr-defined]  # so that episodes end at other times
    venv = VecPixels(DummyVecEnv([lambda one=one: one for one in recorders]), stack)  # type: ignore[misc]
    observations, ends = venv.reset(), 0
    for _ in range(STEPS):
        for index, recorder in enumerate(recorders):
            assert_same(observations, stacked(recorder.history, stack), index)
            assert venv.observation_space.contains({key: value[index] for key, value in observations.items()})
        kept = {key: value.copy() for key, value in observations.items()}
        before = observations
        observations, _, dones, infos = venv.step(np.zeros((n_envs, 1), np.float32))
        for key, value in before.items():  # what a replay buffer or a policy still holds does not change
            np.testing.assert_array_equal(value, kept[key])
        for index, recorder in enumerate(recorders):
            assert dones[index] == ("terminal_observation" in infos[index])
            if dones[index]:
                ends += 1
                assert_same(infos[index]["terminal_observation"], stacked(recorder.ended, stack), None)
                assert len(recorder.history) == 1
    assert ends >= 3 * n_envs


def test_ends_of_episodes_are_told_without_infos() -> None:
    """An info that is handed out again has the last observation of an earlier episode in it."""
    plain, same = VecPixels(DummyVecEnv([Wide]), 3), VecPixels(DummyVecEnv([lambda: SameInfo(Wide())]), 3)
    plain.reset(), same.reset()
    for _ in range(STEPS):
        (seen, _, dones, infos), (again, _, _, others) = (
            venv.step(np.zeros((1, 1), np.float32)) for venv in (plain, same)
        )
        assert_same(again, {"images": None, **seen}, None)  # type: ignore[arg-type, dict-item]
        if dones[0]:
            assert_same(others[0]["terminal_observation"], {"images": None, **infos[0]["terminal_observation"]}, None)


class WithPixels(Wide):
    """It calls numbers of its own ``pixels``."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Dict({**self.observation_space.spaces, "pixels": spaces.Box(0, 1, (3,))})


def test_without_proprioception_neither_sensors_nor_frame_are_seen() -> None:
    venv = VecPixels(DummyVecEnv([Wide]), proprio=False)
    assert set(venv.observation_space.spaces) == {"pixels", "poses", "goal"} == set(venv.reset())  # type: ignore[attr-defined]


def test_nonsense_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"a policy on pixels needs a Dict observation .*; found Box"):
        VecPixels(make_vec_env(TOY_ID, {"obs_mode": "state"}, 1, 0))
    with pytest.raises(ValueError, match=r"'pixels' is what the stacked pictures are called"):
        VecPixels(DummyVecEnv([WithPixels]))
    with pytest.raises(ValueError, match=r"stack must be at least 1, got 0"):
        VecPixels(make_vec_env(TOY_ID, {}, 1, 0), stack=0)
    with pytest.raises(ValueError, match=rf"{VIEWS} views with stack 2 are 12 channels; .* here {SIDE} x {SIDE}"):
        VecPixels(make_vec_env(TOY_ID, {}, 1, 0), stack=2)
    values = {"env": {"id": TOY_ID}, "total_steps": 10}
    for wrong, complaint in (
        ({"pixels": {}, "encoder": "arm-reach"}, r"with pixels there is no encoder: leave out encoder 'arm-reach'"),
        ({"pixels": {"stack": 0}}, r"pixels.stack"),
        ({"pixels": {"stac": 2}}, r"unknown key 'pixels.stac' \(did you mean 'stack'"),
        ({"finetune": True}, r"finetune needs an encoder"),
        ({"finetune": True, "encoder": "e", "algorithm": {"policy": "MlpPolicy"}}, r"brings a policy of its own"),
    ):
        with pytest.raises(UserError, match=complaint):
            TrainConfig.from_mapping({**values, **wrong})
    state = {"id": TOY_ID, "kwargs": {"obs_mode": "state"}}
    config = TrainConfig.from_mapping({**values, "env": state, "pixels": {}})
    with pytest.raises(UserError, match=r"a policy on pixels needs"):
        make_envs(config, None, 1)


def observation_bytes(venv: VecEnv) -> int:
    """What 100 transitions' observations take in the replay buffer that Stable-Baselines3 really makes."""
    buffer = replay_buffer(build_model(SAC, venv, policy=None, kwargs={}, total_steps=100, seed=0))
    assert buffer.buffer_size == 100
    parts: list[Any] = [buffer.observations, buffer.next_observations]
    arrays = [array for part in parts for array in (part.values() if isinstance(part, dict) else [part])]
    assert all(len(array) == 100 for array in arrays)
    return sum(array.nbytes for array in arrays)


def test_scene_vectors_take_a_fortieth_of_the_replay_memory_of_stacked_pixels() -> None:
    def seen(encoder: SceneEncoder | None, stack: int | None) -> int:
        venv = make_vec_env("gqn_rl:gqn_rl/ArmReach-v0", {"obs_mode": "views", "views": 2}, 1, seed=0)
        try:
            return observation_bytes(see_with(encoder, venv, pixel_stack=stack))
        finally:
            venv.close()

    pixels, scene = seen(None, 3), seen(load_encoder("arm-reach"), None)
    assert pixels > 2 * 100 * 3 * 2 * 64 * 64 * 3
    assert pixels >= 40 * scene, f"{pixels / scene:.1f} times"


def test_pixels_and_an_encoder_of_its_own_are_seen_alike_in_training_and_evaluation() -> None:
    values: dict[str, Any] = {"env": {"id": TOY_ID}, "total_steps": 10}
    for extra in ({"pixels": {}}, {"encoder": "conftest:ToyEncoder", "finetune": True}):
        config = TrainConfig.from_mapping({**values, **extra})
        encoder = ToyEncoder() if config.encoder else None
        first, second = make_envs(config, encoder, 1), make_envs(config, encoder, 3)
        assert first.observation_space == second.observation_space
        assert isinstance(first, VecPixels)
