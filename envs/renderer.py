"""Fast headless pictures of a MuJoCo model from the camera poses of :mod:`gqn_rl.types`.

``mujoco.Renderer`` is built for one good-looking picture; a GQN wants a thousand small ones a second. What costs
time in software OpenGL is multisampling (2.5 times), the 4096-texel shadow map (50 ms a frame), fine spheres and
cylinders, and reading back frame by frame, so the ``fast`` quality leaves those out and draws all views of one
moment side by side into one buffer that is read once (benchmarks/rendering.py measures it).

One OpenGL context per process (:mod:`gqn_rl.envs.gl_context`); each renderer keeps its own MuJoCo resources in it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Final

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gqn_rl.cameras import check_poses
from gqn_rl.envs.gl_context import CONTEXT, HINT
from gqn_rl.types import RenderError


@dataclass(frozen=True)
class Quality:
    """How a model is drawn. Numbers go to ``mjVisual.quality`` (MuJoCo XML reference, visual/quality)."""

    offsamples: int  #: multisamples a pixel
    numslices: int  #: of a sphere or cylinder, around
    numstacks: int  #: of a sphere or cylinder, along
    numquads: int  #: of a box's face
    shadowsize: int  #: texels of a shadow map's side; 0 draws no shadows
    supersample: int = 1  #: pixels drawn, each way, that are averaged to one


#: 64x64 pictures for encoders.
FAST: Final = Quality(offsamples=0, numslices=12, numstacks=8, numquads=1, shadowsize=0)
#: The same where what is thin matters, such as fingers a pixel wide: four samples a pixel for 1.7 times the time, where
#: MuJoCo's multisampling takes 2.6 times.
SMOOTH: Final = replace(FAST, supersample=2)
#: Texels of a shadow map's side where small pictures have shadows: 5 cm of a room are a texel.
SHADOWSIZE: Final = 256
#: Pixels of a buffer's side, the limit of llvmpipe and of most GPUs; where it is larger, nothing is lost by this one.
LARGEST: Final = 16_384
#: Large pictures for people.
DETAILED: Final = Quality(offsamples=4, numslices=48, numstacks=24, numquads=4, shadowsize=2048)


def renderer_version() -> str:
    """What decides the pixels besides the scene: MuJoCo's version (3.12, say, moved textures on primitives)."""
    return f"mujoco {mujoco.__version__}"


class SceneRenderer:
    """Draws one compiled model from any pose, at one size.

    Args:
        model: the compiled model. Its visual quality and buffer size are set by this class while it uploads.
        height, width: of a picture, in pixels.
        quality: :data:`FAST` or :data:`DETAILED`.
        views: how many views one read fetches at most; more are drawn in several rounds.
        geom_groups: which geom groups are drawn; MuJoCo's own renderer draws 0, 1 and 2.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        height: int,
        width: int,
        *,
        quality: Quality = FAST,
        views: int = 1,
        geom_groups: tuple[int, ...] = (0, 1, 2),
    ) -> None:
        if height < 1 or width < 1:
            raise ValueError(f"a picture needs at least one pixel each way, got {height}x{width}")
        largest = LARGEST // quality.supersample
        if max(height, width) > largest:
            raise ValueError(f"a picture has at most {largest} pixels each way, got {height}x{width}")
        self._model = model
        self._height, self._width, self._columns = height, width, min(max(1, views), largest // width)
        self._drawn = (height * quality.supersample, width * quality.supersample)
        self._quality = quality
        self._context: mujoco.MjrContext | None = None
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 32)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = quality.shadowsize > 0
        for flag in ("mjRND_REFLECTION", "mjRND_HAZE"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, flag)] = False
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._option.geomgroup[list(geom_groups)] = 1
        self._option.sitegroup[:] = 0
        self._perturb = mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        self._buffer = np.empty((self._drawn[0], self._drawn[1] * self._columns, 3), np.uint8)

    def _upload(self) -> mujoco.MjrContext:
        """MuJoCo's GPU resources."""
        model, quality = self._model, self._quality
        vis = model.vis
        for name in ("offsamples", "numslices", "numstacks", "numquads"):
            setattr(vis.quality, name, getattr(quality, name))
        vis.quality.shadowsize = max(quality.shadowsize, 1)
        vis.global_.offheight, vis.global_.offwidth = self._buffer.shape[:2]
        try:
            context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        except mujoco.FatalError as error:
            raise RenderError(f"{error}; {HINT}") from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        if context.currentBuffer != mujoco.mjtFramebuffer.mjFB_OFFSCREEN:
            raise RenderError(f"this OpenGL has no offscreen framebuffer; {HINT}")
        return context

    def render(self, data: mujoco.MjData, poses: ArrayLike) -> NDArray[np.uint8]:
        """Pictures (K, H, W, 3) uint8 of the present state from ``poses`` (K, 5)."""
        poses = check_poses(poses)
        if poses.ndim != 2:
            raise ValueError(f"poses must be (K, 5), got shape {poses.shape}")
        images = np.empty((len(poses), self._height, self._width, 3), np.uint8)
        with CONTEXT.current():
            if self._context is None:
                self._context = self._upload()
            for start in range(0, len(poses), self._columns):
                batch = poses[start : start + self._columns]
                self._draw(data, batch, self._context)
                whole = _average(self._buffer[::-1], self._quality.supersample)
                tiles = whole.reshape(self._height, self._columns, self._width, 3)
                images[start : start + len(batch)] = tiles.swapaxes(0, 1)[: len(batch)]
        return images

    def _draw(self, data: mujoco.MjData, poses: NDArray[np.float32], context: mujoco.MjrContext) -> None:
        height, width = self._drawn
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        for column, pose in enumerate(poses):
            self._aim(pose)
            # Once a view, not once a moment: the headlight is part of the scene and moves with the camera.
            mujoco.mjv_updateScene(
                self._model, data, self._option, self._perturb, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
            )
            viewport = mujoco.MjrRect(column * width, 0, width, height)
            mujoco.mjr_render(viewport, self._scene, context)
        everything = mujoco.MjrRect(0, 0, width * self._columns, height)
        mujoco.mjr_readPixels(self._buffer, None, everything, context)

    def _aim(self, pose: NDArray[np.float32]) -> None:
        """A free camera at ``pose``: it looks at the point one metre ahead from one metre behind that point."""
        x, y, z, yaw, pitch = (float(number) for number in pose)
        level = np.cos(pitch)
        self._camera.lookat[:] = (x + np.cos(yaw) * level, y + np.sin(yaw) * level, z + np.sin(pitch))
        self._camera.distance = 1.0
        self._camera.azimuth = np.rad2deg(yaw)
        self._camera.elevation = np.rad2deg(pitch)

    def close(self) -> None:
        """Free the OpenGL resources; rendering again makes them anew."""
        if self._context is None:
            return
        context, self._context = self._context, None
        if CONTEXT.inherited:
            _INHERITED.append(context)  # not ours to free: the process that this one was forked from draws with it
            return
        if CONTEXT.elsewhere:
            CONTEXT.leave(context)
            return
        with CONTEXT.current():
            context.free()

    def __del__(self) -> None:
        # MuJoCo frees what is left in whatever context is current then: another library's, whose pictures turn black.
        with contextlib.suppress(Exception):  # half made, or the interpreter is on its way out
            self.close()


#: MuJoCo's resources that are another process's.
_INHERITED: Final[list[mujoco.MjrContext]] = []


def _average(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """``image`` (side * H, side * W, 3) with each square of ``side`` x ``side`` pixels averaged: (H, W, 3)."""
    if side == 1:
        return image
    samples = [image[row::side, column::side].astype(np.uint16) for row in range(side) for column in range(side)]
    count = side * side
    return ((sum(samples[1:], samples[0]) + count // 2) // count).astype(np.uint8)
