"""Foreign formats: every file and every line becomes a row, or says why not."""

import os
import pickle
import tarfile

import cv2
import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foreign import make_folder, make_lmdb, only, rows_of
from pipelines.errors import BadInput
from pipelines.ingestion.sources import opening
from pipelines.ingestion.sources.opening import open_sources
from pipelines.ingestion.sources.row import Row


def test_an_lmdb_yields_its_images_and_labels_in_order(tmp_path):
    source = only(make_lmdb(tmp_path / "SVT", {1: b"one", 2: b"two"}, {1: "LIVING".encode(), 2: "é".encode()}))
    assert (source.name, source.kind, source.count()) == ("SVT", "lmdb", 2)
    assert rows_of(source) == [Row("SVT/000000001", b"one", "LIVING"), Row("SVT/000000002", b"two", "é")]


def test_an_lmdb_is_read_in_parts_by_other_processes(tmp_path):
    source = only(make_lmdb(tmp_path / "s", {number: b"%d" % number for number in range(1, 1201)}))
    part = pickle.loads(pickle.dumps(source.part(998, 1002)))
    assert [row.key for row in part.read(998, 1002)] == ["s/000000999", "s/000001000", "s/000001001", "s/000001002"]
    assert [row.image for row in part.read(998, 1002)] == [b"999", b"1000", b"1001", b"1002"]


def test_missing_labels_are_unlabeled_images(tmp_path):
    assert [row.text for row in rows_of(only(make_lmdb(tmp_path / "u", {1: b"a", 2: b"b"})))] == [None, None]
    some = make_lmdb(tmp_path / "some", {1: b"a", 2: b"b", 3: b"c"}, {2: b"two"})
    assert [row.text for row in rows_of(only(some))] == [None, "two", None]


def test_an_lmdb_without_a_lock_file_on_read_only_media(tmp_path):
    folder = make_lmdb(tmp_path / "ro", {1: b"a"}, lock_file=False)
    os.chmod(folder / "data.mdb", 0o444)
    os.chmod(folder, 0o555)
    try:
        assert [row.image for row in rows_of(only(folder))] == [b"a"]
        assert os.listdir(folder) == ["data.mdb"]
    finally:
        os.chmod(folder, 0o755)


def test_a_tree_yields_one_source_for_each_leaf(tmp_path):
    make_lmdb(tmp_path / "words/MJ/MJ_train", {1: b"a"})
    make_lmdb(tmp_path / "words/MJ/MJ_valid", {1: b"b"})
    make_folder(tmp_path / "words/SVT", {"labels.tsv": b"images/1.jpg\tA\n", "images/1.jpg": b"c"})
    make_folder(tmp_path / "words/crops/x", {"1.png": b"d"})
    make_folder(tmp_path / "words/crops/y", {"2.png": b"e"})
    make_folder(tmp_path / "words/notes", {"readme.txt": b"no image"})
    opening = open_sources([str(tmp_path / "words")])
    assert [(source.name, source.kind) for source in opening] == [
        ("MJ/MJ_train", "lmdb"), ("MJ/MJ_valid", "lmdb"), ("SVT", "folder"), ("crops", "folder")]
    assert [row.key for source in opening for row in rows_of(source)] == [
        "MJ/MJ_train/000000001", "MJ/MJ_valid/000000001", "SVT/images/1.jpg", "crops/x/1.png", "crops/y/2.png"]
    assert open_sources([f"all={tmp_path / 'words'}"])[0].name == "all/MJ/MJ_train"


def test_a_tree_may_mix_every_format(tmp_path):
    make_lmdb(tmp_path / "t/a/lmdb", {1: b"1"})
    make_folder(tmp_path / "t/b", {"labels.csv": b"file_name,text\n1.jpg,B\n", "1.jpg": b"2"})
    make_folder(tmp_path / "t/c", {"1.png": b"3", "1.gt.txt": b"C\n"})
    for name in ("d/000.tar", "d/001.tar"):
        (tmp_path / "t/d").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "t" / name, "w") as archive:
            archive.add(tmp_path / "t/c/1.png", "x.png")
    make_folder(tmp_path / "t/e/data", {})
    (tmp_path / "t/e/data").mkdir(parents=True)
    pq.write_table(pa.table({"image": [b"5"], "text": ["E"]}), tmp_path / "t/e/data/train.parquet")
    found = open_sources([f"all={tmp_path / 't'}"])
    assert [(source.name, source.kind) for source in found] == [
        ("all/a/lmdb", "lmdb"), ("all/b", "folder"), ("all/c", "folder"), ("all/d", "tar"), ("all/e/data", "parquet")]
    assert [(row.key, row.image, row.text) for source in found for row in rows_of(source)] == [
        ("all/a/lmdb/000000001", b"1", None), ("all/b/1.jpg", b"2", "B"), ("all/c/1.png", b"3", "C"),
        ("all/d/000/x", b"3", None), ("all/d/001/x", b"3", None), ("all/e/data/train/000000001", b"5", "E")]


def test_a_format_may_be_forced(tmp_path):
    folder = make_folder(tmp_path / "x", {"1.jpg": b"1", "labels.tsv": b"1.jpg\tA\n", "notes.parquet": b"none of ours"})
    with pytest.raises(BadInput, match=f"found parquet and folder: say which to read, as in parquet:{folder}"):
        open_sources([str(folder)])
    for argument, name in ((f"folder:{folder}", "x"), (f"train=folder:{folder}", "train")):
        source, = open_sources([argument])
        assert (source.name, rows_of(source)) == (name, [Row(f"{name}/1.jpg", b"1", "A")])
    with pytest.raises(BadInput, match="expected files that end with .tar or .tar.gz or .tgz in this folder, found none"):
        open_sources([f"tar:{folder}"])
    with pytest.raises(BadInput, match="expected an LMDB, found no data.mdb"):
        open_sources([f"lmdb:{folder}"])


def scene(value: int) -> bytes:
    ramp = np.add.outer(np.arange(60, dtype=np.uint8), np.arange(80, dtype=np.uint8)) + value
    return cv2.imencode(".png", ramp.astype(np.uint8))[1].tobytes()


def test_scenes_stand_in_trees_and_their_images_come_in_once(tmp_path):
    line = b"20,30,60,30,60,45,20,45,%s\r\n"
    for part in ("train", "test"):
        make_folder(tmp_path / "t" / f"{part}_gt", {"gt_img_1.txt": line % part.encode() + line % b"###"})
        make_folder(tmp_path / "t" / f"{part}_images", {"img_1.png": scene(len(part))})
    make_folder(tmp_path / "t/words", {"labels.tsv": b"1.png\tW\n", "1.png": b"1"})
    make_folder(tmp_path / "t/crops", {"2.png": b"2"})
    found = open_sources([str(tmp_path / "t")])
    assert [(source.name, source.kind) for source in found] == [
        ("crops", "folder"), ("test_gt", "icdar2015"), ("train_gt", "icdar2015"), ("words", "folder")]
    assert [(row.key, row.text, row.filtered) for row in rows_of(found[2])] == [
        ("train_gt/img_1/001", "train", False), ("train_gt/img_1/002", "###", True)]


def test_a_folder_of_scenes_and_one_annotation_file_are_sources(tmp_path):
    make_folder(tmp_path / "IC15", {"gt/gt_img_1.txt": b"20,30,60,30,60,45,20,45,one\n", "images/img_1.png": scene(0)})
    for argument in (tmp_path / "IC15", f"IC15=icdar2015:{tmp_path / 'IC15'}", f"IC15={tmp_path / 'IC15/gt/gt_img_1.txt'}"):
        source = only(argument)
        assert (source.name, source.kind, [row.text for row in rows_of(source)]) == ("IC15", "icdar2015", ["one"])


@pytest.mark.parametrize("argument, parts", [
    ("words", ("", "", "words")), ("A=words", ("A", "", "words")), ("A/b=words=2", ("A/b", "", "words=2")),
    ("tar:words", ("", "tar", "words")), ("A=tar:words", ("A", "tar", "words")), ("tar:a=b", ("", "tar", "a=b")),
    ("s3://bucket/x=1", ("", "", "s3://bucket/x=1")), ("A=s3://bucket/x=1", ("A", "", "s3://bucket/x=1")),
    ("tar:s3://bucket/x=1", ("", "tar", "s3://bucket/x=1")), ("A=tar:gs://b/{0..9}.tar", ("A", "tar", "gs://b/{0..9}.tar")),
    ("zip:words", ("", "", "zip:words")), ("tar:", ("", "", "tar:")),
])
def test_an_argument_is_a_name_a_format_and_a_path(argument, parts):
    assert opening.split_argument(argument) == parts


def test_a_path_that_looks_like_a_format_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "tar:words", {"1.jpg": b"1"})
    assert [row.key for row in rows_of(only("tar:words"))] == ["tar:words/1.jpg"]
    assert [row.key for row in rows_of(only("A=tar:words"))] == ["A/1.jpg"]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A folder of this machine that answers as s3://bucket."""
    from pyarrow import fs

    from pipelines.corpus import storage
    (tmp_path / "store/bucket").mkdir(parents=True)
    system = fs.SubTreeFileSystem(str(tmp_path / "store"), fs.LocalFileSystem())
    monkeypatch.setattr(storage, "_filesystem", lambda scheme, bucket: system)
    return tmp_path / "store/bucket"


def test_folders_in_an_object_store_are_read_as_those_of_this_machine(store):
    make_folder(store / "words", {"a/labels.tsv": b"1.jpg\tA\ngone.jpg\tG\n", "a/1.jpg": b"1", ".hidden/2.jpg": b"no",
                                  **{f"b/{number:02}.jpg": b"%d" % number for number in range(40)},
                                  "b/07.gt.txt": b"seven\n"})
    first, second = open_sources(["s3://bucket/words"])
    assert (first.name, first.path) == ("a", "s3://bucket/words/a")
    assert rows_of(first) == [Row("a/1.jpg", b"1", "A"), Row("a/gone.jpg", None, "G", "missing file", "named in labels.tsv:2: names are relative to the folder of the images, where no gone.jpg was found")]
    assert rows_of(second) == [Row(f"b/{number:02}.jpg", b"%d" % number, "seven" if number == 7 else None) for number in range(40)]


def test_a_label_file_and_files_of_an_object_store(store):
    make_folder(store / "w", {"list.csv": b"file,text\n1.jpg,A\n", "1.jpg": b"1", "2.jpg": b"2"})
    assert rows_of(only("w=s3://bucket/w/list.csv")) == [Row("w/1.jpg", b"1", "A")]
    pq.write_table(pa.table({"image": [b"5"], "text": ["E"]}), store / "t.parquet")
    assert rows_of(only("s3://bucket/t.parquet")) == [Row("t/t/000000001", b"5", "E")]
    for number in range(2):
        with tarfile.open(store / f"w-{number}.tar", "w") as archive:
            archive.add(store / "w/1.jpg", "x.jpg")
    assert [row.key for row in rows_of(only("s3://bucket/w-{0..1}.tar"))] == ["w/w-0/x", "w/w-1/x"]


def test_an_lmdb_in_an_object_store_is_refused(store):
    make_lmdb(store / "l", {1: b"1"})
    with pytest.raises(BadInput, match="s3://bucket/l: expected an LMDB on this machine, .* copy it to a local disk first"):
        open_sources(["s3://bucket/l"])


@pytest.mark.parametrize("samples, images, message", [
    (None, {1: b"a"}, "with the key num-samples, found keys like image-000000001: write the number .* or add --allow-holes"),
    (b"two", {1: b"a"}, "under num-samples, found b'two'"),
    (b"0", {}, "under num-samples, found b'0'"),
    (b"4", {1: b"a", 4: b"d"}, "images 1 to 4, as num-samples says, found 2 missing, the first is image-000000002: m"),
    (b"3", {1: b"a"}, "found 2 missing, the first is image-000000002"),
    (b"2", {0: b"z", 1: b"a"}, r"the first is image-000000002 \(it counts from image-000000000\)"),
    (b"1", {1: b"a", 2: b"b"}, "found image-000000002 too: correct num-samples"),
])
def test_an_lmdb_whose_keys_are_not_one_to_num_samples_is_refused(tmp_path, samples, images, message):
    with pytest.raises(BadInput, match=message):
        open_sources([str(make_lmdb(tmp_path / "bad", images, samples=samples))])


def test_holes_may_be_allowed_and_are_rows_with_a_reason(tmp_path):
    folder = make_lmdb(tmp_path / "h", {1: b"a", 3: b"c", 5: b"beyond"}, {1: b"A", 2: b"B", 3: b"C"}, samples=b"4")
    assert rows_of(only(folder, allow_holes=True)) == [
        Row("h/000000001", b"a", "A"), Row("h/000000002", None, None, "missing image", "no key image-000000002"),
        Row("h/000000003", b"c", "C"), Row("h/000000004", None, None, "missing image", "no key image-000000004")]


@pytest.mark.parametrize("numbers, samples, keys", [
    ((1, 2, 5), None, [1, 2, 3, 4, 5]),
    ((0, 1, 2), None, [0, 1, 2]),
    ((0, 1, 2), b"3", [0, 1, 2]),
])
def test_without_num_samples_and_counted_from_zero_every_image_comes_in_if_holes_are_allowed(tmp_path, numbers, samples, keys):
    folder = make_lmdb(tmp_path / "h", {number: b"%d" % number for number in numbers}, samples=samples)
    with lmdb.open(str(folder), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"image-notes", b"")
        transaction.put(b"zebra", b"")
    rows = rows_of(only(folder, allow_holes=True))
    assert [row.key for row in rows] == [f"h/{number:09d}" for number in keys]
    assert [row.image for row in rows if not row.problem] == [b"%d" % number for number in numbers]


def test_an_lmdb_without_images_is_refused_whatever_is_allowed(tmp_path):
    folder = make_lmdb(tmp_path / "h", {}, {1: b"A"}, samples=None)
    with pytest.raises(BadInput, match="expected images under keys like image-000000001, found keys like label-000000001"):
        only(folder, allow_holes=True)


def test_a_label_that_is_not_utf8_is_a_row_with_a_reason(tmp_path):
    row, = rows_of(only(make_lmdb(tmp_path / "l", {1: b"a"}, {1: b"caf\xe9"})))
    assert row == Row("l/000000001", None, None, "label is not UTF-8", "b'caf\\xe9'")


@pytest.mark.parametrize("damage, message", [
    (lambda data: b"", "expected a readable LMDB"),
    (lambda data: b"<html>not found</html>" * 1000, "expected a readable LMDB"),
    (lambda data: data[:len(data) // 2], "the file is cut off, copy it again"),
])
def test_a_damaged_lmdb_is_refused(tmp_path, damage, message):
    folder = make_lmdb(tmp_path / "d", {number: bytes(3000) for number in range(1, 101)})
    data = folder / "data.mdb"
    data.write_bytes(damage(data.read_bytes()))
    with pytest.raises(BadInput, match=message):
        open_sources([str(folder)])


def test_a_folder_without_labels_is_unlabeled(tmp_path):
    source = only(make_folder(tmp_path / "n", {"x/2.jpg": b"2", "x/1.jpg": b"1"}))
    assert rows_of(source) == [Row("n/x/1.jpg", b"1"), Row("n/x/2.jpg", b"2")]


def test_a_part_of_a_folder_holds_only_its_own_files(tmp_path):
    source = only(make_folder(tmp_path / "n", {f"{number:03}.jpg": b"%d" % number for number in range(300)}))
    part = source.part(100, 102)
    assert [row.image for row in part.read(100, 102)] == [b"100", b"101"]
    assert len(pickle.dumps(part)) < 1000


def test_links_to_folders_are_followed_once(tmp_path):
    make_folder(tmp_path / "real", {"1.jpg": b"1"})
    folder = make_folder(tmp_path / "linked", {"2.jpg": b"2"})
    (folder / "images").symlink_to(tmp_path / "real")
    (folder / "images" / "back").symlink_to(folder)
    assert [row.key for row in rows_of(only(folder))] == ["linked/2.jpg", "linked/images/1.jpg"]


def test_a_file_name_that_is_not_utf8_is_a_row_with_a_reason(tmp_path):
    folder = make_folder(tmp_path / "n", {"ok.jpg": b"1"})
    with open(os.fsencode(folder) + b"/caf\xe9.jpg", "wb"):
        pass
    bad = next(row for row in rows_of(only(folder)) if row.problem)
    assert (bad.key, bad.problem) == ("n/caf\\udce9.jpg", "file name is not UTF-8")


def test_the_fingerprint_follows_the_files(tmp_path):
    folder = make_folder(tmp_path / "n", {"labels.tsv": b"1.jpg\tA\n", "1.jpg": b"1"})
    before = only(folder).fingerprint
    assert only(folder).fingerprint == before
    make_folder(folder, {"1.jpg": b"11"})
    after = only(folder).fingerprint
    make_folder(folder, {"labels.tsv": b"1.jpg\tB\n"})
    assert len({before, after, only(folder).fingerprint}) == 3


@pytest.mark.parametrize("files, message", [
    ({}, "found no such path: check the spelling"),
    ({"x/readme.md": b""}, "found none: name the folder that holds the images"),
    ({"x/labels.tsv": b"", "x/gt.txt": b""}, "expected one label file, found labels.tsv and gt.txt"),
    ({"x/corpus.json": b"{}"}, "found a corpus: it needs no ingest"),
    ({"x/1.jpg": b"", "x/sub/labels.tsv": b""}, r"found both \(1.jpg lies beside them\)"),
    ({"x": b"file"}, "found a file: name its folder, or say what it is, as in tar:"),
    ({"x/a.tar": b"", "x/b.parquet": b""}, "expected one format, found tar and parquet: say which to read, as in tar:"),
    ({"x/a.tar": b"", "x/1.jpg": b""}, r"found both \(1.jpg lies beside them\)"),
    ({"x/a.tar": b"", "x/more/b.tar": b""}, r"found both \(more/b.tar lies beside them\)"),
    ({"x/corpora/c/corpus.json": b"{}", "x/corpora/c/part-0.parquet": b""}, "x/corpora/c: expected a foreign format, found a corpus"),
])
def test_what_is_no_source_is_refused(tmp_path, files, message):
    make_folder(tmp_path, files)
    with pytest.raises(BadInput, match=message):
        open_sources([str(tmp_path / "x")])


def test_names_that_clash_are_refused_and_may_be_given(tmp_path):
    train = make_folder(tmp_path / "train/SVT", {"1.jpg": b"1"})
    test = make_folder(tmp_path / "test/SVT", {"1.jpg": b"1"})
    with pytest.raises(BadInput, match=f"found two named SVT .* give one another name, as in OTHER={test}"):
        open_sources([str(train), str(test)])
    with pytest.raises(BadInput, match="keys cannot clash, found SVT and SVT/test"):
        open_sources([str(train), f"SVT/test={test}"])
    assert [source.name for source in open_sources([str(train), f"SVT_test={test}"])] == ["SVT", "SVT_test"]


def test_a_path_may_hold_an_equals_sign(tmp_path):
    folder = make_folder(tmp_path / "a=b", {"1.jpg": b"1"})
    assert only(folder).name == "a=b"
    with pytest.raises(BadInput, match="expected PATH or NAME=PATH"):
        open_sources([f"={folder}"])
