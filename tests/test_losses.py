"""Losses: hand-worked values, and what counts as a measurement."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.classes import IGNORE
from training.losses import (
    DEPTH_LOSSES,
    Choices,
    abs_rel_loss,
    berhu_loss,
    depth_loss,
    edges_loss,
    log_l1_loss,
    multi_task_loss,
    normals_loss,
    segmentation_loss,
    silog_loss,
    strided,
    valid_depth,
    valid_pixels,
    weighted_by_task,
)


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


def test_berhu_is_linear_for_small_errors_and_square_for_large_ones() -> None:
    prediction = torch.tensor([[[[1.1, 9.0, 2.0, 7.0]]]])
    depth = torch.tensor([[[1.0, 0.0, 4.5, 2.0]]])
    # Errors 0.1, none, 2.5, 5; c = 1.
    expected = (0.1 + (6.25 + 1) / 2 + (25 + 1) / 2) / 3
    assert berhu_loss(prediction, depth).item() == pytest.approx(expected)


def test_log_l1_is_the_mean_ratio_in_logarithms() -> None:
    prediction = torch.tensor([[[[2.0, 5.0, 1.5, 8.0]]]])
    depth = torch.tensor([[[1.0, 0.0, 3.0, 8.0]]])
    # A factor of two too far, none, a factor of two too near, right.
    assert log_l1_loss(prediction, depth).item() == pytest.approx(2 * math.log(2) / 3)


def test_abs_rel_is_the_mean_error_by_the_truth() -> None:
    prediction = torch.tensor([[[[2.0, 5.0, 1.5, 8.0]]]])
    depth = torch.tensor([[[1.0, 0.0, 3.0, 8.0]]])
    # As far off as the truth is, none, half of it, right.
    assert abs_rel_loss(prediction, depth).item() == pytest.approx((1 + 0.5) / 3)


def test_silog_forgives_most_of_a_common_factor() -> None:
    truth = torch.tensor([[[1.0, 0.0, 2.0, 4.0]]])
    g = math.log(2)
    scaled = silog_loss((2 * truth)[:, None], truth).item()
    assert scaled == pytest.approx(g * math.sqrt(1 - 0.85), rel=1e-4)
    one = truth.clone()
    one[0, 0, 0] = 2
    assert silog_loss(one[:, None], truth).item() == pytest.approx(math.sqrt(g**2 / 3 - 0.85 * (g / 3) ** 2), rel=1e-4)


@pytest.mark.parametrize("loss", [silog_loss, log_l1_loss])
def test_losses_of_logarithms_bring_back_what_is_not_positive(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    prediction = torch.tensor([[[[-1.0, 2.0]]]], requires_grad=True)
    torch.autograd.backward(loss(prediction, torch.full((1, 1, 2), 2.0)))
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all() and prediction.grad[0, 0, 0, 0] < -1


@pytest.mark.parametrize("name", DEPTH_LOSSES)
def test_every_depth_loss_ignores_what_was_not_measured_and_goes_through_in_parts(name: str) -> None:
    torch.manual_seed(0)
    depth = torch.rand(4, 3, 5) * 5
    depth[0, 0, :2], depth[3] = float("nan"), 0.0
    outputs = {"depth": torch.rand(4, 1, 3, 5, requires_grad=True)}
    targets = {"depth": depth, "label": torch.zeros(4, 3, 5, dtype=torch.int64)}
    pixels = valid_pixels(targets)
    whole = multi_task_loss(outputs, targets, pixels, Choices(depth=name))["depth"]
    parts = [
        multi_task_loss(
            {"depth": outputs["depth"][half]}, {k: v[half] for k, v in targets.items()}, pixels, Choices(depth=name)
        )["depth"]
        for half in (slice(2), slice(2, 4))
    ]
    assert whole.item() > 0 and sum(p.item() for p in parts) == pytest.approx(whole.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(whole, outputs["depth"])
    assert gradient.isfinite().all() and not gradient[3].any() and not gradient[0, 0, 0, :2].any()


def test_class_weights_are_on_the_pixels_of_the_class() -> None:
    logits = torch.zeros(1, 4, 1, 3)
    label = torch.tensor([[[0, 2, IGNORE]]])
    weights = Choices(class_weights=torch.tensor([3.0, 9.0, 0.5, 9.0]))
    loss = multi_task_loss({"segmentation": logits}, {"label": label}, choices=weights)["segmentation"]
    assert loss.item() == pytest.approx(3.5 * math.log(4) / 2)


def test_normals_are_compared_as_unit_vectors_where_they_are_known() -> None:
    prediction = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, -7.0], [1.0, 1.0, 1.0]]).T.reshape(1, 3, 1, 3)
    truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]]).T.reshape(1, 3, 1, 3)
    # (0.6, 0.8, 0) against (1, 0, 0): 1.2; the second is right; the third is not known. Six components.
    assert normals_loss(prediction, truth).item() == pytest.approx(1.2 / 6)


def test_a_normal_without_a_direction_has_a_bounded_gradient() -> None:
    prediction = torch.zeros(1, 3, 1, 1, requires_grad=True)
    torch.autograd.backward(normals_loss(prediction, torch.tensor([0.0, 0.0, -1.0]).reshape(1, 3, 1, 1)))
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all() and prediction.grad.abs().max() < 1000


def test_edges_weigh_more_than_what_is_none() -> None:
    logits = torch.tensor([[[[0.0, 0.0, 5.0, math.log(3)]]]])
    edges = torch.tensor([[[1, 0, IGNORE, 1]]], dtype=torch.uint8)
    expected = (0.95 * math.log(2) + 0.05 * math.log(2) + 0.95 * math.log(4 / 3)) / 3
    assert edges_loss(logits, edges).item() == pytest.approx(expected, rel=1e-5)


def nothing(n: int = 2) -> dict[str, Tensor]:
    depth = torch.zeros(n, 3, 4)
    depth[0, 0, 0] = float("nan")
    return {
        "label": torch.full((n, 3, 4), IGNORE),
        "depth": depth,
        "normals": torch.zeros(n, 3, 3, 4),
        "edges": torch.full((n, 3, 4), IGNORE, dtype=torch.uint8),
    }


def test_nothing_to_learn_from_gives_zero_and_a_zero_gradient() -> None:
    final = {"segmentation": torch.randn(2, 5, 3, 4), "depth": torch.randn(2, 1, 3, 4)}
    small = {
        "segmentation": torch.randn(2, 5, 2, 2),
        "depth": torch.randn(2, 1, 2, 2),
        "normals": torch.randn(2, 3, 2, 2),
        "edges": torch.randn(2, 1, 2, 2),
    }
    leaves = [*final.values(), *small.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    for pixels in (None, valid_pixels(nothing())):
        losses = multi_task_loss({**final, "intermediate": [small]}, nothing(), pixels)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        assert len(losses) == 6 and all(loss.item() == 0 for loss in losses.values())
        for leaf in leaves:
            assert leaf.grad is not None
            assert not leaf.grad.any() and leaf.grad.isfinite().all()


def test_invalid_pixels_have_no_gradient() -> None:
    prediction = torch.ones(1, 1, 1, 3, requires_grad=True)
    torch.autograd.backward(depth_loss(prediction, torch.tensor([[[2.0, 0.0, 0.5]]])))
    assert prediction.grad is not None
    assert prediction.grad.flatten().tolist() == pytest.approx([-0.5, 0.0, 0.5])


def test_total_is_the_weighted_sum_of_the_tasks_there_are() -> None:
    outputs = {"segmentation": torch.zeros(1, 4, 1, 1), "depth": torch.full((1, 1, 1, 1), 3.0)}
    targets = {"label": torch.zeros(1, 1, 1, dtype=torch.long), "depth": torch.ones(1, 1, 1)}
    losses = multi_task_loss(outputs, targets)
    assert losses["segmentation"].item() == pytest.approx(math.log(4))
    assert losses["depth"].item() == pytest.approx(2.0)
    weighted = weighted_by_task(losses, {"segmentation": 2.0, "depth": 0.5})
    assert [loss.item() for loss in weighted] == pytest.approx([2 * math.log(4), 1.0])
    alone = multi_task_loss({"depth": outputs["depth"]}, targets)
    assert [loss.item() for loss in weighted_by_task(alone, {"depth": 0.5})] == pytest.approx([1.0])


def test_intermediate_predictions_are_upsampled_and_counted_with_their_task() -> None:
    targets = {
        "label": torch.zeros(1, 4, 4, dtype=torch.long),
        "depth": torch.full((1, 4, 4), 2.0),
        "normals": torch.tensor([0.0, 0.0, -1.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4),
        "edges": torch.ones(1, 4, 4, dtype=torch.uint8),
    }
    intermediate = [
        {"depth": torch.full((1, 1, 2, 2), 5.0), "normals": -targets["normals"][..., :1, :1]},
        {"depth": torch.full((1, 1, 1, 1), 1.0), "edges": torch.zeros(1, 1, 1, 1)},
    ]
    losses = multi_task_loss({"depth": torch.full((1, 1, 4, 4), 2.5), "intermediate": intermediate}, targets)
    expected = {"depth": 0.5, "depth.0": 3.0, "normals.0": 2 / 3, "depth.1": 1.0, "edges.1": 0.95 * math.log(2)}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)
    weighted = weighted_by_task(losses, {"depth": 2.0, "normals": 10.0, "edges": 50.0})
    assert [loss.item() for loss in weighted] == pytest.approx([9.0, 20 / 3, 47.5 * math.log(2)])


def test_strided_targets_are_one_pixel_of_each_square_drawn_anew() -> None:
    torch.manual_seed(0)
    label = torch.arange(24).view(1, 4, 6)
    targets = {"image": torch.rand(1, 3, 4, 6), "label": label, "depth": label / 10, "name": ["a"]}
    seen = set()
    for _ in range(40):
        few = strided(targets, 2)
        assert few["image"] is targets["image"] and few["name"] == ["a"]
        first = int(few["label"][0, 0, 0])
        assert torch.equal(few["label"], first + torch.tensor([[[0, 2, 4], [12, 14, 16]]]))
        assert torch.equal(few["depth"], few["label"] / 10)
        seen.add(first)
    assert seen == {0, 1, 6, 7}


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    torch.manual_seed(0)
    outputs = {"segmentation": torch.randn(4, 5, 3, 4), "depth": torch.randn(4, 1, 3, 4)}
    targets = {"label": torch.randint(0, 5, (4, 3, 4)), "depth": torch.rand(4, 3, 4)}
    targets["label"][:3] = IGNORE  # as unequal as can be
    targets["depth"][1] = 0
    whole = multi_task_loss(outputs, targets)
    pixels = valid_pixels(targets)
    parts = [
        multi_task_loss(
            {k: v[i : i + 2] for k, v in outputs.items()}, {k: v[i : i + 2] for k, v in targets.items()}, pixels
        )
        for i in (0, 2)
    ]
    for name, loss in whole.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(loss.item(), rel=1e-6)


def test_bf16_outputs_are_measured_in_fp32() -> None:
    outputs = {
        "segmentation": torch.zeros(1, 4, 1, 1, dtype=torch.bfloat16),
        "depth": torch.full((1, 1, 1, 1), 3.0, dtype=torch.bfloat16),
    }
    targets = {"label": torch.zeros(1, 1, 1, dtype=torch.long), "depth": torch.full((1, 1, 1), 1.001)}
    losses = multi_task_loss(outputs, targets)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert sum(loss.item() for loss in losses.values()) == pytest.approx(math.log(4) + 1.999, abs=1e-5)
