"""Eight bits: static quantisation of an exported network, and what it loses. For `deploy/export.py --precision int8`.

Weights are int8 with a scale per channel, maps between the layers uint8 with a scale and a zero point per tensor, in
ONNX's QuantizeLinear and DequantizeLinear: ONNX Runtime and OpenVINO fuse them with the convolution between them. A
tensor's range is the mean, over the calibration pictures, of its least and its greatest value: one odd picture does
not stretch it, and it needs two numbers per tensor and picture, where histograms of percentiles would need minutes.

Three things keep full precision, since they take no time and decide the result: the convolutions that give logits
and metres, all after them, and what is done to vectors (squeeze-and-excitation gates, global pooling).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from tqdm import tqdm

from service.arrays import UInt8
from service.cameras import Camera, metric_depth
from service.engine import OnnxEngine, Prediction
from service.images import fit, unfit_depth, unfit_nearest
from training.data import DatasetInfo, FolderDataset
from training.metrics import DepthMetrics, SegmentationMetrics

# Convolutions, and what lies between two of them: where one of these had full precision, its maps would be converted.
OP_TYPES = ["Conv", "Relu", "Clip", "Add", "Mul", "Concat", "MaxPool"]
POOLING = ("ReduceMean", "GlobalAveragePool")
# ONNX Runtime asks for its own preparation of a graph, of which the exporter has done all that matters, unless this
# says that it was done.
PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}


CALIBRATION_PICTURES = 200
"""Where nothing else is said."""


class QuantizationError(Exception):
    """A network that is not to be quantised so; the message is one line."""


class Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """`count` pictures of a split, evenly spread over it, on the canvases that the service would put them on.

    Args:
        count: None: `CALIBRATION_PICTURES`, or all there are.
        sizes: of the card, (height, width).

    Raises:
        DataError: an unknown or empty split; when reading, a missing or damaged file.
        QuantizationError: the split has fewer pictures.
    """

    def __init__(self, info: DatasetInfo, split: str, count: int | None, sizes: list[tuple[int, int]]) -> None:
        self.data = FolderDataset(info, split)
        self.count = count = min(CALIBRATION_PICTURES, len(self.data)) if count is None else count
        if not 1 <= count <= len(self.data):
            raise QuantizationError(
                f"{info.root}: split '{split}' has {len(self.data)} pictures, and {count} are wanted; give "
                "--calibration-pictures or --calibration-split"
            )
        names = [self.data.names[i * len(self.data) // count] for i in range(count)]
        self.canvases: Iterator[UInt8] = (
            fit(self.data.read(name).image, sizes, stretch_of(camera_of(info, name)))[0] for name in names
        )

    def get_next(self) -> dict[str, UInt8] | None:
        canvas = next(self.canvases, None)
        return None if canvas is None else {"image": canvas[None]}


def camera_of(info: DatasetInfo, name: str) -> Camera | None:
    """The true camera of a picture, where it is known."""
    return Camera(*info.intrinsics[name], "request") if name in info.intrinsics else None


def stretch_of(camera: Camera | None) -> float:
    """What the service does to a picture whose pixels are not square."""
    return camera.stretch if camera else 1.0


def quantize(source: Path, target: Path, calibration: Calibration) -> onnx.ModelProto:
    """Quantises the fp32 file `source`, by way of the file `target`; the result has no card yet."""
    proto = onnx.load(source)
    onnx.helper.set_model_props(proto, PREPARED)
    quantize_static(
        proto,
        target,
        calibration,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=OP_TYPES,
        nodes_to_exclude=sorted(full_precision(proto.graph)),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"CalibMovingAverage": True},
    )
    return onnx.load(target)


def full_precision(graph: onnx.GraphProto) -> set[str]:
    """The names of the nodes that keep full precision."""
    maker = {name: node for node in graph.node for name in node.output}
    kept: set[str] = set()

    # From the outputs back to the last convolutions, those included.
    waiting = [output.name for output in graph.output]
    while waiting:
        node = maker.get(waiting.pop())
        # A shape is taken from any map; what made that map is another matter.
        if node is None or node.op_type == "Shape" or node.name in kept:
            continue
        kept.add(node.name)
        if node.op_type != "Conv":
            waiting.extend(node.input)

    # From a mean over the picture on, as long as nothing but vectors (and weights) comes in.
    vectors: set[str] = set()
    weights = {weight.name for weight in graph.initializer}
    for node in graph.node:
        inputs = {name for name in node.input if name} - weights
        if node.op_type in POOLING or (inputs and inputs <= vectors):
            vectors.update(node.output)
            kept.add(node.name)
    return kept


def measure(reference: Path, quantized: Path, data: FolderDataset) -> dict[str, Any]:
    """Runs two files with cards over a split as the service would, with the true intrinsics where they are known.

    Returns:
        JSON-able: `data`, `split`, `pictures`; `equal_labels`, the share of pixels; `fp32` and `int8`, each with
        `miou` and `rmse` (metres; protocol `mtl`); `miou_loss`, the difference, and `rmse_loss`, relative.

    Raises:
        DataError: a missing, damaged or ill-fitting file.
        QuantizationError: the split has no labelled pixel or no true depth.
    """
    engines = {"fp32": OnnxEngine(reference), "int8": OnnxEngine(quantized)}
    card = engines["fp32"].card
    figures = {name: (SegmentationMetrics(len(card.classes)), DepthMetrics()) for name in engines}
    equal, pixels = 0, 0
    for name in tqdm(data.names, desc=f"measure {data.split}", leave=False, disable=None):
        truth = data.read(name)
        camera = camera_of(data.info, name)
        canvas, box = fit(truth.image, card.input.sizes, stretch_of(camera), card.input.grey)
        found: dict[str, Prediction] = {key: engine.infer(canvas[None]) for key, engine in engines.items()}
        equal += int((found["fp32"].labels == found["int8"].labels).sum())
        pixels += canvas.shape[0] * canvas.shape[1]
        for key, (segmentation, depth) in figures.items():
            labels, mm = found[key].labels[0], found[key].depth[0]
            if camera:
                mm = metric_depth(mm, camera, box, card.depth.focal_px)
            segmentation.update(unfit_nearest(labels, box), truth.label)
            depth.update(unfit_depth(mm, box) / 1000, truth.depth / 1000)
    values = {
        key: {"miou": segmentation.compute()["miou"], "rmse": depth.compute()["rmse"]}
        for key, (segmentation, depth) in figures.items()
    }
    before, after = values["fp32"], values["int8"]
    if not all(np.isfinite(list(before.values()))):
        raise QuantizationError(f"{data.info.root}: split '{data.split}' has no labels or no depth to measure with")
    return {
        "data": data.info.name,
        "split": data.split,
        "pictures": len(data),
        "equal_labels": round(equal / pixels, 6),
        **values,
        "miou_loss": before["miou"] - after["miou"],
        "rmse_loss": after["rmse"] / max(before["rmse"], 1e-6) - 1,
    }
