"""Some rows of a corpus, evenly spread: what is looked at, read or measured where all would be too many."""

from collections.abc import Iterable, Sequence

import numpy as np

from pipelines.corpus.reader import Corpus, RowGroup

GROUPS_SAMPLED = 16  # a row group of images is some 10 MB


def spread_rows(corpus: Corpus, count: int, columns: Sequence[str]) -> list[tuple]:
    """`columns` of at most `count` labeled rows, evenly spread over all of them, so that every source has its share. Only their row groups are read."""
    labeled = _labeled_rows(corpus)  # their numbers in the corpus
    return _rows_at([(corpus, group) for group in corpus.row_groups], labeled[_spread(len(labeled), count)], columns)


def sampled_rows(corpora: Sequence[Corpus], count: int, columns: Sequence[str], sources: Iterable[str] | None = None) -> list[tuple]:
    """`columns` of at most `count` rows, labeled or not, evenly spread over at most GROUPS_SAMPLED row groups, which are evenly spread over
    the corpora.

    sources: those that count; all if it is None.
    """
    groups = []
    for corpus in corpora:
        of_shard = {shard.name: shard.source for shard in corpus.manifest.shards}
        groups += [(corpus, group) for group in corpus.row_groups if sources is None or of_shard[group.shard] in sources]
    groups = [groups[number] for number in _spread(len(groups), GROUPS_SAMPLED)]
    return _rows_at(groups, _spread(sum(group.rows for _, group in groups), count), columns)


def _spread(total: int, count: int) -> np.ndarray:
    """At most `count` of the numbers 0 … total - 1, evenly spread."""
    count = min(count, total)
    return np.arange(count, dtype=np.int64) * total // max(count, 1)


def _rows_at(groups: Sequence[tuple[Corpus, RowGroup]], wanted: np.ndarray, columns: Sequence[str]) -> list[tuple]:
    """`columns` of the rows with these numbers, counted through the row groups; only groups that hold one are read."""
    starts = np.cumsum([0, *(group.rows for _, group in groups)])
    found = []
    for number in np.unique(np.searchsorted(starts, wanted, side="right") - 1).tolist():
        inside = wanted[(wanted >= starts[number]) & (wanted < starts[number + 1])] - starts[number]
        corpus, group = groups[number]
        rows = corpus.read_row_group(group.shard, group.index, columns).select(list(columns)).take(inside)
        found += zip(*(column.to_pylist() for column in rows.columns), strict=True)
    return found


def _labeled_rows(corpus: Corpus) -> np.ndarray:
    """The numbers of the rows that have a label, from 0; their texts are read only where some rows have none."""
    if sum(source.labeled for source in corpus.manifest.sources.values()) == corpus.rows:
        return np.arange(corpus.rows, dtype=np.int64)
    labeled = [table["text"].is_valid().to_numpy() for table in corpus.rows_iter(["text"])]
    return np.flatnonzero(np.concatenate(labeled)) if labeled else np.zeros(0, np.int64)
