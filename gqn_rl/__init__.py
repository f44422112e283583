"""gqn-rl: reinforcement learning from the scene vectors of a Generative Query Network.

``gqn_rl.envs`` and ``gqn_rl.agents`` live in the top-level folders ``envs/`` and ``agents/`` of a clone, and
inside this package in a wheel. Importing ``gqn_rl`` registers the environments with Gymnasium, so
``gymnasium.make("gqn_rl:gqn_rl/ArmReach-v0")`` works too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_ROOT = Path(__file__).resolve().parent
if not (_ROOT / "envs").is_dir():  # a clone or an editable install: envs/ and agents/ are our siblings
    __path__.append(str(_ROOT.parent))


#: Gymnasium id: class, and decisions in an episode.
_ENVS = {
    "gqn_rl/ArmReach-v0": ("arm:ArmReach", 25),
    "gqn_rl/ArmPick-v0": ("pick:ArmPick", 50),
    "gqn_rl/RoomRing-v0": ("rooms:RoomRing", 10),
    "gqn_rl/RoomFree-v0": ("rooms:RoomFree", 10),
    "gqn_rl/RoomNavigate-v0": ("navigate:RoomNavigate", 40),
    "gqn_rl/MazeExplore-v0": ("mazes:MazeExplore", 300),
    "gqn_rl/ShepardMetzler-v0": ("shepard_metzler:ShepardMetzler", 15),
}
#: Cameras for an environment that has none, which itself says when an episode ends.
CAMERA_RIG = "gqn_rl/CameraRig-v0"


def photographed(env_id: str | None, kwargs: Mapping[str, Any]) -> str | None:
    """The environment itself, where ``env_id`` is a rig around it."""
    return kwargs.get("env_id") if env_id == CAMERA_RIG else env_id


def register_envs() -> None:
    """Register every environment of this package with Gymnasium (done on import; calling it twice is harmless)."""
    from gymnasium.envs.registration import register, registry

    for name, (entry_point, decisions) in _ENVS.items():
        if name not in registry:
            register(name, entry_point=f"gqn_rl.envs.{entry_point}", max_episode_steps=decisions)
    if CAMERA_RIG not in registry:
        register(CAMERA_RIG, entry_point="gqn_rl.envs.rig:CameraRig")


register_envs()
