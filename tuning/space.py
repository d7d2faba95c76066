"""What may be searched: the constants that the papers tuned by hand, with the ranges in which they make sense."""

from dataclasses import dataclass
from math import log
from typing import Any

from ray import tune

from pipelines.errors import BadInput
from pipelines.training.recipe import Recipe


@dataclass(frozen=True)
class Axis:
    """One searched number: a field of the objective. `scale` says how it is drawn and plotted.

    linear: uniform in [low, high]. log: log-uniform. log_complement: 1 - value is log-uniform, for rates that approach 1.
    """

    field: str
    low: float
    high: float
    scale: str = "linear"

    def domain(self) -> Any:
        """Ray Tune's sampler of `position`s."""
        return tune.uniform(0.0, 1.0)

    def value(self, position: float) -> float:
        """The value at a position in [0, 1] along the axis, rounded to four significant digits."""
        if self.scale == "log":
            value = self.low * (self.high / self.low) ** position
        elif self.scale == "log_complement":
            value = 1 - (1 - self.low) * ((1 - self.high) / (1 - self.low)) ** position
            return round(value, 6)
        else:
            value = self.low + (self.high - self.low) * position
        return float(f"{value:.4g}")

    def position(self, value: float) -> float:
        """Where a value lies along the axis: 0 at `low` and below, 1 at `high` and above."""
        value = min(max(value, self.low), self.high)
        if self.scale == "log":
            return log(value / self.low) / log(self.high / self.low)
        if self.scale == "log_complement":
            return log((1 - value) / (1 - self.low)) / log((1 - self.high) / (1 - self.low))
        return (value - self.low) / (self.high - self.low)


OWN = -1.0  # the position that stands for the recipe's own value, which may lie anywhere


def values_at(config: dict[str, float], recipe: Recipe) -> dict[str, float]:
    """The values of the searched fields at positions along their axes, or the recipe's own."""
    return {axis.field: recipe.objective[axis.field] if config[axis.field] == OWN else axis.value(config[axis.field]) for axis in space_of(recipe)}


SPACES: dict[str, tuple[Axis, ...]] = {
    "ccr": (Axis("confidence_threshold", 0.05, 0.95), Axis("ema_decay", 0.9, 0.9999, "log_complement"),
            Axis("consistency_weight", 0.1, 10.0, "log")),
}


def space_of(recipe: Recipe) -> tuple[Axis, ...]:
    """The axes that are searched for a recipe's objective.

    Raises:
        BadInput: nothing of this objective is searched.
    """
    name = recipe.objective["name"]
    if name not in SPACES:
        raise BadInput(f"expected a recipe whose objective can be searched ({', '.join(SPACES)}), found {name}")
    return SPACES[name]


def with_values(recipe: Recipe, values: dict[str, float], name: str) -> Recipe:
    """The recipe with other values of the searched fields, under another name."""
    return recipe.model_copy(update={"name": name, "objective": recipe.objective | values})
