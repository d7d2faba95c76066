"""Two recognizers on the same words: how many only one of them reads, and whether that tells them apart."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from pipelines.errors import BadInput
from pipelines.evaluation.measure import Result
from pipelines.evaluation.metrics import Word

if TYPE_CHECKING:
    from pipelines.ingestion.wordsets import WordSet

COLUMNS = ("set", "words", "A %", "B %", "B - A", "95 % interval", "only A", "only B", "p", "")  # of `row`
CERTAIN = 0.05  # the chance of as large a difference between equal recognizers below which they count as told apart


@dataclass(frozen=True)
class Paired:
    """Words that two recognizers read, by who read them rightly. They add up over sets."""

    both: int = 0
    only_first: int = 0
    only_second: int = 0
    neither: int = 0

    @classmethod
    def of(cls, first: Sequence[Word], second: Sequence[Word]) -> "Paired":
        """The same words, read by the one and by the other."""
        found = Counter((one.correct, other.correct) for one, other in zip(first, second, strict=True))
        return cls(found[True, True], found[True, False], found[False, True], found[False, False])

    def __add__(self, other: "Paired") -> "Paired":
        return Paired(self.both + other.both, self.only_first + other.only_first, self.only_second + other.only_second, self.neither + other.neither)

    @property
    def words(self) -> int:
        """All of them."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def accuracies(self) -> tuple[float, float]:
        """Of the first and of the second, in [0, 1]."""
        return (self.both + self.only_first) / self.words, (self.both + self.only_second) / self.words

    @property
    def difference(self) -> float:
        """Accuracy of the second less that of the first, in [-1, 1]."""
        return (self.only_second - self.only_first) / self.words

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference: Wald's with half a word more in each of the four counts (Agresti and Min, 2005)."""
        lost, won, words = self.only_first + 0.5, self.only_second + 0.5, self.words + 2
        centre = (won - lost) / words
        half = 1.959964 * math.sqrt((won + lost) / words - centre**2) / math.sqrt(words)
        return max(-1.0, centre - half), min(1.0, centre + half)

    @property
    def chance(self) -> float:
        """The chance that two equally good recognizers differ as much or more: McNemar's test, exact and two-sided."""
        return mcnemar(self.only_first, self.only_second)

    @property
    def told_apart(self) -> bool:
        """Whether that is too small to be taken for chance."""
        return self.chance < CERTAIN


def mcnemar(one: int, other: int) -> float:
    """Of so many words that only one of two recognizers reads: the chance of as uneven a split, or a more uneven one, if each word falls to either side by half."""
    total = one + other
    logarithms = (math.lgamma(total + 1) - math.lgamma(number + 1) - math.lgamma(total - number + 1) - total * math.log(2) for number in range(min(one, other) + 1))
    return min(1.0, 2 * math.fsum(map(math.exp, logarithms)))


class Difference(NamedTuple):
    """A word that only one of the two reads."""

    position: int  # in its set, unlabeled rows not counted
    first: Word
    second: Word

    @property
    def severity(self) -> float:
        """How sure the one is that reads it wrongly."""
        return self.second.confidence if self.first.correct else self.first.confidence


def differences(first: Sequence[Word], second: Sequence[Word], most: int) -> tuple[list[Difference], list[Difference]]:
    """The words that only the first reads, and those that only the second reads, at most so many of each, the surest mistakes first."""
    found = [Difference(place, *pair) for place, pair in enumerate(zip(first, second, strict=True)) if pair[0].correct != pair[1].correct]
    found.sort(key=lambda each: (-each.severity, each.position))
    return [each for each in found if each.first.correct][:most], [each for each in found if each.second.correct][:most]


def pictures_of(words: "WordSet", shown: Sequence[Difference]) -> dict[int, bytes | None]:
    """The encoded images of some words by their positions; reads the set once more, as far as it must."""
    keys = {each.position: each.first.key for each in shown}
    last = max(keys, default=-1)
    labeled = ((key, image) for key, image, text in words.read() if text is not None)
    return {place: image for place, (key, image) in enumerate(islice(labeled, last + 1)) if keys.get(place) == key}


def check_same_words(first: Result, second: Result) -> None:
    """Raise BadInput unless both read the same words, for a set may change between two readings."""
    keys = [[word.key for word in result.evaluation.words] for result in (first, second)]
    if keys[0] != keys[1]:
        raise BadInput(f"{first.words.name}: expected the same words twice, found {len(keys[0]):,} and then {len(keys[1]):,} others in {first.words.path}: "
                       "compare again when nobody writes there")


def row(name: str, paired: Paired, notes: Sequence[str] = ()) -> tuple[str, ...]:
    """A line of the table."""
    (first, second), (low, high) = paired.accuracies, paired.interval
    return (name, f"{paired.words:,}", f"{100 * first:.2f}", f"{100 * second:.2f}", f"{100 * paired.difference:+.2f}", f"{100 * low:+.2f} … {100 * high:+.2f}",
            f"{paired.only_first:,}", f"{paired.only_second:,}", f"{paired.chance:.3f}" if paired.chance >= 0.001 else "< 0.001",
            "; ".join([verdict(paired), *notes]))


def verdict(paired: Paired) -> str:
    """Which is better, or that this cannot be said."""
    if not paired.told_apart:
        return "not told apart"
    return "B reads more" if paired.difference > 0 else "A reads more"
