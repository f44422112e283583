"""Image grids: what a person would rather see than a number."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gqn_rl.data import BlockPlan, look, set_scene
from gqn_rl.files import atomic_path
from gqn_rl.types import Image, SceneSource

#: White pixels between tiles.
GAP = 2
#: Height of a line of labels, pixels.
LINE = 14


def grid(rows: list[list[NDArray[np.uint8]]], scale: int = 2, labels: Sequence[str] = ()) -> NDArray[np.uint8]:
    """Tiles (H, W, 3) in rows, enlarged ``scale`` times; rows may differ in length. Returns one image.

    With ``labels``, one for each column, there is a line of text above, :data:`LINE` pixels high; what is too long for
    its column is cut.
    """
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    canvas = np.full(
        (len(rows) * (height * scale + GAP) - GAP, columns * (width * scale + GAP) - GAP, 3), 255, np.uint8
    )
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            y, x = i * (height * scale + GAP), j * (width * scale + GAP)
            canvas[y : y + height * scale, x : x + width * scale] = tile.repeat(scale, 0).repeat(scale, 1)
    if not labels:
        return canvas
    if len(labels) != columns:
        raise ValueError(f"{columns} columns need as many labels, got {len(labels)}")
    line = np.full((LINE, canvas.shape[1], 3), 255, np.uint8)
    for j, label in enumerate(labels):
        x = j * (width * scale + GAP)
        line[:, x : x + width * scale] = _text(label, width * scale)
    return np.concatenate([line, canvas])


def _text(text: str, width: int) -> NDArray[np.uint8]:
    """Black on white, (LINE, ``width``, 3)."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width, LINE), "white")
    ImageDraw.Draw(picture).text((1, 1), text, fill="black")
    return np.asarray(picture)


def contact_sheet(source: SceneSource, scenes: int, views: int, seed: int) -> list[list[Image]]:
    """For each of ``scenes`` random scenes a row of ``views`` pictures (H, W, 3) uint8.

    They are the first that a recording of independent scenes with this seed would hold.
    """
    rows = []
    for scene in range(scenes):
        set_scene(source, BlockPlan(), seed, scene)
        rng = np.random.default_rng([seed, scene, 1])
        rows.append(list(look(source, [source.sample_pose(rng) for _ in range(views)]).images))
    return rows


def mark(image: NDArray[np.uint8], places: NDArray[np.floating], scale: int = 4) -> NDArray[np.uint8]:
    """``image`` (H, W, 3) enlarged ``scale`` times, with a square of a colour of its own at each of ``places`` (N, 2).

    Places are (row, column) in pixels, (0, 0) the centre of the first; those that are NaN or outside are left out.
    """
    marked = image.repeat(scale, 0).repeat(scale, 1)
    half = max(1, scale // 2)
    for index, (row, column) in enumerate(places):
        if not (-0.5 <= row < image.shape[0] - 0.5 and -0.5 <= column < image.shape[1] - 0.5):
            continue
        y, x = int((row + 0.5) * scale), int((column + 0.5) * scale)
        color = colorsys.hsv_to_rgb(index / len(places), 1.0, 1.0)
        marked[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = to_uint8(np.array(color))
    return marked


def to_uint8(images: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colours in [0, 1], clipped, to uint8."""
    return (np.clip(images, 0, 1) * 255).round().astype(np.uint8)


def save_png(path: str | Path, image: NDArray[np.uint8]) -> None:
    """Write an image (H, W, 3) atomically."""
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
