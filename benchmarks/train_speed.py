"""Pictures per second of train.py beside a bare loop: same network, loss and optimiser, pictures already in memory.

python -m training.boxes --out data/boxes --count 3000
python benchmarks/train_speed.py --data data/boxes --backbone mobilenet_v2 --batch-size 16
python benchmarks/train_speed.py --data data/boxes --backbone resnet18 --size 240x320 --split val

Both are measured in turn, so that a change of the machine's load meets both; the ratio is of the medians. Of train.py
counts the time between the first and the last step that it logged: loading, augmentation, checks and log included,
start and the checkpoint at the end not.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import default_collate

from model.networks import NetworkConfig
from training.augment import Augmentation
from training.data import FolderDataset, StepSampler, read_info
from training.losses import multi_task_loss
from training.train import DTYPES, choose_kernels, parse_size

ROOT = Path(__file__).resolve().parents[1]
LOG_EVERY = 5
KEPT_BATCHES = 4


def bare(args: Any, seconds: float) -> float:
    """Pictures per second of the loop that does nothing but train, over at least `seconds`."""
    info = read_info(args.data)
    device = torch.device(args.device)
    choose_kernels(device, deterministic=False)
    network = NetworkConfig(args.network, args.backbone, info.classes).build().to(device).train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    pictures = FolderDataset(info, args.split, Augmentation(args.size))
    sampler = StepSampler(len(pictures), args.batch_size, epochs=1, seed=0)
    batches = [default_collate([pictures[i] for i in indices]) for indices in itertools.islice(sampler, KEPT_BATCHES)]
    kept = [{k: v.to(device) for k, v in batch.items() if isinstance(v, Tensor)} for batch in batches]

    steps, began = -LOG_EVERY, 0.0  # the first steps are slower
    for batch in itertools.cycle(kept):
        if steps == 0:
            began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, DTYPES[args.precision], enabled=args.precision != "fp32"):
            outputs = network(batch["image"].contiguous(memory_format=torch.channels_last))
        losses = multi_task_loss(outputs, batch)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        steps += 1
        if steps > 0 and time.perf_counter() - began > seconds:
            break
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps * args.batch_size / (time.perf_counter() - began)


def train(args: Any) -> tuple[float, float]:
    """Pictures per second of train.py over one epoch, and the seconds they were counted in."""
    height, width = args.size
    with tempfile.TemporaryDirectory() as out:
        command = [
            *(sys.executable, str(ROOT / "training" / "train.py"), "--data", str(args.data), "--out", out),
            *("--network", args.network, "--backbone", args.backbone, "--weights", "none"),
            *("--size", f"{height}x{width}", "--batch-size", str(args.batch_size), "--epochs", "1"),
            *("--train-split", args.split, "--val-split", "none", "--log-every", str(LOG_EVERY)),
            *("--workers", str(args.workers), "--device", args.device, "--precision", args.precision),
        ]
        subprocess.run(command, check=True, capture_output=True)
        events = EventAccumulator(str(Path(out) / "tensorboard"))
        events.Reload()
        logged = events.Scalars("train/loss")
    first, last = logged[0], logged[-1]
    if last.step == first.step:
        raise SystemExit(f"train_speed: {args.split} has too few pictures: fewer than {2 * LOG_EVERY} steps")
    seconds = last.wall_time - first.wall_time
    return (last.step - first.step) * args.batch_size / seconds, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed beside a bare loop.")
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--network", default="mtl_ssw")
    add("--backbone", default="mobilenet_v2")
    add("--size", type=parse_size, default=(120, 160), metavar="HxW")
    add("--batch-size", type=int, default=16)
    add("--split", default="train", help="pictures of one epoch (default: train)")
    add("--workers", type=int, default=2)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--rounds", type=int, default=3)
    args = parser.parse_args()

    rates: dict[str, list[float]] = {"train.py": [], "bare": []}
    for _ in range(args.rounds):
        rate, seconds = train(args)
        rates["train.py"].append(rate)
        rates["bare"].append(bare(args, seconds))
        print("  ".join(f"{name} {values[-1]:.2f}/s" for name, values in rates.items()), flush=True)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    print(
        f"{args.network} on {args.backbone}, {args.size[0]}x{args.size[1]}, batch {args.batch_size}, {args.device}, "
        f"{args.precision}, "
        f"{torch.get_num_threads()} threads, {args.workers} loaders: train.py {middle['train.py']:.2f} pictures/s, "
        f"bare loop {middle['bare']:.2f}; ratio {middle['train.py'] / middle['bare']:.3f}"
    )


if __name__ == "__main__":
    main()
