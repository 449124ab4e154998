"""Measures a checkpoint on one split of a data set.

python training/evaluate.py runs/boxes/checkpoint.safetensors --data data/boxes
python training/evaluate.py runs/boxes/checkpoint.safetensors --data data/boxes --split val --json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from model.checkpoint import CheckpointError, load_checkpoint
from training.data import DataError, FolderDataset, Sample, ignore_signals, read_info
from training.metrics import DepthMetrics, SegmentationMetrics

PROTOCOL = "mtl"


def network_size(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """The size at which a picture is run: its own shape, as large as fits `size`, turned for a portrait picture."""
    if (height > width) != (size[0] > size[1]):
        size = size[1], size[0]
    scale = min(size[0] / height, size[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def predict(network: nn.Module, image: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """Runs one picture at the training size and brings the maps back to its own size.

    Args:
        image: [1, 3, H, W] in 0..1.
        size: Training size (height, width).

    Returns:
        `segmentation`: logits [1, classes, H, W]; `depth`: metres [1, 1, H, W]; as float32.
    """
    own = (image.shape[2], image.shape[3])
    run = network_size(*own, size)
    if run != own:
        image = F.interpolate(image, size=run, mode="bilinear", align_corners=False, antialias=True)
    outputs: dict[str, Tensor] = network(image)
    return {
        task: F.interpolate(out.float(), size=own, mode="bilinear", align_corners=False) if run != own else out.float()
        for task, out in outputs.items()
    }


@torch.inference_mode()
def evaluate(
    network: nn.Module, dataset: FolderDataset, size: tuple[int, int], *, workers: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Figures of `network` (left in the mode it was in) over a data set without augmentation.

    Returns:
        `data`, `split`, `protocol`, `pictures`, `values` (of the tasks it has; see `training.metrics`), and `iou`
        by class name, None for a class that does not occur.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    segmentation = SegmentationMetrics(len(dataset.info.classes))
    depth = DepthMetrics()
    loader: DataLoader[Sample] = DataLoader(
        dataset,
        batch_size=1,  # pictures may differ in size
        sampler=[(0, i) for i in range(len(dataset))],
        num_workers=workers,
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # its own, so that measuring does not disturb training's random numbers
    )
    tasks: set[str] = set()
    for sample in tqdm(loader, desc=f"evaluate {dataset.split}", disable=not progress, leave=False):
        outputs = predict(network, sample["image"].to(device), size)
        tasks |= outputs.keys()
        if "segmentation" in outputs:
            segmentation.update(outputs["segmentation"].argmax(1).cpu().numpy(), sample["label"].numpy())
        if "depth" in outputs:
            depth.update(outputs["depth"].squeeze(1).cpu().numpy(), sample["depth"].numpy())
    network.train(was_training)
    values = segmentation.compute() if "segmentation" in tasks else {}
    values |= depth.compute() if "depth" in tasks else {}
    iou = segmentation.iou()
    return {
        "data": dataset.info.name,
        "split": dataset.split,
        "protocol": PROTOCOL,
        "pictures": len(dataset),
        "values": {name: value for name, value in values.items() if value == value},  # nothing measured: no figure
        "iou": {
            c.name: None if iou[c.id] != iou[c.id] else float(iou[c.id])
            for c in (dataset.info.classes if "segmentation" in tasks else ())
        },
    }


def format_result(result: dict[str, Any]) -> str:
    """A few lines for people."""
    lines = [f"{result['data']} {result['split']}, {result['pictures']} pictures, protocol {result['protocol']}"]
    lines.append("  ".join(f"{name} {value:.4f}" for name, value in result["values"].items()))
    lines += [f"  IoU {name:16} {value:.3f}" for name, value in result["iou"].items() if value is not None]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures a checkpoint on one split of a data set.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    try:
        checkpoint = load_checkpoint(args.checkpoint)
        info = read_info(args.data)
        if info.classes != checkpoint.config.classes:
            raise DataError(f"{args.data / 'dataset.json'}: its classes are not those of {args.checkpoint}")
        dataset = FolderDataset(info, args.split)
        network = checkpoint.network().to(args.device)
        size = tuple(checkpoint.info["training"]["size"])
        result = evaluate(network, dataset, size, workers=args.workers, progress=not args.json)
    except (CheckpointError, DataError) as error:
        sys.exit(f"evaluate: {error}")
    print(json.dumps(result, indent=2) if args.json else format_result(result))


if __name__ == "__main__":
    main()
