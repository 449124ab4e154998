"""Metrics: worked by hand, against scikit-learn and plain numpy, and streamed against all at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from training.metrics import (
    PROTOCOLS,
    DepthMeter,
    DepthMetrics,
    EdgeMetrics,
    EigenDepthMetrics,
    NormalsMetrics,
    SegmentationMetrics,
    delta_m,
)


def labels(seed: int, classes: int = 40, shape: tuple[int, ...] = (3, 48, 64)) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.6, label, rng.integers(0, classes, shape)).astype(np.int64)
    label[rng.random(shape) < 0.1] = 255
    return prediction, label


def depths(seed: int, shape: tuple[int, ...] = (3, 48, 64)) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.5, 12, shape).astype(np.float32)
    prediction = (truth * np.exp(rng.normal(0, 0.2, shape)) + rng.normal(0, 0.1, shape)).astype(np.float32)
    truth[rng.random(shape) < 0.2] = 0
    return prediction, truth


# --------------------------------------------------------------------------------------------------- segmentation


def test_segmentation_by_hand() -> None:
    metrics = SegmentationMetrics(4)
    metrics.update(np.array([[0, 0, 1, 1, 2, 0]]), np.array([[0, 0, 0, 1, 1, 255]]))
    assert metrics.confusion.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(metrics.iou(), [2 / 3, 1 / 3, 0, np.nan])  # class 3 occurs nowhere
    figures = metrics.compute()
    assert figures == {
        "miou": pytest.approx((2 / 3 + 1 / 3 + 0) / 3),
        "pixel_acc": pytest.approx(3 / 5),
        "mean_acc": pytest.approx((2 / 3 + 1 / 2) / 2),
    }


@pytest.mark.parametrize("seed", range(3))
def test_segmentation_agrees_with_scikit_learn(seed: int) -> None:
    prediction, label = labels(seed)
    metrics = SegmentationMetrics(40)
    for p, t in zip(prediction, label, strict=True):  # streamed
        metrics.update(p, t)
    y, x = label[label != 255], prediction[label != 255]
    assert (metrics.confusion == confusion_matrix(y, x, labels=range(40))).all()
    np.testing.assert_allclose(metrics.iou(), jaccard_score(y, x, labels=range(40), average=None), atol=1e-6)
    assert metrics.compute()["miou"] == pytest.approx(jaccard_score(y, x, labels=range(40), average="macro"), abs=1e-6)
    assert metrics.compute()["pixel_acc"] == pytest.approx(accuracy_score(y, x), abs=1e-6)


def test_segmentation_refuses_a_class_outside_the_set() -> None:
    with pytest.raises(ValueError, match=r"a label is outside the 4 classes: 0 to 4"):
        SegmentationMetrics(4).update(np.array([0, 0]), np.array([0, 4]))
    with pytest.raises(ValueError, match="a prediction is outside"):
        SegmentationMetrics(4).update(np.array([0, -1]), np.array([0, 3]))


# ---------------------------------------------------------------------------------------------------------- depth


def test_depth_by_hand() -> None:
    metrics = DepthMetrics()
    metrics.update(np.array([[1.0, 3.0, 99.0, 2.0]]), np.array([[2.0, 2.0, 0.0, 2.0]]))
    figures = metrics.compute()
    assert figures["rmse"] == pytest.approx(math.sqrt(2 / 3))
    assert figures["ln_rmse"] == pytest.approx(math.sqrt((math.log(2) ** 2 + math.log(1.5) ** 2) / 3))
    assert figures["log10"] == pytest.approx((math.log10(2) + math.log10(1.5)) / 3)
    assert figures["abs_rel"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert figures["sq_rel"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert [figures[f"delta{i}"] for i in (1, 2, 3)] == [pytest.approx(v) for v in (1 / 3, 2 / 3, 2 / 3)]


def test_depth_agrees_with_plain_numpy() -> None:
    prediction, truth = depths(0)
    metrics = DepthMetrics()
    metrics.update(prediction, truth)
    t, p = truth[truth > 0].astype(np.float64), prediction[truth > 0].astype(np.float64)
    positive = np.maximum(p, 1e-3)
    worse = np.maximum(positive / t, t / positive)
    expected = {
        "rmse": np.sqrt(np.mean((p - t) ** 2)),
        "ln_rmse": np.sqrt(np.mean((np.log(positive) - np.log(t)) ** 2)),
        "log10": np.mean(np.abs(np.log10(positive) - np.log10(t))),
        "abs_rel": np.mean(np.abs(p - t) / t),
        "sq_rel": np.mean((p - t) ** 2 / t),
        **{f"delta{i}": np.mean(worse < 1.25**i) for i in (1, 2, 3)},
    }
    for name, value in metrics.compute().items():
        assert value == pytest.approx(expected[name], abs=1e-6), name


def test_eigen_by_hand() -> None:
    """Two pictures of another size, so whole: the mean of 1 m and 3 m, where the pooled rmse would not be 2 m."""
    metrics = EigenDepthMetrics()
    metrics.update(np.array([[3.0, 3.0, 50.0]]), np.array([[2.0, 2.0, 10.5]]))  # 10.5 m is beyond the cap
    metrics.update(np.array([[5.0, -1.0]]), np.array([[2.0, 0.0]]))
    figures = metrics.compute()
    assert figures["rmse"] == pytest.approx(2.0)
    assert figures["ln_rmse"] == pytest.approx((math.log(1.5) + math.log(2.5)) / 2)
    assert figures["abs_rel"] == pytest.approx((0.5 + 1.5) / 2)
    assert figures["delta2"] == pytest.approx(0.5)
    assert (metrics.pictures, metrics.whole) == (2, 2)
    clamped = EigenDepthMetrics()
    clamped.update(np.array([[50.0, -5.0]]), np.array([[10.0, 0.001]]))
    assert clamped.compute()["rmse"] == 0  # predictions are clamped to [0.001, 10]


@pytest.mark.parametrize(("truth", "counted"), [(10.0, True), (math.nextafter(10.0, 11.0), False)])
def test_eigen_measures_up_to_its_cap(truth: float, counted: bool) -> None:
    metrics = EigenDepthMetrics()
    metrics.update(np.array([[9.0, 5.0]]), np.array([[truth, 5.0]]))
    assert metrics.compute()["rmse"] == pytest.approx(math.sqrt(1 / 2) if counted else 0.0)


def test_eigen_crops_480x640() -> None:
    truth = np.zeros((480, 640), np.float32)
    truth[45:471, 41:601] = 2
    prediction = np.full((480, 640), 3, np.float32)
    for row, column, inside in ((45, 41, True), (470, 600, True), (44, 41, False), (471, 600, False), (45, 601, False)):
        only = np.zeros_like(truth)
        only[row, column] = 2
        metrics = EigenDepthMetrics()
        metrics.update(prediction, only)
        assert (metrics.pictures == 1) == inside, (row, column)
    metrics = EigenDepthMetrics()
    metrics.update(prediction, truth)
    assert metrics.compute()["rmse"] == pytest.approx(1)
    assert metrics.whole == 0


def test_eigen_agrees_with_plain_numpy() -> None:
    prediction, truth = depths(1, (2, 480, 640))
    metrics = EigenDepthMetrics()
    metrics.update(prediction, truth)
    rmse, abs_rel, d1 = [], [], []
    for p, t in zip(prediction.astype(np.float64), truth.astype(np.float64), strict=True):
        mask = np.zeros((480, 640), bool)
        mask[45:471, 41:601] = True
        mask &= (t > 0) & (t <= 10)
        p, t = np.clip(p[mask], 1e-3, 10), t[mask]
        rmse.append(np.sqrt(np.mean((p - t) ** 2)))
        abs_rel.append(np.mean(np.abs(p - t) / t))
        d1.append(np.mean(np.maximum(p / t, t / p) < 1.25))
    figures = metrics.compute()
    assert figures["rmse"] == pytest.approx(np.mean(rmse), abs=1e-6)
    assert figures["abs_rel"] == pytest.approx(np.mean(abs_rel), abs=1e-6)
    assert figures["delta1"] == pytest.approx(np.mean(d1), abs=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_depth_streamed_equals_all_at_once(protocol: str) -> None:
    prediction, truth = depths(2, (4, 48, 64))
    streamed, once = PROTOCOLS[protocol](), PROTOCOLS[protocol]()
    for p, t in zip(prediction, truth, strict=True):
        streamed.update(p, t)
    once.update(prediction, truth)
    assert streamed.compute() == pytest.approx(once.compute(), rel=1e-12)


@pytest.mark.parametrize("make", [DepthMetrics, EigenDepthMetrics])
def test_depth_without_a_valid_pixel_adds_nothing(make: Callable[[], DepthMeter]) -> None:
    nothing = np.zeros((1, 48, 64), np.float32)
    metrics = make()
    metrics.update(np.full_like(nothing, np.nan), nothing)
    assert all(math.isnan(value) for value in metrics.compute().values())
    prediction, truth = depths(3)
    metrics.update(prediction, truth)
    before = metrics.compute()
    metrics.update(np.full_like(nothing, np.nan), nothing)
    assert metrics.compute() == before
    assert all(math.isfinite(value) for value in before.values())


def test_segmentation_normals_and_edges_without_a_truth_are_nan() -> None:
    segmentation, normals, edges = SegmentationMetrics(3), NormalsMetrics(), EdgeMetrics()
    segmentation.update(np.zeros((4, 4), int), np.full((4, 4), 255))
    normals.update(np.ones((4, 4, 3)), np.zeros((4, 4, 3)))
    edges.update(np.ones((4, 4)), np.full((4, 4), 255, np.uint8))
    for metrics in (segmentation, normals, edges):
        assert all(math.isnan(value) for value in metrics.compute().values())  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------------------- normals


def test_normals_by_hand() -> None:
    def tilted(degrees: float) -> list[float]:
        return [math.sin(math.radians(degrees)), 0.0, -math.cos(math.radians(degrees))]

    truth = np.array([[0, 0, -1.0]] * 5 + [[0, 0, 0.0]])
    prediction = np.array([tilted(d) for d in (0, 10, 20, 25, 90, 45)]) * 3  # its length does not matter
    metrics = NormalsMetrics()
    metrics.update(prediction, truth)
    figures = metrics.compute()
    assert figures["normals_mean"] == pytest.approx(145 / 5)
    assert figures["normals_median"] == pytest.approx(20, abs=0.001)
    assert [figures[f"normals_{a}"] for a in ("11.25", "22.5", "30")] == [0.4, 0.6, 0.8]
    opposite = NormalsMetrics()
    opposite.update(np.array([[0, 0, 1.0], [0, 0, 0]]), np.array([[0, 0, -1.0], [0, 0, -1.0]]))
    assert opposite.compute()["normals_mean"] == pytest.approx((180 + 90) / 2)
    assert opposite.compute()["normals_median"] == pytest.approx((180 + 90) / 2, abs=0.001)


def test_normals_agree_with_plain_numpy_and_stream() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.standard_normal((2, 4, 30, 40, 3))
    truth /= np.linalg.norm(truth, axis=-1, keepdims=True)
    truth[rng.random(truth.shape[:-1]) < 0.2] = 0
    streamed, once = NormalsMetrics(), NormalsMetrics()
    for p, t in zip(prediction, truth, strict=True):
        streamed.update(p, t)
    once.update(prediction, truth)
    assert streamed.compute() == pytest.approx(once.compute(), rel=1e-12)
    valid = truth.any(-1)
    unit = prediction[valid] / np.linalg.norm(prediction[valid], axis=-1, keepdims=True)
    angle = np.degrees(2 * np.arcsin(np.linalg.norm(unit - truth[valid], axis=-1).clip(max=2) / 2))
    figures = once.compute()
    assert figures["normals_mean"] == pytest.approx(angle.mean(), abs=1e-6)
    assert figures["normals_median"] == pytest.approx(np.median(angle), abs=0.001)
    assert figures["normals_30"] == pytest.approx((angle < 30).mean(), abs=1e-6)


# ----------------------------------------------------------------------------------------------------------- edges


def test_edges_by_hand() -> None:
    truth = np.zeros((7, 9), np.uint8)
    truth[:, 4] = 1
    exact = EdgeMetrics(tolerance=0)
    exact.update(truth * 0.8, truth)
    assert exact.compute() == {"ods_f": 1.0, "ods_threshold": 0.01}

    shifted = np.roll(truth, 2, axis=1) * 0.8
    for tolerance, f in ((1, 0.0), (2, 1.0)):
        metrics = EdgeMetrics(tolerance)
        metrics.update(shifted, truth)
        assert metrics.compute()["ods_f"] == f

    # Sure of half of the edge, and less sure of the whole of it and of as much that is none.
    probability = np.zeros((7, 9))
    probability[:, [4, 0]] = 0.3
    probability[:4, 4] = 0.9
    metrics = EdgeMetrics(tolerance=1)
    metrics.update(probability, truth)
    # Above 0.3: precision 1, recall 5/7 (the fifth pixel is one away); at 0.3: precision 1/2, recall 1.
    assert metrics.compute()["ods_f"] == pytest.approx(2 * 5 / 7 / (1 + 5 / 7))
    assert metrics.compute()["ods_threshold"] == pytest.approx(0.31)

    void = truth.copy()
    void[:, 0] = 255  # now the wrong ones do not count
    metrics = EdgeMetrics(tolerance=1)
    metrics.update(probability, void)
    assert metrics.compute()["ods_f"] == 1.0


def test_edges_agree_with_a_loop_over_thresholds_and_stream() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((3, 20, 24)) < 0.1).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    probability = np.where(truth == 1, rng.beta(3, 2, truth.shape), rng.beta(1, 4, truth.shape))
    streamed, once = EdgeMetrics(2), EdgeMetrics(2)
    for p, t in zip(probability, truth, strict=True):
        streamed.update(p, t)
    once.update(probability, truth)
    assert streamed.compute() == once.compute()

    best = 0.0
    for threshold in np.arange(1, 100) / 100:
        counts = np.zeros(4)
        for p, t in zip(probability, truth, strict=True):
            predicted, true = np.argwhere((p >= threshold) & (t != 255)), np.argwhere(t == 1)
            apart = np.linalg.norm(predicted[:, None] - true[None], axis=-1)
            counts += [
                len(predicted),
                (apart.min(1, initial=99) <= 2).sum(),
                len(true),
                (apart.min(0, initial=99) <= 2).sum(),
            ]
        precision, recall = counts[1] / max(1, counts[0]), counts[3] / counts[2]
        best = max(best, 2 * precision * recall / max(1e-12, precision + recall))
    assert once.compute()["ods_f"] == pytest.approx(best, abs=1e-6)


def test_edges_of_a_picture_smaller_than_the_tolerance() -> None:
    metrics = EdgeMetrics(tolerance=5)
    metrics.update(np.array([[0.9, 0.0]]), np.array([[0, 1]], np.uint8))
    assert metrics.compute()["ods_f"] == 1.0


# --------------------------------------------------------------------------------------------------------- delta_m


def test_delta_m_by_hand() -> None:
    baseline = {"miou": 0.40, "pixel_acc": 0.7, "rmse": 0.60}
    assert delta_m({"miou": 0.44, "rmse": 0.54}, baseline) == pytest.approx((0.10 + 0.10) / 2)
    assert delta_m({"miou": 0.36, "rmse": 0.60}, baseline) == pytest.approx(-0.05)
    assert delta_m({"miou": 0.44, "rmse": 9.0}, {"miou": 0.40}) == pytest.approx(0.10)
    four = baseline | {"normals_mean": 20.0, "ods_f": 0.5}
    values = {"miou": 0.40, "rmse": 0.60, "normals_mean": 19.0, "ods_f": 0.55}
    assert delta_m(values, four) == pytest.approx((0 + 0 + 0.05 + 0.10) / 4)


def test_delta_m_of_the_papers_rows() -> None:
    """MTL_SSW against STL_ASPP on NYUD-v2."""
    gain = delta_m({"miou": 39.8796, "rmse": 0.5755}, {"miou": 39.2452, "rmse": 0.6000})
    assert gain == pytest.approx((0.016165 + 0.040833) / 2, abs=1e-5)


def test_delta_m_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="the baseline has rmse"):
        delta_m({"miou": 0.4}, {"miou": 0.4, "rmse": 0.5})
    with pytest.raises(ValueError, match="the baseline has none of miou, rmse"):
        delta_m({"miou": 0.4}, {"pixel_acc": 0.4})
    with pytest.raises(ValueError, match="miou is 0"):
        delta_m({"miou": 0.4}, {"miou": 0.0})
