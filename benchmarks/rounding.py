"""How far a float32 result may be from the true one: derived from runs in float64, so that it holds on every processor.

Whatever the order in which a processor adds, a sum of K products that it rounds is the exact sum of other products: each factor changed by a
relative delta, with |delta| <= lambda sqrt(K) u except with a probability of 2 exp(-lambda^2 / 2), u = 2^-24 (Higham and Mary, "A new
approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 2019, theorem 3.1). Every other operation rounds its result. So the
float32 run of a network is about as far from the float64 run as float64 runs are that are changed by as much: the weights, by chance in sign,
as sums would change them, and what every operation gives, forwards and backwards, by a coarser rounding. The network itself, not a guess,
says how much it amplifies them.
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

UNIT = 2.0**-24  # what rounding to float32 changes at most, relatively
CERTAINTY = 4.0  # lambda: a sum errs more once in 1,500 at most
COARSENESS = 2  # bits that an operation's result loses beyond float32's: it may round more than once, and functions are looked up


class Rounding(TorchDispatchMode):
    """Every float64 tensor that an operation makes is rounded: to float32's precision less a few bits."""

    def __torch_dispatch__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        """What torch calls for every operation."""
        made = func(*args, **(kwargs or {}))
        if func.is_view or func._schema.is_mutable:  # no new tensor
            return made
        return tree_map_only(Tensor, rounded, made)


def rounded(values: Tensor) -> Tensor:
    """Float64 values to 24 - COARSENESS bits, to nearest (Dekker 1971); others as they are."""
    if values.dtype != torch.float64:
        return values
    split = values * (2.0 ** (53 - 24 + COARSENESS) + 1)
    found = split - (split - values)
    return torch.where(found.isfinite(), found, values)  # masks are infinite, or as large as can be


def perturbed(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy of a float64 module whose weights, statistics and tables are changed as the sums over them would seem to change them."""
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in [*twin.parameters(), *twin.buffers()]:
            if tensor.is_floating_point():
                products = tensor.numel() // len(tensor) if tensor.ndim > 1 else 1
                tensor.mul_(1 + CERTAINTY * math.sqrt(products) * UNIT * _signs(tensor, generator))
    return twin


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """-1 or 1 by chance, of the same shape and precision."""
    return torch.randint(0, 2, like.shape, generator=generator).to(like.dtype) * 2 - 1
