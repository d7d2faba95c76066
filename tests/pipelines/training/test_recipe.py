"""Recipes: typed, with one sentence for what is wrong and the nearest key."""

import pytest
import yaml

from models import names
from models.objectives import OBJECTIVES
from models.recognizers import RECOGNIZERS
from pipelines.errors import BadInput
from pipelines.training.recipe import load_recipe, options_of, parse_recipe


def tree(**changes) -> dict:
    return {"name": "try", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "ccr"},
            "data": {"labeled": {"corpus": "s", "batch_size": 8}, "unlabeled": {"corpus": "u", "batch_size": 4}},
            "training": {"steps": 10}} | changes


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree()), encoding="utf-8")
    return path


def problem(**changes) -> str:
    with pytest.raises(BadInput) as caught:
        parse_recipe(tree(**changes))
    return str(caught.value)


def test_an_objective_has_the_papers_constants_unless_told_otherwise():
    recipe = parse_recipe(tree(objective={"name": "ccr", "ema_decay": 0.99}))
    assert recipe.objective["ema_decay"] == 0.99
    assert recipe.objective["confidence_threshold"] == 0.5
    assert recipe.objective["sharpening_temperature"] == 0.4


def test_overrides_reach_any_depth_and_numbers_may_be_written_as_on_paper(file):
    recipe = load_recipe(file, ["training.steps=20", "optimizer.learning_rate=1e-4", "objective.ema=false", "recognizer.charset=62"])
    assert recipe.training.steps == 20
    assert recipe.optimizer.learning_rate == 1e-4
    assert recipe.objective["ema"] is False
    assert len(recipe.charset) == 62


def test_a_recipe_written_out_is_the_same_recipe(file, tmp_path):
    recipe = load_recipe(file, ["seed=3"])
    (tmp_path / "again.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    again = load_recipe(tmp_path / "again.yaml")
    assert again == recipe
    assert again.digest == recipe.digest
    assert load_recipe(file).digest != recipe.digest


@pytest.mark.parametrize("changes, sentence", [
    ({"trainig": {}}, "recipe: there is no key 'trainig': did you mean 'training'?"),
    ({"training": {"steps": 5, "worker": 2}}, "recipe: there is no key 'training.worker': did you mean 'workers'?"),
    ({"objective": {"name": "ccr", "ema_decya": 0.9}}, "recipe: there is no key 'objective.ema_decya': did you mean 'ema_decay'?"),
    ({"objective": {"name": "crr"}}, "recipe: objective.name is 'crr'; did you mean 'ccr'?"),
    ({"recognizer": {"name": "crn_tiny"}}, "recipe: recognizer.name: no recognizer is called 'crn_tiny'; did you mean 'crnn_tiny'?"),
    ({"objective": {"name": "ccr", "ema_decay": "much"}},
     "recipe: objective.ema_decay: input should be a valid number, unable to parse string as a number, found 'much'"),
    ({"training": {"steps": 0}}, "recipe: training.steps: input should be greater than 0, found 0"),
    ({"recognizer": {}}, "recipe: the key 'recognizer.name' is missing"),
    ({"optimizer": {"schedule": "step", "decay_at": [0.8, 0.6]}},
     "recipe: optimizer.decay_at: expected shares between 0 and 1 in rising order, such as [0.6, 0.8], found [0.8, 0.6]"),
])
def test_a_mistake_is_one_sentence(changes, sentence):
    assert problem(**changes) == sentence


def test_a_missing_file_a_broken_file_and_a_broken_override_are_refused(file, tmp_path):
    with pytest.raises(BadInput, match="expected a recipe file, found nothing at"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1", encoding="utf-8")
    with pytest.raises(BadInput, match="is not YAML"):
        load_recipe(tmp_path / "broken.yaml")
    with pytest.raises(BadInput, match="expected key=value"):
        load_recipe(file, ["training.steps"])
    with pytest.raises(BadInput, match="there is no key 'training.stps': did you mean 'steps'"):
        load_recipe(file, ["training.stps=3"])


def test_what_is_read_from_the_sources_is_what_the_classes_say():
    """Names are looked at before PyTorch is there; a paper that is added needs no second list."""
    assert list(names.objectives()) == list(OBJECTIVES) and names.recognizers() == list(RECOGNIZERS)
    assert {name: names.fields_of(name) for name in OBJECTIVES} == {name: list(options_of(kind).model_fields) for name, kind in OBJECTIVES.items()}
