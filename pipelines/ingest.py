"""`textray ingest`: foreign formats -> corpus, by Ray Data.

A chunk of a source (by default 100,000 rows) is one task and becomes one shard. Nothing but chunk descriptions and
counts goes through Ray: each task reads its rows where they lie and writes its shard itself.
"""

import argparse
import hashlib
import os
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath, PurePosixPath

import cv2
import pyarrow as pa

from pipelines.corpus import storage
from pipelines.corpus.account import counted, counts_table
from pipelines.corpus.manifest import SCHEMA_VERSION
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.hashes import hash_set
from pipelines.intake import Chunk, ChunkResult, Options, plan_chunks, room_for, write_chunk
from pipelines.progress import Progress, clock
from pipelines.sources import OPENED_BY, ReadOptions, Source, open_sources
from pipelines.staging import Staging, open_staging
from pipelines.tasks import in_tasks
from pipelines.unique import without_duplicates

DESCRIPTION = """Bring images in foreign formats into a corpus: LMDBs, WebDataset tars, Parquet files, folders of images with or without
labels, scenes with annotated words (cropped), and trees of these, on this machine or at s3://, gs://, hf://. Every row is kept, a duplicate,
filtered (not asked for) or quarantined (unusable); quarantine.parquet in the corpus lists all but the first with their reasons and pictures.
Stopped or killed, the same command continues."""
EXAMPLE = """formats, found by looking or forced as in FORMAT:PATH:
{formats}

examples:
  textray ingest data/words/train --out corpora/words --duplicates near --guard data/words/test
  textray ingest SVT=data/svt.lmdb icdar2015:data/scenes/IC15 s3://bucket/words-{{0000..0099}}.tar --out s3://bucket/corpora/words"""


def parser() -> argparse.ArgumentParser:
    """The command line of `textray ingest`."""
    defaults = Options()
    parse = argparse.ArgumentParser(prog="textray ingest", description=DESCRIPTION,
                                    epilog=EXAMPLE.format(formats=textwrap.fill(", ".join(OPENED_BY), 100, initial_indent="  ", subsequent_indent="  ")),
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("sources", nargs="+", metavar="SOURCE", help="PATH or NAME=PATH, also [NAME=]FORMAT:PATH; keys begin with the name")
    parse.add_argument("--out", required=True, metavar="CORPUS", help="the folder or URI to make")
    parse.add_argument("--max-errors", type=float, default=0.01, metavar="SHARE",
                       help="give up when more than this share of all rows is unusable (default: 0.01)")
    parse.add_argument("--min-side", type=int, default=defaults.min_side, metavar="PIXELS",
                       help="filter images whose smaller side is below this (default: %(default)s)")
    parse.add_argument("--max-aspect", type=float, default=defaults.max_aspect, metavar="RATIO",
                       help="filter images that are longer than RATIO : 1, or higher than 1 : RATIO (default: %(default)s)")
    parse.add_argument("--min-contrast", type=int, default=defaults.min_contrast, metavar="GREY",
                       help="filter blank images, whose lightest and darkest grey values (0 to 255) differ by less (default: %(default)s)")
    parse.add_argument("--unicode", choices=("NFC", "NFKC", "NFD", "NFKD", "as is"), default=defaults.unicode,
                       help="normal form of the labels; every script is kept (default: %(default)s)")
    parse.add_argument("--duplicates", choices=("keep", "exact", "near"), default=defaults.duplicates,
                       help="exact: drop rows with the bytes of an earlier row; near: also those that show the same picture (default: keep)")
    parse.add_argument("--guard", nargs="+", action="extend", default=[], metavar="SET",
                       help="PATH or NAME=PATH of benchmarks: filter every row that is, or nearly is, one of their images")
    parse.add_argument("--max-text-length", type=int, default=0, metavar="N",
                       help="filter labels with more characters than this")
    parse.add_argument("--rows-per-shard", type=int, default=defaults.rows_per_shard, metavar="N",
                       help="default: %(default)s")
    parse.add_argument("--rows-per-group", type=int, default=defaults.rows_per_group, metavar="N",
                       help="row groups are the unit of shuffling (default: %(default)s)")
    parse.add_argument("--allow-holes", action="store_true",
                       help="bring in damaged LMDBs (holes, no num-samples) and cut tars; what is missing is quarantined")
    parse.add_argument("--image-column", metavar="NAME", help="of Parquet files whose column of images is not recognised")
    parse.add_argument("--text-column", metavar="NAME", help="of Parquet files whose column of labels is not recognised")
    parse.add_argument("--vertical", action="store_true", help="turn the crops of vertical words in scenes, so that they lie")
    parse.add_argument("--overwrite", action="store_true",
                       help="replace the corpus at --out, once the new one is whole")
    return parse


def main(argv: list[str] | None = None) -> int:
    """Run `textray ingest` and print the counts per source."""
    arguments = parser().parse_args(argv)
    options = _options(arguments)
    started = time.monotonic()
    reading = ReadOptions(arguments.allow_holes, arguments.image_column, arguments.text_column, arguments.vertical)
    corpus = ingest(arguments.sources, arguments.out, options, max_errors=arguments.max_errors, reading=reading,
                    guard=arguments.guard, overwrite=arguments.overwrite)
    print(counts_table(corpus.manifest))
    size = sum(shard.bytes for shard in corpus.manifest.shards) / 1e6
    print(f"\n{corpus.path}: {corpus.rows:,} images in {counted(len(corpus.manifest.shards), 'shard')}, {size:,.1f} MB, "
          f"in {clock(time.monotonic() - started)}. Look at it: textray describe {corpus.path}")
    return 0


def _options(arguments: argparse.Namespace) -> Options:
    for name, least in (("min_side", 0), ("max_aspect", 1), ("min_contrast", 0), ("max_text_length", 0), ("rows_per_shard", 1), ("rows_per_group", 1)):
        if getattr(arguments, name) < least:
            raise BadInput(f"--{name.replace('_', '-')}: expected {least} or more, "
                           f"found {getattr(arguments, name)}: correct it")
    if not 0 <= arguments.max_errors <= 1:
        raise BadInput(f"--max-errors: expected a share from 0 to 1, found {arguments.max_errors}: "
                       "0.01 is one row in a hundred")
    return Options(**{field.name: getattr(arguments, field.name) for field in fields(Options) if field.name != "guarded"})


def ingest(arguments: list[str], target: str | os.PathLike, options: Options = Options(), *, max_errors: float = 0.01,
           reading: ReadOptions = ReadOptions(), guard: Sequence[str] = (), overwrite: bool = False) -> Corpus:
    """Bring the sources (PATH or NAME=PATH each) into a new corpus at `target`, and open it.

    The bytes are a function of the sources and the options. Raises BadInput, and leaves no corpus, if a source cannot
    be opened (nor one of the benchmarks to `guard`), if more than `max_errors` of all rows are quarantined, or if nothing is kept.
    """
    target = storage.absolute(os.fspath(target))
    sources = open_sources(arguments, reading)
    _check_apart(sources, target)
    made_by = {"command": "ingest", "sources": arguments, "options": {**asdict(options), **asdict(reading)}, "guard": list(guard),
               **_versions()}
    options, guards = replace(options, guarded=bool(guard)), [hash_set(list(guard))] if guard else []
    plan = {**made_by, "fingerprints": [(source.name, source.count(), source.fingerprint) for source in sources],
            "guards": [hashlib.sha256(table["content"].combine_chunks().buffers()[1]).hexdigest() for table in guards]}
    with open_staging(target) as staging, room_for(staging.folder):
        if staging.begin(plan, overwrite):
            results = _run(sources, staging, options, max_errors)
            if options.hashed:
                print("ingest: looks for duplicates", file=sys.stderr)
                results = without_duplicates(results, staging, options, guards, [source.name for source in sources])
                if not any(result.counts.kept for result in results):
                    staging.remove()
                    raise BadInput(f"expected images that stay, found that the benchmarks to guard hold all of them ({_reasons(results)}): "
                                   "check --guard")
            staging.publish(results, made_by)
    return Corpus.open(target)


def _versions() -> dict[str, object]:
    """What else decides the bytes."""
    try:
        textray = version("textray")
    except PackageNotFoundError:  # a job that runs from its working folder
        textray = "not installed"
    return {"textray": textray, "pyarrow": pa.__version__, "opencv": cv2.__version__, "schema_version": SCHEMA_VERSION}


def _check_apart(sources: list[Source], target: str) -> None:
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
        print(f"ingest: continues in {staging.folder}, where {already:,} of {total:,} images are done", file=sys.stderr)
    print(f"ingest: {about}{total:,} images from {counted(len(sources), 'source')}", file=sys.stderr)
    progress = Progress("ingest", total, "images", already)
    try:
        for result in _tasks(missing, staging, options):
            results.append(result)
            progress.add(result.counts.rows_in)
            _check_errors(results, total, max_errors)
        total = sum(result.counts.rows_in for result in results)  # exact now
        _check_errors(results, total, max_errors)
        if not any(result.counts.kept for result in results):
            raise GaveUp(f"expected images that get in, found all {total} rejected ({_reasons(results)}): "
                         "loosen the filters")
    except GaveUp as problem:
        staging.remove()
        raise BadInput(str(problem)) from None
    finally:
        progress.close()
    return results


def _tasks(chunks: list[Chunk], staging: Staging, options: Options) -> Iterator[ChunkResult]:
    """The results of all chunks, in the order in which they finish."""
    folder, done = staging.corpus, staging.done
    return in_tasks(lambda chunk: write_chunk(chunk, folder, done, options), chunks)


class GaveUp(Exception):
    """The sources are too bad to continue with; what was written goes."""


def _check_errors(results: list[ChunkResult], total: int, max_errors: float) -> None:
    quarantined, seen = sum(result.counts.quarantined for result in results), sum(result.counts.rows_in for result in results)
    total = max(total, seen)  # which may have been an estimate
    if quarantined > max_errors * total:
        examples = [example for result in results for example in result.examples][:3]
        raise GaveUp(f"expected at most {max_errors:.2%} unusable rows (--max-errors), found {quarantined} of {total} "
                     f"({quarantined / total:.2%}; {_reasons(results)}), as {', '.join(examples)}: "
                     "correct the sources, or raise --max-errors")


def _reasons(results: list[ChunkResult]) -> str:
    reasons: dict[str, int] = {}
    for result in results:
        for reason, count in result.counts.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("ingest"))
