"""Laws of encoders that the critic trains: shifts and returns equal references, who moves what, exact resumption."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from gqn_rl.agents.build import build_model, load_model, make_vec_env, see_with
from gqn_rl.agents.checkpoints import load_replay, newest, replay_buffer, save_replay
from gqn_rl.agents.drq import (
    TRUNK_SIZE,
    ConvolutionalEncoder,
    CriticEncoderPolicy,
    Replayed,
    SceneNetwork,
    ViewReplayBuffer,
    shifted,
)
from gqn_rl.agents.interrupts import TrainingInterrupted, stopping_when
from gqn_rl.agents.replay import replay
from gqn_rl.agents.training import TrainConfig, fresh_model, make_envs, train
from gqn_rl.agents.vec_scene import SceneVector
from gqn_rl.config import UserError
from gqn_rl.encoder import GQNEncoder, load_encoder

POLICY = "gqn_rl.agents.drq:CriticEncoderPolicy"
SMALL = {"learning_starts": 4, "batch_size": 4, "policy_kwargs": {"net_arch": [16]}}
SHORT = {"obs_mode": "views", "views": 2, "max_episode_steps": 3, "render_size": 64}
VIEWS, SIDE = 2, 40


class Blobs(gym.Env[Any, Any]):
    """Two cameras see a bright square, which an action pushes; the reward is its row."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Dict(
            images=spaces.Box(0, 255, (VIEWS, SIDE, SIDE, 3), np.uint8),
            poses=spaces.Box(-np.inf, np.inf, (VIEWS, 5), np.float32),
            proprio=spaces.Box(-np.inf, np.inf, (3,), np.float32),
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(0, SIDE - 4, 2)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = np.clip(self.place + 4 * np.asarray(action), 0, SIDE - 4)
        return self._observe(), float(self.place[0] / SIDE), bool(self.place[0] > 32), False, {}

    def render(self) -> Any:
        return self._observe()["images"][0]

    def _observe(self) -> dict[str, NDArray[Any]]:
        images = np.full((VIEWS, SIDE, SIDE, 3), 40, np.uint8)
        row, column = self.place.astype(int)
        images[0, row : row + 4, column : column + 4] = images[1, column : column + 4, row : row + 4] = 220
        poses = np.tile(np.array([1, 2, 3, 0, 0], np.float32), (VIEWS, 1))
        return {"images": images, "poses": poses, "proprio": np.ones(3, np.float32)}


if "test/Blobs-v0" not in gym.registry:
    gym.register("test/Blobs-v0", entry_point=f"{__name__}:Blobs", max_episode_steps=5)
BLOBS = "test_drq:test/Blobs-v0"


def drq(total_steps: int = 40, n_envs: int = 1, **kwargs: Any) -> SAC:
    """DrQ-v2's encoder around SAC, before its first step."""
    venv = see_with(None, make_vec_env(BLOBS, {}, n_envs, seed=0), pixel_stack=1)
    arguments = {**SMALL, "replay_buffer_kwargs": {"shift": 4}, **kwargs}
    model = build_model(SAC, venv, policy=POLICY, kwargs=arguments, total_steps=total_steps, seed=0)
    assert isinstance(model, SAC)
    return model


def arm_config(**changes: Any) -> TrainConfig:
    """A few steps of the arm, with the shipped encoder trained on."""
    values: dict[str, Any] = {
        "env": {"id": "gqn_rl:gqn_rl/ArmReach-v0", "kwargs": SHORT},
        "encoder": "arm-reach",
        "finetune": True,
        "algorithm": {"kwargs": {**SMALL, "n_steps": 2, "policy_kwargs": {"encoder_learning_rate_factor": 0.1}}},
        "total_steps": 8,
        "threads": 1,
        "wandb": "disabled",
    }
    return TrainConfig.from_mapping({**values, **changes})


def snapshot(model: SAC, part: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items() if name.startswith(part)}


def unchanged(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, after[name]) for name, value in before.items())


# Shifts and returns ---------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), pad=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_shifted_pictures_equal_a_slow_reference(seed: int, pad: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (5, 3, 9, 7), dtype=np.uint8)
    moves = rng.integers(-pad, pad + 1, (5, 2))
    expected = np.empty_like(images)
    for n, row, column in np.ndindex(5, 9, 7):
        source_row = min(max(row - moves[n, 0], 0), 8)
        source_column = min(max(column - moves[n, 1], 0), 6)
        expected[n, :, row, column] = images[n, :, source_row, source_column]
    np.testing.assert_array_equal(shifted(images, moves), expected)
    np.testing.assert_array_equal(shifted(images, np.zeros((5, 2), int)), images)


def filled(n_envs: int = 2, **kwargs: Any) -> ViewReplayBuffer:
    """A buffer that has gone round once; every transition has pictures and numbers of its own."""
    space = spaces.Dict(
        pixels=spaces.Box(0, 255, (12, 16, 16), np.uint8), poses=spaces.Box(-np.inf, np.inf, (2, 10), np.float32)
    )
    buffer = ViewReplayBuffer(20 * n_envs, space, spaces.Box(-1, 1, (2,), np.float32), "cpu", n_envs, **kwargs)
    rng = np.random.default_rng(0)
    for _ in range(27):
        first, second = (
            {
                "pixels": rng.integers(0, 256, (n_envs, 12, 16, 16), dtype=np.uint8),
                "poses": rng.normal(size=(n_envs, 2, 10)).astype(np.float32),
            }
            for _ in range(2)
        )
        dones = rng.random(n_envs) < 0.2
        infos = [{"TimeLimit.truncated": bool(done and rng.random() < 0.5)} for done in dones]
        buffer.add(first, second, rng.normal(size=(n_envs, 2)), rng.normal(size=n_envs), dones, infos)
    return buffer


@pytest.mark.parametrize("n_steps", [1, 3, 5])
def test_returns_are_those_of_sb3s_buffer_for_flat_observations(n_steps: int) -> None:
    ours = filled(n_steps=n_steps, gamma=0.9)
    flat = NStepReplayBuffer(
        40, spaces.Box(-np.inf, np.inf, (20,), np.float32), ours.action_space, "cpu", 2, n_steps=n_steps, gamma=0.9
    )
    for name in ("actions", "rewards", "dones", "timeouts"):
        setattr(flat, name, getattr(ours, name).copy())
    flat.observations = ours.observations["poses"].reshape(20, 2, 20)
    flat.next_observations = ours.next_observations["poses"].reshape(20, 2, 20)
    flat.pos, flat.full = ours.pos, ours.full
    np.random.seed(3)  # noqa: NPY002 - Stable-Baselines3 draws from it
    expected = flat.sample(200)
    np.random.seed(3)  # noqa: NPY002
    found = ours.sample(200)
    torch.testing.assert_close(found.rewards, expected.rewards)
    for name in ("actions", "dones", "discounts"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.observations["poses"].flatten(1), expected.observations)
    assert torch.equal(found.next_observations["poses"].flatten(1), expected.next_observations)


def test_without_a_shift_pictures_are_those_stored() -> None:
    buffer = filled()
    sample = buffer.sample(30)
    stored = buffer.observations["pixels"].reshape(-1, 12, 16, 16)
    for picture in sample.observations["pixels"].numpy():
        assert (stored == picture).all(axis=(1, 2, 3)).any()


def test_a_views_pictures_shift_together_and_views_independently() -> None:
    buffer = filled(shift=4)
    gradient = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None] * 16 + np.arange(16, dtype=np.uint8), (16, 16))
    buffer.observations["pixels"][:] = gradient
    before = buffer.observations["pixels"].copy()
    torch.manual_seed(0)
    first = buffer.sample(200).observations["pixels"].numpy()
    np.testing.assert_array_equal(buffer.observations["pixels"], before)  # what is stored is not touched
    views = first.reshape(200, 2, 6, 16, 16)
    assert (views == views[:, :, :1]).all()  # two pictures of three colours, one motion
    same = (views[:, 0] == views[:, 1]).all(axis=(1, 2, 3)).mean()
    assert same < 0.1  # 1 / 81 by chance
    centres = views[:, :, 0, 8, 8].astype(int)  # 136 where nothing moved: row 8, column 8
    rows, columns = 8 - centres // 16, 8 - centres % 16
    assert set(rows.ravel()) == set(columns.ravel()) == set(range(-4, 5))
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - Stable-Baselines3 draws from it
    again = buffer.sample(50).observations["pixels"]
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    assert torch.equal(again, buffer.sample(50).observations["pixels"])


def test_a_saved_buffer_samples_the_same(tmp_path: Path) -> None:
    buffer, other = filled(n_steps=3, shift=2), filled(n_steps=3, shift=2)
    save_replay(tmp_path / "replay.npz", buffer)
    other.reset()
    other.observations["pixels"][:] = 0
    load_replay(tmp_path / "replay.npz", other)
    samples = []
    for one in (buffer, other):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - Stable-Baselines3 draws from it
        samples.append(one.sample(32))
    assert torch.equal(samples[0].observations["pixels"], samples[1].observations["pixels"])
    assert torch.equal(samples[0].rewards, samples[1].rewards)


# Who moves what -------------------------------------------------------------------------------------------------


def test_the_critics_loss_trains_the_encoder_and_the_actors_does_not() -> None:
    model = drq()
    model.learn(12)
    policy = model.policy
    assert isinstance(policy, CriticEncoderPolicy)
    sample = replay_buffer(model).sample(8)
    for observations in (sample.observations, Replayed(sample.observations)):
        policy.zero_grad()
        log_prob = model.actor.action_log_prob(observations)[1]
        log_prob.mean().backward(retain_graph=True)
        assert all(parameter.grad is None for parameter in policy.encoder.parameters())
        assert all(parameter.grad is not None for parameter in model.actor.parameters())
    policy.zero_grad()
    replayed = Replayed(sample.observations)
    torch.cat(model.critic(replayed, sample.actions)).square().mean().backward()
    gradients = [copy.deepcopy(parameter.grad) for parameter in policy.encoder.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    # What SAC does next, to train the actor, reads the critic once more: no gradient goes further than its trunk.
    torch.cat(model.critic(replayed, model.actor.action_log_prob(replayed)[0])).mean().backward()
    for gradient, parameter in zip(gradients, policy.encoder.parameters(), strict=True):
        assert torch.equal(gradient, parameter.grad)


def test_an_update_trains_encoder_actor_and_critic_and_targets_follow_slowly() -> None:
    model = drq()
    model.learn(4)
    parts = ("encoder", "actor", "critic.", "critic_target")
    before = {part: snapshot(model, part) for part in parts}
    model.train(1, 4)
    for part in parts:
        assert not unchanged(before[part], model.policy.state_dict()), part
    for name, value in before["critic_target"].items():
        new = model.policy.state_dict()[name.replace("critic_target", "critic")]
        torch.testing.assert_close(model.policy.state_dict()[name], 0.995 * value + 0.005 * new)


def test_an_update_encodes_each_replayed_observation_once() -> None:
    model = drq()
    model.learn(4)
    calls: list[int] = []
    model.policy.encoder.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    model.train(3, 4)
    assert len(calls) == 3 * 2  # an observation and the next one


def test_remembered_features_do_not_change_the_first_update_of_the_critic() -> None:
    """Remembering is only for speed: the critic's step is that without it, to the bit."""
    states = []
    for remembers in (True, False):
        model = drq(replay_buffer_kwargs={"shift": 0})
        model.learn(4)
        buffer = replay_buffer(model)
        if not remembers:
            plain = buffer.sample
            buffer.sample = lambda *a, plain=plain, **k: _forgetful(plain(*a, **k))  # type: ignore[method-assign, misc]
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - Stable-Baselines3 draws from it
        model.train(1, 4)
        states.append(snapshot(model, "encoder") | snapshot(model, "critic."))
    assert unchanged(states[0], states[1])


def _forgetful(sample: Any) -> Any:
    return sample._replace(observations=dict(sample.observations), next_observations=dict(sample.next_observations))


def test_the_encoders_learning_rate_is_a_share_of_the_others() -> None:
    """A first step of Adam moves every weight by the learning rate, whatever the gradient."""
    moved = {}
    for factor in (1.0, 0.25):
        kwargs = {"policy_kwargs": {"net_arch": [16], "encoder_learning_rate_factor": factor}}
        model = drq(**kwargs, learning_rate=1e-3, replay_buffer_kwargs={"shift": 0})
        model.learn(4)
        before = model.policy.state_dict()["encoder.convolutions.6.weight"].clone()
        model.train(1, 4)
        moved[factor] = (model.policy.state_dict()["encoder.convolutions.6.weight"] - before).abs().max().item()
        assert [group["lr"] for group in model.critic.optimizer.param_groups] == [1e-3, 1e-3]
    assert moved[1.0] == pytest.approx(1e-3, rel=0.01)
    assert moved[0.25] == pytest.approx(0.25e-3, rel=0.01)


def test_a_pretrained_encoder_begins_with_what_the_frozen_one_says_and_is_a_copy() -> None:
    encoder = load_encoder("arm-reach")
    assert isinstance(encoder, GQNEncoder)
    fingerprint = encoder.fingerprint
    venv = make_envs(arm_config(), encoder, 2)
    observations = venv.reset()
    assert isinstance(observations, dict)
    assert isinstance(venv.observation_space, spaces.Dict)
    network = SceneNetwork(encoder, venv.observation_space)
    found = network({key: torch.as_tensor(value) for key, value in observations.items()})
    images = observations["pixels"].reshape(2, 2, 3, 64, 64).transpose(0, 1, 3, 4, 2)
    space = spaces.Dict(
        images=spaces.Box(0, 255, (2, 64, 64, 3), np.uint8),
        **{key: box for key, box in venv.observation_space.items() if key in ("poses", "frame")},
    )
    frozen = SceneVector(encoder, space)({**observations, "images": images})
    np.testing.assert_allclose(found.detach().numpy(), frozen, atol=1e-5)
    found.square().mean().backward()
    trained = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert trained
    assert all("representation" in name for name in trained)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert encoder.fingerprint == fingerprint
    venv.close()


OTHERS = {
    "place": spaces.Box(-1, 1, (2, 3), np.float64),
    "goal": spaces.Discrete(4),
    "colors": spaces.MultiDiscrete([2, 3]),
    "doors": spaces.MultiBinary(2),
}


class Furnished(Blobs):
    """Says more than a camera sees, of every kind that Stable-Baselines3 reads."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space = spaces.Dict({**self.observation_space.spaces, **OTHERS})

    def _observe(self) -> dict[str, NDArray[Any]]:
        return {**super()._observe(), **{key: space.sample() for key, space in OTHERS.items()}}


def test_what_is_no_picture_is_read_as_by_sb3s_own_policy() -> None:
    venv = see_with(None, DummyVecEnv([Furnished] * 2), pixel_stack=1)
    model = build_model(SAC, venv, policy=POLICY, kwargs=SMALL, total_steps=12, seed=0).learn(12)
    assert isinstance(model, SAC)
    observations = replay_buffer(model).sample(5).observations
    trunk = model.actor.features_extractor
    found = trunk(torch.zeros(5, model.policy.encoder.size), observations)[:, TRUNK_SIZE:]  # type: ignore[union-attr, operator]
    space = spaces.Dict({key: part for key, part in venv.observation_space.items() if key != "pixels"})  # type: ignore[attr-defined]
    read = preprocess_obs({key: observations[key] for key in space}, space)
    expected = CombinedExtractor(space)(read)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_frame_may_have_more_digits_than_a_network() -> None:
    encoder = load_encoder("arm-reach")
    assert isinstance(encoder, GQNEncoder)
    place = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    network = SceneNetwork(encoder, spaces.Dict(poses=spaces.Box(-np.inf, np.inf, (2, 5), np.float32), frame=place))
    observations = {
        "pixels": torch.zeros(1, 6, 64, 64, dtype=torch.uint8),
        "poses": torch.ones(1, 2, 5),
        "frame": torch.tensor([[0.5, 0.25, 1.0, 2.0]], dtype=torch.float64),
    }
    found = network(observations)
    assert found.dtype == torch.float32
    assert torch.equal(found, network({**observations, "frame": observations["frame"].float()}))


# Runs -----------------------------------------------------------------------------------------------------------


def test_saved_policy_acts_as_the_trained_one(tmp_path: Path) -> None:
    model = drq(n_envs=2, n_steps=3)
    model.learn(20)
    model.save(tmp_path / "model.zip")
    observations = model.env.reset()  # type: ignore[union-attr]
    action = model.predict(observations, deterministic=True)[0]  # type: ignore[arg-type]
    loaded = load_model(SAC, tmp_path / "model.zip")
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], action)  # type: ignore[arg-type]
    model.policy.save(str(tmp_path / "policy.pt"))
    alone = CriticEncoderPolicy.load(str(tmp_path / "policy.pt"))
    np.testing.assert_array_equal(alone.predict(observations, deterministic=True)[0], action)  # type: ignore[arg-type]


def test_strides_are_those_that_are_asked_for(tmp_path: Path) -> None:
    """A convolution each, as DrQ-v2's own by a word in a YAML file; a saved policy has them too."""
    model = drq(policy_kwargs={"strides": [2, 1, 1, 1], "net_arch": [16]})
    encoder = model.policy.encoder
    assert isinstance(encoder, ConvolutionalEncoder)
    assert [layer.stride for layer in encoder.convolutions if isinstance(layer, nn.Conv2d)] == [(2, 2), *[(1, 1)] * 3]
    observations = model.env.reset()  # type: ignore[union-attr]
    action = model.predict(observations, deterministic=True)[0]  # type: ignore[arg-type]
    model.save(tmp_path / "model.zip")
    loaded = load_model(SAC, tmp_path / "model.zip")
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], action)  # type: ignore[arg-type]


def _resumed_equals_whole(config: TrainConfig, encoder: GQNEncoder | None, folder: Path) -> None:
    whole, resumed = folder / "whole", folder / "resumed"
    train(whole, config, encoder)
    with stopping_when(lambda: newest(resumed / "checkpoint") is not None), pytest.raises(TrainingInterrupted):
        train(resumed, config, encoder)
    torch.manual_seed(1)
    train(resumed, config, encoder)
    first, second = (cast(SAC, load_model(SAC, path / "final_model.zip")) for path in (whole, resumed))
    assert unchanged(first.policy.state_dict(), second.policy.state_dict())
    states = [one.critic.optimizer.state_dict()["state"] for one in (first, second)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key]["exp_avg"], states[1][key]["exp_avg"]) for key in states[0])
    found = replay(resumed, encoder, episodes=1)
    assert found["episodes"] == 1
    assert found["video"] is not None


def test_resumed_run_on_pixels_ends_bit_identical(tmp_path: Path) -> None:
    for arm in ("pixels", "pixels_aug"):
        algorithm: dict[str, Any] = {"kwargs": SMALL}
        if arm == "pixels_aug":
            algorithm = {"policy": POLICY, "kwargs": {**SMALL, "n_steps": 3, "replay_buffer_kwargs": {"shift": 4}}}
        values = {
            "env": {"id": BLOBS},
            "pixels": {"stack": 2},
            "algorithm": algorithm,
            "total_steps": 24,
            "evaluation": {"every": 100, "episodes": 1},
            "checkpoint_every": 16,
            "threads": 1,
            "wandb": "disabled",
        }
        _resumed_equals_whole(TrainConfig.from_mapping(values), None, tmp_path / arm)


def test_resumed_run_with_an_encoder_trained_on_ends_bit_identical(tmp_path: Path) -> None:
    encoder = load_encoder("arm-reach")
    assert isinstance(encoder, GQNEncoder)
    config = arm_config(total_steps=9, checkpoint_every=6, evaluation={"every": 100, "episodes": 1})
    _resumed_equals_whole(config, encoder, tmp_path)
    trained = load_model(SAC, tmp_path / "whole" / "final_model.zip").policy
    assert isinstance(trained.encoder, SceneNetwork)
    assert trained.encoder.encoder.fingerprint != encoder.fingerprint


def test_policy_arguments_may_be_null() -> None:
    """As on the command line, where that takes back a configuration's."""
    encoder = load_encoder("arm-reach")
    config = arm_config(algorithm={"kwargs": {**SMALL, "policy_kwargs": None}})
    venv = make_envs(config, encoder, 1)
    assert isinstance(fresh_model(SAC, config, venv, encoder).policy.encoder, SceneNetwork)
    venv.close()


def test_nonsense_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"policy 'gqn_rl.agents.drq:Nope': module .* has no 'Nope'"):
        build_model(SAC, drq().get_env(), policy="gqn_rl.agents.drq:Nope", kwargs={}, total_steps=5, seed=0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"is not a Stable-Baselines3 replay buffer"):
        drq(replay_buffer_class="gqn_rl.agents.drq:Trunk")
    with pytest.raises(UserError, match=r"n_steps is 3, but DictReplayBuffer has no n-step returns"):
        drq(replay_buffer_class="stable_baselines3.common.buffers:DictReplayBuffer", n_steps=3)
    with pytest.raises(UserError, match=r"shift must be 0 pixels or more, got -1"):
        drq(replay_buffer_kwargs={"shift": -1})
    with pytest.raises(UserError, match=r"encoder_learning_rate_factor must be positive, got 0"):
        drq(policy_kwargs={"encoder_learning_rate_factor": 0})
    for strides in ([], [2, 0], [2.0]):
        with pytest.raises(UserError, match=r"strides must be integers of at least 1, .* got \["):
            drq(policy_kwargs={"strides": strides})
    with pytest.raises(UserError, match=r"images of .* are too small for strides="):
        drq(policy_kwargs={"strides": [SIDE, 1]})
    with pytest.raises(UserError, match=r"shares its encoder"):
        drq(policy_kwargs={"share_features_extractor": True})
    flat = make_vec_env("conftest:toy/Reach-v0", {"obs_mode": "state"}, 1, seed=0)
    with pytest.raises(UserError, match=r"needs observations of VecPixels"):
        build_model(SAC, flat, policy=POLICY, kwargs={}, total_steps=5, seed=0)
    config = arm_config(encoder="conftest:ToyEncoder")
    with pytest.raises(UserError, match=r"finetune needs an encoder of gqn-rl's own, got 'conftest:ToyEncoder'"):
        train(tmp_path / "run", config, load_encoder("conftest:ToyEncoder"))
    strided = arm_config(encoder="arm-reach", algorithm={"kwargs": {"policy_kwargs": {"strides": [2, 1, 1, 1]}}})
    with pytest.raises(UserError, match=r"which pretrained replaces, got \[2, 1, 1, 1\]"):
        train(tmp_path / "run", strided, load_encoder("arm-reach"))
    number = arm_config(encoder="arm-reach", algorithm={"kwargs": {"policy_kwargs": 5}})
    with pytest.raises(UserError, match=r"policy_kwargs is 5, must be a mapping"):
        train(tmp_path / "run", number, load_encoder("arm-reach"))
    td3 = arm_config(encoder="arm-reach", algorithm={"id": "TD3"})
    with pytest.raises(UserError, match=r"by SAC's critics, but algorithm.id is 'TD3'"):
        train(tmp_path / "run", td3, load_encoder("arm-reach"))


def test_untrained_encoder_is_the_same_network_before_it_learned() -> None:
    trained, untrained, again = (load_encoder(spec) for spec in ("arm-reach", *["untrained:arm-reach"] * 2))
    assert isinstance(trained, GQNEncoder)
    assert isinstance(untrained, GQNEncoder)
    assert isinstance(again, GQNEncoder)
    assert (untrained.size, untrained.points, untrained.unit) == (trained.size, trained.points, trained.unit)
    assert untrained.card["camera"] == trained.card["camera"]
    assert untrained.fingerprint == again.fingerprint != trained.fingerprint
    assert GQNEncoder.untrained("arm-reach", seed=1).fingerprint != untrained.fingerprint
    assert torch.equal(untrained.projection, trained.projection)
    with pytest.raises(UserError, match=r"no encoder 'nope'"):
        load_encoder("untrained:nope")


@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_buffer_has_the_discount_and_the_steps_of_the_algorithm(n_steps: int) -> None:
    buffer = replay_buffer(drq(gamma=0.5, n_steps=n_steps))
    assert isinstance(buffer, ViewReplayBuffer)
    assert (buffer.n_steps, buffer.gamma) == (n_steps, 0.5)


def test_the_next_pictures_are_shifted_too() -> None:
    buffer = filled(shift=4)
    buffer.next_observations["pixels"][:] = np.arange(16, dtype=np.uint8)[:, None]
    rows = buffer.sample(200).next_observations["pixels"][:, 0, 8, 8]
    assert set(rows.tolist()) == set(range(4, 13))
