"""The order in which a stream visits a corpus: arithmetic on row counts, a function of (seed, epoch) alone.

An epoch permutes the corpus and cuts the permutation into `lanes` slices of equal length (to within one row). A lane is an
endless stream: the rows of its slice of epoch 0, then of epoch 1, and so on; batches are cut from that stream, so that every key
appears exactly once in each epoch, no remainder is dropped, and every lane can give any number of batches.
Global batch g is batch number g // lanes of lane g mod lanes. Worker r of W takes the batches first + r, first + r + W, ...: the order of
global batches is the same for every W, also when W changes on the way. Where W divides the number of lanes a worker reads only its own
lanes, one reading of the corpus in all; otherwise workers read some rows that another one uses.

What is permuted: single rows while the corpus is small (at most `SMALL` rows, which a reader can hold in memory), else row groups,
whose rows are mixed within windows of `WINDOW` rows. 100 million rows are about 100 thousand row groups: nothing here is larger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

LANES = 8
SMALL = 65_536
WINDOW = 4_096
MIX_SLOTS = 1_000


@dataclass(frozen=True)
class Window:
    """Consecutive rows of one lane's stream, the unit of reading: at most WINDOW rows, the first `skip` already consumed."""

    epoch: int
    lane: int
    index: int
    skip: int
    rows: int  # rows that remain after the skip


class Plan:
    """The order of one corpus, or of a part of it.

    Args:
        group_rows: usable rows of each row group of the corpus, in the order of the manifest.
        seed: two plans with one seed and the same counts are the same.
        lanes: independent slices of an epoch; a multiple of the number of workers.
    """

    def __init__(self, group_rows: Sequence[int], seed: int, lanes: int = LANES):
        self.group_rows = np.asarray(group_rows, dtype=np.int64)
        self.seed, self.lanes = seed, lanes

    def __reduce__(self) -> tuple:  # without what is computed from these
        return Plan, (self.group_rows, self.seed, self.lanes)

    @property
    def rows(self) -> int:
        """Usable rows of the corpus."""
        return int(self._starts[-1])

    @property
    def by_row(self) -> bool:
        """Whether single rows are permuted (small corpus) instead of row groups."""
        return self.rows <= SMALL

    @cached_property
    def _starts(self) -> np.ndarray:  # (groups + 1,) first usable row of each group
        return np.concatenate([[0], np.cumsum(self.group_rows)])

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
        order, ends = self._group_order(epoch)
        place = np.arange(np.searchsorted(ends, first, side="right"), np.searchsorted(ends, last - 1, side="right") + 1)
        rows = np.concatenate([np.arange(self._starts[group], self._starts[group + 1]) for group in order[place]])
        offset = first - (ends[place[0]] - self.group_rows[order[place[0]]])
        return rows[offset:offset + last - first]

    def _group_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The row groups in an epoch's order, and where each ends in it."""
        if self._last_order[0] != epoch:
            order = _permutation(len(self.group_rows), self.seed, epoch)
            self._last_order = epoch, order, np.cumsum(self.group_rows[order])
        return self._last_order[1:]

    _last_order: tuple = (-1, None, None)  # of one epoch: lanes move through the epochs together


@lru_cache(maxsize=16)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 0)).permutation(count)


def lanes_for(workers: int) -> int:
    """The number of lanes for a world size: LANES where the workers divide it, else the next multiple of the workers."""
    return -(-LANES // workers) * workers


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
