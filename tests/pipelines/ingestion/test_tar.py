"""WebDataset tars: what every sample says, and what is wrong with an archive; GNU tar as a witness."""

import gzip
import io
import os
import pickle
import random
import resource
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from foreign import make_folder, only, rows_of
from pipelines.errors import BadInput
from pipelines.ingestion.sources.row import Row
from pipelines.ingestion.sources.tar import TABLE, tar_tables
from pipelines.ingestion.sources.tar_members import BrokenTar, TarReader


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, **options) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shared(rows: list[Row]) -> list[tuple]:
    return [(row.key, row.image, row.text) for row in rows]


SAMPLES = {"a.jpg": b"1", "a.txt": b"A\n", "b.png": b"2", "b.json": b'{"label": "B", "id": 3}', "c.JPG": b"3", "c.gt.txt": b"C c\r\n",
           "d.jpg": b"4", "d.lab": "é".encode(), "e.jpg": b"5", "e.cls": b"7", "f.jpg": b"6", "f.json": b'{"id": 3}'}
EXPECTED = [("a", b"1", "A"), ("b", b"2", "B"), ("c", b"3", "C c"), ("d", b"4", "é"), ("e", b"5", None), ("f", b"6", None)]


@pytest.mark.parametrize("name, mode", [("words.tar", "w"), ("words.tar.gz", "w:gz"), ("words.tgz", "w:gz")])
@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_yields_its_samples_in_order(tmp_path, name, mode, layout):
    source = only(make_tar(tmp_path / name, SAMPLES, mode, format=layout))
    assert (source.name, source.kind, source.exact, source.count()) == ("words", "tar", False, 6)
    assert rows_of(source) == [Row(f"words/words/{key}", image, text) for key, image, text in EXPECTED]


def test_what_the_tar_command_packs_is_read(tmp_path):
    long = "very/" * 30 + "long-" * 20 + "name"
    make_folder(tmp_path / "in", {"a.jpg": b"x" * 700, "a.txt": b"A", f"{long}.jpg": b"2", f"{long}.txt": "tschüß".encode(),
                                  ".hidden.jpg": b"no", "sub/.git/x.jpg": b"no", "README": b"no sample", "schön.jpg": b"3"})
    (tmp_path / "in/link.jpg").symlink_to("a.jpg")
    for layout in ("gnu", "posix"):
        for flag, ending in (("-cf", "tar"), ("-czf", "tar.gz")):
            path = tmp_path / f"{layout}.{ending}"
            subprocess.run(["tar", f"--format={layout}", "--sort=name", "-C", str(tmp_path / "in"), flag, str(path), "."], check=True,
                           env=os.environ | {"LC_ALL": "C.UTF-8"})  # tar, too, reads names by the locale
            assert shared(rows_of(only(f"t={path}"))) == [
                (f"t/{layout}/a", b"x" * 700, "A"), (f"t/{layout}/schön", b"3", None), (f"t/{layout}/{long}", b"2", "tschüß")]


def test_tables_are_cut_by_rows_and_by_bytes(tmp_path):
    path = make_tar(tmp_path / "t.tar", {f"{number:03}.jpg": bytes(10) for number in range(25)})
    tables = list(tar_tables(str(path), rows_per_table=10))
    assert [table.num_rows for table in tables] == [10, 10, 5] and all(table.schema == TABLE for table in tables)
    assert [key for table in tables for key in table["key"].to_pylist()] == [f"{number:03}" for number in range(25)]
    path = make_tar(tmp_path / "large.tar", {f"{number}.jpg": bytes(20 << 20) for number in range(5)})
    assert [table.num_rows for table in tar_tables(str(path))] == [2, 2, 1]


def test_samples_that_say_nothing_are_rows_with_a_reason(tmp_path):
    path = make_tar(tmp_path / "t.tar", {
        "a.txt": b"alone", "a.cls": b"1", "b.jpg": b"1", "b.png": b"2", "c.jpg": b"3", "c.txt": b"caf\xe9", "d.jpg": b"4", "d.json": b"{",
        "e.jpg": b"5", "e.json": b'{"text": 5}', "f.jpg": b"6", "f.json": b"[]",
        "g.jpg": b"7", "g.json": b'{"text": "\\udc00"}', "b.jpg ": b"",
        "b.gif": b"8"})
    assert rows_of(only(path)) == [
        Row("t/t/a", None, None, "no image in sample", "a.txt, a.cls"),
        Row("t/t/b", b"1", None, "two images in one sample", "b.jpg, b.png"),
        Row("t/t/c", b"3", None, "label is not UTF-8", "b'caf\\xe9'"), Row("t/t/d", b"4", None, "malformed JSON", "b'{'"),
        Row("t/t/e", b"5", None, "label is not text", "5"), Row("t/t/f", b"6", None, "malformed JSON", "b'[]'"),
        Row("t/t/g", b"7", None, "label is not UTF-8", "'\\udc00'"),
        Row("t/t/b", b"8", None, "sample named twice", "an earlier sample has this name")]


def test_a_set_is_a_folder_a_file_or_a_pattern(tmp_path):
    for number in range(12):
        make_tar(tmp_path / f"set/train-{number:02}.tar", {"0.jpg": b"%d" % number})
    make_folder(tmp_path / "set", {"train-00.idx": b"an index", "README.md": b""})
    keys = [f"train-{number:02}/0" for number in range(12)]
    assert [row.key for row in rows_of(only(tmp_path / "set"))] == [f"set/{key}" for key in keys]
    assert [row.key for row in rows_of(only(f"{tmp_path}/set/train-{{00..03}}.tar"))] == [f"train/{key}" for key in keys[:4]]
    assert [row.key for row in rows_of(only(f"x={tmp_path}/set/train-{{02,11}}.tar"))] == ["x/train-02/0", "x/train-11/0"]
    with pytest.raises(BadInput, match=r"train-12.tar: expected this file, as .*train-\{10..12\}.tar says, found no such file"):
        only(f"{tmp_path}/set/train-{{10..12}}.tar")
    shutil.copy(tmp_path / "set/train-03.tar", tmp_path / "set/train-03.TAR")
    with pytest.raises(BadInput, match="expected files whose names differ before the suffix"):
        only(tmp_path / "set")


def test_tars_of_several_folders_keep_apart(tmp_path):
    for name in ("a", "b"):
        make_tar(tmp_path / name / "0.tar", {"0.jpg": name.encode()})
    assert [row.key for row in rows_of(only(f"{tmp_path}/{{a,b}}/0.tar", ))] == [f"{tmp_path.name}/a/0/0", f"{tmp_path.name}/b/0/0"]


def test_a_tar_is_one_piece_which_pickles_small(tmp_path):
    for number in range(3):
        make_tar(tmp_path / f"s/{number}.tar", {f"{sample:04}.jpg": b"x" * 1000 for sample in range(300)})
    source = only(tmp_path / "s")
    pieces = list(source.pieces(10))
    assert [piece.rows for piece in pieces] == [None, None, None] and len(pickle.dumps(pieces)) < 1000
    assert [row.key for row in pickle.loads(pickle.dumps(pieces[1])).read()][:2] == ["s/1/0000", "s/1/0001"]
    assert abs(source.count() - 900) < 45 and source.count() == only(tmp_path / "s").count()


def test_archives_one_behind_another_are_read_as_one(tmp_path):
    first, second = make_tar(tmp_path / "1.tar", {"a.jpg": b"1"}), make_tar(tmp_path / "2.tar", {"b.jpg": b"2"})
    (tmp_path / "both.tar").write_bytes(first.read_bytes() + second.read_bytes())
    assert shared(rows_of(only(tmp_path / "both.tar"))) == [("both/both/a", b"1", None), ("both/both/b", b"2", None)]


def damaged(data: bytes, kind: str) -> bytes:
    """An archive of three members of 1000 bytes (1536 in the archive), each a sample."""
    return {"within a header": data[:2 * 1536 + 100], "within data": data[:2 * 1536 + 900], "at a boundary": data[:2 * 1536],
            "a header": data[:2 * 1536] + b"?" * 512 + data[2 * 1536 + 512:]}[kind]


@pytest.mark.parametrize("kind, found, rest", [
    ("within a header", "an end within a header, at byte 3172", 2), ("within data", "an end within 2.jpg, at byte 3972", 2),
    ("at a boundary", "no end mark, at byte 3072", 2), ("a header", "no tar header at byte 3072", 2),
])
def test_a_damaged_tar_is_refused_or_read_up_to_the_damage(tmp_path, kind, found, rest):
    files = {f"{number}.jpg": bytes([number]) * 1000 for number in range(3)}
    path = make_tar(tmp_path / "t.tar", files)
    path.write_bytes(damaged(path.read_bytes(), kind))
    with pytest.raises(BadInput, match=f"t.tar: expected a whole tar, found {found}: copy it again, or add --allow-holes"):
        only(path)
    *rows, last = rows_of(only(path, allow_holes=True))
    # The image before the damage is whole, but what followed it may have been its text.
    assert rows == [Row("t/t/0", files["0.jpg"])]
    assert last == Row("t/t/1", files["1.jpg"], None, "truncated tar", found)


def test_a_damage_behind_the_beginning_is_found_when_it_is_read(tmp_path):
    path = make_tar(tmp_path / "t.tar", {f"{number:03}.jpg": bytes(1000) for number in range(200)})
    path.write_bytes(path.read_bytes()[:150 * 1536 + 5])
    source = only(path)
    with pytest.raises(BadInput, match="t.tar: expected a whole tar, found an end within a header, at byte 230405"):
        rows_of(source)
    assert [row.problem for row in rows_of(only(path, allow_holes=True))] == [None] * 149 + ["truncated tar"]


@pytest.mark.parametrize("damage, found", [
    (lambda data: data[:-100], "broken gzip after byte .* .Compressed file ended before"),
    (lambda data: data[:-8] + bytes(4) + data[-4:], "broken gzip after byte .* .CRC check failed")])
def test_a_damaged_gzip_is_refused_or_read_up_to_the_damage(tmp_path, damage, found):
    noise = random.Random(7).randbytes(100 * 3000)
    path = make_tar(tmp_path / "t.tar.gz", {f"{number:03}.jpg": noise[number * 3000:][:3000] for number in range(100)}, "w:gz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadInput, match=found):
        rows_of(only(path))
    rows = rows_of(only(path, allow_holes=True))
    assert [row.problem for row in rows[:90]] == [None] * 90 and rows[-1].problem == "truncated tar"


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(2000), b"<html>not found</html>" * 100, gzip.compress(b"text" * 1000, mtime=0)])
def test_what_is_no_tar_is_refused(tmp_path, data):
    make_folder(tmp_path, {"t.tar": data})
    with pytest.raises(BadInput, match="expected a whole tar, found no (tar header at byte 0|end mark, at byte 0)"):
        only(tmp_path / "t.tar")


def test_a_tar_that_announces_more_than_fits_into_memory_is_refused(tmp_path):
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 45
    (tmp_path / "t.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(BadInput, match="an end within a file, at byte"):
        only(tmp_path / "t.tar")


def test_the_reader_says_what_it_does_not_know():
    info = tarfile.TarInfo("a")
    info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(BrokenTar, match="a sparse file at byte 0"):
        list(TarReader(io.BytesIO(info.tobuf(tarfile.GNU_FORMAT))).members(lambda name: True))


def test_memory_does_not_grow_with_the_archive(tmp_path):
    path = make_tar(tmp_path / "t.tar", {f"{number:05}.jpg": bytes(20_000) for number in range(200)})
    sum(table.num_rows for table in tar_tables(str(path)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large = make_tar(tmp_path / "large.tar", {f"{number:05}.jpg": data for number, data in enumerate([bytes(100_000)] * 1500)})
    assert sum(table.num_rows for table in tar_tables(str(large), rows_per_table=100)) == 1500  # 150 MB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80_000  # KiB


def pax(record: bytes) -> bytes:
    """An archive whose one file has a pax header with this record."""
    header = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.USTAR_FORMAT))
    extended = tarfile.TarInfo("pax")
    extended.type, extended.size = tarfile.XHDTYPE, len(record)
    return extended.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + bytes(header) + bytes(1024)


def with_field(start: int, field: bytes) -> bytes:
    """An archive whose one header has other bytes from `start` on, and the sum of these."""
    header = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.USTAR_FORMAT))
    header[start:start + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


@pytest.mark.parametrize("record", [
    "12 size=１２\n".encode(), "11 size=²\n".encode(), b"12 size=1_0\n", b"11 size=+3\n", b"11 size=-3\n", b"11 size= 3\n", b"11 size=0x1\n"[:11], b"9 size=\n",
    b"+9 path=a\n", b"1_0 path=a\n", "１０ path=a\n".encode(), b"9" * 5000 + b" path=a\n", b"30 size=" + b"9" * 21 + b"\n", b"\t9 path=a\n"])
def test_a_pax_header_counts_in_plain_digits(tmp_path, record):
    if len(record) > 512:
        record = record[:512]
    (tmp_path / "t.tar").write_bytes(pax(record))
    with pytest.raises(BadInput, match="expected a whole tar, found a pax header with(out lengths| a size that is no number)"):
        only(tmp_path / "t.tar")


@pytest.mark.parametrize("field", [b"0000000001_0", b"-0000000001\0", b"+0000000001\0", b"0o000000001\0", b"00000000009\0", b"\xff" * 12, b"\t0000000001"])
def test_a_header_counts_in_octal_digits(tmp_path, field):
    (tmp_path / "t.tar").write_bytes(with_field(124, field))
    with pytest.raises(BadInput, match="expected a whole tar, found no number in a header"):
        only(tmp_path / "t.tar")
