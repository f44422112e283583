"""What pretraining minimises: the GQN's own ELBO, and label-free terms beside it that keep the scene vector alive.

While a young generator learns the background, the scene vector is noise to it and the encoder is pushed towards a
constant. Two terms that need no labels stop that: *contrast* (two views of one scene must find each other among
the scenes of the batch; van den Oord et al. 2018, InfoNCE) and the error of the *prior-mean image*, whose gradient
goes straight to the scene vector. Each is a weight in :class:`ObjectiveConfig`; zero switches it off.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gqn_rl.config import Config
from gqn_rl.gqn import GQN, likelihood_floor
from gqn_rl.types import Views


class ObjectiveConfig(Config):
    """Weights of the terms. The paper's recipe is ``likelihood`` alone."""

    #: Of the negative ELBO in nats per colour value (so that a weight means the same at any resolution).
    likelihood: float = Field(4.0, ge=0)
    #: Of the contrastive loss, in nats.
    contrast: float = Field(1.0, ge=0)
    #: Of the mean squared error of the prior-mean image, colours in [0, 1].
    prior_mean: float = Field(100.0, ge=0)
    #: Length of the contrastive projections.
    projection: int = Field(128, ge=2)


class ContrastHead(nn.Module):
    """Projections of single views and the symmetric InfoNCE loss between two views of each scene.

    Batch normalisation in the projection is what lets the loss leave chance (measured: without it the loss stays
    at log B); it sits behind the encoder, so that the encoder itself never mixes the scenes of a batch.
    """

    def __init__(self, channels: int, projection: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(channels, 2 * channels, bias=False),
            nn.BatchNorm1d(2 * channels),
            nn.ReLU(inplace=True),
            nn.Linear(2 * channels, projection, bias=False),
            nn.BatchNorm1d(projection, affine=False),
        )
        #: log of the inverse temperature; warm at first, while similarity is mostly that of the cameras
        self.log_scale = nn.Parameter(torch.tensor(math.log(4.0)))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """``first`` and ``second`` (B, C), two views of each scene: the loss (nats) and the accuracy, scalars."""
        both = F.normalize(self.project(torch.cat([first, second])).float(), dim=1)
        a, b = both.chunk(2)
        # CLIP (Radford et al. 2021, section 2.5) clips the learned scale at 100.
        similarity = a @ b.T * self.log_scale.clamp(max=math.log(100.0)).exp()
        own = torch.arange(len(a), device=a.device)
        loss = (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2
        accuracy = (similarity.detach().argmax(dim=1) == own).float().mean()
        return loss, accuracy


class Losses(NamedTuple):
    """One step's loss and what it is made of; scalars, all but the first detached."""

    total: Tensor
    negative_elbo: Tensor  #: nats above the likelihood's floor: (nll - floor) + kl, a view
    kl: Tensor  #: nats a view
    posterior_mse: Tensor
    prior_mse: Tensor  #: of the prior-mean image; nan when the term is off
    contrast: Tensor  #: nats; nan when the term is off
    contrast_accuracy: Tensor


class Objective(nn.Module):
    """The weighted sum of all terms for a batch of scenes; holds the weights that only pretraining needs."""

    def __init__(self, config: ObjectiveConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.contrast = ContrastHead(channels, config.projection) if config.contrast else None

    def forward(
        self, model: GQN, context: Views, used: Tensor, query: Views, sigma: float, rng: torch.Generator
    ) -> Losses:
        """Compare two views of B scenes, and draw G <= B of them.

        Args:
            model: the network.
            context: (B, K) views. The contrast compares the first two of every scene; the generator's scenes are
                B / G apart, and only they have their other views encoded.
            used: (G, K) bool: which context views enter the scene that the generator gets.
            query: (G, Q) views to draw.
            sigma: standard deviation of the pixels, > 0.
            rng: noise of the posterior's samples.
        """
        config = self.config
        nothing = torch.full((), float("nan"))
        drawn = slice(0, None, len(context.images) // len(used))
        paired = 2 if self.contrast is not None else 0
        pairs = model.represent_views(Views(context.images[:, :paired], context.poses[:, :paired]))
        rest = model.represent_views(Views(context.images[drawn, paired:], context.poses[drawn, paired:]))
        views = torch.cat([pairs[drawn], rest], dim=1)
        scene = (views * used[:, :, None, None, None]).sum(dim=1)
        total = torch.zeros((), device=views.device)
        contrast, accuracy, prior_mse = nothing, nothing, nothing
        if self.contrast is not None:
            pooled = pairs.float().mean(dim=(3, 4))
            contrast, accuracy = self.contrast(pooled[:, 0], pooled[:, 1])
            total = total + config.contrast * contrast
        truth = query.images.float() / 255
        pixels = truth[0, 0].numel()
        if config.prior_mean:
            prior_mse = F.mse_loss(model.predict(scene, query.poses), truth)
            total = total + config.prior_mean * prior_mse
        if config.likelihood:
            output = model.reconstruct(scene, query, sigma, rng)
            excess = output.nll.mean() - likelihood_floor(sigma, pixels)
            kl = output.kl.mean()
            posterior_mse = F.mse_loss(output.reconstruction, truth)
            total = total + config.likelihood * (excess + kl) / pixels
        else:
            excess = kl = posterior_mse = nothing
        parts = (excess + kl, kl, posterior_mse, prior_mse, contrast, accuracy)
        return Losses(total, *(part.detach() for part in parts))
