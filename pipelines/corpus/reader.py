"""A finished corpus, open for reading."""

import hashlib
import json
import os
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.checksum import intact
from pipelines.corpus import storage
from pipelines.corpus.manifest import MANIFEST, READABLE_VERSIONS, Manifest, ShardEntry, Versioned
from pipelines.corpus.quarantine import QUARANTINE
from pipelines.corpus.shards import SCHEMA, Damaged, checked_parquet, read_footer
from pipelines.errors import BadInput
from pipelines.state import parse_json

READ_BYTES = 8 << 20


class RowGroup(NamedTuple):
    """The address of one row group."""

    shard: str
    index: int
    rows: int


class Corpus:
    """A finished corpus, open for reading.

    Holds the manifest and the footers of the last shards it read, but no open file: it can be pickled, forked, and
    used from several threads.
    """

    FOOTERS_KEPT = 64

    def __init__(self, path: str, manifest: Manifest, sha256: str):
        self.path = path
        self.manifest = manifest
        self.sha256 = sha256  # of corpus.json, which holds the hash of every shard: identifies the content
        self._entries = {shard.name: shard for shard in manifest.shards}
        self._footers: OrderedDict[str, pq.FileMetaData] = OrderedDict()

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Corpus":
        """Open the corpus at `path`, a folder or a URI. Raises BadInput if it is missing, unfinished, damaged or too new."""
        corpus = cls.listed(path)
        _check_shards(corpus.path, corpus.manifest)
        return corpus

    @classmethod
    def listed(cls, path: str | os.PathLike) -> "Corpus":
        """The corpus that the manifest at `path` lists, whether its shards are there or not. Raises BadInput as `open` does."""
        folder = storage.absolute(os.fspath(path)) if storage.is_remote(os.fspath(path)) else os.fspath(path)
        data = _manifest_bytes(folder)
        file, again = f"{folder}/{MANIFEST}", "this is not the manifest of a corpus; ingest the sources again"
        version = parse_json(data, Versioned, file, again).schema_version
        if version not in READABLE_VERSIONS:
            raise BadInput(f"{folder}: expected a corpus of schema version {READABLE_VERSIONS[0]} to {READABLE_VERSIONS[-1]}, found {version}: read it with the version of "
                           "textray that wrote it, or ingest the sources again")
        manifest = parse_json(data, Manifest, file, again)
        contradiction = manifest.disagreement() if intact(json.loads(data)) else "another checksum than its own"
        if contradiction:
            raise Damaged(f"{file}: expected what was written when the corpus was made, found {contradiction}: it was edited or damaged, copy "
                          "it again or ingest the sources again")
        return cls(folder, manifest, hashlib.sha256(data).hexdigest())

    @property
    def rows(self) -> int:
        """Number of rows in all shards."""
        return self.manifest.rows

    @property
    def row_groups(self) -> list[RowGroup]:
        """The address and size of every row group, in the order of the manifest."""
        return [RowGroup(shard.name, index, rows)
                for shard in self.manifest.shards for index, rows in enumerate(shard.row_groups)]

    def numbered_shards(self) -> list[tuple[ShardEntry, int]]:
        """Every shard with its number among those of its source: a corpus made of this one names its own by it."""
        count: Counter[str] = Counter()
        found = []
        for entry in self.manifest.shards:
            found.append((entry, count[entry.source]))
            count[entry.source] += 1
        return found

    def read_row_group(self, shard: str, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read row group `index` of the shard named `shard`; `columns` of the schema, None for all.

        Raises BadInput if the shard is not what was written: each page read, and the footer, is compared with its checksum.
        """
        entry = self._entries[shard]
        try:
            with self._parquet(entry) as file:
                table = file.read_row_group(index, columns=None if columns is None else list(columns))
        except (OSError, ValueError, LookupError, pa.ArrowException):
            self.check_shard(entry)  # else it is the disk or the network that fails, and not the file
            raise
        wanted = {name: SCHEMA.field(name) for name in (SCHEMA.names if columns is None else columns)}
        if table.num_rows != entry.row_groups[index] or {field.name: field for field in table.schema} != wanted:
            raise self._damaged(shard, f"row group {index} with {table.num_rows} rows of {', '.join(table.column_names)}")
        return table

    def check_shard(self, entry: ShardEntry) -> None:
        """Read every byte of a shard. Raises BadInput if they are not those that were written."""
        sha256, size = hashlib.sha256(), 0
        try:
            with storage.open_stream(storage.join(self.path, entry.name)) as file:
                while data := file.read(READ_BYTES):
                    sha256.update(data)
                    size += len(data)
        except FileNotFoundError:
            raise self._damaged(entry.name, "no such file") from None
        if size != entry.bytes:
            raise self._damaged(entry.name, f"{size:,} bytes instead of {entry.bytes:,}")
        if sha256.hexdigest() != entry.sha256:
            raise self._damaged(entry.name, "other bytes than were written: its sha256 differs")

    def _damaged(self, shard: str, found: str) -> Damaged:
        return Damaged(f"{self.path}: expected the shard {shard} as it was written, found {found}: copy it again from where it is whole, or "
                       f"ingest the sources again; `textray verify {self.path}` says what else is damaged")

    def footer(self, shard: str) -> pq.FileMetaData:
        """The Parquet footer of a shard. Raises BadInput if it is not what was written."""
        with storage.open_file(storage.join(self.path, shard)) as file:
            return self._footer(self._entries[shard], file)

    @contextmanager
    def _parquet(self, entry: ShardEntry) -> Iterator[pq.ParquetFile]:
        path = storage.join(self.path, entry.name)
        with storage.open_file(path) as file:
            # In a store few large requests instead of many small ones.
            yield pq.ParquetFile(file, metadata=self._footer(entry, file), pre_buffer=storage.is_remote(path), page_checksum_verification=True)

    def _footer(self, entry: ShardEntry, file: pa.NativeFile) -> pq.FileMetaData:
        footer = self._footers.get(entry.name)
        if footer is None:
            data = read_footer(file)
            if entry.footer_sha256 not in (None, hashlib.sha256(data).hexdigest()):
                raise self._damaged(entry.name, "another footer than was written")
            footer = self._footers[entry.name] = pq.read_metadata(pa.BufferReader(data))
            while len(self._footers) > self.FOOTERS_KEPT:
                self._footers.popitem(last=False)
        return footer

    def rows_iter(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Every row once, as one table per row group."""
        for shard, index, _ in self.row_groups:
            yield self.read_row_group(shard, index, columns)

    def quarantine_iter(self) -> Iterator[pa.Table]:
        """The rejected rows, as tables with QUARANTINE_SCHEMA."""
        with checked_parquet(storage.join(self.path, QUARANTINE)) as file:
            for index in range(file.num_row_groups):
                yield file.read_row_group(index)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_footers": OrderedDict()}

    def __repr__(self) -> str:
        return f"Corpus({self.path!r}, {self.rows} rows in {len(self.manifest.shards)} shards)"


def _manifest_bytes(folder: str) -> bytes:
    try:
        return storage.read_bytes(storage.join(folder, MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        found = {"folder": f"no {MANIFEST}", "file": "a file", None: "no such folder"}[storage.kind(folder)]
        raise BadInput(f"{folder}: expected a corpus (a folder with {MANIFEST}), found {found}: "
                       "make one with `textray ingest SOURCE... --out CORPUS`") from None


def _check_shards(folder: str, manifest: Manifest) -> None:
    """One folder listing instead of opening every shard."""
    sizes = storage.file_sizes(folder)
    for shard in manifest.shards:
        found = sizes.get(shard.name)
        if found != shard.bytes:
            raise BadInput(f"{folder}: expected {shard.name} with {shard.bytes} bytes, found "
                           f"{'no such file' if found is None else f'{found} bytes'}: copy the corpus again, "
                           "or ingest it again")
