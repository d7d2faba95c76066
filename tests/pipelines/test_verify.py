"""`textray verify`: what is whole and what is damaged, of corpora, models and runs, here and in an object store."""

import json
import os
import re
import shutil
from pathlib import Path

import boto3
import cv2
import numpy as np
import pytest
import torch

from models.charset import Charset
from models.recognizers import build
from pipelines.checksum import with_checksum
from pipelines.cli import run
from pipelines.corpus import verification
from pipelines.corpus.manifest import SourceCounts, write_manifest
from pipelines.corpus.quarantine import Rejected, rejected_table, write_quarantine
from pipelines.corpus.shards import ShardWriter
from pipelines.reading.weights import save_recognizer
from pipelines.training.recipe import parse_recipe
from pipelines.training.runs import RunFolder

PICTURE = cv2.imencode(".png", np.arange(8 * 20, dtype=np.uint8).reshape(8, 20))[1].tobytes()


def make_corpus(folder: Path, keys: str = "words/{0}-{1}", last: bytes = PICTURE) -> Path:
    """Two shards of five rows, three of each labeled, and two rejected rows."""
    folder.mkdir(parents=True)
    entries = []
    for shard in range(2):
        with ShardWriter(folder, "words", shard, rows_per_group=2) as writer:
            for row in range(5):
                writer.write(key=keys.format(shard, row), image=last if (shard, row) == (1, 4) else PICTURE, text=None if row % 2 else "text",
                             width=20, height=8, phash=row)
        entries.append(writer.entry)
    write_quarantine(folder, [rejected_table([Rejected("words/8", "words", "quarantined", "truncated image", "12 bytes", "lost"),
                                              Rejected("words/9", "words", "filtered", "blank image")])])
    counts = SourceCounts(rows_in=12, kept=10, quarantined=1, filtered=1, labeled=6, reasons={"blank image": 1, "truncated image": 1})
    write_manifest(folder, entries, {"words": counts}, {"command": "test"})
    return folder


@pytest.fixture
def corpus(tmp_path) -> Path:
    return make_corpus(tmp_path / "corpus")


@pytest.fixture(scope="module")
def recognizer():
    torch.manual_seed(0)
    return build("crnn_tiny", Charset("abc123"))


@pytest.fixture
def model(recognizer, tmp_path) -> Path:
    return save_recognizer(tmp_path / "model", recognizer)


@pytest.fixture
def trained(recognizer, tmp_path) -> Path:
    """The folder of a finished run."""
    recipe = parse_recipe({"name": "mine", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"}, "training": {"steps": 10},
                           "data": {"labeled": {"corpus": "s", "batch_size": 8}}})
    folder = RunFolder(tmp_path / "runs" / "mine")
    with folder.claimed(recipe, resume=False) as state:
        state.status = "finished"
        folder.write(state)
    path = tmp_path / "runs" / "mine"
    (path / "progress.jsonl").write_text('{"step": 5, "time": 1.5, "loss": 2.0}\n{"step": 10, "ti', encoding="utf-8")  # as a kill leaves it
    (path / "checkpoints" / "checkpoint_1").mkdir(parents=True)
    torch.save({"step": 10}, path / "checkpoints" / "checkpoint_1" / "state.pt")
    save_recognizer(path / "model", recognizer)
    return path


def flip(file: Path, place: float = 0.5) -> None:
    data = bytearray(file.read_bytes())
    data[int(len(data) * place)] ^= 4
    file.write_bytes(data)


def edit(file: Path, change) -> None:
    """Change a description so that its checksum fits again."""
    tree = json.loads(file.read_text(encoding="utf-8"))
    change(tree)
    file.write_text(json.dumps(with_checksum(tree)), encoding="utf-8")


def test_what_is_whole_is_said_to_be(corpus, model, trained, capsys):
    assert run("verify", [str(corpus), str(model), str(trained), "--decode"]) == 0
    size = sum(file.stat().st_size for file in corpus.glob("part-*")) / 1e6
    parameters = f"{sum(parameter.numel() for parameter in build('crnn_tiny', Charset('abc123')).parameters()):,}"
    assert capsys.readouterr().out.splitlines() == [
        f"{corpus}: corpus, whole", f"  whole    corpus.json and 2 of 2 shards with 10 rows, {size:.1f} MB", "  whole    quarantine.parquet with 2 rows",
        f"{model}: model, whole", f"  whole    recognizer.json and weights.pt: crnn_tiny with 6 characters and {parameters} parameters",
        f"{trained}: run, whole", "  whole    run.json (finished) and recipe.yaml", "  whole    progress.jsonl with 1 line", "  whole    checkpoints: 1 of 1",
        f"  whole    model/recognizer.json and weights.pt: crnn_tiny with 6 characters and {parameters} parameters"]


DAMAGES = {
    "a bit of a shard": (lambda folder: flip(folder / "part-words-00001.parquet"), "part-words-00001.parquet as it was written, found other bytes"),
    "a bit of its footer": (lambda folder: flip(folder / "part-words-00001.parquet", 0.9), "part-words-00001.parquet .* found other bytes"),
    "a shard cut": (lambda folder: os.truncate(folder / "part-words-00000.parquet", 100), "part-words-00000.parquet .* found 100 bytes instead of"),
    "a shard gone": (lambda folder: (folder / "part-words-00000.parquet").unlink(), "part-words-00000.parquet .* found no such file"),
    "shards exchanged": (lambda folder: shutil.copy(folder / "part-words-00000.parquet", folder / "part-words-00001.parquet"), "sha256 differs"),
    "a bit of the rejected rows": (lambda folder: flip(folder / "quarantine.parquet", 0.02), "quarantine.parquet: expected it whole, found it damaged"),
    "no rejected rows": (lambda folder: (folder / "quarantine.parquet").unlink(), "quarantine.parquet: expected quarantined of .* to be 1, found 0"),
    "other rejected rows": (lambda folder: write_quarantine(folder), "quarantine.parquet: expected quarantined of .* to be 1, found 0"),
    "half a manifest": (lambda folder: os.truncate(folder / "corpus.json", 300), "corpus.json: expected JSON, found text that"),
    "an edited manifest": (lambda folder: (folder / "corpus.json").write_text(
        (folder / "corpus.json").read_text(encoding="utf-8").replace('"labeled": 6', '"labeled": 5'), encoding="utf-8"), "another checksum than its own"),
    "other labels": (lambda folder: edit(folder / "corpus.json", lambda tree: tree["sources"]["words"].update(labeled=5)),
                     "corpus.json: expected 5 labeled rows of the source words, found 6"),
    "other row groups": (lambda folder: edit(folder / "corpus.json", lambda tree: tree["shards"][0].update(row_groups=[5])),
                         "part-words-00000.parquet: expected 1 row group, found 3"),
    "another source": (lambda folder: edit(folder / "corpus.json", lambda tree: (
        tree["shards"][1].update(source="x"), tree["sources"].update(x={"in": 5, "kept": 5, "labeled": 3}), tree["sources"]["words"].update(
            {"in": 7, "kept": 5, "labeled": 3}))), "part-words-00001.parquet: expected rows of the source x, found 5 rows of others"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_corpus_is_named_and_ends_with_status_1(corpus, damage, capsys):
    spoil, sentence = DAMAGES[damage]
    spoil(corpus)
    assert run("verify", [str(corpus)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{corpus}: corpus, ") and lines[0].endswith(" damaged")
    [line] = [line for line in lines if line.startswith("  DAMAGED")]
    assert re.search(sentence, line), line


def test_keys_that_come_twice_are_found_whatever_fits_into_memory(tmp_path, capsys, monkeypatch):
    corpus = str(make_corpus(tmp_path / "c", keys="words/{1}"))
    for at_once in (1 << 24, 3):
        monkeypatch.setattr(verification, "KEYS_AT_ONCE", at_once)
        assert run("verify", [corpus]) == 1
        [damaged] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  DAMAGED")]
        assert damaged == "  DAMAGED  expected keys that are unique in the corpus, found 5 that come twice, as words/0, words/1, words/2"


def test_images_are_decoded_if_asked(tmp_path, capsys):
    corpus = str(make_corpus(tmp_path / "c", last=PICTURE[:60]))
    assert run("verify", [corpus]) == 0
    assert run("verify", [corpus, "--decode"]) == 1
    assert ("part-words-00001.parquet: expected images that can be decoded, found 1 that cannot, as words/1-4 (truncated image)"
            in capsys.readouterr().out)


@pytest.mark.parametrize("spoil, sentence", [
    (lambda folder: flip(folder / "weights.pt"), "weights.pt is not the file that recognizer.json describes"),
    (lambda folder: flip(folder / "recognizer.json", 0.2), "recognizer.json"),
    (lambda folder: (folder / "weights.pt").unlink(), "weights.pt beside recognizer.json, found no such file"),
    (lambda folder: (folder / "recognizer.json").unlink(), "holds weights.pt but no recognizer.json"),
])
def test_a_damaged_model_is_named(model, spoil, sentence, capsys):
    spoil(model)
    assert run("verify", [str(model)]) == 1
    first, line = capsys.readouterr().out.splitlines()
    assert first == f"{model}: model, 1 damaged" and line.startswith("  DAMAGED  ") and sentence in line


def test_weights_that_are_not_finite_are_damaged(recognizer, tmp_path, capsys):
    broken = build("crnn_tiny", Charset("abc123"))
    next(broken.parameters()).data[0] = torch.nan
    assert run("verify", [str(save_recognizer(tmp_path / "model", broken))]) == 1
    assert "weights.pt: expected finite numbers, found others in 1 of" in capsys.readouterr().out


@pytest.mark.parametrize("spoil, sentence", [
    (lambda run: (run / "run.json").write_bytes(b""), "run.json: expected JSON, found an empty file"),
    (lambda run: (run / "run.json").unlink(), "run.json: expected this file of the run, found none"),
    (lambda run: (run / "recipe.yaml").write_bytes(b"\0" * 50), "recipe.yaml: expected YAML, found bytes that are no text"),
    (lambda run: (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text(encoding="utf-8").replace("steps: 10", "steps: 20"), encoding="utf-8"),
     "recipe.yaml: expected the recipe that the run was trained with"),
    (lambda run: (run / "progress.jsonl").write_bytes(b"\0\n{}\n"), "progress.jsonl, line 1: expected JSON"),
    (lambda run: os.truncate(run / "checkpoints/checkpoint_1/state.pt", 200), "checkpoint_1/state.pt: expected a checkpoint as it was written, found"),
    (lambda run: flip(run / "model/weights.pt"), "weights.pt is not the file that recognizer.json describes"),
    (lambda run: shutil.rmtree(run / "model"), "model: expected the model of a finished run, found none"),
])
def test_a_damaged_run_is_named(trained, spoil, sentence, capsys):
    spoil(trained)
    assert run("verify", [str(trained)]) == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  DAMAGED")]
    assert sentence in line


def test_a_run_is_found_by_its_name(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained.parents[1])
    assert run("verify", ["mine"]) == 0
    assert capsys.readouterr().out.startswith("mine: run, whole\n")


def test_what_lies_in_a_store_is_verified_there(corpus, model, trained, stores, capsys):
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
    client.create_bucket(Bucket="verified")
    for folder in (corpus, model, trained):
        for file in (file for file in folder.rglob("*") if file.is_file()):
            client.upload_file(str(file), "verified", f"{folder.name}/{file.relative_to(folder)}")
    places = [f"s3://verified/{folder.name}" for folder in (corpus, model, trained)]
    assert run("verify", places) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if not line.startswith("  ")] == [
        f"{place}: {what}, whole" for place, what in zip(places, ("corpus", "model", "run"))]
    for file in (corpus / "part-words-00000.parquet", model / "weights.pt", trained / "model" / "weights.pt"):
        flip(file)
        client.upload_file(str(file), "verified", str(file.relative_to(trained.parent if file.is_relative_to(trained) else corpus.parent)))
    assert run("verify", places) == 1
    damaged = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  DAMAGED")]
    assert len(damaged) == 3
    assert "s3://verified/corpus: expected the shard part-words-00000.parquet as it was written" in damaged[0]
    assert "s3://verified/model/weights.pt is not the file" in damaged[1] and "s3://verified/mine/model/weights.pt is not the file" in damaged[2]


@pytest.mark.parametrize("place, found", [("nowhere", "nothing"), (".", "none of these")])
def test_what_is_none_of_these_is_refused(place, found, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("verify", [place]) == 2
    assert capsys.readouterr().err == (f"textray: error: {place}: expected a corpus, a model or a run, found {found} there: give its folder or URI, "
                                       "a run's name under runs/, or models:/NAME@champion\n")
