"""Words that decide while a run goes on: spread exactly over the corpus, read once, never words of which nothing can be compared."""

from pathlib import Path

import pytest

from models.charset import Charset
from pipelines.corpus.manifest import SourceCounts, write_manifest
from pipelines.corpus.quarantine import write_quarantine
from pipelines.corpus.reader import Corpus
from pipelines.corpus.sampling import sampled_rows, spread_rows
from pipelines.corpus.shards import ShardWriter
from pipelines.errors import BadInput
from pipelines.evaluation.protocols import rule_of
from pipelines.training.validation import check_words


def corpus(folder: Path, sources: dict[str, list[str | None]], rows_per_group: int = 100) -> Corpus:
    folder.mkdir()
    entries, counts = [], {}
    for source, texts in sources.items():
        with ShardWriter(folder, source, 0, rows_per_group=rows_per_group) as writer:
            for number, text in enumerate(texts):
                writer.write(key=f"{source}/{number}", image=b"picture", text=text, width=60, height=20, phash=0)
        entries.append(writer.entry)
        counts[source] = SourceCounts(rows_in=len(texts), kept=len(texts), labeled=sum(text is not None for text in texts))
    write_quarantine(folder)
    write_manifest(folder, entries, counts, {})
    return Corpus.open(folder)


def keys(corpus: Corpus, count: int) -> list[str]:
    return [key for (key,) in spread_rows(corpus, count, ["key"])]


def test_words_are_spread_exactly_also_where_the_count_does_not_divide_the_rows(tmp_path):
    made = corpus(tmp_path / "c", {"first": ["a"] * 2000, "second": ["b"] * 1999})
    chosen = keys(made, 2000)
    assert len(set(chosen)) == 2000 and sum(key.startswith("first") for key in chosen) == 1001
    numbers = [int(key.split("/")[1]) + 2000 * key.startswith("second") for key in chosen]
    assert {after - before for before, after in zip(numbers, numbers[1:])} == {1, 2}


@pytest.mark.parametrize("count, found", [(1, 1), (7, 7), (30, 30), (31, 30), (10**9, 30)])
def test_there_are_as_many_as_are_asked_for_or_all(tmp_path, count, found):
    chosen = keys(corpus(tmp_path / "c", {"one": ["a"] * 10, "two": ["b"] * 20}, rows_per_group=7), count)
    assert len(set(chosen)) == len(chosen) == found
    assert chosen == sorted(chosen, key=lambda key: (key.split("/")[0], int(key.split("/")[1])))


def test_only_labeled_rows_are_taken_and_only_the_row_groups_that_hold_them(tmp_path, monkeypatch):
    texts = [None] * 500 + [f"w{number}" for number in range(500)]
    made = corpus(tmp_path / "c", {"one": texts})
    read = []
    real = Corpus.read_row_group
    monkeypatch.setattr(Corpus, "read_row_group", lambda self, shard, index, columns=None: read.append((index, tuple(columns)))
                        or real(self, shard, index, columns))
    words = spread_rows(made, 3, ("key", "image", "text"))
    assert words == [("one/500", b"picture", "w0"), ("one/666", b"picture", "w166"), ("one/833", b"picture", "w333")]
    assert [index for index, columns in read if "image" in columns] == [5, 6, 8]


def test_a_corpus_without_labels_or_with_nothing_to_compare_is_refused(tmp_path):
    latin, bengali = Charset.named("36"), Charset("কলতা")
    with pytest.raises(BadInput, match="data.validation: expected labeled words in .*, found 4 rows without a label"):
        check_words(corpus(tmp_path / "none", {"one": [None] * 4}), 10, rule_of("charset", latin))
    words = corpus(tmp_path / "bengali", {"one": ["কলকাতা", "তাল"]})
    with pytest.raises(BadInput, match="expected labels that the rule charset can compare, found none among the 2 words of .*the first is 'কলকাতা'"):
        check_words(words, 10, rule_of("charset", latin))
    assert len(check_words(words, 10, rule_of("charset", bengali))) == 2


def test_a_sample_takes_labeled_and_unlabeled_rows_of_a_few_row_groups_of_all_corpora(tmp_path):
    one = corpus(tmp_path / "one", {"a": [None] * 60, "b": ["x"] * 20}, rows_per_group=2)
    two = corpus(tmp_path / "two", {"c": ["y"] * 80}, rows_per_group=2)
    chosen = sampled_rows([one, two], 1000, ["key", "text"])
    assert len(chosen) == len(set(chosen)) == 32  # 16 of 80 groups
    assert [sum(key.startswith(source) for key, _ in chosen) for source in "abc"] == [12, 4, 16]
    assert len(sampled_rows([one, two], 7, ["key"])) == 7
    assert sampled_rows([one, two], 3, ["text"], {"b": 1.0}) == [("x",)] * 3
    assert sampled_rows([one], 3, ["text"], {"none": 1.0}) == []
