"""A stream of a run: which rows of a corpus it uses, in which order, and how a window of them is read.

The processes that read import this file and neither PyTorch nor OpenCV, which would cost each of them seconds at its start.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.charset import Charset
from pipelines.corpus import Corpus, RowGroup
from pipelines.errors import BadInput
from pipelines.plan import Plan, Window, lanes_for, lanes_of, windows_of

COLUMNS = ["key", "image", "text"]


@dataclass(frozen=True)
class Selection:
    """Which rows of a corpus a stream uses.

    Args:
        characters: the charset of a labeled stream: rows whose normalised text is empty, too long, or has other characters are left
            out and counted. None for an unlabeled stream, which uses every row and no text.
        max_length: characters that the decoder can write.
        fraction: share of the keys, drawn by a hash of (seed, key): the rows of 5 % are among those of 10 %.
        seed: of the draw.
    """

    characters: str | None
    max_length: int = 25
    fraction: float = 1.0
    seed: int = 0

    @property
    def everything(self) -> bool:
        """Whether no row can be left out."""
        return self.characters is None and self.fraction == 1.0

    def mask(self, rows: pa.Table) -> tuple[np.ndarray, Counter]:
        """Which rows are used, (rows,) bool, and how many are not, by reason. Needs the columns key and text."""
        kept, reasons = np.ones(rows.num_rows, dtype=bool), Counter()
        if self.fraction < 1.0:
            kept &= np.fromiter((_share(self.seed, key) < self.fraction for key in rows["key"].to_pylist()), bool, rows.num_rows)
        if self.characters is not None:
            charset = Charset(self.characters)
            texts = rows["text"].combine_chunks()
            shown = pc.fill_null(pc.utf8_lower(texts) if charset.normalise("A") == "a" else texts, "")
            lengths = pc.utf8_length(shown).to_numpy(zero_copy_only=False)
            inside = pc.match_substring_regex(shown, f"^[{re.escape(self.characters)}]*$").to_numpy(zero_copy_only=False)
            for reason, bad in (("no label", texts.is_null().to_numpy(zero_copy_only=False)), ("empty label", lengths == 0),
                                (f"longer than {self.max_length} characters", lengths > self.max_length),
                                ("characters outside the charset", ~inside)):
                reasons[reason] = int((kept & bad).sum())
                kept &= ~bad
        return kept, +reasons


def _share(seed: int, key: str) -> float:
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True)
class Stream:
    """One stream of a run: a corpus, the rows it uses, and the order. Small and picklable: workers open the files themselves."""

    path: str
    selection: Selection
    plan: Plan
    batch_size: int
    left_out: dict[str, int]

    @staticmethod
    def open(path: str, selection: Selection, *, batch_size: int, seed: int, workers: int = 1) -> "Stream":
        """Count what a selection uses of a corpus.

        Raises:
            BadInput: no corpus there, no usable row, or fewer usable rows than a batch of all workers needs.
        """
        corpus = Corpus.open(path)
        counts, left_out = usable_rows(corpus, selection)
        used = sum(counts)
        found = f"{path} has {corpus.rows} rows, of which {used} can be used"
        if left_out:
            found += " (" + ", ".join(f"{count} left out: {reason}" for reason, count in left_out.items()) + ")"
        if used < batch_size * workers:
            raise BadInput(f"a batch of {batch_size} images on each of {workers} workers needs at least {batch_size * workers} rows, but "
                           f"{found}; lower batch_size, or bring in more images")
        return Stream(path, selection, Plan(tuple(counts), seed, lanes_for(workers)), batch_size, dict(left_out))

    def windows(self, share: "Share") -> Iterator[Window]:
        """What one worker reads for its share of the batches."""
        lanes = lanes_of(share.rank, share.workers, self.plan.lanes)
        return windows_of(self.plan, lanes, self.batch_size, share.first_batch, share.last_batch)


@dataclass(frozen=True)
class Share:
    """The batches that one worker takes of a stream: its numbers first_batch … last_batch - 1."""

    rank: int
    workers: int
    first_batch: int
    last_batch: int


def usable_rows(corpus: Corpus, selection: Selection) -> tuple[list[int], Counter]:
    """Usable rows of each row group, and how many rows are left out, by reason. Reads the columns key and text, in threads."""
    groups = corpus.row_groups
    if selection.everything:
        return [rows for _, _, rows in groups], Counter()
    with ThreadPoolExecutor() as pool:
        masks = pool.map(lambda group: selection.mask(corpus.read_row_group(group[0], group[1], ["key", "text"])), groups)
        counts, left_out = [], Counter()
        for kept, reasons in masks:
            counts.append(int(kept.sum()))
            left_out += reasons
    return counts, left_out


def read_window(stream: Stream, window: Window) -> pa.Table:
    """The rows of a window, in the order of the stream: columns key, image (encoded bytes), text."""
    groups, positions = stream.plan.row_ids(window)
    needed, place = np.unique(groups, return_inverse=True)
    read = _usable_group_cached if stream.plan.by_row else _usable_group  # a small corpus stays in the reader's memory
    tables, order = [], np.argsort(place, kind="stable")
    for number, group in enumerate(needed):
        tables.append(read(stream.path, stream.selection, int(group)).take(positions[order[place[order] == number]]))
    return pa.concat_tables(tables).take(np.argsort(order, kind="stable"))


def _usable_group(path: str, selection: Selection, group: int) -> pa.Table:
    corpus, row_groups = _opened(path)
    shard, index, _ = row_groups[group]
    rows = corpus.read_row_group(shard, index, COLUMNS)
    return rows if selection.everything else rows.filter(pa.array(selection.mask(rows)[0]))


_usable_group_cached = lru_cache(maxsize=1024)(_usable_group)


@lru_cache(maxsize=4)
def _opened(path: str) -> tuple[Corpus, list[RowGroup]]:
    corpus = Corpus.open(path)
    return corpus, corpus.row_groups


def local_blocks(stream: Stream, share: Share) -> Iterator[pa.Table]:
    """A worker's windows, read in this process. The order is that of `ray_blocks`."""
    return (read_window(stream, window) for window in stream.windows(share))
