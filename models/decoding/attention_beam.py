"""Beam search for decoders that are fed their own symbols, in batches: every image keeps its `width` likeliest unfinished strings.

The score of a string is the sum of the log-softmaxes of its characters and of the end symbol, and with a language model + weight * its log
probability of the word. With a length normalisation a > 0 a score is divided by (characters + 1) ** a (Wu et al., arXiv 1609.08144,
equation 14, with the length itself); the papers on scene text use none. A string ends where its end symbol is among the `width` best
continuations of all strings: a beam of one is greedy decoding. It leaves the beam and waits; the search is over when `width` strings wait
and no unfinished one can pass any: scores only fall. After max_length characters nothing but the end may follow.
Only characters and the end are written: what else a token table has stays out, though its probability counts in the softmax.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from models.decoders.attention import AttentionDecoder
from models.decoders.decoder import Decoder
from models.decoding.hypotheses import Hypothesis, hypotheses
from models.decoding.ngram import Ngram
from models.decoding.temperature import log_probabilities


class _RecurrentSteps:
    """One step of an AttentionDecoder for every string; its state moves with the strings."""

    def __init__(self, decoder: AttentionDecoder, memory: Tensor, width: int) -> None:
        prepared = decoder.prepare(memory)
        self.decoder = decoder
        self.prepared = replace(prepared, memory=memory.repeat_interleave(width, 0), keys=prepared.keys.repeat_interleave(width, 0))
        self.state = decoder.start(self.prepared.memory)

    def step(self, symbols: Tensor, parents: Tensor) -> Tensor:
        """(rows,) the symbols before this step, and which rows they continue -> logits (rows, classes)."""
        state = tuple(part[parents] for part in self.state)
        self.state, _, _ = self.decoder.step(self.prepared, F.embedding(symbols, self.prepared.token_gates), state)
        return self.decoder.classifier(self.state[0])


class _FedSteps:
    """The same for any other decoder: at every step it is fed all symbols so far."""

    def __init__(self, decoder: Decoder, memory: Tensor, width: int) -> None:
        self.decoder = decoder
        self.memory = memory.repeat_interleave(width, 0)
        self.symbols = torch.empty(self.memory.shape[0], 0, dtype=torch.int64, device=memory.device)

    def step(self, symbols: Tensor, parents: Tensor) -> Tensor:
        """As above."""
        self.symbols = torch.cat([self.symbols[parents], symbols.unsqueeze(1)], 1)
        return self.decoder(self.memory, self.symbols).logits[:, -1]


@dataclass
class _Strings:
    """Strings of n images; those of score -inf are none."""

    positions: Tensor  # (n, width, max_length) of the characters in the charset
    lengths: Tensor  # (n, width)
    own: Tensor  # (n, width): log probability by the decoder
    score: Tensor  # (n, width): with the language model's part

    def ranks(self, normalisation: float) -> Tensor:
        """What ended strings are compared by, (n, width)."""
        return self.score / (self.lengths + 1) ** normalisation

    def joined(self, others: "_Strings", normalisation: float) -> "_Strings":
        """The best `width` of both, in order."""
        joint = _Strings(*(torch.cat(each, 1) for each in zip(vars(self).values(), vars(others).values(), strict=True)))
        rows = joint.ranks(normalisation).topk(self.score.shape[1], 1).indices
        return _Strings(joint.positions.gather(1, rows.unsqueeze(2).expand_as(self.positions)),
                        joint.lengths.gather(1, rows), joint.own.gather(1, rows), joint.score.gather(1, rows))


@torch.no_grad()
def attention_beam(decoder: Decoder, memory: Tensor, width: int, *, temperature: float = 1.0, language: Ngram | None = None,
                   weight: float = 0.0, normalisation: float = 0.0) -> list[list[Hypothesis]]:
    """(n, frames, width) -> for each image at most `width` strings of at most max_length characters, the best first.

    temperature: what the decoder's logits are divided by. language: over the same charset and on the same device; weight: of its log
    probability, at least 0. A decoder that writes in two directions is searched from left to right.
    """
    tokens, n = decoder.tokens, memory.shape[0]
    first, count = tokens.first_character, len(tokens.charset)
    steps = (_RecurrentSteps if isinstance(decoder, AttentionDecoder) else _FedSteps)(decoder, memory, width)
    row = torch.arange(n, device=memory.device).unsqueeze(1) * width  # (n, 1): an image's first row of n * width
    parents, symbols = row.new_zeros(n, width), row.new_full((n, width), tokens.start)
    states = None if language is None else language.start_states(n, width)
    unfinished, ended = _beginning(n, width, decoder.max_length, memory)
    for length in range(decoder.max_length + 1):
        logits = steps.step(symbols.flatten(), (row + parents).flatten()).unflatten(0, (n, width))
        gain = _written(log_probabilities(logits, temperature), first, count, tokens.end)  # (n, width, characters + 1)
        own, score = unfinished.own.unsqueeze(2) + gain, unfinished.score.unsqueeze(2) + gain
        if language is not None:
            score = score + weight * language.log_probabilities[states]
        among = -torch.inf if length == decoder.max_length else score.flatten(1).topk(width, 1).values[:, -1:]
        ends = score[..., -1].masked_fill(score[..., -1] < among, -torch.inf)
        ended = ended.joined(replace(unfinished, own=own[..., -1], score=ends), normalisation)
        if length == decoder.max_length:
            break
        values, chosen = score[..., :-1].flatten(1).topk(width, 1)
        parents, characters = chosen // count, chosen % count
        if (values[:, 0] / (decoder.max_length + 1) ** normalisation <= ended.ranks(normalisation)[:, -1]).all():
            break
        symbols = first + characters
        unfinished = _continued(unfinished, parents, characters, own[..., :-1].flatten(1).gather(1, chosen), values)
        if language is not None:
            states = language.following[states.gather(1, parents), characters]
    return hypotheses(ended.positions, ended.lengths, ended.own, ended.ranks(normalisation), tokens.charset)


def _written(log_p: Tensor, first: int, count: int, end: int) -> Tensor:
    """(…, classes) -> (…, characters + 1): the characters in the charset's order, the end last."""
    return torch.cat([log_p[..., first : first + count], log_p[..., end : end + 1]], -1)


def _beginning(n: int, width: int, max_length: int, memory: Tensor) -> tuple[_Strings, _Strings]:
    """The empty string, unfinished and certain, and no ended string."""
    dtype = torch.promote_types(memory.dtype, torch.float32)
    positions = torch.full((n, width, max_length), -1, dtype=torch.int64, device=memory.device)
    none = torch.full((n, width), -torch.inf, dtype=dtype, device=memory.device)
    certain = none.clone()
    certain[:, 0] = 0
    lengths = torch.zeros_like(positions[..., 0])
    return _Strings(positions, lengths, certain, certain), _Strings(positions, lengths, none, none)


def _continued(strings: _Strings, parents: Tensor, characters: Tensor, own: Tensor, score: Tensor) -> _Strings:
    """Each parent (n, width) with one more character, and its new log probability and score."""
    positions = strings.positions.gather(1, parents.unsqueeze(2).expand_as(strings.positions))
    lengths = strings.lengths.gather(1, parents)
    return _Strings(positions.scatter(2, lengths.unsqueeze(2), characters.unsqueeze(2)), lengths + 1, own, score)
