"""Sets of labeled words to measure on: a corpus, or anything that can be ingested, read where it lies."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from pipelines.corpus import storage
from pipelines.corpus.manifest import MANIFEST
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.ingestion.sources.opening import open_sources, split_argument
from pipelines.ingestion.sources.row import Source

ROWS_PER_PIECE = 10_000
Words = Iterator[tuple[str, bytes | None, str | None]]  # key, encoded image (None: missing), text (None: unlabeled)


@dataclass(frozen=True)
class WordSet:
    """A named set of words that can be read any number of times, in the same order."""

    name: str
    path: str
    rows: int
    read: Callable[[], Words]
    notes: tuple[str, ...] = ()  # what happened to it before it came here


def open_sets(arguments: list[str]) -> list[WordSet]:
    """The sets that `NAME=PATH` or `PATH` arguments mean.

    With a name everything under the path is one set. Without one, every source of a corpus and every LMDB or folder of
    a tree is a set of its own, under its own name.

    Raises:
        BadInput: nothing readable at a path, or two sets with one name.
    """
    sets = [found for argument in arguments for found in _open(argument)]
    names = [found.name for found in sets]
    for name in names:
        if names.count(name) > 1:
            paths = ", ".join(found.path for found in sets if found.name == name)
            raise BadInput(f"expected sets with different names, found {name!r} for {paths}: name them, NAME=PATH")
    return sets


def _open(argument: str) -> list[WordSet]:
    name, format, path = split_argument(argument)
    if not format and storage.kind(storage.join(path, MANIFEST)) == "file":
        parts = _corpus_sets(Corpus.open(path))
    else:
        sources = open_sources([argument])
        parts = [WordSet(source.name, source.path, source.count(), _reader(source)) for source in sources]
    return [_together(name, path, parts)] if name else parts


def _reader(source: Source) -> Callable[[], Words]:
    return lambda: ((row.key, row.image, row.text) for piece in source.pieces(ROWS_PER_PIECE) for row in piece.read())


def _corpus_sets(corpus: Corpus) -> list[WordSet]:
    sets = []
    for name, counts in corpus.manifest.sources.items():
        shards = {shard.name for shard in corpus.manifest.shards if shard.source == name}
        lost = counts.rows_in - counts.kept
        notes = (f"{lost:,} of its rows were left out when it was ingested",) if lost else ()
        sets.append(WordSet(name, corpus.path, counts.kept, _corpus_reader(corpus, shards), notes))
    return sets


def _corpus_reader(corpus: Corpus, shards: set[str]) -> Callable[[], Words]:
    columns = ["key", "image", "text"]

    def read() -> Words:
        for shard, index, _ in corpus.row_groups:
            if shard in shards:
                table = corpus.read_row_group(shard, index, columns).select(columns)
                yield from zip(*(column.to_pylist() for column in table.columns), strict=True)

    return read


def _together(name: str, path: str, parts: list[WordSet]) -> WordSet:
    return WordSet(name, path, sum(part.rows for part in parts),
                   lambda: chain.from_iterable(part.read() for part in parts),
                   tuple(note for part in parts for note in part.notes))
