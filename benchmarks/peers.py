"""The service beside other servers: the same model and the same job.

python benchmarks/peers.py --threads 1 --also openvino-bf16,openvino-bf16 --out benchmarks/peers
python benchmarks/peers.py --only fastapi litserve --quick

Each peer (`benchmarks/peer_apps/*_app.py`) is written as its own documentation teaches, and runs twice: with Pillow,
as a tutorial would, and with our codecs. Their networks have `--threads` threads each, and those that run a network in
a process of its own have `--workers` of them; the service runs as it starts.
Each peer is installed into a virtual environment of its own (`build/benchmarks`), from the package index, at its newest
version; numpy, Pillow, ONNX Runtime and isal are those of this environment.
"""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import environment, machine, publish, serve_command
from benchmarks.contest import FORM, RAW, Entry, add_load_options, load_of, measure, summary
from service.cores import usable_cores
from service.settings import BUNDLED_MODEL


@dataclass(frozen=True)
class Peer:
    """What the Python of a peer's environment runs (PORT stands for the port), and how it is asked."""

    command: str
    ready: str = "/health"
    path: str = "/predict"
    upload: str = FORM
    extras: str = ""
    """Of the package."""


PEERS = {
    "fastapi": Peer("-m uvicorn --log-level warning --no-access-log --port PORT benchmarks.peer_apps.fastapi_app:app"),
    "litserve": Peer("-m benchmarks.peer_apps.litserve_app PORT"),
    "bentoml": Peer(
        "-m bentoml serve benchmarks.peer_apps.bentoml_app:Rooms --host 127.0.0.1 --port PORT", ready="/readyz"
    ),
    # It has one path, no health route, and takes bodies as they are.
    "mosec": Peer(
        "-m benchmarks.peer_apps.mosec_app --address 127.0.0.1 --port PORT --log-level error",
        ready="/metrics",
        path="/inference",
        upload=RAW,
    ),
    "ray": Peer("-m benchmarks.peer_apps.ray_app PORT", extras="[serve]"),
}
"""By the name of the package."""


def version_of(python: str, name: str) -> str:
    code = f"from importlib.metadata import version; print(version({name!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="The service beside other servers.")
    add = parser.add_argument
    add("--model", type=Path, default=BUNDLED_MODEL)
    add("--free", action="store_true", help="a network that costs nothing in the peers; the service is left out")
    add("--threads", type=int, default=1, help="of each network (default: 1)")
    add("--workers", type=int, default=usable_cores(), help="processes with a network (default: as many as cores)")
    add("--max-batch", type=int, default=8)
    add("--also", nargs="+", default=[], metavar="DEVICE", help="the service on these too, such as openvino-bf16")
    add("--only", nargs="+", choices=list(PEERS), default=list(PEERS), help="these peers")
    add_load_options(parser)
    args = parser.parse_args()
    seconds, rounds, connections = load_of(args)

    model = "free" if args.free else str(args.model.resolve())
    entries = []
    if not args.free:
        command = serve_command("PORT", model)
        entries.append(Entry("segdepth, as it starts", command, {"SEGDEPTH_LOG_LEVEL": "warning"}, "/health/ready"))
        for device in args.also:
            variables = {"SEGDEPTH_DEVICE": device, "SEGDEPTH_LOG_LEVEL": "warning"}
            entries.append(Entry(f"segdepth, SEGDEPTH_DEVICE={device}", command, variables, "/health/ready"))
    versions = {}
    for name in args.only:
        peer = PEERS[name]
        python = environment(name, [name + peer.extras])
        versions[name] = version_of(python, name)
        for codecs in ("pillow", "ours"):
            variables = {
                "PEER_MODEL": model,
                "PEER_CODECS": codecs,
                "PEER_THREADS": str(args.threads),
                "PEER_WORKERS": str(args.workers),
                "PEER_BATCH": str(args.max_batch),
            }
            label = f"{name} {versions[name]}, " + ("Pillow" if codecs == "pillow" else "our codecs")
            command = [python, *peer.command.split()]
            entries.append(Entry(label, command, variables, peer.ready, peer.path, peer.upload))
    on = machine()
    results = measure(entries, connections, seconds, rounds, (args.width, args.height))
    figures, markdown = summary(results, entries[0].name)
    job = f"{args.width}x{args.height} JPEG in, JSON out, model {Path(model).name}"
    peers = f"of the peers' networks {args.threads} thread(s) and {args.workers} process(es)"
    note = f"{job}; {peers}; medians of {rounds} rounds, ratios to {entries[0].name}.\n\n"
    publish(args.out, {"machine": on, "versions": versions, "seconds": seconds, "servers": figures}, note + markdown)


if __name__ == "__main__":
    main()
