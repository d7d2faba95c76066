"""How far a float32 result may be from the true one: derived from runs in float64, so that it holds on every processor.

Whatever the order in which a processor adds, a sum of K products that it rounds is the exact sum of other products: each factor changed by a
relative delta, with |delta| <= lambda sqrt(K) u except with a probability of 2 exp(-lambda^2 / 2), u = 2^-24 (Higham and Mary, "A new
approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 2019, theorem 3.1). Every other operation rounds its result. So the
float32 run of a network is about as far from the float64 run as float64 runs are that are changed by as much: the weights, by chance in sign,
as the sums over them would change them; one factor of every other sum, such as those of attention, of BatchNorm's statistics and of the
weights' gradients; and what every operation gives, forwards and backwards, by a coarser rounding. The network itself, not a guess, says how
much it amplifies them.
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


aten = torch.ops.aten
# Operations that add up products or values: which argument to change, and over how many its sums go.
SUMS: dict[object, tuple[int, Callable[[tuple], int]]] = {
    aten.mm.default: (0, lambda args: args[0].shape[1]),
    aten.bmm.default: (0, lambda args: args[0].shape[2]),
    aten.addmm.default: (1, lambda args: args[1].shape[1]),
    aten.baddbmm.default: (1, lambda args: args[1].shape[2]),
    aten.convolution_backward.default: (0, lambda args: args[0].numel() // args[0].shape[1]),  # the gradient of the weights
    aten.native_batch_norm.default: (0, lambda args: args[0].numel() // args[0].shape[1] if args[5] else 0),  # in training
    aten.native_batch_norm_backward.default: (0, lambda args: args[0].numel() // args[0].shape[1]),
    aten.sum.default: (0, lambda args: args[0].numel()),
    aten.mean.default: (0, lambda args: args[0].numel()),
    aten.sum.dim_IntList: (0, lambda args: math.prod(args[0].shape[axis] for axis in args[1] or range(args[0].ndim))),
    aten.mean.dim: (0, lambda args: math.prod(args[0].shape[axis] for axis in args[1] or range(args[0].ndim))),
}


class Rounding(TorchDispatchMode):
    """Whatever is computed in float64 is changed as float32 arithmetic might change it."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_dispatch__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        """What torch calls for every operation."""
        if func in SUMS and args[SUMS[func][0]].dtype == torch.float64:
            place, length = SUMS[func]
            args = (*args[:place], changed(args[place], length(args), self.generator), *args[place + 1:])
        made = func(*args, **(kwargs or {}))
        if func.is_view:  # no new tensor
            return made
        if func._schema.is_mutable:
            return made.copy_(rounded(made)) if isinstance(made, Tensor) else made
        return tree_map_only(Tensor, rounded, made)


def rounded(values: Tensor) -> Tensor:
    """Float64 values to 24 - COARSENESS bits, to nearest (Dekker 1971); others as they are."""
    if values.dtype != torch.float64:
        return values
    split = values * (2.0 ** (53 - 24 + COARSENESS) + 1)
    found = split - (split - values)
    return torch.where(found.isfinite(), found, values)  # masks are infinite, or as large as can be


def changed(values: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Factors of sums of so many products, each up or down by as much as rounding the sums would seem to change it."""
    signs = torch.randint(0, 2, values.shape, generator=generator, dtype=torch.int8).to(values.dtype) * 2 - 1
    return values * (1 + CERTAINTY * math.sqrt(length) * UNIT * signs)


def perturbed(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy of a float64 module whose weights, statistics and tables are changed as the sums over them would seem to change them."""
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in [*twin.parameters(), *twin.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(changed(tensor, tensor.numel() // len(tensor) if tensor.ndim > 1 else 1, generator))
    return twin
