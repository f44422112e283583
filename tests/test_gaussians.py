"""Laws of Gaussians in information form, against matrices and against PyTorch's own distributions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from gqn_rl.gaussians import along_ray, isotropic, log_partition, log_spreads, means, mutual_information


def matrices(gaussians: Tensor) -> tuple[Tensor, Tensor]:
    """Precision matrices (..., 3, 3) and informations (..., 3)."""
    a, b, c, d, e, f = gaussians[..., :6].unbind(-1)
    rows = [torch.stack(row, dim=-1) for row in ((a, b, c), (b, d, e), (c, e, f))]
    return torch.stack(rows, dim=-2), gaussians[..., 6:]


def random(*shape: int, seed: int = 0) -> Tensor:
    """Gaussians (*shape, 9) in double precision."""
    rng = torch.Generator().manual_seed(seed)
    root = torch.randn(*shape, 3, 3, generator=rng, dtype=torch.double)
    precision = root @ root.mT + 0.3 * torch.eye(3, dtype=torch.double)
    i, j = torch.triu_indices(3, 3)
    return torch.cat([precision[..., i, j], torch.randn(*shape, 3, generator=rng, dtype=torch.double)], dim=-1)


def normal(gaussians: Tensor) -> MultivariateNormal:
    precision, information = matrices(gaussians)
    return MultivariateNormal(torch.linalg.solve(precision, information), precision_matrix=precision)


def test_means_solve_the_normal_equations() -> None:
    gaussians = random(7, 4)
    precision, information = matrices(gaussians)
    torch.testing.assert_close((precision @ means(gaussians)[..., None])[..., 0], information)


def test_partition_is_that_of_a_matrix_and_so_are_its_gradients() -> None:
    gaussians = random(5, 2).requires_grad_()
    precision, information = matrices(gaussians)
    quadratic = (information * torch.linalg.solve(precision, information)).sum(-1)
    slow = 0.5 * (quadratic - torch.logdet(precision))
    torch.testing.assert_close(log_partition(gaussians), slow)
    (expected,) = torch.autograd.grad(slow.sum(), gaussians)
    (gradient,) = torch.autograd.grad(log_partition(gaussians).sum(), gaussians)
    torch.testing.assert_close(gradient, expected)
    assert torch.autograd.gradcheck(log_partition, (gaussians,))


def test_single_precision_suffices_for_views_as_sharp_as_a_network_makes_them() -> None:
    """The network's limits: a standard deviation of 0.1 / e^3.5 across the ray, of 0.5 e^3.5 along it; prior 1."""
    rng = torch.Generator().manual_seed(1)
    origins = 1.5 * torch.randn(2, 64, 3, generator=rng)
    directions = torch.nn.functional.normalize(0.3 * torch.randn(64, 3, generator=rng) - origins, dim=-1)
    distances = origins.norm(dim=-1)
    across, along = (0.1 * math.exp(-3.5)) ** -2, (0.5 * math.exp(3.5)) ** -2
    views = along_ray(origins, directions, distances, torch.full_like(distances, across), 0 * distances + along)
    prior = isotropic(torch.zeros(3), 1.0)
    for gaussians in (views[0] + prior, views.sum(0) + prior):
        exact = gaussians.double()
        torch.testing.assert_close(means(gaussians), means(exact).float(), rtol=0, atol=0.01)
        torch.testing.assert_close(log_spreads(gaussians), log_spreads(exact).float(), rtol=0, atol=0.01)
        torch.testing.assert_close(log_partition(gaussians), log_partition(exact).float(), rtol=0, atol=0.1)
    inputs = [part.unflatten(0, (8, 8)) for part in views] + [prior.expand(8, -1)]
    exact = mutual_information(*[part.double() for part in inputs])
    torch.testing.assert_close(mutual_information(*inputs), exact.float(), rtol=0, atol=0.2)


def test_a_view_is_sharp_across_its_ray_and_wide_along_it() -> None:
    rng = torch.Generator().manual_seed(1)
    origins = torch.randn(6, 3, generator=rng, dtype=torch.double)
    directions = torch.nn.functional.normalize(torch.randn(6, 3, generator=rng, dtype=torch.double), dim=-1)
    distances = torch.rand(6, generator=rng, dtype=torch.double) + 1
    across, along = torch.full((6,), 100.0).double(), torch.full((6,), 4.0).double()
    gaussians = along_ray(origins, directions, distances, across, along)
    torch.testing.assert_close(means(gaussians), origins + distances[:, None] * directions)
    precision, _ = matrices(gaussians)
    torch.testing.assert_close((precision @ directions[..., None])[..., 0], 4 * directions)
    sideways = torch.linalg.cross(directions, torch.randn(6, 3, generator=rng, dtype=torch.double))
    torch.testing.assert_close((precision @ sideways[..., None])[..., 0], 100 * sideways)


def test_two_cameras_triangulate_by_addition() -> None:
    point = torch.tensor([0.3, -0.2, 0.5], dtype=torch.double)
    origins = torch.tensor([[2.0, 0, 1], [0, 2, 1], [-1, -1, 2]], dtype=torch.double)
    directions = torch.nn.functional.normalize(point - origins, dim=-1)
    wrong = torch.tensor([0.5, 1.0, 3.0], dtype=torch.double)  # nobody knows how far it is
    sharp, blind = torch.full((3,), 1e4).double(), torch.full((3,), 1e-6).double()
    views = along_ray(origins, directions, wrong, sharp, blind)
    assert (means(views) - point).norm(dim=-1).min() > 0.3
    torch.testing.assert_close(means(views[0] + views[1]), point, atol=1e-4, rtol=0)
    torch.testing.assert_close(means(views.sum(0)), point, atol=1e-4, rtol=0)


def test_log_spread_is_that_of_the_covariance_and_of_a_sphere_its_radius() -> None:
    gaussians = random(7, 4)
    axes = torch.linalg.eigvalsh(torch.linalg.inv(matrices(gaussians)[0])).sqrt()
    torch.testing.assert_close(log_spreads(gaussians), axes.log().mean(-1))


def test_isotropic() -> None:
    mean = torch.randn(4, 3)
    gaussians = isotropic(mean, 0.5)
    torch.testing.assert_close(log_spreads(gaussians), torch.full((4,), math.log(0.5)))
    torch.testing.assert_close(means(gaussians), mean)
    torch.testing.assert_close(matrices(gaussians)[0], torch.eye(3).expand(4, 3, 3) * 4)


def test_mutual_information_is_the_ratio_of_evidences() -> None:
    """log p(a, b) / (p(a) p(b)) by Bayes' rule, with densities of PyTorch's normal distributions at one point.

    p(a) = p(x) p(a | x) / p(x | a) holds at every x; the likelihoods p(. | x) cancel.
    """
    first, second, prior = random(3, 2, seed=1), random(4, 2, seed=2), random(2, seed=3)
    x = torch.tensor([0.1, 0.2, -0.3], dtype=torch.double)

    def log_density(gaussians: Tensor) -> Tensor:
        return normal(gaussians).log_prob(x).sum(-1)

    one, other, both = first + prior, second + prior, first[:, None] + second[None] + prior
    expected = log_density(one)[:, None] + log_density(other) - log_density(prior) - log_density(both)
    torch.testing.assert_close(mutual_information(first, second, prior), expected)


def test_mutual_information_is_symmetric_and_zero_for_a_view_that_says_nothing() -> None:
    first, second, prior = random(3, 2, seed=1), random(4, 2, seed=2), random(2, seed=3)
    there, back = mutual_information(first, second, prior), mutual_information(second, first, prior)
    torch.testing.assert_close(there, back.T)
    torch.testing.assert_close(mutual_information(first, 0 * second, prior), torch.zeros(3, 4).double())


def test_mutual_information_has_the_right_gradients() -> None:
    inputs = tuple(random(*shape, seed=i).requires_grad_() for i, shape in enumerate(((3, 2), (4, 2), (2,))))
    assert torch.autograd.gradcheck(mutual_information, inputs)
