"""In which precision numbers are kept.

Whoever computes in bfloat16 still needs coordinates, probabilities and sums in float32; whoever asks for float64 gets float64 throughout,
so that a float32 result can be compared with the true one.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32; in float64 where they already are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Table(nn.Module):
    """Numbers that follow from sizes alone, such as a spline's or a table of positions.

    They are made in float64 and rounded once, to the precision of the module that they are part of, float32 at least. They follow it to its
    device and into float64, where they are made anew, and they are not in its state dict.
    """

    def __init__(self, make: Callable[[], Tensor]) -> None:
        """`make` computes the table, float64 and on the CPU."""
        super().__init__()
        self.make = make
        self.register_buffer("values", at_least_float32(make().to(torch.get_default_dtype())), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Table":
        """What `to`, `cuda`, `double` and `to_empty` call: fn says the device and the precision."""
        super()._apply(fn, recurse)
        like = at_least_float32(self.values)
        with torch.device("cpu"):
            self.values = self.make().to(like.device, like.dtype)
        return self

    def forward(self) -> Tensor:
        """The table."""
        return self.values
