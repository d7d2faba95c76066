"""What a trial of a sweep is called, and what its folder says of how it went."""

from dataclasses import dataclass, field
from typing import Any

from pipelines.reading.weights import read_description
from pipelines.training.journal import read_journal
from pipelines.training.recipe import Recipe
from pipelines.training.runs import RunFolder
from pipelines.training.unlabeled import DECIDES
from tuning.space import OWN, values_at


def metric_of(recipe: Recipe) -> str:
    """The number that decides among trials: word accuracy where there are validation words, else the criterion that needs no labels."""
    return "word_accuracy" if recipe.data.validation is not None else DECIDES


def called(metric: str) -> str:
    """A number as it is called in sentences."""
    return metric.replace("_", " ")


@dataclass
class TrialResult:
    """One trial: what it used, and how it went. `curve` holds (step, what decides) pairs; `stopped` says ASHA ended it early."""

    name: str
    values: dict[str, float]
    curve: list[tuple[int, float]] = field(default_factory=list)
    stopped: bool = False
    model_step: int | None = None  # the step that its model is of, where that is not the last
    error: str = ""
    model: str = ""

    @property
    def accuracy(self) -> float | None:
        """The word accuracy of the trial's model, or what decides in its place; None if it never reached a validation."""
        if not self.curve:
            return None
        return dict(self.curve).get(self.model_step, self.curve[-1][1])

    @property
    def steps(self) -> int:
        """How far it came."""
        return self.curve[-1][0] if self.curve else 0


def trial_name(config: dict[str, Any]) -> str:
    """A name that is the same when the sweep is started again: the trial's place along the axes, or that it is the recipe itself."""
    if all(position == OWN for position in config.values()):
        return "trial-recipe"
    return "trial-" + "-".join(f"{round(config[key] * 1000):03d}" for key in sorted(config))


def result_of(result, recipe: Recipe, where: RunFolder) -> TrialResult:
    """What a trial's folder says of it: it outlives the sweep's own records."""
    name, metric = trial_name(result.config), metric_of(recipe)
    folder = RunFolder(where.file(f"trials/{name}"))
    curve: dict[int, float] = {}
    for numbers in read_journal(folder.progress):
        if metric in numbers:
            curve[numbers["step"]] = numbers[metric]
    state = folder.state()
    finished = state is not None and state.status == "finished"
    return TrialResult(name, values_at(result.config, recipe), sorted(curve.items()),
                       stopped=not finished and not result.error, error=str(result.error or "").strip().split("\n")[-1], model=folder.model if finished else "",
                       model_step=read_description(folder.model).get("step") if finished else None)
