"""The benchmark's published state dicts."""

import sys

import pytest
import torch

from models.charset import Charset
from models.families.abinet import CHARSET as ABINET_CHARSET
from models.families.four_stage import four_stage
from models.families.hga import HGA_CHARSET
from models.published import LAYOUTS, from_published, recognise
from models.published.four_stage import FOUR_STAGE
from models.published.layout import unwrapped
from models.recognizers import build

CHARSET = Charset.named("36")


@pytest.fixture(scope="module")
def rare():
    """A recognizer with every kind of stage: a rectifier, a BiLSTM and attention, on the lighter encoder."""
    torch.manual_seed(0)
    return build("rare", CHARSET)


def test_published_names(rare):
    names = set(FOUR_STAGE.save(rare))
    assert {"Transformation.LocalizationNetwork.conv.0.weight", "FeatureExtraction.ConvNet.18.bias",
            "Transformation.LocalizationNetwork.localization_fc1.0.weight",
            "Transformation.LocalizationNetwork.localization_fc2.bias", "SequenceModeling.1.rnn.weight_hh_l0_reverse",
            "Prediction.attention_cell.i2h.weight", "Prediction.attention_cell.h2h.bias",
            "Prediction.attention_cell.score.weight", "Prediction.attention_cell.rnn.weight_ih",
            "Prediction.generator.weight"} < names
    assert {"Prediction.weight", "Prediction.bias"} < set(FOUR_STAGE.save(four_stage(CHARSET, sequence="none")))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("tables", [False, True])
def test_there_and_back_with_and_without_module_and_tables(rare, prefix, tables):
    published = {prefix + name: tensor for name, tensor in FOUR_STAGE.save(rare).items()}
    if tables:
        published[prefix + "Transformation.GridGenerator.inv_delta_C"] = torch.zeros(23, 23)
        published[prefix + "Transformation.GridGenerator.P_hat"] = torch.zeros(3200, 23)
    state = FOUR_STAGE.load(rare, published)
    assert state.keys() == rare.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in rare.state_dict().items())


def test_what_does_not_fit_is_refused_by_name(rare):
    published = FOUR_STAGE.save(rare)
    del published["Prediction.generator.bias"]
    published["Prediction.char_embeddings.weight"] = torch.zeros(99, 256)
    published["FeatureExtraction.ConvNet.0.weight"] = torch.zeros(64, 3, 3, 3)
    with pytest.raises(ValueError) as refusal:
        FOUR_STAGE.load(rare, published)
    assert "missing: Prediction.generator.bias" in str(refusal.value)
    assert "unexpected: Prediction.char_embeddings.weight" in str(refusal.value)
    assert ("of another shape: FeatureExtraction.ConvNet.0.weight (64, 3, 3, 3) instead of (64, 1, 3, 3)"
            in str(refusal.value))


def test_a_recognizer_that_the_benchmark_lacks_is_refused():
    with pytest.raises(ValueError, match="found crnn_tiny: only combinations"):
        FOUR_STAGE.save(build("crnn_tiny", CHARSET))


FILES = {  # what the repositories publish: (recognizer, charset, options) and how the file is recognised
    "benchmark crnn": ("crnn", "36", {}),
    "benchmark crnn, case-sensitive": ("crnn", "94", {}),
    "benchmark trba": ("trba", "36", {}),
    "benchmark trba, case-sensitive": ("trba", "94", {}),
    "fewer-labels crnn": ("crnn", "94", {"channels": 3, "tokens": "fewer_labels"}),
    "fewer-labels and CCR trba": ("trba", "94", {"channels": 3, "tokens": "fewer_labels"}),
    "hub trba": ("trba", "94", {"channels": 3, "tokens": "parseq"}),
    "hub crnn": ("hub_crnn", "94", {}),
    "hub vitstr": ("vitstr", "94", {}),
    "hub parseq": ("parseq", "94", {}),
    "hub parseq_tiny": ("parseq", "94", {"size": "tiny"}),
    "hub abinet": ("abinet", "94", {"tokens": "parseq", "normalisation": "half", "no_null_length": "full"}),
    "abinet": ("abinet", ABINET_CHARSET.characters, {}),
    "abinet, small vision model": ("abinet", ABINET_CHARSET.characters, {"vision": "small"}),
    "moran": ("moran", "36", {}),
    "mmocr svtr": ("svtr", "36", {}),
    "hga": ("hga", HGA_CHARSET.characters, {}),
}


@pytest.mark.parametrize("file", FILES)
def test_every_published_file_is_recognised_by_its_tensors(file):
    name, charset, options = FILES[file]
    with torch.device("meta"):
        recognizer = build(name, Charset.named(charset), **options)
    layout = next(layout for layout in LAYOUTS if _has_names_of(layout, recognizer))
    state = {"module." + tensor: value for tensor, value in layout.save(recognizer).items()}
    assert [each.source for each in LAYOUTS if each.matches(unwrapped(state))] == [layout.source]
    found, description = recognise(state, Charset.named(charset))
    assert (found, description.name, description.charset) == (layout, name, Charset.named(charset))
    with torch.device("meta"):
        rebuilt = build(description.name, description.charset, **description.overrides)
    assert layout.load(rebuilt, state).keys() == recognizer.state_dict().keys()


def _has_names_of(layout, recognizer) -> bool:
    try:
        return layout.matches(layout.save(recognizer))
    except ValueError:
        return False


@pytest.mark.parametrize("rectifier", ["none", "tps"])
@pytest.mark.parametrize("encoder", ["vgg", "rcnn", "resnet"])
@pytest.mark.parametrize("sequence", ["none", "bilstm"])
@pytest.mark.parametrize("decoder", ["ctc", "attention"])
def test_all_24_combinations_are_recognised(rectifier, encoder, sequence, decoder):
    with torch.device("meta"):
        recognizer = four_stage(CHARSET, rectifier=rectifier, encoder=encoder, sequence=sequence, decoder=decoder)
        layout, description = recognise(FOUR_STAGE.save(recognizer))
        rebuilt = build(description.name, description.charset, **description.overrides)
        assert layout.load(rebuilt, FOUR_STAGE.save(recognizer)).keys() == recognizer.state_dict().keys()


def test_weights_by_the_formula_give_the_same_outputs_whatever_the_wrapper(parity_data):
    """As the fixtures: every tensor's value follows from its published name."""
    sys.path.insert(0, str(parity_data))
    import fixture
    sys.path.remove(str(parity_data))
    names = FOUR_STAGE.save(build("crnn", CHARSET, channels=3, tokens="fewer_labels"))
    state = {name: tensor if "running" in name or "batches" in name else fixture.formula_param(name, tensor.shape) for name, tensor in names.items()}
    recognizers = [from_published({wrapper + name: tensor for name, tensor in state.items()}, CHARSET) for wrapper in ("", "module.", "model.")]
    images = torch.rand(2, 3, 32, 100)
    with torch.no_grad():
        first, *others = [recognizer(images).logits for recognizer in recognizers]
    assert all(torch.equal(first, other) for other in others) and not recognizers[0].training


def test_the_head_that_only_ccr_trains_with_is_left_out(rare):
    state = FOUR_STAGE.save(rare) | {"Prediction.projection_head.w_1.weight": torch.zeros(64, 256, 1)}
    assert FOUR_STAGE.load(rare, state).keys() == rare.state_dict().keys()


def test_nobodys_tensors_are_refused_with_the_repositories_that_are_known():
    with pytest.raises(ValueError, match="expected a state dict as one of these published it: the four-stage benchmark; .*found the tensors a.weight"):
        recognise({"a.weight": torch.zeros(1)})


def test_an_unusual_number_of_classes_asks_for_the_charset():
    with torch.device("meta"):
        state = FOUR_STAGE.save(build("crnn", Charset("abcde")))
    with pytest.raises(ValueError, match="expected a charset of 5 characters for these weights, found none"):
        recognise(state)
    assert recognise(state, Charset("vwxyz"))[1].charset == Charset("vwxyz")
