"""ViewAdapter: what ``render()`` draws, as the one view of an environment that is not MuJoCo's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gqn_rl.cameras import CONVENTION, check_fovy, check_poses, is_whole, size_pair
from gqn_rl.types import POSE_SIZE, Image, RenderError


class ViewAdapter(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """``env`` whose observation is the picture that it renders and the pose of the camera that took it.

    Observations are ``images`` (1, H, W, 3) uint8, ``poses`` (1, 5) float32 and, if any numbers of the environment's
    own observation are to be seen, ``proprio`` (P,) float32. A policy can be trained on that, with an encoder of one's
    own or one pretrained on such pictures. Scenes cannot be recorded: that takes pictures from anywhere
    (:class:`gqn_rl.types.SceneSource`).

    Args:
        env: with ``render_mode="rgb_array"``.
        pose_fn: ``pose_fn(env.unwrapped)``, the pose (5,) of the camera that ``render()`` looks from: x, y, z (m, z
            up), yaw and pitch (radians). For a camera that does not move, a constant.
        image_size: height and width of the view, pixels; the picture is averaged down to it. Of other proportions than
            the picture's, it squashes it.
        proprio: indices of numbers in a flat ``Box`` observation that the policy may see too; none by default, since
            nobody knows which say where the goal is.
        fovy: the camera's vertical field of view, degrees, if encoders are to compare it with theirs. Pixels have to
            be square then, as they are to the encoders.

    Raises:
        ValueError: ``env`` does not render to ``rgb_array``, its observation has no such numbers, or the view can have
            no such size or field of view.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        pose_fn: Callable[[Any], Any],
        *,
        image_size: int | tuple[int, int] = 64,
        proprio: Sequence[int] = (),
        fovy: float | None = None,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self, pose_fn=pose_fn, image_size=image_size, proprio=proprio, fovy=fovy
        )
        gym.ObservationWrapper.__init__(self, env)
        if env.render_mode != "rgb_array":
            raise ValueError(f"ViewAdapter needs an environment with render_mode='rgb_array', got {env.render_mode!r}")
        own = env.observation_space
        size = int(np.prod(own.shape)) if isinstance(own, spaces.Box) else 0
        entries = list(proprio) if isinstance(proprio, Iterable) else [proprio]
        if wrong := [index for index in entries if not (is_whole(index) and 0 <= index < size)]:
            raise ValueError(f"proprio holds {wrong}, but a flat observation is needed that has them; this is {own}")
        self._pose_fn, self._proprio, self._size = pose_fn, entries, size_pair("image_size", image_size)
        parts: dict[str, spaces.Space[Any]] = {
            "images": spaces.Box(0, 255, (1, *self._size, 3), np.uint8),
            "poses": spaces.Box(-np.inf, np.inf, (1, POSE_SIZE), np.float32),
        }
        if self._proprio:
            parts["proprio"] = spaces.Box(-np.inf, np.inf, (len(self._proprio),), np.float32)
        self.observation_space = spaces.Dict(parts)
        if fovy is not None:
            #: What an encoder has to agree with.
            self.camera_metadata = {
                "convention": CONVENTION,
                "fovy": check_fovy(fovy),
                "image_size": self._size,
                "renderer": f"{type(env.unwrapped).__name__}.render",
            }

    def observation(self, observation: Any) -> dict[str, NDArray[Any]]:
        """The present picture and its pose, and the chosen numbers of ``observation``."""
        pose = check_poses(self._pose_fn(self.env.unwrapped))
        if pose.shape != (POSE_SIZE,):
            raise ValueError(f"pose_fn must return one pose ({POSE_SIZE},), got shape {pose.shape}")
        seen: dict[str, NDArray[Any]] = {"images": self._picture()[None], "poses": pose[None]}
        if self._proprio:
            seen["proprio"] = np.asarray(observation, np.float32).reshape(-1)[self._proprio]
        return seen

    def _picture(self) -> Image:
        from PIL import Image as Pictures

        name = type(self.env.unwrapped).__name__
        try:
            picture = np.asarray(self.env.render())
        except Exception as error:  # somebody else's code may raise anything
            raise RenderError(
                f"{name}.render() failed ({type(error).__name__}: {error}); mend that first: no view comes without it"
            ) from error
        if picture.ndim != 3 or picture.shape[-1] != 3 or picture.dtype != np.uint8:
            raise RenderError(
                f"{name}.render() must return a picture (H, W, 3) uint8, got "
                + (f"{picture.shape} {picture.dtype}" if picture.ndim else repr(picture.item()))
            )
        height, width = self._size
        seen_height, seen_width = picture.shape[:2]
        # What is short of half a pixel comes of rounding.
        square = seen_width * height / seen_height
        if hasattr(self, "camera_metadata") and abs(square - width) > 0.5:
            raise RenderError(
                f"{name}.render() gives {seen_height}x{seen_width} pixels, which image_size {height}x{width} squashes, "
                f"and fovy says of square pixels; set image_size to ({height}, {round(square)})"
            )
        return np.asarray(Pictures.fromarray(picture).resize((width, height), Pictures.Resampling.BOX))
