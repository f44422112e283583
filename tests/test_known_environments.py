"""The short round of a known environment, at toy size: everything is made, read off, and not made twice."""

from __future__ import annotations

import contextlib
import csv
import importlib
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

from gqn_rl.cli import main as cli
from gqn_rl.files import read_json

REACHER = "Reacher-v5"
TOY = (
    "view.image_size=16",
    "record.env_kwargs.image_size=16",
    "pretrain.batch=8",
    "pretrain.drawn=4",
    "pretrain.explained=2",
    "pretrain.held_out=8",
    "pretrain.model.representation={channels: 16, width: 16, heads: 2, token_channels: 16}",
    "pretrain.model.generator={channels: 8, canvas_channels: 16, mixing_channels: 8}",
    "train.env.kwargs.render_size=16",
    "train.algorithm.kwargs.learning_starts=50",
)
SIZES = ("--scenes", "24", "--steps", "2", "--train-steps", "52", "--episodes", "1", "--threads", "1")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # and put back what the benchmark makes of it
    return importlib.import_module("known_environments")


def here(words: list[str], log: Path) -> int:
    """Run a command in this process, which has imported all that it needs."""
    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        return cli(words)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_environment_goes_all_the_way(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    other = dict.fromkeys(benchmark.COLUMNS, "") | {"environment": "FetchReach-v4", "scenes": "7"}
    benchmark.write(table, [other])
    sets = [word for setting in TOY for word in ("--set", setting)]
    arguments = ["--only", REACHER, "--out", str(tmp_path), "--csv", str(table), *SIZES, *sets]
    typed = []

    def killed_in_training(words: list[str], log: Path) -> int:
        typed.append(words[0])
        return -9 if words[0] == "train" else here(words, log)

    benchmark.main(arguments, killed_in_training)
    assert typed == ["view", "record", "pretrain", "train"]  # without a policy there is nothing to evaluate
    row, kept = read(table)  # in the order of the environments, whatever that of the file was
    assert kept == other
    worthless = "pretrain: held-out novel views are no better than the mean image"
    assert row["failure"] == f"{worthless}; train: ended by SIGKILL"
    assert row["score"] == ""

    folder = tmp_path / REACHER
    assert (folder / "sheet.png").read_bytes().startswith(b"\x89PNG")
    judged = read_json(folder / "encoder" / "encoder.json")["held_out"]
    assert float(row["prior_mse_relative"]) == judged["prior_mse_relative"] > 1  # two steps teach nothing
    assert row["checked"].split() == ["views", "pixels", "state", "oracle"]
    assert (row["scenes"], row["pretraining_steps"]) == ("24", "2")
    assert row["probes_cm"] == f"hand {judged['hand_cm']:.1f}, target {judged['target_cm']:.1f}"

    def going_on(words: list[str], log: Path) -> int:
        typed.append(words[0])
        return here(words, log)

    benchmark.main(arguments, going_on)
    assert typed[4:] == ["train", "evaluate"]
    row, kept = read(table)
    assert (row["failure"], row["training_steps"], row["episodes"]) == (worthless, "52", "1")
    # The policy that was loaded does what the one in training did, in the same held-out episode.
    trained = read_json(folder / "policy" / "summary.json")["policy"]
    assert float(row["score"]) == pytest.approx(trained["score"], abs=1e-3)
    assert (row["success"], row["random_success"]) == ("", "")  # a Reacher does not say what success is
    capsys.readouterr()

    benchmark.main(arguments, going_on)
    assert len(typed) == 6
    assert read(table) == [row, kept]
    assert f"| `{REACHER}` | 4 modes | 24 | 2 | " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        benchmark.main([*arguments, "--steps", "3"], going_on)
    assert "steps was 2 and is now 3" in capsys.readouterr().err


def test_what_fails_is_named_and_the_others_go_on(benchmark: ModuleType, tmp_path: Path) -> None:
    table, ids = tmp_path / "table.csv", ("CartPole-v1", "no/such-v0")
    benchmark.main(["--out", str(tmp_path), "--csv", str(table), *SIZES, "--only", *ids], here)
    without_model, unknown = read(table)
    assert without_model["failure"].startswith("check: RuntimeError: obs_mode views: ValueError: CartPoleEnv has no ")
    assert "; view: env 'CartPole-v1' is no scene source" in without_model["failure"]
    assert "; record: env 'CartPole-v1' is no scene source" in without_model["failure"]
    assert "; record: unknown environment id 'no/such-v0'" in unknown["failure"]
    assert unknown["checked"] == unknown["scenes"] == unknown["score"] == ""


def test_a_command_runs_as_a_user_types_it(benchmark: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert benchmark.type_command(["doctor", "--seconds", "0"], log) == 2
    assert benchmark.cause(log).startswith("argument --seconds: must be a number above 0")
