"""Reading uploaded pictures: a raw body, or fields of a multipart form; never more than the byte limit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.errors import BodyTooLarge, InvalidRequest

FIELD = "file"
FIELDS = ("files", FIELD)
"""Of several pictures; the second is what some clients repeat."""


class _InMemoryParser(MultiPartParser):
    # Starlette moves larger files to disk; the body is bounded, and a container's disk may be read-only.
    spool_max_size = 2**31

    def close(self) -> None:
        """Close all files, also one whose part was cut off and which is therefore not in the form."""
        for file in self._files_to_close_on_error:
            file.close()


async def read_upload(request: Request, max_bytes: int) -> bytes:
    """The bytes of the uploaded file.

    Raises:
        BodyTooLarge: by Content-Length or by counting. The rest of the body is unread.
        InvalidRequest: nothing, an empty file, several files, no field `file`, or a broken form.
    """
    stream = _bounded(request, max_bytes)
    if not _is_form(request):
        data = b"".join([chunk async for chunk in stream])
    else:
        async with _form(request, stream, max_files=8) as form:
            files = form.getlist(FIELD)
            if len(files) > 1:
                raise InvalidRequest(f"The form has {len(files)} fields '{FIELD}'; send one picture per request.")
            if not files:
                raise InvalidRequest(f"The form has no field '{FIELD}' (it has {_names(form)}).")
            data = await _content(FIELD, files[0])
    if not data:
        raise InvalidRequest(f"The picture is empty. Send it as the body, or as the multipart field '{FIELD}'.")
    return data


async def read_uploads(request: Request, max_bytes: int, max_files: int) -> list[bytes]:
    """The bytes of each file in the form fields `files` and `file`, in their order; some may be empty.

    Raises:
        BodyTooLarge: all together, by Content-Length or by counting. The rest of the body is unread.
        InvalidRequest: not a form, a broken one, too many files, or none in these fields.
    """
    if not _is_form(request):
        raise InvalidRequest(f"Send the pictures as multipart/form-data, each in a field '{FIELDS[0]}'.")
    async with _form(request, _bounded(request, max_bytes), max_files) as form:
        uploads = [await _content(name, value) for name, value in form.multi_items() if name in FIELDS]
        if not uploads:
            raise InvalidRequest(f"The form has no field '{FIELDS[0]}' (it has {_names(form)}).")
        return uploads


def _bounded(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body, until it is too large."""
    too_large = BodyTooLarge(f"The request body is larger than {max_bytes} bytes, the limit of this server.")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large

    async def counted() -> AsyncGenerator[bytes, None]:
        count = 0
        async for chunk in request.stream():
            count += len(chunk)
            if count > max_bytes:
                raise too_large
            yield chunk

    return counted()


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


@asynccontextmanager
async def _form(request: Request, stream: AsyncGenerator[bytes, None], max_files: int) -> AsyncIterator[FormData]:
    parser = _InMemoryParser(request.headers, stream, max_files=max_files, max_fields=32)
    try:
        yield await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(f"The multipart form cannot be read: {error.message}") from None
    finally:
        parser.close()


def _names(form: FormData) -> str:
    return ", ".join(f"'{name}'" for name in form) or "no complete field"


async def _content(name: str, value: UploadFile | str) -> bytes:
    if not isinstance(value, UploadFile):
        raise InvalidRequest(f"The field '{name}' must be a file, with a filename.")
    return await value.read()
