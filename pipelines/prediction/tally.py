"""What was read, counted: how sure, and where there are labels, how rightly."""

import numpy as np
from pydantic import BaseModel

from pipelines.corpus.account import table
from pipelines.evaluation.protocols import Rule
from pipelines.reading.batches import Read

LEVELS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)  # confidences at or above which images are counted


class Tally(BaseModel):
    """Images of which something was read, counted at or above each of LEVELS, and those of which nothing was."""

    images: int = 0
    empty: int = 0  # decoded, but without a character
    unreadable: dict[str, int] = {}  # by reason
    sure: list[int] = [0] * len(LEVELS)
    labeled: list[int] = [0] * len(LEVELS)  # those that have a label that the rule can compare
    equal: list[int] = [0] * len(LEVELS)  # of these, as the label says

    def count(self, read: Read, label: str | None, rule: Rule) -> None:
        """Count one image; `label` is what its source says, None where it says nothing."""
        self.images += 1
        if read.problem is not None:
            self.unreadable[read.problem] = self.unreadable.get(read.problem, 0) + 1
            return
        if not read.text:
            self.empty += 1
            return
        compared = label is not None and bool(rule.compared(label))
        equal = compared and rule.same(label, read.text)
        for number, level in enumerate(LEVELS):
            if reaches(read.confidence, level):
                self.sure[number] += 1
                self.labeled[number] += compared
                self.equal[number] += equal

    def add(self, other: "Tally") -> None:
        """Add another tally to this one."""
        self.images += other.images
        self.empty += other.empty
        for reason, count in other.unreadable.items():
            self.unreadable[reason] = self.unreadable.get(reason, 0) + count
        for name in ("sure", "labeled", "equal"):
            setattr(self, name, [one + two for one, two in zip(getattr(self, name), getattr(other, name), strict=True)])

    def __str__(self) -> str:
        """A table: the share of the images at or above each level, and how many of those with a label were read as it says."""
        head, some = ["confidence", "images", "share %"], self.labeled[0] > 0
        lines = []
        for level, sure, labeled, equal in zip(LEVELS, self.sure, self.labeled, self.equal):
            line = [f">= {level:.2f}", f"{sure:,}", f"{100 * sure / max(self.images, 1):.1f}"]
            lines.append(line + ([f"{labeled:,}", f"{100 * equal / labeled:.2f}" if labeled else "-"] if some else []))
        return table(head + (["with a label", "read as it says %"] if some else []), lines)


def reaches(confidence: float, least: float) -> bool:
    """Whether a confidence, which is kept as float32, is at least this; 0.9 as a float32 is below 0.9."""
    return bool(np.float32(confidence) >= np.float32(least))


def left_out(text: str, confidence: float, problem: str | None, least: float) -> tuple[str, str] | None:
    """(kind, reason) of a reading that is no pseudo-label, as in quarantine.parquet; None of one that is."""
    if problem is not None:
        return "quarantined", problem
    if not text:
        return "filtered", "empty reading"
    return None if reaches(confidence, least) else ("filtered", f"confidence below {least:g}")
