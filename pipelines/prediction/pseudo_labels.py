"""Readings -> corpus: each shard of the source again, with the readings that are sure enough as its texts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipelines.corpus import storage
from pipelines.corpus.images import perceptual_hash
from pipelines.corpus.manifest import SourceCounts
from pipelines.corpus.pictures import decode_gray, decode_picture
from pipelines.corpus.quarantine import Rejected
from pipelines.corpus.reader import Corpus
from pipelines.corpus.shards import ShardWriter, shard_name
from pipelines.errors import BadInput
from pipelines.ingestion.chunks import Chunk, ChunkResult, RejectedWriter, room_for
from pipelines.ingestion.sources.crops import encode_crop
from pipelines.prediction.readings import read_block
from pipelines.prediction.sources import CorpusSource, RowGroups
from pipelines.prediction.tally import left_out


@dataclass(frozen=True)
class Shard:
    """A shard of a source, to be written with its readings."""

    source: str
    index: int  # among the shards of the source
    corpus: Corpus  # of this shard alone
    blocks: tuple[Chunk, ...]  # in which it was read

    @property
    def shard(self) -> str:
        """Its file name in the new corpus."""
        return shard_name(self.source, self.index)


class Wanted(NamedTuple):
    """What becomes a pseudo-label."""

    labeler: str
    least: float  # confidence


def plan_shards(source: CorpusSource, chunks: list[Chunk]) -> Iterator[Shard]:
    """The shards of a source with the blocks of each; `chunks` are those of the source, in order."""
    for index, corpus in enumerate(source.shards()):
        name = corpus.manifest.shards[0].name
        yield Shard(source.name, index, corpus, tuple(chunk for chunk in chunks if chunk.piece.shard.name == name))


def write_shard(shard: Shard, folder: str, done: str, blocks: str, wanted: Wanted) -> ChunkResult:
    """Write a shard into `folder`, and what is left out, and its result, into the folder `done`.

    Memory holds one row group and one block's readings. A row that is left out is listed without its picture, which its corpus has. An image
    that was read upside down is written turned by 180 degrees, so that its text stands in it from left to right.

    Args:
        blocks: the folder of the readings.
    """
    counts = SourceCounts()
    with room_for(storage.join(folder, shard.shard)), ShardWriter(folder, shard.source, shard.index) as writer, \
            RejectedWriter(storage.join(done, f"{shard.shard}.rejected")) as rejected:
        for row, (text, confidence, problem, upside_down) in _rows(shard, blocks):
            counts.rows_in += 1
            why = left_out(text, confidence, problem, wanted.least)
            if why is None:
                kept = turned(row) if upside_down else row
                writer.write(**{**kept, "text": text, "confidence": confidence, "labeler": wanted.labeler})
                counts.kept += 1
            else:
                rejected.write(Rejected(row["key"], shard.source, *why, detail=f"confidence {confidence:.6f}", text=text or None))
                counts.reject(*why)
    counts.labeled = counts.kept
    if not counts.kept:
        storage.remove(storage.join(folder, shard.shard))
    result = ChunkResult(source=shard.source, index=shard.index, counts=counts, shard=writer.entry if counts.kept else None,
                         rejected=rejected.files, examples=rejected.examples)
    storage.write_bytes(storage.join(done, f"{shard.shard}.json"), result.model_dump_json(by_alias=True).encode())
    return result


def turned(row: dict) -> dict:
    """A row with its image turned by 180 degrees: PNG where it was lossless, or else JPEG of quality 95 (see `encode_crop`)."""
    image = np.ascontiguousarray(decode_picture(row["image"])[::-1, ::-1])
    data = encode_crop(image, row["image"])
    return {**row, "image": data, "phash": perceptual_hash(decode_gray(data))}


COLUMNS = ["key", "image", "width", "height", "phash"]  # what a row keeps of its source


def _rows(shard: Shard, blocks: str) -> Iterator[tuple[dict, tuple[str, float, str | None, bool]]]:
    """Each row of a shard, without its text, and its reading. BadInput if they are not of the same row."""
    for chunk in shard.blocks:
        table, start, piece = read_block(blocks, chunk.shard), 0, chunk.piece
        assert isinstance(piece, RowGroups)
        for index in range(piece.first, piece.stop):
            rows = shard.corpus.read_row_group(piece.shard.name, index, COLUMNS)
            read = table.slice(start, rows.num_rows)
            start += rows.num_rows
            if not read["key"].equals(rows["key"]):
                raise BadInput(f"{storage.join(blocks, chunk.shard)}: expected the readings of {piece.shard.name} in {shard.corpus.path}, found "
                               "those of other rows: remove that folder and run the same command again")
            columns = (read[name].to_pylist() for name in ("text", "confidence", "problem", "upside_down"))
            yield from zip(rows.to_pylist(), zip(*columns, strict=True), strict=True)
