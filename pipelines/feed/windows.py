"""How a window of a stream is read: the rows that its plan names, in their order."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipelines.corpus.reader import Corpus, RowGroup
from pipelines.feed.selection import Selection, groups_of
from pipelines.feed.stream import Reading, Share, Stream

COLUMNS = ["key", "image", "text"]


def read_window(stream: Stream, reading: Reading) -> pa.Table:
    """The rows of a window, in the order of the stream: columns key, image (encoded bytes), text."""
    ingredient = stream.ingredients[reading.ingredient]
    groups, positions = ingredient.plan.row_ids(reading.window)
    if ingredient.plan.by_row:
        rows, starts = _whole_corpus(ingredient.path, ingredient.selection)
        return rows.take(starts[groups] + positions)
    needed, place = np.unique(groups, return_inverse=True)
    tables = [_usable_group(ingredient.path, ingredient.selection, int(group)) for group in needed]
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    return pa.concat_tables(tables).combine_chunks().take(starts[place] + positions)


@lru_cache(maxsize=4)
def _whole_corpus(path: str, selection: Selection) -> tuple[pa.Table, np.ndarray]:
    """The usable rows of a small corpus, which stay in the reader's memory, and the first row of each row group."""
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


@lru_cache(maxsize=4)
def _opened(path: str) -> tuple[Corpus, list[RowGroup]]:
    corpus = Corpus.open(path)
    return corpus, corpus.row_groups


def local_blocks(stream: Stream, share: Share) -> Iterator[pa.Table]:
    """A worker's windows, read in this process. The order is that of `datasource.ray_blocks`."""
    return (read_window(stream, reading) for reading in stream.readings(share))
