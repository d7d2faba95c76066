"""CRNN, ViTSTR and PARSeq as the parseq hub (Bautista and Atienza, ECCV 2022) published them; its TRBA and TRBC are in four_stage.py.

All but PARSeq's file hold the hub's training system, whose wrapper `model.` is taken off elsewhere. The number of heads is in no file: the
width stands for it, as in the hub's sizes.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.charset import Charset
from models.decoders.parseq import PARSeqDecoder
from models.decoders.vitstr import ViTSTRDecoder
from models.encoders.vgg_hub import HubVGG
from models.families.vit import PARSEQ_SIZES, VITSTR_SIZES
from models.published.layout import Description, Layout, State, charset_for
from models.recognizer import Recognizer

_CRNN = (
    ("cnn.", "encoder."),
    ("rnn.1.linear.", "decoder.classifier."),
    ("rnn.", "sequence."),
)
_VITSTR = (
    ("head.", "decoder.classifier."),
    ("", "encoder."),
)
_PARSEQ = (
    ("encoder.", "encoder."),
    ("text_embed.embedding.", "decoder.embedding."),
    ("pos_queries", "decoder.pos_queries"),
    ("decoder.layers.0.", "decoder.layer."),
    ("decoder.norm.", "decoder.norm."),
    ("head.", "decoder.classifier."),
)
_USUAL = {"channels": 3, "height": 32, "width": 128, "patch": (4, 8), "max_length": 25, "tokens": "parseq"}


def _only_what_differs(size: str, usual_size: str, **found: object) -> dict[str, object]:
    """The overrides that the builder needs."""
    return ({} if size == usual_size else {"size": size}) | {name: value for name, value in found.items() if value != _USUAL[name]}


def _size(sizes: dict[str, tuple[int, int]], width: int) -> str:
    for size, (known, _) in sizes.items():
        if known == width:
            return size
    raise ValueError(f"expected a transformer of width {', '.join(str(known) for known, _ in sizes.values())}, found {width}: "
                     "only the hub's sizes can be told from a file")


def _image(kernel: Tensor, patches: int) -> dict[str, object]:
    """The patch and the image, which the hub makes square for patches of 16 x 16, and 32 high for all others."""
    channels, height, width = kernel.shape[1:]
    rows = round(patches**0.5) if height == width == 16 else max(32 // height, 1)
    return {"channels": channels, "patch": (height, width), "height": rows * height, "width": patches // rows * width}


def _describe_crnn(state: State, charset: Charset | None) -> Description:
    channels, classes = state["cnn.conv0.weight"].shape[1], len(state["rnn.1.linear.weight"])
    return Description("hub_crnn", charset_for(classes - 1, charset), {} if channels == 3 else {"channels": channels})


def _describe_vitstr(state: State, charset: Charset | None) -> Description:
    classes, width = state["head.weight"].shape
    known = (36, 62, 94) if charset is None else (len(charset),)
    tokens = "parseq" if classes - 1 in known else "benchmark"
    overrides = _only_what_differs(_size(VITSTR_SIZES, width), "small", tokens=tokens,
                                   **_image(state["patch_embed.proj.weight"], state["pos_embed"].shape[1] - 1))
    return Description("vitstr", charset_for(classes - (1 if tokens == "parseq" else 2), charset), overrides)


def _describe_parseq(state: State, charset: Charset | None) -> Description:
    classes, width = state["head.weight"].shape
    overrides = _only_what_differs(_size(PARSEQ_SIZES, width), "base", max_length=state["pos_queries"].shape[1] - 1,
                                   **_image(state["encoder.patch_embed.proj.weight"], state["encoder.pos_embed"].shape[1]))
    return Description("parseq", charset_for(classes - 1, charset), overrides)


def _crnn_prefixes(recognizer: Recognizer) -> Sequence[tuple[str, str]]:
    return _of_its_kind(recognizer, recognizer.encoder, HubVGG, _CRNN)


def _vitstr_prefixes(recognizer: Recognizer) -> Sequence[tuple[str, str]]:
    return _of_its_kind(recognizer, recognizer.decoder, ViTSTRDecoder, _VITSTR)


def _parseq_prefixes(recognizer: Recognizer) -> Sequence[tuple[str, str]]:
    return _of_its_kind(recognizer, recognizer.decoder, PARSeqDecoder, _PARSEQ)


def _of_its_kind(recognizer: Recognizer, part: nn.Module, kind: type, prefixes: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    if not isinstance(part, kind):
        raise ValueError(f"expected a recognizer of the parseq hub with a {kind.__name__}, found {recognizer.name or type(part).__name__}: "
                         "choose the layout of its own family")
    return prefixes


HUB_CRNN = Layout(
    source="the parseq hub (CRNN)", describe=_describe_crnn, prefixes=_crnn_prefixes,
    matches=lambda state: {"cnn.conv0.weight", "cnn.batchnorm2.weight", "rnn.1.linear.weight"} <= state.keys())
VITSTR = Layout(
    source="the parseq hub (ViTSTR)", describe=_describe_vitstr, prefixes=_vitstr_prefixes,
    matches=lambda state: {"cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "head.weight"} <= state.keys())
PARSEQ = Layout(
    source="the parseq hub (PARSeq)", describe=_describe_parseq, prefixes=_parseq_prefixes,
    matches=lambda state: {"pos_queries", "text_embed.embedding.weight", "encoder.pos_embed"} <= state.keys())
