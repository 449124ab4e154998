"""Trains a network on a data set folder, or on several of the same classes.

python -m training.boxes --out data/boxes --count 3000
python training/train.py --data data/boxes --network mtl_ssw --backbone mobilenet_v2 \\
    --options '{"aspp_rates": [1, 2, 3]}' --out runs/boxes
python training/train.py --data data/nyud --network mtl_ssw --backbone resnet50 --out runs/nyud --epochs 200
python training/train.py --data data/nyud --preset strong --train-split trainval --val-split none --out runs/final
python training/train.py --data data/mine data/rooms --network mtl_ssw --out runs/both
python training/train.py --data data/nyud --network nddr_cnn --single-task runs/seg/checkpoint.safetensors \\
    runs/depth/checkpoint.safetensors --optimizer sgd --lr 1e-3 --exchange-lr 100 --out runs/nddr
python training/train.py ... --resume                 (after a kill: goes on where it was, to the same weights)
torchrun --nproc_per_node 2 --max-restarts 3 training/train.py ... --resume
tensorboard --logdir runs

Defaults are the paper's: Adam, learning rate 1e-4, poly schedule, batch 8, ImageNet weights, cross-entropy + L1 with
weights 1 and 1. It does not say for how long, nor with what augmentation: 100 epochs, zoom, mirroring and changes of
colour are ours. Several folders train as one that holds the pictures of the first, then those of the second would, to
the same weights. OUT/checkpoint.safetensors is written after every epoch and on SIGTERM. Under torchrun the batch is
that of all processes together, batch normalisation is synchronised, and the training is that of one process but for
rounding, dropout and the pixels that --loss-stride takes; the first process writes, and OUT must be a folder that all
of them see.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import fcntl
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from model.backbones import BACKBONES
from model.base import Network
from model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint, sets_of
from model.classes import IGNORE, ClassSet
from model.heads import ASPPHead
from model.networks import NETWORKS, NetworkConfig, count_parameters
from model.weights import WeightsError
from training import parallel
from training.augment import Augmentation
from training.data import (
    DataError,
    DatasetInfo,
    FolderDataset,
    Sample,
    StepSampler,
    batches,
    ignore_signals,
    joined,
    read_infos,
)
from training.describe import class_weights, describe_data, digest_of
from training.evaluate import as_served, camera_factor, evaluate, format_result, predict
from training.losses import DEPTH_LOSSES, Choices, multi_task_loss, strided, valid_pixels, weighted_by_task
from training.start import CHECKPOINT, TrainingError, load_start, options_of, start_names
from training.weighting import WEIGHTINGS, Weighting, backward_per_task, check_combination, make_weighting

STOPS = (signal.SIGTERM, signal.SIGINT)
"""At these it ends when it has saved its checkpoint, with exit status 128 + the signal."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's mallopt(3)."""

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "strong": {
        "epochs": 200,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "warmup": 500,
        "zoom": (0.5, 2.0),
        "ema": 0.999,
        "precision": "bf16",
    },
}
"""Other defaults of the options; what is given on the command line wins."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. What `--resume` compares is everything but `NOT_COMPARED`."""
    parser = argparse.ArgumentParser(
        description="Trains a network on a data set folder, or on several of the same classes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="data set folders (dataset.json, images, labels, depth), whose pictures are trained on together",
    )
    add("--train-split", default="train", metavar="SPLIT", help="pictures to train on; every folder has some")
    add(
        "--val-split",
        default="val",
        metavar="SPLIT",
        help="pictures to measure on, of the folders that have it, or 'none'",
    )
    add("--out", type=Path, required=True, help="folder of the checkpoint and the TensorBoard log")
    add("--preset", choices=PRESETS, default="paper", help="other defaults for the options; those given win")
    add("--network", choices=NETWORKS, default="mtl_ssw")
    add("--backbone", choices=BACKBONES, default="resnet50")
    add(
        "--options",
        type=json.loads,
        metavar="JSON",
        default={},
        help='network options, e.g. {"dropout": 0.1}; with --start, besides those of its network',
    )
    add("--weights", default="imagenet", help="start of the backbone: 'imagenet', 'none', or a file")
    add(
        "--start",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="checkpoint to go on from with other data or settings, in place of --weights; of the same network and "
        "backbone, its segmentation classifier is taken where the classes are the same. Of several, each of which went "
        "on from another, the mean of their weights",
    )
    add(
        "--freeze",
        nargs="+",
        metavar="PART",
        help="parts of the network that stay as they start, their batch normalisation too, e.g. backbone or "
        "heads.segmentation",
    )
    add(
        "--single-task",
        nargs="+",
        default=None,
        metavar="FILE",
        help="checkpoints of stl_aspp and stl_aspp_depth that cross_stitch and nddr_cnn start from, or 'none'",
    )
    add(
        "--size", type=parse_size, default=None, metavar="HxW", help="training size; default: that of the first picture"
    )
    add("--epochs", type=int, default=100, help="0 keeps what it starts from, such as the mean of several")
    add("--batch-size", type=int, default=8)
    add(
        "--accumulate",
        type=int,
        default=1,
        metavar="N",
        help="run a batch in N parts, which takes less memory; batch normalisation sees one part at a time",
    )
    add("--optimizer", choices=("adam", "adamw", "sgd"), default="adam", help="sgd has momentum 0.9")
    add("--lr", type=float, default=1e-4)
    add("--exchange-lr", type=float, default=1.0, metavar="FACTOR", help="on the rate of cross-stitch and NDDR layers")
    add("--warmup", type=int, default=0, metavar="STEPS", help="in which the learning rate rises from 0")
    add("--weight-decay", type=float, default=0.0)
    add("--clip", type=float, default=0.0, metavar="NORM", help="longest gradient; 0 = any")
    add("--ema", type=float, default=0.0, metavar="DECAY", help="measure and keep averaged weights; 0 = not averaged")
    add(
        "--swa",
        type=int,
        default=0,
        metavar="EPOCHS",
        help="keep the mean of the weights after each of the last EPOCHS; 0 = those after the last step",
    )
    add("--weighting", choices=WEIGHTINGS, default="fixed", help="of the tasks; see training/weighting.py")
    add(
        "--weighting-options",
        type=json.loads,
        metavar="JSON",
        default={},
        help='other constants of the weighting, e.g. {"c": 0.2} of cagrad',
    )
    add("--loss-weights", type=float, nargs=2, default=(1.0, 1.0), metavar=("SEG", "DEPTH"))
    add("--auxiliary-weights", type=float, nargs=2, default=(10.0, 50.0), metavar=("NORMALS", "EDGES"))
    add("--depth-loss", choices=DEPTH_LOSSES, default="l1")
    add(
        "--loss-stride",
        type=int,
        default=1,
        metavar="N",
        help="losses on one of NxN pixels: with 2, a small network trains almost twice as fast on a CPU",
    )
    add("--class-balance", type=float, default=0.0, metavar="P", help="weigh classes by (1 / frequency)^P; 0 = equally")
    add(
        "--focal",
        type=float,
        default=0.0,
        metavar="F",
        help="learn depth as for a camera of this focal length, in longer sides of a picture; 0 = as it is",
    )
    add("--zoom", type=float, nargs=2, default=(1.0, 1.5), metavar=("MIN", "MAX"), help="random zoom")
    add("--no-flip", action="store_true", help="mirror no picture; otherwise every other one")
    add("--color", type=float, default=0.5, help="strength of the colour changes, 0 to 1")
    add("--grey", type=float, default=0.0, metavar="P", help="share of the pictures that lose their colours")
    add("--precision", choices=DTYPES, default="fp32")
    add("--compile", action="store_true", help="torch.compile: a slow start, then faster")
    add(
        "--deterministic",
        action="store_true",
        help="the same weights from the same start also on a GPU, which is slower; a CPU gives them without",
    )
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add(
        "--workers",
        type=int,
        default=None,
        help="processes that load pictures, for each that trains; default: 2 on a CPU, its share of the cores on a GPU",
    )
    add("--eval-every", type=int, default=1, metavar="EPOCHS", help="measure on the validation split this often")
    add("--log-every", type=int, default=10, metavar="STEPS", help="losses to TensorBoard this often")
    add("--resume", action="store_true", help="go on from OUT's checkpoint, if there is one")

    preset = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    preset.add_argument("--preset", default="paper")
    parser.set_defaults(**PRESETS.get(preset.parse_known_args(argv)[0].preset, {}))
    args = parser.parse_args(argv)
    args.loss_weights, args.zoom = tuple(args.loss_weights), tuple(args.zoom)
    args.auxiliary_weights = tuple(args.auxiliary_weights)
    if not 0 <= args.seed < 2**63:
        parser.error("--seed: give 0 to 2^63 - 1")
    if args.batch_size < 2:
        parser.error("--batch-size: batch normalisation over 1x1 maps needs at least 2 pictures")
    if args.epochs < 0 or min(args.eval_every, args.accumulate, args.log_every, args.loss_stride) < 1:
        parser.error("--epochs must be at least 0, --eval-every, --log-every, --accumulate and --loss-stride 1")
    if not 0 <= args.swa <= args.epochs:
        parser.error("--swa: give 0 to the number of --epochs")
    if args.start and args.single_task not in (None, ["none"]):
        parser.error("--start and --single-task are two starts; give one of them")
    if args.workers is not None and args.workers < 0:
        parser.error("--workers must be at least 0")
    if not isinstance(args.options, dict):
        parser.error("--options is a JSON object")
    if not all(math.isfinite(value) for value in args.options.values() if isinstance(value, float)):
        parser.error("--options: a number is not finite")
    if not isinstance(args.weighting_options, dict):
        parser.error("--weighting-options is a JSON object")
    if not 0 <= args.grey <= 1:
        parser.error("--grey is a share, 0 to 1")
    if not 0 <= args.color <= 1:
        parser.error("--color is a strength, 0 to 1")
    if not 0.01 <= args.zoom[0] <= args.zoom[1] <= 100:
        parser.error("--zoom: give 0.01 <= MIN <= MAX <= 100")
    if not all(0 <= weight < math.inf for weight in args.loss_weights + args.auxiliary_weights):
        parser.error("--loss-weights and --auxiliary-weights must be at least 0")
    if not (0 <= args.focal < math.inf and 0 <= args.class_balance < math.inf):
        parser.error("--focal and --class-balance must be at least 0")
    if not (0 <= args.ema < 1 and args.warmup >= 0 and args.clip >= 0 and args.exchange_lr > 0):
        parser.error("give 0 <= --ema < 1, --warmup >= 0, --clip >= 0, --exchange-lr > 0")
    return args


NOT_COMPARED = {"data", "out", "resume", "device", "workers", "single_task", "start", "log_every"}


def defaults_of(preset: str) -> argparse.Namespace:
    """The options of a preset, as they are unless given."""
    return parse_args(["--data", "", "--out", "", "--preset", preset])


def compared(args: argparse.Namespace) -> dict[str, Any]:
    """What a resumed run must have in common with its start, as JSON has it."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(args).items() if k not in NOT_COMPARED}


def parse_size(text: str) -> tuple[int, int]:
    """`480x640` to (480, 640): height, width."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"'{text}' is not HEIGHTxWIDTH")
    return int(height), int(width)


def poly(step: int, steps: int) -> float:
    """Factor on the learning rate at `step` of `steps`: (1 - step / steps)^0.9 (Liu et al., ParseNet, 2015)."""
    return float((1 - step / steps) ** 0.9)


def schedule(step: int, steps: int, warmup: int) -> float:
    """`poly`, in the first `warmup` steps times a factor that rises linearly to 1."""
    return min(1.0, (step + 1) / max(1, warmup)) * poly(step, steps)


def make_optimizer(network: Network, args: argparse.Namespace) -> torch.optim.Optimizer:
    """The optimiser; `factor` of a group is what its learning rate is multiplied by."""
    new = network.new_parameters()
    if args.exchange_lr != 1 and not new:
        raise TrainingError(f"--exchange-lr is for cross_stitch and nddr_cnn; {args.network} has no such layers")
    ids = {id(p) for p in new}
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if id(p) not in ids], "factor": 1.0}]
    if new:
        groups.append({"params": [p for p in trained if id(p) in ids], "factor": args.exchange_lr})
    if args.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=args.lr, momentum=0.9, weight_decay=args.weight_decay)
    kind = torch.optim.AdamW if args.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=args.lr, weight_decay=args.weight_decay)


def freeze(network: Network, parts: Sequence[str]) -> None:
    """Has training leave `parts` of a network as they are: no gradients, nor training mode, which would change the
    statistics of their batch normalisation.

    Raises:
        TrainingError: the network has no such part, or no other.
    """
    for part in parts:
        try:
            network.get_submodule(part).requires_grad_(False).eval()
        except AttributeError:
            names = ", ".join(name for name, module in network.named_modules() if name and name.count(".") < 2)
            raise TrainingError(f"--freeze {part}: the network has no such part; it has {names}") from None
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise TrainingError(f"--freeze {' '.join(parts)} leaves nothing to train")


def without_effect(
    args: argparse.Namespace, network: Network, weighting: Weighting, size: tuple[int, int]
) -> list[str]:
    """What was asked for and changes nothing here, a line each.

    It is not refused, because one command line is often used for several networks.
    """
    given = {key for key, value in vars(defaults_of(args.preset)).items() if getattr(args, key) != value}
    tasks = " and ".join((*network.tasks, *network.auxiliary_tasks))
    lines = []

    def tell(option: str, what: str) -> None:
        if option in given:
            lines.append(f"--{option.replace('_', '-')} {what}")

    def nothing(option: str, why: str) -> None:
        tell(option, f"does nothing here: {why}")

    if "depth" not in network.tasks:
        nothing("depth_loss", f"{args.network} has only {tasks}")
        nothing("focal", f"{args.network} has only {tasks}")
    if "segmentation" not in network.tasks:
        nothing("class_balance", f"{args.network} has only {tasks}")
    if not network.auxiliary_tasks:
        nothing("auxiliary_weights", f"{args.network} has only {tasks}")
    if args.start or len(args.single_task or ()) == 2:
        nothing("weights", "the start is another training's")
    if weighting.undoes_weights:
        for option in ("loss_weights", "auxiliary_weights"):
            if all(getattr(args, option)):
                tell(option, f"changes only the length of steps: --weighting {args.weighting} undoes the rest")
    height, width = (math.ceil(side / 16) for side in size)
    rates = sorted({rate for module in network.modules() if isinstance(module, ASPPHead) for rate in module.rates})
    if blind := [str(rate) for rate in rates if rate >= max(height, width)]:
        fit = max(1, min(height, width) // 5)
        lines.append(
            f"rate {', '.join(blind)} of ASPP sees nothing but the cell that it stands on, since the map has "
            f"{height}x{width}; what fits is --options '{{\"aspp_rates\": [{fit}, {2 * fit}, {3 * fit}]}}'"
        )
    return lines


@torch.no_grad()
def average(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Moves averaged weights on; over the first steps the average is shorter, so that the random start leaves it."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(ema.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


@torch.no_grad()
def add_to_mean(mean: dict[str, Tensor], network: nn.Module, number: int) -> None:
    """Moves the mean of the weights of `number` - 1 networks on to that of `number` (SWA, Izmailov et al., "Averaging
    weights leads to wider optima and better generalization", UAI 2018). Statistics of batch normalisation are averaged
    like weights."""
    for name, value in network.state_dict().items():
        if number == 1 or not value.is_floating_point():
            mean[name] = value.clone()
        else:
            mean[name].lerp_(value, 1 / number)


# ---------------------------------------------------------------------------- what a resumed run needs


def pack_state(optimizer: torch.optim.Optimizer, device: torch.device, **others: dict[str, Any]) -> dict[str, Tensor]:
    """Optimiser state, the random generators of every process, and other state dicts, as flat tensors."""
    state = {
        f"optimizer.{i}.{key}": torch.as_tensor(value)
        for i, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }
    state["rng.cpu"] = parallel.gather(torch.get_rng_state(), device)
    if device.type == "cuda":
        state["rng.cuda"] = parallel.gather(torch.cuda.get_rng_state(device), device)
    return state | {
        f"{name}.{key}": torch.as_tensor(value) for name, other in others.items() for key, value in other.items()
    }


def unpack_state(state: dict[str, Tensor], optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """The inverse of `pack_state` for optimiser and random generators.

    A process more than there were before keeps the generators that it was seeded with.
    """
    by_parameter: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            by_parameter.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": by_parameter, "param_groups": optimizer.state_dict()["param_groups"]})
    me = parallel.rank()
    generators = state["rng.cpu"].view(-1, torch.get_rng_state().numel())
    if me < len(generators):
        # clone(): set_rng_state reads a row of another tensor from the wrong place.
        torch.set_rng_state(generators[me].clone())
        if "rng.cuda" in state and device.type == "cuda":
            torch.cuda.set_rng_state(state["rng.cuda"].view(len(generators), -1)[me].clone(), device)


def part_of(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """One of the `others` of `pack_state`."""
    return {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}


# --------------------------------------------------------------------------------------- TensorBoard


def paint(label: Tensor, classes: ClassSet) -> Tensor:
    """Class ids [H, W] in their colours: uint8 [3, H, W]; ignored pixels are black."""
    palette = torch.zeros(256, 3, dtype=torch.uint8)
    palette[: len(classes)] = torch.tensor([c.color for c in classes], dtype=torch.uint8)
    palette[IGNORE] = 0
    return palette[label.long()].permute(2, 0, 1)


@torch.inference_mode()
def log_pictures(
    writer: SummaryWriter, network: nn.Module, dataset: FolderDataset, size: tuple[int, int], focal: float, step: int
) -> None:
    """The first picture of a split: picture, mask, depth, predictions above the truth (depth 0-10 m as grey)."""
    device = next(network.parameters()).device
    sample = dataset[(0, 0)]
    with as_served(network):
        outputs = predict(network, sample["image"][None].to(device), size)
    grey = {"truth": sample["depth"]}
    masks = {"truth": paint(sample["label"], dataset.info.classes)}
    if "depth" in outputs:
        factor = camera_factor(dataset.info, sample["name"], sample["image"].shape[1:], size, focal)
        grey["prediction"] = outputs["depth"][0, 0].cpu() * factor
    if "segmentation" in outputs:
        masks["prediction"] = paint(outputs["segmentation"][0].argmax(0).cpu(), dataset.info.classes)
    writer.add_image("picture", sample["image"], step)
    for name, mask in masks.items():
        writer.add_image(f"segmentation/{name}", mask, step)
    for name, depth in grey.items():
        writer.add_image(f"depth/{name}", (depth / 10).clamp(0, 1)[None], step)


# ---------------------------------------------------------------------------------------------- main


def train(args: argparse.Namespace) -> int:
    """Runs the training that `args` describes; returns the exit status: 0, or that of `STOPS`.

    Raises:
        TrainingError, DataError, CheckpointError, WeightsError, ValueError: with a one-line reason.
    """
    # ------------------------------------------------------------------------------------------ setup
    device = parallel.start(args.device)
    first, processes = parallel.rank() == 0, parallel.count()
    workers = parallel.loaders(device) if args.workers is None else args.workers
    infos = read_infos(args.data)
    info = joined(infos)
    refuse_impossible(args, device, infos)
    choose_kernels(device, args.deterministic)
    keep_memory()
    args.options = options_of(args)
    config = NetworkConfig(args.network, args.backbone, info.classes, args.options)
    torch.manual_seed(args.seed)
    network = config.build()
    tasks = (*network.tasks, *network.auxiliary_tasks)
    check_combination(
        args.weighting,
        tasks,
        accumulate=args.accumulate,
        processes=processes,
        precision=args.precision,
        compiled=args.compile,
        frozen=bool(args.freeze),
    )
    for one in infos:  # Each is refused by its own name.
        FolderDataset(one, args.train_split, auxiliary_tasks=network.auxiliary_tasks, focal=args.focal)
    as_it_is = FolderDataset(info, args.train_split)
    size = args.size or as_it_is.read(as_it_is.names[0]).label.shape
    if any(side % args.loss_stride for side in size):
        raise TrainingError(f"--loss-stride {args.loss_stride} does not divide the training size {size[0]}x{size[1]}")
    augmentation = Augmentation(size, args.zoom, not args.no_flip, args.color, args.grey)
    train_set = FolderDataset(info, args.train_split, augmentation, args.seed, network.auxiliary_tasks, args.focal)
    val_set = validation_set(infos, args.val_split)
    if len(train_set) < args.batch_size:
        few = f"{len(train_set)} pictures to train on, fewer than a batch of {args.batch_size}"
        raise TrainingError(f"{', '.join(map(str, args.data))}: {few}")

    settings = compared(args) | {"size": list(size)}
    path = args.out / CHECKPOINT
    former = load_checkpoint(path) if args.resume and path.is_file() else None
    if former is not None:
        refuse_other_run(former, config, settings, infos, path)
        if not former.training_state:
            if first:
                print(f"{path}: this training has ended; nothing to resume")
            return 0
    elif path.is_file():
        raise TrainingError(f"{path} exists: give --resume to go on from it, or another --out")

    freeze(network, args.freeze or ())
    optimizer = make_optimizer(network, args)
    earlier_data = former.info.get("earlier_data", []) if former else load_start(network, args, info.classes)
    network.training_stride = args.loss_stride
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster; torch's stubs lack it
    ema = copy.deepcopy(network).eval() if args.ema else None
    weighting = make_weighting(args.weighting, tasks, args.weighting_options).to(device)
    if first:
        for line in without_effect(args, network, weighting, size):
            print(line)
    scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")
    # Dropout must not depend on how the network was started, and must differ between processes.
    torch.manual_seed(args.seed + parallel.rank())

    start, history = 0, []
    mean: dict[str, Tensor] = {}  # of the weights after the epochs of --swa
    if former is not None:
        # What is measured and kept are the averaged weights, where there are such.
        state = former.training_state
        start, history = former.info["progress"]["step"], former.info["evaluations"]
        network.load_state_dict(part_of(state, "raw") if ema else former.weights)
        if ema:
            ema.load_state_dict(former.weights)
        mean = {k: v.to(device) for k, v in part_of(state, "mean").items()}
        weighting.load_state_dict(part_of(state, "weighting"))
        scaler.load_state_dict({k: v.item() for k, v in part_of(state, "scaler").items()} or scaler.state_dict())
        unpack_state(state, optimizer, device)
    kept = ema or network
    choices = Choices(
        args.depth_loss, class_weights(train_set, args.class_balance).to(device) if args.class_balance else None
    )

    fixed = dict(zip(("segmentation", "depth"), args.loss_weights, strict=True))
    fixed |= dict(zip(("normals", "edges"), args.auxiliary_weights, strict=True))
    fixed = {task: fixed[task] for task in tasks}
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    parallel.synchronise_batch_norm(network, device)
    ddp = DistributedDataParallel(network) if processes > 1 else None
    model = torch.compile(ddp or network) if args.compile else ddp or network

    sampler = StepSampler(
        len(train_set), args.batch_size, args.epochs, args.seed, start, parallel.rank(), processes, args.accumulate
    )
    steps_per_epoch, steps = sampler.steps_per_epoch, sampler.steps_per_epoch * args.epochs
    if args.warmup >= steps > 0:
        raise TrainingError(f"--warmup {args.warmup}: the whole training has only {steps} steps; take a tenth of them")
    loader: DataLoader[Sample] = DataLoader(
        train_set,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # its own: the global one must not depend on when a loader was made
    )

    origin = former.info["training"] if former else {"single_task": args.single_task, "start": start_names(args)}

    def save(step: int, *, ended: bool = False) -> None:
        finite = all(bool(v.isfinite().all()) for one in {network, kept} for v in one.state_dict().values())
        if parallel.anyone(not finite, device):
            former_file = f"; {path} is as it was" if path.is_file() else ""
            raise TrainingError(
                f"the weights after step {step} are not finite{former_file}; try a lower --lr, --warmup or --clip"
            )
        info_json = {
            "training": settings | {key: origin.get(key) for key in ("single_task", "start")},
            "data": data,
            "earlier_data": earlier_data,
            "evaluations": history,
            "progress": {"step": step, "steps": steps},
        }
        raw = {"raw": network.state_dict()} if ema else {}
        others = raw | {"mean": mean, "weighting": weighting.state_dict(), "scaler": scaler.state_dict()}
        state = {} if ended else pack_state(optimizer, device, **others)
        if first:
            save_checkpoint(path, Checkpoint(config, kept.state_dict(), info_json, state))

    def losses_of(part: dict[str, Tensor], pixels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Forward: a part's share, in this process, of the losses of all predictions, by name."""
        image = part["image"].contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, DTYPES[args.precision], enabled=args.precision != "fp32"):
            outputs = model(image)
        return multi_task_loss(outputs, part, pixels, choices)

    def of_all_processes(losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Their values only."""
        values = parallel.mean(torch.stack([loss.detach() for loss in losses.values()]))
        return dict(zip(losses, values, strict=True))

    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"--out {args.out}: {error.strerror}") from None
    data = describe_data(infos, args.train_split, former) if first else {}
    stop_requested = 0  # or the signal

    def request_stop(signum: int, frame: object) -> None:
        nonlocal stop_requested
        stop_requested = signum
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if first:  # `print` may be at work already.
                os.write(2, b"\nstopping when this step is done and saved; at once, unsaved, if you press it again\n")

    lock = lock_folder(args.out) if first else None
    if former is None and path.is_file():  # While this one was being set up.
        raise TrainingError(f"{path} exists: give --resume to go on from it, or another --out")
    former_handlers = {number: signal.signal(number, request_stop) for number in STOPS}
    # purge_step: what a killed run had logged beyond its checkpoint is logged again, from the next step on.
    writer = SummaryWriter(str(args.out / "tensorboard"), purge_step=start + 1 if former else None) if first else None
    bar = tqdm(total=steps, initial=start, unit="step", mininterval=1.0, dynamic_ncols=True, disable=not first)
    if first:
        print(
            f"{args.network} on {args.backbone}: {count_parameters(network):,} parameters; {info.name}: "
            f"{len(train_set)} pictures at {size[0]}x{size[1]}; steps {start} to {steps} on {device}"
            + (f", {processes} processes" if processes > 1 else "")
        )

    # ------------------------------------------------------------------------------------------- loop
    step, began = start, time.monotonic()
    loaded = batches(loader)
    try:
        for batch, tensors in ahead(loaded, device):
            for group in optimizer.param_groups:
                group["lr"] = args.lr * group["factor"] * schedule(step, steps, args.warmup)
            if args.loss_stride > 1:
                tensors = strided(tensors, args.loss_stride)
            pixels = valid_pixels(tensors)
            optimizer.zero_grad(set_to_none=True)
            named: dict[str, Tensor] = {}  # losses of the whole batch, for the log
            for i, part in enumerate(split(tensors, args.accumulate)):
                # The processes exchange their gradients after the last part only.
                with ddp.no_sync() if ddp and i + 1 < args.accumulate else contextlib.nullcontext():
                    losses = losses_of(part, pixels)
                    seen = of_all_processes(losses)
                    for name, loss in seen.items():
                        named[name] = named[name] + loss if name in named else loss
                    by_task = weighted_by_task(losses, fixed)
                    if weighting.per_task_gradients:
                        used = backward_per_task(by_task, weighting, parameters)
                    else:
                        used = weighting.weights(torch.stack(weighted_by_task(seen, fixed)))
                        torch.autograd.backward(scaler.scale((used * torch.stack(by_task)).sum()))
            whole = torch.stack(weighted_by_task(named, fixed))
            value = whole.sum().item()
            if not math.isfinite(value):
                names = ", ".join(parallel.gather_names(list(batch["name"])))
                raise TrainingError(f"the loss of step {step} is {value}; pictures: {names}")
            scaler.unscale_(optimizer)
            if args.clip:
                nn.utils.clip_grad_norm_(parameters, args.clip)
            scaler.step(optimizer)
            scaler.update()
            again = None
            if weighting.looks_again:
                with torch.no_grad():
                    again = torch.stack(weighted_by_task(of_all_processes(losses_of(tensors, pixels)), fixed))
            weighting.after_step(whole, again)
            step += 1
            if ema:
                average(ema, network, args.ema, step)

            bar.update()
            if writer and (step % args.log_every == 0 or step == steps):
                bar.set_postfix({"loss": f"{value:.3f}"} | {k: f"{v.item():.3f}" for k, v in named.items()})
                writer.add_scalar("train/loss", value, step)
                writer.add_scalar("train/lr", optimizer.param_groups[0]["lr"], step)
                for name, loss in named.items():
                    writer.add_scalar(f"train/{name}", loss.item(), step)
                for task, weight in zip(tasks, used, strict=True) if args.weighting != "fixed" else ():
                    writer.add_scalar(f"weight/{task}", weight.item(), step)

            # --------------------------------------------------------------- evaluation and checkpoint
            if step % steps_per_epoch == 0:
                epoch = step // steps_per_epoch
                weighting.end_epoch()
                if (number := epoch - args.epochs + args.swa) > 0:
                    add_to_mean(mean, kept, number)
                    if step == steps:
                        kept.load_state_dict(mean)
                if writer and val_set and (epoch % args.eval_every == 0 or step == steps):
                    result = evaluate(kept, val_set, size, workers=workers, focal=args.focal)
                    history.append({"epoch": epoch, **result})
                    for name, figure in result["values"].items():
                        writer.add_scalar(f"val/{name}", figure, step)
                    log_pictures(writer, kept, val_set, size, args.focal, step)
                    short = {k: v for k, v in result["values"].items() if k in ("miou", "rmse", "abs_rel")}
                    tqdm.write(f"epoch {epoch}: " + "  ".join(f"{k} {v:.4f}" for k, v in short.items()))
                save(step, ended=step == steps)
            if parallel.anyone(stop_requested > 0, device) and step < steps:
                save(step)
                bar.close()
                if first:
                    print(f"stopped at step {step} of {steps}; go on with --resume")
                return 128 + (stop_requested or signal.SIGTERM)
    finally:
        loaded.close()
        bar.close()
        if writer:
            writer.close()
        for number, handler in former_handlers.items():
            signal.signal(number, handler)
        if lock is not None:
            lock.close()

    if not steps:
        save(0, ended=True)
    if first:
        pictures = (steps - start) * args.batch_size
        minutes = (time.monotonic() - began) / 60
        print(f"{path}: {pictures} pictures in {minutes:.1f} min, measuring included")
        if history:
            print(format_result(history[-1]))
    return 0


def lock_folder(folder: Path) -> IO[str]:
    """Keeps other processes' trainings out of a folder for as long as the file that this gives is open.

    Raises:
        TrainingError: another training is there.
    """
    file = open(folder / ".lock", "w")  # noqa: SIM115  (whoever asked closes it)
    try:
        # Not `flock`: workers that load data would hold it too, and may outlive a killed training for some seconds.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        raise TrainingError(f"--out {folder}: another training writes there") from None
    except OSError:  # A file system without locks.
        pass
    return file


def choose_kernels(device: torch.device, deterministic: bool) -> None:
    """On a GPU: the fastest kernels, which cuDNN finds by trying as all batches have one shape; or always the same.

    Of an operation that has no deterministic kernel, PyTorch warns, with its name.
    """
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic
    if deterministic != torch.are_deterministic_algorithms_enabled():  # Even saying no takes a slow import.
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
    if deterministic:
        # What cuBLAS wants to be told before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def keep_memory() -> None:
    """Has glibc keep what is freed. Else it gives maps larger than 32 MiB back to the kernel, and takes their pages
    anew at every step, which on a CPU is a tenth of the time."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # Other libraries of C have other ways.
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
            mallopt(parameter, value)


def ahead(batches: Iterable[Sample], device: torch.device) -> Iterator[tuple[Sample, dict[str, Tensor]]]:
    """Batches with their tensors on the device; on a GPU the next one is copied there while this one is trained on."""
    if device.type != "cuda":
        for batch in batches:
            yield batch, on_device(batch, device)
        return
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    former: tuple[Sample, dict[str, Tensor]] | None = None
    for batch in batches:
        with torch.cuda.stream(copies):
            tensors = on_device(batch, device)
        if former is not None:
            yield former
        torch.cuda.current_stream(device).wait_stream(copies)
        for tensor in tensors.values():
            # Its memory was taken on the other stream, and must not be given away there while it is used on this one.
            tensor.record_stream(torch.cuda.current_stream(device))
        former = batch, tensors
    if former is not None:
        yield former


def on_device(batch: Sample, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a batch, copied without waiting if they are in pinned memory."""
    return {k: v.to(device, non_blocking=True) for k, v in batch.items() if isinstance(v, Tensor)}


def split(tensors: dict[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
    """A batch in equal parts."""
    chunks = {k: v.chunk(parts) for k, v in tensors.items()}
    return [{k: v[i] for k, v in chunks.items()} for i in range(parts)]


def refuse_impossible(args: argparse.Namespace, device: torch.device, infos: list[DatasetInfo]) -> None:
    """Raises TrainingError for settings that do not go together here."""
    if args.precision == "fp16" and device.type != "cuda":
        raise TrainingError(f"--precision fp16 needs CUDA, this is {device.type}; bf16 works here")
    if args.precision == "bf16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        # PyTorch says that such a GPU knows bf16, but cuDNN has no convolutions for it.
        raise TrainingError("--precision bf16 needs a GPU of compute capability 8.0 or newer; fp16 works here")
    processes = parallel.count()
    if args.batch_size % (processes * args.accumulate) or args.batch_size // args.accumulate < 2:
        among = f", each for {processes} processes" if processes > 1 else ""
        raise TrainingError(
            f"--batch-size {args.batch_size} does not divide into {args.accumulate} parts of 2 pictures or more{among}"
        )
    if args.val_split == "none":
        return
    for info in infos:
        if shared := set(info.splits.get(args.train_split, ())) & set(info.splits.get(args.val_split, ())):
            raise TrainingError(
                f"--train-split {args.train_split} has {len(shared)} pictures of --val-split {args.val_split}: "
                "measuring on pictures that were trained on says nothing; give --val-split none"
            )


def validation_set(infos: list[DatasetInfo], split: str) -> FolderDataset | None:
    """The pictures to measure on: `split` of the data sets that have it; None where it is 'none'.

    Raises:
        TrainingError, DataError: none has it.
    """
    if split == "none":
        return None
    having = [info for info in infos if info.splits.get(split)]
    if not having and len(infos) > 1:
        raise TrainingError(f"--val-split {split}: none of the {len(infos)} data sets has it; give another, or none")
    return FolderDataset(joined(having or infos), split)


def refuse_other_run(
    former: Checkpoint, config: NetworkConfig, settings: dict[str, Any], infos: list[DatasetInfo], path: Path
) -> None:
    """Raises TrainingError, naming the difference, when a checkpoint is of another run than the one asked for."""
    if former.config != config:
        what = "classes" if former.config.classes != config.classes else "network"
        raise TrainingError(f"{path}: its {what} differs from the one asked for; a resumed run must be the same")
    then, now = (
        " + ".join(f"{name} ({pictures} pictures)" for name, pictures in sets)
        for sets in (
            [(data["name"], data["pictures"]) for data in sets_of(former.info["data"])],
            [(info.name, len(info.splits[settings["train_split"]])) for info in infos],
        )
    )
    if then != now:
        raise TrainingError(f"{path}: was trained on {then}, not on {now}; a resumed run must be the same")
    for data, info in zip(sets_of(former.info["data"]), infos, strict=True):
        own = digest_of(info, settings["train_split"])
        if data.get("digest", own) != own:  # Checkpoints from before there was one have none.
            raise TrainingError(
                f"{path}: was trained on another {info.name}, of other names, cameras or kind of depth; a resumed run "
                "must be the same"
            )
    defaults = compared(defaults_of("paper"))
    for key, value in settings.items():
        then = former.info["training"].get(key, defaults[key])  # an option newer than the checkpoint
        if then != value:
            raise TrainingError(f"{path}: was trained with {key} {then}, not {value}; a resumed run must be the same")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        status = train(args)
    except (TrainingError, DataError, CheckpointError, WeightsError, ValueError) as error:
        sys.exit(f"train: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    parallel.finish()
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
