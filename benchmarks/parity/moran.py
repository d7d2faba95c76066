"""MORAN v2 against records of the authors' implementation: see `parity.py`, which prints the table."""

from types import ModuleType

import torch
from torch import Tensor

from benchmarks.parity.training import training_pairs
from models.charset import Charset
from models.decoders.moran import exchange, exchanged
from models.decoders.symbols import reversed_rows
from models.families.moran import moran
from models.published.moran import MORAN
from models.recognizer import Recognizer


def rebuild(recorded: dict, formula: ModuleType) -> Recognizer:
    """The recognizer that a record describes, with the recorded weights, read through the published layout, in float64 and eval mode.

    It never stops early: the records hold every step.
    """
    config, images = recorded["config"], recorded["input"]
    steps = next(tensor.shape[1] for name, tensor in recorded["output"].items() if name.startswith("greedy"))
    recognizer = moran(Charset(Charset.named("94").characters[: config["nclass"] - 1]), channels=config["nc"], hidden=config["nh"],
                       height=images.shape[2], width=images.shape[3], target_height=config["targetH"], target_width=config["targetW"],
                       bidirectional=config["BidirDecoder"], max_length=steps - 1)
    state = {name: formula.formula_param(name, shape) for name, shape in recorded["param_shapes"].items()}
    recognizer.double().load_state_dict(MORAN.load(recognizer, state | recorded["buffers"]))
    recognizer.decoder.stops_early = False
    return recognizer.eval()


def _written(rows: Tensor, lengths: Tensor) -> Tensor:
    """The first steps of each image, as many as its characters and the end symbol: (n, steps, …) -> (all of them, …)."""
    return torch.cat([row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)])


@torch.no_grad()
def _outputs(recognizer: Recognizer, recorded: dict) -> dict[str, Tensor]:
    """What a forward pass gives in eval mode, under the record's names."""
    images, decoder = recorded["input"], recognizer.decoder
    lengths = recorded["output"]["tf_lengths"]
    targets = decoder.encode(recorded["labels"])
    straightened = recognizer.rectifier(images)
    features, memory = recognizer.encoder(straightened), recognizer.encode(images)
    greedy, forced = decoder(memory), decoder(memory, decoder.inputs(targets))
    found = {"rectified_test": straightened, "rectified_train_path": recognizer.rectifier.rectified(images, passes=1),
             "feature_slice": features[:, :: features.shape[1] // recorded["output"]["feature_slice"].shape[1]],
             "tf_lengths": (targets[:, 1:] != decoder.tokens.pad).sum(1), "tf_loss": decoder.loss(forced, targets)}
    sides = [("l2r", targets, greedy.logits, forced.logits)]
    if decoder.right_to_left is not None:
        sides.append(("r2l", reversed_rows(targets, decoder.tokens), greedy.branches["right_to_left"], forced.branches["right_to_left"]))
    for side, rows, greedy_logits, forced_logits in sides:
        found |= {f"greedy_{side}": greedy_logits, f"tf_{side}": _written(forced_logits, lengths),
                  f"tf_targets_{side}": _written(rows[:, 1:], lengths)}
    return found


def _pickup(example: dict, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """The recorded example of fractional pickup."""
    alpha = example["alpha"].to(precision)
    vector = exchange(torch.tensor(example["idx"]), torch.tensor(example["beta"], dtype=precision), alpha.shape[-1])
    return exchanged(alpha, vector), example["alpha_fp"]


def _training(recognizer: Recognizer, recorded: dict) -> dict[str, tuple[Tensor, Tensor]]:
    """The loss and every gradient norm in training mode, without chance: always rectified, no fractional pickup."""
    recognizer.train()
    recognizer.rectifier.rectified_share, recognizer.decoder.fractional_pickup = 1.0, False
    targets = recognizer.decoder.encode(recorded["labels"])
    loss = recognizer.decoder.loss(recognizer(recorded["input"], recognizer.decoder.inputs(targets)), targets)
    return training_pairs(recognizer, MORAN.published_name, loss, recorded)


def pairs(recognizer: Recognizer, recorded: dict) -> dict[str, tuple[Tensor, Tensor] | None]:
    """Every quantity that the record holds, ours and recorded; None for one that is not known here."""
    expected, ours = recorded["output"], _outputs(recognizer, recorded)
    found = {name: (ours[name], theirs) if name in ours else None for name, theirs in expected.items() if not name.startswith("train_")}
    if "frac" in recorded:
        found["fractional pickup"] = _pickup(recorded["frac"], recorded["input"].dtype)
    return found | (_training(recognizer, recorded) if "train_loss" in expected else {})
