"""Windows of a plan as a Ray Data source. Apart from feed.py, which runs on machines without Ray."""

from collections.abc import Iterator

import pyarrow as pa
import ray
from ray.data import DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata

from pipelines.stream import Reading, Stream, read_window

BYTES_PER_ROW = 4_096  # an estimate for Ray's memory budget; word crops take 2-5 kB


class WindowSource(Datasource):
    """Yields the rows of the given windows in order; each task reads `per_task` windows and streams them as blocks."""

    def __init__(self, stream: Stream, readings: list[Reading], per_task: int):
        super().__init__()
        self._stream = ray.put(stream)  # once for all tasks: a plan of 100 million rows is a few hundred kilobytes
        self._readings, self._per_task = readings, per_task

    def estimate_inmemory_data_size(self) -> int:
        """Bytes, roughly."""
        return sum(reading.window.rows for reading in self._readings) * BYTES_PER_ROW

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context=None) -> list[ReadTask]:
        """One task for every `per_task` windows; the requested parallelism is the same number."""
        return [self._task(self._readings[first:first + self._per_task]) for first in range(0, len(self._readings), self._per_task)]

    def _task(self, readings: list[Reading]) -> ReadTask:
        reference, rows = self._stream, sum(reading.window.rows for reading in readings)

        def read() -> Iterator[pa.Table]:
            stream = ray.get(reference)
            for reading in readings:
                yield read_window(stream, reading)

        return ReadTask(read, BlockMetadata(num_rows=rows, size_bytes=rows * BYTES_PER_ROW, exec_stats=None, input_files=None))


def dataset_of(stream: Stream, readings: list[Reading], per_task: int, reader_cpus: float) -> Dataset:
    """Ray Data over windows, in order, `reader_cpus` CPUs a task."""
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.read_op_min_num_blocks = 1  # otherwise the read is followed by a split and no longer streams
    context.enable_progress_bars = False
    source = WindowSource(stream, readings, per_task)
    return ray.data.read_datasource(source, override_num_blocks=-(-len(readings) // per_task), num_cpus=reader_cpus)
