"""Laws of the features extractor that asks points for what a goal names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.torch_layers import FlattenExtractor
from test_vec_scene import _encoder

from gqn_rl.agents.build import build_model, load_model, make_vec_env, see_with
from gqn_rl.agents.queries import PointQueries
from gqn_rl.agents.vec_scene import CERTAINTY, FEATURES, POINTS, PROPRIO_KEY, SceneVector
from gqn_rl.config import UserError

NAME = "gqn_rl.agents.queries:PointQueries"
LAYOUT = {POINTS: 15, FEATURES: 4, PROPRIO_KEY: 2, "goal": 3, "wish": 1}
SIZE = sum(LAYOUT.values())
QUERIES = 2


def extractor() -> PointQueries:
    torch.manual_seed(0)
    return PointQueries(spaces.Box(-np.inf, np.inf, (SIZE,), np.float32), LAYOUT, QUERIES)


def observations(n: int = 6) -> torch.Tensor:
    return torch.randn(n, SIZE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_places_move_with_the_points_and_lie_among_them() -> None:
    ask, seen = extractor(), observations()
    out = ask(seen)
    assert out.shape == (len(seen), ask.features_dim)
    places, points = out[:, : 3 * QUERIES].unflatten(1, (QUERIES, 3)), seen[:, :15].unflatten(1, (5, 3))
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    assert ((low <= places) & (places <= high)).all()
    moved = seen.clone()
    moved[:, :15] += torch.tensor([1.0, -2.0, 0.5]).repeat(5)
    expected = places + torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(ask(moved)[:, : 3 * QUERIES], expected.flatten(1))


@torch.no_grad()
def test_the_goal_alone_decides_where_to_look_and_what_is_not_of_the_scene_passes_through() -> None:
    ask, seen = extractor(), observations()
    torch.testing.assert_close(ask(seen)[:, 3 * QUERIES :], seen[:, 19:])
    for part, matters in (((15, 19), False), ((19, 21), False), ((21, 24), True), ((24, 25), True)):
        other = seen.clone()
        other[:, slice(*part)] += 1.0
        same = torch.isclose(ask(other)[:, : 3 * QUERIES], ask(seen)[:, : 3 * QUERIES])
        assert same.all() != matters


@torch.no_grad()
def test_every_query_is_softmax_attention_with_weights_of_its_own() -> None:
    ask, seen = extractor(), observations(1)
    logits = ask.ask(seen[:, 21:]).unflatten(1, (QUERIES, 5))[0].double().numpy()
    weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = weights @ seen[0, :15].reshape(5, 3).double().numpy()
    np.testing.assert_allclose(ask(seen)[0, : 3 * QUERIES].numpy(), expected.ravel(), atol=1e-5)
    assert not np.allclose(weights[0], weights[1])


@torch.no_grad()
def test_with_certainty_every_place_says_how_sure_it_is() -> None:
    layout = {POINTS: 15, CERTAINTY: 5, **{name: size for name, size in LAYOUT.items() if name != POINTS}}
    ask, plain = PointQueries(spaces.Box(-1, 1, (SIZE + 5,), np.float32), layout, QUERIES), extractor()
    plain.load_state_dict(ask.state_dict())
    seen, sure = observations(), torch.rand(6, 5, generator=torch.Generator().manual_seed(2))
    out = ask(torch.cat([seen[:, :15], sure, seen[:, 15:]], dim=1))
    assert out.shape == (6, ask.features_dim)
    asked, rest = out.tensor_split([4 * QUERIES], dim=1)
    places, certainty = asked.unflatten(1, (QUERIES, 4)).tensor_split([3], dim=-1)
    torch.testing.assert_close(torch.cat([places.flatten(1), rest], dim=1), plain(seen))
    weights = plain.ask(seen[:, 21:]).unflatten(1, (QUERIES, 5)).softmax(-1)
    torch.testing.assert_close(certainty[..., 0], (weights @ sure[..., None])[..., 0])


@pytest.mark.parametrize(
    ("layout", "queries", "words"),
    [
        ({POINTS: 0, FEATURES: 22, "goal": 3}, 1, "asks points for what a goal names; .* has features 22, goal 3"),
        ({POINTS: 15, FEATURES: 4, PROPRIO_KEY: 6}, 1, "has points 15, features 4, proprio 6"),
        (LAYOUT, 0, "queries must be at least 1, got 0"),
    ],
)
def test_what_it_needs_is_named(layout: dict[str, int], queries: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PointQueries(spaces.Box(-1, 1, (25,), np.float32), layout, queries)


def test_by_name_in_a_run_it_learns_and_is_saved(tmp_path: Path) -> None:
    """With the layout of the scene vector, whose parts are where the environment's observation has them."""
    env = make_vec_env("gqn_rl:gqn_rl/RoomNavigate-v0", {"image_size": 16}, 1, seed=0)
    raw = env.reset()
    venv = see_with(_encoder("points", 3), env, certainty=True)
    layout = SceneVector(_encoder("points", 3), env.observation_space, certainty=True).layout
    assert isinstance(raw, dict)
    points = int(_encoder("points", 3).moving.sum())
    assert layout == {POINTS: 3 * points, CERTAINTY: points, FEATURES: 3, PROPRIO_KEY: 6, "goal": 10}
    assert venv.observation_space.shape == (sum(layout.values()),)
    arguments = {"learning_starts": 20, "policy_kwargs": {"features_extractor_class": NAME}}
    taken_back = {"policy_kwargs": {"features_extractor_class": None}}
    plain = build_model(SAC, venv, policy=None, kwargs=taken_back, total_steps=30, seed=0)
    assert isinstance(plain.policy.critic.features_extractor, FlattenExtractor)
    model = build_model(SAC, venv, policy=None, kwargs=arguments, total_steps=30, seed=0)
    reader = model.policy.critic.features_extractor
    assert isinstance(reader, PointQueries)
    before = [weight.detach().clone() for weight in reader.ask.parameters()]
    model.learn(30)
    assert all(not torch.equal(weight, old) for weight, old in zip(reader.ask.parameters(), before, strict=True))
    model.save(tmp_path / "model")
    seen = venv.reset()
    assert isinstance(seen, np.ndarray)
    loaded = load_model(SAC, tmp_path / "model")
    np.testing.assert_array_equal(
        model.predict(seen, deterministic=True)[0], loaded.predict(seen, deterministic=True)[0]
    )
    venv.close()


def test_a_run_that_cannot_use_it_says_so_before_any_work() -> None:
    def build(obs_mode: str, **policy: object) -> None:
        venv = make_vec_env("gqn_rl:gqn_rl/RoomNavigate-v0", {"image_size": 16, "obs_mode": obs_mode}, 1, seed=0)
        seen = see_with(_encoder("ray", 3), venv) if obs_mode == "views" else venv
        try:
            build_model(SAC, seen, policy=None, kwargs={"policy_kwargs": policy}, total_steps=30, seed=0)
        finally:
            venv.close()

    with pytest.raises(UserError, match="reads a scene vector: it needs a frozen encoder"):
        build("state", features_extractor_class=NAME)
    with pytest.raises(UserError, match=r"asks points for what a goal names; .* has features 3, proprio 6, goal 10"):
        build("views", features_extractor_class=NAME)
    with pytest.raises(UserError, match=r"features extractor 'gqn_rl.agents.queries:Points': .* has no 'Points'"):
        build("state", features_extractor_class="gqn_rl.agents.queries:Points")
