"""FlexMatch for words: FixMatch whose threshold is lower for characters that are not yet learned.

Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling", NeurIPS 2021, arXiv 2110.08263.

    counts       n_c: how many unlabeled samples were last read as class c with a score of tau or more; unused: how many never   (equation 5)
    status       beta_c = n_c / max(max over c of n_c, unused); without warm-up the unused ones are not in the maximum    (equations 6, 11)
    thresholds   T_c = M(beta_c) tau,   M(x) = x / (2 - x)                                                              (equations 8, 12)
    consistency  L_u = 1/n sum over ALL n unlabeled words of 1[s >= T] H(y, p(strong view)), as in `fixmatch`
    L = L_s + lambda L_u,   tau 0.95, lambda 1. A step's mask uses the status before it.

What a word needs beyond the paper's single class (ours):
- The classes are characters, and the end symbol where there is one. T of a word is the mean of its symbols' T_c (`word_threshold="max"`: the
  largest).
- The paper remembers the last confident label of each image of its data set. A corpus of 10^7 words that streams past has no such index: n_c are
  moving averages (`ema_decay`) of the shares of the batches' symbols that were class c in a word of score tau or more; the share of symbols in
  words below it is the unused one, which begins at 1. As with the paper, all thresholds begin at 0: the first steps keep everything. Start from
  a model that reads.
- Scores, readings, CTC and `use_cat` as in `fixmatch`. In distributed training the shares are those of all ranks' symbols.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from models.batch import Batch, Losses
from models.objectives.checks import check_decay, check_score, check_thresholds, check_weights
from models.objectives.distances import means_of_words
from models.objectives.distributed import mean_over_ranks
from models.objectives.moving_average import move
from models.objectives.readings import Score, score_of_symbols, strings
from models.objectives.signals import occurrences, signals
from models.objectives.weak_strong import VIEWS, branches, check_use_cat, word_consistency
from models.recognizer import Recognizer


class FlexMatch(nn.Module):
    """Learns from labeled words, and from its own readings of unlabeled ones that are certain enough for their characters.

    confidence_threshold: tau. consistency_weight: lambda. warm_up: see the status. ema_decay: of the counts.
    word_threshold: of its symbols' thresholds.
    score: of a word, see `scores_of`; null: `geometric_mean`, of CTC `string_mean`.
    use_cat: one batch of labeled, weak and strong images through the encoder, in training mode.
    """

    views = VIEWS

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        confidence_threshold: float = 0.95,
        score: Score | None = None,
        consistency_weight: float = 1.0,
        warm_up: bool = True,
        ema_decay: float = 0.999,
        word_threshold: Literal["mean", "max"] = "mean",
        use_cat: bool = False,
    ) -> None:
        super().__init__()
        check_weights("flexmatch", {"consistency_weight": consistency_weight})
        check_thresholds("flexmatch", {"confidence_threshold": confidence_threshold})
        check_decay("flexmatch", "ema_decay", ema_decay, 0.999)
        check_use_cat("flexmatch", recognizer, use_cat)
        check_score("flexmatch", recognizer, score)
        score = score or score_of_symbols(recognizer.decoder.tokens)
        self.recognizer = recognizer
        self.confidence_threshold, self.score, self.consistency_weight = confidence_threshold, score, consistency_weight
        self.warm_up, self.ema_decay, self.word_threshold, self.use_cat = warm_up, ema_decay, word_threshold, use_cat
        classes = recognizer.decoder.tokens.classes
        self.register_buffer("shares", torch.cat([torch.zeros(classes), torch.ones(1)]))  # (classes + 1,): n_c and, last, the unused

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch with labeled words (one view, targets) and unlabeled ones (a weak and a strong view). The host waits for nothing."""
        decoder = self.recognizer.decoder
        both = branches(self.recognizer, batch, self.score, self.use_cat)
        recognition = decoder.loss(both.labeled, batch.labeled.targets)
        words, written = strings(both.reading, decoder.tokens)  # (n, steps) each
        of_class = self.confidence_threshold * flexible(learning_status(self.shares, self.warm_up))  # (classes,)
        thresholds = thresholds_of_words(of_class, words, written, self.word_threshold)  # (n,)
        kept = (both.reading.scores >= thresholds) & both.reading.is_read
        self._count(words, written, both.reading.scores >= self.confidence_threshold)
        consistency = word_consistency(both.reading, both.online.logits, kept, decoder.tokens)
        named = {"recognition_loss": recognition.detach(), "consistency_loss": consistency.detach(), "mean_threshold": thresholds.mean(),
                 **signals(both.reading, both.own, kept, decoder.tokens)}
        return Losses(recognition + self.consistency_weight * consistency, named)

    def _count(self, words: Tensor, written: Tensor, confident: Tensor) -> None:
        """The shares go on with words (n, steps), of which `written` (n, steps) count, and `confident` (n,) are used."""
        unused = len(self.shares) - 1
        counts = occurrences(words.where(confident.unsqueeze(1), unused), written, unused + 1, self.shares.dtype)
        counts = mean_over_ranks(counts)
        move(self.shares, counts / counts.sum(), self.ema_decay)

    def after_step(self, step: int) -> None:
        """Nothing: the shares go on in every forward pass."""


def learning_status(counts: Tensor, warm_up: bool = True) -> Tensor:
    """beta (classes,) of counts or shares (classes + 1,), of which the last is of what is unused."""
    most = counts.max() if warm_up else counts[:-1].max()
    return counts[:-1] / torch.where(most > 0, most, 1)


def flexible(status: Tensor) -> Tensor:
    """M: convex, so that thresholds stay low for long."""
    return status / (2 - status)


def thresholds_of_words(of_class: Tensor, words: Tensor, written: Tensor, reduction: str = "mean") -> Tensor:
    """(n,): the mean or max, over the `written` symbols of words (n, steps), of their classes' values (classes,)."""
    values = of_class[words.where(written, 0)]  # (n, steps)
    return means_of_words(values, written) if reduction == "mean" else (values * written).amax(1)
