"""How fast scenes are rendered and stepped, beside ``mujoco.Renderer``'s defaults on the undecimated model.

    python benchmarks/rendering.py --seconds 5

Runs on one core and in one process. Every row is measured ``--rounds`` times in turn with the others, so that a
machine whose speed drifts treats all alike; the table shows medians, and ratios against the first row.
"""

from __future__ import annotations

import argparse
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
from gqn_rl.envs.arm import ArmReach
from gqn_rl.envs.gl_context import gl_description
from gqn_rl.envs.renderer import FAST

SIZE = 64


def make(**kwargs: Any) -> ArmReach:
    """An ArmReach that has begun an episode."""
    env = gym.make("gqn_rl/ArmReach-v0", **kwargs).unwrapped
    assert isinstance(env, ArmReach)
    env.reset(seed=0)
    return env


def default_renderer(shadows: bool) -> Callable[[], int]:
    """``mujoco.Renderer`` as it comes, on the original meshes."""
    env = make(obs_mode="state")
    renderer = mujoco.Renderer(env.model, SIZE, SIZE)
    option = mujoco.MjvOption()
    option.geomgroup[:] = 0
    option.geomgroup[:2] = 1  # what is common, and the original meshes
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
    camera = mujoco.MjvCamera()
    camera.distance, camera.elevation = 1.8, -35

    def frame() -> int:
        camera.azimuth += 7
        renderer.update_scene(env.data, camera, option)
        renderer.render()
        return 1

    return frame


def our_renderer(views: int, rng: np.random.Generator) -> Callable[[], int]:
    """Ours, ``views`` of one moment at a time."""
    env = make(obs_mode="state", views=views)
    poses = [np.stack([env.sample_pose(rng) for _ in range(views)]) for _ in range(64)]
    count = iter(range(10**9))

    def frames() -> int:
        env.render_views(poses[next(count) % 64])
        return views

    return frames


def stepping(**kwargs: Any) -> Callable[[], int]:
    """Environment steps with random actions, episodes included."""
    env = gym.make("gqn_rl/ArmReach-v0", **kwargs)
    env.reset(seed=0)
    env.action_space.seed(0)

    def step() -> int:
        if env.step(env.action_space.sample())[3]:
            env.reset()
        return 1

    return step


def new_scenes(rng: np.random.Generator) -> Callable[[], int]:
    """Fresh random scenes, not rendered."""
    env = make(obs_mode="state", randomize=("start", "color", "size", "textures", "light"))

    def scene() -> int:
        env.new_scene(rng)
        return 1

    return scene


def rate(work: Callable[[], int], seconds: float) -> float:
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
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each row (default 3)")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows: dict[str, Callable[[], int]] = {
        "mujoco.Renderer, defaults, original meshes: frames/s": default_renderer(shadows=True),
        "the same without shadows: frames/s": default_renderer(shadows=False),
        "ours, one view: frames/s": our_renderer(1, rng),
        "ours, four views of a moment: frames/s": our_renderer(4, rng),
        "steps/s, obs_mode=state": stepping(obs_mode="state"),
        "steps/s, obs_mode=views, one 64x64 view": stepping(views=1),
        "steps/s, obs_mode=views, two 64x64 views": stepping(views=2),
        "new scenes/s, not rendered": new_scenes(rng),
    }
    print(f"gqn_rl {gqn_rl.__version__}, mujoco {mujoco.__version__}, {gl_description()['renderer']}, {FAST}")
    rates: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(options.rounds):
        for name, work in rows.items():
            rates[name].append(rate(work, options.seconds))
    base = statistics.median(next(iter(rates.values())))
    print(f"{'':<56}{'median':>9}{'min':>9}{'max':>9}{'ratio':>7}")
    for name, values in rates.items():
        middle = statistics.median(values)
        ratio = f"{middle / base:.1f}" if "frames/s" in name else ""
        print(f"{name:<56}{middle:>9.0f}{min(values):>9.0f}{max(values):>9.0f}{ratio:>7}")


if __name__ == "__main__":
    main()
