"""What trials' folders say, who decides among them, and what lies in the way of a sweep."""

import json

import pytest
import ray

from pipelines.cli import run
from pipelines.errors import BadInput
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.training.recipe import parse_recipe
from pipelines.training.runs import RunFolder, RunState
from tuning import search
from tuning.plan import Plan
from tuning.proposals import trial_name
from tuning.search import concurrent_trials, ranked_by
from tuning.space import own_values, space_of, with_values
from tuning.trials import TrialResult, metric_of, note, trial_folder, trials_in


def recipe(objective: str = "ccr", unlabeled: str = "u", validation: bool = True, **training):
    data = {"labeled": {"corpus": "s", "batch_size": 8}, "unlabeled": {"corpus": unlabeled, "batch_size": 8}, "validation": {"corpus": "v"} if validation else None}
    return parse_recipe({"name": "search", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": objective}, "data": data, "training": {"steps": 10} | training})


def test_a_trial_that_failed_before_it_had_a_recipe_says_why_and_is_tried_again(tmp_path):
    base, where = recipe(), RunFolder(tmp_path / "search")
    axes = space_of(base)
    values = own_values(base, axes)
    folder = trial_folder(where, "trial-recipe")
    note(folder, values, error="MLflow is away")
    [found] = trials_in(where, base, axes)
    assert (found.name, found.values, found.error, found.ended) == ("trial-recipe", values, "MLflow is away", False)
    with folder.claimed(with_values(base, values, "trial-recipe"), resume=True) as state:
        assert state.status == "running"


def test_trials_of_another_space_are_none_of_this_sweep(tmp_path):
    base, where = recipe(), RunFolder(tmp_path / "search")
    values = {**own_values(base, space_of(base)), "objective.ema_decay": 0.99}
    name = trial_name(values, base, space_of(base))
    trial_folder(where, name).write(RunState("running", "0", 10))
    (tmp_path / "search" / "trials" / name / "recipe.yaml").write_text(with_values(base, values, name).to_yaml(), encoding="utf-8")
    assert [found.name for found in trials_in(where, base, space_of(base))] == [name]
    other = parse_recipe(base.model_dump(mode="json") | {"search": {"objective.consistency_weight": {"uniform": [0.5, 2.0]}}})
    assert trials_in(where, other, space_of(other)) == []


@pytest.mark.parametrize(("objective", "validation", "metric"), [("ccr", True, "word_accuracy"), ("ccr", False, "unlabeled_strong_similarity")])
def test_who_decides_among_trials(objective, validation, metric):
    assert metric_of(recipe(objective, validation=validation)) == metric


def test_encoders_that_learn_from_images_alone_are_judged_by_labels_that_training_does_not_see(tmp_path):
    """A recipe of pretraining has no words to read; without any labels nothing would decide, which is said before anything is trained."""
    words = render_corpus(tmp_path / "words", 20, Settings(style="plain", charset="36")).path
    assert metric_of(recipe("seqclr", words)) == "unlabeled_neighbour_similarity"
    with pytest.raises(BadInput, match="expected unlabeled images some of which have labels, by which trials of seqclr are judged"):
        metric_of(recipe("seqclr", str(tmp_path / "none")))
    supervised = parse_recipe(recipe("supervised", validation=False).model_dump(mode="json") | {"data": {"labeled": {"corpus": "s", "batch_size": 8}}})
    with pytest.raises(BadInput, match="expected data.validation, labeled words by which the trials are judged, found none"):
        metric_of(supervised)


def test_a_run_and_a_sweep_of_one_name_do_not_meet(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(json.dumps(recipe().model_dump(mode="json")), encoding="utf-8")
    RunFolder("runs/search").write(RunState("finished", "0", 10))
    (tmp_path / "runs" / "search" / "model").mkdir()
    monkeypatch.setattr("pipelines.training.corpora.with_corpora", lambda found: found)
    assert run("tune", ["r.yaml"]) == 2
    assert "runs/search, found a run: choose another name= for the sweep" in capsys.readouterr().err
    (tmp_path / "runs" / "search" / "model").rmdir()
    (tmp_path / "runs" / "search" / "trials").mkdir()
    assert run("finetune", ["r.yaml"]) == 2
    assert "runs/search, found a sweep: choose another name= for the run" in capsys.readouterr().err


def test_of_equal_trials_the_recipe_itself_wins():
    trials = [TrialResult("trial-0", {}, [(10, 0.5)], model="m"), TrialResult("trial-recipe", {}, [(10, 0.5)], model="m"), TrialResult("trial-1", {}, [(10, 0.9)], stopped="x")]
    assert [trial.name for trial in ranked_by(trials)] == ["trial-recipe", "trial-0", "trial-1"]


def test_a_finished_sweep_of_an_earlier_version_is_still_read(tmp_path):
    where = RunFolder(tmp_path)
    (tmp_path / "trials.json").write_text(json.dumps([{"name": "trial-1", "values": {"ema_decay": 0.9}, "curve": [[4, 0.5]], "stopped": False, "model_step": None, "error": "", "model": "m"}]),
                                          encoding="utf-8")
    [found] = [TrialResult(**trial) for trial in search._kept(where)["trials"]]
    assert (found.name, found.stopped, found.accuracy) == ("trial-1", "", 0.5) and search._judged(where).differences == []


@pytest.mark.parametrize(("resources", "plan", "count"), [
    ({"CPU": 8.0, "GPU": 1.0}, Plan(gpus_per_trial=0.2), 5), ({"CPU": 1.0}, Plan(), 10), ({"CPU": 8.0, "GPU": 4.0}, Plan(), 4), ({"CPU": 8.0, "GPU": 4.0}, Plan(gpus_per_trial=0.0), 80)])
def test_as_many_trials_at_once_as_fit(monkeypatch, resources, plan, count):
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    assert concurrent_trials(recipe(cpus_per_worker=0.1), plan.concurrency, 2, plan.gpus_per_trial) == count


def test_more_gpus_than_there_are_is_refused_with_the_arithmetic(monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 16.0, "GPU": 2.0})
    with pytest.raises(BadInput, match="a trial takes 1 GPU, so 4 at once need 4 of 2; lower --concurrency, --gpus-per-trial"):
        concurrent_trials(recipe(), 4, 2)
    with pytest.raises(BadInput, match="--gpus-per-trial: expected trials of one worker, found 2"):
        concurrent_trials(recipe(workers=2), None, 2, 0.5)
