"""record, pretrain and probe through the command line: the whole way, and one line for every mistake."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch

from gqn_rl.agents.interrupts import stopping_when
from gqn_rl.cli import main
from gqn_rl.encoder import GQNEncoder

MODEL = "model={image_size: 16, representation: {channels: 16, width: 16, heads: 2, token_channels: 16}, generator: {channels: 8, canvas_channels: 16, mixing_channels: 8}}"  # noqa: E501


#: Smaller blocks than the default's, so that few scenes make a batch.
BLOCK = ["--set", "block={rows: target, columns: arm, height: 2, width: 4, family: 2}"]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "data"
    arguments = ["record", "--scenes", "96", "--workers", "1", "--out", str(folder)]
    assert main([*arguments, "--set", "env_kwargs={image_size: 16}", "--set", "views=4", *BLOCK]) == 0
    return folder


@pytest.fixture(scope="module")
def encoder(recording: Path) -> Path:
    folder = recording.parent / "encoder"
    assert main(_pretrain(recording, folder)) == 0
    return folder


def _pretrain(recording: Path, out: Path, *more: str) -> list[str]:
    settings = [MODEL, "batch=16", "drawn=4", "explained=2", "held_out=16", "steps=3"]
    options = [word for setting in settings for word in ("--set", setting)]
    return ["pretrain", "--data", str(recording), "--out", str(out), "--wandb", "disabled", *options, *more]


def test_probe_writes_a_table_and_a_picture(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", str(encoder), "--scenes", "24", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "target" in printed
    assert "PSNR" in printed
    with (tmp_path / "probe.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["quantity"], row["views"]) for row in rows} >= {("hand", "1"), ("target", "3")}
    assert (tmp_path / "probe.png").read_bytes().startswith(b"\x89PNG")
    assert main(["probe", str(encoder), "--scenes", "24", "--outside", "15"]) == 0


def test_a_run_that_starts_from_an_encoder_begins_with_its_weights(
    recording: Path, encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "more"
    still = ["--from", str(encoder), "--set", "learning_rate=1e-12", "--set", "weight_decay=0"]
    assert main(_pretrain(recording, out, *still)) == 0
    before, after = (GQNEncoder.from_pretrained(folder) for folder in (encoder, out))
    assert after.card["pretraining"]["start_from"] == str(encoder)
    assert after.card["lineage"] == [{key: before.card[key] for key in ("data", "pretraining", "compute")}]
    assert "lineage" not in before.card
    for (name, old), new in zip(before.gqn.named_parameters(), after.gqn.parameters(), strict=True):
        torch.testing.assert_close(new, old, atol=1e-8, rtol=0, msg=name)


def test_a_run_goes_on_without_the_encoder_that_it_started_from(recording: Path, encoder: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(encoder, parent)
    whole, stopped = (_pretrain(recording, tmp_path / name, "--from", str(parent)) for name in ("whole", "stopped"))
    assert main(whole) == 0
    asked = iter([False, True])
    with stopping_when(lambda: next(asked)):
        assert main(stopped) == 130
    shutil.rmtree(parent)
    assert main(stopped) == 0
    one, other = (GQNEncoder.from_pretrained(tmp_path / name) for name in ("whole", "stopped"))
    assert one.fingerprint == other.fingerprint
    assert one.card["lineage"] == other.card["lineage"] != []


def test_mistakes_are_one_line_and_exit_code_2(
    recording: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    for arguments, words in [
        (["record", "--out", str(recording)], "holds another recording"),
        (["record", "--env", "CartPole-v1", "--out", out], "is no scene source"),
        (["record", "--env", "gqn_rl/ArmReech-v0", "--out", out], "ArmReach-v0"),
        (["record", "--out", out, "--set", "viewz=3"], "unknown key 'viewz' (did you mean 'views'?)"),
        (["record", "--out", out, "--set", "env_kwargs={image_size: 0}"], "image_size"),
        (["pretrain", "--data", str(tmp_path), "--out", out], "is not a recording"),
        (["pretrain", "--data", str(recording), "--out", out], "model.image_size is (64, 64)"),
        (_pretrain(recording, Path(out), "--device", "warp"), "device 'warp' cannot be used"),
        (_pretrain(recording, Path(out), "--device", "meta"), "device 'meta' is not supported; valid: cpu, cuda"),
        (_pretrain(recording, Path(out), "--set", "seed=9223372036854775808"), "'seed' is 9223372036854775808"),
        (_pretrain(recording, Path(out), "--set", "explained=3"), "drawn (4) must be a multiple of explained (3)"),
        (_pretrain(recording, encoder), "finished pretraining run"),
        (_pretrain(recording, Path(out), "--from", "no-such-encoder"), "no encoder 'no-such-encoder'"),
        (
            _pretrain(recording, Path(out), "--from", "arm-reach"),
            "cannot start from arm-reach: model.image_size is (16, 16) here and (64, 64) there, model.representation.",
        ),
        (["probe", "no-such-encoder"], "no encoder 'no-such-encoder'"),
        (["probe", str(encoder), "--seed", "0"], "must be at least 1"),
    ]:
        code = main(arguments)
        error = capsys.readouterr().err
        assert code == 2, arguments
        assert words in error, arguments
        assert "Traceback" not in error
    assert not (tmp_path / "out").exists()  # nothing was begun
