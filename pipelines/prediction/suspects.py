"""Labels that a model reads confidently otherwise: many of them are slips of whoever labeled, and each costs training or a measured point."""

import csv
import heapq
import io
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.corpus import storage
from pipelines.corpus.reader import Corpus
from pipelines.ingestion.sources.row import Row
from pipelines.prediction.labeler import Reader
from pipelines.progress import Progress

COLUMNS = ("key", "text", "read", "confidence", "correct")


class Suspect(NamedTuple):
    """A label, and what is read instead."""

    confidence: float
    key: str
    text: str
    read: str
    image: bytes


def suspects(corpus: Corpus, reader: Reader, least: float, most: int) -> tuple[list[Suspect], int]:
    """The labels that are read otherwise with a confidence of `least` or more, the surest first, at most `most`; and how many labels were looked at."""
    found: list[Suspect] = []
    looked, progress = 0, Progress("suspects", sum(counts.labeled for counts in corpus.manifest.sources.values()), "labels")
    try:
        for row, read in reader.read(_labeled(corpus)):
            looked += 1
            progress.add(1)
            if read.problem is None and read.confidence >= least and not reader.rule.same(row.text, read.text):
                one = Suspect(read.confidence, row.key, row.text, read.text, row.image)
                heapq.heappush(found, one) if len(found) < most else heapq.heappushpop(found, one)
    finally:
        progress.close()
    return sorted(found, key=lambda each: (-each.confidence, each.key)), looked


def _labeled(corpus: Corpus) -> Iterator[Row]:
    for table in corpus.rows_iter(["key", "image", "text"]):
        yield from (Row(row["key"], row["image"], row["text"]) for row in table.to_pylist() if row["text"] is not None)


def write_list(file: str, found: list[Suspect]) -> None:
    """The list to correct, for `textray relabel`: the column `correct` is empty."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    lines.writerows((each.key, each.text, each.read, f"{each.confidence:.6f}", "") for each in found)
    storage.write_bytes(file, text.getvalue().encode())
