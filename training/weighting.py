"""How the losses of several tasks become one step.

    fixed         Σ L_t                                                      (equation 9 of the paper)
    uncertainty   Kendall et al., CVPR 2018: learned variances
    dwa           Liu et al., "End-to-End Multi-Task Learning with Attention", CVPR 2019: by the rate of descent
    famo          Liu et al., "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023; one more forward pass a step
    rlw           Lin et al., "Reasonable Effectiveness of Random Weighting", TMLR 2022: drawn anew for every step
    gradnorm      Chen et al., ICML 2018: gradients of like size
    mgda          Sener and Koltun, "... as Multi-Objective Optimization", NeurIPS 2018: the shortest mean
    pcgrad        Yu et al., NeurIPS 2020: conflicting gradients are projected
    imtl_g        Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021: no task's gradient is favoured
    cagrad        Liu et al., NeurIPS 2021: the direction that helps the worst task
    nash_mtl      Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022
    aligned_mtl   Senushkin et al., "Independent Component Alignment", CVPR 2023: gradients made orthogonal

The L_t here are the losses times the fixed weights of `--loss-weights` and `--auxiliary-weights`: those come first,
whatever is chosen. FAMO, IMTL-G and Nash-MTL undo them, though, but for weights of 0 and for the length of steps (to
Adam nothing), and so do in time what uncertainty and GradNorm learn.

The first five need one backward pass for all tasks. The others need the gradient of every task, a backward pass for
each, and do not go together with gradient accumulation, several processes, fp16 or torch.compile (`check_combination`).
Each of those is a weighted sum of the gradients, whose weights follow from their scalar products. All state is in
buffers, so `state_dict` holds everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn


class Weighting(nn.Module):
    """Fixed weights, and what the others do differently.

    Attributes:
        constants: what `--weighting-options` can set, attributes of this name.
        per_task_gradients: `combine` is called, not `weights`.
        heads_too: what `combine` gives is for the parameters that one task has for itself, too.
        undoes_weights: The step of shared parameters has the same direction whatever fixed weights the losses have
            (but 0).
        looks_again: `after_step` wants the losses of the same batch after the step too, and `weights` those of a whole
            batch, not of a part.
    """

    constants: tuple[str, ...] = ()
    per_task_gradients = False
    heads_too = False
    undoes_weights = False
    looks_again = False

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def weights(self, losses: Tensor) -> Tensor:
        """Weights [T] of the losses [T] (values only) in the step's total."""
        return torch.ones_like(losses)

    def combine(self, products: Tensor, losses: Tensor) -> Tensor:
        """Weights [T] of the tasks' gradients of the shared parameters in their sum, from the scalar products [T, T]
        of these gradients (fp64, on the CPU) and the losses [T] (there, too)."""
        raise NotImplementedError

    def after_step(self, losses: Tensor, again: Tensor | None = None) -> None:
        """Learns from the losses [T] before the step, and with `looks_again` from those after it."""

    def end_epoch(self) -> None:
        """Is called after the last step of an epoch."""


class _Learned(Weighting):
    """A weighting with a number per task that Adam moves at a constant learning rate."""

    constants: tuple[str, ...] = ("lr",)
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

    constants = ("temperature",)
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

    constants = ("lr", "decay")
    lr = 0.025
    decay = 1e-3
    undoes_weights = True
    looks_again = True

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


class RandomWeights(Weighting):
    """Weights T softmax(x) with x from a normal distribution, drawn anew for every step.

    All processes and all parts of a batch have the same ones: they follow from the seed at the start and the step.
    """

    start: Tensor
    steps: Tensor

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.register_buffer("start", torch.randint(2**31, ()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def weights(self, losses: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(self.start + self.steps))
        return len(self.tasks) * torch.randn(len(self.tasks), generator=generator).softmax(0).to(losses)

    def after_step(self, losses: Tensor, again: Tensor | None = None) -> None:
        self.steps += 1


# --------------------------------------------------------------------------------- a gradient for each task


class GradNorm(_Learned):
    """Learned weights w_t (of sum T) that bring w_t |g_t| to their mean times (inverse training rate)^1.5.

    |g_t| is taken over all shared parameters, where the paper takes the last shared layer. In the weights' own loss
    Σ | w_t |g_t| - target_t | the target is a constant, so no second derivative is needed. A task without a gradient
    (of weight 0, or with nothing labelled) keeps its weight and takes no part in the others'.
    """

    constants = ("lr", "alpha")
    per_task_gradients = True
    heads_too = True
    lr = 0.025
    alpha = 1.5
    at_start: Tensor

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks, 1.0)
        self.register_buffer("at_start", torch.zeros(len(tasks)))

    def combine(self, products: Tensor, losses: Tensor) -> Tensor:
        norms, losses = (x.to(self.value) for x in (products.diagonal().sqrt(), losses))
        # A task that had nothing to learn from in the first step starts when it first has.
        self.at_start = torch.where(self.at_start > 0, self.at_start, losses)
        weights = self.value.clone()
        live = norms > 0
        if live.any():
            rate = torch.where(self.at_start > 0, losses / self.at_start.clamp(min=1e-12), 1.0)
            target = (weights * norms)[live].mean() * (rate / rate[live].mean().clamp(min=1e-12)) ** self.alpha
            self.move(torch.where(live, (weights * norms - target).sign() * norms, 0.0))
            self.value = torch.where(live, self.value.clamp(min=1e-3), weights)
            self.value[live] *= (len(self.tasks) - self.value[~live].sum()) / self.value[live].sum()
        return weights


class PCGrad(Weighting):
    """Each task's gradient loses its component against every other task's (in random order) that it conflicts with;
    then their sum (algorithm 1 there)."""

    per_task_gradients = True

    def combine(self, products: Tensor, losses: Tensor) -> Tensor:
        projected = torch.eye(len(products), dtype=products.dtype)  # each task's, as a sum of the gradients
        for i, mine in enumerate(projected):
            for j in torch.randperm(len(products)).tolist():
                along = mine @ products[j]
                if j != i and along < 0:
                    mine[j] -= along / products[j, j]
        return projected.sum(dim=0)


class CAGrad(Weighting):
    """The direction d within c |g0| of the mean gradient g0 whose worst task gains most: d = g0 + c |g0| g_w / |g_w|,
    where g_w = Σ w_t g_t / T and w on the simplex minimises g_w · g0 + c |g0| |g_w| (algorithm 1 there).

    d is multiplied by T, so that c = 0 is the plain sum.
    """

    constants = ("c",)
    per_task_gradients = True
    c = 0.4

    def combine(self, products: Tensor, losses: Tensor) -> Tensor:
        tasks = len(products)
        mean = torch.full((tasks,), 1 / tasks, dtype=products.dtype)
        radius = self.c * (mean @ products @ mean).clamp(min=0).sqrt()

        def objective(w: Tensor) -> Tensor:
            return w @ products @ mean + radius * (w @ products @ w).clamp(min=0).sqrt()

        w = minimise_on_simplex(objective, tasks)
        length = (w @ products @ w).clamp(min=0).sqrt()
        # At length 0 the gradients cancel: there is no direction in which all gain.
        return tasks * (mean + (radius / length * w if length > 1e-12 else torch.zeros_like(w)))


ROUNDING = 1e-6
"""Scalar products of gradients in fp32 are no more exact; what is smaller, beside the largest, is nothing."""


class _Balanced(Weighting):
    """Weights in a proportion that follows from the gradients' scalar products alone.

    A task without a gradient takes no part. The weights of the others are scaled to the sum of their number, so that a
    learning rate means what it does with fixed weights.
    """

    per_task_gradients = True

    def combine(self, products: Tensor, losses: Tensor) -> Tensor:
        some = products.diagonal() > 0
        weights = torch.zeros(len(products), dtype=products.dtype)
        if some.any():
            found = self.proportion(products[some][:, some])
            # Of imtl_g the sum can be negative, and to divide by it would lead uphill.
            weights[some] = found * len(found) / found.sum().abs().clamp(min=1e-12)
        return weights

    def proportion(self, products: Tensor) -> Tensor:
        """Weights of any sum from the scalar products of gradients none of which is 0."""
        raise NotImplementedError


def _norms_and_cosines(products: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths n [T] and cosines C [T, T] of the gradients."""
    norms = products.diagonal().sqrt()
    return norms, products / norms.outer(norms)


class MGDA(_Balanced):
    """The shortest gradient that is a mean of the tasks': the w on the simplex that minimises |Σ w_t g_t| (equation 3
    there). The gradients are taken as they are, so the task with the smallest has the largest say."""

    def proportion(self, products: Tensor) -> Tensor:
        return minimise_on_simplex(lambda w: w @ products @ w, len(products))


class IMTLG(_Balanced):
    """The sum whose projections on all the gradients' directions are equal (equation 5 there): C (n w) ∝ 1.

    This is the part of IMTL for the shared parameters; the one for the losses' scales, IMTL-L, is not.
    """

    undoes_weights = True

    def proportion(self, products: Tensor) -> Tensor:
        norms, cosines = _norms_and_cosines(products)
        # Parallel gradients have many solutions, of which the pseudo-inverse gives the one that treats them alike.
        inverse: Tensor = torch.linalg.pinv(cosines, hermitian=True, rtol=ROUNDING)
        return inverse.sum(dim=1) / norms


class NashMTL(_Balanced):
    """The bargaining solution Gᵀ G w = 1 / w (claim 3.1 there): in x = n w it is C x = 1 / x, where
    x C x / 2 - Σ log x is least. The weights are for each task's own layers too, as in the authors' code."""

    undoes_weights = True
    heads_too = True

    def proportion(self, products: Tensor) -> Tensor:
        norms, cosines = _norms_and_cosines(products)
        cosines = cosines + 1e-9 * torch.eye(len(norms), dtype=cosines.dtype)  # opposite ones have no solution
        x = torch.ones_like(norms)
        for _ in range(200):
            slope = cosines @ x - 1 / x
            step = torch.linalg.solve(cosines + torch.diag(x**-2), slope)
            decrement = (slope @ step).clamp(min=0).sqrt()
            x = x - step / (1 + decrement)  # Newton's, shortened as a self-concordant function allows: x stays positive
            if decrement < 1e-9:
                break
        return x / norms


class AlignedMTL(_Balanced):
    """The sum of the gradients after the nearest change that makes them orthogonal and of one length:
    w = V Λ^(-1/2) Vᵀ 1 with the eigenvalues and vectors of Gᵀ G (algorithm 1 there, all tasks preferred alike)."""

    def proportion(self, products: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(products)
        kept = values > ROUNDING * values[-1]
        found: Tensor = vectors[:, kept] @ (vectors[:, kept].sum(dim=0) / values[kept].sqrt())
        return found


def minimise_on_simplex(objective: Callable[[Tensor], Tensor], size: int, rounds: int = 20) -> Tensor:
    """Weights ≥ 0 of sum 1 at the minimum of a convex function: by turns for each pair, the best way to share what
    the two have."""
    w = torch.full((size,), 1 / size, dtype=torch.float64)
    for _ in range(rounds if size > 2 else 1):
        before = w
        for i in range(size):
            for j in range(i):
                w = _minimise_on_line(objective, w, i, j)
        if (w - before).abs().max() < 1e-9:
            break
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


def backward_per_task(losses: Sequence[Tensor], weighting: Weighting, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Sets the gradient of every parameter. Shared are those that more than one task reaches.

    Args:
        losses: of the T tasks, each with its own graph: in one tensor every loss would reach all parameters.

    Returns:
        The weights [T] of the tasks' gradients of the shared parameters.
    """
    last = len(losses) - 1
    gradients = [
        torch.autograd.grad(loss, parameters, retain_graph=t < last, allow_unused=True) for t, loss in enumerate(losses)
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
    stacked = torch.stack(rows)
    products = torch.stack([stacked.mv(row) for row in stacked]).double().cpu()  # mv: never in TF32
    weights = weighting.combine(products, torch.stack([loss.detach() for loss in losses]).double().cpu()).to(stacked)
    combined = weights @ stacked
    for parameter, part in zip(shared, combined.split_with_sizes([p.numel() for p in shared]), strict=True):
        parameter.grad = part.view(parameter.shape).clone(memory_format=torch.preserve_format)
    for i, parameter in enumerate(parameters):
        for weight, of_task in zip(weights, gradients, strict=True):
            own = of_task[i]
            if reached[i] == 1 and own is not None:
                parameter.grad = weight * own if weighting.heads_too else own
    return weights


# -------------------------------------------------------------------------------------------------- choosing

WEIGHTINGS: dict[str, type[Weighting]] = {
    "fixed": Weighting,
    "uncertainty": Uncertainty,
    "dwa": DynamicWeightAverage,
    "famo": FAMO,
    "rlw": RandomWeights,
    "gradnorm": GradNorm,
    "mgda": MGDA,
    "pcgrad": PCGrad,
    "imtl_g": IMTLG,
    "cagrad": CAGrad,
    "nash_mtl": NashMTL,
    "aligned_mtl": AlignedMTL,
}


def make_weighting(name: str, tasks: Sequence[str], constants: Mapping[str, float]) -> Weighting:
    """The weighting `name` with other constants than its own.

    Raises:
        ValueError: it has no such constant, or cannot have this value; one line.
    """
    weighting = WEIGHTINGS[name](tasks)
    for constant, value in constants.items():
        if constant not in weighting.constants:
            known = ", ".join(weighting.constants) or "none"
            raise ValueError(f"--weighting-options: {name} has no {constant} (it has: {known})")
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        if not number or (constant == "temperature" and value == 0):
            raise ValueError(f"--weighting-options: {constant} cannot be {value!r}")
        setattr(weighting, constant, float(value))
    return weighting


def check_combination(
    name: str,
    tasks: Sequence[str],
    *,
    accumulate: int,
    processes: int,
    precision: str,
    compiled: bool,
    frozen: bool = False,
) -> None:
    """Refuses what a weighting cannot be combined with.

    Raises:
        ValueError: with the reason in one line.
    """
    kind = WEIGHTINGS[name]
    if name != "fixed" and len(tasks) < 2:
        raise ValueError(f"--weighting {name} balances several tasks; this network has only {', '.join(tasks)}")
    if kind.looks_again and accumulate > 1:
        raise ValueError(f"--weighting {name} needs the losses of the whole batch; it cannot go with --accumulate")
    wrong = {
        "--accumulate": accumulate > 1,
        "several processes": processes > 1,
        "--precision fp16": precision == "fp16",
        "--compile": compiled,
        "--freeze": frozen,  # a task may then reach no parameter
    }
    found = [what for what, is_so in wrong.items() if is_so]
    if kind.per_task_gradients and found:
        raise ValueError(f"--weighting {name} needs a gradient per task; it cannot go with {found[0]}")
