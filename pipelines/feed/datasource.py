"""Windows of a plan as a Ray Data source. Alone in this room it needs Ray."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import ray
from ray.data import DataContext, Dataset, Datasource, ExecutionResources, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import RayTaskError

from pipelines.cluster import check_version
from pipelines.errors import BadInput
from pipelines.feed.stream import Reading, Share, Stream
from pipelines.feed.windows import read_window, readers_of

check_version()  # the next name is one of this version's own: named by DataContext, exported nowhere else
from ray.data._internal.execution.execution_callback import ExecutionCallback  # noqa: E402

ROWS_PER_TASK = 65_536
WINDOWS_PER_DATASET = 256
BLOCK_BYTES = 64 * 2**20  # the first batch waits for the first block; smaller ones take more of the scheduler's rounds
BYTES_PER_ROW = 4_096  # an estimate for Ray's memory budget; word crops take 2-5 kB


class Rest(ExecutionCallback):
    """A pause in each round of Ray Data's scheduler, which runs in a thread of the consumer's process.

    Where every task has output that nobody takes yet, which is the usual state beside a training step, its rounds follow each other
    without any wait, and the thread takes half of the interpreter's time from the training.
    """

    SECONDS = 0.01

    def on_execution_step(self, executor) -> None:
        """Called by Ray Data after each round."""
        time.sleep(self.SECONDS)


class WindowSource(Datasource):
    """Yields the rows of the given windows in order; each task reads about `rows_per_task` rows and streams their windows as blocks."""

    def __init__(self, stream: Stream, readings: list[Reading], rows_per_task: int):
        super().__init__()
        self._stream = ray.put(stream)  # once for all tasks: a plan of 100 million rows is a megabyte
        self._tasks: list[list[Reading]] = [[]]
        rows = 0
        for reading in readings:
            if rows >= rows_per_task:
                self._tasks.append([])
                rows = 0
            self._tasks[-1].append(reading)
            rows += reading.window.rows

    def estimate_inmemory_data_size(self) -> int:
        """Bytes, roughly."""
        return sum(reading.window.rows for task in self._tasks for reading in task) * BYTES_PER_ROW

    @property
    def tasks(self) -> int:
        """Into how many tasks the windows are cut."""
        return len(self._tasks)

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context=None) -> list[ReadTask]:
        """One read task for each of `tasks`; the requested parallelism is the same number."""
        return [self._task(readings) for readings in self._tasks]

    def _task(self, readings: list[Reading]) -> ReadTask:
        reference, rows = self._stream, sum(reading.window.rows for reading in readings)

        def read() -> Iterator[pa.Table]:
            stream = ray.get(reference)
            for reading in readings:
                yield read_window(stream, reading)

        return ReadTask(read, BlockMetadata(num_rows=rows, size_bytes=rows * BYTES_PER_ROW, exec_stats=None, input_files=None))


@dataclass(frozen=True)
class Readers:
    """What one worker's reading of one stream may take of the cluster."""

    cpus: float  # of each task
    memory: float = float("inf")  # bytes of the object store


def dataset_of(stream: Stream, readings: list[Reading], rows_per_task: int, readers: Readers) -> Dataset:
    """Ray Data over windows, in order, by as many long tasks at a time as `readers_of` says."""
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.read_op_min_num_blocks = 1  # otherwise the read is followed by a split and no longer streams
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    context.custom_execution_callback_classes = [Rest]
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=readers.memory)
    source = WindowSource(stream, readings, rows_per_task)
    return ray.data.read_datasource(source, override_num_blocks=source.tasks, num_cpus=readers.cpus, concurrency=readers_of(stream))


def ray_blocks(stream: Stream, share: Share, readers: Readers) -> Iterator[pa.Table]:
    """A worker's windows, read by Ray Data tasks ahead of the consumer.

    Ray lists a dataset's tasks before the first row, so a long share is read as one dataset after another, each about a million rows.
    """
    readings = stream.readings(share)
    while segment := list(islice(readings, WINDOWS_PER_DATASET)):
        dataset = dataset_of(stream, segment, ROWS_PER_TASK, readers)
        with _plainly():
            yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)


@contextmanager
def _plainly() -> Iterator[None]:
    """The BadInput of a reading task, such as a damaged shard, as it was raised: Ray wraps it in a page of traceback and adds advice."""
    try:
        yield
    except RayTaskError as problem:
        if isinstance(problem.cause, BadInput):
            raise BadInput(str(problem.cause).partition("\n")[0]) from None
        raise
