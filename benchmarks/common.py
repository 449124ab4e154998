"""What the serving benchmarks share: pictures, servers in processes of their own, and how results are written."""

from __future__ import annotations

import io
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service import images, kernels
from service.engine import OnnxEngine
from service.settings import BUNDLED_MODEL

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples" / "images").glob("*.jpg"))


def picture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """One of the example pictures, uint8 [H, W, 3]: what rooms look like decides how large their files are, and what
    decoding them takes. Enlarged, it gets noise as a phone's camera leaves it, for a photo is never as smooth."""
    with Image.open(EXAMPLES[seed % len(EXAMPLES)]) as image:
        example = image.convert("RGB")
    pixels = np.asarray(example.resize((width, height), Image.Resampling.BICUBIC))
    if width * height <= example.width * example.height:
        return pixels
    noise = np.random.default_rng(seed).normal(0.0, 4.0, (height, width, 1)).astype(np.float32)
    noisy: NDArray[np.uint8] = (pixels + noise).clip(0, 255).astype(np.uint8)
    return noisy


def jpeg(pixels: NDArray[np.uint8], quality: int = 90) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


def maps(width: int, height: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Labels and depth in mm, [H, W], as the bundled model gives them for an example picture."""
    engine = OnnxEngine(BUNDLED_MODEL)
    canvas, box = images.fit(picture(width, height, seed), engine.card.input.sizes)
    found = engine.infer(canvas[None])
    engine.close()
    return images.unfit_nearest(found.labels[0], box), images.unfit_depth(found.depth[0], box)


# --- environments ---------------------------------------------------------------------------------------------

SAME = ["numpy", "pillow", "onnxruntime", "isal"]
"""Packages that every environment has in the version of this one."""


def environment(name: str, packages: Sequence[str]) -> str:
    """The interpreter of `build/benchmarks/NAME`, which has what the service needs, and the newest `packages`.

    It is made on first use, from the package index; delete the folder to make it anew.
    """
    folder = ROOT / "build" / "benchmarks" / name
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        venv.create(folder, clear=True)
        dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        same = [f"{package}=={version(package)}" for package in SAME]
        others = [dependency for dependency in dependencies if not dependency.startswith(tuple(SAME))]
        install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
        subprocess.run([*install, *same, *others, *packages], check=True, stdout=sys.stderr)
        (folder / "installed").touch()
    return str(python)


# --- servers --------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def get(url: str, timeout: float = 10.0) -> tuple[int, bytes]:
    """Status and body; status 0 where nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def serve_command(port: int | str, model: Path | str) -> list[str]:
    """What starts the service."""
    return [sys.executable, "-m", "service.cli", "serve", "--port", str(port), "--model", str(model)]


@contextmanager
def server(command: Sequence[str], port: int, ready: str, wait_s: float = 120.0, **variables: str) -> Iterator[int]:
    """Run a server until the end of the block; its process id is given once GET `ready` says 200.

    It has a session of its own, so that the workers of those that fork end with it, and count with it.
    """
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SEGDEPTH_")}
    environment = {**outside, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **variables}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=sys.stderr, stderr=sys.stderr, start_new_session=True
    )
    try:
        until = time.monotonic() + wait_s
        while get(f"http://127.0.0.1:{port}{ready}")[0] != 200:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"this server did not start: {' '.join(command)}")
            time.sleep(0.1)
        yield process.pid
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(15)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
        process.wait()


# --- results --------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "loops": "compiled" if kernels.compiled else "NumPy",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats get three significant digits."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def publish(out: Path | None, results: dict[str, Any], markdown: str) -> None:
    """Print the Markdown; with `out`, write it to `out`.md and the figures to `out`.json."""
    on = results["machine"]
    where = (
        f"{on['cores']} cores of {on['cpu']}, Python {on['python']}, loops over pixels {on['loops']}, {on['date']}, "
        f"load before {on['load_before']:.1f}"
    )
    markdown = f"{markdown}\n\n{where}\n"
    print(markdown)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
        out.with_suffix(".md").write_text(markdown)
