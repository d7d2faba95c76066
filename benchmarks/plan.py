"""What planning 100 million rows costs: seconds and megabytes until the first batch can be read.

    python benchmarks/plan.py             100 million rows in row groups of 1000, shards of 100,000
    python benchmarks/plan.py 1000000000

A manifest as `textray ingest` writes it is made for a corpus whose shards do not exist; what is measured is what every worker does before
it reads: parse the manifest, count the rows, permute the row groups of an epoch, cut its own slice, list its first windows. In one process,
on one core. Target for 100 million rows: 5 s and 200 MB.
"""

import argparse
import pickle
import resource
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from pipelines.corpus.manifest import Manifest, ShardEntry, SourceCounts
from pipelines.corpus.reader import Corpus
from pipelines.feed.plan import Mix, Plan, lanes_for
from pipelines.feed.selection import Selection, usable_rows
from pipelines.feed.stream import Ingredient, Share, Stream

GROUP, SHARD = 1_000, 100_000


def write_synthetic_manifest(path: Path, rows: int) -> None:
    """corpus.json of a corpus of `rows` rows."""
    shards = [ShardEntry(name=f"part-words-{index:05d}.parquet", source="words", rows=SHARD, bytes=300_000_000, sha256="0" * 64,
                         row_groups=[GROUP] * (SHARD // GROUP)) for index in range(rows // SHARD)]
    manifest = Manifest(rows=rows, sources={"words": SourceCounts(rows_in=rows, kept=rows)}, shards=shards, made_by={"command": "benchmark"})
    path.write_text(manifest.model_dump_json(by_alias=True, indent=1), encoding="utf-8")


def peak() -> float:
    """The most memory that this process ever had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Print the table; 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", type=int, default=100_000_000)
    parser.add_argument("--workers", type=int, default=64, help="of data-parallel training (default: 64)")
    parser.add_argument("--manifest", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.manifest is None:  # in a process of its own: what makes the manifest must not count
        import subprocess
        with tempfile.TemporaryDirectory() as folder:
            write_synthetic_manifest(Path(folder, "corpus.json"), arguments.rows)
            return subprocess.run([sys.executable, __file__, str(arguments.rows), "--workers", str(arguments.workers), "--manifest", folder]).returncode
    imported, started = peak(), time.perf_counter()
    steps = []

    def done(step: str) -> None:
        steps.append((step, time.perf_counter() - started, peak() - imported))

    data = Path(arguments.manifest, "corpus.json").read_bytes()
    corpus = Corpus(arguments.manifest, Manifest.model_validate_json(data), "")
    done(f"manifest of {len(data) / 1e6:.1f} MB parsed")
    (counts,), _ = usable_rows(corpus, [Selection(None)])
    plan = Plan(counts, seed=0, lanes=lanes_for(arguments.workers))
    stream = Stream((Ingredient(corpus.path, Selection(None), plan),), Mix([1]), 256, {})
    done(f"plan of {len(counts):,} row groups, {len(pickle.dumps(stream)) / 1e6:.1f} MB to send to a worker")
    readings = list(islice(stream.readings(Share(arguments.workers - 1, arguments.workers, 10**6, 10**7)), 256))
    for reading in readings[:8]:
        plan.row_ids(reading.window)
    done("the last worker's first million rows from batch 1,000,000 on listed, 8 windows resolved")
    print(f"{arguments.rows:,} rows, {arguments.workers} workers; {imported:.0f} MB before it starts (imports)\n")
    print(f"{'':<95}{'seconds':>9}{'MB more':>9}")
    for step, seconds, megabytes in steps:
        print(f"{step:<95}{seconds:>9.2f}{megabytes:>9.0f}")
    return int(steps[-1][1] > 5 or steps[-1][2] > 200)


if __name__ == "__main__":
    raise SystemExit(main())
