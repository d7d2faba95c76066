"""The four-stage family as published by the benchmark (Baek et al., ICCV 2019), "fewer labels" (Baek et al., CVPR 2021), CCR (Zheng et
al., CVPR 2022), and, for TRBA and TRBC, the parseq hub: `Transformation.…`, `FeatureExtraction.…`, `SequenceModeling.…`, `Prediction.…`.

The benchmark's tables of ids have 1 (CTC) or 2 (attention) ids of their own, one-hot; the others feed `Prediction.char_embeddings`.
"""

from collections.abc import Sequence

from models.charset import Charset
from models.encoders.rcnn import RCNN
from models.encoders.resnet import ResNet
from models.encoders.vgg import VGG
from models.published.layout import Description, Layout, State, charset_for
from models.recognizer import Recognizer

_PREFIXES = (
    ("Transformation.LocalizationNetwork.conv.", "rectifier.localization."),
    ("Transformation.LocalizationNetwork.localization_fc1.0.", "rectifier.localization_hidden."),
    ("Transformation.LocalizationNetwork.localization_fc2.", "rectifier.localization_points."),
    ("FeatureExtraction.ConvNet.", "encoder."),
    ("SequenceModeling.", "sequence."),
    ("Prediction.attention_cell.i2h.", "decoder.memory_projection."),
    ("Prediction.attention_cell.h2h.", "decoder.state_projection."),
    ("Prediction.attention_cell.score.", "decoder.score."),
    ("Prediction.attention_cell.rnn.", "decoder.cell."),
    ("Prediction.char_embeddings.", "decoder.embedding."),
    ("Prediction.generator.", "decoder.classifier."),
)
_CTC = (("Prediction.", "decoder.classifier."),)  # at the top: Prediction.weight and .bias
_NAMES = {("none", "vgg", "bilstm", "ctc"): "crnn", ("none", "rcnn", "bilstm", "ctc"): "grcnn", ("none", "resnet", "none", "ctc"): "rosetta",
          ("tps", "vgg", "bilstm", "attention"): "rare", ("tps", "resnet", "bilstm", "ctc"): "star_net",
          ("tps", "resnet", "bilstm", "attention"): "trba"}
_STEMS = {"FeatureExtraction.ConvNet.conv0_1.weight": "resnet", "FeatureExtraction.ConvNet.3.wgf_u.weight": "rcnn",
          "FeatureExtraction.ConvNet.18.weight": "vgg"}
_OWN_CTC_IDS = {37: ("benchmark", 1), 95: ("benchmark", 1), 63: ("benchmark", 1), 98: ("fewer_labels", 4)}


def _prefixes(recognizer: Recognizer) -> Sequence[tuple[str, str]]:
    if not isinstance(recognizer.encoder, (VGG, RCNN, ResNet)):
        raise ValueError(f"expected a recognizer of the four-stage benchmark, found {recognizer.name}: "
                         "only combinations with the encoders vgg, rcnn and resnet have published names")
    return (_CTC if recognizer.decoder.kind == "ctc" else ()) + _PREFIXES


def _matches(state: State) -> bool:
    return any(stem in state for stem in _STEMS) and any(name in state for name in ("Prediction.weight", "Prediction.generator.weight"))


def _describe(state: State, charset: Charset | None) -> Description:
    stem = next(stem for stem in _STEMS if stem in state)
    first = state["FeatureExtraction.ConvNet.conv0_1.weight" if _STEMS[stem] == "resnet" else "FeatureExtraction.ConvNet.0.weight"]
    stages = ("tps" if any(name.startswith("Transformation.") for name in state) else "none", _STEMS[stem],
              "bilstm" if any(name.startswith("SequenceModeling.") for name in state) else "none",
              "ctc" if "Prediction.weight" in state else "attention")
    tokens, own = _own_ids(state, charset)
    classes = state["Prediction.weight" if stages[3] == "ctc" else "Prediction.generator.weight"].shape[0]
    overrides: dict[str, object] = {} if stages in _NAMES else dict(zip(("rectifier", "encoder", "sequence", "decoder"), stages))
    overrides |= {name: value for name, value, usual in (("channels", first.shape[1], 1), ("tokens", tokens, "benchmark"), ("width", _width(state), 100))
                  if value != usual}
    return Description(_NAMES.get(stages, "four_stage"), charset_for(classes - own, charset), overrides)


def _own_ids(state: State, charset: Charset | None) -> tuple[str, int]:
    """(whose table of ids, how many of them are no characters)."""
    if "Prediction.weight" in state:
        classes = state["Prediction.weight"].shape[0]
        if classes in _OWN_CTC_IDS:
            return _OWN_CTC_IDS[classes]
        return ("benchmark", 1) if charset is None or classes - len(charset) == 1 else ("fewer_labels", 4)
    if "Prediction.char_embeddings.weight" not in state:
        return "benchmark", 2
    classes = state["Prediction.generator.weight"].shape[0]
    return ("parseq", 3) if classes - (94 if charset is None else len(charset)) == 3 else ("fewer_labels", 5)


def _width(state: State) -> int:
    """Of the input: from the table of the rectifier's grid, where the file has it; 128 where the parseq hub is told by its ids."""
    table = state.get("Transformation.GridGenerator.P_hat")
    return 100 if table is None else table.shape[0] // 32


FOUR_STAGE = Layout(
    source="the four-stage benchmark", matches=_matches, describe=_describe, prefixes=_prefixes,
    # The spline's tables follow from the image size. Some published files hold them, and ours never do. CCR's head serves training only.
    ignored=("Transformation.GridGenerator.", "Prediction.projection_head.", "Prediction.project_head."))
