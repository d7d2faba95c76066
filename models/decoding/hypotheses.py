"""What a search finds: strings with their scores, the best first."""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf

import torch
from torch import Tensor

from models.charset import Charset
from models.decoders.decoded import Reading


@dataclass(frozen=True)
class Hypothesis:
    """One string that an image may hold."""

    text: str
    log_probability: float  # log p(text | image) by the recognizer alone
    score: float  # what the search ranks by: the log probability, and what a language model and a length normalisation make of it


def hypotheses(positions: Tensor, lengths: Tensor, log_probability: Tensor, score: Tensor, charset: Charset) -> list[list[Hypothesis]]:
    """For each image its strings; impossible ones are left out.

    positions (n, width, steps): of the characters in the charset; the others (n, width), scores in descending order.
    """
    rows = zip(positions.tolist(), lengths.tolist(), log_probability.tolist(), score.tolist(), strict=True)
    return [[Hypothesis("".join(charset.characters[position] for position in row[:length]), own, value)
             for row, length, own, value in zip(*each, strict=True) if value > -inf]
            for each in rows]


def rescored(found: list[list[Hypothesis]], score: Callable[[list[str]], list[float]], weight: float) -> list[list[Hypothesis]]:
    """The same strings, ranked by score + weight * log p(text) of any language model that is too slow to guide the search.

    score: texts -> their log probabilities. It is called once.
    """
    language = iter(score([each.text for row in found for each in row]))
    return [sorted((Hypothesis(each.text, each.log_probability, each.score + weight * next(language)) for each in row),
                   key=lambda each: -each.score) for row in found]


def best_reading(found: list[list[Hypothesis]], together: float | None = None) -> Reading:
    """The best string of each image.

    Its confidence is its share, by exp(score), of the probability of all strings that were found: `together`, or what the recognizer gives
    to them, if it is None. In that case, and without a language model, the confidence is p(text | image).
    """
    confidences = []
    for row in found:
        whole = together if together is not None and len(row) > 1 else sum(exp(each.log_probability) for each in row)
        confidences.append(whole / sum(exp(each.score - row[0].score) for each in row) if row else 0.0)
    return whole_strings([row[0].text if row else "" for row in found], confidences)


def whole_strings(texts: list[str], confidences: list[float]) -> Reading:
    """A Reading of strings of which only the whole's confidence is known: each character is given the geometric mean."""
    confidences = [min(1.0, confidence) for confidence in confidences]  # sums of rounded numbers can pass 1
    shares = [[confidence ** (1 / len(text))] * len(text) if text else [] for text, confidence in zip(texts, confidences, strict=True)]
    return Reading(texts, torch.tensor(confidences, dtype=torch.float32), shares)
