"""How the losses of several tasks become one step.

    fixed         Σ L_t                                                      (equation 9 of the paper)
    uncertainty   Kendall et al., CVPR 2018: learned variances
    dwa           Liu et al., "End-to-End Multi-Task Learning with Attention", CVPR 2019: by the rate of descent
    famo          Liu et al., "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023; one more forward pass a step
    gradnorm      Chen et al., ICML 2018: gradients of like size
    pcgrad        Yu et al., NeurIPS 2020: conflicting gradients are projected
    cagrad        Liu et al., NeurIPS 2021: the direction that helps the worst task

The L_t here are the losses times the fixed weights of `--loss-weights` and `--auxiliary-weights`: those come first,
whatever is chosen. The first four need one backward pass for all tasks. The last three need the gradient of every
task, a backward pass for each, and do not go together with gradient accumulation, fp16 or
torch.compile (`check_combination`). All state is in buffers, so `state_dict` holds everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Weighting(nn.Module):
    """Fixed weights, and what the others do differently.

    Attributes:
        per_task_gradients: `combine` is called, not `weights`.
        looks_again: `after_step` wants the losses of the same batch after the step too.
        whole_batch: `weights` must see the losses of a whole batch, not of a part.
    """

    per_task_gradients = False
    looks_again = False
    whole_batch = False

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def weights(self, losses: Tensor) -> Tensor:
        """Weights [T] of the losses [T] (values only) in the step's total."""
        return torch.ones_like(losses)

    def combine(self, gradients: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        """From the gradients [T, P] of the shared parameters: the gradient [P] to step along, and the weights [T] for
        the gradients of each task's own parameters."""
        raise NotImplementedError

    def after_step(self, losses: Tensor, again: Tensor | None = None) -> None:
        """Learns from the losses [T] before the step, and with `looks_again` from those after it."""

    def end_epoch(self) -> None:
        """Is called after the last step of an epoch."""


class _Learned(Weighting):
    """A weighting with a number per task that Adam moves at a constant learning rate."""

    lr: float
    value: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor

    def __init__(self, tasks: Sequence[str], start: float) -> None:
        super().__init__(tasks)
        self.register_buffer("value", torch.full((len(tasks),), start))
        for moment in ("first", "second"):
            self.register_buffer(moment, torch.zeros(len(tasks)))
        self.register_buffer("steps", torch.zeros(()))

    def move(self, gradient: Tensor) -> None:
        """One step of Adam (β 0.9 and 0.999, ε 1e-8)."""
        self.steps += 1
        self.first.lerp_(gradient, 0.1)
        self.second.lerp_(gradient.square(), 0.001)
        first, second = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        self.value -= self.lr * first / (second.sqrt() + 1e-8)


class Uncertainty(_Learned):
    """Σ exp(-s_t) L_t + k_t s_t, with learned s_t from 0.

    For cross-entropies s = log σ², k = 1/2 (equation 10 there); for L1 losses the likelihood is Laplace's with scale
    b, so s = log b, k = 1.
    """

    lr = 1e-3

    slope: Tensor

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks, 0.0)
        slope = torch.tensor([0.5 if task in ("segmentation", "edges") else 1.0 for task in tasks])
        self.register_buffer("slope", slope, persistent=False)

    def weights(self, losses: Tensor) -> Tensor:
        return (-self.value).exp()

    def after_step(self, losses: Tensor, again: Tensor | None = None) -> None:
        # A task without a loss, since nothing of it is labelled or its weight is 0, would be weighted more and more, up
        # to infinity.
        self.move(torch.where(losses > 0, self.slope - (-self.value).exp() * losses, 0.0))


class DynamicWeightAverage(Weighting):
    """Weights T softmax(r_t / 2), where r_t is the task's mean loss of the last epoch over that of the one before
    (equation 7 there); 1 in the first two epochs."""

    temperature = 2.0
    means: Tensor
    total: Tensor
    steps: Tensor
    epochs: Tensor

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.register_buffer("means", torch.zeros(2, len(tasks)))  # of the last two epochs, the older first
        self.register_buffer("total", torch.zeros(len(tasks)))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("epochs", torch.zeros(()))

    def weights(self, losses: Tensor) -> Tensor:
        older, newer = self.means
        if self.epochs < 2:
            return torch.ones_like(losses)
        ratio = torch.where(older > 0, newer / older.clamp(min=1e-12), 1.0)
        return len(self.tasks) * (ratio / self.temperature).softmax(0)

    def after_step(self, losses: Tensor, again: Tensor | None = None) -> None:
        self.total += losses
        self.steps += 1

    def end_epoch(self) -> None:
        self.means = torch.stack([self.means[1], self.total / self.steps])
        self.total, self.steps = torch.zeros_like(self.total), torch.zeros_like(self.steps)
        self.epochs += 1


class FAMO(_Learned):
    """Descends Σ z_t log L_t with z = softmax(w), where w gives more to tasks whose loss fell less (algorithm 1 there).

    The weights z_t / L_t are scaled to a sum of T (there: 1), so that a learning rate means what it does with fixed
    weights. A task with a loss of 0 takes no part in the step. The second forward pass also moves the running means of
    batch normalisation, as in the authors' code.
    """

    lr = 0.025
    decay = 1e-3
    looks_again = True
    whole_batch = True

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks, 0.0)

    def weights(self, losses: Tensor) -> Tensor:
        share = torch.where(losses == 0, 0.0, self.value.softmax(0) / losses.clamp(min=1e-8))
        share = torch.where(losses.isnan(), losses, share)  # clamp would hide it
        return len(self.tasks) * share / share.sum().clamp(min=1e-12)

    def after_step(self, losses: Tensor, again: Tensor | None = None) -> None:
        assert again is not None
        fell = losses.clamp(min=1e-8).log() - again.clamp(min=1e-8).log()
        fell = torch.where((losses == 0) | (again == 0), 0.0, fell)
        z = self.value.softmax(0)
        self.move(z * (fell - (z * fell).sum()) + self.decay * self.value)


# --------------------------------------------------------------------------------- a gradient for each task


class GradNorm(_Learned):
    """Learned weights w_t (of sum T) that bring w_t |g_t| to their mean times (inverse training rate)^1.5.

    |g_t| is taken over all shared parameters, where the paper takes the last shared layer. In the weights' own loss
    Σ | w_t |g_t| - target_t | the target is a constant, so no second derivative is needed.
    """

    per_task_gradients = True
    lr = 0.025
    alpha = 1.5
    at_start: Tensor

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks, 1.0)
        self.register_buffer("at_start", torch.zeros(len(tasks)))

    def combine(self, gradients: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        # A task that had nothing to learn from in the first step starts when it first has.
        self.at_start = torch.where(self.at_start > 0, self.at_start, losses)
        weights = self.value.clone()
        norms = gradients.norm(dim=1)
        rate = torch.where(self.at_start > 0, losses / self.at_start.clamp(min=1e-12), 1.0)
        target = (weights * norms).mean() * (rate / rate.mean().clamp(min=1e-12)) ** self.alpha
        self.move((weights * norms - target).sign() * norms)
        self.value.clamp_(min=1e-3)
        self.value *= len(self.tasks) / self.value.sum()
        return weights @ gradients, weights


class PCGrad(Weighting):
    """Each task's gradient loses its component against every other task's (in random order) that it conflicts with;
    then their sum (algorithm 1 there)."""

    per_task_gradients = True

    def combine(self, gradients: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        projected = gradients.clone()
        for i in range(len(gradients)):
            for j in torch.randperm(len(gradients)).tolist():
                along = projected[i] @ gradients[j]
                if j != i and along < 0:
                    projected[i] -= along / gradients[j].square().sum() * gradients[j]
        return projected.sum(dim=0), torch.ones_like(losses)


class CAGrad(Weighting):
    """The direction d within c |g0| of the mean gradient g0 whose worst task gains most: d = g0 + c |g0| g_w / |g_w|,
    where g_w = Σ w_t g_t / T and w on the simplex minimises g_w · g0 + c |g0| |g_w| (algorithm 1 there).

    d is multiplied by T, so that c = 0 is the plain sum.
    """

    per_task_gradients = True
    c = 0.4

    def combine(self, gradients: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        tasks = len(gradients)
        products = (gradients @ gradients.T).double().cpu()  # [T, T]
        mean = torch.full((tasks,), 1 / tasks, dtype=torch.float64)
        radius = self.c * (mean @ products @ mean).clamp(min=0).sqrt()

        def objective(w: Tensor) -> Tensor:
            return w @ products @ mean + radius * (w @ products @ w).clamp(min=0).sqrt()

        w = minimise_on_simplex(objective, tasks)
        length = (w @ products @ w).clamp(min=0).sqrt()
        # At length 0 the gradients cancel: there is no direction in which all gain.
        share = mean + (radius / length * w if length > 1e-12 else torch.zeros_like(w))
        return (tasks * share).to(gradients) @ gradients, torch.ones_like(losses)


def minimise_on_simplex(objective: Callable[[Tensor], Tensor], size: int, rounds: int = 20) -> Tensor:
    """Weights ≥ 0 of sum 1 at the minimum of a convex function: by turns for each pair, the best way to share what
    the two have."""
    w = torch.full((size,), 1 / size, dtype=torch.float64)
    for _ in range(rounds if size > 2 else 1):
        for i in range(size):
            for j in range(i):
                w = _minimise_on_line(objective, w, i, j)
    return w


def _minimise_on_line(objective: Callable[[Tensor], Tensor], w: Tensor, i: int, j: int, narrowings: int = 60) -> Tensor:
    """The best w in which only w_i and w_j change and their sum stays, by golden-section search over w_i."""
    total = float(w[i] + w[j])

    def at(x: float) -> Tensor:
        out = w.clone()
        out[i], out[j] = x, total - x
        return out

    golden = (5**0.5 - 1) / 2
    low, high = 0.0, total
    a, b = high - golden * (high - low), low + golden * (high - low)
    value_a, value_b = objective(at(a)), objective(at(b))
    for _ in range(narrowings):
        if value_a <= value_b:
            high, b, value_b = b, a, value_a
            a = high - golden * (high - low)
            value_a = objective(at(a))
        else:
            low, a, value_a = a, b, value_b
            b = low + golden * (high - low)
            value_b = objective(at(b))
    return at((low + high) / 2)


def backward_per_task(losses: Tensor, weighting: Weighting, parameters: Sequence[nn.Parameter]) -> None:
    """Sets the gradient of every parameter. Shared are those that more than one task reaches.

    Args:
        losses: [T], with their graph.
    """
    last = len(losses) - 1
    gradients = [
        torch.autograd.grad(loss, parameters, retain_graph=t < last, allow_unused=True)
        for t, loss in enumerate(losses.unbind())
    ]
    reached = [sum(g[i] is not None for g in gradients) for i in range(len(parameters))]
    shared = [p for p, n in zip(parameters, reached, strict=True) if n > 1]
    rows = [
        torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten()
                for p, g, n in zip(parameters, of_task, reached, strict=True)
                if n > 1
            ]
        )
        for of_task in gradients
    ]
    combined, weights = weighting.combine(torch.stack(rows), losses.detach())
    for parameter, part in zip(shared, combined.split_with_sizes([p.numel() for p in shared]), strict=True):
        parameter.grad = part.view(parameter.shape).clone(memory_format=torch.preserve_format)
    for i, parameter in enumerate(parameters):
        for weight, of_task in zip(weights, gradients, strict=True):
            own = of_task[i]
            if reached[i] == 1 and own is not None:
                parameter.grad = weight * own


# -------------------------------------------------------------------------------------------------- choosing

WEIGHTINGS: dict[str, type[Weighting]] = {
    "fixed": Weighting,
    "uncertainty": Uncertainty,
    "dwa": DynamicWeightAverage,
    "famo": FAMO,
    "gradnorm": GradNorm,
    "pcgrad": PCGrad,
    "cagrad": CAGrad,
}


def check_combination(
    name: str, tasks: Sequence[str], *, accumulate: int, processes: int, precision: str, compiled: bool
) -> None:
    """Refuses what a weighting cannot be combined with.

    Raises:
        ValueError: with the reason in one line.
    """
    kind = WEIGHTINGS[name]
    if name != "fixed" and len(tasks) < 2:
        raise ValueError(f"--weighting {name} balances several tasks; this network has only {', '.join(tasks)}")
    if kind.whole_batch and accumulate > 1:
        raise ValueError(f"--weighting {name} needs the losses of the whole batch; it cannot go with --accumulate")
    wrong = {
        "--accumulate": accumulate > 1,
        "several processes": processes > 1,
        "--precision fp16": precision == "fp16",
        "--compile": compiled,
    }
    found = [what for what, is_so in wrong.items() if is_so]
    if kind.per_task_gradients and found:
        raise ValueError(f"--weighting {name} needs a gradient per task; it cannot go with {found[0]}")
