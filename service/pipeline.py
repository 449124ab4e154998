"""A request on one page: decode -> fit -> queue -> infer -> unfit -> render.

The event loop does no pixel work: `service.pixels` decodes and renders, and the batcher's thread runs the engine.
"""

from __future__ import annotations

import time

from service import pixels
from service.batcher import Batcher
from service.card import ModelCard
from service.errors import TooManyPictures
from service.metrics import Metrics
from service.outputs import Options, Output, Rendered
from service.pixels import Pixels
from service.sending import Sending
from service.settings import Settings


class Pipeline:
    """Everything that answers a request with one model. Lives as long as that is used.

    Args:
        sending: of the whole server, whichever model made the answers.
    """

    def __init__(
        self,
        settings: Settings,
        card: ModelCard,
        batcher: Batcher,
        pixels: Pixels,
        metrics: Metrics,
        sending: Sending,
    ) -> None:
        self.settings = settings
        self.card = card
        self.batcher = batcher
        self.pixels = pixels
        self.metrics = metrics
        self.sending = sending
        self.canvas_bytes = max(height * width * 3 for height, width in card.input.sizes)
        """What a picture takes once it is decoded."""

    def require_queue_holds(self, pictures: int) -> None:
        """Raises TooManyPictures where it never will, however often a client tries again."""
        if pictures > self.settings.queue_size:
            raise TooManyPictures(f"At most {self.settings.queue_size} pictures fit in the queue of this server.")

    def start(self) -> None:
        self.pixels.start()
        self.batcher.start()

    def close(self) -> None:
        self.batcher.close()
        self.pixels.close()

    async def predict(self, upload: bytes, output: Output = "json", options: Options | None = None) -> Rendered:
        """Answer an uploaded picture file.

        Raises:
            Problem: any of UnsupportedImage, BrokenImage, TooManyPixels, InvalidRequest (an impossible camera),
                NotReady, EnginesLost, Overloaded, DeadlineExceeded, InferenceFailed, WorkerLost and Stopping.
        """
        start = time.perf_counter()
        chosen = options or Options()
        with self.batcher.place(len(upload) + self.canvas_bytes):
            canvas, seen = await self.pixels.run(pixels.decode, upload, chosen.camera)
            result = await self.batcher.infer(canvas)
            # To a process it would be sent once more.
            shown = upload if chosen.shows_picture(output) else b""
            answer, encode_s = await self.pixels.run(
                pixels.draw, shown, output, chosen, seen, result, start, self.batcher.provider
            )
        self.metrics.observe_stages(decode=seen.decode_s, queue=result.queue_s, infer=result.infer_s, encode=encode_s)
        return answer
