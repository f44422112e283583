"""Rooms: what is drawn at random keeps its laws, and what is seen is what is there."""

from __future__ import annotations

import colorsys
import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from conftest import ROOT, photograph
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import gqn_rl  # noqa: F401 - registers the environments
from gqn_rl.cameras import project
from gqn_rl.data import RecordConfig, describe_source, set_scene
from gqn_rl.envs.navigate import RoomNavigate
from gqn_rl.envs.renderer import FAST, SHADOWSIZE, SceneRenderer
from gqn_rl.envs.room_model import FLOORS, FOVY, HALF, LENGTH_UNIT, WALLS, empty_room_spec, room_spec
from gqn_rl.envs.rooms import (
    CAMERA_MARGIN,
    FACING_ASIDE,
    HUE_GAP,
    HUES,
    RING,
    SMALLEST_HUE_MOVE,
    Room,
    RoomFree,
    RoomObject,
    RoomRing,
)
from gqn_rl.envs.shapes import SHAPES, SIZES, add_shape, half_height, take_shape
from gqn_rl.types import Perturbable, SceneSource

VIEWERS = {"gqn_rl/RoomRing-v0": RoomRing, "gqn_rl/RoomFree-v0": RoomFree}
CLASSES = (RoomRing, RoomFree, RoomNavigate)


@contextmanager
def room(kind: type[Room], **kwargs: Any) -> Iterator[Any]:
    env = kind(**kwargs)
    try:
        yield env
    finally:
        env.close()


def scenes(env: Room, count: int) -> Iterator[int]:
    for seed in range(count):
        env.new_scene(np.random.default_rng(seed))
        yield seed


def _flat(observation: Any) -> list[np.ndarray]:
    return list(observation.values()) if isinstance(observation, dict) else [observation]


# Environments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", VIEWERS)
@pytest.mark.parametrize(
    ("obs_mode", "cameras", "views"),
    [
        ("views", "fixed", 2),
        ("views", "episode", 1),
        ("views", "moving", 3),
        ("pixels", "episode", 1),
        ("state", "fixed", 1),
    ],
)
def test_passes_both_checkers(env_id: str, obs_mode: str, cameras: str, views: int) -> None:
    with warnings.catch_warnings():
        # Both advise against spaces that are what they are: five-dimensional images, unbounded metres.
        warnings.simplefilter("ignore")
        env = gym.make(env_id, obs_mode=obs_mode, cameras=cameras, views=views, render_mode="rgb_array", render_size=32)
        assert isinstance(env.unwrapped, VIEWERS[env_id])
        check_env(env.unwrapped)
        sb3_check_env(env.unwrapped)
        env.close()


@pytest.mark.parametrize("kind", VIEWERS.values())
@pytest.mark.parametrize("cameras", ["fixed", "episode", "moving"])
def test_same_seed_same_episode(kind: type[Room], cameras: str) -> None:
    def episode(env: Room, seed: int) -> list[np.ndarray]:
        seen = _flat(env.reset(seed=seed)[0])
        for action in np.random.default_rng(0).uniform(-1, 1, (3, *env.action_space.shape)):
            seen += _flat(env.step(action)[0])
        return seen

    with room(kind, cameras=cameras, views=2) as env, room(kind, cameras=cameras, views=2) as fresh:
        first, other, again, elsewhere = episode(env, 7), episode(env, 8), episode(env, 7), episode(fresh, 7)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, elsewhere, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", VIEWERS.values())
def test_the_action_drives_the_last_camera_and_the_mode_says_what_the_others_do(kind: type[Room]) -> None:
    for mode, others_move in {"fixed": False, "episode": False, "moving": True}.items():
        with room(kind, cameras=mode, views=3) as env:
            before = env.reset(seed=0)[0]["poses"]
            start = env.camera_poses
            after = env.step(-np.ones(env.action_space.shape, np.float32))[0]["poses"]
            env.reset()
            assert (not np.array_equal(before[:2], after[:2])) == others_move
            assert not np.array_equal(before[2], after[2])
            assert np.array_equal(before, start)
            assert np.array_equal(env.camera_poses, before) == (mode == "fixed")


def test_a_ring_camera_stays_on_the_ring_and_faces_the_middle() -> None:
    with room(RoomRing, obs_mode="state") as env:
        env.reset(seed=0)
        azimuths = []
        for _ in range(11):
            pose = env.camera_poses[-1]
            np.testing.assert_allclose(np.linalg.norm(pose[:3] - env.dome.center), 3.0, rtol=1e-5)
            np.testing.assert_allclose(project(env.dome.center, pose, FOVY, 64, 64), [31.5, 31.5], atol=1e-3)
            azimuths.append(np.arctan2(pose[1], pose[0]))
            env.step(np.ones(1, np.float32))
        np.testing.assert_allclose(np.diff(np.unwrap(azimuths)), np.deg2rad(36), atol=1e-5)


def test_a_driven_camera_stays_where_it_may_be() -> None:
    with room(RoomFree, obs_mode="state") as env:
        moves = 0
        for seed in range(20):
            env.reset(seed=seed)
            rng = np.random.default_rng(seed)
            for _ in range(40):
                before = env.camera_poses[-1]
                env.step(np.array([1.0, rng.uniform(-0.2, 1), rng.uniform(-1, 1)]))
                pose = env.camera_poses[-1]
                assert env.is_free(pose[:2], CAMERA_MARGIN - 1e-6)
                assert np.deg2rad(-20.001) < pose[4] < np.deg2rad(5.001)
                moves += not np.array_equal(before[:2], pose[:2])
        assert moves > 100


# Scenes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSES)
def test_objects_overlap_neither_each_other_nor_walls_nor_cameras(kind: type[Room]) -> None:
    with room(kind, obs_mode="state") as env:
        counts, shapes, sizes, looks = set(), set(), set(), set()
        for seed in scenes(env, 300):
            objects = env.objects
            for each in objects:
                assert np.abs(each.position[:2]).max() + each.size < HALF
            for one, other in itertools.combinations(objects, 2):
                assert np.linalg.norm((one.position - other.position)[:2]) > one.size + other.size
            pose = env.sample_pose(np.random.default_rng(seed))
            assert all(np.linalg.norm(pose[:2] - each.position[:2]) > each.size for each in objects)
            counts.add(len(objects))
            shapes |= {each.shape for each in objects}
            sizes |= {each.size for each in objects}
            looks.add(
                (env.model.geom_matid[env.model.geom("wall_0").id], env.model.geom_matid[env.model.geom("floor").id])
            )
        assert (counts, shapes, sizes) == ({1, 2, 3}, set(SHAPES), set(SIZES))
        assert len(looks) == len(WALLS) * len(FLOORS) == 15


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=SHAPES)
def test_a_shape_stands_on_the_floor_inside_its_circle(shape: int) -> None:
    """At any yaw, an object whose circle touches the wall is not in the wall."""
    model = room_spec().compile()
    data = mujoco.MjData(model)
    geom, floor, wall = (model.geom(name).id for name in ("object_0", "floor", "wall_0"))
    for size, radius in enumerate(SIZES):
        take_shape(model, geom, shape, size)
        gaps = []
        for yaw in np.linspace(0, 2 * np.pi, 60):
            data.mocap_pos[0, :2] = HALF - radius, 0.3
            data.mocap_quat[0] = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
            mujoco.mj_kinematics(model, data)
            gaps.append(mujoco.mj_geomDistance(model, data, wall, geom, 5.0, None))
            on_floor = mujoco.mj_geomDistance(model, data, floor, geom, 5.0, None)
            np.testing.assert_allclose(on_floor, 0, atol=1e-6)
        assert 0 <= min(gaps) < 0.5 * radius
        above, hit = np.array([HALF - radius + 1e-4, 0.3 + 1e-4, 3.0]), np.zeros(1, np.int32)  # a ray may miss the tip
        down = mujoco.mj_ray(model, data, above, np.array([0.0, 0.0, -1.0]), None, 1, -1, hit)
        assert hit[0] == geom
        np.testing.assert_allclose(3.0 - down, 2 * half_height(shape, size), atol=1e-3)


def test_colours_are_vivid_and_far_apart() -> None:
    with room(RoomRing, obs_mode="state", objects=(3, 3)) as env:
        for _ in scenes(env, 200):
            hsv = np.array([colorsys.rgb_to_hsv(*each.color) for each in env.objects])
            hues = 360 * hsv[:, 0]
            gaps = [abs(a - b) for a, b in itertools.combinations(hues, 2)]
            assert min(gaps) >= HUE_GAP - 1e-6
            assert 360 - max(gaps) >= HUE_GAP  # round the circle as well
            assert (hsv[:, 1] > 0.749).all()
            assert (hsv[:, 2] > 0.649).all()


@pytest.mark.parametrize("shadows", [False, True])
def test_pictures_equal_those_of_a_model_with_the_visible_objects_only(shadows: bool) -> None:
    """Taking on shapes and hiding slots, against compiling just what is there."""
    with room(RoomFree, shadows=shadows) as env:
        for seed in scenes(env, 12):
            spec = empty_room_spec()
            for index, each in enumerate(env.objects):
                half = each.yaw / 2
                body = spec.worldbody.add_body(
                    name=f"thing_{index}", pos=[*each.position[:2], 0], quat=[np.cos(half), 0, 0, np.sin(half)]
                )
                geom = add_shape(body, f"thing_{index}", each.shape, SIZES.index(each.size))
                geom.rgba = [*each.color, 1]
            model = spec.compile()
            for name in ("floor", "wall_0", "wall_1", "wall_2", "wall_3"):
                material = env.model.material(env.model.geom(name).matid[0]).name
                model.geom_matid[model.geom(name).id] = model.material(material).id
            for field in ("light_dir", "light_pos", "light_diffuse"):
                getattr(model, field)[:] = getattr(env.model, field)
            model.vis.headlight.ambient[:] = env.model.vis.headlight.ambient
            model.vis.global_.fovy = FOVY
            data = mujoco.MjData(model)
            mujoco.mj_forward(model, data)
            poses = np.stack([env.sample_pose(np.random.default_rng([seed, i])) for i in range(4)])
            quality = replace(FAST, shadowsize=SHADOWSIZE) if shadows else FAST
            renderer = SceneRenderer(model, 64, 64, quality=quality)
            expected = renderer.render(data, poses)
            renderer.close()
            assert np.array_equal(env.render_views(poses), expected)


def test_shadows_darken_and_nothing_else() -> None:
    with room(RoomRing) as plain, room(RoomRing, shadows=True) as shaded:
        darker = 0
        for seed in scenes(plain, 6):
            shaded.new_scene(np.random.default_rng(seed))
            pose = plain.sample_pose(np.random.default_rng(seed))
            change = shaded.render_view(pose).astype(int) - plain.render_view(pose)
            assert change.max() <= 2
            darker += int((change < -20).sum())
        assert darker > 500


@pytest.mark.parametrize("kind", CLASSES)
def test_objects_are_where_their_projection_says(kind: type[Room]) -> None:
    with room(kind, objects=(1, 1)) as env:
        checked = 0
        for seed in scenes(env, 40):
            (each,) = env.objects
            for view in range(6):
                pose = env.sample_pose(np.random.default_rng([seed, view]))
                place = project(each.position, pose, FOVY, 64, 64)
                if not ((place > 0) & (place < 63)).all():  # not for nan either: that is behind the camera
                    continue
                seen = env.render_view(pose)[tuple(np.rint(place).astype(int))] / 255
                hue, _, _ = colorsys.rgb_to_hsv(*each.color)
                off = (colorsys.rgb_to_hsv(*seen)[0] - hue + 0.5) % 1 - 0.5
                assert abs(off) < 0.06, (seed, view, each, seen)
                checked += 1
        assert checked >= 20


# Factors --------------------------------------------------------------------------------------------------------


def _factors(env: Room) -> dict[str, bytes]:
    """What of the model and its data belongs to each factor."""
    model, data = env.model, env.data
    geoms = [model.geom(f"object_{i}").id for i in range(3)]
    bodies = [model.body(f"object_{i}").mocapid[0] for i in range(3)]
    parts = {
        "layout": [model.geom_group[geoms], model.geom_contype[geoms], data.mocap_pos[bodies], data.mocap_quat[bodies]],
        "shapes": [model.geom_type[geoms], model.geom_size[geoms], model.geom_dataid[geoms]],
        "colors": [model.geom_rgba[geoms]],
        "appearance": [model.geom_matid, model.light_dir, model.light_diffuse, model.vis.headlight.ambient],
    }
    return {
        factor: b"".join(np.ascontiguousarray(array).tobytes() for array in arrays) for factor, arrays in parts.items()
    }


@pytest.mark.parametrize("kind", CLASSES)
def test_drawing_one_factor_leaves_the_others(kind: type[Room]) -> None:
    with room(kind, obs_mode="state") as env:
        assert isinstance(env, SceneSource)
        for seed, factor in itertools.product(range(20), env.scene_factors):
            env.new_scene(np.random.default_rng(seed))
            before = _factors(env)
            env.draw_factor(factor, np.random.default_rng([seed, 1]))
            assert {name for name, value in _factors(env).items() if value != before[name]} == {factor}


@pytest.mark.parametrize("kind", CLASSES)
def test_perturbing_a_factor_changes_one_object_of_it_and_nothing_else(kind: type[Room]) -> None:
    with room(kind, obs_mode="state") as env:
        assert isinstance(env, Perturbable)
        for seed, factor in itertools.product(range(30), env.scene_factors):
            env.new_scene(np.random.default_rng(seed))
            before, objects = _factors(env), env.objects
            env.perturb_factor(factor, np.random.default_rng([seed, 1]))
            after = _factors(env)
            assert {name for name, value in after.items() if value != before[name]} == {factor}
            changed = [one for one, other in zip(objects, env.objects, strict=True) if not _alike(one, other)]
            assert len(changed) == (factor != "appearance")
            env.new_scene(np.random.default_rng(seed))
            env.perturb_factor(factor, np.random.default_rng([seed, 1]))
            assert _factors(env) == after  # the same numbers, the same scene
        with pytest.raises(ValueError, match="layout, shapes, colors, appearance"):
            env.perturb_factor("sizes", np.random.default_rng(0))


def _alike(one: RoomObject, other: RoomObject) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", [RoomRing, RoomFree])
def test_perturbed_rooms_keep_the_laws_of_rooms_and_are_nearer_than_others(kind: type[Room]) -> None:
    moved, others = [], []
    with room(kind, obs_mode="state") as env:
        for seed in scenes(env, 100):
            places, hues, colors = env._places.copy(), env._hues.copy(), env._colors.copy()
            env.perturb_factor("layout", np.random.default_rng([seed, 1]))
            apart = np.linalg.norm(env._places[:, None] - env._places, axis=-1)[np.triu_indices(3, 1)]
            assert apart.min() >= env.separation
            assert np.abs(env._places).max() <= env.spread
            moved.append(np.linalg.norm(env._places - places, axis=1).max())
            env.perturb_factor("colors", np.random.default_rng([seed, 2]))
            assert abs(env._hues[0] - hues[0]) >= SMALLEST_HUE_MOVE
            assert np.abs(env._hues[1:] - env._hues[0]).min() >= HUE_GAP
            assert HUES[0] <= env._hues[0] <= HUES[1]
            first, second = (colorsys.rgb_to_hsv(*color[0]) for color in (colors, env._colors))
            np.testing.assert_allclose(second, [env._hues[0] / 360, *first[1:]], atol=1e-9)
            env.draw_factor("layout", np.random.default_rng([seed, 3]))
            others.append(np.linalg.norm(env._places - places, axis=1).mean())
    assert min(moved) > 0.05
    assert np.mean(moved) < 0.8 * np.mean(others)


def test_the_committed_recording_has_scenes_that_differ_in_one_objects_place_or_hue() -> None:
    config = RecordConfig.from_yaml(ROOT / "configs" / "record" / "rooms.yaml")
    with room(RoomFree, **config.env_kwargs) as env:
        assert config.env == "gqn_rl/RoomFree-v0"
        assert describe_source(env, config).shape[:2] == (config.scenes, config.views)
        width, seen = config.block.width, []
        for scene in (0, 1, width, width + 1):
            set_scene(env, config.block, config.seed, scene)
            seen.append((env._places.copy(), env._hues.copy(), _factors(env)))
        for left, right in ((0, 1), (2, 3)):  # two layouts of a family, the same colours
            assert (np.abs(seen[left][0] - seen[right][0]).max(1) > 0).sum() == 1
            assert np.array_equal(seen[left][1], seen[right][1])
        for top, bottom in ((0, 2), (1, 3)):  # two sets of colours of a family, the same layout
            assert np.array_equal(seen[top][0], seen[bottom][0])
            assert (seen[top][1] != seen[bottom][1]).tolist() == [True, False, False]
        assert len({parts["appearance"] + parts["shapes"] for _, _, parts in seen}) == 1


def test_cameras_that_face_objects_have_one_before_them_and_others_look_anywhere() -> None:
    def nearest_bearing(env: RoomFree, seed: int) -> float:
        x, y, *_, yaw, _ = env.sample_pose(np.random.default_rng(seed))
        bearings = [np.arctan2(each.position[1] - y, each.position[0] - x) - yaw for each in env.objects]
        return float(np.rad2deg(np.abs([(bearing + np.pi) % (2 * np.pi) - np.pi for bearing in bearings]).min()))

    with room(RoomFree, objects=(1, 1), facing=1.0) as facing, room(RoomFree, objects=(1, 1)) as free:
        for env, share in ((facing, 1.0), (free, FACING_ASIDE / 180)):
            aside = np.array([nearest_bearing(env, seed) for seed in scenes(env, 200)])
            assert np.mean(aside <= FACING_ASIDE + 1e-3) == pytest.approx(share, abs=0.08)
    with pytest.raises(ValueError, match=r"facing must be from 0 to 1, got 1\.5"):
        RoomFree(facing=1.5)


def test_a_share_of_scenes_is_room_rings_and_all_views_of_these_are_from_the_ring() -> None:
    with room(RoomFree, ring=0.5) as env:
        gathered = 0
        for seed in scenes(env, 200):
            poses = np.stack([env.sample_pose(np.random.default_rng([seed, view])) for view in range(4)])
            azimuths = np.rad2deg(np.arctan2(poses[:, 1], poses[:, 0]))
            ring = np.stack([RING.at(azimuth, RING.elevation[0]) for azimuth in azimuths])
            on_ring = np.isclose(poses, ring, atol=1e-5).all(1)
            assert on_ring.all() == on_ring.any()
            assert all(env.is_free(pose[:2], 0.2) for pose in poses)
            kind = RoomRing if on_ring.all() else Room
            env.perturb_factor("layout", np.random.default_rng(seed))
            assert np.abs(env._places).max() <= kind.spread
            apart = [np.linalg.norm(one - other) for one, other in itertools.combinations(env._places, 2)]
            assert min(apart) >= kind.separation
            gathered += kind is RoomRing
        assert gathered / 200 == pytest.approx(0.5, abs=0.12)
    with pytest.raises(ValueError, match=r"ring must be from 0 to 1, got -0\.1"):
        RoomFree(ring=-0.1)


def test_factors_make_the_same_scene_in_any_order() -> None:
    with room(RoomRing) as env:
        pose = env.sample_pose(np.random.default_rng(0))
        seen = []
        for order in (env.scene_factors, env.scene_factors[::-1]):
            env.new_scene(np.random.default_rng(99))
            for factor in order:
                env.draw_factor(factor, np.random.default_rng(len(factor)))
            seen.append((env.state(), env.render_view(pose)))
        assert np.array_equal(seen[0][0], seen[1][0])
        assert np.array_equal(seen[0][1], seen[1][1])


def test_an_unknown_factor_is_named_with_the_valid_ones() -> None:
    with room(RoomRing, obs_mode="state") as env, pytest.raises(ValueError, match="layout, shapes, colors, appearance"):
        env.draw_factor("sizes", np.random.default_rng(0))


def test_state_lists_objects_by_hue() -> None:
    with room(RoomFree, obs_mode="state") as env:
        for _ in scenes(env, 50):
            state = env.state()
            assert len(state) == env.state_size
            objects = sorted(env.objects, key=lambda each: colorsys.rgb_to_hsv(*each.color)[0])
            rows = state[9:].reshape(3, -1)
            for row, each in itertools.zip_longest(rows, objects):
                if each is None:
                    assert not row.any()
                    continue
                np.testing.assert_allclose(row[:7], [*each.position, each.size, *each.color], rtol=1e-6)
                assert SHAPES[int(np.argmax(row[7:]))] == each.shape
                assert row[7:].sum() == 1
            groups = {name: state[part] for name, part in env.state_groups.items()}
            np.testing.assert_allclose(groups["mean"], np.mean([each.position for each in objects], axis=0), atol=1e-6)
            np.testing.assert_allclose(groups["lowest_hue"], objects[0].position, rtol=1e-6)
            np.testing.assert_allclose(groups["highest_hue"], objects[-1].position, rtol=1e-6)
            np.testing.assert_allclose(env.oracle()[:9] * LENGTH_UNIT, state[:9], rtol=1e-6)
            assert np.abs(env.oracle()).max() < 1.5


@pytest.mark.parametrize("kind", CLASSES)
def test_is_photographed_as_a_recording_does(kind: type[Room]) -> None:
    with room(kind) as env:
        views, states = photograph(env, seed=3, scenes=4, views=2, sample_pose=env.sample_pose)
        assert views.images.shape == (4, 2, 64, 64, 3)
        assert len({state.tobytes() for state in states}) == 4
        assert env.camera_metadata["fovy"] == FOVY
        again, _ = photograph(env, seed=3, scenes=4, views=2, sample_pose=env.sample_pose)
        assert np.array_equal(views.images, again.images)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"objects": (0, 3)}, r"objects must be \(fewest, most\) with 1 <= fewest <= most <= 3, got \(0, 3\)"),
        ({"objects": (2, 1)}, "objects"),
        ({"objects": (1, 4)}, "objects"),
        ({"objects": 2}, "objects"),
        ({"objects": "ab"}, "objects"),
        ({"objects": (1.0, 2.0)}, "objects"),
        ({"shadows": "soft"}, "shadows must be one of False, True; got 'soft'"),
        ({"obs_mode": "video"}, "views, pixels, state"),
        ({"cameras": "fixed", "camera_names": ("top",)}, "valid cameras: east, north, south, west"),
    ],
)
def test_bad_options_are_named_with_the_valid_choices(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RoomRing(**kwargs)


def test_render_shows_the_whole_room() -> None:
    with room(RoomRing, obs_mode="state", render_mode="rgb_array", render_size=(90, 160), objects=(3, 3)) as env:
        env.reset(seed=0)
        for corner in itertools.product((-HALF, HALF), (-HALF, HALF), (0.0,)):
            row, column = project(np.array(corner), env.render_pose, FOVY, 90, 160)
            assert 0 <= row < 90
            assert 0 <= column < 160
        assert env.render().shape == (90, 160, 3)


def test_a_free_camera_goes_ahead_turns_left_and_tilts_up_and_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with room(RoomFree, obs_mode="state") as env:
        env.reset(seed=0)
        monkeypatch.setattr(env, "is_free", lambda place, margin: True)
        pose = np.array([0.2, -0.1, 0.8, 0.3, -0.2], np.float32)
        moves = [0.5 * np.cos(0.3), 0.5 * np.sin(0.3), 0, np.deg2rad(36), np.deg2rad(10)]
        for action, parts in (([1, 0, 0], [0, 1]), ([0, 1, 0], [3]), ([0, 0, 1], [4])):
            expected = pose + np.where(np.isin(range(5), parts), moves, 0)
            np.testing.assert_allclose(env._moved(pose, np.array(action)), expected, atol=1e-6)
        env._poses = pose[None]
        expected = [0.1, -0.05, 0.4, np.cos(0.3), np.sin(0.3), np.cos(-0.2), np.sin(-0.2)]
        np.testing.assert_allclose(env.proprio(), expected, atol=1e-6)


def test_what_probes_ask_for_is_the_colour_and_the_shape_of_the_object_of_lowest_hue() -> None:
    with room(RoomFree, obs_mode="state") as env:
        for _ in scenes(env, 20):
            first = min(env.objects, key=lambda each: colorsys.rgb_to_hsv(*each.color)[0])
            told = {name: env.state()[None][:, quantity.part][0] for name, quantity in env.state_quantities.items()}
            np.testing.assert_allclose(told["lowest_hue_color"], first.color, rtol=1e-6)
            np.testing.assert_array_equal(told["lowest_hue_shape"], [name == first.shape for name in SHAPES])


@pytest.mark.parametrize("env_id", VIEWERS)
def test_episodes_end_after_10_decisions_and_nothing_is_won(env_id: str) -> None:
    env = gym.make(env_id, obs_mode="state")
    env.reset(seed=0)
    ends = [env.step(np.zeros(env.action_space.shape or (), np.float32))[1:4] for _ in range(10)]
    assert ends == [(0.0, False, False)] * 9 + [(0.0, False, True)]
    env.close()


def test_free_cameras_stand_and_tilt_as_they_may_and_look_all_around() -> None:
    with room(RoomFree, obs_mode="state") as env:
        poses = np.stack([env.sample_pose(np.random.default_rng(seed)) for seed in scenes(env, 200)])
        limits = ((poses[:, 2], 0.4, 1.2), (np.rad2deg(poses[:, 4]), -20, 5), (np.rad2deg(poses[:, 3]), -180, 180))
        for numbers, low, high in limits:
            near = 0.05 * (high - low)
            assert low - 1e-4 <= numbers.min() < low + near
            assert high - near < numbers.max() <= high + 1e-4


def test_faces_of_meshes_are_turned_outwards() -> None:
    """Those that are turned inwards are not drawn: one would look into an object, at its back."""
    model = room_spec().compile()
    for mesh in range(model.nmesh):
        vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
        a, b, c = vertices[model.mesh_face[model.mesh_faceadr[mesh] :][: model.mesh_facenum[mesh]]].swapaxes(0, 1)
        ahead = np.einsum("ij,ij->i", np.cross(b - a, c - a), (a + b + c) / 3 - vertices.mean(0))
        assert (ahead > 0).all(), model.mesh(mesh).name
