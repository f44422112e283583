"""Laws of what pretraining minimises: contrast by geometry, and a total that is what its terms say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gqn_rl.gaussians import along_ray, isotropic
from gqn_rl.gqn import GQN, GQNConfig, likelihood_floor
from gqn_rl.objectives import Losses, Objective, ObjectiveConfig, geometric_contrast, info_nce
from gqn_rl.types import Views

SCENES, VIEWS, POINTS = 32, 3, 4
SIDE, SIGMA = 16, 0.5
OFF = {"likelihood": 0.0, "contrast": 0.0, "geometry": 0.0, "prior_mean": 0.0}


# --- contrast by geometry ------------------------------------------------------------------------------------------


def seen(points: Tensor, seed: int = 0) -> Tensor:
    """What cameras of random places say of ``points`` (B, V, K, 3): Gaussians (B, V, K, 9)."""
    rng = torch.Generator().manual_seed(seed)
    origins = 2 * F.normalize(torch.randn(*points.shape[:2], 1, 3, generator=rng), dim=-1).expand_as(points)
    directions = F.normalize(points - origins, dim=-1)
    distances = torch.full(points.shape[:3], 2.0)  # none knows how far it is
    return along_ray(origins, directions, distances, distances.new_tensor(400.0), distances.new_tensor(4.0))


def rooms(scenes: int = SCENES, seed: int = 0) -> Tensor:
    """Points (B, V, K, 3), the same for all views of a scene."""
    rng = torch.Generator().manual_seed(seed)
    return (0.4 * torch.randn(scenes, 1, POINTS, 3, generator=rng)).expand(-1, VIEWS, -1, -1)


PRIOR = isotropic(torch.zeros(POINTS, 3), 0.5)


def test_views_that_agree_find_each_other() -> None:
    loss, accuracy = geometric_contrast(seen(rooms()), PRIOR)
    assert accuracy == 1
    assert loss < 0.2


def test_views_of_shuffled_scenes_are_at_chance() -> None:
    rng = torch.Generator().manual_seed(1)
    gaussians = seen(rooms(scenes=128))
    mixed = torch.stack([view[torch.randperm(128, generator=rng)] for view in gaussians.unbind(1)], dim=1)
    loss, accuracy = geometric_contrast(mixed, PRIOR)
    assert accuracy < 0.05
    assert loss > math.log(128)


def test_views_that_say_nothing_are_at_chance_to_the_digit() -> None:
    loss, _ = geometric_contrast(torch.zeros(SCENES, VIEWS, POINTS, 9), PRIOR)
    assert float(loss) == pytest.approx(math.log(SCENES), abs=1e-5)


@settings(max_examples=10, deadline=None)
@given(scenes=st.permutations(range(6)), views=st.permutations(range(VIEWS)))
def test_neither_the_order_of_scenes_nor_that_of_views_matters(scenes: list[int], views: list[int]) -> None:
    gaussians = seen(rooms(6))
    for one, other in zip(
        geometric_contrast(gaussians, PRIOR), geometric_contrast(gaussians[scenes][:, views], PRIOR), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_world_has_no_preferred_direction() -> None:
    """Points and cameras turned together are as easily told apart, about any axis: the prior is a ball."""
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)))
    rng = torch.Generator().manual_seed(3)
    points = rooms()
    origins = 2 * F.normalize(torch.randn(SCENES, VIEWS, 1, 3, generator=rng), dim=-1).expand_as(points)
    losses = []
    for turn in (torch.eye(3), rotation):
        directions = F.normalize(points - origins, dim=-1) @ turn.T
        distances = torch.full(points.shape[:3], 2.0)
        across, along = distances.new_tensor(100.0), distances.new_tensor(4.0)
        losses.append(geometric_contrast(along_ray(origins @ turn.T, directions, distances, across, along), PRIOR)[0])
    torch.testing.assert_close(losses[0], losses[1], atol=1e-4, rtol=1e-3)


def test_gradients_bring_views_that_disagree_together() -> None:
    """Descent on where a third view has the points, which begins anywhere: it learns the places that two know."""
    gaussians = seen(rooms(8))
    offsets = torch.zeros(8, POINTS, 3).requires_grad_()
    wrong = rooms(8, seed=1)[:, 0]
    optimizer = torch.optim.Adam([offsets], lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        third = isotropic(wrong + offsets, 0.1)[:, None]
        loss, accuracy = geometric_contrast(torch.cat([gaussians[:, :2], third], dim=1), PRIOR)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5 > 0.5 > losses[-1]
    assert accuracy > 0.9


def test_info_nce_is_symmetric_and_counts_what_is_found() -> None:
    similarity = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(info_nce(similarity)[0], info_nce(similarity.T)[0])
    rows = [-math.log(float(similarity[i].softmax(0)[i])) for i in range(7)]
    columns = [-math.log(float(similarity[:, i].softmax(0)[i])) for i in range(7)]
    assert float(info_nce(similarity)[0]) == pytest.approx((sum(rows) + sum(columns)) / 14, rel=1e-5)
    found = [int(similarity[i].argmax()) == i for i in range(7)]
    assert float(info_nce(similarity)[1]) == pytest.approx(sum(found) / 7)


# --- the total -----------------------------------------------------------------------------------------------------


def build(kind: str = "points", channels: int = 6) -> GQN:
    torch.manual_seed(0)
    representation = {"kind": kind, "channels": channels, "width": 16, "heads": 3, "token_channels": 8}
    generator = {"channels": 8, "steps": 2, "canvas_channels": 16, "mixing_channels": 8, "zero_init_scene": False}
    return GQN(GQNConfig.from_mapping({"image_size": SIDE, "representation": representation, "generator": generator}))


def views(scenes: int, count: int, seed: int) -> Views:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (scenes, count, SIDE, SIDE, 3), dtype=np.uint8)
    poses = rng.normal(size=(scenes, count, 5)).astype(np.float32)
    return Views(torch.from_numpy(images), torch.from_numpy(poses))


CONTEXT, QUERY = views(8, VIEWS, 0), views(4, 1, 1)
USED = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]]).bool()


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def losses(model: GQN, weights: dict[str, float], explained: int | None = None, context: Views = CONTEXT) -> Losses:
    """Eight scenes to compare; four of them, two apart, to draw."""
    torch.manual_seed(1)
    objective = Objective(ObjectiveConfig.from_mapping({**OFF, **weights}), model.representation.feature_size)
    return objective(model, context, USED, QUERY, SIGMA, noise(), explained)


def scene_of(model: GQN, index: int) -> Tensor:
    """The scene (1, C, 1, 1) that the generator gets for drawn scene ``index``, view by view."""
    index *= 2
    shares = [
        model.represent(Views(CONTEXT.images[[index]][:, [view]], CONTEXT.poses[[index]][:, [view]]))
        for view in range(VIEWS)
        if USED[index // 2, view]
    ]
    return torch.stack(shares).sum(0)


@pytest.mark.parametrize("explained", [None, 4, 2, 1])
def test_the_likelihood_is_that_of_the_explained_views(explained: int | None) -> None:
    """By hand: the ELBO of drawn scenes that are G / E apart, per colour value, and of no other."""
    model = build()
    chosen = range(0, 4, 4 // (explained or 4))
    scene = torch.cat([scene_of(model, i) for i in chosen])
    query = Views(QUERY.images[list(chosen)], QUERY.poses[list(chosen)])
    output = model.reconstruct(scene, query, SIGMA, noise())
    pixels = SIDE * SIDE * 3
    negative_elbo = output.nll.mean() - likelihood_floor(SIGMA, pixels) + output.kl.mean()
    found = losses(model, {"likelihood": 2.0}, explained)
    torch.testing.assert_close(found.negative_elbo, negative_elbo, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.kl, output.kl.mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.total, 2.0 * negative_elbo / pixels, rtol=1e-4, atol=1e-6)
    truth = query.images.float() / 255
    torch.testing.assert_close(found.posterior_mse, F.mse_loss(output.reconstruction, truth), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("explained", [None, 1])
def test_the_prior_mean_s_error_is_that_of_all_that_is_drawn(explained: int | None) -> None:
    model = build()
    drawn = torch.cat([model.predict(scene_of(model, i), QUERY.poses[[i]]) for i in range(4)])
    found = losses(model, {"prior_mean": 3.0, "likelihood": 1.0}, explained)
    torch.testing.assert_close(found.prior_mse, F.mse_loss(drawn, QUERY.images.float() / 255), rtol=1e-4, atol=1e-6)


def test_geometry_compares_all_views_of_all_scenes() -> None:
    model = build()
    shares = model.represent_views(CONTEXT).flatten(0, 1)
    prior = model.representation.prior
    assert prior is not None
    gaussians = model.representation.gaussians(shares).unflatten(0, (8, VIEWS))
    loss, accuracy = geometric_contrast(gaussians, prior)
    found = losses(model, {"geometry": 0.5})
    torch.testing.assert_close(found.geometry, loss)
    torch.testing.assert_close(found.total, 0.5 * loss)
    assert found.geometry_accuracy == accuracy


def test_the_total_is_the_weighted_sum_of_its_terms() -> None:
    model = build()
    weights = {"likelihood": 4.0, "contrast": 0.7, "geometry": 0.3, "prior_mean": 100.0}
    found = losses(model, weights, explained=2)
    pixels = SIDE * SIDE * 3
    expected = 4 * found.negative_elbo / pixels + 0.7 * found.contrast + 0.3 * found.geometry + 100 * found.prior_mse
    torch.testing.assert_close(found.total.detach(), expected)
    for name, value in weights.items():  # and each term is what it is without the others
        alone = losses(model, {name: value}, explained=2)
        for field, number in alone._asdict().items():
            if field != "total" and not number.isnan():
                torch.testing.assert_close(number, getattr(found, field), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("likelihood", {"negative_elbo", "kl", "posterior_mse"}),
        ("prior_mean", {"prior_mse"}),
        ("contrast", {"contrast", "contrast_accuracy"}),
        ("geometry", {"geometry", "geometry_accuracy"}),
    ],
)
def test_terms_that_are_off_are_nan_and_add_nothing(name: str, fields: set[str]) -> None:
    found = losses(build(), {name: 1.0})
    numbers = {field for field, value in found._asdict().items() if value.isfinite()}
    assert numbers == {"total", *fields}


def test_without_points_there_is_no_geometry_and_nothing_is_compared() -> None:
    model = build("ray")
    weights = {"likelihood": 1.0, "prior_mean": 1.0}
    with_geometry, without = losses(model, {**weights, "geometry": 1.0}), losses(model, weights)
    assert with_geometry.geometry.isnan()
    assert torch.equal(with_geometry.total, without.total)


def test_comparing_more_scenes_does_not_change_what_is_drawn() -> None:
    model = build()
    alone = losses(model, {"prior_mean": 1.0, "likelihood": 1.0})
    beside = losses(model, {"prior_mean": 1.0, "likelihood": 1.0, "geometry": 1.0, "contrast": 1.0})
    torch.testing.assert_close(beside.prior_mse, alone.prior_mse, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(beside.negative_elbo, alone.negative_elbo, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("scene", "view", "matters"), [(0, 0, True), (0, 1, False), (2, 2, False), (4, 2, True), (1, 0, False)]
)
def test_only_used_views_of_drawn_scenes_enter_the_drawing(scene: int, view: int, matters: bool) -> None:
    model = build()
    other = Views(CONTEXT.images.clone(), CONTEXT.poses)
    other.images[scene, view] = 255 - other.images[scene, view]
    before, after = (losses(model, {"prior_mean": 1.0}, context=context).prior_mse for context in (CONTEXT, other))
    assert torch.equal(before, after) != matters
