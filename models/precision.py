"""In which precision numbers are kept.

Whoever computes in bfloat16 still needs coordinates, probabilities and sums in float32; whoever asks for float64 gets float64 throughout,
so that a float32 result can be compared with the true one.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32; in float64 where they already are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def exactly(values: Tensor) -> AbstractContextManager:
    """Within it operations on such values keep their precision, whatever autocast is on around it. Shapes alone (the meta device) have none."""
    return nullcontext() if values.is_meta else torch.autocast(values.device.type, enabled=False)


class Table(nn.Module):
    """Numbers or marks that follow from sizes alone, such as a spline's, the positions of a sequence, or who may look at whom.

    They are made on the CPU, numbers in float64, and rounded once, to the precision of the module that they are part of. They follow it to its
    device and into another precision, for which they are made anew, and they are not in its state dict.
    """

    def __init__(self, make: Callable[[], Tensor], *, coordinates: bool = False) -> None:
        """
        Args:
            make: gives the table.
            coordinates: keep float32 in modules of a coarser precision: half of bfloat16's numbers near 1 are further than a pixel apart.
        """
        super().__init__()
        self.make, self.coordinates = make, coordinates
        self.register_buffer("values", self._made(torch.empty(0)), persistent=False)

    def _made(self, like: Tensor) -> Tensor:
        """The table on the device of `like`, and in its precision."""
        with torch.device("cpu"):
            values = self.make()
        if values.is_floating_point():
            values = values.to(torch.promote_types(like.dtype, torch.float32) if self.coordinates else like.dtype)
        return values.to(like.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Table":
        """What `to`, `cuda`, `double`, `to_empty` and `share_memory` call: fn says the device and the precision."""
        super()._apply(fn, recurse)
        made = self._made(self.values)
        if made.dtype != self.values.dtype:
            self.values = made
        elif not made.is_meta:
            self.values.copy_(made)  # where fn put it
        return self

    def forward(self) -> Tensor:
        """The table."""
        return self.values
