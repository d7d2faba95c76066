"""What whoever started a run sees of it: lines on stderr while it goes on."""

import sys
import threading
import time

from pipelines.corpus import storage
from pipelines.feed.stream import Stream
from pipelines.tracking import MetricLog, points_of
from pipelines.training.journal import Follower, parse_line
from pipelines.training.runs import RunFolder


def say(line: str, quiet: bool) -> None:
    """A line on stderr, unless it shall be quiet."""
    if not quiet:
        print(line, file=sys.stderr, flush=True)


def say_streams(streams: dict[str, Stream], quiet: bool) -> None:
    """What is trained on, and what is left out."""
    for part, stream in streams.items():
        left_out = "".join(f"; left out {count}: {reason}" for reason, count in stream.left_out.items())
        say(f"{part}: {stream.rows} images of {', '.join(stream.paths)}, {stream.batch_size} a step and worker{left_out}", quiet)


class Progress:
    """Prints what rank 0 appends to the run's journal, with the time left, and what any rank has to say; and brings the numbers to MLflow."""

    def __init__(self, where: RunFolder, steps: int, log: MetricLog, quiet: bool):
        self._numbers, self._notices, self._steps, self._quiet = Follower(where.progress), Follower(where.notices), steps, quiet
        self._where, self._log = where.progress, log
        self._pause = 5.0 if storage.is_remote(where.place) else 0.5  # seconds
        self._done = threading.Event()
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> "Progress":
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *problem) -> None:
        self._done.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._done.wait(self._pause):
            self._take_new()
        self._take_new()

    def _take_new(self) -> None:
        for line in self._numbers.new_lines():
            numbers = parse_line(line, self._where)
            self._log.log(points_of([numbers]))
            say(self._line(numbers), self._quiet)
        for line in self._notices.new_lines():
            say(line.decode(errors="replace"), self._quiet)

    def _line(self, numbers: dict[str, int | float]) -> str:
        step, now = numbers.pop("step"), numbers.pop("time")
        self._first = self._first or (step, now)
        rate = (step - self._first[0]) / (now - self._first[1]) if now > self._first[1] else 0.0
        left = f"  left {time.strftime('%H:%M:%S', time.gmtime((self._steps - step) / rate))}" if rate > 0 and step < self._steps else ""
        shown = "  ".join(f"{name.replace('_', ' ')} {value:,.0f}" if value >= 1000 else f"{name.replace('_', ' ')} {value:.4g}"
                          for name, value in numbers.items())
        return f"step {step}/{self._steps}  {shown}{left}"
