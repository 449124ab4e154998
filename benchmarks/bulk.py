"""`segdepth predict` on many pictures, beside the engine alone: pictures per second, and memory over time.

python benchmarks/bulk.py --out benchmarks/bulk
python benchmarks/bulk.py --count 5000 --output mask --size 1600x1200
python benchmarks/bulk.py --quick

1. The engine alone, before and after: the same model on all cores as a server has it, at its best batch size, without
   files, decoding or encoding.
2. The command on `--count` JPEGs, made of the pictures in examples/ (shifted, mirrored, resized to `--size`), from its
   first answer to its last: starting Python and loading the model are not counted, and reported beside.
3. Its memory (RSS) every half second: in the middle and at the end, and the peak.

The aim is 0.9 of the engine's rate. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import ROOT, jpeg, machine, publish, table
from benchmarks.serving import best_alone
from service.bulk import for_many, suffix_of
from service.outputs import Output
from service.settings import BUNDLED_MODEL, Settings

SAMPLE_S = 0.5


def make_pictures(folder: Path, count: int, size: tuple[int, int]) -> None:
    """`count` different JPEGs of `size` (width, height)."""
    sources = [Image.open(path).convert("RGB").resize(size) for path in sorted(ROOT.glob("examples/images/*.jpg"))]
    rng = np.random.default_rng(0)
    for k in range(count):
        pixels = np.asarray(sources[k % len(sources)])
        pixels = np.roll(pixels, int(rng.integers(0, size[0])), axis=1)[:, :: rng.choice([-1, 1])]
        (folder / f"{k:06}.jpg").write_bytes(jpeg(pixels))


def rss_mb(pid: int) -> float | None:
    """Resident memory; None where the process has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(model: Path, device: str, output: Output, pictures: Path, count: int, out: Path) -> dict[str, Any]:
    """Run the command once.

    Raises:
        SystemExit: it failed, or its answers are not there.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SEGDEPTH_")}
    command = [sys.executable, "-m", "service.cli", "predict", str(pictures), "--out", str(out), "--output", output]
    command += ["--model", str(model), "--device", device]
    suffix = suffix_of(output)

    def answers() -> list[str]:
        return [name for name in os.listdir(out) if name.endswith(suffix)] if out.exists() else []

    # The clock of files' times.
    started = time.time()
    process = subprocess.Popen(
        command, cwd=ROOT, env={**variables, "PYTHONPATH": str(ROOT), "SEGDEPTH_LOG_LEVEL": "warning"}
    )
    first: tuple[float, int] | None = None
    samples: list[tuple[float, int, float]] = []
    while process.poll() is None:
        now, done, memory = time.time() - started, len(answers()), rss_mb(process.pid)
        if done and first is None:
            first = (now, done)
        if memory is not None and done:
            samples.append((now, done, memory))
        # Often until the first answers, from which the rate counts.
        time.sleep(SAMPLE_S if first else 0.01)
    taken = time.time() - started
    made = answers()
    if process.returncode or len(made) != count or first is None:
        raise SystemExit(f"the command ended with {process.returncode} and {len(made)} of {count} answers")
    # Not the process' end: how long closing takes is no part of a rate.
    last = max((out / name).stat().st_mtime for name in made) - started
    middle = [memory for _, done, memory in samples if done >= count / 2]
    return {
        "per_s": (count - first[1]) / max(1e-9, last - first[0]),
        "first_answer_s": first[0],
        "total_s": taken,
        "rss_mb": [[round(at, 1), done, round(memory, 1)] for at, done, memory in samples],
        "rss_peak_mb": max((memory for *_, memory in samples), default=None),
        "rss_middle_mb": middle[0] if middle else None,
        "rss_end_mb": samples[-1][2] if samples else None,
    }


def markdown(results: dict[str, Any]) -> str:
    command = results["command"]
    rows = [
        ["engine alone", results["engine_per_s"], "-", "-", "-", "-"],
        [
            f"segdepth predict --output {results['output']}",
            *(command["per_s"], command["per_s"] / results["engine_per_s"]),
            *(command[f"rss_{when}_mb"] or "-" for when in ("peak", "middle", "end")),
        ],
    ]
    heads = ["", "pictures/s", "ratio", "RSS peak (MB)", "after half", "at the end"]
    about = (
        f"{results['count']} JPEGs of {results['size']}, {results['model']} on {results['device']}; the first answer "
        f"after {command['first_answer_s']:.1f} s, all after {command['total_s']:.1f} s."
    )
    return f"{about}\n\n{table(heads, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="segdepth predict beside its own engine.")
    add = parser.add_argument
    add("--model", type=Path, default=BUNDLED_MODEL)
    add("--device", default="cpu")
    add("--count", type=int, default=1000, help="pictures (1000)")
    add("--size", default="640x480", help="of the pictures, width x height (640x480)")
    add("--output", default="json", help="of the command (json)")
    add("--seconds", type=float, default=20.0, help="of the engine alone, half before and half after")
    add("--quick", action="store_true", help="few pictures: shows that it runs, no figures")
    add("--out", type=Path, help="write OUT.json and OUT.md")
    args = parser.parse_args()
    count = 24 if args.quick else args.count
    seconds = 0.2 if args.quick else args.seconds / 2
    width, height = (int(side) for side in args.size.split("x"))

    def engine() -> float:
        settings = for_many(Settings(model=args.model, device=args.device))
        # Four batches are tried, of several engines also side by side.
        each_s = seconds / (8 if len(settings.devices) > 1 else 4)
        _, rates = best_alone(settings.model_copy(update={"max_batch": 8}), each_s)
        return max(rates.values())

    with tempfile.TemporaryDirectory() as folder:
        pictures, out = Path(folder) / "pictures", Path(folder) / "answers"
        pictures.mkdir()
        make_pictures(pictures, count, (width, height))
        on = machine()
        before = engine()
        command = measure(args.model, args.device, args.output, pictures, count, out)
        after = engine()
    results = {
        "machine": on,
        "model": args.model.name,
        "device": args.device,
        "count": count,
        "size": args.size,
        "output": args.output,
        # Half before and half after: what changes on the machine meanwhile meets both sides.
        "engine_per_s": (before + after) / 2,
        "command": command,
    }
    publish(args.out, results, markdown(results))


if __name__ == "__main__":
    main()
