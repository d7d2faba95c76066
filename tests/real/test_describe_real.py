"""The page of real images: ICDAR 2015 words, with a file cut off and one that is no image among them."""

import base64
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from pipelines.cli import run
from pipelines.corpus.tally import describe
from pipelines.ingestion.pipeline import ingest


@pytest.fixture(scope="module")
def corpus(ray_of_process, real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real_page")
    broken = folder / "broken"
    shutil.copytree(real_data / "scripts/bengali", broken)
    images = sorted((broken / "images").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:500])
    images[1].write_bytes(b"<html>not found</html>")
    return ingest([str(real_data / "words/train/IC15"), f"broken={broken}"], folder / "c", max_errors=0.01)


@pytest.fixture(scope="module")
def page(corpus, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.html"
    assert run("describe", [corpus.path, "--html", str(file)]) == 0
    return file.read_text(encoding="utf-8")


def test_the_charset_report_of_icdar_2015(corpus):
    found = describe(corpus)["sources"]["IC15"]
    assert found["labeled"] == 4468
    assert [(found["charsets"][name]["rows_outside"], found["charsets"][name]["characters_outside"]) for name in ("36", "62", "94")] == [
        (413, 529), (413, 529), (37, 59)]
    assert found["charsets"]["94"]["outside"] == {" ": 55, "\u00b4": 3, "\u00c9": 1}


def test_the_page_accounts_for_every_row_and_shows_what_is_broken(page):
    assert page.count("✓</span> exact") == 3 and "✓</span> quarantine.parquet holds 2 rows" in page
    assert "22 bytes, the first:" in page and "&lt;html&gt;not found&lt;/html&gt;" in page
    assert "IC15 <small>40 of 4,468 images</small>" in page and "broken <small>40 of 398 images</small>" in page


def test_every_picture_of_the_page_decodes(page):
    class Images(HTMLParser):
        def __init__(self):
            super().__init__()
            self.sources = []

        def handle_starttag(self, tag, attrs):
            if tag == "img":
                self.sources.append(dict(attrs)["src"])

    images = Images()
    images.feed(page)
    assert 80 <= len(images.sources) <= 81  # the file cut off may show its upper half
    for source in images.sources:
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(source.removeprefix("data:image/jpeg;base64,")), np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape[0] <= 96 and pixels.shape[1] <= 1080
    assert len(page) < 2_000_000 and "http" not in page
