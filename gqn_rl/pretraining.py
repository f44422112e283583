"""Pretraining a GQN on recorded scenes: a generator of steps that owns neither logging nor printing.

Step number t of a run draws its scenes, views and noise from ``(seed, t)`` alone, so a run that was killed and
resumed from its last checkpoint goes through the same numbers as one that was not.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional as F

from gqn_rl.cameras import CONVENTION
from gqn_rl.config import Config, UserError
from gqn_rl.data import SceneDataset, sample_scenes, split_views
from gqn_rl.encoder import GQNEncoder
from gqn_rl.files import write_bytes
from gqn_rl.generator import SharedNoise
from gqn_rl.gqn import GQN, GQNConfig
from gqn_rl.objectives import Losses, Objective, ObjectiveConfig
from gqn_rl.parallel import World
from gqn_rl.probes import probe, scene_share
from gqn_rl.types import Views


class Ramp(Config):
    """A number that goes linearly from ``start`` to ``end`` over ``steps`` steps, and stays there."""

    start: float = Field(gt=0)
    end: float = Field(gt=0)
    steps: int = Field(ge=1)

    def at(self, step: int) -> float:
        """The number at ``step``, counted from 0."""
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)


class PretrainConfig(Config):
    """A pretraining run. The defaults are ours; ``configs/pretrain/paper.yaml`` holds the paper's."""

    model: GQNConfig = GQNConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    steps: int = Field(4_000, ge=1)
    batch: int = Field(32, ge=2)  #: scenes a step that the contrast compares
    drawn: int = Field(32, ge=1)  #: of these, scenes that the generator draws from its prior's mean
    explained: int = Field(4, ge=1)  #: of these, views that the likelihood explains; 36 in the paper
    #: The share of the steps, the first ones, that compare views and draw nothing: a young generator's error pulls the
    #: heads to what is large, before they have found what is small (FetchReach's goal, four pixels wide, was not found
    #: in 400 steps that drew from the first on, and to 3.4 cm in 300 that did not).
    compare_first: float = Field(0.0, ge=0, lt=1)
    #: Whether the steps after these draw and do nothing else: points stay where comparing has put them, only the
    #: generator and the free features learn, from scenes of any blocks, and the learning rate begins anew. Where
    #: walls and floors are most of a picture, drawing would take the points away from the objects.
    draw_apart: bool = False
    #: What a step takes of each of the recording's blocks, (rows, columns); drawn anew every step.
    parts: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(((4, 1), (1, 4)), min_length=1)
    max_context: int = Field(3, ge=1)  #: views that may enter the scene; each scene draws 1 to this many
    #: Which view is drawn: one that is not among the context, or the only one that is (an autoencoder, as a control).
    query: Literal["unseen", "seen"] = "unseen"
    learning_rate: float = Field(1e-3, gt=0)  #: of Adam, at its highest
    warmup: int = Field(100, ge=0)  #: steps of linear warm-up
    decay: Literal["cosine", "paper"] = "cosine"  #: to zero at the end, or 5e-4 to 5e-5 over 1.6e6 steps
    weight_decay: float = Field(1e-4, ge=0)
    clip: float = Field(1.0, gt=0)  #: largest norm of the gradient
    #: Pixel standard deviation; 2.0 to 0.7 over 2e5 steps in the paper (0.4 and more never saw small objects).
    sigma: Ramp = Ramp(start=0.2, end=0.1, steps=1_000)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    held_out: int = Field(512, ge=2)  #: scenes at the end of the recording that are never trained on
    evaluate_every: int = Field(500, ge=1)
    checkpoint_every: int = Field(100, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    start_from: str | None = None  #: an encoder whose network is trained on: a shipped name, or a run's folder

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch % self.drawn:
            raise ValueError(f"batch ({self.batch}) must be a multiple of drawn ({self.drawn})")
        if self.drawn % self.explained:
            raise ValueError(f"drawn ({self.drawn}) must be a multiple of explained ({self.explained})")
        if self.objective.contrast and self.model.representation.channels == 0:
            raise ValueError("objective.contrast compares features: model.representation.channels must be above 0")
        if self.query == "seen" and self.max_context != 1:
            raise ValueError(
                f"query 'seen' draws the only view that is given: max_context must be 1, got {self.max_context}"
            )
        points = self.model.representation.kind == "points"
        compares = self.objective.contrast or (self.objective.geometry and points)
        if not (compares or self.objective.likelihood or self.objective.prior_mean):
            raise ValueError(
                "nothing is learnt: objective.contrast, objective.likelihood, objective.prior_mean or, with "
                "representation.kind points, objective.geometry must be above 0"
            )
        if self.compare_first and not compares:
            raise ValueError(
                f"compare_first is {self.compare_first}, but nothing compares: objective.contrast, or "
                "objective.geometry with representation.kind points, must be above 0"
            )
        if self.draw_apart and not points:
            raise ValueError(
                f"draw_apart keeps points where they are: it needs representation.kind 'points', "
                f"got {self.model.representation.kind!r}"
            )
        if self.draw_apart and not (self.objective.likelihood or self.objective.prior_mean):
            raise ValueError("draw_apart draws: objective.likelihood or objective.prior_mean must be above 0")
        if self.draw_apart and not self.compare_first and self.start_from is None:
            raise ValueError(
                "draw_apart learns no points while it draws: compare_first must be above 0, or --from name an encoder"
            )
        if compares and self.max_context < 2:
            raise ValueError(
                "contrast and geometry need two views of a scene: "
                f"max_context must be at least 2, got {self.max_context}"
            )
        return self

    @property
    def draws_from(self) -> int:
        """The first step, counted from 0, that draws: of two steps or more one of each kind, where there are both."""
        return min(max(round(self.compare_first * self.steps), 1), self.steps - 1) if self.compare_first else 0

    def sigma_at(self, step: int) -> float:
        """The pixels' standard deviation at ``step``, counted from 0; its ramp begins with the drawing."""
        return self.sigma.at(max(0, step - self.draws_from))

    def learning_rate_at(self, step: int) -> float:
        """Adam's learning rate at ``step``, counted from 0."""
        start, end = 0, self.steps
        if self.draw_apart:
            start, end = (0, self.draws_from) if step < self.draws_from else (self.draws_from, self.steps)
        step, steps = step - start, end - start
        warm = min((step + 1) / self.warmup, 1.0) if self.warmup else 1.0
        if self.decay == "paper":
            # GQN supplement, section 4: 5e-4 to 5e-5, linear, over 1.6e6 steps; here in units of the first.
            return self.learning_rate * warm * (1.0 - 0.9 * min(step / 1.6e6, 1.0))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


class Step(NamedTuple):
    """One finished training step."""

    number: int  #: counted from 1
    losses: Losses
    learning_rate: float
    sigma: float
    gradient_norm: float


@dataclass(frozen=True)
class Evaluation:
    """Held-out scenes, judged with ``max_context`` context views."""

    step: int
    posterior_mse: float
    prior_mse: float  #: of the prior-mean image of an unseen view
    mean_image_mse: float  #: what drawing the mean of all images would score
    kl: float  #: nats a view
    negative_elbo: float  #: nats above the likelihood's floor, a view, at this step's sigma
    sigma: float
    scene_std: float  #: standard deviation of the scene vector over scenes, mean over its entries
    scene_share: float  #: see :func:`gqn_rl.probes.scene_share`; near zero means collapse
    probes: dict[str, float]  #: "<group>_r2" and "<group>_cm" by ridge from the scene vector

    @property
    def collapsed(self) -> bool:
        """Whether the scene vector says nothing about the scene (under 1 % of its variance)."""
        return self.scene_share < 0.01

    def scalars(self) -> dict[str, float]:
        """All numbers by name, for a log."""
        numbers = {k: v for k, v in self.__dict__.items() if k not in ("probes", "step")}
        return {**numbers, "prior_mse_relative": self.prior_mse / self.mean_image_mse, **self.probes}


def choose_precision(precision: str, device: torch.device) -> str:
    """``float32`` or ``bfloat16``: what ``precision`` says; for ``auto`` bfloat16 where hardware is faster at it."""
    if precision != "auto":
        return precision
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bfloat16" if device.type == "cuda" or amx() else "float32"


def autocast(precision: str, device: torch.device) -> Any:
    """The autocast context for ``precision``, see :func:`choose_precision`."""
    bfloat16 = choose_precision(precision, device) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)


class Pretraining:
    """A run on ``dataset``: iterate :meth:`steps`, call :meth:`evaluate` and :meth:`save` when you like.

    Args:
        config: of the run; the model's image size and field of view must be the recording's.
        dataset: a finished recording.
        device: where to train.
        world: the processes that share each batch.

    Raises:
        UserError: the recording does not fit the configuration, or the batch cannot be shared.
    """

    def __init__(
        self,
        config: PretrainConfig,
        dataset: SceneDataset,
        device: str | torch.device = "cpu",
        world: World = World(),  # noqa: B008 - immutable
    ) -> None:
        _check_fit(config, dataset)
        _check_shares(config, world)
        self.world = world
        self.config, self.dataset, self.device = config, dataset, torch.device(device)
        self.step = 0
        with torch.random.fork_rng([]):  # on the CPU, before they go to the device
            torch.default_generator.manual_seed(config.seed)
            self.model = GQN(config.model).to(self.device)
            self.objective = Objective(config.objective, self.model.representation.feature_size).to(self.device)
        #: What the network was trained on before: ``data``, ``pretraining`` and ``compute`` of its encoders' cards,
        #: oldest first.
        self.lineage: list[dict[str, Any]] = []
        self._begun = False
        parameters = [*self.model.parameters(), *self.objective.parameters()]
        self._parameters = parameters
        self._optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        self._train_scenes = len(dataset) - config.held_out
        self._block = dataset.block
        #: Scenes of whole blocks to train on; one that reaches into the held-out scenes shares factors with them.
        self._apart_scenes = self._train_scenes // self._block.size * self._block.size

    def begin(self) -> None:
        """Take over what the run starts from, unless it has begun or was loaded; :meth:`steps` does that as well.

        A run that is resumed does not need that encoder any more: its checkpoint has all of it.

        Raises:
            UserError: there is no such encoder, or it does not fit the configuration.
        """
        if not self._begun and self.config.start_from is not None:
            self._start_from(self.config.start_from)
        self._begun = True

    def _start_from(self, name: str) -> None:
        """Take over the weights of the encoder ``name``; cameras' angles and the unit of length may differ from its."""
        encoder = GQNEncoder.from_pretrained(name)
        network = encoder.gqn
        theirs, mine = _sizes(network.config), _sizes(self.config.model)
        if different := [key for key in mine if mine[key] != theirs[key]]:
            sizes = ", ".join(f"{key} is {mine[key]} here and {theirs[key]} there" for key in different)
            raise UserError(f"the run cannot start from {name}: {sizes}")
        self.model.load_state_dict(network.state_dict())
        facts: dict[str, Any] = {
            key: encoder.card[key] for key in ("data", "pretraining", "compute") if key in encoder.card
        }
        self.lineage = [*encoder.card.get("lineage", []), facts]

    def steps(self) -> Iterator[Step]:
        """Train from where the run stands to its last step, yielding after each."""
        self.begin()
        self.model.train()
        self.objective.train()
        while self.step < self.config.steps:
            yield self._train_step()

    def _train_step(self) -> Step:
        config, number = self.config, self.step
        rng = np.random.default_rng([config.seed, number])
        seeded = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        noise = SharedNoise(seeded, self.world.rank, self.world.size)
        draws = number >= config.draws_from
        apart = config.draw_apart and draws
        if apart:
            self.model.representation.keep_points()
        context, used, query = self._batch(rng, apart)
        rate, sigma = config.learning_rate_at(number), config.sigma_at(number)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(config.precision, self.device):
            explained = config.explained // self.world.size
            losses = self.objective(
                self.model, context, used, query, sigma, noise, explained, self.world, draws, compares=not apart
            )
        losses.total.backward()
        self.world.average(p.grad for p in self._parameters if p.grad is not None)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, config.clip)
        if not torch.isfinite(norm):
            raise UserError(
                f"step {number + 1}: the gradient is not finite; lower learning_rate ({config.learning_rate})"
            )
        self._optimizer.step()
        self.step = number + 1
        return Step(self.step, losses._replace(total=losses.total.detach()), rate, sigma, float(norm))

    def _batch(self, rng: np.random.Generator, apart: bool = False) -> tuple[Views, Tensor, Views]:
        config = self.config
        if apart:  # what is compared must be hard to tell apart, what is drawn as different as can be
            scenes = rng.choice(self._apart_scenes, size=config.batch, replace=False)
        else:
            part = config.parts[int(rng.integers(len(config.parts)))]
            scenes = sample_scenes(rng, self._train_scenes, self._block, config.batch, part)
        context, query = self._split(rng, len(scenes))
        drawn = slice(0, None, config.batch // config.drawn)
        counts = rng.integers(1, config.max_context + 1, size=len(scenes))[drawn]
        used = np.arange(config.max_context) < counts[:, None]
        own, own_drawn = self.world.share(config.batch), self.world.share(config.drawn)
        unseen = self._views(scenes[drawn][own_drawn], query[drawn][own_drawn])
        return self._views(scenes[own], context[own]), torch.from_numpy(used[own_drawn]).to(self.device), unseen

    def _split(self, rng: np.random.Generator, scenes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which views of each scene are given (scenes, max_context), and which is drawn (scenes, 1)."""
        context, query = split_views(rng, scenes, self.dataset.views, self.config.max_context, 1)
        return context, context if self.config.query == "seen" else query

    def _views(self, scenes: NDArray[np.int64], views: NDArray[np.int64]) -> Views:
        batch = self.dataset.batch(scenes, views)
        return Views(*(torch.from_numpy(array).to(self.device, non_blocking=True) for array in batch))

    @cached_property
    def _mean_image(self) -> NDArray[np.float64]:
        """(H, W, 3) in [0, 1], of training scenes."""
        return self.dataset.images[: min(self._train_scenes, 2_000)].mean((0, 1)) / 255

    @torch.no_grad()
    def evaluate(self, probe_scenes: int = 2_000) -> Evaluation:
        """Judge the model on the held-out scenes; probes are fitted on ``probe_scenes`` training scenes."""
        config = self.config
        self.begin()
        self.model.eval()
        held_out = np.arange(self._train_scenes, len(self.dataset))
        rng = np.random.default_rng([config.seed, 2**31])
        noise = torch.Generator(self.device).manual_seed(config.seed)
        sums = dict.fromkeys(("posterior_mse", "prior_mse", "kl"), 0.0)
        sigma = config.sigma_at(self.step)
        mean_error = 0.0
        for part in np.array_split(held_out, max(1, len(held_out) // 128)):
            context, query = self._split(rng, len(part))
            seen, unseen = self._views(part, context), self._views(part, query)
            truth = unseen.images.float() / 255
            with autocast(config.precision, self.device):
                scene = self.model.represent(seen)
                output = self.model.reconstruct(scene, unseen, sigma, noise)
                prior = self.model.predict(scene, unseen.poses)
            share = len(part) / len(held_out)
            sums["posterior_mse"] += share * float(F.mse_loss(output.reconstruction, truth))
            sums["prior_mse"] += share * float(F.mse_loss(prior, truth))
            sums["kl"] += share * float(output.kl.mean())
            mean_error += share * float(np.square(truth.cpu().numpy() - self._mean_image).mean())
        pixels = math.prod(truth.shape[2:])
        excess = 0.5 * sums["posterior_mse"] * pixels / sigma**2
        single, vectors = self._vectors(held_out)
        probes = self._probe(probe_scenes, held_out, vectors)
        self.model.train()
        return Evaluation(
            step=self.step,
            mean_image_mse=mean_error,
            negative_elbo=excess + sums["kl"],
            sigma=sigma,
            scene_std=float(vectors.std(0).mean()),
            scene_share=scene_share(single),
            probes=probes,
            **sums,
        )

    def _vectors(
        self, scenes: NDArray[np.int64], alone: bool = True
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of each scene, vectors of its first two views, each ``alone`` (N, 2, D), and of max_context views (N, D)."""
        used = self.config.max_context
        views = np.tile(np.arange(max(2, used)), (len(scenes), 1))
        single, joint = [], []
        for start in range(0, len(scenes), 256):
            with autocast(self.config.precision, self.device):
                shares = self.model.represent_views(
                    self._views(scenes[start : start + 256], views[start : start + 256])
                )
                vectors = [self.model.representation.vector(shares[:, i : i + 1]) for i in range(2 if alone else 0)]
                joint.append(self.model.representation.vector(shares[:, :used]).float().cpu().numpy())
            single += [torch.stack(vectors, dim=1).float().cpu().numpy()] if alone else []
        return np.concatenate(single) if alone else np.empty((0, 2, 0), np.float32), np.concatenate(joint)

    def _probe(self, scenes: int, held_out: NDArray[np.int64], vectors: NDArray[np.float32]) -> dict[str, float]:
        groups = self.dataset.manifest.state_groups
        if not groups:
            return {}
        # Spread over the recording: scenes of one block share targets or poses, and would count for fewer.
        fit = np.linspace(0, self._apart_scenes - 1, min(scenes, self._apart_scenes)).astype(np.int64)
        fit_vectors = self._vectors(fit, alone=False)[1]
        scores = {}
        for name in groups:
            truth = self.dataset.state_group(name)
            result = probe(fit_vectors, truth[fit], vectors, truth[held_out])
            scores[f"{name}_r2"] = result.r2
            scores[f"{name}_cm"] = 100 * result.median_error
        return scores

    @torch.no_grad()
    def gallery(self, scenes: int = 6) -> list[list[NDArray[np.float32]]]:
        """Rows of images (H, W, 3) in [0, 1] of held-out scenes: context views | truth | prior mean | a sample."""
        self.model.eval()
        chosen = np.linspace(self._train_scenes, len(self.dataset) - 1, scenes).astype(np.int64)
        k = self.config.max_context
        seen = self._views(chosen, np.tile(np.arange(k), (scenes, 1)))
        unseen = self._views(chosen, np.full((scenes, 1), k if self.config.query == "unseen" else 0))
        scene = self.model.represent(seen)
        mean = self.model.generate(scene, unseen.poses, deterministic=True)[0]
        sample = self.model.generate(scene, unseen.poses, rng=torch.Generator(self.device).manual_seed(0))[0]
        self.model.train()
        columns = [
            *(seen.images.float() / 255).unbind(1),
            (unseen.images.float() / 255)[:, 0],
            mean[:, 0],
            sample[:, 0],
        ]
        return [[column[i].cpu().numpy() for column in columns] for i in range(scenes)]

    # Checkpoints ----------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write everything that a resumed run needs, atomically."""
        state = {
            "step": self.step,
            "config": self.config.to_dict(),
            "data": self.dataset.manifest.sha256,
            "lineage": self.lineage,
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_bytes(path, content.getbuffer())

    def load(self, path: Path) -> None:
        """Go back to where :meth:`save` was called.

        Raises:
            UserError: the file is corrupt, or belongs to another configuration or recording.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise UserError(
                f"checkpoint {path} is corrupt ({type(error).__name__}); delete it to start again"
            ) from None
        if not isinstance(state, dict) or not {"step", "config", "data", "model"} <= state.keys():
            raise UserError(f"{path} is no checkpoint of a pretraining run; delete it to start again")
        try:  # read as a configuration: keys that came later have their defaults
            there, mine = PretrainConfig.from_mapping(state["config"]).to_dict(), self.config.to_dict()
        except UserError as error:
            raise UserError(f"{path} was trained with other settings; choose another --out ({error})") from None
        different = [key for key in mine if mine[key] != there[key]]
        if different:
            raise UserError(f"{path} was trained with other settings ({', '.join(different)}); choose another --out")
        if state["data"] != self.dataset.manifest.sha256:
            raise UserError(f"{path} was trained on another recording than {self.dataset.folder}; choose another --out")
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.lineage = state.get("lineage", [])  # earlier releases did not write it
        self.step = state["step"]
        self._begun = True


def _sizes(config: GQNConfig) -> dict[str, Any]:
    """What decides the shapes of weights, and what they mean, by the names that ``--set`` knows."""
    whole = {"model.image_size": config.image_size}
    parts = {"representation": config.representation, "generator": config.generator}
    return whole | {f"model.{part}.{key}": value for part, each in parts.items() for key, value in each}


def _check_shares(config: PretrainConfig, world: World) -> None:
    for name in ("batch", "drawn", "explained"):
        if getattr(config, name) % world.size:
            raise UserError(f"{name} is {getattr(config, name)}, which {world.size} processes cannot share evenly")


def _check_fit(config: PretrainConfig, dataset: SceneDataset) -> None:
    camera, model = dataset.camera, config.model
    size = tuple(camera["image_size"])
    if size != model.image_size:
        raise UserError(f"model.image_size is {model.image_size}, but {dataset.folder} holds views of {size}")
    if not math.isclose(camera["fovy"], model.fovy):
        raise UserError(f"model.fovy is {model.fovy}, but {dataset.folder} was seen at {camera['fovy']} degrees")
    if dataset.views < config.max_context + 1:
        raise UserError(
            f"max_context is {config.max_context}: it needs {config.max_context + 1} views a scene, "
            f"{dataset.folder} has {dataset.views}"
        )
    if camera["convention"] != CONVENTION:
        raise UserError(f"{dataset.folder} holds poses that mean {camera['convention']!r}, not {CONVENTION!r}")
    block = dataset.block
    blocks = max(-(-config.batch // (min(r, block.height) * min(c, block.width))) for r, c in config.parts)
    if (len(dataset) - config.held_out) // block.size < blocks:
        need = blocks * block.size + config.held_out
        raise UserError(
            f"batch {config.batch} of parts {config.parts} and held_out {config.held_out} need "
            f"{need} scenes, but {dataset.folder} has {len(dataset)}: give `record` --scenes {need} or more, and a new "
            f"folder (of a published set, give `pretrain` --scenes {need}), or set a smaller batch or held_out"
        )
