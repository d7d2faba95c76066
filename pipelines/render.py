"""`textray render`: a labeled corpus of synthetic words, drawn in parallel by Ray, one task per shard.

Every picture is a function of style, seed and index, and the shards are cut by the number of pictures alone, so the
corpus is the same to the byte on one CPU or on a thousand.
"""

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

from pipelines.corpus.reader import Corpus
from pipelines.corpus.shards import ROWS_PER_GROUP
from pipelines.errors import BadInput
from pipelines.intake import Chunk, ChunkResult, Options, plan_chunks, write_chunk
from pipelines.progress import Progress
from pipelines.sources.row import Row, Span, spans
from pipelines.staging import Staging, open_staging
from pipelines.synthesis import STYLES, Synthesizer, synthesizer

WANTED_SHARDS = 64  # so that a few dozen CPUs share a corpus of moderate size evenly
MOST_SHARD_ROWS = 100_000  # some 200 MB
LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "wordfreq")  # their versions decide the bytes, too
SHEET_WORDS = 64
SHEET_COLUMNS = 8
SHEET_CELL = (184, 84)  # pixels, width and height, of which the label takes the lowest 16


# What was asked for is kept, however small or faint it came out: a corpus of 1000 words has 1000.
EVERYTHING = Options(min_side=0, max_aspect=math.inf, min_contrast=0)


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

    def made_by(self) -> dict:
        """The settings for a manifest: files by name and content instead of place, and what else decides the bytes."""
        drawing = self.synthesizer()
        made = {"command": "render", **asdict(self),
                "fonts": {face.name: sha256_of(face.path) for face in drawing.faces},
                "versions": {name: version(name) for name in LIBRARIES}}
        if self.words:
            made["words"] = {"file": Path(self.words).name, "sha256": sha256_of(self.words),
                             "left_out": drawing.words.refused}
        return made


@dataclass(frozen=True)
class SyntheticWords:
    """Pictures 0 to total - 1 of the settings, as a source of rows like any foreign format."""

    name: str
    total: int
    settings: Settings
    kind = "synthetic"
    path = "synthetic words"
    exact = True

    @cached_property
    def fingerprint(self) -> str:
        """Changes when fonts, words or libraries do."""
        return hashlib.sha256(json.dumps(self.settings.made_by(), sort_keys=True).encode()).hexdigest()

    def count(self) -> int:
        """How many pictures there are."""
        return self.total

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Draw pictures start to stop - 1."""
        drawing, seed = self.settings.synthesizer(), self.settings.seed
        for index in range(start, stop):
            image, text = drawing.render(seed, index)
            yield Row(f"{self.name}/{seed}/{index:09d}", image, text)

    def pieces(self, size: int) -> Iterator[Span]:
        """Pieces of `size` pictures."""
        return spans(self, size)

    def part(self, start: int, stop: int) -> "SyntheticWords":
        """Any part can be drawn from the settings."""
        return self


def sha256_of(path: str | Path) -> str:
    """The hash of a file's content."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def rows_per_shard(count: int) -> int:
    """Whole row groups, so that there are about WANTED_SHARDS shards of at most MOST_SHARD_ROWS."""
    groups = -(-count // (WANTED_SHARDS * ROWS_PER_GROUP))
    return min(groups * ROWS_PER_GROUP, MOST_SHARD_ROWS)


def render_corpus(out: str | os.PathLike, count: int, settings: Settings, source: str = "",
                  overwrite: bool = False) -> Corpus:
    """Write a corpus of `count` labeled pictures to `out`, where it appears when it is whole, and open it.

    The source is named `source`, or like the style. A run that was stopped or killed is continued by the same call.
    Raises BadInput if the settings cannot be met or `out` is taken or cannot be written.
    """
    if count < 1:
        raise BadInput(f"expected at least 1 picture, found {count}: check -n")
    if settings.seed < 0:
        raise BadInput(f"expected a seed of 0 or more, found {settings.seed}: check --seed")
    made_by = {**settings.made_by(), "count": count}  # whatever the user got wrong shows before anything is written
    words = SyntheticWords(source or settings.style, count, settings)
    plan = {**made_by, "source": words.name}
    target = os.fspath(out)
    with open_staging(target) as staging:
        if staging.begin(plan, overwrite):
            staging.publish(draw_shards(words, staging), made_by)
    return Corpus.open(target)


def draw_shards(words: SyntheticWords, staging: Staging) -> list[ChunkResult]:
    """Draw the shards that are not done yet: a single one in this process, several under Ray."""
    chunks = list(plan_chunks([words], rows_per_shard(words.total)))
    results = [result for chunk in chunks if (result := staging.finished(chunk))]
    finished = {result.index for result in results}
    missing = [chunk for chunk in chunks if chunk.index not in finished]
    already = sum(result.counts.kept for result in results)
    if already:
        print(f"render: continues in {staging.folder}, where {already:,} of {words.total:,} words are drawn",
              file=sys.stderr)
    folder, done = staging.corpus, staging.done
    progress = Progress("render", words.total, "words", already)
    draw = drawn_by_ray if len(missing) > 1 else drawn_here
    try:
        with closing(draw(missing, folder, done)) as made:
            for result in made:
                results.append(result)
                progress.add(result.counts.kept)
    finally:
        progress.close()
    return results


def drawn_here(chunks: list[Chunk], folder: str, done: str) -> Iterator[ChunkResult]:
    """The results of chunks that are drawn one after the other, in this process."""
    for chunk in chunks:
        yield write_chunk(chunk, folder, done, EVERYTHING)


def drawn_by_ray(chunks: list[Chunk], folder: str, done: str) -> Iterator[ChunkResult]:
    """The results in the order they get done, on every CPU of the cluster."""
    from pipelines.tasks import in_tasks
    return in_tasks(lambda chunk: write_chunk(chunk, folder, done, EVERYTHING), chunks)


def contact_sheet(settings: Settings, count: int) -> np.ndarray:
    """The first pictures in a grid with their labels below them, (height, width, 3) uint8 BGR."""
    draw = settings.synthesizer()
    wide, high = SHEET_CELL
    sheet = np.full((-(-count // SHEET_COLUMNS) * high, SHEET_COLUMNS * wide, 3), 255, np.uint8)
    for index in range(count):
        data, text = draw.render(settings.seed, index)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        scale = min((wide - 8) / picture.shape[1], (high - 24) / picture.shape[0])
        picture = cv2.resize(picture, None, fx=scale, fy=scale,
                             interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        top, left = index // SHEET_COLUMNS * high + 4, index % SHEET_COLUMNS * wide + 4
        sheet[top:top + picture.shape[0], left:left + picture.shape[1]] = picture
        cv2.putText(sheet, text, (left, top + high - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (60, 60, 60), 1, cv2.LINE_AA)
    return sheet


def write_sheet(file: str, count: int, settings: Settings) -> None:
    """Write the contact sheet as PNG or JPEG. Raises BadInput if the file has another suffix or cannot be written."""
    path = Path(file)
    if count < 1:
        raise BadInput(f"expected at least 1 picture, found {count}: check -n")
    if path.suffix.lower() not in (".png", ".jpg"):
        raise BadInput(f"expected a file name that ends in .png or .jpg, found {file}: correct --sheet")
    done, data = cv2.imencode(path.suffix, contact_sheet(settings, count))
    if not done:
        raise RuntimeError(f"OpenCV could not encode a sheet of {count} pictures as {path.suffix}")
    if not path.parent.is_dir():
        raise BadInput(f"expected a folder at {path.parent}, found none: make it, or name another --sheet")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data.tobytes())
        os.replace(temporary, path)
    except OSError as problem:
        raise BadInput(f"expected to write {file}, found {problem.strerror.lower()}: name another --sheet") from problem
    finally:
        temporary.unlink(missing_ok=True)


DESCRIPTION = """Make a labeled corpus of synthetic words, or a sheet to look at. The pictures are a function of the
options alone, whatever the number of CPUs. Stopped or killed, the same command continues."""
EPILOG = """styles:
{looks}

examples:
  textray render --out corpora/synthetic -n 100000 --style scene --charset 36
  textray render --sheet look.png --style street -n 64"""


def parser() -> argparse.ArgumentParser:
    """The options of `textray render`."""
    looks = "\n".join(f"  {style.name:<8} {style.summary}" for style in STYLES.values())
    options = argparse.ArgumentParser(prog="textray render", description=DESCRIPTION, epilog=EPILOG.format(looks=looks),
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    target = options.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", metavar="CORPUS", help="folder of the new corpus")
    target.add_argument("--sheet", metavar="FILE.png",
                        help="only draw the first pictures, on one contact sheet (.png or .jpg)")
    options.add_argument("-n", type=int, metavar="COUNT", help="pictures to make (default: 100000; on a sheet 64)")
    options.add_argument("--seed", type=int, default=0, help="another seed gives other pictures (default: 0)")
    options.add_argument("--style", default="scene", help=f"{', '.join(STYLES)} (default: scene)")
    options.add_argument("--charset", default="94",
                         help="36 (letters and digits, drawn in both cases), 62, 94, or the characters (default: 94)")
    options.add_argument("--max-length", type=int, default=25, help="longest label in characters (default: 25)")
    options.add_argument("--words", metavar="FILE",
                         help="draw these lines as they stand, instead of English words and numbers")
    options.add_argument("--fonts", metavar="FOLDER",
                         help="use the .ttf and .otf files below it, instead of the packaged fonts")
    options.add_argument("--source", default="", metavar="NAME",
                         help="name of the source in the corpus (default: the style)")
    options.add_argument("--overwrite", action="store_true",
                         help="replace the corpus at --out, once the new one is whole")
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
        print(f"render: {words.refused} of {words.refused + len(words.vocabulary)} lines of {given.words} left out, "
              f"being outside the charset or longer than {given.max_length}", file=sys.stderr)
    corpus = render_corpus(given.out, count, settings, given.source, given.overwrite)
    print(f"{corpus.path}: {corpus.rows:,} labeled pictures in style {given.style}, seed {given.seed}. "
          f"Look at it: textray describe {corpus.path}")
    return 0


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("render"))
