"""FastAPI as its documentation teaches: an `UploadFile`, and a plain `def`, which runs in a thread.

uvicorn benchmarks.peer_apps.fastapi_app:app --port 8000
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, UploadFile

from benchmarks.peer_apps.job import load_codecs, load_model

app = FastAPI()
model, codecs = load_model(), load_codecs()


@app.get("/health")
def health() -> str:
    return "ok"


@app.post("/predict")
def predict(file: UploadFile) -> dict[str, Any]:
    canvas, place = codecs.decode(file.file.read(), model.sizes)
    return codecs.encode(model(canvas[None])[0], place)  # type: ignore[no-any-return]
