"""What pretraining minimises: the GQN's own ELBO, and label-free terms beside it that keep the scene vector alive.

While a young generator learns the background, the scene vector is noise to it and the encoder is pushed towards a
constant. Terms that need no labels stop that. *Contrast*: two views of one scene must find each other among the
scenes of the batch (InfoNCE, van den Oord et al. 2018), by their free features, and, where the representation
consists of points, by *geometry*: how much likelier the views become by showing the same points in the room. And the
error of the *prior-mean image*, whose gradient goes straight to the scene vector. Each is a weight in
:class:`ObjectiveConfig`; zero switches it off.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gqn_rl.config import Config
from gqn_rl.gaussians import mutual_information
from gqn_rl.generator import Noise
from gqn_rl.gqn import GQN, likelihood_floor
from gqn_rl.parallel import World
from gqn_rl.types import Views

#: A process of its own.
ALONE: Final = World()


class ObjectiveConfig(Config):
    """Weights of the terms. The paper's recipe is ``likelihood`` alone."""

    #: Of the negative ELBO in nats per colour value (so that a weight means the same at any resolution).
    likelihood: float = Field(4.0, ge=0)
    #: Of the contrastive loss between features, in nats.
    contrast: float = Field(0.0, ge=0)
    #: Of the contrastive loss between points, in nats; nothing where the representation has none.
    geometry: float = Field(0.3, ge=0)
    #: Of the mean squared error of the prior-mean image, colours in [0, 1].
    prior_mean: float = Field(100.0, ge=0)
    #: Length of the contrastive projections.
    projection: int = Field(128, ge=2)


#: What the mutual information of all points is multiplied by before it is believed: the points of a scene are not
#: independent of each other. A learned factor that began here stayed at 0.098 to 0.100.
GEOMETRY_SCALE: Final = 0.1


def info_nce(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric loss (nats) and the accuracy of logits (B, B) whose diagonal is right; scalars."""
    own = torch.arange(len(similarity), device=similarity.device)
    loss = (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2
    return loss, (similarity.detach().argmax(dim=1) == own).float().mean()


def geometric_contrast(gaussians: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Each view must find the scene that the other views saw: the mean loss (nats) and accuracy, scalars.

    ``gaussians`` (B, V, K, 9) are what V >= 2 views of each of B scenes say of K points, ``prior`` (K, 9). Between
    single views little can be compared, two rays miss each other in one direction only; against two other views,
    which know the point, the ray has two.
    """
    everything = gaussians.sum(dim=1)
    pairs = [
        info_nce(GEOMETRY_SCALE * mutual_information(everything - view, view, prior)) for view in gaussians.unbind(1)
    ]
    losses, accuracies = zip(*pairs, strict=True)
    return torch.stack(losses).mean(), torch.stack(accuracies).mean()


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
        with torch.autocast(a.device.type, enabled=False):  # what bfloat16 rounds away of a cosine, the scale enlarges
            return info_nce(a @ b.T * self.log_scale.clamp(max=math.log(100.0)).exp())


class Losses(NamedTuple):
    """One step's loss and what it is made of; scalars, all but the first detached."""

    total: Tensor
    negative_elbo: Tensor  #: nats above the likelihood's floor: (nll - floor) + kl, a view
    kl: Tensor  #: nats a view
    posterior_mse: Tensor
    prior_mse: Tensor  #: of the prior-mean image; nan when the term is off, or nothing is drawn
    contrast: Tensor  #: nats; nan when the term is off
    contrast_accuracy: Tensor
    geometry: Tensor  #: nats; nan when the term is off
    geometry_accuracy: Tensor


class Objective(nn.Module):
    """The weighted sum of all terms for a batch of scenes; holds the weights that only pretraining needs."""

    def __init__(self, config: ObjectiveConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.contrast = ContrastHead(channels, config.projection) if config.contrast else None

    def forward(
        self,
        model: GQN,
        context: Views,
        used: Tensor,
        query: Views,
        sigma: float,
        rng: Noise,
        explained: int | None = None,
        world: World = ALONE,
        draws: bool = True,
        compares: bool = True,
    ) -> Losses:
        """Compare the views of B scenes, draw G <= B of them, and explain E <= G of these through the posterior.

        Args:
            model: the network.
            context: (B, K) views of what is compared; the generator's scenes are B / G apart.
            used: (G, K) bool: which context views enter the scene that the generator gets.
            query: (G, Q) views to draw.
            sigma: standard deviation of the pixels, > 0.
            rng: noise of the posterior's samples.
            explained: E, of which G is a multiple; all that are drawn by default.
            world: the processes that share the batch; this one has ``context``, ``query`` and ``rng`` of its part,
                but compares its scenes with all.
            draws: whether anything is drawn; without, only the contrasts are left.
            compares: whether views are compared; without, only the drawing is left.
        """
        config = self.config
        nothing = torch.full((), float("nan"))
        drawn = slice(0, None, len(context.images) // len(used))
        contrasts = self.contrast if compares else None
        prior = model.representation.prior if config.geometry and compares else None
        compares = contrasts is not None or prior is not None
        if compares:
            shares = model.represent_views(context)
            scene = (shares[drawn] * used[:, :, None, None, None]).sum(dim=1)
            everyone = world.gather(shares)
        else:
            scene = model.represent(Views(context.images[drawn], context.poses[drawn]), used)
        total = torch.zeros((), device=scene.device)
        contrast, accuracy, geometry, geometry_accuracy, prior_mse = (nothing,) * 5
        if contrasts is not None:
            features = [model.representation.features(share).float() for share in everyone[:, :2].unbind(1)]
            contrast, accuracy = contrasts(*features)
            total = total + config.contrast * contrast
        if prior is not None:
            with torch.autocast(everyone.device.type, enabled=False):  # precisions span many orders of magnitude
                gaussians = model.representation.gaussians(everyone.float().flatten(0, 1)).unflatten(
                    0, everyone.shape[:2]
                )
                geometry, geometry_accuracy = geometric_contrast(gaussians, prior)
            total = total + config.geometry * geometry
        truth = query.images.float() / 255
        pixels = truth[0, 0].numel()
        if draws and config.prior_mean:
            prior_mse = F.mse_loss(model.predict(scene, query.poses), truth)
            total = total + config.prior_mean * prior_mse
        if draws and config.likelihood:
            some = slice(0, None, len(scene) // explained if explained else 1)
            query = Views(query.images[some], query.poses[some])
            output = model.reconstruct(scene[some], query, sigma, rng)
            excess = output.nll.mean() - likelihood_floor(sigma, pixels)
            kl = output.kl.mean()
            posterior_mse = F.mse_loss(output.reconstruction, truth[some])
            total = total + config.likelihood * (excess + kl) / pixels
        else:
            excess = kl = posterior_mse = nothing
        parts = (excess + kl, kl, posterior_mse, prior_mse, contrast, accuracy, geometry, geometry_accuracy)
        return Losses(total, *(part.detach() for part in parts))
