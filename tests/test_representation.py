"""Laws of the representation networks: shapes, independence of the batch, and knowledge of the camera."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gqn_rl.config import UserError
from gqn_rl.gaussians import GAUSSIAN_SIZE
from gqn_rl.ray_representation import PointAttention
from gqn_rl.representation import RepresentationConfig, build_representation

#: Kinds of the paper, and all with channels: ``points`` without free features and with.
PAPER_KINDS = ("pyramid", "tower", "pool")
NETWORKS = (*((kind, 24) for kind in (*PAPER_KINDS, "ray")), ("points", 0), ("points", 8), ("plan", 8))
HEADS = 3
CELLS = 6


def config(kind: str, channels: int = 24, **fields: object) -> RepresentationConfig:
    small = {"channels": channels, "width": 16, "heads": HEADS, "token_channels": 12, "cells": CELLS}
    return RepresentationConfig.from_mapping({"kind": kind, **small, **fields})


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    """Up to rounding, which is that of the largest numbers: precisions are in the hundreds."""
    largest = max([1.0, *expected.detach().abs().flatten().tolist()])
    torch.testing.assert_close(actual, expected, atol=1e-5 * largest, rtol=1e-4)


def inputs(n: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, height, width, generator=rng), torch.randn(n, 5, generator=rng)


@pytest.mark.parametrize(("kind", "channels"), NETWORKS)
@pytest.mark.parametrize(("size", "more"), [((64, 64), 1), ((32, 48), 15), ((16, 8), 0)])
def test_shapes_are_as_announced_and_independent_of_channels(
    kind: str, channels: int, size: tuple[int, int], more: int
) -> None:
    channels += more
    network = build_representation(config(kind, channels), *size, fovy=45.0)
    shares = network(*inputs(4, *size))
    assert shares.shape == (4, *network.out_shape)
    assert network.read(shares).shape == (4, *network.read_shape)
    assert network.features(shares).shape == (4, network.feature_size)
    assert network.vector(shares.unflatten(0, (2, 2))).shape == (2, math.prod(network.read_shape))
    cells = (size[0] // 4, size[1] // 4) if kind == "tower" else (1, 1)
    assert network.feature_size == channels
    if kind == "points":
        assert network.out_shape == (GAUSSIAN_SIZE * HEADS + channels + 1, *cells)
        assert network.read_shape == (3 * HEADS + channels, *cells)
        assert network.points == HEADS
        assert network.gaussians(shares).shape == (4, HEADS, GAUSSIAN_SIZE)
        assert network.prior is not None
        assert network.prior.shape == (HEADS, GAUSSIAN_SIZE)
    elif kind == "plan":
        assert network.out_shape == network.read_shape == (channels + 1, CELLS, CELLS)
        assert (network.points, network.prior) == (0, None)
    else:
        assert network.out_shape == network.read_shape == (channels, *cells)
        assert (network.points, network.prior) == (0, None)
        with pytest.raises(NotImplementedError, match="has no points"):
            network.gaussians(shares)


@pytest.mark.parametrize(("kind", "channels"), NETWORKS[:-1])  # a plan's cells grow surer: tests/test_plans.py
def test_a_vector_s_features_do_not_grow_with_the_number_of_views(kind: str, channels: int) -> None:
    torch.manual_seed(0)
    network = build_representation(config(kind, channels), 16, 16, fovy=45.0)
    shares = network(*inputs(2, 16, 16))[:, None]
    once, often = (network.vector(shares.expand(-1, n, *network.out_shape)) for n in (1, 5))
    places = 3 * network.points  # which grow surer
    assert_equal(often[:, places:], once[:, places:])


@pytest.mark.parametrize("kind", PAPER_KINDS)
@pytest.mark.parametrize("side", [64, 128])
def test_paper_networks_at_the_papers_width(kind: str, side: int) -> None:
    network = build_representation(RepresentationConfig(kind=kind, channels=256), side, side, fovy=45.0)  # type: ignore[arg-type]
    expected = (256, side // 4, side // 4) if kind == "tower" else (256, 1, 1)
    with torch.no_grad():
        assert network(*inputs(1, side, side)).shape[1:] == expected


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [  # kernel sizes and channels of the supplement, section 2, biases included
        (
            "pyramid",
            (10 * 32 * 4 + 32) + (32 * 64 * 4 + 64) + (64 * 128 * 4 + 128) + (128 * 256 * 64 + 256),
        ),
        (
            "tower",
            (3 * 256 * 4 + 256)
            + (256 * 256 * 4 + 256)
            + (256 * 128 * 9 + 128)
            + (128 * 256 * 4 + 256)
            + (263 * 256 * 9 + 256)
            + (263 * 128 * 9 + 128)
            + (128 * 256 * 9 + 256)
            + (256 * 256 + 256),
        ),
    ],
)
def test_papers_parameter_count(kind: str, parameters: int) -> None:
    network = build_representation(RepresentationConfig(kind=kind, channels=256), 64, 64, fovy=45.0)  # type: ignore[arg-type]
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_pool_is_the_mean_of_the_tower() -> None:
    tower, pool = (build_representation(config(kind), 32, 32, fovy=45.0) for kind in ("tower", "pool"))
    pool.load_state_dict(tower.state_dict())
    torch.testing.assert_close(pool(*inputs(2, 32, 32)), tower(*inputs(2, 32, 32)).mean(dim=(2, 3), keepdim=True))


@pytest.mark.parametrize(("kind", "channels"), NETWORKS)
def test_views_do_not_leak_into_each_other(kind: str, channels: int) -> None:
    torch.manual_seed(0)
    network = build_representation(config(kind, channels), 16, 16, fovy=45.0)
    images, poses = inputs(4, 16, 16)
    together = network(images, poses)
    for i in range(4):
        assert_equal(network(images[i : i + 1], poses[i : i + 1])[0], together[i])


@pytest.mark.parametrize(("kind", "channels"), NETWORKS)
@pytest.mark.parametrize("number", range(5))
def test_every_number_of_the_pose_matters(kind: str, channels: int, number: int) -> None:
    torch.manual_seed(0)
    network = build_representation(config(kind, channels), 16, 16, fovy=45.0)
    images, poses = inputs(1, 16, 16)
    moved = poses.clone()
    moved[:, number] += 0.3
    before, after = (network.vector(network(images, at)[:, None]) for at in (poses, moved))
    assert not torch.allclose(before, after, atol=1e-6)


@pytest.mark.parametrize(("kind", "channels"), NETWORKS)
def test_length_scale_is_a_change_of_unit(kind: str, channels: int) -> None:
    torch.manual_seed(0)
    metres = build_representation(config(kind, channels), 16, 16, fovy=45.0)
    unit = {"side": 900.0, "height": 100.0} if kind == "plan" else {}
    centimetres = build_representation(config(kind, channels, **unit), 16, 16, fovy=45.0, length_scale=100.0)
    centimetres.load_state_dict(metres.state_dict())
    images, poses = inputs(2, 16, 16)
    scaled = poses * torch.tensor([100.0, 100.0, 100.0, 1.0, 1.0])
    assert_equal(centimetres(images, scaled), metres(images, poses))


@pytest.mark.parametrize("token_stride", [4, 8])
@pytest.mark.parametrize(("kind", "channels"), [("ray", 256), ("points", 0)])
def test_at_initialisation_ours_tell_where_a_spot_is(kind: str, channels: int, token_stride: int) -> None:
    """Untrained, their vectors move with an image's only bright spot far more than with its colour."""
    torch.manual_seed(0)
    fields = {"kind": kind, "channels": channels, "token_stride": token_stride}
    network = build_representation(RepresentationConfig.from_mapping(fields), 64, 64, fovy=45.0)
    rng = torch.Generator().manual_seed(1)
    corners = torch.randint(0, 52, (160, 2), generator=rng)
    images = torch.full((160, 3, 64, 64), 0.3)
    for image, (row, column) in zip(images, corners.tolist(), strict=True):
        image[0, row : row + 12, column : column + 12] = 1.0
    poses = torch.tensor([[-1.0, 0.2, 0.5, 0.1, -0.3]]).expand(160, 5)
    with torch.no_grad():
        vectors = network.vector(network(images, poses)[:, None])
    features = torch.nn.functional.pad(vectors, (0, 1), value=1.0).double()
    target = corners.double()
    train, test = slice(0, 120), slice(120, 160)
    gram = features[train].T @ features[train] + 1e-4 * torch.eye(features.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, features[train].T @ target[train])
    residual = (features[test] @ weights - target[test]).square().sum(dim=0)
    total = (target[test] - target[test].mean(dim=0)).square().sum(dim=0)
    assert (1 - residual / total > 0.5).all()


@pytest.mark.parametrize(
    ("kind", "size"),
    [("pyramid", (60, 64)), ("ray", (64, 36)), ("points", (36, 64)), ("tower", (66, 64)), ("pool", (2, 2))],
)
def test_sizes_that_do_not_fit_are_refused(kind: str, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{kind}.*divisible by \d, got {size[0]}x{size[1]}"):
        build_representation(config(kind), *size, fovy=45.0)


@pytest.mark.parametrize(("kind", "channels"), [("points", 0), ("ray", 8)])
def test_scenery_needs_free_features(kind: str, channels: int) -> None:
    with pytest.raises(UserError, match=f"scenery .*, got '{kind}' and {channels}"):
        config(kind, channels, scenery=True)


@pytest.mark.parametrize(
    "fields", [{"kind": "resnet"}, {"channels": -1}, {"width": 20}, {"heads": 0}, {"token_stride": 3}, {"bands": -1}]
)
def test_bad_fields_are_named(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(fields))):
        RepresentationConfig.from_mapping(fields)


def test_scenery_reaches_the_free_features_from_all_of_the_picture_and_leaves_the_points_alone() -> None:
    """It is added to what free features read otherwise: without it the network is the one that knows no scenery."""
    torch.manual_seed(0)
    plain = build_representation(config("points", 8), 16, 16, fovy=45.0)
    scenic = build_representation(config("points", 8, scenery=True), 16, 16, fovy=45.0)
    scenic.load_state_dict(plain.state_dict(), strict=False)
    images, poses = inputs(4, 16, 16)
    before, after = plain(images, poses), scenic(images, poses)
    assert_equal(scenic.gaussians(after), plain.gaussians(before))
    added = scenic.features(after) - plain.features(before)
    assert added.std(dim=0).min() > 0  # which differs from picture to picture
    assert isinstance(scenic, PointAttention)
    _, tokens, _ = scenic.tokens(images, poses)
    assert scenic.scenery is not None
    assert_equal(added, scenic.scenery(tokens.mean(dim=1)))


@pytest.mark.parametrize("kind", [*PAPER_KINDS, "ray"])
def test_only_points_do_without_channels(kind: str) -> None:
    with pytest.raises(UserError, match=f"representation '{kind}' needs channels above 0"):
        RepresentationConfig.from_mapping({"kind": kind})
    assert RepresentationConfig().channels == 0
