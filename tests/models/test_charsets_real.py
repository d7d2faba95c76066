"""Scripts other than Latin from end to end on real images: the charset from the labels, taught, and read back."""

import unicodedata
from typing import NamedTuple

import pytest
import torch
from torch import nn

from models.charset import Charset, attention_tokens, ctc_tokens
from models.recognizers import build
from pipelines.corpus.images import decode_image
from pipelines.ingestion.sources.opening import open_sources
from pipelines.ingestion.sources.row import Row
from pipelines.reading.batches import as_input, shape_of
from pipelines.reading.weights import load_recognizer, save_recognizer
from pipelines.training.recipe import load_recipe, parse_recipe


class Script(NamedTuple):
    """The rows of one of the sets, and the characters of all its labels."""

    rows: list[Row]
    charset: Charset


@pytest.fixture(scope="module")
def scripts(real_data) -> dict[str, Script]:
    """Handwritten Bengali words, printed lines of polytonic Greek, Chinese licence plates; labels in NFC, to which ingest brings them."""
    found = {}
    for source in open_sources([str(real_data / "scripts")]):
        rows = [row._replace(text=unicodedata.normalize("NFC", row.text)) for piece in source.pieces(1000) for row in piece.read()]
        found[source.name] = Script(rows, Charset("".join(sorted(set("".join(row.text for row in rows))))))
    return found


@pytest.mark.parametrize(("name", "size"), [("bengali", 62), ("greek", 182), ("plates_cn", 41)])
def test_every_label_survives_the_way_to_ids_and_back(scripts, name, size):
    rows, charset = scripts[name]
    assert len(charset) == size
    for tokens in (ctc_tokens(charset), *(attention_tokens(charset, table) for table in ("benchmark", "fewer_labels", "parseq"))):
        for row in rows:
            ids = tokens.ids(row.text, max_length=60)
            assert len(ids) == len(row.text) and max(ids) < tokens.classes
            assert "".join(tokens.character(token) for token in ids) == row.text


def test_a_character_is_a_code_point_and_a_bengali_word_has_more_of_them_than_letters(scripts):
    row, charset = scripts["bengali"].rows[0], scripts["bengali"].charset
    assert row.text == "উন্নয়ন"  # four letters to the eye: উ, the doubled ন্ন, য়, ন
    assert [unicodedata.name(character).removeprefix("BENGALI ") for character in row.text] == [
        "LETTER U", "LETTER NA", "SIGN VIRAMA", "LETTER NA", "LETTER YA", "SIGN NUKTA", "LETTER NA"]
    assert len(charset.positions(row.text, max_length=7)) == 7
    with pytest.raises(ValueError, match="at most 6 characters, found 7"):
        charset.positions(row.text, max_length=6)


def test_one_normal_form_makes_one_spelling(scripts):
    """য় may be typed as one code point, and the letters of polytonic Greek as several; NFC splits the first and joins the others."""
    for name, typed, normal in [("bengali", "\u09df", "\u09af\u09bc"), ("greek", "\u03c9\u0313\u0345", "\u1fa0")]:
        charset = scripts[name].charset
        assert unicodedata.normalize("NFC", typed) == normal
        assert charset.outside(normal) == "" and charset.outside(typed) != ""


@pytest.mark.parametrize("name", ["bengali", "greek", "plates_cn"])
def test_a_recipe_holds_any_charset(scripts, name, tmp_path):
    charset = scripts[name].charset
    tree = {"name": "any", "recognizer": {"name": "crnn_tiny", "charset": charset.characters}, "objective": {"name": "supervised"},
            "data": {"labeled": {"corpus": "c", "batch_size": 8}}, "training": {"steps": 1}}
    (tmp_path / "recipe.yaml").write_text(parse_recipe(tree).to_yaml(), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml").charset == charset


def test_the_charset_travels_with_the_weights(scripts, tmp_path):
    charset = scripts["greek"].charset
    save_recognizer(tmp_path, build("crnn_tiny", charset))
    assert load_recognizer(tmp_path).charset == charset


def words_read(recognizer, images, texts):
    """The share of the texts that are read exactly."""
    recognizer.eval()
    with torch.no_grad():
        found = recognizer.read(images).texts
    recognizer.train()
    return sum(one == other for one, other in zip(found, texts, strict=True)) / len(texts)


def share_learned(recognizer, images, texts, rounds):
    """Up to so many rounds of 20 steps on one batch, until nine tenths of its texts are read: the share that is."""
    targets = recognizer.decoder.encode(texts)
    inputs = recognizer.decoder.inputs(targets)
    optimizer = torch.optim.Adam(recognizer.train().parameters(), lr=1e-2)
    for _ in range(rounds):
        for _ in range(20):
            loss = recognizer.decoder.loss(recognizer(images, inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(recognizer.parameters(), 5)
            optimizer.step()
        if (share := words_read(recognizer, images, texts)) > 0.9:
            break
    return share


@pytest.mark.parametrize(("name", "recognizer", "count", "longest", "width"), [
    ("bengali", "crnn_tiny", 24, 12, 100), ("bengali", "trba_tiny", 24, 8, 100),
    ("plates_cn", "crnn_tiny", 24, 7, 100), ("plates_cn", "trba_tiny", 24, 7, 100),
    ("greek", "crnn_tiny", 12, 60, 320), ("greek", "trba_tiny", 8, 24, 100),
])
def test_any_script_is_learned(scripts, name, recognizer, count, longest, width):
    rows = [row for row in scripts[name].rows if len(row.text) <= longest][:count]
    torch.manual_seed(0)
    reader = build(recognizer, scripts[name].charset, width=width, max_length=longest)
    images = as_input([decode_image(row.image, shape_of(reader)) for row in rows], torch.device("cpu"))
    assert len(rows) == count
    assert share_learned(reader, images, [row.text for row in rows], rounds=20) > 0.9
