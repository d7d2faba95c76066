"""The character n-gram against its formula, worked out by hand and by recursion."""

from itertools import product
from math import exp, log

import pytest

from models.charset import Charset
from models.decoding.ngram import BEGIN, END, Ngram, trained_on

LETTERS = Charset("abc")


def by_recursion(words, order, history, symbol):
    """Interpolated Witten-Bell, counted anew for every question: p(symbol | the last order - 1 symbols of history)."""
    history = history[len(history) - order + 1:] if len(history) >= order else history
    followed = [word[place] for word in (f"{BEGIN}{word}{END}" for word in words) for place in range(1, len(word))
                if word[:place].endswith(history)]
    lower = by_recursion(words, len(history), history[1:], symbol) if history else 1 / 4
    if not followed:
        return lower
    return (followed.count(symbol) + len(set(followed)) * lower) / (len(followed) + len(set(followed)))


def test_a_unigram_by_hand():
    model = trained_on(["a", "ab"], LETTERS, order=1)  # a a b and two ends: 5 symbols, 3 of them different
    assert exp(model.log_probability("")) == pytest.approx((2 + 3 / 4) / 8)
    assert exp(model.log_probability("c")) == pytest.approx((3 / 4) / 8 * (2 + 3 / 4) / 8)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_every_probability_is_the_formulas(order):
    words = ["abc", "abab", "a", "cab", "cab"]
    model = trained_on(words, LETTERS, order)
    for text in ("", "a", "cab", "abca", "ccc", "bacba"):
        symbols = BEGIN + text + END
        expected = sum(log(by_recursion(words, order, symbols[:place], symbols[place])) for place in range(1, len(symbols)))
        assert model.log_probability(text) == pytest.approx(expected, rel=1e-5)


def test_every_state_gives_one_probability_and_likely_words_are_likelier():
    model = trained_on(["station", "nation", "ration"], Charset.named("36"))
    assert model.log_probabilities.exp().sum(1).tolist() == pytest.approx([1.0] * len(model.log_probabilities), abs=1e-5)
    assert model.log_probability("station") > model.log_probability("statino") > model.log_probability("zxqwvkj")


def test_the_probabilities_of_all_short_words_go_to_one():
    model = trained_on(["a", "ab", "b"], LETTERS, order=3)
    total = sum(exp(model.log_probability("".join(letters))) for length in range(7) for letters in product("abc", repeat=length))
    assert 0.98 < total < 1.0  # longer words have the rest


def test_words_are_spelled_by_the_charset_and_foreign_ones_left_out():
    model = trained_on(["AB", "ab", "ä", ""], LETTERS, order=2)
    assert model.counts == trained_on(["ab", "ab"], LETTERS, order=2).counts
    assert model.log_probability("AB") == model.log_probability("ab")


def test_what_was_saved_says_the_same(tmp_path):
    model = trained_on(["ab", "cab"], LETTERS, order=3)
    model.save(tmp_path / "model.json")
    loaded = Ngram.load(tmp_path / "model.json")
    assert (loaded.order, loaded.charset, loaded.start) == (3, LETTERS, model.start)
    assert loaded.log_probabilities.equal(model.log_probabilities) and loaded.following.equal(model.following)
    assert [file.name for file in tmp_path.iterdir()] == ["model.json"]


def test_bad_input_is_explained(tmp_path):
    with pytest.raises(ValueError, match="order of at least 1"):
        trained_on(["a"], LETTERS, order=0)
    with pytest.raises(ValueError, match="3 characters, found none among 1"):
        trained_on(["xyz"], LETTERS)
    (tmp_path / "other.json").write_text('{"order": 3}', encoding="utf-8")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    for name in ("other.json", "broken.json"):
        with pytest.raises(ValueError, match=f"saved by Ngram.save, found something else in .*{name}"):
            Ngram.load(tmp_path / name)
