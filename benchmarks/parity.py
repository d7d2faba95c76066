"""How far our recognizers are from the reference implementations, on recorded inputs and weights.

    python benchmarks/parity.py --parity FOLDER

FOLDER holds `fixture.py` (the formula that the recorded weights follow) and `*_formula.pt` (inputs, outputs, gradient
norms). Every recorded model of the four-stage family is compared; the table ends with the largest share of a limit.
"""

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from models.charset import Charset
from models.published.four_stage import FOUR_STAGE
from models.families.four_stage import four_stage
from models.recognizer import Recognizer

_STAGES = {
    "Transformation": {"None": "none", "TPS": "tps"},
    "FeatureExtraction": {"VGG": "vgg", "RCNN": "rcnn", "ResNet": "resnet"},
    "SequenceModeling": {"None": "none", "BiLSTM": "bilstm"},
    "Prediction": {"CTC": "ctc", "Attn": "attention"},
}
_TOLERANCE = 1e-3  # on logits, and relative on the loss and on gradient norms


@dataclass
class Difference:
    """One compared quantity: the largest difference found and the largest allowed."""

    model: str
    quantity: str
    found: float
    limit: float


def load_formula(folder: Path) -> ModuleType:
    """The folder's `fixture.py`, which turns a parameter's name and shape into its recorded value."""
    spec = importlib.util.spec_from_file_location("parity_fixture", folder / "fixture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rebuild(recorded: dict, formula: ModuleType) -> Recognizer:
    """The recognizer that a record describes, with the recorded weights, read through the published layout."""
    config, images = recorded["config"], recorded["input"]
    prediction = _STAGES["Prediction"][config["Prediction"]]
    characters = config["num_class"] - (1 if prediction == "ctc" else 2)
    recognizer = four_stage(
        Charset.named(str(characters)), rectifier=_STAGES["Transformation"][config["Transformation"]],
        encoder=_STAGES["FeatureExtraction"][config["FeatureExtraction"]],
        sequence=_STAGES["SequenceModeling"][config["SequenceModeling"]], decoder=prediction,
        channels=images.shape[1], height=images.shape[2], width=images.shape[3])
    state = {name: formula.formula_param(name, shape) for name, shape in recorded["param_shapes"].items()}
    first_points = "Transformation.LocalizationNetwork.localization_fc2.bias"  # the formula leaves it as initialised
    if first_points in state:
        state[first_points] = FOUR_STAGE.save(recognizer)[first_points]
    recognizer.load_state_dict(FOUR_STAGE.load(recognizer, state | recorded["buffers"]))
    return recognizer


def _outputs(recognizer: Recognizer, recorded: dict) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(quantity, ours, recorded) for every output of the record, in eval mode."""
    images, expected = recorded["input"], recorded["output"]
    tokens = recognizer.decoder.inputs(recognizer.decoder.encode(recorded["labels"]))
    if "tps_image" in expected:
        yield "control points", recognizer.rectifier.points(images), expected["tps_control_points"]
        yield "rectified image", recognizer.rectifier(images), expected["tps_image"]
    if "feature_slice" in expected:
        straight = images if recognizer.rectifier is None else recognizer.rectifier(images)
        yield "features", recognizer.encoder(straight)[:, ::16], expected["feature_slice"]
    if recognizer.decoder.kind == "ctc":
        yield "logits", recognizer(images).logits, expected["logits"]
        return
    yield "teacher-forced logits", recognizer(images, tokens).logits, expected["logits_teacher_forced"]
    greedy = recognizer(images).logits  # fewer steps than recorded where every sequence has ended
    yield "greedy logits", greedy, expected["logits_greedy"][:, :greedy.shape[1]]
    yield "greedy ids", greedy.argmax(2).float(), expected["greedy_ids"][:, :greedy.shape[1]].float()


def compare(file: Path) -> list[Difference]:
    """Every quantity that one record holds. Largest absolute differences; relative for the loss and gradient norms."""
    recorded = torch.load(file, map_location="cpu", weights_only=True)
    model = file.name.removesuffix("_formula.pt")
    recognizer = rebuild(recorded, load_formula(file.parent)).eval()
    with torch.no_grad():
        rows = [Difference(model, quantity, (ours - theirs).abs().max().item(), _TOLERANCE)
                for quantity, ours, theirs in _outputs(recognizer, recorded)]
    if "train_loss" not in recorded["output"]:
        return rows
    recognizer.train()
    targets = recognizer.decoder.encode(recorded["labels"])
    loss = recognizer.decoder.loss(recognizer(recorded["input"], recognizer.decoder.inputs(targets)), targets)
    loss.backward()
    expected = recorded["output"]["train_loss"].item()
    rows.append(Difference(model, "training loss, relative", abs(loss.item() - expected) / expected, _TOLERANCE))
    norms = recorded["output"]["train_grad_norm"]
    worst = max(abs(parameter.grad.norm().item() / norms[FOUR_STAGE.published_name(recognizer, name)] - 1)
                for name, parameter in recognizer.named_parameters())
    rows.append(Difference(model, f"gradient norms, relative, worst of {len(norms)}", worst, _TOLERANCE))
    return rows


def records(folder: Path) -> list[Path]:
    """The files of the folder that record a model of the four-stage family."""
    files = sorted(folder.glob("*_formula.pt"))
    return [file for file in files
            if _STAGES.keys() <= (torch.load(file, map_location="cpu", weights_only=True).get("config") or {}).keys()]


def main(argv: list[str] | None = None) -> int:
    """Prints the table; 1 if a difference is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parity", type=Path, required=True, help="the folder of recorded inputs and outputs")
    folder = parser.parse_args(argv).parity
    files = records(folder) if (folder / "fixture.py").is_file() else []
    if not files:
        print(f"parity: expected fixture.py and *_formula.pt of the four-stage family in {folder}, found none: "
              "name the folder that holds them", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # so that the table does not depend on how a machine's cores divide a sum
    rows = [row for file in files for row in compare(file)]
    print("| model | quantity | largest difference | limit | share of the limit |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.model} | {row.quantity} | {row.found:.1e} | {row.limit:.0e} | {row.found / row.limit:.1%} |")
    worst = max(rows, key=lambda row: row.found / row.limit)
    print(f"\nworst: {worst.model}, {worst.quantity}: {worst.found / worst.limit:.1%} of its limit")
    return int(worst.found > worst.limit)


if __name__ == "__main__":
    raise SystemExit(main())
