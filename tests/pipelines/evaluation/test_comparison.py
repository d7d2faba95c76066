"""Whether two recognizers are told apart: McNemar's exact test, and the interval of a difference of paired words."""

import math
from fractions import Fraction

import numpy as np
import pytest

from pipelines.evaluation.comparison import Paired, differences, mcnemar
from pipelines.evaluation.metrics import Word


def word(key: str, right: bool, confidence: float = 0.5) -> Word:
    return Word(key, "yes", "yes" if right else "no", confidence, "yes", "yes" if right else "no")


@pytest.mark.parametrize("one, other", [(0, 0), (1, 0), (0, 5), (3, 9), (10, 10), (7, 40), (300, 380)])
def test_the_chance_is_mcnemars_exact_one(one, other):
    total = one + other
    tail = sum(Fraction(math.comb(total, number), 2**total) for number in range(min(one, other) + 1))
    assert mcnemar(one, other) == mcnemar(other, one) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-9)


def test_a_lead_of_two_words_in_three_hundred_tells_nothing_apart():
    found = Paired(both=190, only_first=10, only_second=12, neither=88)
    assert found.words == 300 and found.accuracies == (200 / 300, 202 / 300) and found.difference == 2 / 300
    assert found.chance == pytest.approx(0.8318, abs=1e-4) and not found.told_apart
    assert found.interval[0] < 0 < found.interval[1]


def test_words_that_only_one_reads_tell_apart():
    found = Paired(both=190, only_first=5, only_second=25, neither=80)
    assert found.told_apart and found.interval[0] > 0


def test_the_interval_is_agresti_and_mins():
    """With b = 0 and c = 0 of 98 words: half a word each of 100, so that the difference is 0 and its variance 1 / 100 of one word's."""
    assert Paired(both=98).interval == pytest.approx((-1.959964 / 100, 1.959964 / 100))
    low, high = Paired(both=40, only_first=3, only_second=9, neither=48).interval
    assert (low + high) / 2 == pytest.approx(6 / 102)
    assert (high - low) / 2 == pytest.approx(1.959964 / 102 * math.sqrt(13 - 36 / 102))


@pytest.mark.parametrize("lost, won", [(0.02, 0.02), (0.05, 0.12), (0.2, 0.25)])
def test_the_interval_holds_the_true_difference_in_about_95_of_100_samples(lost, won):
    samples = np.random.default_rng(0).multinomial(300, [0.5, lost, won, 0.5 - lost - won], 4000)
    held = [low <= won - lost <= high for low, high in (Paired(*map(int, sample)).interval for sample in samples)]
    assert 0.94 < np.mean(held) < 0.98


def test_pairs_are_counted_and_add_up():
    first = [word("a", True), word("b", True), word("c", False), word("d", False)]
    second = [word("a", True), word("b", False), word("c", True), word("d", False)]
    assert Paired.of(first, second) == Paired(1, 1, 1, 1)
    assert Paired(1, 1, 1, 1) + Paired(2, 0, 3, 0) == Paired(3, 1, 4, 1)
    with pytest.raises(ValueError, match="zip"):
        Paired.of(first, second[:3])


def test_the_surest_mistakes_are_shown():
    first = [word("a", False, 0.2), word("b", False, 0.9), word("c", True), word("d", False, 0.5)]
    second = [word("a", True), word("b", True), word("c", False, 0.7), word("d", True)]
    lost, won = differences(first, second, most=2)
    assert [each.position for each in lost] == [2] and [each.position for each in won] == [1, 3]
