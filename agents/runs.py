"""The rules of a run's folder: what lies where, who may write, what resumes and what is refused."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from gqn_rl.config import Config, UserError, flatten
from gqn_rl.files import disk_errors, is_leftover, read_json, strangers, write_json, write_text
from gqn_rl.versions import changed, versions

#: Keys of the configuration that may change while a run is unfinished: they do not touch its result.
FREE_KEYS: Final = ("wandb",)


@dataclass(frozen=True)
class Row:
    """One evaluation: a line of ``evaluations.csv``."""

    task: str
    arm: str
    seed: int
    step: int  #: environment steps taken in training, all environments together
    score: float  #: mean undiscounted return over the evaluation's episodes
    success: float  #: share of episodes whose last step was a success; nan if the environment does not say
    wall_s: float  #: seconds of training so far, evaluations included, stops not
    length: float  #: mean steps of an episode


class RunFolder:
    """The files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.versions = self.path / "versions.json"
        self.encoder = self.path / "encoder.json"
        self.evaluations = self.path / "evaluations.csv"
        self.random_policy = self.path / "random_policy.json"
        self.checkpoints = self.path / "checkpoint"
        self.best_model = self.path / "best_model.zip"
        self.final_model = self.path / "final_model.zip"
        self.learning_curve = self.path / "learning_curve.png"
        #: Written last: its presence says that the run is finished.
        self.summary = self.path / "summary.json"

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self.summary.exists()

    def refuse_finished(self) -> None:
        """Raise :class:`UserError` when the run is complete."""
        if self.finished:
            raise UserError(
                f"{self.path} holds a finished run, which is never overwritten: "
                f"replay it with 'evaluate {self.path}', or train with another --out or --seed"
            )

    def claim(self, config: Config, encoder_hash: str | None) -> bool:
        """Make sure that this run may go on, or begin, here; to be called under the lock.

        Returns whether it had begun. Raises :class:`UserError` when it is finished, when it was begun with another
        configuration or encoder, and when something else is in the folder.
        """
        self.refuse_finished()
        for path in self.path.iterdir():
            if is_leftover(path):
                path.unlink()
        if self.config.exists():
            self.check_same(config, encoder_hash)
            return True
        if others := strangers(self.path, (self.encoder.name, self.versions.name)):
            raise UserError(f"{self.path} is not empty and holds no run (it has {others[0]}); use another --out")
        return False

    def check_same(self, config: Config, encoder_hash: str | None) -> None:
        """Raise :class:`UserError` unless the run was begun with this configuration and encoder."""
        try:  # read as a configuration: keys that came later have their defaults
            old = type(config).from_yaml(self.config)
        except UserError as error:
            raise UserError(
                f"{self.path} holds a run with another configuration; use another --out ({error})"
            ) from None
        check_same_config(self.path, old.to_dict(), config.to_dict())
        self.check_encoder(encoder_hash)

    def begin(self, config: Config, encoder: str | None, encoder_hash: str | None) -> None:
        """Write what the run is about to be done with."""
        write_json(self.encoder, {"encoder": encoder, "encoder_hash": encoder_hash})
        write_json(self.versions, {**versions(), "encoder_hash": encoder_hash})
        write_text(self.config, config.to_yaml())  # last: it marks the run as begun

    def go_on(self, step: int) -> list[str]:
        """Record with which versions the run goes on from ``step``; returns what of them is not as it was before."""
        now = versions()
        known = read_json(self.versions)
        resumed = [later for later in known.pop("resumed", []) if later["step"] < step]  # of others nothing is left
        differences = changed(resumed[-1] if resumed else known, now) if step else []
        if differences:
            resumed.append({"step": step, **now})
        begun = known if step else {**known, **now}
        write_json(self.versions, {**begun, "resumed": resumed} if resumed else begun)
        return differences

    def check_encoder(self, encoder_hash: str | None) -> None:
        """Raise :class:`UserError` unless ``encoder_hash`` is that of the encoder which this run was trained with."""
        trained_with = read_json(self.encoder)
        if not isinstance(trained_with, dict) or not {"encoder", "encoder_hash"} <= set(trained_with):
            raise UserError(f"{self.encoder} is damaged: it does not say which encoder the run was trained with")
        if trained_with["encoder_hash"] != encoder_hash:
            raise UserError(
                f"{self.path} was trained with encoder {trained_with['encoder']} ({trained_with['encoder_hash']}), "
                f"which is not the one given ({encoder_hash}); its policy would see meaningless numbers"
            )

    def rows(self) -> list[Row]:
        """The evaluations so far, in order; a line that a kill left half written does not count."""
        if not self.evaluations.exists():
            return []
        whole = [line for line in self.evaluations.read_text().splitlines(keepends=True) if line.endswith("\n")]
        try:
            return [
                Row(
                    task=line["task"],
                    arm=line["arm"],
                    seed=int(line["seed"]),
                    step=int(line["step"]),
                    score=float(line["score"]),
                    success=float(line["success"]),
                    wall_s=float(line["wall_s"]),
                    length=float(line["length"]),
                )
                for line in csv.DictReader(whole)
            ]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{self.evaluations} is damaged; restore it, or train into another --out") from None

    def cut_rows(self, step: int) -> list[Row]:
        """Drop the evaluations after ``step``, which a resumed run makes again; returns those that stay."""
        kept = [row for row in self.rows() if row.step <= step]
        write_text(self.evaluations, _csv([row.name for row in fields(Row)], *(asdict(row).values() for row in kept)))
        return kept

    def append_row(self, row: Row) -> None:
        """Add one evaluation; it is on disk when this returns."""
        with disk_errors(str(self.evaluations)), open(self.evaluations, "a", newline="") as file:
            file.write(_csv(asdict(row).values()))
            file.flush()
            os.fsync(file.fileno())


def check_same_config(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` naming every key in which two configurations differ, and both values.

    Those in ``FREE_KEYS`` may.
    """
    before, after = flatten(old), flatten(new)
    differences = [
        f"{key} was {before.get(key)!r} and is now {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in FREE_KEYS
    ]
    if differences:
        raise UserError(f"{path} holds a run with another configuration: {'; '.join(differences)}; use another --out")


def _csv(*lines: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
