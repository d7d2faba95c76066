"""Which rows of many shards are there already: exact duplicates, near duplicates, and rows that a benchmark holds.

Each shard has a file of hashes (hashes.py); `find` reads these files, never the images. Ray Data brings the entries
with one band key together; only these are compared, and only their signatures are then looked up in the files, which are
mapped into memory, not read.

The order of rows is: guards, then the files in the order of their sources, by index, by row. A row is dropped if and only if
an earlier row was found to match it, so the result does not depend on the order of work.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.cluster import start_ray
from pipelines.corpus.storage import is_remote
from pipelines.ingestion.duplicates.hashes import GUARD_HASHES, Rows, as_rows, read_hashes
from pipelines.ingestion.duplicates.matches import EDGE, NEAR, PAIR, candidates, components, earliest, same_bytes, to_kept, verify
from pipelines.ingestion.duplicates.similarity import SIGNATURE_BYTES, band_keys, sketches

if TYPE_CHECKING:  # for more rows than one process compares
    import ray.data
    from ray.data.grouped_data import GroupedData

RESULT = pa.schema([
    pa.field("source", pa.string(), nullable=False),
    pa.field("index", pa.int32(), nullable=False),
    pa.field("row", pa.int32(), nullable=False),
    pa.field("reason", pa.string(), nullable=False),  # one of REASONS
    pa.field("match_source", pa.string()),  # the row that stays; null for a benchmark image
    pa.field("match_index", pa.int32()),
    pa.field("match_row", pa.int32()),
    pa.field("match_key", pa.string()),  # of the benchmark image
    pa.field("similarity", pa.float32(), nullable=False),  # to the row that was found first, 1 for the same bytes
])
REASONS = ("exact duplicate", "near duplicate", "benchmark image", "near a benchmark image")

EXACT_ENTRY = np.dtype([("key", "<u8"), ("more", "<u8"), ("id", "<i8")])
NEAR_ENTRY = np.dtype([("key", "<u8"), ("id", "<i8"), ("sketch", "<u8"), ("label", "<u8"), ("aspect", "<f4")])
KEYS_PER_ROW = 29  # measured: 3 tables, 8 probes, 1.2 cells of the aspect ratio
PARTITION_BYTES = 128 * 2**20  # of entries that one task compares
ROWS_AT_ONCE = 20_000
ROW_BITS = 32
BLOCK_BITS = 14  # candidates of so many neighbouring rows are decided in one task


EntriesOf = Callable[[Rows, slice, np.ndarray], np.ndarray]  # rows, which of them, their numbers -> entries


@dataclass(frozen=True)
class HashFile:
    """The hashes of shard `index` of a source."""

    source: str
    index: int
    path: str


def open_rows(path: str) -> Rows:
    """The rows of a file of hashes, mapped. The last ones stay open; one that was written anew is opened again."""
    status = None if is_remote(path) else os.stat(path)
    return _open_rows(path, status and (status.st_ino, status.st_mtime_ns))


@lru_cache(maxsize=64)
def _open_rows(path: str, version: tuple[int, int] | None) -> Rows:
    return as_rows(read_hashes(path))


class Shelf:
    """Where a row's signature is looked up by its number. Small to send to a task."""

    def __init__(self, paths: list[str], guards: "Rows | ray.ObjectRef"):
        self.paths, self.guards = paths, guards

    def guard_rows(self) -> Rows:
        """The guards; in a task they come from Ray's shared memory."""
        if isinstance(self.guards, Rows):
            return self.guards
        import ray
        return ray.get(self.guards)

    def look_up(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signatures (n, 256) int8 and sizes (n, 2) of rows; guard g of G has the number g - G."""
        found, sizes = np.empty((len(ids), SIGNATURE_BYTES), np.int8), np.empty((len(ids), 2), np.int32)
        files = np.where(ids < 0, -1, ids >> ROW_BITS)
        order = np.argsort(files, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(files[order]) != 0]) if len(ids) else []
        for these in np.split(order, starts[1:]) if len(ids) else []:
            file = files[these[0]]
            rows = self.guard_rows() if file < 0 else open_rows(self.paths[file])
            numbers = ids[these] + len(rows.label) if file < 0 else ids[these] & (2**ROW_BITS - 1)
            found[these], sizes[these] = rows.signature[numbers], rows.sizes[numbers]
        return found, sizes

    def entries(self, file: int, entries_of: EntriesOf) -> Iterator[np.ndarray]:
        """The entries of one file (-1: of the guards), some rows at a time."""
        rows = self.guard_rows() if file < 0 else open_rows(self.paths[file])
        total = len(rows.label)
        first = -total if file < 0 else file << ROW_BITS
        for start in range(0, max(total, 1), ROWS_AT_ONCE):
            stop = min(total, start + ROWS_AT_ONCE)
            yield entries_of(rows, slice(start, stop), first + np.arange(start, stop))

    def all_entries(self, entries_of: EntriesOf, dtype: np.dtype) -> np.ndarray:
        """The entries of the guards and of all files: for few rows."""
        files = range(-1, len(self.paths))
        return np.concatenate([np.zeros(0, dtype), *(found for file in files for found in self.entries(file, entries_of))])


def find(files: list[HashFile], guards: list[pa.Table] = (), *, exact: bool = True, near: bool = True,
         partitions: int | None = None) -> Iterator[pa.Table]:
    """The rows to drop, as tables of RESULT: one for each file that has any, in the order of rows.

    `files` lie where every task can read them; sources come in the order of their first file. Guards are tables of
    GUARD_HASHES. Without `exact` or `near` rows are not compared with each other that way, with guards always in both.
    Up to about 128,000 rows this process does it all; more are shuffled by Ray in `partitions` (by default of 128 MB each).
    Memory: a few times that in each task, and 21 bytes for each match found, here.
    """
    order = {source: place for place, source in enumerate(dict.fromkeys(file.source for file in files))}
    files = sorted(files, key=lambda file: (order[file.source], file.index))
    guard = pa.concat_tables(guards) if guards else GUARD_HASHES.empty_table()
    if not files or not (exact or near or len(guard)):
        return
    yield from _tables(to_kept(earliest(_edges_of(files, guard, exact, near, partitions))), files, guard["key"].to_pylist())


def together(files: list[HashFile], *, near: bool = True, partitions: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The rows that have duplicates, and the first of the rows with which each belongs together, both (n, 2) int64: place in `files`, row.

    Unlike in `find`, rows belong together that a chain of matches joins, however unlike its ends are: cut apart, some match would be cut.
    """
    edges = _edges_of(files, GUARD_HASHES.empty_table(), True, near, partitions)
    rows, first = components(edges["id"], edges["match"])
    return tuple(np.stack([ids >> ROW_BITS, ids & (2**ROW_BITS - 1)], 1) for ids in (rows, first))


def _edges_of(files: list[HashFile], guard: pa.Table, exact: bool, near: bool, partitions: int | None) -> np.ndarray:
    """All matches, as EDGE."""
    rows = len(guard) + sum(read_hashes(file.path).num_rows for file in files)
    work = Work(Shelf([file.path for file in files], as_rows(guard)), rows, partitions)
    edges = [np.zeros(0, EDGE)]
    if exact or len(guard):
        edges += work.exact(exact)
    if near or len(guard):
        edges += work.near(near)
    return np.concatenate(edges)


class Work(NamedTuple):
    """The two searches, as Ray Data runs them. Not `among` rows: with guards alone."""

    shelf: Shelf
    rows: int
    partitions: int | None  # None: as many as the memory of a task wants

    def exact(self, among: bool) -> Iterator[np.ndarray]:
        """Matches of the same bytes, in arrays of EDGE."""
        partitions = self.partitions or 1 + self.rows * EXACT_ENTRY.itemsize // PARTITION_BYTES
        if partitions == 1:
            yield same_bytes(self.shelf.all_entries(exact_entries, EXACT_ENTRY), among)
            return

        def match(group: pa.Table) -> pa.Table:
            return _alone(same_bytes(_unpacked(group, EXACT_ENTRY), among))

        yield from _edges(self._shuffled(exact_entries, partitions).map_groups(match, batch_format="pyarrow"))

    def near(self, among: bool) -> Iterator[np.ndarray]:
        """Matches of likeness, in arrays of EDGE: one shuffle brings keys together, one the candidates of each row."""
        partitions = self.partitions or 1 + self.rows * KEYS_PER_ROW * NEAR_ENTRY.itemsize // PARTITION_BYTES
        if partitions == 1:
            yield verify(candidates(self.shelf.all_entries(near_entries, NEAR_ENTRY), among), self.shelf.look_up)
            return

        def propose(group: pa.Table) -> pa.Table:
            pairs = candidates(_unpacked(group, NEAR_ENTRY), among)
            return _packed(pairs, _scattered(pairs["later"] >> BLOCK_BITS, partitions), partitions)

        def decide(group: pa.Table) -> pa.Table:
            return _alone(verify(_unpacked(group, PAIR), shelf.look_up))

        entries = self._shuffled(near_entries, partitions)
        shelf = self._shared()
        grouped = entries.map_groups(propose, batch_format="pyarrow").groupby("partition", num_partitions=partitions)
        yield from _edges(grouped.map_groups(decide, batch_format="pyarrow"))

    def _shared(self) -> Shelf:
        """The shelf for tasks."""
        start_ray()
        import ray
        return Shelf(self.shelf.paths, ray.put(self.shelf.guards))

    def _shuffled(self, entries_of: EntriesOf, partitions: int) -> "GroupedData":
        shelf = self._shared()
        import ray.data

        def read(batch: pa.Table) -> Iterator[pa.Table]:
            for file in batch["file"].to_pylist():
                for found in shelf.entries(file, entries_of):
                    yield _packed(found, _scattered(found["key"], partitions), partitions)

        numbers = [{"file": file} for file in range(-1, len(shelf.paths))]
        items = ray.data.from_items(numbers, override_num_blocks=len(numbers))
        packed = items.map_batches(read, batch_format="pyarrow", batch_size=1)
        return packed.groupby("partition", num_partitions=partitions)


def _scattered(keys: np.ndarray, partitions: int) -> np.ndarray:
    """The partition of each key. Multiplied by an odd number neighbours part; the upper bits are the well mixed ones."""
    return ((keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) % np.uint64(partitions)


def _packed(records: np.ndarray, where: np.ndarray, partitions: int) -> pa.Table:
    """Records as one row of bytes for each partition that has any: a shuffle of few long rows is quick.

    Without any there is an empty one: Ray's shuffle does not take blocks without rows.
    """
    order = np.argsort(where, kind="stable")
    bounds = np.searchsorted(where[order], np.arange(partitions + 1))
    chosen = [number for number in range(partitions) if bounds[number] < bounds[number + 1]] or [0]
    parts = [records[order[bounds[number]:bounds[number + 1]]] for number in chosen]
    return pa.table({"partition": pa.array(chosen, pa.int32()),
                     "records": pa.array([part.tobytes() for part in parts], pa.large_binary())})


def _alone(records: np.ndarray) -> pa.Table:
    return _packed(records, np.zeros(len(records), np.uint64), 1)


def _unpacked(group: pa.Table, dtype: np.dtype) -> np.ndarray:
    return np.concatenate([np.frombuffer(records.as_buffer(), dtype) for records in group["records"]])


def _edges(found: "ray.data.Dataset") -> Iterator[np.ndarray]:
    for row in found.iter_rows():
        yield np.frombuffer(row["records"], EDGE)


def exact_entries(rows: Rows, part: slice, ids: np.ndarray) -> np.ndarray:
    """What the search for equal bytes compares: an EXACT_ENTRY for each row of `part`, (n,)."""
    entries = np.empty(len(ids), EXACT_ENTRY)
    entries["key"], entries["more"], entries["id"] = rows.content[part, 0], rows.content[part, 1], ids
    return entries


def near_entries(rows: Rows, part: slice, ids: np.ndarray) -> np.ndarray:
    """What the search for like pictures compares: a NEAR_ENTRY for each band key of each row of `part` that is not blank, (m,)."""
    keep = np.flatnonzero(~rows.blank[part])
    data, sizes, label = rows.signature[part][keep], rows.sizes[part][keep], rows.label[part][keep]
    widths, heights = sizes.T
    keys, places = band_keys(data, widths, heights)
    entries = np.empty(len(keys), NEAR_ENTRY)
    entries["key"], entries["id"] = keys, ids[keep][places]
    entries["sketch"], entries["label"] = sketches(data, widths, heights)[places], label[places]
    entries["aspect"] = np.log(widths / heights)[places]
    return entries


def _tables(edges: np.ndarray, files: list[HashFile], guard_keys: list[str]) -> Iterator[pa.Table]:
    file_of = edges["id"] >> ROW_BITS
    for number in np.unique(file_of).tolist():
        these = edges[file_of == number]
        match = these["match"]
        guard = match < 0
        source = [None if at < 0 else files[at >> ROW_BITS] for at in match.tolist()]
        near = these["kind"] == NEAR
        yield pa.table({
            "source": [files[number].source] * len(these),
            "index": pa.array([files[number].index] * len(these), pa.int32()),
            "row": pa.array(these["id"] & (2**ROW_BITS - 1), pa.int32()),
            "reason": [REASONS[2 * of_guard + is_near] for of_guard, is_near in zip(guard.tolist(), near.tolist(), strict=True)],
            "match_source": pa.array([file and file.source for file in source], pa.string()),
            "match_index": pa.array([file and file.index for file in source], pa.int32()),
            "match_row": pa.array([None if at < 0 else at & (2**ROW_BITS - 1) for at in match.tolist()], pa.int32()),
            "match_key": pa.array([guard_keys[at] if at < 0 else None for at in match.tolist()], pa.string()),
            "similarity": pa.array(these["similarity"], pa.float32()),
        }, schema=RESULT)
