"""Laws of the command line: quick help, one clear line for what the user can mend, and commands that compose."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, TOY_ID, cli_environment, toy_values
from gymnasium import spaces
from test_probes import Spot

from gqn_rl import CAMERA_RIG
from gqn_rl.agents.build import check_algorithm_kwargs, find_env, resolve_algorithm
from gqn_rl.agents.runs import RunFolder
from gqn_rl.agents.training import TrainConfig, make_envs, train
from gqn_rl.cli import COMMANDS, main
from gqn_rl.commands.configurations import configs_folder, find_config
from gqn_rl.commands.train import arguments_kept, sees_otherwise, warn_of_other_scenes
from gqn_rl.config import UserError, read_yaml
from gqn_rl.data import CHUNK, missing_chunks

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
TINY: dict[str, Any] = {"total_steps": 30, "evaluation": {"every": 30, "episodes": 2}}


def write_config(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(toy_values(**changes)))
    return path


# Help ---------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "mujoco", "stable_baselines3", "wandb", "matplotlib")
    for arguments in (["--help"], ["train", "--help"]):
        code = f"import sys; from gqn_rl.cli import main\ntry: main({arguments})\nexcept SystemExit: pass\n"
        code += f"print([name for name in {heavy} if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


def test_help_answers_from_any_directory(cli: Cli) -> None:
    done = cli("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does_and_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    description, _, example = shown.partition("example:")
    assert f"gqn-rl {command}" in example
    assert len(description.split("options:")[0].splitlines()) > 3


# Configurations -----------------------------------------------------------------------------------------------


def test_configuration_by_name_and_by_path(tmp_path: Path) -> None:
    assert find_config("arm_reach") == configs_folder() / "arm_reach.yaml"
    path = write_config(tmp_path / "mine.yaml")
    assert find_config(str(path)) == path
    with pytest.raises(
        UserError, match=r"no configuration 'arm_reech' \(did you mean 'arm_reach'\?\).*arm_reach_state"
    ):
        find_config("arm_reech")


@pytest.mark.parametrize(("command", "name"), [("record", "rooms"), ("pretrain", "paper"), ("benchmark", "smoke")])
def test_only_configurations_that_fit_a_command_are_named(command: str, name: str) -> None:
    valid = sorted(f"{command}/{path.stem}" for path in (configs_folder() / command).glob("*.yaml"))
    assert find_config(f"{command}/{name}", command).stem == name
    with pytest.raises(UserError, match=rf"did you mean '{command}/{name}'.*one of {command}'s: {', '.join(valid)}$"):
        find_config(f"{command}/{name}s", command)
    with pytest.raises(UserError, match=rf"did you mean '{command}/{name}'"):
        find_config(name, command)
    with pytest.raises(UserError, match="no configuration"):
        find_config(f"{command}/{name}")  # train's are others


@pytest.mark.parametrize("name", ["arm_reach", "arm_reach_state"])
def test_packaged_configurations_are_valid(name: str) -> None:
    config = TrainConfig.from_yaml(find_config(name))
    assert find_env(config.env.id).id == "gqn_rl/ArmReach-v0"
    assert resolve_algorithm(config.algorithm.id).__name__ == "SAC"
    assert (config.encoder, config.arm) == (("arm-reach", "gqn") if name == "arm_reach" else (None, "state"))


def test_packaged_configurations_differ_in_nothing_but_what_is_seen() -> None:
    """They are two arms of one comparison."""
    seen, told = (TrainConfig.from_yaml(find_config(name)).to_dict() for name in ("arm_reach", "arm_reach_state"))
    for config in (seen, told):
        for key in ("arm", "encoder"):
            del config[key]
        del config["env"]["kwargs"]["obs_mode"]
    assert seen == told


# Errors: exit code 2 and one line -----------------------------------------------------------------------------


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "evaluation.evry=5"], ["evaluation.evry", "did you mean 'every'", "valid keys: episodes, every"]),
        (["--set", "total_steps=many"], ["'total_steps' is 'many'", "integer"]),
        (["--encoder", "no-such-encoder"], ["no-such-encoder"]),
        (["--env", "gqn_rl/ArmReech-v0"], ["gqn_rl/ArmReech-v0", "did you mean 'gqn_rl/ArmReach-v0'"]),
    ],
    ids=["unknown key", "wrong type", "missing encoder", "unknown environment"],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], words: list[str], cli: Cli, tmp_path: Path
) -> None:
    write_config(tmp_path / "toy.yaml")
    assert_one_line(cli("train", "toy.yaml", *arguments), *words)
    assert not (tmp_path / "runs").exists()


def test_corrupt_checkpoint_is_one_line(cli: Cli, stopped_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(stopped_run, tmp_path / "run", symlinks=True)
    model = next((run / "checkpoint").glob("step_*")) / "model.zip"
    model.write_bytes(model.read_bytes()[:-1])
    done = cli("train", run / "config.yaml", "--out", run)
    assert_one_line(done, "model.zip does not match its checksum", "delete", "checkpoint")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["veiw", "Reacher-v5", "--out", "s.png"],
            ["unknown command 'veiw', did you mean 'view'? valid commands: train"],
        ),
        (["somewhere", "else"], ["no configuration 'somewhere'", "train's: ", "; valid commands: train, evaluate"]),
        (["arm_reech"], ["no configuration 'arm_reech' (did you mean 'arm_reach'?)"]),
        (["train", "arm_reach", "--sede", "3"], ["unrecognized arguments: --sede 3; see `gqn-rl train --help`"]),
        (["train", "--seed", "x"], ["argument --seed: invalid int value: 'x'; see `gqn-rl train --help`"]),
        (["record", "--out", "d", "--scenes", "x"], ["argument --scenes: must be a whole number, got 'x'; see"]),
        (["probe", "arm-reach", "--outside", "up"], ["argument --outside: must be a number above 0, got 'up'"]),
        (["view", "gqn_rl/CameraRig-v0", "--out", "s.png"], ["gqn_rl/CameraRig-v0 needs the argument 'env_id'"]),
        (["train", "nowhere.yaml"], ["nowhere.yaml", "arm_reach"]),
        (["--set", "seed"], ["KEY=VALUE", "'seed'"]),
        (["--set", "seed=-1"], ["'seed' is -1"]),
        (["--set", "workers=threads"], ["'workers'", "'in_process' or 'subprocess'"]),
        (["--set", "wandb=maybe"], ["'wandb'", "'offline', 'online' or 'disabled'"]),
        (["--set", "algorithm.id=SACK"], ["unknown algorithm 'SACK'", "SAC, TD3, PPO"]),
        (["--set", "algorithm.kwargs.gama=0.9"], ["SAC takes no argument 'gama'", "did you mean 'gamma'"]),
        (["--encoder", "none"], ["the environment shows views, and neither encoder nor pixels", "pixels.stack=1"]),
        (["--set", "encoder=none"], ["the environment shows views, and neither encoder nor pixels"]),
        (["--set", "pixels.stack=1"], ["toy.yaml: with pixels there is no encoder: leave out encoder"]),
        (["--set", "env.kwargs.speed=9"], ["takes no argument 'speed'", "obs_mode"]),
        (["evaluate", "nowhere"], ["nowhere holds no run"]),
        (["view", "gqn_rl/RoomRing-v0", "--out", "folder.png"], ["--out must name a .png file, and folder.png is a"]),
        (["benchmark", "benchmark/smoke", "--out", "file"], ["cannot write to the folder file: File exists"]),
        (["benchmark", "benchmark/smoke", "--runs", "file/runs"], ["cannot write to the folder file/runs: Not a dir"]),
        (["pretrain", "--data", "file", "--out", "e"], ["file is not a recording (no manifest.json)", "--out DIR`"]),
        (["pretrain", "--data", "d", "--out", "e"], ["make one with `record --out d`"]),
        (["push", "arm-reach", "a/b", "--probe", "folder.png"], ["folder.png is a probe of another encoder than arm-"]),
    ],
)
def test_bad_input_is_named(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "probe.json").write_text("[]")
    if arguments[0] in ("--set", "--encoder"):
        arguments = ["train", str(write_config(tmp_path / "toy.yaml")), *arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    for word in words:
        assert word in error
    assert not (tmp_path / "runs").exists()


def test_finished_run_is_refused_in_one_line(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(finished_run / "config.yaml"), "--out", str(finished_run)]) == 2
    assert "never overwritten" in capsys.readouterr().err


class Told(gym.Env[Any, Any]):
    """It says what it sees."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}


WORDS, PAIR = spaces.Text(5), spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 1, (2,))))


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (WORDS, "test/Told-v0 is not understood: it is Text("),
        (PAIR, "test/Told-v0 is not understood: it is Tuple(Discrete(3)"),
        (spaces.Dict(task=WORDS), "test/Told-v0 is not understood: its part 'task' is Text("),
    ],
)
def test_an_observation_that_is_not_understood_is_one_line(
    space: spaces.Space[Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gym.register("test/Told-v0", entry_point=Told, kwargs={"space": space}, max_episode_steps=5)
    config = write_config(tmp_path / "toy.yaml", encoder=None)
    try:
        assert main(["train", str(config), "--env", "test/Told-v0", "--out", str(tmp_path / "run")]) == 2
    finally:
        del gym.registry["test/Told-v0"]
    error = capsys.readouterr().err
    assert words in error
    assert "valid: Box, Discrete, MultiDiscrete, MultiBinary, and a Dict of these; a Gymnasium wrapper" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="EGL is Linux's")
def test_a_broken_driver_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    for name in ("DIRS", "FILENAMES"):  # libglvnd finds no driver
        monkeypatch.setenv(f"__EGL_VENDOR_LIBRARY_{name}", str(tmp_path / "none"))
    done = cli("view", "gqn_rl/RoomRing-v0", "--out", "sheet.png")
    assert_one_line(done, "no OpenGL", "`gqn-rl doctor`")


def test_without_opengl_the_doctor_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "no-such-backend")
    done = cli("view", "gqn_rl/RoomRing-v0", "--out", "sheet.png")
    assert_one_line(done, "MuJoCo finds no OpenGL", "no-such-backend", "`gqn-rl doctor` says what to install or set")


def test_unforeseen_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(self: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("conftest.ToyReach.reset", broken)
    with pytest.raises(ZeroDivisionError):
        main(["train", str(write_config(tmp_path / "toy.yaml", **TINY)), "--out", str(tmp_path / "run")])


def test_an_interrupt_is_one_also_where_an_import_made_another_error_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As C extensions do whose initialisation runs Python code."""

    def interrupted(self: Any, **kwargs: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise ImportError("initialization failed") from stop

    monkeypatch.setattr("conftest.ToyReach.reset", interrupted)
    config = write_config(tmp_path / "toy.yaml", **TINY)
    assert main(["train", str(config), "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")


@pytest.mark.parametrize("gone", ["reader", "space"])
def test_output_that_goes_nowhere_ends_without_a_traceback(gone: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    command = [
        sys.executable,
        root / "train.py",
        "report",
        root / "benchmarks" / "results",
        "--out",
        tmp_path / "report",
    ]
    command += ["--tasks", "fetch_reach"]
    if gone == "space":
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (2, "error: output: No space left on device\n")
        return
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, "")


# Commands -----------------------------------------------------------------------------------------------------


def test_train_is_the_default_and_options_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "toy.yaml", **TINY)
    options = ["--seed", "3", "--steps", "20", "--set", "algorithm.kwargs.gamma=0.9", "--set", "threads=null"]
    assert main([str(tmp_path / "toy.yaml"), *options]) == 0
    config = TrainConfig.from_yaml(tmp_path / "runs" / "toy-seed3" / "config.yaml")
    assert (config.seed, config.total_steps, config.algorithm.kwargs["gamma"], config.threads) == (3, 20, 0.9, None)


class Carded:
    """An encoder that says what it was pretrained on."""

    size = 1

    def __init__(self, **data: Any) -> None:
        self.card = {"data": data}

    def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
        return poses[:, 0, :1]


RIGGED: dict[str, Any] = {"env": CAMERA_RIG, "env_kwargs": {"env_id": "FetchReach-v4"}}


@pytest.mark.parametrize(
    ("data", "env", "warned"),
    [
        ({"env": "gqn_rl/ArmReach-v0"}, {"id": "gqn_rl/ArmReach-v0"}, None),
        ({"env": "gqn_rl/ArmReach-v0"}, {"id": "gqn_rl/ArmPick-v0"}, "on gqn_rl/ArmReach-v0, not on gqn_rl/ArmPick-v0"),
        ({"env": "gqn_rl/RoomFree-v0"}, {"id": "gqn_rl/RoomNavigate-v0"}, None),
        (RIGGED, {"id": CAMERA_RIG, "kwargs": {"env_id": "FetchReachDense-v4"}}, None),
        (RIGGED, {"id": CAMERA_RIG, "kwargs": {"env_id": "Reacher-v5"}}, "on FetchReach-v4, not on Reacher-v5"),
        ({}, {"id": "gqn_rl/ArmReach-v0"}, None),
    ],
)
def test_an_encoder_of_other_scenes_is_warned_of(
    data: dict[str, Any], env: dict[str, Any], warned: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mine", "untrained:mine"):
        config = TrainConfig.from_mapping({"env": env, "encoder": name, "total_steps": 1})
        warn_of_other_scenes(config, Carded(**data))
        error = capsys.readouterr().err
        if warned is None or name != "mine":
            assert error == ""
        else:
            assert f"warning: encoder mine was pretrained {warned}" in error
            assert len(error.splitlines()) == 1


def test_other_cameras_than_a_rig_s_own_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    recorded = {"env_id": "Reacher-v5", "placement": "ring", "fovy": 45.0}
    carded = Carded(env=CAMERA_RIG, env_kwargs=recorded)
    for kwargs, warned in (({"placement": "ring"}, False), ({}, True)):
        env = {"id": CAMERA_RIG, "kwargs": {"env_id": "Reacher-v5", **kwargs}}
        config = TrainConfig.from_mapping({"env": env, "encoder": "mine", "total_steps": 1})
        warn_of_other_scenes(config, carded)
        said = (
            "warning: encoder mine was pretrained in a camera rig with placement=ring, which env.kwargs does not say\n"
        )
        assert capsys.readouterr().err == (said if warned else "")


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("PPO", {"ent_coef"}),
        ("A2C", {"ent_coef", "batch_size"}),
        ("TD3", {"ent_coef"}),
        ("DQN", {"ent_coef"}),
        ("sb3_contrib:TQC", set()),
        ("sb3_contrib:RecurrentPPO", {"ent_coef"}),
    ],
)
def test_another_algorithm_keeps_the_arguments_that_it_takes(
    name: str, gone: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if ":" in name:
        pytest.importorskip(name.partition(":")[0])
    configured = read_yaml(find_config("arm_reach"))
    told = configured["algorithm"]["kwargs"]
    kept = arguments_kept(configured, {"algorithm.id": name})
    assert kept == {"algorithm.kwargs": {key: value for key, value in told.items() if key not in gone}}
    check_algorithm_kwargs(resolve_algorithm(name), kept["algorithm.kwargs"])
    notes = capsys.readouterr().err.splitlines()
    assert {note.split()[1].partition("=")[0] for note in notes} == gone
    arguments_kept(configured, {"algorithm.id": name, **{f"algorithm.kwargs.{key}": 0.1 for key in gone}})
    assert capsys.readouterr().err == ""  # what is said for it is nobody else's
    assert arguments_kept(configured, {"algorithm.id": "SAC"}) == arguments_kept(configured, {}) == {}
    unsaid = {"algorithm": {"kwargs": told}}  # SAC, by default
    assert arguments_kept(unsaid, {"algorithm.id": "SAC"}) == {}
    assert arguments_kept(unsaid, {"algorithm.id": name}) == kept


@pytest.mark.parametrize(
    ("was", "name", "kept"), [("SAC", "PPO", False), ("A2C", "DQN", False), ("SAC", "TD3", True), ("PPO", "A2C", True)]
)
def test_steps_of_a_return_are_none_of_a_rollout(
    was: str, name: str, kept: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are called ``n_steps``."""
    configured = {"algorithm": {"id": was, "kwargs": {"n_steps": 3, "gamma": 0.9}}}
    told = {"gamma": 0.9, **({"n_steps": 3} if kept else {})}
    assert arguments_kept(configured, {"algorithm.id": name}) == {"algorithm.kwargs": told}
    assert (f"n_steps=3 was for {was}; {name} goes by its default" in capsys.readouterr().err) != kept


def test_the_warning_comes_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "summary.json").write_text("{}")
    config = str(write_config(tmp_path / "toy.yaml"))
    assert main(["train", config, "--encoder", "arm-reach", "--out", str(tmp_path)]) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert f"pretrained on gqn_rl/ArmReach-v0, not on {TOY_ID}, where" in warning
    assert "never overwritten" in error


def test_another_environment_drops_the_arguments_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path / "toy.yaml", **TINY, env={"id": "gqn_rl/ArmReach-v0", "kwargs": {"views": 7}})
    assert main([str(config), "--env", TOY_ID, "--encoder", "none", "--set", "env.kwargs.obs_mode=state"]) == 0
    written = TrainConfig.from_yaml(tmp_path / "runs" / "conftest-toy-Reach-v0-seed0" / "config.yaml")
    assert (written.env.id, written.env.kwargs, written.encoder) == (TOY_ID, {"obs_mode": "state"}, None)


def test_another_encoder_is_not_called_what_the_configuration_s_own_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = {"id": TOY_ID, "kwargs": {"obs_mode": "state"}}
    config = str(write_config(tmp_path / "toy.yaml", **TINY, arm="gqn", encoder="arm-reach", env=env))
    told = {"observation": ["--set", "encoder=none"], "oracle": ["--encoder", "none", "--set", "arm=oracle"]}
    for name, arguments in told.items():
        assert main([config, *arguments, "--out", name]) == 0
        assert json.loads(Path(name, "summary.json").read_text())["arm"] == name
    config = str(write_config(tmp_path / "none.yaml", **TINY, arm="told", encoder="none", env=env))
    assert main([config, "--encoder", "None", "--out", "same"]) == 0  # the configuration's own, said otherwise
    assert json.loads(Path("same", "summary.json").read_text())["arm"] == "told"


@pytest.mark.parametrize(
    ("overrides", "otherwise"),
    [
        ({"encoder": "rooms"}, True),
        ({"encoder": "arm-reach", "context": "now", "proprio": True, "seed": 3}, False),  # as it says, or is by default
        ({"encoder": "none", "pixels.stack": 1}, True),
        ({"finetune": True}, True),
        ({"context": "episode"}, True),
        ({"certainty": True}, True),
        ({"proprio": False}, True),
    ],
)
def test_a_policy_is_called_otherwise_where_it_sees_otherwise(overrides: dict[str, Any], otherwise: bool) -> None:
    configured = read_yaml(find_config("arm_reach"))
    before = copy.deepcopy(configured)
    assert sees_otherwise(configured, overrides) == otherwise
    assert configured == before


def test_evaluate_prints_numbers_and_writes_a_video(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run", symlinks=True)
    assert main(["evaluate", str(run), "--episodes", "5"]) == 0
    shown = capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    for words in (
        "final_model.zip",
        "5 held-out episodes",
        f"success      {summary['policy']['success']:.1%}",
        f"mean return  {summary['policy']['score']:.3f}",
        f"distance     {summary['policy']['distance']:.3f} m",
        f"video        {run / 'replay'}",
    ):
        assert words in shown


def test_what_is_damaged_or_missing_of_a_run_is_named(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run", symlinks=True)
    file = tmp_path / "file"
    file.touch()

    def refused(*arguments: str | Path) -> str:
        assert main(["evaluate", str(run), "--episodes", "1", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        return error

    assert f"cannot write to the folder {file}" in refused("--cameras", "unseen", "--csv", file / "x.csv")
    whole = (run / "final_model.zip").read_bytes()
    for damaged in (b"", whole[:1000]):
        (run / "final_model.zip").write_bytes(damaged)
        assert "final_model.zip cannot be loaded: ValueError" in refused()
    (run / "final_model.zip").unlink()
    assert "final_model.zip is missing, though the run is finished; --best replays the best policy" in refused()
    (run / "best_model.zip").unlink()
    assert "best_model.zip is missing, though the run is finished\n" in refused("--best")
    for wrong in ("{}", "[]"):
        (run / "encoder.json").write_text(wrong)
        assert "encoder.json is damaged: it does not say which encoder the run was trained with" in refused()


def test_evaluate_refuses_another_encoder(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(finished_run), "--encoder", "conftest:OtherEncoder"]) == 2
    assert "was trained with encoder conftest:ToyEncoder" in capsys.readouterr().err


# Probes -------------------------------------------------------------------------------------------------------


class MeanColors:
    """An encoder of one's own."""

    size = 3

    def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(1, 2, 3)) / 255


class LongColors(MeanColors):
    """One with more numbers than few scenes tell apart."""

    size = 6

    def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
        return super().encode(images, poses).repeat(1, 2)


class Painted(Spot, gym.Env):
    """A scene source of one's own, without a dome."""

    action_space = observation_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, named: bool = True) -> None:
        super().__init__()
        if not named:
            self.state_groups = {}


class Blind(Painted):
    """Has a model, and nothing that draws it."""

    model, render_view = object(), property()


gym.register("test/Blind-v0", entry_point=f"{__name__}:Blind")
gym.register("test/Painted-v0", entry_point=f"{__name__}:Painted")
gym.register("test/Nameless-v0", entry_point=f"{__name__}:Painted", kwargs={"named": False})


def test_probe_takes_an_encoder_and_scenes_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["probe", "test_cli:MeanColors", "--env", "test_cli:test/Painted-v0", "--scenes", "40", "--seed", "5"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    for words in ("red", "cameras inside only", "no unseen views drawn: test_cli:MeanColors has no GQN"):
        assert words in shown
    assert "fit the probe" not in shown
    assert not list(tmp_path.iterdir())
    assert main(["probe", "test_cli:LongColors", *command[2:5], "8"]) == 0
    assert "note: 4 scenes fit the probe of a vector of 6 numbers; with more --scenes" in capsys.readouterr().out
    out = tmp_path / "probe"
    assert main([*command, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {".lock", "probe.csv", "probe_errors.png", "probe.json"}
    summary = json.loads((out / "probe.json").read_text())
    facts = {key: value for key, value in summary.items() if key not in ("ridge", "drawing")}
    assert facts == {
        "encoder": "test_cli:MeanColors",
        "env": "test_cli:test/Painted-v0",
        "env_kwargs": {},
        "renderer": "paint",
        "seed": 5,
        "scenes": 40,
        "outside_degrees": None,
    }
    assert summary["ridge"]["inside"]["both"]["3"]["r2"] > 0.99


def test_finished_probe_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "probe.json").write_text("{}")
    assert main(["probe", "no-such-encoder", "--out", str(tmp_path)]) == 2
    assert "never overwritten; choose another --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["test_cli:MeanColors"], "give its scenes with --env"),
        (["test_cli:MeanColors", "--env", "CartPole-v1"], "state_groups, nor has it a MuJoCo model"),
        (["test_cli:MeanColors", "--env", "test_cli:test/Blind-v0"], "is no scene source: it has no render_view; "),
        (["test_cli:MeanColors", "--env", "test_cli:test/Nameless-v0"], "names no state_groups"),
        (["test_cli:no_such_class", "--env", "test_cli:test/Painted-v0"], "cannot be imported"),
    ],
)
def test_what_cannot_be_probed_is_named(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def stopped(arguments: list[str], under_way: Callable[[subprocess.Popen[str]], None]) -> str:
    """The one line that a command says when Ctrl-C comes once ``under_way`` has returned."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        env=cli_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        under_way(process)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert len(error.splitlines()) == 1, error
    return error


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_stopped_recording_says_how_far_it_is(workers: int, tmp_path: Path) -> None:
    out = tmp_path / "recording"
    arguments = ["record", "record/arm_reach", "--out", str(out), "--scenes", "24000", "--workers", str(workers)]

    def under_way(process: subprocess.Popen[str]) -> None:
        while process.poll() is None and not (
            (out / "manifest.json").exists() and len(missing_chunks(out)) <= 24_000 // CHUNK - 2
        ):
            time.sleep(0.005)

    error = stopped(arguments, under_way)
    said = re.match(r"interrupted with ([\d,]+) of 24,000 scenes done; run the same command to go on$", error)
    assert said, error
    done = 24_000 // CHUNK - len(missing_chunks(out))
    assert done >= 2
    counted = int(said[1].replace(",", "")) // CHUNK
    assert 0 <= done - counted <= 2 * workers  # what was just written is not counted


def test_stopped_probe_is_one_line_and_starts_anew(tmp_path: Path) -> None:
    out = tmp_path / "probe"
    arguments = ["probe", "test_cli:MeanColors", "--env", "gqn_rl/ArmReach-v0", "--out", str(out)]

    def under_way(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert "5,000 held-out scenes of gqn_rl/ArmReach-v0" in process.stdout.readline()

    error = stopped(arguments, under_way)
    assert error.startswith("interrupted; nothing is written")
    assert [path.name for path in out.iterdir()] == [".lock"]
    assert main([*arguments, "--scenes", "8"]) == 0
    assert json.loads((out / "probe.json").read_text())["outside_degrees"] == 15
    assert (out / "probe.csv").read_text().count("outside") == 3 * 3


# Stopping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGINT, "in_process"),
        pytest.param(signal.SIGTERM, "subprocess", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "subprocess", marks=pytest.mark.slow),
    ],
)
def test_stopped_run_says_so_and_goes_on(
    number: signal.Signals, workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signal to the whole group, as a terminal sends Ctrl-C: workers must not die of it before the parent asks."""
    config = write_config(tmp_path / "toy.yaml", workers=workers, n_envs=2, wandb="offline")
    run = RunFolder(tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), str(config), "--out", str(run.path)],
        env=cli_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while process.poll() is None and len(run.rows()) < 2:
            time.sleep(0.005)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        error = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert len(error.splitlines()) == 1, error
    assert error.startswith("interrupted at step ")
    assert error.rstrip().endswith("run the same command to go on from step 200")
    assert not run.finished
    assert 200 <= int(error.split()[3].rstrip(";")) < 300
    assert main([str(config), "--out", str(run.path)]) == 0
    assert f"resuming {run.path} at step 200" in capsys.readouterr().out
    assert [row.step for row in run.rows()] == [100, 200, 300, 400]
    assert run.finished


# The real thing -----------------------------------------------------------------------------------------------


def test_packaged_task_trains_a_little(tmp_path: Path) -> None:
    small = {"total_steps": 60, "evaluation.episodes": 2, "wandb": "disabled", "threads": 1}
    config = TrainConfig.from_yaml(find_config("arm_reach_state"), {**small, "env.kwargs.max_episode_steps": 2})
    summary = train(tmp_path / "run", config)
    assert summary["steps"] == 60
    assert summary["policy"]["distance"] > 0
    assert summary["video"] is not None


def test_arm_is_seen_through_an_encoder_of_ones_own() -> None:
    """The arm's views reach any encoder, with the proprioception beside the vector."""

    class Means:
        size = 6  # three colours of two cameras

        def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
            return images.float().mean(dim=(2, 3)).flatten(1)

    venv = make_envs(TrainConfig.from_yaml(find_config("arm_reach")), Means(), 2)
    try:
        first = venv.reset()
        second, *_ = venv.step(np.stack([venv.action_space.sample() for _ in range(2)]))
    finally:
        venv.close()
    for observations in (first, second):
        assert isinstance(observations, np.ndarray)
        assert observations.shape == (2, 6 + 21)
        assert np.isfinite(observations).all()
