"""SoftMatch for words: every reading teaches, weighted by how its certainty lies among those of the others.

Chen et al., "SoftMatch: Addressing the Quantity-Quality Trade-off in Semi-supervised Learning", ICLR 2023, arXiv 2301.10921.

    alignment    p' = N( p u / p~ ) for the score alone: p~ the moving average of the mean posterior of the weak view, u uniform    (equations 9, 10)
    statistics   mu, v <- moving averages of the mean and the variance of the aligned scores s of a batch, from 1 / K and 1      (equations 6, 7)
    weights      w = exp( -min(s - mu, 0)^2 / (2 v / n_sigma^2) )                                                                 (equation 8)
    consistency  L_u = 1/n sum over ALL n unlabeled words of w H(y, p(strong view)), y the reading without alignment
    L = L_s + lambda L_u,   decay m 0.999, n_sigma 2, lambda 1. The averages move with a step's batch before its weights.

The variance is unbiased, p~ begins as the first batch's mean, and 1e-6 is added above and below in u / p~, as in USB's code.

What a word needs beyond the paper's single class (ours):
- p~ is over a word's characters and end symbol (CTC: over frames that are not blank, given that they are not), u uniform over the symbols that words
  hold. Other classes (padding, start, the blank) keep their probability before N.
- s is the score of a word (see `fixmatch`) by the aligned probabilities: of each step the largest, of CTC those of the string that was read. mu and v are of the words that read as
  something. A CTC word that reads as nothing has weight 0.
- Readings, CTC and `use_cat` as in `fixmatch`. In distributed training all statistics are of all ranks' words. The logged kept_fraction is the
  mean weight.
"""


import torch
from torch import Tensor, nn

from models.batch import Batch, Losses
from models.objectives.checks import check_decay, check_score, check_weights
from models.objectives.distributed import gather
from models.objectives.moving_average import move
from models.objectives.posteriors import counted_steps, mean_posterior, posteriors, writable
from models.objectives.readings import Score, score_of_symbols, scores_of
from models.objectives.signals import signals
from models.objectives.weak_strong import VIEWS, branches, check_use_cat, word_consistency
from models.precision import at_least_float32
from models.recognizer import Recognizer


class SoftMatch(nn.Module):
    """Learns from labeled words, and from its own readings of all unlabeled ones, the less the less certain they are.

    ema_decay: m. deviations: n_sigma, how many of the scores' standard deviations a weight falls in. consistency_weight: lambda.
    distribution_alignment: without it scores are of p.
    score: of a word, see `scores_of`; null: `geometric_mean`, of CTC `string_mean`.
    use_cat: one batch of labeled, weak and strong images through the encoder, in training mode.
    """

    views = VIEWS

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        score: Score | None = None,
        ema_decay: float = 0.999,
        deviations: float = 2.0,
        consistency_weight: float = 1.0,
        distribution_alignment: bool = True,
        use_cat: bool = False,
    ) -> None:
        super().__init__()
        check_weights("softmatch", {"consistency_weight": consistency_weight})
        check_decay("softmatch", "ema_decay", ema_decay, 0.999)
        check_use_cat("softmatch", recognizer, use_cat)
        check_score("softmatch", recognizer, score)
        score = score or score_of_symbols(recognizer.decoder.tokens)
        if not deviations > 0:
            raise ValueError(f"softmatch expects deviations above 0, found {deviations}: the paper's is 2")
        self.recognizer = recognizer
        self.score, self.consistency_weight, self.use_cat = score, consistency_weight, use_cat
        self.distribution_alignment = distribution_alignment
        self.truncated = TruncatedGaussian(writable(recognizer.decoder.tokens), ema_decay, deviations)

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch with labeled words (one view, targets) and unlabeled ones (a weak and a strong view). The host waits for nothing."""
        decoder = self.recognizer.decoder
        both = branches(self.recognizer, batch, self.score, self.use_cat)
        recognition = decoder.loss(both.labeled, batch.labeled.targets)
        reading, scores = both.reading, both.reading.scores
        if self.distribution_alignment:
            self.truncated.update_posterior(mean_posterior(posteriors(both.weak_logits, decoder.tokens), counted_steps(reading)))
            aligned = self.truncated.aligned(at_least_float32(both.weak_logits).softmax(-1))  # (n, steps, classes)
            scores = scores_of(aligned.log(), reading, self.score, self.recognizer.decoder.tokens)
        self.truncated.update_scores(scores, reading.is_read)
        weights = self.truncated.weights(scores) * reading.is_read  # (n,)
        consistency = word_consistency(reading, both.online.logits, weights, decoder.tokens)
        named = {"recognition_loss": recognition.detach(), "consistency_loss": consistency.detach(),
                 "score_average": self.truncated.average.clone(), "score_variance": self.truncated.variance.clone(),
                 **signals(reading, both.own, weights, decoder.tokens)}
        return Losses(recognition + self.consistency_weight * consistency, named)

    def after_step(self, step: int) -> None:
        """Nothing: the averages move in every forward pass."""


class TruncatedGaussian(nn.Module):
    """SoftMatch's averages: `average` mu and `variance` v of scores, and `posterior` p~ (classes,), which has `seen` 0 or 1 batches and more."""

    def __init__(self, writable: list[bool], decay: float, deviations: float) -> None:
        """`writable`: for each class whether it is aligned."""
        super().__init__()
        self.decay, self.deviations = decay, deviations
        classes = len(writable)
        self.register_buffer("average", torch.tensor(1 / classes))
        self.register_buffer("variance", torch.tensor(1.0))
        self.register_buffer("posterior", torch.full((classes,), 1 / classes))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("writable", torch.tensor(writable), persistent=False)

    @torch.no_grad()
    def update_posterior(self, posterior: Tensor) -> None:
        """p~ moves towards the mean posterior (classes,) of a batch; the first one is taken as it is."""
        move(self.posterior, posterior, self.decay * self.seen)
        self.seen.copy_(self.seen.maximum(posterior.isfinite().all()))

    def aligned(self, probabilities: Tensor) -> Tensor:
        """p' of probabilities (…, classes)."""
        ratio = (1 / self.writable.sum() + 1e-6) / (self.posterior + 1e-6)
        moved = probabilities * ratio.where(self.writable, 1).to(probabilities.dtype)
        return moved / moved.sum(-1, keepdim=True)

    @torch.no_grad()
    def update_scores(self, scores: Tensor, is_read: Tensor) -> None:
        """mu and v move towards those of the scores (n,) of all ranks' words that are read (n,)."""
        everyone = gather(torch.stack([scores, is_read.to(scores.dtype)], 1))[0]  # (n, 2) of all ranks
        scores, counted = everyone.unbind(1)
        average = (scores * counted).sum() / counted.sum()
        variance = ((scores - average).square() * counted).sum() / (counted.sum() - 1)
        enough = counted.sum() > 1
        move(self.average, average, self.decay)
        move(self.variance, variance.where(enough, torch.nan), self.decay)

    def weights(self, scores: Tensor) -> Tensor:
        """w (n,) of scores (n,)."""
        below = (scores - self.average).clamp(max=0)
        return (-below.square() * self.deviations**2 / (2 * self.variance).clamp(min=1e-12)).exp()
