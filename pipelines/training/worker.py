"""What one worker of a run does, under Ray Train in a process of its own, or alone in the process of the command."""

import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

from models import own
from models.batch import Batch
from models.objectives import objective_named
from models.recognizer import Recognizer
from models.recognizers import build
from pipelines.augmentation.drawn import check_drawable
from pipelines.corpus import storage
from pipelines.corpus.reader import Corpus
from pipelines.corpus.sampling import spread_rows
from pipelines.errors import BadInput
from pipelines.evaluation.measure import evaluate_recognizer
from pipelines.evaluation.protocols import rule_of
from pipelines.feed.batches import batches, threads_beside
from pipelines.feed.stream import Share
from pipelines.feed.waiting import announced
from pipelines.progress import warn
from pipelines.reading.batches import shape_of
from pipelines.reading.weights import load_recognizer, read_description
from pipelines.training import checkpoints, unlabeled
from pipelines.training.crew import Crew, Job, bring
from pipelines.training.journal import Journal, add_line
from pipelines.training.loop import Hooks, NonFinite, Numerics, Schedule, build_optimizer, fit, one_cycle, step_decay
from pipelines.training.recipe import OptimizerRecipe, Recipe, parse_recipe
from pipelines.training.runs import RunFolder
from pipelines.training.throughput import LARGEST, Meter, step_flops


def build_objective(recipe: Recipe, start: Path | None = None) -> nn.Module:
    """The recipe's objective around a freshly initialised recognizer, or one that starts from the weights of the model folder `start`."""
    try:
        recognizer = build(recipe.recognizer.name, recipe.charset, **recipe.recognizer.options)
    except (ValueError, TypeError) as problem:
        raise BadInput(f"recognizer: {problem}") from None
    frozen = recipe.training.freeze is not None
    copied = start_from(start, recognizer, recipe.initialize_from, decoder=not frozen) if start is not None else []
    missing = [name for name in ("rectifier", "encoder", "sequence") if _has_parameters(getattr(recognizer, name)) and name not in copied]
    if frozen and start is not None and missing:
        raise BadInput(f"training.freeze: expected a start whose {' and '.join(missing)} is trained, found {recipe.initialize_from}, which leaves it out: "
                       "pretrain with features: contextual, or leave freeze out")
    if frozen:
        recognizer.freeze()
    options = {name: value for name, value in recipe.objective.items() if name != "name"}
    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always", UserWarning)
        try:
            objective = objective_named(recipe.objective["name"])(recognizer, **options)
        except ValueError as problem:
            raise BadInput(f"objective: {problem}") from None
    if not isinstance(getattr(objective, "views", None), dict) or not isinstance(getattr(objective, "recognizer", None), Recognizer):
        raise BadInput(f"objective: expected {recipe.objective['name']} to have `views`, a dictionary such as {{\"unlabeled\": (\"weak\",)}}, and `recognizer`, "
                       f"the one that it was given, found {_named(getattr(objective, 'views', None))} and {_named(getattr(objective, 'recognizer', None))}; "
                       "see docs/own.md")
    for notice in noticed:
        warn(f"objective: {notice.message}")
    if frozen and not any(parameter.requires_grad for parameter in recognizer.parameters()):
        raise BadInput(f"training.freeze: expected an objective that trains the decoder, found {recipe.objective['name']}, which leaves nothing to train: "
                       "take supervised, or leave freeze out")
    check_drawable(objective.views, recipe.charset)
    return objective


def build_rates(optimizer: torch.optim.Optimizer, options: OptimizerRecipe, steps: int) -> LRScheduler | None:
    """The recipe's learning-rate schedule over a run; None where the rate stays."""
    if options.schedule == "constant":
        return None
    if options.schedule == "step":
        return step_decay(optimizer, steps=steps, at=options.decay_at, factor=options.decay_factor)
    return one_cycle(optimizer, steps=steps, learning_rate=options.learning_rate, warmup_fraction=options.warmup_fraction,
                     initial_division=options.initial_division, final_division=options.final_division)


def in_bf16(recipe: Recipe, device: torch.device) -> bool:
    """Whether the products of a step are computed in bfloat16."""
    precision = recipe.training.precision
    return precision == "bf16" or (precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())


def _named(value: object) -> str:
    return "none" if value is None else type(value).__name__


def _has_parameters(part: nn.Module | None) -> bool:
    return part is not None and any(True for _ in part.parameters())


def start_from(folder: Path, recognizer: Recognizer, source: str, *, decoder: bool = True) -> list[str]:
    """Copy the trained parts of the model in a folder, which the user calls `source`, into a recognizer; returns their names.

    decoder: whether it moves on where it fits.

    A decoder moves on only between equal decoders with one charset; otherwise it starts anew, as the protocols of pretraining want.

    Raises:
        BadInput: an encoder that does not fit.
    """
    other, parts = load_recognizer(folder), read_description(folder).get("trained")
    copied = []
    for name, part in recognizer.named_children():
        state = getattr(other, name).state_dict() if getattr(other, name, None) is not None else {}
        fits = {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in part.state_dict().items()}
        if (parts is not None and name not in parts) or (name == "decoder" and not decoder):
            continue
        if not fits and name != "decoder":
            raise BadInput(f"initialize_from: the {name} of {source} ({other.name}) does not fit that of {recognizer.name}; choose "
                           "the same recognizer and options")
        if fits and (name != "decoder" or other.charset == recognizer.charset):
            part.load_state_dict(state)
            copied.append(name)
    return copied


def mean_over_ranks(numbers: dict[str, float], world: int, device: torch.device) -> dict[str, float]:
    """What every rank measured on its own images, on average; images per second together, and the most memory. Every rank must call it with the same names."""
    if world > 1:
        values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=device)
        largest = values.clone()
        torch.distributed.all_reduce(values)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        both = zip(numbers, (values / world).tolist(), largest.tolist(), strict=True)
        numbers = {name: most if name == LARGEST else mean for name, mean, most in both}
    return {name: value * world if name == "images_per_second" else value for name, value in numbers.items()}


def told_by_first(value: bool, world: int, device: torch.device) -> bool:
    """What rank 0 says. Every rank must ask."""
    if world == 1:
        return value
    told = torch.tensor([float(value)], device=device)
    torch.distributed.broadcast(told, 0)
    return bool(told.item())


def trained_parts(objective: nn.Module) -> list[str]:
    """The parts of the recognizer that mean something after training: pretraining leaves the decoder out; what is frozen was trained before."""
    recognizer = objective.recognizer
    return [name for name, part in recognizer.named_children() if any(recognizer.frozen or p.requires_grad for p in part.parameters())]


def work(job: Job, crew: Crew) -> None:
    """Train as one of a crew to the last step. What the user must mend is also left in the run's folder."""
    failure = RunFolder(job.folder).failure
    if storage.kind(failure) is not None:
        raise RuntimeError("training has failed for good; another try would end the same way")
    try:
        with own.held(job.own_files):
            _Worker(job, parse_recipe(job.recipe), crew).run()
    except (NonFinite, BadInput) as problem:
        storage.write_bytes(failure, str(problem).encode())
        raise


@dataclass
class _Worker:
    job: Job
    recipe: Recipe
    crew: Crew
    metrics: dict[str, float] = field(default_factory=dict)  # of the last validation
    best: dict[str, float] | None = None  # of the validation that read the most words: step, word accuracy, 1 - NED
    stale: int = 0  # validations since then
    ended: bool = False  # out of patience
    words: list[tuple] | None = None  # to validate on, once they are read
    sample: unlabeled.Sample | None = None  # of the unlabeled images, once it is read
    skipped: int = 0  # steps whose gradient was not finite
    speed: dict[str, float] = field(default_factory=dict)  # images_per_second, as it was logged last
    resumed_at: int = 0  # steps done before this process started
    taken: int = 0  # batches of each stream that all workers together had taken by then

    def run(self) -> None:
        recipe, training = self.recipe, self.recipe.training
        self.rank, self.world = self.crew.rank, self.crew.world
        # One core stays free for reading and decoding: threads that wait for each other on busy cores are many times slower.
        torch.set_num_threads(training.threads_per_worker or max(1, (os.cpu_count() or 1) // self.crew.beside - 1))
        self.device = device = self.crew.device
        torch.manual_seed(recipe.seed)  # the same weights on every rank
        state = self._newest_checkpoint()
        objective = build_objective(recipe) if state else self._first_objective()
        self.meter = Meter(device, step_flops(recipe, objective, device))
        if self.world > 1:
            self.meter.agree()
        self.objective = self._synchronised(objective.to(device, memory_format=torch.channels_last))  # a fifth faster, and what bf16 wants
        parameters = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        options = recipe.optimizer
        self.optimizer = build_optimizer(parameters, name=options.name, learning_rate=options.learning_rate, weight_decay=options.weight_decay,
                                         fused=device.type == "cuda" and options.name != "adadelta")
        self.rates = build_rates(self.optimizer, options, training.steps)
        done = self._restore(state) if state else self._begin()
        del state  # as large as the model and its optimizer
        if self.ended:
            return
        with RunFolder(self.job.folder).training() if self.rank == 0 else nullcontext():
            self._train(device, done)

    def _synchronised(self, objective: nn.Module) -> nn.Module:
        """With the batch normalization of all workers together, where the recipe says so."""
        if not self.recipe.training.sync_batchnorm or self.world == 1:
            return objective
        return nn.SyncBatchNorm.convert_sync_batchnorm(objective)

    def _train(self, device: torch.device, done: int) -> None:
        recipe, training, options = self.recipe, self.recipe.training, self.recipe.optimizer
        trained = DistributedDataParallel(self.objective, device_ids=[device] if device.type == "cuda" else None) \
            if self.world > 1 else self.objective
        trained = torch.compile(trained) if training.compile else trained
        self.journal = Journal(RunFolder(self.job.folder).progress) if self.rank == 0 else None
        try:
            fit(self.objective, trained, self.optimizer, self.rates, self._batches(done),
                schedule=Schedule(training.steps, training.log_every, training.steps_between_validations,
                                  training.checkpoint_every),
                numerics=Numerics(device, in_bf16(recipe, device), options.gradient_clip, training.accumulate, options.non_finite == "skip"),
                hooks=Hooks(self._log, self._validate, self._keep),
                seed=recipe.seed, rank=self.rank, done=done, skipped=self.skipped)
        finally:
            if self.journal is not None:
                self.journal.flush()

    def _batches(self, done: int) -> Iterator[Batch]:
        recognizer = self.objective.recognizer
        share, threads = self._share(done), threads_beside(self.crew.beside)
        parts = {name: batches(stream, share, self.crew.blocks(stream, share), shape=shape_of(recognizer),
                               charset=recognizer.charset if name == "labeled" else None, decode_threads=threads)
                 for name, stream in self.job.streams.items()}
        parts = {name: self.meter.waiting(announced(part, partial(self._waits, name))) for name, part in parts.items()}
        for _ in share.numbers:
            yield Batch(**{name: next(part) for name, part in parts.items()})

    def _waits(self, part: str, seconds: float) -> None:
        """Tell the driver, from any rank."""
        add_line(RunFolder(self.job.folder).notices,
                 f"rank {self.rank} has waited {seconds:.0f} s for {part} images: its readers are slow, or have no CPU to run on")

    def _share(self, done: int) -> Share:
        """This worker's batches of the remaining steps. The first is the one that no worker has taken, however many there were before."""
        each = self.recipe.training.accumulate * self.world  # batches a step
        return Share(self.rank, self.world, self.taken, self.taken + (self.recipe.training.steps - done) * each)

    def _log(self, step: int, numbers: dict[str, float]) -> None:
        """The numbers of a step; every rank must bring its own."""
        self.skipped = int(numbers.get("skipped_steps", self.skipped))
        found = mean_over_ranks(numbers | self.meter.numbers(step), self.world, self.device)
        self.speed = {name: found[name] for name in ("images_per_second",) if name in found}
        self._write(step, found)

    def _write(self, step: int, numbers: dict[str, float]) -> None:
        """Write down what was measured, for the driver to show and to bring to MLflow."""
        if self.journal is None:
            return
        self.journal.append({"step": step, "time": time.time(), **numbers})

    def _validate(self, step: int) -> bool:
        """Measure on rank 0, and say whether patience is at an end; the other ranks wait for it, here or in their next collective operation."""
        if self.rank == 0:
            self.metrics = self._on_words() | self._on_unlabeled(step)
            if self.metrics:
                self._write(step, self.metrics)
            self._compare_with_best(step)
        patience = self.recipe.training.patience
        if patience is not None:
            self.ended = told_by_first(self.stale >= patience, self.world, self.device) and step < self.recipe.training.steps
        return self.ended

    def _compare_with_best(self, step: int) -> None:
        """Note whether more words are read than ever, and keep the recognizer that does; of as many words, the one whose readings are nearer, or the later."""
        if "word_accuracy" not in self.metrics:
            return
        found = {name: self.metrics[name] for name in ("word_accuracy", "one_minus_ned")}
        now = found["word_accuracy"], found["one_minus_ned"]
        before = (self.best["word_accuracy"], self.best.get("one_minus_ned", -1.0)) if self.best else (-1.0, -1.0)
        self.stale = 0 if now > before else self.stale + 1
        if now < before:
            return
        self.best = {"step": step, **found}
        if self.recipe.training.keep == "best":
            with tempfile.TemporaryDirectory() as folder:
                checkpoints.write_checkpoint(Path(folder), step, {"step": step, "metrics": self.metrics, "recognizer": self.objective.recognizer.state_dict()})
                bring(Path(folder), storage.join(RunFolder(self.job.folder).best, f"checkpoint_{step:09d}"))

    def _on_words(self) -> dict[str, float]:
        """How many of the validation words are read."""
        validation = self.recipe.data.validation
        if validation is None or "decoder" not in trained_parts(self.objective):
            return {}
        if self.words is None:
            self.words = spread_rows(Corpus.open(validation.corpus), validation.words, ("key", "image", "text"))
        recognizer = self.objective.recognizer
        score = evaluate_recognizer(recognizer, self.words, rule=rule_of(self.recipe.recognizer.rule, recognizer.charset), keep_worst=0).score
        metrics = {"word_accuracy": score.accuracy, "validation_words": score.words, "one_minus_ned": score.one_minus_ned, "cer": score.cer}
        return metrics | ({"incomparable_words": score.incomparable} if score.incomparable else {})

    def _on_unlabeled(self, step: int) -> dict[str, float]:
        """What can be told from unlabeled images: how they are read, or, where the decoder takes no part, what the encoder knows of them."""
        if "unlabeled" not in self.job.streams:
            return {}
        if self.sample is None:
            self.sample = unlabeled.open_sample(self.recipe, self.objective.recognizer)
        if "decoder" not in trained_parts(self.objective):
            unlabeled.look_at(self.sample, self.objective, step, RunFolder(self.job.folder).seen)
            return unlabeled.features_on(self.sample, self.objective.recognizer)
        return unlabeled.measure(self.sample, self.objective, self.recipe, step, RunFolder(self.job.folder).pseudo_labels)

    def _keep(self, step: int, checkpoint: bool) -> None:
        """Report to the crew; every rank must, at the same steps. Rank 0 brings the checkpoint."""
        report = {"step": step, **self.metrics, **self.speed}
        if not checkpoint or self.rank != 0:
            self.crew.report(report, None)
            return
        self.journal.flush()
        with tempfile.TemporaryDirectory() as folder:
            checkpoints.write_checkpoint(Path(folder), step, {
                "step": step, "batches": self._taken_at(step), "objective": self.objective.state_dict(), "optimizer": self.optimizer.state_dict(),
                "rates": self.rates.state_dict() if self.rates else None, "metrics": self.metrics, "skipped": self.skipped,
                "best": self.best, "stale": self.stale, "ended": self.ended})
            self.crew.report(report, Path(folder))
        where = RunFolder(self.job.folder)
        checkpoints.prune(where.checkpoints, self.recipe.training.keep_checkpoints)
        checkpoints.prune(where.best, 1)  # now, when a checkpoint knows of it: a run that goes on from an earlier one needs the best before that

    def _taken_at(self, step: int) -> int:
        return self.taken + (step - self.resumed_at) * self.recipe.training.accumulate * self.world

    def _newest_checkpoint(self) -> dict[str, Any] | None:
        """The state in the newest whole checkpoint; None for a run that begins. All ranks look before the first of them writes."""
        found, _ = checkpoints.newest_whole(RunFolder(self.job.folder).checkpoints)
        if found is None and self.job.done:
            raise BadInput(f"expected a whole checkpoint in {RunFolder(self.job.folder).checkpoints}, where there was one of step {self.job.done} "
                           "when training began, found none; run the same command again")
        return found and found.state()

    def _first_objective(self) -> nn.Module:
        """The objective of a run that begins."""
        if self.job.start is None:
            return build_objective(self.recipe)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.job.start.items():
                Path(folder, name).write_bytes(content)
            return build_objective(self.recipe, Path(folder))

    def _begin(self) -> int:
        """Begin at step 0; what an attempt without a checkpoint found best is another future's."""
        if self.rank == 0:
            checkpoints.drop_after(RunFolder(self.job.folder).best, 0)
        return 0

    def _restore(self, state: dict[str, Any]) -> int:
        """Go on from the state in a checkpoint; returns the steps done."""
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.rates is not None:
            self.rates.load_state_dict(state["rates"])
        self.metrics, self.taken, self.resumed_at, self.skipped = state["metrics"], state["batches"], state["step"], state.get("skipped", 0)
        self.best, self.stale, self.ended = state.get("best"), state.get("stale", 0), state.get("ended", False)
        if self.rank == 0:
            best = RunFolder(self.job.folder).best
            checkpoints.drop_after(best, state["step"])
            kept, _ = checkpoints.newest_whole(best)
            if self.recipe.training.keep == "best" and self.best is not None and (kept is None or kept.step != self.best["step"]):
                self.best, self.stale = None, 0  # lost, with a checkpoint that was damaged: the next validation is the best known
        return state["step"]
