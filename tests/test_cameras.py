"""Laws of camera geometry: round trips, agreement of axes, aiming and projection."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqn_rl.cameras import CONVENTION, Dome, Fixed, axes, check_camera, check_poses, look_at, pose_from_axes, project
from gqn_rl.config import UserError

ANGLE = st.floats(-3.1, 3.1)
PITCH = st.floats(-1.5, 1.5)
METRES = st.floats(-5, 5)


@given(METRES, METRES, METRES, ANGLE, PITCH)
def test_pose_to_axes_and_back_is_the_same_pose(x: float, y: float, z: float, yaw: float, pitch: float) -> None:
    pose = np.array([x, y, z, yaw, pitch])
    forward, _, _ = axes(pose)
    np.testing.assert_allclose(pose_from_axes(pose[:3], forward), pose, atol=1e-5)


@given(ANGLE, PITCH)
def test_axes_are_a_right_handed_frame_without_roll(yaw: float, pitch: float) -> None:
    frame = np.stack(axes(np.array([0.0, 0.0, 0.0, yaw, pitch])))
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
    forward, right, up = frame
    np.testing.assert_allclose(np.cross(right, forward), up, atol=1e-12)
    assert right[2] == 0  # no roll: the horizon is level
    assert up[2] >= 0


@given(st.tuples(METRES, METRES, METRES), st.tuples(METRES, METRES, METRES))
def test_what_a_camera_looks_at_is_in_the_image_centre(position: tuple[float, ...], target: tuple[float, ...]) -> None:
    if np.linalg.norm(np.subtract(position, target)) < 0.1:
        return
    pose = look_at(position, target)
    row, column = project(target, pose, 45.0, 48, 64)
    np.testing.assert_allclose([row, column], [23.5, 31.5], atol=0.01)


def test_projection_of_hand_computed_points() -> None:
    camera = np.zeros(5)  # at the origin, looking along +x; 90 degrees: focal length is half the height
    assert project([1.0, 0.0, 0.0], camera, 90.0, 100, 200).tolist() == [49.5, 99.5]
    np.testing.assert_allclose(project([2.0, 1.0, 0.0], camera, 90.0, 100, 200), [49.5, 74.5])  # left of the centre
    np.testing.assert_allclose(project([2.0, 0.0, 1.0], camera, 90.0, 100, 200), [24.5, 99.5])  # above it
    assert np.isnan(project([-1.0, 0.0, 0.0], camera, 90.0, 100, 200)).all()


def test_dome_poses_stand_in_the_dome_and_look_near_its_centre() -> None:
    dome = Dome(center=(0.1, -0.2, 0.5), radius=(1.0, 2.0), elevation=(10, 50), azimuth=(-30, 90), aim_jitter=0.05)
    rng = np.random.default_rng(0)
    for _ in range(200):
        pose = dome.sample(rng)
        offset = pose[:3] - np.array(dome.center)
        distance = np.linalg.norm(offset)
        assert 1.0 - 1e-5 <= distance <= 2.0 + 1e-5
        assert 10 - 1e-3 <= np.rad2deg(np.arcsin(offset[2] / distance)) <= 50 + 1e-3
        assert -30 - 1e-3 <= np.rad2deg(np.arctan2(offset[1], offset[0])) <= 90 + 1e-3
        forward, _, _ = axes(pose)
        missed = np.linalg.norm(np.cross(forward, offset))  # distance of the centre from the viewing line
        assert missed <= np.sqrt(3) * 0.05 + 1e-5


def test_poses_are_uniform_over_the_area_of_the_dome() -> None:
    dome = Dome(radius=(1.0, 1.0), elevation=(0, 89))
    rng = np.random.default_rng(0)
    heights = [dome.sample(rng)[2] for _ in range(4000)]
    # Archimedes: on a sphere, height is uniform when area is.
    quartiles = np.quantile(heights, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, np.array([0.25, 0.5, 0.75]) * np.sin(np.deg2rad(89)), atol=0.03)


def test_outside_band_does_not_overlap_the_dome() -> None:
    dome = Dome(elevation=(20, 60))
    assert dome.outside(15).elevation == (60, 75)


@pytest.mark.parametrize(
    "bad",
    [
        {"radius": (2.0, 1.0)},
        {"radius": (0.0, 1.0)},
        {"radius": 1.5},
        {"radius": (True, True)},
        {"radius": (1.0, math.inf)},
        {"elevation": (0.0, 95.0)},
        {"azimuth": (math.nan, 10.0)},
        {"center": (0.0, 0.0)},
        {"center": (math.nan, 0.0, 0.0)},
        {"aim_jitter": -0.1},
        {"aim_jitter": math.nan},
    ],
)
def test_impossible_domes_are_refused_by_name(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Dome(**bad)  # type: ignore[arg-type]


def test_bad_poses_are_refused() -> None:
    with pytest.raises(ValueError, match="5 numbers"):
        check_poses(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="finite"):
        check_poses([0, 0, 0, np.nan, 0])
    with pytest.raises(ValueError, match="own position"):
        look_at([1, 2, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="own position"):
        look_at([1, 2, 3], [np.nan, 2, 3])
    np.testing.assert_allclose(look_at([1000, 0, 0], [1000.005, 0, 0])[3:], 0)  # near is not the same


def test_unknown_fixed_camera_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="valid cameras: front, left"):
        Fixed({"front": np.zeros(5, np.float32), "left": np.zeros(5, np.float32)}).named("right")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_size", 64, r"camera_metadata's image_size must be \(height, width\), got 64"),
        ("image_size", (64, 0), r"camera_metadata's image_size must be .* got \(64, 0\)"),
        ("image_size", "ab", "camera_metadata's image_size must be"),
        ("image_size", (True, 64), "camera_metadata's image_size must be"),
        ("fovy", True, "camera_metadata's fovy must lie between 0 and 180 degrees, got True"),
        ("fovy", float("nan"), "camera_metadata's fovy must lie between 0 and 180 degrees, got nan"),
        ("renderer", None, "camera_metadata's renderer must be text, got None"),
        ("convention", 3, "camera_metadata's convention must be text, got 3"),
        ("fovy", 180, "camera_metadata's fovy must lie between 0 and 180 degrees, got 180"),
    ],
)
def test_camera_metadata_that_cannot_be_is_named(key: str, value: object, message: str) -> None:
    camera = {"convention": CONVENTION, "fovy": 45.0, "image_size": [48, 64], "renderer": "MuJoCo"}
    check_camera(camera)
    check_camera({**camera, "image_size": np.array([48, 64])})
    with pytest.raises(UserError, match=message):
        check_camera({**camera, key: value})
