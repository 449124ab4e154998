"""Servers that do one job, measured in turn: what `ceiling.py` and `peers.py` share."""

from __future__ import annotations

import argparse
import base64
import io
import json
import statistics
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import free_port, jpeg, ms, picture, server, table
from benchmarks.load import Load, Measured, Request, run

BOUNDARY = "segdepth-benchmark"
RAW = "image/jpeg"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True)
class Entry:
    """One server: how it is started (PORT stands for the port), asked whether it is ready, and asked for answers."""

    name: str
    command: Sequence[str]
    variables: dict[str, str]
    ready: str = "/health"
    path: str = "/predict"
    upload: str = RAW
    """The content type, `RAW` or `FORM`."""


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """The picture and the load, and where the figures go."""
    add = parser.add_argument
    add("--width", type=int, default=640)
    add("--height", type=int, default=480)
    add("--seconds", type=float, default=10.0)
    add("--rounds", type=int, default=3)
    add("--quick", action="store_true", help="a second and a round: shows that it runs, no figures")
    add("--out", type=Path, help="write OUT.json and OUT.md")


def load_of(args: argparse.Namespace) -> tuple[float, int, list[int]]:
    """Seconds, rounds, and numbers of connections."""
    return (1.0, 1, [1, 8]) if args.quick else (args.seconds, args.rounds, [1, 8, 32])


def multipart(data: bytes) -> bytes:
    """A form with the one field `file`."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: {RAW}\r\n\r\n'
    )
    return head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def check(url: str, body: bytes, content_type: str, size: tuple[int, int]) -> None:
    """That one answer does the whole job: three PNGs of the picture's size, and classes.

    Raises:
        SystemExit: it does not; a server that does less would win.
    """
    request = urllib.request.Request(url, body, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            found = json.load(response)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url} says {error.code}: {error.read()[:300]!r}") from None
    flat = {**found, **found.get("segmentation", {}), **found.get("depth", {})}
    modes = []
    for name in ("mask_png", "depth_png", "color_png"):
        with Image.open(io.BytesIO(base64.b64decode(flat[name]))) as image:
            modes.append(image.mode)
            if image.size != size or np.asarray(image).ndim < 2:
                raise SystemExit(f"{url}: {name} has the size {image.size}, not {size}")
    if modes[0] != "P" or not modes[1].startswith("I") or modes[2] not in ("P", "RGB") or not flat["classes"]:
        raise SystemExit(f"{url} does not do the job: {modes}, {flat['classes']}")


def measure(
    entries: Sequence[Entry], connections: Sequence[int], seconds: float, rounds: int, size: tuple[int, int]
) -> dict[str, list[dict[str, Measured]]]:
    """Every entry `rounds` times, in turn: entry -> rounds -> connections -> figures."""
    results: dict[str, list[dict[str, Measured]]] = {entry.name: [] for entry in entries}
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, list[str]] = {RAW: [], FORM: []}
        for seed in range(4):
            data = jpeg(picture(*size, seed))
            for kind, body in ((RAW, data), (FORM, multipart(data))):
                file = Path(folder) / f"{seed}-{len(body)}"
                file.write_bytes(body)
                files[kind].append(str(file))
        for _ in range(rounds):
            for entry in entries:
                port = free_port()
                command = [part.replace("PORT", str(port)) for part in entry.command]
                with server(command, port, entry.ready, **entry.variables) as pid:
                    url = f"http://127.0.0.1:{port}{entry.path}"
                    check(url, Path(files[entry.upload][0]).read_bytes(), entry.upload, size)
                    requests = [Request(entry.path, file, entry.upload) for file in files[entry.upload]]
                    load = Load("127.0.0.1", port, requests, seconds, warmup_s=min(2.0, seconds / 2), session=pid)
                    got = {str(n): run(replace(load, connections=n)) for n in connections}
                results[entry.name].append(got)
                print(
                    entry.name,
                    {n: (round(m.ok_per_s, 1), m.statuses) for n, m in got.items()},
                    file=sys.stderr,
                    flush=True,
                )
    return results


def summary(results: dict[str, list[dict[str, Measured]]], against: str) -> tuple[dict[str, Any], str]:
    """Medians over the rounds, as figures and as a table: what a picture took of the cores at the best throughput, and
    the ratio of that to the best of `against`."""
    best: dict[str, float] = {}
    figures: dict[str, Any] = {}
    rows = []
    for name, rounds in results.items():
        rates = {n: statistics.median(got[n].ok_per_s for got in rounds) for n in rounds[0]}
        best[name] = max(rates.values())
        figures[name] = {"per_s": rates, "rounds": [{n: asdict(m) for n, m in got.items()} for got in rounds]}
    for name, rounds in results.items():
        rates = figures[name]["per_s"]
        first = [got[next(iter(rates))].ok["p50"] for got in rounds]
        middle = statistics.median(p50 for p50 in first if p50 is not None) if any(first) else None
        failed = sum(k for got in rounds for m in got.values() for status, k in m.statuses.items() if status != "200")
        ratio = best[name] / best[against] if best[against] else 0.0
        busiest = [got[max(rates, key=rates.__getitem__)] for got in rounds]
        cpu = statistics.median(1000 * (m.server_cpu or 0) / m.ok_per_s if m.ok_per_s else 0.0 for m in busiest)
        # Nothing at all was counted where the workers of a server left its session.
        rows.append([name, *rates.values(), ms(middle), cpu if cpu >= 1 else "-", failed, ratio])
    numbers = list(next(iter(figures.values()))["per_s"])
    rate_heads = [f"pictures/s, {n} connections" for n in numbers]
    heads = ["server", *rate_heads, f"p50 ms, {numbers[0]}", "ms of a core a picture", "failed", "ratio"]
    return figures, table(heads, rows)
