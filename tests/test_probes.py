"""Probes: hand-checkable cases and a slow reference."""

from __future__ import annotations

import numpy as np
import torch

from gqn_rl.probes import fit_ridge, probe, probe_encoder, scene_share, score
from gqn_rl.types import Views


def test_a_linear_relation_is_found_exactly_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    y = x @ rng.normal(size=(6, 3)) + 5
    found = probe(x[:200], y[:200], x[200:], y[200:])
    assert found.r2 > 0.9999
    assert found.median_error < 0.02
    assert probe(x[:200], rng.normal(size=(200, 3)), x[200:], rng.normal(size=(200, 3))).r2 < 0.1


def test_ridge_equals_its_normal_equations_solved_by_descent() -> None:
    rng = np.random.default_rng(1)
    x, y, strength = rng.normal(size=(50, 4)) * [1, 10, 0.1, 3], rng.normal(size=(50, 2)), 0.1
    model = fit_ridge(x, y, strength)
    z = torch.tensor((x - x.mean(0)) / x.std(0))
    target = torch.tensor(y - y.mean(0))
    weight = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (z @ weight - target).square().sum() + strength * len(x) * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(model.weight, weight.detach().numpy(), atol=1e-6)


def test_score_by_hand() -> None:
    truth = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    assert score(truth, truth) == (1.0, 0.0)
    predicted = truth + np.array([1.0, 0.0])
    assert score(predicted, truth) == (1 - 4 / 8, 1.0)


def test_scene_share_is_one_for_scenes_alone_and_zero_for_cameras_alone() -> None:
    rng = np.random.default_rng(2)
    scenes = np.repeat(rng.normal(size=(300, 1, 5)), 3, axis=1)
    cameras = rng.normal(size=(300, 3, 5))
    assert scene_share(scenes) > 0.999
    assert scene_share(cameras) < 0.05
    assert abs(scene_share(scenes + cameras) - 0.5) < 0.06


class FirstPixel:
    """Encodes the first pixel's colours, averaged over views."""

    size = 3

    def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
        return images[:, :, 0, 0].float().mean(1)


def test_probe_table_has_a_row_for_each_quantity_and_number_of_views() -> None:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (200, 2, 4, 4, 3), dtype=np.uint8)
    states = np.concatenate([images[:, 0, 0, 0], rng.normal(size=(200, 2))], axis=1).astype(np.float32)
    views = Views(images, np.zeros((200, 2, 5), np.float32))
    rows = probe_encoder(FirstPixel(), views, states, {"color": slice(0, 3), "noise": slice(3, 5)})
    assert [(row.quantity, row.views) for row in rows] == [("color", 1), ("noise", 1), ("color", 2), ("noise", 2)]
    assert rows[0].r2 > 0.999  # one view is the very pixel
    assert rows[2].r2 < 0.8  # the mean with another scene's is not
    assert rows[1].r2 < 0.2
