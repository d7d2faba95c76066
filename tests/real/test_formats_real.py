"""The real sets through every format: in, out and in again, nothing changed."""

import subprocess

import lmdb
import pandas
import pytest

from pipelines.corpus.reader import Corpus
from pipelines.exporting.copy import export
from pipelines.ingestion.chunks import Options
from pipelines.ingestion.pipeline import ingest
from pipelines.ingestion.sources.opening import open_sources

AS_IT_IS = Options(min_side=0, max_aspect=1e9, min_contrast=0, unicode="as is")
COUNTS = {"handwriting/lectaurep": 3000, "handwriting/testaments_train": 1000, "handwriting/testaments_test": 500,
          "scripts/bengali": 400, "scripts/greek": 200, "scripts/plates_cn": 400, "words/wires": 4455}  # the README beside them


def content_of(folder) -> dict[bytes, bytes]:
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return dict(transaction.cursor())


def pairs(path) -> list[tuple[bytes, str | None]]:
    found = [row for source in open_sources([str(path)]) for piece in source.pieces(1000) for row in piece.read()]
    assert not any(row.problem for row in found)
    return [(row.image, row.text) for row in found]


@pytest.fixture(scope="module")
def corpus(ray_of_process, real_data, tmp_path_factory) -> Corpus:
    """IIIT5K train (an LMDB) and Greek lines (a folder)."""
    return ingest([str(real_data / "words/train/IIIT5K"), str(real_data / "scripts/greek")], tmp_path_factory.mktemp("formats") / "c",
                  AS_IT_IS, max_errors=0)


def test_an_lmdb_comes_back_key_for_key_and_byte_for_byte(corpus, real_data, tmp_path):
    export(corpus.path, tmp_path / "out", "lmdb", ["IIIT5K"])
    expected = content_of(real_data / "words/train/IIIT5K")
    found = content_of(tmp_path / "out")
    assert len(found) == 4001 and found == expected


@pytest.mark.parametrize("format", ["webdataset", "folder"])
def test_words_and_greek_lines_come_back_from_tars_and_folders(corpus, real_data, tmp_path, format):
    export(corpus.path, tmp_path / "out", format, rows_per_file=700)
    expected = pairs(real_data / "words/train/IIIT5K") + pairs(real_data / "scripts/greek")
    assert len(expected) == 2200 and sorted(pairs(tmp_path / "out")) == sorted(expected)


@pytest.mark.parametrize("name", COUNTS)
def test_folders_hold_what_their_readme_says(real_data, name):
    source, = open_sources([str(real_data / name)])
    assert source.count() == COUNTS[name]
    texts = [row.text for row in (row for piece in source.pieces(1000) for row in piece.read()) if not row.problem]
    assert len(texts) == COUNTS[name] and all(texts)


def test_what_tar_and_pandas_make_of_a_real_folder_is_the_same_set(real_data, tmp_path):
    source, = open_sources([str(real_data / "scripts/greek")])
    rows = [row for piece in source.pieces(1000) for row in piece.read()]
    (tmp_path / "in").mkdir()
    for number, row in enumerate(rows):
        (tmp_path / f"in/{number:05}.jpg").write_bytes(row.image)
        (tmp_path / f"in/{number:05}.txt").write_text(row.text + "\n", encoding="utf-8")
    subprocess.run(["tar", "--sort=name", "-C", str(tmp_path / "in"), "-czf", str(tmp_path / "greek.tar.gz"), "."], check=True)
    table = pandas.DataFrame({"img": [row.image for row in rows], "transcription": [row.text for row in rows]})
    table.to_parquet(tmp_path / "greek.parquet")
    expected = [(row.image, row.text) for row in rows]
    assert pairs(tmp_path / "greek.tar.gz") == expected
    assert pairs(tmp_path / "greek.parquet") == expected
