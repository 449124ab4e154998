"""What the API tests share: a fake engine, an in-process client, and pictures."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
from fastapi import FastAPI
from PIL import Image
from service_onnx import card

from service.app import create_app
from service.card import ModelCard
from service.engine import Prediction
from service.settings import Settings


class FakeEngine:
    """Labels from the pixels' colours as the tiny model gives them, depth from the position.

    Depth is 1000 + 10 * row + column mm. While `gate` is cleared, the engine is busy.
    """

    provider = "FakeExecutionProvider"
    nodes: ClassVar = {"FakeExecutionProvider": 3}
    max_batch = 1000

    def __init__(self) -> None:
        self.card = ModelCard.model_validate(card())
        self.gate = threading.Event()
        self.gate.set()
        self.warm_gate = threading.Event()
        self.warm_gate.set()
        self.batches: list[np.ndarray] = []
        self.fail = False
        self.closed = False

    def warm_up(self, progress: Callable[[int, int], None]) -> None:
        progress(1, 3)
        self.warm_gate.wait(20)
        progress(3, 3)

    def infer(self, batch: np.ndarray) -> Prediction:
        self.batches.append(batch)
        self.gate.wait(20)
        if self.fail:
            raise RuntimeError("secret insides")
        n, height, width, _ = batch.shape
        bits = (batch > 127).astype(np.uint8)
        rows, columns = np.mgrid[:height, :width]
        depth = np.broadcast_to(1000 + 10 * rows + columns, (n, height, width)).astype(np.uint16)
        return Prediction(bits @ np.array([1, 2, 4], np.uint8), depth, batch.max(axis=3))

    def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def serving(app: FastAPI, ready: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app, with the app's lifespan around it."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=20) as client:
            while ready and not app.state.models.current.batcher.ready:
                await asyncio.sleep(0.005)
            yield client


def fake_app(engine: FakeEngine | None = None, **settings: Any) -> FastAPI:
    """The app on one fake engine."""
    chosen = engine or FakeEngine()
    return create_app(Settings(**settings), lambda: (chosen.card, [lambda: chosen]))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def ask(test: Callable[[httpx.AsyncClient], Awaitable[Any]], app: FastAPI | None = None, ready: bool = True) -> Any:
    """Run a coroutine with a client of the app; gives what it gives."""

    async def run() -> Any:
        async with serving(app or fake_app(), ready) as client:
            return await test(client)

    return asyncio.run(run())


def encode(picture: np.ndarray | Image.Image, format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(out, format, **options)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def quadrants(height: int = 48, width: int = 64) -> np.ndarray:
    """A picture that shows how it lies: red top left, green top right, blue bottom left, white bottom right."""
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[: height // 2, : width // 2] = (255, 0, 0)
    picture[: height // 2, width // 2 :] = (0, 255, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    return picture


HEIC = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "heic").iterdir())}
"""`quadrants()` by libheif and x265, which pi-heif comes without; `turned` as a phone held upright stores it. EXIF has
a focal length of 26 mm."""


def check_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check that an answer is an RFC 9457 problem, and give it."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert {"type", "title", "status", "detail", "request_id"} <= set(body)
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["status"] == status
    assert all(isinstance(body[name], str) and body[name] for name in ("type", "title", "detail"))
    return body
