"""The decoder of HGA, "A holistic representation guided attention network for scene text recognition" (Yang et al., Neurocomputing 2020).

A transformer decoder (Vaswani et al., NeurIPS 2017) that is shown one vector of the whole image at every step. With the encoder's map F,
its positions M = W_m F, the symbol y_t fed at step t (counted from 1) and LN a layer normalisation:
    g   = W_g mean(bottlenecks(F)) + b_g,                x_t = [g, embedding(y_t) + position(t)],
    a_t = LN(x_t + heads(x_t over x_1 … x_t)),           b_t = LN(a_t + heads(a_t over M)),
    h_t = LN(b_t + W_2 relu(W_1 b_t)),                   logits = W_o h_t,
the second and third line once for every layer. Two of them share g, M and W_o: one writes from left to right, the other from right to left.

Teacher forcing runs all steps at once. Without tokens a step at a time is written: the keys and values of the steps before are kept, and
those of M are projected once. Positions that hold padding give zeros, and nothing looks at them.

Deviations: a text that is too long or holds a foreign character is refused, where the authors cut and delete; a blank is such a character,
and does not end the word. Where a hypothesis of the beam goes on behind an end symbol, we read it up to the first one.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.charset import AttentionTokens, Charset
from models.decoders.decoded import Decoded, Reading
from models.decoders.symbols import encode_symbols, reversed_rows, spelled
from models.encoders.hga_resnet import Holistic
from models.precision import Table, at_least_float32

KeysValues = tuple[Tensor, Tensor]  # two (n, heads, positions, width / heads)


def hga_tokens(charset: Charset) -> AttentionTokens:
    """HGA's ids: characters from 0, then start, end, padding, unknown. The last is never taught."""
    count = len(charset)
    return AttentionTokens(charset, first_character=0, behind=4, start=count, end=count + 1, pad=count + 2)


def sinusoid(positions: int, width: int) -> Tensor:
    """(positions, width) float64: sines (even columns) and cosines (odd ones) of position / 10000^(2 floor(column / 2) / width); row 0 is zero."""
    pairs = torch.arange(0, width, 2, dtype=torch.float64)
    angles = torch.arange(positions, dtype=torch.float64).unsqueeze(1) / 10000 ** (pairs / width)  # (positions, width / 2)
    table = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
    table[0] = 0
    return table


class HeadsAttention(nn.Module):
    """Attention of several heads, with its residual connection and layer normalisation: LN(x + W heads(x))."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.query, self.key, self.value):
            nn.init.normal_(linear.weight, std=(2 / (width + width // heads)) ** 0.5)
        nn.init.xavier_normal_(self.output.weight)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (n, heads, positions, width / heads)

    def project(self, x: Tensor) -> KeysValues:
        """The keys and values of (n, positions, width)."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x: Tensor, seen: KeysValues, masked: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(n, steps, width) -> the same, what the heads saw (n, steps, width), and their weights (n, heads, steps, positions).

        masked: bool, of a shape that spreads to the weights'; true where a step must not look.
        """
        keys, values = seen
        scores = self._split(self.query(x)) @ keys.transpose(2, 3) * self.scale  # (n, heads, steps, positions)
        if masked is not None:
            scores = scores.masked_fill(masked, torch.finfo(scores.dtype).min)  # not -inf: a step may have nothing to look at
        weights = scores.softmax(3)
        contexts = (self.dropout(weights).to(values.dtype) @ values).transpose(1, 2).flatten(2)  # (n, steps, width)
        return self.norm(x + self.dropout(self.output(contexts))), contexts, weights


class DecoderLayer(nn.Module):
    """Attention over the symbols, attention over the memory, and two linear layers. `real` (n, steps, 1) is false at padding."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.symbol_attention = HeadsAttention(width, heads, dropout)
        self.memory_attention = HeadsAttention(width, heads, dropout)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor, masked: Tensor, memory: KeysValues) -> tuple[Tensor, Tensor, Tensor]:
        """All steps at once: x (n, steps, width), masked (n, 1, steps, steps) -> as `HeadsAttention`, of the memory."""
        x, _, _ = self.symbol_attention(x, self.symbol_attention.project(x), masked)
        return self._look(x * real, real, memory)

    def step(self, x: Tensor, real: Tensor, masked: Tensor, past: KeysValues | None, memory: KeysValues) -> tuple[KeysValues, tuple]:
        """The next step of several beams an image: x (n, beams, width) -> what is past now, and as `forward`.

        masked: (n * beams, 1, 1, steps). past: the keys and values of the steps before, of n * beams; None at the first step. The memory's
        are the same for all beams of an image.
        """
        symbol = x.flatten(0, 1).unsqueeze(1)  # (n * beams, 1, width)
        now = self.symbol_attention.project(symbol)
        past = now if past is None else (torch.cat([past[0], now[0]], 2), torch.cat([past[1], now[1]], 2))
        symbol, _, _ = self.symbol_attention(symbol, past, masked)
        return past, self._look(symbol.view_as(x) * real, real, memory)

    def _look(self, x: Tensor, real: Tensor, memory: KeysValues) -> tuple[Tensor, Tensor, Tensor]:
        x, contexts, weights = self.memory_attention(x, memory)
        x = x * real
        x = self.norm(x + self.dropout(self.contract(F.relu(self.expand(x))))) * real
        return x, contexts, weights


@dataclass
class Written:
    """What one direction made of the symbols that it was fed."""

    hidden: Tensor  # (n, steps, width)
    contexts: Tensor  # (n, steps, width): what the last layer's heads saw of the memory, side by side
    attention: Tensor  # (n, heads, steps, frames): where they looked


class Direction(nn.Module):
    """The decoder of one direction: symbols -> hidden states."""

    def __init__(self, tokens: AttentionTokens, max_length: int, *, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens.symbols, width // 2, padding_idx=tokens.pad)
        self.most = max_length + 2  # symbols in a row; steps count from 1
        self.positions = Table(partial(sinusoid, self.most + 1, width // 2))
        self.layers = nn.ModuleList(DecoderLayer(width, heads, dropout) for _ in range(layers))

    def project(self, memory: Tensor) -> list[KeysValues]:
        """The keys and values that each layer sees of (n, frames, width)."""
        return [layer.memory_attention.project(memory) for layer in self.layers]

    def _embed(self, symbols: Tensor, positions: Tensor, holistic: Tensor) -> Tensor:
        embedded = self.embedding(symbols) + positions
        return torch.cat([holistic.unsqueeze(1).expand(-1, symbols.shape[1], -1), embedded], 2)  # (n, steps, width)

    def forward(self, symbols: Tensor, holistic: Tensor, memory: list[KeysValues]) -> Written:
        """All steps at once: symbols (n, steps), holistic (n, width / 2), memory from `project`."""
        steps = symbols.shape[1]
        if steps > self.most:
            raise ValueError(f"expected at most {self.most} symbols a row, found {steps}: "
                             "build the recognizer with a larger max_length")
        padding = symbols == self.embedding.padding_idx
        ahead = torch.ones(steps, steps, dtype=torch.bool, device=symbols.device).triu(1)
        masked, real = ahead | padding[:, None, None], ~padding.unsqueeze(2)  # (n, 1, steps, steps), (n, steps, 1)
        x = self._embed(symbols, self.positions()[1:steps + 1], holistic) * real
        for layer, seen in zip(self.layers, memory, strict=True):
            x, contexts, weights = layer(x, real, masked, seen)
        return Written(x, contexts, weights)

    def step(self, fed: Tensor, holistic: Tensor, memory: list[KeysValues],
             past: list[KeysValues | None]) -> tuple[Written, list[KeysValues | None]]:
        """The next step of several beams an image: fed (n, beams, steps so far) -> (n, beams, …) each, and each layer's past now."""
        padding = fed == self.embedding.padding_idx
        masked, real = padding.flatten(0, 1)[:, None, None], ~padding[:, :, -1:]  # (n * beams, 1, 1, steps), (n, beams, 1)
        x = self._embed(fed[:, :, -1], self.positions()[fed.shape[2]], holistic) * real
        now = []
        for layer, before, seen in zip(self.layers, past, memory, strict=True):
            kept, (x, contexts, weights) = layer.step(x, real, masked, before, seen)
            now.append(kept)
        return Written(x, contexts, weights), now


@dataclass
class Spelling:
    """The symbols that one direction writes for n images."""

    ids: Tensor  # (n, steps)
    log_probabilities: Tensor  # (n, steps), of these symbols
    scores: Tensor  # (n,): their sum, the end symbol's included


class HolisticDecoder(nn.Module):
    """Writes one symbol a step, from left to right and from right to left; the likelier of both is what is read.

    `logits` are those from left to right; the branch "right_to_left" holds the others, where there are two directions.
    """

    kind = "attention"
    stops_early = True

    def __init__(self, charset: Charset, memory_width: int = 512, *, rows: int, directions: int = 2, layers: int = 1, width: int = 1024,
                 heads: int = 16, bottlenecks: int = 6, max_length: int = 34, dropout: float = 0.1) -> None:
        """rows: of the map, whose rows follow each other in the memory. width: of the hidden states, half of it for the holistic vector."""
        super().__init__()
        if directions not in (1, 2) or layers < 1:
            raise ValueError(f"expected 1 or 2 directions and at least 1 decoder layer, found {directions} and {layers}: "
                             "the paper has 2 and 1")
        self.tokens = hga_tokens(charset)
        self.max_length = max_length
        self.rows = rows
        self.holistic = Holistic(memory_width, width // 2, bottlenecks)
        self.memory_projection = nn.Linear(memory_width, width, bias=False)
        sizes = {"width": width, "heads": heads, "layers": layers, "dropout": dropout}
        self.directions = nn.ModuleList(Direction(self.tokens, max_length, **sizes) for _ in range(directions))
        self.classifier = nn.Linear(width, self.tokens.classes, bias=False)
        nn.init.xavier_normal_(self.classifier.weight)

    def look(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(n, frames, memory width) -> the holistic vector (n, width / 2), and what the directions look at (n, frames, width).

        ValueError for frames that do not fill the map's rows.
        """
        if memory.shape[1] % self.rows:
            raise ValueError(f"expected a memory of {self.rows} rows of frames, found {memory.shape[1]} frames: "
                             "build the recognizer for the height of its images")
        features = memory.transpose(1, 2).unflatten(2, (self.rows, -1))  # (n, memory width, rows, columns)
        return self.holistic(features), self.memory_projection(memory)

    def forward(self, memory: Tensor, tokens: Tensor | None = None, projection: nn.Module | None = None) -> Decoded:
        """(n, frames, memory width) -> max_length + 1 steps in each direction.

        tokens: (n, steps) int64, the symbol before each step from left to right (teacher forcing). Without them each direction is fed its
            own likeliest symbol, and in eval mode it stops once every sequence has ended, which may leave both with different steps.
        projection: (width -> width), if given, is applied to the hidden states of both directions just before the classifier.
        """
        holistic, frames = self.look(memory)
        outputs = []
        for number, direction in enumerate(self.directions):
            seen = direction.project(frames)
            if tokens is None:
                outputs.append(self._greedy(direction, holistic, seen, projection))
            else:
                written = direction(tokens if number == 0 else reversed_rows(tokens, self.tokens), holistic, seen)
                outputs.append((self._classify(written.hidden, projection), written))
        logits, written = outputs[0]
        branches = {"right_to_left": others for others, _ in outputs[1:]}
        return Decoded(logits, written.contexts, written.attention.mean(1), branches)

    def _classify(self, hidden: Tensor, projection: nn.Module | None) -> Tensor:
        return self.classifier(hidden if projection is None else projection(hidden))

    def _start(self, direction: Direction, images: Tensor, beams: int) -> tuple[Tensor, list[None]]:
        """(fed, past) before the first step: a start symbol for each of an image's beams."""
        fed = torch.full((images.shape[0], beams, 1), self.tokens.start, dtype=torch.int64, device=images.device)
        return fed, [None] * len(direction.layers)

    def _greedy(self, direction: Direction, holistic: Tensor, memory: list[KeysValues],
                projection: nn.Module | None) -> tuple[Tensor, Written]:
        fed, past = self._start(direction, holistic, 1)
        ended = torch.zeros_like(fed[:, :, 0], dtype=torch.bool)
        logits, steps = [], []
        for _ in range(self.max_length + 1):
            written, past = direction.step(fed, holistic, memory, past)
            steps.append(written)
            logits.append(self._classify(written.hidden, projection))  # (n, 1, classes)
            symbols = logits[-1].argmax(2)
            fed = torch.cat([fed, symbols.unsqueeze(2)], 2)
            if self.stops_early and not self.training:  # asking whether all have ended waits for the device: never inside a training step
                ended |= symbols == self.tokens.end
                if ended.all():
                    break
        return torch.cat(logits, 1), Written(torch.cat([step.hidden for step in steps], 1), torch.cat([step.contexts for step in steps], 1),
                                             torch.cat([step.attention for step in steps], 2))

    def beam_search(self, memory: Tensor, width: int = 5) -> list[Spelling]:
        """The best hypothesis of each direction, `width` of them being kept at every step. The caller chooses eval mode and no_grad.

        Behind the end of a hypothesis its row is filled up with the end symbol.
        A hypothesis's score is the sum of its log-probabilities, whatever its length. An image is done when its best hypothesis ends, or
        after max_length + 1 steps; an end symbol in another hypothesis is a symbol like any. ValueError for a width over the classes.
        """
        if not 1 <= width <= self.tokens.classes:
            raise ValueError(f"expected a beam of 1 to {self.tokens.classes} hypotheses, found {width}: there are no more first symbols")
        holistic, frames = self.look(memory)
        return [self._search(direction, holistic, direction.project(frames), width) for direction in self.directions]

    def _search(self, direction: Direction, holistic: Tensor, memory: list[KeysValues], width: int) -> Spelling:
        fed, past = self._start(direction, holistic, width)
        count, classes, device = len(fed), self.tokens.classes, fed.device
        same = torch.arange(width, device=device)
        first = torch.arange(count, device=device).unsqueeze(1) * width  # (n, 1): where each image's beams begin
        scores = torch.where(same == 0, 0.0, float("-inf")).expand(count, width)  # all are the same at first: one goes on
        chosen = torch.zeros(count, width, 0, device=device)  # the log-probability of each symbol
        done = torch.zeros(count, 1, dtype=torch.bool, device=device)
        for _ in range(self.max_length + 1):
            written, past = direction.step(fed, holistic, memory, past)
            log_probabilities = at_least_float32(self.classifier(written.hidden)).log_softmax(2)  # (n, width, classes)
            # A stable sort: behind padding all symbols are alike, and the first of them must win, as in argmax.
            totals = (scores.unsqueeze(2) + log_probabilities).flatten(1)  # (n, width * classes)
            best, which = (part[:, :width] for part in totals.sort(dim=1, descending=True, stable=True))
            # What is done stays as it is, but for end symbols that are added behind.
            source = torch.where(done, same, which // classes)
            symbols = torch.where(done, self.tokens.end, which % classes)
            scores = torch.where(done, scores, best)
            newest = torch.where(done, 0.0, log_probabilities.flatten(1).gather(1, which))
            beams = (first + source).flatten()  # (n * width,)
            fed = torch.cat([fed.flatten(0, 1)[beams].view_as(fed), symbols.unsqueeze(2)], 2)
            chosen = torch.cat([chosen.flatten(0, 1)[beams].view_as(chosen), newest.unsqueeze(2)], 2)
            past = [(keys[beams], values[beams]) for keys, values in past]
            done = done | (symbols[:, :1] == self.tokens.end)
            if self.stops_early and not self.training and done.all():
                break
        return Spelling(fed[:, 0, 1:], chosen[:, 0], scores[:, 0])

    def encode(self, texts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """Targets (n, max_length + 2) int64, from left to right: start, the characters' ids, end, padding: see `encode_symbols`."""
        return encode_symbols(texts, self.tokens, self.max_length).to(device)

    def inputs(self, targets: Tensor) -> Tensor:
        """The symbols to feed for teacher forcing: all of the target row but its last, (n, max_length + 1)."""
        return targets[:, :-1]

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(at_least_float32(logits.flatten(0, 1)), targets[:, 1:].flatten(), ignore_index=self.tokens.pad)

    def loss(self, decoded: Decoded, targets: Tensor) -> Tensor:
        """The mean of both directions' cross-entropies, each a mean over the positions that are not padding."""
        forward = self._cross_entropy(decoded.logits, targets)
        if len(self.directions) == 1:
            return forward
        return 0.5 * forward + 0.5 * self._cross_entropy(decoded.branches["right_to_left"], reversed_rows(targets, self.tokens))

    def read(self, decoded: Decoded) -> Reading:
        """The likeliest symbol of each step, up to the first end symbol, of the direction where these are likelier."""
        return self._read([self._likeliest(logits) for logits in (decoded.logits, *decoded.branches.values())])

    def read_beams(self, memory: Tensor, width: int = 5) -> Reading:
        """The strings that `beam_search` finds, each of the direction with the higher score."""
        return self._read(self.beam_search(memory, width))

    def _likeliest(self, logits: Tensor) -> Spelling:
        log_probabilities, ids = at_least_float32(logits.detach()).log_softmax(2).max(2)
        ends = (ids == self.tokens.end).long()
        inside = ends.cumsum(1) - ends == 0  # (n, steps): up to the first end symbol, and with it
        return Spelling(ids, log_probabilities, (log_probabilities * inside).sum(1))

    def _read(self, directions: list[Spelling]) -> Reading:
        """Of each image the string of the direction with the higher score; where both are alike, the one from right to left."""
        readings = [self._spell(spelling) for spelling in directions]
        if len(readings) == 1:
            return readings[0]
        forward, backward = readings
        first = directions[0].scores > directions[1].scores
        pairs = [(forward.texts[i], forward.characters[i]) if chosen else (backward.texts[i][::-1], backward.characters[i][::-1])
                 for i, chosen in enumerate(first.tolist())]
        return Reading([text for text, _ in pairs], torch.where(first.cpu(), forward.confidences, backward.confidences),
                       [characters for _, characters in pairs])

    def _spell(self, spelling: Spelling) -> Reading:
        return spelled(spelling.ids, spelling.log_probabilities.exp(), self.tokens)
