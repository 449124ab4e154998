"""Turns a checkpoint into one self-describing ONNX file.

python deploy/export.py runs/boxes/checkpoint.safetensors --out model.onnx
python deploy/export.py runs/nyud/checkpoint.safetensors --out model.onnx --sizes 480x640,640x480 --precision fp16

The file takes `image`, uint8 [N, H, W, 3] RGB, and gives `labels`, uint8 [N, H, W]; `depth`, uint16 millimetres
[N, H, W], 0 = invalid; `confidence`, uint8 [N, H, W], the winning softmax probability x 255. N, H and W are symbolic.
Its metadata `segdepth` holds the model card (JSON). It is kept only after PyTorch and ONNX Runtime agreed on it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import json
import logging
import os
import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from model.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from model.networks import count_parameters

OPSET = 20
METADATA_KEY = "segdepth"
OUTPUTS = ("labels", "depth", "confidence")
BATCHES = (1, 3)

# Least share of equal labels, and the largest depth error as millimetres + share of the depth. Half precision keeps
# 11 bits, so a depth may move by 2^-11 in each of a few dozen layers; 1 % is what that came to and stays far below
# the error of any network.
BOUNDS = {"fp32": (0.999, 1.0, 0.0), "fp16": (0.995, 1.0, 0.01)}


class ExportError(Exception):
    """A checkpoint that cannot be exported; the message is one line."""


class Deployable(nn.Module):
    """A network from bytes to bytes: what is in the graph need not be copied to the device or computed around it."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 [N, H, W, 3] to labels, depth in millimetres and confidence, each [N, H, W]."""
        outputs = self.network(image.permute(0, 3, 1, 2).to(self.dtype) / 255)
        logits = outputs["segmentation"].float()  # [N, classes, H, W]; softmax and depth in full precision
        peak, labels = logits.max(dim=1)
        confidence = (logits - peak.unsqueeze(1)).exp().sum(dim=1).reciprocal()  # softmax of the winner
        millimetres = (outputs["depth"].float().squeeze(1) * 1000).round().clamp(0, 65535)
        return labels.to(torch.uint8), millimetres.to(torch.uint16), (confidence * 255).round().to(torch.uint8)


def to_onnx(module: Deployable) -> onnx.ModelProto:
    """Traces the graph with symbolic batch, height and width."""
    example = torch.zeros(2, 96, 128, 3, dtype=torch.uint8)
    dim = torch.export.Dim
    shapes = {"image": {0: dim("batch", min=1), 1: dim("height", min=32), 2: dim("width", min=32)}}
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        # The exporter prints its stages and warns about its own use of PyTorch; an error still raises.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
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


def load_pictures(folder: Path | None, size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    """`count` pictures [count, H, W, 3]: from a folder, else made of seeded noise at all scales, as photos have."""
    if folder is not None:
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not paths:
            raise ExportError(f"{folder}: no .jpg or .png picture to compare on")
        out = []
        for i in range(count):
            with Image.open(paths[i % len(paths)]) as file:
                out.append(np.asarray(file.convert("RGB").resize((size[1], size[0]))))
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
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    equal, worst_mm, excess_mm, worst_confidence = 1.0, 0, 0.0, 0
    least_equal, bound_mm, bound_share = BOUNDS[precision]
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
    if equal < least_equal or excess_mm > 0:
        raise ExportError(
            f"PyTorch and ONNX Runtime disagree: {equal:.4%} equal labels (bound {least_equal:.1%}), depth off by "
            f"up to {worst_mm} mm (bound {bound_mm:g} mm + {bound_share:.0%}); nothing was written"
        )
    return result


# ------------------------------------------------------------------------------------------------ card


def make_card(
    checkpoint: Checkpoint, parameters: int, sizes: list[tuple[int, int]], precision: str, args: argparse.Namespace
) -> dict[str, Any]:
    """The model card; its schema is `service/card.py`."""
    config, info = checkpoint.config, checkpoint.info
    data, training = info["data"], info["training"]
    digest = hashlib.sha256()
    for name in sorted(checkpoint.weights):
        digest.update(checkpoint.weights[name].contiguous().numpy().tobytes())
    evaluations = [
        {key: evaluation[key] for key in ("data", "split", "protocol", "values")}
        for evaluation in info.get("evaluations", [])[-1:]
    ]
    for path in args.evaluation:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        evaluations.append({key: evaluation[key] for key in ("data", "split", "protocol", "values")})
    kept = ("epochs", "batch_size", "lr", "weights", "size", "zoom", "color", "loss_weights", "precision", "seed")
    return {
        "format": 1,
        "name": args.name or f"{config.network}-{config.backbone}",
        "version": args.version or digest.hexdigest()[:12],
        "description": args.description,
        "network": config.network,
        "backbone": config.backbone,
        "parameters": parameters,
        "precision": precision,
        "classes": [asdict(c) for c in config.classes],
        "input": {"sizes": [list(s) for s in sizes], "fit": "letterbox", "color_space": "sRGB"},
        "depth": {"unit": "mm", "invalid": 0, "min_m": data["min_depth_m"], "max_m": data["max_depth_m"]},
        "training": {
            "data": data["name"],
            "license": data["license"],
            "pictures": data["pictures"],
            "details": {key: training[key] for key in kept},
        },
        "evaluations": evaluations,
        "versions": {
            package: importlib.metadata.version(package) for package in ("segdepth", "torch", "onnx", "onnxruntime")
        },
    }


def export(args: argparse.Namespace) -> dict[str, Any]:
    """Exports and compares as `args` says, and writes `args.out`.

    Returns:
        The card.

    Raises:
        CheckpointError, ExportError: with a one-line reason; nothing is written then.
    """
    checkpoint = load_checkpoint(args.checkpoint)
    network = checkpoint.network()
    if set(network.tasks) != {"segmentation", "depth"}:
        raise ExportError(f"{checkpoint.config.network} has one task; the service answers with both")
    reference = Deployable(network, torch.float32).eval()
    dtype = torch.float16 if args.precision == "fp16" else torch.float32
    parameters = count_parameters(network)
    proto = to_onnx(Deployable(checkpoint.network(), dtype))

    card = make_card(checkpoint, parameters, args.sizes, args.precision, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(f".{args.out.name}.partial")
    try:
        onnx.save(proto, temporary)
        card["agreement"] = compare(reference, temporary, args.sizes, args.pictures, args.precision)
        onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(card, ensure_ascii=False)})
        onnx.checker.check_model(proto, full_check=False)
        onnx.save(proto, temporary)
        os.replace(temporary, args.out)
    finally:
        temporary.unlink(missing_ok=True)
    return card


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
    add("checkpoint", type=Path)
    add("--out", type=Path, required=True)
    add("--sizes", type=parse_sizes, default=parse_sizes("480x640,640x480"), help="sizes to serve (480x640,640x480)")
    add("--precision", choices=tuple(BOUNDS), default="fp32")
    add("--pictures", type=Path, help="folder of pictures to compare on (default: seeded noise)")
    add("--evaluation", type=Path, action="append", default=[], help="JSON of evaluate.py to put in the card")
    add("--name", help="default: NETWORK-BACKBONE")
    add("--version", help="default: a digest of the weights")
    add("--description", default="")
    args = parser.parse_args(argv)
    try:
        card = export(args)
    except (CheckpointError, ExportError) as error:
        sys.exit(f"export: {error}")
    agreement = card["agreement"]
    print(
        f"compared on {agreement['pictures']} at {agreement['sizes']}, batches {agreement['batches']}: "
        f"{agreement['equal_labels']:.4%} equal labels, depth within {agreement['max_depth_error_mm']} mm, "
        f"confidence within {agreement['max_confidence_error']}/255"
    )
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, {card['name']} {card['version']}")


if __name__ == "__main__":
    main()
