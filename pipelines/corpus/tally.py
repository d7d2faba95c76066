"""What a corpus holds, in numbers: exact histograms of texts and sizes from one pass over the rows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus.account import sum_counts
from pipelines.corpus.characters import CHARSETS, count_outside, in_order, rows_outside, size
from pipelines.corpus.reader import Corpus, RowGroup
from pipelines.progress import Progress

QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}
RANGES = ("text_length", "width", "height", "aspect")
COLUMNS = ("text", "width", "height")


@dataclass
class Tally:
    """Histograms of one source, no larger than the number of different values."""

    text_length: Counter = field(default_factory=Counter)  # code points
    width: Counter = field(default_factory=Counter)  # pixels
    height: Counter = field(default_factory=Counter)
    aspect: Counter = field(default_factory=Counter)  # width / height, three digits of it
    bytes: Counter = field(default_factory=Counter)  # of the encoded image, where images were read
    characters: Counter = field(default_factory=Counter)
    rows_outside: Counter = field(default_factory=Counter)  # charset -> labeled rows that it cannot spell

    def add_table(self, table: pa.Table) -> None:
        """Count the rows of a table with the columns text, width and height, and perhaps image."""
        texts = table["text"].drop_null()
        columns = {"text_length": pc.utf8_length(texts), "width": table["width"], "height": table["height"],
                   "aspect": pa.array(aspects(table["width"].to_numpy(), table["height"].to_numpy()))}
        if "image" in table.column_names:
            columns["bytes"] = pc.binary_length(table["image"])
        for name, column in columns.items():
            for pair in pc.value_counts(column).to_pylist():
                getattr(self, name)[pair["values"]] += pair["counts"]
        characters = Counter("".join(texts.to_pylist()))
        self.characters.update(characters)
        for charset in CHARSETS:
            self.rows_outside[charset] += rows_outside(charset, texts, characters)

    def add(self, other: "Tally") -> None:
        """Add another tally to this one."""
        for name in vars(self):
            getattr(self, name).update(getattr(other, name))

    def summary(self) -> dict:
        """Quantiles of texts and sizes (None without a value), the charset report, and the characters, frequent ones first."""
        return {name: quantiles(getattr(self, name)) for name in RANGES} | {
            "charsets": {charset: self._charset(charset) for charset in CHARSETS}, "characters": in_order(self.characters)}

    def _charset(self, charset: str) -> dict:
        outside = count_outside(charset, self.characters)
        return {"size": size(charset), "rows_outside": self.rows_outside[charset], "characters_outside": sum(outside.values()),
                "outside": outside}


class Visitor(Protocol):
    """Looks at some of the images while the rows are counted."""

    def wants(self, group: RowGroup) -> bool:
        """Whether to read the images of a row group too."""

    def visit(self, group: RowGroup, table: pa.Table) -> None:
        """Look at a row group with the columns key, image, text, width and height."""


def tally(corpus: Corpus, visitor: Visitor | None = None) -> dict[str, Tally]:
    """The tally of every source, from one pass over the rows; images are read where a visitor wants them."""
    tallies = {name: Tally() for name in corpus.manifest.sources}
    progress = Progress("describe", corpus.rows, "rows")
    for shard in corpus.manifest.shards:
        for index, rows in enumerate(shard.row_groups):
            group = RowGroup(shard.name, index, rows)
            seen = visitor is not None and visitor.wants(group)
            table = corpus.read_row_group(shard.name, index, ("key", "image", *COLUMNS) if seen else COLUMNS)
            tallies[shard.source].add_table(table)
            if seen:
                visitor.visit(group, table)
            progress.add(rows)
    progress.close()
    return tallies


def aspects(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """width / height, (n,) float64, rounded to three digits so that there are few different ones."""
    ratio = width / height
    unit = 10 ** (2 - np.floor(np.log10(ratio)))
    return np.round(np.round(ratio * unit) / unit, 6)


def sum_tallies(tallies: Iterable[Tally]) -> Tally:
    """The tally of all sources together."""
    total = Tally()
    for one in tallies:
        total.add(one)
    return total


def quantiles(histogram: Counter, shares: Sequence[str] = tuple(QUANTILES)) -> dict[str, float] | None:
    """Exact quantiles, interpolated linearly between neighbours (numpy's default); None without a value."""
    if not histogram:
        return None
    values = sorted(histogram)
    upto, total = [], 0
    for value in values:
        total += histogram[value]
        upto.append(total)

    def ranked(rank: int) -> int:
        return next(value for value, count in zip(values, upto, strict=True) if rank < count)

    found = {}
    for name in shares:
        position = QUANTILES[name] * (total - 1)
        low = ranked(int(position))
        high = ranked(min(int(position) + 1, total - 1))
        exact = low + (position - int(position)) * (high - low)
        found[name] = int(exact) if exact == int(exact) else round(exact, 2)
    return found


def describe(corpus: Corpus) -> dict:
    """Counts from the manifest, and lengths, sizes and characters from one pass over the rows, without the images."""
    return summarize(corpus, tally(corpus))


def summarize(corpus: Corpus, tallies: dict[str, Tally]) -> dict:
    """The numbers of a corpus, ready for JSON; `tallies` are those of its sources."""
    counts = corpus.manifest.sources
    return {
        "path": corpus.path, "rows": corpus.rows,
        "shards": len(corpus.manifest.shards), "row_groups": len(corpus.row_groups),
        "bytes": sum(shard.bytes for shard in corpus.manifest.shards),
        "sha256": corpus.sha256, "made_by": corpus.manifest.made_by,
        "sources": {name: counts[name].model_dump(by_alias=True) | tallies[name].summary() for name in counts},
        "total": sum_counts(counts.values()).model_dump(by_alias=True) | sum_tallies(tallies.values()).summary(),
    }
