"""MTI-Net: initial predictions, propagation and distillation at four scales, then aggregation.

Vandenhende et al., "MTI-Net: Multi-Scale Task Interaction Networks for Multi-Task Learning", ECCV 2020 (figures 1
and 3).

    encoder        initial predictions      distillation       aggregation
    X4  1/32 ────── F_t ─────────────────── F'_t ───────────┐
                     └ propagation ┐                        │
    X3  1/16 ────── concat ─ F_t ────────── F'_t ───────────┤
                              └ propagation ┐               ├── up ─ segmentation, depth
    X2  1/8  ─────────────── concat ─ F_t ─ F'_t ───────────┤
                                       └ propagation ┐      │
    X1  1/4  ──────────────────────── concat ─ F_t ─ F'_t ──┘

Each F_t also gives a prediction of its task at its scale, and all of them are supervised (`intermediate`).
The encoder is HRNet, or a ResNet (or MobileNetV2) of output stride 32 under a feature pyramid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from model.backbones import normalize
from model.base import AUXILIARY_TASKS, TASKS, AuxiliaryTask, Backbone, Features, Network, task_channels
from model.blocks import BasicBlock, conv_bn_relu, random_start, resize
from model.hrnet import HRNet
from model.pad_net import Distillation, check_auxiliary_tasks


class FeaturePyramid(nn.Module):
    """Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017 (figure 3): equal channels at all scales.

    Each scale's 1×1 joins what comes down from the coarser scale, and a 3×3 smooths the sum.
    """

    def __init__(self, backbone: Backbone, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels = (width,) * 4
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in backbone.channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in backbone.channels)

    def forward(self, image: Tensor) -> Features:
        x1, x2, x3, x4 = (lateral(x) for lateral, x in zip(self.lateral, self.backbone(image), strict=True))
        x3 = x3 + resize(x4, x3)
        x2 = x2 + resize(x3, x2)
        x1 = x1 + resize(x2, x1)
        return Features(*(smooth(x) for smooth, x in zip(self.smooth, (x1, x2, x3, x4), strict=True)))


class InitialPrediction(nn.Module):
    """Two basic residual blocks (the task feature F_t), then a 1×1 prediction (section 3.1)."""

    def __init__(self, inputs: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.refine = nn.Sequential(BasicBlock(inputs, channels), BasicBlock(channels, channels))
        self.classifier = nn.Conv2d(channels, outputs, 1)


class SqueezeExcitation(nn.Module):
    """x ⊙ sigmoid(W2 ReLU(W1 mean(x))) (Hu et al., CVPR 2018); the bottleneck has C/16 channels, at least 4."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        squeezed = max(4, channels // reduction)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(x.mean(dim=(2, 3), keepdim=True))  # [N, C, 1, 1]
        return gate * x


class FeaturePropagation(nn.Module):
    """The task features of one scale, refined by each other, on their way to the next finer scale (figure 3).

    mask   = softmax over tasks (conv(two residual blocks(concat F_t)))
    shared = residual block (concat mask_t ⊙ F_t), T·C → C channels         feature harmonisation
    F''_t  = F_t + SE_t(shared)                                             refinement
    """

    def __init__(self, tasks: tuple[str, ...], channels: int, reduction: int) -> None:
        super().__init__()
        self.tasks = tasks
        total = len(tasks) * channels
        self.mask = nn.Sequential(
            BasicBlock(total, total // 4), BasicBlock(total // 4, total // 4), nn.Conv2d(total // 4, total, 1)
        )
        self.shared = BasicBlock(total, channels)
        self.select = nn.ModuleDict({t: SqueezeExcitation(channels, reduction) for t in tasks})

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        together = torch.cat([features[t] for t in self.tasks], dim=1)  # [N, T·C, h, w]
        mask = self.mask(together).unflatten(1, (len(self.tasks), -1)).softmax(dim=1)  # [N, T, C, h, w]
        shared = self.shared(mask.flatten(1, 2) * together)  # [N, C, h, w]
        return {t: features[t] + self.select[t](shared) for t in self.tasks}


class Concatenation(nn.Module):
    """Aggregation on HRNet: all scales enlarged to the finest and concatenated, two 1×1 convolutions."""

    def __init__(self, channels: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.conv = conv_bn_relu(sum(channels), sum(channels))
        self.classifier = nn.Conv2d(sum(channels), outputs, 1)

    def forward(self, xs: list[Tensor]) -> Tensor:
        together = torch.cat([xs[0], *(resize(x, xs[0]) for x in xs[1:])], dim=1)  # [N, ΣC, H/4, W/4]
        y: Tensor = self.classifier(self.conv(together))
        return y


class PanopticSum(nn.Module):
    """Aggregation on a feature pyramid (Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, figure 3).

    Each scale goes through one 3×3 and enlargement for each step up to the finest (one 3×3 there); then the sum.
    """

    def __init__(self, channels: tuple[int, ...], outputs: int, width: int = 128) -> None:
        super().__init__()
        self.up = nn.ModuleList(
            nn.ModuleList(conv_bn_relu(c if step == 0 else width, width, 3) for step in range(max(1, scale)))
            for scale, c in enumerate(channels)
        )
        self.classifier = nn.Conv2d(width, outputs, 1)

    def forward(self, xs: list[Tensor]) -> Tensor:
        total: Tensor = self.up[0].get_submodule("0")(xs[0])
        for scale in (1, 2, 3):
            x = xs[scale]
            for step, conv in enumerate(self.up[scale].children()):
                x = resize(conv(x), xs[scale - step - 1])
            total = total + x
        y: Tensor = self.classifier(total)
        return y


class MTINet(Network):
    """Four scales of task interaction.

    The paper under reproduction has 81.8 · 2²⁰ parameters on ResNet-50. MTI-Net's ResNet-50 form was never published
    with its widths, so that figure cannot be derived: with a pyramid of 256 channels it is 68.7 here without auxiliary
    tasks and 122.7 with both, which is the default. On HRNet-W18 it is 19.6.

    Args:
        backbone: HRNet, or an encoder of output stride 32, which gets a feature pyramid.
        classes: Number of segmentation classes.
        auxiliary_tasks: Tasks predicted only on the way, besides segmentation and depth.
        pyramid_width: Channels of the feature pyramid. None is C4/8, at least 128: 256 on ResNet-50.
        reduction: Of the squeeze-and-excitation blocks.
    """

    tasks = TASKS

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        auxiliary_tasks: tuple[AuxiliaryTask, ...] = AUXILIARY_TASKS,
        pyramid_width: int | None = None,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        check_auxiliary_tasks(auxiliary_tasks)
        self.auxiliary_tasks = tuple(auxiliary_tasks)
        on_hrnet = isinstance(backbone, HRNet)
        width = pyramid_width or max(128, backbone.channels[3] // 8)
        self.pyramid = backbone if on_hrnet else FeaturePyramid(backbone, width)
        c: tuple[int, int, int, int] = self.pyramid.channels
        outputs = task_channels(classes)
        everything = (*TASKS, *self.auxiliary_tasks)
        # Scales 0 to 3 are 1/4 to 1/32. Every scale but the coarsest also receives the one below it.
        received = (*c[1:], 0)
        self.initial = nn.ModuleList(
            nn.ModuleDict({t: InitialPrediction(c[s] + received[s], c[s], outputs[t]) for t in everything})
            for s in range(4)
        )
        self.propagation = nn.ModuleList(FeaturePropagation(everything, c[s], reduction) for s in (1, 2, 3))
        self.distillation = nn.ModuleList(Distillation("C", TASKS, everything, c[s]) for s in range(4))
        aggregation = Concatenation if on_hrnet else PanopticSum
        self.heads = nn.ModuleDict({t: aggregation(c, outputs[t]) for t in TASKS})
        random_start(self.initial, self.propagation, self.distillation, self.heads)

    def forward(self, image: Tensor) -> dict[str, Any]:
        xs: Features = self.pyramid(normalize(image, self.saturation))
        scales: dict[int, dict[str, Tensor]] = {}  # task features by scale
        for s in (3, 2, 1, 0):
            if s == 3:
                inputs = dict.fromkeys((*TASKS, *self.auxiliary_tasks), xs[s])
            else:
                coarser = self.propagation[s](scales[s + 1])
                inputs = {t: torch.cat([xs[s], resize(x, xs[s])], dim=1) for t, x in coarser.items()}
            scales[s] = {t: self._initial(s, t).refine(x) for t, x in inputs.items()}  # [N, C_s, H_s, W_s] each
        distilled = [self.distillation[s](scales[s]) for s in range(4)]
        maps: dict[str, Any] = {t: self.upsample(self.heads[t]([d[t] for d in distilled]), image) for t in TASKS}
        if self.training:
            maps["intermediate"] = [
                {t: self._initial(s, t).classifier(x) for t, x in scales[s].items()} for s in range(4)
            ]
        return maps

    def _initial(self, scale: int, task: str) -> InitialPrediction:
        module = self.initial[scale].get_submodule(task)
        assert isinstance(module, InitialPrediction)
        return module
