"""What a recognizer gets wrong, and what may be left to it: aligned strings, confusions, accuracy by length and by kind of character, coverage.

All strings here are the compared ones, as the rule of the evaluation brings them about.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipelines.evaluation.metrics import Word, wilson_interval

LENGTHS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 15), (16, 25), (26, None))  # characters of the label, both ends included
TARGETS = (0.99, 0.98, 0.95, 0.9)  # accuracies that may be asked of what is read without a person
KINDS = {"Nd": "digits", "Lu": "capital letters", "Ll": "small letters", "L": "other letters", "P": "punctuation", "S": "symbols", "Z": "spaces", "M": "marks"}

Pair = tuple[str, str]  # a character of the label and the one read in its place; "" where the one or the other has none


def aligned(label: str, reading: str) -> list[Pair]:
    """The pairs of characters of an alignment with the fewest edits (insert, delete, substitute cost 1), in order.

    Of equally good ones, substitutions stand as late in the word as they can. What both begin and end with is set aside first.
    """
    start = 0
    while start < min(len(label), len(reading)) and label[start] == reading[start]:
        start += 1
    end = 0
    while end < min(len(label), len(reading)) - start and label[-1 - end] == reading[-1 - end]:
        end += 1
    middle = _aligned(label[start:len(label) - end], reading[start:len(reading) - end])
    same = [(character, character) for character in label]
    return same[:start] + middle + same[len(label) - end:]


def _aligned(label: str, reading: str) -> list[Pair]:
    if not label or not reading:
        return [(character, "") for character in label] + [("", character) for character in reading]
    costs = [list(range(len(reading) + 1))]  # costs[i][j]: of the first i characters against the first j
    for row, character in enumerate(label, 1):
        above, here = costs[-1], [row]
        for column, other in enumerate(reading, 1):
            here.append(min(above[column - 1] + (character != other), above[column] + 1, here[-1] + 1))
        costs.append(here)
    pairs, row, column = [], len(label), len(reading)
    while row and column:
        here, changed = costs[row][column], label[row - 1] != reading[column - 1]
        if here == costs[row - 1][column - 1] + changed:
            row, column = row - 1, column - 1
            pairs.append((label[row], reading[column]))
        elif here == costs[row - 1][column] + 1:
            row -= 1
            pairs.append((label[row], ""))
        else:
            column -= 1
            pairs.append(("", reading[column]))
    pairs += [(character, "") for character in reversed(label[:row])] + [("", character) for character in reversed(reading[:column])]
    return pairs[::-1]


def kind_of_mistake(word: Word) -> str:
    """In a few words, what is wrong with a reading that is not right."""
    if word.problem:
        return "image cannot be decoded"
    if not word.prediction_compared:
        return "nothing read"
    wrong = [pair for pair in aligned(word.label_compared, word.prediction_compared) if pair[0] != pair[1]]
    if all(not read for _, read in wrong):
        return "characters missing"
    if all(not written for written, _ in wrong):
        return "characters too many"
    return "one character wrong" if len(wrong) == 1 else "several wrong"


def confusions(words: Iterable[Word]) -> Counter[Pair]:
    """How often each character was read as another, left out ("" read) or read where there is none ("" written)."""
    return Counter(pair for word in words if not word.correct and not word.problem
                   for pair in aligned(word.label_compared, word.prediction_compared) if pair[0] != pair[1])


class Part(NamedTuple):
    """Some of the words or characters, and how many of them are right."""

    name: str
    count: int
    right: int

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of it."""
        return wilson_interval(self.right, self.count)


def by_length(words: Iterable[Word]) -> list[Part]:
    """Words by the number of characters of their labels; lengths of which there are none are left out."""
    counts = Counter((len(word.label_compared), word.correct) for word in words)
    found = []
    for low, high in LENGTHS:
        inside = [length for length, _ in counts if low <= length and (high is None or length <= high)]
        name = f"{low} and more" if high is None else f"{low} and {high}" if high == low + 1 else f"{low} to {high}"
        right = sum(counts[length, True] for length in set(inside))
        found.append(Part(name, right + sum(counts[length, False] for length in set(inside)), right))
    return [part for part in found if part.count]


def by_character(words: Iterable[Word]) -> list[Part]:
    """Characters of the labels by their kind (Unicode's general category), and how many of them are read as they are; the most frequent kind first."""
    counts: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for word in words:
        if word.problem:
            counts.update(map(_kind, word.label_compared))
            continue
        for written, read in aligned(word.label_compared, word.prediction_compared):
            if written:
                counts[_kind(written)] += 1
                right[_kind(written)] += written == read
    return [Part(name, count, right[name]) for name, count in counts.most_common()]


def _kind(character: str) -> str:
    category = unicodedata.category(character)
    return KINDS.get(category) or KINDS.get(category[0], "others")


class Coverage(NamedTuple):
    """The words that are read with a confidence of at least `confidence`."""

    confidence: float
    words: int
    right: int

    @property
    def accuracy(self) -> float:
        """Of these words, in [0, 1]."""
        return self.right / self.words


def coverage(words: Sequence[Word]) -> list[Coverage]:
    """What is read with at least each confidence that occurs, from the surest down. Images that cannot be decoded are never among them."""
    found: list[Coverage] = []
    right = 0
    read = sorted((word for word in words if word.problem is None), key=lambda word: -word.confidence)
    for count, word in enumerate(read, 1):
        right += word.correct
        if found and found[-1].confidence == word.confidence:  # a threshold cannot part them
            found.pop()
        found.append(Coverage(word.confidence, count, right))
    return found


def left_alone(curve: Sequence[Coverage], accuracy: float) -> Coverage | None:
    """The most words that can be read without a person when so much of them must be right; None if there is no such confidence."""
    return next((each for each in reversed(curve) if each.accuracy >= accuracy), None)
