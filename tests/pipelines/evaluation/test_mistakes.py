"""What a recognizer gets wrong: alignments against a slow search, confusions, lengths, kinds of characters, and what may be read without a person."""

import random
from functools import cache

import pytest

from pipelines.evaluation.errors import Coverage, Part, aligned, by_character, by_length, confusions, coverage, kind_of_mistake, left_alone
from pipelines.evaluation.metrics import Word, edit_distance


def word(label: str, read: str, confidence: float = 0.5, problem: str | None = None) -> Word:
    return Word("key", label, read, confidence, label, read, problem)


def fewest(label: str, read: str) -> int:
    """Edits, by trying everything."""
    @cache
    def from_(i: int, j: int) -> int:
        if i == len(label) or j == len(read):
            return len(label) - i + len(read) - j
        return min(from_(i + 1, j + 1) + (label[i] != read[j]), from_(i + 1, j) + 1, from_(i, j + 1) + 1)
    return from_(0, 0)


def test_an_alignment_spells_both_strings_with_the_fewest_edits():
    draw = random.Random(0)
    for _ in range(400):
        label, read = ("".join(draw.choices("abc", k=draw.randrange(8))) for _ in range(2))
        pairs = aligned(label, read)
        assert "".join(one for one, _ in pairs) == label and "".join(other for _, other in pairs) == read and ("", "") not in pairs
        assert sum(one != other for one, other in pairs) == fewest(label, read) == edit_distance(label, read)


@pytest.mark.parametrize(("label", "read", "pairs"), [
    ("tea", "tea", [("t", "t"), ("e", "e"), ("a", "a")]), ("tea", "te", [("t", "t"), ("e", "e"), ("a", "")]), ("", "a", [("", "a")]), ("", "", []),
    ("boot", "bot", [("b", "b"), ("o", "o"), ("o", ""), ("t", "t")]), ("O14", "014", [("O", "0"), ("1", "1"), ("4", "4")]),
])
def test_alignments(label, read, pairs):
    assert aligned(label, read) == pairs


@pytest.mark.parametrize(("label", "read", "kind"), [
    ("tea", "", "nothing read"), ("tea", "te", "characters missing"), ("tea", "team", "characters too many"), ("tea", "toa", "one character wrong"),
    ("tea", "xyz", "several wrong"), ("tea", "toam", "several wrong"),
])
def test_mistakes_are_named(label, read, kind):
    assert kind_of_mistake(word(label, read)) == kind
    assert kind_of_mistake(word(label, "", problem="not an image")) == "image cannot be decoded"


def test_confusions_count_what_is_read_as_what():
    words = [word("O14", "014"), word("OO", "00"), word("tea", "te"), word("b", "bx"), word("same", "same"), word("lost", "", problem="empty image")]
    assert confusions(words) == {("O", "0"): 3, ("a", ""): 1, ("", "x"): 1}


def test_words_are_counted_by_the_length_of_their_label():
    words = [word("a", "a"), word("ab", "x"), word("abc", "abc"), word("a" * 30, "a"), word("a" * 40, "a" * 40)]
    assert by_length(words) == [Part("1 and 2", 2, 1), Part("3 and 4", 1, 1), Part("26 and more", 2, 1)]
    assert by_length([]) == [] and by_length(words)[0].accuracy == 0.5


def test_characters_are_counted_by_their_kind():
    words = [word("Ab1!", "Ab7"), word("é\u0301 5", "é 5"), word("中", "", problem="empty image")]
    assert by_character(words) == [Part("small letters", 2, 2), Part("digits", 2, 1), Part("capital letters", 1, 1), Part("punctuation", 1, 0), Part("marks", 1, 0),
                                   Part("spaces", 1, 1), Part("other letters", 1, 0)]


def test_the_surest_come_first_and_equal_confidences_come_together():
    words = [word("a", "a", 0.9), word("b", "b", 0.8), word("c", "x", 0.8), word("d", "d", 0.5), word("e", "", 0.0, problem="empty image")]
    assert coverage(words) == [Coverage(0.9, 1, 1), Coverage(0.8, 3, 2), Coverage(0.5, 4, 3)]
    assert coverage([]) == []


def test_the_most_that_can_be_left_alone():
    words = [word("a", "a", 0.9), word("b", "x", 0.8), *(word("c", "c", 0.7 - number / 100) for number in range(8)), word("d", "x", 0.1)]
    curve = coverage(words)
    assert left_alone(curve, 0.99) == Coverage(0.9, 1, 1)  # beyond the mistake it never is again
    assert left_alone(curve, 0.9) == Coverage(pytest.approx(0.63), 10, 9)
    assert left_alone(curve, 0.8).words == 11 and left_alone(coverage([word("a", "b")]), 0.5) is None
