"""The HTTP routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from service.answers import Answer, Live, Ready
from service.card import ClassInfo, ModelCard
from service.deadline import timeout_of, within
from service.errors import MEDIA_TYPE, NotAcceptable, ProblemBody
from service.pipeline import Output, Pipeline
from service.uploads import FIELD, read_upload
from service.version import __version__

JSON = "application/json"
PNG = "image/png"

router = APIRouter()


async def _pipeline(request: Request) -> AsyncIterator[Pipeline]:
    """The pipeline that serves now; a reload keeps it until this request has its answer."""
    with request.app.state.models.use() as pipeline:
        yield pipeline


Service = Annotated[Pipeline, Depends(_pipeline)]


async def _timeout(
    service: Service,
    x_request_timeout_ms: Annotated[
        int | None, Header(ge=1, description="Milliseconds from the complete upload to the answer; after them, 504.")
    ] = None,
) -> float:
    return timeout_of(x_request_timeout_ms, service.settings)


Timeout = Annotated[float, Depends(_timeout)]


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI description of a route."""
    content = {MEDIA_TYPE: {"schema": ProblemBody.model_json_schema()}}
    return {status: {"description": "An RFC 9457 problem", "content": content} for status in statuses}


_BINARY = {"type": "string", "format": "binary"}
_UPLOAD = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "properties": {FIELD: _BINARY}, "required": [FIELD]},
        },
        "image/*": {"schema": _BINARY},
    },
}


@router.post(
    "/predict",
    response_model=Answer,
    responses={
        200: {"description": "Mask and depth map", "content": {PNG: {"schema": _BINARY}}},
        **describe_problems(406, 408, 413, 415, 422, 500, 503, 504),
    },
    openapi_extra={"requestBody": _UPLOAD},
)
async def predict(
    request: Request,
    service: Service,
    timeout_s: Timeout,
    output: Annotated[Output | None, Query(description="Answer with this one PNG instead of JSON.")] = None,
) -> Response:
    """Segment a photo of a room and measure its depth.

    Send the picture as the multipart field `file`, or as the body itself. The answer is JSON, or one PNG with
    `output` or `Accept: image/png` (which alone means the mask).
    """
    wanted = negotiate(request.headers.get("accept", "*/*"), output)
    service.batcher.require_ready()
    upload = await read_upload(request, service.settings.max_bytes)
    body = await within(request, timeout_s, service.predict(upload, wanted))
    return Response(body, media_type=JSON if wanted is None else PNG)


@router.get("/health/live")
async def live() -> Live:
    """The process answers."""
    return Live()


@router.get("/health/ready", responses=describe_problems(503))
async def ready(request: Request, service: Service) -> Ready:
    """The model is loaded and warm; until then 503 with the progress."""
    request.app.state.models.require_ready()
    return Ready(provider=str(service.batcher.provider))


@router.get("/model")
async def model(service: Service) -> ModelCard:
    """The model card."""
    return service.card


@router.get("/labels")
async def labels(service: Service) -> list[ClassInfo]:
    """The classes: id (the value in masks), name and colour."""
    return service.card.classes


@router.get("/metrics", response_class=Response)
async def metrics(service: Service) -> Response:
    """Metrics for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
async def index() -> dict[str, str]:
    return {"name": "segdepth", "version": __version__, "docs": "/docs"}


def negotiate(accept: str, output: Output | None) -> Output | None:
    """Which PNG to answer with, or None for JSON.

    Raises:
        NotAcceptable: `accept` allows neither, or with `output` no PNG.
    """
    if output is not None:
        if not _quality(accept, PNG):
            raise NotAcceptable(f"output={output} is {PNG}, which Accept: {accept} does not allow.")
        return output
    json, png = _quality(accept, JSON), _quality(accept, PNG)
    if not json and not png:
        raise NotAcceptable(f"The answer is {JSON}, or {PNG} with output={'|'.join(get_args(Output))}.")
    return None if json >= png else "mask"


def _quality(accept: str, media_type: str) -> float:
    """How much an Accept header wants a media type, 0 to 1; the most specific range counts (RFC 9110, 12.5.1)."""
    ranges = [media_type, media_type.partition("/")[0] + "/*", "*/*"]
    found: dict[str, float] = {}
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
                if not 0.0 <= quality <= 1.0:  # NaN too.
                    quality = 0.0
        found[name] = quality
    return next((found[r] for r in ranges if r in found), 0.0)
