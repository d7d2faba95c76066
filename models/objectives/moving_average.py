"""A second model that follows the one that is trained, and gets no gradient itself (Tarvainen and Valpola, NeurIPS 2017, arXiv 1703.01780)."""

import copy

import torch
from torch import Tensor, nn


def follower(model: nn.Module) -> nn.Module:
    """A copy of the model as it is now, without gradient. In which mode it runs is for its objective to say."""
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float, *, buffers: bool = True) -> None:
    """average <- decay average + (1 - decay) model for the parameters; the buffers are copied, or left as they are."""
    for target, online in zip(average.parameters(), model.parameters(), strict=True):
        target.lerp_(online, 1 - decay)
    if buffers:
        for target, online in zip(average.buffers(), model.buffers(), strict=True):
            target.copy_(online)


@torch.no_grad()
def move(average: Tensor, value: Tensor, decay: float | Tensor) -> None:
    """average <- decay average + (1 - decay) value, in place; a value that is not finite, such as the mean of nothing, leaves it as it is."""
    value = value.to(average.dtype)
    average.copy_(torch.where(value.isfinite().all(), average * decay + value * (1 - decay), average))
