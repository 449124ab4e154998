"""What `service.client` raises.

ClientError
├── NotReachable                nobody listens, or the connection broke; also a ConnectionError
├── TimedOut                    no answer within the total time of the call; also a TimeoutError
├── NotUnderstood               what answered is not segdepth, or speaks another version of it
└── Problem                     the server's answer is an error; its classes have the names they have in the server
    ├── InvalidRequest          422
    ├── BrokenImage             422
    ├── UnsupportedImage        415
    ├── UnsupportedEncoding     415
    ├── InvalidInference        400
    ├── UnknownModel            404
    ├── Unauthorized            401
    ├── Forbidden               403
    ├── UploadTimeout           408
    ├── PayloadTooLarge         413
    │   ├── TooManyPixels
    │   ├── TooManyPictures
    │   └── BodyTooLarge
    ├── NotAcceptable           406
    ├── ClientGone              400
    ├── ReloadRunning           409
    ├── ReloadFailed            409
    ├── Unavailable             503, also 502 from a proxy; tried again before it is raised
    │   ├── NotReady
    │   ├── EnginesLost
    │   ├── Overloaded
    │   ├── UploadsFull
    │   └── Stopping
    ├── DeadlineExceeded        504
    ├── InferenceFailed         500
    └── WorkerLost              500
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:segdepth:problem:"


class ClientError(Exception):
    """Any of them."""


class NotReachable(ClientError, ConnectionError):  # noqa: N818 - like the problems
    """Nobody listens at the address, or the connection broke before the answer was complete."""


class TimedOut(ClientError, TimeoutError):  # noqa: N818
    """The call's `timeout_s` passed, its pauses and further attempts included."""


class NotUnderstood(ClientError):  # noqa: N818
    """The answer is none that a segdepth server gives."""


class Problem(ClientError):  # noqa: N818 - the RFC's word
    """The server answered with an error (RFC 9457).

    Its text is the problem's `detail`. `status`: of HTTP; `kind`: the end of the problem's type, such as `overloaded`,
    or "" where it is none of segdepth's types; `title`; `request_id`: under which the server's log has it;
    `retry_after_s`: seconds after which it may be tried again, or None; `members`: what else the problem says.
    """

    kind: str = "internal"

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        title: str = "",
        request_id: str = "",
        retry_after_s: float | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.title = title
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.members = dict(members or {})


class InvalidRequest(Problem):
    """A parameter is not right, such as an impossible camera; or the picture is empty."""

    kind = "invalid-request"


class BrokenImage(Problem):
    """A known picture format, but damaged or not supported."""

    kind = "broken-image"


class UnsupportedImage(Problem):
    """Not one of the picture formats."""

    kind = "unsupported-image"


class UnsupportedEncoding(Problem):
    """A compressed body."""

    kind = "unsupported-encoding"


class InvalidInference(Problem):
    """Not what the Open Inference Protocol says."""

    kind = "invalid-inference"


class UnknownModel(Problem):
    """Another name or version than the model's."""

    kind = "unknown-model"


class Unauthorized(Problem):
    """No API key, or a wrong one: `Client(api_key=...)`."""

    kind = "unauthorized"


class Forbidden(Problem):
    """Not without API keys."""

    kind = "forbidden"


class UploadTimeout(Problem):
    """The server did not get the whole upload in time."""

    kind = "upload-timeout"


class PayloadTooLarge(Problem):
    """More bytes, pixels or pictures than the server takes."""

    kind = "too-large"


class TooManyPixels(PayloadTooLarge):
    """By the picture's header."""

    kind = "too-many-pixels"


class TooManyPictures(PayloadTooLarge):
    """In one request."""

    kind = "too-many-pictures"


class BodyTooLarge(PayloadTooLarge):
    """By bytes."""

    kind = "body-too-large"


class NotAcceptable(Problem):
    """The media type asked for cannot hold the output."""

    kind = "not-acceptable"


class ClientGone(Problem):
    """The server thought that nobody was left to answer."""

    kind = "client-gone"


class ReloadRunning(Problem):
    """Another reload has not ended."""

    kind = "reload-running"


class ReloadFailed(Problem):
    """The new model file is not right; the old one stays."""

    kind = "reload-failed"


class Unavailable(Problem):
    """Not available now; try again after `retry_after_s`."""

    kind = "unavailable"


class NotReady(Unavailable):
    """The model is still being loaded; `members["progress"]` has the steps done and in all."""

    kind = "not-ready"


class EnginesLost(Unavailable):
    """Every engine of the server has failed."""

    kind = "engines-lost"


class Overloaded(Unavailable):
    """The server's queue is full."""

    kind = "overloaded"


class UploadsFull(Unavailable):
    """The server is receiving too many bytes."""

    kind = "uploads-full"


class Stopping(Unavailable):
    """The server is shutting down."""

    kind = "stopping"


class DeadlineExceeded(Problem):
    """The server did not get done in the time that the call had left."""

    kind = "deadline-exceeded"


class InferenceFailed(Problem):
    """The model failed on this picture; the server's log has the details."""

    kind = "inference-failed"


class WorkerLost(Problem):
    """The server's process that worked on this picture died; the server's log has the details."""

    kind = "worker-lost"


def _below(parent: type[Problem]) -> list[type[Problem]]:
    return [one for child in parent.__subclasses__() for one in (child, *_below(child))]


_BY_KIND = {one.kind: one for one in _below(Problem)}


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> Problem | NotUnderstood:
    """The exception for an answer that is not 200.

    Args:
        headers: with any case of names, as httpx has them.
    """
    retry_after = _seconds(headers.get("Retry-After", ""))
    if headers.get("Content-Type", "").startswith(MEDIA_TYPE):
        try:
            return problem_of(json.loads(body), retry_after)
        except (ValueError, TypeError, KeyError, AttributeError):
            return NotUnderstood(f"The answer {status} is not a problem document as RFC 9457 has it.")
    phrase = http.client.responses.get(status, "")
    said = f"{status} {phrase}".strip()
    if status in (502, 503):  # Of a proxy whose server is away.
        return Unavailable(f"The answer was {said}.", status=status, title=phrase, retry_after_s=retry_after)
    return NotUnderstood(f"The answer was {said}, not one of a segdepth server; check the address.")


def problem_of(document: Mapping[str, Any], retry_after_s: float | None = None) -> Problem:
    """The exception for a problem document.

    Raises:
        KeyError: it lacks its status.
    """
    members = dict(document)
    type_ = str(members.pop("type", ""))
    status = int(members.pop("status"))
    kind = type_.removeprefix(TYPE_PREFIX) if type_.startswith(TYPE_PREFIX) else ""
    # A newer server may have kinds that are not known here, and a balancer answers in its own words.
    chosen = _BY_KIND.get(kind, Unavailable if status in (502, 503) else Problem)
    problem = chosen(
        str(members.pop("detail", "")),
        status=status,
        title=str(members.pop("title", "")),
        request_id=str(members.pop("request_id", "")),
        retry_after_s=retry_after_s,
        members=members,
    )
    problem.kind = kind
    return problem


def _seconds(retry_after: str) -> float | None:
    """Of a Retry-After header. A date, which only proxies send, is left out."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        return None
