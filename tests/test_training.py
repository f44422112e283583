"""Laws of a training run: exact resumption, undisturbed learning, its folder's rules, and clear refusals."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from conftest import EPISODE, ROOT, TOY_ID, OtherEncoder, ToyEncoder, ToyReach, cli_environment, toy_values
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv

from gqn_rl import CAMERA_RIG
from gqn_rl.agents.build import build_model, find_env, load_model, make_env, make_vec_env, resolve_algorithm, see_with
from gqn_rl.agents.checkpoints import (
    cut_episodes,
    latest_checkpoint,
    load_replay,
    newest,
    replay_buffer,
    save_checkpoint,
    save_replay,
)
from gqn_rl.agents.evaluation import Evaluation
from gqn_rl.agents.interrupts import TrainingInterrupted, stopping_when
from gqn_rl.agents.replay import replay
from gqn_rl.agents.runs import Row, RunFolder, check_same_config
from gqn_rl.agents.seeding import HELD_OUT, own_randomness, stretch_seeds
from gqn_rl.agents.tracking import Tracker
from gqn_rl.agents.training import TrainConfig, check_episodes_end, make_envs, see, train
from gqn_rl.cli import main
from gqn_rl.config import UserError
from gqn_rl.files import locked
from gqn_rl.types import RenderError

PPO_VALUES = {"algorithm": {"id": "PPO", "kwargs": {"n_steps": 20, "batch_size": 20, "n_epochs": 2}}}
DRIVER = """
import sys
from pathlib import Path
from conftest import ToyEncoder
from gqn_rl.agents.training import TrainConfig, train
train(Path(sys.argv[1]), TrainConfig.from_yaml(sys.argv[2]), ToyEncoder())
"""


def toy_config(**changes: Any) -> TrainConfig:
    return TrainConfig.from_mapping(toy_values(**changes))


def parameters(path: Path, algorithm: type[BaseAlgorithm] = SAC) -> dict[str, torch.Tensor]:
    """Everything learned, optimisers included, by name."""
    model = load_model(algorithm, path)
    flat: dict[str, torch.Tensor] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{prefix}.{key}", inner)
        elif isinstance(value, list | tuple):
            add(prefix, dict(enumerate(value)))
        elif isinstance(value, torch.Tensor):
            flat[prefix] = value
        else:
            flat[prefix] = torch.tensor(float(value or 0))

    add("model", model.get_parameters())
    if isinstance(model, SAC):
        assert model.log_ent_coef is not None
        flat["log_ent_coef"] = model.log_ent_coef.detach()
    return flat


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def records(folder: Path) -> list[tuple[Any, ...]]:
    """The evaluations of a run, but for wall-clock."""
    return [
        (row.task, row.arm, row.seed, row.step, row.score, row.success, row.length) for row in RunFolder(folder).rows()
    ]


def run_and_kill(folder: Path, config: Path, rows: int, delay: float) -> None:
    """Start or resume the run in a process of its own; SIGKILL it ``delay`` seconds after its evaluation ``rows``."""
    environment = {**cli_environment(), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), str(config)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while process.poll() is None and len(RunFolder(folder).rows()) < rows:
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        output = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == -signal.SIGKILL, output
    assert not RunFolder(folder).finished


@pytest.mark.parametrize(
    ("algorithm", "changes", "kills"),
    [(SAC, {}, 2), (SAC, {"n_envs": 2}, 1), (PPO, PPO_VALUES, 1)],
    ids=["off-policy", "two environments", "on-policy"],
)
def test_killed_run_ends_bit_identical_to_one_never_stopped(
    algorithm: type[BaseAlgorithm], changes: dict[str, Any], kills: int, tmp_path: Path
) -> None:
    values = toy_values(**changes, seed=3, total_steps=300, checkpoint_every=80)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(whole, TrainConfig.from_mapping(values), ToyEncoder())
    for rows, delay in ((1, 0.03), (2, 0.11))[:kills]:
        run_and_kill(killed, tmp_path / "config.yaml", rows, delay)
    resumed_from, _ = latest_checkpoint(killed / "checkpoint")
    assert resumed_from is not None
    assert 0 < resumed_from.step < 300
    train(killed, TrainConfig.from_mapping(values), ToyEncoder())
    assert records(killed) == records(whole)
    assert [row.step for row in RunFolder(whole).rows()] == [100, 200, 300]
    for name in ("final_model.zip", "best_model.zip"):
        assert same(parameters(killed / name, algorithm), parameters(whole / name, algorithm)), name


@pytest.mark.parametrize(("rows", "words"), [(1, "begin again at step 0"), (3, "go on from step 100")])
def test_a_stopped_run_goes_on_from_where_it_says(
    rows: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = RunFolder(tmp_path), toy_config(total_steps=200, evaluation={"every": 50, "episodes": 2})
    with stopping_when(lambda: len(run.rows()) >= rows), pytest.raises(TrainingInterrupted, match=words) as stop:
        train(run.path, config, ToyEncoder())
    assert f"interrupted at step {50 * rows + 1}" in str(stop.value)
    assert ("before the first checkpoint" in str(stop.value)) == (rows == 1)
    capsys.readouterr()
    train(run.path, config, ToyEncoder())
    assert ("resuming" if rows > 1 else "training in") in (said := capsys.readouterr().out)
    assert ("at step 100\n" in said) == (rows > 1)


def test_an_algorithm_that_asks_nobody_whether_to_go_on_stops_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And it is said that its noise, which is drawn before a checkpoint is written, does not come again."""
    pytest.importorskip("sb3_contrib")
    run = RunFolder(tmp_path)
    algorithm = {"id": "sb3_contrib:ARS", "kwargs": {"n_delta": 2}}  # 4 episodes of 8 steps in a rollout
    evaluation = {"every": 64, "episodes": 1}
    config = toy_config(algorithm=algorithm, total_steps=96, checkpoint_every=64, evaluation=evaluation)
    told = "interrupted at step 65; .* go on from step 64"
    with stopping_when(lambda: bool(run.rows())), pytest.raises(TrainingInterrupted, match=told):
        train(run.path, config, ToyEncoder())
    assert "a run of it that is resumed is not sure to repeat exactly" in capsys.readouterr().out
    train(run.path, config, ToyEncoder())
    assert [row.step for row in run.rows()] == [64, 96]


def test_a_run_says_with_which_versions_it_went_on(tmp_path: Path) -> None:
    """The first are what it was begun with; the others count from the step where it went on, if anything is left."""
    run = RunFolder(tmp_path)

    def known() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run.versions.read_text())
        return found

    def pretend(**others: str) -> None:
        """That what the run was last at work with were something else."""
        before = known()
        last = before.get("resumed", [before])[-1]
        last.update(others)
        run.versions.write_text(json.dumps(before))

    run.begin(toy_config(), None, "abc")
    now = known()
    assert run.go_on(50) == []
    assert known() == now
    pretend(torch="1.0")
    assert run.go_on(0) == []  # it begins again
    assert known() == now
    pretend(torch="1.0")
    assert run.go_on(50) == [f"torch 1.0 -> {now['torch']}"]
    assert run.go_on(50) == [f"torch 1.0 -> {now['torch']}"]  # before the next checkpoint
    assert run.go_on(100) == []
    pretend(numpy="1.0")
    assert run.go_on(100) == [f"numpy 1.0 -> {now['numpy']}"]
    versions = {key: value for key, value in now.items() if key != "encoder_hash"}
    resumed = [{"step": 50, **versions, "numpy": "1.0"}, {"step": 100, **versions}]
    assert known() == {**now, "torch": "1.0", "resumed": resumed}


def test_another_seed_ends_elsewhere(finished_run: Path, tmp_path: Path) -> None:
    """The equalities above mean something: they do not hold for just any two runs."""
    train(tmp_path / "run", toy_config(total_steps=150, seed=1), ToyEncoder())
    assert records(tmp_path / "run") != records(finished_run)
    assert not same(parameters(tmp_path / "run/final_model.zip"), parameters(finished_run / "final_model.zip"))


def test_evaluation_does_not_disturb_training(finished_run: Path, tmp_path: Path) -> None:
    """The same run evaluated only once, in other episodes, and not tracked, learns the same to the bit."""
    quiet = toy_config(total_steps=150, evaluation={"every": 10_000, "episodes": 2})
    train(tmp_path / "run", quiet, ToyEncoder())
    assert [row.step for row in RunFolder(tmp_path / "run").rows()] == [150]
    assert [row.step for row in RunFolder(finished_run).rows()] == [100, 150]
    assert same(parameters(tmp_path / "run/final_model.zip"), parameters(finished_run / "final_model.zip"))


def test_noise_of_state_dependent_exploration_resumes_too(tmp_path: Path) -> None:
    """gSDE draws its noise matrix before a callback can seed: the one generator state that a zip does not hold."""
    values = toy_values(
        **PPO_VALUES, total_steps=120, checkpoint_every=40, evaluation__every=1000, evaluation__episodes=1
    )
    values["algorithm"]["kwargs"]["use_sde"] = True
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    config = TrainConfig.from_mapping(values)
    train(whole, config, ToyEncoder())
    with stopping_when(lambda: newest(resumed / "checkpoint") is not None), pytest.raises(TrainingInterrupted):
        train(resumed, config, ToyEncoder())
    torch.manual_seed(0)
    train(resumed, config, ToyEncoder())
    assert same(parameters(whole / "final_model.zip", PPO), parameters(resumed / "final_model.zip", PPO))


def test_run_folder_holds_all_that_is_promised(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert names >= {
        "config.yaml",
        "versions.json",
        "encoder.json",
        "evaluations.csv",
        "best_model.zip",
        "final_model.zip",
        "summary.json",
        "learning_curve.png",
        "wandb",
    }
    assert names & {"episodes.mp4", "episodes.gif"}
    assert "checkpoint" not in names  # nobody goes on from there
    assert TrainConfig.from_yaml(finished_run / "config.yaml") == toy_config(wandb="offline", total_steps=150)
    versions = json.loads((finished_run / "versions.json").read_text())
    assert versions["torch"] == torch.__version__.split("+")[0] or versions["torch"] == torch.__version__
    assert versions["encoder_hash"] == json.loads((finished_run / "encoder.json").read_text())["encoder_hash"]
    assert list((finished_run / "wandb").glob("offline-run-*/*.wandb"))
    header = (finished_run / "evaluations.csv").read_text().splitlines()[0]
    assert header.startswith("task,arm,seed,step,score,success,wall_s")
    summary = json.loads((finished_run / "summary.json").read_text())
    last = RunFolder(finished_run).rows()[-1]
    assert (summary["steps"], summary["policy"]["score"]) == (last.step, last.score)
    assert summary["best"]["score"] == max(row.score for row in RunFolder(finished_run).rows())
    assert summary["random"]["success"] is not None
    for words in ("held-out", "random", str(finished_run), "evaluate"):
        assert words in summary["text"]


def test_saved_policy_acts_as_the_trained_one(tmp_path: Path) -> None:
    venv = make_envs(toy_config(), ToyEncoder(), 2)
    model = build_model(SAC, venv, policy=None, kwargs={"learning_starts": 5}, total_steps=20, seed=0).learn(20)
    model.save(tmp_path / "model.zip")
    observations = venv.reset()
    loaded = SAC.load(tmp_path / "model.zip")
    np.testing.assert_array_equal(
        model.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
    )


class GoalReach(ToyReach):
    """The goal stands apart, so that episodes can be told again with another one."""

    def __init__(self) -> None:
        super().__init__(obs_mode="state")
        place = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Dict(observation=place, achieved_goal=place, desired_goal=place)

    def _observe(self) -> Any:
        point, target = self.point.astype(np.float32), self.target.astype(np.float32)
        return {"observation": point, "achieved_goal": point, "desired_goal": target}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -np.linalg.norm(achieved - desired, axis=-1)


@pytest.fixture
def goals() -> Iterator[str]:
    gym.register("test/GoalReach-v0", entry_point=GoalReach, max_episode_steps=EPISODE)
    yield "test/GoalReach-v0"
    del gym.registry["test/GoalReach-v0"]


def test_hindsight_resumes_and_is_evaluated(goals: str, tmp_path: Path) -> None:
    values = toy_values(encoder=None, env={"id": goals}, total_steps=150, evaluation__every=50, checkpoint_every=50)
    values["algorithm"]["kwargs"]["replay_buffer_class"] = "stable_baselines3:HerReplayBuffer"
    config = TrainConfig.from_mapping(values)
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    train(whole.path, config)
    with stopping_when(lambda: len(stopped.rows()) >= 2), pytest.raises(TrainingInterrupted):
        train(stopped.path, config)
    train(stopped.path, config)
    assert records(stopped.path) == records(whole.path)
    assert same(parameters(stopped.final_model), parameters(whole.final_model))
    assert replay(whole.path, None, episodes=5)["score"] == whole.rows()[-1].score

    values["algorithm"]["kwargs"]["replay_buffer_kwargs"] = {"copy_info_dict": True}
    with pytest.raises(UserError, match="copy_info_dict keeps infos"):
        train(tmp_path / "infos", TrainConfig.from_mapping(values))


# Run folder rules ---------------------------------------------------------------------------------------------


def test_finished_run_is_never_overwritten(finished_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    with pytest.raises(UserError, match=r"finished run, .* never overwritten: .*evaluate .*--out or --seed") as caught:
        train(finished_run, toy_config(wandb="offline", total_steps=150), ToyEncoder())
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before


@pytest.fixture
def unfinished_run(stopped_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped_run, tmp_path / "unfinished", symlinks=True)


def test_unfinished_run_refuses_another_configuration(unfinished_run: Path) -> None:
    other = toy_config(wandb="offline", total_steps=300, algorithm__kwargs__gamma=0.9)
    with pytest.raises(UserError) as caught:
        train(unfinished_run, other, ToyEncoder())
    message = str(caught.value)
    assert "total_steps was 150 and is now 300" in message
    assert "algorithm.kwargs.gamma was None and is now 0.9" in message
    assert "learning_starts" not in message  # what is equal is not named


def test_unfinished_run_refuses_another_encoder(unfinished_run: Path) -> None:
    with pytest.raises(UserError, match=r"trained with encoder conftest:ToyEncoder \(sha256:.*not the one given"):
        train(unfinished_run, toy_config(wandb="offline", total_steps=150), OtherEncoder())


def test_resumed_last_stretch_repeats_the_first_time(unfinished_run: Path, finished_run: Path) -> None:
    """Tracking it or not may change meanwhile: that touches no result."""
    train(unfinished_run, toy_config(wandb="disabled", total_steps=150), ToyEncoder())
    assert records(unfinished_run) == records(finished_run)
    assert same(parameters(unfinished_run / "final_model.zip"), parameters(finished_run / "final_model.zip"))


def test_a_run_begun_before_there_was_a_key_goes_on_with_its_default(unfinished_run: Path, finished_run: Path) -> None:
    written = RunFolder(unfinished_run).config
    values = yaml.safe_load(written.read_text())
    del values["certainty"]
    written.write_text(yaml.safe_dump(values))
    train(unfinished_run, toy_config(wandb="offline", total_steps=150), ToyEncoder())
    assert records(unfinished_run) == records(finished_run)


def test_what_changed_since_a_run_began_is_said(
    unfinished_run: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(unfinished_run)
    begun = json.loads(run.versions.read_text())
    run.versions.write_text(json.dumps({**begun, "gqn_rl": "0.0.1", "torch": "1.0"}))
    train(run.path, toy_config(total_steps=150), ToyEncoder())
    assert f"note: gqn_rl 0.0.1 -> {begun['gqn_rl']}, torch 1.0 -> {begun['torch']} since" in capsys.readouterr().out


def test_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"not empty and holds no run \(it has thesis.tex\)"):
        train(tmp_path, toy_config(), ToyEncoder())


class Faulty(ToyReach):
    """It renders ``left`` more pictures, and then fails; below zero it cannot even be made."""

    left = 0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if Faulty.left < 0:
            raise RuntimeError("no camera\nhere")

    def _observe(self) -> Any:
        if Faulty.left == 0:
            raise RenderError("no picture; mend that first")
        Faulty.left -= 1
        return super()._observe()


@pytest.fixture
def faulty() -> Iterator[str]:
    gym.register("test/Faulty-v0", entry_point=Faulty, max_episode_steps=EPISODE)
    yield "test/Faulty-v0"
    del gym.registry["test/Faulty-v0"]


@pytest.mark.parametrize("left", [-1, 0])
def test_what_fails_at_once_leaves_nothing(
    left: int, faulty: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = tmp_path / "toy.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(toy_values()))
    Faulty.left = left
    assert main(["train", str(config), "--env", faulty, "--out", str(folder)]) == 2
    output = capsys.readouterr()
    made = f"environment {faulty} with {{}} cannot be made: RuntimeError: no camera here ({__file__}, line "
    assert (made if left < 0 else "error: no picture; mend that first") in output.err
    assert len(output.err.splitlines()) == 1
    assert output.out == ""
    assert not folder.exists()


def test_what_fails_before_the_first_step_leaves_a_free_folder(faulty: str, tmp_path: Path) -> None:
    Faulty.left = 20  # in the episodes of random actions
    with pytest.raises(RenderError):
        train(tmp_path, toy_config(env__id=faulty), ToyEncoder())
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    train(tmp_path, toy_config(total_steps=50), ToyEncoder())  # the fault is mended by other settings
    assert RunFolder(tmp_path).finished


def test_a_run_that_fails_later_goes_on_once_that_is_mended(faulty: str, tmp_path: Path) -> None:
    config = toy_config(env__id=faulty, total_steps=250)
    Faulty.left = 10**6
    train(tmp_path / "whole", config, ToyEncoder())
    Faulty.left = 10**6 - Faulty.left - 100
    with pytest.raises(RenderError):
        train(tmp_path / "run", config, ToyEncoder())
    kept, _ = latest_checkpoint(RunFolder(tmp_path / "run").checkpoints)
    assert kept is not None
    Faulty.left = 10**6
    train(tmp_path / "run", config, ToyEncoder())
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    final = [parameters(tmp_path / name / "final_model.zip") for name in ("run", "whole")]
    assert same(*final)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "run"),
        pytest.raises(UserError, match="another process is at work in"),
    ):
        train(tmp_path / "run", toy_config(), ToyEncoder())
    with locked(tmp_path / "run"):  # the lock went with its holder
        pass


def test_configuration_differences_are_named_key_by_key(tmp_path: Path) -> None:
    check_same_config(tmp_path, {"a": {"b": 1}, "c": {}}, {"a": {"b": 1}, "c": {}})
    with pytest.raises(UserError, match=r"a\.b was 1 and is now 2; d was None and is now 3"):
        check_same_config(tmp_path, {"a": {"b": 1}, "c": 0}, {"a": {"b": 2}, "c": 0, "d": 3})


def test_a_run_is_begun_with_all_that_its_configuration_says(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    config = toy_config(env__kwargs={"range": [0.7, float("inf")], "weights": {0: 1.0}, "unknown": float("nan")})
    run.begin(config, None, None)
    assert repr(TrainConfig.from_yaml(run.config)) == repr(config)
    run.check_same(config, None)
    other = toy_config(env__kwargs={**config.env.kwargs, "range": [0.7, None]})
    with pytest.raises(UserError, match=r"env.kwargs.range was \[0.7, 'Infinity'\] and is now \[0.7, None\]"):
        run.check_same(other, None)


def _row(step: int, score: float = 0.5, success: float = float("nan")) -> Row:
    return Row("a,task", "arm", 1, step, score, success, 1.5, 25.0)


def test_records_survive_a_round_trip_and_a_kill_in_mid_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.cut_rows(0) == []
    for step, score in ((100, 1 / 3), (200, -1e-9), (300, 0.1)):
        run.append_row(_row(step, score, success=0.25))
    assert [row.score for row in run.rows()] == [1 / 3, -1e-9, 0.1]
    assert run.rows()[0] == _row(100, 1 / 3, success=0.25)
    with open(run.evaluations, "a") as file:
        file.write('"a,task",arm,1,4')  # half of step 400
    assert [row.step for row in run.rows()] == [100, 200, 300]
    assert [row.step for row in run.cut_rows(200)] == [100, 200]
    assert [row.step for row in run.rows()] == [100, 200]


def test_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.evaluations.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"no space left to write .*evaluations.csv; free some space"):
        run.append_row(_row(1))


# Checkpoints --------------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> BaseAlgorithm:
    venv = make_envs(toy_config(), ToyEncoder(), 2)
    kwargs = {"learning_starts": 5, "batch_size": 8, "policy_kwargs": {"net_arch": [8]}}
    return build_model(SAC, venv, policy=None, kwargs=kwargs, total_steps=40, seed=0).learn(20)


def test_checkpoint_round_trip_and_older_ones_deleted(model: BaseAlgorithm, tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) == (None, [])
    save_checkpoint(tmp_path, model, wall_s=1.0, best_model=None)
    model.learn(10, reset_num_timesteps=False)
    best = tmp_path / "best.zip"
    model.save(best)
    saved = save_checkpoint(tmp_path, model, wall_s=2.5, best_model=best)
    found, problems = latest_checkpoint(tmp_path)
    assert found == saved
    assert (found.step, found.wall_s, problems) == (30, 2.5, [])
    assert [path.name for path in tmp_path.glob("*step_*")] == ["step_000000030"]
    assert found.best_model is not None
    assert found.best_model.read_bytes() == best.read_bytes()


@pytest.mark.parametrize("name", ["model.zip", "replay.npz", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_checkpoint_is_noticed(model: BaseAlgorithm, tmp_path: Path, name: str, damage: str) -> None:
    checkpoint = save_checkpoint(tmp_path, model, wall_s=1.0, best_model=None)
    _damage(checkpoint.path / name, damage)
    with pytest.raises(
        UserError, match=rf"checkpoint .*step_000000020 is corrupt: {name} .*; delete .* start"
    ) as caught:
        latest_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_damaged_checkpoint_falls_back_to_the_one_before(model: BaseAlgorithm, tmp_path: Path) -> None:
    older = save_checkpoint(tmp_path, model, wall_s=1.0, best_model=None)
    shutil.copytree(older.path, tmp_path / "kept")
    model.learn(10, reset_num_timesteps=False)
    newer = save_checkpoint(tmp_path, model, wall_s=2.0, best_model=None)
    (tmp_path / "kept").rename(older.path)  # as after a kill between writing one and deleting the other
    (tmp_path / ".step_000000040.tmp").mkdir()  # as after a kill while writing
    assert latest_checkpoint(tmp_path)[0] == newer
    _damage(newer.path / "model.zip", "flip")
    found, problems = latest_checkpoint(tmp_path)
    assert found == older
    assert len(problems) == 1
    assert "model.zip does not match" in problems[0]
    assert save_checkpoint(tmp_path, model, wall_s=2.0, best_model=None) == newer  # takes the corrupt one's place
    assert latest_checkpoint(tmp_path) == (newer, [])


def _damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()


FLAT = spaces.Box(-1, 1, (3,), np.float32)
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)


def _fill(buffer: ReplayBuffer, steps: int, done_every: int = 7) -> None:
    rng = np.random.default_rng(0)
    keys = buffer.observation_space.spaces if isinstance(buffer.observation_space, spaces.Dict) else None
    for step in range(steps):
        values = [rng.uniform(-1, 1, (buffer.n_envs, 3)).astype(np.float32) for _ in range(2)]
        first, second = (dict.fromkeys(keys, value) if keys else value for value in values)
        done = np.full(buffer.n_envs, (step + 1) % done_every == 0)
        infos = [{"TimeLimit.truncated": bool(value)} for value in done]
        buffer.add(first, second, rng.uniform(-1, 1, (buffer.n_envs, 2)), rng.uniform(size=buffer.n_envs), done, infos)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [0, 11, 40, 57])
@pytest.mark.parametrize("kind", [ReplayBuffer, NStepReplayBuffer, DictReplayBuffer])
def test_replay_buffer_round_trip(kind: type[ReplayBuffer], steps: int, tmp_path: Path) -> None:
    space = spaces.Dict(a=FLAT, b=FLAT) if kind is DictReplayBuffer else FLAT
    buffer, restored = (kind(80, space, ACTIONS, n_envs=2, device="cpu") for _ in range(2))
    _fill(buffer, steps)
    save_replay(tmp_path / "replay.npz", buffer)
    load_replay(tmp_path / "replay.npz", restored)
    assert (restored.pos, restored.full, restored.size()) == (buffer.pos, buffer.full, min(steps, 40))
    if steps == 0:
        return
    np.random.seed(0)  # noqa: NPY002 - what the buffer draws from
    expected = buffer.sample(64)
    np.random.seed(0)  # noqa: NPY002
    for one, other in zip(expected, restored.sample(64), strict=True):
        if isinstance(one, dict):
            assert all(torch.equal(one[key], other[key]) for key in one)
        elif one is not None:
            assert torch.equal(one, other)


def test_only_the_filled_part_of_a_replay_buffer_is_written(tmp_path: Path) -> None:
    buffer = ReplayBuffer(100_000, FLAT, ACTIONS, device="cpu")
    _fill(buffer, 10)
    save_replay(tmp_path / "replay.npz", buffer)
    assert (tmp_path / "replay.npz").stat().st_size < 10_000


def test_replay_buffer_is_no_larger_than_the_run(tmp_path: Path) -> None:
    venv = make_envs(toy_config(), ToyEncoder(), 2)
    for size, expected in ((None, 51), (10, 5)):  # 101 steps of two environments are 51 rounds
        kwargs = {} if size is None else {"buffer_size": size}
        model = build_model(SAC, venv, policy=None, kwargs=kwargs, total_steps=101, seed=0)
        assert replay_buffer(model).buffer_size == expected


@pytest.mark.parametrize("n_steps", [1, 3])
def test_cut_episode_bootstraps_where_it_is_cut(n_steps: int) -> None:
    """A cut changes no one-step target, and keeps n-step returns from running on into the next episode."""
    venv = DummyVecEnv([lambda: gym.make(TOY_ID, obs_mode="state")])
    model = build_model(
        SAC, venv, policy=None, kwargs={"n_steps": n_steps, "learning_starts": 99}, total_steps=50, seed=0
    )
    model.learn(12)  # episodes of 8: cut after 4 steps of the second
    buffer = replay_buffer(model)
    before = [buffer._get_samples(np.array([index])) for index in range(12)]
    cut_episodes(model)
    for index in range(12):
        for one, other in zip(before[index], buffer._get_samples(np.array([index])), strict=True):
            assert one is None or torch.equal(one, other)
    model._last_obs = venv.reset()
    model.learn(5, reset_num_timesteps=False)
    after_cut = buffer._get_samples(np.array([11]))
    assert torch.equal(after_cut.rewards, torch.tensor(buffer.rewards[11:12]))  # its own reward alone
    assert torch.equal(after_cut.next_observations, torch.tensor(buffer.next_observations[11]))
    assert float(after_cut.dones) == 0  # and a bootstrap, for nothing ended there


# Seeds --------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, HELD_OUT - 1), step=st.integers(0, 10**9), n_envs=st.integers(1, 10**6))
def test_training_seeds_are_reproducible_and_never_held_out(seed: int, step: int, n_envs: int) -> None:
    everything, environments = stretch_seeds(seed, step)
    assert (everything, environments) == stretch_seeds(seed, step)
    assert 0 <= everything < 2**32
    assert HELD_OUT > environments + n_envs - 1 >= environments >= 0


def test_stretches_differ() -> None:
    assert len({stretch_seeds(seed, step) for seed in range(20) for step in range(0, 1000, 50)}) == 400


def test_own_randomness_leaves_no_trace() -> None:
    def draw() -> float:
        return random.random() + np.random.uniform() + float(torch.rand(()))  # noqa: NPY002

    with own_randomness(1):
        pass
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    expected = [draw(), draw()]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    first = draw()
    inside = []
    for _ in range(2):
        with own_randomness(7):
            inside.append(draw())
    with pytest.raises(ZeroDivisionError), own_randomness(8):
        draw() / 0
    assert [first, draw()] == expected
    assert inside[0] == inside[1]
    assert inside[0] not in expected


# Building -----------------------------------------------------------------------------------------------------


def test_train_and_evaluation_environments_are_wrapped_the_same() -> None:
    config = toy_config()

    def layers(venv: Any) -> list[type]:
        found = []
        while hasattr(venv, "venv"):
            found.append(type(venv))
            venv = venv.venv
        env = venv.envs[0]
        while hasattr(env, "env"):
            found.append(type(env))
            env = env.env
        return [*found, type(env)]

    training, evaluation = make_envs(config, ToyEncoder(), 1), make_envs(config, ToyEncoder(), 4)
    assert layers(training) == layers(evaluation)
    assert training.observation_space == evaluation.observation_space
    training.seed(HELD_OUT + 2)
    evaluation.seed(HELD_OUT)
    np.testing.assert_array_equal(training.reset()[0], evaluation.reset()[2])


def test_workers_in_processes_of_their_own_see_and_do_the_same() -> None:
    rng = np.random.default_rng(0)
    inside, outside = (make_vec_env(TOY_ID, {}, 2, 9, workers) for workers in ("in_process", "subprocess"))  # type: ignore[arg-type]
    try:
        first, second = see_with(ToyEncoder(), inside), see_with(ToyEncoder(), outside)
        np.testing.assert_array_equal(first.reset(), second.reset())
        for _ in range(10):
            action = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
            for one, other in zip(first.step(action)[:3], second.step(action)[:3], strict=True):
                np.testing.assert_array_equal(one.astype(np.float32), other.astype(np.float32))
    finally:
        outside.close()


def test_camera_mismatch_is_the_encoders_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(ToyEncoder):
        def check(self, metadata: dict[str, Any]) -> None:
            raise UserError(f"this encoder saw fovy 30, the environment has {metadata['fovy']}")

    monkeypatch.setattr("conftest.ToyReach.camera_metadata", {"fovy": 45.0}, raising=False)
    with pytest.raises(UserError, match="fovy 30, the environment has 45"):
        make_envs(toy_config(), Picky(), 2)


@pytest.fixture
def broken_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("env_id", "complaint"),
    [
        ("toy/Reech-v0", r"unknown environment id 'toy/Reech-v0'; did you mean 'toy/Reach-v0'"),
        ("gqn_rl/ArmReech-v0", r"did you mean 'gqn_rl/ArmReach-v0'"),
        ("conftest:toy/Push-v0", r"unknown environment id 'conftest:toy/Push-v0'"),
        ("nowhere:Env-v0", r"environment id 'nowhere:Env-v0': No module named 'nowhere'"),
        ("broken_module:Env-v0", r"importing 'broken_module' fails: ZeroDivisionError: division by zero"),
        ("..x:Env-v0", r"importing '..x' fails: TypeError"),
    ],
)
def test_unknown_environment_id_is_named_with_close_matches(env_id: str, complaint: str, broken_module: None) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        find_env(env_id)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kwargs", "complaint"),
    [
        ({"obs_mod": "state"}, r"takes no argument 'obs_mod'; did you mean 'obs_mode'\?; valid: obs_mode, terminate"),
        ({"obs_mode": "smell"}, r"obs_mode must be one of views, state; got 'smell'"),
    ],
)
@pytest.mark.parametrize("workers", ["in_process", "subprocess"])
def test_environment_arguments_are_checked(kwargs: dict[str, Any], complaint: str, workers: Any) -> None:
    with pytest.raises(UserError, match=complaint):
        make_vec_env(TOY_ID, kwargs, 2, 0, workers)


def test_gymnasium_argument_is_no_mistake() -> None:
    env = make_env(TOY_ID, {"max_episode_steps": 2})
    env.reset()
    assert [env.step(np.zeros(2))[3] for _ in range(2)] == [False, True]


def test_algorithms_by_name_and_by_class() -> None:
    assert resolve_algorithm("PPO") is PPO
    assert resolve_algorithm("stable_baselines3:SAC") is SAC


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("sac", r"unknown algorithm 'sac'; did you mean 'SAC' or 'A2C'\?; valid: SAC, TD3, PPO, .* or module:Class"),
        ("nowhere:SAC", r"No module named 'nowhere'; valid: SAC"),
        ("stable_baselines3:SACK", r"module 'stable_baselines3' has no 'SACK'"),
        ("pathlib:Path", r"is not a Stable-Baselines3 algorithm"),
        (":SAC", r"importing '' fails: ValueError: Empty module name; valid: SAC"),
        ("broken_module:SAC", r"importing 'broken_module' fails: ZeroDivisionError"),
    ],
)
def test_unknown_algorithm_names_the_choices(name: str, complaint: str, broken_module: None) -> None:
    with pytest.raises(UserError, match=complaint):
        resolve_algorithm(name)


@pytest.mark.parametrize(
    ("kwargs", "complaint"),
    [
        ({"learning_rat": 1e-3}, r"SAC takes no argument 'learning_rat'; did you mean 'learning_rate'"),
        ({"seed": 1}, r"SAC takes no argument 'seed'"),
        ({"policy_kwargs": {"net_arc": [8]}}, r"SAC with .*net_arc"),
        ({"train_freq": [1, "hour"]}, r"SAC with .*'hour'"),
        ({"train_freq": [1]}, r"SAC with .*\[1\]"),
        ({"train_freq": 0}, r"algorithm.kwargs.train_freq is \[0, step\]; valid: 1 or more"),
        ({"policy_kwargs": 5}, r"SAC's argument policy_kwargs is 5, must be a mapping"),
        ({"replay_buffer_kwargs": "x"}, r"SAC's argument replay_buffer_kwargs is 'x', must be a mapping"),
        ({"buffer_size": None}, r"SAC's argument buffer_size is None, must be a number such as 1000000"),
        ({"tau": "a lot"}, r"SAC's argument tau is 'a lot', must be a number such as 0.005"),
        ({"gamma": True}, r"SAC's argument gamma is True, must be a number"),
        ({"device": "abacus"}, r"SAC with .*abacus"),
        ({"action_noise": "some"}, r"action_noise is 'some', must be a standard deviation from 0"),
        ({"action_noise": -1}, r"action_noise is -1, must be"),
    ],
)
def test_algorithm_arguments_are_checked_before_any_work(
    kwargs: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=complaint):
        train(tmp_path / "run", toy_config(algorithm={"id": "SAC", "kwargs": kwargs}), ToyEncoder())
    assert not RunFolder(tmp_path / "run").config.exists()


def test_views_that_nothing_makes_sense_of_are_refused(tmp_path: Path) -> None:
    for arguments in (None, {}, {"features_extractor_class": None}):
        config = toy_config(encoder=None, algorithm={"kwargs": {"policy_kwargs": arguments}})
        with pytest.raises(UserError, match="neither encoder nor pixels says what to make of them"):
            train(tmp_path / "run", config)
    with pytest.raises(UserError, match="policy_kwargs is 5, must be a mapping"):
        train(tmp_path / "run", toy_config(encoder=None, algorithm={"kwargs": {"policy_kwargs": 5}}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("n_envs", "changes", "valid"),
    [(1, {}, 8), (3, {}, 24), (1, {"max_episode_steps": 20}, 20)],
)
def test_checkpoints_leave_room_for_whole_episodes(
    n_envs: int, changes: dict[str, Any], valid: int, tmp_path: Path
) -> None:
    config = toy_config(
        n_envs=n_envs, env__kwargs=changes, checkpoint_every=valid - 1, evaluation={"every": 50, "episodes": 1}
    )
    with pytest.raises(UserError, match=rf"would never end; valid: {valid} or more, and {10 * valid} cuts few"):
        train(tmp_path / "run", config, ToyEncoder())
    assert not (tmp_path / "run").exists()
    enough = config.model_copy(update={"checkpoint_every": valid, "total_steps": 50})
    assert train(tmp_path / "run", enough, ToyEncoder())["steps"] >= 50


def test_episodes_end_within_the_rollouts_of_on_policy_algorithms(tmp_path: Path) -> None:
    """Checkpoints, and so resets, come between rollouts: with PPO's usual 2048 steps, seldom."""

    def on_policy(kwargs: dict[str, Any], **changes: Any) -> TrainConfig:
        return toy_config(algorithm={"id": "PPO", "kwargs": kwargs}, checkpoint_every=4, total_steps=40, **changes)

    kwargs = {"n_steps": EPISODE, "batch_size": EPISODE}
    train(tmp_path / "run", on_policy(kwargs), ToyEncoder())
    ended = load_model(PPO, tmp_path / "run/final_model.zip").ep_info_buffer
    assert ended is not None
    assert [episode["l"] for episode in ended] == [EPISODE] * 5
    check_episodes_end(on_policy({}, env__kwargs={"max_episode_steps": 2048}))
    with pytest.raises(UserError, match="reset every 7 steps, and episodes of 8 would never end"):
        check_episodes_end(on_policy({"n_steps": EPISODE - 1}))


def test_an_episode_in_a_camera_rig_is_as_long_as_that_of_the_environment_in_it() -> None:
    rig = {"id": CAMERA_RIG, "kwargs": {"env_id": "Reacher-v5"}}  # 50 steps
    check_episodes_end(toy_config(env=rig, checkpoint_every=50, total_steps=1000))
    with pytest.raises(UserError, match="episodes of 50 would never end"):
        check_episodes_end(toy_config(env=rig, checkpoint_every=49, total_steps=1000))
    shorter = {**rig, "kwargs": {**rig["kwargs"], "max_episode_steps": 20}}
    check_episodes_end(toy_config(env=shorter, checkpoint_every=20, total_steps=1000))


class OwnEnd(ToyReach):
    """Ends its episodes by itself."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self.steps == EPISODE, info


def test_episodes_that_nothing_ends_from_outside_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gym.register("test/OwnEnd-v0", entry_point=OwnEnd)
    for name, said in (("test/OwnEnd-v0", True), (TOY_ID, False)):
        train(tmp_path / str(said), toy_config(env__id=name, total_steps=50), ToyEncoder())
        assert ("registered without max_episode_steps" in capsys.readouterr().out) == said


def test_noise_of_actions_may_be_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    venv = make_envs(toy_config(), ToyEncoder(), 2)
    model = build_model(TD3, venv, policy=None, kwargs={"action_noise": 0.25}, total_steps=10, seed=0)
    assert isinstance(model.action_noise, NormalActionNoise)
    np.random.seed(0)  # noqa: NPY002 - what it draws from
    drawn = np.stack([model.action_noise() for _ in range(4000)])
    assert drawn.shape == (4000, 2)
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(drawn.std(axis=0), 0.25, atol=0.02)
    discrete = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    assert build_model(DQN, discrete, policy=None, kwargs={}, total_steps=10, seed=0)
    for kwargs, said in (({}, True), ({"action_noise": 0.1}, False)):
        config = toy_config(algorithm={"id": "TD3", "kwargs": {"learning_starts": 40, **kwargs}}, total_steps=50)
        train(tmp_path / str(said), config, ToyEncoder())
        assert ("TD3 explores by noise alone, and there is none" in capsys.readouterr().out) == said


def test_a_run_that_saved_memory_can_be_evaluated(tmp_path: Path) -> None:
    config = toy_config(total_steps=50)
    config.algorithm.kwargs.update(
        optimize_memory_usage=True, replay_buffer_kwargs={"handle_timeout_termination": False}
    )
    train(tmp_path / "run", config, ToyEncoder())
    assert replay(tmp_path / "run", ToyEncoder(), episodes=1)["episodes"] == 1


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "conftest:ToyEncoder"),
        (
            {"context": "episode", "certainty": True, "proprio": False},
            "conftest:ToyEncoder+episode+certainty+no-proprio",
        ),
        ({"finetune": True}, "conftest:ToyEncoder+finetuned"),
        ({"encoder": None, "pixels": {}}, "pixels"),
        ({"arm": "mine", "proprio": False}, "mine"),
    ],
)
def test_runs_that_see_otherwise_have_other_names_in_tables(changes: dict[str, Any], name: str) -> None:
    assert toy_config(**changes).arm_name == name


def test_policy_follows_from_the_observation() -> None:
    flat, views = DummyVecEnv([lambda: gym.make(TOY_ID, obs_mode="state")]), DummyVecEnv([lambda: gym.make(TOY_ID)])
    for venv, name in ((flat, "SACPolicy"), (views, "MultiInputPolicy")):
        model = build_model(SAC, venv, policy=None, kwargs={}, total_steps=10, seed=0)
        assert type(model.policy).__name__ == name


def test_building_leaves_the_configuration_as_it_is() -> None:
    """Stable-Baselines3 adds to ``policy_kwargs``: a resumed run would seem to have another configuration."""
    config = toy_config(env__kwargs={"obs_mode": "state"}, encoder=None)
    before = config.to_dict()
    venv = make_envs(config, None, 1)
    build_model(SAC, venv, policy=None, kwargs=config.algorithm.kwargs, total_steps=10, seed=0)
    assert config.to_dict() == before


def test_train_freq_may_be_a_yaml_list() -> None:
    venv = DummyVecEnv([lambda: gym.make(TOY_ID, obs_mode="state")])
    model = build_model(SAC, venv, policy=None, kwargs={"train_freq": [1, "episode"]}, total_steps=10, seed=0)
    assert model.train_freq.unit.value == "episode"  # type: ignore[attr-defined]


def test_episodes_are_counted_of_one_environment_only() -> None:
    venv = make_vec_env(TOY_ID, {"obs_mode": "state"}, 2, seed=0)
    with pytest.raises(UserError, match=r"train_freq is \[1, episode\], but n_envs is 2; valid there: a number"):
        build_model(SAC, venv, policy=None, kwargs={"train_freq": [1, "episode"]}, total_steps=10, seed=0)


def test_encoder_on_an_environment_without_views_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"an encoder needs a Dict observation with images .*; found Box"):
        train(tmp_path / "run", toy_config(env__kwargs={"obs_mode": "state"}), ToyEncoder())


def test_tracker_that_fails_ends_tracking_alone(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = Tracker("offline", tmp_path, "run", {}, said.append)
    tracker.log(1, {"score": 0.5})
    tracker.log(2, {"score": object()})  # no number, picture or anything else that can be recorded
    tracker.log(3, {"score": 0.5})
    tracker.close()
    assert len(said) == 1
    assert said[0].startswith("note: Weights & Biases failed (TypeError")


def test_missing_tracker_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="needs the package wandb: install it, or set wandb=disabled"):
        train(tmp_path / "run", toy_config(wandb="offline"), ToyEncoder())


# What a configuration promises -----------------------------------------------------------------------------------


def test_all_that_a_configuration_says_of_seeing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gqn_rl.agents.training.see_with", lambda *given: given)
    venv: Any = object()
    encoder = ToyEncoder()
    config = toy_config(proprio=False, context="episode", certainty=True)
    assert see(config, encoder, venv) == (encoder, venv, False, None, "episode", True)
    assert see(toy_config(encoder=None, pixels={"stack": 3}), None, venv) == (None, venv, True, 3, "now", False)


class Seeded(ToyReach):
    """Keeps the seeds that it is given."""

    seeds: list[int] = []  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            Seeded.seeds.append(seed)
        return super().reset(seed=seed, options=options)


def test_training_has_the_seeds_of_its_stretches_and_evaluation_those_held_out(tmp_path: Path) -> None:
    gym.register("test/Seeded-v0", entry_point=Seeded, max_episode_steps=EPISODE)
    evaluation = {"every": 100, "episodes": 4}
    config = toy_config(env__id="test/Seeded-v0", total_steps=200, evaluation=evaluation)
    try:
        train(tmp_path, config, ToyEncoder())
    finally:
        del gym.registry["test/Seeded-v0"]
    assert {stretch_seeds(0, step)[1] for step in (0, 100)} <= set(Seeded.seeds)
    assert {seed for seed in Seeded.seeds if seed >= HELD_OUT} == set(range(HELD_OUT, HELD_OUT + 4))


def test_the_clock_goes_on_where_it_stopped(unfinished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = latest_checkpoint(unfinished_run / "checkpoint")
    assert checkpoint is not None
    monkeypatch.setattr("gqn_rl.agents.callbacks.time", SimpleNamespace(perf_counter=lambda: 0.0))
    train(unfinished_run, toy_config(total_steps=150), ToyEncoder())
    assert RunFolder(unfinished_run).rows()[-1].wall_s == round(checkpoint.wall_s, 1) > 0


def test_the_episodes_of_all_environments_are_cut() -> None:
    venv = make_vec_env(TOY_ID, {"obs_mode": "state"}, 2, seed=0)
    model = build_model(SAC, venv, policy=None, kwargs={"learning_starts": 99}, total_steps=50, seed=0).learn(8)
    cut_episodes(model)
    buffer = replay_buffer(model)
    assert buffer.dones[3].tolist() == buffer.timeouts[3].tolist() == [1, 1]


def test_of_equal_policies_the_first_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = Evaluation(np.zeros(1), np.ones(1, int), np.zeros(1), np.zeros(1))
    monkeypatch.setattr("gqn_rl.agents.training.evaluate", lambda *_, **__: same)
    summary = train(tmp_path, toy_config(total_steps=200), ToyEncoder())
    assert load_model(SAC, tmp_path / "best_model.zip").num_timesteps == summary["best"]["step"] == 100


def test_what_is_tracked_stands_at_its_step(tmp_path: Path) -> None:
    logged: list[dict[str, Any]] = []
    tracker = Tracker("disabled", tmp_path, "run", {})
    tracker._run = SimpleNamespace(log=logged.append, finish=lambda: None)
    tracker.log(300, {"score": 1.5})
    logger = tracker.logger()
    logger.record("train/loss", 0.5)
    logger.dump(400)
    assert logged == [{"step": 300, "score": 1.5}, {"step": 400, "train/loss": 0.5}]
