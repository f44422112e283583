"""Camera poses as numbers that a network can use: rays through pixels, Plücker coordinates, Fourier features.

The torch counterpart of :mod:`gqn_rl.cameras`, with the same pose convention: ``(x, y, z, yaw, pitch)``, metres
and radians, z up, no roll. Everything is differentiable, batched and free of state.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Length of :func:`pose_features`.
POSE_FEATURES = 7
#: Length of :func:`plucker`.
PLUCKER_SIZE = 6


def camera_axes(poses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The unit vectors forward, right and up of cameras at ``poses`` (..., 5), each (..., 3)."""
    yaw, pitch = poses[..., 3], poses[..., 4]
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()
    forward = torch.stack([cos_yaw * cos_pitch, sin_yaw * cos_pitch, sin_pitch], dim=-1)
    right = torch.stack([sin_yaw, -cos_yaw, torch.zeros_like(yaw)], dim=-1)
    up = torch.stack([-cos_yaw * sin_pitch, -sin_yaw * sin_pitch, cos_pitch], dim=-1)
    return forward, right, up


def camera_rays(poses: Tensor, fovy: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The rays through the centres of all pixels: origins (..., 3) and unit directions (..., height, width, 3).

    ``poses`` is (..., 5), ``fovy`` the vertical field of view in degrees; pixels are square and rows go from the
    top, as in :func:`gqn_rl.cameras.project`. A coarse grid over the same image (``height / s``, ``width / s``)
    gives the rays through the centres of its ``s`` x ``s`` blocks.
    """
    forward, right, up = camera_axes(poses)
    pixel = 2 * math.tan(math.radians(fovy) / 2) / height  # size of a pixel on the image plane at distance 1
    rows = torch.arange(height, dtype=poses.dtype, device=poses.device)
    columns = torch.arange(width, dtype=poses.dtype, device=poses.device)
    upward = ((height - 1) / 2 - rows) * pixel
    rightward = (columns - (width - 1) / 2) * pixel
    on_plane = (
        forward[..., None, None, :]
        + upward[:, None, None] * up[..., None, None, :]
        + rightward[None, :, None] * right[..., None, None, :]
    )
    length = (1 + upward[:, None, None] ** 2 + rightward[None, :, None] ** 2).sqrt()
    return poses[..., :3], on_plane / length


def plucker(origins: Tensor, directions: Tensor) -> Tensor:
    """Plücker coordinates (..., H, W, 6) of rays: direction, then moment ``origin x direction``.

    ``origins`` is (..., 3), ``directions`` (..., H, W, 3). The moment has the unit of the origins and is the same
    for every point of the ray: the coordinates name the line and not the place of the camera on it.
    """
    moments = torch.linalg.cross(origins[..., None, None, :].expand_as(directions), directions)
    return torch.cat([directions, moments], dim=-1)


def fourier(x: Tensor, bands: int) -> Tensor:
    """``x`` (..., C) to (..., C * (1 + 2 * bands)): x, then sin(2^k pi x) and cos(2^k pi x) for k < ``bands``."""
    if bands == 0:
        return x
    frequencies = math.pi * 2.0 ** torch.arange(bands, dtype=x.dtype, device=x.device)
    angles = (x[..., None, :] * frequencies[:, None]).flatten(-2)
    return torch.cat([x, angles.sin(), angles.cos()], dim=-1)


def ray_features(poses: Tensor, fovy: float, height: int, width: int, bands: int, scale: float = 1.0) -> Tensor:
    """Fourier features (..., height, width, 6 * (1 + 2 * bands)) of the Plücker coordinates of every pixel's ray.

    Positions are divided by ``scale`` (metres) first, so that moments are of order one.
    """
    origins, directions = camera_rays(poses, fovy, height, width)
    return fourier(plucker(origins / scale, directions), bands)


def pose_features(poses: Tensor, scale: float = 1.0) -> Tensor:
    """The GQN paper's v (..., 7) of ``poses`` (..., 5): x, y, z, cos yaw, sin yaw, cos pitch, sin pitch.

    Positions are divided by ``scale`` (metres).
    """
    yaw, pitch = poses[..., 3:4], poses[..., 4:5]
    return torch.cat([poses[..., :3] / scale, yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()], dim=-1)
