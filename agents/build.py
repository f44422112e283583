"""From names and numbers to environments and models, with one clear line when a name or a number is wrong."""

from __future__ import annotations

import contextlib
import copy
import difflib
import importlib
import inspect
import multiprocessing
import signal
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

import gymnasium as gym
import numpy as np
import stable_baselines3
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator, registry
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from gqn_rl.agents.updates import speed_up
from gqn_rl.agents.vec_pixels import VecPixels
from gqn_rl.agents.vec_scene import VIEW_KEYS, Context, SceneVector, VecSceneObservation
from gqn_rl.config import UserError
from gqn_rl.types import RenderError, SceneEncoder

Workers = Literal["in_process", "subprocess"]

ALGORITHMS: Final = ("SAC", "TD3", "PPO", "DDPG", "A2C", "DQN")
#: Packages with algorithms of this interface, and what installs them.
_PROVIDERS: Final = {"sb3_contrib": "pip install 'gqn-rl[contrib]'", "sbx": "pip install sbx-rl"}
#: Constructor arguments that the run decides, not the configuration.
_OURS: Final = ("self", "policy", "env", "seed", "verbose", "tensorboard_log", "_init_setup_model")


def make_env(env_id: str, env_kwargs: Mapping[str, Any], render_mode: str | None = None) -> gym.Env[Any, Any]:
    """One environment by its Gymnasium id, ``my_pkg:MyEnv-v0`` included.

    Raises :class:`UserError` if it cannot be made, for whatever reason, but :class:`RenderError` if that is rendering.
    """
    spec = find_env(env_id)
    _check_env_kwargs(spec, env_kwargs)
    kwargs = copy.deepcopy(dict(env_kwargs))
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    try:
        return gym.make(spec, **kwargs)
    except (TypeError, ValueError, gym.error.Error) as error:
        raise UserError(f"environment {env_id} with {dict(env_kwargs)}: {_one_line(error)}") from error
    except (UserError, RenderError):
        raise
    except Exception as error:  # somebody's constructor may raise anything
        *_, place = traceback.extract_tb(error.__traceback__)
        raise UserError(
            f"environment {env_id} with {dict(env_kwargs)} cannot be made: {type(error).__name__}: {_one_line(error)} "
            f"({place.filename}, line {place.lineno}); mend that first"
        ) from error


def find_env(env_id: str) -> EnvSpec:
    """The registration of ``env_id``; raises :class:`UserError` with close matches for one that does not exist."""
    module, _, name = env_id.rpartition(":")
    if module:
        _import_module(module, f"environment id {env_id!r}")
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        hint = _did_you_mean(name, registry)
        if not module:
            hint += "; an environment of your own is named module:Id, such as my_package:MyEnv-v0"
        raise UserError(f"unknown environment id {env_id!r}{hint} ({_one_line(error)})") from None


def make_vec_env(
    env_id: str,
    env_kwargs: Mapping[str, Any],
    n_envs: int,
    seed: int,
    workers: Workers = "in_process",
) -> VecEnv:
    """``n_envs`` monitored environments, in this process or one process each; the first reset uses seed + index.

    Raises :class:`UserError` for an id that does not exist and for keyword arguments that the environment refuses.
    """
    if workers == "subprocess":
        trial = _make_monitored(env_id, env_kwargs)  # a worker that fails to start, or to render, only says EOFError
        trial.reset(seed=seed)
        trial.close()
        # fork would copy live OpenGL contexts and hang.
        venv: VecEnv = SubprocVecEnv([partial(_make_in_worker, env_id, env_kwargs)] * n_envs, start_method="forkserver")
    else:
        venv = DummyVecEnv([partial(_make_monitored, env_id, env_kwargs)] * n_envs)
    venv.seed(seed)
    return venv


def see_with(
    encoder: SceneEncoder | None,
    venv: VecEnv,
    proprio: bool = True,
    pixel_stack: int | None = None,
    context: Context = "now",
    certainty: bool = False,
) -> VecEnv:
    """``venv`` seen through ``encoder``; ``venv`` itself without one.

    With ``pixel_stack``, the policy gets so many pictures of each view themselves
    (:class:`gqn_rl.agents.vec_pixels.VecPixels`), and ``encoder``, if there is one, is a part of it.

    ``context`` and ``certainty`` are those of :class:`VecSceneObservation`.

    Raises :class:`UserError` when the environment shows no views, when its cameras are not those that the encoder
    was trained with (``encoder.check(camera_metadata)``, where it has such a method), when the encoder fails on views
    of their shapes, and for another ``context`` than ``now``, or ``certainty``, where there is no frozen encoder, or
    one that cannot have it.
    """
    frozen = encoder is not None and pixel_stack is None
    if certainty and not frozen:
        raise UserError("certainty needs an encoder, and one that is not trained on; valid here: false")
    if context != "now" and not frozen:
        raise UserError(f"context {context!r} needs an encoder, and one that is not trained on; valid here: now")
    if encoder is None and pixel_stack is None:
        return venv
    try:
        if pixel_stack is not None:
            seen: VecEnv = VecPixels(venv, pixel_stack, proprio)
        else:
            assert encoder is not None
            seen = VecSceneObservation(venv, encoder, proprio, context, certainty)
    except ValueError as error:
        raise UserError(str(error)) from None
    check = getattr(encoder, "check", None)
    if check is not None and venv.has_attr("camera_metadata"):
        check(venv.get_attr("camera_metadata", [0])[0])
    if isinstance(seen, VecSceneObservation):
        _try_out(seen.scene_vector, venv.observation_space)
    return seen


def _try_out(scene_vector: SceneVector, space: spaces.Space[Any]) -> None:
    """Encode one moment of black pictures: somebody's encoder that cannot is to say so before any work is done."""
    assert isinstance(space, spaces.Dict)
    moment = {key: np.zeros((1, *(space[key].shape or ())), space[key].dtype) for key in scene_vector.keys}
    try:
        scene_vector(moment)
    except Exception as error:  # a user's code may raise anything
        shapes = " and ".join(f"{key} {moment[key].shape}" for key in VIEW_KEYS)
        name = type(scene_vector.encoder).__name__
        raise UserError(f"encoder {name} fails on {shapes}: {type(error).__name__}: {_one_line(error)}") from error


def resolve_algorithm(name: str) -> type[BaseAlgorithm]:
    """A Stable-Baselines3 algorithm by its name, or any class with its interface as ``module:Class``.

    Raises :class:`UserError` with the valid choices.
    """
    if name in ALGORITHMS:
        algorithm = getattr(stable_baselines3, name)
        assert issubclass(algorithm, BaseAlgorithm)
        return algorithm
    choices = f"valid: {', '.join(ALGORITHMS)}, or module:Class such as sb3_contrib:TQC"
    if ":" not in name:
        raise UserError(f"unknown algorithm {name!r}{_did_you_mean(name, ALGORITHMS)}; {choices}")
    return _import_class(name, BaseAlgorithm, "algorithm", choices)


def resolve_policy(name: str) -> str | type[BasePolicy]:
    """The policy class ``module:Class``; a plain name is the algorithm's to know. Raises :class:`UserError`."""
    if ":" not in name:
        return name
    return _import_class(name, BasePolicy, "policy", "valid: MlpPolicy, CnnPolicy, MultiInputPolicy, or module:Class")


def _import_module(module: str, what: str, choices: str = "") -> ModuleType:
    """The module; raises :class:`UserError` that begins with ``what`` if it cannot be imported, for whatever reason."""
    hint = f"; {choices}" if choices else ""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if install := _PROVIDERS.get(error.name or ""):
            hint = f"; {install} brings it"
        raise UserError(f"{what}: {_one_line(error)}{hint}") from None
    except Exception as error:  # somebody's module may raise anything
        raise UserError(
            f"{what}: importing {module!r} fails: {type(error).__name__}: {_one_line(error)}{hint}"
        ) from error


def _import_class(name: str, base: type[Any], what: str, choices: str) -> type[Any]:
    """The subclass of ``base`` that ``module:Class`` names."""
    module, _, class_name = name.partition(":")
    found = getattr(_import_module(module, f"{what} {name!r}", choices), class_name, None)
    if found is None:
        raise UserError(f"{what} {name!r}: module {module!r} has no {class_name!r}; {choices}")
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{what} {name!r} is not a Stable-Baselines3 {what}; {choices}")
    return found


def check_algorithm_kwargs(algorithm: type[BaseAlgorithm], kwargs: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` for a keyword that the constructor does not have, naming close matches.

    And for one that is no number where the default is one: many algorithms notice that only once they learn. Arguments
    of parts are a mapping, or null, which is as if they were left out.
    """
    parameters = inspect.signature(algorithm).parameters
    for name, value in kwargs.items():
        if name in ("policy_kwargs", "replay_buffer_kwargs") and not isinstance(value, dict | None):
            raise UserError(f"{algorithm.__name__}'s argument {name} is {value!r}, must be a mapping")
        default = parameters[name].default if name in parameters else None
        number = isinstance(default, int | float) and not isinstance(default, bool)
        if number and (value is None or isinstance(value, str | bool)):
            raise UserError(f"{algorithm.__name__}'s argument {name} is {value!r}, must be a number such as {default}")
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    valid = [name for name in parameters if name not in _OURS]
    for name in kwargs:
        if name not in valid:
            raise UserError(
                f"{algorithm.__name__} takes no argument {name!r}{_did_you_mean(name, valid)}; "
                f"valid: {', '.join(valid)}"
            )


def build_model(
    algorithm: type[BaseAlgorithm],
    venv: VecEnv,
    *,
    policy: str | None,
    kwargs: Mapping[str, Any],
    total_steps: int,
    seed: int,
) -> BaseAlgorithm:
    """A fresh model of ``algorithm`` for ``venv``.

    ``policy`` None picks the one for the observation: ``MultiInputPolicy`` for a Dict, ``CnnPolicy`` for an image,
    else ``MlpPolicy``. ``replay_buffer_class`` and, in ``policy_kwargs``, ``features_extractor_class`` may be named as
    ``module:Class``; a policy class may bring a replay buffer, as an attribute of that name, and a features extractor
    that takes a ``layout`` gets that of the scene vector. ``action_noise`` may be a number: the standard deviation of
    normal noise on actions, which are from -1 to 1. A replay buffer larger than the run is cut to the run's length: the
    rest would never be filled. Raises :class:`UserError` for arguments that the constructor refuses.
    """
    check_algorithm_kwargs(algorithm, kwargs)
    arguments = copy.deepcopy(dict(kwargs))  # SB3 adds to policy_kwargs
    if isinstance(arguments.get("train_freq"), list):  # YAML has no tuples, and SB3 takes nothing else
        arguments["train_freq"] = tuple(arguments["train_freq"])
    chosen = resolve_policy(policy or _policy_for(venv.observation_space))
    parameters = inspect.signature(algorithm).parameters
    _set_replay_buffer(arguments, parameters, getattr(chosen, "replay_buffer_class", None))
    _set_features_extractor(arguments.get("policy_kwargs") or {}, venv)
    if "action_noise" in parameters:
        _set_action_noise(arguments, venv.action_space)
    if "buffer_size" in parameters:
        size = arguments.get("buffer_size", parameters["buffer_size"].default)
        rounds = -(-total_steps // venv.num_envs)
        arguments["buffer_size"] = min(size, rounds * venv.num_envs)
    try:
        with _buffers_take_n_steps():
            model = algorithm(chosen, venv, seed=seed, **arguments)
    except (TypeError, ValueError, AssertionError, AttributeError, RuntimeError, IndexError) as error:
        raise UserError(f"{algorithm.__name__} with {dict(kwargs)}: {_one_line(error)}") from error
    _check_train_freq(model)
    speed_up(model)
    return model


def _check_train_freq(model: BaseAlgorithm) -> None:
    """Raise :class:`UserError` for how often to train that SB3 would refuse only once it learns."""
    often = getattr(model, "train_freq", None)
    if not isinstance(often, TrainFreq):
        return
    value = f"algorithm.kwargs.train_freq is [{often.frequency}, {often.unit.value}]"
    if often.frequency < 1:
        raise UserError(f"{value}; valid: 1 or more")
    if often.unit == TrainFrequencyUnit.EPISODE and model.n_envs > 1:
        raise UserError(f"{value}, but n_envs is {model.n_envs}; valid there: a number of steps, such as 1")


def load_model(
    algorithm: type[BaseAlgorithm], path: Path, venv: VecEnv | None = None, device: str = "auto"
) -> BaseAlgorithm:
    """The model saved in ``path``, to go on in ``venv`` or, without one, only to act.

    Raises :class:`UserError` if it observes or acts otherwise than ``venv`` has it, or cannot be read.
    """
    # Who only acts needs no replay buffer, and some cannot be made without environments (HerReplayBuffer).
    acting: dict[str, Any] = {
        "replay_buffer_class": None,
        "replay_buffer_kwargs": {},
        "optimize_memory_usage": False,
        "buffer_size": 1,
        "n_steps": 1,
    }
    try:
        with _buffers_take_n_steps():
            model = algorithm.load(path, env=venv, device=device, custom_objects=acting if venv is None else None)
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, ValueError) and "spaces do not match" in str(error):
            raise _other_spaces(path, error) from None
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {_one_line(error)}") from error
    speed_up(model)
    return model


def check_spaces(model: BaseAlgorithm, venv: VecEnv, path: Path) -> None:
    """Raise :class:`UserError` if the model saved in ``path`` observes or acts otherwise than ``venv`` has it."""
    seen = model._wrap_env(venv)  # as it was for training: pictures get their channels first
    try:
        check_for_correct_spaces(seen, model.observation_space, model.action_space)
    except ValueError as error:
        raise _other_spaces(path, error) from None


def _other_spaces(path: Path, error: ValueError) -> UserError:
    return UserError(
        f"{path} is of a policy with other observations or actions ({_one_line(error)}): its environment has changed, "
        "or gqn-rl has; train it again in a new folder"
    )


@contextlib.contextmanager
def _buffers_take_n_steps() -> Iterator[None]:
    """Without SB3's warning that a named buffer ignores ``n_steps``, which ours and its own saved one do not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`n_steps=.*` is ignored because a custom `replay_buffer_class`")
        yield


def _set_replay_buffer(
    arguments: dict[str, Any], parameters: Mapping[str, inspect.Parameter], default: type[ReplayBuffer] | None
) -> None:
    """Put the class of the replay buffer in ``arguments``, and tell it the algorithm's ``n_steps`` and ``gamma``."""
    if "replay_buffer_class" not in parameters:
        return
    named = arguments.get("replay_buffer_class") or default
    if named is None:
        return
    choices = "valid: module:Class such as gqn_rl.agents.drq:ViewReplayBuffer"
    buffer = _import_class(named, ReplayBuffer, "replay buffer", choices) if isinstance(named, str) else named
    arguments["replay_buffer_class"] = buffer
    takes = inspect.signature(buffer).parameters
    told = {
        name: arguments.get(name, parameters[name].default)
        for name in ("n_steps", "gamma")
        if name in takes and name in parameters
    }
    if (arguments.get("replay_buffer_kwargs") or {}).get("copy_info_dict"):
        raise UserError("replay_buffer_kwargs.copy_info_dict keeps infos, which checkpoints cannot hold; valid: false")
    if arguments.get("n_steps", 1) > 1 and "n_steps" not in takes:
        raise UserError(f"n_steps is {arguments['n_steps']}, but {buffer.__name__} has no n-step returns")
    arguments["replay_buffer_kwargs"] = {**told, **(arguments.get("replay_buffer_kwargs") or {})}


def _set_action_noise(arguments: dict[str, Any], space: spaces.Space[Any]) -> None:
    """Put noise of the standard deviation in ``arguments`` there."""
    sigma = arguments.get("action_noise")
    if sigma is None:
        return
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not sigma >= 0:
        raise UserError(f"action_noise is {sigma!r}, must be a standard deviation from 0, such as 0.1")
    if not isinstance(space, spaces.Box):
        raise UserError(f"action_noise is {sigma!r}, but the actions are {space}; valid: null")
    arguments["action_noise"] = NormalActionNoise(np.zeros(space.shape), np.full(space.shape, float(sigma)))


def _set_features_extractor(arguments: dict[str, Any], venv: VecEnv) -> None:
    """Put the class of the features extractor in ``arguments``, and tell it the layout of what it reads."""
    named = arguments.pop("features_extractor_class", None)  # null, on the command line, takes back a configuration's
    if named is None:
        return
    choices = "valid: module:Class such as gqn_rl.agents.queries:PointQueries"
    extractor = _import_class(named, BaseFeaturesExtractor, "features extractor", choices)
    arguments["features_extractor_class"] = extractor
    if "layout" in inspect.signature(extractor).parameters:
        if not isinstance(venv, VecSceneObservation):
            raise UserError(f"features extractor {named!r} reads a scene vector: it needs a frozen encoder")
        given = arguments.get("features_extractor_kwargs") or {}
        arguments["features_extractor_kwargs"] = {"layout": venv.scene_vector.layout, **given}


def _make_monitored(env_id: str, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    env = make_env(env_id, env_kwargs)
    _check_observations(env_id, env.observation_space)
    return Monitor(env)


def _check_observations(env_id: str, space: spaces.Space[Any]) -> None:
    """Raise :class:`UserError` for observations that Stable-Baselines3's networks do not take."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for name, part in parts.items():
        if not isinstance(part, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
            raise UserError(
                f"the observation of {env_id} is not understood: {f'its part {name!r}' if name else 'it'} is {part}; "
                "valid: Box, Discrete, MultiDiscrete, MultiBinary, and a Dict of these; a Gymnasium wrapper, such as "
                "FlattenObservation, makes it one"
            )


def _make_in_worker(env_id: str, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides when to stop
    return _make_monitored(env_id, env_kwargs)


def _check_env_kwargs(spec: EnvSpec, kwargs: Mapping[str, Any]) -> None:
    creator: Callable[..., Any] | str | None = spec.entry_point
    if isinstance(creator, str):
        try:
            creator = load_env_creator(creator)
        except ImportError as error:
            raise UserError(f"environment {spec.id}: {_one_line(error)}") from error
    if creator is None:
        return
    parameters = inspect.signature(creator).parameters
    flexible = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    needed = [name for name, each in parameters.items() if each.default is each.empty and each.kind not in flexible]
    if missing := [name for name in needed if name not in kwargs and name not in spec.kwargs]:
        raise UserError(f"environment {spec.id} needs the argument {', '.join(map(repr, missing))}")
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    valid = [*parameters, "max_episode_steps"]  # the last is taken by gymnasium.make
    for name in kwargs:
        if name not in valid:
            raise UserError(
                f"environment {spec.id} takes no argument {name!r}{_did_you_mean(name, valid)}; "
                f"valid: {', '.join(valid)}"
            )


def _policy_for(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) else "MlpPolicy"


def _did_you_mean(name: str, valid: Iterable[str]) -> str:
    by_lower_case = {choice.lower(): choice for choice in valid}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=3)
    return f"; did you mean {' or '.join(repr(by_lower_case[match]) for match in close)}?" if close else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
