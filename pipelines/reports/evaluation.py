"""The page of an evaluation, with its mistakes as pictures, and its numbers as files."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.evaluation.comparison import COLUMNS as COMPARED
from pipelines.evaluation.comparison import Paired, row
from pipelines.evaluation.errors import TARGETS, Coverage, Pair, Part, aligned, by_character, by_length, confusions, coverage, kind_of_mistake, left_alone
from pipelines.evaluation.measure import Mistake, Result, total
from pipelines.evaluation.metrics import Score, Word
from pipelines.evaluation.table import HEADER, VARIANTS, rows
from pipelines.reports import html
from pipelines.reports.charts import Intervals, Square, thinned

FILES = ("evaluation.json", "predictions.jsonl", "evaluation.html")
MARK = b'"computed_as"'  # stands in every evaluation.json: only where it does are the files replaced
SHOWN = 2000  # mistakes on a page, each some kilobytes
CONFUSIONS = 24
UNREADABLE = 200
SECTIONS = (("accuracy", "Accuracy"), ("confidence", "Confidence"), ("where", "Where it errs"), ("mistakes", "Mistakes"), ("definitions", "Definitions"))
DEFINITIONS = {**VARIANTS,
               "read without a person": "the most words, taken from the surest down, of which so many are right; the threshold is chosen on these same words, so expect a "
                                        "little less on others",
               "confusions": "substitutions, omissions and insertions in an alignment of label and reading with the fewest edits; characters as they are compared",
               "kinds of characters": "by Unicode's general category"}


class Shown(NamedTuple):
    """A mistake on the page."""

    set: str
    kind: str
    confidence: str
    image: bytes
    label: str
    read: str
    key: str
    rows: list[tuple[str, list[tuple[str, bool]]]]  # label and reading as they are compared, character above character
    otherwise: bool  # whether they are written otherwise than they are compared
    beside: tuple[str, str, bool] | None  # what another model reads: its text and confidence, and whether it is right

    @property
    def about(self) -> str:
        """What a screen reader says in place of the image."""
        return f"image of the word {self.label}"


class Beside(NamedTuple):
    """Another model on the same words, in the same order."""

    model: str
    results: list[Result]


def as_page(model: str, results: list[Result], about: Sequence[tuple[str, str]] = (), shown: int = SHOWN, beside: Beside | None = None) -> str:
    """The page.

    Args:
        about: what the numbers come from, as (name, text) pairs.
        shown: at most so many mistakes with their pictures.
        beside: another model, whose accuracies stand beside these, and whose readings stand beside the mistakes.
    """
    score, words = total(results), [word for result in results for word in result.evaluation.words]
    curve, confused = coverage(words), confusions(words)
    mistakes, wrong = _mistakes(results, shown, beside), score.words - score.correct
    return html.render("evaluation.html", {
        "title": f"Evaluation of {model}", "headline": _headline(score), "automatic": _automatic(curve, len(words)),
        "facts": [("model", model), *about, *_facts(results), *([("beside it", beside.model)] if beside else [])], "sections": SECTIONS,
        "accuracy": _accuracies(results, beside), "beside": beside and {"model": beside.model, "rows": _compared(results, beside), "header": COMPARED},
        "header": HEADER, "rows": rows(results), "numbers": range(1, len(HEADER) - 1),
        "reliability": _reliability(score), "coverage": _coverage(curve, len(words)), "left_alone": _left_alone(curve, len(words)),
        "lengths": intervals("accuracy by length", by_length(words)), "characters": intervals("accuracy by kind of character", by_character(words)),
        "confusions": _confusions(confused, words), "confusions_shown": f"the {min(CONFUSIONS, len(confused))} most frequent of {len(confused):,}",
        "mistakes": mistakes, "sets": [result.words.name for result in results], "kinds": sorted({each.kind for each in mistakes}),
        "mistakes_shown": f"{len(mistakes):,} of {wrong:,}; all are in {FILES[1]} beside this page." if len(mistakes) < wrong else f"All {wrong:,}.",
        "unreadable": [(result.words.name, [(word.key, word.label, word.problem) for word in result.evaluation.unreadable[:UNREADABLE]],
                        f"{len(result.evaluation.unreadable):,}") for result in results if result.evaluation.unreadable],
        "definitions": DEFINITIONS.items()})


def intervals(about: str, parts: Sequence[Part]) -> Intervals:
    """The drawing of parts of the words or characters."""
    return Intervals.of(about, [(f"{part.name} ({part.count:,})", [(part.accuracy, part.interval, f"{part.name}: {part.right:,} of {part.count:,}, {100 * part.accuracy:.1f} %")])
                                for part in parts])


def _headline(score: Score) -> dict[str, str]:
    low, high = score.interval
    return {"percent": f"{100 * score.accuracy:.1f}", "words": f"{score.words:,}", "interval": f"{100 * low:.1f} to {100 * high:.1f}"}


def _automatic(curve: Sequence[Coverage], words: int) -> str:
    """A sentence on how much can be read without a person, at the highest accuracy at which that is a tenth or more."""
    for target in TARGETS:
        found = left_alone(curve, target)
        if found and found.words >= words / 10:
            return f"{100 * found.words / words:.0f} % can be read without a person at {100 * target:.0f} %: those with a confidence of {threshold(curve, found)} and more."
    return ""


def _facts(results: Sequence[Result]) -> list[tuple[str, str]]:
    named = "; ".join(f"{rule} for {', '.join(result.words.name for result in results if result.rule == rule)}"
                      for rule in dict.fromkeys(result.rule for result in results))
    return [("data", "; ".join(f"{result.words.name}: {result.words.path}" for result in results)), ("compared by", named)]


def _accuracies(results: Sequence[Result], beside: Beside | None) -> Intervals:
    both = [list(results), *([list(beside.results)] if beside else [])]
    named = [(found[0].words.name, [each.evaluation.score for each in found]) for found in zip(*both, strict=True)]
    named += [("average", [total(found) for found in both])] if len(results) > 1 else []
    return Intervals.of("accuracy of each set", [(name, [(score.accuracy, score.interval, f"{name}: {score.correct:,} of {score.words:,}, {100 * score.accuracy:.2f} %")
                                                        for score in scores]) for name, scores in named])


def _compared(results: Sequence[Result], beside: Beside) -> list[tuple[str, ...]]:
    """The other model (A) and this one (B) on the same words, as `textray compare` has it."""
    pairs = [(mine.words.name, Paired.of(theirs.evaluation.words, mine.evaluation.words)) for mine, theirs in zip(results, beside.results, strict=True)]
    return [row(name, paired) for name, paired in [*pairs, *([("all", sum((paired for _, paired in pairs), Paired()))] if len(pairs) > 1 else [])]]


def _reliability(score: Score) -> Square:
    most = max((each.words for each in score.bins), default=0)
    dots = [(each.confidence, each.accuracy, each.words / most, f"{each.words:,} words: confidence {100 * each.confidence:.1f} %, right {100 * each.accuracy:.1f} %")
            for each in score.bins if each.words]
    return Square.of("accuracy by confidence", "mean confidence, %", "right, %", line=[dot[:2] for dot in dots], dots=dots, ideal=True)


def _coverage(curve: Sequence[Coverage], words: int) -> Square:
    return Square.of("accuracy of the surest part", "read without a person, % of the words", "of these right, %",
                     line=thinned([(each.words / words, each.accuracy) for each in curve]))


def _left_alone(curve: Sequence[Coverage], words: int) -> list[tuple[str, ...]]:
    """A line of the table for each accuracy that may be wanted."""
    found = [(target, left_alone(curve, target)) for target in TARGETS]
    return [(f"{100 * target:.0f} %", f"{100 * each.words / words:.1f} %", f"{each.words:,}", threshold(curve, each), f"{100 * each.accuracy:.2f} %")
            if each else (f"{100 * target:.0f} %", "none", "0", "", "") for target, each in found]


def threshold(curve: Sequence[Coverage], found: Coverage) -> str:
    """The confidence from which on these words are read, rounded down to as few digits as take no others with them."""
    below = max((each.confidence for each in curve if each.confidence < found.confidence), default=-1.0)
    for digits in range(3, 10):
        rounded = math.floor(found.confidence * 10**digits) / 10**digits
        if rounded > below:
            return f"{rounded:.{digits}f}"
    return repr(found.confidence)


def _confusions(found: Counter[Pair], words: Sequence[Word]) -> list[tuple[str, ...]]:
    written = Counter(character for word in words for character in word.label_compared)
    return [(html.isolated(label) if label else "(nothing)", html.isolated(read) if read else "(nothing)", f"{count:,}",
             f"{100 * count / written[label]:.1f} %" if label else "") for (label, read), count in found.most_common(CONFUSIONS)]


def _mistakes(results: Sequence[Result], most: int, beside: Beside | None) -> list[Shown]:
    """The most severe of all sets, the worst first."""
    found = [(place, mistake) for place, result in enumerate(results) for mistake in result.evaluation.worst]
    found.sort(key=lambda pair: -pair[1].severity)
    read = [{word.key: word for word in result.evaluation.words} for result in beside.results] if beside else []
    return [_shown(results[place].words.name, mistake, read[place].get(mistake.word.key) if read else None) for place, mistake in found[:most]]


def _shown(name: str, mistake: Mistake, other: Word | None) -> Shown:
    word = mistake.word
    return Shown(name, kind_of_mistake(word), f"{word.confidence:.3f}", mistake.image, word.label, word.prediction, word.key,
                 side_by_side(word.label_compared, word.prediction_compared), (word.label, word.prediction) != (word.label_compared, word.prediction_compared),
                 other and (other.prediction, f"{other.confidence:.3f}", other.correct))


def side_by_side(label: str, reading: str, names: tuple[str, str] = ("label", "read")) -> list[tuple[str, list[tuple[str, bool]]]]:
    """A label and a reading as they are compared, character above character, with what differs."""
    if not reading:
        return [(names[0], [(character, False) for character in label]), (names[1], [])]
    pairs = aligned(label, reading)
    return [(name, [(pair[side], pair[0] != pair[1]) for pair in pairs]) for side, name in enumerate(names)]


def check_place(folder: str) -> None:
    """Raise BadInput, before an hour of reading, unless the results may be written into a folder: earlier ones are replaced, and nothing else."""
    if storage.kind(folder) == "file":
        raise BadInput(f"--out {folder}: expected a folder, found a file: choose another")
    present = [name for name in FILES if storage.kind(storage.join(folder, name)) is not None]
    if present and FILES[0] not in present:
        raise BadInput(f"--out {folder}: expected no {present[0]} but an earlier evaluation's, found another file: choose another folder")
    storage.check_replaceable(storage.join(folder, FILES[0]), MARK, "--out")


def write_results(folder: str, model: str, results: list[Result], about: dict[str, Any], how: Sequence[tuple[str, str]] = (), beside: Beside | None = None) -> None:
    """Write evaluation.json (every number), predictions.jsonl (every word) and evaluation.html into a folder, a path or URI.

    Args:
        about: the model's description.
        how: what else the page says of where the numbers come from, as (name, text) pairs.
        beside: another model, for the page.
    """
    numbers = {"model": model, "recognizer": about, "computed_as": VARIANTS,
               "sets": [{"name": result.words.name, "path": result.words.path, "rule": result.rule, "notes": result.notes,
                         "unlabeled": result.evaluation.unlabeled, **result.evaluation.score.as_dict()}
                        for result in results],
               "average": total(results).as_dict()}
    lines = [json.dumps({"set": result.words.name, "key": word.key, "label": word.label, "prediction": word.prediction,
                         "confidence": round(word.confidence, 6), "correct": word.correct, "distance": word.distance,
                         "problem": word.problem}, ensure_ascii=False) + "\n"
             for result in results for word in result.evaluation.words]
    html.write_text(storage.join(folder, "evaluation.json"), json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    html.write_text(storage.join(folder, "predictions.jsonl"), "".join(lines))
    facts = [("made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"), *facts_of(about), *how]
    html.write_text(storage.join(folder, "evaluation.html"), as_page(model, results, facts, beside=beside))


def facts_of(about: dict[str, Any]) -> list[tuple[str, str]]:
    """What a model's description says of it."""
    characters = str(about.get("charset", ""))
    found = [("recognizer", str(about.get("name", ""))), ("charset", f"{len(characters)} characters: {characters[:120]}{'…' if len(characters) > 120 else ''}"),
             ("run", str(about.get("run") or "")), ("trained by", str(about.get("objective") or "")), ("step", f"{about['step']:,}" if isinstance(about.get("step"), int) else ""),
             ("temperature", f"{about['temperature']:g}" if isinstance(about.get("temperature"), float) and about["temperature"] != 1 else ""),
             ("weights", f"sha256 {str(about.get('weights_sha256', ''))[:16]}…")]
    return [(name, text) for name, text in found if text]
