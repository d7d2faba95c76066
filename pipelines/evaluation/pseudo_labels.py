"""The pseudo-labels of a sample of unlabeled images: which of them a threshold keeps, and which are wrong where somebody knows the labels.

A label that is known here is withheld from training: it says how far self-training can be trusted, and nothing learns from it.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from models.objectives.readings import Score, read
from models.recognizer import Recognizer
from pipelines.augmentation.views import augment
from pipelines.evaluation.label_free import SEED
from pipelines.evaluation.protocols import Rule
from pipelines.reading.batches import evaluating
from pipelines.state import parse_json

EACH = 12  # examples of a kind


@dataclass(frozen=True)
class PseudoLabel:
    """What a model reads in the weak view of an image. `right` is None where no label is known, or where it has nothing to compare."""

    text: str
    score: float  # in [0, 1], as the objective scores words
    kept: bool
    right: bool | None


def pseudo_labels(labeler: Recognizer, images: Tensor, labels: Sequence[str | None], rule: Rule, *, score: Score | None = None,
                  threshold: float = 0.0, batch_size: int = 256) -> list[PseudoLabel]:
    """Read images (n, 3, height, width) uint8, on the labeler's device; its modes are restored.

    score: of words, as `read` says. threshold: which a score must reach to be kept; a reading that cannot teach never is.
    """
    device, generator = next(labeler.parameters()).device, torch.Generator().manual_seed(SEED)
    texts: list[str] = []
    scores: list[float] = []
    kept: list[bool] = []
    with evaluating(labeler), torch.inference_mode():
        for part in images.split(batch_size):
            decoded = labeler(augment(part.to(device), "weak", generator))
            reading = read(decoded.logits, labeler.decoder.tokens, score)
            texts += labeler.decoder.read(decoded).texts
            scores += reading.scores.tolist()
            kept += ((reading.scores >= threshold) & reading.is_read).tolist()
    return [PseudoLabel(text, value, keep, rule.same(label, text) if label and rule.compared(label) else None)
            for text, value, keep, label in zip(texts, scores, kept, labels, strict=True)]


def accuracies(found: Sequence[PseudoLabel]) -> dict[str, float]:
    """pseudo_label_accuracy and kept_pseudo_label_accuracy, the shares that are right; none where nothing is known."""
    parts = {"pseudo_label_accuracy": found, "kept_pseudo_label_accuracy": [each for each in found if each.kept]}
    known = {name: [each.right for each in part if each.right is not None] for name, part in parts.items()}
    return {name: sum(right) / len(right) for name, right in known.items() if right}


def chosen(found: Sequence[PseudoLabel], each: int = EACH) -> dict[str, list[int]]:
    """The numbers of at most `each` examples of a kind: `wrong` those that are kept and wrong, the surest first; `kept` and `dropped` of all others,
    evenly spread from the surest to the least sure."""
    order = sorted(range(len(found)), key=lambda number: -found[number].score)
    wrong = [number for number in order if found[number].kept and found[number].right is False][:each]
    rest = [number for number in order if number not in wrong]
    kept, dropped = ([number for number in rest if found[number].kept is keep] for keep in (True, False))
    return {"kept": _spread(kept, each), "dropped": _spread(dropped, each), "wrong": wrong}


def _spread(numbers: list[int], count: int) -> list[int]:
    count = min(count, len(numbers))
    return [numbers[place * len(numbers) // count] for place in range(count)]


@dataclass(frozen=True)
class Example:
    """One pseudo-label with its picture."""

    kind: Literal["kept", "dropped", "wrong"]
    key: str
    text: str
    score: float
    label: str | None  # where it is known
    picture: str  # the encoded image in base64

    @property
    def image(self) -> bytes:
        """The encoded image."""
        return base64.b64decode(self.picture)


@dataclass(frozen=True)
class Examples:
    """What a run shows of its pseudo-labels: those of its last validation."""

    step: int
    asked: int  # images
    kept: int
    examples: list[Example]

    def to_json(self) -> bytes:
        """As a file's content."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes, file: str) -> "Examples":
        """Raises BadInput."""
        return parse_json(data, cls, file, "remove it; the next validation writes it again")
