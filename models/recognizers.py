"""Named recognizers, and how to build one."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Literal, get_args, get_origin

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.charset import Charset
from models.costs import without_weights
from models.families.abinet import abinet, abinet_small
from models.families.four_stage import crnn_small, crnn_tiny, four_stage, named, trba_small, trba_tiny
from models.families.hga import hga
from models.families.hub_crnn import hub_crnn
from models.families.moran import moran
from models.families.svtr import svtr
from models.families.vit import parseq, vit_tiny, vitstr
from models.own import names_of, own
from models.recognizer import ASPECTS, Recognizer

LARGEST = 100_000  # of a size or a count: what is larger is a slip, and would end in a process without memory
RECOGNIZERS: dict[str, Callable[..., Recognizer]] = {
    "crnn": named("none", "vgg", "bilstm", "ctc"),
    "grcnn": named("none", "rcnn", "bilstm", "ctc"),
    "rosetta": named("none", "resnet", "none", "ctc"),
    "rare": named("tps", "vgg", "bilstm", "attention"),
    "star_net": named("tps", "resnet", "bilstm", "ctc"),
    "trba": named("tps", "resnet", "bilstm", "attention"),
    "four_stage": four_stage,
    "moran": moran,
    "hga": hga,
    "abinet": abinet,
    "vitstr": vitstr,
    "parseq": parseq,
    "svtr": svtr,
    "hub_crnn": hub_crnn,
    "crnn_tiny": crnn_tiny,
    "trba_tiny": trba_tiny,
    "vit_tiny": vit_tiny,
    "crnn_small": crnn_small,
    "trba_small": trba_small,
    "abinet_small": abinet_small,
}
SOURCES = {
    "crnn": "Shi et al., TPAMI 2017, as in Baek et al., ICCV 2019",
    "grcnn": "Wang and Hu, NeurIPS 2017, as in Baek et al., ICCV 2019",
    "rosetta": "Borisyuk et al., KDD 2018, as in Baek et al., ICCV 2019",
    "rare": "Shi et al., CVPR 2016, as in Baek et al., ICCV 2019",
    "star_net": "Liu et al., BMVC 2016, as in Baek et al., ICCV 2019",
    "trba": "Baek et al., ICCV 2019",
    "four_stage": "any of the 24 combinations of Baek et al., ICCV 2019",
    "moran": "Luo et al., Pattern Recognition 2019 (v2)",
    "hga": "Yang et al., 2020, holistic representation guided attention",
    "abinet": "Fang et al., CVPR 2021",
    "vitstr": "Atienza, ICDAR 2021",
    "parseq": "Bautista and Atienza, ECCV 2022",
    "svtr": "Du et al., IJCAI 2022",
    "hub_crnn": "Shi et al., TPAMI 2017, as in the parseq hub",
    "crnn_tiny": "for laptops and tests",
    "trba_tiny": "for laptops and tests",
    "vit_tiny": "for laptops and tests",
    "crnn_small": "for experiments on a few cores",
    "trba_small": "for experiments on a few cores",
    "abinet_small": "for experiments on a few cores",
}


def build(name: str, charset: Charset, **overrides: object) -> Recognizer:
    """A freshly initialised recognizer. `overrides` are keyword arguments of its entry in RECOGNIZERS, and `aspect`.

    ValueError for an unknown name or override; the message names the nearest.
    """
    try:
        builder = builder_named(name)
    except ValueError as problem:
        raise ValueError(f"expected a recognizer, found {name!r}: {problem}") from None
    check_options(name, overrides)
    recognizer = builder(charset, **{field: value for field, value in overrides.items() if field != "aspect"})
    recognizer.aspect = overrides.get("aspect", "stretch")
    if recognizer.aspect == "keep":
        _check_narrow_images(recognizer, name)
    recognizer.name, recognizer.overrides = name, dict(overrides)
    return recognizer


def builder_named(name: str) -> Callable[..., Recognizer]:
    """The function that builds a recognizer: one of RECOGNIZERS, `FILE.py:FUNCTION`, or an installed package's.

    ValueError for another name, with the nearest.
    """
    if name in RECOGNIZERS:
        return RECOGNIZERS[name]
    found = own("recognizers", name)
    if found is None:
        raise ValueError(_nearest(name, [*RECOGNIZERS, *names_of("recognizers")]))
    if not callable(found):
        raise ValueError(f"{name}: expected a function from a charset to a recognizer, found {found!r}; see docs/own.md")
    return found


def check_options(name: str, options: Mapping[str, object]) -> None:
    """ValueError for an option that the recognizer `name` does not have, or of another type or range than its builder's annotation says.

    Whole numbers are sizes and counts, 1 or more (0 refinements or iterations are none); other numbers are finite and not negative.
    """
    known = {field: parameter.annotation for field, parameter in inspect.signature(builder_named(name), eval_str=True).parameters.items() if field != "charset"}
    known["aspect"] = Literal[ASPECTS]
    for field, value in options.items():
        if field not in known:
            raise ValueError(f"expected a setting of the recognizer {name}, found {field!r}: {_nearest(field, known)}")
        if known[field] is inspect.Parameter.empty:
            continue  # of the user's own, without an annotation
        kinds = get_args(known[field]) if isinstance(known[field], UnionType) else (known[field],)
        if not any(_fits(value, kind, 0 if field in ("refinements", "iterations") else 1) for kind in kinds):
            raise ValueError(f"{field}: expected {' or '.join(map(_wanted, kinds))}, found {value!r}")


def _fits(value: object, kind: object, least: int) -> bool:
    if get_origin(kind) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if get_origin(kind) is Sequence:
        return isinstance(value, list | tuple) and len(value) > 0 and all(_fits(each, get_args(kind)[0], least) for each in value)
    if kind is int:
        return type(value) is int and least <= value <= LARGEST
    if kind is float:
        return type(value) in (int, float) and 0 <= value < math.inf
    return isinstance(value, type(None) if kind is None else kind)


def _wanted(kind: object) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is Sequence:
        return f"a list of which each is {_wanted(get_args(kind)[0])}"
    if kind not in (int, float, bool, NoneType):
        return getattr(kind, "__name__", str(kind))
    return {int: f"a whole number from 1 to {LARGEST:,}", float: "a finite number, 0 or more", bool: "true or false", NoneType: "null"}[kind]


def _check_narrow_images(recognizer: Recognizer, name: str) -> None:
    """With aspect=keep batches have the widths of their buckets, the narrowest twice the height."""
    if recognizer.rectifier is not None:
        raise ValueError(f"aspect: expected stretch or pad, found keep: the rectifier of {name} takes images of one width")
    try:
        with FakeTensorMode():
            shapes = without_weights(recognizer).eval()
            shapes.decoder.stops_early = False
            shapes(torch.empty(1, 3, recognizer.height, 2 * recognizer.height))
    except ValueError as refusal:
        raise ValueError(f"aspect: expected stretch or pad, found keep: {name} takes images of one width ({refusal})") from None


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"
