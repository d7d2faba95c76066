"""Wrong labels: found by a model that reads them otherwise, shown, corrected, taken back."""

import csv
from pathlib import Path

import pytest

from confident import sure_model
from killing import Killed, killing
from pipelines.cli import run
from pipelines.corpus.reader import Corpus
from pipelines.evaluation.measure import evaluate_recognizer
from pipelines.ingestion import relabel as room
from pipelines.ingestion.relabel import read_corrections, relabel
from pipelines.ingestion.staging import LocalStaging
from pipelines.reading.weights import load_recognizer
from pipelines.synthesis.corpus import Settings, render_corpus


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """30 pictures, and a model that is sure of whatever it reads in them: their labels are its readings, but for three."""
    folder = tmp_path_factory.mktemp("relabel")
    sure_model(folder / "model")
    drawn = [(row["key"], row["image"]) for table in render_corpus(folder / "drawn", 30, Settings(style="street", charset="36")).rows_iter() for row in table.to_pylist()]
    read = {word.key: word for word in evaluate_recognizer(load_recognizer(folder / "model"), [(key, image, "") for key, image in drawn]).words}
    surest = sorted((key for key, _ in drawn), key=lambda key: -read[key].confidence)[:3]
    assert all(read[key].confidence > 0.3 for key in surest)
    labels = {key: "wrong" if key in surest else read[key].prediction or "none" for key, _ in drawn}
    (folder / "images").mkdir()
    for number, (key, image) in enumerate(drawn):
        (folder / "images" / f"{number:02}.jpg").write_bytes(image)
    (folder / "images" / "labels.tsv").write_text("".join(f"{number:02}.jpg\t{labels[key]}\n" for number, (key, _) in enumerate(drawn)), encoding="utf-8")
    assert run("ingest", [f"words={folder / 'images'}", "--out", str(folder / "words"), "--rows-per-shard", "12", "--rows-per-group", "5"]) == 0
    (folder / "slips").write_text("\n".join(sorted(f"words/{[key for key, _ in drawn].index(slip):02}.jpg" for slip in surest)), encoding="utf-8")
    return folder


def rows(corpus: Path) -> dict[str, dict]:
    return {row["key"]: row for table in Corpus.open(corpus).rows_iter() for row in table.to_pylist()}


def lines_of(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def corrected(file: Path, texts: dict[str, str]) -> Path:
    """A list in which somebody has written what is right."""
    lines = lines_of(file)
    with open(file, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, lines[0].keys())
        writer.writeheader()
        writer.writerows({**line, "correct": texts.get(line["key"], "")} for line in lines)
    return file


def test_slips_are_found_shown_corrected_and_taken_back(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("describe", [str(place / "words"), "--suspects", str(place / "model"), "--min-confidence", "0.3"]) == 0
    slips = (place / "slips").read_text(encoding="utf-8").split("\n")
    lines = lines_of(tmp_path / "reports" / "suspects-words.csv")
    assert sorted(line["key"] for line in lines) == slips and all((line["text"], line["correct"]) == ("wrong", "") for line in lines)
    assert [float(line["confidence"]) for line in lines] == sorted((float(line["confidence"]) for line in lines), reverse=True)
    page = (tmp_path / "reports" / "suspects-words.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 3 and "3 of 30 labels" in page
    assert "3 of 30 labels are read otherwise with a confidence of 0.3 or more" in capsys.readouterr().out
    listed = corrected(tmp_path / "reports" / "suspects-words.csv", {slips[0]: "right", slips[1]: "-"})
    assert run("relabel", [str(place / "words"), str(listed), "--out", "better"]) == 0
    assert "better: 30 images, 1 label corrected, 1 taken away" in capsys.readouterr().out
    before, after = rows(place / "words"), rows(tmp_path / "better")
    assert {key: row["text"] for key, row in after.items() if row["text"] != before[key]["text"]} == {slips[0]: "right", slips[1]: None}
    assert all({**row, "text": None} == {**before[key], "text": None} for key, row in after.items()) and list(after) == list(before)
    assert run("describe", [str(place / "words"), "--suspects", str(place / "model")]) == 2  # what somebody wrote is not replaced
    assert "expected a list that nobody has corrected yet, found corrections in it" in capsys.readouterr().err


def test_no_more_than_asked_for_the_surest_first(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for most in (3, 1):
        assert run("describe", [str(place / "words"), "--suspects", str(place / "model"), "--min-confidence", "0.3", "--most", str(most), "--html", f"{most}.html"]) == 0
    assert lines_of(tmp_path / "1.csv") == lines_of(tmp_path / "3.csv")[:1]


@pytest.mark.parametrize("owner, name, calls", [(room, "_rewrite", 1), (LocalStaging, "publish", 0)])
def test_a_killed_relabel_goes_on(place, tmp_path, monkeypatch, owner, name, calls):
    corpus, texts = Corpus.open(place / "words"), {"words/00.jpg": "a", "words/20.jpg": None}
    whole = relabel(corpus, texts, str(tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, killing(getattr(owner, name), calls))
        relabel(corpus, texts, str(tmp_path / "cut"))
    assert relabel(corpus, texts, str(tmp_path / "cut")).sha256 == whole.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]


@pytest.mark.parametrize("text, sentence", [("key;correct\nwords/00.jpg;x\n", None), ("\ufeffkey,correct\r\nwords/00.jpg,x\r\n", None),
                                            ("key,text\nwords/00.jpg,x\n", "expected the columns key and correct, found key, text"), ("", "found nothing"),
                                            ("key,correct\nwords/00.jpg,x\nwords/00.jpg,y\n", "found 'x' and 'y' for words/00.jpg"),
                                            ("key,correct\nother/1,x\n", "found 1 that it lacks, such as 'other/1'")])
def test_lists_of_spreadsheets_are_read_and_others_refused(place, tmp_path, capsys, text, sentence):
    (tmp_path / "list.csv").write_bytes(text.encode())
    assert run("relabel", [str(place / "words"), str(tmp_path / "list.csv"), "--out", str(tmp_path / "new")]) == (0 if sentence is None else 2)
    if sentence is None:
        assert read_corrections(str(tmp_path / "list.csv")) == {"words/00.jpg": "x"} and rows(tmp_path / "new")["words/00.jpg"]["text"] == "x"
    else:
        assert sentence in capsys.readouterr().err and not (tmp_path / "new").exists()
