"""`segdepth predict`: what it finds, that its files are the server's bytes, and that nothing is lost or half there."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest
from PIL import Image
from service_client import FakeEngine, encode, fake_app, opened, quadrants
from service_process import ROOT, Server, environment

from benchmarks import bulk as benchmark
from benchmarks.common import free_port
from service import bulk, bulk_inputs, cli, routes
from service.bulk import Progress, for_many, write_atomically
from service.bulk_inputs import Failure, Inputs, Job, Times, UsageError
from service.outputs import ONLY_FOR, Output
from service.settings import Settings

PICTURE = encode(quadrants())
WIDE = encode(quadrants(40, 100), "JPEG", quality=95)
PREDICT = [sys.executable, "-m", "service.cli", "predict"]


@pytest.fixture(autouse=True)
def _logging_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk.logs, "configure", lambda *_: None)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """a.png, b.jpg, sub/c.png, and what is no picture."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(PICTURE)
    (folder / "b.jpg").write_bytes(WIDE)
    (folder / "sub" / "c.png").write_bytes(encode(quadrants(30, 30)))
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden.png").write_bytes(PICTURE)
    return folder


def predict(*arguments: object) -> int:
    """The command, in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", *map(str, arguments)])
    assert isinstance(ended.value.code, int), ended.value.code
    return ended.value.code


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def inputs(*paths: object, out: Path = Path("out"), every: int = 1, max_bytes: int = 1000) -> Inputs:
    return Inputs([str(path) for path in paths], out, ".json", every, max_bytes)


def targets(found: Inputs) -> list[str]:
    return [str(job.target) for job in jobs(found)]


def jobs(found: Inputs) -> list[Job]:
    return [job for job in found if isinstance(job, Job)]


# --- what it is to work on


def test_folders_keep_their_structure(photos: Path) -> None:
    found = inputs(photos)
    assert found.check() == 3
    assert targets(found) == targets(found) == ["out/a.json", "out/b.json", "out/sub/c.json"]


def test_files_and_globs(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    assert targets(inputs("photos/a.png", "photos/sub/c.png")) == ["out/a.json", "out/c.json"]
    assert sorted(targets(inputs("photos/**/*.png"))) == ["out/a.json", "out/sub/c.json"]
    assert sorted(targets(inputs("pho*/*"))) == ["out/photos/a.json", "out/photos/b.json"]
    # As in folders: neither what is behind links nor former answers.
    (photos / "link").symlink_to(photos / "sub")
    out = photos / "answers"
    for _ in range(2):
        assert sorted(targets(inputs("photos/**/*.png", out=out))) == [f"{out}/a.json", f"{out}/sub/c.json"]
        (out / "sub").mkdir(parents=True, exist_ok=True)
        (out / "sub" / "c.mask.png").write_bytes(PICTURE)
    # What lies above the pictures is none of their answers.
    assert sorted(targets(inputs("photos/*.png", out=Path()))) == ["a.json"]
    with pytest.raises(UsageError, match="is the folder of the pictures"):
        inputs("photos/*.png", out=photos).check()
    # A file that is named is taken as it is; the service looks at its bytes.
    assert targets(inputs("photos/notes.txt")) == ["out/notes.txt.json"]
    Path("[1].png").write_bytes(PICTURE)
    assert targets(inputs("[1].png")) == ["out/[1].json"]


def test_answers_inside_the_pictures_folder_are_no_pictures(photos: Path) -> None:
    out = photos / "answers"
    out.mkdir()
    (out / "a.mask.png").write_bytes(PICTURE)
    assert inputs(photos, out=out).check() == 3
    with pytest.raises(UsageError, match="is the folder of the pictures"):
        inputs(photos, out=photos).check()


def test_two_inputs_of_one_name_are_refused(photos: Path) -> None:
    (photos / "b.png").write_bytes(PICTURE)
    with pytest.raises(UsageError, match=r"b\.jpg and .*b\.png would both be answered in out/b\.json"):
        inputs(photos).check()
    with pytest.raises(UsageError, match="would both be answered"):
        inputs(photos / "a.png", photos / "a.png").check()
    with pytest.raises(UsageError, match="would both be answered"):
        inputs(photos / "sub", photos / "sub" / "c.png").check()


def test_an_address_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert predict(tmp_path / "a.jpg", "--out", tmp_path / "out", "--url", "http://[::1") == 2
    assert "--url: 'http://[::1' is not an address" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "reason"), [("no.jpg", "there is no no.jpg"), ("no*.jpg", "nothing is named"), ("empty", "no pictures")]
)
def test_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(UsageError, match=reason):
        inputs(path).check()


def test_too_large_a_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(bytes(1001))
    (job,) = inputs(path)
    assert isinstance(job, Job)
    with pytest.raises(OSError, match="more than 1000 bytes"):
        job.read()
    path.write_bytes(bytes(1000))
    assert job.read() == bytes(1000)


# --- videos


CLOCKWISE = 0, 1, -1, 0
"""Of a display matrix, a, b, c and d: a quarter turn."""


def write_video(
    path: Path,
    frames: int = 7,
    shown: tuple[int, int, int, int] | None = None,
    aspect: Fraction = Fraction(1),
) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(quadrants(), format="rgb24")))
        container.mux(stream.encode())
    if shown:
        data = bytearray(path.read_bytes())
        # The display matrix is the last but 8 bytes of the track's header, in 16.16 and 2.30 bits.
        end = data.index(b"tkhd") - 4 + int.from_bytes(data[data.index(b"tkhd") - 4 : data.index(b"tkhd")], "big")
        a, b, c, d = (value << 16 for value in shown)
        matrix = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
        data[end - 44 : end - 8] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
        path.write_bytes(data)


def test_frames_of_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4")
    found = inputs(tmp_path, every=3, max_bytes=10**6)
    assert found.check() == 3
    frames = jobs(found)
    assert targets(found) == [f"out/clip.mp4/{k:06}.json" for k in (0, 3, 6)]
    assert frames[1].name.endswith("clip.mp4, frame 3")
    frame = np.asarray(opened(frames[2].read()))
    assert frame.shape == (48, 64, 3) and np.abs(frame[8, 8].astype(int) - (255, 0, 0)).max() < 40


@pytest.mark.parametrize(
    ("shown", "transposes"),
    [
        ((1, 0, 0, 1), []),
        (CLOCKWISE, [Image.Transpose.ROTATE_270]),
        ((0, -1, 1, 0), [Image.Transpose.ROTATE_90]),
        ((-1, 0, 0, -1), [Image.Transpose.ROTATE_180]),
        ((-1, 0, 0, 1), [Image.Transpose.FLIP_LEFT_RIGHT]),
        ((1, 0, 0, -1), [Image.Transpose.FLIP_TOP_BOTTOM]),
        ((0, 1, 1, 0), [Image.Transpose.TRANSPOSE]),
        ((0, -1, -1, 0), [Image.Transpose.TRANSVERSE]),
    ],
)
def test_videos_are_turned_and_mirrored_as_they_say(
    tmp_path: Path, shown: tuple[int, int, int, int], transposes: list[Image.Transpose]
) -> None:
    write_video(tmp_path / "clip.mp4", 1, shown)
    write_video(tmp_path / "stored.mp4", 1)
    frame, stored = (opened(job.read()) for job in jobs(inputs(tmp_path)))
    for transpose in transposes:
        stored = stored.transpose(transpose)
    np.testing.assert_array_equal(np.asarray(frame), np.asarray(stored))


@pytest.mark.parametrize(
    ("aspect", "width"), [(Fraction(4, 3), 85), (Fraction(8, 9), 57), (Fraction(1), 64), (Fraction(1000), 64)]
)
def test_pixels_of_videos_are_made_square(tmp_path: Path, aspect: Fraction, width: int) -> None:
    """HDV has 1440 x 1080 of 4:3, DV 720 x 480 of 8:9; 1000:1 is a mistake."""
    for turned in (None, CLOCKWISE):
        write_video(tmp_path / "clip.mp4", 1, turned, aspect)
        frame = np.asarray(opened(jobs(inputs(tmp_path, max_bytes=10**6))[0].read())).astype(int)
        assert frame.shape == ((width, 48, 3) if turned else (48, width, 3))
        for side, color in ((-0.1, (255, 0, 0)), (0.1, (0, 255, 0))):  # Red becomes green in the middle.
            at = round((0.5 + side) * width)
            assert np.abs((frame[at, 40] if turned else frame[8, at]) - color).max() < 60


def test_a_frame_that_cannot_be_converted_is_one_failure(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "clip.mp4", 3)
    convert = bulk_inputs._upright
    seen: list[object] = []

    def sometimes(pixels: np.ndarray, matrix: object) -> np.ndarray:
        seen.append(matrix)
        if len(seen) == 2:
            raise ValueError("a kind that nobody knows")
        return convert(pixels, matrix)

    monkeypatch.setattr(bulk_inputs, "_upright", sometimes)
    assert predict(tmp_path / "clip.mp4", "--out", tmp_path / "out", "--output", "mask", "--model", tiny_model) == 1
    told = capsys.readouterr().err
    assert "2 done" in told and "1 failed" in told and "a kind that nobody knows" in told


def test_times_of_frames(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all of them, whichever are answered, and whatever was there before."""
    write_video(tmp_path / "clip.mp4")
    out = tmp_path / "out"
    arguments = (tmp_path / "clip.mp4", "--out", out, "--output", "mask", "--model", tiny_model)
    expected = "frame,seconds\n" + "".join(f"{k:06},{k / 10:.6f}\n" for k in range(7))
    assert predict(*arguments, "--every", "3") == 0
    assert re.search("3 done in .*, 0 failed", capsys.readouterr().err)
    names = [f"clip.mp4/{k:06}.mask.png" for k in (0, 3, 6)]
    assert list(files(out)) == [*names, "clip.mp4/frames.csv"]
    table = out / "clip.mp4" / "frames.csv"
    assert table.read_text() == expected
    # As after a kill, which leaves none: only the end of the video makes it.
    table.unlink()
    (out / names[1]).unlink()
    assert predict(*arguments, "--every", "3") == predict(*arguments, "--every", "2") == 0
    assert table.read_text() == expected and len(files(out)) == 6
    table.unlink()
    table.mkdir()
    capsys.readouterr()
    assert predict(*arguments) == 1
    assert f"segdepth: cannot write {table}: " in capsys.readouterr().err


def test_frames_without_a_time(tmp_path: Path) -> None:
    """A bare H.264 stream has none."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(tmp_path / "clip.m4v"), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(quadrants(), format="rgb24")))
        container.mux(stream.encode())
    *_, times = inputs(tmp_path)
    assert times == Times(Path("out/clip.m4v/frames.csv"), b"frame,seconds\n000000,\n000001,\n")


def test_titles_of_videos_may_be_in_any_encoding(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Salon bleu"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(quadrants(), format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert data.count(b"Salon bleu") == 1
    path.write_bytes(data.replace(b"Salon bleu", b"Salon bl\xe9u"))
    found = inputs(tmp_path, max_bytes=10**6)
    assert found.check() == 1
    (job,) = jobs(found)
    assert opened(job.read()).size == (64, 48)


def test_frames_that_are_too_large_are_packed(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames=1)
    (plain,), (packed,) = jobs(inputs(tmp_path, max_bytes=10**6)), jobs(inputs(tmp_path, max_bytes=9000))
    assert len(plain.read()) > 9000 > len(packed.read())
    assert np.array_equal(np.asarray(opened(plain.read())), np.asarray(opened(packed.read())))


def test_a_broken_video_is_a_failure(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    (tmp_path / "clip.mp4").write_bytes(b"hello" * 100)
    found = inputs(tmp_path)
    assert found.check() == 1
    (failure,) = found
    assert isinstance(failure, Failure) and "cannot be decoded" in failure.reason


def test_videos_without_a_decoder(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_inputs, "_decoder", lambda: None)
    (photos / "clip.mov").write_bytes(b"hello")
    found = inputs(photos)
    assert (found.check(), found.videos_left_out) == (3, 1)
    with pytest.raises(UsageError, match=r"install the extra segdepth\[video\]"):
        inputs(photos / "clip.mov").check()


# --- options


def test_options_are_those_of_the_server() -> None:
    parameters = fake_app(FakeEngine()).openapi()["paths"]["/predict"]["post"]["parameters"]
    names = {one["name"] for one in parameters if one["in"] == "query"}
    assert set(routes.Parameters.model_fields) == names - {"output"}
    parser = argparse.ArgumentParser()
    bulk.add_arguments(parser)
    assert {f"--{name.replace('_', '-')}" for name in names} <= set(parser._option_string_actions)


def test_each_output_has_a_suffix_of_its_own() -> None:
    suffixes = [bulk.suffix_of(name) for name in get_args(Output)]
    assert len(set(suffixes)) == len(suffixes)
    assert suffixes[get_args(Output).index("mask")] == ".mask.png"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--hfov", "0"], "--hfov: Input should be greater than 1"),
        (["--max-points", "many"], "--max-points"),
        (["--color", "red"], "--color"),
        (["--fy", "5"], "of no use without fx"),
        (["--fx", "5", "--hfov", "70"], "fx and hfov"),
        (["--output", "unreliable"], "needs min_confidence"),
        (["--output", "jpeg"], "--output"),
        (["--every", "0"], "--every"),
        (["--url", "x", "--device", "cpu"], "--device"),
        (["--timeout", "5"], "--url"),
        (["--url", "x", "--timeout", "0"], "--timeout"),
        (["--url", "x", "--timeout", "nan"], "--timeout"),
    ],
)
def test_wrong_options(photos: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str) -> None:
    assert predict(photos, "--out", photos.parent / "out", *arguments) == 2
    assert reason in capsys.readouterr().err
    assert not (photos.parent / "out").exists()


def test_settings_for_many_pictures() -> None:
    assert for_many(Settings()) == Settings(max_batch=1)
    assert for_many(Settings(device="cpu,cpu", threads=2)) == Settings(device="cpu,cpu", threads=2, max_batch=1)
    for chosen in (
        Settings(max_batch=4),
        Settings(device="cuda"),
        Settings(device="openvino"),
        Settings(device="cpu,cuda"),
    ):
        assert for_many(chosen) == chosen


# --- the same bytes as the server


def same(output: str, one: bytes, other: bytes) -> bool:
    """But for times, and the boundary of multipart."""
    if output == "zip":
        contents = [zipfile.ZipFile(io.BytesIO(data)) for data in (one, other)]
        assert contents[0].namelist() == contents[1].namelist()
        return all(
            without_times(contents[0].read(name)) == without_times(contents[1].read(name))
            for name in contents[0].namelist()
        )
    if output == "multipart":
        one, other = (data.replace(data[: data.index(b"\r\n")], b"") for data in (one, other))
        one, other = (re.sub(rb"Content-Length: \d+\r\n", b"", data, count=1) for data in (one, other))
    return without_times(one) == without_times(other)


def without_times(data: bytes) -> bytes:
    return re.sub(rb'"timing_ms":\{[^}]*\}', b"", data)


@pytest.mark.parametrize("output", get_args(Output))
def test_files_are_the_bytes_of_the_server(server: Server, tiny_model: Path, photos: Path, output: str) -> None:
    query = {"hfov": "70", "min_confidence": "0.9", "color": "class", "max_points": "1000"}
    query = {name: value for name, value in query.items() if output in ONLY_FOR.get(name, (output,))}
    options = [text for name, value in query.items() for text in (f"--{name.replace('_', '-')}", value)]
    local, remote = photos.parent / "local", photos.parent / "remote"
    assert predict(photos, "--out", local, "--output", output, "--model", tiny_model, *options) == 0
    assert predict(photos, "--out", remote, "--output", output, "--url", server.url, *options) == 0
    suffix = bulk.suffix_of(output)
    assert list(files(local)) == list(files(remote)) == [f"a{suffix}", f"b{suffix}", f"sub/c{suffix}"]
    for name, source in (("a", "a.png"), ("b", "b.jpg"), ("sub/c", "sub/c.png")):
        response = httpx.post(
            f"{server.url}/predict", params={"output": output, **query}, content=(photos / source).read_bytes()
        )
        assert response.status_code == 200
        assert same(output, files(local)[name + suffix], response.content)
        assert same(output, files(remote)[name + suffix], response.content)


def test_pictures_are_worked_on_in_threads(tiny_model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGDEPTH_PIXEL_WORKERS", "2")
    monkeypatch.setattr("service.pixels.COMMAND", ["/no/such/program"])
    assert predict(photos / "a.png", "--out", photos.parent / "out", "--model", tiny_model) == 0


def test_no_picture_is_refused_for_want_of_a_place(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue is for a server; here several are under way together whatever it holds."""
    monkeypatch.setenv("SEGDEPTH_QUEUE_SIZE", "1")
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for k in range(20):
        (folder / f"{k:02}.png").write_bytes(PICTURE)
    assert predict(folder, "--out", out, "--output", "mask", "--model", tiny_model) == 0
    assert list(files(out)) == [f"{k:02}.mask.png" for k in range(20)]


def test_options_change_the_answers(tiny_model: Path, photos: Path) -> None:
    out = photos.parent / "out"
    arguments = (photos / "a.png", "--out", out, "--model", tiny_model, "--pictures", "false", "--fx", "50")
    assert predict(*arguments) == 0
    answer = json.loads((out / "a.json").read_bytes())
    assert answer["camera"]["fx"] == 50 and answer["depth"]["depth_png"] is None


def test_what_is_there_is_left_alone(tiny_model: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = photos.parent / "out"
    out.mkdir()
    (out / "a.mask.png").write_bytes(b"mine")
    arguments = (photos, "--out", out, "--output", "mask", "--model", tiny_model)
    assert predict(*arguments) == 0
    assert files(out)["a.mask.png"] == b"mine" and len(files(out)) == 3
    assert re.search(r"2 done in .*, 1 were there, 0 failed", capsys.readouterr().err)
    assert predict(*arguments, "--overwrite") == 0
    assert opened(files(out)["a.mask.png"]).size == (64, 48)


def test_bad_pictures_do_not_stop_the_others(
    server: Server, tiny_model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "aa.jpg").write_bytes(WIDE[:200])
    (photos / "sub" / "text.png").write_text("hello")
    (photos / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (photos / "gone.png").symlink_to("nowhere")
    (photos / "empty.png").write_bytes(b"")
    for number, how in enumerate((["--model", tiny_model], ["--url", server.url])):
        out = photos.parent / f"out{number}"
        assert predict(photos, "--out", out, "--output", "mask", *how) == 1
        assert list(files(out)) == ["a.mask.png", "b.mask.png", "sub/c.mask.png"]
        said = capsys.readouterr().err
        assert "5 failed:" in said and "3 done" in said
        assert f"  {photos / 'aa.jpg'}: The JPEG cannot be decoded" in said
        assert f"  {photos / 'sub' / 'text.png'}: The body is not a picture" in said
        assert f"  {photos / 'phone.HEIC'}: The HEIF cannot be decoded" in said
        assert f"  {photos / 'gone.png'}: No such file or directory" in said
        assert f"  {photos / 'empty.png'}: " in said


def test_a_name_that_is_too_long_for_an_answer_does_not_stop_the_others(
    tiny_model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for letters in (245, 250):  # Too long for the file while it is written, and for the answer's name itself.
        (photos / f"{'a' * letters}.png").write_bytes(PICTURE)
    out = photos.parent / "out"
    for _ in range(2):
        assert predict(photos, "--out", out, "--output", "mask", "--model", tiny_model) == 1
        said = capsys.readouterr().err
        assert "2 failed:" in said and said.count("File name too long") == 2
        assert list(files(out)) == ["a.mask.png", "b.mask.png", "sub/c.mask.png"]


def test_no_server(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert predict(photos, "--out", photos.parent / "out", "--url", url, "--timeout", "2") == 1
    said = capsys.readouterr().err
    assert "stopped before the end" in said and "goes on" not in said  # There is nothing to go on from.


def test_a_key_file_that_is_none(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = photos.parent / "key"
    command = ["predict", str(photos), "--out", "out", "--url", "http://127.0.0.1:9", "--api-key-file", str(key)]
    for content, reason in ((None, "cannot read"), ("clé", "it is not ASCII")):
        if content:
            key.write_text(content)
        with pytest.raises(SystemExit) as ended:
            cli.main(command)
        assert ended.value.code == 2
        assert reason in capsys.readouterr().err


def test_answers_that_cannot_be_written_end_it(
    tiny_model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = photos.parent / "out"
    out.write_text("a file")
    assert predict(photos, "--out", out, "--model", tiny_model) == 1
    assert "segdepth: cannot write" in capsys.readouterr().err


def test_a_model_that_cannot_be_had(photos: Path) -> None:
    with pytest.raises(SystemExit, match="there is no model file"):
        cli.main(["predict", str(photos), "--out", str(photos.parent / "out"), "--model", "no.onnx"])


# --- how it works


def test_no_more_is_under_way_than_there_are_places(tmp_path: Path) -> None:
    """Whatever the number of pictures: so the memory is bounded."""
    started = running = most = 0

    class Many:
        def __iter__(self) -> Iterator[Job]:
            nonlocal started
            for k in range(500):
                started += 1
                yield Job(str(k), tmp_path / str(k), lambda: b"")

    @asynccontextmanager
    async def answering() -> AsyncIterator[Callable[[bytes], Any]]:
        async def answer(_upload: bytes) -> bytes:
            nonlocal running, most
            running += 1
            most = max(most, running)
            assert started <= progress.done + 5
            await asyncio.sleep(0)
            running -= 1
            return b"x"

        yield answer

    progress = Progress(500, io.StringIO())
    run = bulk._Run(Many(), overwrite=False, in_flight=5, progress=progress)  # type: ignore[arg-type]
    assert asyncio.run(run.run(answering())) == 0
    assert most <= 5 and len(list(tmp_path.iterdir())) == progress.done == 500


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sub" / "a.json"
    write_atomically(path, b"one")
    (path.parent / ".a.json.part").write_bytes(b"left over by a kill, and longer")
    write_atomically(path, b"two")
    assert files(tmp_path) == {"sub/a.json": b"two"}

    def fail(*_: object) -> None:
        assert path.read_bytes() == b"two"
        raise OSError("full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        write_atomically(path, b"three")
    assert files(tmp_path) == {"sub/a.json": b"two"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    progress = Progress(1000, Terminal())
    progress.done, progress.skipped = 190, 300
    for _ in range(10):
        progress.fail(Failure("a.jpg", "broken"))
    now += 10
    assert progress.line() == "500 of 1000, 20.0/s, 0:25 left, 300 were there, 10 failed"
    progress.total = None
    assert progress.line().startswith("500 of ?, 20.0/s, 300")
    progress.total = 1_000_000
    assert "13:52:55 left" in progress.line()
    progress.end("", stopped=False)
    text = progress._stream.getvalue()  # type: ignore[attr-defined]
    assert text.startswith("\r\x1b[K10 failed:\n  a.jpg: broken\n") and "190 done in 10.0 s (19.0/s)" in text
    plain = Progress(10, io.StringIO())
    plain._show()
    assert plain._stream.getvalue() == "0 of 10, 0.0/s\n"  # type: ignore[attr-defined]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """120 pictures that take a while: one file with many names."""
    folder = tmp_path / "many"
    folder.mkdir()
    first = folder / "000.png"
    first.write_bytes(encode(np.tile(quadrants(), (20, 20, 1)), compress_level=1))
    for k in range(1, 120):
        os.link(first, folder / f"{k:03}.png")
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_in_the_middle_it_goes_on_from_there(tiny_model: Path, many: Path, number: int, code: int) -> None:
    out = many.parent / "out"
    command = [*PREDICT, str(many), "--out", str(out), "--output", "mask", "--model", str(tiny_model)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    while not out.exists() or len(list(out.glob("*.mask.png"))) < 10:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    if number != signal.SIGKILL:
        assert "the same command goes on from here" in said and "Traceback" not in said
        assert not list(out.glob(".*"))
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.mask.png")}
    assert 10 <= len(before) < 120
    assert len({data for data, _ in before.values()}) == 1  # the same picture each time, and none is half there
    done = subprocess.run(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0
    assert f"{120 - len(before)} done" in done.stderr and f"{len(before)} were there" in done.stderr
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    assert len(after) == 120 and before.items() <= after.items()
    assert len({data for data, _ in after.values()}) == 1


def test_the_benchmark_runs(tiny_model: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    benchmark.make_pictures(pictures, 12, (64, 48))
    assert len({path.read_bytes() for path in pictures.iterdir()}) == 12
    command = benchmark.measure(tiny_model, "cpu", "mask", pictures, 12, tmp_path / "out")
    assert command["per_s"] >= 0 and command["total_s"] > command["first_answer_s"] > 0
    results = {"engine_per_s": 100.0, "output": "mask", "count": 12, "size": "64x48", "model": "m", "device": "cpu"}
    assert "| engine alone | 100 |" in benchmark.markdown({**results, "command": command})
    with pytest.raises(SystemExit, match="0 of 12"):
        benchmark.measure(tmp_path / "no.onnx", "cpu", "mask", pictures, 12, tmp_path / "other")
