"""Recordings: the same whoever records them and however often they are interrupted; splits that never leak."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import photograph
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_probes import Spot

from gqn_rl.cameras import CONVENTION
from gqn_rl.config import UserError
from gqn_rl.data import (
    CHUNK,
    BlockPlan,
    RecordConfig,
    SceneDataset,
    describe_source,
    finish_recording,
    load_manifest,
    look,
    missing_chunks,
    open_recording,
    record,
    record_chunks,
    sample_scenes,
    set_scene,
    split_views,
    stack,
)
from gqn_rl.files import locked
from gqn_rl.types import POSE_SIZE, Image, Perturbable, Pose, SceneSource, Views

BLOCK = BlockPlan(rows="target", columns="arm", height=2, width=2)
CONFIG = RecordConfig(scenes=2 * CHUNK + 8, views=2, env_kwargs={"image_size": 16}, block=BLOCK, seed=3)


def make_arm(env_id: str, env_kwargs: Mapping[str, Any]) -> SceneSource:
    """Importable by a fresh process, as ``record`` needs."""
    source = gym.make(f"gqn_rl:{env_id}", **env_kwargs).unwrapped
    assert isinstance(source, SceneSource)
    return source


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "arm"
    counted: list[int] = []
    record(CONFIG, folder, make_arm, 1, counted.append)
    assert sum(counted) == CONFIG.scenes
    return folder


def test_two_processes_record_the_same_as_one(recording: Path, tmp_path: Path) -> None:
    manifest = record(CONFIG, tmp_path / "again", make_arm, 2, lambda scenes: None)
    assert manifest.sha256 == SceneDataset(recording).manifest.sha256


def test_an_interrupted_recording_ends_the_same(recording: Path, tmp_path: Path) -> None:
    folder = tmp_path / "interrupted"
    source = make_arm(CONFIG.env, CONFIG.env_kwargs)
    open_recording(folder, describe_source(source, CONFIG))
    next(record_chunks(source, folder, CONFIG, [1]))
    assert missing_chunks(folder) == [0, 2]
    with pytest.raises(UserError, match="unfinished"):
        SceneDataset(folder)
    with pytest.raises(UserError, match="2 chunks are missing"):
        finish_recording(folder)
    counted: list[int] = []
    manifest = record(CONFIG, folder, make_arm, 1, counted.append)
    assert counted[0] == CHUNK  # what was there already
    assert manifest.sha256 == SceneDataset(recording).manifest.sha256


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_is_granted_between_scenes_and_the_rest_comes_later(
    workers: int, recording: Path, tmp_path: Path
) -> None:
    folder, asked, counted = tmp_path / "stopped", itertools.count(), []

    def stop() -> bool:  # one process is asked before every scene, two are asked as they go
        return next(asked) == (CHUNK + 5 if workers == 1 else 0)

    with pytest.raises(KeyboardInterrupt):
        record(CONFIG, folder, make_arm, workers, counted.append, stop)
    record(CONFIG, folder, make_arm, 1, counted.append)
    assert SceneDataset(folder).manifest.sha256 == SceneDataset(recording).manifest.sha256
    if workers == 1:
        assert counted[:2] == [0, CHUNK]
        assert next(asked) == CHUNK + 6


def test_scenes_of_a_block_share_factors_two_by_two(recording: Path) -> None:
    data = SceneDataset(recording)
    hand, target = data.state_group("hand"), data.state_group("target")
    assert data.block.size == 4
    for block in (0, 1, 20):
        a, b, c, d = range(4 * block, 4 * block + 4)  # row 0: a b, row 1: c d
        assert np.array_equal(target[a], target[b])
        assert np.array_equal(target[c], target[d])
        assert np.array_equal(hand[a], hand[c])
        assert np.array_equal(hand[b], hand[d])
        assert not np.array_equal(target[a], target[c])
        assert not np.array_equal(hand[a], hand[b])
    assert len(np.unique(target, axis=0)) == CONFIG.scenes // 2
    assert len(np.unique(data.poses.reshape(-1, 5), axis=0)) == CONFIG.scenes * CONFIG.views  # no camera twice


def test_a_recorded_view_is_what_the_source_shows(recording: Path) -> None:
    data = SceneDataset(recording)
    source = make_arm(CONFIG.env, CONFIG.env_kwargs)
    for scene in (0, 5, 77):
        set_scene(source, BLOCK, CONFIG.seed, scene)
        np.testing.assert_array_equal(source.state(), data.states[scene])
        for view in range(data.views):
            np.testing.assert_array_equal(source.render_view(data.poses[scene, view]), data.images[scene, view])


def test_a_look_is_each_picture_beside_its_pose_and_nobody_elses_memory() -> None:
    """Of a source that gives out its own arrays, and poses in double precision: what is stored is what was rendered."""

    class Careless(Spot):
        paper, map_pose = np.zeros((4, 4, 3), np.uint8), np.full(POSE_SIZE, -1, np.float32)

        def render_view(self, pose: Pose) -> Image:
            self.paper[:] = super().render_view(pose)
            return self.paper

    source = Careless()
    rng = np.random.default_rng(0)
    scenes = []
    for _ in range(3):
        source.new_scene(rng)
        poses = [source.map_pose, *rng.uniform(-1, 1, size=(3, POSE_SIZE))]
        views = look(source, poses)
        assert (views.images.dtype, views.poses.dtype) == (np.uint8, np.float32)
        np.testing.assert_array_equal(views.poses, np.array(poses, np.float32))
        np.testing.assert_array_equal(views.images, [source.render_view(pose).copy() for pose in views.poses])
        scenes.append(Views(views.images.copy(), views.poses.copy()))
        source.paper[:], source.map_pose[:] = 7, source.map_pose + 1
        for kept, now in zip(scenes[-1], views, strict=True):
            np.testing.assert_array_equal(kept, now)
    together = stack(scenes)
    assert (together.images.shape, together.poses.shape) == ((3, 4, 4, 4, 3), (3, 4, POSE_SIZE))
    for scene, views in enumerate(scenes):
        np.testing.assert_array_equal(together.images[scene], views.images)
        np.testing.assert_array_equal(together.poses[scene], views.poses)


def test_a_batch_is_the_scenes_and_views_asked_for(recording: Path) -> None:
    data = SceneDataset(recording)
    scenes, views = np.array([5, 2, 9]), np.array([[1, 0], [0, 0], [1, 1]])
    batch = data.batch(scenes, views)
    for i, scene in enumerate(scenes):
        for j, view in enumerate(views[i]):
            assert np.array_equal(batch.images[i, j], data.images[scene, view])
            assert np.array_equal(batch.poses[i, j], data.poses[scene, view])


def test_finished_and_foreign_recordings_are_not_overwritten(recording: Path) -> None:
    with pytest.raises(UserError, match="finished recording"):
        record(CONFIG, recording, make_arm, 1, lambda scenes: None)
    other = CONFIG.model_copy(update={"seed": 4})
    with pytest.raises(UserError, match=r"another recording \(seed differ\)"):
        record(other, recording, make_arm, 1, lambda scenes: None)


def test_damage_and_absence_are_one_line(recording: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a recording"):
        SceneDataset(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(recording, copy)
    whole = (copy / "poses.npy").read_bytes()
    np.save(copy / "poses.npy", np.load(copy / "poses.npy")[:-1])
    with pytest.raises(
        UserError, match=r"damaged: poses.npy holds float32 \(\d+, .*, expected float32 .*; delete it and"
    ):
        SceneDataset(copy)
    np.save(copy / "poses.npy", np.load(recording / "poses.npy").astype(np.float64))
    with pytest.raises(UserError, match=r"damaged: poses.npy holds float64 .*, expected float32"):
        SceneDataset(copy)
    (copy / "poses.npy").write_bytes(whole)
    (copy / "images.npy").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="damaged"):
        SceneDataset(copy)
    (copy / "manifest.json").write_text('{"config": 1}')
    with pytest.raises(UserError, match="corrupt"):
        SceneDataset(copy)
    manifest = json.loads((recording / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "camera": None}))
    with pytest.raises(UserError, match=r"manifest.json is corrupt: 'camera' is None, must be an object"):
        SceneDataset(copy)
    for wrong, said in (
        ({"camera": {}}, "tells no convention, fovy, image_size, renderer"),
        ({"config": {**manifest["config"], "scenes": 0}}, "'scenes' is 0"),
        ({"state_groups": {"target": [0, 50]}}, r"group 'target' is \[0, 50\] of a state of"),
        ({"sha256": ""}, "sha256 is ''"),
    ):
        (copy / "manifest.json").write_text(json.dumps({**manifest, **wrong}))
        with pytest.raises(UserError, match=f"manifest.json is corrupt: .*{said}"):
            SceneDataset(copy)


def test_what_was_cut_short_is_refused_and_does_not_become_black_pictures(tmp_path: Path) -> None:
    """An unfinished recording, copied in part: a file that is mapped to be written would grow by zeros."""
    folder = tmp_path / "cut"
    source = make_arm(CONFIG.env, CONFIG.env_kwargs)
    open_recording(folder, describe_source(source, CONFIG))
    next(record_chunks(source, folder, CONFIG, [0]))
    for name in ("images", "states", "chunks"):
        path = folder / f"{name}.npy"
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) * 2 // 3])
        with pytest.raises(UserError, match=r"cut is damaged: .*; delete it and record it again"):
            record(CONFIG, folder, make_arm, 1, lambda scenes: None)
        assert path.stat().st_size == len(whole) * 2 // 3
        path.write_bytes(whole)
    assert record(CONFIG, folder, make_arm, 1, lambda scenes: None).complete


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"state": lambda self: np.array([0, np.nan, 0, 0, 0])}, r"Broken.state\(\) is not finite in scene 0"),
        ({"sample_pose": lambda self, rng: np.full(5, np.nan)}, "a camera pose of Broken is none: .* must be finite"),
        (
            {"sample_pose": lambda self, rng: np.zeros(6)},
            "a camera pose of Broken is none: a camera pose has 5 numbers",
        ),
        ({"sample_pose": lambda self, rng: np.array([0, 0, 1, 90, -30])}, r"got -30; is that in degrees\?"),
    ],
)
def test_what_no_training_could_use_is_refused_where_it_arises(
    broken: dict[str, Any], said: str, tmp_path: Path
) -> None:
    made = type("Broken", (Spot,), broken)
    with pytest.raises(UserError, match=said):
        record(RecordConfig(scenes=4, views=2), tmp_path / "data", lambda env, kwargs: made(), 1, lambda scenes: None)


def test_a_source_whose_state_has_grown_does_not_go_on(tmp_path: Path) -> None:
    config = RecordConfig(scenes=4, views=2)
    open_recording(tmp_path / "data", describe_source(Spot(), config))
    size = len(Spot().state())
    grown = type("Grown", (Spot,), {"state": lambda self: np.zeros(size + 1)})
    with pytest.raises(UserError, match=r"holds another recording \(state_size differ\)"):
        record(config, tmp_path / "data", lambda env, kwargs: grown(), 1, lambda scenes: None)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"not empty and holds no recording \(it has thesis.tex\)"):
        record(CONFIG, tmp_path, make_arm, 1, lambda scenes: None)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_one_process_at_a_time_records(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UserError, match="another process is at work"):
        record(CONFIG, tmp_path, make_arm, 1, lambda scenes: None)


@pytest.mark.parametrize("picture", [np.ones((4, 4, 3)), np.ones((4, 4, 1), np.uint8), np.ones((3, 4, 4), np.uint8)])
def test_pictures_that_would_be_stored_as_something_else_are_refused(picture: NDArray[Any]) -> None:
    class Other(Spot):
        def render_view(self, pose: Pose) -> Image:
            return picture

    source = Other()
    source.new_scene(np.random.default_rng(0))
    with pytest.raises(UserError, match=r"Other.render_view gives .*, must be uint8 \(4, 4, 3\)"):
        look(source, [np.zeros(POSE_SIZE, np.float32)])


def test_a_camera_that_is_not_told_is_named_before_any_work() -> None:
    dot = Dot()
    dot.camera_metadata = {key: value for key, value in Dot.camera_metadata.items() if key not in ("fovy", "renderer")}
    with pytest.raises(UserError, match="camera_metadata tells no fovy, renderer"):
        describe_source(dot, RecordConfig(scenes=4, views=2, env="dots:Dot-v0"))


@pytest.mark.parametrize(
    ("member", "value", "said"),
    [
        ("state_groups", {"place": slice(0, 9)}, r"state_groups\['place'\] is slice\(0, 9, None\); .* the 1 numbers"),
        ("state_groups", {"place": slice(0, 1, 2)}, r"state_groups\['place'\] is slice\(0, 1, 2\)"),
        ("state_groups", {"place": slice(1, 0)}, r"state_groups\['place'\] is slice\(1, 0"),
        ("state_groups", {"place": (0, 1)}, r"state_groups\['place'\] is \(0, 1\)"),
        ("state", lambda: np.zeros((1, 3)), r"state\(\) of dots:Dot-v0 is of shape \(1, 3\), must be \(S,\)"),
        ("state", lambda: np.float32(1), r"state\(\) of dots:Dot-v0 is of shape \(\), must be \(S,\)"),
        ("scene_factors", "place", r"scene_factors of dots:Dot-v0 is 'place', must be names"),
        ("scene_factors", (), "scene_factors of dots:Dot-v0 names none: all 4 scenes would be the same"),
    ],
)
def test_what_a_source_says_of_itself_is_checked_before_any_work(member: str, value: object, said: str) -> None:
    dot = Dot()
    setattr(dot, member, value)
    with pytest.raises(UserError, match=said):
        describe_source(dot, RecordConfig(scenes=4, views=2, env="dots:Dot-v0"))


def test_state_groups_may_be_open_or_count_from_the_end(tmp_path: Path) -> None:
    dot = Dot()
    dot.state_groups = {"all": slice(None), "last": slice(-1, None)}
    described = describe_source(dot, RecordConfig(scenes=4, views=2, env="dots:Dot-v0"))
    assert described.state_groups == {"all": (0, 1), "last": (0, 1)}
    open_recording(tmp_path / "data", described)
    assert load_manifest(tmp_path / "data").state_size == 1


def test_a_recording_goes_on_whatever_its_camera_tells_besides(tmp_path: Path) -> None:
    dot = Dot()
    dot.camera_metadata = {**Dot.camera_metadata, "lens": ("wide", np.float32(1.5)), "image_size": np.array([8, 8])}
    config = RecordConfig(scenes=4, views=2, env="dots:Dot-v0")
    open_recording(tmp_path / "data", describe_source(dot, config))
    open_recording(tmp_path / "data", describe_source(dot, config))
    assert load_manifest(tmp_path / "data").camera["lens"] == ["wide", 1.5]
    dot.camera_metadata = {**Dot.camera_metadata, "lens": object()}
    with pytest.raises(UserError, match="camera_metadata of dots:Dot-v0 holds what JSON cannot"):
        describe_source(dot, config)


def test_poses_that_mean_something_else_are_refused_before_any_work() -> None:
    dot = Dot()
    dot.camera_metadata = {**Dot.camera_metadata, "convention": "x right"}
    with pytest.raises(UserError, match="the poses of dots:Dot-v0 mean 'x right'; valid: 'x,y,z"):
        describe_source(dot, RecordConfig(scenes=4, views=2, env="dots:Dot-v0"))


def test_a_pose_is_five_numbers_and_no_more() -> None:
    dot = Dot()
    dot.new_scene(np.random.default_rng(0))
    with pytest.raises(UserError, match=r"a camera pose of Dot is none: it is of shape \(1, 5\), must be \(5,\)"):
        look(dot, [np.zeros((1, POSE_SIZE), np.float32)] * 2)


def test_unknown_factors_and_groups_name_the_valid_ones(recording: Path) -> None:
    source = make_arm(CONFIG.env, CONFIG.env_kwargs)
    wrong = CONFIG.model_copy(update={"block": BlockPlan(rows="leg", height=2)})
    with pytest.raises(UserError, match="no factor 'leg'; valid: target, arm, appearance"):
        describe_source(source, wrong)
    with pytest.raises(ValueError, match="hand, target, offset"):
        SceneDataset(recording).state_group("elbow")
    with pytest.raises(ValueError, match="name of the factor"):
        BlockPlan(height=2)
    with pytest.raises(ValueError, match="must be two factors"):
        BlockPlan(rows="arm", columns="arm", height=2)


# Families ---------------------------------------------------------------------------------------------------------

FAMILIES = BlockPlan(rows="target", columns="arm", height=4, width=6, family=2)


def states(block: BlockPlan, blocks: int, source: SceneSource | None = None) -> dict[str, NDArray[np.float32]]:
    """Where target and hand are in every scene: (blocks, height, width, 3) each."""
    source = source or make_arm(CONFIG.env, CONFIG.env_kwargs)
    found = []
    for scene in range(blocks * block.size):
        set_scene(source, block, CONFIG.seed, scene)
        found.append(source.state().copy())
    grid = np.stack(found).reshape(blocks, block.height, block.width, -1)
    return {name: grid[..., source.state_groups[name]] for name in ("target", "hand")}


def test_the_first_of_each_family_is_what_it_would_be_without_families() -> None:
    with_families, without = (states(block, 3) for block in (FAMILIES, FAMILIES.model_copy(update={"family": 1})))
    for name, rows, columns in (("target", slice(0, None, 2), slice(None)), ("hand", slice(None), slice(0, None, 2))):
        assert np.array_equal(with_families[name][:, rows, columns], without[name][:, rows, columns])
        assert not np.array_equal(with_families[name], without[name])


def test_rows_and_columns_still_share_their_factor() -> None:
    found = states(FAMILIES, 3)
    assert np.array_equal(found["target"], np.broadcast_to(found["target"][:, :, :1], found["target"].shape))
    assert np.array_equal(found["hand"], np.broadcast_to(found["hand"][:, :1], found["hand"].shape))


def test_members_of_a_family_differ_but_less_than_strangers() -> None:
    found = states(FAMILIES, 40)
    for places in (found["target"][:, :, 0], found["hand"][:, 0]):  # (blocks, draws, 3)
        relatives = np.linalg.norm(places[:, 1::2] - places[:, ::2], axis=-1)
        strangers = np.linalg.norm(places[:, 2::2] - places[:, :-2:2], axis=-1)
        assert relatives.min() > 0
        assert 0.1 * strangers.mean() < relatives.mean() < 0.8 * strangers.mean()


def test_a_scene_of_a_family_depends_on_the_seed_and_its_number_alone() -> None:
    """In any order, on a source that has been elsewhere, and with another seed another."""
    source = make_arm(CONFIG.env, CONFIG.env_kwargs)
    scenes = np.random.default_rng(0).permutation(2 * FAMILIES.size)
    shuffled = {}
    for scene in scenes:
        source.new_scene(np.random.default_rng(int(scene)))
        set_scene(source, FAMILIES, CONFIG.seed, int(scene))
        shuffled[int(scene)] = source.state().copy()
    fresh = make_arm(CONFIG.env, CONFIG.env_kwargs)
    for scene in sorted(shuffled):
        set_scene(fresh, FAMILIES, CONFIG.seed, scene)
        np.testing.assert_array_equal(fresh.state(), shuffled[scene])
        set_scene(fresh, FAMILIES, CONFIG.seed + 1, scene)
        assert not np.array_equal(fresh.state(), shuffled[scene])


class Dot:
    """The least that is a scene source: a place, and nothing that perturbs it."""

    scene_factors = ("place",)
    state_groups = {"place": slice(0, 1)}  # noqa: RUF012
    camera_metadata = {"convention": CONVENTION, "fovy": 45.0, "image_size": (8, 8), "renderer": "none"}  # noqa: RUF012

    def draw_factor(self, factor: str, rng: np.random.Generator) -> None:
        self.place = rng.uniform()

    def new_scene(self, rng: np.random.Generator) -> None:
        self.draw_factor("place", rng)

    def sample_pose(self, rng: np.random.Generator) -> Pose:
        return np.zeros(POSE_SIZE, np.float32)

    def render_view(self, pose: Pose) -> Image:
        return np.full((8, 8, 3), 255 * self.place, np.uint8)

    def state(self) -> NDArray[np.float32]:
        return np.array([getattr(self, "place", 0.0)], np.float32)


def test_families_need_a_source_that_can_perturb() -> None:
    dot = Dot()
    assert isinstance(dot, SceneSource)
    assert not isinstance(dot, Perturbable)
    config = RecordConfig(scenes=4, views=2, env="dots:Dot-v0", block=BlockPlan(rows="place", height=2))
    assert describe_source(dot, config).state_size == 1
    families = config.model_copy(update={"block": BlockPlan(rows="place", height=2, family=2)})
    with pytest.raises(UserError, match=r"block.family is 2, but dots:Dot-v0 has no method perturb_factor"):
        describe_source(dot, families)
    arm = make_arm(CONFIG.env, CONFIG.env_kwargs)
    assert isinstance(arm, Perturbable)
    assert describe_source(arm, CONFIG.model_copy(update={"block": FAMILIES})).config["block"]["family"] == 2


def test_a_family_has_members() -> None:
    with pytest.raises(UserError, match="family"):
        BlockPlan.from_mapping({"family": 0})
    with pytest.raises(UserError, match="a family of 4 needs a block of several rows or columns"):
        BlockPlan.from_mapping({"family": 4, "rows": "place"})


def test_photographs_in_memory_depend_on_the_seed_alone() -> None:
    source = make_arm(CONFIG.env, CONFIG.env_kwargs)
    first, states = photograph(source, 5, 3, 2, source.sample_pose)
    again, same = photograph(source, 5, 3, 2, source.sample_pose)
    assert first.images.shape == (3, 2, 16, 16, 3)
    assert all(np.array_equal(a, b) for a, b in zip((*first, states), (*again, same), strict=True))


@given(
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 40),
)
def test_sampled_scenes_are_distinct_parts_of_distinct_blocks(
    seed: int, height: int, width: int, rows: int, columns: int, batch: int
) -> None:
    block = BlockPlan(rows="target", columns="arm", height=height, width=width)
    chosen = sample_scenes(np.random.default_rng(seed), 60 * block.size, block, batch, (rows, columns))
    assert len(np.unique(chosen)) == batch == len(chosen)
    assert chosen.min() >= 0
    assert chosen.max() < 60 * block.size
    rows, columns = min(rows, height), min(columns, width)
    size = rows * columns
    parts = chosen[: batch // size * size].reshape(-1, size)
    numbers, places = np.divmod(parts, block.size)
    assert (numbers == numbers[:, :1]).all()
    assert len(np.unique(numbers[:, 0])) == len(parts)
    for part in places:
        assert len(np.unique(part // width)) == rows
        assert len(np.unique(part % width)) == columns


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3))
def test_a_query_is_never_among_its_context(seed: int, context: int, query: int) -> None:
    seen, asked = split_views(np.random.default_rng(seed), 20, 7, context, query)
    assert seen.shape == (20, context)
    assert asked.shape == (20, query)
    for row in np.concatenate([seen, asked], axis=1):
        assert len(set(row)) == context + query


def test_too_few_views_are_refused() -> None:
    with pytest.raises(ValueError, match="need 4 views, scenes have 3"):
        split_views(np.random.default_rng(0), 2, 3, 3, 1)


def test_poses_of_a_recording_depend_on_its_seed_and_the_scene_as_a_probe_s_do(recording: Path) -> None:
    data, source = SceneDataset(recording), make_arm(CONFIG.env, CONFIG.env_kwargs)
    for scene in (0, 5, 77):
        set_scene(source, BLOCK, CONFIG.seed, scene)
        rng = np.random.default_rng([CONFIG.seed, scene, 1])
        np.testing.assert_array_equal(data.poses[scene], [source.sample_pose(rng) for _ in range(data.views)])


def test_the_hash_is_of_images_poses_and_states(recording: Path, tmp_path: Path) -> None:
    hashes = {SceneDataset(recording).manifest.sha256}
    for name in ("images", "poses", "states"):
        copy = shutil.copytree(recording, tmp_path / name)
        array: NDArray[Any] = np.load(copy / f"{name}.npy")
        array.flat[-1] += 1
        np.save(copy / f"{name}.npy", array)
        hashes.add(finish_recording(copy).sha256)
    assert len(hashes) == 4
