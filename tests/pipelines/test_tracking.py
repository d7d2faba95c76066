"""What a run records, and metrics that survive a store that does not."""

import json
import os
import pickle
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException

from killing import Killed, killing
from pipelines import handles, tracking
from pipelines.errors import BadInput, Unavailable
from pipelines.handles import RunHandle
from pipelines.reading.weights import find_model
from pipelines.tracking import MetricLog, complete, find_run, metric_history, points_of, start_run


@pytest.fixture
def client(store) -> MlflowClient:
    return MlflowClient(tracking_uri=store)


def artifacts(client: MlflowClient, run: str) -> dict[str, Path]:
    return {file.path: Path(client.download_artifacts(run, file.path)) for file in client.list_artifacts(run)}


def test_a_run_records_what_decides_its_outcome(store, client):
    handle = start_run("first", "name: first\n", params={"training": {"steps": 10}, "seed": 0},
                       tags={"kind": "finetune"}, corpora={"labeled": ("s3://bucket/corpora/words/", "ab" * 32), "validation": ("corpora/held-out", "cd" * 32)}, uri=store)
    run = client.get_run(handle.run)
    assert run.info.run_name == "first" and run.info.status == "RUNNING"
    assert run.data.params == {"training.steps": "10", "seed": "0"}
    assert run.data.tags["kind"] == "finetune" and run.data.tags["corpus.labeled"] == "ab" * 32
    assert run.data.tags["version.torch"] == __import__("torch").__version__
    assert [(found.dataset.name, found.dataset.digest, found.tags[0].value, json.loads(found.dataset.source)["uri"]) for found in run.inputs.dataset_inputs] == [
        ("words", "ab" * 16, "labeled", "s3://bucket/corpora/words/"), ("held-out", "cd" * 16, "validation", "corpora/held-out")]
    files = artifacts(client, handle.run)
    assert files["recipe.yaml"].read_text(encoding="utf-8") == "name: first\n"
    assert re.search(r"^numpy==\d", files["versions.txt"].read_text(encoding="utf-8"), re.MULTILINE)


def test_a_run_names_its_commit_or_says_that_none_is_known(store, client, monkeypatch, tmp_path):
    tags = client.get_run(start_run("here", uri=store).run).data.tags
    assert re.fullmatch("[0-9a-f]{40}", tags.get("mlflow.source.git.commit", "")) or "no commit known" in tags["git"]
    (tmp_path / "tracking.py").touch()
    monkeypatch.setattr(tracking, "__file__", str(tmp_path / "tracking.py"))  # a copy outside any repository
    assert "no commit known" in tracking.git_state()["git"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tracking.git_state() == {"git": "no commit known: git is not installed"}


def test_artifacts_lie_beside_the_store_whatever_the_working_folder(store, client, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    handle = start_run("elsewhere", "a: 1\n", uri=store)
    location = Path(store.removeprefix("sqlite:///")).parent / "mlartifacts"
    assert (location / handle.run / "artifacts" / "recipe.yaml").read_text(encoding="utf-8") == "a: 1\n"
    assert list(tmp_path.iterdir()) == []


def test_the_default_store_is_in_the_working_folder_and_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert handles.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert handles.tracking_uri() == f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert handles.tracking_uri() == "http://tracking:5000"


def test_a_store_of_a_retired_kind_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(BadInput, match="the MLflow store file:.* cannot be used .*set MLFLOW_TRACKING_URI"):
        start_run("x", uri=(tmp_path / "files").as_uri())


def test_a_child_names_its_parent_and_shares_its_store(store, client):
    parent = start_run("sweep", uri=store)
    child = start_run("trial", parent=parent)
    assert (child.uri, child.experiment) == (parent.uri, parent.experiment)
    assert client.get_run(child.run).data.tags["mlflow.parentRunId"] == parent.run


def test_a_run_is_finished_and_opened_again_through_a_pickled_handle(store, client):
    handle = pickle.loads(pickle.dumps(start_run("again", uri=store)))
    for status in ("KILLED", "RUNNING", "FINISHED"):
        assert complete(handle, status) is None
        assert client.get_run(handle.run).info.status == status


@pytest.mark.parametrize("place, calls", [("log_batch", 0), ("log_text", 0), ("log_text", 1)])
def test_a_start_that_was_killed_goes_on_with_the_run_that_it_opened(store, client, monkeypatch, place, calls):
    token = f"{place} {calls}"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(MlflowClient, place, killing(getattr(MlflowClient, place), calls))
        start_run("early", "a: 1\n", params={"seed": 0}, uri=store, token=token)
    handle = start_run("early", "a: 1\n", params={"seed": 0}, uri=store, token=token)
    assert [run.info.run_id for run in client.search_runs([handle.experiment], f"tags.`textray.token` = '{token}'")] == [handle.run]
    assert client.get_run(handle.run).data.params == {"seed": "0"}
    assert set(artifacts(client, handle.run)) == {"recipe.yaml", "versions.txt"}


def lines(steps: range) -> list[dict[str, float]]:
    return [{"step": step, "time": 1e9 + step, "loss": 1 / step, "rate": 0.5} for step in steps]


def test_an_entry_is_completed_with_what_it_lacks_and_nothing_twice(store, client):
    handle = start_run("lacking", uri=store)
    client.log_batch(handle.run, metrics=points_of(lines(range(3, 6))))
    client.log_metric(handle.run, "loss", 7.0, step=2)  # of another try: a step is there once
    twice = points_of([*lines(range(1, 1400)), *lines(range(4, 8))])
    for _ in range(2):
        assert complete(handle, "FINISHED", points=twice, tags={"model": "here"},
                        files=lambda: {"report.html": "<p>", "model/weights.pt": b"\0\1"}) is None
        assert [step for step, _ in metric_history(handle, "loss")] == list(range(1, 1400)) == [step for step, _ in metric_history(handle, "rate")]
    assert metric_history(handle, "loss")[1] == (2, 7.0)
    run = client.get_run(handle.run)
    assert (run.info.status, run.data.tags["model"]) == ("FINISHED", "here")
    found = artifacts(client, handle.run)
    assert found["report.html"].read_text(encoding="utf-8") == "<p>" and (found["model"] / "weights.pt").read_bytes() == b"\0\1"
    assert complete(handle, "FINISHED", files=lambda: pytest.fail("what a run has is not read again")) is None


def test_runs_that_go_on_from_each_other_name_each_other(store, client):
    earlier, later = start_run("pretrained", uri=store), start_run("tuned", uri=store)
    tracking.link(earlier, later, "tuned")
    assert client.get_run(later.run).data.tags["began_with.run"] == earlier.run
    assert client.get_run(earlier.run).data.tags["went_on_as.tuned"] == later.run


def test_unknown_runs_are_none(store):
    handle = start_run("known", uri=store)
    assert find_run(handle.run, store).info.run_name == "known"
    assert find_run("f" * 32, store) is None


def test_a_run_that_the_store_does_not_have_and_a_store_that_is_gone_are_said(store, tmp_path):
    assert re.search("Run with id=ffff.* not found", complete(RunHandle(store, "0", "f" * 32), "FINISHED"))
    assert complete(RunHandle(f"sqlite:///{tmp_path}/gone.db", "0", "f" * 32), "FINISHED") == f"there is no {tmp_path}/gone.db"
    assert list(tmp_path.iterdir()) == []


@contextmanager
def serving(database: Path, port: int) -> Iterator[None]:
    """`mlflow server` on a port of the loopback."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}", "--workers", "1",
               "--artifacts-destination", str(database.parent / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with open(database.parent / "server.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None, (database.parent / "server.log").read_text(encoding="utf-8")
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_server_that_was_away_has_every_number_once_when_it_is_back(store, tmp_path, monkeypatch, capfd):
    database = shutil.copy(store.removeprefix("sqlite:///"), tmp_path / "served.db")
    here = start_run("served", "a: 1\n", uri=f"sqlite:///{database}")
    MlflowClient(here.uri).log_batch(here.run, metrics=points_of(lines(range(1, 4))))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    handle = replace(here, uri=f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with MetricLog(handle, seconds=3600) as log:
        log.log(points_of(lines(range(4, 9))))
    assert log.lost == 10
    assert f"metrics cannot be stored in {handle.uri} for now" in capfd.readouterr().err
    everything = points_of(lines(range(1, 9)))
    assert "runs/get failed" in complete(handle, "FINISHED", points=everything)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", handle.uri)
    for use in (tracking.prepare_store, lambda: find_run(here.run), lambda: find_model("models:/words@champion")):
        with pytest.raises(Unavailable, match=f"the MLflow store {handle.uri} does not answer .* repeat the command when it is back"):
            use()
    with serving(database, port):
        for _ in range(2):
            assert complete(handle, "FINISHED", points=everything) is None
            assert [step for step, _ in metric_history(handle, "loss")] == list(range(1, 9))
        assert find_run(handle.run, handle.uri).info.status == "FINISHED"


def test_how_long_a_server_is_waited_for_is_bounded():
    assert (MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), MLFLOW_HTTP_REQUEST_TIMEOUT.get()) == (3, 30)


def test_metrics_reach_the_store_at_close(store):
    handle = start_run("metrics", uri=store)
    with MetricLog(handle, seconds=3600) as log:
        for line in lines(range(1, 1203)):  # more than one call of the store takes
            log.log(points_of([line]))
        assert metric_history(handle, "loss") == []
    history = metric_history(handle, "loss")
    assert len(history) == 1202 and history[9] == (10, pytest.approx(0.1))


def test_metrics_reach_the_store_while_the_run_goes_on(store):
    handle = start_run("live", uri=store)
    with MetricLog(handle, seconds=0.02) as log:
        log.log(points_of(lines(range(2, 3))))
        for _ in range(500):
            if metric_history(handle, "loss"):
                break
            time.sleep(0.01)
        assert metric_history(handle, "loss") == [(2, 0.5)]


def test_a_step_that_is_trained_again_is_written_once(store):
    handle = start_run("again", uri=store)
    with MetricLog(handle, points_of(lines(range(1, 4))), seconds=3600) as log:
        for steps in (range(3, 6), range(4, 7)):
            log.log(points_of(lines(steps)))
    assert [step for step, _ in metric_history(handle, "loss")] == [4, 5, 6]


def test_a_store_that_fails_for_a_while_costs_one_line_and_no_value(store, monkeypatch, capfd):
    handle, calls, write = start_run("away", uri=store), [], MlflowClient.log_batch

    def sometimes(self, *arguments, **options):
        calls.append(1)
        if len(calls) < 4:
            raise MlflowException("database is locked")
        return write(self, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "log_batch", sometimes)
    with MetricLog(handle, seconds=0.01) as log:
        log.log(points_of(lines(range(1, 2))))
        while len(calls) < 4:
            time.sleep(0.01)
        log.log(points_of(lines(range(2, 3))))
    assert metric_history(handle, "loss") == [(1, 1.0), (2, 0.5)]
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "database is locked" in said[0]


def test_values_that_a_store_never_took_are_counted(store, monkeypatch):
    handle = start_run("gone", uri=store)

    def never(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(MlflowClient, "log_batch", never)
    log = MetricLog(handle, seconds=3600, keep=3)
    log.log(points_of(lines(range(1, 6))))
    log.close()
    assert log.lost == 10


@pytest.mark.parametrize("name", ["a b", "a%20b", "a#b", "[a](b)+"])
def test_a_store_lies_in_its_folder_whatever_its_name(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert handles.tracking_uri() == f"sqlite:///{tmp_path / name / 'mlflow.db'}"
    assert shlex.split(handles.shown_uri()) == [handles.tracking_uri()]


def test_a_folder_in_which_mlflow_cannot_open_a_store_is_refused(tmp_path, monkeypatch):
    (tmp_path / "what?").mkdir()
    monkeypatch.chdir(tmp_path / "what?")
    for uri in (None, "sqlite:///mlflow.db", f"sqlite:///{tmp_path}/what?/mlflow.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri) if uri else monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(BadInput, match="what.*expected a folder for the MLflow store without . in its name, found one with it"):
            tracking.prepare_store()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert handles.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert list(tmp_path.rglob("*")) == [tmp_path / "what?"]


def test_the_store_s_password_is_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:SECRET@nowhere.invalid/runs")
    assert handles.shown_uri() == "'postgresql://***@nowhere.invalid/runs'"
    with pytest.raises(Unavailable, match=r"the MLflow store postgresql://\*\*\*@nowhere.invalid/runs does not answer"):
        tracking.prepare_store()
