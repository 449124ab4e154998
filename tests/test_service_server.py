"""A real server process with a tiny model: every row of the bad-input table, starts that fail, stops."""

from __future__ import annotations

import base64
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from service_client import HEIC, check_problem, encode, opened, quadrants
from service_onnx import card, write_model
from service_process import ROOT, SERVE, Server, run_to_end, start

from service.version import __version__

PICTURE = encode(quadrants())
RED, BLUE = Image.new("RGB", (64, 48), (255, 0, 0)), Image.new("RGB", (64, 48), (0, 0, 255))
NOISE = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)


def check_alive(server: Server) -> None:
    """The server answers an honest request as it should."""
    response = httpx.post(f"{server.url}/predict", content=PICTURE, timeout=20)
    assert response.status_code == 200
    assert [c["id"] for c in response.json()["segmentation"]["classes"]] == [1, 2, 4, 7]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bomb() -> bytes:
    """A PNG of 20000 x 20000 pixels in less than 100 kB."""
    header = struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(2501 * 20000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def cut(format: str) -> bytes:
    data = encode(NOISE, format)
    return data[: len(data) // 2]


def damaged(format: str) -> bytes:
    data = bytearray(encode(NOISE, format))
    data[20:40] = b"\xff" * 20
    return bytes(data)


BAD = {
    "nothing": (b"", 422),
    "text": (b"Hello, this is a text.", 415),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", 415),
    "random bytes": (np.random.default_rng(1).bytes(5000), 415),
    "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', 415),
    **{f"truncated {f}": (cut(f), 422) for f in ("JPEG", "PNG", "WEBP")},
    **{f"corrupt {f}": (damaged(f), 422) for f in ("JPEG", "PNG", "WEBP")},
    "pixel bomb": (bomb(), 413),
    "over the pixel limit": (encode(np.zeros((1000, 2001), np.uint8)), 413),
    "over the byte limit": (bytes(3_000_001), 413),
    "far over the byte limit": (bytes(20_000_000), 413),
}


@pytest.mark.parametrize("form", ["raw", "multipart"])
@pytest.mark.parametrize("name", BAD)
def test_bad_bodies(server: Server, name: str, form: str) -> None:
    data, status = BAD[name]
    body: dict[str, Any] = {"content": data} if form == "raw" else {"files": {"file": ("a.png", data, "image/png")}}
    assert name != "pixel bomb" or len(data) < 100_000
    check_problem(httpx.post(f"{server.url}/predict", timeout=20, **body), status)
    check_alive(server)


def test_wrong_field_name(server: Server) -> None:
    check_problem(httpx.post(f"{server.url}/predict", files={"picture": ("a.png", PICTURE)}), 422)
    check_alive(server)


@pytest.mark.parametrize("form", ["raw", "multipart"])
@pytest.mark.parametrize("size", [3_000_001, 20_000_000])
def test_byte_limit_without_content_length(server: Server, size: int, form: str) -> None:
    def stream() -> Iterator[bytes]:
        if form == "multipart":
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        for _ in range(size // 50_000 + 1):
            yield bytes(50_000)

    headers = {"content-type": "multipart/form-data; boundary=x" if form == "multipart" else "image/png"}
    response = httpx.post(f"{server.url}/predict", content=stream(), headers=headers, timeout=20)
    check_problem(response, 413)
    check_alive(server)


def test_huge_content_length_is_answered_at_once(server: Server) -> None:
    for extra in ("", "Expect: 100-continue\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
            request = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n{extra}\r\n"
            since = time.perf_counter()
            client.sendall(request.encode() + b"ab")
            assert client.recv(100).startswith(b"HTTP/1.1 413 ")
            assert time.perf_counter() - since < 2
    check_alive(server)


def test_a_client_that_goes_in_the_middle_of_its_upload(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nab")
    check_alive(server)


GOOD = {
    "1x1": (encode(np.full((1, 1, 3), (255, 0, 0), np.uint8)), (1, 1), 1),
    "1x3000": (encode(np.full((3000, 1, 3), (0, 255, 0), np.uint8)), (3000, 1), 2),
    "3000x1": (encode(np.full((1, 3000, 3), (0, 0, 255), np.uint8)), (1, 3000), 4),
    "16-bit png": (encode(np.full((20, 30), 40000, np.uint16)), (20, 30), 7),
    "cmyk jpeg": (encode(Image.new("CMYK", (30, 20), (0, 255, 255, 0)), "JPEG"), (20, 30), 1),
    "grey and alpha png": (encode(Image.new("LA", (30, 20), (0, 0))), (20, 30), 7),
    "palette with transparency": (encode(Image.new("P", (30, 20), 0), transparency=0), (20, 30), 7),
    "animated gif": (encode(RED, "GIF", save_all=True, append_images=[BLUE]), (48, 64), 1),
    "animated webp": (encode(RED, "WEBP", save_all=True, append_images=[BLUE], lossless=True), (48, 64), 1),
    "bmp": (encode(BLUE, "BMP"), (48, 64), 4),
    "tiff": (encode(BLUE, "TIFF"), (48, 64), 4),
    "avif": (encode(RED, "AVIF"), (48, 64), 1),
}


@pytest.mark.parametrize("name", GOOD)
def test_unusual_pictures(server: Server, name: str) -> None:
    data, (height, width), class_id = GOOD[name]
    response = httpx.post(f"{server.url}/predict", content=data, timeout=20)
    assert response.status_code == 200, response.text
    body = response.json()
    assert (body["height"], body["width"]) == (height, width)
    assert [c["id"] for c in body["segmentation"]["classes"]] == [class_id]
    assert opened(base64.b64decode(body["depth"]["depth_png"])).size == (width, height)


def test_a_phone_s_heic(server: Server) -> None:
    body = httpx.post(f"{server.url}/predict", content=HEIC["turned"], timeout=20).json()
    assert (body["height"], body["width"]) == (48, 64)
    assert {found["id"] for found in body["segmentation"]["classes"]} == {1, 2, 4, 7}
    assert body["camera"]["source"] == "exif"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(server: Server, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(quadrants(60, 90))
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, "JPEG", exif=exif, quality=95)
    response = httpx.post(f"{server.url}/predict?output=mask", content=data, timeout=20)
    mask = np.asarray(opened(response.content))
    assert mask.shape == (60, 90)
    assert [mask[15, 22], mask[15, 67], mask[45, 22], mask[45, 67]] == [1, 2, 4, 7]


def test_unknown_output_path_and_method(server: Server) -> None:
    check_problem(httpx.post(f"{server.url}/predict?output=video", content=PICTURE), 422)
    check_problem(httpx.get(f"{server.url}/nothing"), 404)
    response = httpx.get(f"{server.url}/predict")
    check_problem(response, 405)
    assert response.headers["allow"] == "POST"
    check_alive(server)


def test_many_clients_at_once(server: Server) -> None:
    """Pictures of different sizes and colours at once; each answer belongs to its picture."""
    wrong: list[Any] = []

    def client(k: int) -> None:
        color = (255 * (k & 1), 255 * (k >> 1 & 1), 255 * (k >> 2))
        picture = encode(np.full((30 + k, 50, 3), color, np.uint8))
        for _ in range(4):
            body = httpx.post(f"{server.url}/predict", content=picture, timeout=30).json()
            if (body["height"], [c["id"] for c in body["segmentation"]["classes"]]) != (30 + k, [k]):
                wrong.append(body)

    threads = [threading.Thread(target=client, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- starts that fail


def check_refused(command: list[str], reason: str, **settings: str) -> None:
    code, stderr = run_to_end(command, **settings)
    assert code != 0
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("segdepth: ")
    assert reason in lines[0]


def wrong_model(name: str, folder: Path) -> Path:
    path = folder / "model.onnx"
    if name == "not onnx":
        path.write_bytes(b"hello" * 100)
    elif name == "no card":
        write_model(path, with_card=False)
    elif name == "wrong card":
        write_model(path, card_text='{"format": 1}')
    return path


WRONG_MODELS = {
    "missing": "no model file",
    "not onnx": "not an ONNX file",
    "no card": "no model card",
    "wrong card": "invalid model card: name",
}


@pytest.mark.parametrize("name", WRONG_MODELS)
def test_wrong_model_ends_the_process(tmp_path: Path, name: str) -> None:
    path = wrong_model(name, tmp_path)
    check_refused([*SERVE, "--port", "0", "--model", str(path)], WRONG_MODELS[name])


@pytest.mark.parametrize("name", WRONG_MODELS)
def test_wrong_model_ends_uvicorn(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "uvicorn", "--factory", "service.app:create_app", "--port", "0"]
    code, stderr = run_to_end(command, SEGDEPTH_MODEL=str(wrong_model(name, tmp_path)))
    assert code != 0
    assert "Traceback" not in stderr
    reasons = [line for line in stderr.splitlines() if line.startswith("segdepth: ")]
    assert len(reasons) == 1
    assert WRONG_MODELS[name] in reasons[0]


@pytest.mark.parametrize("how", ["segdepth", "uvicorn"])
def test_failing_in_the_background_ends_the_process(tmp_path: Path, how: str) -> None:
    """A model that can be opened but not run: this is found while the server already listens."""
    path = write_model(tmp_path / "model.onnx", card_text=json.dumps({**card(), "classes": card()["classes"][:3]}))
    uvicorn = [sys.executable, "-m", "uvicorn", "--factory", "service.app:create_app", "--port", "0"]
    code, stderr = run_to_end(
        [*SERVE, "--port", "0"] if how == "segdepth" else uvicorn,
        SEGDEPTH_MODEL=str(path),
        SEGDEPTH_LOG_LEVEL="warning",
    )
    assert code == 1
    assert "Traceback" not in stderr
    assert "segdepth: the model gives class 7, which its card does not have" in stderr.splitlines()


def test_port_taken(tiny_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        check_refused([*SERVE, "--port", str(port), "--model", str(tiny_model)], f"cannot listen on 127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("arguments", "settings", "reason"),
    [
        ([], {"SEGDEPTH_MAX_PIXEL": "5"}, "unknown setting SEGDEPTH_MAX_PIXEL"),
        ([], {"SEGDEPTH_MAX_PIXELS": "many"}, "SEGDEPTH_MAX_PIXELS"),
        (["--colour"], {}, "--colour"),
        (["--port", "no"], {}, "setting port"),
        (["--device", "tpu"], {}, "setting device (SEGDEPTH_DEVICE): 'tpu' is no device"),
        (["--device", "cuda"], {}, "cuda"),
        (["--host", "no.such.host.invalid"], {}, "cannot listen"),
        (["--host", "a..b"], {}, "cannot listen"),
        (
            [],
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_MAX_QUEUE_SIZE": "10"},
            "OpenTelemetry's variables are not right",
        ),
    ],
)
def test_unknown_settings(tiny_model: Path, arguments: list[str], settings: dict[str, str], reason: str) -> None:
    if reason == "cuda":
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this onnxruntime has CUDA")
        # The missing device is found while the server already listens, which is logged.
        settings = {"SEGDEPTH_LOG_LEVEL": "error"}
    check_refused([*SERVE, "--port", "0", "--model", str(tiny_model), *arguments], reason, **settings)


@pytest.mark.parametrize("first", ["import service.engine", "import deploy.export"])
def test_onnx_runtime_reports_nothing(tiny_model: Path, tmp_path: Path, first: str) -> None:
    """What it would report waits in a file of the home, beside the machine's identifier."""

    def files_after(first: str, home: str) -> list[Path]:
        load = f"{first}; import onnxruntime; onnxruntime.InferenceSession({str(tiny_model)!r})"
        environment = {"HOME": str(tmp_path / home), "PYTHONPATH": str(ROOT)}
        (tmp_path / home).mkdir()
        subprocess.run([sys.executable, "-c", load], env=environment, cwd=ROOT, check=True, timeout=120)
        return sorted((tmp_path / home / ".cache" / "Microsoft").rglob("*.db"))

    if not files_after("pass", "plain"):
        pytest.skip("this onnxruntime reports nothing by itself")
    assert files_after(first, "ours") == []


def test_version() -> None:
    done = subprocess.run([*SERVE[:-1], "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"segdepth {__version__}\n"


@pytest.mark.parametrize("seconds", [1, 3])
def test_an_idle_connection_is_kept_as_long_as_is_said(tiny_model: Path, seconds: int) -> None:
    with start("--model", str(tiny_model), SEGDEPTH_KEEP_ALIVE_S=str(seconds)) as server:
        server.wait_ready()
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b"".join(iter(lambda: client.recv(1), b"}"))
            since = time.perf_counter()
            assert received.endswith(b'{"status":"live"')
            assert client.recv(1) == b""
            assert seconds - 0.2 < time.perf_counter() - since < seconds + 1.8


# --- stops


def test_sigterm_ends_accepted_work_and_exits_with_0(tiny_model: Path) -> None:
    with start("--model", str(tiny_model)) as server:
        server.wait_ready()
        large = encode(np.full((1500, 2000, 3), (255, 0, 0), np.uint8), compress_level=1)
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(
                f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(large)}\r\n\r\n".encode() + large
            )
            # Connections are accepted in their order, so that one is. 3 Mpx take longer to decode, and to encode.
            assert httpx.get(f"{server.url}/health/live").status_code == 200
            code, output = server.stop()
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert code == 0, output
        assert "Traceback" not in output
