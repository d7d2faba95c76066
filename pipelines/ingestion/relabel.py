"""A corpus with some of its labels corrected: the same rows, keys and images in the same shards, with other texts."""

import csv
import io
import unicodedata
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipelines.corpus import storage
from pipelines.corpus.manifest import ShardEntry, SourceCounts
from pipelines.corpus.reader import Corpus
from pipelines.corpus.shards import ShardWriter, shard_name
from pipelines.errors import BadInput
from pipelines.ingestion.chunks import ChunkResult, room_for
from pipelines.ingestion.staging import open_staging
from pipelines.ingestion.tasks import FEW, in_tasks
from pipelines.progress import Progress

NONE = "-"  # in the list: the label is taken away


@dataclass(frozen=True)
class Shard:
    """A shard, and its place among those of its source."""

    entry: ShardEntry
    index: int

    @property
    def shard(self) -> str:
        """Its name in the new corpus."""
        return shard_name(self.entry.source, self.index)


def read_corrections(file: str) -> dict[str, str | None]:
    """The texts of a list by key, None for a label that goes; lines whose column `correct` is empty say nothing.

    Raises:
        BadInput: no such file, no columns `key` and `correct`, or a key named twice with different texts.
    """
    try:
        text = storage.read_bytes(file).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise BadInput(f"{file}: expected a list of corrections, found no such file: `textray describe CORPUS --suspects MODEL` writes one") from None
    except UnicodeDecodeError as problem:
        raise BadInput(f"{file}: expected a list in UTF-8, found {problem.reason} at byte {problem.start}: save it as UTF-8") from None
    lines = csv.DictReader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    if not {"key", "correct"} <= set(lines.fieldnames or ()):
        raise BadInput(f"{file}: expected the columns key and correct, found {', '.join(map(str, lines.fieldnames or ())) or 'nothing'}: name them in its first line")
    found: dict[str, str | None] = {}
    for line in lines:
        if line["correct"]:
            said = None if line["correct"] == NONE else unicodedata.normalize("NFC", line["correct"])
            if found.setdefault(line["key"], said) != said:
                raise BadInput(f"{file}: expected one text for each key, found {found[line['key']]!r} and {said!r} for {line['key']}: leave one of the two")
    return found


def _delimiter(text: str) -> str:
    """Spreadsheets write commas, semicolons or tabs."""
    head = text.partition("\n")[0]
    return max(",;\t", key=head.count)


def relabel(corpus: Corpus, corrections: dict[str, str | None], out: str, overwrite: bool = False) -> Corpus:
    """Write the corpus with these texts to a new place, and open it. The texts count as people's: a confidence and a labeler go.

    Raises:
        BadInput: a key that the corpus lacks, or a place that is taken.
    """
    keys = {key for table in corpus.rows_iter(["key"]) for key in table["key"].to_pylist() if key in corrections}
    unknown = sorted(set(corrections) - keys)
    if unknown:
        raise BadInput(f"expected keys of {corpus.path}, found {len(unknown):,} that it lacks, such as {unknown[0]!r}: is the list another corpus'?")
    shards = [Shard(entry, index) for entry, index in corpus.numbered_shards()]
    made_by: dict[str, Any] = {"command": "relabel", "corpus": corpus.sha256, "corrections": {key: corrections[key] for key in sorted(corrections)}}
    target = storage.absolute(out)
    with open_staging(target) as staging, room_for(staging.folder):
        if staging.begin(made_by, overwrite):
            finished = {shard.shard: staging.finished(shard) for shard in shards}
            results = [result for result in finished.values() if result is not None]
            missing = [shard for shard in shards if finished[shard.shard] is None]
            progress = Progress("relabel", corpus.rows, "rows", sum(result.counts.kept for result in results))
            try:
                for result in in_tasks(partial(_rewrite, corpus, corrections, staging.corpus, staging.done), missing, few=corpus.rows <= FEW):
                    results.append(result)
                    progress.add(result.counts.kept)
            finally:
                progress.close()
            staging.publish(results, made_by)
    return Corpus.open(target)


def _rewrite(corpus: Corpus, corrections: dict[str, str | None], folder: str, done: str, shard: Shard) -> ChunkResult:
    entry, counts = shard.entry, SourceCounts()
    with room_for(storage.join(folder, shard.shard)), ShardWriter(folder, entry.source, shard.index) as writer:
        for group in range(len(entry.row_groups)):
            for row in corpus.read_row_group(entry.name, group).drop_columns("source").to_pylist():
                if row["key"] in corrections:
                    row |= {"text": corrections[row["key"]], "confidence": None, "labeler": None}
                writer.write(**row)
                counts.kept += 1
                counts.labeled += row["text"] is not None
    counts.rows_in = counts.kept
    result = ChunkResult(source=entry.source, index=shard.index, counts=counts, shard=writer.entry, rejected=[], examples=[])
    storage.write_bytes(storage.join(done, f"{shard.shard}.json"), result.model_dump_json(by_alias=True).encode())
    return result
