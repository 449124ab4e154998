"""Pictures per second of one model on the CPU: ONNX Runtime and OpenVINO, in fp32, in int8, and in bf16 where there is.

python deploy/export.py CHECKPOINT --out model.onnx
python deploy/export.py CHECKPOINT --out int8.onnx --precision int8 --calibration DATA
python benchmarks/cpu.py model.onnx --int8 int8.onnx --out benchmarks/cpu

Measured are the service's own engines, as it sets them up. In each round every engine runs every batch size once, in
an order that changes from round to round, so that a change of the machine's load meets them all; a ratio is the median
over the rounds of the ratios within a round. OUT.json and OUT.md are written; `--quick` shows in one round that it
works. What int8 loses is not measured here: it is in the card of the file, and so in both results.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import random
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from service.arrays import UInt8
from service.cores import usable_cores
from service.devices import load_engine
from service.engine import Engine, read_card
from service.errors import StartupError

BATCHES = (1, 4, 8)
BASE = "onnxruntime fp32"


def contestants(model: Path, int8: Path | None) -> list[tuple[str, Path, str]]:
    """Name, file and device of each."""
    found: list[tuple[str, Path, str]] = [(BASE, model, "cpu"), ("openvino fp32", model, "openvino")]
    found.append(("openvino bf16", model, "openvino-bf16"))
    if int8 is not None:
        found += [("onnxruntime int8", int8, "cpu"), ("openvino int8", int8, "openvino")]
    return found


def rate(engine: Engine, batch: UInt8, seconds: float) -> float:
    """Pictures per second, of as many runs as take at least `seconds`."""
    runs, began = 0, time.perf_counter()
    while True:
        engine.infer(batch)
        runs += 1
        passed = time.perf_counter() - began
        if passed >= seconds:
            return runs * len(batch) / passed


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def markdown(result: dict[str, Any]) -> str:
    batches = [str(n) for n in result["batches"]]
    lines = [
        f"{result['model']['name']} at {result['size'][0]}x{result['size'][1]}, {result['cpu']}, "
        f"{result['threads']} threads, {result['rounds']} rounds; pictures per second, and times {BASE}.",
        "",
        "| engine | " + " | ".join(f"batch {n}" for n in batches) + " |",
        "|---|" + "---|" * len(batches),
    ]
    for name, by_batch in result["engines"].items():
        cells = [f"{by_batch[n]['pictures_per_s']:.2f} ({by_batch[n]['ratio']:.2f}x)" for n in batches]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", *(f"Not measured: {name}: {reason}" for name, reason in result["left_out"].items())]
    if agreement := result["int8_agreement"]:
        lines.append(
            f"int8 on {agreement['pictures']} pictures of {agreement['data']} {agreement['split']}: mIoU "
            f"{agreement['fp32']['miou']:.4f} -> {agreement['int8']['miou']:.4f}, rmse "
            f"{agreement['fp32']['rmse']:.4f} -> {agreement['int8']['rmse']:.4f} m ({agreement['rmse_loss']:+.2%})."
        )
    return "\n".join(lines).rstrip() + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Pictures per second of one model on the CPU.")
    add = parser.add_argument
    add("model", type=Path, help="fp32 file of export.py")
    add("--int8", type=Path, help="int8 file of the same checkpoint")
    add("--out", type=Path, required=True, help="without suffix: OUT.json and OUT.md are written")
    add("--threads", type=int, default=0, help="0: one per core")
    add("--rounds", type=int, default=7)
    add("--seconds", type=float, default=3.0, help="of each engine and batch size in a round, at least")
    add("--quick", action="store_true", help="one round of one run each, batches 1 and 4")
    args = parser.parse_args(argv)
    batches = BATCHES[:2] if args.quick else BATCHES
    rounds, seconds = (1, 0.0) if args.quick else (args.rounds, args.seconds)

    card = read_card(args.model)
    size = card.input.sizes[0]
    int8_card = read_card(args.int8) if args.int8 else None
    if int8_card and (int8_card.precision, int8_card.version) != ("int8", card.version):
        parser.error(f"{args.int8} is not {args.model} in int8")
    pictures = np.random.default_rng(0).integers(0, 256, (max(batches), *size, 3), dtype=np.uint8)

    engines: dict[str, Engine] = {}
    left_out: dict[str, str] = {}
    for name, path, device in contestants(args.model, args.int8):
        try:
            engines[name] = load_engine(path, device, threads=args.threads, max_batch=max(batches))
        except StartupError as error:  # no bf16, no OpenVINO
            left_out[name] = str(error)
            continue
        for n in batches:
            engines[name].infer(pictures[:n])

    rates: dict[str, dict[int, list[float]]] = {name: {n: [] for n in batches} for name in engines}
    cells = [(name, n) for n in batches for name in engines]
    for turn in range(rounds):
        random.Random(turn).shuffle(cells)
        for name, n in cells:
            rates[name][n].append(rate(engines[name], pictures[:n], seconds))
    result = {
        "model": {"name": card.name, "version": card.version, "parameters": card.parameters},
        "size": list(size),
        "cpu": processor(),
        "threads": args.threads or usable_cores(),
        "versions": {p: importlib.metadata.version(p) for p in ("onnxruntime", "openvino") if _installed(p)},
        "batches": list(batches),
        "rounds": rounds,
        "seconds": seconds,
        "engines": {
            name: {
                str(n): {
                    "pictures_per_s": statistics.median(found),
                    "ratio": statistics.median(a / b for a, b in zip(found, rates[BASE][n], strict=True)),
                }
                for n, found in by_batch.items()
            }
            for name, by_batch in rates.items()
        },
        "left_out": left_out,
        "int8_agreement": int8_card.agreement if int8_card else None,
    }
    args.out.with_name(args.out.name + ".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = markdown(result)
    args.out.with_name(args.out.name + ".md").write_text(text, encoding="utf-8")
    print(text, end="")


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
