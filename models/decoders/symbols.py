"""Rows of symbols: what decoders that write symbol by symbol are taught with, and how their logits are read."""

from math import prod

import torch
from torch import Tensor

from models.charset import AttentionTokens
from models.decoders.decoded import Reading


def encode_symbols(texts: list[str], tokens: AttentionTokens, max_length: int) -> Tensor:
    """Target rows (n, max_length + 2) int64: start, the characters' ids, end, padding.

    ValueError for a text that is longer than max_length or holds a character outside the charset.
    """
    targets = torch.full((len(texts), max_length + 2), tokens.pad, dtype=torch.int64)
    for row, text in zip(targets, texts, strict=True):
        ids = [tokens.start, *tokens.ids(text, max_length), tokens.end]
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return targets


def read_symbols(logits: Tensor, tokens: AttentionTokens) -> Reading:
    """The likeliest symbol of each step of (n, steps, classes), up to the first end symbol.

    The confidence is the product of their probabilities, the end symbol's included. Where no end symbol comes, every step counts. Symbols
    inside the word that are no characters write nothing, but count in the confidence.
    """
    largest, best = logits.detach().float().softmax(-1).max(-1)
    texts, characters, confidences = [], [], []
    for probabilities, ids in zip(largest.tolist(), best.tolist(), strict=True):
        length = ids.index(tokens.end) if tokens.end in ids else len(ids)
        written = [(token, probability) for token, probability in zip(ids[:length], probabilities, strict=False) if tokens.is_character(token)]
        texts.append("".join(tokens.character(token) for token, _ in written))
        characters.append([probability for _, probability in written])
        confidences.append(prod(probabilities[: length + 1]))
    return Reading(texts, torch.tensor(confidences, dtype=torch.float32), characters)
