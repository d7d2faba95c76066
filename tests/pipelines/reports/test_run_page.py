"""The page of a run: whole, escaped, with a curve for every number, readable in light and in dark."""

import base64
import re

import cv2
import numpy as np
import pytest
from test_html import Nesting

from pipelines.evaluation.pseudo_labels import Example, Examples
from pipelines.reports.curves import Curve, Point, number, thinned
from pipelines.reports.run import as_page, curves_of

PICTURE = base64.b64encode(cv2.imencode(".png", np.full((32, 100, 3), 90, np.uint8))[1].tobytes()).decode()


def test_a_run_is_shown_with_its_numbers_concerns_and_pseudo_labels():
    lines = [{"step": 20 * number, "time": 1e9, "loss": 3.0 / number, "kept_fraction": 0.1 * number, "some_new_number": 7} for number in range(1, 6)]
    lines.append({"step": 100, "time": 1e9, "unlabeled_strong_agreement": 0.25, "unlabeled_images": 256})
    examples = Examples(100, 256, 31, [Example("wrong", "a/<1>", "w<rd", 0.75, "word", PICTURE), Example("kept", "a/2", "two", 0.5, None, PICTURE)])
    page = as_page("t<y", "ccr on crnn_tiny", 400, lines, ["nothing is kept, <really>"], examples)
    nesting = Nesting()
    nesting.feed(page)
    assert nesting.open == [] and "http" not in page and "<really>" not in page and "w<rd" not in page
    assert "ccr on crnn_tiny. Step 100 of 400, 2001-09-09 01:46 UTC." in page
    assert re.findall(r"<h[23].*?>(.*?)</h", page) == ["How well it reads", "Pseudo-labels", "Losses", "Further numbers", "Examples of pseudo-labels",
                                                       "Kept and wrong", "Kept"]
    assert re.findall(r"<b>(.*?)</b> ([\d.]+)", page) == [("strong agreement", "0.25"), ("kept fraction", "0.5"), ("loss", "0.6"),
                                                         ("some new number", "7")]
    assert page.count("<svg") == 4 and page.count("data:image/jpeg") == 2
    assert "Of 256 unlabeled images at step 100, 31 kept." in page
    assert '<dt>read</dt><dd class="wrong">w&lt;rd</dd><dt>label</dt><dd>word</dd><dt>score</dt><dd>0.750</dd>' in page


def test_a_run_that_has_logged_nothing_has_a_page():
    assert "Step 0 of 10. This page" in as_page("r", "supervised on crnn", 10, [])


def test_the_page_of_a_run_that_has_taken_its_last_step_promises_no_newer_numbers():
    page = as_page("r", "supervised on crnn", 10, [{"step": 10, "time": 1e9, "loss": 1.0}])
    assert "Step 10 of 10, 2001-09-09 01:46 UTC.</p>" in page and "reload" not in page


def test_a_run_says_what_it_was_made_from():
    page = as_page("r", "supervised on crnn", 10, [], facts=[("labeled", "corpora/<a>, 64 images a step"), ("seed", "3")], recipe="name: r\n")
    assert "<dt>labeled</dt><dd>corpora/&lt;a&gt;, 64 images a step</dd><dt>seed</dt><dd>3</dd>" in page and "<h2>Recipe</h2>\n<pre>name: r\n</pre>" in page


def test_a_step_that_was_trained_again_counts_once_and_what_is_not_finite_not_at_all():
    lines = [{"step": 1, "time": 0.0, "loss": 3.0}, {"step": 2, "time": 1.0, "loss": 2.0}, {"step": 2, "time": 2.0, "loss": 1.0, "cer": 0.5},
             {"step": 3, "time": 3.0, "loss": float("nan")}]
    assert curves_of(lines) == {"loss": [(1, 3.0), (2, 1.0)]}


def places(points: list[Point]) -> list[tuple[float, float]]:
    return Curve.of(points, "loss").places


def test_a_curve_reaches_from_the_first_step_to_the_last_and_from_zero_to_the_greatest_value():
    left, right = Curve.LEFT, Curve.WIDTH - Curve.RIGHT
    drawn = places([(10, 0.0), (20, 4.0), (30, 2.0)])
    assert [x for x, _ in drawn] == [left, (left + right) / 2, right]
    assert drawn[1][1] < drawn[2][1] < drawn[0][1]  # up is less in SVG
    assert drawn[2][1] == pytest.approx((drawn[0][1] + drawn[1][1]) / 2)
    assert drawn[1][1] == places([(5, 2.0)])[0][1] == Curve.TOP and drawn[0][1] == places([(5, 0.0)])[0][1] == Curve.BASE
    assert places([(1, -3.0), (2, -1.0)])[0][1] == Curve.BASE and Curve.of([(5, 0.2)], "share", share=True).ticks[-1][1] == "1"


def test_long_curves_are_thinned_to_means_and_keep_their_end():
    points = [(float(step), step % 2.0) for step in range(10_001)]
    short = thinned(points, 101)
    assert len(short) == 101 and short[-1] == points[-1] and short[0] == (49.5, 0.5)
    assert thinned(points[:101], 101) == points[:101]
    assert [number(value) for value in (0.01234, 12.3456, 1234567.0, 0.000234, 0.0)] == ["0.0123", "12.3", "1,234,567", "2.3e-04", "0"]
