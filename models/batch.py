"""What the loop hands to an objective, and what it gets back."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

View = Literal["none", "weak", "strong", "seqclr", "semimtr", "abinet", "moco"]  # augmentations that objectives ask for by name: pipelines/augmentation/views.py


@dataclass
class Part:
    """The labeled or the unlabeled half of a batch of n images, on the worker's device."""

    images: Tensor  # (n, 3, height, width) uint8, RGB
    keys: list[str]  # the corpus keys, in the order of the images
    texts: list[str] | None = None  # labels as the charset normalises them; None for unlabeled images
    targets: Tensor | None = None  # the labels as the decoder's token ids, (n, steps) int64
    views: tuple[Tensor, ...] = ()  # (n, 3, height, width) float32 in [-1, 1], one for each name in the objective's `views`


@dataclass
class Batch:
    """One step's images. An objective names the parts that it wants in its `views`; the others are None."""

    labeled: Part | None = None
    unlabeled: Part | None = None


@dataclass
class Losses:
    """What a step minimises, and named numbers to log (detached scalars)."""

    total: Tensor
    named: dict[str, Tensor] = field(default_factory=dict)
