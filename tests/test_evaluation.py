"""Laws of evaluation and of what it leaves: the same episodes every time, whatever the batch, and files that open."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
import torch
import yaml
from conftest import EPISODE, TOY_ID, OtherEncoder, ToyEncoder, ToyReach, toy_values
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from gqn_rl.agents.artifacts import compose_frame, draw_learning_curve, film_episodes, views_in, write_video
from gqn_rl.agents.build import build_model, make_vec_env, see_with
from gqn_rl.agents.evaluation import Evaluation, deterministic, evaluate, uniform_random
from gqn_rl.agents.replay import replay
from gqn_rl.agents.reporting import describe, film, say
from gqn_rl.agents.runs import Row, RunFolder
from gqn_rl.agents.seeding import HELD_OUT
from gqn_rl.agents.training import TrainConfig, train
from gqn_rl.agents.vec_scene import VecSceneObservation
from gqn_rl.config import UserError


def towards_target(observations: NDArray[np.float32], starts: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A good policy on the toy's state: half of the way at every step."""
    return np.clip((observations[:, 2:] - observations[:, :2]) / 0.8, -1, 1)


def one_by_one(episodes: int, first_seed: int, **kwargs: Any) -> Evaluation:
    """The slow reference: a plain environment, an episode at a time."""
    env = gym.make(TOY_ID, obs_mode="state", **kwargs)
    results = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=HELD_OUT + first_seed + episode)
        total, steps, done = 0.0, 0, False
        while not done:
            action = towards_target(observation[None], np.zeros(1, bool))[0]
            observation, reward, terminated, truncated, info = env.step(action)
            total, steps, done = total + float(np.float32(reward)), steps + 1, terminated or truncated
        results.append((total, steps, float(info["is_success"]), info["distance"]))
    return Evaluation(*(np.array(column) for column in zip(*results, strict=True)))


@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3, 7])
def test_batched_evaluation_equals_one_episode_at_a_time(n_envs: int, terminate: bool) -> None:
    expected = one_by_one(7, first_seed=4, terminate=terminate)
    venv = make_vec_env(TOY_ID, {"obs_mode": "state", "terminate": terminate}, n_envs, seed=1)
    found = evaluate(towards_target, venv, episodes=7, first_seed=4)
    for name in ("returns", "lengths", "successes", "distances"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert (len(set(found.lengths.tolist())) > 1) == terminate


def test_every_evaluation_sees_the_same_episodes_and_leaves_no_trace() -> None:
    venv = make_vec_env(TOY_ID, {"obs_mode": "state"}, 2, seed=1)
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    first = evaluate(towards_target, venv, 5)
    venv.step(np.zeros((2, 2)))
    second = evaluate(towards_target, venv, 5)
    np.testing.assert_array_equal(first.returns, second.returns)
    assert not np.array_equal(first.returns, evaluate(towards_target, venv, 5, first_seed=5).returns)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]  # noqa: NPY002


def test_environment_that_says_nothing_of_success_scores_nan() -> None:
    venv = DummyVecEnv([lambda: gym.make("Pendulum-v1", max_episode_steps=3)])
    result = evaluate(uniform_random(venv.action_space, 1, seed=0), venv, 2)
    assert math.isnan(result.success)
    assert math.isnan(result.distance)
    assert result.to_dict() == {
        "episodes": 2,
        "score": result.score,
        "success": None,
        "distance": None,
        "length": 3.0,
    }


class Counting(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Rewards step i by ``rewards[i]``, and ends with the last of them, if at all."""

    observation_space = action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, rewards: list[float], *, ends: bool = True) -> None:
        self.rewards, self.ends, self.steps = rewards, ends, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        reward = self.rewards[self.steps % len(self.rewards)]
        self.steps += 1
        return np.zeros(1, np.float32), reward, self.ends and self.steps == len(self.rewards), False, {}


def test_an_episode_without_end_and_rewards_without_a_sum_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(*rewards: float, ends: bool = True) -> Evaluation:
        venv = DummyVecEnv([lambda: Counting([0.0, 0.0]), lambda: Counting(list(rewards), ends=ends)])
        return evaluate(uniform_random(venv.action_space, 2, seed=0), venv, 4, first_seed=7)

    for wrong in (math.nan, math.inf):
        with pytest.raises(UserError, match=f"not finite: those .* seed {HELD_OUT + 8} sum up to {wrong}$"):
            outcome(0.0, wrong, 0.0)
    monkeypatch.setattr("gqn_rl.agents.evaluation.LONGEST", 5)
    assert outcome(*range(5)).returns.tolist() == [0.0, 10.0, 0.0, 10.0]  # as long as may be
    with pytest.raises(UserError, match=r"not ended after 5 steps, .*; give the environment a max_episode_steps"):
        outcome(1.0, ends=False)


def test_random_actions_are_uniform_reproducible_and_their_own() -> None:
    space = spaces.Box(-1, 3, (2,), np.float32, seed=0)
    state = space.np_random.bit_generator.state
    policy, again = uniform_random(space, 500, seed=1), uniform_random(space, 500, seed=1)
    everywhere = np.ones(500, bool)
    actions = policy(None, everywhere)
    assert actions.shape == (500, 2)
    np.testing.assert_array_equal(actions, again(None, everywhere))
    assert abs(actions.mean() - 1) < 0.2
    assert actions.min() < -0.9
    assert actions.max() > 2.9
    assert space.np_random.bit_generator.state == state


def test_a_recurrent_policy_remembers_its_own_episode_and_no_other() -> None:
    """Batched, with episodes that end at different times, it does what it does one episode at a time."""
    sb3_contrib = pytest.importorskip("sb3_contrib")
    venv = make_vec_env(TOY_ID, {"obs_mode": "state", "terminate": True}, 3, seed=1)
    kwargs = {"n_steps": 16, "batch_size": 16, "n_epochs": 4, "learning_rate": 0.01}
    model = build_model(sb3_contrib.RecurrentPPO, venv, policy="MlpLstmPolicy", kwargs=kwargs, total_steps=96, seed=0)
    model.learn(96)
    together = evaluate(deterministic(model), venv, 7)
    alone = evaluate(deterministic(model), make_vec_env(TOY_ID, {"obs_mode": "state", "terminate": True}, 1, 1), 7)
    np.testing.assert_allclose(together.returns, alone.returns, rtol=1e-4)
    env, returns = gym.make(TOY_ID, obs_mode="state", terminate=True), []
    for episode in range(7):
        observation, _ = env.reset(seed=HELD_OUT + episode)
        memory, total, done = None, 0.0, False
        while not done:
            action, memory = model.predict(observation, memory, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    np.testing.assert_allclose(alone.returns, returns, rtol=1e-4)

    def forgetful(observations: NDArray[np.float32], starts: NDArray[np.bool_]) -> NDArray[np.float32]:
        return model.predict(observations, deterministic=True)[0]

    assert not np.allclose(evaluate(forgetful, venv, 7).returns, returns, rtol=1e-4)


def test_stop_is_granted_within_an_evaluation() -> None:
    steps = []

    def check_stop() -> None:
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(towards_target, make_vec_env(TOY_ID, {"obs_mode": "state"}, 1, 0), 5, check_stop=check_stop)
    assert len(steps) == 4


# Replaying a run ----------------------------------------------------------------------------------------------


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run", symlinks=True)


def test_replay_of_a_finished_run_gives_its_last_evaluation(run_copy: Path) -> None:
    last = RunFolder(run_copy).rows()[-1]
    found = replay(run_copy, ToyEncoder(), episodes=5)
    assert found["model"] == "final_model.zip"
    assert (found["score"], found["success"], found["length"]) == (last.score, last.success, last.length)
    assert json.loads((run_copy / "replay.json").read_text()) == found
    assert found["distance"] > 0
    others = replay(run_copy, ToyEncoder(), episodes=5, first_seed=5)
    assert others["score"] != found["score"]
    frames = iio.imread(run_copy / others["video"])
    assert frames.shape[0] >= 4 * EPISODE


def test_replay_takes_the_best_policy_when_asked_or_unfinished(run_copy: Path) -> None:
    best = max(row.score for row in RunFolder(run_copy).rows())
    assert replay(run_copy, ToyEncoder(), episodes=5, best=True)["score"] == best
    (run_copy / "summary.json").unlink()
    assert replay(run_copy, ToyEncoder(), episodes=5)["model"] == "best_model.zip"
    (run_copy / "best_model.zip").unlink()
    with pytest.raises(UserError, match="has no policy yet: the first one is saved after 100 steps"):
        replay(run_copy, ToyEncoder(), episodes=5)


@pytest.mark.parametrize("encoder", [OtherEncoder(), None])
def test_replay_refuses_another_encoder(finished_run: Path, encoder: OtherEncoder | None) -> None:
    with pytest.raises(UserError, match=r"was trained with encoder conftest:ToyEncoder \(sha256:.* not the one given"):
        replay(finished_run, encoder, episodes=1)


def test_replay_of_a_policy_that_observes_something_else_says_so(run_copy: Path) -> None:
    config = run_copy / "config.yaml"
    values = yaml.safe_load(config.read_text())
    values["proprio"] = False
    config.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"final_model.zip is of a policy with other observations .*train it again"):
        replay(run_copy, ToyEncoder(), episodes=1)


class Photograph(ToyReach):
    """It is seen by one camera, with channels last, as most environments show pictures."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

    def _observe(self) -> Any:
        return self.render()[:36, :36]


def test_a_policy_on_pictures_with_channels_last_is_replayed(tmp_path: Path) -> None:
    gym.register("test/Photograph-v0", entry_point=Photograph, max_episode_steps=EPISODE)
    values = toy_values(encoder=None, env={"id": "test/Photograph-v0"}, total_steps=20)
    values["algorithm"]["kwargs"]["learning_starts"] = 99
    train(tmp_path / "run", TrainConfig.from_mapping(values))
    found = replay(tmp_path / "run", None, episodes=5)
    del gym.registry["test/Photograph-v0"]
    assert found["score"] == RunFolder(tmp_path / "run").rows()[-1].score
    assert found["video"] is not None


def test_replay_of_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run: there is no config.yaml"):
        replay(tmp_path, None, episodes=1)


# What is left for the eye -------------------------------------------------------------------------------------


def test_film_shows_the_episodes_that_evaluation_counts() -> None:
    encoder = ToyEncoder()
    taken: list[NDArray[np.float32]] = []
    begun: list[NDArray[np.bool_]] = []

    def policy(observations: NDArray[np.float32], starts: NDArray[np.bool_]) -> NDArray[np.float32]:
        taken.append(observations.copy())
        begun.append(starts.copy())
        return np.zeros((len(observations), 2), np.float32)

    with film_episodes(TOY_ID, {}, policy, partial(see_with, encoder), episodes=2, first_seed=3) as (frames, fps):
        assert fps == 10
        shown = list(frames)
    assert len(shown) == 2 * (1 + EPISODE + 5)  # the first observation, every step, half a second's pause
    assert not np.array_equal(shown[EPISODE], shown[EPISODE - 1])  # the last moment, before the VecEnv's own reset
    assert all(np.array_equal(shown[EPISODE], still) for still in shown[EPISODE : EPISODE + 6])
    assert not np.array_equal(shown[EPISODE], shown[EPISODE + 6])
    assert np.flatnonzero(np.concatenate(begun)).tolist() == [0, EPISODE]
    filmed, taken = taken, []
    venv = VecSceneObservation(make_vec_env(TOY_ID, {}, 1, seed=0), encoder)
    evaluate(policy, venv, episodes=2, first_seed=3)
    np.testing.assert_array_equal(np.concatenate(filmed), np.concatenate(taken))


@pytest.mark.parametrize("views", [1, 2, 3, 5])
def test_frame_holds_picture_views_and_caption_on_even_sides(views: int) -> None:
    picture = np.full((480, 480, 3), 200, np.uint8)
    seen = np.stack([np.full((64, 64, 3), 10 * (index + 1), np.uint8) for index in range(views)])
    frame = compose_frame(picture, seen, "a caption")
    assert frame is not None
    assert frame.dtype == np.uint8
    assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0
    assert (frame[160, 160] == 200).all()  # the picture, resized
    for index in range(views):  # every view is there, enlarged, with its own colour untouched
        assert (frame == 10 * (index + 1)).all(axis=-1).sum() >= 64 * 64
    assert compose_frame(None, None, "") is None
    alone = compose_frame(picture, None, "")
    assert alone is not None
    assert alone.shape[1] == 320


def test_pixel_observations_are_shown_camera_by_camera() -> None:
    stacked = np.random.default_rng(0).integers(0, 255, (4, 5, 6), dtype=np.uint8)
    views = views_in(stacked)
    assert views is not None
    np.testing.assert_array_equal(views, [stacked[:, :, :3], stacked[:, :, 3:]])
    assert views_in(np.zeros(3, np.float32)) is None


@pytest.mark.parametrize("codec", ["mp4", "gif"])
def test_video_is_written_and_reads_back(codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if codec == "gif":
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    else:
        pytest.importorskip("imageio_ffmpeg")
    frames = [np.full((64, 96, 3), value, np.uint8) for value in (0, 120, 240)]
    path = write_video(tmp_path / "film.mp4", iter(frames), fps=5)
    assert path is not None
    assert path.name == f"film.{codec}"
    monkeypatch.undo()
    back = iio.imread(path)
    assert back.shape == (3, 64, 96, 3)
    np.testing.assert_allclose(back.mean(axis=(1, 2, 3)), [0, 120, 240], atol=6)
    assert write_video(tmp_path / "nothing.mp4", [], fps=5) is None
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_film_that_fails_costs_no_more_than_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any) -> None:
        raise RuntimeError("no display")

    monkeypatch.setattr("conftest.ToyReach.render", broken)
    model: Any = None
    arguments: dict[str, Any] = {"env_id": TOY_ID, "env_kwargs": {}, "see": partial(see_with, ToyEncoder())}
    assert film(tmp_path / "film.mp4", model=model, episodes=1, **arguments) is None
    assert "note: no video (RuntimeError: no display)" in capsys.readouterr().out


def test_reader_that_has_gone_does_not_stop_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
    say("a line for nobody")
    say("and another")


@pytest.mark.parametrize("success", [0.5, float("nan")])
def test_learning_curve_is_a_picture(success: float, tmp_path: Path) -> None:
    rows = [Row("task", "arm", 0, step, step / 100, success, 1.0, 8.0) for step in (100, 200, 300)]
    draw_learning_curve(tmp_path / "curve.png", rows, {"score": 0.2, "success": None}, "a title")
    picture = iio.imread(tmp_path / "curve.png")
    assert picture.shape[0] == 480
    assert picture.shape[1] == (660 if math.isnan(success) else 1200)
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 20


@pytest.mark.parametrize(
    ("success", "by_chance", "words"),
    [
        (0.8, 0.02, "succeeds in 80% of 5 held-out episodes"),
        (1.0, None, "uniformly random actions get -9.00"),  # told of success only where there is some
        (float("nan"), None, "gets a mean return of -2.50 over 5 held-out"),
    ],
)
def test_summary_says_what_was_achieved_and_by_chance(success: float, by_chance: float | None, words: str) -> None:
    column = np.full(5, -2.5)
    result = Evaluation(column, np.full(5, 25), np.full(5, success), column)
    text = describe(
        env_id="gqn_rl/ArmReach-v0",
        algorithm="SAC",
        eyes="the scene vectors of encoder arm-reach",
        result=result,
        random_policy={"score": -9.0, "success": by_chance},
        steps=15_000,
        wall_s=600,
        folder=Path("runs/x"),
        video=None,
    )
    assert words in text
    assert "-9.00" in text
    for fact in ("15,000 steps", "10 minutes", "SAC", "arm-reach", "gqn-rl evaluate runs/x"):
        assert fact in text
    assert "\n" not in text


def test_a_film_is_as_fast_as_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ToyReach.metadata, "render_fps", 25)
    see = partial(see_with, ToyEncoder())
    with film_episodes(TOY_ID, {}, lambda seen, starts: np.zeros((len(seen), 2)), see, episodes=1) as (_, fps):
        assert fps == 25


@pytest.mark.parametrize("codec", ["mp4", "gif"])
def test_a_video_shows_as_many_frames_a_second_as_is_said(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if codec == "gif":
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    else:
        pytest.importorskip("imageio_ffmpeg")
    frames = [np.full((64, 96, 3), value, np.uint8) for value in (0, 120, 240)]
    path = write_video(tmp_path / "film.mp4", frames, fps=5)
    monkeypatch.undo()
    assert path is not None
    if codec == "gif":
        assert iio.immeta(path, plugin="pillow")["duration"] == 200  # milliseconds
    else:
        assert iio.immeta(path, plugin="FFMPEG")["fps"] == pytest.approx(5)
