"""Metrics, streamed over pictures: the figures over all batches are those over all pixels at once.

Protocol `mtl`: whole pictures, errors pooled over all valid pixels of the split, no cap on depth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.classes import IGNORE

MIN_DEPTH_M = 0.001
"""Predictions below are raised to it for ratios and logarithms: the resolution of the served depth map."""


class SegmentationMetrics:
    """Confusion matrix of `classes` classes.

    Attributes:
        confusion: int64 [classes, classes]; rows are the truth, columns the prediction.
    """

    def __init__(self, classes: int) -> None:
        self.confusion: NDArray[np.int64] = np.zeros((classes, classes), np.int64)

    def update(self, prediction: NDArray[np.integer], label: NDArray[np.integer]) -> None:
        """Counts the pixels of one picture or batch; `prediction` and `label` have one shape, 255 is not counted."""
        k = len(self.confusion)
        counted = label != IGNORE
        pairs = label[counted].astype(np.int64) * k + prediction[counted]
        self.confusion += np.bincount(pairs, minlength=k * k).reshape(k, k)

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class; NaN for a class that occurs neither in the truth nor in the prediction."""
        hit = np.diag(self.confusion).astype(np.float64)
        union = self.confusion.sum(0) + self.confusion.sum(1) - hit
        with np.errstate(invalid="ignore"):
            iou: NDArray[np.float64] = hit / union
        return iou

    def compute(self) -> dict[str, float]:
        """`miou` (mean of the IoUs that are not NaN), `pixel_acc`, `mean_acc` (over classes in the truth)."""
        truth = self.confusion.sum(1)
        if not truth.any():
            return {"miou": float("nan"), "pixel_acc": float("nan"), "mean_acc": float("nan")}
        hit = np.diag(self.confusion).astype(np.float64)
        return {
            "miou": float(np.nanmean(self.iou())),
            "pixel_acc": float(hit.sum() / truth.sum()),
            "mean_acc": float((hit[truth > 0] / truth[truth > 0]).mean()),
        }


class DepthMetrics:
    """Errors of predicted depth in metres over the pixels whose true depth is valid."""

    def __init__(self) -> None:
        self.pixels = 0
        self.sums = dict.fromkeys(("square", "ln_square", "log10", "abs_rel", "sq_rel", "d1", "d2", "d3"), 0.0)

    def update(self, prediction: NDArray[np.floating], depth: NDArray[np.floating]) -> None:
        """Adds the pixels of one picture or batch; both in metres and of one shape, 0 in `depth` is invalid."""
        valid = np.isfinite(depth) & (depth > 0)
        truth = depth[valid].astype(np.float64)
        predicted = prediction[valid].astype(np.float64)
        positive = predicted.clip(min=MIN_DEPTH_M)
        error = predicted - truth
        log = np.log(positive) - np.log(truth)
        ratio = np.maximum(positive / truth, truth / positive)
        self.pixels += truth.size
        self.sums["square"] += float((error**2).sum())
        self.sums["ln_square"] += float((log**2).sum())
        self.sums["log10"] += float(np.abs(log).sum() / np.log(10))
        self.sums["abs_rel"] += float((np.abs(error) / truth).sum())
        self.sums["sq_rel"] += float((error**2 / truth).sum())
        for i in (1, 2, 3):
            self.sums[f"d{i}"] += float((ratio < 1.25**i).sum())

    def compute(self) -> dict[str, float]:
        """`rmse` (m), `ln_rmse` (the paper's log_rmse), `log10`, `abs_rel`, `sq_rel` (m), `delta1..3`; NaN if empty."""
        if not self.pixels:
            return dict.fromkeys(
                ("rmse", "ln_rmse", "log10", "abs_rel", "sq_rel", "delta1", "delta2", "delta3"), float("nan")
            )
        mean = {key: total / self.pixels for key, total in self.sums.items()}
        return {
            "rmse": mean["square"] ** 0.5,
            "ln_rmse": mean["ln_square"] ** 0.5,
            "log10": mean["log10"],
            "abs_rel": mean["abs_rel"],
            "sq_rel": mean["sq_rel"],
            "delta1": mean["d1"],
            "delta2": mean["d2"],
            "delta3": mean["d3"],
        }
