"""Recorded scenes: memory-mapped on disk, written by several processes, resumed after a kill at any moment.

A recording is a folder::

    manifest.json   what it is: source, seed, sizes, camera convention, renderer version, content hash
    images.npy      (N, V, H, W, 3) uint8
    poses.npy       (N, V, 5) float32
    states.npy      (N, S) float32, ground truth for probes only
    chunks.npy      (C,) uint8, which chunks of the recording are on disk

Scenes come in *blocks* (see :class:`BlockPlan`): scenes of one block share factors two by two, which gives
contrastive pretraining its hard negatives at no label cost. A scene depends on the seed and its own number only,
never on who records it or when.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from gqn_rl.cameras import CONVENTION, check_camera, check_poses
from gqn_rl.config import Config, UserError
from gqn_rl.files import disk_errors, locked, read_json, strangers, write_json
from gqn_rl.types import POSE_SIZE, Perturbable, Pose, RenderError, SceneSource, Views

#: Scenes a process writes before it marks them done.
CHUNK: Final = 64
#: Seconds between looks at whether to stop, while other processes record.
LOOK_EVERY: Final = 0.5


class BlockPlan(Config):
    """How the scenes of one block share their factors.

    A block is a grid: every draw of the ``rows`` factor meets every draw of the ``columns`` factor, and all other
    factors (appearance, say) are drawn once for the whole block. One row and one column: independent scenes.
    ``family`` above 1 needs a source that is :class:`gqn_rl.types.Perturbable`.
    """

    rows: str | None = None  #: factor that is shared along a row
    columns: str | None = None  #: factor that is shared along a column
    height: int = Field(1, ge=1)
    width: int = Field(1, ge=1)
    #: Rows (columns) come in families of this many: the first is drawn, the others are perturbations of it.
    family: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _both_or_none(self) -> BlockPlan:
        if (self.height > 1 and self.rows is None) or (self.width > 1 and self.columns is None):
            raise ValueError("a block with several rows (columns) needs the name of the factor of its rows (columns)")
        if self.rows is not None and self.rows == self.columns:
            raise ValueError(f"rows and columns must be two factors, both are {self.rows!r}")
        if self.family > 1 and self.size == 1:
            raise ValueError(f"a family of {self.family} needs a block of several rows or columns, got one of each")
        return self

    @property
    def size(self) -> int:
        """Scenes in a block."""
        return self.height * self.width


class RecordConfig(Config):
    """What to record."""

    env: str = "gqn_rl/ArmReach-v0"  #: Gymnasium id of a scene source
    env_kwargs: dict[str, Any] = Field(default_factory=dict)
    scenes: int = Field(20_000, ge=1)
    views: int = Field(6, ge=2)  #: of each scene
    block: BlockPlan = BlockPlan()
    seed: int = Field(0, ge=0)


@dataclass(frozen=True)
class Manifest:
    """What a recording is; JSON on disk."""

    config: dict[str, Any]
    camera: dict[str, Any]  #: convention, fovy (degrees), image_size, renderer
    state_groups: dict[str, tuple[int, int]]  #: name: (start, stop) in a state vector
    state_size: int
    complete: bool = False
    sha256: str = ""  #: of the images, poses and states, once complete

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Scenes, views, height, width."""
        height, width = self.camera["image_size"]
        return self.config["scenes"], self.config["views"], height, width

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` atomically."""
        write_json(folder / "manifest.json", self.__dict__)


def describe_source(source: SceneSource, config: RecordConfig) -> Manifest:
    """The manifest of a recording of ``source`` that has not begun.

    Raises:
        UserError: the block plan names a factor that the source has not, or families that it cannot make; or what the
            source says of its factors, its camera or its state is missing, or cannot be.
    """
    block, factors = config.block, source.scene_factors
    if isinstance(factors, str) or not all(isinstance(factor, str) for factor in factors):
        raise UserError(f"scene_factors of {config.env} is {factors!r}, must be names, such as ('scene',)")
    if not factors and config.scenes > 1:
        raise UserError(f"scene_factors of {config.env} names none: all {config.scenes} scenes would be the same")
    for name in (block.rows, block.columns):
        if name is not None and name not in source.scene_factors:
            raise UserError(f"block: {config.env} has no factor {name!r}; valid: {', '.join(source.scene_factors)}")
    if block.family > 1 and not isinstance(source, Perturbable):
        raise UserError(
            f"block.family is {block.family}, but {config.env} has no method perturb_factor(factor, rng) that draws a "
            "factor near where it is; valid: 1"
        )
    camera = source.camera_metadata
    check_camera(camera)
    if camera["convention"] != CONVENTION:
        raise UserError(f"the poses of {config.env} mean {camera['convention']!r}; valid: {CONVENTION!r}")
    state = np.shape(source.state())
    if len(state) != 1:
        raise UserError(f"state() of {config.env} is of shape {state}, must be (S,)")
    groups = {name: _bounds(name, part, state[0]) for name, part in source.state_groups.items()}
    try:  # as it will be read back, to be compared
        plain_camera = json.loads(json.dumps(dict(camera), default=lambda value: value.tolist(), allow_nan=False))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"camera_metadata of {config.env} holds what JSON cannot: {error}") from None
    return Manifest(config.to_dict(), plain_camera, groups, state[0])


def _bounds(name: str, part: Any, size: int) -> tuple[int, int]:
    """Where the group ``name`` lies in a state of ``size`` numbers."""
    try:
        start, stop, step = part.indices(size)
    except (AttributeError, TypeError):
        start, stop, step = 0, 0, 0
    if step != 1 or start > stop or (part.stop or 0) > size:
        raise UserError(
            f"state_groups[{name!r}] is {part!r}; valid: a slice of neighbours among the {size} numbers of state()"
        )
    return start, stop


def open_recording(folder: Path, manifest: Manifest) -> None:
    """Make the folder's files, or find those of the same recording; refuse any other.

    Raises:
        UserError: the folder holds a finished recording, one of something else, or no recording at all.
    """
    path = folder / "manifest.json"
    if path.exists():
        there = load_manifest(folder)
        before, now = _identity(there), _identity(manifest)
        different = [key for key in now if now[key] != before.get(key)]
        if different:
            raise UserError(f"{folder} holds another recording ({', '.join(different)} differ); choose another --out")
        if there.complete:
            raise UserError(f"{folder} is a finished recording; choose another --out, or delete it first")
        return
    _refuse_strangers(folder)
    scenes, views, height, width = manifest.shape
    folder.mkdir(parents=True, exist_ok=True)
    _make(folder / "images.npy", (scenes, views, height, width, 3), np.uint8)
    _make(folder / "poses.npy", (scenes, views, POSE_SIZE), np.float32)
    _make(folder / "states.npy", (scenes, manifest.state_size), np.float32)
    _make(folder / "chunks.npy", (-(-scenes // CHUNK),), np.uint8)
    manifest.write(folder)  # last: a folder with a manifest has all its files


def _identity(manifest: Manifest) -> dict[str, Any]:
    groups = {name: tuple(part) for name, part in manifest.state_groups.items()}
    return {**manifest.config, **manifest.camera, "state_groups": groups, "state_size": manifest.state_size}


def _refuse_strangers(folder: Path) -> None:
    if (folder / "manifest.json").exists():
        return  # a recording's, whatever else somebody has put there
    if others := strangers(folder, ("images.npy", "poses.npy", "states.npy", "chunks.npy")):
        raise UserError(f"{folder} is not empty and holds no recording (it has {others[0]}); choose another --out")


def _make(path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()
    # The file is sparse, and running out of disk in a memory map kills the process: reserve the space now.
    if hasattr(os, "posix_fallocate"):
        with disk_errors(path), open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def load_manifest(folder: str | Path) -> Manifest:
    """Read a recording's manifest; raises :class:`UserError` when there is none or something in it cannot be."""
    path = Path(folder) / "manifest.json"
    if not path.exists():
        free = not Path(folder).exists() or (Path(folder).is_dir() and not strangers(Path(folder), ()))
        raise UserError(
            f"{folder} is not a recording (no manifest.json); make one with `record --out {folder if free else 'DIR'}`"
        )
    try:
        manifest = Manifest(**read_json(path))
    except TypeError as error:
        raise UserError(f"{path} is corrupt: {error}") from None
    for name in ("config", "camera", "state_groups"):
        if not isinstance(getattr(manifest, name), dict):
            raise UserError(f"{path} is corrupt: {name!r} is {getattr(manifest, name)!r}, must be an object")
    # What is not said has its default: earlier releases knew less of a recording.
    config = RecordConfig.from_mapping(manifest.config, source=f"{path} is corrupt").to_dict()
    try:
        check_camera(manifest.camera)
        for name, part in manifest.state_groups.items():
            start, stop = part
            if not 0 <= start <= stop <= manifest.state_size:
                raise UserError(f"group {name!r} is {part} of a state of {manifest.state_size} numbers")
        if manifest.complete and not re.fullmatch("[0-9a-f]{64}", manifest.sha256):
            raise UserError(f"sha256 is {manifest.sha256!r}, must be 64 hexadecimal digits")
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{path} is corrupt: {error}") from None
    return replace(manifest, config=config)


class Arrays(NamedTuple):
    """A recording's files, mapped into memory."""

    images: np.memmap[Any, np.dtype[np.uint8]]  #: (scenes, views, H, W, 3)
    poses: np.memmap[Any, np.dtype[np.float32]]  #: (scenes, views, 5): x, y, z in metres; yaw, pitch in radians
    states: np.memmap[Any, np.dtype[np.float32]]  #: (scenes, S): ground truth, in the units of the source's ``state()``
    chunks: np.memmap[Any, np.dtype[np.uint8]]  #: (C,): 1 where a chunk of scenes is on disk


def open_arrays(folder: Path, manifest: Manifest, mode: Literal["r", "r+"] = "r") -> Arrays:
    """Map the files of a recording, to read (``r``) or to write as well (``r+``).

    Raises:
        UserError: they are not the files that ``manifest`` describes: missing, cut short, of another shape or type.
    """
    scenes, views, height, width = manifest.shape
    expected = (
        ((scenes, views, height, width, 3), np.uint8),
        ((scenes, views, POSE_SIZE), np.float32),
        ((scenes, manifest.state_size), np.float32),
        ((-(-scenes // CHUNK),), np.uint8),
    )
    arrays = []
    for name, (shape, dtype) in zip(Arrays._fields, expected, strict=True):
        path = folder / f"{name}.npy"
        try:
            # To read, first: opened to write, a file that was cut short grows, and its lost pictures would be black.
            array = np.load(path, mmap_mode="r")
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{path.name} holds {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}")
            arrays.append(array if mode == "r" else np.load(path, mmap_mode=mode))
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{folder} is damaged: {error}; delete it and record it again") from None
    return Arrays(*arrays)


def missing_chunks(folder: Path) -> list[int]:
    """Numbers of the chunks that are not on disk yet; raises :class:`UserError` where the folder is damaged."""
    return [int(i) for i in np.flatnonzero(open_arrays(folder, load_manifest(folder)).chunks == 0)]


def record_chunks(
    source: SceneSource,
    folder: Path,
    config: RecordConfig,
    chunks: list[int],
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """Photograph the scenes of ``chunks`` into the folder; yields the number of scenes after each chunk.

    ``stop`` is asked before every scene; :class:`KeyboardInterrupt` is raised once it says so.

    Raises:
        UserError: the source shows or tells what cannot be: pictures of another shape, poses or a state that are not
            finite; or the folder is damaged.
    """
    images, poses, states, done = open_arrays(folder, load_manifest(folder), "r+")
    for chunk in chunks:
        scenes = range(chunk * CHUNK, min((chunk + 1) * CHUNK, config.scenes))
        for scene in scenes:
            if stop():
                raise KeyboardInterrupt
            set_scene(source, config.block, config.seed, scene)
            states[scene] = _state(source, scene, states.shape[1])
            rng = np.random.default_rng([config.seed, scene, 1])
            images[scene], poses[scene] = look(source, [source.sample_pose(rng) for _ in range(config.views)])
        for array in (images, poses, states):
            array.flush()
        done[chunk] = 1
        done.flush()
        yield len(scenes)


def _state(source: SceneSource, scene: int, size: int) -> NDArray[np.float32]:
    state, name = np.asarray(source.state(), np.float32), type(source).__name__
    if state.shape != (size,):
        raise UserError(f"{name}.state() is of shape {state.shape} in scene {scene}, and was of ({size},) at first")
    if not np.isfinite(state).all():
        raise UserError(f"{name}.state() is not finite in scene {scene}: {state}")
    return state


def set_scene(source: SceneSource, block: BlockPlan, seed: int, scene: int) -> None:
    """Put ``source`` into scene number ``scene`` of a recording with this seed and block plan."""
    number, place = divmod(scene, block.size)
    row, column = divmod(place, block.width)
    for index, factor in enumerate(source.scene_factors):
        draw = row if factor == block.rows else column if factor == block.columns else 0
        first = draw - draw % block.family
        source.draw_factor(factor, np.random.default_rng([seed, number, 0, index, first]))
        if draw > first:
            perturbable = cast(Perturbable, source)  # checked by describe_source
            perturbable.perturb_factor(factor, np.random.default_rng([seed, number, 0, index, draw]))


def look(source: SceneSource, poses: Iterable[Pose]) -> Views:
    """What K cameras at ``poses`` see of the present scene of ``source``: arrays (K, H, W, 3) uint8 and (K, 5) float32.

    All of it is copied, and a picture is of the very pose that stands beside it. Raises :class:`UserError` for pictures
    that are of another shape or type than the source says, and for poses that are none.
    """
    height, width = source.camera_metadata["image_size"]
    try:
        chosen = check_poses(np.array(list(poses), np.float32))
        if chosen.ndim != 2:
            raise ValueError(f"it is of shape {chosen.shape[1:]}, must be ({POSE_SIZE},)")
    except ValueError as error:
        raise UserError(f"a camera pose of {type(source).__name__} is none: {error}") from None
    images = np.empty((len(chosen), height, width, 3), np.uint8)
    for image, pose in zip(images, chosen, strict=True):
        picture = np.asarray(source.render_view(pose))
        if picture.shape != image.shape or picture.dtype != np.uint8:  # numpy would make black pictures of 0 to 1
            name = type(source).__name__
            raise UserError(f"{name}.render_view gives {picture.dtype} {picture.shape}, must be uint8 {image.shape}")
        image[:] = picture
    return Views(images, chosen)


def stack(scenes: Sequence[Views]) -> Views:
    """The views (K) of each of n scenes, together: (n, K)."""
    return Views(*(np.stack(arrays) for arrays in zip(*scenes, strict=True)))


def finish_recording(folder: Path) -> Manifest:
    """Hash the content and mark the recording complete; raises :class:`UserError` when chunks are missing."""
    manifest = load_manifest(folder)
    missing = missing_chunks(folder)
    if missing:
        raise UserError(f"{folder}: {len(missing)} chunks are missing; run the same `record` again to go on")
    digest = hashlib.sha256()
    for array in open_arrays(folder, manifest)[:3]:
        for start in range(0, len(array), CHUNK):
            digest.update(array[start : start + CHUNK].tobytes())
    finished = replace(manifest, complete=True, sha256=digest.hexdigest())
    finished.write(folder)
    return finished


class SceneDataset:
    """A finished recording, read through memory maps.

    Args:
        folder: of the recording.

    Raises:
        UserError: it is missing, unfinished, or its files do not fit its manifest.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = load_manifest(folder)
        if not self.manifest.complete:
            raise UserError(f"{folder} is unfinished; run the same `record` again to go on")
        #: As :class:`Arrays` has them.
        self.images, self.poses, self.states, _ = open_arrays(self.folder, self.manifest)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def views(self) -> int:
        """Views of each scene."""
        return self.images.shape[1]

    @property
    def camera(self) -> dict[str, Any]:
        """Camera convention, field of view (degrees), image size and renderer version."""
        return self.manifest.camera

    @property
    def block(self) -> BlockPlan:
        """How consecutive scenes share factors."""
        return BlockPlan.from_mapping(self.manifest.config["block"])

    def state_group(self, name: str) -> NDArray[np.float32]:
        """Ground truth (N, ...) of one named quantity; raises ``ValueError`` with the valid names."""
        groups = self.manifest.state_groups
        if name not in groups:
            raise ValueError(f"unknown state group {name!r}; valid: {', '.join(groups)}")
        start, stop = groups[name]
        return self.states[:, start:stop]

    def batch(self, scenes: NDArray[np.int64], views: NDArray[np.int64]) -> Views:
        """Views ``views`` (B, K) of scenes ``scenes`` (B,): images (B, K, H, W, 3) uint8 and poses (B, K, 5)."""
        index = scenes[:, None]
        return Views(self.images[index, views], self.poses[index, views])


def sample_scenes(
    rng: np.random.Generator, scenes: int, block: BlockPlan, batch: int, part: tuple[int, int] = (1, 1)
) -> NDArray[np.int64]:
    """Numbers (batch,) of distinct random scenes out of ``scenes``.

    They come from as many blocks as possible: of each, a random ``part`` = (rows, columns) of its grid. One column
    of all its rows, say, is one arm pose with several targets. ``batch`` need not be a multiple of the part's
    size: the last part is cut. A part larger than the block is cut to the block.
    """
    rows, columns = min(part[0], block.height), min(part[1], block.width)
    count = -(-batch // (rows * columns))
    blocks = rng.choice(scenes // block.size, size=count, replace=False)
    row = rng.permuted(np.tile(np.arange(block.height), (count, 1)), axis=1)[:, :rows]
    column = rng.permuted(np.tile(np.arange(block.width), (count, 1)), axis=1)[:, :columns]
    places = row[:, :, None] * block.width + column[:, None, :]
    return (blocks[:, None, None] * block.size + places).reshape(-1)[:batch]


def split_views(
    rng: np.random.Generator, scenes: int, views: int, context: int, query: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each scene, ``context`` and ``query`` distinct view numbers: (scenes, context) and (scenes, query).

    A query is never among its scene's context views (a bug of public implementations).
    """
    if context + query > views:
        raise ValueError(f"{context} context and {query} query views need {context + query} views, scenes have {views}")
    order = rng.permuted(np.tile(np.arange(views), (scenes, 1)), axis=1)
    return order[:, :context], order[:, context : context + query]


def record(
    config: RecordConfig,
    folder: Path,
    make_source: Callable[[str, Mapping[str, Any]], SceneSource],
    workers: int,
    progress: Callable[[int], object],
    stop: Callable[[], bool] = lambda: False,
) -> Manifest:
    """Record ``config`` into ``folder`` with ``workers`` processes; returns the finished manifest.

    ``make_source(env, env_kwargs)`` must be importable by a fresh process when ``workers`` > 1; ``progress`` is
    called with the number of scenes just finished. Once ``stop`` says so, :class:`KeyboardInterrupt` is raised, between
    two scenes: a signal's own exception inside OpenGL comes out as another one's.

    Raises:
        UserError: the source cannot be recorded so, the folder holds something else, or another process is at work
            there.
    """
    with contextlib.ExitStack() as held:
        source = make_source(config.env, config.env_kwargs)
        try:
            manifest = describe_source(source, config)
            _refuse_strangers(folder)  # before there is a lock in a folder that is not ours
            held.enter_context(locked(folder))
            open_recording(folder, manifest)
            todo = missing_chunks(folder)
            progress(config.scenes - sum(min(CHUNK, config.scenes - chunk * CHUNK) for chunk in todo))
            if workers <= 1:
                for scenes in record_chunks(source, folder, config, todo, stop):
                    progress(scenes)
        finally:
            getattr(source, "close", lambda: None)()
        if workers > 1:
            _record_in_processes(make_source, folder, config, todo, workers, progress, stop)
        return finish_recording(folder)


def _record_in_processes(
    make_source: Callable[[str, Mapping[str, Any]], SceneSource],
    folder: Path,
    config: RecordConfig,
    chunks: list[int],
    workers: int,
    progress: Callable[[int], object],
    stop: Callable[[], bool],
) -> None:
    from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool

    # A forked child of a process that has rendered hangs in OpenGL; a spawned one starts clean.
    context = multiprocessing.get_context("spawn")
    ending = context.Event()
    with ProcessPoolExecutor(workers, context, initializer=_prepare_worker, initargs=(ending.is_set,)) as pool:
        tasks: set[Future[int]] = {pool.submit(_record_chunk, make_source, folder, config, chunk) for chunk in chunks}
        try:
            while tasks:
                done, tasks = wait(tasks, LOOK_EVERY, FIRST_COMPLETED)
                for task in done:
                    progress(task.result())
                if stop():
                    raise KeyboardInterrupt
        except BrokenProcessPool:
            raise RenderError("a rendering process died; try --workers 1, and `gqn-rl doctor`") from None
        except BaseException:
            ending.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _prepare_worker(ending: Callable[[], bool]) -> None:
    """Leave Ctrl-C to the parent, stop when it says so, and go when it goes, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _ENDING.append(ending)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


#: Of a worker: what it photographs, and whether it is to stop.
_SOURCE: list[SceneSource] = []
_ENDING: list[Callable[[], bool]] = []


def _record_chunk(
    make_source: Callable[[str, Mapping[str, Any]], SceneSource], folder: Path, config: RecordConfig, chunk: int
) -> int:
    if not _SOURCE:  # once a process: compiling and an OpenGL context cost more than a chunk
        _SOURCE.append(make_source(config.env, config.env_kwargs))
    return sum(record_chunks(_SOURCE[0], folder, config, [chunk], _ENDING[0]))
