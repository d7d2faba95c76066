"""`textray compare`: two models on the same words, as a table, as JSON, and as a page of what only one of them reads."""

import json

import cv2
import numpy as np
import pytest
import torch

from foreign import make_folder
from models.charset import Charset
from models.recognizers import build
from pipelines.cli import run
from pipelines.corpus.images import Shape, decode_image
from pipelines.reading.batches import as_input
from pipelines.reading.weights import save_recognizer

LABELS = ["abc", "d3f", "ghi", "k", "lm", "nop", "qrst", "u", "vw", "xyz"]


def picture(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (3, 6, 3), np.uint8)
    return cv2.imencode(".png", cv2.resize(noise, (60, 20), interpolation=cv2.INTER_CUBIC))[1].tobytes()


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A folder of ten pictures with labels, and what is in them as a recognizer takes it."""
    folder = tmp_path_factory.mktemp("words")
    pictures = [picture(seed) for seed in range(10)]
    lines = "".join(f"{number}.png\t{label}\n" for number, label in enumerate(LABELS))
    make_folder(folder, {**{f"{number}.png": picture for number, picture in enumerate(pictures)}, "labels.tsv": lines.encode()})
    shape = Shape(32, 100, "stretch")
    return folder, as_input([decode_image(picture, shape) for picture in pictures], torch.device("cpu"))


def learned(images, labels):
    """A model that reads these labels, which it has learned by heart."""
    torch.manual_seed(0)
    recognizer = build("crnn_tiny", Charset.named("36"))
    optimizer, targets = torch.optim.AdamW(recognizer.parameters(), lr=1e-2), recognizer.decoder.encode(labels)
    for _ in range(20):
        learn(recognizer.train(), optimizer, images, targets)
        with torch.no_grad():
            if recognizer.eval().read(images).texts == labels:
                return recognizer
    raise AssertionError("it does not learn ten words")


def learn(recognizer, optimizer, images, targets) -> None:
    for _ in range(15):
        loss = recognizer.decoder.loss(recognizer(images, recognizer.decoder.inputs(targets)), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(recognizer.parameters(), 5)
        optimizer.step()


@pytest.fixture(scope="module")
def models(words, tmp_path_factory):
    """One that reads seven of the ten words, and one that reads two others and five of those."""
    folder, threads = tmp_path_factory.mktemp("models"), torch.get_num_threads()
    torch.set_num_threads(1)
    wrong = {"few": {0: "abd", 1: "def", 2: "g"}, "other": {2: "g", 8: "w", 9: "zyx"}}
    for name, instead in wrong.items():
        save_recognizer(folder / name, learned(words[1], [instead.get(number, label) for number, label in enumerate(LABELS)]), {"run": name})
    torch.set_num_threads(threads)
    return folder


def test_the_table_says_who_reads_more_and_whether_that_is_told_apart(words, models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("compare", [str(models / "few"), str(models / "other"), "--data", f"own={words[0]}", "--out", "page.html"]) == 0
    header, line = capsys.readouterr().out.splitlines()[3:5]
    assert header.split() == "set words A % B % B - A 95 % interval only A only B p".split()
    assert line.split() == ["own", "10", "70.00", "70.00", "+0.00", "-36.52", "…", "+36.52", "2", "2", "1.000", "not", "told", "apart"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "own: 2 of 2 words that only A reads" in page and "own: 2 of 2 words that only B reads" in page and page.count("data:image") == 4
    for shown in ("abd", "def", "w", "zyx"):  # what is read in place of the words
        assert f'<dd class="wrong"><bdi class="label">{shown}</bdi> 0.' in page
    assert page.count('<circle class="dot') == 2 and "A on own: 7 of 10, 70.00 %" in page and "B on own: 7 of 10, 70.00 %" in page
    assert '<th scope="row">B</th>' in page and '<th scope="row">A</th>' in page


def test_how_both_were_read_is_said(words, models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("compare", [str(models / "few"), str(models / "other"), "--data", f"own={words[0]}", "--beam", "2", "--out", "page.html"]) == 0
    assert "not told apart; beam of 2" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "beam of 2" in page and "compared by one rule: charset for own." in page


def test_scripts_get_every_number(words, models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("compare", [str(models / "few"), str(models / "few"), "--data", f"own={words[0]}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (own,) = found["sets"]
    assert (own.pop("rule"), own.pop("notes")) == ("charset", []) and found["all"] == {**own, "name": "all"}
    counts = {name: found["all"][name] for name in ("words", "both", "only_a", "only_b", "neither", "p", "verdict", "accuracy_a", "accuracy_b")}
    assert counts == {"words": 10, "both": 7, "only_a": 0, "only_b": 0, "neither": 3, "p": 1.0, "verdict": "not told apart", "accuracy_a": 0.7, "accuracy_b": 0.7}
    np.testing.assert_allclose(found["all"]["interval_95"], [-0.16333, 0.16333], atol=1e-5)


def test_models_of_other_charsets_need_a_rule(words, models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    other = save_recognizer(tmp_path / "letters", build("crnn_tiny", Charset.named("94")), {"run": "letters"})
    command = [str(models / "few"), str(other), "--data", f"own={words[0]}"]
    assert run("compare", command) == 2
    assert "say which one, such as --rule 36" in capsys.readouterr().err and not (tmp_path / "reports").exists()
    assert run("compare", [*command, "--rule", "36"]) == 0


def test_a_page_of_somebody_else_is_not_replaced(words, models, tmp_path, capsys):
    (tmp_path / "mine.html").write_text("mine", encoding="utf-8")
    assert run("compare", [str(models / "few"), str(models / "other"), "--data", f"own={words[0]}", "--out", str(tmp_path / "mine.html")]) == 2
    assert "--out" in capsys.readouterr().err and (tmp_path / "mine.html").read_text(encoding="utf-8") == "mine"
