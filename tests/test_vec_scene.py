"""Laws of the encoder in a vectorised environment: equal to one at a time, frozen, and clear about what it needs."""

from __future__ import annotations

import copy
import itertools
import shutil
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import EPISODE, TOY_ID, SameInfo, ToyEncoder, ToyReach, toy_values
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from torch import Tensor

from gqn_rl.agents.build import make_vec_env, see_with
from gqn_rl.agents.training import TrainConfig, train
from gqn_rl.agents.vec_scene import CERTAINTY, SceneVector, VecSceneObservation, encoder_hash, in_frame
from gqn_rl.cameras import CONVENTION
from gqn_rl.config import UserError
from gqn_rl.encoder import GQNEncoder, load_encoder
from gqn_rl.gqn import GQN, GQNConfig
from gqn_rl.types import AdditiveEncoder, Views

STEPS = 3 * EPISODE + 2
STILL_ID = "toy/Still-v0"


class StillToy(ToyReach):
    """The toy, which says that nothing moves; what a memory adds up does not care."""

    static_scene = True


class AdditiveToy(ToyEncoder):
    """Adds up pixels and poses of however many views, and reads something that is not linear in the sum."""

    def encode(self, images: Tensor, poses: Tensor) -> Tensor:
        return self.read(self.share(images, poses))

    def share(self, images: Tensor, poses: Tensor) -> Tensor:
        self.calls.append(len(images))
        rows = torch.einsum("bkhwc,h->bc", images.float(), torch.arange(images.shape[2], dtype=torch.float32))
        return torch.cat([rows, poses.sum(1), torch.full((len(images), 1), float(images.shape[1]))], dim=1)

    def read(self, total: Tensor) -> Tensor:
        squares = (total / 32).square()
        return squares[:, : self.size] - squares[:, -1:]


if STILL_ID not in gym.registry:
    gym.register(STILL_ID, entry_point=f"{__name__}:StillToy", max_episode_steps=EPISODE)


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

    def from_frame(points: NDArray[np.float64], frames: NDArray[np.float64], unit: float = 1.0) -> NDArray[np.float64]:
        return in_frame(torch.as_tensor(points), torch.as_tensor(frames), unit).numpy()

    seen = from_frame(points, frames)
    np.testing.assert_allclose(from_frame(points, np.zeros((5, 4))), points, atol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(seen, axis=-1), np.linalg.norm(points - frames[:, None, :3], axis=-1), atol=1e-5
    )
    ahead = frames[:, None, :3] + np.stack([np.cos(frames[:, 3]), np.sin(frames[:, 3]), 0 * frames[:, 3]], -1)[:, None]
    np.testing.assert_allclose(from_frame(ahead, frames), np.tile([1.0, 0.0, 0.0], (5, 1, 1)), atol=1e-6)
    np.testing.assert_allclose(from_frame(points / 4, frames, unit=4.0), seen / 4, atol=1e-6)


def test_a_policy_sees_points_that_move_from_the_hand_and_all_from_the_room_without_proprioception() -> None:
    env = gym.make("gqn_rl:gqn_rl/ArmReach-v0")
    observation, _ = env.reset(seed=0)
    batch = {key: value[None] for key, value in observation.items()}
    encoder = load_encoder("arm-reach")
    assert isinstance(encoder, GQNEncoder)
    end, points, unit = 3 * encoder.points, encoder.points, encoder.unit
    moving = encoder.moving.numpy()
    room = encoder.encode(torch.as_tensor(batch["images"]), torch.as_tensor(batch["poses"])).numpy()
    seen = SceneVector(encoder, env.observation_space)(batch)
    hand = env.unwrapped.hand_position  # type: ignore[attr-defined]
    expected = (room[0, :end].reshape(points, 3) * unit - hand)[moving] / unit
    assert 5 < len(expected) < points / 2  # the ball and the arm, not its base and the floor
    assert seen.shape[1] == expected.size + len(observation["proprio"])
    np.testing.assert_allclose(seen[0, : expected.size].reshape(-1, 3), expected, atol=1e-4)
    np.testing.assert_array_equal(SceneVector(encoder, env.observation_space, proprio=False)(batch), room)
    env.close()


def test_a_frame_of_another_size_is_refused() -> None:
    space = toy_envs(1).observation_space
    assert isinstance(space, spaces.Dict)
    parts = {**space.spaces, "frame": spaces.Box(-1, 1, (3,), np.float32)}
    with pytest.raises(ValueError, match="frame"):
        SceneVector(ToyEncoder(), spaces.Dict(parts))


# What an environment says besides ---------------------------------------------------------------------------------


def test_a_goal_follows_the_proprioception_and_stays_without_it() -> None:
    env = gym.make("gqn_rl:gqn_rl/RoomNavigate-v0", image_size=16)
    encoder, one_moves = _encoder("points"), _encoder("points")
    encoder.moving, one_moves.moving = torch.tensor([True, True]), torch.tensor([True, False])
    observation, _ = env.reset(seed=0)
    batch = {key: value[None] for key, value in observation.items()}
    both, alone = SceneVector(encoder, env.observation_space), SceneVector(encoder, env.observation_space, False)
    seen, bare = both(batch)[0], alone(batch)[0]
    size, end = encoder.size, 3 * encoder.points
    np.testing.assert_array_equal(seen[size:], np.concatenate([observation["proprio"], observation["goal"]]))
    still = SceneVector(one_moves, env.observation_space)(batch)[0]
    np.testing.assert_array_equal(still, np.concatenate([seen[:3], seen[end:]]))
    np.testing.assert_array_equal(bare[size:], observation["goal"])
    assert both.space.contains(seen)
    assert alone.space.contains(bare)
    np.testing.assert_array_equal(alone.space.high[size:], np.ones(len(observation["goal"])))  # it keeps its bounds
    room = encoder.encode(torch.as_tensor(batch["images"]), torch.as_tensor(batch["poses"])).numpy()
    points = torch.as_tensor(room[:, :end].reshape(1, -1, 3))
    own = in_frame(points, torch.as_tensor(batch["frame"]), encoder.unit).numpy()
    assert observation["frame"][3] != 0  # the agent's yaw
    np.testing.assert_allclose(seen[:end], own.ravel(), rtol=1e-6)
    np.testing.assert_array_equal(bare[:end], room[0, :end])
    env.close()


def test_all_other_vectors_are_appended_in_the_order_of_the_space() -> None:
    parts: dict[str, spaces.Space[Any]] = {"wish": spaces.Box(-1, 1, (2,)), "goal": spaces.Box(0, 9, (3,), np.uint8)}
    space = spaces.Dict({"images": IMAGES, "poses": POSES, "proprio": spaces.Box(-1, 1, (1,)), **parts})
    batch = {key: value[None] for key, value in space.sample().items()}
    seen = SceneVector(AdditiveToy(), space)(batch)
    others = [key for key in space.spaces if key in parts]
    np.testing.assert_array_equal(seen[0, 6:], np.concatenate([batch[key][0] for key in ("proprio", *others)]))
    assert seen.dtype == np.float32


@pytest.mark.parametrize("part", [spaces.Discrete(3), spaces.Box(0, 1, (4, 4)), spaces.Dict(x=IMAGES)])
def test_other_parts_that_are_no_vectors_are_named(part: spaces.Space[Any]) -> None:
    with pytest.raises(ValueError, match="Box parts with one axis; found map"):
        SceneVector(ToyEncoder(), spaces.Dict({"images": IMAGES, "poses": POSES, "map": part}))


@pytest.mark.parametrize("name", ["points", "certainty", "features"])
def test_other_parts_named_as_those_of_the_scene_vector_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is what a part of the scene vector is called"):
        SceneVector(ToyEncoder(), spaces.Dict({"images": IMAGES, "poses": POSES, name: spaces.Box(0, 1, (4,))}))


# How sure the encoder is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("proprio", [True, False])
def test_certainty_lies_between_the_points_that_are_seen_and_the_features(proprio: bool) -> None:
    env = gym.make("gqn_rl:gqn_rl/RoomNavigate-v0", image_size=16, views=2)
    encoder = _encoder("points", 3)
    encoder.moving = torch.tensor([False, True])
    observation, _ = env.reset(seed=0)
    batch = {key: value[None] for key, value in observation.items()}
    told, plain = (SceneVector(encoder, env.observation_space, proprio, sure) for sure in (True, False))
    seen, expected = told(batch)[0], plain(batch)[0]
    count = 1 if proprio else 2  # without a frame a policy sees all points
    sizes = list(told.layout.values())[:3]
    assert sizes == [3 * count, count, 3]
    assert plain.layout == {**told.layout, CERTAINTY: 0}
    points, sure, rest = np.split(seen, np.cumsum(sizes[:2]))
    np.testing.assert_allclose(np.concatenate([points, rest]), expected, atol=1e-5)
    whole = encoder.certainty(encoder.share(torch.as_tensor(batch["images"]), torch.as_tensor(batch["poses"])))
    np.testing.assert_allclose(sure, whole[0, 2 - count :], rtol=1e-5)
    assert told.space.contains(seen)
    env.close()


def test_certainty_begins_at_zero_and_no_view_takes_from_it() -> None:
    encoder, views = _encoder("points"), _views(4, 6)
    shares = [encoder.share(views.images[:, i : i + 1], views.poses[:, i : i + 1]) for i in range(6)]
    sure = [encoder.certainty(torch.stack(shares[:n]).sum(0) if n else 0 * shares[0]) for n in range(7)]
    assert sure[0].shape == (4, encoder.points)
    torch.testing.assert_close(sure[0], torch.zeros_like(sure[0]))
    assert all((after > before).all() for before, after in itertools.pairwise(sure))
    twice = encoder.certainty(1e6 * shares[0]) - encoder.certainty(1e6 / 64 * shares[0])
    torch.testing.assert_close(twice, torch.full_like(twice, np.log(8.0)), atol=1e-3, rtol=0)  # 64 views: an eighth


def test_certainty_needs_points_and_a_frozen_encoder_that_says_how_sure_it_is() -> None:
    for encoder in (ToyEncoder(), _encoder("ray", 4)):
        with pytest.raises(ValueError, match=r"certainty is that of points .* has 0 of them"):
            VecSceneObservation(toy_envs(1), encoder, certainty=True)
    with pytest.raises(ValueError, match="'ray' has no points to be certain of"):
        _encoder("ray", 4).certainty(torch.zeros(1, 5))
    for encoder, stack in ((None, None), (_encoder("points"), 1)):
        with pytest.raises(UserError, match=r"certainty needs an encoder.* valid here: false"):
            see_with(encoder, still_envs(1), pixel_stack=stack, certainty=True)


# A memory of the scene ---------------------------------------------------------------------------------------------


def still_envs(n_envs: int, **kwargs: Any) -> VecEnv:
    return make_vec_env(STILL_ID, kwargs, n_envs, seed=5)


def _views(scenes: int, views: int) -> Views:
    torch.manual_seed(0)
    return Views(torch.randint(0, 256, (scenes, views, 16, 16, 3), dtype=torch.uint8), torch.randn(scenes, views, 5))


def _encoder(kind: str, channels: int = 0) -> GQNEncoder:
    """An encoder of ours at initialisation."""
    torch.manual_seed(1)
    gqn = GQNConfig.from_mapping(
        {
            "image_size": 16,
            "length_scale": 2.0,
            "representation": {"kind": kind, "channels": channels, "width": 8, "heads": 2, "token_channels": 8},
            "generator": {"channels": 4, "steps": 1, "canvas_channels": 8, "mixing_channels": 8},
        }
    )
    camera = {"convention": CONVENTION, "fovy": 60.0, "image_size": [16, 16], "renderer": "mujoco 3.8.1"}
    return GQNEncoder.from_gqn(GQN(gqn), _views(32, 2), {"camera": camera})


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("terminate", [False, True])
def test_a_memory_equals_encoding_all_views_so_far_at_once(n_envs: int, terminate: bool) -> None:
    encoder, rng = AdditiveToy(), np.random.default_rng(0)
    spy = Spy(still_envs(n_envs, terminate=terminate))
    venv = VecSceneObservation(spy, encoder, context="episode")
    seen = venv.reset()
    episodes = [[{key: value[i] for key, value in spy.observations.items()}] for i in range(n_envs)]

    def slow(episode: list[dict[str, NDArray[Any]]]) -> NDArray[np.float32]:
        images, poses = (torch.as_tensor(np.concatenate([one[key] for one in episode])) for key in ("images", "poses"))
        return np.concatenate([encoder.encode(images[None], poses[None])[0].numpy(), episode[-1]["proprio"]])

    ends = 0
    for step in range(STEPS + 1):
        np.testing.assert_array_equal(seen, np.stack([slow(episode) for episode in episodes]))
        if step == STEPS:
            break
        seen, _, dones, infos = venv.step(rng.uniform(-1, 1, (n_envs, 2)))
        for i in range(n_envs):
            now = {key: value[i] for key, value in spy.observations.items()}
            if dones[i]:
                ends += 1
                episodes[i].append(spy.infos[i]["terminal_observation"])
                np.testing.assert_array_equal(infos[i]["terminal_observation"], slow(episodes[i]))
                episodes[i] = []
            episodes[i].append(now)
    assert ends >= 3 * n_envs


@pytest.mark.parametrize("context", ["now", "episode"])
def test_ends_of_episodes_are_told_without_infos(context: Literal["now", "episode"]) -> None:
    """An info that is handed out again has the last observation of an earlier episode in it."""
    plain, same = (
        VecSceneObservation(DummyVecEnv([partial(make, index) for index in range(2)]), AdditiveToy(), context=context)
        for make in (still_env, lambda index: SameInfo(still_env(index)))
    )
    np.testing.assert_array_equal(plain.reset(), same.reset())
    rng, ends = np.random.default_rng(0), 0
    for _ in range(STEPS):
        action = rng.uniform(-1, 1, (2, 2))
        (seen, _, dones, infos), (again, _, _, others) = plain.step(action), same.step(action)
        np.testing.assert_array_equal(seen, again)
        for index in np.flatnonzero(dones):
            ends += 1
            key = "terminal_observation"
            np.testing.assert_array_equal(infos[index][key], others[index][key])
    assert ends >= 4


def still_env(index: int) -> gym.Env[Any, Any]:
    """Of two, each ends its episodes at other times."""
    env = gym.make(STILL_ID, max_episode_steps=EPISODE - 3 * index)
    env.reset(seed=index)
    return env


def test_a_memory_encodes_every_view_once_in_one_forward_a_step() -> None:
    encoder = AdditiveToy()
    venv = VecSceneObservation(still_envs(3), encoder, context="episode")
    venv.reset()
    for _ in range(EPISODE):
        venv.step(np.zeros((3, 2)))
    assert encoder.calls == [3] * EPISODE + [6]


def test_with_one_step_an_episode_a_memory_holds_what_is_seen_now() -> None:
    encoder, rng = AdditiveToy(), np.random.default_rng(0)
    now = VecSceneObservation(still_envs(2, max_episode_steps=1), encoder)
    episode = VecSceneObservation(still_envs(2, max_episode_steps=1), encoder, context="episode")
    np.testing.assert_array_equal(now.reset(), episode.reset())
    for _ in range(5):
        actions = rng.uniform(-1, 1, (2, 2))
        (first, *_, one), (second, *_, other) = now.step(actions), episode.step(actions)
        np.testing.assert_array_equal(first, second)
        for a, b in zip(one, other, strict=True):  # but an episode's last observation is of two moments
            assert not np.array_equal(a["terminal_observation"], b["terminal_observation"])


def test_a_reset_forgets() -> None:
    venv = VecSceneObservation(still_envs(2), AdditiveToy(), context="episode")
    first = venv.reset()
    for _ in range(3):
        later = venv.step(np.ones((2, 2)))[0]
    assert not np.array_equal(later, first)
    venv.seed(5)
    np.testing.assert_array_equal(venv.reset(), first)


@pytest.mark.parametrize(
    ("kind", "channels"), [("pyramid", 8), ("tower", 4), ("pool", 8), ("ray", 8), ("points", 0), ("points", 5)]
)
def test_every_network_of_ours_adds_up_views_in_any_order_and_grouping(kind: str, channels: int) -> None:
    encoder, views = _encoder(kind, channels), _views(3, 6)
    assert isinstance(encoder, AdditiveEncoder)
    at_once = encoder.encode(*views)

    def of(order: list[int]) -> Tensor:
        return encoder.share(views.images[:, order], views.poses[:, order])

    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(encoder.read(of([0, 1, 2, 3, 4, 5])), at_once)
    torch.testing.assert_close(encoder.read(of([5, 2, 0]) + of([1]) + of([4, 3])), at_once, **close)
    assert not torch.allclose(encoder.read(of([0, 1, 2])), at_once, atol=1e-2)


def test_a_memory_of_a_room_is_that_of_all_views_from_where_the_agent_is() -> None:
    encoder, views = _encoder("points", 3), 2
    spy = Spy(make_vec_env("gqn_rl:gqn_rl/RoomNavigate-v0", {"image_size": 16, "views": views}, 2, seed=0))
    venv = VecSceneObservation(spy, encoder, context="episode", certainty=True)
    now = SceneVector(encoder, spy.observation_space, certainty=True)
    seen, images, poses = venv.reset(), [], []
    for step in range(5):
        if step:
            seen, _, dones, _ = venv.step(np.tile([0.8, 0.1], (2, 1)))
            assert not dones.any()
        images.append(spy.observations["images"])
        poses.append(spy.observations["poses"])
        all_views = {"images": np.concatenate(images, axis=1), "poses": np.concatenate(poses, axis=1)}
        np.testing.assert_allclose(seen, now({**spy.observations, **all_views}), atol=1e-3)
    venv.close()


@pytest.mark.parametrize("spread", [1.0, 0.0], ids=["all-round", "one-place"])
def test_sums_of_hundreds_of_views_stay_finite_and_accurate(spread: float) -> None:
    """Precisions grow with every view; views of one place tell little along the ray, the hardest sums to read."""
    env, encoder = gym.make("gqn_rl:gqn_rl/ArmReach-v0", cameras="moving"), load_encoder("arm-reach")
    assert isinstance(encoder, GQNEncoder)
    source: Any = env.unwrapped
    source.new_scene(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    poses = np.stack([source.sample_pose(rng) for _ in range(50)])
    poses = np.where(spread > 0, poses, poses[0] + rng.normal(scale=0.01, size=poses.shape)).astype(np.float32)

    def batch(i: int) -> tuple[Tensor, Tensor]:
        return torch.as_tensor(source.render_view(poses[i]))[None, None], torch.as_tensor(poses[None, [i]])

    with torch.inference_mode():
        shares = torch.stack([encoder.share(*batch(i)) for i in range(50)])
        total = torch.zeros_like(shares[0])
        for count in range(1, 401):
            total = total + shares[(count - 1) % 50]
            if count not in (1, 50, 400):
                continue
            exact = shares.double().repeat(8, 1, 1)[:count].sum(0)
            network, end = encoder.gqn.representation, 3 * encoder.points
            summed = exact[:, :-1].unflatten(1, network.out_shape)
            points = network.vector_of_sum(summed, exact[:, -1])[:, :end] * encoder.gqn.config.length_scale
            read = encoder.read(total)
            assert torch.isfinite(read).all()
            torch.testing.assert_close(read[:, :end].double() * encoder.unit, points, atol=0.005, rtol=0)  # metres
    env.close()


def test_training_with_a_memory_resumes_exactly(tmp_path: Path) -> None:
    """Episodes begin anew at a checkpoint, here in the middle of one, and so does the memory."""
    values = toy_values(total_steps=110, checkpoint_every=44, evaluation__every=100, context="episode")
    values["env"]["id"] = f"{__name__}:{STILL_ID}"
    config = TrainConfig.from_mapping(values)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(whole, config, AdditiveToy())
    shutil.copytree(whole, resumed)
    for name in ("summary.json", "final_model.zip"):  # as if killed after its last checkpoint
        (resumed / name).unlink()
    train(resumed, config, AdditiveToy())
    first, second = (SAC.load(folder / "final_model.zip").policy.state_dict() for folder in (whole, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_memory_needs_a_static_scene_and_an_encoder_that_adds_up() -> None:
    for venv in (toy_envs(1), make_vec_env("gqn_rl:gqn_rl/ArmReach-v0", {"image_size": 16}, 1, seed=0)):
        with pytest.raises(
            ValueError, match=r"does not say that its scene stays .* \(static_scene = True\); valid: now"
        ):
            VecSceneObservation(venv, AdditiveToy(), context="episode")
        venv.close()
    with pytest.raises(ValueError, match=r"ToyEncoder has no methods share and read .* valid: now"):
        VecSceneObservation(still_envs(1), ToyEncoder(), context="episode")
    with pytest.raises(ValueError, match="context must be one of now, episode; got 'always'"):
        VecSceneObservation(still_envs(1), AdditiveToy(), context="always")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="valid: now"):
        see_with(ToyEncoder(), still_envs(1), context="episode")
    for encoder, stack in ((None, None), (AdditiveToy(), 1)):
        with pytest.raises(UserError, match=r"context 'episode' needs an encoder.* valid here: now"):
            see_with(encoder, still_envs(1), pixel_stack=stack, context="episode")
    with pytest.raises(UserError, match="context"):
        TrainConfig.from_mapping(toy_values(context="always"))
