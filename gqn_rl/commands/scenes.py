"""Scenes by an environment's id, in a camera rig where it shows no views of its own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gqn_rl import CAMERA_RIG
from gqn_rl.cameras import check_camera
from gqn_rl.config import UserError

if TYPE_CHECKING:
    from gqn_rl.types import SceneSource


def make_scene_source(env_id: str, env_kwargs: Mapping[str, Any]) -> SceneSource:
    """A Gymnasium environment that can be photographed; raises :class:`UserError` when it is none."""
    from gqn_rl.agents.build import make_env
    from gqn_rl.types import SceneSource

    source = make_env(env_id, env_kwargs).unwrapped
    if not isinstance(source, SceneSource):
        raise UserError(f"env {env_id!r} is no scene source (see gqn_rl.types.SceneSource for what one offers)")
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


def scenes_to_probe(options: argparse.Namespace, recipe: Mapping[str, Any] | None) -> tuple[str, Mapping[str, Any]]:
    """The environment's id and keyword arguments: what ``--env`` says, or the training ``recipe``'s."""
    from gqn_rl.hub import find_reference

    if options.env is not None and rig_factors(options.env) is not None:
        rigged = recipe is not None and recipe["env"] == CAMERA_RIG
        if recipe is None or not rigged or recipe["env_kwargs"].get("env_id") != options.env:
            return CAMERA_RIG, {"env_id": options.env}
    elif options.env is not None and (recipe is None or options.env != recipe["env"]):
        return options.env, {}
    if recipe is None:
        raise UserError(f"{options.encoder} does not say what it was trained on; give its scenes with --env")
    # An environment's name is code that gets imported.
    if options.env is None and find_reference(options.encoder) is not None:
        raise UserError(
            f"{options.encoder} says it was trained on {recipe['env']}; if you trust that, say it with --env"
        )
    if recipe["env"].startswith("deepmind:"):
        raise UserError(f"{options.encoder} was trained on {recipe['env']}, which cannot be rendered; give --env")
    if options.seed == recipe["seed"]:
        raise UserError(f"--seed {options.seed} is the training recording's; held-out scenes need another")
    return recipe["env"], recipe["env_kwargs"]
