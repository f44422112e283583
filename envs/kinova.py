"""The Kinova Jaco with its three-fingered hand, compiled by plain MuJoCo from dm_control's asset files.

The files under ``assets/kinova`` come unchanged from dm_control's wheel (``third_party/kinova``, Kinova's
BSD-style licence beside them). Limits and gains are dm_control's own (``entities/manipulators/kinova``).

Every mesh is there twice: the original is the physical geom (mass, contacts) and what big pictures draw; a copy
decimated by ``scripts/decimate_meshes.py`` weighs nothing, touches nothing, and is what small renders draw, since
at 64x64 pixels nobody sees a 1000-triangle link but every frame pays for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import mujoco
import numpy as np

ASSETS: Final = Path(__file__).resolve().parent / "assets" / "kinova"

ARM_JOINTS: Final = tuple(f"jaco/joint_{i}" for i in range(1, 7))
FINGER_JOINTS: Final = tuple(f"jaco/hand/finger_{i}" for i in range(1, 4))
#: The site between the fingertips: what reaches.
PINCH_SITE: Final = "jaco/hand/pinchsite"

#: Geom groups: what every picture shows, the original meshes, their decimated copies.
COMMON_GROUP: Final = 0
DETAILED_GROUP: Final = 1
SMALL_GROUP: Final = 2

#: rad/s, joints 1-3 then 4-6; imposed by the real robot's firmware (dm_control jaco_arm.py).
MAX_VELOCITY: Final = np.deg2rad([36.0, 36.0, 36.0, 48.0, 48.0, 48.0])
#: N m, from Kinova's KA-75+/KA-58 data sheet (dm_control jaco_arm.py).
MAX_TORQUE: Final = (30.5, 30.5, 30.5, 6.8, 6.8, 6.8)
#: N m s/rad; dm_control's "very rough estimate" (jaco_arm.py).
VELOCITY_GAIN: Final = 500.0
#: rad/s, N m and N m s/rad, dm_control jaco_hand.py.
FINGER_MAX_VELOCITY: Final = 5.0
FINGER_MAX_TORQUE: Final = 1.0
FINGER_GAIN: Final = 5.0
#: Joint angles (rad) of a raised, bent arm with the hand in front of it; the base yaw (first) is free.
HOME: Final = np.array([0.0, 3.4, 2.0, 0.0, 1.5, 0.0])
#: Finger angle (rad) held throughout: half open (the joints' range is 0.15 to 1.35).
FINGER_ANGLE: Final = 0.6


def add_jaco(spec: mujoco.MjSpec) -> None:
    """Add the arm with its hand at the origin of ``spec``, its velocity actuators first (6 arm, then 3 finger)."""
    arm = mujoco.MjSpec.from_file(str(ASSETS / "jaco_arm.xml"))
    hand = mujoco.MjSpec.from_file(str(ASSETS / "jaco_hand.xml"))
    for part in (arm, hand):
        part.meshdir = str(ASSETS / "meshes")
        for site in part.sites:
            site.group = 4  # helper sites are drawn by no picture of ours
        _split_meshes(part)
    # The compiler looks up the sites' material by its old name after attaching (seen in MuJoCo 3.8.1).
    spec.add_material(name="reference_site")
    spec.attach(arm, prefix="jaco/", frame=spec.worldbody.add_frame())
    spec.attach(hand, prefix="jaco/hand/", site=spec.site("jaco/wristsite"))
    for joint, speed, torque in zip(ARM_JOINTS, MAX_VELOCITY, MAX_TORQUE, strict=True):
        _add_velocity_actuator(spec, joint, VELOCITY_GAIN, float(speed), torque)
    for joint in FINGER_JOINTS:
        _add_velocity_actuator(spec, joint, FINGER_GAIN, FINGER_MAX_VELOCITY, FINGER_MAX_TORQUE)


def _split_meshes(part: mujoco.MjSpec) -> None:
    """Put the original mesh geoms into their group and add a decimated, massless, untouchable copy of each."""
    for mesh in list(part.meshes):
        small = part.add_mesh(name=f"{mesh.name}_small")
        small.file = str(ASSETS / "meshes_small" / Path(mesh.file).name)
    for geom in list(part.geoms):
        if geom.type != mujoco.mjtGeom.mjGEOM_MESH:
            continue
        geom.group = DETAILED_GROUP
        copy = geom.parent.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=f"{geom.meshname}_small",
            material=geom.material,
            pos=geom.pos,
            quat=geom.quat,
        )
        copy.group, copy.mass, copy.contype, copy.conaffinity = SMALL_GROUP, 0.0, 0, 0


def _add_velocity_actuator(spec: mujoco.MjSpec, joint: str, gain: float, speed: float, torque: float) -> None:
    actuator = spec.add_actuator(
        name=joint,
        target=joint,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        ctrllimited=True,
        ctrlrange=(-speed, speed),
        forcelimited=True,
        forcerange=(-torque, torque),
    )
    actuator.set_to_velocity(kv=gain)
