"""The plan: every key once per epoch, the same order for every number of workers, resumable anywhere, in any proportions."""

import pickle

import numpy as np
import pytest

from pipelines.feed import plan as plans
from pipelines.feed.plan import Mix, Plan, held_whole, lanes_for
from pipelines.feed.selection import Selection
from pipelines.feed.stream import Ingredient, Share, Stream


def stream_of(*plans: Plan, batch_size: int, weights=None, whole_batches=False) -> Stream:
    ingredients = tuple(Ingredient("", Selection(None), plan) for plan in plans)
    return Stream(ingredients, Mix(weights or [plan.rows for plan in plans]), batch_size, {}, whole_batches)


def rows_of(stream: Stream, number: int) -> list[tuple[int, int]]:
    """(ingredient, row) of a global batch, straight from the definition: no reading ahead, nothing shared."""
    rows = []
    for request in stream.requests(number):
        plan = stream.ingredients[request.ingredient].plan
        starts = np.concatenate([[0], np.cumsum(plan.group_rows)])
        for consumed in range(request.start, request.stop):
            groups, positions = plan.row_ids(plan.window(request.strand, consumed))
            rows.append((request.ingredient, int(starts[groups[0]] + positions[0])))
    return rows


@pytest.fixture(params=["rows", "row groups"])
def unit(request, monkeypatch):
    """Both kinds of permutation, on small numbers."""
    monkeypatch.setattr(plans, "WINDOW", 32)
    monkeypatch.setattr(plans, "SMALL", 10**6 if request.param == "rows" else 0)


def test_every_row_appears_once_in_every_epoch(unit):
    plan = Plan((40, 7, 0, 100, 53, 40, 40, 1, 19), seed=3, lanes=4)  # 300 rows, 75 a lane
    stream = stream_of(plan, batch_size=25)
    for epoch in range(2):
        rows = [row for number in range(12 * epoch, 12 * epoch + 12) for _, row in rows_of(stream, number)]
        assert sorted(rows) == list(range(300))


def test_epochs_and_seeds_differ(unit):
    stream = stream_of(Plan((100,), seed=0, lanes=1), batch_size=100)
    assert rows_of(stream, 0) != rows_of(stream, 1) and sorted(rows_of(stream, 0)) == sorted(rows_of(stream, 1))
    assert rows_of(stream_of(Plan((100,), seed=1, lanes=1), batch_size=100), 0) != rows_of(stream, 0)


def test_a_plan_is_small_when_it_travels(unit):
    plan = Plan((50,) * 9, seed=1)
    plan.row_ids(plan.window(0, 0))
    copy = pickle.loads(pickle.dumps(plan))
    assert (copy.group_rows == plan.group_rows).all() and (copy.seed, copy.lanes) == (1, 8)
    assert len(pickle.dumps(plan)) < 1000


def test_a_worker_reads_only_its_lanes_where_the_numbers_allow_it(unit):
    stream = stream_of(Plan((50,) * 9, seed=1, lanes=8), batch_size=10)
    strands = stream.ingredients[0].plan.strands
    lanes = [{reading.window.strand // strands for reading in stream.readings(Share(rank, 2, 0, 64))} for rank in range(2)]
    assert lanes == [{0, 2, 4, 6}, {1, 3, 5, 7}]
    assert [lanes_for(workers) for workers in (1, 2, 3, 8, 12)] == [8, 8, 9, 8, 12]


def test_no_worker_reads_a_row_twice(unit):
    stream = stream_of(Plan((50,) * 9, seed=1, lanes=8), batch_size=10)
    for workers in (1, 2, 8):
        rows = sum(reading.window.rows for rank in range(workers) for reading in stream.readings(Share(rank, workers, 0, 40)))
        assert 400 <= rows <= 400 + 8 * (32 + 50)  # what the batches need, and the rest of one window for each lane


def test_every_batch_is_mixed_in_the_given_proportions(unit):
    stream = stream_of(Plan((500,), 0), Plan((500,), 0), batch_size=20, weights=[0.3, 0.7])
    for number in range(16):
        assert [request.stop - request.start for request in stream.requests(number)] == [6, 14]
    uneven = stream_of(Plan((500,), 0, 1), Plan((500,), 0, 1), Plan((500,), 0, 1), batch_size=7, weights=[1, 2, 5])
    taken = [[sum(owner == ingredient for owner, _ in rows_of(uneven, number)) for ingredient in range(3)] for number in range(1000)]
    assert np.sum(taken, axis=0).tolist() == [875, 1750, 4375]
    assert all(sum(row) == 7 for row in taken)


def test_each_ingredient_has_epochs_of_its_own(unit):
    stream = stream_of(Plan((30,), 0, 1), Plan((70,), 0, 1), batch_size=10, weights=[0.5, 0.5])
    rows = [row for number in range(28) for row in rows_of(stream, number)]  # 140 of each
    for ingredient, size in ((0, 30), (1, 70)):
        own = [row for owner, row in rows if owner == ingredient]
        assert all(sorted(own[start:start + size]) == list(range(size)) for start in range(0, 140 // size * size, size))


def test_whole_batches_come_from_one_ingredient_in_proportion():
    stream = stream_of(Plan((300,), 0), Plan((100,), 0), batch_size=10, whole_batches=True)
    owners = [request.ingredient for number in range(0, 8 * 40, 8) for request in stream.requests(number)]  # batches of lane 0
    assert owners.count(0) == 30 and owners.count(1) == 10
    assert [(request.start, request.stop) for number in range(0, 8 * 5, 8) for request in stream.requests(number)
            if request.ingredient == 0] == [(0, 10), (10, 20), (20, 30), (30, 40)][:sum(owner == 0 for owner in owners[:5])]


def test_proportions_are_kept_to_a_thousandth():
    slots = Mix([0.0001, 1, 1]).slots
    assert [int((slots == owner).sum()) for owner in range(3)] == [1, 499, 500] or [int((slots == owner).sum()) for owner in range(3)] == [1, 500, 499]
    assert len(Mix([3]).slots) == 1


MANY = Plan((1000,) * 100_000, seed=0, lanes=32)


def groups_of(stream: Stream, number: int) -> np.ndarray:
    """The row group of every row of a global batch."""
    found = []
    for request in stream.requests(number):
        plan, at = stream.ingredients[request.ingredient].plan, request.start
        while at < request.stop:
            window = plan.window(request.strand, at)
            groups, _ = plan.row_ids(window)
            found += groups[:request.stop - at].tolist()
            at += min(window.rows, request.stop - at)
    return np.array(found)


def test_100_million_rows_are_planned_row_group_by_row_group():
    groups, positions = MANY.row_ids(MANY.window(strand=32 * 32 - 1, consumed=97_000))
    assert 1 <= len(np.unique(groups)) <= 2 and len(groups) == len(positions)  # a window is one row group, two at the most


@pytest.mark.parametrize("number", [0, 31, 32 * 500 + 7, 32 * 20_000])
def test_a_batch_of_a_large_corpus_is_mixed_from_as_many_groups_as_a_lane_has_strands(number):
    groups = groups_of(stream_of(MANY, batch_size=288), number)
    found, rows = np.unique(groups, return_counts=True)
    assert len(groups) == 288 and len(found) >= 32 and rows.max() <= 9  # no group gives more than its strand's share
    assert np.abs(np.diff(np.sort(found))).max() > 1000  # they lie all over the corpus


def test_the_groups_of_a_lane_change_one_after_the_other():
    """Windows of different strands do not end together, so neighbouring batches share most groups, and batches a window's length apart none."""
    stream = stream_of(MANY, batch_size=288)
    sets = [set(groups_of(stream, 32 * index).tolist()) for index in range(0, 360, 10)]
    new = [len(after - before) for before, after in zip(sets, sets[1:])]
    assert max(new) <= 12 and all(not sets[index] & sets[index + 24] for index in range(12))


@pytest.mark.parametrize("workers", [1, 4, 32])
def test_a_worker_holds_a_window_for_each_strand_of_its_lanes_at_the_most(workers):
    plan = Plan((500,) * 2000, seed=1, lanes=32)  # a million rows
    stream, share = stream_of(plan, batch_size=64), Share(workers - 1, workers, 0, 32 * 300)
    read, taken, most = 0, 0, 0
    readings, fetched = stream.readings(share), {}
    for number in share.numbers:
        for request in stream.requests(number):
            while fetched.get(request.strand, request.start) < request.stop:
                window = next(readings).window
                fetched[window.strand] = fetched.get(window.strand, request.start) + window.rows
                read += window.rows
            taken += request.stop - request.start
        most = max(most, read - taken)
    assert most <= 32 // workers * plan.strands * 1500 and plan.strands == 32  # a window begins within 1,024 rows and ends with a group of 500


def test_small_corpora_are_held_whole_while_all_of_them_fit():
    assert held_whole([10, plans.SMALL, plans.SMALL + 1]) == [True, True, False]
    assert held_whole([plans.SMALL] * 6) == [True, True] + [False] * 4  # those that are not are read group by group
    assert held_whole([20_000] * 6) == [True] * 6
    assert held_whole([]) == []


def test_the_strands_of_a_lane_give_its_rows_in_turn(unit):
    plan = Plan((40, 7, 0, 100, 53, 40, 40, 1, 19) * 4, seed=3, lanes=4)
    for start, stop in ((0, 7), (0, 300), (299, 301), (613, 640)):
        parts = plan.of_strands(2, start, stop)
        assert sum(end - begin for _, begin, end in parts) == stop - start
        assert all(strand // plan.strands == 2 for strand, _, _ in parts)
        follow = {strand: begin for strand, begin, _ in plan.of_strands(2, stop, stop + 100)}
        assert all(follow[strand] == end for strand, _, end in parts if strand in follow)
