"""What a command replaces or removes is what textray made, and nothing else: the user's own files survive every --out and --overwrite."""

import json
import shutil
from pathlib import Path

import boto3
import pytest

from pipelines.cli import run

DRAW = ["render", "--style", "plain", "-n", "3", "--charset", "36"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A corpus of three words."""
    folder = tmp_path_factory.mktemp("drawn") / "corpus"
    assert run("render", [*DRAW[1:], "--out", str(folder)]) == 0
    return folder


def notes(folder: Path, name: str = "notes.txt", text: str = "mine") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def content(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below a folder: files with their bytes, links with where they lead, folders."""
    return {str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob("*"))}


def a_corpus(place: Path, drawn: Path) -> Path:
    return shutil.copytree(drawn, place)


def an_export(place: Path, drawn: Path) -> Path:
    assert run("export", [str(drawn), "--format", "folder", "--out", str(place)]) == 0
    return place


RENDER = [*DRAW, "--overwrite", "--out", "out"]
INGEST = ["ingest", "pictures", "--overwrite", "--out", "out"]
EXPORT = ["export", "corpus", "--format", "lmdb", "--overwrite", "--out", "out"]
DEMO = ["demo", "--overwrite", "--out", "out"]
CASES = {  # what lies there (made in the working folder), the command, what the sentence says of it
    "a corpus.json of somebody else's": (lambda here, _: notes(here / "out", "corpus.json", '{"documents": []}'), RENDER,
                                         "found a corpus.json that textray did not write, or a damaged one"),
    "the same for ingest": (lambda here, _: notes(here / "out", "corpus.json", '{"rows": 3}'), INGEST, "found a corpus.json that textray did not write"),
    "notes beside a corpus": (lambda here, drawn: notes(a_corpus(here / "out", drawn)), RENDER, "expected a corpus and nothing else, found notes.txt"),
    "a shard of another corpus": (lambda here, drawn: notes(a_corpus(here / "out", drawn), "part-mine-00000.parquet"), INGEST,
                                  "expected a corpus and nothing else, found part-mine-00000.parquet"),
    "a folder in a corpus": (lambda here, drawn: notes(a_corpus(here / "out", drawn) / "figures"), INGEST, "and nothing else, found figures"),
    "other files": (lambda here, _: notes(here / "out"), RENDER, "expected a free name or a corpus, found a folder with other files"),
    "out.partial": (lambda here, _: notes(here / "out.partial"), RENDER, "out.partial: expected a free name or what an interrupted command left"),
    "out.partial with names like ours": (lambda here, _: notes(here / "out.partial" / "corpus"), INGEST, "found a folder with corpus"),
    "out.partial.removed": (lambda here, _: notes(here / "out.partial.removed"), RENDER, "out.partial.removed: expected a free name or what an"),
    "an export.json of somebody else's": (lambda here, _: notes(here / "out", "export.json", '{"format": "png"}'), EXPORT,
                                          "this is not the note of an export"),
    "notes beside an export": (lambda here, drawn: notes(an_export(here / "out", drawn)), EXPORT, "expected an export and nothing else, found notes.txt"),
    "a folder that is no export": (lambda here, _: notes(here / "out"), EXPORT, "expected a free name or an earlier export (export.json), found"),
    "out.partial for an export": (lambda here, _: notes(here / "out.partial"), EXPORT, "out.partial: expected what an export left, found notes.txt"),
    "a folder that is no demo's": (lambda here, _: notes(here / "out"), DEMO, "expected what an earlier demo made"),
    "folders with the names of a demo's": (lambda here, _: notes(here / "out" / "files"), DEMO, "expected what an earlier demo made"),
    "notes in a demo's folder": (lambda here, _: notes(notes(here / "out", "made-by-textray-demo.txt")), DEMO, "nothing else, found notes.txt"),
    "a link to a demo's folder": (lambda here, _: (here / "out").symlink_to(notes(here / "far", "made-by-textray-demo.txt")), DEMO, "found another file"),
    "a file for the demo's folder": (lambda here, _: notes(here, "out"), DEMO, "found another file"),
    "a model of somebody else's": (lambda here, _: notes(here, "words.onnx"), ["export-model", "run", "--overwrite", "--out", "words.onnx"],
                                   "--out words.onnx: expected a free name, or a file that textray wrote there, found another file"),
    "a folder for a model's file": (lambda here, _: notes(here / "words.pt2"), ["export-model", "run", "--overwrite", "--out", "words.pt2"],
                                    "found another folder"),
    "weights of somebody else's": (lambda here, _: notes(here / "out", "weights.pt"), ["import-weights", "trba.pth", "--out", "out"],
                                   "--out: expected a free name or an empty folder, found another folder in out"),
    "an evaluation of somebody else's": (lambda here, _: notes(here / "out", "evaluation.json"), ["evaluate", "run", "--data", "corpus", "--out", "out"],
                                         "found another file: choose another name"),
    "predictions of somebody else's": (lambda here, _: notes(here / "out", "predictions.jsonl"), ["evaluate", "run", "--data", "corpus", "--out", "out"],
                                       "expected no predictions.jsonl but an earlier evaluation's"),
    "a page of somebody else's": (lambda here, _: notes(here, "page.html"), ["describe", "corpus", "--html", "page.html"],
                                  "--html page.html: expected a free name, or a file that textray wrote there, found another file"),
    "a photograph": (lambda here, _: notes(here, "photo.jpg"), ["render", "--sheet", "photo.jpg", "-n", "1"], "--sheet photo.jpg: expected a free name"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_the_users_own_survives(case, drawn, tmp_path, monkeypatch, capsys):
    prepare, command, sentence = CASES[case]
    monkeypatch.chdir(tmp_path)
    a_corpus(tmp_path / "corpus", drawn)
    assert run("export", [str(drawn), "--format", "folder", "--out", "pictures"]) == 0
    (tmp_path / "pictures" / "export.json").unlink()
    prepare(tmp_path, drawn)
    before = content(tmp_path)
    capsys.readouterr()
    assert run(command[0], command[1:]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("textray: error: ") and sentence in line
    assert content(tmp_path) == before


def test_what_textray_made_is_replaced(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_corpus(tmp_path / "out", drawn)
    assert run("render", [*RENDER[1:], "--seed", "7"]) == 0
    assert json.loads((tmp_path / "out" / "corpus.json").read_text(encoding="utf-8"))["made_by"]["seed"] == 7
    for file in ("sheet.png", "sheet.jpg"):
        for count in (1, 2):
            assert run("render", ["--sheet", file, "-n", str(count)]) == 0
    for _ in range(2):
        assert run("describe", [str(drawn), "--html", "page.html"]) == 0
        assert run("export", [str(drawn), "--format", "lmdb", "--overwrite", "--out", "lmdb"]) == 0
    assert run("export", [str(drawn), "--format", "webdataset", "--overwrite", "--out", "lmdb"]) == 0


@pytest.mark.parametrize("place", ["out/notes.txt", "out.partial/notes.txt"])
def test_what_is_the_users_own_survives_in_a_store(place, drawn, stores, capsys):
    import os
    client, bucket = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1"), f"kept-{len(place)}"
    client.create_bucket(Bucket=bucket)
    for file in drawn.iterdir():
        client.upload_file(str(file), bucket, f"out/{file.name}")
    client.put_object(Bucket=bucket, Key=place, Body=b"mine")
    before = {entry["Key"]: entry["ETag"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]}
    assert run("render", [*DRAW[1:], "--overwrite", "--out", f"s3://{bucket}/out"]) == 2
    assert "found notes.txt" in (line := capsys.readouterr().err) or "found a folder with notes.txt" in line
    assert {entry["Key"]: entry["ETag"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]} == before
