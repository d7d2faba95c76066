"""Sources -> corpus, by Ray Data.

A chunk of a source (by default 100,000 rows) is one task and becomes one shard. Nothing but chunk descriptions and
counts goes through Ray: each task reads its rows where they lie and writes its shard itself.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath, PurePosixPath

import cv2
import pyarrow as pa

from pipelines.corpus import storage
from pipelines.corpus.account import counted, sum_counts
from pipelines.corpus.manifest import SCHEMA_VERSION
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.ingestion.chunks import NO_LABEL, Chunk, ChunkResult, Options, plan_chunks, room_for, write_chunk
from pipelines.ingestion.guard import hash_set
from pipelines.ingestion.sources.folder import MISNAMED, MISSING
from pipelines.ingestion.sources.opening import open_sources
from pipelines.ingestion.sources.row import ReadOptions, Source
from pipelines.ingestion.staging import Staging, open_staging
from pipelines.ingestion.tasks import FEW, in_tasks
from pipelines.ingestion.unique import without_duplicates
from pipelines.progress import Progress, say


def ingest(arguments: list[str], target: str | os.PathLike, options: Options = Options(), *, max_errors: float = 0.01,
           reading: ReadOptions = ReadOptions(), guard: Sequence[str] = (), overwrite: bool = False) -> Corpus:
    """Bring the sources (PATH or NAME=PATH each) into a new corpus at `target`, and open it.

    The bytes are a function of the sources and the options. Raises BadInput, and leaves no corpus, if a source cannot
    be opened (nor one of the benchmarks to `guard`), if more than `max_errors` of all rows are quarantined, or if nothing is kept.
    """
    target = storage.absolute(os.fspath(target))
    sources = open_sources(arguments, reading)
    check_apart(sources, target)
    made_by = {"command": "ingest", "sources": arguments, "options": _asked(options, reading), "guard": list(guard),
               **versions()}
    options, guards = replace(options, guarded=bool(guard)), [hash_set(list(guard))] if guard else []
    plan = {**made_by, "fingerprints": [(source.name, source.count(), source.fingerprint) for source in sources],
            "guards": [hashlib.sha256(table["content"].combine_chunks().buffers()[1]).hexdigest() for table in guards]}
    with open_staging(target) as staging, room_for(staging.folder):
        if staging.begin(plan, overwrite):
            results = _run(sources, staging, options, max_errors)
            if options.hashed:
                say("ingest: looks for duplicates")
                results = without_duplicates(results, staging, options, guards, [source.name for source in sources])
                if not any(result.counts.kept for result in results):
                    staging.remove()
                    raise BadInput(f"expected images that stay, found that the benchmarks to guard hold all of them ({_reasons(results)}): "
                                   "check --guard")
            staging.publish(results, made_by)
    return Corpus.open(target)


def _asked(options: Options, reading: ReadOptions) -> dict[str, object]:
    """The options for the manifest; those that came later only where they say something: a corpus stays the same to the byte."""
    given = {**asdict(options), **asdict(reading)}
    return {name: value for name, value in given.items() if name not in ("labels", "only") or value is not None}


def versions() -> dict[str, object]:
    """What else decides the bytes."""
    try:
        textray = version("textray")
    except PackageNotFoundError:  # a job that runs from its working folder
        textray = "not installed"
    return {"textray": textray, "pyarrow": pa.__version__, "opencv": cv2.__version__, "schema_version": SCHEMA_VERSION}


def check_apart(sources: list[Source], target: str) -> None:
    """A corpus inside a source would become part of it; a source inside the corpus would be replaced with it."""
    for source in sources:
        inner, outer = sorted((_place(source.path), _place(target)), key=lambda path: -len(path.parts))
        if inner.is_relative_to(outer):
            raise BadInput(f"--out {target}: expected a folder apart from the sources, "
                           f"found one that overlaps with {source.path}: choose another --out")


def _place(path: str) -> PurePath:
    return PurePosixPath(path) if storage.is_remote(path) else Path(path).resolve()


def _run(sources: list[Source], staging: Staging, options: Options, max_errors: float) -> list[ChunkResult]:
    total, about = sum(source.count() for source in sources), "" if all(source.exact for source in sources) else "about "
    results, missing = [], []
    for chunk in plan_chunks(sources, options.rows_per_shard):
        earlier = staging.finished(chunk)
        missing.append(chunk) if earlier is None else results.append(earlier)
    already = sum(result.counts.rows_in for result in results)
    if already:
        say(f"ingest: continues in {staging.folder}, where {already:,} of {counted(total, 'image')} are done")
    say(f"ingest: {about}{counted(total, 'image')} from {counted(len(sources), 'source')}")
    progress = Progress("ingest", total, "images", already)
    try:
        for result in _tasks(missing, staging, options, total):
            results.append(result)
            progress.add(result.counts.rows_in)
            _check_errors(results, sources, total, max_errors)
        total = sum(result.counts.rows_in for result in results)  # exact now
        _check_errors(results, sources, total, max_errors)
        if not any(result.counts.kept for result in results):
            raise GaveUp(f"expected images that get in, found all {total} rejected ({_reasons(results)}): {_remedy(results, sources, 'loosen the filters')}")
    except GaveUp as problem:
        staging.remove()
        raise BadInput(str(problem)) from None
    finally:
        progress.close()
    return results


def _tasks(chunks: list[Chunk], staging: Staging, options: Options, total: int) -> Iterator[ChunkResult]:
    """The results of all chunks, in the order in which they finish."""
    folder, done = staging.corpus, staging.done
    return in_tasks(lambda chunk: write_chunk(chunk, folder, done, options), chunks, few=total <= FEW)


class GaveUp(Exception):
    """The sources are too bad to continue with; what was written goes."""


def _check_errors(results: list[ChunkResult], sources: list[Source], total: int, max_errors: float) -> None:
    quarantined, seen = sum(result.counts.quarantined for result in results), sum(result.counts.rows_in for result in results)
    total = max(total, seen)  # which may have been an estimate
    if quarantined > max_errors * total:
        examples = [example for result in results for example in result.examples][:3]
        raise GaveUp(f"expected at most {max_errors:.2%} unusable rows (--max-errors), found {quarantined} of {total} "
                     f"({quarantined / total:.2%}; {_reasons(results)}), as {', '.join(examples)}: "
                     f"{_remedy(results, sources, 'correct the sources')}, or raise --max-errors")


def _reasons(results: list[ChunkResult]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(sum_counts(result.counts for result in results).reasons.items()))


def _remedy(results: list[ChunkResult], sources: list[Source], otherwise: str) -> str:
    """What to do about rejects: where they are names of no image, whatever the filters are, another thing than otherwise."""
    reasons = sum_counts(result.counts for result in results).reasons
    misnamed = sum(reasons.get(reason, 0) for reason in MISNAMED)
    most = max((count for reason, count in reasons.items() if reason not in (*MISNAMED, NO_LABEL)), default=0)  # an image whose name is mistyped has no label
    if any(source.kind != "folder" for source in sources) or misnamed <= most:
        return otherwise
    keys = [example.removesuffix(f": {MISSING}") for result in results for example in result.examples if example.endswith(f": {MISSING}")]
    places = [storage.join(source.path, key.removeprefix(f"{source.name}/")) for key in keys[:1] for source in sources if key.startswith(f"{source.name}/")]
    found = f", as {storage.shown(places[0])}" if places else ""
    return f"labels name images that are not there{found}; their names are relative to the folder of the images, with their endings: correct them"
