"""Training under Ray: the same bits after a kill, on any number of workers the same number of steps, and clear refusals."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from ray.train import TrainingFailedError

from pipelines.cli import run
from pipelines.errors import BadInput
from pipelines.evaluation.pseudo_labels import Examples
from pipelines.reading.weights import load_recognizer
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.training.driver import train
from pipelines.training.recipe import parse_recipe
from pipelines.training.runs import RunFolder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    """200 labeled words and 150 to use without labels."""
    folder = tmp_path_factory.mktemp("corpora")
    render_corpus(folder / "source", 200, Settings(style="plain", charset="36"))
    render_corpus(folder / "target", 150, Settings(style="street", charset="36", seed=1))
    return folder


@contextmanager
def working_in(folder: Path, store: str) -> Iterator[Path]:
    """The working folder, whose runs go to the tests' MLflow store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.chdir(folder)
        yield folder


@pytest.fixture
def place(tmp_path, store) -> Iterator[Path]:
    """A working folder for one test."""
    with working_in(tmp_path, store) as folder:
        yield folder


@pytest.fixture(scope="module")
def place_of_module(tmp_path_factory, store) -> Iterator[Path]:
    """A working folder for what several tests look at."""
    with working_in(tmp_path_factory.mktemp("shared"), store) as folder:
        yield folder


def recipe(corpora: Path, place: Path, name: str = "try", objective: dict | None = None, data: dict | None = None, **training) -> dict:
    both = {"labeled": {"corpus": str(corpora / "source"), "batch_size": 8}, "unlabeled": {"corpus": str(corpora / "target"), "batch_size": 8}}
    return {"name": name, "runs": str(place / "runs"), "recognizer": {"name": "crnn_tiny"}, "objective": objective or {"name": "ccr"},
            "data": both | (data or {}),
            "training": {"steps": 8, "checkpoint_every": 3, "log_every": 1, "threads_per_worker": 1, "cpus_per_worker": 0.5} | training}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model" / "weights.pt", weights_only=True)


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_killed_with_sigkill_continues_with_the_same_command_and_ends_with_the_same_bits(corpora, place, capsys):
    """The killed one trained under Ray; what goes on trains in this process, as the one that was never killed."""
    whole = train(parse_recipe(recipe(corpora, place, "whole", steps=10, checkpoint_every=4)), quiet=True)
    (place / "killed.yaml").write_text(yaml.safe_dump(recipe(corpora, place, "killed", steps=10, checkpoint_every=4)), encoding="utf-8")
    command = [sys.executable, "-m", "pipelines.finetune", "killed.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "RAY_ADDRESS": "local"}
    progress = place / "runs" / "killed" / "progress.jsonl"
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        while not (progress.is_file() and '"step": 6' in progress.read_text(encoding="utf-8")):
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    capsys.readouterr()
    assert run("finetune", ["killed.yaml"]) == 0
    done = capsys.readouterr()
    assert "continuing the run killed in" in done.err
    steps = [line["step"] for line in logged(place / "runs" / "killed") if "loss" in line]
    assert went_on_at(steps) in ([], [1], [5], [9])  # the second command, behind a checkpoint, maybe the last thing that the killed one did
    assert set(steps) == set(range(1, 11)) and steps[-1] == 10
    assert weights(place / "runs" / "killed").keys() == weights(whole.folder).keys()
    assert all(torch.equal(a, b) for a, b in zip(weights(place / "runs" / "killed").values(), weights(whole.folder).values()))
    without_validation_words_it_is_judged_by_unlabeled_images(place / "runs" / "killed", whole.metrics, done.out)


def without_validation_words_it_is_judged_by_unlabeled_images(run: Path, metrics: dict, told: str) -> None:
    """The labels of these, which the corpus has, are known to nothing but the numbers and the report."""
    found = {name: value for name, value in logged(run)[-1].items() if name != "time"}
    assert found == metrics  # of the run that was never stopped: the same images, the same views
    of_steps = [line for line in logged(run) if "loss" in line]
    assert all(line["images_per_second"] > 0 and line["memory_gib"] > 0.05 for line in of_steps)
    assert all(0 <= line["waiting_fraction"] <= 1 for line in of_steps if line["step"] == 10)
    assert found["unlabeled_images"] == 150 and 0 <= found["unlabeled_strong_similarity"] <= 1 and 0 <= found["pseudo_label_accuracy"] <= 1
    assert f"no validation words: unlabeled strong similarity {found['unlabeled_strong_similarity']:.2%} on 150 images is what textray can tell" in told
    examples = Examples.from_json((run / "pseudo_labels.json").read_bytes(), "")
    assert (examples.step, examples.asked) == (10, 150) and all(example.image.startswith(b"\xff\xd8") for example in examples.examples)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Step 10 of 10" in page and page.count("<svg") >= 15 and page.count("data:image/jpeg") == len(examples.examples) > 0


def children(parent: int) -> Iterator[tuple[int, str]]:
    """Process numbers and names of the processes that a process started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]) == parent:
                yield int(folder.name), (folder / "cmdline").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            pass


def training_workers() -> list[int]:
    """Process numbers of the training workers of the tests' own Ray, not of another on this machine."""
    raylets = [process for process, name in children(os.getpid()) if "raylet" in name]
    return [process for raylet in raylets for process, name in children(raylet) if "RayTrainWorker" in name]


def kill_a_worker_at(step: int, progress: Path, *, after: threading.Thread | None = None, again: bool = False) -> threading.Thread:
    """SIGKILL one training worker when the run has logged this step, and other killers are done; `again`: when it has logged another one after them. Gives up after two
    minutes."""
    def kill_one():
        if after is not None:
            after.join()
        until, before = time.monotonic() + 120, set(training_workers()) if again else set()
        lines = len(progress.read_text(encoding="utf-8").splitlines()) if again else 0
        while time.monotonic() < until:
            text = progress.read_text(encoding="utf-8") if progress.is_file() else ""
            logged = f'"step": {step},' in text and len(text.splitlines()) > lines
            if logged and (workers := [worker for worker in training_workers() if worker not in before]):
                os.kill(workers[0], signal.SIGKILL)
                return
            time.sleep(0.05)
    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    return thread


def went_on_at(steps: list[int]) -> list[int]:
    """The steps at which a run went on behind a checkpoint."""
    return [step for before, step in zip(steps, steps[1:]) if step <= before]


@pytest.fixture(scope="module")
def shrunk(corpora, place_of_module, ray_of_process) -> Path:
    """A pretrained run whose two workers lost one of them twice, with checkpoints in between, and then at once again, which it does not survive; one worker finished it."""
    tree = recipe(corpora, place_of_module, "shrunk", {"name": "seqclr"}, steps=60, checkpoint_every=20, workers=2, max_failures=0)
    progress = place_of_module / "runs" / "shrunk" / "progress.jsonl"
    first = kill_a_worker_at(25, progress)  # between two checkpoints: some step is trained again
    second = kill_a_worker_at(45, progress, after=first)
    kill_a_worker_at(45, progress, after=second, again=True)
    with pytest.raises(TrainingFailedError):
        train(parse_recipe(tree), quiet=True)
    tree["training"]["workers"] = 1
    return train(parse_recipe(tree), resume=True, quiet=True).folder


def test_a_run_survives_the_loss_of_a_worker_and_goes_on_with_another_number_of_them(shrunk):
    steps = [line["step"] for line in logged(shrunk) if "loss" in line]
    again = went_on_at(steps)
    assert again == [21, 41, 41]  # behind a checkpoint: twice with both workers, once with one
    assert steps[-1] == 60 and set(steps) == set(range(1, 61))
    newest = max((shrunk / "checkpoints").glob("checkpoint_*/state.pt"))
    state = torch.load(newest, weights_only=True)
    assert (state["step"], state["batches"]) == (60, 2 * 40 + 20)  # two a step, then one
    assert load_recognizer(shrunk).name == "crnn_tiny"


def test_a_finished_run_is_left_as_it_is_and_a_changed_recipe_refused(corpora, place):
    tree = recipe(corpora, place, "once", {"name": "supervised"}, steps=2)
    first = train(parse_recipe(tree), quiet=True)
    before = weights(first.folder)
    for resume in (False, True):
        again = train(parse_recipe(tree), resume=resume, quiet=True)
        assert again.model == first.model and all(torch.equal(a, b) for a, b in zip(before.values(), weights(first.folder).values()))
    tree["training"]["steps"] = 3
    for resume in (False, True):
        with pytest.raises(BadInput, match=r"with another recipe \(training.steps was 2, is 3\)"):
            train(parse_recipe(tree), resume=resume, quiet=True)


def test_sources_are_mixed_and_aspect_ratios_kept_from_training_to_reading(corpora, place):
    from pipelines.corpus.reader import Corpus
    from pipelines.evaluation.measure import evaluate_recognizer
    tree = recipe(corpora, place, "kept", {"name": "supervised"}, steps=2, data={"labeled": {
        "corpus": [str(corpora / "source"), str(corpora / "target")], "weights": {"plain": 0.25, "street": 0.75}, "batch_size": 8}})
    tree["recognizer"]["options"] = {"width": 160, "aspect": "keep"}
    outcome = train(parse_recipe(tree), quiet=True)
    reader = load_recognizer(outcome.folder)
    assert (reader.width, reader.aspect) == (160, "keep")
    rows = Corpus.open(corpora / "target").read_row_group("part-street-00000.parquet", 0, ["key", "image", "text"]).slice(0, 20).to_pylist()
    words = [(row["key"], row["image"], row["text"]) for row in rows]
    together = evaluate_recognizer(reader, iter(words), keep_worst=20).worst
    alone = [mistake for word in words for mistake in evaluate_recognizer(reader, iter([word]), keep_worst=1).worst]
    assert {(mistake.word.key, mistake.word.prediction) for mistake in together} == {(mistake.word.key, mistake.word.prediction) for mistake in alone}
    assert len(together) == len(alone) > 0


def test_a_file_of_the_user_s_own_trains_on_all_workers(corpora, place, ray_session):
    """The objective and the recognizer of docs/own.md, named from the working folder; the workers' folder is another."""
    code = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[3] / "docs" / "own.md").read_text(encoding="utf-8"), re.DOTALL)
    for file, text in zip(("sure.py", "thin.py"), code, strict=True):
        Path(file).write_text(text, encoding="utf-8")
    tree = recipe(corpora, place, "own", {"name": "sure.py:Sure", "entropy_weight": 0.5}, steps=2, workers=2)
    tree["recognizer"] = {"name": "thin.py:thin", "options": {"width": 64}}
    outcome = train(parse_recipe(tree), quiet=True)
    last = [line for line in logged(outcome.folder) if "loss" in line][-1]
    assert last["loss"] == pytest.approx(last["recognition_loss"] + 0.5 * last["entropy"], rel=1e-5)
    assert load_recognizer(outcome.folder).width == 64


def test_fine_tuning_starts_from_the_pretrained_encoder_with_a_fresh_decoder(corpora, place, shrunk):
    started = train(parse_recipe(recipe(corpora, place, "after", {"name": "supervised"}, steps=1)
                                 | {"initialize_from": str(shrunk), "optimizer": {"learning_rate": 1e-12, "weight_decay": 0.0}}), quiet=True)
    before, after = weights(shrunk), weights(started.folder)
    convolutions = [name for name in before if name.startswith("encoder.") and before[name].ndim == 4]
    assert convolutions and all(torch.allclose(before[name], after[name], atol=1e-6) for name in convolutions)
    assert json.loads((shrunk / "model" / "recognizer.json").read_text(encoding="utf-8"))["trained"] == ["encoder", "sequence"]


def test_a_loss_that_is_not_finite_ends_the_command_with_its_sentence(corpora, place, ray_session):
    tree = recipe(corpora, place, "spoiled", {"name": "supervised"}, max_failures=0) | {"optimizer": {"learning_rate": 1e30, "gradient_clip": 1e30}}
    with pytest.raises(BadInput, match=r"the loss of step \d+ is not finite \(loss nan, .*; the batch held plain/0/\d+, "):
        train(parse_recipe(tree), quiet=True)
    assert RunFolder(place / "runs" / "spoiled").state().status == "failed"


@pytest.mark.parametrize("change, sentence", [
    ({"data": {"labeled": None}}, r"the objective ccr needs data.labeled \(its corpus and batch_size\), found none in the recipe"),
    ({"data": {"unlabeled": {"corpus": "nowhere", "batch_size": 4}}}, "nowhere"),
    ({"data": {"unlabeled": {"corpus": "TARGET", "batch_size": 400}}}, "a batch of 400 images on each of 1 workers needs at least 400 rows"),
    ({"workers": 9}, r"9 workers with 0.5 CPUs each leave 0 of \d+ CPUs for the \d+ tasks that read for them, .*; set training.cpus_per_worker="),
])
def test_what_cannot_work_is_refused_before_anything_is_written(corpora, place, change, sentence):
    if change.get("data", {}).get("unlabeled"):
        change["data"]["unlabeled"]["corpus"] = change["data"]["unlabeled"]["corpus"].replace("TARGET", str(corpora / "target"))
    with pytest.raises(BadInput, match=sentence):
        train(parse_recipe(recipe(corpora, place, "never", **change)), quiet=True)
    assert not (place / "runs" / "never").exists()
