"""The plan: every key once per epoch, the same order for every number of workers, resumable anywhere."""

from itertools import islice

import numpy as np
import pytest

from pipelines import plan as plans
from pipelines.plan import Plan, lanes_for, lanes_of, windows_of


def stream(plan: Plan, rank: int, workers: int, batch_size: int, batches: int, first_batch: int = 0) -> list[list[int]]:
    """The row numbers of a worker's batches, cut from the windows as the feed cuts them."""
    lanes = lanes_of(rank, workers, plan.lanes)
    starts = np.concatenate([[0], np.cumsum(plan.group_rows)])
    waiting = {lane: [] for lane in lanes}
    windows = windows_of(plan, lanes, batch_size, first_batch, first_batch + batches)
    taken = []
    for batch in range(first_batch, first_batch + batches):
        lane = lanes[batch % len(lanes)]
        while len(waiting[lane]) < batch_size:
            window = next(windows)
            groups, positions = plan.row_ids(window)
            assert len(groups) == window.rows
            waiting[window.lane].extend((starts[groups] + positions).tolist())
        taken.append(waiting[lane][:batch_size])
        del waiting[lane][:batch_size]
    return taken


@pytest.fixture(params=["rows", "row groups"])
def unit(request, monkeypatch):
    """Both kinds of permutation, on small numbers."""
    monkeypatch.setattr(plans, "WINDOW", 32)
    monkeypatch.setattr(plans, "SMALL", 10**6 if request.param == "rows" else 0)


def test_every_row_appears_once_in_every_epoch(unit):
    plan = Plan((40, 7, 100, 53, 40, 40, 1, 19), seed=3, lanes=4)  # 300 rows, 75 a lane
    for epoch in range(2):
        rows = []
        for lane in range(4):
            consumed = epoch * 75
            while consumed < (epoch + 1) * 75:
                window = plan.window(lane, consumed)
                groups, positions = plan.row_ids(window)
                rows += list(zip(groups.tolist(), positions.tolist()))
                consumed += window.rows
        assert sorted(rows) == [(group, row) for group, count in enumerate(plan.group_rows) for row in range(count)]


def test_the_order_of_global_batches_does_not_depend_on_the_number_of_workers(unit):
    plan = Plan((50,) * 9, seed=1, lanes=8)
    alone = stream(plan, 0, 1, batch_size=10, batches=64)
    for workers in (2, 4, 8):
        shares = [stream(plan, rank, workers, 10, 64 // workers) for rank in range(workers)]
        assert [shares[g % workers][g // workers] for g in range(64)] == alone


def test_a_stream_continues_at_any_batch(unit):
    plan = Plan((50, 3, 61, 44), seed=5, lanes=8)
    whole = stream(plan, 1, 2, batch_size=7, batches=60)
    for first in (1, 2, 17, 43):
        assert stream(plan, 1, 2, 7, 60 - first, first_batch=first) == whole[first:]


def test_epochs_and_seeds_differ(unit):
    plan = Plan((100,), seed=0, lanes=1)
    first, second = stream(plan, 0, 1, 100, 2)
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second
    assert stream(Plan((100,), seed=1, lanes=1), 0, 1, 100, 1)[0] != first


def test_100_million_rows_are_planned_row_group_by_row_group():
    plan = Plan((1000,) * 100_000, seed=0, lanes=64)
    groups, positions = plan.row_ids(plan.window(lane=63, consumed=1_562_400))
    assert len(groups) == 100  # what is left of the lane's epoch of 1,562,500 rows
    assert len(np.unique(groups)) <= 3  # a window of 1,924 rows touches few row groups


def test_a_worker_reads_only_its_lanes():
    assert [lanes_of(rank, 2, 8) for rank in range(2)] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [lanes_for(workers) for workers in (1, 2, 3, 8, 12)] == [8, 8, 9, 8, 12]
