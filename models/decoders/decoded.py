"""What every decoder gives: its outputs step by step, and the strings read from them."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Decoded:
    """A decoder's outputs for n images. A step is one symbol (attention) or one frame (CTC)."""

    logits: Tensor  # (n, steps, classes)
    glimpses: Tensor  # (n, steps, width): the context vectors (attention) or the frame features (CTC)
    attention: Tensor | None = None  # (n, steps, frames), rows sum to 1; None for CTC


@dataclass
class Reading:
    """The strings that n images hold, on the host."""

    texts: list[str]
    confidences: Tensor  # (n,) float32 in [0, 1]: the product of the probabilities of the symbols that make the string
    characters: list[list[float]]  # for each image the probability of each character of its text, in order
