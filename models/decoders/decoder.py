"""What every decoder offers."""

from typing import Protocol

import torch
from torch import Tensor, nn

from models.charset import Tokens
from models.decoders.decoded import Decoded, Reading


class Decoder(Protocol):
    """Writes symbols while it looks at a memory (n, frames, width). An nn.Module with these members.

    kind: "ctc" (one output for every frame), "attention" (one for every symbol, fed with the symbols before), or "parallel" (one for
        every symbol, all at once; it ignores the tokens that it is given).
    tokens: the table of ids; its `classes` are the width of the logits.
    max_length: characters; "attention" and "parallel" decoders write max_length + 1 symbols, the end included.
    classifier: the last linear layer, hidden -> classes (of an ABINet without iterations the one that rests).
    stops_early: whether greedy decoding in eval mode ends with the longest sequence. An exported graph has no such stop.
    """

    kind: str
    tokens: Tokens
    max_length: int
    classifier: nn.Linear
    stops_early: bool

    def forward(self, memory: Tensor, tokens: Tensor | None = None, projection: nn.Module | None = None) -> Decoded:
        """(n, frames, width) -> the outputs; with `tokens` (n, steps) int64 fed with these, else with its own symbols.

        projection: (hidden -> hidden), if given, is applied just before the classifier. In training mode nothing here waits for the device.
        """

    def encode(self, texts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """Targets (n, width) int64. ValueError for a text that is too long or holds a character outside the charset."""

    def inputs(self, targets: Tensor) -> Tensor | None:
        """What to feed for teacher forcing; None for decoders that are fed nothing."""

    def loss(self, decoded: Decoded, targets: Tensor) -> Tensor:
        """The paper's supervised loss, a scalar, of outputs that were fed with `inputs(targets)`."""

    def read(self, decoded: Decoded) -> Reading:
        """The strings."""
