"""MLflow: where runs are kept, what every run records, and metrics that never make a step wait.

Without MLFLOW_TRACKING_URI the store is `mlflow.db` (SQLite), the artifacts `mlartifacts/`, both in the working folder. A server decides
for itself where artifacts go; of a database server that nobody stands before (`postgresql://…`) MLFLOW_DEFAULT_ARTIFACT_ROOT says it.
The driver prepares the store once and starts the run, whose name is a RunHandle, a few strings. What a run logs stands in its folder first
(progress.jsonl), and the driver brings it here: a store that is away costs a warning where the command was typed, and no number.
"""

import importlib.metadata
import json
import logging
import os
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy.exc
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from pipelines import database
from pipelines.errors import BadInput, Unavailable, without_credentials
from pipelines.handles import RunHandle, tracking_uri
from pipelines.progress import warn

# MLflow would try a server that is away for 4 minutes, and one that accepts and does not answer for 20. What it lacks is brought later.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a model is two files

EXPERIMENT, TOKEN = "textray", "textray.token"
KEY_PACKAGES = ("textray", "torch", "ray", "mlflow", "pyarrow", "numpy", "opencv-python-headless", "lmdb", "pydantic")
# Of a store that is away or full, or has no driver here.
STORE_PROBLEMS = (MlflowException, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError, ModuleNotFoundError)
METRICS_PER_CALL, PARAMETERS_PER_CALL = 1000, 100  # limits of MLflow's log-batch
PARAMETER_LENGTH, TAG_LENGTH = 6000, 8000  # limits of MLflow; the recipe file holds a parameter's whole value


def prepare_store(uri: str | None = None, experiment: str = EXPERIMENT) -> tuple[str, str]:
    """Create the schema and the experiment if they are missing. Call it once, in the driver, before workers start.

    Returns:
        The store's URI and the experiment's id.

    Raises:
        BadInput: the store cannot be used, is of a kind that MLflow has retired, or its making was interrupted by an earlier version.
        Unavailable: a server that does not answer now.
    """
    uri = uri or tracking_uri()
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a line for each of the schema's 60 migrations
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback for what is raised anyway
    try:
        with database.one_at_a_time(uri):
            if file := database.file_of(uri):
                location = _artifacts_of(uri)
                database.make(file, lambda aside: _make_schema(aside, experiment, location))
            client = client_of(uri)
            found = client.get_experiment_by_name(experiment)
            return uri, found.experiment_id if found else _create_experiment(client, experiment, _artifacts_of(uri))
    except STORE_PROBLEMS as problem:
        if isinstance(problem, ModuleNotFoundError) and database.is_server(uri):
            driver = "pip install 'textray[postgresql]'" if uri.startswith("postgresql") else "install the one that SQLAlchemy names"
            raise BadInput(f"the MLflow store {uri}: expected its database's driver, found none ({_first_line(problem)}): {driver}, or set "
                           "MLFLOW_TRACKING_URI to another store") from None
        if is_away(uri, problem):
            raise Unavailable(f"the MLflow store {uri} does not answer ({_first_line(problem)}): repeat the command when it is back, or correct "
                              "MLFLOW_TRACKING_URI") from None
        raise BadInput(f"the MLflow store {uri} cannot be used ({_first_line(problem)}); set MLFLOW_TRACKING_URI to a "
                       "database (sqlite:////path/mlflow.db) or a server, or unset it") from None


def _artifacts_of(uri: str) -> str | None:
    """Where a new experiment keeps its artifacts, for ever; None leaves it to an MLflow server. Beside a database in a file; MLflow would take a path relative to whoever
    writes. Raises BadInput for a database server of which nobody has said it: a folder of the first user's machine would be nobody else's."""
    if not (database.is_server(uri) or uri.startswith("sqlite:")):
        return None
    if root := os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        return root if "://" in root else Path(root).absolute().as_uri()
    if uri.startswith("sqlite:"):
        return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
    raise BadInput(f"the MLflow store {uri} is new: expected MLFLOW_DEFAULT_ARTIFACT_ROOT, the place of its artifacts, found none: set it to an object store or a folder that "
                   "everyone who uses the store can reach (s3://BUCKET/PATH, /shared/mlartifacts), or put an MLflow server before the database")


def is_away(uri: str, problem: Exception) -> bool:
    """Whether it is a server, and this problem the network's or the server's own: it may pass."""
    passing = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")
    if database.is_server(uri):
        return database.may_pass(problem) or (isinstance(problem, MlflowException) and problem.error_code in passing)
    return uri.startswith(("http://", "https://")) and (not isinstance(problem, MlflowException) or problem.error_code in passing)


def client_of(uri: str) -> MlflowClient:
    """MLflow's client of a store that is there: where a database is gone, MLflow would begin another in its place.

    Raises:
        BadInput: a SQLite store that is not whole.
        OSError, sqlite3.Error: one that is away.
    """
    if file := database.file_of(uri):
        database.check(file, *_schema())
    if database.is_server(uri):
        database.reach(uri)
    return MlflowClient(tracking_uri=uri)


@lru_cache(maxsize=1)
def _schema() -> tuple[set[str], str]:
    """The tables of the installed MLflow, and its schema's version."""
    from mlflow.store.db.utils import Base, _get_latest_schema_revision
    return set(Base.metadata.tables), _get_latest_schema_revision()


def _make_schema(uri: str, experiment: str, location: str) -> None:
    """With the experiment: of several first users that would make it at once SQLite turns some away."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    store = SqlAlchemyStore(uri, location)
    store.create_experiment(experiment, artifact_location=location)
    store.engine.dispose()


def _create_experiment(client: MlflowClient, name: str, location: str | None) -> str:
    try:
        return client.create_experiment(name, artifact_location=location)
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another driver was first
        if found is None:
            raise
        return found.experiment_id


def start_run(name: str, recipe: str = "", *, tags: Mapping[str, str] | None = None,
              params: Mapping[str, Any] | None = None, corpora: Mapping[str, tuple[str, str]] | None = None,
              parent: RunHandle | None = None, uri: str | None = None, token: str | None = None,
              files: Mapping[str, str] | None = None) -> RunHandle:
    """Open a run and record what decides its outcome.

    Whoever is killed in here and comes again with the same `token` goes on with the run that was opened, instead of leaving it open for ever.

    Recorded: the recipe file, `params` (nested mappings become dotted names), the git commit of this code or that there
    is none, the versions of every installed package, and the sha256 of each corpus' manifest.

    Args:
        name: what the run is called in the UI.
        recipe: the recipe as YAML, whole.
        corpora: for each stream (labeled, unlabeled, ...) the place of its corpus and the sha256 of its manifest: they become MLflow's dataset inputs, and tags.
        parent: the run that this one belongs to, such as a sweep; the store is then the parent's.
        uri: another store than `tracking_uri()`.
        token: a name of this run that no other has, kept by the caller before it calls.
        files: texts of files of the user's own, by name, which go to files/.
    """
    store, experiment = (parent.uri, parent.experiment) if parent else prepare_store(uri)
    client = client_of(store)
    versions = installed_versions()
    notes = {f"version.{package}": versions[package] for package in KEY_PACKAGES if package in versions}
    notes |= {"version.python": sys.version.split()[0], "command": command_line(), **git_state()}
    notes |= {f"corpus.{stream}": sha256 for stream, (_, sha256) in (corpora or {}).items()}
    notes |= {"mlflow.parentRunId": parent.run} if parent else {}
    notes |= {TOKEN: token} if token else {}
    begun = client.search_runs([experiment], f"tags.`{TOKEN}` = '{token}'", max_results=1) if token else []
    run = (begun[0] if begun else client.create_run(experiment, run_name=name, tags=notes | dict(tags or {}))).info.run_id
    entries = [Param(key, str(value)[:PARAMETER_LENGTH]) for key, value in flat(params or {}).items()]
    for start in range(0, len(entries), PARAMETERS_PER_CALL):
        client.log_batch(run, params=entries[start:start + PARAMETERS_PER_CALL])
    if corpora:
        client.log_inputs(run, [_dataset(stream, *corpus) for stream, corpus in corpora.items()])
    if recipe:
        client.log_text(run, recipe, "recipe.yaml")
    for file, text in (files or {}).items():
        client.log_text(run, text, f"files/{Path(file).name}")
    client.log_text(run, "".join(f"{package}=={version}\n" for package, version in versions.items()), "versions.txt")
    return RunHandle(store, experiment, run)


def _dataset(stream: str, place: str, sha256: str) -> DatasetInput:
    """A corpus as MLflow shows the data of a run."""
    shown = without_credentials(place)
    found = Dataset(shown.rstrip("/").rpartition("/")[2] or shown, sha256[:32], "textray corpus", json.dumps({"uri": shown}))
    return DatasetInput(found, [InputTag("mlflow.data.context", stream)])


def link(earlier: RunHandle, later: RunHandle, name: str) -> None:
    """Say of a run that another one, called `name`, went on from its model: each names the other in its tags."""
    client = client_of(later.uri)
    client.set_tag(later.run, "began_with.run", earlier.run)
    client.set_tag(earlier.run, f"went_on_as.{name}"[:250], later.run)


def no_files() -> Mapping[str, str | bytes]:
    """Nothing to store."""
    return {}


def complete(run: RunHandle, status: str, *, points: Iterable[Metric] = (), tags: Mapping[str, str] | None = None,
             files: Callable[[], Mapping[str, str | bytes]] = no_files) -> str | None:
    """Bring a run's entry to what it should be: the points, tags and files that it lacks, and last its status (RUNNING, FINISHED, FAILED or
    KILLED). What is there already stays as it is, so that this may be called again after it was killed or the store was away.

    Args:
        files: gives texts or bytes by name; asked only if the status is another yet.

    Returns:
        Why that could not be done now; None if the entry is complete.
    """
    try:
        client = client_of(run.uri)
        found = client.get_run(run.run)
        lacking = _lacking(client, run.run, list(points))
        for start in range(0, len(lacking), METRICS_PER_CALL):
            client.log_batch(run.run, metrics=lacking[start:start + METRICS_PER_CALL])
        new = [RunTag(key, value) for key, value in (tags or {}).items() if found.data.tags.get(key) != value]
        if new:
            client.log_batch(run.run, tags=new)
        if found.info.status != status:
            for name, content in files().items():
                _log_file(client, run.run, name, content)
            end = client.update_run if status == "RUNNING" else client.set_terminated
            end(run.run, status)
    except (BadInput, *STORE_PROBLEMS) as problem:
        return _first_line(problem)
    return None


def _log_file(client: MlflowClient, run: str, name: str, content: str | bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, Path(name).name)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        client.log_artifact(run, str(file), str(Path(name).parent) if "/" in name else None)


def _lacking(client: MlflowClient, run: str, points: list[Metric]) -> list[Metric]:
    """The points whose metric and step the store does not have, each once."""
    stored = {(name, point.step) for name in {point.key for point in points} for point in client.get_metric_history(run, name)}
    first = {(point.key, point.step): point for point in reversed(points)}
    return [point for place, point in reversed(first.items()) if place not in stored]


def points_of(lines: Iterable[Mapping[str, float]]) -> list[Metric]:
    """The lines of a run's progress.jsonl as metrics."""
    return [Metric(name, float(value), int(line["time"] * 1000), int(line["step"]))
            for line in lines for name, value in line.items() if name not in ("step", "time")]


def find_run(run: str, uri: str | None = None) -> Run | None:
    """The MLflow run of that id; None if the store holds none. Raises Unavailable."""
    store, _ = prepare_store(uri)
    try:
        return client_of(store).get_run(run)
    except MlflowException as problem:
        if is_away(store, problem):
            raise Unavailable(f"the MLflow store {store} does not answer ({_first_line(problem)}): repeat the command when it is back") from None
        return None


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def installed_versions() -> dict[str, str]:
    """Every installed distribution with its version, by name, as `pip freeze` would list them."""
    found = {distribution.metadata["Name"]: distribution.version for distribution in importlib.metadata.distributions()}
    return {name: found[name] for name in sorted(filter(None, found), key=str.lower)}


def command_line() -> str:
    """What was typed, as it can be pasted into a shell again, without credentials: `textray finetune …`, `python -m pipelines.finetune …`."""
    program, *rest = sys.orig_argv
    script = Path(sys.argv[0])
    if script.name == "textray" and str(script) in rest:  # the interpreter that the script names
        program, *rest = rest[rest.index(str(script)):]
    return without_credentials(shlex.join([Path(program).name, *rest]))[:TAG_LENGTH]


def git_state() -> dict[str, str]:
    """Tags that say which commit of this code runs, and whether it was changed since; or why that is not known."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie inside somebody else's repository
        return {"mlflow.source.git.commit": git("rev-parse", "HEAD"),
                "git.changed": "yes" if git("status", "--porcelain", "--untracked-files=no") else "no"}
    except FileNotFoundError:
        return {"git": "no commit known: git is not installed"}
    except subprocess.CalledProcessError as problem:
        return {"git": f"no commit known: {_first_line(problem.stderr) or 'git refused'}"}


def _first_line(problem: object) -> str:
    return without_credentials((str(problem).strip().splitlines() or [type(problem).__name__])[0])[:300]


class MetricLog:
    """Metrics of one run, written by a thread of their own in batches.

    `log` appends to a list and returns: a write to SQLite takes 5 to 70 ms, to a server that is away a minute. A store that fails costs
    one line on stderr; what it did not take is kept (the newest `keep` values) and tried again with the next batch, and in the end
    `complete` brings it from the run's progress.jsonl. Use it as a context manager, or call `close`.
    """

    def __init__(self, run: RunHandle, earlier: Iterable[Metric] = (), *, seconds: float = 5.0, keep: int = 100_000) -> None:
        """Start the thread, which writes every `seconds`. A step of a metric is written once: not again if it is among the `earlier` points."""
        self.run = run
        self.lost = 0  # values that were not stored
        self._seconds, self._keep = seconds, keep
        self._seen = {(point.key, point.step) for point in earlier}
        self._pending: list[Metric] = []
        self._lock = threading.Lock()  # held for list operations only, never while writing
        self._closing = threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._write_on, name="metric-log", daemon=True)
        self._thread.start()

    def log(self, points: Iterable[Metric]) -> None:
        """Note points, to be written soon."""
        with self._lock:
            new = [point for point in points if (point.key, point.step) not in self._seen]
            self._seen |= {(point.key, point.step) for point in new}
            self._pending += new
            excess = max(0, len(self._pending) - self._keep)
            del self._pending[:excess]
            self.lost += excess

    def close(self, seconds: float = 60.0) -> None:
        """Write what is left, within `seconds`, and end the thread. What the store did not take by then counts as lost."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join(seconds)
        with self._lock:
            self.lost += len(self._pending)
            self._pending = []

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_on(self) -> None:
        while not self._closing.wait(self._seconds):
            self._write()
        self._write()

    def _write(self) -> None:
        """Write everything noted so far; values leave the list only when the store has them."""
        while points := self._pending[:METRICS_PER_CALL]:
            try:
                client_of(self.run.uri).log_batch(self.run.run, metrics=points)
            except (BadInput, *STORE_PROBLEMS) as problem:
                if not self._warned:
                    warn(f"metrics cannot be stored in {without_credentials(self.run.uri)} for now "
                          f"({_first_line(problem)}); the run goes on and they are tried again")
                    self._warned = True
                return
            with self._lock:  # the oldest may have been dropped meanwhile: remove by identity
                written = set(map(id, points))
                self._pending = [point for point in self._pending if id(point) not in written]


def metric_history(run: RunHandle, name: str) -> list[tuple[int, float]]:
    """The (step, value) pairs of one metric, in the order of the steps."""
    points: Iterable[Metric] = client_of(run.uri).get_metric_history(run.run, name)
    return sorted((point.step, point.value) for point in points)
