"""What each ingredient of pretraining is worth: every variant trains for the same processor time on the same recording.

    python train.py record --out data/arm-reach
    python benchmarks/ablation.py --data data/arm-reach --minutes 10 --threads 1 --out benchmarks/ablation.csv

A variant differs from the default recipe in the keys that its name tells. It first takes a few steps to learn its
rate, then starts anew with as many steps as fit into the time, so that the learning rate has gone to zero when it
ends. Time is that of the processor, all threads together, so that another process beside it takes nothing away. Rows
that the CSV has already are skipped: a run that was stopped goes on. Each is judged on scenes that no variant trains
on, with three views.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm

from gqn_rl.config import UserError
from gqn_rl.data import SceneDataset
from gqn_rl.files import atomic_path
from gqn_rl.gqn import GQNConfig
from gqn_rl.pretraining import Evaluation, PretrainConfig, Pretraining

PAPER: Final = {"objective.geometry": 0.0, "objective.prior_mean": 0.0, "objective.likelihood": 1.0, "explained": 32}
FEATURES: Final = {"model.representation.channels": 256, "objective.contrast": 1.0}
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "ours": {},
    "ours, no geometric contrast": {"objective.geometry": 0.0},
    "ours, no prior-mean error": {"objective.prior_mean": 0.0},
    "ours, no likelihood": {"objective.likelihood": 0.0},
    "ours, likelihood alone": PAPER,
    "ours, scenes that share nothing": {"parts": [[1, 1]]},
    "ray attention, contrast of features": {**FEATURES, "model.representation.kind": "ray"},
    "paper's pool, our generator, contrast of features": {**FEATURES, "model.representation.kind": "pool"},
    "paper's pyramid, our generator, contrast of features": {**FEATURES, "model.representation.kind": "pyramid"},
    "paper's tower, our generator, contrast of features": {**FEATURES, "model.representation.kind": "tower"},
    "paper's pool, generator and likelihood": {**PAPER, "paper": "pool"},
    "paper's pyramid, generator and likelihood": {**PAPER, "paper": "pyramid"},
    "paper's tower, generator and likelihood": {**PAPER, "paper": "tower"},
}
#: Steps that tell a variant's rate, or as many as fit into so many seconds; the first, which allocates, is not counted.
PILOT: Final = 5
PILOT_SECONDS: Final = 10.0


def configure(recipe: Path, changes: Mapping[str, Any], steps: int) -> PretrainConfig:
    """The recipe with ``changes``; ``paper`` names one of the paper's three representation networks."""
    changes = dict(changes)
    paper = changes.pop("paper", None)
    config = PretrainConfig.from_yaml(recipe, {**changes, "steps": steps, "warmup": min(100, steps)})
    return config if paper is None else config.model_copy(update={"model": GQNConfig.paper(paper)})


def measure(recipe: Path, changes: Mapping[str, Any], dataset: SceneDataset, seconds: float) -> tuple[int, Evaluation]:
    """Train one variant for about ``seconds`` of processor time: how many steps it took, and what it knows then."""
    pilot = Pretraining(configure(recipe, changes, PILOT), dataset).steps()
    next(pilot)
    began, steps = time.process_time(), 0
    for _ in pilot:
        steps += 1
        if time.process_time() - began > PILOT_SECONDS:
            break
    rate = steps / (time.process_time() - began)
    run = Pretraining(configure(recipe, changes, max(1, round(rate * seconds))), dataset)
    bar = tqdm(run.steps(), total=run.config.steps, unit="step", disable=None)
    for step in bar:
        bar.set_postfix_str(f"loss {float(step.losses.total):.3f}", refresh=False)
    return run.step, run.evaluate()


def row(name: str, minutes: float, seed: int, steps: int, judged: Evaluation) -> dict[str, Any]:
    """One line of the table."""
    return {
        "variant": name,
        "minutes": minutes,
        "seed": seed,
        "steps": steps,
        **{key: round(value, 4) for key, value in judged.probes.items() if not key.startswith("offset")},
        "prior_mse_relative": round(judged.prior_mse / judged.mean_image_mse, 4),
        "scene_share": round(judged.scene_share, 4),
    }


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV; none before it exists."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """All rows as CSV, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def share(r2: float) -> str:
    """R2 in two digits; far below zero, where a few scenes decide what it is, just that."""
    return f"{r2:.2f}" if r2 > -1 else "< -1"


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table for the documentation."""
    lines = [
        "| recipe | steps | target R2 | error | hand R2 | error | novel-view MSE |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in rows:
        numbers = {key: float(value) for key, value in line.items() if key != "variant"}
        lines.append(
            f"| {line['variant']} | {numbers['steps']:.0f} "
            f"| {share(numbers['target_r2'])} | {numbers['target_cm']:.1f} cm "
            f"| {share(numbers['hand_r2'])} | {numbers['hand_cm']:.1f} cm | {numbers['prior_mse_relative']:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, write the CSV after each variant, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a recording")
    parser.add_argument("--out", type=Path, required=True, help="CSV, added to")
    parser.add_argument("--recipe", type=Path, default=Path("configs/pretrain/arm_reach.yaml"), help="what is varied")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of processor time that each variant trains (default 10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and noise")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch (default: all)")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, metavar="NAME", help="some variants (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        dataset = SceneDataset(options.data)
    except UserError as error:
        parser.error(str(error))
    rows = read(options.out)
    done = {(line["variant"], float(line["minutes"]), int(line["seed"])) for line in rows}
    for name in options.only or VARIANTS:
        if (name, options.minutes, options.seed) in done:
            continue
        print(f"{name}: {options.minutes:g} minutes", flush=True)
        changes = {**VARIANTS[name], "seed": options.seed}
        steps, judged = measure(options.recipe, changes, dataset, 60 * options.minutes)
        rows.append(row(name, options.minutes, options.seed, steps, judged))
        write(options.out, rows)
    print(markdown(rows))


if __name__ == "__main__":
    main()
