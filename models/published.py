"""State dicts as the four-stage benchmark published them (Baek et al., ICCV 2019), to ours and back.

A published file is the state dict of a DataParallel model: `module.Transformation.…`, `module.FeatureExtraction.…`,
`module.SequenceModeling.…`, `module.Prediction.…`; a model saved without DataParallel lacks the `module.`.
"""

from collections.abc import Mapping

from torch import Tensor

from models.encoders.rcnn import RCNN
from models.encoders.resnet import ResNet
from models.encoders.vgg import VGG
from models.recognizers import Recognizer

# (published prefix, ours)
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
    ("Prediction.generator.", "decoder.classifier."),  # CTC has it at the top: Prediction.weight and .bias
)
# The spline's tables follow from the image size. Some published files hold them, and ours never do.
_TABLES = ("Transformation.GridGenerator.inv_delta_C", "Transformation.GridGenerator.P_hat")


def from_benchmark(recognizer: Recognizer, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict under the names of `recognizer`, ready for its load_state_dict.

    ValueError naming every tensor that is missing, unexpected, or of another shape than the recognizer's.
    """
    found = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    wanted = {benchmark_name(recognizer, name): name for name in recognizer.state_dict()}
    own = recognizer.state_dict()
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys() - set(_TABLES)),
        "of another shape": [f"{name} {tuple(found[name].shape)} instead of {tuple(own[ours].shape)}"
                             for name, ours in wanted.items()
                             if name in found and found[name].shape != own[ours].shape],
    }
    if any(problems.values()):
        found_instead = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise ValueError(f"expected the tensors of {recognizer.name or 'this recognizer'} in the benchmark's layout, "
                         f"found {found_instead}: choose the recognizer, charset and channels of the file")
    return {ours: found[name] for name, ours in wanted.items()}


def to_benchmark(recognizer: Recognizer) -> dict[str, Tensor]:
    """The recognizer's state dict in the published layout, without `module.` and without the spline's tables."""
    return {benchmark_name(recognizer, name): tensor for name, tensor in recognizer.state_dict().items()}


def benchmark_name(recognizer: Recognizer, name: str) -> str:
    """The published name of one of the recognizer's parameters or buffers.

    ValueError if the recognizer is not one of the benchmark's 24 combinations.
    """
    if not isinstance(recognizer.encoder, (VGG, RCNN, ResNet)):
        raise ValueError(f"expected a recognizer of the four-stage benchmark, found {recognizer.name}: "
                         "only combinations with the encoders vgg, rcnn and resnet have published names")
    if name.startswith("decoder.classifier.") and recognizer.decoder.kind == "ctc":
        return name.replace("decoder.classifier.", "Prediction.")
    return next(theirs + name.removeprefix(ours) for theirs, ours in _PREFIXES if name.startswith(ours))
