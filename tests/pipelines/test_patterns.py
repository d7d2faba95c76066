"""`textray render --pattern`: codes of a form, the same ones each time."""

import re

import pytest

from pipelines.cli import run
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.synthesis.patterns import strings_of


@pytest.mark.parametrize("pattern", ["[A-Z]{1,2}[0-9]{2,4}", r"\d{3}-?(KG|LB)", "^(W|WA)[^]?X{0,2}$".replace("[^]", "[.:/]"), r"(?:AB|C)\w", "A(B(C|D)){1,2}"])
def test_every_string_is_one_of_the_pattern_and_none_comes_twice(pattern):
    found = strings_of(pattern, 300)
    assert found == strings_of(pattern, 300) and len(set(found)) == len(found) > 5
    assert all(re.fullmatch(pattern, string) for string in found)


def test_choices_are_alike_often():
    found = strings_of("[AB]{1,2}", 1000)
    assert sorted(found) == ["A", "AA", "AB", "B", "BA", "BB"]
    lengths = [len(string) for string in strings_of("[0-9]{4,6}", 3000)]
    assert all(900 < lengths.count(length) < 1100 for length in (4, 5, 6))


@pytest.mark.parametrize("pattern, sentence", [("[A-Z", "expected a regular expression, found unterminated character set"), ("A+", "expected repeats with an end"),
                                               ("A{2,}", "expected repeats with an end"), (".A", "found any, of which nothing can be drawn"),
                                               ("[^A]", "found not literal"), ("[^AB]", "found negate"), (r"(A)\1", "found groupref"), ("A(?=B)", "found assert")])
def test_of_what_nothing_can_be_drawn_is_one_sentence(pattern, sentence):
    with pytest.raises(BadInput, match=re.escape(sentence)):
        strings_of(pattern)


def test_codes_are_drawn_as_they_stand(tmp_path, capsys):
    arguments = ["-n", "30", "--style", "plain", "--pattern", "[A-F]{1,2}[0-9]{2,4}", "--charset", "0123456789ABCDEF"]
    assert run("render", ["--out", str(tmp_path / "c"), *arguments]) == 0
    texts = [text for table in Corpus.open(tmp_path / "c").rows_iter(["text"]) for text in table["text"].to_pylist()]
    assert len(texts) == 30 and all(re.fullmatch("[A-F]{1,2}[0-9]{2,4}", text) for text in texts)
    assert Corpus.open(tmp_path / "c").manifest.made_by["pattern"] == "[A-F]{1,2}[0-9]{2,4}"
    for more, sentence in ((["--words", "x"], "not allowed with argument"), (["--charset", "abc"], "of --pattern [A-F]{1,2}[0-9]{2,4}: widen --charset")):
        assert run("render", ["--out", str(tmp_path / "d"), *arguments, *more]) == 2
        assert sentence in capsys.readouterr().err
