"""ABINet's decoder: a vision head, a language model, and their fusion, again and again (Fang et al., CVPR 2021, sections 3.1 to 3.4).

    vision:    glimpses V by attention over the memory, logits W_v V                            (section 3.1)
    language:  features L from the probabilities of what was read last, without gradient        (section 3.2)
    fusion:    G = sigmoid(W_g [L, V]),  F = G * V + (1 - G) * L,  logits W_f F                 (section 3.3)
    loss:      a_v CE(vision) + a_l CE(language) + a_f CE(fusion), means over the iterations    (section 3.4)
The first iteration reads what vision found, every later one what the last fusion found; V stays. The visual half of G's argument is
computed before the first. Every cross-entropy counts the characters and the end symbol.

SemiMTR (Aberdam et al., 2022) and the parseq hub (Bautista and Atienza, ECCV 2022) have the same network. They take a word without an end
symbol to be as long as can be, where the first authors take its length to be 2; the hub pads targets with a symbol of its own.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.charset import AttentionTokens, Charset
from models.decoders.decoded import Decoded, Reading
from models.decoders.language import LanguageModel
from models.decoders.position import PlainAttention, PositionAttention
from models.decoders.symbols import encode_symbols, read_symbols
from models.precision import at_least_float32


def abinet_tokens(charset: Charset, table: str = "original") -> AttentionTokens:
    """The ids of ABINet: 0 ends a word, characters from 1.

    original: 0 also pads and starts. parseq: start and padding behind the characters, which are never written.
    ValueError for another table.
    """
    if table == "original":
        return AttentionTokens(charset, first_character=1, start=0, pad=0, end=0)
    if table == "parseq":
        return AttentionTokens(charset, first_character=1, fed_only=2, start=len(charset) + 1, pad=len(charset) + 2, end=0)
    raise ValueError(f"expected a token table of ABINet (original, parseq), found {table!r}")


class VisionHead(nn.Module):
    """Reads without any knowledge of language."""

    def __init__(self, attention: PositionAttention | PlainAttention, width: int, classes: int) -> None:
        super().__init__()
        self.attention = attention
        self.classifier = nn.Linear(width, classes)

    def forward(self, memory: Tensor, projection: nn.Module | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(n, frames, width) -> glimpses (n, steps, width), logits (n, steps, classes), weights (n, steps, frames)."""
        glimpses, weights = self.attention(memory)
        return glimpses, self.classifier(glimpses if projection is None else projection(glimpses)), weights


class ABINetDecoder(nn.Module):
    """Writes all symbols at once, and corrects them `iterations` times. With none it is the vision model alone: language and fusion rest.

    The logits are the last fusion's, without iterations vision's. Branches: "vision" (n, steps, classes), "language" and "fusion" (iterations, n, steps, classes).
    Glimpses and attention are the vision head's.
    """

    kind = "parallel"
    stops_early = False

    def __init__(self, charset: Charset, memory_width: int, rows: int, columns: int, *, max_length: int = 25,
                 vision: Literal["large", "small"] = "large", language_layers: int = 4, iterations: int = 3, table: str = "original",
                 no_null_length: Literal["original", "full"] = "original", vision_weight: float = 1.0, language_weight: float = 1.0,
                 fusion_weight: float = 1.0) -> None:
        """`rows` and `columns` of the map whose cells are the memory's frames. `vision`: "large" attends by position, "small" plainly.

        no_null_length: how long the language model takes a word without an end symbol to be: 2 (original) or all steps (full).
        """
        super().__init__()
        if iterations < 0 or vision not in ("large", "small") or no_null_length not in ("original", "full"):
            raise ValueError("expected iterations of 0 or more, vision large or small, and no_null_length original or full; "
                             f"found {iterations}, {vision!r} and {no_null_length!r}")
        self.tokens = abinet_tokens(charset, table)
        self.max_length, self.iterations, self.no_null_length = max_length, iterations, no_null_length
        self.weights = {"vision": vision_weight, "language": language_weight, "fusion": fusion_weight}
        steps, classes = max_length + 1, self.tokens.classes
        attention = (PositionAttention(memory_width, rows, steps) if vision == "large"
                     else PlainAttention(memory_width, rows * columns, steps))
        self.vision = VisionHead(attention, memory_width, classes)
        self.language = LanguageModel(classes, memory_width, steps=steps, layers=language_layers, feed_forward=4 * memory_width)
        self.gate = nn.Linear(2 * memory_width, memory_width)  # of [language, vision]
        self.classifier = nn.Linear(memory_width, classes)
        if iterations == 0:
            for part in (self.language, self.gate, self.classifier):
                part.requires_grad_(False)

    def forward(self, memory: Tensor, tokens: Tensor | None = None, projection: nn.Module | None = None) -> Decoded:
        """(n, rows * columns, width) -> max_length + 1 steps. Tokens are not fed.

        projection: (width -> width), if given, is applied to the fused features just before the classifier, in every iteration.
        """
        if self.iterations == 0:
            glimpses, seen, weights = self.vision(memory, projection)
            return Decoded(seen, glimpses, weights, {"vision": seen})
        glimpses, seen, weights = self.vision(memory)
        width = glimpses.shape[2]
        gate_of_vision = F.linear(glimpses, self.gate.weight[:, width:], self.gate.bias)
        logits, language, fusion = seen, [], []
        for _ in range(self.iterations):
            features, spelled = self.language(at_least_float32(logits).softmax(2), self.lengths(logits))
            gate = torch.sigmoid(F.linear(features, self.gate.weight[:, :width]) + gate_of_vision)
            fused = gate * glimpses + (1 - gate) * features  # (n, steps, width)
            logits = self.classifier(fused if projection is None else projection(fused))
            language.append(spelled)
            fusion.append(logits)
        branches = {"vision": seen, "language": torch.stack(language), "fusion": torch.stack(fusion)}
        return Decoded(logits, glimpses, weights, branches)

    def lengths(self, logits: Tensor) -> Tensor:
        """(n, steps, classes) -> (n,) int64: each word's length with its end symbol, at least 2, as the language model is told."""
        ends = logits.detach().argmax(2) == self.tokens.end  # (n, steps)
        lengths = (ends.cumsum(1) == 0).sum(1) + 1  # all steps and one more where nothing ends
        if self.no_null_length == "original":
            lengths = lengths.where(ends.any(1), 2)
        return lengths.clamp(2, logits.shape[1])

    def encode(self, texts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """Targets (n, max_length + 2) int64: start, the characters' ids, end, padding: see `encode_symbols`."""
        return encode_symbols(texts, self.tokens, self.max_length).to(device)

    def inputs(self, targets: Tensor) -> None:
        """Nothing is fed."""

    def losses(self, decoded: Decoded, targets: Tensor) -> dict[str, Tensor]:
        """The cross-entropy of each branch that there is, unweighted: see `branch_loss`."""
        return {name: self.branch_loss(branch, targets) for name, branch in decoded.branches.items()}

    def branch_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy of logits (…, n, steps, classes): the mean over words, their characters and end symbols, and iterations."""
        labels = targets[:, 1:]
        # A step counts if it is the first or follows a character: where 0 both ends and pads, only this tells the end from padding.
        counts = torch.cat([torch.ones_like(labels[:, :1], dtype=torch.bool), self.tokens.is_character(labels[:, :-1])], 1)
        labels = labels.where(counts, -100)  # (n, steps)
        return F.cross_entropy(at_least_float32(logits.flatten(0, -2)), labels.expand(logits.shape[:-1]).flatten(), ignore_index=-100)

    def loss(self, decoded: Decoded, targets: Tensor) -> Tensor:
        """The three branches' cross-entropies, weighted and added."""
        losses = self.losses(decoded, targets)
        return sum(self.weights[name] * loss for name, loss in losses.items())

    def read(self, decoded: Decoded) -> Reading:
        """The likeliest symbol of each step of the last fusion, up to the first end symbol: see `read_symbols`."""
        return read_symbols(decoded.logits, self.tokens)
