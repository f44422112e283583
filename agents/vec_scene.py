"""The frozen encoder in the main process: one forward turns what all environments see into policy inputs.

A wrapper, not a ``features_extractor``: the replay buffer then holds vectors instead of images, nothing is encoded
twice, and no policy can re-initialise or train the encoder (stable-baselines3 #409 advises the same).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import nn

from gqn_rl.encoder import hash_tensors
from gqn_rl.types import POSE_SIZE, SceneEncoder

#: The observation's parts: K views of one moment, their camera poses, and (optional) the robot's own sensors, and the
#: frame in which it acts.
VIEW_KEYS: Final = ("images", "poses")
PROPRIO_KEY: Final = "proprio"
FRAME_KEY: Final = "frame"
FRAME_SIZE: Final = 4


class SceneVector:
    """Turns batches of views into policy inputs: the scene vector, followed by the proprioception.

    The encoder is put in eval mode and its parameters need no gradients from here on. Where its vector holds points in
    the room and the robot knows its own place, the policy sees the points from there: what it has to do depends on
    where things are *relative* to the hand, and a policy learns that difference slowly by itself.

    Args:
        encoder: anything with ``size`` and ``encode``. The first ``3 * encoder.points`` entries of its vector, if it
            says so, are coordinates in ``encoder.unit`` metres.
        observation_space: of one environment: ``Dict`` with ``images`` (K, H, W, 3) uint8, ``poses`` (K, 5) float32
            and, optionally, ``proprio`` (P,) float32 and ``frame`` (4,) float32, x, y, z (m) and yaw (rad).
        proprio: whether the proprioception and the frame, where there are any, are part of the policy's input.

    Raises:
        ValueError: another observation space; the message names the keys and shapes needed and found.
    """

    def __init__(self, encoder: SceneEncoder, observation_space: spaces.Space[Any], proprio: bool = True) -> None:
        parts = _check_space(observation_space)
        self.encoder = encoder
        self._device = torch.device("cpu")
        for module in _modules(encoder):
            module.eval().requires_grad_(False)
            self._device = next((parameter.device for parameter in module.parameters()), self._device)
        low, high = [np.full(encoder.size, -np.inf, np.float32)], [np.full(encoder.size, np.inf, np.float32)]
        self._proprio = proprio and PROPRIO_KEY in parts.spaces
        if self._proprio:
            sensors = parts[PROPRIO_KEY]
            assert isinstance(sensors, spaces.Box)
            low.append(sensors.low.astype(np.float32))
            high.append(sensors.high.astype(np.float32))
        self._points = int(getattr(encoder, "points", 0)) if proprio and FRAME_KEY in parts.spaces else 0
        self._unit = float(getattr(encoder, "unit", 1.0))
        own = ((PROPRIO_KEY, self._proprio), (FRAME_KEY, self._points))
        #: The parts of an observation that are used.
        self.keys = (*VIEW_KEYS, *(key for key, used in own if used))
        #: Of one environment's policy input: (size + P,) float32.
        self.space = spaces.Box(np.concatenate(low), np.concatenate(high), dtype=np.float32)

    @torch.inference_mode()
    def __call__(self, observations: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """``images`` (B, K, H, W, 3), ``poses`` (B, K, 5), ``proprio`` (B, P), ``frame`` (B, 4) to (B, size + P)."""
        images = torch.as_tensor(observations["images"], device=self._device)
        poses = torch.as_tensor(observations["poses"], dtype=torch.float32, device=self._device)
        vectors = self.encoder.encode(images, poses)
        if vectors.shape != (len(images), self.encoder.size):
            raise ValueError(
                f"{type(self.encoder).__name__}.encode returned shape {tuple(vectors.shape)} for {len(images)} scenes; "
                f"with size {self.encoder.size} it must be {(len(images), self.encoder.size)}"
            )
        flat = vectors.float().cpu().numpy()
        if self._points:
            end = 3 * self._points
            points = flat[:, :end].reshape(len(flat), self._points, 3)
            flat[:, :end] = in_frame(points, observations[FRAME_KEY], self._unit).reshape(len(flat), end)
        if self._proprio:
            flat = np.concatenate([flat, observations[PROPRIO_KEY].astype(np.float32)], axis=1)
        return flat


def in_frame(points: NDArray[Any], frames: NDArray[Any], unit: float = 1.0) -> NDArray[np.float32]:
    """Points (B, N, 3) in the room, as seen from ``frames`` (B, 4): x, y, z (m), yaw (rad), x axis along the yaw.

    Points come and go in ``unit`` metres.
    """
    moved = points - frames[:, None, :3] / unit
    cos, sin = np.cos(frames[:, None, 3]), np.sin(frames[:, None, 3])
    x, y, z = moved[..., 0], moved[..., 1], moved[..., 2]
    return np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=-1).astype(np.float32)


class VecSceneObservation(VecEnvWrapper):
    """A vectorised environment whose observations are scene vectors: ``Box`` (size + P,) float32.

    Also the last observation of every episode, ``infos[i]["terminal_observation"]``, is encoded, with its own
    poses: Stable-Baselines3 bootstraps from it. All of one step's views go through the encoder in one forward.

    Args and errors are those of :class:`SceneVector`.
    """

    def __init__(self, venv: VecEnv, encoder: SceneEncoder, proprio: bool = True) -> None:
        self.scene_vector = SceneVector(encoder, venv.observation_space, proprio)
        super().__init__(venv, observation_space=self.scene_vector.space)

    def reset(self) -> NDArray[np.float32]:
        """First policy inputs (n_envs, size + P)."""
        observations = self.venv.reset()
        assert isinstance(observations, dict)
        return self.scene_vector(observations)

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Policy inputs (n_envs, size + P), rewards, dones and infos of the step begun by ``step_async``."""
        observations, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(observations, dict)
        ended = [info for info in infos if "terminal_observation" in info]
        last = [info["terminal_observation"] for info in ended]
        if last:
            observations = {
                key: np.concatenate([observations[key], np.stack([one[key] for one in last])])
                for key in self.scene_vector.keys
            }
        flat = self.scene_vector(observations)
        for info, vector in zip(ended, flat[self.num_envs :], strict=True):
            info["terminal_observation"] = vector
        return flat[: self.num_envs], rewards, dones, infos


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


def _check_space(space: spaces.Space[Any]) -> spaces.Dict:
    needed = (
        "an encoder needs a Dict observation with images (K, H, W, 3) uint8, poses (K, 5) float32 "
        "and, optionally, proprio (P,) and frame (4,) float32"
    )
    if not isinstance(space, spaces.Dict):
        raise ValueError(f"{needed}; found {space}")
    missing = [key for key in VIEW_KEYS if key not in space.spaces]
    if missing:
        raise ValueError(f"{needed}; {' and '.join(missing)} missing, found keys {', '.join(space.spaces)}")
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
