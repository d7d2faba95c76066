"""The loop under Ray Train: workers, checkpoints, failures, and the run's records.

The driver checks everything that can be checked before a process is started, claims the run's folder, and starts the workers; each
worker builds the recipe's objective, takes its share of the feed and runs `loop.fit`. Rank 0 writes progress and checkpoints; the driver
brings progress to MLflow.
"""

import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from models import own
from models.costs import frames
from models.recognizer import Recognizer
from pipelines import tracking
from pipelines.cluster import start_ray
from pipelines.corpus import storage
from pipelines.corpus.account import counted
from pipelines.corpus.reader import Corpus
from pipelines.errors import NO_ROOM, BadInput, disk_full
from pipelines.evaluation.protocols import rule_of
from pipelines.feed.datasource import Readers, tasks_at_once
from pipelines.feed.selection import Selection
from pipelines.feed.stream import Stream, open_stream
from pipelines.reading.batches import shape_of
from pipelines.reading.weights import DESCRIPTION, WEIGHTS, find_model, model_files, pinned, read_description, save_recognizer
from pipelines.training import checkpoints, record
from pipelines.training.journal import cut_torn_line, read_journal
from pipelines.training.prospects import of_words
from pipelines.training.recipe import Recipe
from pipelines.training.runs import RunFolder, RunState, Start
from pipelines.training.validation import check_words
from pipelines.training.watching import Progress, say, say_streams, warn
from pipelines.training.worker import Job, build_objective, trained_parts, work


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    place: str  # the run's folder, a path or URI
    metrics: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The folder of a run on this machine."""
        return Path(self.place)

    @property
    def model(self) -> str:
        """Where the recognizer lies."""
        return storage.join(self.place, "model")


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
        streams[part] = open_stream([storage.absolute(corpus) for corpus in source.corpora], selection, batch_size=source.batch_size,
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
    tasks = _reading_tasks(recipe, streams)
    left = check_cpus(recipe, streams, total, reserved)
    memory = SHARE_OF_STORE * resources.get("object_store_memory", math.inf) * (1 - reserved / total)
    return Readers(min(1.0, left / tasks), memory / (training.workers * len(streams)))


def _reading_tasks(recipe: Recipe, streams: dict[str, Stream]) -> int:
    return recipe.training.workers * sum(map(tasks_at_once, streams.values()))


def check_cpus(recipe: Recipe, streams: dict[str, Stream], total: float, reserved: float = 0.0) -> float:
    """The CPUs that the workers leave for reading, of `total` of which others hold `reserved`.

    Raises:
        BadInput: they are too few; some workers would wait for ever for their next batch.
    """
    training, tasks = recipe.training, _reading_tasks(recipe, streams)
    left = total - reserved - training.workers * training.cpus_per_worker
    if left < LEAST_CPUS * tasks:
        wanted = (total - reserved - 2 * LEAST_CPUS * tasks) / training.workers
        mend = f"set training.cpus_per_worker={wanted:.2g}" if wanted > 0 else "take a larger cluster"
        raise BadInput(f"{training.workers} workers with {training.cpus_per_worker:g} CPUs each leave {max(left, 0):.2g} of {total - reserved:g} CPUs "
                       f"for the {tasks} tasks that read for them, which need at least {LEAST_CPUS * tasks:.2g}; {mend}, or lower training.workers")
    return left


def train(recipe: Recipe, *, resume: bool = False, folder: str | Path | None = None, parent: tracking.RunHandle | None = None,
          callbacks: Sequence = (), reserved_cpus: float = 0.0, quiet: bool = False) -> Outcome:
    """Train what a recipe describes, or continue where it was killed; of a run that has finished, complete what its record in MLflow lacks.

    Args:
        folder: of the run; by default recipe.runs/recipe.name.
        parent: the MLflow run that this one belongs to.
        callbacks: of Ray Train, such as Tune's.
        reserved_cpus: CPUs of the cluster that this run must leave alone.
    Raises:
        BadInput: something in the recipe cannot be, or training met a loss that is not finite.
    """
    own.remember(own.texts_of(recipe.objective["name"], recipe.recognizer.name))  # whatever becomes of the files while it trains
    where = RunFolder(folder or storage.join(recipe.runs, recipe.name))
    earlier = where.state()
    if earlier is not None and earlier.status == "finished":
        return _finished(recipe, where, resume, quiet)
    if earlier is not None and earlier.status == "failed" and not resume:
        record.settle(where, earlier, "FAILED")  # `claimed` says that it has failed
    streams = open_streams(recipe, earlier and earlier.lanes)
    said = _said_of_words(recipe, quiet)
    with room_for(where), where.claimed(recipe, resume) as state:
        corpora = fingerprints(recipe)
        state.check_corpora(corpora)
        if earlier is not None:
            say(f"continuing the run {recipe.name} in {where.place}", quiet)
            with where.training(lambda: say("waiting for the killed run's workers to end", quiet)):
                cut_torn_line(where.progress)
        done = _whole_checkpoint(where)
        files = None
        if recipe.initialize_from and not done:  # behind a checkpoint nothing of it is needed, and it may be gone
            state.start, files = find_start(recipe, state.start)
        start_ray()
        check_batch_normalization(recipe)
        readers = share_readers(recipe, streams, reserved_cpus)
        say_streams(streams, quiet)
        record.begin(where, state, lambda token: _start_tracking(recipe, streams, parent, state.start, token), parent and parent.uri)
        state.status, state.corpora, state.lanes = "running", corpora, next(iter(streams.values())).lanes
        where.write(state)
        job = Job(with_absolute_corpora(recipe).model_dump(mode="json"), streams, where.place, readers, done,
                  own.texts_of(recipe.objective["name"], recipe.recognizer.name), files and ray.put(files))
        try:
            metrics = _fit(recipe, job, where, state.handle, list(callbacks), quiet, said)
        except BaseException as problem:
            _note_failure(where, state, problem)
            raise
        state.status = "finished"
        where.write(state)
        record.settle(where, state, "FINISHED", {"model": where.model})
        return Outcome(where.place, metrics)


def _said_of_words(recipe: Recipe, quiet: bool) -> list[str]:
    """Looks at the validation words, and says so if they are too few. Raises BadInput if they cannot be used."""
    validation = recipe.data.validation
    if validation is None:
        return []
    few = of_words(check_words(Corpus.open(validation.corpus), validation.words, rule_of(recipe.recognizer.rule, recipe.charset)))
    if few is not None:
        warn(few, quiet)
    return [few] if few else []


def _finished(recipe: Recipe, where: RunFolder, resume: bool, quiet: bool) -> Outcome:
    with room_for(where), where.claimed(recipe, resume) as state:
        say(f"the run {recipe.name} has finished already: {where.model}", quiet)
        _restore_model(recipe, where)
        record.settle(where, state, "FINISHED", {"model": where.model})
        return Outcome(where.place, _last_metrics(where))


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """The sha256 of every corpus that a recipe names, by its absolute place."""
    parts = [part for part in (recipe.data.labeled, recipe.data.unlabeled) if part is not None]
    places = [place for part in parts for place in part.corpora] + ([recipe.data.validation.corpus] if recipe.data.validation else [])
    return {storage.absolute(place): Corpus.open(place).sha256 for place in places}


def find_start(recipe: Recipe, known: Start | None) -> tuple[Start, dict[str, bytes]]:
    """The model that a run begins with, by a name that never means another, and its files.

    Args:
        known: what the run began with when it was started first; it must be the same still.

    Raises:
        BadInput: there is no such model, it does not fit the recipe, or it was changed.
    """
    name = known.model if known else pinned(recipe.initialize_from)
    place = find_model(name, recipe.runs)
    name = name if name.startswith("models:/") else storage.absolute(str(place))
    found = Start(name, read_description(place)["weights_sha256"])
    if known not in (None, found):
        raise BadInput(f"expected the model {name} that the run {recipe.name!r} began with (weights_sha256 {known.weights_sha256}), found another "
                       f"there ({found.weights_sha256}); put the first one back, or choose another name=")
    build_objective(recipe, place)  # says now, and not from a worker after a minute, what does not fit
    return found, model_files(place)


def _whole_checkpoint(where: RunFolder) -> int:
    """The steps of the newest whole checkpoint; 0 if there is none. Damaged ones are named on stderr, and removed."""
    found, torn = checkpoints.newest_whole(where.checkpoints)
    if torn:
        named = ", ".join(f"{name}: {problem}" for name, problem in sorted(torn.items()))
        print(f"textray: warning: left out {counted(len(torn), 'damaged checkpoint')} of {where.place} ({named}); training goes on from "
              f"{f'the whole one of step {found.step}' if found else 'the beginning, since no other is whole'}", file=sys.stderr, flush=True)
    checkpoints.forget(where.checkpoints, torn)
    return found.step if found else 0


def _full(problem: BaseException) -> bool:
    """Whether a disk was full, here or where a worker wrote; of a worker's error Ray hands on the text."""
    return disk_full(problem) or (isinstance(problem, TrainingFailedError) and
                                  any(os.strerror(code) in str(problem) for code in NO_ROOM))


def _note_failure(where: RunFolder, state: RunState, problem: BaseException) -> None:
    """Write down how training ended, as far as that can be written; a run that was interrupted or only lacked room counts as killed."""
    interrupted = isinstance(problem, KeyboardInterrupt)
    record.settle(where, state, "KILLED" if interrupted else "FAILED")
    if not interrupted and not _full(problem):
        state.status = "failed"
        try:
            where.write(state)
        except (OSError, BadInput) as another:
            print(f"textray: warning: the state of {where.place} is not written ({another})", file=sys.stderr)


@contextmanager
def room_for(where: RunFolder) -> Iterator[None]:
    """Turns a full disk, met while a run is written, into BadInput."""
    try:
        yield
    except (OSError, TrainingFailedError) as problem:
        if not _full(problem):
            raise
        raise BadInput(f"{where.place}: expected room to write it, found the disk full: free some space and run the same command again, which "
                       "continues") from problem


def _start_tracking(recipe: Recipe, streams: dict[str, Stream], parent: tracking.RunHandle | None,
                    start: Start | None, token: str | None) -> tracking.RunHandle:
    corpora = {f"{part}.{number}" if number else part: Corpus.open(path).sha256
               for part, stream in streams.items() for number, path in enumerate(stream.paths)}
    if recipe.data.validation:
        corpora["validation"] = Corpus.open(recipe.data.validation.corpus).sha256
    began = {"initialized_from": start.model, "initialized_from.sha256": start.weights_sha256} if start else {}
    return tracking.start_run(recipe.name, recipe.to_yaml(), params=recipe.model_dump(mode="json"), corpora=corpora, parent=parent, token=token,
                              tags={"recipe": recipe.name, "objective": recipe.objective["name"], "digest": recipe.digest} | began)


def uses_gpus(recipe: Recipe) -> bool:
    """Whether each worker gets a GPU of the cluster that Ray is connected to."""
    training = recipe.training
    return ray.cluster_resources().get("GPU", 0) >= training.workers if training.gpu is None else training.gpu


def check_batch_normalization(recipe: Recipe) -> None:
    """BadInput for statistics over workers without GPUs, on which PyTorch has none."""
    if recipe.training.sync_batchnorm and recipe.training.workers > 1 and not uses_gpus(recipe):
        raise BadInput("training.sync_batchnorm: expected workers on GPUs, found CPUs, on which PyTorch has no synchronised batch normalization: "
                       "leave it out, or train on GPUs")


def _fit(recipe: Recipe, job: Job, where: RunFolder, handle: tracking.RunHandle, callbacks: list, quiet: bool,
         said: list[str]) -> dict[str, Any]:
    training, gpu = recipe.training, uses_gpus(recipe)
    system, inside = storage.locate(where.place)
    trainer = TorchTrainer(
        work, train_loop_config={"job": job},
        scaling_config=ScalingConfig(num_workers=training.workers, use_gpu=gpu, resources_per_worker={"CPU": training.cpus_per_worker}
                                     | ({"GPU": 1} if gpu else {})),
        run_config=RunConfig(name="checkpoints", storage_path=inside, storage_filesystem=system, callbacks=callbacks,
                             failure_config=FailureConfig(max_failures=training.max_failures)))  # what is kept, `checkpoints.prune` decides
    earlier = tracking.points_of(read_journal(where.progress))
    with tracking.MetricLog(handle, earlier) as log, Progress(where, recipe, log, quiet, said):
        try:
            with interruptible():
                trainer.fit()
        except TrainingFailedError:
            if storage.kind(where.failure) == "file":
                raise BadInput(storage.read_bytes(where.failure).decode(errors="replace")) from None
            raise
    last, _ = checkpoints.newest_whole(where.checkpoints)
    if last is None or last.step < training.steps:
        raise BadInput(f"expected the checkpoint of step {training.steps} in {where.checkpoints}, found "
                       f"{f'that of step {last.step}' if last else 'none that is whole'}: run the same command again, which continues")
    state = last.state()
    _keep_model(recipe, state, where)
    return {"step": last.step, **state["metrics"]}


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets Ctrl-C be what it is elsewhere. Ray Train takes the signal for itself, in the main thread, to end its workers; it then leaves the process by
    SystemExit, and its handler behind."""
    alone = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if alone:
            signal.signal(signal.SIGINT, handler)


def with_absolute_corpora(recipe: Recipe) -> Recipe:
    """The recipe with corpora that mean the same in every process."""
    parts: dict[str, Any] = {}
    for name, part in recipe.data:
        if part is not None:
            corpus = storage.absolute(part.corpus) if isinstance(part.corpus, str) else [storage.absolute(each) for each in part.corpus]
            parts[name] = part.model_copy(update={"corpus": corpus})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=parts)})


def _keep_model(recipe: Recipe, state: dict[str, Any], where: RunFolder) -> None:
    """The recognizer in the state of the last checkpoint, as a model folder."""
    objective = build_objective(recipe)
    objective.load_state_dict(state["objective"])
    save_recognizer(where.model, objective.recognizer, {"run": recipe.name, "objective": recipe.objective["name"], "digest": recipe.digest,
                                                        "rule": recipe.recognizer.rule, "trained": trained_parts(objective)})


def _restore_model(recipe: Recipe, where: RunFolder) -> None:
    """Make the model of a finished run again, from its last checkpoint, if it is gone."""
    if all(storage.kind(storage.join(where.model, name)) == "file" for name in (DESCRIPTION, WEIGHTS)):
        return
    last, _ = checkpoints.newest_whole(where.checkpoints)
    if last is None or last.step < recipe.training.steps:
        raise BadInput(f"expected the model of the finished run {recipe.name!r} in {where.model}, found neither it nor a whole checkpoint of its "
                       "last step: copy the model there again, or choose another name= to train anew")
    _keep_model(recipe, last.state(), where)


def _last_metrics(where: RunFolder) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for line in read_journal(where.progress):
        numbers |= line
    return numbers
