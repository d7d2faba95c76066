"""What objectives share when several processes train one model."""

import torch
import torch.distributed as dist
from torch import Tensor


def several_ranks() -> bool:
    """Whether several processes train one model."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank_of() -> int:
    """Of this process; 0 where it is alone."""
    return dist.get_rank() if several_ranks() else 0


class _Gather(torch.autograd.Function):
    """Concatenates the rows of all ranks; backward adds up what all ranks' losses say of this rank's rows."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        return everyones(rows)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        mine = gradient.new_empty(gradient.shape[0] // dist.get_world_size(), *gradient.shape[1:])
        dist.reduce_scatter(mine, list(gradient.contiguous().chunk(dist.get_world_size())))
        return mine


def gather(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, in the order of their ranks, and where this process's begin among them.

    (rows, width) -> (ranks * rows, width); every process brings equally many rows. The gradient flows to every process:
    what reaches the rows of rank s is the sum over all ranks r of d(loss of rank r) / d(rows of rank s). If each rank's
    loss is the mean over its own rows, the mean over the ranks of the parameters' gradients, which is what
    DistributedDataParallel leaves, is therefore the gradient of the mean over all rows: no factor is missing.
    `torch.distributed.all_gather` alone would drop the remote terms and train a different loss.
    """
    if not several_ranks():
        return rows, 0
    return _Gather.apply(rows), dist.get_rank() * rows.shape[0]


@torch.no_grad()
def everyones(rows: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks, without gradient: (n, …) -> (ranks * n, …). Every process brings equally many."""
    if not several_ranks():
        return rows
    everyone = rows.new_empty(dist.get_world_size() * rows.shape[0], *rows.shape[1:])
    dist.all_gather(list(everyone.chunk(dist.get_world_size())), rows.contiguous())
    return everyone


@torch.no_grad()
def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all processes of values that each has, without gradient. The device may wait for the others, the host does not."""
    if not several_ranks():
        return values
    total = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / dist.get_world_size()


def over_all_ranks(counts: Tensor) -> tuple[Tensor, int]:
    """Counts (k,) of this rank -> those of all ranks together, at least 1, and how many ranks there are.

    A sum over a rank's own symbols, times the ranks, divided by the count of all, is its part of the mean over all symbols, as
    DistributedDataParallel averages the gradients of the ranks.
    """
    ranks = dist.get_world_size() if several_ranks() else 1
    if ranks > 1:
        counts = counts.clone()
        dist.all_reduce(counts)
    return counts.clamp(min=1), ranks
