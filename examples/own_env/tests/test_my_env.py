"""What should hold of the environment; replace what is about the arm and the ball."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

ENV_ID = "my_pkg:MyEnv-v0"


@pytest.fixture
def env():
    """The environment, closed after the test."""
    made = gym.make(ENV_ID)
    yield made
    made.close()


def test_gymnasium_finds_nothing_wrong(env):
    """Spaces, types, seeding and the order of what is returned are as Gymnasium wants them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*infinity")  # coordinates have no bounds
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        check_env(env.unwrapped, skip_render_check=True)


def test_an_episode_follows_from_its_seed(env):
    """The same seed and actions give the same episode, which resuming a run and held-out episodes rely on."""
    episodes = []
    for _ in range(2):
        observations = [env.reset(seed=3)[0]] + [env.step(np.array([0.5, -0.5]))[0] for _ in range(5)]
        episodes.append([part for observation in observations for part in observation.values()])
    np.testing.assert_array_equal(np.concatenate(episodes[0]), np.concatenate(episodes[1]))


def test_the_arm_can_reach_the_ball(env):
    """Turning the joints to where inverse kinematics has them ends in success, wherever the ball lies."""
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        x, y, _ = observation["desired_goal"]
        bend = np.arccos(np.clip((x**2 + y**2) / (2 * 0.25**2) - 1, -1, 1))  # of two links of 0.25 m
        for _ in range(25):
            angles = env.unwrapped.data.qpos
            elbow = np.copysign(bend, angles[1])
            turn = np.arctan2(y, x) - elbow / 2 - angles[0]
            wanted = np.array([(turn + np.pi) % (2 * np.pi) - np.pi, elbow - angles[1]])
            observation, _, _, _, info = env.step(2 * wanted)
        assert info["is_success"], (seed, info)


def test_cameras_see_the_ball():
    """In gqn-rl's camera rig, a policy gets pictures in which the ball is, and no coordinates of it."""
    env = gym.make("gqn_rl:gqn_rl/CameraRig-v0", env_id=ENV_ID, image_size=64, views=2)
    observation, _ = env.reset(seed=0)
    assert observation["images"].shape == (2, 64, 64, 3)
    assert observation["proprio"].shape == (6,)
    assert set(observation) == {"images", "poses", "proprio"}
    red = (observation["images"][..., 0] > 100) & (observation["images"][..., 1:].max(-1) < 80)
    assert red.any(axis=(1, 2)).all()
    env.close()
