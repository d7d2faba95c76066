"""The page of an evaluation, with the worst mistakes as pictures, and its numbers as files."""

import json

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.evaluation.measure import Mistake, Result, total
from pipelines.evaluation.metrics import BINS, Score
from pipelines.evaluation.table import HEADER, VARIANTS, rows
from pipelines.reports import html

FILES = ("evaluation.json", "predictions.jsonl", "evaluation.html")
MARK = b'"computed_as"'  # stands in every evaluation.json: only where it does are the files replaced


def as_page(model: str, results: list[Result], shown: int = 24) -> str:
    """The page: the table, how it was computed, and each set's worst mistakes as pictures."""
    named = "; ".join(f"{rule} for {', '.join(result.words.name for result in results if result.rule == rule)}"
                      for rule in dict.fromkeys(result.rule for result in results))
    pieces = [html.paragraph(f"Model {model}. Rules by which labels and predictions are compared: {named}."),
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


def check_place(folder: str) -> None:
    """Raise BadInput, before an hour of reading, unless the results may be written into a folder: earlier ones are replaced, and nothing else."""
    if storage.kind(folder) == "file":
        raise BadInput(f"--out {folder}: expected a folder, found a file: choose another")
    present = [name for name in FILES if storage.kind(storage.join(folder, name)) is not None]
    if present and FILES[0] not in present:
        raise BadInput(f"--out {folder}: expected no {present[0]} but an earlier evaluation's, found another file: choose another folder")
    storage.check_replaceable(storage.join(folder, FILES[0]), MARK, "--out")


def write_results(folder: str, model: str, results: list[Result], about: dict[str, object]) -> None:
    """Write evaluation.json (every number), predictions.jsonl (every word) and evaluation.html into a folder, a path or URI."""
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
    html.write_text(storage.join(folder, "evaluation.html"), as_page(model, results))
