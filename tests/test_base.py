"""What all environments of ours have in common: what they refuse by name, and that they leave OpenGL to others."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from gqn_rl import CAMERA_RIG
from gqn_rl.envs.base import size_pair

NAMES = ("ArmReach", "ArmPick", "RoomRing", "RoomNavigate", "MazeExplore", "ShepardMetzler")


@pytest.mark.parametrize("name", NAMES)
def test_an_action_of_another_shape_is_refused(name: str) -> None:
    env = gym.make(f"gqn_rl:gqn_rl/{name}-v0").unwrapped
    env.reset(seed=0)
    (size,) = env.action_space.shape or ()
    for action in (np.zeros(0), np.zeros(size + 1), 0):
        with pytest.raises(ValueError, match=r"an action must be of Box\("):
            env.step(action)
    assert env.observation_space.contains(env.step(np.full(env.action_space.shape, 7.0, np.float32))[0])  # clipped
    env.close()


@pytest.mark.parametrize("name", ["RoomNavigate", "MazeExplore", "ShepardMetzler"])
def test_an_action_that_there_is_not_is_refused(name: str) -> None:
    env: Any = gym.make(f"gqn_rl:gqn_rl/{name}-v0", actions="discrete").unwrapped
    env.reset(seed=0)
    for action in (-1, env.action_space.n, np.zeros(2)):
        with pytest.raises(ValueError, match=r"an action must be of Discrete\("):
            env.step(action)
    for action in range(env.action_space.n):
        env.step(np.int64(action))
    env.close()


def test_sizes_are_whole_numbers_of_any_kind_and_nothing_else() -> None:
    assert size_pair("image_size", np.int64(64)) == size_pair("image_size", 64) == (64, 64)
    assert size_pair("image_size", np.array([48, 64])) == size_pair("image_size", [48, 64]) == (48, 64)
    for wrong in (64.5, None, 0, (64,), (64, 64, 3), (64, 0.5), "64"):
        with pytest.raises(ValueError, match="image_size must be a positive integer or"):
            size_pair("image_size", wrong)  # type: ignore[arg-type]
    for name, value in (("camera_elevation", 30.0), ("camera_elevation", (1.0, 2.0, 3.0))):
        with pytest.raises(ValueError, match=rf"{name} must be \(lowest, highest\)"):
            gym.make("gqn_rl:gqn_rl/ArmReach-v0", **{name: value})


def test_pictures_of_somebody_elses_renderer_are_what_they_were_before_ours() -> None:
    """Gymnasium makes its OpenGL context current once: who takes it away without giving it back makes it draw black."""
    small: dict[str, Any] = {"render_mode": "rgb_array", "width": 32, "height": 32}
    rig: Any = gym.make(f"gqn_rl:{CAMERA_RIG}", env_id="Reacher-v5", env_kwargs=small, views=2, image_size=32)
    arm = gym.make("gqn_rl:gqn_rl/ArmReach-v0", image_size=32)
    arm_before, rig_before = arm.reset(seed=0)[0]["images"], rig.reset(seed=0)[0]["images"]
    theirs = rig.unwrapped.inner
    before = theirs.render()
    assert before.std() > 10
    assert np.array_equal(arm.reset(seed=0)[0]["images"], arm_before)
    assert np.array_equal(theirs.render(), before)
    assert np.array_equal(rig.reset(seed=0)[0]["images"], rig_before)
    assert np.array_equal(theirs.render(), before)
    arm.close()
    assert np.array_equal(theirs.render(), before)
    rig.close()
