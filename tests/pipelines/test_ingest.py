"""Foreign formats in, a corpus out: exact accounts, the same bytes each time, nothing half-written."""

import errno
import json
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pyarrow as pa
import pytest

from killing import Killed, killing
from pipelines.cli import run
from pipelines.corpus.images import decode_gray, perceptual_hash
from pipelines.corpus.manifest import write_manifest
from pipelines.corpus.reader import Corpus
from pipelines.corpus.shards import ShardWriter
from pipelines.errors import BadInput
from pipelines.ingestion.chunks import Chunk, Options, filter_reason, inspect, write_chunk
from pipelines.ingestion.pipeline import ingest
from pipelines.ingestion.sources.opening import open_sources
from pipelines.ingestion.sources.row import ReadOptions, Row
from pipelines.ingestion.staging import LocalStaging
from pipelines.progress import Progress


def jpeg(seed: int, width: int = 60, height: int = 20) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (3, 6, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))[1].tobytes()


def make_lmdb(folder: Path, images: dict[int, bytes], labels: dict[int, str] | None = None,
              samples: int | None = None) -> Path:
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        for number, image in images.items():
            transaction.put(b"image-%09d" % number, image)
        for number, label in (labels or {}).items():
            transaction.put(b"label-%09d" % number, label.encode())
        transaction.put(b"num-samples", b"%d" % (samples or len(images)))
    return folder


def make_folder(folder: Path, images: dict[str, bytes], labels: str | None = None) -> Path:
    folder.mkdir(parents=True)
    for name, image in images.items():
        (folder / name).write_bytes(image)
    if labels is not None:
        (folder / "labels.tsv").write_text(labels, encoding="utf-8")
    return folder


@pytest.fixture
def sources(tmp_path) -> list[str]:
    """An LMDB of 25 labeled words and a folder of 4 images, 3 of them labeled."""
    words = make_lmdb(tmp_path / "in/words", {number: jpeg(number) for number in range(1, 26)},
                      {number: f"word{number}" for number in range(1, 26)})
    images = {f"{name}.jpg": jpeg(100 + number) for number, name in enumerate("abcd")}
    crops = make_folder(tmp_path / "in/crops", images, "a.jpg\tA\nc.jpg\tC c\nd.jpg\tÜber\n")
    return [str(words), str(crops)]


SMALL = Options(rows_per_shard=10, rows_per_group=4)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def all_rows(corpus: Corpus) -> list[dict]:
    return pa.concat_tables(corpus.rows_iter()).to_pylist()


def rejected(corpus: Corpus) -> list[tuple[str, str, str]]:
    return [(row["key"], row["kind"], row["reason"]) for table in corpus.quarantine_iter() for row in table.to_pylist()]


def left_in(folder: Path, but: str = "in") -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != but)


def test_every_row_arrives_once_with_its_bytes_and_label(ray_session, tmp_path, sources):
    corpus = ingest(sources, tmp_path / "c", SMALL)
    rows = {row["key"]: row for row in all_rows(corpus)}
    assert len(rows) == corpus.rows == 29
    assert rows["words/000000007"] == {
        "key": "words/000000007", "image": jpeg(7), "text": "word7", "source": "words", "width": 60, "height": 20,
        "phash": perceptual_hash(decode_gray(jpeg(7))), "confidence": None, "labeler": None}
    assert (rows["crops/c.jpg"]["text"], rows["crops/b.jpg"]["text"]) == ("C c", None)
    assert [(shard.name, shard.row_groups) for shard in corpus.manifest.shards] == [
        ("part-crops-00000.parquet", [4]), ("part-words-00000.parquet", [4, 4, 2]),
        ("part-words-00001.parquet", [4, 4, 2]), ("part-words-00002.parquet", [4, 1])]
    assert {name: counts.model_dump(by_alias=True) for name, counts in corpus.manifest.sources.items()} == {
        "crops": {"in": 4, "kept": 4, "duplicates": 0, "quarantined": 0, "filtered": 0, "labeled": 3, "reasons": {}},
        "words": {"in": 25, "kept": 25, "duplicates": 0, "quarantined": 0, "filtered": 0, "labeled": 25, "reasons": {}}}


def test_two_runs_give_the_same_bytes_and_no_other_files(ray_session, tmp_path, sources, monkeypatch):
    """One by the tasks of Ray, one in this process."""
    ingest(sources, tmp_path / "a", SMALL)
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr("ray.data.from_items", None)
    ingest(sources, tmp_path / "b", SMALL)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert left_in(tmp_path) == ["a", "b"]


def test_bad_rows_are_quarantined_and_small_ones_filtered_with_exact_counts(tmp_path):
    images = {number: jpeg(number) for number in range(1, 21)}
    images |= {3: images[3][:-40], 5: b"", 8: b"<html>", 11: jpeg(11, width=40, height=6)}
    labels = {number: "w" * number for number in range(1, 21)}
    folder = make_lmdb(tmp_path / "in/mixed", images, labels)
    corpus = ingest([str(folder)], tmp_path / "c", Options(min_side=8, max_length=19, rows_per_shard=7),
                    max_errors=0.15)
    assert corpus.manifest.sources["mixed"].model_dump(by_alias=True) == {
        "in": 20, "kept": 15, "duplicates": 0, "quarantined": 3, "filtered": 2, "labeled": 15,
        "reasons": {"empty image": 1, "not an image": 1, "side below 8 px": 1, "text longer than 19": 1,
                    "truncated image": 1}}
    assert rejected(corpus) == [
        ("mixed/000000003", "quarantined", "truncated image"), ("mixed/000000005", "quarantined", "empty image"),
        ("mixed/000000008", "quarantined", "not an image"), ("mixed/000000011", "filtered", "side below 8 px"),
        ("mixed/000000020", "filtered", "text longer than 19")]
    kept = {row["key"] for row in all_rows(corpus)}
    assert kept == {f"mixed/{number:09d}" for number in range(1, 21)} - {key for key, _, _ in rejected(corpus)}


def test_missing_files_and_allowed_holes_are_quarantined(tmp_path):
    holes = make_lmdb(tmp_path / "in/holes", {1: jpeg(1), 3: jpeg(3)}, samples=3)
    folder = make_folder(tmp_path / "in/files", {"a.jpg": jpeg(4)}, "a.jpg\tA\ngone.jpg\tG\n")
    corpus = ingest([str(holes), str(folder)], tmp_path / "c", max_errors=0.5, reading=ReadOptions(allow_holes=True))
    assert rejected(corpus) == [("files/gone.jpg", "quarantined", "missing file"),
                                ("holes/000000002", "quarantined", "missing image")]
    assert corpus.rows == 3


def test_too_many_bad_rows_leave_nothing(ray_session, tmp_path):
    images = {number: jpeg(number) if number != 4 else b"bad" for number in range(1, 51)}
    folder = str(make_lmdb(tmp_path / "in/bad", images))
    with pytest.raises(BadInput, match=r"at most 1.00% unusable rows \(--max-errors\), "
                                       r"found 1 of 50 \(2.00%; 1 not an image\), "
                                       "as bad/000000004: not an image: correct"):
        ingest([folder], tmp_path / "c")
    assert left_in(tmp_path) == []
    assert ingest([folder], tmp_path / "c", max_errors=0.02).rows == 49


def test_names_that_do_not_fit_the_folder_are_said_to(tmp_path):
    """Relative to the working folder, and without their ending."""
    make_folder(tmp_path / "in/photos", {f"{name}.jpg": jpeg(number) for number, name in enumerate("abcd")})
    labels = tmp_path / "own.csv"
    said = (rf"labels name images that are not there, as {tmp_path}/in/photos/{{}}; their names are relative to the folder of the images, with their endings: correct them{{}}$")
    for names, looked_for in ((["photos/a.jpg", "photos/b.jpg"], "photos/a.jpg"), (["a", "b"], "a")):
        labels.write_text("file_name,text\n" + "".join(f"{name},x\n" for name in names), encoding="utf-8")
        reading = ReadOptions(labels=str(labels))
        with pytest.raises(BadInput, match=r"found 2 of 6 \(33.33%; 2 missing file\).*: " + said.format(looked_for, ", or raise --max-errors")):
            ingest([str(tmp_path / "in/photos")], tmp_path / "c", reading=reading)
        with pytest.raises(BadInput, match=r"found all 6 rejected \(2 missing file, 4 no label\): " + said.format(looked_for, "")):
            ingest([str(tmp_path / "in/photos")], tmp_path / "c", Options(only="labeled"), reading=reading, max_errors=1.0)


def test_a_corpus_of_which_nothing_is_left_is_refused(tmp_path, sources):
    with pytest.raises(BadInput, match=r"found all 29 rejected \(29 side below 100 px\): loosen the filters"):
        ingest(sources, tmp_path / "c", Options(min_side=100))
    assert left_in(tmp_path) == []


def test_a_chunk_of_which_nothing_is_left_makes_no_shard(tmp_path):
    images = {number: jpeg(number, height=6 if number <= 10 else 20) for number in range(1, 16)}
    corpus = ingest([str(make_lmdb(tmp_path / "in/s", images))], tmp_path / "c", Options(min_side=8, rows_per_shard=10))
    assert [shard.name for shard in corpus.manifest.shards] == ["part-s-00001.parquet"]
    assert sorted(content(tmp_path / "c")) == ["corpus.json", "part-s-00001.parquet", "quarantine.parquet"]


def test_a_killed_ingest_continues_and_ends_with_the_same_bytes(ray_session, tmp_path, sources, monkeypatch, capsys):
    ingest(sources, tmp_path / "whole", SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", killing(None))
        with pytest.raises(Killed):
            ingest(sources, tmp_path / "c", SMALL)
    assert left_in(tmp_path) == ["c.partial", "whole"]
    (tmp_path / "c.partial/corpus/part-words-00009.parquet.123.tmp").write_bytes(b"half a shard")
    capsys.readouterr()
    ingest(sources, tmp_path / "c", SMALL)
    assert "ingest: continues in " in capsys.readouterr().err
    assert content(tmp_path / "c") == content(tmp_path / "whole")
    assert left_in(tmp_path) == ["c", "whole"]


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_while_a_corpus_is_replaced_loses_neither(tmp_path, sources, monkeypatch, moment):
    """Killed before or after each of the two renames that replace a corpus."""
    import os
    ingest(sources[:1], tmp_path / "c", SMALL)
    ingest(sources, tmp_path / "whole", SMALL)
    renames = []

    def rename(old, new, real=os.rename):
        renames.append(old)
        if len(renames) == moment // 2 + 1 and moment % 2 == 0:
            raise Killed
        real(old, new)
        if len(renames) == moment // 2 + 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.ingestion.staging.os.rename", rename)
        with pytest.raises(Killed):
            ingest(sources, tmp_path / "c", SMALL, overwrite=True)
    ingest(sources, tmp_path / "c", SMALL, overwrite=True)
    assert content(tmp_path / "c") == content(tmp_path / "whole")
    assert left_in(tmp_path) == ["c", "whole"]


def test_a_damaged_or_changed_beginning_is_not_continued(tmp_path, sources, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LocalStaging, "publish", killing(None))
        with pytest.raises(Killed):
            ingest(sources, tmp_path / "c", SMALL)
    shard = tmp_path / "c.partial/corpus/part-words-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    (tmp_path / "in/crops/b.jpg").write_bytes(jpeg(7))
    corpus = ingest(sources, tmp_path / "c", SMALL)
    assert {row["key"]: row["image"] for row in all_rows(corpus)}["crops/b.jpg"] == jpeg(7)
    assert corpus.rows == 29


def test_a_corpus_is_replaced_only_on_request(tmp_path, sources):
    ingest(sources, tmp_path / "c", SMALL)
    before = content(tmp_path / "c")
    with pytest.raises(BadInput, match="found a corpus: choose another --out, or add --overwrite"):
        ingest(sources[:1], tmp_path / "c", SMALL)
    assert content(tmp_path / "c") == before
    assert ingest(sources[:1], tmp_path / "c", SMALL, overwrite=True).rows == 25
    assert left_in(tmp_path) == ["c"]


def test_a_failed_replacement_leaves_the_old_corpus(tmp_path, sources):
    ingest(sources, tmp_path / "c", SMALL)
    before = content(tmp_path / "c")
    with pytest.raises(BadInput, match="loosen the filters"):
        ingest(sources, tmp_path / "c", Options(min_side=100), overwrite=True)
    assert content(tmp_path / "c") == before
    assert left_in(tmp_path) == ["c"]


@pytest.mark.parametrize("prepare, out, message", [
    (lambda folder: (folder / "c").write_text("notes", encoding="utf-8"), "c", "found a file: choose another --out"),
    (lambda folder: make_folder(folder / "c", {"mine.jpg": b""}), "c", "found a folder with other files"),
    (lambda folder: None, "in/words/c", "found one that overlaps with"),
    (lambda folder: None, "in", "found one that overlaps with"),
])
def test_a_place_that_is_taken_is_refused_and_left_alone(tmp_path, sources, prepare, out, message):
    prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match=message):
        ingest(sources, tmp_path / out, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_two_at_once_do_not_write_the_same_corpus(tmp_path, sources):
    from pipelines.ingestion.staging import open_staging
    with open_staging(tmp_path / "c"), pytest.raises(BadInput, match="found another process at work"):
        ingest(sources, tmp_path / "c")


def test_a_full_disk_is_told_and_what_is_done_is_kept(tmp_path, sources, monkeypatch):
    source = open_sources(sources[:1])[0]

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardWriter, "write", full)
    with pytest.raises(BadInput, match="part-words-00000.parquet: expected room to write it, found the disk full: free"):
        write_chunk(Chunk(source.name, 0, next(source.pieces(10))), str(tmp_path), str(tmp_path), SMALL)
    assert left_in(tmp_path) == []


def test_the_command_prints_the_account_and_where_the_corpus_is(tmp_path, sources, capsys):
    assert run("ingest", [*sources, "--out", str(tmp_path / "c"), "--min-side", "8"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[:4] == [
        "source  in  kept  labeled  duplicates  quarantined  filtered", "crops    4     4        3           0            0         0",
        "words   25    25       25           0            0         0", "all     29    29       28           0            0         0"]
    assert f"{tmp_path / 'c'}: 29 images in 2 shards" in printed.out
    assert "ingest: 29 of 29 images (100 %)" in printed.err
    made_by = json.loads((tmp_path / "c/corpus.json").read_text(encoding="utf-8"))["made_by"]
    assert made_by["sources"] == sources and made_by["options"]["min_side"] == 8


@pytest.mark.parametrize("option, message", [
    (["--rows-per-group", "0"], "--rows-per-group: expected 1 or more, found 0"),
    (["--max-errors", "5"], "--max-errors: expected a share from 0 to 1, found 5.0"),
    (["--min-side", "-1"], "--min-side: expected 0 or more, found -1"),
])
def test_options_out_of_range_are_bad_input(tmp_path, sources, capsys, option, message):
    assert run("ingest", [*sources, "--out", str(tmp_path / "c"), *option]) == 2
    assert message in capsys.readouterr().err
    assert left_in(tmp_path) == []


def test_bad_sources_are_bad_input_and_leave_nothing(tmp_path, capsys):
    folder = make_lmdb(tmp_path / "in/holes", {1: jpeg(1)}, samples=2)
    assert run("ingest", [str(folder), "--out", str(tmp_path / "c")]) == 2
    assert capsys.readouterr().err.startswith(f"textray: error: {folder}: expected images 1 to 2, as num-samples "
                                              "says, found 1 missing")
    assert left_in(tmp_path) == []


def test_what_does_not_look_like_a_word_is_filtered_by_published_defaults():
    defaults = Options()
    assert (defaults.min_side, defaults.max_aspect, defaults.min_contrast, defaults.unicode) == (4, 40, 8, "NFC")
    shade = np.arange(200, dtype=np.uint8)[None].repeat(30, axis=0)  # (30, 200): lighter from left to right
    assert filter_reason(shade, None, defaults) is None
    assert filter_reason(shade[:3], None, defaults) == ("side below 4 px", "200 x 3")
    assert filter_reason(shade[:4], None, defaults) == ("longer than 40 : 1", "200 x 4")
    assert filter_reason(shade[:, :8], None, defaults) == ("blank image", "grey values differ by 7")
    assert filter_reason(shade[:, :9], None, defaults) is None
    assert filter_reason(shade, "abcd", Options(max_length=3)) == ("text longer than 3", "4 characters")


@pytest.mark.parametrize("form, kept", [("NFC", "\u00e9 \ufb01 \u4eac"), ("NFKC", "\u00e9 fi \u4eac"), ("as is", "e\u0301 \ufb01 \u4eac")])
def test_labels_keep_their_script_and_get_one_normal_form(form, kept):
    row = Row("s/1", cv2.imencode(".png", np.arange(200, dtype=np.uint8)[None].repeat(30, axis=0))[1].tobytes(), "e\u0301 \ufb01 \u4eac")
    assert inspect(row, "s", Options(unicode=form)).row.text == kept


def test_names_of_any_kind_come_through(tmp_path, monkeypatch, capsys):
    (tmp_path / "a b?%20#[1]+(2)").mkdir()
    monkeypatch.chdir(tmp_path / "a b?%20#[1]+(2)")
    make_folder(Path("w?%20 +[x](y)"), {"p?%20 #+.png": jpeg(0), "q.jfif": jpeg(1), "r.heic": b"\0\0\0\x18ftypheic" + bytes(20)})
    assert run("ingest", ["w?%20 +[x](y)", "n (1)+[2]=w?%20 +[x](y)", "--out", "c?%20 [z]", "--max-errors", "0.5"]) == 0
    corpus = Corpus.open("c?%20 [z]")
    assert sorted(row["key"] for row in all_rows(corpus)) == [f"{source}/{name}" for source in ("n (1)+[2]", "w?%20 +[x](y)") for name in ("p?%20 #+.png", "q.jfif")]
    assert {key: reason for key, _, reason in rejected(corpus)} == {f"{source}/r.heic": "image format that is not read" for source in ("n (1)+[2]", "w?%20 +[x](y)")}
    assert left_in(tmp_path) == ["a b?%20#[1]+(2)"]


def test_what_a_task_of_a_killed_ingest_still_writes_does_not_come_into_the_corpus(tmp_path, sources, monkeypatch):
    """It goes on for a moment where the cluster lives on, up to the time at which the corpus gets its name."""
    def written_late(folder, *arguments):
        (Path(folder) / "part-words-00002.parquet.11431.tmp").write_bytes(b"half a shard")
        return write_manifest(folder, *arguments)

    monkeypatch.setattr("pipelines.ingestion.staging.write_manifest", written_late)
    ingest(sources, tmp_path / "c", SMALL)
    assert [name for name in content(tmp_path / "c") if name.endswith(".tmp")] == []


def test_labels_may_lie_elsewhere(tmp_path, capsys):
    folder = tmp_path / "photos"
    (folder / "day").mkdir(parents=True)
    for number in range(4):
        (folder / ("day" if number > 1 else ".") / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "few.csv").write_text("file_name,text\n0.jpg,zero\nday/3.jpg,three\n", encoding="utf-8")
    corpus = ingest([str(folder)], tmp_path / "c", reading=ReadOptions(labels=str(tmp_path / "few.csv")))
    assert {row["key"]: row["text"] for table in corpus.rows_iter(["key", "text"]) for row in table.to_pylist()} == {
        "photos/0.jpg": "zero", "photos/1.jpg": None, "photos/day/2.jpg": None, "photos/day/3.jpg": "three"}
    (tmp_path / "few.csv").write_text("file_name,text\n0.jpg,naught\n", encoding="utf-8")
    assert run("ingest", [str(folder), "--labels", str(tmp_path / "few.csv"), "--out", str(tmp_path / "d")]) == 0  # not what was there before
    assert [row["text"] for table in Corpus.open(tmp_path / "d").rows_iter(["text"]) for row in table.to_pylist()] == ["naught", None, None, None]
    capsys.readouterr()
    (folder / "labels.tsv").write_text("1.jpg\tone\n", encoding="utf-8")
    for sources, labels, sentence in (([folder], "few.csv", f"few.csv: expected a folder without labels of its own, found {folder}/labels.tsv: leave one of the two out"),
                                      ([folder], "none.csv", "none.csv: expected a label file, found no such file: correct its name"),
                                      ([folder, f"more={folder}"], "few.csv", "expected one folder of images, to which the labels belong, found")):
        if labels == "none.csv":
            (folder / "labels.tsv").unlink()
        assert run("ingest", [*map(str, sources), "--labels", str(tmp_path / labels), "--out", str(tmp_path / "e")]) == 2
        assert sentence in capsys.readouterr().err


def test_one_image_is_an_image(tmp_path, capsys):
    folder = make_folder(tmp_path / "in/one", {"a.jpg": jpeg(1)})
    assert run("ingest", [str(folder), "--out", str(tmp_path / "c")]) == 0
    shown = capsys.readouterr()
    assert "ingest: 1 image from 1 source\n" in shown.err and f"{tmp_path}/c: 1 image in 1 shard, " in shown.out
