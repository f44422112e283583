"""``imagine``: what a GQN draws of unseen sides as views arrive."""

from __future__ import annotations

import argparse
from pathlib import Path

from gqn_rl.commands.options import positive, several, two_or_more
from gqn_rl.commands.progress import stoppable
from gqn_rl.commands.scenes import make_scene_source, scenes_to_probe
from gqn_rl.config import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``imagine``."""
    parser.add_argument("encoder", metavar="ENCODER", help="a shipped name, or the folder of a pretraining run")
    parser.add_argument("--env", metavar="ID", help="another scene source than the one the encoder was trained on")
    parser.add_argument("--scenes", type=several, default=200, metavar="N", help="held out (default: 200)")
    parser.add_argument("--views", type=positive, default=5, metavar="K", help="context views at most (default: 5)")
    parser.add_argument("--samples", type=several, default=8, metavar="N", help="from the prior (default: 8)")
    parser.add_argument(
        "--walk",
        type=positive,
        default=16,
        metavar="K",
        help="views before the last map is drawn, of scenes that have one (default: 16)",
    )
    parser.add_argument("--factors", nargs=2, metavar="F", help="that are added up (default: the scene's first two)")
    parser.add_argument("--blocks", type=two_or_more, default=50, metavar="N", help="of scenes to add up (default: 50)")
    parser.add_argument("--seed", type=positive, default=1_000_003, metavar="N", help="another than the training's")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where table and pictures go")


def run(options: argparse.Namespace) -> None:
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

    from tqdm import tqdm

    from gqn_rl.agents.interrupts import StopRequest
    from gqn_rl.algebra import AlgebraPlan, choose_factors
    from gqn_rl.encoder import GQNEncoder, load_encoder
    from gqn_rl.files import locked
    from gqn_rl.imagination import ImaginationPlan
    from gqn_rl.imagination_report import ALGEBRA_VIEWS, Plans, claim, examine, print_findings, write_findings
    from gqn_rl.map_imagination import MapPlan
    from gqn_rl.types import Mapped

    claim(options.out)
    encoder = load_encoder(options.encoder)
    if not isinstance(encoder, GQNEncoder):
        raise UserError(f"{options.encoder} has no GQN that could draw")
    env, env_kwargs = scenes_to_probe(options, encoder.card)
    sigma = encoder.card.get("pretraining", {}).get("sigma", {}).get("end", 0.1)
    with contextlib.ExitStack() as stack:
        source = make_scene_source(env, env_kwargs)
        stack.callback(getattr(source, "close", lambda: None))
        encoder.check(source.camera_metadata)
        factors = choose_factors(source, tuple(options.factors) if options.factors else None)
        plans = Plans(
            ImaginationPlan(options.seed, options.scenes, options.views, options.samples, sigma),
            None if factors is None else AlgebraPlan(options.seed, options.blocks, factors, ALGEBRA_VIEWS),
            MapPlan(options.seed, options.scenes, options.walk) if isinstance(source, Mapped) else None,
        )
        stack.enter_context(locked(options.out))
        claim(options.out)
        with StopRequest() as request, tqdm(total=plans.frames, unit="frame", smoothing=0, disable=None) as bar:
            found = examine(encoder, source, plans, stoppable(bar, request))
        print_findings(plans, found)
        facts = {"encoder": encoder.fingerprint, "env": env, "env_kwargs": dict(env_kwargs)}
        written = write_findings(options.out, plans, found, facts)
        print(f"{options.out}: {', '.join(path.name for path in written)}")
