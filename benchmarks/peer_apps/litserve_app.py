"""LitServe as its documentation teaches: decode, batched predict, encode.

python -m benchmarks.peer_apps.litserve_app 8000
"""

from __future__ import annotations

import sys
from typing import Any

import litserve

from benchmarks.peer_apps.job import BATCH, WORKERS, load_codecs, load_model, run_batch


class Rooms(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.model, self.codecs = load_model(), load_codecs()

    # Without a type: LitServe would take one for the schema of the request.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        return self.codecs.decode(request["file"].file.read(), self.model.sizes)

    def batch(self, inputs: list[Any]) -> list[Any]:
        # Its documentation stacks arrays of one size; here are two sizes, and each picture's place goes along.
        return inputs

    def predict(self, inputs: list[Any]) -> list[Any]:
        return run_batch(self.model, inputs)

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        return self.codecs.encode(*output)


if __name__ == "__main__":
    api = Rooms(max_batch_size=BATCH, batch_timeout=0.01)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
