"""What `textray describe` says about a corpus."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.charset import Charset
from pipelines.cli import run
from pipelines.corpus.characters import count_outside, rows_outside
from pipelines.corpus.manifest import SourceCounts, write_manifest
from pipelines.corpus.quarantine import Rejected, rejected_table, write_quarantine
from pipelines.corpus.reader import Corpus
from pipelines.corpus.shards import ShardWriter
from pipelines.corpus.tally import aspects, describe, quantiles


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Source a: 3 rows, 2 labeled, 1 rejected; source b: 2 unlabeled rows in their own shard."""
    folder = tmp_path / "c"
    folder.mkdir()
    entries = []
    for source, rows in (("a", [("tea", 10), ("é a\u200b", 30), (None, 20)]), ("b", [(None, 5), (None, 6)])):
        with ShardWriter(folder, source, 0, rows_per_group=2) as writer:
            for number, (text, width) in enumerate(rows):
                writer.write(key=f"{source}/{number}", image=b"x", text=text, width=width, height=8, phash=0)
        entries.append(writer.entry)
    write_quarantine(folder, [rejected_table([Rejected("a/9", "a", "filtered", "side below 8 px", "4 x 4")])])
    counts = {"a": SourceCounts(rows_in=4, kept=3, filtered=1, labeled=2, reasons={"side below 8 px": 1}),
              "b": SourceCounts(rows_in=2, kept=2)}
    write_manifest(folder, entries, counts, {"command": "test"})
    return folder


def test_json_holds_counts_lengths_sizes_and_characters(corpus, capsys):
    assert run("describe", [str(corpus), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == describe(Corpus.open(corpus))
    assert (summary["rows"], summary["shards"], summary["row_groups"]) == (5, 2, 3)
    assert summary["sources"]["a"] == {
        "in": 4, "kept": 3, "duplicates": 0, "quarantined": 0, "filtered": 1, "labeled": 2, "reasons": {"side below 8 px": 1},
        "text_length": {"min": 3, "5%": 3.05, "median": 3.5, "95%": 3.95, "max": 4},
        "width": {"min": 10, "5%": 11, "median": 20, "95%": 29, "max": 30},
        "height": {"min": 8, "5%": 8, "median": 8, "95%": 8, "max": 8},
        "aspect": {"min": 1.25, "5%": 1.38, "median": 2.5, "95%": 3.62, "max": 3.75},
        "charsets": {"36": {"size": 36, "rows_outside": 1, "characters_outside": 3, "outside": {" ": 1, "é": 1, "\u200b": 1}},
                     "62": {"size": 62, "rows_outside": 1, "characters_outside": 3, "outside": {" ": 1, "é": 1, "\u200b": 1}},
                     "94": {"size": 94, "rows_outside": 1, "characters_outside": 3, "outside": {" ": 1, "é": 1, "\u200b": 1}}},
        "characters": {"a": 2, " ": 1, "e": 1, "t": 1, "é": 1, "\u200b": 1}}
    assert summary["sources"]["b"]["text_length"] is None
    assert summary["total"]["kept"] == 5 and summary["total"]["width"]["median"] == 10


def test_the_table_is_readable(corpus, capsys):
    assert run("describe", [str(corpus)]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == [
        "source  in  kept  labeled  duplicates  quarantined  filtered",
        "a        4     3        2           0            0         1",
        "b        2     2        0           0            0         0",
        "all      6     5        2           0            0         1",
        "",
        "rejected           reason  rows",
        "a         side below 8 px     1",
        "each with its key in quarantine.parquet",
        "",
        "source                min    5%  median   95%   max",
        "a       text length     3     3     3.5     4     4",
        "a             width    10    11      20    29    30",
        "a            height     8     8       8     8     8",
        "a            aspect  1.25  1.38     2.5  3.62  3.75",
        "b             width     5     5     5.5     6     6",
        "b            height     8     8       8     8     8",
        "b            aspect  0.62  0.63    0.69  0.74  0.75",
        "all     text length     3     3     3.5     4     4",
        "all           width     5   5.2      10    28    30",
        "all          height     8     8       8     8     8",
        "all          aspect  0.62  0.65    1.25   3.5  3.75",
        "",
        "6 different characters, 7 in all",
        "a 2  space 1  e 1  t 1  é 1  U+200B 1",
        "",
        "source  charset  labeled  rows outside          characters outside  the most frequent of them",
        "a            36        2             1  50.0 %                   3  space 1  é 1  U+200B 1",
        "a            62        2             1  50.0 %                   3  space 1  é 1  U+200B 1",
        "a            94        2             1  50.0 %                   3  space 1  é 1  U+200B 1",
        "all          36        2             1  50.0 %                   3  space 1  é 1  U+200B 1",
        "all          62        2             1  50.0 %                   3  space 1  é 1  U+200B 1",
        "all          94        2             1  50.0 %                   3  space 1  é 1  U+200B 1",
        ""]


def test_what_is_no_corpus_is_bad_input(tmp_path, capsys):
    assert run("describe", [str(tmp_path)]) == 2
    assert "expected a corpus (a folder with corpus.json), found no corpus.json" in capsys.readouterr().err


def test_quantiles_are_numpys():
    values = np.random.default_rng(3).integers(1, 400, 1001)
    found = quantiles(Counter(values.tolist()))
    assert list(found.values()) == pytest.approx([np.quantile(values, share) for share in (0, 0.05, 0.5, 0.95, 1)],
                                                 abs=0.005)
    assert quantiles(Counter()) is None


def test_aspect_ratios_have_three_digits():
    width, height = np.array([1, 100, 355, 1731, 40000, 9]), np.array([3, 32, 113, 64, 3, 9])
    assert aspects(width, height).tolist() == [0.333, 3.12, 3.14, 27.0, 13300.0, 1.0]


def test_the_page_goes_with_the_numbers(corpus, tmp_path, capsys):
    assert run("describe", [str(corpus), "--json", "--html", str(tmp_path / "page.html")]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == describe(Corpus.open(corpus))
    assert "describe: 5 of 5 rows (100 %)" in shown.err and re.search(r"page.html: the page, \d+ kB\n", shown.err)
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_negative_number_of_images_is_bad_input(corpus, tmp_path, capsys):
    assert run("describe", [str(corpus), "--html", str(tmp_path / "page.html"), "--images", "-1"]) == 2
    assert "--images: expected 0 or more, found -1: correct it" in capsys.readouterr().err


def test_rows_outside_are_those_that_a_charset_cannot_spell():
    texts = ["tea", "Tea", "t-a", "\u0130", "\n", "]", "[^a", "", "É", "x\U00010000"]
    characters = Counter("".join(texts))
    for charset in ("36", "62", "94"):
        expected = sum(bool(Charset.named(charset).outside(text)) for text in texts)
        assert rows_outside(charset, pa.chunked_array([texts]), characters) == expected
    assert count_outside("36", Counter("ÉéÉa-")) == {"é": 3, "-": 1}
    assert count_outside("62", Counter("ÉéÉa-")) == {"É": 2, "-": 1, "é": 1}
