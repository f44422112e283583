"""Scenes by an environment's id, in a camera rig where it shows no views of its own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gqn_rl import CAMERA_RIG, photographed
from gqn_rl.cameras import check_camera
from gqn_rl.config import UserError, flatten

if TYPE_CHECKING:
    from gqn_rl.types import SceneSource


def make_scene_source(env_id: str, env_kwargs: Mapping[str, Any]) -> SceneSource:
    """A Gymnasium environment that can be photographed; raises :class:`UserError` when it is none."""
    from gqn_rl.agents.build import make_env
    from gqn_rl.types import SceneSource

    source = make_env(env_id, env_kwargs).unwrapped
    if not isinstance(source, SceneSource):
        offered = {name for name in (*vars(SceneSource), *SceneSource.__annotations__) if not name.startswith("_")}
        missing = sorted(name for name in offered if not hasattr(source, name))
        rig = "" if hasattr(source, "model") else ", nor has it a MuJoCo model to stand cameras around"
        raise UserError(
            f"env {env_id!r} is no scene source: it has no {', '.join(missing)}{rig}; gqn_rl.types.SceneSource says "
            "what each of them is"
        )
    check_camera(source.camera_metadata)
    return source


def rig_factors(env_id: str) -> tuple[str, ...] | None:
    """The scene factors of ``env_id`` in a camera rig, or None where it needs none; raises :class:`UserError`."""
    if env_id.startswith("gqn_rl/"):
        return None
    from gqn_rl.envs.rig import rig_for

    try:
        return rig_for(env_id)
    except ValueError as error:
        raise UserError(str(error)) from None
    except Exception:  # somebody's constructor may raise anything; whoever makes it in earnest says what
        return None


def check_one_env(env_id: str, kwargs: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` if a rig around ``env_id`` is told of another environment."""
    if kwargs.get("env_id", env_id) != env_id:
        raise UserError(f"env_id={kwargs['env_id']} is not {env_id}; give {kwargs['env_id']} instead of {env_id}")


def scenes_to_probe(options: argparse.Namespace, card: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The environment's id and keyword arguments: what ``--env`` says, or the encoder's ``card``.

    Raises:
        UserError: neither says, or what the card says may not be had: code that somebody else's card names, which would
            be imported; scenes that cannot be rendered; or the very scenes that the encoder was trained on.
    """
    recipe = card.get("data")
    if recipe is None or not _asks_for(recipe, options.env):
        if options.env is None:
            raise UserError(f"{options.encoder} does not say what it was trained on; give its scenes with --env")
        return (CAMERA_RIG, {"env_id": options.env}) if rig_factors(options.env) is not None else (options.env, {})
    _check_trust(options, recipe)
    if recipe["env"].startswith("deepmind:"):
        raise UserError(f"{options.encoder} was trained on {recipe['env']}, which cannot be rendered; give --env")
    stages = [stage["data"] for stage in card.get("lineage", []) if "data" in stage]
    seeds = {stage.get("seed") for stage in (*stages, recipe) if stage.get("env") == recipe["env"]}
    if options.seed in seeds:
        raise UserError(f"--seed {options.seed} is a training recording's; held-out scenes need another")
    return recipe["env"], recipe.get("env_kwargs", {})


def _asks_for(recipe: Mapping[str, Any], env_id: str | None) -> bool:
    """Whether ``env_id``, if it is said, is what the ``recipe`` recorded, itself or in a camera rig."""
    return env_id in (None, recipe["env"], photographed(recipe["env"], recipe.get("env_kwargs", {})))


def _check_trust(options: argparse.Namespace, recipe: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` if a repository's card decides what is imported here."""
    from gqn_rl.hub import find_reference

    if find_reference(options.encoder) is None:
        return
    if options.env is None:
        raise UserError(
            f"{options.encoder} says it was trained on {recipe['env']}; if you trust that, say it with --env"
        )
    # The environment was named by the user; what else names code (module:thing) was not.
    for key, value in flatten(recipe.get("env_kwargs", {})).items():
        if ":" in str(value) and value != options.env:
            raise UserError(
                f"{options.encoder} was trained with {key}={value}, which would import code that you have not named; "
                f"download it, look at its encoder.json, and give its folder"
            )
