"""``push``: an encoder, to the Hugging Face Hub."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``push``."""
    parser.add_argument("encoder", metavar="ENCODER", help="a shipped name, or the folder of a pretraining run")
    parser.add_argument("repository", metavar="REPO", help="owner/name or owner/name@branch; made if there is none")
    parser.add_argument("--private", action="store_true", help="nobody but the owner may see the repository")


def run(options: argparse.Namespace) -> None:
    """Publish a frozen encoder in a repository of the Hugging Face Hub.

    Its weights, its card and a page that describes it go there in one commit. Then --encoder REPO
    loads it anywhere. Log in first: hf auth login, or HF_TOKEN.

    Example:
      gqn-rl push encoders/arm-reach my-name/arm-reach --private
    """
    from gqn_rl.encoder import GQNEncoder

    commit = GQNEncoder.from_pretrained(options.encoder).push_to_hub(options.repository, private=options.private)
    print(f"{commit}\nTrain with it: gqn-rl train --encoder {options.repository}")
