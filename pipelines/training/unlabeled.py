"""What rank 0 asks about a small sample of the unlabeled images at each validation: criteria that need no labels, and, where the corpus has labels
that are withheld from training, whether the pseudo-labels are right. Nothing here is ever trained on."""

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.recognizer import Recognizer
from pipelines.corpus import storage
from pipelines.corpus.images import Shape, decode_into
from pipelines.corpus.reader import Corpus
from pipelines.corpus.sampling import sampled_rows
from pipelines.evaluation.features import features
from pipelines.evaluation.label_free import CRITERION, label_free
from pipelines.evaluation.look import look
from pipelines.evaluation.protocols import rule_of
from pipelines.evaluation.pseudo_labels import Example, Examples, PseudoLabel, accuracies, chosen, pseudo_labels
from pipelines.reading.batches import shape_of
from pipelines.reports.html import shrunk
from pipelines.training.recipe import Recipe, StreamRecipe

IMAGES, KNOWN_TEXTS = 256, 4096  # that are read, once, of the unlabeled and of the labeled corpora
PREFIX, COUNT = "unlabeled_", "unlabeled_images"
DECIDES = PREFIX + CRITERION  # the number that decides where there are no validation words


@dataclass(frozen=True)
class Sample:
    """Unlabeled images with their keys, as they are encoded and as pixels, and the labels that training does not see."""

    keys: list[str]
    encoded: list[bytes]
    labels: list[str | None]
    images: Tensor  # (n, 3, height, width) uint8
    known: Counter[str]  # the characters of the training labels


def open_sample(recipe: Recipe, recognizer: Recognizer, images: int = IMAGES) -> Sample:
    """Evenly spread over the corpora of data.unlabeled; what does not decode is left out. Images that keep their aspect ratio are filled up to the
    recognizer's width."""
    shape = shape_of(recognizer)
    shape = Shape(shape.height, shape.width, "pad") if shape.aspect == "keep" else shape
    rows, pixels = [], np.empty((images, 3, shape.height, shape.width), dtype=np.uint8)
    for row in _sampled(recipe.data.unlabeled, images, ("key", "image", "text")):
        if decode_into(pixels[len(rows)], row[1], shape):
            rows.append(row)
    texts = [text for (text,) in _sampled(recipe.data.labeled, KNOWN_TEXTS, ("text",)) if text] if recipe.data.labeled else []
    return Sample([key for key, _, _ in rows], [encoded for _, encoded, _ in rows], [text for _, _, text in rows],
                  torch.from_numpy(pixels[:len(rows)].copy()), Counter("".join(map(recognizer.charset.normalise, texts))))


def _sampled(stream: StreamRecipe, count: int, columns: Sequence[str]) -> list[tuple]:
    return sampled_rows([Corpus.open(corpus) for corpus in stream.corpora], count, columns, stream.weights)


def labeler_of(objective: nn.Module) -> Recognizer:
    """The model whose readings teach: the averaged or frozen copy of an objective that has one, else the recognizer itself."""
    copies = [getattr(_teaching(objective), name, None) for name in ("target", "teacher", "labeler", "average")]
    return next((copy for copy in copies if isinstance(copy, Recognizer)), objective.recognizer)


def _teaching(objective: nn.Module) -> nn.Module:
    """The part that holds target, score and threshold: ViSu has a CCR inside."""
    return getattr(objective, "ccr", objective)


def features_on(sample: Sample, recognizer: Recognizer) -> dict[str, float]:
    """What an encoder knows of the sample, by the names under which it is logged. None of fewer than 4 images."""
    if len(sample.keys) < 4:
        return {}
    return {PREFIX + name: value for name, value in features(recognizer, sample.images, sample.labels).numbers().items()} | {COUNT: len(sample.keys)}


def look_at(sample: Sample, objective: nn.Module, step: int, file: str) -> None:
    """Leave in a file, a path or URI, what the run's report shows of an encoder. Nothing of a sample of fewer than 4 images."""
    if len(sample.keys) >= 4:
        storage.write_bytes(file, look(objective, sample.images, sample.labels, step).to_json())


def numbers_on(sample: Sample, recognizer: Recognizer) -> dict[str, float]:
    """The criteria of the recognizer, which is what a run leaves, by the names under which they are logged."""
    criteria = label_free(recognizer, sample.images, sample.known).numbers()
    return {PREFIX + name: value for name, value in criteria.items()} | {COUNT: len(sample.keys)}


def labels_on(sample: Sample, objective: nn.Module, rule: str) -> list[PseudoLabel]:
    """The pseudo-labels that the objective would teach. Where it has no threshold of words, all of them are kept that can teach."""
    labeler, teaching = labeler_of(objective), _teaching(objective)
    return pseudo_labels(labeler, sample.images, sample.labels, rule_of(rule, labeler.charset), score=getattr(teaching, "score", None),
                         threshold=getattr(teaching, "confidence_threshold", None) or 0.0)


def measure(sample: Sample, objective: nn.Module, recipe: Recipe, step: int, file: str) -> dict[str, float]:
    """All numbers of a validation; examples go to a file, a path or URI, for the run's report. None of a sample without images."""
    if not sample.keys:
        return {}
    found = labels_on(sample, objective, recipe.recognizer.rule)
    storage.write_bytes(file, examples_of(sample, found, step).to_json())
    return numbers_on(sample, objective.recognizer) | accuracies(found)


def examples_of(sample: Sample, found: Sequence[PseudoLabel], step: int) -> Examples:
    """A few of each kind, with small pictures."""
    shown = [Example(kind, sample.keys[number], found[number].text, found[number].score, sample.labels[number],
                     base64.b64encode(shrunk(sample.encoded[number])).decode())
             for kind, numbers in chosen(found).items() for number in numbers]
    return Examples(step, len(found), sum(each.kept for each in found), shown)
