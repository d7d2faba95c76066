"""Images per second and core of ingest (read, decode, check, hash, write Parquet), against a loop that only decodes.

    python benchmarks/ingest.py [SOURCE]     an LMDB or a folder; by default 8000 drawn words

One process, no Ray: what one core does. The limit is a loop of OpenCV over the same bytes in memory. Target: at least
half of it.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import lmdb
import numpy as np

from pipelines.corpus.images import decode_gray, hash_thumbnail, perceptual_hashes
from pipelines.ingestion.chunks import Chunk, Options, write_chunk
from pipelines.ingestion.sources.opening import open_sources
from pipelines.ingestion.sources.row import Source

DRAWN = 8000
REPEATS = 7
LIMIT = "decode only, colour"


def drawn_words(folder: Path) -> str:
    """An LMDB of words on noise, 40 to 200 pixels wide, as JPEG."""
    rng = np.random.default_rng(0)
    with lmdb.open(str(folder), map_size=2**30) as environment, environment.begin(write=True) as transaction:
        for number in range(1, DRAWN + 1):
            height, width = int(rng.integers(16, 64)), int(rng.integers(40, 200))
            image = cv2.resize(rng.integers(0, 255, (4, 8, 3), dtype=np.uint8), (width, height),
                               interpolation=cv2.INTER_CUBIC)
            cv2.putText(image, f"{number}", (4, height - 5), cv2.FONT_HERSHEY_SIMPLEX, height / 40, (255, 255, 255), 2,
                        cv2.LINE_AA)
            transaction.put(b"image-%09d" % number, cv2.imencode(".jpg", image)[1].tobytes())
            transaction.put(b"label-%09d" % number, b"%d" % number)
        transaction.put(b"num-samples", b"%d" % DRAWN)
    return str(folder)


def rates(images: int, works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Images per second of each work. They take turns and the best of REPEATS counts: other load weighs on all."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(REPEATS):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: images / seconds for name, seconds in best.items()}


def ingest_all(source: Source, folder: str, duplicates: str = "keep") -> None:
    """The whole source as one shard."""
    write_chunk(Chunk(source.name, 0, next(source.pieces(source.count()))), folder, folder, Options(duplicates=duplicates))


def hash_all(data: list[bytes]) -> None:
    """Decode and hash, 1000 at a time."""
    for start in range(0, len(data), 1000):
        perceptual_hashes(np.stack([hash_thumbnail(decode_gray(image)) for image in data[start:start + 1000]]))


def main() -> int:
    """Print the table; 1 if the target is missed."""
    with tempfile.TemporaryDirectory() as folder:
        source, = open_sources([sys.argv[1] if len(sys.argv) > 1 else drawn_words(Path(folder, "words"))])
        data = [row.image for piece in source.pieces(10_000) for row in piece.read() if row.image is not None]
        found = rates(len(data), {
            LIMIT: lambda: [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) for image in data],
            "decode only, grey": lambda: [decode_gray(image) for image in data],
            "decode and hash": lambda: hash_all(data),
            "ingest": lambda: ingest_all(source, folder),
            "ingest for --duplicates": lambda: ingest_all(source, folder, "near"),
        })
    print(f"{len(data)} images of {sum(map(len, data)) / len(data):,.0f} bytes on average, "
          f"one core, best of {REPEATS}\n")
    print(f"{'':<25}{'images/s':>10}{'of limit':>10}")
    for name, rate in found.items():
        print(f"{name:<25}{rate:>10,.0f}{rate / found[LIMIT]:>10.2f}")
    return 0 if found["ingest"] >= 0.5 * found[LIMIT] else 1


if __name__ == "__main__":
    raise SystemExit(main())
