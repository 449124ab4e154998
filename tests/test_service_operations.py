"""Running the service: request ids, logs, API keys, CORS, reloads, signals, `segdepth doctor` and `segdepth warm`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from service_client import FakeEngine, check_problem, encode, fake_app, quadrants, serving
from service_onnx import card, versioned, write_model
from service_process import ROOT, SERVE, environment, start, wait_for

from service import cli, doctor, png
from service.app import create_app
from service.auth import OPEN, ApiKeys
from service.card import ModelCard
from service.errors import Overloaded, StartupError
from service.logs import JsonFormatter, TextFormatter
from service.metrics import Metrics
from service.models import Models
from service.operations import reload_on_sighup
from service.settings import Settings

PICTURE = encode(quadrants())


def call(test: Callable[[httpx.AsyncClient], Awaitable[Any]], app: FastAPI | None = None) -> Any:
    async def run() -> Any:
        async with serving(app or fake_app()) as client:
            return await test(client)

    return asyncio.run(run())


# --- headers


def test_request_id_is_taken_if_sane_else_made() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        sane = "abc-123_4.5:6/7+8=9@x"
        assert (await client.get("/labels", headers={"x-request-id": sane})).headers["x-request-id"] == sane
        made = set()
        for bad in ("", "a b", "ü", 'a"b', "x" * 129, "<script>"):
            response = await client.get("/nothing", headers={"x-request-id": bad.encode()})
            made.add(check_problem(response, 404)["request_id"])
        assert len(made) == 6
        assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)

    call(test)


def test_unexpected_errors_have_a_request_id_and_are_logged_with_it(caplog: pytest.LogCaptureFixture) -> None:
    app = fake_app()

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret insides")

    response = call(lambda client: client.get("/broken", headers={"x-request-id": "r1"}), app)
    assert check_problem(response, 500)["request_id"] == "r1"
    assert "secret" not in response.text
    assert "secret insides" in caplog.text


def test_server_timing() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        header = (await client.post("/predict", content=PICTURE)).headers["server-timing"]
        found = dict(re.findall(r"(\w+);dur=([\d.]+)(?:, |$)", header))
        assert list(found) == ["decode", "queue", "infer", "encode", "total"]
        assert sum(float(v) for k, v in found.items() if k != "total") <= float(found["total"]) + 0.3
        header = (await client.get("/labels")).headers["server-timing"]
        assert re.fullmatch(r"total;dur=[\d.]+", header)

    call(test)


# --- logs


def test_access_log(caplog: pytest.LogCaptureFixture) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        await client.post("/predict", content=b"text", headers={"x-request-id": "r9"})
        await client.get("/health/live")
        await client.get("/health/ready")
        await client.get("/metrics")
        await client.get("/no%0Asuch")

    with caplog.at_level(logging.INFO):
        call(test)
    records = [record for record in caplog.records if record.name == "segdepth.access"]
    assert [record.fields["path"] for record in records] == ["/predict", "/no\nsuch"]
    assert records[0].getMessage().startswith("127.0.0.1 POST '/predict' 415 unsupported-image ")
    fields = records[0].fields
    assert fields["ms"] > 0 and fields["bytes"] > 100
    assert {k: fields[k] for k in ("method", "status", "reason", "key")} == {
        "method": "POST",
        "status": 415,
        "reason": "unsupported-image",
        "key": None,
    }
    # A path cannot begin a line of its own in the log.
    assert "\n" not in TextFormatter().format(records[1])
    assert json.loads(JsonFormatter().format(records[1]))["path"] == "/no\nsuch"


def test_head_is_answered_as_get_is() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        for path in ("/health/live", "/health/ready", "/metrics", "/model", "/v2/health/ready"):
            assert (await client.head(path)).status_code == 200, path
        assert (await client.head("/predict")).status_code == 405

    call(test)


# --- API keys


def sum_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{sum_of('alpha')}  alice\n\n{sum_of('beta').upper()}  -\n")
    return path


def test_api_keys(keys_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        good: list[dict[str, Any]] = [
            {"Authorization": "Bearer alpha"},
            {"authorization": "bearer  beta "},
            {"X-API-Key": "alpha"},
            # The token of a proxy before it, which asks for one of its own.
            {"Authorization": "Bearer eyJhbGciOi", "X-API-Key": "alpha"},
            {"Authorization": "Bearer alpha", "X-API-Key": ""},
        ]
        for headers in good:
            assert (await client.get("/labels", headers=headers)).status_code == 200
        bad: list[dict[str, Any]] = [
            {},
            {"Authorization": "alpha"},
            {"Authorization": "Basic alpha"},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer Alpha"},
            {"Authorization": "Bearer wrong", "X-API-Key": "wrong"},
            {"X-API-Key": ""},
            {"X-API-Key": sum_of("alpha")},
            {"X-API-Key": "ü".encode()},
        ]
        for headers in bad:
            response = await client.post("/predict", content=PICTURE, headers=headers)
            check_problem(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
        assert (await client.get("/v2/models/tiny")).json().keys() == {"error"}
        for path in ("/labels", "/model", "/nothing", "/v2/models/tiny", "/docs/oauth2-redirect", "/metrics/"):
            assert (await client.get(path)).status_code == 401, path
        for path in OPEN:
            assert (await client.get(path)).status_code == 200, path
        named = await client.post("/predict", content=PICTURE, headers={"X-API-Key": "beta"})
        assert named.status_code == 200

    with caplog.at_level(logging.INFO):
        call(test, fake_app(api_keys_file=keys_file))
    records = [record for record in caplog.records if record.name == "segdepth.access"]
    assert all(f" key {record.fields['key']}" in record.getMessage() for record in records if record.fields["key"])
    names = [record.fields["key"] for record in records]
    assert names[:3] == ["alice", "line 4", "alice"]
    assert names[-1] == "line 4"
    assert not re.search("alpha|beta|wrong", caplog.text)


def test_api_keys_are_read_again(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.auth.LOOK_AGAIN_S", 0.0)
    keys = ApiKeys(keys_file)
    assert (keys.name_of(b"alpha"), keys.name_of(b"gamma")) == ("alice", None)
    keys_file.write_text(f"{sum_of('gamma')} carol\n")
    assert (keys.name_of(b"alpha"), keys.name_of(b"gamma")) == (None, "carol")
    for broken in (b"not a sum\n", b"\xff\xfe"):
        keys_file.write_bytes(broken)
        for _ in range(3):
            assert keys.name_of(b"gamma") == "carol"
    keys_file.unlink()
    for _ in range(3):
        assert keys.name_of(b"gamma") == "carol"
    assert caplog.text.count("No such file") == 1
    assert "not a sum" not in caplog.text
    assert caplog.text.count("line 1 is not a SHA-256 sum") == 1
    keys_file.write_text("")  # Nobody any more.
    assert keys.name_of(b"gamma") is None


def test_api_keys_that_could_not_be_read_once_are_read_later(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.auth.LOOK_AGAIN_S", 0.0)
    keys = ApiKeys(keys_file)
    keys_file.write_text(f"{sum_of('gamma')} carol\n")
    with monkeypatch.context() as patch:

        def denied(*args: Any, **options: Any) -> str:
            raise PermissionError(13, "Permission denied")

        patch.setattr(Path, "read_text", denied)
        for _ in range(2):
            assert keys.name_of(b"alpha") == "alice"
    # With `chmod` the file has neither another time nor another size.
    assert (keys.name_of(b"alpha"), keys.name_of(b"gamma")) == (None, "carol")
    assert caplog.text.count("Permission denied") == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), ("", "no API key"), ("# one\n", "no API key"), ("mysecret\n", "line 1 is not")],
)
def test_wrong_key_files_end_the_start(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StartupError, match=reason) as caught:
        fake_app(api_keys_file=path)
    assert "mysecret" not in str(caught.value)


# --- CORS


def test_cors_is_closed_by_default_and_opened_by_origin(keys_file: Path) -> None:
    ours = {"origin": "https://ours.example"}
    ask = {**ours, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}

    async def closed(client: httpx.AsyncClient) -> None:
        response = await client.get("/labels", headers=ours)
        assert not [name for name in response.headers if name.startswith("access-control")]
        check_problem(await client.options("/predict", headers=ask), 405)

    async def opened(client: httpx.AsyncClient) -> None:
        # A browser sends no key when it asks whether it may.
        preflight = await client.options("/predict", headers=ask)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://ours.example"
        refused = await client.get("/labels", headers=ours)
        check_problem(refused, 401)
        assert refused.headers["access-control-allow-origin"] == "https://ours.example"
        other = await client.get("/labels", headers={"origin": "https://other.example", "x-api-key": "alpha"})
        assert "access-control-allow-origin" not in other.headers

    async def tensors(client: httpx.AsyncClient) -> None:
        header = "inference-header-content-length"
        preflight = await client.options(
            "/v2/models/fake/infer", headers={**ask, "access-control-request-headers": header}
        )
        assert preflight.status_code == 200 and header in preflight.headers["access-control-allow-headers"].lower()
        answer = await client.get("/labels", headers={**ours, "x-api-key": "alpha"})
        assert header in answer.headers["access-control-expose-headers"].lower()

    call(closed)
    for test in (opened, tensors):
        call(test, fake_app(api_keys_file=keys_file, cors_origins="https://ours.example, https://too.example"))


# --- reloads


class Source:
    """A model file that can be replaced: engines whose card has the version of the moment."""

    def __init__(self) -> None:
        self.version = "1"
        self.error: BaseException | None = None
        self.engines: list[FakeEngine] = []

    def __call__(self) -> tuple[ModelCard, list[Callable[[], FakeEngine]]]:
        if self.error:
            raise self.error
        engine = FakeEngine()
        engine.card = ModelCard.model_validate({**card(), "version": self.version})
        self.engines.append(engine)
        return engine.card, [lambda: engine]


KEY = {"X-API-Key": "alpha"}


def test_reload_loses_no_request(keys_file: Path) -> None:
    source = Source()
    app = create_app(Settings(api_keys_file=keys_file), source)

    async def version(client: httpx.AsyncClient) -> str:
        response = await client.post("/predict", content=PICTURE, headers=KEY)
        assert response.status_code == 200, response.text
        return str(response.json()["model"]["version"])

    async def test(client: httpx.AsyncClient) -> None:
        old = source.engines[0]
        old.gate.clear()
        under_way = asyncio.create_task(version(client))
        while not old.batches:
            await asyncio.sleep(0.005)

        source.version = "2"
        response = await client.post("/model/reload", headers=KEY)
        assert response.json() == {"name": "tiny", "version": "2"}
        assert await version(client) == "2"
        assert (await client.get("/model", headers=KEY)).json()["version"] == "2"
        assert not old.closed
        old.gate.set()
        assert await under_way == "1"
        async with asyncio.timeout(20):
            while not old.closed:
                await asyncio.sleep(0.01)

        # Under load.
        seen: list[str] = []
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                seen.append(await version(client))

        clients = [asyncio.create_task(load()) for _ in range(3)]
        for k in (3, 4):
            source.version = str(k)
            assert (await client.post("/model/reload", headers=KEY)).status_code == 200
            async with asyncio.timeout(20):
                while source.version not in seen:
                    await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*clients)  # Each of their answers was a 200.
        metrics = (await client.get("/metrics")).text
        assert 'segdepth_reloads_total{result="ok"} 3.0' in metrics
        assert re.findall(r'segdepth_model_info{.*version="(\d)"', metrics) == ["4"]

    call(test, app)
    assert all(engine.closed for engine in source.engines)


def test_a_slow_upload_keeps_its_model(keys_file: Path) -> None:
    source = Source()

    async def test(client: httpx.AsyncClient) -> None:
        go = asyncio.Event()

        async def upload() -> Any:
            yield PICTURE[:50]
            await go.wait()
            yield PICTURE[50:]

        slow = asyncio.create_task(client.post("/predict", content=upload(), headers=KEY))
        while not app.state.models._generation.users:
            await asyncio.sleep(0.005)
        source.version = "2"
        await client.post("/model/reload", headers=KEY)
        await asyncio.sleep(0.1)
        assert not source.engines[0].closed
        go.set()
        assert (await slow).json()["model"]["version"] == "1"

    app = create_app(Settings(api_keys_file=keys_file), source)
    call(test, app)


def test_answers_that_were_not_taken_before_a_reload_count_after_it(keys_file: Path) -> None:
    source = Source()
    app = create_app(Settings(api_keys_file=keys_file, queue_bytes=3 << 20), source)

    async def test(client: httpx.AsyncClient) -> None:
        not_taken = app.state.models.current.sending.response(bytes(2 << 20), "application/zip")
        source.version = "2"
        assert (await client.post("/model/reload", headers=KEY)).status_code == 200
        with pytest.raises(Overloaded, match="have not taken"):
            app.state.models.current.sending.response(bytes(2 << 20), "application/zip")
        del not_taken

    call(test, app)


def test_a_slow_reader_does_not_keep_the_old_model(keys_file: Path) -> None:
    source = Source()
    app = create_app(Settings(api_keys_file=keys_file), source)

    async def test(client: httpx.AsyncClient) -> None:
        begun, taken = asyncio.Event(), asyncio.Event()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                begun.set()
                await taken.wait()

        async def receive() -> Any:
            if not body:
                await taken.wait()
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": body.pop(), "more_body": False}

        body = [PICTURE]
        headers = [(name.lower().encode(), value.encode()) for name, value in KEY.items()]
        scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b""}
        scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "server": ("test", 80), "root_path": ""}
        reader = asyncio.create_task(app(scope | {"client": ("test", 1)}, receive, send))
        await begun.wait()
        source.version = "2"
        assert (await client.post("/model/reload", headers=KEY)).status_code == 200
        async with asyncio.timeout(10):
            while not source.engines[0].closed:
                await asyncio.sleep(0.005)
        taken.set()
        await reader

    call(test, app)


def test_a_failed_reload_keeps_the_old_model(keys_file: Path) -> None:
    source = Source()

    async def test(client: httpx.AsyncClient) -> None:
        source.error = StartupError("the file has no model card")
        response = await client.post("/model/reload", headers=KEY)
        assert "the file has no model card" in check_problem(response, 409)["detail"]
        source.error = None

        class Failing(FakeEngine):
            def __init__(self) -> None:
                super().__init__()
                self.card = source.engines[0].card

            def warm_up(self, progress: Any) -> None:
                raise StartupError("the model gives class 7")

        app.state.models._source = lambda: (source.engines[0].card, [Failing, FakeEngine])
        response = await client.post("/model/reload", headers=KEY)
        assert "the model gives class 7" in check_problem(response, 409)["detail"]

        # Its card has another version, be it the first of two or the second.
        card, right = source.engines[0].card, Source()
        right.version = source.version
        for loaders in ([FakeEngine], [right()[1][0], FakeEngine]):
            app.state.models._source = lambda loaders=loaders: (card, loaders)
            response = await client.post("/model/reload", headers=KEY)
            assert "changed while" in check_problem(response, 409)["detail"]

        def bug() -> Any:
            raise RuntimeError("secret insides")

        app.state.models._source = bug
        response = await client.post("/model/reload", headers=KEY)
        assert "secret" not in check_problem(response, 409)["detail"]

        assert (await client.post("/predict", content=PICTURE, headers=KEY)).json()["model"]["version"] == "1"
        assert 'segdepth_reloads_total{result="failed"} 5.0' in (await client.get("/metrics")).text

    app = create_app(Settings(api_keys_file=keys_file), source)
    call(test, app)


def test_one_reload_at_a_time_and_only_with_keys(keys_file: Path) -> None:
    source = Source()

    async def test(client: httpx.AsyncClient) -> None:
        slow = FakeEngine()
        slow.warm_gate.clear()
        app.state.models._source = lambda: (slow.card, [lambda: slow])
        first = asyncio.create_task(client.post("/model/reload", headers=KEY))
        while not app.state.models._reloading:
            await asyncio.sleep(0.005)
        check_problem(await client.post("/model/reload", headers=KEY), 409)
        assert (await client.post("/predict", content=PICTURE, headers=KEY)).status_code == 200
        slow.warm_gate.set()
        assert (await first).status_code == 200
        check_problem(await client.post("/model/reload"), 401)

    app = create_app(Settings(api_keys_file=keys_file), source)
    call(test, app)
    body = check_problem(call(lambda client: client.post("/model/reload")), 403)
    assert "SIGHUP" in body["detail"]


def test_a_reload_brings_lost_engines_back(keys_file: Path) -> None:
    source = Source()

    async def test(client: httpx.AsyncClient) -> None:
        source.engines[0].fail = True
        for _ in range(3):
            await client.post("/predict", content=PICTURE, headers=KEY)
        assert (await client.get("/health/ready")).status_code == 503
        assert (await client.get("/health/live")).status_code == 503
        assert (await client.post("/model/reload", headers=KEY)).status_code == 200
        assert (await client.get("/health/ready")).status_code == 200
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.post("/predict", content=PICTURE, headers=KEY)).status_code == 200

    call(test, create_app(Settings(api_keys_file=keys_file), source))


# --- a real process: signals, JSON logs


def test_sighup_afterwards_does_what_it_did_before() -> None:
    async def run() -> None:
        models = Models(Settings(), Source(), Metrics(), print)
        with reload_on_sighup(models):
            assert signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # As the command line has it.
    try:
        asyncio.run(run())
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sighup_reloads_and_json_logs(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    versioned(model, "1")
    kubernetes = {"SEGDEPTH_PORT": "tcp://10.0.0.1:8000", "SEGDEPTH_SERVICE_HOST": "10.0.0.1"}
    with start("--model", str(model), SEGDEPTH_LOG_FORMAT="json", SEGDEPTH_DEVICE="cpu,cpu", **kubernetes) as server:
        server.wait_ready()
        versioned(model, "2")
        os.kill(server.process.pid, signal.SIGHUP)
        wait_for(lambda: httpx.get(f"{server.url}/model").json()["version"] == "2")
        model.write_bytes(b"not a model")
        os.kill(server.process.pid, signal.SIGHUP)
        wait_for(lambda: 'reloads_total{result="failed"} 1.0' in httpx.get(f"{server.url}/metrics").text)
        answer = httpx.post(f"{server.url}/predict", content=PICTURE, headers={"x-request-id": "r7"})
        assert answer.json()["model"]["version"] == "2"
        code, output = server.stop()
    assert code == 0, output
    lines = [json.loads(line) for line in (server.first_output + output).splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    [warning] = [line for line in lines if line["level"] == "warning"]
    assert "SEGDEPTH_PORT, SEGDEPTH_SERVICE_HOST" in warning["message"]
    [error] = [line for line in lines if line["level"] == "error"]
    assert "not an ONNX file" in error["message"]
    [access] = [line for line in lines if line.get("request_id") == "r7"]
    assert (access["path"], access["status"], access["reason"]) == ("/predict", 200, "ok")
    assert not [line for line in lines if line.get("path") in ("/health/ready", "/metrics")]


def test_sigterm_first_ends_readiness(tiny_model: Path) -> None:
    with start("--model", str(tiny_model), SEGDEPTH_DRAIN_S="1.5") as server:
        server.wait_ready()
        server.process.terminate()
        wait_for(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503)
        assert check_problem(httpx.get(f"{server.url}/health/ready"), 503)["type"].endswith("stopping")
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 503
        # What load balancers still send is answered.
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        assert httpx.post(f"{server.url}/predict", content=PICTURE).status_code == 200
        code, output = server.ended(20)
        assert code == 0, output
        assert "Traceback" not in output


def test_a_second_signal_does_not_wait_and_what_is_accepted_is_still_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    later: dict[float, Callable[[], None]] = {}
    monkeypatch.setattr(cli, "_later", later.__setitem__)
    settings = Settings(drain_s=3, grace_s=30)
    models = SimpleNamespace(draining=False)
    server = cli._Server(uvicorn.Config("x:y"), settings, models, "http://x")  # type: ignore[arg-type]
    server.handle_exit(signal.SIGINT, None)
    assert models.draining and not server.should_exit
    server.handle_exit(signal.SIGINT, None)
    assert server.should_exit
    later[3]()
    assert not server.force_exit


def test_the_grace_is_bounded(tiny_model: Path) -> None:
    """A request that does not end (its upload goes on) is told, and the process ends with 0."""
    with start("--model", str(tiny_model), SEGDEPTH_GRACE_S="2") as server:
        server.wait_ready()
        answers: list[httpx.Response] = []

        def upload() -> Any:
            for _ in range(200):
                time.sleep(0.05)
                yield PICTURE[:1]

        def client() -> None:
            with suppress(httpx.HTTPError):  # The connection may be cut while it still sends.
                answers.append(httpx.post(f"{server.url}/predict", content=upload(), timeout=20))

        thread = threading.Thread(target=client)
        thread.start()
        time.sleep(0.5)
        since = time.perf_counter()
        code, output = server.stop()
        assert time.perf_counter() - since < 6
        assert code == 0, output
        assert "Traceback" not in output
        thread.join()
        assert [answer.status_code for answer in answers] in ([], [503])


# --- doctor and warm


def command(*arguments: str, **settings: str) -> tuple[int, str]:
    done = subprocess.run(
        [*SERVE[:-1], *arguments],
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_doctor_and_warm(tiny_model: Path) -> None:
    code, output = command("doctor", "--model", str(tiny_model), SEGDEPTH_SERVICE_HOST="10.0.0.1")
    assert code == 0, output
    assert "FAIL" not in output
    assert re.search(r"^ok    python      3\.\d+", output, re.MULTILINE)
    assert re.search(r"^ok    model       tiny 1\.2: corners on none, 8 classes, 64x48, 48x64$", output, re.MULTILINE)
    assert re.search(
        r"^ok    cpu         \d+ nodes on CPUExecutionProvider; warm after .*, best (\d at once|one at a time)$",
        output,
        re.MULTILINE,
    )
    assert "note  settings    ignored, of a Kubernetes Service: SEGDEPTH_SERVICE_HOST" in output

    code, output = command("warm", "--model", str(tiny_model))
    assert code == 0, output
    assert output.splitlines()[:4] == [f"cpu: {k} of 3" for k in range(4)]


def test_doctor_does_without_what_there_are_no_wheels_of(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def packages() -> list[tuple[str, str]]:
        findings = doctor.examine(Settings(model=tiny_model))
        return [(level, text) for level, name, text in findings if name == "packages"]

    if png.isal_zlib is not None:
        ((level, text),) = packages()
        assert level == "ok" and "isal" in text
    monkeypatch.setattr(png, "isal_zlib", None)
    (note, (level, text)) = packages()
    assert note == ("note", "isal is not installed: zlib deflates the answers' PNGs, several times as slowly")
    assert level == "ok" and "isal" not in text


def test_doctor_finds_what_is_wrong(tmp_path: Path) -> None:
    code, output = command("doctor", "--model", str(tmp_path / "none.onnx"), SEGDEPTH_API_KEYS_FILE="/no/such")
    assert code == 1
    assert re.search("^FAIL  model       there is no model file", output, re.MULTILINE)
    assert re.search("^FAIL  api keys    cannot read", output, re.MULTILINE)
    code, output = command(
        *("doctor", "--model", str(tmp_path / "none.onnx")),
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_BSP_MAX_QUEUE_SIZE="10",
    )
    assert re.search("^FAIL  traces      OpenTelemetry's variables are not right", output, re.MULTILINE)
    bad = write_model(tmp_path / "bad.onnx", card_text=json.dumps({**card(), "classes": card()["classes"][:3]}))
    code, output = command("doctor", "--model", str(bad))
    assert code == 1
    assert re.search("^FAIL  cpu         the model gives class 7", output, re.MULTILINE)
    code, output = command("warm", "--model", str(bad))
    assert code == 1
    assert "segdepth: the model gives class 7" in output


def test_doctor_goes_on_past_a_gpu_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("of another machine")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "Exec format error" in list(doctor._gpu("CPUExecutionProvider", "cpu"))[-1][2]
    program.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    monkeypatch.setattr(doctor, "GPU_QUERY_S", 0.5)
    kind, _, text = list(doctor._gpu("CPUExecutionProvider", "cpu"))[-1]
    assert kind == "FAIL" and "timed out after 0.5 seconds" in text


def test_the_middleware_leaves_other_scopes_alone(keys_file: Path) -> None:
    """Uvicorn with its defaults offers websockets; there is no such route."""
    sent: list[Any] = []

    async def run() -> None:
        app = fake_app(api_keys_file=keys_file)
        scope = {"type": "websocket", "path": "/predict", "headers": [], "query_string": b"", "root_path": ""}

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)

    asyncio.run(run())
    assert [message["type"] for message in sent] == ["websocket.close"]
