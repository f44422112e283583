"""How a room is built: floor, walls, sky, lamp, and a geom for each object.

Textures are small pictures that are computed, so that nothing has to be shipped. Mazes are made of the same materials
and stand in the same light.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from gqn_rl.envs.shapes import SHAPES, add_meshes, add_shape

#: Metres from the middle to a wall; the data sets' rooms are 7 x 7 units.
HALF: Final = 3.5
WALL_HEIGHT: Final = 2.6
#: Objects in a room at most.
SLOTS: Final = 3
#: Metres that count as one in what a policy sees, so that positions are of order one.
LENGTH_UNIT: Final = 2.0
#: Degrees, vertical. Wider than MuJoCo's 45, so that a camera at a wall sees most of the room.
FOVY: Final = 60.0

#: Intensity of a light that moves with the camera: faces that the lamp does not reach differ in it.
HEADLIGHT: Final = 0.1
#: The light. At most 1 in all: beyond it colours are clipped, and with shadows in another way than without.
LIGHT: Final = (0.85, 1.0)
#: The lamp's part of it, and degrees of the lamp above the horizon. The rest comes from everywhere.
LAMP: Final = (0.3, 0.5)
LAMP_ELEVATION: Final = (45.0, 75.0)

#: Geom groups: what every picture shows, what ``render()`` adds, and what no picture shows.
COMMON_GROUP: Final = 0
DETAILED_GROUP: Final = 1
HIDDEN_GROUP: Final = 5

#: Pixels of a texture's side.
SIDE: Final = 64

Color = tuple[float, float, float]
#: Where a pixel is, in [0, 1): its column and its row, each (SIDE, SIDE), to what is painted there, in [0, 1].
Pattern = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def _bricks(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    row = np.floor(v * 4)
    along, across = (u * 2 + row / 2) % 1, (v * 4) % 1
    return ((along < 0.06) | (across < 0.12)).astype(np.float64)


def _panels(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    edge = np.maximum(np.abs(u - 0.5), np.abs(v - 0.5))
    return np.where(edge > 0.46, 1.0, np.where((edge > 0.3) & (edge < 0.34), 0.6, 0.0))


def _stripes(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((u * 2) % 1 < 0.5).astype(np.float64)


def _dots(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    corner = np.hypot(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
    return ((np.hypot(u - 0.5, v - 0.5) < 0.2) | (corner < 0.2)).astype(np.float64)


def _zigzag(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((v * 2 + np.abs(u - 0.5)) % 1 < 0.4).astype(np.float64)


def _checks(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((u < 0.5) ^ (v < 0.5)).astype(np.float64)


def _planks(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    board = np.floor(v * 4)
    seam = ((v * 4) % 1 < 0.1) | ((u + board * 0.37) % 1 < 0.03)
    return np.where(seam, 1.0, 0.2 * (board * 3 % 4) / 3)


def _diamonds(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    return (np.abs(u - 0.5) + np.abs(v - 0.5) < 0.35).astype(np.float64)


#: Name: what is painted, the ground's colour, the paint's, and how often it repeats along 7 metres and up the wall.
WALLS: Final[dict[str, tuple[Pattern, Color, Color, tuple[float, float]]]] = {
    "wall_bricks": (_bricks, (0.85, 0.42, 0.32), (0.95, 0.87, 0.78), (5, 2)),
    "wall_panels": (_panels, (0.45, 0.65, 0.9), (0.25, 0.38, 0.68), (5, 2)),
    "wall_stripes": (_stripes, (1.0, 0.9, 0.58), (0.95, 0.74, 0.35), (5, 1)),
    "wall_zigzag": (_zigzag, (0.6, 0.85, 0.55), (0.36, 0.62, 0.42), (7, 3)),
    "wall_dots": (_dots, (0.76, 0.55, 0.82), (0.97, 0.88, 1.0), (8, 3)),
}
FLOORS: Final[dict[str, tuple[Pattern, Color, Color, tuple[float, float]]]] = {
    "floor_checks": (_checks, (0.88, 0.88, 0.85), (0.5, 0.52, 0.56), (5, 5)),
    "floor_planks": (_planks, (0.86, 0.62, 0.4), (0.5, 0.33, 0.2), (3, 3)),
    "floor_diamonds": (_diamonds, (0.45, 0.6, 0.66), (0.88, 0.8, 0.58), (6, 6)),
}


def room_spec() -> mujoco.MjSpec:
    """A room, not compiled yet, with a geom for each object: ``object_0`` and so on, boxes at first."""
    spec = empty_room_spec()
    for i in range(SLOTS):
        body = spec.worldbody.add_body(name=f"object_{i}", mocap=True)
        add_shape(body, f"object_{i}", SHAPES[0], 0)
    return spec


def empty_room_spec() -> mujoco.MjSpec:
    """A room without objects, not compiled yet, that knows the meshes of all shapes."""
    spec = open_spec("room", far=25.0, lit=6.0)
    _add_surfaces(spec)
    add_meshes(spec)
    return spec


def open_spec(name: str, *, far: float, lit: float) -> mujoco.MjSpec:
    """Nothing but a sky and a lamp. Metres: cameras see ``far``, and shadows fall up to ``lit`` off the origin."""
    spec = mujoco.MjSpec()
    spec.modelname = name
    spec.visual.headlight.diffuse = [HEADLIGHT] * 3
    spec.visual.headlight.specular = [0.0] * 3
    spec.visual.map.znear, spec.visual.map.zfar = 0.05, far
    spec.visual.map.shadowclip = lit  # the extent being 1
    spec.stat.extent = 1.0
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.45, 0.6, 0.8],
        rgb2=[0.8, 0.88, 0.95],
        width=32,
        height=32,
    )
    spec.worldbody.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, specular=[0.2] * 3, castshadow=True)
    return spec


def add_material(spec: mujoco.MjSpec, name: str, repeat: tuple[float, float], *, per_metre: bool = False) -> None:
    """One of ``WALLS`` or ``FLOORS``, repeated so often along a surface's two sides, or along a metre of each."""
    pattern, ground, figure, _ = {**WALLS, **FLOORS}[name]
    texture = spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=SIDE, height=SIDE, nchannel=3)
    texture.data = _paint(pattern, ground, figure).tobytes()
    material = spec.add_material(name=name, texrepeat=repeat, texuniform=per_metre, specular=0.0)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


def draw_light(
    model: mujoco.MjModel, rng: np.random.Generator, *, distance: float, lamp: tuple[float, float] = LAMP
) -> None:
    """Draw where the light of a compiled ``open_spec`` comes from, and how strong it is.

    Shadows are drawn from ``distance`` (metres) off the origin, which must lie outside of all that casts them; ``lamp``
    is the least and the largest part of the light that comes from there.
    """
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(*LAMP_ELEVATION))
    towards = np.array([*(np.cos(elevation) * np.array([np.cos(azimuth), np.sin(azimuth)])), np.sin(elevation)])
    model.light_dir[0] = -towards
    model.light_pos[0] = distance * towards
    model.light_diffuse[0] = rng.uniform(*lamp)
    model.vis.headlight.ambient[:] = rng.uniform(*LIGHT) - HEADLIGHT - model.light_diffuse[0]


def _add_surfaces(spec: mujoco.MjSpec) -> None:
    """Floor, four walls, and their materials."""
    for name, (_, _, _, repeat) in {**WALLS, **FLOORS}.items():
        add_material(spec, name, repeat)
    plane, world = mujoco.mjtGeom.mjGEOM_PLANE, spec.worldbody
    world.add_geom(
        name="floor", type=plane, size=[HALF, HALF, 0.1], material=next(iter(FLOORS)), contype=0, conaffinity=0
    )
    for index, (x, y) in enumerate([(1, 0), (-1, 0), (0, 1), (0, -1)]):
        world.add_geom(
            name=f"wall_{index}",
            type=plane,
            size=[HALF, WALL_HEIGHT / 2, 0.1],
            pos=[x * HALF, y * HALF, WALL_HEIGHT / 2],
            quat=facing(-x, -y),
            material=next(iter(WALLS)),
        )


def facing(x: float, y: float) -> NDArray[np.float64]:
    """Quaternion (4,) that turns a plane's normal to the horizontal direction (x, y), its own y axis upwards."""
    normal, up = np.array([x, y, 0.0]), np.array([0.0, 0.0, 1.0])
    matrix = np.stack([np.cross(up, normal), up, normal], axis=1)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, matrix.ravel())
    return quat


def _paint(pattern: Pattern, ground: Color, figure: Color) -> NDArray[np.uint8]:
    """A picture (SIDE, SIDE, 3) uint8 of a pattern in two colours (red, green, blue in [0, 1])."""
    place = (np.arange(SIDE) + 0.5) / SIDE
    amount = pattern(*np.meshgrid(place, place))[..., None]
    color = (1 - amount) * np.array(ground) + amount * np.array(figure)
    return np.rint(255 * np.clip(color, 0, 1)).astype(np.uint8)
