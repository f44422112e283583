"""Pretraining: deterministic, resumable at any step, and honest about what it measures."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from test_data import make_arm

from gqn_rl.config import UserError
from gqn_rl.data import BlockPlan, RecordConfig, SceneDataset, record
from gqn_rl.encoder import GQNEncoder
from gqn_rl.files import locked
from gqn_rl.gqn import GQNConfig
from gqn_rl.objectives import ContrastHead, ObjectiveConfig
from gqn_rl.pictures import LINE, grid, to_uint8
from gqn_rl.pretrain_run import run
from gqn_rl.pretraining import PretrainConfig, Pretraining, Ramp, choose_precision
from gqn_rl.probes import probe
from gqn_rl.types import Views

ROOT = Path(__file__).resolve().parent.parent
SIDE = 16
MODEL = GQNConfig.from_mapping(
    {
        "image_size": SIDE,
        "representation": {"kind": "points", "channels": 16, "width": 16, "heads": 2, "token_channels": 16},
        "generator": {"channels": 8, "steps": 2, "canvas_channels": 16, "mixing_channels": 8},
    }
)
#: All terms on: points and free features, both of which are compared.
CONFIG = PretrainConfig(
    model=MODEL,
    objective=ObjectiveConfig(contrast=1.0),
    steps=12,
    batch=16,
    drawn=4,
    explained=2,
    warmup=2,
    held_out=16,
    evaluate_every=6,
    checkpoint_every=4,
    seed=1,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SceneDataset:
    folder = tmp_path_factory.mktemp("data") / "arm"
    block = BlockPlan(rows="target", columns="arm", height=4, width=4)
    config = RecordConfig(scenes=128, views=4, env_kwargs={"image_size": SIDE}, block=block)
    record(config, folder, make_arm, 1, lambda scenes: None)
    return SceneDataset(folder)


def test_same_seed_same_curve_and_another_seed_another(data: SceneDataset) -> None:
    def curve(seed: int) -> list[float]:
        steps = Pretraining(CONFIG.model_copy(update={"seed": seed}), data).steps()
        return [float(next(steps).losses.total) for _ in range(3)]

    assert curve(1) == curve(1)
    assert curve(1) != curve(2)


def test_evaluating_and_drawing_do_not_disturb_training(data: SceneDataset) -> None:
    quiet, watched = Pretraining(CONFIG, data), Pretraining(CONFIG, data)
    a, b = quiet.steps(), watched.steps()
    for _ in range(3):
        next(a)
        next(b)
        watched.evaluate(probe_scenes=64)
        watched.gallery(2)
    assert _equal(quiet, watched)


def test_resumed_from_a_checkpoint_is_the_same_run(data: SceneDataset, tmp_path: Path) -> None:
    whole = Pretraining(CONFIG, data)
    for _ in whole.steps():
        pass
    first = Pretraining(CONFIG, data)
    steps = first.steps()
    for _ in range(5):
        next(steps)
    first.save(tmp_path / "checkpoint.pt")
    second = Pretraining(CONFIG, data)
    second.load(tmp_path / "checkpoint.pt")
    for _ in second.steps():
        pass
    assert second.step == 12
    assert _equal(whole, second)


def test_a_run_begun_before_there_was_a_key_goes_on_with_its_default(data: SceneDataset, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"checkpoint_every": 4})
    begun = Pretraining(config, data)
    with pytest.raises(KeyboardInterrupt):
        run(begun, tmp_path, stop=lambda: begun.step == 4)
    values = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del values["draw_apart"], values["model"]["representation"]["cells"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save({**state, "config": values}, tmp_path / "checkpoint.pt")
    resumed, whole = Pretraining(config, data), Pretraining(config, data)
    run(resumed, tmp_path)
    for _ in whole.steps():
        pass
    assert _equal(whole, resumed)


def test_a_run_begun_before_there_was_a_figure_goes_on(data: SceneDataset, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"checkpoint_every": 4})
    begun = Pretraining(config, data)
    with pytest.raises(KeyboardInterrupt):
        run(begun, tmp_path, stop=lambda: begun.step == 4)
    (tmp_path / "metrics.csv").write_text("step,wall_s,given_up\n4,1.0,5.0\n")
    run(Pretraining(config, data), tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        first, *_, last = csv.DictReader(file)
    assert (first["step"], first["given_up"], last["step"], last["given_up"]) == ("4", "5.0", "12", "")
    assert last.keys() > {"step", "wall_s", "given_up"}
    assert float(last["wall_s"]) > 1


def test_what_changed_since_a_run_began_is_said(
    data: SceneDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIG.model_copy(update={"steps": 4})
    begun = Pretraining(config, data)
    with pytest.raises(KeyboardInterrupt):
        run(begun, tmp_path, stop=lambda: begun.step == 2)
    file = tmp_path / "versions.json"
    now = json.loads(file.read_text())
    assert now["threads"] == torch.get_num_threads()
    assert (now["device"], now["precision"]) == ("cpu", choose_precision("auto", torch.device("cpu")))
    file.write_text(json.dumps({**now, "torch": "1.0", "device": "cuda:0"}))
    assert "since this run began" not in capsys.readouterr().out
    run(Pretraining(config, data), tmp_path)
    said = capsys.readouterr().out
    assert f"note: torch 1.0 -> {now['torch']}, device cuda:0 -> cpu since this run began" in said


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_ends_with_the_same_numbers(data: SceneDataset, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG.model_copy(update={"steps": 60, "checkpoint_every": 5}).to_yaml())

    def command(out: str) -> list[str]:
        arguments = ["pretrain", str(tmp_path / "c.yaml"), "--data", str(data.folder), "--out", str(tmp_path / out)]
        return [sys.executable, str(ROOT / "train.py"), *arguments, "--wandb", "disabled", "--threads", "1"]

    subprocess.run(command("whole"), check=True, capture_output=True)
    for moment in (5, 20):  # the step of the checkpoint after which a run is killed
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, start_new_session=True)
        checkpoint = tmp_path / "killed" / "checkpoint.pt"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if checkpoint.exists() and torch.load(checkpoint, weights_only=True)["step"] >= moment:
                break
            time.sleep(0.02)
        assert process.poll() is None  # it is killed, it does not end
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command("killed"), check=True, capture_output=True)
    whole, killed = (GQNEncoder.from_pretrained(tmp_path / name) for name in ("whole", "killed"))
    assert whole.fingerprint == killed.fingerprint
    for table in ("metrics.csv", "evaluations.csv"):
        rows = [_rows(tmp_path / name / table) for name in ("whole", "killed")]
        assert rows[0] == rows[1]
        assert len(rows[0]) >= 3


def test_a_run_leaves_an_encoder_and_is_never_overwritten(data: SceneDataset, tmp_path: Path) -> None:
    logged: dict[int, dict[str, float]] = {}
    log = nullcontext(lambda step, values: logged.setdefault(step, {}).update(values))
    encoder = run(Pretraining(CONFIG, data), tmp_path, lambda: log)
    again = GQNEncoder.from_pretrained(tmp_path)
    assert again.fingerprint == encoder.fingerprint
    assert again.card["data"]["frames"] == 128 * 4
    assert {"hand_r2", "target_cm", "prior_mse_relative", "scene_std"} <= again.card["held_out"].keys()
    assert [int(row["step"]) for row in _rows(tmp_path / "evaluations.csv")] == [6, 12]
    assert "held_out/kl" in logged[12]
    with pytest.raises(UserError, match="finished"):
        run(Pretraining(CONFIG, data), tmp_path)


def test_the_gallery_has_a_label_above_each_column(data: SceneDataset, tmp_path: Path) -> None:
    pretraining = Pretraining(CONFIG, data)
    run(pretraining, tmp_path)
    plain = grid([[to_uint8(image) for image in row] for row in pretraining.gallery()])
    with Image.open(tmp_path / "gallery.png") as file:
        picture = np.asarray(file)
    assert np.array_equal(picture[LINE:], plain)
    columns = CONFIG.max_context + 3  # context views | truth | prior mean | sample
    labels = np.array_split(picture[:LINE], columns, axis=1)
    assert all((label < 128).any() for label in labels)


def test_a_folder_that_belongs_to_something_else_is_left_alone(data: SceneDataset, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"not empty and holds no run \(it has thesis.tex\)"):
        run(Pretraining(CONFIG, data), tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("env: {id: CartPole-v1}\n")  # a training run's
    with pytest.raises(UserError, match="other settings"):
        run(Pretraining(CONFIG, data), other)
    with locked(other), pytest.raises(UserError, match="another process is at work"):
        run(Pretraining(CONFIG, data), other)
    assert (other / "config.yaml").read_text() == "env: {id: CartPole-v1}\n"


def test_a_stopped_run_loses_nothing(data: SceneDataset, tmp_path: Path) -> None:
    whole = run(Pretraining(CONFIG, data), tmp_path / "whole")
    asked = iter([False] * 6 + [True])
    with pytest.raises(KeyboardInterrupt, match="interrupted at step 7; run the same command to go on"):
        run(Pretraining(CONFIG, data), tmp_path / "stopped", stop=lambda: next(asked))
    stopped = run(Pretraining(CONFIG, data), tmp_path / "stopped")
    assert stopped.fingerprint == whole.fingerprint


def test_other_settings_or_data_are_refused(data: SceneDataset, tmp_path: Path) -> None:
    Pretraining(CONFIG, data).save(tmp_path / "checkpoint.pt")
    other = Pretraining(CONFIG.model_copy(update={"batch": 8}), data)
    with pytest.raises(UserError, match=r"other settings \(batch\)"):
        other.load(tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.pt").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="corrupt"):
        Pretraining(CONFIG, data).load(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": GQNConfig()}, r"model.image_size is \(64, 64\), but .* holds views of \(16, 16\)"),
        ({"model": MODEL.model_copy(update={"fovy": 60.0})}, "seen at 45.0 degrees"),
        ({"max_context": 4}, "needs 5 views a scene"),
        # 32 blocks, of which a step takes a row or a column
        ({"batch": 128}, "need 528 scenes, but .* has 128: give `record` --scenes 528 or more"),
    ],
)
def test_a_recording_that_does_not_fit_is_refused(data: SceneDataset, change: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Pretraining(CONFIG.model_copy(update=change), data)


def test_contrast_wants_two_views() -> None:
    for terms in ({"contrast": 0, "geometry": 1}, {"contrast": 1, "geometry": 0}):
        with pytest.raises(ValueError, match="max_context must be at least 2"):
            PretrainConfig(model=MODEL, max_context=1, objective=ObjectiveConfig(**terms))
    neither = ObjectiveConfig(contrast=0, geometry=0)
    assert PretrainConfig(max_context=1, objective=neither).max_context == 1
    # Nothing is compared where there are no points, whatever the weight.
    assert PretrainConfig(model=GQNConfig.paper("pool"), max_context=1).objective.geometry > 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"batch": 12, "drawn": 8, "explained": 4}, r"batch \(12\) must be a multiple of drawn \(8\)"),
        ({"batch": 16, "drawn": 8, "explained": 3}, r"drawn \(8\) must be a multiple of explained \(3\)"),
        ({"batch": 4, "drawn": 8, "explained": 4}, r"batch \(4\) must be a multiple of drawn \(8\)"),
        ({"explained": 0}, "explained"),
        ({"objective": {"contrast": 1.0}}, "objective.contrast compares features: .*channels must be above 0"),
        ({"model": {"representation": {"kind": "ray"}}}, "representation 'ray' needs channels above 0"),
        ({"compare_first": 1.0}, "compare_first"),
        ({"objective": {"geometry": 0, "likelihood": 0, "prior_mean": 0}}, "nothing is learnt: objective.contrast"),
        ({"compare_first": 0.1, "objective": {"geometry": 0}}, "compare_first is 0.1, but nothing compares"),
        ({"query": "seen"}, "query 'seen' draws the only view that is given: max_context must be 1, got 3"),
        (
            {"draw_apart": True, "compare_first": 0.1, "objective": {"likelihood": 0, "prior_mean": 0}},
            "objective.likelihood or objective.prior_mean must be above 0",
        ),
        ({"draw_apart": True}, "compare_first must be above 0, or --from name an encoder"),
        ({"draw_apart": True, "model": {"representation": {"kind": "ray", "channels": 8}}}, "needs .*kind 'points'"),
        ({"model": {"generator": {"mixing_channels": 0}}}, "'points' needs generator.mixing_channels above 0, got 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        PretrainConfig.from_mapping(fields)


@pytest.mark.parametrize(("contrast", "geometry"), [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("kind", ["points", "ray"])
def test_every_choice_of_terms_trains(data: SceneDataset, kind: str, contrast: float, geometry: float) -> None:
    """To its end, with a number for each term that is in use and for no other."""
    channels = 16 if contrast or kind == "ray" else 0
    representation = MODEL.representation.model_copy(update={"kind": kind, "channels": channels})
    config = CONFIG.model_copy(
        update={
            "model": MODEL.model_copy(update={"representation": representation}),
            "objective": ObjectiveConfig(contrast=contrast, geometry=geometry),
        }
    )
    training = Pretraining(PretrainConfig.from_mapping(config.to_dict()), data)
    losses = list(training.steps())[-1].losses
    assert losses.total.isfinite()
    assert losses.contrast.isnan() == (contrast == 0)
    assert losses.geometry.isnan() == (geometry == 0 or kind == "ray")
    evaluation = training.evaluate(probe_scenes=32)
    assert all(np.isfinite(list(evaluation.scalars().values())))


def test_views_are_compared_before_anything_is_drawn(data: SceneDataset) -> None:
    """The first steps are those of a run that never draws; the generator begins with the first that does."""
    contrasts = CONFIG.objective
    never = contrasts.model_copy(update={"likelihood": 0.0, "prior_mean": 0.0})
    first = Pretraining(CONFIG.model_copy(update={"compare_first": 0.25}), data)
    other = Pretraining(CONFIG.model_copy(update={"objective": never}), data)
    before = {name: value.clone() for name, value in first.model.generator.state_dict().items()}
    for _, step, reference in zip(range(3), first.steps(), other.steps(), strict=False):
        assert step.losses.prior_mse.isnan()
        assert step.losses.negative_elbo.isnan()
        assert step.losses.total == reference.losses.total
    assert _equal(first, other)
    assert all(torch.equal(before[name], value) for name, value in first.model.generator.state_dict().items())
    step = next(first.steps())
    assert step.losses.prior_mse.isfinite()
    assert step.sigma == CONFIG.sigma.start  # its ramp begins with the drawing
    assert not all(torch.equal(before[name], value) for name, value in first.model.generator.state_dict().items())


@pytest.mark.parametrize(("steps", "share"), [(2, 1e-5), (40, 0.99), (7, 0.5)])
def test_where_steps_compare_first_some_compare_and_some_draw(steps: int, share: float) -> None:
    assert 0 < PretrainConfig(steps=steps, compare_first=share).draws_from < steps
    assert PretrainConfig(steps=steps).draws_from == 0


def test_drawing_apart_leaves_the_points_where_they_are(data: SceneDataset, tmp_path: Path) -> None:
    """Until it draws it is the run that never does; from then on gradients are those of drawing alone."""
    representation = MODEL.representation.model_copy(update={"channels": 8, "scenery": True})
    model = MODEL.model_copy(update={"representation": representation})
    apart = CONFIG.model_copy(update={"model": model, "compare_first": 0.5, "draw_apart": True})
    alone = CONFIG.objective.model_copy(update={"likelihood": 0.0, "prior_mean": 0.0})
    run = Pretraining(apart, data)
    compared = Pretraining(apart.model_copy(update={"objective": alone}), data)
    for _, one, other in zip(range(6), run.steps(), compared.steps(), strict=False):
        assert one.losses.total == other.losses.total
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    losses = [step.losses for step in run.steps()]
    assert len(losses) == 6
    assert all(loss.geometry.isnan() and loss.contrast.isnan() and loss.prior_mse.isfinite() for loss in losses)
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    learns = ("generator.", "representation.free.", "representation.scenery.")
    assert {name for name in before if name.startswith("representation.")} & changed == {
        name for name in before if name.startswith(learns[1:])
    }
    assert all(name.startswith(learns) for name in changed)
    views = Views(torch.tensor(data.images[:4, :3]), torch.tensor(data.poses[:4, :3]))
    points = [each.model.represent(views)[:, : 3 * run.model.representation.points] for each in (run, compared)]
    torch.testing.assert_close(*points)


def test_drawing_apart_resumes_as_the_same_run(data: SceneDataset, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"compare_first": 0.5, "draw_apart": True})
    whole, first, second = (Pretraining(config, data) for _ in range(3))
    list(whole.steps())
    for _ in zip(range(8), first.steps(), strict=False):
        pass
    first.save(tmp_path / "checkpoint.pt")
    second.load(tmp_path / "checkpoint.pt")
    list(second.steps())
    assert _equal(whole, second)


def test_without_auxiliary_terms_the_loss_is_the_elbo(data: SceneDataset) -> None:
    """The paper's recipe: the weighted total is the negative ELBO per colour value and nothing else."""
    plain = ObjectiveConfig(likelihood=1.0, contrast=0, geometry=0, prior_mean=0)
    step = next(Pretraining(CONFIG.model_copy(update={"objective": plain}), data).steps())
    np.testing.assert_allclose(
        float(step.losses.total), float(step.losses.negative_elbo) / (SIDE * SIDE * 3), rtol=1e-5
    )
    assert np.isnan(float(step.losses.contrast))
    assert np.isnan(float(step.losses.geometry))
    assert np.isnan(float(step.losses.prior_mse))


def test_contrast_is_low_for_views_that_match_and_chance_for_views_that_do_not() -> None:
    torch.manual_seed(0)
    head = ContrastHead(32, 16)
    with torch.no_grad():
        head.log_scale.fill_(np.log(50.0))
    scenes = torch.randn(64, 32)
    matched, accuracy = head(scenes, scenes + 0.01 * torch.randn(64, 32))
    unmatched, by_chance = head(scenes, torch.randn(64, 32))
    assert accuracy == 1.0
    assert matched < 0.1
    assert unmatched > np.log(64)
    assert by_chance < 0.2


def test_an_autoencoder_draws_the_view_that_it_is_given(data: SceneDataset) -> None:
    objective = ObjectiveConfig(contrast=0, geometry=0)
    config = CONFIG.model_copy(update={"objective": objective, "max_context": 1, "query": "seen"})
    pretraining = Pretraining(config, data)
    context, used, query = pretraining._batch(np.random.default_rng(0))
    drawn = slice(0, None, config.batch // config.drawn)
    assert used.all()
    torch.testing.assert_close(context.images[drawn], query.images)
    torch.testing.assert_close(context.poses[drawn], query.poses)
    for row in pretraining.gallery(2):
        np.testing.assert_array_equal(row[0], row[1])


def test_schedules_end_where_they_say() -> None:
    ramp = Ramp(start=2.0, end=0.7, steps=10)
    assert [round(ramp.at(step), 3) for step in (0, 5, 10, 99)] == [2.0, 1.35, 0.7, 0.7]
    config = PretrainConfig(steps=1000, warmup=100, learning_rate=1e-3)
    rates = [config.learning_rate_at(step) for step in range(1000)]
    assert np.argmax(rates) in (99, 100)
    assert rates[-1] < 1e-8
    apart = config.model_copy(update={"compare_first": 0.4, "draw_apart": True})
    rates = [apart.learning_rate_at(step) for step in range(1000)]
    compares, draws = np.array(rates[:400]), np.array(rates[400:])
    assert [np.argmax(compares), np.argmax(draws)] == [99, 99]
    assert max(compares[-1], draws[-1]) < 1e-7
    paper = PretrainConfig(decay="paper", learning_rate=5e-4, warmup=0)
    np.testing.assert_allclose([paper.learning_rate_at(s) for s in (0, 1_600_000, 2_000_000)], [5e-4, 5e-5, 5e-5])


def _equal(one: Pretraining, other: Pretraining) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "wall_s"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("kind", ["pyramid", "pool", "tower"])
def test_the_paper_s_configuration_is_the_paper_s_preset(kind: Literal["pyramid", "pool", "tower"]) -> None:
    config = PretrainConfig.from_yaml(ROOT / "configs" / "pretrain" / "paper.yaml", {"model.representation.kind": kind})
    assert config.model == GQNConfig.paper(kind)
    assert config.objective.model_dump(exclude={"projection"}) == {
        "likelihood": 1.0,
        "contrast": 0.0,
        "geometry": 0.0,
        "prior_mean": 0.0,
    }
    assert config.batch == config.drawn == config.explained == 36  # every scene that is drawn is explained


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(data: SceneDataset, tmp_path: Path) -> None:
    """A real one: the process may write no file larger than 50 kB, and a checkpoint is larger."""
    training = Pretraining(CONFIG, data)
    training.save(tmp_path / "checkpoint.pt")
    before = (tmp_path / "checkpoint.pt").read_bytes()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, usual[1]))
        with pytest.raises(UserError, match="no space left to write"):
            training.save(tmp_path / "checkpoint.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        signal.signal(signal.SIGXFSZ, previous)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


# What is held out -----------------------------------------------------------------------------------------------

HELD_OUT = np.arange(112, 128)


def test_no_step_sees_a_held_out_scene_and_nothing_else_is_judged(
    data: SceneDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[NDArray[Any]] = []
    batch = SceneDataset.batch
    monkeypatch.setattr(SceneDataset, "batch", lambda self, s, v: (asked.append(s), batch(self, s, v))[1])
    assert len(data) - CONFIG.held_out == HELD_OUT[0]
    training = Pretraining(CONFIG.model_copy(update={"compare_first": 0.5, "draw_apart": True}), data)
    list(training.steps())
    assert np.concatenate(asked).max() < HELD_OUT[0]
    asked.clear()
    training.evaluate(probe_scenes=64)
    assert {scene for some in asked[:2] for scene in some.tolist()} == set(HELD_OUT.tolist())
    assert sum(some.min() < HELD_OUT[0] for some in asked) == 1  # those that fit the probe


def test_probes_are_fitted_on_training_scenes(data: SceneDataset) -> None:
    training = Pretraining(CONFIG, data)
    found = training.evaluate(probe_scenes=64).probes
    fit = np.linspace(0, HELD_OUT[0] - 1, 64).astype(int)
    training.model.eval()
    with torch.no_grad():
        one, other = (training._vectors(scenes, alone=False)[1] for scenes in (fit, HELD_OUT))
    truth = data.state_group("target")
    assert found["target_r2"] == pytest.approx(probe(one, truth[fit], other, truth[HELD_OUT]).r2, rel=1e-4)


def test_figures_are_those_of_drawing_the_held_out_scenes(data: SceneDataset) -> None:
    training = Pretraining(CONFIG, data)
    found = training.evaluate(probe_scenes=64)
    context, query = training._split(np.random.default_rng([CONFIG.seed, 2**31]), CONFIG.held_out)
    seen, unseen = (training._views(HELD_OUT, views) for views in (context, query))
    truth = unseen.images.float() / 255
    with torch.no_grad():
        prior = training.model.eval().predict(training.model.represent(seen), unseen.poses)
    assert found.prior_mse == pytest.approx(float((prior - truth).square().mean()), rel=1e-3)
    mean = data.images[: HELD_OUT[0]].mean((0, 1)) / 255
    assert found.mean_image_mse == pytest.approx(np.square(truth.numpy() - mean).mean(), rel=1e-4)


def test_a_gallery_shows_given_views_and_then_another(data: SceneDataset) -> None:
    for scene, row in zip((HELD_OUT[0], HELD_OUT[-1]), Pretraining(CONFIG, data).gallery(2), strict=True):
        np.testing.assert_allclose(np.stack(row[:4]) * 255, data.images[scene, :4], atol=1e-3)


def test_a_step_goes_at_the_rate_that_it_says_and_no_further_than_the_clip(data: SceneDataset) -> None:
    training = Pretraining(CONFIG.model_copy(update={"clip": 1e-3}), data)
    for step in training.steps():
        assert [group["lr"] for group in training._optimizer.param_groups] == [step.learning_rate]
        norms = [parameter.grad.norm() for parameter in training._parameters if parameter.grad is not None]
        assert torch.stack(norms).norm() < 1.01e-3 < step.gradient_norm
