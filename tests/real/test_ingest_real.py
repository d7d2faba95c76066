"""The real sets come in whole: published counts, every row kept, the same bytes twice."""

import pytest

from pipelines.corpus.tally import describe
from pipelines.ingestion.pipeline import ingest

WORDS = {
    "train/IIIT5K": (2000, "lmdb"),
    "train/IC15": (4468, "lmdb"),
    "train/SVT": (257, "folder"),
    "test/SVT": (647, "lmdb"),
    "test/IIIT5K": (3000, "lmdb"),
    "test/IC13": (1015, "folder"),
}


@pytest.fixture(scope="module")
def corpus(ray_of_process, real_data, tmp_path_factory):
    return ingest([str(real_data / "words/train"), f"test={real_data / 'words/test'}"],
                  tmp_path_factory.mktemp("real") / "c",
                  max_errors=0)


def test_the_counts_are_the_published_ones_and_every_row_is_kept(corpus):
    expected = {name.removeprefix("train/"): {"in": count, "kept": count, "duplicates": 0, "quarantined": 0, "filtered": 0,
                                              "labeled": count, "reasons": {}}
                for name, (count, _) in WORDS.items()}
    assert {name: counts.model_dump(by_alias=True) for name, counts in corpus.manifest.sources.items()} == expected
    assert corpus.rows == 11387


def test_keys_are_unique_and_labels_are_the_official_ones(corpus):
    tables = corpus.rows_iter(["key", "text", "width", "height"])
    rows = {row["key"]: row for table in tables for row in table.to_pylist()}
    assert len(rows) == corpus.rows
    assert rows["SVT/images/word_1.jpg"]["text"] == "LIVING"
    assert rows["test/IC13/images/word_1.jpg"]["text"] == "Tiredness"
    assert rows["test/SVT/000000647"]["text"] == "MEDICAL"
    assert all(row["width"] > 0 and row["height"] > 0 for row in rows.values())


def test_svt_test_labels_are_upper_case_and_at_most_13_long(corpus):
    svt = describe(corpus)["sources"]["test/SVT"]
    assert svt["text_length"]["max"] == 13
    assert not any(character.islower() for character in svt["characters"])


def test_a_second_run_gives_the_same_bytes(corpus, real_data, tmp_path):
    again = ingest([str(real_data / "words/train"), f"test={real_data / 'words/test'}"], tmp_path / "again",
                   max_errors=0)
    assert again.sha256 == corpus.sha256
    assert [shard.sha256 for shard in again.manifest.shards] == [shard.sha256 for shard in corpus.manifest.shards]


def test_other_scripts_and_handwriting_come_in_whole(ray_session, real_data, tmp_path):
    corpus = ingest([str(real_data / "scripts"), str(real_data / "handwriting")], tmp_path / "c", max_errors=0)
    assert {name: counts.kept for name, counts in corpus.manifest.sources.items()} == {
        "bengali": 400, "greek": 200, "plates_cn": 400,
        "lectaurep": 3000, "testaments_test": 500, "testaments_train": 1000}
