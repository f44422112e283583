"""RoomNavigate: bodies do not pass through each other, the goal names one object, and reaching it is success."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import gqn_rl  # noqa: F401 - registers the environments
from gqn_rl.envs.navigate import EYE_HEIGHT, EYE_PITCH, REACH, START_DISTANCE, RoomNavigate
from gqn_rl.envs.room_model import HALF, LENGTH_UNIT
from gqn_rl.envs.shapes import SHAPES
from gqn_rl.envs.walker import CONTROL_STEP, DISCRETE, MAX_TURN, RADIUS

ID = "gqn_rl/RoomNavigate-v0"

#: What a policy sees in mode ``state``, to an action.
Controller = Callable[[NDArray[np.float32]], NDArray[np.float64]]


@contextmanager
def navigate(**kwargs: Any) -> Iterator[RoomNavigate]:
    env = RoomNavigate(**kwargs)
    try:
        yield env
    finally:
        env.close()


def put(env: RoomNavigate, place: Any, yaw: float = 0.0) -> None:
    env.data.qpos[:] = *place, yaw
    env.data.qvel[:] = 0
    mujoco.mj_forward(env.model, env.data)


def steer(direction: Any) -> NDArray[np.float64]:
    """The action that turns to ``direction`` (ahead, left), and goes there once it is about ahead."""
    bearing = np.arctan2(direction[1], direction[0])
    return np.array([np.clip(bearing / (MAX_TURN * CONTROL_STEP), -1, 1), float(abs(bearing) < 0.6)])


def _flat(observation: Any) -> list[np.ndarray]:
    return list(observation.values()) if isinstance(observation, dict) else [observation]


@pytest.mark.parametrize(
    ("obs_mode", "views", "actions"),
    [
        ("views", 1, "continuous"),
        ("views", 3, "discrete"),
        ("pixels", 1, "continuous"),
        ("pixels", 2, "discrete"),
        ("state", 1, "continuous"),
        ("state", 1, "discrete"),
    ],
)
def test_passes_both_checkers(obs_mode: str, views: int, actions: str) -> None:
    with warnings.catch_warnings():
        # Both advise against spaces that are what they are: five-dimensional images, unbounded metres.
        warnings.simplefilter("ignore")
        env = gym.make(ID, obs_mode=obs_mode, views=views, actions=actions, render_mode="rgb_array", render_size=32)
        check_env(env.unwrapped)
        sb3_check_env(env.unwrapped)
        env.close()


@pytest.mark.parametrize("obs_mode", ["views", "pixels", "state"])
def test_same_seed_same_episode(obs_mode: Any) -> None:
    def episode(env: RoomNavigate, seed: int) -> list[np.ndarray]:
        seen = _flat(env.reset(seed=seed)[0])
        for action in np.random.default_rng(0).uniform(-1, 1, (6, 2)):
            observation, reward, terminated, *_ = env.step(action)
            seen += [*_flat(observation), np.array([reward, terminated])]
        return seen

    with navigate(obs_mode=obs_mode) as env, navigate(obs_mode=obs_mode) as fresh:
        first, other, again, elsewhere = episode(env, 7), episode(env, 8), episode(env, 7), episode(fresh, 7)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, elsewhere, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


# Goal and success -----------------------------------------------------------------------------------------------


def test_the_goal_names_exactly_one_object() -> None:
    with navigate(obs_mode="state") as env:
        places = []
        for seed in range(200):
            _, info = env.reset(seed=seed)
            color, shape = env.goal[:3], SHAPES[int(np.argmax(env.goal[3:]))]
            assert env.goal[3:].sum() == 1
            near = [np.abs(each.color - color).max() < 0.1 for each in env.objects]
            named = [each for each, alike in zip(env.objects, near, strict=True) if alike and each.shape == shape]
            assert len(named) == 1
            np.testing.assert_allclose(np.linalg.norm(named[0].position[:2] - env.place), info["distance"])
            places.append(named[0].position[:2])
        assert np.abs(np.mean(places, axis=0)).max() < 0.5  # anywhere in the room


def test_views_and_pixels_tell_the_same_goal() -> None:
    with navigate(obs_mode="views") as one, navigate(obs_mode="pixels") as other:
        views, pixels = one.reset(seed=3)[0], other.reset(seed=3)[0]
        for key in ("goal", "proprio"):
            assert np.array_equal(views[key], pixels[key])
        assert np.array_equal(views["images"][0], pixels["pixels"])
        assert np.array_equal(views["goal"], one.goal)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("inside", [True, False])
def test_an_episode_ends_just_where_an_object_is_reached_with_success_at_the_goals(which: int, inside: bool) -> None:
    with navigate(obs_mode="state", objects=(3, 3)) as env:
        for seed in range(10):
            env.reset(seed=seed)
            middle = env.objects[which].position[:2]
            towards = -middle / np.linalg.norm(middle)
            put(env, middle + (REACH + (-0.01 if inside else 0.01)) * towards)
            before = float(np.linalg.norm(env.objects[0].position[:2] - env.place))
            _, reward, terminated, truncated, info = env.step(np.zeros(2))
            assert terminated == inside
            assert not truncated
            assert info["is_success"] == (inside and which == 0)
            np.testing.assert_allclose(info["distance"], before, atol=1e-6)
            bonus = 0.0 if not inside else 1.0 if which == 0 else -1.0
            np.testing.assert_allclose(reward, bonus, atol=1e-6)


def test_the_reward_adds_up_to_the_metres_gained() -> None:
    with navigate(obs_mode="state") as env:
        for seed in range(20):
            _, info = env.reset(seed=seed)
            start, total, bonus = info["distance"], 0.0, 0.0
            for action in np.random.default_rng(seed).uniform(-0.5, 1, (40, 2)):
                _, reward, terminated, _, info = env.step(action)
                total += reward
                bonus += terminated * (1 if info["is_success"] else -1)
            np.testing.assert_allclose(total - bonus, start - info["distance"], atol=1e-9)


def test_episodes_start_out_of_reach_and_end_after_40_decisions() -> None:
    env = gym.make(ID, obs_mode="state")
    for seed in range(100):
        _, info = env.reset(seed=seed)
        room = env.unwrapped
        assert isinstance(room, RoomNavigate)
        assert min(np.linalg.norm(each.position[:2] - room.place) for each in room.objects) > START_DISTANCE
        assert not info["is_success"]
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(40)]
    assert ends == [(False, False)] * 39 + [(False, True)]
    env.close()


def _success(env: RoomNavigate, controller: Controller, episodes: int) -> float:
    successes = 0
    for seed in range(episodes):
        seen, info = env.reset(seed=seed)
        for _ in range(40):
            seen, _, terminated, _, info = env.step(controller(seen))
            if terminated:
                break
        successes += info["is_success"]
    return successes / episodes


def test_one_who_knows_the_state_reaches_the_goal_and_one_who_ignores_the_goal_does_not() -> None:
    def others(seen: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float64], float]]:
        for nearness in seen[9:13].astype(np.float64).reshape(2, 2):
            if nearness.any():
                length = float(np.linalg.norm(nearness))
                yield nearness / length, REACH / length

    def round_others(seen: NDArray[np.float32]) -> NDArray[np.float64]:
        way, goal_distance = seen[6:8].astype(np.float64), LENGTH_UNIT * seen[8]
        for direction, distance in others(seen):
            ahead = direction @ way
            if ahead > 0 and distance < min(1.9, goal_distance + 0.6):
                side = np.array([-direction[1], direction[0]])
                turned = 0.8 * side * (1 if side @ way >= 0 else -1) - ahead * direction
                way += ahead * min((1.9 - distance) / 0.7, 1.2) * turned
        return steer(way)

    def nearest(seen: NDArray[np.float32]) -> NDArray[np.float64]:
        goal = (seen[6:8], float(LENGTH_UNIT * seen[8]))
        return steer(min([goal, *others(seen)], key=lambda each: each[1])[0])

    with navigate(obs_mode="state") as env:
        assert _success(env, round_others, 100) >= 0.97
        assert _success(env, nearest, 100) < 0.7


# Bodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["random", "at an object", "at the walls"])
def test_the_agent_enters_neither_walls_nor_objects(manner: str) -> None:
    with navigate(obs_mode="state", objects=(3, 3)) as env:
        model, data = env.model, env.data
        agent = model.geom("agent").id
        solid = [model.geom(name).id for name in ("object_0", "object_1", "object_2")]
        touched = 0
        for seed in range(24):
            env.reset(seed=seed)
            rng = np.random.default_rng(seed)
            chased = env.objects[seed % 3].position[:2]
            for step in range(40):
                action = rng.uniform(-1, 1, 2)
                if manner == "at an object" or (manner == "at the walls" and step < 30):
                    far = chased if manner == "at an object" else env.place + [[9, 0], [0, -9], [9, 9]][seed % 3]
                    way, heading = far - env.place, np.array([np.cos(env.yaw), np.sin(env.yaw)])
                    action = steer([way @ heading, way @ [-heading[1], heading[0]]])
                env.step(action)
                assert np.abs(env.place).max() < HALF - RADIUS + 0.01
                gaps = [mujoco.mj_geomDistance(model, data, agent, geom, 1.0, None) for geom in solid]
                assert min(gaps) > -0.01
                touched += data.ncon > 0
        assert touched > (3 if manner == "random" else 250)


def test_absent_objects_stop_nobody() -> None:
    with navigate(obs_mode="state", objects=(1, 1)) as env:
        for seed in range(30):
            env.reset(seed=seed)
            absent = env.data.mocap_pos[env.model.body("object_1").mocapid[0]][:2].copy()
            put(env, absent)
            env.step(np.zeros(2))
            np.testing.assert_allclose(env.place, absent, atol=1e-9)


def test_speeds_reach_the_commanded_share_of_their_limits() -> None:
    with navigate(obs_mode="state", objects=(1, 1)) as env:
        env.reset(seed=0)
        put(env, [0.0, 0.0])
        env.data.mocap_pos[:] = 9.0  # out of the way
        for turn, forward in [(0.5, 0.5), (-1.0, 0.3), (0.2, -0.4)]:
            for _ in range(2):
                seen = env.step(np.array([turn, forward]))[0]
            np.testing.assert_allclose(seen[4:6], [turn, forward], atol=0.02)
            sideways = np.array([-np.sin(env.yaw), np.cos(env.yaw)]) @ env.data.qvel[:2]
            assert abs(sideways) < 0.1  # it goes where it looks


def test_actions_beyond_the_limits_do_what_the_limits_do() -> None:
    with navigate(obs_mode="state") as env:
        env.reset(seed=0)
        inside = env.step(np.ones(2))[0]
        env.reset(seed=0)
        assert np.array_equal(env.step(np.full(2, 9.0))[0], inside)


def test_discrete_actions_are_continuous_ones_at_full_speed() -> None:
    with navigate(obs_mode="state") as one, navigate(obs_mode="state", actions="discrete") as other:
        for number, action in enumerate(DISCRETE):
            one.reset(seed=number)
            other.reset(seed=number)
            assert np.array_equal(one.step(np.array(action))[0], other.step(np.int64(number))[0])
        left, right = (other.reset(seed=0), other.step(0))[1][0], (other.reset(seed=0), other.step(1))[1][0]
        assert left[4] > 0.9
        assert right[4] < -0.9


# What is seen ---------------------------------------------------------------------------------------------------


def test_state_places_everything_in_the_agents_own_frame() -> None:
    with navigate(obs_mode="state") as env:
        for seed in range(60):
            seen, info = env.reset(seed=seed)
            np.testing.assert_allclose(seen[:2] * LENGTH_UNIT, env.place, rtol=1e-5)
            np.testing.assert_allclose(seen[2:4], [np.cos(env.yaw), np.sin(env.yaw)], atol=1e-6)
            to_world = np.array([[seen[2], -seen[3]], [seen[3], seen[2]]])
            truth = [each.position[:2] for each in env.objects]
            truth[1:] = sorted(truth[1:], key=lambda place: float(np.linalg.norm(place - env.place)))
            np.testing.assert_allclose(env.place + LENGTH_UNIT * seen[8] * (to_world @ seen[6:8]), truth[0], atol=1e-4)
            for nearness, place in itertools.zip_longest(seen[9:13].reshape(2, 2), truth[1:]):
                if place is None:
                    assert not nearness.any()
                    continue
                np.testing.assert_allclose(
                    np.linalg.norm(nearness), REACH / np.linalg.norm(place - env.place), rtol=1e-5
                )
                found = env.place + REACH * (to_world @ nearness) / (nearness @ nearness)
                np.testing.assert_allclose(found, place, atol=1e-4)
            np.testing.assert_allclose(seen[8] * LENGTH_UNIT, info["distance"], rtol=1e-5)
            ahead, eye = np.array([seen[2], seen[3], 0.0], np.float64), np.array([*env.place, 2.0])
            wall = mujoco.mj_ray(env.model, env.data, eye, ahead, None, 1, -1, np.zeros(1, np.int32))
            np.testing.assert_allclose(seen[13] * LENGTH_UNIT, wall, rtol=1e-4)


def test_eyes_go_where_the_agent_goes_and_look_all_round() -> None:
    with navigate(views=4) as env:
        seen, _ = env.reset(seed=1)
        for _ in range(5):
            poses = seen["poses"]
            np.testing.assert_allclose(seen["frame"], [*env.place, 0, poses[0, 3]], atol=1e-6)
            np.testing.assert_allclose(poses[:, :3], np.tile([*env.place, EYE_HEIGHT], (4, 1)), atol=1e-6)
            np.testing.assert_allclose(poses[:, 4], EYE_PITCH, atol=1e-6)
            np.testing.assert_allclose(np.exp(1j * poses[:, 3]), np.exp(1j * env.yaw) * 1j ** np.arange(4), atol=1e-5)
            for image, pose in zip(seen["images"], poses, strict=True):
                apart = np.abs(image.astype(int) - env.render_view(pose))  # tiles and single views round differently
                assert apart.max() <= 1
                assert (apart > 0).sum() < 10
            seen = env.step(np.array([0.7, 0.4]))[0]


def test_small_views_show_the_room_and_neither_agent_nor_mark() -> None:
    """So the room that a policy sees is the one that an encoder was trained on."""
    with navigate() as env:
        env.reset(seed=0)
        pose = env.sample_pose(np.random.default_rng(0))
        before = env.render_view(pose)
        put(env, pose[:2] + 0.8 * np.array([np.cos(pose[3]), np.sin(pose[3])]))
        env.data.mocap_pos[env.model.body("goal").mocapid[0]] = 0
        mujoco.mj_forward(env.model, env.data)
        assert np.array_equal(env.render_view(pose), before)


def test_the_mark_is_under_the_goal_in_recorded_scenes_too() -> None:
    env: Any = gym.make("gqn_rl/RoomNavigate-v0").unwrapped
    env.reset(seed=0)
    for seed in range(3):
        env.new_scene(np.random.default_rng(seed))
        there = np.linalg.norm(env.data.body("goal").xpos[:2] - env.place)
        assert env._info()["distance"] == pytest.approx(there, abs=1e-6)
    env.close()


def test_render_shows_the_agent() -> None:
    with navigate(obs_mode="state", render_mode="rgb_array", render_size=120) as env:
        env.reset(seed=0)
        before = env.render()
        assert before is not None
        env.step(np.array([0.0, 1.0]))
        after = env.render()
        assert after is not None
        assert 10 < (np.abs(after.astype(int) - before).max(-1) > 20).sum() < 2000


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"actions": "jump"}, "actions must be one of continuous, discrete; got 'jump'"),
        ({"obs_mode": "video"}, "views, pixels, state"),
        ({"views": 0}, "views must be an integer of at least 1"),
        ({"objects": (0, 1)}, "objects must be"),
        ({"image_size": 0}, "image_size"),
    ],
)
def test_bad_options_are_named_with_the_valid_choices(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RoomNavigate(**kwargs)


def test_a_decision_is_a_fifth_of_a_second_at_most_30_cm_and_24_degrees() -> None:
    with navigate(obs_mode="state", objects=(1, 1)) as env:
        env.reset(seed=0)
        env.data.mocap_pos[:] = 9.0  # nothing is in the way
        for turn, forward in ((0, 1), (1, 0)):
            put(env, [0.0, 0.0])
            for _ in range(3):
                place, yaw, then = env.place, env.yaw, env.data.time
                env.step(np.array([turn, forward], float))
            assert env.data.time - then == pytest.approx(0.2)
            assert np.linalg.norm(env.place - place) == pytest.approx(0.3 * forward, abs=0.005)
            assert np.rad2deg(env.yaw - yaw) == pytest.approx(24 * turn, abs=0.5)
