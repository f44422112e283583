"""A pretraining run on disk: logs, checkpoints, pictures, resume, and the encoder at its end.

The folder::

    config.yaml          the resolved configuration
    versions.json        the code and the packages that it was begun with
    metrics.csv          a row every LOG_EVERY steps
    evaluations.csv      a row every ``evaluate_every`` steps, on held-out scenes
    gallery.png          held-out scenes, with a label to each column: context views | truth | prior mean | a sample
    checkpoint.pt        what a resumed run needs
    encoder.safetensors, encoder.json   the frozen encoder and its card; written last, they mark the run as finished
"""

from __future__ import annotations

import csv
import math
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tqdm import tqdm

from gqn_rl import __version__
from gqn_rl.config import UserError
from gqn_rl.encoder import GQNEncoder
from gqn_rl.files import atomic_path, locked, read_json, strangers, write_json, write_text
from gqn_rl.pictures import grid, save_png, to_uint8
from gqn_rl.pretraining import Evaluation, PretrainConfig, Pretraining, Step, choose_precision
from gqn_rl.types import Views
from gqn_rl.versions import changed, versions

#: Steps between rows of metrics.csv.
LOG_EVERY: Final = 25
#: Training scenes, with two views each, whose principal components the encoder puts out.
COMPONENTS_OF: Final = 2_048
VERSIONS: Final = "versions.json"

Log = Callable[[int, Mapping[str, float]], None]


def claim(folder: Path, config: PretrainConfig) -> None:
    """Raise :class:`UserError` unless ``folder`` is free for the run ``config``, or holds just this run, unfinished."""
    if (folder / "encoder.json").exists():
        raise UserError(f"{folder} holds a finished pretraining run; choose another --out, or `probe {folder}` it")
    begun = folder / "config.yaml"
    if begun.exists():
        try:  # read as a configuration: keys that came later have their defaults
            there, mine = PretrainConfig.from_yaml(begun).to_dict(), config.to_dict()
        except UserError as error:
            raise UserError(f"{folder} holds a run with other settings; choose another --out ({error})") from None
        different = sorted(key for key in mine if mine[key] != there[key])
        if different:
            raise UserError(f"{folder} holds a run with other settings ({', '.join(different)}); choose another --out")
    elif others := strangers(folder, ("wandb", "wandb_id.json", VERSIONS)):
        raise UserError(f"{folder} is not empty and holds no run (it has {others[0]}); choose another --out")


def run(
    pretraining: Pretraining,
    folder: Path,
    tracking: Callable[[], AbstractContextManager[Log]] = lambda: nullcontext(lambda step, values: None),
    stop: Callable[[], bool] = lambda: False,
) -> GQNEncoder:
    """Train to the end, from the folder's checkpoint if it has one, and write the encoder.

    Args:
        pretraining: a run that has not begun.
        folder: of the run.
        tracking: entered once the folder is this process's, gives what is called with a step and scalars.
        stop: asked after every step; when true, a checkpoint is written and ``KeyboardInterrupt`` raised.

    Raises:
        UserError: the folder holds a finished run, one with other settings, or something else; or another process
            is at work there.
        KeyboardInterrupt: ``stop`` said so; the same call goes on.
    """
    with locked(folder):
        claim(folder, pretraining.config)
        with tracking() as log:
            return _run(pretraining, folder, log, stop)


def follow(pretraining: Pretraining, folder: Path, stop: Callable[[], bool] = lambda: False) -> None:
    """What processes that do not lead do while the leader calls :func:`run`: train along, and write nothing.

    Raises:
        UserError: they do not begin at the same step of the same recording.
        KeyboardInterrupt: ``stop`` said so, here or in another process.
    """
    _load(pretraining, folder)
    for step in pretraining.steps():
        if pretraining.world.any(stop()) and step.number < pretraining.config.steps:
            raise KeyboardInterrupt(f"interrupted at step {step.number}; run the same command to go on")


def _run(pretraining: Pretraining, folder: Path, log: Log, stop: Callable[[], bool]) -> GQNEncoder:
    checkpoint = folder / "checkpoint.pt"
    resumes = _load(pretraining, folder)
    precision = choose_precision(pretraining.config.precision, pretraining.device)
    circumstances = {**versions(), "device": str(pretraining.device), "precision": precision}
    if not (resumes and (folder / VERSIONS).exists()):  # earlier releases did not write it
        write_json(folder / VERSIONS, circumstances)
    write_text(folder / "config.yaml", pretraining.config.to_yaml())
    metrics = _Table(folder / "metrics.csv", pretraining.step)
    evaluations = _Table(folder / "evaluations.csv", pretraining.step)
    config = pretraining.config
    began = time.monotonic() - metrics.last("wall_s")
    with tqdm(total=config.steps, initial=pretraining.step, unit="step", smoothing=0.05, disable=None) as bar:
        bar.write(f"pretraining in {folder}: {config.steps} steps of {config.batch} scenes")
        if differences := changed(read_json(folder / VERSIONS), circumstances):
            bar.write(f"note: {', '.join(differences)} since this run began; it will not repeat exactly")
        for step in pretraining.steps():
            bar.update(1)
            last = step.number == config.steps
            if step.number % LOG_EVERY == 0 or last:
                row = _training_row(step)
                bar.set_postfix_str(_postfix(row, bar, config.batch))
                metrics.append({"step": step.number, "wall_s": time.monotonic() - began, **row})
                log(step.number, row)
            if step.number % config.evaluate_every == 0 or last:
                evaluation = _evaluate(pretraining, folder)
                evaluations.append({"step": step.number, "wall_s": time.monotonic() - began, **evaluation.scalars()})
                log(step.number, {f"held_out/{name}": value for name, value in evaluation.scalars().items()})
                bar.write(_line(evaluation, drawn=step.number > config.draws_from))
            stopping = pretraining.world.any(stop())
            if step.number % config.checkpoint_every == 0 or last or stopping:
                metrics.flush()
                evaluations.flush()
                pretraining.save(checkpoint)
            if stopping and not last:
                raise KeyboardInterrupt(f"interrupted at step {step.number}; run the same command to go on")
    return _finish(pretraining, folder, metrics.last("wall_s"), evaluations.rows[-1])


def _load(pretraining: Pretraining, folder: Path) -> bool:
    """Go to the folder's checkpoint, if there is one; returns whether there is. All processes are to see the same."""
    checkpoint = folder / "checkpoint.pt"
    resumes = checkpoint.exists()
    if resumes:
        pretraining.load(checkpoint)
    else:
        pretraining.begin()
    recording = int(pretraining.dataset.manifest.sha256[:15], 16)
    if not pretraining.world.agrees(pretraining.step, recording):
        raise UserError(
            f"the processes see different folders: --out {folder} and --data must be shared by all machines"
        )
    return resumes


def _evaluate(pretraining: Pretraining, folder: Path) -> Evaluation:
    evaluation = pretraining.evaluate()
    rows = [[to_uint8(image) for image in row] for row in pretraining.gallery()]
    context = [f"view {i + 1}" for i in range(len(rows[0]) - 3)]
    save_png(folder / "gallery.png", grid(rows, labels=(*context, "truth", "prior mean", "sample")))
    return evaluation


def _finish(pretraining: Pretraining, folder: Path, wall_s: float, judged: Mapping[str, Any]) -> GQNEncoder:
    dataset, model = pretraining.dataset, pretraining.model
    last = len(dataset) - pretraining.config.held_out - 1
    chosen = np.linspace(0, last, min(COMPONENTS_OF, last + 1)).astype(np.int64)
    views = Views(torch.tensor(dataset.images[chosen, :2]), torch.tensor(dataset.poses[chosen, :2]))
    model.eval()
    scenes, per_scene, *_ = dataset.manifest.shape
    numbers = {name: float(value) for name, value in judged.items()}
    card: dict[str, Any] = {
        "description": f"GQN scene encoder pretrained without labels on {dataset.manifest.config['env']}",
        "gqn_rl": __version__,
        "camera": dataset.camera,
        "data": {**dataset.manifest.config, "frames": scenes * per_scene, "sha256": dataset.manifest.sha256},
        "pretraining": pretraining.config.to_dict(),
        **({"lineage": pretraining.lineage} if pretraining.lineage else {}),
        "compute": {
            "wall_minutes": round(wall_s / 60, 1),
            "device": str(pretraining.device),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
        },
        # What cannot be told, such as a probe of what is the same in all scenes, is left out.
        "held_out": {k: round(v, 5) for k, v in numbers.items() if k not in ("step", "wall_s") and math.isfinite(v)},
    }
    encoder = GQNEncoder.from_gqn(model, views, card)
    encoder.save_pretrained(folder / "encoder")
    return encoder


def _training_row(step: Step) -> dict[str, float]:
    numbers = {name: float(value) for name, value in step.losses._asdict().items()}
    return {**numbers, "learning_rate": step.learning_rate, "sigma": step.sigma, "gradient_norm": step.gradient_norm}


def _postfix(row: Mapping[str, float], bar: Any, batch: int) -> str:
    rate = bar.format_dict["rate"] or 0.0
    accuracy = row["contrast_accuracy"] if math.isnan(row["geometry_accuracy"]) else row["geometry_accuracy"]
    drawing = "" if math.isnan(row["prior_mse"]) else f", prior MSE {row['prior_mse']:.4f}"
    return f"{rate * batch:.0f} scenes/s, contrast {accuracy:.2f}{drawing}"


def _line(evaluation: Evaluation, drawn: bool) -> str:
    probes = ", ".join(
        f"{name.removesuffix('_r2')} R2 {value:.2f} ({evaluation.probes[name.removesuffix('_r2') + '_cm']:.1f} cm)"
        if math.isfinite(value)
        else f"{name.removesuffix('_r2')} does not vary"
        for name, value in evaluation.probes.items()
        if name.endswith("_r2")
    )
    warning = " — THE SCENE VECTOR HAS COLLAPSED (see docs/pretraining.md)" if evaluation.collapsed else ""
    drawing = (
        f"prior MSE {evaluation.prior_mse / evaluation.mean_image_mse:.0%} of the mean image's, "
        f"posterior {evaluation.posterior_mse / evaluation.mean_image_mse:.0%}, KL {evaluation.kl:.1f} nats, "
        f"ELBO {-evaluation.negative_elbo:.0f}"
    )
    return (
        f"step {evaluation.step}: {drawing if drawn else 'nothing is drawn yet'}, "
        f"scene std {evaluation.scene_std:.3f} (share {evaluation.scene_share:.2f}), "
        f"{probes}{warning}"
    )


class _Table:
    """A CSV of rows by step. Rows beyond the checkpoint that a run resumes from are cut."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is on disk after :meth:`flush`."""
        self.rows.append(dict(row))

    def last(self, column: str) -> float:
        """The last row's number in ``column``; 0 for an empty table."""
        return float(self.rows[-1][column]) if self.rows else 0.0

    def flush(self) -> None:
        """Write all rows atomically."""
        if not self.rows:
            return
        with atomic_path(self._path) as temporary, temporary.open("w", newline="") as file:
            # Rows of an earlier release may lack a column that this one has, or have one more.
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in self.rows for name in row)))
            writer.writeheader()
            writer.writerows(self.rows)
