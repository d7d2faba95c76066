"""What of a label and a reading is compared: the field's rule for its benchmarks, for everything else what the model can write."""

import unicodedata

import pytest

from models.charset import Charset
from pipelines.evaluation.protocols import RULES, rule_for, rule_of

BENGALI = Charset("অআইঈউঊএঐওঔকখগঘঙচছজঝঞটঠডঢণতথদধনপফবভমযরলশষসহািীুূৃেৈোৌ্ংঃঁৎ০১২৩৪৫৬৭৮৯\u09dc\u09dd\u09df")
CYRILLIC = Charset("абвгдежзийклмнопрстуфхцчшщъыьэюя")


@pytest.mark.parametrize("text", ["Caffè-Bar 24h!", "", "ΑΒΓ", "İstanbul", "K", "ß", "a\u0301", "½", "ﬁn"])
def test_for_36_characters_the_charsets_rule_is_the_fields(text):
    assert rule_of("charset", Charset.named("36")).compared(text) == RULES["36"](text)
    assert rule_of("charset", Charset.named("62")).compared(text) == RULES["62"](text)
    assert rule_of("charset", Charset.named("94")).compared(text) == RULES["94"](text)


def test_case_and_punctuation_count_where_the_charset_has_them():
    right = {name: rule_of("charset", Charset.named(name)).same for name in ("36", "62", "94")}
    assert right["36"]("Don't", "dont") and right["62"]("Don't", "Dont") and right["94"]("Don't", "Don't")
    assert not right["62"]("Don't", "dont") and not right["94"]("Don't", "Dont")


@pytest.mark.parametrize("charset, label, wrong", [(BENGALI, "কলকাতা", "ঢাকা"), (CYRILLIC, "Москва", "Минск"), (Charset("東京大阪"), "東京", "大阪"),
                                                   (Charset("שלוםעיר"), "שלום", "עיר"), (Charset("กขคงจ่้๊"), "ก่ข", "กข"), (Charset("äöüß"), "äöü", "ü")])
def test_every_script_is_compared_with_its_own_characters(charset, label, wrong):
    rule = rule_of("charset", charset)
    assert rule.same(label, charset.normalise(label)) and not rule.same(label, wrong) and not rule.same(label, "")
    assert not rule_of("36", charset).same(label, label)  # nothing is left of either


@pytest.mark.parametrize("label", ["\u09dc", "\u00e9", "\u0958", "\u00c5"])
def test_canonically_equal_strings_are_equal_however_the_charset_writes_them(label):
    for form in ("NFC", "NFD"):
        charset = Charset("".join(dict.fromkeys(unicodedata.normalize(form, label) + "x\u09a1"))) if form == "NFD" else Charset(f"{label}x")
        rule = rule_of("charset", charset)
        for one in ("NFC", "NFD"):
            for other in ("NFC", "NFD"):
                assert rule.same(unicodedata.normalize(one, label), unicodedata.normalize(other, label))
        assert not rule.same(label, "x") and not rule.same(label, unicodedata.normalize("NFD", label)[0])


def test_nothing_left_to_compare_is_never_right():
    for name in RULES:
        assert not rule_of(name, Charset.named("94")).same("", "")
    assert not rule_of("36", Charset.named("36")).same("!?", "") and not rule_of("charset", BENGALI).same("Hotel", "")


def test_a_benchmark_keeps_the_fields_rule_and_all_other_sets_the_models():
    assert [rule_for(name, 3000, "charset") for name in ("IIIT5K", "iiit", "ic13_857", "CUTE80")] == ["36"] * 4
    assert rule_for("my signs", 100, "charset") == "charset" and rule_for("my signs", 100, "exact") == "exact"
    assert rule_for("ReCTS", 2592, "charset") == "36"  # the published words in Latin letters
    assert rule_for("ReCTS", 10_000, "charset") == rule_for("LSVT", 243_063, "charset") == "charset"  # all of its words
