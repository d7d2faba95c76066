"""Recognizers as files."""

import io
import json
from pathlib import Path

import pytest
import torch

from models.charset import Charset
from models.recognizers import build
from pipelines.checksum import with_checksum
from pipelines.errors import BadInput
from pipelines.reading.weights import find_model, load_recognizer, read_description, save_recognizer, save_temperature


@pytest.fixture
def recognizer():
    torch.manual_seed(0)
    return build("crnn_tiny", Charset("abc123"), max_length=7).to(memory_format=torch.channels_last)  # as training has it


def describe(folder: Path, **changes) -> None:
    file = folder / "recognizer.json"
    file.write_text(json.dumps(with_checksum(json.loads(file.read_text(encoding="utf-8")) | changes)), encoding="utf-8")


def test_what_was_saved_reads_the_same(recognizer, tmp_path):
    loaded = load_recognizer(save_recognizer(tmp_path / "model", recognizer))
    assert not loaded.training
    assert (loaded.name, loaded.overrides, loaded.charset) == ("crnn_tiny", {"max_length": 7}, Charset("abc123"))
    assert loaded.max_length == 7
    images = torch.rand(2, 3, 32, 100)
    assert torch.equal(loaded(images).logits, recognizer.eval()(images).logits)


def test_equal_weights_give_equal_files(recognizer, tmp_path):
    one, other = save_recognizer(tmp_path / "one", recognizer), save_recognizer(tmp_path / "other", recognizer)
    for name in ("recognizer.json", "weights.pt"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert sorted(file.name for file in one.iterdir()) == ["recognizer.json", "weights.pt"]


def test_extra_goes_into_the_description_but_cannot_replace_it(recognizer, tmp_path):
    folder = save_recognizer(tmp_path, recognizer, {"recipe": "small", "name": "another"})
    assert read_description(folder)["recipe"] == "small"
    assert read_description(folder)["name"] == "crnn_tiny"


def test_a_run_is_found_by_folder_and_by_name(recognizer, tmp_path):
    model = save_recognizer(tmp_path / "runs" / "first" / "model", recognizer)
    assert find_model(model) == find_model(tmp_path / "runs" / "first") == model
    assert find_model("first", runs=tmp_path / "runs") == model


def test_the_weights_hold_no_code(recognizer, tmp_path):
    folder = save_recognizer(tmp_path, recognizer)

    class Trap:
        def __reduce__(self):
            return print, ("ran",)

    buffer = io.BytesIO()
    torch.save({"a": Trap()}, buffer)
    (folder / "weights.pt").write_bytes(buffer.getvalue())
    describe(folder, weights_sha256=__import__("hashlib").sha256(buffer.getvalue()).hexdigest())
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_recognizer(folder)


@pytest.mark.parametrize("spoil, sentence", [
    (lambda folder: (folder / "weights.pt").write_bytes(b"cut short"), "sha256 differs"),
    (lambda folder: (folder / "weights.pt").unlink(), "beside recognizer.json, found no such file"),
    (lambda folder: (folder / "recognizer.json").unlink(), "writing was interrupted"),
    (lambda folder: (folder / "recognizer.json").write_text("[]", encoding="utf-8"), "not the description of a recognizer"),
    (lambda folder: (folder / "recognizer.json").write_text("{", encoding="utf-8"), "not the description of a recognizer"),
    (lambda folder: describe(folder, name="crnn_tny"), "did you mean crnn_tiny"),
    (lambda folder: describe(folder, overrides={"depth": 3}), "found 'depth'"),
    (lambda folder: describe(folder, charset="abc1234"), r"is \(7, \d+\) instead of \(8, \d+\)"),
    (lambda folder: describe(folder, name="trba_tiny"), "missing decoder.*; unexpected|missing decoder.* and .* more")])
def test_a_folder_that_cannot_be_used_is_explained(recognizer, tmp_path, spoil, sentence):
    folder = save_recognizer(tmp_path, recognizer)
    spoil(folder)
    with pytest.raises(BadInput, match=sentence):
        load_recognizer(folder)


@pytest.mark.parametrize("changes", [{"charset": "321cba"}, {"charset": "abc124"}, {"overrides": {"max_length": 6}}, {"overrides": {}},
                                     {"temperature": 2.0}, {"run": "another"}, {"checksum": "0" * 64}, {"checksum": 7}, {"new": 1}])
def test_an_edited_description_is_not_believed(recognizer, tmp_path, changes):
    folder = save_recognizer(tmp_path, recognizer, {"run": "mine"})
    file = folder / "recognizer.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    for use in (load_recognizer, read_description, lambda folder: save_temperature(folder, 1.5)):
        with pytest.raises(BadInput, match="recognizer.json is not what was written when the model was made .*: it was edited or damaged"):
            use(folder)


def test_no_flipped_bit_in_a_description_changes_the_model(recognizer, tmp_path):
    folder = save_recognizer(tmp_path, recognizer, {"run": "mine"})
    file = folder / "recognizer.json"
    whole, before = file.read_bytes(), read_description(folder)
    for place in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1:])
            try:
                assert before.items() <= read_description(folder).items()  # white space is another, or the checksum has another name
            except BadInput:
                continue


def test_a_model_from_before_there_were_checksums_loads(recognizer, tmp_path):
    folder = save_recognizer(tmp_path, recognizer)
    description = json.loads((folder / "recognizer.json").read_text(encoding="utf-8"))
    del description["checksum"]
    (folder / "recognizer.json").write_text(json.dumps(description), encoding="utf-8")
    assert load_recognizer(folder).charset == recognizer.charset
    save_temperature(folder, 1.5)  # which writes the description anew, with its checksum
    assert read_description(folder)["temperature"] == 1.5
    assert "checksum" in json.loads((folder / "recognizer.json").read_text(encoding="utf-8"))


def test_a_place_without_a_model_is_explained(tmp_path):
    with pytest.raises(BadInput, match="found none called nowhere"):
        load_recognizer("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="has the run finished"):
        load_recognizer(tmp_path / "empty")


def test_a_model_that_is_not_registered_is_explained(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    with pytest.raises(BadInput, match="gives no model for models:/nobody@champion .*textray register"):
        load_recognizer("models:/nobody@champion")
