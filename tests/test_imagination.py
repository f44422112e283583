"""Imagination: means and intervals by hand, contradictions that contradict, and the command's real output."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_data import make_arm

from gqn_rl.cli import main
from gqn_rl.config import UserError
from gqn_rl.data import BlockPlan, set_scene
from gqn_rl.encoder import GQNEncoder
from gqn_rl.generator import Noise
from gqn_rl.gqn import GQN, GQNConfig, GQNOutput, likelihood_floor
from gqn_rl.imagination import ImaginationPlan, Imagined, Shots, gallery, imagine, photograph, share_95, table
from gqn_rl.types import Views

SIDE = 16
PLAN = ImaginationPlan(seed=5, scenes=6, views=2, samples=4, sigma=0.1)
CONFIG = GQNConfig.from_mapping(
    {
        "image_size": SIDE,
        "representation": {"width": 16, "heads": 2, "token_channels": 16},
        "generator": {"channels": 8, "steps": 2, "canvas_channels": 16, "mixing_channels": 8, "zero_init_scene": False},
    }
)


@pytest.fixture(scope="module")
def gqn() -> GQN:
    torch.manual_seed(0)
    return GQN(CONFIG)


def test_a_contradiction_is_what_the_next_scene_shows_from_the_same_camera() -> None:
    source = make_arm("gqn_rl/ArmReach-v0", {"image_size": SIDE})
    made: list[int] = []
    (shots,) = photograph(source, PLAN, made.append)
    assert sum(made) == PLAN.frames
    np.testing.assert_array_equal(shots.contradiction.poses, shots.query.poses)
    for scene in range(PLAN.scenes):
        for views, shown in ((shots.query, scene), (shots.contradiction, (scene + 1) % PLAN.scenes)):
            set_scene(source, BlockPlan(), PLAN.seed, shown)
            np.testing.assert_array_equal(views.images[scene, 0], source.render_view(views.poses[scene, 0]))


def test_what_is_imagined_repeats_and_changes_with_the_views(gqn: GQN) -> None:
    source = make_arm("gqn_rl/ArmReach-v0", {"image_size": SIDE})
    shots = list(photograph(source, PLAN, lambda frames: None))
    one, again = (imagine(gqn, iter(shots), PLAN) for _ in range(2))
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first, second)
    assert one.error.shape == one.surprise.shape == (PLAN.views + 1, PLAN.scenes)
    assert (one.spread > 0).all()
    assert (np.abs(np.diff(one.error, axis=0)) > 0).all()


def test_the_error_is_that_of_the_mean_picture(gqn: GQN) -> None:
    """Equal to drawing each scene by itself."""
    source = make_arm("gqn_rl/ArmReach-v0", {"image_size": SIDE})
    (shots,) = photograph(source, PLAN, lambda frames: None)
    found = imagine(gqn, iter([shots]), PLAN)
    for scene in range(PLAN.scenes):
        context = Views(*(torch.from_numpy(array[scene : scene + 1]) for array in shots.context))
        picture = gqn.generate(gqn.represent(context), shots.query.poses[scene : scene + 1], deterministic=True)
        truth = torch.from_numpy(shots.query.images[scene]).float() / 255
        assert found.error[-1, scene] == pytest.approx(float((picture[0, 0] - truth).square().mean()), rel=1e-4)


def test_scenes_that_all_look_the_same_leave_nothing_to_imagine(gqn: GQN) -> None:
    plan = ImaginationPlan(seed=0, scenes=4, views=1, samples=2, sigma=0.3)
    views = Views(np.zeros((4, 1, 16, 16, 3), np.uint8), np.zeros((4, 1, 5), np.float32))
    with pytest.raises(UserError, match="all 4 scenes look the same"):
        imagine(gqn, iter([Shots(views, views, views)]), plan)


def test_rows_are_means_with_intervals() -> None:
    error = np.array([[0.2, 0.4], [0.1, 0.1]])
    surprise, contradicted = np.array([[5.0, 5.0], [1.0, 3.0]]), np.array([[5.0, 5.0], [2.0, 2.0]])
    none, one = table(Imagined(error, error, surprise, contradicted, mean_error=0.5))
    assert (none.views, one.views) == (0, 1)
    assert none.relative_error == pytest.approx(0.6)
    assert none.relative_error_95 == pytest.approx(1.96 * 0.2)  # standard deviation 0.2 sqrt 2, two scenes
    assert one.relative_error_95 == 0
    assert (none.told_apart, one.told_apart) == (0, 0.5)
    assert (none.told_apart_low, none.told_apart_high) == pytest.approx((0, 1.96**2 / (2 + 1.96**2)))


@pytest.mark.parametrize("right", range(9))
def test_interval_of_a_share_holds_what_a_test_would_not_reject(right: int) -> None:
    """Wilson's ends are the shares p from which the one found is 1.96 standard errors of p away."""
    share, low, high = share_95(np.arange(8) < right)
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(1.96 * np.sqrt(end * (1 - end) / 8))
    assert high - low > 0.3


def test_pictures_show_context_truth_and_what_is_imagined(gqn: GQN) -> None:
    source = make_arm("gqn_rl/ArmReach-v0", {"image_size": SIDE})
    (shots,) = photograph(source, PLAN, lambda frames: None)
    rows = gallery(gqn, shots, PLAN, scenes=3)
    assert len(rows) == 3
    for scene, row in enumerate(rows):
        assert [picture.shape for picture in row] == [(SIDE, SIDE, 3)] * (PLAN.views + 5)
        np.testing.assert_allclose(row[PLAN.views] * 255, shots.query.images[scene, 0], atol=1e-3)


@pytest.mark.parametrize(("fields", "words"), [({"scenes": 1}, "scenes"), ({"views": 0}, "views")])
def test_plans_that_cannot_be_are_refused(fields: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=f"{words} must be at least"):
        ImaginationPlan(**{**PLAN.__dict__, **fields})


def test_the_command_leaves_a_table_and_pictures_and_overwrites_nothing(
    gqn: GQN, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_arm("gqn_rl/ArmReach-v0", {"image_size": SIDE})
    camera = dict(source.camera_metadata)
    seen = Views(torch.randint(0, 256, (16, 2, SIDE, SIDE, 3), dtype=torch.uint8), torch.randn(16, 2, 5))
    data = {"env": "gqn_rl/ArmReach-v0", "env_kwargs": {"image_size": SIDE}, "seed": 0}
    GQNEncoder.from_gqn(gqn, seen, {"camera": camera, "data": data}).save_pretrained(tmp_path / "encoder")
    out = tmp_path / "out"
    command = ["imagine", str(tmp_path), "--scenes", "8", "--views", "2", "--blocks", "2", "--out", str(out)]
    assert main(command) == 0, capsys.readouterr().err
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        f"imagination{end}" for end in (".csv", ".png", "_views.png", "_algebra.png", ".json")
    }
    with (out / "imagination.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["views"] for row in rows] == ["0", "1", "2"]
    assert json.loads((out / "imagination.json").read_text())["scenes"] == 8
    assert main(command) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_surprise_is_the_negative_elbo_of_the_truth_and_contradicted_that_of_the_other(
    gqn: GQN, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shots,) = photograph(make_arm("gqn_rl/ArmReach-v0", {"image_size": SIDE}), PLAN, lambda frames: None)
    floor = likelihood_floor(PLAN.sigma, SIDE * SIDE * 3)

    def reconstruct(scene: torch.Tensor, views: Views, sigma: float, rng: Noise = None) -> GQNOutput:
        mean = views.images.double().mean((2, 3, 4))
        return GQNOutput(mean, floor + mean, mean / 2)

    monkeypatch.setattr(gqn, "reconstruct", reconstruct)
    found = imagine(gqn, iter([shots]), PLAN)
    for views, nats in ((shots.query, found.surprise), (shots.contradiction, found.contradicted)):
        np.testing.assert_allclose(nats, np.tile(1.5 * views.images.mean((1, 2, 3, 4)), (3, 1)), rtol=1e-6)
