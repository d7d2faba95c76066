"""A run's folder: one writer at a time, and nothing that exists is overwritten."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import BadInput
from pipelines.training.recipe import parse_recipe
from pipelines.training.runs import RunFolder


def recipe(**training):
    return parse_recipe({"name": "try", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"},
                         "data": {"labeled": {"corpus": "s", "batch_size": 8}}, "training": {"steps": 10} | training})


def test_a_new_run_leaves_nothing_if_its_state_was_never_written(tmp_path):
    with pytest.raises(KeyError), RunFolder(tmp_path / "try").claimed(recipe(), resume=False):
        raise KeyError
    assert not (tmp_path / "try").exists()


def test_a_killed_run_continues_a_failed_one_only_if_asked(tmp_path):
    folder = RunFolder(tmp_path / "try")
    for status, resume in (("running", False), ("failed", True), ("finished", True)):
        with folder.claimed(recipe(), resume=resume) as state:
            assert state.steps == 10
            state.status = status
            folder.write(state)
    with pytest.raises(BadInput, match=r"\(finished\); choose another name=, or say --resume"):
        folder.claim(recipe(), resume=False)


def test_a_run_killed_before_its_state_was_written_starts_anew(tmp_path):
    (tmp_path / "try").mkdir()
    (tmp_path / "try" / "lock").touch()
    (tmp_path / "try" / "recipe.yaml").write_text("name: tr", encoding="utf-8")
    with RunFolder(tmp_path / "try").claimed(recipe(), resume=False) as state:
        assert state.status == "running" and state.handle is None


def test_other_files_and_other_recipes_are_left_alone(tmp_path):
    (tmp_path / "try").mkdir()
    (tmp_path / "try" / "thesis.tex").write_text("precious", encoding="utf-8")
    with pytest.raises(BadInput, match="expected a new folder or a run at .*, found other files; choose another name="):
        RunFolder(tmp_path / "try").claim(recipe(), resume=True)
    assert (tmp_path / "try" / "thesis.tex").read_text(encoding="utf-8") == "precious"
    folder = RunFolder(tmp_path / "other")
    with folder.claimed(recipe(), resume=False) as state:
        folder.write(state)
    with pytest.raises(BadInput, match=r"with another recipe \(training.steps was 10, is 20, training.accumulate was 1, is 2\)"):
        folder.claim(recipe(steps=20, accumulate=2), resume=True)


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    folder = RunFolder(tmp_path / "try")
    with folder.claimed(recipe(), resume=False) as state:
        folder.write(state)
        code = ("import sys; from pathlib import Path; from pipelines.training.runs import RunFolder; from pipelines.training.recipe import parse_recipe\n"
                f"RunFolder({str(tmp_path / 'try')!r}).claim(parse_recipe({recipe().model_dump(mode='json')!r}), True)")
        ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True)
        assert "the run 'try' in" in ended.stderr and "is being trained by another process" in ended.stderr
    assert json.loads((tmp_path / "try" / "run.json").read_text(encoding="utf-8"))["status"] == "running"
