"""Laws of plans: where rays cross the box, where their features land, and what of a plan a camera sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gqn_rl.cameras import look_at, project
from gqn_rl.config import UserError
from gqn_rl.gqn import GQN, GQNConfig
from gqn_rl.plan_reader import PlanReader
from gqn_rl.plan_representation import FEW, PlanAttention
from gqn_rl.plans import Plan, in_front
from gqn_rl.rays import camera_rays
from gqn_rl.representation import RepresentationConfig, build_representation
from gqn_rl.types import Views

PLAN = Plan(cells=6, side=3.0, height=0.5)
HEIGHT, WIDTH, FOVY, SCALE = 16, 24, 50.0, 2.0
CHANNELS = 8


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rays(count: int) -> tuple[Tensor, Tensor]:
    """Rays (count, 3) from in and about the box, in all directions."""
    origins = 2 * torch.randn(count, 3, generator=rng(1))
    return origins, torch.nn.functional.normalize(torch.randn(count, 3, generator=rng(2)), dim=-1)


def inside(places: Tensor, margin: float = 0.0) -> Tensor:
    half = PLAN.side / 2 + margin
    flat = (places[..., :2].abs() <= half).all(-1)
    return flat & (places[..., 2] >= -margin) & (places[..., 2] <= PLAN.height + margin)


# --- rays and the box ----------------------------------------------------------------------------------------------


def test_a_ray_is_in_the_box_between_begin_and_end_and_nowhere_else() -> None:
    origins, directions = random_rays(400)
    begin, end = PLAN.spans(origins, directions)
    walked = torch.linspace(0, 12, 2_001)[:, None]
    within = inside(origins + walked[..., None] * directions)
    torch.testing.assert_close(within.float().mean(0) * 12, end - begin, atol=0.02, rtol=0)
    hit = end > begin + 0.01
    assert 0.1 < hit.float().mean() < 0.9  # the test has rays of both kinds
    for share in (0.001, 0.5, 0.999):
        places = origins + (begin + share * (end - begin))[:, None] * directions
        assert inside(places[hit], margin=1e-4).all()


def test_rays_along_the_axes_and_away_from_the_box() -> None:
    origins = torch.tensor([[0.0, 0.0, 0.25], [0.0, 0.0, 2.0], [5.0, 0.0, 0.25], [0.0, 0.0, 2.0]])
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    begin, end = PLAN.spans(origins, directions)
    torch.testing.assert_close((end - begin)[:2], torch.tensor([1.5, 0.5]))
    torch.testing.assert_close(begin[:2], torch.tensor([0.0, 1.5]))
    assert not begin[2:].any()
    assert not end[2:].any()


def test_rays_that_miss_the_box_stay_at_their_camera_and_meet_nothing() -> None:
    """Regression: the planes of the box that they never reach together can be a million units away."""
    poses = torch.tensor([[-3.0, 0.0, 0.25, np.pi / 2, 0.0], [0.0, 0.0, 3.0, 0.3, 0.6]])
    read = reader()
    origins, directions = camera_rays(poses, FOVY, 7, 9)
    places, lengths = PLAN.walk(origins, directions, torch.linspace(0, 1, 5), SCALE)
    missing = lengths == 0
    assert missing.any()
    stays = (poses[:, None, None, :3] / SCALE).expand_as(places)
    torch.testing.assert_close(places[missing], stays[missing])
    seen = read(torch.randn(2, CHANNELS, 6, 6, generator=rng()), poses)
    assert float(seen.detach().abs().max()) < 10
    _, lengths = PLAN.walk(*camera_rays(poses, FOVY, 8, 12), torch.linspace(0, 1, 5), SCALE)
    assert not seen.flatten(2).transpose(1, 2)[lengths == 0].any()


# --- from rays to cells and back -------------------------------------------------------------------------------------


def test_what_is_lifted_is_neither_lost_nor_doubled_and_lies_where_it_was() -> None:
    places = torch.rand(2, 5, 7, 3, generator=rng()) * 2 - 1  # away from the rim
    weights = torch.rand(2, 5, 7, generator=rng(1))
    over = PLAN.lift(places, weights)
    torch.testing.assert_close(over.sum(-1), weights.sum(-1))
    middles = (torch.arange(PLAN.cells) + 0.5) * PLAN.side / PLAN.cells - PLAN.side / 2
    x, y = torch.meshgrid(middles, middles, indexing="ij")
    for axis, of_cell in ((0, x), (1, y)):
        torch.testing.assert_close(over @ of_cell.flatten(), (weights * places[..., axis]).sum(-1))


def test_places_beyond_the_rim_count_for_the_cells_at_the_rim() -> None:
    over = PLAN.lift(torch.tensor([[[[9.0, -9.0, 0.0]]]]), torch.ones(1, 1, 1)).unflatten(2, (6, 6))
    assert over[0, 0, -1, 0] == 1


def test_looking_reads_what_lifting_wrote() -> None:
    """Both share a place among the same cells by the same weights: <look(plan), w> = <plan, lift(w)>."""
    plan = torch.randn(2, CHANNELS, 6, 6, generator=rng())
    places = torch.rand(2, 5, 3, generator=rng(1)) * 4 - 2  # some beyond the rim
    looked = PLAN.look(plan, places)
    lifted = PLAN.lift(places[:, :, None], torch.ones(2, 5, 1)) @ plan.flatten(2).transpose(1, 2)
    torch.testing.assert_close(looked, lifted.transpose(1, 2), atol=1e-5, rtol=1e-4)


def test_near_things_hide_far_ones_and_all_that_is_seen_is_one() -> None:
    density = torch.rand(4, 9, generator=rng()) * 2
    seen = in_front(density)
    torch.testing.assert_close(seen.sum(-1), torch.ones(4))
    assert (seen >= 0).all()
    assert torch.equal(in_front(torch.zeros(9)), torch.eye(9)[-1])
    wall = torch.zeros(9)
    wall[3] = 50
    torch.testing.assert_close(in_front(wall), torch.eye(9)[3])
    for i in range(8):  # the share that passes all places up to i, by hand
        torch.testing.assert_close(seen[:, i + 1 :].sum(-1), torch.exp(-density[:, : i + 1].sum(-1)))


# --- the representation --------------------------------------------------------------------------------------------


def build() -> PlanAttention:
    torch.manual_seed(0)
    fields = {
        "kind": "plan",
        "channels": CHANNELS,
        "width": 16,
        "token_channels": 8,
        "cells": 6,
        "side": 6,
        "height": 1,
    }
    network = build_representation(RepresentationConfig.from_mapping(fields), HEIGHT, WIDTH, FOVY, SCALE)
    assert isinstance(network, PlanAttention)
    return network


def test_a_view_fills_only_the_cells_that_its_camera_can_see() -> None:
    network = build()
    # Outwards, from near the rim.
    pose = torch.from_numpy(look_at(np.array([2.5, 0.0, 0.5]), np.array([6.0, 0.0, 0.5])))
    known = network(torch.rand(1, 3, HEIGHT, WIDTH), pose[None])[0, -1]
    assert known[-1].sum() > 1
    assert not known[:4].any()
    behind = pose.clone()
    behind[3] += np.pi
    assert network(torch.rand(1, 3, HEIGHT, WIDTH), behind[None])[0, -1, :4].sum() > 1


def test_features_land_in_the_direction_of_their_pixel() -> None:
    """Seen from askew, what a corner of the image shows changes the cell that the camera model has there."""
    network = build()
    with torch.no_grad():
        network.distance.weight.zero_()
        network.distance.bias.copy_(50 * torch.eye(len(network.distance.bias))[-1])  # all at the end: the floor
    pose = look_at(np.array([-1.5, 1.2, 3.5]), np.array([0.4, 0.6, 0.0]))
    plain = torch.full((1, 3, HEIGHT, WIDTH), 0.5)
    middles = (np.arange(6) + 0.5) - 3
    x, y = np.meshgrid(middles, middles, indexing="ij")
    cells = np.stack([x, y, 0 * x], axis=-1).reshape(-1, 3)
    seen = project(cells, pose, FOVY, HEIGHT, WIDTH)
    for row, column in ((0, 0), (0, WIDTH - 4), (HEIGHT - 4, 0), (HEIGHT - 4, WIDTH - 4)):
        with torch.no_grad():  # pixels alone: convolutions would carry the spot further
            network.content.weight[:, :8] = 0
        spotted = plain.clone()
        spotted[:, :, row : row + 4, column : column + 4] = 1.0
        views = [network(images, torch.from_numpy(pose)[None])[0, :-1].detach() for images in (plain, spotted)]
        change = (views[1] - views[0]).square().sum(0).flatten()
        nearest = np.linalg.norm(seen - [row + 1.5, column + 1.5], axis=1)
        assert nearest[int(change.argmax())] < 1.5 * nearest.min() + 2, (row, column)


def test_a_cell_s_features_do_not_depend_on_how_often_it_was_seen() -> None:
    network = build()
    share = network(torch.rand(1, 3, HEIGHT, WIDTH), torch.tensor([[2.0, 0.0, 1.5, 3.1, -0.6]])).detach()
    once, often = network.read(share), network.read(10 * share)
    well = share[:, -1] > 20 * FEW
    assert well.any()
    torch.testing.assert_close(once[:, :-1, well[0]], often[:, :-1, well[0]], rtol=0.06, atol=1e-3)
    assert (often[:, -1] >= once[:, -1]).all()
    assert not network.read(torch.zeros_like(share)).any()  # nothing seen, nothing known


def test_a_policy_s_vector_does_not_grow_with_every_view() -> None:
    network = build()
    share = network(torch.rand(1, 3, HEIGHT, WIDTH), torch.tensor([[2.0, 0.0, 1.5, 3.1, -0.6]])).detach()
    ten, hundred = (network.vector(share[:, None].expand(-1, n, -1, -1, -1)) for n in (10, 100))
    known = share[:, -1].flatten() > FEW
    ten, hundred = (vector.unflatten(1, (CHANNELS + 1, -1))[0, :, known] for vector in (ten, hundred))
    torch.testing.assert_close(ten, hundred, rtol=0.11, atol=1e-3)
    assert hundred[-1].max() <= 1


def test_half_precision_changes_what_is_seen_and_not_how_often() -> None:
    network = build()
    images, poses = torch.rand(2, 3, HEIGHT, WIDTH), torch.tensor([[2.0, 0.0, 1.5, 3.1, -0.6]]).expand(2, 5)
    share = network(images, poses)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(images, poses)
        total = rough.sum(0, keepdim=True)
        assert reader_of(network)(network.read(total), poses[:1]).isfinite().all()
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough[:, -1].sum((1, 2)), share[:, -1].sum((1, 2)))
    torch.testing.assert_close(rough, share, atol=0.1, rtol=0.1)


# --- the reader ----------------------------------------------------------------------------------------------------


def reader() -> PlanReader:
    torch.manual_seed(0)
    return PlanReader(CHANNELS, 5, (8, 12), FOVY, SCALE, bands=2, plan=PLAN)


def reader_of(network: PlanAttention) -> PlanReader:
    return PlanReader(CHANNELS + 1, 5, (8, 12), FOVY, SCALE, bands=2, plan=network.plan)


def test_a_camera_sees_what_is_ahead_and_not_what_is_behind() -> None:
    read = reader()
    read.fill = torch.nn.Sequential()  # no cell knows of another
    torch.nn.init.zeros_(read.whole.weight)
    pose = torch.from_numpy(look_at(np.array([0.0, 0.0, 0.5]), np.array([3.0, 0.0, 0.3])))[None]
    plan = torch.zeros(1, CHANNELS, 6, 6)
    ahead, behind = plan.clone(), plan.clone()
    ahead[:, :, 4:] = 1
    behind[:, :, :2] = 1
    nothing = read(plan, pose)
    assert not torch.allclose(read(ahead, pose), nothing, atol=1e-4)
    torch.testing.assert_close(read(behind, pose), nothing)


def test_one_plan_serves_its_consecutive_views() -> None:
    read, plans = reader(), torch.randn(2, CHANNELS, 6, 6, generator=rng())
    poses = torch.randn(6, 5, generator=rng(1))
    torch.testing.assert_close(read(plans, poses), read(plans.repeat_interleave(3, dim=0), poses))


def test_the_default_sizes_learn_what_is_where() -> None:
    """Two floors of two colours each, east and west, seen from one side and asked for from the other."""
    torch.manual_seed(0)
    representation = {"kind": "plan", "channels": 16, "cells": 6, "side": 4.0, "height": 0.5}
    gqn = GQN(GQNConfig.from_mapping({"image_size": 16, "representation": representation}))
    optimizer = torch.optim.Adam(gqn.parameters(), lr=3e-3)
    colors = torch.tensor([[[220, 40, 40], [40, 40, 220]], [[40, 40, 220], [220, 40, 40]]], dtype=torch.uint8)
    numbers = np.random.default_rng(0)

    def views() -> Views:
        """One of each scene (2, 1): from above, with any yaw."""
        yaw = numbers.uniform(-np.pi, np.pi)
        pose = torch.tensor([0.0, 0.0, 3.0, yaw, -np.pi / 2 + 1e-3])
        _, directions = camera_rays(pose, 45.0, 16, 16)
        floor = pose[:3] - directions * (pose[2] / directions[..., 2:])
        images = torch.where((floor[..., :1] > 0)[None], colors[:, None, None, 0], colors[:, None, None, 1])
        return Views(images[:, None], pose.expand(2, 1, 5))

    for _ in range(60):
        optimizer.zero_grad()
        seen, asked = views(), views()
        error = gqn.predict(gqn.represent(seen), asked.poses) - asked.images / 255
        error.square().mean().backward()
        optimizer.step()
    seen, asked = views(), views()
    with torch.no_grad():
        error = gqn.predict(gqn.represent(seen), asked.poses) - asked.images / 255
    plain = asked.images / 255 - (asked.images / 255).mean(dim=(0, 1, 2, 3))
    assert error.square().mean() < 0.2 * plain.square().mean()


@pytest.mark.parametrize("field", ["cells", "side", "height"])
def test_a_plan_needs_a_size(field: str) -> None:
    with pytest.raises(UserError, match=field):
        RepresentationConfig.from_mapping({"kind": "plan", "channels": 8, field: 0})
