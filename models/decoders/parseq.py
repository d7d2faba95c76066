"""The decoder of PARSeq (Bautista and Atienza, "Scene text recognition with permuted autoregressive sequence models", ECCV 2022).

With position queries p, the context c (what was written, each symbol with its position), the memory z and a mask m of what may be seen:

    h_c = p + MHA(p, c, c, m),   h_i = h_c + MHA(h_c, z, z),   h = h_i + MLP(h_i),   y = Linear(h)

with LayerNorm before each attention and MLP, and at the end. The mask alone decides in which order symbols are written:

* Training takes the mean over K orders, which are drawn anew for every batch, as long as its longest label (permutation language modeling).
* Reading writes from left to right, or all symbols at once with the start symbol for the only context, and then refines: each symbol is
  written again with all others for its context (the cloze mask).

One layer, as in all of the paper's models. What no step changes is computed before the loop: the queries, and the memory's keys and values.
The context's are kept from step to step. Reading that stops early still refines all max_length + 1 symbols, so a word reads the same in
every batch.

Deviation: where the hub keeps a list of twelve orders for words of four characters, here one of each pair of mirrors is drawn; its mirror
is learned with it in both.
"""

from itertools import permutations as all_orders
from math import factorial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.charset import AttentionTokens, Charset
from models.decoders.decoded import Decoded, Reading
from models.decoders.symbols import encode_symbols, read_symbols
from models.precision import at_least_float32

KeysValues = tuple[Tensor, Tensor]


def parseq_tokens(charset: Charset) -> AttentionTokens:
    """The hub's ids: end 0, characters from 1, then start and padding, which are fed and never written."""
    return AttentionTokens(charset, first_character=1, start=len(charset) + 1, pad=len(charset) + 2, end=0, fed_only=2)


def left_to_right(length: int) -> Tensor:
    """The order (1, length + 2) in which words of `length` characters are read: start, characters, end."""
    return torch.arange(length + 2, device="cpu").unsqueeze(0)


def draw_orders(length: int, count: int) -> Tensor:
    """K orders (K, length + 2) for words of `length` characters, drawn by PyTorch's generator of the CPU.

    An order lists indices as they are written: start (0), characters (1 … length), end (length + 1). First come left to right and its
    mirror, in which the end is written before all characters, then random orders, each with its mirror. K is `count` (1, or even), but 1
    for words of no or one character and 2 for two.
    """
    if count == 1 or length < 2:
        return left_to_right(length)
    pairs = min(count, factorial(length)) // 2
    forward = torch.cat([torch.arange(1, length + 1, device="cpu").unsqueeze(0), _random_orders(length, pairs - 1)])  # (pairs, length)
    characters = torch.stack([forward, forward.flip(1)], 1).flatten(0, 1)  # (K, length): each is followed by its mirror
    orders = F.pad(F.pad(characters, (1, 0), value=0), (0, 1), value=length + 1)  # (K, length + 2)
    orders[1, 1:] = orders[1, 1:].roll(1)  # the end, then the characters backwards
    return orders


def _random_orders(length: int, count: int) -> Tensor:
    """(count, length): random orders of 1 … length; for up to 4 characters neither left to right nor another's mirror, and none twice."""
    if count == 0:
        return torch.empty(0, length, dtype=torch.int64, device="cpu")
    if length > 4:
        return torch.stack([torch.randperm(length, device="cpu") + 1 for _ in range(count)])
    one_of_each_pair = [order for order in all_orders(range(1, length + 1)) if order[0] < order[-1]]  # left to right is the first
    pool = torch.tensor(one_of_each_pair[1:], device="cpu")
    return pool[torch.randperm(len(pool), device="cpu")[:count]]


def permutation_masks(orders: Tensor) -> tuple[Tensor, Tensor]:
    """What may be seen when writing in these orders (K, steps + 1): two (K, steps, steps) bool, True where it may.

    content: symbol a may see symbol b that comes no later in the order, itself included. A decoder of one layer has no use for it.
    query: the step that writes symbol a + 1 may see symbol b that comes before that symbol.
    """
    rank = orders.argsort(1)  # (K, steps + 1): where in the order an index stands
    symbols = rank[:, None, :-1]
    return symbols <= rank[:, :-1, None], symbols < rank[:, 1:, None]


class MultiheadAttention(nn.Module):
    """Attention in `heads` subspaces, in three parts, so that queries, keys and values can be prepared apart."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.width, self.heads, self.dropout = width, heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def queries(self, x: Tensor) -> Tensor:
        """(n, steps, width) -> (n, heads, steps, width / heads)."""
        projected = F.linear(x, self.in_proj_weight[:self.width], self.in_proj_bias[:self.width])
        return projected.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> KeysValues:
        """(n, frames, width) -> keys and values, (n, heads, frames, width / heads) each."""
        projected = F.linear(x, self.in_proj_weight[self.width:], self.in_proj_bias[self.width:])
        keys, values = projected.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return keys, values

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None = None) -> Tensor:
        """-> (n, steps, width). `visible` (n or 1, 1, steps, frames) bool: what each step may look at."""
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible, dropout_p=dropout)
        return self.out_proj(seen.transpose(1, 2).flatten(2))

    @staticmethod
    def weights(queries: Tensor, keys: Tensor) -> Tensor:
        """Where an attention without a mask looks, the mean over heads: (n, steps, frames), rows sum to 1."""
        scores = queries @ keys.transpose(2, 3) / queries.shape[3] ** 0.5  # (n, heads, steps, frames)
        return at_least_float32(scores).softmax(3).mean(1)


class QueryLayer(nn.Module):
    """The layer above: positions look at the context, then at the memory. Parts have their published names."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(width, heads, dropout)
        self.cross_attn = MultiheadAttention(width, heads, dropout)
        self.linear1 = nn.Linear(width, 4 * width)
        self.linear2 = nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm_q, self.norm_c = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def asks(self, positions: Tensor) -> Tensor:
        """(n, steps, width) -> the queries to the context."""
        return self.self_attn.queries(self.norm_q(positions))

    def context(self, content: Tensor) -> KeysValues:
        """(n, symbols, width) -> the context's keys and values."""
        return self.self_attn.keys_values(self.norm_c(content))

    def forward(self, positions: Tensor, asks: Tensor, context: KeysValues, memory: KeysValues,
                visible: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """positions (n, steps, width), the same as `asks` -> h, what the memory gave (n, steps, width), and the queries to the memory.

        Several orders of one image stand behind each other in the steps, but are images of their own in asks, context and visible.
        """
        stream = positions + self.dropout(self.self_attn(asks, *context, visible).reshape(positions.shape))
        looks = self.cross_attn.queries(self.norm1(stream))
        glimpses = self.cross_attn(looks, *memory)
        stream = stream + self.dropout(glimpses)
        hidden = self.linear2(self.dropout(F.gelu(self.linear1(self.norm2(stream)))))
        return stream + self.dropout(hidden), glimpses, looks


class PARSeqDecoder(nn.Module):
    """Writes symbols in any order: learns from several, reads from left to right, and refines."""

    kind = "attention"
    stops_early = True

    def __init__(self, charset: Charset, memory_width: int, *, heads: int = 12, max_length: int = 25, dropout: float = 0.1,
                 permutations: int = 6, decode: Literal["autoregressive", "one_shot"] = "autoregressive",
                 refinements: int | None = None) -> None:
        """permutations: K, 1 (left to right alone) or even: half of the orders are the others' mirrors.

        refinements: how often what was read is refined; None stands for the paper's 1 (autoregressive) or 2 (one_shot).
        """
        super().__init__()
        _check(permutations, decode, refinements)
        self.tokens = parseq_tokens(charset)
        self.max_length, self.permutations, self.decode = max_length, permutations, decode
        self.refinements = {"autoregressive": 1, "one_shot": 2}[decode] if refinements is None else refinements
        self.scale = memory_width**0.5
        self.embedding = nn.Embedding(self.tokens.symbols, memory_width)
        self.pos_queries = nn.Parameter(torch.empty(1, max_length + 1, memory_width))
        self.layer = QueryLayer(memory_width, heads, dropout)
        self.norm = nn.LayerNorm(memory_width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(memory_width, self.tokens.classes)
        nn.init.normal_(self.pos_queries, std=0.02)

    def forward(self, memory: Tensor, tokens: Tensor | None = None, projection: nn.Module | None = None) -> Decoded:
        """(n, frames, width) -> tokens' steps, or max_length + 1 (fewer only where reading stops early and nothing is refined).

        tokens: (n, steps) int64, start and the symbols before each step. In eval mode they are fed from left to right. In training mode
            in K orders: branches["permutations"] (K, n, steps, classes), the first of which, left to right, gives the logits.
            ValueError for more than max_length + 1 steps.
        projection: (width -> width), if given, is applied just before the classifier.
        In training mode there is no attention map.
        """
        if tokens is not None:
            return self._forced(memory, tokens, projection)
        keys_values = self.layer.cross_attn.keys_values(memory)
        if self.decode == "one_shot":
            decoded = self._at_once(keys_values, projection)
        else:
            decoded = self._step_by_step(keys_values, projection)
        for _ in range(self.refinements):
            decoded = self._refined(keys_values, decoded.logits, projection)
        return decoded

    def _content(self, tokens: Tensor) -> Tensor:
        """(n, symbols) -> (n, symbols, width): embedded, and all but the first, the start symbol, with their positions."""
        return self.embedding(tokens) * self.scale + F.pad(self.pos_queries[:, :tokens.shape[1] - 1], (0, 0, 1, 0))

    def _logits(self, stream: Tensor, projection: nn.Module | None) -> Tensor:
        hidden = self.norm(stream)
        return self.classifier(hidden if projection is None else projection(hidden))

    def _answer(self, memory: KeysValues, tokens: Tensor, visible: Tensor, projection: nn.Module | None) -> tuple[Decoded, Tensor]:
        """Every step at once, in K orders: the outputs of the first, and the logits of all, (n, K, steps, classes).

        tokens (n, symbols); visible (n, K, steps, symbols) bool: which symbols a step may look at.
        """
        count, orders, steps, _ = visible.shape
        content = self.dropout(self._content(tokens).unsqueeze(1).expand(-1, orders, -1, -1))  # (n, K, symbols, width)
        positions = self.dropout(self.pos_queries[:, None, :steps].expand(count, orders, -1, -1))  # (n, K, steps, width)
        stream, glimpses, looks = self.layer(
            positions.flatten(1, 2), self.layer.asks(positions.flatten(0, 1)), self.layer.context(content.flatten(0, 1)), memory,
            visible.flatten(0, 1).unsqueeze(1))
        logits = self._logits(stream, projection).unflatten(1, (orders, steps))  # (n, K, steps, classes)
        attention = None if self.training else self.layer.cross_attn.weights(looks[:, :, :steps], memory[0])
        return Decoded(logits[:, 0], glimpses[:, :steps], attention), logits

    def in_orders(self, memory: Tensor, tokens: Tensor, orders: Tensor, projection: nn.Module | None = None) -> Decoded:
        """Fed with `tokens` (n, steps) in each of the orders (K, steps + 1): see `forward`, which draws them, and `draw_orders`."""
        _, visible = permutation_masks(orders.to(tokens.device, non_blocking=True))  # (K, steps, steps)
        characters = (tokens != self.tokens.end) & (tokens != self.tokens.pad)  # (n, steps)
        written = F.pad(characters[:, 1:], (1, 0), value=True)  # the start symbol is always seen
        decoded, logits = self._answer(self.layer.cross_attn.keys_values(memory), tokens, visible & written[:, None, None], projection)
        decoded.branches["permutations"] = logits.transpose(0, 1)  # (K, n, steps, classes)
        return decoded

    def _forced(self, memory: Tensor, tokens: Tensor, projection: nn.Module | None) -> Decoded:
        steps = tokens.shape[1]
        if not 1 <= steps <= self.max_length + 1:
            raise ValueError(f"expected 1 to {self.max_length + 1} symbols to feed, found {steps}: encode the labels with this decoder")
        if self.training:
            return self.in_orders(memory, tokens, draw_orders(steps - 1, self.permutations), projection)
        decoded = self.in_orders(memory, tokens, left_to_right(steps - 1), projection)
        return Decoded(decoded.logits, decoded.glimpses, decoded.attention)

    def _starts(self, memory: KeysValues) -> Tensor:
        return torch.full((memory[0].shape[0], 1), self.tokens.start, dtype=torch.int64, device=memory[0].device)

    def _at_once(self, memory: KeysValues, projection: nn.Module | None) -> Decoded:
        start = self._starts(memory)
        everything = torch.ones(start.shape[0], 1, self.max_length + 1, 1, dtype=torch.bool, device=start.device)
        return self._answer(memory, start, everything, projection)[0]

    def _refined(self, memory: KeysValues, logits: Tensor, projection: nn.Module | None) -> Decoded:
        """All symbols again: step i sees what was written up to the first end symbol, but for its own, which is symbol i + 1."""
        tokens = torch.cat([self._starts(memory), logits[:, :-1].argmax(2)], 1)  # (n, steps)
        written = (tokens == self.tokens.end).cumsum(1) == 0  # (n, steps)
        step = torch.arange(self.max_length + 1, device=tokens.device)
        cloze = step[:tokens.shape[1]] != step.unsqueeze(1) + 1  # (max_length + 1, steps)
        return self._answer(memory, tokens, cloze & written[:, None, None], projection)[0]

    def _step_by_step(self, memory: KeysValues, projection: nn.Module | None) -> Decoded:
        """From left to right, each step fed with the likeliest symbol of the one before."""
        symbols = self._starts(memory)  # (n, 1)
        positions = self.dropout(self.pos_queries.expand(symbols.shape[0], -1, -1))  # (n, max_length + 1, width)
        asks = self.layer.asks(positions)
        ended = torch.zeros_like(symbols, dtype=torch.bool)
        keys, values, logits, glimpses, looks = [], [], [], [], []
        for step in range(self.max_length + 1):
            content = self.embedding(symbols) * self.scale
            key, value = self.layer.context(self.dropout(content + self.pos_queries[:, step - 1:step] if step else content))
            keys.append(key)
            values.append(value)
            stream, glimpse, look = self.layer(positions[:, step:step + 1], asks[:, :, step:step + 1],
                                               (torch.cat(keys, 2), torch.cat(values, 2)), memory)
            logits.append(self._logits(stream, projection))
            glimpses.append(glimpse)
            looks.append(look)
            symbols = logits[-1].argmax(2)  # (n, 1)
            if self.stops_early and not self.training:  # asking whether all have ended waits for the device: never inside a training step
                ended |= symbols == self.tokens.end
                if ended.all():
                    break
        attention = None if self.training else self.layer.cross_attn.weights(torch.cat(looks, 2), memory[0])
        return Decoded(torch.cat(logits, 1), torch.cat(glimpses, 1), attention)

    def encode(self, texts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """Targets (n, longest text + 2) int64: start, the characters' ids, end, padding: see `encode_symbols`.

        They are only as wide as the batch needs, because the orders are drawn over the longest label.
        """
        targets = encode_symbols(texts, self.tokens, self.max_length)
        longest = max((len(self.tokens.charset.normalise(text)) for text in texts), default=0)
        return targets[:, :longest + 2].to(device)

    def inputs(self, targets: Tensor) -> Tensor:
        """The symbols to feed for teacher forcing: all of the target row but its last, (n, steps)."""
        return targets[:, :-1]

    def loss(self, decoded: Decoded, targets: Tensor) -> Tensor:
        """Cross-entropy against all of the target row but its first, mean over the symbols that count, over all orders.

        Padding never counts, and the end symbol only in the first two orders.
        """
        wanted = targets[:, 1:]  # (n, steps)
        logits = decoded.branches.get("permutations", decoded.logits.unsqueeze(0))  # (K, n, steps, classes)
        without_end = wanted.masked_fill(wanted == self.tokens.end, self.tokens.pad)
        wanted = torch.stack([wanted if order < 2 else without_end for order in range(len(logits))])
        return F.cross_entropy(at_least_float32(logits.flatten(0, 2)), wanted.flatten(), ignore_index=self.tokens.pad)

    def read(self, decoded: Decoded) -> Reading:
        """The likeliest symbol of each step, up to the first end symbol: see `read_symbols`."""
        return read_symbols(decoded.logits, self.tokens)


def _check(permutations: int, decode: str, refinements: int | None) -> None:
    if permutations != 1 and (permutations < 2 or permutations % 2):
        raise ValueError(f"expected 1 permutation or an even number, found {permutations}: the paper's is 6")
    if decode not in ("autoregressive", "one_shot"):
        raise ValueError(f"expected decode autoregressive or one_shot, found {decode!r}: choose one of the two")
    if refinements is not None and refinements < 0:
        raise ValueError(f"expected a number of refinements from 0, found {refinements}: the paper's are 1 and, for one_shot, 2")
