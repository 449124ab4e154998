"""Reading uploaded pictures: a raw body, or fields of a multipart form; never more than the byte limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLarge, InvalidRequest, UnsupportedEncoding, UploadsFull, UploadTimeout

FIELD = "file"
FIELDS = ("files", FIELD)
"""Of several pictures; the second is what some clients repeat."""
RETRY_S = 2.0


class _InMemoryParser(MultiPartParser):
    # Starlette moves larger files to disk; the body is bounded, and a container's disk may be read-only.
    spool_max_size = 2**31

    def close(self) -> None:
        """Close all files, also one whose part was cut off and which is therefore not in the form."""
        for file in self._files_to_close_on_error:
            file.close()


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        UnsupportedEncoding: it is compressed.
        BodyTooLarge: by Content-Length or by counting. The rest of the body is unread.
    """
    _refuse_compressed(request)
    return b"".join([chunk async for chunk in _counted(request, max_bytes)])


async def read_upload(request: Request, max_bytes: int, elsewhere: Collection[str]) -> bytes:
    """The bytes of the uploaded file. Form fields that `elsewhere` names belong into the query.

    Raises:
        UnsupportedEncoding: the body is compressed.
        BodyTooLarge: by Content-Length or by counting. The rest of the body is unread.
        InvalidRequest: nothing, an empty file, several files, no field `file`, one of `elsewhere`, or a broken form.
    """
    if not _is_form(request):
        data = await read_body(request, max_bytes)
    else:
        async with _form(request, _counted(request, max_bytes), max_files=8) as form:
            _refuse_fields(form, elsewhere)
            files = form.getlist(FIELD)
            if len(files) > 1:
                raise InvalidRequest(f"The form has {len(files)} fields '{FIELD}'; send one picture per request.")
            if not files:
                raise InvalidRequest(f"The form has no field '{FIELD}' (it has {_names(form)}).")
            data = await _content(FIELD, files[0])
    if not data:
        raise InvalidRequest(f"The picture is empty. Send it as the body, or as the multipart field '{FIELD}'.")
    return data


async def read_uploads(request: Request, max_bytes: int, max_files: int, elsewhere: Collection[str]) -> list[bytes]:
    """The bytes of each file in the form fields `files` and `file`, in their order; some may be empty. Form fields that
    `elsewhere` names belong into the query.

    Raises:
        UnsupportedEncoding: the body is compressed.
        BodyTooLarge: all together, by Content-Length or by counting. The rest of the body is unread.
        InvalidRequest: not a form, a broken one, too many files, none in these fields, or one of `elsewhere`.
    """
    if not _is_form(request):
        raise InvalidRequest(f"Send the pictures as multipart/form-data, each in a field '{FIELDS[0]}'.")
    async with _form(request, _counted(request, max_bytes), max_files) as form:
        _refuse_fields(form, elsewhere)
        uploads = [await _content(name, value) for name, value in form.multi_items() if name in FIELDS]
        if not uploads:
            raise InvalidRequest(f"The form has no field '{FIELDS[0]}' (it has {_names(form)}).")
        return uploads


def _refuse_compressed(request: Request) -> None:
    if request.headers.get("content-encoding", "").lower() not in ("identity", ""):
        raise UnsupportedEncoding("Content-Encoding is not supported; send the body as it is.")


async def _counted(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    too_large = BodyTooLarge(f"The request body is larger than {max_bytes} bytes, the limit of this server.")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > max_bytes:
            raise too_large
        yield chunk


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


@asynccontextmanager
async def _form(request: Request, stream: AsyncGenerator[bytes, None], max_files: int) -> AsyncIterator[FormData]:
    _refuse_compressed(request)
    parser = _InMemoryParser(request.headers, stream, max_files=max_files, max_fields=32)
    try:
        yield await parser.parse()
    except MultiPartException as error:
        if "Maximum number of files" in error.message:
            raise InvalidRequest(f"The form has more than {max_files} files. Send fewer in a request.") from None
        raise InvalidRequest(f"The multipart form cannot be read: {error.message}") from None
    except (UnicodeError, LookupError) as error:  # Of names, in the charset that the form says it has.
        raise InvalidRequest(f"The multipart form cannot be read: {error}") from None
    finally:
        parser.close()


def _refuse_fields(form: FormData, elsewhere: Collection[str]) -> None:
    for name in form:
        if name in elsewhere:
            raise InvalidRequest(f"'{name}' is a parameter of the query (?{name}=...), not a field of the form.")


def _names(form: FormData) -> str:
    return ", ".join(f"'{name}'" for name in form) or "no complete field"


async def _content(name: str, value: UploadFile | str) -> bytes:
    if not isinstance(value, UploadFile):
        raise InvalidRequest(f"The field '{name}' must be a file, with a filename.")
    return await value.read()


class LimitUploads:
    """ASGI middleware: bounds how long an upload takes, and how many bytes of uploads there are together.

    It wraps `receive`, so it holds for every route, whatever it reads. What exceeds a bound is raised where the route
    reads, as UploadTimeout or UploadsFull. An upload counts until its answer begins: how slowly a client takes that is
    no reason to refuse others.
    """

    def __init__(self, app: ASGIApp, seconds: float, max_bytes: int) -> None:
        self._app = app
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self._seconds
        complete = refused = False
        own = 0

        async def limited() -> Message:
            nonlocal complete, refused, own
            # What is thrown away after an answer counts no more.
            if complete or refused:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                refused = True
                raise UploadTimeout(f"The upload took longer than {self._seconds:g} s.") from None
            complete = not message.get("more_body", False)
            size = len(message.get("body", b""))
            # An upload larger than the bound must not wait for ever: alone it is let in.
            if self._bytes > own and self._bytes + size > self._max_bytes:
                refused = True
                raise UploadsFull("The server is receiving too many uploads. Try again later.", RETRY_S)
            own += size
            self._bytes += size
            return message

        async def released(message: Message) -> None:
            nonlocal complete, own
            if message["type"] == "http.response.start":
                complete = True
                self._bytes -= own
                own = 0
            await send(message)

        try:
            await self._app(scope, limited, released)
        finally:
            self._bytes -= own
