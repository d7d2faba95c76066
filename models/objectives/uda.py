"""UDA for words: soft, sharpened targets from the weak view, and training signal annealing on the labels.

Xie et al., "Unsupervised Data Augmentation for Consistency Training", NeurIPS 2020, arXiv 1904.12848.

    supervised   L_s = the recognizer's own loss on the labeled words, less those that it already knows (annealing)
    target       z, the current weights' logits of the weak view, read greedily, without gradient; score s            (section 2.2)
    consistency  L_u = 1/n sum over ALL n unlabeled words of 1[s >= beta] D(softmax(z / temperature), p(strong view)) (section 2.4)
    annealing    a labeled word whose own probability exceeds eta_t teaches nothing; with t of T steps done and K classes
                 eta_t = alpha_t (1 - 1/K) + 1/K,   alpha_t = t/T (linear), exp(5 (t/T - 1)) (exp), 1 - exp(-5 t/T) (log)   (section 2.3)
    L = L_s + lambda L_u,   beta 0.8, temperature 0.4

D is the KL divergence, or the cross-entropy, which differs by the target's entropy and has the same gradient. (USB's code ignores its temperature
and compares with the unsharpened target; here `sharpening_temperature=1`.)

What a word needs beyond the paper's single class (ours):
- D of a word is the mean over its characters and end symbol, the decoder being fed the weak view's reading; s is the geometric mean of their
  probabilities, see `fixmatch`, where it also says why the weak view has a pass of its own in eval mode (`use_cat`).
- A CTC decoder's frames of a moved view show other places, so that a frame's distribution is no target for the frame of the same number. By
  default (`alignment="string"`) the strong view learns the string that was read, by its CTC loss over its length: hard targets, of which
  `consistency` and `sharpening_temperature` say nothing, so that UDA differs from FixMatch by its threshold and the annealing alone.
  `alignment="frames"` is the soft form, over all frames, for views that do not move the image.
- A labeled word's own probability is the score of what the recognizer reads in it, fed with the label (USB takes the likeliest class, too; the
  paper the label's). K is the number of classes of one symbol. A dropped word sends no gradient; it stays in the denominator of the mean, as in
  USB, and in the logged loss.
"""

import math
import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from models.batch import Batch, Losses
from models.decoders.decoded import Decoded
from models.objectives.checks import check_score, check_steps, check_temperature, check_thresholds, check_weights
from models.objectives.distances import kl_divergences, means_of_words, soft_cross_entropies
from models.objectives.readings import GreedyReading, Score, read, score_of_symbols
from models.objectives.signals import signals
from models.objectives.weak_strong import VIEWS, branches, check_use_cat, word_consistency
from models.recognizer import Recognizer


class UDA(nn.Module):
    """Learns from labeled words, and to say of a strong view what it says, sharpened, of the weak one.

    confidence_threshold: beta, which a score must reach. consistency_weight: lambda.
    score: of a word, see `scores_of`; null: `geometric_mean`, of CTC `string_mean`.
    annealing_steps: T, the steps of the run, without which there is no schedule.
    alignment: of a CTC decoder's branches; others are aligned by what they are fed.
    use_cat: one batch of labeled, weak and strong images through the encoder, in training mode.
    """

    views = VIEWS

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        consistency: Literal["kl", "cross_entropy"] = "kl",
        sharpening_temperature: float = 0.4,
        confidence_threshold: float = 0.8,
        score: Score | None = None,
        consistency_weight: float = 1.0,
        annealing: Literal["none", "linear", "exp", "log"] = "none",
        annealing_steps: int | None = None,
        alignment: Literal["string", "frames"] = "string",
        use_cat: bool = False,
    ) -> None:
        super().__init__()
        check_weights("uda", {"consistency_weight": consistency_weight})
        check_thresholds("uda", {"confidence_threshold": confidence_threshold})
        check_temperature("uda", sharpening_temperature, "the objective fixmatch")
        check_steps("uda", "annealing_steps", annealing_steps, needed=annealing != "none")
        check_use_cat("uda", recognizer, use_cat)
        check_score("uda", recognizer, score)
        score = score or score_of_symbols(recognizer.decoder.tokens)
        if recognizer.decoder.kind == "ctc" and alignment == "frames":
            warnings.warn("uda compares frame by frame, but its strong view moves the image, so that frames of the two views show other places; "
                          "alignment=string compares what is read", stacklevel=2)
        self.recognizer = recognizer
        self.consistency, self.sharpening_temperature = consistency, sharpening_temperature
        self.confidence_threshold, self.score, self.consistency_weight = confidence_threshold, score, consistency_weight
        self.annealing, self.annealing_steps, self.use_cat = annealing, annealing_steps, use_cat
        self.by_string = recognizer.decoder.kind == "ctc" and alignment == "string"
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # steps done

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch with labeled words (one view, targets) and unlabeled ones (a weak and a strong view). The host waits for nothing."""
        decoder = self.recognizer.decoder
        both = branches(self.recognizer, batch, self.score, self.use_cat)
        named = {}
        if self.annealing != "none":
            own = read(both.labeled.logits, decoder.tokens, self.score)
            ceiling = annealed(self.step / self.annealing_steps, decoder.tokens.classes, self.annealing)
            taught = own.scores <= ceiling  # (n,)
            both.labeled = teaching(both.labeled, taught)
            named["taught_fraction"] = taught.to(own.scores.dtype).mean()
        recognition = decoder.loss(both.labeled, batch.labeled.targets)
        kept = (both.reading.scores >= self.confidence_threshold) & both.reading.is_read  # (n,)
        if self.by_string:
            consistency = word_consistency(both.reading, both.online.logits, kept, decoder.tokens)
        else:
            distances = soft_distances(both.reading, both.weak_logits, both.online.logits, self.consistency, self.sharpening_temperature)
            consistency = (distances * kept).mean()
        named |= {"recognition_loss": recognition.detach(), "consistency_loss": consistency.detach(),
                  **signals(both.reading, both.own, kept, decoder.tokens)}
        return Losses(recognition + self.consistency_weight * consistency, named)

    def after_step(self, step: int) -> None:
        """The schedule goes on."""
        self.step.fill_(step)


def soft_distances(reading: GreedyReading, weak_logits: Tensor, logits: Tensor, consistency: str, temperature: float) -> Tensor:
    """(n,): the mean over each word's steps of D between sharpened and online distributions of logits (n, steps, classes)."""
    distance = kl_divergences if consistency == "kl" else soft_cross_entropies
    return means_of_words(distance(weak_logits, logits, temperature), reading.steps)


def annealed(progress: Tensor, classes: int, schedule: str) -> Tensor:
    """eta_t: the probability above which a label teaches nothing, when `progress` (a scalar from 0 to 1) of the run is done."""
    progress = progress.clamp(max=1)
    share = {"linear": progress, "exp": (5 * (progress - 1)).exp(), "log": 1 - (-5 * progress).exp(),
             "none": torch.full_like(progress, math.inf)}[schedule]
    return (share * (1 - 1 / classes) + 1 / classes).clamp(max=1)


def teaching(decoded: Decoded, taught: Tensor) -> Decoded:
    """The same outputs, of which those of the words that are not `taught` (n,) send no gradient back."""
    def part(logits: Tensor) -> Tensor:  # (…, n, steps, classes)
        return torch.where(taught[:, None, None], logits, logits.detach())
    return Decoded(part(decoded.logits), decoded.glimpses, decoded.attention, {name: part(logits) for name, logits in decoded.branches.items()})
