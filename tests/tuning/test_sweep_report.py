"""The sweep's page: every trial, in the order of their rank, from numbers that are given."""

import re

import pytest

from pipelines.training.recipe import parse_recipe
from tuning.report import importance, write_report
from tuning.space import space_of
from tuning.trials import TrialResult, metric_of

RECIPE = parse_recipe({"name": "search", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "ccr"},
                       "data": {"labeled": {"corpus": "s", "batch_size": 8}, "unlabeled": {"corpus": "u", "batch_size": 8},
                                "validation": {"corpus": "v", "words": 50}}, "training": {"steps": 10}})
AXES = space_of(RECIPE)


def trial(number: int, accuracy: float | None, **fields) -> TrialResult:
    values = {"confidence_threshold": 0.1 * number, "ema_decay": 0.99, "consistency_weight": 6.0 - number}
    return TrialResult(f"trial-{number}", values, [] if accuracy is None else [(5, accuracy / 2), (10, accuracy)], **fields)


def test_the_page_shows_every_trial_and_the_best_recipe(tmp_path):
    trials = [trial(3, 0.61, model="m"), trial(1, 0.4, stopped=True), trial(2, None, error="lost <worker>")]
    page = write_report(tmp_path / "report.html", RECIPE, AXES, trials).read_text(encoding="utf-8")
    rows = re.findall(r'<tr><td class="number">\d</td><td>(trial-\d)</td>.*?<td class="number">([\d.%]*)</td><td>(.*?)</td></tr>', page)
    assert rows == [("trial-3", "61.00%", "finished"), ("trial-1", "40.00%", "stopped early"), ("trial-2", "", "failed: lost &lt;worker&gt;")]
    assert "Best: trial-3 with 61.00%" in page
    assert page.count("<svg") == 2
    assert "name: search_best" in page and "confidence_threshold: 0.3" in page


def test_without_validation_words_the_page_says_what_decided(tmp_path):
    without = parse_recipe(RECIPE.model_dump(mode="json") | {"data": RECIPE.model_dump(mode="json")["data"] | {"validation": None}})
    assert (metric_of(RECIPE), metric_of(without)) == ("word_accuracy", "unlabeled_strong_similarity")
    page = write_report(tmp_path / "report.html", without, AXES, [trial(3, 0.61, model="m"), trial(1, 0.4)]).read_text(encoding="utf-8")
    assert ("there are no validation words, so unlabeled strong similarity decides, which needs no labels and is no accuracy. Best: trial-3 with "
            "61.00%" in page)
    assert '<th class="number">unlabeled strong similarity</th>' in page and "word accuracy" not in page.lower()


def test_importance_is_a_rank_correlation_and_needs_enough_trials():
    trials = [trial(number, 0.1 * number) for number in range(1, 6)]
    assert importance(AXES, trials) == {"confidence_threshold": pytest.approx(1), "ema_decay": None, "consistency_weight": pytest.approx(-1)}
    assert set(importance(AXES, trials[:4]).values()) == {None}
