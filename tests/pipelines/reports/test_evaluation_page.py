"""The page of an evaluation: what it says of the numbers, its drawings, and every mistake with what differs in it."""

import re
from types import SimpleNamespace

import cv2
import numpy as np
from test_html import Nesting

from pipelines.evaluation.errors import coverage
from pipelines.evaluation.measure import Evaluation, Mistake, Result
from pipelines.evaluation.metrics import Word
from pipelines.reports.charts import Intervals, Square, thinned
from pipelines.reports.evaluation import Beside, as_page, facts_of, threshold

IMAGE = cv2.imencode(".png", np.full((20, 60, 3), 90, np.uint8))[1].tobytes()


def word(key: str, label: str, read: str, confidence: float, problem: str | None = None) -> Word:
    return Word(key, label, read, confidence, label, read, problem)


def result(name: str, words: list[Word]) -> Result:
    evaluation = Evaluation(words, [Mistake(each, IMAGE) for each in words if not each.correct and not each.problem], seconds=1.0)
    return Result(SimpleNamespace(name=name, path=f"data/{name}", rows=len(words)), evaluation, "36", [])


WORDS = [*(word(f"k/{number}", "word", "word", 0.9) for number in range(8)), word("k/8", "boot", "b0t", 0.7), word("k/9", "<x>", "", 0.2),
         word("k/10", "gone", "", 0.0, "empty image")]


def page(results: list[Result], **more) -> str:
    made = as_page("m<1>", results, **more)
    nesting = Nesting()
    nesting.feed(made)
    assert nesting.open == [] and "http" not in made and "<x>" not in made and "m<1>" not in made
    return made


def test_the_head_says_how_much_is_read_and_what_it_comes_from():
    made = page([result("SVT", WORDS)], about=[("device", "CPU, float32")])
    assert "<b>72.7 %</b> of 11 words are read right (95 % interval: 43.4 to 90.3 %). 73 % can be read without a person at 99 %: those with a confidence of 0.900 and more." in made
    assert "<dt>model</dt><dd>m&lt;1&gt;</dd><dt>device</dt><dd>CPU, float32</dd><dt>data</dt><dd>SVT: data/SVT</dd><dt>compared by</dt><dd>36 for SVT</dd>" in made


def test_every_mistake_stands_there_with_what_differs():
    made = page([result("SVT", WORDS)])
    assert "All 3." not in made and "2 of 3; all are in predictions.jsonl beside this page." in made  # one has no image, and stands in a table
    cards = re.findall(r'data-set="SVT" data-kind="(.*?)" data-confidence="(.*?)" data-other="" data-text="(.*?)">', made)
    assert cards == [("several wrong", "0.700", "boot b0t k/8"), ("nothing read", "0.200", "&lt;x&gt;  k/9")]
    assert '<td>b</td><td class="off">o</td><td class="off">o</td><td>t</td></tr><tr><th scope="row">read</th><td>b</td><td class="off">0</td><td class="off">·</td><td>t</td>' \
        in made or '<td>b</td><td class="off">o</td><td class="off">o</td><td>t</td></tr><tr><th scope="row">read</th><td>b</td><td class="off">·</td><td class="off">0</td>' in made
    assert '<th scope="row">read</th><td class="quiet">(nothing)</td>' in made and 'alt="image of the word &lt;x&gt;"' in made
    assert "SVT: images that cannot be decoded <small>1</small>" in made and "<td>k/10</td><td>gone</td><td>empty image</td>" in made
    assert "1 of 3; all are in predictions.jsonl" in page([result("SVT", WORDS)], shown=1)


def test_a_word_that_is_written_otherwise_than_it_is_compared_is_shown_both_ways():
    made = page([result("SVT", [Word("k", "Caf\u00e9-3", "CAT", 0.5, "caf3", "cat")])])
    assert '<dt>label</dt><dd><bdi class="label">Caf\u00e9-3</bdi></dd><dt>read</dt><dd class="wrong"><bdi class="label">CAT</bdi></dd>' in made
    assert "<dt>label</dt>" not in page([result("SVT", WORDS)])


def test_mistakes_can_be_filtered_and_are_all_there_without_scripts():
    made = page([result("SVT", WORDS), result("own", WORDS)])
    assert re.findall(r"<option>(.*?)</option>", made) == ["SVT", "own", "nothing read", "several wrong"]
    assert made.count('class="picture"') == 4 and '<form class="filters" hidden>' in made and made.count("<script>") == 1
    assert 'name="set"' not in page([result("SVT", WORDS)])


def test_confusions_lengths_kinds_and_coverage_are_shown():
    made = page([result("SVT", WORDS)])
    assert "the 5 most frequent of 5" in made
    for about in ("3 and 4: 8 of 11", "small letters: 34 of 41", "8 words: confidence 90.0 %, right 100.0 %"):
        assert about in made, about
    assert '<td class="number">99 %</td><td class="number">72.7 %</td><td class="number">8</td><td class="number">0.900</td><td class="number">100.00 %</td>' in made
    assert made.count("<svg") == 5 and all(f'id="{name}"' in made for name in ("accuracy", "confidence", "where", "mistakes", "definitions"))


def test_a_threshold_takes_the_words_that_it_is_said_to_take():
    """Models are sure: 0.99962 must not be shown as 1.000, at which nothing is read."""
    curve = coverage([word("a", "a", "a", 0.99962), word("b", "b", "b", 0.99961), word("c", "c", "x", 0.4)])
    assert [threshold(curve, each) for each in curve] == ["0.99962", "0.999", "0.400"]


def test_a_model_without_a_mistake_has_a_page():
    made = page([result("SVT", WORDS[:8])])
    assert "<p>There are none.</p>" in made and "<form" not in made and "Confusions" not in made


def test_where_nothing_can_be_left_alone_nothing_is_promised():
    made = page([result("SVT", [word("k", "a", "b", 0.9), word("l", "c", "c", 0.1)])])
    assert "without a person at" not in made and '<td class="number">99 %</td><td class="number">none</td><td class="number">0</td>' in made


def test_another_model_stands_beside_it():
    """Its accuracies, the paired test, and what it reads where this one is wrong."""
    other = [*(word(f"k/{number}", "word", "ward", 0.4) for number in range(8)), word("k/8", "boot", "boot", 0.6), word("k/9", "<x>", "<y>", 0.3), word("k/10", "gone", "", 0.0, "empty image")]
    made = page([result("SVT", WORDS)], beside=Beside("other<2>", [result("SVT", other)]))
    assert "<dt>beside it</dt><dd>other&lt;2&gt;</dd>" in made and "this model above, other&lt;2&gt; below it." in made
    assert '<td>SVT</td><td class="number">11</td><td class="number">9.09</td><td class="number">72.73</td><td class="number">+63.64</td>' in made
    assert re.findall(r'data-other="(\w+)" data-text="(\S+)', made) == [("right", "boot"), ("wrong", "&lt;x&gt;")]
    assert '<dt>beside it</dt><dd class="good"><bdi class="label">boot</bdi> 0.600</dd>' in made and '<dd class="wrong"><bdi class="label">&lt;y&gt;</bdi> 0.300</dd>' in made
    assert '<select name="other">' in made and '<select name="other">' not in page([result("SVT", WORDS)])


def test_a_dot_lies_where_its_accuracy_is():
    drawn = Intervals.of("a", [("one", [(0.5, (0.25, 1.0), "half"), (0.0, (0.0, 0.1), "none")]), ("a name that is longer than its room", [(1.0, (1.0, 1.0), "all")])])
    assert [dot.x for line in drawn.lines for dot in line.dots] == [306.0, 168.0, 444.0] and drawn.lines[0].dots[0].low == 237.0
    assert drawn.lines[0].dots[0].y < drawn.lines[0].middle < drawn.lines[0].dots[1].y and drawn.lines[1].name == "a name that is longer t…"
    assert drawn.ticks[0] == (168.0, "0") and drawn.ticks[-1] == (444.0, "100") and drawn.height == 68


def test_a_square_has_its_origin_below_on_the_left():
    drawn = Square.of("a", "across", "up", line=[(0.0, 0.0), (1.0, 1.0)], dots=[(0.5, 0.5, 1.0, "all")])
    assert drawn.line == [(46.0, 214.0), (322.0, 8.0)] and drawn.dots[0][:3] == (184.0, 111.0, 7.0)
    assert thinned([(float(number), 0.0) for number in range(1000)], 5) == [(0.0, 0.0), (250.0, 0.0), (500.0, 0.0), (749.0, 0.0), (999.0, 0.0)]


def test_a_description_becomes_facts():
    assert facts_of({"name": "crnn", "charset": "ab", "run": "r", "objective": "ccr", "step": 1500, "temperature": 1.25, "weights_sha256": "0123456789abcdef99"}) == [
        ("recognizer", "crnn"), ("charset", "2 characters: ab"), ("run", "r"), ("trained by", "ccr"), ("step", "1,500"), ("temperature", "1.25"), ("weights", "sha256 0123456789abcdef…")]
