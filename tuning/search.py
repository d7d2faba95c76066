"""A search around a recipe, with Ray Tune and Optuna: the fields of its section `search`, or what its method's paper tuned by hand.

Each trial is a training run of its own, a child of the sweep's run in MLflow, with its folder under the sweep's: one worker trains in the trial's process,
several under Ray Train inside of the Tune function (the form that Train V2 supports). The first trial is the recipe itself, so that the sweep never ends
with less than what it was given. What is known of a trial stands in its folder alone: killed at any moment and started again, or asked for more trials, the
sweep goes on from there; trials that have ended stay, others continue from their checkpoints.

    runs/NAME/trials/TRIAL/   a run's folder: recipe, progress, model; checkpoints while it trains
              best.yaml       the best recipe, which `textray finetune` accepts
              trials.json     every trial, and how the winner was judged
              report.html     the same as a page, and as report.md
"""

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.search import ConcurrencyLimiter, Searcher

from models import own
from pipelines import cluster, tracking
from pipelines.cluster import start_ray
from pipelines.corpus import storage
from pipelines.corpus.account import counted
from pipelines.errors import BadInput
from pipelines.handles import RunHandle
from pipelines.progress import aside, say
from pipelines.state import parse_json
from pipelines.training import driver, record
from pipelines.training.alone import InProcess
from pipelines.training.crew import Engine
from pipelines.training.driver import find_start, room_for, settle, train, with_absolute_corpora
from pipelines.training.length import recalled
from pipelines.training.recipe import Recipe, parse_recipe
from pipelines.training.runs import RunFolder, RunState
from pipelines.training.worker import build_objective
from tuning.plan import SPEED, Plan
from tuning.proposals import Proposals, Stateless, trial_name
from tuning.report import write_reports
from tuning.schedulers import Halving, Median, Never, scheduler_of
from tuning.space import Axis, Values, grid, own_values, space_of, with_values
from tuning.trials import TrialResult, called, metric_of, note, result_at, trial_folder, trials_in
from tuning.winner import Judged, judge, read_tests

TRIALS = 8  # by default
DRIVER_CPUS = 0.1  # of a trial whose workers are processes of their own: it only waits
READER_CPUS = 0.2  # of a stream, which they read by tasks of their own
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a checkpoint before the first validation reports none yet
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the command, and is not taken for the end of the search
NEARLY = 1e-9  # 1 // 0.2 is 4


def run_trial(config: dict[str, Any], *, recipe: dict[str, Any], folder: str, parent: dict[str, str], at_once: int, own_files: dict[str, str]) -> None:
    """The function that Tune runs for each trial, in a process of its own: config is {"name": …, "values": …, "seed": …}."""
    own.remember(own_files)
    base = parse_recipe(recipe)
    mine = with_values(base, config["values"], config["name"]).model_copy(update={"seed": config["seed"]})
    train(mine, resume=True, folder=storage.join(folder, "trials", config["name"]), parent=RunHandle(**parent), engine=_engine(base, at_once), quiet=True)


def _engine(recipe: Recipe, at_once: int) -> Engine:
    """How a trial is trained, beside others."""
    if recipe.training.workers == 1:
        return InProcess(tune.report, beside=math.ceil(at_once / cluster.machines()))
    from ray.tune.integration.ray_train import TuneReportCallback

    from pipelines.training.distributed import OnRay
    cpus = ray.cluster_resources().get("CPU", 0.0)
    return OnRay([TuneReportCallback()], reserved_cpus=cpus * (at_once - 1) / at_once + DRIVER_CPUS)


def _gpus(recipe: Recipe, each: float | None = None) -> float:
    """The GPUs of a trial: as many as are asked for of one worker, else one for each worker if the cluster has as many and the recipe does not say otherwise."""
    workers, gpu = recipe.training.workers, recipe.training.gpu
    if each is not None:
        if workers > 1:
            raise BadInput(f"--gpus-per-trial: expected trials of one worker, found {workers}, each of which takes a GPU of its own: leave it out")
        return each
    return workers if cluster.gpus_for(workers, gpu) else 0


def concurrent_trials(recipe: Recipe, wanted: int | None, streams: int, gpus_per_trial: float | None = None) -> int:
    """How many trials fit into the cluster side by side, each with its workers, its readers and its driver.

    Raises:
        BadInput: not even one fits, or `wanted` do not.
    """
    count, gpus_each, alone = wanted or 1, _gpus(recipe, gpus_per_trial), recipe.training.workers == 1
    workers = recipe.training.workers * recipe.training.cpus_per_worker
    beside = 0.0 if alone else READER_CPUS * streams + DRIVER_CPUS
    each = workers + beside
    cluster.wait_for([{"CPU": recipe.training.cpus_per_worker} | ({"GPU": gpus_each / recipe.training.workers} if gpus_each else {})] * (recipe.training.workers * count)
                     + ([] if alone else [{"CPU": beside}] * count))
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if math.floor(cpus / each + NEARLY) < count:
        raise BadInput(f"a trial takes {each:g} CPUs ({workers:g} for its workers, the rest for readers and driver), so {count} at once need "
                       f"{each * count:g} of {cpus:g}; lower --concurrency, training.workers or training.cpus_per_worker")
    if gpus_each and math.floor(gpus / gpus_each + NEARLY) < count:
        raise BadInput(f"a trial takes {gpus_each:g} GPU{'s' if gpus_each != 1 else ''}, so {count} at once need {gpus_each * count:g} of {gpus:g}; lower --concurrency, "
                       "--gpus-per-trial or training.workers, or set training.gpu=false")
    fit = min(math.floor(cpus / each + NEARLY), math.floor(gpus / gpus_each + NEARLY) if gpus_each else sys.maxsize)
    return min(wanted or fit, fit)


def check_disk(recipe: Recipe, plan: Plan, count: int) -> None:
    """Raise BadInput if the trials may take more of the disk than they are given: checkpoints of those that run at once, and a model of each."""
    if plan.disk is None:
        return
    with torch.device("meta"):
        objective = build_objective(recipe)
    state = sum(value.numel() * value.element_size() for value in objective.state_dict().values() if isinstance(value, torch.Tensor))
    trained = sum(each.numel() * each.element_size() for each in objective.parameters() if each.requires_grad)
    model = sum(value.numel() * value.element_size() for value in objective.recognizer.state_dict().values())
    kept, runs = recipe.training.keep_checkpoints + 1, plan.trials + 2 * plan.seeds
    checkpoint = state + 2 * trained  # and what the optimizer keeps of each parameter
    needed = (count * (kept * checkpoint + model) + runs * model) / 1e9
    if needed > plan.disk:
        raise BadInput(f"--disk {plan.disk:g}: expected room for {counted(kept, 'checkpoint')} of {checkpoint / 1e9:.3g} GB of {counted(count, 'trial')} at once and for "
                       f"{counted(runs, 'model')} of {model / 1e9:.3g} GB, which is {needed:.3g} GB: give more, or lower --concurrency, --trials or training.keep_checkpoints")


def sweep(recipe: Recipe, plan: Plan, *, resume: bool = False) -> tuple[list[TrialResult], Judged]:
    """Search around a recipe; returns the trials, the best first, and how the winner was judged. Of a sweep that has as many trials already, complete what its
    record in MLflow lacks.

    Raises:
        BadInput: the recipe cannot be searched, or the plan cannot be.
    """
    axes, minutes = space_of(recipe), recipe.training.minutes
    metric = metric_of(recipe)
    plan = replace(plan, trials=plan.trials or (len(_grid(recipe, axes)) if plan.searcher == "grid" else TRIALS))
    where = RunFolder(storage.join(recipe.runs, recipe.name))
    _check_no_run(where)
    if (earlier := where.state()) is not None and earlier.status == "finished":
        settled_recipe = recalled(recipe, earlier).recipe
        if not _wants_more(settled_recipe, axes, plan, where):
            return _finished(settled_recipe, where, resume)
    if metric != "word_accuracy":
        say(f"no validation words: {called(metric)} decides, see docs/training.md" if recipe.data.validation is None else
            f"{called(metric)} decides, for {recipe.objective['name']} trains no decoder, see docs/training.md")
    read_tests(plan.tests)  # that they are there
    settled, streams = settle(recipe, earlier, lambda sized: _seconds_a_step(sized, plan))
    recipe = settled.recipe
    for sentence in settled.why:
        say(sentence)
    with room_for(where), where.claimed(recipe, resume) as state:
        start_ray()
        count = concurrent_trials(recipe, plan.concurrency, len(streams), plan.gpus_per_trial)
        check_disk(recipe, plan, count)
        if earlier is None:
            state.settled, state.minutes = dict(settled.fields), minutes
        if recipe.initialize_from:
            state.start, _ = find_start(recipe, state.start)
        state.status = "running"
        record.begin(where, state, lambda token: tracking.start_run(
            recipe.name, recipe.to_yaml(), params={"trials": plan.trials} | recipe.model_dump(mode="json"), token=token,
            tags={"sweep": ", ".join(axis.field for axis in axes)}))
        where.write(state)  # whoever is killed from here on, in a sweep that is asked for more, has not finished
        return _Sweep(recipe, axes, plan, count, where, state).run()


def _grid(recipe: Recipe, axes: Sequence[Axis]) -> list[Values]:
    """The recipe's own values, and all of the grid."""
    own = own_values(recipe, axes)
    return [own, *(values for values in grid(recipe, axes) if values != own)]


def _check_no_run(where: RunFolder) -> None:
    """Raise BadInput where a run lies that is no sweep: the sweep would be taken for it."""
    if where.state() is not None and any(storage.kind(place) == "folder" for place in (where.checkpoints, where.model)):
        raise BadInput(f"expected a new folder or a sweep at {where.place}, found a run: choose another name= for the sweep")


def _wants_more(recipe: Recipe, axes: Sequence[Axis], plan: Plan, where: RunFolder) -> bool:
    """Whether a finished sweep is asked for more trials, further seeds or other test sets than it has."""
    judged, ended = _judged(where), [trial for trial in trials_in(where, recipe, axes) if trial.ended]
    more_trials = plan.trials > len(ended) and not (plan.searcher == "grid" and {trial.name for trial in ended} >= {
        trial_name(values, recipe, axes) for values in _grid(recipe, axes)})
    more_seeds = judged.winner != "trial-recipe" and plan.seeds > len(judged.differences)
    return more_trials or more_seeds or not {words.name for words in read_tests(plan.tests)} <= judged.tests.keys()


def _seconds_a_step(recipe: Recipe, plan: Plan) -> float:
    """Of a trial's worker, beside those of the other trials that fit."""
    from pipelines.training.distributed import seconds_in_a_task
    start_ray()
    streams = sum(part is not None for part in (recipe.data.labeled, recipe.data.unlabeled))
    at_once = concurrent_trials(recipe, plan.concurrency, streams, plan.gpus_per_trial)
    return seconds_in_a_task(recipe, driver.own_files(recipe), math.ceil(at_once * recipe.training.workers / cluster.machines()))


class _Sweep:
    """A sweep that goes on now."""

    def __init__(self, recipe: Recipe, axes: tuple[Axis, ...], plan: Plan, count: int, where: RunFolder, state: RunState):
        self.recipe, self.axes, self.plan, self.count, self.where, self.state = recipe, axes, plan, count, where, state
        self.metric = metric_of(recipe)
        self.goals = [self.metric, SPEED] if plan.speed else [self.metric]

    def run(self) -> tuple[list[TrialResult], Judged]:
        """Search, judge, write."""
        self._search()
        ranked = ranked_by(trials_in(self.where, self.recipe, self.axes))
        if not ranked or not ranked[0].model:
            self._fail(ranked)
        before = _judged(self.where) if storage.kind(self.where.file("trials.json")) == "file" else None
        judged = judge(self.recipe, self.axes, ranked, self.plan, self._train_again, before)
        return _conclude(self.recipe, self.axes, ranked, judged, self.plan, self.where, self.state)

    def _search(self) -> None:
        earlier = trials_in(self.where, self.recipe, self.axes)
        ended = [trial for trial in earlier if trial.ended]
        first = [own_values(self.recipe, self.axes), *(trial.values for trial in earlier if not trial.ended)]
        first += _grid(self.recipe, self.axes) if self.plan.searcher == "grid" else []
        known = [(trial.values, self._reached(trial)) for trial in ended]
        if len(ended) < self.plan.trials:
            self._tune(Proposals(self.recipe, self.axes, self.plan.searcher, self.goals, first, known), self.plan.trials - len(ended),
                       scheduler_of(self.plan.scheduler, self.recipe, self.metric, ended))

    def _reached(self, trial: TrialResult) -> list[float] | None:
        numbers = [trial.accuracy, trial.images_per_second][:len(self.goals)]
        return None if None in numbers else numbers

    def _train_again(self, configs: Sequence[dict[str, Any]]) -> list[TrialResult]:
        """Train further runs, each to its end."""
        missing = [config for config in configs if not self._result(config).model]
        if missing:
            self._tune(_Listed(missing), len(missing), Never())
        return [self._result(config) for config in configs]

    def _result(self, config: dict[str, Any]) -> TrialResult:
        return result_at(trial_folder(self.where, config["name"]), config["name"], config["values"], self.metric)

    def _tune(self, searcher: Searcher, trials: int, scheduler: Halving | Median | Never) -> None:
        training = self.recipe.training
        alone = {"cpu": training.cpus_per_worker, "gpu": _gpus(self.recipe, self.plan.gpus_per_trial)}
        trainable = tune.with_resources(tune.with_parameters(
            run_trial, recipe=_absolute(self.recipe, self.state).model_dump(mode="json"), folder=self.where.place, parent=asdict(self.state.handle),
            own_files=driver.own_files(self.recipe), at_once=self.count), alone if training.workers == 1 else {"cpu": DRIVER_CPUS})
        named = _Named(searcher, self.recipe, self.axes)
        system, inside = storage.locate(self.where.place)
        storage.remove(self.where.file("tune"))  # Ray Tune's own state, which nobody needs
        tuner = tune.Tuner(
            trainable, tune_config=tune.TuneConfig(num_samples=trials, search_alg=ConcurrencyLimiter(named, max_concurrent=self.count), scheduler=scheduler),
            run_config=tune.RunConfig(name="tune", storage_path=inside, storage_filesystem=system, verbose=0,
                                      callbacks=[_Announce(self.where.place, trials, self.metric, scheduler)]))
        with aside():  # Ray Tune prints a table of its own
            tuner.fit()
        storage.remove(self.where.file("tune"))

    def _fail(self, trials: list[TrialResult]) -> None:
        _settle(self.where, self.state, trials, "FAILED")
        self.state.status = "failed"
        self.where.write(self.state)
        reasons = "; ".join(sorted({trial.error for trial in trials if trial.error})) or "no trial came to its end"
        raise BadInput(f"all {len(trials)} trials of the sweep {self.recipe.name} failed: {reasons}")


class _Listed(Stateless):
    """Runs that are given, one after another."""

    def __init__(self, configs: Sequence[dict[str, Any]]):
        super().__init__()
        self._left = list(configs)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Ray Tune calls this for the next one."""
        return self._left.pop(0) if self._left else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing is learned."""


class _Named(Stateless):
    """Gives what another searcher proposes a name and a seed, where it has none."""

    def __init__(self, inner: Searcher, recipe: Recipe, axes: Sequence[Axis]):
        super().__init__()
        self._inner, self._recipe, self._axes = inner, recipe, axes

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Ray Tune calls this for the next trial."""
        found = self._inner.suggest(trial_id)
        if not isinstance(found, dict):
            return found
        return {"name": trial_name(found["values"], self._recipe, self._axes), "seed": self._recipe.seed} | found

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ray Tune calls this when a trial has ended."""
        self._inner.on_trial_complete(trial_id, result, error)


def ranked_by(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """The best first. A trial that was stopped early has no model, whatever its accuracy was then: those that went to the end come before it. Of equal ones the recipe itself."""
    return sorted(trials, key=lambda trial: (bool(trial.model), -1.0 if trial.accuracy is None else trial.accuracy, trial.name == "trial-recipe"), reverse=True)


def _absolute(recipe: Recipe, state: RunState) -> Recipe:
    """The recipe of the trials, which run in processes with another working folder, some of them days later."""
    start = state.start.model if state.start else None
    return with_absolute_corpora(recipe).model_copy(update={"initialize_from": start, "runs": storage.absolute(recipe.runs)})


def _conclude(recipe: Recipe, axes: tuple[Axis, ...], ranked: list[TrialResult], judged: Judged, plan: Plan, where: RunFolder,
              state: RunState) -> tuple[list[TrialResult], Judged]:
    """Write the best recipe and the reports, close the sweep: its folder first, then its record."""
    best = ranked[0]
    with tempfile.TemporaryDirectory() as temporary:
        for file in write_reports(temporary, recipe, axes, ranked, judged, plan):
            storage.write_bytes(where.file(file.name), file.read_bytes())
    storage.write_bytes(where.file("best.yaml"), with_values(recipe, best.values, f"{recipe.name}_best").to_yaml().encode())
    storage.write_bytes(where.file("trials.json"), json.dumps({"trials": [asdict(trial) for trial in ranked], "judged": asdict(judged)}, indent=1).encode())
    numbers = {"step": best.steps, "time": time.time(), f"best_{metric_of(recipe)}": best.accuracy}
    storage.write_bytes(where.progress, json.dumps(numbers).encode() + b"\n")
    state.status = "finished"
    where.write(state)
    _settle(where, state, ranked, "FINISHED")
    return ranked, judged


def _kept(where: RunFolder) -> dict[str, Any]:
    """What a finished sweep says of its trials and its winner; one of an earlier version has the trials alone."""
    file = where.file("trials.json")
    found = parse_json(storage.read_bytes(file), dict[str, Any] | list[dict[str, Any]], file, "bring back a copy of this file, or choose another name=")
    if isinstance(found, dict):
        return found
    return {"trials": [{**trial, "stopped": "early" if trial["stopped"] else ""} for trial in found], "judged": {}}


def _judged(where: RunFolder) -> Judged:
    return Judged.from_json(_kept(where)["judged"])


def _finished(recipe: Recipe, where: RunFolder, resume: bool) -> tuple[list[TrialResult], Judged]:
    with where.claimed(recipe, resume) as state:
        say(f"the sweep {recipe.name} has finished already: {where.place}")
        ranked = [TrialResult(**{**trial, "curve": [(step, reached) for step, reached in trial["curve"]]}) for trial in _kept(where)["trials"]]
        _settle(where, state, ranked, "FINISHED")
        return ranked, _judged(where)


def _settle(where: RunFolder, state: RunState, ranked: list[TrialResult], status: str) -> None:
    """Complete the records of the trials, then the sweep's; not further than a store that is away."""
    for trial in ranked:
        folder = trial_folder(where, trial.name)
        tags = {"model": trial.model} if trial.model else {"stopped": trial.stopped or "failed"}
        if (known := folder.state()) is not None and not record.settle(folder, known, "FAILED" if trial.error else "FINISHED", tags):
            return
    names = ("best.yaml", "trials.json", "report.html", "report.md") if status == "FINISHED" else ()
    record.settle(where, state, status, files=lambda: {name: storage.read_bytes(where.file(name)) for name in names})


class _Announce(tune.Callback):
    """When a trial ends: one line on stderr, in its folder why it did not come to its last step, and its checkpoints, which nobody needs any more, are removed."""

    def __init__(self, place: str, trials: int, metric: str, scheduler: Halving | Median | Never):
        self._place, self._trials, self._metric, self._scheduler, self._ended = place, trials, metric, scheduler, 0

    def _folder(self, trial: Any) -> RunFolder:
        return trial_folder(RunFolder(self._place), trial.config["name"])

    def _say(self, trial: Any, how: str) -> None:
        self._ended += 1
        accuracy = (trial.last_result or {}).get(self._metric)
        shown = f", {called(self._metric)} {accuracy:.2%} at step {trial.last_result['step']}" if accuracy is not None else ""
        say(f"trial {self._ended}/{self._trials} {how}: {trial.config['name']}{shown}")

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tune calls this when a trial ends or is stopped."""
        folder = self._folder(trial)
        why = self._scheduler.why.get(trial.trial_id)
        if why:
            note(folder, trial.config["values"], stopped=why)
        storage.remove(folder.checkpoints)
        storage.remove(folder.best)
        self._say(trial, "stopped early" if why else "ended")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tune calls this when a trial fails."""
        reason = str(trial.get_error() or "unknown").strip().split("\n")[-1]
        note(self._folder(trial), trial.config["values"], error=reason)
        self._say(trial, f"failed ({reason})")
