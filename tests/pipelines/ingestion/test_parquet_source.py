"""Parquet of others: any column names, Hugging Face's structs, pandas as a witness."""

import pickle

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foreign import make_folder, only, rows_of
from pipelines.errors import BadInput
from pipelines.ingestion.sources.parquet import choose_columns
from pipelines.ingestion.sources.row import ReadOptions, Row


def write(path, columns: dict, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_what_pandas_writes_is_read(tmp_path):
    table = pandas.DataFrame({"crop": [b"1", b"2", b"3"], "transcription": ["A", None, "é"], "id": ["x", "y", "z"]})
    table.to_parquet(tmp_path / "w.parquet")
    source = only(tmp_path / "w.parquet")
    assert (source.name, source.kind, source.exact, source.count()) == ("w", "parquet", True, 3)
    assert rows_of(source) == [Row("w/w/000000001", b"1", "A"), Row("w/w/000000002", b"2"), Row("w/w/000000003", b"3", "é")]


def test_what_hugging_face_writes_is_read(tmp_path):
    image = pa.array([{"bytes": b"1", "path": "1.png"}, {"bytes": None, "path": "far/2.png"}, None],
                     pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    write(tmp_path / "data/train-00000-of-00002.parquet", {"image": image, "text": ["A", "B", "C"]})
    write(tmp_path / "data/train-00001-of-00002.parquet", {"image": image[:1], "text": ["D"]})
    make_folder(tmp_path, {"README.md": b"a card"})
    source = only(f"hf={tmp_path}")
    assert rows_of(source) == [
        Row("hf/data/train-00000-of-00002/000000001", b"1", "A"),
        Row("hf/data/train-00000-of-00002/000000002", None, "B", "missing image", "path far/2.png"),
        Row("hf/data/train-00000-of-00002/000000003", None, "C", "missing image", "null"),
        Row("hf/data/train-00001-of-00002/000000001", b"1", "D")]


BYTES, LARGE, TEXT, NUMBER = pa.binary(), pa.large_binary(), pa.string(), pa.int64()
NESTED = pa.struct({"bytes": BYTES, "path": TEXT})


@pytest.mark.parametrize("columns, chosen", [
    ({"image": BYTES, "text": TEXT}, ("image", False, "text")),
    ({"Label": TEXT, "IMG": LARGE, "thumbnail": BYTES}, ("IMG", False, "Label")),
    ({"scan": NESTED, "sentence": pa.large_string(), "label": NUMBER}, ("scan", True, "sentence")),
    ({"png": BYTES, "word": pa.dictionary(pa.int32(), TEXT), "text": NUMBER}, ("png", False, "word")),
    ({"image": BYTES, "label": BYTES}, ("image", False, "label")),
    ({"whatever": BYTES}, ("whatever", False, None)),
    ({"image": NESTED, "url": TEXT, "width": NUMBER, "__key__": TEXT}, ("image", True, None)),
    ({"image": BYTES, "thumbnail": BYTES, "size": pa.list_(NUMBER)}, ("image", False, None)),
])
def test_columns_are_found_by_name_and_type(columns, chosen):
    assert choose_columns("x", pa.schema(list(columns.items()))) == chosen


@pytest.mark.parametrize("columns, options, message", [
    ({"left": BYTES, "right": BYTES}, {},
     "a column with encoded images .* found left .binary., right .binary.: name it with --image-column"),
    ({"image": TEXT, "text": TEXT}, {}, "a column with encoded images .* found image .string., text .string."),
    ({"image": BYTES, "label": NUMBER}, {}, "a column of texts .* found image .binary., label .int64.: name it with --text-column"),
    ({"image": BYTES, "annotation": TEXT}, {}, "a column of texts named one of text, .* --text-column '' for images without labels"),
    ({"image": BYTES, "text": TEXT}, {"image_column": "text2"}, "encoded images .* in column text2, found image"),
    ({"image": BYTES, "label": NUMBER}, {"text_column": "label"}, "expected texts in column label, found image .binary., label .int64."),
])
def test_columns_that_cannot_be_told_apart_are_listed(columns, options, message):
    with pytest.raises(BadInput, match=message):
        choose_columns("x", pa.schema(list(columns.items())), ReadOptions(**options))


def test_columns_may_be_named(tmp_path):
    path = write(tmp_path / "x.parquet", {"left": [b"1"], "right": [b"2"], "annotation": ["A"], "label": [5]})
    assert rows_of(only(path, image_column="right", text_column="annotation")) == [Row("x/x/000000001", b"2", "A")]
    assert rows_of(only(path, image_column="left", text_column="")) == [Row("x/x/000000001", b"1")]


def test_pieces_are_cut_at_row_groups_and_pickle_small(tmp_path):
    for part in range(3):
        write(tmp_path / f"p/{part}.parquet", {"image": [b"%d %d" % (part, row) for row in range(25)]}, row_group_size=10)
    source = only(tmp_path / "p")
    pieces = list(source.pieces(20))
    assert [piece.rows for piece in pieces] == [20, 15, 15, 20, 5] and source.count() == 75
    assert [piece.rows for piece in source.pieces(3)] == [10, 10, 5] * 3
    rows = [row for piece in map(pickle.loads, map(pickle.dumps, pieces)) for row in piece.read()]
    assert [(row.key, row.image) for row in rows] == [
        (f"p/{part}/{row + 1:09d}", b"%d %d" % (part, row)) for part in range(3) for row in range(25)]
    assert len(pickle.dumps(pieces[1])) < 1000


def test_a_label_that_is_not_utf8_is_a_row_with_a_reason(tmp_path):
    texts = pa.StringArray.from_buffers(2, pa.array([b"good", b"caf\xe9"]).buffers()[1], pa.array([b"good", b"caf\xe9"]).buffers()[2])
    path = write(tmp_path / "u.parquet", {"image": [b"1", b"2"], "text": texts})
    assert rows_of(only(path)) == [Row("u/u/000000001", b"1", "good"),
                                   Row("u/u/000000002", b"2", None, "label is not UTF-8", "b'caf\\xe9'")]


def test_files_with_other_columns_are_refused(tmp_path):
    write(tmp_path / "p/0.parquet", {"image": [b"1"], "text": ["A"]})
    write(tmp_path / "p/1.parquet", {"image": [b"1"]})
    with pytest.raises(BadInput, match=r"1.parquet: expected the columns of the files before it \(image, text\), found image"):
        only(tmp_path / "p")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-20], lambda data: b"<html>" * 50])
def test_a_damaged_footer_is_refused(tmp_path, damage):
    path = write(tmp_path / "d.parquet", {"image": [b"1" * 100] * 10})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadInput, match="d.parquet: expected a Parquet file, found .*: copy it again"):
        only(path)


def test_damaged_pages_are_refused_when_they_are_read(tmp_path):
    images = [bytes([number]) * 100 for number in range(100)]
    path = write(tmp_path / "d.parquet", {"image": images}, compression="zstd", use_dictionary=False)
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 60 + data[64:])
    source = only(path)
    with pytest.raises(BadInput, match="d.parquet: expected a readable Parquet file, found .*: copy it again"):
        rows_of(source)


def test_a_file_without_rows_is_refused(tmp_path):
    with pytest.raises(BadInput, match="expected rows with images, found none"):
        only(write(tmp_path / "e.parquet", {"image": pa.array([], BYTES)}))
