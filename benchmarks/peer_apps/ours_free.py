"""The real app with an engine that costs nothing.

uvicorn --factory benchmarks.peer_apps.ours_free:create --port 8000
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray

from benchmarks.peer_apps.job import FreeModel
from service.app import create_app
from service.engine import Prediction, read_card
from service.settings import BUNDLED_MODEL, Settings


class FreeEngine:
    provider = "none"
    nodes: ClassVar[dict[str, int]] = {}
    max_batch = 8

    def __init__(self) -> None:
        self.card = read_card(BUNDLED_MODEL)
        self._model = FreeModel()
        self._confidence = {size: np.full(size, 200, np.uint8) for size in self._model.sizes}

    def warm_up(self, progress: Callable[[int, int], None]) -> None:
        progress(1, 1)

    def infer(self, batch: NDArray[np.uint8]) -> Prediction:
        labels, depth = self._model(batch[:1])[0]
        confidence = self._confidence[labels.shape]  # type: ignore[index]
        return Prediction(
            *(np.broadcast_to(plane, (len(batch), *plane.shape)) for plane in (labels, depth, confidence))
        )

    def close(self) -> None:
        pass


def create() -> FastAPI:
    engine = FreeEngine()
    return create_app(Settings.load(), lambda: (engine.card, [lambda: engine]))
