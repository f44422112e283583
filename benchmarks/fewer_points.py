"""The benchmark's autoencoder, of which a policy sees as many points as of ``arm-reach``: those that move most.

One rule chooses the points that move (``gqn_rl.encoder.MOVES``), and leaves 19 of ``arm-reach`` and 43 of the
autoencoder. Whether it is these that the autoencoder's policy is slower by, ``points_trials.yaml`` asks.
"""

from __future__ import annotations

from typing import Final

import gymnasium as gym
import numpy as np
import torch

from gqn_rl.encoder import GQNEncoder
from gqn_rl.probes import INSIDE, ProbePlan, photograph
from gqn_rl.types import SceneSource, Views

#: Scenes, of two views each, over which points move; their seed is neither a recording's nor an evaluation's.
SCENES: Final = 256
SEED: Final = 77


def autoencoder() -> GQNEncoder:
    """``arm-reach-autoencoder``, its ``moving`` points as many as those of ``arm-reach``."""
    count = int(GQNEncoder.from_pretrained("arm-reach").moving.sum())
    encoder = GQNEncoder.from_pretrained("arm-reach-autoencoder")
    views = _views()
    vectors = encoder.encode(*(torch.from_numpy(array) for array in views))
    places = vectors[:, : 3 * encoder.points].unflatten(1, (encoder.points, 3))
    most = places.var(0).sum(1).argsort(descending=True)[:count]
    encoder.moving.zero_()
    encoder.moving[most] = True
    return encoder


def _views() -> Views:
    env = gym.make("gqn_rl:gqn_rl/ArmReach-v0")
    source = env.unwrapped
    assert isinstance(source, SceneSource)
    plan = ProbePlan(SEED, SCENES, {INSIDE: source.sample_pose})
    images, poses = zip(*(shots.views[INSIDE] for shots in photograph(source, plan, lambda frames: None)), strict=True)
    env.close()
    return Views(np.concatenate(images)[:, :2], np.concatenate(poses)[:, :2])
