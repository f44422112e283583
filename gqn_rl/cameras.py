"""Camera geometry in numpy: pose to axes, aiming, projection, and the distributions that poses are drawn from.

The pose convention is that of :mod:`gqn_rl.types`: ``(x, y, z, yaw, pitch)``, metres and radians, no roll.
Looking along yaw 0 and pitch 0 is looking along +x, with +y to the left and +z up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gqn_rl.config import UserError
from gqn_rl.types import POSE_SIZE, Pose

#: Stored with every data set and encoder; bump it whenever the meaning of the five numbers changes.
CONVENTION = "x,y,z (m, z up); yaw about z from +x, pitch above horizon (rad); no roll"


#: Degrees above which no camera outside a dome stands: looking straight down, it would have no yaw.
HIGHEST = 89.0
#: What a source of pictures tells of its camera (:class:`gqn_rl.types.SceneSource`).
METADATA = ("convention", "fovy", "image_size", "renderer")


def check_camera(metadata: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` naming what ``camera_metadata`` does not tell, or what cannot be."""
    if missing := [key for key in METADATA if key not in metadata]:
        raise UserError(
            f"camera_metadata tells no {', '.join(missing)}; it needs {', '.join(METADATA)} (gqn_rl.types.SceneSource)"
        )
    for name in ("convention", "renderer"):
        if not isinstance(metadata[name], str):
            raise UserError(f"camera_metadata's {name} must be text, got {metadata[name]!r}")
    try:
        if not isinstance(metadata["image_size"], Iterable):
            raise ValueError(f"image_size must be (height, width), got {metadata['image_size']!r}")
        size_pair("image_size", tuple(metadata["image_size"]))
        check_fovy(metadata["fovy"])
    except ValueError as error:
        raise UserError(f"camera_metadata's {error}") from None


def is_whole(value: Any) -> bool:
    """Whether ``value`` is an integer, of Python or NumPy, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def size_pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    """``64`` or ``(height, width)`` as a pair; raises ``ValueError`` unless both are at least 1."""
    pair = tuple(value) if isinstance(value, Iterable) else (value, value)
    if len(pair) != 2 or not all(is_whole(n) and n >= 1 for n in pair):
        raise ValueError(f"{name} must be a positive integer or (height, width), got {value!r}")
    return int(pair[0]), int(pair[1])


def check_fovy(value: Any) -> float:
    """A vertical field of view, degrees; raises ``ValueError`` unless it lies between 0 and 180."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < 180:
        raise ValueError(f"fovy must lie between 0 and 180 degrees, got {value!r}")
    return float(value)


def check_poses(poses: ArrayLike) -> NDArray[np.float32]:
    """Return ``poses`` as float32 (..., 5).

    Raises:
        ValueError: for another shape, a number that is not finite, or a pitch beyond straight up or down, which is what
            degrees look like.
    """
    array = np.asarray(poses, dtype=np.float32)
    if array.ndim < 1 or array.shape[-1] != POSE_SIZE:
        raise ValueError(f"a camera pose has {POSE_SIZE} numbers (x, y, z, yaw, pitch), got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"camera poses must be finite, got {array}")
    if (beyond := np.abs(array[..., 4]) > np.pi / 2 + 1e-4).any():
        pitch = array[..., 4][beyond].flat[0]
        raise ValueError(f"a camera's pitch is between -pi/2 and pi/2 radians, got {pitch:g}; is that in degrees?")
    return array


def axes(pose: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors (forward, right, up), each (..., 3), of cameras at ``pose`` (..., 5)."""
    pose = np.asarray(pose, dtype=np.float64)
    yaw, pitch = pose[..., 3], pose[..., 4]
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    forward = np.stack([cos_yaw * cos_pitch, sin_yaw * cos_pitch, sin_pitch], axis=-1)
    right = np.stack([sin_yaw, -cos_yaw, np.zeros_like(yaw)], axis=-1)
    up = np.stack([-cos_yaw * sin_pitch, -sin_yaw * sin_pitch, cos_pitch], axis=-1)
    return forward, right, up


def pose_from_axes(position: ArrayLike, forward: ArrayLike) -> Pose:
    """The pose (5,) at ``position`` (3,) whose viewing direction is ``forward`` (3,), of any positive length."""
    forward = np.asarray(forward, dtype=np.float64)
    horizontal = float(np.hypot(forward[0], forward[1]))
    yaw = np.arctan2(forward[1], forward[0])
    pitch = np.arctan2(forward[2], horizontal)
    return np.array([*np.asarray(position, dtype=np.float64), yaw, pitch], dtype=np.float32)


def look_at(position: ArrayLike, target: ArrayLike) -> Pose:
    """The pose (5,) at ``position`` (3,) that has ``target`` (3,) in the image centre; metres."""
    position, target = np.asarray(position, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if not np.linalg.norm(target - position) > 0:
        raise ValueError(f"a camera cannot look at its own position {position.tolist()}")
    return pose_from_axes(position, target - position)


def project(points: ArrayLike, pose: ArrayLike, fovy: float, height: int, width: int) -> NDArray[np.float64]:
    """Pixel coordinates (..., 2) as (row, column) of world ``points`` (..., 3) seen by one camera.

    ``fovy`` is the vertical field of view in degrees. The centre of the top left pixel is (0, 0). Points behind
    the camera come out as NaN.
    """
    pose = np.asarray(pose, dtype=np.float64)
    forward, right, up = axes(pose)
    offset = np.asarray(points, dtype=np.float64) - pose[:3]
    depth = offset @ forward
    focal = height / (2 * np.tan(np.deg2rad(fovy) / 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        row = height / 2 - focal * (offset @ up) / depth - 0.5
        column = width / 2 + focal * (offset @ right) / depth - 0.5
    return np.where((depth > 0)[..., None], np.stack([row, column], axis=-1), np.nan)


@dataclass(frozen=True)
class Dome:
    """Cameras on part of a thick spherical shell that look at its centre, or near it.

    Positions are uniform over the shell's area between the elevations. Angles are in degrees for the reader's
    sake; distances in metres. A ring is a dome with one elevation.
    """

    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius: tuple[float, float] = (1.5, 1.5)
    elevation: tuple[float, float] = (20.0, 60.0)
    azimuth: tuple[float, float] = (-180.0, 180.0)
    aim_jitter: float = 0.0  #: the point looked at is uniform in a cube of this half-width about the centre

    def __post_init__(self) -> None:
        for name, count in (("center", 3), ("radius", 2), ("elevation", 2), ("azimuth", 2)):
            value = getattr(self, name)
            if not isinstance(value, Iterable) or sum(map(_is_finite, value)) != count or len(list(value)) != count:
                raise ValueError(f"{name} must be {count} finite numbers, got {value!r}")
        for name in ("radius", "elevation", "azimuth"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be (low, high) with low <= high, got {(low, high)}")
        if not _is_finite(self.aim_jitter) or self.aim_jitter < 0:
            raise ValueError(f"aim_jitter must be a finite number, 0 or more, got {self.aim_jitter!r}")
        if self.radius[0] <= 0:
            raise ValueError(f"radius must be positive, got {self.radius}")
        if not -90 < self.elevation[0] <= self.elevation[1] < 90:
            raise ValueError(f"elevation must lie between -90 and 90 degrees, got {self.elevation}")

    def at(self, azimuth: float, elevation: float, radius: float | None = None) -> Pose:
        """The pose at these angles (degrees), looking at the centre; ``radius`` defaults to the mean."""
        distance = sum(self.radius) / 2 if radius is None else radius
        a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
        direction = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
        return look_at(np.asarray(self.center) + distance * direction, self.center)

    def sample(self, rng: np.random.Generator) -> Pose:
        """A random pose (5,): uniform over the band's area and over ``radius``, aimed at the centre or near it."""
        low, high = np.sin(np.deg2rad(self.elevation))
        elevation = np.rad2deg(np.arcsin(rng.uniform(low, high)))
        pose = self.at(rng.uniform(*self.azimuth), elevation, rng.uniform(*self.radius))
        if self.aim_jitter == 0:
            return pose
        aim = np.asarray(self.center) + rng.uniform(-self.aim_jitter, self.aim_jitter, size=3)
        return look_at(pose[:3], aim)

    def outside(self, degrees: float) -> Dome:
        """The band of this width just above the dome's highest elevation: viewpoints never trained on."""
        return replace(self, elevation=(self.elevation[1], min(self.elevation[1] + degrees, HIGHEST)))

    @property
    def has_outside(self) -> bool:
        """Whether there is room above for :meth:`outside`."""
        return self.elevation[1] < HIGHEST


@dataclass(frozen=True)
class Fixed:
    """Named, constant poses."""

    poses: dict[str, Pose] = field(default_factory=dict)

    def named(self, name: str) -> Pose:
        """The pose called ``name``; raises ``ValueError`` with the valid names."""
        if name not in self.poses:
            raise ValueError(f"unknown camera {name!r}; valid cameras: {', '.join(sorted(self.poses))}")
        return self.poses[name]
