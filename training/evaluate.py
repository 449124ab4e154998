"""Measures a checkpoint on one split of a data set, by a protocol that is named in the result.

python -m training.evaluate runs/nyud/checkpoint.safetensors --data data/nyud
python -m training.evaluate runs/nyud/checkpoint.safetensors --data data/nyud-raw --protocol eigen
python -m training.evaluate runs/nyud/checkpoint.safetensors --data data/nyud --flip --scales 1,1.25,1.5
python -m training.evaluate runs/stl_seg/checkpoint.safetensors --data data/nyud --json > seg.json      (and depth.json)
python -m training.evaluate runs/nyud/checkpoint.safetensors --data data/nyud --baseline seg.json depth.json

The protocols are in `training/metrics.py`. With --baseline (results of single-task networks) delta_m is added. Where
the data set names cameras, as SUN RGB-D does, there are figures for each. `saturation` of the JSON is how much the
network saw of the colours: 1, unless its training or --saturation says otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from model.checkpoint import CheckpointError, load_checkpoint, with_saturation
from model.classes import same_classes
from training.augment import fitting_scale
from training.data import (
    DataError,
    DatasetInfo,
    FolderDataset,
    Sample,
    batches,
    ignore_signals,
    read_info,
    relative_focal,
)
from training.metrics import PROTOCOLS, EdgeMetrics, EigenDepthMetrics, NormalsMetrics, SegmentationMetrics, delta_m
from training.parallel import usable_device
from training.targets import boundary_edges, edges_bridge, normals_radius, surface_normals

PROTOCOL = "mtl"


# ------------------------------------------------------------------------------------------------------- prediction


def network_size(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """The size at which a picture is run: its own shape, as large as fits `size`, turned for a portrait picture."""
    scale = fitting_scale(height, width, size)
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


def estimates(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What may be averaged, from a network's outputs: class probabilities, metres, unit normals, edge probabilities."""
    found = dict(outputs)
    if "segmentation" in found:
        found["segmentation"] = found["segmentation"].softmax(1)
    if "normals" in found:
        found["normals"] = F.normalize(found["normals"], dim=1)
    if "edges" in found:
        found["edges"] = found["edges"].sigmoid()
    return found


def predict_averaged(
    network: nn.Module, image: Tensor, size: tuple[int, int], scales: Sequence[float] = (1.0,), flip: bool = False
) -> dict[str, Tensor]:
    """`estimates` of `predict`, averaged over the picture at several scales of the training size, and mirrored.

    At scale s everything looks s times larger, as if it were s times nearer; so that depth is multiplied by s, the
    inverse of what the training's zoom does. That holds for scales within the range of that zoom: a network that was
    trained with zoom 1 to 1.5 has never seen a room smaller, and at 0.75 its depth does not follow.

    Returns:
        As `predict`, but with probabilities in place of logits.
    """
    total: dict[str, Tensor] = {}
    for scale in scales:
        run_size = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        for mirrored in (False, True)[: 1 + flip]:
            outputs = estimates(predict(network, image.flip(3) if mirrored else image, run_size))
            for task, out in outputs.items():
                if mirrored:
                    out = out.flip(3)
                    if task == "normals":
                        out = out * out.new_tensor([-1.0, 1.0, 1.0]).view(1, 3, 1, 1)
                if task == "depth":
                    out = out * scale
                total[task] = total[task] + out if task in total else out
    return {task: out / (len(scales) * (1 + flip)) for task, out in total.items()}


# ------------------------------------------------------------------------------------------------------- measuring


class Figures:
    """The metrics of all tasks over some pictures."""

    def __init__(self, classes: int, protocol: str) -> None:
        self.pictures = 0
        self.tasks: set[str] = set()
        self.segmentation = SegmentationMetrics(classes)
        self.depth = PROTOCOLS[protocol]()
        self.normals = NormalsMetrics()
        self.edges = EdgeMetrics()

    def update(self, predicted: dict[str, NDArray[Any]], truth: dict[str, NDArray[Any]]) -> None:
        """Adds one picture: class ids and depth [1, H, W], normals [H, W, 3], edge probabilities [H, W]."""
        self.pictures += 1
        for task in predicted.keys() & truth.keys():
            self.tasks.add(task)
            getattr(self, task).update(predicted[task], truth[task])

    def values(self) -> dict[str, float]:
        """The figures of the tasks there are, without those of which nothing was measured."""
        found: dict[str, float] = {}
        for task in ("segmentation", "depth", "normals", "edges"):
            if task in self.tasks:
                found |= getattr(self, task).compute()
        return {name: value for name, value in found.items() if value == value}


def camera_factor(info: DatasetInfo, name: str, shape: Sequence[int], size: tuple[int, int], focal: float) -> float:
    """What brings a network's depth to a picture's own camera: see `focal` of `evaluate`. `shape` is its [H, W]."""
    if not focal or name not in info.intrinsics:
        return 1.0
    height, width = shape
    fx = info.intrinsics[name][0] * network_size(height, width, size)[1] / width
    return relative_focal(fx, size) / focal


@contextlib.contextmanager
def as_served(network: nn.Module) -> Iterator[None]:
    """In evaluation mode; afterwards each module is in the mode it was in, for some may be frozen."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    dataset: FolderDataset,
    size: tuple[int, int],
    *,
    workers: int = 0,
    progress: bool = False,
    protocol: str = PROTOCOL,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    focal: float = 0.0,
) -> dict[str, Any]:
    """Figures of `network` (its modules left in the modes they were in) over a data set without augmentation.

    Args:
        protocol: Key of `training.metrics.PROTOCOLS`.
        scales: Of the training size, to average over.
        flip: Average over the mirrored picture too.
        focal: If not 0, the relative focal length that the network's depth is for (`training.data.relative_focal`): it
            is brought to that of each picture whose intrinsics are known; a note says of how many they are not.

    Returns:
        JSON-able: `data`, `split`, `protocol`, `depth_kind`, `augmentation` (at test time; None), `pictures`, `values`
        (of the tasks it has; see `training.metrics`), `iou` by class name, None for a class that does not occur,
        `cameras` (`pictures` and `values` of each; only where the data set names them), and `notes`.

    Raises:
        DataError: protocol eigen on a data set whose depth is filled.
    """
    info = dataset.info
    if protocol == "eigen" and info.depth_kind == "filled":
        raise DataError(f"{info.root}: protocol eigen is for raw depth, this is filled; prepare it with --depth raw")
    device = next(network.parameters()).device
    figures = Figures(len(info.classes), protocol)
    by_camera: dict[str, Figures] = {}
    broken = 0  # Pictures of which something was predicted that is not finite.
    averaged = flip or tuple(scales) != (1.0,)
    loader: DataLoader[Sample] = DataLoader(
        dataset,
        batch_size=1,  # pictures may differ in size
        sampler=[(0, i) for i in range(len(dataset))],
        num_workers=workers,
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # its own, so that measuring does not disturb training's random numbers
    )
    with as_served(network), contextlib.closing(batches(loader)) as samples:
        bar = tqdm(samples, f"evaluate {dataset.split}", len(dataset), disable=not progress, leave=False)
        for sample in bar:
            image = sample["image"].to(device)
            outputs = (
                predict_averaged(network, image, size, scales, flip) if averaged else predict(network, image, size)
            )
            if "edges" in outputs and not averaged:
                outputs["edges"] = outputs["edges"].sigmoid()
            name = sample["name"][0]
            if "depth" in outputs:
                outputs["depth"] = outputs["depth"] * camera_factor(info, name, image.shape[2:], size, focal)
            broken += not all(bool(plane.isfinite().all()) for plane in outputs.values())
            predicted, truth = _maps(outputs), _truths(sample, info.intrinsics.get(name), outputs.keys())
            figures.update(predicted, truth)
            if info.cameras:
                camera = info.cameras.get(name, "unknown")
                by_camera.setdefault(camera, Figures(len(info.classes), protocol)).update(predicted, truth)

    notes = []
    if isinstance(figures.depth, EigenDepthMetrics) and figures.depth.whole:
        notes.append(f"{figures.depth.whole} of {figures.depth.pictures} pictures are not 480x640: not cropped")
    if broken:
        notes.append(f"of {broken} pictures the network gives what is not a number: figures are missing or wrong")
    without = sum(name not in info.intrinsics for name in dataset.names)
    if focal and without and "depth" in figures.tasks:
        notes.append(
            f"{without} of {len(dataset)} pictures have no intrinsics: depth as of a focal length of {focal:g}"
        )
    iou = figures.segmentation.iou()
    result: dict[str, Any] = {
        "data": info.name,
        "split": dataset.split,
        "protocol": protocol,
        "depth_kind": info.depth_kind,
        "augmentation": {"scales": list(scales), "flip": flip} if averaged else None,
        "pictures": len(dataset),
        "values": figures.values(),  # nothing measured: no figure
        "iou": {
            c.name: None if iou[c.id] != iou[c.id] else float(iou[c.id])
            for c in (info.classes if "segmentation" in figures.tasks else ())
        },
        "notes": notes,
    }
    if by_camera:
        result["cameras"] = {c: {"pictures": f.pictures, "values": f.values()} for c, f in sorted(by_camera.items())}
    return result


def _maps(outputs: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """One picture's predictions in the form that the metrics take."""
    maps: dict[str, NDArray[Any]] = {}
    if "segmentation" in outputs:
        maps["segmentation"] = outputs["segmentation"].argmax(1).cpu().numpy()
    if "depth" in outputs:
        maps["depth"] = outputs["depth"].squeeze(1).cpu().numpy()
    if "normals" in outputs:
        maps["normals"] = outputs["normals"][0].permute(1, 2, 0).cpu().numpy()
    if "edges" in outputs:
        maps["edges"] = outputs["edges"][0, 0].cpu().numpy()
    return maps


def _truths(
    sample: Sample, intrinsics: tuple[float, float, float, float] | None, tasks: Any
) -> dict[str, NDArray[Any]]:
    """One picture's truth; normals and edges are made only where a network predicts them."""
    label, depth = sample["label"].numpy(), sample["depth"].numpy()
    truth: dict[str, NDArray[Any]] = {"segmentation": label, "depth": depth}
    if "normals" in tasks and intrinsics is not None:
        truth["normals"] = surface_normals(depth[0], intrinsics, normals_radius(label.shape[-1]))
    if "edges" in tasks:
        truth["edges"] = boundary_edges(label[0].astype(np.uint8), edges_bridge(label.shape[-1]))
    return truth


# ----------------------------------------------------------------------------------------------------------- results


def read_baseline(paths: Sequence[Path], result: dict[str, Any]) -> dict[str, float]:
    """The figures of single-task networks from results of this program, joined.

    Raises:
        DataError: a file that is no such result, or of other data, split, protocol or test-time augmentation; two
            results with the same figure.
    """
    joined: dict[str, float] = {}
    for path in paths:
        try:
            baseline = json.loads(path.read_text(encoding="utf-8"))
            values = {str(name): float(value) for name, value in baseline["values"].items()}
            for key in ("data", "split", "protocol", "depth_kind", "pictures", "augmentation"):
                if baseline[key] != result[key]:
                    raise DataError(f"{path}: measured with {key} {baseline[key]}, not {result[key]}")
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: not a result of evaluate --json ({type(error).__name__}: {error})") from None
        if both := sorted(joined.keys() & values.keys()):
            raise DataError(f"{path}: another baseline has {both[0]} too; give one single-task result per task")
        joined |= values
    return joined


def format_result(result: dict[str, Any]) -> str:
    """A few lines for people."""
    head = f"{result['data']} {result['split']}, {result['pictures']} pictures, protocol {result['protocol']}"
    if result.get("depth_kind"):
        head += f" ({result['depth_kind']} depth)"
    if augmentation := result.get("augmentation"):
        scales = ", ".join(f"{s:g}" for s in augmentation["scales"])
        head += f", averaged over scales {scales}" + (" and mirrored" if augmentation["flip"] else "")
    lines = [head, _line(result["values"])]
    lines += [f"note: {note}" for note in result.get("notes", ())]
    if "delta_m" in result:
        lines.append(f"delta_m {100 * result['delta_m']:+.2f} % against {', '.join(result['baseline'])}")
    for camera, part in result.get("cameras", {}).items():
        lines.append(f"  {camera} ({part['pictures']}): {_line(part['values'])}")
    lines += [f"  IoU {name:16} {value:.3f}" for name, value in result["iou"].items() if value is not None]
    return "\n".join(lines)


def _line(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())


def parse_scales(text: str) -> tuple[float, ...]:
    """`0.75,1,1.25` to numbers."""
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0.1 <= s <= 10 for s in scales):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of scales from 0.1 to 10, as 0.75,1,1.25")
    return scales


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measures a checkpoint on one split of a data set.")
    add = parser.add_argument
    add("checkpoint", type=Path)
    add("--data", type=Path, required=True)
    add("--split", default="test", help="of the data set (default: test)")
    add("--protocol", choices=PROTOCOLS, default=PROTOCOL, help="see training/metrics.py (default: %(default)s)")
    add("--saturation", type=float, metavar="S", help="how much it sees of the colours, 0 to 1 (as in training)")
    add("--flip", action="store_true", help="average over the mirrored picture")
    add("--scales", type=parse_scales, default=(1.0,), metavar="S,S,...", help="average over these scales")
    add("--baseline", type=Path, nargs="+", metavar="FILE.json", help="single-task results, for delta_m")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--workers", type=int, default=2)
    add("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if args.workers < 0:
        parser.error("--workers must be at least 0")
    try:
        device = usable_device(args.device)
        checkpoint = load_checkpoint(args.checkpoint)
        if args.saturation is not None:
            checkpoint = with_saturation(checkpoint, args.saturation)
        info = read_info(args.data)
        if not same_classes(info.classes, checkpoint.config.classes):
            raise DataError(f"{args.data / 'dataset.json'}: its classes are not those of {args.checkpoint}")
        dataset = FolderDataset(info, args.split)
        network = checkpoint.network().to(device)
        size = tuple(checkpoint.info["training"]["size"])
        result = evaluate(
            network,
            dataset,
            size,
            workers=args.workers,
            progress=not args.json,
            protocol=args.protocol,
            scales=args.scales,
            flip=args.flip,
            focal=checkpoint.info["training"].get("focal", 0.0),
        )
        result["weights"] = checkpoint.digest()
        result["saturation"] = checkpoint.config.saturation
        if result["saturation"] != 1:
            result["notes"].append(f"the network sees {result['saturation']:.0%} of the colours")
        zoom = checkpoint.info["training"].get("zoom")
        if zoom and (outside := [s for s in args.scales if s != 1 and not zoom[0] <= s <= zoom[1]]):
            listed = ", ".join(f"{s:g}" for s in outside)
            result["notes"].append(f"scales {listed}: outside the zoom {zoom[0]:g} to {zoom[1]:g} of its training")
        if args.baseline:
            baseline = read_baseline(args.baseline, result)
            try:
                result["delta_m"] = delta_m(result["values"], baseline)
            except ValueError as error:
                raise DataError(f"--baseline: {error}") from None
            result["baseline"] = [str(path) for path in args.baseline]
    except (CheckpointError, DataError, ValueError) as error:
        sys.exit(f"evaluate: {error}")
    print(json.dumps(result, indent=2) if args.json else format_result(result))


if __name__ == "__main__":
    main()
