"""PAD-Net: predict several tasks first, then distil them into the final ones.

Xu et al., "PAD-Net: Multi-Tasks Guided Prediction-and-Distillation Network for Simultaneous Depth Estimation and Scene
Parsing", CVPR 2018 (figures 2 and 3).

                   ┌─ segmentation ─┬─ 1×1 ─ loss    ┐
    encoder ─ X4 ──┼─ depth ────────┼─ 1×1 ─ loss    │ F_t    distillation     ┌─ segmentation ─ 1×1 ─ up
                   ├─ normals ──────┼─ 1×1 ─ loss    ├────── A, B or C ────────┤
                   └─ edges ────────┴─ 1×1 ─ loss    ┘                         └─ depth ──────── 1×1 ─ up

All initial predictions are supervised (`intermediate`); the features under them, not the maps, are distilled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from model.backbones import normalize
from model.base import AUXILIARY_TASKS, TASKS, AuxiliaryTask, Backbone, Network, task_channels
from model.blocks import Bottleneck, random_start

DistillationKind = Literal["A", "B", "C"]


def check_auxiliary_tasks(tasks: Sequence[AuxiliaryTask]) -> None:
    """Raises ValueError for a task that there is not, or one given twice."""
    if not set(tasks) <= set(AUXILIARY_TASKS) or len(set(tasks)) != len(tasks):
        raise ValueError(f"auxiliary_tasks are some of {', '.join(AUXILIARY_TASKS)}, not {', '.join(map(str, tasks))}")


class TaskHead(nn.Module):
    """Two bottlenecks to `width` channels (the task feature), then a 1×1 prediction."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        if width < 4 or width % 4:
            raise ValueError(f"the width of task features is a multiple of 4, not {width}")
        self.refine = nn.Sequential(Bottleneck(inputs, width // 4), Bottleneck(width, width // 4))
        self.classifier = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.refine(x))
        return y


class Message(nn.Module):
    """What one task sends another: 3×3(F), with attention 3×3(F) ⊙ sigmoid(3×3(F))."""

    def __init__(self, channels: int, attention: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.gate = nn.Conv2d(channels, channels, 3, padding=1, bias=False) if attention else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if self.gate is None else y * torch.sigmoid(self.gate(x))


class Distillation(nn.Module):
    """Multi-modal distillation: the features of all tasks, at one resolution, into those of the receivers.

        A:  F'_k = concat(F_1 … F_T)
        B:  F'_k = F_k + Σ_{t≠k} W_tk ⊗ F_t
        C:  F'_k = F_k + Σ_{t≠k} σ(V_tk ⊗ F_t) ⊙ (W_tk ⊗ F_t)

    C is written as in equation 1 of MTI-Net and as the published references of PAD-Net have it, with a gate for each
    pair made from the sender; PAD-Net's own text makes one gate for each receiver from its feature.

    Args:
        kind: `A`, `B` or `C`.
        receivers: The final tasks.
        senders: All tasks, the receivers among them.
        channels: Of each task's feature.
    """

    def __init__(self, kind: DistillationKind, receivers: Sequence[str], senders: Sequence[str], channels: int) -> None:
        super().__init__()
        if kind not in get_args(DistillationKind):
            raise ValueError(f"distillation is A, B or C, not {kind}")
        self.receivers, self.senders = tuple(receivers), tuple(senders)
        self.channels = channels * len(senders) if kind == "A" else channels  # of what comes out, for each receiver
        self.messages: nn.ModuleDict | None = None
        if kind != "A":
            self.messages = nn.ModuleDict(
                {
                    k: nn.ModuleDict({t: Message(channels, attention=kind == "C") for t in senders if t != k})
                    for k in receivers
                }
            )

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.messages is None:
            together = torch.cat([features[t] for t in self.senders], dim=1)  # [N, T·C, h, w]
            return dict.fromkeys(self.receivers, together)
        out = {}
        for k in self.receivers:
            total = features[k]
            for t in self.senders:
                if t != k:
                    total = total + self.messages[k].get_submodule(t)(features[t])
            out[k] = total
        return out


class PADNet(Network):
    """Initial predictions, distillation, final predictions; 32.4 · 2²⁰ parameters on ResNet-50.

    The paper under reproduction has 66.9. PAD-Net was published with a multi-scale front end and deconvolutions of
    which the paper says nothing; in the usual single-scale ResNet-50 form built here it comes to 26.4 (no auxiliary
    task) to 32.4 (two), and no reading of the text gives 66.9.

    Args:
        backbone: The shared encoder.
        classes: Number of segmentation classes.
        auxiliary_tasks: Tasks predicted only on the way, besides segmentation and depth.
        distillation: `A` (concatenation), `B` (message passing) or `C` (message passing with attention).
        width: Channels of the task features. None is C4/8, at least 128: 256 on ResNet-50.
    """

    tasks = TASKS

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        auxiliary_tasks: tuple[AuxiliaryTask, ...] = AUXILIARY_TASKS,
        distillation: DistillationKind = "C",
        width: int | None = None,
    ) -> None:
        super().__init__()
        check_auxiliary_tasks(auxiliary_tasks)
        self.auxiliary_tasks = tuple(auxiliary_tasks)
        self.backbone = backbone
        c4 = backbone.channels[3]
        width = width or max(128, c4 // 8)
        outputs = task_channels(classes)
        everything = (*TASKS, *self.auxiliary_tasks)
        self.initial = nn.ModuleDict({t: TaskHead(c4, width, outputs[t]) for t in everything})
        self.distillation = Distillation(distillation, TASKS, everything, width)
        self.heads = nn.ModuleDict({t: TaskHead(self.distillation.channels, width, outputs[t]) for t in TASKS})
        random_start(self.initial, self.distillation, self.heads)

    def forward(self, image: Tensor) -> dict[str, Any]:
        x4 = self.backbone(normalize(image, self.saturation)).x4  # [N, C4, H/16, W/16]
        features = {t: head.get_submodule("refine")(x4) for t, head in self.initial.items()}  # [N, width, h, w] each
        distilled = self.distillation(features)
        maps: dict[str, Any] = {t: self.upsample(self.heads[t](distilled[t]), image) for t in TASKS}
        if self.training:
            maps["intermediate"] = [
                {t: head.get_submodule("classifier")(features[t]) for t, head in self.initial.items()}
            ]
        return maps
