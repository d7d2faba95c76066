"""The folder beside a corpus in which it grows until it is whole, so that nothing half-written ever bears its name.

    CORPUS.partial/plan.json    what is being done; another plan starts afresh
    CORPUS.partial/corpus/      the shards, which get their place at CORPUS at the end
    CORPUS.partial/unique/      shards that were written again without their duplicates
    CORPUS.partial/moving       says that the corpus is about to get its name
    CORPUS.partial/done/        one file for each finished shard, its rejected rows, its hashes
    CORPUS.partial/replaced/    the old corpus, in the moment when the new one takes its place

On this machine the corpus gets its name in one step. In an object store its shards are given their names one by one, by the store
itself, and the manifest comes last: a place without corpus.json is no corpus.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from pipelines.corpus import storage
from pipelines.corpus.manifest import MANIFEST, SourceCounts, write_manifest
from pipelines.corpus.quarantine import QUARANTINE, write_quarantine
from pipelines.corpus.reader import Corpus
from pipelines.corpus.shards import checked_parquet, of_staging
from pipelines.errors import BadInput
from pipelines.ingestion.chunks import Chunk, ChunkResult
from pipelines.state import parse_json

PARTS = {"corpus", "unique", "done", "plan.json", "moving", "replaced"}  # what lies in CORPUS.partial


def check_target(target: str, overwrite: bool) -> None:
    """Raise BadInput unless a corpus may be written at `target`. Only a corpus is ever overwritten, and only if nothing else lies in its folder."""
    found = storage.kind(target)
    if found is None and not os.path.islink(target):
        return
    if found != "folder":
        raise BadInput(f"{target}: expected a folder name that is free, found a file: choose another --out")
    if storage.kind(storage.join(target, MANIFEST)) is None:
        if storage.list_names(target):
            raise BadInput(f"{target}: expected a free name or a corpus, found a folder with other files: "
                           "choose another --out")
    elif not overwrite:
        raise BadInput(f"{target}: expected a free name, found a corpus: choose another --out, "
                       "or add --overwrite to replace it")
    else:
        _check_corpus(target)


def _check_corpus(target: str) -> None:
    """Raise BadInput unless a folder with a corpus.json holds a corpus and nothing else."""
    try:
        shards = {shard.name for shard in Corpus.listed(target).manifest.shards}
    except BadInput:
        raise BadInput(f"{target}: expected a corpus to replace, found a {MANIFEST} that textray did not write, or a damaged one: choose another "
                       "--out, or remove that folder") from None
    others = sorted(set(storage.list_names(target)) - shards - {MANIFEST, QUARANTINE})
    if others:
        raise BadInput(f"{target}: expected a corpus and nothing else, found {others[0]} in its folder: move it, or choose another --out")


def check_leftover(folder: str, names: set[str]) -> None:
    """Raise BadInput unless a folder is free, empty, or what a killed command left there: it goes when the command ends.

    Args:
        names: what such a folder may hold; on this machine `lock` is there from its first moment.
    """
    try:
        found = {name for name in storage.list_names(folder) if not name.endswith(".tmp")} if storage.kind(folder) == "folder" else set()
    except FileNotFoundError:  # a store whose last file has just gone
        return
    others = sorted(found - names) or sorted(found if "lock" in names - found else [])
    if others:
        raise BadInput(f"{folder}: expected a free name or what an interrupted command left, found a folder with {others[0]}: choose another --out, "
                       "or move that folder")


class Staging:
    """The growing corpus for `target`, a path or a URI. Made by `open_staging`."""

    def __init__(self, target: str):
        self.target = target
        self.folder = f"{target}.partial"
        names = ("corpus", "unique", "done", "plan.json", "moving")
        self.corpus, self.unique, self.done, self._plan, self._moving = (storage.join(self.folder, name) for name in names)

    def begin(self, plan: dict, overwrite: bool) -> bool:
        """Make the folder ready for a plan; False if an earlier run of it has published the corpus already.

        Raises BadInput, and leaves no new folder, if no corpus may be written at the target.
        """
        if self._published(plan):
            self.remove()
            return False
        try:
            self._check_target(plan, overwrite)
        except BadInput:
            if storage.kind(self._plan) is None:  # ours alone, and empty
                self.remove()
            raise
        self._prepare(plan)
        return True

    def _holds(self, plan: dict) -> bool:
        try:
            return parse_json(storage.read_bytes(self._plan), dict[str, Any], self._plan, "") == json.loads(json.dumps(plan))
        except (FileNotFoundError, BadInput):  # a damaged plan is another plan
            return False

    def finished(self, chunk: Chunk) -> ChunkResult | None:
        """The result of a chunk that an earlier run finished, None if it must be done (again)."""
        try:
            result = ChunkResult.model_validate_json(storage.read_bytes(storage.join(self.done, f"{chunk.shard}.json")))
        except (FileNotFoundError, ValidationError):
            return None
        return result if result.shard is None or self._shard_bytes(chunk.shard) == result.shard.bytes else None

    def _write_tables(self, results: list[ChunkResult], folder: str) -> dict[str, SourceCounts]:
        """Write the quarantine table into a folder; returns the counts of each source."""
        ordered = sorted(results, key=lambda result: (result.source, result.index))
        counts: dict[str, SourceCounts] = {}
        for result in ordered:
            if result.source in counts:
                counts[result.source].add(result.counts)
            else:
                counts[result.source] = result.counts.model_copy(deep=True)
        for source in counts.values():
            source.reasons = dict(sorted(source.reasons.items()))
        write_quarantine(folder, (table for result in ordered for name in result.rejected for table in self._tables(name)))
        return counts

    def _rewritten(self) -> set[str]:
        """Names of the shards that were written again."""
        return {name.removesuffix(".unique.json") for name in storage.list_names(self.done) if name.endswith(".unique.json")}

    def _tables(self, name: str) -> Iterator[pa.Table]:
        """The row groups of a file of rejected rows."""
        path = storage.join(self.done, name)
        with checked_parquet(path, of_staging(path)) as file:
            for index in range(file.num_row_groups):
                yield file.read_row_group(index)


class LocalStaging(Staging):
    """On this machine: the corpus gets its name by a rename."""

    def __init__(self, target: str):
        super().__init__(target)
        self.doomed = f"{self.folder}.removed"
        self._replaced = Path(self.folder, "replaced")

    def restore(self) -> None:
        """Give a corpus that was being replaced its name back, if the run that replaces it was killed just then."""
        if self._replaced.exists() and not os.path.exists(self.target):
            os.rename(self._replaced, self.target)

    def _published(self, plan: dict) -> bool:
        # The manifest goes with the folder that gets the name, so where it is gone from here it has arrived.
        waiting = any(os.path.isfile(os.path.join(folder, MANIFEST)) for folder in (self.corpus, self.unique))
        return self._holds(plan) and os.path.exists(self._moving) and not waiting and os.path.isfile(os.path.join(self.target, MANIFEST))

    def _check_target(self, plan: dict, overwrite: bool) -> None:
        check_target(self.target, overwrite)

    def _shard_bytes(self, shard: str) -> int | None:
        return _bytes_of(self.corpus, shard)

    def unique_bytes(self, shard: str) -> int | None:
        """Bytes of a shard that was written again, None if it was not."""
        return _bytes_of(self.unique, shard)

    def _prepare(self, plan: dict) -> None:
        """Keep what an earlier run of the same plan has finished, or start empty."""
        folders = (self.corpus, self.unique, self.done)
        if not self._holds(plan) or not os.path.isdir(self.corpus):
            # The plan first: the rest means nothing without it.
            for path in map(Path, (self._plan, self._moving, *folders, self._replaced)):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            for folder in folders:
                os.mkdir(folder)
            storage.write_bytes(self._plan, json.dumps(plan).encode())
        for leftover in (file for folder in folders for file in Path(folder).glob("*.tmp")):
            leftover.unlink()

    def publish(self, results: list[ChunkResult], made_by: dict) -> None:
        """Write the quarantine table and the manifest, and give the corpus its name."""
        shards = [result.shard for result in results if result.shard]
        whole = self.unique if self._rewritten() else self.corpus
        if whole == self.unique:  # the first shards stay where they are until the end: a killed run finds its work
            for shard in shards:
                if self.unique_bytes(shard.name) is None:
                    os.link(os.path.join(self.corpus, shard.name), os.path.join(self.unique, shard.name))
        counts = self._write_tables(results, whole)
        write_manifest(whole, shards, counts, made_by)
        storage.write_bytes(self._moving, b"")
        if os.path.exists(self.target):
            os.rename(self.target, self._replaced)
        os.rename(whole, self.target)
        for leftover in Path(self.target).glob("*.tmp"):  # of a task that outlived a killed run until now; under the old name it begins no other
            leftover.unlink(missing_ok=True)
        self.remove()

    def remove(self) -> None:
        """Remove the folder. Renamed first: a task that still writes into it must fail, not bring it back."""
        shutil.rmtree(self.doomed, ignore_errors=True)
        os.rename(self.folder, self.doomed)
        shutil.rmtree(self.doomed)


class StoreStaging(Staging):
    """In an object store, which has no renames of folders and no locks: shards move one by one, the manifest comes last."""

    def _published(self, plan: dict) -> bool:
        return self._holds(plan) and storage.kind(self._moving) is not None and storage.kind(storage.join(self.target, MANIFEST)) is not None

    def _check_target(self, plan: dict, overwrite: bool) -> None:
        if not (self._holds(plan) and storage.kind(self._moving)):
            check_target(self.target, overwrite)

    @cached_property
    def _found(self) -> dict[str, dict[str, int]]:
        """What lies where: one listing instead of a request for every shard."""
        return {folder: _sizes(folder) for folder in (self.target, self.corpus, self.unique)}

    def _shard_bytes(self, shard: str) -> int | None:
        return self._found[self.corpus].get(shard, self._found[self.target].get(shard))

    def unique_bytes(self, shard: str) -> int | None:
        """Bytes of a shard that was written again, None if it was not."""
        return self._found[self.unique].get(shard, self._found[self.target].get(shard))

    def _prepare(self, plan: dict) -> None:
        """Keep what an earlier run of the same plan has finished, or start empty."""
        if not self._holds(plan):
            self.remove()
            storage.write_bytes(self._plan, json.dumps(plan).encode())

    def publish(self, results: list[ChunkResult], made_by: dict) -> None:
        """Bring the shards and the quarantine table to their place, then write the manifest."""
        shards = [result.shard for result in results if result.shard]
        counts = self._write_tables(results, self.corpus)
        if storage.kind(self._moving) is None:
            storage.remove(storage.join(self.target, MANIFEST))  # of a corpus that is replaced: from now on it is none
            for name in _sizes(self.target):
                storage.remove(storage.join(self.target, name))
            storage.write_bytes(self._moving, b"")
        rewritten, waiting = self._rewritten(), {folder: _sizes(folder) for folder in (self.corpus, self.unique)}
        for name in [*(shard.name for shard in shards), QUARANTINE]:
            folder = self.unique if name in rewritten else self.corpus
            if name in waiting[folder]:  # else it has arrived already
                storage.move(storage.join(folder, name), storage.join(self.target, name))
        write_manifest(self.target, shards, counts, made_by)
        self.remove()

    def remove(self) -> None:
        """Remove the folder."""
        storage.remove(self.folder)


def _bytes_of(folder: str, shard: str) -> int | None:
    path = Path(folder, shard)
    return path.stat().st_size if path.is_file() else None


def _sizes(folder: str) -> dict[str, int]:
    try:
        return {name: size for name, size in storage.file_sizes(folder).items() if name.endswith(".parquet")}
    except FileNotFoundError:
        return {}


@contextmanager
def open_staging(target: str | os.PathLike) -> Iterator[Staging]:
    """The staging folder for `target`, on this machine for this process alone; raises BadInput if another process has it.

    Two processes that write one corpus into an object store write the same bytes.
    """
    if storage.is_remote(os.fspath(target)):
        staging = StoreStaging(storage.absolute(os.fspath(target)))
        check_leftover(staging.folder, PARTS)
        yield staging
        return
    staging = LocalStaging(storage.absolute(os.fspath(target)))
    for folder in (staging.folder, staging.doomed):
        check_leftover(folder, PARTS | {"lock"})
    with storage.held(staging.folder, os.fspath(target)):
        staging.restore()
        yield staging
