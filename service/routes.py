"""The HTTP routes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from service.answers import Answer, Live, Ready
from service.cameras import Given
from service.card import ClassInfo, ModelCard
from service.coco import Coco
from service.containers import Part, multipart
from service.context import current
from service.deadline import timeout_of, together, within
from service.errors import MEDIA_TYPE, InvalidRequest, PayloadTooLarge, Problem, ProblemBody, describe
from service.outputs import (
    JSON,
    MEDIA_TYPES,
    MULTIPART,
    Options,
    Output,
    PointColor,
    Rendered,
    accept_of,
    negotiate,
    negotiate_batch,
)
from service.pipeline import Pipeline
from service.uploads import FIELD, FIELDS, read_upload, read_uploads

router = APIRouter()


async def _pipeline(request: Request) -> AsyncIterator[Pipeline]:
    """The pipeline that serves now; a reload keeps it until this request's answer is made."""
    with request.app.state.models.use() as pipeline:
        yield pipeline


# Not until the answer is sent: who takes it slowly, or never, would keep an old model in memory.
Service = Annotated[Pipeline, Depends(_pipeline, scope="function")]


class Parameters(BaseModel):
    """The query of a prediction, whatever it answers with."""

    fx: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="Focal length in pixels of the picture as seen upright."),
    ] = None
    fy: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="Vertical focal length in pixels; by default `fx`.")
    ] = None
    cx: Annotated[
        float | None,
        Field(
            allow_inf_nan=False,
            description="Principal point in pixels (0 is the middle of the first one); by default the picture's "
            "middle.",
        ),
    ] = None
    cy: Annotated[float | None, Field(allow_inf_nan=False, description="As `cx`, from the top.")] = None
    hfov: Annotated[
        float | None, Field(gt=1, lt=179, description="Instead of `fx`: horizontal field of view in degrees.")
    ] = None
    pictures: Annotated[bool, Field(description="JSON: with its pictures in it, as base64.")] = True
    color: Annotated[
        PointColor, Field(description="PLY and GLB: points in the colours of the picture, or of their classes.")
    ] = "picture"
    max_points: Annotated[
        int, Field(ge=1, le=5_000_000, description="PLY and GLB: of larger pictures, a coarser grid is taken.")
    ] = 500_000
    min_confidence: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="Pixels of less confidence are unreliable: JSON says how many they are, points leave them "
            "out, `output=unreliable` shows them (255, others 0), and so do multipart and ZIP.",
        ),
    ] = None

    def options(self) -> Options:
        """Raises InvalidRequest where the camera contradicts itself."""
        camera = Given(self.fx, self.fy, self.cx, self.cy, self.hfov)
        return Options(camera, self.pictures, self.color, self.max_points, self.min_confidence)


class _One(Parameters):
    output: Annotated[
        Output | None,
        Field(description="What to answer with. By default JSON, or what `Accept` asks for; `image/png` is the mask."),
    ] = None


class _Each(Parameters):
    output: Annotated[Output, Field(description="What to answer each picture with.")] = "json"


NAMES = tuple(_One.model_fields)


Q = TypeVar("Q", bound=Parameters)


def _query(request: Request, model: type[Q]) -> Q:
    """The query of a request. FastAPI, which looks at each parameter by itself, takes longer for that than for all the
    rest of a request.

    Raises:
        InvalidRequest: one is given twice, or there is none of that name: a misspelt camera would be an assumed one,
            whose depth looks no different.
        RequestValidationError: one that is out of its bounds.
    """
    if unknown := sorted(set(request.query_params) - set(NAMES)):
        raise InvalidRequest(f"There is no parameter {unknown[0]!r:.50}; there are {', '.join(NAMES)}.")
    if len(request.query_params.multi_items()) > len(request.query_params):
        raise InvalidRequest("A parameter is given twice.")
    try:
        return model.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("query", *one["loc"])} for one in error.errors()]) from None


def _describe_query(model: type[Parameters]) -> list[dict[str, Any]]:
    """For the OpenAPI description of a route."""
    return [
        {"name": name, "in": "query", "required": False, "description": schema["description"], "schema": schema}
        for name, schema in model.model_json_schema()["properties"].items()
    ]


TimeoutMs = Annotated[
    int | None,
    Header(ge=1, description="Milliseconds from the complete upload to the answer; after them, 504."),
]


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
_UPLOADS = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {FIELDS[0]: {"type": "array", "items": _BINARY}},
                "required": [FIELDS[0]],
            },
        },
    },
}
EACH = "/predict/batch, each"
"""Counts, in the place of a route, what became of each picture of a batch."""


@router.post(
    "/predict",
    response_model=Answer | Coco,
    responses={
        200: {
            "description": "Mask and depth map, as `output` or `Accept` asks for them",
            "content": {name: {"schema": _BINARY} for name in MEDIA_TYPES.values() if name != JSON},
        },
        **describe_problems(406, 408, 413, 415, 422, 500, 503, 504),
    },
    openapi_extra={"parameters": _describe_query(_One), "requestBody": _UPLOAD},
)
async def predict(request: Request, service: Service, x_request_timeout_ms: TimeoutMs = None) -> Response:
    """Segment a photo of a room and measure its depth.

    Send the picture as the multipart field `file`, or as the body itself. All maps have its size, as seen upright.

    `output` (or its media type as `Accept`) is one of

    - `json`: masks, depth, and figures of every class; `coco`: run-length masks in a COCO document;
    - one PNG: `mask` (palette, pixel = class id), `depth` (16-bit, mm, 0 = invalid), `depth_color`, `overlay`,
      `confidence` (8-bit, 255 = certain), `unreliable` (with `min_confidence`);
    - several files: `multipart` (multipart/mixed, the JSON first) or `zip`; `npz`: arrays for `numpy.load`;
    - a point cloud in metres: `ply` (x to the right, y down, z forward) or `glb` (y up, looking along -z).

    Depth is metric for the camera's focal length. Give it as `fx` (and `fy`, `cx`, `cy`) or `hfov`; otherwise it is
    taken from the picture's EXIF, or else assumed to be 0.85 longer sides of the picture. The answer says which.
    """
    query = _query(request, _One)
    timeout_s, options = timeout_of(x_request_timeout_ms, service.settings), query.options()
    output = negotiate(accept_of(request.headers), query.output)
    options.check(output, request.query_params)
    service.batcher.require_ready()
    upload = await read_upload(request, service.settings.max_bytes, NAMES)
    body, media_type = await within(request, timeout_s, service.predict(upload, output, options))
    return service.sending.response(body, media_type)


@router.post(
    "/predict/batch",
    response_model=list[Answer | Coco | ProblemBody],
    responses={
        200: {
            "description": "An answer to each picture, or the problem with it, in their order",
            "content": {MULTIPART: {"schema": _BINARY}},
        },
        **describe_problems(406, 408, 413, 415, 422, 500, 503, 504),
    },
    openapi_extra={"parameters": _describe_query(_Each), "requestBody": _UPLOADS},
)
async def predict_batch(request: Request, service: Service, x_request_timeout_ms: TimeoutMs = None) -> Response:
    """The same for several photos at once: any number of multipart fields `files` (or `file`), within the limits.

    The answer has, in their order, what `/predict` would have answered to each of them, a problem with its `status`
    included: as a JSON array, or as multipart/mixed, whose parts have media types of their own. Outputs other than
    `json` and `coco` come as multipart/mixed only. All parameters are for all pictures.
    """
    query = _query(request, _Each)
    timeout_s, options, output = timeout_of(x_request_timeout_ms, service.settings), query.options(), query.output
    media_type = negotiate_batch(accept_of(request.headers), output)
    options.check(output, request.query_params)
    service.batcher.require_ready()
    uploads = await read_uploads(request, service.settings.max_files_bytes, service.settings.max_files, NAMES)
    service.require_queue_holds(len(uploads))
    answers = await within(request, timeout_s, _all_answers(service, uploads, output, options))
    if media_type == JSON:
        return service.sending.response(b"[" + b",".join(answer.body for answer in answers) + b"]", JSON)
    body, media_type = multipart([Part("", answer.media_type, answer.body) for answer in answers])
    return service.sending.response(body, media_type)


async def _all_answers(
    service: Pipeline, uploads: Sequence[bytes], output: Output, options: Options
) -> Sequence[Rendered]:
    """Each holds a place of its own; they are decoded, batched and rendered like requests that come together."""
    kept = 0

    async def answer(upload: bytes) -> Rendered:
        """What `/predict` would answer to this picture, as long as it can be kept until the others are done."""
        nonlocal kept
        status, reason = 200, "ok"
        try:
            found = await _answer(service, upload, output, options)
            if kept and kept + len(found.body) > service.settings.queue_bytes:
                raise PayloadTooLarge("The answers are too large together. Send fewer pictures, or one by one.")
            kept += len(found.body)
        except Problem as problem:
            found, status, reason = _problem(problem), problem.status, problem.kind
        # The request as a whole is a 200, whatever is in it.
        service.metrics.requests.labels(EACH, status, reason).inc()
        return found

    return await together([answer(upload) for upload in uploads])


async def _answer(service: Pipeline, upload: bytes, output: Output, options: Options) -> Rendered:
    if len(upload) > service.settings.max_bytes:
        raise PayloadTooLarge(f"The picture has more than {service.settings.max_bytes} bytes, this server's limit.")
    return await service.predict(upload, output, options)


def _problem(problem: Problem) -> Rendered:
    return Rendered(json.dumps({**describe(problem), "request_id": current().id}).encode(), MEDIA_TYPE)


@router.get("/health/live", responses=describe_problems(503))
async def live(request: Request) -> Live:
    """The process answers and has an engine that works or is being loaded; 503 asks for a restart."""
    request.app.state.models.require_live()
    return Live()


@router.get("/health/ready", responses=describe_problems(503))
async def ready(request: Request, service: Service) -> Ready:
    """The model is loaded and warm; until then 503 with the progress."""
    request.app.state.models.require_ready()
    return Ready(provider=service.batcher.provider, engines=service.batcher.serving().engines)


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
