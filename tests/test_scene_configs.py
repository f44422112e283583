"""Committed configurations of rooms, mazes and objects: recordings that can be made, and pretraining that fits them."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from test_data import make_arm

from gqn_rl.agents.training import TrainConfig
from gqn_rl.data import Manifest, RecordConfig, describe_source, set_scene
from gqn_rl.envs.maze_model import WALL_HEIGHT
from gqn_rl.envs.room_model import WALL_HEIGHT as ROOM_WALL_HEIGHT
from gqn_rl.pretraining import PretrainConfig
from gqn_rl.types import SceneSource

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = ("rooms", "mazes", "shepard_metzler")
#: Pretraining recipes, and the recordings that they are for.
RECIPES = {**{name: name for name in NAMES}, "rooms_plan": "rooms"}


def recording(name: str) -> tuple[RecordConfig, SceneSource, Manifest]:
    config = RecordConfig.from_yaml(CONFIGS / "record" / f"{name}.yaml")
    source = make_arm(config.env, config.env_kwargs)
    return config, source, describe_source(source, config)


@pytest.mark.parametrize("name", RECIPES)
def test_pretraining_fits_its_recording(name: str) -> None:
    config, _, manifest = recording(RECIPES[name])
    pretrain = PretrainConfig.from_yaml(CONFIGS / "pretrain" / f"{name}.yaml")
    assert manifest.camera["fovy"] == pretrain.model.fovy
    assert tuple(manifest.camera["image_size"]) == pretrain.model.image_size
    assert config.views > pretrain.max_context
    assert config.scenes % config.block.size == 0
    assert pretrain.held_out % config.block.size == 0
    for rows, columns in pretrain.parts:
        assert rows <= config.block.height
        assert columns <= config.block.width
        assert pretrain.batch % (rows * columns) == 0


@pytest.mark.parametrize(("name", "height"), [("mazes", WALL_HEIGHT), ("rooms_plan", ROOM_WALL_HEIGHT)])
def test_a_plan_is_as_large_as_its_world(name: str, height: float) -> None:
    _, source, _ = recording(RECIPES[name])
    plan = PretrainConfig.from_yaml(CONFIGS / "pretrain" / f"{name}.yaml").model.representation
    floor = source.model.geom("floor")  # type: ignore[attr-defined]
    assert floor.pos.tolist() == [0, 0, 0]
    assert [plan.side, plan.side, plan.height] == [2 * floor.size[0], 2 * floor.size[1], height]


@pytest.mark.parametrize(("name", "shared"), [("mazes", "appearance"), ("shepard_metzler", "colors")])
def test_a_blocks_row_shares_its_looks_and_nothing_else(name: str, shared: str) -> None:
    """Scenes 0 and 1 are of a row, 0 and ``width`` of a column."""
    config, source, _ = recording(name)
    assert config.block.rows == shared

    def shown(scene: int) -> tuple[bytes, bytes]:
        set_scene(source, config.block, config.seed, scene)
        model = source.model  # type: ignore[attr-defined]
        if name == "mazes":
            return source.state().tobytes(), model.light_dir.tobytes() + model.light_diffuse.tobytes()
        colors = source.state()[source.state_quantities["colors"].part,]  # type: ignore[attr-defined]
        return source.cells.tobytes(), colors.tobytes()  # type: ignore[attr-defined]

    first, beside, below = (shown(scene) for scene in (0, 1, config.block.width))
    assert (first[0] != beside[0], first[1] == beside[1]) == (True, True)
    assert (first[0] == below[0], first[1] != below[1]) == (True, True)


def test_a_maze_is_seen_from_above_in_a_share_of_its_views() -> None:
    config, source, _ = recording("mazes")
    rng = np.random.default_rng(0)
    source.new_scene(rng)
    poses = np.stack([source.sample_pose(rng) for _ in range(400)])
    straight, above = np.isclose(poses[:, 4], -np.pi / 2), poses[:, 2] > WALL_HEIGHT
    assert abs(straight.mean() - config.env_kwargs["map_share"]) < 0.06
    assert abs((above & ~straight).mean() - config.env_kwargs["dome_share"]) < 0.08


def test_the_runs_with_and_without_a_memory_differ_in_nothing_else() -> None:
    with_memory, without = (
        TrainConfig.from_yaml(CONFIGS / f"{name}.yaml").to_dict() for name in ("room_navigate", "room_navigate_now")
    )
    assert {key for key in with_memory if with_memory[key] != without[key]} == {"context", "arm"}
    assert (with_memory["context"], without["context"]) == ("episode", "now")
    env = gym.make(f"gqn_rl:{with_memory['env']['id']}", **with_memory["env"]["kwargs"])
    rooms = RecordConfig.from_yaml(CONFIGS / "record" / "rooms.yaml")
    seen = make_arm(rooms.env, rooms.env_kwargs).camera_metadata
    assert env.unwrapped.camera_metadata == seen  # type: ignore[attr-defined]  # the encoder fits
    env.close()
