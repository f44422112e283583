"""The room that the arms stand in: plain or textured, lit by one lamp."""

from __future__ import annotations

from typing import Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from gqn_rl.envs.room_model import facing

#: Metres, half the room's side, and its height.
ROOM: Final = (3.0, 2.4)

_PLAIN_FLOOR, _PLAIN_WALL = 0, 0


def room_spec(name: str, physics_step: float) -> mujoco.MjSpec:
    """The empty room, not compiled yet; ``physics_step`` in seconds."""
    spec = mujoco.MjSpec()
    spec.modelname = name
    spec.option.timestep = physics_step
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.visual.headlight.ambient = [0.35] * 3
    spec.visual.headlight.diffuse = [0.25] * 3
    spec.visual.headlight.specular = [0.0] * 3
    spec.visual.map.znear, spec.visual.map.zfar = 0.01, 20.0
    spec.visual.map.shadowclip = 2.6  # metres, the extent being 1: the arm, wherever the lamp is
    spec.stat.extent = 1.0
    _add_surfaces(spec)
    return spec


class Appearance:
    """What floor, walls and lamp of a compiled room look like."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._floor, self._walls = model.geom("floor").id, [model.geom(f"wall_{i}").id for i in range(4)]
        self._floor_materials = _materials(model, "floor_")
        self._wall_materials = _materials(model, "wall_")

    def draw(self, data: mujoco.MjData, rng: np.random.Generator, *, textures: bool, light: bool) -> None:
        """Draw ``textures`` and ``light`` anew; what is not drawn is plain, and the light stays."""
        model = self._model
        floor, wall = _PLAIN_FLOOR, _PLAIN_WALL
        if textures:
            floor, wall = int(rng.integers(len(self._floor_materials))), int(rng.integers(len(self._wall_materials)))
        model.geom_matid[self._floor] = self._floor_materials[floor]
        model.geom_matid[self._walls] = self._wall_materials[wall]
        if light:
            # Once the place of a lamp that shines alike from everywhere; drawn still, so that seeds keep their scenes.
            rng.uniform(size=2)
            model.light_diffuse[0] = rng.uniform(0.35, 0.75)
        mujoco.mj_camlight(model, data)


def vivid_color(rng: np.random.Generator) -> NDArray[np.float64]:
    """A saturated colour (3,) of any hue: one channel high, one low, one between."""
    return rng.permutation([rng.uniform(0.75, 1.0), rng.uniform(0.0, 0.15), rng.uniform(0.0, 1.0)])


def _materials(model: mujoco.MjModel, prefix: str) -> list[int]:
    return [i for i in range(model.nmat) if model.material(i).name.startswith(prefix)]


def _add_surfaces(spec: mujoco.MjSpec) -> None:
    """A square room, its plain and its textured materials, and a lamp."""
    half, height = ROOM
    checker, gradient = mujoco.mjtBuiltin.mjBUILTIN_CHECKER, mujoco.mjtBuiltin.mjBUILTIN_GRADIENT
    flat = mujoco.mjtBuiltin.mjBUILTIN_FLAT
    looks = {  # material: builtin texture, first and second colour, repeats over the surface
        # Between the black arm and its light fingers, so that both stand out.
        "floor_plain": (checker, (0.4, 0.47, 0.5), (0.35, 0.42, 0.45), 6),
        "floor_wood": (checker, (0.72, 0.5, 0.3), (0.6, 0.4, 0.22), 10),
        "floor_slate": (checker, (0.35, 0.4, 0.45), (0.45, 0.5, 0.52), 4),
        "wall_plain": (flat, (0.75, 0.8, 0.85), (0.75, 0.8, 0.85), 1),
        "wall_sand": (gradient, (0.85, 0.75, 0.55), (0.65, 0.55, 0.4), 1),
        "wall_sage": (gradient, (0.6, 0.75, 0.6), (0.45, 0.6, 0.5), 1),
        "wall_brick": (checker, (0.7, 0.4, 0.35), (0.6, 0.33, 0.3), 5),
        "wall_dusk": (gradient, (0.5, 0.45, 0.65), (0.35, 0.35, 0.5), 1),
    }
    for name, (builtin, first, second, repeat) in looks.items():
        texture = spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, builtin=builtin, width=64, height=64)
        texture.rgb1, texture.rgb2 = first, second
        material = spec.add_material(name=name, texrepeat=[repeat, repeat], specular=0.0)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    solid = {"contype": 1, "conaffinity": 1}
    plane = mujoco.mjtGeom.mjGEOM_PLANE
    world = spec.worldbody
    world.add_geom(name="floor", type=plane, size=[half, half, 0.1], material="floor_plain", **solid)
    for index, (x, y) in enumerate([(half, 0.0), (-half, 0.0), (0.0, half), (0.0, -half)]):
        world.add_geom(
            name=f"wall_{index}",
            type=plane,
            size=[half, height / 2, 0.1],
            pos=[x, y, height / 2],
            quat=facing(-x / half, -y / half),
            material="wall_plain",
            **solid,
        )
    world.add_light(
        pos=[0.0, 0.0, 2.3],
        dir=[0.0, 0.0, -1.0],
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        diffuse=[0.5] * 3,
        specular=[0.1] * 3,
        castshadow=True,
    )
