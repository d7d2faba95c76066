"""The four-stage family against records of the benchmark's implementation: see `parity.py`, which prints the table."""

from types import ModuleType

import torch
from torch import Tensor

from benchmarks.parity.training import training_pairs
from models.published.four_stage import FOUR_STAGE
from models.recognizer import Recognizer
from models.recognizers import build


def rebuild(recorded: dict, formula: ModuleType) -> Recognizer:
    """The recognizer that a record describes, with the recorded weights, read through the published layout, in float64 and eval mode."""
    images = recorded["input"]
    state = {name: formula.formula_param(name, shape) for name, shape in recorded["param_shapes"].items()}
    description = FOUR_STAGE.describe(state, None)
    recognizer = build(description.name, description.charset, **description.overrides | {"height": images.shape[2], "width": images.shape[3]})
    first_points = "Transformation.LocalizationNetwork.localization_fc2.bias"  # the formula leaves it as initialised
    if first_points in state:
        state[first_points] = FOUR_STAGE.save(recognizer)[first_points]
    recognizer.double().load_state_dict(FOUR_STAGE.load(recognizer, state | recorded["buffers"]))
    return recognizer.eval()


@torch.no_grad()
def _outputs(recognizer: Recognizer, recorded: dict) -> dict[str, tuple[Tensor, Tensor]]:
    images, expected, pairs = recorded["input"], recorded["output"], {}
    straight = images
    if "tps_image" in expected:
        straight = recognizer.rectifier(images)
        pairs |= {"control points": (recognizer.rectifier.points(images), expected["tps_control_points"]),
                  "rectified image": (straight, expected["tps_image"])}
    if "feature_slice" in expected:
        pairs["features"] = (recognizer.encoder(straight)[:, ::16], expected["feature_slice"])
    if recognizer.decoder.kind == "ctc":
        return pairs | {"logits": (recognizer(images).logits, expected["logits"])}
    tokens = recognizer.decoder.inputs(recognizer.decoder.encode(recorded["labels"]))
    memory = recognizer.encode(images)
    greedy = recognizer.decoder(memory).logits
    steps = slice(greedy.shape[1])  # fewer than recorded where every sequence has ended
    return pairs | {"teacher-forced logits": (recognizer.decoder(memory, tokens).logits, expected["logits_teacher_forced"]),
                    "greedy logits": (greedy, expected["logits_greedy"][:, steps]),
                    "greedy ids": (greedy.argmax(2), expected["greedy_ids"][:, steps])}


def _training(recognizer: Recognizer, recorded: dict) -> dict[str, tuple[Tensor, Tensor]]:
    recognizer.train()
    targets = recognizer.decoder.encode(recorded["labels"])
    loss = recognizer.decoder.loss(recognizer(recorded["input"], recognizer.decoder.inputs(targets)), targets)
    return training_pairs(recognizer, FOUR_STAGE.published_name, loss, recorded)


def pairs(recognizer: Recognizer, recorded: dict) -> dict[str, tuple[Tensor, Tensor]]:
    """Every output that the record holds, in eval mode, and what the training step gives."""
    found = _outputs(recognizer, recorded)
    return found | _training(recognizer, recorded) if "train_loss" in recorded["output"] else found
