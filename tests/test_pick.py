"""ArmPick: checkers, determinism, a hand that goes where it is told, and a ball that can be picked up."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import gqn_rl  # noqa: F401 - registers the environments
from gqn_rl.data import RecordConfig, describe_source
from gqn_rl.envs import kinova
from gqn_rl.envs.base import SMALLEST_MOVE
from gqn_rl.envs.pick import (
    BALL_AREA,
    BALL_RADIUS,
    CONTROL_STEP,
    FINGER_RANGE,
    FIXED,
    HAND_SPEED,
    LENGTH_UNIT,
    LIFT_HEIGHT,
    RANDOMIZATIONS,
    START,
    START_SPREAD,
    TABLE_CENTER,
    TABLE_SIZE,
    TABLE_TOP,
    WORKSPACE,
    ArmPick,
)
from gqn_rl.types import Perturbable, SceneSource

ID = "gqn_rl/ArmPick-v0"
STEPS = 50
OPEN, CLOSE = -1.0, 1.0


@contextmanager
def pick(**kwargs: Any) -> Iterator[ArmPick]:
    env = ArmPick(**{"obs_mode": "state", **kwargs})
    try:
        yield env
    finally:
        env.close()


def _flat(observation: Any) -> list[np.ndarray]:
    return list(observation.values()) if isinstance(observation, dict) else [observation]


def action(move: Any = (0.0, 0.0, 0.0), fingers: float = 0.0) -> NDArray[np.float32]:
    return np.array([*move, fingers], np.float32)


class Script:
    """Above the ball, down to it, close the fingers for 0.9 s, up."""

    def __init__(self) -> None:
        self.stage = "above"
        self.closing = 0

    def __call__(self, env: ArmPick) -> NDArray[np.float32]:
        offset = env.target_position - env.hand_position
        above = offset + np.array([0, 0, 0.1])
        if self.stage == "above" and np.abs(above[:2]).max() < 0.01:
            self.stage = "down"
        if self.stage == "down" and np.abs(offset).max() < 0.01:
            self.stage = "close"
        if self.stage == "close":
            self.closing += 1
            return action(fingers=CLOSE) if self.closing < 10 else action((0, 0, 1), CLOSE)
        goal = above if self.stage == "above" else offset
        return action(np.clip(goal / (CONTROL_STEP * HAND_SPEED), -1, 1), OPEN)


def play(env: ArmPick, seed: int) -> tuple[dict[str, Any], float]:
    """The scripted episode's last info and its return."""
    env.reset(seed=seed)
    script, total = Script(), 0.0
    for _ in range(STEPS):
        _, reward, _, _, info = env.step(script(env))
        total += reward
    return info, total


@pytest.mark.parametrize(
    ("obs_mode", "cameras", "views", "reward"),
    [
        ("views", "fixed", 2, "dense"),
        ("views", "episode", 1, "dense"),
        ("views", "moving", 3, "sparse"),
        ("pixels", "fixed", 1, "dense"),
        ("state", "fixed", 2, "sparse"),
    ],
)
def test_passes_both_checkers(obs_mode: Any, cameras: Any, views: int, reward: Any) -> None:
    with (
        warnings.catch_warnings(),
        pick(
            obs_mode=obs_mode, cameras=cameras, views=views, reward=reward, render_mode="rgb_array", render_size=32
        ) as env,
    ):
        # Both advise against spaces that are what they are: five-dimensional images, unbounded metres.
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)
        sb3_check_env(env)


def test_registered_episodes_end_after_50_decisions() -> None:
    env = gym.make(ID, obs_mode="state")
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(STEPS)]
    assert ends == [(False, False)] * (STEPS - 1) + [(False, True)]
    env.close()


@pytest.mark.parametrize("cameras", ["fixed", "moving"])
def test_same_seed_same_episode(cameras: Any) -> None:
    def episode(seed: int, before: int) -> list[np.ndarray]:
        with pick(obs_mode="views", cameras=cameras, randomize=RANDOMIZATIONS) as env:
            for other in range(before):
                env.reset(seed=other)
                env.step(np.ones(4, np.float32))
            seen = _flat(env.reset(seed=seed)[0])
            for each in np.random.default_rng(0).uniform(-1, 1, (4, 4)).astype(np.float32):
                observation, reward, *_ = env.step(each)
                seen += [*_flat(observation), np.array(reward)]
            return seen

    first, again, other = episode(7, before=0), episode(7, before=3), episode(8, before=0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_script_lifts_the_ball() -> None:
    """What the physics allows: above, down, close, up."""
    with pick(randomize=RANDOMIZATIONS) as env:
        ends = [play(env, seed) for seed in range(20)]
    assert sum(info["is_success"] for info, _ in ends) >= 18
    assert np.mean([total for _, total in ends]) > 20  # of 50, at one a step


def test_every_stage_of_the_script_earns_more_than_the_one_before() -> None:
    with pick(randomize=()) as env:
        env.reset(seed=0)
        script = Script()
        rewards: dict[str, list[float]] = {"above": [], "down": [], "held": [], "lifted": []}
        for _ in range(STEPS):
            move = script(env)
            _, reward, _, _, info = env.step(move)
            stage = "lifted" if info["is_success"] else "held" if info["held"] else script.stage
            if stage in rewards:
                rewards[stage].append(reward)
        best = [max(rewards["above"]), max(rewards["down"]), max(rewards["held"]), max(rewards["lifted"])]
        assert 0 < best[0] < best[1] < best[2] < best[3] <= 1
        assert min(rewards["lifted"]) > max(rewards["held"])


def test_success_is_to_hold_the_ball_ten_centimetres_up_now() -> None:
    with pick(randomize=(), reward="sparse") as env:
        env.reset(seed=1)
        script, successes = Script(), []
        for _ in range(45):
            _, reward, terminated, truncated, info = env.step(script(env))
            assert not terminated
            assert not truncated
            assert info["is_success"] == (info["held"] and info["height"] >= LIFT_HEIGHT)
            assert reward == (0.0 if info["is_success"] else -1.0)
            successes.append(info["is_success"])
        assert not successes[0]
        assert successes[-1]
        for _ in range(10):  # let go
            _, _, _, _, info = env.step(action(fingers=OPEN))
        assert not info["held"]
        assert not info["is_success"]
        assert abs(info["height"]) < 0.002 or info["height"] < 0


def test_a_ball_in_the_air_that_nothing_holds_is_no_success() -> None:
    with pick(randomize=(), reward="sparse") as env:
        env.reset(seed=0)
        env._set_ball([0.5, 0.15, TABLE_TOP + BALL_RADIUS + 0.25])
        _, reward, _, _, info = env.step(action())
        assert info["height"] > LIFT_HEIGHT
        assert (info["held"], info["is_success"], reward) == (False, False, -1.0)


@pytest.mark.parametrize("fingers", [0.3, CLOSE])
def test_a_grip_holds_for_ten_seconds_and_longer(fingers: float) -> None:
    with pick(randomize=()) as env:
        assert play(env, seed=2)[0]["is_success"]
        before = env.target_position - env.hand_position
        for _ in range(100):
            _, _, _, _, info = env.step(action(fingers=fingers))
        assert info["is_success"]
        np.testing.assert_allclose(env.target_position - env.hand_position, before, atol=0.01)


def test_fingers_go_where_they_are_told() -> None:
    with pick(randomize=()) as env:
        env.reset(seed=0)
        for goal in (-1.0, 0.0, 1.0, 0.5, -0.5):
            for _ in range(15):
                env.step(action(fingers=goal))
            np.testing.assert_allclose(env.proprio()[18:21], (goal + 1) / 2, atol=0.02)


def test_dense_reward_is_its_formula() -> None:
    stages = set()
    with pick() as env:
        env.reset(seed=3)
        script = Script()
        for _ in range(STEPS):
            _, reward, _, _, info = env.step(script(env))
            stages.add((info["held"], info["is_success"]))
            lifted = min(max(info["height"] / 0.1, 0.0), 1.0) ** 0.5
            expected = 0.2 * (1 - np.tanh(info["distance"] / 0.1)) + info["held"] * (0.3 + 0.4 * lifted)
            np.testing.assert_allclose(reward, expected + 0.1 * info["is_success"])
    assert stages == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("share", [-1.0, -0.4, 1.0])
def test_the_hand_moves_at_the_commanded_velocity(axis: int, share: float) -> None:
    """Along one axis, well inside the workspace, once the joints have come to speed."""
    with pick(randomize=()) as env:
        env.reset(seed=0)
        env._set_ball([0.3, 0.3, TABLE_TOP + BALL_RADIUS])  # out of the way
        move = np.zeros(3)
        move[axis] = share
        for decision in range(6):
            before = env.hand_position
            env.step(action(move, OPEN))
            if decision >= 3:
                velocity = (env.hand_position - before) / CONTROL_STEP
                np.testing.assert_allclose(velocity, move * HAND_SPEED, atol=0.08 * HAND_SPEED)
        assert np.abs(env._tilt()).max() < 0.05


def test_joint_limits_slow_the_hand_but_keep_its_direction() -> None:
    with pick(randomize=()) as env:
        for signs in itertools.product((-1, 1), repeat=3):
            env.reset(seed=0)
            env._set_ball([0.3, 0.3, TABLE_TOP + BALL_RADIUS])
            move = np.array(signs, float)
            for _ in range(4):
                env.step(action(move, OPEN))
            before = env.hand_position
            env.step(action(move, OPEN))
            way = env.hand_position - before
            assert way @ move / np.linalg.norm(way) / np.sqrt(3) > 0.97, signs
            speeds = env.data.qvel[:6] / kinova.MAX_VELOCITY
            assert np.abs(speeds).max() < 1.02, signs


def test_the_hand_stays_in_its_workspace_and_stops_without_a_command() -> None:
    with pick(randomize=()) as env:
        for corner in itertools.product((-1, 1), repeat=3):
            env.reset(seed=0)
            env._set_ball([0.5, 0.3, TABLE_TOP + BALL_RADIUS])
            for _ in range(28):
                env.step(action(corner, CLOSE))
            edge = WORKSPACE[(np.array(corner) + 1) // 2, range(3)]
            np.testing.assert_allclose(env.hand_position, edge, atol=0.01)
            for _ in range(5):
                env.step(action())
            before = env.hand_position
            env.step(action())
            np.testing.assert_allclose(env.hand_position, before, atol=1e-3)
            assert np.abs(env._tilt()).max() < 0.02


def test_actions_beyond_the_limits_do_what_the_limits_do() -> None:
    with pick() as env:
        env.reset(seed=0)
        inside = env.step(np.ones(4, np.float32))[0]
        env.reset(seed=0)
        assert np.array_equal(env.step(np.full(4, 9.0, np.float32))[0], inside)


def _over_table(position: NDArray[np.float64]) -> bool:
    return bool((np.abs(position[:2] - TABLE_CENTER) < TABLE_SIZE).all())


def test_random_actions_keep_everything_finite_and_the_ball_on_top_of_the_table() -> None:
    with pick() as env:
        env.action_space.seed(0)
        for seed in range(12):
            env.reset(seed=seed)
            held_action = env.action_space.sample()
            for step in range(STEPS):
                if step % 5 == 0:  # a random walk would stay where it is
                    held_action = env.action_space.sample()
                observation, reward, *_ = env.step(held_action)
                assert np.isfinite(observation).all()
                assert 0 <= reward <= 1
                if _over_table(env.target_position):
                    assert env.target_position[2] > TABLE_TOP + BALL_RADIUS - 0.003


def test_pressing_on_the_ball_does_not_push_it_into_the_table() -> None:
    with pick() as env:
        for fingers in (OPEN, CLOSE):
            for shift in (0.0, 0.015, 0.03):
                env.reset(seed=0)
                env._set_ball([START[0] + shift, START[1], TABLE_TOP + BALL_RADIUS])
                for _ in range(12):
                    env.step(action(fingers=fingers))
                for _ in range(25):
                    observation = env.step(action((0, 0, -1), fingers))[0]
                    assert np.isfinite(observation).all()
                    if _over_table(env.target_position):
                        assert env.target_position[2] > TABLE_TOP + BALL_RADIUS - 0.003


def test_a_knocked_ball_comes_to_rest() -> None:
    with pick() as env:
        env.reset(seed=0)
        env.data.qvel[env._ball_qvel] = [0.0, 0.1, 0.0]
        start = env.target_position.copy()
        for _ in range(40):
            env.step(action())
        assert np.abs(env.data.qvel[env._ball_qvel]).max() < 1e-3
        assert 0.005 < np.linalg.norm(env.target_position - start) < 0.1


def test_state_holds_hand_target_and_their_difference() -> None:
    with pick() as env:
        oracle, info = env.reset(seed=3)
        state = env.state()
        assert state.shape == oracle.shape == (env.state_size,)
        parts = {name: state[part] for name, part in env.state_groups.items()}
        np.testing.assert_allclose(parts["hand"], env.hand_position, rtol=1e-6)
        np.testing.assert_allclose(parts["target"], env.target_position, rtol=1e-6)
        np.testing.assert_allclose(parts["offset"], parts["target"] - parts["hand"], atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(parts["offset"]), info["distance"], rtol=1e-5)
        assert np.array_equal(oracle[:24], env.proprio())
        np.testing.assert_array_equal(oracle[:21], state[:21])
        np.testing.assert_allclose(oracle[21:30] * LENGTH_UNIT, state[21:30], rtol=1e-6)
        closed = [env.step(action(fingers=CLOSE)) and env.proprio()[18:21].mean() for _ in range(30)]
        assert 0 < closed[0] < closed[5] < closed[-1]
        np.testing.assert_allclose(closed[-1], 1.0, atol=0.02)


def test_episodes_start_with_an_open_hand_above_a_ball_at_rest() -> None:
    with pick() as env:
        for seed in range(30):
            _, info = env.reset(seed=seed)
            assert (BALL_AREA[0] <= env.target_position[:2]).all()
            assert (env.target_position[:2] <= BALL_AREA[1]).all()
            np.testing.assert_allclose(info["height"], 0.0, atol=1e-9)
            assert (np.abs(env.hand_position - START) <= START_SPREAD + 1e-4).all()
            np.testing.assert_allclose(env._tilt(), 0, atol=1e-4)
            assert not info["held"]
            before = env.target_position.copy()
            for _ in range(5):
                env.step(action())
            np.testing.assert_allclose(env.target_position, before, atol=1e-3)


def test_every_fixed_camera_sees_the_ball() -> None:
    names = tuple(FIXED.poses)
    with pick(obs_mode="views", views=len(names), camera_names=names) as env:
        seen = []
        for seed in range(20):
            images = env.reset(seed=seed)[0]["images"].astype(int)
            red = (images[..., 0] > 90) & (images[..., 1] < 60) & (images[..., 2] < 60)
            seen.append(red.sum(axis=(1, 2)) >= 8)
        assert np.mean(seen, axis=0).min() >= 0.9


def test_randomize_changes_just_what_it_names() -> None:
    def look(names: tuple[str, ...]) -> set[str]:
        with pick(randomize=names) as env:
            seen: dict[str, set[bytes]] = {name: set() for name in RANDOMIZATIONS}
            for seed in range(12):
                env.reset(seed=seed)
                model = env.model
                seen["start"].add(env.data.qpos[:6].tobytes())
                seen["color"].add(model.geom_rgba[model.geom("ball").id].tobytes())
                seen["textures"].add(model.geom_matid.tobytes())
                seen["light"].add(model.light_diffuse.tobytes())
            return {name for name, values in seen.items() if len(values) > 1}

    assert look(()) == set()
    for name in RANDOMIZATIONS:
        assert look((name,)) == {name}
    assert look(RANDOMIZATIONS) == set(RANDOMIZATIONS)


def test_is_a_scene_source_whose_factors_are_independent() -> None:
    with pick(obs_mode="views", randomize=RANDOMIZATIONS) as env:
        assert isinstance(env, SceneSource)
        env.new_scene(np.random.default_rng(0))
        arm, target = slice(0, 24), env.state_groups["target"]

        def look() -> tuple[NDArray[np.float32], bytes]:
            model = env.model
            return env.state(), model.geom_matid.tobytes() + model.light_diffuse.tobytes()

        assert isinstance(env, Perturbable)
        for seed, change in itertools.product(range(5), (env.draw_factor, env.perturb_factor)):
            for factor in env.scene_factors:
                state, appearance = look()
                change(factor, np.random.default_rng([seed, len(factor)]))
                state_now, appearance_now = look()
                assert np.array_equal(state_now[arm], state[arm]) == (factor != "arm")
                assert np.array_equal(state_now[target], state[target]) == (factor != "target")
                assert (appearance_now == appearance) == (factor != "appearance")
        for change in (env.draw_factor, env.perturb_factor):
            with pytest.raises(ValueError, match="target, arm, appearance"):
                change("leg", np.random.default_rng(0))


@pytest.mark.parametrize(("factor", "group"), [("target", "target"), ("arm", "hand")])
def test_perturbed_scenes_are_scenes_nearer_than_others(factor: str, group: str) -> None:
    moved, others = [], []
    with pick(randomize=RANDOMIZATIONS) as env:
        part = env.state_groups[group]
        for seed in range(60):
            env.new_scene(np.random.default_rng([seed, 0]))
            before, color = env.state(), env.model.geom("ball").rgba.copy()
            env.perturb_factor(factor, np.random.default_rng([seed, 1]))
            after = env.state()
            assert (after[part] > WORKSPACE[0] - 1e-4).all()
            assert (after[part] < WORKSPACE[1] + 1e-4).all()
            assert after[env.state_groups["target"]][2] > TABLE_TOP + BALL_RADIUS - 1e-6
            fingers = env.data.qpos[env._finger_qpos]
            assert FINGER_RANGE[0] <= fingers[0] <= FINGER_RANGE[1]
            np.testing.assert_array_equal(fingers, fingers[0])
            np.testing.assert_array_equal(env.model.geom("ball").rgba, color)
            env.draw_factor(factor, np.random.default_rng([seed, 2]))
            moved.append(np.linalg.norm(after[part] - before[part]))
            others.append(np.linalg.norm(env.state()[part] - before[part]))
    assert min(moved) > 0.005
    assert SMALLEST_MOVE * np.mean(others) < np.mean(moved) < 0.8 * np.mean(others)


def test_the_committed_recording_can_be_made() -> None:
    config = RecordConfig.from_yaml(ROOT / "configs" / "record" / "pick.yaml")
    assert config.env == ID
    with pick(obs_mode="views", **config.env_kwargs) as env:
        assert describe_source(env, config).shape[:2] == (config.scenes, config.views)


def test_recorded_scenes_show_the_ball_on_the_table_and_above_and_the_hand_all_over() -> None:
    with pick() as env:
        states = []
        for seed in range(60):
            env.new_scene(np.random.default_rng(seed))
            states.append(env.state())
        groups = {name: np.stack(states)[:, part] for name, part in env.state_groups.items()}
        for positions in (groups["hand"], groups["target"]):
            assert (positions > WORKSPACE[0] - 1e-4).all()
            assert (positions < WORKSPACE[1] + 1e-4).all()
            assert (np.ptp(positions, axis=0) > 0.8 * (WORKSPACE[1] - WORKSPACE[0])).all()
        on_table = np.isclose(groups["target"][:, 2], TABLE_TOP + BALL_RADIUS)
        assert 0.5 < on_table.mean() < 0.95
        assert groups["target"][:, 2].min() > TABLE_TOP + BALL_RADIUS - 1e-6
        fingers = np.stack(states)[:, 18:21]
        assert np.ptp(fingers) > 0.8


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"obs_mode": "video"}, "obs_mode must be one of views, pixels, state; got 'video'"),
        ({"reward": "shaped"}, "reward must be one of dense, sparse; got 'shaped'"),
        ({"randomize": ("size",)}, "start, color, textures, light"),
        ({"views": 1, "camera_names": ("top",)}, "valid cameras: back, front, left, right"),
    ],
)
def test_bad_options_are_named_with_the_valid_choices(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ArmPick(**kwargs)


def test_what_a_policy_feels_and_the_oracle_knows_in_the_units_of_the_docstring() -> None:
    with pick() as env:
        env.reset(seed=0)
        first = env.model.joint("ball").dofadr[0]
        env.data.qvel[first : first + 3] = [0.03, 0.06, -0.09]
        np.testing.assert_allclose(env.oracle()[30:], [0.2, 0.4, -0.6], rtol=1e-5)
        env.step(np.array([0.5, -1, 0.2, 0], np.float32))
        angles, speeds = env.data.qpos[:6], np.rad2deg(env.data.qvel[:6]) / [36, 36, 36, 48, 48, 48]
        np.testing.assert_allclose(env.proprio()[:18], [*np.cos(angles), *np.sin(angles), *speeds], atol=1e-5)


@pytest.mark.parametrize(
    ("touching", "held"), [([], False), ([1], False), ([2, 3], False), ([1, 2], True), ([1, 3], True)]
)
def test_a_ball_is_held_between_finger_one_and_another(touching: list[int], held: bool) -> None:
    contact = SimpleNamespace(geom=np.array([[0, finger] for finger in touching]).reshape(-1, 2))
    hand: Any = SimpleNamespace(data=SimpleNamespace(contact=contact), _ball_geom=0, _finger_geoms=[{1}, {2}, {3}])
    get: Any = ArmPick.held.fget
    assert get(hand) == held
