"""HGA as its authors published it (Yang et al., Neurocomputing 2020; luyang-NWPU/HGA-STR): `encoder.…`, `extract_g.…`, `decoder1.…`."""

from collections.abc import Sequence

from torch import Tensor

from models.charset import Charset
from models.decoders.parallel import HolisticDecoder
from models.families.hga import HGA_CHARSET
from models.published.layout import Description, Layout, State, charset_for
from models.recognizer import Recognizer

_OWN_IDS = 4  # start, end, padding, unknown
_TOP = (
    ("encoder.", "encoder."),
    ("extract_g.layer.", "decoder.holistic.blocks."),
    ("extract_g.fc.", "decoder.holistic.linear."),
    ("conv1x1.", "decoder.memory_projection."),
    ("tgt_word_prj.", "decoder.classifier."),
)
_ATTENTION = (("w_qs", "query"), ("w_ks", "key"), ("w_vs", "value"), ("fc", "output"), ("layer_norm", "norm"))
_LAYER = (
    *((f"slf_attn.{theirs}.", f"symbol_attention.{ours}.") for theirs, ours in _ATTENTION),
    *((f"enc_attn.{theirs}.", f"memory_attention.{ours}.") for theirs, ours in _ATTENTION),
    ("pos_ffn.w_1.", "expand."),
    ("pos_ffn.w_2.", "contract."),
    ("pos_ffn.layer_norm.", "norm."),
)


def _prefixes(recognizer: Recognizer) -> Sequence[tuple[str, str]]:
    if not isinstance(recognizer.decoder, HolisticDecoder):
        raise ValueError(f"expected HGA, found {recognizer.name}: only HGA has these published names")
    found = list(_TOP)
    for number, direction in enumerate(recognizer.decoder.directions):
        theirs, ours = f"decoder{number + 1}.", f"decoder.directions.{number}."
        found.append((f"{theirs}tgt_word_emb.", f"{ours}embedding."))
        found += [(f"{theirs}layer_stack.{layer}.{their_part}", f"{ours}layers.{layer}.{our_part}")
                  for layer in range(len(direction.layers)) for their_part, our_part in _LAYER]
    return found


def _matches(state: State) -> bool:
    return "extract_g.fc.weight" in state and "decoder1.tgt_word_emb.weight" in state


def _describe(state: State, charset: Charset | None) -> Description:
    count = state["tgt_word_prj.weight"].shape[0] - _OWN_IDS
    table = state.get("decoder1.position_enc.weight")  # a row for every step that can be fed, and 2 more
    found = {
        "channels": (state["encoder.conv1.weight"].shape[1], 3),
        "max_length": (34 if table is None else table.shape[0] - 3, 34),
        "directions": (2 if "decoder2.tgt_word_emb.weight" in state else 1, 2),
        "decoder_layers": (sum(name.startswith("decoder1.layer_stack.") and name.endswith(".slf_attn.fc.weight") for name in state), 1),
    }
    usual = HGA_CHARSET if charset is None and count == len(HGA_CHARSET) else charset
    return Description("hga", charset_for(count, usual), {name: value for name, (value, default) in found.items() if value != default})


def _kernel(name: str) -> tuple[int, ...]:
    """The axes of 1 by which the published weight of a linear layer is a convolution's."""
    if name == "decoder.memory_projection.weight":
        return 1, 1
    return (1,) if name.endswith((".expand.weight", ".contract.weight")) else ()


def _to_ours(recognizer: Recognizer, name: str, tensor: Tensor) -> Tensor:
    return tensor.flatten(1) if _kernel(name) else tensor


def _to_published(recognizer: Recognizer, name: str, tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape + _kernel(name))


HGA = Layout(
    source="HGA", matches=_matches, describe=_describe, prefixes=_prefixes, to_ours=_to_ours, to_published=_to_published,
    ignored=("decoder1.position_enc.", "decoder2.position_enc."))  # sinusoids, which follow from max_length
