"""What is searched: fields of a recipe by their dotted paths, and how their values are drawn.

A recipe's section `search` says it; where there is none, the constants that a method's paper tuned by hand are searched, in the ranges in which they
make sense.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, log, log10
from typing import Any, Literal, get_args

import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from models.decoders.ctc import CTCDecoder
from models.recognizers import build
from pipelines.errors import BadInput
from pipelines.training.recipe import Recipe, SearchRecipe, parse_recipe

Value = bool | int | float | str
Values = dict[str, Any]  # field -> value, of the axes that count beside the others' values
Kind = Literal["uniform", "loguniform", "log_complement", "integer", "choice"]
GRID = 3  # values that a range has in a grid: its ends, and half-way
# What cannot be searched: what a run is called and where it lies, what it is judged by, and how far it goes.
FIXED = ("name", "runs", "seed", "search", "initialize_from", "data.validation", "data.labeled.corpus", "data.unlabeled.corpus", "recognizer.rule", "training.steps",
         "training.minutes", "training.validate_every", "training.workers")


@dataclass(frozen=True)
class Axis:
    """One searched field.

    uniform, integer: evenly between the ends. loguniform: evenly in the logarithm. log_complement: 1 - value evenly in the logarithm, for rates near 1.
    choice: one of the choices. Where `when` names other fields, it is searched only beside one of the values given there.
    """

    field: str
    kind: Kind
    low: float = 0.0
    high: float = 1.0
    choices: tuple[Value, ...] = ()
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its last part, for people."""
        return self.field.rpartition(".")[2].replace("_", " ")

    def distribution(self) -> BaseDistribution:
        """What Optuna draws from: the value itself, or its complement."""
        if self.kind == "choice":
            return CategoricalDistribution(self.choices)
        if self.kind == "integer":
            return IntDistribution(int(self.low), int(self.high))
        if self.kind == "log_complement":
            return FloatDistribution(self.drawn(self.high), self.drawn(self.low), log=True)
        return FloatDistribution(self.low, self.high, log=self.kind == "loguniform")

    def draw(self, trial: optuna.Trial) -> Value:
        """The value that a trial suggests, rounded: to four digits of it, of its complement (log_complement), or of the axis (uniform)."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.field, self.choices)
        if self.kind == "integer":
            return trial.suggest_int(self.field, int(self.low), int(self.high))
        if self.kind == "log_complement":
            drawn = trial.suggest_float(self.field, self.drawn(self.high), self.drawn(self.low), log=True)
            return min(max(round(1 - float(f"{drawn:.4g}"), 12), self.low), self.high)
        drawn = trial.suggest_float(self.field, self.low, self.high, log=self.kind == "loguniform")
        rounded = float(f"{drawn:.4g}") if self.kind == "loguniform" else round(drawn, 3 - floor(log10(self.high - self.low)))
        return min(max(rounded, self.low), self.high)

    def drawn(self, value: Value) -> Any:
        """What Optuna drew to give this value."""
        return round(1 - value, 12) if self.kind == "log_complement" else value

    def holds(self, value: object) -> bool:
        """Whether it is among what can be drawn."""
        if self.kind == "choice":
            return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in self.choices)
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def counts(self, values: Values, recipe: Recipe) -> bool:
        """Whether it is searched beside these values of the axes before it."""
        return all(values.get(name, value_at(recipe, name)) in allowed for name, allowed in self.when.items())

    def position(self, value: Any) -> float:
        """Where a value lies along the axis, from 0 to 1; outside of it, at its end."""
        if self.kind == "choice":
            place = next((index for index, choice in enumerate(self.choices) if choice == value), 0)
            return place / (len(self.choices) - 1)
        if not isinstance(value, int | float):
            return 0.0
        value = min(max(value, self.low), self.high)
        if self.kind == "loguniform":
            return log(value / self.low) / log(self.high / self.low)
        if self.kind == "log_complement":
            return log((1 - value) / (1 - self.low)) / log((1 - self.high) / (1 - self.low))
        return (value - self.low) / (self.high - self.low)

    def grid(self) -> list[Value]:
        """Its values in a grid."""
        if self.kind == "choice":
            return list(self.choices)
        if self.kind == "integer":
            return sorted({round(self.low + (self.high - self.low) * step / (GRID - 1)) for step in range(GRID)})
        if self.kind == "uniform":
            return [float(f"{self.low + (self.high - self.low) * step / (GRID - 1):.4g}") for step in range(GRID)]
        low, high = (1 - self.low, 1 - self.high) if self.kind == "log_complement" else (self.low, self.high)
        places = [float(f"{low * (high / low) ** (step / (GRID - 1)):.4g}") for step in range(GRID)]
        return [round(1 - place, 12) for place in places] if self.kind == "log_complement" else places


THRESHOLD = Axis("objective.confidence_threshold", "uniform", 0.05, 0.95)
DECAY = Axis("objective.ema_decay", "log_complement", 0.9, 0.9999)
WEIGHT = Axis("objective.consistency_weight", "loguniform", 0.1, 10.0)
SHARPENING = Axis("objective.sharpening_temperature", "loguniform", 0.1, 1.0)
TEMPERATURE = Axis("objective.temperature", "loguniform", 0.03, 1.0)

# objective -> what is searched of it where the recipe says nothing: what its paper tuned by hand, and what decides in ours (docs/results.md)
READY: dict[str, tuple[Axis, ...]] = {
    "ccr": (THRESHOLD, DECAY, WEIGHT, SHARPENING),
    "visu": (THRESHOLD, DECAY, WEIGHT, Axis("objective.alignment_weight", "loguniform", 0.01, 1.0), Axis("objective.alignment_threshold", "uniform", 0.3, 0.95)),
    "fixmatch": (THRESHOLD, WEIGHT),
    "uda": (THRESHOLD, WEIGHT, SHARPENING),
    "flexmatch": (THRESHOLD, WEIGHT),
    "freematch": (DECAY, WEIGHT, Axis("objective.fairness_weight", "loguniform", 0.001, 0.1)),
    "softmatch": (DECAY, WEIGHT, Axis("objective.deviations", "uniform", 1.0, 3.0)),
    "mean_teacher": (DECAY, Axis("objective.consistency_weight", "loguniform", 0.1, 100.0)),
    "pseudo_label": (WEIGHT,),
    "semimtr": (Axis("objective.labels", "choice", choices=("hard", "soft")), Axis("objective.ema", "choice", choices=(False, True)),
                Axis("objective.ema_decay", "log_complement", 0.99, 0.99999, when={"objective.ema": (True,)}),
                *(Axis(f"objective.{part}_consistency_weight", "loguniform", 0.1, 10.0) for part in ("vision", "language", "fusion"))),
    "semimtr_vision": (TEMPERATURE, Axis("objective.contrastive_weight", "loguniform", 0.05, 5.0)),
    "seqclr": (Axis("objective.mapping", "choice", choices=("all", "window", "frame")),
               Axis("objective.windows", "integer", 2, 10, when={"objective.mapping": ("window",)}),
               Axis("objective.head", "choice", choices=("none", "mlp", "bilstm")), TEMPERATURE),
    "simclr": (TEMPERATURE,),
    "moco": (TEMPERATURE, Axis("objective.momentum", "log_complement", 0.9, 0.9999)),
    "persec": (Axis("objective.stroke_probability", "uniform", 0.05, 0.5), Axis("objective.semantic_probability", "uniform", 0.05, 0.5),
               Axis("objective.kappa", "loguniform", 0.03, 1.0), Axis("objective.diversity_weight", "loguniform", 0.01, 1.0)),
    "byol": (DECAY,),
    "mae": (Axis("objective.mask_ratio", "uniform", 0.4, 0.9),),
    "dig": (Axis("objective.mask_ratio", "uniform", 0.4, 0.9), TEMPERATURE, Axis("objective.contrastive_weight", "loguniform", 0.01, 1.0)),
}


def space_of(recipe: Recipe) -> tuple[Axis, ...]:
    """The axes of a recipe's section `search`; without one what is searched of its objective, or else the learning rate, ten times down and up.

    Raises:
        BadInput: a field that there is not or that cannot be searched, or a value that the recipe does not take.
    """
    if recipe.search:
        axes = _parents_first([_axis(recipe, name, section) for name, section in recipe.search.items()])
    else:
        axes = READY.get(recipe.objective["name"], ())
        if _is_unread(SHARPENING, recipe):
            axes = tuple(axis for axis in axes if axis != SHARPENING)
        rate = recipe.optimizer.learning_rate
        axes = axes or (Axis("optimizer.learning_rate", "loguniform", float(f"{rate / 10:.4g}"), float(f"{rate * 10:.4g}")),)
    for axis in axes:
        between = axis.low + (axis.high - axis.low) / 3
        for value in axis.choices or ((int(axis.low), int(axis.high)) if axis.kind == "integer" else (axis.low, round(between, 9), axis.high)):
            with_values(recipe, {axis.field: value}, recipe.name)  # refused now and not by the twentieth trial
    return axes


def _parents_first(axes: list[Axis]) -> tuple[Axis, ...]:
    """In their order, but what others depend on before them. Raises BadInput for a condition that never holds, and for circles."""
    by_name, ordered = {axis.field: axis for axis in axes}, []
    for axis in axes:
        for name, allowed in axis.when.items():
            parent = by_name.get(name)
            if parent is not None and not any(parent.holds(value) for value in allowed):
                raise BadInput(f"search.{axis.field}: expected under `when` a value that {name} may have, found {', '.join(map(str, allowed))}: correct it")
    while axes:
        ready = next((axis for axis in axes if not any(name in by_name and by_name[name] in axes for name in axis.when)), None)
        if ready is None:
            raise BadInput(f"search: expected conditions that do not run in circles, found {', '.join(axis.field for axis in axes)} depending on each other: leave one out")
        axes.remove(ready)
        ordered.append(ready)
    return tuple(ordered)


def _axis(recipe: Recipe, name: str, section: SearchRecipe) -> Axis:
    if any(name == fixed or name.startswith(f"{fixed}.") for fixed in FIXED):
        raise BadInput(f"search.{name}: expected a field that trials may differ in, found one that must be the same for all ({', '.join(FIXED)}): leave it out")
    value_at(recipe, name)
    when = {other: tuple(allowed) if isinstance(allowed, list) else (allowed,) for other, allowed in section.when.items()}
    for other in when:
        value_at(recipe, other)
    kind = next(kind for kind in get_args(Kind) if getattr(section, kind) is not None)
    if kind == "choice":
        return Axis(name, kind, choices=tuple(value_at(with_values(recipe, {name: value}, recipe.name), name) for value in section.choice), when=when)  # as the recipe has them
    low, high = getattr(section, kind)
    return Axis(name, kind, float(low), float(high), when=when)


def _is_unread(axis: Axis, recipe: Recipe) -> bool:
    """Whether the field says nothing for this recognizer: a CTC target that is a string is not sharpened."""
    if axis != SHARPENING or recipe.objective.get("alignment") != "string":
        return False
    with torch.device("meta"):
        return isinstance(build(recipe.recognizer.name, recipe.charset, **recipe.recognizer.options).decoder, CTCDecoder)


def value_at(recipe: Recipe, name: str) -> Any:
    """What a recipe holds at a dotted path. Raises BadInput if there is nothing there."""
    found: Any = recipe.model_dump(mode="json")
    for key in name.split("."):
        if not isinstance(found, dict) or key not in found:
            raise BadInput(f"search: expected fields of the recipe by their dotted paths, such as objective.ema_decay or optimizer.learning_rate, found {name}: correct it")
        found = found[key]
    return found


def own_values(recipe: Recipe, axes: Sequence[Axis]) -> Values:
    """The recipe's own values of the searched fields, wherever they lie."""
    values: Values = {}
    for axis in axes:
        if axis.counts(values, recipe):
            values[axis.field] = value_at(recipe, axis.field)
    return values


def with_values(recipe: Recipe, values: Values, name: str) -> Recipe:
    """The recipe with other values of searched fields, under another name and without the search. Raises BadInput for a value that it does not take."""
    tree = recipe.model_dump(mode="json") | {"name": name, "search": {}}
    for path, value in values.items():
        *above, last = path.split(".")
        place = tree
        for key in above:
            place = place[key]
        place[last] = value
    return parse_recipe(tree, ", ".join(f"{path}={value}" for path, value in values.items()) or "recipe")


def grid(recipe: Recipe, axes: Sequence[Axis]) -> Iterator[Values]:
    """Every combination of the axes' grid values, each once."""
    seen = set()
    for combination in itertools.product(*(axis.grid() for axis in axes)):
        values: Values = {}
        for axis, value in zip(axes, combination, strict=True):
            if axis.counts(values, recipe):
                values[axis.field] = value
        if (key := tuple(values.items())) not in seen:
            seen.add(key)
            yield values
