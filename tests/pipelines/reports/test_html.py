"""Pages: escaped, self-contained, with pictures that a browser can show."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from jinja2 import UndefinedError

from pipelines.reports import html
from pipelines.reports.html import Picture, embedded, fitted, render, write_text
from pipelines.reports.pretraining import GROUNDS, contrast, letter_colour


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
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


TEMPLATES = Path(html.__file__).parent / "templates"
STYLE = (TEMPLATES / "style.css").read_text(encoding="utf-8")


def of(source: str, **values) -> str:
    """What a line of a template gives that uses the parts of pages."""
    return html._environment().from_string('{% import "parts.html" as parts %}' + source).render(values)


def test_a_page_is_well_formed_escaped_and_needs_no_other_file():
    suspects = [{"image": image, "label": "<x>", "read": "", "confidence": "0.9", "key": "a&b", "rows": [("label", [("<", False), ("x", True)]), ("read", [])]}
                for image in (png(8, 20), b"no image")]
    text = render("suspects.html", {"title": "<b>", "count": "1", "looked": "2", "corpus": "1 < 2 & 3", "model": "m", "least": "0.9", "listed": "l.csv", "words": suspects})
    nesting = Nesting()
    nesting.feed(text)
    assert nesting.open == []
    assert "<b>" not in text and "<x>" not in text and "1 &lt; 2 &amp; 3" in text and 'alt="image labeled &lt;x&gt;"' in text
    assert "http" not in text and "(the image cannot be decoded)" in text and "(nothing)" in text and html.MARK.decode() in text


def test_a_value_that_a_page_wants_and_does_not_get_is_an_error():
    with pytest.raises(UndefinedError, match="'count' is undefined"):
        render("suspects.html", {"title": "t"})


def test_a_table_has_numbers_to_the_right_and_its_sums_last():
    shown = of("{{ parts.table(['<name>', 'n'], [['a<b', 1], ['all', 1]], [1], 1) }}")
    assert "<th>&lt;name&gt;</th><th class=\"number\">n</th>" in shown
    assert re.findall(r"<tr.*</tr>", shown)[1:] == ['<tr><td>a&lt;b</td><td class="number">1</td></tr>', '<tr class="sum"><td>all</td><td class="number">1</td></tr>']


def test_a_long_text_beside_numbers_is_not_squeezed_to_a_word_a_line():
    """On a narrow screen, where the table scrolls."""
    shown = of("{{ parts.table(['set', 'n', ''], [['a', 1, note], ['b', 2, 'short']], [1]) }}", note="not the published set: SVT has 647 words, this is 2")
    assert re.findall("<td[^>]*>", shown) == ["<td>", '<td class="number">', '<td class="text">', "<td>", '<td class="number">', "<td>"]
    assert re.search(r"^td\.text { min-width: min\(16rem, 70vw\); }$", STYLE, re.MULTILINE)


def test_a_picture_is_described_and_its_lines_are_escaped():
    shown = of("{{ parts.pictures(items) }}", items=[Picture(png(8, 20), [("label", "<x>"), ("read", "")], frozenset({"read"}))])
    assert 'alt="label: &lt;x&gt;"' in shown and '<dt>label</dt><dd>&lt;x&gt;</dd><dt>read</dt><dd class="wrong">\u00a0</dd>' in shown


def test_label_and_reading_stand_above_each_other_with_what_differs():
    rows = [("label", [("a", False), ("<", True)]), ("read", [("a", False), ("", True)])]
    shown = of("{{ parts.aligned(rows) }}", rows=rows)
    assert "<td>a</td><td class=\"off\">&lt;</td></tr>" in shown and '<td>a</td><td class="off">·</td></tr>' in shown


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


def test_every_template_is_on_a_page_or_part_of_one():
    sources = {file.name: file.read_text(encoding="utf-8") for file in TEMPLATES.iterdir()}
    named = set(re.findall(r"(?:extends|import|include) \"(\S+?)\"", "".join(sources.values())))
    pages = {name for name, source in sources.items() if "{% extends" in source}
    assert set(sources) == named | pages == named | {"comparison.html", "corpus.html", "evaluation.html", "run.html", "suspects.html", "sweep.html"}


def schemes() -> dict[str, dict[str, str]]:
    """The colours of the style by name, light and dark."""
    light, dark = STYLE.split("@media (prefers-color-scheme: dark)")[:2]
    colours = [dict(re.findall(r"--(\w+): (#\w{6})", part.split("\n* {")[0])) for part in (light, dark)]
    return dict(zip(("light", "dark"), colours, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_from_the_ground_in_both_schemes(scheme):
    """Text has a contrast of 4.5 or more, lines and dots of 3 (WCAG 2.1 AA, 1.4.3 and 1.4.11)."""
    colours = schemes()[scheme]
    assert set(colours) == {"ground", "soft", "text", "quiet", "line", "wrong", "good", "bar", "second", "gap"} and colours["ground"] == GROUNDS[scheme]
    for ground in ("ground", "soft"):
        for text in ("text", "quiet", "wrong", "good"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for drawn in ("bar", "second"):
            assert contrast(colours[drawn], colours[ground]) >= 3, (drawn, ground)
    assert contrast(colours["wrong"], colours["gap"]) >= 4.5
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_colours_come_from_the_style_alone_and_no_text_is_made_paler():
    """So that the test above holds everything: no opacity, no colour elsewhere but in the map, whose letters are tested below."""
    rules = STYLE[STYLE.index("\n* {"):]
    assert "opacity" not in rules and not re.findall(r"#[0-9a-fA-F]{3,8}\b|rgb|hsl", rules)
    for file in TEMPLATES.glob("*.html"):
        assert not re.findall(r"(?:color|fill|stroke)\s*[:=]\s*\"?\s*(?:#|rgb|hsl|\w+;)", file.read_text(encoding="utf-8")), file.name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_of_the_map_can_be_read_in_every_hue(scheme):
    assert all(contrast(letter_colour(hue / 36, scheme), GROUNDS[scheme]) >= 4.5 for hue in range(36))
    assert len({letter_colour(hue / 36, scheme) for hue in range(36)}) == 36


def test_a_file_is_written_whole(tmp_path):
    file = write_text(tmp_path / "new" / "page.html", "é")
    assert file.read_text(encoding="utf-8") == "é" and [entry.name for entry in file.parent.iterdir()] == ["page.html"]
