"""Duplicates: recall of each change, false merges, what the training sets share with the test sets, and the rate of `find`.

    python benchmarks/duplicates.py [DATA] [--quick] [--pictures FOLDER]

DATA holds words/, scripts/ and handwriting/ (default: $TEXTRAY_DATA, or shared/data beside the repository). --pictures writes
every merged pair of the real sets as contact sheets, to be looked at. Targets: recall 0.99 of exact and 0.9 of near
copies, less than 0.1 % of the rows merged with a row whose label differs.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from changes import CHANGES  # noqa: E402
from pipelines.corpus.images import decode_gray  # noqa: E402
from pipelines.ingestion.duplicates.hashes import Hashed, hash_rows, hashed, label_hash, write_hashes
from pipelines.ingestion.duplicates.search import HashFile, find  # noqa: E402
from pipelines.ingestion.duplicates.similarity import SIGNATURE_BYTES  # noqa: E402
from pipelines.ingestion.guard import hash_set  # noqa: E402
from pipelines.ingestion.wordsets import open_sets  # noqa: E402

SETS = ("words/train/IIIT5K", "words/train/IC15", "words/train/SVT", "words/wires", "scripts/bengali", "scripts/greek",
        "scripts/plates_cn", "handwriting/lectaurep", "handwriting/testaments_train")
BENCHMARKS = ("words/test/SVT", "words/test/IIIT5K", "words/test/IC13")
CELL = (200, 48)  # pixels of a picture on a contact sheet, width and height

Words = list[tuple[str, bytes, str | None]]


def read(data: Path, name: str) -> Words:
    """Every row of a set."""
    return [(key, image, text) for words in open_sets([f"{name.rpartition('/')[2]}={data / name}"])
            for key, image, text in words.read() if image]


def stored(folder: str, rows: list[Hashed], source: str) -> HashFile:
    """The rows in a file of hashes."""
    path = os.path.join(folder, source.replace("/", "_"))
    write_hashes(path, hash_rows(rows))
    return HashFile(source, 0, path)


def results(files: list[HashFile], guards: list[pa.Table] = (), **options: bool) -> list[dict]:
    """The rows to drop."""
    return [row for table in find(files, guards, **options) for row in table.to_pylist()]


def recall(sets: dict[str, Words], every: int, folder: str) -> bool:
    """The table of planted copies; without labels, all sets together. Whether the target is met."""
    rows = [row for words in sets.values() for row in words][::every]
    originals = stored(folder, [hashed(image, None, decode_gray(image)) for _, image, _ in rows], "originals")
    images = [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) for _, image, _ in rows]
    print(f"Recall: a changed copy of each of {len(rows):,} images of the real sets is planted, without labels\n")
    print(f"{'':<28}{'found':>8}{'recall':>9}")
    met = True
    changes = {"the same bytes": None, **CHANGES}
    for name, change in changes.items():
        data = [rows[number][1] if change is None else change(image) for number, image in enumerate(images)]
        copies = stored(folder, [hashed(image, None, decode_gray(image)) for image in data], "copies")
        found = sum(row["source"] == "copies" for row in results([originals, copies]))
        met &= found >= (0.99 if change is None else 0.9) * len(rows)
        print(f"{name:<28}{found:>8,}{found / len(rows):>9.3f}")
    return met


def merges(sets: dict[str, Words], folder: str, pictures: Path | None) -> bool:
    """The table of what is merged within each real set. Whether the target is met."""
    print(f"\nMerged within each set\n\n{'':<36}{'without labels':>30}{'with labels':>30}")
    print(f"{'':<28}{'rows':>8}{'exact':>8}{'near':>8}{'label differs':>15}{'exact':>8}{'near':>8}{'label differs':>15}")
    met = True
    for name, words in sets.items():
        line = f"{name:<28}{len(words):>8,}"
        for labeled in (False, True):
            rows = [hashed(image, text if labeled else None, decode_gray(image)) for _, image, text in words]
            found = results([stored(folder, rows, "set")])
            near = [row for row in found if row["reason"] == "near duplicate"]
            wrong = [row for row in near if label_hash(words[row["row"]][2]) != label_hash(words[row["match_row"]][2])]
            line += f"{len(found) - len(near):>8}{len(near):>8}{len(wrong):>8} {len(wrong) / len(words):>6.2%}"
            met &= not labeled or len(wrong) < 0.001 * len(words)
            if pictures and not labeled:
                pairs = [(words[row["row"]], words[row["match_row"]], row["similarity"]) for row in near]
                sheets(pairs, pictures, name.replace("/", "_"))
        print(line)
    return met


def leakage(data: Path, sets: dict[str, Words], folder: str, pictures: Path | None) -> None:
    """The table of training images that a benchmark holds: the same bytes + nearly."""
    print("\nTraining images that a test set holds (the same bytes + nearly)\n")
    print(f"{'':<28}" + "".join(f"{name.rpartition('/')[2]:>14}" for name in BENCHMARKS))
    guards = {name: (hash_set([f"{name.rpartition('/')[2]}={data / name}"]), read(data, name)) for name in BENCHMARKS}
    for name, words in sets.items():
        line = f"{name:<28}"
        file = stored(folder, [hashed(image, text, decode_gray(image)) for _, image, text in words], "set")
        for benchmark, (guard, images) in guards.items():
            found = results([file], [guard], exact=False, near=False)
            same = sum(row["reason"] == "benchmark image" for row in found)
            line += f"{f'{same} + {len(found) - same}':>14}"
            if pictures:
                by_key = dict(zip(guard["key"].to_pylist(), images, strict=True))
                pairs = [(words[row["row"]], by_key[row["match_key"]], row["similarity"]) for row in found]
                sheets(pairs, pictures, f"{name} in {benchmark}".replace("/", "_"))
        print(line)


def sheets(pairs: list[tuple], folder: Path, name: str) -> None:
    """Write pairs of pictures with their similarity and labels, least similar first, 40 to a sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = sorted(pairs, key=lambda pair: pair[2])
    for number in range(0, len(pairs), 40):
        cells = [cell(*pair) for pair in pairs[number:number + 40]]
        cells += [np.full_like(cells[0], 255)] * (-len(cells) % 5)
        sheet = np.vstack([np.hstack(cells[row:row + 5]) for row in range(0, len(cells), 5)])
        cv2.imwrite(str(folder / f"{name}-{number // 40}.png"), sheet)


def cell(one: tuple, other: tuple, similarity: float) -> np.ndarray:
    """Two pictures above each other."""
    width, height = CELL
    picture = np.full((2 * height + 16, width + 4, 3), 255, np.uint8)
    for place, (_, data, _) in enumerate((one, other)):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        factor = min(width / image.shape[1], height / image.shape[0])
        image = cv2.resize(image, (max(1, int(image.shape[1] * factor)), max(1, int(image.shape[0] * factor))))
        picture[place * height:place * height + image.shape[0], :image.shape[1]] = image
    text = f"{similarity:.4f} {one[2]} | {other[2]}".encode("ascii", "replace").decode()
    cv2.putText(picture, text[:36], (2, 2 * height + 11), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0, 0, 200), 1, cv2.LINE_AA)
    return picture


def synthetic(rows: int, share: float = 0.1) -> Iterator[pa.Table]:
    """Hashes of random smooth pictures, `share` of them near copies of earlier ones, 50,000 rows each."""
    rng = np.random.default_rng(0)
    for start in range(0, rows, 50_000):
        count = min(50_000, rows - start)
        weight = 1 / (1 + np.hypot(*np.mgrid[:8, :32]))
        data = rng.normal(0, 1, (count, 8, 32)) * weight
        copies = np.flatnonzero(rng.random(count) < share)
        data[copies[1:]] = data[copies[1:] - 1]
        data /= np.linalg.norm(data, axis=(1, 2), keepdims=True)
        data[copies] += rng.normal(0, 2e-4, (len(copies), 8, 32))
        roots = np.rint(np.sign(data) * np.sqrt(np.abs(data)) * 127).astype(np.int8).reshape(count, SIGNATURE_BYTES)
        content = rng.integers(0, 256, (count, 16), dtype=np.uint8)
        yield pa.table({
            "row": pa.array(range(count), pa.int32()),
            "content": pa.Array.from_buffers(pa.binary(16), count, [None, pa.py_buffer(content)]),
            "signature": pa.Array.from_buffers(pa.binary(SIGNATURE_BYTES), count, [None, pa.py_buffer(roots)]),
            "width": pa.array(rng.integers(192, 200, count), pa.int32()), "height": pa.array(np.full(count, 40), pa.int32()),
            "label": pa.array(np.zeros(count), pa.uint64()), "blank": pa.array(np.zeros(count, bool)),
        })


def rate(rows: int, partitions: int, folder: str) -> None:
    """Rows a second of `find`, and memory."""
    files = []
    for index, table in enumerate(synthetic(rows)):
        files.append(HashFile("synthetic", index, os.path.join(folder, f"synthetic-{index}")))
        write_hashes(files[-1].path, table)
    started = time.perf_counter()
    found = sum(map(len, find(files, partitions=partitions)))
    seconds = time.perf_counter() - started
    size = sum(os.path.getsize(file.path) for file in files) / rows
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    where = "this process alone" if partitions == 1 else f"Ray, {partitions} partitions, with its start"
    print(f"{where:<44}{rows:>10,}{found:>10,}{seconds:>8.1f}{rows / seconds:>10,.0f}{size:>12.0f}{memory:>12,.0f}")


def main() -> int:
    """Print the tables; 1 if a target is missed."""
    parse = argparse.ArgumentParser()
    parse.add_argument("data", nargs="?", type=Path, default=Path(os.environ.get("TEXTRAY_DATA", ROOT.parent / "shared" / "data")))
    parse.add_argument("--quick", action="store_true", help="fewer planted copies and rows")
    parse.add_argument("--pictures", type=Path)
    arguments = parse.parse_args()
    sets = {name: read(arguments.data, name) for name in SETS}
    with tempfile.TemporaryDirectory() as folder:
        met = recall(sets, 20 if arguments.quick else 8, folder)
        met &= merges(sets, folder, arguments.pictures)
        leakage(arguments.data, sets, folder, arguments.pictures)
        print(f"\nRate of find, 10 % near copies\n\n{'':<44}{'rows':>10}{'found':>10}{'s':>8}{'rows/s':>10}"
              f"{'bytes/row':>12}{'peak MB':>12}")
        rate(50_000 if arguments.quick else 200_000, 1, folder)
        rate(200_000, 4, folder)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
