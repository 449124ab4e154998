"""Uvicorn's HTTP protocol with limits that it does not have: on headers, and on clients that are slow on purpose."""

from __future__ import annotations

import asyncio
import fcntl
import json
import sys
import termios
from contextlib import suppress

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEADERS = 100
MAX_HEADER_BYTES = 64 * 1024
"""Of a request's line and headers together."""
HEADER_SECONDS = 10.0
MAX_PIPELINED = 16
"""Requests of a connection that wait for the answer to the one before."""
MIN_SENT_BYTES = 64 * 1024
"""What a client must take of its answer in each `transfer_timeout_s`."""
FRAMING = (b"content-length", b"transfer-encoding")
"""By which the end of a body is known."""
MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""Of a request's body, after its answer."""


class HardenedProtocol(HttpToolsProtocol):
    """Besides HTTP/1.1:

    - 431 for more than `MAX_HEADERS` headers or `MAX_HEADER_BYTES` bytes of them;
    - 408 when a request's headers are not complete `HEADER_SECONDS` (or `transfer_timeout_s`, if that is less) after
      the connection or their first byte;
    - 400 for HTTP/1.1 without a Host, or with several;
    - behind `MAX_PIPELINED` requests that wait no more are read, and the connection ends with the last answer;
    - the connection is cut when a client takes less than `MIN_SENT_BYTES` of its answer in `transfer_timeout_s`;
    - fields behind a chunked body are dropped, and the connection is cut after `MAX_HEADER_BYTES` of them;
    - after an answer that did not wait for the request's body, the rest of it is thrown away and the connection stays,
      for `MAX_UNREAD_BYTES` and `transfer_timeout_s`; a client that asked whether it should send, and did not, is not
      waited for;
    - a request that asks for an upgrade is answered as it is, with its body;
    - what is not HTTP is answered with a problem document, like every other error.
    """

    transfer_timeout_s = 60.0
    """Set by the command, from the settings."""

    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _unread_timer: asyncio.TimerHandle | None = None
    _refused = False
    _running: RequestResponseCycle | None = None
    """The request that is worked on; `cycle` is the last one."""
    _framing: tuple[tuple[bytes, bytes], ...] = ()
    """Headers by which the body of a request that asks for an upgrade ends."""
    _reframing = False
    _parsed = 0
    """Of the bytes that came; fewer where a request asks for an upgrade, at which the parser stops."""
    _unsent = 0
    _receiving = False
    """The body of the last request is not complete."""
    _body_bytes = 0
    """What has come of it."""
    _bare_bytes = 0
    """Received since then: the frames of chunks, and what follows the last one."""

    # --- headers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        # Headers are counted by what arrives while they are not complete, so a single endless one counts as well.
        if self._header_timer is not None:
            self._header_bytes += min(len(data), MAX_HEADER_BYTES + 1)
        else:
            self._bare_bytes += len(data)
        while data and not self._refused:
            self._parsed = len(data)
            super().data_received(data)
            data = data[self._parsed :]
        if self._refused or self.transport.is_closing():
            return
        if self._header_timer is not None:
            if self._header_bytes > MAX_HEADER_BYTES:
                self._refuse(431, "The request's headers are too large.")
        elif self._receiving:
            if self._bare_bytes > MAX_HEADER_BYTES:
                self._cut()
        elif self.timeout_keep_alive_task is None and (self.cycle is None or self.cycle.response_complete):
            # An empty line has ended the wait for the next request, and begins none.
            self._expect_headers()

    def on_message_begin(self) -> None:
        if self._reframing:
            return
        super().on_message_begin()
        if self._refused:
            return
        # Set where the request before ended; more than one may come at once.
        self._unset_keepalive_if_required()
        self._receiving = True
        self._body_bytes = self._bare_bytes = 0
        if self._header_timer is None:  # The next request of a kept connection.
            self._expect_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._header_timer is not None:  # Not behind the body, where nobody looks at them any more.
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._refused or self._reframing:
            return
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if len(self.headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
            self._refuse(431, "The request has too many headers, or too large ones.")
            return
        if self.parser.get_http_version() == "1.1" and sum(name == b"host" for name, _ in self.headers) != 1:
            self._refuse(400, "A request of HTTP/1.1 has one Host header.")
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(400, "Too many requests at once on one connection.")
            return
        if self.parser.should_upgrade():
            self._framing = tuple(header for header in self.headers if header[0] in FRAMING)
        self._stop(self._header_timer)
        self._header_timer = None
        self._header_bytes = 0
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        self._body_bytes += len(body)
        self._bare_bytes = 0
        super().on_body(body)
        if self.cycle.response_complete and self._body_bytes > MAX_UNREAD_BYTES:
            self._cut()

    def on_message_complete(self) -> None:
        if self._framing:  # The parser has skipped the body.
            return
        self._receiving = False
        if self._refused:
            return
        super().on_message_complete()
        if self._unread_timer is not None:
            self._stop(self._unread_timer)
            self._unread_timer = None
            # What came of the body has ended the wait for the next request that began with the answer.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _expect_headers(self) -> None:
        self._header_bytes = 0
        seconds = min(HEADER_SECONDS, self.transfer_timeout_s)
        self._header_timer = self.loop.call_later(seconds, self._headers_are_late)

    def _headers_are_late(self) -> None:
        if not self.transport.is_closing():
            self._refuse(408, "The request's headers did not come in time.")

    # --- answers that nobody reads

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop(self._write_timer)
            self._write_timer = None

    def on_response_complete(self) -> None:
        self._running = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        if self.pipeline:  # No more of them are read until the last one is worked on.
            self.flow.pause_reading()
        # Of pipelined requests, only the last one can be incomplete.
        if self._receiving and self.cycle.response_complete and not self.transport.is_closing():
            if self.expect_100_continue and not self._body_bytes:
                # Whether its body or its next request comes first could not be told apart.
                self._cut()
            else:
                self._unread_timer = self.loop.call_later(self.transfer_timeout_s, self._cut)
        if self.transport.is_closing():  # It closes when all is sent, which may be never.
            self._watch_sending()

    def _cut(self) -> None:
        """Close; what still comes is of no use."""
        self._refused = True
        self.transport.close()
        self._watch_sending()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_sending()

    def _watch_sending(self) -> None:
        if self._write_timer is None:
            self._unsent = self._not_taken()
            self._write_timer = self.loop.call_later(self.transfer_timeout_s, self._check_sending)

    def _check_sending(self) -> None:
        self._write_timer = None
        if self.transport.get_write_buffer_size() and self._unsent - self._not_taken() >= MIN_SENT_BYTES:
            self._watch_sending()
        else:
            self.transport.abort()

    def _not_taken(self) -> int:
        """Bytes that the client has not acknowledged: the transport's, and those of the kernel, which are megabytes."""
        kernels = bytearray(4)
        with suppress(OSError, ValueError):  # Not every system says, nor a socket that is closed.
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, kernels)
        return self.transport.get_write_buffer_size() + int.from_bytes(kernels, sys.byteorder)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._header_timer, self._write_timer, self._unread_timer):
            self._stop(timer)
        # Resuming inside must find no timer to stop.
        self._header_timer = self._write_timer = self._unread_timer = None
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:  # Others may wait behind it.
            self._running.disconnected = True
            self._running.message_event.set()

    # --- what is not HTTP

    def send_400_response(self, msg: str) -> None:
        if not self._refused:
            self._refuse(400, "This is not an HTTP request that can be understood.")

    def _unsupported_upgrade_warning(self) -> None:
        """Anyone may ask for any upgrade in any number (Java's client does with every request, for HTTP/2); the request
        is answered as it is.

        The parser has stopped, and would take a body for the next request: a new one is told of it alone.
        """
        error = sys.exc_info()[1]
        assert isinstance(error, httptools.HttpParserUpgrade)
        (self._parsed,) = error.args
        if self._framing:
            head = b"".join(b"%s: %s\r\n" % header for header in self._framing)
            self._framing = ()
            self._reframing = True
            self.parser = httptools.HttpRequestParser(self)
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + head + b"\r\n")
            self._reframing = False

    def _refuse(self, status: int, detail: str) -> None:
        """Answer without the app, and close."""
        self._refused = True
        is_next = self._header_timer is not None or not self._receiving
        self._stop(self._header_timer)
        self._header_timer = None
        if is_next and self.cycle is not None and not self.cycle.response_complete:
            # The request before is still worked on. Its answer is the last one; this would be taken for it.
            self.cycle.keep_alive = False
            return
        title = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}[status]
        # Not into an answer that is under way, to this request or to one before on this connection.
        if self.cycle is None or self.cycle.response_complete or not (self.cycle.response_started or self.pipeline):
            body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
            content = json.dumps(body).encode()
            head = (
                f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\n"
                f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + content)
        self.transport.close()
        self._watch_sending()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
