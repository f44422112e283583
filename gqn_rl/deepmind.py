"""DeepMind's published GQN datasets, converted once into the recording format that pretraining reads.

The seven sets of https://github.com/google-deepmind/gqn-datasets are TFRecord files under
``<root>/<name>/{train,test}/``. A record is one scene: ``frames``, a JPEG for each view, and ``cameras``, five numbers
for each view. TFRecords can only be read from front to back, and training takes scenes at random, so :func:`convert`
streams the first scenes into a folder of the layout of :mod:`gqn_rl.data`, from which training reads through memory
maps. Published scenes have no ground truth (no state groups) and share no factors (blocks of one scene).

Records are parsed by the messages of the package ``tfrecord`` (extra ``deepmind``): it needs numpy, protobuf and
crc32c, and no TensorFlow; others pin an old protobuf or have not seen a release for longer. Its own iterator skips the
checksums and cannot begin in the middle of a file, so the framing is read here. The layout of a file is TensorFlow's
(``tensorflow/core/lib/io/record_writer.h``): length (uint64, little-endian), its masked CRC-32C, data, its masked CRC.

What the five camera numbers mean, and the field of view, is nowhere documented. :data:`LAYOUTS` says where each value
comes from.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import io
import json
import math
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from gqn_rl.cameras import CONVENTION, check_poses
from gqn_rl.config import UserError
from gqn_rl.data import (
    CHUNK,
    Manifest,
    RecordConfig,
    SceneDataset,
    finish_recording,
    load_manifest,
    missing_chunks,
    open_arrays,
    open_recording,
)
from gqn_rl.files import disk_errors
from gqn_rl.types import POSE_SIZE

#: What a dataset of DeepMind's begins with: ``deepmind:NAME:/path/to/root``.
PREFIX: Final = "deepmind:"
#: Folders of a published set.
SPLITS: Final = ("train", "test")
#: Frames converted unless told otherwise: 2.9 GB at 64 x 64.
DEFAULT_FRAMES: Final = 240_000
#: Part of a cache folder's name; bump it when a pose or a field of view in LAYOUTS changes.
VERSION: Final = 1
#: Bytes of a record around its data: length and its checksum before, a checksum after.
_BEFORE, _AFTER = 12, 4


@dataclass(frozen=True)
class Layout:
    """One published set: its sizes (DeepMind's ``data_reader.py``) and what its cameras mean.

    Positions are right-handed with z up, and the pitch is above the horizon, in all sets that could be looked at.
    The yaw is not the same in all: ``yaw_sign * yaw + yaw_offset`` is the yaw of :mod:`gqn_rl.cameras`.
    """

    views: int  #: of each scene
    frame_size: int  #: height and width in pixels
    fovy: float  #: vertical field of view, degrees
    yaw_sign: int = 1
    yaw_offset: float = 0.0  #: radians
    faces_centre: bool = False  #: every camera looks at the z axis


#: DeepMind says no more than that ring cameras face the centre. The rest was found out:
#:
#: - Shepard-Metzler: two scenes that https://github.com/mwufi/pytorch-gqn has in ``data/dummy``. All 30 cameras stand
#:   10/3 from the origin and face it if the sign of the yaw is turned, not as stored. (They would with y mirrored, but
#:   then the silhouettes contradict each other.) Cubes fitted to all views agree best at 20 degrees, a little less at
#:   16 and 24.
#: - mazes: scenes in ``data_samples`` of https://github.com/jaks19/scene-generation-from-novel-viewpoints-gens. Frames
#:   of a camera that turns on the spot warp into each other at 90 degrees (DeepMind Lab's default), clearly worse at 85
#:   and 95; it moves to where the yaw as stored points.
#: - rooms: 50 degrees in Tobin et al.'s reader (https://github.com/josh-tobin/egqn-datasets; NeurIPS 2019, a geometric
#:   method); the vanishing points of walls in STR-GQN's figure (ICCV 2021) give 48 to 50. Yaws are as in the demo of
#:   https://github.com/jerrywiston/Spatial-Transformation-Routing-Generative-Query-Network: on the ring as stored, free
#:   cameras backwards, which is what its ``view_inverse`` seems to be for. Not checked on the data.
#: - jaco: 50 degrees in Tobin et al.'s reader; the yaw is taken as stored. Not checked on the data.
LAYOUTS: Final[Mapping[str, Layout]] = {
    "jaco": Layout(views=11, frame_size=64, fovy=50.0),
    "mazes": Layout(views=300, frame_size=84, fovy=90.0),
    "rooms_free_camera_no_object_rotations": Layout(views=10, frame_size=64, fovy=50.0, yaw_offset=math.pi),
    "rooms_free_camera_with_object_rotations": Layout(views=10, frame_size=128, fovy=50.0, yaw_offset=math.pi),
    "rooms_ring_camera": Layout(views=10, frame_size=64, fovy=50.0, faces_centre=True),
    "shepard_metzler_5_parts": Layout(views=15, frame_size=64, fovy=20.0, yaw_sign=-1, faces_centre=True),
    "shepard_metzler_7_parts": Layout(views=15, frame_size=64, fovy=20.0, yaw_sign=-1, faces_centre=True),
}


def parse_spec(spec: str) -> tuple[str, Path]:
    """``deepmind:NAME:/path/to/root`` to name and root; :class:`UserError` lists the names that there are."""
    name, colon, root = spec.removeprefix(PREFIX).partition(":")
    if not spec.startswith(PREFIX) or not colon or not root:
        raise UserError(f"{spec!r} is no published dataset; write {PREFIX}NAME:/path, NAME one of {', '.join(LAYOUTS)}")
    find_layout(name)
    try:
        return name, Path(root).expanduser()
    except RuntimeError as error:  # nobody of that name
        raise UserError(f"{spec!r}: {error}") from None


def find_layout(name: str) -> Layout:
    """The layout of the set ``name``; :class:`UserError` lists the names that there are."""
    if name not in LAYOUTS:
        raise UserError(f"unknown dataset {name!r}; DeepMind published {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def default_scenes(name: str) -> int:
    """How many scenes of the set ``name`` are :data:`DEFAULT_FRAMES` frames."""
    return DEFAULT_FRAMES // find_layout(name).views


def to_poses(name: str, cameras: ArrayLike) -> NDArray[np.float32]:
    """Camera poses (..., 5) in the convention of :mod:`gqn_rl.cameras` from the set's ``cameras`` (..., 5).

    Positions stay as they are: one published unit counts as one metre. Raises ``ValueError`` for another shape or a
    number that is not finite, and for a pitch beyond straight up or down.
    """
    layout = find_layout(name)
    poses = check_poses(cameras).astype(np.float64)
    poses[..., 3] = layout.yaw_sign * poses[..., 3] + layout.yaw_offset
    return poses.astype(np.float32)


def open_deepmind(
    spec: str,
    cache_root: Path,
    scenes: int | None,
    progress: Callable[[int], object],
    image_size: tuple[int, int] = (64, 64),
) -> SceneDataset:
    """The training scenes of ``deepmind:NAME:/path/to/root``, converted on first use.

    The recording's folder lies in ``cache_root`` and is named after the set, the number of scenes and the image size.
    Once it is finished, the TFRecords are not read again, and need not be there; any that are must be those that it was
    made from. A conversion that was stopped goes on; a process that finds another at it waits.

    Args:
        spec: which set, and where it lies.
        cache_root: where recordings go.
        scenes: how many; None for :func:`default_scenes`.
        progress: called with the number of scenes just converted, at first with those there already.
        image_size: height and width; see :func:`convert`.

    Raises:
        UserError: as :func:`convert`, or the cache cannot be written.
    """
    name, root = parse_spec(spec)
    count = default_scenes(name) if scenes is None else scenes
    folder = cache_root / f"{name}-train-{count}-{image_size[0]}px-v{VERSION}"
    if not _finished(folder):
        _source_files(name, root, "train", count, image_size)
        with disk_errors(folder):
            cache_root.mkdir(parents=True, exist_ok=True)
            with (cache_root / f".{folder.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # released with the process, however it ends
                if not _finished(folder):
                    convert(name, root, "train", count, folder, progress, image_size)
    elif not _made_from(folder, _records_of(name, root, "train")):
        raise UserError(f"{folder} was made from other files than {root / name} has; delete it to convert these")
    return SceneDataset(folder)


def _finished(folder: Path) -> bool:
    return (folder / "manifest.json").exists() and load_manifest(folder).complete


def _made_from(folder: Path, files: list[Path]) -> bool:
    """Whether the recording in ``folder`` was made from ``files``, or the first of them; true if there are none."""
    there = load_manifest(folder).config["env_kwargs"].get("files")
    return not files or any(_listing(files[:count]) == there for count in range(1, len(files) + 1))


def _source_files(name: str, root: Path, split: str, scenes: int, image_size: tuple[int, int]) -> list[Path]:
    """The TFRecord files of a split, in the order of their names.

    Raises:
        UserError: an argument is wrong, the extra ``deepmind`` is not installed, or the files are not there.
    """
    find_layout(name)
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; valid: {', '.join(SPLITS)}")
    if scenes < 1:
        raise UserError(f"scenes must be at least 1, got {scenes}")
    if image_size[0] != image_size[1] or image_size[0] < 1:
        raise UserError(f"published frames are square, so image_size must be, got {image_size}")
    _library()
    folder = root / name / split
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; the root of the published datasets holds {name}/{split}/*.tfrecord")
    files = _records_of(name, root, split)
    if not files:
        raise UserError(f"{folder} has no *.tfrecord files; download some of the set there")
    return files


def convert(
    name: str,
    root: Path,
    split: str,
    scenes: int,
    folder: Path,
    progress: Callable[[int], object],
    image_size: tuple[int, int] = (64, 64),
) -> Manifest:
    """Convert the first ``scenes`` scenes of a published set into a recording, in constant memory.

    Before anything is written, the framing of all records needed is read, so that missing scenes and cut files show at
    once. One process at a time may convert into a folder. Killed at any moment, the same call goes on after the last
    chunk of ``CHUNK`` scenes that is whole, and ends with the same recording; on a finished one it returns at once.

    Args:
        name: of the set; a key of :data:`LAYOUTS`.
        root: the folder that holds ``<name>/<split>/*.tfrecord``.
        split: ``train`` or ``test``.
        scenes: how many.
        folder: of the recording.
        progress: called with the number of scenes just converted, at first with those there already.
        image_size: height and width, which must be equal. Larger or smaller frames are resized (bilinear, with
            antialiasing); the field of view stays.

    Returns:
        The manifest of the finished recording.

    Raises:
        UserError: unknown name or split, missing folder or files, too few scenes, a record that is corrupt or does not
            fit the set, the extra ``deepmind`` not installed, a full disk, or something else in the folder.

    Warns:
        UserWarning: cameras that should face the centre do not.
    """
    files = _source_files(name, root, split, scenes, image_size)
    places = _scan(files, scenes)
    manifest = _describe(name, split, scenes, image_size, files[: places[-1].file + 1])
    if (folder / "manifest.json").exists():
        there = load_manifest(folder)
        if (there.config, there.camera) != (manifest.config, manifest.camera):
            raise UserError(f"{folder} was made from other files or settings; delete it to start again")
        if there.complete:
            return there
    open_recording(folder, manifest)
    images, poses, _, done = open_arrays(folder, manifest, "r+")
    todo = missing_chunks(folder)
    progress(scenes - sum(min(CHUNK, scenes - chunk * CHUNK) for chunk in todo))
    for chunk in todo:
        numbers = range(chunk * CHUNK, min((chunk + 1) * CHUNK, scenes))
        records = _records(files, places[chunk], skip_data=False)
        for scene, record in zip(numbers, records, strict=False):  # more records follow
            poses[scene] = _read_scene(name, record, images[scene])
        if chunk == todo[0]:
            _check_facing(name, poses[numbers.start])
        for array in (images, poses):
            array.flush()
        done[chunk] = 1
        done.flush()
        progress(len(numbers))
    return finish_recording(folder)


def _describe(name: str, split: str, scenes: int, image_size: tuple[int, int], files: list[Path]) -> Manifest:
    layout = LAYOUTS[name]
    # Scenes are numbered by the order of the files: with other files, a conversion cannot go on where it stopped.
    source = {"split": split, "files": _listing(files)}
    config = RecordConfig(env=f"{PREFIX}{name}", env_kwargs=source, scenes=scenes, views=layout.views)
    camera = {
        "convention": CONVENTION,
        "fovy": layout.fovy,
        "image_size": list(image_size),
        "renderer": "deepmind/gqn-datasets",
    }
    return Manifest(config.to_dict(), camera, state_groups={}, state_size=0)


def _records_of(name: str, root: Path, split: str) -> list[Path]:
    return sorted((root / name / split).glob("*.tfrecord"))


def _listing(files: list[Path]) -> str:
    """A hash of the files' names and sizes."""
    listing = json.dumps([(path.name, path.stat().st_size) for path in files])
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def _check_facing(name: str, poses: NDArray[np.float32]) -> None:
    """A wrong reading of the yaw shows where the cameras are known to face the centre."""
    x, y, yaw = poses[:, 0].astype(float), poses[:, 1].astype(float), poses[:, 3].astype(float)
    if LAYOUTS[name].faces_centre and (-(x * np.cos(yaw) + y * np.sin(yaw)) < 0.98 * np.hypot(x, y)).any():
        warnings.warn(
            f"the cameras of {name} do not face the centre, as the published ones do: these yaws mean something else, "
            "and networks that use camera rays will not learn",
            stacklevel=2,
        )


# Records ------------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a record begins."""

    file: int = 0
    offset: int = 0  #: bytes
    number: int = 1  #: of the record in its file, counted from 1


class _Record(NamedTuple):
    place: _Place
    name: str  #: for messages
    data: bytes  #: empty when it was skipped

    def corrupt(self, why: str) -> UserError:
        return UserError(f"{self.name} is corrupt: {why}; download the file again")


def _records(files: list[Path], start: _Place, skip_data: bool) -> Iterator[_Record]:
    """All records from ``start`` on; raises :class:`UserError` where the framing is damaged."""
    masked_crc = _library().TFRecordWriter.masked_crc
    place = start
    for path in files[start.file :]:
        size = path.stat().st_size
        with path.open("rb", buffering=0 if skip_data else -1) as file:
            while place.offset < size:
                record = _Record(place, f"record {place.number} of {path}", b"")
                file.seek(place.offset)
                head = file.read(_BEFORE)
                if len(head) < _BEFORE or masked_crc(head[:8]) != head[8:]:
                    raise record.corrupt("its length does not match its checksum")
                (length,) = struct.unpack("<Q", head[:8])
                end = place.offset + _BEFORE + length + _AFTER
                if end > size:
                    raise record.corrupt("the file is cut short")
                if not skip_data:
                    record = record._replace(data=file.read(length))
                    if masked_crc(record.data) != file.read(_AFTER):
                        raise record.corrupt("its data do not match their checksum")
                yield record
                place = _Place(place.file, end, place.number + 1)
        place = _Place(place.file + 1)


def _scan(files: list[Path], scenes: int) -> list[_Place]:
    """Where each chunk of a recording of ``scenes`` scenes begins; reads no data."""
    starts, count = [], 0
    for record in _records(files, _Place(), skip_data=True):
        if count % CHUNK == 0:
            starts.append(record.place)
        count += 1
        if count == scenes:
            return starts
    raise UserError(
        f"{files[0].parent} holds {count} scenes, not {scenes}; download more of the set, or ask for fewer scenes"
    )


def _read_scene(name: str, record: _Record, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Write a scene's frames into ``images`` (V, H, W, 3) and return its poses (V, 5)."""
    layout = LAYOUTS[name]
    example = _library().example_pb2.Example()
    try:
        example.ParseFromString(record.data)
    except Exception:  # protobuf's DecodeError, which is its own dependency's
        raise record.corrupt("it is no tf.train.Example") from None
    frames = example.features.feature["frames"].bytes_list.value
    cameras = np.array(example.features.feature["cameras"].float_list.value, np.float32)
    if len(frames) != layout.views or len(cameras) != layout.views * POSE_SIZE:
        raise UserError(
            f"{record.name} has {len(frames)} frames and {len(cameras)} camera numbers; "
            f"a scene of {name} has {layout.views} and {layout.views * POSE_SIZE}"
        )
    for view, frame in enumerate(frames):
        images[view] = _decode(record, view, frame, layout.frame_size, images.shape[1])
    if not np.isfinite(cameras).all():
        raise record.corrupt("a camera has a number that is not finite")
    try:
        return to_poses(name, cameras.reshape(-1, POSE_SIZE))
    except ValueError as error:
        raise record.corrupt(str(error)) from None


def _decode(record: _Record, view: int, jpeg: bytes, frame_size: int, side: int) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            width, height = image.size
            if (height, width) != (frame_size, frame_size):
                raise UserError(
                    f"frame {view + 1} of {record.name} has {height}x{width} pixels, not {frame_size}x{frame_size}"
                )
            picture = image.convert("RGB")
    except OSError as error:
        raise record.corrupt(f"frame {view + 1} cannot be decoded ({error})") from None
    if side != frame_size:
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def _library() -> Any:
    try:
        return importlib.import_module("tfrecord")
    except ImportError:
        raise UserError("to read TFRecords, the extra `deepmind` is needed: pip install 'gqn-rl[deepmind]'") from None
