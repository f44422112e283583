"""Weights & Biases: the same numbers as in the run's CSV, offline unless asked otherwise."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from stable_baselines3.common.logger import KVWriter, Logger

from gqn_rl.config import UserError
from gqn_rl.files import read_json, write_json

TrackingMode = Literal["offline", "online", "disabled"]

#: The x axis of every plot.
STEP = "step"


class Tracker:
    """One run in Weights & Biases, or nothing at all in mode ``disabled``.

    A resumed run carries on under the same id. Files go to ``wandb/`` in the run's folder. What goes wrong once the
    run has begun ends its tracking, with a note by ``say``, and never its training.

    Raises:
        UserError: it could not begin; the message says why.
    """

    def __init__(
        self,
        mode: TrackingMode,
        folder: Path,
        name: str,
        config: Mapping[str, Any],
        say: Callable[[str], None] = print,
    ) -> None:
        self._run: Any = None
        self._say = say
        if mode == "disabled":
            return
        # Inherited, it names the service of a parent process, which may hold this run for a child that was killed.
        os.environ.pop("WANDB_SERVICE", None)
        import wandb

        identity = folder / "wandb_id.json"
        if not identity.exists():
            write_json(identity, {"id": uuid.uuid4().hex[:12]})
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
        try:
            self._run = wandb.init(
                project="gqn-rl",
                name=name,
                id=read_json(identity)["id"],
                resume="allow" if mode == "online" else None,
                mode=mode,
                dir=folder,
                config=dict(config),
                settings=quiet,
            )
        except Exception as error:  # wandb raises many kinds
            hint = "log in with 'wandb login', or set wandb=offline" if mode == "online" else "set wandb=disabled"
            raise UserError(f"wandb: {mode} failed ({_reason(error)}); {hint}") from error
        self._run.define_metric("*", step_metric=STEP)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Record numbers at an environment step."""
        self._attempt(lambda run: run.log({STEP: step, **values}))

    def log_files(self, step: int, picture: Path, video: Path | None) -> None:
        """Record the learning curve and the video."""

        def log(run: Any) -> None:
            import wandb

            run.log({STEP: step, "learning_curve": wandb.Image(str(picture))})
            if video is not None:
                run.log({STEP: step, "episodes": wandb.Video(str(video))})

        self._attempt(log)

    def close(self) -> None:
        """Finish the run; what is offline stays on disk for ``wandb sync``."""
        self._attempt(lambda run: run.finish())
        self._run = None

    def _attempt(self, action: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._run = None
            self._say(f"note: Weights & Biases failed ({_reason(error)}); the run goes on without it")

    def logger(self) -> Logger:
        """A Stable-Baselines3 logger that records losses and the like here."""
        return Logger(folder=None, output_formats=[_Writer(self)])


def check_tracking(mode: TrackingMode) -> None:
    """Raise :class:`UserError` when ``mode`` needs a package that is not installed."""
    if mode != "disabled" and importlib.util.find_spec("wandb") is None:
        raise UserError(f"wandb: {mode} needs the package wandb: install it, or set wandb=disabled")


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


class _Writer(KVWriter):
    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self._tracker.log(step, {k: v for k, v in key_values.items() if isinstance(v, (int, float, np.number))})

    def close(self) -> None:
        pass
