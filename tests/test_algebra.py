"""Scene algebra: exact where factors add up, at chance where nothing does, and the same scenes everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_data import make_arm

from gqn_rl.algebra import (
    SIDE,
    AlgebraPlan,
    Block,
    add_up,
    choose_factors,
    combine,
    nearest_is_right,
    photograph_blocks,
)
from gqn_rl.config import UserError
from gqn_rl.data import BlockPlan, set_scene
from gqn_rl.types import Views

PLAN = AlgebraPlan(seed=3, blocks=1, factors=("target", "arm"), views=2)


def test_factors_that_add_up_are_combined_exactly_and_products_are_not() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(SIDE, 1, 8)), rng.normal(size=(1, SIDE, 8))
    np.testing.assert_allclose(combine(one + other), one + other, atol=1e-12)
    assert nearest_is_right(combine(one + other), one + other) == 1
    assert np.abs(combine(one * other) - one * other).mean() > 0.1


def test_vectors_that_know_nothing_are_at_chance() -> None:
    rng = np.random.default_rng(0)
    shares = [nearest_is_right(*rng.normal(size=(2, SIDE, SIDE, 8))) for _ in range(400)]
    assert np.mean(shares) == pytest.approx(1 / SIDE**2, abs=0.01)


def test_a_sum_is_compared_with_scenes_seen_by_other_cameras_and_shown_by_one() -> None:
    source = make_arm("gqn_rl/ArmReach-v0", {"image_size": 16})
    made: list[int] = []
    (block,) = photograph_blocks(source, PLAN, made.append)
    assert sum(made) == PLAN.frames
    assert not (block.added.poses[..., None, :, :] == block.compared.poses[..., None, :]).all(-1).any()
    assert (block.shown.poses == block.shown.poses[0, 0]).all()
    plan = BlockPlan(rows="target", columns="arm", height=SIDE, width=SIDE)
    for place in (0, 1, SIDE, SIDE**2 - 1):
        set_scene(source, plan, PLAN.seed, place)
        for views in block:
            images, poses = (array[divmod(place, SIDE)] for array in views)
            np.testing.assert_array_equal(images[0], source.render_view(poses[0]))


def test_perfect_knowledge_of_the_state_adds_up() -> None:
    """The arm's angles and the ball's place are the two factors of the state itself."""
    source = make_arm("gqn_rl/ArmReach-v0", {"image_size": 16})
    plan = BlockPlan(rows="target", columns="arm", height=SIDE, width=SIDE)
    states = []
    for place in range(plan.size):
        set_scene(source, plan, 0, place)
        states.append(source.state())
    vectors = np.stack(states).reshape(SIDE, SIDE, -1)
    assert nearest_is_right(combine(vectors), vectors) == 1


def test_factors_are_chosen_from_those_that_there_are() -> None:
    source = make_arm("gqn_rl/ArmReach-v0", {"image_size": 16})
    assert choose_factors(source, None) == ("target", "arm")
    assert choose_factors(source, ("arm", "appearance")) == ("arm", "appearance")
    with pytest.raises(UserError, match="'hand': the scene's factors are target, arm, appearance"):
        choose_factors(source, ("hand", "arm"))
    with pytest.raises(UserError, match="'arm' twice"):
        choose_factors(source, ("arm", "arm"))


def test_a_sum_is_looked_for_among_what_the_other_cameras_saw() -> None:
    class Codes:
        """Its vectors are what stands where poses do."""

        def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
            return poses[:, 0]

    rng = np.random.default_rng(0)
    codes = (rng.normal(size=(SIDE, 1, 8)) + rng.normal(size=(1, SIDE, 8)))[:, :, None]
    images = np.zeros((SIDE, SIDE, 1, 1, 1, 3), np.uint8)
    seen, elsewhere = Views(images, codes), Views(images, np.roll(codes, 1, axis=0))
    encoder: Any = Codes()
    assert add_up(encoder, [Block(seen, elsewhere, seen), Block(seen, seen, seen)]).combined.tolist() == [0, 1]
