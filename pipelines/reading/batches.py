"""Encoded images in, strings out: what evaluation, prediction and the served model share.

The preprocessing is training's: `decode_image` to the recognizer's shape, then the view `none` (x / 127.5 - 1). The
served model imports this file in a process without Ray and most of this package's requirements: import nothing else.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from models.decoders.decoded import Reading
from models.recognizer import Recognizer
from pipelines.corpus.images import Shape, decode_image, image_problem

Item = TypeVar("Item")
DECODERS = 4  # threads; OpenCV releases the interpreter's lock


class Read(NamedTuple):
    """What was read from one image."""

    text: str  # empty where the image cannot be decoded
    confidence: float  # in [0, 1]; 0 where the image cannot be decoded
    problem: str | None = None  # why the image cannot be decoded, as a short fixed phrase
    upside_down: bool = False  # whether it was turned by 180 degrees for that
    characters: tuple[float, ...] = ()  # the probability of each character of the text, in order


def shape_of(recognizer: Recognizer) -> Shape:
    """How the recognizer wants its images."""
    return Shape(recognizer.height, recognizer.width, recognizer.aspect)


def as_input(images: list[np.ndarray], device: torch.device) -> Tensor:
    """Decoded images, each (height, width, 3) uint8 RGB, as recognizers take them: (n, 3, height, width) in [-1, 1]."""
    batch = torch.from_numpy(np.stack(images)).to(device)  # (n, height, width, 3) uint8
    return batch.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


@contextmanager
def evaluating(recognizer: Recognizer) -> Iterator[None]:
    """Eval mode inside the block; afterwards every module is in the mode it had (a frozen part stays in eval)."""
    modes = [(module, module.training) for module in recognizer.modules()]
    recognizer.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def read_stream(recognizer: Recognizer, items: Iterable[Item], image: Callable[[Item], bytes | None], *,
                batch_size: int = 256, search: Callable[[Tensor, list[Item]], Reading] | None = None) -> Iterator[tuple[Item, Read]]:
    """Read every item's image, in order, decoding the next batch while the recognizer reads this one.

    Two batches are in memory at a time. The recognizer is used on its device and in its mode: see `evaluating`.

    Args:
        image: gives an item's encoded image; None where it is known to be missing.
        search: reads (n, 3, height, width) images of n items; greedily, as `recognizer.read` does, if it is None.
    """
    search = search or (lambda images, _: recognizer.read(images))
    shape, device = shape_of(recognizer), next(recognizer.parameters()).device

    def decode(item: Item) -> tuple[np.ndarray | None, str | None]:
        data = image(item)
        if data is None:
            return None, "no image"
        decoded = decode_image(data, shape)
        return decoded, image_problem(data, decoded)

    stream = iter(items)
    with ThreadPoolExecutor(DECODERS) as pool:
        waiting = None
        for batch in chain(iter(lambda: list(islice(stream, batch_size)), []), [None]):
            following = batch and (batch, pool.map(decode, batch))  # `map` starts at once
            if waiting:
                yield from zip(waiting[0], _read_batch(waiting[0], list(waiting[1]), device, search), strict=True)
            waiting = following


def _read_batch(items: list[Item], decoded: list[tuple[np.ndarray | None, str | None]], device: torch.device,
                search: Callable[[Tensor, list[Item]], Reading]) -> list[Read]:
    found = [Read("", 0.0, problem) for _, problem in decoded]
    usable = [number for number, (_, problem) in enumerate(decoded) if problem is None]
    for width in sorted({decoded[number][0].shape[1] for number in usable}):  # one, unless images keep their aspect ratio
        chosen = [number for number in usable if decoded[number][0].shape[1] == width]
        with torch.inference_mode():
            reading = search(as_input([decoded[number][0] for number in chosen], device), [items[number] for number in chosen])
        turned = reading.upside_down or [False] * len(chosen)
        for number, text, confidence, upside_down, each in zip(chosen, reading.texts, reading.confidences.tolist(), turned, reading.characters, strict=True):
            found[number] = Read(text, confidence, None, upside_down, tuple(each))
    return found
