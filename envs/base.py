"""What all environments share: observation modes, cameras, pictures, and being a scene source.

A concrete environment compiles a model and says how an episode begins, what an action does, what is rewarded and
what is true (``state``); :class:`SceneEnv` gives it eyes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar, Final, Literal, get_args

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gqn_rl.cameras import CONVENTION, Dome, Fixed, is_whole, size_pair
from gqn_rl.envs.renderer import DETAILED, FAST, SHADOWSIZE, Quality, SceneRenderer, renderer_version
from gqn_rl.types import POSE_SIZE, Image, Pose, Quantity

ObservationMode = Literal["views", "pixels", "state"]
CameraMode = Literal["fixed", "episode", "moving"]

#: MuJoCo's own default vertical field of view, degrees (XML reference, visual/global fovy).
FOVY: Final = 45.0
#: The least part of the way to another draw that a perturbed factor moves. With 0.05 two scenes often differed by less
#: than an encoder could tell for as long as it was tried, and the contrast stayed near chance.
SMALLEST_MOVE: Final = 0.3


def choose(name: str, value: Any, valid: tuple[Any, ...]) -> Any:
    """Return ``value`` if it is valid; else raise ``ValueError`` naming the field, the value and the choices.

    A number is not a bool, and 7.0 is not 7: what comes later counts with it.
    """
    plain = int(value) if isinstance(value, np.integer) else value
    if not any(type(plain) is type(choice) and plain == choice for choice in valid):
        raise ValueError(f"{name} must be one of {', '.join(map(str, valid))}; got {value!r}")
    return value


def as_names(name: str, value: str | Iterable[str]) -> tuple[str, ...]:
    """One name, or several, as a tuple: a lone name is no sequence of letters; ``ValueError`` for anything else."""
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (None,)
    if not all(isinstance(one, str) for one in names):
        raise ValueError(f"{name} must be a name or a list of names, got {value!r}")
    return names


def whole(name: str, value: Any, least: int) -> int:
    """``value`` as an integer; raises ``ValueError`` unless it is one, no bool, of at least ``least``."""
    if not is_whole(value) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


def check_share(name: str, value: Any) -> None:
    """Raise ``ValueError`` unless ``value`` is a number from 0 to 1."""
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value!r}")


def part_of_the_way(rng: np.random.Generator) -> float:
    """How far a perturbed factor goes towards another draw: log-uniform between ``SMALLEST_MOVE`` and 1."""
    return float(np.exp(rng.uniform(np.log(SMALLEST_MOVE), 0.0)))


def check_action(space: spaces.Space[Any], action: Any) -> None:
    """Raise ``ValueError`` for an action of another shape than ``space``, or another number than its; Boxes clip.

    Nor for one that is not finite: MuJoCo would stop all actuators, and a policy that has diverged look like one that
    stands still.
    """
    if np.shape(action) != space.shape or (isinstance(space, spaces.Discrete) and not space.contains(action)):
        raise ValueError(f"an action must be of {space}, got {action!r}")
    if not np.isfinite(action).all():
        raise ValueError(f"an action must be finite, got {action!r}")


class SceneEnv(gym.Env[Any, NDArray[np.float32]]):
    """A MuJoCo environment that is seen by cameras.

    Args:
        model: the compiled model; this environment owns it.
        dome: where cameras of the modes ``episode`` and ``moving``, and of recordings, may stand.
        fixed: the named poses of mode ``fixed``.
        obs_mode: ``views`` (Dict of images, poses, proprio), ``pixels`` (images stacked by channel) or ``state``.
        cameras: ``fixed`` (named poses), ``episode`` (new poses each episode) or ``moving`` (new poses each step).
        camera_elevation: lowest and highest elevation of the dome, degrees, if other than its own.
        views: how many cameras look, K >= 1.
        camera_names: which fixed cameras, K names; the first K of them by default.
        image_size: height and width of a view, pixels.
        render_mode: ``rgb_array`` or None; render_size: height and width of ``render()``'s picture, pixels.
        quality: how views are drawn.
        shadows: whether views have shadows too, as ``render()`` always has; they make views slower.

    Raises:
        ValueError: an option has no valid value; the message names the valid ones.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - gymnasium's own declaration
    scene_factors: tuple[str, ...] = ()
    state_groups: Mapping[str, slice] = {}
    state_quantities: Mapping[str, Quantity] = {}
    #: Geom groups that small views draw, and that ``render()`` draws.
    small_geoms: ClassVar[tuple[int, ...]] = (0, 1, 2)
    detailed_geoms: ClassVar[tuple[int, ...]] = (0, 1, 2)
    #: Lengths of the ground-truth and of the proprioception vector.
    state_size: int
    proprio_size: ClassVar[int]
    #: Vertical field of view of every camera, degrees.
    fovy: ClassVar[float] = FOVY
    #: Whether the robot knows its own place, so that a policy may see the scene from there.
    has_frame: ClassVar[bool] = False
    #: Whether nothing but cameras moves during an episode, so that views of its moments may be encoded together.
    static_scene: ClassVar[bool] = False

    def __init__(
        self,
        model: mujoco.MjModel,
        *,
        dome: Dome,
        fixed: Fixed,
        obs_mode: ObservationMode,
        cameras: CameraMode,
        views: int,
        camera_names: tuple[str, ...] | None,
        image_size: int | tuple[int, int],
        render_mode: str | None,
        render_size: int | tuple[int, int],
        quality: Quality = FAST,
        shadows: bool = False,
        camera_elevation: tuple[float, float] | None = None,
    ) -> None:
        self.obs_mode: ObservationMode = choose("obs_mode", obs_mode, get_args(ObservationMode))
        self.cameras: CameraMode = choose("cameras", cameras, get_args(CameraMode))
        self.render_mode = choose("render_mode", render_mode, (None, "rgb_array"))
        if choose("shadows", shadows, (False, True)):
            quality = replace(quality, shadowsize=SHADOWSIZE)
        self.image_size = size_pair("image_size", image_size)
        self.render_size = size_pair("render_size", render_size)
        self.views = whole("views", views, 1)
        if camera_names is not None and self.cameras != "fixed":
            raise ValueError(f"camera_names are for cameras='fixed', got cameras={cameras!r}")
        self.dome = dome if camera_elevation is None else replace(dome, elevation=_range(camera_elevation))
        self._fixed_poses = _fixed_poses(fixed, camera_names, self.views) if self.cameras == "fixed" else None
        self.model = model
        self.data = mujoco.MjData(model)
        model.vis.global_.fovy = self.fovy
        mujoco.mj_kinematics(model, self.data)  # so that there is something to see before the first scene
        mujoco.mj_camlight(model, self.data)
        self._eyes = SceneRenderer(
            model, *self.image_size, views=self.views, quality=quality, geom_groups=self.small_geoms
        )
        self._picture: SceneRenderer | None = None
        self._poses = np.zeros((self.views, POSE_SIZE), np.float32)
        self.observation_space = self._observation_space()

    # What a concrete environment says -------------------------------------------------------------------------

    @abstractmethod
    def state(self) -> NDArray[np.float32]:
        """Ground truth, float32 (S,)."""

    @abstractmethod
    def oracle(self) -> NDArray[np.float32]:
        """Ground truth as a policy gets it in ``obs_mode="state"``, float32 (S,), entries of order one."""

    @abstractmethod
    def proprio(self) -> NDArray[np.float32]:
        """What the robot's own sensors say, float32 (P,), entries of order one."""

    def frame(self) -> NDArray[np.float32]:
        """Where the robot acts, by its own sensors: x, y, z (m) and yaw (rad), float32 (4,); if ``has_frame``."""
        raise NotImplementedError(f"{type(self).__name__} has no frame")

    @abstractmethod
    def draw_factor(self, factor: str, rng: np.random.Generator) -> None:
        """Draw one factor of the scene anew, for recordings; the others stay."""

    @property
    def render_pose(self) -> Pose:
        """Where ``render()`` looks from."""
        return self.dome.at(-60.0, 25.0)

    # Scene source ---------------------------------------------------------------------------------------------

    def new_scene(self, rng: np.random.Generator) -> None:
        """Draw every factor of the scene anew."""
        for factor in self.scene_factors:
            self.draw_factor(factor, rng)

    def sample_pose(self, rng: np.random.Generator) -> Pose:
        """A camera pose (5,) in the dome."""
        return self.dome.sample(rng)

    def render_view(self, pose: Pose) -> Image:
        """The present scene (H, W, 3) uint8 from ``pose`` (5,)."""
        return self._eyes.render(self.data, np.asarray(pose)[None])[0]

    def render_views(self, poses: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The present scene (K, H, W, 3) uint8 from ``poses`` (K, 5)."""
        return self._eyes.render(self.data, poses)

    @property
    def camera_metadata(self) -> dict[str, Any]:
        """What an encoder has to agree with: convention, field of view (degrees), image size, renderer version."""
        return {
            "convention": CONVENTION,
            "fovy": self.fovy,
            "image_size": self.image_size,
            "renderer": renderer_version(),
        }

    # Gymnasium ------------------------------------------------------------------------------------------------

    @property
    def camera_poses(self) -> NDArray[np.float32]:
        """Where the K cameras are now, (K, 5)."""
        return self._poses.copy()

    def _place_cameras(self, *, new_episode: bool) -> None:
        if self._fixed_poses is not None:
            self._poses = self._fixed_poses
        elif new_episode or self.cameras == "moving":
            self._poses = np.stack([self.sample_pose(self.np_random) for _ in range(self.views)])

    def _observe(self) -> Any:
        if self.obs_mode == "state":
            return self.oracle()
        images = self.render_views(self._poses)
        if self.obs_mode == "pixels":
            return np.ascontiguousarray(images.transpose(1, 2, 0, 3)).reshape(*self.image_size, -1)
        observation = {"images": images, "poses": self._poses.copy(), "proprio": self.proprio()}
        return {**observation, "frame": self.frame()} if self.has_frame else observation

    def _observation_space(self) -> spaces.Space[Any]:
        height, width = self.image_size
        if self.obs_mode == "state":
            return spaces.Box(-np.inf, np.inf, (self.state_size,), np.float32)
        if self.obs_mode == "pixels":
            return spaces.Box(0, 255, (height, width, 3 * self.views), np.uint8)
        parts: dict[str, spaces.Space[Any]] = {
            "images": spaces.Box(0, 255, (self.views, height, width, 3), np.uint8),
            "poses": spaces.Box(-np.inf, np.inf, (self.views, POSE_SIZE), np.float32),
            "proprio": spaces.Box(-np.inf, np.inf, (self.proprio_size,), np.float32),
        }
        if self.has_frame:
            parts["frame"] = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        return spaces.Dict(parts)

    def render(self) -> Image | None:
        """A detailed picture (*render_size, 3) uint8 in mode ``rgb_array``."""
        if self.render_mode is None:
            gym.logger.warn("render() draws nothing without a render mode; make the environment with 'rgb_array'")
            return None
        if self._picture is None:
            self._picture = SceneRenderer(
                self.model, *self.render_size, quality=DETAILED, geom_groups=self.detailed_geoms
            )
        return self._picture.render(self.data, self.render_pose[None])[0]

    def close(self) -> None:
        """Free the OpenGL resources."""
        self._eyes.close()
        if self._picture is not None:
            self._picture.close()
            self._picture = None


def _range(elevation: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(elevation, Sized) or len(elevation) != 2 or not all(isinstance(end, Real) for end in elevation):
        raise ValueError(f"camera_elevation must be (lowest, highest) in degrees, got {elevation!r}")
    return float(elevation[0]), float(elevation[1])


def _fixed_poses(fixed: Fixed, names: tuple[str, ...] | None, views: int) -> NDArray[np.float32]:
    names = tuple(fixed.poses)[:views] if names is None else as_names("camera_names", names)
    if len(names) != views:
        raise ValueError(
            f"views={views} fixed cameras need as many names, got {len(names)}: {names}; "
            f"valid cameras: {', '.join(fixed.poses)}"
        )
    return np.stack([fixed.named(name) for name in names])
