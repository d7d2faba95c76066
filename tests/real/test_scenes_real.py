"""The real part of ICDAR 2015: every annotated region is a row, and words come out upright and whole."""

import re
from collections import Counter

import cv2
import numpy as np
import pytest

from pipelines.ingestion.sources.scenes import matches, open_scenes

COORDINATES = re.compile(r"^\ufeff?((?:-?\d+,){8})(.*?)\r?$", re.MULTILINE)


@pytest.fixture(scope="module")
def published(real_data) -> dict[str, list[tuple[list[int], str]]]:
    """What the files say, by key of the image."""
    return {path.stem.removeprefix("gt_"): [([int(number) for number in numbers.split(",")[:8]], text) for numbers, text in
                                            COORDINATES.findall(path.read_text(encoding="utf-8"))]
            for path in (real_data / "scenes/IC15/gt").glob("gt_*.txt")}


@pytest.fixture(scope="module")
def rows(real_data):
    source = open_scenes("IC15", str(real_data / "scenes/IC15"), "icdar2015")
    rows = [row for piece in source.pieces(200) for row in piece.read()]
    assert len(rows) == source.count()
    return rows


def test_the_folder_is_recognised_and_the_words_beside_it_are_not(real_data):
    assert matches(str(real_data / "scenes/IC15")) == "icdar2015"
    for name in ("scenes", "scenes/IC15/images", "words", "words/test/IC13", "words/test/SVT", "words/train/SVT", "handwriting/lectaurep"):
        assert matches(str(real_data / name)) is None, name


def test_every_region_is_counted(rows, published):
    ignored = sum(text == "###" for regions in published.values() for _, text in regions)
    total = sum(map(len, published.values()))
    assert (len(published), total, ignored, total - ignored) == (120, 1308, 829, 479)
    assert Counter((row.problem, row.filtered) for row in rows) == {("marked as ignore", True): ignored, (None, False): total - ignored}


def test_rows_are_the_published_regions_in_their_order(rows, published):
    assert {row.key: row.text for row in rows} == {f"IC15/{image}/{number:03d}": text.strip() for image, regions in published.items()
                                                   for number, (_, text) in enumerate(regions, start=1)}
    assert rows[0].key == "IC15/img_104/001" and rows[0].text == "END"


def test_crops_are_as_large_as_their_quadrilaterals(rows, published):
    for row in rows:
        if row.image is not None:
            _, image, number = row.key.split("/")
            corners = np.reshape(published[image][int(number) - 1][0], (4, 2)).astype(float)
            sides = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
            height, width = cv2.imdecode(np.frombuffer(row.image, np.uint8), cv2.IMREAD_COLOR).shape[:2]
            assert abs(width - (sides[0] + sides[2]) / 2) <= 1.01 and abs(height - (sides[1] + sides[3]) / 2) <= 1.01, row.key


def test_only_high_words_change_when_vertical_text_is_turned(real_data, rows):
    turned = [row for piece in open_scenes("IC15", str(real_data / "scenes/IC15"), vertical=True).pieces(200) for row in piece.read()]
    changed = [row.text for row, upright in zip(turned, rows, strict=True) if row.image != upright.image]
    assert 0 < len(changed) < 20
