"""A sweep under Ray Tune: child runs in MLflow, resumable after SIGKILL, ending in a recipe that training accepts."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from pipelines.cli import run
from pipelines.errors import BadInput
from pipelines.render import main as render
from pipelines.tracking import metric_history, prepare_store
from pipelines.training.recipe import load_recipe, parse_recipe
from pipelines.training.runs import RunFolder
from tuning.plan import Plan
from tuning.search import check_disk, sweep
from tuning.space import value_at


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A working folder with small corpora and an MLflow store of its own."""
    folder = tmp_path_factory.mktemp("sweep")
    for name, count, style, seed in (("source", 200, "plain", 0), ("target", 150, "street", 1), ("validation", 40, "street", 2)):
        render(["--out", str(folder / name), "-n", str(count), "--style", style, "--seed", str(seed), "--charset", "36"])
    prepare_store(f"sqlite:///{folder / 'mlflow.db'}")
    return folder


def recipe(place: Path, name: str, **training) -> dict:
    return {"name": name, "runs": str(place / "runs"), "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "ccr"},
            "data": {"labeled": {"corpus": str(place / "source"), "batch_size": 8}, "unlabeled": {"corpus": str(place / "target"), "batch_size": 8},
                     "validation": {"corpus": str(place / "validation"), "words": 20}},
            "training": {"steps": 4, "checkpoint_every": 2, "validate_every": 2, "log_every": 1, "threads_per_worker": 1,
                         "cpus_per_worker": 0.5} | training}


def test_a_sweep_killed_with_sigkill_goes_on_and_ends_with_a_report_and_a_recipe(place, ray_session, monkeypatch, capsys):
    (place / "search.yaml").write_text(yaml.safe_dump(recipe(place, "search")), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}"}
    options = ["search.yaml", "--trials", "2", "--concurrency", "1"]
    command = [sys.executable, "-m", "tuning.sweep", *options]
    trials = place / "runs" / "search" / "trials"
    with subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        while not any('"finished"' in file.read_text(encoding="utf-8") for file in trials.glob("*/run.json")) or len(list(trials.glob("*/progress.jsonl"))) < 2:
            assert process.poll() is None, "the sweep ended before it could be killed"
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    monkeypatch.chdir(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment["MLFLOW_TRACKING_URI"])
    capsys.readouterr()
    assert run("tune", options) == 0
    done = capsys.readouterr().out

    results = json.loads((place / "runs" / "search" / "trials.json").read_text(encoding="utf-8"))["trials"]
    assert len(results) == 2 == len({result["name"] for result in results})
    defaults = {"objective.confidence_threshold": 0.5, "objective.ema_decay": 0.999, "objective.consistency_weight": 1.0}
    assert sum(result["values"] == defaults for result in results) == 1  # the recipe itself is among the trials
    assert results[0]["curve"][-1][0] == 4 and Path(results[0]["model"]).is_dir()

    client = MlflowClient(tracking_uri=environment["MLFLOW_TRACKING_URI"])
    parent = RunFolder(place / "runs" / "search").state().handle
    children = client.search_runs([parent.experiment], f"tags.`mlflow.parentRunId` = '{parent.run}'")
    assert sorted(child.info.run_name for child in children) == sorted(result["name"] for result in results)
    assert {child.info.status for child in children} == {"FINISHED"}
    assert {file.path for file in client.list_artifacts(parent.run)} >= {"best.yaml", "report.html", "report.md", "trials.json"}

    assert [value for _, value in metric_history(parent, "best_word_accuracy")] == [results[0]["curve"][-1][1]]
    assert all(sorted({step for step, _ in metric_history(replace(parent, run=child.info.run_id), "loss")}) == [1, 2, 3, 4] for child in children)

    client.update_run(parent.run, "RUNNING")  # as if the last command had been killed before it closed the record
    client.update_run(children[0].info.run_id, "RUNNING")
    assert run("tune", options) == 0
    again = capsys.readouterr()
    assert done.endswith(again.out) and "the sweep search has finished already" in again.err
    assert {client.get_run(entry).info.status for entry in (parent.run, *(child.info.run_id for child in children))} == {"FINISHED"}
    assert len(metric_history(parent, "best_word_accuracy")) == 1

    best = load_recipe(place / "runs" / "search" / "best.yaml")
    assert best.name == "search_best"
    assert {name: value_at(best, name) for name in results[0]["values"]} == results[0]["values"]
    assert "Parallel coordinates" in (place / "runs" / "search" / "report.html").read_text(encoding="utf-8")


def test_a_sweep_that_cannot_be_is_refused_before_it_starts(place, ray_session, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(BadInput, match=r"a trial takes 20.5 CPUs \(20 for its workers, .* lower --concurrency"):
        crowd = recipe(place, "never", workers=40)
        for part in ("labeled", "unlabeled"):
            crowd["data"][part]["batch_size"] = 1
        sweep(parse_recipe(crowd), Plan(trials=2))
    assert not (place / "runs" / "never").exists()


def test_what_would_not_fit_on_the_disk_is_refused_with_the_arithmetic(place):
    ccr = parse_recipe(recipe(place, "small"))
    check_disk(ccr, Plan(trials=8, disk=1.0), 2)
    with pytest.raises(BadInput, match=r"--disk 0.001: expected room for 3 checkpoints of 0.0\d+ GB of 2 trials at once and for 8 models of 0.0\d+ GB, which is 0.0\d+ GB: give more, or lower"):
        check_disk(ccr, Plan(trials=8, disk=0.001), 2)


def test_every_trial_has_the_steps_that_the_time_is_enough_for(place, ray_session, monkeypatch, capsys):
    """Measured once, in a task beside as many as there will be, and not again when the sweep is asked for once more."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
    timed = {**recipe(place, "timed"), "training": {"minutes": 0.02, "log_every": 1, "threads_per_worker": 1, "cpus_per_worker": 0.5}}
    timed["data"]["labeled"] = {"corpus": str(place / "source")}
    ranked, _ = sweep(parse_recipe(timed), Plan(trials=2, concurrency=2))
    shown = capsys.readouterr()
    said = shown.err
    assert shown.out == ""  # a sweep's results are printed by the command, and Ray Tune prints none
    state = RunFolder(place / "runs" / "timed").state()
    steps = state.settled["training.steps"]
    assert f"training.steps: {steps:,}, what 0.02 minutes are enough for" in said and state.settled["data.labeled.batch_size"] == 32 and state.minutes == 0.02
    whole = [load_recipe(place / "runs" / "timed" / "trials" / result.name / "recipe.yaml") for result in ranked]
    assert [(each.training.steps, each.training.minutes, each.data.labeled.batch_size) for each in whole] == [(steps, None, 32)] * 2
    monkeypatch.setattr("tuning.search._seconds_a_step", lambda *_: pytest.fail("it was measured again"))
    assert [result.name for result in sweep(parse_recipe(timed), Plan(trials=2, concurrency=2))[0]] == [result.name for result in ranked]
