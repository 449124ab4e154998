"""Figures of a running service on a data set: every picture goes through /predict, as a client's would.

segdepth serve --model model.onnx &
python benchmarks/served_quality.py --url http://127.0.0.1:8000 --data data/rooms --split test --intrinsics

With `--intrinsics`, each request gives the intrinsics of `dataset.json`; without, the service assumes a camera.
Printed are the figures of protocol `mtl` (`training/metrics.py`), and `abs_rel_scaled`: the mean over pictures of
abs_rel after the prediction was scaled to the median of the truth, which a camera of unknown focal length does not
spoil.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data import FolderDataset, read_info
from training.metrics import PROTOCOLS, SegmentationMetrics


def png(text: str) -> NDArray[Any]:
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        return np.asarray(picture)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Figures of a running service on a data set.")
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000")
    add("--data", type=Path, required=True, help="data set folder")
    add("--split", default="test")
    add("--intrinsics", action="store_true", help="send those of dataset.json with each picture")
    args = parser.parse_args(argv)

    info = read_info(args.data)
    pictures = FolderDataset(info, args.split)
    segmentation, depth = SegmentationMetrics(len(info.classes)), PROTOCOLS["mtl"]()
    scaled = []
    if args.intrinsics and (without := next((name for name in pictures.names if name not in info.intrinsics), None)):
        sys.exit(f"served_quality: {args.data} has no intrinsics for '{without}'; leave out --intrinsics")
    with httpx.Client(base_url=args.url, timeout=60) as client:
        served = [c["name"] for c in client.get("/model").raise_for_status().json()["classes"]]
        if served != [c.name for c in info.classes]:
            sys.exit(f"served_quality: the classes of {args.url} are not those of {args.data}")
        for name in pictures.names:
            (path,) = (info.root / "images").glob(f"{name}.*")
            camera = dict(zip(("fx", "fy", "cx", "cy"), info.intrinsics[name], strict=True)) if args.intrinsics else {}
            file = {"file": (path.name, path.read_bytes())}
            answer = client.post("/predict", params=camera, files=file).raise_for_status().json()
            truth = pictures.read(name)
            label = png(answer["segmentation"]["mask_png"])
            metres = png(answer["depth"]["depth_png"]) / 1000
            segmentation.update(label[None].astype(np.int64), truth.label[None].astype(np.int64))
            depth.update(metres[None], truth.depth[None] / 1000)
            known = (truth.depth > 0) & (metres > 0)
            if known.any():
                t, p = truth.depth[known] / 1000, metres[known]
                scaled.append(float(np.mean(np.abs(p * np.median(t) / np.median(p) - t) / t)))
    values = {k: v for k, v in {**segmentation.compute(), **depth.compute()}.items() if v == v}  # without NaN
    if scaled:
        values["abs_rel_scaled"] = float(np.mean(scaled))
    result = {"data": info.name, "split": args.split, "protocol": "mtl", "pictures": len(pictures), "values": values}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
