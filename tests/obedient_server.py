"""`segdepth serve` on an engine that does what a picture asks for: black fails, white takes long, others are answered.

    python tests/obedient_server.py --port 0

The service around it is the real one; see `tests/test_alerts.py`.
"""

from __future__ import annotations

import sys
import time
from unittest import mock

import numpy as np
from service_client import FakeEngine

from service import cli
from service.app import create_app
from service.engine import Prediction

SLOW_S = 1.3


class ObedientEngine(FakeEngine):
    def infer(self, batch: np.ndarray) -> Prediction:
        self.fail = not batch.any()
        if batch.all():
            time.sleep(SLOW_S)
        return super().infer(batch)


def main() -> None:
    engine = ObedientEngine()
    with mock.patch.object(
        cli, "create_app", lambda settings: create_app(settings, lambda: (engine.card, [lambda: engine]))
    ):
        cli.main(["serve", *sys.argv[1:]])


if __name__ == "__main__":
    main()
