"""The contrast of instances: noise contrastive estimation over all instances of two views, of all ranks (Chen et al., ICML 2020, equation 1).

    l(u, v; U) = -log( exp(sim(u, v) / temperature) / sum over w in U without u of exp(sim(u, w) / temperature) )
    L          = the mean over all u in U of l(u, its partner; U)

with sim the cosine. U holds the instances of all ranks, gathered with their gradient (see distributed.py); each rank takes the terms of its own,
equally many on each, so that the mean over the ranks is L.

The matrix of similarities is never whole: pieces of `COLUMNS` columns pass by, with the running maximum and sum of a streaming softmax, and again
in the backward pass, which makes them anew. What a rank holds is its own instances, those of all ranks and their gradient: linear in the ranks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.objectives.distributed import gather
from models.precision import at_least_float32, exactly

COLUMNS = 2048  # of the matrix of similarities at a time
PIECE = 2 ** 22  # numbers of it at a time, at most: 16 MiB in float32


def contrast(instances: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """This rank's share of L over the instances of all ranks, and how often the nearest other instance is the partner.

    instances: (2 m, width), the m of view a and then, in the same order, the m of view b. Both results are scalars; the
    second is detached. Computed in float32 at least, under mixed precision too.
    """
    with exactly(instances):
        own = F.normalize(at_least_float32(instances), dim=1)  # (2 m, width), so that a product is the cosine
        everyone, start = gather(own)  # (ranks * 2 m, width)
        return _Contrast.apply(own, everyone, start, temperature)


class _Contrast(torch.autograd.Function):
    """Rows of unit length (k, width) and those of all ranks (K, width), among which they begin at `start` -> loss, fraction matched."""

    @staticmethod
    def forward(ctx, own: Tensor, everyone: Tensor, start: int, temperature: float) -> tuple[Tensor, Tensor]:
        count = len(own)
        partners = everyone[start:start + count].roll(count // 2, 0)  # z_r^b for z_r^a, z_r^a for z_r^b
        positive = (own * partners).sum(1) / temperature  # (k,)
        largest, total = torch.full_like(positive, -torch.inf), torch.zeros_like(positive)
        nearest = torch.full_like(positive, -1, dtype=torch.int64)
        for columns in _pieces(own, everyone):
            similarity = _similarity(own, everyone, columns, start, temperature)
            value, column = similarity.max(1)
            nearest = torch.where(value > largest, column + columns.start, nearest)
            before, largest = largest, torch.maximum(largest, value)
            base = largest.clamp(min=torch.finfo(largest.dtype).min)  # a piece may hold nothing but the instance itself
            total = total * (before - base).exp() + (similarity - base.unsqueeze(1)).exp_().sum(1)
        logarithm = largest + total.log()  # (k,) of the sum over U without u
        ctx.save_for_backward(own, everyone, logarithm)
        ctx.start, ctx.temperature = start, temperature
        partner = start + (torch.arange(count, device=own.device) + count // 2) % count
        matched = (nearest == partner).to(own.dtype).mean()
        ctx.mark_non_differentiable(matched)
        return (logarithm - positive).mean(), matched

    @staticmethod
    def backward(ctx, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        own, everyone, logarithm = ctx.saved_tensors
        start, scale, count = ctx.start, gradient / (ctx.temperature * len(own)), len(own)
        of_own, of_everyone = torch.zeros_like(own), torch.zeros_like(everyone)
        for columns in _pieces(own, everyone):
            share = _similarity(own, everyone, columns, start, ctx.temperature).sub_(logarithm.unsqueeze(1)).exp_()  # (k, columns), a softmax's
            of_own.addmm_(share, everyone[columns])
            of_everyone[columns] = share.t() @ own
        mine = slice(start, start + count)
        of_own -= everyone[mine].roll(count // 2, 0)
        of_everyone[mine] -= own.roll(-(count // 2), 0)
        return of_own.mul_(scale), of_everyone.mul_(scale), None, None


def _pieces(own: Tensor, everyone: Tensor) -> list[slice]:
    width = max(1, min(COLUMNS, PIECE // max(1, len(own))))
    return [slice(at, at + width) for at in range(0, len(everyone), width)]


def _similarity(own: Tensor, everyone: Tensor, columns: slice, start: int, temperature: float) -> Tensor:
    """(k, columns): the similarities over the temperature, -inf of an instance with itself."""
    similarity = (own @ everyone[columns].t()).div_(temperature)
    offset = start - columns.start
    if -len(own) < offset < similarity.shape[1]:
        similarity.diagonal(offset).fill_(-torch.inf)
    return similarity
