"""The numbers that show how a semi-supervised objective fares: how much it keeps, and whether what it reads collapses to a few words.

Self-training is known to drift to a short constant word: then both entropies fall to 0. All numbers are of one rank's images, and on the device.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.charset import AttentionTokens, CTCTokens
from models.objectives.readings import GreedyReading, strings

POSITIONS = 5  # of characters that are told apart; the last stands for all from there on


@torch.no_grad()
def signals(reading: GreedyReading, own: GreedyReading, kept: Tensor, tokens: AttentionTokens | CTCTokens) -> dict[str, Tensor]:
    """Scalars by name, of the target's reading and the online branch's `own` reading of the same n images.

    kept_fraction: the mean of `kept` (n,), bools or weights. mean_score: of the target's words. agreement: the share of words that both read
    alike. character_entropy, length_entropy: of the characters and of the lengths that the target reads in these images, in nats.
    """
    words, written = strings(reading, tokens)  # (n, steps) each
    characters = written & tokens.is_character(words)
    scores = reading.scores
    return {
        "kept_fraction": kept.to(scores.dtype).mean(),
        "mean_score": scores.mean(),
        "agreement": alike(reading, own, tokens).to(scores.dtype).mean(),
        "character_entropy": entropy(words, characters, tokens.classes, scores.dtype),
        "length_entropy": entropy(characters.sum(1), torch.ones_like(characters[:, 0]), words.shape[1] + 1, scores.dtype),
    }


@torch.no_grad()
def by_position(distances: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """consistency_position_1 … 4 and consistency_position_5_on: the mean of the distances (n, steps) of two branches at the first characters of the
    words, and at all others (the end symbol is the character behind the last), over the steps under the mask `counted`; 0 where there is none."""
    distances, steps = distances.where(counted, 0), distances.shape[1]
    both = distances, counted.to(distances.dtype)
    sums = [F.pad(values.sum(0), (0, max(0, POSITIONS - steps))) for values in both]  # (max(steps, POSITIONS),) each
    total, count = (torch.cat([each[:POSITIONS - 1], each[POSITIONS - 1:].sum(0, keepdim=True)]) for each in sums)  # (POSITIONS,) each
    names = [f"consistency_position_{place}" for place in range(1, POSITIONS)] + [f"consistency_position_{POSITIONS}_on"]
    return dict(zip(names, (total / count.clamp(min=1)).unbind(), strict=True))


def alike(reading: GreedyReading, own: GreedyReading, tokens: AttentionTokens | CTCTokens) -> Tensor:
    """(n,) bool: whether two readings of the same images write the same word; they may have different numbers of steps."""
    rows = [words.masked_fill(~written, -1) for words, written in (strings(reading, tokens), strings(own, tokens))]
    steps = max(row.shape[1] for row in rows)
    one, other = (F.pad(row, (0, steps - row.shape[1]), value=-1) for row in rows)
    return (one == other).all(1)


def entropy(values: Tensor, mask: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The entropy in nats of how often each of 0 … classes - 1 occurs among the int64 values under a mask of their shape; 0 if there are none."""
    share = occurrences(values, mask, classes, dtype)
    share = share / share.sum().clamp(min=1)
    return -torch.xlogy(share, share).sum()


def occurrences(values: Tensor, mask: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(classes,): how often each class occurs among the int64 values under a mask of their shape. A device's own bincount would have to wait."""
    return torch.zeros(classes, dtype=dtype, device=values.device).scatter_add(0, values.where(mask, 0).flatten(), mask.flatten().to(dtype))
