"""Maps from walks: a walk goes through open cells, the other map differs in layout alone, errors are what they say."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_data import make_arm

from gqn_rl.cli import main
from gqn_rl.data import BlockPlan, set_scene
from gqn_rl.encoder import GQNEncoder
from gqn_rl.envs.maze_model import cell_at
from gqn_rl.envs.mazes import EYE_HEIGHT, EYE_PITCH, REACH, MazeExplore
from gqn_rl.gqn import GQN, GQNConfig
from gqn_rl.map_imagination import (
    MapErrors,
    MapPlan,
    MapShots,
    map_gallery,
    map_table,
    measure_maps,
    photograph_maps,
)
from gqn_rl.types import Mapped, SceneSource, Views

SIDE = 16
PLAN = MapPlan(seed=5, scenes=4, views=3)
PAIR = BlockPlan(columns="layout", width=2)


@pytest.fixture(scope="module")
def gqn() -> GQN:
    torch.manual_seed(0)
    sizes = {"channels": 8, "steps": 2, "canvas_channels": 16, "mixing_channels": 8, "zero_init_scene": False}
    representation = {"width": 16, "heads": 2, "token_channels": 16}
    fields = {"image_size": SIDE, "fovy": 75.0, "representation": representation, "generator": sizes}
    return GQN(GQNConfig.from_mapping(fields))


@pytest.fixture(scope="module")
def maze() -> Iterator[MazeExplore]:
    env = MazeExplore(image_size=SIDE)
    yield env
    env.close()


@pytest.fixture(scope="module")
def shots(maze: MazeExplore) -> MapShots:
    made: list[int] = []
    (found,) = photograph_maps(maze, PLAN, made.append)
    assert sum(made) == PLAN.frames
    return found


@pytest.mark.parametrize(
    ("views", "counts"), [(1, (0, 1)), (2, (0, 1, 2)), (8, (0, 1, 2, 4, 8)), (11, (0, 1, 2, 4, 8, 11))]
)
def test_maps_are_drawn_whenever_views_have_doubled_and_at_the_end(views: int, counts: tuple[int, ...]) -> None:
    assert MapPlan(0, 2, views).counts == counts


def test_only_what_has_a_map_is_walked_through(maze: MazeExplore) -> None:
    assert isinstance(maze, Mapped)
    assert isinstance(maze, SceneSource)
    assert not isinstance(make_arm("gqn_rl/ArmReach-v0", {"image_size": SIDE}), Mapped)


@pytest.mark.parametrize("task", ["explore", "goal"])
def test_a_walk_goes_from_cell_to_cell_ahead_and_enters_all_of_them(task: str) -> None:
    env = MazeExplore(task=task, obs_mode="state")  # type: ignore[arg-type]
    for seed in range(5):
        env.new_scene(np.random.default_rng(seed))
        poses = env.walk_poses(np.random.default_rng(seed), 150)
        np.testing.assert_allclose(poses[:, [2, 4]], np.tile([EYE_HEIGHT, EYE_PITCH], (150, 1)), rtol=1e-6)
        cells = cell_at(poses[:, :2].astype(np.float64), len(env.walls))
        assert not env.walls[tuple(cells.T)].any()
        ahead = np.stack([np.cos(poses[:, 3]), np.sin(poses[:, 3])], axis=1).round().astype(int)
        entered = {tuple(cell) for cell in cells.tolist()}
        everything = {tuple(cell) for cell in np.argwhere(~env.walls).tolist()}
        if task == "explore":
            np.testing.assert_array_equal(cells[1:], (cells + ahead)[:-1])
            assert entered == everything
        else:
            assert np.linalg.norm(poses[:, :2] - env.ball_position[:2], axis=1).min() > REACH
            assert len(everything - entered) == 1
        np.testing.assert_array_equal(poses, env.walk_poses(np.random.default_rng(seed), 150))
    env.close()


def test_the_other_map_looks_the_same_and_is_laid_out_otherwise(maze: MazeExplore, shots: MapShots) -> None:
    for scene in range(PLAN.scenes):
        set_scene(maze, PAIR, PLAN.seed, 2 * scene)
        walls, looks = maze.walls, (maze.model.geom_matid[maze.model.geom("floor").id], maze.model.light_dir.copy())
        np.testing.assert_array_equal(shots.map.images[scene, 0], maze.render_view(maze.map_pose))
        np.testing.assert_array_equal(shots.map.poses[scene, 0], maze.map_pose)
        for image, pose in zip(shots.walk.images[scene], shots.walk.poses[scene], strict=True):
            np.testing.assert_array_equal(image, maze.render_view(pose))
        set_scene(maze, PAIR, PLAN.seed, 2 * scene + 1)
        np.testing.assert_array_equal(shots.other[scene], maze.render_view(maze.map_pose))
        assert (maze.walls != walls).any()
        assert maze.model.geom_matid[maze.model.geom("floor").id] == looks[0]
        np.testing.assert_array_equal(maze.model.light_dir, looks[1])


def test_errors_are_those_of_drawing_each_map_by_itself(gqn: GQN, shots: MapShots) -> None:
    found = measure_maps(gqn, iter([shots]), PLAN)
    for row, count in enumerate(PLAN.counts):
        for scene in range(PLAN.scenes):
            seen = Views(*(torch.from_numpy(array[scene : scene + 1, :count]) for array in shots.walk))
            poses = torch.from_numpy(shots.map.poses[scene : scene + 1])
            drawn = gqn.generate(gqn.represent(seen), poses, deterministic=True)[0, 0, 0].numpy()
            truth, other = shots.map.images[scene, 0] / 255, shots.other[scene] / 255
            assert found.error[row, scene] == pytest.approx(np.square(drawn - truth).mean(), rel=1e-4)
            assert found.other[row, scene] == pytest.approx(np.square(drawn - other).mean(), rel=1e-4)
    truths = shots.map.images[:, 0] / 255
    assert found.mean_error == pytest.approx(np.square(truths - truths.mean(0)).mean())
    halves = [MapShots(*(_part(each, part) for each in shots)) for part in (slice(0, 2), slice(2, 4))]
    for one, other in zip(found, measure_maps(gqn, halves, PLAN), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def _part(each: Views | np.ndarray, part: slice) -> Views | np.ndarray:
    return Views(*(array[part] for array in each)) if isinstance(each, Views) else each[part]


def test_rows_are_means_with_intervals() -> None:
    error = np.array([[0.2, 0.4], [0.1, 0.1], [0.1, 0.1]])
    other = np.array([[0.3, 0.3], [0.2, 0.2], [0.1, 0.1]])
    none, one, two = map_table(MapErrors(error, other, mean_error=0.5), MapPlan(0, 2, 2))
    assert (none.views, one.views, two.views) == (0, 1, 2)
    assert none.relative_error == pytest.approx(0.6)
    assert none.relative_error_95 == pytest.approx(1.96 * 0.2)  # standard deviation 0.2 sqrt 2, two scenes
    assert (none.told_apart, one.told_apart, two.told_apart) == (0.5, 1, 0)
    assert (none.told_apart_low, none.told_apart_high) == pytest.approx((0.0945, 0.9055), abs=1e-4)  # 1 of 2
    assert one.told_apart_low == 1 - two.told_apart_high < 0.4  # two of two are no certainty
    assert one.told_apart_high == 1


def test_pictures_show_views_so_far_the_drawing_and_the_map(gqn: GQN, shots: MapShots) -> None:
    rows = map_gallery(gqn, shots, PLAN, scenes=2)
    assert len(rows) == 2 * 3  # after 1, 2 and 3 views
    for index, row in enumerate(rows):
        scene, count = index // 3, index % 3 + 1
        assert [picture.shape for picture in row] == [(SIDE, SIDE, 3)] * (PLAN.views + 2)
        np.testing.assert_allclose(np.stack(row[:count]) * 255, shots.walk.images[scene, :count], atol=1e-3)
        assert all((picture == 1).all() for picture in row[count : PLAN.views])
        np.testing.assert_allclose(row[-1] * 255, shots.map.images[scene, 0], atol=1e-3)


@pytest.mark.parametrize(("fields", "words"), [({"scenes": 1}, "scenes"), ({"views": 0}, "views")])
def test_plans_that_cannot_be_are_refused(fields: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=f"{words} must be at least"):
        MapPlan(**{**PLAN.__dict__, **fields})


def test_imagine_draws_the_maps_of_mazes(
    gqn: GQN, maze: MazeExplore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Views(torch.randint(0, 256, (16, 2, SIDE, SIDE, 3), dtype=torch.uint8), torch.randn(16, 2, 5))
    data = {"env": "gqn_rl/MazeExplore-v0", "env_kwargs": {"image_size": SIDE}, "seed": 0}
    card = {"camera": dict(maze.camera_metadata), "data": data}
    GQNEncoder.from_gqn(gqn, seen, card).save_pretrained(tmp_path / "encoder")
    out = tmp_path / "out"
    sizes = ["--scenes", "8", "--views", "1", "--blocks", "2", "--walk", "2"]
    assert main(["imagine", str(tmp_path), *sizes, "--out", str(out)]) == 0, capsys.readouterr().err
    assert "MSE of the map" in capsys.readouterr().out
    for name in ("imagination_map.csv", "imagination_map.png", "imagination_map_views.png"):
        assert (out / name).stat().st_size > 0
    with (out / "imagination_map.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["views"] for row in rows] == ["0", "1", "2"]
    kept = json.loads((out / "imagination.json").read_text())["map"]
    assert [row["told_apart"] for row in kept] == [float(row["told_apart"]) for row in rows]


def test_beside_the_views_so_far_is_what_they_are_drawn_as(gqn: GQN, shots: MapShots) -> None:
    for index, row in enumerate(map_gallery(gqn, shots, PLAN, scenes=2)):
        scene, count = index // 3, index % 3 + 1
        seen = Views(*(torch.from_numpy(array[scene : scene + 1, :count]) for array in shots.walk))
        pose = torch.from_numpy(shots.map.poses[scene : scene + 1])
        drawn = gqn.generate(gqn.represent(seen), pose, deterministic=True)[0, 0, 0].numpy()
        np.testing.assert_allclose(row[-2], drawn, atol=1e-5)
