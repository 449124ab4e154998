"""Context modules with their classifiers: branch feature [N, C, h, w] in, task output [N, outputs, h, w] out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.blocks import conv_bn_relu, resize


class FCNHead(nn.Module):
    """No context: 3×3 → C/4, 1×1 classifier (Long et al., CVPR 2015)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        width = max(128, inputs // 4)
        self.conv = conv_bn_relu(inputs, width, 3)
        self.classifier = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.conv(x))
        return y


class ASPPHead(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., "Rethinking Atrous Convolution", 2017).

        x ─┬─ 1×1 ───────────────┐
           ├─ 3×3, rate r1 ──────┤
           ├─ 3×3, rate r2 ──────┼─ concat ─ 1×1 ─ dropout ─ 3×3 ─ classifier
           ├─ 3×3, rate r3 ──────┤
           └─ global mean ─ 1×1 ─┘

    Every branch has C/8 channels: 256 on ResNet-50, never fewer than 48.

    Raises:
        ValueError: the rates are not three whole numbers of at least 1.
    """

    def __init__(
        self, inputs: int, outputs: int, rates: tuple[int, int, int] = (12, 24, 36), dropout: float = 0.5
    ) -> None:
        super().__init__()
        if len(rates) != 3 or not all(isinstance(rate, int) and rate >= 1 for rate in rates):
            raise ValueError(f"the rates of ASPP are three whole numbers of at least 1, not {rates}")
        self.rates = rates
        width = max(48, inputs // 8)
        self.branches = nn.ModuleList([conv_bn_relu(inputs, width)])
        self.branches.extend(conv_bn_relu(inputs, width, 3, rate) for rate in rates)
        self.pool = conv_bn_relu(inputs, width)
        self.project = conv_bn_relu(5 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.conv = conv_bn_relu(width, width, 3)
        self.classifier = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        pooled = self.pool(x.mean(dim=(2, 3), keepdim=True))  # [N, width, 1, 1]
        parts.append(pooled.expand_as(parts[0]))
        y: Tensor = self.classifier(self.conv(self.dropout(self.project(torch.cat(parts, dim=1)))))
        return y


class PyramidPoolingHead(nn.Module):
    """Pyramid pooling (Zhao et al., CVPR 2017; equations 6 and 7 of the paper).

    Means over 1, 2, 3 and 6 bins a side, each 1×1 → C/4 and upsampled, beside the input; 3×3 → C/4; classifier.
    """

    bins = (1, 2, 3, 6)

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(conv_bn_relu(inputs, inputs // 4) for _ in self.bins)
        width = max(128, inputs // 4)
        self.conv = conv_bn_relu(inputs + len(self.bins) * (inputs // 4), width, 3)
        self.classifier = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for bins, level in zip(self.bins, self.levels, strict=True):
            pooled = level(bin_means(x, bins))  # [N, C/4, bins, bins]
            parts.append(resize(pooled, x))
        y: Tensor = self.classifier(self.conv(torch.cat(parts, dim=1)))
        return y


def bin_means(x: Tensor, bins: int) -> Tensor:
    """Adaptive average pooling [N, C, H, W] → [N, C, bins, bins], as one averaging matrix per axis.

    The matrices are made from the size in the graph, so that the export serves any size: the exporter's adaptive
    pooling refuses sizes that the bins do not divide.
    """
    rows = _averaging_matrix(x.shape[2], bins, x)  # [bins, H]
    columns = _averaging_matrix(x.shape[3], bins, x)  # [bins, W]
    return rows @ x @ columns.transpose(0, 1)


def _averaging_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    # Bin b covers the cells floor(b·size / bins) to ceil((b + 1)·size / bins), as adaptive pooling has it.
    b = torch.arange(bins, device=like.device).unsqueeze(1)
    cell = torch.arange(size, device=like.device).unsqueeze(0)
    start = torch.div(b * size, bins, rounding_mode="floor")
    end = torch.div((b + 1) * size + bins - 1, bins, rounding_mode="floor")
    inside = ((cell >= start) & (cell < end)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)
