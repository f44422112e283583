"""Pictures for people: what is marked is where it was said to be."""

from __future__ import annotations

import numpy as np
import pytest

from gqn_rl.pictures import LINE, grid, mark


def test_marks_lie_at_their_places_and_nowhere_else() -> None:
    image = np.full((12, 16, 3), 128, np.uint8)
    places = np.array([[2.0, 3.0], [11.0, 15.0], [np.nan, 1.0], [5.0, 40.0]])
    marked = mark(image, places, scale=4)
    assert marked.shape == (48, 64, 3)
    rows, columns = np.nonzero((marked != 128).any(-1))
    blocks = set(zip((rows // 4).tolist(), (columns // 4).tolist(), strict=True))
    assert blocks == {(2, 3), (11, 15)}
    colors = [tuple(marked[4 * row + 2, 4 * column + 2]) for row, column in ((2, 3), (11, 15))]
    assert colors[0] != colors[1]


def test_marking_leaves_the_image_alone() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    mark(image, np.array([[3.0, 3.0]]))
    assert not image.any()


def test_labels_stand_above_their_columns_and_change_nothing_below() -> None:
    rows = [[np.full((16, 20, 3), value, np.uint8) for value in (10, 90, 170)]] * 2
    plain, labelled = grid(rows), grid(rows, labels=("", "a label that is far too long", ""))
    assert np.array_equal(labelled[LINE:], plain)
    columns = np.flatnonzero((labelled[:LINE] != 255).any((0, 2)))
    assert len(columns)
    assert columns.min() >= 42  # 20 pixels, two times, and a gap of 2
    assert columns.max() < 82
    with pytest.raises(ValueError, match="3 columns need as many labels, got 1"):
        grid(rows, labels=("one",))
