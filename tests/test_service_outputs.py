"""Every output of `/predict` besides the plain JSON and its PNGs: containers, point clouds, COCO, figures of classes.

PLY and GLB are read by trimesh, COCO's run lengths by pycocotools; multipart by Python's email package.
"""

from __future__ import annotations

import base64
import email
import io
import json
import re
import struct
import warnings
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from pycocotools import mask as coco_mask
from service_client import FakeEngine, ask, check_problem, encode, fake_app, opened, quadrants

from service import coco, measures, points
from service.cameras import Camera
from service.engine import Prediction
from service.images import letterbox, unfit_nearest
from service.maps import Maps
from service.outputs import MEDIA_TYPES, Options

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import trimesh

HEIGHT, WIDTH = 48, 64
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
PICTURE = encode(quadrants())
LABELS = np.where(ROWS < 24, np.where(COLUMNS < 32, 1, 2), np.where(COLUMNS < 32, 4, 7)).astype(np.uint8)


class Holes(FakeEngine):
    """Depth is 1000 + 10 * row + column mm, without a rectangle in the red; confidence is 4 * column."""

    def infer(self, batch: np.ndarray) -> Prediction:
        prediction = super().infer(batch)
        prediction.depth[:, 2:12, 3:13] = 0
        columns = np.arange(batch.shape[2], dtype=np.uint8) * 4
        return prediction._replace(confidence=np.broadcast_to(columns, batch.shape[:3]).copy())


DEPTH = 1000 + 10 * ROWS + COLUMNS
DEPTH[2:12, 3:13] = 0
CAMERA = "fx=80&fy=79&cx=30&cy=20"


def post(query: str, picture: bytes = PICTURE, app: FastAPI | None = None, accept: str = "*/*") -> httpx.Response:
    app = app or fake_app(Holes())
    return ask(lambda c: c.post(f"/predict?{query}", content=picture, headers={"accept": accept}), app)


def png(data: bytes) -> np.ndarray:
    return np.asarray(opened(data))


def parts_of(response: httpx.Response) -> list[Message]:
    text = b"Content-Type: " + response.headers["content-type"].encode() + b"\r\n\r\n" + response.content
    message = email.message_from_bytes(text)
    assert message.is_multipart() and not message.defects
    return message.get_payload()  # type: ignore[return-value]


def made(labels: np.ndarray, depth: np.ndarray, camera: Camera, size: tuple[int, int] | None = None) -> Maps:
    """Maps of a picture of `size`, by default that of the canvas."""
    return Maps(
        read_picture=lambda: quadrants(*(size or labels.shape)),
        box=letterbox(size or labels.shape, [labels.shape]),
        camera=camera,
        canvas=Prediction(labels.astype(np.uint8), depth.astype(np.uint16), np.full(labels.shape, 255, np.uint8)),
        card=FakeEngine().card,
    )


def test_the_documentation_lists_every_output_and_its_media_type() -> None:
    text = (Path(__file__).parent.parent / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| `([a-z./+-]+/[a-z+-]+)` \|", text, re.MULTILINE)
    listed = {name: media_type for names, media_type in rows for name in re.findall("[a-z_]+", names)}
    assert listed == MEDIA_TYPES


# --- JSON


def test_without_pictures() -> None:
    with_pictures, without = post("").json(), post("pictures=false").json()
    assert without["segmentation"].pop("mask_png") is None
    assert without["depth"].pop("depth_png") is None
    assert without["depth"].pop("color_png") is None
    del with_pictures["segmentation"]["mask_png"], with_pictures["depth"]["depth_png"]
    del with_pictures["depth"]["color_png"], with_pictures["timing_ms"], without["timing_ms"]
    assert with_pictures == without


def test_pictures_are_put_where_they_belong_whatever_the_classes_are_called() -> None:
    engine = Holes()
    evil = engine.card.classes[1].model_copy(update={"name": '"mask_png":null, "depth_png":null'})
    engine.card = engine.card.model_copy(update={"classes": [engine.card.classes[0], evil, *engine.card.classes[2:]]})
    answer = post("", app=fake_app(engine)).json()
    assert answer["segmentation"]["classes"][0]["name"] == evil.name
    for field, output in (("mask_png", "mask"), ("depth_png", "depth"), ("color_png", "depth_color")):
        part = answer["segmentation" if output == "mask" else "depth"]
        assert base64.b64decode(part[field], validate=True) == post(f"output={output}").content


def test_figures_of_classes() -> None:
    red, *_ = post(CAMERA).json()["segmentation"]["classes"]
    valid = DEPTH[:24, :32][DEPTH[:24, :32] > 0]
    assert red == {
        **{"id": 1, "name": "red", "color": [50, 20, 20], "pixels": 768, "fraction": 0.25},
        "median_depth_m": round(float(np.median(valid)) / 1000, 4),
        "p5_depth_m": round(float(np.percentile(valid, 5)) / 1000, 4),
        "p95_depth_m": round(float(np.percentile(valid, 95)) / 1000, 4),
        "nearest": {"u": 0, "v": 0, "depth_m": 1.0},
        "area_m2": round(float(((valid / 1000) ** 2).sum() / (80 * 79)), 4),
    }


def test_the_nearest_point_and_the_area_are_those_of_the_uploaded_picture() -> None:
    """10 times the canvas' size, in a canvas with padding: a wall of 4 m x 3 m in 2 m, and a dot in front of it."""
    labels, depth = np.zeros((48, 80), np.uint8), np.full((48, 80), 500, np.uint16)
    depth[:, 8:72] = 2000
    labels[30, 20], depth[30, 20] = 5, 700
    maps = made(labels, depth, Camera(320, 320, 319.5, 239.5, "request"), (480, 640))
    assert (maps.box.left, maps.box.width) == (8, 64)
    measured = measures.measure(maps)
    assert (measured.min_m, measured.max_m) == (0.7, 2.0)
    dot = measured.classes[5]
    assert dot.nearest == (125, 305, 0.7)  # the middle of a square of 10 pixels
    assert (dot.p5_m, dot.median_m, dot.p95_m) == (0.7, 0.7, 0.7)
    assert dot.area_m2 == pytest.approx(0.7**2 * 100 / 320**2)
    assert measured.classes[0].area_m2 == pytest.approx(4 * 3 - 4 * 100 / 320**2)


@pytest.mark.parametrize("farthest", [65535, 20])  # Hardly one depth twice, and many.
def test_percentiles_are_numpy_s(farthest: int) -> None:
    rng = np.random.default_rng(0)
    labels, depth = rng.integers(0, 8, (30, 40)), rng.integers(0, farthest + 1, (30, 40))
    labels[0, 0], depth[0, 0] = 7, farthest
    labels[labels == 3] = 2
    labels[5, 6], depth[5, 6] = 3, 0  # a class without valid depth
    measured = measures.measure(made(labels, depth, Camera(30, 30, 0, 0, "assumed")))
    assert sorted(measured.classes) == [0, 1, 2, 4, 5, 6, 7]
    for id_, found in measured.classes.items():
        own = np.where((labels == id_) & (depth > 0), depth, 99999)
        valid = own[own < 99999]
        expected = np.percentile(valid, [5, 50, 95]) / 1000
        assert [found.p5_m, found.median_m, found.p95_m] == pytest.approx(expected.tolist())
        v, u = divmod(int(own.argmin()), 40)
        assert found.nearest == (u, v, valid.min() / 1000)
        assert found.area_m2 == pytest.approx(float((valid / 1000.0) @ (valid / 1000.0)) / 900)
    assert (measured.min_m, measured.max_m) == (depth[(depth > 0)].min() / 1000, farthest / 1000)


def test_no_valid_depth_has_no_figures() -> None:
    labels = np.arange(12).reshape(3, 4)
    nothing = measures.measure(made(labels, np.zeros((3, 4)), Camera(30, 30, 0, 0, "assumed")))
    assert nothing == ({}, None, None)


@pytest.mark.parametrize("size", [(60, 100), (6, 10), (7, 11), (61, 1), (1, 30), (30, 50), (301, 499)])
@pytest.mark.parametrize("values", [1, 3, 256])
def test_pixels_are_counted_as_resizing_shows_them(size: tuple[int, int], values: int) -> None:
    plane = np.random.default_rng(0).integers(256 - values, 256, (32, 50)).astype(np.uint8)
    box = letterbox(size, [plane.shape])
    expected = np.bincount(unfit_nearest(plane, box).ravel(), minlength=256)
    assert measures.pixels_of(plane, box) == expected.tolist()


def test_unreliable_pixels() -> None:
    # The confidence is 4 * column / 255: below 0.4, or 102, are the columns 0 to 25.
    assert post("min_confidence=0.4").json()["segmentation"]["unreliable_fraction"] == 26 / 64
    shown = png(post("output=unreliable&min_confidence=0.4").content)
    assert np.array_equal(shown, np.where(COLUMNS < 26, 255, 0))
    assert post("min_confidence=0").json()["segmentation"]["unreliable_fraction"] == 0
    assert post("min_confidence=1").json()["segmentation"]["unreliable_fraction"] == 1
    assert np.array_equal(png(post("output=confidence").content), 4 * COLUMNS)


def test_a_confidence_of_a_map_is_its_own_level() -> None:
    for level in range(256):
        assert Options(min_confidence=float(np.float32(level / 255))).least_confidence == level


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("output=unreliable", "needs min_confidence"),
        ("min_confidence=1.1", "min_confidence"),
        ("min_confidence=-0.1", "min_confidence"),
        ("min_confidence=nan", "min_confidence"),
        ("max_points=0", "max_points"),
        ("max_points=5000001", "max_points"),
        ("color=depth", "color"),
        ("pictures=perhaps", "pictures"),
        ("output=ply&fx=0", "fx"),
    ],
)
def test_parameters_out_of_range(query: str, reason: str) -> None:
    assert reason in check_problem(post(query), 422)["detail"]


# --- containers


def test_multipart() -> None:
    response = post("output=multipart")
    assert response.headers["content-type"].startswith("multipart/mixed; boundary=")
    metadata, *pictures = parts_of(response)
    assert metadata.get_content_type() == "application/json"
    body = json.loads(metadata.get_payload(decode=True))
    assert (body["width"], body["height"], body["depth"]["depth_png"]) == (64, 48, None)
    names = ["mask", "depth", "depth_color", "confidence"]
    assert [part.get_filename() for part in pictures] == [f"{name}.png" for name in names]
    for name, part in zip(names, pictures, strict=True):
        assert part.get_content_type() == "image/png"
        assert part.get_payload(decode=True) == post(f"output={name}").content
        assert int(part["Content-Length"]) == len(part.get_payload(decode=True))


def test_zip() -> None:
    response = post("min_confidence=0.4", accept="application/zip")
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        names = ["mask", "depth", "depth_color", "confidence", "unreliable"]
        assert archive.namelist() == ["metadata.json", *(f"{name}.png" for name in names)]
        assert json.loads(archive.read("metadata.json"))["segmentation"]["unreliable_fraction"] == 26 / 64
        for name in names:
            query = "&min_confidence=0.4" if name == "unreliable" else ""
            assert archive.read(f"{name}.png") == post(f"output={name}{query}").content


def test_npz() -> None:
    response = post(f"output=npz&{CAMERA}")
    assert response.headers["content-type"] == "application/x-npz"
    arrays = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert list(arrays) == ["labels", "depth", "confidence", "intrinsics", "camera", "class_names"]
    assert [arrays[name].dtype for name in ("labels", "depth", "confidence")] == [np.uint8, np.float32, np.float32]
    assert np.array_equal(arrays["labels"], LABELS)
    assert np.array_equal(np.isnan(arrays["depth"]), DEPTH == 0)
    assert np.array_equal(np.rint(np.nan_to_num(arrays["depth"]) * 1000), DEPTH)
    assert np.allclose(arrays["confidence"], 4 * COLUMNS / 255)
    assert arrays["intrinsics"].tolist() == [[80, 0, 30], [0, 79, 20], [0, 0, 1]]
    assert arrays["camera"] == "request"
    assert arrays["class_names"][4] == "blue"


def test_a_depth_png_says_what_its_depth_is_for() -> None:
    text = opened(post(f"output=depth&{CAMERA}").content).text
    camera = {"fx": "80", "fy": "79", "cx": "30", "cy": "20", "camera": "request"}
    assert text == {"unit": "mm", "scale": "0.001", "invalid": "0", **camera}
    assert opened(post("output=depth").content).text["camera"] == "assumed"


# --- points


def ply_of(response: httpx.Response) -> Any:
    assert response.headers["content-type"] == "application/x-ply"
    return trimesh.load(io.BytesIO(response.content), file_type="ply")


def test_ply_points_lie_where_the_pinhole_camera_puts_them() -> None:
    response = post(f"output=ply&{CAMERA}")
    cloud = ply_of(response)
    v, u = np.nonzero(DEPTH)
    z = DEPTH[v, u] / 1000
    expected = np.stack([(u - 30) * z / 80, (v - 20) * z / 79, z], axis=1)
    assert cloud.vertices.shape == expected.shape
    assert np.abs(cloud.vertices - expected).max() < 1e-6
    assert np.array_equal(cloud.colors[:, :3], quadrants()[v, u])
    header = response.content[: response.content.index(b"end_header")].decode()
    assert "comment camera fx 80 fy 79 cx 30 cy 20 width 64 height 48" in header
    assert "comment camera is request" in header
    assert len(response.content) == len(header) + len("end_header\n") + 16 * len(z)
    labels = np.frombuffer(response.content[len(header) + 11 :], np.uint8).reshape(-1, 16)[:, 15]
    assert np.array_equal(labels, LABELS[v, u])


def test_ply_npz_and_png_have_the_same_depth() -> None:
    """Also at another size than the canvas'."""
    large = encode(quadrants(90, 120))
    depth = png(post("output=depth", large).content).astype(int)
    metres = np.load(io.BytesIO(post("output=npz", large).content))["depth"]
    assert np.array_equal(np.rint(np.nan_to_num(metres) * 1000), depth)
    cloud = ply_of(post("output=ply&fx=100", large)).vertices
    columns, rows = (np.rint(cloud[:, k] / cloud[:, 2] * 100 + (side - 1) / 2) for k, side in ((0, 120), (1, 90)))
    seen = np.zeros_like(depth)
    seen[rows.astype(int), columns.astype(int)] = np.rint(cloud[:, 2] * 1000)
    assert np.array_equal(seen, depth)


def test_a_wall_is_flat_and_as_large_as_it_should_be() -> None:
    class Wall(FakeEngine):
        def infer(self, batch: np.ndarray) -> Prediction:
            return super().infer(batch)._replace(depth=np.full(batch.shape[:3], 2000, np.uint16))

    cloud = ply_of(post("output=ply&hfov=90", app=fake_app(Wall()))).vertices
    assert np.allclose(cloud.max(axis=0), [4 * 31.5 / 64, 3 * 23.5 / 48, 2])
    assert np.allclose(cloud.min(axis=0), [-4 * 31.5 / 64, -3 * 23.5 / 48, 2])


def test_points_by_class() -> None:
    cloud = ply_of(post("output=ply&color=class"))
    colors = np.array([info.color for info in FakeEngine().card.classes])
    assert np.array_equal(cloud.colors[:, :3], colors[LABELS[DEPTH > 0]])


def test_unreliable_points_are_left_out() -> None:
    cloud = ply_of(post(f"output=ply&min_confidence=0.4&{CAMERA}"))
    assert len(cloud.vertices) == np.count_nonzero((DEPTH > 0) & (COLUMNS >= 26))


@pytest.mark.parametrize(("most", "step"), [(3072, 1), (3071, 2), (768, 2), (767, 3), (1, 64)])
def test_points_are_bounded(most: int, step: int) -> None:
    cloud = ply_of(post(f"output=ply&max_points={most}&{CAMERA}"))
    v, u = (grid * step for grid in np.nonzero(DEPTH[::step, ::step]))
    assert len(cloud.vertices) == len(u) <= most
    assert np.allclose(cloud.vertices[:, 2], DEPTH[v, u] / 1000)
    assert np.allclose(cloud.vertices[:, 0], (u - 30) * DEPTH[v, u] / 1000 / 80)


def test_a_narrow_picture_is_bounded_too() -> None:
    maps = made(np.zeros((1, 3000)), np.full((1, 3000), 1000), Camera(3000, 3000, 0, 0, "assumed"))
    assert len(points.cloud(maps, Options(max_points=10)).xyz) == 10
    assert len(points.cloud(maps, Options(max_points=1)).xyz) == 1


def glb_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON and the binary chunk, after checking the container."""
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON" and size % 4 == 0
    asset, rest = json.loads(data[20 : 20 + size]), data[20 + size :]
    if not rest:
        return asset, b""
    binary_size, kind = struct.unpack("<I4s", rest[:8])
    assert kind == b"BIN\0" and binary_size % 4 == 0 and len(rest) == 8 + binary_size
    assert asset["buffers"] == [{"byteLength": binary_size}]
    return asset, rest[8:]


def test_glb() -> None:
    response = post(f"output=glb&{CAMERA}")
    assert response.headers["content-type"] == "model/gltf-binary"
    ply = ply_of(post(f"output=ply&{CAMERA}")).vertices
    (cloud,) = trimesh.load(io.BytesIO(response.content), file_type="glb").geometry.values()
    assert np.allclose(cloud.vertices, ply * [1, -1, -1], atol=1e-6)
    asset, binary = glb_of(response.content)
    assert asset["asset"]["extras"] == {"fx": 80, "fy": 79, "cx": 30, "cy": 20, "source": "request"}
    position, color = asset["accessors"]
    assert np.allclose(position["min"], cloud.vertices.min(axis=0)) and position["count"] == len(ply)
    assert np.allclose(position["max"], cloud.vertices.max(axis=0))
    view = asset["bufferViews"][color["bufferView"]]
    rgb = np.frombuffer(binary[view["byteOffset"] :], "<f4").reshape(-1, 3)
    assert np.array_equal(rgb, quadrants()[DEPTH > 0] / 255)  # 0 and 255 are linear as well


def test_glb_colours_are_linear() -> None:
    grey = encode(np.full((48, 64, 3), (188, 10, 0), np.uint8))
    data = post("output=glb&max_points=1", grey).content
    linear = (0.5029, 10 / 255 / 12.92, 0)
    assert np.frombuffer(glb_of(data)[1][12:], "<f4") == pytest.approx(linear, abs=1e-4)
    (cloud,) = trimesh.load(io.BytesIO(data), file_type="glb").geometry.values()
    assert cloud.colors[0][:3] == pytest.approx([round(255 * value) for value in linear], abs=1)


def test_no_points_at_all() -> None:
    class Blind(FakeEngine):
        def infer(self, batch: np.ndarray) -> Prediction:
            return super().infer(batch)._replace(depth=np.zeros(batch.shape[:3], np.uint16))

    asset, binary = glb_of(post("output=glb", app=fake_app(Blind())).content)
    assert (asset["scenes"], binary) == ([{}], b"")
    assert b"element vertex 0\n" in post("output=ply", app=fake_app(Blind())).content


# --- parameters of other outputs


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("output=depth&min_confidence=0.9", "min_confidence"),
        ("output=npz&max_points=7", "max_points"),
        ("output=mask&color=class", "color"),
        ("output=zip&pictures=false", "pictures"),
    ],
)
def test_a_parameter_that_says_nothing_about_the_output_is_refused(query: str, name: str) -> None:
    for path, upload in (("predict", {"content": PICTURE}), ("predict/batch", {"files": [("files", PICTURE)]})):
        answer = ask(lambda c, path=path, upload=upload: c.post(f"/{path}?{query}", **upload), fake_app(Holes()))
        assert f"{name} is of no use with output=" in check_problem(answer, 422)["detail"]


# --- COCO


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' decode with NumPy 2
def test_coco() -> None:
    response = post("output=coco", accept="application/json")
    body = response.json()
    # pycocotools' `COCO.info` wants it.
    model = post("").json()["model"]
    assert body["info"] == {"description": f"segdepth {model['name']} {model['version']}"}
    assert body["images"] == [{"id": 1, "width": 64, "height": 48, "camera": post("").json()["camera"]}]
    assert body["categories"][1] == {"id": 1, "name": "red"}
    assert [a["category_id"] for a in body["annotations"]] == [1, 2, 4, 7]
    boxes = [[0, 0, 32, 24], [32, 0, 32, 24], [0, 24, 32, 24], [32, 24, 32, 24]]
    json_answer = post("").json()["segmentation"]["classes"]
    for k, annotation in enumerate(body["annotations"]):
        assert (annotation["id"], annotation["image_id"], annotation["iscrowd"]) == (k + 1, 1, 0)
        assert (annotation["bbox"], annotation["area"]) == (boxes[k], 768)
        assert annotation["median_depth_m"] == json_answer[k]["median_depth_m"]
        assert np.array_equal(coco_mask.decode(annotation["segmentation"]), annotation["category_id"] == LABELS)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (31, 43), (300, 500)])
def test_run_lengths_are_coco_s(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, shape).astype(np.uint8)
    labels[:, : shape[1] // 2] = 1  # a run longer than 5, 10 and 15 bits
    for id_, mask in coco.masks(labels).items():
        expected = coco_mask.encode(np.asfortranarray(labels == id_))
        assert mask.counts == expected["counts"].decode()
        assert mask.bbox == tuple(coco_mask.toBbox(expected))
        assert mask.area == coco_mask.area(expected) == (labels == id_).sum()
