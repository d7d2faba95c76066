"""What is searched: fields of a recipe by their dotted paths, drawn as their section says, or what is ready for their objective."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from models.objectives import OBJECTIVES
from pipelines.errors import BadInput
from pipelines.training.recipe import Recipe, parse_recipe
from tuning.space import DECAY, READY, THRESHOLD, WEIGHT, Axis, grid, own_values, space_of, with_values

STREAM = {"corpus": "s", "batch_size": 8}


def recipe(objective: str = "ccr", search: dict | None = None, recognizer: str = "crnn_tiny", **fields) -> Recipe:
    return parse_recipe({"name": "try", "recognizer": {"name": recognizer}, "objective": {"name": objective, **fields},
                         "data": {"labeled": STREAM, "unlabeled": STREAM}, "training": {"steps": 10}, "search": search or {}})


SEARCH = {"objective.ema_decay": {"log_complement": [0.9, 0.999]}, "objective.alignment": {"choice": ["string", "frames"]},
          "objective.sharpening_temperature": {"loguniform": [0.1, 1.0], "when": {"objective.alignment": "frames"}},
          "objective.domain_adaptation": {"choice": [True, False]}, "optimizer.learning_rate": {"loguniform": [1e-4, 1e-2]},
          "data.unlabeled.batch_size": {"integer": [4, 12]}, "optimizer.warmup_fraction": {"uniform": [0.1, 0.5]}}


def test_every_number_choice_and_switch_of_a_recipe_can_be_searched():
    axes = {axis.field: axis for axis in space_of(recipe(search=SEARCH))}
    assert list(axes) == list(SEARCH)
    assert axes["objective.domain_adaptation"].distribution() == CategoricalDistribution((True, False))
    assert axes["data.unlabeled.batch_size"].distribution() == IntDistribution(4, 12)
    assert axes["optimizer.learning_rate"].distribution() == FloatDistribution(1e-4, 1e-2, log=True)
    assert axes["objective.ema_decay"].distribution() == FloatDistribution(0.001, 0.1, log=True)  # of the complement
    assert axes["optimizer.warmup_fraction"].distribution() == FloatDistribution(0.1, 0.5)


def test_a_field_is_searched_only_beside_the_values_that_it_is_for():
    base = recipe(search=SEARCH)
    sharpening = next(axis for axis in space_of(base) if axis.field.endswith("sharpening_temperature"))
    assert sharpening.counts({"objective.alignment": "frames"}, base) and not sharpening.counts({"objective.alignment": "string"}, base)
    assert not sharpening.counts({}, base) and sharpening.counts({}, recipe(search=SEARCH, alignment="frames"))  # by the recipe's own value
    assert "objective.sharpening_temperature" not in own_values(base, space_of(base))


def test_choices_are_taken_as_the_recipe_takes_them():
    """By their values a trial is found again in its folder: 5 is 5.0 there, and 1e-3, which YAML reads as a text, a number."""
    [weight, rate] = space_of(recipe(search={"objective.consistency_weight": {"choice": [1, 5]}, "optimizer.learning_rate": {"choice": ["1e-3", 0.01]}}))
    assert weight.choices == (1.0, 5.0) and rate.choices == (0.001, 0.01)


def test_a_field_comes_behind_those_that_it_depends_on():
    search = {name: SEARCH[name] for name in ("objective.sharpening_temperature", "objective.alignment")}
    assert [axis.field for axis in space_of(recipe(search=search))] == ["objective.alignment", "objective.sharpening_temperature"]


def test_what_is_drawn_lies_within_and_is_rounded():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for axis in (*space_of(recipe(search=SEARCH)), Axis("x", "uniform", 0.12345, 0.12349)):
        drawn = [axis.draw(study.ask()) for _ in range(50)]
        assert all(axis.holds(value) for value in drawn) and len(set(drawn)) > 1
        if axis.kind == "log_complement":
            assert all(float(f"{1 - value:.4g}") == pytest.approx(1 - value, rel=1e-9) for value in drawn)


@pytest.mark.parametrize("axis, value, position", [
    (THRESHOLD, 0.05, 0), (THRESHOLD, 0.5, 0.5), (THRESHOLD, 0.95, 1), (WEIGHT, 0.1, 0), (WEIGHT, 1.0, 0.5), (WEIGHT, 10.0, 1),
    (DECAY, 0.9, 0), (DECAY, 0.999, 2 / 3), (DECAY, 0.9999, 1), (Axis("x", "integer", 2, 10), 4, 0.25), (Axis("x", "choice", choices=("a", "b", "c")), "b", 0.5),
    (WEIGHT, 0.01, 0), (WEIGHT, 100.0, 1), (DECAY, 1.0, 1), (THRESHOLD, None, 0),  # outside, as a recipe's own value may lie
])
def test_values_lie_along_their_axis(axis, value, position):
    assert axis.position(value) == pytest.approx(position)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_every_objective_has_something_to_search_and_takes_what_is_drawn(objective):
    if objective == "bcn":
        base = parse_recipe({"name": "try", "recognizer": {"name": "abinet"}, "objective": {"name": "bcn", "texts": "words.txt"}, "data": {}, "training": {"steps": 10}})
    else:
        base = recipe(objective, recognizer="abinet" if objective.startswith("semimtr") else "vit_tiny" if objective in ("mae", "dig") else "crnn_tiny")
    axes, study = space_of(base), optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert axes and all(axis.field.split(".")[0] in ("objective", "optimizer") for axis in axes)
    for _ in range(5):
        trial, values = study.ask(), {}
        for axis in axes:
            if axis.counts(values, base):
                values[axis.field] = axis.draw(trial)
        assert own_values(with_values(base, values, "new"), axes) == values


def test_what_a_ctc_target_by_strings_does_not_ask_for_is_not_searched():
    fields = [axis.field for axis in READY["ccr"]]
    assert [axis.field for axis in space_of(recipe("ccr"))] == [name for name in fields if "sharpening" not in name]
    assert [axis.field for axis in space_of(recipe("ccr", alignment="frames"))] == fields
    assert [axis.field for axis in space_of(recipe("ccr", recognizer="trba_tiny"))] == fields


@pytest.mark.parametrize(("search", "message"), [
    ({"objective.ema_decya": {"uniform": [0, 1]}}, "expected fields of the recipe by their dotted paths, .*, found objective.ema_decya"),
    ({"seed": {"integer": [0, 3]}}, "search.seed: expected a field that trials may differ in"),
    ({"data.validation.words": {"integer": [10, 30]}}, "search.data.validation.words: expected a field that trials may differ in"),
    ({"objective.alignment": {"choice": ["string", "fames"]}}, "objective.alignment=fames: .*expected|input should be 'string' or 'frames', found 'fames'"),
    ({"objective.alignment": {"choice": ["string", "frames"], "when": {"objective.nothing": 1}}}, "found objective.nothing"),
    ({"data.unlabeled.batch_size": {"uniform": [4, 12]}}, "data.unlabeled.batch_size=6.66"),
    ({"initialize_from": {"choice": ["a", "b"]}}, "search.initialize_from: expected a field that trials may differ in"),
    ({"objective.alignment": {"choice": ["string", "frames"]}, "objective.ema_decay": {"uniform": [0.9, 0.99], "when": {"objective.alignment": "farmes"}}},
     "search.objective.ema_decay: expected under `when` a value that objective.alignment may have, found farmes"),
    ({"objective.ema": {"choice": [True, False], "when": {"objective.alignment": "frames"}}, "objective.alignment": {"choice": ["string", "frames"], "when": {"objective.ema": True}}},
     "expected conditions that do not run in circles"),
    ({"optimizer.learning_rate": {"uniform": [-1.0, 1.0]}}, "optimizer.learning_rate=-1.0: .*greater than 0"),
])
def test_what_cannot_be_searched_is_refused_before_anything_is_trained(search, message):
    with pytest.raises(BadInput, match=message):
        space_of(recipe(search=search))


@pytest.mark.parametrize(("axis", "message"), [
    ({}, "expected one of uniform, loguniform, log_complement, integer, choice, found none of them"),
    ({"uniform": [0, 1], "choice": [1, 2]}, "found uniform and choice"), ({"uniform": [0.9, 0.5]}, r"uniform: expected \[least, greatest\], found \[0.9, 0.5\]"),
    ({"log_complement": [0.5, 1.0]}, "log_complement: expected two numbers from 0 to below 1"), ({"choice": [1]}, "search"), ({"loguniform": [0, 1]}, "greater than 0"),
    ({"unform": [0, 1]}, "there is no key 'search.objective.ema_decay.unform': did you mean 'uniform'?"),
])
def test_a_section_says_one_thing(axis, message):
    with pytest.raises(BadInput, match=message):
        recipe(search={"objective.ema_decay": axis})


def test_values_go_where_they_belong_and_nothing_else_changes():
    before = recipe(search=SEARCH)
    after = with_values(before, {"objective.ema_decay": 0.99, "optimizer.learning_rate": 0.002}, "new")
    assert after.objective == before.objective | {"ema_decay": 0.99} and after.optimizer.learning_rate == 0.002 and after.search == {}
    changed = {"name", "objective", "optimizer", "search"}
    assert after.model_dump(exclude=changed) == before.model_dump(exclude=changed)
    assert with_values(before, own_values(before, space_of(before)), before.name) == before.model_copy(update={"search": {}})


def test_a_search_is_no_part_of_what_a_run_computes():
    """So runs of before there was one keep their digest."""
    assert "search" not in recipe().to_yaml() and recipe(search=SEARCH).digest != recipe().digest
    assert parse_recipe({**recipe(search=SEARCH).model_dump(mode="json")}) == recipe(search=SEARCH)


def test_a_grid_holds_every_combination_once():
    search = {"objective.alignment": SEARCH["objective.alignment"], "objective.sharpening_temperature": SEARCH["objective.sharpening_temperature"]}
    base = recipe(search=search)
    assert list(grid(base, space_of(base))) == [{"objective.alignment": "string"}] + [
        {"objective.alignment": "frames", "objective.sharpening_temperature": value} for value in (0.1, 0.3162, 1.0)]
    assert DECAY.grid() == [0.9, 0.996838, 0.9999] and Axis("x", "integer", 2, 3).grid() == [2, 3] and THRESHOLD.grid() == [0.05, 0.5, 0.95]
