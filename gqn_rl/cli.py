"""The command line: the one place that composes everything. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gqn_rl.config import UserError, parse_override, read_yaml
from gqn_rl.types import RenderError

if TYPE_CHECKING:
    from gqn_rl.types import SceneEncoder, SceneSource

#: What ``train`` does when it is told nothing.
DEFAULT_CONFIG: Final = "arm_reach"
#: Exit codes: something the user can mend; stopped by Ctrl-C (128 + SIGINT, as shells have it).
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors that the user can mend are one line on standard error."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` does, so that my_pkg:MyEnv-v0 is found where one stands
    options = _parser().parse_args(_with_command(list(sys.argv[1:] if arguments is None else arguments)))
    try:
        options.run(options)
    except (UserError, RenderError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as stop:
        print(stop if str(stop) else "interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def find_config(name: str) -> Path:
    """The YAML file called ``name``: a path, or the name of one that comes with gqn-rl.

    Raises :class:`UserError` with the valid names.
    """
    path = Path(name)
    if path.is_file():
        return path
    folder = configs_folder()
    packaged = {file.relative_to(folder).with_suffix("").as_posix(): file for file in folder.rglob("*.yaml")}
    if name in packaged:
        return packaged[name]
    close = difflib.get_close_matches(name, [*packaged, *COMMANDS], n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise UserError(
        f"no configuration {name!r}{hint}: it is neither a file nor one of {', '.join(sorted(packaged))}; "
        f"commands: {', '.join(COMMANDS)}"
    )


def configs_folder() -> Path:
    """Where the configurations lie: beside the package in a clone, inside it in a wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _with_command(arguments: list[str]) -> list[str]:
    """``train`` is meant when no command is named."""
    if arguments and (arguments[0] in COMMANDS or arguments[0] in ("-h", "--help", "--version")):
        return arguments
    return ["train", *arguments]


def _parser() -> argparse.ArgumentParser:
    from gqn_rl import __version__

    parser = argparse.ArgumentParser(
        prog="gqn-rl",
        description="Train robot policies from the scene vectors of a Generative Query Network.",
        epilog="Without a command, train is meant. 'gqn-rl COMMAND --help' says more about one.",
    )
    parser.add_argument("--version", action="version", version=f"gqn-rl {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (add_options, run, summary) in COMMANDS.items():
        description, _, example = inspect.cleandoc(run.__doc__ or "").partition("Example:\n")
        command = subparsers.add_parser(
            name,
            help=summary,
            description=description.strip(),
            epilog=f"example:\n{example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_options(command)
        command.set_defaults(run=run)
    return parser


# train --------------------------------------------------------------------------------------------------------


def _train_options(parser: argparse.ArgumentParser) -> None:
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
    _add_overrides(parser, "algorithm.kwargs.gamma=0.98")


def _train(options: argparse.Namespace) -> None:
    """Train a policy, by default an arm that reaches what it sees.

    The run's folder gets the policies, the evaluations, a learning curve, a video and a
    summary. A run that was stopped, by Ctrl-C or a crash, goes on with the same command.

    Example:
      gqn-rl train arm_reach --seed 3 --steps 20000 --set evaluation.episodes=100
    """
    path = find_config(options.config)
    overrides: dict[str, Any] = {}
    name = path.stem
    if options.env is not None:
        overrides.update({"env.id": options.env})
        configured = read_yaml(path).get("env")
        if not isinstance(configured, dict) or configured.get("id") != options.env:
            overrides["env.kwargs"] = {}  # they were another environment's
            name = re.sub(r"[^\w.-]+", "-", options.env)
    if options.encoder is not None:
        overrides["encoder"] = None if options.encoder.lower() in ("none", "null") else options.encoder
    if options.steps is not None:
        overrides["total_steps"] = options.steps
    if options.seed is not None:
        overrides["seed"] = options.seed
    overrides.update(parse_override(text) for text in options.overrides)

    from gqn_rl.agents.training import TrainConfig, train

    config = TrainConfig.from_yaml(path, overrides)
    train(options.out or Path("runs") / f"{name}-seed{config.seed}", config, _load_encoder(config.encoder))


# evaluate -----------------------------------------------------------------------------------------------------


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--episodes", type=_positive, default=50, metavar="N", help="how many (default: 50)")
    parser.add_argument(
        "--seed", type=_not_negative, default=0, metavar="N", help="held-out episodes from this one on (default: 0)"
    )
    parser.add_argument("--best", action="store_true", help="the best policy so far instead of the final one")
    parser.add_argument("--encoder", metavar="E", help="where the run's encoder is now, if it has moved")


def _evaluate(options: argparse.Namespace) -> None:
    """Replay a trained policy: how often it succeeds, its mean return, and a video.

    Episodes are held out: training never sees their seeds. Seed 0, the default, gives those that
    the run was evaluated with; another seed gives others.

    Example:
      gqn-rl evaluate runs/arm_reach-seed0 --episodes 100 --seed 1000
    """
    from gqn_rl.agents.replay import read_run, replay

    config = read_run(options.folder)
    encoder = _load_encoder(options.encoder or config.encoder)
    found = replay(options.folder, encoder, options.episodes, options.seed, options.best)
    print(f"{found['model']} of {options.folder}, {found['episodes']} held-out episodes:")
    if found["success"] is not None:
        print(f"  success      {found['success']:.1%}")
    print(f"  mean return  {found['score']:.3f}")
    if found["distance"] is not None:
        print(f"  distance     {found['distance']:.3f} m, at the end of an episode")
    print(f"  length       {found['length']:.1f} steps")
    if found["video"] is not None:
        print(f"  video        {options.folder / found['video']}")


# record -------------------------------------------------------------------------------------------------------


def _record_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", default="record/arm_reach", help="a YAML file, or a name")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the recording's folder")
    parser.add_argument("--env", metavar="ID", help="another scene source; the configuration's env_kwargs and block go")
    parser.add_argument("--scenes", type=_positive, metavar="N", help="how many scenes")
    parser.add_argument("--seed", type=_not_negative, metavar="N", help="of scenes and cameras")
    parser.add_argument("--workers", type=_positive, default=_processors(), metavar="N", help="rendering processes")
    _add_overrides(parser, "env_kwargs.image_size=128")


def _record(options: argparse.Namespace) -> None:
    """Photograph random scenes of an environment, to pretrain on.

    A recording that was stopped goes on with the same command.

    Example:
      gqn-rl record --out data/arm-reach --scenes 24000
    """
    from tqdm import tqdm

    from gqn_rl.data import RecordConfig, record

    path = find_config(options.config)
    overrides = _given(env=options.env, scenes=options.scenes, seed=options.seed)
    if options.env is not None:
        overrides.update({"env_kwargs": {}, "block": {}})
    overrides.update(parse_override(text) for text in options.overrides)
    config = RecordConfig.from_yaml(path, overrides)
    with tqdm(total=config.scenes, unit="scene", disable=None) as bar:
        manifest = record(config, options.out, make_scene_source, options.workers, _advance(bar))
    frames = config.scenes * config.views
    print(f"{options.out}: {config.scenes} scenes, {frames} frames, sha256 {manifest.sha256[:12]}")


def make_scene_source(env_id: str, env_kwargs: Mapping[str, Any]) -> SceneSource:
    """A Gymnasium environment that can be photographed; raises :class:`UserError` when it is none."""
    from gqn_rl.agents.build import make_env
    from gqn_rl.types import SceneSource

    source = make_env(env_id, env_kwargs).unwrapped
    if not isinstance(source, SceneSource):
        raise UserError(f"env {env_id!r} is no scene source (see gqn_rl.types.SceneSource for what one offers)")
    return source


# pretrain -----------------------------------------------------------------------------------------------------


def _pretrain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", default="pretrain/arm_reach", help="a YAML file, or a name")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a recording")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder, the encoder's later")
    parser.add_argument("--steps", type=_positive, metavar="N", help="training steps")
    parser.add_argument("--seed", type=_not_negative, metavar="N", help="of weights, batches and noise")
    parser.add_argument("--device", default="auto", metavar="D", help="cpu, cuda or auto (default)")
    parser.add_argument("--threads", type=_positive, metavar="N", help="of the processor (default: all)")
    parser.add_argument("--wandb", choices=("offline", "online", "disabled"), default="offline", help="tracking")
    _add_overrides(parser, "objective.contrast=0")


def _pretrain(options: argparse.Namespace) -> None:
    """Pretrain a GQN, without labels, on a recording, and freeze its encoder.

    A run that was stopped, by Ctrl-C or a crash, goes on with the same command.

    Example:
      gqn-rl pretrain --data data/arm-reach --out encoders/arm-reach
    """
    import torch

    from gqn_rl.agents.interrupts import StopRequest
    from gqn_rl.agents.tracking import Tracker, check_tracking
    from gqn_rl.data import SceneDataset
    from gqn_rl.pretrain_run import claim, run
    from gqn_rl.pretraining import PretrainConfig, Pretraining

    overrides = _given(steps=options.steps, seed=options.seed)
    overrides.update(parse_override(text) for text in options.overrides)
    config = PretrainConfig.from_yaml(find_config(options.config), overrides)
    check_tracking(options.wandb)
    claim(options.out, config)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = _device(options.device)
    pretraining = Pretraining(config, SceneDataset(options.data), device)
    options.out.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(options.wandb, options.out, options.out.name, config.to_dict())
    try:
        with StopRequest() as request:
            run(pretraining, options.out, tracker.log, lambda: request.received)
    finally:
        tracker.close()
    print(f"{options.out}: encoder.safetensors, encoder.json, gallery.png. Judge it: gqn-rl probe {options.out}")


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.zeros(1, device=name).device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None


# probe --------------------------------------------------------------------------------------------------------


def _probe_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("encoder", metavar="ENCODER", help="a shipped name, or the folder of a pretraining run")
    parser.add_argument("--scenes", type=_several, default=5_000, metavar="N", help="held out (default: 5000)")
    parser.add_argument("--seed", type=_positive, default=1_000_003, metavar="N", help="another than the training's")
    parser.add_argument(
        "--outside", type=_above_zero, metavar="DEGREES", help="look from above the training dome instead"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where probe.csv and probe.png go")


def _probe(options: argparse.Namespace) -> None:
    """Measure what a linear probe reads off a frozen encoder, on scenes it has never seen.

    Half of the scenes fit the probe, half score it. Also draws views from unseen sides.

    Example:
      gqn-rl probe arm-reach --scenes 5000 --out runs/probe
    """
    from gqn_rl.data import photograph
    from gqn_rl.encoder import GQNEncoder
    from gqn_rl.probe_report import judge_drawing, print_table, write_gallery, write_table
    from gqn_rl.probes import probe_encoder

    encoder = GQNEncoder.from_pretrained(options.encoder)
    recipe = encoder.card.get("data")
    if recipe is None:
        raise UserError(f"the card of {options.encoder} does not say what it was trained on (no `data`)")
    source = make_scene_source(recipe["env"], recipe["env_kwargs"])
    encoder.check(source.camera_metadata)
    sample_pose = source.sample_pose
    if options.outside is not None:
        dome = getattr(source, "dome", None)
        if dome is None:
            raise UserError(f"env {recipe['env']!r} has no camera dome to look from outside of")
        sample_pose = dome.outside(options.outside).sample
    if options.seed == recipe["seed"]:
        raise UserError(f"--seed {options.seed} is the training recording's; held-out scenes need another")
    print(f"rendering {options.scenes} held-out scenes of {recipe['env']} ...", flush=True)
    views, states = photograph(source, options.seed, options.scenes, 4, sample_pose)
    rows = probe_encoder(encoder, views, states, source.state_groups)
    drawing = judge_drawing(encoder, views)
    print_table(rows, drawing)
    if options.out is not None:
        write_table(options.out / "probe.csv", rows)
        write_gallery(options.out / "probe.png", encoder, views)
        print(f"wrote {options.out}/probe.csv and probe.png")


# doctor -------------------------------------------------------------------------------------------------------


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=_above_zero, default=3.0, metavar="S", help="of each measurement (default: 3)"
    )


def _doctor(options: argparse.Namespace) -> None:
    """Say whether rendering works here, how fast, and if it does not what to install or set.

    Example:
      gqn-rl doctor
    """
    from gqn_rl.envs.doctor import main as examine

    if examine(options.seconds) != 0:
        raise UserError("rendering does not work here; see above for what to do")


# shared -------------------------------------------------------------------------------------------------------


def _load_encoder(spec: str | None) -> SceneEncoder | None:
    if spec is None:
        return None
    from gqn_rl.encoder import load_encoder

    return load_encoder(spec)


def _add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"any key of the configuration, such as {example}; may be repeated",
    )


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _advance(bar: Any) -> Callable[[int], None]:
    def advance(done: int) -> None:
        bar.update(done)

    return advance


def _given(**values: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _several(text: str) -> int:
    number = int(text)
    if number < 8:
        raise argparse.ArgumentTypeError(f"must be at least 8, got {number}")
    return number


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return number


def _not_negative(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**31:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**31 - 1, got {number}")
    return number


#: Command: what adds its options, what runs it, and a line about it. The docstring of what runs it is its help.
COMMANDS: Final[
    dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None], str]]
] = {
    "train": (_train_options, _train, "train a policy (the default)"),
    "evaluate": (_evaluate_options, _evaluate, "replay a trained policy and measure it"),
    "record": (_record_options, _record, "photograph random scenes to pretrain on"),
    "pretrain": (_pretrain_options, _pretrain, "pretrain a GQN on a recording"),
    "probe": (_probe_options, _probe, "measure what a frozen encoder knows"),
    "doctor": (_doctor_options, _doctor, "check rendering here"),
}


if __name__ == "__main__":
    sys.exit(main())
