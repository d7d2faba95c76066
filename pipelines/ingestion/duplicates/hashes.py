"""What is kept of each row to find its duplicates: one file of hashes for each shard, about 300 bytes a row."""

import hashlib
import os
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.corpus.shards import of_staging, undamaged
from pipelines.corpus.storage import is_remote, open_file
from pipelines.ingestion.duplicates.similarity import SIGNATURE_BYTES, Signature, signature

HASHES = pa.schema([
    pa.field("row", pa.int32(), nullable=False),  # of the shard that is being written, from 0
    pa.field("content", pa.binary(16), nullable=False),  # BLAKE2 of the encoded bytes
    pa.field("signature", pa.binary(SIGNATURE_BYTES), nullable=False),  # pipelines.ingestion.duplicates.similarity
    pa.field("width", pa.int32(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
    pa.field("label", pa.uint64(), nullable=False),  # hash of the label without case and white space; 0: unlabeled
    pa.field("blank", pa.bool_(), nullable=False),
])
GUARD_HASHES = pa.schema([*HASHES, pa.field("key", pa.string(), nullable=False)])  # key: SET:key of the benchmark image


class Hashed(NamedTuple):
    """One row before it is written: what `hash_rows` takes. Made by `hashed`."""

    image: bytes
    text: str | None
    signature: Signature


def hashed(image: bytes, text: str | None, gray: np.ndarray) -> Hashed:
    """A row with its signature. `gray` is what `decode_gray` made of the image."""
    return Hashed(image, text, signature(gray))


def hash_rows(rows: list[Hashed], first: int = 0) -> pa.Table:
    """The hashes of consecutive rows, numbered from `first`, as a table of HASHES."""
    return pa.table({
        "row": pa.array(range(first, first + len(rows)), pa.int32()),
        "content": pa.array([hashlib.blake2b(row.image, digest_size=16).digest() for row in rows], pa.binary(16)),
        "signature": pa.array([row.signature.data for row in rows], pa.binary(SIGNATURE_BYTES)),
        "width": pa.array([row.signature.width for row in rows], pa.int32()),
        "height": pa.array([row.signature.height for row in rows], pa.int32()),
        "label": pa.array([label_hash(row.text) for row in rows], pa.uint64()),
        "blank": pa.array([row.signature.blank for row in rows], pa.bool_()),
    }, schema=HASHES)


def label_hash(text: str | None) -> int:
    """64 bits of a label, the same for labels that differ in case or white space alone; 0 for no label."""
    plain = "".join((text or "").casefold().split())
    return int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=8).digest(), "little") if plain else 0


def write_hashes(path: str, table: pa.Table) -> None:
    """Write a file of hashes on this machine, uncompressed, so that it can be mapped. Never half."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with pa.OSFile(temporary, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    os.replace(temporary, path)


def read_hashes(path: str) -> pa.Table:
    """A file of hashes: mapped if it lies on this machine, read whole if not."""
    with undamaged(path, of_staging(path)):
        file = open_file(path) if is_remote(path) else pa.memory_map(path)
        return pa.ipc.open_file(file).read_all()


class Rows(NamedTuple):
    """The columns of a table of hashes as arrays, without a copy where it can be helped."""

    content: np.ndarray  # (n, 2) uint64
    signature: np.ndarray  # (n, 256) int8
    sizes: np.ndarray  # (n, 2) int32: width, height
    label: np.ndarray
    blank: np.ndarray


def as_rows(table: pa.Table) -> Rows:
    """A table of HASHES as arrays."""
    table = table.combine_chunks()

    def fixed(name: str, dtype: type, width: int) -> np.ndarray:
        if not len(table):
            return np.zeros((0, width), dtype)
        chunk = table[name].chunk(0)
        flat = np.frombuffer(chunk.buffers()[1], dtype).reshape(-1, width)
        return flat[chunk.offset:chunk.offset + len(chunk)]

    sizes = np.stack([table["width"].to_numpy(), table["height"].to_numpy()], 1)
    return Rows(fixed("content", np.uint64, 2), fixed("signature", np.int8, SIGNATURE_BYTES), sizes,
                table["label"].to_numpy(), table["blank"].to_numpy())
