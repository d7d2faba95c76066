"""The order in which a stream visits a corpus: arithmetic on row counts, a function of (seed, epoch) alone.

An epoch permutes the corpus and cuts the permutation into `lanes` slices of equal length (to within one row). A lane is an
endless stream: the rows of its slice of epoch 0, then of epoch 1, and so on; batches are cut from that stream, so that every key
appears exactly once in each epoch, no remainder is dropped, and every lane can give any number of batches.
Global batch g comes from lane g mod lanes; worker r of W gets the batches g with g mod W = r. For every W that divides the number of
lanes the order of global batches is the same, and a worker reads only its own lanes: one reading of the corpus in all.

What is permuted: single rows while the corpus is small (at most `SMALL` rows, which a reader can hold in memory), else row groups,
whose rows are mixed within windows of `WINDOW` rows. 100 million rows are about 100 thousand row groups: nothing here is larger.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

LANES = 8
SMALL = 65_536
WINDOW = 4_096


@dataclass(frozen=True)
class Window:
    """Consecutive rows of one lane's stream, the unit of reading: at most WINDOW rows, the first `skip` already consumed."""

    epoch: int
    lane: int
    index: int
    skip: int
    rows: int  # rows that remain after the skip


@dataclass(frozen=True)
class Plan:
    """The order of one stream.

    Args:
        group_rows: usable rows of each row group of the corpus, in the order of the manifest.
        seed: two plans with one seed and the same counts are the same.
        lanes: independent slices of an epoch; a multiple of the number of workers.
    """

    group_rows: tuple[int, ...]
    seed: int
    lanes: int = LANES

    @property
    def rows(self) -> int:
        """Usable rows of the corpus."""
        return self._starts[-1].item()

    @property
    def by_row(self) -> bool:
        """Whether single rows are permuted (small corpus) instead of row groups."""
        return self.rows <= SMALL

    @property
    def _starts(self) -> np.ndarray:  # (groups + 1,) first usable row of each group
        return _starts(self.group_rows)

    def lane_rows(self, lane: int) -> int:
        """Rows that a lane holds in every epoch."""
        return self._boundary(lane + 1) - self._boundary(lane)

    def _boundary(self, lane: int) -> int:
        return lane * self.rows // self.lanes

    def window(self, lane: int, consumed: int) -> Window:
        """The window that holds a lane's row number `consumed`, counted from the start of training."""
        rows = self.lane_rows(lane)
        epoch, offset = divmod(consumed, rows)
        index, skip = divmod(offset, WINDOW)
        return Window(epoch, lane, index, skip, min(WINDOW, rows - index * WINDOW) - skip)

    def row_ids(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Where a window's rows lie, in the order of the stream.

        Returns:
            groups and positions, both (window.rows,) int64: the row group and the number of the usable row within it.
        """
        first = self._boundary(window.lane) + window.index * WINDOW
        last = first + window.skip + window.rows
        rows = self._permuted(window.epoch, first, last)
        mix = np.random.default_rng((self.seed, window.epoch, window.lane, window.index, 1)).permutation(len(rows))
        rows = rows[mix][window.skip:]
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        return groups, rows - self._starts[groups]

    def _permuted(self, epoch: int, first: int, last: int) -> np.ndarray:
        """Rows number first … last - 1 of an epoch's permutation, as global row numbers, before mixing within the window."""
        if self.by_row:
            return _permutation(self.rows, self.seed, epoch)[first:last]
        order, ends = _group_order(self.group_rows, self.seed, epoch)
        place = np.arange(np.searchsorted(ends, first, side="right"), np.searchsorted(ends, last - 1, side="right") + 1)
        rows = np.concatenate([np.arange(self._starts[group], self._starts[group + 1]) for group in order[place]])
        offset = first - (ends[place[0]] - self.group_rows[order[place[0]]])
        return rows[offset:offset + last - first]


@lru_cache(maxsize=8)
def _starts(group_rows: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(group_rows, dtype=np.int64)])


@lru_cache(maxsize=16)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 0)).permutation(count)


@lru_cache(maxsize=16)
def _group_order(group_rows: tuple[int, ...], seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    order = _permutation(len(group_rows), seed, epoch)
    return order, np.cumsum(np.asarray(group_rows, dtype=np.int64)[order])


def lanes_for(workers: int) -> int:
    """The number of lanes for a world size: LANES where the workers divide it, else the next multiple of the workers."""
    return -(-LANES // workers) * workers


def lanes_of(rank: int, workers: int, lanes: int) -> list[int]:
    """The lanes of one worker, in the order in which it takes batches from them."""
    return list(range(rank, lanes, workers))


def windows_of(plan: Plan, lanes: list[int], batch_size: int, first_batch: int, last_batch: int) -> Iterator[Window]:
    """The windows that a worker reads for its batches first_batch … last_batch - 1, in the order in which they are needed.

    The worker takes batch number b from its lane b mod len(lanes). Lanes take turns as their batches need rows, so that few windows
    are ever open.
    """
    consumed = [plan_position(number, len(lanes), first_batch) * batch_size for number in range(len(lanes))]
    fetched = list(consumed)  # rows of each lane read so far
    for batch in range(first_batch, last_batch):
        number = batch % len(lanes)
        needed = (batch // len(lanes) + 1) * batch_size
        while fetched[number] < needed:
            window = plan.window(lanes[number], fetched[number])
            fetched[number] += window.rows
            yield window


def plan_position(number: int, lanes: int, batches: int) -> int:
    """How many batches have been taken from a worker's lane `number` once it has taken `batches` from its `lanes` lanes in turn."""
    return (batches - number + lanes - 1) // lanes
