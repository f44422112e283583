"""ArmReach: checkers, determinism, cameras, and physics that a person would expect."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import gqn_rl  # noqa: F401 - registers the environments
from gqn_rl.cameras import axes, look_at, project
from gqn_rl.envs import kinova
from gqn_rl.envs.arm import (
    FIXED,
    LENGTH_UNIT,
    RANDOMIZATIONS,
    SCENE_HAND_DISTANCE,
    SCENE_HAND_HEIGHT,
    SCENE_SPREAD,
    START_DISTANCE,
    TARGET_COLOR,
    TARGET_DISTANCE,
    TARGET_HEIGHT,
    TARGET_RADII,
    TARGET_RADIUS,
    ArmReach,
)
from gqn_rl.envs.base import SMALLEST_MOVE
from gqn_rl.envs.renderer import FAST, SMOOTH, SceneRenderer
from gqn_rl.types import Perturbable, SceneSource

ID = "gqn_rl/ArmReach-v0"


@contextmanager
def arm(**kwargs: Any) -> Iterator[ArmReach]:
    env = gym.make(ID, **kwargs).unwrapped
    assert isinstance(env, ArmReach)
    try:
        yield env
    finally:
        env.close()


def _flat(observation: Any) -> list[np.ndarray]:
    return list(observation.values()) if isinstance(observation, dict) else [observation]


@pytest.mark.parametrize(
    ("obs_mode", "cameras", "views"),
    [
        ("views", "fixed", 2),
        ("views", "episode", 1),
        ("views", "moving", 3),
        ("pixels", "fixed", 1),
        ("state", "fixed", 2),
    ],
)
def test_passes_both_checkers(obs_mode: str, cameras: str, views: int) -> None:
    with warnings.catch_warnings():
        # Both advise against spaces that are what they are: five-dimensional images, unbounded metres.
        warnings.simplefilter("ignore")
        env = gym.make(ID, obs_mode=obs_mode, cameras=cameras, views=views, render_mode="rgb_array", render_size=32)
        check_env(env.unwrapped)
        sb3_check_env(env.unwrapped)
        env.close()


@pytest.mark.parametrize("cameras", ["fixed", "episode", "moving"])
def test_same_seed_same_episode(cameras: str) -> None:
    def played(env: ArmReach, seed: int) -> list[np.ndarray]:
        seen = _flat(env.reset(seed=seed)[0])
        actions = np.random.default_rng(0).uniform(-1, 1, (3, 6)).astype(np.float32)
        for action in actions:
            observation, reward, *_ = env.step(action)
            seen += [*_flat(observation), np.array(reward)]
        return seen

    def episode(seed: int) -> list[np.ndarray]:
        with arm(cameras=cameras, randomize=RANDOMIZATIONS) as env:
            return played(env, seed)

    def used_before(seed: int) -> list[np.ndarray]:
        with arm(cameras=cameras, randomize=RANDOMIZATIONS) as env:
            for other_seed in range(3):
                env.reset(seed=other_seed)
                env.step(np.ones(6, np.float32))
            return played(env, seed)

    first, again, other = episode(7), episode(7), episode(8)
    assert all(np.array_equal(a, b) for a, b in zip(first, used_before(7), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_cameras_move_as_their_mode_says() -> None:
    action = np.zeros(6, np.float32)
    poses: dict[str, list[np.ndarray]] = {}
    for mode in ("fixed", "episode", "moving"):
        with arm(cameras=mode) as env:
            first = env.reset(seed=0)[0]["poses"]
            poses[mode] = [first, env.step(action)[0]["poses"], env.reset()[0]["poses"]]
    moved = {mode: [not np.array_equal(p[0], q) for q in p[1:]] for mode, p in poses.items()}
    assert moved == {"fixed": [False, False], "episode": [False, True], "moving": [True, True]}


@pytest.mark.parametrize("size", [64, (48, 96)])
def test_the_ball_is_where_its_projection_says(size: int | tuple[int, int]) -> None:
    """Renderer, poses and projection agree, in non-square images too."""
    with arm(image_size=size) as env:
        height, width = env.image_size
        checked = 0
        for seed in range(8):
            env.new_scene(np.random.default_rng(seed))
            env.data.qpos[:] = 0  # the arm upright, out of most views' way
            env.data.qpos[1:3] = np.pi
            mujoco.mj_forward(env.model, env.data)
            pose = env.sample_pose(np.random.default_rng(100 + seed))
            image = env.render_view(pose).astype(int)
            red = (image[..., 0] > 90) & (image[..., 1] < 60) & (image[..., 2] < 60)
            expected = project(env.target_position, pose, 45.0, height, width)
            inside = (expected > 6).all() and (expected < np.array([height, width]) - 7).all()
            if not inside or red.sum() < 20:
                continue  # cut by the image's edge, or behind the arm
            seen = np.argwhere(red).mean(0)
            np.testing.assert_allclose(seen, expected, atol=1.5)
            checked += 1
        assert checked >= 4


def test_a_ball_moved_left_moves_left_in_a_wide_image() -> None:
    with arm(image_size=(40, 80)) as env:
        env.reset(seed=0)
        pose = look_at([2.0, 0.0, 0.4], [0.0, 0.0, 0.4])
        _, right, _ = axes(pose)
        columns = []
        for shift in (0.3, 0.0, -0.3):
            env.data.mocap_pos[0] = np.array([0.5, 0.0, 0.4]) + shift * right
            mujoco.mj_kinematics(env.model, env.data)
            image = env.render_view(pose).astype(int)
            columns.append(np.argwhere((image[..., 0] > 90) & (image[..., 1] < 60))[:, 1].mean())
        assert columns[0] > columns[1] + 5 > columns[2] + 10
        assert abs(columns[1] - 39.5) < 1.0


def test_velocities_reach_the_commanded_share_of_their_limits() -> None:
    with arm(obs_mode="state", randomize=()) as env:
        env.reset(seed=0)
        action = np.array([0.5, 0.2, -0.2, 0.5, -0.5, 1.0], np.float32)
        for _ in range(5):
            env.step(action)
        np.testing.assert_allclose(env.data.qvel[:6], action * kinova.MAX_VELOCITY, atol=0.06)


def test_actions_beyond_the_limits_do_what_the_limits_do() -> None:
    with arm(obs_mode="state") as env:
        env.reset(seed=0)
        inside = env.step(np.ones(6, np.float32))[0]
        env.reset(seed=0)
        assert np.array_equal(env.step(np.full(6, 9.0, np.float32))[0], inside)


def test_reward_is_minus_distance_plus_one_inside_the_ball() -> None:
    with arm(obs_mode="state") as env:
        env.reset(seed=0)
        _, reward, terminated, truncated, info = env.step(np.zeros(6, np.float32))
        assert not terminated
        assert not truncated
        np.testing.assert_allclose(reward, -info["distance"])
        env.data.mocap_pos[0] = env.hand_position
        _, reward, _, _, info = env.step(np.zeros(6, np.float32))
        assert info["is_success"]
        np.testing.assert_allclose(reward, 1 - info["distance"])


def test_state_holds_hand_target_and_their_difference() -> None:
    with arm(obs_mode="state") as env:
        oracle, info = env.reset(seed=3)
        state = env.state()
        parts = {name: state[part] for name, part in env.state_groups.items()}
        assert len(state) == env.state_size
        np.testing.assert_allclose(parts["offset"], parts["target"] - parts["hand"], atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(parts["offset"]), info["distance"], rtol=1e-5)
        assert np.array_equal(oracle[:21], env.proprio())
        np.testing.assert_array_equal(oracle[:18], state[:18])
        np.testing.assert_allclose(oracle[18:] * LENGTH_UNIT, state[18:], rtol=1e-6)


def test_episodes_start_outside_the_ball_and_end_after_25_decisions() -> None:
    env = gym.make(ID, obs_mode="state")
    for seed in range(30):
        _, info = env.reset(seed=seed)
        assert START_DISTANCE[0] <= info["distance"] <= START_DISTANCE[1]
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(25)]
    assert ends == [(False, False)] * 24 + [(False, True)]
    env.close()


def test_randomize_changes_just_what_it_names() -> None:
    def look(names: tuple[str, ...]) -> set[str]:
        with arm(obs_mode="state", randomize=names) as env:
            seen: dict[str, set[bytes]] = {name: set() for name in RANDOMIZATIONS}
            for seed in range(12):
                env.reset(seed=seed)
                model = env.model
                seen["start"].add(env.data.qpos[:6].tobytes())
                seen["color"].add(model.geom_rgba[model.geom("target").id].tobytes())
                seen["size"].add(model.geom_size[model.geom("target").id].tobytes())
                seen["textures"].add(model.geom_matid.tobytes())
                seen["light"].add(model.light_diffuse.tobytes())
            return {name for name, values in seen.items() if len(values) > 1}

    assert look(()) == set()
    for name in RANDOMIZATIONS:
        assert look((name,)) == {name}
    assert look(RANDOMIZATIONS) == set(RANDOMIZATIONS)


@pytest.mark.parametrize("name", ["textures", "light"])
def test_what_is_drawn_of_the_room_is_seen(name: str) -> None:
    with arm(image_size=32, randomize=(name,)) as env:
        env.new_scene(np.random.default_rng(0))
        pose, seen = env.sample_pose(np.random.default_rng(0)), set()
        for seed in range(6):
            env.draw_factor("appearance", np.random.default_rng(seed))
            seen.add(env.render_view(pose).tobytes())
        assert len(seen) > 3


def test_is_a_scene_source_whose_factors_are_independent() -> None:
    with arm(randomize=RANDOMIZATIONS) as env:
        assert isinstance(env, SceneSource)
        env.new_scene(np.random.default_rng(0))
        before = env.state()
        env.draw_factor("target", np.random.default_rng(1))
        assert np.array_equal(env.state()[:21], before[:21])
        assert not np.array_equal(env.state()[21:24], before[21:24])
        target = env.state()[21:24]
        env.draw_factor("arm", np.random.default_rng(2))
        assert np.array_equal(env.state()[21:24], target)
        assert not np.array_equal(env.state()[18:21], before[18:21])
        with pytest.raises(ValueError, match="target, arm, appearance"):
            env.draw_factor("leg", np.random.default_rng(0))


def _parts(env: ArmReach) -> dict[str, bytes]:
    """What belongs to each factor, to the bit."""
    model, data = env.model, env.data
    ball = model.geom("target").id
    others = np.delete(model.geom_rgba, ball, axis=0).tobytes() + model.geom_matid.tobytes()
    return {
        "target": data.mocap_pos.tobytes() + model.geom_size[ball].tobytes() + model.geom_rgba[ball].tobytes(),
        "arm": data.qpos.tobytes() + data.qvel.tobytes(),
        "appearance": others + model.light_diffuse.tobytes(),
    }


@pytest.mark.parametrize("factor", ArmReach.scene_factors)
@pytest.mark.parametrize("randomize", [("start",), RANDOMIZATIONS])
def test_perturbing_a_factor_leaves_the_others(factor: str, randomize: tuple[str, ...]) -> None:
    with arm(obs_mode="state", randomize=randomize) as env:
        assert isinstance(env, Perturbable)
        for seed in range(10):
            env.new_scene(np.random.default_rng(seed))
            before = _parts(env)
            env.perturb_factor(factor, np.random.default_rng(100 + seed))
            after = _parts(env)
            changed = {name for name in before if before[name] != after[name]}
            plain = factor == "appearance" and "textures" not in randomize
            assert changed == (set() if plain else {factor})
            env.new_scene(np.random.default_rng(seed))
            env.perturb_factor(factor, np.random.default_rng(100 + seed))
            assert _parts(env) == after  # the same numbers, the same scene
        with pytest.raises(ValueError, match="target, arm, appearance"):
            env.perturb_factor("leg", np.random.default_rng(0))


def test_perturbed_targets_are_targets_nearer_than_others() -> None:
    moved, others = [], []
    with arm(obs_mode="state") as env:
        for seed in range(200):
            env.draw_factor("target", np.random.default_rng(seed))
            before = env.target_position
            env.perturb_factor("target", np.random.default_rng(1000 + seed))
            after = env.target_position
            assert TARGET_DISTANCE[0] <= np.hypot(*after[:2]) <= TARGET_DISTANCE[1]
            assert TARGET_HEIGHT[0] <= after[2] <= TARGET_HEIGHT[1]
            assert env.target_radius == TARGET_RADIUS
            np.testing.assert_allclose(env.model.geom("target").rgba[:3], TARGET_COLOR)
            env.draw_factor("target", np.random.default_rng(2000 + seed))
            moved.append(np.linalg.norm(after - before))
            others.append(np.linalg.norm(env.target_position - before))
    assert min(moved) > 0
    assert SMALLEST_MOVE * np.mean(others) < np.mean(moved) < 0.8 * np.mean(others)


def test_perturbed_targets_of_any_look_are_targets_too() -> None:
    with arm(obs_mode="state", randomize=RANDOMIZATIONS) as env:
        looks = set()
        for seed in range(100):
            env.draw_factor("target", np.random.default_rng(seed))
            env.perturb_factor("target", np.random.default_rng(1000 + seed))
            place = env.target_position
            assert TARGET_DISTANCE[0] <= np.hypot(*place[:2]) <= TARGET_DISTANCE[1]
            assert TARGET_HEIGHT[0] <= place[2] <= TARGET_HEIGHT[1]
            assert TARGET_RADII[0] <= env.target_radius <= TARGET_RADII[1]
            looks.add((env.target_radius, *env.model.geom("target").rgba))
        assert len(looks) == 100


def test_perturbed_arms_are_poses_whose_first_joints_stay() -> None:
    still = set()
    with arm(obs_mode="state") as env:
        for seed in range(100):
            env.draw_factor("arm", np.random.default_rng(seed))
            before = env.data.qpos[:6].copy()
            env.perturb_factor("arm", np.random.default_rng(1000 + seed))
            after = env.data.qpos[:6].copy()
            x, y, z = env.hand_position
            mujoco.mj_forward(env.model, env.data)
            np.testing.assert_array_equal(env.hand_position, [x, y, z])  # nothing was left to compute
            assert env.data.ncon == 0
            assert np.hypot(x, y) < SCENE_HAND_DISTANCE
            assert 0 < z < SCENE_HAND_HEIGHT
            assert (np.abs(after - kinova.HOME)[1:] <= SCENE_SPREAD).all()
            np.testing.assert_array_equal(env.data.qpos[6:], kinova.FINGER_ANGLE)
            assert not env.data.qvel.any()
            stayed = after == before
            count = int(stayed.sum())
            assert stayed[:count].all()  # next to the base
            still.add(count)
    assert still == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"obs_mode": "video"}, "obs_mode must be one of views, pixels, state; got 'video'"),
        ({"cameras": "drone"}, "fixed, episode, moving"),
        ({"views": 0}, "views must be an integer of at least 1"),
        ({"views": 2, "camera_names": ("front",)}, "need as many names"),
        ({"views": 1, "camera_names": ("top",)}, "valid cameras: back, front, left, right"),
        ({"cameras": "moving", "views": 1, "camera_names": ("front",)}, "camera_names are for cameras='fixed'"),
        ({"image_size": 0}, "image_size"),
        ({"randomize": ("colour",)}, "start, color, size, textures, light"),
        ({"render_mode": "human"}, "rgb_array"),
    ],
)
def test_bad_options_are_named_with_the_valid_choices(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ArmReach(**kwargs)


def test_vectorised_environments_agree_with_each_other() -> None:
    def make() -> Any:
        return lambda: gym.make(f"gqn_rl:{ID}", views=1)  # a fresh process has yet to import gqn_rl

    actions = np.random.default_rng(0).uniform(-1, 1, (3, 2, 6)).astype(np.float32)
    results = []
    for vec in (DummyVecEnv([make(), make()]), SubprocVecEnv([make(), make()], start_method="forkserver")):
        vec.seed(5)
        seen = [vec.reset()]
        seen += [vec.step(action)[0] for action in actions]
        vec.close()
        results.append(seen)
    for one, other in zip(*results, strict=True):
        for key in one:
            assert np.array_equal(one[key], other[key]), key


def test_views_are_the_same_one_by_one_and_all_together() -> None:
    with arm(views=3, cameras="moving") as env:
        env.reset(seed=0)
        poses = np.stack([env.sample_pose(np.random.default_rng(i)) for i in range(5)])
        together = env.render_views(poses)
        for image, pose in zip(together, poses, strict=True):
            assert np.array_equal(image, env.render_view(pose))


def test_pictures_of_several_environments_do_not_mix() -> None:
    with arm(views=1) as one, arm(views=1, image_size=32) as two:
        first = one.reset(seed=0)[0]["images"]
        two.reset(seed=1)
        two.close()
        assert np.array_equal(one.render_views(one.camera_poses), first)
        assert two.render_views(two.camera_poses).shape == (1, 32, 32, 3)  # a closed renderer opens again


def test_closing_frees_what_rendering_took(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads, frees = itertools.count(), itertools.count()
    upload = SceneRenderer._upload

    def counting(self: SceneRenderer) -> Any:
        next(uploads)
        return upload(self)

    free = mujoco.MjrContext.free
    monkeypatch.setattr(SceneRenderer, "_upload", counting)
    monkeypatch.setattr(mujoco.MjrContext, "free", lambda self: (next(frees), free(self))[1])
    for _ in range(5):
        with arm(render_mode="rgb_array", render_size=32) as env:
            env.reset(seed=0)
            env.render()
            env.step(np.zeros(6, np.float32))
    assert next(uploads) == next(frees) == 10


def test_picture_of_any_size() -> None:
    with arm(obs_mode="state", render_mode="rgb_array", render_size=(90, 160)) as env:
        env.reset(seed=0)
        picture = env.render()
        assert picture is not None
        assert picture.shape == (90, 160, 3)
        assert picture.std() > 10


def test_smooth_views_are_means_of_views_twice_the_size() -> None:
    pictures = []
    with arm() as env:
        env.reset(seed=0)
        poses = np.stack([env.dome.at(azimuth, 35.0) for azimuth in (0.0, 120.0)])
        for size, quality in ((64, SMOOTH), (128, FAST)):
            renderer = SceneRenderer(env.model, size, size, views=2, quality=quality, geom_groups=env.small_geoms)
            pictures.append(renderer.render(env.data, poses))
            renderer.close()
    small, large = pictures
    means = large.reshape(2, 64, 2, 64, 2, 3).astype(float).mean(axis=(2, 4))
    np.testing.assert_allclose(small, means, atol=0.5)


def test_what_a_policy_feels_and_how_long_and_strong_a_decision_is() -> None:
    """In numbers of the docstring, not of the constants that the code has."""
    with arm(obs_mode="state") as env:
        env.reset(seed=0)
        for _ in range(3):
            before = env.data.time
            seen = env.step(np.array([0.5, -0.5, 0.3, -0.2, 0.7, 1.0], np.float32))[0]
            assert env.data.time - before == pytest.approx(0.1)
        angles, speeds = env.data.qpos[:6], np.rad2deg(env.data.qvel[:6]) / [36, 36, 36, 48, 48, 48]
        mujoco.mj_kinematics(env.model, env.data)
        hand = env.hand_position / 0.25
        np.testing.assert_allclose(seen[:21], [*np.cos(angles), *np.sin(angles), *speeds, *hand], atol=1e-5)
        np.testing.assert_allclose(env.model.actuator_forcerange[:6, 1], [30.5] * 3 + [6.8] * 3)


def test_success_goes_by_the_size_of_the_ball_that_there_is() -> None:
    with arm(obs_mode="state", randomize=("size",)) as env:
        for seed in range(10):
            env.reset(seed=seed)
            for share in (0.98, 1.02):
                env.data.mocap_pos[0] = env.hand_position + np.array([share * env.target_radius, 0, 0])
                assert env._info()["is_success"] == (share < 1)


def test_pixels_are_the_views_side_by_side_and_cameras_come_in_the_order_of_their_names() -> None:
    names = ("right", "front")
    with arm(camera_names=names) as env, arm(camera_names=names, obs_mode="pixels") as other:
        views, pixels = env.reset(seed=3)[0], other.reset(seed=3)[0]
        np.testing.assert_array_equal(pixels, np.concatenate(list(views["images"]), axis=-1))
        np.testing.assert_array_equal(views["poses"], [FIXED.named(name) for name in names])
