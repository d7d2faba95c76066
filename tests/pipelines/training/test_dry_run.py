"""`--dry-run`: the plan of a run, and what is refused; nothing is written."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from models import own
from models.footprint import footprint, step_bytes
from models.objectives import OBJECTIVES
from pipelines.cli import main
from pipelines.corpus.manifest import SourceCounts, write_manifest
from pipelines.corpus.quarantine import write_quarantine
from pipelines.corpus.shards import ShardWriter
from pipelines.errors import BadInput
from pipelines.training.device import SHARE, Device, check_fits, gib
from pipelines.training.dry_run import Given, half_width, plan
from pipelines.training.rates import Rate, known_rate
from pipelines.training.recipe import Recipe, load_recipe, parse_recipe
from pipelines.training.runs import RunFolder, RunState
from pipelines.training.worker import build_objective

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))
IMAGE = cv2.imencode(".png", np.zeros((32, 100, 3), np.uint8))[1].tobytes()


def corpus(folder: Path, sources: dict[str, list[str]]) -> str:
    """Words by source, each source in a shard of its own."""
    folder.mkdir()
    entries, counts = [], {}
    for number, (source, words) in enumerate(sources.items()):
        with ShardWriter(folder, source, number) as writer:
            for index, word in enumerate(words):
                writer.write(key=f"{source}/{index}", image=IMAGE, text=word, width=100, height=32, phash=0)
        entries.append(writer.entry)
        counts[source] = SourceCounts(rows_in=len(words), kept=len(words), labeled=len(words))
    write_quarantine(folder)
    write_manifest(folder, entries, counts, {})
    return str(folder)


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    """CCR on 90 + 30 labeled words, of which 20 cannot be learned, and 40 unlabeled ones; two workers, two batches a step."""
    labeled = corpus(tmp_path / "labeled", {"MJ": ["word"] * 70 + ["ö"] * 20, "ST": ["text"] * 30})
    unlabeled = corpus(tmp_path / "unlabeled", {"real": ["x"] * 40})
    return parse_recipe({
        "name": "try", "runs": str(tmp_path / "runs"), "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "ccr"},
        "data": {"labeled": {"corpus": labeled, "batch_size": 8, "weights": {"MJ": 0.5, "ST": 0.5}},
                 "unlabeled": {"corpus": unlabeled, "batch_size": 5},
                 "validation": {"corpus": unlabeled}},
        "training": {"steps": 30, "workers": 2, "accumulate": 2}})


def shown(recipe: Recipe, **given) -> str:
    return "\n".join(plan(recipe, Given(**{"gpu_memory": 80.0, **given})))


def test_the_plan_of_a_new_run(recipe, tmp_path):
    text = shown(recipe, images_per_second=26.0)
    lines = text.splitlines()
    assert lines[0] == f"run           try in {tmp_path}/runs/try: new"
    assert "ccr" in text and "views labeled: strong; unlabeled: weak, strong" in text
    assert "steps         30; 1,560 images in all" in text  # 30 steps x 2 workers x 2 batches x (8 + 5)
    assert "labeled       8 images x 2 workers x 2 = 32 a step; 960 in the run, 9.6 times each row; 3.12 steps an epoch" in text
    assert "left out: 20 characters outside the charset" in text
    mj, st = [line.split()[2:] for line in lines if "/labeled, " in line]  # behind the place and the source
    assert mj == ["70", "50.0%", "4.38", "6.86", "1", "1", "all,", "into", "memory"]  # 16 of each step's 32 images
    assert st == ["30", "50.0%", "1.88", "16", "1", "1", "all,", "into", "memory"]
    assert "unlabeled     5 images x 2 workers x 2 = 20 a step; 600 in the run, 15 times each row; 2 steps an epoch" in text
    assert "30 seconds, 60 GPU-seconds, at 26.0 images/s a worker (as given)" in text  # 1,560 / 52 = 30 s
    assert f"validation    40 words of {tmp_path}/unlabeled, every 3 steps; an accuracy of 50 % is known to ± 15.5 points" in text
    assert "warning       40 validation words cannot show a difference of 2.5 points of accuracy; 1,537 could" in text
    assert not (tmp_path / "runs").exists()


def test_memory_is_shown_with_its_parts_and_they_add_up(recipe):
    with torch.device("meta"):
        objective = build_objective(recipe)
    found = footprint(objective, {"labeled": 8, "unlabeled": 5}, bf16=True)
    text = shown(recipe)
    for part in (found.weights, found.gradients, found.states("adamw"), found.activations, found.memory("adamw", 2)):
        assert gib(part) in text
    assert "72.00 GiB" in text  # nine tenths of 80


def test_without_a_measured_rate_the_plan_says_so(recipe):
    assert "time          not known: nobody measured crnn_tiny with ccr on such a GPU" in shown(recipe)


def test_rates_come_from_the_user_then_from_runs_then_from_the_table(recipe, tmp_path):
    assert known_rate(recipe, given=None, gpu=False, bf16=False).images_per_second == 609.0
    assert known_rate(recipe, given=None, gpu=True, bf16=False) is None
    run = tmp_path / "runs" / "before"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    rates = (10.0, 300.0, 310.0, 290.0)
    (run / "progress.jsonl").write_text("".join(json.dumps({"step": step, "time": 1.0 * step, "images_per_second": rate}) + "\n"
                                                for step, rate in enumerate(rates)), encoding="utf-8")
    assert known_rate(recipe, given=None, gpu=True, bf16=False) == Rate(147.5, "as the run before measured on 2 workers")
    assert known_rate(recipe, given=7.0, gpu=True, bf16=False) == Rate(7.0, "as given")
    (run / "recipe.yaml").write_text(recipe.to_yaml().replace("name: crnn_tiny", "name: crnn"), encoding="utf-8")
    assert known_rate(recipe, given=None, gpu=True, bf16=False) is None


def test_what_does_not_fit_is_refused_with_the_largest_batch_that_fits(recipe):
    with torch.device("meta"):
        objective = build_objective(recipe)
    found = footprint(objective, {"labeled": 8, "unlabeled": 5})
    room = found.memory("adamw", 2) - found.activations // 2
    device = Device(True, False, math.ceil(room / SHARE), "a small GPU")
    with pytest.raises(BadInput, match=r"would not fit: a worker needs .* MiB .*the largest that fits is data.labeled.batch_size=(\d) data.unlabeled"
                                       r".batch_size=(\d), with training.accumulate for the rest") as caught:
        check_fits(recipe, objective, found, device)
    labeled, unlabeled = (int(word.rpartition("=")[2].rstrip(",")) for word in str(caught.value).split() if "batch_size=" in word)
    left = device.room - (found.memory("adamw", 2) - found.activations)
    assert step_bytes(objective, {"labeled": labeled, "unlabeled": unlabeled}) <= left < found.activations
    check_fits(recipe, objective, found, Device(True, False, math.ceil(found.memory("adamw", 2) / SHARE) + 1, "a GPU that is just large enough"))
    with pytest.raises(BadInput, match="no batch fits: take a larger device or a smaller recognizer"):
        check_fits(recipe, objective, found, Device(True, False, 1000, "a tiny GPU"))


def test_a_run_that_exists_is_said_to_and_another_recipe_under_its_name_is_refused(recipe):
    where = RunFolder(Path(recipe.runs) / recipe.name)
    Path(where.place).mkdir(parents=True)
    Path(where.place, "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    where.write(RunState("finished", recipe.digest, 30))
    assert ": finished already: the command would only complete its records" in next(plan(recipe, Given(80.0)))
    where.write(RunState("running", recipe.digest, 30))
    assert ": exists (not finished): would go on behind step 0" in next(plan(recipe, Given(80.0)))
    where.write(RunState("failed", recipe.digest, 30))
    with pytest.raises(BadInput, match="choose another name=, or say --resume"):
        next(plan(recipe, Given(80.0)))
    assert "(failed): would go on" in next(plan(recipe, Given(80.0), resume=True))
    with pytest.raises(BadInput, match="with another recipe"):
        next(plan(recipe.model_copy(update={"seed": 1}), Given(80.0)))


def test_the_command_prints_the_plan_and_takes_its_options_only_with_it(recipe, tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    assert main(["finetune", str(file), "training.workers=1", "--dry-run", "--gpu-memory", "80"]) == 0
    assert "8 images x 1 worker x 2 = 16 a step" in capsys.readouterr().out
    assert main(["finetune", str(file), "--gpu-memory", "80"]) == 2
    assert capsys.readouterr().err == "textray: error: --gpu-memory: expected --dry-run beside it, found none: add it, or leave this out\n"
    assert main(["finetune", str(file), "--dry-run", "--gpu-memory", "0"]) == 2
    assert "expected a number above 0, found 0" in capsys.readouterr().err


def test_a_run_shorter_than_an_epoch_is_warned_of(recipe):
    tree = yaml.safe_load(recipe.to_yaml())
    tree["training"] |= {"steps": 2, "workers": 1, "accumulate": 1}
    tree["data"]["validation"] = None
    text = shown(parse_recipe(tree))
    assert "warning       unlabeled_strong_similarity alone says how well it reads while it trains: there is no data.validation" in text
    assert "warning       the run ends before it has seen all labeled images once: 2 of 13 steps" in text
    tree["objective"] = {"name": "uda", "annealing": "linear", "annealing_steps": 9}
    assert "warning       objective.annealing_steps is 9, but the run has 2 steps: its threshold ends before it has risen" in shown(parse_recipe(tree))


def test_the_half_width_of_an_accuracy():
    assert half_width(2401) == pytest.approx(2.0)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_can_be_built(file):
    recipe = load_recipe(file)
    own.remember({recipe.objective[field]: "some words" for field in getattr(OBJECTIVES[recipe.objective["name"]], "files", ())})
    with torch.device("meta"):
        assert build_objective(recipe).recognizer.name == recipe.recognizer.name


# A step of the large ones takes half a minute, if only on shapes; a recipe for each objective and kind of decoder is enough.
SMALLER = {"trba": {"name": "trba_tiny", "options": {}}, "abinet": {"options": {"hidden": 64, "no_null_length": "full"}}}


@pytest.mark.parametrize("name", ["ccr_crnn_tiny", "ccr_trba", "supervised_trba", "seqclr_crnn_tiny", "visu_trba", "semimtr_abinet", "pseudo_label_trba"])
def test_a_recipe_trains_on_shapes_and_its_plan_ends_where_its_corpora_are_missing(name, tmp_path, monkeypatch):
    recipe = load_recipe(RECIPES[0].with_name(f"{name}.yaml"))
    with torch.device("meta"):
        parts = build_objective(recipe).views
    tree = yaml.safe_load(recipe.to_yaml())
    for part in parts:
        tree["data"][part]["batch_size"] = 2
    tree["recognizer"] |= SMALLER.get(recipe.recognizer.name, {})
    monkeypatch.chdir(tmp_path)
    sections, missing = [], recipe.initialize_from or getattr(recipe.data, next(iter(parts))).corpora[0]
    with pytest.raises(BadInput, match=missing):
        sections += plan(parse_recipe(tree), Given(80.0, 1000.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recognizer", ["trba", "moran"])  # their rectifiers keep coordinates in float32, whatever is computed around them
@pytest.mark.parametrize("objective", ["simclr", "seqclr", "persec", "rotnet", "moco", "byol", "simsiam", "ccr"])
def test_a_recognizer_with_a_rectifier_is_built_on_shapes(objective, recognizer):
    part = {"corpus": "somewhere", "batch_size": 4}
    data = {"unlabeled": part} | ({"labeled": part} if objective == "ccr" else {})
    with torch.device("meta"):
        built = build_objective(parse_recipe({"name": "shapes", "recognizer": {"name": recognizer}, "objective": {"name": objective}, "data": data, "training": {"steps": 1}}))
    assert all(parameter.is_meta for parameter in built.parameters())
