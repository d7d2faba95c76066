"""Foreign formats: every file and every line becomes a row, or says why not."""

import os
import pickle
from pathlib import Path

import lmdb
import pytest

from pipelines.errors import BadInput
from pipelines.sources import Row, open_sources


def make_lmdb(folder: Path, images: dict[int, bytes], labels: dict[int, bytes] | None = None,
              samples: bytes | None = b"auto",
              lock_file: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for number, image in images.items():
            transaction.put(b"image-%09d" % number, image)
        for number, label in (labels or {}).items():
            transaction.put(b"label-%09d" % number, label)
        if samples is not None:
            transaction.put(b"num-samples", b"%d" % len(images) if samples == b"auto" else samples)
    if not lock_file:
        (folder / "lock.mdb").unlink()
    return folder


def make_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def rows_of(source) -> list[Row]:
    rows = [row for piece in source.pieces(1000) for row in piece.read()]
    assert not source.exact or len(rows) == source.count()
    return rows


def only(path: Path | str, **options):
    source, = open_sources([str(path)], **options)
    return source


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
    sources = open_sources([str(tmp_path / "words")])
    assert [(source.name, source.kind) for source in sources] == [
        ("MJ/MJ_train", "lmdb"), ("MJ/MJ_valid", "lmdb"), ("SVT", "folder"), ("crops", "folder")]
    assert [row.key for source in sources for row in rows_of(source)] == [
        "MJ/MJ_train/000000001", "MJ/MJ_valid/000000001", "SVT/images/1.jpg", "crops/x/1.png", "crops/y/2.png"]
    assert open_sources([f"all={tmp_path / 'words'}"])[0].name == "all/MJ/MJ_train"


@pytest.mark.parametrize("samples, images, message", [
    (None, {1: b"a"}, "with the key num-samples, found keys like image-000000001: write the number"),
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


def test_a_tsv_keeps_everything_after_the_first_tab(tmp_path):
    labels = b'\xef\xbb\xbfa.jpg\tplain\nsub/b.jpg\t two\ttabs "quoted" \xe2\x80\xa8 \r\n./c.jpg\t\n\n'
    folder = make_folder(tmp_path / "t", {"labels.tsv": labels, "a.jpg": b"1", "sub/b.jpg": b"2", "c.jpg": b"3"})
    assert rows_of(only(folder)) == [Row("t/a.jpg", b"1", "plain"),
                                     Row("t/sub/b.jpg", b"2", ' two\ttabs "quoted" \u2028 '),
                                     Row("t/c.jpg", b"3", "")]


def test_icdar_labels_have_bom_carriage_returns_and_escaped_quotes(tmp_path):
    labels = (b'\xef\xbb\xbfword_1.jpg, "Tiredness"\r\nword_2.jpg, "say \\"hi\\", \\\\o/"\r\n'
              b'word_3.jpg, "a, b"\r\nword_4.jpg, bare\r\n')
    folder = make_folder(tmp_path / "IC13", {"gt.txt": labels,
                                             **{f"images/word_{n}.jpg": b"%d" % n for n in range(1, 5)}})
    assert [(row.key, row.text) for row in rows_of(only(folder))] == [
        ("IC13/images/word_1.jpg", "Tiredness"), ("IC13/images/word_2.jpg", 'say "hi", \\o/'),
        ("IC13/images/word_3.jpg", "a, b"), ("IC13/images/word_4.jpg", "bare")]


def test_a_gt_txt_with_tabs_is_read_as_tabs(tmp_path):
    folder = make_folder(tmp_path / "g", {"gt.txt": b"a.png\tone, two\n", "a.png": b"1"})
    assert rows_of(only(folder)) == [Row("g/a.png", b"1", "one, two")]


def test_lines_without_an_image_are_rows_with_a_reason(tmp_path):
    labels = b"gone.jpg\tlost\nno tab here\n../outside.jpg\tx\n/etc/passwd\ty\na.jpg\tA\na.jpg\tagain\nb.jpg\tcaf\xe9\n"
    folder = make_folder(tmp_path / "f", {"labels.tsv": labels, "a.jpg": b"1"})
    make_folder(tmp_path, {"outside.jpg": b"secret"})
    assert rows_of(only(folder)) == [
        Row("f/gone.jpg", None, "lost", "missing file", "named in labels.tsv:1"),
        Row("f/labels.tsv:2", None, None, "malformed label line", "b'no tab here'"),
        Row("f/../outside.jpg", None, "x", "path outside the folder", "labels.tsv:3 names ../outside.jpg"),
        Row("f//etc/passwd", None, "y", "path outside the folder", "labels.tsv:4 names /etc/passwd"),
        Row("f/a.jpg", b"1", "A"),
        Row("f/a.jpg", None, "again", "image labeled twice", "line 6 of labels.tsv names it again"),
        Row("f/labels.tsv:7", None, None, "label is not UTF-8", "b'b.jpg\\tcaf\\xe9'")]


def test_images_without_a_line_are_unlabeled_and_come_last(tmp_path):
    folder = make_folder(tmp_path / "p", {"labels.tsv": b"z.jpg\tZ\n", "z.jpg": b"1", "b.PNG": b"2", "a/c.jpeg": b"3",
                                          "Thumbs.db": b"no image", ".hidden.jpg": b"no", "._z.jpg": b"no"})
    assert rows_of(only(folder)) == [Row("p/z.jpg", b"1", "Z"), Row("p/a/c.jpeg", b"3"), Row("p/b.PNG", b"2")]


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
    ({"x": b"file"}, "found a file: name its folder"),
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
