"""Word images as a user has them: a thousand of an LMDB, drawn by a seed, as files in photos/, a hundred labels in labels.csv, and what the others say in rest.csv.

    python benchmarks/experiments/crops.py data/words/train/IIIT5K
    textray ingest rest=photos --labels rest.csv --only labeled --out corpora/rest
"""

import csv
import sys
from pathlib import Path
from random import Random

import lmdb

COUNT, LABELED, SEED = 1000, 100, 1


def main() -> None:
    """Write the files into the working folder."""
    Path("photos").mkdir()
    with lmdb.open(sys.argv[1], readonly=True, lock=False) as opened, opened.begin() as lines, open("labels.csv", "w", newline="", encoding="utf-8") as few, \
            open("rest.csv", "w", newline="", encoding="utf-8") as rest:
        listed, kept_back = csv.writer(few), csv.writer(rest)
        listed.writerow(["filename", "label"])
        kept_back.writerow(["filename", "label"])
        for number, row in enumerate(Random(SEED).sample(range(int(lines.get(b"num-samples"))), COUNT)):
            image, label = lines.get(f"image-{row + 1:09}".encode()), lines.get(f"label-{row + 1:09}".encode()).decode()
            name = f"IMG_{number:04}{'.png' if image.startswith(bytes([0x89])) else '.jpg'}"
            Path("photos", name).write_bytes(image)
            (listed if number < LABELED else kept_back).writerow([name, label])


if __name__ == "__main__":
    main()
