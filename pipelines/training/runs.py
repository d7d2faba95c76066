"""The folder of a run, on this machine or in an object store: its recipe, its state, its checkpoints, its model, and who may write there.

    runs/NAME/recipe.yaml      the whole recipe, every default written out
              run.json         state: running, finished or failed; the digest of the recipe; the MLflow run
              progress.jsonl   the numbers that were logged, one line each
              report.html      the same as curves, with examples of pseudo-labels (pseudo_labels.json) or of what the encoder sees (seen.json), written while it runs
              files/           what the recipe names of the user's own: an objective, a recognizer
              checkpoints/     brought there by rank 0, told whole from torn by `checkpoints.py`
              model/           the recognizer, once the run has finished
"""

import fcntl
import hashlib
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict

from pipelines.cluster import check_outlives
from pipelines.corpus import storage
from pipelines.errors import BadInput, disk_full
from pipelines.handles import RunHandle, with_credentials
from pipelines.state import parse_json, parse_yaml
from pipelines.training.lease import holds, leased

if TYPE_CHECKING:
    from pipelines.training.recipe import Recipe  # which takes seconds to import, and looking at runs does not need

# What may change when a run is resumed: on how many workers, and how they are placed.
WHERE = {f"training.{key}" for key in ("workers", "cpus_per_worker", "threads_per_worker", "gpu", "max_failures")}
# All that a run leaves that was killed before its state was written.
HELD = {"lock", "lease.json", "outcome.json"}  # one of which is there before all else: a recipe.yaml alone is the user's own
BEFORE_STATE = re.compile(r"lock|lease\.json|files|outcome\.json|(recipe\.yaml|run\.json)(\.\d+\.tmp)?")  # the outcome of a sweep's trial that failed before
LOST = "put back a copy of this file, or choose another name="


@dataclass(frozen=True)
class Start:
    """The model whose weights a run began with, by a name that never means another, and the hash of those weights."""

    model: str
    weights_sha256: str


@dataclass
class RunState:
    """What run.json holds. A run that was killed is still "running", but nobody holds its lock."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    status: Literal["running", "finished", "failed"]
    digest: str
    steps: int
    tracked: dict[str, str] | None = None
    corpora: dict[str, str] = field(default_factory=dict)  # the fingerprint of each corpus that it uses, by its place
    files: dict[str, str] = field(default_factory=dict)  # sha256 of the files of the user's own that its recipe names, by name
    token: str | None = None  # by which MLflow knows the run before this file holds its id there
    lanes: int | None = None  # of its streams (plan.py): the order of a run that goes on with another number of workers
    start: Start | None = None  # of a recipe with initialize_from
    settled: dict[str, int] = field(default_factory=dict)  # what its recipe left out, steps and batch sizes, by field (length.py)
    minutes: float | None = None  # that it was to take, where its steps are settled by that

    def check_corpora(self, now: dict[str, str]) -> None:
        """The order in which a run goes on is that of the corpora it began with. A run from before they were noted takes what it finds.

        Raises:
            BadInput: a corpus holds something else by now.
        """
        _check_same("corpus", "in ", self.corpora, now)

    def check_files(self, now: dict[str, str]) -> None:
        """A run goes on with the objective, the recognizer and the texts of the user's own that it began with; otherwise as `check_corpora`."""
        _check_same("file", "as ", self.files, now)

    @property
    def handle(self) -> RunHandle | None:
        """The run's entry in MLflow; credentials of its store come from the environment, as they stand in no file."""
        return RunHandle(**{**self.tracked, "uri": with_credentials(self.tracked["uri"])}) if self.tracked else None


def _check_same(what: str, where: str, before: dict[str, str], now: dict[str, str]) -> None:
    for place, fingerprint in now.items():
        known = before.get(place, fingerprint)
        if known != fingerprint:
            raise BadInput(f"expected the {what} that the run began with {where}{place} (sha256 {known[:12]}…), found another one there "
                           f"({fingerprint[:12]}…): bring the old one back, or begin a new run under another name=")


class RunFolder:
    """A run's folder, a path or URI, held while a process trains in it: by the kernel's lock on this machine, by a lease in a store."""

    def __init__(self, path: str | os.PathLike):
        self.place = storage.absolute(os.fspath(path))
        self._held = ExitStack()
        self._lost = threading.Event()  # set when another process has taken the folder

    @property
    def path(self) -> Path:
        """The folder of a run on this machine. Raises BadInput for one in a store."""
        return storage.here(self.place, "runs=")

    def file(self, name: str) -> str:
        """The path or URI of a file of the run."""
        return storage.join(self.place, name)

    @property
    def checkpoints(self) -> str:
        """Where the checkpoints lie."""
        return self.file("checkpoints")

    @property
    def best(self) -> str:
        """Where the recognizers lie that read the most validation words so far, as checkpoints of their own; the newest is the best."""
        return self.file("best")

    @property
    def model(self) -> str:
        """Where the finished recognizer lies."""
        return self.file("model")

    @property
    def progress(self) -> str:
        """The numbers that were logged."""
        return self.file("progress.jsonl")

    @property
    def pseudo_labels(self) -> str:
        """Examples of what is read in unlabeled images, of the last validation."""
        return self.file("pseudo_labels.json")

    @property
    def seen(self) -> str:
        """What an encoder that learns from images alone makes of some of them, at the last validation."""
        return self.file("seen.json")

    @property
    def report(self) -> str:
        """The page of the run."""
        return self.file("report.html")

    @property
    def notices(self) -> str:
        """What workers have to say to whoever watches, a line each."""
        return self.file("notices.txt")

    @property
    def failure(self) -> str:
        """Why training cannot go on, one sentence; written by the worker that found out."""
        return self.file("failure.txt")

    def state(self) -> RunState | None:
        """The run's state; None where there is no run yet. Raises BadInput if run.json is not what it should be."""
        file = self.file("run.json")
        try:
            data = storage.read_bytes(file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as problem:
            raise BadInput(f"{file}: expected the state of a run, found {problem.strerror}: {LOST}") from None
        state = parse_json(data, RunState, file, LOST)
        if state.tracked is not None and state.tracked.keys() != RunHandle.__annotations__.keys():
            raise BadInput(f"{file}: expected {', '.join(RunHandle.__annotations__)} in tracked, found {', '.join(state.tracked)}: {LOST}")
        return state

    def is_held(self) -> bool:
        """Whether a process, here or anywhere, has claimed the folder and lives."""
        if storage.is_remote(self.place):
            return holds(self.file("lease.json"))
        try:
            with open(self.file("lock"), encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def write(self, state: RunState) -> None:
        """Replace the state in one step. Raises BadInput if the folder was taken over meanwhile."""
        if self._lost.is_set():
            raise BadInput(f"the run in {self.place} was taken over by another process")
        storage.write_bytes(self.file("run.json"), json.dumps(asdict(state), indent=1).encode())

    def claim(self, recipe: "Recipe", resume: bool) -> RunState:
        """Lock the folder for this recipe, as long as this process lives, and return the state to go on from.

        A run that was killed goes on when the same recipe is started again, and a finished one is left as it is. A failed one needs `resume`;
        with it a run may go on with another number of workers.

        Raises:
            BadInput: the name is taken: by a run that somebody trains right now, by another recipe, or by a failed run and `resume` is not
                given.
        """
        what = f"the run {recipe.name!r} in {self.place}"
        check_outlives(self.place, "runs")
        try:
            self._check_free()
            self._hold(what)
        except OSError as problem:
            if disk_full(problem):
                raise
            raise BadInput(f"{what}: expected a folder to write to, found {problem.strerror} ({problem.filename}); choose another runs=") from None
        try:
            return self._go_on(recipe, resume)
        except BaseException:
            self._held.close()
            raise

    def look(self, recipe: "Recipe", resume: bool) -> RunState | None:
        """The state from which `claim` would go on, None for a new run; nothing is locked or written. Raises BadInput as `claim` does."""
        self._check_free()
        state = self.state()
        if state is not None:
            self._check_recipe(state, recipe, resume)
        return state

    def _check_recipe(self, state: RunState, recipe: "Recipe", resume: bool) -> None:
        if not self._same(state, recipe) and not (resume and self._elsewhere(recipe)):
            raise BadInput(f"the run {recipe.name!r} exists in {self.place} with another recipe ({self._differences(recipe)}); choose another "
                           "name=, or repeat that recipe to continue it")
        if state.status == "failed" and not resume:
            raise BadInput(f"the run {recipe.name!r} exists in {self.place} ({state.status}); choose another name=, or say --resume")

    def _go_on(self, recipe: "Recipe", resume: bool) -> RunState:
        """The state from which the recipe may be trained in this folder, which is held."""
        state, text = self.state(), recipe.to_yaml().encode()
        if state is None:
            state = RunState("running", recipe.digest, recipe.training.steps, token=uuid.uuid4().hex)
            storage.write_bytes(self.file("recipe.yaml"), text)
        else:
            self._check_recipe(state, recipe, resume)
        if state.digest == recipe.digest and self._recipe_file() != text:  # it was damaged or lost
            storage.write_bytes(self.file("recipe.yaml"), text)
        storage.remove(self.failure)
        return state

    def _check_free(self) -> None:
        """What is there must be a run, or what a run leaves that was killed at once."""
        found = storage.kind(self.place)
        names = set(storage.list_names(self.place)) if found == "folder" else set()
        others = not all(map(BEFORE_STATE.fullmatch, names)) or (names and not names & HELD)
        if found == "file" or (others and self.state() is None):
            raise BadInput(f"expected a new folder or a run at {self.place}, found other files; choose another name=")

    def _hold(self, what: str) -> None:
        if storage.is_remote(self.place):
            self._lost = self._held.enter_context(leased(self.file("lease.json"), what))
            return
        try:
            os.makedirs(self.place, exist_ok=True)
            lock = self._held.enter_context(open(self.file("lock"), "w", encoding="utf-8"))
            with suppress(BlockingIOError):  # `is_held` may be looking right now
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.1)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{what} is being trained by another process; wait for it, or choose another name=") from None

    def _recipe_file(self) -> bytes | None:
        try:
            return storage.read_bytes(self.file("recipe.yaml"))
        except FileNotFoundError:
            return None

    def _same(self, state: RunState, recipe: "Recipe") -> bool:
        """Whether a recipe is the run's; one of an earlier version of textray lacks fields that now have their defaults."""
        if state.digest == recipe.digest:
            return True
        text = self._recipe_file()
        if text is None or hashlib.sha256(text).hexdigest()[:16] != state.digest:
            return False
        from pipelines.training.recipe import parse_recipe
        try:
            return parse_recipe(parse_yaml(text, self.file("recipe.yaml"), LOST)) == recipe
        except BadInput:
            return False

    def _elsewhere(self, recipe: "Recipe") -> bool:
        """Whether only the machines differ on which the run goes on."""
        before, now = self._recipes(recipe)
        return all(key in WHERE for key in {**before, **now} if before.get(key) != now.get(key))

    def _recipes(self, recipe: "Recipe") -> tuple[dict, dict]:
        from pipelines.tracking import flat
        before = parse_yaml(self._recipe_file() or b"", self.file("recipe.yaml"), LOST)
        return flat(before), flat(recipe.model_dump(mode="json"))

    def _differences(self, recipe: "Recipe") -> str:
        before, now = self._recipes(recipe)
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return ", ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in keys[:3]) + (", …" if len(keys) > 3 else "")

    @contextmanager
    def training(self, wait_line: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the folder for writing checkpoints and progress: rank 0, while it trains.

        When a driver is killed its workers live on for a moment. Whoever continues the run waits here until they are gone.
        `wait_line` is called once if there is somebody to wait for. In a store the lease gives them the time.
        """
        if storage.is_remote(self.place):
            yield
            return
        with open(self.file("workers.lock"), "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait_line()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def claimed(self, recipe: "Recipe", resume: bool) -> Iterator[RunState]:
        """`claim` for the time of the block. A new run whose state was never written leaves no folder behind."""
        fresh, above = self.state() is None, os.path.dirname(self.place)
        first = not storage.is_remote(self.place) and not os.path.lexists(above)  # there is no folder of runs yet
        with self._held:
            state = self.claim(recipe, resume)
            try:
                yield state
            finally:
                if fresh and storage.kind(self.file("run.json")) is None:
                    storage.remove(self.place)
                    if first and not os.listdir(above):
                        os.rmdir(above)
