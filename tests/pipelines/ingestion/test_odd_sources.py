"""Sources that are not what they look like: a sentence, or rows with a reason; nothing is lost, nothing is read that nobody pointed at."""

import io
import json
import os
import tarfile
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from foreign import make_folder, only, rows_of
from pipelines.corpus.image_formats import ENDINGS
from pipelines.errors import BadInput
from pipelines.ingestion.sources.files import expand_braces
from pipelines.ingestion.sources.opening import OPENED_BY, open_sources
from pipelines.ingestion.sources.row import Row

PNG = bytes(cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8))[1])
LINE = "1,1,20,1,20,10,1,10,word\n"


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_image_of_every_ending_comes_in(tmp_path, ending):
    folder = make_folder(tmp_path / "f", {f"a{ending}": b"1", f"B{ending.upper()}": b"2"})
    assert [row.key for row in rows_of(only(folder))] == [f"f/B{ending.upper()}", f"f/a{ending}"]


def test_an_image_is_one_whatever_its_name_ends_in(tmp_path):
    folder = make_folder(tmp_path / "f", {"word_1": PNG, "word_2.jpg_large": PNG, "word_3.jpg~": PNG, "photo.heic": b"\0\0\0\x18ftypheic", "word_4": b"text",
                                          "word_1.gt.txt": b"one", "Thumbs.db": b"no", "notes.txt": PNG, ".hidden": PNG})
    assert [(row.key, row.text, row.problem) for row in rows_of(only(folder))] == [
        ("f/photo.heic", None, None), ("f/word_1", "one", None), ("f/word_2.jpg_large", None, None), ("f/word_3.jpg~", None, None)]


def test_a_folder_of_images_without_endings_is_a_source_of_a_tree(tmp_path):
    make_folder(tmp_path / "t", {"labeled/labels.tsv": b"a.png\tA\n", "labeled/a.png": PNG, "loose/1": PNG, "notes/readme": b"none"})
    assert [source.name for source in open_sources([str(tmp_path / "t")])] == ["labeled", "loose"]
    with pytest.raises(BadInput, match="expected images or folders of sources, found both .cover lies beside them"):
        open_sources([str(make_folder(tmp_path / "t", {"cover": PNG}))])


def test_a_sample_of_a_tar_has_an_image_whatever_its_name_ends_in(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name, data in {"a.img": PNG, "a.txt": b"A", "b.jfif": PNG, "b.cls": PNG, "c": PNG, "README": b"none", "d.avif": PNG, "e.one": PNG, "e.two": PNG,
                           "f.cls": b"7"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert [(row.key, row.text, row.problem) for row in rows_of(only(tmp_path / "t.tar"))] == [
        ("t/t/a", "A", None), ("t/t/b", None, None), ("t/t/c", None, None), ("t/t/d", None, None), ("t/t/e", None, "two images in one sample"),
        ("t/t/f", None, "no image in sample")]


def test_a_link_that_leads_nowhere_is_counted(tmp_path):
    folder = make_folder(tmp_path / "f", {"a.png": PNG})
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "loop.png").symlink_to("loop.png")
    assert [(row.key, row.problem) for row in rows_of(only(folder))] == [
        ("f/a.png", None), ("f/gone.png", "unreadable file"), ("f/loop.png", "unreadable file")]


@pytest.mark.parametrize("pattern, paths", [
    ("w-{08..11}.tar", ["w-08.tar", "w-09.tar", "w-10.tar", "w-11.tar"]), ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]), ("w-{3..1}", ["w-3", "w-2", "w-1"]),
    ("{5..5}", ["5"]), ("{a,}", ["a", ""]), ("{a}{1..}{..}", ["{a}{1..}{..}"]), ("w-{٠..٩}.tar", ["w-{٠..٩}.tar"]), ("{1..1}" * 2000, ["1" * 2000])])
def test_a_pattern_means_its_files(pattern, paths):
    assert expand_braces(pattern) == paths


@pytest.mark.parametrize("pattern", ["w-{0000..999999999}.tar", "w-{999999999999999999..0}.tar", "{0..9}" * 40 + ".tar", "{a,b}" * 40 + ".tar",
                                     "w-{1..100001}.parquet"])
def test_a_pattern_without_bounds_is_refused_before_it_is_written_out(pattern):
    with pytest.raises(BadInput, match="expected a pattern of at most 100,000 files, found one of more: correct its numbers, or name the folder"):
        open_sources([pattern])


def odd_places(folder: Path) -> list[str]:
    """Files where folders are expected, folders where files are, and what is neither."""
    for name in ("labels.tsv", "gt.txt", "metadata.csv", "data.mdb", "corpus.json", "words.tar", "words.parquet", "gt_1.txt", "list.jsonl"):
        make_folder(folder, {f"as-folder-{name}/{name}/inside.txt": b"no image", f"empty-{name}/{name}": b"", f"picture-{name}/{name}": PNG,
                             f"binary-{name}/{name}": bytes(range(256)) * 3})
    for name in ("a.tsv", "a.csv", "a.jsonl", "a.txt", "a.tar", "a.tar.gz", "a.parquet", "a.json", "a.xml", "a.mat", "a.png", "data.mdb", "a"):
        make_folder(folder, {f"pictures/{name}": PNG, f"wide/{name}": LINE.encode("utf-16-le"), f"nothing/{name}": b""})
    (folder / "links").mkdir()
    (folder / "links/dangling").symlink_to("nowhere")
    (folder / "links/loop").symlink_to("loop")
    os.mkfifo(folder / "pipe.tar")
    (folder / "holds nothing").mkdir()
    inside = [str(path) for path in sorted(folder.rglob("*"))]
    return [*inside, "/dev/null", "n" * 300, f"{folder}/{'n' * 300}/x", f"{folder}/pictures/a.png/x", "missing.tar", "missing-{0..3}.tar", os.fsdecode(b"\xff\xfe"),
            f"{folder}/{os.fsdecode(bytes([255]))}.tar", "x" * 5000, "s3:/bucket", "ftp://host/x", "=", "x=", "lmdb:", "{" * 300]


def test_whatever_a_source_is_it_ends_in_rows_or_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in odd_places(tmp_path / "odd"):
        for argument in (place, *(f"{format}:{place}" for format in OPENED_BY)):
            try:
                rows = [row for source in open_sources([argument]) for piece in source.pieces(100) for row in piece.read()]
            except BadInput as problem:
                assert "expected " in str(problem) and "\n" not in str(problem), argument
            else:
                assert rows, argument  # and what is wrong with one stands in it


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is readable for root")
def test_a_place_that_cannot_be_read_is_named(tmp_path):
    folder = make_folder(tmp_path / "f", {"below/a.png": PNG})
    (folder / "below").chmod(0)
    try:
        with pytest.raises(BadInput, match="below.*: expected a readable file or folder, found Permission denied: correct its name"):
            only(folder)
    finally:
        (folder / "below").chmod(0o755)


def textocr(*names: str) -> bytes:
    return json.dumps({"imgs": {str(number): {"file_name": name} for number, name in enumerate(names)}, "anns": {
        str(number): {"image_id": str(number), "points": [1, 1, 20, 1, 20, 10, 1, 10], "utf8_string": "A"} for number, _ in enumerate(names)}}).encode()


def test_annotations_bring_in_no_file_from_elsewhere(tmp_path):
    make_folder(tmp_path, {"secret/1.png": PNG, "secret/folder/4.png": PNG, "set/images/1.png": PNG, "set/images/2.png": PNG, "set/images/s/5.png": PNG})
    (tmp_path / "set/images/3.png").symlink_to(tmp_path / "secret/1.png")
    (tmp_path / "set/images/link").symlink_to(tmp_path / "secret/folder")
    (tmp_path / "set/images/6.png").symlink_to("2.png")
    names = ["../images/1.png", str(tmp_path / "set/images/1.png"), "a/../../1.png", "..\\1.png", "C:\\1.png", "3.png", "link/4.png", "2.png", "x/../5.png",
             "6.png"]
    make_folder(tmp_path / "set/annotations", {"textocr.json": textocr(*names)})
    rows = rows_of(only(tmp_path / "set"))
    assert [row.problem for row in rows] == ["path outside the folder"] * 7 + [None] * 3
    assert not any("../" in row.key or "//" in row.key for row in rows)


def test_a_folder_of_images_that_is_a_link_is_read(tmp_path):
    make_folder(tmp_path, {"large disk/1.png": PNG, "set/gt/gt_1.txt": LINE.encode()})
    (tmp_path / "set/images").symlink_to(tmp_path / "large disk")
    assert [(row.text, row.problem) for row in rows_of(only(tmp_path / "set"))] == [("word", None)]


def test_a_scene_is_found_whichever_way_its_name_is_written(tmp_path):
    make_folder(tmp_path / "set", {"annotations/textocr.json": textocr("e\u0301.png"), "images/\u00e9.png": PNG})
    assert [row.problem for row in rows_of(only(tmp_path / "set"))] == [None]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_annotations_are_encoded_and_end_their_lines_as_label_files_do(tmp_path, encoding, end):
    folder = make_folder(tmp_path / "s", {"gt_1.txt": (LINE.strip() + end + LINE.replace("word", "Ä").strip() + end).encode(encoding), "1.png": PNG})
    assert [row.text for row in rows_of(only(folder))] == ["word", "Ä"]


def test_an_image_named_oddly_keeps_its_name(tmp_path):
    odd = "n+ (1) [2] ?#%20&;'\u00e4"
    make_folder(tmp_path / odd, {"labels.tsv": f"{odd}.png\tA\n".encode(), f"{odd}.png": PNG})
    for argument in (str(tmp_path / odd), f"{odd}={tmp_path / odd}", f"file://{quote(str(tmp_path / odd))}"):
        assert rows_of(*open_sources([argument])) == [Row(f"{odd}/{odd}.png", PNG, "A")]
