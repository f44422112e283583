"""How mazes are laid out: rooms joined by corridors on a grid of square cells, every cell reachable from every other.

The GQN's mazes are described by Eslami et al. (Science 2018, supplementary materials): an underlying grid of 7 x 7,
one or two rooms, and corridors that join them. Two generators make such layouts. Ours (``builtin``) needs numpy only,
and its layout for a seed is the same on every machine. ``labmaze`` is DeepMind Lab's, as the package of that name has
it (https://github.com/google-deepmind/labmaze): the same for a seed wherever that package is of one version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Layouts = Literal["builtin", "labmaze"]
Cell = tuple[int, int]

#: Cells along a side without the outer walls. Odd: places that corridors join, and walls between them, alternate.
SIZES: Final = tuple(range(7, 22, 2))
#: Cells along a room's two sides.
ROOMS: Final = ((3, 3), (3, 5), (5, 3))
#: Cells of the grid for each room that is tried: two rooms on the GQN's grid of 7 x 7.
CELLS_PER_ROOM: Final = 24
#: Places that are tried for a room; if each is taken, the maze has a room less.
ROOM_TRIES: Final = 10
#: Probability that a wall between two places is opened although they are connected, so that there are ways round.
EXTRA_OPENING: Final = 0.15
#: Probability that a corridor that leads nowhere is filled.
FILLING: Final = 0.3
#: Share of open cells below which a maze is drawn anew: filling corridors may leave little more than a room.
LEAST_OPEN: Final = 0.4

_SIDES: Final = ((1, 0), (-1, 0), (0, 1), (0, -1))


@dataclass(frozen=True)
class MazeLayout:
    """A grid of (N, N) cells, N odd, outer walls included; the first index is along x, the second along y."""

    walls: NDArray[np.bool_]  #: (N, N) whether a cell is wall
    rooms: NDArray[np.int64]  #: (N, N) number of the room that a cell belongs to, from 1; 0: corridor or wall

    @property
    def open_cells(self) -> NDArray[np.int64]:
        """The cells (M, 2) that are not wall, in the grid's order."""
        return np.argwhere(~self.walls)

    def neighbours(self, cell: Cell) -> list[Cell]:
        """The open cells that share a side with ``cell``, which must not be on the grid's edge."""
        i, j = cell
        return [(i + di, j + dj) for di, dj in _SIDES if not self.walls[i + di, j + dj]]

    def steps_to(self, targets: Iterable[Cell]) -> NDArray[np.float64]:
        """For every cell (N, N), how many steps from cell to cell it takes to the nearest target; infinite if none."""
        steps = np.full(self.walls.shape, np.inf)
        frontier = list(targets)
        for cell in frontier:
            steps[cell] = 0
        for cell in frontier:  # grows while it is walked: breadth first
            for other in self.neighbours(cell):
                if steps[other] == np.inf:
                    steps[other] = steps[cell] + 1
                    frontier.append(other)
        return steps

    def __str__(self) -> str:
        """As the map shows it, y upwards: ``#`` wall, ``.`` corridor, a room's number."""
        signs = np.where(self.walls, "#", np.where(self.rooms > 0, self.rooms.astype(str), "."))
        return "\n".join("".join(row) for row in signs.T[::-1])


def draw_layout(layouts: Layouts, size: int, rng: np.random.Generator) -> MazeLayout:
    """A random maze of ``size`` x ``size`` cells (one of ``SIZES``) within outer walls, by the generator of that name.

    Raises ``ModuleNotFoundError`` if that generator's package is not installed.
    """
    while True:
        layout = _GENERATORS[layouts](size, rng)
        if len(layout.open_cells) >= LEAST_OPEN * size * size:
            return layout


# Ours -----------------------------------------------------------------------------------------------------------


def _builtin(size: int, rng: np.random.Generator) -> MazeLayout:
    """Rooms at random places, then a random spanning tree of all places (Kruskal's), then some walls and ends less."""
    walls = np.ones((size + 2, size + 2), bool)
    walls[1:-1:2, 1:-1:2] = False
    rooms = _place_rooms(walls, rng)
    between = [cell for cell in np.ndindex(walls.shape) if _is_between(cell, size)]
    root = {cell: cell for cell in np.ndindex(walls.shape)}
    for cell in between:
        if rooms[cell]:
            _join(root, *_ends(cell))
    for index in rng.permutation(len(between)):
        cell = between[index]
        one, other = _ends(cell)
        if not rooms[cell] and (_join(root, one, other) or rng.random() < EXTRA_OPENING):
            walls[cell] = False
    layout = MazeLayout(walls, rooms)
    _fill_ends(layout, rng)
    return layout


def _place_rooms(walls: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Open rooms in ``walls`` (N, N), which keep a wall's width from each other, and number them (N, N)."""
    size = len(walls) - 2
    rooms = np.zeros(walls.shape, np.int64)
    count = 0
    for _ in range(_room_count(size)):
        for _ in range(ROOM_TRIES):
            sides = np.array(ROOMS[rng.integers(len(ROOMS))])
            i, j = 1 + 2 * rng.integers((size - sides) // 2 + 1)
            if not rooms[i - 1 : i + sides[0] + 1, j - 1 : j + sides[1] + 1].any():
                count += 1
                inside = (slice(i, i + sides[0]), slice(j, j + sides[1]))
                rooms[inside], walls[inside] = count, False
                break
    return rooms


def _room_count(size: int) -> int:
    return size * size // CELLS_PER_ROOM


def _is_between(cell: Cell, size: int) -> bool:
    """Whether ``cell`` lies between two places that corridors join; places have two odd indices."""
    i, j = cell
    return (i + j) % 2 == 1 and 1 <= i <= size and 1 <= j <= size


def _ends(cell: Cell) -> tuple[Cell, Cell]:
    """The two places that ``cell`` lies between."""
    i, j = cell
    return ((i - 1, j), (i + 1, j)) if i % 2 == 0 else ((i, j - 1), (i, j + 1))


def _join(root: dict[Cell, Cell], one: Cell, other: Cell) -> bool:
    """Put the trees of two places together; whether they were apart."""
    one, other = _root(root, one), _root(root, other)
    root[one] = other
    return one != other


def _root(root: dict[Cell, Cell], cell: Cell) -> Cell:
    while root[cell] != cell:
        root[cell] = cell = root[root[cell]]
    return cell


def _fill_ends(layout: MazeLayout, rng: np.random.Generator) -> None:
    """Fill some of the corridors that lead nowhere, back to where they branch off."""
    for end in [(int(i), int(j)) for i, j in layout.open_cells]:
        if rng.random() >= FILLING:
            continue
        cell = end
        while not layout.walls[cell] and not layout.rooms[cell] and len(layout.neighbours(cell)) == 1:
            (back,) = layout.neighbours(cell)
            layout.walls[cell] = True
            cell = back


# DeepMind Lab's -------------------------------------------------------------------------------------------------


def _labmaze(size: int, rng: np.random.Generator) -> MazeLayout:
    try:
        from labmaze import RandomMaze
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "for layouts='labmaze', the extra `mazes` is needed: pip install 'gqn-rl[mazes]'; "
            "layouts='builtin' needs nothing"
        ) from None
    maze = RandomMaze(
        height=size + 2,
        width=size + 2,
        max_rooms=_room_count(size),
        room_min_size=np.min(ROOMS),
        room_max_size=np.max(ROOMS),
        extra_connection_probability=EXTRA_OPENING,
        simplify=True,
        random_seed=int(rng.integers(1, 2**31)),
    )
    names = np.array(maze.variations_layer)  # A, B, ... for rooms, a dot elsewhere
    rooms = np.where(names == ".", 0, np.vectorize(ord)(names) - ord("A") + 1)
    return MazeLayout(np.array(maze.entity_layer) == "*", rooms)


_GENERATORS: Final[dict[Layouts, Callable[[int, np.random.Generator], MazeLayout]]] = {
    "builtin": _builtin,
    "labmaze": _labmaze,
}
