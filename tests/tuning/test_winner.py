"""How the winner is judged: against the recipe itself, with seeds that had no part in the choice."""

from types import SimpleNamespace

import pytest
from scipy.stats import ttest_rel

from pipelines.errors import BadInput
from pipelines.training.recipe import parse_recipe
from tuning.plan import Plan
from tuning.space import own_values, space_of
from tuning.trials import TrialResult
from tuning.winner import Judged, judge

RECIPE = parse_recipe({"name": "search", "seed": 5, "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "ccr"},
                       "data": {part: {"corpus": "s", "batch_size": 8} for part in ("labeled", "unlabeled")}, "training": {"steps": 10}})
AXES = space_of(RECIPE)
BEST = TrialResult("trial-1", {**own_values(RECIPE, AXES), "objective.ema_decay": 0.99}, [(10, 0.5)], model="m")


def test_the_best_trial_and_the_recipe_itself_are_trained_with_the_same_further_seeds():
    asked = []

    def again(configs):
        asked.extend(configs)
        return [TrialResult(config["name"], config["values"], [(10, 0.1 * config["seed"] + (config["name"].startswith("trial-1")) * 0.05)], model="m") for config in configs]

    judged = judge(RECIPE, AXES, [BEST], Plan(seeds=2), again)
    assert [(config["name"], config["seed"]) for config in asked] == [("trial-1-seed-6", 6), ("trial-recipe-seed-6", 6), ("trial-1-seed-7", 7), ("trial-recipe-seed-7", 7)]
    assert asked[0]["values"] == BEST.values and asked[1]["values"] == own_values(RECIPE, AXES)
    assert judged.differences == pytest.approx([0.05, 0.05])


def test_the_recipe_itself_is_not_trained_against_itself():
    own = TrialResult("trial-recipe", own_values(RECIPE, AXES), [(10, 0.5)], model="m")
    judged = judge(RECIPE, AXES, [own], Plan(seeds=2), lambda configs: pytest.fail("nothing is to be trained"))
    assert judged.verdict(own) == "No trial read more than the recipe itself."


def test_the_interval_is_that_of_a_paired_t_test():
    judged = Judged(best=[0.52, 0.55, 0.51], own=[0.50, 0.49, 0.47], words=300)
    expected = ttest_rel(judged.best, judged.own).confidence_interval(0.95)
    assert judged.interval == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("best", "own", "sentence"), [
    ([], [], "was not tried with further seeds (--seeds 3), so it may be luck."),
    ([0.5], [0.4], "The best trial and the recipe itself differ by +10.00 points with one further seed: two or more tell more."),
    ([0.50, 0.51, 0.52], [0.40, 0.41, 0.42], "The best trial is better than the recipe itself: +10.00 points over 3 further seeds (95 % interval +10.00 to +10.00)."),
    ([0.50, 0.40], [0.40, 0.50], "The best trial and the recipe itself are not told apart: +0.00 points over 2 further seeds (95 % interval -127.06 to +127.06)."),
    ([0.30, 0.31, 0.32], [0.40, 0.41, 0.42], "The best trial is worse than the recipe itself: -10.00 points"),
])
def test_the_verdict(best, own, sentence):
    assert sentence in Judged(best=best, own=own).verdict(BEST)


def test_differences_that_are_equal_by_chance_prove_nothing():
    """One word of 300 more with each of two seeds: their spread is none, and yet two words are two words."""
    judged = Judged(best=[0.5, 0.4], own=[0.5 - 1 / 300, 0.4 - 1 / 300], words=300)
    assert "are not told apart: +0.33 points over 2 further seeds (95 % interval -2.66 to +3.33)" in judged.verdict(BEST)


def test_a_run_that_was_cut_short_does_not_count():
    def again(configs):
        return [TrialResult(config["name"], config["values"], [(5, 0.1)], model="" if config["name"] == "trial-1-seed-6" else "m") for config in configs]
    assert judge(RECIPE, AXES, [BEST], Plan(seeds=2), again).differences == [0.0]


def test_the_test_sets_of_the_same_winner_are_not_read_again(monkeypatch):
    known = Judged(winner="trial-1", tests={"SVT": {"words": 2, "correct": 1, "accuracy": 0.5, "interval_95": [0.1, 0.9]}})
    monkeypatch.setattr("tuning.winner.read_tests", lambda tests: [SimpleNamespace(name="SVT")] if tests else [])
    monkeypatch.setattr("tuning.winner.Measured", lambda *_: pytest.fail("it was read already"))
    assert judge(RECIPE, AXES, [BEST], Plan(tests=("SVT=x",)), list, known).tests == known.tests


@pytest.mark.parametrize(("plan", "message"), [
    ({"trials": 0}, "expected --trials of at least 1, found 0"), ({"concurrency": 0}, "expected --concurrency of at least 1"), ({"seeds": -1}, "expected --seeds of at least 0"),
    ({"gpus_per_trial": 1.5}, "--gpus-per-trial: expected a part of a GPU, below 1, or whole ones, found 1.5"), ({"gpus_per_trial": -1.0}, "found -1"), ({"disk": 0.0}, "--disk: expected more than 0 GB"),
    ({"speed": True}, "--speed: expected --searcher tpe, which can look for two things at once, found random"),
])
def test_plans_that_cannot_be(plan, message):
    with pytest.raises(BadInput, match=message):
        Plan(**plan)
