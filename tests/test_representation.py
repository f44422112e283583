"""Laws of the representation networks: shapes, independence of the batch, and knowledge of the camera."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gqn_rl.config import UserError
from gqn_rl.representation import RepresentationConfig, build_representation

KINDS = ("pyramid", "tower", "pool", "ray")


def config(kind: str, **fields: object) -> RepresentationConfig:
    small = {"channels": 24, "width": 16, "heads": 3, "token_channels": 12}
    return RepresentationConfig.from_mapping({"kind": kind, **small, **fields})


def inputs(n: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, height, width, generator=rng), torch.randn(n, 5, generator=rng)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "channels"), [((64, 64), 10), ((32, 48), 24), ((16, 8), 6)])
def test_shape_is_as_announced_and_independent_of_channels(kind: str, size: tuple[int, int], channels: int) -> None:
    network = build_representation(config(kind, channels=channels), *size, fovy=45.0)
    assert network(*inputs(2, *size)).shape == (2, *network.out_shape)
    expected = (size[0] // 4, size[1] // 4) if kind == "tower" else (1, 1)
    assert network.out_shape == (channels, *expected)


@pytest.mark.parametrize("kind", ["pyramid", "tower", "pool"])
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


@pytest.mark.parametrize("kind", KINDS)
def test_views_do_not_leak_into_each_other(kind: str) -> None:
    network = build_representation(config(kind), 16, 16, fovy=45.0)
    images, poses = inputs(4, 16, 16)
    together = network(images, poses)
    for i in range(4):
        torch.testing.assert_close(network(images[i : i + 1], poses[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(5))
def test_every_number_of_the_pose_matters(kind: str, number: int) -> None:
    torch.manual_seed(0)
    network = build_representation(config(kind), 16, 16, fovy=45.0)
    images, poses = inputs(1, 16, 16)
    moved = poses.clone()
    moved[:, number] += 0.3
    assert not torch.allclose(network(images, poses), network(images, moved), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_length_scale_is_a_change_of_unit(kind: str) -> None:
    metres = build_representation(config(kind), 16, 16, fovy=45.0)
    centimetres = build_representation(config(kind), 16, 16, fovy=45.0, length_scale=100.0)
    centimetres.load_state_dict(metres.state_dict())
    images, poses = inputs(2, 16, 16)
    scaled = poses * torch.tensor([100.0, 100.0, 100.0, 1.0, 1.0])
    torch.testing.assert_close(centimetres(images, scaled), metres(images, poses), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("token_stride", [4, 8])
def test_ray_at_initialisation_tells_where_a_spot_is(token_stride: int) -> None:
    """Untrained, the ray network's output moves with an image's only bright spot far more than with its colour."""
    torch.manual_seed(0)
    network = build_representation(RepresentationConfig(token_stride=token_stride), 64, 64, fovy=45.0)  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(1)
    corners = torch.randint(0, 52, (160, 2), generator=rng)
    images = torch.full((160, 3, 64, 64), 0.3)
    for image, (row, column) in zip(images, corners.tolist(), strict=True):
        image[0, row : row + 12, column : column + 12] = 1.0
    poses = torch.tensor([[-1.0, 0.2, 0.5, 0.1, -0.3]]).expand(160, 5)
    with torch.no_grad():
        features = torch.nn.functional.pad(network(images, poses).flatten(1), (0, 1), value=1.0).double()
    target = corners.double()
    train, test = slice(0, 120), slice(120, 160)
    gram = features[train].T @ features[train] + 1e-4 * torch.eye(features.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, features[train].T @ target[train])
    residual = (features[test] @ weights - target[test]).square().sum(dim=0)
    total = (target[test] - target[test].mean(dim=0)).square().sum(dim=0)
    assert (1 - residual / total > 0.5).all()


@pytest.mark.parametrize(
    ("kind", "size"), [("pyramid", (60, 64)), ("ray", (64, 36)), ("tower", (66, 64)), ("pool", (2, 2))]
)
def test_sizes_that_do_not_fit_are_refused(kind: str, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{kind}.*divisible by \d, got {size[0]}x{size[1]}"):
        build_representation(config(kind), *size, fovy=45.0)


@pytest.mark.parametrize(
    "fields", [{"kind": "resnet"}, {"channels": 0}, {"width": 20}, {"heads": 0}, {"token_stride": 3}, {"bands": -1}]
)
def test_bad_fields_are_named(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(fields))):
        RepresentationConfig.from_mapping(fields)
