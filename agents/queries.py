"""What a goal asks of the points in a scene vector: a features extractor for policies that are told what to look for.

Which of the encoder's points stands on a red object is the same in every scene, and whether red is what is looked for
is the goal's to say. A perceptron on everything has to learn the product of the two from examples of each. Attention
has it built in: the goal alone decides how much each point counts, and the policy sees the weighted mean of their
places. ``benchmarks/point_queries.py`` measures it: told a colour, with 300 examples to learn from, attention finds the
object of that colour to 49 cm, and a perceptron on the same scene vector to 115 cm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from gqn_rl.agents.vec_scene import CERTAINTY, FEATURES, POINTS, PROPRIO_KEY

#: Hidden units of the perceptron that turns a goal into questions.
HIDDEN: Final = 64


class PointQueries(BaseFeaturesExtractor):
    """Places that the goal asks for, how sure the encoder is of each, and what the environment says besides views.

    Attention over the points of the scene vector (Vaswani et al. 2017, section 3.2.1), whose keys are learned and
    whose queries are made of the goal: all that an environment says besides views, proprioception and frame. What the
    scene vector holds besides points, such as textures, the policy does not see: what has no place is not asked for.

    Args:
        observation_space: a ``Box`` with one axis, as :class:`gqn_rl.agents.vec_scene.VecSceneObservation` has it.
        layout: sizes of its parts, :attr:`gqn_rl.agents.vec_scene.SceneVector.layout`.
        queries: how many places the policy asks for, at least 1.

    Raises:
        ValueError: the scene vector has no points, there is no goal, or ``queries`` is below 1.
    """

    def __init__(self, observation_space: spaces.Box, layout: Mapping[str, int], queries: int = 4) -> None:
        goal = [name for name in layout if name not in (POINTS, CERTAINTY, FEATURES, PROPRIO_KEY)]
        if not layout.get(POINTS) or not goal:
            parts = ", ".join(f"{name} {size}" for name, size in layout.items() if size)
            raise ValueError(f"PointQueries asks points for what a goal names; the policy's input has {parts}")
        if queries < 1:
            raise ValueError(f"queries must be at least 1, got {queries}")
        sure, others = bool(layout.get(CERTAINTY)), [name for name in layout if name == PROPRIO_KEY or name in goal]
        super().__init__(observation_space, (3 + sure) * queries + sum(layout[name] for name in others))
        self._layout, self._goal, self._others, self._sure = dict(layout), goal, others, sure
        self._queries = queries
        weights = queries * (layout[POINTS] // 3)
        asked = sum(layout[name] for name in goal)
        self.ask = nn.Sequential(nn.Linear(asked, HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, weights))

    def forward(self, observations: Tensor) -> Tensor:
        """(B, size + P + ...) to (B, 3 or, with certainty, 4 * queries + P + ...)."""
        parts = dict(zip(self._layout, observations.split(list(self._layout.values()), dim=1), strict=True))
        points = parts[POINTS].unflatten(1, (-1, 3))
        if self._sure:
            points = torch.cat([points, parts[CERTAINTY][..., None]], dim=-1)
        goal = torch.cat([parts[name] for name in self._goal], dim=1)
        weights = self.ask(goal).unflatten(1, (self._queries, -1)).softmax(dim=-1)
        return torch.cat([(weights @ points).flatten(1), *(parts[name] for name in self._others)], dim=1)
