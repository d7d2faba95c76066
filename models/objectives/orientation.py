"""Words that stand on their head: read both ways up, and the surer reading taken.

A photograph of a label, a wire or a part may show it upside down. Read as it is, it says something else, often surely, and teaches that. ViSu
(Qu et al., NeurIPS 2024) brings all images to one way of reading for the same reason; that a recognizer's own certainty decides is ours.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.charset import AttentionTokens, CTCTokens
from models.objectives.readings import read


def turned(images: Tensor) -> Tensor:
    """(n, channels, height, width) -> the same, turned by 180 degrees."""
    return images.flip(2, 3)


def surer_way_up(logits_of: Callable[[Tensor], Tensor], images: Tensor, tokens: AttentionTokens | CTCTokens, score: str) -> tuple[Tensor, Tensor]:
    """The logits (n, steps, classes) of each image the way up that scores higher, and which images are turned for it, (n,) bool.

    As it stands where both score alike. logits_of: images -> logits, asked once, for both ways.
    """
    both = logits_of(torch.cat([images, turned(images)]))  # (2 n, steps, classes)
    standing, upside_down = read(both, tokens, score).scores.chunk(2)
    surer = upside_down > standing  # (n,)
    first, second = both.chunk(2)
    return torch.where(surer.view(-1, 1, 1), second, first), surer


def way_up(images: Tensor, surer: Tensor) -> Tensor:
    """The images (n, channels, height, width), those turned that `surer` (n,) bool names."""
    return torch.where(surer.view(-1, 1, 1, 1), turned(images), images)
