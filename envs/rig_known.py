"""What is known of environments that people use much: which of their numbers a robot's own sensors could give.

Without an entry here nothing of a flat observation is shown to a policy beside the pictures, because a robot's angles
and the goal's coordinates look alike in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Known:
    """Defaults of :class:`gqn_rl.envs.rig.CameraRig` for one environment."""

    observe: tuple[str, ...] | None = None  #: parts of a Dict observation
    proprio: tuple[int, ...] | None = None  #: entries of these, or of a flat observation
    frame: str | None = None  #: the element that acts
    track: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  #: ground truth: name to element


_GRIP: Final = "site:robot0:grip"
_PINCH: Final = "site:jaco_arm/jaco_hand/pinchsite"

#: Regular expression of an id without its module: what is known.
_KNOWN: Final[Mapping[str, Known]] = {
    # gymnasium-robotics, envs/fetch/fetch_env.py, _get_obs: gripper position (3), finger joints (2), their velocities.
    r"FetchReach(Dense)?-v\d+": Known(frame=_GRIP, track={"hand": _GRIP}),
    # The same; 3:9 and 11:20 are about the object.
    r"Fetch(Push|PickAndPlace|Slide)(Dense)?-v\d+": Known(
        proprio=(0, 1, 2, 9, 10, 20, 21, 22, 23, 24), frame=_GRIP, track={"hand": _GRIP}
    ),
    # gymnasium, envs/mujoco/reacher_v5.py, _get_obs: 4, 5 are the target, 8, 9 the way to it.
    r"Reacher-v[45]": Known(
        proprio=(0, 1, 2, 3, 6, 7), frame="body:fingertip", track={"hand": "body:fingertip", "target": "body:target"}
    ),
    # gymnasium, envs/mujoco/pusher_v5.py, _get_obs: angles, velocities, fingertips; then object and goal.
    r"Pusher-v[45]": Known(
        proprio=tuple(range(17)),
        frame="body:tips_arm",
        track={"hand": "body:tips_arm", "object": "body:object", "goal": "body:goal"},
    ),
    # dm_control, suite/reacher.py, get_observation: without to_target.
    r"dm_control/reacher-\w+-v\d+": Known(
        observe=("position", "velocity"),
        frame="geom:finger",
        track={"hand": "geom:finger", "target": "geom:target"},
    ),
    # dm_control, manipulation/reach.py: without target_position.
    r"dm_control/reach_site_\w+-v\d+": Known(
        observe=(
            "jaco_arm/joints_pos",
            "jaco_arm/joints_vel",
            "jaco_arm/jaco_hand/joints_pos",
            "jaco_arm/jaco_hand/joints_vel",
            "jaco_arm/jaco_hand/pinch_site_pos",
        ),
        frame=_PINCH,
        track={"hand": _PINCH, "target": "site:target_site"},
    ),
}


def known(env_id: str) -> Known:
    """What is known of ``env_id``; nothing of most."""
    name = env_id.rpartition(":")[2]
    return next((what for pattern, what in _KNOWN.items() if re.fullmatch(pattern, name)), Known())
