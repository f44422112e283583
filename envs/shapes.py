"""Seven shapes in five sizes that any geom of a compiled model can take on, without compiling again.

A room's object is one geom of a mocap body. What the compiler works out for a geom of each shape and size is worked
out once, in a model of its own, and copied into the object's geom whenever it changes shape.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import mujoco
import numpy as np
from numpy.typing import NDArray

#: Metres: an object of this size stands inside a circle of this radius about its body's origin.
SIZES: Final = (0.30, 0.36, 0.42, 0.48, 0.54)

_GEOM = mujoco.mjtGeom
#: Primitives: type, and half-extents for size 1 as MuJoCo has them (sphere, capsule and cylinder: radius first).
_PRIMITIVES: Final = {
    "box": (_GEOM.mjGEOM_BOX, (0.7, 0.7, 0.7)),
    "sphere": (_GEOM.mjGEOM_SPHERE, (0.85, 0.0, 0.0)),
    "cylinder": (_GEOM.mjGEOM_CYLINDER, (0.7, 0.8, 0.0)),
    "capsule": (_GEOM.mjGEOM_CAPSULE, (0.55, 0.6, 0.0)),
}
_MESHES: Final = ("cone", "icosahedron", "prism")
#: The names of the shapes; a shape's number is its place here.
SHAPES: Final = (*_PRIMITIVES, *_MESHES)
#: Sides of the polygon that a cone stands on.
_CONE_SIDES: Final = 24

#: What tells one shape and size from another in a compiled model; ``sameframe`` is whether ``pos`` and ``quat`` count.
_FIELDS: Final = (
    *("geom_type", "geom_dataid", "geom_size", "geom_aabb", "geom_rbound"),
    *("geom_pos", "geom_quat", "geom_sameframe"),
)


def add_meshes(spec: mujoco.MjSpec) -> None:
    """Give ``spec``, which must have no meshes yet, those that :func:`take_shape` needs."""
    for name in _MESHES:
        points, faces = _mesh(name)
        for index, size in enumerate(SIZES):
            # A vertex for each corner of each face: shared ones would get averaged normals, and round off the edges.
            spec.add_mesh(
                name=f"{name}_{index}",
                uservert=(size * points[faces]).ravel(),
                userface=np.arange(faces.size),
                usernormal=_normals(name, points, faces).ravel(),
            )


def add_shape(body: mujoco.MjsBody, name: str, shape: str, size: int) -> mujoco.MjsGeom:
    """Add a geom called ``name``, of shape ``shape`` and size number ``size``, that stands on the body's xy plane."""
    height = half_height(SHAPES.index(shape), size)
    if shape in _PRIMITIVES:
        kind, extents = _PRIMITIVES[shape]
        return body.add_geom(name=name, type=kind, size=SIZES[size] * np.array(extents), pos=[0, 0, height])
    return body.add_geom(name=name, type=_GEOM.mjGEOM_MESH, meshname=f"{shape}_{size}", pos=[0, 0, height])


def half_height(shape: int, size: int) -> float:
    """Metres from the floor to the middle of an object of shape number ``shape`` and size number ``size``."""
    return _unit_half_height(SHAPES[shape]) * SIZES[size]


def take_shape(model: mujoco.MjModel, geom: int, shape: int, size: int) -> None:
    """Make geom number ``geom`` the one that :func:`add_shape` would have added.

    ``model`` must hold the meshes of :func:`add_meshes`, and ``geom`` must be alone on a body without mass.
    """
    row = shape * len(SIZES) + size
    for field, values in _catalogue().items():
        getattr(model, field)[geom] = values[row]


@cache
def _catalogue() -> dict[str, NDArray[np.generic]]:
    """For each field of a geom, its values for all shapes times sizes."""
    spec = mujoco.MjSpec()
    add_meshes(spec)
    for shape in SHAPES:
        for size in range(len(SIZES)):
            add_shape(spec.worldbody, f"{shape}_{size}", shape, size)
    model = spec.compile()
    return {field: getattr(model, field).copy() for field in _FIELDS}


@cache
def _unit_half_height(shape: str) -> float:
    if shape in _PRIMITIVES:
        _, (radius, length, third) = _PRIMITIVES[shape]
        return {"box": third, "sphere": radius, "cylinder": length, "capsule": radius + length}[shape]
    return float(_mesh(shape)[0][:, 2].max())


def _mesh(name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points (N, 3) and triangles (M, 3), seen counter-clockwise from outside; half as high below z = 0 as above."""
    if name == "cone":
        return _cone()
    return _icosahedron() if name == "icosahedron" else _prism()


def _cone() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    angles = np.linspace(0, 2 * np.pi, _CONE_SIDES, endpoint=False)
    rim = np.stack([0.85 * np.cos(angles), 0.85 * np.sin(angles), np.full(_CONE_SIDES, -0.9)], axis=1)
    tip, middle = _CONE_SIDES, _CONE_SIDES + 1
    here = np.arange(_CONE_SIDES)
    there = (here + 1) % _CONE_SIDES
    side = np.stack([here, there, np.full_like(here, tip)], axis=1)
    base = np.stack([there, here, np.full_like(here, middle)], axis=1)
    return np.vstack([rim, [0.0, 0.0, 0.9], [0.0, 0.0, -0.9]]), np.vstack([side, base])


def _icosahedron() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """On one of its faces: two triangles above and below, and between them six points in zigzag."""
    golden = (1 + np.sqrt(5)) / 2
    points = np.array([[0, a, b * golden] for a in (-1, 1) for b in (-1, 1)])
    points = np.vstack([points, points[:, [2, 0, 1]], points[:, [1, 2, 0]]])
    near = np.isclose(np.linalg.norm(points[:, None] - points, axis=-1), 2)
    faces = np.array(
        [(i, j, k) for i in range(12) for j in range(i) for k in range(j) if near[i, j] and near[j, k] and near[i, k]]
    )
    up = points[faces[0]].sum(0)
    up /= np.linalg.norm(up)
    side = np.cross(up, points[faces[0][0]])
    side /= np.linalg.norm(side)
    turned = points @ np.stack([side, np.cross(up, side), up], axis=1)
    return 0.95 * turned / np.linalg.norm(turned[0]), _outwards(turned, faces)


def _prism() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Lying on one of its rectangles, its length along y."""
    half, top = 0.68, 0.68 * np.sqrt(3) / 2
    points = np.array([[x, y, z] for y in (-0.7, 0.7) for x, z in ((-half, -top), (half, -top), (0.0, top))])
    faces = np.array([[0, 1, 2], [3, 4, 5], [0, 1, 3], [1, 3, 4], [1, 2, 4], [2, 4, 5], [2, 0, 5], [0, 5, 3]])
    return points, _outwards(points, faces)


def _outwards(points: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """The faces of a convex body about the origin, each counter-clockwise as seen from outside."""
    a, b, c = points[faces].swapaxes(0, 1)
    inwards = np.einsum("ij,ij->i", np.cross(b - a, c - a), a) < 0
    return np.where(inwards[:, None], faces[:, ::-1], faces)


def _normals(name: str, points: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """A normal for each corner of each face (M, 3, 3): the face's own, but round a cone's side."""
    a, b, c = points[faces].swapaxes(0, 1)
    normals = np.repeat(np.cross(b - a, c - a)[:, None], 3, axis=1)
    if name == "cone":
        around = points[faces[:_CONE_SIDES]] * [1.0, 1.0, 0.0]
        around[:, 2] = (around[:, 0] + around[:, 1]) / 2  # at the tip, the middle of its triangle
        slope = 0.85 / 1.8
        length = np.linalg.norm(around, axis=-1, keepdims=True)
        normals[:_CONE_SIDES] = around / length + [0.0, 0.0, slope]
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)
