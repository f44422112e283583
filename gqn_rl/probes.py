"""Linear probes: how well ground truth can be read off a frozen vector. They judge encoders, never train them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gqn_rl.types import SceneEncoder, Views


class Ridge(NamedTuple):
    """A ridge regression from vectors (N, D) to targets (N, T)."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def predict(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Targets (N, T) for ``vectors`` (N, D)."""
        return (vectors - self.mean) / self.scale @ self.weight + self.bias


def fit_ridge(vectors: NDArray[np.floating], targets: NDArray[np.floating], strength: float = 1e-3) -> Ridge:
    """Fit on ``vectors`` (N, D) and ``targets`` (N, T).

    ``strength`` is the penalty on squared weights per sample, for standardised inputs.
    """
    x, y = np.asarray(vectors, np.float64), np.asarray(targets, np.float64)
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"a probe needs as many vectors as targets, at least 2; got {len(x)} and {len(y)}")
    mean, scale = x.mean(0), x.std(0) + 1e-12
    z = (x - mean) / scale
    gram = z.T @ z + strength * len(z) * np.eye(z.shape[1])
    weight = np.linalg.solve(gram, z.T @ (y - y.mean(0)))
    return Ridge(mean, scale, weight, y.mean(0))


class ProbeScore(NamedTuple):
    """How well a probe predicts."""

    r2: float  #: 1 - squared error / variance, both summed over the target's coordinates
    median_error: float  #: median over scenes of the Euclidean distance, in the target's unit (metres)


def score(predicted: NDArray[np.floating], truth: NDArray[np.floating]) -> ProbeScore:
    """Compare predictions (N, T) with the truth (N, T)."""
    error = predicted - truth
    variance = np.square(truth - truth.mean(0)).sum()
    r2 = 1 - np.square(error).sum() / max(float(variance), 1e-12)
    return ProbeScore(float(r2), float(np.median(np.linalg.norm(error, axis=1))))


def probe(
    fit_vectors: NDArray[np.floating],
    fit_targets: NDArray[np.floating],
    vectors: NDArray[np.floating],
    targets: NDArray[np.floating],
) -> ProbeScore:
    """Fit a ridge probe on one set of scenes and score it on another."""
    return score(fit_ridge(fit_vectors, fit_targets).predict(vectors), targets)


def scene_share(vectors: NDArray[np.floating]) -> float:
    """The share of the variance of single-view vectors (scenes, views, D) that belongs to the scene, in [0, 1].

    The intraclass correlation of a one-way analysis of variance (Shrout and Fleiss 1979, ICC(1)), variances summed
    over dimensions. Zero: the vector says where the camera is, or nothing, but not what it sees.
    """
    scenes, views, _ = vectors.shape
    if scenes < 2 or views < 2:
        raise ValueError(f"needs at least two scenes and two views of each, got {scenes} and {views}")
    means = vectors.mean(1)
    between = views * np.square(means - means.mean(0)).sum() / (scenes - 1)
    within = np.square(vectors - means[:, None]).sum() / (scenes * (views - 1))
    return float(np.clip((between - within) / max(between + (views - 1) * within, 1e-12), 0, 1))


class ProbeRow(NamedTuple):
    """One line of a probe's table."""

    quantity: str  #: name of the state group
    views: int  #: how many the vector was made of
    r2: float
    median_error_cm: float


def probe_encoder(
    encoder: SceneEncoder,
    views: Views,
    states: NDArray[np.floating],
    groups: Mapping[str, slice],
    counts: Sequence[int] = (1, 2, 3),
) -> list[ProbeRow]:
    """Ridge probes from a frozen encoder to each named quantity, for several numbers of views.

    Args:
        encoder: what is judged.
        views: (N, K) arrays of scenes that the encoder was not trained on; the first half fits, the second scores.
        states: (N, S) ground truth, metres.
        groups: where each quantity lies in a state.
        counts: numbers of views; those above K are left out.
    """
    half = len(states) // 2
    rows = []
    for count in counts:
        if count > views.images.shape[1]:
            continue
        vectors = encode_all(encoder, Views(views.images[:, :count], views.poses[:, :count]))
        for name, part in groups.items():
            truth = states[:, part]
            result = probe(vectors[:half], truth[:half], vectors[half:], truth[half:])
            rows.append(ProbeRow(name, count, result.r2, 100 * result.median_error))
    return rows


def encode_all(encoder: SceneEncoder, views: Views, batch: int = 256) -> NDArray[np.float32]:
    """The vectors (N, D) of ``views`` (N, K), numpy arrays, ``batch`` scenes at a time."""
    parts = []
    for start in range(0, len(views.images), batch):
        images = torch.from_numpy(np.ascontiguousarray(views.images[start : start + batch]))
        poses = torch.from_numpy(np.ascontiguousarray(views.poses[start : start + batch]))
        parts.append(encoder.encode(images, poses).float().cpu().numpy())
    return np.concatenate(parts)
