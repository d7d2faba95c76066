"""Which values the next trial has: those that are given first, then what Optuna asks for, never the same twice."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial
from ray.tune.search import Searcher

from pipelines.training.recipe import Recipe
from tuning.space import Axis, Values, own_values

SearcherName = Literal["random", "tpe", "grid"]
ATTEMPTS = 50  # at values that no trial has had, beyond those that some had

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def trial_name(values: Values, recipe: Recipe, axes: Sequence[Axis]) -> str:
    """A name that is the same whenever these values are tried: that it is the recipe itself, or a hash of them."""
    if values == own_values(recipe, axes):
        return "trial-recipe"
    plain = {name: float(value) if isinstance(value, int) and not isinstance(value, bool) else value for name, value in values.items()}  # 5 is 5.0
    return "trial-" + hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


class Stateless(Searcher):
    """A searcher of which Ray Tune keeps nothing: a sweep that goes on learns from the folders of its trials."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept."""


class Proposals(Stateless):
    """Ray Tune's searcher: `suggest` gives {"values": …}.

    Args:
        goals: the numbers of a report that are to be large; the first decides where there is one only.
        first: values to be tried before any others, such as the recipe's own, a grid, and trials that were interrupted.
        known: the values of earlier trials with what they reached, which a searcher that learns takes into account.
    """

    def __init__(self, recipe: Recipe, axes: Sequence[Axis], searcher: SearcherName, goals: Sequence[str], first: Iterable[Values],
                 known: Iterable[tuple[Values, Sequence[float] | None]] = ()):
        super().__init__(metric=goals[0], mode="max")
        self._recipe, self._axes, self._searcher, self._goals = recipe, axes, searcher, list(goals)
        self._first, self._asked = list(first), {}
        sampler = optuna.samplers.RandomSampler(seed=recipe.seed) if searcher != "tpe" else optuna.samplers.TPESampler(
            seed=recipe.seed, multivariate=True, group=True, constant_liar=True)
        self._study = optuna.create_study(directions=["maximize"] * len(goals), sampler=sampler)
        self._used = set()
        for values, reached in known:
            self._used.add(self._name(values))
            self._learn(values, reached)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Ray Tune calls this for the next trial; "FINISHED" ends the search."""
        while self._first:
            values = self._first.pop(0)
            if self._name(values) not in self._used:
                self._asked[trial_id] = (values, None)
                return self._given(values)
        for _ in range(ATTEMPTS + len(self._used) if self._searcher != "grid" else 0):  # a seeded searcher that goes on draws first what it drew before
            trial, values = self._study.ask(), {}
            for axis in self._axes:
                if axis.counts(values, self._recipe):
                    values[axis.field] = axis.draw(trial)
            if self._name(values) not in self._used:
                self._asked[trial_id] = (values, trial)
                return self._given(values)
            self._study.tell(trial, state=TrialState.FAIL)
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ray Tune calls this when a trial has ended, was stopped or failed."""
        values, trial = self._asked.pop(trial_id)
        reached = None if error or not result or any(goal not in result for goal in self._goals) else [result[goal] for goal in self._goals]
        if trial is None:
            self._learn(values, reached)
        elif reached is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, reached)

    def _name(self, values: Values) -> str:
        return trial_name(values, self._recipe, self._axes)

    def _given(self, values: Values) -> dict[str, Any]:
        self._used.add(self._name(values))
        return {"values": values}

    def _learn(self, values: Values, reached: Sequence[float] | None) -> None:
        """Tell Optuna of a trial that it has not asked for, if its values are among those that it may ask for."""
        searched = {axis.field: axis for axis in self._axes}
        if reached is None or not all(searched[name].holds(value) for name, value in values.items()):
            return
        distributions: dict[str, BaseDistribution] = {name: searched[name].distribution() for name in values}
        self._study.add_trial(create_trial(params={name: searched[name].drawn(value) for name, value in values.items()}, distributions=distributions, values=list(reached)))
