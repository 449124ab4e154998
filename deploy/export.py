"""Turns a checkpoint into one self-describing ONNX file.

python deploy/export.py runs/boxes/checkpoint.safetensors --out model.onnx
python deploy/export.py runs/nyud/checkpoint.safetensors --out model.onnx --sizes 240x320,480x640 --precision fp16
python deploy/export.py runs/nyud/checkpoint.safetensors --out model.onnx --precision int8 --calibration data/nyud
python deploy/export.py runs/seg/checkpoint.safetensors runs/depth/checkpoint.safetensors --out model.onnx

Two checkpoints are single-task networks, one of segmentation and one of depth, that run side by side in one file.

The file takes `image`, uint8 [N, H, W, 3] RGB, and gives `labels`, uint8 [N, H, W]; `depth`, uint16 millimetres
[N, H, W], 0 = invalid; `confidence`, uint8 [N, H, W], the winning softmax probability x 255. N, H and W are symbolic.
Its metadata `segdepth` holds the model card (JSON). It is kept only after PyTorch and ONNX Runtime agreed on it, and
in int8 only after the figures that it loses on labelled pictures were measured (`deploy/quantize.py`).
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib.metadata
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Collection, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from deploy.quantize import Calibration, QuantizationError, measure, quantize
from model.base import TASKS, Network
from model.blocks import resize
from model.checkpoint import Checkpoint, CheckpointError, data_of, load_checkpoint, with_saturation
from model.classes import same_classes
from model.networks import count_parameters
from service.card import METADATA_KEY, ModelCard
from service.engine import OUTPUTS
from service.rgb import to_rgb
from training.data import DataError, FolderDataset, read_info

OPSET = 20
BATCHES = (1, 3)

# Least share of equal labels, the largest depth error as millimetres + share of the depth, and that of confidence, of
# 255. Half precision keeps 11 bits, so a depth may move by 2^-11 in each of a few dozen layers; 1 % is what that came
# to and stays far below the error of any network. Confidence follows from the same logits as the labels.
BOUNDS = {"fp32": (0.999, 1.0, 0.0, 2), "fp16": (0.995, 1.0, 0.01, 13)}


class ExportError(Exception):
    """A checkpoint that cannot be exported; the message is one line."""


class SideBySide(Network):
    """Single-task networks as one: each sees the picture and gives its own map."""

    tasks = TASKS

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> dict[str, Any]:
        return {task: plane for network in self.networks for task, plane in network(image).items()}


def join(checkpoints: Sequence[Checkpoint]) -> tuple[Network, list[Checkpoint]]:
    """The network that gives both tasks, in evaluation mode, and its checkpoints: one, or segmentation's and depth's.

    Raises:
        CheckpointError, ExportError: with a one-line reason.
    """
    networks = [checkpoint.network() for checkpoint in checkpoints]
    tasks = [network.tasks for network in networks]
    if len(tasks) == 1 and set(tasks[0]) == set(TASKS):
        return networks[0], list(checkpoints)
    if sorted(tasks) == sorted((task,) for task in TASKS):
        order = [tasks.index((task,)) for task in TASKS]
        return SideBySide([networks[i] for i in order]).eval(), [checkpoints[i] for i in order]
    if len(tasks) == 1:
        (own,) = tasks[0]
        other = next(task for task in TASKS if task != own)
        raise ExportError(f"{checkpoints[0].config.network} has one task, {own}; give a checkpoint of {other} as well")
    given = ", ".join(f"{c.config.network} ({' and '.join(t)})" for c, t in zip(checkpoints, tasks, strict=True))
    raise ExportError(f"give one checkpoint of both tasks, or one of segmentation and one of depth, not {given}")


def ready_to_trace(network: nn.Module) -> nn.Module:
    """Changes a network, in place, to one of the same maps that is traced in about half the time and runs faster on a
    CPU (`upsample`); gives it.

    Each batch normalisation goes into the convolution before it. The exporter would do so too, but at its end, after
    it traced them; and in half precision, the folded weights are so rounded once, not twice. "Before it" is the order
    in which a module holds its parts: a network that runs them in another order is found out by `compare`.
    """
    for module in network.modules():
        if isinstance(module, Network):
            module.upsample = upsample  # type: ignore[method-assign]
        if isinstance(module, nn.ReLU6):
            module.inplace = False  # in place, it takes as much tracing as all else in a MobileNetV2
        for (name, part), (next_name, following) in pairwise(list(module.named_children())):
            if isinstance(part, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                setattr(module, name, nn.utils.fuse_conv_bn_eval(part, following))
                setattr(module, next_name, nn.Identity())
    return network


def upsample(prediction: Tensor, image: Tensor) -> Tensor:
    """`Network.upsample`, such that the classes of a pixel lie side by side in memory, where they are soon compared.

    ONNX Runtime on a CPU takes several times as long to find the largest of values that are a whole map apart: with
    that, half of a small network's time. It can resize such maps too, but on a CPU only; so each axis is multiplied by
    the matrix of its weights.

    Args:
        prediction: [N, channels, h, w].
        image: [N, 3, H, W].

    Returns:
        [N, channels, H, W]; of several channels, in full precision.
    """
    n, channels, height, width = prediction.shape
    if channels == 1:
        return resize(prediction, image)
    h, w = image.shape[2:]
    y = bilinear(w, width) @ prediction.float().permute(0, 2, 3, 1)  # [N, h, W, channels]
    y = bilinear(h, height) @ y.reshape(n, height, w * channels)
    return y.reshape(n, h, w, channels).permute(0, 3, 1, 2)


def bilinear(outputs: int, inputs: int) -> Tensor:
    """The weights of each input in each output along one axis, [outputs, inputs], as `F.interpolate` has them."""
    at = ((torch.arange(outputs, dtype=torch.float32) + 0.5) * (inputs / outputs) - 0.5).clamp(0, inputs - 1)
    return (1 - (at.unsqueeze(1) - torch.arange(inputs, dtype=torch.float32)).abs()).clamp(min=0)


class InFull(nn.Module):
    """A layer that computes in full precision, whatever precision it is given and others have."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.float()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.float())
        return y


def in_precision(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Changes a network, in place, to one that computes in `dtype`, but for the layer that gives depth; gives it.

    Half precision has 11 bits: of metres, its steps are 2 mm from 2 m on, and 8 mm from 8 m on.
    """
    full = {
        name: copy.deepcopy(layer)
        for name, layer in network.named_modules()
        if name.endswith("heads.depth.classifier") or (name.endswith("heads.depth") and not [*layer.children()])
    }
    network.to(dtype)
    if dtype != torch.float32:
        for name, layer in full.items():
            network.set_submodule(name, InFull(layer))
    return network


class Deployable(nn.Module):
    """A network from bytes to bytes: what is in the graph need not be copied to the device or computed around it."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = in_precision(network, dtype)
        self.dtype = dtype

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 [N, H, W, 3] to labels, depth in millimetres and confidence, each [N, H, W]."""
        outputs = self.network(image.to(self.dtype).permute(0, 3, 1, 2) / 255)
        logits = outputs["segmentation"].float().permute(0, 2, 3, 1)  # softmax and depth in full precision
        peak, labels = logits.max(dim=3)
        confidence = (logits - peak.unsqueeze(3)).exp().sum(dim=3).reciprocal()  # softmax of the winner
        millimetres = (outputs["depth"].float().squeeze(1) * 1000).round().clamp(0, 65535)
        return labels.to(torch.uint8), millimetres.to(torch.uint16), (confidence * 255).round().to(torch.uint8)


def to_onnx(module: Deployable) -> onnx.ModelProto:
    """Traces the graph with symbolic batch, height and width."""
    example = torch.zeros(2, 96, 128, 3, dtype=torch.uint8)
    # Named by strings, not by `Dim`: to a Dim belongs a proof that every size of it takes the same way through the
    # network, which fails for some networks, and the exporter then traces them once more.
    shapes = {"image": {0: "batch", 1: "height", 2: "width"}}
    # Without gradients, tracing has no backward pass to think of.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
        # The exporter prints its stages and warns about its own use of PyTorch; an error still raises.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval().requires_grad_(False),
            (example,),
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    # The exporter notes source lines, with the paths of this machine, at every node and value.
    for item in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output, proto.graph):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    return proto


# ------------------------------------------------------------------------------------------- agreement


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder.

    Raises:
        ExportError: there are none.
    """
    if paths := [p for p in sorted(folder.glob("*")) if p.suffix.lower() in (".jpg", ".jpeg", ".png")]:
        return paths
    raise ExportError(f"{folder}: no .jpg or .png picture to compare on")


def load_pictures(folder: Path | None, size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    """`count` pictures [count, H, W, 3]: from a folder, else made of seeded noise at all scales, as photos have.

    Raises:
        ExportError: one cannot be read.
    """
    if folder is not None:
        paths = picture_files(folder)
        out = []
        for i in range(count):
            path = paths[i % len(paths)]
            try:
                with Image.open(path) as file:
                    out.append(np.asarray(to_rgb(file).resize((size[1], size[0]))))
            except OSError as error:
                raise ExportError(f"{path}: cannot be read: {error.strerror or 'not a picture, or cut off'}") from None
        return np.stack(out)
    rng = np.random.default_rng(0)
    total = np.zeros((count, *size, 3))
    for cells in (2, 4, 8, 16, 32, 64):
        for picture in total:
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            picture += np.asarray(noise.resize((size[1], size[0]), Image.Resampling.BICUBIC)) / cells**0.5
    low, high = total.min(axis=(1, 2, 3), keepdims=True), total.max(axis=(1, 2, 3), keepdims=True)
    made: NDArray[np.uint8] = (255 * (total - low) / (high - low)).astype(np.uint8)
    return made


def compare(
    reference: Deployable, file: Path, sizes: list[tuple[int, int]], pictures: Path | None, precision: str
) -> dict[str, Any]:
    """Runs PyTorch in fp32 and the file in ONNX Runtime (CPU) on the same pictures.

    Returns:
        What was compared, the share of equal labels, the largest errors of depth (mm) and confidence (of 255).

    Raises:
        ExportError: they differ by more than the precision's bound.
    """
    import onnxruntime  # Late, when this package has turned off its telemetry.

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # OMP_NUM_THREADS is for both.
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    equal, worst_mm, excess_mm, worst_confidence = 1.0, 0, 0.0, 0
    least_equal, bound_mm, bound_share, bound_confidence = BOUNDS[precision]
    for size in sizes:
        for batch in BATCHES:
            image = load_pictures(pictures, size, batch)
            with torch.inference_mode():
                expected = [out.numpy() for out in reference(torch.from_numpy(image))]
            got = session.run(list(OUTPUTS), {"image": image})
            for name, e, g in zip(OUTPUTS, expected, got, strict=True):
                if e.shape != g.shape or e.dtype != g.dtype:
                    raise ExportError(f"output {name}: {g.dtype}{list(g.shape)}, expected {e.dtype}{list(e.shape)}")
            equal = min(equal, float((expected[0] == got[0]).mean()))
            error = np.abs(expected[1].astype(np.int64) - got[1].astype(np.int64))
            worst_mm = max(worst_mm, int(error.max()))
            excess_mm = max(excess_mm, float((error - bound_mm - bound_share * expected[1]).max()))
            confidence_error = np.abs(expected[2].astype(np.int64) - got[2].astype(np.int64))
            worst_confidence = max(worst_confidence, int(confidence_error.max()))
    result = {
        "reference": "PyTorch fp32",
        "pictures": str(pictures.name) if pictures else "seeded noise",
        "sizes": [list(s) for s in sizes],
        "batches": list(BATCHES),
        "equal_labels": round(equal, 6),
        "max_depth_error_mm": worst_mm,
        "max_confidence_error": worst_confidence,
    }
    if equal < least_equal or excess_mm > 0 or worst_confidence > bound_confidence:
        raise ExportError(
            f"PyTorch and ONNX Runtime disagree: {equal:.4%} equal labels (bound {least_equal:.1%}), depth off by "
            f"up to {worst_mm} mm (bound {bound_mm:g} mm + {bound_share:.0%}), confidence by up to {worst_confidence} "
            f"of 255 (bound {bound_confidence}); nothing was written"
        )
    return result


# ------------------------------------------------------------------------------------------------ card


def read_evaluation(path: Path, weights: Collection[str], saturations: Collection[float]) -> dict[str, Any]:
    """What `evaluate.py --json` wrote, as the card has it.

    Args:
        weights: `Checkpoint.digest` of the exported networks.
        saturations: How much they see of the colours.

    Raises:
        ExportError: no such file, something else is in it, or figures that the service does not reach.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("augmentation"):
            raise ExportError(f"{path}: measured with test-time augmentation, which the service does not do")
        if (measured := found.get("weights")) is not None and measured not in weights:
            raise ExportError(f"{path}: measured with other weights; measure the checkpoint that is exported")
        if (seen := found.get("saturation")) is not None and seen not in saturations:
            raise ExportError(f"{path}: measured at saturation {seen}, which is not that of the exported network")
        return {key: found[key] for key in ("data", "split", "protocol", "values")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{path}: not what evaluate.py --json writes ({type(error).__name__}: {error})") from None


def make_card(
    parts: Sequence[Checkpoint],
    parameters: int,
    sizes: list[tuple[int, int]],
    precision: str,
    evaluations: list[dict[str, Any]],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """The model card; its schema is `service/card.py`. Where there are two parts, both are named in it.

    Args:
        evaluations: Besides those of the trainings.
    """
    segmentation, depth = parts[0], parts[-1]
    kept = ["preset", "epochs", "batch_size", "optimizer", "lr", "size", "zoom", "color", "focal", "seed"]
    kept += ["swa", "ema", "grey", "loss_weights", "depth_loss", "class_balance", "loss_stride", "precision"]
    kept += ["weighting", "auxiliary_weights", "warmup", "weight_decay", "clip", "accumulate", "train_split"]
    digest = hashlib.sha256()
    own, details = [], []
    for part in parts:
        digest.update(json.dumps(part.config.options, sort_keys=True).encode())
        for name in sorted(part.weights):
            digest.update(part.weights[name].contiguous().numpy().tobytes())
        own += evaluation_of(part)
        training = part.info["training"]
        named = {"options": part.config.options} | _origin(training)
        if unfinished(part):
            named["progress"] = part.info["progress"]
        details.append({key: training[key] for key in kept if key in training} | named)
    network, backbone = (_named(getattr(part.config, of) for part in parts) for of in ("network", "backbone"))
    data = data_of(parts)
    return {
        "format": 1,
        "name": args.name or f"{network}-{backbone}".replace(" ", ""),
        "version": args.version or digest.hexdigest()[:12],
        "description": args.description,
        "network": network,
        "backbone": backbone,
        "parameters": parameters,
        "precision": precision,
        "classes": [asdict(c) for c in segmentation.config.classes],
        "input": {
            "sizes": [list(s) for s in sizes],
            "fit": "letterbox",
            "color_space": "sRGB",
            "saturation": max(part.config.saturation for part in parts),
        },
        "depth": {
            "unit": "mm",
            "invalid": 0,
            "min_m": depth.info["data"]["min_depth_m"],
            "max_m": depth.info["data"]["max_depth_m"],
            "focal_px": focal_px(depth.info["training"]),
        },
        "training": {
            "data": _named(d["name"] for d in data),
            "license": _named(d["license"] for d in data),
            "attribution": _named(a for d in data if (a := d.get("attribution"))),
            "pictures": sum(d["pictures"] for d in data),
            "details": details[0] if len(parts) == 1 else dict(zip(TASKS, details, strict=True)),
        },
        "evaluations": [
            *({key: one[key] for key in ("data", "split", "protocol", "values")} for one in own),
            *evaluations,
        ],
        "versions": {
            package: importlib.metadata.version(package) for package in ("segdepth", "torch", "onnx", "onnxruntime")
        },
    }


def unfinished(part: Checkpoint) -> bool:
    """Whether a training stopped before its end."""
    progress: dict[str, int] | None = part.info.get("progress")
    return progress is not None and progress["step"] < progress["steps"]


def evaluation_of(part: Checkpoint) -> list[dict[str, Any]]:
    """What the training measured last, if it was of these weights: one that stopped may have trained on after it."""
    last: list[dict[str, Any]] = part.info.get("evaluations", [])[-1:]
    if last and unfinished(part):
        progress, epochs = part.info["progress"], part.info["training"]["epochs"]
        return last if last[0]["epoch"] * progress["steps"] == progress["step"] * epochs else []
    return last


def _origin(training: dict[str, Any]) -> dict[str, Any]:
    """What a training began with. A file's name, not its path: the card travels, the folders stay."""
    if start := training.get("start"):
        return {"start": start}
    if (single := training.get("single_task")) and single != ["none"]:
        return {"single_task": [Path(file).name for file in single]}
    return {"weights": Path(training["weights"]).name}


def training_sizes(part: Checkpoint) -> list[tuple[int, int]]:
    """The size of the training, upright and lying: what a network sees best, and its depth is learned for."""
    height, width = part.info["training"]["size"]
    return list(dict.fromkeys([(height, width), (width, height)]))


def common_sizes(parts: Sequence[Checkpoint]) -> list[tuple[int, int]]:
    """`training_sizes` of all parts.

    Raises:
        ExportError: they differ. Depth would be at another scale than it was learned at.
    """
    first, *others = [training_sizes(part) for part in parts]
    for other in others:
        if other != first:
            (a, b), (c, d) = first[0], other[0]
            raise ExportError(f"the checkpoints were trained at {a}x{b} and {c}x{d}; give --sizes")
    return first


def focal_px(training: dict[str, Any]) -> float | None:
    """The focal length, in pixels of what the network is given, that its depth was learned for; None: for any.

    `train.py --focal` counts in longer sides of the training size. What a network goes by is apparent size in pixels,
    so at another size it is still this number of pixels.
    """
    focal = float(training.get("focal", 0.0))
    return focal * max(training["size"]) if focal > 0 else None


def _named(names: Iterable[str]) -> str:
    """Each name once, in this order: `boxes`, or `boxes + nyud`."""
    return " + ".join(dict.fromkeys(names))


def export(args: argparse.Namespace) -> dict[str, Any]:
    """Exports and compares as `args` says, and writes `args.out`.

    Returns:
        The card.

    Raises:
        CheckpointError, ExportError, DataError, QuantizationError: with a one-line reason; nothing is written then.
    """
    if (args.precision == "int8") != (args.calibration is not None):
        raise ExportError("--precision int8 and --calibration DATA_FOLDER belong together")
    checkpoints = [load_checkpoint(path) for path in args.checkpoints]
    for path, one in zip(args.checkpoints, checkpoints, strict=True):
        if broken := next((name for name, values in one.weights.items() if not values.isfinite().all()), None):
            raise ExportError(f"{path}: {broken} is not finite; its training has come to nothing")
        if unfinished(one):
            progress = one.info["progress"]
            print(f"{path}: its training stopped at step {progress['step']} of {progress['steps']}")
    if args.saturation is not None:
        checkpoints = [with_saturation(one, args.saturation) for one in checkpoints]
    network, parts = join(checkpoints)
    # What is wrong with these shows before anything is traced, which takes longest.
    saturations = {one.config.saturation for one in parts}
    weights = [one.digest() for one in checkpoints]
    evaluations = [read_evaluation(path, weights, saturations) for path in args.evaluation]
    args.sizes = args.sizes or common_sizes(parts)
    if args.pictures is not None:
        load_pictures(args.pictures, args.sizes[0], max(BATCHES))
    traced = "fp32" if args.precision == "int8" else args.precision
    card = make_card(parts, count_parameters(network), args.sizes, traced, evaluations, args)
    try:
        ModelCard.model_validate(card)
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"]))
        raise ExportError(f"the service would refuse the model card: {where}: {found['msg']}") from None
    if args.out.is_dir():
        raise ExportError(f"--out {args.out} is a folder")
    temporary = args.out.with_name(f".{args.out.name}.partial")
    full = args.out.with_name(f".{args.out.name}.fp32")
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise ExportError(f"--out {args.out}: {error.strerror}") from None
    quantization = Quantization(parts[0], args) if args.precision == "int8" else None
    reference = Deployable(network, torch.float32).eval()
    dtype = torch.float16 if args.precision == "fp16" else torch.float32
    proto = to_onnx(Deployable(ready_to_trace(copy.deepcopy(network)), dtype))
    try:
        onnx.save(proto, temporary)
        card["agreement"] = compare(reference, temporary, args.sizes, args.pictures, traced)
        if quantization:
            _save(proto, card, full)
            proto, card = quantization.run(full, temporary, card)
        _save(proto, card, temporary)
        os.replace(temporary, args.out)
    finally:
        temporary.unlink(missing_ok=True)
        full.unlink(missing_ok=True)
    return card


def _save(proto: onnx.ModelProto, card: dict[str, Any], path: Path) -> None:
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(card, ensure_ascii=False)})
    onnx.checker.check_model(proto, full_check=False)
    onnx.save(proto, path)


class Quantization:
    """From fp32 to int8, as `args` says; what is wrong with the data shows before anything is traced.

    Raises:
        DataError, ExportError, QuantizationError: no such data, too few pictures, or other classes.
    """

    def __init__(self, segmentation: Checkpoint, args: argparse.Namespace) -> None:
        info = read_info(args.calibration)
        if not same_classes(info.classes, segmentation.config.classes):
            raise ExportError(f"the classes of {args.calibration} are not those of the checkpoint")
        self.args = args
        self.calibration = Calibration(info, args.calibration_split, args.calibration_pictures, args.sizes)
        self.measured = FolderDataset(info, args.measured_split)

    def run(self, full: Path, file: Path, card: dict[str, Any]) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """Quantises the file `full` by way of `file`; gives the graph and the card with what was lost.

        Raises:
            DataError: a damaged picture.
            QuantizationError: more than the bounds was lost, or nothing could be measured.
        """
        args = self.args
        proto = quantize(full, file, self.calibration)
        card = card | {"precision": "int8"}
        _save(proto, card, file)
        found = measure(full, file, self.measured)
        if found["miou_loss"] > args.max_miou_loss or found["rmse_loss"] > args.max_rmse_loss:
            raise QuantizationError(
                f"in int8 mIoU changes by {-100 * found['miou_loss']:+.2f} points (--max-miou-loss allows "
                f"{-100 * args.max_miou_loss:+g}) and rmse by {found['rmse_loss']:+.2%} (--max-rmse-loss allows "
                f"{args.max_rmse_loss:+.2%}) on {found['data']} {found['split']}; nothing was written"
            )
        calibration = {"calibration_split": args.calibration_split, "calibration_pictures": self.calibration.count}
        return proto, card | {"agreement": {"reference": "ONNX Runtime fp32", **calibration, **found}}


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """`480x640,640x480` to [(480, 640), (640, 480)]: height, width."""
    sizes = []
    for part in text.split(","):
        height, _, width = part.partition("x")
        if not (height.isdecimal() and width.isdecimal() and int(height) >= 32 and int(width) >= 32):
            raise argparse.ArgumentTypeError(f"'{part}' is not HEIGHTxWIDTH of at least 32")
        sizes.append((int(height), int(width)))
    return sizes


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Turns a checkpoint into one self-describing ONNX file.")
    add = parser.add_argument
    add(
        "checkpoints",
        type=Path,
        nargs="+",
        metavar="CHECKPOINT",
        help="one of both tasks, or two single-task ones, of segmentation and of depth, to run side by side",
    )
    add("--out", type=Path, required=True)
    add(
        "--sizes",
        type=parse_sizes,
        help="sizes to serve, HEIGHTxWIDTH,... (that of the training, in both orientations)",
    )
    add("--saturation", type=float, metavar="S", help="how much it sees of the colours, 0 to 1 (as in training)")
    add("--precision", choices=(*BOUNDS, "int8"), default="fp32")
    add("--pictures", type=Path, help="folder of pictures to compare on (default: seeded noise)")
    add("--evaluation", type=Path, action="append", default=[], help="JSON of evaluate.py to put in the card")
    int8 = parser.add_argument_group("int8", "the ranges of its maps come from pictures, and so does what it loses")
    int8.add_argument("--calibration", type=Path, metavar="DATA", help="data set folder")
    int8.add_argument("--calibration-split", default="train", metavar="SPLIT", help="to take ranges from (train)")
    int8.add_argument("--calibration-pictures", type=int, metavar="COUNT", help="of it (200, or all there are)")
    int8.add_argument("--measured-split", default="val", metavar="SPLIT", help="to measure the loss on (val)")
    int8.add_argument("--max-miou-loss", type=float, default=0.005, metavar="X", help="0.005: half a point")
    int8.add_argument("--max-rmse-loss", type=float, default=0.01, metavar="X", help="0.01: one per cent more")
    add("--name", help="default: NETWORK-BACKBONE")
    add("--version", help="default: a digest of the weights")
    add("--description", default="")
    args = parser.parse_args(argv)
    try:
        card = export(args)
    except (CheckpointError, ExportError, DataError, QuantizationError, OSError) as error:
        sys.exit(f"export: {error}")
    agreement = card["agreement"]
    if args.precision == "int8":
        before, after = agreement["fp32"], agreement["int8"]
        print(
            f"measured on {agreement['pictures']} pictures of {agreement['data']} {agreement['split']}: "
            f"{agreement['equal_labels']:.2%} equal labels, mIoU {before['miou']:.4f} -> {after['miou']:.4f}, "
            f"rmse {before['rmse']:.4f} -> {after['rmse']:.4f} m"
        )
    else:
        print(
            f"compared on {agreement['pictures']} at {agreement['sizes']}, batches {agreement['batches']}: "
            f"{agreement['equal_labels']:.4%} equal labels, depth within {agreement['max_depth_error_mm']} mm, "
            f"confidence within {agreement['max_confidence_error']}/255"
        )
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, {card['name']} {card['version']}")


if __name__ == "__main__":
    main()
