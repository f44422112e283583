"""The frozen encoder in the main process: one forward turns what all environments see into policy inputs.

A wrapper, not a ``features_extractor``: the replay buffer then holds vectors instead of images, nothing is encoded
twice, and no policy can re-initialise or train the encoder (stable-baselines3 #409 advises the same).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, cast, get_args

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import nn

from gqn_rl.encoder import hash_tensors
from gqn_rl.types import POSE_SIZE, AdditiveEncoder, PointEncoder, SceneEncoder

#: Which views the vector of a moment comes from: that moment's, or all that were seen since the episode began.
Context = Literal["now", "episode"]

#: The observation's parts: K views of one moment, their camera poses, and (optional) the robot's own sensors, and the
#: frame in which it acts. Others, such as a goal, have names of their own.
VIEW_KEYS: Final = ("images", "poses")
PROPRIO_KEY: Final = "proprio"
FRAME_KEY: Final = "frame"
FRAME_SIZE: Final = 4
#: What a scene vector consists of, in a policy's input: the points' coordinates, and all that is no point.
#: Between them, if it is asked for, how sure the encoder is of each point.
POINTS: Final = "points"
CERTAINTY: Final = "certainty"
FEATURES: Final = "features"
#: What to do about an environment that shows none.
NO_VIEWS: Final = "gqn_rl.view_adapter.ViewAdapter makes a view of what an environment renders"


class SceneVector:
    """Turns batches of views into policy inputs: the scene vector, then the proprioception, then all other vectors.

    Other vectors are what an environment says besides, such as the ``goal`` of RoomNavigate, in the order of its
    observation space.

    The encoder is put in eval mode and its parameters need no gradients from here on. Where its vector holds points in
    the room and the robot knows its own place, the policy sees the points that move from there: what it has to do
    depends on where things are *relative* to the hand, and a policy learns that difference slowly by itself.

    Args:
        encoder: anything with ``size`` and ``encode``. The first ``3 * encoder.points`` entries of its vector, if it
            says so, are coordinates in ``encoder.unit`` metres; ``encoder.moving`` (points,) bool says which of them
            are elsewhere in other scenes (default: all).
        observation_space: of one environment: ``Dict`` with ``images`` (K, H, W, 3) uint8, ``poses`` (K, 5) float32
            and, optionally, ``proprio`` (P,) float32, ``frame`` (4,) float32, x, y, z (m) and yaw (rad), and any
            number of other ``Box`` parts with one axis.
        proprio: whether the proprioception and the frame, where there are any, are part of the policy's input. Other
            vectors always are.
        certainty: whether the policy is told how sure the encoder is of each of its points. A point that no view has
            seen is said to be where it usually is, and where much is out of sight a policy should know.

    Raises:
        ValueError: another observation space; the message names the keys and shapes needed and found. Or ``certainty``
            of an encoder that has no points, or does not say how sure it is.
    """

    def __init__(
        self,
        encoder: SceneEncoder,
        observation_space: spaces.Space[Any],
        proprio: bool = True,
        certainty: bool = False,
    ) -> None:
        parts = check_views(observation_space)
        count = int(getattr(encoder, "points", 0))
        if certainty and not (count and isinstance(encoder, PointEncoder)):
            raise ValueError(
                f"certainty is that of points in the room: {type(encoder).__name__} has {count} of them, and needs "
                "the methods share, read and certainty"
            )
        self._certainty = certainty
        self.encoder = encoder
        self._device = torch.device("cpu")
        for module in _modules(encoder):
            module.eval().requires_grad_(False)
            self._device = next((parameter.device for parameter in module.parameters()), self._device)
        vectors = _vectors(parts, proprio)
        self._vectors = tuple(vectors)
        self._points = MovingPoints.of(encoder) if proprio and FRAME_KEY in parts.spaces else None
        seen = self._points.moving if self._points else np.arange(count)
        scene = self._points.size if self._points else encoder.size
        sizes = {POINTS: 3 * len(seen), CERTAINTY: certainty * len(seen), FEATURES: scene - 3 * len(seen)}
        #: Sizes of the parts of a policy's input, by name and in their order.
        self.layout = {**sizes, **{name: (box.shape or ())[0] for name, box in vectors.items()}}
        self._seen = torch.as_tensor(seen)
        unbounded = np.full(sum(sizes.values()), np.inf, np.float32)
        #: The parts of an observation that are used.
        self.keys = (*VIEW_KEYS, *self._vectors, *((FRAME_KEY,) if self._points else ()))
        #: Of one environment's policy input: (size + P + ...,) float32.
        self.space = spaces.Box(
            np.concatenate([-unbounded, *(box.low for box in vectors.values())], dtype=np.float32),
            np.concatenate([unbounded, *(box.high for box in vectors.values())], dtype=np.float32),
        )

    @torch.inference_mode()
    def __call__(self, observations: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """``images`` (B, K, H, W, 3), ``poses`` (B, K, 5), ``proprio`` (B, P), ``frame`` (B, 4) to (B, size + P)."""
        if self._certainty:
            return self.read(self.share(observations), observations)
        return self._append("encode", self.encoder.encode(*self._views(observations)), observations)

    @torch.inference_mode()
    def share(self, observations: Mapping[str, NDArray[Any]]) -> torch.Tensor:
        """What the views of ``observations`` add to what is known, (B, M), by an :class:`AdditiveEncoder`."""
        return cast(AdditiveEncoder, self.encoder).share(*self._views(observations))

    @torch.inference_mode()
    def read(self, total: torch.Tensor, observations: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The same as a call, but of the views whose shares add up to ``total`` (B, M)."""
        certainty = cast(PointEncoder, self.encoder).certainty(total) if self._certainty else None
        return self._append("read", cast(AdditiveEncoder, self.encoder).read(total), observations, certainty)

    def _views(self, observations: Mapping[str, NDArray[Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.as_tensor(observations["images"], device=self._device)
        return images, torch.as_tensor(observations["poses"], dtype=torch.float32, device=self._device)

    def _append(
        self,
        method: str,
        vectors: torch.Tensor,
        observations: Mapping[str, NDArray[Any]],
        certainty: torch.Tensor | None = None,
    ) -> NDArray[np.float32]:
        """Policy inputs of scene vectors (B, size) that the encoder's ``method`` returned."""
        expected = (len(observations["poses"]), self.encoder.size)
        if vectors.shape != expected:
            raise ValueError(
                f"{type(self.encoder).__name__}.{method} returned shape {tuple(vectors.shape)} for {expected[0]} "
                f"scenes; with size {self.encoder.size} it must be {expected}"
            )
        flat = vectors.float().cpu()
        if self._points is not None:
            flat = self._points.from_frame(flat, torch.as_tensor(observations[FRAME_KEY]))
        if certainty is not None:
            points, features = flat.tensor_split([self.layout[POINTS]], dim=1)
            flat = torch.cat([points, certainty.cpu()[:, self._seen], features], dim=1)
        return np.concatenate([flat.numpy(), *(observations[key] for key in self._vectors)], axis=1, dtype=np.float32)


@dataclass(frozen=True)
class MovingPoints:
    """What a policy sees of a scene vector from where its robot is: the points that move, then all that is no point.

    Seen from there, a point that stands still is minus the robot's own place, and dozens of them drown the few that
    say where things are (FetchReach from three views: 95 % after 4,000 steps without them, 18 % after 5,000 with them).
    """

    count: int  #: points that the scene vector begins with
    moving: NDArray[np.int64]  #: indices of those that a policy sees
    unit: float  #: metres
    size: int  #: of what a policy sees

    @classmethod
    def of(cls, encoder: SceneEncoder) -> Self | None:
        """Those of ``encoder``; None if its vector begins with no points."""
        count = int(getattr(encoder, "points", 0))
        if not count:
            return None
        moving = np.flatnonzero(torch.as_tensor(getattr(encoder, "moving", torch.ones(count))).cpu().numpy())
        return cls(count, moving, float(getattr(encoder, "unit", 1.0)), encoder.size - 3 * (count - len(moving)))

    def from_frame(self, vectors: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Scene vectors (B, ...) as seen from ``frames`` (B, 4), see :func:`in_frame`: (B, size)."""
        points, rest = vectors.tensor_split([3 * self.count], dim=1)
        points = points.unflatten(1, (self.count, 3))[:, self.moving]
        return torch.cat([in_frame(points, frames, self.unit).flatten(1), rest], dim=1)


def in_frame(points: torch.Tensor, frames: torch.Tensor, unit: float = 1.0) -> torch.Tensor:
    """Points (B, N, 3) in the room, as seen from ``frames`` (B, 4): x, y, z (m), yaw (rad), x axis along the yaw.

    Points come and go in ``unit`` metres, with their gradients.
    """
    moved = points - frames[:, None, :3] / unit
    cos, sin = frames[:, None, 3].cos(), frames[:, None, 3].sin()
    x, y, z = moved.unbind(-1)
    return torch.stack([cos * x + sin * y, cos * y - sin * x, z], dim=-1)


class VecSceneObservation(VecEnvWrapper):
    """A vectorised environment whose observations are scene vectors: ``Box`` (size + P + ...,) float32.

    Also the last observation of every episode, ``infos[i]["terminal_observation"]``, is encoded, with its own
    poses: Stable-Baselines3 bootstraps from it. All of one step's views go through the encoder in one forward.

    With ``context="episode"`` it is a running memory of the scene: the vector is that of all views since the episode
    began, by the sum of their shares, so that no view is encoded twice. The last observation remembers its own episode.

    Args:
        venv: as :class:`SceneVector` needs it; for ``context="episode"``, whose scenes stay as they are within an
            episode, and that says so (``static_scene = True``).
        encoder: for ``context="episode"``, one that is also a :class:`gqn_rl.types.AdditiveEncoder`.
        proprio, certainty: see :class:`SceneVector`.
        context: ``now`` or ``episode``.

    Raises:
        ValueError: as :class:`SceneVector` says, or ``context`` is not valid for the environment or the encoder.
    """

    def __init__(
        self,
        venv: VecEnv,
        encoder: SceneEncoder,
        proprio: bool = True,
        context: Context = "now",
        certainty: bool = False,
    ) -> None:
        _check_context(context, venv, encoder)
        self.scene_vector = SceneVector(encoder, venv.observation_space, proprio, certainty)
        self._remembers = context == "episode"
        super().__init__(venv, observation_space=self.scene_vector.space)

    def reset(self) -> NDArray[np.float32]:
        """First policy inputs (n_envs, size + P + ...)."""
        observations = self.venv.reset()
        assert isinstance(observations, dict)
        if not self._remembers:
            return self.scene_vector(observations)
        self._memory = self.scene_vector.share(observations)
        return self.scene_vector.read(self._memory, observations)

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Policy inputs (n_envs, size + P + ...), rewards, dones and infos of the step begun by ``step_async``."""
        observations, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(observations, dict)
        ended = np.flatnonzero(dones).tolist()  # not by their infos: an environment may hand out the same one again
        last = [infos[index]["terminal_observation"] for index in ended]
        if last:
            observations = {
                key: np.concatenate([observations[key], np.stack([one[key] for one in last])])
                for key in self.scene_vector.keys
            }
        flat = self._remember(observations, ended) if self._remembers else self.scene_vector(observations)
        for index, vector in zip(ended, flat[self.num_envs :], strict=True):
            infos[index]["terminal_observation"] = vector
        return flat[: self.num_envs], rewards, dones, infos

    @torch.inference_mode()
    def _remember(self, observations: Mapping[str, NDArray[Any]], ended: list[int]) -> NDArray[np.float32]:
        """Policy inputs with memory; after the environments' observations come the last ones of those that ended."""
        now, last = self.scene_vector.share(observations).tensor_split([self.num_envs])
        last = self._memory[ended] + last
        self._memory = self._memory + now
        self._memory[ended] = now[ended]
        return self.scene_vector.read(torch.cat([self._memory, last]), observations)


def _check_context(context: Context, venv: VecEnv, encoder: SceneEncoder) -> None:
    if context not in get_args(Context):
        raise ValueError(f"context must be one of {', '.join(get_args(Context))}; got {context!r}")
    if context == "now":
        return
    if not isinstance(encoder, AdditiveEncoder):
        raise ValueError(
            f"context 'episode' adds up views, and {type(encoder).__name__} has no methods share and read for it "
            "(gqn_rl.types.AdditiveEncoder); valid: now"
        )
    if not (venv.has_attr("static_scene") and all(venv.get_attr("static_scene"))):
        raise ValueError(
            "context 'episode' adds up views of different moments, but this environment does not say that its scene "
            "stays as it is within an episode (static_scene = True); valid: now"
        )


def encoder_hash(encoder: SceneEncoder) -> str:
    """What tells one encoder from another, stored with every policy.

    The encoder's own ``fingerprint`` where it has one, else the SHA-256 of its parameters and buffers, else
    (no parameters) ``module:Class``.
    """
    fingerprint = getattr(encoder, "fingerprint", None)
    if fingerprint is not None:
        return str(fingerprint() if callable(fingerprint) else fingerprint)
    digest, found = hashlib.sha256(), False
    for module in _modules(encoder):
        tensors = module.state_dict()
        hash_tensors(digest, tensors)
        found = found or bool(tensors)
    return f"sha256:{digest.hexdigest()}" if found else f"{type(encoder).__module__}:{type(encoder).__qualname__}"


def _modules(encoder: SceneEncoder) -> Iterator[nn.Module]:
    """The encoder itself if it is a module, else the modules that it holds as attributes."""
    if isinstance(encoder, nn.Module):
        yield encoder
    else:
        yield from (value for value in getattr(encoder, "__dict__", {}).values() if isinstance(value, nn.Module))


def _vectors(parts: spaces.Dict, proprio: bool) -> dict[str, spaces.Box]:
    """What is appended to the scene vector: the proprioception, then all else that is neither views nor frame."""
    own = (PROPRIO_KEY,) if proprio and PROPRIO_KEY in parts.spaces else ()
    others = tuple(key for key in parts.spaces if key not in (*VIEW_KEYS, PROPRIO_KEY, FRAME_KEY))
    vectors = {}
    for key in (*own, *others):
        part = parts[key]
        if not isinstance(part, spaces.Box) or len(part.shape) != 1:
            raise ValueError(
                f"a scene vector is followed by other vectors, Box parts with one axis; found {key} {part}"
            )
        if key in (POINTS, CERTAINTY, FEATURES):
            raise ValueError(f"{key!r} is what a part of the scene vector is called; name the observation's otherwise")
        vectors[key] = part
    return vectors


def check_views(space: spaces.Space[Any], who: str = "an encoder") -> spaces.Dict:
    """``space`` itself if ``who`` can see with it; raises ``ValueError`` naming what is needed and what was found."""
    needed = (
        f"{who} needs a Dict observation with images (K, H, W, 3) uint8, poses (K, 5) float32 "
        "and, optionally, proprio (P,) and frame (4,) float32"
    )
    if not isinstance(space, spaces.Dict):
        raise ValueError(f"{needed}; found {space}; {NO_VIEWS}")
    missing = [key for key in VIEW_KEYS if key not in space.spaces]
    if missing:
        raise ValueError(f"{needed}; {' and '.join(missing)} missing, found keys {', '.join(space.spaces)}; {NO_VIEWS}")
    images, poses = space["images"].shape, space["poses"].shape
    if images is None or len(images) != 4 or images[-1] != 3 or space["images"].dtype != np.uint8:
        raise ValueError(f"{needed}; found images {images} {space['images'].dtype}")
    if poses != (images[0], POSE_SIZE):
        raise ValueError(f"{needed}; found {images[0]} images and poses {poses}")
    if PROPRIO_KEY in space.spaces:
        sensors = space[PROPRIO_KEY]
        if not isinstance(sensors, spaces.Box) or len(sensors.shape) != 1:
            raise ValueError(f"{needed}; found proprio {sensors}")
    if FRAME_KEY in space.spaces and space[FRAME_KEY].shape != (FRAME_SIZE,):
        raise ValueError(f"{needed}; found frame {space[FRAME_KEY]}")
    return space
