"""Ray Serve as its documentation teaches: a deployment behind a FastAPI app, and `serve.batch` around the network.

python -m benchmarks.peer_apps.ray_app 8000
"""

# Without `from __future__ import annotations`: Ray sends this module's class to its replicas by value, where FastAPI
# cannot look annotations up that are only text.
import signal
import sys
from typing import Any

import ray
from fastapi import FastAPI, UploadFile
from ray import serve

from benchmarks.peer_apps.job import BATCH, WORKERS, load_codecs, load_model, run_batch

app = FastAPI()


# By default a replica takes 5 requests at once, which would be the largest batch.
@serve.deployment(num_replicas=WORKERS, max_ongoing_requests=4 * BATCH)
@serve.ingress(app)
class Rooms:
    def __init__(self) -> None:
        self.model, self.codecs = load_model(), load_codecs()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.01)
    async def infer(self, decoded: list[Any]) -> list[Any]:
        return run_batch(self.model, decoded)

    @app.get("/health")
    def health(self) -> str:
        return "ok"

    @app.post("/predict")
    async def predict(self, file: UploadFile) -> dict[str, Any]:
        decoded = self.codecs.decode(await file.read(), self.model.sizes)
        return self.codecs.encode(*await self.infer(decoded))  # type: ignore[no-any-return]


if __name__ == "__main__":
    # Its defaults but for the size: a cluster of this machine only, without a dashboard.
    ray.init(num_cpus=WORKERS + 1, include_dashboard=False, object_store_memory=200_000_000)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Rooms.bind())
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
