"""What page checksums cost: reading the row groups of a corpus from memory with and without looking at them, and the sha256 of `verify`.

    python benchmarks/checksums.py CORPUS

Ratios are medians of alternating rounds. The pages lie in the system's memory after the first round, so no disk hides the cost.
"""

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.corpus.images import Shape, decode_image
from pipelines.corpus.reader import Corpus

COLUMNS = ["key", "image", "text"]
ROUNDS, SHAPE = 9, Shape(32, 128)


def read(corpus: Corpus, checked: bool) -> None:
    """Every row group once, as the feed reads them."""
    for shard in corpus.manifest.shards:
        file = pq.ParquetFile(Path(corpus.path, shard.name), page_checksum_verification=checked)
        for index in range(len(shard.row_groups)):
            file.read_row_group(index, columns=COLUMNS)


def decode(corpus: Corpus) -> None:
    """Every image as the feed decodes it, in one thread: what reading is for."""
    for table in corpus.rows_iter(["image"]):
        for image in table["image"]:
            decode_image(image.as_buffer(), SHAPE)


def digest(corpus: Corpus) -> None:
    """The sha256 of every shard, as `textray verify` computes it."""
    for shard in corpus.manifest.shards:
        with open(Path(corpus.path, shard.name), "rb") as file:
            hashlib.file_digest(file, "sha256")


def seconds(work: Callable[[], None]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    corpus = Corpus.open(parser.parse_args().corpus)
    size = sum(shard.bytes for shard in corpus.manifest.shards)
    ways = {"read, checksums not looked at": lambda: read(corpus, False), "read, checksums looked at": lambda: read(corpus, True),
            "read, looked at and decoded": lambda: decode(corpus), "sha256 of the bytes": lambda: digest(corpus), "open": lambda: Corpus.open(corpus.path)}
    taken = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, work in ways.items():
            taken[name].append(seconds(work))
    first = statistics.median(taken["read, checksums not looked at"][1:])
    print(f"{corpus.rows:,} images, {size / 1e6:,.0f} MB, medians of {ROUNDS}\n\n{'':<32}{'ms':>9}{'MB/s':>9}{'ratio':>8}")
    for name, each in taken.items():
        median = statistics.median(each[1:])
        print(f"{name:<32}{1e3 * median:>9.1f}{size / median / 1e6:>9,.0f}{median / first:>8.2f}")


if __name__ == "__main__":
    main()
