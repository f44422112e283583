"""What ``probe`` shows: a table, a CSV, and held-out scenes drawn from sides that the encoder has not seen."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gqn_rl.encoder import GQNEncoder
from gqn_rl.files import atomic_path
from gqn_rl.pictures import grid, save_png, to_uint8
from gqn_rl.probes import ProbeRow
from gqn_rl.types import Views


class Drawing(NamedTuple):
    """How well views from unseen sides are imagined, from three context views."""

    prior_mse: float  #: of the prior-mean image, colours in [0, 1]
    mean_image_mse: float  #: of the mean image of all scenes
    psnr: float  #: dB, peak 1


def judge_drawing(encoder: GQNEncoder, views: Views, scenes: int = 1_000) -> Drawing:
    """Draw the last of each scene's K views from the others; ``views`` is (N, K)."""
    count = min(scenes, len(views.images))
    truth = views.images[:count, -1].astype(np.float32) / 255
    drawn = np.concatenate(
        [_imagine(encoder, Views(views.images[i : i + 64], views.poses[i : i + 64])) for i in range(0, count, 64)]
    )[:count]
    mse = float(np.square(drawn - truth).mean())
    return Drawing(mse, float(np.square(truth - truth.mean(0)).mean()), float(-10 * np.log10(mse)))


def print_table(rows: Sequence[ProbeRow], drawing: Drawing) -> None:
    """Print the probes, and how well unseen views are drawn."""
    print(f"{'quantity':<12}{'views':>6}{'R2':>8}{'median error':>15}")
    for row in rows:
        print(f"{row.quantity:<12}{row.views:>6}{row.r2:>8.3f}{row.median_error_cm:>12.1f} cm")
    print(
        f"unseen views from 3 context views: MSE {drawing.prior_mse:.5f}, "
        f"{drawing.prior_mse / drawing.mean_image_mse:.0%} of the mean image's, PSNR {drawing.psnr:.1f} dB"
    )


def write_table(path: Path, rows: Sequence[ProbeRow]) -> None:
    """Write the probes as CSV."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(ProbeRow._fields)
        writer.writerows(rows)


def write_gallery(path: Path, encoder: GQNEncoder, views: Views, scenes: int = 8) -> None:
    """Write a PNG: a scene a row; its context views | the unseen view | the prior-mean image of it."""
    chosen = Views(views.images[:scenes], views.poses[:scenes])
    drawn = _imagine(encoder, chosen)
    rows = [[*chosen.images[i], to_uint8(drawn[i])] for i in range(len(drawn))]
    save_png(path, grid(rows))


def _imagine(encoder: GQNEncoder, views: Views) -> NDArray[np.float32]:
    """Prior-mean images (N, H, W, 3) of each scene's last view, from its others."""
    images, poses = torch.from_numpy(views.images), torch.from_numpy(views.poses)
    with torch.inference_mode():
        scene = encoder.gqn.represent(Views(images[:, :-1], poses[:, :-1]))
        return encoder.gqn.generate(scene, poses[:, -1:], deterministic=True)[0, :, 0].cpu().numpy()
