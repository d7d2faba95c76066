"""Every published annotation layout, byte for byte, and lines that break it."""

import io
import json

import numpy as np
import pytest
from scipy.io import savemat

from pipelines.errors import BadInput
from pipelines.ingestion.sources.annotations import ctw1500_xml, read_text_file, text_format
from pipelines.ingestion.sources.annotations_json import json_format, read_json
from pipelines.ingestion.sources.annotations_mat import mat_format, read_synthtext, totaltext_mat

BOX = [[38, 43], [920, 43], [920, 215], [38, 215]]
POLYGON = [131, 58, 208, 49, 279, 56, 346, 76, 412, 101, 473, 141, 530, 192,
           510, 246, 458, 210, 405, 175, 350, 151, 291, 137, 228, 133, 165, 134]
COORDINATES = ",".join(map(str, POLYGON))
BAD = "malformed annotation line"


def plain(regions) -> list[tuple]:
    """Regions as lists: what is compared."""
    return [(item.points.tolist(), item.text, item.ignore) for item in regions]


def cells(*values) -> np.ndarray:
    """A MATLAB cell array."""
    array = np.empty((1, len(values)), object)
    array[0, :] = values
    return array


@pytest.mark.parametrize("line, text", [
    (b'38 43 920 215 "Tiredness"\n', "Tiredness"),
    (b'38, 43, 920, 215, "Tiredness"\r\n', "Tiredness"),
    (b'38,43,920,215,"a, \\"b\\" c"', 'a, "b" c'),
    (b'920 215 38 43 "corners the other way round"', "corners the other way round"),
])
def test_icdar_2013_has_blanks_in_training_commas_in_test_and_quotes(line, text):
    assert text_format([line]) == "icdar2013"
    assert plain(read_text_file(line, "gt_1.txt", "icdar2013")) == [(BOX, text, False)]


def test_icdar_2015_has_a_bom_carriage_returns_and_commas_in_its_texts():
    data = b"\xef\xbb\xbf377,117,463,117,465,130,378,130,Genaxis Theatre\r\n" \
           b"1,2,3,4,5,6,7,8,$1,000, 50% off\r\n\r\n1,2,3,4,5,6,7,8,###\r\n1,2,3,4,5,6,7,8,caf\xc3\xa9\r\n" \
           b"1,2,3,4,5,6,7,8,\r\n1,2,3,4,5,6,7,8,9\r\n"
    assert text_format([data]) == "icdar2015"
    points = [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert plain(read_text_file(data, "gt_img_1.txt", "icdar2015")) == [
        ([[377, 117], [463, 117], [465, 130], [378, 130]], "Genaxis Theatre", False), (points, "$1,000, 50% off", False),
        (points, "###", True), (points, "café", False), (points, None, False), (points, "9", False)]


def test_polygons_have_as_many_coordinates_as_they_need():
    data = b"1,2,3,4,5,6,7,8,9,10,eleven, twelve\n1,2,3,4,5,6,7,8,quad\n1,2,3,4,5,6,###\n1.5,2,3,4,5,6,2024\n"
    assert text_format([data]) == "polygons"
    assert plain(read_text_file(data, "img1.jpg.txt", "polygons")) == [
        ([[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]], "eleven, twelve", False), ([[1, 2], [3, 4], [5, 6], [7, 8]], "quad", False),
        ([[1, 2], [3, 4], [5, 6]], "###", True), ([[1.5, 2], [3, 4], [5, 6]], "2024", False)]


def test_ctw1500_writes_four_number_signs_before_a_text():
    data = f"{COORDINATES},####OLATHE, KS\n{COORDINATES},#######\n".encode()
    points = np.reshape(POLYGON, (14, 2)).tolist()
    assert text_format([data]) == "ctw1500"
    assert plain(read_text_file(data, "0001001.txt", "ctw1500")) == [(points, "OLATHE, KS", False), (points, "###", True)]


def test_the_first_ctw1500_gives_points_relative_to_a_box_and_no_text():
    relative = (np.reshape(POLYGON, (14, 2)) - [131, 49]).ravel()
    data = ",".join(map(str, [131, 49, 530, 246, *relative])).encode() + b"\n"
    assert text_format([data]) == "ctw1500-boxes"
    assert plain(read_text_file(data, "1001.txt", "ctw1500-boxes")) == [(np.reshape(POLYGON, (14, 2)).tolist(), None, False)]


def test_ctw1500_trains_on_xml():
    data = f"""<Annotations><image file="0200.jpg"><box height="197" left="131" top="49" width="399"><label>A & B</label>
        <segs>{COORDINATES}</segs><pts x="183" y="95" /></box>
        <box><label>x</label><segs>1,2,3</segs></box></image></Annotations>""".encode()
    image, regions = ctw1500_xml(data, "0200.xml")
    assert image == "0200.jpg" and plain(regions[:1]) == [(np.reshape(POLYGON, (14, 2)).tolist(), "A & B", False)]
    assert (regions[1].problem, regions[1].detail) == (
        "malformed annotation", "0200.xml: box 2: expected 28 numbers in segs, found '1,2,3'")
    _, (broken,) = ctw1500_xml(data[:200], "0200.xml")
    assert broken.problem == "malformed annotation file" and broken.detail.startswith("0200.xml: ")


def test_total_text_wraps_its_records_where_it_likes():
    data = b"x: [[153 161 179 195 184\n  177]], y: [[347 323 305 315 331\n 357]], ornt: [u'c'], transcriptions: [u'the']\n" \
           b"x: [[1 2 3 4]], y: [[5 6 7 8]], ornt: [u'h'], transcriptions: [u\"it's\"]\r\n" \
           b"x: [[1 2 3 4]], y: [[5 6 7 8]], ornt: [u'h'], transcriptions: [u'caf\\xe9]']\n" \
           b"x: [[1 2 3 4]], y: [[5 6 7 8]], ornt: [u'#'], transcriptions: [u'x']\n" \
           b"x: [[1 2 3 4]], y: [[5 6 7 8]], ornt: [u'c'], transcriptions: [u'#']\n" \
           b"x: [[1 2 3 4]], y: [[5 6 7 8]], ornt: [], transcriptions: []\n"
    quad = [[1, 5], [2, 6], [3, 7], [4, 8]]
    assert text_format([data]) == "totaltext"
    assert plain(read_text_file(data, "poly_gt_img1.txt", "totaltext")) == [
        ([[153, 347], [161, 323], [179, 305], [195, 315], [184, 331], [177, 357]], "the", False), (quad, "it's", False),
        (quad, "café]", False), (quad, "x", True), (quad, "#", True), (quad, "#", True)]


@pytest.mark.parametrize("format, line, expected", [
    ("icdar2013", b'1 2 3 "x"', 'expected four numbers and a text in "quotes"'),
    ("icdar2013", b"1,2,3,4,x", 'expected four numbers and a text in "quotes"'),
    ("icdar2015", b"1,2,3,4,5,6,7,word", "expected eight numbers and a text"),
    ("icdar2015", b"1,2,3,4,5,six,7,8,word", "expected eight numbers and a text"),
    ("icdar2015", "1,2,3,4,5,6,7,٨,word".encode(), "expected eight numbers and a text"),
    ("icdar2015", b"1,2,3,4,5,6,7,8,caf\xe9", "expected UTF-8"),
    ("polygons", b"1,2,3,4,5,6,7,word", "expected an even number of coordinates, at least six, and a text"),
    ("polygons", b"1,2,3,4,5,6,7,8", "expected an even number of coordinates, at least six, and a text"),
    ("polygons", b"1,2,3,4,word", "expected an even number of coordinates, at least six, and a text"),
    ("ctw1500", b"1,2,3,4,####word", "expected 28 numbers and ####text"),
    ("ctw1500-boxes", b"1,2,3,4", "expected 32 numbers"),
    ("totaltext", b"x: [[1 2 3]], y: [[4 5]], ornt: [u'c'], transcriptions: [u'a']", "expected as many numbers for x as for y"),
    ("totaltext", b"x: [[1 2 3]], y: [[4 5 x]], ornt: [u'c'], transcriptions: [u'a']", "expected as many numbers for x as for y"),
    ("totaltext", b"x: [[1 2 3]], y: [[4 5 6]], ornt: [u'c'], transcriptions: [u'a]", "expected texts in quotes"),
    ("totaltext", b"hello", "expected x, y, ornt and transcriptions"),
])
def test_a_line_that_is_not_of_the_format_is_told_with_its_file_and_number(format, line, expected):
    region, = read_text_file(b"\n" + line + b"\r\n", "gt_7.txt", format)
    assert (region.points, region.text, region.problem) == (None, None, BAD)
    assert region.detail.startswith(f"gt_7.txt:2: {expected}, found ")


@pytest.mark.parametrize("data", [b"", b"\n\n", b"word\n", b"word_1.png, \"Text\"\n", b"0 0.5 0.5 0.1 0.2\n", b"image.jpg\ttext\n",
                                  b"5.1,3.5,1.4,0.2,setosa\n", b"1,2,3\n4,5,6\n", "x: unknown\ny: 3\n".encode()])
def test_other_text_files_are_of_no_format(data):
    assert text_format([data]) is None


def test_total_text_in_matlab_files_of_both_generations(tmp_path):
    rows = np.empty((4, 6), object)
    for row, (text, orientation) in zip(rows, [("the", "c"), ("#", "c"), ("x", "#"), ("", "h")], strict=True):
        row[:] = [["x:"], np.array([[153, 161, 179]], np.int16), ["y:"], np.array([[347, 323, 305]], np.int16), text, orientation]
    points = [[153, 347], [161, 323], [179, 305]]
    for name in ("polygt", "gt"):
        savemat(tmp_path / "poly_gt_img1.mat", {name: rows})
        assert mat_format(str(tmp_path / "poly_gt_img1.mat")) == "totaltext-mat"
        data = (tmp_path / "poly_gt_img1.mat").read_bytes()
        assert plain(totaltext_mat(data, "m")) == [(points, "the", False), (points, "#", True), (points, "x", True), (points, "#", True)]
    broken, = totaltext_mat(data[:150], "poly_gt_img1.mat")
    assert broken.problem == "malformed annotation file" and broken.detail.startswith("poly_gt_img1.mat: expected `polygt` or `gt`, found ")


def test_a_row_of_total_text_with_more_x_than_y():
    rows = np.empty((1, 6), object)
    rows[0, :] = [["x:"], np.array([[1, 2, 3]]), ["y:"], np.array([[4, 5]]), "the", "c"]
    file = io.BytesIO()
    savemat(file, {"polygt": rows})
    region, = totaltext_mat(file.getvalue(), "m.mat")
    assert (region.problem, region.detail) == ("malformed annotation", "m.mat: row 1: expected as many x as y, found 3 and 2")


def test_synthtext_has_boxes_for_the_words_of_all_strings(tmp_path):
    three = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    savemat(tmp_path / "gt.mat", {
        "imnames": cells("8/ballet_106_0.jpg", "8/b.jpg", "8/c.jpg"), "wordBB": cells(three, three[:, :, 0], three),
        "charBB": cells(three, three, three), "txt": cells(np.array(["Lines:\nI lost  "]), np.array(["one"]), np.array(["two", "words"]))})
    path = str(tmp_path / "gt.mat")
    assert mat_format(path) == "synthtext"
    (image, words), (_, single), (_, uneven) = read_synthtext(path)
    assert image == "8/ballet_106_0.jpg"
    assert plain(words) == [([[n, 12 + n], [3 + n, 15 + n], [6 + n, 18 + n], [9 + n, 21 + n]], text, False)
                            for n, text in enumerate(["Lines:", "I", "lost"])]
    assert plain(single) == [([[0, 12], [3, 15], [6, 18], [9, 21]], "one", False)]
    assert [(item.problem, item.detail) for item in uneven] == [
        ("malformed annotation", f"{path}: 8/c.jpg: expected as many words as boxes, found 2 and 3")] * 3


def test_synthtext_that_is_cut_off_is_refused(tmp_path):
    (tmp_path / "gt.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + bytes(10))
    with pytest.raises(BadInput, match="expected SynthText's gt.mat with imnames, wordBB, txt, found .*: copy the file again"):
        list(read_synthtext(str(tmp_path / "gt.mat")))


LSVT = {"gt_0": [{"transcription": "東", "points": [[1, 2], [3, 4], [5, 6], [7, 8]], "illegibility": False},
                 {"transcription": "###", "points": [[1, 2], [3, 4], [5, 6]], "illegibility": False},
                 {"transcription": "x", "points": [[1, 2], [3, 4], [5, 6]], "illegibility": True}],
        "gt_1": [{"transcription": "y", "points": [[1, 2], [3]], "illegibility": False}, {"transcription": "weak"}, 3]}
TEXTOCR = {"info": {"version": "0.1"},
           "imgs": {"a4": {"id": "a4", "width": 640, "height": 480, "set": "train", "file_name": "train/a4.jpg"}},
           "anns": {"a4_1": {"id": "a4_1", "image_id": "a4", "bbox": [1, 2, 4, 4], "points": [1.5, 2, 5, 2, 5, 6, 1, 6],
                             "utf8_string": "Text", "area": 16},
                    "a4_2": {"id": "a4_2", "image_id": "a4", "bbox": [1, 2, 4, 4], "points": [1, 2, 5, 2, 5, 6], "utf8_string": "."},
                    "a4_3": {"id": "a4_3", "image_id": "a4", "points": [1, 2, 5], "utf8_string": "x"},
                    "b_1": {"id": "b_1", "image_id": "b", "points": [1, 2, 5, 2, 5, 6], "utf8_string": "x"}},
           "imgToAnns": {"a4": ["a4_1", "a4_2", "a4_3"]}}
COCOTEXT = {"cats": {}, "anns": {
    "45346": {"mask": [468.9, 286.7, 468.9, 295.2, 493.0, 295.8, 493.0, 287.2], "class": "machine printed",
              "bbox": [468.9, 286.7, 24.1, 9.1], "image_id": 217925, "id": 45346, "language": "english", "area": 206.06,
              "utf8_string": "New", "legibility": "legible"},
    "45347": {"mask": [1, 2, 3, 4, 5, 6], "image_id": 217925, "utf8_string": "", "legibility": "illegible"},
    "45348": {"bbox": [1, 2, 4, 6], "image_id": 217925, "utf8_string": "", "legibility": "legible"},
    "45349": {"mask": [1, 2, 3, 4, 5, 6], "image_id": 217925, "utf8_string": ".", "legibility": "legible"}},
    "imgs": {"217925": {"id": 217925, "set": "train", "width": 640, "height": 427, "file_name": "COCO_train2014_000000217925.jpg"}}}


def read(content: object, format: str) -> list:
    data = json.dumps(content, ensure_ascii=False).encode()
    assert json_format(data[:64 if format != "lsvt" else None], iter([data[64:]])) == format
    return list(read_json(data, "set.json", format))


def test_lsvt_is_a_list_of_regions_for_each_image():
    (first, regions), (second, bad) = read(LSVT, "lsvt")
    assert (first, second) == ("gt_0", "gt_1")
    triangle = [[1, 2], [3, 4], [5, 6]]
    assert plain(regions) == [([*triangle, [7, 8]], "東", False), (triangle, "###", True), (triangle, "x", True)]
    assert [(item.problem, item.detail) for item in bad] == [
        ("malformed annotation", "set.json: gt_1: region 1: expected points [x, y], found [[1, 2], [3]]"),
        ("malformed annotation", "set.json: gt_1: region 2: expected points [x, y], found None"),
        ("malformed annotation", "set.json: gt_1: region 3: expected an object, found 3")]


def test_textocr_marks_what_is_illegible_by_a_dot():
    (image, regions), (unknown, lost) = read(TEXTOCR, "textocr")
    assert (image, unknown) == ("train/a4.jpg", "b")
    assert plain(regions[:2]) == [([[1.5, 2], [5, 2], [5, 6], [1, 6]], "Text", False), ([[1, 2], [5, 2], [5, 6]], ".", True)]
    assert [(item.problem, item.detail) for item in (*regions[2:], *lost)] == [
        ("malformed annotation", "set.json: annotation a4_3: expected coordinates x, y, ..., found [1, 2, 5]"),
        ("malformed annotation", "set.json: annotation b_1: expected an image_id that is in imgs, found b")]


def test_coco_text_has_masks_and_legibility_and_texts_that_nobody_wrote_down():
    (image, regions), = read(COCOTEXT, "cocotext")
    assert image == "COCO_train2014_000000217925.jpg"
    mask = np.float32([[468.9, 286.7], [468.9, 295.2], [493.0, 295.8], [493.0, 287.2]]).tolist()
    assert plain(regions) == [(mask, "New", False), ([[1, 2], [3, 4], [5, 6]], None, True), ([[1, 2], [5, 2], [5, 8], [1, 8]], None, False),
                              ([[1, 2], [3, 4], [5, 6]], ".", False)]


@pytest.mark.parametrize("data", [b"[]", b'{"a": 1}', b'{"gt_0": [{"transcription": "weak"}]}', b'{"version": "5.0", "shapes": []}',
                                  b'{"imgs": {}, "anns": {}}', b"not json"])
def test_other_json_files_are_of_no_format(data):
    assert json_format(data, iter(())) is None


@pytest.mark.parametrize("format, data, message", [
    ("lsvt", b'{"gt_0": [', "set.json: expected JSON, found "), ("lsvt", b'{"gt_0": 3}', "expected an object with a list of regions"),
    ("lsvt", b"[]", "expected an object with a list of regions"), ("textocr", b'{"imgs": {}}', 'expected an object with "imgs" and "anns"'),
    ("cocotext", b'{"imgs": [], "anns": {}}', 'expected an object with "imgs" and "anns"'), ("textocr", b"\xff\xff", "expected JSON"),
])
def test_a_json_file_that_is_not_the_format_is_refused(format, data, message):
    with pytest.raises(BadInput, match=message):
        list(read_json(data, "set.json", format))
