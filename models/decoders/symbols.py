"""Rows of symbols: what decoders that write symbol by symbol are taught with, and how their logits are read."""

from math import prod

import torch
from torch import Tensor

from models.charset import AttentionTokens
from models.decoders.decoded import Reading
from models.precision import at_least_float32


def encode_symbols(texts: list[str], tokens: AttentionTokens, max_length: int) -> Tensor:
    """Target rows (n, max_length + 2) int64: start, the characters' ids, end, padding.

    ValueError for a text that is longer than max_length or holds a character outside the charset.
    """
    targets = torch.full((len(texts), max_length + 2), tokens.pad, dtype=torch.int64)
    for row, text in zip(targets, texts, strict=True):
        ids = [tokens.start, *tokens.ids(text, max_length), tokens.end]
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return targets


def reversed_rows(rows: Tensor, tokens: AttentionTokens) -> Tensor:
    """Rows (n, steps) of start, characters, end, padding, with the characters in reverse order. What follows the characters stays."""
    length = tokens.is_character(rows[:, 1:]).cumprod(1).sum(1, keepdim=True)  # (n, 1)
    step = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
    inside = (step >= 1) & (step <= length)
    return rows.gather(1, torch.where(inside, length + 1 - step, step))


def read_symbols(logits: Tensor, tokens: AttentionTokens) -> Reading:
    """The likeliest symbol of each step of (n, steps, classes), up to the first end symbol: see `spelled`."""
    largest, best = at_least_float32(logits.detach()).softmax(-1).max(-1)
    return spelled(best, largest, tokens)


def spelled(symbols: Tensor, probabilities: Tensor, tokens: AttentionTokens) -> Reading:
    """What symbols (n, steps) write up to the first end symbol.

    The confidence is the product of their probabilities (n, steps), the end symbol's included. Where no end symbol comes, every step counts.
    Symbols inside the word that are no characters write nothing, but count in the confidence.
    """
    texts, characters, confidences = [], [], []
    for ids, own in zip(symbols.tolist(), probabilities.tolist(), strict=True):
        length = ids.index(tokens.end) if tokens.end in ids else len(ids)
        written = [(token, probability) for token, probability in zip(ids[:length], own, strict=False) if tokens.is_character(token)]
        texts.append("".join(tokens.character(token) for token, _ in written))
        characters.append([probability for _, probability in written])
        confidences.append(prod(own[: length + 1]))
    return Reading(texts, torch.tensor(confidences, dtype=torch.float32), characters)
