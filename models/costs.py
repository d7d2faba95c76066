"""What a recognizer costs: its parameters, and the multiply-adds of reading one image.

Counted are the products of convolutions, linear layers, recurrent cells, matrix products and attention, one multiply-add each. Biases,
norms, activations, softmax, resampling and other arithmetic on single elements are not, as in the papers' tables. Everything runs on fake
tensors, shapes without numbers, so that the largest recognizer needs neither memory nor time.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.recognizer import Recognizer


@dataclass(frozen=True)
class Costs:
    """Of a recognizer, or of one part of it."""

    parameters: int
    multiply_adds: int


def costs(recognizer: Recognizer) -> dict[str, Costs]:
    """The costs of a recognizer's parts by name (rectifier, encoder, sequence, decoder), and of all of it under "all".

    For one image of its own height and width in eval mode; a decoder that writes symbol by symbol writes all of its max_length + 1. The
    recognizer, on whatever device, is left as it is.
    """
    with FakeTensorMode():
        weightless = without_weights(recognizer).eval()
        weightless.decoder.stops_early = False
        counted = _products(weightless, torch.empty(1, 3, recognizer.height, recognizer.width))
    parts = {name: Costs(_parameters(part), counted.get(f"{type(recognizer).__name__}.{name}", 0))
             for name, part in recognizer.named_children() if _parameters(part)}
    return {**parts, "all": Costs(_parameters(recognizer), counted["Global"])}


def frames(recognizer: Recognizer, width: int | None = None) -> int:
    """Frames of the memory of an image of this width in pixels; by default of the recognizer's own."""
    with FakeTensorMode():
        weightless = without_weights(recognizer).eval()
        return weightless.encode(torch.empty(1, 3, recognizer.height, width or recognizer.width)).shape[1]


def multiply_adds(module: nn.Module, *inputs: Tensor) -> int:
    """The products in module(*inputs), in the module's mode. Only the shapes of the inputs count."""
    with FakeTensorMode():
        return _products(without_weights(module), *map(_shape_of, inputs))["Global"]


def without_weights(module: nn.Module) -> nn.Module:
    """A copy of the module, made under a FakeTensorMode, that shares no weight with it: shapes alone, on the CPU."""
    memo: dict[int, object] = {id(buffer): _shape_of(buffer) for buffer in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(_shape_of(parameter))
    return copy.deepcopy(module, memo)  # takes from the memo what stands there instead of copying it


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _products(module: nn.Module, *inputs: Tensor) -> dict[str, int]:
    """Multiply-adds by the dotted names of modules, "Global" for all of them."""
    with nothing_fused(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    products = {name: sum(operations.values()) // 2 for name, operations in counter.get_flop_counts().items()}  # it counts each as two
    return {"Global": 0, **products}


@contextmanager
def nothing_fused() -> Iterator[None]:
    """Operations whose products the counter does not see are taken apart: oneDNN's LSTM, fused attention, and, by way of the gradients,
    the fast path of nn.TransformerEncoder."""
    with without_onednn(), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        yield


@contextmanager
def without_onednn() -> Iterator[None]:
    """Its LSTM is one operation, whose products and workspace nobody sees."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN")
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
