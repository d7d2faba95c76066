"""Which of the runs becomes the reader, and how it reads, by the labels that were laid aside; without such the last run, read plainly.

Rounds of pseudo-labels can cost accuracy, where the words that guide them are not those on the images, and so can an n-gram at reading time. Few labels tell
little; what they tell is taken, and said with its count.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipelines.state import parse_json


class Reader(BaseModel):
    """The choice, written down once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str  # the folder of a run or a model
    reading: list[str] = []  # options of `textray predict`
    report: str | None = None  # the folder of its evaluation


def right_and_words(report: Path) -> tuple[int, int]:
    """How many words the average of an evaluation's report has read rightly, and of how many."""
    average = parse_json((report / "evaluation.json").read_bytes(), dict, str(report / "evaluation.json"), "remove the report")["average"]
    return round(average["accuracy"] * average["words"]), average["words"]


def better(named: dict[str, tuple[int, int]]) -> tuple[str, str]:
    """The name of the best, of several of the same count the last, and a sentence on it.

    Args:
        named: (right, words) by name, in the order in which they came to be.
    """
    best = max(reversed(named), key=lambda name: named[name][0])
    words = next(iter(named.values()))[1]
    counts = ", ".join(f"{name} {right}" for name, (right, _) in named.items())
    return best, f"of the {words:,} words laid aside are read: {counts}. {best[:1].upper()}{best[1:]} it is, by few words" if words < 200 else \
        f"of the {words:,} words laid aside are read: {counts}. {best[:1].upper()}{best[1:]} it is"
