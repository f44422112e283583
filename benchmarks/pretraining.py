"""Scenes a second of pretraining: our defaults, and the paper's networks, on the same random views.

    python benchmarks/pretraining.py --threads 1

A step is forward, backward and update. ``ours`` is the default configuration (three views of 128 scenes to compare,
16 of which are drawn); the paper's rows draw one query view for each scene from two context views.
"""

from __future__ import annotations

import argparse
import time

import torch

from gqn_rl import gqn
from gqn_rl.gqn import GQN, GQNConfig
from gqn_rl.objectives import Objective, ObjectiveConfig
from gqn_rl.types import Views

PLAIN = ObjectiveConfig(likelihood=1.0, contrast=0, prior_mean=0)


def views(scenes: int, count: int) -> Views:
    """Random views: how long a step takes does not depend on what they show."""
    return Views(torch.randint(0, 256, (scenes, count, 64, 64, 3), dtype=torch.uint8), torch.randn(scenes, count, 5))


def scenes_per_second(config: GQNConfig, objective: ObjectiveConfig, batch: int, drawn: int, steps: int) -> float:
    """Training steps on random views."""
    torch.manual_seed(0)
    model = GQN(config)
    loss = Objective(objective, model.representation.out_shape[0])
    optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()])
    context, query = views(batch, 3 if objective.contrast else 2), views(drawn, 1)
    used = torch.ones(drawn, context.images.shape[1], dtype=torch.bool)
    rng = torch.Generator().manual_seed(0)
    began = 0.0
    for step in range(steps + 1):
        if step == 1:  # the first one warms up
            began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss(model, context, used, query, 0.7, rng).total.backward()
        optimizer.step()
    return batch * steps / (time.perf_counter() - began)


def encoder_views_per_second(part: int, count: int = 256) -> float:
    """Forward and backward of the default representation, ``part`` views at a time."""
    torch.manual_seed(0)
    model, seen = GQN(GQNConfig()), views(count, 1)
    usual, gqn.CPU_PART = gqn.CPU_PART, part
    try:
        model.represent(seen).sum().backward()
        began = time.perf_counter()
        model.represent(seen).sum().backward()
    finally:
        gqn.CPU_PART = usual
    return count / (time.perf_counter() - began)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch (default: all)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each row (default 3)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, float32")
    rows = {"ours": (GQNConfig(), ObjectiveConfig(), 128, 16)}
    for kind in ("pyramid", "pool", "tower"):
        rows[f"paper, {kind}, 12 shared cores"] = (GQNConfig.paper(kind), PLAIN, 4, 4)
    for name, (config, objective, batch, drawn) in rows.items():
        print(f"{name:<40}{scenes_per_second(config, objective, batch, drawn, options.steps):>10.1f} scenes/s")
    for part in (256, 64, 32, 16):
        print(f"encoder alone, {part:>3} views at a time{'':<7}{encoder_views_per_second(part):>10.0f} views/s")


if __name__ == "__main__":
    main()
