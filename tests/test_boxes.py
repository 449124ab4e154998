"""The procedural rooms: exact geometry, the same bytes however they are made, and the folder format."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_info

from model.classes import NYU40
from training import boxes
from training.boxes_furniture import Draw, Piece
from training.folder import in_processes

NAMES = [c.name for c in NYU40]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "boxes"
    boxes.write_dataset(out, count=10, seed=7, size=(80, 60))
    return out


# -------------------------------------------------------------------------------------------------------- geometry


def wall_at_3_m(size: tuple[int, int] = (64, 48), focal: float = 50.0) -> tuple[boxes.Scene, boxes.Camera]:
    """A camera at the origin that looks along x at a wall 3 m away."""
    d = Draw(np.random.default_rng(0), full=True)
    wall = Piece(d, "wall")
    wall.box(d.mat("wall"), (3.0, 3.1), (-9, 9), (-9, 9))
    axes = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], np.float32)
    intrinsics = (focal, focal, (size[0] - 1) / 2, (size[1] - 1) / 2)
    return boxes.Scene([wall]), boxes.Camera(np.zeros(3, np.float32), axes, intrinsics, size)


def test_depth_of_a_plane_is_its_distance_along_the_axis_in_every_pixel() -> None:
    label, depth = boxes.labels_and_depth(*wall_at_3_m())
    assert label.shape == depth.shape == (48, 64)
    assert (np.round(depth * 1000) == 3000).all()
    assert (label == NAMES.index("wall")).all()


def test_silhouette_of_a_box_is_what_the_pinhole_predicts() -> None:
    scene, camera = wall_at_3_m()
    d = Draw(np.random.default_rng(0), full=True)
    box = Piece(d, "box")
    box.box(d.mat("cardboard"), (-0.2, 0.2), (-0.3, 0.3), (-0.25, 0.1))
    box.move(2.2, 0.1, np.pi / 2)  # turned: now 0.6 m deep along x (1.9 to 2.5) and 0.4 m wide along y (-0.1 to 0.3)
    label, depth = boxes.labels_and_depth(boxes.Scene([*scene.pieces, box]), camera)
    # A point (x, y, z) is seen at u = cx - f y / x, v = cy - f z / x; the near face at x = 1.9 hides the rest but for
    # nothing, since the axis goes through the face.
    fx, fy, cx, cy = camera.intrinsics
    u, v = np.meshgrid(np.arange(64), np.arange(48))
    y, z = (cx - u) / fx * 1.9, (cy - v) / fy * 1.9
    expected = (y > -0.1) & (y < 0.3) & (z > -0.25) & (z < 0.1)
    assert expected.sum() > 50
    assert np.array_equal(label == NAMES.index("box"), expected)
    assert np.array_equal(np.round(depth * 1000), np.where(expected, 1900, 3000))


def test_depth_of_a_slanted_view_agrees_with_the_plane_equation() -> None:
    scene, camera = wall_at_3_m()
    a = 0.4
    axes = np.array([[np.sin(a), -np.cos(a), 0], [0, 0, -1], [np.cos(a), np.sin(a), 0]], np.float32)
    turned = boxes.Camera(camera.position, axes, camera.intrinsics, camera.size)
    _, depth = boxes.labels_and_depth(scene, turned)
    fx, _, cx, _ = camera.intrinsics
    x = (np.arange(64) - cx) / fx
    assert np.allclose(depth, 3 / (np.cos(a) + x * np.sin(a)), atol=2e-6 * 6)


def test_overlap_of_turned_footprints() -> None:
    d = Draw(np.random.default_rng(0), full=True)

    def piece(x: float, y: float, yaw: float) -> Piece:
        p = Piece(d, "box")
        p.box(d.mat("cardboard"), (-0.5, 0.5), (-0.5, 0.5), (0, 1))
        p.move(x, y, yaw)
        return p

    assert boxes.overlap(piece(0, 0, 0), piece(0.9, 0, 0))
    assert not boxes.overlap(piece(0, 0, 0), piece(1.1, 0, 0))
    assert boxes.overlap(piece(0, 0, 0), piece(1.1, 0, np.pi / 4))  # its corner reaches in
    assert not boxes.overlap(piece(0, 0, 0), piece(0.95, 0.95, np.pi / 4))  # the bounds overlap, the squares do not


# -------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("variety", boxes.VARIETIES)
def test_render_is_a_function_of_seed_and_index(variety: str) -> None:
    a, b = boxes.render(3, 5, (64, 48), variety), boxes.render(3, 5, (64, 48), variety)
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.label, b.label)
    assert np.array_equal(a.depth, b.depth)
    assert a.intrinsics == b.intrinsics
    assert not np.array_equal(a.image, boxes.render(3, 6, (64, 48), variety).image)
    assert not np.array_equal(a.image, boxes.render(4, 5, (64, 48), variety).image)


@pytest.mark.parametrize("variety", boxes.VARIETIES)
def test_forty_rooms_are_in_range_and_hold_many_classes(variety: str) -> None:
    samples = [boxes.render(1, i, (64, 48), variety) for i in range(40)]
    seen = np.zeros(len(NYU40), int)
    for s in samples:
        assert s.image.shape == (48, 64, 3)
        assert s.image.dtype == np.uint8
        assert s.label.shape == s.depth.shape == (48, 64)
        assert s.depth.dtype == np.uint16
        assert s.label.max() < 40
        assert s.depth.min() >= 300
        assert s.depth.max() <= 12_000
        assert 20 < s.image.mean() < 235
        share = np.bincount(s.label.ravel(), minlength=40) / s.label.size
        assert share.max() < 0.7
        seen += share > 0.005
    names = {NAMES[i] for i in np.flatnonzero(seen)}
    if variety == "simple":
        assert names == set(boxes.furniture.SIMPLE_CLASSES)
        assert all(seen[NAMES.index(name)] >= 4 for name in names)
    else:
        assert len(names) >= 30
        assert {"chair", "curtain", "desk", "pillow", "lamp", "books"} <= names


def test_no_camera_is_in_a_solid_and_all_furniture_is_in_the_room() -> None:
    for i in range(20):
        scene, camera = boxes.draw_view(2, i, (64, 48), "full")
        room = scene.hi[: scene.first[1]].max(0) - 0.1
        assert all(p.distance(camera.position) > boxes.CAMERA_MARGIN for p in scene.pieces[1:])
        for p in scene.pieces[1:]:
            corners = p.footprint(keep=False)
            assert corners.min() > -0.01
            assert (corners < room[:2] + 0.01).all()
        solid = [p for p in scene.pieces[1:] if not p.flat]
        assert not any(boxes.overlap(a, b, gap=0) for n, a in enumerate(solid) for b in solid[:n])


def test_portrait_pictures_and_unknown_variety() -> None:
    s = boxes.render(0, 0, (48, 64))
    assert s.image.shape == (64, 48, 3)
    assert s.intrinsics[2:] == (23.5, 31.5)
    with pytest.raises(ValueError, match="variety"):
        boxes.render(0, 0, (64, 48), "fancy")


# ------------------------------------------------------------------------------------------------------ the folder


def test_folder_format(made: Path) -> None:
    dataset = json.loads((made / "dataset.json").read_text())
    assert dataset["format"] == 1
    assert dataset["name"] == "boxes"
    assert dataset["license"] == "CC0-1.0"
    assert dataset["depth"] == {"unit": "mm", "invalid": 0}
    assert dataset["classes"] == [{"id": c.id, "name": c.name, "color": list(c.color)} for c in NYU40]
    names = [f"{i:06d}" for i in range(10)]
    assert dataset["splits"] == {"train": names[:8], "val": names[8:9], "test": names[9:]}
    assert dataset["generator"]["seed"] == 7
    assert dataset["generator"]["size"] == [80, 60]
    assert dataset["generator"]["count"] == 10
    for i, name in enumerate(names):
        sample = boxes.render(7, i, (80, 60))
        assert dataset["intrinsics"][name] == list(sample.intrinsics)
        with Image.open(made / "images" / f"{name}.jpg") as image:
            assert (image.size, image.mode) == ((80, 60), "RGB")
            assert all(layer[1:3] == (1, 1) for layer in image.layer)  # 4:4:4
            assert np.abs(np.asarray(image, float) - sample.image).mean() < 4
        with Image.open(made / "labels" / f"{name}.png") as label:
            assert label.mode == "L"
            assert np.array_equal(np.asarray(label), sample.label)
        with Image.open(made / "depth" / f"{name}.png") as depth:
            assert depth.mode == "I;16"
            assert np.array_equal(np.asarray(depth), sample.depth)


def threads(item: int) -> list[int]:
    """Of the libraries that calculate in this process."""
    return [library["num_threads"] for library in threadpool_info()]


def test_workers_have_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    found = list(in_processes(threads, range(2), workers=2))
    assert found and all(counts and set(counts) == {1} for counts in found)
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_two_workers_write_the_same_bytes(made: Path, tmp_path: Path) -> None:
    boxes.write_dataset(tmp_path / "two", count=10, seed=7, size=(80, 60), workers=2)
    assert tree(tmp_path / "two") == tree(made)


def test_resumes_what_is_missing_and_leaves_the_rest(made: Path) -> None:
    before = tree(made)
    for name in ("images/000003.jpg", "depth/000004.png", "dataset.json"):
        (made / name).unlink()
    (made / "images" / "000006.jpg").write_bytes(b"")  # what a power failure may leave
    (made / "labels" / "000003.png.123.tmp").write_bytes(b"half")  # what a kill may leave
    kept = (made / "images" / "000005.jpg").stat().st_mtime_ns
    boxes.write_dataset(made, count=10, seed=7, size=(80, 60))
    assert tree(made) == before
    assert (made / "images" / "000005.jpg").stat().st_mtime_ns == kept


@pytest.mark.parametrize("change", [{"seed": 8}, {"size": (60, 80)}, {"count": 11}, {"variety": "full"}])
def test_a_folder_of_other_settings_is_refused_untouched(made: Path, change: dict[str, object]) -> None:
    before = tree(made)
    settings = {"count": 10, "seed": 7, "size": (80, 60), **change}
    with pytest.raises(FileExistsError, match="other settings"):
        boxes.write_dataset(made, **settings)  # type: ignore[arg-type]
    assert tree(made) == before


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, sheet = tmp_path / "d", tmp_path / "sheet.png"
    boxes.main(["--out", str(out), "--count", "2", "--size", "40x30", "--sheet", str(sheet)])
    with Image.open(sheet) as image:
        assert image.size == (4 * 3 * 40, 30)
    with pytest.raises(SystemExit) as stopped:
        boxes.main(["--out", str(out), "--count", "2", "--size", "80x60"])
    assert "other settings" in str(stopped.value)
    assert "\n" not in str(stopped.value)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(SystemExit, match="not empty"):
        boxes.main(["--out", str(tmp_path / "mine"), "--count", "2"])
    for wrong in (["--size", "big"], ["--size", "4x4"], ["--count", "-1"]):
        with pytest.raises(SystemExit):
            boxes.main(["--out", str(out), "--count", "2", *wrong])
    assert "WIDTHxHEIGHT" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "message"), [("none/x.png", "no folder"), ("x.foo", "not a .png or .jpg")])
def test_a_sheet_that_cannot_be_written_is_refused_before_the_first_picture(
    tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "d"
    with pytest.raises(SystemExit) as stopped:
        boxes.main(["--out", str(out), "--count", "2", "--sheet", str(tmp_path / name)])
    assert stopped.value.code == 2 and not out.exists()
    last = capsys.readouterr().err.splitlines()[-1]
    assert "argument --sheet" in last and message in last
    boxes.main(["--out", str(out), "--count", "1", "--size", "40x30", "--sheet", str(out / "x.jpg")])  # OUT is made
    assert (out / "x.jpg").is_file()


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "d"
    command = [sys.executable, "-m", "training.boxes", "--out", str(out), "--count", "400", "--workers", "2"]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (out / "depth" / "000005.png").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.endswith("training.boxes: stopped; the same command goes on where it was\n")
    assert "Traceback" not in said
    assert not (out / "dataset.json").exists()
    done = len(list(out.glob("depth/*.png")))
    assert 0 < done < 400
    settings = json.loads((out / "boxes.json").read_text())
    assert settings["count"] == 400


def killed(index: int, **_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "write_picture", killed)
    with pytest.raises(SystemExit, match="a worker process was killed") as stopped:
        boxes.main(["--out", str(tmp_path / "d"), "--count", "2", "--size", "40x30", "--workers", "2"])
    assert "\n" not in str(stopped.value)
