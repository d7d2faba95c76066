"""The sweep's page and its Markdown: from numbers that are given."""

import re
from pathlib import Path

import pytest

from pipelines.training.recipe import parse_recipe
from tuning.drawings import Curves, Parallel, part_of
from tuning.plan import Plan
from tuning.report import along, importance, write_reports
from tuning.space import space_of
from tuning.trials import TrialResult, metric_of
from tuning.winner import Judged

RECIPE = parse_recipe({"name": "search", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "ccr"},
                       "data": {"labeled": {"corpus": "s", "batch_size": 8}, "unlabeled": {"corpus": "u", "batch_size": 8},
                                "validation": {"corpus": "v", "words": 50}}, "training": {"steps": 10},
                       "search": {"objective.confidence_threshold": {"uniform": [0.0, 1.0]}, "objective.alignment": {"choice": ["string", "frames"]},
                                  "objective.sharpening_temperature": {"loguniform": [0.1, 1.0], "when": {"objective.alignment": "frames"}}}})
AXES = space_of(RECIPE)


def trial(number: int, accuracy: float | None, alignment: str = "string", **fields) -> TrialResult:
    values = {"objective.confidence_threshold": round(0.1 * number, 2), "objective.alignment": alignment} | ({"objective.sharpening_temperature": 0.5} if alignment == "frames" else {})
    return TrialResult(f"trial-{number}", values, [] if accuracy is None else [(5, accuracy / 2), (10, accuracy)],
                       **{"model": "m" if not fields else "", "words": 50, "seconds": 60.0, "images_per_second": 100.0 * number, **fields})


OWN = TrialResult("trial-recipe", {"objective.confidence_threshold": 0.5, "objective.alignment": "string"}, [(5, 0.2), (10, 0.5)], model="m", words=50, seconds=60.0,
                  images_per_second=90.0)
TRIALS = [trial(3, 0.62, model="m"), OWN, trial(1, 0.4, "frames", stopped="by ASHA at step 5: word accuracy 20.00 %, where the better half of 2 trials had 30.00 % or more"),
          trial(2, None, error="lost <worker>")]


def written(folder: Path, trials=TRIALS, judged: Judged | None = None, recipe=RECIPE, **plan) -> tuple[str, str]:
    page, text = write_reports(folder, recipe, AXES, trials, judged or Judged(), Plan(**plan))
    return page.read_text(encoding="utf-8"), text.read_text(encoding="utf-8")


def test_both_say_what_was_asked_and_what_came_of_it(tmp_path):
    for shown in written(tmp_path, trials_of := TRIALS, searcher="tpe", concurrency=2):
        assert ("Which confidence threshold, alignment and sharpening temperature of ccr on crnn_tiny give the most word accuracy? 4 trials, drawn by TPE (Optuna); "
                "ASHA ends the worse half early.") in shown
        assert "On 50 validation words of v, on which the trials were chosen." in shown
        assert "trial-3: word accuracy 62.00 % (48.2 to 74.1); the recipe itself: 50.00 % (36.6 to 63.4)." in shown
        assert "was not tried with further seeds (--seeds 3), so it may be luck." in shown
        assert "by ASHA at step 5: word accuracy 20.00 %, where the better half of 2 trials had 30.00 % or more" in shown
        assert "name: search_best" in shown and "confidence_threshold: 0.3" in shown and "search:" not in shown
        assert "00:04:00 of training in all, 00:01:00 a trial; 2 at once." in shown
    assert len(trials_of) == 4


def test_a_recipe_that_was_ended_early_is_not_set_beside_the_winner_as_if_it_was_not(tmp_path):
    early = TrialResult("trial-recipe", OWN.values, [(5, 0.2)], words=50, stopped="by ASHA at step 5")
    assert "the recipe itself: 20.00 % (11.2 to 33.0), ended early at step 5." in written(tmp_path, [TRIALS[0], early])[1]
    assert "| interrupted |" in written(tmp_path, [TRIALS[0], TrialResult("trial-recipe", OWN.values, [(5, 0.2)], words=50)])[1]


def test_every_trial_has_a_line_and_a_link_to_its_page(tmp_path):
    page, text = written(tmp_path)
    rows = re.findall(r'<td class="number">(\d)</td><td><a href="trials/(trial-\w+)/report.html">.*?</a></td><td class="number">([\d.]*)</td><td>(\w*)</td><td class="number">([\d.]*)</td>'
                      r'<td class="number">(\d+)</td><td class="number">([\d.]*)</td><td class="number">(\d+)</td><td class="number">00:01:00</td><td>(.*?)</td>', page)
    assert rows == [("1", "trial-3", "0.3", "string", "", "10", "62.00", "300", "finished"), ("2", "trial-recipe", "0.5", "string", "", "10", "50.00", "90", "finished"),
                    ("3", "trial-1", "0.1", "frames", "0.5", "10", "40.00", "100", "ended early"), ("4", "trial-2", "0.2", "string", "", "0", "", "200", "failed")]
    assert "lost &lt;worker&gt;" in page and "| trial-2 | lost <worker> |" in text and "| 1 | trial-3 | 0.3 | string |  | 10 | 62.00 | 300 | 00:01:00 | finished |" in text


def test_further_seeds_and_test_sets_are_shown(tmp_path):
    judged = Judged(best=[0.52, 0.54], own=[0.50, 0.50], seconds=30.0, tests={"SVT": {"words": 647, "correct": 324, "accuracy": 324 / 647, "interval_95": [0.4623, 0.5392]}})
    for shown in written(tmp_path, judged=judged):
        assert "The best trial and the recipe itself are not told apart: +3.00 points over 2 further seeds (95 % interval -9.71 to +15.71)." in shown
        assert "00:04:30 of training in all; 00:00:30 of it for further seeds, 00:01:00 a trial." in shown
        for number in ("52.00", "+2.00", "+4.00", "SVT", "647", "50.08", "46.23 to 53.92"):
            assert number in shown, number


def test_the_lines_have_colours_of_their_own_and_a_legend(tmp_path):
    page, _ = written(tmp_path)
    assert page.count("<svg") == 2 and page.count('class="legend"') == 2 and page.count("<polyline") == 6
    assert re.findall(r'class="trial (\w+(?: stopped)?)"', page) == ["middle stopped", "upper", "best"] * 2


def test_without_validation_words_it_is_said_what_decided(tmp_path):
    tree = RECIPE.model_dump(mode="json")
    without = parse_recipe(tree | {"data": tree["data"] | {"validation": None}})
    assert (metric_of(RECIPE), metric_of(without)) == ("word_accuracy", "unlabeled_strong_similarity")
    for shown in written(tmp_path, [trial(3, 0.62, words=None), trial(1, 0.4, words=None)], recipe=without):
        assert "There are no validation words, so unlabeled strong similarity decides, which is no accuracy." in shown
        assert "trial-3: unlabeled strong similarity 62.00 %." in shown and "word accuracy" not in shown.lower()


def test_trials_that_no_other_beats_in_both(tmp_path):
    page, text = written(tmp_path, [trial(3, 0.62, model="m"), trial(5, 0.5, model="m"), trial(1, 0.4, model="m")], searcher="tpe", speed=True)
    assert "| trial-3 | 62.00 | 300 |\n| trial-5 | 50.00 | 500 |\n\n" in text and "Not beaten in both" in page


def test_importance_is_a_rank_correlation_with_an_interval_and_needs_enough_trials():
    threshold, alignment, sharpening = AXES
    trials = [trial(number, 0.1 * number) for number in range(1, 9)]
    found = importance(threshold, trials)
    assert tuple(found) == pytest.approx((1, 1, 1))
    mixed = importance(threshold, [trial(number, reached) for number, reached in enumerate((0.5, 0.1, 0.4, 0.2, 0.6, 0.3, 0.55, 0.15), 1)])
    assert mixed.low < 0 < mixed.high and mixed.low < mixed.value < mixed.high
    assert importance(threshold, trials[:5]) is None and importance(alignment, trials) is None and importance(sharpening, trials) is None


def test_parts_of_an_axis_say_what_their_trials_reached():
    threshold, alignment, sharpening = AXES
    trials = [trial(1, 0.1), trial(2, 0.3), trial(5, 0.4), trial(9, 0.8, "frames"), trial(4, None)]
    assert [(part.name, part.trials, round(part.mean, 3)) for part in along(threshold, trials)] == [("0.1 to 0.2", 2, 0.2), ("0.5 to 0.5", 1, 0.4), ("0.9 to 0.9", 1, 0.8)]
    assert [(part.name, part.trials) for part in along(alignment, trials)] == [("string", 3), ("frames", 1)]
    assert [(part.name, part.trials) for part in along(sharpening, trials)] == [("0.5 to 0.5", 1)]


def test_lines_lie_where_their_values_are():
    drawn = Parallel.of(AXES, TRIALS, "word accuracy")
    assert [name for _, name, _, _ in drawn.columns] == ["confidence threshold", "alignment", "sharpening temperature", "word accuracy"]
    best = drawn.lines[-1]
    assert best.name == "trial-3" and best.points[0] == (60.0, pytest.approx(drawn.BASE - 0.3 * (drawn.BASE - drawn.TOP))) and best.points[-1] == (700.0, drawn.TOP)
    assert len(best.points) == 3 and len(drawn.lines[0].points) == 4  # by frames a temperature is searched, too
    curves = Curves.of(TRIALS)
    assert curves.last == "10" and curves.lines[-1].points[-1] == (curves.RIGHT, curves.TOP) and curves.ticks[-1][1] == "62.0 %"
    assert [part_of(place, 7) for place in range(7)] == ["best", "upper", "upper", "middle", "middle", "lower", "lower"]
