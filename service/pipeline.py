"""A request on one page: decode -> fit -> queue -> infer -> unfit -> render.

The event loop does no pixel work: decoding and rendering run in a thread pool sized to the cores, and the batcher's
thread runs the engine.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Literal, TypeVar

from service import answers, images
from service.batcher import Batcher, Result
from service.card import ModelCard
from service.images import Letterbox, UInt8
from service.metrics import Metrics
from service.settings import Settings

T = TypeVar("T")
Output = Literal["mask", "depth", "depth_color", "overlay"]


class Pipeline:
    """Everything that answers a request. Lives as long as the app."""

    def __init__(self, settings: Settings, card: ModelCard, batcher: Batcher, metrics: Metrics) -> None:
        self.settings = settings
        self.card = card
        self.batcher = batcher
        self.metrics = metrics
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="segdepth-pixels")

    def start(self) -> None:
        self.batcher.start()

    def close(self) -> None:
        self.batcher.close()
        self._pool.shutdown()

    async def predict(self, upload: bytes, output: Output | None) -> bytes:
        """Answer an uploaded picture file: JSON, or with `output` that one PNG.

        Raises:
            Problem: any of UnsupportedImage, BrokenImage, TooManyPixels, NotReady, EnginesLost, Overloaded,
                DeadlineExceeded, InferenceFailed and Stopping.
        """
        start = time.perf_counter()
        canvas_bytes = max(height * width * 3 for height, width in self.card.input.sizes)
        with self.batcher.place(len(upload) + canvas_bytes):
            canvas, box, decode_s = await self.in_pool(lambda: self._decode(upload))
            result = await self.batcher.infer(canvas)
            return await self.in_pool(lambda: self._render(upload, output, box, result, start, decode_s))

    async def in_pool(self, work: Callable[[], T]) -> T:
        """Run pixel work in a thread, with this request's context."""
        inside = copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: inside.run(work))

    def _decode(self, upload: bytes) -> tuple[UInt8, Letterbox, float]:
        """decode -> fit. Only the canvas is kept: many large pictures may be waiting."""
        start = time.perf_counter()
        picture = images.decode(upload, self.settings.max_pixels)
        canvas, box = images.fit(picture, self.card.input.sizes)
        return canvas, box, time.perf_counter() - start

    def _render(
        self, upload: bytes, output: Output | None, box: Letterbox, result: Result, start: float, decode_s: float
    ) -> bytes:
        """unfit -> render."""
        encode_start = time.perf_counter()
        body = self._json(box, result, start, decode_s) if output is None else self._png(upload, output, box, result)
        encode_s = time.perf_counter() - encode_start
        self.metrics.observe_stages(decode=decode_s, queue=result.queue_s, infer=result.infer_s, encode=encode_s)
        return body

    def _json(self, box: Letterbox, result: Result, start: float, decode_s: float) -> bytes:
        encode_start = time.perf_counter()
        labels = images.unfit_nearest(result.prediction.labels, box)
        depth = images.unfit_depth(result.prediction.depth, box)
        segmentation = answers.segmentation(labels, depth, self.card)
        depth_answer = answers.depth_answer(depth, self.card)
        end = time.perf_counter()
        timing = answers.Timing(
            decode=_ms(decode_s),
            queue=_ms(result.queue_s),
            infer=_ms(result.infer_s),
            encode=_ms(end - encode_start),
            total=_ms(end - start),
        )
        answer = answers.Answer(
            width=box.size[1],
            height=box.size[0],
            segmentation=segmentation,
            depth=depth_answer,
            model=answers.model_used(self.card, str(self.batcher.provider)),
            timing_ms=timing,
        )
        return answer.model_dump_json().encode()

    def _png(self, upload: bytes, output: Output, box: Letterbox, result: Result) -> bytes:
        if output in ("depth", "depth_color"):
            depth = images.unfit_depth(result.prediction.depth, box)
            if output == "depth":
                return images.depth_png(depth)
            return images.depth_color_png(depth, self.card.depth.min_m, self.card.depth.max_m)
        labels = images.unfit_nearest(result.prediction.labels, box)
        if output == "mask":
            return images.mask_png(labels, answers.colors(self.card))
        picture = images.decode(upload, self.settings.max_pixels)
        return images.overlay_png(picture, labels, answers.colors(self.card))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
