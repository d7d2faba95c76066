"""How far our ViTSTR and PARSeq are from their reference implementations, on recorded inputs and weights: see parity.py.

A record's outputs are told by the words of their names, nested ones joined with "_": memory; tokens; ar or nar with the number of
refinements (logits_ar_refine1); of the permutations, with or without a number, what it is (perms, perms_0_query_mask, perms_0_logits,
perms_0_ce). What cannot be told so is a row that fails.
"""

import re
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor, nn

from benchmarks.parity.training import training_pairs
from models.charset import Charset
from models.decoders.decoded import Decoded
from models.decoders.parseq import PARSeqDecoder, left_to_right, permutation_masks
from models.decoders.vitstr import ViTSTRDecoder
from models.encoders.vit import ViT
from models.published.layout import State, unwrapped
from models.published.parseq_hub import PARSEQ, VITSTR
from models.recognizer import Recognizer


def _build(recorded: dict, state: State) -> Recognizer:
    """By the record's shapes and config; a head is 64 wide in the encoder and 32 in the decoder unless the config says otherwise."""
    config, images = recorded["config"] or {}, recorded["input"]
    parseq = "pos_queries" in state
    classes, width = state["head.weight"].shape
    kernel = state["encoder.patch_embed.proj.weight" if parseq else "patch_embed.proj.weight"]
    own = 1 if parseq or str(classes - 1) in ("36", "62", "94") else 2
    charset = Charset.named(config.get("charset_train") or config.get("charset") or str(classes - own))
    length = state["pos_queries"].shape[1] - 1 if parseq else config.get("max_label_length", config.get("max_length", 25))
    encoder = ViT(kernel.shape[1], image=images.shape[2:], patch=kernel.shape[2:], width=width, class_token=not parseq,
                  heads=config.get("enc_num_heads", config.get("num_heads", width // 64)),
                  depth=sum(name.endswith("attn.qkv.weight") for name in state))
    decoder = (PARSeqDecoder(charset, width, heads=config.get("dec_num_heads", width // 32), max_length=length) if parseq
               else ViTSTRDecoder(charset, width, max_length=length, table="parseq" if own == 1 else "benchmark"))
    return Recognizer(charset, None, encoder, nn.Identity(), decoder, channels=kernel.shape[1], height=images.shape[2],
                      width=images.shape[3], max_length=length)


def rebuild(recorded: dict, formula: ModuleType) -> Recognizer:
    """The recognizer that a record describes, with the recorded weights, read through the published layout, in float64 and eval mode."""
    state = unwrapped({name: formula.formula_param(name, shape) for name, shape in recorded["param_shapes"].items()})
    recognizer = _build(recorded, state)
    layout = PARSEQ if "pos_queries" in state else VITSTR
    recognizer.double().load_state_dict(layout.load(recognizer, state))  # neither has buffers
    return recognizer.eval()


def _flat(name: str, value: object) -> Iterator[tuple[str, Tensor]]:
    """The tensors and numbers of nested dictionaries and lists, with their joined names; a list of whole numbers is one tensor."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(f"{name}_{key}", part)
    elif isinstance(value, (list, tuple)) and not all(isinstance(part, int) for part in value):
        for number, part in enumerate(value):
            yield from _flat(f"{name}_{number}", part)
    elif isinstance(value, (Tensor, int, float, list, tuple)):
        yield name, torch.as_tensor(value)


def _like(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both cut to the steps that both have; a recorded slice of features is every k-th of ours, along each axis."""
    for axis, size in enumerate(theirs.shape):
        if axis == theirs.ndim - 1 and ours.shape[axis] % size == 0:
            ours = ours[..., ::ours.shape[axis] // size]
        common = min(ours.shape[axis], size)
        ours, theirs = ours.narrow(axis, 0, common), theirs.narrow(axis, 0, common)
    return ours, theirs


def _visible(mask: Tensor) -> Tensor:
    """A recorded mask, which marks what may not be seen with True or with -inf, as ours: 1 for what may."""
    return (~mask).float() if mask.dtype == torch.bool else (mask == 0).float()


class _PARSeq:
    """What our PARSeq gives for a record, by the words of a quantity's name."""

    def __init__(self, recognizer: Recognizer, recorded: dict, quantities: dict[str, Tensor]) -> None:
        self.decoder, self.memory = recognizer.decoder, recognizer.encode(recorded["input"])
        self.decoder.stops_early = False
        self.targets = self.decoder.encode(recorded["labels"])
        steps = self.targets.shape[1]
        orders = [values for name, values in quantities.items() if not values.is_floating_point() and re.search("perm|order", name)
                  and values.dtype != torch.bool and values.shape[-1:] == (steps,)]
        self.orders = torch.cat([order.reshape(-1, steps) for order in orders]) if orders else left_to_right(steps - 2)

    def read(self, decode: str, refinements: int) -> Tensor:
        """Logits (n, max_length + 1, classes)."""
        self.decoder.decode, self.decoder.refinements = decode, refinements
        return self.decoder(self.memory).logits

    def quantity(self, name: str, theirs: Tensor) -> tuple[Tensor, Tensor] | None:
        """(ours, recorded) of one quantity, or None if its name tells nothing."""
        words = re.findall("[a-z]+|[0-9]+", name.lower())
        number = next((int(word) for word in reversed(words) if word.isdigit()), None)
        if {"memory", "feature"} & set(words):
            return _like(self.memory, theirs)
        if {"ar", "nar"} & set(words):
            logits = self.read("autoregressive" if "ar" in words else "one_shot", number or 0)
            return _like(logits.argmax(2).float() if "ids" in words else logits, theirs.float())
        return self._permutation(words, slice(None) if number is None else number, theirs)

    def _permutation(self, words: list[str], chosen: int | slice, theirs: Tensor) -> tuple[Tensor, Tensor] | None:
        if {"mask", "masks"} & set(words):
            content, query = permutation_masks(self.orders)
            return (query if "query" in words else content)[chosen].float(), _visible(theirs)
        if {"tokens", "targets", "tgt"} & set(words):
            return self.targets.float(), theirs.float()
        decoded = self.decoder.in_orders(self.memory, self.decoder.inputs(self.targets), self.orders)
        logits = decoded.branches["permutations"]  # (K, n, steps, classes)
        if "logits" in words:
            return logits[chosen], theirs
        if {"ce", "loss"} & set(words):  # of one order with its end symbols, of all as in training
            one = Decoded(logits[chosen], decoded.glimpses) if isinstance(chosen, int) else decoded
            return self.decoder.loss(one, self.targets), theirs
        return (self.orders[chosen].float(), theirs.float()) if {"perm", "perms", "order", "orders"} & set(words) else None


def _vitstr(recognizer: Recognizer, recorded: dict, name: str, theirs: Tensor) -> tuple[Tensor, Tensor] | None:
    decoder, words = recognizer.decoder, re.findall("[a-z]+", name.lower())
    decoded, targets = recognizer(recorded["input"]), decoder.encode(recorded["labels"])
    if {"memory", "feature"} & set(words):
        return _like(recognizer.encode(recorded["input"]), theirs)
    if {"tokens", "targets", "tgt"} & set(words):
        return targets[:, :theirs.shape[1]].float(), theirs.float()
    if "logits" in words:
        return _like(decoded.logits, theirs)
    return (decoder.loss(decoded, targets), theirs) if {"ce", "loss"} & set(words) else None


def _training(recognizer: Recognizer, recorded: dict) -> dict[str, tuple[Tensor, Tensor]]:
    """The loss and every gradient's norm, for ViTSTR, whose loss draws nothing."""
    targets = recognizer.decoder.encode(recorded["labels"])
    return training_pairs(recognizer, VITSTR.published_name, recognizer.decoder.loss(recognizer(recorded["input"]), targets), recorded)


def pairs(recognizer: Recognizer, recorded: dict) -> dict[str, tuple[Tensor, Tensor] | None]:
    """Every quantity that the record holds, ours and recorded; None for one whose name tells nothing."""
    described = {"kind", "model", "config", "n_params", "param_shapes", "buffers", "labels", "input", "output"}
    held = {name: value for name, value in recorded.items() if name not in described} | recorded["output"]
    norms = held.pop("train_grad_norm", None)
    quantities = {name.removeprefix("_"): value for name, value in _flat("", held)}
    parameters = torch.tensor(sum(parameter.numel() for parameter in recognizer.parameters()))
    found = {"parameters": (parameters, torch.tensor(recorded.get("n_params", parameters.item())))}
    parseq = None
    with torch.no_grad():
        if isinstance(recognizer.decoder, PARSeqDecoder):
            parseq = _PARSeq(recognizer, recorded, quantities)
        for name, theirs in quantities.items():
            pair = parseq.quantity(name, theirs) if parseq is not None else _vitstr(recognizer, recorded, name, theirs)
            found[name] = pair if pair is not None and pair[0].shape == pair[1].shape else None
    if norms is not None:
        found |= _training(recognizer, recorded) if parseq is None else {"gradient norms": None}
    return found
