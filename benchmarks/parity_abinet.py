"""How far our ABINet is from the reference implementation, on recorded inputs and weights.

Whatever a record of `abinet*_formula.pt` holds is compared: sizes come from its config and its tensors' shapes, the rule for words without
an end symbol from the lengths that it recorded. The recorded input is what the first convolution saw, so it is not normalised again.
"""

import re
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.charset import Charset
from models.decoders.decoded import Decoded
from models.families.abinet import abinet
from models.published.abinet import ABINET
from models.recognizer import Recognizer
from parity import Difference

_LOGITS, _LOSSES = 1e-4, 1e-4  # absolute; losses are relative
_GRADIENTS = 1e-3  # relative
_BRANCHES = {"align": "fusion", "lang": "language"}  # a record's names, ours


def _full_length_without_end(recorded: dict) -> bool:
    """Whether, where vision found no end symbol, the recorded length is all steps; the first authors' is 2."""
    logits, lengths = recorded["output"].get("vision_logits"), recorded["output"].get("vision_lengths")
    if logits is None or lengths is None:
        return False
    return bool(((logits.argmax(2) != 0).all(1) & (lengths == logits.shape[1])).any())


def rebuild(recorded: dict, formula: ModuleType) -> Recognizer:
    """The recognizer that a record describes, with its weights, read through the published layout. ValueError if it does not fit."""
    config, images = recorded["config"], recorded["input"]
    state = {name: formula.formula_param(name, shape) for name, shape in recorded["param_shapes"].items()} | recorded["buffers"]
    described = ABINET.describe(state, Charset(config["charset"]) if "charset" in config else None)
    sizes = {"max_length": "max_length", "iterations": "iter_size", "vision_layers": "vision_layers", "language_layers": "lang_layers"}
    overrides = described.overrides | {ours: config[theirs] for ours, theirs in sizes.items() if theirs in config}
    overrides |= {"channels": images.shape[1], "height": images.shape[2], "width": images.shape[3], "normalisation": "half",
                  "no_null_length": "full" if _full_length_without_end(recorded) else "original"}
    recognizer = abinet(described.charset, **overrides)
    classes = recognizer.decoder.tokens.classes
    if config.get("num_classes", classes) != classes:
        raise ValueError(f"expected {config['num_classes']} classes, as the config says, found {classes} in the tensors: mend the record")
    recognizer.load_state_dict(ABINET.load(recognizer, state))
    return recognizer


def _named(recognizer: Recognizer, decoded: Decoded) -> dict[str, Tensor]:
    """What a forward pass gave, under the names of a record."""
    lengths = recognizer.decoder.lengths
    found = {"vision_logits": decoded.branches["vision"], "vision_lengths": lengths(decoded.branches["vision"]),
             "align_logits": decoded.logits, "align_lengths": lengths(decoded.logits)}
    for theirs, ours in _BRANCHES.items():
        found[theirs] = decoded.branches[ours]  # all iterations
        found |= {f"{theirs}_logits_it{iteration}": logits for iteration, logits in enumerate(decoded.branches[ours])}
    found["lang_logits"] = decoded.branches["language"][-1]
    return found


def _outputs(recognizer: Recognizer, recorded: dict) -> dict[str, Tensor]:
    """Every quantity that a record may hold, in eval mode."""
    images, decoder = recorded["input"], recognizer.decoder
    features = recognizer.encoder.resnet(recognizer.encoder.normalisation(images))  # (n, width, rows, columns)
    memory = recognizer.encode(images)
    decoded = decoder(memory)
    targets = decoder.encode(recorded["labels"])
    losses = decoder.losses(decoded, targets)
    ids = targets[:, 1:].where(targets[:, 1:] < decoder.tokens.classes, decoder.tokens.end)  # the hub's padding is not a class
    lengths = torch.tensor([len(label) + 1 for label in recorded["labels"]])
    slices = features.shape[1] // 16
    return _named(recognizer, decoded) | {
        "vision_attn": decoded.attention.unflatten(2, features.shape[2:]),
        "lm_logits_from_onehot": decoder.language(F.one_hot(ids, decoder.tokens.classes).float(), lengths)[1],
        "resnet_feature_slice": features[:, ::slices],
        "backbone_feature_slice": memory.transpose(1, 2).unflatten(2, features.shape[2:])[:, ::slices],
        "loss_vision": losses["vision"], "loss_language": losses["language"], "loss_alignment": losses["fusion"]}


def _changed_outputs(recognizer: Recognizer, recorded: dict) -> dict[str, Tensor]:
    """The outputs of the second case, which adds a value to some elements of some biases; the biases are put back."""
    case = recorded["case2"]
    parameters = {ABINET.published_name(recognizer, name): parameter for name, parameter in recognizer.named_parameters()}
    places = [(parameters[name], int(place)) for name, place in re.findall(r"([\w.]+)\[(\d+)\]", case["bias_added_to"])]
    kept = [bias[place].clone() for bias, place in places]
    for bias, place in places:
        bias[place] += case["value"]
    decoded = recognizer(recorded["input"])
    for (bias, place), value in zip(places, kept, strict=True):
        bias[place] = value
    lengths = torch.stack([recognizer.decoder.lengths(logits) for logits in decoded.branches["fusion"]])
    return _named(recognizer, decoded) | {"align_lengths": lengths}


def _difference(model: str, quantity: str, ours: Tensor, theirs: Tensor, steps: int) -> Difference:
    if "lengths" in quantity:  # some are recorded before they are clamped
        theirs = theirs.clamp(2, steps)
    found = (ours.float() - theirs.float()).abs().max().item() if ours.shape == theirs.shape else float("inf")
    if "loss" in quantity:
        return Difference(model, f"{quantity}, relative", found / theirs.item(), _LOSSES)
    return Difference(model, quantity, found, _LOGITS)


def _differences(model: str, prefix: str, ours: dict[str, Tensor], theirs: dict, steps: int) -> list[Difference]:
    """Of everything that was recorded. ValueError for a quantity that is not known here."""
    if unknown := theirs.keys() - ours.keys():
        raise ValueError(f"expected quantities of ABINet in {model}, found {', '.join(sorted(unknown))}: compare them in parity_abinet.py")
    return [_difference(model, prefix + quantity, ours[quantity], torch.stack(value) if isinstance(value, list) else value, steps)
            for quantity, value in theirs.items()]


def _gradients(model: str, recognizer: Recognizer, recorded: dict) -> list[Difference]:
    """The training loss and its gradients' norms, without dropout."""
    recognizer.train()
    for module in recognizer.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    decoder, expected = recognizer.decoder, recorded["output"]
    loss = decoder.loss(recognizer(recorded["input"]), decoder.encode(recorded["labels"]))
    loss.backward()
    norms = {name: float(norm) for name, norm in expected["train_grad_norm"].items()}
    floor = 1e-4 * max(norms.values())  # a bias under a BatchNorm has no gradient but noise
    found = {ABINET.published_name(recognizer, name): parameter.grad.norm().item() for name, parameter in recognizer.named_parameters()}
    worst = max(abs(found[name] - norms[name]) / max(norms[name], floor) for name in found)
    return [Difference(model, "training loss, relative", abs(loss.item() / float(expected["train_loss"]) - 1), _LOSSES),
            Difference(model, f"gradient norms, relative, worst of {len(norms)}", worst, _GRADIENTS)]


def compare(file: Path, formula: ModuleType) -> list[Difference]:
    """Every quantity that one record holds: largest absolute differences; relative for losses and gradient norms."""
    recorded = torch.load(file, map_location="cpu", weights_only=True)
    model = file.name.removesuffix("_formula.pt")
    recognizer = rebuild(recorded, formula).eval()
    steps = recognizer.max_length + 1
    plain = {quantity: value for quantity, value in recorded["output"].items() if not quantity.startswith("train_")}
    with torch.no_grad():
        rows = _differences(model, "", _outputs(recognizer, recorded), plain, steps)
        if "case2" in recorded:
            second = {quantity: value for quantity, value in recorded["case2"].items() if quantity not in ("bias_added_to", "value")}
            rows += _differences(model, "case 2: ", _changed_outputs(recognizer, recorded), second, steps)
    return rows + (_gradients(model, recognizer, recorded) if "train_grad_norm" in recorded["output"] else [])
