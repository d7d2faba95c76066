"""A labeled corpus of synthetic words, drawn in parallel by Ray, one task per shard, or in this process if it is small.

Every picture is a function of style, seed and index, and the shards are cut by the number of pictures alone, so the
corpus is the same to the byte on one CPU or on a thousand.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from pipelines.cluster import asked_for
from pipelines.corpus import storage
from pipelines.corpus.reader import Corpus
from pipelines.corpus.shards import ROWS_PER_GROUP
from pipelines.errors import BadInput
from pipelines.ingestion.chunks import Chunk, ChunkResult, Options, plan_chunks, write_chunk
from pipelines.ingestion.sources.row import Row, Span, spans
from pipelines.ingestion.staging import Staging, open_staging
from pipelines.progress import Progress, say
from pipelines.synthesis.synthesizer import Synthesizer, synthesizer

WANTED_SHARDS = 64  # so that a few dozen CPUs share a corpus of moderate size evenly
MOST_SHARD_ROWS = 100_000  # some 200 MB
FEW = 4_000  # words, which are drawn in about the time that Ray takes to start
LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "wordfreq")  # their versions decide the bytes, too

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
    pattern: str | None = None  # a regular expression of the words, in place of a file

    def synthesizer(self) -> Synthesizer:
        """The synthesizer of these settings, made once per process. Raises BadInput if they cannot be met."""
        return synthesizer(self.style, self.charset, self.max_length, self.words, self.fonts, self.pattern, self._content())

    def _content(self) -> str:
        words = sha256_of(self.words) if self.words and storage.kind(self.words) == "file" else ""
        files = sorted(Path(self.fonts).rglob("*")) if self.fonts else ()
        return words + "".join(f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns};" for file in files if file.is_file())

    def made_by(self) -> dict:
        """The settings for a manifest: files by name and content instead of place, and what else decides the bytes."""
        drawing = self.synthesizer()
        settings = {name: value for name, value in asdict(self).items() if (name, value) != ("pattern", None)}  # as corpora from before there was one
        made = {"command": "render", **settings,
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
    return hashlib.sha256(storage.read_bytes(str(path))).hexdigest()


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
    """Draw the shards that are not done yet: few words in this process, many under Ray."""
    chunks = list(plan_chunks([words], rows_per_shard(words.total)))
    results = [result for chunk in chunks if (result := staging.finished(chunk))]
    finished = {result.index for result in results}
    missing = [chunk for chunk in chunks if chunk.index not in finished]
    already = sum(result.counts.kept for result in results)
    if already:
        say(f"render: continues in {staging.folder}, where {already:,} of {words.total:,} words are drawn")
    folder, done = staging.corpus, staging.done
    progress = Progress("render", words.total, "words", already)
    draw = drawn_by_ray if len(missing) > 1 and (asked_for() or words.total > FEW) else drawn_here
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
    from pipelines.ingestion.tasks import in_tasks
    return in_tasks(lambda chunk: write_chunk(chunk, folder, done, EVERYTHING), chunks)
