"""Loss weighting: steps worked by hand, and state that comes back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from training.weighting import (
    FAMO,
    IMTLG,
    MGDA,
    WEIGHTINGS,
    AlignedMTL,
    CAGrad,
    DynamicWeightAverage,
    GradNorm,
    NashMTL,
    PCGrad,
    RandomWeights,
    Uncertainty,
    Weighting,
    backward_per_task,
    check_combination,
    make_weighting,
    minimise_on_simplex,
)

TASKS = ("segmentation", "depth")


def combined(weighting: Weighting, gradients: list[list[float]], losses: tuple[float, ...] = (1.0, 1.0)) -> list[float]:
    """The sum of the gradients [T, P] that the weighting makes."""
    g = torch.tensor(gradients, dtype=torch.float64)
    return (weighting.combine(g @ g.T, torch.tensor(losses).double()).double() @ g).tolist()


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


def test_random_weights_are_drawn_for_each_step() -> None:
    torch.manual_seed(0)
    weighting, other = RandomWeights(TASKS), RandomWeights(TASKS)
    drawn = []
    for _ in range(2000):
        drawn.append(weighting.weights(torch.ones(2)))
        # The parts of a batch have the same ones.
        assert weighting.weights(torch.ones(2)).tolist() == drawn[-1].tolist()
        weighting.after_step(torch.ones(2))
    assert other.weights(torch.ones(2)).tolist() != drawn[0].tolist()
    every = torch.stack(drawn)
    assert every.sum(dim=1).tolist() == pytest.approx([2.0] * 2000)
    assert every.mean(dim=0).tolist() == pytest.approx([1.0, 1.0], abs=0.05)
    # log(w1 / w2) is the difference of two normal numbers.
    assert (every[:, 0] / every[:, 1]).log().std().item() == pytest.approx(math.sqrt(2), rel=0.05)


def test_gradnorm_brings_gradients_to_like_size() -> None:
    weighting = GradNorm(TASKS)
    gradients = [[3.0, 4.0], [0.0, 1.0]]
    assert combined(weighting, gradients, (1.0, 2.0)) == [3.0, 5.0]
    # At the start all rates are 1 and the target is the mean norm 3: the first is above it, the second below.
    assert weighting.value.tolist() == pytest.approx([0.975, 1.025], rel=1e-5)
    assert combined(weighting, gradients) == pytest.approx([0.975 * 3, 0.975 * 4 + 1.025], rel=1e-5)
    assert weighting.value.sum().item() == pytest.approx(2.0)


def test_gradnorm_gives_more_to_a_task_that_learns_slowly() -> None:
    weighting = GradNorm(TASKS)
    weighting.at_start.fill_(1.0)
    # Norms 1.5 and 0.5, mean 1; rates 4 and 1 over their mean 2.5, so 1.6 and 0.4. The targets are
    # 1.6^1.5 = 2.02 and 0.4^1.5 = 0.25: the larger gradient is still too small, the smaller one too large.
    combined(weighting, [[1.5, 0.0], [0.0, 0.5]], (4.0, 1.0))
    assert weighting.value.tolist() == pytest.approx([1.025, 0.975], rel=1e-5)


def test_gradnorm_leaves_a_task_without_a_gradient_out() -> None:
    weighting = make_weighting("gradnorm", ("a", "b", "c"), {})
    for _ in range(300):
        products = torch.diag(torch.tensor([1.0, 0.0, 4.0]).double())
        used = weighting.combine(products, torch.tensor([2.0, 0.0, 2.0]).double())
    assert used[1] == 1 and used.sum().item() == pytest.approx(3)
    assert (used[0] / used[2]).item() == pytest.approx(2, rel=0.1)  # Of like size, as without it.
    alone = weighting.combine(torch.zeros(3, 3).double(), torch.zeros(3).double())
    assert alone.isfinite().all()


def test_gradnorm_keeps_the_sum_of_the_weights() -> None:
    weighting = GradNorm((*TASKS, "normals"))
    # Mean norm 2: one is above it, two are below, so that the steps by themselves add 0.025.
    combined(weighting, [[4.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], (1.0, 1.0, 1.0))
    expected = [0.975 * 3 / 3.025, 1.025 * 3 / 3.025, 1.025 * 3 / 3.025]
    assert weighting.value.tolist() == pytest.approx(expected, rel=1e-5)


def test_pcgrad_projects_only_what_conflicts() -> None:
    assert combined(PCGrad(TASKS), [[1.0, 0.0], [1.0, 1.0]]) == [2.0, 1.0]
    # g1 - (g1·g2 / |g2|²) g2 = (1/2, 1/2);  g2 - (g2·g1 / |g1|²) g1 = (0, 1).
    assert combined(PCGrad(TASKS), [[1.0, 0.0], [-1.0, 1.0]]) == pytest.approx([0.5, 1.5])


def test_pcgrad_projects_what_is_left_of_three() -> None:
    gradients = [[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        seen.add(tuple(round(x, 6) for x in combined(PCGrad((*TASKS, "normals")), gradients, (1.0, 1.0, 1.0))))

    # g1: past g2 it is (1/2, 1/2, 0), and past g3 then (1/2, 1/4, 1/4); with g3 first it stays (1/2, 1/2, 0).
    # g2: past g1 it is (0, 1, 0), past g3 then (0, 1/2, 1/2); with g3 first (-1, 1/2, 1/2), past g1 then the same.
    # g3: past g2 it is (-1/2, -1/2, 1), and past g1 then (0, -1/2, 1); with g1 first it stays (-1/2, -1/2, 1).
    firsts, second, thirds = ((0.5, 0.5, 0), (0.5, 0.25, 0.25)), (0, 0.5, 0.5), ((-0.5, -0.5, 1), (0, -0.5, 1))
    assert seen == {
        tuple(sum(parts) for parts in zip(first, second, third, strict=True)) for first in firsts for third in thirds
    }


def test_cagrad_of_orthogonal_gradients() -> None:
    # By symmetry w = (1/2, 1/2), so that d is the mean, longer by c.
    assert combined(CAGrad(TASKS), [[1.0, 0.0], [0.0, 1.0]]) == pytest.approx([1.4, 1.4], rel=1e-5)


def test_cagrad_maximises_the_worst_gain_within_its_circle() -> None:
    gradients = torch.tensor([[4.0, 0.0], [-1.0, 1.0]])
    d = torch.tensor(combined(CAGrad(TASKS), gradients.tolist())) / 2
    g0 = gradients.mean(dim=0)
    radius = 0.4 * g0.norm()
    assert (d - g0).norm().item() == pytest.approx(radius.item(), rel=1e-4)
    angles = torch.linspace(0, 2 * math.pi, 2001)
    circle = g0 + radius * torch.stack([angles.cos(), angles.sin()], dim=1)
    best = (circle @ gradients.T).min(dim=1).values.max()
    assert (gradients @ d).min().item() == pytest.approx(best.item(), abs=1e-4)


def test_mgda_takes_the_shortest_mean() -> None:
    # Of orthogonal gradients w is as 1 / |g|²: 1/5 of the longer and 4/5 of the shorter, times 2.
    assert combined(MGDA(TASKS), [[2.0, 0.0], [0.0, 1.0]]) == pytest.approx([0.8, 1.6], rel=1e-5)
    # Where the shortest is at a corner, it is that task's gradient alone.
    assert combined(MGDA(TASKS), [[1.0, 0.0], [3.0, 0.1]]) == pytest.approx([2.0, 0.0], abs=1e-5)


def test_imtl_g_projects_alike_on_every_gradient() -> None:
    gradients = torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [-0.2, 0.3, 0.5]], dtype=torch.float64)
    d = torch.tensor(combined(IMTLG((*TASKS, "normals")), gradients.tolist(), (1.0, 1.0, 1.0)), dtype=torch.float64)
    along = (gradients / gradients.norm(dim=1, keepdim=True)) @ d
    assert along.tolist() == pytest.approx([along[0].item()] * 3) and along[0] > 0
    # Of parallel ones: as much of the one as of the other, so 2/3 of the shorter and 1/3 of the longer, times 2.
    assert combined(IMTLG(TASKS), [[1.0, 0.0], [2.0, 0.0]]) == pytest.approx([8 / 3, 0.0])


def test_imtl_g_never_leads_uphill() -> None:
    # Its weights here are of a negative sum.
    gradients = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.2, 0.0], [0.001, 0.0, 0.0001]], dtype=torch.float64)
    d = torch.tensor(combined(IMTLG((*TASKS, "normals")), gradients.tolist(), (1.0, 1.0, 1.0)), dtype=torch.float64)
    assert (gradients @ d > 0).all()


def test_nash_mtl_solves_its_bargain() -> None:
    gradients = torch.tensor([[3.0, 0.0, 1.0], [-1.0, 1.0, 0.0], [0.0, 0.2, -0.4]], dtype=torch.float64)
    products = gradients @ gradients.T
    w = NashMTL((*TASKS, "normals")).combine(products, torch.ones(3))
    # G'G w = k / w with the same k for all, and the sum is 3.
    bargain = w * (products @ w)
    assert bargain.tolist() == pytest.approx([bargain[0].item()] * 3, rel=1e-5) and (w > 0).all()
    assert w.sum().item() == pytest.approx(3.0)
    # Of orthogonal gradients each counts as 1 / |g|.
    assert combined(NashMTL(TASKS), [[4.0, 0.0], [0.0, 1.0]]) == pytest.approx([1.6, 1.6])


def test_aligned_mtl_makes_gradients_orthogonal() -> None:
    # By hand: of orthogonal gradients each counts as 1 / |g|.
    assert combined(AlignedMTL(TASKS), [[4.0, 0.0], [0.0, 1.0]]) == pytest.approx([1.6, 1.6])
    gradients = torch.tensor([[3.0, 0.0, 1.0], [-1.0, 1.0, 0.0]], dtype=torch.float64)
    d = torch.tensor(combined(AlignedMTL(TASKS), gradients.tolist()), dtype=torch.float64)
    # The nearest matrix with orthonormal rows (polar decomposition), whose sum has that direction.
    u, _, vh = torch.linalg.svd(gradients, full_matrices=False)
    expected = (u @ vh).sum(dim=0)
    assert (d / d.norm()).tolist() == pytest.approx((expected / expected.norm()).tolist())
    # Two that are parallel have one direction.
    assert combined(AlignedMTL(TASKS), [[1.0, 0.0], [1.0, 0.0]]) == pytest.approx([2.0, 0.0])


BALANCING = [name for name, kind in WEIGHTINGS.items() if kind.per_task_gradients]


@pytest.mark.parametrize("name", BALANCING)
def test_gradients_that_cancel_give_no_step(name: str) -> None:
    found = combined(WEIGHTINGS[name](TASKS), [[1.0, 0.0], [-1.0, 0.0]])
    assert found == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("name", BALANCING)
def test_a_task_without_a_gradient_leaves_the_other_alone(name: str) -> None:
    (x, y) = combined(WEIGHTINGS[name](TASKS), [[3.0, -1.0], [0.0, 0.0]], (1.0, 0.0))
    assert x > 0 and math.isfinite(x) and y == pytest.approx(-x / 3)
    assert combined(WEIGHTINGS[name](TASKS), [[0.0, 0.0], [0.0, 0.0]], (0.0, 0.0)) == [0.0, 0.0]


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

    def losses(self, x: torch.Tensor) -> list[torch.Tensor]:
        h = self.shared(x).relu()
        return [self.a(h).square().mean(), (self.b(h) - 1).abs().mean()]


def test_one_backward_pass_per_task_with_equal_weights_is_the_plain_gradient() -> None:
    torch.manual_seed(0)
    net, x = TwoHeads(), torch.randn(5, 3)
    parameters = list(net.parameters())
    expected = torch.autograd.grad(sum(net.losses(x)), parameters)
    backward_per_task(net.losses(x), GradNorm(TASKS), parameters)
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("name", BALANCING)
def test_heads_keep_their_own_gradient(name: str) -> None:
    """But for GradNorm, whose weights are the losses', and Nash-MTL, as its authors' code has it."""
    torch.manual_seed(0)
    net, x = TwoHeads(), torch.randn(5, 3)
    weighting = WEIGHTINGS[name](TASKS)
    if name == "gradnorm":
        weighting.value.copy_(torch.tensor([0.5, 1.5]))
    weights = backward_per_task(net.losses(x), weighting, list(net.parameters()))
    assert name != "gradnorm" or weights.tolist() == [0.5, 1.5]
    own = weights[1] if name in ("gradnorm", "nash_mtl") else 1.0
    expected = torch.autograd.grad(net.losses(x)[1] * own, list(net.b.parameters()))
    for parameter, gradient in zip(net.b.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    shared = torch.autograd.grad(torch.stack(net.losses(x)) @ weights, list(net.shared.parameters()))
    for parameter, gradient in zip(net.shared.parameters(), shared, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_state_comes_back(name: str) -> None:
    def run(weighting: Weighting, steps: range) -> list[list[float]]:
        out = []
        for i in steps:
            losses = torch.tensor([1.0, 2.0]) / (1 + i * torch.tensor([1.0, 0.2]))
            if weighting.per_task_gradients:
                gradients = torch.tensor([[1.0, -2.0], [3.0, 1.0]]) * losses
                out.append(weighting.combine((gradients @ gradients.T).double(), losses.double()).tolist())
            else:
                out.append(weighting.weights(losses).tolist())
            weighting.after_step(losses, losses * 0.9 if weighting.looks_again else None)
            if i % 3 == 2:
                weighting.end_epoch()
        return out

    second = WEIGHTINGS[name](TASKS)
    torch.manual_seed(0)
    expected = run(WEIGHTINGS[name](TASKS), range(14))[8:]
    torch.manual_seed(0)
    first = WEIGHTINGS[name](TASKS)
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
        ("mgda", {"frozen": True}, "cannot go with --freeze"),
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


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_fixed_weights_are_undone_by_those_that_say_so(name: str) -> None:
    """What a step of the weighted losses does, without its length: the shares of the unweighted losses' gradients."""

    def shares(weights: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        weighting = WEIGHTINGS[name](TASKS)
        gradients = weights[:, None] * torch.tensor([[3.0, 0.4], [-1.0, 0.5]])
        losses = weights * torch.tensor([0.8, 2.0])
        if weighting.per_task_gradients:
            found = weighting.combine((gradients @ gradients.T).double(), losses.double())
        else:
            found = weighting.weights(losses)
        return (found * weights / (found * weights).sum()).float()

    same = torch.allclose(shares(torch.tensor([1.0, 1.0])), shares(torch.tensor([1.0, 5.0])), atol=1e-4)
    assert same == WEIGHTINGS[name].undoes_weights


def test_constants_are_what_the_weighting_has() -> None:
    weighting = make_weighting("cagrad", TASKS, {"c": 0})
    # Without its circle it is the plain sum.
    assert combined(weighting, [[4.0, 0.0], [-1.0, 1.0]]) == pytest.approx([3.0, 1.0])
    famo = make_weighting("famo", TASKS, {"lr": 0.1, "decay": 0})
    famo.after_step(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 3.0]))
    assert famo.value.tolist() == pytest.approx([-0.1, 0.1], rel=1e-5)  # type: ignore[operator]
    assert CAGrad(TASKS).c == 0.4 and FAMO(TASKS).lr == 0.025


@pytest.mark.parametrize(
    ("name", "constants", "reason"),
    [
        ("cagrad", {"alpha": 1.0}, r"cagrad has no alpha \(it has: c\)"),
        ("pcgrad", {"c": 1.0}, r"pcgrad has no c \(it has: none\)"),
        ("famo", {"tasks": 3}, r"famo has no tasks \(it has: lr, decay\)"),
        ("dwa", {"temperature": 0}, "temperature cannot be 0"),
        ("gradnorm", {"alpha": -1}, "alpha cannot be -1"),
        ("gradnorm", {"alpha": "1"}, "alpha cannot be '1'"),
        ("gradnorm", {"lr": True}, "lr cannot be True"),
        ("gradnorm", {"lr": float("nan")}, "lr cannot be nan"),
    ],
)
def test_other_constants_are_refused(name: str, constants: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_weighting(name, TASKS, constants)


def test_every_constant_changes_something() -> None:
    """Each is read from the weighting, not from its class."""

    def run(name: str, constants: dict[str, float]) -> list[float]:
        weighting = make_weighting(name, TASKS, constants)
        out: list[float] = []
        for i in range(4):
            losses = torch.tensor([1.0, 2.0]) / (1 + i * torch.tensor([1.0, 0.2]))
            if weighting.per_task_gradients:
                # Of lengths between the targets of two constants, so that the signs of GradNorm differ.
                out += combined(weighting, [[0.73, 0.0], [-0.5, 1.17]], tuple(losses.tolist()))
            else:
                out += weighting.weights(losses).tolist()
            weighting.after_step(losses, losses * 0.9 if weighting.looks_again else None)
            weighting.end_epoch()
        return out

    for name, kind in WEIGHTINGS.items():
        for constant in kind.constants:
            assert run(name, {constant: 0.7}) != run(name, {}), (name, constant)
