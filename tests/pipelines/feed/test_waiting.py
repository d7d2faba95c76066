"""A consumer that waits for data says so, and nothing else changes."""

import threading

import pytest

from pipelines.feed.waiting import announced


def test_a_wait_is_told_again_and_again_until_it_ends():
    told, twice = [], threading.Event()

    def say(seconds):
        told.append(seconds)
        if len(told) == 2:
            twice.set()

    def slow():
        yield "first"
        assert twice.wait(60)
        yield "second"
    assert list(announced(slow(), say, patience=0.02)) == ["first", "second"]
    assert told[:2] == sorted(told[:2]) and all(seconds >= 0.02 for seconds in told)


def test_items_pass_in_order_and_errors_too_and_the_watch_ends():
    def items():
        yield from range(5)
        raise OSError("torn")
    before, taken = threading.active_count(), []
    with pytest.raises(OSError, match="torn"):
        for item in announced(items(), lambda seconds: None, patience=0.01):
            taken.append(item)
    assert taken == [0, 1, 2, 3, 4]
    for thread in threading.enumerate():
        if thread.name == "waiting for data":
            thread.join(60)
    assert threading.active_count() <= before
