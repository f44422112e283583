"""Where points appear on an image, against the numpy camera model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gqn_rl.cameras import axes, look_at, project
from gqn_rl.splats import SMALLEST_BLOB, SPLAT_CHANNELS, splats


def cameras() -> torch.Tensor:
    poses = [look_at(np.array(eye), np.zeros(3)) for eye in ((2.0, 0.3, 1.0), (-1.5, 1.0, 0.8), (0.5, -2.0, 1.7))]
    return torch.from_numpy(np.stack(poses)).float()


def drawn(points: torch.Tensor, sizes: torch.Tensor, poses: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Maps (N, K, channels, 24, 32)."""
    maps = splats(points, sizes, poses, 50.0, 24, 32, scale)
    return maps.unflatten(1, (points.shape[1], SPLAT_CHANNELS))


def test_blobs_lie_where_the_camera_model_says() -> None:
    rng = torch.Generator().manual_seed(0)
    points = torch.rand(1, 5, 3, generator=rng).expand(3, -1, -1) * 0.8 - 0.4
    poses = cameras()
    blobs = drawn(points, torch.full((5,), 0.02), poses)[:, :, 0]
    rows, columns = torch.arange(24.0)[:, None], torch.arange(32.0)
    total = blobs.sum((2, 3))
    centre = torch.stack([(blobs * rows).sum((2, 3)), (blobs * columns).sum((2, 3))], dim=-1) / total[..., None]
    for view, pose in enumerate(poses.numpy()):
        expected = project(points[view].numpy(), pose, 50.0, 24, 32)
        np.testing.assert_allclose(centre[view].numpy(), expected, atol=0.02)


def test_offsets_and_depth_are_those_of_the_blob() -> None:
    points = torch.tensor([[[0.1, 0.05, 0.2]]])
    pose = cameras()[:1]
    blob, down, across, inverse_depth = drawn(points, torch.tensor([0.1]), pose)[0, 0]
    row, column = project(points[0, 0].numpy(), pose[0].numpy(), 50.0, 24, 32)
    peak = np.unravel_index(int(blob.argmax()), blob.shape)
    assert np.hypot(peak[0] - row, peak[1] - column) <= np.sqrt(0.5)
    assert torch.equal(down.sign(), ((torch.arange(24.0) - float(row)).sign()[:, None] * blob.sign()))
    assert torch.equal(across.sign(), ((torch.arange(32.0) - float(column)).sign() * blob.sign()))
    forward, _, _ = axes(pose[0].numpy())
    depth = float((points[0, 0].numpy() - pose[0, :3].numpy()) @ forward)
    torch.testing.assert_close(inverse_depth * depth, blob)


def test_nearer_points_make_larger_blobs_but_none_falls_between_cells() -> None:
    pose = cameras()[:1]
    towards = pose[0, :3] / pose[0, :3].norm()
    points = torch.stack([0 * towards, towards])[None]
    far, near = drawn(points, torch.tensor([0.1, 0.1]), pose)[0, :, 0].sum((1, 2))
    assert near > 1.5 * far
    tiny = drawn(points[:, :1], torch.tensor([1e-6]), pose)[0, 0, 0].sum()
    assert tiny == pytest.approx(2 * np.pi * SMALLEST_BLOB**2, rel=0.1)


def test_points_behind_the_camera_are_not_drawn() -> None:
    pose = cameras()[:1]
    behind = (1.5 * pose[0, :3])[None, None].requires_grad_()
    maps = drawn(behind, torch.tensor([0.1]), pose)
    assert not maps.any()
    maps.sum().backward()
    assert torch.isfinite(behind.grad).all()  # type: ignore[arg-type]


def test_metres_and_scaled_units_agree() -> None:
    points, poses = torch.rand(3, 2, 3) * 0.5, cameras()
    metres = drawn(points, torch.tensor([0.1, 0.2]), poses)
    scaled = drawn(points / 4, torch.tensor([0.1, 0.2]) / 4, poses, scale=4.0)
    torch.testing.assert_close(metres[:, :, :3], scaled[:, :, :3])
    torch.testing.assert_close(4 * metres[:, :, 3], scaled[:, :, 3])
