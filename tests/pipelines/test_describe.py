"""What `textray describe` says about a corpus."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipelines.cli import run
from pipelines.corpus import (Corpus, Rejected, ShardWriter, SourceCounts, rejected_table, write_manifest,
                              write_quarantine)
from pipelines.describe import describe, quantiles


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
        "source               min   5%  median  95%  max",
        "a       text length    3    3     3.5    4    4",
        "a             width   10   11      20   29   30",
        "a            height    8    8       8    8    8",
        "b             width    5    5     5.5    6    6",
        "b            height    8    8       8    8    8",
        "all     text length    3    3     3.5    4    4",
        "all           width    5  5.2      10   28   30",
        "all          height    8    8       8    8    8",
        "",
        "6 different characters, 7 in all",
        "a 2  space 1  e 1  t 1  é 1  U+200B 1",
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
