"""Laws of plans: where rays cross the box, where their features land, and what of a plan a camera sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gqn_rl.cameras import look_at, project
from gqn_rl.config import UserError
from gqn_rl.plan_reader import PlanReader
from gqn_rl.plan_representation import FEW, PlanAttention
from gqn_rl.plans import Plan, in_front
from gqn_rl.representation import RepresentationConfig, build_representation

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
    assert torch.equal(begin[2:], end[2:])


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
    """Seen from above, a ray that says it is about the floor fills the cell below that pixel."""
    network = build()
    with torch.no_grad():
        network.distance.weight.zero_()
        network.distance.bias.copy_(50 * torch.eye(len(network.distance.bias))[-1])  # all at the end: the floor
    pose = look_at(np.array([0.01, 0.0, 4.0]), np.zeros(3))
    share = network(torch.rand(1, 3, HEIGHT, WIDTH), torch.from_numpy(pose)[None])[0]
    middles = (np.arange(6) + 0.5) - 3
    for i, j in np.ndindex(6, 6):
        row, column = project(np.array([middles[i], middles[j], 0.0]), pose, FOVY, HEIGHT, WIDTH)
        within = -0.5 <= row <= HEIGHT - 0.5 and -0.5 <= column <= WIDTH - 0.5
        if within:
            assert share[-1, i, j] > 0.2, (i, j)


def test_a_cell_s_features_do_not_depend_on_how_often_it_was_seen() -> None:
    network = build()
    share = network(torch.rand(1, 3, HEIGHT, WIDTH), torch.tensor([[2.0, 0.0, 1.5, 3.1, -0.6]])).detach()
    once, often = network.read(share), network.read(10 * share)
    well = share[:, -1] > 20 * FEW
    assert well.any()
    torch.testing.assert_close(once[:, :-1, well[0]], often[:, :-1, well[0]], rtol=0.06, atol=1e-3)
    assert (often[:, -1] >= once[:, -1]).all()
    assert not network.read(torch.zeros_like(share)).any()  # nothing seen, nothing known


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


@pytest.mark.parametrize("field", ["cells", "side", "height"])
def test_a_plan_needs_a_size(field: str) -> None:
    with pytest.raises(UserError, match=field):
        RepresentationConfig.from_mapping({"kind": "plan", "channels": 8, field: 0})
