"""How far our ABINet is from the reference implementation, on recorded inputs and weights.

Whatever a record of `abinet*_formula.pt` holds is compared: sizes come from its config and its tensors' shapes, the rule for words without
an end symbol from the lengths that it recorded. The recorded input is what the first convolution saw, so it is not normalised again.
"""

import re
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.parity.training import training_pairs
from models.charset import Charset
from models.decoders.decoded import Decoded
from models.families.abinet import abinet
from models.published.abinet import ABINET
from models.recognizer import Recognizer

_BRANCHES = {"align": "fusion", "lang": "language"}  # a record's names, ours


def _full_length_without_end(recorded: dict) -> bool:
    """Whether, where vision found no end symbol, the recorded length is all steps; the first authors' is 2."""
    logits, lengths = recorded["output"].get("vision_logits"), recorded["output"].get("vision_lengths")
    if logits is None or lengths is None:
        return False
    return bool(((logits.argmax(2) != 0).all(1) & (lengths == logits.shape[1])).any())


def rebuild(recorded: dict, formula: ModuleType) -> Recognizer:
    """The recognizer that a record describes, with its weights, read through the published layout, in float64 and eval mode. ValueError if it does not fit."""
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
    recognizer.double().load_state_dict(ABINET.load(recognizer, state))
    return recognizer.eval()


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
        "lm_logits_from_onehot": decoder.language(F.one_hot(ids, decoder.tokens.classes).to(images.dtype), lengths)[1],
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


def _pairs(prefix: str, ours: dict[str, Tensor], theirs: dict, steps: int) -> dict[str, tuple[Tensor, Tensor] | None]:
    """Everything that was recorded, ours and theirs; None for a quantity that is not known here."""
    found = {}
    for quantity, value in theirs.items():
        value = torch.stack(value) if isinstance(value, list) else value
        if "lengths" in quantity:  # some are recorded before they are clamped
            value = value.clamp(2, steps)
        found[prefix + quantity] = (ours[quantity], value) if quantity in ours else None
    return found


def _training(recognizer: Recognizer, recorded: dict) -> dict[str, tuple[Tensor, Tensor]]:
    """The training loss and its gradients' norms, without dropout."""
    recognizer.train()
    for module in recognizer.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    decoder = recognizer.decoder
    loss = decoder.loss(recognizer(recorded["input"]), decoder.encode(recorded["labels"]))
    return training_pairs(recognizer, ABINET.published_name, loss, recorded)


def pairs(recognizer: Recognizer, recorded: dict) -> dict[str, tuple[Tensor, Tensor] | None]:
    """Every quantity that the record holds, ours and recorded."""
    steps = recognizer.max_length + 1
    plain = {quantity: value for quantity, value in recorded["output"].items() if not quantity.startswith("train_")}
    with torch.no_grad():
        found = _pairs("", _outputs(recognizer, recorded), plain, steps)
        if "case2" in recorded:
            second = {quantity: value for quantity, value in recorded["case2"].items() if quantity not in ("bias_added_to", "value")}
            found |= _pairs("case 2: ", _changed_outputs(recognizer, recorded), second, steps)
    return found | (_training(recognizer, recorded) if "train_grad_norm" in recorded["output"] else {})
