"""Losses: hand-worked values, and what counts as a measurement."""

from __future__ import annotations

import math

import pytest
import torch

from model.classes import IGNORE
from training.losses import depth_loss, multi_task_loss, segmentation_loss, valid_depth


def test_cross_entropy_is_the_mean_over_pixels_with_a_class() -> None:
    logits = torch.zeros(1, 4, 1, 3)
    logits[0, 2, 0, 1] = 100.0  # certain and right
    label = torch.tensor([[[0, 2, IGNORE]]])
    assert segmentation_loss(logits, label).item() == pytest.approx(math.log(4) / 2, abs=1e-6)


def test_l1_is_the_mean_over_valid_pixels() -> None:
    prediction = torch.tensor([[[[1.0, 5.0, 9.0, 3.0]]]])
    depth = torch.tensor([[[2.0, 0.0, float("nan"), 2.5]]])
    assert valid_depth(depth).tolist() == [[[True, False, False, True]]]
    assert depth_loss(prediction, depth).item() == pytest.approx((1.0 + 0.5) / 2)


def test_nothing_to_learn_from_gives_zero_and_a_zero_gradient() -> None:
    logits = torch.randn(2, 5, 3, 4, requires_grad=True)
    prediction = torch.randn(2, 1, 3, 4, requires_grad=True)
    label = torch.full((2, 3, 4), IGNORE)
    depth = torch.zeros(2, 3, 4)
    depth[0, 0, 0] = float("nan")
    loss, parts = multi_task_loss({"segmentation": logits, "depth": prediction}, label, depth)
    torch.autograd.backward(loss)
    assert loss.item() == 0 and all(part.item() == 0 for part in parts.values())
    for leaf in (logits, prediction):
        assert leaf.grad is not None
        assert not leaf.grad.any() and leaf.grad.isfinite().all()


def test_invalid_pixels_have_no_gradient() -> None:
    prediction = torch.ones(1, 1, 1, 3, requires_grad=True)
    torch.autograd.backward(depth_loss(prediction, torch.tensor([[[2.0, 0.0, 0.5]]])))
    assert prediction.grad is not None
    assert prediction.grad.flatten().tolist() == pytest.approx([-0.5, 0.0, 0.5])


def test_total_is_the_weighted_sum_of_the_tasks_there_are() -> None:
    outputs = {"segmentation": torch.zeros(1, 4, 1, 1), "depth": torch.full((1, 1, 1, 1), 3.0)}
    label, depth = torch.zeros(1, 1, 1, dtype=torch.long), torch.ones(1, 1, 1)
    total, parts = multi_task_loss(outputs, label, depth, (2.0, 0.5))
    assert parts["segmentation"].item() == pytest.approx(math.log(4))
    assert parts["depth"].item() == pytest.approx(2.0)
    assert total.item() == pytest.approx(2 * math.log(4) + 1)
    alone, _ = multi_task_loss({"depth": outputs["depth"]}, label, depth, (2.0, 0.5))
    assert alone.item() == pytest.approx(1.0)


def test_bf16_outputs_are_measured_in_fp32() -> None:
    outputs = {
        "segmentation": torch.zeros(1, 4, 1, 1, dtype=torch.bfloat16),
        "depth": torch.full((1, 1, 1, 1), 3.0, dtype=torch.bfloat16),
    }
    loss, _ = multi_task_loss(outputs, torch.zeros(1, 1, 1, dtype=torch.long), torch.full((1, 1, 1), 1.001))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(4) + 1.999, abs=1e-5)
