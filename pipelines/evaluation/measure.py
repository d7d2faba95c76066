"""A recognizer, measured on labeled words."""

import heapq
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from models.recognizer import Recognizer
from pipelines.errors import BadInput
from pipelines.evaluation.metrics import Score, Word
from pipelines.evaluation.protocols import ALPHANUMERIC_36, RULE_NAMES, Rule, rule_for, rule_of, size_note
from pipelines.progress import say
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
                        rule: Rule | None = None, batch_size: int = 256, keep_worst: int = 48, search: Search | None = None) -> Evaluation:
    """Read labeled words and compare. Plain PyTorch, on the recognizer's device; its train/eval modes are restored.

    Memory grows by a few strings per word; of the images only `keep_worst` are kept.

    Args:
        words: (key, encoded image, text). An image of None or one that cannot be decoded counts as a wrong word with an
            empty prediction; a text of None is counted as unlabeled and not read.
        rule: how the strings are compared; as the recognizer's charset spells them if it is None.
        search: how strings are chosen, of `searches.Found`; greedily if it is None.
    """
    evaluation, rule = Evaluation(), rule or rule_of("charset", recognizer.charset)
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
            word = Word(key, text, read.text, read.confidence, rule.compared(text), rule.compared(read.text), read.problem)
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
    rule: str  # the name of the rule by which it was compared
    notes: list[str]  # what a reader must know before comparing the row with a published one
    search: str = ""  # how strings were chosen, where not greedily


def rule_on(words: "WordSet", recognizer: Recognizer, about: Mapping[str, Any], chosen: str | None = None) -> Rule:
    """The rule by which a set is compared: the chosen one, else the field's for a known benchmark, else the model's own.

    Args:
        about: the model's description, whose "rule" came from its recipe; models from before there was one follow their charset.
    """
    own = about.get("rule", "charset")
    if own not in RULE_NAMES:
        raise BadInput(f"the model's description: expected one of the rules {', '.join(RULE_NAMES)}, found {own!r}: register or train it again")
    return rule_of(chosen or rule_for(words.name, words.rows, own), recognizer.charset)


def evaluate_set(recognizer: Recognizer, words: "WordSet", *, rule: Rule | None = None, batch_size: int = 256, keep_worst: int = 48,
                 found: Found = Found(None, "")) -> Result:
    """Measure on one set, with progress on stderr.

    Raises:
        BadInput: not one of its rows has a label, no image can be read, or of no label anything is left to compare.
    """
    rule = rule or rule_of("charset", recognizer.charset)
    evaluation = evaluate_recognizer(recognizer, with_progress(words), rule=rule, batch_size=batch_size, keep_worst=keep_worst, search=found.search)
    if not evaluation.words:
        raise BadInput(f"{words.name}: expected labeled words in {words.path}, found {evaluation.unlabeled:,} rows "
                       "without a label: give a set that has labels")
    if len(evaluation.unreadable) == len(evaluation.words):  # an accuracy of 0 would say something of the model
        first = evaluation.words[0]
        raise BadInput(f"{words.name}: expected images that can be read in {words.path}, found none among {len(evaluation.words):,} (the first is {first.key}: "
                       f"{first.problem}): check that the names of the labels are those of the images")
    if all(not word.label_compared for word in evaluation.words):
        raise BadInput(f"{words.name}: expected labels that the rule {rule.name} can compare, found none among the {len(evaluation.words):,} words in "
                       f"{words.path} (the first is {evaluation.words[0].label!r}): choose another --rule, or a model that writes these characters")
    as_the_field = rule.name == "36" or (rule.name == "charset" and set(recognizer.charset.characters) == set(ALPHANUMERIC_36))
    notes = [note for note in (found.note, "" if as_the_field else f"compared by the rule {rule.name}") if note]
    return Result(words, evaluation, rule.name, notes + notes_on(words, evaluation, recognizer, rule), found.note)


def with_progress(words: "WordSet", every: float = 2.0) -> Iterator[tuple[str, bytes | None, str | None]]:
    """The words of a set, telling on stderr how far they are read."""
    start = said = time.perf_counter()
    for count, word in enumerate(words.read()):
        now = time.perf_counter()
        if now - said > every:
            say(f"{words.name}: {count:,} of {words.rows:,} images, {count / (now - start):,.0f}/s")
            said = now
        yield word


def notes_on(words: "WordSet", evaluation: Evaluation, recognizer: Recognizer, rule: Rule) -> list[str]:
    """Whether the set is the published one, and what in it cannot be read or compared."""
    readable = set("".join(map(rule.compared, recognizer.charset.characters)))
    labels = [word.label_compared for word in evaluation.words]
    counted = [(len(evaluation.unreadable), "unreadable, counted as wrong"),
               (evaluation.unlabeled, "without a readable label, not counted"),
               (sum(not set(label) <= readable for label in labels), "with characters that this recognizer lacks"),
               (sum(len(label) > recognizer.max_length for label in labels),
                f"longer than its {recognizer.max_length} characters"),
               (labels.count(""), "with nothing left to compare, counted as wrong")]
    size = size_note(words.name, len(labels))
    return ([size] if size else []) + list(words.notes) + [f"{count:,} {what}" for count, what in counted if count]


def total(results: list[Result]) -> Score:
    """All words of all sets together."""
    return sum((result.evaluation.score for result in results), Score())
