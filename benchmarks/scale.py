"""Whether memory grows with the corpus: ingest and feed at 50 thousand, 500 thousand and 2 million rows.

    python benchmarks/scale.py corpora/words                        the images of this corpus, repeated
    python benchmarks/scale.py corpora/words --rows 50000 500000

The images are repeated with a comment of their own in each JPEG, so that no two rows have the same bytes, and written to LMDBs of 500,000 rows.
`textray ingest --duplicates exact` brings them in; then one consumer takes 100,000 rows of the shuffled corpus through Ray Data. Of the command
and of all its processes the table shows, sampled twice a second,
  resident  the most anonymous memory of all processes together, MB; files that are mapped (LMDBs) belong to the page cache and are not counted
  shared    the most of Ray's object store, MB
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb

from pipelines.corpus.reader import Corpus

ROWS_PER_LMDB = 500_000
FEED = """
import sys
from itertools import islice
from pipelines.cluster import start_ray
from pipelines.corpus.images import Shape
from pipelines.feed.batches import batches
from pipelines.feed.datasource import Readers, ray_blocks
from pipelines.feed.selection import Selection
from pipelines.feed.stream import Share, open_stream
start_ray()
stream = open_stream([sys.argv[1]], Selection(None), batch_size=256, seed=0)
share = Share(0, 1, 0, 10**6)
taken = sum(len(part.keys) for part in islice(batches(stream, share, ray_blocks(stream, share, Readers(0.5)), shape=Shape(32, 128), charset=None), 400))
print(taken)
"""


def images_of(corpus: Corpus) -> list[bytes]:
    """The JPEGs among the first 10,000 images."""
    images = itertools.chain.from_iterable(table["image"].to_pylist() for table in corpus.rows_iter(["image"]))
    return [image for image in itertools.islice(images, 10_000) if image.startswith(b"\xff\xd8")]


def with_comment(image: bytes, number: int) -> bytes:
    """The JPEG with a comment segment behind its start."""
    return image[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + image[2:]


def write_lmdbs(folder: Path, images: list[bytes], rows: int) -> None:
    """`rows` rows in LMDBs below a folder."""
    repeated = enumerate(itertools.cycle(images))
    for index, start in enumerate(range(0, rows, ROWS_PER_LMDB)):
        place = folder / f"words{index}"
        place.mkdir(parents=True)
        count = min(ROWS_PER_LMDB, rows - start)
        with lmdb.open(str(place), map_size=2**36, sync=False) as environment:
            for first in range(0, count, 10_000):
                with environment.begin(write=True) as transaction:
                    for offset in range(first, min(first + 10_000, count)):
                        number, image = next(repeated)
                        transaction.put(b"image-%09d" % (offset + 1), with_comment(image, number), append=True)
            with environment.begin(write=True) as transaction:
                transaction.put(b"num-samples", str(count).encode())


def memory_of(root: int) -> tuple[int, int]:
    """(anonymous, largest shared) kilobytes of a process and all that it started."""
    parents, status = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines = (entry / "status").read_text(encoding="utf-8").splitlines()
            except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                continue
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            parents[int(entry.name)] = int(fields["PPid"])
            status[int(entry.name)] = [int(fields.get(name, "0").split()[0]) for name in ("RssAnon", "RssShmem")]
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    found = [status[pid] for pid in family if pid in status]
    return sum(anonymous for anonymous, _ in found), max((shared for _, shared in found), default=0)


def measured(command: list[str]) -> tuple[float, float, float]:
    """(seconds, resident MB, shared MB) of a command. Raises CalledProcessError if it fails."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        most = [0, 0]
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(0.5):
                most[:] = [max(pair) for pair in zip(most, memory_of(process.pid))]
        thread = threading.Thread(target=sample)
        thread.start()
        status = process.wait()
        ended.set()
        thread.join()
    if status:
        raise subprocess.CalledProcessError(status, command)
    return time.perf_counter() - started, most[0] / 1024, most[1] / 1024


def lines(images: list[bytes], rows: int, scratch: str | None) -> Iterator[str]:
    """The table's lines for one size."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        write_lmdbs(Path(folder, "in"), images, rows)
        corpus = os.path.join(folder, "corpus")
        ingest = [sys.executable, "-m", "pipelines.ingest", os.path.join(folder, "in"), "--out", corpus, "--duplicates", "exact"]
        for name, command, count in (("ingest", ingest, rows), ("feed", [sys.executable, "-c", FEED, corpus], 400 * 256)):
            seconds, resident, shared = measured(command)
            yield f"{name:<8}{rows:>12,}{count / seconds:>12,.0f}{resident:>12,.0f}{shared:>12,.0f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 500_000, 2_000_000])
    parser.add_argument("--scratch", help="folder for the LMDBs and corpora (2 million rows take about 20 GB)")
    arguments = parser.parse_args()
    images = images_of(Corpus.open(arguments.corpus))
    print(f"{len(images):,} different images of {sum(map(len, images)) / len(images):,.0f} bytes on average\n")
    print(f"{'':<8}{'rows':>12}{'rows/s':>12}{'resident':>12}{'shared':>12}")
    for rows in arguments.rows:
        for line in lines(images, rows, arguments.scratch):
            print(line, flush=True)


if __name__ == "__main__":
    main()
