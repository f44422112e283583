"""``train``: a policy, by default an arm that reaches what it sees."""

from __future__ import annotations

import argparse
import copy
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gqn_rl import CAMERA_RIG, photographed
from gqn_rl.commands.configurations import find_config
from gqn_rl.commands.options import add_overrides
from gqn_rl.commands.scenes import check_one_env, rig_factors
from gqn_rl.config import UserError, none_where_said, parse_override, read_yaml, set_dotted

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from gqn_rl.agents.training import TrainConfig
    from gqn_rl.types import SceneEncoder

#: What ``train`` does when it is told nothing.
DEFAULT_CONFIG: Final = "arm_reach"
#: Environments that show the same scenes: an encoder of one knows those of the others.
SAME_SCENES: Final = (frozenset({"gqn_rl/RoomRing", "gqn_rl/RoomFree", "gqn_rl/RoomNavigate"}),)

#: Keys of a configuration that say what its policy sees.
SEEN: Final = ("encoder", "finetune", "pixels", "context", "proprio", "certainty")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``train``."""
    parser.add_argument(
        "config", nargs="?", default=DEFAULT_CONFIG, help=f"a YAML file, or a name (default: {DEFAULT_CONFIG})"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/NAME-seedN)")
    parser.add_argument("--seed", type=int, metavar="N", help="of everything random (default: the configuration's)")
    parser.add_argument(
        "--env",
        metavar="ID",
        help="another environment, such as my_package:MyEnv-v0; the configuration's env.kwargs go",
    )
    parser.add_argument("--encoder", metavar="E", help="a name, a path, module:Class, or none")
    parser.add_argument("--steps", type=int, metavar="N", help="environment steps to train for")
    add_overrides(parser, "any key of the configuration, such as algorithm.kwargs.gamma=0.98")


def run(options: argparse.Namespace) -> None:
    """Train a policy, by default an arm that reaches what it sees.

    The run's folder gets the policies, the evaluations, a learning curve, a video and a
    summary. A run that was stopped, by Ctrl-C or a crash, goes on with the same command, from
    its last checkpoint (every checkpoint_every steps).

    Example:
      gqn-rl train arm_reach --seed 3 --steps 20000 --set evaluation.episodes=100
    """
    path = find_config(options.config)
    overrides: dict[str, Any] = {}
    name, configured = path.stem, read_yaml(path)
    if options.env is not None:
        overrides.update({"env.id": options.env})
        env = configured.get("env")
        if not isinstance(env, dict) or env.get("id") != options.env:
            overrides["env.kwargs"] = {}  # they were another environment's
            name = re.sub(r"[^\w.-]+", "-", options.env)
    if options.encoder is not None:
        overrides["encoder"] = none_where_said(options.encoder)
    if options.steps is not None:
        overrides["total_steps"] = options.steps
    if options.seed is not None:
        overrides["seed"] = options.seed
    overrides.update(parse_override(text) for text in options.overrides)
    overrides = {**arguments_kept(configured, overrides), **overrides}
    if "arm" not in overrides and sees_otherwise(configured, overrides):
        overrides["arm"] = None  # it said what the configuration's own policy sees

    from gqn_rl.agents.training import TrainConfig, train
    from gqn_rl.encoder import load_encoder

    config = TrainConfig.from_yaml(path, overrides)
    encoder = None if config.encoder is None else load_encoder(config.encoder)
    if (rig := rig_to_train(config, encoder)) is not None:
        rigged = {"env.id": CAMERA_RIG, "env.kwargs": rig, "task": config.task or config.env.id}
        config = TrainConfig.from_yaml(path, {**overrides, **rigged})
    warn_of_other_scenes(config, encoder)
    train(options.out or Path("runs") / f"{name}-seed{config.seed}", config, encoder)


def sees_otherwise(configured: Mapping[str, Any], overrides: Mapping[str, Any]) -> bool:
    """Whether with ``overrides`` a policy sees something else than that of the configuration itself."""
    from gqn_rl.agents.training import TrainConfig

    changed = copy.deepcopy(dict(configured))
    for key, value in overrides.items():
        set_dotted(changed, key, value)
    before, after = (
        [none_where_said(values.get(name, TrainConfig.model_fields[name].default)) for name in SEEN]
        for values in (configured, changed)
    )
    return before != after


def arguments_kept(configured: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What of the configured algorithm's arguments stays, as an override, where ``overrides`` name another algorithm.

    Those that it does not take, or takes otherwise, were chosen for the configuration's own; it is said that they go.
    """
    from gqn_rl.agents.build import resolve_algorithm
    from gqn_rl.agents.training import AlgorithmConfig

    chosen, before = overrides.get("algorithm.id"), configured.get("algorithm")
    if not isinstance(chosen, str) or not isinstance(before, dict):
        return {}
    was = str(before.get("id", AlgorithmConfig().id))
    if chosen == was:
        return {}
    algorithm, kept = resolve_algorithm(chosen), {}
    for name, value in (before.get("kwargs") or {}).items():
        if _means_the_same(name, value, was, algorithm):
            kept[name] = value
        elif f"algorithm.kwargs.{name}" not in overrides and "algorithm.kwargs" not in overrides:
            print(f"note: {name}={value} was for {was}; {algorithm.__name__} goes by its default", file=sys.stderr)
    return {"algorithm.kwargs": kept}


def _means_the_same(name: str, value: Any, was: str, algorithm: type[BaseAlgorithm]) -> bool:
    """Whether ``algorithm`` takes the argument ``name``, and as the algorithm called ``was`` does."""
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    from gqn_rl.agents.build import check_algorithm_kwargs, resolve_algorithm

    try:
        check_algorithm_kwargs(algorithm, {name: value})
        if name != "n_steps":
            return True
        # Rewards in a return of an off-policy algorithm, steps of a rollout of others.
        return issubclass(algorithm, OffPolicyAlgorithm) == issubclass(resolve_algorithm(was), OffPolicyAlgorithm)
    except UserError:
        return False


def rig_to_train(config: TrainConfig, encoder: SceneEncoder | None) -> dict[str, Any] | None:
    """Arguments of the rig that the policy of ``config`` needs, as ``encoder`` knows it; None: it needs none."""
    from gqn_rl.envs.rig_stage import plugin_of

    env_id = config.env.id
    sees = config.encoder is not None or config.pixels is not None or "obs_mode" in config.env.kwargs
    if not (sees or plugin_of(env_id)) or rig_factors(env_id) is None:
        return None
    check_one_env(env_id, config.env.kwargs)
    card = getattr(encoder, "card", None) or {}
    recorded = card.get("data", {}).get("env_kwargs", {})
    same = recorded if recorded.get("env_id") == env_id else {}
    return {**same, **({} if sees else {"obs_mode": "state"}), **config.env.kwargs, "env_id": env_id}


def warn_of_other_scenes(config: TrainConfig, encoder: SceneEncoder | None) -> None:
    """Say so if ``encoder``, by its card, knows another environment than that of ``config``, or other cameras.

    The latter of a camera rig that a configuration names itself: ``--env`` takes over what the encoder's was.
    """
    from gqn_rl.encoder import UNTRAINED

    recipe = (getattr(encoder, "card", None) or {}).get("data") or {}
    recorded = photographed(recipe.get("env"), recipe.get("env_kwargs") or {})
    here = photographed(config.env.id, config.env.kwargs)
    if recorded is None or here is None or (config.encoder or "").startswith(UNTRAINED):
        return
    if recorded == here and config.env.id == recipe["env"] == CAMERA_RIG:
        from gqn_rl.envs.rig import CameraRig

        defaults = {name: parameter.default for name, parameter in inspect.signature(CameraRig).parameters.items()}
        told = {**defaults, **config.env.kwargs}
        if other := [
            f"{key}={value}" for key, value in (recipe.get("env_kwargs") or {}).items() if told.get(key) != value
        ]:
            print(
                f"warning: encoder {config.encoder} was pretrained in a camera rig with {', '.join(other)}, which "
                "env.kwargs does not say",
                file=sys.stderr,
            )
        return
    scenes = {_scenes_of(recorded), _scenes_of(here)}
    if len(scenes) > 1 and not any(scenes <= same for same in SAME_SCENES):
        print(
            f"warning: encoder {config.encoder} was pretrained on {recorded}, not on {here}, where it may see little; "
            f"to pretrain one there, begin with: gqn-rl record --env {here} --out DIR",
            file=sys.stderr,
        )


def _scenes_of(env_id: str) -> str:
    """What the scenes of ``env_id`` are called: it, without its module, its version and what is said of its reward."""
    return re.sub(r"(Dense)?-v\d+$", "", env_id.rpartition(":")[2])
