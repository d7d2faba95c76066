"""Scene images become words: the crops' geometry, and the images found wherever the published sets are unpacked."""

import io
import json
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from pipelines.errors import BadInput
from pipelines.ingestion.sources.crops import BadRegion, crop_region, decode_scene, upright
from pipelines.ingestion.sources.row import Row
from pipelines.ingestion.sources.scenes import matches, open_scenes


def ramp(height: int = 160, width: int = 240) -> np.ndarray:
    """A picture whose first channel is x, whose second is y, at every pixel's centre."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], 2).astype(np.uint8)


def encoded(picture: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, picture)[1].tobytes()


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def place(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def rows_of(source) -> list[Row]:
    pieces = [pickle.loads(pickle.dumps(piece)) for piece in source.pieces(2)]
    rows = [row for piece in pieces for row in piece.read()]
    assert sum(piece.rows for piece in pieces) == len(rows) == source.count()
    return rows


def assert_maps(crop: np.ndarray, corners, tolerance: float = 1.0) -> None:
    """The crop of the ramp is the parallelogram from corners[0] (top left) over corners[1] to corners[3], pixel by pixel."""
    top_left, top_right, _, bottom_left = np.asarray(corners, float)
    v, u = np.mgrid[:crop.shape[0], :crop.shape[1]] + 0.5
    expected = (top_left + u[..., None] / crop.shape[1] * (top_right - top_left)
                + v[..., None] / crop.shape[0] * (bottom_left - top_left) - 0.5)
    assert np.abs(crop[..., :2] - expected).max() <= tolerance


def turned(box: tuple[float, float, float, float], degrees: float) -> np.ndarray:
    """The corners of a box (centre x, centre y, width, height), clockwise, turned clockwise as the picture shows it."""
    x, y, width, height = box
    angle = np.deg2rad(degrees)
    corners = np.array([(-width, -height), (width, -height), (width, height), (-width, height)]) / 2
    return corners @ np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))]) + (x, y)


def test_a_box_is_cut_pixel_by_pixel():
    box = [(20, 30), (60, 30), (60, 45), (20, 45)]
    assert np.array_equal(crop_region(ramp(), np.array(box)), ramp()[30:45, 20:60])
    touched = [(20.5, 30.2), (59.1, 30.2), (59.1, 44.9), (20.5, 44.9)]
    assert np.array_equal(crop_region(ramp(), np.array(touched)), ramp()[30:45, 20:60])


@pytest.mark.parametrize("degrees", [15, 45, 90, 135, 180, 270, 330])
def test_a_turned_quadrilateral_comes_out_upright(degrees):
    corners = turned((120, 80, 80, 30), degrees)
    crop = crop_region(ramp(), corners)
    assert crop.shape == (30, 80, 3)
    assert_maps(crop, corners)


def test_a_quadrilateral_in_perspective_has_the_mean_of_its_sides_and_its_diagonals_cross_in_the_middle():
    corners = np.array([(40, 40), (140, 20), (140, 120), (40, 80)], float)
    crop = crop_region(ramp(), corners)
    assert crop.shape == (70, round((np.hypot(100, 20) + np.hypot(100, 40)) / 2), 3)
    # Diagonals (40,40)-(140,120) and (140,20)-(40,80) meet at 40 + 200/7, 40 + 160/7.
    assert np.abs(crop[35, 52, :2].astype(float) - (40 + 200 / 7, 40 + 160 / 7)).max() <= 2
    assert np.abs(crop[0, 0, :2].astype(float) - (40, 40)).max() <= 2 and np.abs(crop[-1, -1, :2].astype(float) - (139, 119)).max() <= 2


def test_points_that_run_anticlockwise_do_not_mirror_the_text():
    corners = turned((120, 80, 80, 30), 20)
    assert np.array_equal(crop_region(ramp(), corners[[0, 3, 2, 1]]), crop_region(ramp(), corners))
    box = np.array([(20, 30), (20, 45), (60, 45), (60, 30)])
    assert np.array_equal(crop_region(ramp(), box), ramp()[30:45, 20:60])


@pytest.mark.parametrize("degrees", [0, 30, 90, 120, 180, 200, 270, 315])
def test_a_polygon_is_cut_by_its_smallest_rectangle_along_the_text(degrees):
    corners = turned((120, 80, 80, 30), degrees)
    top, bottom = corners[0] + (corners[1] - corners[0]) * [[0], [0.5], [1]], corners[3] + (corners[2] - corners[3]) * [[1], [0.4], [0]]
    crop = crop_region(ramp(), np.concatenate([top, bottom]))
    assert abs(crop.shape[0] - 30) <= 1 and abs(crop.shape[1] - 80) <= 1
    assert_maps(crop, corners, tolerance=1.5)


@pytest.mark.parametrize("degrees", [0, 40, 90, 180, 270])
@pytest.mark.parametrize("bulge", [1, -1])
def test_a_text_on_an_arch_reads_along_the_arch(degrees, bulge):
    """A half circle that bulges up or down: its first point lies at the bottom, or at the top, of the rectangle's left."""
    angles = np.linspace(np.pi, 2 * np.pi, 7)[:, None] * bulge
    ring = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    outer, inner = 60 * ring, 40 * ring
    top, bottom = (outer, inner) if bulge == 1 else (inner, outer)
    turn = turned((0, 0, 2, 2), degrees)  # carries the axes: right = corner 1 - corner 0 ...
    right, down = (turn[1] - turn[0]) / 2, (turn[3] - turn[0]) / 2
    arch = np.concatenate([top, bottom[::-1]]) @ np.stack([right, down]) + (120, 80)
    corners = upright(arch)
    assert np.allclose(corners[1] - corners[0], 120 * right, atol=0.01) and np.allclose(corners[3] - corners[0], 60 * down, atol=0.01)


def test_a_triangle_and_a_dented_quadrilateral_are_cut_by_their_rectangles():
    assert crop_region(ramp(), np.array([(20, 30), (100, 30), (60, 60)])).shape == (30, 80, 3)
    dented = crop_region(ramp(), np.array([(20, 30), (100, 30), (40, 40), (20, 70)]))  # its hull is a triangle of 1600 pixels
    assert dented.shape[0] * dented.shape[1] == pytest.approx(3200, rel=0.02)


def test_what_lies_beyond_the_border_repeats_it():
    crop = crop_region(ramp(), np.array([(-10, -5), (30, -5), (30, 15), (-10, 15)]))
    assert crop.shape == (20, 40, 3)
    assert np.array_equal(crop[5:, 10:], ramp()[:15, :30]) and not crop[:5, :, 1].any() and not crop[:, :10, 0].any()
    corners = turned((238, 80, 40, 20), 10)
    assert crop_region(ramp(), corners)[10, -1, 0] == 239


@pytest.mark.parametrize("points, problem, detail", [
    ([(1, 2), (3, 4)], "degenerate region", "2 points"),
    ([(1, 2), (3, 4), (5, np.nan)], "degenerate region", "not finite"),
    ([(1, 2), (3, 4), (np.inf, 2), (3, 3)], "degenerate region", "not finite"),
    ([(1, 2), (3, 4), (5, 6)], "degenerate region", "no area"),
    ([(5, 5), (5, 5), (5, 5), (5, 5)], "degenerate region", "no area"),
    ([(5, 5), (50, 5), (50, 5), (5, 5)], "degenerate region", "no area"),
    ([(10, 10), (50, 40), (50, 10), (10, 40)], "degenerate region", "sides that cross"),
    ([(10, 10), (1e9, 10), (1e9, 40), (10, 40)], "degenerate region", "pixels"),
    ([(10, 10), (9000, 10), (9000, 40), (10, 40)], "degenerate region", "pixels"),
    ([(300, 10), (350, 10), (350, 40), (300, 40)], "region outside the image", "240 x 160"),
    ([(-50, -50), (-10, -40), (-10, -5), (-50, -5)], "region outside the image", "240 x 160"),
])
def test_nothing_is_cut_out_of_a_region_that_is_none(points, problem, detail):
    with pytest.raises(BadRegion) as raised:
        crop_region(ramp(), np.array(points, float))
    assert raised.value.problem == problem and detail in raised.value.detail


def test_high_crops_are_turned_anticlockwise_on_request():
    high = np.array([(20, 30), (40, 30), (40, 90), (20, 90)])
    assert np.array_equal(crop_region(ramp(), high, turn_vertical=True), np.rot90(ramp()[30:90, 20:40]))
    square = np.array([(20, 30), (60, 30), (60, 90), (20, 90)])  # 1.5 times as high: not higher
    assert crop_region(ramp(), square, turn_vertical=True).shape == (60, 40, 3)


def test_a_scene_is_decoded_as_it_is_stored():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    file = io.BytesIO()
    Image.fromarray(ramp()[..., ::-1].copy()).save(file, "JPEG", exif=exif)
    picture, problem = decode_scene(file.getvalue())
    assert problem is None and picture.shape == (160, 240, 3)
    transparent = np.dstack([ramp(), np.where(np.arange(240)[None, :] < 100, 255, 0).repeat(160, 0)]).astype(np.uint8)
    picture, _ = decode_scene(encoded(transparent))
    assert np.array_equal(picture[:, :100], ramp()[:, :100]) and (picture[:, 100:] == 255).all()
    assert [decode_scene(data)[1] for data in (b"", b"<html>", encoded(ramp())[:500])] == ["empty image", "not an image", "truncated image"]


LINE = "20,30,60,30,60,45,20,45,{}\r\n"


def test_a_set_gives_a_row_for_every_region_whatever_becomes_of_it(tmp_path):
    place(tmp_path / "IC15", {
        "gt/gt_img_1.txt": ("\ufeff" + LINE.format("one, two") + LINE.format("###") + "1,2,3\r\n" + LINE.format("")
                            + "1,1,1,1,1,1,1,1,x\r\n"),
        "gt/gt_img_2.txt": LINE.format("a") + LINE.format("###"), "gt/gt_img_3.txt": LINE.format("b"), "gt/gt_img_4.txt": "",
        "gt/gt_img_10.txt": b"20,30,60,30,60,45,20,45,caf\xe9\n", "gt/readme.txt": "Thanks\nto all\n",
        "images/img_1.png": encoded(ramp()), "images/img_3.jpg": b"<html>", "images/IMG_10.JPG": encoded(ramp(), ".jpg")})
    assert matches(str(tmp_path / "IC15")) == matches(str(tmp_path / "IC15/gt")) == "icdar2015"
    source = open_scenes("IC15", str(tmp_path / "IC15"), "icdar2015")
    assert (source.kind, source.count(), source.exact) == ("icdar2015", 9, True)
    assert source.image_folders() == {str(tmp_path / "IC15/images")}
    crop = encoded(ramp()[30:45, 20:60])
    assert rows_of(source) == [
        Row("IC15/img_1/001", crop, "one, two"), Row("IC15/img_1/002", None, "###", "marked as ignore", "###", filtered=True),
        Row("IC15/img_1/003", None, None, "malformed annotation line",
            "gt_img_1.txt:3: expected eight numbers and a text, found '1,2,3'"),
        Row("IC15/img_1/004", crop, None), Row("IC15/img_1/005", None, "x", "degenerate region", "no area: 1,1 1,1 1,1 1,1"),
        Row("IC15/img_10/001", None, None, "malformed annotation line",
            "gt_img_10.txt:1: expected UTF-8, found b'20,30,60,30,60,45,20,45,caf\\xe9'"),
        Row("IC15/img_2/001", None, "a", "missing file", f"no image img_2 at or beside {tmp_path}/IC15/gt"),
        Row("IC15/img_2/002", None, "###", "marked as ignore", "###", filtered=True),
        Row("IC15/img_3/001", None, "b", "not an image", f"{tmp_path}/IC15/images/img_3.jpg: 6 bytes from 3c68746d6c3e")]


def test_pieces_hold_whole_images(tmp_path):
    place(tmp_path, {f"gt_{number}.txt": LINE.format("x") * 3 for number in range(4)})
    place(tmp_path, {f"{number}.png": encoded(ramp()) for number in range(4)})
    source = open_scenes("s", str(tmp_path))
    assert [piece.rows for piece in source.pieces(4)] == [6, 6] and [piece.rows for piece in source.pieces(100)] == [12]


def test_crops_of_lossless_scenes_are_lossless_and_others_jpeg(tmp_path):
    place(tmp_path, {"gt_a.txt": LINE.format("x"), "gt_b.txt": LINE.format("y"),
                     "a.bmp": encoded(ramp(), ".bmp"), "b.jpg": encoded(ramp(), ".jpg")})
    png, jpeg = (row.image for row in rows_of(open_scenes("s", str(tmp_path))))
    assert png.startswith(b"\x89PNG") and np.array_equal(decoded(png), ramp()[30:45, 20:60])
    assert jpeg.startswith(b"\xff\xd8") and np.abs(decoded(jpeg).astype(int) - ramp()[30:45, 20:60]).max() <= 8


def test_vertical_texts_are_turned_by_option_single_characters_not(tmp_path):
    high = "20,30,40,30,40,90,20,90,{}\n"
    place(tmp_path, {"gt_a.txt": high.format("EXIT") + high.format("I") + high.format(""), "a.png": encoded(ramp())})
    shapes = {vertical: [decoded(row.image).shape[:2] for row in rows_of(open_scenes("s", str(tmp_path), vertical=vertical))]
              for vertical in (False, True)}
    assert shapes == {False: [(60, 20)] * 3, True: [(20, 60), (60, 20), (20, 60)]}
    assert len({open_scenes("s", str(tmp_path), vertical=vertical).fingerprint for vertical in (False, True)}) == 2


IMAGE = encoded(ramp())
TOTALTEXT = "x: [[20 40 60\n 60 20]], y: [[30 30 30\n 45 45]], ornt: [u'c'], transcriptions: [u'arc']\n"
ALONG = [20, 30, 35, 40, 45, 50, 60]
POLYGON = ",".join([f"{x},30" for x in ALONG] + [f"{x},45" for x in reversed(ALONG)])
LAYOUTS = {
    "icdar2013": ({"Challenge2_Training_Task1_GT/gt_100.txt": '20 30 60 45 "arc"\n',
                   "Challenge2_Training_Task12_Images/100.png": IMAGE}, "100"),
    "polygons": ({"train_gts/img1.jpg.txt": "20,30,40,30,60,30,60,45,20,45,60,45,arc\n", "train_images/img1.jpg": IMAGE}, "img1"),
    "totaltext": ({"gt/Train/poly_gt_img1.txt": TOTALTEXT, "Images/Train/img1.jpg": IMAGE,
                   "Images/Test/img1.jpg": b"another"}, "img1"),
    "ctw1500": ({"gt_ctw1500/0001001.txt": f"{POLYGON},####arc\n", "test_images/1001.jpg": IMAGE}, "0001001"),
    "ctw1500-xml": ({"labels/0200.xml": f"<a><image file='0200.png'><box><label>arc</label><segs>{POLYGON}</segs></box></image>"
                                        "</a>",
                     "text_image/0200.png": IMAGE}, "0200"),
    "lsvt": ({"train_full_labels.json": json.dumps({"gt_0": [{"transcription": "arc", "illegibility": False,
                                                             "points": [[20, 30], [60, 30], [60, 45], [20, 45]]}]}),
              "train_weak_labels.json": '{"gt_0": [{"transcription": "arc"}]}',
              "train_full_images_0/train_full_images_0/gt_0.jpg": IMAGE}, "gt_0"),
    "textocr": ({"TextOCR_0.1_val.json": json.dumps({"imgs": {"7": {"file_name": "train/7.jpg"}}, "anns": {
        "1": {"image_id": "7", "points": [20, 30, 60, 30, 60, 45, 20, 45], "utf8_string": "arc"}}}),
        "train_images/7.jpg": IMAGE}, "train/7"),
    "cocotext": ({"annotations/cocotext.v2.json": json.dumps({"imgs": {"7": {"file_name": "COCO_7.jpg"}}, "anns": {"1": {
        "image_id": 7, "legibility": "legible", "mask": [20, 30, 20, 45, 60, 45, 60, 30], "utf8_string": "arc"}}}),
        "train2014/COCO_7.jpg": IMAGE}, "COCO_7"),
}


@pytest.mark.parametrize("format", LAYOUTS)
def test_published_layouts_are_recognised_and_their_images_found(tmp_path, format):
    files, key = LAYOUTS[format]
    place(tmp_path / "set", files)
    folder = str((tmp_path / "set" / next(iter(files))).parent)
    assert matches(folder) == matches(str(tmp_path / "set" / next(iter(files)))) == format
    row, = rows_of(open_scenes("s", folder, format))
    assert (row.key, row.text, row.problem) == (f"s/{key}/001", "arc", None)
    crop = decoded(row.image)
    assert crop.shape == (15, 40, 3)
    assert_maps(crop, [(20, 30), (60, 30), (60, 45), (20, 45)], tolerance=1)


def test_total_text_in_matlab_files(tmp_path):
    place(tmp_path, {"Images/Test/img5.jpg": IMAGE})
    rows = np.empty((1, 6), object)
    rows[0, :] = [["x:"], np.array([[20, 60, 60, 20]]), ["y:"], np.array([[30, 30, 45, 45]]), "box", "h"]
    (tmp_path / "Polygon/Test").mkdir(parents=True)
    savemat(tmp_path / "Polygon/Test/poly_gt_img5.mat", {"polygt": rows})
    assert matches(str(tmp_path / "Polygon/Test")) == "totaltext-mat"
    assert rows_of(open_scenes("s", str(tmp_path / "Polygon/Test"))) == [Row("s/img5/001", encoded(ramp()[30:45, 20:60]), "box")]


def test_synthtext(tmp_path):
    place(tmp_path / "SynthText", {"8/ballet_106_0.jpg": IMAGE})
    names, boxes, texts = (np.empty((1, 1), object) for _ in range(3))
    names[0, 0], texts[0, 0] = "8/ballet_106_0.jpg", np.array(["a\nb"])
    boxes[0, 0] = np.stack([[[20, 60, 60, 20], [30, 30, 45, 45]], [[80, 120, 120, 80], [30, 30, 45, 45]]], 2).astype(np.float32)
    savemat(tmp_path / "SynthText/gt.mat", {"imnames": names, "wordBB": boxes, "txt": texts})
    assert matches(str(tmp_path / "SynthText")) == "synthtext"
    rows = rows_of(open_scenes("s", str(tmp_path / "SynthText")))
    assert [(row.key, row.text, decoded(row.image)[0, 0, :2].tolist()) for row in rows] == [
        ("s/8/ballet_106_0/001", "a", [20, 30]), ("s/8/ballet_106_0/002", "b", [80, 30])]


def test_training_and_test_images_of_one_name_are_told_apart_and_never_guessed(tmp_path):
    other = encoded(ramp() + 10)
    place(tmp_path, {"ch4_training_localization_transcription_gt/gt_img_1.txt": LINE.format("train"),
                     "ch4_training_images/img_1.png": IMAGE, "ch4_test_images/img_1.png": other,
                     "Challenge4_Test_Task1_GT/gt_img_1.txt": LINE.format("test") * 2,
                     "gt/gt_img_1.txt": LINE.format("which")})
    assert matches(str(tmp_path)) is None
    for folder, column in (("ch4_training_localization_transcription_gt", 20), ("Challenge4_Test_Task1_GT", 30)):
        assert decoded(rows_of(open_scenes("s", str(tmp_path / folder)))[0].image)[0, 0, 0] == column
    row, = rows_of(open_scenes("s", str(tmp_path / "gt")))
    assert row.problem == "several images of this name"
    assert row.detail == f"{tmp_path}/ch4_test_images/img_1.png, {tmp_path}/ch4_training_images/img_1.png"
    os.unlink(tmp_path / "ch4_test_images/img_1.png")
    row, _ = rows_of(open_scenes("s", str(tmp_path / "Challenge4_Test_Task1_GT")))
    assert row.problem == "missing file"


@pytest.mark.parametrize("files", [
    {"labels.tsv": "a.jpg\ttext\n", "a.jpg": IMAGE}, {"gt.txt": 'word_1.png, "Text"\n', "word_1.png": IMAGE},
    {"gt.txt": "word_1.png\tText\n", "coords.txt": "word_1.png,1,2,3,4,5,6,7,8\n"},
    {"0001.gt.txt": "1,2,3,4,5,6,7,8,text\n", "0001.png": IMAGE},
    {"a.txt": "a line of text\n", "a.png": IMAGE}, {"a.txt": "0 0.5 0.5 0.1 0.2\n", "a.png": IMAGE}, {"a.png": IMAGE},
    {"a.json": '{"version": "5.0", "shapes": []}', "a.png": IMAGE}, {"sub/labels.tsv": "", "gt/gt_1.txt": LINE.format("x")},
    {"words/deep/data.mdb": b"", "gt/gt_1.txt": LINE.format("x")}, {"train/gt_1.txt": LINE.format("x"), "test/gt_1.txt": LINE.format("x")},
    {"a.xml": "<PcGts></PcGts>", "a.png": IMAGE}, {"x.mat": b"MATLAB"},
])
def test_other_folders_are_not_claimed(tmp_path, files):
    place(tmp_path / "f", files)
    assert matches(str(tmp_path / "f")) is None
    with pytest.raises(BadInput, match="expected scene annotations"):
        open_scenes("s", str(tmp_path / "f"))


def test_what_is_not_there_or_empty_is_refused(tmp_path):
    assert matches(str(tmp_path / "nothing")) is None
    place(tmp_path, {"gt_1.txt": LINE.format("x"), "empty.json": json.dumps({"imgs": {}, "anns": {}, "mask": 0})})
    with pytest.raises(BadInput, match=r"empty.json: expected annotated regions \(cocotext\), found none"):
        open_scenes("s", str(tmp_path / "empty.json"))
    with pytest.raises(BadInput, match=r"expected scene annotations \(ctw1500\), found icdar2015"):
        open_scenes("s", str(tmp_path / "gt_1.txt"), "ctw1500")


def test_the_fingerprint_changes_with_annotations_and_images(tmp_path):
    place(tmp_path, {"gt_1.txt": LINE.format("x"), "1.png": IMAGE})
    prints = [open_scenes("s", str(tmp_path)).fingerprint, open_scenes("s", str(tmp_path)).fingerprint]
    place(tmp_path, {"1.png": IMAGE + b" "})
    prints.append(open_scenes("s", str(tmp_path)).fingerprint)
    place(tmp_path, {"gt_1.txt": LINE.format("y")})
    prints.append(open_scenes("s", str(tmp_path)).fingerprint)
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_keys_of_images_that_share_a_name_differ(tmp_path):
    place(tmp_path, {"gt_1.txt": LINE.format("x"), "poly_gt_1.txt": LINE.format("y"), "1.png": IMAGE})
    assert [(row.key, row.text) for row in rows_of(open_scenes("s", str(tmp_path)))] == [("s/1/001", "x"), ("s/1~2/001", "y")]
