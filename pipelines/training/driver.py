"""The loop under Ray Train: workers, checkpoints, failures, and the run's records.

The driver checks everything that can be checked before a process is started, claims the run's folder, and starts the workers; each
worker builds the recipe's objective, takes its share of the feed and runs `loop.fit`. Rank 0 writes progress, metrics and checkpoints.
"""

import json
import math
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from models.costs import frames
from models.recognizer import Recognizer
from pipelines import tracking
from pipelines.cluster import start_ray
from pipelines.corpus.reader import Corpus
from pipelines.corpus.storage import absolute
from pipelines.errors import BadInput
from pipelines.evaluation.protocols import rule_of
from pipelines.feed.datasource import Readers, tasks_at_once
from pipelines.feed.selection import Selection
from pipelines.feed.stream import Stream, open_stream
from pipelines.reading.batches import shape_of
from pipelines.reading.weights import find_model, save_recognizer
from pipelines.training.recipe import Recipe
from pipelines.training.runs import RunFolder
from pipelines.training.validation import check_words
from pipelines.training.worker import Job, build_objective, trained_parts, work


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    folder: Path
    model: Path
    metrics: dict[str, Any]


def open_streams(recipe: Recipe, lanes: int | None = None) -> dict[str, Stream]:
    """The labeled and unlabeled streams that the recipe's objective wants, counted and checked.

    Args:
        lanes: of the run that is continued; None for a new one.

    Raises:
        BadInput: a stream is missing from the recipe, its corpus cannot be used, or is smaller than a batch.
    """
    with torch.device("meta"):  # shapes only: a large model costs nothing here
        objective = build_objective(recipe)
    streams = {}
    for part in objective.views:
        source = getattr(recipe.data, part)
        if source is None:
            raise BadInput(f"the objective {recipe.objective['name']} needs data.{part} (its corpus and batch_size), found none in the recipe")
        widths = shape_of(objective.recognizer).buckets()
        of_width = ctc_frames(recipe, objective.recognizer, [width for _, width in widths]) if part == "labeled" else {}
        selection = Selection(recipe.charset.characters if part == "labeled" else None, objective.recognizer.max_length,
                              of_width.get(objective.recognizer.width), source.fraction, recipe.seed)
        streams[part] = open_stream([absolute(corpus) for corpus in source.corpora], selection, batch_size=source.batch_size,
                                    seed=recipe.seed * 2 + (part == "unlabeled"), workers=recipe.training.workers, weights=source.weights,
                                    widths=widths, frames=of_width, lanes=lanes)
    return streams


def ctc_frames(recipe: Recipe, recognizer: Recognizer, widths: Sequence[int]) -> dict[int, int]:
    """The frames that a CTC decoder has for an image, by its width in pixels: the recognizer's and those of its buckets. Empty for other decoders.

    Raises:
        BadInput: the recipe asks for longer texts than there are frames. A default max_length may be above them, as that of the benchmark's CRNN
            is (25 in 24 frames): labels that do not fit are left out one by one.
    """
    if recognizer.decoder.kind != "ctc":
        return {}
    of_width = {width: frames(recognizer, width) for width in {*widths, recognizer.width}}
    if "max_length" in recipe.recognizer.options and recognizer.max_length > of_width[recognizer.width]:
        raise BadInput(f"recognizer.options.max_length: expected at most {of_width[recognizer.width]}, the frames of an image of {recognizer.width} "
                       f"pixels, found {recognizer.max_length}: CTC writes a character in a frame; lower it, or take wider images")
    return of_width


LEAST_CPUS = 0.05  # of a task that reads; reading takes a few percent of a core for each thousand images a second
SHARE_OF_STORE = 0.5  # of the object store, for blocks that are read ahead


def share_readers(recipe: Recipe, streams: dict[str, Stream], reserved: float = 0.0) -> Readers:
    """What each worker's reading of each stream may take: all that the workers leave of the cluster, divided evenly.

    Args:
        reserved: CPUs that others hold, such as the other trials of a sweep.

    Raises:
        BadInput: the workers leave too little; some of them would wait for ever for their next batch.
    """
    resources, training = ray.cluster_resources(), recipe.training
    total = resources.get("CPU", 0.0)
    tasks = training.workers * sum(map(tasks_at_once, streams.values()))
    left = total - reserved - training.workers * training.cpus_per_worker
    if left < LEAST_CPUS * tasks:
        wanted = (total - reserved - 2 * LEAST_CPUS * tasks) / training.workers
        mend = f"set training.cpus_per_worker={wanted:.2g}" if wanted > 0 else "take a larger cluster"
        raise BadInput(f"{training.workers} workers with {training.cpus_per_worker:g} CPUs each leave {max(left, 0):.2g} of {total - reserved:g} CPUs "
                       f"for the {tasks} tasks that read for them, which need at least {LEAST_CPUS * tasks:.2g}; {mend}, or lower training.workers")
    memory = SHARE_OF_STORE * resources.get("object_store_memory", math.inf) * (1 - reserved / total)
    return Readers(min(1.0, left / tasks), memory / (training.workers * len(streams)))


def train(recipe: Recipe, *, resume: bool = False, folder: Path | None = None, parent: tracking.RunHandle | None = None,
          callbacks: Sequence = (), reserved_cpus: float = 0.0, quiet: bool = False) -> Outcome:
    """Train what a recipe describes, or continue where it was killed.

    Args:
        folder: of the run; by default recipe.runs/recipe.name.
        parent: the MLflow run that this one belongs to.
        callbacks: of Ray Train, such as Tune's.
        reserved_cpus: CPUs of the cluster that this run must leave alone.
    Raises:
        BadInput: something in the recipe cannot be, or training met a loss that is not finite.
    """
    where = RunFolder(folder or Path(recipe.runs) / recipe.name)
    earlier = where.state()
    streams = open_streams(recipe, earlier and earlier.lanes)
    if recipe.data.validation:
        check_words(Corpus.open(recipe.data.validation.corpus), recipe.data.validation.words, rule_of(recipe.recognizer.rule, recipe.charset))
    if recipe.initialize_from:
        find_model(recipe.initialize_from, recipe.runs)
    with where.claimed(recipe, resume) as state:
        if state.status == "finished":
            _say(f"the run {recipe.name} has finished already: {where.model}", quiet)
            return Outcome(where.path, where.model, _last_metrics(where))
        corpora = fingerprints(recipe)
        state.check_corpora(corpora)
        start_ray()
        readers = share_readers(recipe, streams, reserved_cpus)
        if earlier is not None:
            _say(f"continuing the run {recipe.name} in {where.path}", quiet)
            with where.training(lambda: _say("waiting for the killed run's workers to end", quiet)):
                pass
        _say_streams(streams, quiet)
        if state.handle is None:
            state.tracked = vars(_start_tracking(recipe, streams, parent))
        else:
            tracking.reopen(state.handle)
        state.status, state.corpora, state.lanes = "running", corpora, next(iter(streams.values())).lanes
        where.write(state)
        try:
            metrics = _fit(recipe, streams, where, state.handle, readers, list(callbacks), quiet)
        except BaseException as problem:
            state.status = "failed"
            where.write(state)
            tracking.finish(state.handle, "KILLED" if isinstance(problem, KeyboardInterrupt) else "FAILED")
            raise
        state.status = "finished"
        where.write(state)
        tracking.add_tags(state.handle, {"model": str(where.model)})
        tracking.finish(state.handle)
        return Outcome(where.path, where.model, metrics)


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """The sha256 of every corpus that a recipe names, by its absolute place."""
    parts = [part for part in (recipe.data.labeled, recipe.data.unlabeled) if part is not None]
    places = [place for part in parts for place in part.corpora] + ([recipe.data.validation.corpus] if recipe.data.validation else [])
    return {absolute(place): Corpus.open(place).sha256 for place in places}


def _start_tracking(recipe: Recipe, streams: dict[str, Stream], parent: tracking.RunHandle | None) -> tracking.RunHandle:
    corpora = {f"{part}.{number}" if number else part: Corpus.open(path).sha256
               for part, stream in streams.items() for number, path in enumerate(stream.paths)}
    if recipe.data.validation:
        corpora["validation"] = Corpus.open(recipe.data.validation.corpus).sha256
    return tracking.start_run(recipe.name, recipe.to_yaml(), params=recipe.model_dump(mode="json"), corpora=corpora, parent=parent,
                              tags={"recipe": recipe.name, "objective": recipe.objective["name"], "digest": recipe.digest})


def _fit(recipe: Recipe, streams: dict[str, Stream], where: RunFolder, handle: tracking.RunHandle, readers: Readers, callbacks: list,
         quiet: bool) -> dict[str, Any]:
    training = recipe.training
    gpu = ray.cluster_resources().get("GPU", 0) >= training.workers if training.gpu is None else training.gpu
    job = Job(_absolute(recipe).model_dump(mode="json"), streams, vars(handle), str(where.path), readers)
    trainer = TorchTrainer(
        work, train_loop_config={"job": job},
        scaling_config=ScalingConfig(num_workers=training.workers, use_gpu=gpu, resources_per_worker={"CPU": training.cpus_per_worker}
                                     | ({"GPU": 1} if gpu else {})),
        run_config=RunConfig(name="checkpoints", storage_path=str(where.path), callbacks=callbacks,
                             failure_config=FailureConfig(max_failures=training.max_failures),
                             checkpoint_config=CheckpointConfig(num_to_keep=training.keep_checkpoints)))
    with _Progress(where, training.steps, quiet):
        try:
            result = trainer.fit()
        except TrainingFailedError:
            if where.failure.is_file():
                raise BadInput(where.failure.read_text(encoding="utf-8")) from None
            raise
    with result.checkpoint.as_directory() as checkpoint:
        _keep_model(recipe, Path(checkpoint), where)
    return dict(result.metrics)


def _absolute(recipe: Recipe) -> Recipe:
    """The recipe with paths that mean the same in every process."""
    data = recipe.data
    if data.validation:
        validation = data.validation.model_copy(update={"corpus": absolute(data.validation.corpus)})
        data = data.model_copy(update={"validation": validation})
    start = recipe.initialize_from and str(find_model(recipe.initialize_from, recipe.runs).absolute())
    return recipe.model_copy(update={"data": data, "initialize_from": start})


def _keep_model(recipe: Recipe, checkpoint: Path, where: RunFolder) -> None:
    """The recognizer of the last checkpoint, as a model folder."""
    objective = build_objective(recipe)
    objective.load_state_dict(torch.load(checkpoint / "state.pt", weights_only=True)["objective"])
    save_recognizer(where.model, objective.recognizer, {"run": recipe.name, "objective": recipe.objective["name"], "digest": recipe.digest,
                                                        "rule": recipe.recognizer.rule, "trained": trained_parts(objective)})


def _last_metrics(where: RunFolder) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for line in where.progress.read_text(encoding="utf-8").splitlines() if where.progress.is_file() else []:
        numbers |= json.loads(line)
    return numbers


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        print(line, file=sys.stderr, flush=True)


def _say_streams(streams: dict[str, Stream], quiet: bool) -> None:
    for part, stream in streams.items():
        left_out = "".join(f"; left out {count}: {reason}" for reason, count in stream.left_out.items())
        _say(f"{part}: {stream.rows} images of {', '.join(stream.paths)}, {stream.batch_size} a step and worker{left_out}", quiet)


class _Follower:
    """The lines that come to a file from now on, as soon as they are complete."""

    def __init__(self, file: Path):
        self._file, self._offset = file, file.stat().st_size if file.is_file() else 0

    def new(self) -> list[str]:
        if not self._file.is_file():
            return []
        with open(self._file, encoding="utf-8") as file:
            file.seek(self._offset)
            lines = file.read()
        complete = lines[:lines.rfind("\n") + 1]
        self._offset += len(complete.encode())
        return complete.splitlines()


class _Progress:
    """Prints what rank 0 appends to the run's progress file, with the time left, and what any rank has to say."""

    def __init__(self, where: RunFolder, steps: int, quiet: bool):
        self._numbers, self._notices, self._steps, self._quiet = _Follower(where.progress), _Follower(where.notices), steps, quiet
        self._done = threading.Event()
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> "_Progress":
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *problem) -> None:
        self._done.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._done.wait(0.5):
            self._print_new()
        self._print_new()

    def _print_new(self) -> None:
        for line in self._numbers.new():
            _say(self._line(json.loads(line)), self._quiet)
        for line in self._notices.new():
            _say(line, self._quiet)

    def _line(self, numbers: dict[str, Any]) -> str:
        step, now = numbers.pop("step"), numbers.pop("time")
        self._first = self._first or (step, now)
        rate = (step - self._first[0]) / (now - self._first[1]) if now > self._first[1] else 0.0
        left = f"  left {time.strftime('%H:%M:%S', time.gmtime((self._steps - step) / rate))}" if rate > 0 and step < self._steps else ""
        shown = "  ".join(f"{name.replace('_', ' ')} {value:,.0f}" if value >= 1000 else f"{name.replace('_', ' ')} {value:.4g}"
                          for name, value in numbers.items())
        return f"step {step}/{self._steps}  {shown}{left}"
