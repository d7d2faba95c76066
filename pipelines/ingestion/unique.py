"""The second half of an ingest that drops duplicates: shards that hold some are written again without them.

The first half has left a file of hashes beside each shard. `duplicates.search.find` says which rows go; the shards that are touched are
written anew into another folder, so that the first ones stay as they are until the corpus gets its name.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from pipelines.corpus import storage
from pipelines.corpus.quarantine import Rejected
from pipelines.corpus.shards import ShardWriter, checked_parquet, of_staging, shard_name
from pipelines.ingestion.chunks import ChunkResult, Options, RejectedWriter, room_for
from pipelines.ingestion.duplicates.search import HashFile, find
from pipelines.ingestion.staging import Staging
from pipelines.ingestion.tasks import FEW, in_tasks
from pipelines.progress import Progress


@dataclass(frozen=True)
class Touched:
    """A shard that loses rows."""

    before: ChunkResult
    drops: pa.Table  # duplicates.RESULT


def without_duplicates(results: list[ChunkResult], staging: Staging, options: Options, guards: list[pa.Table],
                       sources: list[str]) -> list[ChunkResult]:
    """The results with the rows gone that an earlier row, or a guard, holds already; their shards lie in staging.unique.

    The order of rows is that of `sources`, then of the shards, then of the rows in them. What an earlier run has done is not done again.
    """
    by_shard = {(result.source, result.index): result for result in results}
    files = [HashFile(source, index, storage.join(staging.done, f"{shard_name(source, index)}.hashes"))
             for source, index in sorted(by_shard, key=lambda shard: (sources.index(shard[0]), shard[1])) if by_shard[source, index].shard]
    touched = []
    for drops in find(files, guards, exact=options.duplicates in ("exact", "near"), near=options.duplicates == "near"):
        shard = drops["source"][0].as_py(), drops["index"][0].as_py()
        earlier = finished(staging, *shard)
        if earlier is None:
            touched.append(Touched(by_shard[shard], drops))
        else:
            by_shard[shard] = earlier
    corpus, unique, done = staging.corpus, staging.unique, staging.done
    progress = Progress("duplicates", len(touched), "shards to write again")
    few = sum(item.before.counts.kept for item in touched) <= FEW
    try:
        for result in in_tasks(lambda item: write_without(item, corpus, unique, done, options), touched, few=few):
            by_shard[result.source, result.index] = result
            progress.add(1)
    finally:
        if touched:
            progress.close()
    return list(by_shard.values())


def finished(staging: Staging, source: str, index: int) -> ChunkResult | None:
    """What an earlier run made of a shard that loses rows, None if it must be done (again)."""
    shard = shard_name(source, index)
    try:
        result = ChunkResult.model_validate_json(storage.read_bytes(storage.join(staging.done, f"{shard}.unique.json")))
    except (FileNotFoundError, ValidationError):
        return None
    return result if result.shard is None or staging.unique_bytes(shard) == result.shard.bytes else None


def write_without(touched: Touched, corpus: str, unique: str, done: str, options: Options) -> ChunkResult:
    """Write a shard of the folder `corpus` into the folder `unique`, without the rows to drop."""
    before, name = touched.before, shard_name(touched.before.source, touched.before.index)
    with room_for(storage.join(unique, name)):
        counts = before.counts.model_copy(deep=True)
        keys = matched_keys(touched.drops, corpus)
        reasons = dict(zip(touched.drops["row"].to_pylist(), zip(touched.drops["reason"].to_pylist(), keys, touched.drops["similarity"].to_pylist())))
        with ShardWriter(unique, before.source, before.index, options.rows_per_group) as writer, \
                RejectedWriter(storage.join(done, f"{name}.duplicates")) as rejected:
            for number, row in enumerate(_rows(storage.join(corpus, name))):
                if number not in reasons:
                    writer.write(**row)
                    continue
                reason, match, similarity = reasons[number]
                kind = "duplicate" if reason.endswith("duplicate") else "filtered"
                rejected.write(Rejected(row["key"], before.source, kind, reason, f"similarity {similarity:.4f}", row["text"], row["image"], match))
                counts.reject(kind, reason)
                counts.kept -= 1
                counts.labeled -= row["text"] is not None
        result = before.model_copy(update={"counts": counts, "shard": writer.entry if counts.kept else None,
                                           "rejected": [*before.rejected, *rejected.files]})
        if not counts.kept:
            storage.remove(storage.join(unique, name))
        storage.write_bytes(storage.join(done, f"{name}.unique.json"), result.model_dump_json(by_alias=True).encode())
        return result


def _rows(path: str) -> Iterator[dict]:
    with checked_parquet(path, of_staging(path)) as file:
        for index in range(file.num_row_groups):
            yield from file.read_row_group(index).drop_columns("source").to_pylist()


def matched_keys(drops: pa.Table, corpus: str) -> list[str]:
    """The key of the row that stays, or of the benchmark's image, for each row to drop. Reads the keys of the row groups that hold them."""
    keys = drops["match_key"].to_pylist()
    places = list(zip(drops["match_source"].to_pylist(), drops["match_index"].to_pylist(), drops["match_row"].to_pylist()))
    for shard in sorted({place[:2] for place in places if place[0] is not None}):
        chosen = [number for number, place in enumerate(places) if place[:2] == shard]
        path = storage.join(corpus, shard_name(*shard))
        with checked_parquet(path, of_staging(path)) as file:
            ends = np.cumsum([file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)])
            groups = np.searchsorted(ends, [places[number][2] for number in chosen], side="right")
            for group in np.unique(groups).tolist():
                found = file.read_row_group(group, columns=["key"])["key"]
                first = int(ends[group]) - len(found)
                for number in (number for number, of in zip(chosen, groups) if of == group):
                    keys[number] = found[places[number][2] - first].as_py()
    return keys
