"""`textray adapt`: from a folder of images to a table of what they say, by commands that one could type; a killed one goes on."""

import csv
import json
from pathlib import Path

import pytest

import textray
from confident import sure_model
from killing import Killed, killing
from models.charset import Charset
from pipelines import adapt
from pipelines.cli import run
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.journey import begun, guide, plan
from pipelines.journey.choice import better
from pipelines.journey.plan import Wishes, budget, characters_of, parts_of
from pipelines.synthesis.corpus import Settings, render_corpus


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> Path:
    """30 pictures of codes in a folder, and what the first 24 say in a file beside it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "crops").mkdir()
    rows = [row for table in render_corpus(folder / "c", 30, Settings(style="street", charset="0123456789AB", pattern="[AB][0-9]{2,3}")).rows_iter() for row in table.to_pylist()]
    for number, row in enumerate(rows):
        (folder / "crops" / f"{number:02}.jpg").write_bytes(row["image"])
    (folder / "few.csv").write_text("file_name,text\n" + "".join(f"{number:02}.jpg,{row['text']}\n" for number, row in enumerate(rows[:24])), encoding="utf-8")
    return folder


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """A working folder, and a journey of few words and steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(plan, "LEAST_STEPS", 3)
    monkeypatch.setattr(plan, "MOST_STEPS", 3)
    monkeypatch.setattr(plan, "DRAWN", {"scene": 1200, "plain": 800})
    monkeypatch.setattr(adapt, "_rate", lambda *_: 10.0)
    return tmp_path


def table(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def typed(said: str) -> list[list[str]]:
    """The commands that were printed."""
    return [line.partition(": textray ")[2].split() for line in said.splitlines() if line.startswith("[") and ": textray " in line]


def test_from_images_and_few_labels_to_a_table(crops, quick, capsys, monkeypatch):
    command = [str(crops / "crops"), "--labels", str(crops / "few.csv"), "--pattern", "[AB][0-9]{2,3}", "--both-ways-up", "--minutes", "1"]
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.training.driver._fit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert run("adapt", command) == 130
    first = capsys.readouterr()
    assert run("adapt", command) == 0
    said = capsys.readouterr()
    rows = table(quick / "adapted" / "words.csv")
    assert [row["key"] for row in rows] == [f"images/{number:02}.jpg" for number in range(30)]
    assert all(0 <= float(row["confidence"]) <= 1 and set(row["text"]) <= set("0123456789AB") and row["labeler"].startswith("adapted-first@") for row in rows)
    written = json.loads((quick / "adapted" / "plan.json").read_text(encoding="utf-8"))
    assert (written["labels"], written["method"], written["recognizer"], written["charset"], written["rounds"]) == (Corpus.open(quick / "adapted/corpora/labeled-train").rows, "pseudo-labels", "crnn_tiny", "0123456789AB", 1)
    assert [each[0] for each in typed(first.err + said.err)] == ["ingest", "ingest", "split", "render", "render", "ingest", "finetune", "finetune", "evaluate", "register", "predict"]
    assert "0 of 6 images are read with a confidence of 0.3 or more, too few to learn from" in said.err  # it has had three steps
    assert json.loads((quick / "adapted" / "report" / "evaluation.json").read_text(encoding="utf-8"))["average"]["words"] == Corpus.open(quick / "adapted/corpora/labeled-test").rows
    assert "adapted/words.csv: what the images say" in said.out and "textray predict adapted --both-ways-up IMAGES" in said.out
    assert (quick / "adapted" / "mlflow.db").exists() and sorted(path.name for path in quick.iterdir()) == ["adapted"]
    before = (quick / "adapted" / "words.csv").read_bytes()
    assert run("adapt", command) == 0  # once more: nothing is learned or registered again
    assert (quick / "adapted" / "words.csv").read_bytes() == before and typed(capsys.readouterr().err) == [["finetune", "adapted/recipes/first.yaml"]]
    (quick / "adapted" / "words.csv").write_bytes(before.replace(b"images/00.jpg,", b"images/00.jpg,A1"))  # corrected by hand
    assert run("adapt", command) == 0
    assert (quick / "adapted" / "words.csv").read_bytes().count(b"images/00.jpg,A1") == 1
    assert "adapted/words.csv was changed since it was written, and is left as it is; remove it to have the images read again" in capsys.readouterr().err
    assert run("predict", ["adapted", str(crops / "crops" / "00.jpg")]) == 0  # the folder is a model
    capsys.readouterr()
    assert run("adapt", [*command[:-1], "2"]) == 2
    assert "adapted: expected a free name or the same command on the same images, found what another one left (--minutes 1 before, 2 now)" in capsys.readouterr().err
    with open(crops / "few.csv", "a", encoding="utf-8") as more:
        more.write("29.jpg,A11\n")
    assert run("adapt", command) == 2
    assert "found what another one left (other labels than before)" in capsys.readouterr().err
    assert run("adapt", [command[0], *command[3:]]) == 2
    assert f"found what another one left (--labels {crops / 'few.csv'} before, not given now; other labels than before)" in capsys.readouterr().err


def test_a_handful_of_labels_is_too_few_for_a_part_of_every_batch(crops, quick, capsys):
    (quick / "five.csv").write_text("".join(["file_name,text\n", *(f"{number:02}.jpg,A1{number}\n" for number in range(5))]), encoding="utf-8")
    assert run("adapt", [str(crops / "crops"), "--labels", "five.csv", "--pattern=-?[AB][0-9]{2,3}", "--minutes", "1", "--name", "five"]) == 0
    said = capsys.readouterr()
    assert "5 labels with characters of the charset are left to learn from, too few for a part of every batch" in said.err
    assert run("adapt", [str(crops / "crops"), "--name", "my reader"]) == 2
    (quick / "other").mkdir()
    (quick / "other" / "notes.txt").write_text("mine", encoding="utf-8")
    assert run("adapt", [str(crops / "crops"), "--out", "other"]) == 2
    told = capsys.readouterr().err
    assert "--name my reader: expected letters, digits" in told and "other: expected a free name or what an earlier `textray adapt` left" in told


@pytest.fixture(scope="module")
def sure(tmp_path_factory) -> Path:
    """A model that is sure of what it reads, whatever that is."""
    return sure_model(tmp_path_factory.mktemp("model") / "sure", "0123456789AB")


def test_a_model_that_reads_teaches_itself_and_a_killed_journey_goes_on(crops, sure, quick, capsys, monkeypatch):
    command = [str(crops / "crops"), "--pattern", "[AB][0-9]{2,3}", "--model", str(sure), "--name", "more", "--minutes", "1"]
    monkeypatch.setattr(adapt, "OWN_NGRAM", ("--beam", "10", "--min-confidence", "0.05", "--own-ngram", "0.3"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pipelines.training.rounds.train", killing(None))
        run("adapt", command)
    assert run("adapt", command) == 0
    said = capsys.readouterr()
    assert [each[0] for each in typed(said.err)] == ["ingest", "render", "render", "self-train", "self-train", "register", "predict"]  # it reads already: no first run
    assert "how good it is: unknown, with 0 labels" in said.out and Corpus.open(quick / "more/runs/more/round-1/labels").rows > 5
    assert json.loads((quick / "more/runs/more-round-1/run.json").read_text(encoding="utf-8"))["start"]["model"] == str(quick / "more" / "start")
    assert {row["labeler"].partition("@")[0] for row in table(quick / "more" / "words.csv")} == {"more-round-1"}
    monkeypatch.setattr(adapt, "OWN_NGRAM", ("--beam", "10", "--min-confidence", "1", "--own-ngram", "0.3"))
    assert run("adapt", [*command[:-3], "none", *command[-2:]]) == 0  # what it reads is not sure enough: it stays as it is
    assert "the reader is the one of the first run: for why, see above" in capsys.readouterr().err
    assert {row["labeler"] for row in table(quick / "none" / "words.csv")} == {textray.load(sure).name}


def test_how_long_each_part_takes():
    assert budget(1000, 200, "pseudo-labels") == (1875, 2, 357)  # 0.6 of 200,000 images by 64, 0.2 by 112
    assert budget(1000, 200, "labels") == (3125, 0, 0)
    assert budget(1000, 200, "pseudo-labels", begun=True) == (0, 2, 892)
    assert budget(10, 10, "pseudo-labels") == (plan.LEAST_STEPS, 1, plan.LEAST_STEPS) and budget(1e6, 1e4, "labels")[0] == plan.MOST_STEPS


def test_labels_are_laid_aside_where_there_are_enough():
    assert [parts_of(labels) for labels in (0, 19, 20, 299, 300, 5000)] == [(0.0, 0.0)] * 2 + [(0.0, 0.3)] * 2 + [(0.15, 0.15)] * 2


def test_the_charset_is_that_of_what_there_is():
    assert characters_of(Wishes(), [], []) == "36" and characters_of(Wishes(), ["Cafe", "x"], []) == "62" and characters_of(Wishes(), ["a-b"], []) == "94"
    assert "é" in characters_of(Wishes(), ["café"], []) and characters_of(Wishes(charset="abc"), ["x"], []) == "abc"
    assert characters_of(Wishes(words="w"), ["Z9"], ["AB", "B-1"]) == "-19ABZ"


def test_a_journey_that_came_to_nothing_leaves_its_folder_to_the_next(crops, quick, capsys):
    (quick / "names.csv").write_text("file_name,text\nelsewhere.jpg,A1\n", encoding="utf-8")
    (quick / "own").mkdir()
    for number in range(4):
        (quick / "own" / f"{number}.jpg").write_bytes((crops / "crops" / f"{number:02}.jpg").read_bytes() if number else b"broken")
    assert run("adapt", ["own", "--minutes", "1"]) == 2
    assert "raise --max-errors" in capsys.readouterr().err
    begun.begin(quick / "adapted", {"options": {"minutes": 2.0, "max_errors": None}, "images": [1]}, "adapted")  # as another command begins there
    assert "adapted: an earlier try came to nothing there and gives way (--minutes 1 before, 2 now; other images than before)" in capsys.readouterr().err
    (quick / "adapted" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(BadInput, match="found what another one left"):
        begun.begin(quick / "adapted", {"options": {"minutes": 3.0}, "images": [1]}, "adapted")
    assert (quick / "adapted" / "notes.txt").exists()


def test_the_words_that_guide_a_reading_stand_in_the_cases_that_are_drawn_and_labeled(tmp_path):
    words = guide.english("62", 5000)
    assert {word.isupper() for word in words} == {word.islower() for word in words} == {True, False} and any(word.istitle() and len(word) > 3 for word in words)
    assert all(Charset.named("36").outside(word) == "" for word in guide.english("36", 500))  # which knows no case
    assert guide.listed(["user", "india"], ["TO", "Paris"]) == ["user", "india", "USER", "INDIA", "User", "India"]
    assert guide.listed(["User"], ["TO"]) == ["User"] and guide.listed(["user"], []) == ["user"]
    file = guide.write_guide(tmp_path / "guide.txt", "62", ["user"], ["TO"])
    assert Path(file).read_text(encoding="utf-8") == "user\nUSER\nUser\nTO\n"


def test_the_reader_is_the_run_that_reads_most_of_what_was_laid_aside():
    assert better({"the first run": (12, 28), "the last round": (11, 28)}) == (
        "the first run", "of the 28 words laid aside are read: the first run 12, the last round 11. The first run it is, by few words")
    assert better({"the first run": (12, 28), "the last round": (12, 28)})[0] == "the last round"
    assert better({"with the n-gram": (150, 200), "without": (120, 200)}) == ("with the n-gram", "of the 200 words laid aside are read: with the n-gram 150, without 120. With the n-gram it is")


def test_labels_that_cannot_teach_are_said_with_the_characters(crops, tmp_path):
    (tmp_path / "words").mkdir()
    for number in range(4):
        (tmp_path / "words" / f"{number}.png").write_bytes((crops / "crops" / f"{number:02}.jpg").read_bytes())
    (tmp_path / "words" / "labels.csv").write_text("file_name,text\n0.png,ab c\n1.png,d e\n2.png,fg\n3.png,h-i\n", encoding="utf-8")
    assert run("ingest", [str(tmp_path / "words"), "--out", str(tmp_path / "corpus")]) == 0
    found, strange = plan.usable(tmp_path / "corpus", "36")
    assert (found, strange) == (1, {" ": 2, "-": 1}) and plan.named(strange) == "the blank in 2, '-' in 1"
