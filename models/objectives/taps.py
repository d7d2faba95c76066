"""Feature maps from inside an encoder: what an early module of it gave on the way."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from models.encoders.svtr import SVTR
from models.encoders.transformer import MapEncoder
from models.encoders.vit import ViT
from models.recognizer import Recognizer


@contextmanager
def tapped(recognizer: Recognizer, module: str) -> Iterator[list[Tensor]]:
    """Inside, the list holds what the encoder's module of that name gave in each pass, as maps (n, rows, columns, width)."""
    given: list[Tensor] = []
    hook = recognizer.encoder.get_submodule(module).register_forward_hook(lambda _module, _inputs, output: given.append(_as_map(recognizer, output)))
    try:
        yield given
    finally:
        hook.remove()


def early_module(recognizer: Recognizer, name: str | None) -> str:
    """The name, inside the encoder, of the module after whose strokes a method asks: `name`, or else what is usual.

    That is the last module whose map has a quarter of the image's rows; of SVTR the first stage, of a vision transformer the block after a quarter of
    all, of ABINet the third layer of its ResNet. ValueError for a name that is no module with a map, and where nothing is usual.
    """
    encoder = recognizer.encoder
    if name is None:
        name = _usual(recognizer)
    elif name not in dict(encoder.named_modules()):
        raise ValueError(f"expected the name of a module in the encoder of {recognizer.name or 'the recognizer'}, found {name!r}: its first are "
                         + ", ".join(list(dict(encoder.named_modules()))[1:6]))
    return name


def _usual(recognizer: Recognizer) -> str:
    encoder = recognizer.encoder
    if isinstance(encoder, SVTR):
        return "stages.0"
    if isinstance(encoder, ViT):
        return f"blocks.{max(0, len(encoder.blocks) // 4 - 1)}"
    if any(isinstance(module, MapEncoder) for module in encoder.modules()):
        return "resnet.layer3"
    maps = _maps(recognizer)
    rows = recognizer.height if recognizer.rectifier is None else max(rows for _, rows in maps)
    found = [name for name, count in maps if count == rows // 4]
    if not found:
        raise ValueError(f"expected an encoder with a map of a quarter of the image's rows, found none in {recognizer.name or 'the recognizer'}: "
                         "name a module of it")
    return found[-1]


def _maps(recognizer: Recognizer) -> list[tuple[str, int]]:
    """Module names and rows of all maps (n, width, rows, columns) that the encoder makes of one image, in order. Asked of a copy."""
    probe = copy.deepcopy(recognizer).eval()
    parameter, maps = next(probe.parameters()), []
    for name, module in probe.encoder.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: maps.append((name, output.shape[2]))
                                     if isinstance(output, Tensor) and output.ndim == 4 and name else None)
    with torch.no_grad():
        probe.visual(torch.zeros(1, 3, recognizer.height, recognizer.width, device=parameter.device, dtype=parameter.dtype))
    return maps


def _as_map(recognizer: Recognizer, output: Tensor) -> Tensor:
    """(n, width, rows, columns) or (n, tokens, width) -> (n, rows, columns, width)."""
    if output.ndim == 4:
        return output.permute(0, 2, 3, 1)
    if isinstance(recognizer.encoder, SVTR):
        return output.unflatten(1, (-1, recognizer.encoder.columns))
    return recognizer.cells(output)
