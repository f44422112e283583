"""MazeExplore: every cell can be reached, nobody walks through walls, and the map shows what is there."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from conftest import photograph
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import gqn_rl
from gqn_rl.cameras import look_at, project
from gqn_rl.envs.maze_layout import LEAST_OPEN, SIZES, MazeLayout, draw_layout
from gqn_rl.envs.maze_model import CELL, WALL_HEIGHT, cell_at, cell_middle
from gqn_rl.envs.mazes import EYE_HEIGHT, EYE_PITCH, REACH, START_STEPS, WHISKER_LENGTH, WHISKERS, MazeExplore
from gqn_rl.envs.room_model import FLOORS, LENGTH_UNIT, WALLS
from gqn_rl.envs.walker import CONTROL_STEP, MAX_TURN, RADIUS
from gqn_rl.types import SceneSource

ID = "gqn_rl/MazeExplore-v0"
TASKS = ("explore", "goal")
#: Our layout of seed 0: what is drawn, and in which order, is part of what a seed means.
BUILTIN_0 = [
    "#########",
    "#.....#.#",
    "#.###.#.#",
    "#.#11111#",
    "###11111#",
    "#..11111#",
    "###.###.#",
    "#...###.#",
    "#########",
]


@contextmanager
def maze(**kwargs: Any) -> Iterator[MazeExplore]:
    env = MazeExplore(**{"obs_mode": "state", **kwargs})
    try:
        yield env
    finally:
        env.close()


def follow(seen: NDArray[np.float32]) -> NDArray[np.float64]:
    """The action that goes the way that the state tells."""
    bearing = np.arctan2(seen[7], seen[6])
    return np.array([np.clip(bearing / (MAX_TURN * CONTROL_STEP), -1, 1), float(abs(bearing) < 0.5)])


def _flat(observation: Any) -> list[np.ndarray]:
    return list(observation.values()) if isinstance(observation, dict) else [observation]


# Layouts --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["builtin", "labmaze"])
def layouts(request: pytest.FixtureRequest) -> Any:
    if request.param == "labmaze":
        pytest.importorskip("labmaze")
    return request.param


def test_every_cell_is_reachable_from_every_other(layouts: Any) -> None:
    for size, seed in itertools.product((7, 9, 15, 21), range(30)):
        layout = draw_layout(layouts, size, np.random.default_rng(seed))
        assert layout.walls.shape == layout.rooms.shape == (size + 2, size + 2)
        outer = np.ones_like(layout.walls)
        outer[1:-1, 1:-1] = False
        assert layout.walls[outer].all()
        assert len(layout.open_cells) >= LEAST_OPEN * size * size
        i, j = layout.open_cells[0]
        assert np.isfinite(layout.steps_to([(i, j)])[~layout.walls]).all()


def test_rooms_are_open_and_a_maze_has_one_or_two_of_them(layouts: Any) -> None:
    counts, mazes = set(), set()
    for seed in range(60):
        layout = draw_layout(layouts, 7, np.random.default_rng(seed))
        assert not layout.rooms[layout.walls].any()
        numbers = np.unique(layout.rooms[layout.rooms > 0])
        assert numbers.tolist() == list(range(1, len(numbers) + 1))
        for number in numbers:
            cells = np.argwhere(layout.rooms == number)
            assert (np.ptp(cells, axis=0) + 1).min() >= 3
            assert len(cells) == np.prod(np.ptp(cells, axis=0) + 1)
        counts.add(len(numbers))
        mazes.add(str(layout))
    assert counts == {1, 2}
    assert len(mazes) > 55


def test_a_seed_gives_the_same_layout(layouts: Any) -> None:
    for seed in range(10):
        one, other = (draw_layout(layouts, 9, np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(one.walls, other.walls)
        assert np.array_equal(one.rooms, other.rooms)


def test_a_seed_gives_this_layout_on_every_machine() -> None:
    assert str(draw_layout("builtin", 7, np.random.default_rng(0))).split() == BUILTIN_0


def test_steps_are_those_of_the_shortest_way() -> None:
    layout = draw_layout("builtin", 9, np.random.default_rng(1))
    cells = [(int(i), int(j)) for i, j in layout.open_cells]
    targets = cells[::17]
    steps = layout.steps_to(targets)
    assert np.isinf(steps[layout.walls]).all()
    for cell in cells:  # Bellman's equation, which has one solution
        around = [steps[other] for other in layout.neighbours(cell)]
        assert steps[cell] == (0 if cell in targets else 1 + min(around))
        assert all(not layout.walls[other] for other in layout.neighbours(cell))
    assert np.isinf(layout.steps_to([])).all()


def test_without_labmaze_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "labmaze", None)
    with pytest.raises(ModuleNotFoundError, match=r"gqn-rl\[mazes\]"):
        MazeExplore(layouts="labmaze")


# Environment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obs_mode", "views", "actions", "task"),
    [
        ("views", 1, "continuous", "explore"),
        ("views", 3, "discrete", "goal"),
        ("pixels", 1, "discrete", "explore"),
        ("pixels", 2, "continuous", "goal"),
        ("state", 1, "continuous", "explore"),
        ("state", 1, "discrete", "goal"),
    ],
)
def test_passes_both_checkers(obs_mode: str, views: int, actions: str, task: str) -> None:
    options = {"obs_mode": obs_mode, "views": views, "actions": actions, "task": task, "image_size": 32}
    with warnings.catch_warnings():
        # Both advise against spaces that are what they are: five-dimensional images, unbounded metres.
        warnings.simplefilter("ignore")
        env = gym.make(ID, **options, render_mode="rgb_array", render_size=32)
        check_env(env.unwrapped)
        sb3_check_env(env.unwrapped)
        env.close()


@pytest.mark.parametrize("obs_mode", ["views", "pixels", "state"])
@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_episode(obs_mode: Any, task: Any) -> None:
    def episode(env: MazeExplore, seed: int) -> list[np.ndarray]:
        seen = _flat(env.reset(seed=seed)[0])
        for action in np.random.default_rng(0).uniform(-1, 1, (5, 2)):
            observation, reward, terminated, *_ = env.step(action)
            seen += [*_flat(observation), np.array([reward, terminated])]
        return seen

    options = {"obs_mode": obs_mode, "task": task, "image_size": 32}
    with maze(**options) as env, maze(**options) as fresh:
        first, other, again, elsewhere = episode(env, 7), episode(env, 8), episode(env, 7), episode(fresh, 7)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, elsewhere, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("manner", ["random", "ahead"])
def test_the_agent_never_enters_walls(manner: str) -> None:
    touched = 0
    with maze() as env:
        for seed in range(12):
            env.reset(seed=seed)
            rng = np.random.default_rng(seed)
            for _ in range(60):
                before = env.place
                env.step(np.array([rng.uniform(-1, 1), 1.0 if manner == "ahead" else rng.uniform(-1, 1)]))
                assert _gap(env) > RADIUS - 0.01
                assert np.linalg.norm(env.place - before) < 0.31
                i, j = cell_at(env.place, env.size + 2)
                assert not env.walls[i, j]
                touched += env.data.ncon > 0
    assert touched > (30 if manner == "random" else 300)


def _gap(env: MazeExplore) -> float:
    """Metres from the agent's axis to the nearest wall, from the occupancy alone."""
    middles = cell_middle(np.argwhere(env.walls), env.size + 2)
    beyond = np.maximum(np.abs(env.place - middles) - CELL / 2, 0)
    return float(np.linalg.norm(beyond, axis=1).min())


@pytest.mark.parametrize("actions", ["continuous", "discrete"])
def test_coverage_only_grows_and_is_what_the_reward_counts(actions: Any) -> None:
    with maze(actions=actions) as env:
        for seed in range(8):
            _, info = env.reset(seed=seed)
            env.action_space.seed(seed)
            cells = (~env.walls).sum()
            total, visited = 0.0, env.visited
            assert visited.sum() == 1
            for _ in range(40):
                action = 2 if actions == "discrete" and env.np_random.random() < 0.7 else env.action_space.sample()
                _, reward, terminated, _, info = env.step(action)
                total += reward
                assert (env.visited >= visited).all()
                assert not (env.visited & env.walls).any()
                visited = env.visited
                assert visited[tuple(cell_at(env.place, env.size + 2))]
                assert terminated == info["is_success"] == (visited.sum() == cells)
                np.testing.assert_allclose(info["coverage"], (1 + total) / cells)


def test_one_who_knows_the_way_explores_every_cell_in_time() -> None:
    env = gym.make(ID, obs_mode="state")
    coverages, successes = [], 0
    for seed in range(20):
        seen, info = env.reset(seed=seed)
        ends = False
        while not ends:
            seen, _, terminated, truncated, info = env.step(follow(seen))
            ends = terminated or truncated
        coverages.append(info["coverage"])
        successes += info["is_success"]
        assert not info["is_success"] or not seen[6:9].any()  # nothing left to find
    env.close()
    assert np.mean(coverages) > 0.99
    assert successes >= 18


def test_the_ball_is_found_by_one_who_knows_the_way() -> None:
    env = gym.make(ID, obs_mode="state", task="goal")
    for seed in range(30):
        seen, info = env.reset(seed=seed)
        total, start = 0.0, info["distance"]
        assert start > START_STEPS * CELL - CELL
        for _ in range(100):
            seen, reward, terminated, _, info = env.step(follow(seen))
            np.testing.assert_allclose(seen[8] * LENGTH_UNIT, info["distance"], rtol=1e-5)
            total += reward
            if terminated:
                break
        assert info["is_success"]
        np.testing.assert_allclose(total, start - info["distance"] + 1)
        ball = env.unwrapped.ball_position  # type: ignore[attr-defined]
        assert np.linalg.norm(ball[:2] - env.unwrapped.place) < REACH  # type: ignore[attr-defined]
    env.close()


def test_episodes_end_after_300_decisions() -> None:
    env = gym.make(ID, obs_mode="state")
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(300)]
    assert ends == [(False, False)] * 299 + [(False, True)]
    env.close()


def test_state_tells_how_far_the_walls_are() -> None:
    with maze(task="goal") as env:
        for seed in range(15):
            seen, _ = env.reset(seed=seed)
            env.step(np.array([0.7, 0.5]))
            seen = env.oracle()
            for angle, length in zip(WHISKERS, seen[9:17] * LENGTH_UNIT, strict=True):
                yaw = env.yaw + angle
                points = env.place + np.arange(0, WHISKER_LENGTH, 0.002)[:, None] * [np.cos(yaw), np.sin(yaw)]
                inside = env.walls[tuple(cell_at(points, env.size + 2).clip(0, env.size + 1).T)]
                expected = 0.002 * np.argmax(inside) if inside.any() else WHISKER_LENGTH
                np.testing.assert_allclose(length, expected, atol=0.005)
            np.testing.assert_allclose(seen[17], env.coverage, rtol=1e-6)
            np.testing.assert_allclose(np.linalg.norm(seen[6:8]), 1, rtol=1e-5)


# Scenes ---------------------------------------------------------------------------------------------------------


def test_the_map_shows_walls_where_walls_are() -> None:
    """All walls red and all floors green, then as they are: another picture for another layout."""
    with maze(image_size=128) as env:
        for seed in range(8):
            env.new_scene(np.random.default_rng(seed))
            before = env.render_view(env.map_pose)
            _paint(env, "block", (1, 0, 0))
            _paint(env, "tile", (0, 1, 0))
            _paint(env, "floor", (0, 1, 0))
            picture = env.render_view(env.map_pose).astype(int)
            for cell in np.ndindex(env.walls.shape):
                wall = env.walls[cell]
                x, y = cell_middle(np.array(cell), env.size + 2)
                where = project([x, y, WALL_HEIGHT if wall else 0.0], env.map_pose, env.fovy, 128, 128)
                red, green, _ = picture[tuple(np.rint(where).astype(int))]
                assert (red > green) == wall, (seed, cell)
            # Right is +x and up is +y: the corner where both are largest is the upper right one.
            corner = project([CELL, CELL, 0.0], env.map_pose, env.fovy, 128, 128)
            assert corner[0] < 63.5 < corner[1]
            assert before.std() > 20
            env.draw_factor("appearance", np.random.default_rng(seed))


def _paint(env: MazeExplore, kind: str, color: tuple[float, float, float]) -> None:
    for geom in range(env.model.ngeom):
        if env.model.geom(geom).name.startswith(kind):
            env.model.geom_matid[geom] = -1
            env.model.geom_rgba[geom, :3] = color


def test_walls_that_are_seen_are_walls_that_stop() -> None:
    with maze() as env:
        shown, solid = env.small_geoms[0], 1
        for seed in range(5):
            env.new_scene(np.random.default_rng(seed))
            for i, j in np.ndindex(env.walls.shape):
                block, box = env.model.geom(f"block_{i}_{j}").id, env.model.geom(f"box_{i}_{j}").id
                assert (env.model.geom_group[block] == shown) == env.walls[i, j]
                assert (env.model.geom_contype[box] == solid) == env.walls[i, j]
                np.testing.assert_allclose(env.data.geom_xpos[block], env.data.geom_xpos[box], atol=1e-6)
                np.testing.assert_allclose(env.data.geom_xpos[box][:2], cell_middle(np.array([i, j]), env.size + 2))


def test_rooms_and_corridors_look_different() -> None:
    looks = set()
    with maze() as env:
        model = env.model
        for seed in range(40):
            env.new_scene(np.random.default_rng(seed))
            layout: MazeLayout = env._layout
            floors = {int(model.geom_matid[model.geom("floor").id])}
            for number in range(1, layout.rooms.max() + 1):
                i, j = np.argwhere(layout.rooms == number)[0]
                floors.add(int(model.geom_matid[model.geom(f"tile_{i}_{j}").id]))
            assert len(floors) == 1 + layout.rooms.max()
            looks |= {int(model.geom_matid[model.geom(f"block_{i}_{j}").id]) for i, j in np.argwhere(layout.walls)}
            looks |= floors
    assert len(looks) == len(WALLS) + len(FLOORS)


def test_no_room_of_a_large_maze_looks_like_its_corridors() -> None:
    with maze(size=13) as env:
        counts = set()
        for seed in range(8):
            env.new_scene(np.random.default_rng(seed))
            layout: MazeLayout = env._layout
            counts.add(int(layout.rooms.max()))
            for i, j in np.argwhere(layout.rooms > 0):
                tile = env.model.geom_matid[env.model.geom(f"tile_{i}_{j}").id]
                assert tile != env.model.geom_matid[env.model.geom("floor").id]
        assert max(counts) > len(FLOORS)  # more than there are floors


@pytest.mark.parametrize("task", TASKS)
def test_drawing_one_factor_leaves_the_others(task: Any) -> None:
    with maze(task=task) as env:
        assert isinstance(env, SceneSource)
        assert env.scene_factors == (
            ("layout", "appearance") if task == "explore" else ("layout", "appearance", "ball")
        )
        for seed, factor in itertools.product(range(12), env.scene_factors):
            env.new_scene(np.random.default_rng(seed))
            before = _factors(env)
            env.draw_factor(factor, np.random.default_rng([seed, 1]))
            changed = {name for name, value in _factors(env).items() if value != before[name]}
            assert changed <= {factor}
            assert changed or factor == "ball"
        with pytest.raises(ValueError, match=", ".join(env.scene_factors)):
            env.draw_factor("walls", np.random.default_rng(0))


def _factors(env: MazeExplore) -> dict[str, bytes]:
    model = env.model
    looks = [env._maze._walls, env._maze._floors, model.light_dir, model.light_diffuse]
    return {
        "layout": env.walls.tobytes(),
        "appearance": b"".join(np.ascontiguousarray(each).tobytes() for each in looks),
        "ball": env._ball_wish.tobytes(),
    }


def test_the_ball_stays_where_it_was_drawn_if_no_wall_is_there() -> None:
    with maze(task="goal") as env:
        kept = 0
        for seed in range(40):
            env.new_scene(np.random.default_rng(seed))
            before = env.ball_position
            env.draw_factor("layout", np.random.default_rng([seed, 1]))
            i, j = cell_at(env.ball_position[:2], env.size + 2)
            assert not env.walls[i, j]
            kept += np.array_equal(env.ball_position, before)
        assert kept >= 15


def test_of_a_maze_that_is_drawn_anew_nothing_has_been_visited() -> None:
    with maze() as env:
        env.reset(seed=0)
        for _ in range(20):
            env.step(env.action_space.sample())
        assert env.coverage > 0
        env.draw_factor("layout", np.random.default_rng(1))
        assert env.coverage == 0


def test_factors_make_the_same_scene_in_any_order() -> None:
    with maze(task="goal", image_size=32) as env:
        seen = []
        for order in (env.scene_factors, env.scene_factors[::-1]):
            env.new_scene(np.random.default_rng(99))
            for factor in order:
                env.draw_factor(factor, np.random.default_rng(len(factor)))
            seen.append((env.state(), env.render_view(env.map_pose)))
        assert np.array_equal(seen[0][0], seen[1][0])
        assert np.array_equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("task", TASKS)
def test_state_is_what_stands_where(task: Any) -> None:
    with maze(task=task, size=9) as env:
        for seed in range(5):
            env.new_scene(np.random.default_rng(seed))
            state = env.state()
            assert len(state) == env.state_size
            heights = state[env.state_groups["walls"]].reshape(9, 9)
            assert np.array_equal(heights, WALL_HEIGHT * env.walls[1:-1, 1:-1])
            assert ("ball" in env.state_groups) == (task == "goal")
            if task == "goal":
                np.testing.assert_allclose(state[env.state_groups["ball"]], env.ball_position, rtol=1e-6)


def test_poses_are_where_the_agents_eyes_can_be_or_the_maps_or_in_the_dome() -> None:
    with maze(map_share=0.25, dome_share=0.2, task="goal") as env:
        rng = np.random.default_rng(0)
        maps = above = 0
        for _ in range(20):
            env.new_scene(rng)
            for _ in range(10):
                pose = env.sample_pose(rng)
                if np.array_equal(pose, env.map_pose):
                    maps += 1
                    continue
                if pose[2] > WALL_HEIGHT:
                    assert np.linalg.norm(pose[:3]) == pytest.approx(env.dome.radius[0])
                    np.testing.assert_allclose(pose, look_at(pose[:3], np.zeros(3)), atol=1e-5)
                    above += 1
                    continue
                np.testing.assert_allclose(pose[[2, 4]], [EYE_HEIGHT, EYE_PITCH], rtol=1e-6)
                assert env.is_free(pose[:2].astype(np.float64), RADIUS - 1e-6)
                assert np.linalg.norm(pose[:2] - env.ball_position[:2]) > REACH - 1e-6
                env.data.qpos[:2] = pose[:2]
                mujoco.mj_forward(env.model, env.data)
                assert env.data.ncon == 0
        assert 30 < maps < 70
        assert 22 < above < 58


def test_is_photographed_as_a_recording_does() -> None:
    with maze(image_size=32) as env:
        views, states = photograph(env, seed=3, scenes=4, views=3, sample_pose=env.sample_pose)
        assert views.images.shape == (4, 3, 32, 32, 3)
        assert len({state.tobytes() for state in states}) == 4
        again, _ = photograph(env, seed=3, scenes=4, views=3, sample_pose=env.sample_pose)
        assert np.array_equal(views.images, again.images)


def test_render_shows_the_whole_maze() -> None:
    with maze(render_mode="rgb_array", render_size=(90, 160), task="goal") as env:
        env.reset(seed=0)
        half = (env.size + 2) * CELL / 2
        for corner in itertools.product((-half, half), (-half, half), (0.0, WALL_HEIGHT)):
            row, column = project(np.array(corner), env.render_pose, env.fovy, 90, 160)
            assert 0 <= row < 90
            assert 0 <= column < 160
        picture = env.render()
        assert picture is not None
        assert picture.shape == (90, 160, 3)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"task": "escape"}, "task must be one of explore, goal; got 'escape'"),
        ({"layouts": "prim"}, "layouts must be one of builtin, labmaze; got 'prim'"),
        ({"size": 8}, f"size must be one of {', '.join(map(str, SIZES))}; got 8"),
        ({"map_share": 1.5}, "map_share must be from 0 to 1, got 1.5"),
        ({"dome_share": -1}, "dome_share must be from 0 to 1, got -1"),
        ({"map_share": 0.6, "dome_share": 0.5}, r"map_share \+ dome_share must be at most 1, got 0.6 \+ 0.5"),
        ({"actions": "jump"}, "continuous, discrete"),
        ({"shadows": "soft"}, "shadows must be one of False, True; got 'soft'"),
    ],
)
def test_bad_options_are_named_with_the_valid_choices(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MazeExplore(**kwargs)


# Shadows, which every environment offers ------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", gqn_rl._ENVS)
def test_shadows_darken_and_nothing_else(env_id: str) -> None:
    plain, shaded = (gym.make(env_id, obs_mode="state", shadows=shadows).unwrapped for shadows in (False, True))
    darker = 0
    for seed in range(3):
        for env in (plain, shaded):
            env.new_scene(np.random.default_rng(seed))  # type: ignore[attr-defined]
            mujoco.mj_forward(env.model, env.data)  # type: ignore[attr-defined]
        pose = plain.sample_pose(np.random.default_rng(seed))  # type: ignore[attr-defined]
        change = shaded.render_view(pose).astype(int) - plain.render_view(pose)  # type: ignore[attr-defined]
        assert change.max() <= 4  # light that is added in two passes is rounded twice
        darker += int((change < -15).sum())
    assert darker > 50
    plain.close()
    shaded.close()


def test_walls_of_corridors_and_of_each_room_have_a_look_of_their_own() -> None:
    with maze() as env:
        for seed in range(10):
            env.new_scene(np.random.default_rng(seed))
            layout: MazeLayout = env._layout
            looks: dict[int, set[int]] = defaultdict(set)
            for i, j in np.argwhere(layout.walls):
                near = int(layout.rooms[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].max())
                looks[near].add(int(env.model.geom_matid[env.model.geom(f"block_{i}_{j}").id]))
            assert looks.keys() == set(range(layout.rooms.max() + 1))
            assert all(len(look) == 1 for look in looks.values())
            assert len(set.union(*looks.values())) == len(looks)


def test_the_map_is_of_all_walls_and_no_more_and_the_dome_is_where_it_is_said_to_be() -> None:
    with maze(size=9, dome_share=1.0) as env:
        half = (env.size + 2) * CELL / 2
        corner = project([half, half, WALL_HEIGHT], env.map_pose, env.fovy, 64, 64)
        np.testing.assert_allclose(corner, [-0.5, 63.5], atol=0.01)
        places = np.stack([env.sample_pose(np.random.default_rng(seed))[:3] for seed in range(100)])
        elevations = np.rad2deg(np.arcsin(places[:, 2] / np.linalg.norm(places, axis=1)))
        assert 55 - 1e-3 <= elevations.min() < 57
        assert 63 < elevations.max() <= 65 + 1e-3
