"""Which representation network, and its sizes.

``pyramid``, ``tower`` and ``pool`` are the paper's (:mod:`gqn_rl.paper_representation`), ``ray``, ``points``
(:mod:`gqn_rl.ray_representation`) and ``plan`` (:mod:`gqn_rl.plan_representation`) ours.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from gqn_rl.config import Config
from gqn_rl.paper_representation import Pyramid, Representation, Tower
from gqn_rl.plan_representation import PlanAttention
from gqn_rl.plans import Plan
from gqn_rl.ray_representation import PointAttention, RayAttention, RayTokens


class RepresentationConfig(Config):
    """Which representation network, and its sizes. The fields after ``channels`` concern our own networks."""

    kind: Literal["pyramid", "tower", "pool", "ray", "points", "plan"] = "points"
    #: Of the representation, 256 in the paper; of ``points``, how many free features there are beside the points; of
    #: ``plan``, how many there are in each cell.
    channels: int = Field(default=0, ge=0)
    width: int = Field(default=64, ge=8, multiple_of=8)  #: channels of the convolutions
    heads: int = Field(default=48, ge=1)  #: attention heads: of ``points``, how many points; ``plan`` has none
    token_channels: int = Field(default=64, ge=1)  #: of what is known of one image position
    token_stride: Literal[4, 8] = 4  #: pixels from one attended position to the next
    bands: int = Field(default=4, ge=0, le=10)  #: Fourier frequencies of the ray
    scenery: bool = False  #: of ``points``: whether free features read the whole image too, not only where heads look
    cells: int = Field(default=18, ge=2)  #: of ``plan``: cells along each of its sides
    side: float = Field(default=9.0, gt=0)  #: of ``plan``: metres along its sides; the world's origin is its middle
    height: float = Field(default=1.0, gt=0)  #: of ``plan``: metres above the floor up to which there is something

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.channels == 0 and self.kind != "points":
            raise ValueError(f"representation {self.kind!r} needs channels above 0")
        if self.channels == 1 and self.kind in ("tower", "pool"):
            raise ValueError(f"representation {self.kind!r} halves its channels: it needs at least 2, got 1")
        if self.scenery and (self.kind != "points" or self.channels == 0):
            raise ValueError(
                f"scenery is for free features: it needs kind 'points' and channels above 0, "
                f"got {self.kind!r} and {self.channels}"
            )
        return self

    def plan(self, length_scale: float) -> Plan:
        """Of kind ``plan``: its box, in units of ``length_scale`` metres."""
        return Plan(self.cells, self.side / length_scale, self.height / length_scale)


def check_size(config: RepresentationConfig, height: int, width: int) -> None:
    """Raise ``ValueError`` unless images of ``height`` x ``width`` pixels fit the network."""
    step = 4 if config.kind in ("tower", "pool") else 8
    if height < step or width < step or height % step or width % step:
        raise ValueError(f"representation {config.kind!r} needs image sides divisible by {step}, got {height}x{width}")


def build_representation(
    config: RepresentationConfig, height: int, width: int, fovy: float, length_scale: float = 1.0
) -> Representation:
    """The network that ``config`` describes, for images of ``height`` x ``width`` pixels.

    ``fovy`` is the vertical field of view in degrees (of no use to the paper's three); positions are divided by
    ``length_scale`` metres. Raises ``ValueError`` when the image size does not fit the network.
    """
    check_size(config, height, width)
    if config.kind == "pyramid":
        return Pyramid(config.channels, height, width, length_scale)
    if config.kind in ("tower", "pool"):
        return Tower(config.channels, height, width, length_scale, pooled=config.kind == "pool")
    tokens = RayTokens(
        height,
        width,
        fovy,
        length_scale,
        width_channels=config.width,
        heads=0 if config.kind == "plan" else config.heads,
        token_channels=config.token_channels,
        stride=config.token_stride,
        bands=config.bands,
    )
    if config.kind == "plan":
        plan = config.plan(length_scale)
        return PlanAttention(tokens, config.token_channels, config.channels, length_scale, plan)
    sizes = (config.heads, config.token_channels, config.channels, length_scale)
    if config.kind == "ray":
        return RayAttention(tokens, *sizes)
    return PointAttention(tokens, *sizes, scenery=config.scenery)
