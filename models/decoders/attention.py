"""The additive-attention LSTM decoder (Bahdanau et al., ICLR 2015; the four-stage benchmark, Baek et al., ICCV 2019).

Step t, with memory H, hidden state h and previous symbol y:
    weights = softmax over frames of v . tanh(W_m H + W_s h + b),   context = weights . H,
    h, c    = LSTMCell([context, one-hot y], (h, c)),               logits  = W_o h + b_o.
What does not depend on the step is computed before the loop: W_m H + b; for every class the part of the LSTM's gates
that it contributes (a column of the input matrix, or its embedding times these, and the biases); and W_s stacked on the LSTM's recurrent matrix, so
that a step multiplies h once. With given tokens the output layer runs once, after the loop.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.charset import Charset, attention_tokens
from models.decoders.decoded import Decoded, Reading
from models.decoders.symbols import encode_symbols, read_symbols
from models.precision import at_least_float32


@dataclass
class Prepared:
    """What the steps over one memory share."""

    memory: Tensor  # (n, frames, width)
    keys: Tensor  # (n, frames, hidden)
    token_gates: Tensor  # (symbols, 4 hidden)
    context_weight: Tensor  # (width, 4 hidden)
    state_weight: Tensor  # (hidden, hidden + 4 hidden)


class AttentionDecoder(nn.Module):
    """Writes one symbol per step, looking at the whole memory, until the end symbol or max_length characters."""

    kind = "attention"
    stops_early = True

    def __init__(self, charset: Charset, memory_width: int, *, hidden: int = 256, max_length: int = 25, table: str = "benchmark",
                 embedding: int | None = None) -> None:
        """`embedding`: the width of the symbols' learned embedding; None feeds them one-hot."""
        super().__init__()
        self.tokens = attention_tokens(charset, table)
        self.max_length = max_length
        self.hidden = hidden
        self.memory_projection = nn.Linear(memory_width, hidden, bias=False)
        self.state_projection = nn.Linear(hidden, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)
        self.embedding = None if embedding is None else nn.Embedding(self.tokens.symbols, embedding)
        self.cell = nn.LSTMCell(memory_width + (embedding or self.tokens.symbols), hidden)
        self.classifier = nn.Linear(hidden, self.tokens.classes)

    def forward(self, memory: Tensor, tokens: Tensor | None = None, projection: nn.Module | None = None) -> Decoded:
        """(n, frames, width) -> max_length + 1 steps.

        tokens: (n, steps) int64, the symbol before each step (teacher forcing); without them the decoder is fed its
            own likeliest symbol, and in eval mode it stops once every sequence has ended.
        projection: (hidden -> hidden), if given, is applied to the hidden states just before the classifier.
        """
        return self._greedy(memory, projection) if tokens is None else self._forced(memory, tokens, projection)

    def prepare(self, memory: Tensor) -> Prepared:
        """What all steps over a memory (n, frames, width) share."""
        width = memory.shape[-1]
        symbols = self.cell.weight_ih[:, width:].t()  # (symbols, or the embedding's width, 4 hidden)
        return Prepared(
            memory=memory,
            keys=self.memory_projection(memory) + self.state_projection.bias,
            token_gates=(symbols if self.embedding is None else self.embedding.weight @ symbols) + (self.cell.bias_ih + self.cell.bias_hh),
            context_weight=self.cell.weight_ih[:, :width].t(),
            state_weight=torch.cat([self.state_projection.weight, self.cell.weight_hh]).t(),
        )

    def step(self, prepared: Prepared, token_gates: Tensor, state: tuple[Tensor, Tensor]) -> tuple:
        """One symbol: token_gates (n, 4 hidden), state: two (n, hidden) -> state, context, weights (n, frames)."""
        hidden, memory_cell = state
        query, recurrent = (hidden @ prepared.state_weight).split([self.hidden, 4 * self.hidden], dim=1)
        scores = self.score(torch.tanh(prepared.keys + query.unsqueeze(1))).squeeze(2)  # (n, frames)
        weights = scores.softmax(1)
        context = torch.bmm(weights.unsqueeze(1).to(prepared.memory.dtype), prepared.memory).squeeze(1)  # (n, width)
        gates = context @ prepared.context_weight + recurrent + token_gates
        write, keep, new, show = gates.chunk(4, 1)
        memory_cell = keep.sigmoid() * memory_cell + write.sigmoid() * new.tanh()
        return (show.sigmoid() * memory_cell.tanh(), memory_cell), context, weights

    def start(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The state before the first step: hidden and cell, (n, hidden) zeros each."""
        zeros = memory.new_zeros(memory.shape[0], self.hidden)
        return zeros, zeros

    def _forced(self, memory: Tensor, tokens: Tensor, projection: nn.Module | None) -> Decoded:
        prepared, state = self.prepare(memory), self.start(memory)
        token_gates = F.embedding(tokens.t(), prepared.token_gates)  # (steps, n, 4 hidden)
        hiddens, contexts, attention = [], [], []
        for gates in token_gates.unbind(0):
            state, context, weights = self.step(prepared, gates, state)
            hiddens.append(state[0])
            contexts.append(context)
            attention.append(weights)
        hidden = torch.stack(hiddens, 1)  # (n, steps, hidden)
        logits = self.classifier(hidden if projection is None else projection(hidden))
        return Decoded(logits, torch.stack(contexts, 1), torch.stack(attention, 1))

    def _greedy(self, memory: Tensor, projection: nn.Module | None) -> Decoded:
        prepared, state = self.prepare(memory), self.start(memory)
        symbols = torch.full((memory.shape[0],), self.tokens.start, dtype=torch.int64, device=memory.device)
        ended = torch.zeros_like(symbols, dtype=torch.bool)
        logits, contexts, attention = [], [], []
        for _ in range(self.max_length + 1):
            state, context, weights = self.step(prepared, F.embedding(symbols, prepared.token_gates), state)
            logits.append(self.classifier(state[0] if projection is None else projection(state[0])))
            contexts.append(context)
            attention.append(weights)
            symbols = logits[-1].argmax(1)
            if self.stops_early and not self.training:  # asking whether all have ended waits for the device: never inside a training step
                ended |= symbols == self.tokens.end
                if ended.all():
                    break
        return Decoded(torch.stack(logits, 1), torch.stack(contexts, 1), torch.stack(attention, 1))

    def encode(self, texts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """Targets (n, max_length + 2) int64: start, the characters' ids, end, padding: see `encode_symbols`."""
        return encode_symbols(texts, self.tokens, self.max_length).to(device)

    def inputs(self, targets: Tensor) -> Tensor:
        """The symbols to feed for teacher forcing: all of the target row but its last, (n, max_length + 1)."""
        return targets[:, :-1]

    def loss(self, decoded: Decoded, targets: Tensor) -> Tensor:
        """Cross-entropy against all of the target row but its first, mean over the positions that are not padding."""
        return F.cross_entropy(at_least_float32(decoded.logits.flatten(0, 1)), targets[:, 1:].flatten(),
                               ignore_index=self.tokens.pad)

    def read(self, decoded: Decoded) -> Reading:
        """The likeliest symbol of each step, up to the first end symbol: see `read_symbols`."""
        return read_symbols(decoded.logits, self.tokens)
