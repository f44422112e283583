"""ArmPick: a Kinova Jaco grasps a ball on a low table with its three fingers and lifts it."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from gqn_rl.cameras import Dome, Fixed
from gqn_rl.envs import kinova
from gqn_rl.envs.arm_room import Appearance, room_spec, vivid_color
from gqn_rl.envs.base import CameraMode, ObservationMode, SceneEnv, as_names, check_action, choose, part_of_the_way
from gqn_rl.types import Pose

Reward = Literal["dense", "sparse"]

#: Seconds between decisions: 10 Hz, as in ArmReach.
CONTROL_STEP: Final = 0.1
#: Seconds between two solutions of the inverse kinematics; the hand moves 3 mm along an axis meanwhile.
IK_STEP: Final = 0.02
#: Seconds of one physics step.
PHYSICS_STEP: Final = 0.005

#: m/s along each axis: three quarters of the 20 cm/s that Kinova states for the real arm, so that where the ball may
#: lie no joint comes to its limit while the hand moves along one axis.
HAND_SPEED: Final = 0.15
#: rad/s: about what the fingers' 1 N m attain against the resistance of their joints.
FINGER_SPEED: Final = 1.2
#: N m and N m s/rad. At 1 rad/s they resist as dm_control's do (0.1 and 0.75), but mostly by dry friction: the real
#: fingers are driven by screws, which cannot be turned back. With little friction two fingers push the third away.
FINGER_FRICTION: Final = 0.5
FINGER_DAMPING: Final = 0.35
#: 1/s: how fast a tilt of the hand is taken back.
UPRIGHT_GAIN: Final = 5.0
#: Damping of the least squares, against the Jacobian's least singular value of 0.08 to 0.15 in the workspace: it costs
#: 2 % of the speed at worst, and bounds the joints' speeds should the hand be pushed to where the arm is stretched.
DAMPING: Final = 0.01

#: Metres: half the table's sides, its middle, and the height of its top. Low and near is where the hand that points
#: down moves best; 0.6 m from the base's axis it gets no farther.
TABLE_SIZE: Final = (0.2, 0.35)
TABLE_CENTER: Final = (0.42, 0.0)
TABLE_TOP: Final = 0.1
TABLE_COLOR: Final = (0.5, 0.42, 0.36)

#: Metres and kg: a ball that the hand can enclose.
BALL_RADIUS: Final = 0.04
BALL_MASS: Final = 0.1
BALL_COLOR: Final = (0.85, 0.1, 0.1)
#: Coefficients of sliding (rubber on plastic), torsional (m) and rolling (m) friction of everything that touches the
#: ball. The last stops a ball that was knocked within centimetres.
BALL_FRICTION: Final = (1.0, 0.02, 0.0005)
#: Metres, x and y: where the ball lies at the start of an episode.
BALL_AREA: Final = np.array([[0.34, -0.15], [0.46, 0.15]])
#: Share of recorded scenes in which the ball is above the table, where a hand may have taken it.
AIR_SHARE: Final = 0.25

#: Metres in the hand's own frame, whose -z axis the fingers point along: the middle of a ball that they enclose.
GRASP_POINT: Final = (0.0, 0.0, -0.175)
#: Metres, lowest and highest x, y and z that the grasp point may be driven to. At the lowest, the tips of closing
#: fingers pass 7 mm above the table.
WORKSPACE: Final = np.array([[0.28, -0.2, TABLE_TOP + 0.035], [0.52, 0.2, TABLE_TOP + 0.3]])
#: Metres: the grasp point when an episode begins, and how far the randomised start is from there along each axis.
START: Final = np.array([0.4, 0.0, TABLE_TOP + 0.2])
START_SPREAD: Final = np.array([0.06, 0.1, 0.05])
#: Joint angles (rad) with the grasp point at START: elbow up, finger 1 nearest to the base, every limit far.
START_ANGLES: Final = np.array([2.994, 3.487, 1.502, -0.386, 1.366, 1.037])
#: Columns: the axes of the hand that points down, in the world.
DOWNWARD: Final = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
#: Radians: the fingers' range, open to closed (Kinova's model), and where they are when an episode begins.
FINGER_RANGE: Final = (0.15, 1.35)
START_FINGER: Final = 0.3

#: Metres above where it lies on the table: a ball held this high is picked.
LIFT_HEIGHT: Final = 0.1
#: Metres: at this distance between grasp point and ball the reaching term is 0.24 (robosuite's Lift: 1 - tanh(10 d)).
REACH_SCALE: Final = 0.1
#: What the stages add to the reward at most; together one. The last keeps policies from hovering about LIFT_HEIGHT,
#: where a millimetre decides on success and the lift itself hardly pays.
REACH_REWARD: Final = 0.2
GRASP_REWARD: Final = 0.3
LIFT_REWARD: Final = 0.4
SUCCESS_REWARD: Final = 0.1

#: Metres that count as one in what a policy sees: what matters here are centimetres.
LENGTH_UNIT: Final = 0.1
RANDOMIZATIONS: Final = ("start", "color", "textures", "light")

#: Cameras stand here and look at what happens over the table; none behind the arm, which would hide it.
DOME: Final = Dome(
    center=(0.4, 0.0, TABLE_TOP + 0.15), radius=(1.0, 1.2), elevation=(20.0, 60.0), azimuth=(-120.0, 120.0)
)
FIXED: Final = Fixed(
    {name: DOME.at(azimuth, 30.0) for name, azimuth in {"left": 70, "right": -70, "front": 0, "back": 120}.items()}
)

_GRASP_SITE: Final = "grasp"
#: What each entry of the state is divided by for a policy.
_UNITS: Final = np.array([1.0] * 21 + [LENGTH_UNIT] * 9 + [HAND_SPEED] * 3, np.float32)


class ArmPick(SceneEnv):
    """Pick up a ball from a low table with a three-fingered hand.

    **Action** ``Box(-1, 1, (4,))``: the hand's velocity along the world's x, y and z axes as a share of 0.15 m/s,
    and where the fingers are to go, from open (-1) to closed (1), at up to 1.2 rad/s. A finger that the ball stops
    presses on it with up to its real 1 N m; around the ball they are half closed (0). The hand points down and does
    not turn. Damped least squares give the joint velocities, 50 times a second; where one would exceed the firmware's
    limit (36 deg/s for joints 1-3, 48 deg/s for 4-6), all are reduced alike. At the borders of its workspace, a box
    of 24 x 40 x 26.5 cm over the table, the hand slows down and stops. The arm's weight is compensated, as the real
    arm's controller does it; the ball's is not.

    Commands for the hand instead of for six joints are what the tasks of Fetch and panda-gym take. Their fingers are
    told how far to move, ours where to be: under an explorer's noise ours waver about half closed, and so take hold
    of a ball that the hand is at, where fingers that add up the noise hardly move.

    **Observation** by ``obs_mode``:

    - ``views``: ``images`` (K, H, W, 3) uint8; ``poses`` (K, 5) x, y, z (m), yaw, pitch (rad); ``proprio`` (24,):
      cosines and sines of the six joint angles, joint velocities as a share of their limits, how far each finger is
      closed (0 to 1), and the grasp point, the middle of a ball that the fingers enclose, in units of 0.1 m;
    - ``pixels``: the K images stacked by channel, (H, W, 3K) uint8;
    - ``state`` (33,): proprio, the ball's position and the vector from grasp point to ball in units of 0.1 m, and the
      ball's velocity in units of 0.15 m/s.

    **Reward** at every step. ``dense``: 0.2 (1 - tanh(distance / 0.1 m)), plus 0.3 while the hand holds the ball,
    plus, while it does, 0.4 times the square root of the ball's height over its place on the table as a share of
    10 cm, at most 1, plus 0.1 on success; these are the stages of robosuite's Lift, in [0, 1]. By the root the first
    millimetres count.
    ``sparse``: 0 on success, else -1, as in Gymnasium's Fetch. The hand *holds* the ball while finger 1 and one of the
    two opposite touch it.

    **Episode**: 50 decisions (5 s), truncated, never terminated. ``info`` holds ``distance`` between grasp point and
    ball (m), ``height`` of the ball over its place on the table (m), ``held``, and ``is_success``: held at 10 cm
    or more now.

    ``shadows``: whether views have shadows too, as ``render()`` always has; they make views slower.

    ``camera_elevation``: lowest and highest elevation, degrees, of cameras that are not fixed and of recordings; by
    default those of :data:`DOME`.

    ``randomize`` lists what changes with each episode: ``start`` (where the hand is), ``color`` of the ball,
    ``textures`` of floor and walls, ``light`` (how bright the lamp is). The ball's place on the table always does. Its
    size does not: a ball of another size is another grasp. The same seed gives the same episode.
    """

    scene_factors = ("target", "arm", "appearance")
    state_groups = MappingProxyType({"hand": slice(21, 24), "target": slice(24, 27), "offset": slice(27, 30)})
    state_size, proprio_size = 33, 24
    has_frame = True
    small_geoms = (kinova.COMMON_GROUP, kinova.SMALL_GROUP)
    detailed_geoms = (kinova.COMMON_GROUP, kinova.DETAILED_GROUP)
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_STEP)}  # noqa: RUF012

    def __init__(
        self,
        *,
        obs_mode: ObservationMode = "views",
        reward: Reward = "dense",
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
        self.reward: Reward = choose("reward", reward, get_args(Reward))
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
        )
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        model = self.model
        self._appearance = Appearance(model)
        self._grasp = model.site(_GRASP_SITE).id
        self._ball_geom = model.geom("ball").id
        self._ball_qpos = model.joint("ball").qposadr[0] + np.arange(3)
        self._ball_qvel = model.joint("ball").dofadr[0] + np.arange(3)
        self._arm_qpos = np.array([model.joint(name).qposadr[0] for name in kinova.ARM_JOINTS])
        self._arm_qvel = np.array([model.joint(name).dofadr[0] for name in kinova.ARM_JOINTS])
        self._finger_qpos = np.array([model.joint(name).qposadr[0] for name in kinova.FINGER_JOINTS])
        self._finger_geoms = [
            frozenset(model.geom(f"jaco/hand/finger_{part}_{i}").id for part in ("knuckle", "tip")) for i in (1, 2, 3)
        ]
        self._jacobian = np.zeros((6, model.nv))

    # Truth ----------------------------------------------------------------------------------------------------

    @property
    def hand_position(self) -> NDArray[np.float64]:
        """The grasp point, metres (3,)."""
        return self.data.site_xpos[self._grasp].copy()

    @property
    def target_position(self) -> NDArray[np.float64]:
        """The ball's centre, metres (3,)."""
        return self.data.qpos[self._ball_qpos]

    @property
    def held(self) -> bool:
        """Whether finger 1 and one of the two opposite touch the ball."""
        pairs = self.data.contact.geom
        touching = set(pairs[(pairs == self._ball_geom).any(axis=1)].ravel().tolist())
        first, second, third = (bool(finger & touching) for finger in self._finger_geoms)
        return first and (second or third)

    def _proprio(self) -> NDArray[np.float64]:
        angles = self.data.qpos[self._arm_qpos]
        speeds = self.data.qvel[self._arm_qvel] / kinova.MAX_VELOCITY
        low, high = FINGER_RANGE
        closed = (self.data.qpos[self._finger_qpos] - low) / (high - low)
        return np.concatenate([np.cos(angles), np.sin(angles), speeds, closed, self.hand_position])

    def frame(self) -> NDArray[np.float32]:
        return np.array([*self.hand_position, 0.0], np.float32)

    def proprio(self) -> NDArray[np.float32]:
        return (self._proprio() / _UNITS[: self.proprio_size]).astype(np.float32)

    def state(self) -> NDArray[np.float32]:
        hand, target = self.hand_position, self.target_position
        velocity = self.data.qvel[self._ball_qvel]
        return np.concatenate([self._proprio(), target, target - hand, velocity]).astype(np.float32)

    def oracle(self) -> NDArray[np.float32]:
        return self.state() / _UNITS

    @property
    def render_pose(self) -> Pose:
        return self.dome.at(-60.0, 20.0, 1.3)

    # Gymnasium ------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; takes no options."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self._draw_appearance(self.np_random)
        self._draw_color(self.np_random)
        start = START.copy()
        if "start" in self.randomize:
            start += self.np_random.uniform(-START_SPREAD, START_SPREAD)
        self._set_ball([*self.np_random.uniform(*BALL_AREA), TABLE_TOP + BALL_RADIUS])
        self._set_arm(start, START_FINGER)
        self._place_cameras(new_episode=True)
        return self._observe(), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the hand at velocity ``action[:3]`` and the fingers to ``action[3]``, in [-1, 1], for a control step."""
        check_action(self.action_space, action)
        shares = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        finger = np.interp(shares[3], (-1.0, 1.0), FINGER_RANGE)
        for _ in range(round(CONTROL_STEP / IK_STEP)):
            missing = finger - self.data.qpos[self._finger_qpos]
            self.data.ctrl[6:9] = np.clip(missing / CONTROL_STEP, -FINGER_SPEED, FINGER_SPEED)
            self.data.ctrl[:6] = self._joint_velocities(shares[:3] * HAND_SPEED)
            mujoco.mj_step(self.model, self.data, nstep=round(IK_STEP / PHYSICS_STEP))
        mujoco.mj_fwdPosition(self.model, self.data)  # positions and contacts of now, not of one physics step ago
        self._place_cameras(new_episode=False)
        info = self._info()
        return self._observe(), self._reward(info), False, False, info

    def _info(self) -> dict[str, Any]:
        target = self.target_position
        height, held = float(target[2]) - TABLE_TOP - BALL_RADIUS, self.held
        return {
            "distance": float(np.linalg.norm(target - self.hand_position)),
            "height": height,
            "held": held,
            "is_success": held and height >= LIFT_HEIGHT,
        }

    def _reward(self, info: dict[str, Any]) -> float:
        if self.reward == "sparse":
            return float(info["is_success"]) - 1.0
        reach = REACH_REWARD * (1.0 - np.tanh(info["distance"] / REACH_SCALE))
        # Linearly, a hand that has learnt to go down to the ball gains so little from a moment's rise that one of three
        # runs of SAC held it on the table for good.
        lifted = np.sqrt(np.clip(info["height"] / LIFT_HEIGHT, 0.0, 1.0))
        held = GRASP_REWARD + LIFT_REWARD * lifted + SUCCESS_REWARD * info["is_success"]
        return float(reach + info["held"] * held)

    # Inverse kinematics ---------------------------------------------------------------------------------------

    def _joint_velocities(self, velocity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Joint velocities (6,) rad/s that move the grasp point at ``velocity`` (3,) m/s and hold the hand upright."""
        room = (WORKSPACE - self.hand_position) / CONTROL_STEP
        velocities = self._least_squares(np.clip(velocity, *room), UPRIGHT_GAIN * self._tilt())
        velocities /= max(1.0, np.abs(velocities / kinova.MAX_VELOCITY).max())
        # The wrist's motors take up to 0.25 s to reach a speed; meanwhile the strong joints make good for them.
        big, wrist = np.split(self._jacobian[:3, self._arm_qvel], 2, axis=1)
        owed = wrist @ (velocities[3:] - self.data.qvel[self._arm_qvel[3:]])
        velocities[:3] += np.linalg.solve(big, owed)
        return velocities

    def _least_squares(self, move: NDArray[np.float64], turn: NDArray[np.float64]) -> NDArray[np.float64]:
        """J^T (J J^T + DAMPING^2)^-1 (move, turn): what the joints (6,) do for the grasp point to move and turn."""
        mujoco.mj_jacSite(self.model, self.data, self._jacobian[:3], self._jacobian[3:], self._grasp)
        jacobian = self._jacobian[:, self._arm_qvel]
        damped = jacobian @ jacobian.T + DAMPING**2 * np.eye(6)
        return jacobian.T @ np.linalg.solve(damped, np.concatenate([move, turn]))

    def _tilt(self) -> NDArray[np.float64]:
        """The rotation (3,) that would make the hand point down: its axis times the sine of its angle."""
        hand = self.data.site_xmat[self._grasp].reshape(3, 3)
        return np.cross(hand, DOWNWARD, axis=0).sum(axis=1) / 2

    # Scenes ---------------------------------------------------------------------------------------------------

    def draw_factor(self, factor: str, rng: np.random.Generator) -> None:
        """Draw ``target``, ``arm`` or ``appearance`` anew, over all that an episode may come to show."""
        choose("factor", factor, self.scene_factors)
        if factor == "target":
            place = _ball_place(rng)
            self._draw_color(rng)
            self._set_ball(place)
        elif factor == "arm":
            self._set_arm(rng.uniform(*WORKSPACE), rng.uniform(*FINGER_RANGE))
        else:
            self._draw_appearance(rng)

    def perturb_factor(self, factor: str, rng: np.random.Generator) -> None:
        """Move ``target``, or the ``arm`` and its fingers, part of the way to another draw; the ball keeps its colour.

        The part is that of :func:`gqn_rl.envs.base.part_of_the_way`. ``appearance`` is drawn anew.
        """
        choose("factor", factor, self.scene_factors)
        part = part_of_the_way(rng)
        if factor == "target":
            before = self.target_position
            self._set_ball(before + part * (_ball_place(rng) - before))
        elif factor == "arm":
            hand, finger = self.hand_position, float(self.data.qpos[self._finger_qpos[0]])
            finger += part * (rng.uniform(*FINGER_RANGE) - finger)
            self._set_arm(hand + part * (rng.uniform(*WORKSPACE) - hand), finger)
        else:
            self._draw_appearance(rng)

    def _set_ball(self, place: ArrayLike) -> None:
        self.data.qpos[self._ball_qpos] = place
        self.data.qvel[:] = 0
        mujoco.mj_fwdPosition(self.model, self.data)

    def _set_arm(self, place: NDArray[np.float64], finger: float) -> None:
        """Put the grasp point at ``place`` (3,) in metres, the hand pointing down, by Newton's method."""
        self.data.qvel[:] = 0
        self.data.qpos[self._arm_qpos] = START_ANGLES
        self.data.qpos[self._finger_qpos] = finger
        for _ in range(50):
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_comPos(self.model, self.data)
            missing, tilt = place - self.hand_position, self._tilt()
            if np.abs(missing).max() < 1e-5 and np.abs(tilt).max() < 1e-5:
                break
            self.data.qpos[self._arm_qpos] += self._least_squares(missing, tilt)
        mujoco.mj_forward(self.model, self.data)

    def _draw_color(self, rng: np.random.Generator) -> None:
        color = vivid_color(rng) if "color" in self.randomize else BALL_COLOR
        self.model.geom_rgba[self._ball_geom, :3] = color

    def _draw_appearance(self, rng: np.random.Generator) -> None:
        """Floor, walls and light."""
        self._appearance.draw(self.data, rng, textures="textures" in self.randomize, light="light" in self.randomize)


def _ball_place(rng: np.random.Generator) -> NDArray[np.float64]:
    """Anywhere that a hand may take the ball, metres (3,), mostly on the table."""
    place, on_table = rng.uniform(*WORKSPACE), TABLE_TOP + BALL_RADIUS
    place[2] = max(place[2], on_table) if rng.random() < AIR_SHARE else on_table
    return place


def _compile() -> mujoco.MjModel:
    """The room, the arm, the table and the ball."""
    spec = room_spec("arm_pick", PHYSICS_STEP)
    # Elliptic cones and friction harder than the contact: else the ball creeps out of still fingers within 2 s
    # (MuJoCo's documentation, "Preventing slip").
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 100.0
    kinova.add_jaco(spec)
    for body in spec.bodies:
        if body.name.startswith("jaco/"):
            body.gravcomp = 1.0
    spec.body("jaco/hand/hand").add_site(name=_GRASP_SITE, pos=GRASP_POINT, group=4)
    spec.worldbody.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[*TABLE_SIZE, TABLE_TOP / 2],
        pos=[*TABLE_CENTER, TABLE_TOP / 2],
        rgba=[*TABLE_COLOR, 1],
    )
    ball = spec.worldbody.add_body(name="ball", pos=[*TABLE_CENTER, TABLE_TOP + BALL_RADIUS])
    ball.add_freejoint(name="ball")
    ball.add_geom(
        name="ball",
        type=mujoco.mjtGeom.mjGEOM_SPHERE,
        size=[BALL_RADIUS, 0, 0],
        mass=BALL_MASS,
        rgba=[*BALL_COLOR, 1],
        condim=6,
        friction=BALL_FRICTION,
        solref=[2 * PHYSICS_STEP, 1.0],  # as stiff as the physics step allows, so that
        solimp=[0.95, 0.99, 0.001, 0.5, 2.0],  # the arm at full force presses it 2 mm into the table
        priority=1,  # its contacts, with fingers and table alike, have the ball's parameters
    )
    model = spec.compile()
    fingers = [model.joint(name).dofadr[0] for name in kinova.FINGER_JOINTS]
    model.dof_frictionloss[fingers], model.dof_damping[fingers] = FINGER_FRICTION, FINGER_DAMPING
    return model
