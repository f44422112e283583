"""Encoders and algorithms of a user's own, as docs/own_encoder.md describes them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, TOY_ID, ToyEncoder, toy_values
from torch import Tensor

from examples.own_encoder import FrozenCNN
from gqn_rl.agents.build import make_vec_env, resolve_algorithm, see_with
from gqn_rl.agents.training import TrainConfig, train
from gqn_rl.agents.vec_scene import encoder_hash
from gqn_rl.config import UserError
from gqn_rl.encoder import load_encoder

GUIDE = (ROOT / "docs" / "own_encoder.md").read_text()


def views(scenes: int, count: int, side: int = 32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(0, 256, (scenes, count, side, side, 3), dtype=torch.uint8), torch.randn(scenes, count, 5)


def test_example_has_the_same_weights_every_time_and_leaves_random_numbers_alone() -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    first = load_encoder("examples.own_encoder:FrozenCNN")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(8)
    assert encoder_hash(first) == encoder_hash(FrozenCNN())


@pytest.mark.parametrize("count", [1, 3])
def test_example_sees_each_scene_for_itself_and_views_in_any_order(count: int) -> None:
    encoder = FrozenCNN()
    images, poses = views(2, count)
    together = encoder.encode(images, poses)
    assert together.shape == (2, encoder.size)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together[:1], encoder.encode(images[:1], poses[:1]))
    torch.testing.assert_close(together, encoder.encode(images.flip(1), poses.flip(1)))


def test_example_knows_which_of_two_cameras_saw_what() -> None:
    images, poses = views(1, 2)
    poses[0, :, 3] = torch.tensor([0.0, 2.0])
    encoder = FrozenCNN()
    swapped = encoder.encode(images.flip(1), poses)
    assert not torch.allclose(encoder.encode(images, poses), swapped, atol=1e-3)


class NoSize(ToyEncoder):
    """Whose size is no length."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0


class Wrong(ToyEncoder):
    """Whose vectors are longer than it says."""

    def encode(self, images: Tensor, poses: Tensor) -> Tensor:
        return super().encode(images, poses).repeat(1, 2)


class Numpy(ToyEncoder):
    """Which returns no tensor."""

    def encode(self, images: Tensor, poses: Tensor) -> Tensor:
        return np.zeros((len(images), self.size))  # type: ignore[return-value]


class Picky(ToyEncoder):
    """Which takes none but large pictures."""

    def encode(self, images: Tensor, poses: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(images[:, 0].float(), torch.ones(1, 9, 1, 1))


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (":FrozenCNN", "cannot be imported: Empty module name; it is named module:Class"),
        ("examples.own_encoder:Frozen", "has no attribute 'Frozen'"),
        ("test_own_encoder:NoSize", "size is the length of its vector, a positive integer; got 0"),
        ("test_own_encoder:views", "cannot be made: TypeError"),
    ],
)
def test_what_is_no_encoder_is_refused(spec: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load_encoder(spec)


@pytest.mark.parametrize(
    ("encoder", "complaint"),
    [
        (Wrong(), r"encoder Wrong fails on images \(1, 2, 8, 8, 3\) and poses \(1, 2, 5\): .* must be \(1, 6\)"),
        (Numpy(), "encoder Numpy fails on .*AttributeError.*'float'"),
        (Picky(), "encoder Picky fails on .*RuntimeError"),
    ],
)
def test_an_encoder_that_cannot_encode_is_refused_before_any_step(encoder: ToyEncoder, complaint: str) -> None:
    venv = make_vec_env(TOY_ID, {}, 1, 0)
    with pytest.raises(UserError, match=complaint):
        see_with(encoder, venv)
    venv.close()


def test_a_run_with_an_encoder_and_an_algorithm_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    values = toy_values(
        algorithm__id="sb3_contrib:TQC",
        encoder="examples.own_encoder:FrozenCNN",
        total_steps=60,
        evaluation={"every": 60, "episodes": 1},
    )
    config = TrainConfig.from_mapping(values)
    assert config.encoder is not None
    summary = train(tmp_path / "run", config, load_encoder(config.encoder))
    assert summary["steps"] == 60
    assert summary["encoder_hash"] == encoder_hash(FrozenCNN())
    saved = resolve_algorithm("sb3_contrib:TQC").load(tmp_path / "run" / "final_model.zip")
    assert type(saved).__name__ == "TQC"
    assert saved.observation_space.shape == (FrozenCNN().size + 2,)


@pytest.mark.parametrize(
    ("name", "install"),
    [("sb3_contrib:TQC", r"pip install 'gqn-rl\[contrib\]'"), ("sbx:SAC", "pip install sbx-rl")],
)
def test_a_missing_package_of_algorithms_says_how_to_install_it(
    name: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name.partition(":")[0], None)
    with pytest.raises(UserError, match=install):
        resolve_algorithm(name)


def test_guide_as_a_new_user_would(cli: Callable[..., Any], tmp_path: Path) -> None:
    smallest, from_python = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "my_encoder.py").write_text(smallest)
    (command,) = re.findall(r"^    python train\.py (.*my_encoder:MeanColor.*)$", GUIDE, re.MULTILINE)
    small = ["--steps", 20, "--set", "evaluation.episodes=1", "--set", "wandb=disabled", "--set", "threads=1"]
    done = cli(*command.split(), *small)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "mean-color" / "final_model.zip").exists()
    assert "15_000" in from_python
    exec(compile(from_python.replace("15_000", "20"), "own_encoder.md", "exec"), {})
