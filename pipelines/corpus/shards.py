"""The shards: Parquet files with the images as they came, written whole or not at all."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus import storage
from pipelines.corpus.manifest import ShardEntry
from pipelines.errors import BadInput

ROWS_PER_GROUP = 1000

SCHEMA = pa.schema([
    pa.field("key", pa.string(), nullable=False),  # stable and unique in the corpus: SOURCE/000000001 or SOURCE/path
    pa.field("image", pa.binary(), nullable=False),  # the original encoded bytes
    pa.field("text", pa.string()),  # null: unlabeled
    pa.field("source", pa.string(), nullable=False),
    pa.field("width", pa.int32(), nullable=False),  # pixels, as decoded (after EXIF orientation)
    pa.field("height", pa.int32(), nullable=False),
    pa.field("phash", pa.uint64(), nullable=False),  # pipelines.corpus.images.perceptual_hash
    pa.field("confidence", pa.float32()),  # of a pseudo-label
    pa.field("labeler", pa.string()),  # the model that wrote a pseudo-label
])

# Encoded images do not compress, and statistics on them would store whole images in the footer. A page's checksum is looked at when
# the page is read: a flipped bit in an image that does not compress would change a picture, and nothing else.
PARQUET_OPTIONS = dict(
    compression={name: "NONE" if name in ("image", "phash") else "ZSTD" for name in SCHEMA.names},
    use_dictionary=["source", "labeler"],
    write_statistics=[name for name in SCHEMA.names if name != "image"],
    write_page_checksum=True,
)
COPY_AGAIN = "copy the corpus again, or ingest it again"
TAIL = 1 << 16  # bytes; most footers are shorter


class Damaged(BadInput):
    """What lies there is not what was written."""


@contextmanager
def undamaged(path: str, remedy: str = COPY_AGAIN) -> Iterator[None]:
    """Turns what a damaged Parquet or Arrow file at `path` does to its reader into BadInput; what a disk or a store does passes."""
    try:
        yield
    except (pa.ArrowException, ValueError, LookupError) as problem:
        reason = str(problem)
    except OSError as problem:  # so Arrow reports a torn footer or page, too, without the number of an error
        reason = str(problem)
        if problem.errno is not None or not re.search("parquet|thrift|page|compress|end of stream", reason, re.IGNORECASE):
            raise
    else:
        return
    raise Damaged(f"{path}: expected it whole, found it damaged ({(reason.splitlines() or ['unreadable'])[0][:200]}): {remedy}")


def of_staging(path: str) -> str:
    """The remedy for a damaged file of an unfinished corpus."""
    return f"remove the folder {path.partition('.partial/')[0]}.partial and run the same command again"


def shard_name(source: str, index: int) -> str:
    """The file name of a source's shard. Different sources give different names, whatever characters they hold."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", source)[:80]
    if safe != source:
        safe += "-" + hashlib.sha256(source.encode()).hexdigest()[:8]
    return f"part-{safe}-{index:05d}.parquet"


def read_footer(file: pa.NativeFile) -> bytes:
    """A Parquet file's footer with the length and the magic number behind it: what its sha256 in the manifest is of, and a file of its own.

    Where the length is damaged, so is what comes back.
    """
    size = file.size()
    tail = file.read_at(min(size, TAIL), max(size - TAIL, 0))
    length = min(int.from_bytes(tail[-8:-4], "little") + 8, size)
    return tail[-length:] if length <= len(tail) else file.read_at(length, size - length)


@contextmanager
def checked_parquet(path: str, remedy: str = COPY_AGAIN) -> Iterator[pq.ParquetFile]:
    """A Parquet file of ours whose sha256 stands nowhere, open for reading: each page is compared with its checksum.

    Raises BadInput if the file is damaged, FileNotFoundError if there is none.
    """
    with undamaged(path, remedy), storage.open_file(path) as file:
        yield pq.ParquetFile(file, page_checksum_verification=True)


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
        self._temporary = self._written.__enter__()
        self._file = _HashingFile(self._temporary)
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
            if kind is None:
                with pa.OSFile(self._temporary) as file:
                    footer = hashlib.sha256(read_footer(file)).hexdigest()
        except BaseException as problem:
            self._written.__exit__(type(problem), problem, problem.__traceback__)
            raise
        self._written.__exit__(kind, value, traceback)
        if kind is None:
            self.entry = ShardEntry(name=self.name, source=self.source, rows=sum(self._row_groups), bytes=self._file.size,
                                    sha256=self._file.sha256.hexdigest(), row_groups=self._row_groups, footer_sha256=footer)
