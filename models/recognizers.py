"""Named recognizers, and how to build one."""

import difflib
import inspect
from collections.abc import Callable, Iterable

from models.charset import Charset
from models.families.four_stage import crnn_tiny, four_stage, named, trba_tiny
from models.recognizer import ASPECTS, Recognizer

RECOGNIZERS: dict[str, Callable[..., Recognizer]] = {
    "crnn": named("none", "vgg", "bilstm", "ctc"),  # Shi et al., TPAMI 2017; 8,451,621 parameters with 36 characters
    "grcnn": named("none", "rcnn", "bilstm", "ctc"),  # Wang and Hu, NeurIPS 2017; 4,761,765
    "rosetta": named("none", "resnet", "none", "ctc"),  # Borisyuk et al., KDD 2018; 44,282,885
    "rare": named("tps", "vgg", "bilstm", "attention"),  # Shi et al., CVPR 2016; 10,841,102
    "star_net": named("tps", "resnet", "bilstm", "ctc"),  # Liu et al., BMVC 2016; 48,858,093
    "trba": named("tps", "resnet", "bilstm", "attention"),  # Baek et al., ICCV 2019; 49,555,182
    "four_stage": four_stage,
    "crnn_tiny": crnn_tiny,
    "trba_tiny": trba_tiny,
}


def build(name: str, charset: Charset, **overrides: object) -> Recognizer:
    """A freshly initialised recognizer. `overrides` are keyword arguments of its entry in RECOGNIZERS, and `aspect`.

    ValueError for an unknown name or override; the message names the nearest.
    """
    if name not in RECOGNIZERS:
        raise ValueError(f"expected a recognizer, found {name!r}: {_nearest(name, RECOGNIZERS)}")
    builder = RECOGNIZERS[name]
    fields = [*(field for field in inspect.signature(builder).parameters if field != "charset"), "aspect"]
    for field in overrides:
        if field not in fields:
            raise ValueError(f"expected a setting of the recognizer {name}, found {field!r}: {_nearest(field, fields)}")
    recognizer = builder(charset, **{field: value for field, value in overrides.items() if field != "aspect"})
    recognizer.aspect = overrides.get("aspect", "stretch")
    if recognizer.aspect not in ASPECTS:
        raise ValueError(f"aspect: expected {', '.join(ASPECTS)}, found {recognizer.aspect!r}")
    if recognizer.aspect == "keep" and recognizer.rectifier is not None:
        raise ValueError(f"aspect: expected stretch or pad, found keep: the rectifier of {name} takes images of one width")
    recognizer.name, recognizer.overrides = name, dict(overrides)
    return recognizer


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"
