"""The few types every part of the toolkit agrees on: views, camera poses, scene sources and scene encoders.

Conventions. World axes are right-handed, x and y on the floor, z up, in metres. A camera pose is five numbers,
``(x, y, z, yaw, pitch)``: position in metres, yaw about z from the x axis and pitch above the horizon, both in
radians. A camera has no roll. Images are ``uint8`` RGB, rows from the top.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

#: Numbers in a camera pose: x, y, z (metres), yaw, pitch (radians).
POSE_SIZE = 5

Pose = NDArray[np.float32]
Image = NDArray[np.uint8]


class RenderError(RuntimeError):
    """Rendering cannot work here; the message says what to install or set."""


class Views(NamedTuple):
    """What K cameras see at one moment, for B scenes; arrays and tensors alike."""

    images: Any  #: (B, K, H, W, 3) uint8
    poses: Any  #: (B, K, 5) float32: x, y, z in metres; yaw, pitch in radians


@runtime_checkable
class SceneSource(Protocol):
    """Anything that can be photographed: an environment of ours, or any environment in a camera rig.

    A scene is made of independent *factors* (say, ``("target", "arm")``). Drawing one factor anew leaves the
    others as they are, which is how a recording makes hard negatives: same target, other arm. A source that can also
    draw a factor *near* where it is, for negatives that are harder still, is :class:`Perturbable`.
    """

    #: Names of the independent parts of a scene.
    scene_factors: tuple[str, ...]
    #: Where each named quantity lies in ``state()``; probes report one row for each. All are in metres.
    state_groups: Mapping[str, slice]
    #: ``convention`` (:data:`gqn_rl.cameras.CONVENTION`), ``fovy`` (degrees), ``image_size`` (height, width) and
    #: ``renderer`` (its version): what an encoder has to agree with.
    camera_metadata: Mapping[str, Any]

    def draw_factor(self, factor: str, rng: np.random.Generator) -> None:
        """Draw one factor of the scene anew; raises ``ValueError`` naming the valid factors."""
        ...

    def new_scene(self, rng: np.random.Generator) -> None:
        """Draw every factor anew."""
        ...

    def sample_pose(self, rng: np.random.Generator) -> Pose:
        """A camera pose (5,) from the source's own distribution of viewpoints."""
        ...

    def render_view(self, pose: Pose) -> Image:
        """The present scene (H, W, 3) uint8 from ``pose``."""
        ...

    def state(self) -> NDArray[np.float32]:
        """Ground truth (S,), in metres; for probes and oracles only, never for training an encoder."""
        ...


class Quantity(NamedTuple):
    """Where a quantity lies in a scene's state, and of what kind it is, which says how a probe of it is scored.

    ``position``: metres; R2 and the median distance. ``numbers``: of any other unit; R2. ``class``: one-hot; how often
    the largest is right. ``flags``: each of them one of the same two values; how many are on the right side of the
    middle between the two.
    """

    part: slice | tuple[int, ...]
    kind: Literal["position", "numbers", "class", "flags"]


@runtime_checkable
class Described(Protocol):
    """What a scene source may say besides of its state, for probes: quantities that are no places, such as colours."""

    #: By name. One that is among ``state_groups`` too is of this kind.
    state_quantities: Mapping[str, Quantity]


@runtime_checkable
class Mapped(Protocol):
    """What a scene source needs besides for the question what its map looks like to one who has only walked through."""

    #: Where a camera sees all of the scene from above.
    map_pose: Pose
    #: The factor of the scene that the map is of.
    map_factor: str

    def walk_poses(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Poses (count, 5) of the eyes of one who walks through the present scene."""
        ...


@runtime_checkable
class Perturbable(Protocol):
    """What a scene source needs besides for recordings whose ``block.family`` is above 1."""

    def perturb_factor(self, factor: str, rng: np.random.Generator) -> None:
        """Change one factor of the present scene a little; raises ``ValueError`` naming the valid factors."""
        ...


@runtime_checkable
class SceneEncoder(Protocol):
    """Turns the views of one moment into one vector. Own encoders need nothing but these two members.

    An encoder whose vector begins with coordinates of points in the room may say so by ``points`` (how many) and
    ``unit`` (metres to one): a policy then sees them from where its robot is, and of these only the ones that move, if
    ``moving`` (points,) bool says which do.
    """

    #: Length of the vector.
    size: int

    def encode(self, images: Tensor, poses: Tensor) -> Tensor:
        """``images`` (B, K, H, W, 3) uint8 and ``poses`` (B, K, 5) float32 to (B, size) float32."""
        ...


@runtime_checkable
class AdditiveEncoder(Protocol):
    """What a scene encoder needs besides for ``context="episode"``: views of several moments, encoded together.

    As in a GQN, a view adds its share to what is known of a scene, whatever was seen before: ``read`` of the shares'
    sum is what ``encode`` says of all the views at once.
    """

    def share(self, images: Tensor, poses: Tensor) -> Tensor:
        """``images`` (B, K, H, W, 3) uint8 and ``poses`` (B, K, 5) float32 to what they add up to, (B, M)."""
        ...

    def read(self, total: Tensor) -> Tensor:
        """A sum of shares (B, M) to (B, size) float32."""
        ...


@runtime_checkable
class PointEncoder(AdditiveEncoder, Protocol):
    """What a scene encoder needs besides for ``certainty``: points in the room, of which it is more sure or less."""

    points: int  #: three entries each of its vector, which begins with them

    def certainty(self, total: Tensor) -> Tensor:
        """How sure the views that add up to ``total`` (B, M) are of each point, (B, points); 0: as before any view."""
        ...
