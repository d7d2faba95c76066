"""A recipe trained: its workers, its checkpoints and failures, and the run's records.

The driver checks everything that can be checked before a process is started, claims the run's folder, and starts the workers, under Ray
Train or alone in this process (`crew.Engine`); each worker builds the recipe's objective, takes its share of the feed and runs `loop.fit`.
Rank 0 writes progress and checkpoints; the driver brings progress to MLflow.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from models import own
from models.costs import frames
from models.objectives import objective_named
from models.recognizer import Recognizer
from pipelines import tracking
from pipelines.cluster import check_outlives
from pipelines.corpus import storage
from pipelines.corpus.account import counted
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput, Unavailable, disk_full, without_credentials
from pipelines.evaluation.protocols import rule_of
from pipelines.feed.selection import Selection
from pipelines.feed.stream import Stream, open_stream
from pipelines.handles import RunHandle
from pipelines.progress import quietly, say, warn
from pipelines.reading.batches import shape_of
from pipelines.reading.weights import DESCRIPTION, WEIGHTS, find_model, model_files, pinned, read_description, save_recognizer
from pipelines.training import checkpoints, record
from pipelines.training.alone import InProcess, trains_alone
from pipelines.training.crew import Engine, Job
from pipelines.training.journal import cut_torn_line, read_journal
from pipelines.training.length import Settled, recalled, with_batches, with_steps
from pipelines.training.prospects import of_labels, of_words
from pipelines.training.recipe import Recipe
from pipelines.training.runs import RunFolder, RunState, Start
from pipelines.training.validation import check_words
from pipelines.training.watching import Progress, say_streams
from pipelines.training.worker import build_objective, trained_parts


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


def settle(recipe: Recipe, earlier: RunState | None, seconds_a_step: Callable[[Recipe], float]) -> tuple[Settled, dict[str, Stream]]:
    """The recipe with the steps and batch sizes that it leaves out, those of the run that it continues if there is one, and its streams.

    Raises:
        BadInput: what `open_streams` and `length` refuse.
    """
    known = recalled(recipe, earlier)
    sized = known.and_then(with_batches(known.recipe))
    streams = open_streams(sized.recipe, earlier and earlier.lanes)
    return sized.and_then(with_steps(sized.recipe, streams, seconds_a_step)), streams


def own_files(recipe: Recipe) -> dict[str, str]:
    """The text of the files of the user's own that the recipe names: an objective, a recognizer, what an objective reads. BadInput for one that is not there."""
    fields = getattr(objective_named(recipe.objective["name"]), "files", ())
    try:
        return own.texts_of(recipe.objective["name"], recipe.recognizer.name, files=[recipe.objective[field] for field in fields])
    except ValueError as problem:
        raise BadInput(f"objective: {problem}") from None


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


LARGEST_KEPT = 1 << 20  # characters of a file of the user's own, up to which it is kept with the run; of larger ones, corpora of texts, the sha256 is


def engine_of(recipe: Recipe) -> Engine:
    """How a recipe is trained: by one worker in this process where that will do, else under Ray Train."""
    if trains_alone(recipe):
        return InProcess()
    from pipelines.training.distributed import OnRay  # a second or two, with Ray
    return OnRay()


def train(recipe: Recipe, *, resume: bool = False, folder: str | Path | None = None, parent: RunHandle | None = None,
          engine: Engine | None = None, quiet: bool = False) -> Outcome:
    """Train what a recipe describes, or continue where it was killed; of a run that has finished, complete what its record in MLflow lacks.

    Args:
        folder: of the run; by default recipe.runs/recipe.name.
        parent: the MLflow run that this one belongs to.
        engine: how its workers are started; by default as `engine_of` says.
        quiet: show no progress and no warnings.

    Raises:
        BadInput: something in the recipe cannot be, or training met a loss that is not finite.
    """
    files_of_own = own_files(recipe)
    with own.held(files_of_own), quietly(quiet):  # whatever becomes of the files while it trains
        return _train(recipe, files_of_own, resume, folder, parent, engine)


def _train(recipe: Recipe, files_of_own: dict[str, str], resume: bool, folder: str | Path | None, parent: RunHandle | None, engine: Engine | None) -> Outcome:
    where, minutes = RunFolder(folder or storage.join(recipe.runs, recipe.name)), recipe.training.minutes
    check_outlives(where.place, "runs")  # before a machine is asked for
    if storage.kind(where.file("trials")) == "folder":
        raise BadInput(f"expected a new folder or a run at {where.place}, found a sweep: choose another name= for the run")
    earlier = where.state()
    if earlier is not None and earlier.status == "finished":
        return _finished(recalled(recipe, earlier).recipe, where, resume)
    if earlier is not None and earlier.status == "failed" and not resume:
        record.settle(where, earlier, "FAILED")  # `claimed` says that it has failed
    settled, streams = settle(recipe, earlier, lambda sized: (engine or engine_of(sized)).seconds_a_step(sized, files_of_own))
    recipe = settled.recipe
    said = _said_of_words(recipe)
    with room_for(where), where.claimed(recipe, resume) as state:
        corpora = fingerprints(recipe)
        state.check_corpora(corpora)
        digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files_of_own.items()}
        state.check_files(digests)
        if earlier is not None:
            say(f"continuing the run {recipe.name} in {where.place}")
            with where.training(lambda: say("waiting for the killed run's workers to end")):
                cut_torn_line(where.progress)
        done = _whole_checkpoint(where)
        files = None
        if recipe.initialize_from and not done:  # behind a checkpoint nothing of it is needed, and it may be gone
            state.start, files = find_start(recipe, state.start)
        engine = engine or engine_of(recipe)
        engine.begin(recipe, streams)
        say_streams(streams)
        for sentence in settled.why:
            say(sentence)
        kept = {name: text for name, text in files_of_own.items() if len(text) <= LARGEST_KEPT}
        for name, text in kept.items():
            storage.write_bytes(where.file(storage.join("files", Path(name).name)), text.encode())
        if earlier is None:
            state.settled, state.minutes = dict(settled.fields), minutes
        record.begin(where, state, lambda token: _start_tracking(recipe, streams, parent, state.start, token, kept), parent and parent.uri)
        state.files = digests
        state.status, state.corpora, state.lanes = "running", corpora, next((stream.lanes for stream in streams.values()), None)
        where.write(state)
        job = Job(with_absolute_corpora(recipe).model_dump(mode="json"), streams, where.place, done, files_of_own, files)
        try:
            metrics = _fit(recipe, job, where, state.handle, engine, said)
        except BaseException as problem:
            _note_failure(where, state, problem)
            raise
        state.status = "finished"
        where.write(state)
        record.settle(where, state, "FINISHED", {"model": where.model}, partial(_artifacts, where, parent is None))
        return Outcome(where.place, metrics)


def _artifacts(where: RunFolder, model: bool) -> dict[str, bytes]:
    """What MLflow keeps of a finished run: its page, and its model, so that it can be registered from another machine; a sweep's trials leave theirs in their folders."""
    files = {f"model/{name}": data for name, data in model_files(where.model).items()} if model else {}
    return files | ({"report.html": storage.read_bytes(where.report)} if storage.kind(where.report) == "file" else {})


def _said_of_words(recipe: Recipe) -> list[str]:
    """Looks at the validation words, and says so if they are too few. Raises BadInput if they cannot be used."""
    validation = recipe.data.validation
    if validation is None:
        return []
    rule = rule_of(recipe.recognizer.rule, recipe.charset)
    labels = check_words(Corpus.open(validation.corpus), validation.words, rule)
    said = [sentence for sentence in (of_words(len(labels)), of_labels(labels, rule)) if sentence]
    for sentence in said:
        warn(sentence)
    return said


def _finished(recipe: Recipe, where: RunFolder, resume: bool) -> Outcome:
    with room_for(where), where.claimed(recipe, resume) as state:
        say(f"the run {recipe.name} has finished already: {where.model}")
        _restore_model(recipe, where)
        record.settle(where, state, "FINISHED", {"model": where.model}, partial(_artifacts, where, True))
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
        warn(f"left out {counted(len(torn), 'damaged checkpoint')} of {where.place} ({named}); training goes on from "
              f"{f'the whole one of step {found.step}' if found else 'the beginning, since no other is whole'}")
    checkpoints.forget(where.checkpoints, torn)
    return found.step if found else 0


def _note_failure(where: RunFolder, state: RunState, problem: BaseException) -> None:
    """Write down how training ended, as far as that can be written; a run that was interrupted, or lacked only room or a store, counts as killed."""
    interrupted = isinstance(problem, (KeyboardInterrupt, SystemExit, Unavailable))  # SystemExit: Tune stops a trial so
    record.settle(where, state, "KILLED" if interrupted else "FAILED")
    if not interrupted and not disk_full(problem):
        state.status = "failed"
        try:
            where.write(state)
        except (OSError, BadInput) as another:
            warn(f"the state of {where.place} is not written ({another})")


@contextmanager
def room_for(where: RunFolder) -> Iterator[None]:
    """Turns a full disk, met while a run is written, into BadInput."""
    try:
        yield
    except OSError as problem:
        if not disk_full(problem):
            raise
        raise BadInput(f"{where.place}: expected room to write it, found the disk full: free some space and run the same command again, which "
                       "continues") from problem


def _start_tracking(recipe: Recipe, streams: dict[str, Stream], parent: RunHandle | None,
                    start: Start | None, token: str | None, files: dict[str, str]) -> RunHandle:
    corpora = {f"{part}.{number}" if number else part: (path, Corpus.open(path).sha256)
               for part, stream in streams.items() for number, path in enumerate(stream.paths)}
    if recipe.data.validation:
        corpora["validation"] = (recipe.data.validation.corpus, Corpus.open(recipe.data.validation.corpus).sha256)
    began = {"initialized_from": start.model, "initialized_from.sha256": start.weights_sha256} if start else {}
    handle = tracking.start_run(recipe.name, recipe.to_yaml(), params=recipe.model_dump(mode="json"), corpora=corpora, parent=parent, token=token, files=files,
                                tags={"recipe": recipe.name, "objective": recipe.objective["name"], "digest": recipe.digest} | began)
    earlier = start and record.handle_of(start.model)
    if earlier and without_credentials(earlier.uri) == without_credentials(handle.uri):
        tracking.link(earlier, handle, recipe.name)
    return handle


def _fit(recipe: Recipe, job: Job, where: RunFolder, handle: RunHandle, engine: Engine, said: list[str]) -> dict[str, Any]:
    earlier = tracking.points_of(read_journal(where.progress))
    with tracking.MetricLog(handle, earlier) as log, Progress(where, recipe, log, said):
        engine.fit(recipe, job, where)
    last, _ = checkpoints.newest_whole(where.checkpoints)
    state = last and last.state()
    if state is None or not _is_last(state, recipe):
        raise BadInput(f"expected the checkpoint of step {recipe.training.steps} in {where.checkpoints}, found "
                       f"{f'that of step {last.step}' if last else 'none that is whole'}: run the same command again, which continues")
    return {"step": last.step, **state["metrics"], **_keep_model(recipe, state, where)}


def _is_last(state: dict[str, Any], recipe: Recipe) -> bool:
    """Whether the run that left this state has come to its end."""
    return state["step"] >= recipe.training.steps or state.get("ended", False)


def with_absolute_corpora(recipe: Recipe) -> Recipe:
    """The recipe with corpora that mean the same in every process."""
    parts: dict[str, Any] = {}
    for name, part in recipe.data:
        if part is not None:
            corpus = storage.absolute(part.corpus) if isinstance(part.corpus, str) else [storage.absolute(each) for each in part.corpus]
            parts[name] = part.model_copy(update={"corpus": corpus})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=parts)})


def _keep_model(recipe: Recipe, state: dict[str, Any], where: RunFolder) -> dict[str, Any]:
    """The recognizer of a run that left this state at its end, as a model folder: of the best validation, or of the last step. Returns the numbers of the former."""
    objective = build_objective(recipe)
    objective.load_state_dict(state["objective"])
    numbers: dict[str, Any] = {}
    if recipe.training.keep == "best" and state.get("best"):
        best, _ = checkpoints.newest_whole(where.best)
        if best is not None and best.step == state["best"]["step"]:
            kept = best.state()
            objective.recognizer.load_state_dict(kept["recognizer"])
            numbers = {**kept["metrics"], "best_step": best.step}
        else:
            warn(f"{where.best}: expected the recognizer of step {state['best']['step']}, found it lost or damaged: the model is that of the last step")
    save_recognizer(where.model, objective.recognizer, {"run": recipe.name, "objective": recipe.objective["name"], "digest": recipe.digest,
                                                        "rule": recipe.recognizer.rule, "trained": trained_parts(objective),
                                                        "step": numbers.get("best_step", state["step"])})
    return numbers


def _restore_model(recipe: Recipe, where: RunFolder) -> None:
    """Make the model of a finished run again, from its last checkpoint, if it is gone."""
    if all(storage.kind(storage.join(where.model, name)) == "file" for name in (DESCRIPTION, WEIGHTS)):
        return
    last, _ = checkpoints.newest_whole(where.checkpoints)
    state = last and last.state()
    if state is None or not _is_last(state, recipe):
        raise BadInput(f"expected the model of the finished run {recipe.name!r} in {where.model}, found neither it nor a whole checkpoint of its "
                       "last step: copy the model there again, or choose another name= to train anew")
    _keep_model(recipe, state, where)


def _last_metrics(where: RunFolder) -> dict[str, Any]:
    """What a finished run logged last, and of the validation words what its model reads: its description says of which step it is."""
    numbers: dict[str, Any] = {}
    lines = read_journal(where.progress)
    for line in lines:
        numbers |= line
    step = read_description(where.model).get("step")
    for line in lines:
        if "word_accuracy" in line and line["step"] == step != numbers["step"]:
            numbers |= {**line, "step": numbers["step"], "time": numbers["time"], "best_step": step}
    return numbers
