"""How well a recognizer reads images that nobody labeled: numbers that tend to rise with the accuracy that cannot be measured.

Who has no labels has no validation words, and still must choose: where to stop, and which recipe to keep. `docs/results.md` says how each of these
numbers goes with the true accuracy.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import log
from statistics import mean

import torch
from torch import Tensor

from models.recognizer import Recognizer
from pipelines.augmentation.views import augment
from pipelines.evaluation.metrics import similarity
from pipelines.reading.batches import evaluating

SEED = 0  # of the views: the same for every model, so that two models are asked the same question
CRITERION = "strong_similarity"  # decides where there are no validation words: it goes with the accuracy best (docs/results.md)


@dataclass(frozen=True)
class LabelFree:
    """Of a set of images; each in [0, 1] but the divergence.

    mean_confidence: of the readings, at the recognizer's temperature.
    weak_agreement: the share of images that read alike as they are and in the view `weak`, which moves nothing.
    strong_agreement: the same with the view `strong`, which moves, bends and recolours.
    strong_similarity: 1 - normalised edit distance between the reading of an image and that of its view `strong`, on average.
    confident_agreement: the mean over all images of the confidence where the view `strong` reads alike, 0 where it does not.
    character_divergence: KL( characters read || characters of known texts ) in nats; 0 without such texts. Large when reading collapses.
    """

    mean_confidence: float
    weak_agreement: float
    strong_agreement: float
    strong_similarity: float
    confident_agreement: float
    character_divergence: float

    def numbers(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


def label_free(recognizer: Recognizer, images: Tensor, known: Counter[str] | None = None, batch_size: int = 256) -> LabelFree:
    """Ask a recognizer, on its device, about images (n, 3, height, width) uint8 of its own shape; its modes are restored.

    known: how often each character occurs in texts of the language, such as the training labels.
    """
    device, generator = next(recognizer.parameters()).device, torch.Generator().manual_seed(SEED)
    read: dict[str, list[str]] = {"none": [], "weak": [], "strong": []}
    confidences: list[float] = []
    with evaluating(recognizer), torch.inference_mode():
        for part in images.split(batch_size):
            for view, texts in read.items():
                reading = recognizer.read(augment(part.to(device), view, generator))
                texts += reading.texts
                confidences += reading.confidences.tolist() if view == "none" else []
    plain, weak, strong = read.values()
    alike = [bool(text) and text == other for text, other in zip(plain, strong, strict=True)]
    return LabelFree(mean(confidences), mean(bool(text) and text == other for text, other in zip(plain, weak, strict=True)), mean(alike),
                     mean(similarity(text, other) if text or other else 0.0 for text, other in zip(plain, strong, strict=True)),
                     mean(confidence * same for confidence, same in zip(confidences, alike, strict=True)), divergence(plain, known))


def divergence(texts: Iterable[str], known: Counter[str] | None) -> float:
    """KL( characters of the texts || known characters ) in nats, each known one counted once more than it occurs; 0 where either has none."""
    found = Counter(character for text in texts for character in text)
    if not found or not known:
        return 0.0
    seen, total = found.total(), known.total() + len(found | known)
    return sum(count / seen * log(count / seen * total / (known[character] + 1)) for character, count in found.items())
