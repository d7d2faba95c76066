"""What whoever started a run sees of it while it goes on: lines on stderr, and its report."""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.evaluation.look import Look
from pipelines.evaluation.metrics import with_interval
from pipelines.evaluation.pseudo_labels import Examples
from pipelines.feed.stream import Stream
from pipelines.progress import say, warn
from pipelines.reports.html import write_text
from pipelines.reports.run import as_page
from pipelines.tracking import MetricLog, points_of
from pipelines.training import machine
from pipelines.training.journal import Follower, parse_line, read_journal, time_left
from pipelines.training.prospects import prospects
from pipelines.training.recipe import Recipe
from pipelines.training.runs import RunFolder
from pipelines.training.unlabeled import DECIDES, PREFIX

Kind = TypeVar("Kind", Examples, Look)
SHOWN = {DECIDES, *(PREFIX + name for name in ("effective_rank", "background", "neighbour_similarity"))}  # of them, on a line nevertheless
SECONDS_BETWEEN_REPORTS = 30.0
NOT_ON_A_LINE = ("step", "time", "consistency_position", "unlabeled_", "memory_", "waiting_", "validation_words", machine.PREFIX)  # beginnings of names


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as 00:01:00 or 51:20:07."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"


def say_streams(streams: dict[str, Stream]) -> None:
    """What is trained on, and what is left out."""
    for part, stream in streams.items():
        left_out = "".join(f"; left out {count}: {reason}" for reason, count in stream.left_out.items())
        say(f"{part}: {stream.rows} images of {', '.join(stream.paths)}, {stream.batch_size} a step and worker{left_out}")


class Progress:
    """Shows what rank 0 appends to the run's journal, with the time left, and what any rank has to say: on stderr, in the run's report, in MLflow.

    said: sentences that were said before the run began, for the report.
    """

    def __init__(self, where: RunFolder, recipe: Recipe, log: MetricLog, said: Sequence[str] = ()):
        self._numbers, self._notices = Follower(where.progress), Follower(where.notices)
        self._where, self._recipe, self._log = where, recipe, log
        self._pause = 5.0 if storage.is_remote(where.place) else 0.5  # seconds
        self._done = threading.Event()
        self._first: dict[str, int | float] | None = None
        self._lines: list[Mapping[str, int | float]] = []
        self._taken = 0  # lines ever, also those that count no more
        for numbers in read_journal(where.progress):
            self._take(numbers)
        self._concerns = dict(enumerate(said))
        self._drawn, self._drawn_at = 0, -math.inf  # lines when the report was written, and when it was written: it may be older than they are

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
            self._take(numbers)
            first = self._first = self._first or numbers
            left = time_left([first, numbers], self._recipe.training.steps)
            say(shown(numbers, self._recipe.training.steps, left))
            self._judge()
        for line in self._notices.new_lines():
            say(line.decode(errors="replace"))

    def _take(self, numbers: Mapping[str, int | float]) -> None:
        """Numbers of the run. What a killed process had logged behind the step at which the run went on counts no more."""
        if self._lines and numbers["step"] < self._lines[-1]["step"]:
            self._lines = [line for line in self._lines if line["step"] < numbers["step"]]
        self._lines.append(numbers)
        self._taken += 1

    def _judge(self) -> None:
        """Say what speaks against the run, each once."""
        for subject, sentence in prospects(self._lines, self._recipe.objective.get("confidence_threshold"), self._recipe.training.steps,
                                           self._recipe.initialize_from is None):
            if subject not in self._concerns:
                self._concerns[subject] = sentence
                warn(sentence)

    def _report(self) -> None:
        """Write the page of the run, if there is something new. A place that takes nothing now is tried again with the next numbers."""
        if self._taken == self._drawn:
            return
        self._drawn, self._drawn_at = self._taken, time.monotonic()
        recipe, about = self._recipe, f"{self._recipe.objective['name']} on {self._recipe.recognizer.name}"
        try:
            examples, seen = _left_in(self._where.pseudo_labels, Examples), _left_in(self._where.seen, Look)
            page = as_page(recipe.name, about, recipe.training.steps, self._lines, list(self._concerns.values()), examples, seen, made_from(recipe), recipe.to_yaml())
            write_text(self._where.report, page)
        except (OSError, BadInput) as problem:
            if "report" not in self._concerns:
                self._concerns["report"] = f"{self._where.report}: the report of the run was not written for a while ({problem})"
                warn(self._concerns["report"])


def made_from(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run is made from, for its report: (name, text) pairs."""
    data, training = recipe.data, recipe.training
    batch = training.workers * training.accumulate
    streams = [(name, f"{', '.join(part.corpora)}, {batch * part.batch_size:,} images a step" + (f", {100 * part.fraction:g} % of them" if part.fraction < 1 else ""))
               for name, part in (("labeled", data.labeled), ("unlabeled", data.unlabeled)) if part is not None]
    validation = [("validation", f"at most {data.validation.words:,} words of {data.validation.corpus}")] if data.validation else []
    return [*streams, *validation, ("begins with", recipe.initialize_from or "weights drawn at random"),
            ("workers", f"{training.workers:,}"), ("seed", str(recipe.seed))]


def shown(numbers: Mapping[str, int | float], steps: int, left: float | None) -> str:
    """A line of a journal for a terminal; `left` is the time to the last step in seconds, as far as it is known."""
    named = "  ".join(f"{name.replace('_', ' ')} {_shown(name, value, numbers)}" for name, value in numbers.items()
                      if name in SHOWN or not name.startswith(NOT_ON_A_LINE))
    return f"step {numbers['step']}/{steps}  {named}" + (f"  left {clock(left)}" if left else "")


def _shown(name: str, value: int | float, beside: Mapping[str, int | float]) -> str:
    if name == "word_accuracy":
        return with_interval(value, int(beside.get("validation_words", 0)))
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _left_in(file: str, kind: type[Kind]) -> Kind | None:
    """What the last validation left to be shown; None before the first, of runs that leave no such thing, and where the file is damaged: the next
    validation writes it again."""
    try:
        return kind.from_json(storage.read_bytes(file), file)
    except (FileNotFoundError, BadInput):
        return None
