"""The Python client.

    from service.client import Client

    with Client("http://127.0.0.1:8000") as client:
        room = client.predict("room.jpg")
    print(room.labels.shape, room.depth.shape, [c.name for c in room.classes])

It needs httpx, NumPy and Pillow, and imports neither torch nor onnxruntime. Maps come as a ZIP of PNGs: lossless, and
11 times smaller than the npz at least, which saves more time than their decoding takes.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from email.message import Message
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import anyio
import anyio.to_thread
import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service import png
from service.client_errors import (
    MEDIA_TYPE,
    BodyTooLarge,
    BrokenImage,
    ClientError,
    ClientGone,
    DeadlineExceeded,
    EnginesLost,
    Forbidden,
    InferenceFailed,
    InvalidInference,
    InvalidRequest,
    NotAcceptable,
    NotReachable,
    NotReady,
    NotUnderstood,
    Overloaded,
    PayloadTooLarge,
    Problem,
    ReloadFailed,
    ReloadRunning,
    Stopping,
    TimedOut,
    TooManyPictures,
    TooManyPixels,
    Unauthorized,
    Unavailable,
    UnknownModel,
    UnsupportedEncoding,
    UnsupportedImage,
    UploadsFull,
    UploadTimeout,
    WorkerLost,
    error_of,
)
from service.client_result import Camera, Class, Model, Nearest, PointCloud, Prediction, prediction_of
from service.rgb import to_rgb

__all__ = [
    "AsyncClient",
    "BodyTooLarge",
    "BrokenImage",
    "Camera",
    "Class",
    "Client",
    "ClientError",
    "ClientGone",
    "DeadlineExceeded",
    "EnginesLost",
    "Forbidden",
    "InferenceFailed",
    "InvalidInference",
    "InvalidRequest",
    "Model",
    "Nearest",
    "NotAcceptable",
    "NotReachable",
    "NotReady",
    "NotUnderstood",
    "Overloaded",
    "PayloadTooLarge",
    "Picture",
    "PointCloud",
    "Prediction",
    "Problem",
    "ReloadFailed",
    "ReloadRunning",
    "Stopping",
    "TimedOut",
    "TooManyPictures",
    "TooManyPixels",
    "Unauthorized",
    "Unavailable",
    "UnknownModel",
    "UnsupportedEncoding",
    "UnsupportedImage",
    "UploadTimeout",
    "UploadsFull",
    "WorkerLost",
]

URL = "http://127.0.0.1:8000"
TIMEOUT_S = 60.0
RETRIES = 8
AT_ONCE = 8
"""Pictures in one request of `predict_many`, as many as the network is given at once."""
MANY_BYTES = 32 * 1024 * 1024
"""The most bytes of such a request with more than one picture."""
PIECE_BYTES = 256 * 1024
"""Of an upload; between two, the client looks at the time."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 4.0
"""Where the server does not say when to come back: after each attempt twice as long."""
LONGEST_ATTEMPT_S = 120.0
"""What a server grants at most unless it is set otherwise (SEGDEPTH_MAX_TIMEOUT_S)."""

Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[np.uint8]
"""A picture: the path of a file, a file's bytes, a binary file object, a PIL image, or RGB pixels, uint8 [H, W, 3]."""


def upload_of(picture: Picture) -> bytes:
    """The picture file to send; of pixels and PIL images a PNG, with the EXIF tags of the latter.

    Raises:
        OSError: the file cannot be read.
        TypeError, ValueError: it is none of the kinds of `Picture`.
    """
    if isinstance(picture, (str, os.PathLike)):
        return Path(picture).read_bytes()
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return bytes(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"pixels are uint8 [H, W, 3], not {picture.dtype} {list(picture.shape)}")
        return png.encode(picture)
    if isinstance(picture, Image.Image):
        if picture.mode in ("I", "F"):  # Pillow would cut off what is above 255.
            raise ValueError(f"no range is known of a picture of mode {picture.mode}; convert it to 8 bits")
        out = io.BytesIO()
        picture.load()  # Some modes are known only then.
        as_it_is = picture.mode in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
        writable = picture if as_it_is else to_rgb(picture)
        writable.save(out, "PNG", compress_level=1, exif=picture.getexif())
        return out.getvalue()
    if not hasattr(picture, "read"):
        raise TypeError(f"a picture is a path, bytes, a file, a PIL image or an array, not {type(picture).__name__}")
    data = picture.read()
    if not isinstance(data, bytes):
        raise TypeError("the file is open as text; open it with mode 'rb'")
    return data


class _Requests:
    """What both clients share: what they send, and how they read what comes back."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float, retries: int) -> None:
        self.timeout_s = timeout_s
        self.retries = retries
        self._base = url if "://" in url else f"http://{url}"
        try:
            address = httpx.URL(self._base)
        except httpx.InvalidURL as error:
            raise ValueError(f"'{url}' is not an address: {error}") from None
        if address.scheme not in ("http", "https"):
            raise ValueError(f"'{url}' is not an address of HTTP")
        # As messages have it, without a password.
        self._shown = str(address.copy_with(userinfo=b""))
        self._headers = {"Accept": "*/*", "User-Agent": "segdepth-client"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def _attempts(self, timeout_s: float | None) -> _Attempts:
        return _Attempts(self._shown, self.timeout_s if timeout_s is None else timeout_s, self.retries)


class _Attempts:
    """The policy of one call: what is tried again, when, and until when. It does no I/O itself."""

    def __init__(self, url: str, timeout_s: float, retries: int) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s is {timeout_s:g}; it must be more than 0")
        self._url = url
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._left = retries
        self._pause_s = FIRST_PAUSE_S

    def remaining(self) -> float:
        """Seconds, more than 0. Raises TimedOut."""
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise self.timed_out()
        return seconds

    def timed_out(self) -> TimedOut:
        return TimedOut(f"no answer from {self._url} within {self._timeout_s:g} s")

    def headers(self) -> dict[str, str]:
        return {"X-Request-Timeout-Ms": str(max(1, int(1000 * min(self.remaining(), LONGEST_ATTEMPT_S))))}

    def pause_after(self, error: Exception) -> float:
        """Seconds until the next attempt. Where there is none, raises the error as one of ours."""
        if isinstance(error, (httpx.TimeoutException, TimeoutError)):
            raise self.timed_out() from error
        if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
            error = NotReachable(f"no answer from {self._url}: {str(error) or type(error).__name__}")
        elif isinstance(error, httpx.HTTPError):
            raise NotUnderstood(str(error)) from error
        if not isinstance(error, (Unavailable, NotReachable)) or not self._left:
            raise error
        self._left -= 1
        asked = error.retry_after_s if isinstance(error, Unavailable) else None
        seconds = self._pause_s if asked is None else asked
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        # A little more, so that clients which were refused together do not come back together.
        seconds *= 1 + random.random() / 4
        if seconds >= self.remaining():
            raise error
        return seconds


class _Answer:
    """A complete answer of status 200."""

    def __init__(self, status: int, headers: httpx.Headers, body: bytes) -> None:
        """Raises Problem or NotUnderstood for every other status."""
        if status != httpx.codes.OK:
            raise error_of(status, headers, body)
        self.headers = headers
        self.body = body

    @property
    def request_id(self) -> str:
        return str(self.headers.get("X-Request-ID", ""))

    def prediction(self, upload: bytes) -> Prediction:
        return prediction_of(self.body, upload, self.request_id)

    def predictions(self, uploads: Sequence[bytes]) -> list[Prediction | Problem]:
        """Of the batch endpoint's multipart/mixed.

        Raises:
            NotUnderstood: it is not that, or has another number of parts.
        """
        parts = list(_parts(self.headers.get("Content-Type", ""), self.body))
        if len(parts) != len(uploads):
            raise NotUnderstood(f"{len(uploads)} pictures got {len(parts)} answers")
        answers: list[Prediction | Problem] = []
        for upload, (media_type, body) in zip(uploads, parts, strict=True):
            if media_type == MEDIA_TYPE:
                problem = error_of(0, {"Content-Type": media_type}, body)
                if isinstance(problem, NotUnderstood):
                    raise problem
                answers.append(problem)
            else:
                answers.append(prediction_of(body, upload, self.request_id))
        return answers


def _parts(content_type: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """Media type and content of each part of a multipart/mixed body whose parts have a Content-Length.

    Raises:
        NotUnderstood: it is not that.
    """
    header = Message()
    header["Content-Type"] = content_type
    opening = f"--{header.get_param('boundary')}".encode()
    at = 0
    try:
        while body[at : at + len(opening) + 2] != opening + b"--":
            if not body.startswith(opening + b"\r\n", at):
                raise ValueError("no boundary")
            end = body.index(b"\r\n\r\n", at)
            lines = body[at + len(opening) + 2 : end].decode("ascii").split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            start, length = end + 4, int(fields["content-length"])
            yield fields["content-type"], body[start : start + length]
            at = start + length + 2
    except (KeyError, ValueError) as error:
        raise NotUnderstood(f"The answer is not multipart/mixed as a segdepth server writes it: {error!r}") from None


def _camera(
    fx: float | None, fy: float | None, cx: float | None, cy: float | None, hfov: float | None
) -> dict[str, Any]:
    given = {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "hfov": hfov}
    return {name: value for name, value in given.items() if value is not None}


def _single(upload: bytes) -> dict[str, Any]:
    # As a body of its own and not as a form: nothing has to be taken apart. The server looks at the bytes.
    return {"content": upload, "headers": {"Content-Type": "application/octet-stream"}}


def _form(uploads: Sequence[bytes]) -> dict[str, Any]:
    return {"files": [("files", (str(k), upload, "application/octet-stream")) for k, upload in enumerate(uploads)]}


class _Until:
    """Timeouts of a request that all end together: httpx asks for one, by `get`, at the beginning of each phase."""

    def __init__(self, attempts: _Attempts) -> None:
        self._attempts = attempts

    def get(self, _phase: str, _default: float | None = None) -> float:
        return self._attempts.remaining()


class _Upload(httpx.SyncByteStream):
    """A body that ends with its request's time; httpx has one timeout for each piece that is sent."""

    def __init__(self, body: httpx.SyncByteStream, attempts: _Attempts) -> None:
        self._body = body
        self._attempts = attempts

    def __iter__(self) -> Iterator[bytes]:
        for part in self._body:
            for start in range(0, len(part), PIECE_BYTES):
                self._attempts.remaining()
                yield part[start : start + PIECE_BYTES]


class Client(_Requests):
    """Asks a segdepth server; for use in one thread or in several.

    Args:
        url: of the server, with a path if it is below one; `https://` too.
        api_key: sent as `Authorization: Bearer`.
        timeout_s: seconds that a call may take in all, with further attempts and the pauses between them; what is left
            of them goes to the server with each attempt as X-Request-Timeout-Ms (at most 120 s, its usual limit).
        retries: further attempts after 503 (or a proxy's 502), when the server says (Retry-After), and after
            connections that were refused or broke, as during a restart; 0 for none.

    A url that is none is a ValueError. Every call raises a `ClientError`: NotReachable, TimedOut, NotUnderstood, or the
    class of `Problem` that the server answered with. One that is tried again is raised where nothing is left to try, or
    no time.
    """

    def __init__(
        self, url: str = URL, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S, retries: int = RETRIES
    ) -> None:
        super().__init__(url, api_key, timeout_s, retries)
        self._http = httpx.Client(base_url=self._base, headers=self._headers)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def predict(
        self,
        picture: Picture,
        *,
        fx: float | None = None,
        fy: float | None = None,
        cx: float | None = None,
        cy: float | None = None,
        hfov: float | None = None,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Labels uint8 [H, W], depth float32 [H, W] in metres (NaN = invalid) and more of one picture.

        Args:
            picture: a path, bytes, a binary file, a PIL image, or RGB pixels, uint8 [H, W, 3].
            fx, fy, cx, cy: the camera, in pixels of the upright picture; `fy` is `fx` and (cx, cy) the middle unless
                given. Without a camera, that of the picture's EXIF, else a typical one.
            hfov: instead of them, the horizontal field of view in degrees.
            timeout_s: instead of the client's.

        Raises:
            ClientError: see the class.
            OSError, TypeError, ValueError: the picture cannot be read, or is none of these.
        """
        upload = upload_of(picture)
        query = {"output": "zip", **_camera(fx, fy, cx, cy, hfov)}
        return self._ask("/predict", query, _single(upload), timeout_s).prediction(upload)

    def predict_many(
        self,
        pictures: Iterable[Picture],
        *,
        fx: float | None = None,
        fy: float | None = None,
        cx: float | None = None,
        cy: float | None = None,
        hfov: float | None = None,
        at_once: int = AT_ONCE,
        timeout_s: float | None = None,
    ) -> Iterator[Prediction | Problem]:
        """`predict` of any number of pictures by the batch endpoint, in their order.

        A picture that the server cannot read gives its Problem, which is not raised. No more than one request's
        pictures and answers are held at a time.

        Args:
            fx, fy, cx, cy, hfov: one camera for all, as in `predict`.
            at_once: pictures per request, up to the server's SEGDEPTH_MAX_FILES; fewer where they are large.
            timeout_s: of each request, instead of the client's.

        Raises:
            ClientError: what concerns a whole request, see the class.
            OSError, TypeError, ValueError: a picture cannot be read, or is none of these; `at_once` is not at least 1.
        """
        query = {"output": "zip", **_camera(fx, fy, cx, cy, hfov)}
        for uploads in _groups(map(upload_of, pictures), at_once):
            answer = self._ask("/predict/batch", query, _form(uploads), timeout_s)
            for upload, found in zip(uploads, answer.predictions(uploads), strict=True):
                if not isinstance(found, Unavailable):
                    yield found
                    continue
                # The queue had no place for this one.
                try:
                    yield self._ask("/predict", query, _single(upload), timeout_s).prediction(upload)
                except Problem as problem:
                    yield problem

    def download(
        self,
        picture: Picture,
        output: str = "json",
        *,
        timeout_s: float | None = None,
        **options: str | float | bool,
    ) -> bytes:
        """The answer's body as the server sends it, in any of its formats: `download("room.jpg", "glb", hfov=70)`.

        Args:
            output: `json`, `mask`, `depth`, `overlay`, `npz`, `ply`, ... as `?output=` of the server.
            options: its other query parameters, such as `fx`, `min_confidence` or `max_points`.
            timeout_s: instead of the client's.

        Raises:
            ClientError: see the class.
            OSError, TypeError, ValueError: the picture cannot be read, or is none of the kinds of `Picture`.
        """
        return self._ask("/predict", {"output": output, **options}, _single(upload_of(picture)), timeout_s).body

    def _ask(self, path: str, query: Mapping[str, Any], sent: Mapping[str, Any], timeout_s: float | None) -> _Answer:
        attempts = self._attempts(timeout_s)
        while True:
            try:
                return self._try(path, query, sent, attempts)
            except (ClientError, httpx.HTTPError) as error:
                pause_s = attempts.pause_after(error)
            time.sleep(pause_s)

    def _try(self, path: str, query: Mapping[str, Any], sent: Mapping[str, Any], attempts: _Attempts) -> _Answer:
        headers = {**sent.get("headers", {}), **attempts.headers()}
        request = self._http.build_request(
            "POST", path, params=query, extensions={"timeout": _Until(attempts)}, **{**sent, "headers": headers}
        )
        assert isinstance(request.stream, httpx.SyncByteStream)
        request.stream = _Upload(request.stream, attempts)
        response = self._http.send(request, stream=True)
        try:
            chunks = []
            for chunk in response.iter_bytes():
                chunks.append(chunk)
                attempts.remaining()
            return _Answer(response.status_code, response.headers, b"".join(chunks))
        finally:
            response.close()


class AsyncClient(_Requests):
    """`Client` for asyncio and trio; the arguments and errors are the same. Calls may run at the same time."""

    def __init__(
        self, url: str = URL, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S, retries: int = RETRIES
    ) -> None:
        super().__init__(url, api_key, timeout_s, retries)
        # The deadline is kept outside of it.
        self._http = httpx.AsyncClient(base_url=self._base, headers=self._headers, timeout=None)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def predict(
        self,
        picture: Picture,
        *,
        fx: float | None = None,
        fy: float | None = None,
        cx: float | None = None,
        cy: float | None = None,
        hfov: float | None = None,
        timeout_s: float | None = None,
    ) -> Prediction:
        """As `Client.predict`; files are read, and pictures encoded and decoded, in a thread."""
        upload = await anyio.to_thread.run_sync(upload_of, picture)
        query = {"output": "zip", **_camera(fx, fy, cx, cy, hfov)}
        answer = await self._ask("/predict", query, _single(upload), timeout_s)
        return await anyio.to_thread.run_sync(answer.prediction, upload)

    async def predict_many(
        self,
        pictures: Iterable[Picture],
        *,
        fx: float | None = None,
        fy: float | None = None,
        cx: float | None = None,
        cy: float | None = None,
        hfov: float | None = None,
        at_once: int = AT_ONCE,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Prediction | Problem]:
        """As `Client.predict_many`: `async for room in client.predict_many(paths)`."""
        query = {"output": "zip", **_camera(fx, fy, cx, cy, hfov)}
        groups = _groups(map(upload_of, pictures), at_once)
        while uploads := await anyio.to_thread.run_sync(lambda: next(groups, None)):
            answer = await self._ask("/predict/batch", query, _form(uploads), timeout_s)
            found_all = await anyio.to_thread.run_sync(answer.predictions, uploads)
            for upload, found in zip(uploads, found_all, strict=True):
                if not isinstance(found, Unavailable):
                    yield found
                    continue
                try:
                    again = await self._ask("/predict", query, _single(upload), timeout_s)
                    yield await anyio.to_thread.run_sync(again.prediction, upload)
                except Problem as problem:
                    yield problem

    async def download(
        self,
        picture: Picture,
        output: str = "json",
        *,
        timeout_s: float | None = None,
        **options: str | float | bool,
    ) -> bytes:
        """As `Client.download`."""
        upload = await anyio.to_thread.run_sync(upload_of, picture)
        return (await self._ask("/predict", {"output": output, **options}, _single(upload), timeout_s)).body

    async def _ask(
        self, path: str, query: Mapping[str, Any], sent: Mapping[str, Any], timeout_s: float | None
    ) -> _Answer:
        attempts = self._attempts(timeout_s)
        while True:
            try:
                with anyio.fail_after(attempts.remaining()):
                    headers = {**sent.get("headers", {}), **attempts.headers()}
                    response = await self._http.post(path, params=query, **{**sent, "headers": headers})
                return _Answer(response.status_code, response.headers, response.content)
            except (ClientError, httpx.HTTPError, TimeoutError) as error:
                pause_s = attempts.pause_after(error)
            await anyio.sleep(pause_s)


def _groups(uploads: Iterator[bytes], at_once: int) -> Iterator[list[bytes]]:
    """At most `at_once` pictures each, and no more than `MANY_BYTES` unless it is a single one.

    Raises:
        ValueError: `at_once` is not at least 1.
    """
    if at_once < 1:
        raise ValueError(f"at_once is {at_once}; it must be at least 1")
    group: list[bytes] = []
    size = 0
    for upload in uploads:
        if group and (len(group) == at_once or size + len(upload) > MANY_BYTES):
            yield group
            group, size = [], 0
        group.append(upload)
        size += len(upload)
    if group:
        yield group
