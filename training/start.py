"""What a training starts from: where it stopped, another training's end, single-task networks, or ImageNet weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.base import Network
from model.checkpoint import Checkpoint, data_of, load_checkpoint
from model.classes import ClassSet, same_classes
from model.two_streams import TwoStreamNetwork
from model.weights import load_backbone_weights
from training import parallel

CHECKPOINT = "checkpoint.safetensors"
OPTIONS_OF_STREAMS = ("aspp_rates", "dropout", "saturation")


class TrainingError(Exception):
    """Training that cannot start or go on; the message is one line."""


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The network's options: those given, and where it starts from other weights, whatever else those were made with.

    A training that goes on has its own, also where the file that it started from is gone. Two streams have what both
    of their single-task networks were made with and they know as well.

    Raises:
        TrainingError: of several files, one was made with others, which are not given.
    """
    single = args.single_task if args.single_task and len(args.single_task) == 2 else []
    files = [args.out / CHECKPOINT] if args.resume and (args.out / CHECKPOINT).is_file() else args.start or single
    configs = [load_checkpoint(Path(file)).config for file in files]
    if files is single:
        found = [{k: v for k, v in one.options.items() if k in OPTIONS_OF_STREAMS} for one in configs]
    else:
        same = [one for one in configs if (one.network, one.backbone) == (args.network, args.backbone)]
        found = [one.options for one in same]
    for other in found[1:]:
        for name in sorted((found[0].keys() | other.keys()) - args.options.keys()):
            if found[0].get(name) != other.get(name):
                raise TrainingError(
                    f"{'--single-task' if files is single else '--start'}: one was made with {name} "
                    f"{found[0].get(name, 'as it is')}, the other with {other.get(name, 'as it is')}; give --options"
                )
    return {**(found[0] if found else {}), **args.options}


def tell_other_focal(file: str | Path, training: dict[str, Any], focal: float) -> None:
    """A line where depth was learned for another focal length: it begins at another scale."""
    if (then := training.get("focal", 0.0)) != focal and parallel.rank() == 0:
        print(f"{file}: its depth was learned with --focal {then:g}, and now it is {focal:g}")


def load_start(network: Network, args: argparse.Namespace, classes: ClassSet) -> list[dict[str, Any]]:
    """Fills a new network with what it starts from: trained networks, or ImageNet weights in every encoder.

    Returns:
        The data that the trained ones had seen: their licences ask as much of this one.
    """
    two_streams = isinstance(network, TwoStreamNetwork)
    single_task = args.single_task or (["none"] if args.start else [])
    if two_streams and len(single_task) != 2 and single_task != ["none"]:
        raise TrainingError(f"{args.network} starts from two checkpoints: --single-task SEG DEPTH (or 'none')")
    if args.single_task and not two_streams:
        raise TrainingError(f"--single-task is for cross_stitch and nddr_cnn, not for {args.network}")
    if isinstance(network, TwoStreamNetwork) and single_task != ["none"]:
        single = [load_checkpoint(Path(file)) for file in single_task]
        for file, checkpoint in zip(single_task, single, strict=True):
            if not same_classes(checkpoint.config.classes, classes):
                raise TrainingError(f"{file}: its classes are not those of the data set")
        network.load_single_task(single[0].weights, single[1].weights)
        tell_other_focal(single_task[1], single[1].info["training"], args.focal)
        return data_of(single)
    if args.start:
        others = [load_checkpoint(file) for file in args.start]
        load_other_training(network, others, args, classes)
        for file, other in zip(args.start, others, strict=True):
            tell_other_focal(file, other.info["training"], args.focal)
        return data_of(others)
    for backbone in network.backbones():
        load_backbone_weights(backbone, args.backbone, args.weights)
    return []


def start_names(args: argparse.Namespace) -> str | None:
    """Names of the files of --start, as they are kept."""
    return " + ".join(file.name for file in args.start) if args.start else None


def load_other_training(
    network: Network, others: list[Checkpoint], args: argparse.Namespace, classes: ClassSet
) -> None:
    """Fills a network with what another training came to, but for its segmentation classifiers if the classes differ.

    Of several trainings, each of which went on from another one's end, with the mean of their weights, which is often
    better than each of them on pictures of another kind than theirs (Wortsman et al., Model soups, ICML 2022).

    Raises:
        TrainingError: one is of another network or backbone, other options gave it other layers, or they have different
            classes.
    """
    own = network.state_dict()
    theirs = others[0].config.classes
    # Classifiers of other classes are not taken, also where by chance there are as many: they are others still.
    same = same_classes(theirs, classes)
    left = set() if same else others[0].config.classifiers()
    taken = [k for k in own if k not in left]
    for file, other in zip(args.start, others, strict=True):
        then = (other.config.network, other.config.backbone)
        if then != (args.network, args.backbone):
            raise TrainingError(f"{file} is {' on '.join(then)}, not {args.network} on {args.backbone}")
        if not same_classes(other.config.classes, theirs):
            raise TrainingError(f"{file}: its classes are not those of {args.start[0]}")
        if own.keys() != other.weights.keys() or any(other.weights[k].shape != own[k].shape for k in taken):
            raise TrainingError(f"{file}: was made with other --options ({json.dumps(other.config.options)})")
    network.load_state_dict({k: mean_of([other.weights[k] for other in others]) for k in taken}, strict=False)
    if len(taken) < len(own) and parallel.rank() == 0:
        print(
            f"{args.start[0]}: {len(taken)} of its {len(own)} tensors are taken; its segmentation classifier is new, "
            f"for the {len(classes)} classes of the data are not its {len(theirs)}"
        )


def mean_of(tensors: list[Tensor]) -> Tensor:
    """Of tensors of one shape; the first, where they hold no fractions (counters)."""
    if len(tensors) == 1 or not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0)
