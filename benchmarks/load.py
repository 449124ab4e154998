"""A load generator in a process of its own: raw sockets, HTTP/1.1 with keep-alive, nothing parsed that is not needed.

It is started by the other benchmarks, which give it one JSON object on its standard input and read one from its
standard output:

    echo '{"host": "127.0.0.1", "port": 8000, "requests": [{"path": "/predict", "body": "room.jpg"}],
           "connections": 8, "seconds": 10}' | python benchmarks/load.py

With `connections`, each of them sends its next request when it has the answer to the last one (closed loop). With
`rate`, requests arrive at so many per second whatever the server does (open loop), at random (Poisson) or `even`ly; a
latency then counts from the arrival, so that a server which stalls is not spared the requests of that time.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

try:
    from uvloop import run as _run
except ImportError:  # There are no wheels for every machine.
    from asyncio import run as _run

MOST_CONNECTIONS = 800
"""Of an open loop; an arrival that finds none free fails."""
ANSWER_WITHIN_S = 60.0
IDLE_S = 2.0
"""Servers close connections on which nothing is asked, uvicorn's after 5 s; a request that meets this would fail."""
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
    even: bool = False
    """Arrivals at equal intervals (as wrk2, vegeta and k6 send them) instead of at random."""
    warmup_s: float = 0.0
    """Before the time that counts; of a closed loop only."""
    session: int | None = None
    """Of the server's processes, whose `server_cpu` is then measured."""


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
    server_cpu: float | None = None
    """Cores that all processes of the load's `session` took."""


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

# Callbacks instead of a task per request, and uvloop: the generator has the server's cores, and what it takes of them
# is not the server's fault.


@dataclass(frozen=True)
class _Answer:
    status: int
    retry_after: bool
    length: int
    """Of the body in bytes."""
    stays: bool
    """The connection stays open."""


class _Connection(asyncio.Protocol):
    """One request at a time; `told` gets its answer, or None if the connection breaks before."""

    def __init__(self) -> None:
        self._told: Callable[[_Answer | None], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._answer: _Answer | None = None
        self._left = 0
        self._chunks: bytearray | None = None
        self._told_at = 0.0
        self.asked = 0.0
        """When the request under way was sent, on `time.perf_counter`'s clock."""

    def ask(self, request: bytes, told: Callable[[_Answer | None], None]) -> None:
        self._told, self._head, self._answer, self._chunks = told, b"", None, None
        self.asked = time.perf_counter()
        assert self._transport is not None
        self._transport.write(request)

    def fresh(self) -> bool:
        """Not closed, and not so old that the server may be closing it."""
        assert self._transport is not None
        return not self._transport.is_closing() and self._told_at + IDLE_S > time.perf_counter()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._tell(None)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return
            self._begin(head.lower())
        assert self._answer is not None
        if self._chunks is not None:
            self._chunks += data
            if (length := _unchunked(self._chunks)) is not None:
                self._tell(replace(self._answer, length=length))
        else:
            self._left -= len(data)
            if self._left <= 0:
                self._tell(self._answer)

    def _begin(self, head: bytes) -> None:
        _, chunked, length = head.partition(b"\r\ncontent-length:")
        self._left = int(length.partition(b"\r\n")[0]) if chunked else 0
        self._chunks = None if chunked else bytearray()
        retry_after, stays = b"\r\nretry-after:" in head, b"\r\nconnection: close" not in head
        self._answer = _Answer(int(head[9:12]), retry_after, self._left, stays)

    def _tell(self, answer: _Answer | None) -> None:
        told, self._told, self._told_at = self._told, None, time.perf_counter()
        if told is not None:
            told(answer)


def _unchunked(body: bytearray) -> int | None:
    """The bytes in the chunks of a body; None while it is not complete."""
    total = at = 0
    while (end := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:end].partition(b";")[0], 16)
        at = end + 2 + size + 2
        if at > len(body):
            return None
        if not size:
            return total
        total += size
    return None


class _Sender:
    def __init__(self, load: Load) -> None:
        self.load = load
        self.requests = [request.to_bytes(f"{load.host}:{load.port}") for request in load.requests]
        self.free: list[_Connection] = []
        self.busy: set[_Connection] = set()
        self.opening: set[asyncio.Task[None]] = set()
        self.statuses: Counter[str] = Counter()
        self.latencies: dict[int, list[float]] = {200: [], 503: []}
        self.with_retry_after = 0
        self.bytes = 0
        self.sent = 0
        self.under_way = 0
        self.begin = time.perf_counter() + load.warmup_s
        self.end = self.begin + load.seconds
        self.ok_in_time = 0
        self.then: Callable[[], None] = lambda: None
        """Called after each answer."""

    def send(self, since: float) -> None:
        """One request, whose latency counts from `since`."""
        request = self.requests[self.sent % len(self.requests)]
        counted = since >= self.begin
        self.sent += counted
        self.under_way += 1
        # The one used last: the others grow old, and their number shows how many were needed.
        while self.free and not self.free[-1].fresh():
            self.free.pop().close()
        if self.free:
            self._ask(self.free.pop(), request, since, counted)
        elif len(self.busy) + len(self.opening) < MOST_CONNECTIONS:
            task = asyncio.create_task(self._open(request, since, counted))
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)
        else:
            self._answered(None, since, counted)

    async def _open(self, request: bytes, since: float, counted: bool) -> None:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(_Connection, self.load.host, self.load.port)
        except OSError:
            self._answered(None, since, counted)
        else:
            self._ask(connection, request, since, counted)

    def _ask(self, connection: _Connection, request: bytes, since: float, counted: bool) -> None:
        def told(answer: _Answer | None) -> None:
            self.busy.discard(connection)
            if answer is not None and answer.stays:
                self.free.append(connection)
            else:
                connection.close()
            self._answered(answer, since, counted)

        self.busy.add(connection)
        connection.ask(request, told)

    def _answered(self, answer: _Answer | None, since: float, counted: bool) -> None:
        self.under_way -= 1
        now = time.perf_counter()
        if answer is not None:
            self.ok_in_time += answer.status == 200 and self.begin <= now <= self.end
        if counted:
            self.statuses["error" if answer is None else str(answer.status)] += 1
        if counted and answer is not None:
            self.latencies.setdefault(answer.status, []).append(now - since)
            self.bytes += answer.length
            self.with_retry_after += answer.status == 503 and answer.retry_after
        self.then()

    async def all_answered(self) -> None:
        """Until nothing is under way; what takes too long is given up."""
        while self.under_way:
            await asyncio.sleep(0.05)
            for connection in list(self.busy):
                if time.perf_counter() - connection.asked > ANSWER_WITHIN_S:
                    connection.close()

    async def closed_loop(self) -> None:
        def again() -> None:
            if (now := time.perf_counter()) < self.end:
                # Not at once: a server that nobody answers for would be asked without a pause, and without an end.
                loop.call_soon(self.send, now)

        loop = asyncio.get_running_loop()
        self.then = again
        for _ in range(self.load.connections):
            again()
        await asyncio.sleep(self.end - time.perf_counter())
        await self.all_answered()
        print(ALL_SENT, end="", flush=True)

    def arrivals(self) -> Iterator[float]:
        """When requests arrive, in seconds from the beginning to before the end."""
        rng, since = random.Random(0), 0.0
        for number in itertools.count(1):
            since = number / self.load.rate if self.load.even else since + rng.expovariate(self.load.rate)
            if since >= self.load.seconds:
                return
            yield since

    async def open_loop(self) -> None:
        # Seconds from the beginning: added up on the clock, the last one would come or not by how the sum is rounded.
        for since in self.arrivals():
            at = self.begin + since
            if (wait := at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self.send(at)
        print(ALL_SENT, end="", flush=True)
        await self.all_answered()


def cpu_seconds(session: int) -> float:
    """Of the processes that are in a session now, since each of them began."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # It has ended.
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def _main(load: Load) -> Measured:
    sender = _Sender(load)
    servers = cpu_seconds(load.session) if load.session else 0.0
    cpu, since = time.process_time(), time.perf_counter()
    await (sender.closed_loop() if load.connections else sender.open_loop())
    seconds = time.perf_counter() - since
    cores = (time.process_time() - cpu) / seconds
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
        server_cpu=(cpu_seconds(load.session) - servers) / seconds if load.session else None,
    )


if __name__ == "__main__":
    spec = json.load(sys.stdin)
    spec["requests"] = [Request(**request) for request in spec["requests"]]
    print(json.dumps(asdict(_run(_main(Load(**spec))))))
