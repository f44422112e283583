"""``pretrain``: a GQN, on a recording or a published data set."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gqn_rl.commands.configurations import find_config
from gqn_rl.commands.options import add_overrides, given, not_negative, positive
from gqn_rl.config import UserError, parse_override

if TYPE_CHECKING:
    from gqn_rl.data import SceneDataset

#: Metres between cameras and scene for which the model's lengths were chosen (ArmReach: 1.7 to 2.0).
UNIT_DISTANCE: Final = 1.85


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``pretrain``."""
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
    parser.add_argument("--scenes", type=positive, metavar="N", help="how many of a published set are converted")
    parser.add_argument(
        "--from",
        dest="start_from",
        metavar="ENCODER",
        help="begin with this one's weights instead of random ones: a shipped name, or the folder of a run",
    )
    parser.add_argument("--steps", type=positive, metavar="N", help="training steps")
    parser.add_argument("--seed", type=not_negative, metavar="N", help="of weights, batches and noise")
    parser.add_argument("--device", default="auto", metavar="D", help="cpu, cuda or auto (default)")
    parser.add_argument("--threads", type=positive, metavar="N", help="of the processor (default: all)")
    parser.add_argument("--wandb", choices=("offline", "online", "disabled"), default="offline", help="tracking")
    add_overrides(parser, "any key of the configuration, such as objective.contrast=0")


def run(options: argparse.Namespace) -> None:
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
    from gqn_rl.pretrain_run import Log, claim, follow, run
    from gqn_rl.pretraining import PretrainConfig, Pretraining

    overrides = given(steps=options.steps, seed=options.seed, start_from=options.start_from)
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
        if not (options.out / "checkpoint.pt").exists():
            pretraining.begin()  # what it starts from may not be there: say so before anything is written
        options.out.mkdir(parents=True, exist_ok=True)
        if not world.leads:
            follow(pretraining, options.out, lambda: request.received)
            return

        @contextlib.contextmanager
        def tracking() -> Iterator[Log]:
            tracker = Tracker(options.wandb, options.out, options.out.name, config.to_dict())
            try:
                yield tracker.log
            finally:
                tracker.close()

        run(pretraining, options.out, tracking, lambda: request.received)
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
        return open_deepmind(data, Path("data") / "deepmind", count, bar.update, image_size)


def _rigged_model(camera: Mapping[str, Any]) -> dict[str, Any]:
    """What a model has to know of the cameras of a rig, which may stand anywhere; nothing of others."""
    if "distance" not in camera:
        return {}
    return {
        "model.fovy": camera["fovy"],
        "model.image_size": list(camera["image_size"]),
        "model.length_scale": round(camera["distance"] / UNIT_DISTANCE, 3),
    }


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):  # another has not been tried, and mps has no double precision
            raise UserError(f"device {name!r} is not supported; valid: cpu, cuda, cuda:N, auto")
        return str(torch.zeros(1, device=device).device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
