"""How many words of a corpus stand on their head, by what a model reads in them both ways up."""

import json
import re

import cv2
import numpy as np
import pytest

from confident import sure_model
from pipelines.cli import run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A corpus of 40 noisy pictures and a model that reads something in each."""
    folder = tmp_path_factory.mktemp("orientation")
    (folder / "images").mkdir()
    for seed in range(40):
        noise = np.random.default_rng(seed).integers(0, 256, (3, 6, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{seed:02}.png"), cv2.resize(noise, (60, 20), interpolation=cv2.INTER_CUBIC))
    sure_model(folder / "model")
    assert run("ingest", [str(folder / "images"), "--out", str(folder / "words")]) == 0
    return folder


def test_the_page_counts_what_is_read_more_surely_upside_down(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("describe", [str(place / "words"), "--html", "page.html", "--images", "0", "--orientation", str(place / "model")]) == 0
    assert run("predict", [str(place / "model"), str(place / "images"), "--both-ways-up", "--out", "read.jsonl"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "read.jsonl").read_text(encoding="utf-8").splitlines()]
    read = [line for line in lines if line["confidence"] >= 0.5 and line["text"]]
    turned = sorted((line for line in read if line["upside_down"]), key=lambda line: -line["confidence"])
    assert 0 < len(turned) < len(read)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert (f"Of 40 images, evenly drawn, {place / 'model'} reads {len(read)} with a confidence of 0.5 or more one way or the other; {len(turned)} of these "
            f"({100 * len(turned) / len(read):.1f} %) upside down. Read and train on them both ways up") in page
    assert f"the {min(24, len(turned))} surest of {len(turned)}" in page
    assert len(re.findall('<div class="card"', page.split('id="orientation"')[1])) == min(24, len(turned))


def test_it_is_part_of_the_page(place, capsys):
    assert run("describe", [str(place / "words"), "--orientation", str(place / "model")]) == 2
    assert "--orientation: expected it beside --html PAGE, without --suspects, found it without a page: say where the page goes" in capsys.readouterr().err
