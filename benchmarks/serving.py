"""The service under load, beside its own engine: throughput, latency, overload and recovery.

python benchmarks/serving.py --out benchmarks/serving
python benchmarks/serving.py --model model.onnx --threads 2 --picture room.jpg
python benchmarks/serving.py --quick

1. The engine alone: pictures per second of the same model with the same threads, without any server: in one engine that
   has all of them, and in those of the service side by side where it has several, by batch.
2. Closed loop: 1, 2, 8 and 32 connections, each of which asks again when it has its answer. JPEG in, JSON out. Before
   each, the best of these for as long, in several rounds: the machine changes meanwhile, so the share of the engine's
   throughput is the median of the rounds' own. Then every other output that the server offers, with 8 connections.
3. Open loop: requests arrive at 50 % and 80 % of the highest throughput of step 2, at equal intervals (as wrk2, vegeta
   and k6 send them) and at random (Poisson, as independent users do). Latency counts from the arrival. At random and
   80 %, any one server that takes the same time for every picture answers 1 % of them only after 11 times that time
   (M/D/1: the chance to wait longer than t of these times falls as exp(-xt), with 0.8 (exp(x) - 1) = x); less is for
   batches that cost less than their pictures one by one, and for cores to spare.
4. Overload: five times that, in several rounds, before each of which the highest throughput is measured again.
   Goodput (what is answered within that time), what is refused and how fast, whether refusals say when to come back,
   how `/health/live` answers meanwhile, and how long the server takes to be itself again; of the round whose goodput is
   the median.

Load comes from the same machine (`benchmarks/load.py`), and what it takes is in the results.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import free_port, get, jpeg, machine, ms, picture, publish, serve_command, server, table
from benchmarks.cpu import rate
from benchmarks.load import Load, Measured, Request, Sending, run
from service.arrays import UInt8
from service.devices import load_engine, onnx_source
from service.engine import Engine
from service.settings import BUNDLED_MODEL, Settings

PATH = "/predict"
NEEDS = {"unreliable": "&min_confidence=0.5"}
"""What an output does not go without."""
RECOVERED = 3
"""Answers in a row that are as fast as before make a recovery."""


def best_alone(settings: Settings, seconds: float) -> tuple[Callable[[float], float], dict[str, float]]:
    """Of what can be done with the engines of a service without it, what brings most: it runs for so many seconds, and
    gives the pictures per second; and those of all that was tried, by name.

    That is 1, 2, 4 and `settings.max_batch` pictures of the first size of the model card at once, in one engine that
    has all threads, and in the engines of the service side by side where it has several.
    """
    whole = load_engine(
        settings.model,
        settings.devices[0],
        threads=settings.threads * len(settings.devices),
        max_batch=settings.max_batch,
    )
    beside = [load() for load in onnx_source(settings)[1]] if len(settings.devices) > 1 else []
    height, width = whole.card.input.sizes[0]
    choices: dict[str, tuple[list[Engine], UInt8]] = {}
    for n in sorted({1, 2, 4, settings.max_batch}):
        batch = np.stack([picture(width, height, seed) for seed in range(n)])
        choices[f"batch {n}"] = [whole], batch
        if beside:
            choices[f"{len(beside)} of batch {n}"] = beside, batch

    def run_all(name: str, seconds: float) -> float:
        engines, batch = choices[name]
        with ThreadPoolExecutor(len(engines)) as pool:
            return sum(pool.map(lambda engine: rate(engine, batch, seconds), engines))

    for name in choices:
        run_all(name, 0)  # The first of a shape may take memory.
    rates = {name: run_all(name, seconds) for name in choices}
    return partial(run_all, max(rates, key=lambda name: rates[name])), rates


def outputs(url: str) -> dict[str, str]:
    """What /predict offers besides its JSON, by its OpenAPI document: name -> query."""
    found = {}
    for parameter in json.loads(get(f"{url}/openapi.json")[1])["paths"][PATH]["post"]["parameters"]:
        schema = parameter["schema"]
        if parameter["name"] == "output":
            names = [name for one in schema.get("anyOf", [schema]) for name in one.get("enum", [])]
            found.update({name: f"?output={name}{NEEDS.get(name, '')}" for name in names if name != "json"})
        elif parameter["name"] == "pictures":
            found["json, pictures=false"] = "?pictures=false"
    return found


def recovery(host: str, port: int, body: bytes, usual_s: float, give_up_s: float = 60.0) -> float | None:
    """Seconds from now to the first of `RECOVERED` answers in a row that take no more than twice as long as usual."""
    since, good, first = time.perf_counter(), 0, 0.0
    while (now := time.perf_counter()) < since + give_up_s:
        connection = http.client.HTTPConnection(host, port, timeout=give_up_s)
        try:
            connection.request("POST", PATH, body, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
            fine = answer.status == 200 and time.perf_counter() - now <= 2 * usual_s
        except OSError:
            fine = False
        finally:
            connection.close()
        good, first = (good + 1, first if good else now) if fine else (0, 0.0)
        if good == RECOVERED:
            return first - since
        if not fine:
            time.sleep(0.05)
    return None


def measure(
    port: int,
    files: list[Path],
    connections: list[int],
    seconds: float,
    others: bool,
    rounds: int,
    alone: Callable[[], float],
) -> dict[str, Any]:
    """Steps 2 to 4 against a server that is ready; `alone` measures the engine's best."""
    host = "127.0.0.1"
    requests = [Request(PATH, str(file)) for file in files]

    def log(name: str, got: Measured) -> Measured:
        print(f"  {name}: {got.ok_per_s:.1f}/s, p50 {ms(got.ok['p50'])} ms, {got.statuses}", file=sys.stderr)
        return got

    warmup = min(2.0, seconds / 2)
    closed: dict[str, Measured] = {}
    of_engine: dict[str, list[float]] = {}
    for n in connections:
        load = Load(host, port, requests, seconds, connections=n, warmup_s=warmup)
        turns = [(alone(), log(f"{n} connections", run(load))) for _ in range(rounds)]
        closed[str(n)] = sorted((got for _, got in turns), key=lambda got: got.ok_per_s)[rounds // 2]
        of_engine[str(n)] = [got.ok_per_s / best for best, got in turns]
    usual = closed[str(connections[0])].ok["p50"]
    capacity = max(got.ok_per_s for got in closed.values())
    if usual is None or not capacity:
        raise SystemExit(f"no picture was answered: {[got.statuses for got in closed.values()]}")
    by_output = {}
    for name, query in outputs(f"http://{host}:{port}").items() if others else ():
        ask = [Request(PATH + query, str(file)) for file in files]
        by_output[name] = log(name, run(Load(host, port, ask, seconds, connections=8, warmup_s=warmup)))
    opened = {}
    for share, even in itertools.product((0.5, 0.8), (True, False)):
        name = f"{share:.0%}, " + ("evenly" if even else "at random")
        opened[name] = log(name, run(Load(host, port, requests, seconds, rate=share * capacity, even=even)))
    best = Load(host, port, requests, seconds, connections=int(max(closed, key=lambda n: closed[n].ok_per_s)))
    overloads = [overload_once(best, usual, log) for _ in range(rounds)]
    overloads.sort(key=lambda one: one["goodput_of_capacity"])
    return {
        "capacity_per_s": capacity,
        "closed": {name: asdict(got) for name, got in closed.items()},
        "of_engine": of_engine,
        "outputs": {name: asdict(got) for name, got in by_output.items()},
        "open": {name: asdict(got) for name, got in opened.items()},
        "overloads": overloads,
    }


def overload_once(best: Load, usual_s: float, log: Callable[[str, Measured], Measured]) -> dict[str, Any]:
    """Step 4, once: what `best` brings, and at once afterwards five times that."""
    capacity = run(replace(best, warmup_s=min(2.0, best.seconds / 2))).ok_per_s
    flood = Sending(replace(best, connections=0, rate=5 * capacity))
    alive = Sending(replace(best, connections=0, rate=20, requests=[Request("/health/live")]))
    flood.wait_all_sent()
    picture_file = best.requests[0].body
    assert picture_file
    recovered = recovery(best.host, best.port, Path(picture_file).read_bytes(), usual_s)
    alive.wait_all_sent()
    flooded, live = log("overload", flood.wait()), log("health", alive.wait())
    return {
        "goodput_of_capacity": flooded.ok_per_s / capacity,
        "capacity_per_s": capacity,
        "flood": asdict(flooded),
        "live": asdict(live),
        "recovery_s": recovered,
    }


def markdown(results: dict[str, Any]) -> str:
    service = results["service"]

    def failed(got: dict[str, Any]) -> int:
        return sum(n for status, n in got["statuses"].items() if status != "200")

    closed = [
        [
            name,
            got["ok_per_s"],
            f"{statistics.median(service['of_engine'][name]):.2f}",
            " ".join(f"{ratio:.2f}" for ratio in sorted(service["of_engine"][name])),
            ms(got["ok"]["p50"]),
            ms(got["ok"]["p99"]),
            failed(got),
        ]
        for name, got in service["closed"].items()
    ]
    by_output = [
        [name, got["ok_per_s"], ms(got["ok"]["p50"]), got["bytes_per_answer"] / 1000, failed(got)]
        for name, got in service["outputs"].items()
    ]
    opened = [
        [name, *(ms(got["ok"][p]) for p in ("p50", "p90", "p99", "max")), failed(got)]
        for name, got in service["open"].items()
    ]
    shares = [one["goodput_of_capacity"] for one in service["overloads"]]
    middle = service["overloads"][len(shares) // 2]
    flood, live, back = middle["flood"], middle["live"], middle["recovery_s"]
    refused = flood["statuses"].get("503", 0)
    overload = [
        ["arrivals per second", flood["sent"] / flood["seconds"]],
        ["goodput, pictures per second", flood["ok_per_s"]],
        ["goodput of capacity", f"{middle['goodput_of_capacity']:.0%}"],
        ["goodput of capacity, every round", " ".join(f"{share:.0%}" for share in shares)],
        ["latency of the answered, p50 / p99 (ms)", f"{ms(flood['ok']['p50'])} / {ms(flood['ok']['p99'])}"],
        ["refused with 503", f"{refused} of {flood['sent']}"],
        ["of these with Retry-After", flood["refused_with_retry_after"]],
        ["latency of refusals, p50 / p99 (ms)", f"{ms(flood['refused']['p50'])} / {ms(flood['refused']['p99'])}"],
        ["neither answered nor refused", failed(flood) - refused],
        ["/health/live, p50 / p99 (ms)", f"{ms(live['ok']['p50'])} / {ms(live['ok']['p99'])}"],
        ["as fast as before, seconds after the last arrival", "not within 60" if back is None else back],
        ["cores that the generator took", flood["generator_cpu"]],
    ]
    engine = ", ".join(f"{rate:.3g}/s with {name}" for name, rate in results["engine_per_s"].items())
    threads = results["threads"] or "all"
    parts = [
        f"Engine alone: {engine}. Model {results['model']}, {results['device']}, threads: {threads}.",
        table(["connections", "pictures/s", "of the engine's", "rounds", "p50 ms", "p99 ms", "failed"], closed),
        table(["output, 8 connections", "pictures/s", "p50 ms", "kB", "failed"], by_output) if by_output else "",
        table(["arrivals, of capacity", "p50 ms", "p90 ms", "p99 ms", "max ms", "failed"], opened),
        table(["five times the capacity", ""], overload),
    ]
    return "\n\n".join(part for part in parts if part)


def main() -> None:
    parser = argparse.ArgumentParser(description="The service under load, beside its own engine.")
    add = parser.add_argument
    add("--model", type=Path, default=BUNDLED_MODEL)
    add("--device", default="cpu", help="as SEGDEPTH_DEVICE has it (default: cpu)")
    add("--threads", type=int, default=0, help="of each engine, as SEGDEPTH_THREADS has them (default: all cores)")
    add("--max-batch", type=int, default=8)
    add("--picture", type=Path, nargs="+", help="JPEGs to send (default: the examples at 640x480)")
    add("--seconds", type=float, default=20.0, help="of every measurement (default: 20)")
    add("--connections", type=int, nargs="+", default=[1, 2, 8, 32], help="of the closed loops (default: 1 2 8 32)")
    add(
        "--rounds",
        type=int,
        default=3,
        help="of the closed loops, after the engine alone, and of the overload (default: 3)",
    )
    add("--json-only", action="store_true", help="without the other outputs, which take most of the time")
    add("--quick", action="store_true", help="a second each and fewer of them: shows that it runs, no figures")
    add("--out", type=Path, help="write OUT.json and OUT.md")
    args = parser.parse_args()
    seconds = 1.0 if args.quick else args.seconds
    connections = [1, 8] if args.quick else args.connections
    rounds = 1 if args.quick else args.rounds

    with tempfile.TemporaryDirectory() as folder:
        files = args.picture or []
        if not files:
            for seed in range(4):
                files.append(Path(folder) / f"{seed}.jpg")
                files[-1].write_bytes(jpeg(picture(640, 480, seed)))
        on = machine()
        settings = Settings(model=args.model, device=args.device, threads=args.threads, max_batch=args.max_batch)
        alone, rates = best_alone(settings, seconds)
        port = free_port()
        command = serve_command(port, args.model)
        variables = {
            "SEGDEPTH_DEVICE": args.device,
            "SEGDEPTH_THREADS": str(args.threads),
            "SEGDEPTH_MAX_BATCH": str(args.max_batch),
            "SEGDEPTH_LOG_LEVEL": "warning",
        }
        with server(command, port, "/health/ready", **variables):
            others = not (args.quick or args.json_only)
            service = measure(port, files, connections, seconds, others, rounds, lambda: alone(seconds))
        results = {
            "machine": on,
            "model": args.model.name,
            "device": args.device,
            "threads": args.threads,
            "max_batch": args.max_batch,
            "seconds": seconds,
            "pictures": [[file.name, file.stat().st_size] for file in files],
            "engine_per_s": rates,
            "service": service,
        }
    publish(args.out, results, markdown(results))


if __name__ == "__main__":
    main()
