"""How far our recognizers are from the reference implementations, on recorded inputs and weights.

    python -m benchmarks.parity.records --parity FOLDER

FOLDER holds `fixture.py` (the formula that the recorded weights follow) and records of inputs, outputs, losses and gradient norms:
`*_formula64.pt` of a reference that ran in float64, `*_formula.pt` of one that ran in float32, which is left out where both are there.

Every recognizer runs in float64 and in float32. Against a float64 record the first must be equal to 1e-9: both compute the same function.
For the second, and for float32 records, the limit is what float32 can give: rounding.py derives it from float64 runs of our recognizer with
weights that are changed as rounding would change them. Whole numbers must be equal, but for those that such a change turns. A reference
that multiplies two float32 tables for its spline is further off than our limits, which are those of one table: such a model needs a record
in float64.
The table ends with the largest share of a limit.
"""

import argparse
import copy
import importlib.util
import math
import re
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.parity import abinet, four_stage, hga, moran, vit
from benchmarks.parity.rounding import CERTAINTY, Rounding, perturbed
from models.recognizer import Recognizer

# Whose records begin with a name are compared by its own file; all others are of the four-stage family. Such a file has
#   rebuild(recorded, formula) -> the recognizer with the recorded weights, in float64 and eval mode, and
#   pairs(recognizer, recorded) -> {quantity: (ours, recorded)} for all that the record holds; what it cannot tell is None instead of a pair.
_FAMILIES = {"moran": moran, "hga": hga, "abinet": abinet, "vitstr": vit, "parseq": vit}
FLOAT64_LIMIT = 1e-9  # absolute where the recorded values are at most 1, otherwise relative to the largest
# What Student's t of so many degrees of freedom exceeds once in a thousand.
STUDENT = {1: 636.6, 2: 31.6, 3: 12.9, 4: 8.6}

Pairs = dict[str, tuple[Tensor, Tensor] | None]


@dataclass
class Difference:
    """One compared quantity: the largest difference found and the largest allowed."""

    model: str
    quantity: str
    precision: str  # of our run
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


def _is_relative(quantity: str) -> bool:
    return bool({"loss", "ce", "gradient", "grad"} & set(re.findall("[a-z]+", quantity)))


def difference(quantity: str, ours: Tensor, theirs: Tensor) -> float:
    """The largest of a quantity; relative for losses, and for gradient norms, of which those that are all rounding count little."""
    if ours.shape != theirs.shape:
        return float("inf")
    gap, theirs = (ours.double() - theirs.double()).abs(), theirs.double().abs()
    if _is_relative(quantity):
        gap = gap / theirs.clamp(min=1e-4 * theirs.max())
    return gap.max().item() if gap.numel() else 0.0


def in_precision(recorded: dict, precision: torch.dtype) -> dict:
    """The record with its input in another precision."""
    return recorded | {"input": recorded["input"].to(precision)}


@dataclass
class _Limit:
    """How far a quantity may be from the true one in float32; of whole numbers, which of them must be equal."""

    largest: float = 0.0  # nan, which nothing meets, where a changed copy gives another shape
    steady: Tensor | None = None

    def row(self, model: str, quantity: str, precision: str, ours: Tensor, theirs: Tensor) -> Difference:
        """The comparison of a run."""
        if self.steady is not None and ours.shape == theirs.shape:
            ours, theirs = ours[self.steady], theirs[self.steady]
        return Difference(model, quantity, precision, difference(quantity, ours, theirs), self.largest)


def _limits(family: ModuleType, exact: Recognizer, recorded: dict, truth: Pairs, draws: int) -> dict[str, _Limit]:
    """The limits of a record's quantities.

    Of many numbers that move smoothly the largest change is never small by chance. Of a single number it may be, and of gradients, which jump
    where another pixel becomes the largest: they are taken for draws from a normal distribution, CERTAINTY times as wide as that of the error.
    """
    generator = torch.Generator().manual_seed(0)
    limits = {quantity: _Limit(steady=None if ours.is_floating_point() else torch.ones_like(ours, dtype=torch.bool))
              for quantity, (ours, _) in truth.items()}
    for _ in range(draws):
        with Rounding(generator):
            changed = family.pairs(perturbed(exact, generator), recorded)
        for quantity, (ours, _) in truth.items():
            limit, theirs = limits[quantity], changed[quantity][0]
            if theirs.shape != ours.shape:
                limit.largest = math.nan
            elif limit.steady is not None:
                limit.steady &= theirs == ours
            else:
                few = ours.numel() == 1 or "gradient" in quantity
                found = difference(quantity, theirs, ours) * (STUDENT[draws] / CERTAINTY if few else 1)
                limit.largest = found if math.isnan(found) else max(found, limit.largest)
    return limits


def compare(file: Path, formula: ModuleType | None = None, draws: int = 2) -> list[Difference]:
    """Every quantity that one record holds, in both precisions. What a family cannot tell is a row that fails.

    formula: of the recorded weights; by default the fixture.py beside the record.
    draws: from how many changed copies of the recognizer limits are derived, 1 to 4.
    """
    formula = load_formula(file.parent) if formula is None else formula
    recorded = torch.load(file, map_location="cpu", weights_only=True)
    model, is_exact = file.name.split("_formula")[0], file.stem.endswith("64")
    family = next((module for name, module in _FAMILIES.items() if file.name.startswith(name)), four_stage)
    exact = family.rebuild(recorded, formula)
    single = copy.deepcopy(exact).float()
    in_float64 = in_precision(recorded, torch.float64)
    found, truth = family.pairs(single, in_precision(recorded, torch.float32)), family.pairs(copy.deepcopy(exact), in_float64)
    unknown = [Difference(model, quantity, "", math.nan, 0.0) for quantity, pair in truth.items() if pair is None]
    truth = {quantity: pair for quantity, pair in truth.items() if pair is not None}
    limits = _limits(family, exact, in_float64, truth, draws)
    rows = []
    for quantity, (ours, theirs) in truth.items():
        limit = limits[quantity]
        if is_exact:
            scale = 1.0 if _is_relative(quantity) else max(1.0, theirs.abs().max().item())
            rows.append(Difference(model, quantity, "float64", difference(quantity, ours, theirs),
                                   FLOAT64_LIMIT * scale if theirs.is_floating_point() else 0.0))
            rows.append(limit.row(model, quantity, "float32", found[quantity][0], theirs))
        else:
            rows.append(limit.row(model, quantity, "float64", ours, theirs))
            rows.append(limit.row(model, quantity, "float32", found[quantity][0], ours))
    return rows + unknown


def records(folder: Path) -> list[Path]:
    """The files of the folder that record a recognizer; of a reference in both precisions the one in float64."""
    files = sorted({*folder.glob("*_formula.pt"), *folder.glob("*_formula64.pt")})
    return [file for file in files if not file.with_name(f"{file.stem}64.pt").is_file()
            and "param_shapes" in torch.load(file, map_location="cpu", weights_only=True)]


def main(argv: list[str] | None = None) -> int:
    """Prints the table; 1 if a difference is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parity", type=Path, required=True, help="the folder of recorded inputs and outputs")
    folder = parser.parse_args(argv).parity
    files = records(folder) if (folder / "fixture.py").is_file() else []
    if not files:
        print(f"parity: expected fixture.py and *_formula64.pt or *_formula.pt of recognizers in {folder}, found none: "
              "name the folder that holds them", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    rows = [row for file in files for row in compare(file)]
    print("| model | quantity | in float64 | limit | in float32 | limit |")
    print("|---|---|---|---|---|---|")
    for (model, quantity), pair in groupby(rows, lambda row: (row.model, row.quantity)):
        print(f"| {model} | {quantity} | {' | '.join(f'{row.found:.1e} | {row.limit:.1e}' for row in pair)} |")
    worst = max(rows, key=share)
    print(f"\nworst: {worst.model}, {worst.quantity}, {worst.precision}: {share(worst):.1%} of its limit")
    return int(not all(row.found <= row.limit for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
