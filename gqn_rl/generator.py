"""The generator: convolutional DRAW (Eslami et al. 2018, supplement, section 3; Gregor et al. 2016).

Over ``steps`` steps a prior core, a ConvLSTM that sees the camera v, the scene r and a latent z, adds to a canvas
u. In training an inference core, which also sees the image x, the prior core's state h_g and the canvas so far,
proposes z; the KL divergence between its proposal and the prior's is the price.

*The canvas at low resolution.* The paper's canvas has the image's resolution: a transposed convolution with kernel
and stride s adds h_g to it, a 1x1 convolution reads the image off it, and a strided convolution (kernel and stride
s) shows it to the inference core. A transposed convolution whose kernel is its stride is a 1x1 convolution to s*s
times the channels followed by a pixel shuffle, and a strided one is the reverse; everything is linear. So the canvas
is kept here in its space-to-depth form, at H/s x W/s: ``u += W h_g``, and with ``decoder="linear"`` the image
is ``pixel_shuffle(P u) + bias``. This is the same function class as long as ``canvas_channels`` is at least
3 s^2 (the image) plus what the inference core is shown, and several times cheaper. ``decoder="conv"`` replaces P by
a small convolutional decoder, run once on the finished canvas.

*Constants of the loop.* v, r and x do not change over the steps, so their contributions to the gates are computed
once for each set of weights. What is the same at every position (v, a pooled r) enters the gates through a linear
layer and is broadcast, which equals the paper's convolution of the upsampled vector away from the zero-padded rim.
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from gqn_rl.config import Config
from gqn_rl.plan_reader import PlanReader
from gqn_rl.plans import Plan
from gqn_rl.rays import PLUCKER_SIZE, POSE_FEATURES, pose_features, ray_features
from gqn_rl.splats import SPLAT_CHANNELS, splats

#: Standard deviation of a point's blob at initialisation, in units of the length scale.
BLOB_SIZE: Final = 0.1


class GeneratorConfig(Config):
    """Sizes of the generator. The defaults are ours, for two CPU cores; ``GQNConfig.paper`` has the paper's."""

    steps: int = Field(default=3, ge=1)  #: latent steps; 8 to 12 in the paper
    channels: int = Field(default=64, ge=1)  #: of the cores' hidden states; 128 in the paper
    z_channels: int = Field(default=3, ge=1)  #: of the latent at each step
    kernel: int = Field(default=3, ge=1)  #: of the cores and the latent heads, odd; 5 in the paper
    stride: int = Field(default=4, ge=1)  #: image pixels to a cell of the cores' grid; 4 in the paper
    canvas_channels: int = Field(default=64, ge=1)  #: of the canvas, at the cores' resolution
    shared: bool = True  #: one set of core weights for all steps
    conditioning: Literal["pose", "rays"] = "rays"  #: v everywhere, or to each cell the ray through its centre
    bands: int = Field(default=4, ge=0, le=10)  #: Fourier frequencies of the rays
    mixing_channels: int = Field(default=64, ge=0)  #: of a perceptron on camera and scene in each cell; 0: none (paper)
    decoder: Literal["linear", "conv"] = "conv"
    zero_init_scene: bool = True  #: r starts without influence, so that it is not noise to be suppressed

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        if self.decoder == "conv" and (self.stride < 2 or self.stride & (self.stride - 1)):
            raise ValueError(f"decoder 'conv' needs a stride that is a power of two above 1, got {self.stride}")
        return self


class SharedNoise(NamedTuple):
    """One of ``size`` equal parts of a batch's noise, for processes that share the batch: all draw all of it."""

    rng: torch.Generator | None
    rank: int = 0
    size: int = 1

    def like(self, tensor: Tensor) -> Tensor:
        """Standard normal numbers of the shape of ``tensor`` (N, ...): this part of (size * N, ...)."""
        shape = (self.size * len(tensor), *tensor.shape[1:])
        noise = torch.randn(shape, generator=self.rng, device=tensor.device, dtype=tensor.dtype)
        return noise[self.rank * len(tensor) :][: len(tensor)]


#: Where samples come from: a generator, PyTorch's global one (None), or a share of a larger batch's noise.
Noise = torch.Generator | SharedNoise | None


class Gaussian(NamedTuple):
    """A diagonal normal distribution."""

    mean: Tensor  #: of any shape
    log_std: (
        Tensor  #: of the same: natural logarithm of the standard deviation, in sampling and in the divergence alike
    )

    def sample(self, rng: Noise) -> Tensor:
        """One reparametrised sample, of the shape of ``mean``."""
        if not isinstance(rng, SharedNoise):
            rng = SharedNoise(rng)
        return self.mean + self.log_std.exp() * rng.like(self.mean)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) in nats, summed over all but the first dimension: (N,)."""
        gap = self.log_std - other.log_std
        shift = (self.mean - other.mean) * torch.exp(-other.log_std)
        return (0.5 * (torch.expm1(2 * gap) + shift.square()) - gap).flatten(1).sum(dim=1)


class GaussianHead(nn.Conv2d):
    """The paper's eta: a convolution from a core's state to the distribution of z at every cell."""

    def __init__(self, channels: int, z_channels: int, kernel: int) -> None:
        super().__init__(channels, 2 * z_channels, kernel, padding=kernel // 2)

    def distribution(self, hidden: Tensor) -> Gaussian:
        """``hidden`` (N, C, h, w) to a :class:`Gaussian` over (N, z_channels, h, w), in float32."""
        mean, log_std = self(hidden).float().chunk(2, dim=1)
        return Gaussian(mean, log_std)


class Condition(NamedTuple):
    """What the cores see at every step: maps (N, M, h, w), and vectors (N, V) for all cells alike; M, V may be 0."""

    maps: Tensor
    vectors: Tensor


class ConvLSTM(nn.Module):
    """A convolutional LSTM cell whose gates also read a :class:`Condition` that is constant over the steps."""

    def __init__(self, inputs: int, maps: int, vectors: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(inputs + hidden, 4 * hidden, kernel, padding=kernel // 2)
        self.map_gates = nn.Conv2d(maps, 4 * hidden, kernel, padding=kernel // 2, bias=False) if maps else None
        self.vector_gates = nn.Linear(vectors, 4 * hidden, bias=False) if vectors else None
        with torch.no_grad():  # remember by default (Jozefowicz et al. 2015, section 5)
            assert self.gates.bias is not None
            self.gates.bias[:hidden] += 1.0

    def constant(self, condition: Condition) -> Tensor:
        """The condition's share of the gates, (N, 4 * hidden, h, w) or, without maps, (N, 4 * hidden, 1, 1)."""
        share = torch.zeros((), device=condition.vectors.device)
        if self.map_gates is not None:
            share = share + self.map_gates(condition.maps)
        if self.vector_gates is not None:
            share = share + self.vector_gates(condition.vectors)[:, :, None, None]
        return share

    def forward(self, inputs: list[Tensor], hidden: Tensor, cell: Tensor, constant: Tensor) -> tuple[Tensor, Tensor]:
        """One step: the next (hidden, cell), each (N, hidden, h, w)."""
        gates = self.gates(torch.cat([hidden, *inputs], dim=1)) + constant
        forget, write, output, value = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * cell + write.sigmoid() * value.tanh()
        return output.sigmoid() * cell.tanh(), cell


class Step(nn.Module):
    """The weights that one step owns, or all steps share: both cores and the way to the canvas."""

    def __init__(self, config: GeneratorConfig, maps: int, vectors: int) -> None:
        super().__init__()
        c, u = config.channels, config.canvas_channels
        self.prior_core = ConvLSTM(config.z_channels, maps, vectors, c, config.kernel)
        self.inference_core = ConvLSTM(c + u, maps + c, vectors, c, config.kernel)
        self.to_canvas = nn.Conv2d(c, u, 1, bias=False)


class LinearDecoder(nn.Module):
    """Canvas (N, U, h, w) to image (N, 3, h * stride, w * stride): a linear map of each cell, and a bias per colour."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.stride = config.stride
        self.read = nn.Conv2d(config.canvas_channels, 3 * config.stride**2, 1, bias=False)
        self.bias = nn.Parameter(torch.full((3, 1, 1), 0.5))  # mid-grey: images lie in [0, 1]

    def forward(self, canvas: Tensor) -> Tensor:
        return F.pixel_shuffle(self.read(canvas), self.stride) + self.bias


class ConvDecoder(nn.Module):
    """Canvas (N, U, h, w) to image (N, 3, h * stride, w * stride): 3x3 convolutions, each doubling the resolution.

    The channels halve with every doubling, down to 16.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        doublings = int(math.log2(config.stride))
        widths = [max(config.canvas_channels >> i, 16) for i in range(doublings)]
        self.layers = nn.ModuleList(
            nn.Conv2d(width_in, 4 * width_out, 3, padding=1)
            for width_in, width_out in zip([config.canvas_channels, *widths[1:]], [*widths[1:], 3], strict=True)
        )
        self.bias = nn.Parameter(torch.full((3, 1, 1), 0.5))  # mid-grey: images lie in [0, 1]

    def forward(self, canvas: Tensor) -> Tensor:
        x = canvas
        for layer in self.layers:
            x = F.pixel_shuffle(layer(F.relu(x) if x is not canvas else x), 2)
        return x + self.bias


class Conditioning(nn.Module):
    """Camera and scene as the cores see them.

    Without ``mixing_channels``: v (a vector) or ray features (maps), beside r (a vector when it is 1x1, else maps).
    With it, maps in which a residual perceptron has mixed camera and scene at every cell. When r begins with the
    places of ``points``, they also enter as blobs where the camera sees them (:mod:`gqn_rl.splats`); when r is a
    ``plan``, the camera looks at it (:mod:`gqn_rl.plan_reader`).
    """

    def __init__(
        self,
        config: GeneratorConfig,
        scene_shape: tuple[int, int, int],
        grid: tuple[int, int],
        fovy: float,
        length_scale: float,
        points: int,
        plan: Plan | None,
    ) -> None:
        super().__init__()
        self.grid, self.fovy, self.length_scale, self.bands = grid, fovy, length_scale, config.bands
        self.points = points
        self.rays = config.conditioning == "rays"
        self.mixing = config.mixing_channels > 0
        scene = scene_shape[0]
        camera = PLUCKER_SIZE * (1 + 2 * config.bands) if self.rays else POSE_FEATURES
        pooled = scene_shape[1:] == (1, 1)
        # An extra linear layer in front of r adds nothing to the function class; it is there to start at zero.
        self.scene: nn.Module = nn.Identity()
        if self.mixing:
            m = config.mixing_channels
            if plan is None:
                self.scene = nn.Conv2d(scene, m, 1, bias=not config.zero_init_scene)
            else:
                self.scene = PlanReader(scene, m, grid, fovy, length_scale, config.bands, plan)
            self.camera = nn.Conv2d(camera, m, 1)
            self.mix = nn.Sequential(nn.ReLU(), nn.Conv2d(m, m, 1), nn.ReLU(inplace=True), nn.Conv2d(m, m, 1))
            self.sizes = (m, 0)
        else:
            if config.zero_init_scene:
                self.scene = nn.Conv2d(scene, scene, 1, bias=False)
            maps = (camera if self.rays else 0) + (0 if pooled else scene)
            self.sizes = (maps, camera + scene - maps)  #: channels of the maps, length of the vectors
        if points:
            if not self.mixing:
                raise ValueError("points need mixing_channels above 0")
            self.log_sizes = nn.Parameter(torch.full((points,), math.log(BLOB_SIZE)))
            self.splats = nn.Conv2d(SPLAT_CHANNELS * points, config.mixing_channels, 1, bias=False)
        if plan is not None and not self.mixing:
            raise ValueError("a plan needs mixing_channels above 0")
        if config.zero_init_scene:
            last = self.scene.out if isinstance(self.scene, PlanReader) else self.scene
            assert isinstance(last, nn.Conv2d)
            nn.init.zeros_(last.weight)
            if points:
                nn.init.zeros_(self.splats.weight)

    def forward(self, scene: Tensor, poses: Tensor) -> Condition:
        """``scene`` (S, C, h, w) and ``poses`` (N, 5), N a multiple of S, to a condition for N views."""
        r = self.scene(scene, poses) if isinstance(self.scene, PlanReader) else self.scene(scene)
        if r.shape[-2:] != (1, 1) and r.shape[-2:] != self.grid:
            r = F.interpolate(r, size=self.grid, mode="bilinear", align_corners=False)
        r = r.repeat_interleave(len(poses) // len(r), dim=0) if len(poses) != len(r) else r
        if self.rays:
            camera = ray_features(poses, self.fovy, *self.grid, self.bands, self.length_scale).permute(0, 3, 1, 2)
        else:
            camera = pose_features(poses, self.length_scale)[:, :, None, None]
        if self.mixing:
            x = (self.camera(camera) + r).expand(-1, -1, *self.grid)
            if self.points:
                places = scene[:, : 3 * self.points].float().flatten(1).unflatten(1, (self.points, 3))
                places = places.repeat_interleave(len(poses) // len(scene), dim=0)
                sizes = self.log_sizes.exp()
                x = x + self.splats(splats(places, sizes, poses, self.fovy, *self.grid, self.length_scale))
            return Condition(x + self.mix(x), x.new_zeros(len(poses), 0))
        parts = [camera.to(r.dtype), r]
        vectors = [part.flatten(1) for part in parts if part.shape[-2:] == (1, 1)]
        maps = [part for part in parts if part.shape[-2:] != (1, 1)]
        return Condition(
            torch.cat(maps, dim=1) if maps else r.new_zeros(len(poses), 0, *self.grid),
            torch.cat(vectors, dim=1) if vectors else r.new_zeros(len(poses), 0),
        )


class Generator(nn.Module):
    """Images of a scene from a camera: sampled from the prior, or reconstructed through the posterior.

    ``scene`` is (S, C, h, w) and ``poses`` (N, 5) with N a multiple of S: the views of a scene lie together. Image
    means are real numbers; nothing clips them to [0, 1], as in the paper. The scene's first ``3 * points`` channels are
    places in the room; or all of it is a ``plan``, (S, C, cells, cells).
    """

    def __init__(
        self,
        config: GeneratorConfig,
        scene_shape: tuple[int, int, int],
        height: int,
        width: int,
        fovy: float,
        length_scale: float = 1.0,
        points: int = 0,
        plan: Plan | None = None,
    ) -> None:
        super().__init__()
        check_size(config, height, width)
        self.steps = config.steps
        self.channels, self.canvas_channels = config.channels, config.canvas_channels
        self.grid = (height // config.stride, width // config.stride)
        self.conditioning = Conditioning(config, scene_shape, self.grid, fovy, length_scale, points, plan)
        self.stages = nn.ModuleList(
            Step(config, *self.conditioning.sizes) for _ in range(1 if config.shared else config.steps)
        )
        # Where camera and scene are mixed, the canvas begins with what the mixture alone says.
        self.first = nn.Conv2d(config.mixing_channels, config.canvas_channels, 1) if config.mixing_channels else None
        self.prior_head = GaussianHead(config.channels, config.z_channels, config.kernel)
        self.posterior_head = GaussianHead(config.channels, config.z_channels, config.kernel)
        self.shrink = nn.Conv2d(3, config.channels, config.stride, stride=config.stride)
        self.decoder = LinearDecoder(config) if config.decoder == "linear" else ConvDecoder(config)

    def posterior(self, scene: Tensor, poses: Tensor, images: Tensor, rng: Noise = None) -> tuple[Tensor, Tensor]:
        """Reconstruct ``images`` (N, 3, H, W): their means (N, 3, H, W), and the KL divergence (N,) in nats."""
        condition = self.conditioning(scene, poses)
        seen = Condition(torch.cat([condition.maps, self.shrink(images)], dim=1), condition.vectors)
        stages = self._stages()
        prior_constants = [stage.prior_core.constant(condition) for stage in stages]
        inference_constants = [stage.inference_core.constant(seen) for stage in stages]
        h_g, c_g, u = self._start(poses, condition.maps)
        h_e, c_e = torch.zeros_like(h_g), torch.zeros_like(c_g)
        kl = torch.zeros(len(poses), device=poses.device)
        for i in range(self.steps):
            own = i % len(stages)
            h_e, c_e = stages[own].inference_core([h_g, u], h_e, c_e, inference_constants[own])
            posterior = self.posterior_head.distribution(h_e)
            kl = kl + posterior.kl(self.prior_head.distribution(h_g))
            h_g, c_g = stages[own].prior_core([posterior.sample(rng)], h_g, c_g, prior_constants[own])
            u = u + stages[own].to_canvas(h_g)
        return self.decoder(u).float(), kl

    def prior(self, scene: Tensor, poses: Tensor, rng: Noise = None, deterministic: bool = False) -> Tensor:
        """Imagine the views: means (N, 3, H, W). ``deterministic`` takes the prior's mean for every latent."""
        condition = self.conditioning(scene, poses)
        stages = self._stages()
        constants = [stage.prior_core.constant(condition) for stage in stages]
        h_g, c_g, u = self._start(poses, condition.maps)
        for i in range(self.steps):
            own = i % len(stages)
            prior = self.prior_head.distribution(h_g)
            z = prior.mean if deterministic else prior.sample(rng)
            h_g, c_g = stages[own].prior_core([z], h_g, c_g, constants[own])
            u = u + stages[own].to_canvas(h_g)
        return self.decoder(u).float()

    def _stages(self) -> list[Step]:
        """One owner of weights for all steps, or one for each."""
        return [cast(Step, stage) for stage in self.stages]

    def _start(self, poses: Tensor, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first hidden state and cell, zeros, and the first canvas."""
        h, w = self.grid
        hidden = torch.zeros(len(poses), h, w, self.channels, device=poses.device).permute(0, 3, 1, 2)
        if self.first is not None:
            return hidden, torch.zeros_like(hidden), self.first(maps)
        canvas = torch.zeros(len(poses), h, w, self.canvas_channels, device=poses.device).permute(0, 3, 1, 2)
        return hidden, torch.zeros_like(hidden), canvas


def check_size(config: GeneratorConfig, height: int, width: int) -> None:
    """Raise ``ValueError`` unless images of ``height`` x ``width`` pixels divide into cells of ``stride`` pixels."""
    if height < 1 or width < 1 or height % config.stride or width % config.stride:
        raise ValueError(f"the generator's stride {config.stride} must divide the image's sides, got {height}x{width}")
