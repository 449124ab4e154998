"""API keys: their SHA-256 sums in a file, and the middleware that asks for them.

The file has one key per line: the 64 hexadecimal digits of the sum, then optionally the key's name, as in what
`printf %s "$KEY" | sha256sum` prints. Lines that start with # are comments. Keys must be long and random
(`openssl rand -hex 32`): then a plain hash is enough, there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from service.context import current
from service.errors import StartupError, Unauthorized, problem_response

log = logging.getLogger("segdepth")

LOOK_AGAIN_S = 1.0
OPEN = frozenset(
    ["/", "/docs", "/openapi.json", "/metrics", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"]
)
"""What needs no key, besides the page's files: probes, metrics and descriptions, which name the model but answer no
picture."""


class ApiKeys:
    """The keys of a file, read again when it changes.

    Raises:
        StartupError: the file cannot be read, is not right, or has no key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked = time.monotonic()
        self._fault = ""
        """What is wrong with the file, so that it is logged once and not every second."""
        self._stamp = self._stat()
        self._keys = self._read()
        if not self._keys:
            raise StartupError(f"{path} has no API key: nobody could use the service")

    @property
    def names(self) -> list[str]:
        return [name for _, name in self._keys]

    def name_of(self, key: bytes) -> str | None:
        """The name of a key, or None if it is not one of them. Takes as long for a wrong key as for a right one."""
        self._look_again()
        digest = hashlib.sha256(key).digest()
        found = None
        for known, name in self._keys:
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _look_again(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_AGAIN_S:
            return
        self._looked = now
        try:
            stamp = self._stat()
            if stamp == self._stamp:
                return
            self._keys = self._read()
            self._stamp, self._fault = stamp, ""
            log.info("%d API keys are read again", len(self._keys))
        except StartupError as error:
            if error.reason != self._fault:
                self._fault = error.reason
                log.error("the old API keys stay: %s", error.reason)

    def _stat(self) -> tuple[int, int, int]:
        try:
            stat = os.stat(self._path)
        except OSError as error:
            raise StartupError(f"cannot read the API keys {self._path}: {error.strerror}") from None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> list[tuple[bytes, str]]:
        try:
            lines = self._path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise StartupError(f"cannot read the API keys {self._path}: {error}") from None
        keys = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            found = re.fullmatch(r"([0-9a-fA-F]{64})(?:\s+(\S.*?))?\s*", line)
            if found is None:
                # Without the line itself: it may be a key that somebody forgot to hash.
                raise StartupError(f"{self._path} line {number} is not a SHA-256 sum and a name")
            name = found[2] if found[2] and found[2] != "-" else f"line {number}"
            keys.append((bytes.fromhex(found[1]), name))
        return keys


class RequireKey:
    """ASGI middleware: 401 without a known key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN or scope["path"].startswith("/page/"):
            await self._app(scope, receive, send)
            return
        name = next((name for key in _given(scope) if (name := self._keys.name_of(key)) is not None), None)
        if name is None:
            problem = Unauthorized(
                "Send a valid API key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
                headers={"WWW-Authenticate": "Bearer"},
            )
            await problem_response(problem, scope["path"])(scope, receive, send)
            return
        current().client = name
        await self._app(scope, receive, send)


def _given(scope: Scope) -> Iterator[bytes]:
    """What may be a key. `Authorization` may have the token of a proxy that asks for one of its own."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if (own := headers.get(b"x-api-key")) is not None:
        yield own
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        yield key.strip()
