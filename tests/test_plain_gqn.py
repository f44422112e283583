"""With its weights mapped over, a plain transcription of the paper and ours with the paper's preset are one function.

``our_weights`` writes our parameters as a differentiable function of the plain network's, so that a backward pass
through our network gives the gradient of the plain one's own weights. One kind of weight makes an exception. The
paper's cores see v, and a pooled r, through convolutions that find zeros beyond the grid; ours adds their contribution
to every cell alike. Hence two laws:

- where these kernels have nothing but their centre tap, images, divergences and all gradients are equal;
- where they have all their taps, a cell's gates are equal two cells away from the rim, and what differs spreads
  ``RIM`` cells a step: images are equal further inside. On the paper's grid of 16 x 16, nothing is after two steps.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.plain_gqn import SCALE, SIDE, GenerationCore, InferenceCore, Kind, PlainGQN, V, elbo, viewpoint
from benchmarks.plain_gqn import Generator as PlainGenerator
from gqn_rl.generator import Generator
from gqn_rl.gqn import GQN, GQNConfig
from gqn_rl.pretraining import PretrainConfig
from gqn_rl.rays import pose_features
from gqn_rl.types import Views

KINDS: tuple[Kind, ...] = ("pyramid", "tower", "pool")
#: Cells a step: two in each of the inference core, the head on it and the prior core.
RIM = 6
#: Our names of the plain network's layers.
PYRAMID = {"conv1": "layers.0", "conv2": "layers.2", "conv3": "layers.4", "conv4": "layers.6"}
TOWER = {
    "conv1": "stem",
    "conv2": "skip1",
    "conv3": "body1a",
    "conv4": "body1b",
    "conv5": "skip2",
    "conv6": "body2a",
    "conv7": "body2b",
    "conv8": "out",
}


# --- their weights as ours -------------------------------------------------------------------------------------------


def our_weights(plain: PlainGQN, kind: Kind) -> dict[str, Tensor]:
    """The parameters of our GQN that computes what ``plain`` does."""
    names = PYRAMID if kind == "pyramid" else TOWER
    representation: dict[str, Tensor] = {}
    for name, value in plain.representation.named_parameters():
        layer, part = name.split(".")
        representation[f"representation.{names[layer]}.{part}"] = value
    generator = our_generator(plain.generator, pooled=kind != "tower")
    return representation | {f"generator.{name}": value for name, value in generator.items()}


def our_generator(plain: PlainGenerator, pooled: bool) -> dict[str, Tensor]:
    """The same of the generator; ``pooled``: r is a vector to it."""
    image = 3 * SCALE**2
    shrink, see, paint = plain.downsample_x.weight, plain.downsample_u.weight, plain.eta_g.weight[:, :, 0, 0]
    # Ours shows the cores the shrunk image in as many channels as they have, of which three are needed.
    spare = plain.hidden - 3
    weights = {
        "shrink.weight": torch.cat([shrink, shrink.new_zeros(spare, 3, SCALE, SCALE)]),
        "shrink.bias": shrink.new_zeros(plain.hidden),
        "decoder.read.weight": torch.eye(image, image + plain.hidden)[:, :, None, None],
        "decoder.bias": bias(plain.eta_g)[:, None, None],
        "prior_head.weight": plain.eta_pi.weight,
        "prior_head.bias": bias(plain.eta_pi),
        "posterior_head.weight": plain.eta_e.weight,
        "posterior_head.bias": bias(plain.eta_e),
    }
    for number, (inference, generation) in enumerate(zip(plain.inference_cores, plain.generation_cores, strict=True)):
        assert isinstance(inference, InferenceCore)
        assert isinstance(generation, GenerationCore)
        gates, latent = generation.core.gates, plain.eta_pi.out_channels // 2
        r_size = gates.in_channels - plain.hidden - V - latent
        h, v, r, z = gates.weight.split([plain.hidden, V, r_size, latent], dim=1)
        vectors, maps = ([v, r], []) if pooled else ([v], [r])
        own = our_core("prior_core", gates, [h, z], maps, vectors)
        gates = inference.core.gates
        h, x, v, r, h_g, u = gates.weight.split([plain.hidden, 3, V, r_size, plain.hidden, plain.hidden], dim=1)
        vectors, maps = ([v, r], []) if pooled else ([v], [r])
        # The image's share of our canvas and the spare channels are not looked at.
        unseen, unused = (u.new_zeros(len(u), count, *u.shape[2:]) for count in (image, spare))
        own |= our_core("inference_core", gates, [h, h_g, unseen, u], [*maps, x, unused], vectors)
        # What a step adds to the image, cell by cell in pixel_shuffle's order, then what the next ones see of it.
        up = generation.upsample_h.weight
        painted = torch.einsum("ku,huij->kijh", paint, up).flatten(0, 2)
        seen = torch.einsum("ouij,huij->oh", see, up)
        own["to_canvas.weight"] = torch.cat([painted, seen])[:, :, None, None]
        weights |= {f"stages.{number}.{name}": value for name, value in own.items()}
    return weights


def our_core(
    name: str, gates: nn.Conv2d, recurrent: list[Tensor], maps: list[Tensor], vectors: list[Tensor]
) -> dict[str, Tensor]:
    """Kernels (4 hidden, C, 5, 5) of a core, by how its inputs reach ours: anew every step, as maps, as vectors."""
    core = {"gates.weight": torch.cat(recurrent, dim=1), "gates.bias": bias(gates)}
    core["vector_gates.weight"] = torch.cat(vectors, dim=1).sum(dim=(2, 3))
    if maps:
        core["map_gates.weight"] = torch.cat(maps, dim=1)
    return {f"{name}.{part}": value for part, value in core.items()}


def bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def config(kind: Kind, channels: int, plain: PlainGenerator) -> GQNConfig:
    """The paper's preset, as wide as ``plain``, with ``channels`` of r."""
    preset = GQNConfig.paper(kind, shared=len(plain.generation_cores) == 1)
    representation = preset.representation.model_copy(update={"channels": channels})
    sizes = {"steps": plain.steps, "channels": plain.hidden, "canvas_channels": 3 * SCALE**2 + plain.hidden}
    generator = preset.generator.model_copy(update=sizes)
    return preset.model_copy(update={"representation": representation, "generator": generator})


def keep_centres(tensors: Mapping[str, Tensor], hidden: int, channels: int) -> None:
    """Clear all but the centre taps of what reaches the cores from v and the ``channels`` behind it, in place."""
    for name, tensor in tensors.items():
        if name.endswith("core.gates.weight"):
            start = hidden + (3 if "inference" in name else 0)
            kernels = tensor[:, start : start + V + channels]
            centre = kernels[:, :, 2, 2].clone()
            kernels.zero_()
            kernels[:, :, 2, 2] = centre


def random_views(scenes: int, count: int) -> Views:
    images = torch.randint(0, 256, (scenes, count, SIDE, SIDE, 3), dtype=torch.uint8)
    return Views(images, torch.randn(scenes, count, 5))


def nchw(views: Views) -> Tensor:
    return torch.as_tensor(views.images).permute(0, 1, 4, 2, 3) / 255


# --- laws ------------------------------------------------------------------------------------------------------------


def test_viewpoint_is_our_pose_features() -> None:
    poses = torch.randn(3, 4, 5)
    torch.testing.assert_close(viewpoint(poses), pose_features(poses))


@pytest.mark.parametrize("kind", KINDS)
def test_the_papers_preset_is_as_wide_as_the_plain_network(kind: Kind) -> None:
    expected, model = our_weights(PlainGQN(kind), kind), GQN(GQNConfig.paper(kind))
    assert {name: value.shape for name, value in model.named_parameters()} == {
        name: value.shape for name, value in expected.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_equal_representation(kind: Kind) -> None:
    torch.manual_seed(0)
    plain = PlainGQN(kind, representation=16, hidden=8)
    model, views = GQN(config(kind, 16, plain.generator)), random_views(2, 3)
    model.load_state_dict(our_weights(plain, kind))
    r = plain.representation(nchw(views).flatten(0, 1), viewpoint(torch.as_tensor(views.poses)).flatten(0, 1))
    assert r.shape == ((6, 16, 16, 16) if kind == "tower" else (6, 16, 1, 1))
    torch.testing.assert_close(model.represent_views(views).flatten(0, 1), r)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_images_divergences_and_gradients(kind: Kind, shared: bool) -> None:
    torch.manual_seed(0)
    plain = PlainGQN(kind, representation=16, hidden=8, steps=6 if shared else 3, shared=shared)
    parameters, pooled_channels = dict(plain.named_parameters()), 0 if kind == "tower" else 16
    with torch.no_grad():
        keep_centres(parameters, 8, pooled_channels)
    model, context, query = GQN(config(kind, 16, plain.generator)), random_views(2, 3), random_views(2, 1)
    sigma, x_query = 0.7, nchw(query)[:, 0]
    v, v_query = (viewpoint(torch.as_tensor(views.poses)) for views in (context, query))
    torch.manual_seed(1)
    mean, kl = plain(nchw(context), v, x_query, v_query[:, 0])
    bound = elbo(mean, kl, x_query, sigma)
    torch.manual_seed(1)  # both draw their latents from PyTorch's global generator
    ours = functional_call(model, our_weights(plain, kind), (context, query, sigma))

    torch.testing.assert_close(ours.reconstruction[:, 0].permute(0, 3, 1, 2), mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.kl[:, 0], kl, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(-(ours.nll + ours.kl)[:, 0], bound, atol=1e-2, rtol=1e-5)
    expected, gradients = (
        dict(zip(parameters, torch.autograd.grad(total, list(parameters.values())), strict=True))
        for total in (-bound.mean(), (ours.nll + ours.kl).mean())
    )
    for each in (expected, gradients):
        keep_centres(each, 8, pooled_channels)
    for name, gradient in gradients.items():
        size = expected[name].abs().max()
        assert size > 0, name
        assert (gradient - expected[name]).abs().max() < 1e-3 * size, name


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("pooled", [True, False])
def test_equal_images_away_from_the_rim_whatever_the_kernels(pooled: bool, steps: int) -> None:
    torch.manual_seed(0)
    h, w = 2 * RIM * steps + 4, 2 * RIM * steps + 6
    plain = PlainGQN("pool" if pooled else "tower", representation=6, hidden=8, steps=steps).generator
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(3)  # so that far cells are felt
    shape = (6, 1, 1) if pooled else (6, h, w)
    scene, poses, images = torch.randn(2, *shape), torch.randn(2, 5), torch.rand(2, 3, h * SCALE, w * SCALE)
    sizes = config("pool", 6, plain).generator
    ours = Generator(sizes, shape, h * SCALE, w * SCALE, fovy=45.0)
    ours.load_state_dict(our_generator(plain, pooled))
    torch.manual_seed(1)
    expected, kl = plain(images, viewpoint(poses), scene)
    torch.manual_seed(1)
    mean, our_kl = ours.posterior(scene, poses, images)
    difference = (mean - expected).abs().amax(dim=(0, 1))
    rim, cell = RIM * steps * SCALE, SCALE
    assert difference[rim:-rim, rim:-rim].max() < 5e-6
    assert difference[rim - cell : cell - rim, rim - cell : cell - rim].max() > 2e-5  # and not a cell further out
    assert not torch.allclose(our_kl, kl)


# --- the benchmark ---------------------------------------------------------------------------------------------------


def test_benchmark_compares_networks_of_equal_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows, narrow, train; its plain rows are as wide as ours beside them."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    benchmark = importlib.import_module("pretraining")
    few = PlainGQN("pool", representation=16, hidden=8, steps=2).generator
    recipe = PretrainConfig(batch=8, drawn=2, explained=1, max_context=2)
    generator = recipe.model.generator.model_copy(update={"channels": 12, "steps": 3})
    representation = recipe.model.representation.model_copy(update={"channels": 24, "width": 16, "heads": 2})
    default = recipe.model.model_copy(update={"generator": generator, "representation": representation})
    recipe = recipe.model_copy(update={"model": default})
    lines = benchmark.rows(config("pool", 16, few), "pool", 1, recipe)
    models = [line.training.model for line in lines]
    for plain, ours in ((models[0], models[1]), (models[2], models[4]), (models[3], models[5])):
        cores = plain.generator.generation_cores
        assert len(cores) == len(ours.generator.stages)
        assert plain.generator.steps == ours.generator.steps
        assert plain.generator.hidden == ours.generator.channels
        gates, latent = cores[0].core.gates, ours.generator.prior_head.out_channels // 2
        assert gates.in_channels == ours.generator.channels + V + ours.representation.read_shape[0] + latent
    heading, *cells = benchmark.compare(lines, rounds=1, seconds=0.0)
    assert [line.training.scenes for line in lines] == [1, 1, 2, 2, 2, 8]
    for row in cells:
        numbers = dict(zip(heading[4:], map(float, row[4:]), strict=True))
        assert all(number > 0 and math.isfinite(number) for number in numbers.values()), row
    text = benchmark.table([heading, *cells], 2, markdown=True).splitlines()
    assert len(text) == len(lines) + 2
    assert {line.count("|") for line in text} == {len(heading) + 1}
