"""The record of a run: whatever a kill or a store that is away left undone, the same command completes, once."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from killing import Killed, killing
from models.recognizers import build
from pipelines.cli import run
from pipelines.errors import BadInput
from pipelines.reading.weights import save_recognizer
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.tracking import metric_history
from pipelines.training import driver, record
from pipelines.training.journal import read_journal
from pipelines.training.recipe import Recipe, parse_recipe
from pipelines.training.runs import RunFolder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return render_corpus(tmp_path_factory.mktemp("corpus") / "c", 20, Settings(style="plain", charset="36")).path


@pytest.fixture
def place(tmp_path, store, monkeypatch) -> Path:
    """A working folder with a store of its own, where training takes no time: it leaves what training leaves."""
    shutil.copy(store.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

    def fit(recipe: Recipe, job, where: RunFolder, *_) -> dict:
        done = len(read_journal(where.progress))
        with open(where.progress, "a", encoding="utf-8") as file:
            file.writelines(json.dumps({"step": step, "time": 1e9 + step, "loss": 1 / step}) + "\n" for step in range(max(1, done - 1), 6))
        torch.manual_seed(0)
        save_recognizer(where.model, build("crnn_tiny", recipe.charset), {"run": recipe.name})
        return {"step": 5}

    monkeypatch.setattr(driver, "_fit", fit)
    return tmp_path


def tree(corpus: Path, name: str = "recorded", steps: int = 5) -> dict:
    return {"name": name, "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"},
            "data": {"labeled": {"corpus": str(corpus), "batch_size": 4}}, "training": {"steps": steps}}


def complete_entry(name: str = "recorded") -> None:
    """The store holds one run of that name, and it lacks nothing."""
    folder = RunFolder(Path("runs") / name)
    handle = folder.state().handle
    client = MlflowClient(tracking_uri=handle.uri)
    found = [entry for entry in client.search_runs([handle.experiment]) if entry.info.run_name == name]
    assert [(entry.info.run_id, entry.info.status) for entry in found] == [(handle.run, "FINISHED")]
    assert found[0].data.tags["model"] == folder.model
    assert metric_history(handle, "loss") == [(step, 1 / step) for step in range(1, 6)]
    assert {file.path for file in client.list_artifacts(handle.run)} == {"model", "recipe.yaml", "versions.txt"}
    assert {file.path for file in client.list_artifacts(handle.run, "model")} == {"model/recognizer.json", "model/weights.pt"}


@pytest.mark.parametrize("owner, name, calls", [
    (RunFolder, "write", 0), (MlflowClient, "create_run", 0), (MlflowClient, "log_batch", 0), (MlflowClient, "log_text", 0), (MlflowClient, "log_text", 1),
    (RunFolder, "write", 1), (RunFolder, "write", 2), (RunFolder, "write", 3), (MlflowClient, "get_run", 0), (MlflowClient, "get_metric_history", 0),
    (MlflowClient, "log_batch", 1), (MlflowClient, "log_batch", 2), (MlflowClient, "set_terminated", 0), (MlflowClient, "log_inputs", 0),
    (MlflowClient, "log_artifact", 0), (MlflowClient, "log_artifact", 1)])
def test_a_run_killed_at_any_point_is_completed_by_the_same_command(place, corpus, monkeypatch, owner, name, calls):
    recipe = parse_recipe(tree(corpus))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, killing(getattr(owner, name), calls))
        driver.train(recipe, quiet=True)
    for _ in range(2):
        assert driver.train(recipe, quiet=True).model == f"{place}/runs/recorded/model"
        complete_entry()


def test_a_finished_run_repeated_says_where_its_model_is_and_needs_no_corpus(place, corpus, capsys):
    moved = Path(shutil.copytree(corpus, place / "here"))
    (place / "try.yaml").write_text(json.dumps(tree(moved)), encoding="utf-8")
    assert run("finetune", ["try.yaml"]) == 0
    shutil.rmtree(moved)
    capsys.readouterr()
    assert run("finetune", ["try.yaml"]) == 0
    said = capsys.readouterr()
    assert f"the run recorded has finished already: {place}/runs/recorded/model" in said.err and "model:  runs/recorded/model" in said.out
    complete_entry()
    assert run("finetune", ["try.yaml", "training.steps=6"]) == 2
    assert "exists in" in (refused := capsys.readouterr().err) and "with another recipe (training.steps was 5, is 6)" in refused


def test_a_store_that_is_away_at_the_end_is_said_and_filled_by_the_same_command(place, corpus, monkeypatch, capsys):
    (place / "try.yaml").write_text(json.dumps(tree(corpus)), encoding="utf-8")
    fit = driver._fit

    def away(*arguments):
        (place / "mlflow.db").rename(place / "away.db")
        return fit(*arguments)

    monkeypatch.setattr(driver, "_fit", away)
    assert run("finetune", ["try.yaml"]) == 0
    warning = f"the status FINISHED of the run {place}/runs/recorded, and what may be missing of its 5 numbers, cannot be stored in sqlite:"
    assert warning in capsys.readouterr().err
    assert run("finetune", ["try.yaml"]) == 0  # still away
    assert warning in capsys.readouterr().err and not (place / "mlflow.db").exists()
    (place / "away.db").rename(place / "mlflow.db")
    assert run("finetune", ["try.yaml"]) == 0
    assert "warning" not in capsys.readouterr().err
    complete_entry()


def test_a_killed_run_brings_its_numbers_when_it_goes_on(place, corpus, monkeypatch):
    recipe = parse_recipe(tree(corpus))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunFolder, "write", kill_when_finished(RunFolder.write))
        driver.train(recipe, quiet=True)
    folder = RunFolder("runs/recorded")
    state = folder.state()
    assert metric_history(state.handle, "loss") == []
    record.begin(folder, state, start=None)
    assert [step for step, _ in metric_history(state.handle, "loss")] == [1, 2, 3, 4, 5]
    assert MlflowClient(tracking_uri=state.handle.uri).get_run(state.handle.run).info.status == "RUNNING"


def kill_when_finished(real):
    def write(folder, state):
        if state.status == "finished":
            raise Killed
        real(folder, state)
    return write


def test_a_run_that_failed_while_the_store_was_away_is_closed_by_the_command_that_is_refused(place, corpus, monkeypatch):
    recipe = parse_recipe(tree(corpus))

    def failing(*_):
        (place / "mlflow.db").rename(place / "away.db")
        raise BadInput("the loss is not finite")

    monkeypatch.setattr(driver, "_fit", failing)
    with pytest.raises(BadInput, match="not finite"):
        driver.train(recipe, quiet=True)
    (place / "away.db").rename(place / "mlflow.db")
    with pytest.raises(BadInput, match=r"exists in .* \(failed\); choose another name=, or say --resume"):
        driver.train(recipe, quiet=True)
    handle = RunFolder("runs/recorded").state().handle
    assert MlflowClient(tracking_uri=handle.uri).get_run(handle.run).info.status == "FAILED"
