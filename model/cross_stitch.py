"""Cross-stitch network: two encoders whose features are mixed, channel by channel, after every stage.

Misra et al., "Cross-stitch Networks for Multi-task Learning", CVPR 2016 (figures 3 and 4).

    segmentation:  stem ── stage 1 ─┬─ stage 2 ─┬─ stage 3 ─┬─ stage 4 ─┬─ ASPP ─ up
                                 α, β        α, β        α, β        α, β
    depth:         stem ── stage 1 ─┴─ stage 2 ─┴─ stage 3 ─┴─ stage 4 ─┴─ ASPP ─ up

It starts from two trained single-task networks (`load_single_task`); the units want a larger learning rate than the
rest (section 4 there: 10² to 10³ times).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.base import TASKS, StagedBackbone, Task
from model.two_streams import TwoStreamNetwork


class CrossStitchUnit(nn.Module):
    """Equation 1: each task's feature becomes a learned linear combination of both, channel by channel.

        x̃_A = α_AA x_A + α_AB x_B
        x̃_B = α_BA x_A + α_BB x_B

    Args:
        channels: Of each feature.
        alpha: Start of the own task's weights.
        beta: Start of the other task's weights.
    """

    def __init__(self, channels: int, alpha: float, beta: float) -> None:
        super().__init__()
        start = torch.full((2, 2, channels), beta)
        start[0, 0] = start[1, 1] = alpha
        self.weight = nn.Parameter(start)  # [to, from, C]

    def forward(self, features: dict[Task, Tensor]) -> dict[Task, Tensor]:
        weight = self.weight[:, :, None, :, None, None]  # [to, from, 1, C, 1, 1]
        a, b = (features[task] for task in TASKS)
        return {task: weight[to, 0] * a + weight[to, 1] * b for to, task in enumerate(TASKS)}


class CrossStitch(TwoStreamNetwork):
    """Cross-stitch units after stages 1 to 4; 75.62 · 2²⁰ parameters on ResNet-50, the paper has 75.8.

    Args:
        backbone: The encoder of each stream.
        classes: Number of segmentation classes.
        alpha: Start of the own task's weights.
        beta: Start of the other task's weights.
        aspp_rates: Dilation rates of the ASPP heads.
        dropout: In the ASPP heads.
    """

    def __init__(
        self,
        backbone: StagedBackbone,
        classes: int,
        *,
        alpha: float = 0.9,
        beta: float = 0.1,
        aspp_rates: tuple[int, int, int] = (12, 24, 36),
        dropout: float = 0.5,
    ) -> None:
        super().__init__(
            backbone,
            classes,
            lambda channels: CrossStitchUnit(channels, alpha, beta),
            after_stem=False,
            aspp_rates=aspp_rates,
            dropout=dropout,
        )
