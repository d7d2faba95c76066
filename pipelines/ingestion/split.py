"""A corpus cut into parts to train, to validate and to test on, from which no part knows an image of another.

A row's part is a function of the seed and of the key of the first row of its group: rows with the same bytes, and rows that show nearly
the same picture, whatever their labels say, are a group (`together`). So a corpus that grows keeps the parts of its rows, but for those
that a new row joins. Validation and test are drawn from groups with a label; images without one stay in training, unless nothing is labeled.

Groups are found through hashes, 300 bytes a row, that are kept beside the training part until it is whole: a killed split goes on from them.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from pipelines.corpus import storage
from pipelines.corpus.manifest import ShardEntry, SourceCounts
from pipelines.corpus.pictures import decode_gray
from pipelines.corpus.reader import Corpus
from pipelines.corpus.shards import ShardWriter, shard_name
from pipelines.errors import BadInput
from pipelines.ingestion.chunks import ChunkResult, room_for
from pipelines.ingestion.duplicates.hashes import hash_rows, hashed, read_hashes, write_hashes
from pipelines.ingestion.duplicates.search import HashFile, together
from pipelines.ingestion.staging import Staging, open_staging
from pipelines.ingestion.tasks import FEW, in_tasks
from pipelines.progress import Progress

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """How a corpus is cut."""

    validation: float = 0.1  # of the labeled groups, or of all where nothing is labeled
    test: float = 0.1
    seed: int = 0
    together: str = "near"  # which rows stay in one part: "near", "exact", or "none": each row for itself

    def part_of(self, key: str) -> str:
        """The part of a group whose first row has this key."""
        drawn = int.from_bytes(hashlib.blake2b(f"{self.seed}:{key}".encode(), digest_size=8).digest(), "big") / 2**64
        return "validation" if drawn < self.validation else "test" if drawn < self.validation + self.test else "train"

    def wants(self, part: str) -> bool:
        """Whether anything is to come into a part."""
        return part == "train" or getattr(self, part) > 0


def checked(how: Split) -> Split:
    """The same; raises BadInput for shares that leave nothing to train on, or nothing else."""
    if not (how.validation >= 0 <= how.test and 0 < how.validation + how.test < 1):
        raise BadInput(f"--validation {how.validation:g} --test {how.test:g}: expected shares that are together above 0 and below 1, so that something "
                       "is left to train on")
    return how


@dataclass(frozen=True)
class Shard:
    """A shard of the corpus: where it stands among those of its source, and what is known of its rows from their groups."""

    entry: ShardEntry
    index: int
    firsts: dict[int, str]  # the key of the first row of a group, by the numbers of the group's other rows
    labeled: frozenset[int]  # rows without a label in whose group there is one

    @property
    def shard(self) -> str:
        """The name of what becomes of it, in every part."""
        return shard_name(self.entry.source, self.index)

    @property
    def source(self) -> str:
        """Whose rows it holds."""
        return self.entry.source


class Hashes(BaseModel):
    """The result of a task that hashes a shard."""

    name: str
    rows: int


def split(corpus: Corpus, out: str, how: Split, overwrite: bool = False) -> dict[str, Corpus]:
    """Write the parts of a corpus to out-train, out-validation and out-test, and open them. Parts that lie there, made so, stay as they are.

    Raises BadInput, and leaves what is whole, if a part cannot be written or would be empty.
    """
    places = {part: storage.absolute(f"{out}-{part}") for part in PARTS if how.wants(part)}
    plan = {"command": "split", "corpus": corpus.sha256, "validation": how.validation, "test": how.test, "seed": how.seed, "together": how.together}
    missing = [part for part, place in places.items() if overwrite or not _is_made(place, plan, part)]
    if missing:
        first = missing[0]  # keeps the hashes, and is written last
        with open_staging(places[first]) as staging, room_for(staging.folder):
            if staging.begin({**plan, "part": first}, overwrite):
                shards = _grouped(corpus, _hashed(corpus, staging) if how.together != "none" else [], near=how.together == "near")
                for part in reversed(missing):
                    _write(corpus, shards, how, part, places[part], plan, staging if part == first else None, overwrite)
    for place in places.values():  # what a kill left when only the traces were to go
        if storage.kind(f"{place}.partial") is not None:
            with open_staging(place) as staging:
                staging.remove()
    return {part: Corpus.open(place) for part, place in places.items()}


def _is_made(place: str, plan: dict[str, Any], part: str) -> bool:
    """Whether a part lies there already, whole and made so."""
    with suppress(BadInput):
        return Corpus.open(place).manifest.made_by == {**plan, "part": part}
    return False


def _hashed(corpus: Corpus, staging: Staging) -> list[HashFile]:
    """The hashes of every shard, of which tasks make those that are not there."""
    entries = corpus.manifest.shards
    files = [HashFile("", number, storage.join(staging.done, f"{entry.name}.hashes")) for number, entry in enumerate(entries)]
    missing = [entry for entry, file in zip(entries, files, strict=True) if storage.kind(file.path) is None]
    progress = Progress("split", corpus.rows, "images to hash", corpus.rows - sum(entry.rows for entry in missing))
    try:
        for made in in_tasks(partial(_hash_shard, corpus, staging.done), missing, Hashes, few=corpus.rows <= FEW):
            progress.add(made.rows)
    finally:
        progress.close()
    return files


def _hash_shard(corpus: Corpus, folder: str, entry: ShardEntry) -> Hashes:
    tables, first = [], 0
    for group, rows in enumerate(entry.row_groups):
        table = corpus.read_row_group(entry.name, group, ["image", "text"])
        images = (data.as_buffer().to_pybytes() for data in table["image"])
        tables.append(hash_rows([hashed(image, text, decode_gray(image)) for image, text in zip(images, table["text"].to_pylist(), strict=True)], first))
        first += rows
    labels = pa.array(np.concatenate([table["label"].to_numpy() for table in tables]) > 0)
    made = pa.concat_tables(tables)
    # Pictures that look the same belong together whatever their labels say, which in a benchmark differ by a slip or by case.
    made = made.set_column(made.schema.get_field_index("label"), made.schema.field("label"), pa.array(np.zeros(len(made), np.uint64)))
    with storage.written(storage.join(folder, f"{entry.name}.labels")) as temporary:
        write_hashes(temporary, pa.table({"labeled": labels}))
    with storage.written(storage.join(folder, f"{entry.name}.hashes")) as temporary:  # the last: where it is, the other is
        write_hashes(temporary, made)
    return Hashes(name=entry.name, rows=entry.rows)


def _grouped(corpus: Corpus, files: list[HashFile], *, near: bool) -> list[Shard]:
    """The shards with what their rows' groups decide."""
    entries = corpus.manifest.shards
    rows, firsts = together(files, near=near) if files else (np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64))
    keys = _keys(corpus, firsts)
    labeled = _labeled(files, rows)
    of_group = {first for first, has in zip(map(tuple, firsts.tolist()), labeled, strict=True) if has}
    known: list[tuple[dict[int, str], set[int]]] = [({}, set()) for _ in entries]
    for (shard, row), first in zip(rows.tolist(), map(tuple, firsts.tolist()), strict=True):
        known[shard][0][row] = keys[first]
        if first in of_group:
            known[shard][1].add(row)
    return [Shard(entry, index, first_keys, frozenset(has)) for (entry, index), (first_keys, has) in zip(corpus.numbered_shards(), known, strict=True)]


def _keys(corpus: Corpus, places: np.ndarray) -> dict[tuple[int, int], str]:
    """The keys of rows, each named by the number of its shard and its own, (n, 2)."""
    found: dict[tuple[int, int], str] = {}
    for shard in np.unique(places[:, 0]).tolist():
        entry = corpus.manifest.shards[shard]
        wanted = np.unique(places[places[:, 0] == shard, 1])
        ends = np.cumsum(entry.row_groups)
        for group in np.unique(np.searchsorted(ends, wanted, side="right")).tolist():
            first = int(ends[group]) - entry.row_groups[group]
            keys = corpus.read_row_group(entry.name, group, ["key"])["key"]
            found |= {(shard, row): keys[row - first].as_py() for row in wanted[(wanted >= first) & (wanted < ends[group])].tolist()}
    return found


def _labeled(files: list[HashFile], rows: np.ndarray) -> np.ndarray:
    """Whether each of these rows has a label, (n,) bool."""
    labeled = np.zeros(len(rows), bool)
    for shard in np.unique(rows[:, 0]).tolist():
        these = rows[:, 0] == shard
        labeled[these] = read_hashes(files[shard].path.removesuffix(".hashes") + ".labels")["labeled"].to_numpy()[rows[these, 1]]
    return labeled


def _write(corpus: Corpus, shards: list[Shard], how: Split, part: str, place: str, plan: dict[str, Any], staging: Staging | None, overwrite: bool) -> None:
    """Write one part, in the staging folder that is given for it or in its own, unless it is there already."""
    if staging is not None:
        _publish(corpus, shards, how, part, staging, plan)
        return
    with open_staging(place) as own, room_for(own.folder):
        if own.begin({**plan, "part": part}, overwrite):
            _publish(corpus, shards, how, part, own, plan)


def _publish(corpus: Corpus, shards: list[Shard], how: Split, part: str, staging: Staging, plan: dict[str, Any]) -> None:
    every = not labeled_rows(corpus)
    finished = {shard.shard: staging.finished(shard) for shard in shards}
    missing = {(shard.source, shard.index): shard for shard in shards if finished[shard.shard] is None}
    results = [result for result in finished.values() if result is not None]
    progress = Progress(f"split: {part}", corpus.rows, "rows", corpus.rows - sum(shard.entry.rows for shard in missing.values()))
    try:
        work = partial(_cut, corpus, how, part, every, staging.corpus, staging.done)
        for result in in_tasks(work, list(missing.values()), few=corpus.rows <= FEW):
            results.append(result)
            progress.add(missing[result.source, result.index].entry.rows)
    finally:
        progress.close()
    if not any(result.counts.kept for result in results):
        staging.remove()
        mend = "choose smaller fractions" if part == "train" else f"choose a larger --{part}, or --{part} 0 to do without"
        raise BadInput(f"{corpus.path}: expected {'images' if every else 'labeled images'} for the part {part}, found none that fall into it: {mend}")
    staging.publish(results, {**plan, "part": part})


def _cut(corpus: Corpus, how: Split, part: str, every: bool, folder: str, done: str, shard: Shard) -> ChunkResult:
    """Write the rows of a shard that belong to a part."""
    counts = SourceCounts()
    with room_for(storage.join(folder, shard.shard)), ShardWriter(folder, shard.source, shard.index) as writer:
        for row in _chosen(corpus, how, part, every, shard):
            writer.write(**row)
            counts.kept += 1
            counts.labeled += row["text"] is not None
    counts.rows_in = counts.kept
    if not counts.kept:
        storage.remove(storage.join(folder, shard.shard))
    result = ChunkResult(source=shard.source, index=shard.index, counts=counts, shard=writer.entry if counts.kept else None, rejected=[], examples=[])
    storage.write_bytes(storage.join(done, f"{shard.shard}.json"), result.model_dump_json(by_alias=True).encode())
    return result


def _chosen(corpus: Corpus, how: Split, part: str, every: bool, shard: Shard) -> Iterator[dict[str, Any]]:
    first = 0
    for group, count in enumerate(shard.entry.row_groups):
        names = corpus.read_row_group(shard.entry.name, group, ["key", "text"])
        wanted = []
        for row, (key, text) in enumerate(zip(names["key"].to_pylist(), names["text"].to_pylist(), strict=True), first):
            drawn = every or text is not None or row in shard.labeled
            wanted.append((how.part_of(shard.firsts.get(row, key)) if drawn else "train") == part)
        if any(wanted):
            yield from corpus.read_row_group(shard.entry.name, group).drop_columns("source").filter(pa.array(wanted)).to_pylist()
        first += count


def labeled_rows(corpus: Corpus) -> int:
    """How many rows of a corpus have a label."""
    return sum(counts.labeled for counts in corpus.manifest.sources.values())
