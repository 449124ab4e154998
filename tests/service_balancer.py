"""A real HAProxy with the configuration of docker-compose.yml, in front of replicas on this machine."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

CONFIG = Path(__file__).parent.parent / "deploy" / "compose" / "haproxy" / "haproxy.cfg"


@dataclass
class Balancer:
    process: subprocess.Popen[bytes]
    url: str
    internal: str
    """Host and port of its metrics."""


@contextmanager
def started(folder: Path, *replicas: int, under: str = "") -> Iterator[Balancer]:
    """The balancer, when it has found the replicas at these ports ready. Fixed addresses stand in for Docker's DNS.
    Of a path that they are to be `under`, it takes that away, and has nothing elsewhere."""
    servers = "\n    ".join(f"server r{n} 127.0.0.1:{port}" for n, port in enumerate(replicas))
    text, count = re.subn(r"server-template .*", servers, CONFIG.read_text())
    assert count == 1
    # Both at once, so that they differ.
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        port, internal = a.getsockname()[1], b.getsockname()[1]
    text = text.replace("bind :8000", f"bind 127.0.0.1:{port}").replace("bind :8404", f"bind 127.0.0.1:{internal}")
    if under:
        rules = f"http-request deny deny_status 404 unless {{ path_beg {under}/ }}\n    "
        rules += f"http-request replace-path {under}(/.*) \\1\n    default_backend"
        text = text.replace("default_backend", rules)
    config = folder / "haproxy.cfg"
    config.write_text(text.replace("/tmp/haproxy.sock", str(folder / "sock")))
    process = subprocess.Popen(
        ["haproxy", "-W", "-db", "-f", str(config)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    up = f'haproxy_backend_agg_server_check_status{{proxy="replicas",state="UP"}} {len(replicas)}'
    try:
        for _ in range(300):
            try:
                if up in httpx.get(f"http://127.0.0.1:{internal}/metrics").text:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        else:
            raise AssertionError("the balancer did not start")
        yield Balancer(process, f"http://127.0.0.1:{port}", f"127.0.0.1:{internal}")
    finally:
        process.terminate()
        process.wait(30)
