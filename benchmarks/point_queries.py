"""Where is the red one? Attention over an encoder's points beside a perceptron, from few examples and from many.

    python benchmarks/point_queries.py data/rooms --encoder rooms

Both are told an object's colour and a scene vector, and learn to say where the object is (x, y). One is a perceptron on
everything, the other the same perceptron behind :class:`gqn_rl.agents.queries.PointQueries`. Scenes are those of a
recording of the rooms; the last fifth of them scores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from gqn_rl.agents.queries import PointQueries
from gqn_rl.agents.vec_scene import FEATURES, POINTS
from gqn_rl.config import UserError
from gqn_rl.data import SceneDataset
from gqn_rl.encoder import GQNEncoder
from gqn_rl.envs.rooms import Room

SCENES: Final = 4_000
STEPS: Final = 3_000
BATCH: Final = 128
HIDDEN: Final = 256
#: Where the objects begin in a room's state, and how many numbers each has: position (3), size, colour (3), shape (7).
FIRST, OBJECT = 9, 14


def vectors(encoder: GQNEncoder, data: SceneDataset, scenes: NDArray[np.int64], views: int) -> Tensor:
    """Scene vectors (N, size) of the first ``views`` views of ``scenes``."""
    parts = []
    for chosen in np.array_split(scenes, max(1, len(scenes) // 100)):
        batch = data.batch(chosen, np.tile(np.arange(views), (len(chosen), 1)))
        parts.append(encoder.encode(torch.from_numpy(batch.images), torch.from_numpy(batch.poses)).clone())
    return torch.cat(parts)


def error(readers: nn.Module, seen: Tensor, places: Tensor, fit: Tensor, held_out: Tensor) -> float:
    """The median distance (cm) on ``held_out`` after training on ``fit``, at the best of twelve times."""
    optimizer, best = torch.optim.AdamW(readers.parameters(), 1e-3, weight_decay=0.02), float("inf")
    rng = torch.Generator().manual_seed(0)
    for step in range(1, STEPS + 1):
        chosen = fit[torch.randint(len(fit), (BATCH,), generator=rng)]
        optimizer.zero_grad()
        (readers(seen[chosen]) - places[chosen]).norm(dim=1).mean().backward()
        optimizer.step()
        if step % (STEPS // 12) == 0:
            with torch.no_grad():
                best = min(best, float((readers(seen[held_out]) - places[held_out]).norm(dim=1).median()))
    return 100 * best


def perceptron(inputs: int) -> nn.Sequential:
    """Two hidden layers, to x and y."""
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2)
    )


def main() -> None:
    """Print a table: median error in cm, by how many examples there are to learn from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path, help="of RoomRing, RoomFree or RoomNavigate")
    parser.add_argument("--encoder", default="rooms", help="a name or a folder (default: rooms)")
    parser.add_argument("--views", type=int, default=5, help="of each scene (default 5)")
    parser.add_argument("--examples", type=int, nargs="+", default=[300, 1000, 5000], help="(default 300 1000 5000)")
    options = parser.parse_args()
    try:
        data, encoder = SceneDataset(options.recording), GQNEncoder.from_pretrained(options.encoder)
    except UserError as problem:
        parser.error(str(problem))
    if data.states.shape[1] != Room.state_size:
        parser.error(f"{options.recording} is no recording of rooms")
    scenes = np.linspace(0, len(data) - 1, min(SCENES, len(data))).astype(np.int64)
    objects = data.states[scenes][:, FIRST:].reshape(len(scenes), -1, OBJECT)
    scene, slot = np.nonzero(objects[:, :, 3])  # a size of zero: no object
    told = torch.from_numpy(objects[scene, slot])
    colors, places = told[:, 4:7], told[:, :2]
    seen = torch.cat([vectors(encoder, data, scenes, options.views)[torch.from_numpy(scene)], colors], dim=1)
    held_out = torch.arange(int(0.8 * len(seen)), len(seen))
    shuffled = torch.randperm(int(held_out[0]), generator=torch.Generator().manual_seed(0))
    points = 3 * encoder.points
    layout = {POINTS: points, FEATURES: encoder.size - points, "goal": 3}
    space = spaces.Box(-np.inf, np.inf, (seen.shape[1],), np.float32)
    print(f"{encoder.card['description']}, {options.views} views; median error (cm) on {len(held_out)} objects")
    for examples in options.examples:
        fit, row = shuffled[:examples], []
        for asks in (False, True):
            torch.manual_seed(0)
            eye = PointQueries(space, layout) if asks else nn.Identity()
            size = eye.features_dim if isinstance(eye, PointQueries) else seen.shape[1]
            row.append(error(nn.Sequential(eye, perceptron(size)), seen, places, fit, held_out))
        print(f"{len(fit):>6} examples   perceptron {row[0]:6.1f}   attention {row[1]:6.1f}", flush=True)


if __name__ == "__main__":
    main()
