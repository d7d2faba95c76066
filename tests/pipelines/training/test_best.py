"""Which model a run leaves, and when it ends of itself: by what its validation words say."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from killing import Killed
from pipelines.cli import run
from pipelines.reading.weights import read_description
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.training import checkpoints, worker
from pipelines.training.driver import train
from pipelines.training.recipe import Recipe, parse_recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return render_corpus(tmp_path_factory.mktemp("words") / "c", 40, Settings(style="plain", charset="36")).path


@pytest.fixture
def recipe(corpus, tmp_path, store, monkeypatch):
    """A recipe of steps that do not depend on how many there will be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)

    def made(name: str, **training) -> Recipe:
        return parse_recipe({"name": name, "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"},
                             "optimizer": {"schedule": "constant"}, "data": {"labeled": {"corpus": str(corpus), "batch_size": 8}, "validation": {"corpus": str(corpus)}},
                             "training": {"steps": 10, "validate_every": 2, "checkpoint_every": 3, "log_every": 1, "threads_per_worker": 1} | training})
    return made


@pytest.fixture
def scripted(monkeypatch):
    """Word accuracies that the validations give, one after another, in place of those of a recognizer that learned for ten steps."""
    def give(*accuracies: float, near: Sequence[float] = ()) -> list[float]:
        left, nearness = list(accuracies), list(near)
        score = SimpleNamespace(cer=1.0, incomparable=0, words=40)
        monkeypatch.setattr(worker, "evaluate_recognizer", lambda *_, **__: SimpleNamespace(
            score=SimpleNamespace(**vars(score), accuracy=left.pop(0), one_minus_ned=nearness.pop(0) if nearness else 0.0)))
        return left
    return give


def weights(outcome) -> bytes:
    return (outcome.folder / "model" / "weights.pt").read_bytes()


def same(outcome, other) -> bool:
    one, two = (torch.load(each.folder / "model" / "weights.pt", weights_only=True) for each in (outcome, other))
    return all(torch.equal(one[name], two[name]) for name in one)


def test_the_model_is_that_of_the_best_validation(recipe, scripted):
    scripted(0.1, 0.3, 0.2, 0.2, 0.1)
    best = train(recipe("best"), quiet=True)
    assert {name: best.metrics[name] for name in ("step", "best_step", "word_accuracy", "validation_words")} == {
        "step": 10, "best_step": 4, "word_accuracy": 0.3, "validation_words": 40}
    scripted(0.1, 0.3)
    assert same(best, train(recipe("short", steps=4), quiet=True))
    scripted(0.1, 0.3, 0.2, 0.2, 0.1)
    last = train(recipe("last", keep="last"), quiet=True)
    assert (last.metrics["word_accuracy"], "best_step" in last.metrics, same(last, best)) == (0.1, False, False)
    again = train(recipe("best"), quiet=True)  # has finished: nothing is computed
    assert {name: again.metrics[name] for name in ("step", "best_step", "word_accuracy")} == {"step": 10, "best_step": 4, "word_accuracy": 0.3}


def test_of_validations_that_read_as_many_words_the_one_with_nearer_readings_counts_or_the_later(recipe, scripted):
    """Above all while not one word is read: the first of these would be a model that has learned next to nothing."""
    scripted(0.0, 0.0, 0.0, 0.0, 0.0, near=(0.1, 0.3, 0.4, 0.2, 0.1))
    assert train(recipe("nearer"), quiet=True).metrics["best_step"] == 6
    scripted(0.0, 0.0, 0.0, 0.0, 0.0)
    assert train(recipe("later"), quiet=True).metrics["best_step"] == 10
    left = scripted(0.0, 0.0, 0.0, 0.0, 0.0, near=(0.1, 0.3, 0.4, 0.4, 0.4))
    assert train(recipe("patient", patience=2), quiet=True).metrics["best_step"] == 10 and left == []
    left = scripted(0.0, 0.0, 0.0, 0.0, 0.0, near=(0.1, 0.3, 0.3, 0.2, 0.4))
    assert train(recipe("impatient", patience=2), quiet=True).metrics["best_step"] == 6 and len(left) == 1


@pytest.mark.parametrize("at", [5, 7, 9])
def test_a_run_killed_between_checkpoints_leaves_the_same_best_model(recipe, scripted, monkeypatch, at):
    """Killed behind step 4, whose words were the most so far; behind 6; behind 8, which read still more."""
    accuracies = [0.1, 0.3, 0.2, 0.4, 0.1]
    scripted(*accuracies)
    whole = train(recipe("whole"), quiet=True)
    left = scripted(*accuracies)

    def log(self, step, numbers, real=worker._Worker._log):
        if step == at:
            raise Killed
        real(self, step, numbers)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(worker._Worker, "_log", log)
        train(recipe("killed"), quiet=True)
    left[:] = accuracies[(at - 1) // 3 * 3 // 2:]  # from the checkpoint before
    killed = train(recipe("killed"), resume=True, quiet=True)
    assert weights(killed) == weights(whole) and killed.metrics["best_step"] == 8 and left == []
    assert len(list((killed.folder / "best").iterdir())) == 1


def test_a_run_that_begins_again_does_not_keep_what_an_earlier_beginning_found_best(recipe, scripted, monkeypatch):
    """Killed before its first checkpoint; the second time, on another machine, it reads otherwise."""
    scripted(0.1, 0.9)

    def log(self, step, numbers, real=worker._Worker._log):
        if step == 5:
            raise Killed
        real(self, step, numbers)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(worker._Worker, "_log", log)
        train(recipe("again", checkpoint_every=9), quiet=True)
    scripted(0.3, 0.2, 0.1, 0.1, 0.1)
    done = train(recipe("again", checkpoint_every=9), resume=True, quiet=True)
    assert (done.metrics["best_step"], done.metrics["word_accuracy"]) == (2, 0.3)
    assert read_description(done.model)["step"] == 2


def test_patience_ends_a_run_which_has_then_finished(recipe, scripted, capsys, tmp_path):
    left = scripted(0.2, 0.1, 0.15, 0.9)
    (tmp_path / "patient.yaml").write_text(json.dumps(recipe("patient", patience=2).model_dump(mode="json")), encoding="utf-8")
    assert run("finetune", ["patient.yaml"]) == 0
    assert left == [0.9]
    assert ("run patient: 6 steps done, word accuracy on the validation words 20.00 % (10.5 to 34.8, 40 words); the model is that of step 2, which read the "
            "most of them") in capsys.readouterr().out
    assert [line["step"] for line in map(json.loads, (tmp_path / "runs/patient/progress.jsonl").read_text(encoding="utf-8").splitlines()) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert run("finetune", ["patient.yaml"]) == 0
    assert "the run patient has finished already" in capsys.readouterr().err
    assert run("runs", ["--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert (found["state"], found["step"], found["steps"], found["accuracy"]) == ("finished", 6, 10, 0.2)


def test_a_run_that_was_killed_when_its_patience_had_ended_trains_no_further(recipe, scripted, monkeypatch):
    scripted(0.2, 0.1, 0.15)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pipelines.training.driver._keep_model", lambda *_: (_ for _ in ()).throw(Killed()))
        train(recipe("patient", patience=2), quiet=True)
    done = train(recipe("patient", patience=2), resume=True, quiet=True)
    assert (done.metrics["step"], done.metrics["best_step"]) == (6, 2)


def test_a_lost_best_model_is_said_and_the_last_one_kept(recipe, scripted, capsys):
    scripted(0.3, 0.1, 0.1, 0.1, 0.1)
    done = train(recipe("lost"), quiet=True)
    for file in (done.folder / "model").iterdir():
        file.unlink()
    [best] = (done.folder / "best").glob("*/state.pt")
    best.write_bytes(b"PK")
    again = train(recipe("lost"))
    assert "best_step" not in again.metrics and again.metrics["word_accuracy"] == 0.1
    assert "expected the recognizer of step 2, found it lost or damaged: the model is that of the last step" in capsys.readouterr().err
    state = checkpoints.newest_whole(str(done.folder / "checkpoints"))[0].state()
    kept = torch.load(again.folder / "model" / "weights.pt", weights_only=True)
    assert all(torch.equal(kept[name], state["objective"][f"recognizer.{name}"]) for name in kept)
