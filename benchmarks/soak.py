"""What stays behind: memory, threads and descriptors after many requests, and requests lost when things change.

python benchmarks/soak.py --out benchmarks/soak
python benchmarks/soak.py --quick

1. Requests of mixed sizes and outputs, 8 connections: resident memory, threads and descriptors after a twentieth of
   them and at the end.
2. Clients killed in the middle of their upload, each a process of its own that gets SIGKILL, and connections that are
   opened and dropped: the same figures afterwards.
3. Reloads of the model under load (SIGHUP): requests that were not answered with 200.
4. SIGTERM under load, several times: what became of the requests under way, and the exit status.

The server has standard settings, and each stage must end with a picture answered.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import free_port, get, jpeg, machine, picture, publish, serve_command, server, table
from benchmarks.load import Load, Request, Sending, run
from service.settings import BUNDLED_MODEL

HOST = "127.0.0.1"
SIZES = {(640, 480): 8, (320, 240): 8, (480, 640): 8, (1280, 960): 8, (1920, 1080): 8, (4032, 3024): 1}
"""Width and height, and how often one is sent."""
QUERIES = ("", "?pictures=false", "?output=npz", "?output=zip", "?output=ply", "?output=depth")
CONNECTIONS = 8


class Held(NamedTuple):
    """What a process holds."""

    rss_mb: float
    peak_mb: float
    threads: int
    descriptors: int


def held(pid: int) -> Held:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    megabytes = {name: int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Held(megabytes["VmRSS"], megabytes["VmHWM"], int(status["Threads"]), descriptors)


def settled(pid: int) -> Held:
    """After connections have had the time to close: kept-alive ones do so after five seconds."""
    time.sleep(7)
    return held(pid)


def many(port: int, pid: int, requests: list[Request], number: int) -> dict[str, Any]:
    """Stage 1."""
    marks = [max(1, number // 20), number // 4, number // 2, number]
    done, failed, found = 0, 0, {}
    for mark in marks:
        while done < mark:
            # From a new place in the list each time, so that the end of a stretch is not always the same request.
            turned = requests[done % len(requests) :] + requests[: done % len(requests)]
            got = run(Load(HOST, port, turned, min(10.0, max(0.2, (mark - done) / 100)), connections=CONNECTIONS))
            done += got.sent
            failed += got.sent - got.statuses.get("200", 0)
        found[str(done)] = settled(pid)._asdict()
        print(f"  {done} requests: {found[str(done)]}", file=sys.stderr)
    return {"held": found, "failed": failed}


def killed_uploads(port: int, body: bytes, number: int) -> None:
    """Each from a process that sends the head and half of the body and is killed."""
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
    for _ in range(number):
        sent, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                connection = socket.create_connection((HOST, port))
                connection.sendall(head.encode() + body[: len(body) // 2])
                os.write(told, b"x")
                signal.pause()
            finally:
                os._exit(1)
        os.close(told)
        assert os.read(sent, 1) == b"x", "this client could not send"
        os.close(sent)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def dropped(port: int, number: int) -> None:
    for _ in range(number):
        socket.create_connection((HOST, port)).close()


def reloads(port: int, pid: int, requests: list[Request], times: int, seconds: float) -> dict[str, Any]:
    """Stage 3."""
    sending = Sending(Load(HOST, port, requests, seconds, connections=CONNECTIONS))
    for _ in range(times):
        time.sleep(seconds / (times + 1))
        os.kill(pid, signal.SIGHUP)
    sending.wait_all_sent()
    got = sending.wait()
    metrics = get(f"http://{HOST}:{port}/metrics")[1].decode()
    ok = [line for line in metrics.splitlines() if line.startswith('segdepth_reloads_total{result="ok"}')]
    return {"reloads": int(float(ok[0].split()[-1])) if ok else 0, "sent": got.sent, "statuses": got.statuses}


async def end_under_load(port: int, pid: int, body: bytes, before_s: float) -> Counter[str]:
    """Asks with `CONNECTIONS` connections, sends SIGTERM after a while, and goes on until nobody listens.

    What was answered goes by its status. `lost` is a request that was sent wholly and got no whole answer; except
    `closed between`: a kept-alive connection that the server closed while nothing was under way, before a byte of an
    answer, which HTTP lets a server do and clients repeat by themselves (RFC 9110, section 9.2.2).
    """
    found: Counter[str] = Counter()
    request = (
        f"POST /predict?pictures=false HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body

    async def client() -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(HOST, port)
            except OSError:
                return
            answered = 0
            while True:
                head = b""
                try:
                    writer.write(request)
                    await writer.drain()
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                    await reader.readexactly(length)
                except (OSError, asyncio.IncompleteReadError) as error:
                    begun = head or (isinstance(error, asyncio.IncompleteReadError) and error.partial)
                    found["closed between" if answered and not begun else "lost"] += 1
                    break
                found[head[9:12].decode()] += 1
                answered += 1
                if b"connection: close" in head.lower():
                    break
            writer.close()

    clients = [asyncio.create_task(client()) for _ in range(CONNECTIONS)]
    await asyncio.sleep(before_s)
    os.kill(pid, signal.SIGTERM)
    await asyncio.wait_for(asyncio.gather(*clients), 60)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory over many requests, and requests lost when things change.")
    add = parser.add_argument
    add("--model", type=Path, default=BUNDLED_MODEL)
    add("--requests", type=int, default=20_000, help="of stage 1 (default: 20000)")
    add("--quick", action="store_true", help="a hundredth of everything: shows that it runs, no figures")
    add("--out", type=Path, help="write OUT.json and OUT.md")
    args = parser.parse_args()
    part = 100 if args.quick else 1
    number, kills, drops, times = args.requests // part, 1000 // part, 10_000 // part, 2 if args.quick else 10
    on = machine()

    with tempfile.TemporaryDirectory() as folder:
        requests = []
        for i, ((width, height), share) in enumerate(SIZES.items()):
            file = Path(folder) / f"{i}.jpg"
            file.write_bytes(jpeg(picture(width, height, i)))
            requests += [Request(f"/predict{query}", str(file)) for query in QUERIES] * share
        random.Random(0).shuffle(requests)
        usual = [Request("/predict", str(Path(folder) / "0.jpg"))]
        body = jpeg(picture(640, 480, 1))
        (Path(folder) / "large.jpg").write_bytes(jpeg(picture(1920, 1080, 1), 95))

        def start(port: int) -> Any:
            return server(serve_command(port, args.model), port, "/health/ready", SEGDEPTH_LOG_LEVEL="warning")

        port = free_port()
        with start(port) as pid:
            first = settled(pid)._asdict()
            stage1 = many(port, pid, requests, number)
            killed_uploads(port, (Path(folder) / "large.jpg").read_bytes(), kills)
            after_kills = settled(pid)._asdict()
            dropped(port, drops)
            after_drops = settled(pid)._asdict()
            stage3 = reloads(port, pid, usual, times, 2.0 if args.quick else 30.0)
            after_reloads = settled(pid)._asdict()
            check = run(Load(HOST, port, usual, 0.5, connections=1))
            if set(check.statuses) != {"200"}:
                raise SystemExit(f"the server does not answer as before: {check.statuses}")
        ends: Counter[str] = Counter()
        for k in range(2 if args.quick else 10):
            port = free_port()
            with start(port) as pid:
                ends += asyncio.run(end_under_load(port, pid, body, 1.0 + 0.05 * k))

    stages = {
        "at the start": first,
        **{f"after {done} requests": got for done, got in stage1["held"].items()},
        f"after {kills} killed uploads": after_kills,
        f"after {drops} dropped connections": after_drops,
        f"after {stage3['reloads']} reloads": after_reloads,
    }
    results = {"machine": on, "held": stages, "failed": stage1["failed"], "reloads": stage3, "ends": dict(ends)}
    rows = [[name, got["rss_mb"], got["peak_mb"], got["threads"], got["descriptors"]] for name, got in stages.items()]
    counted = list(stage1["held"].values())
    text = [
        table(["", "resident MB", "peak MB", "threads", "descriptors"], rows),
        f"Last of the requests to the first mark: {counted[-1]['rss_mb'] / counted[0]['rss_mb']:.3f}. "
        f"Requests of stage 1 not answered with 200: {stage1['failed']}.",
        f"{stage3['reloads']} reloads under load: {stage3['sent']} requests, {stage3['statuses']}.",
        f"SIGTERM under load, {CONNECTIONS} connections: {dict(ends)}.",
    ]
    publish(args.out, results, "\n\n".join(text))


if __name__ == "__main__":
    main()
