"""A search around a recipe, with Ray Tune (ASHA): its confidence threshold, EMA rate and loss weight.

Each trial is a training run of its own, a child of the sweep's run in MLflow, with its folder under the sweep's: one worker trains in the
trial's process, several under Ray Train inside of the Tune function (the form that Train V2 supports). The first trial is the recipe itself, so that the sweep never ends with
less than what it was given. Killed at any moment and started again, the sweep goes on: finished trials stay, others continue
from their checkpoints.

    runs/NAME/trials/TRIAL/   a run's folder: recipe, progress, checkpoints, model
              tune/           Ray Tune's own state
              best.yaml       the best recipe, which `textray finetune` accepts
              report.html     every trial
"""

import json
import math
import os
import pickletools
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from models import own
from pipelines import tracking
from pipelines.cluster import start_ray
from pipelines.corpus import storage
from pipelines.corpus.account import counted
from pipelines.errors import BadInput
from pipelines.handles import RunHandle
from pipelines.progress import aside, say, warn
from pipelines.state import parse_json
from pipelines.training import driver, record
from pipelines.training.alone import InProcess
from pipelines.training.crew import Engine
from pipelines.training.driver import find_start, room_for, settle, train, with_absolute_corpora
from pipelines.training.length import recalled
from pipelines.training.recipe import Recipe, parse_recipe
from pipelines.training.runs import RunFolder, RunState
from tuning.report import write_report
from tuning.space import OWN, Axis, space_of, values_at, with_values
from tuning.trials import TrialResult, called, metric_of, result_of, trial_name

DRIVER_CPUS = 0.1  # of a trial whose workers are processes of their own: it only waits
READER_CPUS = 0.2  # of a stream, which they read by tasks of their own
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a checkpoint before the first validation reports none yet


def run_trial(config: dict[str, float], *, recipe: dict[str, Any], folder: str, parent: dict[str, str], at_once: int,
              own_files: dict[str, str]) -> None:
    """The function that Tune runs for each trial, in a process of its own."""
    own.remember(own_files)
    base = parse_recipe(recipe)
    name = trial_name(config)
    train(with_values(base, values_at(config, base), name), resume=True, folder=storage.join(folder, "trials", name), parent=RunHandle(**parent),
          engine=_engine(base, at_once), quiet=True)


def _engine(recipe: Recipe, at_once: int) -> Engine:
    """How a trial is trained, beside others."""
    if recipe.training.workers == 1:
        return InProcess(tune.report, beside=math.ceil(at_once / len(ray.nodes())))
    from ray.tune.integration.ray_train import TuneReportCallback

    from pipelines.training.distributed import OnRay
    cpus = ray.cluster_resources()["CPU"]
    return OnRay([TuneReportCallback()], reserved_cpus=cpus * (at_once - 1) / at_once + DRIVER_CPUS)


def _gpus(recipe: Recipe) -> int:
    """The GPUs of a trial: one for each worker if the cluster has as many and the recipe does not say otherwise."""
    workers, gpu = recipe.training.workers, recipe.training.gpu
    wanted = ray.cluster_resources().get("GPU", 0) >= workers if gpu is None else gpu
    return workers if wanted else 0


def concurrent_trials(recipe: Recipe, wanted: int | None, streams: int) -> int:
    """How many trials fit into the cluster side by side, each with its workers, its readers and its driver.

    Raises:
        BadInput: not even one fits, or `wanted` do not.
    """
    resources, count = ray.cluster_resources(), wanted or 1
    cpus, gpus, gpus_each = resources.get("CPU", 0.0), int(resources.get("GPU", 0)), _gpus(recipe)
    workers = recipe.training.workers * recipe.training.cpus_per_worker
    beside = 0.0 if recipe.training.workers == 1 else READER_CPUS * streams + DRIVER_CPUS
    each = workers + beside
    if cpus // each < count:
        raise BadInput(f"a trial takes {each:g} CPUs ({workers:g} for its workers, the rest for readers and driver), so {count} at once need "
                       f"{each * count:g} of {cpus:g}; lower --concurrency, training.workers or training.cpus_per_worker")
    if gpus_each and gpus // gpus_each < count:
        raise BadInput(f"a trial takes {counted(gpus_each, 'GPU')}, so {count} at once need {gpus_each * count} of {gpus}; lower --concurrency or "
                       "training.workers, or set training.gpu=false")
    fit = min(int(cpus // each), gpus // gpus_each if gpus_each else sys.maxsize)
    return min(wanted or fit, fit)


def sweep(recipe: Recipe, *, trials: int, concurrency: int | None = None, resume: bool = False) -> list[TrialResult]:
    """Search around a recipe; returns the trials, the best first. Of a sweep that has finished, complete what its record in MLflow lacks.

    Raises:
        BadInput: the recipe cannot be searched.
    """
    axes, minutes = space_of(recipe), recipe.training.minutes
    where = RunFolder(storage.join(recipe.runs, recipe.name))
    if (earlier := where.state()) is not None and earlier.status == "finished":
        return _finished(recalled(recipe, earlier).recipe, where, resume)
    if recipe.data.validation is None:
        say(f"no validation words: {called(metric_of(recipe))} decides, which needs no labels, see docs/training.md")
    settled, streams = settle(recipe, earlier, lambda sized: _seconds_a_step(sized, concurrency))
    recipe = settled.recipe
    for sentence in settled.why:
        say(sentence)
    with room_for(where), where.claimed(recipe, resume) as state:
        start_ray()
        count = concurrent_trials(recipe, concurrency, len(streams))
        if earlier is None:
            state.settled, state.minutes = dict(settled.fields), minutes
        if recipe.initialize_from:
            state.start, _ = find_start(recipe, state.start)
        record.begin(where, state, lambda token: tracking.start_run(
            recipe.name, recipe.to_yaml(), params={"trials": trials} | recipe.model_dump(mode="json"), token=token,
            tags={"sweep": ", ".join(axis.field for axis in axes)}))
        return _conclude(recipe, axes, _search(recipe, axes, trials, count, where, state), where, state)


def _seconds_a_step(recipe: Recipe, concurrency: int | None) -> float:
    """Of a trial's worker, beside those of the other trials that fit."""
    from pipelines.training.distributed import seconds_in_a_task
    start_ray()
    streams = sum(part is not None for part in (recipe.data.labeled, recipe.data.unlabeled))
    at_once = concurrent_trials(recipe, concurrency, streams)
    return seconds_in_a_task(recipe, driver.own_files(recipe), math.ceil(at_once * recipe.training.workers / len(ray.nodes())))


def _search(recipe: Recipe, axes: tuple[Axis, ...], trials: int, count: int, where: RunFolder, state: RunState) -> list[TrialResult]:
    metric, training = metric_of(recipe), recipe.training
    alone = {"cpu": training.cpus_per_worker, "gpu": _gpus(recipe)}
    trainable = tune.with_resources(tune.with_parameters(
        run_trial, recipe=_absolute(recipe, state).model_dump(mode="json"), folder=where.place, parent=asdict(state.handle),
        own_files=driver.own_files(recipe), at_once=count), alone if training.workers == 1 else {"cpu": DRIVER_CPUS})
    system, inside = storage.locate(where.place)
    if restorable(where.file("tune")):
        tuner = tune.Tuner.restore(storage.join(inside, "tune"), storage_filesystem=system, trainable=trainable, resume_unfinished=True,
                                   resume_errored=True)
    else:
        start = {axis.field: OWN for axis in axes}
        tuner = tune.Tuner(
            trainable, param_space={axis.field: axis.domain() for axis in axes},
            tune_config=tune.TuneConfig(metric=metric, mode="max", num_samples=trials,  # the generator heeds only its own max_concurrent
                                        search_alg=BasicVariantGenerator(points_to_evaluate=[start], max_concurrent=count,
                                                                         random_state=recipe.seed),
                                        scheduler=_halving(recipe)),
            run_config=tune.RunConfig(name="tune", storage_path=inside, storage_filesystem=system, verbose=0, callbacks=[_Announce(trials, metric)]))
    with aside():  # Ray Tune prints a table of its own
        grid = tuner.fit()
    return [result_of(result, recipe, where) for result in grid]


def restorable(place: str) -> bool:
    """Whether Ray Tune's own state lies there, whole. One that is torn is removed: the trials are drawn by a seed, and their folders outlive it."""
    try:
        names = storage.list_names(place)
    except FileNotFoundError:
        return False
    try:
        for file in (storage.join(place, name) for name in names):
            if file.endswith(".json"):
                parse_json(storage.read_bytes(file), dict[str, Any], file, "")
            elif file.endswith(".pkl"):
                for _ in pickletools.genops(storage.read_bytes(file)):  # as far as a pickle goes without running it
                    pass
    except (BadInput, ValueError, UnicodeDecodeError) as problem:
        warn(f"the state of the search in {place} is torn ({str(problem).rstrip(': ')}); its trials are taken from their folders")
        storage.remove(place)
        return False
    return "tuner.pkl" in names


def _halving(recipe: Recipe) -> ASHAScheduler | None:
    """ASHA, which stops the worse half of the trials at steps e, 2 e, 4 e …, e being the steps between validations; None if the only validation is the last.

    A trial at its last step must not be stopped, for its model is written only then: the milestones end before that step.
    """
    steps, every = recipe.training.steps, recipe.training.steps_between_validations
    if every >= steps:
        return None
    return ASHAScheduler(time_attr="step", max_t=steps - 1, grace_period=every, reduction_factor=2, stop_last_trials=False)


def _absolute(recipe: Recipe, state: RunState) -> Recipe:
    """The recipe of the trials, which run in processes with another working folder, some of them days later."""
    start = state.start.model if state.start else None
    return with_absolute_corpora(recipe).model_copy(update={"initialize_from": start, "runs": storage.absolute(recipe.runs)})


def _conclude(recipe: Recipe, axes: tuple[Axis, ...], results: list[TrialResult], where: RunFolder, state: RunState) -> list[TrialResult]:
    """Rank the trials, write the best recipe and the report, close the sweep: its folder first, then its record."""
    # A trial that was stopped early has no model, whatever its accuracy was then: those that went to the end come first.
    ranked = sorted(results, key=lambda result: (bool(result.model), result.accuracy or -1.0), reverse=True)
    best = ranked[0]
    if not best.model:
        _settle(where, state, ranked, "FAILED")
        state.status = "failed"
        where.write(state)
        reasons = "; ".join(sorted({result.error for result in ranked if result.error})) or "no trial came to its end"
        raise BadInput(f"all {len(ranked)} trials of the sweep {recipe.name} failed: {reasons}")
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary, "report.html")
        write_report(report, recipe, axes, ranked)
        storage.write_bytes(where.file("report.html"), report.read_bytes())
    storage.write_bytes(where.file("best.yaml"), with_values(recipe, best.values, f"{recipe.name}_best").to_yaml().encode())
    storage.write_bytes(where.file("trials.json"), json.dumps([asdict(result) for result in ranked], indent=1).encode())
    numbers = {"step": best.steps, "time": time.time(), f"best_{metric_of(recipe)}": best.accuracy}
    storage.write_bytes(where.progress, json.dumps(numbers).encode() + b"\n")
    state.status = "finished"
    where.write(state)
    _settle(where, state, ranked, "FINISHED")
    return ranked


def _finished(recipe: Recipe, where: RunFolder, resume: bool) -> list[TrialResult]:
    with where.claimed(recipe, resume) as state:
        say(f"the sweep {recipe.name} has finished already: {where.place}")
        file = where.file("trials.json")
        ranked = parse_json(storage.read_bytes(file), list[TrialResult], file, "bring back a copy of this file, or choose another name=")
        _settle(where, state, ranked, "FINISHED")
        return ranked


def _settle(where: RunFolder, state: RunState, ranked: list[TrialResult], status: str) -> None:
    """Complete the records of the trials, then the sweep's; not further than a store that is away."""
    for result in ranked:
        folder = RunFolder(where.file(f"trials/{result.name}"))
        tags = {"model": result.model} if result.model else {"stopped": "failed" if result.error else "early, by ASHA"}
        if (trial := folder.state()) is not None and not record.settle(folder, trial, "FAILED" if result.error else "FINISHED", tags):
            return
    names = ("best.yaml", "trials.json", "report.html") if status == "FINISHED" else ()
    record.settle(where, state, status, files={name: storage.read_bytes(where.file(name)).decode() for name in names})


class _Announce(tune.Callback):
    """One line on stderr when a trial ends."""

    def __init__(self, trials: int, metric: str):
        self._trials, self._metric, self._ended = trials, metric, 0

    def _say(self, trial, how: str) -> None:
        self._ended += 1
        accuracy = (trial.last_result or {}).get(self._metric)
        shown = f", {called(self._metric)} {accuracy:.2%} at step {trial.last_result['step']}" if accuracy is not None else ""
        say(f"trial {self._ended}/{self._trials} {how}: {trial_name(trial.config)}{shown}")

    def on_trial_complete(self, iteration, trials, trial, **info) -> None:
        """Tune calls this when a trial ends or is stopped."""
        self._say(trial, "ended")

    def on_trial_error(self, iteration, trials, trial, **info) -> None:
        """Tune calls this when a trial fails."""
        self._say(trial, "failed")
