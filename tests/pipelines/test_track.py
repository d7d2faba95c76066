"""From pretraining to an evaluation in MLflow: runs that name each other, with their data, their models and their pages."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.cli import run
from pipelines.reading.weights import load_recognizer
from pipelines.registry.champion import find_trained
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.training.driver import train
from pipelines.training.recipe import parse_recipe
from pipelines.training.runs import RunFolder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return render_corpus(tmp_path_factory.mktemp("words") / "words", 40, Settings(style="plain", charset="36")).path


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> str:
    return render_corpus(tmp_path_factory.mktemp("held") / "held-out", 20, Settings(style="plain", charset="36", seed=1)).path


@pytest.fixture
def trained(corpus, held_out, tmp_path, store, monkeypatch) -> str:
    """A pretrained run and one that went on from it, in a working folder and a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    common = {"recognizer": {"name": "crnn_tiny"}, "training": {"steps": 2, "log_every": 1, "threads_per_worker": 1}}
    train(parse_recipe({"name": "images-alone", "objective": {"name": "seqclr"}, "data": {"unlabeled": {"corpus": corpus, "batch_size": 8}}, **common}), quiet=True)
    train(parse_recipe({"name": "tuned", "objective": {"name": "supervised"}, "initialize_from": "images-alone",
                        "data": {"labeled": {"corpus": corpus, "batch_size": 8}, "validation": {"corpus": held_out}}, **common}), quiet=True)
    return store


def entry(name: str) -> str:
    return RunFolder(f"runs/{name}").state().handle.run


def test_what_goes_on_from_what_can_be_followed_both_ways_with_data_and_model(trained, corpus):
    client = MlflowClient(tracking_uri=trained)
    first, last = client.get_run(entry("images-alone")), client.get_run(entry("tuned"))
    assert last.data.tags["began_with.run"] == first.info.run_id and first.data.tags["went_on_as.tuned"] == last.info.run_id
    assert [(found.dataset.name, found.tags[0].value) for found in last.inputs.dataset_inputs] == [("words", "labeled"), ("held-out", "validation")]
    assert {file.path for file in client.list_artifacts(last.info.run_id)} == {"model", "recipe.yaml", "report.html", "versions.txt"}


def test_a_run_is_registered_by_its_id_where_its_folder_is_not(trained, tmp_path):
    """As from another machine: the model is the one that MLflow keeps."""
    weights, found = load_recognizer("runs/tuned/model").state_dict(), entry("tuned")
    Path("runs").rename(tmp_path / "elsewhere")
    folder = find_trained(found, trained).folder
    assert all(weights[name].equal(value) for name, value in load_recognizer(folder).state_dict().items())
    assert run("register", [found, "--name", "from-elsewhere"]) == 0


def test_an_evaluation_is_a_run_below_the_one_that_trained_the_model(trained, corpus, capsys):
    assert run("evaluate", ["tuned", "--data", f"words (all)={corpus}", "--out", "report", "--track"]) == 0
    assert "evaluate: recorded as run " in capsys.readouterr().err
    client = MlflowClient(tracking_uri=trained)
    [found] = client.search_runs([client.get_run(entry("tuned")).info.experiment_id], f"tags.`mlflow.parentRunId` = '{entry('tuned')}'")
    numbers = json.loads(Path("report/evaluation.json").read_text(encoding="utf-8"))["average"]
    assert (found.info.run_name, found.info.status) == ("evaluate tuned", "FINISHED")
    assert found.data.metrics["words _all_.accuracy"] == numbers["accuracy"] == found.data.metrics["average.accuracy"] and found.data.metrics["average.words"] == 40
    assert {file.path for file in client.list_artifacts(found.info.run_id)} >= {"evaluation.html", "evaluation.json", "predictions.jsonl"}
    assert run("register", ["tuned", "--name", "tracked"]) == 0
    assert run("evaluate", ["models:/tracked/1", "--data", f"words={corpus}", "--out", "again", "--track"]) == 0
    assert len(client.search_runs([found.info.experiment_id], f"tags.`mlflow.parentRunId` = '{entry('tuned')}'")) == 2
