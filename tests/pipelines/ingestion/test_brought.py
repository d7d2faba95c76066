"""A folder, an LMDB or a tar where a corpus is expected: brought in once, anew when it has changed."""

import json
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.ingestion.brought import brought_in
from pipelines.synthesis.corpus import Settings, render_corpus


@pytest.fixture
def words(tmp_path, monkeypatch) -> Path:
    """20 labeled pictures as a folder and as an LMDB, and an empty cache."""
    monkeypatch.setenv("TEXTRAY_CACHE", str(tmp_path / "cache"))
    render_corpus(tmp_path / "c", 20, Settings(style="plain", charset="36"))
    for format in ("folder", "lmdb"):
        assert run("export", [str(tmp_path / "c"), "--format", format, "--out", str(tmp_path / format)]) == 0
    return tmp_path


def test_commands_and_recipes_take_what_is_no_corpus(words, monkeypatch, capsys):
    monkeypatch.chdir(words)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{words}/mlflow.db")
    for format in ("folder", "lmdb"):
        capsys.readouterr()
        assert run("describe", [format, "--json"]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["total"]["labeled"] == 20 and f"textray: {format} is no corpus yet: it is brought in, once, to {words}/cache/{format}-" in said.err
        assert run("describe", [format]) == 0
        assert "brought in" not in capsys.readouterr().err
    assert run("split", ["folder", "--validation", "0.2", "--test", "0"]) == 0
    assert sorted(path.name for path in words.glob("folder-*")) == ["folder-train", "folder-validation"]
    (words / "try.yaml").write_text(json.dumps({"name": "try", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"}, "training": {"steps": 1},
                                                "data": {"labeled": {"corpus": ["folder", "c"], "batch_size": 8}}}), encoding="utf-8")
    assert run("finetune", ["try.yaml"]) == 0
    assert len(list((words / "cache").iterdir())) == 2  # what was there served


def test_what_has_changed_is_brought_in_anew(words):
    first = brought_in(str(words / "folder"))
    assert brought_in(str(words / "folder")) == first and brought_in(str(words / "c")) == str(words / "c")
    (words / "folder" / "labels.tsv").write_text("", encoding="utf-8")
    assert brought_in(str(words / "folder")) != first


def test_what_is_neither_is_named_as_before(words, capsys):
    (words / "notes.txt").write_text("nothing", encoding="utf-8")
    (words / "empty").mkdir()
    for place, found in (("nowhere", "no such folder"), ("notes.txt", "a file"), ("empty", "no corpus.json")):
        assert run("describe", [str(words / place)]) == 2
        assert f"{place}: expected a corpus (a folder with corpus.json), found {found}" in capsys.readouterr().err


def test_a_dry_run_takes_what_the_run_takes(words, monkeypatch, capsys):
    monkeypatch.chdir(words)
    assert run("finetune", ["supervised_crnn_tiny", "data.labeled.corpus=folder", "data.validation.corpus=c", "data.labeled.batch_size=4", "training.steps=10", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert f"textray: folder is no corpus yet: it is brought in, once, to {words}/cache/folder-" in said.err
    assert "labeled       4 images x 1 worker x 1 = 4 a step; 40 in the run, 2 times each row; 5 steps an epoch" in said.out
    assert sorted(path.name for path in words.iterdir()) == ["c", "cache", "folder", "lmdb"]  # nothing of the run
