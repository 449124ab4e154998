"""The bundled model in a real server: what a stranger gets who types `make serve` and posts a photo."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from service_process import Server, start

from model.classes import NYU40
from service.engine import read_card
from service.settings import BUNDLED_MODEL
from training.boxes import render

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "photos"


@pytest.fixture(scope="module")
def bundled() -> Iterator[Server]:
    with start() as running:
        running.wait_ready()
        yield running


def jpeg(pixels: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_it_is_small_and_says_what_it_is() -> None:
    card = read_card(BUNDLED_MODEL)
    assert BUNDLED_MODEL.stat().st_size < 15_000_000
    assert (card.network, card.backbone) == ("mtl_ssw", "mobilenet_v2")
    assert [c.name for c in card.classes] == [c.name for c in NYU40]
    assert card.training.license
    assert {"miou", "abs_rel", "rmse"} <= card.evaluations[0].values.keys()


def test_rooms_it_has_never_seen_come_out_right(bundled: Server) -> None:
    right = total = 0
    relative = []
    for index in range(20):
        room = render(987654, index, (320, 240), "full")  # a seed that no training uses
        answer = httpx.post(f"{bundled.url}/predict", files={"file": jpeg(room.image)}, timeout=60).json()
        mask = np.asarray(decoded(answer["segmentation"]["mask_png"]))
        depth = np.asarray(decoded(answer["depth"]["depth_png"]), dtype=np.float64)
        right += int((mask == room.label).sum())
        total += mask.size
        relative.append(np.median(np.abs(depth - room.depth) / room.depth))
    assert right / total > 0.6  # the largest class alone, wall, is 0.4
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
