"""What whoever started a run sees of it while it goes on: lines on stderr, and its report."""

import math
import sys
import threading
import time
from collections.abc import Sequence

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.evaluation.pseudo_labels import Examples
from pipelines.feed.stream import Stream
from pipelines.reports.html import write_text
from pipelines.reports.run import as_page
from pipelines.tracking import MetricLog, points_of
from pipelines.training.journal import Follower, parse_line, read_journal
from pipelines.training.prospects import prospects
from pipelines.training.recipe import Recipe
from pipelines.training.runs import RunFolder
from pipelines.training.unlabeled import DECIDES

SECONDS_BETWEEN_REPORTS = 30.0
NOT_ON_A_LINE = ("step", "time", "consistency_position", "unlabeled_")  # beginnings of names; of the last that which may decide is shown


def say(line: str, quiet: bool) -> None:
    """A line on stderr, unless it shall be quiet."""
    if not quiet:
        print(line, file=sys.stderr, flush=True)


def warn(sentence: str, quiet: bool) -> None:
    """A warning on stderr, unless it shall be quiet."""
    say(f"textray: warning: {sentence}", quiet)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as 00:01:00 or 51:20:07."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"


def say_streams(streams: dict[str, Stream], quiet: bool) -> None:
    """What is trained on, and what is left out."""
    for part, stream in streams.items():
        left_out = "".join(f"; left out {count}: {reason}" for reason, count in stream.left_out.items())
        say(f"{part}: {stream.rows} images of {', '.join(stream.paths)}, {stream.batch_size} a step and worker{left_out}", quiet)


class Progress:
    """Shows what rank 0 appends to the run's journal, with the time left, and what any rank has to say: on stderr, in the run's report, in MLflow.

    said: sentences that were said before the run began, for the report.
    """

    def __init__(self, where: RunFolder, recipe: Recipe, log: MetricLog, quiet: bool, said: Sequence[str] = ()):
        self._numbers, self._notices = Follower(where.progress), Follower(where.notices)
        self._where, self._recipe, self._log, self._quiet = where, recipe, log, quiet
        self._pause = 5.0 if storage.is_remote(where.place) else 0.5  # seconds
        self._done = threading.Event()
        self._first: tuple[int, float] | None = None
        self._lines = read_journal(where.progress)
        self._concerns = dict(enumerate(said))
        self._drawn, self._drawn_at = 0, -math.inf  # lines that the report shows, and when it was written: it may be older than they are

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
            if time.monotonic() - self._drawn_at >= SECONDS_BETWEEN_REPORTS:
                self._report()
        self._take_new()
        self._report()

    def _take_new(self) -> None:
        for line in self._numbers.new_lines():
            numbers = parse_line(line, self._where.progress)
            self._log.log(points_of([numbers]))
            self._lines.append(numbers)
            say(self._line(numbers), self._quiet)
            self._judge()
        for line in self._notices.new_lines():
            say(line.decode(errors="replace"), self._quiet)

    def _judge(self) -> None:
        """Say what speaks against the run, each once."""
        for subject, sentence in prospects(self._lines, self._recipe.objective.get("confidence_threshold")):
            if subject not in self._concerns:
                self._concerns[subject] = sentence
                warn(sentence, self._quiet)

    def _report(self) -> None:
        """Write the page of the run, if there is something new. A place that takes nothing now is tried again with the next numbers."""
        if len(self._lines) == self._drawn:
            return
        self._drawn, self._drawn_at = len(self._lines), time.monotonic()
        recipe, about = self._recipe, f"{self._recipe.objective['name']} on {self._recipe.recognizer.name}"
        try:
            examples = _examples_in(self._where.pseudo_labels)
            page = as_page(recipe.name, about, recipe.training.steps, self._lines, list(self._concerns.values()), examples)
            write_text(self._where.report, page)
        except (OSError, BadInput) as problem:
            if "report" not in self._concerns:
                self._concerns["report"] = f"{self._where.report}: the report of the run was not written for a while ({problem})"
                warn(self._concerns["report"], self._quiet)

    def _line(self, numbers: dict[str, int | float]) -> str:
        step, now, steps = numbers["step"], numbers["time"], self._recipe.training.steps
        self._first = self._first or (step, now)
        rate = (step - self._first[0]) / (now - self._first[1]) if now > self._first[1] else 0.0
        left = f"  left {clock((steps - step) / rate)}" if rate > 0 and step < steps else ""
        shown = "  ".join(f"{name.replace('_', ' ')} {value:,.0f}" if value >= 1000 else f"{name.replace('_', ' ')} {value:.4g}"
                          for name, value in numbers.items() if name == DECIDES or not name.startswith(NOT_ON_A_LINE))
        return f"step {step}/{steps}  {shown}{left}"


def _examples_in(file: str) -> Examples | None:
    """The examples that the last validation left; None before the first, of runs without unlabeled images, and where the file is damaged: the next
    validation writes it again."""
    try:
        return Examples.from_json(storage.read_bytes(file), file)
    except (FileNotFoundError, BadInput):
        return None
