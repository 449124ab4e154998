"""MTAN: one shared encoder; each task picks its features from every stage by attention.

Liu et al., "End-to-End Multi-Task Learning with Attention", CVPR 2019 (figure 2 and equations 1 and 2).

    encoder    ─ stem ─ stage 1 ───────┬──── stage 2 ───────┬──── stage 3 ── … ── stage 4
                        but last ─ last│     but last ─ last│
                            │       │          │        │
    task t                mask ──── ⊙ ─ carry ─┴─ mask ─ ⊙ ─ carry ─ …       mask ─ ⊙ ─ ASPP ─ up

The masks are each task's own; what carries an attended feature to the next stage (a residual bottleneck to the next
number of channels, and a max-pool where the resolution drops) is shared between the tasks, as in the original.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.backbones import normalize
from model.base import TASKS, Network, StagedBackbone, Task, task_channels
from model.blocks import Bottleneck, random_start
from model.heads import ASPPHead


class AttentionMask(nn.Module):
    """Equation 2's mask: 1×1 → C/4, BN, ReLU, 1×1 → C, BN, sigmoid; values in 0..1, one per channel and place."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.mask = nn.Sequential(
            nn.Conv2d(inputs, channels // 4, 1),
            nn.BatchNorm2d(channels // 4),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 4, channels, 1),
            nn.BatchNorm2d(channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mask(x)
        return y


class MTAN(Network):
    """Attention on the last block of every stage; 68.71 · 2²⁰ parameters on ResNet-50.

    The paper under reproduction has 67.0, 2.5 % fewer. It does not say how it put MTAN, whose original encoder is
    SegNet, on ResNet-50; the form here is that of the published ResNet references, with the ASPP heads of the others.

    Args:
        backbone: The shared encoder.
        classes: Number of segmentation classes.
        aspp_rates: Dilation rates of the ASPP heads.
        dropout: In the ASPP heads.
    """

    tasks = TASKS

    def __init__(
        self,
        backbone: StagedBackbone,
        classes: int,
        *,
        aspp_rates: tuple[int, int, int] = (12, 24, 36),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        c, inner = backbone.channels, backbone.inner_channels
        carried = (0, *c[1:])  # what joins the encoder's feature in front of each mask
        self.masks = nn.ModuleDict(
            {task: nn.ModuleList(AttentionMask(inner[i] + carried[i], c[i]) for i in range(4)) for task in TASKS}
        )
        # At output stride 16 stages 3 and 4 have one size. Rounded up, as the encoder's strided convolutions round.
        self.carry = nn.ModuleList(
            nn.Sequential(
                Bottleneck(c[i], c[i + 1] // 4), nn.MaxPool2d(2, 2, ceil_mode=True) if i < 2 else nn.Identity()
            )
            for i in range(3)
        )
        outputs = task_channels(classes)
        self.heads = nn.ModuleDict({task: ASPPHead(c[3], outputs[task], aspp_rates, dropout) for task in TASKS})
        random_start(self.masks, self.carry, self.heads)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.backbone.stem(normalize(image, self.saturation))
        attended: dict[Task, Tensor] = {}
        for i in (1, 2, 3, 4):
            u = self.backbone.stage_start(i, x)
            x = self.backbone.stage_end(i, u)
            for t in TASKS:
                joined = u if i == 1 else torch.cat([u, self.carry[i - 2](attended[t])], dim=1)
                attended[t] = self.masks[t].get_submodule(str(i - 1))(joined) * x  # [N, C_i, H_i, W_i]
        return {t: self.upsample(self.heads[t](attended[t]), image) for t in TASKS}
