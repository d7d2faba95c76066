"""What there is to read: the corpora, foreign formats, images and lists that a command line names, each as a source in pieces."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from pipelines.corpus import storage
from pipelines.corpus.image_formats import HEAD_BYTES, image_format
from pipelines.corpus.manifest import MANIFEST, ShardEntry
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput, Unavailable
from pipelines.ingestion.sources.files import Stamp, is_image_name, stamp
from pipelines.ingestion.sources.opening import is_other_file, open_sources, split_argument
from pipelines.ingestion.sources.row import Row, Source

PICTURES = "pictures"  # with a number the name of a source that images named one by one make; it is in no key


@dataclass(frozen=True)
class RowGroups:
    """The piece of a corpus from row group `first` to row group `stop` (exclusive) of one shard."""

    corpus: Corpus  # its manifest lists this shard alone, so that it is cheap to pickle
    first: int
    stop: int

    @property
    def shard(self) -> ShardEntry:
        """The shard that holds them."""
        return self.corpus.manifest.shards[0]

    @property
    def rows(self) -> int:
        """Rows of these row groups."""
        return sum(self.shard.row_groups[self.first:self.stop])

    def read(self) -> Iterator[Row]:
        """The rows, with the labels that they have."""
        for index in range(self.first, self.stop):
            table = self.corpus.read_row_group(self.shard.name, index, ["key", "image", "text"])
            yield from map(Row, *(table[name].to_pylist() for name in ("key", "image", "text")))


@dataclass(frozen=True)
class CorpusSource:
    """A source of a corpus."""

    name: str
    corpus: Corpus
    kind: str = "corpus"
    exact: bool = True

    @property
    def path(self) -> str:
        """Where the corpus lies."""
        return self.corpus.path

    @property
    def fingerprint(self) -> str:
        """Of every byte of the corpus."""
        return self.corpus.sha256

    def count(self) -> int:
        """Rows of this source."""
        return self.corpus.manifest.sources[self.name].kept

    def shards(self) -> list[Corpus]:
        """Its shards, each as a corpus of one."""
        manifest = self.corpus.manifest
        return [Corpus(self.corpus.path, manifest.model_copy(update={"shards": [shard], "sources": {}}), self.corpus.sha256)
                for shard in manifest.shards if shard.source == self.name]

    def pieces(self, size: int) -> Iterator[RowGroups]:
        """Whole row groups, about `size` rows, all of one shard."""
        return (piece for shard in self.shards() for piece in pieces_of(shard, size))


def pieces_of(shard: Corpus, size: int) -> list[RowGroups]:
    """A corpus of one shard in pieces of whole row groups, each of at least `size` rows but the last."""
    cuts, rows = [0], 0
    groups = shard.manifest.shards[0].row_groups
    for index, count in enumerate(groups, start=1):
        rows += count
        if rows >= size or index == len(groups):
            cuts.append(index)
            rows = 0
    return [RowGroups(shard, first, stop) for first, stop in zip(cuts, cuts[1:])]


@dataclass(frozen=True)
class Pictures:
    """Images that are named one by one; their keys are their names, as they were given."""

    paths: tuple[str, ...]
    name: str
    kind: str = "files"
    exact: bool = True

    @property
    def path(self) -> str:
        """The first of them."""
        return self.paths[0]

    @property
    def fingerprint(self) -> str:
        """Of their names, sizes and times of change."""
        return hashlib.sha256(json.dumps([(path, *_stamp(path)) for path in self.paths]).encode()).hexdigest()

    def count(self) -> int:
        """How many were named."""
        return len(self.paths)

    def pieces(self, size: int) -> Iterator["Named"]:
        """Pieces of `size` images."""
        return (Named(self.paths[start:start + size]) for start in range(0, len(self.paths), size))


@dataclass(frozen=True)
class Named:
    """The piece of some of these images."""

    paths: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many they are."""
        return len(self.paths)

    def read(self) -> Iterator[Row]:
        """The images; one that is not there has a problem."""
        return map(_row, self.paths)


def _stamp(path: str) -> Stamp:
    try:
        return stamp(path)
    except FileNotFoundError:
        return Stamp(0, 0)


def _row(path: str) -> Row:
    try:
        return Row(path, storage.read_bytes(path))
    except IsADirectoryError:
        return Row(path, None, problem="folder where an image was named")
    except (FileNotFoundError, NotADirectoryError):
        return Row(path, None, problem="missing file")
    except (PermissionError, BadInput) as problem:
        return Row(path, None, problem="file that cannot be read", detail=str(problem))


def open_all(arguments: list[str]) -> list[Source]:
    """The sources that arguments mean: corpora, images, @FILE with a name a line (@- of standard input), and what `textray ingest` takes.

    Raises:
        BadInput: nothing is there, or nothing that can be read; two sources have one name. Beside others a missing image, and a file that is none, are readings
            with a problem: as a shell writes out folder/*, one of them must not stop the rest.
    """
    found = [each for argument in arguments for each in _open(argument, alone=len(arguments) == 1)]
    together = []  # images that are named one after the other are one source
    for number, (named, group) in enumerate(groupby(found, key=lambda each: isinstance(each, str))):
        together += [Pictures(tuple(group), name=f"{PICTURES}-{number}")] if named else list(group)
    _check_names(together)
    return together


def _open(argument: str, alone: bool) -> list[Source | str]:
    if not argument.strip():
        raise BadInput("expected an image, a folder, a corpus or @FILE, found an empty name: is a variable of the shell empty?")
    if argument.startswith("@") and not os.path.exists(argument):
        return _listed(argument)
    name, format, path = split_argument(argument)
    if not name and not format:
        if storage.kind(storage.join(path, MANIFEST)) == "file":
            corpus = Corpus.open(path)
            return [CorpusSource(source, corpus) for source, counts in corpus.manifest.sources.items() if counts.kept]
        if storage.kind(path) == "file" and (is_image_name(path) or _begins_as_image(path)):
            return [path]
        if not alone and (is_image_name(path) if storage.kind(path) is None else is_other_file(path)):
            return [path]
        if storage.kind(path) is None and is_image_name(path):
            raise BadInput(f"{path}: expected an image, found no such file: check the spelling")
    return open_sources([argument])


def _begins_as_image(path: str) -> bool:
    with storage.open_stream(path) as file:
        return image_format(file.read(HEAD_BYTES)) is not None


def _listed(argument: str) -> list[str]:
    """The names in a file, one a line."""
    file = argument[1:]
    try:
        data = sys.stdin.buffer.read() if file == "-" else storage.read_bytes(file)
        names = [line for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, Unavailable) as problem:
        raise BadInput(f"{argument}: expected a list of images, a name a line, found a file that cannot be read ({problem}): correct "
                       "its name") from None
    except UnicodeDecodeError:
        raise BadInput(f"{argument}: expected a list of images in UTF-8, a name a line, found something else") from None
    if not names:
        raise BadInput(f"{argument}: expected a list of images, a name a line, found none")
    return names


def _check_names(sources: list[Source]) -> None:
    places: dict[str, str] = {}
    for source in sources:
        if source.name in places:
            raise BadInput(f"expected sources with different names, found {source.name} in {places[source.name]} and in {source.path}: "
                           "predict them one after the other")
        places[source.name] = source.path
