"""How fast the feed is: images per second up to the uint8 batch, as a share of what the processors can decode at all.

    python benchmarks/feed.py                     on 40,000 drawn words, made first
    python benchmarks/feed.py corpora/words       on a corpus of yours (at least 2,000 images)

Two consumers, as two processes of data-parallel training, each take batches of 256 images of 3 x 32 x 128 for a while. Compared are
  ceiling             a plain loop over encoded images in memory in each process: OpenCV decodes, resizes, stacks; nothing else
  feed                this project: Ray Data reads the shuffled corpus, each consumer decodes in threads
  DataLoader, Pillow  torch's DataLoader over an LMDB, shuffled, as the field's toolkits read (the better of 1 and 2 workers a consumer)
  DataLoader, OpenCV  the same with OpenCV
The contestants take turns, each round in one run on one machine; the table shows medians over rounds. The share is of the ceiling's median.
Targets: feed at least 0.85 of the ceiling and 2.5 times DataLoader with Pillow; its first batch within 3 s once it is warm.
"""

import argparse
import io
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import lmdb
import numpy as np
import ray
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from pipelines.cluster import start_ray
from pipelines.corpus.images import Shape, decode_image
from pipelines.corpus.reader import Corpus
from pipelines.feed.batches import batches, threads_beside
from pipelines.feed.datasource import Readers, ray_blocks
from pipelines.feed.selection import Selection
from pipelines.feed.stream import Share, open_stream
from pipelines.synthesis.corpus import Settings, render_corpus

HEIGHT, WIDTH, BATCH, CONSUMERS = 32, 128, 256, 2
SHAPE = Shape(HEIGHT, WIDTH)


def encoded(corpus: Corpus, count: int) -> list[bytes]:
    """The first images of a corpus."""
    images = itertools.chain.from_iterable(table["image"].to_pylist() for table in corpus.rows_iter(["image"]))
    return list(itertools.islice(images, count))


def plain_batches(corpus: str) -> Iterator[torch.Tensor]:
    """The ceiling: encoded images from memory, decoded one after the other."""
    images = itertools.cycle(encoded(Corpus.open(corpus), 20_000))
    while True:
        batch = np.empty((BATCH, HEIGHT, WIDTH, 3), np.uint8)
        for number in range(BATCH):
            batch[number] = decode_image(next(images), SHAPE)
        yield torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))


class LmdbWords(Dataset):
    """Images of an LMDB as the field's toolkits read them."""

    def __init__(self, path: str, opencv: bool):
        self.path, self.opencv, self._environment = path, opencv, None
        with lmdb.open(path, readonly=True, lock=False) as environment, environment.begin() as transaction:
            self.count = int(transaction.get(b"num-samples"))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._environment is None:
            self._environment = lmdb.open(self.path, readonly=True, lock=False, readahead=False, meminit=False)
        with self._environment.begin() as transaction:
            data = transaction.get(b"image-%09d" % (index + 1))
        if self.opencv:
            image = decode_image(data, SHAPE)
        else:
            image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def loader_batches(path: str, opencv: bool, workers: int) -> Iterator[torch.Tensor]:
    """Batches of torch's DataLoader, epoch after epoch."""
    loader = DataLoader(LmdbWords(path, opencv), BATCH, shuffle=True, num_workers=workers, persistent_workers=True, drop_last=True)
    while True:
        yield from loader


def feed_batches(corpus: str, rank: int, first: int) -> Iterator[torch.Tensor]:
    """This project's batches for one of two workers, from global batch `first` on."""
    stream = open_stream([corpus], Selection(None), batch_size=BATCH, seed=0, workers=CONSUMERS)
    share = Share(rank, CONSUMERS, first, first + 2 * 10**6)
    for part in batches(stream, share, ray_blocks(stream, share, Readers(0.5)), shape=SHAPE, charset=None, decode_threads=threads_beside(CONSUMERS)):
        yield part.images


def consume(taken: Iterator[torch.Tensor], seconds: float, started: float) -> tuple[float, int, float]:
    """(seconds to the first batch, images after it, seconds that they took); the first half as much is not counted: pools fill."""
    next(taken)
    first = time.time() - started
    until = time.perf_counter() + seconds / 2
    while time.perf_counter() < until:
        next(taken)
    images, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        images += len(next(taken))
    return first, images, time.perf_counter() - begun


def in_process(queue, make, arguments: tuple, seconds: float) -> None:
    """A consumer that is a plain process."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    queue.put(consume(make(*arguments), seconds, time.time()))
    queue.close()
    queue.join_thread()
    os._exit(0)  # without waiting for the end of an endless loader


def measure_processes(make, arguments: tuple, seconds: float) -> tuple[float, float]:
    """(images/s of all consumers, seconds to the slowest first batch)."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    consumers = [context.Process(target=in_process, args=(queue, make, arguments, seconds)) for _ in range(CONSUMERS)]
    for consumer in consumers:
        consumer.start()
    found = [queue.get() for _ in consumers]
    for consumer in consumers:
        consumer.join()
    return sum(images / taken for _, images, taken in found), max(first for first, _, _ in found)


@ray.remote(num_cpus=1)
class Consumer:
    """A consumer under Ray, as a training worker is."""

    def ready(self) -> None:
        """Answers once the process stands."""

    def run(self, corpus: str, rank: int, seconds: float, first: int) -> tuple[float, int, float]:
        """Take batches for a while."""
        torch.set_num_threads(1)
        return consume(feed_batches(corpus, rank, first), seconds, time.time())


def measure_feed(corpus: str, seconds: float, position: int) -> tuple[float, float]:
    """(images/s of all consumers, seconds to the slowest first batch). They end with it, and what they have still asked for."""
    consumers = [Consumer.remote() for _ in range(CONSUMERS)]
    ray.get([consumer.ready.remote() for consumer in consumers])
    found = ray.get([consumer.run.remote(corpus, rank, seconds, position) for rank, consumer in enumerate(consumers)])
    for consumer in consumers:
        ray.kill(consumer)
    return sum(images / taken for _, images, taken in found), max(first for first, _, _ in found)


def write_lmdb(corpus: Corpus, path: Path) -> None:
    """The corpus as an LMDB."""
    path.mkdir()
    with lmdb.open(str(path), map_size=2**36) as environment, environment.begin(write=True) as transaction:
        number = 0
        for table in corpus.rows_iter(["image"]):
            for image in table["image"].to_pylist():
                number += 1
                transaction.put(b"image-%09d" % number, image)
        transaction.put(b"num-samples", str(number).encode())


def main() -> int:
    """Print the table; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", help="a corpus (default: 40,000 drawn words)")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start_ray(num_cpus=4)
        if arguments.corpus is None:
            render_corpus(Path(folder, "corpus"), 40_000, Settings("scene"))
        corpus = Corpus.open(arguments.corpus or str(Path(folder, "corpus")))
        path, database = str(Path(corpus.path).absolute()), Path(folder, "lmdb")
        write_lmdb(corpus, database)
        measure_feed(path, 1, 0)  # Ray starts its processes
        contestants = {
            "ceiling": lambda round: measure_processes(plain_batches, (path,), arguments.seconds),
            "feed": lambda round: measure_feed(path, arguments.seconds, round * 10_000),
            **{f"DataLoader, {name}, {workers} worker{'s' * (workers > 1)}": lambda round, opencv=opencv, workers=workers:
               measure_processes(loader_batches, (str(database), opencv, workers), arguments.seconds)
               for name, opencv in (("Pillow", False), ("OpenCV", True)) for workers in (1, 2)}}
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for round in range(arguments.rounds):
            for name, measure in contestants.items():
                rates[name].append(measure(round))
                print(f"round {round + 1}: {name} {rates[name][-1][0]:,.0f} images/s", file=sys.stderr)
    size = sum(shard.bytes for shard in corpus.manifest.shards) / corpus.rows
    print(f"{corpus.rows:,} images of {size:,.0f} bytes on average, {CONSUMERS} consumers, batches of {BATCH} x 3 x {HEIGHT} x {WIDTH}, "
          f"medians of {arguments.rounds} rounds of {arguments.seconds:g} s\n")
    medians = {name: statistics.median(rate for rate, _ in found) for name, found in rates.items()}
    print(f"{'':<30}{'images/s':>10}{'of ceiling':>12}{'first batch, s':>16}")
    for name, rate in medians.items():
        print(f"{name:<30}{rate:>10,.0f}{rate / medians['ceiling']:>12.2f}{statistics.median(first for _, first in rates[name]):>16.1f}")
    pillow = max(rate for name, rate in medians.items() if "Pillow" in name)
    share, ratio = medians["feed"] / medians["ceiling"], medians["feed"] / pillow
    first = statistics.median(first for _, first in rates["feed"])
    print(f"\nfeed: {share:.2f} of the ceiling (target 0.85), {ratio:.1f} x DataLoader with Pillow (target 2.5), first batch {first:.1f} s (target 3)")
    return int(share < 0.85 or ratio < 2.5 or first > 3)


if __name__ == "__main__":
    raise SystemExit(main())
