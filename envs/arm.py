"""ArmReach: a Kinova Jaco moves its hand into a sphere that it has to find with its cameras."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any, Final

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gqn_rl.cameras import Dome, Fixed
from gqn_rl.envs import kinova
from gqn_rl.envs.arm_room import Appearance, room_spec, vivid_color
from gqn_rl.envs.base import CameraMode, ObservationMode, SceneEnv, as_names, check_action, choose, part_of_the_way
from gqn_rl.envs.renderer import SMOOTH

#: Seconds between decisions: 10 Hz, so that one decision moves the hand by centimetres.
CONTROL_STEP: Final = 0.1
#: Seconds of one physics step; implicit integration is stable well beyond it with these gains.
PHYSICS_STEP: Final = 0.005

#: Metres. A target is a ball of this radius, and reached when the point between the fingertips is inside it.
TARGET_RADIUS: Final = 0.09
#: The same when its size is randomised.
TARGET_RADII: Final = (0.06, 0.12)
TARGET_COLOR: Final = (0.85, 0.1, 0.1)
#: Metres from the base's axis, and above the floor: where a target may be. Well inside what the arm's links span
#: (0.41 + 0.21 m and the hand's 0.2 m from a shoulder at 0.28 m).
TARGET_DISTANCE: Final = (0.25, 0.65)
TARGET_HEIGHT: Final = (0.1, 0.7)
#: Metres between hand and target at the start of an episode: never there already, and within 2.5 s at 0.4 m/s.
START_DISTANCE: Final = (0.15, 0.55)
#: Metres that count as one in what a policy sees, so that positions are of order one like angles and speeds. In
#: metres they are small beside the rest, and SAC needs about twice the steps.
LENGTH_UNIT: Final = 0.25
#: Radians about the home pose, joints 2 to 6: at an episode's start, and in recorded scenes.
START_SPREAD: Final = np.full(5, 0.1)
SCENE_SPREAD: Final = np.array([0.9, 0.9, 1.2, 1.2, 1.5])

#: Metres from the base's axis and above the floor that the hand stays within in recorded scenes: a little more than
#: where targets are, since an arm passes beyond them on its way.
SCENE_HAND_DISTANCE: Final = 0.8
SCENE_HAND_HEIGHT: Final = 0.95

RANDOMIZATIONS: Final = ("start", "color", "size", "textures", "light")

#: Cameras stand here and look at the middle of the arm's workspace.
DOME: Final = Dome(center=(0.0, 0.0, 0.4), radius=(1.7, 2.0), elevation=(20.0, 60.0))
FIXED: Final = Fixed(
    {name: DOME.at(azimuth, 35.0) for name, azimuth in {"front": 0, "left": 100, "right": -100, "back": 180}.items()}
)

#: What each entry of the state is divided by for a policy: the last nine are positions.
_UNITS: Final = np.array([1.0] * 18 + [LENGTH_UNIT] * 9, np.float32)


class ArmReach(SceneEnv):
    """Reach a ball in a room with a six-joint arm, told where to go only by what the cameras see.

    **Action** ``Box(-1, 1, (6,))``: joint velocities as a share of the firmware's limits, 36 deg/s for joints 1-3
    and 48 deg/s for 4-6, held for 0.1 s by velocity actuators with the real torque limits. Fingers stay half open.
    Nothing bears the arm's weight but these: without a command the hand sinks by 2 cm in an episode. Wrists reach a
    commanded speed within three decisions.

    **Observation** by ``obs_mode``:

    - ``views``: ``images`` (K, H, W, 3) uint8; ``poses`` (K, 5) x, y, z (m), yaw, pitch (rad); ``proprio`` (21,):
      cosines and sines of the six joint angles, joint velocities as a share of their limits, and the hand's
      position (forward kinematics, as arm controllers report it) in units of 0.25 m; ``frame`` (4,): that position in
      metres, and 0 for the yaw: where a policy sees the points of a scene vector from;
    - ``pixels``: the K images stacked by channel, (H, W, 3K) uint8;
    - ``state`` (27,): proprio, the target's position, and the vector from hand to target, in units of 0.25 m.

    **Reward** at every step: minus the distance in metres, plus 1 while the hand is inside the ball.

    **Episode**: 25 decisions (2.5 s), truncated, never terminated. ``info`` holds ``distance`` (m) and
    ``is_success``, whether the hand is inside the ball now.

    ``shadows``: whether views have shadows too, as ``render()`` always has; they make views slower.

    ``camera_elevation``: lowest and highest elevation, degrees, of cameras that are not fixed and of recordings; by
    default those of :data:`DOME`.

    ``randomize`` lists what changes with each episode: ``start`` (the arm's start pose; otherwise the home pose),
    ``color`` and ``size`` of the target, ``textures`` of floor and walls, ``light`` (how bright the lamp is). The
    target's place always does. The same seed gives the same episode.
    """

    scene_factors = ("target", "arm", "appearance")
    state_groups = MappingProxyType({"hand": slice(18, 21), "target": slice(21, 24), "offset": slice(24, 27)})
    state_size, proprio_size = 27, 21
    has_frame = True
    small_geoms = (kinova.COMMON_GROUP, kinova.SMALL_GROUP)
    detailed_geoms = (kinova.COMMON_GROUP, kinova.DETAILED_GROUP)
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_STEP)}  # noqa: RUF012

    def __init__(
        self,
        *,
        obs_mode: ObservationMode = "views",
        cameras: CameraMode = "fixed",
        views: int = 2,
        camera_names: tuple[str, ...] | None = None,
        image_size: int | tuple[int, int] = 64,
        randomize: Iterable[str] = ("start",),
        render_mode: str | None = None,
        render_size: int | tuple[int, int] = 480,
        shadows: bool = False,
        camera_elevation: tuple[float, float] | None = None,
    ) -> None:
        names = as_names("randomize", randomize)
        self.randomize = frozenset(choose("randomize", name, RANDOMIZATIONS) for name in names)
        super().__init__(
            _compile(),
            dome=DOME,
            fixed=FIXED,
            obs_mode=obs_mode,
            cameras=cameras,
            views=views,
            camera_names=camera_names,
            image_size=image_size,
            render_mode=render_mode,
            render_size=render_size,
            shadows=shadows,
            camera_elevation=camera_elevation,
            quality=SMOOTH,
        )
        self.action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)
        model = self.model
        self._target_body = model.body("target").mocapid[0]
        self._target_geom = model.geom("target").id
        self._appearance = Appearance(model)
        self._hand = model.site(kinova.PINCH_SITE).id
        self._arm_qpos = np.array([model.joint(name).qposadr[0] for name in kinova.ARM_JOINTS])
        self._arm_qvel = np.array([model.joint(name).dofadr[0] for name in kinova.ARM_JOINTS])
        self._finger_qpos = np.array([model.joint(name).qposadr[0] for name in kinova.FINGER_JOINTS])
        self._substeps = round(CONTROL_STEP / PHYSICS_STEP)

    # Truth ----------------------------------------------------------------------------------------------------

    @property
    def hand_position(self) -> NDArray[np.float64]:
        """The point between the fingertips, metres (3,)."""
        return self.data.site_xpos[self._hand].copy()

    @property
    def target_position(self) -> NDArray[np.float64]:
        """The ball's centre, metres (3,)."""
        return self.data.mocap_pos[self._target_body].copy()

    @property
    def target_radius(self) -> float:
        """The ball's radius, metres."""
        return float(self.model.geom_size[self._target_geom, 0])

    def _proprio(self) -> NDArray[np.float64]:
        angles = self.data.qpos[self._arm_qpos]
        speeds = self.data.qvel[self._arm_qvel] / kinova.MAX_VELOCITY
        return np.concatenate([np.cos(angles), np.sin(angles), speeds, self.hand_position])

    def proprio(self) -> NDArray[np.float32]:
        return (self._proprio() / _UNITS[: self.proprio_size]).astype(np.float32)

    def state(self) -> NDArray[np.float32]:
        hand, target = self.hand_position, self.target_position
        return np.concatenate([self._proprio(), target, target - hand]).astype(np.float32)

    def frame(self) -> NDArray[np.float32]:
        return np.array([*self.hand_position, 0.0], np.float32)

    def oracle(self) -> NDArray[np.float32]:
        return self.state() / _UNITS

    # Gymnasium ------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; takes no options."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self._draw_appearance(self.np_random)
        angles = kinova.HOME.copy()
        if "start" in self.randomize:
            angles[0] = self.np_random.uniform(-np.pi, np.pi)
            angles[1:] += self.np_random.uniform(-START_SPREAD, START_SPREAD)
        self._set_arm(angles)
        self._draw_target(self.np_random, near_hand=True)
        self._place_cameras(new_episode=True)
        return self._observe(), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Hold joint velocities ``action`` (6,), a share of their limits in [-1, 1], for one control step."""
        check_action(self.action_space, action)
        self.data.ctrl[:6] = np.clip(action, -1.0, 1.0) * kinova.MAX_VELOCITY
        mujoco.mj_step(self.model, self.data, nstep=self._substeps)
        mujoco.mj_kinematics(self.model, self.data)  # positions of now, not of one physics step ago
        self._place_cameras(new_episode=False)
        info = self._info()
        return self._observe(), float(info["is_success"]) - info["distance"], False, False, info

    def _info(self) -> dict[str, Any]:
        distance = float(np.linalg.norm(self.target_position - self.hand_position))
        return {"distance": distance, "is_success": distance < self.target_radius}

    # Scenes ---------------------------------------------------------------------------------------------------

    def draw_factor(self, factor: str, rng: np.random.Generator) -> None:
        """Draw ``target``, ``arm`` or ``appearance`` anew, over all that an episode may come to show."""
        choose("factor", factor, self.scene_factors)
        if factor == "target":
            self._draw_target(rng, near_hand=False)
        elif factor == "arm":
            self._draw_arm(rng)
        else:
            self._draw_appearance(rng)

    def perturb_factor(self, factor: str, rng: np.random.Generator) -> None:
        """Move ``target`` or ``arm`` part of the way to another draw; ``appearance`` is drawn anew.

        The part is that of :func:`gqn_rl.envs.base.part_of_the_way`. Where the ball's colour and size are random, it
        gets new ones: only its place is near. Of the arm, a random number of joints next to the base, one to four,
        keeps still, so that scenes also differ in the hand alone.
        """
        choose("factor", factor, self.scene_factors)
        if factor == "target":
            before = self.target_position
            while True:
                self._draw_target(rng, near_hand=False)
                position = before + part_of_the_way(rng) * (self.target_position - before)
                if np.hypot(*position[:2]) > TARGET_DISTANCE[0]:
                    break
            self.data.mocap_pos[self._target_body] = position
            mujoco.mj_kinematics(self.model, self.data)
        elif factor == "arm":
            self._draw_arm(rng, before=self.data.qpos[self._arm_qpos].copy())
        else:
            self._draw_appearance(rng)

    def _draw_arm(self, rng: np.random.Generator, before: NDArray[np.float64] | None = None) -> None:
        """Any pose about home that touches neither itself nor the floor, with the hand near where targets are.

        With ``before``, a pose part of the way from there to such a pose; see :meth:`perturb_factor`.
        """
        while True:
            angles = kinova.HOME + np.concatenate(
                [rng.uniform(-np.pi, np.pi, 1), rng.uniform(-SCENE_SPREAD, SCENE_SPREAD)]
            )
            if before is not None:
                still = rng.integers(1, len(angles) - 1)
                move = part_of_the_way(rng) * (angles - before)
                angles = before + np.where(np.arange(len(angles)) >= still, move, 0.0)
            self._set_arm(angles)
            x, y, z = self.hand_position
            if self.data.ncon == 0 and np.hypot(x, y) < SCENE_HAND_DISTANCE and 0 < z < SCENE_HAND_HEIGHT:
                return

    def _set_arm(self, angles: NDArray[np.float64]) -> None:
        self.data.qvel[:] = 0
        self.data.qpos[self._arm_qpos] = angles
        self.data.qpos[self._finger_qpos] = kinova.FINGER_ANGLE
        mujoco.mj_forward(self.model, self.data)

    def _draw_target(self, rng: np.random.Generator, *, near_hand: bool) -> None:
        low, high = START_DISTANCE
        while True:
            # Uniform over the volume of a thick-walled cylinder: the radius's square is uniform.
            radius = np.sqrt(rng.uniform(*np.square(TARGET_DISTANCE)))
            angle = rng.uniform(-np.pi, np.pi)
            position = np.array([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(*TARGET_HEIGHT)])
            if not near_hand or low <= np.linalg.norm(position - self.hand_position) <= high:
                break
        self.data.mocap_pos[self._target_body] = position
        size = rng.uniform(*TARGET_RADII) if "size" in self.randomize else TARGET_RADIUS
        self.model.geom_size[self._target_geom, 0] = size
        self.model.geom_rbound[self._target_geom] = size
        color = vivid_color(rng) if "color" in self.randomize else TARGET_COLOR
        self.model.geom_rgba[self._target_geom, :3] = color
        mujoco.mj_kinematics(self.model, self.data)

    def _draw_appearance(self, rng: np.random.Generator) -> None:
        """Floor, walls and light."""
        self._appearance.draw(self.data, rng, textures="textures" in self.randomize, light="light" in self.randomize)


def _compile() -> mujoco.MjModel:
    """The room, the arm and the ball."""
    spec = room_spec("arm_reach", PHYSICS_STEP)
    kinova.add_jaco(spec)
    target = spec.worldbody.add_body(name="target", mocap=True, pos=[0.5, 0, 0.4])
    target.add_geom(
        name="target",
        type=mujoco.mjtGeom.mjGEOM_SPHERE,
        size=[TARGET_RADIUS, 0, 0],
        rgba=[*TARGET_COLOR, 1],
        contype=0,
        conaffinity=0,
    )
    return spec.compile()
