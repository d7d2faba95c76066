"""A finished corpus, open for reading."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus import storage
from pipelines.corpus.manifest import MANIFEST, SCHEMA_VERSION, Manifest, Versioned
from pipelines.corpus.quarantine import QUARANTINE
from pipelines.corpus.shards import undamaged
from pipelines.errors import BadInput
from pipelines.state import parse_json


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
        self._footers: OrderedDict[str, pq.FileMetaData] = OrderedDict()

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Corpus":
        """Open the corpus at `path`, a folder or a URI. Raises BadInput if it is missing, unfinished, damaged or too new."""
        folder = storage.absolute(os.fspath(path)) if storage.is_remote(os.fspath(path)) else os.fspath(path)
        data = _manifest_bytes(folder)
        file, again = f"{folder}/{MANIFEST}", "this is not the manifest of a corpus; ingest the sources again"
        version = parse_json(data, Versioned, file, again).schema_version
        if version != SCHEMA_VERSION:
            raise BadInput(f"{folder}: expected a corpus of schema version {SCHEMA_VERSION}, found {version}: read it with the version of "
                           "textray that wrote it, or ingest the sources again")
        manifest = parse_json(data, Manifest, file, again)
        _check_shards(folder, manifest)
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

    def read_row_group(self, shard: str, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read row group `index` of the shard named `shard`; `columns` in the order of the schema, None for all.

        Raises BadInput for a shard that is damaged, or not the one that the manifest lists.
        """
        with undamaged(storage.join(self.path, shard)), self._parquet(shard, self._footers.get(shard)) as file:
            self._footers[shard] = file.metadata
            while len(self._footers) > self.FOOTERS_KEPT:
                self._footers.popitem(last=False)
            table = file.read_row_group(index, columns=None if columns is None else list(columns))
            for name in columns or ():  # Arrow leaves out what is not there
                table.schema.field(name)
            return table

    def _parquet(self, name: str, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
        path = storage.join(self.path, name)
        if storage.is_remote(path):  # few large requests instead of many small ones
            return pq.ParquetFile(storage.open_file(path), metadata=footer, pre_buffer=True)
        return pq.ParquetFile(path, metadata=footer)

    def rows_iter(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Every row once, as one table per row group."""
        for shard, index, _ in self.row_groups:
            yield self.read_row_group(shard, index, columns)

    def quarantine_iter(self) -> Iterator[pa.Table]:
        """The rejected rows, as tables with QUARANTINE_SCHEMA."""
        with undamaged(storage.join(self.path, QUARANTINE)), self._parquet(QUARANTINE) as file:
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
