"""How many images a batch has and how many steps a run, where its recipe leaves that out: by the size of its corpora, or by the time that it may take.

The numbers are settled before the run begins, for the schedule of the learning rate is a function of the last step. From then on they stand in the
run's recipe, which is whole, and in its state: a run that goes on keeps them, and every worker is told the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.corpus.account import counted
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.training.recipe import Recipe, StreamRecipe
from pipelines.training.runs import RunState

if TYPE_CHECKING:
    from pipelines.feed.stream import Stream

EPOCHS = 20  # of the stream that takes the most steps for one
LEAST_STEPS, MOST_STEPS = 500, 100_000
BATCH = 64
BATCHES_AN_EPOCH = 4  # at the least, while a batch can be halved
SHARE_OF_TRAINING = 0.85  # of the time; the rest is starting, validating and writing


@dataclass(frozen=True)
class Settled:
    """A recipe of which less is left out, the fields that were filled in, and a sentence for each."""

    recipe: Recipe
    fields: Mapping[str, int]
    why: tuple[str, ...] = ()

    def and_then(self, other: "Settled") -> "Settled":
        """What was settled in two goes."""
        return Settled(other.recipe, {**self.fields, **other.fields}, self.why + other.why)


def is_open(recipe: Recipe) -> bool:
    """Whether something is left to be settled."""
    return recipe.training.steps is None or any(part is not None and part.batch_size is None for part in (recipe.data.labeled, recipe.data.unlabeled))


def recalled(recipe: Recipe, state: RunState | None) -> Settled:
    """The recipe with what was settled when its run began; as it is for a new run.

    Raises:
        BadInput: the run was to take another time.
    """
    if state is None:
        return Settled(recipe, {})
    left_out = {field: number for field, number in state.settled.items() if _of(recipe, field) is None}
    if "training.steps" in left_out and recipe.training.minutes != state.minutes:
        raise BadInput(f"training.minutes: expected {_minutes(state.minutes)}, with which the run {recipe.name!r} began ({left_out['training.steps']:,} steps), found "
                       f"{_minutes(recipe.training.minutes)}: repeat that, or choose another name=")
    return Settled(_filled(recipe, left_out), left_out, tuple(f"{field}: {number:,}, as the run began" for field, number in left_out.items()))


def with_batches(recipe: Recipe) -> Settled:
    """The recipe with a batch size for each of its streams."""
    fields, why = {}, []
    for part in ("labeled", "unlabeled"):
        source = getattr(recipe.data, part)
        if source is not None and source.batch_size is None:
            rows = _rows(source, part == "labeled")
            size = batch_of(rows)
            fields[f"data.{part}.batch_size"] = size
            why.append(f"data.{part}.batch_size: {size}, for {counted(rows, f'{part} image')}")
    return Settled(_filled(recipe, fields), fields, tuple(why))


def batch_of(rows: int) -> int:
    """The batch for so many rows: 64, halved while an epoch would have fewer than 4 of them."""
    size = BATCH
    while size > 1 and size * BATCHES_AN_EPOCH > rows:
        size //= 2
    return size


def with_steps(recipe: Recipe, streams: "Mapping[str, Stream]", seconds_a_step: Callable[[Recipe], float]) -> Settled:
    """The recipe with its number of steps.

    Args:
        streams: of the recipe, opened.
        seconds_a_step: measures; called where the recipe has a time to keep to.

    Raises:
        BadInput: the objective learns from no images, and there is neither a number nor a time.
    """
    training = recipe.training
    if training.steps is not None:
        return Settled(recipe, {})
    if training.minutes is not None:
        each = seconds_a_step(recipe)
        steps = steps_within(60 * training.minutes, each)
        return _long(recipe, steps, f"what {_minutes(training.minutes)} are enough for at {1 / each:,.3g} steps a second, measured before it begins")
    if not streams:
        raise BadInput(f"training.steps: expected a number, for {recipe.objective['name']} learns from no corpus by whose size to choose one, found none: say it, or "
                       "training.minutes")
    epochs = {part: stream.rows / (training.workers * training.accumulate * stream.batch_size) for part, stream in streams.items()}  # each in steps
    part = max(epochs, key=epochs.__getitem__)
    steps = min(MOST_STEPS, max(LEAST_STEPS, round(EPOCHS * epochs[part])))
    bound = {LEAST_STEPS: " (no run of this kind has fewer steps)", MOST_STEPS: " (no run of this kind has more steps)"}.get(steps, "")
    return _long(recipe, steps, f"{steps / epochs[part]:,.3g} epochs of {counted(streams[part].rows, f'{part} image')}{bound}")


def steps_within(seconds: float, seconds_a_step: float) -> int:
    """The steps that so much time is enough for, which also goes into starting, validating and writing."""
    return max(1, int(SHARE_OF_TRAINING * seconds / seconds_a_step))


def _long(recipe: Recipe, steps: int, why: str) -> Settled:
    fields = {"training.steps": steps}
    return Settled(_filled(recipe, fields), fields, (f"training.steps: {steps:,}, {why}",))


def _rows(source: StreamRecipe, labeled: bool) -> int:
    counts = [each for place in source.corpora for each in Corpus.open(place).manifest.sources.values()]
    return int(source.fraction * sum(each.labeled if labeled else each.kept for each in counts))


def _of(recipe: Recipe, field: str) -> int | None:
    section, *path = field.split(".")
    value = getattr(recipe, section)
    for name in path:
        value = value and getattr(value, name)
    return value


def _filled(recipe: Recipe, fields: Mapping[str, int]) -> Recipe:
    """The recipe with these fields; with its steps settled, the time is no longer asked for."""
    training, data = recipe.training, recipe.data
    if "training.steps" in fields:
        training = training.model_copy(update={"steps": fields["training.steps"], "minutes": None})
    for part in ("labeled", "unlabeled"):
        if (size := fields.get(f"data.{part}.batch_size")) is not None:
            data = data.model_copy(update={part: getattr(data, part).model_copy(update={"batch_size": size})})
    return recipe.model_copy(update={"training": training, "data": data})


def _minutes(minutes: float | None) -> str:
    return "none" if minutes is None else f"{minutes:g} minutes"
