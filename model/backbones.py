"""Encoders: four feature maps X1..X4 at strides 4, 8, 16, 16 of a picture.

    picture ── stem ── stage 1 ── stage 2 ── stage 3 ── stage 4 (dilated, stride 1)
      1/1       1/4     X1 1/4     X2 1/8     X3 1/16    X4 1/16

- ResNet: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (the stride sits in the 3×3).
- MobileNetV2: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.

The last stage keeps the resolution (output stride 16): its first block has stride 1 and dilation 1, its later
blocks dilation 2. Parameter names are those of torchvision, so that its ImageNet weights load as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Features(NamedTuple):
    """X1..X4: [N, C_i, H_i, W_i] at strides 4, 8, 16, 16 (sides rounded up)."""

    x1: Tensor
    x2: Tensor
    x3: Tensor
    x4: Tensor


class Backbone(nn.Module):
    """A module whose `forward` maps a normalised picture [N, 3, H, W] to `Features`.

    Attributes:
        channels: C_1..C_4.
    """

    channels: tuple[int, int, int, int]

    def forward(self, image: Tensor) -> Features:
        raise NotImplementedError


def normalize(image: Tensor) -> Tensor:
    """sRGB in 0..1, [N, 3, H, W], to the zero mean and unit deviation that ImageNet weights expect."""
    mean = torch.tensor(IMAGENET_MEAN, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    return (image - mean) / std


# ---------------------------------------------------------------------------------------------- ResNet


class BasicBlock(nn.Module):
    """3×3, 3×3 and a shortcut (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 and a shortcut (ResNet-50)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(Backbone):
    """ResNet without its classifier; `blocks` gives the number of blocks per stage."""

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        e = block.expansion
        self.channels = (64 * e, 128 * e, 256 * e, 512 * e)
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
        self.layer4 = stage(256 * e, 512, blocks[3], stride=1, dilation=2)

    def forward(self, image: Tensor) -> Features:
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))  # [N, 64, H/4, W/4]
        x1 = self.layer1(x)
        x2 = self.layer2(x1)
        x3 = self.layer3(x2)
        return Features(x1, x2, x3, self.layer4(x3))


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


def _conv_bn_relu6(
    inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class MobileNetV2(Backbone):
    """MobileNetV2 (width 1.0) up to its last bottleneck; the 1280-channel layer and the classifier are left out."""

    channels = (24, 32, 96, 320)
    # expansion, output channels, blocks, stride of the first block (Table 2); the last stride 2 is dilated away.
    groups = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1))
    stage_ends = (4, 7, 14, 18)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn_relu6(3, 32, 3, stride=2)]
        inputs = 32
        for expand, outputs, count, stride in self.groups:
            for i in range(count):
                # The last stage is layers 14-17 (160 and 320 channels); all but its first block are dilated.
                dilation = 2 if len(layers) > 14 else 1
                layers.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expand, dilation))
                inputs = outputs
        self.features = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Features:
        x, start, out = image, 0, []
        for end in self.stage_ends:
            x = self.features[start:end](x)
            out.append(x)
            start = end
        return Features(*out)


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "resnet18": lambda: ResNet(BasicBlock, (2, 2, 2, 2)),
    "resnet34": lambda: ResNet(BasicBlock, (3, 4, 6, 3)),
    "resnet50": lambda: ResNet(Bottleneck, (3, 4, 6, 3)),
    "mobilenet_v2": MobileNetV2,
}
