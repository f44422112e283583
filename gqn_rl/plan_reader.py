"""How the generator looks at a plan: along the ray of each of its cells, near things in front of far ones."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gqn_rl.plans import Plan, in_front
from gqn_rl.ray_representation import ResidualBlock
from gqn_rl.rays import camera_rays, fourier

#: Places along a ray at which the plan is read; the last, which stops all that is left, is where it leaves the box.
PLACES: Final = 24
#: Channels of what is known at a place.
WIDTH: Final = 32
#: Optical depth of one unit of length at initialisation, divided by log 2: a ray sees some way, and past what is near.
DENSITY: Final = 5.0


class PlanReader(nn.Module):
    """A plan (S, C, cells, cells) and cameras to maps (N, channels, h, w) of what their rays meet.

    Convolutions over the plan fill in what no view has seen. A linear layer with ReLU makes each place's features from
    the plan's and from its coordinates, a second one its density per unit of length. A ray that misses the plan's box
    meets nothing: zeros.

    Args:
        inputs: channels C of the plan.
        channels: of the maps.
        grid: (h, w), rows and columns of a map; a ray through the middle of each.
        fovy: vertical field of view, degrees.
        length_scale: metres in the plan's unit of length.
        bands: octaves of the coordinates' Fourier features.
        plan: the box that it covers.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        grid: tuple[int, int],
        fovy: float,
        length_scale: float,
        bands: int,
        plan: Plan,
    ) -> None:
        super().__init__()
        self.grid, self.fovy, self.length_scale, self.bands, self.plan = grid, fovy, length_scale, bands, plan
        self.cells = nn.Conv2d(inputs, WIDTH, 1)
        self.whole = nn.Linear(inputs, WIDTH, bias=False)
        self.fill = nn.Sequential(*(ResidualBlock(WIDTH) for _ in range(3)))
        self.place = nn.Linear(3 * (1 + 2 * bands), WIDTH)
        self.density = nn.Linear(WIDTH, 1)
        nn.init.kaiming_normal_(self.cells.weight, nonlinearity="linear")
        self.out = nn.Conv2d(WIDTH, channels, 1, bias=False)

    def forward(self, scene: Tensor, poses: Tensor) -> Tensor:
        """``poses`` (N, 5), metres and radians, N a multiple of S: the views of a scene lie together."""
        plan = self.fill(self.cells(scene) + self.whole(scene.mean(dim=(2, 3)))[:, :, None, None])
        if len(poses) != len(plan):
            plan = plan.repeat_interleave(len(poses) // len(plan), dim=0)
        fractions = torch.linspace(0, 1, PLACES, device=poses.device)
        places, lengths = self.plan.walk(*camera_rays(poses, self.fovy, *self.grid), fractions, self.length_scale)
        # Channels come first: what follows is bound by memory, and (N, WIDTH, h w, PLACES) is copied nowhere.
        found = self.plan.look(plan.contiguous(), places.flatten(1, 2))
        known = self.place.weight @ fourier(places, self.bands).flatten(1, 2).transpose(1, 2)
        met = F.relu(found + known + self.place.bias[:, None])
        density = F.softplus(self.density.weight @ met + self.density.bias).unflatten(2, places.shape[1:3])
        shares = in_front(density * (DENSITY / (PLACES - 1)) * lengths[:, None, :, None])
        seen = (met.unflatten(2, places.shape[1:3]) * shares).sum(-1) * (lengths > 0)[:, None]
        return self.out(seen.unflatten(2, self.grid))
