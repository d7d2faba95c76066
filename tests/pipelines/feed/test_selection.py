"""Which rows a stream uses: one rule of spelling with the charset, and labels that no decoder can learn are left out and counted."""

import sys

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from models.charset import Charset, frames_needed
from models.costs import frames
from models.decoders.decoded import Decoded
from models.recognizers import build
from pipelines.corpus.manifest import SourceCounts, write_manifest
from pipelines.corpus.quarantine import write_quarantine
from pipelines.corpus.shards import ShardWriter
from pipelines.errors import BadInput
from pipelines.feed.selection import Selection
from pipelines.feed.stream import Share, open_stream
from pipelines.feed.windows import local_blocks
from pipelines.training.driver import open_streams
from pipelines.training.recipe import parse_recipe

LETTERS = Charset.named("36")
GREEK = Charset("αβγδεζηθικλμνξοπρστυφχψως")
TURKISH = Charset("abcçdefgğhıijklmnoöprsştuüvyz")


def table(texts: list[str | None]) -> pa.Table:
    return pa.table({"key": [f"made/{number}" for number in range(len(texts))], "text": pa.array(texts, pa.string())})


def corpus(folder, rows: list[tuple[str, int, int]]) -> str:
    """A corpus of (text, width, height)."""
    with ShardWriter(folder, "made", 0, rows_per_group=10) as writer:
        for number, (text, width, height) in enumerate(rows):
            image = cv2.imencode(".png", np.full((height, width, 3), 99, np.uint8))[1].tobytes()
            writer.write(key=f"made/{number}", image=image, text=text, width=width, height=height, phash=0)
    write_quarantine(folder)
    write_manifest(folder, [writer.entry], {"made": SourceCounts(**{"in": len(rows), "kept": len(rows), "labeled": len(rows)})}, {"command": "test"})
    return str(folder)


@pytest.mark.parametrize("charset", [LETTERS, GREEK, TURKISH, Charset.named("62"), Charset("iσς\u0307")], ids=lambda charset: charset.characters[:8])
def test_what_is_selected_can_be_written_whatever_the_character(charset):
    """Every code point that has another case or is in the charset, alone and behind a letter, where a final sigma differs."""
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    cased = [character for character in characters if character.lower() != character or character.upper() != character or character in charset.index]
    texts = [*cased, *(f"{charset.characters[1]}{character}" for character in cased)]
    kept, reasons = Selection(charset.characters).mask(table(texts))
    chosen = [text for text, use in zip(texts, kept) if use]
    assert len(chosen) >= 2 * len(charset) - 1 and reasons == {"characters outside the charset": len(texts) - len(chosen)}
    assert all(charset.positions(text, 25) for text in chosen)
    assert all(charset.outside(text) for text, use in zip(texts, kept) if not use)


def test_a_capital_i_with_a_dot_and_a_final_sigma_do_not_end_a_run():
    kept, reasons = Selection(GREEK.characters).mask(table(["ΟΔΟΣ", "ΣΟΣ", "Σ"]))
    assert kept.all() and [GREEK.normalise(text) for text in ("ΟΔΟΣ", "ΣΟΣ")] == ["οδος", "σος"]
    kept, reasons = Selection(LETTERS.characters).mask(table(["İSTANBUL", "ISTANBUL"]))  # a small dotted i is two characters there
    assert kept.tolist() == [False, True] and reasons == {"characters outside the charset": 1}


def test_equal_neighbours_need_a_blank_between():
    assert [frames_needed(text) for text in ("", "a", "aa", "aba", "aaaa", "committee")] == [0, 1, 3, 3, 7, 12]


def test_what_ctc_cannot_write_is_left_out_and_counted():
    kept, reasons = Selection(LETTERS.characters, frames=25).mask(table(["2" * 13, "2" * 14, "a" * 24 + "b", "ab" * 12 + "c", "x" * 26]))
    assert kept.tolist() == [True, False, False, True, False]
    assert reasons == {"needs more than its 25 frames": 2, "longer than 25 characters": 1}


@pytest.mark.parametrize("text, needed", [("2" * 22, 43), ("internationalization", 20), ("bookkeeper", 13), ("aab", 4)])
def test_the_loss_is_zero_exactly_where_the_frames_are_too_few(text, needed):
    assert frames_needed(text) == needed
    recognizer = build("crnn_tiny", LETTERS)
    targets = recognizer.decoder.encode([text])
    for count, learns in ((needed, True), (needed - 1, False)):
        logits = torch.zeros(1, count, recognizer.decoder.tokens.classes, requires_grad=True)
        recognizer.decoder.loss(Decoded(logits, torch.zeros(1, count, 1)), targets).backward()
        assert bool(logits.grad.any()) == learns


def test_frames_are_those_of_the_memory():
    for name, width in (("crnn", 100), ("crnn", 64), ("rosetta", 100), ("svtr", 256), ("crnn_tiny", 100)):
        recognizer = build(name, LETTERS, width=width)
        assert frames(recognizer) == recognizer.eval().encode(torch.zeros(1, 3, recognizer.height, width)).shape[1]


RECIPE = {"name": "r", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"}, "training": {"steps": 1}}


def recipe(path: str, **options):
    return parse_recipe({**RECIPE, "recognizer": {"name": "crnn_tiny", "options": options}, "data": {"labeled": {"corpus": path, "batch_size": 2}}})


def test_a_run_without_a_label_that_fits_is_refused(tmp_path):
    path = corpus(tmp_path, [("2" * 22, 100, 32)] * 8)
    with pytest.raises(BadInput, match="8 rows, of which 0 can be used .8 left out: needs more than its 25 frames."):
        open_streams(recipe(path))


def test_a_max_length_above_the_frames_is_refused(tmp_path):
    path = corpus(tmp_path, [("word", 100, 32)] * 8)
    with pytest.raises(BadInput, match="recognizer.options.max_length: expected at most 25, the frames of an image of 100 pixels, found 26: "):
        open_streams(recipe(path, max_length=26))
    assert open_streams(recipe(path, max_length=25))["labeled"].rows == 8


def test_of_images_that_keep_their_shape_each_bucket_has_its_own_frames(tmp_path):
    wide, narrow = [(f"{'ab' * 10}", 400, 32)] * 12, [("abcdefgh", 60, 32)] * 12
    path = corpus(tmp_path, [*wide, *narrow, ("aaaaaaaaaaaaaaaaa", 60, 32)])
    stream = open_streams(recipe(path, aspect="keep", width=256))["labeled"]
    assert [(ingredient.width, ingredient.selection.frames, ingredient.plan.rows) for ingredient in stream.ingredients] == \
        [(64, 16, 12), (256, 64, 12)]
    assert stream.left_out == {"needs more than its 16 frames": 1}


def test_a_label_that_joins_a_wider_bucket_gets_its_frames(tmp_path):
    """Too few narrow images for a batch of their own are filled up to the next width, where longer labels fit."""
    path = corpus(tmp_path, [("abcdefghijklmnopqrst", 400, 32)] * 12 + [("ab", 60, 32)] + [("a" * 12, 60, 32)] * 2)
    selection = Selection(LETTERS.characters)
    stream = open_stream([path], selection, batch_size=8, seed=0, widths=[(2.0, 64), (float("inf"), 256)], frames={64: 16, 256: 64})
    assert [(each.width, each.selection.ratios, each.plan.rows) for each in stream.ingredients] == [(256, (0.0, float("inf")), 15)]
    assert stream.left_out == {}
    keys = {key for block in local_blocks(stream, Share(0, 1, 0, 8)) for key in block["key"].to_pylist()}
    assert len(keys) == 15
