"""benchmarks/: what their figures rest on, and that they run against a real server."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
import unittest.mock
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from service_client import encode, quadrants
from service_process import Server, start

from benchmarks import common, contest, load, serving, soak
from benchmarks.load import Load, Request

BODY = b"x" * 70_000


def wait_for(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


class Odd(BaseHTTPRequestHandler):
    """Answers a third with 503; /chunks in chunks, /close with a closed connection, /break without an answer,
    /idle with a connection that is closed when nothing more comes."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, bytes]]

    def do_POST(self) -> None:
        self.seen.append(
            (self.path, self.headers["content-type"], self.rfile.read(int(self.headers["content-length"])))
        )
        refuse = len(self.seen) % 3 == 0
        if self.path == "/break":
            self.close_connection = True
            return
        self.send_response(503 if refuse else 200)
        if refuse:
            self.send_header("Retry-After", "1")
        if self.path == "/idle":
            self.connection.settimeout(0.01)
        if self.path == "/close":
            self.send_header("Connection", "close")
        if self.path == "/chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nhello\r\n1000;a=b\r\n" + bytes(4096) + b"\r\n0\r\n\r\n")
        else:
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

    def log_message(self, *_: Any) -> None:
        pass


class OddServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@pytest.fixture
def odd() -> Iterator[int]:
    Odd.seen = []
    with OddServer(("127.0.0.1", 0), Odd) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield httpd.server_address[1]
        httpd.shutdown()
        thread.join()


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "body"
    path.write_bytes(BODY)
    return str(path)


def test_closed_loop(odd: int, file: str) -> None:
    got = load.run(Load("127.0.0.1", odd, [Request("/a", file), Request("/close", file)], 0.5, connections=3))
    assert set(got.statuses) == {"200", "503"}
    assert got.sent == sum(got.statuses.values()) == len(Odd.seen)
    assert set(Odd.seen) == {("/a", "image/jpeg", BODY), ("/close", "image/jpeg", BODY)}
    assert got.statuses["503"] == got.refused_with_retry_after == len(Odd.seen) // 3
    assert 0 < got.ok_per_s <= got.statuses["200"] / 0.5
    assert got.bytes_per_answer == 5
    assert got.ok["p50"] is not None and got.ok["max"] is not None and 0 < got.ok["p50"] <= got.ok["max"]


def test_open_loop_keeps_its_rate(odd: int, file: str) -> None:
    got = load.run(Load("127.0.0.1", odd, [Request("/chunks", file)], 1.0, rate=60))
    assert got.sent == sum(got.statuses.values()) == len(Odd.seen)
    assert 30 < got.sent < 100
    assert got.bytes_per_answer == 4101


def test_even_arrivals_have_equal_intervals(odd: int, file: str) -> None:
    got = load.run(Load("127.0.0.1", odd, [Request("/a", file)], 1.0, rate=40, even=True))
    assert got.sent == sum(got.statuses.values()) == 39  # One every 25 ms, inside of the second.


def test_arrivals_do_not_depend_on_what_time_it_is() -> None:
    for begin in (0.1, 1234.567, 98765.4321):
        sender = load._Sender(Load("127.0.0.1", 1, [Request("/")], 1.0, rate=40, even=True))
        sender.begin, sender.end = begin, begin + 1.0
        assert list(sender.arrivals()) == [number / 40 for number in range(1, 40)]
    sender = load._Sender(Load("127.0.0.1", 1, [Request("/")], 100.0, rate=40))
    arrivals = list(sender.arrivals())
    assert arrivals == sorted(arrivals) and arrivals[-1] < 100
    assert len(arrivals) == pytest.approx(4000, rel=0.1)


def test_an_answer_may_come_in_any_pieces() -> None:
    got: list[load._Answer | None] = []
    whole = {
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello": load._Answer(200, False, 5, True),
        b"HTTP/1.1 503 No\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n": load._Answer(
            503, True, 0, False
        ),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n": (
            load._Answer(200, False, 21, True)
        ),
    }
    connection = load._Connection()
    connection.connection_made(unittest.mock.create_autospec(asyncio.Transport))
    for size in (1, 3, 1000):
        for data, answer in whole.items():
            connection.ask(b"", got.append)
            for at in range(0, len(data), size):
                assert not got
                connection.data_received(data[at : at + size])
            assert got.pop() == answer
    connection.ask(b"", got.append)
    connection.connection_lost(None)
    assert got == [None]


def test_connections_that_the_server_closed_are_not_used(odd: int, file: str) -> None:
    got = load.run(Load("127.0.0.1", odd, [Request("/idle", file)], 1.5, rate=3, even=True))
    assert got.statuses == {"200": 3, "503": 1}


def test_broken_connections_are_counted(odd: int, file: str) -> None:
    got = load.run(Load("127.0.0.1", odd, [Request("/break", file)], 0.3, rate=30))
    assert got.statuses == {"error": got.sent}
    assert got.ok["p50"] is None and got.ok_per_s == 0
    nobody = load.run(Load("127.0.0.1", common.free_port(), [Request("/")], 0.3, rate=30))
    assert set(nobody.statuses) == {"error"}


def test_percentiles_are_nearest_rank() -> None:
    got = load.percentiles([float(k) for k in range(100, 0, -1)])
    assert got == {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "mean": 50.5, "max": 100}
    assert set(load.percentiles([]).values()) == {None}
    assert load.percentiles([2.0])["p99"] == 2.0


def test_table() -> None:
    text = common.table(["a", "b"], [["x", 123.4], ["y", 0.01234]])
    assert text == "| a | b |\n| --- | --- |\n| x | 123 |\n| y | 0.0123 |"


def test_pictures_and_maps() -> None:
    pixels = common.picture(640, 480)
    assert pixels.shape == (480, 640, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, common.picture(640, 480))
    # As large as JPEGs of photos are, also where they are larger than the examples.
    assert 40_000 < len(common.jpeg(pixels)) < 90_000
    assert 2_000_000 < len(common.jpeg(common.picture(4000, 3000))) < 5_000_000
    labels, depth = common.maps(640, 480)
    assert labels.shape == depth.shape == (480, 640)
    assert labels.max() < 40 and depth.min() >= 1 and len(np.unique(labels)) > 4


def test_service_is_measured(server: Server, tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(encode(quadrants(), "JPEG"))
    assert {"mask", "depth", "depth_color", "overlay"} <= set(serving.outputs(server.url))
    service = serving.measure(server.port, [picture], [1, 2], 0.5, False, 3, lambda: 1e6)
    assert set(service["closed"]) == {"1", "2"} and service["capacity_per_s"] > 0
    assert len(service["of_engine"]["2"]) == 3 and 0 < max(service["of_engine"]["2"]) < 1
    assert list(service["open"]) == ["50%, evenly", "50%, at random", "80%, evenly", "80%, at random"]
    assert len(service["overloads"]) == 3
    for one in service["overloads"]:
        assert one["live"]["statuses"].get("200", 0) > 0 and one["recovery_s"] is not None
        assert one["goodput_of_capacity"] == one["flood"]["ok_per_s"] / one["capacity_per_s"] > 0
    about = {"model": "m", "device": "cpu", "threads": 0}
    text = serving.markdown({"engine_per_s": {"batch 1": 100.0}, "service": service, **about})
    assert "five times the capacity" in text and "| 2 |" in text


def test_cores_of_a_session_are_counted() -> None:
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\nwhile True: time.sleep(9)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout and process.stdout.readline()
            assert 0.5 <= load.cpu_seconds(process.pid) + 0.02 < 1
        finally:
            process.kill()
    assert load.cpu_seconds(process.pid) == 0


def test_contest_checks_the_job(server: Server) -> None:
    data = encode(quadrants(), "JPEG")
    form = contest.multipart(data)
    contest.check(f"{server.url}/predict", data, contest.RAW, (64, 48))
    contest.check(f"{server.url}/predict", form, contest.FORM, (64, 48))
    with pytest.raises(SystemExit, match="says 415"):
        contest.check(f"{server.url}/predict", b"hello", contest.RAW, (64, 48))
    with pytest.raises(SystemExit, match="size"):
        contest.check(f"{server.url}/predict", data, contest.RAW, (640, 480))


def test_contest_measures_servers_in_turn() -> None:
    command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.peer_apps.ours_free:create", "--port", "PORT"]
    entries = [contest.Entry(name, command, {}, "/health/ready") for name in ("one", "another")]
    results = contest.measure(entries, [1, 2], 0.5, 1, (640, 480))
    assert {name: len(rounds) for name, rounds in results.items()} == {"one": 1, "another": 1}
    figures, markdown = contest.summary(results, "another")
    for name, connections in itertools.product(results, ("1", "2")):
        measured = results[name][0][connections]
        assert measured.statuses.keys() == {"200"} and figures[name]["per_s"][connections] == measured.ok_per_s > 0
        assert measured.server_cpu is not None and 0.05 < measured.server_cpu < (os.cpu_count() or 1) + 0.5
    first, second = ([float(cell) for cell in row.split("|")[2:-1]] for row in markdown.splitlines()[2:])
    busiest = results["one"][0][max("12", key=lambda n: results["one"][0][n].ok_per_s)]
    assert first[3] == pytest.approx(1000 * (busiest.server_cpu or 0) / busiest.ok_per_s, rel=0.02)
    assert first[-1] == pytest.approx(max(first[:2]) / max(second[:2]), rel=0.02) and second[-1] == 1


def test_soak_counts_what_stays_and_what_is_lost(tiny_model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(encode(quadrants(), "JPEG"))
    requests = [Request("/predict", str(picture))]
    with start("--model", str(tiny_model)) as server:
        server.wait_ready()
        pid = server.process.pid
        time.sleep(1)  # The connections that asked for readiness are closed by then.
        before = soak.held(pid)
        assert before.peak_mb >= before.rss_mb > 20 and before.descriptors > 3
        with socket.create_connection(("127.0.0.1", server.port)):
            wait_for(lambda: soak.held(pid).descriptors > before.descriptors)
        soak.killed_uploads(server.port, picture.read_bytes(), 3)
        soak.dropped(server.port, 20)
        wait_for(lambda: soak.held(pid).descriptors == before.descriptors)
        reloads = soak.reloads(server.port, pid, requests, 2, 1.5)
        assert reloads["reloads"] >= 1 and set(reloads["statuses"]) == {"200"}
        found = asyncio.run(soak.end_under_load(server.port, pid, picture.read_bytes(), 0.5))
        assert found["200"] > 0 and found["lost"] == 0
        assert server.ended(30)[0] == 0


def test_a_server_that_does_not_start_is_named() -> None:
    with (
        pytest.raises(SystemExit, match="did not start: false"),
        common.server(["false"], common.free_port(), "/health"),
    ):
        pass


def test_get_tells_status_and_body(server: Server) -> None:
    assert common.get(f"{server.url}/health/live") == (200, b'{"status":"live"}')
    assert common.get(f"{server.url}/nothing")[0] == 404
    assert common.get(f"http://127.0.0.1:{common.free_port()}/") == (0, b"")
