"""The folder of a run: its recipe, its state, its checkpoints, its model, and who may write there.

    runs/NAME/recipe.yaml      the whole recipe, every default written out
              run.json         state: running, finished or failed; the digest of the recipe; the MLflow run
              progress.jsonl   the numbers that were logged, one line each
              checkpoints/     Ray Train's
              model/           the recognizer, once the run has finished
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from pipelines.errors import BadInput
from pipelines.tracking import RunHandle
from pipelines.training.recipe import Recipe

# What may change when a run is resumed: on how many workers, and how they are placed.
WHERE = {f"training.{key}" for key in ("workers", "cpus_per_worker", "threads_per_worker", "gpu", "max_failures")}
BEFORE_STATE = {"lock", "recipe.yaml", "run.json.partial"}  # all that a run leaves that was killed before its state was written


@dataclass
class RunState:
    """What run.json holds. A run that was killed is still "running", but nobody holds its lock."""

    status: str
    digest: str
    steps: int
    tracked: dict[str, str] | None = None
    corpora: dict[str, str] = field(default_factory=dict)  # the fingerprint of each corpus that it uses, by its place
    lanes: int | None = None  # of its streams (plan.py): the order of a run that goes on with another number of workers

    def check_corpora(self, now: dict[str, str]) -> None:
        """The order in which a run goes on is that of the corpora it began with. A run from before they were noted takes what it finds.

        Raises:
            BadInput: a corpus holds something else by now.
        """
        for place, fingerprint in now.items():
            before = self.corpora.get(place, fingerprint)
            if before != fingerprint:
                raise BadInput(f"expected the corpus that the run began with in {place} (sha256 {before[:12]}…), found another one there "
                               f"({fingerprint[:12]}…): bring the old one back, or begin a new run under another name=")

    @property
    def handle(self) -> RunHandle | None:
        """The run's entry in MLflow."""
        return RunHandle(**self.tracked) if self.tracked else None


class RunFolder:
    """A run's folder, locked while a process trains in it."""

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()
        self._lock = None

    @property
    def checkpoints(self) -> Path:
        """Where Ray Train keeps its checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Where the finished recognizer lies."""
        return self.path / "model"

    @property
    def progress(self) -> Path:
        """The numbers that were logged."""
        return self.path / "progress.jsonl"

    @property
    def notices(self) -> Path:
        """What workers have to say to whoever watches, a line each."""
        return self.path / "notices.txt"

    @property
    def failure(self) -> Path:
        """Why training cannot go on, one sentence; written by the worker that found out."""
        return self.path / "failure.txt"

    def state(self) -> RunState | None:
        """The run's state; None where there is no run yet."""
        file = self.path / "run.json"
        return RunState(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def write(self, state: RunState) -> None:
        """Replace the state in one step."""
        temporary = self.path / "run.json.partial"
        temporary.write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        os.replace(temporary, self.path / "run.json")

    def claim(self, recipe: Recipe, resume: bool) -> RunState:
        """Lock the folder for this recipe, as long as this process lives, and return the state to go on from.

        A run that was killed goes on when the same recipe is started again. Everything else that exists needs `resume`; with it the run may
        go on with another number of workers.

        Raises:
            BadInput: the name is taken: by a run that somebody trains right now, by another recipe, or by a finished or failed run and
                `resume` is not given.
        """
        state = self.state()
        if state is None and self.path.exists() and {file.name for file in self.path.iterdir()} - BEFORE_STATE:
            raise BadInput(f"expected a new folder or a run at {self.path}, found other files; choose another name=")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / "lock", "w", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"the run {recipe.name!r} in {self.path} is being trained by another process; wait for it, or choose another "
                           "name=") from None
        if state is None:
            state = RunState("running", recipe.digest, recipe.training.steps)
            (self.path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        elif state.digest != recipe.digest and not (resume and self._elsewhere(recipe)):
            raise BadInput(f"the run {recipe.name!r} exists in {self.path} with another recipe ({self._differences(recipe)}); choose another "
                           "name=, or repeat that recipe to continue it")
        elif state.status != "running" and not resume:
            raise BadInput(f"the run {recipe.name!r} exists in {self.path} ({state.status}); choose another name=, or say --resume")
        self.failure.unlink(missing_ok=True)
        return state

    def _elsewhere(self, recipe: Recipe) -> bool:
        """Whether only the machines differ on which the run goes on."""
        before, now = self._recipes(recipe)
        return all(key in WHERE for key in {**before, **now} if before.get(key) != now.get(key))

    def _recipes(self, recipe: Recipe) -> tuple[dict, dict]:
        from pipelines.tracking import flat
        before = flat(yaml.safe_load((self.path / "recipe.yaml").read_text(encoding="utf-8")))
        return before, flat(recipe.model_dump(mode="json"))

    def _differences(self, recipe: Recipe) -> str:
        before, now = self._recipes(recipe)
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return ", ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in keys[:3]) + (", …" if len(keys) > 3 else "")

    @contextmanager
    def training(self, wait_line: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the folder for writing checkpoints and progress: rank 0, while it trains.

        When a driver is killed its workers live on for a moment. Whoever continues the run waits here until they are gone.
        `wait_line` is called once if there is somebody to wait for.
        """
        with open(self.path / "workers.lock", "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait_line()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def claimed(self, recipe: Recipe, resume: bool) -> Iterator[RunState]:
        """`claim` for the time of the block. A new run whose state was never written leaves no folder behind."""
        fresh = self.state() is None
        state = self.claim(recipe, resume)
        try:
            yield state
        finally:
            if fresh and self.state() is None:
                shutil.rmtree(self.path)
            self._lock.close()
