"""Answers on their way: what they may take together until their clients have them."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import Overloaded

LARGE = 1 << 20
"""Smaller answers are not counted: of those, there are no more than requests."""
RETRY_S = 5.0


class Sending:
    """Counts the bytes of large answers from when they are made until they are sent.

    What a server has said is its memory's as long as a client takes it slowly, or not at all, and an answer may be
    thousands of times as large as its request. For one server, on its event loop.

    Args:
        max_bytes: of large answers together; one alone may be larger.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0

    def response(self, body: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> Response:
        """What sends it.

        Raises:
            Overloaded: with the answers that others have not taken yet it would be too much.
        """
        if len(body) < LARGE:
            return Response(body, media_type=media_type, headers=headers)
        if self._bytes and self._bytes + len(body) > self._max_bytes:
            raise Overloaded("Other clients have not taken their large answers yet. Try again later.", RETRY_S)
        return _Counted(self, body, media_type, headers)


class _Counted(Response):
    """Sends a piece when the client has taken the one before, and so is not done before the client nearly is."""

    def __init__(self, sending: Sending, body: bytes, media_type: str, headers: Mapping[str, str] | None) -> None:
        super().__init__(body, media_type=media_type, headers=headers)
        self._sending = sending
        sending._bytes += len(body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            whole = memoryview(self.body)
            for at in range(0, len(whole), LARGE):
                more = at + LARGE < len(whole)
                await send({"type": "http.response.body", "body": bytes(whole[at : at + LARGE]), "more_body": more})
        finally:
            self._sending._bytes -= len(self.body)
