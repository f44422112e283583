"""An encoder of one's own: a frozen convolutional network in the style of torchvision's ResNets.

Its weights are random, drawn from a seed, so nothing is downloaded; ``FrozenCNN.network`` is the place for trained
ones. Any class with ``size`` and ``encode`` will do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Mean and standard deviation of red, green and blue that torchvision's trained networks expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two convolutions and a shortcut, torchvision's ``BasicBlock`` (He et al. 2015); halves height and width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H/2, W/2)."""
        return (self.residual(maps) + self.shortcut(maps)).relu()


class FrozenCNN(nn.Module):
    """Where in the pictures the channels of a frozen network are active, and how much; of any number of views.

    Views are averaged. Each is multiplied by where its camera looks first, so that the average of up to three fixed
    cameras still holds all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = 32
        with torch.random.fork_rng([]):  # the same weights in every process, and nobody else's random numbers change
            torch.manual_seed(0)
            self.network = nn.Sequential(Block(3, 16), Block(16, channels))
        # Trained weights instead, with channels = 128:
        # self.network = nn.Sequential(*list(torchvision.models.resnet18(weights="DEFAULT").children())[:6])
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))
        self.size = 3 * channels * 3
        self.eval()

    @torch.inference_mode()
    def encode(self, images: Tensor, poses: Tensor) -> Tensor:
        """``images`` (B, K, H, W, 3) uint8 and ``poses`` (B, K, 5), x, y, z, yaw, pitch, to (B, size) float32."""
        pictures = (images.flatten(0, 1).permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        seen = _places(self.network(pictures)).unflatten(0, images.shape[:2])  # (B, K, 3 * channels)
        yaw = poses[..., 3]
        looks = torch.stack([torch.ones_like(yaw), yaw.cos(), yaw.sin()], dim=-1)  # (B, K, 3)
        return torch.einsum("bkc,bkl->bcl", seen, looks).flatten(1) / images.shape[1]


def _places(maps: Tensor) -> Tensor:
    """Each channel's mean activity, and the row and column about which it lies, -1 to 1; (N, C, H, W) to (N, 3C).

    The spatial softmax of Levine et al. 2016, section 5.
    """
    height, width = maps.shape[2:]
    level = maps.mean((2, 3))
    spread = maps.flatten(2).std(dim=2, keepdim=True).clamp_min(1e-6)
    weights = (4 * maps.flatten(2) / spread).softmax(dim=2).unflatten(2, (height, width))  # 4: peaks stand out
    rows = weights.sum(3) @ torch.linspace(-1, 1, height, device=maps.device)
    columns = weights.sum(2) @ torch.linspace(-1, 1, width, device=maps.device)
    return torch.cat([level, rows, columns], dim=1)
