"""Words that decide while a run goes on: which of a corpus, read once, and how they are compared."""

from collections.abc import Sequence

import numpy as np

from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.evaluation.protocols import Rule


def spread_rows(corpus: Corpus, count: int, columns: Sequence[str]) -> list[tuple]:
    """`columns` of at most `count` labeled rows, evenly spread over all of them, so that every source has its share. Only their row groups are read."""
    labeled = _labeled_rows(corpus)  # their numbers in the corpus
    count = min(count, len(labeled))
    wanted = labeled[np.arange(count, dtype=np.int64) * len(labeled) // max(count, 1)]
    groups = corpus.row_groups
    starts = np.cumsum([0, *(group.rows for group in groups)])
    found = []
    for number in np.unique(np.searchsorted(starts, wanted, side="right") - 1).tolist():
        inside = wanted[(wanted >= starts[number]) & (wanted < starts[number + 1])] - starts[number]
        rows = corpus.read_row_group(groups[number].shard, groups[number].index, columns).select(list(columns)).take(inside)
        found += zip(*(column.to_pylist() for column in rows.columns), strict=True)
    return found


def _labeled_rows(corpus: Corpus) -> np.ndarray:
    """The numbers of the rows that have a label, from 0; their texts are read only where some rows have none."""
    if sum(source.labeled for source in corpus.manifest.sources.values()) == corpus.rows:
        return np.arange(corpus.rows, dtype=np.int64)
    labeled = [table["text"].is_valid().to_numpy() for table in corpus.rows_iter(["text"])]
    return np.flatnonzero(np.concatenate(labeled)) if labeled else np.zeros(0, np.int64)


def check_words(corpus: Corpus, count: int, rule: Rule) -> None:
    """Look at the labels alone, before anything is trained.

    Raises:
        BadInput: a corpus without labels, or with labels of which the rule leaves nothing to compare.
    """
    texts = [text for (text,) in spread_rows(corpus, count, ["text"])]
    if not texts:
        raise BadInput(f"data.validation: expected labeled words in {corpus.path}, found {corpus.rows:,} rows without a label: give a corpus that has "
                       "labels, or leave validation out")
    if not any(map(rule.compared, texts)):
        raise BadInput(f"data.validation: expected labels that the rule {rule.name} can compare, found none among the {len(texts):,} words of {corpus.path} "
                       f"(the first is {texts[0]!r}): choose another recognizer.rule or recognizer.charset")
