"""Environments that others wrote, each on the short way from its id to a policy that sees.

    pip install 'gqn-rl[robots]'
    python benchmarks/known_environments.py --threads 1

Each is checked (Gymnasium's checker and Stable-Baselines3's, in every observation mode of its camera rig), looked at (a
contact sheet), recorded, pretrained on for a short while, and trained on from scene vectors for a short while; the
policy that was saved is loaded and evaluated once. Everything but the checkers is a command that a user types.

What is finished is skipped, and what was stopped goes on: the same command goes on with the round. A step that fails
is named with the last line that it printed, and tried again the next time; those that need it are left out, and the
other environments go on. An environment's folder has all that was made, and of each step what it printed.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

import gymnasium as gym
from ablation import read, write

from gqn_rl import CAMERA_RIG
from gqn_rl.agents.runs import RunFolder, check_same_config
from gqn_rl.config import UserError
from gqn_rl.data import load_manifest
from gqn_rl.envs.doctor import ProbeError, probe
from gqn_rl.envs.rig import RigMode
from gqn_rl.files import read_json, write_json

ROOT: Final = Path(__file__).resolve().parent.parent
#: Two of gymnasium, two of gymnasium-robotics, two of dm_control through shimmy: a reacher, and an arm that reaches.
ENVIRONMENTS: Final = (
    "Reacher-v5",
    "Pusher-v5",
    "FetchReach-v4",
    "FetchPush-v4",
    "dm_control/reacher-easy-v0",
    "dm_control/reach_site_features-v0",
)
#: Steps of the round in their order, and what they cannot do without.
NEEDS: Final = {"check": "", "view": "", "record": "", "pretrain": "record", "train": "pretrain", "evaluate": "train"}
#: Commands that take ``--set``.
SETTABLE: Final = ("view", "record", "pretrain", "train")
#: Seconds that checking may take; a few are usual.
CHECK_TIMEOUT: Final = 600.0

#: Runs a command of gqn-rl, with what it prints in a file; returns its exit code.
Run = Callable[[list[str], Path], int]


@dataclass(frozen=True)
class Settings:
    """How long the round of an environment is."""

    scenes: int  #: that are recorded
    steps: int  #: of pretraining
    train_steps: int  #: of the environment
    episodes: int  #: of an evaluation
    overrides: list[str] = field(default_factory=list)  #: ``COMMAND.KEY=VALUE``, as for ``--set`` of that command


class Round:
    """The short way of one environment, in ``folder``.

    Raises :class:`UserError` when the folder holds one with other settings.
    """

    def __init__(self, env_id: str, folder: Path, settings: Settings, workers: int | None = None) -> None:
        self.env_id, self.folder, self.settings = env_id, folder, settings
        self._workers = workers
        self._run = RunFolder(folder / "policy")
        #: Of each step, processor minutes, those of all attempts, and, where the last attempt failed, why.
        self._notes: dict[str, dict[str, Any]] = {"minutes": {}, "failures": {}}
        before = folder / "settings.json"
        if before.exists():
            check_same_config(folder, read_json(before), asdict(settings))
            if (folder / "round.json").exists():
                self._notes = read_json(folder / "round.json")

    def go(self, run: Run) -> None:
        """Do what is not finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "settings.json", asdict(self.settings))
        for step, needed in NEEDS.items():
            if self.finished(step) or (needed and not self.finished(needed)):
                continue
            began = _children_seconds()
            failure: str | None = "interrupted"
            try:
                failure = self._check() if step == "check" else self._type(step, run)
            finally:
                minutes, failures = self._notes["minutes"], self._notes["failures"]
                minutes[step] = minutes.get(step, 0.0) + (_children_seconds() - began) / 60
                failures.pop(step, None)
                if failure is not None:
                    failures[step] = failure
                    print(f"{self.env_id}: {step} failed: {failure}", flush=True)
                write_json(self.folder / "round.json", self._notes)

    def finished(self, step: str) -> bool:
        """Whether ``step`` has been done."""
        if step == "record":
            recording = self.folder / "data"
            return (recording / "manifest.json").exists() and load_manifest(recording).complete
        proof = {
            "check": self.folder / "check.json",
            "view": self.folder / "sheet.png",
            "pretrain": self.folder / "encoder" / "encoder.json",
            "train": self._run.summary,
            "evaluate": self._run.path / "replay.json",
        }
        return proof[step].exists()

    def words(self, step: str) -> list[str]:
        """The command that does ``step``, without the program's name."""
        settings, data, encoder, policy = self.settings, *(str(self.folder / n) for n in ("data", "encoder", "policy"))
        words = {
            "view": ["view", self.env_id, "--out", str(self.folder / "sheet.png")],
            "record": ["record", "--env", self.env_id, "--scenes", str(settings.scenes), "--out", data],
            "pretrain": ["pretrain", "--data", data, "--out", encoder, "--steps", str(settings.steps)],
            "train": ["train", "--env", self.env_id, "--encoder", encoder, "--out", policy],
            "evaluate": ["evaluate", policy, "--episodes", str(settings.episodes)],
        }[step]
        if step == "record" and self._workers is not None:
            words += ["--workers", str(self._workers)]
        if step == "pretrain":
            words += ["--wandb", "disabled"]
        if step == "train":
            words += ["--steps", str(settings.train_steps)]
            words += ["--set", f"evaluation.episodes={settings.episodes}", "--set", "wandb=disabled"]
        for override in settings.overrides:
            command, _, setting = override.partition(".")
            if command == step:
                words += ["--set", setting]
        return words

    def row(self) -> dict[str, Any]:
        """The line of the table, with empty cells for what is not finished."""
        failures = dict(self._notes["failures"])
        line: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        line["environment"] = self.env_id
        if self.finished("check"):
            line["checked"] = " ".join(read_json(self.folder / "check.json")["modes"])
        if self.finished("record"):
            line["scenes"] = load_manifest(self.folder / "data").config["scenes"]
        if self.finished("pretrain"):
            card = read_json(self.folder / "encoder" / "encoder.json")
            judged = card["held_out"]
            line["pretraining_steps"] = card["pretraining"]["steps"]
            line["pretraining_minutes"] = round(self._notes["minutes"].get("pretrain", 0.0), 1)
            line["prior_mse_relative"] = judged["prior_mse_relative"]
            of_groups = ((name.removesuffix("_cm"), value) for name, value in judged.items() if name.endswith("_cm"))
            line["probes_cm"] = ", ".join(f"{name} {value:.1f}" for name, value in of_groups)
            if judged["prior_mse_relative"] >= 1:
                failures["pretrain"] = "held-out novel views are no better than the mean image"
        if self.finished("evaluate"):
            policy, chance = read_json(self._run.path / "replay.json"), read_json(self._run.random_policy)
            line["training_steps"] = read_json(self._run.summary)["steps"]
            line["training_minutes"] = round(self._notes["minutes"].get("train", 0.0), 1)
            line["episodes"] = policy["episodes"]
            for name in ("success", "score"):
                line[name] = _rounded(policy[name])
                line[f"random_{name}"] = _rounded(chance[name])
        line["failure"] = "; ".join(f"{step}: {failures[step]}" for step in NEEDS if step in failures)
        return line

    def _check(self) -> str | None:
        print(f"{self.env_id}: both checkers", flush=True)
        try:
            modes = probe("known_environments:check", self.env_id, timeout=CHECK_TIMEOUT)
        except ProbeError as error:
            return str(error)
        write_json(self.folder / "check.json", {"modes": modes})
        return None

    def _type(self, step: str, run: Run) -> str | None:
        words, log = self.words(step), self.folder / f"{step}.log"
        print(shlex.join(["python", "train.py", *words]), flush=True)
        code = run(words, log)
        if code == 0:
            return None
        return f"ended by {signal.Signals(-code).name}" if code < 0 else cause(log)


COLUMNS: Final = (
    *("environment", "checked", "scenes"),
    *("pretraining_steps", "pretraining_minutes", "prior_mse_relative", "probes_cm"),
    *("training_steps", "training_minutes", "episodes", "success", "random_success", "score", "random_score"),
    "failure",
)


def check(env_id: str) -> list[str]:
    """The observation modes of a camera rig around ``env_id``, once both checkers have found nothing in any of them.

    Raises:
        RuntimeError: one found something; the message says in which mode.
    """
    from gymnasium.utils.env_checker import check_env
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    modes = get_args(RigMode)
    for mode in modes:
        try:
            env = gym.make(CAMERA_RIG, env_id=env_id, obs_mode=mode, disable_env_checker=True)
            check_env(env.unwrapped, skip_render_check=True)
            sb3_check_env(env.unwrapped, warn=False)
            env.close()
        except Exception as error:  # checkers and environments raise what they like
            raise RuntimeError(f"obs_mode {mode}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    return list(modes)


def type_command(words: list[str], log: Path) -> int:
    """Run ``python train.py WORDS`` in a process of its own; a negative exit code is the signal that ended it."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C reaches it by the lines below alone: a second one would end it at once
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise


def cause(log: Path) -> str:
    """Why a command failed: the mistake that it names, or else the last line that it printed."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    named = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (named or lines or ["it printed nothing"])[-1]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for the documentation."""
    lines = [
        "| environment | checked | scenes | pretraining steps | minutes | novel-view MSE | probes, cm "
        "| training steps | policy (random actions) | failure |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        error = row["prior_mse_relative"]
        cells = [
            f"`{row['environment']}`",
            f"{len(str(row['checked']).split())} modes" if row["checked"] else "",
            *(row[name] for name in ("scenes", "pretraining_steps", "pretraining_minutes")),
            "" if error == "" else f"{float(error):.0%}",
            *(row[name] for name in ("probes_cm", "training_steps")),
            _outcome(row),
            str(row["failure"]).replace("|", "\\|"),
        ]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def _outcome(row: dict[str, Any]) -> str:
    """Success where the environment says what that is, and the mean return; random actions' in brackets."""
    if row["score"] == "":
        return ""
    outcome = f"return {float(row['score']):.2f} ({float(row['random_score']):.2f})"
    if row["success"] == "":
        return outcome
    return f"{float(row['success']):.0%} ({float(row['random_success']):.0%}), {outcome}"


def _place(row: dict[str, Any]) -> int:
    env_id = row["environment"]
    return ENVIRONMENTS.index(env_id) if env_id in ENVIRONMENTS else len(ENVIRONMENTS)


def _rounded(number: float | None) -> float | str:
    return "" if number is None else round(number, 4)


def _children_seconds() -> float:
    """Processor seconds of all processes that this one has waited for."""
    times = os.times()
    return times.children_user + times.children_system


def _override(text: str) -> str:
    if not re.fullmatch(rf"({'|'.join(SETTABLE)})\.[^=]+=.*", text, re.DOTALL):
        raise argparse.ArgumentTypeError(
            f"must be COMMAND.KEY=VALUE, COMMAND one of {', '.join(SETTABLE)}; got {text!r}"
        )
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None, run: Run = type_command) -> None:
    """Go through the environments, write the CSV after each, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/known"), help="a folder for each (default: runs/known)")
    parser.add_argument(
        "--csv", type=Path, default=Path(__file__).with_suffix(".csv"), help="rows of others in it are kept"
    )
    parser.add_argument("--only", nargs="+", metavar="ID", default=ENVIRONMENTS, help="these (default: all six)")
    parser.add_argument("--scenes", type=_positive, default=2048, help="to record (default: 2048)")
    parser.add_argument("--steps", type=_positive, default=200, help="of pretraining (default: 200)")
    parser.add_argument("--train-steps", type=_positive, default=1000, help="of the environment (default: 1000)")
    parser.add_argument("--episodes", type=_positive, default=10, help="of an evaluation (default: 10)")
    parser.add_argument("--threads", type=_positive, help="of each command, and processes that record (default: all)")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        type=_override,
        metavar="COMMAND.KEY=VALUE",
        help="--set KEY=VALUE of a command, such as pretrain.batch=16; may be repeated",
    )
    options = parser.parse_args(arguments)
    if options.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # every command is a process that inherits it
    settings = Settings(options.scenes, options.steps, options.train_steps, options.episodes, options.overrides)
    try:
        rounds = [
            Round(env_id, options.out / re.sub(r"[^\w.-]+", "-", env_id), settings, options.threads)
            for env_id in options.only
        ]
    except UserError as error:
        parser.error(str(error))
    rows = {row["environment"]: row for row in read(options.csv)}
    for each in rounds:
        each.go(run)
        rows[each.env_id] = each.row()
        write(options.csv, sorted(rows.values(), key=_place))
    print(markdown([rows[each.env_id] for each in rounds]))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as Ctrl-C does
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
