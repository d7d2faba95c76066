"""The decoder of ViTSTR (Atienza, "Vision transformer for fast and efficient scene text recognition", ICDAR 2021).

    y_i = Linear(z_i) for i = 1 … S, where z are the transformer's tokens

The first max_length + 2 tokens, the class token among them, stand for start, characters and end; what stands for the start is dropped.
There is nothing else: every symbol is written at once, and the encoder itself has learned to bring what it reads to these tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.charset import AttentionTokens, Charset
from models.decoders.decoded import Decoded, Reading
from models.decoders.parseq import parseq_tokens
from models.decoders.symbols import encode_symbols, read_symbols
from models.precision import at_least_float32


def vitstr_tokens(charset: Charset, table: str) -> AttentionTokens:
    """parseq: the hub's, which never writes start and padding. benchmark: the paper's, start 0, end 1. ValueError for another table."""
    if table not in ("parseq", "benchmark"):
        raise ValueError(f"expected the token table parseq or benchmark, found {table!r}: the parseq hub's and the paper's are known")
    return parseq_tokens(charset) if table == "parseq" else AttentionTokens(charset)


class ViTSTRDecoder(nn.Module):
    """Classifies the transformer's first tokens, all at once."""

    kind = "parallel"
    stops_early = False

    def __init__(self, charset: Charset, memory_width: int, *, max_length: int = 25, table: str = "parseq") -> None:
        super().__init__()
        self.tokens = vitstr_tokens(charset, table)
        self.max_length = max_length
        self.classifier = nn.Linear(memory_width, self.tokens.classes)

    def forward(self, memory: Tensor, tokens: Tensor | None = None, projection: nn.Module | None = None) -> Decoded:
        """(n, frames, width), the class token first -> max_length + 1 steps. `tokens` is ignored.

        projection: (width -> width), if given, is applied just before the classifier. ValueError for fewer than max_length + 2 frames.
        """
        self.check_frames(memory.shape[1])
        written = memory[:, 1:self.max_length + 2]  # (n, max_length + 1, width)
        return Decoded(self.classifier(written if projection is None else projection(written)), glimpses=written)

    def check_frames(self, frames: int) -> None:
        """ValueError if the memory is too short to write max_length characters."""
        if frames < self.max_length + 2:
            raise ValueError(f"expected at least {self.max_length + 2} tokens to write {self.max_length} characters, found {frames}: "
                             "choose larger images, smaller patches or a smaller max_length")

    def encode(self, texts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """Targets (n, max_length + 2) int64: start, the characters' ids, end, padding: see `encode_symbols`."""
        return encode_symbols(texts, self.tokens, self.max_length).to(device)

    def inputs(self, targets: Tensor) -> None:
        """Nothing: this decoder is not fed what it wrote."""
        return None

    def loss(self, decoded: Decoded, targets: Tensor) -> Tensor:
        """Cross-entropy against all of the target row but its first, mean over the positions that are not padding."""
        return F.cross_entropy(at_least_float32(decoded.logits.flatten(0, 1)), targets[:, 1:].flatten(), ignore_index=self.tokens.pad)

    def read(self, decoded: Decoded) -> Reading:
        """The likeliest symbol of each step, up to the first end symbol: see `read_symbols`."""
        return read_symbols(decoded.logits, self.tokens)
