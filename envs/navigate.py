"""RoomNavigate: find, in a room, the object that a colour and a shape name, and go there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gqn_rl.envs.base import ObservationMode, choose
from gqn_rl.envs.room_model import HALF, SLOTS, room_spec
from gqn_rl.envs.rooms import CORNER_CAMERAS, CORNERS, DETAILED_GROUP, LENGTH_UNIT, Room, free_place
from gqn_rl.envs.shapes import SHAPES
from gqn_rl.types import POSE_SIZE, Pose

ActionMode = Literal["continuous", "discrete"]

#: Seconds between decisions: 5 Hz, so that a decision is worth a view.
CONTROL_STEP: Final = 0.2
#: Seconds of one physics step.
PHYSICS_STEP: Final = 0.005
#: m/s and rad/s: a decision is up to 0.3 m and 24 degrees; the longest way takes about half an episode.
MAX_SPEED: Final = 1.5
MAX_TURN: Final = np.deg2rad(120.0)
#: What each discrete action does: (turn, forward), as the continuous action has them.
DISCRETE: Final = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0))

#: Metres and kilograms. The agent is an upright capsule that slides and turns, and never tilts.
RADIUS: Final = 0.2
HEIGHT: Final = 1.0
MASS: Final = 10.0
#: N s/m (N m s/rad for turning): speeds settle with a time constant of 0.05 s.
VELOCITY_GAIN: Final = 200.0
TURN_GAIN: Final = 20.0
#: kg m2, of the hinge: what makes turning settle as fast as moving.
INERTIA: Final = 1.0
#: Metres above the floor, and radians above the horizon, of the agent's eyes.
EYE_HEIGHT: Final = 0.75
EYE_PITCH: Final = np.deg2rad(-5.0)

#: Metres from the agent's axis to an object's: an object is reached within this. Even the largest (0.54 m) is reached
#: before it is touched, and no place is within reach of two objects (they stand 1.9 m apart).
REACH: Final = 0.9
#: Metres from the agent's axis to the nearest object's at an episode's start.
START_DISTANCE: Final = 1.3
#: What reaching the goal's object adds to the reward, and another one takes from it.
BONUS: Final = 1.0


class RoomNavigate(Room):
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

    proprio_size = 6
    has_frame = True
    oracle_size = 6 + 3 + 2 * (SLOTS - 1) + 1
    goal_size = 3 + len(SHAPES)
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_STEP)}  # noqa: RUF012

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
        self.actions: ActionMode = choose("actions", actions, get_args(ActionMode))
        spec = room_spec()
        _add_agent(spec)
        super().__init__(
            spec,
            dome=CORNERS,
            fixed=CORNER_CAMERAS,
            objects=objects,
            shadows=shadows,
            obs_mode=obs_mode,
            cameras="moving",
            views=views,
            camera_names=None,
            image_size=image_size,
            render_mode=render_mode,
            render_size=render_size,
        )
        self.action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (2,), np.float32)
        if self.actions == "discrete":
            self.action_space = spaces.Discrete(len(DISCRETE))
        self._marker = self.model.body("goal").mocapid[0]
        self._substeps = round(CONTROL_STEP / PHYSICS_STEP)

    # Truth ----------------------------------------------------------------------------------------------------

    @property
    def place(self) -> NDArray[np.float64]:
        """Where the agent's axis is, metres (2,)."""
        return self.data.qpos[:2].copy()

    @property
    def yaw(self) -> float:
        """Where the agent looks, radians."""
        return float(self.data.qpos[2])

    @property
    def goal(self) -> NDArray[np.float32]:
        """The goal (10,): colour and shape of the object to reach."""
        # Slots are drawn alike, so to call the first one the goal is to choose at random.
        shape = np.arange(len(SHAPES)) == self._shapes[0]
        return np.concatenate([self._colors[0], shape]).astype(np.float32)

    def _distances(self) -> NDArray[np.float64]:
        """From the agent's axis to each object's (N,), metres, the goal's first."""
        return np.linalg.norm(self._places[: self._count] - self.place, axis=1)

    def proprio(self) -> NDArray[np.float32]:
        (vx, vy, turning), heading = self.data.qvel, self._heading()
        ahead = heading @ [vx, vy]
        speeds = np.array([turning / MAX_TURN, ahead / MAX_SPEED])
        return np.concatenate([self.place / LENGTH_UNIT, heading, speeds]).astype(np.float32)

    def frame(self) -> NDArray[np.float32]:
        return np.array([*self.place, 0.0, _wrapped(self.yaw)], np.float32)

    def oracle(self) -> NDArray[np.float32]:
        heading, distances = self._heading(), self._distances()
        to_own_frame = np.array([heading, [-heading[1], heading[0]]])
        directions = (self._places[: self._count] - self.place) @ to_own_frame.T / distances[:, None]
        others = np.zeros((SLOTS - 1, 2))
        nearest_first = 1 + np.argsort(distances[1:])
        others[: self._count - 1] = (directions * REACH / distances[:, None])[nearest_first]
        with np.errstate(divide="ignore"):
            wall = np.min((HALF - np.sign(heading) * self.place) / np.abs(heading))
        lengths = np.array([distances[0], wall]) / LENGTH_UNIT
        return np.concatenate(
            [self.proprio(), directions[0], lengths[:1], others.ravel(), lengths[1:]], dtype=np.float32
        )

    def _heading(self) -> NDArray[np.float64]:
        return np.array([np.cos(self.yaw), np.sin(self.yaw)])

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
        self.data.mocap_pos[self._marker, :2] = self._places[0]
        mujoco.mj_forward(self.model, self.data)
        self._place_cameras(new_episode=True)
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Turn and go for one decision: ``action`` (2,), shares of the limits in [-1, 1], or a discrete action."""
        turn, forward = DISCRETE[action] if self.actions == "discrete" else np.clip(action, -1.0, 1.0)
        before = self._distances()[0]
        self.data.ctrl[:] = forward * MAX_SPEED, 0.0, turn * MAX_TURN
        mujoco.mj_step(self.model, self.data, nstep=self._substeps)
        mujoco.mj_kinematics(self.model, self.data)  # positions of now, not of one physics step ago
        self._place_cameras(new_episode=False)
        info = self._info()
        reward, reached = before - info["distance"], bool(self._distances().min() < REACH)
        if reached:
            reward += BONUS if info["is_success"] else -BONUS
        return self._observe(), float(reward), reached, False, info

    def _info(self) -> dict[str, Any]:
        distance = float(self._distances()[0])
        return {"distance": distance, "is_success": distance < REACH}

    def _place_cameras(self, *, new_episode: bool) -> None:
        self._poses = np.zeros((self.views, POSE_SIZE), np.float32)
        self._poses[:] = *self.place, EYE_HEIGHT, 0.0, EYE_PITCH
        self._poses[:, 3] = _wrapped(self.yaw + 2 * np.pi * np.arange(self.views) / self.views)

    def _observe(self) -> Any:
        seen = super()._observe()
        if self.obs_mode == "state":
            return seen
        if self.obs_mode == "pixels":
            seen = {"pixels": seen, "proprio": self.proprio()}
        return {**seen, "goal": self.goal}

    def _observation_space(self) -> spaces.Space[Any]:
        if self.obs_mode == "state":
            return spaces.Box(-np.inf, np.inf, (self.oracle_size,), np.float32)
        goal = spaces.Box(0.0, 1.0, (self.goal_size,), np.float32)
        seen = super()._observation_space()
        if isinstance(seen, spaces.Dict):
            return spaces.Dict({**seen.spaces, "goal": goal})
        proprio = spaces.Box(-np.inf, np.inf, (self.proprio_size,), np.float32)
        return spaces.Dict({"pixels": seen, "proprio": proprio, "goal": goal})

    # Scenes ---------------------------------------------------------------------------------------------------

    def sample_pose(self, rng: np.random.Generator) -> Pose:
        """A camera pose (5,) where the agent's eyes can be."""
        x, y = free_place(self, rng, RADIUS)
        return np.array([x, y, EYE_HEIGHT, rng.uniform(-np.pi, np.pi), EYE_PITCH], np.float32)


def _wrapped(angle: Any) -> Any:
    """The same angle, or angles, from -pi to pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _add_agent(spec: mujoco.MjSpec) -> None:
    """The agent, its three velocity actuators (ahead, sideways, turning), and a mark under the goal's object."""
    spec.option.timestep = PHYSICS_STEP
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    agent = spec.worldbody.add_body(name="agent")
    for name, axis in {"x": [1, 0, 0], "y": [0, 1, 0]}.items():
        agent.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
    agent.add_joint(name="yaw", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], armature=INERTIA)
    agent.add_geom(
        name="agent",
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        size=[RADIUS, HEIGHT / 2 - RADIUS, 0],
        pos=[0, 0, HEIGHT / 2],
        mass=MASS,
        condim=1,
        rgba=[0.25, 0.25, 0.3, 1],
        group=DETAILED_GROUP,
        solref=[0.01, 1],
    )
    agent.add_geom(  # where it looks
        type=mujoco.mjtGeom.mjGEOM_SPHERE,
        size=[0.1, 0, 0],
        pos=[RADIUS, 0, EYE_HEIGHT],
        mass=0,
        contype=0,
        conaffinity=0,
        rgba=[0.95, 0.95, 0.95, 1],
        group=DETAILED_GROUP,
    )
    agent.add_site(name="agent")  # the drives push along its axes
    for name, gear in {"ahead": [1, 0, 0, 0, 0, 0], "sideways": [0, 1, 0, 0, 0, 0]}.items():
        drive = spec.add_actuator(name=name, target="agent", trntype=mujoco.mjtTrn.mjTRN_SITE, gear=gear)
        drive.set_to_velocity(kv=VELOCITY_GAIN)
    steer = spec.add_actuator(name="turning", target="yaw", trntype=mujoco.mjtTrn.mjTRN_JOINT)
    steer.set_to_velocity(kv=TURN_GAIN)
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
