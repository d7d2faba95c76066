"""Charsets and token tables."""

import pytest

from models.charset import AttentionTokens, Charset, CTCTokens


@pytest.mark.parametrize(("name", "size", "first", "last"),
                         [("36", 36, "0", "z"), ("62", 62, "0", "Z"), ("94", 94, "0", "~")])
def test_named_charsets_have_the_sizes_the_field_calls_them_by(name, size, first, last):
    charset = Charset.named(name)
    assert (len(charset), charset.characters[0], charset.characters[-1]) == (size, first, last)


def test_the_94_are_digits_lower_case_capitals_and_punctuation_in_ascii_order():
    assert Charset.named("94").characters[10:12] == "ab"
    assert Charset.named("94").characters[36:38] == "AB"
    assert Charset.named("94").characters[62:] == "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def test_any_other_name_is_the_characters_themselves():
    assert Charset.named("ঀকখ").characters == "ঀকখ"
    assert Charset(Charset.named("62").characters) == Charset.named("62")
    assert Charset.named("62") != Charset.named("36")


def test_a_charset_without_capitals_lower_cases_and_one_with_them_does_not():
    assert Charset.named("36").normalise("HeLLo") == "hello"
    assert Charset.named("62").normalise("HeLLo") == "HeLLo"


def test_outside_names_each_missing_character_once_in_order():
    assert Charset.named("36").outside("Crème-brûlée!") == "è-ûé!"
    assert Charset.named("94").outside("Hello, world") == " "


@pytest.mark.parametrize(("characters", "message"), [("", "at least one"), ("abca", r"\['a'\] more than once")])
def test_an_unusable_charset_is_refused(characters, message):
    with pytest.raises(ValueError, match=message):
        Charset(characters)


def test_ctc_ids_start_behind_the_blank():
    tokens = CTCTokens(Charset.named("36"))
    assert (tokens.blank, tokens.classes) == (0, 37)
    assert tokens.ids("0aZ", max_length=25) == [1, 11, 36]
    assert [tokens.character(token) for token in (0, 1, 36)] == ["", "0", "z"]


def test_attention_ids_start_behind_start_and_end():
    tokens = AttentionTokens(Charset.named("36"))
    assert (tokens.start, tokens.pad, tokens.end, tokens.classes) == (0, 0, 1, 38)
    assert tokens.ids("0aZ", max_length=25) == [2, 12, 37]
    assert [tokens.character(token) for token in (0, 1, 2, 37)] == ["", "", "0", "z"]


def test_a_text_that_cannot_be_written_says_why():
    charset = Charset.named("36")
    with pytest.raises(ValueError, match="at most 4 characters, found 5 in 'hello'"):
        charset.positions("hello", max_length=4)
    with pytest.raises(ValueError, match="found 'é' in 'café'"):
        charset.positions("Café", max_length=25)
