"""The GQN paper's representation networks (Eslami et al. 2018, supplement, section 2), and what all such networks are.

A representation network turns one posed image into its share of the scene representation; the scene is the sum over
views. No network mixes the images of a batch, so a view's share never depends on its companions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gqn_rl.rays import POSE_FEATURES, pose_features


class Representation(nn.Module):
    """Base: ``forward(images (N, 3, H, W) float in [0, 1], poses (N, 5)) -> (N, *out_shape)``, a view's share.

    ``read`` is what the generator sees of a sum of shares, of shape ``(B, *read_shape)``; the paper's networks hand
    over the sum itself. The first ``3 * points`` channels of what it sees are the places of points in the room.
    """

    points = 0

    def __init__(self, out_shape: tuple[int, int, int], length_scale: float) -> None:
        super().__init__()
        self.out_shape = out_shape
        self.length_scale = length_scale

    @property
    def read_shape(self) -> tuple[int, int, int]:
        """Shape of ``read``'s answer, without the batch."""
        return self.out_shape

    @property
    def feature_size(self) -> int:
        """Length of what ``features`` returns."""
        return self.out_shape[0]

    def read(self, total: Tensor) -> Tensor:
        """What a sum of shares (B, *out_shape) says: (B, *read_shape)."""
        return total

    def vector(self, shares: Tensor) -> Tensor:
        """One flat vector (B, D) of shares (B, K, *out_shape) whose scale does not depend on K."""
        return self.vector_of_sum(shares.sum(dim=1), shares.new_full((len(shares),), shares.shape[1]))

    def vector_of_sum(self, total: Tensor, views: Tensor) -> Tensor:
        """:meth:`vector` of any shares with the sum ``total`` (B, *out_shape); ``views`` (B,) says of how many each."""
        return (total / views[:, None, None, None]).flatten(1)

    def features(self, shares: Tensor) -> Tensor:
        """Of shares (N, *out_shape), what has no place in the room: (N, F)."""
        return shares.mean(dim=(2, 3))

    @property
    def prior(self) -> Tensor | None:
        """What is known of the points before any view: Gaussians (points, 9); None without points."""
        return None

    def keep_points(self) -> None:
        """From now on gradients reach what makes the free features, and nothing that makes the points."""
        raise NotImplementedError(f"{type(self).__name__} has no points")

    def gaussians(self, shares: Tensor) -> Tensor:
        """Of shares (N, *out_shape), the Gaussians over points in the room: (N, points, 9)."""
        raise NotImplementedError(f"{type(self).__name__} has no points")

    def _broadcast_pose(self, poses: Tensor, features: Tensor) -> Tensor:
        """``features`` (N, C, h, w) with v appended at every position: (N, C + 7, h, w)."""
        v = pose_features(poses, self.length_scale).to(features.dtype)
        return torch.cat([features, v[:, :, None, None].expand(-1, -1, *features.shape[-2:])], dim=1)


class Pyramid(Representation):
    """The paper's pyramid: 2x2 convolutions of stride 2 to 32, 64 and 128 channels, then one over what is left."""

    def __init__(self, channels: int, height: int, width: int, length_scale: float = 1.0) -> None:
        super().__init__((channels, 1, 1), length_scale)
        self.layers = nn.Sequential(
            nn.Conv2d(3 + POSE_FEATURES, 32, 2, stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 2, stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 128, 2, stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(128, channels, (height // 8, width // 8)),
            nn.ReLU(inplace=True),
        )

    def forward(self, images: Tensor, poses: Tensor) -> Tensor:
        return self.layers(self._broadcast_pose(poses, images))


class Tower(Representation):
    """The paper's tower, (channels, H / 4, W / 4), or with ``pooled`` its spatial mean, (channels, 1, 1).

    Two residual stages; v joins at the second one's input.
    """

    def __init__(self, channels: int, height: int, width: int, length_scale: float = 1.0, pooled: bool = False) -> None:
        c = channels
        super().__init__((c, 1, 1) if pooled else (c, height // 4, width // 4), length_scale)
        self.pooled = pooled
        self.stem = nn.Conv2d(3, c, 2, stride=2)
        self.skip1 = nn.Conv2d(c, c, 2, stride=2)
        self.body1a = nn.Conv2d(c, c // 2, 3, padding=1)
        self.body1b = nn.Conv2d(c // 2, c, 2, stride=2)
        self.skip2 = nn.Conv2d(c + POSE_FEATURES, c, 3, padding=1)
        self.body2a = nn.Conv2d(c + POSE_FEATURES, c // 2, 3, padding=1)
        self.body2b = nn.Conv2d(c // 2, c, 3, padding=1)
        self.out = nn.Conv2d(c, c, 1)

    def forward(self, images: Tensor, poses: Tensor) -> Tensor:
        x = F.relu(self.stem(images))
        x = F.relu(self.body1b(F.relu(self.body1a(x)))) + F.relu(self.skip1(x))
        x = self._broadcast_pose(poses, x)
        x = F.relu(self.body2b(F.relu(self.body2a(x)))) + F.relu(self.skip2(x))
        x = F.relu(self.out(x))
        return x.mean(dim=(2, 3), keepdim=True) if self.pooled else x
