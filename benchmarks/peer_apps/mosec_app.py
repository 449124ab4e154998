"""mosec as its documentation teaches: decoding, the batched network, and encoding are stages, of
processes of their own.

python -m benchmarks.peer_apps.mosec_app --address 127.0.0.1 --port 8000
"""

from __future__ import annotations

from typing import Any

import mosec

from benchmarks.peer_apps.job import BATCH, WORKERS, load_codecs, load_model, run_batch


class Decode(mosec.Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        self.codecs, self.sizes = load_codecs(), load_model().sizes

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> Any:
        return self.codecs.decode(data, self.sizes)


class Infer(mosec.Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        self.model = load_model()

    def forward(self, data: list[Any]) -> list[Any]:
        return run_batch(self.model, data)


class Encode(mosec.Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        self.codecs = load_codecs()

    def forward(self, data: Any) -> dict[str, Any]:
        return self.codecs.encode(*data)  # type: ignore[no-any-return]


if __name__ == "__main__":
    server = mosec.Server()
    server.append_worker(Decode, num=WORKERS)
    server.append_worker(Infer, num=WORKERS, max_batch_size=BATCH, max_wait_time=10)
    server.append_worker(Encode, num=WORKERS)
    server.run()
