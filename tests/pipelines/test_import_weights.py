"""Published checkpoints become models."""

import argparse
import shutil

import cv2
import numpy as np
import pytest
import torch

from models.charset import Charset
from models.families.four_stage import four_stage
from models.published.four_stage import FOUR_STAGE
from pipelines import cli
from pipelines.errors import BadInput
from pipelines.import_weights import charset_of, options_of
from pipelines.reading.checkpoint_file import read_tensors
from pipelines.reading.published import import_weights
from pipelines.reading.weights import load_recognizer, read_description

CHARSET = Charset.named("36")
TENSORS = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}


@pytest.fixture(autouse=True)
def in_the_store(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)


def published_rcnn(charset: Charset = CHARSET, **settings) -> dict[str, torch.Tensor]:
    """The lightest of the benchmark's recognizers, as DataParallel saved it."""
    torch.manual_seed(0)
    recognizer = four_stage(charset, encoder="rcnn", sequence="none", **settings)
    return {f"module.{name}": tensor for name, tensor in FOUR_STAGE.save(recognizer).items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    file = tmp_path_factory.mktemp("published") / "None-RCNN-None-CTC.pth"
    torch.save(published_rcnn(), file)
    return file


def same_weights(recognizer, published) -> bool:
    found = {f"module.{name}": tensor for name, tensor in FOUR_STAGE.save(recognizer).items()}
    return found.keys() == published.keys() and all(torch.equal(tensor, published[name]) for name, tensor in found.items())


@pytest.mark.parametrize("content", [
    TENSORS,
    {**TENSORS, "epoch": 3},
    {"model": TENSORS, "optimizer": {"state": {}}},
    {"state_dict": TENSORS, "epoch": 12, "pytorch-lightning_version": "1.6.5"},
    {"net": {"state_dict": TENSORS}},
    {"online_model": TENSORS, "target_model": {"b": torch.ones(1)}, "iteration": 7},
], ids=["bare", "with a number", "model", "state_dict", "nested", "two networks"])
def test_the_tensors_are_found_wherever_they_lie(content, tmp_path):
    torch.save(content, tmp_path / "file.pt")
    found = read_tensors(tmp_path / "file.pt")
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_files_from_before_zip_archives_are_read(tmp_path):
    torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_tensors(tmp_path / "old.pth").keys() == TENSORS.keys()


def test_a_branch_is_chosen_and_must_be_there(tmp_path):
    torch.save({"online_model": {"a": torch.ones(1)}, "target_model": {"a": torch.zeros(1)}}, tmp_path / "ccr.pth")
    assert [read_tensors(tmp_path / "ccr.pth", branch)["a"].item() for branch in (None, "online", "target")] == [1, 1, 0]
    torch.save(TENSORS, tmp_path / "one.pth")
    with pytest.raises(BadInput, match="--branch target: expected a checkpoint with online_model and target_model, or with tensors of "):
        read_tensors(tmp_path / "one.pth", "target")


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_a_student_and_a_teacher_in_one_state_dict_are_told_apart(tmp_path, wrapper):
    state = {f"{wrapper}student.vision.a": torch.ones(1), f"{wrapper}teacher.vision.a": torch.zeros(1)}
    torch.save({"model": state, "opt": {}}, tmp_path / "semimtr.pth")
    read = [read_tensors(tmp_path / "semimtr.pth", branch) for branch in (None, "online", "target")]
    assert [list(tensors) for tensors in read] == [["vision.a"]] * 3
    assert [tensors["vision.a"].item() for tensors in read] == [1, 1, 0]


class Trap:
    """What a malicious file holds."""

    def __reduce__(self):
        return shutil.copyfile, (__file__, "the-trap-ran")


@pytest.mark.parametrize("content, named", [
    ({"model": TENSORS, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    ({"model": TENSORS, "trap": Trap()}, "shutil.copyfile"),
    (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ({"model": TENSORS, "best": np.float64(1)}, "numpy"),
])
def test_a_file_that_needs_code_is_refused_and_nothing_runs(content, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "file.pt")
    assert cli.main(["import-weights", str(tmp_path / "file.pt"), "--name", "trapped"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1 and not (tmp_path / "the-trap-ran").exists()
    assert f"expected tensors alone, found an object of {named}" in shown.err and "running code" in shown.err


def torchscript(file):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(file))


def cut(file):
    torch.save(TENSORS, file)
    file.write_bytes(file.read_bytes()[:-200])


@pytest.mark.parametrize("write, sentence", [
    (torchscript, "found a TorchScript program"),
    (cut, "found one that PyTorch cannot read"),
    (lambda file: file.write_text("hello", encoding="utf-8"), "found a file of another kind"),
    (lambda file: file.write_bytes(b""), "found a file of another kind"),
    (lambda file: None, "found no file at"),
    (lambda file: torch.save({"weights": 3}, file), "found the keys weights"),
    (lambda file: torch.save([1, 2], file), "found a list"),
    (lambda file: torch.save(TENSORS, file), "expected a state dict as one of these published it: the four-stage benchmark"),
], ids=["TorchScript", "cut", "text", "empty", "absent", "numbers", "list", "unknown"])
def test_other_files_are_refused_in_one_sentence(write, sentence, tmp_path, capsys):
    write(tmp_path / "file.pt")
    capsys.readouterr()
    assert cli.main(["import-weights", str(tmp_path / "file.pt"), "--name", "refused"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("textray: error: ") and sentence in last


def test_it_is_registered_and_reads_as_published(checkpoint, capsys):
    assert cli.main(["import-weights", str(checkpoint), "--name", "rcnn"]) == 0
    shown = capsys.readouterr().out
    assert "four_stage, published by the four-stage benchmark: 1,878,949 parameters, images of 32 x 100, " in shown
    assert "made models:/rcnn/1 in sqlite" in shown
    loaded = load_recognizer("models:/rcnn/1")
    assert not loaded.training and same_weights(loaded, torch.load(checkpoint))


def test_what_was_imported_is_ready_to_evaluate(checkpoint, tmp_path, capsys):
    words = tmp_path / "words"
    words.mkdir()
    cv2.imwrite(str(words / "1.png"), np.random.default_rng(0).integers(0, 256, (32, 100, 3), np.uint8))
    (words / "labels.tsv").write_text("1.png\tword\n", encoding="utf-8")
    assert cli.main(["import-weights", str(checkpoint), "--out", str(tmp_path / "model")]) == 0
    assert cli.main(["evaluate", str(tmp_path / "model"), "--data", f"words={words}", "--out", str(tmp_path / "report")]) == 0
    assert "words" in capsys.readouterr().out


def test_a_model_folder_says_where_it_came_from(checkpoint, tmp_path, capsys):
    command = ["import-weights", str(checkpoint), "--out", str(tmp_path / "model")]
    assert cli.main(command) == 0
    described = read_description(tmp_path / "model")
    assert described["imported_from"] == checkpoint.name and len(described["imported_sha256"]) == 64
    assert described["imported_layout"] == FOUR_STAGE.source
    assert same_weights(load_recognizer(tmp_path / "model"), torch.load(checkpoint))
    capsys.readouterr()
    assert cli.main(command) == 2
    assert "--out: expected a folder without a model, found one in" in capsys.readouterr().err


def test_missing_and_unexpected_tensors_are_named(tmp_path, capsys):
    published = published_rcnn()
    del published["module.Prediction.bias"]
    published["module.FeatureExtraction.ConvNet.99.weight"] = torch.zeros(1)
    torch.save(published, tmp_path / "file.pth")
    assert cli.main(["import-weights", str(tmp_path / "file.pth"), "--out", str(tmp_path / "model")]) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "missing: Prediction.bias" in sentence and "unexpected: FeatureExtraction.ConvNet.99.weight" in sentence
    assert not (tmp_path / "model").exists()


def test_unusual_charsets_are_given(tmp_path):
    published = published_rcnn(Charset("xyzäß"))
    with pytest.raises(BadInput, match="expected a charset of 5 characters for these weights, found none"):
        import_weights(published)
    with pytest.raises(BadInput, match="expected a charset of .* characters for these weights, found 3"):
        import_weights(published, Charset("abc"))
    (tmp_path / "characters.txt").write_text("xyzäß\n", encoding="utf-8")
    for argument in ("xyzäß", f"@{tmp_path / 'characters.txt'}"):
        imported = import_weights(published, charset_of(argument))
        assert imported.recognizer.charset.characters == "xyzäß" and same_weights(imported.recognizer, published)
    assert charset_of("36") == CHARSET and charset_of(None) is None
    for argument, sentence in (("aba", "--charset: a charset holds each"), (f"@{tmp_path / 'none.txt'}", "--charset: .*No such file")):
        with pytest.raises(BadInput, match=sentence):
            charset_of(argument)


def test_options_replace_what_the_shapes_do_not_tell():
    published = published_rcnn()
    recognizer = import_weights(published, options=options_of(["width=128", "max_length=9", "aspect=pad"])).recognizer
    assert (recognizer.width, recognizer.max_length, recognizer.aspect) == (128, 9, "pad")
    assert recognizer.overrides["width"] == 128
    with pytest.raises(BadInput, match="expected a setting of the recognizer four_stage, found 'widht': did you mean width"):
        import_weights(published, options=options_of(["widht=128"]))
    for argument in ("width", "=3"):
        with pytest.raises(BadInput, match="--option: expected key=value"):
            options_of([argument])


def test_without_a_place_to_go_it_says_so(checkpoint, capsys):
    assert cli.main(["import-weights", str(checkpoint)]) == 2
    assert "expected --name NAME, to register the model, or --out FOLDER" in capsys.readouterr().err
