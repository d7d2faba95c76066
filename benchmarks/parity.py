"""How far our recognizers are from the reference implementations, on recorded inputs and weights.

    python benchmarks/parity.py --parity FOLDER

FOLDER holds `fixture.py` (the formula that the recorded weights follow) and `*_formula.pt` (inputs, outputs, gradient
norms). Every recorded recognizer is compared; the table ends with the largest share of a limit.
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

from models.published.four_stage import FOUR_STAGE
from models.recognizer import Recognizer
from models.recognizers import build

# Whose records begin with a name are compared by its own file; all others are of the four-stage family.
_OTHERS = {"moran": "parity_moran", "hga": "parity_hga", "abinet": "parity_abinet", "vitstr": "parity_vit", "parseq": "parity_vit"}
_TOLERANCE = 1e-3  # on logits, and relative on the loss and on gradient norms


@dataclass
class Difference:
    """One compared quantity: the largest difference found and the largest allowed."""

    model: str
    quantity: str
    found: float
    limit: float


def share(row: Difference) -> float:
    """Of the limit; what must be equal has a limit of 0."""
    return row.found / row.limit if row.limit else (0.0 if row.found == 0 else float("inf"))


def load_formula(folder: Path) -> ModuleType:
    """The folder's `fixture.py`, which turns a parameter's name and shape into its recorded value."""
    spec = importlib.util.spec_from_file_location("parity_fixture", folder / "fixture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rebuild(recorded: dict, formula: ModuleType) -> Recognizer:
    """The recognizer that a record describes, with the recorded weights, read through the published layout."""
    images = recorded["input"]
    state = {name: formula.formula_param(name, shape) for name, shape in recorded["param_shapes"].items()}
    description = FOUR_STAGE.describe(state, None)
    recognizer = build(description.name, description.charset, **description.overrides | {"height": images.shape[2], "width": images.shape[3]})
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
    other = next((module for name, module in _OTHERS.items() if file.name.startswith(name)), None)
    if other is not None:
        return importlib.import_module(other).compare(file, load_formula(file.parent))
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
    """The files of the folder that record a recognizer."""
    return sorted(file for file in folder.glob("*_formula.pt") if "param_shapes" in torch.load(file, map_location="cpu", weights_only=True))


def main(argv: list[str] | None = None) -> int:
    """Prints the table; 1 if a difference is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parity", type=Path, required=True, help="the folder of recorded inputs and outputs")
    folder = parser.parse_args(argv).parity
    files = records(folder) if (folder / "fixture.py").is_file() else []
    if not files:
        print(f"parity: expected fixture.py and *_formula.pt of recognizers in {folder}, found none: "
              "name the folder that holds them", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # so that the table does not depend on how a machine's cores divide a sum
    rows = [row for file in files for row in compare(file)]
    print("| model | quantity | largest difference | limit | share of the limit |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.model} | {row.quantity} | {row.found:.1e} | {row.limit:.0e} | {share(row):.1%} |")
    worst = max(rows, key=share)
    print(f"\nworst: {worst.model}, {worst.quantity}: {share(worst):.1%} of its limit")
    return int(worst.found > worst.limit)


if __name__ == "__main__":
    raise SystemExit(main())
