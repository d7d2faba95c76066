"""Pages: escaped, self-contained, with pictures that a browser can show."""

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np

from pipelines.reports.html import Markup, Picture, embedded, figure, fitted, heading, page, paragraph, pictures, subheading, table, write_text


def png(height: int, width: int) -> bytes:
    return cv2.imencode(".png", np.full((height, width, 3), 200, np.uint8))[1].tobytes()


def decode(uri: str) -> np.ndarray:
    kind, data = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)


class Nesting(HTMLParser):
    """Fails where a closing tag does not match the open one."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_is_well_formed_escaped_and_needs_no_other_file():
    shown = Picture(png(8, 20), [("label", "<x>"), ("read", "")], frozenset({"read"}))
    text = page("<b>", paragraph("1 < 2 & 3"), table(["<name>", "n"], [["a<b", 1], ["all", 1]], numbers=[1], sums=1),
                pictures([shown, Picture(b"no image", [])]), figure("<svg></svg>", "c"))
    nesting = Nesting()
    nesting.feed(text)
    assert nesting.open == []
    assert "<b>" not in text and "<x>" not in text and "1 &lt; 2 &amp; 3" in text
    assert "http" not in text and "(the image cannot be decoded)" in text
    assert re.search(r"<tr class=sum><td>all</td><td class=number>1</td></tr>", text)


def test_pictures_keep_their_shape_and_are_bounded():
    assert decode(embedded(png(30, 90))).shape == (30, 90, 3)
    assert decode(embedded(png(10, 4000))).shape == (1, 256, 3)
    assert embedded(None) is None and embedded(b"") is None and embedded(b"xyz") is None


def test_a_picture_is_fitted_whole_into_a_box():
    assert fitted(png(64, 1500), 1000, 96)[1:] == (1000, 43)
    assert fitted(png(200, 100), 1000, 96)[1:] == (48, 96)
    small = fitted(png(10, 20), 1000, 96)
    assert small[1:] == (20, 10) and decode(small.source).shape == (10, 20, 3)
    assert fitted(b"xyz", 1000, 96) is None


def test_what_is_transparent_lies_on_white():
    pixels = np.zeros((10, 20, 4), np.uint8)
    shown = decode(fitted(cv2.imencode(".png", pixels)[1].tobytes(), 100, 100).source)
    assert shown.shape == (10, 20, 3) and shown.min() == 255


def test_markup_alone_is_not_escaped():
    bold = Markup("<b>&amp;</b>")
    assert "<td>&lt;b&gt;</td><td><b>&amp;</b></td>" in table(["a", "b"], [["<b>", bold]])
    assert paragraph(bold) == "<p><b>&amp;</b></p>" and subheading("<") == "<h3>&lt;</h3>"
    assert heading("A & B") == "<h2>A &amp; B</h2>" and heading("A", "top") == '<h2 id="top">A</h2>'
    assert page("t", style="i {}").count("i {}</style>") == 1


def test_a_file_is_written_whole(tmp_path):
    file = write_text(tmp_path / "new" / "page.html", "é")
    assert file.read_text(encoding="utf-8") == "é" and [entry.name for entry in file.parent.iterdir()] == ["page.html"]
