"""The command.

segdepth serve [--host HOST] [--port PORT] [--model FILE.onnx] [--device cpu|cuda|tensorrt|openvino]
segdepth doctor [--model FILE.onnx] [--device cpu|cuda|tensorrt|openvino]
segdepth warm [--model FILE.onnx] [--device cpu|cuda|tensorrt|openvino]
segdepth predict PATH... --out DIR [--output mask|depth|json|...] [--url URL]
segdepth --version
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Never

import uvicorn

from service import bulk, doctor, logs
from service.app import create_app
from service.bulk_inputs import UsageError
from service.devices import onnx_source
from service.errors import StartupError
from service.models import Models
from service.protocol import HardenedProtocol
from service.settings import ENV_PREFIX, Settings
from service.version import __version__

log = logging.getLogger("segdepth")

COMMANDS = {
    "serve": "answer photos over HTTP",
    "doctor": "say whether this machine can serve, and what is missing",
    "warm": "load the model and run every shape once, then end",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        # One line, like every other reason not to start; argparse would print the usage as well.
        self.exit(2, f"segdepth: {message} (see {self.prog} --help)\n")


class _Server(uvicorn.Server):
    """Uvicorn, with a first line that tells the address, and an orderly end."""

    def __init__(self, config: uvicorn.Config, settings: Settings, models: Models, url: str) -> None:
        super().__init__(config)
        self._settings = settings
        self._models = models
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"segdepth listens on {self._url} (try {self._url}/docs)", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends readiness, then accepting, then the process; a second one
        does not wait for SEGDEPTH_DRAIN_S."""
        if self._models.draining:
            super().handle_exit(sig, frame)
            return
        self._models.draining = True
        _later(self._settings.grace_s, self._end)
        if self._settings.drain_s:
            _later(self._settings.drain_s, lambda: self._drained(sig, frame))
        else:
            super().handle_exit(sig, frame)

    def _drained(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:  # Else a second signal came before, and once more would end what is under way.
            super().handle_exit(sig, frame)

    def _end(self) -> None:
        log.error("the end after %g s, with work left over", self._settings.grace_s)
        logging.shutdown()
        os._exit(0)


def _later(seconds: float, call: Callable[[], None]) -> None:
    """In a thread of its own: whatever the event loop and the engines do."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


def main(argv: Sequence[str] | None = None) -> None:
    parser = _Parser(
        prog="segdepth", description="Semantic segmentation and metric depth of rooms.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"segdepth {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in COMMANDS.items():
        description = (
            f"{summary[0].upper()}{summary[1:]}. Every setting is also an environment variable {ENV_PREFIX}..."
        )
        command = commands.add_parser(name, help=summary, description=description, allow_abbrev=False)
        if name == "serve":
            command.add_argument("--host", help="address to listen on (127.0.0.1)")
            command.add_argument("--port", help="TCP port, 0 takes a free one (8000)")
        command.add_argument("--model", type=Path, help="ONNX file to serve (the bundled one)")
        command.add_argument("--device", help="cpu, cuda, tensorrt, openvino, or several with commas between (cpu)")
    predict = commands.add_parser(
        "predict",
        help="answer pictures in files",
        description="Answer pictures, folders of them and videos, as files that are what the server would send.",
        allow_abbrev=False,
    )
    bulk.add_arguments(predict)
    arguments = parser.parse_args(argv)
    if arguments.command == "predict":
        try:
            sys.exit(bulk.main(arguments))
        except UsageError as error:
            predict.error(str(error))
        except KeyboardInterrupt:  # While files are being looked for.
            sys.exit(130)
    flags = {name: value for name, value in vars(arguments).items() if value is not None}
    chosen = flags.pop("command")
    settings = Settings.load(**flags)
    logs.configure(settings.log_format, settings.log_level)
    if chosen == "doctor":
        sys.exit(doctor.main(settings))
    elif chosen == "warm":
        warm(settings)
    else:
        serve(settings)


def warm(settings: Settings) -> None:
    """Load and warm up every engine, one after the other, which fills the caches that later starts use.

    Raises:
        StartupError: the model or a device is not to be had.
    """
    _, loaders = onnx_source(settings)
    # One of those that share the cores, which have no caches of their own.
    for device, load in dict(zip(settings.devices, loaders, strict=True)).items():
        start = time.perf_counter()
        engine = load()
        engine.warm_up(partial(_print_progress, device))
        nodes = ", ".join(f"{count} nodes on {provider}" for provider, count in engine.nodes.items())
        engine.close()
        print(f"{device}: {nodes}; warm after {time.perf_counter() - start:.1f} s", flush=True)


def _print_progress(device: str, done: int, total: int) -> None:
    print(f"{device}: {done} of {total}", flush=True)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; accepted requests are answered first.

    Raises:
        StartupError: the model or the port is not to be had.
    """
    # Uvicorn handles the signal first and raises it again when it has shut down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Until the app handles it. Its default would end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _allow_many_connections()
    sock = _bind(settings.host, settings.port)
    app = create_app(settings)
    HardenedProtocol.transfer_timeout_s = settings.transfer_timeout_s
    config = uvicorn.Config(
        app,
        http=HardenedProtocol,
        ws="none",
        log_config=None,
        log_level=settings.log_level,
        # The app logs its requests itself.
        access_log=False,
        timeout_keep_alive=settings.keep_alive_s,
        # A second before the process ends in any case, so that the last clients are told.
        timeout_graceful_shutdown=max(1, int(settings.grace_s - settings.drain_s - 1)),
    )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    server = _Server(config, settings, app.state.models, f"http://{host}:{sock.getsockname()[1]}")
    try:
        server.run(sockets=[sock])
    except KeyboardInterrupt:
        sys.exit(130)


def _allow_many_connections() -> None:
    """Each takes a file descriptor, and the usual soft limit of 1024 is for programs that use `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket. Uvicorn would report a taken port only after loading the app, in several lines."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except (OSError, UnicodeError) as error:  # Names that cannot be are the latter.
        raise StartupError(f"cannot listen on {host}:{port}: {getattr(error, 'strerror', error)}") from None
    return sock


if __name__ == "__main__":
    main()
