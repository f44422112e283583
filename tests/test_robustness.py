"""Laws of scoring a policy from other cameras: where they stand, what is missing, and what stays the same."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import EPISODE, TOY_ID, VIEWS, SameInfo
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from gqn_rl import CAMERA_RIG
from gqn_rl.agents.build import make_env, make_vec_env
from gqn_rl.agents.replay import replay
from gqn_rl.agents.robustness import (
    CAMERAS,
    DEGREES,
    Line,
    MissingCamera,
    env_seen_by,
    make_envs_seen_by,
    measure,
    read_table,
    write_table,
)
from gqn_rl.agents.training import TrainConfig, make_envs, train
from gqn_rl.cli import main
from gqn_rl.config import UserError
from gqn_rl.encoder import load_encoder
from gqn_rl.files import in_turn

ARM = "gqn_rl/ArmReach-v0"


def values(**changes: Any) -> dict[str, Any]:
    kwargs = {"obs_mode": "views", "views": 2, "max_episode_steps": 3, "render_size": 64, **changes.pop("kwargs", {})}
    return {
        "env": {"id": ARM, "kwargs": kwargs},
        "algorithm": {"kwargs": {"learning_starts": 4, "batch_size": 8, "policy_kwargs": {"net_arch": [16]}}},
        "total_steps": 9,
        "evaluation": {"every": 9, "episodes": 2},
        "wandb": "disabled",
        "threads": 1,
        "task": "toy",
        "arm": "toy",
        **changes,
    }


def config(**changes: Any) -> TrainConfig:
    return TrainConfig.from_mapping(values(**changes))


def poses(train_config: TrainConfig, cameras: str, steps: int = 3) -> np.ndarray:
    """Where the cameras stand at each of some steps of an episode, (steps, K, 5)."""
    env = env_seen_by(cameras, train_config)
    found = make_env(env.id, env.kwargs)
    observation, _ = found.reset(seed=0)
    later = [found.step(found.action_space.sample())[0]["poses"] for _ in range(steps - 1)]
    found.close()
    return np.stack([observation["poses"], *later])


def elevations(where: np.ndarray) -> np.ndarray:
    """Degrees above the horizon, from the middle of the arm's workspace."""
    offset = where[..., :3] - [0, 0, 0.4]
    return np.rad2deg(np.arcsin(offset[..., 2] / np.linalg.norm(offset, axis=-1)))


# Where cameras stand ------------------------------------------------------------------------------------------


def test_fixed_cameras_are_replaced_by_others_that_stay_for_an_episode() -> None:
    fixed = config(encoder="arm-reach", kwargs={"camera_names": ["left", "right"]})
    own, unseen, outside = (poses(fixed, name) for name in ("own", "unseen", "outside"))
    for stays in (own, unseen, outside):
        np.testing.assert_array_equal(stays, np.broadcast_to(stays[:1], stays.shape))
    assert np.abs(own - unseen).max() > 0.1
    assert ((elevations(unseen) >= 20) & (elevations(unseen) <= 60)).all()
    assert ((elevations(outside) >= 60) & (elevations(outside) <= 60 + DEGREES)).all()


def test_moving_cameras_go_on_moving_and_unseen_is_their_own() -> None:
    moving = config(encoder="arm-reach", kwargs={"cameras": "moving"})
    assert env_seen_by("unseen", moving) == moving.env
    outside = poses(moving, "outside")
    assert len(np.unique(outside.reshape(-1, 5), axis=0)) == 6
    assert (elevations(outside) >= 60).all()


def test_elevations_are_checked_and_the_default_is_the_domes(tmp_path: Path) -> None:
    for wrong in ((75, 60), (10, 20, 30), (20, 95)):
        with pytest.raises(UserError, match="elevation"):
            make_env(ARM, {"camera_elevation": wrong})
    same, default = (make_env(ARM, kwargs).unwrapped for kwargs in ({"camera_elevation": (20, 60)}, {}))
    assert same.dome == default.dome  # type: ignore[attr-defined]


# What is missing ----------------------------------------------------------------------------------------------


class Reading:
    """An encoder that shows what it gets: how many views, and the sums of their pixels and poses."""

    size = 3

    def encode(self, images: Any, given: Any) -> Any:
        import torch

        count = torch.full((len(images),), images.shape[1])
        return torch.stack([count, images.float().sum((1, 2, 3, 4)), given.sum((1, 2))], dim=1)


def step(venv: VecEnv) -> list[Any]:
    """Observations of a reset and of steps into the next episode, terminal ones included."""
    venv.seed(3)
    seen: list[Any] = [venv.reset()]
    for _ in range(3):
        observations, _, _, infos = venv.step(np.zeros((venv.num_envs, 6), np.float32))
        seen += [observations, *(info["terminal_observation"] for info in infos if "terminal_observation" in info)]
    venv.close()
    return seen


def test_frozen_encoder_gets_one_view_less_and_pixels_a_black_one() -> None:
    env = config().env
    whole = step(make_vec_env(env.id, env.kwargs, 1, 0))
    assert len(whole) == 5  # a reset, three steps and the last observation of an episode
    for black in (False, True):
        venv = MissingCamera(make_vec_env(env.id, env.kwargs, 1, 0), black=black)
        assert isinstance(venv.observation_space, spaces.Dict)
        images = venv.observation_space["images"].shape
        for full, seen in zip(whole, step(venv), strict=True):
            before, after, where, left = full["images"], seen["images"], full["poses"], seen["poses"]
            if before.ndim == 5:  # of all environments, the only one
                before, after, where, left = before[0], after[0], where[0], left[0]
            assert after.shape == images
            np.testing.assert_array_equal(after[:1], before[:1])
            np.testing.assert_array_equal(left, where if black else where[:1])
            assert before[1].any()
            assert not after[1:].any()
            np.testing.assert_array_equal(seen["proprio"], full["proprio"])


def test_policy_input_keeps_its_shape() -> None:
    frozen = TrainConfig.from_mapping(values(encoder="test_robustness:Reading"))
    pixels = config(pixels={"stack": 2})
    for each, encoder in ((frozen, Reading()), (pixels, None)):
        own, missing = make_envs(each, encoder, 1), make_envs_seen_by("missing", each, encoder, 1)
        assert own.observation_space == missing.observation_space
        seen = missing.reset()
        if encoder is None:
            assert isinstance(seen, dict)
            assert seen["pixels"][0, :6].any()
            assert not seen["pixels"][0, 6:].any()
        else:
            assert isinstance(seen, np.ndarray)
            assert (own.reset()[0, 0], seen[0, 0]) == (2, 1)  # type: ignore[index]
        own.close()
        missing.close()


def test_the_last_camera_is_missing_also_where_one_info_is_handed_out_again() -> None:
    venv = MissingCamera(DummyVecEnv([lambda: SameInfo(gym.make(TOY_ID))]), black=False)
    venv.reset()
    for _ in range(3 * EPISODE):
        _, _, dones, infos = venv.step(np.zeros((1, 2), np.float32))
        if dones[0]:
            assert infos[0]["terminal_observation"]["images"].shape[0] == VIEWS - 1


# Scores -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the frozen encoder; only ``cameras.csv`` may be written there."""
    folder = tmp_path_factory.mktemp("robustness") / "run"
    train(folder, config(encoder="arm-reach"), load_encoder("arm-reach"))
    return folder


def test_command_prints_and_writes_a_line_for_every_condition(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--cameras", *CAMERAS, "--episodes", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    table = {line.cameras: line for line in read_table(run / "cameras.csv")}
    assert list(table) == ["own", *CAMERAS]
    for name, line in table.items():
        (shown,) = [text for text in printed if text.startswith(f"  {name} ")]
        assert f"{line.score:.3f}" in shown
        assert (line.task, line.arm, line.seed, line.model, line.episodes) == ("toy", "toy", 0, "final_model.zip", 2)
    assert len({line.score for line in table.values()}) == 4  # cameras matter
    own = replay(run, load_encoder("arm-reach"), 2)
    assert table["own"].score == own["score"]


def test_shares_are_of_the_way_from_random_to_own(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, outside = measure(run, load_encoder("arm-reach"), ["outside"], episodes=1, first_seed=5)
    random_score = own.score - 2.0  # any that is worse
    path = run / "random_policy.json"
    text = path.read_text()
    try:
        path.write_text(f'{{"score": {random_score}}}')
        again = measure(run, load_encoder("arm-reach"), ["outside"], episodes=1, first_seed=5)
        path.write_text(f'{{"score": {own.score + 1}}}')
        worse = measure(run, load_encoder("arm-reach"), ["outside"], episodes=1, first_seed=5)
        table = str(tmp_path / "cameras.csv")
        arguments = ["evaluate", str(run), "--cameras", "outside", "--episodes", "1", "--seed", "5", "--csv", table]
        assert main(arguments) == 0
    finally:
        path.write_text(text)
    assert [line.score for line in again] == [own.score, outside.score]
    assert again[0].share == pytest.approx(100)
    assert again[1].share == pytest.approx(50 * (outside.score - random_score))
    assert np.isnan([line.share for line in worse]).all()  # no better than random: there is nothing to share
    said = capsys.readouterr().out
    assert "nan" not in said
    assert "no share: from its own cameras, the policy is no better than random actions" in said


@pytest.mark.parametrize("placed", [{}, {"placement": "ring"}])
def test_cameras_of_a_rig_are_raised_by_its_own_option(placed: dict[str, str]) -> None:
    rig = {"id": CAMERA_RIG, "kwargs": {"env_id": "Reacher-v5", "views": 2, **placed}}
    own = TrainConfig.from_mapping({**values(pixels={}), "env": rig})
    raised = env_seen_by("outside", own)
    before, after = make_env(rig["id"], rig["kwargs"]), make_env(raised.id, raised.kwargs)
    assert after.unwrapped.dome.elevation == pytest.approx(before.unwrapped.dome.outside(DEGREES).elevation)  # type: ignore[attr-defined]
    assert after.unwrapped.dome.radius == before.unwrapped.dome.radius  # type: ignore[attr-defined]
    assert np.array_equal(after.unwrapped.center, before.unwrapped.center)  # type: ignore[attr-defined]
    before.close()
    after.close()


def test_a_table_is_read_and_written_in_one_turn(tmp_path: Path) -> None:
    path = tmp_path / "cameras.csv"
    line = Line("t", "a", 0, "final_model.zip", "own", 50, 0, score=1.5, success=1.0, share=100.0)
    write_table(tmp_path / "other" / "cameras.csv", [replace(line, seed=1)])
    writer = threading.Thread(target=write_table, args=(path, [line]))
    with in_turn(tmp_path):
        writer.start()
        writer.join(0.5)
        assert writer.is_alive()  # it waits for its turn
        (tmp_path / "other" / "cameras.csv").rename(path)  # somebody else, whose turn it is
    writer.join(30)
    assert sorted(each.seed for each in read_table(path)) == [0, 1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cameras.csv", "other"]  # it leaves nothing behind


def test_table_keeps_one_line_for_each_measurement(tmp_path: Path) -> None:
    path = tmp_path / "cameras.csv"
    line = Line("t", "a", 0, "final_model.zip", "own", 50, 0, score=1.5, success=float("nan"), share=100.0)
    others = [replace(line, seed=1), replace(line, cameras="unseen"), replace(line, episodes=100)]
    write_table(path, [line, *others])
    write_table(path, [replace(line, score=2.5)])
    table = read_table(path)
    assert [each.score for each in table] == [2.5, 1.5, 1.5, 1.5]
    assert [each.key for each in table] == [each.key for each in (line, *others)]
    path.write_text("something,else\n1,2\n")
    with pytest.raises(UserError, match="is no table of cameras"):
        read_table(path)


@pytest.mark.parametrize(
    ("changes", "cameras", "words"),
    [
        ({"kwargs": {"obs_mode": "state"}}, "unseen", "neither an encoder nor pixels"),
        ({"pixels": {}, "kwargs": {"views": 1}}, "missing", "one camera only"),
        ({"pixels": {}, "env": {"id": "gqn_rl/RoomNavigate-v0"}}, "outside", "takes no camera_elevation or elevation"),
        ({"pixels": {}, "env": {"id": "conftest:toy/Reach-v0"}}, "unseen", "`cameras` and a `dome`"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], cameras: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        make_envs_seen_by(cameras, config(**changes), None, 1)
    assert words in str(error.value)
