"""How many words of a corpus stand on their head, by what a model reads in them both ways up."""

import json
import re

import cv2
import numpy as np
import pytest

from confident import sure_model
from pipelines.cli import run
from pipelines.corpus.reader import Corpus
from pipelines.prediction.orientation import Orientation, orientation
from pipelines.reading.batches import Read
from pipelines.reports.corpus import _orientation


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
    assert run("predict", [str(place / "model"), str(place / "images"), "--out", "upright.jsonl"]) == 0
    lines, upright = ([json.loads(line) for line in (tmp_path / file).read_text(encoding="utf-8").splitlines()] for file in ("read.jsonl", "upright.jsonl"))
    read = [(line, standing["confidence"]) for line, standing in zip(lines, upright, strict=True) if line["confidence"] >= 0.5 and line["text"]]
    turned = [line for line, standing in read if line["upside_down"] and line["confidence"] >= 2 * standing]
    assert 0 < len(turned) < sum(line["upside_down"] for line, _ in read) < len(read)  # some are read a little more surely so
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert (f"Of 40 images, evenly drawn, {place / 'model'} reads {len(read)} with a confidence of 0.5 or more one way or the other; {len(turned)} of these "
            f"({100 * len(turned) / len(read):.1f} %) at least twice as surely when they are turned") in page
    assert f"the {min(24, len(turned))} surest of {len(turned)}" in page
    assert len(re.findall('<div class="card"', page.split('id="orientation"')[1])) == min(24, len(turned))


def test_it_is_part_of_the_page(place, capsys):
    assert run("describe", [str(place / "words"), "--orientation", str(place / "model")]) == 2
    assert "--orientation: expected it beside --html PAGE, without --suspects, found it without a page: say where the page goes" in capsys.readouterr().err


class Said:
    """A reader that says of each image what it was told to."""

    def __init__(self, found: dict[str, Read]) -> None:
        self._found = found

    def read(self, rows):
        return ((row, self._found[row.key.rpartition("/")[2]]) for row in rows)


def test_a_word_counts_where_it_is_clearly_surer_upside_down(place):
    """Half are read a little more surely so, as upright words are; a quarter clearly; the rest as they stand."""
    names = [f"{seed:02}.png" for seed in range(40)]
    both = Said({name: Read("word", 0.9 - number / 1000, None, number < 30) for number, name in enumerate(names)})
    upright = Said({name: Read("other", 0.6 if number < 20 else 0.45 if number == 20 else 0.3) for number, name in enumerate(names)})
    found = orientation(Corpus.open(place / "words"), "m", both, upright)
    assert (found.looked, found.read, found.upside_down) == (40, 40, 9)  # 0.88 is less than twice 0.45
    assert [key for key, _, _ in found.shown] == [f"images/{number}.png" for number in range(21, 30)] and found.clear


@pytest.mark.parametrize("read, upside_down, clear", [(418, 23, False), (418, 40, True), (40, 4, False), (40, 10, True), (0, 0, False)])
def test_both_ways_up_is_recommended_where_there_are_more_than_mistakes_would_make(read, upside_down, clear):
    found = Orientation("m", 1000, read, upside_down, [])
    said = _orientation(found)["said"]
    assert ("probably they are upside down" in said) == clear
    assert found.clear == clear == ("read and train on them both ways up" in said)
    assert ("So few may be mistakes of the model" in said) == (not clear and upside_down > 0)
