"""What becomes of a run whose checkpoints or state were damaged, and of one that fills its disk: is it continued, and to the same bits?

    python benchmarks/drills/checkpoints.py [--part 1/4]

Trains a small run once, whole. Then, for every damage: a copy of the run as a kill behind its last checkpoint leaves it, damaged, and
continued by the call that the command makes. Then, for several sizes of a disk (a tmpfs, which only root may mount): the same run on that
disk until it is full, the disk made larger, the same call again. Prints a table; exits with 1 if a run that could go on did not, if one ended
with other weights, or if anything but one sentence came.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pipelines.cluster import start_ray
from pipelines.errors import BadInput
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.training.driver import train
from pipelines.training.recipe import Recipe, parse_recipe
from pipelines.training.runs import RunFolder

STEPS, EVERY, KEPT = 8, 2, 3
DISKS = (0.002, 0.5, 1.01, 1.5, 2.02, 2.5, 3.02, 3.5, 4.1)  # in checkpoints


def recipe(words: Path) -> Recipe:
    """Eight steps, a checkpoint every two, of which three are kept."""
    return parse_recipe({"name": "drill", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"},
                         "data": {"labeled": {"corpus": str(words), "batch_size": 8}},
                         "training": {"steps": STEPS, "checkpoint_every": EVERY, "keep_checkpoints": KEPT, "log_every": 1, "threads_per_worker": 1,
                                      "cpus_per_worker": 0.5, "max_failures": 0}})


def checkpoints(run: Path) -> list[Path]:
    """The newest first."""
    return sorted(run.glob("checkpoints/checkpoint_2*"), reverse=True)


def _spoil(change: Callable[[bytes], bytes], file: str, newest: int = 1) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        for folder in checkpoints(run)[:newest]:
            (folder / file).write_bytes(change((folder / file).read_bytes()))
    return spoil


def _list(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        file = run / "checkpoints" / "checkpoint_manager_snapshot.json"
        file.write_bytes(change(file.read_bytes()))
    return spoil


def _append(file: str, data: bytes) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        with open(run / file, "ab") as opened:
            opened.write(data)
    return spoil


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]


# what is done to the run, and the step from which it must go on
DAMAGES: dict[str, tuple[Callable[[Path], None], int]] = {
    "nothing": (lambda run: None, STEPS),
    "newest state.pt cut short": (_spoil(lambda data: data[:-1000], "state.pt"), STEPS - EVERY),
    "newest state.pt empty": (_spoil(lambda data: b"", "state.pt"), STEPS - EVERY),
    "newest state.pt all zeros": (_spoil(lambda data: bytes(len(data)), "state.pt"), STEPS - EVERY),
    "one bit of the newest state.pt": (_spoil(_flip, "state.pt"), STEPS - EVERY),
    "newest without state.pt": (lambda run: (checkpoints(run)[0] / "state.pt").unlink(), STEPS - EVERY),
    "newest without its record": (lambda run: (checkpoints(run)[0] / "checkpoint.json").unlink(), STEPS - EVERY),
    "record of the newest empty": (_spoil(lambda data: b"", "checkpoint.json"), STEPS - EVERY),
    "the two newest cut short": (_spoil(lambda data: data[:100], "state.pt", 2), STEPS - 2 * EVERY),
    "all cut short": (_spoil(lambda data: data[:100], "state.pt", KEPT), 0),
    "newest folder gone": (lambda run: shutil.rmtree(checkpoints(run)[0]), STEPS - EVERY),
    "Ray's list empty": (_list(lambda data: b""), STEPS),
    "Ray's list cut short": (_list(lambda data: data[:200]), STEPS),
    "Ray's list gone": (lambda run: (run / "checkpoints" / "checkpoint_manager_snapshot.json").unlink(), STEPS),
    "a torn line in progress.jsonl": (_append("progress.jsonl", b'{"step": 9, "ti'), STEPS),
    "zeros behind progress.jsonl": (_append("progress.jsonl", bytes(4096)), STEPS),
    "recipe.yaml empty": (lambda run: (run / "recipe.yaml").write_bytes(b""), STEPS),
    "a model without its description": (lambda run: (run / "model").mkdir() or (run / "model" / "weights.pt").write_bytes(b"PK"), STEPS),
}


def weights(run: Path) -> bytes:
    """The finished model."""
    return (run / "model" / "weights.pt").read_bytes()


def steps(run: Path) -> list[int]:
    """The steps that were logged, in the order of the file."""
    return [line["step"] for line in map(json.loads, (run / "progress.jsonl").read_text(encoding="utf-8").splitlines()) if "loss" in line]


def killed_copy(whole: Path, run: Path) -> Path:
    """The whole run as a kill behind its last checkpoint leaves it."""
    shutil.copytree(whole, run)
    shutil.rmtree(run / "model")
    state = RunFolder(run).state()
    state.status = "running"
    RunFolder(run).write(state)
    return run


def damaged(words: Path, whole: Path, run: Path, name: str) -> tuple[str, bool]:
    """What came of a damage, and whether that is right."""
    spoil, first = DAMAGES[name]
    spoil(killed_copy(whole, run))
    try:
        train(recipe(words), folder=run, quiet=True)
    except BadInput as problem:
        return f"refused: {problem}", False
    again, equal = steps(run)[STEPS:], weights(run) == weights(whole)
    return f"went on from step {STEPS - len(again)}, {'the same bits' if equal else 'OTHER WEIGHTS'}", \
        equal and again == list(range(first + 1, STEPS + 1))


@contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of that size."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def size_of(whole: Path) -> int:
    """KiB of a checkpoint."""
    return sum(file.stat().st_size for file in checkpoints(whole)[0].iterdir()) // 1024


def filled(words: Path, whole: Path, place: Path, kilobytes: int) -> tuple[str, bool]:
    """What came of a run on a disk of that size, made larger when it was full."""
    with small_disk(place, kilobytes) as disk:
        run = disk / "drill"
        try:
            train(recipe(words), folder=run, quiet=True)
            return f"it sufficed, {'the same bits' if weights(run) == weights(whole) else 'OTHER WEIGHTS'}", weights(run) == weights(whole)
        except BadInput as problem:
            if "disk full" not in str(problem):
                return f"refused: {problem}", False
        before = len(steps(run)) if (run / "progress.jsonl").exists() else 0
        subprocess.run(["mount", "-o", f"remount,size={100 * size_of(whole)}k", str(disk)], check=True)
        train(recipe(words), folder=run, quiet=True)
        again, equal = steps(run)[before:], weights(run) == weights(whole)
        return f"one sentence, behind {before} steps; with room it went on from step {STEPS - len(again)}, " \
               f"{'the same bits' if equal else 'OTHER WEIGHTS'}", equal


def main() -> int:
    """Run the drill."""
    parser = argparse.ArgumentParser(description="Damage a run's checkpoints and state, fill its disk, and continue it.")
    parser.add_argument("--part", default="1/1", metavar="N/OF", help="only every OF-th case, from the N-th: they take half a minute each")
    number, of = map(int, parser.parse_args().part.split("/"))
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{place / 'mlflow.db'}"
        words, whole = place / "words", place / "whole"
        render_corpus(words, 60, Settings(style="plain", charset="36"))
        start_ray(num_cpus=4)
        train(recipe(words), folder=whole, quiet=True)
        one = size_of(whole)
        cases = {name: partial(damaged, words, whole, place / f"damage{index}", name) for index, name in enumerate(DAMAGES)}
        if os.geteuid() == 0:
            cases |= {f"a disk of {size:g} checkpoints": partial(filled, words, whole, place / f"disk{index}", int(size * one))
                      for index, size in enumerate(DISKS)}
        right = []
        print("| what was done | what the same command then did |\n|---|---|")
        for name, case in [*cases.items()][number - 1::of]:
            became, well = case()
            print(f"| {name} | {became}{'' if well else '  **WRONG**'} |", flush=True)
            right.append(well)
        print(f"\n{sum(right)} of {len(right)} as they should be", file=sys.stderr)
        return 0 if all(right) else 1


if __name__ == "__main__":
    raise SystemExit(main())
