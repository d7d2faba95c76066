"""What a training step of an objective takes: memory of the device, and multiply-adds.

The step runs forwards and backwards on fake tensors, shapes without numbers, so that the largest batch of the largest recognizer needs
neither memory nor a device, and what is counted is what the step's own operations make, not a formula of the architecture. Not counted is
what never is a tensor: the workspaces of kernels, the allocator's fragments, the device's own context.
"""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, UntypedStorage, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from models.batch import Batch, Part
from models.costs import nothing_fused, without_onednn, without_weights

STATES = {"adamw": 2, "adam": 2, "adadelta": 2, "sgd": 1}  # numbers that an optimizer keeps for each trained parameter


class NeedsValues(Exception):
    """An objective looks at the values of its tensors, which shapes alone do not have; the message names the operation."""


@dataclass(frozen=True)
class Footprint:
    """Of one step of one worker.

    parameters: of the whole objective, heads and teachers included; trained: those that get a gradient.
    weights: bytes of all parameters and buffers. gradients: bytes of the trained parameters' gradients.
    activations: the most bytes that forward and backward hold at one time beside these: images, views, what is kept for backward.
    multiply_adds: of forward and backward.
    """

    parameters: int
    trained: int
    weights: int
    gradients: int
    activations: int
    multiply_adds: int

    def memory(self, optimizer: str, workers: int = 1) -> int:
        """Bytes on the device of one worker. Several workers hold their gradients twice, once in the buckets in which they are summed up."""
        return self.weights + self.gradients * (2 if workers > 1 else 1) + self.states(optimizer) + self.activations

    def states(self, optimizer: str) -> int:
        """Bytes that the optimizer (a key of STATES) keeps between steps."""
        return STATES[optimizer] * self.gradients


def footprint(objective: nn.Module, sizes: Mapping[str, int], *, bf16: bool = False) -> Footprint:
    """The footprint of a step.

    Args:
        objective: on any device, the meta device included; it is left as it is.
        sizes: images of each part of a batch that the objective has views for.
        bf16: whether the step is computed under bfloat16 autocast.

    Raises:
        NeedsValues: the objective asks for values, so that its step cannot run on shapes.
    """
    parameters = list(objective.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        activations = step_bytes(objective, sizes, bf16=bf16)
    except (DataDependentOutputException, DynamicOutputShapeException) as problem:
        raise NeedsValues(str(problem.args[0])) from None
    products = products_of(objective, sizes)
    return Footprint(_numbers(parameters), _numbers(trained), _bytes([*parameters, *objective.buffers()]), _bytes(trained), activations, products)


def step_bytes(objective: nn.Module, sizes: Mapping[str, int], *, bf16: bool = False) -> int:
    """The most bytes that a step holds at one time beside weights and gradients."""
    with FakeTensorMode(), torch.device("cpu"), without_onednn(), torch.enable_grad():
        weightless = _to_train(objective)
        with Held([*weightless.parameters(), *weightless.buffers()]) as held, _CTCOnShapes():
            for parameter in weightless.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(lambda parameter: held.leave_out(parameter.grad))
            batch = batch_of_shapes(weightless, sizes)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                losses = weightless(batch)
            losses.total.backward()
    return held.most


def products_of(objective: nn.Module, sizes: Mapping[str, int]) -> int:
    """The multiply-adds of a step, forwards and backwards. NeedsValues as `footprint`."""
    try:
        return _products(objective, sizes)
    except (DataDependentOutputException, DynamicOutputShapeException) as problem:
        raise NeedsValues(str(problem.args[0])) from None


def _products(objective: nn.Module, sizes: Mapping[str, int]) -> int:
    with FakeTensorMode(), torch.device("cpu"), nothing_fused(), _CTCOnShapes(), FlopCounterMode(display=False) as counter:
        weightless = _to_train(objective)
        weightless(batch_of_shapes(weightless, sizes)).total.backward()
    return counter.get_total_flops() // 2  # it counts each as two


def batch_of_shapes(objective: nn.Module, sizes: Mapping[str, int]) -> Batch:
    """A batch with the views that the objective wants, and labels as long as its decoder writes. Made under a FakeTensorMode."""
    recognizer, parts = objective.recognizer, {}
    for name, views in objective.views.items():
        shape = (sizes[name], 3, recognizer.height, recognizer.width)
        part = Part(torch.empty(shape, dtype=torch.uint8), [str(number) for number in range(sizes[name])])
        if name == "labeled":
            part.texts = [recognizer.charset.characters[0] * recognizer.max_length] * sizes[name]
            part.targets = recognizer.decoder.encode(part.texts, torch.device("cpu"))
        part.views = tuple(torch.empty(shape) for _ in views)
        parts[name] = part
    return Batch(**parts)


def _to_train(objective: nn.Module) -> nn.Module:
    """A copy without weights that trains what the objective trains, and whose decoders write to the end, as nothing tells them to stop."""
    weightless = without_weights(objective)
    for parameter, original in zip(weightless.parameters(), objective.parameters(), strict=True):
        parameter.requires_grad_(original.requires_grad)
    for module in weightless.modules():
        if getattr(module, "stops_early", False):
            module.stops_early = False
    return weightless.train()


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside it: those alive, and the most at one time.

    Args:
        known: tensors that were there before, whose storages are not counted.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._sizes: dict[weakref.ref, int] = {}
        for tensor in known:
            self._sizes[weakref.ref(tensor.untyped_storage(), self._freed)] = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        """Called by PyTorch for every operation."""
        made = operation(*arguments, **(options or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        self.most = max(self.most, self.now)
        return made

    def leave_out(self, tensor: Tensor) -> None:
        """Count a tensor's storage no more."""
        place = weakref.ref(tensor.untyped_storage())
        self.now -= self._sizes.get(place, 0)
        self._sizes[place] = 0

    def _note(self, storage: UntypedStorage) -> None:
        place = weakref.ref(storage, self._freed)
        if place not in self._sizes:
            self._sizes[place] = storage.nbytes()
            self.now += storage.nbytes()

    def _freed(self, place: weakref.ref) -> None:
        self.now -= self._sizes.pop(place, 0)


class _CTCOnShapes(TorchDispatchMode):
    """PyTorch's CTC loss looks at the lengths of its texts; on shapes they are as long as they may be."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if operation is torch.ops.aten._ctc_loss.Tensor:
            log_probabilities, targets = arguments[:2]  # (frames, n, classes), (n, length)
            frames, images, _ = log_probabilities.shape
            return log_probabilities.new_empty(images), log_probabilities.new_empty(images, frames, 2 * targets.shape[1] + 1)
        if operation is torch.ops.aten._ctc_loss_backward.Tensor:
            return torch.empty_like(arguments[1])
        return operation(*arguments, **(options or {}))


def _numbers(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
