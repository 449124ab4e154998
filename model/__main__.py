"""Lists every network with its parameters beside the paper's figure.

python -m model
python -m model --json
"""

from __future__ import annotations

import argparse
import json

import torch

from model.classes import NYU40
from model.networks import NETWORKS, PAPER_MI, NetworkConfig, count_parameters, supported_backbones


def rows() -> list[dict[str, str | int | float | None]]:
    """One row per network and backbone that go together, for 40 classes and one depth channel."""
    out: list[dict[str, str | int | float | None]] = []
    for name in NETWORKS:
        for backbone in supported_backbones(name):
            with torch.device("meta"):  # shapes without memory or a random start
                params = count_parameters(NetworkConfig(name, backbone, NYU40).build())
            paper = PAPER_MI.get(name) if backbone == "resnet50" else None
            params_mi = round(params / 2**20, 2)
            out.append(
                {"network": name, "backbone": backbone, "params": params, "params_mi": params_mi, "paper_mi": paper}
            )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m model", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")
    args = parser.parse_args()
    if args.json:
        print(json.dumps(rows(), indent=2))
        return
    print(f"{'network':16} {'backbone':14} {'parameters':>12} {'2^20':>8} {'paper':>8}")
    for row in rows():
        paper = "" if row["paper_mi"] is None else f"{row['paper_mi']:8.2f}"
        print(f"{row['network']:16} {row['backbone']:14} {row['params']:12,} {row['params_mi']:8.2f} {paper:>8}")


if __name__ == "__main__":
    main()
