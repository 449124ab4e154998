"""The small blocks that several networks are made of."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU; without a stride the size stays."""
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the height and width of `like`."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def random_start(*parts: nn.Module) -> None:
    """Random start of every convolution in `parts`: He-normal (by the fan-out), biases at 0.

    Layers named `classifier` start near 0, from N(0, 0.01²): by its fan-out, a one-channel depth layer would begin
    with predictions many metres apart.
    """
    for part in parts:
        for name, module in part.named_modules():
            if isinstance(module, nn.Conv2d):
                if name.rsplit(".", 1)[-1] == "classifier":
                    nn.init.normal_(module.weight, std=0.01)
                else:
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def start_mixing(convolutions: Iterable[nn.Module], alpha: float, beta: float) -> None:
    """Start of the 1×1 convolutions, one of each of two tasks, that mix the features of both: [αI | βI] and [βI | αI].

    Args:
        convolutions: Of `TASKS` in their order; weights [C, 2C, 1, 1], the first task's channels first.
        alpha: On the own task.
        beta: On the other task.
    """
    for convolution, (left, right) in zip(convolutions, ((alpha, beta), (beta, alpha)), strict=True):
        weight = convolution.get_parameter("weight")
        eye = torch.eye(len(weight), device=weight.device)
        with torch.no_grad():
            weight.copy_(torch.cat([left * eye, right * eye], dim=1)[:, :, None, None])


# ------------------------------------------------------------ residual blocks, with torchvision's names


class BasicBlock(nn.Module):
    """3×3, 3×3 and a shortcut (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1) -> None:
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
    """1×1, 3×3, 1×1 and a shortcut (ResNet-50); four times `width` channels leave it."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1) -> None:
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
