"""PerSec: what a hidden stroke, and what a hidden part of a word, must have been.

Liu et al., "Perceiving Stroke-Semantic Context: Hierarchical Contrastive Learning for Robust Scene Text Recognition", AAAI 2022. At two depths of one
encoder, an early map (stroke) and the memory (semantic), a context perceiver, which is thrown away afterwards:

    mask         positions of the layer-normed features are replaced by one learned vector, with probability p_low 0.2 and p_high 0.15, spans of 1
    context      a linear layer of width 128, self-attention with 8 heads in windows (stroke: half the map's rows, each way; semantic: 10 columns) and a
                 feed-forward part, with residuals and norms, then a linear layer:  c_t
    target       the unmasked features at the hidden positions, quantized with 2 codebooks of 256 entries, then a linear layer:  q_t
    L_contrast   the mean over hidden positions of -log( exp(cos(c_t, q_t) / kappa) / sum over q_t and K distractors of exp(cos(c_t, q) / kappa) )
    L_diversity  how few entries the codebooks use, see quantizer.py
    L_feature    the mean square of the features before the norm
    L = the sum over both levels of L_contrast + alpha L_diversity + beta L_feature,   alpha 0.2, beta 0.1
The gradient that reaches the encoder from the stroke perceiver is multiplied by 0.2.

There is no code of the authors', and the paper leaves much open. Chosen here, after wav2vec 2.0 (Baevski et al., NeurIPS 2020), whose form the paper takes
over, each a field where one may want another: kappa 0.1; K = min(100, hidden positions - 1) distractors from other hidden positions of the same image, with
replacement; a distractor with the codes of the target does not count; equally many hidden positions in every image of a batch (masking.py); the
temperature of the quantizer from 2 to 0.5 by 0.999995 each step, a factor that short runs should lower; that beta weighs a feature penalty; diversity by
perplexity; a learned relative position in the windows, without which all hidden positions of a window would be guessed alike; one layer.

The stroke map is that of the last module with a quarter of the image's rows (in the four-stage ResNet layer2 with its convolution, 8 x W/4; in SVTR, which is
the paper's hierarchical vision transformer in form, the first stage): see taps.py. In distributed training the means of the entries' probabilities are those of all
ranks, other means each rank's own.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import Batch, Losses, View
from models.objectives.checks import check_positive, check_thresholds, check_weights
from models.objectives.instances import memory_of_one
from models.objectives.masking import check_positions, generator_of, hidden_positions, others_of
from models.objectives.quantizer import Quantizer, diversity, perplexities
from models.objectives.taps import early_module, tapped
from models.objectives.windowed_attention import WindowedLayer
from models.precision import at_least_float32, exactly
from models.recognizer import Recognizer


@dataclass(frozen=True)
class Perceiving:
    """What the perceivers of both levels have in common; the fields are those of `PerSec`."""

    width: int
    heads: int
    layers: int
    codebooks: int
    entries: int
    temperature_factor: float
    kappa: float
    distractors: int
    diversity: str


@dataclass
class Level:
    """What one perceiver found."""

    contrast: Tensor
    matched: Tensor  # share of the hidden positions whose own target is the nearest
    diversity: Tensor
    feature: Tensor
    used: Tensor  # entries in use, on average over the codebooks: exp of the entropy of their probabilities


class PerSec(nn.Module):
    """Guesses hidden strokes and hidden parts of words, each from its surroundings.

    stroke_probability, semantic_probability, span: of positions to hide. context_width, heads, layers: of the context aggregators.
    semantic_window: columns. codebooks, entries, temperature_factor: of the quantizers. kappa, distractors: of the contrast.
    diversity_weight, feature_weight: alpha, beta. stroke_gradient: of what reaches the encoder from the stroke perceiver.
    stroke: the name, inside the encoder, of the module whose map holds the strokes; null: the usual one.
    view: the augmentation of the one view that there is; the paper names none.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        stroke_probability: float = 0.2,
        semantic_probability: float = 0.15,
        span: int = 1,
        context_width: int = 128,
        heads: int = 8,
        layers: int = 1,
        semantic_window: int = 10,
        codebooks: int = 2,
        entries: int = 256,
        temperature_factor: float = 0.999995,
        kappa: float = 0.1,
        distractors: int = 100,
        diversity: Literal["perplexity", "entropy"] = "perplexity",
        diversity_weight: float = 0.2,
        feature_weight: float = 0.1,
        stroke_gradient: float = 0.2,
        stroke: str | None = None,
        view: View = "none",
    ) -> None:
        super().__init__()
        check_positive("persec", {"context_width": context_width, "heads": heads, "layers": layers, "semantic_window": semantic_window, "span": span,
                                  "codebooks": codebooks, "entries": entries, "kappa": kappa, "distractors": distractors})
        check_thresholds("persec", {"stroke_probability": stroke_probability, "semantic_probability": semantic_probability,
                                    "temperature_factor": temperature_factor})
        check_weights("persec", {"diversity_weight": diversity_weight, "feature_weight": feature_weight, "stroke_gradient": stroke_gradient})
        self.recognizer, self.stroke_module = recognizer, early_module(recognizer, stroke)
        recognizer.decoder.requires_grad_(False)
        try:
            with tapped(recognizer, self.stroke_module) as maps:
                memory = memory_of_one(recognizer)  # a copy has the hooks of its original
        except (RuntimeError, AttributeError) as problem:
            raise ValueError(f"persec expects a module with one map as stroke, found {self.stroke_module} ({problem}): name another") from None
        if len(maps) != 1:
            raise ValueError(f"persec expects a module that is run once as stroke, found {self.stroke_module}, run {len(maps)} times: name another")
        shared = Perceiving(context_width, heads, layers, codebooks, entries, temperature_factor, kappa, distractors, diversity)
        low, high = maps[0], recognizer.cells(memory)  # (1, rows, columns, width) each
        half = max(1, low.shape[1] // 2)
        self.stroke = Perceiver(low.shape[3], (half, half), stroke_probability, span, shared)
        self.semantic = Perceiver(high.shape[3], (high.shape[1], semantic_window), semantic_probability, span, shared)
        for name, cells in (("stroke", low), ("semantic", high)):
            check_positions("persec", name, cells.shape[1] * cells.shape[2], span)
        self.diversity_weight, self.feature_weight, self.stroke_gradient = diversity_weight, feature_weight, stroke_gradient
        self.views = {"unlabeled": (view,)}

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch whose unlabeled part has one view."""
        (images,) = batch.unlabeled.views
        with tapped(self.recognizer, self.stroke_module) as maps:
            memory = self.recognizer.encode(images)
        strokes = _ScaleGradient.apply(maps[0], self.stroke_gradient)
        draw = generator_of(batch.unlabeled.keys[0])
        levels = {"stroke": self.stroke(strokes, draw), "semantic": self.semantic(self.recognizer.cells(memory), draw)}
        total, named = 0, {}
        for name, level in levels.items():
            total = total + level.contrast + self.diversity_weight * level.diversity + self.feature_weight * level.feature
            named |= {f"{name}_contrastive_loss": level.contrast, f"{name}_matched_fraction": level.matched, f"{name}_diversity_loss": level.diversity,
                      f"{name}_feature_penalty": level.feature, f"{name}_entries_used": level.used}
        named["quantizer_temperature"] = self.stroke.quantizer.temperature().float()
        return Losses(total, {name: value.detach() for name, value in named.items()})

    def codes_chosen(self, images: Tensor) -> dict[str, Tensor]:
        """How many positions of images (n, 3, height, width) in [-1, 1] choose each entry: (codebooks, entries) int64 of each level. One rank may
        ask alone."""
        with tapped(self.recognizer, self.stroke_module) as maps:
            memory = self.recognizer.encode(images)
        return {"stroke": self.stroke.codes_chosen(maps[0]), "semantic": self.semantic.codes_chosen(self.recognizer.cells(memory))}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """The quantizers' temperature falls."""
        for perceiver in (self.stroke, self.semantic):
            perceiver.quantizer.updates += 1


class Perceiver(nn.Module):
    """Hides positions of a map and tells their targets from distractors."""

    def __init__(self, in_width: int, window: tuple[int, int], probability: float, span: int, shared: Perceiving) -> None:
        super().__init__()
        width = shared.width
        self.norm = nn.LayerNorm(in_width)
        self.mask = nn.Parameter(torch.rand(in_width))  # what stands in for hidden positions
        self.project = nn.Linear(in_width, width)
        self.context = nn.Sequential(*(WindowedLayer(width, shared.heads, window) for _ in range(shared.layers)), nn.LayerNorm(width))
        self.project_context = nn.Linear(width, width)
        self.quantizer = Quantizer(in_width, width, codebooks=shared.codebooks, entries=shared.entries, factor=shared.temperature_factor)
        self.project_target = nn.Linear(width, width)
        self.probability, self.span, self.shared = probability, span, shared

    def forward(self, features: Tensor, draw: np.random.Generator) -> Level:
        """(n, rows, columns, in_width) -> the losses, scalars. `draw`: which positions to hide, and what to compare them with."""
        images, rows, columns, _ = features.shape
        penalty = at_least_float32(features).square().mean()
        normed = self.norm(features).flatten(1, 2)  # (n, positions, in_width)
        hidden = hidden_positions(draw, images, rows * columns, self.probability, self.span)  # (n, M)
        count = min(self.shared.distractors, hidden.shape[1] - 1)
        others = torch.tensor(others_of(draw, images, hidden.shape[1], count)).to(features.device, non_blocking=True)  # (n, M, K)
        hidden = torch.tensor(hidden).to(features.device, non_blocking=True).unsqueeze(2)
        seen = normed.scatter(1, hidden.expand(-1, -1, normed.shape[2]), self.mask.to(normed.dtype).expand(images, hidden.shape[1], -1))
        context = self.context(self.project(seen).unflatten(1, (rows, columns))).flatten(1, 2)  # (n, positions, width)
        guesses = self.project_context(context.take_along_dim(hidden, 1))  # (n, M, width)
        quantized = self.quantizer(normed.take_along_dim(hidden, 1).flatten(0, 1))
        targets = self.project_target(quantized.vectors).unflatten(0, (images, -1))  # (n, M, width)
        contrast, matched = contrast_with(guesses, targets, quantized.codes.unflatten(0, (images, -1)), others, self.shared.kappa)
        return Level(contrast, matched, diversity(quantized.probabilities, self.shared.diversity), penalty, perplexities(quantized.probabilities).mean())

    def codes_chosen(self, features: Tensor) -> Tensor:
        """(n, rows, columns, in_width) -> (codebooks, entries) int64: how many of the positions choose each entry."""
        codes = self.quantizer.codes(self.norm(features).flatten(0, 2))
        return torch.stack([column.bincount(minlength=self.quantizer.count) for column in codes.t()])


def contrast_with(guesses: Tensor, targets: Tensor, codes: Tensor, others: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """L_contrast, and how often the own target is the nearest; scalars.

    guesses: (n, M, width). targets: (n, M or more, width), the own ones first; codes: the same, (n, M or more, codebooks).
    others: (n, M, K), which targets of the same image are distractors.
    """
    with exactly(guesses):
        guesses, targets = (F.normalize(at_least_float32(vectors), dim=2) for vectors in (guesses, targets))
        all_pairs = guesses @ targets.transpose(1, 2) / kappa  # (n, M, M)
        same = (codes[:, :guesses.shape[1]].unsqueeze(2) == codes.unsqueeze(1)).all(3)  # (n, M, M)
        negatives = all_pairs.masked_fill(same, -torch.inf).gather(2, others)  # (n, M, K)
        similarity = torch.cat([all_pairs.diagonal(dim1=1, dim2=2).unsqueeze(2), negatives], 2).flatten(0, 1)  # (n M, 1 + K)
        loss = F.cross_entropy(similarity, torch.zeros(len(similarity), dtype=torch.int64, device=similarity.device))
    return loss, (similarity.detach().argmax(1) == 0).to(similarity.dtype).mean()


class _ScaleGradient(torch.autograd.Function):
    """The same values; backwards the gradient times a factor."""

    @staticmethod
    def forward(ctx, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None
