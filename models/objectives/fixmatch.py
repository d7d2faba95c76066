"""FixMatch for words: hard pseudo-labels of the weak view where they are certain, cross-entropy on the strong view.

Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", NeurIPS 2020, arXiv 2001.07685.

    supervised   L_s = the recognizer's own loss on the labeled words, with teacher forcing                       (equation 3)
    pseudo-label y = the current weights' greedy reading of the weak view, without gradient; score s
    consistency  L_u = 1/n sum over ALL n unlabeled words of 1[s >= tau] H(y, p(strong view))                      (equation 4)
    L = L_s + lambda_u L_u,   tau 0.95, lambda_u 1

What a word needs beyond the paper's single class (ours):
- H of a word is the mean over its characters and end symbol of their cross-entropy, the decoder being fed y; for CTC it is the CTC loss of the
  string that was read, divided by its length. A CTC word that reads as nothing is never kept.
- s is the geometric mean of the symbols' probabilities, of CTC the string's probability to the power of 1 / its length: at tau = 0.95 their product
  would keep little but short words, since ten letters then need 0.995 each. `product` is CCR's score, `minimum` the least certain symbol. Of CTC these
  two and `geometric_mean` are of the surest frame of each run: with them the method falls apart where labels are drawn and images are not
  (docs/results.md).
- `labels="soft"` is TorchSSL's other form: H is the cross-entropy with softmax(logits of the weak view / sharpening_temperature), theirs 0.5. Not
  for CTC.
- `mask_unit="character"` keeps single characters whose own probability reaches tau, as SemiMTR does (Aberdam et al. 2022); the others stay in
  the mean as zeros.
- The weak view is read in eval mode, in a pass of its own. The authors (and USB) put labeled, weak and strong images through the network as one
  batch in training mode: `use_cat=true`. With synthetic labels and unlabeled photographs such a batch normalises each domain by statistics of
  both, and labels what the recognizer in use would not read: part of why FixMatch collapses across domains.
There is no projection, no domain adaptation, and no average of the weights (the authors evaluate one; it teaches nothing).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from models.batch import Batch, Losses
from models.objectives.checks import check_score, check_temperature, check_thresholds, check_weights
from models.objectives.distances import cross_entropies, hard_distances, means_of_words, soft_cross_entropies
from models.objectives.readings import GreedyReading, Score, score_of_symbols
from models.objectives.signals import signals
from models.objectives.weak_strong import VIEWS, Branches, branches, check_use_cat
from models.precision import at_least_float32
from models.recognizer import Recognizer


class FixMatch(nn.Module):
    """Learns from labeled words, and from its own certain readings of unlabeled ones.

    confidence_threshold: tau, which a score must reach. consistency_weight: lambda_u.
    score: of a word, see `scores_of`; null: `geometric_mean`, of CTC `string_mean`.
    mask_unit: what is kept or not, whole words or single characters (not for CTC).
    labels: the likeliest symbols (hard) or the distributions (soft), which sharpening_temperature sharpens.
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
        mask_unit: Literal["word", "character"] = "word",
        labels: Literal["hard", "soft"] = "hard",
        sharpening_temperature: float = 0.5,
        use_cat: bool = False,
    ) -> None:
        super().__init__()
        check_weights("fixmatch", {"consistency_weight": consistency_weight})
        check_thresholds("fixmatch", {"confidence_threshold": confidence_threshold})
        check_temperature("fixmatch", sharpening_temperature, "labels=hard")
        check_use_cat("fixmatch", recognizer, use_cat)
        check_score("fixmatch", recognizer, score)
        score = score or score_of_symbols(recognizer.decoder.tokens)
        if labels == "soft" and recognizer.decoder.kind == "ctc":
            raise ValueError("fixmatch expects a decoder that writes symbol by symbol for labels=soft, found a CTC decoder, whose strings are hard "
                             "labels: use labels=hard")
        if mask_unit == "character" and recognizer.decoder.kind == "ctc":
            raise ValueError("fixmatch expects a decoder that writes symbol by symbol for mask_unit=character, found a CTC decoder, whose strings "
                             "are compared whole: use mask_unit=word")
        self.recognizer = recognizer
        self.confidence_threshold, self.score, self.mask_unit = confidence_threshold, score, mask_unit
        self.labels, self.sharpening_temperature = labels, sharpening_temperature
        self.consistency_weight, self.use_cat = consistency_weight, use_cat

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch with labeled words (one view, targets) and unlabeled ones (a weak and a strong view). The host waits for nothing."""
        decoder = self.recognizer.decoder
        both = branches(self.recognizer, batch, self.score, self.use_cat)
        recognition = decoder.loss(both.labeled, batch.labeled.targets)
        if self.mask_unit == "word":
            kept = (both.reading.scores >= self.confidence_threshold) & both.reading.is_read  # (n,)
            consistency = (self.word_distances(both) * kept).mean()
        else:
            certain = certain_steps(both.reading, both.weak_logits, self.confidence_threshold)  # (n, steps)
            kept = means_of_words(certain.to(both.reading.scores.dtype), both.reading.steps)  # (n,) the share of each word
            consistency = means_of_words(self.step_distances(both) * certain, both.reading.steps).mean()
        named = {"recognition_loss": recognition.detach(), "consistency_loss": consistency.detach(),
                 **signals(both.reading, both.own, kept, decoder.tokens)}
        return Losses(recognition + self.consistency_weight * consistency, named)

    def word_distances(self, both: Branches) -> Tensor:
        """H of each word, (n,)."""
        if self.labels == "hard":
            return hard_distances(both.reading, both.online.logits, self.recognizer.decoder.tokens)
        return means_of_words(self.step_distances(both), both.reading.steps)

    def step_distances(self, both: Branches) -> Tensor:
        """The cross-entropy of each step with its label, (n, steps)."""
        if self.labels == "hard":
            return cross_entropies(both.reading.symbols, both.online.logits)
        return soft_cross_entropies(both.weak_logits, both.online.logits, self.sharpening_temperature)

    def after_step(self, step: int) -> None:
        """Nothing: the current weights are the teacher."""


def certain_steps(reading: GreedyReading, logits: Tensor, threshold: float) -> Tensor:
    """(n, steps) bool: the steps of the words whose largest probability reaches the threshold."""
    with torch.no_grad():
        return (at_least_float32(logits).softmax(-1).amax(-1) >= threshold) & reading.steps
