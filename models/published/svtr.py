"""SVTR as MMOCR 1.x publishes it: `preprocessor.stn_…`, `encoder.blocks1.0.mixer.qkv…`, `decoder.decoder…`.

Two things are in another order there. Images come as BGR, so the first kernels, which see them, are turned round. Classes are the
characters, then the blank (its padding symbol), then, in the released files, one that stands for all characters outside the charset: here
that is U+FFFD, the replacement character, as the last of the charset.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.charset import Charset
from models.encoders.svtr import PATCH, SVTR
from models.families.svtr import READ, SIZES
from models.published.layout import Description, Layout, State, charset_for
from models.recognizer import Recognizer

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_BLOCK = (("norm1.", "mixing_norm."), ("mixer.qkv.", "mixing.qkv."), ("mixer.proj.", "mixing.out."),
          ("norm2.", "perceptron_norm."), ("mlp.fc1.", "perceptron.0."), ("mlp.fc2.", "perceptron.2."))
_BLOCKS = [(stage, block) for stage in range(3) for block in range(max(max(size.depths) for size in SIZES.values()))]
_PREFIXES = (
    *((f"preprocessor.stn_convnet.{2 * number}.{part}.", f"rectifier.localization.{4 * number + index}.")
      for number in range(6) for index, part in enumerate(("conv", "bn"))),
    ("preprocessor.stn_fc1.0.", "rectifier.localization_hidden."),
    ("preprocessor.stn_fc1.1.", "rectifier.localization_norm."),
    ("preprocessor.stn_fc2.", "rectifier.localization_points."),
    *((f"encoder.patch_embed.net.ConvModule{number}.{part}.", f"encoder.patches.{3 * number + index}.")
      for number in range(2) for index, part in enumerate(("conv", "bn"))),
    ("encoder.absolute_pos_embed", "encoder.positions"),
    *((f"encoder.blocks{stage + 1}.{block}.{theirs}", f"encoder.stages.{stage}.blocks.{block}.{ours}")
      for stage, block in _BLOCKS for theirs, ours in _BLOCK),
    *((f"encoder.downsample{number + 1}.{theirs}.", f"encoder.mergings.{number}.{ours}.")
      for number in range(2) for theirs, ours in (("conv", "convolution"), ("norm", "norm"))),
    ("encoder.layer_norm.", "encoder.norm."),
    ("encoder.last_conv.", "encoder.combine."),
    ("decoder.decoder.", "decoder.classifier."),
)
_SEE_THE_IMAGE = ("rectifier.localization.0.weight", "encoder.patches.0.weight")


def _prefixes(recognizer: Recognizer) -> Sequence[tuple[str, str]]:
    if not isinstance(recognizer.encoder, SVTR):
        raise ValueError(f"expected an SVTR, found {recognizer.name}: only SVTR has published names here")
    return _PREFIXES


def _matches(state: State) -> bool:
    return {"encoder.patch_embed.net.ConvModule0.conv.weight", "encoder.absolute_pos_embed", "decoder.decoder.weight"} <= state.keys()


def _describe(state: State, charset: Charset | None) -> Description:
    first_width = state["encoder.absolute_pos_embed"].shape[2]
    size = next((name for name, size in SIZES.items() if size.widths[0] == first_width), None)
    if size is None:
        raise ValueError(f"expected an SVTR whose first width is {', '.join(str(size.widths[0]) for size in SIZES.values())}, "
                         f"found {first_width}: only the paper's four sizes can be built")
    rectifier = any(name.startswith("preprocessor.") for name in state)
    rows = READ[size][0] // PATCH
    width = state["encoder.absolute_pos_embed"].shape[1] // rows * PATCH  # the height is not in the file: the paper's
    overrides = {name: value for name, value, usual in (
        ("size", size, "tiny"), ("channels", state["encoder.patch_embed.net.ConvModule0.conv.weight"].shape[1], 3),
        ("rectifier", rectifier, True), ("width", width, width if rectifier else READ[size][1])) if value != usual}
    return Description("svtr", _charset(state["decoder.decoder.weight"].shape[0], charset), overrides)


def _charset(classes: int, given: Charset | None) -> Charset:
    """The charset of so many classes, of which one is the blank and the last may be that of unknown characters."""
    with_unknown = str(classes - 1) not in ("36", "62", "94") if given is None else len(given) == classes - 2
    if with_unknown:
        return Charset(charset_for(classes - 2, given).characters + UNKNOWN)
    return charset_for(classes - 1, given)


def _order(recognizer: Recognizer) -> Tensor:
    """Our class of each published one: the characters, the blank, the class of unknown characters if there is one."""
    tokens = recognizer.decoder.tokens
    ours = list(range(tokens.first_character, tokens.classes))
    ours.insert(len(ours) - recognizer.charset.characters.endswith(UNKNOWN), tokens.blank)
    return torch.tensor(ours)


def _to_ours(recognizer: Recognizer, name: str, tensor: Tensor) -> Tensor:
    if name.startswith("decoder.classifier."):
        return tensor[_order(recognizer).argsort()]
    return tensor.flip(1) if name in _SEE_THE_IMAGE else tensor


def _to_published(recognizer: Recognizer, name: str, tensor: Tensor) -> Tensor:
    if name.startswith("decoder.classifier."):
        return tensor[_order(recognizer)]
    return tensor.flip(1) if name in _SEE_THE_IMAGE else tensor


PUBLISHED_SVTR = Layout(
    source="MMOCR's SVTR", matches=_matches, describe=_describe, prefixes=_prefixes, to_ours=_to_ours, to_published=_to_published,
    # Tables that follow from sizes: the spline's, and which tokens lie in a window.
    ignored=("preprocessor.tps.", *(f"encoder.blocks{stage + 1}.{block}.mixer.mask" for stage, block in _BLOCKS)))
