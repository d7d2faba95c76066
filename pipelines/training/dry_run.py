"""`--dry-run`: what a run would be, without starting it. Nothing of the run is written, and no Ray is started.

Each section is a few lines of text, printed as soon as it is known; what cannot be is a BadInput, as it would be for the run itself.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from models.footprint import Footprint, NeedsValues, footprint
from pipelines.corpus import storage
from pipelines.corpus.account import counted, table
from pipelines.corpus.reader import Corpus
from pipelines.corpus.sampling import spread_rows
from pipelines.errors import BadInput
from pipelines.evaluation.protocols import rule_of
from pipelines.feed.stream import Ingredient, Stream
from pipelines.training import checkpoints
from pipelines.training.alone import trains_alone
from pipelines.training.device import Device, check_fits, device_of, gib, sizes_of
from pipelines.training.driver import find_start, fingerprints, open_streams, settle
from pipelines.training.length import Settled, is_open
from pipelines.training.prospects import DIFFERENCE, half_width, words_for
from pipelines.training.rates import known_rate
from pipelines.training.recipe import Recipe
from pipelines.training.runs import RunFolder, RunState
from pipelines.training.unlabeled import DECIDES
from pipelines.training.validation import check_words
from pipelines.training.worker import build_objective

HEAD = ("rows of", "used", "share", "steps an epoch", "epochs", "shards", "row groups", "of which a worker reads")
LABEL = 13  # characters of the first column


@dataclass(frozen=True)
class Given:
    """What the user says of the machine that will train: GiB of a GPU, and images per second of a worker."""

    gpu_memory: float | None = None
    images_per_second: float | None = None


def plan(recipe: Recipe, given: Given = Given(), *, resume: bool = False) -> Iterator[str]:
    """The plan's sections.

    Raises:
        BadInput: the run would be refused, or would not fit into its device's memory.
    """
    where = RunFolder(storage.join(recipe.runs, recipe.name))
    settled, streams = Settled(recipe, {}), None
    if is_open(recipe):  # which only its corpora settle; of others something can be said without them
        settled, streams = settle(recipe, where.state(), lambda sized: seconds_a_step(sized, given))
        recipe = settled.recipe
    state = where.look(recipe, resume)
    done = _steps_done(recipe, where, state)
    yield _run(recipe, where, state, done)
    device = device_of(recipe, given.gpu_memory)
    with torch.device("meta"):
        objective = build_objective(recipe)
    found = _footprint(recipe, objective, device)
    yield _model(recipe, objective, found)
    yield _steps(recipe, objective, done, settled)
    yield _memory(recipe, found, device)
    yield _time(recipe, objective, device, given, done)
    if recipe.initialize_from and not done:
        yield line("starts from", find_start(recipe, state and state.start)[0].model)
    streams = open_streams(recipe, state and state.lanes) if streams is None else streams
    yield from (_stream(recipe, objective, part, stream) for part, stream in streams.items())
    yield from _validation(recipe, objective.views)
    yield from (line("warning", warning) for warning in warnings(recipe, streams))
    if state is not None:
        state.check_corpora(fingerprints(recipe))
    if given.gpu_memory is None and not trains_alone(recipe) and os.environ.get("RAY_ADDRESS", "") in ("", "local"):
        from pipelines.training.distributed import check_cpus  # with it comes Ray
        check_cpus(recipe, streams, float(os.cpu_count() or 1))
    if found is not None:
        check_fits(recipe, objective, found, device)


def line(label: str, *lines: str) -> str:
    """A labeled section, its further lines below the first."""
    labels = [label, *[""] * (len(lines) - 1)]
    return "\n".join(f"{each:<{LABEL}} {text}".rstrip() for each, text in zip(labels, lines, strict=True))


def _steps_done(recipe: Recipe, where: RunFolder, state: RunState | None) -> int:
    if state is None:
        return 0
    if state.status == "finished":
        return recipe.training.steps
    last, _ = checkpoints.newest_whole(where.checkpoints)
    return last.step if last else 0


def _run(recipe: Recipe, where: RunFolder, state: RunState | None, done: int) -> str:
    if state is None:
        what = "new"
    elif state.status == "finished":
        what = "finished already: the command would only complete its records"
    else:
        what = f"exists ({'failed' if state.status == 'failed' else 'not finished'}): would go on behind step {done:,}"
    return line("run", f"{recipe.name} in {storage.shown(where.place)}: {what}")


def _footprint(recipe: Recipe, objective: nn.Module, device: Device) -> Footprint | None:
    try:
        return footprint(objective, sizes_of(recipe, objective), bf16=device.bf16)
    except NeedsValues:
        return None


def _model(recipe: Recipe, objective: nn.Module, found: Footprint | None) -> str:
    recognizer = objective.recognizer
    parameters = sum(parameter.numel() for parameter in objective.parameters())
    trained = sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)
    views = "; ".join(f"{part}: {', '.join(names)}" for part, names in objective.views.items())
    return "\n".join([
        line("recognizer", f"{recognizer.name}, {len(recognizer.charset)} characters, images of {recognizer.height} x {recognizer.width}, "
             f"texts of up to {recognizer.max_length}, {recognizer.decoder.kind}; {_numbers(recognizer):,} parameters"),
        line("objective", f"{recipe.objective['name']}; {parameters:,} parameters with its teachers and heads, of which {trained:,} are trained; "
             f"views {views or 'none'}"),
        line("optimizer", f"{recipe.optimizer.name}, rate {recipe.optimizer.learning_rate:g}, {recipe.optimizer.schedule}, "
             f"weight decay {recipe.optimizer.weight_decay:g}, gradients clipped to {recipe.optimizer.gradient_clip:g}"),
        line("a step", f"{found.multiply_adds / 1e9:,.1f} billion multiply-adds for each batch of a worker, forwards and backwards" if found else
             "its multiply-adds are not known: the objective looks at values")])


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def batches_a_step(recipe: Recipe) -> int:
    """Batches that all workers together take in a step."""
    return recipe.training.workers * recipe.training.accumulate


def images_a_step(recipe: Recipe, objective: nn.Module) -> int:
    """Images of all streams that all workers together take in a step."""
    return recipe.training.workers * images_of_a_worker(recipe, objective)


def seconds_a_step(recipe: Recipe, given: Given) -> float:
    """How long a step takes: as the user says of a worker, or as this machine is measured. BadInput for another machine, of which nothing is said."""
    if given.images_per_second is not None:
        with torch.device("meta"):
            return images_of_a_worker(recipe, build_objective(recipe)) / given.images_per_second
    if given.gpu_memory is not None:
        raise BadInput("training.minutes: expected to know how fast the GPUs of --gpu-memory train, found nothing said of it: say --images-per-second N, or "
                       "training.steps")
    from pipelines.training import speed
    return speed.seconds_a_step(recipe, 1 if trains_alone(recipe) else recipe.training.workers)


def images_of_a_worker(recipe: Recipe, objective: nn.Module) -> int:
    """Images of all streams that one worker takes in a step."""
    return recipe.training.accumulate * sum(sizes_of(recipe, objective).values())


def _steps(recipe: Recipe, objective: nn.Module, done: int, settled: Settled) -> str:
    training = recipe.training
    left = f", of which {training.steps - done:,} are left" if done else ""
    images = training.steps * images_a_step(recipe, objective)
    return line("steps", f"{training.steps:,}{left}; {f'{images:,} images in all, each with its views' if images else 'no images'}; a checkpoint every {training.checkpoint_every:,}", *settled.why)


def _memory(recipe: Recipe, found: Footprint | None, device: Device) -> str:
    if found is None:
        return line("memory", "not known: the objective looks at values, which shapes do not have", f"device: {device.described}")
    optimizer, workers = recipe.optimizer.name, recipe.training.workers
    rows = [("weights and buffers", gib(found.weights)), ("gradients", gib(found.gradients))]
    if workers > 1:
        rows.append(("their buckets, by which workers add them up", gib(found.gradients)))
    rows += [(f"state of {optimizer}", gib(found.states(optimizer))),
             (f"images, views and activations in {'bfloat16' if device.bf16 else 'float32'}", gib(found.activations)),
             ("together, on each worker", gib(found.memory(optimizer, workers)))]
    if device.room is not None:
        rows.append(("there is room for", gib(device.room)))
    head, *rest = table(rows[0], rows[1:]).splitlines()
    return line("memory", head, *rest, f"device: {device.described}")


def _time(recipe: Recipe, objective: nn.Module, device: Device, given: Given, done: int) -> str:
    if not objective.views:
        return line("time", "not known: the objective takes no images, of which the rates are")
    rate = known_rate(recipe, given=given.images_per_second, gpu=device.gpu, bf16=device.bf16)
    workers, kind = recipe.training.workers, "GPU" if device.gpu else "CPU"
    if rate is None:
        return line("time", f"not known: nobody measured {recipe.recognizer.name} with {recipe.objective['name']} on such a {kind};",
                    "a run of 100 steps prints its images per second: divide them by its workers and say --images-per-second N")
    seconds = (recipe.training.steps - done) * images_a_step(recipe, objective) / (rate.images_per_second * workers)
    hours, cores = seconds / 3600, 1 if device.gpu else recipe.training.cpus_per_worker
    both = f"{_hours(hours)}, {_hours(hours * workers * cores, kind + '-')}"
    return line("time", f"{both}, at {rate.images_per_second:,.1f} images/s a worker ({rate.source}), without validation")


def _hours(hours: float, kind: str = "") -> str:
    for unit, each in (("hours", 1), ("minutes", 60), ("seconds", 3600)):
        if hours * each >= 2 or unit == "seconds":
            return f"{hours * each:,.0f} {kind}{unit}" if hours * each >= 10 else f"{hours * each:.2g} {kind}{unit}"


def _stream(recipe: Recipe, objective: nn.Module, part: str, stream: Stream) -> str:
    training, each = recipe.training, batches_a_step(recipe) * stream.batch_size
    shares = _shares(stream)
    rows = [_ingredient(recipe, one, each * share, share) for one, share in zip(stream.ingredients, shares, strict=True)]
    left_out = "; ".join(f"{count:,} {reason}" for reason, count in stream.left_out.items()) or "none"
    epoch = stream.rows / each
    return line(part, f"{stream.batch_size:,} images x {counted(training.workers, 'worker')} x {training.accumulate} = {each:,} a step; "
                f"{training.steps * each:,} in the run, {short(training.steps / epoch)} times each row; {short(epoch)} steps an epoch",
                *table(HEAD, rows).splitlines(),
                f"left out: {left_out}")


def short(number: float) -> str:
    """1,710 or 9.6 or 0.0125."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _shares(stream: Stream) -> list[float]:
    slots = stream.mix.slots.tolist()
    return [slots.count(number) / len(slots) for number in range(len(stream.ingredients))]


def _ingredient(recipe: Recipe, one: Ingredient, images: float, share: float) -> tuple[str, ...]:
    """A line of a stream's table: rows with an order of their own, `images` of which come into each step."""
    corpus, selection = Corpus.open(one.path), one.selection
    name = storage.shown(one.path) + (f", {selection.source}" if selection.source else "") + (f", {one.width} wide" if one.width else "")
    shards = [shard for shard in corpus.manifest.shards if selection.source in (None, shard.source)]
    groups, workers = int((one.plan.group_rows > 0).sum()), recipe.training.workers
    read = "all, into memory" if one.plan.by_row else f"{math.ceil(groups / workers):,}" if one.plan.lanes % workers == 0 else f"{groups:,}"
    epoch = one.plan.rows / images
    epochs = short(recipe.training.steps / epoch)
    return name, f"{one.plan.rows:,}", f"{share:.1%}", short(epoch), epochs, f"{len(shards):,}", f"{groups:,}", read


def _validation(recipe: Recipe, views: Mapping[str, tuple]) -> Iterator[str]:
    validation = recipe.data.validation
    if "labeled" not in views:
        yield line("validation", "what the features know of unlabeled images, ten times unless training.validate_every says otherwise")
        return
    if validation is None:
        yield line("validation", "none")
        return
    corpus = Corpus.open(validation.corpus)
    check_words(corpus, validation.words, rule_of(recipe.recognizer.rule, recipe.charset))
    words = len(spread_rows(corpus, validation.words, ["key"]))
    every = f"every {recipe.training.steps_between_validations:,} steps"
    yield line("validation", f"{words:,} words of {storage.shown(validation.corpus)}, {every}; "
               f"an accuracy of 50 % is known to ± {half_width(words):.1f} points")
    if half_width(words) > DIFFERENCE:
        yield line("warning", f"{words:,} validation words cannot show a difference of {DIFFERENCE} points of accuracy; "
                   f"{words_for(DIFFERENCE):,} could")


def warnings(recipe: Recipe, streams: dict[str, Stream]) -> Iterator[str]:
    """What can be, but is seldom meant."""
    if recipe.data.validation is None:
        says = f"{DECIDES} alone" if "unlabeled" in streams and recipe.data.labeled is not None else "nothing"
        yield f"{says} says how well it reads while it trains: there is no data.validation"
    for part, stream in streams.items():
        epoch = stream.rows / (batches_a_step(recipe) * stream.batch_size)
        if recipe.training.steps < epoch:
            yield f"the run ends before it has seen all {part} images once: {recipe.training.steps:,} of {math.ceil(epoch):,} steps"
    for part in ("labeled", "unlabeled"):
        if getattr(recipe.data, part) is not None and part not in streams:
            yield f"data.{part} is not used: the objective {recipe.objective['name']} does not look at it"
    planned = recipe.objective.get("annealing_steps")
    if planned is not None and recipe.objective["annealing"] != "none" and planned != recipe.training.steps:
        yield f"objective.annealing_steps is {planned:,}, but the run has {recipe.training.steps:,} steps: its threshold ends " + (
            "before it has risen" if planned > recipe.training.steps else "its rise early")
    planned = recipe.objective.get("ramp_steps") if recipe.objective["name"] in ("byol", "dig") else None
    if planned is not None and planned != recipe.training.steps:
        yield f"objective.ramp_steps is {planned:,}, but the run has {recipe.training.steps:,} steps: its average " + (
            "never comes to rest" if planned > recipe.training.steps else "rests long before the end")
