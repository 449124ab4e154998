"""service/client.py: against a real server, and against one that refuses, breaks off, hangs and talks nonsense."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import trimesh
from PIL import ExifTags, Image
from service_client import encode, opened, quadrants
from service_process import ROOT, Server, start

from benchmarks.common import free_port
from service import client as client_module
from service import client_errors, errors, images
from service.client import (
    AsyncClient,
    BodyTooLarge,
    BrokenImage,
    Client,
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    NotReachable,
    NotUnderstood,
    Overloaded,
    Prediction,
    Problem,
    TimedOut,
    Unauthorized,
    Unavailable,
    UnsupportedImage,
    upload_of,
)
from service.rgb import to_rgb

EXAMPLES = [
    code
    for document in ("README.md", "docs/client.md")
    for code in re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    if "service.client" in code
]
PICTURE = encode(quadrants())
RED = encode(np.full((20, 30, 3), (255, 0, 0), np.uint8))


# --- a server that can be told what to do


@dataclass
class Scripted:
    """Each request takes the next step of `steps`; without any it goes to `behind`."""

    url: str
    behind: str
    steps: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    seen: list[tuple[float, Any]] = field(default_factory=list)
    """Time and headers of each request."""


@contextmanager
def scripted(behind: str = "") -> Iterator[Scripted]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            script.seen.append((time.monotonic(), self.headers))
            if script.steps:
                script.steps.pop(0)(self)
                return
            passed = ("content-type", "x-request-timeout-ms")
            headers = {name: self.headers[name] for name in passed if name in self.headers}
            answer = httpx.post(script.behind + self.path, content=body, headers=headers, timeout=20)
            names = ("Content-Type", "X-Request-ID", "Retry-After")
            send(
                self, answer.status_code, answer.content, **{n: answer.headers[n] for n in names if n in answer.headers}
            )

        def log_message(self, *_: Any) -> None:
            pass

    class Httpd(ThreadingHTTPServer):
        daemon_threads = True

    with Httpd(("127.0.0.1", 0), Handler) as httpd:
        script = Scripted(f"http://127.0.0.1:{httpd.server_address[1]}", behind)
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield script
        finally:
            httpd.shutdown()
            thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def problem(kind: str, status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    body = (
        f'{{"type": "urn:segdepth:problem:{kind}", "title": "T", "status": {status}, "detail": "D", '
        '"request_id": "r1", "more": 5}'
    ).encode()
    return lambda handler: send(handler, status, body, Content_Type="application/problem+json", **headers)


def plain(status: int, body: bytes = b"hello", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, status, body, **headers)


def of_the_balancer(handler: BaseHTTPRequestHandler) -> None:
    """The 502 of deploy/compose, to an upload that was on a replica as that was killed."""
    config = (Path(__file__).parents[1] / "deploy/compose/haproxy/haproxy.cfg").read_text()
    found = re.search(r"""http-error status 502 content-type (\S+) string '([^']+)'""", config)
    assert found
    send(handler, 502, found[2].encode(), Content_Type=found[1])


def break_off(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def hang(handler: BaseHTTPRequestHandler, before_s: float = 0.0) -> None:
    """Headers and a first byte after `before_s`, if that is anything, and then nothing."""
    if before_s:
        time.sleep(before_s)
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"x")
        handler.wfile.flush()
    handler.rfile.read(1)  # Until the client closes the connection.
    handler.close_connection = True


BOTH = pytest.mark.parametrize("kind", ["sync", "async"])


def predict(kind: str, url: str, picture: Any = PICTURE, options: Any = None, **settings: Any) -> Prediction:
    if kind == "sync":
        with Client(url, **settings) as client:
            return client.predict(picture, **(options or {}))

    async def ask() -> Prediction:
        async with AsyncClient(url, **settings) as client:
            return await client.predict(picture, **(options or {}))

    return asyncio.run(ask())


def predict_many(kind: str, url: str, pictures: Any, at_once: int) -> list[Prediction | Problem]:
    if kind == "sync":
        with Client(url) as client:
            return list(client.predict_many(pictures, at_once=at_once))

    async def ask() -> list[Prediction | Problem]:
        async with AsyncClient(url) as client:
            return [one async for one in client.predict_many(pictures, at_once=at_once)]

    return asyncio.run(ask())


# --- what it is made of


def test_it_imports_no_torch_and_no_onnxruntime() -> None:
    code = (
        "import sys, service.client; found = {'torch', 'onnxruntime', 'openvino', 'fastapi'} & set(sys.modules); "
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_problem_of_the_server_has_its_exception() -> None:
    def below(parent: Any) -> list[Any]:
        return [one for child in parent.__subclasses__() for one in (child, *below(child))]

    def tree(parent: Any) -> dict[str, tuple[str, str]]:
        return {one.__name__: (one.kind, one.__bases__[0].__name__) for one in below(parent)}

    assert tree(client_errors.Problem) == tree(errors.Problem)
    assert set(tree(errors.Problem)) <= set(client_module.__all__)
    drawn = re.findall(r"[├└]── (\w+)", client_errors.__doc__ or "")
    assert set(tree(errors.Problem)) == set(drawn) - {"NotReachable", "TimedOut", "NotUnderstood", "Problem"}


# --- predictions


@BOTH
def test_maps_are_those_of_the_server(server: Server, kind: str) -> None:
    room = predict(kind, server.url, options={"fx": 80, "fy": 79, "cx": 30, "cy": 20})
    query = "fx=80&fy=79&cx=30&cy=20"
    npz = np.load(io.BytesIO(httpx.post(f"{server.url}/predict?output=npz&{query}", content=PICTURE).content))
    assert (room.labels.dtype, room.depth.dtype, room.confidence.dtype) == (np.uint8, np.float32, np.float32)
    assert np.array_equal(room.labels, npz["labels"])
    assert np.array_equal(room.depth, npz["depth"], equal_nan=True)
    assert np.array_equal(room.confidence, npz["confidence"])
    assert np.array_equal(room.camera.matrix, npz["intrinsics"]) and room.camera.source == "request"
    assert (room.height, room.width) == (48, 64)

    answer = httpx.post(f"{server.url}/predict?pictures=false&{query}", content=PICTURE).json()
    assert [c.name for c in room.classes] == [c["name"] for c in answer["segmentation"]["classes"]]
    assert [c.name for c in room.classes] == ["red", "green", "blue", "white"]
    assert [c.color for c in room.classes] == [tuple(c["color"]) for c in answer["segmentation"]["classes"]]
    assert [c.nearest and c.nearest.depth_m for c in room.classes] == [1.02, 1.02, 1.02, 3.06]
    assert room.model.name == "tiny" and room.model.provider == "CPUExecutionProvider"
    assert set(room.timing_ms) == {"decode", "queue", "infer", "encode", "total"}
    assert room.request_id
    assert [tuple(room.colors[c.id]) for c in room.classes] == [c.color for c in room.classes]


def test_arrays_may_be_written_to(server: Server) -> None:
    room = predict("sync", server.url)
    room.labels[0, 0] = 3
    room.depth[0, 0] = 1.0
    assert room.labels[0, 0] == 3 and room.depth[0, 0] == 1.0


def test_invalid_depth_is_nan(server: Server) -> None:
    black = quadrants()
    black[:24] = 0
    room = predict("sync", server.url, black)
    assert np.isnan(room.depth[:24]).all() and not np.isnan(room.depth[24:]).any()
    cloud = room.point_cloud()
    assert len(cloud.xyz) == 24 * 64 and (cloud.xyz[:, 2] > 1).all()


@BOTH
def test_kinds_of_pictures(server: Server, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "room.png"
    path.write_bytes(PICTURE)
    expected = predict(kind, server.url, PICTURE)
    with path.open("rb") as file:
        for picture in (path, str(path), bytearray(PICTURE), file, opened(PICTURE), quadrants()):
            room = predict(kind, server.url, picture)
            assert np.array_equal(room.labels, expected.labels)
            assert np.array_equal(room.depth, expected.depth, equal_nan=True)
            assert np.array_equal(room.picture, quadrants())


def test_a_pil_image_keeps_its_orientation_and_its_focal_length(server: Server) -> None:
    image = Image.fromarray(quadrants())
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 26
    photo = encode(image, "JPEG", exif=exif, quality=100, subsampling=0)
    by_file, by_image = predict("sync", server.url, photo), predict("sync", server.url, opened(photo))
    assert by_file.labels.shape == (64, 48) and by_file.camera.source == "exif"
    assert by_image.camera == by_file.camera
    assert np.array_equal(by_image.labels, by_file.labels)
    assert by_image.picture.shape == by_file.picture.shape == (64, 48, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "RGBa"])
def test_pil_images_of_every_mode_are_sent(server: Server, mode: str) -> None:
    white = np.full((48, 64), 65535, np.uint16)
    image = Image.fromarray(white) if mode == "I;16" else Image.fromarray(quadrants()).convert(mode)
    room = predict("sync", server.url, image)
    assert room.labels.shape == (48, 64) and room.labels[47, 63] == 7  # white


@pytest.mark.parametrize("mode", ["I;16B", "RGBa", "PA"])
def test_what_a_png_cannot_hold_is_sent_as_the_server_would_see_it(tmp_path: Path, mode: str) -> None:
    if mode == "I;16B":  # As Pillow reads a TIFF of 16 bits from a big-endian machine.
        grey = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(">u2")
        image = Image.frombytes("I;16B", (64, 48), grey.tobytes())
    else:
        image = Image.fromarray(quadrants()).convert("RGBA" if mode == "RGBa" else mode)
        image.putalpha(Image.linear_gradient("L").resize((64, 48)))
        image = image.convert(mode)
    assert image.mode == mode
    sent = Image.open(io.BytesIO(upload_of(image)))
    assert np.array_equal(np.asarray(to_rgb(sent)), np.asarray(to_rgb(image)))
    assert 0 < np.asarray(to_rgb(sent)).mean() < 250


@pytest.mark.parametrize(
    ("picture", "error"),
    [
        ("no such file.jpg", FileNotFoundError),
        (np.zeros((4, 4), np.uint8), ValueError),
        (np.zeros((4, 4, 4), np.uint8), ValueError),
        (np.zeros((4, 4, 3), np.float32), ValueError),
        (5, TypeError),
        (io.StringIO("text"), TypeError),
    ],
)
@BOTH
def test_what_is_no_picture(kind: str, picture: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        predict(kind, "http://127.0.0.1:9", picture)


def test_picture_is_what_the_server_sees(server: Server) -> None:
    rgba = np.dstack([quadrants(), np.full((48, 64), 100, np.uint8)])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    for data in (
        encode(Image.fromarray(rgba)),
        encode(quadrants(), "JPEG", exif=exif),
        encode(Image.fromarray(quadrants()).convert("P")),
        encode(np.full((20, 30), 40000, np.uint16)),
        encode(Image.fromarray(quadrants()), "GIF"),
        encode(Image.fromarray(np.arange(600, dtype=np.int32).reshape(20, 30) * 100), "TIFF"),
        encode(Image.fromarray(np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)), "TIFF"),
    ):
        room = predict("sync", server.url, data)
        assert np.abs(room.picture.astype(int) - images.decode(data, 10_000)).max() <= 1


def test_mask_and_overlay_are_those_of_the_server(server: Server) -> None:
    room = predict("sync", server.url)
    with Client(server.url) as client:
        mask, overlay = opened(client.download(PICTURE, "mask")), opened(client.download(PICTURE, "overlay"))
    assert room.mask().mode == mask.mode == "P"
    assert np.array_equal(np.asarray(room.mask()), np.asarray(mask))
    assert np.array_equal(np.asarray(room.mask().convert("RGB")), np.asarray(mask.convert("RGB")))
    assert np.array_equal(np.asarray(room.overlay()), np.asarray(overlay))
    assert np.array_equal(np.asarray(room.overlay(0.0)), quadrants())


@pytest.mark.parametrize(
    ("ours", "query"),
    [
        ({}, {}),
        ({"color": "class"}, {"color": "class"}),
        ({"max_points": 500}, {"max_points": 500}),
        ({"min_confidence": 0.9}, {"min_confidence": 0.9}),
    ],
)
def test_points_are_those_of_the_server(server: Server, ours: Any, query: Any) -> None:
    picture = quadrants()
    picture[:10, :10] = 200
    camera = {"fx": 80.0, "fy": 79.0, "cx": 30.0, "cy": 20.0}
    with Client(server.url) as client:
        cloud = client.predict(picture, **camera).point_cloud(**ours)
        ply = trimesh.load(io.BytesIO(client.download(picture, "ply", **camera, **query)), file_type="ply")
    assert 0 < len(cloud.xyz) == len(ply.vertices)
    assert np.array_equal(cloud.xyz, np.asarray(ply.vertices, np.float32))
    assert np.array_equal(cloud.rgb, np.asarray(ply.colors)[:, :3])
    assert cloud.xyz.dtype == np.float32 and cloud.rgb.dtype == cloud.labels.dtype == np.uint8
    with pytest.raises(ValueError, match="max_points"):
        predict("sync", server.url).point_cloud(max_points=0)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pictures_of_an_unknown_range_are_refused(server: Server, mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode {mode}; convert it to 8 bits"):
        predict("sync", server.url, Image.new(mode, (64, 48)))


@BOTH
def test_downloads(server: Server, kind: str) -> None:
    expected = httpx.post(f"{server.url}/predict?output=unreliable&min_confidence=0.5", content=PICTURE).content
    if kind == "sync":
        with Client(server.url.removeprefix("http://")) as client:
            assert client.download(PICTURE, "unreliable", min_confidence=0.5) == expected
            assert b'"mask_png":null' in client.download(PICTURE, pictures=False)
        return

    async def ask() -> bytes:
        async with AsyncClient(server.url) as client:
            return await client.download(PICTURE, "unreliable", min_confidence=0.5)

    assert asyncio.run(ask()) == expected


# --- several pictures


@BOTH
def test_many_pictures_in_their_order(server: Server, kind: str) -> None:
    pictures = [RED, b"text", PICTURE, RED, PICTURE[:100], b""]
    found = predict_many(kind, server.url, iter(pictures), at_once=2)
    shapes = [one.labels.shape if isinstance(one, Prediction) else type(one) for one in found]
    assert shapes == [(20, 30), UnsupportedImage, (48, 64), (20, 30), BrokenImage, InvalidRequest]
    assert isinstance(found[1], Problem) and found[1].status == 415 and found[1].request_id
    assert isinstance(found[2], Prediction) and np.array_equal(found[2].picture, quadrants())
    assert predict_many(kind, server.url, [], at_once=2) == []
    with pytest.raises(ValueError, match="at_once"):
        predict_many(kind, server.url, [RED], at_once=0)


@BOTH
def test_one_for_which_there_was_no_place_is_sent_again(server: Server, kind: str) -> None:
    with scripted(server.url) as script:
        answered = httpx.post(f"{server.url}/predict?output=zip", content=PICTURE).content
        refused = b'{"type": "urn:segdepth:problem:overloaded", "title": "T", "status": 503, "detail": "D"}'
        parts = b"".join(
            b"--b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b\r\n" % (type_, len(body), body)
            for type_, body in ((b"application/zip", answered), (b"application/problem+json", refused))
        )
        script.steps = [plain(200, parts + b"--b--\r\n", Content_Type="multipart/mixed; boundary=b")]
        first, second = predict_many(kind, script.url, [PICTURE, RED], at_once=8)
    assert isinstance(first, Prediction) and first.labels.shape == (48, 64)
    assert isinstance(second, Prediction) and second.labels.shape == (20, 30)
    assert len(script.seen) == 2


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"hello", "multipart/mixed; boundary=b"),
        (b"--b\r\nContent-Type: a/b\r\n\r\nx\r\n--b--", "multipart/mixed; boundary=b"),
        (b"--b--", "multipart/mixed; boundary=b"),
        (b"--b--", "text/plain"),
        (b"--b\r\nContent-Type: application/zip\r\nContent-Length: 1\r\n\r\nx\r\n--b--", "multipart/mixed; boundary=b"),
    ],
)
def test_batches_of_another_server(body: bytes, content_type: str) -> None:
    with scripted() as script:
        script.steps = [plain(200, body, Content_Type=content_type)]
        with pytest.raises(NotUnderstood):
            predict_many("sync", script.url, [PICTURE], at_once=8)


@BOTH
@pytest.mark.parametrize(
    ("most", "requests"),
    # As many of these files as one request may hold. Of half a one each is too large, and is sent all the same.
    [(5.0, 1), (3.0, 2), (2.0, 3), (1.9, 5), (0.5, 5)],
)
def test_requests_are_bounded_in_bytes(
    server: Server, kind: str, most: float, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MANY_BYTES", int(most * len(RED)))
    with scripted(server.url) as script:
        found = predict_many(kind, script.url, [RED] * 5, at_once=8)
    assert [one.labels.shape for one in found if isinstance(one, Prediction)] == [(20, 30)] * 5
    assert len(script.seen) == requests


# --- errors and further attempts


@BOTH
def test_problems_have_their_class_and_say_why(server: Server, kind: str) -> None:
    with pytest.raises(UnsupportedImage, match="not a picture") as caught:
        predict(kind, server.url, b"Hello, this is a text.")
    assert (caught.value.status, caught.value.kind) == (415, "unsupported-image")
    assert caught.value.request_id and caught.value.retry_after_s is None
    with pytest.raises(InvalidRequest, match="hfov"):
        predict(kind, server.url, options={"fx": 50, "hfov": 70})
    with pytest.raises(BodyTooLarge):
        predict(kind, server.url, bytes(3_000_001))


@BOTH
def test_503_is_tried_again_when_the_server_says(server: Server, kind: str) -> None:
    with scripted(server.url) as script:
        script.steps = [problem("overloaded", 503, Retry_After="1"), problem("not-ready", 503, Retry_After="0")]
        room = predict(kind, script.url, timeout_s=20.0)
    assert room.labels.shape == (48, 64)
    first, second, third = (at for at, _ in script.seen)
    assert 1.0 <= second - first < 2.5 and third - second < 1.0
    budgets = [int(headers["X-Request-Timeout-Ms"]) for _, headers in script.seen]
    assert 19_000 < budgets[0] <= 20_000 and budgets[1] <= budgets[0] - 1000 and budgets[2] <= budgets[1]


@BOTH
def test_a_server_is_not_asked_for_more_time_than_it_grants(kind: str) -> None:
    with scripted() as script:
        script.steps = [problem("deadline-exceeded", 504)]
        with pytest.raises(DeadlineExceeded):
            predict(kind, script.url, timeout_s=600.0)
    assert [headers["X-Request-Timeout-Ms"] for _, headers in script.seen] == ["120000"]


@pytest.mark.parametrize(("drawn", "longer"), [(0.0, 1.0), (0.8, 1.2)])
def test_pauses_double_and_are_spread(drawn: float, longer: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.client.random.random", lambda: drawn)
    attempts = client_module._Attempts("http://localhost:8000", timeout_s=600.0, retries=8)
    refused = NotReachable("connection refused")
    pauses = [attempts.pause_after(refused) for _ in range(4)]
    # What the server says goes first; it is spread, too.
    pauses.append(attempts.pause_after(Overloaded("busy", status=503, retry_after_s=10.0)))
    pauses += [attempts.pause_after(refused) for _ in range(3)]
    assert pauses == pytest.approx([longer * s for s in (0.25, 0.5, 1.0, 2.0, 10.0, 4.0, 4.0, 4.0)])


@BOTH
def test_broken_connections_and_a_proxys_502_are_tried_again(server: Server, kind: str) -> None:
    with scripted(server.url) as script:
        script.steps = [break_off, plain(502), of_the_balancer, break_off]
        assert predict(kind, script.url, retries=4).labels.shape == (48, 64)
    assert len(script.seen) == 5


@BOTH
def test_attempts_end(kind: str) -> None:
    with scripted() as script:
        script.steps = [problem("overloaded", 503, Retry_After="0")] * 3
        with pytest.raises(Overloaded) as caught:
            predict(kind, script.url, retries=2)
    assert len(script.seen) == 3
    assert (caught.value.detail, caught.value.title, caught.value.request_id) == ("D", "T", "r1")
    assert caught.value.members == {"more": 5} and caught.value.retry_after_s == 0


@BOTH
def test_nobody_waits_longer_than_there_is_time(kind: str) -> None:
    """The server wants a longer pause than is left: its problem is raised at once."""
    with scripted() as script:
        script.steps = [problem("engines-lost", 503, Retry_After="300")]
        before = time.monotonic()
        with pytest.raises(Unavailable):
            predict(kind, script.url, timeout_s=40.0)
        assert time.monotonic() - before < 30 and len(script.seen) == 1


@BOTH
def test_an_upload_that_takes_long(kind: str) -> None:
    """The server takes what comes, ten megabytes a second."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def take_slowly() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                while not ended.is_set() and connection.recv(100_000):
                    time.sleep(0.01)

        server = threading.Thread(target=take_slowly)
        server.start()
        before = time.monotonic()
        with pytest.raises(TimedOut):
            predict(kind, f"http://127.0.0.1:{listening.getsockname()[1]}", bytes(10**8), timeout_s=0.5, retries=0)
        assert time.monotonic() - before < 5
        ended.set()
        server.join()


def test_what_a_prediction_says_of_itself(server: Server) -> None:
    room = predict("sync", server.url)
    assert len(repr(room)) < 3000 and "upload" not in repr(room)
    room.picture[0] = 0  # Like the other arrays it may be written to.


@BOTH
def test_nobody_listens(kind: str) -> None:
    port = free_port()
    with pytest.raises(NotReachable, match=f"no answer from http://127.0.0.1:{port}: ") as caught:
        predict(kind, f"http://me:secret@127.0.0.1:{port}", retries=1)
    assert isinstance(caught.value, ConnectionError) and isinstance(caught.value, ClientError)


@BOTH
@pytest.mark.parametrize(("before_s", "timeout_s"), [(0.0, 1.0), (3.0, 4.0)])
def test_a_server_that_hangs(kind: str, before_s: float, timeout_s: float) -> None:
    """Before its headers, and in the middle of its body: then there is one time for both, not one for each."""
    with scripted() as script:
        script.steps = [lambda handler: hang(handler, before_s)]
        before = time.monotonic()
        with pytest.raises(TimedOut, match=f"no answer from .* within {timeout_s:g} s") as caught:
            predict(kind, script.url, timeout_s=timeout_s)
        assert timeout_s - 0.1 < time.monotonic() - before < timeout_s + 2.5
    assert isinstance(caught.value, TimeoutError)


@BOTH
def test_a_server_that_gives_up_in_time(kind: str) -> None:
    with scripted() as script:
        script.steps = [problem("deadline-exceeded", 504)]
        with pytest.raises(DeadlineExceeded):
            predict(kind, script.url)
    with pytest.raises(ValueError, match="timeout_s"):
        predict(kind, script.url, timeout_s=0.0)


@pytest.mark.parametrize(
    ("step", "error", "said"),
    [
        (plain(404), NotUnderstood, "404 Not Found"),
        (plain(200), NotUnderstood, "not what a segdepth server gives"),
        (plain(301, Location="http://127.0.0.1:9/"), NotUnderstood, "301"),
        (plain(500, b"[]", Content_Type="application/problem+json"), NotUnderstood, "RFC 9457"),
        (plain(500, b"{}", Content_Type="application/problem+json"), NotUnderstood, "RFC 9457"),
        (problem("of-tomorrow", 418), Problem, "D"),
        (problem("of-tomorrow", 503, Retry_After="Sat, 21 Nov 2026 15:00:00 GMT"), Unavailable, "D"),
    ],
)
def test_other_answers(step: Any, error: type[Exception], said: str) -> None:
    with scripted() as script:
        script.steps = [step]
        with pytest.raises(error, match=said) as caught:
            predict("sync", script.url, retries=0)
    if isinstance(caught.value, Problem):
        assert caught.value.kind == "of-tomorrow" and caught.value.retry_after_s is None


def test_an_address_that_is_none() -> None:
    for client in (Client, AsyncClient):
        with pytest.raises(ValueError, match=r"'http://\[::1' is not an address"):
            client("http://[::1")
        with pytest.raises(ValueError, match="'ftp://localhost' is not an address of HTTP"):
            client("ftp://localhost")


@BOTH
def test_api_key(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    with scripted() as script:
        script.steps = [problem("unauthorized", 401), problem("unauthorized", 401)]
        for key in (None, "k"):
            with pytest.raises(Unauthorized):
                predict(kind, script.url, api_key=key)
    assert [headers["Authorization"] for _, headers in script.seen] == [None, "Bearer k"]


# --- the examples, and a restart


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_run_while_the_server_refuses_and_breaks_off(
    server: Server, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = sorted((ROOT / "examples" / "images").glob("*.jpg"))[:3]
    shutil.copy(photos[0], "room.jpg")
    Path("photos").mkdir()
    for photo in photos:
        shutil.copy(photo, "photos")
    with scripted(server.url) as script:
        script.steps = [problem("overloaded", 503, Retry_After="1"), break_off, plain(502)]
        names: dict[str, Any] = {}
        code = EXAMPLES[number].replace("http://127.0.0.1:8000", script.url)
        assert code != EXAMPLES[number]
        exec(compile(code, f"example {number}", "exec"), names)
        assert not script.steps
    rooms = names["rooms"] if "rooms" in names else [names["room"]]
    assert [room.labels.shape for room in rooms] == [(480, 640)] * len(rooms)
    if "points" in names:
        assert len(names["points"].xyz) == np.isfinite(names["room"].depth).sum() > 0
        assert opened(Path("overlay.png").read_bytes()).size == (640, 480)


def test_both_examples_are_there() -> None:
    assert ["AsyncClient" in code for code in EXAMPLES] == [False, False, True]


def test_a_restart_in_between(tiny_model: Path) -> None:
    """A real server ends in the middle of the client's life; calls go on when it is there again."""
    port = str(free_port())
    answers: list[Any] = []

    def ask(client: Client) -> None:
        try:
            answers.append(client.predict(PICTURE))
        except ClientError as error:
            answers.append(error)

    with Client(f"http://127.0.0.1:{port}", timeout_s=120.0, retries=100) as client:
        with start("--model", str(tiny_model), "--port", port) as server:
            server.wait_ready()
            assert client.predict(PICTURE).labels.shape == (48, 64)
            server.stop()
        waiting = threading.Thread(target=ask, args=(client,))
        waiting.start()
        time.sleep(0.6)  # It is refused at least once.
        assert waiting.is_alive()
        # Not waited for: the client is refused while the model is being loaded.
        with start("--model", str(tiny_model), "--port", port):
            waiting.join(120)
            assert [type(answer) for answer in answers] == [Prediction], answers
