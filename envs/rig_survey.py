"""Where cameras may stand around an environment that nobody has described: found by watching it move at random.

What matters is where the hand, the goal and the like are over some episodes of random actions. A sphere around that is
to fill the pictures, and cameras stand where nothing big is in the way.
"""

from __future__ import annotations

import copy
import functools
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gqn_rl.cameras import Dome, is_whole
from gqn_rl.envs.rig_stage import Stage, make_inner

#: Chooses an action: ``policy(observation, rng)``.
Policy = Callable[[Any, np.random.Generator], Any]

#: Episodes and steps of each that are watched, and the seed of what happens in them.
EPISODES: Final = 16
STEPS: Final = 25
_SEED: Final = 20_180_614  # any; the same everywhere, so that every process finds the same place for its cameras

#: The share of time that everything that matters is to be inside the sphere, and of the picture's half height that the
#: sphere takes.
INSIDE: Final = 0.9
FILL: Final = 0.8
#: The thickness of the shell that cameras stand in, as a share of its inner radius; that of ArmReach, whose dome this
#: resembles, is 0.18.
THICKNESS: Final = 0.18
#: A part of a model counts if it moves at least this share of what moves most.
MOVES: Final = 0.3
#: Degrees between the azimuths that are tried, the largest share of what matters that something may hide there, and
#: the smallest arc to put cameras in.
AZIMUTH_STEP: Final = 10
HIDDEN: Final = 0.15
SMALLEST_ARC: Final = 30.0
#: How likely a random policy is to keep its action for another step: what it does then has a direction.
KEEP: Final = 0.5
#: Standard deviations below this are taken for those of constants.
CONSTANT: Final = 1e-3


@dataclass(frozen=True)
class Survey:
    """What was found. Lengths in metres, angles in degrees."""

    center: tuple[float, float, float]  #: in the world
    radius: tuple[float, float]  #: of the cameras' distances from there
    azimuth: tuple[float, float]  #: from where little is hidden
    mean: tuple[float, ...]  #: of the watched numbers
    scale: tuple[float, ...]  #: their standard deviation, 1 for constants


@functools.lru_cache(maxsize=64)
def survey(
    env_id: str,
    env_kwargs: str,
    stage_args: tuple[tuple[str, ...], tuple[str, ...]],
    matters: tuple[str, ...],
    goals: tuple[str, ...],
    observed: tuple[tuple[str, ...], tuple[int, ...] | None],
    policy: str | Policy | None,
    elevation: tuple[float, float],
    fovy: float,
    given: tuple[tuple[float, float, float] | None, tuple[float, float] | None, tuple[float, float] | None],
) -> Survey:
    """Watch a second instance of an environment; the same arguments give the same result, in any process.

    Args:
        env_id, env_kwargs: what is watched; keyword arguments as JSON.
        stage_args: ``hide`` and ``show`` of :class:`Stage`.
        matters: elements that the pictures are about.
        goals: positions in the observation that they are about too; with neither, everything that moves.
        observed: parts and entries of the observation whose mean and spread are wanted (see :func:`observed_numbers`).
        policy: see :func:`find_policy`.
        elevation: of the cameras, degrees.
        fovy: their vertical field of view, degrees.
        given: centre, radius and azimuth, where these are decided already; None elsewhere.

    Raises:
        ValueError: nothing moves, or no camera can be placed; the message says what to set.
    """
    env = make_inner(env_id, json.loads(env_kwargs))
    try:
        rng = np.random.default_rng(_SEED)
        actor = find_policy(policy, env.action_space)
        watched = _watch(env, stage_args, matters, goals, observed, actor, rng)
        # Numbers that the policy keeps still would be huge for one that is still to learn.
        at_random = _numbers_at_random(env, observed, rng) if actor and can_be_random(env.action_space) else None
        center, radius, azimuth = given
        found_center, reach = _sphere(watched, env_id, center)
        distance = reach / (FILL * np.sin(np.deg2rad(fovy / 2)))
        radius = radius or (float(distance), float((1 + THICKNESS) * distance))
        azimuth = azimuth or _free_arc(watched, found_center, reach, elevation, radius)
        if azimuth is None:
            raise ValueError(
                f"no camera can be placed: {radius[0]:.2f} to {radius[1]:.2f} m around "
                f"({', '.join(f'{x:.2f}' for x in found_center)}), at elevations of {elevation[0]:g} to "
                f"{elevation[1]:g} degrees, something hides the middle from everywhere; set center, radius, elevation "
                "or azimuth, or hide what is in the way"
            )
    finally:
        env.close()
    numbers = np.array(watched.numbers if at_random is None else at_random)
    spread = numbers.std(axis=0)
    spread[spread < CONSTANT] = 1.0
    x, y, z = (float(number) for number in found_center)
    return Survey((x, y, z), radius, azimuth, tuple(numbers.mean(axis=0).tolist()), tuple(spread.tolist()))


@dataclass
class _Watched:
    stage: Stage
    places: list[NDArray[np.float64]]  #: of each moment, (N, 3)
    sizes: NDArray[np.float64]  #: bounding radii (N,), 0 for elements that were named
    numbers: list[NDArray[np.float32]]
    moments: list[Any]  #: MuJoCo's data, of some


def _watch(
    env: gym.Env[Any, Any],
    stage_args: tuple[tuple[str, ...], tuple[str, ...]],
    matters: Sequence[str],
    goals: Sequence[str],
    observed: tuple[tuple[str, ...], tuple[int, ...] | None],
    policy: Policy | None,
    rng: np.random.Generator,
) -> _Watched:
    places, numbers, moments = [], [], []
    env.reset(seed=_SEED)
    stage = Stage(env, *stage_args)
    for episode in range(EPISODES):
        for step, (observation, _) in enumerate(play(env, policy, rng, STEPS)):
            seen = stage.look()
            numbers.append(observed_numbers(observation, *observed))
            if matters or goals:
                positions = [stage.position(element, seen) for element in matters]
                places.append(np.stack([*positions, *(np.asarray(observation[goal]) for goal in goals)]))
                sizes = np.zeros(len(places[-1]))
            else:
                now, sizes = stage.visible_places(seen)
                places.append(now)
            if step == 0 and episode % 4 == 0:
                moments.append(copy.copy(seen))
    return _Watched(stage, places, sizes, numbers, moments)


def _numbers_at_random(
    env: gym.Env[Any, Any], observed: tuple[tuple[str, ...], tuple[int, ...] | None], rng: np.random.Generator
) -> list[NDArray[np.float32]]:
    """The watched numbers (P,) of each moment, under random actions."""
    episodes = (play(env, None, rng, STEPS) for _ in range(EPISODES))
    return [observed_numbers(observation, *observed) for episode in episodes for observation, _ in episode]


def _sphere(
    watched: _Watched, env_id: str, center: tuple[float, float, float] | None
) -> tuple[NDArray[np.float64], float]:
    """Centre (3,) and radius of a ball that holds what matters."""
    places = np.stack(watched.places)  # (moments, N, 3)
    moved = np.linalg.norm(np.ptp(places, axis=0), axis=1)
    if not len(moved):
        raise ValueError(
            f"no camera can be placed: nothing of {env_id} is visible but planes, which have no middle; name what is "
            "to be seen in show or track"
        )
    if center is None and moved.max() < 1e-3:
        raise ValueError(f"no camera can be placed: nothing in {env_id} moves by itself; set center and radius")
    counts = moved >= MOVES * moved.max()
    points = places[:, counts].reshape(-1, 3)
    sizes = np.tile(watched.sizes[counts], len(places))
    if center is None:
        low, high = np.quantile(points, [(1 - INSIDE) / 2, (1 + INSIDE) / 2], axis=0)
        middle = (low + high) / 2
    else:
        middle = np.asarray(center, np.float64)
    reach = float(np.quantile(np.linalg.norm(points - middle, axis=1) + sizes, INSIDE))
    return middle, min(max(reach, 1e-2), float(watched.stage.model.stat.extent))


def _free_arc(
    watched: _Watched,
    center: NDArray[np.float64],
    reach: float,
    elevation: tuple[float, float],
    radius: tuple[float, float],
) -> tuple[float, float] | None:
    """The widest range of azimuths from where little of the ball is hidden by what is outside of it."""
    everything = np.stack(watched.places).reshape(-1, 3)
    near = everything[np.linalg.norm(everything - center, axis=1) <= reach]
    targets = np.concatenate([center[None], near[:: max(1, len(near) // 8)]])
    free = []
    for azimuth in range(-180, 180, AZIMUTH_STEP):
        hidden = []
        for height in {elevation[0], sum(elevation) / 2, elevation[1]}:
            for distance in set(radius):
                pose = Dome(center=tuple(center), radius=(distance, distance)).at(azimuth, height)
                inside = np.linalg.norm(pose[:3] - center) - reach
                hits = (watched.stage.first_hit(seen, pose[:3].astype(np.float64), targets) for seen in watched.moments)
                hidden.append(np.mean([hit < inside for hit in hits]))
        free.append(np.mean(hidden) <= HIDDEN)
    if all(free):
        return -180.0, 180.0
    arcs = sorted(_arcs(free), key=lambda arc: arc[1] - arc[0])
    if not arcs or arcs[-1][1] - arcs[-1][0] < SMALLEST_ARC:
        return None
    return arcs[-1]


def _arcs(free: Sequence[bool]) -> Iterator[tuple[float, float]]:
    """Runs of free azimuths on the circle, (low, high) degrees, the middle of each in [-180, 180]."""
    count = len(free)
    start = next(i for i in range(count) if not free[i])  # a run never goes past here
    begun: int | None = None
    for i in range(start + 1, start + count + 1):
        if free[i % count]:
            begun = i if begun is None else begun
        elif begun is not None:
            low, high = -180 + AZIMUTH_STEP * begun, -180 + AZIMUTH_STEP * (i - 1)
            turn = 360 * round((low + high) / 720)
            yield float(low - turn), float(high - turn)
            begun = None


# What an environment does -------------------------------------------------------------------------------------


def play(
    env: gym.Env[Any, Any], policy: Policy | None, rng: np.random.Generator, steps: int
) -> Iterator[tuple[Any, bool]]:
    """An episode that begins from ``rng``: its first observation, and what :func:`go_on` yields from there."""
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    yield observation, False
    yield from go_on(env, policy, observation, rng, steps)


def go_on(
    env: gym.Env[Any, Any], policy: Policy | None, observation: Any, rng: np.random.Generator, steps: int
) -> Iterator[tuple[Any, bool]]:
    """Observations of at most ``steps`` more steps, and whether the episode ended with each.

    Without a policy, of random actions that last some steps.
    """
    action: Any = None
    for _ in range(steps):
        if policy is not None:
            action = policy(observation, rng)
        elif action is None or rng.random() > KEEP:
            action = _random_action(env.action_space, rng)
        observation, _, terminated, truncated, _ = env.step(action)
        yield observation, terminated or truncated
        if terminated or truncated:
            return


def find_policy(policy: str | Policy | None, space: spaces.Space[Any]) -> Policy | None:
    """``policy`` itself, or the function that ``module:function`` names.

    Raises:
        ValueError: it cannot be imported; or there is none, and ``space`` is none to draw from at random.
    """
    if policy is None:
        if not can_be_random(space):
            raise ValueError(f"random actions need a Box or Discrete action space, got {space}; give a policy")
        return None
    if callable(policy):
        return policy
    if not isinstance(policy, str):
        raise ValueError(f"policy must be module:function or a function of observation and generator, got {policy!r}")
    module, _, name = policy.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"policy must be module:function, got {policy!r} ({error})") from error
    if not callable(found):
        raise ValueError(f"policy must be module:function, but {policy!r} cannot be called")
    return found


def can_be_random(space: spaces.Space[Any]) -> bool:
    """Whether actions of ``space`` can be drawn at random here."""
    return isinstance(space, (spaces.Box, spaces.Discrete))


def _random_action(space: spaces.Space[Any], rng: np.random.Generator) -> Any:
    if isinstance(space, spaces.Discrete):
        return int(space.start + rng.integers(space.n))
    assert isinstance(space, spaces.Box)
    # Where an action has no bounds, one unit is as good a guess as any.
    low, high = np.where(np.isfinite(space.low), space.low, -1.0), np.where(np.isfinite(space.high), space.high, 1.0)
    return rng.uniform(low, high).astype(space.dtype)


# What a policy may see of an observation ----------------------------------------------------------------------


def observed_numbers(observation: Any, parts: tuple[str, ...], entries: tuple[int, ...] | None) -> NDArray[np.float32]:
    """Entries (P,) of the parts of a Dict observation laid end to end, or of a flat one if ``parts`` is empty.

    ``entries`` None: all of the parts; nothing of a flat observation.
    """
    if not parts:
        if entries is None:
            return np.zeros(0, np.float32)
        flat = np.asarray(observation, np.float32).reshape(-1)
    else:
        flat = np.concatenate([np.asarray(observation[part], np.float32).reshape(-1) for part in parts])
    return flat if entries is None else flat[list(entries)]


def everything(space: spaces.Space[Any]) -> tuple[tuple[str, ...] | None, tuple[int, ...] | None]:
    """``observe`` and ``proprio`` of :func:`check_observed` for all numbers of a Dict or flat observation."""
    if isinstance(space, spaces.Dict):
        return tuple(name for name, part in space.spaces.items() if isinstance(part, spaces.Box)), None
    return None, tuple(range(int(np.prod(space.shape or (0,)))))


def check_observed(
    space: spaces.Space[Any], observe: Sequence[str] | None, proprio: Sequence[int] | None
) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """What of an observation a policy may see, ready for :func:`observed_numbers`.

    By default the part ``observation`` of a Dict, and nothing of any other.

    Raises:
        ValueError: the observation has no such parts or entries; the message names those it has.
    """
    parts: tuple[str, ...] = ()
    if isinstance(space, spaces.Dict):
        boxes = {name: part for name, part in space.spaces.items() if isinstance(part, spaces.Box)}
        parts = tuple(observe) if observe is not None else tuple({"observation"} & boxes.keys())
        if wrong := [name for name in parts if name not in boxes]:
            raise ValueError(
                f"observe: the observation has no numeric part {', '.join(map(repr, wrong))}; "
                f"valid: {', '.join(boxes) or 'none'}"
            )
        size = sum(int(np.prod(boxes[name].shape)) for name in parts)
        if not parts and proprio:
            raise ValueError(f"proprio needs observe, the parts it counts in; valid: {', '.join(boxes) or 'none'}")
    elif isinstance(space, spaces.Box):
        if observe:
            raise ValueError(
                f"observe is for Dict observations, this one is flat: {space}; say which of its {space.shape} numbers "
                "are the robot's own by proprio, a list of indices"
            )
        size = int(np.prod(space.shape))
    else:
        if observe or proprio:
            raise ValueError(f"observe and proprio need a Dict or Box observation, this one is not understood: {space}")
        size = 0
    if proprio is None:
        return parts, None
    entries = list(proprio) if isinstance(proprio, Iterable) else [proprio]
    wrong_entries = [entry for entry in entries if not (is_whole(entry) and 0 <= entry < size)]
    if wrong_entries:
        raise ValueError(f"proprio holds {wrong_entries}, but what is observed has {size} numbers, 0 to {size - 1}")
    return parts, tuple(int(entry) for entry in entries)
