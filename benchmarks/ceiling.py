"""What all but the network costs: the service and a plain FastAPI + Pillow one, with a network that costs nothing.

python benchmarks/ceiling.py --out benchmarks/ceiling
python benchmarks/ceiling.py --quick

All do the same job (`benchmarks/peer_apps/job.py`): a JPEG in, JSON with mask, depth, coloured depth and what is in the
picture out. The plain one (`benchmarks/peer_apps/fastapi_app.py`) is written as a tutorial would; its second row has
our codecs. "Pixel processes" is our service with SEGDEPTH_PIXEL_WORKERS=2. What our service does besides (checks,
deadlines, queue, metrics) is in its figures.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.common import machine, publish
from benchmarks.contest import FORM, Entry, add_load_options, load_of, measure, summary

UVICORN = [sys.executable, "-m", "uvicorn", "--log-level", "warning", "--no-access-log", "--port", "PORT"]


def main() -> None:
    parser = argparse.ArgumentParser(description="The service with a network that costs nothing.")
    add_load_options(parser)
    args = parser.parse_args()
    seconds, rounds, connections = load_of(args)

    def plain(codecs: str) -> Entry:
        variables = {"PEER_MODEL": "free", "PEER_CODECS": codecs}
        name = "FastAPI + Pillow" if codecs == "pillow" else "FastAPI with our codecs"
        return Entry(name, [*UVICORN, "benchmarks.peer_apps.fastapi_app:app"], variables, upload=FORM)

    service = [*UVICORN, "--factory", "benchmarks.peer_apps.ours_free:create"]
    entries = [
        Entry("segdepth, raw body", service, {}, "/health/ready"),
        Entry("segdepth, multipart", service, {}, "/health/ready", upload=FORM),
        Entry("segdepth, pixel processes", service, {"SEGDEPTH_PIXEL_WORKERS": "2"}, "/health/ready"),
        plain("ours"),
        plain("pillow"),
    ]
    on = machine()
    results = measure(entries, connections, seconds, rounds, (args.width, args.height))
    figures, markdown = summary(results, "FastAPI + Pillow")
    note = (
        f"{args.width}x{args.height} JPEG in, JSON out, a network that costs nothing; medians of {rounds} rounds.\n\n"
    )
    publish(args.out, {"machine": on, "seconds": seconds, "rounds": rounds, "servers": figures}, note + markdown)


if __name__ == "__main__":
    main()
