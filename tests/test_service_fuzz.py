"""Random input for all that reads what clients send: pictures, forms, inference requests, the whole API.

A few hundred cases by default; SEGDEPTH_FUZZ=100000 pytest tests/test_service_fuzz.py searches for longer.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from service_client import HEIC, FakeEngine, encode, fake_app, quadrants

from service import images, oip
from service.app import create_app
from service.errors import Problem
from service.settings import Settings

# Read here, because every test starts without the settings of the environment.
CASES = int(os.environ.get("SEGDEPTH_FUZZ", "100"))
MAX_PIXELS = 100_000
SEEDS = [encode(quadrants(), form) for form in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")]
SEEDS += HEIC.values()

fuzz = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    derandomize=CASES <= 1000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A picture file with bytes changed, cut out, or doubled; or any bytes."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 8))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["set", "cut", "insert", "double"]))
        if kind == "set":
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 200))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=20))
        else:
            data[at:at] = data[at : at + 50]
    return bytes(data)


def outcome(work: Callable[[], Any]) -> tuple[Any, Any]:
    """What a call gives, or the problem that it raises; nothing else may come out of it."""
    try:
        return work(), None
    except Problem as problem:
        return None, problem


@fuzz
@given(damaged_files() | st.binary(max_size=200))
def test_decode_gives_a_picture_or_a_4xx(data: bytes) -> None:
    picture, problem = outcome(lambda: images.decode(data, MAX_PIXELS))
    if picture is None:
        assert 400 <= problem.status < 500
        assert len(problem.detail) < 500
    else:
        assert picture.dtype == np.uint8
        assert picture.ndim == 3 and picture.shape[2] == 3
        assert 0 < picture.shape[0] * picture.shape[1] <= MAX_PIXELS


# --- over HTTP, in one process


class _Client:
    """One app for all cases of a test, answered in its own event loop."""

    def __init__(self) -> None:
        self.app: FastAPI = fake_app(max_pixels=MAX_PIXELS, max_bytes=1_000_000)
        self.runner = asyncio.Runner()
        self.lifespan = self.app.router.lifespan_context(self.app)
        self.runner.run(self._start())

    async def _start(self) -> None:
        await self.lifespan.__aenter__()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test", timeout=20)
        while not self.app.state.models.current.batcher.ready:
            await asyncio.sleep(0.005)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.runner.run(self.client.post(path, **options))

    def close(self) -> None:
        async def stop() -> None:
            await self.client.aclose()
            await self.lifespan.__aexit__(None, None, None)

        self.runner.run(stop())
        self.runner.close()


@pytest.fixture(scope="module")
def client() -> Any:
    client = _Client()
    yield client
    client.close()


PARTS = st.sampled_from(
    [
        b"--x",
        b"--x--",
        b"\r\n",
        b"\n",
        b": ",
        b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n',
        b'Content-Disposition: form-data; name="file"',
        b"Content-Disposition: form-data; name*=utf-8''file; filename*=utf-8''%ff",
        b"Content-Transfer-Encoding: base64",
        b"Content-Type: multipart/mixed; boundary=x",
        SEEDS[0],
    ]
) | st.binary(max_size=20)


@fuzz
@given(
    body=st.lists(PARTS, max_size=12).map(b"".join), boundary=st.sampled_from(["x", '"x"', "x; charset=\xff", "-", ""])
)
def test_forms_never_make_a_500(client: _Client, body: bytes, boundary: str) -> None:
    media_type = f"multipart/form-data; boundary={boundary}".encode("latin-1")
    response = client.post("/predict", content=body, headers={"content-type": media_type})
    assert response.status_code in (200, 413, 415, 422), response.text
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/problem+json"


NUMBERS = st.sampled_from(
    ["", "nan", "-nan", "inf", "-inf", "0", "-0", "-1", "1e-320", "1e308", "1e400", "0x10", "1_0"]
) | (st.floats().map(repr) | st.integers().map(str) | st.floats(1, 1000).map(repr) | st.text(max_size=4))


@fuzz
@given(
    camera=st.dictionaries(st.sampled_from(["fx", "fy", "cx", "cy", "hfov"]), NUMBERS)
    | st.fixed_dictionaries({name: st.floats(-10, 1e6).map(repr) for name in ("fx", "fy", "cx", "cy")}),
    output=st.sampled_from(["json", "ply", "glb"]),
)
def test_intrinsics_never_make_a_500(client: _Client, camera: dict[str, str], output: str) -> None:
    response = client.post("/predict", params={**camera, "output": output}, content=SEEDS[0])
    assert response.status_code in (200, 400, 422), response.text
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/problem+json"
    elif output == "json":
        # A number that is none would be NaN or Infinity here, which JSON has not.
        json.loads(response.content, parse_constant=lambda name: pytest.fail(name))
    elif output == "ply":
        header, _, points = response.content.partition(b"end_header\n")
        vertices = int(header.partition(b"element vertex ")[2].split()[0])
        places = np.frombuffer(points, np.uint8).reshape(vertices, -1)[:, :12].copy().view("<f4")
        assert np.isfinite(places).all()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SIDES = st.integers(-1, 5) | st.sampled_from([2**31, 2**32, 2**62, 2**64, 10**30]) | JSON
TENSORS = st.fixed_dictionaries(
    {
        "name": st.just("image") | JSON,
        "shape": st.lists(SIDES, max_size=5) | st.just([1, 2, 2, 3]) | JSON,
        "datatype": st.sampled_from(["BYTES", "UINT8", "FP32"]) | JSON,
    },
    optional={
        "data": st.lists(st.integers(-1, 256), max_size=12) | JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40) | JSON}) | JSON,
    },
)
OUTPUTS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["labels", "depth", "confidence"]) | JSON},
        optional={"parameters": st.fixed_dictionaries({"binary_data": st.booleans() | JSON}) | JSON},
    ),
    max_size=4,
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, min_size=1, max_size=1) | st.lists(TENSORS, max_size=2) | JSON},
    optional={"id": st.text(max_size=5) | JSON, "outputs": OUTPUTS | JSON, "parameters": JSON},
)
BINARY = st.binary(max_size=40) | st.lists(
    st.binary(max_size=9).map(lambda b: struct.pack("<I", len(b)) + b), max_size=3
).map(b"".join)


@fuzz
@given(request=REQUESTS | JSON, binary=BINARY, header=st.sampled_from(["right", "none", "more", "less"]))
def test_parsing_inference_requests(request: Any, binary: bytes, header: str) -> None:
    text = json.dumps(request).encode()
    length = {"right": len(text), "none": None, "more": len(text) + 5, "less": max(0, len(text) - 1)}[header]
    found, problem = outcome(lambda: oip.parse(text + binary, length))
    if found is None:
        assert problem.status == 400
        assert len(problem.detail) < 1000
    else:
        parsed, pictures = found
        assert set(parsed.wanted()) <= {"labels", "depth", "confidence"}
        assert len(pictures) == parsed.inputs[0].shape[0] >= 1


@fuzz
@given(pixels=st.integers(1, 3).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, 6), st.integers(1, 6))))
def test_inference_of_any_shape(client: _Client, pixels: tuple[int, int, int]) -> None:
    data = np.random.default_rng(0).integers(0, 256, (*pixels, 3), dtype=np.uint8)
    tensor = {"name": "image", "shape": data.shape, "datatype": "UINT8", "data": data.ravel().tolist()}
    response = client.post("/v2/models/tiny/infer", json={"inputs": [tensor]})
    assert response.status_code == 200, response.text
    assert [output["shape"] for output in response.json()["outputs"]] == [list(pixels)] * 3


@fuzz
@given(body=st.binary(max_size=60), header=st.none() | st.integers(-5, 80) | st.text("0123456789-+ x", max_size=8))
def test_inference_never_makes_a_500(client: _Client, body: bytes, header: Any) -> None:
    headers = {} if header is None else {"Inference-Header-Content-Length": str(header)}
    response = client.post("/v2/models/tiny/infer", content=body, headers=headers)
    assert response.status_code in (400, 422)
    assert list(response.json()) == ["error"]


# --- the API as it describes itself


def test_the_api_is_as_its_openapi_description_says() -> None:
    """No answer that is not described, whatever fits the description or does not."""
    engine = FakeEngine()
    app = create_app(Settings(max_pixels=MAX_PIXELS), lambda: (engine.card, [lambda: engine]))
    models = app.state.models
    models.start()
    while not models.current.batcher.ready:
        time.sleep(0.005)
    seen = set()
    for found in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations():
        operation = found.ok()
        seen.add((operation.method.upper(), operation.path))

        @settings(fuzz, max_examples=max(5, CASES // 20))
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            # A deadline that a busy machine misses is a 504, as described.
            if case.headers and case.headers.get("X-Request-Timeout-Ms", "").isdigit():
                case.headers["X-Request-Timeout-Ms"] = str(max(int(case.headers["X-Request-Timeout-Ms"]), 10_000))
            # The description cannot say what bytes are a picture.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        check()
    asyncio.run(models.close())
    assert {("POST", "/predict"), ("POST", "/v2/models/{name}/infer"), ("GET", "/labels")} <= seen
