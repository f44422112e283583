"""How fast every environment is: pictures, steps and new scenes, with and without shadows, in one table.

    python benchmarks/environments.py --seconds 2
    python benchmarks/environments.py gqn_rl/RoomRing-v0 --rounds 1

Runs on one core and in one process. Every number is measured ``--rounds`` times in turn with the others, so that a
machine whose speed drifts treats all alike; the table shows medians:

- default frames/s: ``mujoco.Renderer`` as it comes, one view at a time, of what ``render()`` shows; and the same with
  shadows switched off;
- frames/s: ours, four views of one moment at a time, and how many times either of the defaults that is;
- steps/s: random actions, one view each, new episodes included;
- scenes/s: drawing a new scene, the first view of it included, and the milliseconds that takes.

Views are 64x64. An environment without an option ``shadows`` has one row.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

if not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # mujoco.Renderer reads it; ours would do without

import gymnasium as gym
import mujoco
import numpy as np

import gqn_rl
from gqn_rl.envs.base import SceneEnv
from gqn_rl.envs.gl_context import gl_description

SIZE = 64
VIEWS = 4
#: Poses that are gone through again and again.
POSES = 64

#: Does some of what is measured, and says how much it did.
Work = Callable[[], int]


def make(env_id: str, **kwargs: Any) -> SceneEnv:
    """An environment of ours that has begun an episode."""
    env = gym.make(env_id, image_size=SIZE, **kwargs).unwrapped
    assert isinstance(env, SceneEnv)
    env.reset(seed=0)
    return env


def default_frames(env_id: str, *, shadows: bool) -> Work:
    """Views by ``mujoco.Renderer``, on a model that no renderer of ours has set to its own quality."""
    env = make(env_id, obs_mode="state")
    renderer = mujoco.Renderer(env.model, SIZE, SIZE)
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
    option = mujoco.MjvOption()
    option.geomgroup[:] = 0
    option.geomgroup[list(env.detailed_geoms)] = 1
    rng = np.random.default_rng(0)
    poses = itertools.cycle([env.sample_pose(rng) for _ in range(POSES)])
    camera = mujoco.MjvCamera()
    camera.distance = 1.0

    def frame() -> int:
        x, y, z, yaw, pitch = next(poses)
        camera.azimuth, camera.elevation = np.rad2deg(yaw), np.rad2deg(pitch)
        ahead = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
        camera.lookat[:] = np.array([x, y, z]) + ahead
        renderer.update_scene(env.data, camera, option)
        renderer.render()
        return 1

    return frame


def frames(env_id: str, **kwargs: Any) -> Work:
    """Ours, several views of one moment at a time."""
    env = make(env_id, obs_mode="state", views=VIEWS, **kwargs)
    rng = np.random.default_rng(0)
    poses = itertools.cycle([np.stack([env.sample_pose(rng) for _ in range(VIEWS)]) for _ in range(POSES)])

    def moment() -> int:
        env.render_views(next(poses))
        return VIEWS

    return moment


def steps(env_id: str, **kwargs: Any) -> Work:
    """Environment steps with random actions, episodes included."""
    env = gym.make(env_id, obs_mode="views", image_size=SIZE, **kwargs)
    env.reset(seed=0)
    env.action_space.seed(0)

    def step() -> int:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
        return 1

    return step


def scenes(env_id: str, **kwargs: Any) -> Work:
    """Fresh random scenes, each with its first view: a model that was compiled anew has to be uploaded."""
    env = make(env_id, obs_mode="state", **kwargs)
    rng = np.random.default_rng(0)

    def scene() -> int:
        env.new_scene(rng)
        env.render_view(env.sample_pose(rng))
        return 1

    return scene


def has_shadows(env_id: str) -> bool:
    """Whether the environment can be made with ``shadows=True``."""
    entry = gym.spec(env_id).entry_point
    assert isinstance(entry, str)
    return "shadows" in inspect.signature(gym.envs.registration.load_env_creator(entry)).parameters


def rate(work: Work, seconds: float) -> float:
    """Units of work a second, after a short warm-up."""
    work()
    work()
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        done += work()
    return done / passed


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", default=list(gqn_rl._ENVS), metavar="ENV_ID", help="which (default: all)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each number (default 3)")
    options = parser.parse_args()

    works: dict[tuple[str, str, bool], Work] = {}  # environment, what is measured, with shadows or not
    for env_id in options.ids:
        for shadows in (False, True):
            works[env_id, "default", shadows] = default_frames(env_id, shadows=shadows)
        for shadows in (False, True) if has_shadows(env_id) else (False,):
            kwargs = {"shadows": True} if shadows else {}
            for measured in (frames, steps, scenes):
                works[env_id, measured.__name__, shadows] = measured(env_id, **kwargs)

    rates: dict[tuple[str, str, bool], list[float]] = {key: [] for key in works}
    for _ in range(options.rounds):
        for key, work in works.items():
            rates[key].append(rate(work, options.seconds))
    median = {key: statistics.median(values) for key, values in rates.items()}

    print(f"gqn_rl {gqn_rl.__version__}, mujoco {mujoco.__version__}, {gl_description()['renderer']}\n")
    print(
        "| environment | shadows | default frames/s | off | frames/s | times | off | steps/s | scenes/s | ms a scene |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for env_id, measured, shadows in works:
        if measured != "frames":
            continue
        default, plain = median[env_id, "default", True], median[env_id, "default", False]
        ours, drawn = median[env_id, measured, shadows], median[env_id, "scenes", shadows]
        stepped = median[env_id, "steps", shadows]
        pictures = f"{default:.0f} | {plain:.0f} | {ours:.0f} | {ours / default:.1f} | {ours / plain:.1f}"
        others = f"{stepped:.0f} | {drawn:.0f} | {1000 / drawn:.2f}"
        print(f"| {env_id} | {'yes' if shadows else 'no'} | {pictures} | {others} |")


if __name__ == "__main__":
    main()
