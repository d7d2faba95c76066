"""Pseudo-labels for words, online: a frozen labeler is asked in every step, and its readings are labels.

Lee, "Pseudo-Label", ICML 2013 workshops, as Baek et al. use it for words, "What If We Only Use Real Datasets for Scene Text Recognition?", CVPR
2021, arXiv 2103.04400 (STR-Fewer-Labels). Corpora that were labeled once are the job of `textray predict` and plain supervision.

    labeler      the recognizer as it was when this objective was built, frozen, in eval mode, reads the augmented image greedily
    L_reg        the recognizer's own loss on the labeled words, with teacher forcing
    L_pl         the same on the very same augmented images with what the labeler read, over the words that pass
    L = L_reg + w L_pl,   w 1

A word passes unless one of its steps, also behind the end symbol, is a symbol of the decoder's own other than the end (or the blank of CTC):
padding, start, unknown. It is cut at the first end symbol; without one its last symbol is lost to it. An empty word stays, and teaches to write
nothing. There is no threshold in the authors' code; `confidence_threshold`, of the probability of the word, is ours, and so is `labeler_view`.
Their space is an ordinary character. Our tables that have their space write no such character, so that a word with one is dropped here.

L_pl is the mean over the symbols that are not padding (CTC: over words, of each one's loss divided by its length), over the words that pass on all
ranks, and 0 where none does. Further branches of a decoder (ABINet's vision and language, other directions and orders) learn from labels alone.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from models.batch import Batch, Losses
from models.charset import AttentionTokens, CTCTokens
from models.objectives.checks import check_thresholds, check_weights
from models.objectives.distances import cross_entropies, string_distances
from models.objectives.distributed import mean_over_ranks
from models.objectives.moving_average import follower
from models.objectives.readings import GreedyReading, read, target_rows
from models.objectives.signals import signals
from models.recognizer import Recognizer


class PseudoLabel(nn.Module):
    """Learns from labeled words, and from what its former self reads in unlabeled ones.

    consistency_weight: w. confidence_threshold: which a word's score must reach; 0 keeps all that pass.
    view: of the images that are learnt from. labeler_view: of those that are read; `same`: the very same.

    The labeler is a copy of the recognizer at the start, and part of the checkpoints: load trained weights before building this.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        consistency_weight: float = 1.0,
        confidence_threshold: float = 0.0,
        view: Literal["none", "weak", "strong"] = "strong",
        labeler_view: Literal["same", "none", "weak"] = "same",
    ) -> None:
        super().__init__()
        check_weights("pseudo_label", {"consistency_weight": consistency_weight})
        check_thresholds("pseudo_label", {"confidence_threshold": confidence_threshold})
        self.recognizer = recognizer
        self.labeler = follower(recognizer).eval()
        self.labeler.decoder.stops_early = False  # the host would wait; and what stands behind the end is looked at
        self.consistency_weight, self.confidence_threshold = consistency_weight, confidence_threshold
        self.views = {"labeled": (view,), "unlabeled": (view,) if labeler_view == "same" else (view, labeler_view)}
        self.forbidden = own_symbols(recognizer.decoder.tokens)

    def train(self, mode: bool = True) -> "PseudoLabel":
        """Sets the mode of everything but the labeler, which stays in eval mode."""
        super().train(mode)
        self.labeler.eval()
        return self

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch with labeled words (one view, targets) and unlabeled ones (one view, or another to read). No host waits."""
        decoder = self.recognizer.decoder
        (labeled_view,), (view, *other) = batch.labeled.views, batch.unlabeled.views
        labeled = self.recognizer(labeled_view, decoder.inputs(batch.labeled.targets))
        recognition = decoder.loss(labeled, batch.labeled.targets)
        with torch.no_grad():
            logits = self.labeler(other[0] if other else view).logits  # (n, steps, classes)
        reading = pseudo_labels(read(logits, decoder.tokens), logits.argmax(-1), decoder.tokens)
        kept = passes(logits.argmax(-1), self.forbidden) & (reading.scores >= self.confidence_threshold)  # (n,)
        online = self.recognizer(view, reading.inputs)
        consistency = label_loss(reading, online.logits, kept, decoder.tokens)
        named = {"recognition_loss": recognition.detach(), "consistency_loss": consistency.detach(),
                 **signals(reading, read(online.logits, decoder.tokens), kept, decoder.tokens)}
        return Losses(recognition + self.consistency_weight * consistency, named)

    def after_step(self, step: int) -> None:
        """Nothing: the labeler is never updated."""


def own_symbols(tokens: AttentionTokens | CTCTokens) -> tuple[int, ...]:
    """The ids that no label holds: all that can be written and are no characters, less the end symbol or the blank."""
    ordinary = tokens.blank if isinstance(tokens, CTCTokens) else tokens.end
    return tuple(token for token in range(tokens.classes) if not tokens.is_character(token) and token != ordinary)


def passes(symbols: Tensor, forbidden: Iterable[int]) -> Tensor:
    """(n,) bool: the words none of whose symbols (n, steps) is forbidden."""
    found = torch.zeros_like(symbols, dtype=torch.bool)
    for symbol in forbidden:
        found = found | (symbols == symbol)
    return ~found.any(1)


def pseudo_labels(reading: GreedyReading, symbols: Tensor, tokens: AttentionTokens | CTCTokens) -> GreedyReading:
    """The reading of symbols (n, steps) as labels: cut at the first end symbol, whatever stands before it. Of CTC as it is."""
    if isinstance(tokens, CTCTokens):
        return reading
    rows, lengths = target_rows(symbols, symbols != tokens.end, tokens)  # (n, steps + 1), (n,)
    step = torch.arange(symbols.shape[1], device=symbols.device)
    return GreedyReading(rows[:, 1:], rows[:, :-1], step < lengths.unsqueeze(1), step < lengths.unsqueeze(1) - 1, reading.scores, reading.is_read)


def label_loss(reading: GreedyReading, logits: Tensor, kept: Tensor, tokens: AttentionTokens | CTCTokens) -> Tensor:
    """L_pl of logits (n, steps, classes) that were fed with the reading: a scalar."""
    if isinstance(tokens, CTCTokens):
        losses, counted = string_distances(reading.symbols, logits, tokens.blank), kept  # (n,)
    else:
        losses, counted = cross_entropies(reading.symbols, logits), reading.steps & kept.unsqueeze(1)  # (n, steps)
    count = mean_over_ranks(counted.sum().to(losses.dtype))
    return (losses * counted).sum() / torch.where(count > 0, count, 1)
