"""Gaussians over points in space, in information form: what several views say is the *sum* of what each says.

A view that places a point at ``m`` with precision matrix ``L`` contributes ``L`` (six numbers: xx, xy, xz, yy, yz,
zz) and ``L m`` (three). Adding contributions multiplies the likelihoods. A camera knows the direction of a point
well and its distance badly; two cameras then triangulate by addition alone.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

#: Numbers of a symmetric 3x3 precision, and of a Gaussian: the precision, then precision times mean.
PRECISION_SIZE: Final = 6
GAUSSIAN_SIZE: Final = PRECISION_SIZE + 3


def isotropic(mean: Tensor, std: float) -> Tensor:
    """Gaussians (..., 9) about ``mean`` (..., 3) with standard deviation ``std`` in every direction."""
    precision = mean.new_tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0]).expand(*mean.shape[:-1], PRECISION_SIZE)
    return torch.cat([precision, mean], dim=-1) / std**2


def along_ray(origins: Tensor, directions: Tensor, distances: Tensor, across: Tensor, along: Tensor) -> Tensor:
    """Gaussians (..., 9) about the points ``origins + distances * directions``.

    Args:
        origins: (..., 3).
        directions: (..., 3), unit vectors.
        distances: (...,).
        across: (...,) precision at right angles to the ray: one over a squared length, positive.
        along: (...,) precision in the ray's direction.
    """
    x, y, z = directions.unbind(-1)
    gap = along - across  # the precision matrix is across * identity + gap * d d'
    precision = torch.stack(
        [across + gap * x * x, gap * x * y, gap * x * z, across + gap * y * y, gap * y * z, across + gap * z * z],
        dim=-1,
    )
    shift = gap * (directions * origins).sum(-1) + along * distances
    return torch.cat([precision, across[..., None] * origins + shift[..., None] * directions], dim=-1)


def means(gaussians: Tensor) -> Tensor:
    """The means (..., 3) of Gaussians (..., 9); precisions must be positive definite."""
    return torch.stack(_solve(gaussians.movedim(-1, 0)).mean, dim=-1)


def log_spreads(gaussians: Tensor) -> Tensor:
    """Of Gaussians (..., 9), the log of the geometric mean of their standard deviations along the three axes: (...,).

    It depends on no choice of axes; precisions must be positive definite.
    """
    return -_solve(gaussians.movedim(-1, 0)).log_determinant / 6


def log_partition(gaussians: Tensor) -> Tensor:
    """``log int exp(-x' L x / 2 + h' x) dx`` up to a constant, of Gaussians [L, h] (..., 9): (...,) nats."""
    result: Tensor = _LogPartition.apply(gaussians.movedim(-1, 0))
    return result


def mutual_information(first: Tensor, second: Tensor, prior: Tensor) -> Tensor:
    """How much likelier each two views become by showing the same points: (A, B) nats.

    ``first`` (A, K, 9) and ``second`` (B, K, 9) are what views say, ``prior`` (K, 9) what is known before. The result
    is the pointwise mutual information ``log p(a, b) / (p(a) p(b))``, summed over the K points: if the Gaussians were
    true, the best critic that InfoNCE could have (van den Oord et al. 2018, section 2.3).
    """
    one, other = first + prior, second + prior
    # Numbers of one kind lie together: with the nine of a Gaussian side by side, all pairs take three times as long.
    pairs = one.movedim(-1, 0).contiguous()[:, :, None] + second.movedim(-1, 0).contiguous()[:, None]
    both: Tensor = _LogPartition.apply(pairs).sum(-1)
    return both + log_partition(prior).sum() - log_partition(one).sum(-1)[:, None] - log_partition(other).sum(-1)


class _Solved(NamedTuple):
    """What the equations ``L m = h`` give, each entry of shape (...,)."""

    mean: tuple[Tensor, ...]  #: m
    covariance: tuple[Tensor, ...]  #: the inverse of L: xx, xy, xz, yy, yz, zz
    log_determinant: Tensor  #: of L
    quadratic: Tensor  #: h' L^-1 h


def _solve(gaussians: Tensor) -> _Solved:
    """Of Gaussians [L, h] (9, ...), by the factors ``L = U' D U`` with ones on U's diagonal (Cholesky's, rootless).

    A view's precision is 10^5 times larger across its ray than along it. In float32 determinants of minors, as Cramer's
    rule has them, then lose all their digits; eliminating one unknown after the other does not square the numbers.
    """
    a, b, c, d, e, f, p, q, r = gaussians
    xy, xz = b / a, c / a
    second, rest = d - xy * b, e - xy * c
    yz = rest / second
    third = f - xz * c - yz * rest
    q = q - xy * p
    r = r - xz * p - yz * q
    z = r / third
    y = q / second - yz * z
    x = p / a - xy * y - xz * z
    quadratic = p * p / a + q * q / second + r * z
    one, two, three = 1 / a, 1 / second, 1 / third
    across = xy * yz - xz  # the entry of U's inverse
    covariance = (
        one + xy * xy * two + across * across * three,
        -xy * two - across * yz * three,
        across * three,
        two + yz * yz * three,
        -yz * three,
        three,
    )
    return _Solved((x, y, z), covariance, a.log() + second.log() + third.log(), quadratic)


class _LogPartition(torch.autograd.Function):
    """``(h' L^-1 h - log det L) / 2`` of (9, ...), with the gradients known by heart.

    They are the moments of an exponential family: the mean for h, minus half the second moment for L. Automatic
    differentiation keeps forty intermediate results of all pairs instead, and takes three times as long.
    """

    @staticmethod
    def forward(ctx: Any, gaussians: Tensor) -> Tensor:
        solved = _solve(gaussians)
        ctx.save_for_backward(*solved.mean, *solved.covariance)
        return 0.5 * (solved.quadratic - solved.log_determinant)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        x, y, z, xx, xy, xz, yy, yz, zz = ctx.saved_tensors
        result = gradient.new_empty(GAUSSIAN_SIZE, *gradient.shape)
        # An off-diagonal number stands for two entries of the matrix: half twice is one.
        products = (
            (x, x, xx, -0.5),
            (x, y, xy, -1),
            (x, z, xz, -1),
            (y, y, yy, -0.5),
            (y, z, yz, -1),
            (z, z, zz, -0.5),
        )
        for entry, (u, v, cov, factor) in zip(result, products, strict=False):
            torch.addcmul(cov, u, v, out=entry).mul_(gradient).mul_(factor)
        for entry, m in zip(result[PRECISION_SIZE:], (x, y, z), strict=True):
            torch.mul(m, gradient, out=entry)
        return result
