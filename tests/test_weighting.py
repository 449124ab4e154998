"""Loss weighting: steps worked by hand, and state that comes back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from training.weighting import (
    FAMO,
    WEIGHTINGS,
    CAGrad,
    DynamicWeightAverage,
    GradNorm,
    PCGrad,
    Uncertainty,
    Weighting,
    backward_per_task,
    check_combination,
    minimise_on_simplex,
)

TASKS = ("segmentation", "depth")


def test_fixed_weights_are_one() -> None:
    assert Weighting(TASKS).weights(torch.tensor([3.0, 0.1])).tolist() == [1.0, 1.0]


def test_uncertainty_descends_its_likelihood() -> None:
    weighting = Uncertainty(TASKS)
    losses = torch.tensor([2.0, 0.25])
    assert weighting.weights(losses).tolist() == [1.0, 1.0]
    weighting.after_step(losses)
    # Gradients 1/2 - 2 and 1 - 0.25; the first step of Adam is its learning rate against their signs.
    assert weighting.value.tolist() == pytest.approx([0.001, -0.001], rel=1e-5)
    assert weighting.weights(losses).tolist() == pytest.approx([math.exp(-0.001), math.exp(0.001)])
    for _ in range(10000):
        weighting.after_step(losses)
    # Where the gradient vanishes: exp(-s) L = 1/2 and 1.
    assert weighting.weights(losses).tolist() == pytest.approx([0.25, 4.0], rel=1e-2)


def test_uncertainty_leaves_a_task_without_a_loss_alone() -> None:
    weighting = Uncertainty(TASKS)
    for _ in range(10):
        weighting.after_step(torch.tensor([1.0, 0.0]))
    assert weighting.value[0] != 0
    assert weighting.value[1] == 0


def test_dwa_follows_the_rate_of_descent() -> None:
    weighting = DynamicWeightAverage(TASKS)
    for epoch in ([[3.0, 1.0], [1.0, 3.0]], [[1.0, 1.0], [1.0, 3.0]]):
        for losses in epoch:
            assert weighting.weights(torch.tensor(losses)).tolist() == [1.0, 1.0]
            weighting.after_step(torch.tensor(losses))
        weighting.end_epoch()
    # Means (2, 2), then (1, 2): r = (1/2, 1), weights 2 softmax(r / 2).
    a, b = math.exp(0.25), math.exp(0.5)
    assert weighting.weights(torch.ones(2)).tolist() == pytest.approx([2 * a / (a + b), 2 * b / (a + b)])


def test_famo_weighs_by_the_inverse_loss_and_then_by_who_lags() -> None:
    weighting = FAMO(TASKS)
    losses = torch.tensor([1.0, 3.0])
    # z = (1/2, 1/2); z / L = (1/2, 1/6), scaled to a sum of 2.
    assert weighting.weights(losses).tolist() == pytest.approx([1.5, 0.5])
    weighting.after_step(losses, torch.tensor([0.5, 3.0]))
    # The first fell by ln 2: gradient (1/4, -1/4) ln 2; Adam's first step is its learning rate.
    assert weighting.value.tolist() == pytest.approx([-0.025, 0.025], rel=1e-5)
    assert weighting.weights(torch.ones(2))[1] > 1
    assert weighting.weights(torch.tensor([0.0, 3.0])).tolist() == pytest.approx([0.0, 2.0])
    assert weighting.weights(torch.tensor([float("nan"), 3.0])).isnan().any()


def test_famo_lets_go_of_what_it_learned() -> None:
    weighting = FAMO(TASKS)
    weighting.value.copy_(torch.tensor([1.0, -1.0]))
    losses = torch.tensor([1.0, 3.0])
    weighting.after_step(losses, losses)
    # No loss fell, so the gradient is the decay's alone, (0.001, -0.001): both go towards 0.
    assert weighting.value.tolist() == pytest.approx([0.975, -0.975], abs=1e-5)


def test_gradnorm_brings_gradients_to_like_size() -> None:
    weighting = GradNorm(TASKS)
    gradients = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    combined, weights = weighting.combine(gradients, torch.tensor([1.0, 2.0]))
    assert combined.tolist() == [3.0, 5.0] and weights.tolist() == [1.0, 1.0]
    # At the start all rates are 1 and the target is the mean norm 3: the first is above it, the second below.
    assert weighting.value.tolist() == pytest.approx([0.975, 1.025], rel=1e-5)
    combined, weights = weighting.combine(gradients, torch.tensor([1.0, 1.0]))
    assert combined.tolist() == pytest.approx([0.975 * 3, 0.975 * 4 + 1.025], rel=1e-5)
    assert weighting.value.sum().item() == pytest.approx(2.0)


def test_gradnorm_gives_more_to_a_task_that_learns_slowly() -> None:
    weighting = GradNorm(TASKS)
    weighting.at_start.fill_(1.0)
    # Norms 1.5 and 0.5, mean 1; rates 4 and 1 over their mean 2.5, so 1.6 and 0.4. The targets are
    # 1.6^1.5 = 2.02 and 0.4^1.5 = 0.25: the larger gradient is still too small, the smaller one too large.
    weighting.combine(torch.tensor([[1.5, 0.0], [0.0, 0.5]]), torch.tensor([4.0, 1.0]))
    assert weighting.value.tolist() == pytest.approx([1.025, 0.975], rel=1e-5)


def test_gradnorm_keeps_the_sum_of_the_weights() -> None:
    weighting = GradNorm((*TASKS, "normals"))
    # Mean norm 2: one is above it, two are below, so that the steps by themselves add 0.025.
    weighting.combine(torch.diag(torch.tensor([4.0, 1.0, 1.0])), torch.ones(3))
    expected = [0.975 * 3 / 3.025, 1.025 * 3 / 3.025, 1.025 * 3 / 3.025]
    assert weighting.value.tolist() == pytest.approx(expected, rel=1e-5)


def test_pcgrad_projects_only_what_conflicts() -> None:
    agree = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert PCGrad(TASKS).combine(agree, torch.ones(2))[0].tolist() == [2.0, 1.0]
    conflict = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    # g1 - (g1·g2 / |g2|²) g2 = (1/2, 1/2);  g2 - (g2·g1 / |g1|²) g1 = (0, 1).
    assert PCGrad(TASKS).combine(conflict, torch.ones(2))[0].tolist() == pytest.approx([0.5, 1.5])


def test_cagrad_of_orthogonal_gradients() -> None:
    gradients = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # By symmetry w = (1/2, 1/2), so that d is the mean, longer by c.
    assert CAGrad(TASKS).combine(gradients, torch.ones(2))[0].tolist() == pytest.approx([1.4, 1.4], rel=1e-5)


def test_cagrad_maximises_the_worst_gain_within_its_circle() -> None:
    gradients = torch.tensor([[4.0, 0.0], [-1.0, 1.0]])
    d = CAGrad(TASKS).combine(gradients, torch.ones(2))[0] / 2
    g0 = gradients.mean(dim=0)
    radius = 0.4 * g0.norm()
    assert (d - g0).norm().item() == pytest.approx(radius.item(), rel=1e-4)
    angles = torch.linspace(0, 2 * math.pi, 2001)
    circle = g0 + radius * torch.stack([angles.cos(), angles.sin()], dim=1)
    best = (circle @ gradients.T).min(dim=1).values.max()
    assert (gradients @ d).min().item() == pytest.approx(best.item(), abs=1e-4)


def test_cagrad_of_cancelling_gradients_is_finite() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert CAGrad(TASKS).combine(opposite, torch.ones(2))[0].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_the_minimum_on_the_simplex() -> None:
    centre = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    assert minimise_on_simplex(lambda w: (w - centre).square().sum(), 3).tolist() == pytest.approx(
        centre.tolist(), abs=1e-5
    )
    outside = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    corner = minimise_on_simplex(lambda w: (w - outside).square().sum(), 3)
    assert corner.tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-5)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 1)

    def losses(self, x: torch.Tensor) -> torch.Tensor:
        h = self.shared(x).relu()
        return torch.stack([self.a(h).square().mean(), (self.b(h) - 1).abs().mean()])


def test_one_backward_pass_per_task_with_equal_weights_is_the_plain_gradient() -> None:
    torch.manual_seed(0)
    net, x = TwoHeads(), torch.randn(5, 3)
    parameters = list(net.parameters())
    expected = torch.autograd.grad(net.losses(x).sum(), parameters)
    backward_per_task(net.losses(x), GradNorm(TASKS), parameters)
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient)


def test_heads_keep_their_own_gradient() -> None:
    torch.manual_seed(0)
    net, x = TwoHeads(), torch.randn(5, 3)
    expected = torch.autograd.grad(net.losses(x)[1], list(net.b.parameters()))
    backward_per_task(net.losses(x), CAGrad(TASKS), list(net.parameters()))
    for parameter, gradient in zip(net.b.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_state_comes_back(name: str) -> None:
    def run(weighting: Weighting, steps: range) -> list[list[float]]:
        out = []
        for i in steps:
            losses = torch.tensor([1.0, 2.0]) / (1 + i * torch.tensor([1.0, 0.2]))
            if weighting.per_task_gradients:
                gradients = torch.tensor([[1.0, -2.0], [3.0, 1.0]]) * losses
                out.append(weighting.combine(gradients, losses)[0].tolist())
            else:
                out.append(weighting.weights(losses).tolist())
            weighting.after_step(losses, losses * 0.9 if weighting.looks_again else None)
            if i % 3 == 2:
                weighting.end_epoch()
        return out

    straight, first, second = (WEIGHTINGS[name](TASKS) for _ in range(3))
    expected = run(straight, range(14))[8:]
    run(first, range(8))
    second.load_state_dict(first.state_dict())
    assert run(second, range(8, 14)) == expected


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("pcgrad", {"accumulate": 2}, "cannot go with --accumulate"),
        ("cagrad", {"processes": 2}, "cannot go with several processes"),
        ("gradnorm", {"precision": "fp16"}, "cannot go with --precision fp16"),
        ("pcgrad", {"compiled": True}, "cannot go with --compile"),
        ("famo", {"accumulate": 2}, "cannot go with --accumulate"),
        ("dwa", {"tasks": ("depth",)}, "this network has only depth"),
    ],
)
def test_what_does_not_go_together_is_refused(name: str, change: dict[str, object], reason: str) -> None:
    plain = {"tasks": TASKS, "accumulate": 1, "processes": 1, "precision": "bf16", "compiled": False}
    check_combination(name, **plain)  # type: ignore[arg-type]
    check_combination("fixed", **(plain | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=reason):
        check_combination(name, **(plain | change))  # type: ignore[arg-type]
