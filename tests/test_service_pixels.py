"""service/pixels.py: pixel work in processes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import pickle
import platform
import re
import signal
import socket
import sys
import time
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest
import service_jobs as jobs
from service_client import FakeEngine, ask, check_problem, encode, fake_app, quadrants, serving
from service_onnx import card, versioned
from service_process import start, wait_for

from service import errors, pixels
from service.card import ModelCard
from service.context import current
from service.errors import Overloaded, Problem, StartupError, Unavailable, WorkerLost
from service.metrics import Metrics
from service.models import Models
from service.outputs import ONLY_FOR, Output
from service.pixels import Fixed, Pixels, workers_of
from service.settings import Settings

PICTURE = encode(quadrants())
FIXED = Fixed(ModelCard.model_validate(card()), 1_000_000)
BROKEN = [sys.executable, "-c", "pass"]


def children(pid: int) -> set[int]:
    """The processes that `pid` has started and not yet waited for."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:  # It has ended.
            continue
        if int(stat.rpartition(")")[2].split()[1]) == pid:
            found.add(int(folder.name))
    return found


def ended(pid: int) -> bool:
    """Whether it can be waited for, or has been: it is a zombie, and so are its threads."""
    folder = Path(f"/proc/{pid}")
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z" and len(
            os.listdir(folder / "task")
        ) == 1
    except OSError:
        return True


# --- what is chosen and what travels


@pytest.mark.parametrize(
    ("cores", "settings", "expected"),
    [
        (16, {}, 0),
        (16, {"device": "openvino,cpu"}, 0),
        (1, {"device": "cuda"}, 1),
        (2, {"device": "cpu,cuda:1"}, 1),
        (16, {"device": "tensorrt"}, 15),
        (64, {"device": "cuda:0,cuda:1"}, 16),
        (64, {"device": "cuda", "pixel_workers": 0}, 0),
        (2, {"pixel_workers": 40}, 40),
    ],
)
def test_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch, cores: int, settings: dict[str, Any], expected: int
) -> None:
    monkeypatch.setattr(pixels, "usable_cores", lambda: cores)
    assert workers_of(Settings(**settings)) == expected


def problems(parent: type[Problem] = Problem) -> Iterator[type[Problem]]:
    yield parent
    for child in parent.__subclasses__():
        yield from problems(child)


@pytest.mark.parametrize("kind", [*problems()])
def test_every_problem_can_travel(kind: type[Problem]) -> None:
    if issubclass(kind, Unavailable):
        problem: Problem = kind("Later.", 3.5, progress={"done": 1})
    else:
        problem = kind("No.", headers={"Retry-After": "4"}, progress={"done": 1})
    there = pickle.loads(pickle.dumps(problem, pickle.HIGHEST_PROTOCOL))
    assert type(there) is kind
    assert (str(there), there.detail) == (str(problem), problem.detail)
    assert there.headers == {"Retry-After": "4"} and there.members == {"progress": {"done": 1}}
    assert errors.describe(there) == errors.describe(problem)


# --- the pool


def with_pool(test: Callable[[Pixels, Metrics], Awaitable[None]], workers: int = 1) -> None:
    """Run a coroutine with a started pool; afterwards none of its processes is left."""
    before, files = children(os.getpid()), len(os.listdir("/proc/self/fd"))
    metrics = Metrics()

    async def run() -> None:
        pool = Pixels(FIXED, workers, metrics)
        pool.start()
        try:
            await asyncio.to_thread(pool.wait_ready)
            assert len(children(os.getpid()) - before) == workers
            await test(pool, metrics)
        finally:
            await asyncio.to_thread(pool.close)

    asyncio.run(run())
    assert children(os.getpid()) == before
    assert len(os.listdir("/proc/self/fd")) == files


def lost(metrics: Metrics) -> float:
    return float(re.findall(r"^segdepth_pixel_processes_lost_total (\S+)", metrics.text().decode(), re.MULTILINE)[0])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries of C have other ways")
def test_a_process_keeps_the_memory_of_its_maps() -> None:
    async def test(pool: Pixels, _: Metrics) -> None:
        faults = await pool.run(jobs.page_faults, [30 << 20, 1 << 20, 4 << 20, 30 << 20])
        assert sum(faults[1:]) < 100  # Of 8960 pages.

    with_pool(test)


def test_what_a_process_raises_and_how_its_death_is_survived(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(pool: Pixels, metrics: Metrics) -> None:
        first = await pool.run(jobs.pid)
        assert first != os.getpid()
        with pytest.raises(Overloaded, match="Too much") as caught:
            await pool.run(jobs.refuse)
        assert (caught.value.headers, caught.value.members) == ({"Retry-After": "8"}, {"places": 3})
        with pytest.raises(RuntimeError, match=r"(?s)service_jobs.py.*LookupError: secret insides"):
            await pool.run(jobs.fail)
        with pytest.raises((AttributeError, pickle.PicklingError)):  # Cannot travel, and breaks nothing.
            await pool.run(lambda fixed: fixed)
        assert await pool.run(jobs.pid) == first
        assert lost(metrics) == 0

        # One that waits is not touched by the death of the process that it will not have.
        fatal, waiting = asyncio.create_task(pool.run(jobs.die)), asyncio.create_task(pool.run(jobs.pid))
        with pytest.raises(WorkerLost):
            await fatal
        second = await waiting
        assert second != first and ended(first)
        assert lost(metrics) == 1
        assert f"pixel process {first} ended with -9" in caplog.text

        # One that is killed while it has nothing to do costs no answer.
        os.kill(second, signal.SIGKILL)
        wait_for(lambda: ended(second), tries=1200)
        third = await pool.run(jobs.pid)
        assert third not in (first, second)
        assert lost(metrics) == 2

        # While none can be started, every picture is told; afterwards it goes on.
        with monkeypatch.context() as patch:
            patch.setattr(pixels, "COMMAND", BROKEN)
            for job in (jobs.die, jobs.pid):
                with pytest.raises(WorkerLost):
                    await pool.run(job)
            patch.setattr(pixels, "COMMAND", ["/no/such/program"])
            with pytest.raises(WorkerLost):
                await pool.run(jobs.pid)
            assert "no new pixel process could be started: [Errno 2]" in caplog.text
            # A death is one, however often no other process can take its place.
            dead, tried = lost(metrics), caplog.text.count("[Errno 2]")
            for _ in range(3):
                with pytest.raises(WorkerLost, match="No process could be started"):
                    await pool.run(jobs.pid)
            assert lost(metrics) == dead and caplog.text.count("[Errno 2]") == tried + 3
        assert await pool.run(jobs.pid) != third

    with_pool(test)


def test_signals_to_all_processes_and_cancelled_jobs(tmp_path: Path) -> None:
    others = children(os.getpid())  # Servers of other tests.

    async def test(pool: Pixels, metrics: Metrics) -> None:
        under_way = [asyncio.create_task(pool.run(jobs.sleep, 0.7)) for _ in range(2)]
        dropped = asyncio.create_task(pool.run(jobs.touch, tmp_path / "dropped"))
        left = asyncio.create_task(pool.run(jobs.touch, tmp_path / "left"))
        given_up = under_way[0]
        await asyncio.sleep(0.2)
        for pid in children(os.getpid()) - others:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
        dropped.cancel()
        given_up.cancel()  # Its process has nobody to tell, and goes on with the next job.
        before = time.perf_counter()
        await asyncio.wait([dropped, given_up])
        assert time.perf_counter() - before < 0.1
        other = await under_way[1]
        await left
        # The process whose job was given up is there for others when it has done it.
        async with asyncio.timeout(60):
            while await pool.run(jobs.sleep, 0.01) == other:
                pass
        assert [path.name for path in tmp_path.iterdir()] == ["left"]
        assert lost(metrics) == 0

    with_pool(test, workers=2)


@pytest.mark.parametrize("command", [BROKEN, ["/no/such/program"]])
def test_a_process_that_does_not_start(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.setattr(pixels, "COMMAND", command)
    engine = FakeEngine()
    failures: list[StartupError] = []
    models = Models(Settings(pixel_workers=2), lambda: (engine.card, [lambda: engine]), Metrics(), failures.append)
    models.start()
    wait_for(lambda: bool(failures), tries=1200)
    assert "a process for pictures (SEGDEPTH_PIXEL_WORKERS) did not start" in failures[0].reason
    assert not models.current.batcher.ready
    asyncio.run(models.close())


# --- the whole API in this process


def without_times(data: bytes) -> bytes:
    """But for times, and what follows from them and from chance in containers."""
    if data.startswith(b"PK") and b"metadata.json" in data:
        archive = zipfile.ZipFile(io.BytesIO(data))
        return b"".join(name.encode() + without_times(archive.read(name)) for name in archive.namelist())
    data = re.sub(rb'"timing_ms":\{[^}]*\}', b"", data)
    if data.startswith(b"--"):
        return re.sub(rb"Content-Length: \d+", b"", data.replace(data[: data.index(b"\r\n")], b""), count=1)
    return data


def tensors(binary: bool) -> list[dict[str, Any]]:
    """Requests of the Open Inference Protocol, with pixels and with a file."""
    pictures = np.stack([quadrants(), quadrants()[::-1]])
    of_pixels = {"name": "image", "datatype": "UINT8", "shape": list(pictures.shape), "data": pictures.tolist()}
    text = base64.b64encode(encode(quadrants(60, 90), "JPEG")).decode()
    of_files = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    return [{"id": "7", "inputs": [one], "parameters": {"binary_data_output": binary}} for one in (of_pixels, of_files)]


async def everything(client: httpx.AsyncClient) -> dict[str, tuple[int, bytes]]:
    """An answer of every kind, by what it is."""
    found = {}
    query = {"min_confidence": "0.9", "hfov": "70", "max_points": "1000"}
    for name, data in (("png", PICTURE), ("jpeg", encode(quadrants(200, 300), "JPEG"))):
        for output in get_args(Output):
            own = {one: value for one, value in query.items() if output in ONLY_FOR.get(one, (output,))}
            response = await client.post("/predict", params={"output": output, **own}, content=data)
            assert response.status_code == 200, response.text
            found[f"{name} {output}"] = (200, without_times(response.content))
            stages = re.findall(r"(\w+);dur=", response.headers["server-timing"])
            assert stages == ["decode", "queue", "infer", "encode", "total"]
    for k, body in enumerate(tensors(False) + tensors(True)):
        response = await client.post("/v2/models/tiny/infer", json=body)
        assert response.status_code == 200, response.text
        found[f"tensors {k}"] = (200, response.content)
    wrong = {"text": b"Hello", "half": PICTURE[:100], "large": encode(np.zeros((1000, 2000), np.uint8))}
    for name, data in wrong.items():
        body = check_problem(
            await client.post("/predict", content=data), {"text": 415, "half": 422, "large": 413}[name]
        )
        found[name] = (body["status"], json.dumps({**body, "request_id": ""}).encode())
    body = check_problem(await client.post("/predict?fx=1", content=PICTURE), 422)
    found["camera"] = (422, body["detail"].encode())
    return found


def test_every_answer_is_the_same_byte_for_byte() -> None:
    own, others = (ask(everything, fake_app(pixel_workers=n, max_pixels=1_000_000)) for n in (0, 1))
    assert own.keys() == others.keys()
    for name in own:
        assert own[name] == others[name], name
    assert len({body for _, body in own.values()}) == len(own)


def test_readiness_waits_for_the_processes_and_a_death_is_answered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    wait = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    monkeypatch.setattr(pixels, "COMMAND", [*pixels.COMMAND[:-1], wait + pixels.COMMAND[-1]])
    engine = FakeEngine()

    async def test() -> None:
        async with serving(fake_app(engine, pixel_workers=1), ready=False) as client:
            await asyncio.sleep(0.3)
            check_problem(await client.get("/health/ready"), 503)
            check_problem(await client.post("/predict", content=PICTURE), 503)
            gate.touch()
            async with asyncio.timeout(20):
                while (await client.get("/health/ready")).status_code != 200:
                    await asyncio.sleep(0.02)
            assert (await client.post("/predict", content=PICTURE)).status_code == 200

            with monkeypatch.context() as patch:
                patch.setattr(pixels, "decode", jobs.die)
                logged: list[str] = []
                patch.setattr(pixels.log, "error", lambda *_: logged.append(current().id))
                body = check_problem(await client.post("/predict", content=PICTURE), 500)
            assert logged == [body["request_id"]]
            assert body["type"] == "urn:segdepth:problem:worker-lost"
            assert (await client.get("/health/ready")).status_code == 200
            assert (await client.post("/predict", content=PICTURE)).status_code == 200
            text = (await client.get("/metrics")).text
            assert "segdepth_pixel_processes_lost_total 1.0" in text
            assert 'reason="worker-lost",route="/predict",status="500"' in text

            # Late or given up, it frees its place at once.
            with monkeypatch.context() as patch:
                patch.setattr(pixels, "decode", jobs.slow)
                late = await client.post("/predict", content=PICTURE, headers={"x-request-timeout-ms": "50"})
            check_problem(late, 504)
            assert (await client.post("/predict", content=PICTURE)).status_code == 200

    asyncio.run(test())
    assert engine.closed


# --- a real server


def test_a_server_and_its_processes(tmp_path: Path) -> None:
    """Killed, signalled, reloaded, stopped in the middle of a request: no answer is lost, and no process is left."""
    model = versioned(tmp_path / "model.onnx", "1")
    with start("--model", str(model), SEGDEPTH_PIXEL_WORKERS="1") as server:
        server.wait_ready()
        pid = server.process.pid

        def answers() -> None:
            for _ in range(2):
                assert httpx.post(f"{server.url}/predict", content=PICTURE, timeout=20).status_code == 200

        answers()
        first = children(pid)
        assert len(first) == 1
        for child in first:
            os.kill(child, signal.SIGKILL)
        wait_for(lambda: all(ended(child) for child in first), tries=1200)
        answers()
        second = children(pid)
        assert len(second) == 1 and not first & second
        assert "segdepth_pixel_processes_lost_total 1.0" in httpx.get(f"{server.url}/metrics").text

        versioned(model, "2")
        os.kill(pid, signal.SIGHUP)
        wait_for(lambda: httpx.get(f"{server.url}/model").json()["version"] == "2", tries=1200)
        wait_for(lambda: len(children(pid)) == 1, tries=1200)
        third = children(pid)
        assert not second & third
        answers()

        large = encode(np.full((3000, 4000, 3), (255, 0, 0), np.uint8), compress_level=1)
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(large)}\r\n\r\n"
            client.sendall(head.encode() + large)
            # Connections are accepted in their order, so that one is; its body takes a moment to read, and its picture
            # several to decode. Now Ctrl-C, which reaches all of them.
            assert httpx.get(f"{server.url}/health/live").status_code == 200
            time.sleep(0.1)
            for child in (*third, pid):
                os.kill(child, signal.SIGINT)
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        code, output = server.ended(30)
        assert code in (130, -signal.SIGINT), output
        assert "Traceback" not in output
        assert all(ended(child) for child in third)


def test_a_killed_server_leaves_no_process(tiny_model: Path) -> None:
    with start("--model", str(tiny_model), SEGDEPTH_PIXEL_WORKERS="1") as server:
        server.wait_ready()
        left = children(server.process.pid)
        assert len(left) == 1
        server.process.kill()
        _, output = server.ended(20)
        wait_for(lambda: all(ended(child) for child in left), tries=1200)
        assert "Traceback" not in output


@pytest.mark.skipif(sys.platform != "linux", reason="there are no such policies")
def test_threads_for_pixels_wait_for_a_core() -> None:
    async def test() -> None:
        pool = Pixels(Fixed(FakeEngine().card, 1000), 0, Metrics())
        assert await pool.run(lambda _fixed: os.sched_getscheduler(0)) == os.SCHED_BATCH
        pool.close()
        assert os.sched_getscheduler(0) == os.SCHED_OTHER

    asyncio.run(test())


@pytest.mark.parametrize("saturation", [0.0, 0.5])
def test_a_model_that_sees_no_colours_gets_none(saturation: float) -> None:
    engine = FakeEngine()
    seeing = engine.card.input.model_copy(update={"saturation": saturation})
    engine.card = engine.card.model_copy(update={"input": seeing})
    ask(lambda c: c.post("/predict", content=PICTURE), fake_app(engine))
    (batch,) = engine.batches
    assert (batch == batch[..., :1]).all() == (saturation == 0)
    assert len(np.unique(batch)) == (4 if saturation == 0 else 2)  # Red, green, blue and white
