"""What ends a trial before its last step, and the sentence that says why."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from pipelines.training.recipe import Recipe
from tuning.plan import SchedulerName
from tuning.trials import TrialResult, called


class Halving(ASHAScheduler):
    """ASHA (Li et al., MLSys 2020): at steps e, 2 e, 4 e … a trial goes on if it is among the better half of those that came so far before it.

    earlier: trials of a command before this one, which count as if it had seen them.
    """

    def __init__(self, metric: str, every: int, steps: int, earlier: Iterable[TrialResult] = ()):
        # A trial at its last step must not be stopped, for its model is written only then: the milestones end before that step.
        super().__init__(time_attr="step", metric=metric, mode="max", max_t=steps - 1, grace_period=every, reduction_factor=2, stop_last_trials=False)
        self._steps = steps
        self.why: dict[str, str] = {}
        for trial in earlier:
            for step, reached in trial.curve:
                self._brackets[0].on_result(SimpleNamespace(trial_id=trial.name), step, reached)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Ray Tune asks after every report."""
        if result["step"] >= self._steps:
            return TrialScheduler.CONTINUE
        before = [(milestone, list(recorded.values())) for milestone, recorded in self._brackets[0]._rungs]
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            milestone, others = next((milestone, others) for milestone, others in before if result["step"] >= milestone)
            cutoff = self._brackets[0].cutoff(dict(enumerate(others)))
            self.why[trial.trial_id] = (f"by ASHA at step {result['step']:,}: {called(self._metric)} {100 * result[self._metric]:.2f} %, where the better half of "
                                        f"{len(others)} trials had {100 * cutoff:.2f} % or more")
        return decision


class Median(MedianStoppingRule):
    """A trial ends whose best number is below the median of the others' means at that step (Golovin et al., KDD 2017)."""

    def __init__(self, metric: str, every: int, steps: int):
        super().__init__(time_attr="step", metric=metric, mode="max", grace_period=every, min_samples_required=3)
        self._steps = steps
        self.why: dict[str, str] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Ray Tune asks after every report."""
        if self._metric not in result or result["step"] >= self._steps:  # at its last step a trial must not be stopped, for its model is written only then
            return TrialScheduler.CONTINUE
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            self.why[trial.trial_id] = f"by the median rule at step {result['step']:,}: {called(self._metric)} {100 * result[self._metric]:.2f} %, below the median of the others"
        return decision


    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        """Ray's rule would pause trials until there are others to compare with, and so end their processes."""
        return TrialScheduler.CONTINUE


class Never(FIFOScheduler):
    """Every trial comes to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.why: dict[str, str] = {}


def scheduler_of(name: SchedulerName, recipe: Recipe, metric: str, earlier: Iterable[TrialResult]) -> Halving | Median | Never:
    """The scheduler of that name; Never where the only validation is at the last step."""
    steps, every = recipe.training.steps, recipe.training.steps_between_validations
    if name == "none" or every >= steps:
        return Never()
    return Median(metric, every, steps) if name == "median" else Halving(metric, every, steps, earlier)
