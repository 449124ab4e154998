"""Trains a network on a data set folder.

python -m training.boxes --out data/boxes --count 3000
python training/train.py --data data/boxes --network mtl_ssw --backbone mobilenet_v2 --out runs/boxes
python training/train.py --data data/nyud --network mtl_ssw --backbone resnet50 --out runs/nyud --epochs 200
python training/train.py ... --resume                 (after a kill: goes on where it was, to the same weights)
tensorboard --logdir runs

Defaults are the paper's: Adam, learning rate 1e-4, poly schedule, batch 8, ImageNet weights, cross-entropy + L1 with
weights 1 and 1. OUT/checkpoint.safetensors is written after every epoch and on SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from model.backbones import BACKBONES
from model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from model.classes import IGNORE, ClassSet
from model.networks import NETWORKS, NetworkConfig, count_parameters
from model.weights import WeightsError, load_backbone_weights
from training.augment import Augmentation
from training.data import DataError, FolderDataset, Sample, StepSampler, ignore_signals, read_info
from training.evaluate import evaluate, format_result, predict
from training.losses import multi_task_loss

CHECKPOINT = "checkpoint.safetensors"
EXIT_STOPPED = 128 + signal.SIGTERM


class TrainingError(Exception):
    """Training that cannot start or go on; the message is one line."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. What `--resume` compares is everything but `NOT_COMPARED`."""
    parser = argparse.ArgumentParser(
        description="Trains a network on a data set folder.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="data set folder (dataset.json, images, labels, depth)")
    add("--out", type=Path, required=True, help="folder of the checkpoint and the TensorBoard log")
    add("--network", choices=NETWORKS, default="mtl_ssw")
    add("--backbone", choices=BACKBONES, default="resnet50")
    add("--options", type=json.loads, default={}, metavar="JSON", help='network options, e.g. {"dropout": 0.1}')
    add("--weights", default="imagenet", help="start of the backbone: 'imagenet', 'none', or a file")
    add("--size", type=parse_size, default=None, metavar="HxW", help="training size; default: of the first picture")
    add("--epochs", type=int, default=100)
    add("--batch-size", type=int, default=8)
    add("--lr", type=float, default=1e-4)
    add("--weight-decay", type=float, default=0.0)
    add("--loss-weights", type=float, nargs=2, default=(1.0, 1.0), metavar=("SEG", "DEPTH"))
    add("--zoom", type=float, nargs=2, default=(1.0, 1.5), metavar=("MIN", "MAX"), help="random zoom")
    add("--color", type=float, default=0.5, help="strength of the colour changes, 0 to 1")
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--workers", type=int, default=2, help="processes that load pictures")
    add("--eval-every", type=int, default=1, metavar="EPOCHS", help="measure on the split `val` this often")
    add("--resume", action="store_true", help="go on from OUT's checkpoint, if there is one")
    args = parser.parse_args(argv)
    args.loss_weights, args.zoom = tuple(args.loss_weights), tuple(args.zoom)
    if args.batch_size < 2:
        parser.error("--batch-size: batch normalisation over 1x1 maps needs at least 2 pictures")
    if args.epochs < 1 or args.eval_every < 1:
        parser.error("--epochs and --eval-every must be at least 1")
    if not 0 < args.zoom[0] <= args.zoom[1]:
        parser.error("--zoom: give 0 < MIN <= MAX")
    return args


NOT_COMPARED = {"data", "out", "resume", "device", "workers"}


def parse_size(text: str) -> tuple[int, int]:
    """`480x640` to (480, 640): height, width."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"'{text}' is not HEIGHTxWIDTH")
    return int(height), int(width)


def poly(step: int, steps: int) -> float:
    """Factor on the learning rate at `step` of `steps`: (1 - step / steps)^0.9 (Liu et al., ParseNet, 2015)."""
    return float((1 - step / steps) ** 0.9)


# ---------------------------------------------------------------------------- what a resumed run needs


def pack_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimiser state and random generators as flat tensors."""
    state = {
        f"optimizer.{i}.{key}": torch.as_tensor(value)
        for i, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }
    state["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        state["rng.cuda"] = torch.cuda.get_rng_state()
    return state


def unpack_state(state: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """The inverse of `pack_state`."""
    by_parameter: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            by_parameter.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": by_parameter, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(state["rng.cpu"])
    if "rng.cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["rng.cuda"])


# --------------------------------------------------------------------------------------- TensorBoard


def paint(label: Tensor, classes: ClassSet) -> Tensor:
    """Class ids [H, W] in their colours: uint8 [3, H, W]; ignored pixels are black."""
    palette = torch.zeros(256, 3, dtype=torch.uint8)
    palette[: len(classes)] = torch.tensor([c.color for c in classes], dtype=torch.uint8)
    palette[IGNORE] = 0
    return palette[label.long()].permute(2, 0, 1)


@torch.inference_mode()
def log_pictures(
    writer: SummaryWriter, network: nn.Module, dataset: FolderDataset, size: tuple[int, int], step: int
) -> None:
    """The first picture of a split: picture, mask, depth, predictions above the truth (depth 0-10 m as grey)."""
    device = next(network.parameters()).device
    sample = dataset[(0, 0)]
    network.eval()
    outputs = predict(network, sample["image"][None].to(device), size)
    network.train()
    grey = {"truth": sample["depth"]}
    masks = {"truth": paint(sample["label"], dataset.info.classes)}
    if "depth" in outputs:
        grey["prediction"] = outputs["depth"][0, 0].cpu()
    if "segmentation" in outputs:
        masks["prediction"] = paint(outputs["segmentation"][0].argmax(0).cpu(), dataset.info.classes)
    writer.add_image("picture", sample["image"], step)
    for name, mask in masks.items():
        writer.add_image(f"segmentation/{name}", mask, step)
    for name, depth in grey.items():
        writer.add_image(f"depth/{name}", (depth / 10).clamp(0, 1)[None], step)


# ---------------------------------------------------------------------------------------------- main


def train(args: argparse.Namespace) -> None:
    """Runs the training that `args` describes.

    Raises:
        TrainingError, DataError, CheckpointError, WeightsError: with a one-line reason.
    """
    # ------------------------------------------------------------------------------------------ setup
    info = read_info(args.data)
    size = args.size or FolderDataset(info, "train").read(info.splits["train"][0]).label.shape
    augmentation = Augmentation(size, zoom=args.zoom, color=args.color)
    train_set = FolderDataset(info, "train", augmentation, args.seed)
    val_set = FolderDataset(info, "val")
    if len(train_set) < args.batch_size:
        few = f"{len(train_set)} pictures to train on, fewer than a batch of {args.batch_size}"
        raise TrainingError(f"{args.data}: {few}")

    settings: dict[str, Any] = {k: v for k, v in vars(args).items() if k not in NOT_COMPARED}
    settings |= {"size": list(size), "loss_weights": list(args.loss_weights), "zoom": list(args.zoom)}
    config = NetworkConfig(args.network, args.backbone, info.classes, args.options)
    path = args.out / CHECKPOINT
    former = load_checkpoint(path) if args.resume and path.is_file() else None
    if former is not None:
        refuse_other_run(former, config, settings, info.name, path)
        if not former.training_state:
            print(f"{path}: this training has ended; nothing to resume")
            return
    elif path.is_file():
        raise TrainingError(f"{path} exists: give --resume to go on from it, or another --out")

    torch.manual_seed(args.seed)
    network = config.build()
    if former is None:
        for backbone in network.backbones():
            load_backbone_weights(backbone, args.backbone, args.weights)
    else:
        network.load_state_dict(former.weights)
    device = torch.device(args.device)
    network.to(device).train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster; torch's stubs lack it
    optimizer = torch.optim.Adam(network.parameters(), lr=args.lr, weight_decay=args.weight_decay)

    start = former.info["progress"]["step"] if former else 0
    sampler = StepSampler(len(train_set), args.batch_size, args.epochs, args.seed, start)
    steps_per_epoch, steps = sampler.steps_per_epoch, sampler.steps_per_epoch * args.epochs
    loader: DataLoader[Sample] = DataLoader(
        train_set,
        batch_sampler=sampler,
        num_workers=args.workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # its own: the global one must not depend on when a loader was made
    )
    history: list[dict[str, Any]] = former.info["evaluations"] if former else []
    if former is not None:
        unpack_state(former.training_state, optimizer)

    def save(step: int, *, ended: bool = False) -> None:
        info_json = {
            "training": settings,
            "data": {
                "name": info.name,
                "license": info.license,
                "pictures": len(train_set),
                "min_depth_m": depth_range[0],
                "max_depth_m": depth_range[1],
            },
            "evaluations": history,
            "progress": {"step": step, "steps": steps},
        }
        state = {} if ended else pack_state(optimizer)
        save_checkpoint(path, Checkpoint(config, network.state_dict(), info_json, state))

    args.out.mkdir(parents=True, exist_ok=True)
    depth_range = former_range(former) or measure_depth_range(train_set)
    stop_requested = False

    def request_stop(signum: int, frame: object) -> None:
        nonlocal stop_requested
        stop_requested = True

    former_handler = signal.signal(signal.SIGTERM, request_stop)
    # purge_step: what a killed run had logged beyond its checkpoint is logged again.
    writer = SummaryWriter(str(args.out / "tensorboard"), purge_step=start if former else None)
    bar = tqdm(total=steps, initial=start, unit="step", mininterval=1.0, dynamic_ncols=True)
    print(
        f"{args.network} on {args.backbone}: {count_parameters(network):,} parameters; {info.name}: {len(train_set)} "
        f"pictures at {size[0]}x{size[1]}; steps {start} to {steps} on {device}"
    )

    # ------------------------------------------------------------------------------------------- loop
    step, began = start, time.monotonic()
    try:
        for batch in loader:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * poly(step, steps)
            image = batch["image"].to(device, non_blocking=True, memory_format=torch.channels_last)
            label = batch["label"].to(device, non_blocking=True)
            depth = batch["depth"].to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
                outputs = network(image)
            if "intermediate" in outputs:
                raise TrainingError(f"{args.network} needs deep supervision, which this training does not have yet")
            loss, parts = multi_task_loss(outputs, label, depth, args.loss_weights)
            value = loss.item()
            if not math.isfinite(value):
                names = ", ".join(batch["name"])
                raise TrainingError(f"the loss of step {step} is {value}; pictures: {names}")
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            step += 1

            bar.update()
            if step % 10 == 0 or step == steps:
                bar.set_postfix({"loss": f"{value:.3f}"} | {k: f"{v.item():.3f}" for k, v in parts.items()})
                writer.add_scalar("train/loss", value, step)
                writer.add_scalar("train/lr", optimizer.param_groups[0]["lr"], step)
                for task, part in parts.items():
                    writer.add_scalar(f"train/{task}", part.item(), step)

            # --------------------------------------------------------------- evaluation and checkpoint
            if step % steps_per_epoch == 0:
                epoch = step // steps_per_epoch
                if epoch % args.eval_every == 0 or step == steps:
                    result = evaluate(network, val_set, size, workers=args.workers)
                    history.append({"epoch": epoch, **result})
                    for name, figure in result["values"].items():
                        writer.add_scalar(f"val/{name}", figure, step)
                    log_pictures(writer, network, val_set, size, step)
                    short = {k: v for k, v in result["values"].items() if k in ("miou", "rmse", "abs_rel")}
                    tqdm.write(f"epoch {epoch}: " + "  ".join(f"{k} {v:.4f}" for k, v in short.items()))
                save(step, ended=step == steps)
            if stop_requested and step < steps:
                save(step)
                bar.close()
                print(f"stopped at step {step} of {steps}; go on with --resume")
                sys.exit(EXIT_STOPPED)
    finally:
        bar.close()
        writer.close()
        signal.signal(signal.SIGTERM, former_handler)

    pictures = (steps - start) * args.batch_size
    minutes = (time.monotonic() - began) / 60
    print(f"{path}: {pictures} pictures in {minutes:.1f} min, measuring included")
    print(format_result(history[-1]))


def refuse_other_run(
    former: Checkpoint, config: NetworkConfig, settings: dict[str, Any], data: str, path: Path
) -> None:
    """Raises TrainingError, naming the difference, when a checkpoint is of another run than the one asked for."""
    if former.config != config:
        what = "classes" if former.config.classes != config.classes else "network"
        raise TrainingError(f"{path}: its {what} differs from the one asked for; a resumed run must be the same")
    if former.info["data"]["name"] != data:
        raise TrainingError(f"{path}: was trained on {former.info['data']['name']}, not on {data}")
    for key, value in settings.items():
        then = former.info["training"].get(key)
        if then != value:
            raise TrainingError(f"{path}: was trained with {key} {then}, not {value}; a resumed run must be the same")


def former_range(former: Checkpoint | None) -> tuple[float, float] | None:
    """The depth range that a former run measured."""
    return (former.info["data"]["min_depth_m"], former.info["data"]["max_depth_m"]) if former else None


def measure_depth_range(dataset: FolderDataset, pictures: int = 200) -> tuple[float, float]:
    """1st and 99th percentile, in metres, of the valid depth in a sample of the split: for display, not for losses."""
    chosen = np.linspace(0, len(dataset) - 1, min(pictures, len(dataset))).astype(int)
    values = []
    for i in chosen:
        depth = dataset.read(dataset.names[i]).depth[::8, ::8]
        values.append(depth[depth > 0])
    pooled = np.concatenate(values)
    if not pooled.size:
        return 0.0, 10.0
    low, high = np.percentile(pooled, (1, 99)) / 1000
    return round(float(low), 2), round(float(high), 2)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        train(args)
    except (TrainingError, DataError, CheckpointError, WeightsError, ValueError) as error:
        sys.exit(f"train: {error}")


if __name__ == "__main__":
    main()
