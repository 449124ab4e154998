"""A load generator in a process of its own: raw sockets, HTTP/1.1 with keep-alive, nothing parsed that is not needed.

It is started by the other benchmarks, which give it one JSON object on its standard input and read one from its
standard output:

    echo '{"host": "127.0.0.1", "port": 8000, "requests": [{"path": "/predict", "body": "room.jpg"}],
           "connections": 8, "seconds": 10}' | python benchmarks/load.py

With `connections`, each of them sends its next request when it has the answer to the last one (closed loop). With
`rate`, requests arrive at random (Poisson) at so many per second whatever the server does (open loop); a latency then
counts from the arrival, so that a server which stalls is not spared the requests of that time.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

MOST_CONNECTIONS = 800
"""Of an open loop; an arrival that finds none free fails."""
ANSWER_WITHIN_S = 60.0
ALL_SENT = "all sent\n"


@dataclass(frozen=True)
class Request:
    """One HTTP request; `body` is the path of a file."""

    path: str
    body: str | None = None
    content_type: str = "image/jpeg"

    def to_bytes(self, host: str) -> bytes:
        body = Path(self.body).read_bytes() if self.body else b""
        method = "POST" if self.body else "GET"
        lines = [f"{method} {self.path} HTTP/1.1", f"Host: {host}", "Accept: */*"]
        if body:
            lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True)
class Load:
    """What to send. Either `connections` or `rate` is given."""

    host: str
    port: int
    requests: Sequence[Request]
    seconds: float
    connections: int = 0
    rate: float = 0.0
    warmup_s: float = 0.0
    """Before the time that counts; of a closed loop only."""


@dataclass
class Measured:
    """What came back. Latencies are in seconds; `None` where nothing came."""

    seconds: float = 0.0
    ok_per_s: float = 0.0
    """Answers with 200 that came within the time that counts, per second."""
    statuses: dict[str, int] = field(default_factory=dict)
    """Answers by status; `error` are broken connections and such."""
    ok: dict[str, float | None] = field(default_factory=dict)
    """Percentiles of the latency of answers with 200."""
    refused: dict[str, float | None] = field(default_factory=dict)
    """Percentiles of that of answers with 503."""
    refused_with_retry_after: int = 0
    bytes_per_answer: float = 0.0
    sent: int = 0
    generator_cpu: float = 0.0
    """Cores that the generator itself took."""


class Sending:
    """A load that is being sent, from a process of its own."""

    def __init__(self, load: Load) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin
        self._process.stdin.write(json.dumps(asdict(load)))
        self._process.stdin.close()

    def wait_all_sent(self) -> None:
        """Until nothing new is sent; answers may still be on their way."""
        assert self._process.stdout
        if self._process.stdout.readline() != ALL_SENT:
            raise SystemExit("the load generator failed; see above")

    def wait(self) -> Measured:
        """Until all is answered. Call `wait_all_sent` before."""
        assert self._process.stdout
        with self._process.stdout:
            text = self._process.stdout.read()
        if self._process.wait() != 0:
            raise SystemExit("the load generator failed; see above")
        return Measured(**json.loads(text))


def run(load: Load) -> Measured:
    """Send it, and wait for the answers."""
    sending = Sending(load)
    sending.wait_all_sent()
    return sending.wait()


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Nearest-rank percentiles, the mean and the maximum."""
    ordered = sorted(values)
    names = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
    if not ordered:
        return {**dict.fromkeys(names), "mean": None, "max": None}
    ranks = {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in names.items()}
    return {**ranks, "mean": sum(ordered) / len(ordered), "max": ordered[-1]}


# --- the process that sends -----------------------------------------------------------------------------------


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, load: Load) -> _Connection:
        return cls(*await asyncio.open_connection(load.host, load.port, limit=1 << 20))

    async def ask(self, request: bytes) -> tuple[int, bool, int, bool]:
        """Status, whether there is a Retry-After, bytes of the body, and whether the connection stays open."""
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if b"\r\ncontent-length:" in head:
            length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
            await self._reader.readexactly(length)
        else:
            length = await self._chunks()
        return int(head[9:12]), b"\r\nretry-after:" in head, length, b"\r\nconnection: close" not in head

    async def _chunks(self) -> int:
        total = 0
        while size := int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            await self._reader.readexactly(size + 2)
            total += size
        await self._reader.readuntil(b"\r\n")
        return total

    def close(self) -> None:
        self._writer.close()


class _Sender:
    def __init__(self, load: Load) -> None:
        self.load = load
        self.requests = [request.to_bytes(f"{load.host}:{load.port}") for request in load.requests]
        self.free: list[_Connection] = []
        self.open = 0
        self.statuses: Counter[str] = Counter()
        self.latencies: dict[int, list[float]] = {200: [], 503: []}
        self.with_retry_after = 0
        self.bytes = 0
        self.sent = 0
        self.begin = time.perf_counter() + load.warmup_s
        self.end = self.begin + load.seconds
        self.ok_in_time = 0

    async def one(self, since: float, counted: bool = True) -> None:
        request = self.requests[self.sent % len(self.requests)]
        self.sent += counted
        connection = None
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                # The one used last: the others grow old, and their number shows how many were needed.
                connection = self.free.pop() if self.free else None
                if connection is None:
                    if self.open >= MOST_CONNECTIONS:
                        raise ConnectionError
                    self.open += 1
                    connection = await _Connection.open(self.load)
                status, retry_after, length, stays = await connection.ask(request)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            if counted:
                self.statuses["error"] += 1
            if connection is not None:
                self.open -= 1
                connection.close()
            return
        if stays:
            self.free.append(connection)
        else:
            self.open -= 1
            connection.close()
        now = time.perf_counter()
        self.ok_in_time += status == 200 and self.begin <= now <= self.end
        if counted:
            self.statuses[str(status)] += 1
            self.latencies.setdefault(status, []).append(now - since)
            self.bytes += length
            self.with_retry_after += status == 503 and retry_after

    async def closed_loop(self) -> None:
        async def client() -> None:
            while (now := time.perf_counter()) < self.end:
                await self.one(now, counted=now >= self.begin)

        await asyncio.gather(*(client() for _ in range(self.load.connections)))
        print(ALL_SENT, end="", flush=True)

    async def open_loop(self) -> None:
        rng, tasks, at = random.Random(0), [], self.begin
        while (at := at + rng.expovariate(self.load.rate)) < self.end:
            if (wait := at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self.one(at)))
        print(ALL_SENT, end="", flush=True)
        await asyncio.gather(*tasks)


async def _main(load: Load) -> Measured:
    sender = _Sender(load)
    cpu, since = time.process_time(), time.perf_counter()
    await (sender.closed_loop() if load.connections else sender.open_loop())
    cores = (time.process_time() - cpu) / (time.perf_counter() - since)
    for connection in sender.free:
        connection.close()
    answers = sum(n for status, n in sender.statuses.items() if status != "error")
    return Measured(
        seconds=load.seconds,
        ok_per_s=sender.ok_in_time / load.seconds,
        statuses=dict(sender.statuses),
        ok=percentiles(sender.latencies[200]),
        refused=percentiles(sender.latencies[503]),
        refused_with_retry_after=sender.with_retry_after,
        bytes_per_answer=sender.bytes / max(1, answers),
        sent=sender.sent,
        generator_cpu=cores,
    )


if __name__ == "__main__":
    spec = json.load(sys.stdin)
    spec["requests"] = [Request(**request) for request in spec["requests"]]
    print(json.dumps(asdict(asyncio.run(_main(Load(**spec))))))
