"""The numbers of an evaluation as a table, and how each is computed."""

from pipelines.evaluation.measure import Result, total
from pipelines.evaluation.metrics import Score

VARIANTS = {
    "accuracy": "exact match of the compared strings; a label of which nothing is left to compare counts as wrong",
    "interval_95": "Wilson score interval of the accuracy",
    "one_minus_ned": "ICDAR 2019: mean over words of 1 - edit distance / length of the longer compared string; "
                     "0 for an unreadable image and for a label of which nothing is left to compare",
    "cer": "all edits / all characters of the compared labels",
    "confidence": "mean over readable images of the recognizer's probability of its string",
    "ece": "expected calibration error: readable images in 15 bins of equal width by their confidence, "
           "mean over words of |accuracy - mean confidence| of their bin",
    "average": "over all words of all sets together, so each set weighs by its words",
}

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
