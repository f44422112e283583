"""Milliseconds of a gradient update of the benchmark's arms, and what each of our speed-ups takes off it.

    python benchmarks/updates.py --arms gqn pixels_aug pixels

Each line adds one to those above it; the first is Stable-Baselines3 as it comes. Every measurement is a process of its
own, since how a process keeps its memory cannot be taken back, and has one thread, as the runs of the benchmark have.
Lines are measured in turn, ``--rounds`` times, and the table has the medians of processor time.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure

from gqn_rl.agents import build
from gqn_rl.agents.benchmark import BenchmarkConfig
from gqn_rl.agents.training import fresh_model, make_envs
from gqn_rl.agents.updates import SPEED_UPS
from gqn_rl.allocator import keep_freed_memory
from gqn_rl.config import read_yaml
from gqn_rl.encoder import load_encoder

GRID: Final = Path(__file__).parents[1] / "configs/benchmark/arm_reach_fixed.yaml"
LINES: Final = ("as it comes", "keep_freed_memory", *(step.__name__ for step in SPEED_UPS))
WARM_UP: Final = 120  #: steps, of which SB3 takes 100 before its first update
SECONDS: Final = 6.0  #: of a measurement


def measure(arm: str, line: int) -> float:
    """Milliseconds of processor time an update, with the speed-ups up to ``line``."""
    torch.set_num_threads(1)
    if line >= 1:
        keep_freed_memory()

    def speed_up(model: build.BaseAlgorithm) -> None:
        for step in SPEED_UPS[: max(0, line - 1)]:
            step(model)

    build.speed_up = speed_up
    config = BenchmarkConfig.from_mapping(read_yaml(GRID), source=str(GRID)).train_config(arm, seed=0)
    encoder = load_encoder(config.encoder) if config.encoder is not None else None
    venv = make_envs(config, encoder, n_envs=1)
    model = fresh_model(SAC, config, venv, encoder)
    assert isinstance(model, SAC)
    model.set_logger(configure(None, []))
    model.learn(WARM_UP)
    updates, began = 0, time.process_time()
    while time.process_time() - began < SECONDS:
        model.train(gradient_steps=5, batch_size=model.batch_size)
        updates += 5
    milliseconds = 1000 * (time.process_time() - began) / updates
    venv.close()
    return milliseconds


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=["gqn", "pixels_aug", "pixels"], help=f"of {GRID.name}")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each line (default 3)")
    parser.add_argument("--one", nargs=2, metavar=("ARM", "LINE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(options.one[0], int(options.one[1])))
        return
    cells: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.rounds):
        for arm in options.arms:
            for line in range(len(LINES)):
                command = [sys.executable, __file__, "--one", arm, str(line)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                cells.setdefault((arm, line), []).append(float(done.stdout.split()[-1]))
    print(f"| ms an update | {' | '.join(options.arms)} |")
    print(f"|---|{'---|' * len(options.arms)}")
    for line, name in enumerate(LINES):
        values = [statistics.median(cells[arm, line]) for arm in options.arms]
        print(f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} |")


if __name__ == "__main__":
    main()
