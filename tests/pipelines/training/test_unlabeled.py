"""What a run asks about unlabeled images: the model that teaches about pseudo-labels, the model that stays about criteria, and nothing changes."""

from pathlib import Path

import pytest
import torch

from models.charset import Charset
from models.objectives import SemiMTR
from models.recognizers import build
from pipelines.evaluation.pseudo_labels import Examples
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.training.recipe import Recipe, parse_recipe
from pipelines.training.unlabeled import COUNT, DECIDES, IMAGES, labeler_of, labels_on, measure, open_sample
from pipelines.training.worker import build_objective


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    render_corpus(folder / "source", 12, Settings(style="plain", charset="36"))
    render_corpus(folder / "target", 10, Settings(style="street", charset="36", seed=1))
    return folder


def recipe(corpora: Path, objective: str, **options) -> Recipe:
    return parse_recipe({"name": "r", "recognizer": {"name": "crnn_tiny", "options": options}, "objective": {"name": objective},
                         "training": {"steps": 1}, "data": {"labeled": {"corpus": str(corpora / "source"), "batch_size": 2},
                                  "unlabeled": {"corpus": [str(corpora / "target"), str(corpora / "source")], "batch_size": 2}}})


def test_a_sample_holds_images_of_all_corpora_their_withheld_labels_and_the_characters_of_the_training_labels(corpora):
    wide = recipe(corpora, "ccr", width=160, aspect="keep")
    sample = open_sample(wide, build_objective(wide).recognizer)
    assert sample.images.shape == (22, 3, 32, 160) and sample.images.dtype == torch.uint8
    assert len(set(sample.keys)) == 22 < IMAGES and {key.split("/")[0] for key in sample.keys} == {"street", "plain"}
    labels = dict(zip(sample.keys, sample.labels))
    assert all(labels.values()) and sum(sample.known.values()) == sum(len(label) for key, label in labels.items() if key.startswith("plain"))


@pytest.mark.parametrize("name, copy", [("ccr", "target"), ("visu", "ccr.target"), ("mean_teacher", "teacher"), ("pseudo_label", "labeler"),
                                        ("fixmatch", "recognizer"), ("supervised", "recognizer")])
def test_pseudo_labels_are_of_the_model_that_teaches(corpora, name, copy):
    objective = build_objective(recipe(corpora, name))
    assert labeler_of(objective) is objective.get_submodule(copy)


def test_an_average_of_semimtr_teaches_too():
    small = build("abinet", Charset.named("36"), vision="small", hidden=32, width=64, max_length=6, vision_layers=1, language_layers=1)
    for ema in (True, False):
        objective = SemiMTR(small, ema=ema)
        assert labeler_of(objective) is (objective.average if ema else small)


def test_all_numbers_come_from_one_look_that_changes_nothing(corpora, tmp_path):
    given = recipe(corpora, "ccr")
    torch.manual_seed(5)
    objective = build_objective(given).train()
    sample, before = open_sample(given, objective.recognizer), {name: value.clone() for name, value in objective.state_dict().items()}
    numbers = measure(sample, objective, given, 40, str(tmp_path / "pseudo_labels.json"))
    assert numbers == measure(sample, objective, given, 40, str(tmp_path / "pseudo_labels.json"))
    assert 0 <= numbers[DECIDES] <= 1 and numbers[COUNT] == 22 and numbers["pseudo_label_accuracy"] == 0
    assert objective.recognizer.training and not objective.target.training
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    examples = Examples.from_json((tmp_path / "pseudo_labels.json").read_bytes(), "")
    assert (examples.step, examples.asked, examples.kept) == (40, 22, 0)  # an untrained model is sure of nothing
    assert {example.kind for example in examples.examples} == {"dropped"} and len(examples.examples) == 12


def test_where_there_is_no_threshold_of_words_all_that_can_teach_is_kept(corpora):
    for name in ("softmatch", "mean_teacher"):
        given = recipe(corpora, name)
        objective = build_objective(given)
        found = labels_on(open_sample(given, objective.recognizer), objective, "charset")
        assert [each.kept for each in found] == [bool(each.text) for each in found]  # CTC that reads nothing cannot teach
