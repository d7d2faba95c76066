"""What every foreign format turns into."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class Row(NamedTuple):
    """One image with its label, or the reason why there is none."""

    key: str  # unique in the corpus: SOURCE/000000001 or SOURCE/relative/path.jpg
    image: bytes | None  # the encoded file; None only with a problem
    text: str | None = None  # None: unlabeled
    problem: str | None = None  # a short fixed phrase: the row goes to quarantine
    detail: str = ""  # what was found in this row


class Source(Protocol):
    """A set of images in a foreign format. Cheap to pickle after `part`; opens its files only while it is read."""

    name: str  # unique in the corpus
    kind: str  # "lmdb", "folder"
    path: str  # where it lies
    fingerprint: str  # changes when the files change: tells whether a broken-off ingest may be continued

    def count(self) -> int:
        """Rows that `read(0, count())` yields."""
        ...

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Rows start to stop (exclusive), counted from 0: always stop - start of them, always in the same order."""
        ...

    def part(self, start: int, stop: int) -> "Source":
        """A source that can read the rows start to stop of this one, under the same numbers, and no more."""
        ...
