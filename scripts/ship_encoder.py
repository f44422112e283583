"""Put a pretrained encoder, with what its probe measured, where ``load_encoder(NAME)`` finds it.

python train.py pretrain --data data/arm-reach --out runs/arm-reach
python train.py probe runs/arm-reach --out runs/probe
python scripts/ship_encoder.py runs/arm-reach arm-reach --probe runs/probe
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gqn_rl.encoder import SHIPPED
from gqn_rl.files import read_json, write_bytes, write_json


def main() -> None:
    """Copy the weights, and the card with the entry ``probes``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a pretraining run")
    parser.add_argument("name", help="of the shipped encoder")
    parser.add_argument("--probe", type=Path, required=True, metavar="DIR", help="what `probe` wrote about it")
    options = parser.parse_args()
    card, probes = read_json(options.run / "encoder.json"), read_json(options.probe / "probe.json")
    if probes["encoder"] != card["fingerprint"]:
        parser.error(f"{options.probe} is about encoder {probes['encoder']}, not {card['fingerprint']}")
    write_bytes(SHIPPED / f"{options.name}.safetensors", (options.run / "encoder.safetensors").read_bytes())
    write_json(SHIPPED / f"{options.name}.json", {**card, "probes": probes})
    print(f"{SHIPPED / options.name}.safetensors, .json")


if __name__ == "__main__":
    main()
