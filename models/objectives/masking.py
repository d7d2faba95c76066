"""Which positions of a feature map are hidden: spans, equally many positions in every image of a batch, so that what is hidden has one shape.

The rule of wav2vec 2.0's code (Baevski et al., NeurIPS 2020): int(p T / m + u) spans of m positions, u uniform in [0, 1) and one for the batch, their
starts drawn without replacement. Where spans overlap, an image hides fewer positions; all hide as many as the image with the fewest, and the surplus is
shown again, drawn at random. Otherwise than theirs a span may also end with the last position.

Everything is drawn on the host, by a generator of its own: how many positions are hidden is a shape, for which a step must not wait.
"""

import zlib

import numpy as np
import torch


def generator_of(key: str) -> np.random.Generator:
    """Of the step, by the seed that the loop gave it, and of the batch, by the key of its first image: the same again in a step that is repeated."""
    return np.random.default_rng([torch.initial_seed(), zlib.crc32(key.encode())])


def hidden_positions(draw: np.random.Generator, images: int, positions: int, probability: float, span: int = 1, least: int = 2) -> np.ndarray:
    """(images, M) int64, in rising order: the hidden ones of so many positions; probability times as many on average where spans are 1.

    least: so many spans at least.
    """
    starts = positions - span + 1
    spans = min(starts, max(least, int(probability * positions / span + draw.random())))
    first = draw.random((images, starts)).argsort(1)[:, :spans]  # (images, spans)
    hidden = np.zeros((images, positions), bool)
    np.put_along_axis(hidden, (first[:, :, None] + np.arange(span)).reshape(images, -1), True, 1)
    order = np.where(hidden, draw.random(hidden.shape), 2).argsort(1)  # the hidden ones first, in random order
    return np.sort(order[:, : hidden.sum(1).min()], 1)


def others_of(draw: np.random.Generator, images: int, hidden: int, count: int) -> np.ndarray:
    """(images, hidden, count) int64: for each hidden position others of its image, with replacement, never itself."""
    drawn = draw.integers(0, hidden - 1, (images, hidden, count))
    return drawn + (drawn >= np.arange(hidden)[None, :, None])


def check_positions(objective: str, name: str, positions: int, span: int) -> None:
    """ValueError where a map is too small to hide two spans in it."""
    if positions <= span:
        raise ValueError(f"{objective} expects a {name} map with more positions than a span of {span} takes, found {positions}: shorten span, or use "
                         "wider images")
