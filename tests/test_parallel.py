"""Several processes that share a batch do what one would have done: real processes, talking through gloo."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from test_pretraining import CONFIG, data  # noqa: F401 - a fixture

from gqn_rl.config import UserError
from gqn_rl.data import SceneDataset
from gqn_rl.parallel import World, joined
from gqn_rl.pretrain_run import run
from gqn_rl.pretraining import PretrainConfig, Pretraining

#: What each process does with every folder: train to its end. Of the first, the one that does not lead asks to stop
#: after two steps, and all go on from the checkpoint. sys.argv: the recording, then folders with a settings.yaml.
WORKER = """
import sys
from pathlib import Path
import torch
from gqn_rl.data import SceneDataset
from gqn_rl.parallel import joined
from gqn_rl.pretrain_run import follow, run
from gqn_rl.pretraining import PretrainConfig, Pretraining

torch.set_num_threads(1)
recording, *folders = sys.argv[1:]
with joined("cpu") as (world, device):
    assert world.size == 2

    def train(folder, asked):
        config = PretrainConfig.from_yaml(folder / "settings.yaml")
        pretraining = Pretraining(config, SceneDataset(recording), device, world)
        stop = lambda: not world.leads and pretraining.step == asked
        if world.leads:
            run(pretraining, folder / "run", stop=stop)
        else:
            follow(pretraining, folder / "run", stop)

    try:
        train(Path(folders[0]), 2)
        raise AssertionError("nobody stopped")
    except KeyboardInterrupt as interrupt:
        assert str(interrupt).startswith("interrupted at step 2"), interrupt
    world.any(False)  # the checkpoint is there when all have passed
    for folder in folders:
        train(Path(folder), None)
"""
#: Added to all positions alike before a softmax, so without effect: their gradients are rounding noise, and as Adam
#: divides by a gradient's size, so are they.
WITHOUT_EFFECT = {"representation.keys.bias", "representation.tokens.scores.bias"}
#: The free features' bias is added to all scenes alike before the contrast's batch normalisation, and the generator,
#: whose last layer for the scene begins with zeros, hardly reads it in four steps. On a processor without AVX-512 it
#: differed by 1.1e-4, a thirtieth of what it may move.
ALLOWED = {"representation.free.bias": 2e-4}


def config_with(kind: Literal["points", "plan"], free: int) -> PretrainConfig:
    """All terms on: points, and with ``free`` features to compare, both contrasts. A plan is only drawn."""
    representation = CONFIG.model.representation.model_copy(update={"kind": kind, "channels": free})
    model = CONFIG.model.model_copy(update={"representation": representation})
    objective = CONFIG.objective.model_copy(update={"contrast": float(kind == "points" and free > 0)})
    changes = {"model": model, "objective": objective, "weight_decay": 0.0, "steps": 4, "evaluate_every": 4}
    return CONFIG.model_copy(update=changes)


def last_row(folder: Path) -> dict[str, float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return {name: float(value) for name, value in list(csv.DictReader(file))[-1].items()}


def test_two_processes_equal_one_with_the_same_batch(data: SceneDataset, tmp_path: Path) -> None:  # noqa: F811
    """Both contrasts see all scenes, the posterior's noise is shared out, gradients are averaged, checkpoints fit."""
    configs = [config_with("points", 0), config_with("points", 16), config_with("plan", 8)]
    folders = [tmp_path / str(number) for number in range(len(configs))]
    for config, folder in zip(configs, folders, strict=True):
        folder.mkdir()
        (folder / "settings.yaml").write_text(config.to_yaml())
    (tmp_path / "worker.py").write_text(WORKER)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, tmp_path / "worker.py", data.folder, *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for config, folder in zip(configs, folders, strict=True):
        run(Pretraining(config, data), folder / "alone")
        alone, together = (torch.load(folder / name / "checkpoint.pt", weights_only=True) for name in ("alone", "run"))
        assert alone["step"] == together["step"] == 4
        for part in ("model", "objective"):
            for name, tensor in alone[part].items():
                if name not in WITHOUT_EFFECT:
                    atol = ALLOWED.get(name, 2e-5)
                    torch.testing.assert_close(
                        together[part][name], tensor, rtol=1e-3, atol=atol, msg=lambda text, n=name: f"{n}: {text}"
                    )
        one, two = last_row(folder / "alone"), last_row(folder / "run")
        # What the leader logs of its own part differs; what is of the whole batch does not.
        for name in ("geometry", "geometry_accuracy", "contrast", "contrast_accuracy", "gradient_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-3, nan_ok=True), name


#: Each process has a folder of its own; only the one that leads has a checkpoint in it. sys.argv: recording, folder.
APART = """
import sys
import time
from pathlib import Path
from gqn_rl.config import UserError
from gqn_rl.data import SceneDataset
from gqn_rl.parallel import joined
from gqn_rl.pretrain_run import follow, run
from gqn_rl.pretraining import PretrainConfig, Pretraining

recording, folder = sys.argv[1], Path(sys.argv[2])
config = PretrainConfig.from_yaml(folder / "config.yaml")
with joined("cpu") as (world, device):
    pretraining = Pretraining(config, SceneDataset(recording), device, world)
    try:
        run(pretraining, folder) if world.leads else follow(pretraining, folder / "another machine's")
    except UserError as error:
        assert "must be shared by all machines" in str(error), error
    else:
        raise AssertionError("nobody noticed")

def threads():
    for thread in Path("/proc/self/task").glob("*"):  # there on Linux only
        try:
            yield (thread / "comm").read_text().strip()
        except OSError:  # it has just ended
            pass

# Those of the group's that outlive it abort the process at its end, now and then. Joined ones are listed a bit longer.
for _ in range(1000):
    left = [name for name in threads() if "gloo" in name]
    if not left:
        break
    time.sleep(0.01)
assert not left, left
"""


def test_machines_that_do_not_share_their_folders_are_found_out(data: SceneDataset, tmp_path: Path) -> None:  # noqa: F811
    config = config_with("points", 0)
    begun = Pretraining(config, data)
    with pytest.raises(KeyboardInterrupt):
        run(begun, tmp_path / "run", stop=lambda: begun.step == 2)
    (tmp_path / "worker.py").write_text(APART)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, tmp_path / "worker.py", data.folder, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "encoder.json").exists()


def test_shares_cover_everything_once() -> None:
    for size in (1, 2, 3):
        numbers = list(range(12))
        assert [n for rank in range(size) for n in numbers[World(rank, size).share(12)]] == numbers
    assert [World(rank, 3).leads for rank in range(3)] == [True, False, False]


def test_alone_nothing_is_exchanged() -> None:
    tensor = torch.randn(3, 2)
    world = World()
    before = tensor.clone()
    assert world.gather(tensor) is tensor
    world.average([tensor])
    assert torch.equal(tensor, before)
    assert world.any(True)
    assert not world.any(False)
    assert world.agrees(3, 2**60)


@pytest.mark.parametrize(("name", "processes"), [("batch", 5), ("drawn", 4), ("explained", 2)])
def test_a_batch_that_cannot_be_shared_is_refused(data: SceneDataset, name: str, processes: int) -> None:  # noqa: F811
    config = CONFIG.model_copy(update={"batch": 12, "drawn": 6, "explained": 3})
    with pytest.raises(UserError, match=rf"{name} is .* {processes} processes"):
        Pretraining(config, data, world=World(0, processes))


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE is '2' in the environment, but not RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            "but not LOCAL_RANK: start this with",
        ),
        (
            {"WORLD_SIZE": "two", **dict.fromkeys(("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"), "0")},
            "is 'two' in",
        ),
    ],
)
def test_a_world_that_torchrun_did_not_make_is_named(
    environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said), joined("cpu"):
        pass
