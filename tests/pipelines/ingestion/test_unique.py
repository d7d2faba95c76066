"""An ingest that drops duplicates and guards benchmarks: exact accounts, what goes is kept with its reason, a kill loses nothing."""

import importlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from killing import Killed, killing
from pipelines.cli import run
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.ingestion import pipeline, unique
from pipelines.ingestion.chunks import Options
from pipelines.ingestion.pipeline import ingest
from pipelines.synthesis.corpus import Settings

SMALL = dict(rows_per_shard=6, rows_per_group=4)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[bytes, str]]:
    """12 different words: (encoded image, text)."""
    drawing = Settings("plain", seed=5, charset="36").synthesizer()
    return [drawing.render(5, number) for number in range(12)]


def encoded_again(data: bytes) -> bytes:
    return cv2.imencode(".jpg", cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()


def folder_of(place: Path, images: list[tuple[bytes, str]]) -> str:
    place.mkdir(parents=True)
    for number, (data, _) in enumerate(images):
        (place / f"{number:02}.jpg").write_bytes(data)
    (place / "labels.tsv").write_text("".join(f"{number:02}.jpg\t{text}\n" for number, (_, text) in enumerate(images)), encoding="utf-8")
    return str(place)


@pytest.fixture
def sources(tmp_path, drawn) -> list[str]:
    """a: words 0 … 7, then 2 again. b: a new word, 1 again, 3 encoded anew, 4 encoded anew under another label, another new word."""
    return [folder_of(tmp_path / "in/a", [*drawn[:8], drawn[2]]),
            folder_of(tmp_path / "in/b", [drawn[8], drawn[1], (encoded_again(drawn[3][0]), drawn[3][1]), (encoded_again(drawn[4][0]), "other"),
                                          drawn[9]])]


def rejected(corpus: Corpus) -> list[tuple]:
    rows = [row for table in corpus.quarantine_iter() for row in table.to_pylist()]
    return [(row["key"], row["kind"], row["reason"], row["match"]) for row in rows]


def keys(corpus: Corpus) -> list[str]:
    return [key for table in corpus.rows_iter(["key"]) for key in table["key"].to_pylist()]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


EXACT = [("a/08.jpg", "duplicate", "exact duplicate", "a/02.jpg"), ("b/01.jpg", "duplicate", "exact duplicate", "a/01.jpg")]


def test_exact_duplicates_go_and_the_first_stays(tmp_path, sources, drawn):
    corpus = ingest(sources, tmp_path / "c", Options(duplicates="exact", **SMALL))
    assert rejected(corpus) == EXACT
    assert keys(corpus) == [f"a/{number:02}.jpg" for number in range(8)] + ["b/00.jpg", "b/02.jpg", "b/03.jpg", "b/04.jpg"]
    counts = corpus.manifest.sources
    assert [(counts[name].rows_in, counts[name].kept, counts[name].duplicates, counts[name].labeled) for name in "ab"] == [(9, 8, 1, 8), (5, 4, 1, 4)]
    assert counts["b"].reasons == {"exact duplicate": 1}
    assert next(corpus.quarantine_iter())["image"][0].as_py() == drawn[2][0]  # nothing is lost


def test_near_duplicates_go_unless_their_labels_differ(ray_session, tmp_path, sources):
    corpus = ingest(sources, tmp_path / "c", Options(duplicates="near", **SMALL))
    assert rejected(corpus) == [*EXACT, ("b/02.jpg", "duplicate", "near duplicate", "a/03.jpg")]


def test_the_order_of_the_sources_decides_which_one_stays(tmp_path, sources):
    corpus = ingest(sources[::-1], tmp_path / "c", Options(duplicates="exact", **SMALL))
    assert rejected(corpus) == [("a/01.jpg", "duplicate", "exact duplicate", "b/01.jpg"), ("a/08.jpg", "duplicate", "exact duplicate", "a/02.jpg")]


def test_a_guarded_benchmark_is_filtered_from_training(tmp_path, sources, drawn):
    benchmark = folder_of(tmp_path / "in/test", [(encoded_again(drawn[0][0]), drawn[0][1]), drawn[9], drawn[10]])
    corpus = ingest(sources, tmp_path / "c", Options(**SMALL), guard=[f"SVT={benchmark}"])
    assert rejected(corpus) == [("a/00.jpg", "filtered", "near a benchmark image", "SVT:SVT/00.jpg"),
                                ("b/04.jpg", "filtered", "benchmark image", "SVT:SVT/01.jpg")]
    assert corpus.rows == 12 and corpus.manifest.sources["a"].filtered == 1


def test_a_corpus_of_nothing_but_the_benchmark_is_refused(tmp_path, sources):
    with pytest.raises(BadInput, match=r"expected images that stay, found that the benchmarks to guard hold all of them \(\d+ benchmark image"):
        ingest(sources[:1], tmp_path / "c", guard=sources[:1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_without_anything_to_drop_the_corpus_is_the_same(tmp_path, drawn):
    source = folder_of(tmp_path / "in/a", drawn)
    plain, sought = ingest([source], tmp_path / "plain", Options(**SMALL)), ingest([source], tmp_path / "sought", Options(duplicates="near", **SMALL))
    assert [shard.sha256 for shard in plain.manifest.shards] == [shard.sha256 for shard in sought.manifest.shards]


@pytest.mark.parametrize("place, calls", [("unique.write_without", 0), ("unique.write_without", 1), ("staging.os.link", 0), ("staging.write_manifest", 0),
                                          ("staging.os.rename", 0), ("staging.os.rename", 1)])
def test_a_kill_loses_nothing_and_doubles_nothing(tmp_path, sources, monkeypatch, place, calls):
    options = Options(duplicates="near", **SMALL)
    whole = ingest(sources, tmp_path / "whole", options)
    module, *inside, name = place.split(".")
    owner = importlib.import_module(f"pipelines.ingestion.{module}")
    owner = getattr(owner, inside[0]) if inside else owner
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing(getattr(owner, name), calls))
        with pytest.raises(Killed):
            ingest(sources, tmp_path / "c", options)
    corpus = ingest(sources, tmp_path / "c", options)
    assert corpus.sha256 == whole.sha256
    assert content(tmp_path / "c") == content(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "in", "whole"]


def test_what_is_done_is_not_done_again(tmp_path, sources, monkeypatch):
    options = Options(duplicates="exact", **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.ingestion.staging.write_manifest", killing(None))
        with pytest.raises(Killed):
            ingest(sources, tmp_path / "c", options)
    monkeypatch.setattr(pipeline, "write_chunk", lambda *arguments: pytest.fail("a shard was written twice"))
    monkeypatch.setattr(unique, "write_without", lambda *arguments: pytest.fail("a shard was written again twice"))
    assert ingest(sources, tmp_path / "c", options).rows == 12


def test_the_command_says_what_went(tmp_path, sources, capsys):
    assert run("ingest", [*sources, "--out", str(tmp_path / "c"), "--duplicates", "near", "--rows-per-shard", "6"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[:4] == [
        "source  in  kept  labeled  duplicates  quarantined  filtered", "a        9     8        8           1            0         0",
        "b        5     3        3           2            0         0", "all     14    11       11           3            0         0"]
    assert "ingest: looks for duplicates" in printed.err


def test_a_guard_that_is_not_there_is_refused_before_anything_is_written(tmp_path, sources, capsys):
    assert run("ingest", [*sources, "--out", str(tmp_path / "c"), "--guard", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: expected " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
