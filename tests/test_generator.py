"""Laws of the generator: its latents and its cores. test_plain_gqn.py compares it with the paper's, plainly written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from gqn_rl.cameras import look_at, project
from gqn_rl.config import UserError
from gqn_rl.generator import Condition, Gaussian, GaussianHead, Generator, GeneratorConfig, SharedNoise, Step
from gqn_rl.plan_reader import PlanReader
from gqn_rl.plans import Plan
from gqn_rl.rays import pose_features

POOLED, SPATIAL = (6, 1, 1), (6, 4, 6)
#: A scene that begins with the places of two points: three channels each, and two more.
WITH_POINTS, POINTS = (8, 1, 1), 2
#: A scene that is a plan of 5 x 5 cells.
A_PLAN, PLAN = (6, 5, 5), Plan(cells=5, side=4.0, height=1.0)
#: Scenes with the channels that camera and scene are mixed in, and points.
SCENES = [
    *((shape, mixing, 0) for shape in (POOLED, SPATIAL) for mixing in (0, 12)),
    (WITH_POINTS, 12, POINTS),
    (A_PLAN, 12, 0),
]
SMALL = {"steps": 3, "channels": 8, "canvas_channels": 16, "mixing_channels": 0, "stride": 4, "conditioning": "pose"}


def build(
    scene_shape: tuple[int, int, int] = POOLED, size: tuple[int, int] = (16, 24), points: int = 0, **fields: Any
) -> Generator:
    torch.manual_seed(0)
    config = GeneratorConfig.from_mapping({**SMALL, "zero_init_scene": False, **fields})
    plan = PLAN if scene_shape == A_PLAN else None
    return Generator(config, scene_shape, *size, fovy=45.0, points=points, plan=plan)


def build_points(**fields: Any) -> Generator:
    return build(WITH_POINTS, (32, 32), POINTS, **{"mixing_channels": 12, "conditioning": "rays", **fields})


def inputs(n: int, scene_shape: tuple[int, int, int] = POOLED, size: tuple[int, int] = (16, 24)) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    shapes = [(n, *scene_shape), (n, 5)]
    return [torch.randn(shape, generator=rng) for shape in shapes] + [torch.rand(n, 3, *size, generator=rng)]


def seed(value: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def random_gaussian(value: int, n: int = 4) -> Gaussian:
    rng = seed(value)
    return Gaussian(torch.randn(n, 2, 3, 3, generator=rng), 0.7 * torch.randn(n, 2, 3, 3, generator=rng))


# --- latents -----------------------------------------------------------------------------------------------------


def test_kl_is_pytorchs() -> None:
    q, p = random_gaussian(1), random_gaussian(2)
    expected = kl_divergence(Normal(q.mean, q.log_std.exp()), Normal(p.mean, p.log_std.exp())).flatten(1).sum(dim=1)
    torch.testing.assert_close(q.kl(p), expected)


def test_kl_is_zero_for_equals_and_positive_otherwise() -> None:
    q, p = random_gaussian(1), random_gaussian(2)
    assert torch.equal(q.kl(q), torch.zeros(4))
    assert (q.kl(p) > 0).all()


def test_kl_and_sampling_agree_on_the_scale() -> None:
    """Regression: with a head read as log-variance in one place and log-std in the other, this is off by far."""
    q, p = random_gaussian(1, n=2), random_gaussian(2, n=2)
    wide_q, wide_p = (Gaussian(*(t.repeat(4000, 1, 1, 1) for t in g)) for g in (q, p))
    z = wide_q.sample(seed())
    normal_q, normal_p = Normal(wide_q.mean, wide_q.log_std.exp()), Normal(wide_p.mean, wide_p.log_std.exp())
    estimate = (normal_q.log_prob(z) - normal_p.log_prob(z)).flatten(1).sum(dim=1).unflatten(0, (4000, 2)).mean(dim=0)
    torch.testing.assert_close(estimate, q.kl(p), rtol=0.05, atol=0.1)


def test_head_splits_mean_from_log_std_and_sampling_uses_it() -> None:
    head = GaussianHead(5, 3, kernel=3)
    with torch.no_grad():
        head.weight.zero_()
        assert head.bias is not None
        head.bias.copy_(torch.tensor([1.0, 2.0, 3.0, -2.0, 0.0, 1.0]))
    z = head.distribution(torch.randn(200, 5, 8, 8)).sample(seed()).transpose(0, 1).flatten(1)
    torch.testing.assert_close(z.mean(dim=1), torch.tensor([1.0, 2.0, 3.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(z.std(dim=1).log(), torch.tensor([-2.0, 0.0, 1.0]), atol=0.05, rtol=0)


@pytest.mark.parametrize("size", [2, 3])
def test_processes_that_share_a_batch_share_its_noise(size: int) -> None:
    """What they draw side by side is what one would have drawn, and all leave their generators alike."""
    whole = random_gaussian(1, n=6)
    alone = seed()
    expected, after = whole.sample(alone), torch.randn(3, generator=alone)
    parts = []
    for rank, (mean, log_std) in enumerate(zip(whole.mean.chunk(size), whole.log_std.chunk(size), strict=True)):
        own = seed()
        parts.append(Gaussian(mean, log_std).sample(SharedNoise(own, rank, size)))
        assert torch.equal(torch.randn(3, generator=own), after)
    assert torch.equal(torch.cat(parts), expected)


# --- shapes and sampling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("conditioning", ["pose", "rays"])
@pytest.mark.parametrize("decoder", ["linear", "conv"])
@pytest.mark.parametrize("mixing_channels", [0, 12])
@pytest.mark.parametrize("scene_shape", [POOLED, SPATIAL, (6, 3, 5)])
def test_every_variant_reconstructs_and_imagines(
    shared: bool, conditioning: str, decoder: str, mixing_channels: int, scene_shape: tuple[int, int, int]
) -> None:
    generator = build(
        scene_shape, shared=shared, conditioning=conditioning, decoder=decoder, mixing_channels=mixing_channels
    )
    scene, poses, images = inputs(2, scene_shape)
    mean, kl = generator.posterior(scene, poses, images, seed())
    assert mean.shape == images.shape
    assert kl.shape == (2,)
    assert (kl > 0).all()
    for deterministic in (False, True):
        imagined = generator.prior(scene, poses, seed(), deterministic=deterministic)
        assert imagined.shape == images.shape
        assert imagined.isfinite().all()


@pytest.mark.parametrize("channels", [5, 11])
@pytest.mark.parametrize("z_channels", [1, 4])
@pytest.mark.parametrize(("size", "stride"), [((16, 16), 2), ((16, 32), 8), ((8, 24), 4)])
def test_channels_are_independent_of_the_spatial_size(
    channels: int, z_channels: int, size: tuple[int, int], stride: int
) -> None:
    generator = build(size=size, channels=channels, z_channels=z_channels, stride=stride, decoder="conv")
    scene, poses, images = inputs(1, size=size)
    assert generator.posterior(scene, poses, images)[0].shape == (1, 3, *size)


def test_sampling_repeats_with_the_seed_and_varies_without() -> None:
    generator = build()
    scene, poses, images = inputs(2)
    first, again, other = (generator.prior(scene, poses, seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(*(generator.posterior(scene, poses, images, seed(3))[0] for _ in range(2)))
    deterministic = [generator.prior(scene, poses, seed(s), deterministic=True) for s in (1, 2)]
    assert torch.equal(*deterministic)


@pytest.mark.parametrize("conditioning", ["pose", "rays"])
@pytest.mark.parametrize(("scene_shape", "mixing_channels", "points"), SCENES)
def test_one_scene_serves_its_consecutive_views(
    conditioning: str, scene_shape: tuple[int, int, int], mixing_channels: int, points: int
) -> None:
    generator = build(scene_shape, points=points, conditioning=conditioning, mixing_channels=mixing_channels)
    scene, poses, _ = inputs(6, scene_shape)
    repeated = scene[:2].repeat_interleave(3, dim=0)
    torch.testing.assert_close(
        generator.prior(scene[:2], poses, deterministic=True), generator.prior(repeated, poses, deterministic=True)
    )


# --- points ----------------------------------------------------------------------------------------------------------


def looking(*eyes: tuple[float, float, float]) -> Tensor:
    """Poses (N, 5) of cameras at ``eyes`` that look at the origin."""
    return torch.stack([torch.from_numpy(look_at(eye, (0.0, 0.0, 0.0))) for eye in eyes])


def test_a_point_enters_the_condition_in_the_cells_where_the_camera_sees_it() -> None:
    generator = build_points(stride=2)
    with torch.no_grad():
        generator.conditioning.scene.weight.zero_()  # type: ignore[operator,union-attr]
        generator.conditioning.log_sizes.fill_(-4.0)
    poses = looking((2.0, 0.5, 1.0), (-0.5, 1.8, 0.7))
    rows, columns = torch.meshgrid(*map(torch.arange, generator.grid), indexing="ij")
    scene = torch.zeros(1, *WITH_POINTS)
    scene[0, :3, 0, 0] = torch.tensor([0.1, -0.2, 0.1])
    moved = scene.clone()
    moved[0, :3, 0, 0] = torch.tensor([-0.2, 0.2, -0.1])
    changed = (generator.conditioning(moved, poses).maps - generator.conditioning(scene, poses).maps).abs().amax(1)
    for view, pose in enumerate(poses):
        seen = [project(at[0, :3, 0, 0].numpy(), pose.numpy(), 45.0, *generator.grid) for at in (scene, moved)]
        distances = torch.stack([((rows - row) ** 2 + (columns - column) ** 2).sqrt() for row, column in seen]).amin(0)
        assert (changed[view][distances < 0.75] > 1e-3).all()
        assert (changed[view][distances > 4] < 1e-6).all()
        assert (distances > 4).any()


def test_a_point_behind_the_camera_is_not_seen() -> None:
    generator = build_points()
    with torch.no_grad():
        generator.conditioning.scene.weight.zero_()  # type: ignore[operator,union-attr]
    poses = looking((2.0, 0.5, 1.0))
    scene = torch.zeros(1, *WITH_POINTS)
    scene[0, :3, 0, 0] = 2 * poses[0, :3]
    further = scene.clone()
    further[0, :3, 0, 0] = 3 * poses[0, :3]
    torch.testing.assert_close(*(generator.conditioning(at, poses).maps for at in (scene, further)))


def test_an_error_of_the_drawing_moves_the_point() -> None:
    generator = build_points()
    scene = torch.zeros(1, *WITH_POINTS).requires_grad_()
    poses = looking((2.0, 0.5, 1.0))
    with torch.no_grad():
        generator.conditioning.scene.weight.zero_()  # type: ignore[operator,union-attr]
    generator.prior(scene, poses, deterministic=True).square().sum().backward()
    assert scene.grad is not None
    assert (scene.grad[0, : 3 * POINTS].abs() > 0).all()  # every coordinate, by its place on the image alone
    assert not scene.grad[0, 3 * POINTS :].any()


def test_points_in_other_units_are_drawn_alike() -> None:
    metres = build_points()
    config = GeneratorConfig.from_mapping(
        {**SMALL, "zero_init_scene": False, "mixing_channels": 12, "conditioning": "rays"}
    )
    halves = Generator(config, WITH_POINTS, 32, 32, fovy=45.0, length_scale=0.5, points=POINTS)
    halves.load_state_dict(metres.state_dict())
    scene = torch.randn(1, *WITH_POINTS) * 0.3
    poses = looking((2.0, 0.5, 1.0))
    scaled = poses * torch.tensor([0.5, 0.5, 0.5, 1.0, 1.0])
    torch.testing.assert_close(
        halves.prior(scene, scaled, deterministic=True), metres.prior(scene, poses, deterministic=True)
    )


def test_points_need_camera_and_scene_mixed() -> None:
    with pytest.raises(ValueError, match="points need mixing_channels above 0"):
        build_points(mixing_channels=0)


# --- who sees what ---------------------------------------------------------------------------------------------------


def test_inference_network_sees_the_canvas() -> None:
    """Regression: the divergence depends on what is drawn, and the prior never sees the canvas."""
    generator = build()
    scene, poses, images = inputs(2)
    stage = generator.stages[0]
    assert isinstance(stage, Step)
    _, kl = generator.posterior(scene, poses, images, seed())
    (gradient,) = torch.autograd.grad(kl.sum(), stage.to_canvas.weight)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("source", ["scene", "poses", "images"])
def test_posterior_depends_on_scene_camera_and_image(source: str) -> None:
    generator = build()
    tensors = dict(zip(["scene", "poses", "images"], inputs(2), strict=True))
    tensors[source].requires_grad_()
    mean, kl = generator.posterior(**tensors, rng=seed())
    for out in (mean[0].square().sum(), kl[0]):
        (gradient,) = torch.autograd.grad(out, tensors[source], retain_graph=True)
        assert gradient[0].abs().max() > 0
        assert gradient[1].abs().max() == 0  # and on nothing of another scene


def test_prior_is_blind_to_the_inference_network() -> None:
    generator = build()
    scene, poses, _ = inputs(2)
    before = generator.prior(scene, poses, seed())
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "inference_core" in name or "posterior_head" in name or "shrink" in name:
                parameter.add_(1.0)
    assert torch.equal(generator.prior(scene, poses, seed()), before)


def test_kl_vanishes_when_the_posterior_is_the_prior() -> None:
    generator = build()
    with torch.no_grad():
        for head in (generator.prior_head, generator.posterior_head):
            head.weight.zero_()
            assert head.bias is not None
            head.bias.copy_(torch.linspace(-1, 1, len(head.bias)))
    scene, poses, images = inputs(2)
    mean, kl = generator.posterior(scene, poses, images, seed())
    assert torch.equal(kl, torch.zeros(2))
    assert torch.equal(mean, generator.prior(scene, poses, seed()))  # and then both draw the same


@pytest.mark.parametrize("mixing_channels", [0, 12])
def test_the_canvas_begins_with_what_camera_and_scene_say_where_they_are_mixed(mixing_channels: int) -> None:
    """With cores that add nothing to it, it is a picture of the scene, or blank."""
    generator = build(mixing_channels=mixing_channels)
    with torch.no_grad():
        for stage in generator.stages:
            assert isinstance(stage, Step)
            stage.to_canvas.weight.zero_()
    scene, poses, _ = inputs(2)
    one, other = generator.prior(scene, poses, seed())
    assert torch.equal(generator.prior(scene, poses, seed(8)), torch.stack([one, other]))
    assert torch.allclose(one, other) == (mixing_channels == 0)


@pytest.mark.parametrize("shared", [True, False])
def test_posterior_mean_images_train_the_prior_path(shared: bool) -> None:
    generator = build(shared=shared)
    scene, poses, _ = inputs(2)
    scene.requires_grad_()
    generator.prior(scene, poses, deterministic=True).square().sum().backward()
    assert scene.grad is not None
    assert scene.grad.abs().max() > 0


# --- shared and unshared cores ---------------------------------------------------------------------------------------


def test_unshared_cores_with_equal_weights_are_shared_ones() -> None:
    shared, unshared = build(shared=True), build(shared=False)
    weights = shared.state_dict()
    copies = {
        f"stages.{i}.{name.removeprefix('stages.0.')}": value
        for name, value in weights.items()
        for i in range(3)
        if name.startswith("stages.0.")
    }
    unshared.load_state_dict({**weights, **copies})
    scene, poses, images = inputs(2)
    for a, b in zip(
        shared.posterior(scene, poses, images, seed()), unshared.posterior(scene, poses, images, seed()), strict=True
    ):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(shared.prior(scene, poses, seed()), unshared.prior(scene, poses, seed()))


@pytest.mark.parametrize("step", range(3))
def test_unshared_cores_are_all_used_in_sampling_too(step: int) -> None:
    """Regression: sampling once ran the first core at every step."""
    generator = build(shared=False)
    assert len(generator.stages) == 3
    scene, poses, _ = inputs(2)
    image = generator.prior(scene, poses, deterministic=True)
    gradients = torch.autograd.grad(image.square().sum(), [generator.stages[step].prior_core.gates.weight])  # type: ignore[union-attr]
    assert gradients[0].abs().max() > 0


# --- initialisation and configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(("scene_shape", "mixing_channels", "points"), SCENES)
def test_zero_init_scene_starts_without_the_scene_and_learns_to_use_it(
    scene_shape: tuple[int, int, int], mixing_channels: int, points: int
) -> None:
    generator = build(scene_shape, points=points, mixing_channels=mixing_channels, zero_init_scene=True)
    scene, poses, images = inputs(2, scene_shape)
    before = generator.posterior(scene, poses, images, seed())[0]
    torch.testing.assert_close(generator.posterior(5 * scene, poses, images, seed())[0], before)
    (before - images).square().sum().backward()
    first = generator.conditioning.scene
    weight = first.out.weight if isinstance(first, PlanReader) else first.weight
    assert isinstance(weight, Tensor)
    assert isinstance(weight.grad, Tensor)
    assert weight.grad.abs().max() > 0
    with torch.no_grad():
        weight.sub_(0.1 * weight.grad)
    after = [generator.posterior(k * scene, poses, images, seed())[0] for k in (1, 5)]
    assert not torch.allclose(*after)


def test_condition_of_maps_and_vectors() -> None:
    assert build(POOLED).conditioning.sizes == (0, 13)
    assert build(SPATIAL).conditioning.sizes == (6, 7)
    scene, poses, _ = inputs(2, SPATIAL)
    condition = build(SPATIAL).conditioning(scene, poses)
    assert isinstance(condition, Condition)
    assert torch.equal(condition.maps, scene)
    assert torch.equal(condition.vectors, pose_features(poses))


@pytest.mark.parametrize(("size", "stride"), [((16, 20), 8), ((0, 16), 4), ((18, 16), 4)])
def test_sizes_that_do_not_fit_are_refused(size: tuple[int, int], stride: int) -> None:
    with pytest.raises(ValueError, match=rf"stride {stride}.*got {size[0]}x{size[1]}"):
        build(size=size, stride=stride)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"kernel": 4}, "kernel must be odd, got 4"),
        ({"stride": 6}, "power of two above 1, got 6"),
        ({"stride": 1}, "power of two above 1, got 1"),
        ({"decoder": "transposed"}, "'linear' or 'conv'"),
        ({"conditioning": "ray"}, "'pose' or 'rays'"),
        ({"z_channels": 0}, "z_channels"),
        ({"mixing_channels": -1}, "mixing_channels"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GeneratorConfig.from_mapping(fields)
    assert GeneratorConfig(decoder="linear", stride=6).stride == 6
