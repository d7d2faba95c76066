"""Runs that live in an object store: trained, taken up after a kill, measured, calibrated, registered and searched there."""

import json
import time
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.reading.weights import load_recognizer, save_temperature
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.training.distributed import OnRay
from pipelines.training.driver import train
from pipelines.training.journal import read_journal
from pipelines.training.recipe import parse_recipe
from pipelines.training.runs import RunFolder


@pytest.fixture(scope="module")
def recipe(bucket, tmp_path_factory, store):
    """A recipe all of whose places are URIs, in a working folder that stays empty."""
    for name, count in (("words", 60), ("more", 30)):
        render_corpus(f"{bucket}/{name}", count, Settings(style="plain", charset="36", seed=count), source=name)
    place = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.chdir(place)
        yield parse_recipe({
            "name": "try", "runs": f"{bucket}/runs", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"},
            "data": {"labeled": {"corpus": [f"{bucket}/words", f"{bucket}/more"], "batch_size": 8},
                     "validation": {"corpus": f"{bucket}/more", "words": 10}},
            "training": {"steps": 4, "checkpoint_every": 2, "log_every": 1, "threads_per_worker": 1, "cpus_per_worker": 0.5}})
        assert list(place.iterdir()) == []


@pytest.fixture(scope="module")
def run(recipe, ray_of_process) -> RunFolder:
    """Trained under Ray; what the tests make of it is trained in this process."""
    train(recipe, engine=OnRay(), quiet=True)
    return RunFolder(f"{recipe.runs}/try")


def test_a_run_in_a_store_is_taken_up_after_a_kill_when_its_lease_is_over(recipe, run, capsys):
    weights = storage.read_bytes(f"{run.model}/weights.pt")
    state = run.state()
    assert (state.status, [line["step"] for line in read_journal(run.progress) if "loss" in line]) == ("finished", [1, 2, 3, 4])
    state.status = "running"  # as a kill behind the last checkpoint, in the middle of an upload, leaves it
    run.write(state)
    storage.remove(run.model)
    newest = max(name for name in storage.list_names(run.checkpoints) if name.startswith("checkpoint_2"))
    storage.write_bytes(f"{run.checkpoints}/{newest}/state.pt", b"PK")
    until = int(1000 * time.time()) + 2500
    storage.write_bytes(run.file("lease.json"), json.dumps({"owner": "a killed one", "until": until}).encode())
    with pytest.raises(BadInput, match=rf"the run 'try' in {run.place} is being trained by another process \(a killed one\), whose lease"):
        train(recipe, quiet=True)
    time.sleep(max(0.0, until / 1000 - time.time()))
    outcome = train(recipe)
    assert storage.read_bytes(f"{outcome.model}/weights.pt") == weights
    assert "training goes on from the whole one of step 2" in capsys.readouterr().err
    assert [line["step"] for line in read_journal(run.progress) if "loss" in line] == [1, 2, 3, 4, 3, 4]
    assert storage.kind(run.file("lease.json")) is None


def test_a_run_in_a_store_is_measured_calibrated_exported_and_registered_by_its_uri(recipe, run, bucket, tmp_path, capsys):
    assert cli.main(["evaluate", run.place, "--data", f"all={bucket}/more", "--data", f"{bucket}/words", "--out", f"{bucket}/report"]) == 0
    assert {"evaluation.html", "evaluation.json", "predictions.jsonl"} == set(storage.list_names(f"{bucket}/report"))
    sets = json.loads(storage.read_bytes(f"{bucket}/report/evaluation.json"))["sets"]
    assert [(found["name"], found["words"]) for found in sets] == [("all", 30), ("words", 60)]
    assert cli.main(["calibrate", run.place, "--data", f"{bucket}/more"]) == 2  # the words were read: none of them rightly, after four steps
    assert "found 0 of 17 right" in capsys.readouterr().err
    save_temperature(run.model, 2.5)
    assert load_recognizer(run.place).temperature == 2.5
    assert cli.main(["export-model", run.place, "--out", str(tmp_path / "words.pt2"), "--data", f"{bucket}/more"]) == 0
    assert cli.main(["register", run.place, "--name", "stored", "--promote", "--data", f"more={bucket}/more"]) == 0
    assert "version 1 of stored is its first champion" in capsys.readouterr().out
    assert cli.main(["evaluate", "models:/stored@champion", "--data", f"{bucket}/more", "--out", f"{bucket}/report2"]) == 0
    assert cli.main(["describe", f"{bucket}/more", "--html", f"{bucket}/pages/more.html"]) == 0
    assert storage.kind(f"{bucket}/pages/more.html") == "file"


def test_a_sweep_lives_in_a_store_with_its_corpora(recipe, bucket):
    from tuning.plan import Plan
    from tuning.search import sweep
    searched = recipe.model_copy(update={
        "name": "search", "objective": parse_recipe(recipe.model_dump() | {"objective": {"name": "ccr"}}).objective,
        "initialize_from": f"{bucket}/runs/try", "data": recipe.data.model_copy(update={"unlabeled": recipe.data.labeled})})
    [best], _ = sweep(searched, Plan(trials=1, concurrency=1))
    place = RunFolder(f"{bucket}/runs/search")
    assert best.model == f"{place.place}/trials/{best.name}/model" and storage.kind(f"{best.model}/weights.pt") == "file"
    assert {"best.yaml", "report.html", "trials.json", "run.json"} <= set(storage.list_names(place.place))
    assert place.state().start.model == f"{bucket}/runs/try/model"


@pytest.mark.parametrize("command", [
    ["export-model", "model", "--out", "s3://runs/words.onnx"], ["render", "--sheet", "s3://runs/sheet.png", "-n", "4"],
    ["export", "corpus", "--format", "folder", "--out", "s3://runs/out"], ["demo", "--out", "s3://runs/demo"],
    ["import-weights", "s3://runs/trba.pth", "--name", "trba"]])
def test_what_needs_a_disk_says_so(bucket, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert cli.main(command) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "found a URI: " in line and "s3://runs/" in line
    assert list(Path(tmp_path).iterdir()) == []
