"""``report``: tables and figures from the CSV files of a benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path

from gqn_rl.commands.options import names
from gqn_rl.config import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``report``."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder with the runs' CSV files, at any depth")
    parser.add_argument("--tasks", type=names, metavar="A,B", help="only these (default: all)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the report's folder; written anew")


def run(options: argparse.Namespace) -> None:
    """Say how data-efficient the arms of a benchmark are, from their CSV and JSON files alone.

    The report's folder gets report.md, its figures, and its tables as CSV: steps to 90, ratios with
    95 % intervals, learning curves, time and memory, and when pretraining has paid for itself. Runs
    may be unfinished; the report says which are.

    Example:
      gqn-rl report benchmarks/results --out benchmarks/report
    """
    from gqn_rl.comparison import analyse
    from gqn_rl.report import write_tables
    from gqn_rl.report_figures import draw_figures
    from gqn_rl.results import read_results

    if (options.results / "config.yaml").is_file():
        raise UserError(
            f"{options.results} is the folder of a single run; a report is about a benchmark's results: give the "
            "folder that `gqn-rl benchmark --out` names, by default benchmarks/results"
        )
    if options.out.resolve().is_relative_to(options.results.resolve()):
        raise UserError(f"--out {options.out} lies in {options.results}, whose CSV files are read; choose another")
    report = analyse(*read_results(options.results, options.tasks))
    figures = draw_figures(options.out, report)
    for path in [*write_tables(options.out, report), *figures]:  # the page that shows them comes last
        print(path)
