"""Says that a consumer waits for data: a training that stands still for want of images looks like one that computes."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
PATIENCE = 60.0  # seconds


def announced(items: Iterator[Item], say: Callable[[float], None], patience: float = PATIENCE) -> Iterator[Item]:
    """The items, in order. For every `patience` seconds that one of them keeps its consumer waiting, `say` gets the seconds waited so far.

    It is called in a thread of its own, which ends with the iteration.
    """
    watch = _Watch(say, patience)
    watch.start()
    try:
        while True:
            watch.since = time.monotonic()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                watch.since = None
            yield item
    finally:
        watch.over.set()


class _Watch(threading.Thread):
    def __init__(self, say: Callable[[float], None], patience: float):
        super().__init__(daemon=True, name="waiting for data")
        self.since: float | None = None  # when the consumer began to wait
        self.over = threading.Event()
        self._say, self._patience = say, patience

    def run(self) -> None:
        told: tuple[float | None, int] = (None, 0)  # a wait, and how often it was told of
        while not self.over.wait(self._patience / 10):
            since = self.since
            times = 0 if since is None else int((time.monotonic() - since) / self._patience)
            if times and (since, times) != told:
                told = since, times
                self._say(times * self._patience)
