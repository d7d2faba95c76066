"""The page of a comparison: how two models differ, with pictures of the words that only one of them reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.evaluation.comparison import COLUMNS as HEADER
from pipelines.evaluation.comparison import Difference, Paired, row, verdict
from pipelines.evaluation.metrics import wilson_interval
from pipelines.reports import html
from pipelines.reports.charts import Intervals
from pipelines.reports.evaluation import side_by_side

COMPUTED = {"B - A": "accuracy of B less that of A, in points of per cent; its 95 % interval by Agresti and Min (2005), for paired words",
            "only A, only B": "words that the one reads and the other does not; all others say nothing about which is better",
            "p": "McNemar's exact test, two-sided: how often two equally good models would differ as much or more; below 0.05 they count as told apart"}


@dataclass(frozen=True)
class Compared:
    """Two models on one set."""

    name: str
    paired: Paired
    lost: list[Difference]  # only A reads them
    won: list[Difference]  # only B reads them
    pictures: dict[int, bytes | None]  # by position
    rule: str  # the name of the rule by which both are compared with the labels
    notes: tuple[str, ...] = ()  # how they read, and what a reader must know of the set


def rows(found: Sequence[Compared]) -> list[tuple[str, ...]]:
    """The table's lines, all words together last where there are several sets."""
    lines = [row(each.name, each.paired, each.notes) for each in found]
    return [*lines, row("all", sum((each.paired for each in found), Paired()))] if len(found) > 1 else lines


# of the same names in JSON, whose numbers are fractions as those of an evaluation
COMPUTED_JSON = {"difference": "accuracy_b less accuracy_a, all three fractions in [-1, 1]; interval_95 by Agresti and Min (2005), for paired words",
                 "only_a, only_b": COMPUTED["only A, only B"], "p": COMPUTED["p"]}


def as_json(first: str, second: str, found: Sequence[Compared], page: str) -> dict[str, Any]:
    """Every number, for scripts, and where the page was written."""
    def numbers(name: str, paired: Paired) -> dict[str, Any]:
        return {"name": name, "words": paired.words, "accuracy_a": paired.accuracies[0], "accuracy_b": paired.accuracies[1], "difference": paired.difference,
                "interval_95": list(paired.interval), "both": paired.both, "only_a": paired.only_first, "only_b": paired.only_second,
                "neither": paired.neither, "p": paired.chance, "verdict": verdict(paired)}

    return {"a": first, "b": second,
            "sets": [{**numbers(each.name, each.paired), "rule": each.rule, "notes": list(each.notes)} for each in found],
            "all": numbers("all", sum((each.paired for each in found), Paired())), "computed_as": COMPUTED_JSON, "page": page}


def as_page(first: str, second: str, found: Sequence[Compared]) -> str:
    """The page: the table, and for each set the words that only one of the two reads, the surest mistakes first."""
    return html.render("comparison.html", {
        "title": f"{first} and {second}", "first": first, "second": second, "rules": "; ".join(f"{each.rule} for {each.name}" for each in found),
        "accuracy": _accuracies(found), "header": HEADER, "rows": rows(found), "numbers": range(1, len(HEADER) - 1), "sums": int(len(found) > 1),
        "parts_shown": [{"title": f"{each.name}: {len(words):,} of {count:,} words that only {who} reads", "words": [_shown(word, each.pictures) for word in words]}
                        for each in found for who, words, count in (("A", each.lost, each.paired.only_first), ("B", each.won, each.paired.only_second)) if words],
        "definitions": COMPUTED.items()})


def _accuracies(found: Sequence[Compared]) -> Intervals:
    named = [(each.name, each.paired) for each in found]
    named += [("all", sum((paired for _, paired in named), Paired()))] if len(named) > 1 else []
    return Intervals.of("accuracies of A and B", [
        (name, [(right / paired.words, wilson_interval(right, paired.words), f"{who} on {name}: {right:,} of {paired.words:,}, {100 * right / paired.words:.2f} %")
                for who, right in (("A", paired.both + paired.only_first), ("B", paired.both + paired.only_second))]) for name, paired in named])


def _shown(word: Difference, pictures: Mapping[int, bytes | None]) -> dict[str, Any]:
    """A word that only one reads: the reading of the other is aligned with the label."""
    readings = [(name, each.prediction, f"{each.confidence:.2f}", not each.correct) for name, each in (("A", word.first), ("B", word.second))]
    wrong, who = (word.second, "B") if word.first.correct else (word.first, "A")
    return {"image": pictures.get(word.position), "label": word.first.label, "key": word.first.key, "readings": readings, 
            "rows": side_by_side(wrong.label_compared, wrong.prediction_compared, ("label", who))}
