"""MORAN v2 against records of the authors' implementation: see `parity.py`, which prints the table."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from models.charset import Charset
from models.decoders.moran import exchange, exchanged
from models.decoders.symbols import reversed_rows
from models.families.moran import moran
from models.published.moran import MORAN
from models.recognizer import Recognizer
from parity import Difference

_LIMIT = 1e-4  # on images, features, logits and losses
_GRADIENT_LIMIT = 1e-3  # relative, on the norm of each parameter's gradient


def rebuild(recorded: dict, formula: ModuleType) -> Recognizer:
    """The recognizer that a record describes, with the recorded weights, read through the published layout, in eval mode.

    It never stops early: the records hold every step.
    """
    config, images = recorded["config"], recorded["input"]
    steps = next(tensor.shape[1] for name, tensor in recorded["output"].items() if name.startswith("greedy"))
    recognizer = moran(Charset(Charset.named("94").characters[: config["nclass"] - 1]), channels=config["nc"], hidden=config["nh"],
                       height=images.shape[2], width=images.shape[3], target_height=config["targetH"], target_width=config["targetW"],
                       bidirectional=config["BidirDecoder"], max_length=steps - 1)
    state = {name: formula.formula_param(name, shape) for name, shape in recorded["param_shapes"].items()}
    recognizer.load_state_dict(MORAN.load(recognizer, state | recorded["buffers"]))
    recognizer.decoder.stops_early = False
    return recognizer.eval()


def _written(rows: Tensor, lengths: Tensor) -> Tensor:
    """The first steps of each image, as many as its characters and the end symbol: (n, steps, …) -> (all of them, …)."""
    return torch.cat([row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)])


def _outputs(recognizer: Recognizer, recorded: dict) -> Iterator[tuple[str, Tensor]]:
    """(the record's name, our tensor) for every output of a forward pass, in eval mode."""
    images, decoder = recorded["input"], recognizer.decoder
    lengths = recorded["output"]["tf_lengths"]
    targets = decoder.encode(recorded["labels"])
    features = recognizer.encoder(recognizer.rectifier(images))
    yield "rectified_test", recognizer.rectifier(images)
    yield "rectified_train_path", recognizer.rectifier.rectified(images, passes=1)
    yield "feature_slice", features[:, :: features.shape[1] // recorded["output"]["feature_slice"].shape[1]]
    memory = recognizer.encode(images)
    greedy, forced = decoder(memory), decoder(memory, decoder.inputs(targets))
    yield "tf_lengths", (targets[:, 1:] != decoder.tokens.pad).sum(1)
    yield "tf_loss", decoder.loss(forced, targets)
    sides = [("l2r", targets, greedy.logits, forced.logits)]
    if decoder.right_to_left is not None:
        sides.append(("r2l", reversed_rows(targets, decoder.tokens), greedy.branches["right_to_left"], forced.branches["right_to_left"]))
    for side, rows, greedy_logits, forced_logits in sides:
        yield f"greedy_{side}", greedy_logits
        yield f"tf_{side}", _written(forced_logits, lengths)
        yield f"tf_targets_{side}", _written(rows[:, 1:], lengths)


def _pickup(example: dict) -> float:
    """The largest difference on the recorded example of fractional pickup."""
    vector = exchange(torch.tensor(example["idx"]), torch.tensor(example["beta"]), example["alpha"].shape[-1])
    return (exchanged(example["alpha"], vector) - example["alpha_fp"]).abs().max().item()


def _training(model: str, recognizer: Recognizer, recorded: dict) -> Iterator[Difference]:
    """The loss and every gradient norm in training mode, where recorded, without chance: always rectified, no fractional pickup."""
    expected = recorded["output"]
    recognizer.train()
    recognizer.rectifier.rectified_share, recognizer.decoder.fractional_pickup = 1.0, False
    targets = recognizer.decoder.encode(recorded["labels"])
    loss = recognizer.decoder.loss(recognizer(recorded["input"], recognizer.decoder.inputs(targets)), targets)
    loss.backward()
    yield Difference(model, "train_loss", (loss.detach() - expected["train_loss"]).abs().item(), _LIMIT)
    norms = {MORAN.published_name(recognizer, name): parameter.grad.norm().item() for name, parameter in recognizer.named_parameters()}
    worst = max(abs(norm / expected["train_grad_norm"][name] - 1) for name, norm in norms.items())
    yield Difference(model, f"train_grad_norm, relative, worst of {len(norms)}", worst, _GRADIENT_LIMIT)


def compare(file: Path, formula: ModuleType) -> list[Difference]:
    """Every quantity that one record holds. Largest absolute differences; relative for gradient norms.

    ValueError for a record with an output that is not compared here.
    """
    recorded = torch.load(file, map_location="cpu", weights_only=True)
    model, expected = file.name.removesuffix("_formula.pt"), recorded["output"]
    recognizer = rebuild(recorded, formula)
    with torch.no_grad():
        ours = dict(_outputs(recognizer, recorded))
    training = expected.keys() & {"train_loss", "train_grad_norm"}
    if unknown := expected.keys() - ours.keys() - training:
        raise ValueError(f"expected the outputs {', '.join(ours)} in {file}, found {', '.join(sorted(unknown))}: compare them here, too")
    rows = [Difference(model, name, (ours[name] - theirs).abs().max().item(), _LIMIT) for name, theirs in expected.items() if name in ours]
    if "frac" in recorded:
        rows.append(Difference(model, "fractional pickup", _pickup(recorded["frac"]), _LIMIT))
    return rows + (list(_training(model, recognizer, recorded)) if training else [])
