"""Which trials end early, and the sentence that says why."""

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from pipelines.training.recipe import parse_recipe
from tuning.schedulers import Halving, Median, Never, scheduler_of
from tuning.trials import TrialResult


def recipe(steps: int, every: int):
    return parse_recipe({"name": "s", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"},
                         "data": {"labeled": {"corpus": "s", "batch_size": 8}, "validation": {"corpus": "v"}}, "training": {"steps": steps, "validate_every": every}})


class Trial:
    """As far as a scheduler looks at it."""

    def __init__(self, name: str):
        self.trial_id, self.config = name, {}


def reports(scheduler, name: str, *points: tuple[int, float]) -> str | None:
    """What becomes of a trial that reports these (step, word accuracy) pairs: the step at which it is ended, if it is."""
    trial = Trial(name)
    scheduler.on_trial_add(None, trial)
    for step, reached in points:
        if scheduler.on_trial_result(SimpleNamespace(get_trials=list, get_live_trials=set), trial, {"step": step, "word_accuracy": reached}) == TrialScheduler.STOP:
            return step
    scheduler.on_trial_complete(None, trial, {"step": points[-1][0], "word_accuracy": points[-1][1]})
    return None


def test_the_worse_half_ends_at_steps_that_double_and_the_sentence_says_against_what():
    asha = scheduler_of("asha", recipe(80, 10), "word_accuracy", [])
    assert isinstance(asha, Halving)
    assert reports(asha, "one", (10, 0.3), (20, 0.4), (40, 0.5), (80, 0.6)) is None
    assert reports(asha, "two", (10, 0.5), (20, 0.3)) == 20
    assert reports(asha, "three", (10, 0.2)) == 10
    assert asha.why == {"two": "by ASHA at step 20: word accuracy 30.00 %, where the better half of 1 trials had 40.00 % or more",
                        "three": "by ASHA at step 10: word accuracy 20.00 %, where the better half of 2 trials had 40.00 % or more"}


def test_a_trial_at_its_last_step_is_never_ended():
    asha = scheduler_of("asha", recipe(40, 10), "word_accuracy", [])
    assert reports(asha, "one", (10, 0.3), (20, 0.4), (40, 0.9)) is None
    assert reports(asha, "two", (10, 0.3), (20, 0.4), (40, 0.1)) is None


def test_a_trial_that_goes_on_and_reports_only_its_last_step_is_not_ended_either():
    asha = scheduler_of("asha", recipe(40, 10), "word_accuracy", [TrialResult("trial-a", {}, [(10, 0.9), (20, 0.9), (40, 0.9)])])
    assert reports(asha, "resumed", (40, 0.1)) is None


def test_the_median_rule_pauses_nobody():
    median = scheduler_of("median", recipe(80, 10), "word_accuracy", [])
    others = [SimpleNamespace(status=status) for status in ("PENDING", "PAUSED")]
    trial = Trial("one")
    median.on_trial_add(None, trial)
    controller = SimpleNamespace(get_trials=lambda: others, get_live_trials=lambda: set(others))
    assert median.on_trial_result(controller, trial, {"step": 10, "word_accuracy": 0.1}) == TrialScheduler.CONTINUE


def test_a_report_before_the_first_validation_ends_nothing():
    for scheduler in (scheduler_of("asha", recipe(40, 10), "word_accuracy", []), scheduler_of("median", recipe(40, 10), "word_accuracy", [])):
        trial = Trial("one")
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {"step": 4}) == TrialScheduler.CONTINUE


def test_trials_of_an_earlier_command_count():
    earlier = [TrialResult("trial-a", {}, [(10, 0.8), (20, 0.9)]), TrialResult("trial-b", {}, [(10, 0.7)], stopped="by ASHA")]
    asha = scheduler_of("asha", recipe(80, 10), "word_accuracy", earlier)
    assert reports(asha, "one", (10, 0.6)) == 10 and reports(asha, "two", (10, 0.85), (20, 0.95), (40, 0.96)) is None


def test_the_median_rule_ends_what_lies_below_the_others():
    median = scheduler_of("median", recipe(80, 10), "word_accuracy", [])
    assert isinstance(median, Median)
    for name, reached in (("one", 0.5), ("two", 0.6), ("three", 0.7)):
        assert reports(median, name, (10, reached), (20, reached), (80, reached)) is None
    assert reports(median, "four", (10, 0.3), (20, 0.3)) in (10, 20)
    assert "by the median rule at step" in median.why["four"] and "30.00 %" in median.why["four"]
    assert reports(median, "five", (80, 0.1)) is None  # its model is written at that step


@pytest.mark.parametrize("name, steps, every", [("none", 80, 10), ("asha", 10, 10), ("median", 10, 20)])
def test_where_the_only_validation_is_the_last_nothing_ends_early(name, steps, every):
    assert isinstance(scheduler_of(name, recipe(steps, every), "word_accuracy", []), Never)
