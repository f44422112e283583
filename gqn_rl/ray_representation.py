"""Our representation networks: every image position knows the camera ray through it.

``RayAttention`` pools features and rays with attention heads. ``PointAttention`` goes one step further: a head turns
the place that it attends to into a Gaussian over points in the room (:mod:`gqn_rl.gaussians`), sharp across the
camera's ray and wide along it, so that the sum over views, the paper's own way to combine them, triangulates.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gqn_rl.gaussians import GAUSSIAN_SIZE, along_ray, isotropic, means
from gqn_rl.paper_representation import Representation
from gqn_rl.rays import PLUCKER_SIZE, camera_axes, ray_features

#: Standard deviations in units of the length scale: of a point before any view has seen it, and at initialisation of
#: what a view says across its ray and along it.
PRIOR_STD: Final = 1.0
ACROSS_STD: Final = 0.1
ALONG_STD: Final = 0.5
#: The largest factor by which a view's standard deviations grow or shrink from there: e^3.5 = 33.
LOG_STD_RANGE: Final = 3.5
#: Hidden units of the perceptron between the two looks.
HIDDEN: Final = 256
#: By how much the second look's keys are enlarged at initialisation, so that heads select from the start.
SHARPNESS: Final = 6.0
#: The nearest that a point may be to a camera, in units of the length scale.
NEAREST: Final = 0.1


class ResidualBlock(nn.Module):
    """``x + conv(relu(norm(conv(relu(norm(x))))))`` with 3x3 convolutions; shape and channels unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class RayTokens(nn.Module):
    """Images and poses to tokens that know their ray, and to attention over them.

    A strided stem, a residual block at H / 4 and one at H / 8 make features. Every head, if there are any, takes its
    own softmax over positions (``stride`` pixels apart), by what the features look like. A token is a two-layer
    perceptron of features and ray (Fourier features of its Plücker coordinates).

    Args:
        height, width: of an image, pixels; multiples of ``stride``.
        fovy: vertical field of view, degrees.
        length_scale: metres in the unit of length of the rays.
        width_channels: of the features.
        heads: of attention; 0 for none.
        token_channels: of a token.
        stride: pixels between positions, 4 or 8.
        bands: octaves of the rays' Fourier features.
    """

    def __init__(
        self,
        height: int,
        width: int,
        fovy: float,
        length_scale: float,
        *,
        width_channels: int,
        heads: int,
        token_channels: int,
        stride: int,
        bands: int,
    ) -> None:
        super().__init__()
        self.fovy, self.length_scale, self.bands, self.stride = fovy, length_scale, bands, stride
        self.grid = (height // stride, width // stride)
        self.ray_channels = PLUCKER_SIZE * (1 + 2 * bands)
        w = width_channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, w // 2, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(w // 2, w, 3, stride=2, padding=1),
        )
        self.fine = ResidualBlock(w)
        self.down = nn.Conv2d(w, w, 3, stride=2, padding=1)
        self.coarse = ResidualBlock(w)
        self.norm = nn.GroupNorm(8, w)
        self.scores = nn.Linear(w, heads) if heads else None
        self.from_features = nn.Linear(w, token_channels)
        self.from_rays = nn.Linear(self.ray_channels, token_channels, bias=False)
        self.token = nn.Linear(token_channels, token_channels)
        self._initialise()

    def _initialise(self) -> None:
        """Kaiming throughout, and heads that differ and select from the start.

        With PyTorch's default for linear layers every head averages the whole image. Measured with labels on arm
        scenes, one view, 150 steps of 128: R2 of the target's x, y, z is 0.76, 0.75, 0.56 with the scores enlarged
        4 times, and 0.81, 0.81, 0.66 with 10 times.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for layer in (self.from_features, self.from_rays, self.token):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if self.scores is not None:
            with torch.no_grad():
                self.scores.weight.mul_(10)

    def forward(self, images: Tensor, poses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attention (N, heads, positions), tokens (N, positions, token_channels), rays (N, positions, R)."""
        fine = self.fine(self.stem((images - 0.5) * 4))  # a photograph's colours deviate by about 1 / 4
        coarse = self.coarse(self.down(fine))
        features = fine + F.interpolate(coarse, size=fine.shape[-2:]) if self.stride == 4 else coarse
        features = F.relu(self.norm(features)).flatten(2).transpose(1, 2)  # (N, positions, channels)
        rays = ray_features(poses, self.fovy, *self.grid, self.bands, self.length_scale).flatten(1, 2)
        tokens = F.relu(self.from_features(features) + self.from_rays(rays))
        tokens = F.relu(self.token(tokens))
        if self.scores is None:
            return tokens.new_empty(len(tokens), 0, tokens.shape[1]), tokens, rays.to(tokens.dtype)
        attention = self.scores(features).transpose(1, 2).softmax(dim=-1)
        return attention, tokens, rays.to(attention.dtype)


class RayAttention(Representation):
    """Attention heads pool [token, ray]; a linear layer reads all heads, a residual perceptron refines: (C, 1, 1).

    Because the pooled values contain the ray, a head that attends to an object reports the line on which it lies.
    """

    def __init__(self, tokens: RayTokens, heads: int, token_channels: int, channels: int, length_scale: float) -> None:
        super().__init__((channels, 1, 1), length_scale)
        self.tokens = tokens
        self.linear = nn.Linear(heads * (token_channels + tokens.ray_channels), channels)
        self.refine = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels))
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")

    def forward(self, images: Tensor, poses: Tensor) -> Tensor:
        attention, tokens, rays = self.tokens(images, poses)
        out = self.linear(torch.cat([attention @ tokens, attention @ rays], dim=-1).flatten(1))
        return (out + self.refine(out))[:, :, None, None]


class PointAttention(Representation):
    """Heads that report points in the room, and free features for what has no place: (9 heads + F + 1, 1, 1).

    Heads look twice: what the first look pooled decides, for all heads together, what each looks for the second time
    (the hand is where the forearm ends). A head's place on the image is the attention-weighted mean of the positions,
    moved by a linear function of its pooled token; that gives a ray. The same linear function says how far along the
    ray the point is, relative to the place on the ray nearest to where the head's points usually are, and how sure
    the view is of its answer, across and along. A share is [Gaussians, free features, 1]; a sum of shares is read by
    solving for the means, and by dividing the features by the number of views. Points are in metres divided by
    ``length_scale``. With ``scenery``, free features also read the mean of all tokens: heads look at objects, and
    walls, floors and light, which fill most of a picture of a room, are where no head looks.
    """

    def __init__(
        self,
        tokens: RayTokens,
        heads: int,
        token_channels: int,
        features: int,
        length_scale: float,
        *,
        scenery: bool = False,
    ) -> None:
        super().__init__((GAUSSIAN_SIZE * heads + features + 1, 1, 1), length_scale)
        self.tokens = tokens
        self.points = heads
        self.feature_channels = features
        self.ask = nn.Sequential(
            nn.Linear(heads * token_channels, HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, heads * token_channels)
        )
        self.question = nn.Parameter(torch.randn(heads, token_channels))
        self.keys = nn.Linear(token_channels, token_channels)
        with torch.no_grad():
            self.keys.weight.mul_(SHARPNESS)
        self.place = nn.Parameter(torch.randn(heads, token_channels, 5) * (0.3 / math.sqrt(token_channels)))
        self.place_bias = nn.Parameter(torch.zeros(heads, 5))
        self.centre = nn.Parameter(torch.zeros(heads, 3))
        self.free = nn.Linear(heads * token_channels, features) if features else None
        if self.free is not None:
            nn.init.kaiming_normal_(self.free.weight, nonlinearity="relu")
        self.scenery: nn.Module | None = None
        if scenery:
            self.scenery = nn.Sequential(
                nn.Linear(token_channels, HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, features)
            )
        height, width = tokens.grid
        upward = ((height - 1) / 2 - torch.arange(height)) * (2 / height)  # of the image's half height, as rows
        rightward = (torch.arange(width) - (width - 1) / 2) * (2 / height)
        places = torch.stack(torch.meshgrid(upward, rightward, indexing="ij"), dim=-1).flatten(0, 1)
        self.places: Tensor
        self.register_buffer("places", places, persistent=False)

    @property
    def prior(self) -> Tensor:
        """What is known of the points before any view: Gaussians (heads, 9)."""
        return isotropic(self.centre, PRIOR_STD)

    def keep_points(self) -> None:
        self.requires_grad_(False)
        for layer in (self.free, self.scenery):
            if layer is not None:
                layer.requires_grad_(True)

    @property
    def read_shape(self) -> tuple[int, int, int]:
        return (3 * self.points + self.feature_channels, 1, 1)

    @property
    def feature_size(self) -> int:
        return self.feature_channels

    def forward(self, images: Tensor, poses: Tensor) -> Tensor:
        attention, tokens, _ = self.tokens(images, poses)
        asked = self.ask((attention @ tokens).flatten(1)).unflatten(1, self.question.shape) + self.question
        fit = asked @ self.keys(tokens).transpose(1, 2) / math.sqrt(tokens.shape[-1])
        attention = fit.softmax(dim=-1)  # (N, heads, positions)
        pooled = attention @ tokens  # (N, heads, token_channels)
        # Lengths need float32: precisions span four orders of magnitude.
        said = (torch.einsum("nkt,kto->nko", pooled, self.place) + self.place_bias).float()
        with torch.autocast(images.device.type, enabled=False):
            up_right = attention.float() @ self.places + said[..., :2] * (2 / self.tokens.grid[0])
        directions = self._directions(poses, up_right)
        origins = (poses[:, None, :3] / self.length_scale).expand_as(directions)
        nearest = ((self.centre - origins) * directions).sum(-1).clamp_min(NEAREST)
        stds = said[..., 3:].clamp(-LOG_STD_RANGE, LOG_STD_RANGE).exp()
        across, along = (ACROSS_STD * stds[..., 0]) ** -2, (ALONG_STD * stds[..., 1]) ** -2
        gaussians = along_ray(origins, directions, nearest + ALONG_STD * said[..., 2], across, along)
        one = gaussians.new_ones(len(gaussians), 1)
        parts = [gaussians.flatten(1), *self._free(pooled, tokens), one]
        share = torch.cat(parts, dim=1)
        return share[:, :, None, None]

    def _free(self, pooled: Tensor, tokens: Tensor) -> list[Tensor]:
        """The free features (N, F) in float32, if there are any."""
        if self.free is None:
            return []
        free = self.free(pooled.flatten(1))
        if self.scenery is not None:
            free = free + self.scenery(tokens.mean(dim=1))
        return [free.float()]

    def _directions(self, poses: Tensor, up_right: Tensor) -> Tensor:
        """Unit vectors (N, heads, 3) from the cameras through places (N, heads, 2) on their images."""
        forward, right, up = (axis[:, None] for axis in camera_axes(poses))
        half = math.tan(math.radians(self.tokens.fovy) / 2)
        return F.normalize(forward + half * (up_right[..., :1] * up + up_right[..., 1:] * right), dim=-1)

    def gaussians(self, shares: Tensor) -> Tensor:
        return shares.flatten(1)[:, : GAUSSIAN_SIZE * self.points].unflatten(1, (self.points, GAUSSIAN_SIZE))

    def features(self, shares: Tensor) -> Tensor:
        flat = shares.flatten(1)
        return flat[:, GAUSSIAN_SIZE * self.points : -1] / flat[:, -1:].clamp_min(1)

    def read(self, total: Tensor) -> Tensor:
        points = means(self.gaussians(total) + self.prior).flatten(1)
        return torch.cat([points, self.features(total)], dim=1)[:, :, None, None]

    def vector_of_sum(self, total: Tensor, views: Tensor) -> Tensor:
        return self.read(total).flatten(1)
