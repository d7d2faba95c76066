"""A folder of pictures with a labels.tsv as two such folders: one half by a hash of the key to learn from, the other to measure on.

    python benchmarks/experiments/halves.py data/words/wires halves      halves/first/wires, without labels, and halves/second/wires, with them

They are the halves of experiments/wires.yaml: a key is the folder's name and the picture's path in it.
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from one_change import place_of  # noqa: E402


def main(source: Path, target: Path) -> None:
    """Copy each picture into its half."""
    lines = {"first": [], "second": []}
    for line in (source / "labels.tsv").read_text(encoding="utf-8").splitlines():
        picture = line.split("\t")[0]
        half = "first" if place_of(f"{source.name}/{picture}") < 0.5 else "second"
        lines[half].append(line)
        place = target / half / source.name / picture
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / picture, place)
    (target / "second" / source.name / "labels.tsv").write_text("\n".join(lines["second"]) + "\n", encoding="utf-8")
    print(", ".join(f"{target / half}: {len(found):,} pictures" for half, found in lines.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
