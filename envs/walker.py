"""An agent with eyes that turns and walks through a scene, as a body among bodies."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal, get_args

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gqn_rl.envs.base import SceneEnv, check_action, choose
from gqn_rl.envs.room_model import DETAILED_GROUP, LENGTH_UNIT
from gqn_rl.types import POSE_SIZE

ActionMode = Literal["continuous", "discrete"]

#: Seconds between decisions: 5 Hz, so that a decision is worth a view.
CONTROL_STEP: Final = 0.2
#: Seconds of one physics step.
PHYSICS_STEP: Final = 0.005
#: m/s and rad/s: a decision is up to 0.3 m and 24 degrees.
MAX_SPEED: Final = 1.5
MAX_TURN: Final = np.deg2rad(120.0)
#: What each discrete action does: (turn, forward), as the continuous action has them.
DISCRETE: Final = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0))

#: Metres and kilograms. The agent is an upright capsule that slides and turns, and never tilts.
RADIUS: Final = 0.2
MASS: Final = 10.0
#: N s/m (N m s/rad for turning): speeds settle with a time constant of 0.05 s.
VELOCITY_GAIN: Final = 200.0
TURN_GAIN: Final = 20.0
#: kg m2, of the hinge: what makes turning settle as fast as moving.
INERTIA: Final = 1.0


class Walker(SceneEnv):
    """What environments share in which an agent sees with its own eyes and walks; ``add_walker`` is its body.

    Cameras are of mode ``moving``: K eyes that look 360/K degrees apart, the first of them ahead. ``proprio`` (6,) is
    the agent's position in units of 2 m, cosine and sine of its yaw, and its turning and speed ahead as shares of
    their limits; ``frame`` (4,) is its x, y (m), 0 and its yaw (rad). Mode ``pixels`` is a Dict of ``pixels`` and
    ``proprio``, since ``views`` tells where the agent is as well.

    A subclass names its eyes' height (metres above the floor) and pitch (radians above the horizon), and the length of
    its ``oracle``.
    """

    proprio_size = 6
    has_frame = True
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_STEP)}  # noqa: RUF012
    eye_height: ClassVar[float]
    eye_pitch: ClassVar[float]
    oracle_size: ClassVar[int]

    def __init__(self, *args: Any, actions: ActionMode, **kwargs: Any) -> None:
        """``actions`` is ``continuous`` or ``discrete``; the rest goes to the next class."""
        self.actions: ActionMode = choose("actions", actions, get_args(ActionMode))
        super().__init__(*args, cameras="moving", camera_names=None, **kwargs)
        self.action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (2,), np.float32)
        if self.actions == "discrete":
            self.action_space = spaces.Discrete(len(DISCRETE))
        self._substeps = round(CONTROL_STEP / PHYSICS_STEP)

    @property
    def place(self) -> NDArray[np.float64]:
        """Where the agent's axis is, metres (2,)."""
        return self.data.qpos[:2].copy()

    @property
    def yaw(self) -> float:
        """Where the agent looks, radians."""
        return float(self.data.qpos[2])

    @property
    def heading(self) -> NDArray[np.float64]:
        """Where the agent looks, a direction (2,) of length 1."""
        return np.array([np.cos(self.yaw), np.sin(self.yaw)])

    def in_own_frame(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """World ``vectors`` (..., 2) as the agent sees them: ahead and left (..., 2)."""
        ahead = self.heading
        return vectors @ np.array([ahead, [-ahead[1], ahead[0]]]).T

    def proprio(self) -> NDArray[np.float32]:
        (vx, vy, turning), heading = self.data.qvel, self.heading
        ahead = heading @ [vx, vy]
        speeds = np.array([turning / MAX_TURN, ahead / MAX_SPEED])
        return np.concatenate([self.place / LENGTH_UNIT, heading, speeds]).astype(np.float32)

    def frame(self) -> NDArray[np.float32]:
        return np.array([*self.place, 0.0, _wrapped(self.yaw)], np.float32)

    def _walk(self, action: Any) -> None:
        """Turn and go for one decision: ``action`` (2,), shares of the limits in [-1, 1], or a discrete action."""
        check_action(self.action_space, action)
        turn, forward = DISCRETE[action] if self.actions == "discrete" else np.clip(action, -1.0, 1.0)
        self.data.ctrl[:] = forward * MAX_SPEED, 0.0, turn * MAX_TURN
        mujoco.mj_step(self.model, self.data, nstep=self._substeps)
        mujoco.mj_kinematics(self.model, self.data)  # positions of now, not of one physics step ago
        self._place_cameras(new_episode=False)

    def _place_cameras(self, *, new_episode: bool) -> None:
        self._poses = np.zeros((self.views, POSE_SIZE), np.float32)
        self._poses[:] = *self.place, self.eye_height, 0.0, self.eye_pitch
        self._poses[:, 3] = _wrapped(self.yaw + 2 * np.pi * np.arange(self.views) / self.views)

    def _observe(self) -> Any:
        seen = super()._observe()
        return {"pixels": seen, "proprio": self.proprio()} if self.obs_mode == "pixels" else seen

    def _observation_space(self) -> spaces.Space[Any]:
        if self.obs_mode == "state":
            return spaces.Box(-np.inf, np.inf, (self.oracle_size,), np.float32)
        seen = super()._observation_space()
        if self.obs_mode == "views":
            return seen
        return spaces.Dict({"pixels": seen, "proprio": spaces.Box(-np.inf, np.inf, (self.proprio_size,), np.float32)})


def _wrapped(angle: Any) -> Any:
    """The same angle, or angles, from -pi to pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def add_walker(spec: mujoco.MjSpec, *, height: float, eye_height: float) -> None:
    """The agent's body, ``height`` metres tall, and its three velocity actuators (ahead, sideways, turning)."""
    spec.option.timestep = PHYSICS_STEP
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    agent = spec.worldbody.add_body(name="agent")
    for name, axis in {"x": [1, 0, 0], "y": [0, 1, 0]}.items():
        agent.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
    agent.add_joint(name="yaw", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], armature=INERTIA)
    agent.add_geom(
        name="agent",
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        size=[RADIUS, height / 2 - RADIUS, 0],
        pos=[0, 0, height / 2],
        mass=MASS,
        condim=1,
        rgba=[0.25, 0.25, 0.3, 1],
        group=DETAILED_GROUP,
        solref=[0.01, 1],
    )
    agent.add_geom(  # where it looks
        type=mujoco.mjtGeom.mjGEOM_SPHERE,
        size=[0.1, 0, 0],
        pos=[RADIUS, 0, eye_height],
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
