"""Square rooms with coloured objects, in the likeness of the GQN's rooms, and two ways to look around in them.

Eslami et al. (Science 2018) photographed square rooms with a random wall texture out of five and floor texture out of
three, one to three objects out of seven shapes, and random colours, sizes, positions, rotations and light. Those of
the published data sets ``rooms_ring_camera`` and ``rooms_free_camera`` measure 7 x 7 units, here metres. The shapes,
colours and textures themselves are ours.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gqn_rl.cameras import Dome, Fixed, is_whole, look_at
from gqn_rl.envs.base import (
    CameraMode,
    ObservationMode,
    SceneEnv,
    check_action,
    check_share,
    choose,
    part_of_the_way,
)
from gqn_rl.envs.colors import distinct_hues, rgb
from gqn_rl.envs.room_model import (
    COMMON_GROUP,
    DETAILED_GROUP,
    FLOORS,
    FOVY,
    HALF,
    HIDDEN_GROUP,
    LENGTH_UNIT,
    SLOTS,
    WALLS,
    draw_light,
    room_spec,
)
from gqn_rl.envs.shapes import SHAPES, SIZES, half_height, take_shape
from gqn_rl.types import Pose, Quantity

#: Degrees of the colour circle that objects' hues come from: red to magenta, cut open between the two so that hues
#: have an order; and how far apart two objects' hues are at least, so that a colour names one object.
HUES: Final = (0.0, 300.0)
HUE_GAP: Final = 45.0
#: Degrees: the least by which a perturbed hue moves, so that it shows.
SMALLEST_HUE_MOVE: Final = 15.0
SATURATION: Final = (0.75, 1.0)
VALUE: Final = (0.65, 1.0)


def _named(dome: Dome, azimuths: dict[str, float]) -> Fixed:
    """Cameras at the lowest elevation of ``dome``; names and azimuths in degrees."""
    return Fixed({name: dome.at(azimuth, dome.elevation[0]) for name, azimuth in azimuths.items()})


#: A ring of cameras, 2.9 m from the room's axis and 1.15 m above the floor, that face the middle.
RING: Final = Dome(center=(0.0, 0.0, 0.4), radius=(3.0, 3.0), elevation=(14.5, 14.5))
#: Metres: the spread and the separation of objects that stay well inside the ring, whose cameras see nearly all.
GATHERED: Final = (1.5, 1.15)
RING_CAMERAS: Final = _named(RING, {"east": 0.0, "north": 90.0, "west": 180.0, "south": -90.0})
#: Cameras in the room's corners, 1.6 m above the floor, that do the same.
CORNERS: Final = Dome(center=(0.0, 0.0, 0.4), radius=(4.6, 4.6), elevation=(15.0, 15.0))
CORNER_CAMERAS: Final = _named(
    CORNERS, {"northeast": 45.0, "northwest": 135.0, "southwest": -135.0, "southeast": -45.0}
)
#: Of free cameras: metres from walls and objects, metres above the floor, degrees above the horizon.
CAMERA_MARGIN: Final = 0.25
CAMERA_HEIGHT: Final = (0.4, 1.2)
CAMERA_PITCH: Final = (-20.0, 5.0)
#: Degrees that a camera which faces an object may look past its middle; its field of view is 30 to either side.
FACING_ASIDE: Final = 20.0

#: Of one object in a state: position (3), size, colour (3), and which shape.
_OBJECT: Final = 7 + len(SHAPES)
#: What each entry of the state is divided by for a policy.
_UNITS: Final = np.array(
    [LENGTH_UNIT] * 9 + ([LENGTH_UNIT] * 3 + [1.0] * (_OBJECT - 3)) * SLOTS,
    np.float32,
)


class RoomObject(NamedTuple):
    """One object as it stands in a room."""

    shape: str  #: one of :data:`gqn_rl.envs.shapes.SHAPES`
    size: float  #: radius of a circle on the floor that it stands inside, metres
    color: NDArray[np.float64]  #: (3,) red, green, blue in [0, 1]
    position: NDArray[np.float64]  #: (3,) of its middle, metres
    yaw: float  #: radians


class Room(SceneEnv):
    """What all rooms share: how they are built and drawn at random, and what is true of them.

    The scene's factors, each drawn without regard to the others:

    - ``layout``: how many objects there are, where they stand and how they are turned;
    - ``shapes``: which shapes and sizes they have;
    - ``colors``: their colours;
    - ``appearance``: wall and floor textures, and the light.

    Objects keep ``separation`` between their middles, more than two of the largest need, so any shapes fit any layout.

    ``state`` (51,), metres: the objects' mean position (3), the position (3) of the object of lowest hue and of that
    of highest hue, then for each object in the order of their hues (red first) position (3), size, colour (3) and
    shape (7, one-hot); zeros for objects that are not there. Hues give an order that does not depend on what is
    asked, so each of the three groups that probes ask for exists in every room; with one object they coincide. Probes
    also ask for the colour and the shape of the object of lowest hue.

    Args (the others are those of :class:`SceneEnv`):
        objects: how many objects there are at least and at most, from 1 to 3.
    """

    scene_factors = ("layout", "shapes", "colors", "appearance")
    state_groups = MappingProxyType({"mean": slice(0, 3), "lowest_hue": slice(3, 6), "highest_hue": slice(6, 9)})
    state_quantities = MappingProxyType(
        {
            "lowest_hue_color": Quantity(slice(9 + 4, 9 + 7), "numbers"),
            "lowest_hue_shape": Quantity(slice(9 + 7, 9 + _OBJECT), "class"),
        }
    )
    state_size = 9 + SLOTS * _OBJECT
    fovy = FOVY
    #: Nothing but cameras moves during an episode, so views of its different moments may be encoded together.
    static_scene = True
    small_geoms = (COMMON_GROUP,)
    detailed_geoms = (COMMON_GROUP, DETAILED_GROUP)
    #: Metres: objects' middles lie in a square of this half-width, and at least so far from each other.
    spread: float = 2.4
    separation: float = 1.9

    def __init__(
        self,
        spec: mujoco.MjSpec,
        *,
        dome: Dome,
        fixed: Fixed,
        objects: Sequence[int],
        shadows: bool,
        obs_mode: ObservationMode,
        cameras: CameraMode,
        views: int,
        camera_names: tuple[str, ...] | None,
        image_size: int | tuple[int, int],
        render_mode: str | None,
        render_size: int | tuple[int, int],
    ) -> None:
        self.object_counts = _count_range(objects)
        super().__init__(
            spec.compile(),
            dome=dome,
            fixed=fixed,
            obs_mode=obs_mode,
            cameras=cameras,
            views=views,
            camera_names=camera_names,
            image_size=image_size,
            render_mode=render_mode,
            render_size=render_size,
            shadows=shadows,
        )
        model = self.model
        self._slots = np.array([model.geom(f"object_{i}").id for i in range(SLOTS)])
        self._bodies = np.array([model.body(f"object_{i}").mocapid[0] for i in range(SLOTS)])
        self._floor, self._walls = model.geom("floor").id, [model.geom(f"wall_{i}").id for i in range(4)]
        self._floor_materials = [model.material(name).id for name in FLOORS]
        self._wall_materials = [model.material(name).id for name in WALLS]
        self._count = 1
        self._places = np.zeros((SLOTS, 2))
        self._yaws = np.zeros(SLOTS)
        self._shapes = np.zeros(SLOTS, np.int64)
        self._sizes = np.zeros(SLOTS, np.int64)
        self._hues = np.zeros(SLOTS)
        self._colors = np.ones((SLOTS, 3))
        self.new_scene(np.random.default_rng(0))

    # Truth ----------------------------------------------------------------------------------------------------

    @property
    def objects(self) -> tuple[RoomObject, ...]:
        """The objects in the room."""
        return tuple(
            RoomObject(
                SHAPES[self._shapes[i]],
                SIZES[self._sizes[i]],
                self._colors[i].copy(),
                np.array([*self._places[i], half_height(self._shapes[i], self._sizes[i])]),
                float(self._yaws[i]),
            )
            for i in range(self._count)
        )

    def state(self) -> NDArray[np.float32]:
        everything = self.objects
        ordered = [everything[i] for i in np.argsort(self._hues[: self._count])]
        middles = [np.mean([each.position for each in ordered], axis=0), ordered[0].position, ordered[-1].position]
        rows = np.zeros((SLOTS, _OBJECT))
        for row, each in zip(rows, ordered, strict=False):
            row[:7] = *each.position, each.size, *each.color
            row[7 + SHAPES.index(each.shape)] = 1
        return np.concatenate([*middles, rows.ravel()]).astype(np.float32)

    def oracle(self) -> NDArray[np.float32]:
        return self.state() / _UNITS

    @property
    def render_pose(self) -> Pose:
        return look_at([0.0, -2.6, 6.9], [0.0, -0.3, 0.0])

    def is_free(self, place: NDArray[np.floating], margin: float) -> bool:
        """Whether ``place`` (2,) is further than ``margin`` (metres) from the walls and all circles of objects."""
        present = slice(self._count)
        apart = np.linalg.norm(self._places[present] - place, axis=1) - np.take(SIZES, self._sizes[present])
        return bool(np.abs(place).max() < HALF - margin and apart.min() > margin)

    # Scenes ---------------------------------------------------------------------------------------------------

    def draw_factor(self, factor: str, rng: np.random.Generator) -> None:
        """Draw ``layout``, ``shapes``, ``colors`` or ``appearance`` anew."""
        choose("factor", factor, self.scene_factors)
        if factor == "layout":
            self._count = int(rng.integers(*self.object_counts, endpoint=True))
            self._places = _apart(rng, self.spread, self.separation)
            self._yaws = rng.uniform(-np.pi, np.pi, SLOTS)
        elif factor == "shapes":
            self._shapes = rng.integers(len(SHAPES), size=SLOTS)
            self._sizes = rng.integers(len(SIZES), size=SLOTS)
        elif factor == "colors":
            self._hues = distinct_hues(rng, SLOTS, HUES, HUE_GAP)
            saturation, value = rng.uniform(*SATURATION, SLOTS), rng.uniform(*VALUE, SLOTS)
            self._colors = rgb(self._hues, saturation, value)
        else:
            self._draw_appearance(rng)
        self._show(factor)

    def perturb_factor(self, factor: str, rng: np.random.Generator) -> None:
        """Change one object, so that everything else is alike; ``appearance`` is drawn anew.

        ``layout``: any object goes part of the way (:func:`gqn_rl.envs.base.part_of_the_way`) to another place.
        ``shapes``, ``colors``: the first object, which every layout has, gets another shape; or its hue, by 15 degrees
        or more, goes part of the way to another.
        """
        choose("factor", factor, self.scene_factors)
        if factor == "layout":
            self._places = self._move_one(rng)
        elif factor == "shapes":
            others = np.delete(np.arange(len(SHAPES)), self._shapes[0])
            self._shapes[0] = rng.choice(others)
        elif factor == "colors":
            self._hues[0] = self._near_hue(rng)
            value = self._colors[0].max(keepdims=True)
            self._colors[0] = rgb(self._hues[:1], 1 - self._colors[0].min() / value, value)[0]
        else:
            self._draw_appearance(rng)
        self._show(factor)

    def _move_one(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Places (SLOTS, 2) with one object elsewhere, that keep ``separation``."""
        while True:
            places = self._places.copy()
            index = rng.integers(self._count)
            places[index] += part_of_the_way(rng) * (rng.uniform(-self.spread, self.spread, 2) - places[index])
            if _least_distance(places) >= self.separation:
                return places

    def _near_hue(self, rng: np.random.Generator) -> float:
        """Another hue of the first object, degrees, that keeps ``HUE_GAP`` from the others'."""
        before, others = self._hues[0], self._hues[1:]
        while True:
            hue = before + part_of_the_way(rng) * (rng.uniform(*HUES) - before)
            if abs(hue - before) >= SMALLEST_HUE_MOVE and np.abs(others - hue).min() >= HUE_GAP:
                return float(hue)

    def _show(self, factor: str) -> None:
        """Make model and data what ``factor`` has become."""
        if factor != "appearance":
            self._show_objects()
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _show_objects(self) -> None:
        """Make the model hold the objects that there are, and hide the other slots."""
        model = self.model
        for i, geom in enumerate(self._slots):
            take_shape(model, geom, self._shapes[i], self._sizes[i])
        present = np.arange(SLOTS) < self._count
        model.geom_rgba[self._slots, :3] = self._colors
        model.geom_group[self._slots] = np.where(present, COMMON_GROUP, HIDDEN_GROUP)
        model.geom_contype[self._slots] = model.geom_conaffinity[self._slots] = present
        self.data.mocap_pos[self._bodies, :2] = self._places
        self.data.mocap_quat[self._bodies, 0] = np.cos(self._yaws / 2)
        self.data.mocap_quat[self._bodies, 3] = np.sin(self._yaws / 2)

    def _draw_appearance(self, rng: np.random.Generator) -> None:
        model = self.model
        model.geom_matid[self._floor] = rng.choice(self._floor_materials)
        model.geom_matid[self._walls] = rng.choice(self._wall_materials)
        draw_light(model, rng, distance=8.0)


class _RoomView(Room):
    """A camera that is driven around a room: nothing to win, all to see."""

    proprio_size = 7
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    #: Where cameras may stand, those with names, and how many numbers an action has.
    rig: ClassVar[tuple[Dome, Fixed]]
    action_size: ClassVar[int]

    def __init__(
        self,
        *,
        objects: Sequence[int] = (1, SLOTS),
        shadows: bool = False,
        obs_mode: ObservationMode = "views",
        cameras: CameraMode = "episode",
        views: int = 1,
        camera_names: tuple[str, ...] | None = None,
        image_size: int | tuple[int, int] = 64,
        render_mode: str | None = None,
        render_size: int | tuple[int, int] = 480,
    ) -> None:
        dome, fixed = self.rig
        super().__init__(
            room_spec(),
            dome=dome,
            fixed=fixed,
            objects=objects,
            shadows=shadows,
            obs_mode=obs_mode,
            cameras=cameras,
            views=views,
            camera_names=camera_names,
            image_size=image_size,
            render_mode=render_mode,
            render_size=render_size,
        )
        self.action_space = spaces.Box(-1.0, 1.0, (self.action_size,), np.float32)

    def proprio(self) -> NDArray[np.float32]:
        x, y, z, yaw, pitch = self._poses[-1]
        angles = np.array([np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)])
        return np.concatenate([np.array([x, y, z]) / LENGTH_UNIT, angles]).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in a new room; takes no options."""
        super().reset(seed=seed)
        self.new_scene(self.np_random)
        self._place_cameras(new_episode=True)
        return self._observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the last camera by ``action``, shares of the largest moves in [-1, 1]; the reward is 0."""
        check_action(self.action_space, action)
        driven = self._moved(self._poses[-1], np.clip(action, -1.0, 1.0))
        self._place_cameras(new_episode=False)
        self._poses = np.concatenate([self._poses[:-1], driven[None]])
        return self._observe(), 0.0, False, False, {}

    @abstractmethod
    def _moved(self, pose: Pose, action: NDArray[np.float32]) -> Pose:
        """Where ``action``, in [-1, 1], takes a camera from ``pose``."""


class RoomRing(_RoomView):
    """Look at a room from a ring of cameras that all face its middle (``rooms_ring_camera``).

    A source of scenes to record and to probe, and an environment without a task: the last of the K cameras is driven
    along the ring, the others stay, or move at random, as ``cameras`` says.

    **Action** ``Box(-1, 1, (1,))``: how far the last camera goes along the ring, as a share of 36 degrees, positive
    counter-clockwise as seen from above.

    **Observation** by ``obs_mode``:

    - ``views``: ``images`` (K, H, W, 3) uint8; ``poses`` (K, 5) x, y, z (m), yaw, pitch (rad); ``proprio`` (7,): the
      last camera's position in units of 2 m, and cosine and sine of its yaw and of its pitch;
    - ``pixels``: the K images stacked by channel, (H, W, 3K) uint8;
    - ``state`` (51,): ``state()`` (see :class:`Room`) with positions in units of 2 m.

    **Reward**: 0. There is no success.

    **Episode**: a new room, 10 decisions, truncated, never terminated. The same seed gives the same episode.
    """

    spread, separation = GATHERED

    rig = (RING, RING_CAMERAS)
    action_size = 1

    def _moved(self, pose: Pose, action: NDArray[np.float32]) -> Pose:
        azimuth = np.rad2deg(np.arctan2(pose[1], pose[0])) + 36.0 * float(action[0])
        return self.dome.at(azimuth, self.dome.elevation[0])


class RoomFree(_RoomView):
    """Look at a room from anywhere in it (``rooms_free_camera``): any yaw, small pitch, 0.4 to 1.2 m high.

    A source of scenes to record and to probe, and an environment without a task: the last of the K cameras is driven
    through the room, the others stay, or move at random, as ``cameras`` says.

    **Action** ``Box(-1, 1, (3,))``: how far the last camera goes ahead, as a share of 0.5 m; how far it then turns
    left, of 36 degrees; and tilts up, of 10 degrees. It stays where it is if walls or objects would be nearer than
    0.25 m, and its pitch stays between -20 and 5 degrees.

    **Observation**, **reward** and **episode** are those of :class:`RoomRing`.

    Args:
        ring: probability that a scene is one of :class:`RoomRing`'s, nearly all of whose views show all objects: from
            such scenes an encoder learns what to look for, and then finds it in the others, whose views share little.
        facing: probability that a view of any other scene turns to one of the objects, which it then has in sight,
            unless another stands before it, or the view passes over it where it is near; two views of any yaw seldom
            show the same object.
        others: as of :class:`RoomRing`.

    Raises:
        ValueError: ``ring`` or ``facing`` is no probability.
    """

    rig = (CORNERS, CORNER_CAMERAS)
    action_size = 3

    def __init__(self, *, ring: float = 0.0, facing: float = 0.0, **others: Any) -> None:
        check_share("ring", ring)
        check_share("facing", facing)
        self.ring, self.facing = ring, facing
        super().__init__(**others)

    def draw_factor(self, factor: str, rng: np.random.Generator) -> None:
        if factor == "layout" and self.ring:
            gathered = rng.random() < self.ring
            self.spread, self.separation = GATHERED if gathered else (Room.spread, Room.separation)
        super().draw_factor(factor, rng)

    def sample_pose(self, rng: np.random.Generator) -> Pose:
        """A camera pose (5,): anywhere in the room, off walls and objects, or on the ring in one of its scenes."""
        if (self.spread, self.separation) == GATHERED:
            return RING.sample(rng)
        place = free_place(self, rng, CAMERA_MARGIN)
        pitch = np.deg2rad(rng.uniform(*CAMERA_PITCH))
        height, yaw = rng.uniform(*CAMERA_HEIGHT), rng.uniform(-np.pi, np.pi)
        if rng.random() < self.facing:
            across, along = self._places[rng.integers(self._count)] - place
            aside = np.deg2rad(rng.uniform(-FACING_ASIDE, FACING_ASIDE))
            yaw = (np.arctan2(along, across) + aside + np.pi) % (2 * np.pi) - np.pi
        return np.array([*place, height, yaw, pitch], np.float32)

    def _moved(self, pose: Pose, action: NDArray[np.float32]) -> Pose:
        x, y, z, yaw, pitch = pose
        place = np.array([x, y]) + 0.5 * action[0] * np.array([np.cos(yaw), np.sin(yaw)])
        if not self.is_free(place, CAMERA_MARGIN):
            place = np.array([x, y])
        pitch = np.clip(pitch + np.deg2rad(10.0) * action[2], *np.deg2rad(CAMERA_PITCH))
        yaw = (yaw + np.deg2rad(36.0) * action[1] + np.pi) % (2 * np.pi) - np.pi
        return np.array([*place, z, yaw, pitch], np.float32)


def free_place(room: Room, rng: np.random.Generator, margin: float) -> NDArray[np.float64]:
    """A random place (2,) in ``room`` further than ``margin`` (metres) from walls and objects."""
    while True:
        place = rng.uniform(margin - HALF, HALF - margin, 2)
        if room.is_free(place, margin):
            return place


def _count_range(objects: Sequence[int]) -> tuple[int, int]:
    pair = tuple(objects) if isinstance(objects, Sequence) and not isinstance(objects, str) else ()
    if len(pair) != 2 or not all(is_whole(n) for n in pair) or not 1 <= pair[0] <= pair[1] <= SLOTS:
        raise ValueError(f"objects must be (fewest, most) with 1 <= fewest <= most <= {SLOTS}, got {objects!r}")
    return int(pair[0]), int(pair[1])


def _apart(rng: np.random.Generator, spread: float, separation: float) -> NDArray[np.float64]:
    """Places (SLOTS, 2), uniform over all that keep ``separation`` from each other."""
    while True:
        places = rng.uniform(-spread, spread, (SLOTS, 2))
        if _least_distance(places) >= separation:
            return places


def _least_distance(places: NDArray[np.float64]) -> float:
    """Between any two of ``places`` (N, 2)."""
    first, second = np.triu_indices(len(places), 1)
    return float(np.linalg.norm(places[first] - places[second], axis=1).min())
