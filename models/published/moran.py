"""MORAN as its authors published version 2 (Luo et al., Pattern Recognition 2019): `MORN.cnn.…`, and `ASRN.cnn.…`, `ASRN.rnn.…`,
`ASRN.attentionL2R.…` and `ASRN.attentionR2L.…`, or `ASRN.attention.…` where there is one direction.

Their embeddings begin with the start symbol, where ours end with it.
"""

from collections.abc import Sequence

from torch import Tensor

from models.charset import Charset
from models.encoders.morn import MORN
from models.published.layout import Description, Layout, State, charset_for
from models.recognizer import Recognizer

_VISUAL = (
    ("MORN.cnn.", "rectifier.network."),
    ("ASRN.cnn.", "encoder."),
    ("ASRN.rnn.0.embedding.", "sequence.0.linear."),
    ("ASRN.rnn.1.embedding.", "sequence.1.linear."),
    ("ASRN.rnn.", "sequence."),
)


def _direction(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"ASRN.{theirs}.attention_cell.i2h.", f"decoder.{ours}.memory_projection."),
        (f"ASRN.{theirs}.attention_cell.h2h.", f"decoder.{ours}.state_projection."),
        (f"ASRN.{theirs}.attention_cell.score.", f"decoder.{ours}.score."),
        (f"ASRN.{theirs}.attention_cell.rnn.", f"decoder.{ours}.cell."),
        (f"ASRN.{theirs}.char_embeddings", f"decoder.{ours}.embedding.weight"),
        (f"ASRN.{theirs}.generator.", f"decoder.{ours}.classifier."),
    )


_BOTH = _VISUAL + _direction("attentionL2R", "left_to_right") + _direction("attentionR2L", "right_to_left")
_ONE = _VISUAL + _direction("attention", "left_to_right")


def _prefixes(recognizer: Recognizer) -> Sequence[tuple[str, str]]:
    if not isinstance(recognizer.rectifier, MORN):
        raise ValueError(f"expected moran, found {recognizer.name}: only recognizers with the rectifier MORN have names in this layout")
    return _ONE if recognizer.decoder.right_to_left is None else _BOTH


def _matches(state: State) -> bool:
    return "MORN.cnn.1.weight" in state and "ASRN.cnn.block0.0.weight" in state


def _describe(state: State, charset: Charset | None) -> Description:
    bidirectional = "ASRN.attentionL2R.generator.weight" in state
    generator = state.get("ASRN.attentionL2R.generator.weight" if bidirectional else "ASRN.attention.generator.weight")
    if generator is None:
        raise ValueError("expected the tensor ASRN.attentionL2R.generator.weight or ASRN.attention.generator.weight, found neither: "
                         "the file lacks its decoder")
    classes, hidden = generator.shape
    channels = state["MORN.cnn.1.weight"].shape[1]
    overrides = {name: value for name, value, usual in
                 (("channels", channels, 1), ("bidirectional", bidirectional, True), ("hidden", hidden, 256)) if value != usual}
    return Description("moran", charset_for(classes - 1, charset), overrides)


def _to_ours(recognizer: Recognizer, name: str, tensor: Tensor) -> Tensor:
    return tensor.roll(-1, 0) if name.endswith("embedding.weight") else tensor


def _to_published(recognizer: Recognizer, name: str, tensor: Tensor) -> Tensor:
    return tensor.roll(1, 0) if name.endswith("embedding.weight") else tensor


MORAN = Layout(source="MORAN v2", matches=_matches, describe=_describe, prefixes=_prefixes, to_ours=_to_ours, to_published=_to_published)
