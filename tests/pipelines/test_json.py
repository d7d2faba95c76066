"""`--json`: what a script reads is one JSON document on the standard output, and nothing else."""

import json

import pytest
import torch

from models.charset import Charset
from models.recognizers import build
from pipelines.cli import run
from pipelines.reading.weights import save_recognizer
from pipelines.synthesis.corpus import Settings, render_corpus


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    torch.manual_seed(0)
    save_recognizer(folder / "model", build("crnn_tiny", Charset.named("36")))
    render_corpus(folder / "words", 30, Settings(style="plain", charset="36"))
    return folder


@pytest.mark.parametrize("command, looked", [
    ("evaluate model --data words=words --json", lambda found: [each["words"] for each in found["sets"]] == [30]),
    ("compare model model --data words=words --json", lambda found: found["all"]["words"] == 30 and found["all"]["difference"] == 0),
    ("split words --test 0 --validation 0.3 --json", lambda found: sum(part["labeled"] for part in found.values()) == 30 and list(found) == ["train", "validation"]),
    ("describe words --json", lambda found: found["total"]["labeled"] == 30),
    ("models crnn_tiny --json", lambda found: [(each["name"], each["decoder"]) for each in found] == [("crnn_tiny", "ctc")] and found[0]["parameters"] > 1e5),
    ("recipes --json", lambda found: any(each["name"] == "ccr_trba" for each in found)),
    ("doctor --json", lambda found: all({"name", "value", "problem", "fatal", "ok"} == set(each) for each in found)),
    ("describe words --suspects model --min-confidence 0 --json", lambda found: found == {
        "labels": 30, "suspects": 30, "page": "reports/suspects-words.html", "list": "reports/suspects-words.csv"}),
    ("recipes supervised_crnn_tiny --json", lambda found: found["recognizer"]["name"] == "crnn_tiny" and found["objective"] == {"name": "supervised"}),
    ("runs . --json", lambda found: found == [])])
def test_a_script_gets_one_document(place, monkeypatch, capsys, command, looked):
    monkeypatch.chdir(place)
    assert run(command.split()[0], command.split()[1:]) == 0
    assert looked(json.loads(capsys.readouterr().out))


def test_numbers_say_how_they_are_computed_and_where_their_page_lies(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert run("evaluate", ["model", "--data", "words=words", "--out", "report", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("page") == "report/evaluation.html" and found == json.loads((place / "report" / "evaluation.json").read_text(encoding="utf-8"))
    assert run("compare", ["model", "model", "--data", "words=words", "--out", "both.html", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == "both.html" and (place / "both.html").is_file()
    assert found["computed_as"]["difference"] == ("accuracy_b less accuracy_a, all three fractions in [-1, 1]; interval_95 by Agresti and Min (2005), for paired words")
    assert "per cent" not in json.dumps(found)
