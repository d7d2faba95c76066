"""Axes: positions in [0, 1] become values, and back."""

import pytest

from pipelines.errors import BadInput
from pipelines.training.recipe import parse_recipe
from tuning.space import OWN, SPACES, Axis, space_of, values_at, with_values
from tuning.trials import trial_name

THRESHOLD, DECAY, WEIGHT = SPACES["ccr"]


def recipe(objective: str):
    return parse_recipe({"name": "try", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": objective},
                         "data": {"labeled": {"corpus": "s", "batch_size": 8}}, "training": {"steps": 10}})


@pytest.mark.parametrize("axis, position, value", [
    (THRESHOLD, 0.0, 0.05), (THRESHOLD, 0.5, 0.5), (THRESHOLD, 1.0, 0.95),
    (WEIGHT, 0.0, 0.1), (WEIGHT, 0.5, 1.0), (WEIGHT, 1.0, 10.0),
    (DECAY, 0.0, 0.9), (DECAY, 2 / 3, 0.999), (DECAY, 1.0, 0.9999),
])
def test_positions_are_values_along_the_axis(axis, position, value):
    assert axis.value(position) == pytest.approx(value)
    assert axis.position(value) == pytest.approx(position)


@pytest.mark.parametrize("axis, value, position", [(WEIGHT, 0.0, 0), (WEIGHT, 0.01, 0), (WEIGHT, 100.0, 1), (DECAY, 1.0, 1), (DECAY, 0.0, 0),
                                                   (THRESHOLD, 0.0, 0), (THRESHOLD, 1.0, 1)])
def test_a_value_outside_an_axis_is_shown_at_its_end(axis, value, position):
    assert axis.position(value) == pytest.approx(position)


@pytest.mark.parametrize("own", [{"consistency_weight": 0.0, "ema_decay": 1.0}, {"confidence_threshold": 0.0}, {"consistency_weight": 40.0}, {}])
def test_the_first_trial_is_the_recipe_wherever_its_values_lie(own):
    base = recipe("ccr").model_copy(update={"objective": recipe("ccr").objective | own})
    first = {axis.field: OWN for axis in space_of(base)}
    assert with_values(base, values_at(first, base), base.name) == base
    assert trial_name(first) == "trial-recipe" != trial_name(dict.fromkeys(first, 0.0))


def test_what_is_searched_are_the_three_constants_of_ccr():
    assert [axis.field for axis in space_of(recipe("ccr"))] == ["confidence_threshold", "ema_decay", "consistency_weight"]
    with pytest.raises(BadInput, match=r"expected a recipe whose objective can be searched \(ccr\), found supervised"):
        space_of(recipe("supervised"))


def test_values_go_into_the_objective_and_nothing_else_changes():
    before = recipe("ccr")
    after = with_values(before, {"ema_decay": 0.99}, "new")
    assert after.objective == before.objective | {"ema_decay": 0.99}
    assert after.model_dump(exclude={"name", "objective"}) == before.model_dump(exclude={"name", "objective"})


def test_an_axis_is_plain_data():
    assert Axis("x", 1.0, 3.0).value(0.25) == 1.5
