"""What logits say when the likeliest class is taken at every step: symbols, the word that they write, and how certain it is.

Works for every kind of decoder. Of "attention" and "parallel" decoders a word is its characters and the end symbol, and nothing behind it. Of
CTC it is what the frames write, repeats collapsed and blanks dropped.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.charset import AttentionTokens, CTCTokens
from models.decoders.ctc_loss import string_losses
from models.precision import at_least_float32

Score = Literal["product", "geometric_mean", "minimum", "string", "string_mean"]  # of a word, see `scores_of`


@dataclass
class GreedyReading:
    """What logits say of n images when the likeliest class is taken at every step."""

    symbols: Tensor  # (n, steps) int64: the likeliest classes, and for attention the end symbol and padding behind them
    inputs: Tensor | None  # (n, steps) int64: the symbol before each step, to feed a decoder; None for CTC
    steps: Tensor  # (n, steps) bool: the steps that a loss counts
    characters: Tensor  # (n, steps) bool: the steps that write a character
    scores: Tensor  # (n,) in [0, 1]
    is_read: Tensor  # (n,) bool: whether the reading can teach; of CTC what reads as nothing cannot


@torch.no_grad()
def read(logits: Tensor, tokens: AttentionTokens | CTCTokens, score: Score | None = None) -> GreedyReading:
    """The reading of logits (n, steps, classes), scored as `scores_of` says; by default with the probability of the word, which is `product`, of CTC
    `string`."""
    log_probabilities = at_least_float32(logits).log_softmax(-1)  # (n, steps, classes)
    log_largest, likeliest = log_probabilities.max(-1)  # (n, steps) each
    if isinstance(tokens, CTCTokens):
        characters = likeliest != tokens.blank  # (n, steps)
        reading = GreedyReading(likeliest, None, torch.ones_like(characters), characters, log_largest, characters.any(1))
    else:
        sequences, lengths = pseudo_sequences(likeliest, tokens)  # (n, steps + 1), (n,)
        step = torch.arange(logits.shape[1], device=logits.device)
        reading = GreedyReading(sequences[:, 1:], sequences[:, :-1], step < lengths.unsqueeze(1), step < lengths.unsqueeze(1) - 1, log_largest,
                                torch.ones_like(lengths, dtype=torch.bool))
    score = score or ("string" if isinstance(tokens, CTCTokens) else "product")
    reading.scores = scores_of(log_probabilities, reading, score, tokens)
    return reading


def scores_of(log_posteriors: Tensor, reading: GreedyReading, score: Score, tokens: AttentionTokens | CTCTokens) -> Tensor:
    """(n,): how certain the words of a reading are, given the log probabilities (n, steps, classes) of each step, of which the largest counts.

    `product` of the probabilities, their `geometric_mean` (the product to the power of 1 / how many they are), which does not ask more of longer
    words, or their `minimum`. The end symbol counts. Of CTC a run of one class counts once, with its most certain frame, and a word without
    characters scores 0. Of CTC alone: `string` is the probability of the string over all its alignments, `string_mean` that to the power of 1 / its
    length. Runs do not say where a frame may write another character or none, as only their most certain frames count.
    """
    if score in ("string", "string_mean"):
        strings = collapsed(reading.symbols, tokens.blank)
        losses = string_losses(log_posteriors.transpose(0, 1), strings, tokens.blank)  # (n,) for each character
        return (-losses if score == "string_mean" else -losses * (strings != tokens.blank).sum(1)).exp() * reading.characters.any(1)
    log_probabilities = log_posteriors.amax(-1)  # (n, steps)
    if reading.inputs is None:
        counted = _log_largest_of_runs(reading.symbols, log_probabilities.where(reading.characters, 0))  # (n, steps)
        count = runs_of(reading).sum(1)  # (n,)
        return _score(counted, count, score) * reading.characters.any(1)
    return _score(log_probabilities.where(reading.steps, 0), reading.steps.sum(1), score)


def score_of_symbols(tokens: AttentionTokens | CTCTokens) -> Score:
    """Of words of all lengths alike: `geometric_mean`, of CTC `string_mean`."""
    return "string_mean" if isinstance(tokens, CTCTokens) else "geometric_mean"


def runs_of(reading: GreedyReading) -> Tensor:
    """(n, steps) bool: the steps at which a character begins; repeats of a CTC frame's class begin none."""
    if reading.inputs is not None:
        return reading.characters
    return reading.characters & ~F.pad(reading.symbols[:, 1:] == reading.symbols[:, :-1], (1, 0), value=False)


def _log_largest_of_runs(classes: Tensor, values: Tensor) -> Tensor:
    """The largest value of each run of one class, (n, steps): run k at position k, zeros behind the last."""
    starts = F.pad(classes[:, 1:] != classes[:, :-1], (1, 0), value=False)  # (n, steps) a run after the first begins
    runs = starts.cumsum(1)  # (n, steps) the number of the run that a step is in
    return torch.zeros_like(values).scatter_reduce(1, runs, values, "amax", include_self=False)


def _score(log_probabilities: Tensor, count: Tensor, score: str) -> Tensor:
    """(n, steps), 0 where a step does not count, of which `count` (n,) do -> (n,)."""
    if score == "minimum":
        return log_probabilities.amin(1).exp()
    total = log_probabilities.sum(1)
    return (total / count.clamp(min=1) if score == "geometric_mean" else total).exp()


def strings(reading: GreedyReading, tokens: AttentionTokens | CTCTokens) -> tuple[Tensor, Tensor]:
    """Words as padded rows of ids (n, steps), and which of these make the word, (n, steps) bool: the characters, and the end symbol but for CTC."""
    if isinstance(tokens, CTCTokens):
        words = collapsed(reading.symbols, tokens.blank)
        return words, words != tokens.blank
    return reading.symbols, reading.steps


def collapsed(symbols: Tensor, blank: int) -> Tensor:
    """(n, steps) classes of frames -> (n, steps): the string that they write, repeats collapsed and blanks dropped, padded with the blank."""
    repeated = F.pad(symbols[:, 1:] == symbols[:, :-1], (1, 0), value=False)
    written = (symbols != blank) & ~repeated  # (n, steps)
    steps = symbols.shape[1]
    place = (written.cumsum(1) - 1).masked_fill(~written, steps)  # what is not written goes behind the end
    return symbols.new_full((len(symbols), steps + 1), blank).scatter(1, place, symbols)[:, :steps]


def pseudo_sequences(symbols: Tensor, tokens: AttentionTokens) -> tuple[Tensor, Tensor]:
    """What a decoder wrote symbol by symbol, (n, steps), as target rows (n, steps + 1) and their lengths (n,).

    A row is the start symbol, the characters before the first symbol that is none, the end symbol, padding. If every
    symbol is a character the end symbol takes the last one's place. The length counts the end symbol, not the start.
    """
    return target_rows(symbols, tokens.is_character(symbols), tokens)


def target_rows(symbols: Tensor, written: Tensor, tokens: AttentionTokens) -> tuple[Tensor, Tensor]:
    """`pseudo_sequences` of words that end before the first symbol that is not `written`, (n, steps) bool."""
    leading = written[:, :-1].cumprod(1).sum(1)  # (n,) the characters before the cut
    lengths = leading + 1
    step = torch.arange(symbols.shape[1], device=symbols.device)
    cut = symbols.masked_fill(step == leading.unsqueeze(1), tokens.end)
    cut = cut.masked_fill(step >= lengths.unsqueeze(1), tokens.pad)
    return F.pad(cut, (1, 0), value=tokens.start), lengths


def confident_characters(logits: Tensor, tokens: AttentionTokens | CTCTokens, threshold: float) -> Tensor:
    """(n, steps) bool: the characters of the images whose word's probability reaches the threshold."""
    reading = read(logits, tokens)
    return reading.characters & (reading.scores >= threshold).unsqueeze(1)
