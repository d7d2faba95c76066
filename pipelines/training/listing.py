"""The runs in a folder at a glance: how far each is, how good, and whether somebody trains it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.state import parse_yaml
from pipelines.training.journal import Follower, parse_line, read_journal, time_left
from pipelines.training.runs import LOST, RunFolder

RUNS = "runs"  # where commands put their runs, in the folder in which they work
TRAINING, KILLED, FINISHED, FAILED, DAMAGED = "training", "killed", "finished", "failed", "damaged"


@dataclass(frozen=True)
class Overview:
    """A run, or a sweep with its trials."""

    name: str
    place: str
    state: str  # one of the five above
    step: int  # of a sweep: trials that have finished
    steps: int  # of a sweep: trials that were begun
    what: str  # its objective and its recognizer
    accuracy: float | None = None  # the last one on the validation words, in [0, 1]
    seen: float | None = None  # when the last number was logged, in seconds since 1970
    left: float | None = None  # seconds to its last step, of a run that somebody trains
    sweep: bool = False
    problem: str = ""  # of a damaged one, in words


def runs_in(folder: str) -> list[Overview]:
    """The runs that lie in a folder, a path or URI, those that logged last first; the folder may be a run itself, or hold them in its subfolder `runs`.

    Damaged ones hide no other.

    Raises:
        BadInput: there is no such folder.
    """
    if storage.kind(storage.join(folder, "run.json")) == "file":
        return [_whatever(folder)]
    try:
        names = storage.list_names(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"{folder}: expected a folder of runs, found no such folder: name another one, or train first (`textray help finetune`)") from None
    places = (storage.join(folder, name) for name in names)
    found = [_whatever(place) for place in places if storage.kind(storage.join(place, "run.json")) == "file"]
    if not found and RUNS in names:
        return runs_in(storage.join(folder, RUNS))
    return sorted(found, key=lambda each: (-(each.seen or 0), each.name))


def _whatever(place: str) -> Overview:
    """The run in a folder, also where its files are damaged."""
    try:
        return overview(place)
    except BadInput as problem:
        return Overview(_name(RunFolder(place)), storage.absolute(place), DAMAGED, 0, 0, "", problem=str(problem))


def overview(place: str) -> Overview:
    """What is known of the run in a folder. Raises BadInput if there is none, or its state is damaged."""
    where = RunFolder(place)
    held = where.is_held()  # asked first: a run that ends right now has written its state before it lets go
    state, lines = where.state(), read_journal(where.progress)
    if state is None:
        raise BadInput(f"{place}: expected a run, found none: `textray runs` lists them")
    status = FINISHED if state.status == "finished" else TRAINING if held else FAILED if state.status == "failed" else KILLED
    name, what, seen = _name(where), _what(where), lines[-1]["time"] if lines else None
    if _is_sweep(where):
        trials = [RunFolder(storage.join(where.file("trials"), trial)) for trial in storage.list_names(where.file("trials"))]
        ended = sum(found is not None and found.status == "finished" for found in (trial.state() for trial in trials))
        times = [seen, *(line["time"] for trial in trials for line in read_journal(trial.progress)[-1:])]
        return Overview(name, where.place, status, ended, len(trials), f"sweep: {what}", seen=max((each for each in times if each), default=None), sweep=True)
    step = int(lines[-1]["step"]) if lines else 0
    return Overview(name, where.place, status, step, state.steps, what, _accuracy(where, lines), seen,
                    time_left(lines, state.steps) if status == TRAINING else None)


def _accuracy(where: RunFolder, lines: list[dict[str, Any]]) -> float | None:
    """The best word accuracy so far, or the last where the recipe keeps the last; None without one."""
    found = [line["word_accuracy"] for line in lines if "word_accuracy" in line]
    if not found:
        return None
    return found[-1] if (_recipe(where) or {}).get("training", {}).get("keep", "last") == "last" else max(found)


def _name(where: RunFolder) -> str:
    return where.place.rstrip("/").rpartition("/")[2]


def _is_sweep(where: RunFolder) -> bool:
    return storage.kind(where.file("trials")) == "folder"


def _what(where: RunFolder) -> str:
    """The names in its recipe; of a run whose recipe is lost, that."""
    recipe = _recipe(where)
    try:
        return f"{recipe['objective']['name']} on {recipe['recognizer']['name']}"
    except (KeyError, TypeError):
        return "its recipe is lost"


def _recipe(where: RunFolder) -> dict[str, Any] | None:
    file = where.file("recipe.yaml")
    try:
        return parse_yaml(storage.read_bytes(file), file, LOST)
    except (FileNotFoundError, BadInput):
        return None


def ago(seconds: float) -> str:
    """A time that has passed, in its largest unit: 4 s, 12 min, 3 h, 2 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(max(seconds, 0))} s"


def as_record(found: Overview) -> dict[str, Any]:
    """For scripts."""
    return {**vars(found), "seen": found.seen, "left": None if found.left is None else round(found.left)}


class Logged(NamedTuple):
    """A line of a run's journal."""

    numbers: dict[str, int | float]
    steps: int  # of the whole run
    left: float | None = None  # seconds to its last step, of a line that has just come


def follow(place: str, lines_before: int = 3, pause: float | None = None) -> Iterator[str]:
    """What `logged` gives, as the run's own command shows it."""
    from pipelines.training.watching import shown
    return (shown(*line) for line in logged(place, lines_before, pause))


def logged(place: str, lines_before: int | None = None, pause: float | None = None) -> Iterator[Logged]:
    """The lines that a run has logged, all or the last of them, and then those that come; ends when nobody trains it any more.

    Raises:
        BadInput: there is no run, or a sweep, whose trials log each for itself.
    """
    where = RunFolder(place)
    state, numbers = where.state(), Follower(where.progress)
    if state is None:
        raise BadInput(f"{place}: expected a run, found none: `textray runs` lists them")
    if _is_sweep(where):
        raise BadInput(f"{place}: expected a run, found a sweep: follow one of its trials, --follow {where.file('trials')}/NAME; `textray runs {where.file('trials')}` "
                       "lists them")
    pause = pause or (5.0 if storage.is_remote(where.place) else 0.5)  # seconds
    lines = read_journal(where.progress)
    yield from (Logged(line, state.steps) for line in lines[-(lines_before or len(lines)):])
    while True:
        trained = where.is_held()
        for line in (parse_line(line, where.progress) for line in numbers.new_lines()):
            if not lines or line["time"] > lines[-1]["time"]:  # it may have come between the two looks above
                lines.append(line)
                yield Logged(line, state.steps, time_left(lines, state.steps))
        if not trained:
            return
        time.sleep(pause)
