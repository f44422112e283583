"""The published datasets: what is converted is what was published, whatever happens on the way."""

from __future__ import annotations

import io
import shutil
import sys
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gqn_rl.cameras import CONVENTION, axes, look_at
from gqn_rl.config import UserError
from gqn_rl.data import CHUNK, Manifest, SceneDataset, load_manifest, missing_chunks
from gqn_rl.deepmind import (
    DEFAULT_FRAMES,
    LAYOUTS,
    SPLITS,
    convert,
    default_scenes,
    open_deepmind,
    parse_spec,
    to_poses,
)
from gqn_rl.pretraining import PretrainConfig, Pretraining

tfrecord = pytest.importorskip("tfrecord", reason="needs the extra `deepmind`")
RING = "rooms_ring_camera"
SMALL = (16, 16)
#: Cameras of two scenes of shepard_metzler_5_parts, as published.
PUBLISHED = np.array(
    [
        [-1.2373254, 1.0236045, -2.9210222, 0.6911504, 1.0681415],
        [0.3930787, -3.1115386, -1.1291262, 4.586725, 0.3455752],
        [-2.2773209, -0.1432767, -2.429895, 6.2203536, 0.8168141],
        [-2.8465161, 0.3595985, 1.6968045, 0.1256638, -0.5340707],
        [0.8697056, -0.5519319, 3.1701887, 3.7070794, -1.2566371],
        [0.1693286, -0.1230244, -3.3267558, 3.7699113, 1.5079645],
    ],
    np.float32,
)


def picture(size: int, seed: int) -> NDArray[np.uint8]:
    """A smooth picture, which JPEG hardly changes, that no other seed gives."""
    rng = np.random.default_rng(seed)
    return np.asarray(
        Image.fromarray(rng.integers(40, 215, (3, 3, 3), dtype=np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    )


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=98, subsampling=0)
    return file.getvalue()


def stored_cameras(name: str, seed: int) -> NDArray[np.float32]:
    """Cameras (V, 5) that face the centre, as the set ``name`` would store them."""
    layout = LAYOUTS[name]
    rng = np.random.default_rng(seed)
    poses = np.stack([look_at(rng.normal(size=3), np.zeros(3)) for _ in range(layout.views)])
    yaw = (poses[:, 3].astype(np.float64) - layout.yaw_offset) / layout.yaw_sign
    poses[:, 3] = (yaw + np.pi) % (2 * np.pi) - np.pi
    return poses


class Published:
    """A published split on disk, written by the library that others use, and what went into it."""

    def __init__(self, root: Path, name: str, scenes: int, per_file: int = 50, split: str = "train") -> None:
        self.root, self.name, self.per_file = root, name, per_file
        self.folder = root / name / split
        self.folder.mkdir(parents=True)
        layout = LAYOUTS[name]
        self.cameras = np.stack([stored_cameras(name, scene) for scene in range(scenes)])
        few = [jpeg(picture(layout.frame_size, seed)) for seed in range(97)]  # encoding is slow
        files = -(-scenes // per_file)
        for file in range(files):
            writer = tfrecord.TFRecordWriter(str(self.folder / f"{file + 1:04d}-of-{files:04d}.tfrecord"))
            for scene in range(file * per_file, min((file + 1) * per_file, scenes)):
                frames = [few[self.seed(scene, view)] for view in range(layout.views)]
                writer.write({"frames": (frames, "byte"), "cameras": (self.cameras[scene].ravel(), "float")})
            writer.close()

    @staticmethod
    def seed(scene: int, view: int) -> int:
        return (13 * scene + view) % 97

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.tfrecord"))

    def convert(self, folder: Path, scenes: int, progress: Any = lambda scenes: None, size: int = 16) -> Manifest:
        return convert(self.name, self.root, "train", scenes, folder, progress, (size, size))


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return Published(tmp_path_factory.mktemp("published"), RING, 2 * CHUNK + 20)


@pytest.fixture
def own(ring: Published, tmp_path: Path) -> Published:
    """A copy to damage."""
    shutil.copytree(ring.root, tmp_path / "published")
    copy = object.__new__(Published)
    copy.__dict__.update({**ring.__dict__, "root": tmp_path / "published"})
    copy.folder = copy.root / RING / "train"
    return copy


def rewrite(path: Path, **features: tuple[Any, str]) -> None:
    """Make ``path`` a file of one record."""
    writer = tfrecord.TFRecordWriter(str(path))
    writer.write(features)
    writer.close()


def record_offset(path: Path, number: int) -> int:
    """Where record ``number``, counted from 1, begins."""
    content, offset = path.read_bytes(), 0
    for _ in range(number - 1):
        offset += 16 + int.from_bytes(content[offset : offset + 8], "little")
    return offset


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


# What is converted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_set_comes_out_as_it_was_published(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    source = Published(tmp_path / "published", name, 5, per_file=2)
    manifest = source.convert(tmp_path / "recording", 5, size=layout.frame_size)
    data = SceneDataset(tmp_path / "recording")
    assert data.images.shape == (5, layout.views, layout.frame_size, layout.frame_size, 3)
    assert data.views == layout.views
    assert data.block.size == 1
    assert manifest.state_groups == {}
    assert manifest.config["env"] == f"deepmind:{name}"
    assert data.camera == {
        "convention": CONVENTION,
        "fovy": layout.fovy,
        "image_size": [layout.frame_size] * 2,
        "renderer": "deepmind/gqn-datasets",
    }
    for scene, view in ((0, 0), (1, layout.views - 1), (2, 3), (4, 1)):
        truth = picture(layout.frame_size, source.seed(scene, view)).astype(float)
        assert np.abs(data.images[scene, view] - truth).mean() < 2
    np.testing.assert_array_equal(data.poses, to_poses(name, source.cameras))


@pytest.mark.parametrize(("name", "size"), [("mazes", 64), (RING, 16), (RING, 32), ("jaco", 128)])
def test_resized_frames_are_of_the_same_picture(name: str, size: int, tmp_path: Path) -> None:
    source = Published(tmp_path / "published", name, 1)
    source.convert(tmp_path / "recording", 1, size=size)
    data = SceneDataset(tmp_path / "recording")
    assert data.camera["image_size"] == [size, size]
    for view in (0, 5):
        large = Image.fromarray(picture(LAYOUTS[name].frame_size, source.seed(0, view)))
        truth = np.asarray(large.resize((size, size), Image.Resampling.BILINEAR)).astype(float)
        assert np.abs(data.images[0, view] - truth).mean() < 2


def test_frames_and_cameras_stay_together_over_files_and_chunks(ring: Published, tmp_path: Path) -> None:
    scenes = len(ring.cameras)
    ring.convert(tmp_path / "recording", scenes)
    data = SceneDataset(tmp_path / "recording")
    np.testing.assert_array_equal(data.poses, to_poses(RING, ring.cameras))
    colours = np.stack([picture(64, seed).mean((0, 1)) for seed in range(97)])
    found = data.images.mean((2, 3))
    expected = colours[[[ring.seed(scene, view) for view in range(10)] for scene in range(scenes)]]
    assert np.abs(found - expected).max() < 3
    assert np.abs(found - np.roll(expected, 1, axis=0)).mean() > 10  # the next scene's would not do


def test_the_first_scenes_are_the_same_however_many_are_taken(ring: Published, tmp_path: Path) -> None:
    for scenes in (1, CHUNK, CHUNK + 1):
        ring.convert(tmp_path / str(scenes), scenes)
    few, many = (SceneDataset(tmp_path / str(n)) for n in (CHUNK, CHUNK + 1))
    np.testing.assert_array_equal(few.images, many.images[:CHUNK])
    np.testing.assert_array_equal(few.poses, many.poses[:CHUNK])


def test_the_test_split_is_another(tmp_path: Path) -> None:
    source = Published(tmp_path / "published", RING, 3, split="test")
    assert convert(RING, source.root, "test", 3, tmp_path / "recording", lambda scenes: None, SMALL).complete
    with pytest.raises(UserError, match=rf"no folder .*{RING}/train"):
        source.convert(tmp_path / "other", 3)


# Cameras ------------------------------------------------------------------------------------------------------


def test_published_cameras_that_face_the_centre_do_so_here() -> None:
    poses = to_poses("shepard_metzler_5_parts", PUBLISHED)
    forward, _, _ = axes(poses)
    np.testing.assert_allclose(poses[:, :3], -10 / 3 * forward, atol=2e-6)
    np.testing.assert_array_equal(poses[:, :3], PUBLISHED[:, :3])


def test_ring_cameras_look_at_the_centre(ring: Published, tmp_path: Path) -> None:
    """A camera at azimuth a whose yaw is a + 180 degrees, as STR-GQN's demo drives it."""
    azimuth = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    zeros = np.zeros(10)
    poses = to_poses(RING, np.stack([np.cos(azimuth), np.sin(azimuth), zeros, azimuth + np.pi, zeros], axis=1))
    np.testing.assert_allclose(axes(poses)[0], -poses[:, :3], atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ring.convert(tmp_path / "recording", 3)


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_where_a_camera_looks_survives_the_way_there_and_back(name: str, seed: int) -> None:
    poses = to_poses(name, stored_cameras(name, seed))
    forward, right, _ = axes(poses)
    towards = -poses[:, :3] / np.linalg.norm(poses[:, :3], axis=1, keepdims=True)
    np.testing.assert_allclose(forward, towards, atol=1e-5)
    # A larger yaw turns a camera to its left, or to its right where the set counts clockwise.
    turned = stored_cameras(name, seed)
    turned[:, 3] += 0.1
    assert (np.sign((axes(to_poses(name, turned))[0] * right).sum(1)) == -LAYOUTS[name].yaw_sign).all()


def test_cameras_that_should_face_the_centre_and_do_not_are_noticed(tmp_path: Path) -> None:
    source = Published(tmp_path / "published", RING, 1)
    cameras = source.cameras[0].copy()
    cameras[:, 3] *= -1
    rewrite(source.files[0], frames=([jpeg(picture(64, 0))] * 10, "byte"), cameras=(cameras.ravel(), "float"))
    with pytest.warns(UserWarning, match=f"the cameras of {RING} do not face the centre"):
        source.convert(tmp_path / "recording", 1)


def test_poses_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="5 numbers"):
        to_poses("jaco", np.zeros((3, 7)))


# Stopped, and gone on -----------------------------------------------------------------------------------------


def test_interrupted_anywhere_it_ends_the_same(ring: Published, tmp_path: Path) -> None:
    scenes = len(ring.cameras)
    counted: list[int] = []
    whole = ring.convert(tmp_path / "whole", scenes, counted.append)
    assert counted == [0, CHUNK, CHUNK, 20]

    for remaining in ([1, 2], [2]):
        said: list[int] = []

        def stop_after_a_chunk(scenes: int, said: list[int] = said) -> None:
            said.append(scenes)
            if len(said) == 2:  # the first is what was there already
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ring.convert(tmp_path / "stopped", scenes, stop_after_a_chunk)
        assert missing_chunks(tmp_path / "stopped") == remaining
        with pytest.raises(UserError, match="unfinished"):
            SceneDataset(tmp_path / "stopped")
    counted.clear()
    assert ring.convert(tmp_path / "stopped", scenes, counted.append).sha256 == whole.sha256
    assert counted == [2 * CHUNK, 20]
    counted.clear()
    assert ring.convert(tmp_path / "stopped", scenes, counted.append) == whole
    assert counted == []


def test_a_damaged_record_costs_nothing_that_was_converted(own: Published, tmp_path: Path) -> None:
    whole = own.convert(tmp_path / "whole", 120)
    flip(own.files[1], record_offset(own.files[1], 31) + 5_000)  # scene 80, in the second chunk
    with pytest.raises(UserError, match=r"record 31 of .*0002-of-0003.tfrecord is corrupt: its data do not match"):
        own.convert(tmp_path / "again", 120)
    assert missing_chunks(tmp_path / "again") == [1]
    flip(own.files[1], record_offset(own.files[1], 31) + 5_000)
    assert own.convert(tmp_path / "again", 120).sha256 == whole.sha256


def test_it_does_not_go_on_with_other_files(own: Published, tmp_path: Path) -> None:
    flip(own.files[1], record_offset(own.files[1], 31) + 5_000)
    with pytest.raises(UserError, match="corrupt"):
        own.convert(tmp_path / "recording", 120)
    own.files[0].rename(own.folder / "9999.tfrecord")
    with pytest.raises(UserError, match="made from other files or settings; delete it"):
        own.convert(tmp_path / "recording", 60)
    with pytest.raises(UserError, match="made from other files or settings; delete it"):
        own.convert(tmp_path / "recording", 60, size=8)


def test_memory_does_not_grow_with_the_scenes(ring: Published, tmp_path: Path) -> None:
    def peak(scenes: int) -> int:
        tracemalloc.start()
        ring.convert(tmp_path / str(scenes), scenes)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)  # what is imported and cached the first time
    assert peak(len(ring.cameras)) < 1.2 * peak(CHUNK)


# Opened by name -----------------------------------------------------------------------------------------------


def test_opened_by_name_it_is_converted_once(own: Published, tmp_path: Path) -> None:
    spec, cache = f"deepmind:{RING}:{own.root}", tmp_path / "cache"
    counted: list[int] = []
    data = open_deepmind(spec, cache, 70, counted.append, SMALL)
    assert sum(counted) == len(data) == 70
    assert data.folder.parent == cache
    shutil.rmtree(own.root)  # the TFRecords may go
    counted.clear()
    again = open_deepmind(spec, cache, 70, counted.append, SMALL)
    assert again.manifest == data.manifest
    assert counted == []
    with pytest.raises(UserError, match="no folder"):
        open_deepmind(spec, cache, 71, counted.append, SMALL)


def test_opened_from_other_files_it_says_so(own: Published, tmp_path: Path) -> None:
    spec, cache = f"deepmind:{RING}:{own.root}", tmp_path / "cache"
    data = open_deepmind(spec, cache, 5, lambda scenes: None, SMALL)
    own.files[-1].unlink()  # not one of those that the first five scenes are of
    assert open_deepmind(spec, cache, 5, lambda scenes: None, SMALL).manifest == data.manifest
    own.files[0].write_bytes(own.files[0].read_bytes() + b" ")
    with pytest.raises(UserError, match=rf"was made from other files than .*{RING} has; delete it to convert these"):
        open_deepmind(spec, cache, 5, lambda scenes: None, SMALL)


def test_sizes_and_numbers_of_scenes_are_kept_apart(ring: Published, tmp_path: Path) -> None:
    spec = f"deepmind:{RING}:{ring.root}"
    opened = [
        open_deepmind(spec, tmp_path, scenes, lambda scenes: None, size)
        for scenes, size in ((5, SMALL), (6, SMALL), (5, (8, 8)))
    ]
    assert [data.images.shape[:3] for data in opened] == [(5, 10, 16), (6, 10, 16), (5, 10, 8)]
    assert len({data.folder for data in opened}) == 3
    with pytest.raises(UserError, match="holds 148 scenes, not 149"):
        open_deepmind(spec, tmp_path, 149, lambda scenes: None, SMALL)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3


def test_two_at_once_convert_it_once(ring: Published, tmp_path: Path) -> None:
    scenes = len(ring.cameras)
    counted: list[list[int]] = [[], []]

    def work(number: int) -> str:
        spec = f"deepmind:{RING}:{ring.root}"
        return open_deepmind(spec, tmp_path, scenes, counted[number].append, SMALL).manifest.sha256

    with ThreadPoolExecutor(2) as pool:  # each opens the lock anew, so threads exclude each other as processes do
        first, second = pool.map(work, range(2))
    assert first == second
    assert sorted(map(sum, counted)) == [0, scenes]


def test_specs_say_set_and_place() -> None:
    assert parse_spec("deepmind:jaco:/data/gqn") == ("jaco", Path("/data/gqn"))
    assert parse_spec("deepmind:mazes:C:/gqn") == ("mazes", Path("C:/gqn"))
    for name, layout in LAYOUTS.items():
        assert 0 <= DEFAULT_FRAMES - default_scenes(name) * layout.views < layout.views


def test_pretraining_runs_on_a_converted_set(tmp_path: Path) -> None:
    source = Published(tmp_path / "published", "jaco", 48)
    data = open_deepmind(f"deepmind:jaco:{source.root}", tmp_path / "cache", 48, lambda scenes: None, SMALL)
    model = {
        "image_size": SMALL,
        "fovy": LAYOUTS["jaco"].fovy,
        "representation": {"channels": 16, "width": 16, "heads": 2, "token_channels": 16},
        "generator": {"channels": 8, "steps": 2, "canvas_channels": 16, "mixing_channels": 8},
    }
    config = PretrainConfig.from_mapping({"model": model, "steps": 2, "batch": 16, "drawn": 8, "held_out": 16})
    pretraining = Pretraining(config, data)
    losses = [float(step.losses.total) for step in pretraining.steps()]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    evaluation = pretraining.evaluate(probe_scenes=16)
    assert evaluation.probes == {}  # nothing is known of these scenes
    assert evaluation.mean_image_mse > 0


# What cannot be converted -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("deepmind:rooms:/data", f"unknown dataset 'rooms'; DeepMind published {', '.join(LAYOUTS)}"),
        ("deepmind:jaco", "is no published dataset; write deepmind:NAME:/path, NAME one of jaco, mazes"),
        ("deepmind:jaco:", "is no published dataset"),
        ("data/jaco", "is no published dataset"),
        ("deepmind:jaco:~nobody-of-that-name/x", "'deepmind:jaco:~nobody-of-that-name/x': Could not determine home"),
    ],
)
def test_specs_that_are_none_are_refused(spec: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        open_deepmind(spec, tmp_path / "cache", 1, lambda scenes: None)
    assert words in str(refusal.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"root": Path("/nowhere")}, rf"no folder /nowhere/{RING}/train; the root .* holds {RING}/train/\*.tfrecord"),
        ({"split": "valid"}, "unknown split 'valid'; valid: train, test"),
        ({"split": "test"}, "test"),
        ({"scenes": 0}, "scenes must be at least 1, got 0"),
        ({"scenes": 149}, r"train holds 148 scenes, not 149; download more of the set, or ask for fewer"),
        ({"image_size": (64, 48)}, r"image_size must be, got \(64, 48\)"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(
    change: dict[str, Any], words: str, ring: Published, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"root": ring.root, "split": "train", "scenes": 3, "image_size": SMALL}
    with pytest.raises(UserError, match=words):
        convert(RING, folder=tmp_path / "recording", progress=lambda scenes: None, **{**arguments, **change})
    assert not (tmp_path / "recording").exists()


def test_a_folder_without_tfrecords_says_so(tmp_path: Path) -> None:
    folder = tmp_path / RING / SPLITS[0]
    folder.mkdir(parents=True)
    (folder / "0001-of-2160.tfrecord_.gstmp").write_bytes(b"half a download")
    with pytest.raises(UserError, match=r"train has no \*.tfrecord files"):
        convert(RING, tmp_path, "train", 1, tmp_path / "recording", lambda scenes: None)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: flip(path, record_offset(path, 3)), r"record 3 of .*0002.* its length does not match"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), r"record 50 of .*0002.* the file is cut short"),
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), r"record 51 of .*0002.* its length does not"),
        (lambda path: path.write_text("<html>404</html>"), r"record 1 of .*0002.* its length does not match"),
    ],
)
def test_damaged_framing_is_found_before_any_work(damage: Any, words: str, own: Published, tmp_path: Path) -> None:
    damage(own.files[1])
    with pytest.raises(UserError, match=words):
        own.convert(tmp_path / "recording", 140)
    assert not (tmp_path / "recording").exists()


@pytest.mark.parametrize(
    ("frames", "numbers", "words"),
    [
        (9, 50, f"record 1 of .* has 9 frames and 50 camera numbers; a scene of {RING} has 10 and 50"),
        (10, 49, "has 10 frames and 49 camera numbers"),
        (0, 0, "has 0 frames and 0 camera numbers"),
    ],
)
def test_scenes_of_another_shape_are_refused(frames: int, numbers: int, words: str, tmp_path: Path) -> None:
    source = Published(tmp_path / "published", RING, 1)
    rewrite(
        source.files[0],
        frames=([jpeg(picture(64, 0))] * frames, "byte"),
        cameras=(np.zeros(numbers, np.float32), "float"),
    )
    with pytest.raises(UserError, match=words):
        source.convert(tmp_path / "recording", 1)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (jpeg(picture(84, 0)), "frame 3 of record 1 of .* has 84x84 pixels, not 64x64"),
        (jpeg(picture(64, 0))[:400], "record 1 of .* is corrupt: frame 3 cannot be decoded"),
        (b"no picture", "record 1 of .* is corrupt: frame 3 cannot be decoded"),
    ],
)
def test_frames_that_are_none_are_refused(frame: bytes, words: str, tmp_path: Path) -> None:
    source = Published(tmp_path / "published", RING, 1)
    frames = [jpeg(picture(64, 0))] * 10
    frames[2] = frame
    rewrite(source.files[0], frames=(frames, "byte"), cameras=(source.cameras[0].ravel(), "float"))
    with pytest.raises(UserError, match=words):
        source.convert(tmp_path / "recording", 1)


def test_records_of_something_else_are_refused(tmp_path: Path) -> None:
    source = Published(tmp_path / "published", RING, 1)
    cameras = source.cameras[0].copy()
    cameras[4, 1] = np.nan
    rewrite(source.files[0], frames=([jpeg(picture(64, 0))] * 10, "byte"), cameras=(cameras.ravel(), "float"))
    with pytest.raises(UserError, match=r"record 1 of .* is corrupt: a camera has a number that is not finite"):
        source.convert(tmp_path / "recording", 1)
    cameras[4] = [0, 0, 0, 0, 2]
    rewrite(source.files[0], frames=([jpeg(picture(64, 0))] * 10, "byte"), cameras=(cameras.ravel(), "float"))
    with pytest.raises(UserError, match=r"record 1 of .* is corrupt: a camera's pitch is between"):
        source.convert(tmp_path / "tilted", 1)
    text = b"no protocol buffer"
    length = len(text).to_bytes(8, "little")
    crc = tfrecord.TFRecordWriter.masked_crc
    source.files[0].write_bytes(length + crc(length) + text + crc(text))
    with pytest.raises(UserError, match=r"record 1 of .* is corrupt: it is no tf.train.Example"):
        source.convert(tmp_path / "other", 1)


def test_a_recording_of_something_else_is_left_alone(ring: Published, tmp_path: Path) -> None:
    Published(tmp_path / "published", "jaco", 2).convert(tmp_path / "recording", 2)
    before = load_manifest(tmp_path / "recording")
    with pytest.raises(UserError, match="made from other files or settings"):
        ring.convert(tmp_path / "recording", 2)
    assert load_manifest(tmp_path / "recording") == before


def test_without_the_library_the_extra_is_named(
    ring: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = f"deepmind:{RING}:{ring.root}"
    open_deepmind(spec, tmp_path, 2, lambda scenes: None, SMALL)
    monkeypatch.setitem(sys.modules, "tfrecord", None)
    with pytest.raises(UserError, match=r"the extra `deepmind` is needed: pip install 'gqn-rl\[deepmind\]'"):
        open_deepmind(spec, tmp_path, 3, lambda scenes: None, SMALL)
    assert len(open_deepmind(spec, tmp_path, 2, lambda scenes: None, SMALL)) == 2  # converted before
