"""SemiMTR's fine-tuning: ABINet's three readings of one view teach those of another.

Aberdam et al., "Multimodal Semi-Supervised Learning for Text Recognition", 2022, arXiv 2205.03873. Student and teacher are ABINet (Fang et al.,
CVPR 2021), whose modalities are vision, language and fusion.

    L      = sum over modalities d of  lambda_U,d L_consist(Y_d of the strong view; Y_d of the weak view)     over unlabeled and labeled words
                                     + lambda_L,d (CE(Y_d of the strong view) + CE(Y_d of the weak view))     over labeled words
    L_consist = the mean over the symbols of the teacher's words of CE(onehot(argmax teacher), student), no gradient through the teacher

The teacher is the same model on the weak view, with dropout and batch statistics of its own: each view is a pass for itself. In the paper the weak
view is ABINet's augmentation and the strong one SemiMTR's, on colour alone; they need not be aligned, as words are compared symbol by symbol.
Constants: all weights 1, no threshold (0.9 where there is one), no average (decay 0.9999 where there is one).

What the paper leaves open follows the authors' code (amazon-science/semimtr-text-recognition); fields where it is a choice:
- Language and fusion are read in every iteration. The teacher's label and length are its last iteration's. `iterations="authors_code"`: the
  consistency losses of a student's iterations are added where each modality teaches itself or one teaches one, so that language and fusion count
  three times as much as vision in the released configuration, and averaged where one teaches all. The cross-entropies are averaged.
- A teacher's word ends with its first end symbol, which counts, or else fills all steps. A word that vision reads as nothing has two steps, one
  that language or the last fusion reads as nothing has one.
- A teacher's symbol is kept if its probability is above the threshold, not equal. Symbols that are not kept stay in the mean's denominator.
- Means run over the symbols of the whole batch, not within each word first.
- `teacher="itself"` with `student="all"` pairs each modality with itself; there are no nine pairs.
- The average holds parameters only, after every step. Its batch normalization is in the mode of the student's, with batch statistics when
  training, and keeps running statistics of its own. It gets no gradient: CE of the weak view counts in the loss then, but teaches nothing.
- Their modality weights serve both terms, and one more weight the consistency alone. Here each lambda is a field.

Otherwise than theirs: a batch without labeled words, from which they get NaN, loses the cross-entropies. In distributed training a mean runs over the
symbols of all ranks, as one process's would (they compute one loss for the whole batch); batch statistics are each rank's own, as theirs are.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from models.batch import Batch, Losses, View
from models.decoders.abinet import ABINetDecoder
from models.decoders.decoded import Decoded
from models.objectives.checks import check_decay, check_thresholds, check_weights
from models.objectives.distributed import over_all_ranks
from models.objectives.moving_average import follow, follower
from models.objectives.readings import read
from models.objectives.signals import signals
from models.precision import at_least_float32
from models.recognizer import Recognizer

MODALITIES = ("vision", "language", "fusion")
SHORTEST = {"vision": 2, "language": 1, "fusion": 1}  # steps of a teacher's word, the end symbol among them


@dataclass(frozen=True)
class Teaching:
    """Who teaches whom, and how the two are compared; the fields are those of `SemiMTR`."""

    teacher: str = "itself"
    student: str = "all"
    labels: str = "hard"
    distance: str = "cross_entropy"
    confidence_threshold: float | None = None
    stop_gradient: bool = True
    iterations: str = "authors_code"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(teacher, student), modality by modality."""
        students = MODALITIES if self.student == "all" else (self.student,)
        return [(student if self.teacher == "itself" else self.teacher, student) for student in students]

    @property
    def adds_iterations(self) -> bool:
        """Whether the losses of a student's iterations are added, not averaged."""
        if self.iterations == "authors_code":
            return self.teacher == "itself" or self.student != "all"
        return self.iterations == "sum"


class SemiMTR(nn.Module):
    """Fine-tunes an ABINet on labeled and unlabeled words at once.

    teacher, student: modalities; `itself` is each student's own.
    labels: the teacher's likeliest symbols (hard) or its probabilities (soft).
    distance: cross-entropy to the labels, or the divergence KL(labels || student); equal for hard labels.
    confidence_threshold: a teacher's symbol teaches if its probability is above this; null: every symbol does.
    stop_gradient: without it the gradient flows into soft labels too.
    iterations: how a student's are put together, see above.
    ema, ema_decay: teach with a moving average of the recognizer instead. It starts as a copy: load pretrained weights before building this.
    *_consistency_weight, *_recognition_weight: lambda_U,d and lambda_L,d, by the student's modality.
    weak_view, strong_view: the teacher's and the student's augmentation.

    ValueError for a recognizer that is no ABINet.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        teacher: Literal["itself", "vision", "language", "fusion"] = "itself",
        student: Literal["all", "vision", "language", "fusion"] = "all",
        labels: Literal["hard", "soft"] = "hard",
        distance: Literal["cross_entropy", "kl"] = "cross_entropy",
        confidence_threshold: float | None = None,
        stop_gradient: bool = True,
        iterations: Literal["authors_code", "sum", "mean"] = "authors_code",
        ema: bool = False,
        ema_decay: float = 0.9999,
        vision_consistency_weight: float = 1.0,
        language_consistency_weight: float = 1.0,
        fusion_consistency_weight: float = 1.0,
        vision_recognition_weight: float = 1.0,
        language_recognition_weight: float = 1.0,
        fusion_recognition_weight: float = 1.0,
        weak_view: View = "weak",
        strong_view: View = "semimtr",
    ) -> None:
        super().__init__()
        if not isinstance(recognizer.decoder, ABINetDecoder):
            raise ValueError("semimtr expects a recognizer that reads by vision, by language and by their fusion, found "
                             f"{recognizer.name or 'one'} with a {recognizer.decoder.kind} decoder: use recognizer abinet")
        if recognizer.decoder.iterations == 0:
            raise ValueError("semimtr expects an ABINet with iterations of 1 or more, found 0, the vision model alone: leave the option out")
        self.consistency_weights = dict(zip(MODALITIES, (vision_consistency_weight, language_consistency_weight, fusion_consistency_weight)))
        self.recognition_weights = dict(zip(MODALITIES, (vision_recognition_weight, language_recognition_weight, fusion_recognition_weight)))
        for kind, weights in {"consistency": self.consistency_weights, "recognition": self.recognition_weights}.items():
            check_weights("semimtr", {f"{name}_{kind}_weight": weight for name, weight in weights.items()})
        if confidence_threshold is not None:
            check_thresholds("semimtr", {"confidence_threshold": confidence_threshold})
        check_decay("semimtr", "ema_decay", ema_decay, 0.9999)
        if ema and not stop_gradient:
            raise ValueError("semimtr expects stop_gradient=true with ema=true, found false: no gradient reaches an average")
        self.recognizer = recognizer
        self.average = follower(recognizer) if ema else None
        self.decay = ema_decay
        self.teaching = Teaching(teacher, student, labels, distance, confidence_threshold, stop_gradient, iterations)
        self.views = {"labeled": (weak_view, strong_view), "unlabeled": (weak_view, strong_view)}

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch with labeled words (targets), unlabeled ones, or both; two views of each. Never waits for the device."""
        parts = [part for part in (batch.labeled, batch.unlabeled) if part is not None]  # the labeled words come first
        weak, strong = (torch.cat([part.views[view] for part in parts]) for view in range(2))  # (n, 3, height, width) each
        if self.average is None:
            teacher = self.recognizer(weak)
        else:
            with torch.no_grad():
                teacher = self.average(weak)
        student = self.recognizer(strong)

        consistency = consistency_losses(teacher.branches, student.branches, self.recognizer.decoder.tokens.end, self.teaching)
        targets = batch.labeled.targets if batch.labeled is not None else torch.empty(0, 0, dtype=torch.int64, device=strong.device)
        recognition = [recognition_losses(self.recognizer.decoder, decoded, targets) for decoded in (teacher, student)]
        consistent = sum(self.consistency_weights[name] * loss for name, loss in consistency.by_student.items())
        recognised = sum(self.recognition_weights[name] * loss for losses in recognition for name, loss in losses.items())
        tokens, first = self.recognizer.decoder.tokens, 0 if batch.unlabeled is None else len(targets)
        reading, own = (read(decoded.logits[first:], tokens) for decoded in (teacher, student))  # by fusion, of the unlabeled words if there are any
        named = {"recognition_loss": recognised, "consistency_loss": consistent, **signals(reading, own, reading.is_read, tokens),
                 "kept_fraction": consistency.kept_fraction,  # of symbols
                 "teacher_length": consistency.teacher_length}
        return Losses(recognised + consistent, {name: value.detach() for name, value in named.items()})

    def after_step(self, step: int) -> None:
        """Moves the average, if there is one."""
        if self.average is not None:
            follow(self.average, self.recognizer, self.decay, buffers=False)


@dataclass
class PseudoLabels:
    """What a teacher says of n words."""

    symbols: Tensor  # (n, steps) int64
    log_probabilities: Tensor  # (n, steps, classes)
    counted: Tensor  # (n, steps) bool: up to the first end symbol
    kept: Tensor  # (n, steps) bool: counted, and sure enough


@dataclass
class Consistency:
    """How far students are from their teachers."""

    by_student: dict[str, Tensor]  # for each modality a scalar, unweighted; those that nobody teaches have 0, with a zero gradient
    kept_fraction: Tensor  # of the symbols that count, on average over the pairs
    teacher_length: Tensor  # symbols of a word, on average over the pairs


def consistency_losses(teacher: dict[str, Tensor], student: dict[str, Tensor], end: int, teaching: Teaching) -> Consistency:
    """L_consist for each pair of the teaching.

    teacher, student: logits of the weak and of the strong view, "vision" (n, steps, classes), "language" and "fusion"
        (iterations, n, steps, classes).
    end: the class of the end symbol.
    """
    losses = {name: 0 * at_least_float32(student[name]).mean() for name in MODALITIES}
    labels = {name: pseudo_labels(_iterations(teacher[name])[-1], end, SHORTEST[name], teaching.confidence_threshold, teaching.stop_gradient)
              for name, _ in teaching.pairs}
    counts = torch.stack([labels[name].counted.sum() for name, _ in teaching.pairs])  # (pairs,)
    kept = torch.stack([labels[name].kept.sum() for name, _ in teaching.pairs])  # (pairs,)
    everyones, ranks = over_all_ranks(counts)
    for (name, taught), count in zip(teaching.pairs, everyones, strict=True):
        distances = symbol_distances(labels[name], _iterations(student[taught]), teaching.labels, teaching.distance)  # (iterations, n, steps)
        of_iterations = (distances * labels[name].kept).sum((1, 2)) * ranks / count  # (iterations,)
        losses[taught] = losses[taught] + (of_iterations.sum() if teaching.adds_iterations else of_iterations.mean())
    words = student["vision"].shape[0]
    return Consistency(losses, (kept / counts).mean(), counts.sum() / (len(counts) * words))


def pseudo_labels(logits: Tensor, end: int, shortest: int, confidence_threshold: float | None, stop_gradient: bool = True) -> PseudoLabels:
    """What logits (n, steps, classes) say, as words of at least `shortest` steps."""
    logits = at_least_float32(logits.detach() if stop_gradient else logits)
    largest, symbols = logits.detach().softmax(-1).max(-1)  # (n, steps)
    counted = word_steps(symbols, end, shortest)
    kept = counted if confidence_threshold is None else counted & (largest > confidence_threshold)
    return PseudoLabels(symbols, logits.log_softmax(-1), counted, kept)


def word_steps(symbols: Tensor, end: int, shortest: int) -> Tensor:
    """(n, steps) -> (n, steps) bool: the steps up to the first end symbol, which counts, all where there is none, and always the first `shortest`."""
    ends_before = (symbols == end).cumsum(1) - (symbols == end).long()  # (n, steps)
    first = torch.arange(symbols.shape[1], device=symbols.device) < shortest
    return (ends_before == 0) | first


def symbol_distances(labels: PseudoLabels, logits: Tensor, kind: str, distance: str) -> Tensor:
    """How far a student's logits (iterations, n, steps, classes) are from labels of n words, symbol by symbol: (iterations, n, steps)."""
    student = at_least_float32(logits).log_softmax(-1)
    if kind == "hard":
        return -student.gather(3, labels.symbols.expand(student.shape[:3]).unsqueeze(3)).squeeze(3)
    probabilities = labels.log_probabilities.exp()  # (n, steps, classes)
    cross_entropy = -(probabilities * student).sum(-1)
    return cross_entropy + (probabilities * labels.log_probabilities).sum(-1) if distance == "kl" else cross_entropy


def recognition_losses(decoder: ABINetDecoder, decoded: Decoded, targets: Tensor) -> dict[str, Tensor]:
    """CE of each modality for the first m of n words, whose targets (m, max_length + 2) are given: means over characters and end symbols.

    Without labeled words they are 0, with zero gradients.
    """
    labeled = len(targets)
    count = decoder.tokens.is_character(targets).sum() + labeled  # each word has one end symbol
    (everyones,), ranks = over_all_ranks(count.view(1))
    if labeled == 0:
        return {name: 0 * at_least_float32(branch).mean() for name, branch in decoded.branches.items()}
    branches = {name: branch[..., :labeled, :, :] for name, branch in decoded.branches.items()}
    return {name: loss * count * ranks / everyones for name, loss in decoder.losses(replace(decoded, branches=branches), targets).items()}


def _iterations(branch: Tensor) -> Tensor:
    """(n, steps, classes) or (iterations, n, steps, classes) -> (iterations, n, steps, classes)."""
    return branch if branch.ndim == 4 else branch.unsqueeze(0)
