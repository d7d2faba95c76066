"""What a kill, a full disk or another machine leaves of a run, and the same command after it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from models.charset import Charset
from models.recognizers import build
from pipelines.errors import NO_ROOM, BadInput, disk_full
from pipelines.reading.weights import pinned, save_recognizer
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.tracking import find_run
from pipelines.training.driver import train
from pipelines.training.recipe import parse_recipe
from pipelines.training.runs import RunFolder


def small_recipe(corpus: Path | str, runs: Path | str, **fields) -> dict:
    return {"name": "try", "runs": str(runs), "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"},
            "data": {"labeled": {"corpus": str(corpus), "batch_size": 8}},
            "training": {"steps": 6, "checkpoint_every": 2, "keep_checkpoints": 3, "log_every": 1, "threads_per_worker": 1, "cpus_per_worker": 0.5}} | fields


@pytest.fixture(scope="module")
def begun(tmp_path_factory, store) -> Path:
    """A working folder with a corpus, a model to start from, and a run of six steps that started from it; 3 of its checkpoints are left."""
    place = tmp_path_factory.mktemp("damage")
    render_corpus(place / "words", 60, Settings(style="plain", charset="36"))
    save_recognizer(place / "start", build("crnn_tiny", Charset.named("36")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.chdir(place)
        train(parse_recipe(small_recipe(place / "words", place / "runs", initialize_from="start")), quiet=True)
        yield place


def of_step(run: Path, step: int) -> Path:
    [found] = [file.parent for file in run.glob("checkpoints/*/checkpoint.json") if json.loads(file.read_text(encoding="utf-8"))["step"] == step]
    return found


def interrupted(begun: Path, name: str) -> Path:
    """A copy of the run as a kill after its last checkpoint leaves it: still running, without a model."""
    runs = begun / name
    run = shutil.copytree(begun / "runs" / "try", runs / "try")
    shutil.rmtree(run / "model")
    state = RunFolder(run).state()
    state.status = "running"
    RunFolder(run).write(state)
    return run


def go_on(begun: Path, run: Path) -> dict[str, torch.Tensor]:
    """The weights at the end of the run, continued by the command that began it."""
    recipe = parse_recipe(small_recipe(begun / "words", begun / "runs", initialize_from="start"))
    return torch.load(train(recipe, folder=run).folder / "model" / "weights.pt", weights_only=True, map_location="cpu")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_goes_on_from_the_newest_whole_checkpoint_without_rays_list_and_without_its_start(begun, capsys):
    run = interrupted(begun, "torn")
    newest, list_of_ray = of_step(run, 6), run / "checkpoints" / "checkpoint_manager_snapshot.json"
    (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:-1000])
    list_of_ray.write_bytes(b"")
    with open(run / "progress.jsonl", "ab") as file:
        file.write(b'{"step": 7, "ti')
    (begun / "start").rename(begun / "gone")
    try:
        weights = go_on(begun, run)
    finally:
        (begun / "gone").rename(begun / "start")
    assert equal(weights, torch.load(begun / "runs" / "try" / "model" / "weights.pt", weights_only=True))
    [warning] = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert f"left out 1 damaged checkpoint of {run} ({newest.name}: state.pt has " in warning
    assert warning.endswith("training goes on from the whole one of step 4")
    steps = [json.loads(line)["step"] for line in (run / "progress.jsonl").read_text(encoding="utf-8").splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6, 5, 6]


def test_a_finished_run_whose_model_is_gone_gets_it_back_from_its_last_checkpoint(begun):
    run = shutil.copytree(begun / "runs" / "try", begun / "bare" / "try")
    before = torch.load(run / "model" / "weights.pt", weights_only=True)
    recipe = parse_recipe(small_recipe(begun / "words", begun / "runs", initialize_from="start"))
    shutil.rmtree(run / "model")
    train(recipe, folder=run, resume=True, quiet=True)
    assert equal(torch.load(run / "model" / "weights.pt", weights_only=True), before)
    (run / "model" / "recognizer.json").unlink()
    for file in run.glob("checkpoints/*/state.pt"):
        file.write_bytes(b"")
    with pytest.raises(BadInput, match="expected the model of the finished run 'try' in .*, found neither it nor a whole checkpoint"):
        train(recipe, folder=run, resume=True, quiet=True)


def test_the_model_that_a_run_began_with_stands_in_its_state_and_another_is_not_taken(begun):
    run = interrupted(begun, "changed")
    state = RunFolder(run).state()
    assert state.start.model == str(begun / "start")
    assert find_run(state.handle.run).data.tags["initialized_from"] == str(begun / "start")
    shutil.rmtree(run / "checkpoints")
    kept = (begun / "start").rename(begun / "kept")
    try:
        with pytest.raises(BadInput, match="found none called"):
            go_on(begun, run)
        save_recognizer(begun / "start", build("crnn_tiny", Charset.named("36")))
        with pytest.raises(BadInput, match="expected the model .*/start that the run 'try' began with .*, found another there"):
            go_on(begun, run)
    finally:
        shutil.rmtree(begun / "start")
        kept.rename(begun / "start")


def test_a_registered_start_is_the_version_of_today(begun):
    from pipelines.registry.champion import register
    for _ in range(2):
        register(str(begun / "start"), "starts")
    register(str(begun / "start"), "starts", promote=True)
    assert pinned("models:/starts@champion") == "models:/starts/3" == pinned("models:/starts/latest")
    assert pinned("models:/starts/2") == "models:/starts/2" and pinned("runs/x") == "runs/x"
    with pytest.raises(BadInput, match="expected a registered model at models:/starts@nobody, found none"):
        pinned("models:/starts@nobody")


def test_a_full_disk_is_told_from_other_faults():
    assert all(disk_full(OSError(code, "")) for code in NO_ROOM)
    assert not disk_full(PermissionError(13, "")) and not disk_full(ValueError("No space left on device"))
