"""Laws of the benchmark: what a grid holds, that its runs are ordinary ones, and that it stops, goes on and skips."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import ROOT, ToyEncoder, cli_environment, toy_values
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO, SAC

from gqn_rl.agents.benchmark import ArmFacts, BenchmarkConfig, Job, _pretraining, check, expand, merged
from gqn_rl.agents.benchmark_jobs import run_jobs
from gqn_rl.agents.benchmark_results import publish, steps_done
from gqn_rl.agents.interrupts import StopRequest, stopping_when
from gqn_rl.agents.runs import Row
from gqn_rl.agents.training import TrainConfig, train
from gqn_rl.agents.vec_scene import encoder_hash
from gqn_rl.cli import main
from gqn_rl.commands.configurations import configs_folder
from gqn_rl.config import UserError, read_yaml
from gqn_rl.encoder import load_encoder
from gqn_rl.results import read_results
from gqn_rl.types import SceneEncoder

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
SHIPPED = sorted((configs_folder() / "benchmark").glob("*.yaml"))
TOLD: dict[str, Any] = {"encoder": None, "env": {"kwargs": {"obs_mode": "state"}}}


def toy_grid(path: Path, task: str = "toy", arms: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A file with two arms, ``state`` and ``gqn``, unless told others."""
    shared = toy_values(**{"total_steps": 60, "evaluation__every": 30, "checkpoint_every": 30, **changes})
    values = {"task": task, "shared": shared, "arms": {"state": TOLD, "gqn": {}} if arms is None else arms}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def toy_jobs(folder: Path, seeds: tuple[int, ...] = (0,), **changes: Any) -> list[Job]:
    return expand([toy_grid(folder / "toy.yaml", **changes)], seeds, folder / "runs", folder / "results")


def scores(path: Path) -> list[str]:
    """The lines of a run's CSV, but for wall-clock."""
    wall_s = [field.name for field in fields(Row)].index("wall_s")
    return [",".join(v for i, v in enumerate(line.split(",")) if i != wall_s) for line in path.read_text().splitlines()]


# What a grid holds --------------------------------------------------------------------------------------------

mappings = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | st.integers(), max_size=3),
    max_leaves=6,
)


@given(mappings, mappings)
def test_changes_win_and_the_rest_stays(base: dict[str, Any], changes: dict[str, Any]) -> None:
    both = merged(base, changes)
    assert merged(base, {}) == base
    assert merged(both, changes) == both
    assert both.keys() == base.keys() | changes.keys()
    for key, value in both.items():
        if not (isinstance(base.get(key), dict) and isinstance(changes.get(key), dict)):
            assert value == changes.get(key, base.get(key))


def test_order_is_seed_by_seed_and_every_run_has_files_of_its_own(tmp_path: Path) -> None:
    first, second = toy_grid(tmp_path / "a.yaml", "a"), toy_grid(tmp_path / "b.yaml", "b")
    jobs = expand([first, second], (0, 7), tmp_path / "runs", tmp_path / "results")
    cells = [f"{task}/{arm}" for task in "ab" for arm in ("state", "gqn")]
    assert [job.name for job in jobs[:4]] == [f"{cell}-seed0" for cell in cells]
    assert [job.name for job in jobs[4:]] == [f"{cell}-seed7" for cell in cells]
    assert len({job.folder for job in jobs}) == len({job.results for job in jobs}) == len(jobs)
    for job in jobs:
        assert job.name == f"{job.config.task}/{job.config.arm}-seed{job.config.seed}"
        assert (job.folder, job.results) == (tmp_path / "runs" / job.name, tmp_path / "results" / job.name)
    few = expand([first, second], (0,), tmp_path, tmp_path, ["state"])
    assert [job.name for job in few] == ["a/state-seed0", "b/state-seed0"]


def test_arms_may_have_budgets_of_their_own_and_threads_are_one(tmp_path: Path) -> None:
    path = toy_grid(tmp_path / "toy.yaml", arms={"short": {}, "long": {"total_steps": 600}})
    budgets = {job.config.arm: job.config.total_steps for job in expand([path], (0,), tmp_path, tmp_path)}
    assert budgets == {"short": 60, "long": 600}
    values = read_yaml(path)
    del values["shared"]["threads"]
    assert BenchmarkConfig.from_mapping(values).train_config("short", 0).threads == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arms": {"gqn": {"encodr": "x"}}}, ["toy.yaml, arm 'gqn'", "'encodr'", "did you mean 'encoder'"]),
        ({"arms": {"gqn": {"evaluation": {"every": 0}}}}, ["arm 'gqn'", "'evaluation.every' is 0"]),
        ({"arms": {"gqn": {"seed": 3}}}, ["arm 'gqn' sets 'seed', which the benchmark does itself"]),
        ({"arms": {"a/b": {}}}, ["'arms.a/b"]),
        ({"arms": {"gqn": None}}, ["'arms.gqn' is None"]),
        ({"arms": {}}, ["'arms' is {}"]),
        ({"task": "../x"}, ["'task' is '../x'"]),
        ({"tsk": "x"}, ["unknown key 'tsk' (did you mean 'task'?)"]),
    ],
)
def test_mistakes_in_a_file_are_named(change: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    path = toy_grid(tmp_path / "toy.yaml")
    path.write_text(yaml.safe_dump({**read_yaml(path), **change}, sort_keys=False))
    with pytest.raises(UserError) as error:
        expand([path], (0,), tmp_path, tmp_path)
    for word in words:
        assert word in str(error.value)


def test_mistakes_on_the_command_line_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(toy_grid(tmp_path / "toy.yaml"))
    for arguments, words in [
        ([path, "--arms", "gqm"], "no arm 'gqm' (did you mean 'gqn'?); there are state, gqn"),
        ([path, path], "is of task 'toy', as"),
        (["benchmark/smoek"], "did you mean 'benchmark/smoke'"),
    ]:
        assert main(["benchmark", *arguments, "--runs", str(tmp_path / "runs")]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1
    for seeds in ("4-0", "a", "1-", ""):
        assert main(["benchmark", path, "--seeds", seeds]) == 2
        assert "argument --seeds: " in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder": "no-such"}, "arm 'gqn': no encoder 'no-such'"),
        ({"algorithm": {"kwargs": {"gama": 1}}}, "did you mean 'gamma'"),
        ({"algorithm": {"kwargs": {"learning_rate": "fast"}}}, "learning_rate"),
        ({"env": {"kwargs": {"obs_mode": "vews"}}}, "obs_mode must be one of"),
        ({"encoder": None}, "neither encoder nor pixels says what to make of them"),
    ],
)
def test_what_would_stop_an_arm_is_said_before_any_run(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="task 'toy', arm 'gqn'") as error:
        check(toy_jobs(tmp_path, arms={"state": TOLD, "gqn": change}))
    assert words in str(error.value)


def test_an_arm_is_shown_once_with_the_encoder_that_it_runs_with(tmp_path: Path) -> None:
    shown: list[tuple[str | None, SceneEncoder | None]] = []
    jobs = toy_jobs(tmp_path, seeds=(0, 1))
    check(jobs, notice=lambda config, encoder: shown.append((config.arm, encoder)))
    assert [arm for arm, _ in shown] == ["state", "gqn"]
    assert shown[0][1] is None
    encoder = shown[1][1]
    assert encoder is not None
    assert encoder_hash(encoder) == encoder_hash(ToyEncoder())


# The shipped grids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_arms_differ_in_nothing_but_what_is_seen(path: Path) -> None:
    """And in how long they may learn; what reads pictures, or points, brings the part of its policy that reads them.

    SB3's convolutional policy has the learning rate that it does better with.
    """
    grid = BenchmarkConfig.from_mapping(read_yaml(path), source=str(path))
    assert grid.task == path.stem

    def rest(arm: str) -> dict[str, Any]:
        values = grid.train_config(arm, 0).to_dict()
        for key in ("arm", "encoder", "finetune", "pixels", "context", "certainty", "total_steps"):
            del values[key]
        mode = values["env"]["kwargs"].pop("obs_mode")
        assert mode in (("state", "oracle") if arm == "state" else ("views",))
        if arm == "pixels_aug":
            assert values["algorithm"].pop("policy") == "gqn_rl.agents.drq:CriticEncoderPolicy"
            assert values["algorithm"]["kwargs"].pop("n_steps") > 1
            assert values["algorithm"]["kwargs"].pop("replay_buffer_kwargs").keys() == {"shift"}
        elif arm == "pixels":
            shared = grid.train_config("state", 0).algorithm.kwargs
            values["algorithm"]["kwargs"] |= {key: shared[key] for key in ("learning_rate",) if key in shared}
        elif arm == "gqn":
            reader = values["algorithm"]["kwargs"].get("policy_kwargs", {}).pop("features_extractor_class", None)
            assert reader in (None, "gqn_rl.agents.queries:PointQueries")
        elif arm == "gqn_finetuned":
            policy_kwargs = values["algorithm"]["kwargs"].setdefault("policy_kwargs", {})
            policy_kwargs.pop("encoder_learning_rate_factor", None)
        values["algorithm"].pop("policy", None)
        values["algorithm"]["kwargs"].setdefault("policy_kwargs", {})
        return values

    assert {"state", "pixels_aug"} <= grid.arms.keys()
    assert all(rest(arm) == rest("state") for arm in grid.arms)


def test_smoke_grid_has_every_arm_that_there_is() -> None:
    arms = {path.stem: set(read_yaml(path)["arms"]) for path in SHIPPED}
    assert arms.pop("smoke") == set().union(*arms.values())


def test_fixed_and_moving_cameras_are_otherwise_one_task() -> None:
    fixed, moving = (
        read_yaml(configs_folder() / "benchmark" / f"arm_reach_{name}.yaml") for name in ["fixed", "moving"]
    )
    assert moving["shared"]["env"]["kwargs"].pop("cameras") == "moving"
    for grid in (fixed, moving):  # each claim asks its own number of steps of the pixel arms
        for arm in grid["arms"].values():
            arm.pop("total_steps", None)
    assert (fixed["shared"], fixed["arms"]) == (moving["shared"], moving["arms"])


def test_whole_smoke_grid_through_the_command_line(cli: Cli, tmp_path: Path) -> None:
    done = cli("benchmark", "benchmark/smoke", "--seeds", "0", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    grid = BenchmarkConfig.from_mapping(read_yaml(configs_folder() / "benchmark" / "smoke.yaml"))
    runs, notes = read_results(tmp_path / "benchmarks" / "results")
    assert notes == []
    assert {run.arm for run in runs} == set(grid.arms)
    for run in runs:
        assert run.finished
        assert list(run.steps) == [6, 12]
        assert run.facts.random_score == runs[0].facts.random_score  # the same episodes for all arms
        assert run.facts.updates == 6
        assert run.facts.views == (0 if run.arm == "state" else 2)
    frames = {run.arm: run.facts.pretraining_frames for run in runs}
    assert frames["gqn"] == frames["gqn_finetuned"] == 153_600
    assert frames["untrained"] == 0
    assert frames["state"] is frames["pixels"] is None
    again = cli("benchmark", "benchmark/smoke", "--seeds", "0")
    assert again.returncode == 0
    assert f"{len(runs)} runs, {len(runs)} of them done before" in again.stdout


# Running ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Job], dict[tuple[str, str], ArmFacts]]:
    """A grid of two arms and two seeds that is done; read it, and leave it as it is."""
    jobs = toy_jobs(tmp_path_factory.mktemp("grid"), (0, 1))
    facts = check(jobs)
    outcomes = run_jobs(jobs, facts, workers=2)
    assert [(outcome.name, outcome.status) for outcome in outcomes] == [(job.name, "finished") for job in jobs]
    return jobs, facts


def test_every_run_is_what_train_does(grid: Any, tmp_path: Path) -> None:
    jobs, _ = grid
    for index, job in enumerate(jobs[-2:]):
        folder = tmp_path / str(index)
        train(folder, job.config, load_encoder(job.config.encoder) if job.config.encoder else None)
        assert scores(job.results.with_suffix(".csv")) == scores(folder / "evaluations.csv")


def test_results_hold_what_is_known_of_a_run(grid: Any) -> None:
    for job in grid[0]:
        found = json.loads(job.results.with_suffix(".json").read_text())
        assert job.results.with_suffix(".csv").read_text() == job.run.evaluations.read_text()
        assert (found["task"], found["arm"], found["seed"]) == ("toy", job.config.arm, job.config.seed)
        assert found["finished"] is True
        assert found["budget"] == steps_done(job) == 60
        random_policy = json.loads(job.run.random_policy.read_text())
        assert (found["random_score"], found["random_success"]) == (random_policy["score"], random_policy["success"])
        assert found["updates"] == SAC.load(job.run.final_model)._n_updates == 60 - 40
        assert TrainConfig.from_mapping(found["config"]) == job.config
        assert found["versions"]["git_commit"]
        assert found["resumed"] == []
        assert found["threads"] == 1
        assert (found["encoder_hash"] is None) == (job.config.arm == "state")
        assert job.log.read_text().startswith("training in")
        assert not job.run.checkpoints.exists()  # nobody goes on from there


def test_what_is_no_gradient_update_is_not_counted_as_one(tmp_path: Path) -> None:
    """PPO counts its passes over a rollout, each of several minibatches."""
    kwargs = {"n_steps": 20, "batch_size": 5, "n_epochs": 2}
    job = toy_jobs(tmp_path, algorithm={"id": "PPO", "kwargs": kwargs})[0]
    assert [outcome.status for outcome in run_jobs([job], check([job]))] == ["finished"]
    assert PPO.load(job.run.final_model)._n_updates == 3 * 2
    assert json.loads(job.results.with_suffix(".json").read_text())["updates"] is None


def test_replay_memory_is_that_of_the_real_buffer(tmp_path: Path) -> None:
    job = toy_jobs(tmp_path)[0]
    facts = check([job])["toy", "state"]
    train(job.folder, job.config)
    # observations and next ones (4), action (2), reward, done, timeout: float32
    assert facts.replay_bytes == 60 * (4 * (4 + 4 + 2 + 1 + 1 + 1))
    assert SAC.load(job.run.final_model).buffer_size == 60


def test_finished_runs_are_skipped_and_their_results_written_again(grid: Any) -> None:
    jobs, facts = grid
    before = {job.name: job.run.summary.stat().st_mtime_ns for job in jobs}
    path = jobs[0].results.with_suffix(".csv")
    text = path.read_text()
    path.unlink()
    assert run_jobs(jobs, facts) == []
    assert path.read_text() == text
    assert {job.name: job.run.summary.stat().st_mtime_ns for job in jobs} == before


def test_results_of_a_finished_run_are_never_made_again_nor_written_over(grid: Any, tmp_path: Path) -> None:
    """Also where the run itself is gone, as in a checkout with nothing but its results."""
    jobs, _ = grid
    shutil.copytree(jobs[0].results.parent, tmp_path / "results" / "toy")
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.*")}
    (tmp_path / "results" / "toy" / "gqn-seed1.csv").unlink()
    (tmp_path / "results" / "toy" / "gqn-seed1.json").unlink()
    here = toy_jobs(tmp_path, (0, 1))
    assert [job.done for job in here] == [True, True, True, False]
    assert [(outcome.name, outcome.status) for outcome in run_jobs(here, check(here))] == [
        ("toy/gqn-seed1", "finished")
    ]
    assert all(path.read_bytes() == content for path, content in before.items() if path.stem != "gqn-seed1")
    assert scores(here[-1].results.with_suffix(".csv")) == scores(jobs[-1].results.with_suffix(".csv"))
    assert [job.name for job in here if job.folder.exists()] == ["toy/gqn-seed1"]


def test_results_of_another_run_are_refused_before_any_work(grid: Any, tmp_path: Path) -> None:
    jobs, _ = grid
    shutil.copytree(jobs[0].results.parent, tmp_path / "results" / "toy")
    another = (
        r"state-seed0.json holds a run with another configuration: total_steps was 60 and is now 90; use another --out"
    )
    with pytest.raises(UserError, match=another):
        check(toy_jobs(tmp_path, total_steps=90))
    path = tmp_path / "results" / "toy" / "gqn-seed0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "encoder_hash": "other", "finished": False}))
    with pytest.raises(
        UserError, match=r"gqn-seed0.json is of a run that saw with another encoder \(other, now .*--out"
    ):
        check(toy_jobs(tmp_path))
    path.write_text("[]")
    with pytest.raises(UserError, match=r"gqn-seed0.json is no run's: it has no 'config'; choose another --out"):
        check(toy_jobs(tmp_path))


def test_committed_results_are_of_the_configurations_here() -> None:
    """So their commands make no run again that is there, and refuse none."""
    results = Path(__file__).parents[1] / "benchmarks" / "results"
    jobs = expand([path for path in SHIPPED if path.stem != "smoke"], range(6), Path("nowhere"), results)
    hashes: dict[str | None, str | None] = {None: None}
    for job in (job for job in jobs if job.kept is not None):
        encoder = job.config.encoder
        if encoder not in hashes:
            hashes[encoder] = encoder_hash(load_encoder(str(encoder)))
        job.check_kept(hashes[encoder])
        assert job.published
    assert {job.config.arm for job in jobs if job.published} == {job.config.arm for job in jobs}


def test_a_finished_run_s_results_keep_the_configuration_that_it_was_begun_with(tmp_path: Path) -> None:
    job = toy_jobs(tmp_path)[0]
    facts = check([job])
    run_jobs([job], facts)
    values = yaml.safe_load(job.run.config.read_text())
    del values["certainty"]  # as if it had come later
    job.run.config.write_text(yaml.safe_dump(values))
    job.results.with_suffix(".json").unlink()  # it was killed before this
    assert run_jobs([job], check([job])) == []
    assert json.loads(job.results.with_suffix(".json").read_text())["config"] == values


def test_folder_with_another_run_is_refused(grid: Any, tmp_path: Path) -> None:
    jobs, _ = grid
    shutil.copytree(jobs[0].folder.parent, tmp_path / "runs" / "toy")
    another = r"arm 'state': .*holds a run with another configuration: total_steps was 60 .*use another --runs"
    with pytest.raises(UserError, match=another):
        check(toy_jobs(tmp_path, total_steps=90))
    (tmp_path / "runs" / "toy" / "gqn-seed0" / "encoder.json").write_text(
        '{"encoder": "same", "encoder_hash": "other"}'
    )
    with pytest.raises(UserError, match=r"arm 'gqn': .*was trained with encoder same \(other\)"):
        check(toy_jobs(tmp_path))


def test_one_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    jobs = toy_jobs(tmp_path)
    (jobs[0].folder / "somebodys.txt").parent.mkdir(parents=True)
    (jobs[0].folder / "somebodys.txt").touch()
    failed, finished = run_jobs(jobs, check(jobs), workers=1)
    assert failed.status == "failed"
    assert "holds no run" in failed.reason
    assert "holds no run" in jobs[0].log.read_text()
    assert finished.status == "finished"


def test_results_that_cannot_be_published_stop_no_other_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = toy_jobs(tmp_path)

    def publish_the_second(job: Job, facts: ArmFacts) -> bool:
        if job is jobs[0]:
            raise UserError("a file is damaged")
        return publish(job, facts)

    monkeypatch.setattr("gqn_rl.agents.benchmark_jobs.publish", publish_the_second)
    with pytest.raises(UserError, match=r"^toy/state-seed0: a file is damaged$"):
        run_jobs(jobs, check(jobs), workers=1)
    assert all(job.run.finished for job in jobs)
    assert jobs[1].results.with_suffix(".csv").exists()
    monkeypatch.undo()
    assert run_jobs(jobs, check(jobs)) == []  # mended
    assert jobs[0].results.with_suffix(".csv").exists()


def test_checkpoints_of_a_run_that_was_killed_just_after_its_end_are_deleted(grid: Any) -> None:
    jobs, facts = grid
    (jobs[0].run.checkpoints / "step_000000030").mkdir(parents=True)
    assert run_jobs(jobs, facts) == []
    assert not jobs[0].run.checkpoints.exists()


def test_condition_is_a_request_to_stop_while_it_is_entered() -> None:
    with StopRequest() as request:
        assert not request.received
        with stopping_when(lambda: True):
            assert request.received
        assert not request.received


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_stopped_grid_keeps_what_it_has_and_goes_on_to_the_same_end(number: signal.Signals, tmp_path: Path) -> None:
    """SIGINT as a terminal sends it, to every process of the command; SIGTERM to the command alone."""
    changes: dict[str, Any] = {"total_steps": 900, "evaluation__every": 50, "checkpoint_every": 50}
    jobs = toy_jobs(tmp_path, **changes)
    command = [sys.executable, str(ROOT / "train.py"), "benchmark", "toy.yaml", "--seeds", "0", "--jobs", "1"]
    command += ["--runs", "runs", "--out", "results"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=cli_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        while process.poll() is None and not jobs[0].results.with_suffix(".csv").exists():
            time.sleep(0.02)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        output = process.communicate(timeout=120)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, output
    assert "interrupted with 0 of 2 runs done; run the same command to go on" in output
    assert not list((tmp_path / "runs").glob(".stop*"))
    assert jobs[0].results.with_suffix(".csv").exists()
    assert json.loads(jobs[0].results.with_suffix(".json").read_text())["finished"] is False
    assert not jobs[1].folder.exists()
    assert [outcome.status for outcome in run_jobs(jobs[:1], check(jobs[:1]), workers=1)] == ["finished"]
    assert "resuming" in jobs[0].log.read_text()
    train(tmp_path / "whole", jobs[0].config)
    assert scores(jobs[0].results.with_suffix(".csv")) == scores(tmp_path / "whole" / "evaluations.csv")


def test_partial_results_end_in_whole_lines(grid: Any, tmp_path: Path) -> None:
    jobs, facts = grid
    job = Job(jobs[0].config, tmp_path / "run", tmp_path / "results" / "run")
    assert not publish(job, facts["toy", "state"])
    shutil.copytree(jobs[0].folder, job.folder)
    text = job.run.evaluations.read_text()
    job.run.evaluations.write_text(text[:-5])  # a run that is just writing
    job.run.summary.unlink()
    assert publish(job, facts["toy", "state"])
    assert job.results.with_suffix(".csv").read_text() == "".join(text.splitlines(keepends=True)[:-1])
    found = json.loads(job.results.with_suffix(".json").read_text())
    assert (found["finished"], found["updates"]) == (False, None)
    assert steps_done(job) == 30


def test_results_are_json_also_where_a_configuration_is_more(grid: Any, tmp_path: Path) -> None:
    jobs, facts = grid
    job = Job(jobs[0].config, tmp_path / "run", tmp_path / "results" / "run")
    shutil.copytree(jobs[0].folder, job.folder)
    values = yaml.safe_load(job.run.config.read_text())
    values["env"]["kwargs"] = {"marker": [0.7, float("inf")], "weights": {0: 1.0}}
    job.run.config.write_text(yaml.safe_dump(values))
    assert publish(job, facts["toy", "state"])
    found = json.loads(job.results.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert found["config"]["env"]["kwargs"] == {"marker": [0.7, "Infinity"], "weights": {"0": 1.0}}


@pytest.mark.slow
def test_same_grid_through_ray(cli: Cli, grid: Any, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    toy_grid(tmp_path / "toy.yaml")
    options = ["--seeds", "0", "--jobs", "1", "--backend", "ray", "--runs", "runs", "--out", "results"]
    done = cli("benchmark", "toy.yaml", *options)
    assert done.returncode == 0, done.stderr
    for job in grid[0][:2]:
        assert scores(tmp_path / "results" / f"{job.name}.csv") == scores(job.results.with_suffix(".csv"))


def test_without_ray_the_extra_is_named(grid: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    jobs = toy_jobs(tmp_path)
    with pytest.raises(UserError, match=r"pip install 'gqn-rl\[ray\]'"):
        run_jobs(jobs, grid[1], backend="ray")


def test_pretraining_costs_what_all_its_stages_cost() -> None:
    stage = {"data": {"frames": 4}, "compute": {"device": "cpu", "wall_minutes": 1.0}}
    card = {"data": {"frames": 6}, "compute": {"device": "cpu", "wall_minutes": 2.0, "threads": 3}, "lineage": [stage]}
    encoder: Any = SimpleNamespace(card=card)
    assert _pretraining("mine", encoder) == (10, 420.0)
