"""The command line: the one place that composes everything. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from gqn_rl import CAMERA_RIG
from gqn_rl.config import UserError, parse_override, read_yaml
from gqn_rl.types import RenderError

if TYPE_CHECKING:
    from gqn_rl.agents.training import TrainConfig
    from gqn_rl.data import SceneDataset
    from gqn_rl.types import SceneEncoder, SceneSource

#: What ``train`` does when it is told nothing.
DEFAULT_CONFIG: Final = "arm_reach"
#: Metres between cameras and scene for which the model's lengths were chosen (ArmReach: 1.7 to 2.0).
UNIT_DISTANCE: Final = 1.85
#: Environments that show the same scenes: an encoder of one knows those of the others.
SAME_SCENES: Final = (frozenset({"gqn_rl/RoomRing", "gqn_rl/RoomFree", "gqn_rl/RoomNavigate"}),)
#: Exit codes: something the user can mend; stopped by Ctrl-C (128 + SIGINT, as shells have it).
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors that the user can mend are one line on standard error."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` does, so that my_pkg:MyEnv-v0 is found where one stands
    warnings.filterwarnings("ignore", module="glfw")  # where there is no display; what fails for it says so
    try:
        options = _parse(list(sys.argv[1:] if arguments is None else arguments))
        options.run(options)
    except (UserError, RenderError) as error:
        return _bad_input(_no_opengl(error.__cause__) or error)
    except OSError as error:
        if error.filename is None:
            raise
        return _bad_input(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt as stop:
        print(stop if str(stop) else "interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        said = _no_opengl(error)
        if said is None:
            raise
        return _bad_input(said)
    return 0


def _bad_input(error: object) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return BAD_INPUT


def _no_opengl(error: BaseException | None) -> str | None:
    """What to say if ``error`` is that MuJoCo could not be imported, which looks for OpenGL at once; otherwise None."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    if "mujoco" in sys.modules or not any("mujoco" in Path(frame.filename).parts for frame in frames):
        return None
    return f"MuJoCo finds no OpenGL ({type(error).__name__}: {error}); `gqn-rl doctor` says what to install or set"


def find_config(name: str, command: str = "train") -> Path:
    """The YAML file called ``name``: a path, or the name of one that comes with gqn-rl for ``command``.

    Raises :class:`UserError` with the valid names.
    """
    path = Path(name)
    if path.is_file():
        return path
    folder = configs_folder()
    files = folder.glob("*.yaml" if command == "train" else f"{command}/*.yaml")
    packaged = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    if name in packaged:
        return packaged[name]
    close = [near for said in (name, f"{command}/{name}") for near in difflib.get_close_matches(said, packaged, n=1)]
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise UserError(
        f"no configuration {name!r}{hint}: it is neither a file nor one of {command}'s: {', '.join(sorted(packaged))}"
    )


def configs_folder() -> Path:
    """Where the configurations lie: beside the package in a clone, inside it in a wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Options, with ``run``; raises :class:`UserError`."""
    arguments = _with_command(arguments)
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        raise UserError(f"unrecognized arguments: {' '.join(unknown)}; see `gqn-rl {arguments[0]} --help`")
    return options


def _with_command(arguments: list[str]) -> list[str]:
    """``train`` is meant when no command is named; raises :class:`UserError` for what is no command of any kind."""
    if arguments and (arguments[0] in COMMANDS or arguments[0] in ("-h", "--help", "--version")):
        return arguments
    if arguments and not arguments[0].startswith("-"):
        try:
            find_config(arguments[0])
        except UserError as error:
            close = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
            said = f"unknown command {arguments[0]!r}, did you mean {close[0]!r}?" if close else f"{error};"
            raise UserError(f"{said} valid commands: {', '.join(COMMANDS)}") from None
    return ["train", *arguments]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def _parser() -> _Parser:
    from gqn_rl import __version__

    parser = _Parser(
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
        overrides["encoder"] = None if options.encoder.lower() in ("none", "null") else options.encoder
        if overrides["encoder"] != configured.get("encoder"):
            overrides["arm"] = None  # it said what the configuration's own policy sees
    if options.steps is not None:
        overrides["total_steps"] = options.steps
    if options.seed is not None:
        overrides["seed"] = options.seed
    overrides.update(parse_override(text) for text in options.overrides)

    from gqn_rl.agents.training import TrainConfig, train

    config = TrainConfig.from_yaml(path, overrides)
    encoder = _load_encoder(config.encoder)
    if (rig := _rig_to_train(config, encoder)) is not None:
        rigged = {"env.id": CAMERA_RIG, "env.kwargs": rig, "task": config.task or config.env.id}
        config = TrainConfig.from_yaml(path, {**overrides, **rigged})
    _warn_of_other_scenes(config, encoder)
    train(options.out or Path("runs") / f"{name}-seed{config.seed}", config, encoder)


# evaluate -----------------------------------------------------------------------------------------------------


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--episodes", type=_positive, default=50, metavar="N", help="how many (default: 50)")
    parser.add_argument(
        "--seed", type=_not_negative, default=0, metavar="N", help="held-out episodes from this one on (default: 0)"
    )
    parser.add_argument("--best", action="store_true", help="the best policy so far instead of the final one")
    parser.add_argument("--encoder", metavar="E", help="where the run's encoder is now, if it has moved")
    parser.add_argument(
        "--cameras",
        nargs="+",
        choices=("unseen", "outside", "missing"),
        metavar="C",
        help="look from elsewhere: unseen (inside the dome), outside (up to 15 degrees above it), missing (one fewer)",
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="where --cameras adds lines (default: RUN/cameras.csv)"
    )


def _evaluate(options: argparse.Namespace) -> None:
    """Replay a trained policy: how often it succeeds, its mean return, and a video.

    Episodes are held out: training never sees their seeds. Seed 0, the default, gives those that
    the run was evaluated with; another seed gives others.

    With --cameras, the policy is scored, not filmed, from its own cameras and from others, and the
    scores are compared: 0 is that of random actions, 100 that of its own cameras.

    Example:
      gqn-rl evaluate runs/arm_reach-seed0 --episodes 100 --seed 1000
      gqn-rl evaluate runs/arm_reach-seed0 --cameras unseen outside missing
    """
    from gqn_rl.agents.replay import read_run, replay

    if options.csv is not None and options.cameras is None:
        raise UserError("--csv is for --cameras")
    config = read_run(options.folder)
    encoder = _load_encoder(options.encoder or config.encoder)
    if options.cameras is not None:
        _evaluate_cameras(options, encoder)
        return
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


def _evaluate_cameras(options: argparse.Namespace, encoder: SceneEncoder | None) -> None:
    from gqn_rl.agents.robustness import TABLE, measure, read_table, write_table

    path = options.csv or options.folder / TABLE
    read_table(path)  # what is no such table is refused before any work
    lines = measure(options.folder, encoder, options.cameras, options.episodes, options.seed, options.best)
    print(f"{lines[0].model} of {options.folder}, {options.episodes} held-out episodes from each:")
    print(f"  {'cameras':10}{'success':>10}{'mean return':>14}{'share':>8}")
    for line in lines:
        print(f"  {line.cameras:10}{line.success:>10.1%}{line.score:>14.3f}{line.share:>7.1f}%")
    write_table(path, lines)
    print(f"  {path}")


# benchmark ----------------------------------------------------------------------------------------------------


def _benchmark_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="YAML files, or names such as benchmark/smoke")
    parser.add_argument("--arms", type=_names, metavar="A,B", help="only these (default: all)")
    parser.add_argument("--seeds", type=_seeds, default="0-4", metavar="N-M", help="such as 0-9 or 0,3 (default: 0-4)")
    parser.add_argument("--jobs", type=_positive, metavar="N", help="runs at a time (default: one a processor)")
    parser.add_argument(
        "--backend",
        choices=("processes", "ray"),
        default="processes",
        help="of this machine (default), or of the Ray cluster that RAY_ADDRESS names",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/results"),
        metavar="DIR",
        help="where CSV and JSON files go (default: benchmarks/results)",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/benchmark"),
        metavar="DIR",
        help="where runs go (default: runs/benchmark)",
    )


def _benchmark(options: argparse.Namespace) -> None:
    """Train every arm of every task with every seed, and keep the learning curves.

    A run is what train does, in a process of its own. Finished ones are skipped, others go on: a
    benchmark that was stopped, by Ctrl-C or a crash, goes on with the same command. Then:
    gqn-rl report.

    Example:
      gqn-rl benchmark benchmark/arm_reach_fixed benchmark/arm_reach_moving --seeds 0-9 --jobs 2
    """
    from gqn_rl.agents.benchmark import check, expand
    from gqn_rl.agents.benchmark_jobs import run_jobs

    paths = [find_config(name, "benchmark") for name in options.configs]
    jobs = expand(paths, options.seeds, options.runs, options.out, options.arms)
    print(f"{len(jobs)} runs of {sum(job.config.total_steps for job in jobs):,} steps in all", flush=True)
    facts = check(jobs)
    before = sum(job.run.finished for job in jobs)
    outcomes = run_jobs(jobs, facts, workers=options.jobs, backend=options.backend)
    finished = before + sum(outcome.status == "finished" for outcome in outcomes)
    if failed := [f"{outcome.name}: {outcome.reason}" for outcome in outcomes if outcome.status == "failed"]:
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed: {'; '.join(failed)}")
    if finished < len(jobs):
        raise KeyboardInterrupt(f"interrupted with {finished} of {len(jobs)} runs done; run the same command to go on")
    print(f"{options.out}: {len(jobs)} runs, {before} of them done before")


# record -------------------------------------------------------------------------------------------------------


def _record_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", default="record/arm_reach", help="a YAML file, or a name")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the recording's folder")
    parser.add_argument("--env", metavar="ID", help="another scene source; the configuration's env_kwargs and block go")
    parser.add_argument(
        "--cameras",
        choices=("dome", "ring"),
        help="where they stand around an environment that has none (default: dome)",
    )
    parser.add_argument("--scenes", type=_positive, metavar="N", help="how many scenes")
    parser.add_argument("--seed", type=_not_negative, metavar="N", help="of scenes and cameras")
    parser.add_argument("--workers", type=_positive, default=_processors(), metavar="N", help="rendering processes")
    _add_overrides(parser, "env_kwargs.image_size=128")


def _record(options: argparse.Namespace) -> None:
    """Photograph random scenes of an environment, to pretrain on.

    A MuJoCo environment that shows no views gets cameras (docs/camera_rig.md). A recording that was
    stopped goes on with the same command.

    Example:
      gqn-rl record --out data/arm-reach --scenes 24000
    """
    from tqdm import tqdm

    from gqn_rl.data import RecordConfig, record

    path = find_config(options.config, "record")
    overrides = _given(env=options.env, scenes=options.scenes, seed=options.seed)
    if options.env is not None:
        overrides.update({"env_kwargs": {}, "block": {}})
    rigged = _rigged_recording(options.env or read_yaml(path).get("env", RecordConfig().env), options.cameras)
    if options.env is None:
        rigged.pop("block", None)  # the configuration has its own
    overrides.update(rigged)
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


# view ---------------------------------------------------------------------------------------------------------


def _view_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("env", metavar="ENV_ID", help="a scene source, such as gqn_rl/RoomRing-v0")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture; replaced if there is one")
    parser.add_argument("--scenes", type=_positive, default=4, metavar="N", help="how many, a row each (default: 4)")
    parser.add_argument("--views", type=_positive, default=6, metavar="N", help="of each scene (default: 6)")
    parser.add_argument("--seed", type=_not_negative, default=0, metavar="N", help="of scenes and cameras (default: 0)")
    parser.add_argument("--scale", type=_positive, default=2, metavar="N", help="how much larger (default: 2 times)")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of the environment, such as image_size=128; may be repeated",
    )


def _view(options: argparse.Namespace) -> None:
    """Make a contact sheet of an environment: a row of views for each of some random scenes.

    The pictures are the first that record would take with the same seed and independent scenes.

    Example:
      gqn-rl view gqn_rl/RoomRing-v0 --scenes 4 --views 6 --out sheet.png
    """
    from gqn_rl.pictures import contact_sheet, grid, save_png

    if options.out.suffix.lower() != ".png":
        raise UserError(f"--out must name a .png file, got {options.out}")
    env, kwargs = options.env, dict(parse_override(text) for text in options.overrides)
    if _rig_factors(env) is not None:
        _check_one_env(env, kwargs)
        env, kwargs = CAMERA_RIG, {**kwargs, "env_id": env}
    source = make_scene_source(env, kwargs)
    rows = contact_sheet(source, options.scenes, options.views, options.seed)
    save_png(options.out, grid(rows, options.scale))
    print(f"{options.out}: {options.scenes} scenes of {options.env}, {options.views} views of each")


# pretrain -----------------------------------------------------------------------------------------------------


def _pretrain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        nargs="?",
        help="a YAML file, or a name (default: pretrain/rig for what a camera rig recorded, else pretrain/arm_reach)",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="a recording, or deepmind:NAME:/path, a set that DeepMind published (see docs/pretraining.md)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder, the encoder's later")
    parser.add_argument("--scenes", type=_positive, metavar="N", help="how many of a published set are converted")
    parser.add_argument(
        "--from",
        dest="start_from",
        metavar="ENCODER",
        help="begin with this one's weights instead of random ones: a shipped name, or the folder of a run",
    )
    parser.add_argument("--steps", type=_positive, metavar="N", help="training steps")
    parser.add_argument("--seed", type=_not_negative, metavar="N", help="of weights, batches and noise")
    parser.add_argument("--device", default="auto", metavar="D", help="cpu, cuda or auto (default)")
    parser.add_argument("--threads", type=_positive, metavar="N", help="of the processor (default: all)")
    parser.add_argument("--wandb", choices=("offline", "online", "disabled"), default="offline", help="tracking")
    _add_overrides(parser, "objective.contrast=0")


def _pretrain(options: argparse.Namespace) -> None:
    """Pretrain a GQN, without labels, on a recording, and freeze its encoder.

    A run that was stopped, by Ctrl-C or a crash, goes on with the same command. Several processes, GPUs or machines
    share each batch when torchrun starts the command: torchrun --nproc-per-node 2 train.py pretrain ...

    Example:
      gqn-rl pretrain --data data/arm-reach --out encoders/arm-reach
    """
    import torch

    from gqn_rl.agents.interrupts import StopRequest
    from gqn_rl.agents.tracking import Tracker, check_tracking
    from gqn_rl.allocator import keep_freed_memory
    from gqn_rl.data import load_manifest
    from gqn_rl.deepmind import PREFIX, find_layout, parse_spec
    from gqn_rl.parallel import joined
    from gqn_rl.pretrain_run import claim, follow, run
    from gqn_rl.pretraining import PretrainConfig, Pretraining

    overrides = _given(steps=options.steps, seed=options.seed, start_from=options.start_from)
    default = "pretrain/arm_reach"
    if options.data.startswith(PREFIX):
        overrides["model.fovy"] = find_layout(parse_spec(options.data)[0]).fovy
    elif rigged := _rigged_model(load_manifest(options.data).camera):
        overrides.update(rigged)
        default = "pretrain/rig"
    overrides.update(parse_override(text) for text in options.overrides)
    config = PretrainConfig.from_yaml(find_config(options.config or default, "pretrain"), overrides)
    check_tracking(options.wandb)
    claim(options.out, config)
    keep_freed_memory()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    dataset = _open_data(options.data, options.scenes, config.model.image_size)
    with joined(_device(options.device)) as (world, device), StopRequest() as request:
        pretraining = Pretraining(config, dataset, device, world)
        options.out.mkdir(parents=True, exist_ok=True)
        if not world.leads:
            follow(pretraining, options.out, lambda: request.received)
            return
        tracker = Tracker(options.wandb, options.out, options.out.name, config.to_dict())
        try:
            run(pretraining, options.out, tracker.log, lambda: request.received)
        finally:
            tracker.close()
    print(f"{options.out}: encoder.safetensors, encoder.json, gallery.png. Judge it: gqn-rl probe {options.out}")


def _open_data(data: str, scenes: int | None, image_size: tuple[int, int]) -> SceneDataset:
    """A recording by its folder, or a published set, which is converted the first time."""
    from gqn_rl.data import SceneDataset
    from gqn_rl.deepmind import PREFIX, default_scenes, open_deepmind, parse_spec

    if not data.startswith(PREFIX):
        if scenes is not None:
            raise UserError(f"--scenes is for published sets ({PREFIX}NAME:/path); a recording is taken whole")
        return SceneDataset(data)
    from tqdm import tqdm

    count = scenes or default_scenes(parse_spec(data)[0])
    with tqdm(total=count, unit="scene", desc="converting", leave=False, disable=None) as bar:
        return open_deepmind(data, Path("data") / "deepmind", count, _advance(bar), image_size)


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
    parser.add_argument(
        "encoder", metavar="ENCODER", help="a shipped name, the folder of a pretraining run, or module:Class"
    )
    parser.add_argument("--env", metavar="ID", help="another scene source than the one the encoder was trained on")
    parser.add_argument("--scenes", type=_several, default=5_000, metavar="N", help="held out (default: 5000)")
    parser.add_argument("--seed", type=_positive, default=1_000_003, metavar="N", help="another than the training's")
    parser.add_argument(
        "--outside",
        type=_above_zero,
        default=15.0,
        metavar="DEGREES",
        help="how far above the training dome cameras outside stand at most (default: 15)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where tables, pictures and probe.json go")


def _probe(options: argparse.Namespace) -> None:
    """Measure what a linear probe reads off a frozen encoder, on scenes it has never seen.

    Half of the scenes fit a probe for each quantity, with cameras in the dome that the encoder was
    trained on. The other half scores it, with cameras in the dome and with cameras above it: there
    the very same probe is used, which tells whether the vector means the same from cameras that it
    never saw. A GQN also draws views from unseen sides.

    Example:
      gqn-rl probe arm-reach --scenes 5000 --out runs/probe
    """
    import contextlib

    from tqdm import tqdm

    from gqn_rl.agents.interrupts import StopRequest
    from gqn_rl.agents.vec_scene import encoder_hash
    from gqn_rl.encoder import GQNEncoder, load_encoder
    from gqn_rl.files import locked
    from gqn_rl.probe_report import DRAWN, claim, examine, gqn_of, print_table, write_report
    from gqn_rl.probes import OUTSIDE, ProbePlan, camera_regions, quantities

    if options.out is not None:
        claim(options.out)
    encoder = load_encoder(options.encoder)
    card = encoder.card if isinstance(encoder, GQNEncoder) else {}
    env, env_kwargs = _scenes_to_probe(options, card.get("data"))
    draws = gqn_of(encoder) is not None
    with contextlib.ExitStack() as stack:
        source = make_scene_source(env, env_kwargs)
        stack.callback(getattr(source, "close", lambda: None))
        if isinstance(encoder, GQNEncoder):
            encoder.check(source.camera_metadata)
        if not draws and not quantities(source):
            raise UserError(f"nothing to measure: {env} names no state_groups, and {options.encoder} has no GQN")
        regions = camera_regions(source, options.outside)
        plan = ProbePlan(options.seed, options.scenes, regions, DRAWN if draws else 0)
        if options.out is not None:
            stack.enter_context(locked(options.out))
            claim(options.out)
        with StopRequest() as request, tqdm(total=plan.frames, unit="frame", smoothing=0, disable=None) as bar:

            def progress(frames: int) -> None:
                bar.update(frames)
                if request.received:
                    raise KeyboardInterrupt("interrupted; nothing is written, and the same command starts anew")

            bar.write(f"looking at {plan.scenes:,} held-out scenes of {env} ...")
            sys.stdout.flush()
            findings = examine(encoder, source, plan, progress)
        print_table(findings)
        if OUTSIDE not in regions:
            print(f"cameras inside only: {env} has no `dome` with room above it")
        if not draws:
            print(f"no unseen views drawn: {options.encoder} has no GQN")
        if options.out is not None:
            facts = {
                "encoder": encoder_hash(encoder),
                "env": env,
                "env_kwargs": dict(env_kwargs),
                "renderer": source.camera_metadata["renderer"],
                "seed": plan.seed,
                "scenes": plan.scenes,
                "outside_degrees": options.outside if OUTSIDE in regions else None,
            }
            written = write_report(options.out, findings, facts)
            print(f"{options.out}: {', '.join(path.name for path in written)}")


def _scenes_to_probe(options: argparse.Namespace, recipe: Mapping[str, Any] | None) -> tuple[str, Mapping[str, Any]]:
    """The environment's id and keyword arguments: what ``--env`` says, or the training ``recipe``'s."""
    from gqn_rl.hub import find_reference

    if options.env is not None and _rig_factors(options.env) is not None:
        recorded = recipe["env_kwargs"] if recipe is not None and recipe["env"] == CAMERA_RIG else {}
        same = recorded.get("env_id") == options.env
        return CAMERA_RIG, recorded if same else {"env_id": options.env}
    if options.env is not None and (recipe is None or options.env != recipe["env"]):
        return options.env, {}
    if recipe is None:
        raise UserError(f"{options.encoder} does not say what it was trained on; give its scenes with --env")
    if (
        options.env is None and find_reference(options.encoder) is not None
    ):  # an environment's name is code that gets imported
        raise UserError(
            f"{options.encoder} says it was trained on {recipe['env']}; if you trust that, say it with --env"
        )
    if recipe["env"].startswith("deepmind:"):
        raise UserError(f"{options.encoder} was trained on {recipe['env']}, which cannot be rendered; give --env")
    if options.seed == recipe["seed"]:
        raise UserError(f"--seed {options.seed} is the training recording's; held-out scenes need another")
    return recipe["env"], recipe["env_kwargs"]


# imagine ------------------------------------------------------------------------------------------------------


def _imagine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("encoder", metavar="ENCODER", help="a shipped name, or the folder of a pretraining run")
    parser.add_argument("--env", metavar="ID", help="another scene source than the one the encoder was trained on")
    parser.add_argument("--scenes", type=_several, default=200, metavar="N", help="held out (default: 200)")
    parser.add_argument("--views", type=_positive, default=5, metavar="K", help="context views at most (default: 5)")
    parser.add_argument("--samples", type=_several, default=8, metavar="N", help="from the prior (default: 8)")
    parser.add_argument(
        "--walk",
        type=_positive,
        default=16,
        metavar="K",
        help="views before the last map is drawn, of scenes that have one (default: 16)",
    )
    parser.add_argument("--factors", nargs=2, metavar="F", help="that are added up (default: the scene's first two)")
    parser.add_argument("--blocks", type=_positive, default=50, metavar="N", help="of scenes to add up (default: 50)")
    parser.add_argument("--seed", type=_positive, default=1_000_003, metavar="N", help="another than the training's")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where table and pictures go")


def _imagine(options: argparse.Namespace) -> None:
    """Show what a GQN imagines of a side that it has not seen, as views of held-out scenes arrive.

    For 0 to K context views: how far off its mean picture is, how much its samples differ, and how
    surprised it is by the true view and by one that contradicts the context. Then scenes are added
    up (red sphere - red cube + blue cube), and it is counted how often the nearest is the right one.

    "told apart": in how many scenes the contradiction surprises more than the truth. The error is a
    share of what the mean of all pictures would have. imagination_views.png shows, from left to
    right, the K context views, the truth, the mean picture from one view and from all, and two
    samples; imagination_algebra.png a, b and c of a - b + c, what it looks like, and what it should.

    Of mazes it also draws the map from above, after 1, 2, 4, 8 ... first-person views along a walk.
    "told apart": in how many scenes that is nearer to the true map than to that of a maze that looks
    the same and is laid out otherwise; chance is half. imagination_map_views.png: views so far, the
    predicted map, the true one.

    Example:
      gqn-rl imagine arm-reach --out runs/imagine
    """
    import contextlib
    from itertools import chain, islice

    from tqdm import tqdm

    from gqn_rl.agents.interrupts import StopRequest
    from gqn_rl.algebra import AlgebraPlan, add_up, choose_factors, draw, photograph_blocks
    from gqn_rl.encoder import GQNEncoder, load_encoder
    from gqn_rl.files import locked
    from gqn_rl.imagination import ImaginationPlan, gallery, imagine, photograph, table
    from gqn_rl.imagination_report import (
        ALGEBRA_ROWS,
        ALGEBRA_VIEWS,
        MAP_SCENES,
        SCENES,
        claim,
        print_algebra,
        print_maps,
        print_table,
        summarise_algebra,
        write_maps,
        write_report,
    )
    from gqn_rl.map_imagination import MapPlan, map_gallery, map_table, measure_maps, photograph_maps
    from gqn_rl.types import Mapped

    claim(options.out)
    encoder = load_encoder(options.encoder)
    if not isinstance(encoder, GQNEncoder):
        raise UserError(f"{options.encoder} has no GQN that could draw")
    env, env_kwargs = _scenes_to_probe(options, encoder.card.get("data"))
    sigma = encoder.card.get("pretraining", {}).get("sigma", {}).get("end", 0.1)
    plan = ImaginationPlan(options.seed, options.scenes, options.views, options.samples, sigma)
    with contextlib.ExitStack() as stack:
        source = make_scene_source(env, env_kwargs)
        stack.callback(getattr(source, "close", lambda: None))
        encoder.check(source.camera_metadata)
        factors = choose_factors(source, tuple(options.factors) if options.factors else None)
        sums = None if factors is None else AlgebraPlan(options.seed, options.blocks, factors, ALGEBRA_VIEWS)
        walks = MapPlan(options.seed, options.scenes, options.walk) if isinstance(source, Mapped) else None
        options.out.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(options.out))
        claim(options.out)
        frames = plan.frames + (sums.frames if sums else 0) + (walks.frames if walks else 0)
        with StopRequest() as request, tqdm(total=frames, unit="frame", smoothing=0, disable=None) as bar:

            def progress(frames: int) -> None:
                bar.update(frames)
                if request.received:
                    raise KeyboardInterrupt("interrupted; nothing is written, and the same command starts anew")

            shots = photograph(source, plan, progress)
            first = next(shots)
            rows = table(imagine(encoder.gqn, chain([first], shots), plan))
            added, drawn = None, []
            if sums is not None:
                blocks = photograph_blocks(source, sums, progress)
                some = list(islice(blocks, ALGEBRA_ROWS))
                added = add_up(encoder, chain(some, blocks))
                drawn = [draw(encoder, block) for block in some]
            map_rows, maps = [], []
            if walks is not None:
                walked = photograph_maps(source, walks, progress)
                begun = next(walked)
                map_rows = map_table(measure_maps(encoder.gqn, chain([begun], walked), walks), walks)
                maps = map_gallery(encoder.gqn, begun, walks, MAP_SCENES)
        print_table(rows)
        if sums is not None and added is not None:
            print_algebra(sums.factors, added)
        if map_rows:
            print_maps(map_rows)
        facts = {
            "encoder": encoder.fingerprint,
            "env": env,
            "env_kwargs": dict(env_kwargs),
            "seed": plan.seed,
            "scenes": plan.scenes,
            "samples": plan.samples,
            "sigma": plan.sigma,
            "algebra": summarise_algebra(sums, added) if sums is not None and added is not None else None,
            "map": [row._asdict() for row in map_rows],
        }
        written = write_maps(options.out, map_rows, maps, env) if map_rows else []
        written += write_report(options.out, rows, gallery(encoder.gqn, first, plan, SCENES), drawn, facts)
        print(f"{options.out}: {', '.join(path.name for path in written)}")


# report -------------------------------------------------------------------------------------------------------


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder with the runs' CSV files, at any depth")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the report's folder; written anew")


def _report(options: argparse.Namespace) -> None:
    """Say how data-efficient the arms of a benchmark are, from their CSV files alone.

    The report's folder gets report.md, its figures, and its tables as CSV: steps to 90, ratios with
    95 % intervals, learning curves, time and memory, and when pretraining has paid for itself. Runs
    may be unfinished; the report says which are.

    Example:
      gqn-rl report benchmarks/results --out benchmarks/report
    """
    from gqn_rl.comparison import analyse
    from gqn_rl.report import write_tables
    from gqn_rl.report_figures import draw_figures
    from gqn_rl.results import read_results

    if (options.results / "config.yaml").is_file():
        raise UserError(
            f"{options.results} is the folder of a single run; a report is about a benchmark's results: give the "
            "folder that `gqn-rl benchmark --out` names, by default benchmarks/results"
        )
    if options.out.resolve().is_relative_to(options.results.resolve()):
        raise UserError(f"--out {options.out} lies in {options.results}, whose CSV files are read; choose another")
    report = analyse(*read_results(options.results))
    for path in [*write_tables(options.out, report), *draw_figures(options.out, report)]:
        print(path)


# push ---------------------------------------------------------------------------------------------------------


def _push_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("encoder", metavar="ENCODER", help="a shipped name, or the folder of a pretraining run")
    parser.add_argument("repository", metavar="REPO", help="owner/name or owner/name@branch; made if there is none")
    parser.add_argument("--private", action="store_true", help="nobody but the owner may see the repository")


def _push(options: argparse.Namespace) -> None:
    """Publish a frozen encoder in a repository of the Hugging Face Hub.

    Its weights, its card and a page that describes it go there in one commit. Then --encoder REPO
    loads it anywhere. Log in first: hf auth login, or HF_TOKEN.

    Example:
      gqn-rl push encoders/arm-reach my-name/arm-reach --private
    """
    from gqn_rl.encoder import GQNEncoder

    commit = GQNEncoder.from_pretrained(options.encoder).push_to_hub(options.repository, private=options.private)
    print(f"{commit}\nTrain with it: gqn-rl train --encoder {options.repository}")


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


# environments without views of their own ----------------------------------------------------------------------


def _rig_factors(env_id: str) -> tuple[str, ...] | None:
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


def _rigged_recording(env_id: str, placement: str | None) -> dict[str, Any]:
    """What a recording of ``env_id`` in a camera rig says beside the configuration; nothing where it needs none."""
    factors = _rig_factors(env_id)
    if factors is None:
        if placement is not None:
            raise UserError(f"--cameras places a rig's cameras, but {env_id} has its own, or no MuJoCo model")
        return {}
    rigged: dict[str, Any] = {
        "env": CAMERA_RIG,
        "env_kwargs.env_id": env_id,
        "env_kwargs.placement": placement or "dome",
    }
    if factors == ("goal", "robot"):  # eight of each: a small goal is found among many that one robot meets
        rigged["block"] = {"rows": "goal", "columns": "robot", "height": 8, "width": 8, "family": 4}
    return rigged


def _rigged_model(camera: Mapping[str, Any]) -> dict[str, Any]:
    """What a model has to know of the cameras of a rig, which may stand anywhere; nothing of others."""
    if "distance" not in camera:
        return {}
    return {
        "model.fovy": camera["fovy"],
        "model.image_size": list(camera["image_size"]),
        "model.length_scale": round(camera["distance"] / UNIT_DISTANCE, 3),
    }


def _rig_to_train(config: TrainConfig, encoder: SceneEncoder | None) -> dict[str, Any] | None:
    """Arguments of the rig that the policy of ``config`` needs, as ``encoder`` knows it; None: it needs none."""
    from gqn_rl.envs.rig_stage import plugin_of

    env_id = config.env.id
    sees = config.encoder is not None or config.pixels is not None or "obs_mode" in config.env.kwargs
    if not (sees or plugin_of(env_id)) or _rig_factors(env_id) is None:
        return None
    _check_one_env(env_id, config.env.kwargs)
    card = getattr(encoder, "card", None) or {}
    recorded = card.get("data", {}).get("env_kwargs", {})
    same = recorded if recorded.get("env_id") == env_id else {}
    return {**same, **({} if sees else {"obs_mode": "state"}), **config.env.kwargs, "env_id": env_id}


def _check_one_env(env_id: str, kwargs: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` if a rig around ``env_id`` is told of another environment."""
    if kwargs.get("env_id", env_id) != env_id:
        raise UserError(f"env_id={kwargs['env_id']} is not {env_id}; give {kwargs['env_id']} instead of {env_id}")


def _warn_of_other_scenes(config: TrainConfig, encoder: SceneEncoder | None) -> None:
    """Say so if the card of ``encoder`` tells that it knows another environment than that of ``config``."""
    from gqn_rl.encoder import UNTRAINED

    recipe = (getattr(encoder, "card", None) or {}).get("data") or {}
    recorded = _photographed(recipe.get("env"), recipe.get("env_kwargs") or {})
    here = _photographed(config.env.id, config.env.kwargs)
    if recorded is None or here is None or (config.encoder or "").startswith(UNTRAINED):
        return
    scenes = {_scenes_of(recorded), _scenes_of(here)}
    if len(scenes) > 1 and not any(scenes <= same for same in SAME_SCENES):
        print(
            f"warning: encoder {config.encoder} was pretrained on {recorded}, not on {here}, where it may see little; "
            f"to pretrain one there, begin with: gqn-rl record --env {here} --out DIR",
            file=sys.stderr,
        )


def _photographed(env_id: str | None, kwargs: Mapping[str, Any]) -> str | None:
    """The environment itself, where ``env_id`` is a rig around it."""
    return kwargs.get("env_id") if env_id == CAMERA_RIG else env_id


def _scenes_of(env_id: str) -> str:
    """What the scenes of ``env_id`` are called: it, without its module, its version and what is said of its reward."""
    return re.sub(r"(Dense)?-v\d+$", "", env_id.rpartition(":")[2])


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


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _seeds(text: str) -> list[int]:
    """``0-2,7`` to [0, 1, 2, 7]."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (first.strip().isdecimal() and (last.strip().isdecimal() or not dash)):
            raise argparse.ArgumentTypeError(f"must be like 0-4 or 0,2,5, got {text!r}")
        seeds += range(int(first), int(last if dash else first) + 1)
    if not seeds:
        raise argparse.ArgumentTypeError(f"no seed in {text!r}")
    return seeds


def _positive(text: str) -> int:
    return _whole(text, 1)


def _several(text: str) -> int:
    return _whole(text, 8)


def _not_negative(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if not least <= number < 2**31:
        raise argparse.ArgumentTypeError(f"must be at least {least} and below 2**31, got {number}")
    return number


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return number


#: Command: what adds its options, what runs it, and a line about it. The docstring of what runs it is its help.
COMMANDS: Final[
    dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None], str]]
] = {
    "train": (_train_options, _train, "train a policy (the default)"),
    "evaluate": (_evaluate_options, _evaluate, "replay a trained policy and measure it"),
    "benchmark": (_benchmark_options, _benchmark, "train all arms of a comparison, with several seeds"),
    "record": (_record_options, _record, "photograph random scenes to pretrain on"),
    "view": (_view_options, _view, "make a contact sheet of an environment"),
    "pretrain": (_pretrain_options, _pretrain, "pretrain a GQN on a recording"),
    "probe": (_probe_options, _probe, "measure what a frozen encoder knows"),
    "imagine": (_imagine_options, _imagine, "show what a GQN draws of unseen sides as views arrive"),
    "report": (_report_options, _report, "report on a benchmark's runs"),
    "push": (_push_options, _push, "publish an encoder on the Hugging Face Hub"),
    "doctor": (_doctor_options, _doctor, "check rendering here"),
}


if __name__ == "__main__":
    sys.exit(main())
