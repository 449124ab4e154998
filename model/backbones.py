"""Encoders: four feature maps X1..X4 at strides 4, 8, 16, 16 of a picture.

    picture ── stem ── stage 1 ── stage 2 ── stage 3 ── stage 4 (dilated, stride 1)
      1/1       1/4     X1 1/4     X2 1/8     X3 1/16    X4 1/16

- ResNet: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (the stride sits in the 3×3).
- MobileNetV2: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.

By default the last stage keeps the resolution (output stride 16): its first block has stride 1 and dilation 1, its
later blocks dilation 2. With output stride 32 it is as published, stride 2 and no dilation. Parameter names are those
of torchvision, so that its ImageNet weights load as they are. A third encoder, HRNet, is in `model/hrnet.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.base import Backbone, StagedBackbone
from model.blocks import BasicBlock, Bottleneck
from model.hrnet import HRNet

OutputStride = Literal[16, 32]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


LUMA = (0.299, 0.587, 0.114)
"""The share of each channel in the grey of a pixel (Rec. ITU-R BT.601)."""


def normalize(image: Tensor, saturation: float = 1.0) -> Tensor:
    """sRGB in 0..1, [N, 3, H, W], to the zero mean and unit deviation that ImageNet weights expect.

    Args:
        saturation: How much is left of the colours: 1 all, 0 none.
    """
    if saturation != 1:
        luma = torch.tensor(LUMA, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
        grey = (image * luma).sum(dim=1, keepdim=True)
        image = grey + (image - grey) * saturation
    mean = torch.tensor(IMAGENET_MEAN, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    return (image - mean) / std


# ---------------------------------------------------------------------------------------------- ResNet


class ResNet(StagedBackbone):
    """ResNet without its classifier; `blocks` gives the number of blocks per stage."""

    stem_channels = 64

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        output_stride: OutputStride = 16,
    ) -> None:
        super().__init__()
        e = block.expansion
        self.channels = self.inner_channels = (64 * e, 128 * e, 256 * e, 512 * e)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)

        def stage(inputs: int, width: int, count: int, stride: int, dilation: int = 1) -> nn.Sequential:
            first = block(inputs, width, stride, dilation=1)
            return nn.Sequential(first, *(block(width * e, width, 1, dilation) for _ in range(count - 1)))

        self.layer1 = stage(64, 64, blocks[0], stride=1)
        self.layer2 = stage(64 * e, 128, blocks[1], stride=2)
        self.layer3 = stage(128 * e, 256, blocks[2], stride=2)
        dilated = output_stride == 16
        self.layer4 = stage(256 * e, 512, blocks[3], stride=1 if dilated else 2, dilation=2 if dilated else 1)

    def stem(self, image: Tensor) -> Tensor:
        x: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(image))))  # [N, 64, H/4, W/4]
        return x

    def blocks(self, stage: int) -> nn.Sequential:
        return (self.layer1, self.layer2, self.layer3, self.layer4)[stage - 1]


# ----------------------------------------------------------------------------------------- MobileNetV2


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, linear 1×1 projection; a shortcut where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int, dilation: int) -> None:
        super().__init__()
        hidden = inputs * expand
        layers: list[nn.Module] = [] if expand == 1 else [_conv_bn_relu6(inputs, hidden, 1)]
        layers += [
            _conv_bn_relu6(hidden, hidden, 3, stride, dilation, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y


class DepthwiseConv2d(nn.Conv2d):
    """A 3×3 depthwise convolution, with ways round the two slow cases of oneDNN's bf16 gradients.

    In training on a CPU in bf16 a dilated one takes seven times, a strided one four times as long as it needs to: a
    fifth of a whole training step. The results are the same but for rounding; elsewhere it is `nn.Conv2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(x)
        if self.dilation != (1, 1):
            return self._by_phases(x)
        if self.stride != (1, 1):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float()).to(x.dtype)
        return super().forward(x)

    def _by_phases(self, x: Tensor) -> Tensor:
        """Dilation d as dilation 1 on each of the d × d grids of every d-th pixel."""
        d, (n, c, height, width) = self.dilation[0], x.shape
        # The convolution pads with 0 as well, so rows and columns that fill up the last grid change nothing.
        x = functional.pad(x, (0, -width % d, 0, -height % d))
        h, w = x.shape[2] // d, x.shape[3] // d
        phases = x.permute(0, 2, 3, 1).reshape(n, h, d, w, d, c).permute(2, 4, 0, 1, 3, 5)
        y = functional.conv2d(phases.reshape(d * d * n, h, w, c).permute(0, 3, 1, 2), self.weight, padding=1, groups=c)
        y = y.permute(0, 2, 3, 1).reshape(d, d, n, h, w, c).permute(2, 3, 0, 4, 1, 5)
        return y.reshape(n, h * d, w * d, c).permute(0, 3, 1, 2)[:, :, :height, :width]


def _conv_bn_relu6(
    inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    padding = dilation * (kernel - 1) // 2
    convolution = nn.Conv2d if groups == 1 else DepthwiseConv2d
    return nn.Sequential(
        convolution(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class MobileNetV2(StagedBackbone):
    """MobileNetV2 (width 1.0) up to its last bottleneck; the 1280-channel layer and the classifier are left out.

    Its stem is the first convolution and the 16-channel bottleneck, at stride 2.
    """

    stem_channels = 16
    channels = (24, 32, 96, 320)
    inner_channels = (24, 32, 96, 160)
    # expansion, output channels, blocks, stride of the first block (Table 2)
    groups = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    stage_ends = (2, 4, 7, 14, 18)  # of the stem and stages 1 to 4, in layers

    def __init__(self, output_stride: OutputStride = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn_relu6(3, 32, 3, stride=2)]
        inputs = 32
        dilated = output_stride == 16
        for expand, outputs, count, stride in self.groups:
            for i in range(count):
                # The last stage is layers 14-17 (160 and 320 channels); all but its first block are dilated.
                last_stage = len(layers) >= self.stage_ends[3]
                dilation = 2 if dilated and len(layers) > self.stage_ends[3] else 1
                step = 1 if i > 0 or (dilated and last_stage) else stride
                layers.append(InvertedResidual(inputs, outputs, step, expand, dilation))
                inputs = outputs
        self.features = nn.Sequential(*layers)

    def stem(self, image: Tensor) -> Tensor:
        x: Tensor = self.features[: self.stage_ends[0]](image)  # [N, 16, H/2, W/2]
        return x

    def blocks(self, stage: int) -> nn.Sequential:
        return nn.Sequential(*list(self.features)[self.stage_ends[stage - 1] : self.stage_ends[stage]])


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "mobilenet_v2": MobileNetV2,
    "hrnet_w18": HRNet,
}
"""Each takes `output_stride`, 16 (the default) or 32; HRNet knows 32 only."""
