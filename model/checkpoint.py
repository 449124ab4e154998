"""Checkpoints: one safetensors file that says what it is.

The tensors `network.*` are the weights, `training.*` (only while training may go on) the optimiser's state and
the random generators. The header carries one JSON object: network, backbone, options, classes, and whatever
training adds (its settings, its data, its figures). Nothing is pickled; loading is strict; a write is atomic.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.base import Network
from model.classes import ClassInfo
from model.networks import NetworkConfig

FORMAT = 1
_HEADER_KEY = "segdepth"


class CheckpointError(Exception):
    """A file that is not a checkpoint of this format, or not of this network; the message is one line."""


@dataclass
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        config: Names the network.
        weights: Its state dict, on the CPU.
        info: JSON values that training wrote: `training`, `data` (of several data sets, what they are together, and
            each of them in its `sets`), `earlier_data` (of what the training started from), `evaluations`, `progress`.
        training_state: Tensors by name; empty once training has ended.
    """

    config: NetworkConfig
    weights: dict[str, Tensor]
    info: dict[str, Any] = field(default_factory=dict)
    training_state: dict[str, Tensor] = field(default_factory=dict)

    def network(self) -> Network:
        """The network with its weights, in evaluation mode.

        Raises:
            CheckpointError: there is no such network, or the weights are not of it.
        """
        wrong = "the network cannot be built"
        try:
            network = self.config.build()
            wrong = "the weights do not fit the network"
            network.load_state_dict(self.weights, strict=True)
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"{wrong}: {' '.join(str(error).split())[:300]}") from None
        return network.eval()

    def digest(self) -> str:
        """Of its weights, by which the figures of a measurement are known to be its own."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            found.update(name.encode())
            found.update(tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]


def with_saturation(checkpoint: Checkpoint, saturation: float) -> Checkpoint:
    """The same weights in a network that sees so much of a picture's colours, 0 to 1, whatever it was trained with.

    Figures of its training are left out where they were measured at another saturation.
    """
    config = checkpoint.config
    same = config.saturation == saturation
    return replace(
        checkpoint,
        config=replace(config, options={**config.options, "saturation": saturation}),
        info=checkpoint.info if same else {**checkpoint.info, "evaluations": []},
    )


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes `path` whole or not at all: a kill, or a full disk, leaves the former file.

    Raises:
        CheckpointError: it cannot be written.
    """
    config = checkpoint.config
    header = {
        "format": FORMAT,
        "network": config.network,
        "backbone": config.backbone,
        "options": config.options,
        "classes": [asdict(c) for c in config.classes],
        **checkpoint.info,
    }
    tensors = {f"network.{k}": v for k, v in checkpoint.weights.items()}
    tensors |= {f"training.{k}": v for k, v in checkpoint.training_state.items()}
    temporary = path.with_name(f".{path.name}.partial")
    on_cpu = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    try:
        save_file(on_cpu, temporary, {_HEADER_KEY: json.dumps(header)})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (SafetensorError, OSError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise CheckpointError(f"{path}: cannot be written ({error})") from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        CheckpointError: no such file, not safetensors, or not of this format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from None
    try:
        header = json.loads(metadata[_HEADER_KEY])
        if header["format"] != FORMAT:
            raise CheckpointError(f"{path}: format {header['format']}, this version reads {FORMAT}")
        classes = tuple(ClassInfo(c["id"], c["name"], tuple(c["color"])) for c in header["classes"])
        config = NetworkConfig(header["network"], header["backbone"], classes, header["options"])
    except (KeyError, TypeError, json.JSONDecodeError):
        raise CheckpointError(f"{path}: not a segdepth checkpoint (its header is missing or incomplete)") from None
    known = {"format", "network", "backbone", "options", "classes"}
    return Checkpoint(
        config=config,
        weights={k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")},
        info={k: v for k, v in header.items() if k not in known},
        training_state={k.removeprefix("training."): v for k, v in tensors.items() if k.startswith("training.")},
    )


def sets_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The data sets that `data` of a checkpoint is about: itself, or its `sets`."""
    sets: list[dict[str, Any]] = data.get("sets", [data])
    return sets


def data_of(checkpoints: Iterable[Checkpoint]) -> list[dict[str, Any]]:
    """The data sets behind these weights and behind those that they started from, each once."""
    found: list[dict[str, Any]] = []
    for checkpoint in checkpoints:
        found += [*sets_of(checkpoint.info["data"]), *checkpoint.info.get("earlier_data", [])]
    return [data for i, data in enumerate(found) if data not in found[:i]]
