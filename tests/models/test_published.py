"""The benchmark's published state dicts."""

import pytest
import torch

from models.charset import Charset
from models.published.four_stage import FOUR_STAGE
from models.families.four_stage import four_stage
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
