"""Points in the room as a camera sees them: a soft blob on the image for each.

This is how the generator learns where to draw: the place of a point enters its picture differentiably, so an error
of the drawing moves the point.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from gqn_rl.rays import camera_axes

#: Channels of a point's blob.
SPLAT_CHANNELS: Final = 4
#: The least standard deviation of a blob, in cells: no blob falls between the cells.
SMALLEST_BLOB: Final = 0.5
#: Points nearer than this to the image plane, or behind it, are not drawn; in the unit of the points.
NEAREST: Final = 0.05


def splats(points: Tensor, sizes: Tensor, poses: Tensor, fovy: float, height: int, width: int, scale: float) -> Tensor:
    """Maps (N, K * 4, height, width): for each point its blob, the blob times the offset down, right, and over depth.

    Args:
        points: (N, K, 3) in the room, metres divided by ``scale``.
        sizes: (K,) standard deviations of the blobs in the room, in the same unit.
        poses: (N, 5) of the cameras, metres and radians.
        fovy: vertical field of view, degrees.
        height, width: of the grid of cells that the image is divided into.
        scale: metres that count as one.

    A blob is a Gaussian of the distance on the image between a cell's centre and the point, one at the point itself;
    offsets are in its standard deviations.
    """
    offset = points - poses[:, None, :3] / scale
    depth, right, up = ((offset * axis[:, None]).sum(-1) for axis in camera_axes(poses))
    seen = depth > NEAREST
    depth = depth.clamp_min(NEAREST)
    cells = height / (2 * math.tan(math.radians(fovy) / 2)) / depth  # on the image, of one unit at this depth
    row, column = (height - 1) / 2 - cells * up, (width - 1) / 2 + cells * right
    std = (sizes * cells).square().add(SMALLEST_BLOB**2).sqrt()[..., None]
    down = (torch.arange(height, device=points.device) - row[..., None]) / std  # (N, K, height)
    across = (torch.arange(width, device=points.device) - column[..., None]) / std
    vertical = torch.exp(-0.5 * down.square()) * seen[..., None]
    horizontal = torch.exp(-0.5 * across.square())
    blob = vertical[..., :, None] * horizontal[..., None, :]
    parts = [blob, blob * down[..., :, None], blob * across[..., None, :], blob / depth[..., None, None]]
    return torch.stack(parts, dim=2).flatten(1, 2)
