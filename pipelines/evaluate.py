"""`textray evaluate`: measure a recognizer on labeled images, by the rules of the benchmarks."""

import argparse
import heapq
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from models.recognizer import Recognizer
from pipelines.errors import BadInput
from pipelines.metrics import BINS, Score, Word
from pipelines.protocols import RULES, size_note
from pipelines.reading import evaluating, read_stream
from pipelines.reports import html
from pipelines.searches import Found, Search, add_options, searches
from pipelines.weights import find_model, load_recognizer, read_description

if TYPE_CHECKING:
    from pipelines.ingestion.wordsets import WordSet

VARIANTS = {
    "accuracy": "exact match of the compared strings",
    "interval_95": "Wilson score interval of the accuracy",
    "one_minus_ned": "ICDAR 2019: mean over words of 1 - edit distance / length of the longer compared string; "
                     "1 where both are empty, 0 for an unreadable image",
    "cer": "all edits / all characters of the compared labels",
    "confidence": "mean over readable images of the recognizer's probability of its string",
    "ece": "expected calibration error: readable images in 15 bins of equal width by their confidence, "
           "mean over words of |accuracy - mean confidence| of their bin",
    "average": "over all words of all sets together, so each set weighs by its words",
}


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


HEADER = ("set", "words", "accuracy %", "95 % interval", "1-NED %", "CER %", "confidence", "ECE %", "images/s", "notes")


def row(name: str, score: Score, notes: list[str]) -> tuple[str, ...]:
    """A line of the table, as text."""
    low, high = score.interval
    return (name, f"{score.words:,}", f"{100 * score.accuracy:.2f}", f"{100 * low:.2f}-{100 * high:.2f}",
            f"{100 * score.one_minus_ned:.2f}", f"{100 * score.cer:.2f}", f"{score.confidence:.3f}",
            f"{100 * score.calibration_error:.2f}", f"{score.images_per_second:,.0f}", "; ".join(notes))


def rows(results: list[Result]) -> list[tuple[str, ...]]:
    """The table's lines, the average last."""
    lines = [row(result.words.name, result.evaluation.score, result.notes) for result in results]
    return [*lines, row("average", total(results), ["weighted by words"])]


def as_text(lines: list[tuple[str, ...]], header: tuple[str, ...] = HEADER) -> str:
    """The table for a terminal: names left, numbers right, notes last."""
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header) - 1)]

    def line(cells: tuple[str, ...]) -> str:
        numbers = "  ".join(cell.rjust(width) for cell, width in zip(cells[1:-1], widths[1:], strict=True))
        return f"{cells[0].ljust(widths[0])}  {numbers}  {cells[-1]}".rstrip()

    return "\n".join([line(header), *map(line, lines)])


def as_page(model: str, rule: str, results: list[Result], shown: int = 24) -> str:
    """The page: the table, how it was computed, and each set's worst mistakes as pictures."""
    pieces = [html.paragraph(f"Model {model}. Labels and predictions are compared by the rule {rule!r}."),
              html.table(HEADER, rows(results), numbers=range(1, len(HEADER) - 1), sums=1),
              html.table(("number", "computed as"), VARIANTS.items()),
              html.heading("Confidence against accuracy"),
              html.table(("confidence", "words", "accuracy %", "mean confidence %"), _reliability(total(results)), numbers=range(1, 4))]
    for result in results:
        name, evaluation = result.words.name, result.evaluation
        wrong = len(evaluation.words) - evaluation.score.correct
        worst = evaluation.worst[:shown]
        pieces += [html.heading(f"{name}: the worst {len(worst)} of {wrong:,} mistakes"),
                   html.paragraph("Ordered by confidence x distance: surest and furthest off first."),
                   html.pictures(_picture(mistake) for mistake in worst)]
        if evaluation.unreadable:
            pieces += [html.heading(f"{name}: images that cannot be decoded"),
                       html.table(("key", "label", "problem"), [(word.key, word.label, word.problem)
                                                                 for word in evaluation.unreadable[:200]])]
    return html.page(f"Evaluation of {model}", *pieces)


def _reliability(score: Score) -> list[tuple[str, ...]]:
    """The bins that hold words, as lines of a table."""
    return [(f"{100 * number / BINS:.1f}-{100 * (number + 1) / BINS:.1f} %", f"{each.words:,}", f"{100 * each.accuracy:.2f}",
             f"{100 * each.confidence:.2f}") for number, each in enumerate(score.bins) if each.words]


def _picture(mistake: Mistake) -> html.Picture:
    word = mistake.word
    lines = [("label", word.label), ("read", word.prediction), ("confidence", f"{word.confidence:.3f}"),
             ("key", word.key)]
    return html.Picture(mistake.image, lines, frozenset({"read"}))


def write_results(folder: Path, model: str, rule: str, results: list[Result], about: dict[str, object]) -> None:
    """Write evaluation.json (every number), predictions.jsonl (every word) and evaluation.html into a folder."""
    numbers = {"model": model, "recognizer": about, "rule": rule, "computed_as": VARIANTS,
               "sets": [{"name": result.words.name, "path": result.words.path, "notes": result.notes,
                         "unlabeled": result.evaluation.unlabeled, **result.evaluation.score.as_dict()}
                        for result in results],
               "average": total(results).as_dict()}
    lines = [json.dumps({"set": result.words.name, "key": word.key, "label": word.label, "prediction": word.prediction,
                         "confidence": round(word.confidence, 6), "correct": word.correct, "distance": word.distance,
                         "problem": word.problem}, ensure_ascii=False) + "\n"
             for result in results for word in result.evaluation.words]
    html.write_text(folder / "predictions.jsonl", "".join(lines))
    html.write_text(folder / "evaluation.html", as_page(model, rule, results))
    html.write_text(folder / "evaluation.json", json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")


def parse_gates(arguments: list[str], names: list[str]) -> dict[str, float]:
    """`NAME=ACCURACY` arguments: the least accuracy, in [0, 1], that each named set (or `average`) must reach."""
    gates = {}
    for argument in arguments:
        name, _, least = argument.rpartition("=")
        try:
            gates[name] = float(least)
        except ValueError:
            raise BadInput(f"--gate: expected NAME=ACCURACY such as {names[0]}=0.85, found {argument!r}") from None
        if name not in [*names, "average"] or not 0 <= gates[name] <= 1:
            raise BadInput(f"--gate: expected one of {', '.join(names)}, average, and an accuracy from 0 to 1, "
                           f"found {argument!r}")
    return gates


def failed_gates(gates: dict[str, float], results: list[Result]) -> list[str]:
    """A sentence for each gate that was missed."""
    scores = {result.words.name: result.evaluation.score for result in results} | {"average": total(results)}
    return [f"{name}: accuracy {score.accuracy:.4f} ({score.correct:,} of {score.words:,}) is below {gates[name]}"
            for name, score in scores.items() if name in gates and score.accuracy < gates[name]]


def parser() -> argparse.ArgumentParser:
    """The command line of `textray evaluate`."""
    arguments = argparse.ArgumentParser(
        prog="textray evaluate", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure a model on labeled words: word accuracy (36 characters, case-insensitive) with its\n"
                    "95 % interval, 1-NED, CER, and how honest its confidence is (ECE).",
        epilog="example:\n  textray evaluate my-run --data SVT=data/SVT --data IIIT5K=data/IIIT5K\n"
               "  textray evaluate my-run --data SVT=data/SVT --lexicon 50")
    arguments.add_argument("model", help="a run's name or folder, a model folder, or models:/NAME@champion")
    add_reading_arguments(arguments)
    arguments.add_argument("--out", metavar="FOLDER", help="where the report goes (default: reports/evaluation-MODEL)")
    add_options(arguments)
    arguments.add_argument("--gate", action="append", default=[], metavar="NAME=ACCURACY",
                           help="exit with status 1 if a set, or `average`, is below this accuracy (0 to 1)")
    return arguments


def add_reading_arguments(arguments: argparse.ArgumentParser) -> None:
    """What every command asks for that reads labeled words."""
    arguments.add_argument("--data", action="append", required=True, metavar="NAME=PATH",
                           help="a corpus, or an LMDB or folder as `textray ingest` takes them; repeat for more sets")
    arguments.add_argument("--batch-size", type=int, default=256, metavar="N", help="images at a time (default: 256)")
    arguments.add_argument("--rule", choices=RULES, default="36",
                           help="characters that count (default: 36; exact: all, as they stand)")
    arguments.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    arguments.add_argument("--precision", choices=("float32", "bf16"), default="float32",
                           help="of the arithmetic; bf16 is faster where the processor has it, and reads a few words differently (default: float32)")


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray evaluate`."""
    from pipelines.ingestion.wordsets import open_sets  # reads every format; validation during training needs none of that
    options = parser().parse_args(argv)
    if options.batch_size < 1:
        raise BadInput(f"--batch-size: expected at least 1, found {options.batch_size}")
    sets = open_sets(options.data)
    gates = parse_gates(options.gate, [words.name for words in sets])
    device = device_named(options.device)
    folder = find_model(options.model)
    recognizer = load_recognizer(folder).to(device)
    search_of = searches(recognizer, options)
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        results = [evaluate_set(recognizer, words, rule=options.rule, batch_size=options.batch_size, found=search_of(words)) for words in sets]
    if options.precision != "float32":
        for result in results:
            result.notes.append(options.precision)
    out = Path(options.out or Path("reports") / f"evaluation-{file_safe(options.model)}")
    write_results(out, options.model, options.rule, results, read_description(folder))
    print(as_text(rows(results)))
    print(f"\nmade {out}/evaluation.html (the worst mistakes), evaluation.json (every number), "
          "predictions.jsonl (every word)")
    missed = failed_gates(gates, results)
    for sentence in missed:
        print(f"textray: {sentence}", file=sys.stderr)
    return 1 if missed else 0


def device_named(name: str | None) -> torch.device:
    """The device called `name`; without a name a GPU if there is one.

    Raises:
        BadInput: this machine has no such device.
    """
    gpus = torch.cuda.device_count()
    try:
        device = torch.device(name or ("cuda" if gpus else "cpu"))
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= gpus):
        known = ", ".join(["cpu", *(f"cuda:{index}" for index in range(gpus))])
        raise BadInput(f"--device: expected a device of this machine ({known}), found {name!r}")
    return device


def file_safe(model: str) -> str:
    """A model's name as a file name: `models:/words@champion` becomes `models-words-champion`."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", model).strip("-.") or "model"


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("evaluate"))
