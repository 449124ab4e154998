"""The balancer's configuration in a real HAProxy, in front of stand-ins for the service that fail in chosen ways.

Only Docker's DNS is left out: the servers have fixed addresses. tests/compose_trial.py has it all.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml
from service_balancer import CONFIG, Balancer, started

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")


class Replica(ThreadingHTTPServer):
    """Answers with size and sum of what it was sent, or fails as `mode` says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode = "answer"
        self.ready = True
        self.got: list[dict[str, str]] = []

    def handle_error(self, *_: object) -> None:
        """Health checks are cut off when the balancer has seen the status."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Replica

    def do_GET(self) -> None:
        self._answer(200 if self.server.ready else 503, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append({name.lower(): value for name, value in self.headers.items()})
        if self.server.mode == "die":
            # As a process that is killed: closed without an answer.
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif self.server.mode == "reset":
            # As one that is killed before it has read all.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
            self.rfile = self.wfile = io.BytesIO()
            self.close_connection = True
        elif self.server.mode == "break off":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1 2")
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif self.server.mode == "wait":
            self.connection.settimeout(10)
            try:
                gone = not self.connection.recv(1)
            except OSError as error:
                gone = isinstance(error, ConnectionResetError)
            self.server.got[-1]["gone"] = str(gone)
            self.close_connection = True
        elif self.server.mode == "full":
            self._answer(503, b'{"status":503,"title":"Too many requests at once"}')
        else:
            self._answer(200, f"{len(body)} {sum(body)}".encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 503:
            self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def balanced(tmp_path: Path, *replicas: Replica) -> Iterator[str]:
    """The balancer's URL, when it has found every replica ready."""
    with started(tmp_path, *(replica.server_address[1] for replica in replicas)) as balancer:
        yield balancer.url


@pytest.fixture
def replicas() -> Iterator[tuple[Replica, Replica]]:
    both = Replica(), Replica()
    threads = [threading.Thread(target=replica.serve_forever, kwargs={"poll_interval": 0.05}) for replica in both]
    for thread in threads:
        thread.start()
    yield both
    for replica, thread in zip(both, threads, strict=True):
        replica.shutdown()
        thread.join()
        replica.server_close()


def test_the_configuration_is_valid() -> None:
    done = subprocess.run(["haproxy", "-c", "-f", str(CONFIG)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_an_unanswered_request_goes_to_another_replica(tmp_path: Path, replicas: tuple[Replica, Replica]) -> None:
    dying, other = replicas
    with balanced(tmp_path, *replicas) as url, httpx.Client(base_url=url, timeout=30) as client:
        dying.mode = "die"
        # The last one is just what fits in a buffer with its headers.
        for size in (1, 100_000, 4_000_000):
            for _ in range(4):
                answer = client.post("/predict", content=b"\x02" * size)
                assert (answer.status_code, answer.text) == (200, f"{size} {2 * size}")
    assert dying.got
    # Every attempt of a request has the same id.
    ids = [headers["x-request-id"] for headers in other.got]
    assert len(set(ids)) == len(ids) == 12
    assert {headers["x-request-id"] for headers in dying.got} <= set(ids)


def test_a_larger_request_is_not_kept_for_another_try(tmp_path: Path, replicas: tuple[Replica, Replica]) -> None:
    with balanced(tmp_path, *replicas) as url, httpx.Client(base_url=url, timeout=30) as client:
        answer = client.post("/predict", content=b"\x01" * 9_000_000)
        assert (answer.status_code, answer.text) == (200, "9000000 9000000")
        for replica in replicas:
            replica.mode = "die"
        # On a connection that has had an answer before, HAProxy would just close.
        answer = httpx.post(f"{url}/predict", content=b"\x01" * 9_000_000, timeout=30)
        assert answer.status_code == 502
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == 502


def lost(balancer: Balancer) -> float:
    """How many requests are lost, as the alert `RequestsLost` counts them."""
    rules = yaml.safe_load((CONFIG.parents[1] / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    expression = next(rule["expr"] for rule in rules if rule["alert"] == "RequestsLost")
    shown = httpx.get(f"http://{balancer.internal}/metrics").text
    terms = re.findall(r"(-?) sum\((?:increase\()?(haproxy_\w+)\{(.*?)\}", " ".join(expression.split()))
    assert len(terms) == 3
    found = 0.0
    for sign, name, labels in terms:
        samples = re.findall(rf"^{name}\{{(.*)\}} (\S+)$", shown, re.MULTILINE)
        values = [float(value) for has, value in samples if set(labels.split(", ")) <= set(has.split(","))]
        assert values, name
        found += -sum(values) if sign else sum(values)
    return found


def test_only_what_no_replica_answered_is_said_to_be_lost(tmp_path: Path, replicas: tuple[Replica, Replica]) -> None:
    first, other = replicas
    with started(tmp_path, *(replica.server_address[1] for replica in replicas)) as balancer:

        def post(size: int = 1000) -> int:
            """The status; 0 where the answer breaks off."""
            try:
                return httpx.post(f"{balancer.url}/predict", content=b"\x01" * size, timeout=30).status_code
            except httpx.RemoteProtocolError:
                return 0

        # Sent again, and answered.
        for first.mode in ("die", "reset", "full"):
            assert [post() for _ in range(4)] == [200] * 4
        # What the replicas say themselves.
        other.mode = "full"
        assert post() == 503
        assert first.got and lost(balancer) == 0
        first.mode = other.mode = "break off"
        assert post() == 0
        assert lost(balancer) == 1
        first.mode = other.mode = "reset"
        assert post(9_000_000) == 502
        assert lost(balancer) == 2


def test_a_full_replica_is_passed_over_and_full_ones_are_believed(
    tmp_path: Path, replicas: tuple[Replica, Replica]
) -> None:
    with balanced(tmp_path, *replicas) as url, httpx.Client(base_url=url, timeout=30) as client:
        replicas[0].mode = "full"
        assert {client.post("/predict", content=b"\x01").status_code for _ in range(6)} == {200}
        replicas[1].mode = "full"
        answer = client.post("/predict", content=b"\x01")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
        assert answer.json()["title"] == "Too many requests at once"


def test_a_client_that_goes_takes_its_request_with_it(tmp_path: Path, replicas: tuple[Replica, Replica]) -> None:
    for replica in replicas:
        replica.mode = "wait"
    with balanced(tmp_path, *replicas) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/predict", content=b"\x01" * 1000, timeout=0.5)
        for _ in range(50):
            if [got.get("gone") for replica in replicas for got in replica.got] == ["True"]:
                return
            time.sleep(0.1)
    raise AssertionError("the replica was not told")


def test_replicas_that_are_not_ready_get_nothing(tmp_path: Path, replicas: tuple[Replica, Replica]) -> None:
    with balanced(tmp_path, *replicas) as url, httpx.Client(base_url=url, timeout=30) as client:
        replicas[0].ready = False
        time.sleep(4)
        assert {client.post("/predict", content=b"\x01").status_code for _ in range(6)} == {200}
        assert not replicas[0].got
        replicas[1].ready = False
        time.sleep(4)
        answer = client.post("/predict", content=b"\x01")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == "No replica is ready. Try again later."


def test_what_a_replica_is_told(tmp_path: Path, replicas: tuple[Replica, Replica]) -> None:
    with balanced(tmp_path, *replicas) as url, httpx.Client(base_url=url, timeout=30) as client:
        given = {"X-Request-ID": "mine", "X-Forwarded-For": "6.6.6.6"}
        client.post("/predict", content=b"\x01", headers=given)
        client.post("/predict", content=b"\x01")
        first, second = sorted(replicas[0].got + replicas[1].got, key=lambda headers: headers["x-request-id"] != "mine")
        assert (first["x-request-id"], first["x-forwarded-for"]) == ("mine", "127.0.0.1")
        assert re.fullmatch(r"[0-9a-f-]{36}", second["x-request-id"])
        for path in ("/metrics", "/model/reload", "/%6detrics", "/model/%72eload", "/metric%73?a=b"):
            refused = client.get(path)
            assert (refused.status_code, refused.json()["status"]) == (403, 403)


def test_every_error_of_its_own_is_a_problem_document() -> None:
    found = re.findall(
        r"http-error status (\d+) content-type (\S+) string '(.*?)'( hdr Retry-After \d+)?$", CONFIG.read_text(), re.M
    )
    assert {status for status, *_ in found} >= {"400", "403", "408", "500", "502", "503", "504"}
    for status, media_type, body, retry in found:
        assert media_type == "application/problem+json"
        assert json.loads(body)["status"] == int(status)
        assert bool(retry) == (status == "503")
