"""ViewAdapter: the picture that an environment renders is the view that a policy gets."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import EPISODE, TOY_ID, ToyReach
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import SAC
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from gqn_rl.agents.build import make_vec_env
from gqn_rl.agents.vec_scene import VecSceneObservation
from gqn_rl.types import RenderError
from gqn_rl.view_adapter import ViewAdapter

POSE = (0.0, -1.0, 2.0, 1.5, -1.0)


def pose_fn(env: Any) -> Any:
    """The toy's camera slides along with its target."""
    return np.add(POSE, [env.target[0], 0, 0, 0, 0])


def adapted(**kwargs: Any) -> ViewAdapter:
    env = gym.make(TOY_ID, obs_mode="state", render_mode="rgb_array")
    return ViewAdapter(env, pose_fn, **{"image_size": (24, 32), **kwargs})


class Colors:
    """An encoder of one's own, for any number of views: the mean colour of each cell of a 4 x 4 grid."""

    size = 48

    def encode(self, images: Tensor, poses: Tensor) -> Tensor:
        pictures = images[:, 0].permute(0, 3, 1, 2).float() / 255
        return torch.nn.functional.adaptive_avg_pool2d(pictures, 4).flatten(1)


def test_checkers_find_nothing() -> None:
    env = adapted(proprio=[0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bounds that are infinite, and that this is a wrapper
        check_env(env, skip_render_check=True)
    sb3_check_env(env, warn=False)


def test_with_a_field_of_view_pixels_have_to_be_square() -> None:
    """The toy's picture is 96 x 128."""
    for size, fits in (((24, 32), True), ((12, 16), True), ((32, 32), False)):
        adapted(image_size=size).reset(seed=0)
        told = adapted(image_size=size, fovy=45.0)
        if fits:
            told.reset(seed=0)
        else:
            with pytest.raises(RenderError, match=r"96x128 pixels, .*set image_size to \(32, 43\)"):
                told.reset(seed=0)


def test_the_view_is_the_picture_and_the_pose_is_of_this_moment() -> None:
    env = adapted(proprio=[1])
    for act in (lambda: env.reset(seed=0)[0], lambda: env.step(np.ones(2, np.float32))[0]):
        observation = act()
        picture = np.asarray(env.render(), np.float64)  # (96, 128, 3): cells of 4 x 4 pixels
        means = picture.reshape(24, 4, 32, 4, 3).mean((1, 3))
        assert (
            np.abs(observation["images"][0] - means).max() <= 1.0
        )  # rows and columns are averaged, and rounded, one after the other
        own: Any = env.unwrapped
        assert np.allclose(observation["poses"], [pose_fn(own)])
        assert observation["proprio"] == pytest.approx(own.point[1])


def test_a_policy_learns_on_it() -> None:
    venv = VecSceneObservation(DummyVecEnv([lambda: adapted(proprio=[0, 1])]), Colors())
    assert venv.observation_space.shape == (50,)
    SAC("MlpPolicy", venv, learning_starts=20, policy_kwargs={"net_arch": [8]}).learn(30)


def test_a_field_of_view_is_compared_where_it_is_given() -> None:
    venv = DummyVecEnv([lambda: adapted(fovy=60)])
    assert venv.get_attr("camera_metadata")[0]["fovy"] == 60.0
    assert not DummyVecEnv([adapted]).has_attr("camera_metadata")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ViewAdapter(gym.make(TOY_ID), pose_fn), "needs an environment with render_mode='rgb_array', got None"),
        (lambda: adapted(proprio=[4]), r"proprio holds \[4\]"),
        (lambda: adapted(proprio=[True]), r"proprio holds \[True\]"),
        (lambda: adapted(proprio=[1.0]), r"proprio holds \[1.0\]"),
        (lambda: adapted(proprio=2.5), r"proprio holds \[2.5\]"),
        *[
            (
                lambda size=size: adapted(image_size=size),
                "image_size must be a positive integer or .height, width., got",
            )
            for size in (0, "64", 64.0, (64.7, 64.2), (64, 64, 3), True)
        ],
        *[(lambda fovy=fovy: adapted(fovy=fovy), "fovy must lie between 0 and 180") for fovy in (-5, np.nan, True)],
        (lambda: ViewAdapter(adapted().env, lambda env: POSE[:4]).reset(), r"5 numbers .*, got shape \(4,\)"),
    ],
)
def test_what_is_wrong_is_said(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


class Broken(ToyReach):
    """Its pictures fail, each in a way of its own."""

    def __init__(self, how: str) -> None:
        super().__init__("state", render_mode="rgb_array")
        self.how = how

    def render(self) -> Any:
        if self.how == "raise":
            raise RuntimeError("no display")
        return {"nothing": None, "floats": np.zeros((8, 8, 3)), "grey": np.zeros((8, 8), np.uint8)}[self.how]


def broken(how: str) -> ViewAdapter:
    return ViewAdapter(Broken(how), pose_fn)


if "test/Broken-v0" not in gym.registry:
    gym.register("test/Broken-v0", entry_point=broken, max_episode_steps=EPISODE)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", r"Broken.render\(\) failed \(RuntimeError: no display\); mend that first"),
        ("nothing", r"Broken.render\(\) must return a picture \(H, W, 3\) uint8, got None"),
        ("floats", r"must return a picture \(H, W, 3\) uint8, got \(8, 8, 3\) float64"),
        ("grey", r"must return a picture \(H, W, 3\) uint8, got \(8, 8\) uint8"),
    ],
)
def test_pictures_that_fail_are_said_to(how: str, words: str) -> None:
    with pytest.raises(RenderError, match=words):
        broken(how).reset()


def test_pictures_that_would_fail_in_a_worker_fail_before_there_is_one() -> None:
    with pytest.raises(RenderError, match="no display"):
        make_vec_env("test/Broken-v0", {"how": "raise"}, 2, seed=0, workers="subprocess")
