"""CCR: character-level consistency regularization, and SCR, its sequence-level ablation.

Zheng et al., "Pushing the Performance Limit of Scene Text Recognizer without Human Annotation", CVPR 2022,
arXiv 2204.07714. Domain adaptation by Deep CORAL (Sun and Saenko, ECCV 2016 workshops, arXiv 1607.01719).

    supervised    L_reg  = the recognizer's own loss on a labeled (synthetic) batch, with teacher forcing
    target        the exponential moving average of the online weights reads the weak view greedily: logits z_t,
                  symbols y_1 .. y_T (T counts the end symbol), score s = product over t <= T of max_c softmax(z_t)_c
    online        the supervised weights, and a projection between decoder and classifier that only this branch has,
                  read the strong view; the decoder is fed y_1 .. y_T, so that step t of both speaks of one character
    consistency   L_cons = 1[s > beta_U] (1 / T) sum over t of KL( softmax(z_t / temperature) || online_t )
    adaptation    L_da   = ||Cov_S - Cov_U||_F^2 / (4 d^2) between the glimpses (context vectors, width d) of the
                  labeled and of the online branch, over the characters of images whose own score passes a threshold
    L = L_reg + lambda_cons L_cons + lambda_da L_da

What the paper leaves open follows the authors' code:
- L_cons is the mean over all kept steps of the batch, not first within each word, times the kept fraction of the
  batch.
- The target's symbols are cut at the first id that is no character; the end symbol is written there, and over the last
  step if there is none. That step counts. Under `cross_entropy` these symbols are the hard labels.
- `score="minimum"` scores the target's reading by its least certain step: theirs, with `consistency="cross_entropy"`. (`geometric_mean` is ours.)
- The target always runs in eval mode; its buffers (batch statistics) are copied from the online model, not averaged.
- The labeled threshold (0.6) and beta_U are compared with each branch's own score, on its own likeliest symbols; a score that equals its
  threshold is kept (the paper's formula has >).
- L_da counts from one character on each side, whose covariance is 0; it is 0 where no unlabeled word is kept.
- `coral_form="authors_code"`: scatter matrices, not divided by the number of characters, and the mean over the d^2
  entries instead of their sum. The paper's form, with covariances, is the default.
- The projection starts as the recognizers do: Kaiming normal matrices, zero biases.

Otherwise than theirs: the online branch runs also where nothing is kept (to know that before, the host would have to wait for the device), and
the target's buffers are copied after the optimizer's step with its weights, not behind the labeled pass of the next step.

CTC has no step that could be fed, and the authors have no CTC path: all of it is ours. The strong view shifts, shears and rotates, so that its
frames are not those of the weak view: the branches are compared by what they read.
- `alignment="string"`: L_cons = 1[s > beta_U] (-log p(y | strong)) / length, the mean over the batch, where y are the target's symbols,
  repeats collapsed and blanks dropped, and p sums over all their alignments to the online frames (Graves et al. 2006): the CTC loss of a
  pseudo-label. y is hard; `consistency` and `sharpening_temperature` say nothing here.
- `alignment="frames"`: frame by frame (T = all frames, blanks too), for views that do not move the image.
- s is p(y | weak), over all alignments of y to the frames (`score="string"`, the default). By `score="product"` a run of one class counts once, with its
  most certain frame: it says nothing of frames that were read as blanks and might have been characters, and of what it is surest more is wrong
  (docs/results.md). An image that reads as nothing scores 0, where an empty product would score 1 and teach the blank, and is never kept.
- The glimpses are the memory's frames, and the characters are the frames whose likeliest class is not the blank. SCR does not exist there, since no
  decoder runs on predictions.

A decoder that writes all symbols at once (ABINet, ViTSTR) is fed nothing: the branches are compared position by position, up to and including the
end symbol of the target.

A projection that is new stands between a trained decoder and its classifier: until it has learned to hand on what it gets, the online branch reads
nothing. The paper's runs have the steps for that. `projection="residual"` (ours) begins as the identity: x + the feed-forward projection of x, whose
last layer begins at zero.

In distributed training each rank takes these means, and the covariances, over its own part of the batch.
"""

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from models.batch import Batch, Losses
from models.objectives.checks import check_decay, check_score, check_temperature, check_thresholds, check_weights
from models.objectives.coral import coral
from models.objectives.distances import cross_entropies, kl_divergences, masked_mean, string_distances
from models.objectives.moving_average import follow, follower
from models.objectives.readings import GreedyReading, Score, confident_characters, read
from models.objectives.signals import by_position, signals
from models.recognizer import Recognizer


class CCR(nn.Module):
    """Learns from labeled and unlabeled words at once; the online model is `recognizer`, its moving average `target`.

    ema: without it the target is the current online model (as decay 0), still without gradient.
    ema_decay: alpha. consistency_weight: lambda_cons. domain_adaptation_weight: lambda_da.
    score: null is the probability of the word, `product`, of CTC `string`. confidence_threshold: beta_U, which a score must reach.
    labeled_confidence_threshold: its counterpart for L_da.
    sharpening_temperature: of the target's distribution in `kl`; `cross_entropy` takes the target's symbols instead.
    consistency_level: `character` feeds the online decoder the target's symbols, `sequence` (SCR) its own.
    alignment: of a CTC decoder's branches; others are aligned by what they are fed.
    projection: `feed_forward` is linear to a quarter of the width, LayerNorm, ReLU, linear back; `residual` adds that to its input.

    The target starts as a copy: load pretrained weights before building this.
    """

    views = {"labeled": ("strong",), "unlabeled": ("weak", "strong")}

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        ema: bool = True,
        ema_decay: float = 0.999,
        alignment: Literal["string", "frames"] = "string",
        projection: Literal["none", "linear", "feed_forward", "residual"] = "feed_forward",
        consistency: Literal["kl", "cross_entropy"] = "kl",
        consistency_level: Literal["character", "sequence"] = "character",
        consistency_weight: float = 1.0,
        confidence_threshold: float = 0.5,
        score: Score | None = None,
        sharpening_temperature: float = 0.4,
        domain_adaptation: bool = True,
        domain_adaptation_weight: float = 0.01,
        labeled_confidence_threshold: float = 0.6,
        coral_form: Literal["paper", "authors_code"] = "paper",
    ) -> None:
        super().__init__()
        check_weights("ccr", {"consistency_weight": consistency_weight, "domain_adaptation_weight": domain_adaptation_weight})
        check_thresholds("ccr", {"confidence_threshold": confidence_threshold, "labeled_confidence_threshold": labeled_confidence_threshold})
        check_decay("ccr", "ema_decay", ema_decay, 0.999)
        check_temperature("ccr", sharpening_temperature, "consistency=cross_entropy")
        if recognizer.decoder.kind == "ctc" and consistency_level == "sequence":
            raise ValueError("consistency_level=sequence expects a decoder that is fed its own symbols, found a CTC "
                             "decoder: use consistency_level=character, or a recognizer with an attention decoder")
        check_score("ccr", recognizer, score)
        if recognizer.decoder.kind == "ctc" and alignment == "frames":
            warnings.warn("ccr compares frame by frame, but its strong view moves the image, so that frames of the two views show other places; "
                          "alignment=string compares what is read", stacklevel=2)
        self.recognizer = recognizer
        self.projection = _projection(projection, recognizer.decoder.classifier.in_features)
        self.target = follower(recognizer).eval()
        self.target.decoder.stops_early = False  # whether all words have ended is a question for which the host would wait for the device
        self.decay = ema_decay if ema else 0.0
        self.by_string = recognizer.decoder.kind == "ctc" and alignment == "string"
        self.consistency, self.sharpening_temperature = consistency, sharpening_temperature
        self.consistency_level, self.consistency_weight = consistency_level, consistency_weight
        self.score, self.confidence_threshold = score, confidence_threshold
        self.domain_adaptation, self.domain_adaptation_weight = domain_adaptation, domain_adaptation_weight
        self.labeled_confidence_threshold, self.coral_form = labeled_confidence_threshold, coral_form

    def train(self, mode: bool = True) -> "CCR":
        """Sets the mode of everything but the target, which stays in eval mode."""
        super().train(mode)
        self.target.eval()
        return self

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch with labeled words (one view, targets) and unlabeled ones (a weak and a strong view).

        Nothing here waits for the device: what does not count is masked, and the loss of no steps is a zero that still sends a
        (zero) gradient to every parameter.
        """
        decoder = self.recognizer.decoder
        (labeled_view,), (weak, strong) = batch.labeled.views, batch.unlabeled.views

        labeled = self.recognizer(labeled_view, decoder.inputs(batch.labeled.targets))
        recognition = decoder.loss(labeled, batch.labeled.targets)

        with torch.no_grad():
            target_logits = self.target(weak).logits  # (n, steps, classes)
        reading = read(target_logits, decoder.tokens, self.score)
        kept = (reading.scores >= self.confidence_threshold) & reading.is_read  # (n,)
        kept_fraction = kept.to(reading.scores.dtype).mean()

        positions = {}
        fed = reading.inputs if self.consistency_level == "character" else None
        online = decoder(self.recognizer.encode(strong), fed, self.projection)
        if self.by_string:
            consistency = (string_distances(reading.symbols, online.logits, decoder.tokens.blank) * kept).mean()
        else:
            distances = self._distances(reading, target_logits, online.logits)  # (n, steps)
            counted = (reading.steps & kept.unsqueeze(1))[:, : distances.shape[1]]  # (n, steps)
            consistency = kept_fraction * masked_mean(distances, counted)
            if decoder.kind != "ctc":  # whose steps are frames
                positions = by_position(distances, counted)

        total = recognition + self.consistency_weight * consistency
        named = {"recognition_loss": recognition, "consistency_loss": consistency,
                 **signals(reading, read(online.logits, decoder.tokens), kept, decoder.tokens), **positions}
        if self.domain_adaptation:
            source = confident_characters(labeled.logits, decoder.tokens, self.labeled_confidence_threshold)
            unlabeled = confident_characters(online.logits, decoder.tokens, self.confidence_threshold) & kept.any()
            adaptation = coral(labeled.glimpses, source, online.glimpses, unlabeled, self.coral_form)
            total = total + self.domain_adaptation_weight * adaptation
            named["domain_adaptation_loss"] = adaptation
        return Losses(total, {name: value.detach() for name, value in named.items()})

    def _distances(self, reading: GreedyReading, target_logits: Tensor, online_logits: Tensor) -> Tensor:
        """How far the online branch is from the target at each step, (n, steps).

        In SCR the online branch may end before the target, which always runs on: the steps that both have are compared.
        """
        steps = min(target_logits.shape[1], online_logits.shape[1])
        if self.consistency == "cross_entropy":
            return cross_entropies(reading.symbols[:, :steps], online_logits[:, :steps])
        return kl_divergences(target_logits[:, :steps], online_logits[:, :steps], self.sharpening_temperature)

    def after_step(self, step: int) -> None:
        """target <- decay target + (1 - decay) online for the parameters; the buffers are copied."""
        follow(self.target, self.recognizer, self.decay)


class Residual(nn.Module):
    """x + inner(x), the identity where the last layer of `inner` is zero."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.inner = inner
        nn.init.zeros_(inner[-1].weight)

    def forward(self, features: Tensor) -> Tensor:
        """(…, width) -> (…, width)."""
        return features + self.inner(features)


def _projection(name: str, width: int) -> nn.Module | None:
    """(…, width) -> (…, width), between decoder and classifier of the online branch."""
    if name == "none":
        return None
    layers = [nn.Linear(width, width)] if name == "linear" else [
        nn.Linear(width, width // 4), nn.LayerNorm(width // 4), nn.ReLU(), nn.Linear(width // 4, width)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return Residual(nn.Sequential(*layers)) if name == "residual" else nn.Sequential(*layers)
