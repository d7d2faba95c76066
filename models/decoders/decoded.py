"""What every decoder gives: its outputs step by step, and the strings read from them."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Decoded:
    """A decoder's outputs for n images. A step is one symbol (attention, parallel) or one frame (CTC)."""

    logits: Tensor  # (n, steps, classes): what is read
    glimpses: Tensor  # (n, steps, width): what each step saw: the context vectors (attention) or the frame features (CTC)
    attention: Tensor | None = None  # (n, steps, frames), rows sum to 1; None for CTC and where there is no such map
    # Further outputs by name, where a recognizer has several: "right_to_left" (n, steps, classes), "vision", "language" …
    branches: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Reading:
    """The strings that n images hold, on the host."""

    texts: list[str]
    # (n,) float32 in [0, 1]: the probability of the string: the product of the probabilities of its symbols, of CTC the sum over its alignments
    confidences: Tensor
    characters: list[list[float]]  # for each image the probability of each character of its text, in order
    upside_down: list[bool] | None = None  # which images were read so; None where they were read as they stand


def surer_way_up(upright: Reading, upside_down: Reading) -> Reading:
    """Of two readings of the same n images, as they stand and turned by 180 degrees, the surer of each; as it stands where they are equal."""
    turned = [theirs > own for own, theirs in zip(upright.confidences.tolist(), upside_down.confidences.tolist(), strict=True)]
    chosen = [upside_down if turn else upright for turn in turned]
    return Reading([reading.texts[number] for number, reading in enumerate(chosen)], upright.confidences.maximum(upside_down.confidences),
                   [reading.characters[number] for number, reading in enumerate(chosen)], turned)
