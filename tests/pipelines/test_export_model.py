"""Exported recognizers read what the recognizers read."""

import copy
import gc
import inspect
import json
import string

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.parity.rounding import Rounding, perturbed
from models.charset import Charset
from models.decoders.decoded import Decoded
from models.recognizer import Recognizer
from models.recognizers import RECOGNIZERS, build
from pipelines import cli
from pipelines.corpus.images import Shape
from pipelines.errors import BadInput
from pipelines.export_model import pictures_of
from pipelines.reading import graphs
from pipelines.reading.batches import as_input, shape_of
from pipelines.reading.graphs import FORMATS, in_batches, noise, way_of_reading
from pipelines.reading.onnx_reader import READINGS, OnnxReader, Symbols
from pipelines.reading.weights import read_description, save_recognizer

CHARSET = Charset.named("36")
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pictures(real_data) -> list[np.ndarray]:
    """25 real words, 32 x 100."""
    return pictures_of([str(real_data / "words" / "test" / "IIIT5K")], Shape(32, 100))[:25]


@pytest.fixture
def without_collection():
    """No garbage collection: the exporter makes a million objects for each graph, and looking through them takes a tenth of its time."""
    gc.disable()
    yield
    gc.enable()


LABELS = [string.ascii_lowercase[:length] for length in range(1, 26)]


@pytest.fixture(scope="module")
def taught(pictures) -> Recognizer:
    """An attention recognizer that has learned by heart to read the alphabet's first 1, 2, … 25 letters from the 25 pictures."""
    torch.manual_seed(0)
    recognizer = build("trba_tiny", CHARSET)
    images, targets = as_input(pictures, CPU), recognizer.decoder.encode(LABELS)
    optimizer = torch.optim.Adam(recognizer.parameters(), lr=5e-3)
    for _ in range(120):
        loss = recognizer.decoder.loss(recognizer(images, recognizer.decoder.inputs(targets)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    recognizer.temperature = 2.0
    return recognizer.eval()


def batches(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """The pictures in batches of 1, 3 and 8, again and again."""
    return [np.stack(batch) for batch in in_batches(pictures)]


def read_alike(recognizer: Recognizer, reader: OnnxReader, pictures: list[np.ndarray]) -> list[str]:
    """The strings that both read, batch by batch, after comparing, with confidences as near to the true ones as float32 allows."""
    texts, generator = [], torch.Generator().manual_seed(0)
    exact = copy.deepcopy(recognizer).double()
    for batch in batches(pictures):
        images = as_input(list(batch), CPU)
        with torch.no_grad():
            expected, true = recognizer.read(images), exact.read(images.double()).confidences
            with Rounding(generator):
                changed = perturbed(exact, generator).read(images.double()).confidences
        reads = reader.read(batch)
        assert [read.text for read in reads] == expected.texts
        assert true.min() > 0
        limit = (changed / true - 1).abs().max().item() + 1e-6
        assert [read.confidence for read in reads] == pytest.approx(true.tolist(), rel=limit) and limit < 0.01
        texts += expected.texts
    return texts


def test_batches_are_of_1_3_and_8(pictures):
    assert [len(batch) for batch in batches(pictures)] == [1, 3, 8, 1, 3, 8, 1]


def test_real_words_of_1_to_25_letters_are_read_alike(taught, pictures, real_data, tmp_path, capsys):
    folder = save_recognizer(tmp_path / "model", taught, {"run": "taught"})
    target = tmp_path / "taught.onnx"
    command = ["export-model", str(folder), "--out", str(target), "--data", str(real_data / "words" / "test" / "IIIT5K")]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert f"made {target}: trba_tiny as ONNX" in said and "the same strings as the model on 64 images in batches of 1, 3, 8" in said
    reader = OnnxReader(target)
    assert read_alike(taught, reader, pictures) == LABELS
    assert not taught.training and taught.decoder.stops_early

    about = reader.about
    expected = {"recognizer": "trba_tiny", "charset": CHARSET.characters, "decoder": "attention", "reading": "symbols", "height": "32",
                "width": "100", "channels": "1", "aspect": "stretch", "temperature": "2.0", "max_length": "25", "overrides": "{}"}
    assert {key: about[key] for key in expected} == expected
    assert json.loads(about["tokens"]) == {"classes": 38, "first_character": 2, "behind": 0, "start": 0, "pad": 0, "end": 1, "fed_only": 0}
    assert about["weights_sha256"] == read_description(folder)["weights_sha256"]
    assert "(x / 255 - 0.5) / 0.5" in about["preprocessing"] and about["textray_version"]

    assert cli.main(command) == 2
    assert "expected a free name, found" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"expected images \(n, 32, 100, 3\) of uint8, found \(1, 32, 128, 3\)"):
        reader.read(np.zeros((1, 32, 128, 3), np.uint8))


# As small as the builders go: what counts is every kind of layer, not how many there are.
SMALL = {"max_length": 1, "width": 8, "target_width": 16, "size": "tiny", "vision_layers": 1, "language_layers": 1, "iterations": 2}


# The tests above and below export the tiny ones. What four_stage builds is one of the others, of whose stages these here hold each once.
ELSEWHERE = ("crnn_tiny", "trba_tiny", "four_stage", "star_net", "rare")


@pytest.mark.parametrize("name", [name for name in RECOGNIZERS if name not in ELSEWHERE])
def test_every_recognizer_is_read_alike(without_collection, name, real_data, tmp_path):
    """Export compares the strings on real words, in batches of 1, 3 and 8, and refuses to leave a file that reads otherwise."""
    torch.manual_seed(0)
    known = inspect.signature(RECOGNIZERS[name]).parameters
    recognizer = build(name, CHARSET, **{setting: value for setting, value in SMALL.items() if setting in known}).eval()
    words = pictures_of([str(real_data / "words" / "test" / "SVT")], shape_of(recognizer))[:12]
    compared = graphs.export_model(recognizer, tmp_path / "model.onnx", pictures=words)
    assert compared.images == 12 and (tmp_path / "model.onnx").is_file()


def test_images_that_keep_their_aspect_ratio_are_read_alike_at_every_width(real_data, tmp_path):
    torch.manual_seed(0)
    recognizer = build("crnn_tiny", CHARSET, width=256, aspect="keep").eval()
    recognizer.temperature = 0.02  # as sure as a trained one: what an untrained one reads in 64 frames is less likely than float32 can say
    words = pictures_of([str(real_data / "words" / "test" / "SVT")], shape_of(recognizer))[:24]
    assert {word.shape[1] for word in words} > {64, 128}
    graphs.export_model(recognizer, tmp_path / "model.onnx", pictures=words)
    read_alike(recognizer, OnnxReader(tmp_path / "model.onnx"), words)


@pytest.mark.parametrize("ending", [".pt2", ".torchscript"])
def test_pytorchs_own_formats_hold_the_same_metadata(ending, taught, pictures, tmp_path):
    graphs.export_model(taught, tmp_path / f"model{ending}", {"weights_sha256": "12ab"}, pictures)  # which compares
    extra = {"textray.json": ""}
    if ending == ".pt2":
        torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    else:
        torch.jit.load(str(tmp_path / "model.torchscript"), _extra_files=extra)
    about = json.loads(extra["textray.json"])
    assert (about["charset"], about["weights_sha256"], about["temperature"]) == (CHARSET.characters, "12ab", "2.0")


def weightless(name: str) -> Recognizer:
    with torch.device("meta"):
        return build(name, CHARSET)


@pytest.mark.parametrize("name, branches, reading", [
    ("crnn", (), "ctc"),
    ("trba", (), "symbols"),
    ("abinet", ("vision", "language"), "symbols"),
    ("moran", ("right_to_left",), "two_directions_by_mean_logit"),
    ("hga", ("right_to_left",), "two_directions_by_probability"),
])
def test_the_way_of_reading_is_found(name, branches, reading):
    recognizer = weightless(name)
    outputs = {output: torch.empty(1, 11, recognizer.decoder.tokens.classes) for output in ("logits", *branches)}
    assert way_of_reading(recognizer, outputs) == reading


@pytest.mark.parametrize("name, reading", [
    ("crnn", "ctc"),
    ("trba", "symbols"),
    ("vitstr", "symbols"),
    ("moran", "two_directions_by_mean_logit"),
    ("hga", "two_directions_by_probability"),
])
def test_strings_are_read_in_numpy_as_in_the_decoders(name, reading):
    recognizer, generator = weightless(name), torch.Generator().manual_seed(1)
    tokens = recognizer.decoder.tokens
    symbols = Symbols(CHARSET.characters, tokens.first_character, getattr(tokens, "blank", None), getattr(tokens, "end", None))
    likely = tokens.first_character if symbols.end is None else symbols.end
    for steps in (1, 2, 26):
        outputs = {output: 3 * torch.randn(200, steps, tokens.classes, generator=generator) for output in ("logits", "right_to_left")}
        outputs["logits"][50:, :, likely] += 5  # repeated characters, early ends
        outputs["right_to_left"][100:, :, likely] += 5
        outputs["right_to_left"][150:] = outputs["logits"][150:]  # directions that are equally sure
        branches = {"right_to_left": outputs["right_to_left"]} if reading.startswith("two") else {}
        expected = recognizer.decoder.read(Decoded(outputs["logits"], outputs["logits"], branches=branches))
        reads = READINGS[reading]({output: values.numpy() for output, values in outputs.items()}, symbols)
        assert [read.text for read in reads] == expected.texts
        np.testing.assert_allclose([read.confidence for read in reads], expected.confidences.numpy(), rtol=1e-4, atol=1e-30)


def test_a_decoder_that_reads_otherwise_is_refused(tmp_path):
    recognizer = build("crnn_tiny", CHARSET).eval()
    usual = recognizer.decoder.read

    def backwards(decoded: Decoded):
        reading = usual(decoded)
        reading.texts = [text[::-1] for text in reading.texts]
        return reading

    recognizer.decoder.read = backwards
    with pytest.raises(BadInput, match="found crnn_tiny, whose decoder reads otherwise"):
        graphs.export_model(recognizer, tmp_path / "model.torchscript")


class FixedBatch(nn.Module):
    """Works for the batch that is traced, and for no other: tracing takes `len` for a number."""

    def forward(self, frames):
        """(n, frames, width) -> the same."""
        return frames + frames.new_zeros(1, 1, 1).expand(len(frames), -1, -1)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_graph_that_fits_one_batch_only_is_refused_and_leaves_no_file(ending, tmp_path):
    recognizer = build("crnn_tiny", CHARSET).eval()
    recognizer.sequence = FixedBatch()
    with pytest.raises(BadInput, match=f"crnn_tiny cannot be written as {FORMATS[ending].name} .* was not written: choose another ending"):
        graphs.export_model(recognizer, tmp_path / f"model{ending}")
    assert list(tmp_path.iterdir()) == []


def test_rounding_may_turn_ties_and_nothing_else():
    """A made-up file that reads like a recognizer, but for rounding, or but for more than that."""
    recognizer = build("trba_tiny", CHARSET, max_length=2).eval()
    likely, tie, other = (torch.zeros(1, 3, 38).index_fill(2, torch.tensor([symbol]), 5.0) for symbol in (7, 8, 9))
    own = torch.cat([likely[:, :1], likely[:, :1] + 1e-5, likely[:, :1]], 1)
    own[0, 1, 8] = 5.0  # a tie with symbol 7, nearly
    recognizer.forward = lambda images: Decoded(own, own)

    def file(second: torch.Tensor, third: torch.Tensor):
        return lambda images: {"logits": torch.cat([likely[:, :1], second[:, :1], third[:, :1]], 1)}

    turned = own[:, 1:2].clone()
    turned[0, 0, 8] = 5.0001
    pictures = noise(shape_of(recognizer), 1)
    assert graphs.compare(recognizer, file(own[:, 1:2], likely), "symbols", pictures).ties == 0
    found = graphs.compare(recognizer, file(turned, other), "symbols", pictures)  # what follows the tie may differ
    assert found.ties == 1 and found.largest_difference < 1e-3
    assert "on 1 images in batches of 1, 3, 8, but for 1 where two characters are equally likely" in str(found)
    with pytest.raises(ValueError, match="its outputs are off by 5.0e[+]00, it reads '5.5' where the model reads '555'"):
        graphs.compare(recognizer, file(tie, likely), "symbols", pictures)


def test_a_file_of_somebody_elses_is_refused(tmp_path):
    import onnx as format
    graph = format.parser.parse_graph("nothing (float[1] images) => (float[1] logits) { logits = Identity(images) }")
    format.save(format.helper.make_model(graph, opset_imports=[format.helper.make_opsetid("", 18)], ir_version=8), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="expected an ONNX file of `textray export-model`"):
        OnnxReader(tmp_path / "other.onnx")


@pytest.mark.parametrize("out, sentence", [
    ("model.tflite", "--out: expected a file ending in .onnx (ONNX), .pt2 (torch.export), .torchscript (TorchScript), found model.tflite"),
    ("nowhere/model.pt2", "--out: expected a folder that exists, found none at"),
    ("model.pt2", "expected a model, found none called no-such-model"),
])
def test_bad_input_is_one_sentence(out, sentence, tmp_path, capsys):
    assert cli.main(["export-model", "no-such-model", "--out", str(tmp_path / out)]) == 2
    assert sentence in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr(graphs.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["export-model", "any", "--out", "any.onnx"]) == 2
    sentence = "ONNX needs packages that are not installed (onnx, onnxscript, onnxruntime): pip install 'textray[onnx]'"
    assert sentence in capsys.readouterr().err


def test_noise_is_always_the_same_and_of_every_width():
    assert all((one == other).all() for one, other in zip(noise(Shape(32, 100), 3), noise(Shape(32, 100), 3), strict=True))
    assert {image.shape for image in noise(Shape(32, 200, "keep"), 2)} == {(32, 64, 3), (32, 128, 3), (32, 200, 3)}
