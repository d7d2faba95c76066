"""`textray render`: a labeled corpus of synthetic words, drawn in parallel by Ray, one task per shard.

Every picture is a function of style, seed and index, and the shards are cut by the number of pictures alone, so the
corpus is the same to the byte on one CPU or on a thousand.
"""

import argparse
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

from pipelines.corpus import ROWS_PER_GROUP, ShardEntry, ShardWriter, SourceCounts, write_manifest, write_quarantine
from pipelines.errors import BadInput
from pipelines.images import decode_gray, perceptual_hash
from pipelines.synthesis import STYLES, Synthesizer, synthesizer

WANTED_SHARDS = 64  # so that a few dozen CPUs share a corpus of moderate size evenly
MOST_SHARD_ROWS = 100_000  # some 200 MB
GRACE_SECONDS = 10  # for cancelled tasks to end
SHEET_WORDS = 64
SHEET_COLUMNS = 8
SHEET_CELL = (184, 84)  # pixels, width and height, of which the label takes the lowest 16


@dataclass(frozen=True)
class Settings:
    """What decides the pictures. `words` and `fonts` are paths, or None for what is packaged."""

    style: str = "scene"
    seed: int = 0
    charset: str = "94"
    max_length: int = 25
    words: str | None = None
    fonts: str | None = None

    def synthesizer(self) -> Synthesizer:
        """The synthesizer of these settings, made once per process. Raises BadInput if they cannot be met."""
        return synthesizer(self.style, self.charset, self.max_length, self.words, self.fonts)


def shard_ranges(count: int) -> list[tuple[int, int]]:
    """The indices [start, stop) of each shard: whole row groups, about WANTED_SHARDS shards of at most MOST_SHARD_ROWS."""
    groups = -(-count // (WANTED_SHARDS * ROWS_PER_GROUP))
    rows = min(groups * ROWS_PER_GROUP, MOST_SHARD_ROWS)
    return [(start, min(start + rows, count)) for start in range(0, count, rows)]


def render_shard(folder: str, source: str, number: int, start: int, stop: int, settings: Settings) -> ShardEntry:
    """Draw pictures start to stop - 1 into shard `number` of the folder; holds one row group in memory."""
    draw = settings.synthesizer()
    with ShardWriter(folder, source, number) as writer:
        for index in range(start, stop):
            image, text = draw.render(settings.seed, index)
            gray = decode_gray(image)
            writer.write(key=f"{source}/{settings.seed}/{index:09d}", image=image, text=text, width=gray.shape[1],
                         height=gray.shape[0], phash=perceptual_hash(gray))
    return writer.entry


def shards_here(folder: str, source: str, ranges: list[tuple[int, int]], settings: Settings) -> Iterator[ShardEntry]:
    """The shards one after the other, in this process."""
    for number, (start, stop) in enumerate(ranges):
        yield render_shard(folder, source, number, start, stop, settings)


def parallel_shards(folder: str, source: str, ranges: list[tuple[int, int]], settings: Settings) -> Iterator[ShardEntry]:
    """The shards in the order they get done, on every CPU of the cluster; no more tasks are waiting than CPUs can take."""
    import ray

    from pipelines.cluster import cluster_cpus, start_ray
    start_ray()
    task = ray.remote(num_cpus=1)(render_shard)
    waiting = [(folder, source, number, start, stop, settings) for number, (start, stop) in enumerate(ranges)][::-1]
    running: list = []
    try:
        while waiting or running:
            while waiting and len(running) < 2 * max(cluster_cpus(), 1):
                running.append(task.remote(*waiting.pop()))
            done, running = ray.wait(running)
            yield from ray.get(done)
    finally:  # given up: nobody may write any more when the folder is removed
        for unfinished in running:
            ray.cancel(unfinished, force=True)
        if running:
            ray.wait(running, num_returns=len(running), timeout=GRACE_SECONDS)


def render_corpus(out: str | os.PathLike, count: int, settings: Settings, source: str | None = None,
                  progress: Callable[[int, int], None] = lambda done, count: None) -> None:
    """Write a corpus of `count` labeled pictures to the folder `out`, which appears when it is whole.

    Raises BadInput if the settings cannot be met or `out` is taken or cannot be written. A corpus of one shard is drawn
    in this process, a larger one under Ray.
    """
    if count < 1:
        raise BadInput(f"expected at least 1 picture, found {count}: check -n")
    if settings.seed < 0:
        raise BadInput(f"expected a seed of 0 or more, found {settings.seed}: check --seed")
    settings.synthesizer()  # whatever the user got wrong shows before anything is written
    source = source or settings.style
    out = Path(out)
    partial = make_partial(out)
    try:
        ranges = shard_ranges(count)
        shards, done = [], 0
        draw = parallel_shards if len(ranges) > 1 else shards_here
        with closing(draw(str(partial), source, ranges, settings)) as made:
            for entry in made:
                shards.append(entry)
                done += entry.rows
                progress(done, count)
        write_quarantine(partial)
        write_manifest(partial, shards, {source: SourceCounts(rows_in=count, kept=count, labeled=count)},
                       made_by(settings, count))
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_partial(out: Path) -> Path:
    """A new folder beside `out` for the unfinished corpus. Raises BadInput if `out` is taken or cannot be made."""
    if out.is_file() or out.is_dir() and any(out.iterdir()):
        raise BadInput(f"expected a new or empty folder for --out, found that {out} exists: remove it or name another")
    partial = out.absolute().with_name(f"{out.absolute().name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
    except OSError as problem:
        raise BadInput(f"expected to create the folder {out}, found that {problem.strerror.lower()} "
                       f"({problem.filename}): name another --out") from problem
    return partial


def made_by(settings: Settings, count: int) -> dict:
    """How the corpus was made, for its manifest: files by name and content, and the libraries that decide the bytes."""
    made = {"command": "textray render", "count": count, **asdict(settings)}
    if settings.words:
        data = Path(settings.words).read_bytes()
        made["words"] = {"file": Path(settings.words).name, "sha256": hashlib.sha256(data).hexdigest(),
                         "refused": settings.synthesizer().words.refused}
    made["fonts"] = [face.name for face in settings.synthesizer().faces]
    made["versions"] = {name: version(name) for name in ("numpy", "opencv-python-headless", "pillow", "wordfreq")}
    return made


def contact_sheet(settings: Settings, count: int) -> np.ndarray:
    """The first pictures in a grid with their labels below them, (height, width, 3) uint8 BGR."""
    draw = settings.synthesizer()
    wide, high = SHEET_CELL
    sheet = np.full((-(-count // SHEET_COLUMNS) * high, SHEET_COLUMNS * wide, 3), 255, np.uint8)
    for index in range(count):
        data, text = draw.render(settings.seed, index)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        scale = min((wide - 8) / picture.shape[1], (high - 24) / picture.shape[0])
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        top, left = index // SHEET_COLUMNS * high + 4, index % SHEET_COLUMNS * wide + 4
        sheet[top:top + picture.shape[0], left:left + picture.shape[1]] = picture
        cv2.putText(sheet, text, (left, top + high - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (60, 60, 60), 1, cv2.LINE_AA)
    return sheet


def write_sheet(file: str, count: int, settings: Settings) -> None:
    """Write the contact sheet as PNG. Raises BadInput if the file cannot be written."""
    if count < 1:
        raise BadInput(f"expected at least 1 picture, found {count}: check -n")
    done, data = cv2.imencode(".png", contact_sheet(settings, count))
    if not done:
        raise RuntimeError(f"OpenCV could not encode a sheet of {count} pictures as PNG")
    try:
        Path(file).write_bytes(data.tobytes())
    except OSError as problem:
        raise BadInput(f"expected to write {file}, found {problem.strerror.lower()}: name another --sheet") from problem


class Progress:
    """Lines on stderr, one every two seconds at most."""

    def __init__(self) -> None:
        self.started = self.said = time.monotonic()

    def __call__(self, done: int, count: int) -> None:
        """Say how far the work is."""
        now = time.monotonic()
        if now - self.said >= 2 or done == count:
            self.said = now
            rate = done / (now - self.started)
            print(f"render: {done:,} of {count:,} words, {rate:,.0f} a second, {(count - done) / rate:,.0f} s left", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """The options of `textray render`."""
    looks = "\n".join(f"  {style.name:<8} {style.summary}" for style in STYLES.values())
    options = argparse.ArgumentParser(
        prog="textray render", description="Make a labeled corpus of synthetic words, or a sheet to look at.",
        epilog=f"styles:\n{looks}\n\nexamples:\n  textray render --out corpora/synthetic -n 100000 --style scene --charset 36\n"
               "  textray render --sheet look.png --style street -n 64\n", formatter_class=argparse.RawDescriptionHelpFormatter)
    target = options.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", metavar="CORPUS", help="folder of the new corpus")
    target.add_argument("--sheet", metavar="FILE.png", help="only draw the first pictures on one contact sheet")
    options.add_argument("-n", type=int, metavar="COUNT", help="pictures to make (default 100000; 64 on a sheet)")
    options.add_argument("--seed", type=int, default=0, help="another seed gives other pictures (default 0)")
    options.add_argument("--style", default="scene", help=f"{', '.join(STYLES)} (default scene)")
    options.add_argument("--charset", default="94", help="36 (letters and digits; drawn in both cases), 62, 94, or the characters")
    options.add_argument("--max-length", type=int, default=25, help="longest label in characters (default 25)")
    options.add_argument("--words", metavar="FILE", help="draw these lines as they stand, instead of English words and numbers")
    options.add_argument("--fonts", metavar="FOLDER", help="use the .ttf and .otf files below it, instead of the packaged fonts")
    options.add_argument("--source", metavar="NAME", help="name of the source in the corpus (default: the style)")
    return options


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray render`."""
    given = parser().parse_args(argv)
    settings = Settings(given.style, given.seed, given.charset, given.max_length, given.words, given.fonts)
    if given.sheet:
        count = SHEET_WORDS if given.n is None else given.n
        write_sheet(given.sheet, count, settings)
        print(f"{count} pictures in style {given.style}: {given.sheet}")
        return 0
    count = 100_000 if given.n is None else given.n
    words = settings.synthesizer().words
    if words.verbatim and words.refused:
        print(f"render: {words.refused} of {words.refused + len(words.vocabulary)} lines of {given.words} are left out: "
              f"outside the charset, or longer than {given.max_length}", file=sys.stderr)
    render_corpus(given.out, count, settings, given.source, Progress())
    print(f"{count:,} labeled pictures in style {given.style}, seed {given.seed}: {given.out}")
    return 0


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("render"))
