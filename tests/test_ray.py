"""deploy/ray_serve.py and deploy/ray_batch.py on a small Ray of this machine, beside the service itself."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from service_client import check_problem, encode, quadrants
from service_onnx import card
from service_process import ROOT, environment

# The API tests of the plain service; here `server` is the one below. That of a body announced too large has
# a variant of its own, `test_huge_content_length_is_refused`.
from test_service_server import (  # noqa: F401
    test_a_client_that_goes_in_the_middle_of_its_upload,
    test_bad_bodies,
    test_byte_limit_without_content_length,
    test_exif_orientations,
    test_many_clients_at_once,
    test_unknown_output_path_and_method,
    test_unusual_pictures,
    test_wrong_field_name,
)

from service import cli
from service.errors import StartupError
from service.outputs import Options
from service.settings import Settings

if importlib.util.find_spec("ray") is None:
    pytest.skip("ray is not installed", allow_module_level=True)
with warnings.catch_warnings():
    # Ray's modules warn of themselves while they are imported.
    warnings.simplefilter("ignore")
    from deploy import ray_batch
    from deploy.ray_batch import Folder, Predict, main, missing
    from deploy.ray_serve import build

DRIVER = [sys.executable, str(ROOT / "tests" / "ray_driver.py")]
APP = f"segdepth-test-{os.getpid()}"
PICTURE = encode(quadrants())
START_S = float(os.environ.get("SEGDEPTH_TEST_RAY_START_S", "120"))
"""Ray starts some ten Python processes."""
BATCH = int(os.environ.get("SEGDEPTH_TEST_RAY_PICTURES", "40"))
"""Pictures of the batch that is killed; with 500, `SEGDEPTH_TEST_RAY_MODEL` and more `SEGDEPTH_TEST_RAY_START_S` it is
the trial of docs/ray.md."""
BATCH_MODEL = os.environ.get("SEGDEPTH_TEST_RAY_MODEL")


def driver(*arguments: str, output: Path, stdin: int | None = None, **settings: str) -> subprocess.Popen[str]:
    """`tests/ray_driver.py`, which prints to the file `output`."""
    variables = environment(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", **settings)
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with output.open("w") as file:
        return subprocess.Popen(
            [*DRIVER, *arguments], cwd=ROOT, env=variables, stdin=stdin, stdout=file, stderr=file, text=True
        )


@dataclass
class Served:
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two replicas with the limits of the plain service's `server`."""
    output = tmp_path_factory.mktemp("ray") / "output"
    limits = ["max_bytes=3000000", "max_pixels=2000000"]
    process = driver("serve", APP, f"model={tiny_model}", "replicas=2", *limits, output=output, stdin=subprocess.PIPE)
    try:
        until = time.monotonic() + START_S
        while not (found := re.search(r"^listens on (http://\S+)$", output.read_text(), re.MULTILINE)):
            assert process.poll() is None and time.monotonic() < until, output.read_text()
            time.sleep(0.2)
        yield Served(found[1])
    finally:
        assert process.stdin
        process.stdin.close()
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def replicas() -> set[int]:
    """The process ids of this application's replicas; Ray gives them their names as titles."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"ServeReplica:{APP}:" in (folder / "cmdline").read_text():
                found.add(int(folder.name))
        except OSError:
            pass
    return found


# --- Ray Serve


def test_all_routes_are_the_services(server: Served) -> None:
    assert httpx.get(f"{server.url}/health/ready").json()["status"] == "ready"
    assert httpx.get(f"{server.url}/model").json()["name"] == card()["name"]
    assert httpx.get(f"{server.url}/v2/models/segdepth/ready").status_code == 200
    assert "segdepth_ready 1.0" in httpx.get(f"{server.url}/metrics").text
    assert "/predict/batch" in httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert httpx.post(f"{server.url}/model/reload").status_code == 404  # It would reload one of several.
    assert httpx.get(server.url).headers["content-type"].startswith("text/html")


def test_huge_content_length_is_refused(server: Served) -> None:
    """At once, too; but Ray's proxy asks for a body by itself where the client waits for that."""
    for extra, asked in (("", b""), ("Expect: 100-continue\r\n", b"HTTP/1.1 100 Continue\r\n\r\n")):
        wanted = asked + b"HTTP/1.1 413 "
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
            request = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n{extra}\r\n"
            since = time.perf_counter()
            client.sendall(request.encode() + b"ab")
            got = b""
            while len(got) < len(wanted) and (more := client.recv(100)):
                got += more
            assert got.startswith(wanted)
            assert time.perf_counter() - since < 2


def test_the_answer_has_the_services_headers(server: Served) -> None:
    answer = httpx.post(f"{server.url}/predict?output=mask", content=PICTURE, headers={"X-Request-ID": "a-b"})
    assert answer.headers["x-request-id"] == "a-b"
    assert "infer;dur=" in answer.headers["server-timing"]
    late = httpx.post(f"{server.url}/predict", content=PICTURE, headers={"X-Request-Timeout-Ms": "999999999"})
    check_problem(late, 422)


def test_a_killed_replica_comes_back(server: Served) -> None:
    """Under load: the other one goes on, and soon there are two again."""
    before = replicas()
    assert len(before) == 2
    statuses: list[int] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                statuses.append(httpx.post(f"{server.url}/predict", content=PICTURE, timeout=60).status_code)
            except httpx.HTTPError:
                statuses.append(0)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    try:
        while len(statuses) < 20:
            time.sleep(0.01)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        answered = len(statuses)
        until = time.monotonic() + START_S
        while len(replicas() - {killed}) < 2:
            assert time.monotonic() < until, "the replica did not come back"
            time.sleep(0.1)
        while len(statuses) < answered + 20:
            time.sleep(0.01)
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    # What the killed one had in its hands is lost: at most one request of each client.
    assert len([status for status in statuses if status != 200]) <= len(clients), statuses
    assert httpx.post(f"{server.url}/predict", content=PICTURE, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"replicas": "0"}, "replicas=0: a number, or auto"),
        ({"replicas": "many"}, "replicas=many: a number, or auto"),
        ({"modle": "a.onnx"}, "unknown setting modle"),
        ({"max_batch": "no"}, "setting max_batch"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_deployed(arguments: dict[str, str], reason: str) -> None:
    with pytest.raises(StartupError, match=reason):
        build(arguments)


def test_a_replica_reserves_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGDEPTH_QUEUE_SIZE", "32")
    deployment = build({"threads": "3", "device": "cuda:0,cuda:1", "replicas": "auto"})._bound_deployment
    assert deployment.ray_actor_options["num_cpus"] == 3
    assert deployment.ray_actor_options["num_gpus"] == 2
    assert deployment.max_ongoing_requests == 64
    assert build({})._bound_deployment.ray_actor_options["num_cpus"] == 1
    assert build({"threads": "3", "pixel_workers": "4"})._bound_deployment.ray_actor_options["num_cpus"] == 7


def replica_of(arguments: dict[str, str]) -> Any:
    """What Ray makes in a replica's process, not started."""
    kind = build(arguments)._bound_deployment.func_or_class
    # Ray awaits the one that it gives the class, which is a coroutine; Python would not.
    kind.__del__ = lambda self: None
    return kind.__new__(kind)


def test_a_replica_in_this_process(tiny_model: Path) -> None:
    """Started it is warm; it is healthy until its engines are lost."""

    async def run() -> None:
        replica = replica_of({"model": str(tiny_model), "log_level": "error"})
        await replica.__init__()
        await replica._run_asgi_lifespan_startup()
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(replica.app), base_url="http://test") as client:
                assert (await client.get("/health/ready")).status_code == 200
                answer = await client.post("/predict", content=PICTURE)
            assert [one["id"] for one in answer.json()["segmentation"]["classes"]] == [1, 2, 4, 7]
            replica.check_health()
            for owner in replica.app.state.models.current.batcher._owners:
                owner.state = "lost"
            with pytest.raises(RuntimeError, match="Every engine has failed"):
                replica.check_health()
        finally:
            await replica._serve_asgi_lifespan.shutdown()

    with configured_logs():
        asyncio.run(run())


def test_a_replica_without_a_model_says_why() -> None:
    """As an exception: Ray takes a SystemExit for an orderly end."""
    with configured_logs(), pytest.raises(RuntimeError, match="no model file"):
        asyncio.run(replica_of({"model": "missing.onnx"}).__init__())


@contextmanager
def configured_logs() -> Iterator[None]:
    """What replicas set up in their processes is taken back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level


# --- Ray Data


def photos(folder: Path, count: int) -> Path:
    """Pictures in two folders and one that is none, besides files that are left out."""
    rng = np.random.default_rng(0)
    (folder / "kitchen").mkdir(parents=True)
    for k in range(count):
        pixels = rng.integers(0, 256, (8 + k % 3, 12, 3), dtype=np.uint8).repeat(100, 0).repeat(100, 1)
        name = f"{k}.JPG" if k % 2 else f"kitchen/{k}.b.png"
        (folder / name).write_bytes(encode(pixels, "JPEG" if k % 2 else "PNG"))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(100))
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(PICTURE)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


def test_batch_is_killed_and_goes_on_to_what_segdepth_predict_writes(tiny_model: Path, tmp_path: Path) -> None:
    source, target, expected = photos(tmp_path / "photos", BATCH), tmp_path / "ours", tmp_path / "expected"
    options = ["--output", "depth", "--model", BATCH_MODEL or str(tiny_model)]
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "predict", str(source), "--out", str(expected), *options],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=START_S,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # for the broken one
    assert len(files(expected)) == BATCH

    output = tmp_path / "output"
    command = ["batch", str(source), str(target), *options, "--replicas", "2"]
    # Batches of two, so that most pictures are not under way yet when it is killed.
    process = driver(*command, output=output, SEGDEPTH_MAX_BATCH="1")
    until = time.monotonic() + START_S
    while len(list(target.rglob("*.depth.png"))) < BATCH // 10:
        assert process.poll() is None and time.monotonic() < until, output.read_text()
        time.sleep(0.01)
    process.kill()
    process.wait()
    # Its children end by themselves, and may write what they have in their hands.
    written: dict[str, int] = {}
    while written != (now := {str(path): path.stat().st_mtime_ns for path in target.rglob("*.depth.png")}) or not now:
        written = now
        time.sleep(3)
    assert set(files(target).items()) < set(files(expected).items())
    print(f"killed with {len(written)} of {BATCH} answers written")

    process = driver(*command, output=output)
    assert process.wait(START_S) == 1, output.read_text()
    assert "broken.jpg: " in output.read_text()
    assert files(target) == files(expected)
    assert {path: Path(path).stat().st_mtime_ns for path in written} == written
    assert not list(target.rglob("*.part"))


def test_predict_in_this_process(tiny_model: Path, tmp_path: Path) -> None:
    """What an actor of Ray Data does with a batch."""
    source, target, expected = photos(tmp_path / "photos", 5), tmp_path / "ours", tmp_path / "expected"
    options = ["--out", str(expected), "--output", "mask", "--model", str(tiny_model)]
    settings = Settings(model=tiny_model, log_level="error")
    with configured_logs():
        with pytest.raises(SystemExit):  # for the broken one
            cli.main(["predict", str(source), *options])
        predict = Predict(settings, str(source), target.as_uri(), "mask", Options())
        names = ["1.JPG", "kitchen/0.b.png", "kitchen/2.b.png", "3.JPG", "kitchen/4.b.png", "broken.jpg", "gone.jpg"]
        answered = predict({"name": np.array(names)})
    assert answered["name"] == names
    assert answered["problem"][:5] == [""] * 5
    assert all(answered["problem"][5:])
    assert files(target) == files(expected)
    assert len(files(target)) == 5


def test_an_answer_whose_name_is_too_long_stops_no_other(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    names = ["x" * 250 + ".jpg", "a.jpg"]
    for name in names:
        (tmp_path / "photos" / name).write_bytes(PICTURE)
    settings = Settings(model=tiny_model, log_level="error")
    with configured_logs():
        predict = Predict(settings, str(tmp_path / "photos"), str(tmp_path / "masks"), "mask", Options())
        long, short = predict({"name": np.array(names)})["problem"]
        assert "too long" in long and short == ""
        assert list(files(tmp_path / "masks")) == ["a.mask.png"]

        def full(*args: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Folder, "write", full)
        with pytest.raises(OSError, match="No space"):  # So it would be with all of them.
            predict({"name": np.array(["a.jpg"])})


@pytest.mark.parametrize(("given", "at_once"), [({}, 1), ({"max_batch": 4}, 4)])
def test_answers_do_not_depend_on_their_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], at_once: int
) -> None:
    handed: list[Settings] = []

    class Data:
        def map_batches(self, *_: Any, fn_constructor_args: tuple[Any, ...], **__: Any) -> Data:
            handed.append(fn_constructor_args[0])
            return self

        def iter_rows(self) -> list[Any]:
            return []

    monkeypatch.setattr(ray_batch.ray.data, "from_items", lambda *_, **__: Data())
    source = photos(tmp_path / "photos", 2)
    assert ray_batch.run(str(source), str(tmp_path / "out"), "mask", Options(), Settings(**given), 1) == {}
    assert [settings.max_batch for settings in handed] == [at_once]


def test_an_actor_without_a_model_says_why(tmp_path: Path) -> None:
    with configured_logs(), pytest.raises(RuntimeError, match="no model file"):
        Predict(Settings(model=tmp_path / "missing.onnx"), str(tmp_path), str(tmp_path), "mask", Options())


def test_what_is_missing(tmp_path: Path) -> None:
    source, target = Folder(str(photos(tmp_path / "photos", 3))), Folder((tmp_path / "masks").as_uri())
    (tmp_path / "photos" / "self").symlink_to(tmp_path / "photos", target_is_directory=True)
    (tmp_path / "photos" / "linked.jpg").symlink_to(tmp_path / "photos" / "1.JPG")
    assert "linked.jpg" in missing(source, target, "mask")
    (tmp_path / "photos" / "linked.jpg").unlink()
    assert missing(source, target, "mask") == ["1.JPG", "broken.jpg", "kitchen/0.b.png", "kitchen/2.b.png"]
    target.write("kitchen/0.b.mask.png", b"a")
    (tmp_path / "masks" / ".1.mask.png.part").write_bytes(b"half")
    assert (tmp_path / "masks" / "kitchen" / "0.b.mask.png").read_bytes() == b"a"
    assert missing(source, target, "mask") == ["1.JPG", "broken.jpg", "kitchen/2.b.png"]
    assert len(missing(source, target, "coco")) == 4
    size = len((tmp_path / "photos" / "1.JPG").read_bytes())
    assert len(source.read("1.JPG", size)) == size
    with pytest.raises(OSError, match=f"more than {size - 1} bytes"):
        source.read("1.JPG", size - 1)


def test_actors_are_told_of_files_from_wherever_they_run(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "photos", 2)
    shutil.copy(tiny_model, tmp_path / "rooms.onnx")
    monkeypatch.chdir(tmp_path)
    given: list[Any] = []

    class Rows:
        def map_batches(self, _: object, fn_constructor_args: tuple[Any, ...], **__: Any) -> Rows:
            given.extend(fn_constructor_args)
            return self

        def iter_rows(self) -> list[dict[str, str]]:
            return []

    monkeypatch.setattr(ray_batch.ray.data, "from_items", lambda *_, **__: Rows())
    ray_batch.run("photos", "masks", "mask", Options(), Settings(model=Path("rooms.onnx")), 1)
    settings, source, target, *_ = given
    assert (source, target) == (str(tmp_path / "photos"), str(tmp_path / "masks"))
    assert settings.model == tmp_path / "rooms.onnx"


def test_nothing_is_started_without_sense(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(StartupError, match="there are no pictures"):
        missing(Folder(str(tmp_path / "photos")), Folder(str(tmp_path / "masks")), "mask")
    for name in ("a.jpg", "a.png"):
        (tmp_path / "photos" / name).write_bytes(PICTURE)
    with pytest.raises(StartupError, match=r"a\.jpg and a\.png would both be answered in a\.mask\.png"):
        missing(Folder(str(tmp_path / "photos")), Folder(str(tmp_path / "masks")), "mask")
    with pytest.raises(StartupError, match="among the pictures"):
        missing(Folder(str(tmp_path / "photos")), Folder(str(tmp_path / "photos" / "masks")), "mask")
    with pytest.raises(StartupError, match="cannot use nowhere://photos"):
        Folder("nowhere://photos")
    for wrong in (
        ["--output", "unreliable"],
        ["--min-confidence", "50"],
        ["--min-confidence", "nan"],
        ["--replicas", "0"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(tmp_path), str(tmp_path / "masks"), *wrong])
        assert ended.value.code == 2
