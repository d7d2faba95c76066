"""Steps and batches that a recipe leaves out: from the size of its corpora or from a time, settled before the run begins, and kept when it goes on."""

import json
from pathlib import Path

import pytest
import yaml

from pipelines.cli import run
from pipelines.errors import BadInput
from pipelines.progress import quietly
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.training import alone, length, speed, worker
from pipelines.training.distributed import OnRay
from pipelines.training.driver import settle, train
from pipelines.training.length import batch_of, steps_within
from pipelines.training.recipe import Recipe, parse_recipe


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """Sixty labeled words and a few unlabeled images."""
    folder = tmp_path_factory.mktemp("length")
    with quietly():
        for name, count in (("labeled", 60), ("unlabeled", 20)):
            render_corpus(folder / name, count, Settings(style="plain", charset="36"))
    return folder


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


def recipe(words: Path, name: str = "short", objective: str = "supervised", **training) -> Recipe:
    data = {"labeled": {"corpus": str(words / "labeled")}}
    if objective == "ccr":
        data["unlabeled"] = {"corpus": str(words / "unlabeled")}
    return parse_recipe({"name": name, "recognizer": {"name": "crnn_tiny"}, "objective": {"name": objective}, "data": data,
                         "training": {"threads_per_worker": 1, "log_every": 1, **training}})


def never(sized: Recipe) -> float:
    pytest.fail("it was measured, and nobody asked for a time")


def shortest(monkeypatch, steps: int) -> None:
    """Runs as short as the tests want them."""
    monkeypatch.setattr(length, "EPOCHS", 1)
    monkeypatch.setattr(length, "LEAST_STEPS", steps)


def left_by(folder: Path) -> tuple[dict, dict, list[dict]]:
    """The recipe that a run wrote down, its state, and its numbers."""
    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()]
    return yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")), json.loads((folder / "run.json").read_text(encoding="utf-8")), lines


@pytest.mark.parametrize("rows, batch", [(1_000_000, 64), (256, 64), (255, 32), (60, 8), (8, 2), (3, 1), (0, 1)])
def test_a_batch_is_64_and_less_where_an_epoch_would_have_fewer_than_four(rows, batch):
    assert batch_of(rows) == batch


@pytest.mark.parametrize("rows, workers, steps", [(60, 1, 500), (64 * 1000, 1, 20_000), (64 * 1000, 4, 5_000), (64 * 10**6, 1, 100_000)])
def test_a_run_has_twenty_epochs_within_bounds(words, rows, workers, steps):
    sized = length.with_batches(recipe(words, workers=workers)).recipe
    sized = sized.model_copy(update={"data": parse_recipe({**sized.model_dump(), "data": {"labeled": {"corpus": "x", "batch_size": 64}}}).data})
    found = length.with_steps(sized, {"labeled": Counted(rows, 64)}, never)
    assert found.recipe.training.steps == steps == found.fields["training.steps"] and f"training.steps: {steps:,}, " in found.why[0]


class Counted:
    """What `with_steps` asks of a stream."""

    def __init__(self, rows: int, batch_size: int):
        self.rows, self.batch_size = rows, batch_size


def test_the_stream_that_takes_the_most_steps_decides(words, monkeypatch):
    shortest(monkeypatch, 1)
    settled, streams = settle(recipe(words, objective="ccr"), None, never)
    assert {part: stream.batch_size for part, stream in streams.items()} == {"labeled": 8, "unlabeled": 4}
    assert settled.recipe.training.steps == round(60 / 8) and "of 60 labeled images" in settled.why[-1]


def test_what_the_recipe_says_stays(words):
    said = recipe(words, steps=7).model_copy(update={"data": parse_recipe({**recipe(words).model_dump(), "data": {"labeled": {"corpus": str(words / "labeled"),
                                                                                                                    "batch_size": 5}}}).data})
    settled, _ = settle(said, None, never)
    assert settled.recipe == said and settled.fields == {} and settled.why == ()


def test_a_run_says_its_numbers_and_why_writes_them_down_and_its_rate_ends_with_it(words, monkeypatch, capsys):
    shortest(monkeypatch, 4)
    monkeypatch.setattr(length, "BATCH", 32)
    done = train(recipe(words))
    said = capsys.readouterr().err
    assert "data.labeled.batch_size: 8, for 60 labeled images" in said and "training.steps: 8, 1.07 epochs of 60 labeled images" in said
    whole, state, lines = left_by(done.folder)
    assert (whole["training"]["steps"], whole["data"]["labeled"]["batch_size"]) == (8, 8) == (state["settled"]["training.steps"], state["settled"]["data.labeled.batch_size"])
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert len(rates) == 8 and max(rates) > 5e-4 and rates[-1] < rates[0]  # one cycle over exactly these steps
    assert train(parse_recipe(whole), quiet=True).metrics["step"] == 8  # its own recipe is the same run


def test_a_run_that_goes_on_keeps_its_number(words, monkeypatch, capsys):
    shortest(monkeypatch, 6)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(worker._Worker, "_log", stop_at(3, worker._Worker._log))
        train(recipe(words, checkpoint_every=2))
    shortest(monkeypatch, 50)  # as if by a later version, with other defaults
    capsys.readouterr()
    done = train(recipe(words, checkpoint_every=2))
    assert done.metrics["step"] == 8 and "training.steps: 8, as the run began" in capsys.readouterr().err
    assert train(recipe(words, checkpoint_every=2), quiet=True).metrics["step"] == 8  # and when it has finished


def stop_at(step: int, log):
    def stopped(self, now, numbers):
        log(self, now, numbers)
        if now == step:
            raise KeyboardInterrupt
    return stopped


def test_a_time_is_kept_to_by_the_speed_of_the_first_steps(words, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(alone, "seconds_a_step", lambda sized, beside: asked.append((sized.data.labeled.batch_size, beside)) or 0.1)
    done = train(recipe(words, minutes=0.01))
    assert done.metrics["step"] == int(0.85 * 0.6 / 0.1) == 5 and asked == [(8, 1)]
    assert "training.steps: 5, what 0.01 minutes are enough for at 10 steps a second, measured before it begins" in capsys.readouterr().err
    whole, state, _ = left_by(done.folder)
    assert (whole["training"]["steps"], whole["training"]["minutes"], state["minutes"]) == (5, None, 0.01)
    assert train(recipe(words, minutes=0.01), quiet=True).metrics["step"] == 5 and len(asked) == 1  # it is not measured again
    with pytest.raises(BadInput, match=r"training.minutes: expected 0.01 minutes, with which the run 'short' began \(5 steps\), found 0.02 minutes"):
        train(recipe(words, minutes=0.02))
    with pytest.raises(BadInput, match="found none: repeat that, or choose another name="):
        train(recipe(words))


def test_time_is_divided_by_what_a_step_takes():
    assert steps_within(100, 0.5) == 170 and steps_within(0.001, 10) == 1


@pytest.mark.parametrize("objective", ["supervised", "ccr"])
def test_a_step_is_measured_with_the_images_that_it_takes(words, objective):
    small, large = (settle(recipe(words, objective=objective, steps=1, accumulate=count), None, never)[0].recipe for count in (1, 6))
    assert 0 < speed.seconds_a_step(small) < speed.seconds_a_step(large)


def test_what_was_measured_is_what_a_run_takes(words):
    settled, _ = settle(recipe(words, minutes=0.1), None, speed.seconds_a_step)
    done = train(settled.recipe, quiet=True)
    times = [line["time"] for line in left_by(done.folder)[2] if "loss" in line]
    assert 0.5 < (times[-1] - times[0]) / (0.1 * 60) < 3  # an order of magnitude: others use this machine


def test_an_objective_without_images_has_no_size_to_go_by(tmp_path):
    (tmp_path / "texts.txt").write_text("one\ntwo\n", encoding="utf-8")
    texts = parse_recipe({"name": "texts", "recognizer": {"name": "abinet_small", "options": {"hidden": 32, "max_length": 8}}, "objective": {"name": "bcn", "texts": "texts.txt"}, "data": {}})
    with pytest.raises(BadInput, match="training.steps: expected a number, for bcn learns from no corpus"):
        settle(texts, None, never)


def test_a_dry_run_says_where_the_number_comes_from(words, monkeypatch, capsys):
    tree = recipe(words).model_dump(mode="json")
    Path("recipe.yaml").write_text(yaml.safe_dump({**tree, "training": {}, "objective": {"name": "supervised"}}), encoding="utf-8")

    def plan(*more: str) -> str:
        assert run("finetune", ["recipe.yaml", "--dry-run", *more]) == 0
        return capsys.readouterr().out
    assert "steps         500;" in (shown := plan()) and "data.labeled.batch_size: 8, for 60 labeled images" in shown and "training.steps: 500, 66.7 epochs" in shown
    assert "training.steps: 10,200, what 2 minutes are enough for at 100 steps a second" in plan("training.minutes=2", "--images-per-second", "800")
    monkeypatch.setattr(speed, "seconds_a_step", lambda sized, beside: 0.5)
    assert "training.steps: 204, what 2 minutes are enough for at 2 steps a second" in plan("training.minutes=2")
    assert run("finetune", ["recipe.yaml", "--dry-run", "--gpu-memory", "24", "training.minutes=2"]) == 2
    assert "say --images-per-second N, or training.steps" in capsys.readouterr().err and not Path("runs").exists()


def test_several_workers_are_told_one_number(words, ray_session):
    done = train(recipe(words, name="two", minutes=0.02, workers=2, cpus_per_worker=0.5, max_failures=0), engine=OnRay(), quiet=True)
    whole, state, lines = left_by(done.folder)
    assert whole["training"]["steps"] == state["settled"]["training.steps"] == lines[-1]["step"] > 0
