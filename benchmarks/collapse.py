"""Does pretraining collapse? Each recipe on its recording, from several seeds, for the same short processor time.

    python benchmarks/collapse.py arm_reach=data/arm-reach rooms=data/rooms --out benchmarks/collapse.csv

A recipe is a name under ``configs/pretrain``. A scene vector that has collapsed says nothing of the scene: under 1 % of
the variance of vectors of single views is the scene's (``scene_share``), and the image drawn from it is the mean image
(``prior_mse_relative`` near 1). Rows that the CSV has already are skipped: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from ablation import measure, read, write

from gqn_rl.config import UserError
from gqn_rl.data import SceneDataset

RECIPES = Path("configs/pretrain")


def named(text: str) -> tuple[str, Path]:
    """``recipe=folder``; raises ArgumentTypeError for other texts and unknown recipes."""
    recipe, _, folder = text.partition("=")
    valid = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if not folder or recipe not in valid:
        raise argparse.ArgumentTypeError(f"must be RECIPE=FOLDER, with one of {', '.join(valid)}; got {text!r}")
    return recipe, Path(folder)


def main() -> None:
    """Train what is missing, write the CSV after each run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", type=named, metavar="RECIPE=FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="CSV, added to")
    parser.add_argument("--minutes", type=float, default=2.0, help="of processor time for each run (default 2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default 0 1 2)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        datasets = {recipe: SceneDataset(folder) for recipe, folder in options.recordings}
    except UserError as error:
        parser.error(str(error))
    rows = read(options.out)
    done = {(row["recipe"], float(row["minutes"]), int(row["seed"])) for row in rows}
    for recipe, dataset in datasets.items():
        for seed in options.seeds:
            if (recipe, options.minutes, seed) in done:
                continue
            steps, judged = measure(RECIPES / f"{recipe}.yaml", {"seed": seed}, dataset, 60 * options.minutes)
            rows.append(
                {
                    "recipe": recipe,
                    "minutes": options.minutes,
                    "seed": seed,
                    "steps": steps,
                    "scene_share": round(judged.scene_share, 3),
                    "prior_mse_relative": round(judged.prior_mse / judged.mean_image_mse, 3),
                    "collapsed": judged.collapsed,
                }
            )
            write(options.out, rows)
            print(rows[-1], flush=True)
    print("| recipe | seed | steps | scene's share of the vector | novel-view MSE | collapsed |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        share, error = float(row["scene_share"]), float(row["prior_mse_relative"])
        print(f"| {row['recipe']} | {row['seed']} | {row['steps']} | {share:.0%} | {error:.0%} | {row['collapsed']} |")


if __name__ == "__main__":
    main()
