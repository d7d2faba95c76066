"""Which values the next trial has: given ones first, never the same twice, and by TPE those near what was good."""

import pytest
from ray.tune.search import Searcher

from pipelines.training.recipe import parse_recipe
from tuning.proposals import Proposals, trial_name
from tuning.space import grid, own_values, space_of

SEARCH = {"objective.confidence_threshold": {"uniform": [0.0, 1.0]}, "objective.alignment": {"choice": ["string", "frames"]}}
RECIPE = parse_recipe({"name": "search", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "ccr"}, "search": SEARCH,
                       "data": {part: {"corpus": "s", "batch_size": 8} for part in ("labeled", "unlabeled")}, "training": {"steps": 10}})
AXES = space_of(RECIPE)
OWN = own_values(RECIPE, AXES)


def drawn(searcher: Proposals, count: int, reached=lambda values: 0.5) -> list[dict]:
    found = []
    for number in range(count):
        config = searcher.suggest(str(number))
        found.append(config["values"])
        searcher.on_trial_complete(str(number), {"word_accuracy": reached(config["values"])})
    return found


def proposals(searcher: str = "random", first=(OWN,), known=()) -> Proposals:
    return Proposals(RECIPE, AXES, searcher, ["word_accuracy"], first, known)


def test_given_values_come_first_and_none_comes_twice():
    other = {"objective.confidence_threshold": 0.25, "objective.alignment": "frames"}
    found = drawn(proposals(first=[OWN, other, OWN]), 20)
    assert found[:2] == [OWN, other] and len({str(values) for values in found}) == 20
    assert drawn(proposals(first=[OWN, other]), 20) == found  # by the recipe's seed


def test_what_was_tried_is_not_tried_again():
    before = drawn(proposals(), 6)
    after = drawn(proposals(first=[OWN], known=[(values, [0.5]) for values in before]), 6)
    assert not [values for values in after if values in before]


def test_a_long_search_goes_on_where_it_was_killed():
    """A seeded searcher draws first what it drew before."""
    before = drawn(proposals(), 120)
    after = drawn(proposals(first=[OWN], known=[(values, [0.5]) for values in before]), 10)
    assert len(after) == 10 and not [values for values in after if values in before]


def test_names_say_the_values():
    assert trial_name(OWN, RECIPE, AXES) == "trial-recipe"
    assert trial_name({"objective.consistency_weight": 5}, RECIPE, AXES) == trial_name({"objective.consistency_weight": 5.0}, RECIPE, AXES)
    names = {trial_name(values, RECIPE, AXES) for values in drawn(proposals(), 20)}
    assert len(names) == 20 and all(name == "trial-recipe" or len(name) == len("trial-") + 8 for name in names)


def test_a_space_that_is_used_up_ends_the_search():
    base = parse_recipe(RECIPE.model_dump(mode="json") | {"search": {"objective.alignment": {"choice": ["string", "frames"]}}})
    searcher = Proposals(base, space_of(base), "random", ["word_accuracy"], [own_values(base, space_of(base))])
    assert [searcher.suggest(str(number))["values"]["objective.alignment"] for number in range(2)] == ["string", "frames"]
    assert searcher.suggest("2") == Searcher.FINISHED


def test_a_grid_ends_when_all_of_it_was_tried():
    searcher = proposals("grid", [OWN, *grid(RECIPE, AXES)])
    found = drawn(searcher, 6)  # the recipe itself is one of the six
    assert OWN in found and len({str(values) for values in found}) == 6 and searcher.suggest("more") == Searcher.FINISHED


def test_tpe_learns_where_it_reads_more():
    def reached(values):
        return 1 - abs(values["objective.confidence_threshold"] - 0.8)
    late = drawn(proposals("tpe"), 60, reached)[-20:]
    blind = drawn(proposals("random"), 60, reached)[-20:]
    assert sum(map(reached, late)) / 20 > sum(map(reached, blind)) / 20 + 0.1


def test_tpe_learns_from_the_trials_of_an_earlier_command():
    known = [({"objective.confidence_threshold": round(0.01 * number, 4), "objective.alignment": "string"}, [1 - abs(0.01 * number - 0.8)]) for number in range(1, 100)]
    found = drawn(proposals("tpe", known=known), 10)[1:]
    assert sum(abs(values["objective.confidence_threshold"] - 0.8) < 0.15 for values in found) >= 7


@pytest.mark.parametrize("result", [None, {}, {"loss": 1.0}])
def test_a_trial_that_fails_or_never_reads_teaches_nothing(result):
    searcher = proposals("tpe")
    for number in range(3):
        searcher.suggest(str(number))
        searcher.on_trial_complete(str(number), result, error=result is None)
    assert "values" in searcher.suggest("3")


def test_two_goals_at_once():
    searcher = Proposals(RECIPE, AXES, "tpe", ["word_accuracy", "images_per_second"], [OWN])
    for number in range(15):
        values = searcher.suggest(str(number))["values"]
        searcher.on_trial_complete(str(number), {"word_accuracy": values["objective.confidence_threshold"], "images_per_second": 10.0})
    assert "values" in searcher.suggest("15")
