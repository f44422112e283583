"""Objects made of coloured cubes, to look at from all sides, and the question whether two of them are mirror images.

Shepard and Metzler (Science 171:701, 1971) showed people pairs of such objects and asked whether one is the other,
turned, or its mirror image, turned. The GQN's published data sets ``shepard_metzler_5_parts`` and
``shepard_metzler_7_parts`` show one object at a time: randomly coloured cubes "positioned by a self-avoiding random
walk in 3D grid", seen from "a fixed distance from its centre" (https://github.com/google-deepmind/gqn-datasets).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gqn_rl.cameras import Dome, Fixed
from gqn_rl.envs.base import CameraMode, ObservationMode, SceneEnv, check_action, choose
from gqn_rl.envs.blocks import Cells, mirror_image, random_chain, random_chiral_chain
from gqn_rl.envs.colors import distinct_hues, rgb
from gqn_rl.envs.renderer import SMOOTH
from gqn_rl.envs.room_model import COMMON_GROUP, HIDDEN_GROUP
from gqn_rl.types import Pose, Quantity

ActionMode = Literal["continuous", "discrete"]
Turns = Literal["vertical", "any"]

#: How many parts an object may have: those of the published sets.
PARTS: Final = (5, 7)
#: Parts of the largest object.
SLOTS: Final = max(PARTS)
#: Degrees, vertical, and metres from an object's centre: what was found out about the published sets
#: (:data:`gqn_rl.deepmind.LAYOUTS`), a unit of theirs being a metre.
FOVY: Final = 20.0
DISTANCE: Final = 10 / 3
#: Metres. A face seen from the front is 9 to 10 pixels wide in published pictures (those named in
#: :mod:`gqn_rl.deepmind`), where all is black but for the object, too.
EDGE: Final = DISTANCE / 20
#: Metres between the centres of two objects. The corners of chiral ones are 3.24 edges from the centre at most (of 7
#: parts; :mod:`gqn_rl.envs.blocks` can count them all), so objects never touch, however they are turned.
APART: Final = 6.6 * EDGE
#: Degrees of the colour circle, cut open between magenta and red so that hues have an order, and how far apart the
#: hues of an object's parts are at least. In the published sets two parts may look the same; here a colour names a
#: part.
HUES: Final = (0.0, 300.0)
HUE_GAP: Final = 25.0
#: Of all colours, as in the published pictures.
SATURATION: Final = (0.8, 1.0)
VALUE: Final = (0.8, 1.0)
#: Light that comes from everywhere, from the camera, and from a lamp: 1 in all, beyond which colours are clipped.
AMBIENT, HEADLIGHT, LAMP = 0.45, 0.1, 0.45
#: Towards the lamp: each of the three directions of faces that it shines on gets another share of it.
LAMP_AT: Final = np.array([0.35, -0.55, 0.76])

#: Degrees below and above the horizon that cameras reach; at 90 a camera has no yaw.
ELEVATION: Final = 80.0
#: Degrees of the largest move of a decision, around and up.
MOVE: Final = 36.0
#: An answer's number must be further from 0 than this to count.
SURE: Final = 0.5
#: What each discrete action does, as the continuous one has it: left, right, up, down, then the answers.
DISCRETE: Final = ((-1, 0, 0), (1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, -1), (0, 0, 1))

#: Numbers of a state before the table of parts, the places of four of them, and of a row of the table.
_HEAD: Final = 4 * 3
_ROW: Final = 3 + 3


class ShepardMetzler(SceneEnv):
    """Look at two objects from as many sides as needed, and say whether they are the same or mirror images.

    An object is a chain of 5 or 7 cubes, each of another colour; the second object is a copy of the first, or a copy
    of its mirror image, turned. Both hang in the dark, side by side on the x axis, and nothing but the camera moves.
    Only chiral objects are asked about: no rotation makes one its mirror image.

    **Action**: the last of the K cameras moves on a sphere about the middle, which it always faces, and may give an
    answer, which ends the episode. ``actions="continuous"``: ``Box(-1, 1, (3,))``: how far it goes around
    (counter-clockwise as seen from above), as a share of 36 degrees; how far it goes up, of 36 degrees, between 80
    degrees below and above the horizon; and the answer: "same" below -0.5, "mirrored" above 0.5, between the two none
    yet. ``actions="discrete"``: ``Discrete(6)``: go left (clockwise), right, up, down, each by 36 degrees; answer
    "same", answer "mirrored".

    **Observation** by ``obs_mode``:

    - ``views``: ``images`` (K, H, W, 3) uint8; ``poses`` (K, 5) x, y, z (m), yaw, pitch (rad); ``proprio`` (3,): the
      direction from the middle to the last camera, of length 1;
    - ``pixels``: the K images stacked by channel, (H, W, 3K) uint8;
    - ``state`` (76,): ``state()``, below. It has the answer in it.

    **Reward**: 1 for the right answer, -1 for the wrong one, 0 for a decision without one. Guessing earns 0.

    **Episode**: a new pair, half of all pairs mirrored; at most 15 decisions (the published sets show 15 views of an
    object), then truncated. It terminates with an answer, in success if that is right; ``info`` holds ``is_success``
    and ``angle``, the degrees (0 to 180) that the second object is turned by. The same seed gives the same episode.

    With ``objects=1`` there is one object, chiral or not, as in the published sets and half as far from the camera,
    and no question: actions have no answer (``Box(-1, 1, (2,))``, ``Discrete(4)``), the reward is 0, ``info`` empty.

    As a **source of scenes** it looks from anywhere on the sphere. The factors, each drawn without regard to the
    others: ``shape`` (the parts, how many and where), ``colors``, and of a pair ``turn`` and ``mirrored``.

    ``state`` (76,), metres: the positions (3 each) of the parts of lowest and of highest hue, in the first object and
    then in the second, which are the groups that probes ask for; for each part of the first in the order of hues (red
    first) position (3) and colour (3), zeros for the last two of an object of 5; the positions (3) of the same parts
    of the second; and 1 for mirrored, -1 for the same. Zeros for a second object that is not there. Probes also ask
    for the ``shape`` and the ``colors``: positions and colours of the five parts of lowest hue, which every object has;
    and of a pair whether it is ``mirrored``.

    Args (the others are those of :class:`SceneEnv`):
        parts: the numbers of parts, out of 5 and 7, that are drawn from.
        objects: 2 to compare, or 1 to look at.
        turns: how the second object is turned: by any angle about the ``vertical``, as Shepard and Metzler's pairs
            turned in depth (their angles were multiples of 20 degrees), or by ``any`` rotation.
        actions: ``continuous`` or ``discrete``.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    state_size = _HEAD + SLOTS * 9 + 1
    proprio_size = 3
    fovy = FOVY
    #: Nothing but cameras moves during an episode, so views of its different moments may be encoded together.
    static_scene = True
    small_geoms = detailed_geoms = (COMMON_GROUP,)

    def __init__(
        self,
        *,
        parts: Sequence[int] = PARTS,
        objects: Literal[1, 2] = 2,
        turns: Turns = "vertical",
        actions: ActionMode = "continuous",
        shadows: bool = False,
        obs_mode: ObservationMode = "views",
        cameras: CameraMode = "episode",
        views: int = 1,
        camera_names: tuple[str, ...] | None = None,
        image_size: int | tuple[int, int] = 64,
        render_mode: str | None = None,
        render_size: int | tuple[int, int] = 480,
    ) -> None:
        self.part_counts = _part_counts(parts)
        self.objects: int = choose("objects", objects, (1, 2))
        self.turns: Turns = choose("turns", turns, get_args(Turns))
        self.actions: ActionMode = choose("actions", actions, get_args(ActionMode))
        dome = Dome(radius=(DISTANCE * self.objects,) * 2, elevation=(-ELEVATION, ELEVATION))
        super().__init__(
            _spec(self.objects).compile(),
            dome=dome,
            fixed=_named(dome),
            obs_mode=obs_mode,
            cameras=cameras,
            views=views,
            camera_names=camera_names,
            image_size=image_size,
            render_mode=render_mode,
            render_size=render_size,
            quality=SMOOTH,
            shadows=shadows,
        )
        asks = self.objects == 2
        self.action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (3 if asks else 2,), np.float32)
        if self.actions == "discrete":
            self.action_space = spaces.Discrete(len(DISCRETE) if asks else 4)
        self.scene_factors = ("shape", "colors", "turn", "mirrored") if asks else ("shape", "colors")
        names = ("lowest_hue", "highest_hue", "second_lowest_hue", "second_highest_hue")[: 2 * self.objects]
        self.state_groups = {name: slice(3 * index, 3 * index + 3) for index, name in enumerate(names)}
        rows = [_HEAD + _ROW * part for part in range(min(PARTS))]
        self.state_quantities = {
            "shape": Quantity(tuple(row + i for row in rows for i in range(3)), "numbers"),
            "colors": Quantity(tuple(row + 3 + i for row in rows for i in range(3)), "numbers"),
        }
        if asks:
            self.state_quantities["mirrored"] = Quantity(slice(self.state_size - 1, self.state_size), "flags")
        self._cells: Cells = np.zeros((1, 3), np.int64)
        self._hues = np.zeros(SLOTS)
        self._colors = np.ones((SLOTS, 3))
        self._quat = np.array([1.0, 0.0, 0.0, 0.0])
        self._mirrored = False
        self.new_scene(np.random.default_rng(0))
        self._poses = np.stack([dome.at(-60.0, 25.0)] * self.views)

    # Truth ----------------------------------------------------------------------------------------------------

    @property
    def cells(self) -> Cells:
        """The first object's cells (N, 3) on the grid, in the chain's order; see :mod:`gqn_rl.envs.blocks`."""
        return self._cells.copy()

    @property
    def is_mirrored(self) -> bool:
        """Whether the second object is a copy of the first one's mirror image."""
        return self._mirrored

    @property
    def angle(self) -> float:
        """Degrees, 0 to 180, that the second object is turned by."""
        return float(np.rad2deg(2 * np.arccos(min(1.0, abs(self._quat[0])))))

    def positions(self) -> NDArray[np.float64]:
        """The middles of all parts (objects, N, 3), metres, in the chain's order."""
        if self.objects == 1:
            return _centred(self._cells)[None]
        second = _centred(mirror_image(self._cells) if self._mirrored else self._cells)
        turn = np.empty(9)
        mujoco.mju_quat2Mat(turn, self._quat)
        aside = np.array([APART / 2, 0.0, 0.0])
        return np.stack([_centred(self._cells) - aside, second @ turn.reshape(3, 3).T + aside])

    def state(self) -> NDArray[np.float32]:
        count = len(self._cells)
        by_hue = np.argsort(self._hues[:count])
        positions = np.zeros((2, SLOTS, 3))
        positions[: self.objects, :count] = self.positions()[:, by_hue]
        colors = np.zeros((SLOTS, 3))
        colors[:count] = self._colors[by_hue]
        answer = 0.0 if self.objects == 1 else (1.0 if self._mirrored else -1.0)
        ends = positions[:, [0, count - 1]]
        table = np.concatenate([positions[0], colors], axis=1)
        return np.concatenate([ends.ravel(), table.ravel(), positions[1].ravel(), [answer]]).astype(np.float32)

    def oracle(self) -> NDArray[np.float32]:
        return self.state()

    def proprio(self) -> NDArray[np.float32]:
        return (self._poses[-1, :3] / self.dome.radius[0]).astype(np.float32)

    @property
    def render_pose(self) -> Pose:
        """Where the last camera is: a video shows how it moves."""
        return self._poses[-1]

    # Gymnasium ------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode with new objects; takes no options."""
        super().reset(seed=seed)
        self.new_scene(self.np_random)
        self._place_cameras(new_episode=True)
        return self._observe(), self._info(0)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the last camera, and answer or not, by ``action``, as the class's documentation has it."""
        check_action(self.action_space, action)
        around, up, *answer = DISCRETE[action] if self.actions == "discrete" else np.clip(action, -1.0, 1.0)
        driven = self._moved(self._poses[-1], MOVE * float(around), MOVE * float(up))
        self._place_cameras(new_episode=False)
        self._poses = np.concatenate([self._poses[:-1], driven[None]])
        said = int(np.sign(answer[0])) if self.objects == 2 and abs(answer[0]) > SURE else 0
        info = self._info(said)
        reward = 0.0 if said == 0 else (1.0 if info["is_success"] else -1.0)
        return self._observe(), reward, said != 0, False, info

    def _info(self, said: int) -> dict[str, Any]:
        """``said`` is 1 for mirrored, -1 for the same and 0 for no answer."""
        if self.objects == 1:
            return {}
        return {"is_success": said == (1 if self._mirrored else -1), "angle": self.angle}

    def _moved(self, pose: Pose, around: float, up: float) -> Pose:
        x, y, z = pose[:3].astype(np.float64)
        azimuth = np.rad2deg(np.arctan2(y, x)) + around
        elevation = np.rad2deg(np.arctan2(z, np.hypot(x, y))) + up
        return self.dome.at(azimuth, float(np.clip(elevation, -ELEVATION, ELEVATION)))

    # Scenes ---------------------------------------------------------------------------------------------------

    def draw_factor(self, factor: str, rng: np.random.Generator) -> None:
        """Draw ``shape`` or ``colors``, and of a pair ``turn`` or ``mirrored``, anew."""
        choose("factor", factor, self.scene_factors)
        if factor == "shape":
            parts = int(rng.choice(self.part_counts))
            self._cells = random_chiral_chain(parts, rng) if self.objects == 2 else random_chain(parts, rng)
        elif factor == "colors":
            self._hues = distinct_hues(rng, SLOTS, HUES, HUE_GAP)
            self._colors = rgb(self._hues, rng.uniform(*SATURATION, SLOTS), rng.uniform(*VALUE, SLOTS))
        elif factor == "turn":
            self._quat = _random_turn(self.turns, rng)
        else:
            self._mirrored = bool(rng.integers(2))
        self._show_objects()

    def _show_objects(self) -> None:
        """Make the model hold the objects that there are, and hide the parts that they do not have."""
        model, data, count = self.model, self.data, len(self._cells)
        model.geom_rgba[:, :3] = np.tile(self._colors, (self.objects, 1))
        model.geom_group[:] = np.where(np.arange(model.ngeom) % SLOTS < count, COMMON_GROUP, HIDDEN_GROUP)
        data.mocap_pos.reshape(self.objects, SLOTS, 3)[:, :count] = self.positions()
        data.mocap_quat[SLOTS:] = self._quat
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)


def _spec(objects: int) -> mujoco.MjSpec:
    """So many objects, not compiled yet: for each part a body that can be put anywhere, with a cube."""
    spec = mujoco.MjSpec()
    spec.modelname = "shepard_metzler"
    spec.stat.extent = 1.0
    spec.visual.map.znear, spec.visual.map.zfar = 1.0, 20.0
    spec.visual.map.shadowclip = 1.3  # metres, the extent being 1: half the width of what the lamp sees
    spec.visual.headlight.ambient = [AMBIENT] * 3
    spec.visual.headlight.diffuse = [HEADLIGHT] * 3
    spec.visual.headlight.specular = [0.0] * 3
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=4.0 * LAMP_AT,
        dir=-LAMP_AT,
        ambient=[0.0] * 3,
        diffuse=[LAMP] * 3,
        specular=[0.0] * 3,
        castshadow=True,
    )
    for _ in range(objects * SLOTS):
        body = spec.worldbody.add_body(mocap=True)
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[EDGE / 2] * 3, contype=0, conaffinity=0)
    return spec


def _named(dome: Dome) -> Fixed:
    """Cameras around the middle, a little above it, and one high up."""
    around = {"front": -90.0, "right": 0.0, "back": 90.0, "left": 180.0}
    poses = {name: dome.at(azimuth, 20.0) for name, azimuth in around.items()}
    return Fixed({**poses, "top": dome.at(-90.0, ELEVATION)})


def _centred(cells: Cells) -> NDArray[np.float64]:
    """Metres (N, 3) from an object's centre, the mean of its parts, to each of them."""
    return EDGE * (cells - cells.mean(axis=0))


def _random_turn(turns: Turns, rng: np.random.Generator) -> NDArray[np.float64]:
    """A quaternion (4,), uniform over the rotations that ``turns`` names."""
    if turns == "vertical":
        half = rng.uniform(-np.pi, np.pi) / 2
        return np.array([np.cos(half), 0.0, 0.0, np.sin(half)])
    quat = rng.normal(size=4)
    return quat / np.linalg.norm(quat)


def _part_counts(parts: Sequence[int]) -> tuple[int, ...]:
    counts = tuple(parts) if isinstance(parts, Sequence) and not isinstance(parts, str) else ()
    if not counts or len(set(counts)) != len(counts) or not set(counts) <= set(PARTS):
        valid = ", ".join(str(each) for each in ((5,), (7,), PARTS))
        raise ValueError(f"parts must be one of {valid}; got {parts!r}")
    return counts
