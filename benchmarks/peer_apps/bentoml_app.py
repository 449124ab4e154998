"""BentoML as its documentation teaches: a service class, and a file as a path.

python -m bentoml serve benchmarks.peer_apps.bentoml_app:Rooms --port 8000
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bentoml

from benchmarks.peer_apps.job import WORKERS, load_codecs, load_model


@bentoml.service(workers=WORKERS, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Rooms:
    def __init__(self) -> None:
        self.model, self.codecs = load_model(), load_codecs()

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, file: Path) -> dict[str, Any]:
        canvas, place = self.codecs.decode(file.read_bytes(), self.model.sizes)
        return self.codecs.encode(self.model(canvas[None])[0], place)  # type: ignore[no-any-return]
