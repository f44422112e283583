"""Probes: hand-checkable cases, slow references, and what a probe of an encoder claims and writes."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gqn_rl.cameras import CONVENTION, Dome
from gqn_rl.cli import main
from gqn_rl.config import UserError
from gqn_rl.data import BlockPlan, set_scene
from gqn_rl.generator import GeneratorConfig
from gqn_rl.gqn import GQN, GQNConfig
from gqn_rl.probe_report import DrawingJudge, Findings, claim, examine, print_table, write_report
from gqn_rl.probes import (
    PART,
    ProbePlan,
    Reading,
    Shots,
    camera_regions,
    fit_ridge,
    photograph,
    probe,
    probe_encoder,
    quantities,
    scene_share,
    score,
    score_class,
    score_flags,
)
from gqn_rl.representation import RepresentationConfig
from gqn_rl.types import Image, Pose, Quantity, SceneEncoder, Views


def test_a_linear_relation_is_found_exactly_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    y = x @ rng.normal(size=(6, 3)) + 5
    found = probe(x[:200], y[:200], x[200:], y[200:])
    assert found.r2 > 0.9999
    assert found.median_error < 0.02
    assert probe(x[:200], rng.normal(size=(200, 3)), x[200:], rng.normal(size=(200, 3))).r2 < 0.1


def test_ridge_equals_its_normal_equations_solved_by_descent() -> None:
    rng = np.random.default_rng(1)
    x, y, strength = rng.normal(size=(50, 4)) * [1, 10, 0.1, 3], rng.normal(size=(50, 2)), 0.1
    model = fit_ridge(x, y, strength)
    z = torch.tensor((x - x.mean(0)) / x.std(0))
    target = torch.tensor(y - y.mean(0))
    weight = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (z @ weight - target).square().sum() + strength * len(x) * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(model.weight, weight.detach().numpy(), atol=1e-6)


def test_ridge_of_more_entries_than_samples_solves_its_normal_equations() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 50)), rng.normal(size=(20, 3))
    found = fit_ridge(x, y, strength=0.1)
    z = (x - found.mean) / found.scale
    residual = z.T @ (z @ found.weight - (y - y.mean(0))) + 0.1 * len(z) * found.weight
    np.testing.assert_allclose(residual, 0, atol=1e-9)


def test_score_by_hand() -> None:
    truth = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    assert score(truth, truth) == (1.0, 0.0)
    predicted = truth + np.array([1.0, 0.0])
    assert score(predicted, truth) == (1 - 4 / 8, 1.0)


@pytest.mark.parametrize("value", [0.0, 0.1, -40.0])
def test_what_is_the_same_in_all_scenes_is_not_called_known(value: float) -> None:
    truth = np.full((7, 2), value, np.float32)
    assert all(math.isnan(figure) for figure in score(truth.astype(np.float64), truth))
    truth[3] += 0.01
    assert not any(math.isnan(figure) for figure in score(truth.astype(np.float64), truth))


def test_entries_that_only_rounding_moves_say_nothing_elsewhere() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50, 3)), rng.normal(size=(50, 1))
    y = x[0] @ [[1.0], [2.0], [3.0]]
    dead = np.float32(1) + rng.choice([-6e-8, 0, 6e-8], size=(50, 1))
    alone, beside = fit_ridge(x[0], y), fit_ridge(np.hstack([x[0], dead]), y)
    np.testing.assert_allclose(beside.predict(np.hstack([x[1], np.full((50, 1), 1.5)])), alone.predict(x[1]))


def test_choices_by_hand() -> None:
    truth = np.eye(3)[[0, 0, 1, 2]]
    predicted = np.array([[0.4, 0.3, 0.3], [0.1, 0.2, -0.1], [-0.5, -0.1, -0.2], [0.0, 0.0, 0.1]])
    assert score_class(predicted, truth) == (0.75, 0.5)  # the second is taken for a 1; most are a 0
    for no, yes in ((0, 1), (-1, 1), (2, 6)):  # whatever the two values are
        flags = np.array([[1, 0], [1, 0], [1, 1], [0, 1]])
        guess = np.array([[0.9, 0.1], [0.6, 0.6], [0.4, 2.0], [-3.0, 0.51]])
        accuracy, chance = score_flags(no + (yes - no) * guess, no + (yes - no) * flags)
        assert (accuracy, chance) == (6 / 8, (3 / 4 + 2 / 4) / 2)
    assert np.isnan(score_flags(flags + 0.001, np.ones_like(flags))).all()  # anybody predicts what is always the same


def test_scene_share_is_one_for_scenes_alone_and_zero_for_cameras_alone() -> None:
    rng = np.random.default_rng(2)
    scenes = np.repeat(rng.normal(size=(300, 1, 5)), 3, axis=1)
    cameras = rng.normal(size=(300, 3, 5))
    assert scene_share(scenes) > 0.999
    assert scene_share(cameras) < 0.05
    assert abs(scene_share(scenes + cameras) - 0.5) < 0.06


class Spot:
    """A source without a simulator: a colour for each of two factors, painted as the camera's elevation dims it."""

    scene_factors = ("red", "green")
    state_groups = {"red": slice(0, 1), "both": slice(0, 2), "all": slice(0, 5)}  # noqa: RUF012
    camera_metadata = {"convention": CONVENTION, "fovy": 45.0, "image_size": (4, 4), "renderer": "paint"}  # noqa: RUF012

    def __init__(self, dome: Dome | None = None) -> None:
        if dome is not None:
            self.dome = dome
        self.color = np.zeros(5, np.float32)  # the last three stay as they are
        self.rendered = 0

    def draw_factor(self, factor: str, rng: np.random.Generator) -> None:
        self.color[self.scene_factors.index(factor)] = rng.uniform(0, 1)

    def new_scene(self, rng: np.random.Generator) -> None:
        for factor in self.scene_factors:
            self.draw_factor(factor, rng)

    def sample_pose(self, rng: np.random.Generator) -> Pose:
        return getattr(self, "dome", Dome()).sample(rng)

    def render_view(self, pose: Pose) -> Image:
        self.rendered += 1
        image = np.zeros((4, 4, 3), np.uint8)
        image[..., :2] = (255 * self.color[:2]).round()
        image[..., 2] = pose_byte(pose)
        return image

    def state(self) -> NDArray[np.float32]:
        return self.color  # the very array, as a careless source would


def pose_byte(pose: Pose) -> int:
    """A number that tells poses apart."""
    return int(np.abs(pose).sum() * 1000) % 256


class Colors:
    """The mean colours of all views, which do not depend on the camera."""

    size = 2

    def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
        return images[:, :, 0, 0, :2].float().mean(1) / 255


class Tilted(Colors):
    """The same, but shifted by the camera's height as soon as it is above all of the dome."""

    def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
        return super().encode(images, poses) + (poses[:, :, 2].mean(1, keepdim=True) > 1.3)


def look(source: Spot, encoder: SceneEncoder, scenes: int = 200) -> list[Reading]:
    plan = ProbePlan(7, scenes, camera_regions(source, 15))
    return probe_encoder(encoder, photograph(source, plan, lambda frames: None), quantities(source))


DOME = Dome(radius=(1.5, 1.5), elevation=(20, 60), azimuth=(-90, 90))


def test_a_recording_and_a_probe_see_the_same_scenes_from_the_same_poses() -> None:
    """The slow reference: every scene and pose as a recording of this seed has them, whatever the parts."""
    source = Spot(DOME)
    plan = ProbePlan(7, 2 * PART + 9, camera_regions(source, 15), drawn=11)
    shots = list(photograph(source, plan, lambda frames: None))
    assert sum(shot.fits for shot in shots) == sum(part.stop <= plan.scenes // 2 for part in plan.parts())
    reference = Spot(DOME)
    for part, shot in zip(plan.parts(), shots, strict=True):
        for row, scene in enumerate(part):
            set_scene(reference, BlockPlan(), 7, scene)
            np.testing.assert_array_equal(shot.states[row], reference.state())
            for region, sample in (("inside", DOME.sample), ("outside", DOME.outside(15).sample)):
                rng = np.random.default_rng([7, scene, 1])
                poses = [sample(rng) for _ in range(plan.views(region, scene))]
                assert len(poses) == (4 if scene < 11 else 0 if region == "outside" and scene < 68 else 3)
                if poses:
                    np.testing.assert_array_equal(shot.views[region].poses[row], poses)
                    expected = [reference.render_view(pose) for pose in poses]
                    np.testing.assert_array_equal(shot.views[region].images[row], expected)
                else:
                    assert region not in shot.views


def test_cameras_outside_are_those_inside_raised_above_the_dome() -> None:
    source = Spot(DOME)
    plan = ProbePlan(0, 8, camera_regions(source, 15), drawn=8)
    for shot in photograph(source, plan, lambda frames: None):
        inside, outside = (shot.views[region].poses.astype(float) for region in ("inside", "outside"))
        np.testing.assert_allclose(inside[..., 3], outside[..., 3], atol=1e-5)  # they look the same way
        np.testing.assert_allclose(*(np.linalg.norm(poses[..., :3], axis=-1) for poses in (inside, outside)), rtol=1e-5)
        assert np.rad2deg(-inside[..., 4]).max() < 60.001  # a camera that looks down by its elevation
        assert 59.999 < np.rad2deg(-outside[..., 4]).min() <= np.rad2deg(-outside[..., 4]).max() < 75.001


@pytest.mark.parametrize(("scenes", "drawn"), [(4, 0), (9, 3), (200, 150), (200, 1000)])
def test_what_is_planned_is_rendered_and_nothing_else(scenes: int, drawn: int) -> None:
    source, told = Spot(DOME), []
    plan = ProbePlan(0, scenes, camera_regions(source, 15), drawn)
    parts = [len(shot.states) for shot in photograph(source, plan, told.append)]
    assert sum(parts) == scenes
    assert max(parts) <= PART  # what is in memory at a time
    assert source.rendered == plan.frames == sum(told)


def test_too_few_scenes_are_refused() -> None:
    with pytest.raises(ValueError, match="scenes=3"):
        ProbePlan(0, 3, {})


def test_outside_needs_a_dome_with_room_above_it() -> None:
    assert list(camera_regions(Spot(DOME), 15)) == ["inside", "outside"]
    assert list(camera_regions(Spot(), 15)) == ["inside"]
    assert list(camera_regions(Spot(Dome(elevation=(20, 89))), 15)) == ["inside"]
    assert {reading.region for reading in look(Spot(), Colors())} == {"inside"}


def test_readings_are_those_of_one_probe_fitted_on_all_vectors_at_once() -> None:
    """Streamed in parts, against everything in memory; quantities of one, two and five numbers."""
    source, encoder = Spot(DOME), Tilted()
    readings = {(r.region, r.quantity, r.views): r for r in look(source, encoder)}
    assert len(readings) == 2 * 3 * 3
    states, vectors = [], {}
    for scene in range(200):
        set_scene(source, BlockPlan(), 7, scene)
        states.append(source.state().copy())
        for region, sample in camera_regions(source, 15).items():
            rng = np.random.default_rng([7, scene, 1])
            poses = np.stack([sample(rng) for _ in range(3)])
            images = np.stack([source.render_view(pose) for pose in poses])
            for count in (1, 2, 3):
                seen = (torch.from_numpy(array[None, :count]) for array in (images, poses))
                vectors.setdefault((region, count), []).append(encoder.encode(*seen)[0].numpy())
    truth = np.stack(states)
    for (region, name, count), reading in readings.items():
        part = source.state_groups[name]
        fitted = fit_ridge(np.stack(vectors["inside", count][:100]), truth[:100, part])
        expected = fitted.predict(np.stack(vectors[region, count][100:]))
        np.testing.assert_allclose(reading.predicted, expected, atol=1e-6)
        np.testing.assert_array_equal(reading.truth, truth[100:, part])


def test_a_vector_that_means_something_else_outside_is_found_out() -> None:
    """The probe is fitted inside alone: one fitted outside would undo a shift."""
    r2 = {
        encoder: {reading.region: reading.score.r2 for reading in look(Spot(DOME), encoder()) if reading.views == 3}
        for encoder in (Colors, Tilted)
    }
    assert min(r2[Colors].values()) > 0.99
    assert r2[Tilted]["inside"] > 0.99
    assert r2[Tilted]["outside"] < 0


class Normed(torch.nn.Module):
    """In training mode the scenes of a batch would be mixed."""

    size = 2

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2)

    def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
        return self.norm(Colors().encode(images, poses))


def test_modules_are_judged_in_eval_mode() -> None:
    encoder = Normed()
    assert min(reading.score.r2 for reading in look(Spot(DOME), encoder)) > 0.99
    assert int(encoder.norm.num_batches_tracked or 0) == 0


class Wrong:
    """Returns whatever it is made with."""

    size = 2

    def __init__(self, vectors: torch.Tensor) -> None:
        self.vectors = vectors

    def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
        return self.vectors.expand(len(images), -1)


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (torch.zeros(1, 3), r"shape \(64, 3\) for 64 scenes; with size 2 it must be \(64, 2\)"),
        (torch.full((1, 2), np.nan), "not finite for 1 views"),
    ],
)
def test_unfit_vectors_are_named(vectors: torch.Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        look(Spot(DOME), Wrong(vectors))


class Picky:
    """Takes three views or more, and cameras of another field of view than ``Spot`` has."""

    size = 2

    def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
        if images.shape[1] < 3:
            raise RuntimeError("three views are needed")
        return images.new_zeros(len(images), 2, dtype=torch.float32)

    def check(self, camera: dict[str, Any]) -> None:
        raise UserError(f"not these cameras of {camera['fovy']:g} degrees")


def test_an_encoder_that_fails_says_so_in_one_line_before_or_in_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"Picky fails on images \(64, 1, .*: RuntimeError: three views are needed"):
        look(Spot(DOME), Picky())
    assert main(["probe", "test_probes:Picky", "--env", "gqn_rl/ArmReach-v0", "--scenes", "8"]) == 2
    assert capsys.readouterr().err == "error: not these cameras of 45 degrees\n"


class Described(Spot):
    """The same colours, told as numbers, as which of them is larger, and as whether each is above half."""

    state_groups = {"red": slice(0, 1), "both": slice(0, 2)}  # noqa: RUF012
    state_quantities = {  # noqa: RUF012
        "both": Quantity((1, 0), "numbers"),
        "larger": Quantity(slice(2, 4), "class"),
        "bright": Quantity(slice(4, 6), "flags"),
    }

    def state(self) -> NDArray[np.float32]:
        red, green = self.color[:2]
        return np.array([red, green, red > green, red <= green, red > 0.5, green > 0.5], np.float32)


def test_quantities_are_scored_by_their_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Described(DOME)
    kinds = {name: quantity.kind for name, quantity in quantities(source).items()}
    assert kinds == {"red": "position", "both": "numbers", "larger": "class", "bright": "flags"}
    findings = examine(Colors(), source, ProbePlan(7, 200, camera_regions(source, 15)))
    readings = {(r.quantity, r.views): r for r in findings.readings if r.region == "inside"}
    assert set(readings["red", 3].figures) == {"r2", "median_error_cm"}
    assert set(readings["both", 3].figures) == {"r2"}
    assert readings["both", 3].figures["r2"] > 0.99
    for name in ("larger", "bright"):  # both are linear in what the vector says
        assert readings[name, 3].figures["accuracy"] > 0.9
        assert readings[name, 3].figures["chance"] < 0.65
    write_report(tmp_path, findings, {})
    with (tmp_path / "probe.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["cameras"] == "inside":
                figures = readings[row["quantity"], int(row["views"])].figures
                told = {name: float(row[name]) for name in ("r2", "median_error_cm", "accuracy", "chance") if row[name]}
                assert told == figures
    print_table(findings)
    accuracy, chance = readings["larger", 1].choice
    assert f"{accuracy:.1%} (chance {chance:.1%})" in capsys.readouterr().out
    assert (tmp_path / "probe_errors.png").exists()


@pytest.mark.parametrize("env_id", ["RoomFree-v0", "MazeExplore-v0", "ShepardMetzler-v0"])
def test_our_environments_describe_what_is_in_their_state(env_id: str) -> None:
    """Classes are one-hot, flags have two values, and no quantity is the same in all scenes."""
    source = gym.make(f"gqn_rl:gqn_rl/{env_id}", obs_mode="state").unwrapped
    states = []
    for seed in range(20):
        source.new_scene(np.random.default_rng(seed))
        states.append(source.state())
    for name, (part, kind) in quantities(source).items():
        found = np.stack(states)[:, part]
        assert (found.std(0) > 0).any(), name
        if kind == "class":
            assert (found.sum(1) == 1).all(), name
        if kind in ("class", "flags"):
            assert len(np.unique(found)) == 2, name
    source.close()


# Drawing and the report ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gqn() -> GQN:
    torch.manual_seed(0)
    ray = RepresentationConfig(channels=16, width=16, heads=2, token_channels=16)
    generator = GeneratorConfig(channels=8, canvas_channels=16, mixing_channels=8)
    return GQN(GQNConfig(image_size=(16, 16), representation=ray, generator=generator)).eval()


def random_shots(scenes: int, part: int) -> list[Shots]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, scenes, 4, 16, 16, 3), dtype=np.uint8)
    poses = np.stack([[[DOME.sample(rng) for _ in range(4)] for _ in range(scenes)] for _ in range(2)])
    return [
        Shots(
            False,
            np.zeros((len(images[0, i : i + part]), 0), np.float32),
            {
                name: Views(images[r, i : i + part], poses[r, i : i + part])
                for r, name in enumerate(("inside", "outside"))
            },
        )
        for i in range(0, scenes, part)
    ]


def test_drawing_is_judged_the_same_in_parts_and_at_once(gqn: GQN) -> None:
    shots = random_shots(12, 5)
    judge = DrawingJudge(gqn)
    passed = list(judge.watch(shots))
    assert [id(shot) for shot in passed] == [id(shot) for shot in shots]
    (whole,) = random_shots(12, 12)
    for drawing in judge.drawings():
        images, poses = (torch.from_numpy(array) for array in whole.views[drawing.region])
        scene = gqn.represent(Views(images[:, :3], poses[:, :3]))
        drawn = gqn.predict(scene, poses[:, 3:])[:, 0].detach().clamp(0, 1).numpy()
        truth = images[:, 3].numpy() / 255
        assert drawing.scenes == 12
        assert drawing.prior_mse == pytest.approx(np.square(drawn - truth).mean(), rel=1e-5)
        assert drawing.mean_image_mse == pytest.approx(np.square(truth - truth.mean(0)).mean(), rel=1e-9)
        assert drawing.relative_mse == pytest.approx(drawing.prior_mse / drawing.mean_image_mse)
        assert drawing.psnr_db == pytest.approx(-10 * np.log10(drawing.prior_mse))
    assert [drawing.region for drawing in judge.drawings()] == ["inside", "outside"]
    assert len(judge.gallery) == 8
    for row, (context_and_truth, first) in enumerate(zip(judge.gallery, whole.views["inside"].images, strict=False)):
        assert len(context_and_truth) == 5, row
        np.testing.assert_array_equal(np.stack(context_and_truth[:4]), first)


def test_scenes_without_an_unseen_view_are_not_drawn(gqn: GQN) -> None:
    judge = DrawingJudge(gqn)
    source = Spot(DOME)
    list(judge.watch(photograph(source, ProbePlan(0, 8, camera_regions(source, 15)), lambda frames: None)))
    assert judge.drawings() == judge.gallery == []


def test_a_report_says_the_same_in_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Quantities of one, two and five numbers, of which some never change."""
    source = Spot(DOME)
    findings = examine(Colors(), source, ProbePlan(7, 100, camera_regions(source, 15)))
    assert (findings.drawings, findings.gallery) == ([], [])
    written = write_report(tmp_path, findings, {"seed": 7})
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    with (tmp_path / "probe.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((tmp_path / "probe.json").read_text())
    assert (summary["seed"], summary["drawing"]) == (7, {})
    print_table(findings)
    table = capsys.readouterr().out
    assert len(rows) == 2 * 3 * 3
    for row, reading in zip(rows, findings.readings, strict=True):
        found = summary["ridge"][row["cameras"]][row["quantity"]][row["views"]]
        assert (reading.region, reading.quantity, str(reading.views)) == (row["cameras"], row["quantity"], row["views"])
        assert float(row["r2"]) == reading.score.r2 == pytest.approx(found["r2"], abs=1e-6)
        assert float(row["median_error_cm"]) == 100 * reading.score.median_error
        assert found["median_error_cm"] == pytest.approx(100 * reading.score.median_error, abs=1e-6)
        assert f"R2 {reading.score.r2:.3f}{found['median_error_cm']:>7.1f} cm" in table
    assert iio.imread(tmp_path / "probe_errors.png").shape[2] >= 3


def test_a_source_without_state_groups_is_drawn_all_the_same(gqn: GQN, tmp_path: Path) -> None:
    judge = DrawingJudge(gqn)
    readings = probe_encoder(Wrong(torch.zeros(1, 2)), judge.watch(with_fit(random_shots(12, 6))), {})
    written = write_report(tmp_path, Findings(readings, judge.drawings(), judge.gallery, judge.marked), {})
    assert [path.name for path in written] == ["probe_drawing.csv", "probe.png", "probe_points.png", "probe.json"]
    summary = json.loads((tmp_path / "probe.json").read_text())
    with (tmp_path / "probe_drawing.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found = summary["drawing"][row.pop("cameras")]
            assert {name: pytest.approx(float(value), abs=1e-6) for name, value in row.items()} == found


def with_fit(shots: list[Shots]) -> list[Shots]:
    """The first of them fits."""
    return [shot._replace(fits=index == 0) for index, shot in enumerate(shots)]


def test_a_folder_is_free_unfinished_finished_or_anothers(tmp_path: Path) -> None:
    claim(tmp_path / "new")
    claim(tmp_path)
    for name in (".lock", ".probe.csv.123.tmp.csv", "probe.csv"):
        (tmp_path / name).touch()
    claim(tmp_path)
    (tmp_path / "probe.json").touch()
    with pytest.raises(UserError, match="finished probe, which is never overwritten; choose another --out"):
        claim(tmp_path)
    (tmp_path / "probe.json").rename(tmp_path / "thesis.tex")
    with pytest.raises(UserError, match=r"it has thesis\.tex\); choose another --out"):
        claim(tmp_path)
