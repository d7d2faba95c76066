"""ViSu: CCR, whose target also reads labels in plain print (viewing), and one representation for each character (summarizing).

Qu et al., "Boosting Semi-Supervised Scene Text Recognition via Viewing and Summarizing", NeurIPS 2024, arXiv 2411.15585. The constants are the
paper's; what is computed with them is read from the authors' released code, not from the paper's equations:

    base images   every label printed without background in plain fonts, the Online Generation Strategy; of an unlabeled word its weak view
                  stands in their place
    recognition   L_rec  = the recognizer's own loss on the labeled images, and on their base images
    consistency   L_ccr  = CCR's (see ccr.py) on the unlabeled words, and on the labeled ones: the target reads the base image, the online
                  branch, behind its projection, the labeled image, both fed with the label; a word counts if the target's score, the product
                  over its steps of the largest probability, reaches beta
    alignment     L_cua  = the mean over the online branch's characters i of
                      - (1 / |P(i)|) sum over p in P(i) of
                          log exp(s_ip) / (exp(s_ip) + sum over n in N(i) of exp(s_in) + sum over q in P(i) without p of exp(-s_iq))
                  with s_ij = cosine(u_i, v_j) / tau, u of the online branch, v of the target's reading of the base images, P(i) those of the
                  class of i and N(i) those of other classes. In a contrast with many positives they stand as exp(s_iq) below the line, where
                  each pushes the others away; exp(-s_iq) draws all of them near. Unidirectional: no gradient reaches v
    L = L_rec (labeled) + L_rec (base) + L_ccr (labeled) + L_ccr (unlabeled) + lambda (L_cua (labeled) + L_cua (unlabeled))

The constants: decay 0.999, beta 0.5, sharpening temperature 0.4, lambda 0.1, eta 0.7, tau 0.1. eta is the score that an unlabeled word
must reach to be aligned; labeled ones always are. Their released configuration has eta 0.8.

As in the authors' code:
- The base image is no constant: every character is in a font drawn at random, and the picture goes through the labeled images' augmentation.
- u and v pass a head of their own, LayerNorm, linear, GELU, dropout 0.1, linear, in one width; the target's is a moving average, in eval mode.
- The end symbol is a class like the characters and is aligned, too. Labeled and unlabeled words are contrasted apart.
- v come from all processes of distributed training; u, and the mean over them, are each process's own.
- There is no domain adaptation.

Ours:
- u and v are the glimpses (what each step saw), for recognizers of every kind. Theirs, of a vision transformer alone, are the decoder's outputs
  before the classifier. What their TRBA and CRNN took is not published.
- The online branch's projection before the classifier is CCR's; theirs has the form of the head above.
- What does not count (padding, words below eta) is no positive either; theirs divides by it, too.
- The base images are read first, so that the other images have the last word in the statistics of batch normalization.
- CTC: the glimpses of a run of one class that is not the blank are averaged, and the k-th run is the k-th character: of the label, or of
  what the target reads. A word is aligned where there are as many runs as characters. The consistency is CCR's by strings, with what the target
  reads on the base image for the string. Their CRNN has no published code.

Left out, because it is a matter of the data and of reading, not of the loss: all images are brought into one reading form. Labeled and test
crops higher than wide are turned by 90 degrees clockwise; half of all training images are turned upside down, a labeled one together with its base
image, whose characters may all lie on their side; a test image is read both ways up, and the surer reading wins. Their result on multi-oriented
words is due to that.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from models.batch import Batch, Losses
from models.charset import AttentionTokens
from models.costs import without_weights
from models.decoders.decoded import Decoded
from models.objectives.ccr import CCR
from models.objectives.checks import check_thresholds, check_weights
from models.objectives.distances import kl_divergences, masked_mean, string_distances
from models.objectives.distributed import gather
from models.objectives.moving_average import follow, follower
from models.objectives.readings import GreedyReading, read
from models.objectives.signals import signals
from models.precision import at_least_float32, exactly
from models.recognizer import Recognizer


class ViSu(nn.Module):
    """Learns from labeled words, their base images and unlabeled words; online model and target are those of `ccr`.

    alignment_weight: lambda. alignment_threshold: eta. alignment_temperature: tau.
    base_view: what the base images go through: `base_strong` the augmentation of the labeled images, `base` none.
    base_recognition_weight, base_consistency_weight: of L_rec and L_ccr on the labels' base images; the authors' are 1.
    The other fields are CCR's. With the three weights at 0 the loss is CCR's without domain adaptation.

    The target starts as a copy: load pretrained weights before building this.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        alignment_weight: float = 0.1,
        alignment_threshold: float = 0.7,
        alignment_temperature: float = 0.1,
        base_view: Literal["base", "base_strong"] = "base_strong",
        base_recognition_weight: float = 1.0,
        base_consistency_weight: float = 1.0,
        ema_decay: float = 0.999,
        projection: Literal["none", "linear", "feed_forward", "residual"] = "feed_forward",
        consistency_weight: float = 1.0,
        confidence_threshold: float = 0.5,
        sharpening_temperature: float = 0.4,
    ) -> None:
        super().__init__()
        check_weights("visu", {"alignment_weight": alignment_weight, "base_recognition_weight": base_recognition_weight,
                               "base_consistency_weight": base_consistency_weight})
        check_thresholds("visu", {"alignment_threshold": alignment_threshold})
        if not alignment_temperature > 0:
            raise ValueError(f"visu expects alignment_temperature above 0, found {alignment_temperature}: the paper's is 0.1")
        self.ccr = CCR(recognizer, ema_decay=ema_decay, projection=projection, consistency_weight=consistency_weight,
                       confidence_threshold=confidence_threshold, sharpening_temperature=sharpening_temperature, domain_adaptation=False)
        self.head = _head(_glimpse_width(recognizer))
        self.target_head = follower(self.head).eval()
        self.alignment_weight, self.alignment_threshold, self.alignment_temperature = alignment_weight, alignment_threshold, alignment_temperature
        self.base_recognition_weight, self.base_consistency_weight = base_recognition_weight, base_consistency_weight
        self.views = {"labeled": ("strong", base_view), "unlabeled": ("weak", "strong")}

    @property
    def recognizer(self) -> Recognizer:
        """The online model."""
        return self.ccr.recognizer

    def train(self, mode: bool = True) -> "ViSu":
        """Sets the mode of everything but the target and its head, which stay in eval mode."""
        super().train(mode)
        self.target_head.eval()
        return self

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch with labeled words (image and base image, targets) and unlabeled ones (a weak and a strong view).

        Nothing here waits for the device.
        """
        ccr, decoder = self.ccr, self.recognizer.decoder
        (images, base), (weak, strong) = batch.labeled.views, batch.unlabeled.views
        targets = batch.labeled.targets
        fed = decoder.inputs(targets)

        base_recognition = decoder.loss(self.recognizer(base, fed), targets)
        memory = self.recognizer.encode(images)
        labeled = decoder(memory, fed)
        recognition = decoder.loss(labeled, targets)
        with torch.no_grad():
            reference = ccr.target(base, fed)
        read_base = read(reference.logits, decoder.tokens) if decoder.kind == "ctc" else along(targets[:, 1:], reference.logits, decoder.tokens)
        base_consistency, base_kept = self._consistency(read_base, reference.logits, decoder(memory, fed, ccr.projection).logits)
        alignment = self._alignment(labeled, reference, *self._labels(targets, read_base))

        with torch.no_grad():
            target = ccr.target(weak)
        reading = read(target.logits, decoder.tokens)
        online = decoder(self.recognizer.encode(strong), reading.inputs, ccr.projection)
        consistency, kept = self._consistency(reading, target.logits, online.logits)
        aligned = (reading.scores >= self.alignment_threshold) & reading.is_read  # (n,)
        unlabeled_alignment = self._alignment(online, target, *self._written(target, reading, aligned))

        total = (recognition + ccr.consistency_weight * consistency
                 + self.base_recognition_weight * base_recognition + self.base_consistency_weight * base_consistency
                 + self.alignment_weight * (alignment + unlabeled_alignment))
        named = {"recognition_loss": recognition, "base_recognition_loss": base_recognition,
                 "consistency_loss": consistency, "base_consistency_loss": base_consistency,
                 "alignment_loss": alignment, "unlabeled_alignment_loss": unlabeled_alignment,
                 "base_kept_fraction": base_kept, "aligned_fraction": aligned.to(reading.scores.dtype).mean(),
                 **signals(reading, read(online.logits, decoder.tokens), kept, decoder.tokens)}
        return Losses(total, {name: value.detach() for name, value in named.items()})

    def _consistency(self, reading: GreedyReading, target_logits: Tensor, online_logits: Tensor) -> tuple[Tensor, Tensor]:
        """L_ccr and the fraction of the words that it keeps."""
        kept = (reading.scores >= self.ccr.confidence_threshold) & reading.is_read  # (n,)
        fraction = kept.to(reading.scores.dtype).mean()
        if self.ccr.by_string:
            return (string_distances(reading.symbols, online_logits, self.recognizer.decoder.tokens.blank) * kept).mean(), fraction
        distances = kl_divergences(target_logits, online_logits, self.ccr.sharpening_temperature)  # (n, steps)
        return fraction * masked_mean(distances, reading.steps & kept.unsqueeze(1)), fraction

    def _labels(self, targets: Tensor, reading: GreedyReading) -> tuple[Tensor, Tensor]:
        """The labels' classes (n, slots), and which of these count."""
        tokens = self.recognizer.decoder.tokens
        return (reading.symbols, reading.steps) if isinstance(tokens, AttentionTokens) else (targets, targets != tokens.blank)

    def _written(self, target: Decoded, reading: GreedyReading, aligned: Tensor) -> tuple[Tensor, Tensor]:
        """The classes (n, slots) that the target wrote, and which of these count: those of the words that are aligned."""
        decoder = self.recognizer.decoder
        if isinstance(decoder.tokens, AttentionTokens):
            return reading.symbols, reading.steps & aligned.unsqueeze(1)
        runs = runs_of(target, decoder.max_length, decoder.tokens.blank)
        slot = torch.arange(decoder.max_length, device=aligned.device)
        return runs.symbols, (slot < runs.count.unsqueeze(1)) & aligned.unsqueeze(1)

    def _alignment(self, online: Decoded, target: Decoded, symbols: Tensor, counted: Tensor) -> Tensor:
        """L_cua between the characters of both branches, whose classes are `symbols` where `counted`, (n, slots) each."""
        decoder, found = self.recognizer.decoder, []
        for decoded, head in ((online, self.head), (target, self.target_head)):
            glimpses, right = decoded.glimpses, counted
            if decoder.kind == "ctc":
                runs = runs_of(decoded, symbols.shape[1], decoder.tokens.blank)
                glimpses, right = runs.glimpses, counted & (runs.count == counted.sum(1)).unsqueeze(1)
            found.append((head(glimpses), symbols.masked_fill(~right, -1)))
        (features, classes), (reference, reference_classes) = found
        missing = max(decoder.max_length + 1 - symbols.shape[1], 0)  # equally many on each process
        reference, _ = gather(F.pad(reference.detach(), (0, 0, 0, missing)).flatten(0, 1))
        reference_classes, _ = gather(F.pad(reference_classes, (0, missing), value=-1).flatten())
        return alignment_loss(features.flatten(0, 1), classes.flatten(), reference, reference_classes, self.alignment_temperature)

    def after_step(self, step: int) -> None:
        """The target, and its head, follow the online model."""
        self.ccr.after_step(step)
        follow(self.target_head, self.head, self.ccr.decay)


PAIRS = 2**24  # of characters that are compared at a time


def alignment_loss(features: Tensor, classes: Tensor, reference: Tensor, reference_classes: Tensor, temperature: float) -> Tensor:
    """L_cua of u (q, width) and v (r, width), a scalar in float32 at least: the mean over those u that have a positive, 0 if none has.

    classes (q,) and reference_classes (r,) int64; what is negative does not count.

    Of 384 words of 26 steps there are 10^8 pairs, times the processes, and ten numbers for each: they are compared some rows at a time, and
    computed again for backward.
    """
    rows = max(1, PAIRS // max(1, len(reference)))
    parts = [checkpoint(_losses_of_rows, *part, reference, reference_classes, temperature, use_reentrant=False, preserve_rng_state=False)
             for part in zip(features.split(rows), classes.split(rows), strict=True)]
    losses, aligned = (torch.cat(part) for part in zip(*parts, strict=True))  # (q,) each
    return losses.sum() / aligned.sum().clamp(min=1)


def _losses_of_rows(features: Tensor, classes: Tensor, reference: Tensor, reference_classes: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The terms (q,) of the sum in L_cua, 0 where there is no positive, and (q,) bool where there is one."""
    with exactly(features):
        u, v = (F.normalize(at_least_float32(vectors), dim=1) for vectors in (features, reference))
        similarity = u @ v.t() / temperature  # (q, r)
        same = classes.unsqueeze(1) == reference_classes
        counts = reference_classes >= 0
        positive = same & counts & (classes >= 0).unsqueeze(1)
        # All powers are divided by exp(1 / temperature), the largest that there can be: the quotients stay, and none overflows.
        near, far = (similarity - 1 / temperature).exp(), (-similarity - 1 / temperature).exp()
        others = near * (~same & counts) + far * positive  # (q, r)
        below = near + (others.sum(1, keepdim=True) - far).clamp(min=0)  # of the positives: without the one above the line among `far`
        log_quotients = (similarity - 1 / temperature - below.clamp(min=torch.finfo(below.dtype).tiny).log()).where(positive, 0)  # (q, r)
        positives = positive.sum(1)  # (q,)
        return -log_quotients.sum(1) / positives.clamp(min=1), positives > 0


@torch.no_grad()
def along(labels: Tensor, logits: Tensor, tokens: AttentionTokens) -> GreedyReading:
    """What logits (n, steps, classes) that were fed labels say of them, (n, steps): scored by the likeliest symbols of the label's steps."""
    step = torch.arange(labels.shape[1], device=labels.device)
    lengths = tokens.is_character(labels).cumprod(1).sum(1, keepdim=True)  # (n, 1)
    steps = step <= lengths  # the end symbol counts
    log_largest = at_least_float32(logits).log_softmax(-1).amax(-1)  # (n, steps)
    scores = log_largest.where(steps, 0).sum(1).exp()
    return GreedyReading(labels, None, steps, step < lengths, scores, torch.ones_like(steps[:, 0]))


@dataclass
class Runs:
    """The runs of one class, not the blank, among the frames of n images; those behind the last slot are only counted."""

    glimpses: Tensor  # (n, slots, width): the mean over a run's frames, zeros behind the last run
    symbols: Tensor  # (n, slots) int64: the classes, the blank behind the last run
    count: Tensor  # (n,)


def runs_of(decoded: Decoded, slots: int, blank: int) -> Runs:
    """The runs that the likeliest classes of a CTC decoder's frames make."""
    best = decoded.logits.detach().argmax(-1)  # (n, frames)
    written = best != blank
    begins = written & F.pad(best[:, 1:] != best[:, :-1], (1, 0), value=True)
    number = (begins.cumsum(1) - 1).masked_fill(~written, -1)  # (n, frames) the run that a frame is in
    inside = number.unsqueeze(1) == torch.arange(slots, device=best.device).unsqueeze(1)  # (n, slots, frames)
    weights = inside.to(decoded.glimpses.dtype) / inside.sum(2, keepdim=True).clamp(min=1)
    symbols = best.unsqueeze(1).where(inside, 0).amax(2).where(inside.any(2), blank)
    return Runs(weights @ decoded.glimpses, symbols, begins.sum(1))


def _head(width: int) -> nn.Sequential:
    """(…, width) -> (…, width), what is aligned of a glimpse."""
    layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, width))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return layers


def _glimpse_width(recognizer: Recognizer) -> int:
    """The width of what a step sees. Asked of its shapes alone, also where the recognizer has no more than these."""
    with FakeTensorMode(), torch.device("cpu"):
        shapes = without_weights(recognizer).eval()
        shapes.decoder.stops_early = False
        image = torch.empty(1, 3, recognizer.height, recognizer.width, dtype=next(shapes.parameters()).dtype)
        return shapes(image).glimpses.shape[-1]
