"""Errors: what a client is told (RFC 9457 problems), and why the service does not start.

Problem 500                     every error with an HTTP answer of its own
├── InvalidRequest 422          no file, several files, a broken form
├── BrokenImage 422             a known picture format, but damaged or not supported
├── UnsupportedImage 415        not one of the picture formats
├── UnsupportedEncoding 415     a compressed body
├── InvalidInference 400        not what the Open Inference Protocol says
├── UnknownModel 404            another name or version than the model's
├── Unauthorized 401            no API key, or a wrong one
├── Forbidden 403               not without API keys
├── UploadTimeout 408           the body did not come in time
├── PayloadTooLarge 413
│   ├── TooManyPixels           by the picture's header
│   ├── TooManyPictures         in one request
│   └── BodyTooLarge            by bytes; the rest of the body is not read
├── NotAcceptable 406           `Accept` allows nothing we have
├── ClientGone 400              nobody is left to answer
├── ReloadRunning 409           another reload has not ended
├── ReloadFailed 409            the new model file is not right; the old one stays
├── Unavailable 503             with Retry-After
│   ├── NotReady                the model is still being loaded
│   ├── EnginesLost             every engine has failed
│   ├── Overloaded              the queue is full, or longer than the request may wait
│   ├── UploadsFull             too many bytes are being received
│   └── Stopping                the server is shutting down
├── DeadlineExceeded 504
├── InferenceFailed 500
└── WorkerLost 500              the process that worked on the picture died
StartupError                    ends the process
"""

from __future__ import annotations

import asyncio
import copyreg
import logging
import math
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from service.context import current

log = logging.getLogger("segdepth")

MEDIA_TYPE = "application/problem+json"
DRAIN_BYTES = 64 * 1024 * 1024
DRAIN_SECONDS = 5.0


class ProblemBody(BaseModel):
    """The body of every error answer (RFC 9457)."""

    # Some problems say more: `/health/ready` adds `progress`.
    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:segdepth:problem:unsupported-image"])
    title: str = Field(examples=["Not a supported picture"])
    status: int = Field(examples=[415])
    detail: str = Field(examples=["Send a JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF."])
    request_id: str = Field(examples=["0e0b6b1d9c5a4e2f8d9f3f0a7b1c2d3e"])


class Problem(Exception):  # noqa: N818 - the RFC's word
    """An error with an HTTP answer: `status`, `kind` (the end of the type URN) and `title` belong to the class."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    unread_body: ClassVar[bool] = False
    """Whether the request's body may be left unread: then it is drained and the connection closed."""

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}
        self.members = members

    def __reduce__(self) -> tuple[Any, ...]:
        # As it is, whatever the constructor of its class wants: processes send them to each other.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InvalidRequest(Problem):
    status, kind, title = 422, "invalid-request", "Invalid request"


class BrokenImage(Problem):
    status, kind, title = 422, "broken-image", "The picture cannot be read"


class UnsupportedImage(Problem):
    status, kind, title = 415, "unsupported-image", "Not a supported picture"


class PayloadTooLarge(Problem):
    status, kind, title = 413, "too-large", "Too large"


class TooManyPixels(PayloadTooLarge):
    kind, title = "too-many-pixels", "The picture has too many pixels"


class TooManyPictures(PayloadTooLarge):
    kind, title = "too-many-pictures", "Too many pictures at once"


class BodyTooLarge(PayloadTooLarge):
    kind, title = "body-too-large", "The request body is too large"
    unread_body = True


class InvalidInference(Problem):
    status, kind, title = 400, "invalid-inference", "Not a request of the Open Inference Protocol"


class UnknownModel(Problem):
    status, kind, title = 404, "unknown-model", "No such model"


class UnsupportedEncoding(Problem):
    status, kind, title = 415, "unsupported-encoding", "Not a supported Content-Encoding"


class UploadTimeout(Problem):
    status, kind, title = 408, "upload-timeout", "The upload took too long"
    unread_body = True


class Unauthorized(Problem):
    status, kind, title = 401, "unauthorized", "No valid API key"


class Forbidden(Problem):
    status, kind, title = 403, "forbidden", "Not allowed"


class NotAcceptable(Problem):
    status, kind, title = 406, "not-acceptable", "No acceptable answer"


class ClientGone(Problem):
    """Never read by anyone; the status is for the log and the metrics."""

    status, kind, title = 400, "client-gone", "The client went away"


class ReloadRunning(Problem):
    status, kind, title = 409, "reload-running", "Another reload is running"


class ReloadFailed(Problem):
    status, kind, title = 409, "reload-failed", "The new model is not served"


class Unavailable(Problem):
    """Try again after `retry_after` seconds (rounded up to whole ones, at least 1)."""

    status, kind, title = 503, "unavailable", "Not available now"

    def __init__(self, detail: str, retry_after: float, **members: Any) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(retry_after)))}, **members)


class NotReady(Unavailable):
    kind, title = "not-ready", "The model is being loaded"


class EnginesLost(Unavailable):
    kind, title = "engines-lost", "The model does not run any more"


class Overloaded(Unavailable):
    kind, title = "overloaded", "Too many requests at once"


class UploadsFull(Unavailable):
    kind, title = "uploads-full", "Too many uploads at once"
    unread_body = True


class Stopping(Unavailable):
    kind, title = "stopping", "The server is shutting down"


class DeadlineExceeded(Problem):
    status, kind, title = 504, "deadline-exceeded", "The answer took too long"


class InferenceFailed(Problem):
    kind, title = "inference-failed", "The model failed on this picture"


class WorkerLost(Problem):
    kind, title = "worker-lost", "The work on this picture broke off"


class StartupError(SystemExit):
    """Why the service does not start, in one line.

    It is a `SystemExit`, so that wherever it is raised (our command, or `uvicorn --factory` calling `create_app`)
    Python ends the process with that line on stderr and exit code 1, without a traceback.
    """

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        super().__init__(f"segdepth: {self.reason}")


class _UnreadBodyResponse(JSONResponse):
    """Answers before the whole body was read.

    Closing a connection with unread bytes resets it, and the client never sees the answer. So the answer goes out
    first, then a bounded part of the body is read and thrown away, and only then the connection is closed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headers["Connection"] = "close"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        # Reading would invite a client to send that waits for `100 Continue`.
        if (b"expect", b"100-continue") not in ((name, value.lower()) for name, value in scope["headers"]):
            await _drain(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive) -> None:
    left = DRAIN_BYTES
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        pass


def describe(problem: Problem) -> dict[str, Any]:
    """A problem as RFC 9457 has it."""
    return {
        "type": f"urn:segdepth:problem:{problem.kind}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        **problem.members,
    }


def problem_response(problem: Problem, path: str) -> Response:
    """The answer for a problem: RFC 9457, or below /v2 as the Open Inference Protocol has it."""
    return _answer(path, problem.kind, describe(problem), problem.headers, problem.unread_body)


def unexpected_response(path: str) -> Response:
    """For an exception that nobody handled; a client learns nothing about our insides."""
    return _plain_problem(path, 500, "An unexpected error; the server's log has the details.")


def _plain_problem(path: str, status: int, detail: str, headers: Any = None) -> Response:
    """An error without a type of its own: as RFC 9457 says, its title is the status' phrase."""
    phrase = HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": phrase, "status": status, "detail": detail}
    return _answer(path, phrase.lower().replace(" ", "-"), content, headers)


def _answer(path: str, kind: str, content: dict[str, Any], headers: Any, unread_body: bool = False) -> Response:
    request = current()
    request.reason = kind
    # Names in a form may have what UTF-8 cannot, by a charset such as UTF-7.
    content = {**content, "detail": content["detail"].encode(errors="backslashreplace").decode()}
    response = _UnreadBodyResponse if unread_body else JSONResponse
    status = content["status"]
    if path == "/v2" or path.startswith("/v2/"):
        return response({"error": content["detail"]}, status, headers, media_type="application/json")
    return response({**content, "request_id": request.id}, status, headers, media_type=MEDIA_TYPE)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error, request.url.path)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    detail = error.detail
    if error.status_code == 404:
        detail = f"There is nothing at {path}; /docs lists what there is."
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.method} is not allowed at {path}; use {allowed}."
    return _plain_problem(path, error.status_code, detail, error.headers)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = [f"{' '.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
    return problem_response(InvalidRequest("; ".join(details)), request.url.path)


async def _on_disconnect(request: Request, _error: Exception) -> Response:
    problem = ClientGone("The connection was closed before the upload was complete.")
    return problem_response(problem, request.url.path)


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem. What is left over, `service.middleware.Observe` answers."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
