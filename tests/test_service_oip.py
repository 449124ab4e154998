"""service/oip.py: the protocol in this process, and the real Triton client against a real server."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import re
import struct
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from fastapi import FastAPI
from PIL import ExifTags, Image
from service_client import FakeEngine, encode, fake_app, opened, quadrants, serving
from service_onnx import card
from service_process import Server
from tritonclient.utils import InferenceServerException

from service import oip
from service.card import ModelCard
from service.oip import parse

PICTURE = encode(quadrants(60, 91))
INFER = "/v2/models/segdepth/infer"


def call(test: Callable[[httpx.AsyncClient], Awaitable[Any]], app: FastAPI | None = None) -> Any:
    async def run() -> Any:
        async with serving(app or fake_app()) as client:
            return await test(client)

    return asyncio.run(run())


def files_request(*files: bytes, **more: Any) -> dict[str, Any]:
    data = [base64.b64encode(file).decode() for file in files]
    tensor = {"name": "image", "shape": [len(files)], "datatype": "BYTES", "data": data}
    return {"inputs": [tensor], **more}


def pixels_request(pixels: np.ndarray, **more: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.tolist()}
    return {"inputs": [tensor], **more}


def with_binary(request: dict[str, Any], binary: bytes, *, size: int | None = None) -> dict[str, Any]:
    """A request with its data behind the JSON, as arguments for httpx."""
    tensor = {k: v for k, v in request["inputs"][0].items() if k != "data"}
    tensor["parameters"] = {"binary_data_size": len(binary) if size is None else size}
    text = json.dumps({**request, "inputs": [tensor]}).encode()
    return {"content": text + binary, "headers": {"Inference-Header-Content-Length": str(len(text))}}


def tensors(response: httpx.Response) -> dict[str, np.ndarray]:
    """The outputs of an answer, JSON or binary."""
    assert response.status_code == 200, response.text[:300]
    length = response.headers.get("inference-header-content-length")
    body = json.loads(response.content[: int(length)] if length else response.content)
    rest = response.content[int(length) :] if length else b""
    found = {}
    for output in body["outputs"]:
        dtype = {"UINT8": "<u1", "UINT16": "<u2"}[output["datatype"]]
        if size := output.get("parameters", {}).get("binary_data_size"):
            found[output["name"]] = np.frombuffer(rest[:size], dtype).reshape(output["shape"])
            rest = rest[size:]
        else:
            found[output["name"]] = np.array(output["data"], dtype).reshape(output["shape"])
    assert not rest
    return found


def check_error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text[:300]
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    return str(response.json()["error"])


def test_descriptions() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        server = (await client.get("/v2")).json()
        assert (server["name"], server["extensions"]) == ("segdepth", ["binary_tensor_data"])
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        assert (await client.get("/v2/health/ready")).json() == {"ready": True}
        described = {
            "versions": ["1.2"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [
                {"name": "labels", "datatype": "UINT8", "shape": [-1, -1, -1]},
                {"name": "depth", "datatype": "UINT16", "shape": [-1, -1, -1]},
                {"name": "confidence", "datatype": "UINT8", "shape": [-1, -1, -1]},
            ],
        }
        for name in ("tiny", "segdepth"):
            for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/1.2"):
                assert (await client.get(path)).json() == {"name": name, **described}
                assert (await client.get(f"{path}/ready")).json() == {"name": name, "ready": True}
        for path in ("/v2/models/other", "/v2/models/tiny/versions/1", "/v2/models/other/ready", "/v2/nothing"):
            check_error(await client.get(path), 404)
        check_error(await client.post("/v2/models/other/infer", json=files_request(PICTURE)), 404)
        check_error(await client.get(INFER), 405)

    call(test)


def test_the_values_are_those_of_predict() -> None:
    second = encode(quadrants(60, 91)[::-1].copy(), "JPEG")

    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.post(INFER, json=files_request(PICTURE, second, id="a-1"))
        body = answer.json()
        assert (body["id"], body["model_name"], body["model_version"]) == ("a-1", "segdepth", "1.2")
        found = tensors(answer)
        assert list(found) == ["labels", "depth", "confidence"]
        assert {a.shape for a in found.values()} == {(2, 60, 91)}
        for k, picture in enumerate([PICTURE, second]):
            mask = (await client.post("/predict?output=mask", content=picture)).content
            depth = (await client.post("/predict?output=depth", content=picture)).content
            assert np.array_equal(found["labels"][k], np.asarray(opened(mask)))
            assert np.array_equal(found["depth"][k], np.asarray(opened(depth)))
        assert (found["confidence"][0, :25, :40] == 255).all()  # Away from where colours are mixed.
        # Files or pixels, JSON or binary, flat or nested, [N] or [N, 1]: it is all the same.
        pixels = quadrants(60, 91)[None]
        binary_files = struct.pack("<I", len(PICTURE)) + PICTURE
        flat = pixels_request(pixels)
        flat["inputs"][0]["data"] = pixels.ravel().tolist()
        column = files_request(PICTURE)
        column["inputs"][0].update(shape=[1, 1], data=[column["inputs"][0]["data"]])
        for arguments in [
            {"json": pixels_request(pixels)},
            {"json": flat},
            {"json": column},
            {"json": files_request(PICTURE, parameters={"binary_data_output": True, "other": 1})},
            with_binary(files_request(PICTURE), binary_files),
            with_binary(pixels_request(pixels), pixels.tobytes()),
        ]:
            one = tensors(await client.post(INFER, **arguments))
            for name in found:
                assert np.array_equal(one[name], found[name][:1]), (name, arguments)

    call(test)


def photo(focal_mm: int) -> bytes:
    """A JPEG that says with which focal length, in terms of 35 mm film, it was taken."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = focal_mm
    return encode(quadrants(60, 91), "JPEG", exif=exif.tobytes())


def test_each_depth_is_for_the_camera_of_its_picture() -> None:
    photos = [photo(26), photo(52)]
    raw = card()
    raw["depth"]["focal_px"] = 50.0
    engine = FakeEngine()
    engine.card = ModelCard.model_validate(raw)

    async def test(client: httpx.AsyncClient) -> None:
        found = tensors(await client.post(INFER, json=files_request(*photos)))["depth"]
        for depth, picture in zip(found, photos, strict=True):
            alone = (await client.post("/predict?output=depth", content=picture)).content
            assert np.array_equal(depth, np.asarray(opened(alone)))
        np.testing.assert_allclose(found[1], 2.0 * found[0], rtol=0.01)  # Twice the focal length is twice as far.

    call(test, fake_app(engine))


def test_outputs_are_sent_as_asked_for() -> None:
    outputs = [{"name": "depth", "parameters": {"binary_data": True}}, {"name": "labels"}]

    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.post(INFER, json=files_request(PICTURE, outputs=outputs))
        assert answer.headers["content-type"] == "application/octet-stream"
        length = int(answer.headers["inference-header-content-length"])
        described = json.loads(answer.content[:length])["outputs"]
        assert [o["name"] for o in described] == ["depth", "labels"]
        assert described[0]["parameters"] == {"binary_data_size": 2 * 60 * 91}
        assert ("data" in described[0], "data" in described[1]) == (False, True)
        assert len(answer.content) == length + 2 * 60 * 91

    call(test)


def changed(**changes: Any) -> dict[str, Any]:
    request = files_request(PICTURE)
    request["inputs"][0].update(changes)
    return request


ONE = np.zeros((1, 2, 2, 3), np.uint8)
HUGE = 2**62
BAD: dict[str, tuple[dict[str, Any], int]] = {
    "no json": ({"content": b"hello"}, 400),
    "empty": ({"content": b""}, 400),
    "binary": ({"content": b"\xff\x00\xfe"}, 400),
    "deep": ({"content": b"[" * 100_000}, 400),
    "long number": ({"content": b'{"inputs": ' + b"9" * 5000 + b"}"}, 400),
    "a list": ({"json": []}, 400),
    "no inputs": ({"json": {}}, 400),
    "empty inputs": ({"json": {"inputs": []}}, 400),
    "two inputs": ({"json": {"inputs": files_request(PICTURE)["inputs"] * 2}}, 400),
    "other input": ({"json": changed(name="pixels")}, 400),
    "other datatype": ({"json": changed(datatype="FP32")}, 400),
    "no data": ({"json": changed(data=None)}, 400),
    "data is a number": ({"json": changed(data=5)}, 400),
    "data and binary": ({"json": changed(parameters={"binary_data_size": 0})}, 400),
    "not base64": ({"json": changed(data=["?"])}, 400),
    "not ascii": ({"json": changed(data=["ü"])}, 400),
    "not text": ({"json": changed(data=[1])}, 400),
    "uneven": ({"json": changed(shape=[2, 1], data=[["aa=="], "aa=="])}, 400),
    "shape of text": ({"json": changed(shape=["1"])}, 400),
    "shape of truth": ({"json": changed(shape=[True])}, 400),
    "no shape": ({"json": changed(shape=[])}, 400),
    "zero": ({"json": changed(shape=[0], data=[])}, 400),
    "negative": ({"json": changed(shape=[-1])}, 400),
    "lying shape": ({"json": changed(shape=[2**30])}, 400),
    "huge shape": ({"json": changed(shape=[HUGE])}, 400),
    "longer than Python writes": ({"json": changed(shape=[10**2000] * 3 + [3], datatype="UINT8", data=[1])}, 400),
    "matrix of files": ({"json": changed(shape=[1, 2])}, 400),
    "unknown output": ({"json": files_request(PICTURE, outputs=[{"name": "normals"}])}, 400),
    "output twice": ({"json": files_request(PICTURE, outputs=[{"name": "depth"}, {"name": "depth"}])}, 400),
    "pixel shape": ({"json": pixels_request(np.zeros((1, 2, 2, 4), np.uint8))}, 400),
    "pixel rank": ({"json": pixels_request(np.zeros((2, 2, 3), np.uint8))}, 400),
    "pixel too bright": ({"json": pixels_request(ONE.astype(int) + 256)}, 400),
    "pixel negative": ({"json": pixels_request(ONE.astype(int) - 1)}, 400),
    "pixel float": ({"json": pixels_request(ONE.astype(float))}, 400),
    "pixel truth": ({"json": pixels_request(ONE.astype(bool))}, 400),
    "pixel shape lies": (with_binary(pixels_request(ONE), bytes(11)), 400),
    "file ends in a length": (with_binary(files_request(PICTURE), b"\x01\x00"), 400),
    "file ends too early": (with_binary(files_request(PICTURE), b"\xff\xff\xff\xff1234"), 400),
    "more files than said": (with_binary(files_request(PICTURE), bytes(4000)), 400),
    "binary size lies": (with_binary(files_request(PICTURE), b"1234", size=1000), 400),
    "binary size negative": (with_binary(files_request(PICTURE), b"1234", size=-4), 400),
    "header length lies": (
        {"json": files_request(PICTURE), "headers": {"Inference-Header-Content-Length": "9999999"}},
        400,
    ),
    "header length negative": (
        {"json": files_request(PICTURE), "headers": {"Inference-Header-Content-Length": "-1"}},
        422,
    ),
    "header length no number": (
        {"json": files_request(PICTURE), "headers": {"Inference-Header-Content-Length": "x"}},
        422,
    ),
    "bad deadline": ({"json": files_request(PICTURE), "headers": {"X-Request-Timeout-Ms": "0"}}, 422),
    "compressed": ({"json": files_request(PICTURE), "headers": {"Content-Encoding": "gzip"}}, 415),
    "no picture": ({"json": files_request(b"hello")}, 415),
    "broken picture": ({"json": files_request(PICTURE[:100])}, 422),
    "different sizes": ({"json": files_request(PICTURE, encode(quadrants()))}, 400),
    "too many files": ({"json": files_request(*[b"x"] * 9)}, 413),
    "too many pixels together": ({"json": files_request(*[PICTURE] * 5)}, 413),
    "too many bytes": ({"content": bytes(200_001)}, 413),
}


def overflowing() -> dict[str, Any]:
    """A shape whose product is 0 in 64 bits, with no data."""
    request = {"inputs": [{"name": "image", "shape": [HUGE, 4, 1, 3], "datatype": "UINT8"}]}
    return with_binary(request, b"")


def test_bad_requests() -> None:
    assert (HUGE * 4) % 2**64 == 0
    engine = FakeEngine()

    async def test(client: httpx.AsyncClient) -> None:
        for name, (arguments, status) in {**BAD, "overflow": (overflowing(), 400)}.items():
            response = await client.post(INFER, **arguments)
            assert response.status_code == status, (name, response.text[:300])
            assert len(check_error(response, status)) < 400
        assert engine.batches == []
        assert tensors(await client.post(INFER, json=files_request(PICTURE)))["labels"].shape == (1, 60, 91)

    call(test, fake_app(engine, max_bytes=200_000, max_pixels=4 * 60 * 91, queue_size=8))


def test_what_generated_clients_leave_unset_may_be_null() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        plain = files_request(PICTURE)
        (tensor,) = plain["inputs"]
        unset = {
            **{"id": None, "parameters": None, "outputs": [{"name": "labels", "parameters": None}]},
            "inputs": [{**tensor, "parameters": None}],
        }
        expected = tensors(await client.post(INFER, json=plain))["labels"]
        for content in (unset, {**unset, "outputs": None, "parameters": {"binary_data_output": None, "fx": None}}):
            np.testing.assert_array_equal(tensors(await client.post(INFER, json=content))["labels"], expected)
        assert "name: Field required" in check_error(
            await client.post(INFER, json={"inputs": [{**tensor, "name": None}]}), 400
        )
        for wrong, where in (
            ([plain], "the request: "),
            ({**plain, "parameters": "x"}, "parameters: "),
            ({"inputs": [{**tensor, "parameters": [1]}]}, "inputs.0.parameters: "),
        ):
            assert check_error(await client.post(INFER, json=wrong), 400) == f"{where}Input should be an object"

    call(test)


def test_json_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.oip.MAX_JSON_PIXELS", 60 * 91 - 1)

    async def test(client: httpx.AsyncClient) -> None:
        assert "binary_data" in check_error(await client.post(INFER, json=files_request(PICTURE)), 413)
        binary = files_request(PICTURE, parameters={"binary_data_output": True})
        assert (await client.post(INFER, json=binary)).status_code == 200

    call(test)


NESTED = "[" * 900 + "]" * 900


@pytest.mark.parametrize(("value", "times"), [("[]", 700_000), ("1", 2_000_002), ('{"a":"b"}', 700_000), (NESTED, 800)])
def test_json_requests_are_bounded(value: str, times: int) -> None:
    values = ",".join([value] * times)
    text = '{"inputs":[{"name":"image","shape":[1],"datatype":"UINT8","data":[' + values + "]}]}"
    error = check_error(call(lambda client: client.post(INFER, content=text)), 413)
    assert "binary data" in error


def test_two_nested_pictures_are_within_the_bounds() -> None:
    text = json.dumps(pixels_request(np.zeros((2, 480, 640, 3), np.uint8)))
    assert parse(text.encode(), None)[1].shape == (2, 480, 640, 3)  # type: ignore[union-attr]


def test_each_picture_is_measured() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        assert (await client.post(INFER, json=files_request(PICTURE, PICTURE, PICTURE))).status_code == 200
        text = (await client.get("/metrics")).text
        for stage in ("decode", "queue", "infer", "encode"):
            assert f'segdepth_stage_seconds_count{{stage="{stage}"}} 3.0' in text

    call(test)


def test_encode_is_the_work_and_not_the_wait_for_a_thread() -> None:
    app = fake_app()

    async def test(client: httpx.AsyncClient) -> None:
        pixels = app.state.models.current.pixels
        run = pixels.run

        async def late(job: Any, *args: Any) -> Any:
            if job is oip._render:
                await asyncio.sleep(0.3)
            return await run(job, *args)

        pixels.run = late
        assert (await client.post(INFER, json=files_request(PICTURE))).status_code == 200
        text = (await client.get("/metrics")).text
        seconds = re.findall(r'segdepth_stage_seconds_sum{stage="encode"} (\S+)', text)
        assert 0 < float(seconds[0]) < 0.3

    call(test, app)


def test_a_body_that_nobody_waits_for_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    free, gone = threading.Event(), []

    class Body(bytes):
        def __del__(self) -> None:
            gone.append(True)

    async def read(request: Any, most: int) -> bytes:
        return Body(json.dumps(files_request(PICTURE)).encode())

    monkeypatch.setattr(oip, "read_body", read)

    async def test(client: httpx.AsyncClient) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        blocked = loop.run_in_executor(None, free.wait, 20)
        late = await client.post(INFER, content=b"{}", headers={"x-request-timeout-ms": "30"})
        check_error(late, 504)
        async with asyncio.timeout(5):
            while not gone:
                gc.collect()
                await asyncio.sleep(0.01)
        free.set()
        await blocked

    call(test)


def test_deadline_queue_and_failure() -> None:
    engine = FakeEngine()

    async def test(client: httpx.AsyncClient) -> None:
        engine.gate.clear()
        pair = files_request(PICTURE, PICTURE)
        waiting = asyncio.create_task(client.post(INFER, json=pair))
        while not engine.batches:
            await asyncio.sleep(0.005)
        late = await client.post(INFER, json=files_request(PICTURE), headers={"x-request-timeout-ms": "30"})
        check_error(late, 504)
        response = await client.post(INFER, json=pair)  # Two and two are more than the three places.
        check_error(response, 503)
        assert int(response.headers["retry-after"]) >= 1
        engine.gate.set()
        assert (await waiting).status_code == 200
        engine.fail = True
        assert "secret" not in check_error(await client.post(INFER, json=pair), 500)

    call(test, fake_app(engine, queue_size=3))


# --- the real client


@pytest.fixture
def client(server: Server) -> Any:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield client


def test_triton_client(server: Server, client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1.2")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata("tiny")["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]

    mask = np.asarray(opened(httpx.post(f"{server.url}/predict?output=mask", content=PICTURE).content))
    depth = np.asarray(opened(httpx.post(f"{server.url}/predict?output=depth", content=PICTURE).content))
    as_files = triton.InferInput("image", [2], "BYTES")
    as_files.set_data_from_numpy(np.array([PICTURE, PICTURE], dtype=np.object_))
    as_pixels = triton.InferInput("image", [2, 60, 91, 3], "UINT8")
    as_pixels.set_data_from_numpy(np.stack([quadrants(60, 91)] * 2))
    asked = [
        triton.InferRequestedOutput("depth", binary_data=False),
        triton.InferRequestedOutput("labels", binary_data=True),
    ]
    for tensor in (as_files, as_pixels):
        for outputs in (None, asked):
            result = client.infer("tiny", [tensor], outputs=outputs, request_id="7")
            assert result.get_response()["id"] == "7"
            labels, millimetres = result.as_numpy("labels"), result.as_numpy("depth")
            assert (labels.dtype, millimetres.dtype) == (np.uint8, np.uint16)
            for k in range(2):
                assert np.array_equal(labels[k], mask)
                assert np.array_equal(millimetres[k], depth)
            assert (result.as_numpy("confidence") is None) == (outputs is not None)


def test_triton_client_is_told_what_is_wrong(client: Any) -> None:
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"no picture"], dtype=np.object_))
    with pytest.raises(InferenceServerException) as caught:
        client.infer("tiny", [tensor])
    assert caught.value.status() == "415"
    assert "not a picture" in caught.value.message()
    with pytest.raises(InferenceServerException, match="no such model"):
        client.infer("other", [tensor])
    with pytest.raises(InferenceServerException, match="Content-Encoding"):
        client.infer("tiny", [tensor], request_compression_algorithm="gzip")
