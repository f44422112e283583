"""Contact sheets: they show what a recording would hold, and the documentation has one of every environment."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, TOY_ID
from numpy.typing import NDArray
from PIL import Image

import gqn_rl
from gqn_rl.cli import main
from gqn_rl.commands.scenes import make_scene_source
from gqn_rl.data import RecordConfig, SceneDataset, record
from gqn_rl.pictures import GAP

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
ENV_ID = "gqn_rl/ShepardMetzler-v0"
SIDE = 24


def tiles(path: Path, scale: int) -> NDArray[np.uint8]:
    """A sheet's pictures (scenes, views, SIDE, SIDE, 3), as they were before they were enlarged."""
    whole = np.asarray(Image.open(path))
    pitch = SIDE * scale + GAP
    rows, columns = ((length + GAP) // pitch for length in whole.shape[:2])
    assert whole.shape == (rows * pitch - GAP, columns * pitch - GAP, 3)
    first = slice(0, SIDE * scale, scale)
    return np.array([[whole[i * pitch :, j * pitch :][first, first] for j in range(columns)] for i in range(rows)])


def sheet(path: Path, *options: Any) -> NDArray[np.uint8]:
    arguments = ["view", ENV_ID, "--out", path, "--set", f"image_size={SIDE}", "--scale", 3, *options]
    assert main([*map(str, arguments)]) == 0
    return tiles(path, scale=3)


def test_a_sheet_shows_the_first_pictures_of_a_recording(tmp_path: Path) -> None:
    config = RecordConfig(env=ENV_ID, env_kwargs={"image_size": SIDE}, scenes=3, views=4, seed=5)
    record(config, tmp_path / "data", make_scene_source, workers=1, progress=lambda done: None)
    recorded = np.load(tmp_path / "data" / "images.npy")
    assert len(SceneDataset(tmp_path / "data")) == 3
    shown = sheet(tmp_path / "sheet.png", "--scenes", 2, "--views", 3, "--seed", 5)
    assert np.array_equal(shown, recorded[:2, :3])


def test_options_of_the_environment_count_and_the_picture_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sheet.png"
    few = sheet(path, "--scenes", 2, "--views", 2)
    one = sheet(path, "--scenes", 2, "--views", 2, "--set", "objects=1")
    assert few.shape == one.shape == (2, 2, SIDE, SIDE, 3)
    assert not np.array_equal(few, one)
    assert [each.name for each in path.parent.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((ENV_ID, "--out", "sheet.jpg"), "--out must name a .png file, got sheet.jpg"),
        (("gqn_rl/ShepardMetzlar-v0", "--out", "sheet.png"), "did you mean 'gqn_rl/ShepardMetzler-v0'"),
        ((ENV_ID, "--out", "sheet.png", "--set", "objects=3"), "objects must be one of 1, 2; got 3"),
        ((TOY_ID, "--out", "sheet.png"), f"env '{TOY_ID}' is no scene source"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = cli("view", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_documentation_has_a_small_sheet_of_every_environment() -> None:
    sheets = {path.stem: path.stat().st_size for path in (ROOT / "docs" / "images").glob("sheet_*.png")}
    for env_id in gqn_rl._ENVS:
        assert f"sheet_{_snake(env_id)}" in sheets, f"python train.py view {env_id} --out docs/images/..."
    assert max(sheets.values()) < 300_000


def _snake(env_id: str) -> str:
    """``gqn_rl/RoomRing-v0`` to ``room_ring``."""
    name = env_id.split("/")[1].split("-")[0]
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
