"""How a maze is built: a block, a solid box and a piece of floor for each cell of the grid, shown or hidden at will.

A new maze shows other blocks of the same compiled model, so nothing is compiled or uploaded again.
"""

from __future__ import annotations

from typing import Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from gqn_rl.envs.maze_layout import MazeLayout
from gqn_rl.envs.room_model import (
    COMMON_GROUP,
    FLOORS,
    HIDDEN_GROUP,
    WALLS,
    add_material,
    draw_light,
    open_spec,
)

#: Metres along a cell's side, and up a wall.
CELL: Final = 1.0
WALL_HEIGHT: Final = 1.0
#: The lamp's part of the light: less than in a room, since most of what one sees is walls, half of them averted.
LAMP: Final = (0.2, 0.35)
#: Metres that the floors of rooms lie above that of corridors, enough for a depth buffer to tell them apart.
STEP: Final = 0.004


def maze_spec(cells: int) -> mujoco.MjSpec:
    """A maze of ``cells`` x ``cells`` cells, outer walls included, not compiled yet: all of it wall."""
    width = cells * CELL
    spec = open_spec("maze", far=3 * width, lit=0.75 * width)
    for name in (*WALLS, *FLOORS):
        add_material(spec, name, (1, 1), per_metre=name in FLOORS)
    _add_block(spec)
    wall, floor = next(iter(WALLS)), next(iter(FLOORS))
    world, plane, nothing = spec.worldbody, mujoco.mjtGeom.mjGEOM_PLANE, {"contype": 0, "conaffinity": 0}
    world.add_geom(name="floor", type=plane, size=[width / 2, width / 2, 0.1], material=floor, **nothing)
    for i, j in np.ndindex(cells, cells):
        x, y = cell_middle(np.array([i, j]), cells)
        at, half = [x, y, WALL_HEIGHT / 2], [CELL / 2, CELL / 2, WALL_HEIGHT / 2]
        block = {"type": mujoco.mjtGeom.mjGEOM_MESH, "meshname": "block", "material": wall}
        world.add_geom(name=f"block_{i}_{j}", pos=at, **block, **nothing)
        world.add_geom(name=f"box_{i}_{j}", type=mujoco.mjtGeom.mjGEOM_BOX, size=half, pos=at, group=HIDDEN_GROUP)
        tile = {"type": plane, "size": [CELL / 2, CELL / 2, 0.1], "material": floor, "group": HIDDEN_GROUP}
        world.add_geom(name=f"tile_{i}_{j}", pos=[x, y, STEP], **tile, **nothing)
    return spec


def cell_middle(cell: NDArray[np.integer], cells: int) -> NDArray[np.float64]:
    """Where the middle of a cell (..., 2) of a grid of ``cells`` x ``cells`` is, metres (..., 2)."""
    return CELL * (cell.astype(np.float64) - (cells - 1) / 2)


def cell_at(place: NDArray[np.floating], cells: int) -> NDArray[np.int64]:
    """The cell (..., 2) of a grid of ``cells`` x ``cells`` that holds ``place`` (..., 2), metres."""
    return np.floor(place / CELL + cells / 2).astype(np.int64)


class MazeModel:
    """What of a compiled maze changes with its layout and its looks."""

    def __init__(self, model: mujoco.MjModel, cells: int) -> None:
        def grid(kind: str) -> NDArray[np.int64]:
            ids = [model.geom(f"{kind}_{i}_{j}").id for i, j in np.ndindex(cells, cells)]
            return np.array(ids).reshape(cells, cells)

        self._model, self._cells = model, cells
        self._floor = model.geom("floor").id
        self._blocks, self._boxes, self._tiles = grid("block"), grid("box"), grid("tile")
        #: Of corridors, of the first room, and so on.
        self._walls = np.array([model.material(name).id for name in WALLS])
        self._floors = np.array([model.material(name).id for name in FLOORS])

    def show(self, layout: MazeLayout) -> None:
        """Make walls and floors those of ``layout``."""
        model = self._model
        model.geom_group[self._blocks] = np.where(layout.walls, COMMON_GROUP, HIDDEN_GROUP)
        model.geom_contype[self._boxes] = model.geom_conaffinity[self._boxes] = layout.walls
        model.geom_group[self._tiles] = np.where(layout.rooms > 0, COMMON_GROUP, HIDDEN_GROUP)
        self._paint(layout)

    def draw_looks(self, layout: MazeLayout, rng: np.random.Generator) -> None:
        """Draw light and textures anew: corridors, the first room and the second differ in their walls and floors."""
        self._walls = rng.permutation(np.sort(self._walls))
        self._floors = rng.permutation(np.sort(self._floors))
        self._paint(layout)
        draw_light(self._model, rng, distance=self._cells * CELL, lamp=LAMP)

    def _paint(self, layout: MazeLayout) -> None:
        self._model.geom_matid[self._floor] = self._floors[0]
        self._model.geom_matid[self._tiles] = self._floors[_looks(layout.rooms, len(self._floors))]
        self._model.geom_matid[self._blocks] = self._walls[_looks(_nearby_room(layout), len(self._walls))]


def _looks(rooms: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Which of ``count`` looks each cell has: corridors (room 0) the first, rooms the others in turn."""
    return np.where(rooms > 0, 1 + (rooms - 1) % (count - 1), 0)


def _nearby_room(layout: MazeLayout) -> NDArray[np.int64]:
    """The highest number among the rooms that each cell (N, N) touches, at a side or a corner; 0: none."""
    padded = np.pad(layout.rooms, 1)
    count = len(layout.rooms)
    return np.max([padded[i : i + count, j : j + count] for i in range(3) for j in range(3)], axis=0)


def _add_block(spec: mujoco.MjSpec) -> None:
    """The mesh of a cell's wall, a texture on each of its faces, upright on the sides."""
    half = np.array([CELL / 2, CELL / 2, WALL_HEIGHT / 2])
    ahead = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    up = [(0, 0, 1)] * 4 + [(0, 1, 0)] * 2
    corners, normals, texels = [], [], []
    for normal, above in zip(np.array(ahead), np.array(up), strict=True):
        right = np.cross(above, normal)
        for u, v in ((0, 0), (1, 0), (1, 1), (0, 0), (1, 1), (0, 1)):
            corners.append(half * (normal + (2 * u - 1) * right + (2 * v - 1) * above))
            normals.append(normal)
            texels.append((u, v))
    spec.add_mesh(
        name="block",
        uservert=np.ravel(corners),
        userface=np.arange(len(corners)),
        usernormal=np.ravel(normals).astype(np.float64),
        usertexcoord=np.ravel(texels).astype(np.float64),
    )
