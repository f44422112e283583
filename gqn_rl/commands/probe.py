"""``probe``: what a frozen encoder knows."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gqn_rl.commands.options import above_zero, positive, several
from gqn_rl.commands.progress import stoppable
from gqn_rl.commands.scenes import make_scene_source, scenes_to_probe
from gqn_rl.config import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``probe``."""
    parser.add_argument(
        "encoder", metavar="ENCODER", help="a shipped name, the folder of a pretraining run, or module:Class"
    )
    parser.add_argument("--env", metavar="ID", help="another scene source than the one the encoder was trained on")
    parser.add_argument("--scenes", type=several, default=5_000, metavar="N", help="held out (default: 5000)")
    parser.add_argument("--seed", type=positive, default=1_000_003, metavar="N", help="another than the training's")
    parser.add_argument(
        "--outside",
        type=above_zero,
        default=15.0,
        metavar="DEGREES",
        help="how far above the training dome cameras outside stand at most (default: 15; up to straight down)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where tables, pictures and probe.json go")


def run(options: argparse.Namespace) -> None:
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
    from gqn_rl.probes import ProbePlan, camera_regions, quantities, raised

    if options.out is not None:
        claim(options.out)
    encoder = load_encoder(options.encoder)
    card = encoder.card if isinstance(encoder, GQNEncoder) else {}
    env, env_kwargs = scenes_to_probe(options, card)
    draws = gqn_of(encoder) is not None
    with contextlib.ExitStack() as stack:
        source = make_scene_source(env, env_kwargs)
        stack.callback(getattr(source, "close", lambda: None))
        if (check := getattr(encoder, "check", None)) is not None:
            check(source.camera_metadata)
        if not draws and not quantities(source):
            raise UserError(f"nothing to measure: {env} names no state_groups, and {options.encoder} has no GQN")
        regions, band = camera_regions(source, options.outside), raised(source, options.outside)
        plan = ProbePlan(options.seed, options.scenes, regions, DRAWN if draws else 0)
        if options.out is not None:
            stack.enter_context(locked(options.out))
            claim(options.out)
        with StopRequest() as request, tqdm(total=plan.frames, unit="frame", smoothing=0, disable=None) as bar:
            progress = stoppable(bar, request)
            bar.write(f"looking at {plan.scenes:,} held-out scenes of {env} ...")
            sys.stdout.flush()
            findings = examine(encoder, source, plan, progress)
        print_table(findings)
        if findings.readings and plan.scenes // 2 < encoder.size:
            print(
                f"note: {plan.scenes // 2} scenes fit the probe of a vector of {encoder.size} numbers; with more "
                "--scenes it may read more"
            )
        if band is None:
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
                "outside_degrees": None if band is None else round(band.elevation[1] - band.elevation[0], 6),
            }
            written = write_report(options.out, findings, facts)
            print(f"{options.out}: {', '.join(path.name for path in written)}")
