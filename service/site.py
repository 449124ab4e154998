"""What is for browsers: the page at `/` (`service/page`, served as it lies there) and the API's description at `/docs`.

Their addresses are relative, so that a proxy can put the service under a path of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException

from service.outputs import JSON, accept_of, quality
from service.version import __version__

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
HTML = "text/html"
MEDIA_TYPES = {
    ".html": f"{HTML}; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".jpg": "image/jpeg",
    ".txt": "text/plain; charset=utf-8",
}
HEADERS = {
    # Nothing from elsewhere, nothing inline, no frame around it: a file name or a class name can never become code.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept by the browser, but asked for each time: names stay the same when the service is updated.
    "Cache-Control": "no-cache",
}


class File(NamedTuple):
    """A file of the page, its media type and its strong ETag."""

    body: bytes
    media_type: str
    etag: str


def site_router() -> APIRouter:
    """Routes for `/`, `/page/...` and `/docs`. All files are read here, once: no request reaches the file system."""
    files = {path.relative_to(FOLDER).as_posix(): _read(path) for path in FOLDER.rglob("*") if path.is_file()}
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index(request: Request) -> Response:
        """The page; for clients that prefer JSON, where to find what."""
        accept = accept_of(request.headers)
        if quality(accept, JSON) > quality(accept, HTML):
            about = f'{{"name":"segdepth","version":"{__version__}","docs":"docs"}}'
            return Response(about, media_type=JSON, headers={"Vary": "Accept"})
        response = _answer(request, files[INDEX])
        response.headers["Vary"] = "Accept"
        return response

    @router.get("/page/{name:path}")
    async def file(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return _answer(request, files[name])

    @router.get("/docs")
    async def docs() -> Response:
        """Swagger UI, which the browser loads from a CDN."""
        return get_swagger_ui_html(openapi_url="openapi.json", title="segdepth: the API")

    return router


def _read(path: Path) -> File:
    body = path.read_bytes()
    return File(body, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _answer(request: Request, file: File) -> Response:
    headers = {**HEADERS, "ETag": file.etag}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.media_type, headers=headers)
