"""Every network by its name, with what it takes to build it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from model.backbones import BACKBONES
from model.base import Network
from model.classes import ClassSet
from model.cross_stitch import CrossStitch
from model.mtan import MTAN
from model.mti_net import MTINet
from model.mtl import MultiTaskNetwork
from model.nddr import NDDRCNN
from model.pad_net import PADNet

NETWORKS: dict[str, Callable[..., Network]] = {
    "stl_aspp": partial(MultiTaskNetwork, tasks=("segmentation",)),
    "stl_aspp_depth": partial(MultiTaskNetwork, tasks=("depth",)),
    "mtl": MultiTaskNetwork,
    "mtl_pp": partial(MultiTaskNetwork, context="pp"),
    "mtl_se": partial(MultiTaskNetwork, se=True, context="fcn"),
    "mtl_se_aspp": partial(MultiTaskNetwork, se=True),
    "mtl_spp": partial(MultiTaskNetwork, se=True, context="pp"),
    "mtl_sw_pp": partial(MultiTaskNetwork, se=True, sw=(0.9, 0.1), context="pp"),
    "mtl_ssw": partial(MultiTaskNetwork, se=True, sw=(0.9, 0.1)),
    "cross_stitch": CrossStitch,
    "nddr_cnn": NDDRCNN,
    "mtan": MTAN,
    "pad_net": PADNet,
    "mti_net": MTINet,
}

MULTI_SCALE = ("mti_net",)
"""Networks that want features down to 1/32; the encoders of the others are dilated to 1/16."""

PAPER_MI: dict[str, float] = {
    "stl_aspp": 37.82,
    "mtl": 53.18,
    "mtl_pp": 66.43,
    "mtl_se": 55.11,
    "mtl_se_aspp": 68.5,
    "mtl_spp": 83.91,
    "mtl_sw_pp": 103.2,
    "mtl_ssw": 89.9,
    "cross_stitch": 75.8,
    "nddr_cnn": 96.9,
    "mtan": 67.0,
    "pad_net": 66.9,
    "mti_net": 81.8,
}
"""Parameters of the ResNet-50 networks in the paper's tables, in units of 2^20."""


def supported_backbones(network: str) -> tuple[str, ...]:
    """The encoders that a network can stand on: HRNet has no stages to work with, only four scales."""
    return tuple(name for name in BACKBONES if name != "hrnet_w18" or network in MULTI_SCALE)


@dataclass(frozen=True)
class NetworkConfig:
    """Names a network completely: with it and a state dict the network is back.

    Attributes:
        network: Key of `NETWORKS`.
        backbone: Key of `BACKBONES`.
        classes: The class set its segmentation speaks of.
        options: Further constructor arguments of the network, as JSON knows them; and for any network `saturation`,
            how much it sees of a picture's colours (1 all, 0 none).
    """

    network: str
    backbone: str
    classes: ClassSet
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def saturation(self) -> float:
        """That of `options`, or what it is without."""
        return float(self.options.get("saturation", 1))

    def build(self) -> Network:
        """The network at its random start.

        Raises:
            ValueError: an unknown network, backbone or option, or two that do not go together; the message is one line.
        """
        for kind, name, known in (("network", self.network, NETWORKS), ("backbone", self.backbone, BACKBONES)):
            if name not in known:
                raise ValueError(f"unknown {kind} '{name}'; there are {', '.join(known)}")
        supported = supported_backbones(self.network)
        if self.backbone not in supported:
            raise ValueError(f"{self.network} does not work on {self.backbone}, only on {', '.join(supported)}")
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in self.options.items()}
        saturation = options.pop("saturation", 1)
        if isinstance(saturation, bool) or not isinstance(saturation, int | float) or not 0 <= saturation <= 1:
            raise ValueError(f"the option saturation is a number from 0 to 1, not {saturation!r}")
        backbone = BACKBONES[self.backbone](output_stride=32 if self.network in MULTI_SCALE else 16)
        try:
            network = NETWORKS[self.network](backbone, len(self.classes), **options)
        except (TypeError, KeyError, ArithmeticError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{self.network} does not take these options: {reason}") from None
        network.saturation = saturation
        return network

    def classifiers(self) -> set[str]:
        """The names of its tensors whose shapes are by the number of classes."""
        with torch.device("meta"):  # Shapes alone.
            own, other = (replace(self, classes=classes).build() for classes in (self.classes, self.classes * 2))
        shapes = {name: tensor.shape for name, tensor in other.state_dict().items()}
        return {name for name, tensor in own.state_dict().items() if tensor.shape != shapes[name]}


def count_parameters(network: nn.Module) -> int:
    """Trainable and fixed parameters, without buffers."""
    return sum(p.numel() for p in network.parameters())
