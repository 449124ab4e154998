"""POST /predict/batch: several pictures, an answer to each."""

from __future__ import annotations

import asyncio
import email
import json
from email.message import Message
from typing import Any

import httpx
import numpy as np
import pytest
from service_client import FakeEngine, ask, check_problem, encode, fake_app, quadrants, serving, until
from service_process import Server

from service.pipeline import Pipeline

RED, GREEN = (encode(np.full((20, 30, 3), color, np.uint8)) for color in ((255, 0, 0), (0, 255, 0)))
PICTURE = encode(quadrants())


def several(*pictures: bytes, field: str = "files") -> list[tuple[str, tuple[str, bytes]]]:
    return [(field, (f"{k}.png", picture)) for k, picture in enumerate(pictures)]


def post(files: Any, query: str = "", accept: str = "*/*", engine: FakeEngine | None = None, **settings: Any) -> Any:
    return ask(
        lambda c: c.post(f"/predict/batch?{query}", files=files, headers={"accept": accept}),
        fake_app(engine, **settings),
    )


def parts_of(response: httpx.Response) -> list[Message]:
    text = b"Content-Type: " + response.headers["content-type"].encode() + b"\r\n\r\n" + response.content
    message = email.message_from_bytes(text)
    assert message.is_multipart() and not message.defects
    return message.get_payload()  # type: ignore[return-value]


def found(answer: dict[str, Any]) -> list[int]:
    return [c["id"] for c in answer["segmentation"]["classes"]]


@pytest.mark.parametrize("field", ["files", "file"])
def test_answers_in_order(field: str) -> None:
    response = post(several(RED, PICTURE, GREEN, field=field), "pictures=false&fx=50")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    answers = response.json()
    assert [(a["width"], a["height"], found(a)) for a in answers] == [
        (30, 20, [1]),
        (64, 48, [1, 2, 4, 7]),
        (30, 20, [2]),
    ]
    assert {a["camera"]["fx"] for a in answers} == {50}
    assert {a["depth"]["depth_png"] for a in answers} == {None}


def test_both_fields_are_mixed_in_order() -> None:
    files = [*several(RED), *several(GREEN, field="file"), *several(RED), ("other", ("x", b"ignored"))]
    assert [found(a) for a in post(files).json()] == [[1], [2], [1]]


def test_an_error_spoils_only_its_own_part() -> None:
    truncated = encode(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))[:3000]
    answers = post(several(RED, b"text", truncated, b"", bytes(20_000), GREEN), max_bytes=10_000).json()
    assert [a.get("status") for a in answers] == [None, 415, 422, 422, 413, None]
    assert [a["type"].rpartition(":")[2] for a in answers[1:5]] == [
        "unsupported-image",
        "broken-image",
        "invalid-request",
        "too-large",
    ]
    assert all(a["title"] and a["detail"] for a in answers[1:5])
    assert [found(answers[0]), found(answers[5])] == [[1], [2]]


def test_a_camera_that_does_not_fit_one_picture() -> None:
    fits, does_not = post(several(PICTURE, encode(np.zeros((4, 4, 3), np.uint8))), "fx=500").json()
    assert fits["camera"]["fx"] == 500
    assert (does_not["status"], "impossible" in does_not["detail"]) == (422, True)


def test_multipart() -> None:
    response = post(several(RED, b"text", GREEN), accept="multipart/mixed")
    first, second, third = parts_of(response)
    assert first.get_content_type() == third.get_content_type() == "application/json"
    assert found(json.loads(third.get_payload(decode=True))) == [2]
    assert second.get_content_type() == "application/problem+json"
    assert json.loads(second.get_payload(decode=True))["status"] == 415


@pytest.mark.parametrize(
    ("output", "media_type"), [("mask", "image/png"), ("npz", "application/x-npz"), ("multipart", "multipart/mixed")]
)
def test_other_outputs_come_as_multipart(output: str, media_type: str) -> None:
    response = post(several(PICTURE, RED), f"output={output}")
    assert response.headers["content-type"].startswith("multipart/mixed; ")
    first, second = parts_of(response)
    assert first.get_content_type() == second.get_content_type() == media_type
    if output == "mask":
        single = ask(lambda c: c.post("/predict?output=mask", content=PICTURE))
        assert first.get_payload(decode=True) == single.content
    if output == "multipart":
        assert [part.get_filename() for part in first.get_payload()][:2] == ["metadata.json", "mask.png"]  # type: ignore


def test_coco_comes_as_json() -> None:
    first, second = post(several(PICTURE, RED), "output=coco").json()
    assert [len(a["annotations"]) for a in (first, second)] == [4, 1]


def test_negotiation() -> None:
    assert post(several(RED), accept="application/json;q=0.5, multipart/*").headers["content-type"].startswith("multi")
    check_problem(post(several(RED), accept="image/png"), 406)
    check_problem(post(several(RED), "output=mask", accept="application/json"), 406)
    check_problem(post(several(RED), "output=mask", accept="image/png"), 406)
    check_problem(post(several(RED), "output=unreliable"), 422)
    check_problem(post(several(RED), "output=video"), 422)


def test_limits() -> None:
    assert len(post(several(RED, RED), max_files=2).json()) == 2
    problem = check_problem(post(several(RED, RED, RED), max_files=2), 422)
    assert problem["detail"] == "The form has more than 2 files. Send fewer in a request."
    check_problem(post(several(RED, RED), max_files_bytes=100), 413)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"content": PICTURE, "headers": {"content-type": "image/png"}}, "multipart/form-data"),
        ({"files": {"picture": ("a.png", PICTURE)}}, "no field 'files' (it has 'picture')"),
        ({"files": {"other": ("a.png", PICTURE)}, "data": {"files": "text"}}, "must be a file"),
        ({"content": b"", "headers": {"content-type": "multipart/form-data; boundary=x"}}, "no complete field"),
        ({"content": b"nonsense", "headers": {"content-type": "multipart/form-data"}}, "cannot be read"),
    ],
)
def test_forms(request_: dict[str, Any], reason: str) -> None:
    assert reason in check_problem(ask(lambda c: c.post("/predict/batch", **request_)), 422)["detail"]


def test_each_picture_holds_a_place_of_its_own() -> None:
    engine = FakeEngine()

    async def test(client: httpx.AsyncClient) -> None:
        engine.gate.clear()
        other = asyncio.create_task(client.post("/predict", content=RED))
        await until(lambda: engine.batches)
        batch = asyncio.create_task(client.post("/predict/batch", files=several(RED, RED, GREEN)))
        await asyncio.sleep(0.2)
        engine.gate.set()
        answers = (await batch).json()
        assert [a.get("status") for a in answers] == [None, None, 503]
        assert answers[2]["type"] == "urn:segdepth:problem:overloaded"
        assert (await other).status_code == 200

    ask(test, fake_app(engine, queue_size=3))


def test_pictures_of_a_batch_reach_the_network_together() -> None:
    engine = FakeEngine()
    answers = post(several(*[PICTURE] * 12), engine=engine, max_batch=4).json()
    assert [found(a) for a in answers] == [[1, 2, 4, 7]] * 12
    assert sum(len(batch) for batch in engine.batches) == 12
    assert max(len(batch) for batch in engine.batches) <= 4


def test_a_failing_engine_is_a_problem_of_each() -> None:
    engine = FakeEngine()
    engine.fail = True
    answers = post(several(RED, GREEN), engine=engine).json()
    assert [(a["status"], a["type"].rpartition(":")[2]) for a in answers] == [(500, "inference-failed")] * 2


def test_each_picture_is_counted() -> None:
    async def test(client: httpx.AsyncClient) -> str:
        assert (await client.post("/predict/batch", files=several(RED, b"text", GREEN, b""))).status_code == 200
        return (await client.get("/metrics")).text

    text = ask(test)
    for status, reason, count in [(200, "ok", 2), (415, "unsupported-image", 1), (422, "invalid-request", 1)]:
        labels = f'{{reason="{reason}",route="/predict/batch, each",status="{status}"}}'
        assert f"segdepth_requests_total{labels} {count}.0" in text


def test_more_than_the_queue_holds_are_refused() -> None:
    assert len(post(several(RED, RED), queue_size=2).json()) == 2
    assert check_problem(post(several(RED, RED, RED), queue_size=2), 413)["type"].endswith("too-many-pictures")


def test_a_bug_ends_all_pictures_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    async def predict(self: Pipeline, upload: bytes, *args: Any) -> Any:
        if upload == RED:
            raise RuntimeError("a bug")
        await asyncio.sleep(0.2)
        done.append(upload)

    async def test() -> None:
        app = fake_app()
        async with serving(app) as client:
            response = await client.post("/predict/batch", files=several(GREEN, RED, GREEN))
            assert response.status_code == 500
            await asyncio.sleep(0.4)

    monkeypatch.setattr(Pipeline, "predict", predict)
    asyncio.run(test())
    assert done == []


def test_a_real_server(server: Server) -> None:
    files = [*several(*[RED, GREEN] * 4), ("files", ("a.txt", b"text"))]
    answers = httpx.post(f"{server.url}/predict/batch?pictures=false", files=files, timeout=30).json()
    assert [found(a) for a in answers[:8]] == [[1], [2]] * 4
    assert answers[8]["status"] == 415


def test_not_ready_is_503() -> None:
    engine = FakeEngine()
    engine.warm_gate.clear()

    async def test(client: httpx.AsyncClient) -> httpx.Response:
        try:
            return await client.post("/predict/batch", files=several(RED))
        finally:
            engine.warm_gate.set()

    check_problem(ask(test, fake_app(engine), ready=False), 503)
