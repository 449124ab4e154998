"""Metrics, streamed over pictures: the figures over all batches are those over all pixels at once.

Two protocols for depth, chosen by name and named in every result:

- `mtl` (`DepthMetrics`): whole pictures, errors pooled over all valid pixels of the split, no cap. The multi-task
  papers measure so, on NYUD-v2's filled depth.
- `eigen` (`EigenDepthMetrics`): on 480x640 pictures only rows 45 to 470 and columns 41 to 600 (Eigen et al., NIPS
  2014); true depth counts in (0, 10] m, predictions are clamped to [0.001, 10] m; errors are taken per picture, and
  their mean over pictures is the result. The depth papers measure so, on NYUD-v2's raw depth.

What is not measured: pixels of label 255, and pixels without true depth, normal or edge. A picture (or a batch) without
a valid pixel adds nothing, whatever is predicted there. If a whole split has none, the figures are NaN, for there
is no error to speak of; `training.evaluate` leaves such figures out. No warning, no division by zero on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.classes import IGNORE

MIN_DEPTH_M = 0.001
"""Predictions below are raised to it for ratios and logarithms: the resolution of the served depth map."""

NAN = float("nan")


# --------------------------------------------------------------------------------------------------- segmentation


class SegmentationMetrics:
    """Confusion matrix of `classes` classes.

    Attributes:
        confusion: int64 [classes, classes]; rows are the truth, columns the prediction.
    """

    def __init__(self, classes: int) -> None:
        self.confusion: NDArray[np.int64] = np.zeros((classes, classes), np.int64)

    def update(self, prediction: NDArray[np.integer[Any]], label: NDArray[np.integer[Any]]) -> None:
        """Counts the pixels of one picture or batch; `prediction` and `label` have one shape, 255 is not counted.

        Raises:
            ValueError: a class outside the set.
        """
        k = len(self.confusion)
        counted = label != IGNORE
        truth, predicted = label[counted].astype(np.int64), prediction[counted].astype(np.int64)
        for what, values in (("label", truth), ("prediction", predicted)):
            if values.size and not (values.min() >= 0 and values.max() < k):
                raise ValueError(f"a {what} is outside the {k} classes: {values.min()} to {values.max()}")
        self.confusion += np.bincount(truth * k + predicted, minlength=k * k).reshape(k, k)

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
            return dict.fromkeys(("miou", "pixel_acc", "mean_acc"), NAN)
        hit = np.diag(self.confusion).astype(np.float64)
        return {
            "miou": float(np.nanmean(self.iou())),
            "pixel_acc": float(hit.sum() / truth.sum()),
            "mean_acc": float((hit[truth > 0] / truth[truth > 0]).mean()),
        }


# ---------------------------------------------------------------------------------------------------------- depth


def depth_error_sums(prediction: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Sums over pixels (one dimension, all of them valid) of: squared error, squared ln error, log10 error, absolute
    relative error, squared relative error, and the pixels within 1.25, 1.25² and 1.25³."""
    truth, predicted = truth.astype(np.float64), prediction.astype(np.float64)
    positive = predicted.clip(min=MIN_DEPTH_M)
    error = predicted - truth
    log = np.log(positive) - np.log(truth)
    ratio = np.maximum(positive / truth, truth / positive)
    errors = (error**2, log**2, np.abs(log) / np.log(10), np.abs(error) / truth, error**2 / truth)
    return np.array([e.sum() for e in errors] + [(ratio < 1.25**i).sum() for i in (1, 2, 3)], np.float64)


def depth_figures(means: NDArray[np.float64]) -> dict[str, float]:
    """The figures from the means of `depth_error_sums`."""
    names = ("rmse", "ln_rmse", "log10", "abs_rel", "sq_rel", "delta1", "delta2", "delta3")
    return {name: float(v**0.5 if name.endswith("rmse") else v) for name, v in zip(names, means, strict=True)}


class DepthMeter(Protocol):
    """What both depth protocols do. `compute` gives `rmse` (m), `ln_rmse` (the paper's log_rmse), `log10`, `abs_rel`,
    `sq_rel` (m), `delta1..3`; NaN if nothing was valid."""

    def update(self, prediction: NDArray[np.floating[Any]], depth: NDArray[np.floating[Any]]) -> None: ...
    def compute(self) -> dict[str, float]: ...


class DepthMetrics:
    """Protocol `mtl`: errors of predicted depth in metres, pooled over the pixels whose true depth is valid."""

    def __init__(self) -> None:
        self.pixels = 0
        self.sums = np.zeros(8)

    def update(self, prediction: NDArray[np.floating[Any]], depth: NDArray[np.floating[Any]]) -> None:
        """Adds the pixels of one picture or batch; both in metres and of one shape, 0 in `depth` is invalid."""
        valid = np.isfinite(depth) & (depth > 0)
        self.pixels += int(valid.sum())
        self.sums += depth_error_sums(prediction[valid], depth[valid])

    def compute(self) -> dict[str, float]:
        return depth_figures(self.sums / self.pixels if self.pixels else np.full(8, np.nan))


class EigenDepthMetrics:
    """Protocol `eigen`: crop, cap at 10 m, mean of the errors of each picture.

    Attributes:
        pictures: Pictures with a valid pixel.
        whole: Those of them that are not 480x640: the crop is defined for that size only, so they count whole.
    """

    SIZE = (480, 640)
    CROP = np.s_[45:471, 41:601]
    CAP_M = 10.0

    def __init__(self) -> None:
        self.pictures = 0
        self.whole = 0
        self.sums = np.zeros(8)

    def update(self, prediction: NDArray[np.floating[Any]], depth: NDArray[np.floating[Any]]) -> None:
        """Adds one picture [H, W] or a batch [N, H, W]; both in metres and of one shape, 0 in `depth` is invalid."""
        height, width = depth.shape[-2:]
        pairs = zip(prediction.reshape(-1, height, width), depth.reshape(-1, height, width), strict=True)
        for predicted, truth in pairs:
            cropped = (height, width) == self.SIZE
            if cropped:
                predicted, truth = predicted[self.CROP], truth[self.CROP]
            valid = (truth > 0) & (truth <= self.CAP_M)
            if not valid.any():
                continue
            sums = depth_error_sums(predicted[valid].clip(MIN_DEPTH_M, self.CAP_M), truth[valid])
            means = sums / valid.sum()
            means[:2] **= 0.5  # the roots of each picture are averaged, not their squares
            self.sums += means
            self.pictures += 1
            self.whole += not cropped

    def compute(self) -> dict[str, float]:
        means = self.sums / self.pictures if self.pictures else np.full(8, np.nan)
        return depth_figures(np.concatenate([means[:2] ** 2, means[2:]]))


PROTOCOLS: dict[str, Callable[[], DepthMeter]] = {"mtl": DepthMetrics, "eigen": EigenDepthMetrics}


# ---------------------------------------------------------------------------------------------- auxiliary tasks


class NormalsMetrics:
    """Angle between predicted and true normals in degrees, over the pixels that have a true normal."""

    BINS_PER_DEGREE = 1000
    """The median is known to a bin, 0.001 degrees; mean and fractions are exact."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(180 * self.BINS_PER_DEGREE + 1, np.int64)
        self.sum = 0.0
        self.within = np.zeros(3, np.int64)

    def update(self, prediction: NDArray[np.floating[Any]], normals: NDArray[np.floating[Any]]) -> None:
        """Adds a picture or batch; both [..., 3], the prediction of any length, (0, 0, 0) in `normals` is invalid."""
        valid = np.any(normals != 0, axis=-1)
        a, b = prediction[valid].astype(np.float64), normals[valid].astype(np.float64)
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        # A prediction of no direction is as wrong as a right angle.
        cosine = np.divide((a * b).sum(-1), lengths, out=np.zeros(len(a)), where=(lengths > 0) & np.isfinite(lengths))
        angle = np.degrees(np.arccos(cosine.clip(-1, 1)))
        self.sum += float(angle.sum())
        self.within += [int((angle < limit).sum()) for limit in (11.25, 22.5, 30)]
        self.counts += np.bincount((angle * self.BINS_PER_DEGREE).astype(np.int64), minlength=len(self.counts))

    def compute(self) -> dict[str, float]:
        """`normals_mean`, `normals_median` (degrees), `normals_11.25`, `normals_22.5`, `normals_30` (fractions)."""
        names = ("normals_mean", "normals_median", "normals_11.25", "normals_22.5", "normals_30")
        total = int(self.counts.sum())
        if not total:
            return dict.fromkeys(names, NAN)
        cumulated = self.counts.cumsum()
        # The two middle angles (one and the same if their number is odd), each the middle of its bin.
        low, high = (int(np.searchsorted(cumulated, rank)) for rank in ((total + 1) // 2, total // 2 + 1))
        median = ((low + high) / 2 + 0.5) / self.BINS_PER_DEGREE
        return dict(zip(names, (self.sum / total, median, *(self.within / total).tolist()), strict=True))


class EdgeMetrics:
    """odsF: the F-measure at the one threshold that suits the whole data set best.

    At a threshold, precision is the fraction of predicted edge pixels with a true edge pixel within `tolerance` pixels,
    and recall the fraction of true edge pixels with a predicted one that near. This is the plain form: predictions
    are not thinned and pixels not matched one to one, as the BSDS benchmark does, so compare figures of this code
    only with each other.

    Args:
        tolerance: Euclidean distance in pixels; BSDS's 0.0075 of the diagonal is 6 at 480x640.
        thresholds: Their number, equally spaced inside 0..1.
    """

    def __init__(self, tolerance: float = 3.0, thresholds: int = 99) -> None:
        self.thresholds = np.arange(1, thresholds + 1) / (thresholds + 1)
        reach = int(tolerance)
        self.offsets = [
            (y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1) if y * y + x * x <= tolerance**2
        ]
        # By threshold: predicted pixels, those near a true edge, true edge pixels near a predicted one.
        self.predicted, self.right, self.found = (np.zeros(thresholds, np.int64) for _ in range(3))
        self.true = 0

    def update(self, probability: NDArray[np.floating[Any]], edges: NDArray[np.uint8]) -> None:
        """Adds one picture [H, W] or a batch [N, H, W]; `edges` is 0, 1 or 255 = ignore."""
        height, width = edges.shape[-2:]
        for p, truth in zip(probability.reshape(-1, height, width), edges.reshape(-1, height, width), strict=True):
            # At how many of the thresholds the pixel is predicted as an edge, 0 where it does not count.
            level = np.where(truth == IGNORE, 0, np.searchsorted(self.thresholds, p, side="right"))
            edge = truth == 1
            self.predicted += self._at_least(level)
            self.right += self._at_least(level[self._spread(edge)])
            self.found += self._at_least(self._spread(level)[edge])
            self.true += int(edge.sum())

    def _at_least(self, level: NDArray[Any]) -> NDArray[np.int64]:
        """How many of the pixels reach each threshold."""
        counts = np.bincount(level.reshape(-1), minlength=len(self.thresholds) + 1)
        return counts[::-1].cumsum()[::-1][1:]

    def _spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """The maximum of the values within the tolerance."""
        height, width = values.shape
        out = values.copy()
        for y, x in self.offsets:
            to = np.s_[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)]
            source = np.s_[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
            if abs(y) < height and abs(x) < width:
                np.maximum(out[to], values[source], out=out[to])
        return out

    def compute(self) -> dict[str, float]:
        """`ods_f` and its `ods_threshold`; NaN if there was no true edge."""
        if not self.true:
            return {"ods_f": NAN, "ods_threshold": NAN}
        precision = self.right / self.predicted.clip(min=1)
        recall = self.found / self.true
        f = 2 * precision * recall / (precision + recall).clip(min=1e-12)
        best = int(f.argmax())
        return {"ods_f": float(f[best]), "ods_threshold": float(self.thresholds[best])}


# ---------------------------------------------------------------------------------------------------------- delta_m

FIGURE_OF_TASK = {
    "segmentation": ("miou", 1),
    "depth": ("rmse", -1),
    "normals": ("normals_mean", -1),
    "edges": ("ods_f", 1),
}
"""The figure that stands for a task in delta_m, and whether more (1) or less (-1) of it is better."""


def delta_m(values: dict[str, float], baseline: dict[str, float]) -> float:
    """Mean over the tasks of the relative gain over the single-task networks, positive = better (Vandenhende et al.,
    MTI-Net, ECCV 2020): 0.02 is two per cent. The tasks are those that the baseline has.

    Args:
        values: Figures of the multi-task network, by name.
        baseline: Figures of the single-task networks together.

    Raises:
        ValueError: the baseline has none of the tasks' figures, or one that is missing in `values`, or a zero.
    """
    gains = []
    for task, (figure, sign) in FIGURE_OF_TASK.items():
        if figure not in baseline:
            continue
        if figure not in values:
            raise ValueError(f"the baseline has {figure} ({task}), the network measured here has not")
        if not baseline[figure]:
            raise ValueError(f"the baseline's {figure} is 0: a relative gain over it does not exist")
        gains.append(sign * (values[figure] - baseline[figure]) / baseline[figure])
    if not gains:
        raise ValueError(f"the baseline has none of {', '.join(figure for figure, _ in FIGURE_OF_TASK.values())}")
    return float(np.mean(gains))
