"""Losses of the two tasks, and what makes a depth value count."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from model.classes import IGNORE
from training.augment import INVALID_DEPTH


def valid_depth(depth: Tensor) -> Tensor:
    """Where a depth map in metres holds a measurement: bool, the shape of `depth`. The only such test there is."""
    return (depth > INVALID_DEPTH) & depth.isfinite()


def segmentation_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy, the mean over pixels that have a class; 0, with a gradient of 0, where none has.

    Args:
        logits: [N, classes, H, W].
        label: int64 [N, H, W], 255 = ignore.
    """
    total = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="sum")
    return total / (label != IGNORE).sum().clamp(min=1)


def depth_loss(prediction: Tensor, depth: Tensor) -> Tensor:
    """L1 in metres, the mean over valid pixels; 0, with a gradient of 0, where none is valid.

    Args:
        prediction: [N, 1, H, W].
        depth: [N, H, W], 0 = invalid.
    """
    valid = valid_depth(depth)
    # where() before the difference, so that a NaN in the truth cannot reach the gradient.
    target = depth.where(valid, prediction.squeeze(1).detach().float())
    return (prediction.squeeze(1).float() - target).abs().sum() / valid.sum().clamp(min=1)


def multi_task_loss(
    outputs: dict[str, Tensor], label: Tensor, depth: Tensor, weights: tuple[float, float] = (1.0, 1.0)
) -> tuple[Tensor, dict[str, Tensor]]:
    """Equation 9: the weighted sum over the tasks that the network has.

    Returns:
        The total, and the unweighted loss of each task.
    """
    parts: dict[str, Tensor] = {}
    if "segmentation" in outputs:
        parts["segmentation"] = segmentation_loss(outputs["segmentation"], label)
    if "depth" in outputs:
        parts["depth"] = depth_loss(outputs["depth"], depth)
    weight = dict(zip(("segmentation", "depth"), weights, strict=True))
    total = torch.stack([weight[task] * part for task, part in parts.items()]).sum()
    return total, parts
