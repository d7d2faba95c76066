"""`quarantine.parquet`: every row that did not get in, with the reason, its text and its picture."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus import storage

QUARANTINE = "quarantine.parquet"

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


def write_quarantine(folder: str | os.PathLike, tables: Iterable[pa.Table] = ()) -> None:
    """Write quarantine.parquet from tables with QUARANTINE_SCHEMA, one at a time; an empty file when there are none."""
    compression = {name: "NONE" if name == "image" else "ZSTD" for name in QUARANTINE_SCHEMA.names}
    with storage.written(storage.join(os.fspath(folder), QUARANTINE)) as temporary:
        with pq.ParquetWriter(temporary, QUARANTINE_SCHEMA, compression=compression, write_page_checksum=True) as writer:
            for table in tables:
                if table.num_rows:
                    writer.write_table(table)
