"""The Open Inference Protocol, version 2, over REST, with the binary tensor data extension.

So `tritonclient.http` and KServe's clients work as they are. One input and three outputs:

    image       BYTES [N]            picture files; in JSON as base64 text
                UINT8 [N, H, W, 3]   or pixels, sRGB, upright
    labels      UINT8 [N, H, W]      class ids
    depth       UINT16 [N, H, W]     millimetres, 0 = invalid
    confidence  UINT8 [N, H, W]      the winning softmax probability x 255

Outputs have the size of the pictures, so those of one request must have the same size, and their values are those of
`/predict`. Requests go through the same queue, limits and deadlines. Errors are `{"error": "..."}`.
"""

from __future__ import annotations

import binascii
import json
import math
import struct
import time
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import pybase64
from fastapi import APIRouter, Header, Request, Response
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from service.arrays import UInt8
from service.batcher import Result
from service.cameras import Given
from service.card import ModelCard
from service.deadline import timeout_of, together, within
from service.errors import (
    InvalidInference,
    TooManyPixels,
    UnknownModel,
)
from service.outputs import JSON
from service.pipeline import Pipeline
from service.pixels import Fixed, Seen, decode, maps_of
from service.routes import Service, TimeoutMs
from service.threads import in_thread
from service.uploads import read_body
from service.version import __version__

ALIAS = "segdepth"
"""Names the model whatever its card says, so that clients outlive a reload."""
INPUT = "image"
HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_JSON_PIXELS = 4_000_000
"""The most pixels that are written as JSON numbers; more go as binary data."""
MAX_JSON_VALUES = 2_000_000
"""The most that are read: two pictures of 640x480, as numbers."""
MAX_JSON_LISTS = MAX_JSON_VALUES // 3
"""And of lists and objects, which take more memory: in nested data each pixel is one."""
DTYPES: dict[str, tuple[str, str]] = {
    "labels": ("UINT8", "<u1"),
    "depth": ("UINT16", "<u2"),
    "confidence": ("UINT8", "<u1"),
}

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])


# --- what a request says --------------------------------------------------------------------------------------


class _Part(BaseModel):
    # The protocol lets clients send parameters that a server does not know.
    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        """As generated clients write what is not set."""
        if not isinstance(value, dict):
            raise PydanticCustomError("object", "Input should be an object")
        return {name: part for name, part in value.items() if part is not None}


class _InputParameters(_Part):
    binary_data_size: Annotated[StrictInt, Field(ge=0)] | None = None


class _Input(_Part):
    name: StrictStr
    shape: Annotated[list[Annotated[StrictInt, Field(ge=1, lt=1 << 31)]], Field(min_length=1, max_length=4)]
    datatype: StrictStr
    parameters: _InputParameters = _InputParameters()
    data: Any = None


class _OutputParameters(_Part):
    binary_data: StrictBool | None = None


class _Output(_Part):
    name: StrictStr
    parameters: _OutputParameters = _OutputParameters()


Number = Annotated[float, Field(strict=True)]


class _Parameters(_Part):
    binary_data_output: StrictBool = False
    fx: Number | None = None
    fy: Number | None = None
    cx: Number | None = None
    cy: Number | None = None
    hfov: Number | None = None

    def given(self) -> Given:
        """Raises InvalidRequest where it contradicts itself."""
        return Given(self.fx, self.fy, self.cx, self.cy, self.hfov)


class InferenceRequest(_Part):
    """The JSON part of a request."""

    id: StrictStr | None = None
    parameters: _Parameters = _Parameters()
    inputs: Annotated[list[_Input], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[_Output], Field(max_length=len(DTYPES))] | None = None

    def wanted(self) -> dict[str, bool]:
        """The outputs to send, and whether as binary data.

        Raises:
            InvalidInference: an unknown output, or one twice.
        """
        default = self.parameters.binary_data_output
        if not self.outputs:
            return dict.fromkeys(DTYPES, default)
        wanted: dict[str, bool] = {}
        for output in self.outputs:
            if output.name not in DTYPES or output.name in wanted:
                raise InvalidInference(f"outputs: {output.name!r:.50} is unknown or asked for twice.")
            binary = output.parameters.binary_data
            wanted[output.name] = default if binary is None else binary
        return wanted


def parse(body: bytes, header_length: int | None) -> tuple[InferenceRequest, list[bytes] | UInt8]:
    """A request's body: its JSON part, and the picture files or the pixels, uint8 [N, H, W, 3].

    `header_length` is the length of the JSON part where binary data follows it.

    Raises:
        InvalidInference: it is not what the protocol says; the detail says where.
        TooManyPixels: they are too many for JSON.
    """
    if header_length is not None and header_length > len(body):
        raise InvalidInference(f"{HEADER_LENGTH} is {header_length}, but the body has {len(body)} bytes.")
    text, binary = body[:header_length], b"" if header_length is None else body[header_length:]
    # Counted by what separates or opens them; Python reads JSON without letting other threads run.
    if text.count(b",") > MAX_JSON_VALUES or text.count(b"[") + text.count(b"{") > MAX_JSON_LISTS:
        raise TooManyPixels(
            f"The JSON has more than {MAX_JSON_VALUES} values or {MAX_JSON_LISTS} lists; send them as binary data."
        )
    try:
        request = InferenceRequest.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the request"
        raise InvalidInference(f"{where}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise InvalidInference("The request is not JSON.") from None
    tensor = request.inputs[0]
    request.wanted()
    if tensor.name != INPUT:
        raise InvalidInference(f"inputs: the only input is '{INPUT}'.")
    size = tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise InvalidInference("inputs: give either data or parameters.binary_data_size.")
    if len(binary) != (size or 0):
        raise InvalidInference(f"binary_data_size is {size or 0}, but {len(binary)} bytes follow the JSON part.")
    if tensor.datatype == "BYTES":
        return request, _files(tensor, binary)
    if tensor.datatype == "UINT8":
        return request, _pixels(tensor, binary)
    raise InvalidInference("inputs: the datatype must be BYTES (picture files) or UINT8 (pixels).")


def _files(tensor: _Input, binary: bytes) -> list[bytes]:
    if len(tensor.shape) > 2 or tensor.shape[1:] not in ([], [1]):
        raise InvalidInference("inputs: the shape of BYTES must be [N] or [N, 1].")
    files = (
        _split(binary, tensor.shape[0]) if tensor.data is None else [_from_base64(text) for text in _flat(tensor.data)]
    )
    # Compared, never used as a size: a shape may lie.
    if len(files) != tensor.shape[0]:
        raise InvalidInference(f"inputs: the shape says {tensor.shape[0]} files, the data has another number.")
    return files


def _split(binary: bytes, count: int) -> list[bytes]:
    """Elements of a BYTES tensor: each is its length, 4 bytes little-endian, and its bytes. At most one too many."""
    files: list[bytes] = []
    at = 0
    while at < len(binary) and len(files) <= count:
        if at + 4 > len(binary):
            raise InvalidInference("inputs: the binary data ends within a length.")
        (length,) = struct.unpack_from("<I", binary, at)
        at += 4
        if length > len(binary) - at:
            raise InvalidInference("inputs: the binary data ends within an element.")
        files.append(binary[at : at + length])
        at += length
    return files


def _flat(data: Any) -> list[Any]:
    """The protocol allows data nested by shape as well as flat."""
    if not isinstance(data, list):
        raise InvalidInference("inputs: data must be a list.")
    flat: list[Any] = data
    while flat and isinstance(flat[0], list):
        if not all(isinstance(part, list) for part in flat):
            raise InvalidInference("inputs: data must be nested evenly.")
        flat = [value for part in flat for value in part]
    return flat


def _from_base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise InvalidInference("inputs: in JSON, a picture file is base64 text.")
    try:
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInference("inputs: a picture file is not valid base64.") from None


def _pixels(tensor: _Input, binary: bytes) -> UInt8:
    shape = tuple(tensor.shape)
    if len(shape) != 4 or shape[3] != 3:
        raise InvalidInference("inputs: the shape of UINT8 must be [N, H, W, 3].")
    if tensor.data is None:
        flat = np.frombuffer(binary, np.uint8)
    else:
        values = _flat(tensor.data)
        # `bytes` takes True for 1.
        if not all(type(value) is int and 0 <= value <= 255 for value in values):
            raise InvalidInference("inputs: UINT8 data must be integers from 0 to 255.")
        flat = np.frombuffer(bytes(values), np.uint8)
    # Python's integers do not overflow, whatever the shape says.
    if math.prod(shape) != flat.size:
        raise InvalidInference(f"inputs: the shape has {math.prod(shape)} values, the data {flat.size}.")
    return flat.reshape(shape)


# --- the work -------------------------------------------------------------------------------------------------


async def infer(service: Pipeline, body: bytes, header_length: int | None, name: str) -> tuple[bytes, int | None]:
    """Answer a request: the body, and the length of its JSON part if binary data follows it."""
    # Parsing megabytes of JSON is no work for the event loop either.
    request, pictures = await in_thread(partial(parse, body, header_length))
    service.require_queue_holds(len(pictures))
    wanted = request.wanted()
    with service.batcher.place(len(body) + len(pictures) * service.canvas_bytes, pictures=len(pictures)):
        decoded = await _decode(service, pictures, request.parameters.given())
        if not all(wanted.values()) and len(decoded) * math.prod(decoded[0][1].box.size) > MAX_JSON_PIXELS:
            raise TooManyPixels(
                f"An output of more than {MAX_JSON_PIXELS} pixels is not sent as JSON; ask for binary_data."
            )
        results = await together([service.batcher.infer(canvas) for canvas, _ in decoded])
        content, header_length, encode_s = await service.pixels.run(
            _render, wanted, request.id, name, [seen for _, seen in decoded], results
        )
    for (_, seen), result in zip(decoded, results, strict=True):
        service.metrics.observe_stages(
            decode=seen.decode_s, queue=result.queue_s, infer=result.infer_s, encode=encode_s / len(results)
        )
    return content, header_length


async def _decode(service: Pipeline, pictures: list[bytes] | UInt8, given: Given) -> list[tuple[UInt8, Seen]]:
    """decode -> fit, one after the other: together they may have no more pixels than one picture."""
    limit = service.settings.max_pixels
    decoded: list[tuple[UInt8, Seen]] = []
    total = 0
    for picture in pictures:
        canvas, seen = await service.pixels.run(decode, picture, given)
        size, first = seen.box.size, decoded[0][1].box.size if decoded else seen.box.size
        total += size[0] * size[1]
        if total > limit:
            raise TooManyPixels(f"The pictures have more than {limit} pixels together, the limit of this server.")
        if size != first:
            raise InvalidInference(
                f"The pictures have different sizes ({first}, {size}), which one tensor cannot hold. Send one per "
                "request."
            )
        decoded.append((canvas, seen))
    return decoded


def _render(
    fixed: Fixed, wanted: dict[str, bool], id_: str | None, name: str, pictures: list[Seen], results: list[Result]
) -> tuple[bytes, int | None, float]:
    """unfit -> the protocol's answer, and the seconds that it took. A job of `service.pixels`."""
    start = time.perf_counter()
    height, width = pictures[0].box.size
    shape = [len(pictures), height, width]
    outputs: list[str] = []
    binary: list[bytes] = []
    all_maps = [maps_of(fixed, seen, result.prediction) for seen, result in zip(pictures, results, strict=True)]
    for output, as_binary in wanted.items():
        datatype, dtype = DTYPES[output]
        described: dict[str, Any] = {"name": output, "datatype": datatype, "shape": shape}
        # Of copies: a map is kept by what it is first asked of, and those of all outputs are large together.
        planes = [getattr(replace(maps), output) for maps in all_maps]
        numbers = ""
        if as_binary:
            data = b"".join(plane.astype(dtype, copy=False).tobytes() for plane in planes)
            described["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            # Row by row: `json` would write all of them without letting other threads run.
            rows = (",".join(map(str, row.tolist())) for plane in planes for row in plane)
            numbers = f',"data":[{",".join(rows)}]'
        outputs.append(_json(described)[:-1] + numbers + "}")
    content: dict[str, Any] = {"model_name": name, "model_version": fixed.card.version}
    cameras_used = {seen.camera for seen in pictures}
    if len(cameras_used) == 1:  # A parameter has one value; pictures by several cameras are told apart by their EXIF.
        content["parameters"] = asdict(cameras_used.pop())
    if id_ is not None:
        content["id"] = id_
    text = f'{_json(content)[:-1]},"outputs":[{",".join(outputs)}]}}'.encode()
    body = b"".join([text, *binary])
    return body, len(text) if binary else None, time.perf_counter() - start


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


# --- the routes -----------------------------------------------------------------------------------------------


def _check_name(card: ModelCard, name: str, version: str | None) -> None:
    if name not in (card.name, ALIAS):
        raise UnknownModel(f"There is no such model; this server has '{card.name}', also called '{ALIAS}'.")
    if version not in (None, card.version):
        raise UnknownModel(f"There is no such version; this server has '{card.version}'.")


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI description of a route."""
    schema = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return {status: {"description": "An error", "content": {JSON: {"schema": schema}}} for status in statuses}


@router.get("", operation_id="oip_server")
async def server() -> dict[str, Any]:
    """The server."""
    return {"name": ALIAS, "version": __version__, "extensions": ["binary_tensor_data"]}


@router.get("/health/live", operation_id="oip_live", responses=_errors(503))
async def live(request: Request) -> dict[str, bool]:
    """The process answers and has an engine that works or is being loaded; 503 asks for a restart."""
    request.app.state.models.require_live()
    return {"live": True}


@router.get("/health/ready", operation_id="oip_ready", responses=_errors(503))
async def ready(request: Request) -> dict[str, bool]:
    """The model is loaded and warm."""
    request.app.state.models.require_ready()
    return {"ready": True}


@router.get("/models/{name}", operation_id="oip_model", responses=_errors(404))
@router.get("/models/{name}/versions/{version}", operation_id="oip_model_version", responses=_errors(404))
async def model(service: Service, name: str, version: str | None = None) -> dict[str, Any]:
    """The model's tensors. `image` may also be UINT8 [N, H, W, 3]."""
    _check_name(service.card, name, version)
    return {
        "name": name,
        "versions": [service.card.version],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": output, "datatype": datatype, "shape": [-1, -1, -1]} for output, (datatype, _) in DTYPES.items()
        ],
    }


@router.get("/models/{name}/ready", operation_id="oip_model_ready", responses=_errors(404, 503))
@router.get(
    "/models/{name}/versions/{version}/ready",
    operation_id="oip_model_version_ready",
    responses=_errors(404, 503),
)
async def model_ready(request: Request, service: Service, name: str, version: str | None = None) -> dict[str, Any]:
    """The model is loaded and warm."""
    _check_name(service.card, name, version)
    request.app.state.models.require_ready()
    return {"name": name, "ready": True}


_INFER: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {
            "description": "The outputs; as octets where binary data was asked for",
            "content": {JSON: {"schema": {"type": "object"}}, "application/octet-stream": {}},
        },
        **_errors(400, 404, 408, 413, 415, 422, 500, 503, 504),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": InferenceRequest.model_json_schema()}, "application/octet-stream": {}},
        }
    },
}


@router.post("/models/{name}/infer", operation_id="oip_infer", **_INFER)
@router.post("/models/{name}/versions/{version}/infer", operation_id="oip_version_infer", **_INFER)
async def infer_route(
    request: Request,
    service: Service,
    name: str,
    version: str | None = None,
    x_request_timeout_ms: TimeoutMs = None,
    inference_header_content_length: Annotated[
        int | None, Header(ge=0, description="Length of the JSON part, where binary data follows it.")
    ] = None,
) -> Response:
    """Segment pictures and measure their depth, by the protocol."""
    _check_name(service.card, name, version)
    timeout_s = timeout_of(x_request_timeout_ms, service.settings)
    service.batcher.require_ready()
    body = await read_body(request, service.settings.max_bytes)
    work = infer(service, body, inference_header_content_length, name)
    content, header_length = await within(request, timeout_s, work)
    if header_length is None:
        return service.sending.response(content, JSON)
    return service.sending.response(content, "application/octet-stream", {HEADER_LENGTH: str(header_length)})
