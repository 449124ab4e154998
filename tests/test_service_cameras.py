"""The camera of a request: where its intrinsics come from, what is refused, and depth made metric by them."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image
from service_client import HEIC, FakeEngine, ask, check_problem, encode, fake_app, opened, quadrants
from service_onnx import card, write_model
from service_process import start

from benchmarks import served_quality
from service import images
from service.cameras import Camera, Given, camera_of, exif_focal, metric_depth
from service.card import ModelCard
from service.errors import InvalidRequest
from service.images import letterbox

PICTURE = encode(quadrants())


def with_exif(focal: Any, picture: np.ndarray | None = None, format: str = "JPEG", orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    exif.get_ifd(0x8769)[0xA405] = focal
    return encode(quadrants() if picture is None else picture, format, exif=exif.tobytes())


# --- where it comes from


def test_the_request_goes_first() -> None:
    photo = with_exif(26)
    assert camera_of(photo, (480, 640), Given(500, 510, 320.5, 239)) == Camera(500, 510, 320.5, 239, "request")
    assert camera_of(photo, (480, 640), Given(500)) == Camera(500, 500, 319.5, 239.5, "request")


def test_a_field_of_view_of_90_degrees_is_half_the_width() -> None:
    camera = camera_of(b"", (480, 640), Given(hfov=90))
    assert camera == Camera(pytest.approx(320), pytest.approx(320), 319.5, 239.5, "request")
    assert camera.hfov_deg(640) == pytest.approx(90)


def test_the_field_of_view_of_a_camera_that_looks_aside() -> None:
    # 100 pixels to the left of the axis and none to its right.
    assert Camera(100, 100, 99.5, 0, "request").hfov_deg(100) == pytest.approx(45)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif(format: str) -> None:
    camera = camera_of(with_exif(26, format=format), (3000, 4000), Given())
    focal = 26 / math.sqrt(36**2 + 24**2) * 5000
    assert camera == Camera(pytest.approx(focal), pytest.approx(focal), 1999.5, 1499.5, "exif")
    assert focal == pytest.approx(3004.6, abs=0.1)


@pytest.mark.parametrize("lies", ["upright", "turned"])
def test_exif_of_heic(lies: str) -> None:
    focal = 26 / math.sqrt(36**2 + 24**2) * 80
    assert camera_of(HEIC[lies], (48, 64), Given()) == Camera(
        pytest.approx(focal), pytest.approx(focal), 31.5, 23.5, "exif"
    )


@pytest.mark.parametrize(("focal", "read"), [(9, None), (10, 10.0), (400, 400.0), (401, None), (0, None)])
def test_only_sensible_exif_counts(focal: int, read: float | None) -> None:
    found = exif_focal(with_exif(focal))
    assert found == (None if read is None else pytest.approx(read / math.hypot(36, 24)))
    assert camera_of(with_exif(focal), (48, 64), Given()).source == ("assumed" if read is None else "exif")


def with_sensor(**tags: Any) -> bytes:
    """A lens of 16 mm before a sensor of 36 x 24 mm that gives 6000 x 4000 pixels."""
    known = {"FocalLength": 16.0, "FocalPlaneXResolution": 6000 / 36 * 25.4, "FocalPlaneResolutionUnit": 2}
    exif = Image.Exif()
    ifd = exif.get_ifd(0x8769)
    for name, value in {**known, "ExifImageWidth": 6000, "ExifImageHeight": 4000, **tags}.items():
        if value is not None:
            ifd[ExifTags.Base[name].value] = value
    return encode(quadrants(), "JPEG", exif=exif.tobytes())


@pytest.mark.parametrize(
    ("tags", "film_mm"),
    [
        ({}, 16),
        ({"FocalPlaneXResolution": 6000 / 3.6, "FocalPlaneResolutionUnit": 3}, 16),
        ({"FocalPlaneXResolution": 6000 / 22.3 * 25.4}, 16 * 36 / 22.3),  # a smaller sensor
        ({"FocalLengthIn35mmFilm": 26}, 26),
        ({"FocalLengthIn35mmFilm": 0}, 16),
        ({"FocalPlaneResolutionUnit": None}, 16),  # inches, where nothing is said
        ({"FocalPlaneResolutionUnit": 1}, None),
        ({"FocalPlaneXResolution": 0}, None),
        ({"FocalPlaneXResolution": None}, None),
        ({"FocalLength": 0}, None),
        ({"ExifImageWidth": None}, None),
    ],
)
def test_exif_of_the_sensor(tags: dict[str, Any], film_mm: float | None) -> None:
    found = exif_focal(with_sensor(**tags))
    # The picture of 64 x 48 is as high as the sensor's, and not as wide.
    whole = 48 / 4000 * math.hypot(6000, 4000) / math.hypot(64, 48)
    assert found == (None if film_mm is None else pytest.approx(film_mm / math.hypot(36, 24) * whole, rel=1e-4))


def test_corrupt_exif_is_ignored() -> None:
    photo = with_exif(26)
    for start_of_exif in (photo.index(b"Exif") + 6, photo.index(b"Exif") + 14):
        for rubbish in (b"\xff" * 12, b"\x00" * 12, b"II*\x00\xff\xff\xff\xff"):
            broken = photo[:start_of_exif] + rubbish + photo[start_of_exif + len(rubbish) :]
            assert exif_focal(broken) is None
    for text in ("wide", "nan", "inf"):
        assert exif_focal(with_exif(text)) is None
    assert exif_focal(PICTURE) is None
    assert exif_focal(b"no picture") is None


def test_exif_is_read_without_decoding_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("decoded")

    png = with_exif(26, format="PNG")
    start = png.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(png[start : start + 4], "big")
    behind = png[:start] + png[end:-12] + png[start:end] + png[-12:]
    assert 0 < behind.index(b"IDAT") < behind.index(b"eXIf")
    photos = [with_exif(26), png, behind, with_exif(26, format="WEBP"), PICTURE, behind[:-60]]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    focal = pytest.approx(26 / math.hypot(36, 24))
    assert [exif_focal(photo) for photo in photos] == [focal, focal, focal, focal, None, None]


# Of 640 x 480 by the camera: fx = 26 / 43.27 * 800.
WHOLE = 26 / math.hypot(36, 24) * 800


@pytest.mark.parametrize(
    ("size", "orientation", "expected"),
    [
        ((640, 480), 1, WHOLE),
        ((320, 240), 1, WHOLE / 2),
        ((480, 480), 1, WHOLE),  # cut to a square
        ((240, 240), 1, WHOLE / 2),  # and made smaller
        ((640, 360), 1, WHOLE),
        ((480, 640), 1, WHOLE),  # turned, with EXIF that says nothing of it
        ((640, 480), 6, WHOLE),
    ],
)
def test_a_picture_that_was_cut_has_the_lens_of_the_whole(
    size: tuple[int, int], orientation: int, expected: float
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769).update({0xA405: 26, 0xA002: 640, 0xA003: 480})
    data = io.BytesIO()
    Image.new("RGB", size).save(data, "JPEG", exif=exif.tobytes())
    upright = size if orientation > 4 else size[::-1]
    camera = camera_of(data.getvalue(), upright, Given())
    assert (camera.fx, camera.source) == (pytest.approx(expected), "exif")


def test_a_size_in_exif_that_no_picture_was_cut_from_is_not_believed() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA405: 26, 0xA002: 1, 0xA003: 48000})
    assert exif_focal(encode(quadrants(), "JPEG", exif=exif.tobytes())) == pytest.approx(26 / math.hypot(36, 24))


def test_a_panorama_has_no_lens() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA405: 26, 0xA401: 6})
    assert exif_focal(encode(quadrants(), "JPEG", exif=exif.tobytes())) is None


@pytest.mark.parametrize(
    "projection",
    ['GPano:ProjectionType="equirectangular"', "<GPano:ProjectionType>equirectangular<"],
)
def test_a_picture_of_all_directions_is_refused_unless_it_has_a_camera(projection: str) -> None:
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{projection}</x:xmpmeta>'.encode()
    photo = encode(quadrants(), "JPEG", xmp=xmp)
    problem = check_problem(ask(lambda c: c.post("/predict", content=photo)), 422)
    assert "equirectangular" in problem["detail"]
    assert ask(lambda c: c.post("/predict?hfov=60", content=photo)).status_code == 200


def test_else_a_typical_camera_is_assumed() -> None:
    assert camera_of(PICTURE, (100, 40), Given()) == Camera(85, 85, 19.5, 49.5, "assumed")


# --- what is refused

IMPOSSIBLE = {
    "no focal length": ("fx=0", "fx"),
    "negative": ("fx=-500", "fx"),
    "not a number": ("fx=nan", "fx"),
    "infinite": ("fx=inf", "fx"),
    "text": ("fx=wide", "fx"),
    "over 100 times the longer side": ("fx=6401", "between 3.2 and 6400 pixels"),
    "under 1/20 of the longer side": ("fx=3.1", "between 3.2 and 6400 pixels"),
    "fy too": ("fx=60&fy=1e9", "focal length fy of 1e+09"),
    "fy negative": ("fx=60&fy=-1", "fy"),
    "fy alone": ("fy=60", "without fx"),
    "a principal point alone": ("cx=30", "without fx"),
    "and with a field of view": ("hfov=60&cy=30", "without fx"),
    "left of the left neighbour": ("fx=60&cx=-64.5", "cx of -64.5 is too far"),
    "right of the right neighbour": ("fx=60&cx=129", "between -64 and 128"),
    "above": ("fx=60&cy=-49", "between -48 and 96"),
    "cx not a number": ("fx=60&cx=nan", "cx"),
    "cy infinite": ("fx=60&cy=inf", "cy"),
    "both": ("fx=60&hfov=60", "give one of them"),
    "hfov 1": ("hfov=1", "hfov"),
    "hfov 179": ("hfov=179", "hfov"),
    "hfov not a number": ("hfov=nan", "hfov"),
    "hfov beyond any lens": ("hfov=178", "between 1 and 168.6 degrees"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_cameras(name: str) -> None:
    query, reason = IMPOSSIBLE[name]
    problem = check_problem(ask(lambda c: c.post(f"/predict?{query}", content=PICTURE)), 422)
    assert problem["type"].endswith("invalid-request")
    assert reason in problem["detail"]


@pytest.mark.parametrize(
    "given", [{"fx": math.nan}, {"fx": 60, "cy": math.nan}, {"hfov": 0}, {"hfov": 180}, {"hfov": math.nan}]
)
def test_impossible_cameras_are_also_refused_without_http(given: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest):
        camera_of(PICTURE, (48, 64), Given(**given))


@pytest.mark.parametrize("query", ["fx=6400", "fx=3.2", "fx=60&cx=-64&cy=96", "fx=60&cx=128&cy=-48"])
def test_the_limits_themselves_are_allowed(query: str) -> None:
    camera = ask(lambda c: c.post(f"/predict?{query}", content=PICTURE)).json()["camera"]
    assert camera["source"] == "request"


# --- metric depth


def test_depth_goes_with_the_focal_length() -> None:
    depth = np.array([[0, 1, 1000, 1001, 40000, 65535]], np.uint16)
    box = letterbox((100, 600), [(10, 60)])  # the canvas shows the picture at a tenth
    camera = Camera(300, 300, 0, 0, "request")  # 30 pixels of the canvas
    # 98.302 m are more than 16 bits have.
    assert metric_depth(depth, camera, box, 20.0).tolist() == [[0, 2, 1500, 1502, 60000, 0]]
    assert metric_depth(depth, camera, box, 90.0).tolist() == [[0, 1, 333, 334, 13333, 21845]]
    assert metric_depth(depth, camera, box, 30.0).tolist() == depth.tolist()
    assert metric_depth(depth, camera, box, None) is depth
    assert metric_depth(depth, camera, box, 20.0).dtype == np.uint16


def test_the_scale_is_that_of_the_side_that_fills_the_canvas() -> None:
    # The other side, 60 * 3 / 3000 pixels, is rounded up to one, which would be 16 times as much.
    box = letterbox((3000, 3), [(60, 60)])
    assert metric_depth(np.array([[1000]], np.uint16), Camera(500, 500, 0, 0, "request"), box, 10.0) == 1000


@pytest.mark.parametrize("squeezed", [(480, 320), (240, 640)])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_pixels_that_are_not_square(squeezed: tuple[int, int], format: str, orientation: int) -> None:
    """The network sees the picture as it would be with square ones, and its depth is scaled as of that one."""
    sizes = [(48, 64), (64, 48)]
    upright, focal = np.asarray(Image.fromarray(quadrants(480, 640)).resize((640, 480))), 500.0
    height, width = squeezed
    fx, fy = focal * width / 640, focal * height / 480
    given = Given(fx, fy)
    picture = Image.fromarray(upright).resize((width, height), Image.Resampling.BOX)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    if orientation == 6:  # Stored as a camera held upright does.
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    data = encode(np.asarray(picture), format, exif=exif.tobytes())
    canvas, box = images.decode_to_canvas(data, 10**6, sizes, given.stretch)
    expected, square = images.fit(upright, sizes)
    assert (box.size, box.canvas, box.height, box.width) == (squeezed, (48, 64), 48, 64)
    assert np.abs(canvas.astype(int) - expected).mean() < 3
    depth = np.full((48, 64), 1000, np.uint16)
    of_square = metric_depth(depth, camera_of(b"", (480, 640), Given(focal)), square, 40.0)
    assert (metric_depth(depth, camera_of(b"", squeezed, given), box, 40.0) == of_square).all()
    assert of_square[0, 0] == 1250


def test_a_calibration_is_not_so_exact_that_pixels_would_not_be_square() -> None:
    assert Given(500, 505).stretch == 1
    assert Given(500, 520).stretch == pytest.approx(1.04)
    assert Given(5, 9000).stretch == pytest.approx(1800)
    for fx, fy in [(math.inf, 5), (0, 5), (500, math.nan), (-500, 500), (500, 1e9), (1e308, 1e-308), (1e-308, 1e308)]:
        assert Given(fx, fy).stretch == Given(fy, fx).stretch == 1


class Metric(FakeEngine):
    """Its depth is for a focal length of 50 pixels of the canvas."""

    def __init__(self) -> None:
        super().__init__()
        raw = card()
        raw["depth"]["focal_px"] = 50.0
        self.card = ModelCard.model_validate(raw)


def depth_of(response: httpx.Response) -> np.ndarray:
    return np.asarray(opened(base64.b64decode(response.json()["depth"]["depth_png"])))


ROWS, COLUMNS = np.mgrid[:48, :64]
RAW = 1000 + 10 * ROWS + COLUMNS


def test_the_answer_names_the_camera_and_its_depth_is_for_it() -> None:
    app = fake_app(Metric())
    response = ask(lambda c: c.post("/predict?fx=100&fy=99&cx=30&cy=20", content=PICTURE), app)
    assert np.array_equal(depth_of(response), 2 * RAW)
    body = response.json()
    hfov = math.degrees(math.atan(0.305) + math.atan(0.335))
    assert body["camera"] == {
        **{"fx": 100.0, "fy": 99.0, "cx": 30.0, "cy": 20.0},
        **{"hfov_deg": round(hfov, 4), "source": "request"},
    }
    assert (body["depth"]["min_m"], body["depth"]["max_m"]) == (2.0, 3.066)
    red = next(c for c in body["segmentation"]["classes"] if c["name"] == "red")
    assert red["median_depth_m"] == float(np.median(2 * RAW[:24, :32])) / 1000
    assert body["model"]["name"] == "tiny"


INFER = "/v2/models/segdepth/infer"


def inference(*pictures: bytes, **parameters: Any) -> dict[str, Any]:
    data = [base64.b64encode(picture).decode() for picture in pictures]
    tensor = {"name": "image", "shape": [len(pictures)], "datatype": "BYTES", "data": data}
    return {"inputs": [tensor], "parameters": parameters}


def test_the_inference_protocol_takes_a_camera_and_names_it() -> None:
    camera = {"fx": 100, "fy": 99.5, "cx": 30, "cy": 20}
    body = ask(
        lambda c: c.post(INFER, json=inference(PICTURE, PICTURE, **camera, timeout=7)), fake_app(Metric())
    ).json()
    assert body["parameters"] == {**camera, "source": "request"}
    depth = next(output for output in body["outputs"] if output["name"] == "depth")
    assert np.array_equal(np.reshape(depth["data"], depth["shape"]), np.stack([2 * RAW] * 2))
    # Pictures by different cameras have no one camera.
    body = ask(lambda c: c.post(INFER, json=inference(PICTURE, with_exif(26))), fake_app(Metric())).json()
    assert "parameters" not in body
    body = ask(lambda c: c.post(INFER, json=inference(with_exif(26))), fake_app(Metric())).json()
    assert body["parameters"]["source"] == "exif"


@pytest.mark.parametrize(
    ("parameters", "status", "reason"),
    [
        ({"fx": 0}, 422, "between 3.2 and 6400 pixels"),
        ({"fx": 60, "hfov": 60}, 422, "give one of them"),
        ({"hfov": 180}, 422, "between 1 and 179"),
        ({"fx": "60"}, 400, "parameters.fx"),
        ({"fx": True}, 400, "parameters.fx"),
    ],
)
def test_impossible_cameras_of_the_inference_protocol(parameters: dict[str, Any], status: int, reason: str) -> None:
    answer = ask(lambda c: c.post(INFER, json=inference(PICTURE, **parameters)))
    assert answer.status_code == status
    assert reason in answer.json()["error"]


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
@pytest.mark.parametrize("query", ["hfow=90", "fx=60&Fy=60", "file=x", "intrinsics=1,2,3,4"])
def test_unknown_parameters_are_refused(path: str, query: str) -> None:
    """A camera that is misspelt would be an assumed one."""
    files = {"file": ("a.png", PICTURE)}
    problem = check_problem(ask(lambda c: c.post(f"{path}?{query}", files=files)), 422)
    name = query.partition("&")[2] or query
    assert f"no parameter '{name.partition('=')[0]}'" in problem["detail"]
    assert "fx, fy, cx, cy, hfov, pictures" in problem["detail"]


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_parameter_that_is_given_twice_is_refused(path: str) -> None:
    """Either of two cameras would be a guess."""
    problem = check_problem(ask(lambda c: c.post(f"{path}?fx=60&fx=70", files={"file": ("a.png", PICTURE)})), 422)
    assert "given twice" in problem["detail"]


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_parameters_are_no_fields_of_a_form(path: str) -> None:
    files = {"file": ("a.png", PICTURE)}
    problem = check_problem(ask(lambda c: c.post(path, files=files, data={"fx": "60"})), 422)
    assert problem["detail"] == "'fx' is a parameter of the query (?fx=...), not a field of the form."
    assert ask(lambda c: c.post(path, files=files, data={"note": "60"})).status_code == 200


def test_single_pngs_are_scaled_too() -> None:
    app = fake_app(Metric())
    answer = ask(lambda c: c.post("/predict?hfov=90&output=depth", content=PICTURE), app)
    assert np.array_equal(opened(answer.content), np.rint(RAW * (32 / 50)))


def test_a_smaller_upload_of_the_same_view_has_the_same_depth() -> None:
    """Both fill the canvas in the same way, and the focal length in pixels halves with the picture."""
    whole, half = (
        ask(lambda c, q=q, p=p: c.post(f"/predict?{q}", content=p), fake_app(Metric()))
        for q, p in [("fx=80", encode(quadrants(96, 128))), ("fx=40", encode(quadrants(48, 64)))]
    )
    assert np.array_equal(depth_of(half), np.rint(RAW * 0.8))
    assert whole.json()["camera"]["hfov_deg"] == half.json()["camera"]["hfov_deg"]
    assert abs(float(np.median(depth_of(whole))) - float(np.median(depth_of(half)))) <= 5


def test_exif_of_a_turned_photo() -> None:
    """Stored lying, seen upright: the width that counts is that of the upright picture."""
    stored = np.ascontiguousarray(np.rot90(quadrants(64, 48)))
    photo = with_exif(26, stored, orientation=6)
    answer = ask(lambda c: c.post("/predict", content=photo), fake_app(Metric()))
    camera = answer.json()["camera"]
    focal = 26 / math.hypot(36, 24) * 80
    assert (answer.json()["width"], answer.json()["height"]) == (48, 64)
    assert camera["source"] == "exif"
    assert (camera["fx"], camera["cx"], camera["cy"]) == (round(focal, 4), 23.5, 31.5)
    assert camera["hfov_deg"] == round(math.degrees(2 * math.atan(24 / focal)), 4)
    assert np.array_equal(depth_of(answer)[0, 0], np.rint(1000 * focal / 50))


def test_without_a_focal_length_in_the_card_depth_stays_as_it_is() -> None:
    answer = ask(lambda c: c.post("/predict?fx=100", content=PICTURE))
    assert np.array_equal(depth_of(answer), RAW)
    assert answer.json()["camera"]["fx"] == 100


# --- a real server, and the benchmark that sends intrinsics


def test_served_quality_with_and_without_intrinsics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = card()
    raw["depth"]["focal_px"] = 50.0
    model = write_model(tmp_path / "model.onnx", card_text=json.dumps(raw))
    data = tmp_path / "data"
    for folder in ("images", "labels", "depth"):
        (data / folder).mkdir(parents=True)
    # The tiny model says 2040 mm of yellow; the picture's camera has twice the focal length of the model's.
    picture = np.full((48, 64, 3), (255, 255, 0), np.uint8)
    Image.fromarray(picture).save(data / "images" / "a.png")
    Image.fromarray(np.full((48, 64), 3, np.uint8)).save(data / "labels" / "a.png")
    Image.fromarray(np.full((48, 64), 4080, np.uint16)).save(data / "depth" / "a.png")
    info: dict[str, Any] = {
        **{"format": 1, "name": "yellow", "license": "CC0-1.0", "classes": raw["classes"]},
        **{"splits": {"test": ["a"]}, "intrinsics": {"a": [100.0, 100.0, 31.5, 23.5]}},
    }
    (data / "dataset.json").write_text(json.dumps(info))

    def figures(*more: str) -> dict[str, float]:
        served_quality.main(["--url", server.url, "--data", str(data), *more])
        values: dict[str, float] = json.loads(capsys.readouterr().out)["values"]
        return values

    with start("--model", str(model)) as server:
        server.wait_ready()
        exact, assumed = figures("--intrinsics"), figures()
        assert exact["miou"] == 1
        assert exact["abs_rel"] == 0
        # 0.85 * 64 instead of 100 pixels.
        assert assumed["abs_rel"] == pytest.approx(1 - 0.544, abs=1e-3)
        assert assumed["abs_rel_scaled"] == pytest.approx(0, abs=1e-6)
        (data / "dataset.json").write_text(json.dumps({**info, "intrinsics": {}}))
        with pytest.raises(SystemExit, match="no intrinsics for 'a'; leave out --intrinsics"):
            figures("--intrinsics")
