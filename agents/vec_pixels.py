"""The pixel arms' eyes: the same views, poses and sensors that an encoder gets, but as pictures that networks learn on.

A ``Dict`` observation whose pictures are one stack of channels is what Stable-Baselines3's ``MultiInputPolicy`` takes:
its convolutional network sees the pictures, and everything else is appended to what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from gqn_rl.agents.vec_scene import FRAME_KEY, PROPRIO_KEY, VIEW_KEYS, check_views

PIXELS_KEY: Final = "pixels"

Observations = dict[str, NDArray[Any]]


class VecPixels(VecEnvWrapper):
    """A vectorised environment whose observations are stacked pictures, beside everything else that it says.

    Observations are ``Dict`` with ``pixels`` (3 * K * stack, H, W) uint8, ``poses`` (K, 5 * stack) float32, and the
    other parts as they are (``proprio``, ``frame``, ``goal`` ...). A view's pictures lie together, the oldest first,
    and its poses in the same order. An episode begins with its first picture ``stack`` times; the last observation of
    every episode, ``infos[i]["terminal_observation"]``, has the history of its own episode.

    Args:
        venv: with ``Dict`` observations that hold ``images`` (K, H, W, 3) uint8 and ``poses`` (K, 5) float32.
        stack: how many pictures of each view a policy sees at once, the newest and those just before.
        proprio: whether ``proprio`` and ``frame``, where there are any, are part of the observation.

    Raises:
        ValueError: another observation space, a part of it called ``pixels``, or more channels than an image has rows
            or columns, which Stable-Baselines3 would take for an image with its channels last.
    """

    def __init__(self, venv: VecEnv, stack: int = 1, proprio: bool = True) -> None:
        parts = check_views(venv.observation_space, "a policy on pixels")
        if PIXELS_KEY in parts.spaces:
            raise ValueError(
                f"{PIXELS_KEY!r} is what the stacked pictures are called; name the observation's otherwise"
            )
        if stack < 1:
            raise ValueError(f"stack must be at least 1, got {stack}")
        views, height, width, _ = parts["images"].shape or ()
        channels = 3 * views * stack
        if channels > min(height, width):
            raise ValueError(
                f"{views} views with stack {stack} are {channels} channels; Stable-Baselines3 takes no more than an "
                f"image has rows or columns, here {height} x {width}: use fewer views, or a smaller stack"
            )
        self._stack = stack
        own = () if proprio else (PROPRIO_KEY, FRAME_KEY)
        self._others = [key for key in parts.spaces if key not in (*VIEW_KEYS, *own)]
        space: dict[str, spaces.Space[Any]] = {
            PIXELS_KEY: spaces.Box(0, 255, (channels, height, width), np.uint8),
            "poses": spaces.Box(-np.inf, np.inf, (views, 5 * stack), np.float32),
            **{key: parts[key] for key in self._others},
        }
        super().__init__(venv, observation_space=spaces.Dict(space))

    def reset(self) -> Observations:
        """First observations of all environments."""
        observations = self.venv.reset()
        assert isinstance(observations, dict)
        self._history = self._begin(observations)
        return self._observe(self._history, observations)

    def step_wait(self) -> tuple[Observations, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Observations, rewards, dones and infos of the step begun by ``step_async``."""
        observations, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(observations, dict)
        before, self._history = self._history, self._history.push(_newest(observations))
        # Not by their infos: an environment may hand out the same one again.
        for index in np.flatnonzero(dones).tolist():
            last = {key: np.asarray(value)[None] for key, value in infos[index]["terminal_observation"].items()}
            ended = before.one(index).push(_newest(last))
            infos[index]["terminal_observation"] = {key: value[0] for key, value in self._observe(ended, last).items()}
            self._history.put(index, self._begin({key: observations[key][index : index + 1] for key in VIEW_KEYS}))
        return self._observe(self._history, observations), rewards, dones, infos

    def _begin(self, observations: Mapping[str, NDArray[Any]]) -> _Views:
        """Histories of episodes that begin."""
        newest = _newest(observations)
        return _Views(np.tile(newest.pictures, (1, 1, self._stack, 1, 1)), np.tile(newest.poses, (1, 1, self._stack)))

    def _observe(self, history: _Views, observations: Mapping[str, NDArray[Any]]) -> Observations:
        pictures = history.pictures.reshape(len(history.pictures), -1, *history.pictures.shape[-2:])
        return {PIXELS_KEY: pictures, "poses": history.poses, **{key: observations[key] for key in self._others}}


class _Views(NamedTuple):
    """Of B environments, K views each; axis 2 is that of time."""

    pictures: NDArray[np.uint8]  #: (B, K, 3 * T, H, W)
    poses: NDArray[np.float32]  #: (B, K, 5 * T)

    def push(self, newest: _Views) -> _Views:
        """With ``newest`` at the end, and as much forgotten at the beginning; new arrays."""
        return _Views(_pushed(self.pictures, newest.pictures), _pushed(self.poses, newest.poses))

    def one(self, index: int) -> _Views:
        """Of one environment."""
        return _Views(self.pictures[index : index + 1], self.poses[index : index + 1])

    def put(self, index: int, one: _Views) -> None:
        """Replace one environment's, in place."""
        self.pictures[index], self.poses[index] = one.pictures[0], one.poses[0]


def _newest(observations: Mapping[str, NDArray[Any]]) -> _Views:
    return _Views(observations["images"].transpose(0, 1, 4, 2, 3), observations["poses"].astype(np.float32))


def _pushed(history: NDArray[Any], newest: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([history[:, :, newest.shape[2] :], newest], axis=2)
