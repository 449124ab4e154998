"""Losses of the tasks, and what makes a value count.

Every loss is a sum over valid pixels divided by their number. That number may be given (`pixels`): when a batch goes
through in parts, all of them divide by the number of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.classes import IGNORE
from training import parallel
from training.augment import INVALID_DEPTH

POSITIVE_WEIGHT = 0.95
"""Weight of edge pixels against 0.05 of the others, of which there are far more (as in MTI-Net's set-up)."""


def valid_depth(depth: Tensor) -> Tensor:
    """Where a depth map in metres holds a measurement: bool, the shape of `depth`. The only such test there is."""
    return (depth > INVALID_DEPTH) & depth.isfinite()


def valid_normals(normals: Tensor) -> Tensor:
    """Where normals [N, 3, H, W] are known, which is where they are not (0, 0, 0): bool [N, H, W]."""
    return (normals != 0).any(dim=1)


def strided(targets: Mapping[str, Any], stride: int) -> dict[str, Any]:
    """Targets at one of `stride` × `stride` pixels, their maps so many times smaller; the picture stays as it is.

    Which of the pixels is drawn anew each time: a map of the network that is `stride` times smaller than the picture
    lies between them, and so it is right in the mean.
    """
    top, left = (int(x) for x in torch.randint(stride, (2,)))
    maps = ("label", "depth", "normals", "edges")
    return {name: t[..., top::stride, left::stride] if name in maps else t for name, t in targets.items()}


def valid_pixels(targets: Mapping[str, Any]) -> dict[str, Tensor]:
    """By task, what its loss is to be divided by: the number of valid pixels, at least 1.

    With several processes it is the number of all of them, divided by the number of processes; then the mean of their
    losses (and gradients) is that of one process with the whole batch.
    """
    valid = {"segmentation": targets["label"] != IGNORE, "depth": valid_depth(targets["depth"])}
    if "normals" in targets:
        valid["normals"] = valid_normals(targets["normals"])
    if "edges" in targets:
        valid["edges"] = targets["edges"] != IGNORE
    numbers = parallel.mean(torch.stack([v.sum() for v in valid.values()]).float())
    return dict(zip(valid, numbers.clamp(min=1 / parallel.count()), strict=True))


def _number(valid: Tensor, pixels: Tensor | None) -> Tensor:
    return valid.sum().clamp(min=1) if pixels is None else pixels


def segmentation_loss(
    logits: Tensor, label: Tensor, pixels: Tensor | None = None, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy, the mean over pixels that have a class; 0, with a gradient of 0, where none has.

    Args:
        logits: [N, classes, H, W].
        label: int64 [N, H, W], 255 = ignore.
        pixels: Divides the sum in place of the number of valid pixels.
        class_weights: [classes], on the losses of the pixels of each class.
    """
    # On a GPU, the sum within the loss is taken in an order that changes from run to run.
    reduction = "none" if torch.are_deterministic_algorithms_enabled() else "sum"
    losses = F.cross_entropy(logits.float(), label, class_weights, ignore_index=IGNORE, reduction=reduction)
    return losses.sum() / _number(label != IGNORE, pixels)


def depth_loss(prediction: Tensor, depth: Tensor, pixels: Tensor | None = None) -> Tensor:
    """L1 in metres, the mean over valid pixels; 0, with a gradient of 0, where none is valid.

    Args:
        prediction: [N, 1, H, W].
        depth: [N, H, W], 0 = invalid.
        pixels: As in `segmentation_loss`.
    """
    valid, value, target = _known_depth(prediction, depth)
    return (value - target).abs().sum() / _number(valid, pixels)


def berhu_loss(prediction: Tensor, depth: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Reverse Huber in metres (Laina et al., 3DV 2016): |e| up to c, (e² + c²) / 2c beyond, c a fifth of a picture's
    largest error. Arguments as in `depth_loss`."""
    valid, value, target = _known_depth(prediction, depth)
    error = (value - target).abs()
    c = (error.detach().amax(dim=(1, 2), keepdim=True) / 5).clamp(min=1e-3)
    return torch.where(error <= c, error, (error.square() + c.square()) / (2 * c)).sum() / _number(valid, pixels)


def log_l1_loss(prediction: Tensor, depth: Tensor, pixels: Tensor | None = None) -> Tensor:
    """|ln prediction - ln truth|, the mean over valid pixels: for small errors the relative error (abs_rel), so that
    what is near counts as much as what is far. The logarithm as in `silog_loss`, arguments as in `depth_loss`."""
    valid, value, target = _known_depth(prediction, depth)
    return (_log(value) - _log(target)).abs().sum() / _number(valid, pixels)


def abs_rel_loss(prediction: Tensor, depth: Tensor, pixels: Tensor | None = None) -> Tensor:
    """|prediction - truth| / truth, the mean over valid pixels: what abs_rel measures. It differs from `log_l1_loss`
    where the network is unsure: of several depths that may be true, this one prefers the nearer. Arguments as in
    `depth_loss`."""
    valid, value, target = _known_depth(prediction, depth)
    return ((value - target).abs() / target.where(valid, 1)).sum() / _number(valid, pixels)


def silog_loss(prediction: Tensor, depth: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Scale-invariant error of logarithms (Eigen et al., NIPS 2014, with λ = 0.85 and the root of AdaBins, CVPR 2021):
    √(mean g² - λ (mean g)²) of each picture, g = ln prediction - ln truth; the mean over pictures by their valid
    pixels. Below 0.1 m the logarithm goes on as its tangent, so that a prediction that is not positive comes back.
    Arguments as in `depth_loss`."""
    valid, value, target = _known_depth(prediction, depth)
    g = (_log(value) - _log(target)) * valid
    number = valid.sum(dim=(1, 2))
    mean, square = (x.sum(dim=(1, 2)) / number.clamp(min=1) for x in (g, g.square()))
    root = (square - 0.85 * mean.square()).clamp(min=1e-6).sqrt()  # the root has no gradient at 0
    return (root * number).sum() / _number(valid, pixels)


def _known_depth(prediction: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where depth is known, the prediction [N, H, W], and the truth, which elsewhere is the prediction itself."""
    valid, value = valid_depth(depth), prediction.squeeze(1).float()
    # where() before any difference, so that a NaN in the truth cannot reach the gradient.
    return valid, value, depth.where(valid, value.detach())


def _log(metres: Tensor, least: float = 0.1) -> Tensor:
    return metres.clamp(min=least).log() + (metres - least).clamp(max=0) / least


def normals_loss(prediction: Tensor, normals: Tensor, pixels: Tensor | None = None) -> Tensor:
    """L1 between unit vectors, the mean over the components of valid pixels.

    Args:
        prediction: [N, 3, H, W], of any length. Below a length of 0.001, where a direction means nothing and its
            gradient has no bound, it counts as shorter than 1.
        normals: [N, 3, H, W], of length 1, (0, 0, 0) = invalid.
        pixels: As in `segmentation_loss`.
    """
    valid = valid_normals(normals)
    unit = F.normalize(prediction.float(), dim=1, eps=1e-3)
    return ((unit - normals).abs().sum(dim=1) * valid).sum() / (3 * _number(valid, pixels))


def edges_loss(logits: Tensor, edges: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, the mean over valid pixels, weighted 0.95 at edges and 0.05 elsewhere.

    Args:
        logits: [N, 1, H, W].
        edges: uint8 [N, H, W]: 1 = edge, 0 = none, 255 = ignore.
        pixels: As in `segmentation_loss`.
    """
    valid, positive = edges != IGNORE, edges == 1
    weight = torch.where(positive, POSITIVE_WEIGHT, 1 - POSITIVE_WEIGHT) * valid
    total = F.binary_cross_entropy_with_logits(logits.squeeze(1).float(), positive.float(), weight, reduction="sum")
    return total / _number(valid, pixels)


DEPTH_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "l1": depth_loss,
    "berhu": berhu_loss,
    "silog": silog_loss,
    "log_l1": log_l1_loss,
    "abs_rel": abs_rel_loss,
}


@dataclass(frozen=True)
class Choices:
    """What may be chosen of the losses; the default is the paper's.

    Attributes:
        depth: Key of `DEPTH_LOSSES`.
        class_weights: [classes], or None for equal ones.
    """

    depth: str = "l1"
    class_weights: Tensor | None = None


PAPER = Choices()


def multi_task_loss(
    outputs: Mapping[str, Any],
    targets: Mapping[str, Any],
    pixels: Mapping[str, Tensor] | None = None,
    choices: Choices = PAPER,
) -> dict[str, Tensor]:
    """The losses of all predictions, not weighted.

    Args:
        outputs: Of a network; the maps of `intermediate` are upsampled bilinearly to the size of the labels.
        targets: `label`, `depth` and, where predicted, `normals` and `edges`, as `training.data.Sample` has them.
        pixels: `valid_pixels` of the whole batch; by default of `targets`.

    Returns:
        By name: `segmentation`, `depth` of the final predictions, `segmentation.0`, `normals.0` ... of the first
        intermediate ones, and so on.
    """

    def loss(task: str, prediction: Tensor) -> Tensor:
        number = None if pixels is None else pixels[task]
        if task == "segmentation":
            return segmentation_loss(prediction, targets["label"], number, choices.class_weights)
        if task == "depth":
            return DEPTH_LOSSES[choices.depth](prediction, targets["depth"], number)
        return {"normals": normals_loss, "edges": edges_loss}[task](prediction, targets[task], number)

    losses = {task: loss(task, outputs[task]) for task in outputs if task != "intermediate"}
    size = targets["label"].shape[-2:]
    for i, predictions in enumerate(outputs.get("intermediate", ())):
        for task, prediction in predictions.items():
            full = F.interpolate(prediction.float(), size=size, mode="bilinear", align_corners=False)
            losses[f"{task}.{i}"] = loss(task, full)
    return losses


def weighted_by_task(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> list[Tensor]:
    """For each task of `weights`, the sum of its losses (final and intermediate) times its weight.

    Their sum is equation 9 of the paper.
    """
    return [
        weight * torch.stack([loss for name, loss in losses.items() if name.split(".")[0] == task]).sum()
        for task, weight in weights.items()
    ]
