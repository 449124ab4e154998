"""The bundled model in a real server: what a stranger gets who types `make serve` and posts a photo."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from service_process import Server, start

from model.classes import IGNORE, NYU40
from service.engine import OnnxEngine, read_card
from service.images import decode_to_canvas
from service.settings import BUNDLED_MODEL
from training.data import FolderDataset, read_info

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "photos"


@pytest.fixture(scope="module")
def bundled() -> Iterator[Server]:
    with start() as running:
        running.wait_ready()
        yield running


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_it_is_small_and_says_what_it_is() -> None:
    card = read_card(BUNDLED_MODEL)
    assert BUNDLED_MODEL.stat().st_size < 15_000_000
    assert (card.network, card.backbone) == ("mtl_ssw", "mobilenet_v2")
    assert [c.name for c in card.classes] == [c.name for c in NYU40]
    assert card.depth.focal_px
    assert "CC-BY" in card.training.license and "CC-BY" in card.training.attribution
    assert all({"miou", "abs_rel", "rmse"} <= e.values.keys() for e in card.evaluations if e.data == "rooms")
    assert card.evaluations[0].data == "rooms"
    assert "/" not in card.training.details["start"]


def test_without_colours_a_picture_has_the_same_maps() -> None:
    """What `input.saturation` of the card says, for which the service decodes no colours."""
    engine = OnnxEngine(BUNDLED_MODEL)
    assert engine.card.input.saturation == 0
    for path in sorted((EXAMPLES / "images").glob("*.jpg")):
        coloured, grey = (
            engine.infer(decode_to_canvas(path.read_bytes(), 10**6, engine.card.input.sizes, grey=grey)[0][None])
            for grey in (False, True)
        )
        assert (coloured.labels != grey.labels).mean() < 0.01
        assert np.abs(coloured.depth / grey.depth - 1).mean() < 0.003


def test_notice_names_every_author_that_the_card_credits() -> None:
    notice = (EXAMPLES.parent / "NOTICE").read_text(encoding="utf-8")
    for credited in read_card(BUNDLED_MODEL).training.attribution.split(" + "):
        authors = credited.partition(" by ")[2].partition("; and under CC0")[0].split("; ")
        assert len(authors) > 5 and all(author in notice for author in authors)


def test_rooms_it_has_never_seen_come_out_right(bundled: Server) -> None:
    info = read_info(EXAMPLES)
    truth = FolderDataset(info, "test")
    right = known = 0
    relative = []
    for name in truth.names:
        upload = (EXAMPLES / "images" / f"{name}.jpg").read_bytes()
        camera = dict(zip(("fx", "fy", "cx", "cy"), info.intrinsics[name], strict=True))
        answer = httpx.post(f"{bundled.url}/predict", params=camera, files={"file": upload}, timeout=60).json()
        mask = np.asarray(decoded(answer["segmentation"]["mask_png"]))
        depth = np.asarray(decoded(answer["depth"]["depth_png"]), dtype=np.float64)
        room = truth.read(name)
        right += int((mask == room.label).sum())
        known += int((room.label != IGNORE).sum())
        valid = room.depth > 0
        relative.append(np.mean(np.abs(depth - room.depth)[valid] / room.depth[valid]))
    assert right / known > 0.6  # the largest class alone, wall, is less than 0.4
    assert np.mean(relative) < 0.25


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no folder of real photos beside the repository (../shared/photos)")
def test_every_real_photo_is_answered_in_its_own_size(bundled: Server) -> None:
    for path in sorted(PHOTOS.glob("*.png")):
        with Image.open(path) as photo:
            size = photo.size
        raw = httpx.post(f"{bundled.url}/predict", content=path.read_bytes(), timeout=60)
        form = httpx.post(f"{bundled.url}/predict", files={"file": path.read_bytes()}, timeout=60)
        assert raw.status_code == form.status_code == 200
        answer = raw.json()
        assert (answer["width"], answer["height"]) == size
        assert decoded(answer["segmentation"]["mask_png"]).size == decoded(answer["depth"]["depth_png"]).size == size
        assert answer["segmentation"]["mask_png"] == form.json()["segmentation"]["mask_png"]
        assert abs(sum(c["fraction"] for c in answer["segmentation"]["classes"]) - 1) < 1e-4
        assert 0.2 < answer["depth"]["min_m"] < answer["depth"]["max_m"] < 15
