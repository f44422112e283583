"""RoomNavigate: find, in a room, the object that a colour and a shape name, and go there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gqn_rl.envs.base import ObservationMode
from gqn_rl.envs.room_model import DETAILED_GROUP, HALF, LENGTH_UNIT, SLOTS, room_spec
from gqn_rl.envs.rooms import CORNER_CAMERAS, CORNERS, Room, free_place
from gqn_rl.envs.shapes import SHAPES
from gqn_rl.envs.walker import RADIUS, ActionMode, Walker, add_walker
from gqn_rl.types import Pose

#: Metres: how tall the agent is, and how high its eyes are; and radians above the horizon that they look.
HEIGHT: Final = 1.0
EYE_HEIGHT: Final = 0.75
EYE_PITCH: Final = np.deg2rad(-5.0)

#: Metres from the agent's axis to an object's: an object is reached within this. Even the largest (0.54 m) is reached
#: before it is touched, and no place is within reach of two objects (they stand 1.9 m apart).
REACH: Final = 0.9
#: Metres from the agent's axis to the nearest object's at an episode's start.
START_DISTANCE: Final = 1.3
#: What reaching the goal's object adds to the reward, and another one takes from it.
BONUS: Final = 1.0


class RoomNavigate(Walker, Room):
    """Go to the one object in a room that has the goal's colour and shape, and to no other.

    The agent sees with its own eyes only, 0.75 m above the floor. It is a body among bodies (an upright capsule of
    0.2 m radius): walls and objects stop it. While it moves, the room stays as it is.

    **Action**, one decision every 0.2 s: ``actions="continuous"``: ``Box(-1, 1, (2,))``, turning (positive left) as a
    share of 120 degrees/s, and speed ahead (negative: backwards) as a share of 1.5 m/s, by velocity actuators.
    ``actions="discrete"``: ``Discrete(3)``, turn left, turn right, go ahead, each at full speed.

    **Observation** by ``obs_mode``:

    - ``views``: ``images`` (K, H, W, 3) uint8, of K eyes that look 360/K degrees apart, the first of them ahead;
      ``poses`` (K, 5) x, y, z (m), yaw, pitch (rad); ``proprio`` (6,): the agent's position (odometry) in units of
      2 m, cosine and sine of its yaw, and its turning and speed ahead as shares of their limits; ``frame`` (4,): the
      agent's x, y (m), 0 and its yaw (rad); ``goal`` (10,): the object's colour (red, green, blue in [0, 1]) and its
      shape, one-hot in the order of :data:`gqn_rl.envs.shapes.SHAPES`;
    - ``pixels``: ``pixels``, the K images stacked by channel, (H, W, 3K) uint8; ``proprio`` and ``goal`` as above;
    - ``state`` (14,), a ``Box``: proprio; direction (2, ahead and left, of length 1) and distance (1, in units of 2 m)
      of the goal's object; for each of two other objects, the nearer one first, direction times nearness (2): 0.9 m /
      distance, so its length is 1 where that object is reached and 0 if there is none; and the distance ahead to the
      wall (1, in units of 2 m).

    **Reward** of a decision: the metres by which the goal's object came nearer, plus 1 when it is reached, minus 1
    when another object is.

    **Episode**: at most 40 decisions (8 s), then truncated. It terminates when the agent's axis is within 0.9 m of
    an object's, with success if it is the goal's, so that a tour of all objects does not pay. ``info`` holds
    ``distance`` (m) to the goal's object, axis to axis, and ``is_success``, whether that is below 0.9 now.

    Every episode has a new room (see :class:`gqn_rl.envs.rooms.Room`), a random start at least 1.3 m from the
    objects, and a random goal among them. The same seed gives the same episode.

    As a source of scenes it looks from the agent's height and pitch, from anywhere that the agent can be.

    Args (the others are those of :class:`gqn_rl.envs.rooms.Room`):
        actions: ``continuous`` or ``discrete``.
        views: how many eyes the agent has, K >= 1.
    """

    eye_height = EYE_HEIGHT
    eye_pitch = EYE_PITCH
    oracle_size = 6 + 3 + 2 * (SLOTS - 1) + 1
    goal_size = 3 + len(SHAPES)

    def __init__(
        self,
        *,
        actions: ActionMode = "continuous",
        objects: Sequence[int] = (1, SLOTS),
        shadows: bool = False,
        obs_mode: ObservationMode = "views",
        views: int = 1,
        image_size: int | tuple[int, int] = 64,
        render_mode: str | None = None,
        render_size: int | tuple[int, int] = 480,
    ) -> None:
        spec = room_spec()
        add_walker(spec, height=HEIGHT, eye_height=EYE_HEIGHT)
        _add_mark(spec)
        super().__init__(
            spec,
            actions=actions,
            dome=CORNERS,
            fixed=CORNER_CAMERAS,
            objects=objects,
            shadows=shadows,
            obs_mode=obs_mode,
            views=views,
            image_size=image_size,
            render_mode=render_mode,
            render_size=render_size,
        )

    # Truth ----------------------------------------------------------------------------------------------------

    @property
    def goal(self) -> NDArray[np.float32]:
        """The goal (10,): colour and shape of the object to reach."""
        # Slots are drawn alike, so to call the first one the goal is to choose at random.
        shape = np.arange(len(SHAPES)) == self._shapes[0]
        return np.concatenate([self._colors[0], shape]).astype(np.float32)

    def _distances(self) -> NDArray[np.float64]:
        """From the agent's axis to each object's (N,), metres, the goal's first."""
        return np.linalg.norm(self._places[: self._count] - self.place, axis=1)

    def oracle(self) -> NDArray[np.float32]:
        heading, distances = self.heading, self._distances()
        directions = self.in_own_frame(self._places[: self._count] - self.place) / distances[:, None]
        others = np.zeros((SLOTS - 1, 2))
        nearest_first = 1 + np.argsort(distances[1:])
        others[: self._count - 1] = (directions * REACH / distances[:, None])[nearest_first]
        with np.errstate(divide="ignore"):
            wall = np.min((HALF - np.sign(heading) * self.place) / np.abs(heading))
        lengths = np.array([distances[0], wall]) / LENGTH_UNIT
        return np.concatenate(
            [self.proprio(), directions[0], lengths[:1], others.ravel(), lengths[1:]], dtype=np.float32
        )

    # Gymnasium ------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in a new room; takes no options."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.new_scene(self.np_random)
        while True:
            self.data.qpos[:2] = free_place(self, self.np_random, RADIUS)
            if self._distances().min() > START_DISTANCE:
                break
        self.data.qpos[2] = self.np_random.uniform(-np.pi, np.pi)
        mujoco.mj_forward(self.model, self.data)
        self._place_cameras(new_episode=True)
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Turn and go for one decision: ``action`` (2,), shares of the limits in [-1, 1], or a discrete action."""
        before = self._distances()[0]
        self._walk(action)
        info = self._info()
        reward, reached = before - info["distance"], bool(self._distances().min() < REACH)
        if reached:
            reward += BONUS if info["is_success"] else -BONUS
        return self._observe(), float(reward), reached, False, info

    def _info(self) -> dict[str, Any]:
        distance = float(self._distances()[0])
        return {"distance": distance, "is_success": distance < REACH}

    def _observe(self) -> Any:
        seen = super()._observe()
        return seen if self.obs_mode == "state" else {**seen, "goal": self.goal}

    def _observation_space(self) -> spaces.Space[Any]:
        seen = super()._observation_space()
        goal = spaces.Box(0.0, 1.0, (self.goal_size,), np.float32)
        return spaces.Dict({**seen.spaces, "goal": goal}) if isinstance(seen, spaces.Dict) else seen

    # Scenes ---------------------------------------------------------------------------------------------------

    def _show_objects(self) -> None:
        super()._show_objects()
        self.data.mocap_pos[self.model.body("goal").mocapid[0], :2] = self._places[0]

    def sample_pose(self, rng: np.random.Generator) -> Pose:
        """A camera pose (5,) where the agent's eyes can be."""
        x, y = free_place(self, rng, RADIUS)
        return np.array([x, y, EYE_HEIGHT, rng.uniform(-np.pi, np.pi), EYE_PITCH], np.float32)


def _add_mark(spec: mujoco.MjSpec) -> None:
    """A mark under the goal's object."""
    mark = spec.worldbody.add_body(name="goal", mocap=True)
    mark.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[REACH, 0.01, 0],
        pos=[0, 0, 0.02],
        contype=0,
        conaffinity=0,
        rgba=[1, 1, 1, 0.5],
        group=DETAILED_GROUP,
    )
