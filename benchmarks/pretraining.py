"""Scenes a second of pretraining: a plain transcription of the GQN paper beside ours of equal width, on the same cores.

    python benchmarks/pretraining.py --threads 1

Every row takes whole training steps (forward, backward, clipping, AdamW; float32) on the same random 64x64 views: how
long a step takes does not depend on what they show. Rows are measured in turn, ``--rounds`` times, so that a machine
whose speed drifts treats all alike; the table shows medians, and ratios against the first row of each group.

*Equal width* means: as many channels in the cores' hidden states and in the latent, as long a scene representation, as
many latent steps with shared weights, as many scenes in a step, as many context views in and query views out. It does
not mean equal arithmetic or equal parameters; both stand in the table, so that one sees how much of a ratio is work
left out and how much is work done faster. The length of a representation is that of what the cores read of it.

1. *The paper's width.* Plain against :meth:`gqn_rl.gqn.GQNConfig.paper`. What the plain network computes, ours can,
   with the same images, divergences and gradients, up to what the zeros beyond the cores' grid do to v and a pooled r
   (``tests/test_plain_gqn.py`` maps the weights and compares). The ratio is one of implementations only.
2. *The default network's width.* Plain, with our number of channels and steps, against our default network, both
   trained by the likelihood alone and drawing every scene. They are equally wide, not equal: ours has another
   representation network, an 8x8 grid of cores with 3x3 kernels where the paper has 16x16 and 5x5, a small
   convolutional decoder, and mixes camera rays with the scene. The ratio is what choosing it saves; how much either
   learns in a step is another question. It is against the paper's pyramid, by far its cheapest representation network;
   its pool stands beside it, as the network of ``configs/pretrain/paper.yaml``.
3. *The default recipe* compares all scenes of a step with each other, draws some of them from the prior and explains
   fewer through the posterior. Its scenes/s count all scenes that it learns from. It stands with the second width, but
   its ratio is not one of equal work: most of it is drawing left out.

The second table is the default representation network alone, forward and backward, by the number of views at a time.
The third says where the time of a step of the recipe goes: terms are switched on one after the other. With ``--data``,
it also has what a step waits for the views of a recording, beside its time on views that are in memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from plain_gqn import Kind, PlainGQN, elbo, viewpoint
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gqn_rl import gqn
from gqn_rl.data import SceneDataset
from gqn_rl.gqn import GQN, GQNConfig
from gqn_rl.objectives import Objective, ObjectiveConfig
from gqn_rl.pretraining import PretrainConfig
from gqn_rl.representation import build_representation
from gqn_rl.types import Views

LIKELIHOOD = ObjectiveConfig(likelihood=1.0, contrast=0, geometry=0, prior_mean=0)
PAPER_KIND: Kind = "pool"  #: of the first group, as in configs/pretrain/paper.yaml
PAPER_SCENES = 4  #: of a step in the first group, where a scene takes seconds; 36 in the paper
PARTS = (256, 64, 32, 16)  #: views that the encoder alone gets at a time


class Batch(NamedTuple):
    """``context`` (B, K views), and of D of its scenes, B / D apart, the view to draw: ``query`` (D, 1)."""

    context: Views
    query: Views

    def first(self, scenes: int) -> Batch:
        """A batch of ``scenes`` scenes, all of them drawn."""
        return Batch(*(Views(views.images[:scenes], views.poses[:scenes]) for views in self))


def random_views(scenes: int, count: int) -> Views:
    """``count`` random views of each scene."""
    return Views(torch.randint(0, 256, (scenes, count, 64, 64, 3), dtype=torch.uint8), torch.randn(scenes, count, 5))


class Training:
    """``model`` and the weights that its objective adds, trained on one batch over and over."""

    def __init__(
        self, model: nn.Module, objective: nn.Module, loss: Callable[[], Tensor], scenes: int, recipe: PretrainConfig
    ) -> None:
        self.model, self.loss, self.scenes, self.clip = model, loss, scenes, recipe.clip
        self.parameters = [*model.parameters(), *objective.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)

    def step(self) -> None:
        """Forward, backward and update."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()

    def gigaflops(self) -> float:
        """Floating-point operations a scene, 10^9, of a step's convolutions and matrix products; takes that step."""
        with FlopCounterMode(display=False) as counter:
            self.step()
        return counter.get_total_flops() / self.scenes / 1e9

    def scenes_per_second(self, seconds: float) -> float:
        """Whole steps, one at least, for ``seconds``."""
        steps, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds or not steps:
            self.step()
            steps += 1
        return self.scenes * steps / passed


def plain(kind: Kind, width: GQNConfig, batch: Batch, recipe: PretrainConfig) -> Training:
    """The plain transcription, as wide as ``width``, maximising the ELBO."""
    sizes = width.generator
    r = build_representation(width.representation, *width.image_size, width.fovy).read_shape[0]
    model = PlainGQN(kind, r, sizes.channels, sizes.steps, sizes.shared, sizes.z_channels)

    def loss() -> Tensor:
        x, v = nchw(batch.context)
        x_query, v_query = (part[:, 0] for part in nchw(batch.query))
        mean, kl = model(x, v, x_query, v_query)
        return -elbo(mean, kl, x_query, recipe.sigma.end).mean()

    return Training(model, nn.Module(), loss, len(batch.context.images), recipe)


def nchw(views: Views) -> tuple[Tensor, Tensor]:
    """Images (B, K, 3, H, W) in [0, 1] and viewpoints (B, K, 7), as the plain transcription takes them."""
    images = torch.as_tensor(views.images).permute(0, 1, 4, 2, 3).contiguous().float() / 255
    return images, viewpoint(torch.as_tensor(views.poses))


def ours(
    config: GQNConfig, objective: ObjectiveConfig, batch: Batch, recipe: PretrainConfig, explained: int | None = None
) -> Training:
    """Our network and ``objective``; all context views of a scene that is drawn enter it.

    ``explained`` of the drawn scenes go through the posterior, by default all.
    """
    model = GQN(config)
    objectives = Objective(objective, model.representation.feature_size)
    used = torch.ones(len(batch.query.images), batch.context.images.shape[1], dtype=torch.bool)
    noise = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        return objectives(model, batch.context, used, batch.query, recipe.sigma.end, noise, explained).total

    return Training(model, objectives, loss, len(batch.context.images), recipe)


class Row(NamedTuple):
    """A line of the table."""

    width: str
    name: str
    training: Training


def rows(paper: GQNConfig, kind: Kind, paper_scenes: int, recipe: PretrainConfig) -> list[Row]:
    """What is compared. Ratios are against the first row of the same width."""
    torch.manual_seed(0)
    batch = Batch(random_views(recipe.batch, recipe.max_context), random_views(recipe.drawn, 1))
    parts = f"{recipe.batch} compared, {recipe.drawn} drawn, {recipe.explained} explained"
    few, drawn, default = batch.first(paper_scenes), batch.first(recipe.drawn), recipe.model
    return [
        Row("paper", f"plain, {kind}", plain(kind, paper, few, recipe)),
        Row("paper", f"ours, {kind}: the same function", ours(paper, LIKELIHOOD, few, recipe)),
        Row("default", "plain, pyramid", plain("pyramid", default, drawn, recipe)),
        Row("default", "plain, pool", plain("pool", default, drawn, recipe)),
        Row("default", "ours, likelihood alone", ours(default, LIKELIHOOD, drawn, recipe)),
        Row("default", f"ours, recipe: {parts}", ours(default, recipe.objective, batch, recipe, recipe.explained)),
    ]


def compare(lines: list[Row], rounds: int, seconds: float) -> list[list[str]]:
    """Measure ``lines`` in turn; the cells of the table, its heading first."""
    flops = [line.training.gigaflops() for line in lines]  # these steps warm up, too
    rates: list[list[float]] = [[] for _ in lines]
    for _ in range(rounds):
        for line, own in zip(lines, rates, strict=True):
            own.append(line.training.scenes_per_second(seconds))
    base: dict[str, float] = {}
    cells = [["width", "network", "scenes a step", "parameters", "GFLOP/scene", "scenes/s", "min", "max", "ratio"]]
    for line, work, own in zip(lines, flops, rates, strict=True):
        middle = statistics.median(own)
        ratio = middle / base.setdefault(line.width, middle)
        size = sum(parameter.numel() for parameter in line.training.parameters)
        speeds = [f"{speed:.3g}" for speed in (middle, min(own), max(own), ratio)]
        cells.append([line.width, line.name, str(line.training.scenes), f"{size / 1e6:.1f} M", f"{work:.3g}", *speeds])
    return cells


def encoder(config: GQNConfig, views: int, rounds: int) -> list[list[str]]:
    """Forward and backward of the representation network of ``config``, by the number of views at a time."""
    model, seen = GQN(config), random_views(views, 1)
    rates: dict[int, list[float]] = {part: [] for part in PARTS}
    usual = gqn.CPU_PART
    try:
        for number in range(rounds + 1):
            for part, own in rates.items():
                gqn.CPU_PART = part
                began = time.perf_counter()
                model.represent(seen).sum().backward()
                if number:  # the first round warms up
                    own.append(views / (time.perf_counter() - began))
    finally:
        gqn.CPU_PART = usual
    cells = [["encoder alone", "views/s", "min", "max"]]
    for part, own in rates.items():
        speeds = [f"{speed:.0f}" for speed in (statistics.median(own), min(own), max(own))]
        cells.append([f"{part} views at a time", *speeds])
    return cells


def parts(recipe: PretrainConfig, rounds: int, seconds: float, data: Path | None) -> list[list[str]]:
    """Milliseconds of a step of ``recipe``, by what they are spent on."""
    batch = Batch(random_views(recipe.batch, recipe.max_context), random_views(recipe.drawn, 1))
    whole = recipe.objective
    compares = whole.model_copy(update={"prior_mean": 0.0, "likelihood": 0.0})
    draws = whole.model_copy(update={"likelihood": 0.0})
    trainings = [ours(recipe.model, terms, batch, recipe, recipe.explained) for terms in (compares, draws, whole)]
    times: list[list[float]] = [[] for _ in trainings]
    for _ in range(rounds):
        for training, own in zip(trainings, times, strict=True):
            own.append(1000 * recipe.batch / training.scenes_per_second(seconds))
    compared, drawn, all_ = (statistics.median(own) for own in times)
    lines = [
        ("seeing all views, comparing them", compared),
        (f"drawing {recipe.drawn} views from the prior's mean", drawn - compared),
        (f"explaining {recipe.explained} through the posterior", all_ - drawn),
        ("a step", all_),
    ]
    if data is not None:
        lines.append((f"its views from {data}", 1000 * reading(recipe, data, rounds)))
    cells = [["a step of the recipe", "ms", "share"]]
    return cells + [[name, f"{time:.0f}", f"{time / all_:.0%}"] for name, time in lines]


def reading(recipe: PretrainConfig, data: Path, rounds: int) -> float:
    """Seconds, the median over 20 batches a round, to read the views of one step."""
    dataset, rng = SceneDataset(data), np.random.default_rng(0)
    times = []
    for _ in range(20 * rounds):
        scenes = rng.integers(len(dataset), size=recipe.batch)
        views = rng.permuted(np.tile(np.arange(dataset.views), (recipe.batch, 1)), axis=1)
        began = time.perf_counter()
        dataset.batch(scenes, views[:, : recipe.max_context + 1])
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def table(cells: list[list[str]], texts: int, markdown: bool) -> str:
    """``cells`` in aligned columns, of which the first ``texts`` are text and the others numbers."""
    sizes = [max(map(len, column)) for column in zip(*cells, strict=True)]
    columns = range(len(sizes))
    lines = [
        [cell.ljust(sizes[i]) if i < texts else cell.rjust(sizes[i]) for i, cell in enumerate(row)] for row in cells
    ]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    lines.insert(1, ["-" * sizes[i] if i < texts else "-" * (sizes[i] - 1) + ":" for i in columns])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure and print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each row (default 3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a measurement, one step at least (default 1)")
    parser.add_argument("--data", type=Path, help="a recording, to time reading it")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = PretrainConfig()
    context = f"{recipe.max_context} context views a scene"
    print(f"torch {torch.__version__}, {options.threads} threads, float32, {context}\n", flush=True)
    lines = rows(GQNConfig.paper(PAPER_KIND), PAPER_KIND, PAPER_SCENES, recipe)
    cells = compare(lines, options.rounds, options.seconds)
    print(table(cells, 2, options.markdown), end="\n\n")
    print(table(encoder(recipe.model, 256, options.rounds), 1, options.markdown), end="\n\n")
    print(table(parts(recipe, options.rounds, options.seconds, options.data), 1, options.markdown))


if __name__ == "__main__":
    main()
