"""What a batch's characters are thought to be on average: the statistics of methods that adapt to a distribution of classes."""

import torch
from torch import Tensor

from models.charset import AttentionTokens, CTCTokens
from models.objectives.distributed import mean_over_ranks
from models.objectives.readings import GreedyReading
from models.precision import at_least_float32


def posteriors(logits: Tensor, tokens: AttentionTokens | CTCTokens) -> Tensor:
    """The probabilities (n, steps, classes) of logits; of CTC those given that a frame is not blank, so that only characters are compared."""
    logits = at_least_float32(logits)
    if isinstance(tokens, CTCTokens):
        blank = torch.arange(logits.shape[2], device=logits.device) == tokens.blank
        logits = logits.masked_fill(blank, -torch.inf)
    return logits.softmax(-1)


def counted_steps(reading: GreedyReading) -> Tensor:
    """(n, steps) bool: the steps whose posteriors count: a word's characters and end symbol; of CTC the frames that are not blank."""
    return reading.characters if reading.inputs is None else reading.steps


def writable(tokens: AttentionTokens | CTCTokens) -> list[bool]:
    """For each class whether words hold it: the characters, and the end symbol where there is one."""
    end = None if isinstance(tokens, CTCTokens) else tokens.end
    return [bool(tokens.is_character(token)) or token == end for token in range(tokens.classes)]


@torch.no_grad()
def mean_posterior(probabilities: Tensor, mask: Tensor) -> Tensor:
    """(classes,): the mean of probabilities (n, steps, classes) over the masked steps (n, steps) of all ranks; not finite where there are none."""
    sums = torch.cat([(probabilities * mask.unsqueeze(2)).sum((0, 1)), mask.sum().to(probabilities.dtype).unsqueeze(0)])
    sums = mean_over_ranks(sums)
    return sums[:-1] / sums[-1]
