"""The frozen encoder: round trips, refusals, and being one SceneEncoder among others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from gqn_rl.cameras import CONVENTION
from gqn_rl.config import UserError
from gqn_rl.encoder import GQNEncoder, load_encoder, shipped_encoders
from gqn_rl.gqn import GQN, GQNConfig
from gqn_rl.types import SceneEncoder, Views

CAMERA = {"convention": CONVENTION, "fovy": 45.0, "image_size": [16, 16], "renderer": "mujoco 3.8.1"}
#: Representation networks, their channels, and the length of what an encoder makes of them: two points are six numbers.
KINDS = {
    "ray": ("ray", 8, 8),
    "points": ("points", 0, 6),
    "points and features": ("points", 5, 11),
    "plan": ("plan", 3, 16),  # 4 x 2 x 2 cells
}


PLAN = {"cells": 2, "side": 4.0, "height": 2.0}


def config(kind: str) -> GQNConfig:
    name, channels, _ = KINDS[kind]
    return GQNConfig.from_mapping(
        {
            "image_size": 16,
            "length_scale": 2.0,
            "representation": {"kind": name, "channels": channels, "width": 8, "heads": 2, "token_channels": 8, **PLAN},
            "generator": {"channels": 4, "steps": 1, "canvas_channels": 8, "mixing_channels": 8},
        }
    )


def _views(scenes: int, views: int) -> Views:
    torch.manual_seed(0)
    return Views(torch.randint(0, 256, (scenes, views, 16, 16, 3), dtype=torch.uint8), torch.randn(scenes, views, 5))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoder(kind: str) -> GQNEncoder:
    torch.manual_seed(1)
    return GQNEncoder.from_gqn(GQN(config(kind)), _views(32, 2), {"camera": CAMERA})


def test_saved_and_loaded_gives_the_same_vectors(encoder: GQNEncoder, kind: str, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "encoder")
    for spec in (tmp_path, tmp_path / "encoder.safetensors"):
        again = GQNEncoder.from_pretrained(spec)
        assert torch.equal(again.encode(*_views(3, 2)), encoder.encode(*_views(3, 2)))
        assert again.fingerprint == encoder.fingerprint
        assert again.size == encoder.size == KINDS[kind][2]
        assert (again.points, again.unit) == (encoder.points, encoder.unit)
        assert torch.equal(again.moving, encoder.moving)


@pytest.mark.parametrize("kind", ["points"], indirect=True)
def test_points_that_keep_still_are_told_from_those_that_move(encoder: GQNEncoder, tmp_path: Path) -> None:
    network = encoder.gqn.representation
    vector = network.vector

    def one_stands(shares: Tensor) -> Tensor:
        vectors = vector(shares).clone()
        vectors[:, :3] *= 0.01
        return vectors

    network.vector = one_stands  # type: ignore[method-assign]
    again = GQNEncoder.from_gqn(encoder.gqn, _views(32, 2), encoder.card)
    assert again.moving.tolist() == [False, True]
    assert again.size == encoder.size  # the vector has them all: it is policies that need not look
    again.save_pretrained(tmp_path / "encoder")
    weights = safetensors.torch.load_file(tmp_path / "encoder.safetensors")
    del weights["output.moving"]  # of an encoder from before anybody asked
    safetensors.torch.save_file(weights, tmp_path / "encoder.safetensors")
    card = json.loads((tmp_path / "encoder.json").read_text())
    del card["content_sha256"]
    (tmp_path / "encoder.json").write_text(json.dumps(card))
    assert GQNEncoder.from_pretrained(tmp_path).moving.tolist() == [True, True]


@pytest.mark.parametrize("kind", ["ray"], indirect=True)
def test_is_a_projection_of_the_mean_of_the_paper_s_sum(encoder: GQNEncoder) -> None:
    views = _views(4, 3)
    total = encoder.gqn.represent(views).flatten(1)
    expected = (total / 3 - encoder.mean) @ encoder.projection
    torch.testing.assert_close(encoder.encode(*views), expected)
    assert (encoder.points, encoder.unit) == (0, 1.0)


@pytest.mark.parametrize("kind", ["points", "points and features"], indirect=True)
def test_begins_with_the_points_in_its_unit(encoder: GQNEncoder) -> None:
    """They are places in the room, not deviations from a mean: a policy may see them from where its robot is."""
    views = _views(4, 3)
    read = encoder.gqn.representation.read(encoder.gqn.represent(views)).flatten(1)
    metres = read[:, :6] * encoder.gqn.config.length_scale
    assert encoder.points == 2
    torch.testing.assert_close(encoder.encode(*views)[:, :6] * encoder.unit, metres, atol=1e-5, rtol=1e-4)


def test_order_of_views_does_not_matter_and_scenes_do_not_mix(encoder: GQNEncoder) -> None:
    images, poses = _views(4, 3)
    vectors = encoder.encode(images, poses)
    torch.testing.assert_close(encoder.encode(images.flip(1), poses.flip(1)), vectors)
    torch.testing.assert_close(encoder.encode(images[1:2], poses[1:2]), vectors[1:2])


def test_stays_frozen_whatever_is_asked(encoder: GQNEncoder) -> None:
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.encode(*_views(1, 1)).requires_grad


def test_fingerprint_changes_with_weights_and_projection(encoder: GQNEncoder) -> None:
    before = encoder.fingerprint
    encoder.mean += 1
    middle = encoder.fingerprint
    next(encoder.gqn.parameters()).data.add_(1)
    assert len({before, middle, encoder.fingerprint}) == 3


def test_loading_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    GQNEncoder.from_gqn(GQN(config("ray")), _views(32, 2), {"camera": CAMERA}).save_pretrained(tmp_path / "encoder")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    GQNEncoder.from_pretrained(tmp_path)
    GQNEncoder.untrained(tmp_path)
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)


def test_what_cannot_be_encoded_or_saved_is_refused(encoder: GQNEncoder, tmp_path: Path) -> None:
    views = _views(2, 1)
    with pytest.raises(ValueError, match=r"poses must be \(B, K, 5\) with K of at least 1, got \(2, 0, 5\)"):
        encoder.encode(views.images[:, :0], views.poses[:, :0])
    with pytest.raises(ValueError, match="has no generator; save the one that it was made from"):
        encoder.without_generator().save_pretrained(tmp_path / "encoder")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, -1, True, 2.5])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match=f"size must be a whole number of at least 1, got {size}"):
        GQNEncoder.from_gqn(GQN(config("ray")), _views(8, 1), {"camera": CAMERA}, size)


@pytest.mark.parametrize("name", ["output.moving", "generator"])
def test_other_weights_than_the_card_s_are_refused_whatever_they_are_for(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    encoder = GQNEncoder.from_gqn(GQN(config("points")), _views(32, 2), {"camera": CAMERA})
    encoder.save_pretrained(tmp_path / "encoder")
    path = tmp_path / "encoder.safetensors"
    tensors = safetensors.torch.load_file(path)
    key = next(key for key in tensors if key.startswith(name) and tensors[key].numel())
    tensors[key] = ~tensors[key] if tensors[key].dtype == torch.bool else tensors[key] + 1
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(UserError, match="is not the file its card describes"):
        GQNEncoder.from_pretrained(tmp_path)


def test_each_point_is_said_to_move_or_not() -> None:
    gqn = GQN(config("points"))
    with pytest.raises(ValueError, match=r"moving is of shape \(3,\), must be \(2,\)"):
        GQNEncoder(gqn, torch.zeros(6), torch.eye(6), {"camera": CAMERA}, torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"camera": {}}, "camera_metadata tells no convention"),
        ({"camera": {**CAMERA, "fovy": "wide"}}, "fovy must lie between 0 and 180 degrees, got 'wide'"),
        ({"data": {}}, "'data' names no environment"),
        ({"data": "mine"}, "'data' is 'mine', must be an object"),
    ],
)
def test_what_a_card_says_wrong_is_named(wrong: dict[str, object], said: str, tmp_path: Path) -> None:
    GQNEncoder.from_gqn(GQN(config("ray")), _views(32, 2), {"camera": CAMERA}).save_pretrained(tmp_path / "encoder")
    card = json.loads((tmp_path / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps({**card, **wrong}))
    with pytest.raises(UserError, match=f"is no encoder's card: .*{said}"):
        GQNEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("field", ["side", "height"])
def test_fingerprint_changes_with_a_plan_s_box_which_no_weight_shows(field: str) -> None:
    encoders = []
    for size in (4.0, 5.0):
        torch.manual_seed(1)
        fields = config("plan").to_dict()
        fields["representation"][field] = size
        gqn = GQN(GQNConfig.from_mapping(fields))
        encoders.append(GQNEncoder(gqn, torch.zeros(16), torch.eye(16), {"camera": CAMERA}))
    assert encoders[0].fingerprint != encoders[1].fingerprint


def test_an_old_card_without_today_s_options_still_loads(encoder: GQNEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "encoder")
    card = json.loads((tmp_path / "encoder.json").read_text())
    for section, option in (("generator", "zero_init_scene"), ("representation", "bands")):
        del card["model"][section][option]  # as if it had come later, with this default
    (tmp_path / "encoder.json").write_text(json.dumps(card))
    assert GQNEncoder.from_pretrained(tmp_path).fingerprint == encoder.fingerprint


@pytest.mark.parametrize("kind", ["ray", "points and features"], indirect=True)
def test_components_are_uncorrelated_in_falling_order_and_of_mean_square_one(encoder: GQNEncoder) -> None:
    vectors = encoder.encode(*_views(32, 2))[:, 3 * encoder.points :]
    covariance = vectors.T @ vectors / 32
    torch.testing.assert_close(covariance, torch.diag(covariance.diagonal()), atol=1e-4, rtol=0)
    variances = covariance.diagonal()
    assert abs(float(variances.mean()) - 1) < 1e-3
    assert (variances[:-1] >= variances[1:] - 1e-6).all()


@pytest.mark.parametrize("kind", ["points", "points and features"], indirect=True)
def test_points_vary_by_one_on_average(encoder: GQNEncoder) -> None:
    points = encoder.encode(*_views(32, 2))[:, : 3 * encoder.points]
    assert float(points.var(0, correction=0).mean()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_size_limits_the_components_and_never_the_points(size: int, kind: str) -> None:
    encoder = GQNEncoder.from_gqn(GQN(config(kind)), _views(32, 2), {"camera": CAMERA}, size)
    components = KINDS[kind][2] - 3 * encoder.points
    assert encoder.size == encoder.encode(*_views(2, 1)).shape[1] == 3 * encoder.points + min(size, components)


def test_check_names_what_does_not_fit(encoder: GQNEncoder) -> None:
    encoder.check({**CAMERA, "image_size": (16, 16)})
    with pytest.raises(UserError, match=r"image_size is \(64, 64\), but the encoder was trained on \(16, 16\)"):
        encoder.check({**CAMERA, "image_size": (64, 64)})
    with pytest.raises(UserError, match="field of view is 60 degrees, but the encoder was trained at 45 degrees"):
        encoder.check({**CAMERA, "fovy": 60.0})
    with pytest.raises(UserError, match="poses mean"):
        encoder.check({**CAMERA, "convention": "quaternions"})
    with pytest.warns(UserWarning, match="mujoco 9"):
        encoder.check({**CAMERA, "renderer": "mujoco 9"})


def test_missing_and_corrupt_files_are_one_line(encoder: GQNEncoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no encoder 'arm-reech'"):
        load_encoder("arm-reech")
    encoder.save_pretrained(tmp_path / "encoder")
    shutil.copytree(tmp_path, tmp_path / "copy")
    weights = tmp_path / "copy" / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="corrupt"):
        load_encoder(str(tmp_path / "copy"))
    card = json.loads((tmp_path / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps({**card, "fingerprint": "0" * 16}))
    with pytest.raises(UserError, match="not the file its card describes"):
        load_encoder(str(tmp_path))
    card["model"]["representation"]["channels"] = 12
    (tmp_path / "encoder.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="does not fit its card"):
        load_encoder(str(tmp_path))


class MeanColor:
    """A user's own encoder."""

    size = 3

    def encode(self, images: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
        return images.float().mean((1, 2, 3))


class Yes(MeanColor):
    """Of a size that is no number."""

    size = True


class NoEncoder:
    """Not one."""


def test_own_encoders_load_by_module_and_class() -> None:
    own = load_encoder("test_encoder:MeanColor")
    assert isinstance(own, SceneEncoder)
    assert own.encode(*_views(2, 2)).shape == (2, 3)
    with pytest.raises(UserError, match="needs a method `encode`"):
        load_encoder("test_encoder:NoEncoder")
    with pytest.raises(UserError, match="size is the length of its vector, a positive integer; got True"):
        load_encoder("test_encoder:Yes")
    with pytest.raises(UserError, match="cannot be imported"):
        load_encoder("no_such_module:Thing")


@pytest.mark.parametrize("name", shipped_encoders())
def test_shipped_encoders_are_whole_and_their_cards_say_what_they_are(name: str) -> None:
    encoder = GQNEncoder.from_pretrained(name)
    assert encoder.card["fingerprint"] == encoder.fingerprint
    assert {"camera", "data", "pretraining", "compute", "held_out", "description"} <= encoder.card.keys()
    size = encoder.card["camera"]["image_size"]
    images = torch.randint(0, 256, (2, 1, *size, 3), dtype=torch.uint8)
    assert encoder.encode(images, torch.zeros(2, 1, 5)).shape == (2, encoder.size)
