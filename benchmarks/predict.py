"""How much of a recognizer's own speed `textray predict` keeps: one core, the same images, the same process.

    python benchmarks/predict.py CORPUS [--recognizers crnn trba crnn_tiny] [--images 512] [--rounds 3]

Three ways take turns (A B C A B C …), each on one core and with one thread of arithmetic:
  bare        the recognizer alone: images that are decoded and on the device, in batches of 256
  predict     what a worker of `textray predict` does: rows of the corpus read, decoded, recognized, readings written
  evaluate    what `textray evaluate` does with the same rows
Weights are random, which costs the same; decoders that write symbol by symbol write all of theirs. Target: 0.9 of bare where the recognizer
dominates; for crnn_tiny, whose arithmetic takes an image no longer than its decoding, the ratio is that of decoding.
"""

import argparse
import os
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from itertools import islice

import cv2
import torch

from models.charset import Charset
from models.recognizers import build
from pipelines.corpus.images import decode_image
from pipelines.corpus.reader import Corpus
from pipelines.evaluation.measure import evaluate_recognizer
from pipelines.ingestion.chunks import Chunk
from pipelines.ingestion.sources.row import Row
from pipelines.prediction.labeler import Labeler, Manner, Reader
from pipelines.prediction.readings import write_block
from pipelines.prediction.sources import open_all
from pipelines.reading.batches import as_input, shape_of

BATCH = 256
GREEDY = Namespace(beam=None, ngram=None, ngram_weight=0.3, bcn=None, bcn_weight=0.3, lexicon=None, both_ways_up=False)


class Front:
    """The first rows of a corpus, as a piece of it."""

    def __init__(self, corpus: str, rows: int):
        self.rows = min(rows, Corpus.open(corpus).rows)
        self._sources = open_all([corpus])

    def read(self) -> islice:
        """Read from the disk each time."""
        return islice((row for source in self._sources for piece in source.pieces(1) for row in piece.read()), self.rows)


def ways(name: str, front: Front, folder: str) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    recognizer = build(name, Charset.named("36")).eval().to(memory_format=torch.channels_last)
    labeler = Labeler(f"{name}@random", recognizer, {"weights_sha256": ""})
    reader, shape, device = Reader(labeler, Manner(BATCH, "float32", GREEDY), torch.device("cpu")), shape_of(recognizer), torch.device("cpu")
    rows: list[Row] = list(front.read())
    batches = [as_input([decode_image(row.image, shape) for row in rows[start:start + BATCH]], device) for start in range(0, len(rows), BATCH)]

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                recognizer.read(batch)

    return {"bare": bare, "predict": lambda: write_block(reader, Chunk("words", 0, front), folder),
            "evaluate": lambda: evaluate_recognizer(recognizer, ((row.key, row.image, row.text) for row in front.read()), batch_size=BATCH)}


def main() -> None:
    """Print the table."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("corpus")
    parse.add_argument("--recognizers", nargs="+", default=["crnn", "trba", "crnn_tiny"])
    parse.add_argument("--images", type=int, default=512)
    parse.add_argument("--rounds", type=int, default=3)
    options = parse.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    print(f"{'':<12}{'images/s':>10}{'':>10}{'':>10}{'predict/bare':>14}{'evaluate/bare':>15}\n{'':<12}{'bare':>10}{'predict':>10}{'evaluate':>10}")
    for name in options.recognizers:
        torch.manual_seed(0)
        front, seconds = Front(options.corpus, options.images), {}
        with tempfile.TemporaryDirectory() as folder:
            found = ways(name, front, folder)
            for number in range(options.rounds + 1):
                for way, run in found.items():
                    started = time.process_time()  # of all threads: what others do on the machine does not count
                    run()
                    if number:  # the first is a warm-up
                        seconds.setdefault(way, []).append(time.process_time() - started)
        rate = {way: front.rows / statistics.median(times) for way, times in seconds.items()}
        ratio = {way: statistics.median(bare / own for bare, own in zip(seconds["bare"], seconds[way])) for way in ("predict", "evaluate")}
        print(f"{name:<12}{rate['bare']:>10,.0f}{rate['predict']:>10,.0f}{rate['evaluate']:>10,.0f}{ratio['predict']:>14.2f}{ratio['evaluate']:>15.2f}", flush=True)


if __name__ == "__main__":
    main()
