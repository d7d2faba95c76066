"""`textray export`: what went in comes out, byte for byte, in the formats of other toolkits."""

import errno
import hashlib
import json
import tarfile
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from foreign import make_lmdb, only, rows_of
from pipelines.cli import run
from pipelines.corpus.manifest import SourceCounts, write_manifest
from pipelines.corpus.quarantine import write_quarantine
from pipelines.corpus.reader import Corpus
from pipelines.corpus.shards import ShardWriter
from pipelines.errors import BadInput
from pipelines.exporting import formats
from pipelines.exporting.copy import export
from pipelines.exporting.formats import ending, sample_key
from pipelines.ingestion.chunks import Options
from pipelines.ingestion.pipeline import ingest

FORMATS = ("lmdb", "webdataset", "folder")


def picture(seed: int, suffix: str = ".jpg") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (3, 6, 3), dtype=np.uint8)
    return cv2.imencode(suffix, cv2.resize(noise, (60, 20), interpolation=cv2.INTER_CUBIC))[1].tobytes()


def make_corpus(folder: Path, sources: dict[str, list[tuple[str, bytes, str | None]]]) -> Corpus:
    folder.mkdir(parents=True)
    shards, counts = [], {}
    for source, rows in sources.items():
        with ShardWriter(folder, source, 0, rows_per_group=4) as writer:
            for key, image, text in rows:
                writer.write(key=key, image=image, text=text, width=60, height=20, phash=1)
        shards.append(writer.entry)
        counts[source] = SourceCounts(rows_in=len(rows), kept=len(rows), labeled=sum(text is not None for _, _, text in rows))
    write_quarantine(folder)
    write_manifest(folder, shards, counts, {})
    return Corpus.open(folder)


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    """Two sources; keys with dots, a text-less row, an empty text, several image formats."""
    words = [(f"words/{number:09d}", picture(number), f"word {number}") for number in range(1, 11)]
    crops = [("crops/a.b/word_1.jpg", picture(20), "schön"), ("crops/a.b/word_1.png", picture(21, ".png"), None),
             ("crops/.x/50%.jpg", picture(22, ".bmp"), ""), ("crops/y", picture(23, ".tiff"), "tiff"),
             ("crops/z", picture(24, ".ppm"), "ppm")]
    return make_corpus(tmp_path / "corpus", {"words": words, "crops": crops})


def pairs_of(corpus: Corpus) -> list[tuple[bytes, str | None]]:
    return [(row["image"], row["text"]) for table in corpus.rows_iter(["image", "text"]) for row in table.to_pylist()]


def by_content(pairs: list[tuple[bytes, str | None]]) -> list[tuple]:
    return sorted(pairs, key=repr)


def content_of(folder: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return dict(transaction.cursor())


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_an_lmdb_comes_back_key_for_key_and_byte_for_byte(tmp_path):
    source = make_lmdb(tmp_path / "in", {number: picture(number) for number in range(1, 31)},
                       {number: f"wörd {number}\t\n".encode() for number in range(1, 31) if number % 3})
    ingest([str(source)], tmp_path / "c", Options(rows_per_shard=7, rows_per_group=3))
    assert export(tmp_path / "c", tmp_path / "out", "lmdb")["labeled"] == 20
    assert content_of(tmp_path / "out") == content_of(source)


@pytest.mark.parametrize("format", FORMATS)
def test_images_and_texts_survive_the_round_trip(corpus, tmp_path, format):
    made = export(corpus.path, tmp_path / "out", format, rows_per_file=4)
    rows = rows_of(only(tmp_path / "out"))
    assert not any(row.problem for row in rows)
    assert by_content([(row.image, row.text) for row in rows]) == by_content(pairs_of(corpus))
    assert (made["rows"], made["labeled"], made["bytes"]) == (15, 14, sum(len(image) for image, _ in pairs_of(corpus)))
    assert not (tmp_path / "out.partial").exists()


def test_an_lmdb_counts_from_one_in_the_order_of_the_corpus(corpus, tmp_path):
    export(corpus.path, tmp_path / "out", "lmdb")
    pairs = pairs_of(corpus)
    expected = {b"num-samples": b"15", **{b"image-%09d" % number: image for number, (image, _) in enumerate(pairs, 1)},
                **{b"label-%09d" % number: text.encode() for number, (_, text) in enumerate(pairs, 1) if text is not None}}
    assert content_of(tmp_path / "out") == expected
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data.mdb", "export.json"]


def test_an_lmdb_grows_and_is_committed_in_parts(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "FIRST_MAP", 1 << 14)
    monkeypatch.setattr(formats, "COMMIT_ROWS", 4)
    export(corpus.path, tmp_path / "out", "lmdb")
    assert [(row.image, row.text) for row in rows_of(only(tmp_path / "out"))] == pairs_of(corpus)


def test_tars_hold_samples_named_by_their_keys(corpus, tmp_path):
    export(corpus.path, tmp_path / "words", "webdataset", rows_per_file=6)
    names = []
    for number in range(3):
        with tarfile.open(tmp_path / f"words/words-{number:06d}.tar") as archive:
            members = archive.getmembers()
            assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in members} == {(0, 0, 0, "", 0o644)}
            names.append([member.name for member in members])
    assert names[0] == ["crops/a.b/word_1%2Ejpg.jpg", "crops/a.b/word_1%2Ejpg.txt", "crops/a.b/word_1%2Epng.png",
                        "crops/%2Ex/50%25%2Ejpg.bmp", "crops/%2Ex/50%25%2Ejpg.txt", "crops/y.tif", "crops/y.txt",
                        "crops/z.ppm", "crops/z.txt", "words/000000001.jpg", "words/000000001.txt"]
    assert [len(part) for part in names] == [11, 12, 6]


@pytest.mark.parametrize("format", ("webdataset", "folder"))
def test_two_exports_give_the_same_bytes(corpus, tmp_path, format):
    for name in ("1", "2"):
        export(corpus.path, tmp_path / name / "out", format)
    assert hashes(tmp_path / "1/out") == hashes(tmp_path / "2/out")


def test_a_folder_has_a_line_for_every_text(corpus, tmp_path):
    made = export(corpus.path, tmp_path / "out", "folder", ["crops"])
    assert made["files"] == ["images", "labels.tsv"]
    assert (tmp_path / "out/labels.tsv").read_text(encoding="utf-8") == (
        "images/000000/000000001.jpg\tschön\nimages/000000/000000003.bmp\t\nimages/000000/000000004.tif\ttiff\n"
        "images/000000/000000005.ppm\tppm\n")
    assert (tmp_path / "out/images/000000/000000002.png").read_bytes() == picture(21, ".png")


@pytest.mark.parametrize("text", ["two\nlines", "a\ttab", "end\r"])
def test_texts_that_do_not_fit_a_line_are_written_as_json(tmp_path, capsys, text):
    corpus = make_corpus(tmp_path / "c", {"s": [("s/1", picture(1), "plain"), ("s/2", picture(2), text)]})
    assert run("export", [corpus.path, "--format", "folder", "--out", str(tmp_path / "out")]) == 0
    assert "in images and labels.jsonl (some texts hold tabs or line breaks)" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/labels.jsonl").read_text(encoding="utf-8").splitlines()[0]) == {
        "file_name": "images/000000/000000001.jpg", "text": "plain", "key": "s/1"}
    assert [row.text for row in rows_of(only(tmp_path / "out"))] == ["plain", text]


@pytest.mark.parametrize("format", FORMATS)
def test_images_without_texts_are_exported_without_labels(tmp_path, format):
    corpus = make_corpus(tmp_path / "c", {"s": [("s/1", picture(1), None)]})
    export(corpus.path, tmp_path / "out", format)
    assert [(row.image, row.text) for row in rows_of(only(tmp_path / "out"))] == [(picture(1), None)]


def test_sources_are_chosen_by_name(corpus, tmp_path, capsys):
    assert run("export", [corpus.path, "--format", "lmdb", "--out", str(tmp_path / "out"), "--sources", "words"]) == 0
    assert f"{tmp_path / 'out'}: 10 images (10 labeled) in an LMDB" in capsys.readouterr().out
    assert [row.text for row in rows_of(only(tmp_path / "out"))] == [f"word {number}" for number in range(1, 11)]
    with pytest.raises(BadInput, match=r"expected sources of .* \(words, crops\), found 'word': correct it"):
        export(corpus.path, tmp_path / "no", "lmdb", ["word"])


def test_only_an_earlier_export_is_ever_replaced(corpus, tmp_path):
    out = tmp_path / "out"
    export(corpus.path, out, "lmdb")
    with pytest.raises(BadInput, match="found an earlier export: choose another --out, or add --overwrite"):
        export(corpus.path, out, "folder")
    export(corpus.path, out, "folder", ["crops"], overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "images", "labels.tsv"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(BadInput, match="expected a free name or an earlier export .*, found something else"):
        export(corpus.path, tmp_path / "mine", "lmdb", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "mine", "out"]


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left on device"), lmdb.DiskError("no space")])
def test_a_full_disk_ends_it_cleanly_and_leaves_the_old_export(corpus, tmp_path, monkeypatch, problem):
    export(corpus.path, tmp_path / "out", "lmdb")

    def full(self):
        raise problem

    monkeypatch.setattr(formats.LmdbWriter, "close", full)
    with pytest.raises(BadInput, match="expected room to write it, found the disk full: free some space and run"):
        export(corpus.path, tmp_path / "out", "lmdb", overwrite=True)
    assert len(rows_of(only(tmp_path / "out"))) == 15
    assert not (tmp_path / "out.partial").exists()


def test_an_export_that_was_killed_is_made_anew(corpus, tmp_path):
    partial = tmp_path / "out.partial"
    (partial / "new").mkdir(parents=True)
    (partial / "new/data.mdb").write_bytes(b"half")
    export(corpus.path, tmp_path / "out", "lmdb")
    assert len(rows_of(only(tmp_path / "out"))) == 15 and not partial.exists()
    partial.mkdir()
    (tmp_path / "out").rename(partial / "old")  # killed in the moment of replacement: the old export comes back
    with pytest.raises(BadInput, match="found an earlier export"):
        export(corpus.path, tmp_path / "out", "lmdb")
    assert len(rows_of(only(tmp_path / "out"))) == 15 and not partial.exists()


def test_a_target_in_the_corpus_or_in_a_store_is_refused(corpus, tmp_path):
    with pytest.raises(BadInput, match="expected a folder apart from the corpus"):
        export(corpus.path, Path(corpus.path) / "lmdb", "lmdb")
    with pytest.raises(BadInput, match="expected a folder of this machine, found a URI"):
        export(corpus.path, "s3://bucket/x", "lmdb")


def test_names_of_samples_differ_as_their_keys_do():
    keys = ["a/b.jpg", "a/b.png", "a/b", "a/b%2Ejpg", "a.b/c", ".a/b", "%2Ea/b", "a/.b"]
    names = [sample_key(key) for key in keys]
    assert len(set(names)) == len(keys)
    assert all("." not in name.rsplit("/", 1)[-1] and not name.startswith(".") for name in names)


@pytest.mark.parametrize("image, key, expected", [
    (b"\xff\xd8\xff\xe0", "a.png", ".jpg"), (b"\x89PNG\r\n\x1a\n", "a", ".png"), (b"P6 1 1", "a", ".ppm"), (b"P5 1 1", "a", ".pgm"),
    (b"????", "x/a.webp", ".webp"), (b"????", "x/a", ".img")])
def test_endings_follow_the_bytes(image, key, expected):
    assert ending(image, key) == expected
