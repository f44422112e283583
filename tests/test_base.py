"""What all environments of ours have in common: what they refuse by name, and that they leave OpenGL to others."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from gqn_rl import CAMERA_RIG
from gqn_rl.cameras import size_pair
from gqn_rl.types import RenderError

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
    for value in (30.0, (1.0, 2.0, 3.0), ("a", "b")):
        with pytest.raises(ValueError, match=r"camera_elevation must be \(lowest, highest\)"):
            gym.make("gqn_rl:gqn_rl/ArmReach-v0", camera_elevation=value)
    for name in ("randomize", "camera_names"):
        with pytest.raises(ValueError, match=f"{name} must be a name or a list of names, got 5"):
            gym.make("gqn_rl:gqn_rl/ArmReach-v0", **{name: 5})


@pytest.mark.parametrize("name", NAMES)
def test_there_is_something_to_see_from_the_first(name: str) -> None:
    """Before any episode, or scene; what is seen then changes no episode."""
    env: Any = gym.make(f"gqn_rl:gqn_rl/{name}-v0").unwrapped
    picture = env.render_view(env.sample_pose(np.random.default_rng(0)))
    assert picture.max() > 30
    assert picture.std() > 3
    env.close()


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
    dropped = gym.make("gqn_rl:gqn_rl/ArmReach-v0", image_size=32)
    dropped.reset(seed=0)
    del dropped  # without close(), as a notebook's cell that is run again does
    gc.collect()
    assert np.array_equal(theirs.render(), before)
    rig.close()


def test_another_thread_is_told_why_it_cannot_draw() -> None:
    env = gym.make("gqn_rl:gqn_rl/ArmReach-v0", image_size=16)
    before = env.reset(seed=0)[0]["images"]
    told = r"another thread of this process has rendered, .* draw in one thread"
    with ThreadPoolExecutor(1) as pool, pytest.raises(RenderError, match=told):
        pool.submit(env.reset, seed=0).result()
    assert np.array_equal(env.reset(seed=0)[0]["images"], before)
    env.close()


@pytest.mark.skipif(sys.platform != "linux", reason="draws with EGL")
def test_closed_in_another_thread_it_leaves_the_pictures_there_as_they_are() -> None:
    """Where that thread draws with a renderer of its own; in a process whose OpenGL nobody else has used."""
    code = """
import gc, gymnasium as gym, mujoco, numpy as np
from concurrent.futures import ThreadPoolExecutor
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>')
def theirs():
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = mujoco.Renderer(model, 64, 64)
    def draw():
        renderer.update_scene(data)
        return renderer.render().copy()
    return draw
envs = [gym.make("gqn_rl:gqn_rl/ArmReach-v0", image_size=16) for _ in range(3)]
images = [env.reset(seed=0)[0]["images"] for env in envs]
with ThreadPoolExecutor(1) as pool:
    draw = pool.submit(theirs).result()
    before = pool.submit(draw).result()
    pool.submit(envs.pop().close).result()
    def drop():
        envs.pop()
        gc.collect()
    pool.submit(drop).result()
    assert np.array_equal(pool.submit(draw).result(), before)
assert np.array_equal(envs[0].reset(seed=0)[0]["images"], images[0])
"""
    egl = {"MUJOCO_GL": "egl", **os.environ}  # MuJoCo's own renderer looks for a display first
    done = subprocess.run([sys.executable, "-c", code], env=egl, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_forked_process_closes_what_it_inherited_and_leaves_it_whole() -> None:
    """In a process of its own, which has rendered and no other threads."""
    code = """
import os, gymnasium as gym
env = gym.make("gqn_rl:gqn_rl/ArmReach-v0", image_size=16)
before = env.reset(seed=0)[0]["images"]
child = os.fork()
if child == 0:
    env.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert (env.reset(seed=0)[0]["images"] == before).all()
env.close()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_an_action_that_is_not_finite_is_refused_before_anything_moves(name: str) -> None:
    env: Any = gym.make(f"gqn_rl:gqn_rl/{name}-v0", image_size=16).unwrapped
    env.reset(seed=0)
    before = env.state()
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="an action must be finite"):
            env.step(np.full(env.action_space.shape, wrong, np.float32))
    assert np.array_equal(env.state(), before)
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])
    env.close()


def test_views_beyond_what_a_buffer_holds_are_drawn_in_rounds() -> None:
    """256 views of 64 pixels, two samples each way, are 32,768 pixels side by side."""
    env: Any = gym.make("gqn_rl:gqn_rl/ArmReach-v0", cameras="moving", views=256).unwrapped
    views, _ = env.reset(seed=0)
    for index in (0, 100, 255):
        alone, beside = (
            each.astype(float) for each in (env.render_view(views["poses"][index]), views["images"][index])
        )
        assert np.abs(alone - beside).mean() < 0.1  # edges are rounded otherwise, 16,000 pixels to the right
    env.close()
    with pytest.raises(ValueError, match="a picture has at most 8192 pixels each way, got 64x8193"):
        gym.make("gqn_rl:gqn_rl/ArmReach-v0", image_size=(64, 8193))


@pytest.mark.parametrize(
    ("name", "kwargs", "words"),
    [
        ("MazeExplore", {"size": 7.0}, r"size must be one of 7, .*; got 7\.0"),
        ("MazeExplore", {"map_share": "all"}, "map_share must be from 0 to 1, got 'all'"),
        ("ShepardMetzler", {"objects": True}, "objects must be one of 1, 2; got True"),
        ("RoomFree", {"ring": "a"}, "ring must be from 0 to 1, got 'a'"),
        ("ArmReach", {"views": True}, "views must be an integer of at least 1, got True"),
        ("ArmReach", {"image_size": True}, "image_size must be a positive integer"),
        ("ArmReach", {"randomize": "stat"}, "randomize must be one of start, .*; got 'stat'"),
        ("ArmReach", {"camera_names": "font", "views": 1}, "unknown camera 'font'"),
    ],
)
def test_options_of_a_wrong_kind_are_named(name: str, kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gym.make(f"gqn_rl:gqn_rl/{name}-v0", **kwargs)


def test_a_lone_name_is_one_name() -> None:
    for kwargs in ({"randomize": "start"}, {"camera_names": "left", "views": 1}):
        several = {key: (value,) if isinstance(value, str) else value for key, value in kwargs.items()}
        one, other = (gym.make("gqn_rl:gqn_rl/ArmReach-v0", image_size=16, **each) for each in (kwargs, several))
        assert np.array_equal(one.reset(seed=0)[0]["images"], other.reset(seed=0)[0]["images"])
        one.close()
        other.close()


def test_who_renders_without_a_mode_is_told() -> None:
    env = gym.make("gqn_rl:gqn_rl/ArmReach-v0", image_size=16).unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render\\(\\) draws nothing without a render mode"):
        assert env.render() is None
    env.close()
