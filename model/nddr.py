"""NDDR-CNN: two encoders whose features are fused by learned 1×1 convolutions after the stem and every stage.

Gao et al., "NDDR-CNN: Layerwise Feature Fusing in Multi-Task CNNs by Neural Discriminative Dimensionality Reduction",
CVPR 2019 (figure 1).

    segmentation:  stem ─┬─ stage 1 ─┬─ stage 2 ─┬─ stage 3 ─┬─ stage 4 ─┬─ ASPP ─ up
                       NDDR        NDDR        NDDR        NDDR        NDDR
    depth:         stem ─┴─ stage 1 ─┴─ stage 2 ─┴─ stage 3 ─┴─ stage 4 ─┴─ ASPP ─ up

It starts from two trained single-task networks (`load_single_task`); the NDDR layers want a larger learning rate than
the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.base import TASKS, StagedBackbone, Task
from model.blocks import start_mixing
from model.two_streams import TwoStreamNetwork


class NDDRLayer(nn.Module):
    """Both features side by side, reduced to C channels again for each task: 1×1, batch normalisation, ReLU.

    The 1×1 weights (C × 2C, no bias) start as α I on the own task and β I on the other (section 3.3 there).

    Args:
        channels: C.
        alpha: Start on the own task.
        beta: Start on the other task.
    """

    def __init__(self, channels: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.reduce = nn.ModuleDict(
            {
                task: nn.Sequential(
                    nn.Conv2d(2 * channels, channels, 1, bias=False),
                    nn.BatchNorm2d(channels, momentum=0.05),
                    nn.ReLU(inplace=True),
                )
                for task in TASKS
            }
        )
        start_mixing((layers.get_submodule("0") for layers in self.reduce.values()), alpha, beta)

    def forward(self, features: dict[Task, Tensor]) -> dict[Task, Tensor]:
        both = torch.cat([features[task] for task in TASKS], dim=1)  # [N, 2C, h, w]
        return {task: self.reduce[task](both) for task in TASKS}


class NDDRCNN(TwoStreamNetwork):
    """NDDR layers after the stem and stages 1 to 4; 96.89 · 2²⁰ parameters on ResNet-50, the paper has 96.9.

    Args:
        backbone: The encoder of each stream.
        classes: Number of segmentation classes.
        alpha: Start of the NDDR weights on the own task.
        beta: Start of the NDDR weights on the other task.
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
            lambda channels: NDDRLayer(channels, alpha, beta),
            after_stem=True,
            aspp_rates=aspp_rates,
            dropout=dropout,
        )
