"""One temperature for a model: what is fitted, on which words, and where it goes."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from models.charset import Charset, ctc_tokens
from models.decoders.ctc import CTCDecoder
from models.decoders.decoded import Decoded
from models.recognizers import build
from pipelines import calibrate
from pipelines.errors import BadInput
from pipelines.evaluation.calibration import TEMPERATURES, Reads, best_temperature, in_half, read_at
from pipelines.reading.weights import load_recognizer, read_description, save_recognizer


def reads_of(logits: torch.Tensor, temperature: float, temperatures: tuple[float, ...] = TEMPERATURES) -> Reads:
    """Words of one symbol, logits (n, classes): each is right as often as its confidence at `temperature` says."""
    confidences = torch.stack([(logits / each).softmax(1).amax(1) for each in temperatures], 1).double()
    honest = (logits / temperature).softmax(1).amax(1).double()
    draws = torch.rand(len(logits), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Reads(draws < honest, confidences)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7, 3.3])
def test_a_known_temperature_is_found_again(temperature):
    logits = 3 * torch.randn(60_000, 8, generator=torch.Generator().manual_seed(0))
    assert best_temperature(reads_of(logits, temperature)) == pytest.approx(temperature, rel=0.04)


def test_the_likelihood_is_that_of_being_right():
    reads = Reads(torch.tensor([True, True, False]), torch.tensor([[0.9, 0.5], [0.6, 1.0], [0.2, 1.0]], dtype=torch.float64))
    first, second = reads.negative_log_likelihood.tolist()
    assert first == pytest.approx(-(math.log(0.9) + math.log(0.6) + math.log(0.8)) / 3)
    assert second == pytest.approx(-(math.log(0.5) + math.log(1 - 1e-6) + math.log(1e-6)) / 3)  # certain and wrong costs much, not infinity


def test_words_that_are_all_right_or_all_wrong_are_refused():
    confidences = torch.rand(10, len(TEMPERATURES), dtype=torch.float64)
    for correct, found in ((True, "10 of 10"), (False, "0 of 10")):
        with pytest.raises(BadInput, match=f"found {found} right"):
            best_temperature(Reads(torch.full((10,), correct), confidences))


def picture(level: int, width: int = 60) -> bytes:
    return cv2.imencode(".png", np.full((20, width, 3), level, np.uint8))[1].tobytes()


class ByGray(nn.Module):
    """Frames of one image: the logit of the letter a grows with the gray level."""

    height, width, aspect, channels, max_length, charset, temperature = 32, 100, "keep", 1, 25, Charset("ab"), 1.0

    def __init__(self):
        super().__init__()
        self.decoder, self.tokens = CTCDecoder(self.charset, 4), ctc_tokens(self.charset)

    def forward(self, images):
        level = (images.mean((1, 2, 3)) + 1) / 2  # (n,), 0 to 1
        logits = torch.zeros(len(images), 1, 3)
        logits[:, 0, 1] = 4 * level
        return Decoded(logits, logits)


def test_every_word_is_read_at_every_temperature_in_its_order_whatever_its_width():
    words = [("a", picture(255), "a"), ("b", picture(51, 30), "b"), ("c", b"no image", "a"), ("d", picture(204, 90), "A"),
             ("a", picture(102, 30), "b")]
    reads = read_at(ByGray(), words, (1.0, 2.0), batch_size=3)
    assert reads.correct.tolist() == [True, False, True, False]
    for level, (plain, soft) in zip((1, 0.2, 0.8, 0.4), reads.confidences.tolist(), strict=True):
        for found, temperature in ((plain, 1), (soft, 2)):
            assert found == pytest.approx(1 / (1 + 2 * math.exp(-4 * level / temperature)), abs=1e-4)


def test_halves_are_a_matter_of_the_key():
    halves = [in_half(f"SVT/{number}") for number in range(2000)]
    assert 900 < sum(halves) < 1100
    assert halves[:10] == [in_half(f"SVT/{number}") for number in range(10)]


@pytest.fixture
def model(tmp_path) -> Path:
    """A recognizer that reads all images alike: as "a", with a probability of 0.9 a frame."""
    torch.manual_seed(0)
    recognizer = build("crnn_tiny", Charset("ab"))
    with torch.no_grad():
        recognizer.decoder.classifier.weight.zero_()
        recognizer.decoder.classifier.bias.copy_(torch.tensor([0.0, math.log(18), 0.0]))
    return save_recognizer(tmp_path / "model", recognizer, {"run": "mine"})


def a_folder(where: Path, right: int, wrong: int) -> Path:
    where.mkdir()
    for number in range(right + wrong):
        (where / f"{number:03d}.png").write_bytes(picture(number % 255))
    (where / "labels.tsv").write_text("".join(f"{number:03d}.png\t{'a' if number < right else 'b'}\n" for number in range(right + wrong)), encoding="utf-8")
    return where


def test_the_command_fits_on_one_half_reports_on_both_and_writes_into_the_model(model, tmp_path, capsys):
    before = read_description(model)
    words = a_folder(tmp_path / "words", 72, 72)
    assert calibrate.main([str(model), "--data", str(words)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:3] == ["half", "words", "temperature"]
    assert [line[0] for line in lines[1:5]] == ["fit", "fit", "report", "report"]
    fitted = [line for line in lines[1:5] if line[0] == "fit"]
    assert int(fitted[0][1]) + int(lines[3][1]) == 144
    # One confidence for all words: the best is the share that is right.
    assert float(fitted[1][4]) == pytest.approx(float(fitted[1][3]) / 100, abs=0.01)
    assert float(fitted[1][5]) < float(fitted[0][5]) and float(fitted[1][6]) < 1.5 < float(fitted[0][6])
    temperature = float(fitted[1][2])
    after = read_description(model)
    assert after["temperature"] == pytest.approx(temperature, abs=1e-3) and {**after, "temperature": 1.0} == before
    assert load_recognizer(model).temperature == after["temperature"]
    assert sorted(file.name for file in model.iterdir()) == ["recognizer.json", "weights.pt"]

    assert calibrate.main([str(model), "--data", str(words)]) == 0  # again: it starts from what the model has, and ends there
    assert read_description(model)["temperature"] == after["temperature"]
    assert f"(it was {after['temperature']:g})" in capsys.readouterr().out


def test_a_calibrated_model_reads_the_same_strings_and_keeps_its_temperature(model, tmp_path):
    images = torch.rand(2, 3, 32, 100)
    plain = load_recognizer(model).read(images)
    description = read_description(model)
    (model / "recognizer.json").write_text(json.dumps(description | {"temperature": 3.0}), encoding="utf-8")
    recognizer = load_recognizer(model)
    softer = recognizer.read(images)
    assert softer.texts == plain.texts and (softer.confidences < plain.confidences).all()
    assert read_description(save_recognizer(tmp_path / "copy", recognizer))["temperature"] == 3.0


def test_a_model_from_before_there_were_temperatures_has_none(model):
    description = read_description(model)
    del description["temperature"]
    (model / "recognizer.json").write_text(json.dumps(description), encoding="utf-8")
    assert load_recognizer(model).temperature == 1.0


@pytest.mark.parametrize("temperature", [0, -1.5, "warm", None, math.inf, math.nan])
def test_a_temperature_that_is_none_is_refused(model, temperature):
    (model / "recognizer.json").write_text(json.dumps(read_description(model) | {"temperature": temperature}), encoding="utf-8")
    with pytest.raises(BadInput, match="temperature: expected a number above 0"):
        load_recognizer(model)


def test_bad_input_changes_nothing(model, tmp_path):
    before = (model / "recognizer.json").read_bytes()
    words = a_folder(tmp_path / "words", 20, 0)
    for arguments, sentence in ((["--data", str(words)], "right: calibrate on more words"),
                                (["--data", str(words), "--batch-size", "0"], "expected at least 1, found 0")):
        with pytest.raises(BadInput, match=sentence):
            calibrate.main([str(model), *arguments])
    with pytest.raises(BadInput, match="the registered model models:/words@champion, which cannot change"):
        calibrate.main(["models:/words@champion", "--data", str(words)])
    assert (model / "recognizer.json").read_bytes() == before
