"""How far what one branch says is from what another says, step by step, word by word, or string by string."""

from torch import Tensor

from models.charset import AttentionTokens, CTCTokens
from models.decoders.ctc_loss import string_losses
from models.objectives.readings import GreedyReading, collapsed
from models.precision import at_least_float32


def string_distances(symbols: Tensor, logits: Tensor, blank: int) -> Tensor:
    """(n,): how far logits (n, frames, classes) are from writing what the frames' symbols (n, steps) say: -log p(string) / its length."""
    return string_losses(at_least_float32(logits).log_softmax(-1).transpose(0, 1), collapsed(symbols, blank), blank)


def cross_entropies(symbols: Tensor, logits: Tensor) -> Tensor:
    """(n, steps): -log of the probability that logits (n, steps, classes) give to symbols (n, steps).

    Padding that is no class of the decoder's (PARSeq's) gets some number, which nobody may count.
    """
    classes = symbols.clamp(max=logits.shape[2] - 1)
    return -at_least_float32(logits).log_softmax(-1).gather(2, classes.unsqueeze(2)).squeeze(2)


def soft_cross_entropies(target_logits: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(n, steps): -sum over c of softmax(target / temperature)_c log softmax(logits)_c, both (n, steps, classes)."""
    target = (at_least_float32(target_logits) / temperature).softmax(-1)
    return -(target * at_least_float32(logits).log_softmax(-1)).sum(-1)


def kl_divergences(target_logits: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(n, steps): KL( softmax(target / temperature) || softmax(logits) ), both (n, steps, classes)."""
    online = at_least_float32(logits).log_softmax(-1)
    target = (at_least_float32(target_logits) / temperature).log_softmax(-1)
    return (target.exp() * (target - online)).sum(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values under the mask; 0, with zero gradients, if there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def means_of_words(values: Tensor, mask: Tensor) -> Tensor:
    """(n, steps) -> (n,): the mean of each word's values under its mask (n, steps); 0, with zero gradients, where there are none."""
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)


def hard_distances(reading: GreedyReading, logits: Tensor, tokens: AttentionTokens | CTCTokens) -> Tensor:
    """(n,): how far logits (n, steps, classes) are from writing the words that were read.

    The mean over a word's steps, the end symbol among them, of the cross-entropy with the symbol that was read; of CTC `string_distances`.
    """
    if isinstance(tokens, CTCTokens):
        return string_distances(reading.symbols, logits, tokens.blank)
    return means_of_words(cross_entropies(reading.symbols, logits), reading.steps)
