"""What a trial's folder says of how it went: it outlives the sweep's own process, and a sweep that goes on learns from it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch

from pipelines.corpus import storage
from pipelines.corpus.manifest import SourceCounts
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.reading.weights import read_description
from pipelines.state import parse_json, parse_yaml
from pipelines.training.journal import read_journal
from pipelines.training.recipe import Recipe, parse_recipe
from pipelines.training.runs import RunFolder
from pipelines.training.unlabeled import DECIDES, PREFIX
from pipelines.training.worker import build_objective, trained_parts
from tuning.plan import SPEED
from tuning.proposals import trial_name
from tuning.space import Axis, Values, value_at

OUTCOME = "outcome.json"  # of a trial that did not come to its end: why


def metric_of(recipe: Recipe) -> str:
    """The number that decides among trials: word accuracy where there are validation words, else the criterion that needs no labels; of encoders that learn from images
    alone how alike the labels of nearest neighbours are, which training never sees.

    Raises:
        BadInput: nothing would decide.
    """
    if "decoder" not in _trained(recipe.recognizer.model_dump_json(), json.dumps(recipe.objective)):
        labels = sum(source.labeled for place in (recipe.data.unlabeled.corpora if recipe.data.unlabeled else []) for source in _sources(place))
        if not labels:
            raise BadInput(f"expected unlabeled images some of which have labels, by which trials of {recipe.objective['name']} are judged and which training does not see, found none: "
                           "bring some in with their labels")
        return f"{PREFIX}neighbour_similarity"
    if recipe.data.validation is not None:
        return "word_accuracy"
    if recipe.data.unlabeled is None:
        raise BadInput("expected data.validation, labeled words by which the trials are judged, found none: name a corpus")
    return DECIDES


@lru_cache(maxsize=8)
def _trained(recognizer: str, objective: str) -> tuple[str, ...]:
    """The parts of a recognizer that an objective trains, from shapes alone."""
    part = {"corpus": "none", "batch_size": 1}
    with torch.device("meta"):
        return tuple(trained_parts(build_objective(parse_recipe({
            "name": "parts", "recognizer": json.loads(recognizer), "objective": json.loads(objective), "data": {"labeled": part, "unlabeled": part}, "training": {"steps": 1}}))))


def _sources(place: str) -> list[SourceCounts]:
    try:
        return list(Corpus.open(place).manifest.sources.values())
    except BadInput:
        return []


def called(metric: str) -> str:
    """A number as it is called in sentences."""
    return metric.replace("_", " ")


@dataclass
class TrialResult:
    """One trial: what it used, and how it went. `curve` holds (step, what decides) pairs."""

    name: str
    values: dict[str, Any]
    curve: list[tuple[int, float]] = field(default_factory=list)
    stopped: str = ""  # why it was ended early
    model_step: int | None = None  # the step that its model is of, where that is not the last
    error: str = ""
    model: str = ""
    seconds: float | None = None  # from its first line to its last
    images_per_second: float | None = None
    words: int | None = None  # that decide

    @property
    def accuracy(self) -> float | None:
        """The word accuracy of the trial's model, or what decides in its place; None if it never reached a validation."""
        if not self.curve:
            return None
        return dict(self.curve).get(self.model_step, self.curve[-1][1])

    @property
    def steps(self) -> int:
        """How far it came."""
        return self.curve[-1][0] if self.curve else 0

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do for it. One that failed is tried again."""
        return bool(self.model or self.stopped)


def trial_folder(where: RunFolder, name: str) -> RunFolder:
    """The folder of a trial of a sweep."""
    return RunFolder(where.file(f"trials/{name}"))


PAUSE = 600.0  # seconds between two lines of a journal: more is the time between a kill and the next command


def note(folder: RunFolder, values: Values, *, stopped: str = "", error: str = "") -> None:
    """Write why a trial did not come to its end, and what it was, for one that failed before it wrote its recipe."""
    storage.write_bytes(folder.file(OUTCOME), json.dumps({"values": values, "stopped": stopped, "error": error}).encode() + b"\n")


def result_at(folder: RunFolder, name: str, values: Values, metric: str) -> TrialResult:
    """What a trial's folder says of it."""
    lines = read_journal(folder.progress)
    curve = {line["step"]: line[metric] for line in lines if metric in line}
    speeds = [line[SPEED] for line in lines if SPEED in line]
    words = [int(line["validation_words"]) for line in lines if "validation_words" in line]
    state = folder.state()
    finished = state is not None and state.status == "finished"
    file = folder.file(OUTCOME)
    why = parse_json(storage.read_bytes(file), dict[str, Any], file, "remove it") if not finished and storage.kind(file) == "file" else {}
    pauses = [later["time"] - line["time"] for line, later in pairwise(lines)]
    return TrialResult(name, dict(values), sorted(curve.items()), stopped=why.get("stopped", ""), error=why.get("error", ""), model=folder.model if finished else "",
                       model_step=read_description(folder.model).get("step") if finished else None, seconds=sum(pause for pause in pauses if pause < PAUSE) if lines else None,
                       images_per_second=sorted(speeds)[len(speeds) // 2] if speeds else None, words=words[-1] if words else None)


def trials_in(where: RunFolder, recipe: Recipe, axes: Sequence[Axis]) -> list[TrialResult]:
    """The trials of a sweep that have begun, by what their folders hold. One of another space, as of an earlier section `search`, is none."""
    try:
        names = sorted(storage.list_names(where.file("trials")))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        folder = trial_folder(where, name)
        values = _values_in(folder, recipe, axes)
        if values is None:
            continue  # killed before it began
        if trial_name(values, recipe, axes) == name:
            found.append(result_at(folder, name, values, metric_of(recipe)))
    return found


def _values_in(folder: RunFolder, recipe: Recipe, axes: Sequence[Axis]) -> Values | None:
    """The values of a trial, by its recipe, or of one that failed before it had one by the note on it."""
    file, values = folder.file("recipe.yaml"), {}
    if storage.kind(file) != "file":
        file = folder.file(OUTCOME)
        return parse_json(storage.read_bytes(file), dict[str, Any], file, "remove it")["values"] if storage.kind(file) == "file" else None
    own = parse_recipe(parse_yaml(storage.read_bytes(file), file, "remove the folder"), file)
    for axis in axes:
        if axis.counts(values, recipe):
            values[axis.field] = value_at(own, axis.field)
    return values
