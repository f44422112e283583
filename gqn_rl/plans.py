"""A scene as a plan: features on a grid over the floor, world-aligned, so that plans of several views add up.

A camera's pixel says what stands somewhere along a ray. *Lifting* gives each ray a distribution over places in the box
above the plan, and drops its features on the cells below them (Philion and Fidler 2020, "Lift, Splat, Shoot").
*Looking* goes the other way: along the ray of a camera that has not been there, the plan is read at many places, and
what is near hides what is far.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

#: Directions closer than this to a side of the box count as not quite parallel to it.
SLANT: Final = 1e-6


class Plan(NamedTuple):
    """The plan's box: a square of the floor about the world's origin, and the room above it.

    Lengths are in units of the networks' length scale. Of two axes of cells the first is along x and the second along
    y; one axis of all cells has ``x * cells + y``.
    """

    cells: int  #: along a side
    side: float
    height: float

    def spans(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """How far along rays (..., 3) the box begins and ends, (...), in units.

        A ray that starts in the box begins at 0; one that misses it begins and ends there.
        """
        half = self.side / 2
        low, high = origins.new_tensor([-half, -half, 0.0]), origins.new_tensor([half, half, self.height])
        slanted = torch.where(directions.abs() < SLANT, SLANT, directions)
        one, other = (low - origins) / slanted, (high - origins) / slanted
        begin = torch.minimum(one, other).amax(-1).clamp_min(0)
        end = torch.maximum(one, other).amin(-1)
        # Where a ray misses, the two are distances to planes that it may cross a million units away.
        hits = end > begin
        return torch.where(hits, begin, 0.0), torch.where(hits, end, 0.0)

    def walk(self, origins: Tensor, directions: Tensor, fractions: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Places (N, h w, D, 3) within the box along rays, and how long the rays are in it, (N, h w), in units.

        A ray that misses the box has length 0, and all its places are where it starts.

        Args:
            origins: (N, 3), in metres, not in units.
            directions: (N, h, w, 3), unit vectors.
            fractions: (D,) of the way from where a ray enters the box (0) to where it leaves it (1).
            scale: metres that count as one.
        """
        starts, ways = origins[:, None] / scale, directions.flatten(1, 2)
        begin, end = self.spans(starts, ways)
        distances = begin[..., None] + (end - begin)[..., None] * fractions
        return starts[..., None, :] + distances[..., None] * ways[..., None, :], end - begin

    def lift(self, places: Tensor, weights: Tensor) -> Tensor:
        """How much of each ray lies over each cell: (N, P, cells * cells), of P rays with D places each.

        Args:
            places: (N, P, D, 3); those beyond the plan's rim count for the cells at the rim.
            weights: (N, P, D) of the places. Each is shared by the four cells whose middles surround it.
        """
        corners = ((places[..., :2] / self.side + 0.5) * self.cells - 0.5).clamp(0, self.cells - 1)
        first = corners.floor().clamp(max=self.cells - 2)
        x, y = (corners - first).unbind(-1)
        index = (first[..., 0] * self.cells + first[..., 1]).long()
        over = weights.new_zeros(*weights.shape[:2], self.cells**2)
        for step, share in (
            (0, (1 - x) * (1 - y)),
            (1, (1 - x) * y),
            (self.cells, x * (1 - y)),
            (self.cells + 1, x * y),
        ):
            over = over.scatter_add(2, index + step, weights * share)
        return over

    def look(self, plan: Tensor, places: Tensor) -> Tensor:
        """The features (N, C, P) of ``plan`` (N, C, cells, cells) at ``places`` (N, P, 3), between cells' middles."""
        at = (places[..., :2] * (2 / self.side)).flip(-1)[:, None]  # grid_sample names the last dimension, y, first
        found = F.grid_sample(plan, at, mode="bilinear", padding_mode="border", align_corners=False)
        return found[:, :, 0]


def in_front(density: Tensor) -> Tensor:
    """What of each of S places on a ray (..., S) is seen, by how dense they are (optical depths, 0 or more).

    Beer and Lambert: the share ``exp(-density)`` passes. The last place stops whatever is left: shares sum to 1.
    """
    passed = torch.exp(-density[..., :-1].cumsum(-1))
    reaches = torch.cat([torch.ones_like(passed[..., :1]), passed], dim=-1)
    return torch.cat([reaches[..., :-1] - reaches[..., 1:], reaches[..., -1:]], dim=-1)
