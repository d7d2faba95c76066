"""A run's folder: one writer at a time, and nothing that exists is overwritten."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.handles import RunHandle
from pipelines.training import record
from pipelines.training.recipe import parse_recipe
from pipelines.training.runs import RunFolder, RunState


def recipe(**training):
    return parse_recipe({"name": "try", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"},
                         "data": {"labeled": {"corpus": "s", "batch_size": 8}}, "training": {"steps": 10} | training})


def test_a_new_run_leaves_nothing_if_its_state_was_never_written(tmp_path):
    with pytest.raises(KeyError), RunFolder(tmp_path / "try").claimed(recipe(), resume=False):
        raise KeyError
    assert not (tmp_path / "try").exists()


def test_a_killed_run_continues_a_finished_one_is_left_and_a_failed_one_goes_on_only_if_asked(tmp_path):
    folder = RunFolder(tmp_path / "try")
    for status, resume in (("running", False), ("finished", False), ("failed", False)):
        with folder.claimed(recipe(), resume=resume) as state:
            assert state.steps == 10
            state.status = status
            folder.write(state)
    with pytest.raises(BadInput, match=r"\(failed\); choose another name=, or say --resume"):
        folder.claim(recipe(), resume=False)
    with folder.claimed(recipe(), resume=True) as state:
        assert state.status == "failed"


def test_a_run_killed_before_its_state_was_written_starts_anew(tmp_path):
    (tmp_path / "try").mkdir()
    (tmp_path / "try" / "lock").touch()
    (tmp_path / "try" / "recipe.yaml").write_text("name: tr", encoding="utf-8")
    (tmp_path / "try" / "files").mkdir()
    (tmp_path / "try" / "files" / "my_objective.py").write_text("class Half: ...", encoding="utf-8")
    with RunFolder(tmp_path / "try").claimed(recipe(), resume=False) as state:
        assert state.status == "running" and state.handle is None


def test_other_files_and_other_recipes_are_left_alone(tmp_path):
    (tmp_path / "try").mkdir()
    (tmp_path / "try" / "thesis.tex").write_text("precious", encoding="utf-8")
    with pytest.raises(BadInput, match="expected a new folder or a run at .*, found other files; choose another name="):
        RunFolder(tmp_path / "try").claim(recipe(), resume=True)
    assert (tmp_path / "try" / "thesis.tex").read_text(encoding="utf-8") == "precious"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text("name: precious", encoding="utf-8")  # the same name as a file of ours, and no run around it
    with pytest.raises(BadInput, match="expected a new folder or a run at .*, found other files"), RunFolder(tmp_path / "mine").claimed(recipe(), False):
        pass
    assert (tmp_path / "mine" / "recipe.yaml").read_text(encoding="utf-8") == "name: precious"
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


SPOILED = [b"", b'{"status": "runn', b"\0" * 99, bytes(range(256)), b"[]", b"7", b'{"version": 9}', b'{"status": "running", "digest": 7, "steps": 10}',
           b'{"status": "lost", "digest": "a", "steps": 10}', b'{"status": "running", "digest": "a", "steps": "10"}',
           b'{"status": "running", "digest": "a", "steps": 10, "tracked": {"uri": "x"}}', b'{"status": "running", "digest": "a", "steps": 10, "more": 1}']


@pytest.mark.parametrize("data", SPOILED)
def test_a_spoiled_state_is_refused_in_one_sentence_by_every_command_that_reads_it(tmp_path, capsys, data):
    (tmp_path / "try").mkdir()
    (tmp_path / "try" / "run.json").write_bytes(data)
    (tmp_path / "try.yaml").write_text(recipe().model_copy(update={"runs": str(tmp_path)}).to_yaml(), encoding="utf-8")
    for command in (["finetune", str(tmp_path / "try.yaml")], ["finetune", str(tmp_path / "try.yaml"), "--resume"]):
        assert cli.main(command) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"textray: error: {tmp_path / 'try' / 'run.json'}: expected ")
        assert line.endswith("put back a copy of this file, or choose another name=")
    assert (tmp_path / "try" / "run.json").read_bytes() == data


@pytest.mark.parametrize("data", [b"", b"name: [", b"\0\0", b"- 1", bytes(range(256)), None])
def test_a_spoiled_recipe_of_a_run_is_written_again_by_its_own_and_named_to_another(tmp_path, data):
    folder, file = RunFolder(tmp_path / "try"), tmp_path / "try" / "recipe.yaml"
    with folder.claimed(recipe(), resume=False) as state:
        folder.write(state)
    file.unlink() if data is None else file.write_bytes(data)
    with pytest.raises(BadInput, match="recipe.yaml: expected .*, found .*: put back a copy"):
        folder.claim(recipe(steps=20), resume=True)
    with folder.claimed(recipe(), resume=False):
        pass
    assert file.read_text(encoding="utf-8") == recipe().to_yaml()


def test_a_file_or_a_folder_in_the_wrong_place_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="expected a new folder or a run at .*, found other files"):
        RunFolder(tmp_path / "file").claim(recipe(), resume=False)
    with pytest.raises(BadInput, match="expected a folder to write to, found Not a directory"):
        RunFolder(tmp_path / "file" / "try").claim(recipe(), resume=False)
    (tmp_path / "try" / "run.json").mkdir(parents=True)
    with pytest.raises(BadInput, match="run.json: expected the state of a run, found Is a directory"):
        RunFolder(tmp_path / "try").claim(recipe(), resume=False)


def test_a_run_in_a_store_has_one_writer_and_leaves_nothing_if_its_state_was_never_written(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(f"{bucket}/try")
    with pytest.raises(KeyError), folder.claimed(recipe(), resume=False):
        raise KeyError
    assert storage.kind(folder.place) is None
    with folder.claimed(recipe(), resume=False) as state:
        folder.write(state)
        with pytest.raises(BadInput, match=f"the run 'try' in {bucket}/try is being trained by another process .* whose lease holds until"):
            RunFolder(f"{bucket}/try").claim(recipe(), resume=False)
    with pytest.raises(BadInput, match=r"with another recipe \(training.steps was 10, is 20\)"):
        RunFolder(f"{bucket}/try").claim(recipe(steps=20), resume=True)
    assert RunFolder(f"{bucket}/try").state().status == "running" and storage.list_names(folder.place) == ["recipe.yaml", "run.json"]
    assert list(tmp_path.iterdir()) == []  # no folder that is called s3:


def test_a_uri_without_its_slashes_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("s3:/bucket/runs/try", "gs:bucket/try"):
        with pytest.raises(BadInput, match="expected a URI such as .*://BUCKET/PATH, found one without its two slashes: correct it"):
            RunFolder(place)
    (tmp_path / "s3:").mkdir()
    assert RunFolder("s3:").place == str(tmp_path / "s3:")


def test_a_run_keeps_no_credentials_of_its_store_and_finds_them_in_the_environment(tmp_path, monkeypatch):
    secret = "postgresql://textray:secret@host/mlflow"
    folder, state = RunFolder(tmp_path / "r"), RunState("running", "digest", 1)
    folder.path.mkdir()
    monkeypatch.setattr("pipelines.training.record.tracking.prepare_store", lambda store: None)  # the entry itself is opened by what is given here
    record.begin(folder, state, lambda token: RunHandle(secret, "1", "abc"))
    assert "secret" not in (folder.path / "run.json").read_text(encoding="utf-8")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
    assert folder.state().handle == RunHandle(secret, "1", "abc")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert folder.state().handle.uri == "postgresql://***@host/mlflow"


def test_a_recipe_of_an_earlier_version_is_the_same_recipe(tmp_path):
    """It lacks fields that came later, and whose defaults are what it computed."""
    folder, now = RunFolder(tmp_path / "try"), recipe()
    with folder.claimed(now, resume=False) as state:
        folder.write(state)
    old = now.to_yaml().replace("  freeze: null\n", "").replace("  sync_batchnorm: false\n", "")
    assert old != now.to_yaml()
    (tmp_path / "try" / "recipe.yaml").write_text(old, encoding="utf-8")
    folder.write(replace(state, digest=hashlib.sha256(old.encode()).hexdigest()[:16]))
    with folder.claimed(now, resume=False):
        pass
    other = parse_recipe({**now.model_dump(mode="json"), "seed": 7})
    with pytest.raises(BadInput, match="with another recipe"), folder.claimed(other, resume=False):
        pass
