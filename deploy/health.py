"""The container's health check: `python3 -m deploy.health live|ready` ends with 0 if the service says so.

It asks this machine at SEGDEPTH_PORT (8000). A bare socket, because importing an HTTP client costs more than all the
rest, every few seconds, on the cores that the network wants; and no proxy of the environment gets in between.
"""

from __future__ import annotations

import os
import socket
import sys


def main() -> None:
    """Ask `/health/live` or `/health/ready`."""
    if sys.argv[1:] not in (["live"], ["ready"]):
        sys.exit("usage: python3 -m deploy.health live|ready")
    port = os.environ.get("SEGDEPTH_PORT", "")
    # For a Service named segdepth, Kubernetes sets it to tcp://...; the service ignores that as well.
    address = ("127.0.0.1", int(port) if port.isdecimal() else 8000)
    try:
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(f"GET /health/{sys.argv[1]} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError as error:
        sys.exit(f"no answer: {error}")
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    # Docker keeps what is printed: `docker inspect` shows it.
    print(head.partition("\r\n")[0], body)
    sys.exit(head.split()[1:2] != ["200"])


if __name__ == "__main__":
    main()
