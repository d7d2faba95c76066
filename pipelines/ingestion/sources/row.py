"""What every foreign format turns into."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Row(NamedTuple):
    """One image with its label, or the reason why there is none."""

    key: str  # unique in the corpus: SOURCE/000000001 or SOURCE/relative/path.jpg
    image: bytes | None  # the encoded file; None only with a problem
    text: str | None = None  # None: unlabeled
    problem: str | None = None  # a short fixed phrase: the row does not get in
    detail: str = ""  # what was found in this row
    filtered: bool = False  # with a problem: the row is usable but marked to be ignored ("filtered", not "quarantined")


@dataclass(frozen=True)
class ReadOptions:
    """How sources are read, where there is a choice."""

    allow_holes: bool = False  # damaged LMDBs and tars: bring in what is there
    image_column: str | None = None  # of Parquet files; None: found by its name
    text_column: str | None = None  # likewise; "": the images are unlabeled
    vertical: bool = False  # scenes: the crops of words that stand are turned, so that they lie
    labels: str | None = None  # of the only source, a folder of images: a label file that lies elsewhere


class Piece(Protocol):
    """Consecutive rows of a source: what one task reads. Cheap to pickle; opens its files only while it is read."""

    rows: int | None  # that `read` yields; None: nobody knows before they are read

    def read(self) -> Iterator[Row]:
        """The rows, always the same in the same order."""
        ...


class Source(Protocol):
    """A set of images in a foreign format."""

    name: str  # unique in the corpus
    kind: str  # "lmdb", "folder", "tar" …
    path: str  # where it lies: a path of this machine or a URI
    fingerprint: str  # changes when the files change: tells whether a broken-off ingest may be continued
    exact: bool  # whether `count` is exact or an estimate

    def count(self) -> int:
        """Rows of all pieces together."""
        ...

    def pieces(self, size: int) -> Iterator[Piece]:
        """The source in pieces of about `size` rows: every row in one piece, the same pieces for the same size."""
        ...


class Numbered(Protocol):
    """A source whose rows have numbers, so that it can be cut anywhere."""

    def count(self) -> int:
        """Rows of the source."""
        ...

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Rows start to stop (exclusive), counted from 0: always stop - start of them, always in the same order."""
        ...

    def part(self, start: int, stop: int) -> "Numbered":
        """A source that can read the rows start to stop of this one, under the same numbers, and holds no more."""
        ...


@dataclass(frozen=True)
class Span:
    """The piece of a numbered source from row start to row stop (exclusive)."""

    source: Numbered
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Known beforehand."""
        return self.stop - self.start

    def read(self) -> Iterator[Row]:
        """The rows start to stop."""
        return self.source.read(self.start, self.stop)


def spans(source: Numbered, size: int) -> Iterator[Span]:
    """A numbered source in pieces of `size` rows; the last one may be smaller."""
    total = source.count()
    for start in range(0, total, size):
        stop = min(start + size, total)
        yield Span(source.part(start, stop), start, stop)
