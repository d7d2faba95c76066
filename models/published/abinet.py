"""ABINet as published by its authors (Fang et al., CVPR 2021), by SemiMTR (Aberdam et al., 2022), and by the parseq hub:
`vision.…`, `language.…`, `alignment.…`.

All three have the same tensors. Id 0 ends a word everywhere, and the characters follow, in the first two in the order a-z 1-9 0, in the hub
in its own: the charset tells the order, and no row is moved. SemiMTR's files cannot be told from the first authors'.
"""

import string
from collections.abc import Sequence

from models.charset import Charset
from models.decoders.abinet import ABINetDecoder
from models.families.abinet import CHARSET
from models.published.layout import Description, Layout, State, charset_for
from models.recognizer import Recognizer

_PREFIXES = (
    ("vision.backbone.resnet.", "encoder.resnet."),
    ("vision.attention.k_encoder.", "decoder.vision.attention.down."),
    *((f"vision.attention.k_decoder.{place}.{theirs}.", f"decoder.vision.attention.up.{place}.{ours}.")
      for place in range(4) for theirs, ours in ((1, 0), (2, 1))),  # theirs counts the enlarging, too
    ("vision.attention.project.", "decoder.vision.attention.project."),
    ("vision.attention.f0_embedding.", "decoder.vision.attention.queries."),
    ("vision.attention.w0.", "decoder.vision.attention.mix."),
    ("vision.attention.wv.", "decoder.vision.attention.key."),
    ("vision.attention.we.", "decoder.vision.attention.score."),
    ("vision.cls.", "decoder.vision.classifier."),
    ("language.proj.", "decoder.language.embedding."),
    ("language.cls.", "decoder.language.classifier."),
    ("alignment.w_att.", "decoder.gate."),
    ("alignment.cls.", "decoder.classifier."),
)
_VISION_LAYERS, _LANGUAGE_LAYERS = "vision.backbone.transformer.layers.", "language.model.layers."


def _prefixes(recognizer: Recognizer) -> Sequence[tuple[str, str]]:
    if not isinstance(recognizer.decoder, ABINetDecoder):
        raise ValueError(f"expected ABINet, found {recognizer.name}: only abinet has published names here")
    encoder, language = recognizer.encoder.transformer, recognizer.decoder.language
    return (*_PREFIXES,
            *_layers(_VISION_LAYERS, "encoder.transformer.layers.", len(encoder.layers), "self_attn", "norm1", "norm2"),
            *_layers(_LANGUAGE_LAYERS, "decoder.language.layers.", len(language.layers), "multihead_attn", "norm2", "norm3"))


def _layers(theirs: str, ours: str, count: int, attention: str, attention_norm: str, last_norm: str) -> list[tuple[str, str]]:
    """The names inside each of `count` layers."""
    parts = ((f"{attention}.in_proj_", "attention.input_projection."), (f"{attention}.out_proj.", "attention.output_projection."),
             ("linear1.", "feed_forward.0."), ("linear2.", "feed_forward.3."),
             (f"{attention_norm}.", "attention_norm."), (f"{last_norm}.", "feed_forward_norm."))
    return [(f"{theirs}{layer}.{their_part}", f"{ours}{layer}.{our_part}") for layer in range(count) for their_part, our_part in parts]


def _matches(state: State) -> bool:
    return all(name in state for name in ("vision.backbone.resnet.conv1.weight", "language.proj.weight", "alignment.w_att.weight"))


def _describe(state: State, charset: Charset | None) -> Description:
    """The first authors' recognizer for a charset that begins with letters, and without one for 37 classes; else the hub's."""
    classes, hidden = state["alignment.cls.weight"].shape
    if charset is None and classes == len(CHARSET) + 1:
        charset = CHARSET
    charset = charset_for(classes - 1, charset)
    small = "vision.attention.f0_embedding.weight" in state
    found = {"channels": (state["vision.backbone.resnet.conv1.weight"].shape[1], 3), "width": (_width(state), 128),
             "max_length": (_steps(state) - 1, 25), "vision": ("small" if small else "large", "large"),
             "vision_layers": (_count(state, _VISION_LAYERS), 2 if small else 3), "language_layers": (_count(state, _LANGUAGE_LAYERS), 4),
             "hidden": (hidden, 512)}
    overrides: dict[str, object] = {name: value for name, (value, usual) in found.items() if value != usual}
    if charset.characters.startswith(string.digits):
        overrides |= {"tokens": "parseq", "normalisation": "half", "no_null_length": "full"}
    elif overrides.get("channels") == 1:
        overrides["normalisation"] = "half"
    return Description("abinet", charset, overrides)


def _count(state: State, prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _steps(state: State) -> int:
    """Of the output: as many as the small model has queries, or as the language model's table has places, if the file holds it."""
    if "vision.attention.f0_embedding.weight" in state:
        return state["vision.attention.f0_embedding.weight"].shape[0]
    table = state.get("language.token_encoder.pe")
    return 26 if table is None else table.shape[0]


def _width(state: State) -> int:
    """Of images of height 32, whose map has 8 rows and a quarter of the width: from the frames that the small model knows, or the table."""
    if "vision.attention.w0.weight" in state:
        return state["vision.attention.w0.weight"].shape[0] // 8 * 4
    table = state.get("vision.backbone.pos_encoder.pe")
    return 128 if table is None else table.shape[0] // 8 * 4


ABINET = Layout(
    source="ABINet, SemiMTR and the parseq hub's ABINet", matches=_matches, describe=_describe, prefixes=_prefixes,
    # The positions' tables follow from the sizes.
    ignored=("vision.backbone.pos_encoder.", "vision.attention.pos_encoder.", "language.token_encoder.", "language.pos_encoder."))
