"""A run that learns from texts alone: no images, two workers, the same bits after a stop; its language model starts the next run."""

import hashlib
import json
from pathlib import Path

import mlflow
import pytest
import torch

from pipelines.cli import run
from pipelines.errors import BadInput
from pipelines.reading.weights import read_description
from pipelines.training.driver import train
from pipelines.training.recipe import parse_recipe
from pipelines.training.runs import RunFolder
from pipelines.training.worker import build_objective

SMALL = {"name": "abinet_small", "options": {"hidden": 32, "max_length": 8}}


@pytest.fixture
def place(tmp_path, store, monkeypatch) -> Path:
    """A working folder with a text."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("the cat saw the dog\n", encoding="utf-8")
    return tmp_path


def recipe(name: str, steps: int = 6, **training) -> dict:
    return {"name": name, "recognizer": SMALL, "objective": {"name": "bcn", "texts": "texts.txt", "batch_size": 8}, "data": {},
            "training": {"steps": steps, "checkpoint_every": 3, "log_every": 1, "threads_per_worker": 1, "cpus_per_worker": 0.5, **training}}


def weights(folder: str) -> dict[str, torch.Tensor]:
    return torch.load(Path(folder) / "weights.pt", weights_only=True)


def test_texts_teach_the_language_model_which_then_moves_on(place, capsys):
    outcome = train(parse_recipe(recipe("spelling", workers=2)), quiet=True)
    lines = [json.loads(line) for line in Path("runs/spelling/progress.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "spelling_loss" in line] == [1, 2, 3, 4, 5, 6] and all("images_per_second" not in line for line in lines)
    assert read_description(Path(outcome.model))["trained"] == ["decoder"]

    # the text is kept, in the folder and in MLflow, and the run would go on with none but that
    state = RunFolder("runs/spelling").state()
    text = Path("texts.txt").read_text(encoding="utf-8")
    assert state.files == {"texts.txt": hashlib.sha256(text.encode()).hexdigest()}
    assert Path("runs/spelling/files/texts.txt").read_text(encoding="utf-8") == text
    kept = mlflow.artifacts.download_artifacts(run_id=state.handle.run, artifact_path="files/texts.txt", tracking_uri=state.handle.uri)
    assert Path(kept).read_text(encoding="utf-8") == text
    with pytest.raises(BadInput, match=r"expected the file that the run began with as texts.txt \(sha256 [0-9a-f]{12}…\), found another one there"):
        state.check_files({"texts.txt": "0" * 64})

    # what comes behind trains the encoder and vision, and the language model moves on
    vision = parse_recipe({"name": "vision", "recognizer": SMALL, "objective": {"name": "semimtr_vision", "recognition_weight": 0.0}, "training": {"steps": 1},
                           "data": {"unlabeled": {"corpus": "c", "batch_size": 2}}, "initialize_from": "spelling"})
    started = build_objective(vision, Path(outcome.model)).recognizer.state_dict()
    for name, value in weights(outcome.model).items():
        if name.startswith("decoder.language."):
            assert torch.equal(value, started[name]), name


def test_the_plan_of_such_a_run_says_that_it_takes_no_images(place, capsys):
    Path("bcn.yaml").write_text(json.dumps(recipe("planned")), encoding="utf-8")
    assert run("pretrain", ["bcn.yaml", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "steps         6; no images; a checkpoint every 3" in shown and "views none" in shown
    assert run("pretrain", ["bcn.yaml", "objective.texts=nothing.txt", "--dry-run"]) == 2
    assert "objective: expected a file nothing.txt, found none that can be read" in capsys.readouterr().err
    assert run("pretrain", ["bcn.yaml", "objective.texts=nothing.txt"]) == 2
    assert "objective: expected a file nothing.txt, found none that can be read" in capsys.readouterr().err


@pytest.mark.parametrize("body, found", [("self.recognizer = recognizer", "found none and crnn_tiny"), ("self.views = {}", "found dict and none")])
def test_an_objective_of_ones_own_that_lacks_a_part_is_one_sentence(place, capsys, body, found):
    Path("half.py").write_text("from torch import nn\nclass Half(nn.Module):\n    def __init__(self, recognizer):\n        super().__init__()\n"
                               f"        {body}\n    def after_step(self, step):\n        pass\n", encoding="utf-8")
    tree = {**recipe("half"), "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "half.py:Half"}}
    Path("half.yaml").write_text(json.dumps(tree), encoding="utf-8")
    assert run("pretrain", ["half.yaml", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "objective: expected half.py:Half to have `views`" in said and found.replace("crnn_tiny", "Recognizer") in said
