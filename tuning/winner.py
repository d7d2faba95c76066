"""How the winner of a sweep is judged: trained again with further seeds beside the recipe that it comes from, and read on test sets, once.

The trial that read the most validation words among many is partly a lucky one. Further seeds have no part in that choice: the differences between the
winner and the recipe itself, seed by seed, are what the sweep has found.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from pipelines.arguments import Parser
from pipelines.evaluation.model import Measured
from pipelines.evaluation.options import add_reading_arguments
from pipelines.ingestion.wordsets import WordSet, open_sets
from pipelines.reading.options import add_options
from pipelines.training.recipe import Recipe
from tuning.plan import Plan
from tuning.space import Axis, own_values
from tuning.trials import TrialResult

Again = Callable[[Sequence[dict[str, Any]]], list[TrialResult]]


@dataclass
class Judged:
    """What is known of the winner beside the sweep's own numbers.

    winner: its trial. words: that decide. best, own: what decides, in [0, 1], of the winner and of the recipe itself with each further seed. tests: of each set the words, those read rightly, and
    the 95 % interval.
    """

    winner: str = ""
    words: int | None = None
    best: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0  # of training with further seeds

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Judged":
        """As `asdict` gave it."""
        return cls(**found)

    @property
    def differences(self) -> list[float]:
        """The winner less the recipe itself, seed by seed."""
        return [best - own for best, own in zip(self.best, self.own, strict=True)]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of their mean, by Student's distribution; None of fewer than two seeds. Differences that are equal by chance are taken to be a word apart."""
        found = self.differences
        if len(found) < 2:
            return None
        spread = max(stdev(found), 1 / self.words if self.words else 0.0)
        half = float(student.ppf(0.975, len(found) - 1)) * spread / math.sqrt(len(found))
        return mean(found) - half, mean(found) + half

    def verdict(self, best: TrialResult) -> str:
        """A sentence."""
        if best.name == "trial-recipe":
            return "No trial read more than the recipe itself."
        if not self.differences:
            return "The lead of the best trial over the recipe itself was not tried with further seeds (--seeds 3), so it may be luck."
        gain, found = f"{100 * mean(self.differences):+.2f} points over {len(self.differences)} further seeds", self.interval
        if found is None:
            return f"The best trial and the recipe itself differ by {100 * self.differences[0]:+.2f} points with one further seed: two or more tell more."
        shown = f"{gain} (95 % interval {100 * found[0]:+.2f} to {100 * found[1]:+.2f})"
        if found[0] > 0:
            return f"The best trial is better than the recipe itself: {shown}."
        return f"The best trial is worse than the recipe itself: {shown}." if found[1] < 0 else f"The best trial and the recipe itself are not told apart: {shown}."


def judge(recipe: Recipe, axes: Sequence[Axis], ranked: Sequence[TrialResult], plan: Plan, again: Again, before: Judged | None = None) -> Judged:
    """Train the best trial and the recipe itself with further seeds, and read the test sets with the best trial's model.

    before: what was known; of the same winner its test sets are not read again.
    """
    best = ranked[0]
    judged = Judged(best.name, best.words)
    if plan.seeds and best.name != "trial-recipe":
        seeds = range(recipe.seed + 1, recipe.seed + 1 + plan.seeds)
        pairs = ((best.name, best.values), ("trial-recipe", own_values(recipe, axes)))
        configs = [{"name": f"{name}-seed-{seed}", "values": values, "seed": seed} for seed in seeds for name, values in pairs]
        results = again(configs)
        judged.seconds = sum(result.seconds or 0.0 for result in results)
        found = {result.name: result.accuracy if result.model else None for result in results}  # of one that was cut short nothing counts
        both = [(found[f"{best.name}-seed-{seed}"], found[f"trial-recipe-seed-{seed}"]) for seed in seeds]
        judged.best, judged.own = ([pair[side] for pair in both if None not in pair] for side in (0, 1))
    judged.tests = dict(before.tests) if before is not None and before.winner == best.name else {}
    unread = [words for words in read_tests(plan.tests) if words.name not in judged.tests]
    if unread:
        model = Measured(best.model, _reading(plan.tests))
        for words in unread:
            score = model.read(words).evaluation.score
            judged.tests[words.name] = {"words": score.words, "correct": score.correct, "accuracy": score.accuracy, "interval_95": list(score.interval)}
    return judged


def read_tests(tests: Sequence[str]) -> list[WordSet]:
    """The sets. Raises BadInput for one that cannot be opened."""
    return open_sets(list(tests)) if tests else []


def _reading(tests: Sequence[str]) -> argparse.Namespace:
    """The options of `textray evaluate` as they are by default."""
    parser = Parser()
    add_reading_arguments(parser)
    add_options(parser)
    return parser.parse_args([argument for test in tests for argument in ("--data", test)])
