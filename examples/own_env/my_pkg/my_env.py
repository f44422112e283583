"""A small arm reaches for a ball: what is needed of an environment for gqn-rl's camera rig, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces

MODEL = Path(__file__).with_name("arm.xml")
#: Simulation steps of 5 ms in a decision: 10 decisions a second.
SUBSTEPS = 20
#: Metres from the arm's axis that the ball lies at, and height of its centre. The arm reaches 0.5 m.
NEAREST, FARTHEST, HEIGHT = 0.15, 0.45, 0.06
#: Metres between fingertip and ball that count as success.
CLOSE = 0.05


class MyEnv(gym.Env[dict[str, Any], Any]):
    """Touch the ball with the fingertip. The reward of a step is the distance in metres, negative.

    Action (2,): velocities of shoulder and elbow, -1 to 1 for -3 to 3 rad/s. Observation, a Dict as goal-conditioned
    environments have it: ``observation`` (6,) is what the arm's own sensors say, cosine, sine and velocity (rad/s) of
    the joints; ``achieved_goal`` (3,) is where the fingertip is and ``desired_goal`` (3,) where the ball is, in metres.
    A policy that sees gets ``observation`` and pictures, and has to find the ball by itself.

    The camera rig puts its cameras around :attr:`model` and :attr:`data`.
    """

    metadata = {"render_modes": [], "render_fps": 10}  # noqa: RUF012 - how fast its videos run

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(MODEL))
        self.data = mujoco.MjData(self.model)
        self._fingertip = self.data.site("fingertip")
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        unbounded = {"low": -np.inf, "high": np.inf, "dtype": np.float32}
        self.observation_space = spaces.Dict(
            observation=spaces.Box(shape=(6,), **unbounded),
            achieved_goal=spaces.Box(shape=(3,), **unbounded),
            desired_goal=spaces.Box(shape=(3,), **unbounded),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Turn the arm and put the ball anywhere, both at random."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self.np_random.uniform([-np.pi, -2.5], [np.pi, 2.5])
        distance, angle = self.np_random.uniform([NEAREST, -np.pi], [FARTHEST, np.pi])
        self.data.mocap_pos[0] = distance * np.cos(angle), distance * np.sin(angle), HEIGHT
        mujoco.mj_forward(self.model, self.data)
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """A tenth of a second."""
        self.data.ctrl[:] = 3 * np.clip(action, -1, 1)
        mujoco.mj_step(self.model, self.data, SUBSTEPS)
        mujoco.mj_forward(self.model, self.data)
        observation, info = self._observe(), self._info()
        reward = self.compute_reward(observation["achieved_goal"], observation["desired_goal"], info)
        return observation, float(reward), False, False, info

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """Rewards (...,) of goals (..., 3); for hindsight (Stable-Baselines3's ``HerReplayBuffer``)."""
        return -np.linalg.norm(np.asarray(achieved_goal) - np.asarray(desired_goal), axis=-1)

    def _observe(self) -> dict[str, Any]:
        angles = self.data.qpos
        return {
            "observation": np.concatenate([np.cos(angles), np.sin(angles), self.data.qvel], dtype=np.float32),
            "achieved_goal": self._fingertip.xpos.astype(np.float32),
            "desired_goal": self.data.mocap_pos[0].astype(np.float32),
        }

    def _info(self) -> dict[str, Any]:
        distance = float(np.linalg.norm(self._fingertip.xpos - self.data.mocap_pos[0]))
        return {"distance": distance, "is_success": distance < CLOSE}
