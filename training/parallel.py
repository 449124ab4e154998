"""Several processes that train as one: what they agree on, and batch normalisation over the batch of all of them.

`torchrun` starts them. Without it there is one process, and every function here hands back what it was given.

On several machines start each torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, so that after the loss of a worker
the new processes meet in a store of their own; on one machine `start` sees to that.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

MOST_LOADERS = 8
"""Each keeps two batches ahead, and costs some hundred MB."""


def usable_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        ValueError: there is no such device, or PyTorch cannot compute on it here; the message is one line.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {' '.join(str(error).split())[:200]}") from None
    return device


def start(device: str) -> torch.device:
    """Joins the other processes, if torchrun started several; the device that this one works on.

    Raises:
        ValueError: as `usable_device`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return usable_device(device)
    if device.startswith("cuda"):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    own = usable_device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    timeout = timedelta(hours=2)  # while the first process measures on the validation pictures, the others wait for it
    store, number, processes = next(rendezvous("env://", timeout=timeout))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(processes):
        # torchrun keeps one store over all restarts; in it are the addresses of processes that are no more.
        store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "nccl" if own.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=processes, timeout=timeout)
    return own


def loaders(device: torch.device) -> int:
    """How many processes are to load pictures for this one. A CPU has its cores for the network, and two keep up with
    it; one GPU takes more than two bring, and those of a machine share its cores."""
    if device.type != "cuda":
        return 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, min(MOST_LOADERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def finish() -> None:
    """Leaves the other processes, when all is done."""
    if count() > 1:
        dist.destroy_process_group()


def count() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; 0 writes the files."""
    return dist.get_rank() if count() > 1 else 0


def mean(x: Tensor) -> Tensor:
    """The mean of `x` over the processes; no gradient."""
    if count() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total / count()


def anyone(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process."""
    return flag if count() == 1 else mean(torch.tensor(float(flag), device=device)).item() > 0


def gather(x: Tensor, device: torch.device) -> Tensor:
    """`x` (on the CPU) of every process: [processes, *x.shape]."""
    if count() == 1:
        return x[None]
    parts = [torch.empty_like(x, device=device) for _ in range(count())]
    dist.all_gather(parts, x.to(device))
    return torch.stack(parts).cpu()


def gather_names(names: list[str]) -> list[str]:
    """The names of all processes."""
    if count() == 1:
        return names
    parts: list[list[str]] = [[] for _ in range(count())]
    dist.all_gather_object(parts, names)
    return [name for part in parts for name in part]


# ---------------------------------------------------------------------------------------- batch normalisation


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> None:
    """Lets batch normalisation see the batch of all processes: torch's own on CUDA, the one below on the CPU."""
    if count() == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with mean and variance over all processes, each of which has as many pictures; torch's
    works on CUDA only. Same parameters, same names."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))  # half precision is too coarse for sums
        over = (0, 2, 3)
        mean: Tensor = _Sum.apply(x.mean(over)) / count()  # type: ignore[no-untyped-call]
        centred = x - mean[:, None, None]
        variance: Tensor = _Sum.apply(centred.square().mean(over)) / count()  # type: ignore[no-untyped-call]
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        values = count() * x.numel() // x.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * values / (values - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


class _Sum(torch.autograd.Function):
    """Sum over the processes; so is its gradient, for what one process makes of the sum is part of the loss of all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
