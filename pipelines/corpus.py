"""The one storage format: a folder of Parquet shards with a manifest, `corpus.json`, that is written last.

    corpus.json            what the corpus holds and how it was made; a folder without it is not (yet) a corpus
    part-SOURCE-00000.parquet ...   the images, in row groups of about 1000 rows
    quarantine.parquet     every row that was rejected, with its reason

A row group is the unit of shuffling and of resumption. Their sizes stand in the manifest, so opening a corpus of
thousands of shards reads one JSON file and one folder listing, and nothing here is proportional to the images.
"""

import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines import storage
from pipelines.errors import BadInput

SCHEMA_VERSION = 2
MANIFEST = "corpus.json"
QUARANTINE = "quarantine.parquet"
ROWS_PER_GROUP = 1000

SCHEMA = pa.schema([
    pa.field("key", pa.string(), nullable=False),  # stable and unique in the corpus: SOURCE/000000001 or SOURCE/path
    pa.field("image", pa.binary(), nullable=False),  # the original encoded bytes
    pa.field("text", pa.string()),  # null: unlabeled
    pa.field("source", pa.string(), nullable=False),
    pa.field("width", pa.int32(), nullable=False),  # pixels, as decoded (after EXIF orientation)
    pa.field("height", pa.int32(), nullable=False),
    pa.field("phash", pa.uint64(), nullable=False),  # pipelines.images.perceptual_hash
    pa.field("confidence", pa.float32()),  # of a pseudo-label
    pa.field("labeler", pa.string()),  # the model that wrote a pseudo-label
])

QUARANTINE_SCHEMA = pa.schema([
    pa.field("key", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("kind", pa.string(), nullable=False),  # one of KINDS
    pa.field("reason", pa.string(), nullable=False),  # a short fixed phrase, counted in the manifest
    pa.field("detail", pa.string(), nullable=False),  # what was found in this row
    pa.field("text", pa.string()),
    pa.field("image", pa.binary()),  # the encoded bytes, where there are any: nothing is lost
    pa.field("match", pa.string()),  # of a duplicate: the key of the image that stays; of a guarded one: the benchmark's key
])
# "quarantined": unusable; "filtered": usable, but not asked for, or too near to a benchmark; "duplicate": there already
KINDS = ("quarantined", "filtered", "duplicate")

# Encoded images do not compress, and statistics on them would store whole images in the footer.
PARQUET_OPTIONS = dict(
    compression={name: "NONE" if name in ("image", "phash") else "ZSTD" for name in SCHEMA.names},
    use_dictionary=["source", "labeler"],
    write_statistics=[name for name in SCHEMA.names if name != "image"],
)


class SourceCounts(BaseModel):
    """What became of one source's rows: rows_in = kept + duplicates + quarantined + filtered; reasons count the last three."""

    model_config = ConfigDict(populate_by_name=True, extra="forbid")

    rows_in: int = Field(0, alias="in")
    kept: int = 0
    duplicates: int = 0
    quarantined: int = 0
    filtered: int = 0
    labeled: int = 0  # of the kept rows
    reasons: dict[str, int] = {}

    def add(self, other: "SourceCounts") -> None:
        """Add another count of the same source to this one."""
        for name in ("rows_in", "kept", "duplicates", "quarantined", "filtered", "labeled"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count

    def reject(self, kind: str, reason: str, rows: int = 1) -> None:
        """Count rows that did not get in; `kind` is one of KINDS."""
        name = "duplicates" if kind == "duplicate" else kind
        setattr(self, name, getattr(self, name) + rows)
        self.reasons[reason] = self.reasons.get(reason, 0) + rows

    def balanced(self) -> bool:
        """Whether every row that came in is accounted for."""
        rejected = self.duplicates + self.quarantined + self.filtered
        return self.rows_in == self.kept + rejected and sum(self.reasons.values()) == rejected


class ShardEntry(BaseModel):
    """One shard, as the manifest lists it."""

    model_config = ConfigDict(extra="forbid")

    name: str  # file name inside the corpus
    source: str
    rows: int
    bytes: int
    sha256: str
    row_groups: list[int]  # rows in each row group


class Manifest(BaseModel):
    """The content of corpus.json."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    rows: int
    sources: dict[str, SourceCounts]
    shards: list[ShardEntry]
    made_by: dict[str, Any]  # command and options; no times and no host names, so that two runs give the same bytes


class RowGroup(NamedTuple):
    """The address of one row group."""

    shard: str
    index: int
    rows: int


@dataclass(frozen=True)
class Rejected:
    """A row that did not get in; the fields are those of QUARANTINE_SCHEMA."""

    key: str
    source: str
    kind: str
    reason: str
    detail: str = ""
    text: str | None = None
    image: bytes | None = None
    match: str | None = None


def rejected_table(rejected: Sequence[Rejected]) -> pa.Table:
    """Rejected rows as a table with QUARANTINE_SCHEMA."""
    columns = {name: [getattr(row, name) for row in rejected] for name in QUARANTINE_SCHEMA.names}
    return pa.table(columns, schema=QUARANTINE_SCHEMA)


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
        try:
            manifest = Manifest.model_validate_json(data)
        except ValidationError as problem:
            first = problem.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadInput(f"{folder}/{MANIFEST}: expected a corpus manifest, found {first['msg']} "
                           f"at {where or 'the top'}: ingest the sources again") from problem
        if manifest.schema_version != SCHEMA_VERSION:
            raise BadInput(f"{folder}: expected a corpus of schema version {SCHEMA_VERSION}, "
                           f"found {manifest.schema_version}: read it with the version of textray that wrote it, "
                           "or ingest the sources again")
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
        """Read row group `index` of the shard named `shard`; `columns` in the order of the schema, None for all."""
        with self._parquet(shard, self._footers.get(shard)) as file:
            self._footers[shard] = file.metadata
            while len(self._footers) > self.FOOTERS_KEPT:
                self._footers.popitem(last=False)
            return file.read_row_group(index, columns=None if columns is None else list(columns))

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
        with self._parquet(QUARANTINE) as file:
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


def shard_name(source: str, index: int) -> str:
    """The file name of a source's shard. Different sources give different names, whatever characters they hold."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", source)[:80]
    if safe != source:
        safe += "-" + hashlib.sha256(source.encode()).hexdigest()[:8]
    return f"part-{safe}-{index:05d}.parquet"


class _HashingFile:
    """A local file that is written once, front to back, and hashed on the way."""

    def __init__(self, path: str):
        self._file = open(path, "wb")
        self.sha256 = hashlib.sha256()
        self.size = 0

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: bytes) -> int:
        if self._file.closed:  # after `close` nothing counts: a ParquetWriter that was given up still writes its footer
            return len(data)
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def sync(self) -> None:
        """Bring the bytes to the disk, so that after a power cut the renamed file is whole."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class ShardWriter:
    """Writes one shard, under a temporary name until it is whole.

        with ShardWriter(folder, source="SVT", index=0) as writer:
            writer.write(key="SVT/000000001", image=data, text="LIVING", width=96, height=32, phash=17)
        entry = writer.entry

    Holds one row group in memory. An exception inside the block leaves no file behind; a killed process leaves only
    a name ending in `.tmp`.
    """

    def __init__(self, folder: str | os.PathLike, source: str, index: int, rows_per_group: int = ROWS_PER_GROUP):
        self.source = source
        self.name = shard_name(source, index)
        self.entry: ShardEntry | None = None  # set when the block ends
        self._written = storage.written(storage.join(os.fspath(folder), self.name))
        self._rows_per_group = rows_per_group
        self._row_groups: list[int] = []
        self._columns: dict[str, list] = {name: [] for name in SCHEMA.names}

    def __enter__(self) -> "ShardWriter":
        self._file = _HashingFile(self._written.__enter__())
        self._parquet = pq.ParquetWriter(pa.PythonFile(self._file, mode="w"), SCHEMA, **PARQUET_OPTIONS)
        return self

    def write(self, *, key: str, image: bytes, text: str | None, width: int, height: int, phash: int,
              confidence: float | None = None, labeler: str | None = None) -> None:
        """Append one row; `image` is the encoded file, `width` and `height` are pixels."""
        row = (key, image, text, self.source, width, height, phash, confidence, labeler)
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
        if len(self._columns["key"]) == self._rows_per_group:
            self._flush()

    def _flush(self) -> None:
        rows = len(self._columns["key"])
        if rows:
            self._parquet.write_table(pa.table(self._columns, schema=SCHEMA), row_group_size=rows)
            self._row_groups.append(rows)
            self._columns = {name: [] for name in SCHEMA.names}

    def __exit__(self, kind, value, traceback) -> None:
        try:
            if kind is None:
                self._flush()
                self._parquet.close()
                self._file.sync()
            self._file.close()  # on a full disk this fails too
        except BaseException as problem:
            self._written.__exit__(type(problem), problem, problem.__traceback__)
            raise
        self._written.__exit__(kind, value, traceback)
        if kind is None:
            self.entry = ShardEntry(name=self.name, source=self.source, rows=sum(self._row_groups), bytes=self._file.size,
                                    sha256=self._file.sha256.hexdigest(), row_groups=self._row_groups)


def write_quarantine(folder: str | os.PathLike, tables: Iterable[pa.Table] = ()) -> None:
    """Write quarantine.parquet from tables with QUARANTINE_SCHEMA, one at a time; an empty file when there are none."""
    compression = {name: "NONE" if name == "image" else "ZSTD" for name in QUARANTINE_SCHEMA.names}
    with storage.written(storage.join(os.fspath(folder), QUARANTINE)) as temporary:
        with pq.ParquetWriter(temporary, QUARANTINE_SCHEMA, compression=compression) as writer:
            for table in tables:
                if table.num_rows:
                    writer.write_table(table)


def write_manifest(folder: str | os.PathLike, shards: Sequence[ShardEntry], sources: dict[str, SourceCounts],
                   made_by: dict[str, Any]) -> Manifest:
    """Write corpus.json: the last step, which turns a folder of shards into a corpus.

    Shards are listed in the order of their names, whatever order they were finished in. Raises ValueError if the
    counts do not add up to the shards.
    """
    ordered = sorted(shards, key=lambda shard: shard.name)
    for name, counts in sources.items():
        written = sum(shard.rows for shard in ordered if shard.source == name)
        if not counts.balanced() or counts.kept != written:
            raise ValueError(f"source {name}: expected in = kept + duplicates + quarantined + filtered with {written} rows kept, "
                             f"found {counts}")
    manifest = Manifest(rows=sum(shard.rows for shard in ordered), sources=sources, shards=ordered, made_by=made_by)
    text = manifest.model_dump_json(by_alias=True, indent=1)
    storage.write_bytes(storage.join(os.fspath(folder), MANIFEST), (text + "\n").encode())
    return manifest
