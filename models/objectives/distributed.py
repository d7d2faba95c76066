"""What objectives share when several processes train one model."""

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """Concatenates the rows of all ranks; backward adds up what all ranks' losses say of this rank's rows."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, in the order of their ranks, and where this process's begin among them.

    (rows, width) -> (ranks * rows, width); every process brings equally many rows. The gradient flows to every process:
    what reaches the rows of rank s is the sum over all ranks r of d(loss of rank r) / d(rows of rank s). If each rank's
    loss is the mean over its own rows, the mean over the ranks of the parameters' gradients, which is what
    DistributedDataParallel leaves, is therefore the gradient of the mean over all rows: no factor is missing.
    `torch.distributed.all_gather` alone would drop the remote terms and train a different loss.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows, 0
    return _Gather.apply(rows), dist.get_rank() * rows.shape[0]


@torch.no_grad()
def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all processes of values that each has, without gradient. The device may wait for the others, the host does not."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    total = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / dist.get_world_size()
