"""``push``: an encoder, to the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from gqn_rl.config import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``push``."""
    parser.add_argument("encoder", metavar="ENCODER", help="a shipped name, or the folder of a pretraining run")
    parser.add_argument("repository", metavar="REPO", help="owner/name or owner/name@branch; made if there is none")
    parser.add_argument("--private", action="store_true", help="nobody but the owner may see the repository")
    parser.add_argument("--license", metavar="ID", help="of the weights, as the Hub calls it, such as apache-2.0")
    parser.add_argument("--probe", type=Path, metavar="DIR", help="what `probe --out DIR` found out, for the page")


def run(options: argparse.Namespace) -> None:
    """Publish a frozen encoder in a repository of the Hugging Face Hub.

    Its weights, its card and a page that describes it go there in one commit. Then --encoder REPO
    loads it anywhere. Log in first: hf auth login, or HF_TOKEN.

    Example:
      gqn-rl push encoders/arm-reach my-name/arm-reach --private
      gqn-rl push encoders/mine my-name/mine --license apache-2.0 --probe runs/probe
    """
    from gqn_rl.encoder import GQNEncoder, load_encoder
    from gqn_rl.files import read_json

    encoder = load_encoder(options.encoder)
    if not isinstance(encoder, GQNEncoder):
        raise UserError(f"only what `pretrain` has made can be published, and {options.encoder} is a class of your own")
    if options.license is not None:
        encoder.card["license"] = options.license
    if options.probe is not None:
        probes = read_json(options.probe / "probe.json")
        if not isinstance(probes, dict) or probes.get("encoder") != encoder.fingerprint:
            raise UserError(f"{options.probe} is a probe of another encoder than {options.encoder}")
        encoder.card["probes"] = probes
    commit = encoder.push_to_hub(options.repository, private=options.private)
    print(f"{commit}\nTrain with it: gqn-rl train --encoder {options.repository}")
