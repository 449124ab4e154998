"""The whole API in this process, with a fake engine."""

from __future__ import annotations

import asyncio
import base64
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from service_client import FakeEngine, check_problem, encode, fake_app, opened, quadrants
from service_client import ask as call
from service_device import FakeDevice, bound_engine
from service_onnx import card

from service.app import create_app
from service.card import ModelCard
from service.errors import NotAcceptable
from service.outputs import negotiate
from service.settings import Settings

PICTURE = encode(quadrants())


def post(data: bytes = PICTURE, path: str = "/predict", app: FastAPI | None = None, **options: Any) -> httpx.Response:
    return call(lambda client: client.post(path, content=data, **options), app)


def png_of(text: str) -> np.ndarray:
    return np.asarray(opened(base64.b64decode(text)))


# --- the answer


def test_json_answer_is_as_documented() -> None:
    response = post(headers={"content-type": "image/png"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["width", "height", "segmentation", "depth", "camera", "model", "timing_ms"]
    assert (body["width"], body["height"]) == (64, 48)

    labels = png_of(body["segmentation"]["mask_png"])
    expected = np.empty((48, 64), np.uint8)
    expected[:24, :32], expected[:24, 32:], expected[24:, :32], expected[24:, 32:] = 1, 2, 4, 7
    assert np.array_equal(labels, expected)

    rows, columns = np.mgrid[:48, :64]
    depth = png_of(body["depth"]["depth_png"])
    assert np.array_equal(depth, 1000 + 10 * rows + columns)
    color = opened(base64.b64decode(body["depth"]["color_png"]))
    assert (color.mode, color.size) == ("P", (64, 48))
    assert {k: body["depth"][k] for k in ("unit", "invalid", "min_m", "max_m")} == {
        "unit": "mm",
        "invalid": 0,
        "min_m": 1.0,
        "max_m": 1.533,
    }
    assert list(body["depth"]) == ["depth_png", "color_png", "unit", "invalid", "min_m", "max_m"]

    classes = body["segmentation"]["classes"]
    assert [c["id"] for c in classes] == [1, 2, 4, 7]
    assert classes[0] == {
        "id": 1,
        "name": "red",
        "color": [50, 20, 20],
        "pixels": 24 * 32,
        "fraction": 0.25,
        "median_depth_m": round(float(np.median(depth[:24, :32])) / 1000, 4),
        "p5_depth_m": round(float(np.percentile(depth[:24, :32], 5)) / 1000, 4),
        "p95_depth_m": round(float(np.percentile(depth[:24, :32], 95)) / 1000, 4),
        "nearest": {"u": 0, "v": 0, "depth_m": 1.0},
        "area_m2": round(float(((depth[:24, :32] / 1000.0) ** 2).sum()) / 54.4**2, 4),
    }
    assert classes[3]["nearest"] == {"u": 32, "v": 24, "depth_m": 1.272}
    assert list(body["segmentation"]) == ["mask_png", "classes", "unreliable_fraction"]
    assert body["segmentation"]["unreliable_fraction"] is None
    assert body["camera"] == {
        **{"fx": 54.4, "fy": 54.4, "cx": 31.5, "cy": 23.5},
        **{"hfov_deg": 60.9311, "source": "assumed"},
    }
    assert body["model"] == {
        "name": "tiny",
        "version": "1.2",
        "network": "corners",
        "backbone": "none",
        "provider": "FakeExecutionProvider",
    }
    timing = body["timing_ms"]
    assert list(timing) == ["decode", "queue", "infer", "encode", "total"]
    assert all(value >= 0 for value in timing.values())
    assert sum(timing[k] for k in ("decode", "queue", "infer", "encode")) <= timing["total"]


def test_classes_are_sorted_by_size() -> None:
    picture = quadrants()
    picture[:, 16:] = (0, 255, 255)
    classes = post(encode(picture)).json()["segmentation"]["classes"]
    assert [(c["id"], c["pixels"]) for c in classes] == [(6, 48 * 48), (1, 24 * 16), (4, 24 * 16)]


def test_no_valid_depth() -> None:
    class Blind(FakeEngine):
        def infer(self, batch: np.ndarray) -> Any:
            return super().infer(batch)._replace(depth=np.zeros(batch.shape[:3], np.uint16))

    body = post(app=fake_app(Blind())).json()
    assert (body["depth"]["min_m"], body["depth"]["max_m"]) == (None, None)
    for name, nothing in [("median_depth_m", None), ("p5_depth_m", None), ("nearest", None), ("area_m2", 0)]:
        assert [c[name] for c in body["segmentation"]["classes"]] == [nothing] * 4


def test_multipart_is_the_same_as_raw() -> None:
    multipart = call(lambda client: client.post("/predict", files={"file": ("a.png", PICTURE, "image/png")}))
    raw = post(headers={"content-type": "application/x-www-form-urlencoded"})  # what curl --data-binary says
    for part in ("width", "height", "segmentation", "depth", "model"):
        assert multipart.json()[part] == raw.json()[part]


def test_a_large_multipart_file() -> None:
    noise = encode(np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8))
    assert len(noise) > 1_500_000
    response = call(lambda client: client.post("/predict", files={"file": ("a.png", noise)}))
    assert (response.json()["width"], response.json()["height"]) == (800, 800)


@pytest.mark.parametrize(("height", "width"), [(96, 128), (100, 30), (1, 1), (3000, 1), (1, 3000), (37, 91)])
def test_answers_have_the_size_of_the_upload(height: int, width: int) -> None:
    body = post(encode(quadrants(height, width))).json()
    assert (body["height"], body["width"]) == (height, width)
    labels = png_of(body["segmentation"]["mask_png"])
    assert labels.shape == png_of(body["depth"]["depth_png"]).shape == (height, width)
    assert sum(c["pixels"] for c in body["segmentation"]["classes"]) == height * width
    if min(height, width) > 10:
        at = [(height // 4, width // 4), (height // 4, width * 3 // 4), (height * 3 // 4, width // 4)]
        assert [labels[y, x] for y, x in at] == [1, 2, 4]


@pytest.mark.parametrize(
    ("output", "mode", "kind"),
    [
        *[("mask", "P", 3), ("depth", "I;16", 0), ("depth_color", "P", 3), ("overlay", "RGB", 2)],
        *[("confidence", "L", 0), ("unreliable&min_confidence=0.5", "L", 0)],
    ],
)
def test_one_png(output: str, mode: str, kind: int) -> None:
    response = post(encode(quadrants(20, 30)), f"/predict?output={output}", headers={"accept": "image/png"})
    assert response.headers["content-type"] == "image/png"
    image = opened(response.content)
    assert (image.size, image.mode, response.content[25]) == ((30, 20), mode, kind)
    if output == "depth":
        assert image.text["unit"] == "mm"


def test_png_equals_json() -> None:
    body = post().json()
    for output, text in [
        ("mask", body["segmentation"]["mask_png"]),
        ("depth", body["depth"]["depth_png"]),
        ("depth_color", body["depth"]["color_png"]),
    ]:
        assert post(path=f"/predict?output={output}").content == base64.b64decode(text)
    assert post(headers={"accept": "image/png"}).content == base64.b64decode(body["segmentation"]["mask_png"])


@pytest.mark.parametrize(
    ("accept", "output", "wanted"),
    [
        ("*/*", None, "json"),
        ("", None, "json"),  # It asks for nothing.
        ("application/json", None, "json"),
        ("image/png", None, "mask"),
        ("image/*;q=0.5", None, "mask"),
        ("image/png, application/json", None, "json"),
        ("image/png, application/json;q=0.5", None, "mask"),
        ("application/json;q=0, */*", None, "mask"),
        ("text/html,application/xml;q=0.9,*/*;q=0.8", None, "json"),
        ("*/*", "depth", "depth"),
        ("IMAGE/PNG", "overlay", "overlay"),
        ("multipart/mixed", None, "multipart"),
        ("multipart/*, application/json;q=0.9", None, "multipart"),
        ("application/zip", None, "zip"),
        ("application/*", None, "json"),
        ("application/x-npz", None, "npz"),
        ("application/x-ply", None, "ply"),
        ("model/*, image/png;q=0.1", None, "glb"),
        ("model/gltf-binary", "glb", "glb"),
        ("application/json", "coco", "coco"),
    ],
)
def test_negotiation(accept: str, output: Any, wanted: str) -> None:
    assert negotiate(accept, output) == wanted


@pytest.mark.parametrize(
    ("accept", "output"),
    [
        *[("text/html", None), ("application/json", "mask"), ("image/png;q=0", "mask"), ("*/*;q=x", None)],
        *[("image/png", "json"), ("application/zip", "npz"), ("model/gltf-binary", "ply"), ("image/*", "coco")],
    ],
)
def test_not_acceptable(accept: str, output: Any) -> None:
    with pytest.raises(NotAcceptable):
        negotiate(accept, output)


def test_406_is_a_problem() -> None:
    check_problem(post(headers={"accept": "text/html"}), 406)


# --- the other routes


def test_lines_of_accept_are_one_list() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        for lines, found in (
            (["text/html", "application/json"], "application/json"),
            (["application/json;q=0.1", "image/png"], "image/png"),
        ):
            headers = [("accept", line) for line in lines]
            response = await client.post("/predict", content=encode(quadrants()), headers=headers)
            assert response.headers["content-type"] == found

    call(test)


def test_other_routes() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        assert (await client.get("/health/live")).json() == {"status": "live"}
        assert (await client.get("/health/ready")).json() == {
            "status": "ready",
            "provider": "FakeExecutionProvider",
            "engines": {"loading": 0, "ready": 1, "lost": 0},
        }
        card = (await client.get("/model")).json()
        assert (card["name"], card["input"]["sizes"]) == ("tiny", [[48, 64], [64, 48]])
        labels = (await client.get("/labels")).json()
        assert labels[1] == {"id": 1, "name": "red", "color": [50, 20, 20]}
        assert "swagger" in (await client.get("/docs")).text
        assert (await client.get("/", headers={"accept": "application/json"})).json()["docs"] == "docs"

        openapi = (await client.get("/openapi.json")).json()
        predict = openapi["paths"]["/predict"]["post"]
        assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "image/*"}
        assert set(predict["responses"]["200"]["content"]) == {
            *("application/json", "image/png", "multipart/mixed", "application/zip"),
            *("application/x-npz", "application/x-ply", "model/gltf-binary"),
        }
        assert {"Answer", "Coco"} <= set(openapi["components"]["schemas"])
        assert set(predict["responses"]["422"]["content"]) == {"application/problem+json"}
        parameters = {"output", "fx", "fy", "cx", "cy", "hfov", "pictures", "color", "max_points", "min_confidence"}
        parameters.add("x-request-timeout-ms")
        batch = openapi["paths"]["/predict/batch"]["post"]
        for operation in (predict, batch):
            assert {p["name"] for p in operation["parameters"]} == parameters
            assert all(p["description"] for p in operation["parameters"])
        assert set(batch["requestBody"]["content"]) == {"multipart/form-data"}
        assert set(batch["responses"]["200"]["content"]) == {"application/json", "multipart/mixed"}

    call(test)


def test_metrics() -> None:
    async def test(client: httpx.AsyncClient) -> str:
        await client.post("/predict", content=PICTURE)
        await client.post("/predict", content=b"text")
        await client.get("/nothing/here")
        await client.get("/predict")
        return (await client.get("/metrics")).text

    text = call(test)
    for line in [
        'segdepth_requests_total{reason="ok",route="/predict",status="200"} 1.0',
        'segdepth_requests_total{reason="unsupported-image",route="/predict",status="415"} 1.0',
        'segdepth_requests_total{reason="not-found",route="(none)",status="404"} 1.0',
        'segdepth_requests_total{reason="method-not-allowed",route="/predict",status="405"} 1.0',
        'segdepth_stage_seconds_count{stage="decode"} 1.0',
        'segdepth_stage_seconds_count{stage="queue"} 1.0',
        'segdepth_stage_seconds_count{stage="infer"} 1.0',
        'segdepth_stage_seconds_count{stage="encode"} 1.0',
        "segdepth_batch_size_sum 1.0",
        "segdepth_queue_length 0.0",
        "segdepth_queue_oldest_seconds 0.0",
        'segdepth_batches_total{engine="0",released="empty"} 1.0',
        'segdepth_engines{state="ready"} 1.0',
        'segdepth_model_info{backbone="none",name="tiny",network="corners",precision="fp32",'
        'provider="FakeExecutionProvider",version="1.2"} 1.0',
        'segdepth_model_nodes{provider="FakeExecutionProvider"} 3.0',
        "segdepth_ready 1.0",
    ]:
        assert line in text
    assert "/nothing/here" not in text


# --- errors


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"files": {"image": ("a.png", PICTURE)}}, 422),
        ({"files": {"file": ("a.png", b"")}}, 422),
        ({"files": [("file", ("a.png", PICTURE)), ("file", ("b.png", PICTURE))]}, 422),
        ({"files": [("file", ("a.png", PICTURE))] * 9}, 422),
        ({"files": {"other": ("a.png", PICTURE)}, "data": {"file": "text"}}, 422),
        ({"files": {"file": ("a.txt", b"some text")}}, 415),
        ({"content": b"", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 422),
        ({"content": b"nonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 422),
        ({"content": PICTURE, "headers": {"content-type": "multipart/form-data"}}, 422),
        ({"content": b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nab'}, 415),
        (
            {
                "content": b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nab',
                "headers": {"content-type": "multipart/form-data; boundary=x"},
            },
            422,
        ),
        (
            {
                "content": b"--x\r\nContent-Disposition: form-data\r\n\r\nab\r\n--x--",
                "headers": {"content-type": "multipart/form-data; boundary=x"},
            },
            422,
        ),
    ],
)
def test_forms(form: dict[str, Any], status: int) -> None:
    check_problem(call(lambda client: client.post("/predict", **form)), status)


def test_unknown_output() -> None:
    body = check_problem(post(path="/predict?output=video"), 422)
    assert "output" in body["detail"]
    assert "depth_color" in body["detail"]


def test_404_and_405() -> None:
    body = check_problem(post(path="/predict/"), 404)
    assert (body["type"], body["title"]) == ("about:blank", "Not Found")
    response = call(lambda client: client.put("/predict"))
    check_problem(response, 405)
    assert response.headers["allow"] == "POST"


def test_engine_failure_is_500_without_insides() -> None:
    engine = FakeEngine()

    async def test(client: httpx.AsyncClient) -> None:
        engine.fail = True
        response = await client.post("/predict", content=PICTURE)
        check_problem(response, 500)
        assert "secret" not in response.text
        engine.fail = False
        assert (await client.post("/predict", content=PICTURE)).status_code == 200

    call(test, fake_app(engine))


def test_unexpected_exception_is_500_without_insides() -> None:
    app = fake_app()

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret insides")

    response = call(lambda client: client.get("/broken"), app)
    check_problem(response, 500)
    assert "secret" not in response.text


def test_not_ready_is_503_with_progress() -> None:
    engine = FakeEngine()
    engine.warm_gate.clear()

    async def test(client: httpx.AsyncClient) -> None:
        try:
            assert (await client.get("/health/live")).status_code == 200
            assert (await client.get("/model")).status_code == 200
            while (await client.get("/health/ready")).json()["progress"]["done"] != 1:
                await asyncio.sleep(0.01)
            for response in [await client.get("/health/ready"), await client.post("/predict", content=PICTURE)]:
                body = check_problem(response, 503)
                assert body["progress"] == {"done": 1, "total": 3}
                assert int(response.headers["retry-after"]) >= 1
        finally:
            engine.warm_gate.set()
        while (await client.get("/health/ready")).status_code != 200:
            await asyncio.sleep(0.01)
        assert (await client.post("/predict", content=PICTURE)).status_code == 200

    call(test, fake_app(engine), ready=False)


async def busy(client: httpx.AsyncClient, engine: FakeEngine, count: int) -> list[asyncio.Task[httpx.Response]]:
    """Requests of which the first holds the engine and the others wait."""
    engine.gate.clear()
    tasks = [asyncio.create_task(client.post("/predict", content=PICTURE))]
    while not engine.batches:
        await asyncio.sleep(0.005)
    tasks += [asyncio.create_task(client.post("/predict", content=PICTURE)) for _ in range(count - 1)]
    waiting = f"segdepth_queue_length {count - 1}.0"
    while waiting not in (await client.get("/metrics")).text:
        await asyncio.sleep(0.005)
    return tasks


def test_a_full_queue_is_503_with_retry_after() -> None:
    engine = FakeEngine()

    async def test(client: httpx.AsyncClient) -> None:
        tasks = await busy(client, engine, 3)
        response = await client.post("/predict", content=PICTURE)
        assert check_problem(response, 503)["type"].endswith("overloaded")
        assert int(response.headers["retry-after"]) >= 1
        assert (await client.get("/health/live")).status_code == 200
        engine.gate.set()
        assert [r.status_code for r in await asyncio.gather(*tasks)] == [200, 200, 200]
        assert (await client.post("/predict", content=PICTURE)).status_code == 200

    call(test, fake_app(engine, queue_size=3))


def test_deadline_is_504_and_the_work_is_dropped() -> None:
    engine = FakeEngine()

    async def test(client: httpx.AsyncClient) -> None:
        tasks = await busy(client, engine, 3)
        for response in await asyncio.gather(*tasks):
            check_problem(response, 504)
        engine.gate.set()
        assert (await client.post("/predict", content=PICTURE)).status_code == 200
        assert [len(batch) for batch in engine.batches] == [1, 1]

    call(test, fake_app(engine, timeout_s=0.4))


def test_a_deadline_of_the_request_s_own() -> None:
    engine = FakeEngine()

    async def test(client: httpx.AsyncClient) -> None:
        tasks = await busy(client, engine, 2)
        response = await client.post("/predict", content=PICTURE, headers={"x-request-timeout-ms": "50"})
        assert check_problem(response, 504)["detail"] == "The answer took longer than 0.05 s."
        engine.gate.set()
        assert [r.status_code for r in await asyncio.gather(*tasks)] == [200, 200]
        longer = await client.post("/predict", content=PICTURE, headers={"x-request-timeout-ms": "40000"})
        assert longer.status_code == 200
        assert [len(batch) for batch in engine.batches] == [1, 1, 1]

    call(test, fake_app(engine, max_timeout_s=40))


@pytest.mark.parametrize("value", ["0", "-5", "1.5", "soon", "", "40001", "9" * 400])
def test_bad_deadlines(value: str) -> None:
    app = fake_app(max_timeout_s=40)
    body = check_problem(post(app=app, headers={"x-request-timeout-ms": value}), 422)
    assert "x-request-timeout-ms" in body["detail"].lower()


def test_lost_engines_end_readiness_and_life() -> None:
    engine = FakeEngine()
    engine.fail = True

    async def test(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            check_problem(await client.post("/predict", content=PICTURE), 500)
        probes = [await client.get(f"/health/{probe}") for probe in ("live", "ready")]
        for response in [*probes, await client.post("/predict", content=PICTURE)]:
            assert check_problem(response, 503)["type"] == "urn:segdepth:problem:engines-lost"
            assert int(response.headers["retry-after"]) >= 1
        assert (await client.get("/v2/health/live")).status_code == 503
        text = (await client.get("/metrics")).text
        assert 'segdepth_engines{state="lost"} 1.0' in text
        assert "segdepth_ready 0.0" in text

    call(test, fake_app(engine))


def test_one_lost_device_of_two_is_no_reason_for_a_restart(tiny_model: Path) -> None:
    """Alive and ready until the last one is lost; a restart would cost the other one's requests."""
    devices = [FakeDevice(), FakeDevice()]
    loaders = [partial(bound_engine, tiny_model, device) for device in devices]

    async def lose(client: httpx.AsyncClient, device: FakeDevice) -> None:
        device.lost = True
        while not device.closed:  # Either engine may take the picture.
            await client.post("/predict", content=PICTURE)

    async def test(client: httpx.AsyncClient) -> None:
        await lose(client, devices[0])
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        assert (await client.get("/health/ready")).json()["engines"] == {"loading": 0, "ready": 1, "lost": 1}
        assert (await client.post("/predict", content=PICTURE)).status_code == 200
        await lose(client, devices[1])
        assert check_problem(await client.get("/health/live"), 503)["type"] == "urn:segdepth:problem:engines-lost"

    call(test, create_app(Settings(), lambda: (ModelCard.model_validate(card()), loaders)))


def test_metrics_are_those_of_the_documentation() -> None:
    """Names, kinds and labels in docs/metrics.md, both ways."""
    engine = FakeEngine()

    async def test(client: httpx.AsyncClient) -> str:
        # One of each kind, so that every label is seen.
        tasks = await busy(client, engine, 2)
        await client.post("/predict", content=PICTURE, headers={"x-request-timeout-ms": "20"})
        engine.gate.set()
        await asyncio.gather(*tasks)
        engine.fail = True
        await client.post("/predict", content=PICTURE)
        app.state.models._metrics.reloads.labels("ok").inc()
        return (await client.get("/metrics")).text

    app = fake_app(engine)
    found: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(call(test, app)):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        if not family.name.endswith("_created"):
            found[family.name + ("_total" if family.type == "counter" else "")] = (family.type, labels)
    documented: dict[str, tuple[str, set[str]]] = {}
    table = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", table, re.MULTILINE):
        documented[name] = (kind, set(re.findall(r"`(\w+)`", labels)))
    assert found == documented


def test_a_client_that_goes_is_dropped() -> None:
    engine = FakeEngine()
    app = fake_app(engine)

    async def test(client: httpx.AsyncClient) -> None:
        tasks = await busy(client, engine, 2)
        gone = asyncio.Event()
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if not sent:
                sent.append("body")
                return {"type": "http.request", "body": PICTURE, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/predict",
            "raw_path": b"/predict",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [],
            "client": ("test", 1),
            "server": ("test", 80),
        }
        leaving = asyncio.create_task(app(scope, receive, send))
        while "segdepth_queue_length 2.0" not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.005)
        gone.set()
        await leaving
        engine.gate.set()
        assert [r.status_code for r in await asyncio.gather(*tasks)] == [200, 200]
        assert [len(batch) for batch in engine.batches] == [1, 1]

    call(test, app)


def test_concurrent_answers_belong_to_their_pictures() -> None:
    engine = FakeEngine()

    async def test(client: httpx.AsyncClient) -> None:
        colors = [(255 * (k & 1), 255 * (k >> 1 & 1), 255 * (k >> 2)) for k in range(8)]
        pictures = [encode(np.full((10 + k, 20, 3), colors[k], np.uint8)) for k in range(8)] * 3
        answers = await asyncio.gather(*(client.post("/predict", content=picture) for picture in pictures))
        for k, answer in enumerate(answers):
            body = answer.json()
            assert body["height"] == 10 + k % 8
            assert [c["id"] for c in body["segmentation"]["classes"]] == [k % 8]
        assert max(len(batch) for batch in engine.batches) <= 4

    call(test, fake_app(engine, max_batch=4))


# --- imports


def test_the_service_needs_no_torch_and_none_of_the_other_packages() -> None:
    blocked = "import sys\nfor name in ('torch', 'model', 'training', 'deploy'): sys.modules[name] = None\n"
    modules = [path.stem for path in (Path(__file__).parent.parent / "service").glob("*.py") if path.stem != "__init__"]
    assert "app" in modules
    imports = "\n".join(f"import service.{name}" for name in modules)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocked + imports],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
