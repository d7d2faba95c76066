"""How a window of a stream is read: the rows that its plan names, in their order."""

import os
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Lock

import numpy as np
import pyarrow as pa

from pipelines.corpus.reader import Corpus, RowGroup
from pipelines.feed.plan import SMALL
from pipelines.feed.selection import Selection, groups_of
from pipelines.feed.stream import Reading, Share, Stream

COLUMNS = ["key", "image", "text"]
READERS_OF_STORES = 4  # at a time, for each worker and stream: a store answers late


def read_window(stream: Stream, reading: Reading) -> pa.Table:
    """The rows of a window, in the order of the stream: columns key, image (encoded bytes), text."""
    ingredient = stream.ingredients[reading.ingredient]
    groups, positions = ingredient.plan.row_ids(reading.window)
    if ingredient.plan.by_row:
        rows, starts = _HELD.get(ingredient.path, ingredient.selection)
        return rows.take(starts[groups] + positions)
    needed, place = np.unique(groups, return_inverse=True)
    tables = [_usable_group(ingredient.path, ingredient.selection, int(group)) for group in needed]
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    return pa.concat_tables(tables).combine_chunks().take(starts[place] + positions)


class _Held:
    """Small corpora whose usable rows stay in a reader's memory, those used last: as many as two streams go through at once (plan.held_whole)."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, Selection], tuple[pa.Table, np.ndarray]] = OrderedDict()
        self._lock = Lock()

    def get(self, path: str, selection: Selection) -> tuple[pa.Table, np.ndarray]:
        with self._lock:
            place = path, selection
            if place not in self._kept:
                self._kept[place] = _whole_corpus(path, selection)
                while len(self._kept) > 1 and sum(rows.num_rows for rows, _ in self._kept.values()) > 4 * SMALL:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(place)
            return self._kept[place]

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


_HELD = _Held()


def _whole_corpus(path: str, selection: Selection) -> tuple[pa.Table, np.ndarray]:
    """The usable rows of a corpus, and the first of each row group."""
    wanted = groups_of(_opened(path)[0], selection.source)
    tables = [_usable_group(path, selection, group) if take else None for group, take in enumerate(wanted)]
    starts = np.cumsum([0, *(0 if table is None else table.num_rows for table in tables)])
    return pa.concat_tables([table for table in tables if table is not None]).combine_chunks(), starts


def _usable_group(path: str, selection: Selection, group: int) -> pa.Table:
    corpus, row_groups = _opened(path)
    shard, index, _ = row_groups[group]
    if not selection.by_row:
        return corpus.read_row_group(shard, index, COLUMNS)
    rows = corpus.read_row_group(shard, index, list(dict.fromkeys(COLUMNS + selection.columns)))
    return rows.filter(pa.array(selection.mask(rows)[0])).select(COLUMNS)


@cache  # as many as the streams of a job have
def _opened(path: str) -> tuple[Corpus, list[RowGroup]]:
    corpus = Corpus.open(path)
    return corpus, corpus.row_groups


def forget() -> None:
    """Read anew whatever corpus comes next: a process that trains one run after another may meet another corpus in a known place."""
    _HELD.clear()
    _opened.cache_clear()


def readers_of(stream: Stream) -> int:
    """How many read a stream for one worker at a time: one keeps up with any consumer where files are near; object stores answer late, so there
    several wait for them."""
    return 1 if all(map(os.path.isdir, stream.paths)) else READERS_OF_STORES


def local_blocks(stream: Stream, share: Share) -> Iterator[pa.Table]:
    """A worker's windows, read by threads of this process ahead of the consumer. The order is that of `datasource.ray_blocks`."""
    readers = readers_of(stream)
    with ThreadPoolExecutor(readers, thread_name_prefix="read") as pool:
        ahead: deque[Future[pa.Table]] = deque()
        try:
            for reading in stream.readings(share):
                ahead.append(pool.submit(read_window, stream, reading))
                if len(ahead) > readers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for window in ahead:
                window.cancel()
