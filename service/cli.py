"""The command.

segdepth serve [--host HOST] [--port PORT] [--model FILE.onnx] [--device cpu|cuda|openvino]
segdepth --version
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Never

import uvicorn

from service.app import create_app
from service.errors import StartupError
from service.settings import ENV_PREFIX, Settings
from service.version import __version__


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        # One line, like every other reason not to start; argparse would print the usage as well.
        self.exit(2, f"segdepth: {message} (see {self.prog} --help)\n")


class _Server(uvicorn.Server):
    url = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"segdepth listens on {self.url} (try {self.url}/docs)", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = _Parser(
        prog="segdepth", description="Semantic segmentation and metric depth of rooms.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"segdepth {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve_parser = commands.add_parser(
        "serve",
        help="answer photos over HTTP",
        description=f"Answer photos over HTTP. Every setting is also an environment variable {ENV_PREFIX}...",
        allow_abbrev=False,
    )
    serve_parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve_parser.add_argument("--port", help="TCP port, 0 takes a free one (8000)")
    serve_parser.add_argument("--model", type=Path, help="ONNX file to serve (the bundled one)")
    serve_parser.add_argument("--device", help="cpu, cuda, openvino or openvino-bf16 (cpu)")
    args = parser.parse_args(argv)
    flags = {name: getattr(args, name) for name in ("host", "port", "model", "device")}
    serve(Settings.load(**{name: value for name, value in flags.items() if value is not None}))


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; accepted requests are answered first.

    Raises:
        StartupError: the model or the port is not to be had.
    """
    # Uvicorn handles the signal first and raises it again when it has shut down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s: %(message)s")
    # It warns of every broken form, which anyone may send in any number; the client gets the reason.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    sock = _bind(settings.host, settings.port)
    config = uvicorn.Config(
        create_app(settings),
        log_level=settings.log_level,
        timeout_graceful_shutdown=int(settings.timeout_s) + 1,
    )
    server = _Server(config)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    server.url = f"http://{host}:{sock.getsockname()[1]}"
    try:
        server.run(sockets=[sock])
    except KeyboardInterrupt:
        sys.exit(130)


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket. Uvicorn would report a taken port only after loading the app, in several lines."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        raise StartupError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return sock


if __name__ == "__main__":
    main()
