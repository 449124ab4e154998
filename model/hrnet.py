"""HRNet-W18: an encoder that keeps a high resolution all along, beside the lower ones.

Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", 2019 (figures 2 and 3).

    1/4    stem ─ layer1 ─ stage 2 ─┬─ stage 3 ─┬─ stage 4 ─  X1   18 channels
    1/8                  └ stage 2 ─┼─ stage 3 ─┼─ stage 4 ─  X2   36
    1/16                            └ stage 3 ──┼─ stage 4 ─  X3   72
    1/32                                        └ stage 4 ──  X4  144

A stage is a chain of modules (1, 4 and 3 of them); a module runs four basic blocks on each branch and then fuses: each
branch receives the sum of all. Parameter names are those of HRNet-Image-Classification, so that its ImageNet weights
load as they are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from model.base import Backbone, Features
from model.blocks import BasicBlock, Bottleneck, conv_bn_relu, resize

STEM = 64


class HighResolutionModule(nn.Module):
    """Four basic blocks on each branch, then an exchange of all with all."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c, c) for _ in range(4))) for c in channels)
        branches = range(len(channels))
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(channels, j, i) if i != j else nn.Identity() for j in branches) for i in branches
        )

    @staticmethod
    def _path(channels: tuple[int, ...], source: int, target: int) -> nn.Sequential:
        """Up: 1×1, to be enlarged in `forward`. Down: a 3×3 of stride 2 per halving, the last one without ReLU."""
        from_, to = channels[source], channels[target]
        if source > target:
            return nn.Sequential(*list(conv_bn_relu(from_, to))[:2])
        steps = [conv_bn_relu(from_, from_, 3, stride=2) for _ in range(target - source - 1)]
        last = list(conv_bn_relu(from_, to, 3, stride=2))[:2]
        return nn.Sequential(*steps, nn.Sequential(*last))

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        xs = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        out = []
        for i, x in enumerate(xs):
            paths = self.fuse_layers.get_submodule(str(i)).children()
            total = x
            for j, path in enumerate(paths):
                if j < i:
                    total = total + path(xs[j])
                elif j > i:
                    # Bilinear as in HRNet's own dense prediction networks; its classifiers take the nearest pixel.
                    total = total + resize(path(xs[j]), x)
            out.append(torch.relu(total))
        return out


class HRNet(Backbone):
    """HRNet-W18 without its classification head; 9.56 million parameters."""

    channels = (18, 36, 72, 144)

    def __init__(self, output_stride: Literal[32] = 32) -> None:
        super().__init__()
        if output_stride != 32:
            raise ValueError("HRNet has the output stride 32")
        c = self.channels
        self.conv1 = nn.Conv2d(3, STEM, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.conv2 = nn.Conv2d(STEM, STEM, 3, 2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Bottleneck(STEM, 64), *(Bottleneck(256, 64) for _ in range(3)))

        # A transition opens a branch: from the lowest resolution so far, by a 3×3 of stride 2.
        def opened(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(conv_bn_relu(inputs, outputs, 3, stride=2))

        self.transition1 = nn.ModuleList([conv_bn_relu(256, c[0], 3), opened(256, c[1])])
        self.stage2 = nn.Sequential(HighResolutionModule(c[:2]))
        self.transition2 = nn.ModuleList([nn.Identity(), nn.Identity(), opened(c[1], c[2])])
        self.stage3 = nn.Sequential(*(HighResolutionModule(c[:3]) for _ in range(4)))
        self.transition3 = nn.ModuleList([nn.Identity(), nn.Identity(), nn.Identity(), opened(c[2], c[3])])
        self.stage4 = nn.Sequential(*(HighResolutionModule(c) for _ in range(3)))

    def forward(self, image: Tensor) -> Features:
        x = self.relu(self.bn1(self.conv1(image)))
        x = self.layer1(self.relu(self.bn2(self.conv2(x))))  # [N, 256, H/4, W/4]
        xs = self.stage2([transition(x) for transition in self.transition1])
        xs = self.stage3([*xs, self.transition2[2](xs[1])])
        xs = self.stage4([*xs, self.transition3[3](xs[2])])
        return Features(*xs)
