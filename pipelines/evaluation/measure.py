"""A recognizer, measured on labeled words."""

import heapq
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from models.recognizer import Recognizer
from pipelines.errors import BadInput
from pipelines.evaluation.metrics import Score, Word
from pipelines.evaluation.protocols import RULES, size_note
from pipelines.reading.batches import evaluating, read_stream
from pipelines.reading.searches import Found, Search

if TYPE_CHECKING:
    from pipelines.ingestion.wordsets import WordSet


class Mistake(NamedTuple):
    """A word that was read wrongly, with its picture."""

    word: Word
    image: bytes

    @property
    def severity(self) -> float:
        """How sure and how far off: confidence x (1 - similarity), in [0, 1]."""
        return self.word.confidence * (1 - self.word.similarity)


@dataclass
class Evaluation:
    """What a recognizer made of a set of words."""

    words: list[Word] = field(default_factory=list)
    worst: list[Mistake] = field(default_factory=list)  # the most severe first
    unlabeled: int = 0  # rows without a label: read by nobody, counted nowhere else
    seconds: float = 0.0

    @property
    def score(self) -> Score:
        """The numbers of the table's row."""
        return Score.of(self.words, self.seconds)

    @property
    def unreadable(self) -> list[Word]:
        """The words whose image cannot be decoded; they count as wrong."""
        return [word for word in self.words if word.problem]


def evaluate_recognizer(recognizer: Recognizer, words: Iterable[tuple[str, bytes | None, str | None]], *,
                        rule: str = "36", batch_size: int = 256, keep_worst: int = 48, search: Search | None = None) -> Evaluation:
    """Read labeled words and compare. Plain PyTorch, on the recognizer's device; its train/eval modes are restored.

    Memory grows by a few strings per word; of the images only `keep_worst` are kept.

    Args:
        words: (key, encoded image, text). An image of None or one that cannot be decoded counts as a wrong word with an
            empty prediction; a text of None is counted as unlabeled and not read.
        rule: how the strings are compared, a key of `protocols.RULES`.
        search: how strings are chosen, of `searches.Found`; greedily if it is None.
    """
    evaluation, compared = Evaluation(), RULES[rule]
    worst: list[tuple[float, int, Mistake]] = []

    def labeled() -> Iterator[tuple[str, bytes | None, str]]:
        for key, image, text in words:
            if text is None:
                evaluation.unlabeled += 1
            else:
                yield key, image, text

    start = time.perf_counter()
    with evaluating(recognizer):
        for (key, image, text), read in read_stream(recognizer, labeled(), lambda item: item[1], batch_size=batch_size, search=search):
            word = Word(key, text, read.text, read.confidence, compared(text), compared(read.text), read.problem)
            evaluation.words.append(word)
            if not word.correct and not word.problem and keep_worst:
                mistake = Mistake(word, image)
                entry = (mistake.severity, -len(evaluation.words), mistake)  # of equals the earlier one stays
                if len(worst) < keep_worst:
                    heapq.heappush(worst, entry)
                else:
                    heapq.heappushpop(worst, entry)
    evaluation.seconds = time.perf_counter() - start
    evaluation.worst = [mistake for _, _, mistake in sorted(worst, reverse=True)]
    return evaluation


@dataclass
class Result:
    """One row of the table with what stands behind it."""

    words: "WordSet"
    evaluation: Evaluation
    notes: list[str]  # what a reader must know before comparing the row with a published one


def evaluate_set(recognizer: Recognizer, words: "WordSet", *, rule: str = "36", batch_size: int = 256,
                 found: Found = Found(None, "")) -> Result:
    """Measure on one set, with progress on stderr.

    Raises:
        BadInput: not one of its rows has a label.
    """
    evaluation = evaluate_recognizer(recognizer, with_progress(words), rule=rule, batch_size=batch_size, search=found.search)
    if not evaluation.words:
        raise BadInput(f"{words.name}: expected labeled words in {words.path}, found {evaluation.unlabeled:,} rows "
                       "without a label: give a set that has labels")
    notes = [found.note] if found.note else []
    return Result(words, evaluation, notes + notes_on(words, evaluation, recognizer, rule))


def with_progress(words: "WordSet", every: float = 2.0) -> Iterator[tuple[str, bytes | None, str | None]]:
    """The words of a set, telling on stderr how far they are read."""
    start = said = time.perf_counter()
    for count, word in enumerate(words.read()):
        now = time.perf_counter()
        if now - said > every:
            print(f"{words.name}: {count:,} of {words.rows:,} images, {count / (now - start):,.0f}/s", file=sys.stderr)
            said = now
        yield word


def notes_on(words: "WordSet", evaluation: Evaluation, recognizer: Recognizer, rule: str) -> list[str]:
    """Whether the set is the published one, and what in it cannot be read or compared."""
    readable = set("".join(RULES[rule](character) for character in recognizer.charset.characters))
    labels = [word.label_compared for word in evaluation.words]
    counted = [(len(evaluation.unreadable), "unreadable, counted as wrong"),
               (evaluation.unlabeled, "without a readable label, not counted"),
               (sum(not set(label) <= readable for label in labels), "with characters that this recognizer lacks"),
               (sum(len(label) > recognizer.max_length for label in labels),
                f"longer than its {recognizer.max_length} characters"),
               (labels.count(""), "with nothing left to compare")]
    size = size_note(words.name, len(labels))
    return ([size] if size else []) + list(words.notes) + [f"{count:,} {what}" for count, what in counted if count]


def total(results: list[Result]) -> Score:
    """All words of all sets together."""
    return sum((result.evaluation.score for result in results), Score())
