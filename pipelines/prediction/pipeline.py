"""Sources -> readings -> a file or a corpus: here where they are few, by Ray where they are many."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pipelines.corpus import storage
from pipelines.corpus.account import counted, sum_counts
from pipelines.corpus.manifest import MANIFEST
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.evaluation.options import device_named
from pipelines.ingestion.chunks import Chunk, ChunkResult, plan_chunks, room_for
from pipelines.ingestion.pipeline import check_apart, versions
from pipelines.ingestion.sources.row import Source
from pipelines.ingestion.staging import Staging, check_target, open_staging
from pipelines.ingestion.tasks import FEW, in_tasks
from pipelines.prediction.files import Line, Writer, check_file, writer_for
from pipelines.prediction.labeler import Labeler, Manner, Reader
from pipelines.prediction.pseudo_labels import Wanted, plan_shards, write_shard
from pipelines.prediction.readings import Readings, open_readings, read_blocks, rows_per_block
from pipelines.prediction.sources import CorpusSource
from pipelines.prediction.tally import Tally, left_out
from pipelines.progress import Progress, say
from pipelines.reading.searches import search_of

AT_ONCE = 1000  # images that go into a file at once, without readings beside it that outlive a kill
FEW_TO_READ = 2_000  # images that one core reads in about the time that Ray takes to start
ROWS_HERE = 10_000  # that are read here as one piece


@dataclass(frozen=True)
class Job:
    """What is to be read, by whom, into what."""

    sources: list[Source]
    arguments: list[str]  # by which they were named, for the record
    labeler: Labeler
    manner: Manner
    target: str  # a file or a corpus, a path from the root or a URI
    device: str | None = None  # "cpu", "cuda", …; None: a GPU if there is one
    least: float | None = None  # the confidence of what is kept; a corpus keeps no empty readings and no undecodable images in any case
    overwrite: bool = False

    def images(self) -> int:
        """How many there are, about so many where a source does not know."""
        return sum(source.count() for source in self.sources)

    def exact(self) -> bool:
        """Whether that is their number."""
        return all(source.exact for source in self.sources)

    def plan(self) -> dict[str, Any]:
        """All that readings depend on, as JSON."""
        fingerprints = [(source.name, source.count(), source.fingerprint) for source in self.sources]
        turned = {"upside_down": "turned"} if self.manner.search.both_ways_up else {}
        return {"command": "predict", "sources": self.arguments, "confidence": "of the string", **turned, **self.labeler.described(), **self.manner.described(), **versions(),
                "torch": torch.__version__, "fingerprints": fingerprints}


@dataclass(frozen=True)
class Prediction:
    """What came out."""

    tally: Tally
    kept: int
    left_out: dict[str, int]  # by reason


def read_here(sources: list[Source], reader: Reader, tally: Tally) -> Iterator[Line]:
    """Read sources in this process, in their order, and count what is read."""
    rows = (row for source in sources for piece in source.pieces(ROWS_HERE) for row in piece.read())
    for row, read in reader.read(rows):
        tally.count(read, row.text, reader.rule)
        yield Line(row.key, read.text, read.confidence, read.problem, read.upside_down)


def some_readable(lines: Iterable[Line], tally: Tally) -> Iterator[Line]:
    """The lines. Those that begin with a problem come with the first that has none; BadInput, and not one of them, where there is none such."""
    lines, waiting = iter(lines), []
    for line in lines:
        if line.problem is None:
            yield from (*waiting, line)
            yield from lines
            return
        waiting.append(line)
    if waiting:
        raise _nothing_readable(tally, f", as {waiting[0].key}")


def _nothing_readable(tally: Tally, example: str = "") -> BadInput:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(tally.unreadable.items(), key=lambda pair: (-pair[1], pair[0])))
    return BadInput(f"expected images that can be read, found none among {counted(tally.images, 'image')} ({reasons}{example}): correct their names, or name others")


def sure_enough(lines: Iterable[Line], least: float | None, reasons: dict[str, int]) -> Iterator[Line]:
    """The lines that can be pseudo-labels; the others are counted in `reasons`. All of them if `least`, the confidence, is None."""
    for line in lines:
        why = None if least is None else left_out(line.text, line.confidence, line.problem, least)
        if why is None:
            yield line
        else:
            reasons[why[1]] = reasons.get(why[1], 0) + 1


def predict(job: Job) -> Prediction:
    """Read all sources into the target. Stopped or killed, the same call goes on.

    Raises:
        BadInput: the target is taken, or holds what another model or another command began; no image can be read, or nothing is sure enough for a corpus.
    """
    write = writer_for(job.target)
    search_of(job.labeler.recognizer, job.manner.search)  # what cannot be searched with is said before anything is made
    if write is None:
        _check_corpora(job)
    check_apart([source for source in job.sources if source.kind == "corpus"], job.target)
    if write is not None and job.exact() and job.images() <= AT_ONCE:
        check_file(job.target, job.overwrite)
        return _at_once(job, write)
    plan = job.plan()
    if Readings(job.target).difference(plan) != "":  # else it is ours, made or half made
        check_file(job.target, job.overwrite) if write is not None else check_target(job.target, job.overwrite)
    with open_readings(job.target) as readings:
        readings.begin(plan)
        chunks = list(plan_chunks(job.sources, rows_per_block(job.images())))
        tally = _read(job, chunks, readings)
        if write is not None and tally.images and sum(tally.unreadable.values()) == tally.images:
            readings.remove()
            raise _nothing_readable(tally)
        kept, reasons = _into_file(job, write, chunks, readings) if write is not None else _into_corpus(job, plan, chunks, readings, tally)
        readings.remove()
    return Prediction(tally, kept, reasons)


def _check_corpora(job: Job) -> None:
    for source in job.sources:
        if not isinstance(source, CorpusSource):
            raise BadInput(f"--out {job.target}: expected sources that are corpora, for a corpus is to be made of them, found {source.path}: bring "
                           f"it in with `textray ingest {source.path} --out CORPUS`, or name a file, as in --out {job.target}.csv")


def _at_once(job: Job, write: Writer) -> Prediction:
    """Without Ray, in this process."""
    reader, tally, reasons = Reader(job.labeler, job.manner, device_named(job.device)), Tally(), {}
    progress = Progress("predict", job.images(), "images")

    def followed() -> Iterator[Line]:
        for line in read_here(job.sources, reader, tally):
            progress.add(1)
            yield line

    try:
        kept = _write(job, write, sure_enough(some_readable(followed(), tally), job.least, reasons))
    finally:
        progress.close()
    return Prediction(tally, kept, reasons)


def _read(job: Job, chunks: list[Chunk], readings: Readings) -> Tally:
    """Read the blocks that no earlier run has read."""
    tally, missing = Tally(), []
    for chunk in chunks:
        block = readings.finished(chunk.shard)
        missing.append(chunk) if block is None else tally.add(block.tally)
    total, about = job.images(), "" if job.exact() else "about "
    if tally.images:
        say(f"predict: continues in {readings.folder}, where {tally.images:,} of {counted(total, 'image')} are read")
    say(f"predict: {about}{counted(total, 'image')} with {job.labeler.name}")
    progress = Progress("predict", total, "images", tally.images)
    try:
        for block in read_blocks(job.labeler, job.manner, job.device, missing, readings, few=total <= FEW_TO_READ):
            tally.add(block.tally)
            progress.add(block.tally.images)
    finally:
        progress.close()
    return tally


def _into_file(job: Job, write: Writer, chunks: list[Chunk], readings: Readings) -> tuple[int, dict[str, int]]:
    """Lines that were written, and those that were left out by reason."""
    reasons: dict[str, int] = {}
    found = (Line(*row.values()) for chunk in chunks for row in readings.table(chunk.shard).select(Line._fields).to_pylist())
    return _write(job, write, sure_enough(found, job.least, reasons)), reasons


def _write(job: Job, write: Writer, found: Iterable[Line]) -> int:
    with room_for(job.target), storage.written(job.target) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        return write(file, found, job.labeler.name)


def _into_corpus(job: Job, plan: dict[str, Any], chunks: list[Chunk], readings: Readings, tally: Tally) -> tuple[int, dict[str, int]]:
    """Rows of the corpus, and those that were left out by reason."""
    made_by = {**_made_by(job), "readings": tally.model_dump()}
    with open_staging(job.target) as staging, room_for(staging.folder):
        if is_made(job):  # killed when only the traces were left
            staging.remove()
        elif staging.begin({**plan, **made_by}, job.overwrite):
            staging.publish(_write_shards(job, Wanted(job.labeler.name, job.least or 0.0), chunks, staging, readings), made_by)
    counts = sum_counts(Corpus.open(job.target).manifest.sources.values())
    return counts.kept, counts.reasons


def _made_by(job: Job) -> dict[str, Any]:
    """What corpus.json says of how it was made, but for what was read."""
    return {**{key: value for key, value in job.plan().items() if key != "fingerprints"}, "min_confidence": job.least or 0.0,
            "corpora": {source.path: source.fingerprint for source in job.sources}}


def is_made(job: Job) -> bool:
    """Whether a corpus that was made so lies at the target."""
    if storage.kind(storage.join(job.target, MANIFEST)) is None:
        return False
    made_by = {key: value for key, value in Corpus.listed(job.target).manifest.made_by.items() if key != "readings"}
    return made_by == json.loads(json.dumps(_made_by(job)))


def _write_shards(job: Job, wanted: Wanted, chunks: list[Chunk], staging: Staging, readings: Readings) -> list[ChunkResult]:
    """The shards, of which the workers write those that no earlier run has written. BadInput if not one row is kept."""
    shards = [shard for source in job.sources for shard in plan_shards(source, [chunk for chunk in chunks if chunk.source == source.name])]
    results = [result for shard in shards if (result := staging.finished(shard)) is not None]
    written = {(result.source, result.index) for result in results}
    missing = [shard for shard in shards if (shard.source, shard.index) not in written]
    results += in_tasks(partial(write_shard, folder=staging.corpus, done=staging.done, blocks=readings.blocks, wanted=wanted), missing,
                        few=job.images() <= FEW)
    counts = sum_counts(result.counts for result in results)
    if not counts.kept:
        staging.remove()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.reasons.items()))
        raise BadInput(f"{staging.target}: expected pseudo-labels, found none among {counted(counts.rows_in, 'image')} ({reasons}): lower "
                       f"--min-confidence (the readings are kept in {readings.folder}), or take another model")
    return results
