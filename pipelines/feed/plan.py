"""The order in which a stream visits a corpus: arithmetic on row counts, a function of (seed, epoch) alone.

An epoch permutes the corpus and cuts the permutation into `lanes` slices of equal length (to within one row). A lane is an
endless stream: the rows of its slice of epoch 0, then of epoch 1, and so on; batches are cut from that stream, so that every key
appears exactly once in each epoch, no remainder is dropped, and every lane can give any number of batches.
Global batch g is batch number g // lanes of lane g mod lanes. Worker r of W takes the batches first + r, first + r + W, ...: the order of
global batches is the same for every W, also when W changes on the way. Where W divides the number of lanes a worker reads only its own
lanes, one reading of the corpus in all; otherwise workers read some rows that another one uses.

What is permuted: single rows while the corpus is small (at most `SMALL` rows, which a reader can hold in memory), else row groups. Rows of a
group are neighbours in the source, so a lane is twisted of up to `STRANDS` strands, slices of its slice: row p of the lane is row
p // strands of strand p mod strands, and every batch takes as many rows from each. A strand is read window by window: whole row groups of
about `WINDOW` rows together, mixed among themselves. A batch so holds rows of as many groups as there are strands, from all over the epoch,
and its worker holds a window for each strand of its lanes. 100 million rows are about 100 thousand row groups: nothing here is larger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

LANES = 8
STRANDS = 32
SMALL = 65_536
WINDOW = 1_024
MIX_SLOTS = 1_000


@dataclass(frozen=True)
class Window:
    """Consecutive rows of one strand, the unit of reading: rows number first … last - 1 of an epoch's permutation, of which the first `skip`,
    once they are mixed, are already consumed."""

    epoch: int
    strand: int
    first: int
    last: int
    skip: int

    @property
    def rows(self) -> int:
        """Rows that remain after the skip."""
        return self.last - self.first - self.skip


class Plan:
    """The order of one corpus, or of a part of it.

    Args:
        group_rows: usable rows of each row group of the corpus, in the order of the manifest.
        seed: two plans with one seed and the same counts are the same.
        lanes: independent slices of an epoch; a multiple of the number of workers.
        by_row: whether single rows are permuted instead of row groups; None: where the corpus is small.
    """

    def __init__(self, group_rows: Sequence[int], seed: int, lanes: int = LANES, by_row: bool | None = None):
        self.group_rows = np.asarray(group_rows, dtype=np.int64)
        self.seed, self.lanes = seed, lanes
        self.by_row = self.rows <= SMALL if by_row is None else by_row
        filled = int((self.group_rows > 0).sum())
        self.strands = 1 if self.by_row else min(STRANDS, max(1, filled // lanes))  # of each lane; a strand of less than a group would read it in parts

    def __reduce__(self) -> tuple:  # without what is computed from these
        return Plan, (self.group_rows, self.seed, self.lanes, self.by_row)

    @property
    def rows(self) -> int:
        """Usable rows of the corpus."""
        return int(self._starts[-1])

    @cached_property
    def _starts(self) -> np.ndarray:  # (groups + 1,) first usable row of each group
        return np.concatenate([[0], np.cumsum(self.group_rows)])

    def lane_rows(self, lane: int) -> int:
        """Rows that a lane holds in every epoch."""
        return self._boundary(lane + 1) - self._boundary(lane)

    def _boundary(self, lane: int) -> int:
        return lane * self.rows // self.lanes

    def _strand(self, strand: int) -> tuple[int, int]:
        """The first row of a strand, numbered through all lanes, in an epoch's permutation, and its rows."""
        lane, number = divmod(strand, self.strands)
        each, more = divmod(self.lane_rows(lane), self.strands)
        return self._boundary(lane) + number * each + min(number, more), each + (number < more)

    def of_strands(self, lane: int, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Rows start … stop - 1 of a lane, counted from the start of training, as rows of its strands: (strand, start, stop)."""
        begins, ends = self._taken(lane, start), self._taken(lane, stop)
        return [(lane * self.strands + number, begin, end) for number, (begin, end) in enumerate(zip(begins, ends)) if end > begin]

    def _taken(self, lane: int, rows: int) -> list[int]:
        """How many rows each strand of a lane gives for the lane's first `rows`."""
        epoch, rest = divmod(rows, self.lane_rows(lane))
        return [epoch * self._strand(lane * self.strands + number)[1] + max(0, -(-(rest - number) // self.strands)) for number in range(self.strands)]

    def window(self, strand: int, consumed: int) -> Window:
        """The window that holds a strand's row number `consumed`, counted from the start of training."""
        begin, rows = self._strand(strand)
        epoch, offset = divmod(consumed, rows)
        first, last = self._whole_groups(epoch, begin + offset)
        first, last = max(first, begin), min(last, begin + rows)
        return Window(epoch, strand, first, last, begin + offset - first)

    def _whole_groups(self, epoch: int, row: int) -> tuple[int, int]:
        """The window of row groups around a row of an epoch's permutation: those that begin in the same `WINDOW` rows as its own group."""
        if self.by_row:
            return row // WINDOW * WINDOW, (row // WINDOW + 1) * WINDOW
        _, starts = self._group_order(epoch)
        block = starts[np.searchsorted(starts, row, side="right") - 1] // WINDOW
        first, last = np.searchsorted(starts, (block * WINDOW, (block + 1) * WINDOW))
        return int(starts[first]), int(starts[last]) if last < len(starts) else self.rows

    def row_ids(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Where a window's rows lie, in the order of the stream.

        Returns:
            groups and positions, both (window.rows,) int64: the row group and the number of the usable row within it.
        """
        rows = self._permuted(window.epoch, window.first, window.last)
        mix = np.random.default_rng((self.seed, window.epoch, window.first, 1)).permutation(len(rows))
        rows = rows[mix][window.skip:]
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        return groups, rows - self._starts[groups]

    def _permuted(self, epoch: int, first: int, last: int) -> np.ndarray:
        """Rows number first … last - 1 of an epoch's permutation, as global row numbers, before mixing within the window."""
        if self.by_row:
            return _permutation(self.rows, self.seed, epoch)[first:last]
        order, starts = self._group_order(epoch)
        place = np.arange(np.searchsorted(starts, first, side="right") - 1, np.searchsorted(starts, last - 1, side="right"))
        rows = np.concatenate([np.arange(self._starts[group], self._starts[group + 1]) for group in order[place]])
        offset = first - starts[place[0]]
        return rows[offset:offset + last - first]

    def _group_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The row groups that have usable rows in an epoch's order, and where each begins in it."""
        if self._last_order[0] != epoch:
            filled = np.flatnonzero(self.group_rows)
            order = filled[_permutation(len(filled), self.seed, epoch)]
            self._last_order = epoch, order, np.concatenate([[0], np.cumsum(self.group_rows[order])[:-1]])
        return self._last_order[1:]

    _last_order: tuple = (-1, None, None)  # of one epoch: lanes move through the epochs together


@lru_cache(maxsize=16)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 0)).permutation(count)


def lanes_for(workers: int) -> int:
    """The number of lanes for a world size: LANES where the workers divide it, else the next multiple of the workers."""
    return -(-LANES // workers) * workers


def held_whole(rows: Sequence[int]) -> list[bool]:
    """Which of several corpora are small enough to be permuted row by row: the smallest ones, while a reader can hold all of these in memory.

    A stream that mixes them goes through all at once; together they may have twice as many rows as one.
    """
    held, total = [False] * len(rows), 0
    for number in sorted(range(len(rows)), key=lambda number: (rows[number], number)):
        total += rows[number]
        held[number] = rows[number] <= SMALL and total <= 2 * SMALL
    return held


class Mix:
    """Which of several ingredients each item of a lane comes from, in fixed proportions: a pattern of slots that repeats.

    Args:
        weights: of the ingredients, positive; only their ratios count, and they are kept to a thousandth.
    """

    def __init__(self, weights: Sequence[float]):
        shares = np.asarray(weights, dtype=np.float64) / sum(weights)
        slots = 1 if len(shares) == 1 else MIX_SLOTS
        counts = _apportion(shares, slots)
        # Each ingredient's slots are spread evenly; ties go to the earlier ingredient.
        places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        owners = np.repeat(np.arange(len(counts)), counts)
        self.slots = owners[np.lexsort((owners, places))]  # (slots,) the ingredient of each
        taken = self.slots[:, None] == np.arange(len(counts))
        self._taken = np.concatenate([np.zeros((1, len(counts)), np.int64), np.cumsum(taken, axis=0)])  # (slots + 1, ingredients)

    def owner(self, item: int) -> int:
        """The ingredient of item number `item`."""
        return int(self.slots[item % len(self.slots)])

    def before(self, item: int) -> np.ndarray:
        """How many of the items 0 … item - 1 each ingredient gave, (ingredients,) int64."""
        rounds, slot = divmod(item, len(self.slots))
        return rounds * self._taken[-1] + self._taken[slot]


def _apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to `shares` that add up to `total`, at least 1 each, by largest remainders."""
    counts = np.maximum(np.floor(shares * total).astype(np.int64), 1)
    while counts.sum() != total:
        error = shares * total - counts
        if counts.sum() < total:
            counts[np.argmax(error)] += 1
        else:
            counts[np.argmin(np.where(counts > 1, error, np.inf))] -= 1
    return counts
