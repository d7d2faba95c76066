"""One chunk of a source becomes one shard: what a single task of ingest does."""

import errno
import os
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from pipelines.corpus import storage
from pipelines.corpus.images import hash_thumbnail, image_problem, perceptual_hashes
from pipelines.corpus.manifest import ShardEntry, SourceCounts
from pipelines.corpus.pictures import decode_gray
from pipelines.corpus.quarantine import QUARANTINE_SCHEMA, Rejected, rejected_table
from pipelines.corpus.shards import ROWS_PER_GROUP, ShardWriter, shard_name
from pipelines.errors import BadInput
from pipelines.ingestion.duplicates.hashes import Hashed, hash_rows, hashed, write_hashes
from pipelines.ingestion.sources.row import Piece, Row, Source

NO_LABEL = "no label"  # why a row is filtered where only labeled ones are wanted


@dataclass(frozen=True)
class Options:
    """What is kept, and how it is cut."""

    min_side: int = 4  # pixels; images whose smaller side is below are filtered
    max_aspect: float = 40.0  # width / height or its inverse; longer images are filtered
    min_contrast: int = 8  # lightest minus darkest grey value (0 to 255); blank images, which are below, are filtered
    duplicates: str = "keep"  # "exact": rows with the bytes of an earlier row go; "near": also those that show the same picture
    guarded: bool = False  # whether rows that a benchmark holds go
    unicode: str = "NFC"  # the normal form that labels are brought to (Unicode annex 15), or "as is"
    max_length: int = 0  # characters; longer labels are filtered; 0: no limit
    only: str | None = None  # "labeled" or "unlabeled": the other rows are filtered
    rows_per_shard: int = 100_000
    rows_per_group: int = ROWS_PER_GROUP

    @property
    def hashed(self) -> bool:
        """Whether duplicates are looked for, of rows or of benchmark images."""
        return self.duplicates != "keep" or self.guarded


@dataclass(frozen=True)
class Chunk:
    """A piece of a source, which becomes shard number `index` of that source."""

    source: str
    index: int
    piece: Piece

    @property
    def shard(self) -> str:
        """The shard's file name: a function of the input, not of the order of work."""
        return shard_name(self.source, self.index)


class ChunkResult(BaseModel):
    """What became of a chunk. Written to a file when the shard is whole, so that it is not done twice."""

    source: str
    index: int
    counts: SourceCounts
    shard: ShardEntry | None  # None if no row was kept
    rejected: list[str]  # names of the files of rejected rows
    examples: list[str]  # the first quarantined rows in words


class Kept(NamedTuple):
    """A row that gets in, before its hash is known."""

    row: Row
    width: int
    height: int
    thumbnail: np.ndarray  # (32, 32) uint8
    hashed: Hashed | None  # where duplicates are looked for


def plan_chunks(sources: list[Source], rows_per_shard: int) -> Iterator[Chunk]:
    """Cut the sources into chunks of about `rows_per_shard` rows."""
    for source in sources:
        for index, piece in enumerate(source.pieces(rows_per_shard)):
            yield Chunk(source.name, index, piece)


def write_chunk(chunk: Chunk, folder: str, done: str, options: Options) -> ChunkResult:
    """Write a chunk's shard into `folder`, and its rejected rows and its result into the folder `done`.

    Memory holds one row group. Raises BadInput if the source changed while it was read, or the disk is full.
    """
    with room_for(os.path.join(folder, chunk.shard)):
        return _write_chunk(chunk, folder, done, options)


@contextmanager
def room_for(path: str) -> Iterator[None]:
    """Turns a full disk, met while `path` is written, into BadInput."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInput(f"{path}: expected room to write it, found the disk full: "
                       "free some space and run the same command again, which continues") from problem


def _write_chunk(chunk: Chunk, folder: str, done: str, options: Options) -> ChunkResult:
    counts, kept, hashes = SourceCounts(), [], []
    with ShardWriter(folder, chunk.source, chunk.index, options.rows_per_group) as writer, \
            RejectedWriter(storage.join(done, f"{chunk.shard}.rejected")) as rejected:
        for row in chunk.piece.read():
            counts.rows_in += 1
            outcome = inspect(row, chunk.source, options)
            if isinstance(outcome, Rejected):
                rejected.write(outcome)
                counts.reject(outcome.kind, outcome.reason)
                continue
            kept.append(outcome)
            if len(kept) == options.rows_per_group:
                _write_group(writer, kept, counts, hashes)
                kept = []
        _write_group(writer, kept, counts, hashes)
    if chunk.piece.rows not in (None, counts.rows_in):
        raise BadInput(f"source {chunk.source}: expected {chunk.piece.rows} rows in its piece {chunk.index}, found "
                       f"{counts.rows_in}: the source changed while it was read, run again when it is complete")
    result = ChunkResult(source=chunk.source, index=chunk.index, counts=counts, shard=writer.entry if counts.kept else None,
                         rejected=rejected.files, examples=rejected.examples)
    if not counts.kept:
        storage.remove(storage.join(folder, chunk.shard))
    elif options.hashed:
        with storage.written(storage.join(done, f"{chunk.shard}.hashes")) as temporary:
            write_hashes(temporary, pa.concat_tables(hashes))
    storage.write_bytes(storage.join(done, f"{chunk.shard}.json"), result.model_dump_json(by_alias=True).encode())
    return result


class RejectedWriter:
    """Writes the rejected rows of one shard to the file `path`, which exists only if there are any. Holds few of them in memory."""

    ROWS, BYTES, EXAMPLES = 1000, 32 << 20, 3

    def __init__(self, path: str):
        self.files: list[str] = []  # the file's name, once it is written
        self.examples: list[str] = []  # the first quarantined rows in words
        self._path, self._waiting, self._bytes = path, [], 0
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "RejectedWriter":
        return self

    def write(self, row: Rejected) -> None:
        """Append one row."""
        self._waiting.append(row)
        self._bytes += len(row.image or b"")
        if row.kind == "quarantined" and len(self.examples) < self.EXAMPLES:
            self.examples.append(f"{row.key}: {row.reason}")
        if len(self._waiting) == self.ROWS or self._bytes > self.BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            temporary = self._stack.enter_context(storage.written(self._path))
            self._writer = self._stack.enter_context(pq.ParquetWriter(temporary, QUARANTINE_SCHEMA, write_page_checksum=True))
        self._writer.write_table(rejected_table(self._waiting))
        self._waiting, self._bytes = [], 0

    def __exit__(self, kind, value, traceback) -> None:
        if kind is not None:
            self._stack.__exit__(kind, value, traceback)
            return
        with self._stack:  # a full disk leaves nothing half-written
            if self._waiting:
                self._flush()
        if self._writer is not None:
            self.files = [os.path.basename(self._path)]


def inspect(row: Row, source: str, options: Options) -> Kept | Rejected:
    """Decode one row's image and decide whether it gets in."""
    if row.problem is not None:
        return Rejected(row.key, source, "filtered" if row.filtered else "quarantined", row.problem, row.detail, row.text,
                        row.image)
    if options.only is not None and (options.only == "labeled") == (row.text is None):  # without its image, of which there may be millions
        return Rejected(row.key, source, "filtered", NO_LABEL if row.text is None else "a label", "", row.text, None)
    gray = decode_gray(row.image)
    problem = image_problem(row.image, gray)
    if problem is not None:
        return Rejected(row.key, source, "quarantined", problem, f"{len(row.image)} bytes from {row.image[:8].hex()}",
                        row.text, row.image)
    if row.text is not None and options.unicode != "as is":
        row = row._replace(text=unicodedata.normalize(options.unicode, row.text))
    unwanted = filter_reason(gray, row.text, options)
    if unwanted is not None:
        return Rejected(row.key, source, "filtered", *unwanted, row.text, row.image)
    return Kept(row, gray.shape[1], gray.shape[0], hash_thumbnail(gray), hashed(row.image, row.text, gray) if options.hashed else None)


def filter_reason(gray: np.ndarray, text: str | None, options: Options) -> tuple[str, str] | None:
    """Why the options leave out a usable image, as a fixed phrase and what was found; None if they do not.

    gray is (height, width) uint8.
    """
    height, width = gray.shape
    if min(width, height) < options.min_side:
        return f"side below {options.min_side} px", f"{width} x {height}"
    if max(width, height) > options.max_aspect * min(width, height):
        return f"longer than {options.max_aspect:g} : 1", f"{width} x {height}"
    if options.min_contrast:
        darkest, lightest, _, _ = cv2.minMaxLoc(gray)
        contrast = int(lightest - darkest)
        if contrast < options.min_contrast:
            return "blank image", f"grey values differ by {contrast}"
    if options.max_length and text is not None and len(text) > options.max_length:
        return f"text longer than {options.max_length}", f"{len(text)} characters"
    return None


def _write_group(writer: ShardWriter, kept: list[Kept], counts: SourceCounts, tables: list[pa.Table]) -> None:
    if not kept:
        return
    if kept[0].hashed is not None:
        tables.append(hash_rows([item.hashed for item in kept], counts.kept))
    hashes = perceptual_hashes(np.stack([item.thumbnail for item in kept]))
    for item, phash in zip(kept, hashes.tolist(), strict=True):
        writer.write(key=item.row.key, image=item.row.image, text=item.row.text, width=item.width, height=item.height,
                     phash=phash)
        counts.labeled += item.row.text is not None
    counts.kept += len(kept)
