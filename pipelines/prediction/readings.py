"""What was read, on the disk until the output is whole: one small file for each block of a source, so that nothing is read twice.

    TARGET.readings/plan.json    the model, how it reads, and what: another plan is refused, for these files cost hours
    TARGET.readings/blocks/      for each finished block its readings and, written last, its counts

A block is a task. What becomes of the readings (--min-confidence, the output's form) is no part of the plan: it can be changed after a kill.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ValidationError

from pipelines.cluster import asked_for, grows, start_ray
from pipelines.corpus import storage
from pipelines.corpus.shards import checked_parquet
from pipelines.errors import BadInput
from pipelines.evaluation.options import device_named
from pipelines.ingestion.chunks import Chunk, room_for
from pipelines.ingestion.staging import check_leftover
from pipelines.ingestion.tasks import in_tasks
from pipelines.prediction.labeler import Labeler, Manner, Reader
from pipelines.prediction.tally import Tally
from pipelines.progress import say
from pipelines.state import parse_json

SCHEMA = pa.schema([
    pa.field("key", pa.string(), nullable=False),
    pa.field("text", pa.string(), nullable=False),  # empty where nothing was read
    pa.field("confidence", pa.float32(), nullable=False),
    pa.field("problem", pa.string()),  # why the image cannot be decoded
    pa.field("upside_down", pa.bool_(), nullable=False),  # whether the image was turned by 180 degrees to be read
])
LEAST_BLOCK, MOST_BLOCK, BLOCKS = 1000, 10_000, 256  # rows, rows, and how many of them there should be


class Block(BaseModel):
    """A block that is read."""

    name: str
    tally: Tally


def rows_per_block(rows: int) -> int:
    """Rows of a task: few, so that all workers have some and a kill costs little, but not for millions of them."""
    return min(MOST_BLOCK, max(LEAST_BLOCK, rows // BLOCKS))


class Readings:
    """The folder of readings for `target`, a path or a URI. Made by `open_readings`."""

    def __init__(self, target: str):
        self.folder = f"{target}.readings"
        self._plan, self.blocks = (storage.join(self.folder, name) for name in ("plan.json", "blocks"))

    def difference(self, plan: dict[str, Any]) -> str | None:
        """What an earlier run of another plan had otherwise, in words; "" if the plan is the same, None if there was no earlier run."""
        try:
            earlier = parse_json(storage.read_bytes(self._plan), dict[str, Any], self._plan, f"remove the folder {self.folder} and run again")
        except FileNotFoundError:
            return None
        now = json.loads(json.dumps(plan))
        return ", ".join(f"{key} {_shown(earlier.get(key))} instead of {_shown(now.get(key))}"
                         for key in {**now, **earlier} if earlier.get(key) != now.get(key))

    def begin(self, plan: dict[str, Any]) -> None:
        """Go on with what an earlier run of the same plan has read, or start. BadInput if it was another plan."""
        different = self.difference(plan)
        if different:
            raise BadInput(f"{self.folder}: expected what the same command left when it was stopped, found the readings of another one "
                           f"({different}): repeat that one, choose another place for the output, or remove that folder")
        if different is None:
            storage.write_bytes(self._plan, json.dumps(plan).encode())

    def finished(self, name: str) -> Block | None:
        """The counts of a block that an earlier run read, None if it must be read."""
        try:
            return Block.model_validate_json(storage.read_bytes(storage.join(self.blocks, f"{name}.json")))
        except (FileNotFoundError, ValidationError):
            return None

    def table(self, name: str) -> pa.Table:
        """The readings of a block, with SCHEMA. BadInput if they are not what was written."""
        return read_block(self.blocks, name)

    def remove(self) -> None:
        """Remove the folder: the output is whole."""
        storage.remove(self.folder)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


@contextmanager
def open_readings(target: str) -> Iterator[Readings]:
    """The folder of readings for `target`, on this machine for this process alone; goes if nothing came into it."""
    readings = Readings(target)
    check_leftover(readings.folder, {"plan.json", "blocks"} | (set() if storage.is_remote(target) else {"lock"}))
    if storage.is_remote(target):
        yield readings
        return
    with storage.held(readings.folder, target):
        try:
            yield readings
        finally:
            if os.path.isdir(readings.folder) and os.listdir(readings.folder) == ["lock"]:
                readings.remove()


def read_block(folder: str, name: str) -> pa.Table:
    """The readings of a block, with SCHEMA. BadInput if they are damaged, or of a version that kept other columns."""
    remedy = f"remove {storage.join(folder, name)}.json and run the same command again"
    with checked_parquet(storage.join(folder, name), remedy) as file:
        table = file.read()
    if table.column_names != SCHEMA.names:
        expected, found = (", ".join(names) for names in (SCHEMA.names, table.column_names))
        raise BadInput(f"{storage.join(folder, name)}: expected the columns {expected}, found {found}: {remedy}")
    return table


def write_block(reader: Reader, chunk: Chunk, folder: str) -> Block:
    """Read one block and write what was read into `folder`, its counts last."""
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    tally = Tally()
    for row, read in reader.read(chunk.piece.read()):
        for column, value in zip(columns.values(), (row.key, read.text, read.confidence, read.problem, read.upside_down), strict=True):
            column.append(value)
        tally.count(read, row.text, reader.rule)
    if chunk.piece.rows not in (None, tally.images):
        raise BadInput(f"source {chunk.source}: expected {chunk.piece.rows} rows in its piece {chunk.index}, found {tally.images}: the source "
                       "changed while it was read, run again when it is complete")
    file = storage.join(folder, chunk.shard)
    with room_for(file), storage.written(file) as temporary:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="ZSTD", write_page_checksum=True)
    block = Block(name=chunk.shard, tally=tally)
    storage.write_bytes(f"{file}.json", block.model_dump_json().encode())
    return block


def read_blocks(labeler: Labeler, manner: Manner, device: str | None, chunks: Iterable[Chunk], readings: Readings, *, few: bool) -> Iterator[Block]:
    """Read blocks on every worker of the cluster, on GPUs if it has some; each as it is finished.

    Args:
        device: "cpu" to leave the GPUs alone, "cuda" to want them; None: as there are.
        few: whether there are so few that this process has read them before Ray has started.

    Raises:
        BadInput: no GPU where one is wanted, or what a block raises.
    """
    chunks = list(chunks)
    if not chunks:
        return
    if few and not asked_for():
        reader = Reader(labeler, manner, device_named(device))
        with of_one_thread():
            yield from in_tasks(partial(write_block, reader, folder=readings.blocks), chunks, Block, few=True)
        return
    start_ray()
    import ray
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if not gpus and device not in (None, "cpu") and not grows():
        raise BadInput(f"--device: expected a cluster with GPUs, found none in it, with {device}: leave it out")
    gpu = device != "cpu" and (bool(gpus) or device is not None)
    if device is None and not gpu and grows():
        say("predict: reads on CPUs, for no GPU of the cluster is up: --device cuda asks for them")
    job = ray.put((labeler, manner, "cuda" if gpu else "cpu"))
    yield from in_tasks(partial(_work, job, readings.blocks), chunks, Block, gpu=gpu)


@contextmanager
def of_one_thread() -> Iterator[None]:
    """As a task of one CPU computes, to the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _work(job: Any, folder: str, chunk: Chunk) -> Block:
    return write_block(_reader(job), chunk, folder)


@lru_cache(maxsize=1)  # a worker process reads many blocks with one model
def _reader(job: Any) -> Reader:
    import ray
    labeler, manner, device = ray.get(job)
    return Reader(labeler, manner, torch.device(device))
