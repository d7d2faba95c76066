"""One temperature for a model, so that words read with confidence 0.8 are right in 8 of 10 cases.

Temperature scaling (Guo et al., ICML 2017) divides all logits by one number T. Guo et al. fit it to the negative log likelihood of the
labels, class by class. We fit it to that of the words' correctness: the cross-entropy between the confidence of a word, the probability of
its string, and whether the word was read rightly. That number is what users decide by and what ECE measures; a product of symbols that
are each calibrated need not be, because errors within a word come together. It also asks for no alignment of symbols to labels, which CTC
does not have and which is lost behind the first wrong symbol of an attention decoder, and it works for every decoder alike.

The words are split in two by a hash of their keys. T is fitted on one half; the other says what it is worth. Nothing that was read changes.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from models.decoders.decoded import Reading
from models.decoding.temperature import at_temperature
from models.recognizer import Recognizer
from pipelines.errors import BadInput
from pipelines.evaluation.measure import with_progress
from pipelines.evaluation.metrics import calibration_error, reliability
from pipelines.evaluation.protocols import Rule, rule_of
from pipelines.ingestion.wordsets import WordSet
from pipelines.progress import warn
from pipelines.reading.batches import evaluating, read_stream

TEMPERATURES = tuple(2 ** (step / 8) for step in range(-16, 25))  # 1/4 to 8, in steps of 9 %
CERTAIN = 1e-6  # no confidence is nearer to 0 and 1 than this: a wrong word that was certain must not cost infinitely much


@dataclass(frozen=True)
class Reads:
    """What was read of n words at several temperatures."""

    correct: Tensor  # (n,) bool
    confidences: Tensor  # (n, temperatures) float64

    @property
    def negative_log_likelihood(self) -> Tensor:
        """(temperatures,): the mean over words of -log p(right) where the word is right, of -log(1 - p) where it is wrong."""
        sure = self.confidences.clamp(CERTAIN, 1 - CERTAIN)
        return -torch.where(self.correct.unsqueeze(1), sure, 1 - sure).log().mean(0)


def read_at(recognizer: Recognizer, words: Iterable[tuple[str, bytes | None, str]], temperatures: Sequence[float], *,
            rule: Rule | None = None, batch_size: int = 256) -> Reads:
    """Read labeled words once, greedily, with the confidence of each at every temperature. Images that cannot be decoded are left out.

    rule: how the strings are compared; as the recognizer's charset spells them if it is None.
    """
    rule = rule or rule_of("charset", recognizer.charset)
    waiting: dict[int, list[float]] = {}  # by the number of the word, until the stream comes to it

    def search(images: Tensor, items: list[tuple[int, tuple]]) -> Reading:
        decoded = recognizer(images)
        readings = [recognizer.decoder.read(at_temperature(decoded, temperature)) for temperature in temperatures]
        found = torch.stack([reading.confidences for reading in readings], 1)  # (n, temperatures)
        waiting.update(zip((number for number, _ in items), found.double().tolist(), strict=True))
        return recognizer.decoder.read(decoded)

    correct, confidences = [], []
    with evaluating(recognizer):
        stream = read_stream(recognizer, enumerate(words), lambda item: item[1][1], batch_size=batch_size, search=search)
        for (number, (_, _, text)), read in stream:
            if read.problem is None:
                correct.append(rule.same(text, read.text))
                confidences.append(waiting.pop(number))
    return Reads(torch.tensor(correct, dtype=torch.bool), torch.tensor(confidences, dtype=torch.float64).view(-1, len(temperatures)))


def best_temperature(reads: Reads, temperatures: Sequence[float] = TEMPERATURES) -> float:
    """The temperature with the smallest negative log likelihood, between those that were tried: the lowest point of a parabola through the
    best of them and its neighbours, over log T.

    Raises:
        BadInput: words that are all right or all wrong, for which no temperature is best.
    """
    right = int(reads.correct.sum())
    if not 0 < right < len(reads.correct):
        raise BadInput(f"expected words that are read rightly and words that are not, found {right:,} of {len(reads.correct):,} right: "
                       "calibrate on more words, or on such as the model will read")
    costs = reads.negative_log_likelihood
    best = int(costs.argmin())
    if not 0 < best < len(temperatures) - 1:
        return temperatures[best]
    before, lowest, after = costs[best - 1 : best + 2].tolist()
    step, bend = math.log(temperatures[best + 1] / temperatures[best]), before - 2 * lowest + after
    return temperatures[best] * math.exp(step * (before - after) / (2 * bend)) if bend > 0 else temperatures[best]


def in_half(key: str) -> int:
    """The half of a word, 0 to fit on and 1 to report on: by its key alone."""
    return blake2b(key.encode(), digest_size=1).digest()[0] & 1


def labeled(words: WordSet, half: int) -> Iterator[tuple[str, bytes | None, str]]:
    """The words of a set that have a label and are in this half."""
    return ((key, image, text) for key, image, text in with_progress(words) if text is not None and in_half(key) == half)


HEADER = ("half", "words", "temperature", "accuracy %", "confidence", "NLL", "ECE %", "")


def rows(name: str, reads: Reads, temperatures: Sequence[float]) -> list[tuple[str, ...]]:
    """The lines of a half, one for each temperature."""
    right, costs = reads.correct.double().mean().item(), reads.negative_log_likelihood.tolist()
    return [(name, f"{len(reads.correct):,}", f"{temperature:.3f}", f"{100 * right:.2f}", f"{own.mean().item():.3f}", f"{cost:.4f}",
             f"{100 * calibration_error(reliability(zip(own.tolist(), reads.correct.tolist(), strict=True))):.2f}", "")
            for temperature, own, cost in zip(temperatures, reads.confidences.unbind(1), costs, strict=True)]


def calibrate(recognizer: Recognizer, sets: list[WordSet], rules: list[Rule], *, batch_size: int = 256) -> tuple[float, list[tuple[str, ...]]]:
    """The temperature that fits one half of the words, and the table of both halves before and after. The recognizer stays as it is.

    rules: how the words of each set are compared.

    Raises:
        BadInput: a half without words that are read rightly, or without such as are not.
    """
    def read_half(half: int, temperatures: Sequence[float]) -> Reads:
        found = [read_at(recognizer, labeled(words, half), temperatures, rule=rule, batch_size=batch_size)
                 for words, rule in zip(sets, rules, strict=True)]
        return Reads(torch.cat([reads.correct for reads in found]), torch.cat([reads.confidences for reads in found]))

    temperature = best_temperature(read_half(0, TEMPERATURES))
    if temperature in (TEMPERATURES[0], TEMPERATURES[-1]):
        warn(f"the best temperature is at or beyond {temperature:g}, the end of what was tried")
    temperature, table = round(temperature, 4), []
    pair = (recognizer.temperature, temperature)
    for half, name in enumerate(("fit", "report")):
        reads = read_half(half, pair)
        if len(reads.correct):
            table += rows(name, reads, pair)
    return temperature, table
