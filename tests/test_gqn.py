"""Laws of the whole network: additive scenes, likelihoods in nats, and images of any shape from any camera."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from gqn_rl.config import UserError
from gqn_rl.gqn import GQN, GQNConfig, likelihood_floor
from gqn_rl.types import Views

#: Representation networks: points alone, and points beside free features.
KINDS = ("pyramid", "tower", "pool", "ray", "points", "points and features", "plan")
GENERATOR = {"steps": 2, "channels": 8, "canvas_channels": 16, "mixing_channels": 8}
REPRESENTATION = {"width": 16, "heads": 2, "token_channels": 8, "cells": 4}


def build(kind: str = "ray", size: Any = (16, 24), **generator: Any) -> GQN:
    torch.manual_seed(0)
    channels = {"points": 0, "points and features": 8}.get(kind, 12)
    config = GQNConfig.from_mapping(
        {
            "image_size": size,
            "representation": {**REPRESENTATION, "kind": kind.partition(" ")[0], "channels": channels},
            "generator": {**GENERATOR, "zero_init_scene": False, **generator},
        }
    )
    return GQN(config)


def random_views(b: int, k: int, size: tuple[int, int] = (16, 24), seed: int = 0) -> Views:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (b, k, *size, 3), dtype=np.uint8)
    return Views(images, rng.normal(size=(b, k, 5)).astype(np.float32))


def seed(value: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def assert_equal(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Up to rounding, which is that of the largest numbers: precisions are in the hundreds."""
    largest = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(actual, expected, atol=1e-4 * largest, rtol=1e-4)


# --- the scene is a sum ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(4)))
def test_scene_does_not_depend_on_the_order_of_views(kind: str, order: list[int]) -> None:
    gqn, views = build(kind), random_views(2, 4)
    with torch.no_grad():
        shuffled = gqn.represent(Views(views.images[:, order], views.poses[:, order]))
        assert_equal(shuffled, gqn.represent(views))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", [0, 1, 3])
def test_scene_is_additive_over_views(kind: str, split: int) -> None:
    gqn, views = build(kind), random_views(2, 3)
    parts = [gqn.represent(Views(views.images[:, s], views.poses[:, s])) for s in (slice(split), slice(split, None))]
    assert_equal(parts[0] + parts[1], gqn.represent(views))
    torch.testing.assert_close(gqn.represent_views(views).sum(dim=1), gqn.represent(views))


@pytest.mark.parametrize("kind", KINDS)
def test_no_views_are_an_empty_scene_that_can_be_drawn(kind: str) -> None:
    gqn, nothing = build(kind), random_views(2, 0)
    scene = gqn.represent(nothing)
    assert scene.shape == (2, *gqn.representation.out_shape)
    assert torch.equal(scene, torch.zeros_like(scene))
    assert gqn.generate(scene, random_views(2, 1).poses).shape == (1, 2, 1, 16, 24, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_views_that_are_not_used_are_as_if_they_were_not_there(kind: str) -> None:
    gqn, views = build(kind), random_views(3, 4)
    used = torch.tensor([[True, True, False, False], [False, False, False, False], [False, True, True, True]])
    scenes = gqn.represent(views, used)
    for i, mine in enumerate(used):
        kept = Views(views.images[i : i + 1, mine.numpy()], views.poses[i : i + 1, mine.numpy()])
        assert_equal(scenes[i : i + 1], gqn.represent(kept))


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_of_a_batch_do_not_leak_into_each_other(kind: str) -> None:
    """Regression: no normalisation over the batch anywhere, in training mode either."""
    gqn = build(kind).train()
    context, poses = random_views(3, 2), random_views(3, 2, seed=1).poses
    together = gqn.predict(gqn.represent(context), poses)
    alone = gqn.predict(gqn.represent(Views(context.images[1:2], context.poses[1:2])), poses[1:2])
    assert_equal(alone[0], together[1])


# --- likelihood ------------------------------------------------------------------------------------------------------


def test_likelihood_floor_of_the_paper() -> None:
    assert likelihood_floor(0.7, 64 * 64 * 3) == pytest.approx(6909, abs=0.5)
    bits_per_value = likelihood_floor(0.7, 64 * 64 * 3) / (64 * 64 * 3 * math.log(2))
    assert bits_per_value == pytest.approx(0.811, abs=5e-4)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_nll_is_the_full_gaussian_in_nats(sigma: float) -> None:
    gqn, context, query = build(), random_views(2, 2), random_views(2, 3, seed=1)
    out = gqn(context, query, sigma, seed())
    assert out.reconstruction.shape == (2, 3, 16, 24, 3)
    assert out.nll.shape == out.kl.shape == (2, 3)
    target = torch.as_tensor(query.images).double() / 255
    expected = -Normal(out.reconstruction.double(), sigma).log_prob(target).sum(dim=(2, 3, 4))
    torch.testing.assert_close(out.nll.double(), expected, rtol=1e-5, atol=1e-2)
    assert (out.nll >= likelihood_floor(sigma, 16 * 24 * 3)).all()
    assert (out.kl > 0).all()


def test_forward_is_represent_then_reconstruct() -> None:
    gqn, context, query = build(), random_views(2, 2), random_views(2, 3, seed=1)
    for a, b in zip(
        gqn(context, query, 0.5, seed()), gqn.reconstruct(gqn.represent(context), query, 0.5, seed()), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_sigma_must_be_positive(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma must be positive"):
        build()(random_views(1, 1), random_views(1, 1), sigma)


# --- images from the prior -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("conditioning", ["pose", "rays"])
@pytest.mark.parametrize("decoder", ["linear", "conv"])
def test_generate_for_every_variant(kind: str, shared: bool, conditioning: str, decoder: str) -> None:
    gqn = build(kind, shared=shared, conditioning=conditioning, decoder=decoder)
    scene, poses = gqn.represent(random_views(2, 2)), random_views(2, 3, seed=1).poses
    images = gqn.generate(scene, poses, samples=4, rng=seed())
    assert images.shape == (4, 2, 3, 16, 24, 3)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, gqn.generate(scene, poses, samples=4, rng=seed()))
    assert not torch.equal(images[0], images[1])


def test_generate_keeps_scenes_queries_and_samples_apart() -> None:
    gqn = build()
    scene, poses = gqn.represent(random_views(2, 2)), random_views(2, 3, seed=1).poses
    images = gqn.generate(scene, poses, samples=2, deterministic=True)
    torch.testing.assert_close(images[0], images[1])
    torch.testing.assert_close(images[0], gqn.predict(scene, poses).clamp(0, 1))
    for b in range(2):
        for q in range(3):
            one = gqn.generate(scene[b : b + 1], poses[b : b + 1, q : q + 1], deterministic=True)
            torch.testing.assert_close(one[0, 0, 0], images[0, b, q], atol=1e-5, rtol=1e-4)


def test_predict_sends_gradient_to_the_scene() -> None:
    gqn = build()
    scene = gqn.represent(random_views(1, 2)).detach().requires_grad_()
    gqn.predict(scene, random_views(1, 2).poses).square().sum().backward()
    assert scene.grad is not None
    assert scene.grad.abs().max() > 0


def test_one_pose_convention_in_representation_and_generator() -> None:
    """Regression: a pose order that differs between parts. Turning by 2 pi changes nothing, moving by 2 pi does."""
    for conditioning in ("pose", "rays"):
        gqn = build("pool", conditioning=conditioning)
        views, query = random_views(1, 2), random_views(1, 2, seed=1)
        for number, periodic in enumerate([False, False, False, True, True]):
            turn = np.zeros(5, dtype=np.float32)
            turn[number] = 2 * math.pi
            scene, scene_turned = gqn.represent(views), gqn.represent(Views(views.images, views.poses + turn))
            image, image_turned = gqn.predict(scene, query.poses), gqn.predict(scene, query.poses + turn)
            assert torch.allclose(scene, scene_turned, atol=1e-4) == periodic
            assert torch.allclose(image, image_turned, atol=1e-4) == periodic


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("kind", "mixing_channels"),
    [(kind, m) for kind in KINDS for m in (0, 8) if m or not kind.startswith(("points", "plan"))],
)
def test_gradients_reach_every_parameter(kind: str, shared: bool, mixing_channels: int) -> None:
    gqn = build(kind, shared=shared, mixing_channels=mixing_channels, zero_init_scene=True, steps=3)
    optimizer = torch.optim.SGD(gqn.parameters(), lr=1e-5)
    for _ in range(2):  # zero-initialised layers let gradient through from the second step on
        optimizer.zero_grad()
        out = gqn(random_views(2, 2), random_views(2, 2, seed=1), 0.7, seed())
        (out.nll + out.kl).mean().backward()
        optimizer.step()
    silent = [name for name, p in gqn.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    # The very first step of the inference core has nothing but zeros (its state, h_g and, where camera and scene are
    # not mixed, the canvas) beside x, v and r.
    assert silent == ([] if shared or mixing_channels else ["generator.stages.0.inference_core.gates.weight"])


@pytest.mark.parametrize("kind", ["ray", "points"])  # a plan: tests/test_plans.py
def test_the_default_sizes_learn_which_scene_they_are_shown(kind: str) -> None:
    """Two scenes of one colour each, seen and asked for from random cameras: the prior path must tell them apart."""
    torch.manual_seed(0)
    fields = {"image_size": 16, "representation": {"kind": kind, "channels": 32}}
    gqn = GQN(GQNConfig.from_mapping({**fields, "generator": {"steps": 2, "channels": 16}}))
    optimizer = torch.optim.Adam(gqn.parameters(), lr=1e-3)
    images = np.empty((2, 2, 16, 16, 3), dtype=np.uint8)
    images[0], images[1] = (220, 40, 40), (40, 40, 220)
    rng = np.random.default_rng(0)

    def views() -> Views:
        return Views(images, rng.normal(size=(2, 2, 5)).astype(np.float32))

    for _ in range(60):
        optimizer.zero_grad()
        out = gqn(views(), views(), sigma=0.3, rng=seed())
        (out.nll + out.kl).mean().backward()
        optimizer.step()
    with torch.no_grad():
        predicted = gqn.predict(gqn.represent(views()), views().poses).mean(dim=(1, 2, 3))
    assert predicted[0, 0] - predicted[1, 0] > 0.3
    assert predicted[1, 2] - predicted[0, 2] > 0.3


# --- inputs and configuration ----------------------------------------------------------------------------------------


def test_numpy_and_torch_views_are_alike() -> None:
    gqn, views = build(), random_views(2, 2)
    tensors = Views(torch.as_tensor(views.images), torch.as_tensor(views.poses))
    assert torch.equal(gqn.represent(views), gqn.represent(tensors))


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (Views(np.zeros((1, 2, 16, 24, 3), np.float32), np.zeros((1, 2, 5), np.float32)), "uint8"),
        (Views(np.zeros((1, 2, 24, 16, 3), np.uint8), np.zeros((1, 2, 5), np.float32)), r"\(1, 2, 16, 24, 3\)"),
        (Views(np.zeros((1, 3, 16, 24, 3), np.uint8), np.zeros((1, 2, 5), np.float32)), r"\(1, 2, 16, 24, 3\)"),
        (Views(np.zeros((1, 2, 16, 24, 3), np.uint8), np.zeros((1, 2, 7), np.float32)), r"\(B, K, 5\)"),
        (Views(np.zeros((2, 16, 24, 3), np.uint8), np.zeros((2, 5), np.float32)), r"\(B, K, 5\)"),
    ],
)
def test_bad_views_are_refused(views: Views, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build().represent(views)


def test_scenes_and_poses_go_together_one_to_one() -> None:
    gqn, two = build(), build().represent(random_views(2, 3))
    for count in (1, 3, 4):
        query = random_views(count, 2)
        for call in (
            lambda query=query: gqn.predict(two, query.poses),
            lambda query=query: gqn.generate(two, query.poses),
            lambda query=query: gqn.reconstruct(two, query, 0.7),
        ):
            with pytest.raises(ValueError, match=f"there are 2 scenes, but poses for {count}"):
                call()


def test_nothing_to_draw_is_drawn_and_costs_nothing() -> None:
    gqn, query = build(), random_views(2, 0)
    out = gqn(random_views(2, 3), query, 0.7)
    assert out.reconstruction.shape == gqn.predict(gqn.represent(random_views(2, 3)), query.poses).shape
    assert out.nll.shape == out.kl.shape == (2, 0)


@pytest.mark.parametrize("samples", [0, -1, True, 1.5])
def test_a_number_of_samples_that_is_none_is_refused(samples: Any) -> None:
    gqn = build()
    with pytest.raises(ValueError, match=f"samples must be a whole number of at least 1, got {samples}"):
        gqn.generate(gqn.represent(random_views(1, 1)), random_views(1, 1).poses, samples)


def test_paper_presets_run_at_the_papers_sizes() -> None:
    for kind in ("pyramid", "tower", "pool"):
        config = GQNConfig.paper(kind)
        assert config.representation.kind == kind
        assert (config.generator.steps, config.generator.channels, config.generator.stride) == (12, 128, 4)
        assert not config.generator.zero_init_scene
    gqn = GQN(GQNConfig.paper("tower", image_size=64))
    with torch.no_grad():
        out = gqn(random_views(1, 1, (64, 64)), random_views(1, 1, (64, 64)), 0.7)
    assert out.reconstruction.shape == (1, 1, 64, 64, 3)
    assert len(GQN(GQNConfig.paper("pool", shared=False)).generator.stages) == 12


def test_configuration_survives_yaml_and_takes_one_number_for_a_square() -> None:
    config = GQNConfig.paper("pool", image_size=(48, 64), fovy=60.0)
    assert GQNConfig.from_mapping(config.to_dict()) == config
    assert GQNConfig(image_size=32).image_size == (32, 32)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 60}, "divisible by 8, got 60x60"),
        ({"image_size": True}, "'image_size' is True: true and false are no numbers"),
        ({"representation": {"kind": "pool", "channels": 1}}, "'pool' halves its channels: it needs at least 2, got 1"),
        (
            {"image_size": [36, 36], "representation": {"kind": "pool", "channels": 8}, "generator": {"stride": 8}},
            "stride 8 must divide .*got 36x36",
        ),
        ({"representation": {"kind": "tower"}}, "representation 'tower' needs channels above 0"),
        ({"generator": {"mixing_channels": 0}}, "'points' needs generator.mixing_channels above 0, got 0"),
        (
            {"representation": {"kind": "plan", "channels": 8}, "generator": {"mixing_channels": 0}},
            "'plan' needs generator.mixing_channels above 0, got 0",
        ),
        ({"fovy": 0}, "fovy"),
        ({"length_scale": 0}, "length_scale"),
        ({"generator": {"step": 3}}, "generator.step.*steps"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GQNConfig.from_mapping(fields)


def test_state_dict_round_trip() -> None:
    gqn = build()
    copy = GQN(gqn.config)
    copy.load_state_dict(gqn.state_dict())
    views = random_views(1, 2)
    assert torch.equal(copy.represent(views), gqn.represent(views))
