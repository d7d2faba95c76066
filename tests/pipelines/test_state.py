"""Small files that say how things stand, torn or foreign: one sentence, or recovery where that loses nothing."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.state import parse_json, parse_yaml
from pipelines.synthesis.corpus import Settings, render_corpus


@dataclass
class Door:
    width: int
    names: list[str]


@pytest.mark.parametrize("data, sentence", [
    (b"", "door.json: expected JSON, found an empty file: mend it"),
    (b" \n", "door.json: expected JSON, found an empty file: mend it"),
    (b"\0" * 40, "door.json: expected JSON, found bytes that are no text: mend it"),
    (b"\x89PNG\xff\xfe", "door.json: expected JSON, found bytes that are no text: mend it"),
    (b'{"width": 1, "na', "door.json: expected JSON, found text that is not JSON or ends too early (EOF while parsing a string at line 1 column 16): mend it"),
    (b"[1, 2]", "door.json: expected keys and values, found a list: mend it"),
    (b"[" * 9999, "door.json: expected JSON, found text that is not JSON or ends too early (recursion limit exceeded at line 1 column 202): mend it"),
    (b"null", "door.json: expected keys and values, found nothing: mend it"),
    (b'{"width": "1", "names": []}', "door.json: expected integer as width, found '1': mend it"),
    (b'{"width": true, "names": []}', "door.json: expected integer as width, found True: mend it"),
    (b'{"width": 1, "names": [7]}', "door.json: expected string as names.0, found 7: mend it"),
    (b'{"width": 1}', "door.json: expected a value for names, found none: mend it")])
def test_what_is_not_the_json_of_its_kind_is_refused_in_one_sentence(data, sentence):
    with pytest.raises(BadInput) as refused:
        parse_json(data, Door, "door.json", "mend it")
    assert str(refused.value) == sentence


def test_what_is_of_its_kind_is_read_also_behind_a_byte_order_mark():
    assert parse_json(b'\xef\xbb\xbf{"width": 2, "names": ["x"]}', Door, "door.json", "") == Door(2, ["x"])


@pytest.mark.parametrize("data, found", [
    (b"", "found an empty file"), (b"\xff\xfea\0:\0", "found bytes that are no text"), (b"a: [1", "is not YAML"), (b"- 1\n- 2\n", "found a list"),
    (b"7: 8", "found keys and values"), (b"just words", "found a string"), (b"day: 2026-13-45", "is not YAML"), (b"{a: " * 3000, "is not YAML")])
def test_what_is_not_yaml_of_keys_and_values_is_refused(data, found):
    with pytest.raises(BadInput, match=f"r.yaml: expected .*{found}.*: mend it"):
        parse_yaml(data, "r.yaml", "mend it")


# What is found in the place of a file: what a full disk, a power cut, or another program leaves there.
SPOILED = {"empty": lambda data: b"", "half": lambda data: data[:len(data) // 2], "zeros": lambda data: b"\0" * len(data),
           "zeros behind it": lambda data: data[:len(data) // 2] + b"\0" * 64, "binary": lambda data: bytes(range(256)) * 4,
           "a list": lambda data: b"[1, 2, 3]", "a number": lambda data: b"7", "another's": lambda data: b'{"version": 9, "kind": "other"}',
           "other types": lambda data: b'{"status": 7, "rows": "many", "name": [], "schema_version": "x", "format": 1, "corpus_sha256": 5}'}


def refused(capsys, command: list[str]) -> str:
    """The one line of a command that ends with status 2."""
    assert cli.main(command) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("textray: error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "words"
    render_corpus(folder, 60, Settings(style="plain", charset="36"))
    return folder


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_spoiled_manifest_is_refused_by_whoever_reads_it(corpus, tmp_path, capsys, spoiled):
    copy = shutil.copytree(corpus, tmp_path / "words")
    (copy / "corpus.json").write_bytes(SPOILED[spoiled]((copy / "corpus.json").read_bytes()))
    for command in (["describe", str(copy)], ["export", str(copy), "--format", "folder", "--out", str(tmp_path / "out")]):
        assert str(copy) in refused(capsys, command)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spoiled", ["zeros", "zeros behind it", "footer"])
@pytest.mark.parametrize("command", [["describe"], ["export", "--format", "folder", "--out", "out"], ["describe", "--html", "page.html"]])
def test_a_spoiled_shard_of_the_right_size_is_refused(corpus, tmp_path, monkeypatch, capsys, command, spoiled):
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(corpus, tmp_path / "words")
    shard = copy / Corpus.open(copy).manifest.shards[0].name
    data = shard.read_bytes()
    half = len(data) // 2
    shard.write_bytes({"zeros": bytes(len(data)), "zeros behind it": data[:half] + bytes(len(data) - half),
                       "footer": data[:-200] + bytes(192) + data[-8:]}[spoiled])
    assert f"{copy}: expected the shard {shard.name} as it was written, found " in refused(capsys, [command[0], str(copy), *command[1:]])


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_spoiled_plan_is_another_plan_and_what_grows_by_it_starts_afresh(corpus, tmp_path, spoiled, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipelines.ingestion.staging.LocalStaging.publish", killed)
        render_corpus(tmp_path / "words", 60, Settings(style="plain", charset="36"))
    plan = tmp_path / "words.partial" / "plan.json"
    plan.write_bytes(SPOILED[spoiled](plan.read_bytes()))
    for done in (tmp_path / "words.partial" / "done").iterdir():
        done.write_bytes(SPOILED[spoiled](done.read_bytes()))
    assert render_corpus(tmp_path / "words", 60, Settings(style="plain", charset="36")).sha256 == Corpus.open(corpus).sha256


@pytest.mark.parametrize("spoiled", SPOILED)
def test_what_bears_the_note_of_an_export_but_is_none_is_not_replaced(corpus, tmp_path, capsys, spoiled):
    out = tmp_path / "out"
    command = ["export", str(corpus), "--format", "folder", "--out", str(out), "--overwrite"]
    assert cli.main(command) == 0
    note = out / "export.json"
    note.write_bytes(SPOILED[spoiled](note.read_bytes()))
    (out / "thesis.tex").write_text("precious", encoding="utf-8")
    assert str(note) in refused(capsys, command)
    assert (out / "thesis.tex").read_text(encoding="utf-8") == "precious"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    from models.charset import Charset
    from models.recognizers import build
    from pipelines.reading.weights import save_recognizer
    return save_recognizer(tmp_path_factory.mktemp("model") / "model", build("crnn_tiny", Charset.named("36")))


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_spoiled_description_of_a_model_is_refused_by_whoever_reads_it(model, corpus, tmp_path, capsys, spoiled):
    copy = shutil.copytree(model, tmp_path / "model")
    (copy / "recognizer.json").write_bytes(SPOILED[spoiled]((copy / "recognizer.json").read_bytes()))
    for command in (["evaluate", str(copy), "--data", str(corpus), "--out", str(tmp_path / "out")], ["calibrate", str(copy), "--data", str(corpus)],
                    ["export-model", str(copy), "--out", str(tmp_path / "x.pt2")]):
        assert "recognizer.json" in refused(capsys, command)


@pytest.mark.parametrize("key, value", [("name", 7), ("name", None), ("charset", ["a"]), ("charset", 36), ("overrides", []), ("overrides", "wide"),
                                        ("overrides", {"width": "wide"}), ("overrides", {"width": -1}), ("weights_sha256", 5), ("trained", "encoder")])
def test_a_description_of_other_types_is_refused(model, corpus, tmp_path, capsys, key, value):
    copy = shutil.copytree(model, tmp_path / "model")
    file = copy / "recognizer.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {key: value}), encoding="utf-8")
    assert str(copy) in refused(capsys, ["evaluate", str(copy), "--data", str(corpus), "--out", str(tmp_path / "out")])
