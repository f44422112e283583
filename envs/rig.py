"""CameraRig: cameras, poses and ground truth for any MuJoCo environment that was made without them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from numbers import Real
from typing import Any, Final, Literal, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gqn_rl.cameras import CONVENTION, Dome, check_fovy, size_pair
from gqn_rl.envs.base import FOVY, CameraMode, as_names, check_action, choose, part_of_the_way, whole
from gqn_rl.envs.renderer import DETAILED, SMOOTH, renderer_version
from gqn_rl.envs.rig_known import known
from gqn_rl.envs.rig_stage import Stage, StageRenderer, import_plugin, make_inner, simulation
from gqn_rl.envs.rig_survey import (
    Policy,
    check_observed,
    everything,
    find_policy,
    go_on,
    observed_numbers,
    play,
    survey,
)
from gqn_rl.types import POSE_SIZE, Image, Pose, SceneSource

Placement = Literal["dome", "ring"]
RigMode = Literal["views", "pixels", "state", "oracle"]

#: Degrees above the horizon that cameras stand, as ArmReach's do.
ELEVATIONS: Final[Mapping[str, tuple[float, float]]] = {"dome": (20.0, 60.0), "ring": (35.0, 35.0)}
#: Parts of a Dict observation that say where the goal is.
GOAL_KEYS: Final = ("achieved_goal", "desired_goal")
#: Steps that a perturbed robot goes on for, at most.
PERTURBING_STEPS: Final = 4
#: What tells the cameras' random numbers from the environment's, which begin from the same seed.
_CAMERAS: Final = 0xCA3E7A


class CameraRig(gym.Env[Any, Any]):
    """Any environment with a MuJoCo model, seen by cameras: the same actions, rewards, ends of episodes and ``info``.

    ``unwrapped`` of the environment has MuJoCo's ``model`` and ``data`` (Gymnasium, gymnasium-robotics) or dm_control's
    ``physics`` (through shimmy). A sphere around what moves fills the pictures; it is found by watching some episodes
    of random actions, and so are the azimuths from where nothing big stands in the way.

    **Coordinates**: camera poses, ``frame`` and ``state_groups`` are metres from the middle of that sphere,
    :attr:`center`, along the axes of the world. Encoders expect scenes about the origin.

    **Observation** by ``obs_mode``:

    - ``views``: ``images`` (K, H, W, 3) uint8; ``poses`` (K, 5) x, y, z (m), yaw, pitch (rad); where something of the
      environment's own observation is to be seen, ``proprio`` (P,): these numbers, less their mean under random actions
      and divided by their standard deviation then; and, where ``frame`` says what acts, ``frame`` (4,): its
      x, y, z (m), and 0 for the yaw;
    - ``pixels``: the K images stacked by channel, (H, W, 3K) uint8;
    - ``state``: the environment's own observation, unchanged: goals too, for hindsight (``compute_reward`` is there if
      the environment has it);
    - ``oracle``: what a policy is told that others have to see, float32 (N,): all numbers of the environment's own
      observation, less their mean under random actions and divided by their standard deviation then, and, where
      ``frame`` says what acts, the way from there to each goal, in the goal's standard deviations.

    **Scenes** begin like an episode and go on for a random number of random actions. Where the goal is a thing of its
    own (gymnasium-robotics), it is one factor and the robot another, otherwise all is one.

    Args:
        env_id: Gymnasium's id, ``my_package:MyEnv-v0`` included.
        env_kwargs: for that environment.
        cameras: ``fixed`` (evenly spaced on the arc), ``episode`` (new poses each episode), ``moving`` (each step).
        placement: ``dome`` (elevations of 20 to 60 degrees, a thick shell) or ``ring`` (one elevation and distance).
        views: how many cameras look, K >= 1. From two, FetchReach's own arm hides the goal in one scene of ten, from
            three in one of seventy.
        image_size: height and width of a view, pixels.
        fovy: vertical field of view, degrees.
        center: the point that cameras look at, x, y, z in the world (m), instead of the one found.
        radius: their distance from there (m), a number or (nearest, farthest), instead of the one found.
        elevation: degrees above the horizon, a number or (lowest, highest), instead of the placement's.
        azimuth: degrees about z from +x, (from, to), counter-clockwise, instead of the arc found.
        hide, show: elements of the model, ``geom:NAME``, ``site:NAME`` or ``body:NAME``, that cameras do not see, and
            that they do see although their group is not one that MuJoCo's viewer shows.
        observe: the parts of a Dict observation that a policy may see beside the pictures; by default
            ``observation``, never a goal. In environments with objects it often holds where these are.
        proprio: indices of the numbers that a policy may see, in the flat observation or in the observed parts, laid
            end to end. By default all of the parts, and nothing of a flat observation, where nobody knows what is the
            robot's own (:mod:`gqn_rl.envs.rig_known` lists the environments of which it is known).
        frame: the element that acts, or ``achieved_goal``; ``none`` for none where one is known.
        track: ground truth for probes: names to elements. Goals in a Dict observation are tracked anyway.
        scene_steps: the most actions that a scene is away from an episode's beginning.
        policy: ``module:function``, or a function of the environment's observation and a numpy generator, that acts
            in scenes instead of random actions that each last some steps.
        render_mode: ``rgb_array`` or None; render_size: height and width of ``render()``'s picture, pixels.

    Raises:
        ValueError: an option has no valid value, there is no MuJoCo model, nothing is visible, or no camera can be
            placed; the message says what to set.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012

    def __init__(
        self,
        env_id: str,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        cameras: CameraMode = "fixed",
        placement: Placement = "dome",
        views: int = 3,
        image_size: int | tuple[int, int] = 64,
        fovy: float = FOVY,
        center: Sequence[float] | None = None,
        radius: float | Sequence[float] | None = None,
        elevation: float | Sequence[float] | None = None,
        azimuth: Sequence[float] | None = None,
        hide: Sequence[str] = (),
        show: Sequence[str] = (),
        observe: Sequence[str] | None = None,
        proprio: Sequence[int] | None = None,
        frame: str | None = None,
        track: Mapping[str, str] | None = None,
        scene_steps: int = 20,
        policy: str | Policy | None = None,
        obs_mode: RigMode = "views",
        render_mode: str | None = None,
        render_size: int | tuple[int, int] = 480,
    ) -> None:
        self.obs_mode: RigMode = choose("obs_mode", obs_mode, get_args(RigMode))
        self.cameras: CameraMode = choose("cameras", cameras, get_args(CameraMode))
        self.render_mode = choose("render_mode", render_mode, (None, "rgb_array"))
        placement = choose("placement", placement, get_args(Placement))
        self.image_size, self.render_size = size_pair("image_size", image_size), size_pair("render_size", render_size)
        self.views, self._scene_steps = whole("views", views, 1), whole("scene_steps", scene_steps, 0)
        self.fovy = check_fovy(fovy)
        elevations = _pair("elevation", elevation) or ELEVATIONS[placement]
        distances, arc = _pair("radius", radius), _arc(azimuth)
        if distances is not None and distances[0] <= 0:
            raise ValueError(f"radius must be above 0, got {radius!r}")
        for name, (low, high) in (("elevation", elevations), ("radius", distances or (0, 0))):
            if placement == "ring" and low != high:
                raise ValueError(f"placement 'ring' has one {name}, a number; got {(low, high)}")
        middle, hide, show = _triple("center", center), as_names("hide", hide), as_names("show", show)
        observe = None if observe is None else as_names("observe", observe)
        what = known(env_id)
        self._tracked = dict(what.track) if track is None else _track(track)
        if not isinstance(frame, str | None):
            raise ValueError(f"frame must be an element of the model, 'achieved_goal' or 'none', got {frame!r}")
        self._frame = (what.frame if frame is None else None if frame == "none" else frame) or ""

        env_kwargs = {} if env_kwargs is None else env_kwargs
        surveyed_with = _as_json(env_kwargs)
        self.inner = make_inner(env_id, env_kwargs)
        try:
            if fps := self.inner.metadata.get("render_fps"):  # how often it decides is how fast a video has to run
                self.metadata = {**self.metadata, "render_fps": fps}
            self.action_space = self.inner.action_space
            self._policy = find_policy(policy, self.action_space)
            self._observation, _ = self.inner.reset()
            self._goals = _goals(self.inner.observation_space)
            if self._frame == "achieved_goal" and self._frame not in self._goals:
                raise ValueError(f"frame 'achieved_goal': {env_id} has no such position in its observation")
            if observe is None and proprio is None:
                observe, proprio = what.observe, what.proprio
            if self.obs_mode == "oracle":
                observe, proprio = everything(self.inner.observation_space)
            self._observed = check_observed(self.inner.observation_space, observe, proprio)
            self.stage = Stage(self.inner, hide, show)

            acting = "" if self._frame == "achieved_goal" else self._frame
            found = survey(
                env_id,
                surveyed_with,
                (hide, show),
                tuple(dict.fromkeys(filter(None, [*self._tracked.values(), acting]))),
                self._goals,
                self._observed,
                policy,
                elevations,
                self.fovy,
                (middle, distances, arc),
            )
            nearest, farthest = found.radius
            #: Where the origin of poses, frames and states lies in the world, metres (3,).
            self.center = np.array(found.center)
            self._mean, self._scale = (np.array(numbers, np.float32) for numbers in (found.mean, found.scale))
            if self.obs_mode == "oracle" and self._goals:
                parts = self._observed[0]
                ends = np.cumsum([np.asarray(self._observation[part]).size for part in parts])
                self._goal_scales = dict(zip(parts, np.split(self._scale, ends[:-1]), strict=True))
            #: Where cameras may stand, about the origin.
            self.dome = Dome(
                radius=(nearest, nearest) if placement == "ring" else (nearest, farthest),
                elevation=elevations,
                azimuth=found.azimuth,
            )
            self.scene_factors = scene_factors(self.inner)
            groups = [*self._tracked, *self._goals]
            #: Where each tracked position lies in ``state()``; MuJoCo's ``qpos`` follows.
            self.state_groups = {name: slice(3 * i, 3 * i + 3) for i, name in enumerate(groups)}
            self._eyes = StageRenderer(self.stage, *self.image_size, fovy=self.fovy, quality=SMOOTH, views=self.views)
            self._picture = StageRenderer(self.stage, *self.render_size, fovy=self.fovy, quality=DETAILED)
            self._camera_rng = np.random.default_rng()
            #: Whether the episode that the scene is of has ended.
            self._over = False
            self._poses = self._fixed_poses()
            self.observation_space = self._observation_space()
            if self.obs_mode == "state" and self.inner.has_wrapper_attr("compute_reward"):
                # An attribute, not a method: whoever finds it expects goals in the observation.
                self.compute_reward = self.inner.get_wrapper_attr("compute_reward")
        except BaseException:
            self.inner.close()  # somebody else's, which may hold more than memory
            raise

    # Gymnasium ------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode of the environment."""
        super().reset(seed=seed)
        if seed is not None:
            self._camera_rng = np.random.default_rng([seed, _CAMERAS])
        self._observation, info = self.inner.reset(seed=seed, options=options)
        self._over = False
        self._place_cameras(new_episode=True)
        return self._observe(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of the environment; raises ``ValueError`` for an action of another shape, or not finite."""
        if isinstance(self.action_space, (spaces.Box, spaces.Discrete)):
            check_action(self.action_space, action)
        self._observation, reward, terminated, truncated, info = self.inner.step(action)
        self._over = terminated or truncated
        self._place_cameras(new_episode=False)
        return self._observe(), float(reward), terminated, truncated, info

    def render(self) -> Image | None:
        """A detailed picture (*render_size, 3) uint8 in mode ``rgb_array``."""
        if self.render_mode is None:
            gym.logger.warn("render() draws nothing without a render mode; make the environment with 'rgb_array'")
            return None
        low, high = self.dome.azimuth
        pose = self.dome.at(low + 0.6 * (high - low), 25.0)
        return self._picture.render(self.stage.look(), self._in_world(pose[None]))[0]

    def close(self) -> None:
        """Free the OpenGL resources and close the environment."""
        self._eyes.close()
        self._picture.close()
        self.inner.close()

    def _observe(self) -> Any:
        if self.obs_mode == "state":
            return self._observation
        if self.obs_mode == "oracle":
            return self._oracle()
        images = self._eyes.render(self.stage.look(), self._in_world(self._poses))
        if self.obs_mode == "pixels":
            return np.ascontiguousarray(images.transpose(1, 2, 0, 3)).reshape(*self.image_size, -1)
        observation = {"images": images, "poses": self._poses.copy()}
        if len(self._mean):
            observation["proprio"] = self.proprio()
        return {**observation, "frame": self.frame()} if self.has_frame else observation

    def _observation_space(self) -> spaces.Space[Any]:
        height, width = self.image_size
        if self.obs_mode == "state":
            return self.inner.observation_space
        if self.obs_mode == "oracle":
            return spaces.Box(-np.inf, np.inf, self._oracle().shape, np.float32)
        if self.obs_mode == "pixels":
            return spaces.Box(0, 255, (height, width, 3 * self.views), np.uint8)
        parts: dict[str, spaces.Space[Any]] = {
            "images": spaces.Box(0, 255, (self.views, height, width, 3), np.uint8),
            "poses": spaces.Box(-np.inf, np.inf, (self.views, POSE_SIZE), np.float32),
        }
        if len(self._mean):
            parts["proprio"] = spaces.Box(-np.inf, np.inf, self._mean.shape, np.float32)
        if self.has_frame:
            parts["frame"] = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        return spaces.Dict(parts)

    # What the robot knows -------------------------------------------------------------------------------------

    @property
    def has_frame(self) -> bool:
        """Whether it is known what acts."""
        return bool(self._frame)

    def proprio(self) -> NDArray[np.float32]:
        """What a policy may see beside the pictures, float32 (P,), entries of order one."""
        return (observed_numbers(self._observation, *self._observed) - self._mean) / self._scale

    def frame(self) -> NDArray[np.float32]:
        """Where the robot acts: x, y, z (m) from :attr:`center`, and 0 for the yaw; float32 (4,)."""
        if self._frame == "achieved_goal":
            place = np.asarray(self._observation["achieved_goal"], np.float64)
        else:
            place = self.stage.position(self._frame, self.stage.look())
        return np.array([*(place - self.center), 0.0], np.float32)

    def _oracle(self) -> NDArray[np.float32]:
        told = [self.proprio()]
        if self.has_frame and self._goals:
            here = self.frame()[:3] + self.center
            told += [(self._observation[goal] - here) / self._goal_scales[goal] for goal in self._goals]
        return np.concatenate(told, dtype=np.float32)

    # Cameras --------------------------------------------------------------------------------------------------

    @property
    def camera_poses(self) -> NDArray[np.float32]:
        """Where the K cameras are now, (K, 5)."""
        return self._poses.copy()

    @property
    def camera_metadata(self) -> dict[str, Any]:
        """What an encoder has to agree with, and ``distance``: the cameras' mean distance from the middle, metres."""
        return {
            "convention": CONVENTION,
            "fovy": self.fovy,
            "image_size": self.image_size,
            "renderer": renderer_version(),
            "distance": sum(self.dome.radius) / 2,
        }

    def _fixed_poses(self) -> NDArray[np.float32]:
        """K poses on the arc, as far from each other as from its ends; on a whole circle never two face to face.

        There, an odd number stands all around, and an even one as if it were one more.
        """
        low, high = self.dome.azimuth
        shares = np.arange(1, self.views + 1) / (self.views + 1)
        if high - low == 360 and self.views % 2:
            shares = (np.arange(self.views) + 0.5) / self.views
        azimuths = low + (high - low) * shares
        return np.stack([self.dome.at(azimuth, sum(self.dome.elevation) / 2) for azimuth in azimuths])

    def _place_cameras(self, *, new_episode: bool) -> None:
        if self.cameras == "moving" or (self.cameras == "episode" and new_episode):
            self._poses = np.stack([self.sample_pose(self._camera_rng) for _ in range(self.views)])

    def _in_world(self, poses: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.concatenate([poses[:, :3] + self.center, poses[:, 3:]], axis=1)

    # Scene source ---------------------------------------------------------------------------------------------

    def new_scene(self, rng: np.random.Generator) -> None:
        """Draw every factor of the scene anew."""
        for factor in self.scene_factors:
            self.draw_factor(factor, rng)

    def draw_factor(self, factor: str, rng: np.random.Generator) -> None:
        """Draw ``goal`` or ``robot`` anew, the other stays; or the whole ``scene``, where it has no parts."""
        choose("factor", factor, self.scene_factors)
        if factor == "goal":
            self._set_goal(self._draw_goal(rng))
        else:
            goal = self._goal().copy() if "goal" in self.scene_factors else None
            steps = int(rng.integers(self._scene_steps + 1))
            lasted = self._play(play(self.inner, self._policy, rng, steps))
            while self._over:  # what has ended cannot go on: a shorter episode
                lasted = self._play(play(self.inner, self._policy, rng, int(rng.integers(lasted))))
            if goal is not None:
                self._set_goal(goal)

    def perturb_factor(self, factor: str, rng: np.random.Generator) -> None:
        """Move the goal part of the way to another one, or let the robot go on for some actions.

        Where its episode has ended with the actions before, the robot is drawn anew.
        """
        choose("factor", factor, self.scene_factors)
        if factor == "goal":
            before = self._goal()
            self._set_goal(before + part_of_the_way(rng) * (self._draw_goal(rng) - before))
        elif self._over:
            self.draw_factor(factor, rng)
        else:
            steps = int(rng.integers(1, PERTURBING_STEPS + 1))
            self._play(go_on(self.inner, self._policy, self._observation, rng, steps))

    def _play(self, moments: Iterable[tuple[Any, bool]]) -> int:
        """Let the environment go through ``moments``; returns how many there were after the first."""
        count = 0
        for count, (self._observation, self._over) in enumerate(moments):  # noqa: B007
            pass
        return count

    def _goal(self) -> NDArray[np.float64]:
        return np.asarray(self.inner.unwrapped.goal)  # type: ignore[attr-defined]

    def _draw_goal(self, rng: np.random.Generator) -> NDArray[np.float64]:
        inner: Any = self.inner.unwrapped
        inner.np_random = np.random.default_rng(int(rng.integers(2**63)))
        return np.asarray(inner._sample_goal())

    def _set_goal(self, goal: NDArray[np.float64]) -> None:
        inner: Any = self.inner.unwrapped
        inner.goal = goal.copy()
        self._observation = inner._get_obs()

    def sample_pose(self, rng: np.random.Generator) -> Pose:
        """A camera pose (5,) in the dome."""
        return self.dome.sample(rng)

    def render_view(self, pose: Pose) -> Image:
        """The present scene (H, W, 3) uint8 from ``pose`` (5,)."""
        return self._eyes.render(self.stage.look(), self._in_world(np.asarray(pose)[None]))[0]

    def state(self) -> NDArray[np.float32]:
        """Ground truth (S,): positions by :attr:`state_groups`, metres from :attr:`center`; then MuJoCo's ``qpos``."""
        seen = self.stage.look()
        tracked = [self.stage.position(element, seen) for element in self._tracked.values()]
        goals = [np.asarray(self._observation[name]) for name in self._goals]
        places = [place - self.center for place in (*tracked, *goals)]
        return np.concatenate([*places, seen.qpos]).astype(np.float32)


def scene_factors(env: gym.Env[Any, Any]) -> tuple[str, ...]:
    """``("goal", "robot")`` where the goal can be set without touching the robot, otherwise ``("scene",)``.

    Goals that are no positions, but places and attitudes in one (gymnasium-robotics' hands with objects), are drawn
    relative to where the object happens to be.
    """
    inner, space = env.unwrapped, env.observation_space
    methods = all(callable(getattr(inner, name, None)) for name in ("_sample_goal", "_get_obs", "_render_callback"))
    if not (methods and hasattr(inner, "goal") and isinstance(space, spaces.Dict) and GOAL_KEYS[1] in space.spaces):
        return ("scene",)
    return ("goal", "robot") if np.prod(space[GOAL_KEYS[1]].shape or ()) % 3 == 0 else ("scene",)


def rig_for(env_id: str) -> tuple[str, ...] | None:
    """The scene factors of ``env_id`` in a rig, or None where it needs none or can have none.

    An environment needs a rig if it has a MuJoCo model, but shows no views and is no scene source. Raises
    ``ValueError`` when the package that it comes from is missing.
    """
    if env_id.startswith("gqn_rl/"):
        return None
    import_plugin(env_id)
    try:
        env = make_inner(env_id, {})
    except (TypeError, ValueError, ImportError, gym.error.Error):
        return None  # whoever makes it in earnest says what is wrong with it
    try:
        space = env.observation_space
        sees = isinstance(space, spaces.Dict) and {"images", "poses"} <= space.spaces.keys()
        if sees or isinstance(env.unwrapped, SceneSource) or simulation(env) is None:
            return None
        return scene_factors(env)
    finally:
        env.close()


def _goals(space: spaces.Space[Any]) -> tuple[str, ...]:
    """Which goals in an observation are positions."""
    if not isinstance(space, spaces.Dict):
        return ()
    return tuple(name for name in GOAL_KEYS if name in space.spaces and space[name].shape == (3,))


def _track(track: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(track, Mapping) or not all(isinstance(text, str) for pair in track.items() for text in pair):
        raise ValueError(f"track must map names to elements of the model, such as {{hand: 'body:hand'}}, got {track!r}")
    return dict(track)


def _as_json(env_kwargs: Mapping[str, Any]) -> str:
    if not isinstance(env_kwargs, Mapping):
        raise ValueError(f"env_kwargs must be a mapping of keyword arguments, got {env_kwargs!r}")
    try:
        return json.dumps(dict(env_kwargs), sort_keys=True)
    except TypeError as error:
        raise ValueError(
            f"env_kwargs must be what JSON can hold (numbers, texts, lists, mappings): {error}; got {env_kwargs!r}"
        ) from None


def _pair(name: str, value: float | Sequence[float] | None) -> tuple[float, float] | None:
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, Iterable) else (value, value)
    if len(pair) != 2 or not _finite(pair) or pair[0] > pair[1]:
        raise ValueError(f"{name} must be a number or (low, high), got {value!r}")
    return float(pair[0]), float(pair[1])


def _arc(azimuth: Sequence[float] | None) -> tuple[float, float] | None:
    """From and to, in degrees, the second the larger: (150, -150) is the arc about 180."""
    if azimuth is None:
        return None
    pair = tuple(azimuth) if isinstance(azimuth, Iterable) else ()
    if len(pair) != 2 or not _finite(pair) or abs(pair[1] - pair[0]) > 360:
        raise ValueError(f"azimuth must be (from, to) in degrees, at most 360 apart, got {azimuth!r}")
    low, high = map(float, pair)
    return low, high if low <= high else high + 360


def _finite(numbers: Iterable[Any]) -> bool:
    return all(isinstance(number, Real) and math.isfinite(number) for number in numbers)


def _triple(name: str, value: Sequence[float] | None) -> tuple[float, float, float] | None:
    if value is None:
        return None
    if not isinstance(value, Sized) or len(value) != 3 or not _finite(value):
        raise ValueError(f"{name} must be x, y, z in metres, got {value!r}")
    x, y, z = value
    return float(x), float(y), float(z)
