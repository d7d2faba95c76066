"""How far a reading is from its label: edit distance, word accuracy with its interval, 1-NED, CER. And how honest confidences are: ECE."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

BINS = 15  # of equal width, as in Guo et al., ICML 2017


def edit_distance(one: str, other: str) -> int:
    """Levenshtein distance in code points (insert, delete, substitute cost 1).

    Bit-parallel (Myers 1999, in Hyyrö's 2003 form): a column of the distance table is two integers, the bits where it
    rises and where it falls, so a comparison takes one step for each character of `other` whatever the length of `one`.
    """
    if not one or not other:
        return len(one) + len(other)
    places: dict[str, int] = {}
    for index, character in enumerate(one):
        places[character] = places.get(character, 0) | 1 << index
    last, everywhere = 1 << (len(one) - 1), (1 << len(one)) - 1
    rises, falls, distance = everywhere, 0, len(one)
    for character in other:
        match = places.get(character, 0)
        diagonal = (((match & rises) + rises) ^ rises) | match | falls  # where the diagonal step costs nothing
        rises_across, falls_across = falls | ~(diagonal | rises), diagonal & rises
        if rises_across & last:
            distance += 1
        elif falls_across & last:
            distance -= 1
        rises_across, falls_across = rises_across << 1 | 1, falls_across << 1
        rises = (falls_across | ~(diagonal | rises_across)) & everywhere
        falls = rises_across & diagonal & everywhere
    return distance


def similarity(label: str, prediction: str) -> float:
    """1-NED of one word: 1 - distance / length of the longer string (ICDAR 2019 ReCTS); 1 for two empty strings."""
    longer = max(len(label), len(prediction))
    return 1.0 - edit_distance(label, prediction) / longer if longer else 1.0


def with_interval(accuracy: float, words: int | None) -> str:
    """An accuracy for a sentence, as 52.30 % (48.1 to 56.4, 500 words); without a number of words the accuracy alone."""
    if not words:
        return f"{100 * accuracy:.2f} %"
    low, high = wilson_interval(round(accuracy * words), words)
    return f"{100 * accuracy:.2f} % ({100 * low:.1f} to {100 * high:.1f}, {words:,} words)"


def wilson_interval(correct: int, words: int, deviations: float = 1.959964) -> tuple[float, float]:
    """The interval of an accuracy (Wilson 1927), 95 % by default; it stays inside [0, 1] and is honest for few words.

    With no words at all it is (0, 1): nothing is known.
    """
    if not words:
        return 0.0, 1.0
    rate, square = correct / words, deviations ** 2
    centre = (rate + square / (2 * words)) / (1 + square / words)
    half = deviations / (1 + square / words) * math.sqrt(rate * (1 - rate) / words + square / (4 * words ** 2))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Word:
    """One labeled image and what was read from it."""

    key: str
    label: str  # as the data holds it
    prediction: str  # as the recognizer gave it; empty where the image cannot be decoded
    confidence: float  # in [0, 1]; 0 where the image cannot be decoded
    label_compared: str  # the two strings under the rule of the protocol (protocols.Rule): these are compared
    prediction_compared: str
    problem: str | None = None  # why the image could not be read

    @property
    def correct(self) -> bool:
        """Whether the compared strings are equal; never of an image that cannot be decoded, or a label of which nothing is left to compare."""
        return self.problem is None and self.label_compared != "" and self.label_compared == self.prediction_compared

    @property
    def distance(self) -> int:
        """Edits between the compared strings."""
        return edit_distance(self.label_compared, self.prediction_compared)

    @property
    def similarity(self) -> float:
        """1-NED of this word, in [0, 1]; 0 for an image that cannot be decoded, and for a label of which nothing is left to compare."""
        return similarity(self.label_compared, self.prediction_compared) if self.problem is None and self.label_compared else 0.0


@dataclass(frozen=True)
class Bin:
    """The words that were read with a confidence in one part of [0, 1]."""

    words: int = 0
    correct: int = 0
    confidence_sum: float = 0.0

    def __add__(self, other: "Bin") -> "Bin":
        return Bin(self.words + other.words, self.correct + other.correct, self.confidence_sum + other.confidence_sum)

    @property
    def accuracy(self) -> float:
        """Correct words / words; 0 for an empty bin."""
        return self.correct / self.words if self.words else 0.0

    @property
    def confidence(self) -> float:
        """The mean confidence; 0 for an empty bin."""
        return self.confidence_sum / self.words if self.words else 0.0


def reliability(words: Iterable[tuple[float, bool]]) -> tuple[Bin, ...]:
    """Words, each its confidence and whether it was read rightly, in 15 bins of the confidence: [0, 1/15], (1/15, 2/15] ... (14/15, 1]."""
    counts = [[0, 0, 0.0] for _ in range(BINS)]
    for confidence, correct in words:
        count = counts[min(max(0, math.ceil(confidence * BINS) - 1), BINS - 1)]
        count[0] += 1
        count[1] += correct
        count[2] += confidence
    return tuple(Bin(*count) for count in counts)


def calibration_error(bins: Iterable[Bin]) -> float:
    """The expected calibration error (Naeini et al., AAAI 2015): |accuracy - mean confidence| of each bin, weighted by its words."""
    bins = list(bins)
    words = sum(each.words for each in bins)
    return sum(abs(each.correct - each.confidence_sum) for each in bins) / words if words else 0.0


@dataclass(frozen=True)
class Score:
    """The sums behind a row of the table. They add up: the average row is the rows' sum, so it is weighted by words."""

    words: int = 0
    correct: int = 0
    similarity_sum: float = 0.0
    edits: int = 0
    characters: int = 0  # of the compared labels
    incomparable: int = 0  # words with a label of which nothing is left to compare: counted as wrong
    read: int = 0  # words whose image could be decoded
    confidence_sum: float = 0.0  # over the words that were read
    seconds: float = 0.0
    bins: tuple[Bin, ...] = (Bin(),) * BINS  # of the words that were read, by their confidence

    @classmethod
    def of(cls, words: Iterable[Word], seconds: float = 0.0) -> "Score":
        """Score every word once."""
        words = list(words)
        read = [word for word in words if word.problem is None]
        return cls(len(words), sum(word.correct for word in words), sum(word.similarity for word in words),
                   sum(word.distance for word in words), sum(len(word.label_compared) for word in words),
                   sum(not word.label_compared for word in words), len(read), sum(word.confidence for word in read), seconds,
                   reliability((word.confidence, word.correct) for word in read))

    def __add__(self, other: "Score") -> "Score":
        return Score(self.words + other.words, self.correct + other.correct, self.similarity_sum + other.similarity_sum,
                     self.edits + other.edits, self.characters + other.characters, self.incomparable + other.incomparable, self.read + other.read,
                     self.confidence_sum + other.confidence_sum, self.seconds + other.seconds,
                     tuple(one + two for one, two in zip(self.bins, other.bins, strict=True)))

    @property
    def accuracy(self) -> float:
        """Correct words / words, in [0, 1]."""
        return self.correct / self.words if self.words else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy."""
        return wilson_interval(self.correct, self.words)

    @property
    def one_minus_ned(self) -> float:
        """The mean over words of 1 - distance / length of the longer string."""
        return self.similarity_sum / self.words if self.words else 0.0

    @property
    def cer(self) -> float:
        """All edits / all characters of the labels; above 1 where more is read than was written."""
        return self.edits / self.characters if self.characters else 0.0

    @property
    def confidence(self) -> float:
        """The mean confidence of the words whose image could be decoded."""
        return self.confidence_sum / self.read if self.read else 0.0

    @property
    def calibration_error(self) -> float:
        """ECE: how far confidence and accuracy are apart, in [0, 1], over the words whose image could be decoded."""
        return calibration_error(self.bins)

    @property
    def images_per_second(self) -> float:
        """Words per second from encoded image to string: decoding, preprocessing, recognizer."""
        return self.words / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, float | int | list]:
        """The numbers for a JSON file."""
        return {"words": self.words, "correct": self.correct, "accuracy": self.accuracy,
                "interval_95": list(self.interval), "one_minus_ned": self.one_minus_ned, "cer": self.cer,
                "confidence": self.confidence, "ece": self.calibration_error, "unreadable": self.words - self.read, "incomparable": self.incomparable,
                "edits": self.edits, "characters": self.characters,
                "seconds": self.seconds, "images_per_second": self.images_per_second,
                "reliability": [{"up_to": (number + 1) / BINS, "words": each.words, "accuracy": each.accuracy,
                                 "confidence": each.confidence} for number, each in enumerate(self.bins)]}
