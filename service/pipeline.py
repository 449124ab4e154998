"""A request on one page: decode -> fit -> queue -> infer -> unfit -> render.

The event loop does no pixel work: decoding and rendering run in a thread pool sized to the cores, and the batcher's
thread runs the engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import NamedTuple, TypeVar

from service import cameras, images
from service.answers import Trace
from service.batcher import Batcher, Result
from service.cameras import Camera, Given
from service.card import ModelCard
from service.cores import usable_cores
from service.images import Letterbox, UInt8
from service.maps import Maps
from service.metrics import Metrics
from service.outputs import Options, Output, Rendered
from service.render import render
from service.settings import Settings

T = TypeVar("T")


class _Seen(NamedTuple):
    """What is kept of a decoded picture."""

    canvas: UInt8
    box: Letterbox
    camera: Camera
    decode_s: float


class Pipeline:
    """Everything that answers a request. Lives as long as the app."""

    def __init__(self, settings: Settings, card: ModelCard, batcher: Batcher, metrics: Metrics) -> None:
        self.settings = settings
        self.card = card
        self.batcher = batcher
        self.metrics = metrics
        self.canvas_bytes = max(height * width * 3 for height, width in card.input.sizes)
        """What a picture takes once it is decoded."""
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="segdepth-pixels")

    def start(self) -> None:
        self.batcher.start()

    def close(self) -> None:
        self.batcher.close()
        self._pool.shutdown()

    async def predict(self, upload: bytes, output: Output = "json", options: Options | None = None) -> Rendered:
        """Answer an uploaded picture file.

        Raises:
            Problem: any of UnsupportedImage, BrokenImage, TooManyPixels, InvalidRequest (an impossible camera),
                NotReady, EnginesLost, Overloaded, DeadlineExceeded, InferenceFailed and Stopping.
        """
        start = time.perf_counter()
        chosen = options or Options()
        with self.batcher.place(len(upload) + self.canvas_bytes):
            seen = await self.in_pool(lambda: self._decode(upload, chosen.camera))
            result = await self.batcher.infer(seen.canvas)
            return await self.in_pool(lambda: self._render(upload, output, chosen, seen, result, start))

    async def in_pool(self, work: Callable[[], T]) -> T:
        """Run pixel work in a thread, with this request's context."""
        inside = copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: inside.run(work))

    def _decode(self, upload: bytes, given: Given) -> _Seen:
        """decode -> fit. Only the canvas is kept: many large pictures may be waiting."""
        start = time.perf_counter()
        canvas, box = images.decode_to_canvas(upload, self.settings.max_pixels, self.card.input.sizes)
        camera = cameras.camera_of(upload, box.size, given)
        return _Seen(canvas, box, camera, time.perf_counter() - start)

    def _render(
        self, upload: bytes, output: Output, options: Options, seen: _Seen, result: Result, start: float
    ) -> Rendered:
        """unfit -> render."""
        encode_start = time.perf_counter()
        prediction = result.prediction
        depth = cameras.metric_depth(prediction.depth, seen.camera, seen.box, self.card.depth.focal_px)
        maps = Maps(
            read_picture=lambda: images.decode(upload, self.settings.max_pixels),
            box=seen.box,
            camera=seen.camera,
            canvas=prediction._replace(depth=depth),
            card=self.card,
        )
        trace = Trace(
            start, seen.decode_s, result.queue_s, result.infer_s, encode_start, provider=str(self.batcher.provider)
        )
        answer = render(maps, output, options, trace)
        encode_s = time.perf_counter() - encode_start
        self.metrics.observe_stages(decode=seen.decode_s, queue=result.queue_s, infer=result.infer_s, encode=encode_s)
        return answer
