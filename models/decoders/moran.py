"""The attention decoders of MORAN, version 2 (Luo, Jin and Sun, Pattern Recognition 2019, arXiv 1901.03003).

Two decoders with weights of their own write the word, one from left to right and one from right to left. Step t of either, with memory H,
hidden state h and the embedding e of the previous symbol:
    weights = softmax over frames of v . tanh(W_m H + W_s h + b),   context = weights . H,
    h       = GRUCell([context, e], h),                             logits  = W_o h + b_o.
Fractional pickup, in training only: at every step one frame i and one portion beta < 1/4 are drawn for the batch, and the weights of the
frames i - 1 and i each take the portion beta of the other's; i = 0 and, in the authors' code, the last frame change nothing.
Both directions run as one batch of two. What does not depend on the step is computed before the loop: W_m H; for every symbol its
embedding's part of the GRU's gates, with the biases; W_s stacked on the GRU's recurrent matrix, so that a step multiplies h once; and what
fractional pickup draws. With given tokens the output layer runs once, after the loop.

Of the two strings the authors' evaluation keeps the one whose mean largest logit is higher, the end symbol's step included. An equal mean
is read from left to right.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.charset import AttentionTokens, Charset
from models.decoders.decoded import Decoded, Reading
from models.decoders.symbols import encode_symbols, read_symbols, reversed_rows
from models.precision import at_least_float32


def moran_tokens(charset: Charset) -> AttentionTokens:
    """Characters from 0, the end `$` behind them; behind that the start, which is fed and never written, and which also pads."""
    count = len(charset)
    return AttentionTokens(charset, first_character=0, behind=1, fed_only=1, start=count + 1, pad=count + 1, end=count)


class Direction(nn.Module):
    """The weights of one direction; `BidirectionalDecoder` runs them."""

    def __init__(self, tokens: AttentionTokens, memory_width: int, hidden: int, embedding: int) -> None:
        super().__init__()
        self.memory_projection = nn.Linear(memory_width, hidden, bias=False)
        self.state_projection = nn.Linear(hidden, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)
        self.embedding = nn.Embedding(tokens.symbols, embedding)
        self.cell = nn.GRUCell(memory_width + embedding, hidden)
        self.classifier = nn.Linear(hidden, tokens.classes)


@dataclass
class _Prepared:
    """What the steps over one memory share. The first dimension is the direction, but for the memory, which both look at."""

    memory: Tensor  # (n, frames, width)
    keys: Tensor  # (directions, n, frames, hidden)
    score: Tensor  # (directions, hidden, 1)
    token_gates: Tensor  # (directions * symbols, 3 hidden): one table below the other
    context_weight: Tensor  # (directions, width, 3 hidden)
    state_weight: Tensor  # (directions, hidden, hidden + 3 hidden)
    state_bias: Tensor  # (directions, 1, hidden + 3 hidden)
    classifier_weight: Tensor  # (directions, hidden, classes)
    classifier_bias: Tensor  # (directions, 1, classes)
    first_row: Tensor  # (directions, 1) int64: where in token_gates the direction's table begins


def exchange(index: Tensor, portion: Tensor, frames: int) -> Tensor:
    """The vector u, (…, frames), for which w - (w . u) u is w with the given portions of frames index - 1 and index exchanged.

    index (…) int64, portion (…) in [0, 1]. Zero where the index is 0 or the last frame.
    """
    position = torch.arange(frames, device=index.device)
    index = index.unsqueeze(-1)
    direction = (position == index).to(portion.dtype) - (position == index - 1).to(portion.dtype)  # (…, frames)
    changes = (index > 0) & (index < frames - 1)
    return direction * changes * portion.sqrt().unsqueeze(-1)


def exchanged(weights: Tensor, vector: Tensor) -> Tensor:
    """w - (w . u) u for weights w (…, frames) and a vector u of `exchange`; the sum over the frames stays."""
    return weights - (weights * vector).sum(-1, keepdim=True) * vector


def mean_largest_logits(logits: Tensor, end: int) -> Tensor:
    """(n, steps, classes) -> (n,): the mean of the largest logits up to the first end symbol, its step included."""
    largest, symbols = at_least_float32(logits.detach()).max(-1)
    ends = (symbols == end).long()
    kept = ends.cumsum(1) - ends == 0  # (n, steps) no end symbol comes before
    return (largest * kept).sum(1) / kept.sum(1)


class BidirectionalDecoder(nn.Module):
    """Writes one symbol per step in each direction, until the end symbol or max_length characters.

    The outputs are those from left to right; the branch "right_to_left" holds the other direction's logits, the last character first.
    fractional_pickup: whether training exchanges portions of attention.
    """

    kind = "attention"
    stops_early = True

    def __init__(self, charset: Charset, memory_width: int, *, hidden: int = 256, embedding: int = 256, max_length: int = 25,
                 bidirectional: bool = True, fractional_pickup: bool = True) -> None:
        super().__init__()
        self.tokens = moran_tokens(charset)
        self.max_length, self.hidden, self.fractional_pickup = max_length, hidden, fractional_pickup
        self.left_to_right = Direction(self.tokens, memory_width, hidden, embedding)
        self.right_to_left = Direction(self.tokens, memory_width, hidden, embedding) if bidirectional else None

    @property
    def classifier(self) -> nn.Linear:
        """The last layer from left to right: the one whose logits are the outputs."""
        return self.left_to_right.classifier

    @property
    def directions(self) -> list[Direction]:
        """From left to right, and the other if there is one."""
        return [self.left_to_right] if self.right_to_left is None else [self.left_to_right, self.right_to_left]

    def forward(self, memory: Tensor, tokens: Tensor | None = None, projection: nn.Module | None = None) -> Decoded:
        """(n, frames, width) -> max_length + 1 steps.

        tokens: (n, steps) int64, the symbol before each step from left to right (teacher forcing); the other direction is fed the same
            characters in reverse. Without them each direction is fed its own likeliest symbol, and in eval mode both stop once every
            sequence of both has ended.
        projection: (hidden -> hidden), if given, is applied to the hidden states of both directions just before the classifiers.
        """
        logits, contexts, attention = self._greedy(memory, projection) if tokens is None else self._forced(memory, tokens, projection)
        branches = {} if self.right_to_left is None else {"right_to_left": logits[1]}
        return Decoded(logits[0], contexts[0], attention[0], branches)

    def _for_each_direction(self, rows: Tensor) -> Tensor:
        """Rows (n, steps) from left to right -> (directions, n, steps)."""
        return torch.stack([rows] if self.right_to_left is None else [rows, reversed_rows(rows, self.tokens)])

    def _prepare(self, memory: Tensor) -> _Prepared:
        directions, width = self.directions, memory.shape[-1]

        def stacked(weight: Callable[[Direction], Tensor]) -> Tensor:
            return torch.stack([weight(each) for each in directions])

        # One product for both directions, (n, frames, directions * hidden).
        keys = F.linear(memory, stacked(lambda each: each.memory_projection.weight).flatten(0, 1))
        keys = keys.unflatten(2, (len(directions), self.hidden)).permute(2, 0, 1, 3).contiguous()
        token_gates = torch.baddbmm(stacked(lambda each: each.cell.bias_ih).unsqueeze(1), stacked(lambda each: each.embedding.weight),
                                    stacked(lambda each: each.cell.weight_ih[:, width:].t()))  # (directions, symbols, 3 hidden)
        # To the type of the products here (bfloat16 under autocast), or every step would convert these again.
        return _Prepared(
            memory=memory.to(keys.dtype),
            keys=keys,
            score=stacked(lambda each: each.score.weight.t()).to(keys.dtype),
            token_gates=token_gates.flatten(0, 1),
            context_weight=stacked(lambda each: each.cell.weight_ih[:, :width].t()).to(keys.dtype),
            state_weight=stacked(lambda each: torch.cat([each.state_projection.weight, each.cell.weight_hh]).t()).to(keys.dtype),
            state_bias=stacked(lambda each: torch.cat([each.state_projection.bias, each.cell.bias_hh])).unsqueeze(1).to(keys.dtype),
            classifier_weight=stacked(lambda each: each.classifier.weight.t()).to(keys.dtype),
            classifier_bias=stacked(lambda each: each.classifier.bias).unsqueeze(1).to(keys.dtype),
            first_row=torch.arange(len(directions), device=memory.device).unsqueeze(1) * self.tokens.symbols,
        )

    def _step(self, prepared: _Prepared, token_gates: Tensor, hidden: Tensor, pickup: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """One symbol: token_gates (directions, n, 3 hidden), hidden (directions, n, hidden), pickup (directions, 1, frames) ->
        hidden, context (directions, n, width), weights (directions, n, frames).
        """
        query, recurrent = torch.baddbmm(prepared.state_bias, hidden, prepared.state_weight).split([self.hidden, 3 * self.hidden], 2)
        energy = torch.tanh(prepared.keys + query.unsqueeze(2))  # (directions, n, frames, hidden)
        scores = torch.bmm(energy.flatten(1, 2), prepared.score).view(energy.shape[:3])  # (directions, n, frames)
        weights = scores.softmax(2)
        if pickup is not None:
            weights = exchanged(weights, pickup)
        context = torch.bmm(weights.transpose(0, 1).to(prepared.memory.dtype), prepared.memory).transpose(0, 1)
        gates = torch.baddbmm(token_gates, context, prepared.context_weight)
        reset, keep, new = gates.chunk(3, 2)
        reset_state, keep_state, new_state = recurrent.chunk(3, 2)
        # The reset gate multiplies the state's bias, too, which is why that is not among token_gates.
        new = torch.tanh(new + (reset + reset_state).sigmoid() * new_state)
        return new + (keep + keep_state).sigmoid() * (hidden - new), context, weights

    def _start(self, prepared: _Prepared, steps: int) -> tuple[Tensor, list[Tensor | None]]:
        """The first hidden state (directions, n, hidden), and what fractional pickup exchanges at each step."""
        directions, n, frames, hidden = prepared.keys.shape
        state = prepared.keys.new_zeros(directions, n, hidden)
        if not (self.training and self.fractional_pickup):
            return state, [None] * steps
        index = torch.randint(frames, (steps, directions, 1), device=state.device)
        portion = torch.rand(steps, directions, 1, device=state.device) / 4
        return state, list(exchange(index, portion, frames).to(state.dtype).unbind(0))

    def _logits(self, prepared: _Prepared, hidden: Tensor, projection: nn.Module | None) -> Tensor:
        """(directions, rows, hidden) -> (directions, rows, classes)."""
        return torch.baddbmm(prepared.classifier_bias, hidden if projection is None else projection(hidden), prepared.classifier_weight)

    def _forced(self, memory: Tensor, tokens: Tensor, projection: nn.Module | None) -> tuple[Tensor, Tensor, Tensor]:
        """Each (directions, n, steps, …): logits, contexts, weights."""
        prepared = self._prepare(memory)
        rows = self._for_each_direction(tokens)  # (directions, n, steps)
        token_gates = F.embedding(rows.permute(2, 0, 1) + prepared.first_row, prepared.token_gates)  # (steps, directions, n, 3 hidden)
        state, pickups = self._start(prepared, tokens.shape[1])
        hiddens, contexts, attention = [], [], []
        for gates, pickup in zip(token_gates.unbind(0), pickups, strict=True):
            state, context, weights = self._step(prepared, gates, state, pickup)
            hiddens.append(state)
            contexts.append(context)
            attention.append(weights)
        hidden = torch.stack(hiddens, 2)  # (directions, n, steps, hidden)
        logits = self._logits(prepared, hidden.flatten(1, 2), projection).unflatten(1, tokens.shape)
        return logits, torch.stack(contexts, 2), torch.stack(attention, 2)

    def _greedy(self, memory: Tensor, projection: nn.Module | None) -> tuple[Tensor, Tensor, Tensor]:
        """Each (directions, n, steps, …): logits, contexts, weights."""
        prepared = self._prepare(memory)
        state, pickups = self._start(prepared, self.max_length + 1)
        symbols = torch.full(state.shape[:2], self.tokens.start, dtype=torch.int64, device=memory.device)  # (directions, n)
        ended = torch.zeros_like(symbols, dtype=torch.bool)
        logits, contexts, attention = [], [], []
        for pickup in pickups:
            state, context, weights = self._step(prepared, F.embedding(symbols + prepared.first_row, prepared.token_gates), state, pickup)
            logits.append(self._logits(prepared, state, projection))
            contexts.append(context)
            attention.append(weights)
            symbols = logits[-1].argmax(2)
            if self.stops_early and not self.training:  # asking whether all have ended waits for the device: never inside a training step
                ended |= symbols == self.tokens.end
                if ended.all():
                    break
        return torch.stack(logits, 2), torch.stack(contexts, 2), torch.stack(attention, 2)

    def encode(self, texts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """Targets (n, max_length + 2) int64, from left to right: start, the characters' ids, end, padding: see `encode_symbols`."""
        return encode_symbols(texts, self.tokens, self.max_length).to(device)

    def inputs(self, targets: Tensor) -> Tensor:
        """The symbols to feed for teacher forcing: all of the target row but its last, (n, max_length + 1)."""
        return targets[:, :-1]

    def loss(self, decoded: Decoded, targets: Tensor) -> Tensor:
        """Cross-entropy, mean over the characters and end symbols of both directions."""
        logits = torch.stack([decoded.logits, *decoded.branches.values()])  # (directions, n, steps, classes)
        wanted = self._for_each_direction(targets)[:, :, 1:]  # (directions, n, steps)
        return F.cross_entropy(at_least_float32(logits.flatten(0, 2)), wanted.flatten(), ignore_index=self.tokens.pad)

    def read(self, decoded: Decoded) -> Reading:
        """For each image the string of the direction whose mean largest logit is higher, from left to right: see `read_symbols`."""
        forward = read_symbols(decoded.logits, self.tokens)
        if "right_to_left" not in decoded.branches:
            return forward
        other = decoded.branches["right_to_left"]
        backward = read_symbols(other, self.tokens)
        higher = (mean_largest_logits(other, self.tokens.end) > mean_largest_logits(decoded.logits, self.tokens.end)).cpu()  # (n,)
        chosen = list(enumerate(higher.tolist()))
        return Reading([backward.texts[i][::-1] if flip else forward.texts[i] for i, flip in chosen],
                       torch.where(higher, backward.confidences, forward.confidences),
                       [backward.characters[i][::-1] if flip else forward.characters[i] for i, flip in chosen])
