"""What a run records, and metrics that survive a store that does not."""

import pickle
import re
import shlex
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipelines import tracking
from pipelines.errors import BadInput
from pipelines.tracking import (
    MetricLog,
    RunHandle,
    add_file,
    add_tags,
    find_run,
    finish,
    metric_history,
    reopen,
    start_run,
)


@pytest.fixture
def client(store) -> MlflowClient:
    return MlflowClient(tracking_uri=store)


def artifacts(client: MlflowClient, run: str) -> dict[str, Path]:
    return {file.path: Path(client.download_artifacts(run, file.path)) for file in client.list_artifacts(run)}


def test_a_run_records_what_decides_its_outcome(store, client):
    handle = start_run("first", "name: first\n", params={"training": {"steps": 10}, "seed": 0},
                       tags={"kind": "finetune"}, corpora={"labeled": "ab" * 32}, uri=store)
    run = client.get_run(handle.run)
    assert run.info.run_name == "first" and run.info.status == "RUNNING"
    assert run.data.params == {"training.steps": "10", "seed": "0"}
    assert run.data.tags["kind"] == "finetune" and run.data.tags["corpus.labeled"] == "ab" * 32
    assert run.data.tags["version.torch"] == __import__("torch").__version__
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
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking.tracking_uri() == "http://tracking:5000"


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
    finish(handle, "KILLED")
    assert client.get_run(handle.run).info.status == "KILLED"
    reopen(handle)
    assert client.get_run(handle.run).info.status == "RUNNING"
    finish(handle)
    assert client.get_run(handle.run).info.status == "FINISHED"


def test_files_become_artifacts_and_unknown_runs_are_none(store, client, tmp_path):
    handle = start_run("files", uri=store)
    (tmp_path / "report.html").write_text("<p>", encoding="utf-8")
    add_file(handle, tmp_path, "reports")
    assert [file.path for file in client.list_artifacts(handle.run, "reports")] == ["reports/report.html"]
    assert find_run(handle.run, store).info.run_name == "files"
    assert find_run("f" * 32, store) is None


def test_a_store_that_is_away_does_not_end_the_run(store, capfd):
    lost = RunHandle(store, "0", "f" * 32)  # a run that the store does not have
    finish(lost)
    reopen(lost)
    add_tags(lost, {"model": "somewhere"})
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and all("is not stored in" in line for line in lines)
    assert "a tag (model) of run ffff" in lines[2]


def test_metrics_reach_the_store_at_close(store):
    handle = start_run("metrics", uri=store)
    with MetricLog(handle, seconds=3600) as log:
        for step in range(1, 1203):  # more than one call of the store takes
            log.log(step, {"loss": 1 / step})
        assert metric_history(handle, "loss") == []
    history = metric_history(handle, "loss")
    assert len(history) == 1202 and history[9] == (10, pytest.approx(0.1))


def test_metrics_reach_the_store_while_the_run_goes_on(store):
    handle = start_run("live", uri=store)
    with MetricLog(handle, seconds=0.02) as log:
        log.log(7, {"loss": 0.5})
        for _ in range(500):
            if metric_history(handle, "loss"):
                break
            time.sleep(0.01)
        assert metric_history(handle, "loss") == [(7, 0.5)]


def test_a_store_that_fails_for_a_while_costs_one_line_and_no_value(store, monkeypatch, capfd):
    handle, calls, write = start_run("away", uri=store), [], MlflowClient.log_batch

    def sometimes(self, *arguments, **options):
        calls.append(1)
        if len(calls) < 4:
            raise MlflowException("database is locked")
        return write(self, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "log_batch", sometimes)
    with MetricLog(handle, seconds=0.01) as log:
        log.log(1, {"loss": 3.0})
        while len(calls) < 4:
            time.sleep(0.01)
        log.log(2, {"loss": 2.0})
    assert metric_history(handle, "loss") == [(1, 3.0), (2, 2.0)]
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "database is locked" in lines[0]


def test_values_that_a_store_never_took_are_counted(store, monkeypatch, capfd):
    handle = start_run("gone", uri=store)

    def never(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(MlflowClient, "log_batch", never)
    log = MetricLog(handle, seconds=3600, keep=3)
    for step in range(5):
        log.log(step, {"loss": 0.0})
    log.close()
    assert log.lost == 5
    assert f"5 metric values of run {handle.run} were not stored" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["a b", "a%20b", "a#b", "[a](b)+"])
def test_a_store_lies_in_its_folder_whatever_its_name(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path / name / 'mlflow.db'}"
    assert shlex.split(tracking.shown_uri()) == [tracking.tracking_uri()]


def test_a_folder_in_which_mlflow_cannot_open_a_store_is_refused(tmp_path, monkeypatch):
    (tmp_path / "what?").mkdir()
    monkeypatch.chdir(tmp_path / "what?")
    for uri in (None, "sqlite:///mlflow.db", f"sqlite:///{tmp_path}/what?/mlflow.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri) if uri else monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(BadInput, match="what.*expected a folder for the MLflow store without . in its name, found one with it"):
            tracking.prepare_store()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert list(tmp_path.rglob("*")) == [tmp_path / "what?"]


def test_the_store_s_password_is_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:SECRET@nowhere.invalid/runs")
    assert tracking.shown_uri() == "'postgresql://***@nowhere.invalid/runs'"
    with pytest.raises(BadInput, match=r"the MLflow store postgresql://\*\*\*@nowhere.invalid/runs cannot be used"):
        tracking.prepare_store()
