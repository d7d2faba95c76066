"""The folder beside a corpus in which it grows until it is whole, so that nothing half-written ever bears its name.

    CORPUS.partial/plan.json    what is being done; another plan starts afresh
    CORPUS.partial/corpus/      the shards, renamed to CORPUS at the end
    CORPUS.partial/done/        one file for each finished shard, and the rejected rows
    CORPUS.partial/replaced/    the old corpus, in the moment when the new one takes its place
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import ValidationError

from pipelines.corpus import MANIFEST, write_manifest, write_quarantine
from pipelines.errors import BadInput
from pipelines.intake import Chunk, ChunkResult


def check_target(target: Path, overwrite: bool) -> None:
    """Raise BadInput unless a corpus may be written at `target`. Only a corpus is ever overwritten."""
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise BadInput(f"{target}: expected a folder name that is free, found a file: choose another --out")
    if not (target / MANIFEST).is_file():
        if any(target.iterdir()):
            raise BadInput(f"{target}: expected a free name or a corpus, found a folder with other files: "
                           "choose another --out")
    elif not overwrite:
        raise BadInput(f"{target}: expected a free name, found a corpus: choose another --out, "
                       "or add --overwrite to replace it")


class Staging:
    """The growing corpus for `target`. Made by `open_staging`."""

    def __init__(self, target: Path):
        self.target = target
        self.folder = target.with_name(target.name + ".partial")
        self.corpus = self.folder / "corpus"
        self.done = self.folder / "done"
        self.replaced = self.folder / "replaced"
        self.plan = self.folder / "plan.json"

    def restore(self) -> None:
        """Give a corpus that was being replaced its name back, if the run that replaces it was killed just then."""
        if self.replaced.exists() and not self.target.exists():
            os.rename(self.replaced, self.target)

    def published(self, plan: dict) -> bool:
        """Whether a run of this plan was killed after its corpus got its name, but before it tidied up."""
        return self._holds(plan) and not self.corpus.exists() and (self.target / MANIFEST).is_file()

    def begin(self, plan: dict, overwrite: bool) -> bool:
        """Make the folder ready for a plan; False if an earlier run of it has published the corpus already.

        Raises BadInput, and leaves no new folder, if no corpus may be written at the target.
        """
        if self.published(plan):
            self.remove()
            return False
        try:
            check_target(self.target, overwrite)
        except BadInput:
            if not self.plan.exists():  # ours alone, and empty
                self.remove()
            raise
        self.prepare(plan)
        return True

    def prepare(self, plan: dict) -> None:
        """Keep what an earlier run of the same plan has finished, or start empty."""
        if not self._holds(plan) or not self.corpus.is_dir():
            # The plan first: the rest means nothing without it.
            for path in (self.plan, self.corpus, self.done, self.replaced):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            self.corpus.mkdir()
            self.done.mkdir()
            temporary = self.folder / "plan.tmp"
            temporary.write_text(json.dumps(plan), encoding="utf-8")
            os.replace(temporary, self.plan)
        for leftover in [*self.corpus.glob("*.tmp"), *self.done.glob("*.tmp")]:
            leftover.unlink()

    def _holds(self, plan: dict) -> bool:
        return self.plan.is_file() and json.loads(self.plan.read_text(encoding="utf-8")) == json.loads(json.dumps(plan))

    def finished(self, chunk: Chunk) -> ChunkResult | None:
        """The result of a chunk that an earlier run finished, None if it must be done (again)."""
        try:
            result = ChunkResult.model_validate_json((self.done / f"{chunk.shard}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        shard = self.corpus / chunk.shard
        whole = result.shard is None or (shard.is_file() and shard.stat().st_size == result.shard.bytes)
        return result if whole else None

    def publish(self, results: list[ChunkResult], made_by: dict) -> None:
        """Write the quarantine table and the manifest, and give the corpus its name."""
        ordered = sorted(results, key=lambda result: (result.source, result.index))
        counts = {}
        for result in ordered:
            if result.source in counts:
                counts[result.source].add(result.counts)
            else:
                counts[result.source] = result.counts.model_copy(deep=True)
        for source in counts.values():
            source.reasons = dict(sorted(source.reasons.items()))
        rejected = [self.done / result.rejected for result in ordered if result.rejected]
        write_quarantine(self.corpus, map(pq.read_table, rejected))
        write_manifest(self.corpus, [result.shard for result in ordered if result.shard], counts, made_by)
        if self.target.exists():
            os.rename(self.target, self.replaced)
        os.rename(self.corpus, self.target)
        self.remove()

    def remove(self) -> None:
        """Remove the folder. Renamed first: a task that still writes into it must fail, not bring it back."""
        doomed = self.folder.with_name(self.folder.name + ".removed")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(self.folder, doomed)
        shutil.rmtree(doomed)


@contextmanager
def open_staging(target: Path) -> Iterator[Staging]:
    """The staging folder for `target`, for this process alone; raises BadInput if another process has it.

    The lock is the kernel's: it ends with the process, however that ends.
    """
    staging = Staging(target)
    try:
        staging.folder.mkdir(parents=True, exist_ok=True)
        lock = open(staging.folder / "lock", "w")
    except OSError as problem:
        raise BadInput(f"{target}: expected a place to write to, found {problem.strerror} ({problem.filename}): "
                       "choose another --out") from problem
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{target}: expected to be the only one writing it, found another process at work: "
                           "wait for it, or choose another --out") from None
        staging.restore()
        yield staging
