"""Laws of the encoder in a vectorised environment: equal to one at a time, frozen, and clear about what it needs."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import EPISODE, TOY_ID, ToyEncoder
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from gqn_rl.agents.build import make_vec_env
from gqn_rl.agents.vec_scene import SceneVector, VecSceneObservation, encoder_hash, in_frame
from gqn_rl.encoder import load_encoder

STEPS = 3 * EPISODE + 2


def toy_envs(n_envs: int, **kwargs: Any) -> VecEnv:
    return make_vec_env(TOY_ID, kwargs, n_envs, seed=5)


def encode_one(encoder: ToyEncoder, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The slow reference: one observation at a time, without a wrapper."""
    images, poses = torch.as_tensor(observation["images"])[None], torch.as_tensor(observation["poses"])[None]
    return np.concatenate([encoder.encode(images, poses)[0].detach().numpy(), observation["proprio"]])


class Spy(VecEnvWrapper):
    """Keeps what the wrapped environments said."""

    def reset(self) -> Any:
        self.observations = copy.deepcopy(self.venv.reset())
        return self.observations

    def step_wait(self) -> Any:
        result = self.venv.step_wait()
        self.observations, _, _, self.infos = copy.deepcopy(result)
        return result


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("terminate", [False, True])
def test_vectorised_encoding_equals_one_at_a_time_across_episode_ends(n_envs: int, terminate: bool) -> None:
    encoder, rng = ToyEncoder(), np.random.default_rng(0)
    spy = Spy(toy_envs(n_envs, terminate=terminate))
    venv = VecSceneObservation(spy, encoder)
    seen, ends = [venv.reset()], 0
    expected = [np.stack([encode_one(encoder, {k: v[i] for k, v in spy.observations.items()}) for i in range(n_envs)])]
    for _ in range(STEPS):
        flat, _, dones, infos = venv.step(rng.uniform(-1, 1, (n_envs, 2)))
        seen.append(flat)
        expected.append(
            np.stack([encode_one(encoder, {k: v[i] for k, v in spy.observations.items()}) for i in range(n_envs)])
        )
        for i in range(n_envs):
            assert dones[i] == ("terminal_observation" in infos[i])
            if dones[i]:
                ends += 1
                last = spy.infos[i]["terminal_observation"]
                np.testing.assert_array_equal(infos[i]["terminal_observation"], encode_one(encoder, last))
                assert last["poses"][0, 1] != spy.observations["poses"][i][0, 1]  # its poses are of its own step
                assert not np.array_equal(infos[i]["terminal_observation"], flat[i])
    np.testing.assert_array_equal(np.stack(seen), np.stack(expected))
    assert ends >= 3 * n_envs


def test_a_step_is_one_forward_terminal_observations_included() -> None:
    encoder = ToyEncoder()
    venv = VecSceneObservation(toy_envs(3), encoder)
    venv.reset()
    for _ in range(EPISODE):
        venv.step(np.zeros((3, 2)))
    assert encoder.calls == [3] * EPISODE + [6]


def test_observation_is_scene_vector_then_proprio_within_its_space() -> None:
    encoder = ToyEncoder(size=6)
    both, alone = VecSceneObservation(toy_envs(2), encoder), VecSceneObservation(toy_envs(2), encoder, proprio=False)
    assert both.observation_space.shape == (8,)
    assert alone.observation_space.shape == (6,)
    first, second = both.reset(), alone.reset()
    np.testing.assert_array_equal(first[:, :6], second)
    assert first.dtype == np.float32
    assert all(both.observation_space.contains(row) for row in first)
    assert isinstance(both.observation_space, spaces.Box)
    np.testing.assert_array_equal(both.observation_space.high[6:], [1, 1])  # the proprioception keeps its bounds


def test_encoder_stays_in_eval_and_bit_identical_through_learning() -> None:
    encoder = ToyEncoder().train()
    before = copy.deepcopy(encoder.state_dict())
    venv = VecSceneObservation(toy_envs(2), encoder)
    model = SAC("MlpPolicy", venv, learning_starts=10, batch_size=8, policy_kwargs={"net_arch": [8]}, seed=0)
    policy_before = copy.deepcopy(model.policy.state_dict())
    model.learn(60)
    model.policy.train()
    model.policy.set_training_mode(True)
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert before.keys() == encoder.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert any(not torch.equal(policy_before[name], value) for name, value in model.policy.state_dict().items())


def test_encoder_held_by_a_plain_object_is_frozen_too() -> None:
    class Plain:
        def __init__(self) -> None:
            self.net = ToyEncoder().train()
            self.size = self.net.size

        def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
            return self.net.encode(images, poses)

    plain = Plain()
    VecSceneObservation(toy_envs(1), plain).reset()
    assert not plain.net.training
    assert not any(parameter.requires_grad for parameter in plain.net.parameters())
    assert encoder_hash(plain) == encoder_hash(ToyEncoder())


def test_hash_tells_weights_apart_and_prefers_the_encoders_own() -> None:
    assert encoder_hash(ToyEncoder(0)) == encoder_hash(ToyEncoder(0).eval())
    assert encoder_hash(ToyEncoder(0)) != encoder_hash(ToyEncoder(1))
    named = ToyEncoder(0)
    named.fingerprint = "abc"  # type: ignore[assignment]
    assert encoder_hash(named) == "abc"

    class Constant:
        size = 1

        def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(images), 1)

    assert encoder_hash(Constant()).endswith("Constant")


IMAGES = spaces.Box(0, 255, (2, 8, 8, 3), np.uint8)
POSES = spaces.Box(-np.inf, np.inf, (2, 5), np.float32)


@pytest.mark.parametrize(
    ("space", "complaint"),
    [
        (spaces.Box(-1, 1, (3,)), r"needs a Dict observation with images .*; found Box"),
        (spaces.Dict(images=IMAGES, camera=POSES), r"poses missing, found keys images, camera"),
        (spaces.Dict(pixels=IMAGES), r"images and poses missing, found keys pixels"),
        (spaces.Dict(images=spaces.Box(0, 255, (8, 8, 3), np.uint8), poses=POSES), r"found images \(8, 8, 3\)"),
        (spaces.Dict(images=spaces.Box(0, 1, (2, 8, 8, 3), np.float32), poses=POSES), r"found images .* float32"),
        (spaces.Dict(images=IMAGES, poses=spaces.Box(-1, 1, (3, 5))), r"found 2 images and poses \(3, 5\)"),
        (spaces.Dict(images=IMAGES, poses=POSES, proprio=spaces.Discrete(3)), r"found proprio Discrete"),
    ],
)
def test_wrong_observation_space_names_what_is_needed_and_found(space: spaces.Space[Any], complaint: str) -> None:
    class Blind(gym.Env[Any, Any]):
        observation_space, action_space = space, spaces.Discrete(2)

    with pytest.raises(ValueError, match=complaint):
        VecSceneObservation(DummyVecEnv([Blind]), ToyEncoder())


def test_encoder_of_another_size_than_it_says_is_named() -> None:
    encoder = ToyEncoder(size=6)
    encoder.size = 7
    with pytest.raises(ValueError, match=r"ToyEncoder.encode returned shape \(2, 6\).* must be \(2, 7\)"):
        VecSceneObservation(toy_envs(2), encoder).reset()


def test_gymnasium_wrapper_free_use_equals_the_vectorised_one() -> None:
    """What films an episode (one plain environment) sees exactly what training sees."""
    env, encoder = gym.make(TOY_ID), ToyEncoder()
    scene_vector = SceneVector(encoder, env.observation_space)
    observation, _ = env.reset(seed=11)
    venv = VecSceneObservation(toy_envs(1), encoder)
    venv.seed(11)
    np.testing.assert_array_equal(scene_vector({k: v[None] for k, v in observation.items()}), venv.reset())


# Points, seen from where the robot is -------------------------------------------------------------------------------


def test_points_in_a_frame_are_what_a_turned_and_moved_robot_would_measure() -> None:
    rng = np.random.default_rng(0)
    points, frames = rng.normal(size=(5, 4, 3)), rng.normal(size=(5, 4))
    seen = in_frame(points, frames)
    np.testing.assert_allclose(in_frame(points, np.zeros((5, 4))), points, atol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(seen, axis=-1), np.linalg.norm(points - frames[:, None, :3], axis=-1), atol=1e-5
    )
    ahead = frames[:, None, :3] + np.stack([np.cos(frames[:, 3]), np.sin(frames[:, 3]), 0 * frames[:, 3]], -1)[:, None]
    np.testing.assert_allclose(in_frame(ahead, frames), np.tile([1.0, 0.0, 0.0], (5, 1, 1)), atol=1e-6)
    np.testing.assert_allclose(in_frame(points / 4, frames, unit=4.0), seen / 4, atol=1e-6)


def test_a_policy_sees_points_from_the_hand_and_from_the_room_without_proprioception() -> None:
    env = gym.make("gqn_rl:gqn_rl/ArmReach-v0")
    observation, _ = env.reset(seed=0)
    batch = {key: value[None] for key, value in observation.items()}
    encoder = load_encoder("arm-reach")
    end, points, unit = 3 * encoder.points, encoder.points, encoder.unit  # type: ignore[attr-defined]
    room = encoder.encode(torch.as_tensor(batch["images"]), torch.as_tensor(batch["poses"])).numpy()
    seen = SceneVector(encoder, env.observation_space)(batch)
    hand = env.unwrapped.hand_position  # type: ignore[attr-defined]
    expected = (room[0, :end].reshape(points, 3) * unit - hand) / unit
    np.testing.assert_allclose(seen[0, :end].reshape(points, 3), expected, atol=1e-4)
    np.testing.assert_array_equal(SceneVector(encoder, env.observation_space, proprio=False)(batch), room)
    env.close()


def test_a_frame_of_another_size_is_refused() -> None:
    space = toy_envs(1).observation_space
    assert isinstance(space, spaces.Dict)
    parts = {**space.spaces, "frame": spaces.Box(-1, 1, (3,), np.float32)}
    with pytest.raises(ValueError, match="frame"):
        SceneVector(ToyEncoder(), spaces.Dict(parts))
