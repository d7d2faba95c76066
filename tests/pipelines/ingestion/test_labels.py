"""Label files: what every line says, or why it says nothing."""

import codecs
import unicodedata

import pytest

from foreign import make_folder, only, rows_of
from pipelines.errors import BadInput
from pipelines.ingestion.sources.files import look
from pipelines.ingestion.sources.folder import open_folder
from pipelines.ingestion.sources.labels import file_of_text, text_of_file
from pipelines.ingestion.sources.row import Row


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
        Row("f/gone.jpg", None, "lost", "missing file", "named in labels.tsv:1: names are relative to the folder of the images, where no gone.jpg was found"),
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


def test_a_csv_has_quotes_a_header_in_any_order_and_line_breaks_in_cells(tmp_path):
    labels = (b'\xef\xbb\xbfid,Text,File_Name\r\n1,"say ""hi"", you",a.jpg\r\n2,"two\nlines",sub/b.jpg\r\n3,,c.jpg\r\n')
    folder = make_folder(tmp_path / "c", {"labels.csv": labels, "a.jpg": b"1", "images/sub/b.jpg": b"2", "c.jpg": b"3"})
    assert rows_of(only(folder)) == [Row("c/a.jpg", b"1", 'say "hi", you'), Row("c/images/sub/b.jpg", b"2", "two\nlines"),
                                     Row("c/c.jpg", b"3", "")]


@pytest.mark.parametrize("header", ["file_name,text", "image;transcription", "path\tsentence", "IMG,words", "image_path,label",
                                    "filename,gt", "image_name,ground_truth"])
def test_a_csv_is_read_by_its_header(tmp_path, header):
    comma = next(mark for mark in ",;\t" if mark in header)
    folder = make_folder(tmp_path / "c", {"metadata.csv": f"{header}\na.jpg{comma}A\n".encode(), "a.jpg": b"1"})
    assert rows_of(only(folder)) == [Row("c/a.jpg", b"1", "A")]


@pytest.mark.parametrize("name, table", [
    ("words.csv", "key,text,confidence\ncrops/a.jpg,A,0.9\nimages/sub/b.jpg,B,0.8\nc.jpg,C,0.7\ncrops/gone.jpg,D,0.6\n"),
    ("words.jsonl", "".join(f'{{"key": "{key}", "text": "{text}"}}\n' for key, text in (("crops/a.jpg", "A"), ("images/sub/b.jpg", "B"), ("c.jpg", "C"), ("crops/gone.jpg", "D")))),
])
def test_a_table_that_predict_wrote_gives_labels(tmp_path, name, table):
    """Corrected by hand, say. A key begins with the name of the source that was read then."""
    folder = make_folder(tmp_path / "mine", {"a.jpg": b"1", "sub/b.jpg": b"2", "c.jpg": b"3"})
    (tmp_path / name).write_text(table, encoding="utf-8")
    entries = open_folder("mine", look(str(folder)), str(tmp_path / name)).entries
    assert [(entry.path, entry.text, entry.problem) for entry in entries] == [
        ("a.jpg", "A", None), ("sub/b.jpg", "B", None), ("c.jpg", "C", None), ("crops/gone.jpg", "D", "missing file")]


def test_csv_lines_that_say_nothing_are_rows_with_a_reason(tmp_path):
    labels = b"path,text\na.jpg,Hello, world\nb.jpg\n,nobody\nc.jpg,caf\xe9\n\ngone.jpg,lost\nd.jpg,D\n"
    folder = make_folder(tmp_path / "c", {"labels.csv": labels, "d.jpg": b"4"})
    assert rows_of(only(folder)) == [
        Row("c/labels.csv:2", None, None, "malformed label line", "3 cells under 2 columns: b'a.jpg,Hello, world'"),
        Row("c/labels.csv:3", None, None, "malformed label line", "1 cells under 2 columns: b'b.jpg'"),
        Row("c/labels.csv:4", None, None, "malformed label line", "b',nobody'"),
        Row("c/labels.csv:5", None, None, "label is not UTF-8", "b'c.jpg,caf\\xe9'"),
        Row("c/gone.jpg", None, "lost", "missing file", "named in labels.csv:7: names are relative to the folder of the images, where no gone.jpg was found"),
        Row("c/d.jpg", b"4", "D")]


def test_a_jsonl_is_read_by_its_names(tmp_path):
    labels = ('{"file_name": "a.jpg", "text": "caf\\u00e9 \\"x\\"", "id": 1}\n\n{"text": null, "file_name": "b.jpg"}\n'
              '{"file_name": "c.jpg"}\n').encode()
    folder = make_folder(tmp_path / "j", {"metadata.jsonl": labels, "a.jpg": b"1", "b.jpg": b"2", "c.jpg": b"3"})
    assert rows_of(only(folder)) == [Row("j/a.jpg", b"1", 'caf\u00e9 "x"'), Row("j/b.jpg", b"2"), Row("j/c.jpg", b"3")]


def test_jsonl_lines_that_say_nothing_are_rows_with_a_reason(tmp_path):
    labels = (b'{"image": "a.jpg", "label": "A"}\n{"image": "b.jpg", "label": 7}\n{"label": "x"}\n[1]\n{"image": "c.jpg", \n'
              b'{"image": "d.jpg", "label": "\xff"}\n{"image": "e.jpg", "label": "\\ud800"}\n')
    folder = make_folder(tmp_path / "j", {"labels.jsonl": labels, "a.jpg": b"1", "b.jpg": b"2"})
    assert rows_of(only(folder)) == [
        Row("j/a.jpg", b"1", "A"), Row("j/b.jpg", None, None, "label is not text", "7"),
        Row("j/labels.jsonl:3", None, None, "malformed label line", "b'{\"label\": \"x\"}'"),
        Row("j/labels.jsonl:4", None, None, "malformed label line", "b'[1]'"),
        Row("j/labels.jsonl:5", None, None, "malformed label line", "b'{\"image\": \"c.jpg\", '"),
        Row("j/labels.jsonl:6", None, None, "label is not UTF-8", "b'{\"image\": \"d.jpg\", \"label\": \"\\xff\"}'"),
        Row("j/labels.jsonl:7", None, None, "label is not UTF-8", "b'{\"image\": \"e.jpg\", \"label\": \"\\\\ud800\"}'")]


@pytest.mark.parametrize("name, labels, message", [
    ("labels.csv", b"a.jpg,A\n", "labels.csv: expected a column with the image, named one of file_name, .*, found a.jpg, a: put a line with the names first: file_name,text$"),
    ("labels.csv", b"file_name,category\na.jpg,3\n", "a column with the text, named one of text, .*, found file_name, category: rename"),
    ("labels.csv", b"", "a column with the image, named one of .*, found an empty file"),
    ("labels.csv", b'file,text\na.jpg,"open\nb.jpg,B\n', "expected CSV whose quotes are closed .*, found unexpected end of data"),
    ("metadata.jsonl", b'{"file_name": "a.jpg", "category": 3}\n', "a column with the text, .*, found file_name, category: rename"),
    ("metadata.jsonl", b'{"words": "x"}\n', "a column with the image, .*, found words: rename"),
])
def test_a_label_file_without_its_columns_is_refused(tmp_path, name, labels, message):
    with pytest.raises(BadInput, match=message):
        only(make_folder(tmp_path / "x", {name: labels, "a.jpg": b"1"}))


@pytest.mark.parametrize("name, labels", [
    ("train.csv", b"file_name,text\na.jpg,A\n"), ("train.jsonl", b'{"file_name": "a.jpg", "text": "A"}\n'),
    ("train.tsv", b"a.jpg\tA\n"), ("train.tsv", b"file_name\ttext\na.jpg\tA\n"), ("train.txt", b"a.jpg\tA\n"),
    ("train.txt", b'a.jpg, "A"\n'),
])
def test_a_label_file_may_be_named_itself_and_alone_decides(tmp_path, name, labels):
    make_folder(tmp_path / "lists", {name: labels, "images/a.jpg": b"1", "b.jpg": b"2", "labels.tsv": b""})
    source = only(f"T={tmp_path / 'lists' / name}")
    assert (source.name, source.path) == ("T", str(tmp_path / "lists"))
    assert rows_of(source) == [Row("T/images/a.jpg", b"1", "A")]
    assert only(tmp_path / "lists" / name).name == "train"


def test_lines_of_text_beside_their_images(tmp_path):
    folder = make_folder(tmp_path / "h", {
        "p/1.png": b"1", "p/1.gt.txt": "\ufeffsch\u00f6n \r\n".encode(), "p/2.bin.png": b"2", "p/2.gt.txt": b"two", "p/3.nrm.png": b"3",
        "p/3.gt.txt": b"", "p/4.tif": b"4", "p/5.jpg": b"5", "p/5.gt.txt": b"one\ntwo\n", "p/6.jpg": b"6", "p/6.gt.txt": b"\xff",
        "p/7.gt.txt": b"lonely"})
    assert rows_of(only(folder)) == [
        Row("h/p/1.png", b"1", "sch\u00f6n "), Row("h/p/2.bin.png", b"2", "two"), Row("h/p/3.nrm.png", b"3", ""), Row("h/p/4.tif", b"4"),
        Row("h/p/5.jpg", b"5", None, "several lines of text", "'one\\ntwo'"),
        Row("h/p/6.jpg", b"6", None, "label is not UTF-8", "b'\\xff'"),
        Row("h/p/7.gt.txt", None, None, "missing file", "no image beside p/7.gt.txt")]


def test_the_fingerprint_follows_the_texts_beside_the_images(tmp_path):
    folder = make_folder(tmp_path / "h", {"1.png": b"1", "1.gt.txt": b"one"})
    before = only(folder).fingerprint
    make_folder(folder, {"1.gt.txt": b"three"})
    assert only(folder).fingerprint != before


@pytest.mark.parametrize("text", ["", "word", "a\n", "a\r", "a\r\n", "\n", "\ufeffbom", "\ufeff\n", "two\nlines"])
def test_a_text_survives_a_file_of_its_own(text):
    assert text_of_file(file_of_text(text)) == text


def texts_of(folder) -> list[str | None]:
    return [row.text for row in rows_of(only(folder))]


@pytest.mark.parametrize("labels", [
    b"x,1/a.jpg\tA\nx,1/b.jpg\tB, b\n", b"x,1/a.jpg\tA\n\nx,1/b.jpg\tB, b", b"x,1/a.jpg\tA\nx,1/gone.jpg, \"odd\"\nx,1/b.jpg\tB, b\n"])
def test_a_comma_in_a_path_does_not_make_a_list_with_tabs_another(tmp_path, labels):
    folder = make_folder(tmp_path / "g", {"gt.txt": labels, "x,1/a.jpg": b"1", "x,1/b.jpg": b"2"})
    assert [(row.key, row.text) for row in rows_of(only(folder)) if row.image] == [("g/x,1/a.jpg", "A"), ("g/x,1/b.jpg", "B, b")]


def test_a_tab_in_a_text_does_not_make_a_list_with_commas_another(tmp_path):
    folder = make_folder(tmp_path / "g", {"gt.txt": b'a.jpg, "one\ttab"\nb.jpg, "two"\n', "a.jpg": b"1", "b.jpg": b"2"})
    assert texts_of(folder) == ["one\ttab", "two"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\r\r\n"])
@pytest.mark.parametrize("name, lines", [
    ("labels.tsv", [b"a.jpg\tA", b"b.jpg\tB\xe2\x80\xa8\x0cb\xc2\x85", b""]),
    ("gt.txt", [b'a.jpg, "A"', b'b.jpg, "B\xe2\x80\xa8\x0cb\xc2\x85"', b""]),
    ("labels.csv", [b"file_name,text", b"a.jpg,A", b"b.jpg,B\xe2\x80\xa8\x0cb\xc2\x85", b""]),
    ("labels.jsonl", [b'{"file_name": "a.jpg", "text": "A"}', b'{"file_name": "b.jpg", "text": "B\xe2\x80\xa8\\fb\xc2\x85"}', b""])])
def test_lines_end_as_any_system_ends_them_and_at_nothing_else(tmp_path, name, lines, end):
    folder = make_folder(tmp_path / "l", {name: end.join(lines), "a.jpg": b"1", "b.jpg": b"2"})
    assert texts_of(folder) == ["A", "B\u2028\x0cb\x85"]


@pytest.mark.parametrize("encoding, mark", [("utf-8", codecs.BOM_UTF8), ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE),
                                            ("utf-32-le", codecs.BOM_UTF32_LE), ("utf-32-be", codecs.BOM_UTF32_BE)])
@pytest.mark.parametrize("name, labels", [("labels.tsv", "é.jpg\tÄ\r\n"), ("gt.txt", 'é.jpg, "Ä"\n'), ("metadata.csv", "text;file\nÄ;é.jpg\n"),
                                          ("labels.jsonl", '{"file": "é.jpg", "text": "Ä"}'), ("é.gt.txt", "Ä\n")])
def test_a_byte_order_mark_says_the_encoding(tmp_path, name, labels, encoding, mark):
    folder = make_folder(tmp_path / "b", {name: mark + labels.encode(encoding), "é.jpg": b"1"})
    assert rows_of(only(folder)) == [Row("b/é.jpg", b"1", "Ä")]


@pytest.mark.parametrize("labels, message", [
    ("a.jpg\tA\n".encode("utf-16-le"), "in UTF-8, or in UTF-16 with its byte-order mark, found a zero byte in line 1: write it as UTF-8"),
    (b"a.jpg\tA\nb.jpg\t\0\n", "found a zero byte in line 2"), (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "found a zero byte in line 3"),
    (codecs.BOM_UTF16_LE + b"a\0.", "in utf-16-le, as its byte-order mark says, found truncated data at byte 4: write it as UTF-8")])
@pytest.mark.parametrize("name", ["labels.tsv", "gt.txt", "labels.csv", "labels.jsonl"])
def test_what_is_no_text_is_refused(tmp_path, name, labels, message):
    with pytest.raises(BadInput, match=message):
        only(make_folder(tmp_path / "x", {name: labels, "a.jpg": b"1"}))


@pytest.mark.parametrize("labels, line", [
    (b'file,text\na.jpg,"open\nb.jpg,B\nc.jpg,C"\nd.jpg,D\n', 2), (b'file,text\na.jpg,A\nb.jpg,"open\nc.jpg,C\nd.jpg,"D"\n', 3),
    (b'text;file\nA;a.jpg\n"open;b.jpg\nC;c.jpg\nD;d.jpg"\n', 3), (b'file,text\na.jpg,"open\r\nb.jpg,"', 2), (b'file,text\ra.jpg,"x\rb.jpg,B\r', 2)])
def test_a_quote_without_its_end_swallows_no_rows(tmp_path, labels, line):
    files = {f"{name}.jpg": b"1" for name in "abcd"}
    with pytest.raises(BadInput, match=f"expected CSV whose quotes are closed and doubled inside quotes, found .* begins in line {line}: correct it"):
        only(make_folder(tmp_path / "x", {"labels.csv": labels, **files}))


def test_a_csv_keeps_line_breaks_that_are_no_rows_and_empty_cells_at_the_ends_of_lines(tmp_path):
    labels = b'file,text\na.jpg,"two\nlines, one comma"\nb.jpg,B,,\nc.jpg,,\nd.jpg,D,,x\n'
    folder = make_folder(tmp_path / "c", {"labels.csv": labels, **{f"{name}.jpg": b"1" for name in "abcd"}})
    assert [(row.text, row.problem) for row in rows_of(only(folder))] == [
        ("two\nlines, one comma", None), ("B", None), ("", None), (None, "malformed label line"), (None, None)]


def test_a_csv_is_split_where_its_header_is(tmp_path):
    folder = make_folder(tmp_path / "c", {"labels.csv": b"text (one, or, more)\tfile\ttext\nx\ta,1.jpg\tA\n", "a,1.jpg": b"1"})
    assert rows_of(only(folder)) == [Row("c/a,1.jpg", b"1", "A")]


@pytest.mark.parametrize("listed, lies", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_found_whichever_way_its_letters_are_written(tmp_path, listed, lies):
    listed, lies = (unicodedata.normalize(form, "schön/é.jpg") for form in (listed, lies))
    folder = make_folder(tmp_path / "n", {"labels.tsv": f"{listed}\tA\n".encode(), f"images/{lies}": b"1"})
    assert rows_of(only(folder)) == [Row(f"n/images/{lies}", b"1", "A")]


def test_two_files_that_only_their_normal_form_tells_apart_are_not_guessed_at(tmp_path):
    both = [unicodedata.normalize(form, "e\u0301\u0323.jpg") for form in ("NFC", "NFD")] + ["\u00e9\u0323.jpg"]
    folder = make_folder(tmp_path / "n", {"labels.tsv": f"{both[0]}\tA\n{both[1]}\tB\n".encode(), both[1]: b"2", both[2]: b"3"})
    assert [(row.text, row.problem) for row in rows_of(only(folder))] == [("A", "several images of this name"), ("B", None), (None, None)]


@pytest.mark.parametrize("content", [b"word\r", b"word\r\n", b"\xff\xfew\0o\0r\0d\0\n\0"])
def test_a_text_beside_its_image_has_one_line_however_it_ends(tmp_path, content):
    assert texts_of(make_folder(tmp_path / "h", {"1.png": b"1", "1.gt.txt": content})) == ["word"]


def test_a_text_beside_its_image_with_more_lines_is_told(tmp_path):
    folder = make_folder(tmp_path / "h", {"1.png": b"1", "1.gt.txt": b"one\rtwo", "2.png": b"2", "2.gt.txt": b"w\0o\0"})
    assert [row.problem for row in rows_of(only(folder))] == ["several lines of text", "label is not UTF-8"]


def test_a_whole_path_into_the_folder_is_a_name_in_it(tmp_path):
    """As a script writes them that went over the files."""
    (tmp_path / "link").symlink_to(tmp_path / "p")
    labels = "".join(f"{path}\tA\n" for path in (tmp_path / "p/a.jpg", tmp_path / "link/sub/b.jpg", tmp_path / "p/../p/c.jpg", f"{tmp_path}/p/../secret.jpg", f"{tmp_path}/pp/d.jpg"))
    make_folder(tmp_path / "p", {"labels.tsv": labels.encode(), "a.jpg": b"1", "sub/b.jpg": b"2", "c.jpg": b"3"})
    make_folder(tmp_path, {"secret.jpg": b"secret"})
    found = [(row.key, row.problem) for row in rows_of(only(tmp_path / "link"))]
    assert found == [("link/a.jpg", None), ("link/sub/b.jpg", None), ("link/c.jpg", None), (f"link/{tmp_path}/secret.jpg", "path outside the folder"),
                     (f"link/{tmp_path}/pp/d.jpg", "path outside the folder")]


def test_a_folder_is_no_label_file(tmp_path):
    folder = make_folder(tmp_path / "p", {"a.jpg": b"1"})
    with pytest.raises(BadInput, match="p: expected a label file, found a folder: name the file that holds the labels$"):
        open_folder("p", look(str(folder)), str(folder))
