"""`textray runs`: what lies in a folder of runs, whoever left it, and whether it is being trained."""

import fcntl
import json
import threading
import time

import pytest

from pipelines.cli import run
from pipelines.errors import BadInput
from pipelines.training.journal import time_left
from pipelines.training.listing import ago, follow, overview, runs_in
from pipelines.training.recipe import parse_recipe
from pipelines.training.runs import RunFolder

RECIPE = {"recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"}, "data": {"labeled": {"corpus": "words", "batch_size": 8}},
          "training": {"steps": 100}}


def left(folder, name: str, status: str, *numbers: dict) -> RunFolder:
    """A run that logged these numbers and was left so."""
    where, recipe = RunFolder(folder / name), parse_recipe(RECIPE | {"name": name})
    with where.claimed(recipe, resume=False) as state:
        state.status = status
        where.write(state)
    (folder / name / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in numbers), encoding="utf-8")
    return where


@pytest.fixture
def runs(tmp_path):
    now = time.time()
    left(tmp_path / "runs", "done", "finished", {"step": 50, "time": now - 7300, "word_accuracy": 0.25}, {"step": 100, "time": now - 7200, "word_accuracy": 0.5})
    left(tmp_path / "runs", "stopped", "running", {"step": 10, "time": now - 130, "loss": 2.0})
    left(tmp_path / "runs", "broken", "failed")
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


def test_runs_are_listed_with_what_became_of_them(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs.parent)
    assert run("runs", []) == 0
    lines = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[:3] for line in lines] == [["stopped", "10", "100"], ["done", "100", "100"], ["broken", "0", "100"]]
    assert [" ".join(line[3].split()) for line in lines] == ["2 min ago killed: supervised on crnn_tiny; the same command goes on",
                                                             "50.00 2 h ago finished: supervised on crnn_tiny",
                                                             "failed: supervised on crnn_tiny; the same command with --resume goes on"]


def test_scripts_get_the_same(runs, capsys):
    assert run("runs", [str(runs), "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert {name: (each["state"], each["step"], each["steps"], each["accuracy"]) for name, each in found.items()} == {
        "stopped": ("killed", 10, 100, None), "done": ("finished", 100, 100, 0.5), "broken": ("failed", 0, 100, None)}


def test_one_that_is_held_is_being_trained_and_has_time_left(tmp_path):
    where, recipe = RunFolder(tmp_path / "runs" / "now"), parse_recipe(RECIPE | {"name": "now"})
    with where.claimed(recipe, resume=False) as state:
        where.write(state)
        (tmp_path / "runs" / "now" / "progress.jsonl").write_text('{"step": 20, "time": 100.0}\n{"step": 40, "time": 110.0}\n', encoding="utf-8")
        found = overview(where.place)
        assert (found.state, found.step, found.left) == ("training", 40, 30.0)
    assert overview(where.place).state == "killed"


def test_in_a_store_the_lease_says_who_trains(stores, bucket):
    where, recipe = RunFolder(f"{bucket}/runs/far"), parse_recipe(RECIPE | {"name": "far"})
    with where.claimed(recipe, resume=False) as state:
        where.write(state)
        assert [(each.name, each.state) for each in runs_in(f"{bucket}/runs")] == [("far", "training")]
    assert [(each.name, each.state) for each in runs_in(f"{bucket}/runs")] == [("far", "killed")]


def test_looking_does_not_keep_a_run_from_beginning(tmp_path):
    """Whoever looks holds the lock for a moment."""
    where, recipe = RunFolder(tmp_path / "looked-at"), parse_recipe(RECIPE | {"name": "looked-at"})
    (tmp_path / "looked-at").mkdir()
    with open(tmp_path / "looked-at" / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        threading.Timer(0.02, lambda: fcntl.flock(lock, fcntl.LOCK_UN)).start()
        with where.claimed(recipe, resume=False) as state:
            where.write(state)
            assert where.is_held()


def test_a_run_is_followed_until_nobody_trains_it(tmp_path, capsys):
    place, recipe = tmp_path / "runs" / "now", parse_recipe(RECIPE | {"name": "now"})
    where = RunFolder(place)
    with where.claimed(recipe, resume=False) as state:
        where.write(state)
        (place / "progress.jsonl").write_text('{"step": 10, "time": 100.0, "loss": 4.0}\n', encoding="utf-8")
        lines = follow(str(place), pause=0.01)
        assert next(lines) == "step 10/100  loss 4"
        with open(place / "progress.jsonl", "a", encoding="utf-8") as file:
            file.write('{"step": 20, "time": 110.0, "loss": 3.0, "word_accuracy": 0.125}\n')
        assert next(lines) == "step 20/100  loss 3  word accuracy 12.50 %  left 00:01:20"
    assert list(lines) == []
    assert run("runs", [str(tmp_path / "runs"), "--follow", "now"]) == 0
    assert capsys.readouterr().out.splitlines() == ["step 10/100  loss 4", "step 20/100  loss 3  word accuracy 12.50 %",
                                                    "run now: killed at step 20 of 100, word accuracy 12.50% on the validation words; the same command goes on"]
    with open(place / "progress.jsonl", "a", encoding="utf-8") as file:
        file.writelines(f'{{"step": {step}, "time": 120.0, "loss": 2.0}}\n' for step in (30, 40))
    assert run("runs", [str(tmp_path), "--follow", "now", "--json"]) == 0  # in the subfolder runs, where commands put it
    said = capsys.readouterr()
    assert said.out == (place / "progress.jsonl").read_text(encoding="utf-8") and "run now: killed at step 40 of 100" in said.err


def test_a_sweep_shows_its_trials(tmp_path):
    left(tmp_path, "search", "finished")
    left(tmp_path / "search" / "trials", "one", "finished")
    left(tmp_path / "search" / "trials", "two", "running", {"step": 3, "time": 77.0})
    found = overview(str(tmp_path / "search"))
    assert (found.sweep, found.step, found.steps, found.what, found.seen) == (True, 1, 2, "sweep: supervised on crnn_tiny", 77.0)
    with pytest.raises(BadInput, match="expected a run, found a sweep: follow one of its trials"):
        next(follow(str(tmp_path / "search")))


def test_a_failed_run_that_is_resumed_is_being_trained(tmp_path):
    where, recipe = left(tmp_path, "again", "failed"), parse_recipe(RECIPE | {"name": "again"})
    assert overview(where.place).state == "failed"
    with where.claimed(recipe, resume=True):
        assert overview(where.place).state == "training"


def test_a_damaged_run_hides_no_other(runs, capsys):
    (runs / "broken" / "run.json").write_bytes(b"")
    assert run("runs", [str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "damaged: " in lines[3] and "run.json" in lines[3]


@pytest.mark.parametrize("lines, expected", [([], None), ([(1, 0.0)], None), ([(1, 5.0), (1, 6.0)], None), ([(10, 0.0), (30, 10.0)], 35.0),
                                             ([(50, 0.0), (100, 1.0)], 0.0),
                                             ([(60, 0.0), (70, 5.0), (80, 10.0), (70, 9000.0), (80, 9005.0)], 10.0)])  # killed, and an hour later gone on with
def test_the_time_left_follows_from_the_last_lines(lines, expected):
    assert time_left([{"step": step, "time": at} for step, at in lines], 100) == expected


@pytest.mark.parametrize("seconds, text", [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (7199, "1 h"), (200_000, "2 d")])
def test_times_that_have_passed(seconds, text):
    assert ago(seconds) == text


def test_what_is_not_there_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("runs", []) == 2 and "expected a folder of runs" in capsys.readouterr().err
    assert run("runs", [str(tmp_path), "--follow", "none"]) == 2 and "expected a run, found none" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    assert run("runs", []) == 0 and capsys.readouterr().out == "no runs in runs\n"


def test_the_runs_of_a_folder_in_which_commands_worked_lie_in_its_subfolder(tmp_path, capsys):
    left(tmp_path / "adapted" / "runs", "reader", "finished")
    assert [each.name for each in runs_in(str(tmp_path / "adapted"))] == ["reader"] == [each.name for each in runs_in(str(tmp_path / "adapted" / "runs"))]
    assert run("runs", [str(tmp_path / "nowhere")]) == 2
    assert f"{tmp_path}/nowhere: expected a folder of runs, found no such folder: name another one, or train first" in capsys.readouterr().err
