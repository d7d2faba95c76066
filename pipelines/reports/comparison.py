"""The page of a comparison: how two models differ, with pictures of the words that only one of them reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.evaluation.comparison import Difference, Paired
from pipelines.reports import html

HEADER = ("set", "words", "A %", "B %", "B - A", "95 % interval", "only A", "only B", "p", "")
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


def rows(found: Sequence[Compared]) -> list[tuple[str, ...]]:
    """The table's lines, all words together last where there are several sets."""
    lines = [row(each.name, each.paired, each.notes) for each in found]
    return [*lines, row("all", sum((each.paired for each in found), Paired()))] if len(found) > 1 else lines


def as_json(first: str, second: str, found: Sequence[Compared]) -> dict[str, Any]:
    """Every number, for scripts."""
    def numbers(name: str, paired: Paired) -> dict[str, Any]:
        return {"name": name, "words": paired.words, "accuracy_a": paired.accuracies[0], "accuracy_b": paired.accuracies[1], "difference": paired.difference,
                "interval_95": list(paired.interval), "both": paired.both, "only_a": paired.only_first, "only_b": paired.only_second,
                "neither": paired.neither, "p": paired.chance, "verdict": verdict(paired)}

    return {"a": first, "b": second,
            "sets": [{**numbers(each.name, each.paired), "rule": each.rule, "notes": list(each.notes)} for each in found],
            "all": numbers("all", sum((each.paired for each in found), Paired())), "computed_as": COMPUTED}


def as_page(first: str, second: str, found: Sequence[Compared]) -> str:
    """The page: the table, and for each set the words that only one of the two reads, the surest mistakes first."""
    pieces = [html.paragraph(f"A is {first}, B is {second}. Both read the same words, compared by one rule: "
                             + "; ".join(f"{each.rule} for {each.name}" for each in found) + "."),
              html.table(HEADER, rows(found), numbers=range(1, len(HEADER) - 1), sums=int(len(found) > 1)),
              html.table(("number", "computed as"), COMPUTED.items())]
    for each in found:
        for who, words, count in (("A", each.lost, each.paired.only_first), ("B", each.won, each.paired.only_second)):
            if words:
                pieces += [html.heading(f"{each.name}: {len(words):,} of {count:,} words that only {who} reads"),
                           html.pictures(_picture(word, each.pictures.get(word.position)) for word in words)]
    return html.page(f"{first} and {second}", *pieces)


def _picture(word: Difference, image: bytes | None) -> html.Picture:
    lines = [("label", word.first.label), ("A", f"{word.first.prediction or '(nothing)'}  {word.first.confidence:.2f}"),
             ("B", f"{word.second.prediction or '(nothing)'}  {word.second.confidence:.2f}"), ("key", word.first.key)]
    return html.Picture(image, lines, frozenset({"B" if word.first.correct else "A"}))
