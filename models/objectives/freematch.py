"""FreeMatch for words: thresholds that follow the model's own certainty, and a fairness term against favourite classes.

Wang et al., "FreeMatch: Self-adaptive Thresholding for Semi-supervised Learning", ICLR 2023, arXiv 2205.07246.

    global       tau <- m tau + (1 - m) mean of the scores of the weak view, from 1 / K                              (equation 5)
    local        p~ <- m p~ + (1 - m) mean posterior of the weak view, from 1 / K                                    (equation 6)
    thresholds   T_c = tau p~_c / max p~                                                                             (equation 7)
    consistency  L_u = 1/n sum over ALL n unlabeled words of 1[s >= T] H(y, p(strong view)), as in `fixmatch`        (equation 8)
    fairness     L_f = sum over c of N(p~ / h~)_c log( N(p_s / h_s)_c + 1e-12 ), N divides by the sum, p_s and h_s are the mean posterior and the
                 histogram of labels of the strong view where the weak view is kept, h~ the moving average of that of the weak view   (equations 9-11)
    L = L_s + w_u L_u + w_f L_f,   m 0.999, w_u 1, w_f 0.01. The averages move with a step's batch before its mask.

L_f is negative: minus the cross-entropy. As in USB's code a class without labels counts as 0 in N. `use_quantile` takes the 0.8-quantile of the
scores instead of their mean, `clip_threshold` keeps tau at 0.95 or less: both are USB's options, off.

What a word needs beyond the paper's single class (ours):
- tau follows the scores of words that read as something; p~, h~, p_s and h_s are over their characters and end symbols (CTC: over frames that are
  not blank, given that they are not). T of a word is tau times the mean over its symbols of p~_c / max p~.
- A class whose h~ has fallen below 1e-5 counts as without labels: symbols that words never hold (padding, start) would otherwise have the largest
  quotient of all.
- Scores, readings, CTC and `use_cat` as in `fixmatch`. In distributed training all statistics are of all ranks' words, L_f's with gradient.
"""


import torch
from torch import Tensor, nn

from models.batch import Batch, Losses
from models.objectives.checks import check_decay, check_score, check_weights
from models.objectives.distributed import gather, mean_over_ranks
from models.objectives.flexmatch import thresholds_of_words
from models.objectives.moving_average import move
from models.objectives.posteriors import counted_steps, mean_posterior, posteriors
from models.objectives.readings import Score, score_of_symbols, strings
from models.objectives.signals import occurrences, signals
from models.objectives.weak_strong import VIEWS, branches, check_use_cat, word_consistency
from models.recognizer import Recognizer

LEAST_SHARE = 1e-5  # of labels, below which a class counts as without


class FreeMatch(nn.Module):
    """Learns from labeled words, and from its own readings of unlabeled ones that are certain by its own standards.

    ema_decay: m. consistency_weight: w_u. fairness_weight: w_f. use_quantile, clip_threshold: of tau.
   
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
        consistency_weight: float = 1.0,
        fairness_weight: float = 0.01,
        use_quantile: bool = False,
        clip_threshold: bool = False,
        use_cat: bool = False,
    ) -> None:
        super().__init__()
        check_weights("freematch", {"consistency_weight": consistency_weight, "fairness_weight": fairness_weight})
        check_decay("freematch", "ema_decay", ema_decay, 0.999)
        check_use_cat("freematch", recognizer, use_cat)
        check_score("freematch", recognizer, score)
        score = score or score_of_symbols(recognizer.decoder.tokens)
        self.recognizer = recognizer
        self.score, self.consistency_weight, self.fairness_weight, self.use_cat = score, consistency_weight, fairness_weight, use_cat
        self.adaptive = Adaptive(recognizer.decoder.tokens.classes, ema_decay, use_quantile, clip_threshold)

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch with labeled words (one view, targets) and unlabeled ones (a weak and a strong view). The host waits for nothing."""
        decoder = self.recognizer.decoder
        tokens = decoder.tokens
        both = branches(self.recognizer, batch, self.score, self.use_cat)
        recognition = decoder.loss(both.labeled, batch.labeled.targets)
        reading = both.reading
        self.adaptive.update(reading.scores, reading.is_read, posteriors(both.weak_logits, tokens), reading.symbols, counted_steps(reading))
        thresholds = thresholds_of_words(self.adaptive.thresholds(), *strings(reading, tokens))  # (n,)
        kept = (reading.scores >= thresholds) & reading.is_read
        consistency = word_consistency(reading, both.online.logits, kept, tokens)
        # Attention's steps are those that the weak view's reading was fed in; the frames of CTC are the strong view's own.
        judged = counted_steps(both.own if reading.inputs is None else reading) & kept.unsqueeze(1)  # (n, steps)
        fairness = self.adaptive.fairness(posteriors(both.online.logits, tokens), judged)
        named = {"recognition_loss": recognition.detach(), "consistency_loss": consistency.detach(), "fairness_loss": fairness.detach(),
                 "global_threshold": self.adaptive.certainty.clone(), "mean_threshold": thresholds.mean(),
                 **signals(reading, both.own, kept, tokens)}
        return Losses(recognition + self.consistency_weight * consistency + self.fairness_weight * fairness, named)

    def after_step(self, step: int) -> None:
        """Nothing: the averages move in every forward pass."""


class Adaptive(nn.Module):
    """FreeMatch's averages: `certainty` tau, `posterior` p~ and `histogram` h~, the latter two (classes,)."""

    def __init__(self, classes: int, decay: float, use_quantile: bool = False, clip: bool = False) -> None:
        super().__init__()
        self.decay, self.use_quantile, self.clip = decay, use_quantile, clip
        self.register_buffer("certainty", torch.tensor(1 / classes))
        self.register_buffer("posterior", torch.full((classes,), 1 / classes))
        self.register_buffer("histogram", torch.full((classes,), 1 / classes))

    @torch.no_grad()
    def update(self, scores: Tensor, is_read: Tensor, probabilities: Tensor, symbols: Tensor, counted: Tensor) -> None:
        """With scores (n,) of the words that are read (n,), probabilities (n, steps, classes) and symbols (n, steps) where counted (n, steps)."""
        if self.use_quantile:
            everyone = gather(torch.stack([scores, is_read.to(scores.dtype)], 1))[0]  # (n, 2) of all ranks
            certainty = masked_quantile(everyone[:, 0], everyone[:, 1] > 0, 0.8)
        else:
            sums = mean_over_ranks(torch.stack([(scores * is_read).sum(), is_read.sum().to(scores.dtype)]))
            certainty = sums[0] / sums[1]
        move(self.certainty, certainty, self.decay)
        if self.clip:
            self.certainty.clamp_(0, 0.95)
        move(self.posterior, mean_posterior(probabilities, counted), self.decay)
        histogram = mean_over_ranks(occurrences(symbols, counted, len(self.histogram), self.histogram.dtype))
        move(self.histogram, histogram / histogram.sum(), self.decay)

    def thresholds(self) -> Tensor:
        """T (classes,)."""
        return self.certainty * self.posterior / self.posterior.max()

    def fairness(self, probabilities: Tensor, mask: Tensor) -> Tensor:
        """L_f of the strong view's probabilities (n, steps, classes) at the masked steps (n, steps): 0, with zero gradients, where there are none."""
        classes = len(self.posterior)
        labels = occurrences(probabilities.argmax(-1), mask, classes, probabilities.dtype)
        sums = torch.cat([(probabilities * mask.unsqueeze(2)).sum((0, 1)), labels, mask.sum().to(probabilities.dtype).unsqueeze(0)])
        sums = gather(sums.unsqueeze(0))[0].sum(0)  # (2 classes + 1,) of all ranks, with gradient
        count = sums[-1].detach()
        mean, share = sums[:classes] / count.clamp(min=1), sums[classes:-1].detach() / count.clamp(min=1)
        wanted = quotients(self.posterior, self.histogram.where(self.histogram >= LEAST_SHARE, 0)).to(mean.dtype)
        return (count > 0) * (wanted * (quotients(mean, share) + 1e-12).log()).sum()


def quotients(posterior: Tensor, share: Tensor) -> Tensor:
    """N(posterior / share), both (classes,): 0 where the share is 0, and summing to 1."""
    found = share > 0
    divided = posterior * found / share.where(found, 1)
    total = divided.sum()
    return divided / total.where(total > 0, 1)


def masked_quantile(values: Tensor, mask: Tensor, quantile: float) -> Tensor:
    """The quantile of the masked values (n,), between two of them in proportion; not finite where there are none. A scalar."""
    ordered = values.masked_fill(~mask, torch.inf).sort().values
    place = (quantile * (mask.sum() - 1).clamp(min=0)).reshape(1)
    below, above = ordered.gather(0, place.floor().long()), ordered.gather(0, place.ceil().long())
    return (below + (above - below) * (place - place.floor()).to(values.dtype)).squeeze(0)
