"""``benchmark``: every arm of a comparison, with several seeds."""

from __future__ import annotations

import argparse
from pathlib import Path

from gqn_rl.commands.configurations import find_config
from gqn_rl.commands.options import names, positive, seeds
from gqn_rl.config import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark``."""
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="YAML files, or names such as benchmark/smoke")
    parser.add_argument("--arms", type=names, metavar="A,B", help="only these (default: all)")
    parser.add_argument("--seeds", type=seeds, default="0-4", metavar="N-M", help="such as 0-9 or 0,3 (default: 0-4)")
    parser.add_argument("--jobs", type=positive, metavar="N", help="runs at a time (default: one a processor)")
    parser.add_argument(
        "--backend",
        choices=("processes", "ray"),
        default="processes",
        help="of this machine (default), or of the Ray cluster that RAY_ADDRESS names",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/results"),
        metavar="DIR",
        help="where CSV and JSON files go (default: benchmarks/results)",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/benchmark"),
        metavar="DIR",
        help="where runs go (default: runs/benchmark)",
    )


def run(options: argparse.Namespace) -> None:
    """Train every arm of every task with every seed, and keep the learning curves.

    A run is what train does, in a process of its own. Finished ones are skipped, and those whose
    results are in --out; others go on: a benchmark that was stopped, by Ctrl-C or a crash, goes on
    with the same command. Then: gqn-rl report.

    Example:
      gqn-rl benchmark benchmark/arm_reach_fixed benchmark/arm_reach_moving --seeds 0-9 --jobs 2
    """
    from gqn_rl.agents.benchmark import check, expand
    from gqn_rl.agents.benchmark_jobs import run_jobs
    from gqn_rl.commands.train import warn_of_other_scenes
    from gqn_rl.files import make_folder

    paths = [find_config(name, "benchmark") for name in options.configs]
    jobs = expand(paths, options.seeds, options.runs, options.out, options.arms)
    print(f"{len(jobs)} runs of {sum(job.config.total_steps for job in jobs):,} steps in all", flush=True)
    facts = check(jobs, notice=warn_of_other_scenes)
    for folder in (options.out, options.runs):
        make_folder(folder)
    before = sum(job.done for job in jobs)
    if others := sum(job.done and not job.run.finished for job in jobs):
        print(
            f"{others} of them are in {options.out} and not made again; to repeat them, choose another --out",
            flush=True,
        )
    outcomes = run_jobs(jobs, facts, workers=options.jobs, backend=options.backend)
    finished = before + sum(outcome.status == "finished" for outcome in outcomes)
    if failed := [f"{outcome.name}: {outcome.reason}" for outcome in outcomes if outcome.status == "failed"]:
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed: {'; '.join(failed)}")
    if finished < len(jobs):
        raise KeyboardInterrupt(f"interrupted with {finished} of {len(jobs)} runs done; run the same command to go on")
    print(f"{options.out}: {len(jobs)} runs, {before} of them done before")
