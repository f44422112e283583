"""Laws of the representation that consists of points: what one view says, and how views add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_gaussians import matrices
from torch import Tensor

from gqn_rl.cameras import look_at, project
from gqn_rl.ray_representation import ACROSS_STD, ALONG_STD, LOG_STD_RANGE, PRIOR_STD, PointAttention
from gqn_rl.rays import camera_rays
from gqn_rl.representation import RepresentationConfig, build_representation

HEIGHT, WIDTH, FOVY, SCALE, STRIDE = 16, 24, 50.0, 2.0, 4
HEADS = 3


def build(features: int = 5) -> PointAttention:
    """A small network, three points that are usually somewhere else than at the origin."""
    torch.manual_seed(0)
    fields = {"kind": "points", "channels": features, "width": 16, "heads": HEADS, "token_channels": 8}
    config = RepresentationConfig.from_mapping({**fields, "token_stride": STRIDE})
    network = build_representation(config, HEIGHT, WIDTH, FOVY, SCALE)
    assert isinstance(network, PointAttention)
    with torch.no_grad():
        network.centre.copy_(0.3 * torch.randn(HEADS, 3))
    return network


def inputs(n: int) -> tuple[Tensor, Tensor]:
    """Images (n, 3, H, W), and poses (n, 5) of cameras that look at the origin from about two metres."""
    rng = np.random.default_rng(0)
    eyes = rng.normal(size=(n, 3)) * 0.5 + np.array([1.5, -1.0, 1.2])
    poses = np.stack([look_at(eye, np.zeros(3)) for eye in eyes])
    return torch.rand(n, 3, HEIGHT, WIDTH), torch.from_numpy(poses)


def aim(network: PointAttention, pixels: Tensor, log_across: float = 0.0, log_along: float = 0.0) -> None:
    """Heads that point at ``pixels`` (heads, 2), row and column, whatever they see, and say that they are this sure."""
    with torch.no_grad():
        network.keys.weight.zero_()  # all positions alike: the mean place is the image's centre
        network.place.zero_()
        network.place_bias[:, 0] = ((HEIGHT - 1) / 2 - pixels[:, 0]) / STRIDE
        network.place_bias[:, 1] = (pixels[:, 1] - (WIDTH - 1) / 2) / STRIDE
        network.place_bias[:, 2] = 0
        network.place_bias[:, 3], network.place_bias[:, 4] = log_across, log_along


# --- what a sum of views says --------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [0, 5])
@pytest.mark.parametrize("views", [1, 4])
def test_a_sum_is_read_by_solving_for_the_means(features: int, views: int) -> None:
    """Against matrices: the points are the least squares of all that the views and the prior say of them."""
    network = build(features)
    shares = network(*inputs(views)).detach()
    precision, information = matrices(network.gaussians(shares).double())
    precision = precision.sum(0) + torch.eye(3) / PRIOR_STD**2
    information = information.sum(0) + network.centre.detach() / PRIOR_STD**2
    points = torch.linalg.solve(precision, information)
    free = shares[:, 9 * HEADS : 9 * HEADS + features].double().mean(0).flatten()
    read = network.read(shares.sum(0, keepdim=True))
    assert read.shape == (1, 3 * HEADS + features, 1, 1)
    torch.testing.assert_close(read.flatten().double(), torch.cat([points.flatten(), free]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network.vector(shares[None]), read.flatten(1))


@pytest.mark.parametrize("features", [0, 5])
def test_no_views_are_read_as_what_is_known_before(features: int) -> None:
    network = build(features)
    read = network.read(torch.zeros(2, *network.out_shape)).flatten(1)
    torch.testing.assert_close(read[:, : 3 * HEADS], network.centre.flatten().expand(2, -1))
    assert not read[:, 3 * HEADS :].any()
    assert read.shape[1] == 3 * HEADS + features


def test_the_more_views_say_the_same_the_less_the_prior_counts() -> None:
    network = build()
    share = network(*inputs(1))
    precision, information = matrices(network.gaussians(share).double())
    said = torch.linalg.solve(precision, information)[0]
    reads = [network.read(n * share)[0, : 3 * HEADS, 0, 0].unflatten(0, (HEADS, 3)) for n in (0, 1, 3, 10, 1000)]
    distances = torch.stack([(read - said).norm(dim=-1) for read in reads])
    assert (distances.diff(dim=0) < 0).all()
    assert (distances[-1] < 0.02 * distances[0]).all()


# --- what one view says --------------------------------------------------------------------------------------------


def test_a_view_says_a_point_sharply_across_its_ray_and_roughly_along_it() -> None:
    network = build()
    images, poses = inputs(6)
    precision, information = matrices(network.gaussians(network(images, poses).detach()).double())
    said = torch.linalg.solve(precision, information)
    rays = torch.nn.functional.normalize(said - poses[:, None, :3].double() / SCALE, dim=-1)
    along = (rays * (precision @ rays[..., None])[..., 0]).sum(-1)
    torch.testing.assert_close((precision @ rays[..., None])[..., 0], along[..., None] * rays, atol=2e-2, rtol=1e-3)
    other = torch.linalg.cross(rays, torch.tensor([0.0, 0.0, 1.0]).double().expand_as(rays))
    across = (precision.diagonal(dim1=-2, dim2=-1).sum(-1) - along) / 2
    torch.testing.assert_close((precision @ other[..., None])[..., 0], across[..., None] * other, atol=2e-2, rtol=1e-3)
    assert (across > along).all()  # at initialisation


def test_a_head_s_place_is_where_the_camera_model_has_it() -> None:
    """Its place in cells from the image's centre, up and right, makes the ray; the centre makes the distance."""
    network = build()
    images, poses = inputs(4)
    pixels = torch.tensor([[2.0, 3.5], [9.25, 20.0], [14.0, 8.0]])
    aim(network, pixels)
    precision, information = matrices(network.gaussians(network(images, poses).detach()).double())
    said = torch.linalg.solve(precision, information)
    for points, pose in zip(said.numpy() * SCALE, poses.numpy(), strict=True):
        np.testing.assert_allclose(project(points, pose, FOVY, HEIGHT, WIDTH), pixels.numpy(), atol=1e-3)
    gap = network.centre.detach().double() - said  # the place on the ray that is nearest to the centre
    rays = torch.nn.functional.normalize(said - poses[:, None, :3].double() / SCALE, dim=-1)
    torch.testing.assert_close((gap * rays).sum(-1), torch.zeros(4, HEADS).double(), atol=1e-4, rtol=0)
    eigenvalues = torch.linalg.eigvalsh(precision)
    expected = torch.tensor([ALONG_STD**-2, ACROSS_STD**-2, ACROSS_STD**-2]).double()
    torch.testing.assert_close(eigenvalues, expected.expand(4, HEADS, 3), atol=1e-3, rtol=1e-3)


def test_positions_of_the_attention_lie_on_the_rays_that_its_tokens_know() -> None:
    network = build()
    _, poses = inputs(4)
    _, directions = camera_rays(poses, FOVY, *network.tokens.grid)
    through = network._directions(poses, network.places.expand(4, -1, -1))
    torch.testing.assert_close(through, directions.flatten(1, 2))


def test_two_views_triangulate_what_neither_knows() -> None:
    """The whole way: places on images that the camera model projects points to, added, are these points again."""
    network = build()
    eyes = [(1.5, -1.0, 1.2), (-1.2, 1.3, 1.0), (0.3, 1.8, 0.8)]
    poses = torch.from_numpy(np.stack([look_at(eye, np.zeros(3)) for eye in eyes]))
    images, _ = inputs(1)
    points = torch.tensor([[0.4, -0.3, 0.2], [-0.2, 0.5, 0.6], [0.1, 0.1, -0.3]])  # metres
    shares = []
    for pose in poses:
        pixels = project(points.numpy(), pose.numpy(), FOVY, HEIGHT, WIDTH)
        aim(network, torch.from_numpy(pixels).float(), log_across=-2.5, log_along=2.5)
        shares.append(network(images, pose[None]).detach())

    def errors(*views: Tensor) -> Tensor:
        read = network.read(torch.stack(views).sum(0))[0, : 3 * HEADS, 0, 0].unflatten(0, (HEADS, 3))
        return (SCALE * read - points).norm(dim=-1)

    for share in shares:
        assert errors(share).min() > 0.1
    assert errors(shares[0], shares[1]).max() < 0.01
    assert errors(*shares).max() < 0.01


def test_under_autocast_shares_stay_in_single_precision() -> None:
    """Precisions span orders of magnitude; what the layers before them round costs little."""
    network = build()
    images, poses = inputs(3)
    exact = network(images, poses)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(images, poses)
        read = network.vector(rounded[None])
    assert rounded.dtype == read.dtype == torch.float32
    torch.testing.assert_close(read, network.vector(exact[None]), atol=0.05, rtol=0)


# --- symmetries ----------------------------------------------------------------------------------------------------


def moved(poses: Tensor, angle: float, shift: Tensor) -> Tensor:
    """Cameras (n, 5) turned about the z axis by ``angle``, then shifted by (3,) metres."""
    cos, sin = math.cos(angle), math.sin(angle)
    x, y, z, yaw, pitch = poses.unbind(1)
    turned = torch.stack([cos * x - sin * y, sin * x + cos * y, z, yaw + angle, pitch], dim=1)
    return turned + torch.nn.functional.pad(shift, (0, 2))


def test_points_move_with_the_world() -> None:
    """Where what a head looks for does not depend on the ray: images stay, cameras and centres move, so do points."""
    network = build()
    with torch.no_grad():
        network.tokens.from_rays.weight.zero_()
    images, poses = inputs(3)
    angle, shift = 0.7, torch.tensor([0.4, -1.0, 0.3])
    rotation = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0], [0.0, 0.0, 1.0]]
    )
    before = network.vector(network(images, poses)[None])[0].detach()
    with torch.no_grad():
        network.centre.copy_(network.centre @ rotation.T + shift / SCALE)
    after = network.vector(network(images, moved(poses, angle, shift))[None])[0].detach()
    points, free = before.tensor_split([3 * HEADS])
    expected = points.unflatten(0, (HEADS, 3)) @ rotation.T + shift / SCALE
    torch.testing.assert_close(after, torch.cat([expected.flatten(), free]), atol=1e-3, rtol=1e-3)


def test_without_centres_turning_the_world_needs_no_more_than_turning_the_cameras() -> None:
    network = build()
    with torch.no_grad():
        network.tokens.from_rays.weight.zero_()
        network.centre.zero_()
    images, poses = inputs(2)
    turned = moved(poses, math.pi / 2, torch.zeros(3))
    there, back = (network.vector(network(images, at)[None])[0].detach() for at in (poses, turned))
    x, y, z = there[: 3 * HEADS].unflatten(0, (HEADS, 3)).unbind(1)
    expected = torch.stack([-y, x, z], dim=1).flatten()
    torch.testing.assert_close(back[: 3 * HEADS], expected, atol=1e-3, rtol=1e-3)


# --- bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sure", [-1e6, 1e6])
def test_no_view_is_so_sure_or_so_unsure_that_points_cannot_be_read(sure: float) -> None:
    network = build()
    aim(network, torch.tensor([[2.0, 3.5], [9.25, 20.0], [14.0, 8.0]]), log_across=-sure, log_along=-sure)
    shares = network(*inputs(5)).detach()
    precision, _ = matrices(network.gaussians(shares).double())
    eigenvalues = torch.linalg.eigvalsh(precision)
    stds = torch.tensor([ALONG_STD, ACROSS_STD, ACROSS_STD]).double() * math.exp(math.copysign(LOG_STD_RANGE, -sure))
    torch.testing.assert_close(eigenvalues, (stds**-2).expand(5, HEADS, 3), atol=2e-2, rtol=1e-3)
    assert network.read(shares.sum(0, keepdim=True)).isfinite().all()
