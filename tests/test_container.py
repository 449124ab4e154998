"""Tests of the service, sent to a container of the image SEGDEPTH_TEST_IMAGE, which tests/compose_trial.py builds.

It runs as docker-compose.yml runs it: read-only, without capabilities, as nobody. Only its network is the host's:
clients that stop reading would be tests of Docker's proxy for published ports, which takes all that it gets.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from service_client import encode
from service_process import ROOT

# What clients send wrongly; here `server` is the one below.
from test_service_server import (  # noqa: F401
    test_a_client_that_goes_in_the_middle_of_its_upload,
    test_bad_bodies,
    test_byte_limit_without_content_length,
    test_exif_orientations,
    test_huge_content_length_is_answered_at_once,
    test_many_clients_at_once,
    test_unknown_output_path_and_method,
    test_unusual_pictures,
    test_wrong_field_name,
)

from benchmarks.common import free_port

if not (IMAGE := os.environ.get("SEGDEPTH_TEST_IMAGE", "")):
    pytest.skip("needs Docker and SEGDEPTH_TEST_IMAGE", allow_module_level=True)


@dataclass
class Container:
    """A running one. As much of a `Server` as tests use from outside."""

    name: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> tuple[str, str]:
        """SIGTERM; its exit code and what it wrote to stderr."""
        docker("stop", "-t", "40", self.name)
        code = docker("inspect", "-f", "{{.State.ExitCode}}", self.name).stdout.strip()
        return code, docker("logs", self.name).stderr


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=120)


@contextmanager
def container(model: Path, **settings: str) -> Iterator[Container]:
    """A ready one."""
    port = free_port()
    found = Container(f"segdepth-test-{port}", port)
    model.parent.chmod(0o755)
    confined = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"]
    settings |= {"SEGDEPTH_MODEL": f"/models/{model.name}", "SEGDEPTH_LOG_LEVEL": "error"}
    given = [word for name, value in settings.items() for word in ("-e", f"{name}={value}")]
    reached = ["--network", "host", "-v", f"{model.parent}:/models:ro", "--name", found.name]
    docker("run", "-d", "--init", *confined, *given, *reached, IMAGE, "--host", "127.0.0.1", "--port", str(port))
    try:
        for _ in range(300):
            try:
                if httpx.get(f"{found.url}/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        else:
            raise AssertionError("it did not get ready: " + docker("logs", found.name).stderr)
        yield found
    finally:
        docker("rm", "-f", found.name)


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[Container]:
    """With the limits of the plain service's `server`."""
    with container(tiny_model, SEGDEPTH_MAX_BYTES="3000000", SEGDEPTH_MAX_PIXELS="2000000") as running:
        yield running
        # Nothing that clients did was an error of the server's.
        assert running.stop() == ("0", "")


def test_clients_that_mean_no_good(tiny_model: Path) -> None:
    """tests/test_service_hostile.py, whose own server has these settings."""
    settings = {"TRANSFER_TIMEOUT_S": "1.5", "KEEP_ALIVE_S": "5", "QUEUE_BYTES": "4000000", "MAX_BYTES": "3000000"}
    with container(tiny_model, **{f"SEGDEPTH_{name}": value for name, value in settings.items()}) as running:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_service_hostile.py"]
        env = {**os.environ, "HOSTILE_URL": running.url}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-6000:]
        assert running.stop() == ("0", "")


def test_a_stop_answers_what_was_accepted(tiny_model: Path) -> None:
    """Eight large pictures are being worked on when Docker sends SIGTERM."""
    large = encode(np.full((1500, 2000, 3), (255, 0, 0), np.uint8), compress_level=1)
    request = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(large)}\r\n\r\n".encode() + large
    with container(tiny_model) as running, ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=60)) for _ in range(8)
        ]
        for client in clients:
            client.sendall(request)
        # Connections are accepted in their order, so that these are.
        assert httpx.get(f"{running.url}/health/live").status_code == 200
        assert running.stop() == ("0", "")
        assert [client.recv(12) for client in clients] == [b"HTTP/1.1 200"] * 8
