"""A worker's share of a stream as batches: cut from the blocks that are read, decoded ahead of the consumer.

Encoded images travel through Ray as Arrow blocks and are decoded beside the consumer, in threads (OpenCV releases the interpreter's
lock): moving decoded images through the object store is what costs (ray.md). The order is the plan's (plan.py), never Ray's.
`datasource.ray_blocks` reads with Ray Data; `windows.local_blocks` reads the same windows in threads of this process, without Ray.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import pyarrow as pa
import torch

from models.batch import Part
from models.charset import Charset
from pipelines.corpus.images import Shape, decode_into
from pipelines.errors import BadInput
from pipelines.feed.stream import Share, Stream


def batches(stream: Stream, share: Share, blocks: Iterator[pa.Table], *, shape: Shape, charset: Charset | None, decode_threads: int = 1,
            prefetch: int = 4) -> Iterator[Part]:
    """Cut a worker's blocks into batches and decode them ahead of the consumer.

    Args:
        blocks: the rows of `stream.readings(share)` in order, in tables of any size.
        shape: to which images are brought; the width is that of the batch's bucket where the stream has buckets.
        decode_threads: best as many as there are cores for this worker, `threads_beside`; more wait for each other.
        charset: of a labeled stream, to normalise the texts.
    Yields:
        Part with images (batch_size, 3, height, width) uint8, one for each batch of the share.
    """
    cv2.setNumThreads(0)
    with ThreadPoolExecutor(decode_threads, thread_name_prefix="decode") as pool:
        ahead: deque[Future] = deque()
        for table, width in _tables(stream, share, blocks):
            ahead.append(pool.submit(_decode, table, shape if width is None else Shape(shape.height, width, "pad"), charset))
            if len(ahead) > prefetch:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def threads_beside(workers: int) -> int:
    """Threads that decode for one of several workers on this machine: its share of the cores, at most four (50 k images/s and more)."""
    return max(1, min(4, (os.cpu_count() or 1) // workers))


def _tables(stream: Stream, share: Share, blocks: Iterator[pa.Table]) -> Iterator[tuple[pa.Table, int | None]]:
    """A worker's batches as tables of encoded images, with the width of their bucket."""
    waiting: dict[tuple[int, int], tuple[int, pa.Table]] = {}  # (ingredient, strand): number of the first row, rows that are read
    rows, readings = _Rows(blocks), stream.readings(share)
    for number in share.numbers:
        parts, requests = [], stream.requests(number)
        for request in requests:
            place = request.ingredient, request.strand
            first, have = waiting.pop(place, (request.start, None))
            if have is not None and request.start > first:  # the rows between are other workers'
                have, first = have.slice(request.start - first), request.start
            while have is None or first + have.num_rows < request.stop:
                more = rows.take(next(readings).window.rows)
                have = more if have is None or not have.num_rows else pa.concat_tables([have, more])
            taken = request.stop - request.start
            parts.append(have.slice(0, taken))
            if have.num_rows > taken:
                waiting[place] = request.stop, have.slice(taken)
        yield pa.concat_tables(parts), stream.ingredients[requests[0].ingredient].width


class _Rows:
    """A stream of rows in tables of any size, taken in tables of a wanted size: Ray may merge or split the blocks it is given."""

    def __init__(self, blocks: Iterator[pa.Table]):
        self._blocks, self._rest = blocks, None

    def take(self, count: int) -> pa.Table:
        tables, have = [], 0
        while have < count:
            table = self._rest if self._rest is not None else next(self._blocks)
            part = table.slice(0, count - have)
            self._rest = table.slice(part.num_rows) if part.num_rows < table.num_rows else None
            tables.append(part)
            have += part.num_rows
        return pa.concat_tables(tables)


def _decode(table: pa.Table, shape: Shape, charset: Charset | None) -> Part:
    keys = table["key"].to_pylist()
    images = np.empty((len(keys), 3, shape.height, shape.width), dtype=np.uint8)
    for key, planes, encoded in zip(keys, images, table["image"]):
        if not decode_into(planes, encoded.as_buffer(), shape):
            raise BadInput(f"the image {key!r} of the corpus does not decode, though it did when it was brought in: the files "
                           "were changed or the disk is failing; ingest the corpus again")
    texts = None if charset is None else [charset.normalise(text) for text in table["text"].to_pylist()]
    return Part(images=torch.from_numpy(images), keys=keys, texts=texts)
