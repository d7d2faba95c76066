"""Edit distance, intervals and the rules of the benchmarks, on examples that can be checked by hand."""

import random

import pytest

from pipelines.evaluation.metrics import BINS, Bin, Score, Word, calibration_error, edit_distance, reliability, similarity, wilson_interval
from pipelines.evaluation.protocols import RULES, compared_36, published, size_note


def by_table(one: str, other: str) -> int:
    """The textbook's dynamic programme."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@pytest.mark.parametrize("one, other, edits", [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("", "", 0),
                                               ("same", "same", 0), ("ab", "ba", 2), ("straße", "strasse", 2)])
def test_edit_distance_of_known_pairs(one, other, edits):
    assert edit_distance(one, other) == edits


def test_edit_distance_equals_the_dynamic_programme_on_random_strings_longer_than_a_machine_word():
    draw = random.Random(0)
    for _ in range(300):
        one, other = ("".join(draw.choices("abc", k=draw.randrange(90))) for _ in range(2))
        assert edit_distance(one, other) == by_table(one, other)


def test_similarity_divides_by_the_longer_string():
    assert similarity("abcd", "abxdef") == pytest.approx(1 - 3 / 6)
    assert similarity("abc", "") == 0.0
    assert similarity("", "") == 1.0


def test_the_wilson_interval_matches_published_values_and_stays_inside_zero_and_one():
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(20, 20)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_a_score_adds_up_over_words():
    words = [Word("1", "Hello!", "hello", 0.9, "hello", "hello"),
             Word("2", "abcd", "abxdef", 0.5, "abcd", "abxdef"),
             Word("3", "xy", "", 0.0, "xy", "", problem="the image cannot be decoded")]
    score = Score.of(words, seconds=1.5)
    assert (score.words, score.correct, score.read) == (3, 1, 2)
    assert score.accuracy == pytest.approx(1 / 3)
    assert score.one_minus_ned == pytest.approx((1 + 0.5 + 0) / 3)
    assert score.cer == pytest.approx((0 + 3 + 2) / (5 + 4 + 2))
    assert score.confidence == pytest.approx(0.7)  # the image that could not be decoded has none
    assert score.images_per_second == pytest.approx(2.0)


def test_the_average_is_weighted_by_words():
    many, few = Score(words=90, correct=45), Score(words=10, correct=10)
    assert (many + few).accuracy == pytest.approx(0.55)


def test_confidences_fall_into_fifteen_bins_of_equal_width():
    bins = reliability([(0.0, False), (1 / 15, True), (0.07, False), (0.5, True), (0.95, True), (1.0, False)])
    assert len(bins) == BINS == 15 and sum(each.words for each in bins) == 6
    assert bins[0] == Bin(2, 1, pytest.approx(1 / 15))  # up to and with 1/15
    assert (bins[1].words, bins[1].accuracy, bins[1].confidence) == (1, 0.0, pytest.approx(0.07))
    assert bins[7] == Bin(1, 1, 0.5)
    assert (bins[14].words, bins[14].accuracy, bins[14].confidence) == (2, 0.5, pytest.approx(0.975))
    assert (bins[3].accuracy, bins[3].confidence) == (0.0, 0.0)


def test_the_calibration_error_weighs_each_bins_gap_by_its_words():
    # Guo et al.: sum over bins of words / n * |accuracy - mean confidence|
    bins = reliability([(0.9, True), (0.9, True), (0.9, False), (0.2, False)])
    assert calibration_error(bins) == pytest.approx(3 / 4 * abs(2 / 3 - 0.9) + 1 / 4 * 0.2)
    assert calibration_error(reliability([])) == 0.0
    assert calibration_error(reliability([(0.5, True), (0.5, False)])) == pytest.approx(0.0)


def test_the_calibration_error_of_a_sum_is_that_of_all_words_and_skips_unreadable_images():
    words = [Word(str(index), "a", "a" if index % 3 else "b", index / 40, "a", "a" if index % 3 else "b") for index in range(40)]
    unreadable = Word("x", "a", "", 0.0, "a", "", problem="the image cannot be decoded")
    whole = Score.of([*words, unreadable])
    parts = Score.of(words[:13]) + Score.of([*words[13:], unreadable])
    assert parts.calibration_error == pytest.approx(whole.calibration_error)
    assert whole.calibration_error == pytest.approx(calibration_error(reliability((word.confidence, word.correct) for word in words)))
    numbers = whole.as_dict()
    assert numbers["ece"] == whole.calibration_error
    assert sum(row["words"] for row in numbers["reliability"]) == 40 and numbers["reliability"][-1]["up_to"] == 1.0


def test_an_unreadable_image_is_wrong_even_where_nothing_is_left_to_compare():
    word = Word("1", "!!!", "", 0.0, "", "", problem="the image cannot be decoded")
    assert not word.correct and word.similarity == 0.0


def test_the_rules():
    assert compared_36("Caffè-Bar 24h!") == "caffbar24h"
    assert RULES["62"]("Caffè-Bar 24h!") == "CaffBar24h"
    assert RULES["94"]("Caffè-Bar 24h!") == "Caff-Bar24h!"
    assert RULES["exact"]("Caffe\u0300 x") == "Caff\u00e8 x"


@pytest.mark.parametrize("name, words, note", [
    ("IIIT5K", 3000, None),
    ("IIIT5K", 2999, "not the published set: IIIT5K has 3,000 words, this is 2,999"),
    ("ic13", 1015, "the published subset of 1,015"),
    ("IC13_857", 1015, "not the published set: IC13 has 857 words, this is 1,015"),
    ("IC15", 2000, "not the published set: IC15 has 1,811 or 2,077 words, this is 2,000"),
    ("my photographs", 12, None)])
def test_known_sets_are_told_from_others_by_their_size(name, words, note):
    assert size_note(name, words) == note


def test_other_names_of_the_same_set():
    assert published("IIIT5k_3000") == ("IIIT5K", (3000,))
    assert published("CUTE") == ("CUTE80", (288,))
    assert published("ICDAR-2015") == ("IC15", (1811, 2077))
    assert published("svt train") is None
