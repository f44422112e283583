"""The Generative Query Network: views of a scene in, their summed representation, and images of it from anywhere out.

Eslami et al., "Neural scene representation and rendering", Science 2018.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from gqn_rl import generator as generator_module
from gqn_rl import representation as representation_module
from gqn_rl.cameras import is_whole
from gqn_rl.config import Config
from gqn_rl.generator import Generator, GeneratorConfig, Noise
from gqn_rl.representation import RepresentationConfig, build_representation
from gqn_rl.types import POSE_SIZE, Views


class GQNConfig(Config):
    """A whole GQN. The defaults are ours, for two CPU cores; :meth:`paper` has the paper's three."""

    image_size: tuple[int, int] = (64, 64)  #: height, width in pixels; one number for a square
    fovy: float = Field(default=45.0, gt=0, lt=180)  #: vertical field of view of every camera, degrees
    length_scale: float = Field(default=1.0, gt=0)  #: metres that count as one unit in the networks
    representation: RepresentationConfig = RepresentationConfig()
    generator: GeneratorConfig = GeneratorConfig()

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if is_whole(value) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        representation_module.check_size(self.representation, *self.image_size)
        kind = self.representation.kind
        if kind in ("points", "plan") and self.generator.mixing_channels == 0:
            raise ValueError(f"representation.kind {kind!r} needs generator.mixing_channels above 0, got 0")
        generator_module.check_size(self.generator, *self.image_size)
        return self

    @classmethod
    def paper(cls, kind: Literal["pyramid", "tower", "pool"] = "tower", shared: bool = True, **fields: Any) -> Self:
        """The paper's sizes (supplement, sections 2 and 3) with its representation network ``kind``.

        The paper reports cores with weights ``shared`` over the 12 steps and without. ``fields`` are other fields
        of this class, such as ``image_size``. The canvas holds an image (3 x 4 x 4) and 128 channels for the
        inference core.
        """
        generator = GeneratorConfig(
            steps=12,
            channels=128,
            z_channels=3,
            kernel=5,
            stride=4,
            canvas_channels=3 * 4**2 + 128,
            shared=shared,
            conditioning="pose",
            mixing_channels=0,
            decoder="linear",
            zero_init_scene=False,
        )
        return cls(representation=RepresentationConfig(kind=kind, channels=256), generator=generator, **fields)


#: Views that a CPU encodes at a time. Forward and backward of 256 views, one core: 342 views/s in one go, 411 by 32 on
#: an idle machine, 89 and 366 on a busy one (benchmarks/pretraining.py).
CPU_PART = 32


class GQNOutput(NamedTuple):
    """Query views explained through the posterior."""

    reconstruction: Tensor  #: (B, Q, H, W, 3) float, not clipped
    nll: Tensor  #: (B, Q) nats: -log N(image | reconstruction, sigma), all terms
    kl: Tensor  #: (B, Q) nats; the ELBO is -(nll + kl)


def likelihood_floor(sigma: float, pixels: int) -> float:
    """The negative log-likelihood in nats of a perfect reconstruction of ``pixels`` colour values (H * W * 3)."""
    return pixels * (0.5 * math.log(2 * math.pi) + math.log(sigma))


class GQN(nn.Module):
    """Representation and generator. Images are uint8 in [0, 255] outside, float in [0, 1] inside."""

    def __init__(self, config: GQNConfig) -> None:
        super().__init__()
        self.config = config
        height, width = config.image_size
        self.representation = build_representation(
            config.representation, height, width, config.fovy, config.length_scale
        )
        self.generator = Generator(
            config.generator,
            self.representation.read_shape,
            height,
            width,
            config.fovy,
            config.length_scale,
            self.representation.points,
            config.representation.plan(config.length_scale) if config.representation.kind == "plan" else None,
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # three times faster on CPU

    def represent_views(self, views: Views) -> Tensor:
        """Each view's share of the representation: (B, K, C, h, w)."""
        images, poses = self._inputs(views)
        b, k = poses.shape[:2]
        shape = self.representation.out_shape
        if b * k == 0:
            return torch.zeros(b, k, *shape, device=poses.device)
        # No network mixes views, so parts give the same numbers; small ones stay in a processor's cache.
        size = CPU_PART if poses.device.type == "cpu" else b * k
        parts = zip(images.flatten(0, 1).split(size), poses.flatten(0, 1).split(size), strict=True)
        r = torch.cat([self.representation(_to_nchw(image), pose) for image, pose in parts])
        return r.unflatten(0, (b, k))

    def represent(self, context: Views, used: Tensor | None = None) -> Tensor:
        """The scene (B, C, h, w): the sum over views, whatever their order and number; zeros for no views.

        Of views (B, K), those that are not ``used`` (B, K) bool, all by default, are left out and cost nothing.
        """
        if used is None:
            return self.represent_views(context).sum(dim=1)
        images, poses = self._inputs(context)
        used = used.to(self.device)
        shares = self.represent_views(Views(images[used][None], poses[used][None]))[0].float()
        scenes = used.nonzero()[:, 0]
        return shares.new_zeros(len(used), *shares.shape[1:]).index_add(0, scenes, shares)

    def reconstruct(self, scene: Tensor, query: Views, sigma: float, rng: Noise = None) -> GQNOutput:
        """Explain ``query`` (B, Q) given ``scene`` (B, C, h, w); ``sigma`` > 0 is the pixels' standard deviation."""
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, got {sigma}")
        images, poses = self._inputs(query)
        _check_scenes(scene, poses)
        b, q = poses.shape[:2]
        target = _to_nchw(images.flatten(0, 1))
        mean, kl = self.generator.posterior(self.representation.read(scene), poses.flatten(0, 1), target, rng)
        squares = ((mean - target) / sigma).square().flatten(1).sum(dim=1)
        nll = 0.5 * squares + likelihood_floor(sigma, math.prod(target.shape[1:]))
        return GQNOutput(_to_views(mean, b), nll.unflatten(0, (b, q)), kl.unflatten(0, (b, q)))

    def forward(self, context: Views, query: Views, sigma: float, rng: Noise = None) -> GQNOutput:
        """Explain ``query`` (B, Q views) from ``context`` (B, K views); see :meth:`reconstruct`."""
        return self.reconstruct(self.represent(context), query, sigma, rng)

    def predict(self, scene: Tensor, poses: Any) -> Tensor:
        """The prior-mean image of ``scene`` (B, C, h, w) from ``poses`` (B, Q, 5): (B, Q, H, W, 3), not clipped.

        Every latent takes its prior's mean. Differentiable: its error sends gradient straight to the scene.
        """
        poses = self._poses(poses)
        _check_scenes(scene, poses)
        return _to_views(
            self.generator.prior(self.representation.read(scene), poses.flatten(0, 1), deterministic=True), len(poses)
        )

    @torch.no_grad()
    def generate(
        self,
        scene: Tensor,
        poses: Any,
        samples: int = 1,
        rng: Noise = None,
        deterministic: bool = False,
    ) -> Tensor:
        """Imagine ``scene`` (B, C, h, w) from ``poses`` (B, Q, 5): (samples, B, Q, H, W, 3) float in [0, 1].

        Latents come from the prior with ``rng``, or with ``deterministic`` are its means (all samples are equal).
        """
        poses = self._poses(poses)
        _check_scenes(scene, poses)
        if not is_whole(samples) or samples < 1:
            raise ValueError(f"samples must be a whole number of at least 1, got {samples!r}")
        b, q = poses.shape[:2]
        repeated = poses[:, None].expand(b, samples, q, POSE_SIZE).reshape(-1, POSE_SIZE)
        mean = self.generator.prior(self.representation.read(scene), repeated, rng, deterministic).clamp(0, 1)
        return _to_views(mean, b).unflatten(1, (samples, q)).transpose(0, 1)

    @property
    def device(self) -> torch.device:
        """Where the weights are; inputs are moved there."""
        return next(self.parameters()).device

    def _poses(self, poses: Any) -> Tensor:
        tensor = torch.as_tensor(poses, dtype=torch.float32, device=self.device)
        if tensor.ndim != 3 or tensor.shape[-1] != POSE_SIZE:
            raise ValueError(f"poses must be (B, K, {POSE_SIZE}), got {tuple(tensor.shape)}")
        return tensor

    def _inputs(self, views: Views) -> tuple[Tensor, Tensor]:
        images, poses = torch.as_tensor(views.images, device=self.device), self._poses(views.poses)
        if images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8, got {images.dtype}")
        if images.shape != (*poses.shape[:2], *self.config.image_size, 3):
            expected = (*poses.shape[:2], *self.config.image_size, 3)
            raise ValueError(f"images must be {expected} for these poses and this GQN, got {tuple(images.shape)}")
        return images, poses


def _check_scenes(scene: Tensor, poses: Tensor) -> None:
    if len(scene) != len(poses):
        raise ValueError(f"there are {len(scene)} scenes, but poses for {len(poses)}: {tuple(poses.shape)}")


def _to_nchw(images: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in [0, 1], laid out channels last."""
    return (images.float() / 255).permute(0, 3, 1, 2)


def _to_views(means: Tensor, scenes: int) -> Tensor:
    """(B * Q, 3, H, W) to (B, Q, H, W, 3)."""
    return means.permute(0, 2, 3, 1).unflatten(0, (scenes, -1))
