"""The paper's own networks: a shared encoder, a branch per task, exchange between the branches.

Luo Huilan, Ye Ju, "Study of Multi-task Learning with Joint Semantic Segmentation and Depth Estimation",
Computer Science 50(6A), 2023. MTL_SSW, with SE modules, SW modules and an ASPP context module:

    X1 ───────────┬──────────────── X2 ──────────┬───────────────  X3 ──── …            X4 ── …
                  │                  │            │                 │                    │
    segmentation: SE1 ── SW ─ 1×1 ─ concat ──── SE2 ── SW ─ 1×1 ─ concat ─ SE3 ─ SW ─ concat ─ SE4 ─ ASPP ─ up
                        ╳ (eq. 8)                     ╳                          ╳
    depth:        SE1 ── SW ─ 1×1 ─ concat ──── SE2 ── SW ─ 1×1 ─ concat ─ SE3 ─ SW ─ concat ─ SE4 ─ ASPP ─ up

Its ablations are the same class with three switches: SE modules, SW modules, context module.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from model.backbones import normalize
from model.base import TASKS, Backbone, Network, Task, task_channels
from model.blocks import conv_bn_relu, random_start, start_mixing
from model.heads import ASPPHead, FCNHead, PyramidPoolingHead

Context = Literal["aspp", "pp", "fcn"]


class SEModule(nn.Module):
    """Squeeze-and-excitation module of a branch (equations 1-5).

        U = 1×1(concat(Xi, previous branch feature))                   (1), at the first stage U = X1
        z = global mean of U                                           (2)
        gate = sigmoid(BN(1×1(ReLU(BN(1×1(z))))))                      (3)
        S = gate ⊙ U                                                   (4)
        out = max-pool 2×2 (1×1(S)), more channels, the next stage's resolution   (5)

    The gate's batch normalisation sees 1×1 maps, so a training batch needs more than one picture.

    Args:
        inputs: Channels of Xi and the previous feature together.
        width: Channels of U. None leaves U = Xi.
        outputs: Channels handed on.
        pool: Halve the resolution; False where the next stage has the same (stages 3 and 4 at output stride 16).
        reduction: The gate's bottleneck is width / reduction, at least 8.

    Raises:
        ValueError: reduction is less than 1.
    """

    def __init__(self, inputs: int, width: int | None, outputs: int, pool: bool, reduction: int = 32) -> None:
        super().__init__()
        if reduction < 1:
            raise ValueError(f"reduction is a number of at least 1, not {reduction}")
        self.reduce = nn.Identity() if width is None else conv_bn_relu(inputs, width)
        width = width or inputs
        squeezed = max(8, width // reduction)
        self.gate = nn.Sequential(
            nn.Conv2d(width, squeezed, 1, bias=False),
            nn.BatchNorm2d(squeezed),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.Sigmoid(),
        )
        self.expand = conv_bn_relu(width, outputs)
        # Rounded up, as the encoder's strided convolutions round.
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        u = self.reduce(x)
        z = u.mean(dim=(2, 3), keepdim=True)  # [N, width, 1, 1]
        out: Tensor = self.pool(self.expand(self.gate(z) * u))
        return out


class SWModule(nn.Module):
    """Shared weights between two branches: Y_t = [X_seg, X_depth] W_tᵀ, then 1×1 C → C/4 (equation 8).

    W_t (C × 2C, no bias) starts as α on the own branch and β on the other: [αI | βI] and [βI | αI]. The network sees
    to that, after the random start of its other convolutions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.ModuleDict({task: nn.Conv2d(2 * channels, channels, 1, bias=False) for task in TASKS})
        self.lower = nn.ModuleDict({task: conv_bn_relu(channels, channels // 4) for task in TASKS})

    def forward(self, features: dict[Task, Tensor]) -> dict[Task, Tensor]:
        both = torch.cat([features[task] for task in TASKS], dim=1)  # [N, 2C, h, w]
        return {task: self.lower[task](self.mix[task](both)) for task in TASKS}


class MultiTaskNetwork(Network):
    """The paper's networks, from the single-task baseline (STL_ASPP) to MTL_SSW.

    On ResNet-50 the numbers of parameters are the paper's within 0.03 % for STL_ASPP, MTL, MTL_PP and MTL_SPP, and
    within 0.5 % for MTL_SW+PP and MTL_SSW. MTL_SE has 57.90 · 2²⁰ with the 3×3 heads chosen here and the paper 55.11:
    it does not say which heads that row has. MTL_SE+ASPP has 70.64 and the paper 68.5, although it is made of the
    parts of rows that agree (SE of MTL_SPP, ASPP of MTL).

    Args:
        backbone: The shared encoder.
        classes: Number of segmentation classes.
        tasks: The branches to build. One task makes a single-task network.
        se: Cascaded SE modules; without, the heads stand on X4.
        sw: (α, β) of the SW modules after SE1, SE2 and SE3, or None for none. Needs `se` and both tasks.
        context: `aspp`, `pp` (pyramid pooling) or `fcn` (none).
        aspp_rates: Dilation rates of the ASPP head; nothing to other contexts.
        dropout: In the ASPP head; nothing to other contexts, which have none.
        reduction: Of the SE gates; nothing without `se`.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        tasks: tuple[Task, ...] = TASKS,
        se: bool = False,
        sw: tuple[float, float] | None = None,
        context: Context = "aspp",
        aspp_rates: tuple[int, int, int] = (12, 24, 36),
        dropout: float = 0.5,
        reduction: int = 32,
    ) -> None:
        super().__init__()
        if sw is not None and not (se and set(tasks) == set(TASKS)):
            raise ValueError("SW modules stand between the SE modules of two branches: they need se and both tasks")
        if context not in get_args(Context):
            raise ValueError(f"context is one of {', '.join(get_args(Context))}, not {context}")
        if not tasks:
            raise ValueError("a network has one task or more")
        if not set(tasks) <= set(TASKS) or len(set(tasks)) < len(tasks):
            raise ValueError(f"tasks are some of {', '.join(TASKS)}, not {', '.join(map(str, tasks))}")
        self.tasks = tuple(tasks)
        self.backbone = backbone
        c1, c2, c3, c4 = backbone.channels

        self.se: nn.ModuleDict | None = None
        self.sw: nn.ModuleList | None = None
        if se:
            handed_on = [c2, c3, c4]  # outputs of SE1..SE3, of which SW leaves a quarter
            previous = [c // 4 for c in handed_on] if sw else handed_on
            self.se = nn.ModuleDict(
                {
                    task: nn.ModuleList(
                        [
                            SEModule(c1, None, c2, pool=True, reduction=reduction),
                            SEModule(c2 + previous[0], c2 // 2, c3, pool=True, reduction=reduction),
                            SEModule(c3 + previous[1], c3 // 2, c4, pool=False, reduction=reduction),
                            SEModule(c4 + previous[2], c4 // 2, c4, pool=False, reduction=reduction),
                        ]
                    )
                    for task in tasks
                }
            )
            if sw:
                self.sw = nn.ModuleList(SWModule(c) for c in handed_on)

        def head(outputs: int) -> nn.Module:
            if context == "aspp":
                return ASPPHead(c4, outputs, aspp_rates, dropout)
            return PyramidPoolingHead(c4, outputs) if context == "pp" else FCNHead(c4, outputs)

        outputs = task_channels(classes)
        self.heads = nn.ModuleDict({task: head(outputs[task]) for task in tasks})
        random_start(*(part for part in (self.se, self.sw, self.heads) if part is not None))
        if sw:
            for module in self.modules():
                if isinstance(module, SWModule):
                    start_mixing(module.mix.values(), *sw)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.backbone(normalize(image, self.saturation))
        branches: dict[Task, Tensor] = dict.fromkeys(self.tasks, features.x4)
        if self.se is not None:
            for i, x in enumerate(features):
                inputs = {t: x if i == 0 else torch.cat([x, branches[t]], dim=1) for t in self.tasks}
                branches = {t: self.se[t].get_submodule(str(i))(inputs[t]) for t in self.tasks}
                if self.sw is not None and i < 3:
                    branches = self.sw[i](branches)
        return {t: self.upsample(self.heads[t](branches[t]), image) for t in self.tasks}
