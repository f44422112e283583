"""Our representation of what is spread out: a plan of the floor, which every view fills where it looks.

Points (:mod:`gqn_rl.ray_representation`) know where a few things are. Which cells of a maze are walls is no list of
points; a plan has a place for each.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gqn_rl.paper_representation import Representation
from gqn_rl.plans import Plan
from gqn_rl.ray_representation import RayTokens
from gqn_rl.rays import camera_rays

#: Places along a ray that it may be about.
PLACES: Final = 24
#: How much must be known of a cell, in rays, until its features count for most of what they say.
FEW: Final = 0.1


class PlanAttention(Representation):
    """Every image position drops its features along its ray: (channels + 1, cells, cells), the last: how many rays.

    A share is [sum of features, sum of weights]; the generator reads a sum of shares as [mean of features,
    log(1 + weight)], so that a cell's features do not depend on how often it was seen, and how often is known too.
    """

    def __init__(self, tokens: RayTokens, token_channels: int, channels: int, length_scale: float, plan: Plan) -> None:
        super().__init__((channels + 1, plan.cells, plan.cells), length_scale)
        self.tokens, self.plan = tokens, plan
        self.distance = nn.Linear(token_channels, PLACES)
        self.content = nn.Linear(token_channels + 3 * tokens.stride**2, channels)
        # Features of order one from the start: where they are ten times smaller, the generator hears of little but its
        # camera, and after 120 steps on mazes novel views are at 60 % of the mean image's error instead of 47 %.
        nn.init.kaiming_normal_(self.content.weight, nonlinearity="linear")

    @property
    def feature_size(self) -> int:
        return self.out_shape[0] - 1

    def features(self, shares: Tensor) -> Tensor:
        return self.read(shares)[:, :-1].mean(dim=(2, 3))

    def forward(self, images: Tensor, poses: Tensor) -> Tensor:
        """Shares (N, channels + 1, cells, cells), float32, of images in [0, 1] and poses (N, 5), metres and radians."""
        _, tokens, _ = self.tokens(images, poses)
        fractions = (torch.arange(PLACES, device=poses.device) + 0.5) / PLACES
        places, lengths = self.plan.walk(
            *camera_rays(poses, self.tokens.fovy, *self.tokens.grid), fractions, self.length_scale
        )
        weights = self.distance(tokens).float().softmax(dim=-1) * (lengths > 0)[..., None]
        over = self.plan.lift(places, weights)  # (N, positions, cells * cells)
        pixels = F.pixel_unshuffle((images - 0.5) * 4, self.tokens.stride).flatten(2).transpose(1, 2)
        content = self.content(torch.cat([tokens, pixels.to(tokens.dtype)], dim=-1)).float()
        content = torch.cat([content, content.new_ones(*content.shape[:2], 1)], dim=-1)
        with torch.autocast(images.device.type, enabled=False):  # sums of hundreds of rays, and of views after that
            return (content.transpose(1, 2) @ over).unflatten(2, (self.plan.cells, self.plan.cells))

    def read(self, total: Tensor) -> Tensor:
        known = total[:, -1:]
        return torch.cat([total[:, :-1] / (known + FEW), known.log1p()], dim=1)

    def vector_of_sum(self, total: Tensor, views: Tensor) -> Tensor:
        # A policy's input must not grow with every view: of how often a cell was seen it is told what soon reaches 1.
        known = total[:, -1:]
        return (torch.cat([total[:, :-1], known], dim=1) / (known + FEW)).flatten(1)
