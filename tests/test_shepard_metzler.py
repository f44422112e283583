"""Shepard-Metzler objects: mirror images really differ, and what is asked, shown and rewarded is what is there."""

from __future__ import annotations

import colorsys
import itertools
import warnings
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

import gqn_rl  # noqa: F401 - registers the environments
from gqn_rl.cameras import axes, project
from gqn_rl.envs.blocks import ROTATIONS, is_chiral, mirror_image, random_chain, random_chiral_chain, same_object
from gqn_rl.envs.colors import distinct_hues, rgb
from gqn_rl.envs.shepard_metzler import APART, EDGE, FOVY, HUE_GAP, SLOTS, ShepardMetzler
from gqn_rl.types import SceneSource

ENV_ID = "gqn_rl/ShepardMetzler-v0"
STEPS = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])


@contextmanager
def blocks(**kwargs: Any) -> Iterator[ShepardMetzler]:
    env = ShepardMetzler(**kwargs)
    try:
        yield env
    finally:
        env.close()


def scenes(env: ShepardMetzler, count: int) -> Iterator[int]:
    for seed in range(count):
        env.new_scene(np.random.default_rng(seed))
        yield seed


def every_chain(parts: int) -> list[NDArray[Any]]:
    """All self-avoiding walks of so many cells whose first step goes along +x; the others are rotations of these."""
    chains = [[(0, 0, 0), (1, 0, 0)]]
    for _ in range(parts - 2):
        grown = [(chain, tuple((chain[-1] + step).tolist())) for chain in chains for step in STEPS]
        chains = [[*chain, cell] for chain, cell in grown if cell not in chain]
    return [np.array(chain) for chain in chains]


# Objects --------------------------------------------------------------------------------------------------------


def test_rotations_are_the_24_of_a_cube() -> None:
    assert ROTATIONS.shape == (24, 3, 3)
    known = {each.tobytes() for each in ROTATIONS}
    assert len(known) == 24
    assert {(one @ other).tobytes() for one in ROTATIONS for other in ROTATIONS} == known
    np.testing.assert_allclose(np.linalg.det(ROTATIONS), 1)


def test_a_chain_walks_to_free_neighbours_and_prefers_none() -> None:
    rng = np.random.default_rng(0)
    first = np.zeros(6)
    for _ in range(600):
        chain = random_chain(7, rng)
        assert len({tuple(cell) for cell in chain}) == 7
        assert (np.abs(np.diff(chain, axis=0)).sum(axis=1) == 1).all()
        first += (chain[1] == STEPS).all(axis=1)
    assert first.sum() == 600
    assert np.abs(first - 100).max() < 40  # 4 standard deviations


def test_an_object_is_the_same_however_it_lies() -> None:
    rng = np.random.default_rng(0)
    for parts in (5, 7):
        for _ in range(40):
            chain = random_chain(parts, rng)
            turned = chain @ ROTATIONS[rng.integers(24)] + rng.integers(-9, 9, 3)
            assert same_object(chain, turned)
            assert same_object(turned, rng.permutation(chain))
            assert is_chiral(chain) == is_chiral(turned) == is_chiral(mirror_image(chain))
            other = random_chain(parts, rng)
            assert same_object(chain, other) == same_object(other, turned)
    assert not same_object(random_chain(5, rng), random_chain(7, rng))


def test_chirality_equals_brute_force_over_sets_of_cells() -> None:
    def placed(cells: NDArray[Any]) -> frozenset[Any]:
        return frozenset(map(tuple, (cells - cells.min(axis=0)).tolist()))

    for chain in every_chain(5):
        image = placed(chain * [1, 1, -1])  # any mirror will do
        assert is_chiral(chain) == all(placed((turn @ chain.T).T) != image for turn in ROTATIONS)


def test_counts_of_all_objects_of_five_parts() -> None:
    """Walks by the number of steps: 6, 30, 150, 726 (OEIS A001412); of the objects, pairs of mirror images differ."""
    chains = every_chain(5)
    assert 6 * len(chains) == 726
    objects: list[NDArray[Any]] = []
    for chain in chains:
        if not any(same_object(chain, each) for each in objects):
            objects.append(chain)
    chiral = [each for each in objects if is_chiral(each)]
    assert (len(objects), len(chiral)) == (18, 8)
    assert all(any(same_object(mirror_image(one), other) for other in chiral) for one in chiral)


def test_chiral_chains_are_chiral() -> None:
    rng = np.random.default_rng(0)
    for parts in (4, 5, 7):
        for _ in range(30):
            assert is_chiral(random_chiral_chain(parts, rng))
    with pytest.raises(ValueError, match="at least 4 parts, got 3"):
        random_chiral_chain(3, rng)
    with pytest.raises(ValueError, match="parts must be from 1 to 16, got 17"):
        random_chain(17, rng)


def test_no_chiral_object_reaches_the_other_one() -> None:
    """Objects turn about their centres, so spheres about them must not meet."""
    for parts in (5, 7):
        for chain in every_chain(parts):
            if is_chiral(chain):
                corner = np.abs(chain - chain.mean(axis=0)) + 0.5
                assert EDGE * np.linalg.norm(corner, axis=1).max() < APART / 2


def test_hues_are_apart_and_colours_are_those_of_the_standard_library() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        hues = distinct_hues(rng, 7, (10.0, 300.0), 25.0)
        assert np.diff(np.sort(hues)).min() > 25 - 1e-9
        assert hues.min() >= 10
        assert hues.max() <= 300
        saturation, value = rng.uniform(size=(2, 7))
        expected = [colorsys.hsv_to_rgb(*each) for each in zip(hues / 360, saturation, value, strict=True)]
        np.testing.assert_allclose(rgb(hues, saturation, value), expected, atol=1e-12)
    with pytest.raises(ValueError, match="7 hues that are 60 degrees apart do not fit between 0 and 300"):
        distinct_hues(rng, 7, (0, 300), 60)


# Environment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs",
    [
        {"views": 2, "cameras": "fixed"},
        {"actions": "discrete"},
        {"views": 2, "cameras": "moving", "turns": "any"},
        {"obs_mode": "pixels", "parts": (5,)},
        {"obs_mode": "state"},
        {"obs_mode": "state", "actions": "discrete"},
        {"objects": 1},
        {"objects": 1, "actions": "discrete", "obs_mode": "pixels"},
    ],
    ids=str,
)
def test_passes_both_checkers(kwargs: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        # Both advise against spaces that are what they are: five-dimensional images, unbounded metres.
        warnings.simplefilter("ignore")
        env = gym.make(ENV_ID, render_mode="rgb_array", render_size=32, image_size=32, **kwargs)
        assert isinstance(env.unwrapped, ShepardMetzler)
        check_env(env.unwrapped)
        sb3_check_env(env.unwrapped)
        env.close()


def test_same_seed_same_episode() -> None:
    def episode(env: ShepardMetzler, seed: int) -> list[Any]:
        seen = list(env.reset(seed=seed)[0].values())
        for action in np.random.default_rng(0).uniform(-1, 1, (3, 3)):
            observation, reward, terminated, _, info = env.step(action)
            seen += [*observation.values(), reward, terminated, *info.values()]
        return seen

    with blocks(cameras="moving", views=2) as env, blocks(cameras="moving", views=2) as fresh:
        first, other, again, elsewhere = episode(env, 7), episode(env, 8), episode(env, 7), episode(fresh, 7)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, elsewhere, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_right_answer_ends_in_success_and_the_wrong_one_does_not() -> None:
    for actions, answers in {"continuous": ([0, 0, -0.6], [0, 0, 0.6]), "discrete": (4, 5)}.items():
        with blocks(obs_mode="state", actions=actions) as env:
            for seed, says_mirrored in itertools.product(range(8), (False, True)):
                _, info = env.reset(seed=seed)
                assert info == {"is_success": False, "angle": env.angle}
                _, reward, terminated, truncated, info = env.step(answers[says_mirrored])
                right = says_mirrored == env.is_mirrored
                assert (reward, terminated, truncated) == (1.0 if right else -1.0, True, False)
                assert info["is_success"] == right


def test_no_answer_no_reward_until_time_is_up() -> None:
    env = gym.make(ENV_ID, obs_mode="state")
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for decision in range(15):
        action = np.array([*rng.uniform(-1, 1, 2), rng.uniform(-0.5, 0.5)], np.float32)
        _, reward, terminated, truncated, info = env.step(action)
        assert (reward, terminated, truncated, info["is_success"]) == (0, False, decision == 14, False)
    env.close()


def test_one_object_asks_nothing() -> None:
    for actions, shape in {"continuous": (2,), "discrete": ()}.items():
        with blocks(obs_mode="state", objects=1, actions=actions) as env:
            assert env.reset(seed=0)[1] == {}
            assert env.action_space.shape == shape
            for action in [0, 1, 2, 3] if actions == "discrete" else np.ones((4, 2)):
                assert env.step(action)[1:] == (0.0, False, False, {})


def test_a_driven_camera_stays_on_the_sphere_and_faces_the_middle() -> None:
    moves = {0: (-36, 0), 1: (36, 0), 2: (0, 36), 3: (0, -36)}
    with blocks(actions="discrete", obs_mode="state", views=2) as env:
        rng = np.random.default_rng(0)
        env.reset(seed=0)
        for _ in range(60):
            before, move = env.camera_poses, int(rng.integers(4))
            env.step(move)
            pose = env.camera_poses[-1].astype(np.float64)
            assert np.array_equal(env.camera_poses[0], before[0])
            np.testing.assert_allclose(np.linalg.norm(pose[:3]), env.dome.radius[0], rtol=1e-6)
            np.testing.assert_allclose(axes(pose)[0], -pose[:3] / np.linalg.norm(pose[:3]), atol=1e-6)
            np.testing.assert_allclose(env.proprio(), -axes(pose)[0], atol=1e-6)
            around, up = moves[move]
            turned = np.rad2deg(pose[3] - before[-1, 3])
            np.testing.assert_allclose((turned - around + 180) % 360, 180, atol=1e-3)
            elevation = np.clip(np.rad2deg(-before[-1, 4]) + up, -80, 80)
            np.testing.assert_allclose(np.rad2deg(-pose[4]), elevation, atol=1e-3)


# Scenes ---------------------------------------------------------------------------------------------------------


def _fit(env: ShepardMetzler) -> NDArray[np.float64]:
    """The matrix (3, 3) that carries the first object's parts, from its centre, onto the second's."""
    first, second = (each - each.mean(axis=0) for each in env.positions())
    return np.linalg.lstsq(first, second, rcond=None)[0].T


@pytest.mark.parametrize("turns", ["vertical", "any"])
def test_the_second_object_is_a_turned_copy_or_a_turned_mirror_image(turns: str) -> None:
    with blocks(obs_mode="state", turns=turns) as env:
        mirrored, counts, angles = [], set(), []
        for _ in scenes(env, 120):
            assert is_chiral(env.cells)
            matrix = _fit(env)
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-9)  # chiral, so the fit is unique
            np.testing.assert_allclose(np.linalg.det(matrix), -1 if env.is_mirrored else 1, atol=1e-9)
            turn = matrix @ np.diag([-1.0 if env.is_mirrored else 1.0, 1.0, 1.0])
            np.testing.assert_allclose(np.cos(np.deg2rad(env.angle)), (np.trace(turn) - 1) / 2, atol=1e-9)
            keeps_heights = np.allclose(*env.positions()[:, :, 2])
            assert keeps_heights == (turns == "vertical")
            mirrored.append(env.is_mirrored)
            counts.add(len(env.cells))
            angles.append(env.angle)
        assert counts == {5, 7}
        assert 40 < sum(mirrored) < 80
        assert 0 <= min(angles) < 30
        assert 150 < max(angles) <= 180


def test_a_mirrored_pair_is_two_different_objects() -> None:
    """Undo the turn: what is left is the object itself, or another that no rotation makes of it."""
    with blocks(obs_mode="state") as env:
        for _ in scenes(env, 60):
            turned_back = env.positions()[1] - env.positions()[1].mean(axis=0)
            turned_back = turned_back @ _fit(env) @ np.diag([-1.0 if env.is_mirrored else 1.0, 1.0, 1.0])
            cells = np.rint((turned_back - turned_back[0]) / EDGE).astype(int)
            assert same_object(env.cells, cells) != env.is_mirrored


def test_parts_are_shown_where_they_are_in_their_colours() -> None:
    with blocks(objects=1) as env:
        checked = 0
        for seed in scenes(env, 20):
            for view in range(4):
                pose = env.sample_pose(np.random.default_rng([seed, view]))
                image = env.render_view(pose)
                for part, position in enumerate(env.positions()[0]):
                    if not _in_plain_sight(env, pose, position, part):
                        continue
                    row, column = np.rint(project(position, pose, FOVY, 64, 64)).astype(int)
                    hue, _, _ = colorsys.rgb_to_hsv(*env.model.geom_rgba[part, :3])
                    off = (colorsys.rgb_to_hsv(*image[row, column] / 255)[0] - hue + 0.5) % 1 - 0.5
                    assert abs(off) < 0.03, (seed, view, part)
                    checked += 1
        assert checked > 150


def _in_plain_sight(env: ShepardMetzler, pose: NDArray[Any], position: NDArray[np.float64], part: int) -> bool:
    """Whether rays to the middle of a part and around it, two pixels off, meet that part first."""
    _, right, up = axes(pose)
    for across, along in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        eye, hit = pose[:3].astype(np.float64), np.zeros(1, np.int32)
        ray = position + 0.2 * EDGE * (across * right + along * up) - eye
        mujoco.mj_ray(env.model, env.data, eye, ray, np.arange(6, dtype=np.uint8) == 0, 1, -1, hit)
        if hit[0] != part:
            return False
    return True


@pytest.mark.parametrize("turns", ["vertical", "any"])
def test_a_pair_is_in_the_picture_from_everywhere(turns: str) -> None:
    with blocks(obs_mode="state", turns=turns) as env:
        for seed in scenes(env, 150):
            pose = env.sample_pose(np.random.default_rng(seed))
            places = project(env.positions(), pose, FOVY, 64, 64)
            assert places.min() > 0
            assert places.max() < 63
            image = env.render_view(pose)
            assert not np.concatenate([image[[0, -1]], image[:, [0, -1]].swapaxes(0, 1)]).any()


def test_parts_that_are_not_there_are_not_shown() -> None:
    with blocks(parts=(5,), objects=1) as few, blocks(parts=(7,), objects=1) as many:
        for env, count in ((few, 5), (many, 7)):
            for seed in scenes(env, 10):
                shown = env.model.geom_group == 0
                assert shown.sum() == count == len(env.cells)
                np.testing.assert_allclose(env.data.geom_xpos[shown], env.positions()[0], atol=1e-12)
                assert env.render_view(env.sample_pose(np.random.default_rng(seed))).any()


def test_shadows_darken_and_nothing_else() -> None:
    with blocks(objects=1) as plain, blocks(objects=1, shadows=True) as shaded:
        darker = 0
        for seed in scenes(plain, 20):
            shaded.new_scene(np.random.default_rng(seed))
            pose = plain.dome.at(60.0, 50.0)  # across the light
            change = shaded.render_view(pose).astype(int) - plain.render_view(pose)
            assert change.max() <= 2
            darker += int((change < -20).sum())
        assert darker > 100


# Factors --------------------------------------------------------------------------------------------------------


def _factors(env: ShepardMetzler) -> dict[str, bytes]:
    """What of the scene belongs to each factor, as the model and its data have it."""
    first = env.model.geom_group[:SLOTS] == 0
    parts = {"shape": env.data.geom_xpos[:SLOTS][first], "colors": env.model.geom_rgba}
    if env.objects == 2:
        parts |= {"turn": env.data.mocap_quat[-1], "mirrored": np.array(np.linalg.det(_fit(env)) < 0)}
    return {name: np.ascontiguousarray(array).tobytes() for name, array in parts.items()}


@pytest.mark.parametrize("objects", [1, 2])
def test_drawing_one_factor_leaves_the_others(objects: int) -> None:
    with blocks(obs_mode="state", objects=objects) as env:
        assert isinstance(env, SceneSource)
        changed = set()
        for seed, factor in itertools.product(range(20), env.scene_factors):
            env.new_scene(np.random.default_rng(seed))
            before = _factors(env)
            env.draw_factor(factor, np.random.default_rng([seed, 1]))
            differs = {name for name, value in _factors(env).items() if value != before[name]}
            assert differs <= {factor}
            changed |= differs
        assert changed == set(env.scene_factors)


def test_an_unknown_factor_is_named_with_the_valid_ones() -> None:
    with blocks(obs_mode="state", objects=1) as env, pytest.raises(ValueError, match="shape, colors; got 'turn'"):
        env.draw_factor("turn", np.random.default_rng(0))


@pytest.mark.parametrize("objects", [1, 2])
def test_state_lists_parts_by_hue(objects: int) -> None:
    with blocks(obs_mode="state", objects=objects) as env:
        for _ in scenes(env, 30):
            state, count = env.state(), len(env.cells)
            assert len(state) == env.state_size
            shown = env.model.geom_group[:SLOTS] == 0
            colors = env.model.geom_rgba[:SLOTS][shown, :3]
            hues = np.array([360 * colorsys.rgb_to_hsv(*color)[0] for color in colors])
            order = np.argsort(hues)
            assert np.diff(hues[order]).min() > HUE_GAP - 1e-3
            table, second = state[12:54].reshape(SLOTS, 6), state[54:75].reshape(SLOTS, 3)
            np.testing.assert_allclose(table[:count], np.hstack([env.positions()[0], colors])[order], atol=1e-6)
            assert not table[count:].any()
            assert not second[count * (objects - 1) :].any()
            assert state[-1] == (0 if objects == 1 else 1 if env.is_mirrored else -1)
            groups = {name: state[part] for name, part in env.state_groups.items()}
            expected = {"lowest_hue": table[0, :3], "highest_hue": table[count - 1, :3]}
            if objects == 2:
                np.testing.assert_allclose(second[:count], env.positions()[1][order], atol=1e-6)
                expected |= {"second_lowest_hue": second[0], "second_highest_hue": second[count - 1]}
            assert groups.keys() == expected.keys()
            assert all(np.array_equal(groups[name], expected[name]) for name in groups)
            assert np.abs(env.oracle()).max() < 1.5


@pytest.mark.parametrize("objects", [1, 2])
def test_is_photographed_as_a_recording_does(objects: int) -> None:
    with blocks(objects=objects) as env:
        views, states = photograph(env, seed=3, scenes=3, views=2, sample_pose=env.sample_pose)
        assert views.images.shape == (3, 2, 64, 64, 3)
        assert len({state.tobytes() for state in states}) == 3
        assert env.camera_metadata["fovy"] == FOVY
        again, _ = photograph(env, seed=3, scenes=3, views=2, sample_pose=env.sample_pose)
        assert np.array_equal(views.images, again.images)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"parts": (6,)}, r"parts must be one of \(5,\), \(7,\), \(5, 7\); got \(6,\)"),
        ({"parts": ()}, "parts"),
        ({"parts": 7}, "parts"),
        ({"parts": "57"}, "parts"),
        ({"parts": (5, 5)}, "parts"),
        ({"objects": 3}, "objects must be one of 1, 2; got 3"),
        ({"turns": "depth"}, "turns must be one of vertical, any; got 'depth'"),
        ({"actions": "both"}, "continuous, discrete"),
        ({"shadows": "soft"}, "shadows must be one of False, True; got 'soft'"),
        ({"cameras": "fixed", "camera_names": ("below",)}, "valid cameras: back, front, left, right, top"),
    ],
)
def test_bad_options_are_named_with_the_valid_choices(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ShepardMetzler(**kwargs)


def test_render_shows_what_the_last_camera_sees() -> None:
    with blocks(render_mode="rgb_array", render_size=64, views=2) as env:
        env.reset(seed=0)
        seen, shown = env.render_view(env.camera_poses[-1]).astype(int), env.render()
        assert shown is not None
        assert shown.shape == (64, 64, 3)
        assert np.abs(seen - shown).mean() < 3  # but for shadows and smoother edges


def test_what_probes_ask_for_is_where_the_state_has_it() -> None:
    with blocks(obs_mode="state") as env:
        for _ in scenes(env, 10):
            told = {name: env.state()[None][:, quantity.part][0] for name, quantity in env.state_quantities.items()}
            table = env.state()[12:54].reshape(SLOTS, 6)[:5]
            np.testing.assert_array_equal(told["shape"].reshape(5, 3), table[:, :3])
            np.testing.assert_array_equal(told["colors"].reshape(5, 3), table[:, 3:])
            assert told["mirrored"].tolist() == [1.0 if env.is_mirrored else -1.0]


def test_one_object_is_seen_from_where_the_published_ones_are_and_two_from_twice_as_far() -> None:
    for objects in (1, 2):
        with blocks(obs_mode="state", objects=objects) as env:
            assert env.dome.radius == pytest.approx((objects * 10 / 3,) * 2)
