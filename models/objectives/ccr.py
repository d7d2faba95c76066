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
- `score="minimum"` scores the target's reading by its least certain step: theirs, with `consistency="cross_entropy"`.
- The target always runs in eval mode; its buffers (batch statistics) are copied from the online model, not averaged.
- The labeled threshold (0.6) and beta_U are compared with each branch's own score, on its own likeliest symbols; a score that equals its
  threshold is kept (the paper's formula has >).
- L_da counts from one character on each side, whose covariance is 0.
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
- The glimpses are the memory's frames, and the characters are the frames whose likeliest class is not the blank. A run of one class counts
  once in s, with its most certain frame. An image that reads as nothing scores 0, where an empty product would score 1 and teach the blank, and is
  never kept. SCR does not exist there, since no decoder runs on predictions.

A projection that is new stands between a trained decoder and its classifier: until it has learned to hand on what it gets, the online branch reads
nothing. The paper's runs have the steps for that. `projection="residual"` (ours) begins as the identity: x + the feed-forward projection of x, whose
last layer begins at zero.

In distributed training each rank takes these means, and the covariances, over its own part of the batch.
"""

import copy
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import Batch, Losses
from models.charset import AttentionTokens, CTCTokens
from models.decoders.ctc_loss import ctc_losses
from models.precision import at_least_float32
from models.recognizer import Recognizer


class CCR(nn.Module):
    """Learns from labeled and unlabeled words at once; the online model is `recognizer`, its moving average `target`.

    ema: without it the target is the current online model (as decay 0), still without gradient.
    ema_decay: alpha. consistency_weight: lambda_cons. domain_adaptation_weight: lambda_da.
    confidence_threshold: beta_U, which a score must reach. labeled_confidence_threshold: its counterpart for L_da.
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
        score: Literal["product", "minimum"] = "product",
        sharpening_temperature: float = 0.4,
        domain_adaptation: bool = True,
        domain_adaptation_weight: float = 0.01,
        labeled_confidence_threshold: float = 0.6,
        coral_form: Literal["paper", "authors_code"] = "paper",
    ) -> None:
        super().__init__()
        for name, weight in {"consistency_weight": consistency_weight, "domain_adaptation_weight": domain_adaptation_weight}.items():
            if not weight >= 0:
                raise ValueError(f"ccr expects {name} of 0 or more, found {weight}")
        for name, threshold in {"confidence_threshold": confidence_threshold, "labeled_confidence_threshold": labeled_confidence_threshold}.items():
            if not 0 <= threshold <= 1:
                raise ValueError(f"ccr expects {name} from 0 to 1, found {threshold}: it is compared with probabilities")
        if not 0 <= ema_decay <= 1:
            raise ValueError(f"ccr expects ema_decay from 0 to 1, found {ema_decay}: the paper's is 0.999")
        if not sharpening_temperature > 0:
            raise ValueError(f"ccr expects sharpening_temperature above 0, found {sharpening_temperature}: 1 does not "
                             "sharpen; for hard labels use consistency=cross_entropy")
        if recognizer.decoder.kind == "ctc" and consistency_level == "sequence":
            raise ValueError("consistency_level=sequence expects a decoder that is fed its own symbols, found a CTC "
                             "decoder: use consistency_level=character, or a recognizer with an attention decoder")
        if recognizer.decoder.kind == "ctc" and alignment == "frames":
            warnings.warn("ccr compares frame by frame, but its strong view moves the image, so that frames of the two views show other places; "
                          "alignment=string compares what is read", stacklevel=2)
        self.recognizer = recognizer
        self.projection = _projection(projection, recognizer.decoder.classifier.in_features)
        self.target = copy.deepcopy(recognizer).requires_grad_(False).eval()
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

        Nothing here waits for the device (only the target's decoder may ask whether all words have ended): what does
        not count is masked, and the loss of no steps is a zero that still sends a (zero) gradient to every parameter.
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

        fed = reading.inputs if self.consistency_level == "character" else None
        online = decoder(self.recognizer.encode(strong), fed, self.projection)
        if self.by_string:
            consistency = (string_distances(reading.symbols, online.logits, decoder.tokens.blank) * kept).mean()
        else:
            distances = self._distances(reading, target_logits, online.logits)  # (n, steps)
            counted = (reading.steps & kept.unsqueeze(1))[:, : distances.shape[1]]  # (n, steps)
            consistency = kept_fraction * _masked_mean(distances, counted)

        total = recognition + self.consistency_weight * consistency
        named = {"recognition_loss": recognition, "consistency_loss": consistency,
                 "kept_fraction": kept_fraction, "mean_score": reading.scores.mean()}
        if self.domain_adaptation:
            source = _confident_characters(labeled.logits, decoder.tokens, self.labeled_confidence_threshold)
            unlabeled = _confident_characters(online.logits, decoder.tokens, self.confidence_threshold)
            adaptation = coral(labeled.glimpses, source, online.glimpses, unlabeled, self.coral_form)
            total = total + self.domain_adaptation_weight * adaptation
            named["domain_adaptation_loss"] = adaptation
        return Losses(total, {name: value.detach() for name, value in named.items()})

    def _distances(self, reading: "GreedyReading", target_logits: Tensor, online_logits: Tensor) -> Tensor:
        """How far the online branch is from the target at each step, (n, steps).

        In SCR the two run for as long as each wants: the steps that both have are compared.
        """
        steps = min(target_logits.shape[1], online_logits.shape[1])
        online = at_least_float32(online_logits[:, :steps]).log_softmax(-1)  # (n, steps, classes)
        if self.consistency == "cross_entropy":
            return -online.gather(2, reading.symbols[:, :steps].unsqueeze(2)).squeeze(2)
        target = (at_least_float32(target_logits[:, :steps]) / self.sharpening_temperature).log_softmax(-1)
        return (target.exp() * (target - online)).sum(-1)  # KL(target || online)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """target <- decay target + (1 - decay) online for the parameters; the buffers are copied."""
        for target, online in zip(self.target.parameters(), self.recognizer.parameters(), strict=True):
            target.lerp_(online, 1 - self.decay)
        for target, online in zip(self.target.buffers(), self.recognizer.buffers(), strict=True):
            target.copy_(online)


@dataclass
class GreedyReading:
    """What logits say of n images when the likeliest class is taken at every step."""

    symbols: Tensor  # (n, steps) int64: the likeliest classes, and for attention the end symbol and padding behind them
    inputs: Tensor | None  # (n, steps) int64: the symbol before each step, to feed a decoder; None for CTC
    steps: Tensor  # (n, steps) bool: the steps that L_cons counts
    characters: Tensor  # (n, steps) bool: the steps that write a character
    scores: Tensor  # (n,) in [0, 1]
    is_read: Tensor  # (n,) bool: whether the reading can teach; of CTC what reads as nothing cannot


@torch.no_grad()
def read(logits: Tensor, tokens: AttentionTokens | CTCTokens, score: str = "product") -> GreedyReading:
    """The reading of logits (n, steps, classes), scored by the `product` or the `minimum` of its probabilities."""
    log_largest, likeliest = at_least_float32(logits).log_softmax(-1).max(-1)  # (n, steps) each
    if isinstance(tokens, CTCTokens):
        characters = likeliest != tokens.blank  # (n, steps)
        counted = _log_largest_of_runs(likeliest, log_largest.where(characters, 0))  # (n, steps)
        scores = _score(counted, score) * characters.any(1)
        return GreedyReading(likeliest, None, torch.ones_like(characters), characters, scores, characters.any(1))
    sequences, lengths = pseudo_sequences(likeliest, tokens)  # (n, steps + 1), (n,)
    step = torch.arange(logits.shape[1], device=logits.device)
    steps = step < lengths.unsqueeze(1)
    scores = _score(log_largest.where(steps, 0), score)
    return GreedyReading(sequences[:, 1:], sequences[:, :-1], steps, step < lengths.unsqueeze(1) - 1, scores, torch.ones_like(lengths, dtype=torch.bool))


def string_distances(symbols: Tensor, logits: Tensor, blank: int) -> Tensor:
    """(n,): how far logits (n, frames, classes) are from writing what the frames' symbols (n, steps) say: -log p(string) / its length."""
    strings = collapsed(symbols, blank)  # (n, steps)
    log_probabilities = at_least_float32(logits).log_softmax(-1).transpose(0, 1)  # (frames, n, classes)
    if log_probabilities.is_cuda:
        return ctc_losses(log_probabilities, strings, blank)
    lengths = (strings != blank).sum(1)
    frames = torch.full_like(lengths, logits.shape[1])
    losses = F.ctc_loss(log_probabilities, strings, frames, lengths, blank=blank, reduction="none", zero_infinity=True)
    return losses / lengths.clamp(min=1)


def collapsed(symbols: Tensor, blank: int) -> Tensor:
    """(n, steps) classes of frames -> (n, steps): the string that they write, repeats collapsed and blanks dropped, padded with the blank."""
    repeated = F.pad(symbols[:, 1:] == symbols[:, :-1], (1, 0), value=False)
    written = (symbols != blank) & ~repeated  # (n, steps)
    steps = symbols.shape[1]
    place = (written.cumsum(1) - 1).masked_fill(~written, steps)  # what is not written goes behind the end
    return symbols.new_full((len(symbols), steps + 1), blank).scatter(1, place, symbols)[:, :steps]


def pseudo_sequences(symbols: Tensor, tokens: AttentionTokens) -> tuple[Tensor, Tensor]:
    """What an attention decoder wrote, (n, steps), as target rows (n, steps + 1) and their lengths (n,).

    A row is the start symbol, the characters before the first symbol that is none, the end symbol, padding. If every
    symbol is a character the end symbol takes the last one's place. The length counts the end symbol, not the start.
    """
    character = tokens.is_character(symbols)  # (n, steps)
    leading = character[:, :-1].cumprod(1).sum(1)  # (n,) the characters before the cut
    lengths = leading + 1
    step = torch.arange(symbols.shape[1], device=symbols.device)
    cut = symbols.masked_fill(step == leading.unsqueeze(1), tokens.end)
    cut = cut.masked_fill(step >= lengths.unsqueeze(1), tokens.pad)
    return F.pad(cut, (1, 0), value=tokens.start), lengths


def coral(source: Tensor, source_mask: Tensor, unlabeled: Tensor, unlabeled_mask: Tensor,
          form: str = "paper") -> Tensor:
    """L_da between the masked vectors of source (n, steps, d) and unlabeled (m, steps', d): a scalar.

    Zero, with zero gradients, where either mask (n, steps), (m, steps') holds no character.
    """
    width = source.shape[-1]
    with torch.autocast(source.device.type, enabled=False):
        source_scatter, source_count = _scatter(source, source_mask)
        unlabeled_scatter, unlabeled_count = _scatter(unlabeled, unlabeled_mask)
        if form == "paper":
            source_covariance = source_scatter / (source_count - 1).clamp(min=1)  # (d, d)
            unlabeled_covariance = unlabeled_scatter / (unlabeled_count - 1).clamp(min=1)
            distance = (source_covariance - unlabeled_covariance).square().sum()
        else:
            distance = (source_scatter - unlabeled_scatter).square().mean()
        enough = (source_count >= 1) & (unlabeled_count >= 1)
        return enough * distance / (4 * width**2)


def _scatter(vectors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(n, steps, d) -> the sum over the masked vectors of (x - mean)(x - mean)^T, (d, d), and how many they are."""
    vectors = at_least_float32(vectors).flatten(0, 1)  # (n * steps, d)
    weights = mask.flatten().to(vectors.dtype).unsqueeze(1)  # (n * steps, 1)
    count = weights.sum()
    mean = (vectors * weights).sum(0) / count.clamp(min=1)  # (d,)
    centred = (vectors - mean) * weights
    return centred.t() @ centred, count


def _confident_characters(logits: Tensor, tokens: AttentionTokens | CTCTokens, threshold: float) -> Tensor:
    """(n, steps) bool: the characters of the images whose score reaches the threshold."""
    reading = read(logits, tokens)
    return reading.characters & (reading.scores >= threshold).unsqueeze(1)


def _log_largest_of_runs(classes: Tensor, values: Tensor) -> Tensor:
    """The largest value of each run of one class, (n, steps): run k at position k, zeros behind the last."""
    starts = F.pad(classes[:, 1:] != classes[:, :-1], (1, 0), value=False)  # (n, steps) a run after the first begins
    runs = starts.cumsum(1)  # (n, steps) the number of the run that a step is in
    return torch.zeros_like(values).scatter_reduce(1, runs, values, "amax", include_self=False)


def _score(log_probabilities: Tensor, score: str) -> Tensor:
    """(n, steps), 0 where a step does not count -> (n,): the product or the smallest of the probabilities."""
    return (log_probabilities.sum(1) if score == "product" else log_probabilities.amin(1)).exp()


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values under the mask; 0, with zero gradients, if there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


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
