"""Rays agree with the projection of gqn_rl.cameras, and Plücker coordinates name lines."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gqn_rl.cameras import axes, project
from gqn_rl.rays import (
    PLUCKER_SIZE,
    POSE_FEATURES,
    camera_rays,
    fourier,
    plucker,
    pose_features,
    ray_features,
)

POSES = torch.tensor([[0.3, -1.2, 0.8, 2.1, -0.6], [-2.0, 0.5, 1.5, -0.4, 0.3], [0.0, 0.0, 0.0, 0.0, 0.0]])


@settings(max_examples=30, deadline=None)
@given(
    pose=st.tuples(*[st.floats(-3, 3, width=32)] * 3, st.floats(-7, 7, width=32), st.floats(-1.5, 1.5, width=32)),
    fovy=st.floats(10, 120),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    distance=st.floats(0.1, 10),
)
def test_point_along_a_pixels_ray_projects_to_that_pixel(
    pose: tuple[float, ...], fovy: float, size: tuple[int, int], distance: float
) -> None:
    origins, directions = camera_rays(torch.tensor(pose, dtype=torch.float64), fovy, *size)
    pixels = project((origins + distance * directions).numpy(), pose, fovy, *size)
    rows, columns = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    np.testing.assert_allclose(pixels, np.stack([rows, columns], axis=-1), atol=1e-6)


def test_directions_are_unit_and_batched() -> None:
    origins, directions = camera_rays(POSES.reshape(3, 1, 5), 45.0, 4, 6)
    assert origins.shape == (3, 1, 3)
    assert directions.shape == (3, 1, 4, 6, 3)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(3, 1, 4, 6))
    torch.testing.assert_close(directions[1, 0], camera_rays(POSES[1], 45.0, 4, 6)[1])


def test_centre_of_an_odd_image_looks_forward() -> None:
    _, directions = camera_rays(POSES, 60.0, 5, 7)
    torch.testing.assert_close(directions[:, 2, 3].double(), torch.as_tensor(axes(POSES.numpy())[0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
def test_coarse_grid_looks_through_the_centres_of_blocks(size: tuple[int, int]) -> None:
    height, width = size
    origins, directions = camera_rays(POSES[0].double(), 45.0, height // 4, width // 4)
    pixels = project((origins + directions).numpy(), POSES[0].numpy(), 45.0, height, width)
    rows, columns = np.meshgrid(np.arange(height // 4), np.arange(width // 4), indexing="ij")
    np.testing.assert_allclose(pixels, np.stack([rows, columns], axis=-1) * 4 + 1.5, atol=1e-6)


def test_plucker_names_the_line_whatever_the_point_on_it() -> None:
    origins, directions = camera_rays(POSES, 45.0, 3, 4)
    lines = plucker(origins, directions)
    assert lines.shape == (3, 3, 4, PLUCKER_SIZE)
    direction, moment = lines.split(3, dim=-1)
    torch.testing.assert_close((direction * moment).sum(dim=-1), torch.zeros(3, 3, 4), atol=1e-6, rtol=0)
    along = origins + 1.7 * directions[:, 1, 2]  # another point on the ray of pixel (1, 2)
    torch.testing.assert_close(plucker(along, directions)[:, 1, 2], lines[:, 1, 2], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(moment[0, 0, 0], torch.linalg.cross(origins[0], direction[0, 0, 0]))


def test_fourier_values_and_shape() -> None:
    x = torch.tensor([[0.25, -0.5, 0.1]])
    features = fourier(x, 3)
    assert features.shape == (1, 3 * 7)
    assert torch.equal(features[:, :3], x)
    sines, cosines = features[0, 3:12].reshape(3, 3), features[0, 12:].reshape(3, 3)
    for k in range(3):
        torch.testing.assert_close(sines[k], torch.sin(2**k * math.pi * x[0]))
        torch.testing.assert_close(cosines[k], torch.cos(2**k * math.pi * x[0]))
    assert torch.equal(fourier(x, 0), x)


def test_ray_features_scale_positions_only() -> None:
    in_centimetres = POSES * torch.tensor([100.0, 100.0, 100.0, 1.0, 1.0])
    expected = ray_features(POSES, 45.0, 3, 4, 2)
    assert expected.shape == (3, 3, 4, PLUCKER_SIZE * 5)
    torch.testing.assert_close(ray_features(in_centimetres, 45.0, 3, 4, 2, scale=100.0), expected, atol=1e-5, rtol=0)


def test_pose_features_are_in_the_papers_order() -> None:
    def expected(x: float, y: float, z: float, yaw: float, pitch: float) -> Tensor:
        return torch.tensor(
            [x / 2, y / 2, z / 2, math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)], dtype=torch.float32
        )

    features = pose_features(POSES, scale=2.0)
    assert features.shape == (3, POSE_FEATURES)
    for pose, row in zip(POSES, features, strict=True):
        torch.testing.assert_close(row, expected(*pose.tolist()))
