"""What a pretrained encoder is worth: fine-tuned, or read by a new decoder while it rests, on some of the labels.

The two protocols of SeqCLR (Aberdam et al., CVPR 2021, sections 4.2 and 4.3) and PerSec (Liu et al., AAAI 2022):
- label fractions: encoder and decoder are trained together on 5 %, 10 %, 100 % of the labels, which a hash of the keys draws, so that 5 % lies within
  10 % and every method sees the same words;
- decoder evaluation (`freeze`): the encoder rests, batch normalization too, and a new decoder is trained.

Every probe is an ordinary run with a name of its own; whatever is finished is not done again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.evaluation.measure import evaluate_set, rule_on
from pipelines.evaluation.options import device_named
from pipelines.ingestion.wordsets import WordSet
from pipelines.reading.weights import find_model, load_recognizer, pinned, read_description
from pipelines.training.driver import open_streams, train
from pipelines.training.recipe import Recipe, parse_recipe

BATCH = 64


@dataclass(frozen=True)
class Probe:
    """What is probed, and on what."""

    model: str  # a run, a model folder or models:/NAME/VERSION
    labels: str  # a corpus
    sets: list[WordSet]  # to measure on
    name: str  # the probes' names begin with it
    recognizer: str | None = None  # in place of the model's own: one with the same encoder
    freeze: bool = False
    steps: int = 1000
    learning_rate: float = 1e-3
    precision: str = "auto"
    runs: str = "runs"


@dataclass(frozen=True)
class Probed:
    """One probe: from the pretrained model or from nothing, on so many labels."""

    start: str  # "pretrained" or "none"
    fraction: float
    seed: int
    labels: int
    accuracies: dict[str, float]  # words read, by set, from 0 to 1
    run: str


def probe(plan: Probe, fractions: list[float], seeds: list[int], baseline: bool, *, quiet: bool = False) -> Iterator[Probed]:
    """Each probe as soon as it is measured.

    Raises:
        BadInput: what `train` refuses, and labels of which a fraction holds none.
    """
    plan = replace(plan, model=pinned(plan.model))  # an alias may move while it goes on
    about = read_description(find_model(plan.model, plan.runs))
    for fraction in dict.fromkeys(fractions):
        for seed in seeds:
            for start in ("pretrained", "none") if baseline else ("pretrained",):
                recipe, labels = sized(recipe_of(plan, about, start, fraction, seed))
                outcome = train(recipe, resume=True, quiet=quiet)
                yield Probed(start, fraction, seed, labels, measured(plan, outcome.model), outcome.place)


def recipe_of(plan: Probe, about: dict[str, Any], start: str, fraction: float, seed: int) -> Recipe:
    """The recipe of one probe of the model that `about` describes; its batch is still of one image."""
    own = plan.recognizer is None or plan.recognizer == about["name"]
    tree: dict[str, Any] = {
        "name": f"{plan.name}-{'frozen-' if plan.freeze else ''}{start}-{100 * fraction:g}pct-seed{seed}", "seed": seed, "runs": plan.runs,
        "recognizer": {"name": plan.recognizer or about["name"], "charset": about["charset"], "rule": about.get("rule", "charset"),
                       "options": about["overrides"] if own else {}},
        "objective": {"name": "supervised"},
        "data": {"labeled": {"corpus": plan.labels, "batch_size": 1, "fraction": fraction}},
        "optimizer": {"learning_rate": plan.learning_rate},
        "training": {"steps": plan.steps, "precision": plan.precision, "freeze": "encoder" if plan.freeze else None},
        "initialize_from": plan.model if start == "pretrained" else None}
    return parse_recipe(tree, "the recipe of a probe")


def sized(recipe: Recipe) -> tuple[Recipe, int]:
    """The recipe with batches of 64 labels, or of all where there are fewer, and how many labels there are."""
    try:
        labels = open_streams(recipe)["labeled"].rows
    except BadInput as problem:
        raise BadInput(f"--labeled, of which {recipe.data.labeled.fraction:g}: {problem}") from None
    tree = recipe.model_dump(mode="json")
    tree["data"]["labeled"]["batch_size"] = min(BATCH, labels)
    return parse_recipe(tree, "the recipe of a probe"), labels


def measured(plan: Probe, model: str) -> dict[str, float]:
    """Word accuracy of a model by set, and of all words together."""
    folder = find_model(storage.absolute(model))
    recognizer, about = load_recognizer(folder).to(device_named(None)), read_description(folder)
    found = {words.name: evaluate_set(recognizer, words, rule=rule_on(words, recognizer, about)).evaluation.score for words in plan.sets}
    accuracies = {name: score.accuracy for name, score in found.items()}
    if len(found) > 1:
        accuracies["average"] = sum(score.accuracy * score.words for score in found.values()) / sum(score.words for score in found.values())
    return accuracies
