"""Self-training in rounds: a model labels what nobody labeled, and a student learns from both, again and again.

Pseudo-Label, offline (Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks", ICML 2013
workshop; of word images Baek et al., CVPR 2021, arXiv 2103.04400, section 4.2): the labels of a round are the last model's readings, kept
where it is sure, and the next model goes on from it.

Noisy Student (Xie et al., CVPR 2020, arXiv 1911.04252, algorithm 1): the student is new in each round, equal to its teacher or larger, and is
noised (the strong view) while its teacher read without noise. The paper's soft labels are hard ones here: a reading is a string.

What the unlabeled words look like is known to nobody, but the model reads some of them surely: an n-gram of these readings (`own_ngram`, ours)
guides the beam that reads all of them anew, so that a 2 that could be a Z is read as what stands there elsewhere.

Every round is an ordinary run with a name of its own, and its labels are an ordinary corpus. Whatever is finished is not done again: the same
call goes on where it was killed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from models.decoding.beam import check_beam
from models.decoding.ngram import trained_on
from models.recognizer import Recognizer
from pipelines.corpus import storage
from pipelines.corpus.manifest import MANIFEST
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.prediction.labeler import Labeler, Manner
from pipelines.prediction.own_ngram import guided
from pipelines.prediction.pipeline import Job, is_made, predict
from pipelines.prediction.sources import open_all
from pipelines.reading.searches import search_of
from pipelines.reading.weights import find_model, pinned
from pipelines.training.driver import find_start, train
from pipelines.training.recipe import Recipe, parse_recipe
from pipelines.training.runs import RunFolder
from pipelines.training.worker import build_objective


@dataclass(frozen=True)
class Rounds:
    """What is repeated, and how often."""

    recipe: Recipe  # supervised, with the labeled corpora and, as data.unlabeled, those to label
    rounds: int
    least: float  # confidence of a pseudo-label
    manner: Manner  # in which the unlabeled images are read
    teacher: str | None = None  # a model in place of the run of round 0
    student: str | None = None  # the recognizer of the rounds from 1 on; None: the recipe's
    fresh: bool = False  # whether every student begins anew, as in Noisy Student, and not from the last model, as in Pseudo-Label
    share: float | None = None  # of each batch that is pseudo-labels; None: every row counts the same
    own_ngram: float | None = None  # confidence of the readings whose n-gram guides the beam; None: no such n-gram


@dataclass(frozen=True)
class Round:
    """A finished round."""

    number: int
    run: str  # where the run lies; the teacher's name in round 0 if it was given
    labels: int | None  # pseudo-labels that it learned from; None in round 0
    metrics: dict[str, Any]


def check(plan: Rounds) -> None:
    """Raise BadInput for rounds that cannot be: before anything is trained."""
    recipe = plan.recipe
    if recipe.objective["name"] != "supervised":
        raise BadInput(f"objective.name: expected supervised, for each round learns from labels and pseudo-labels, found {recipe.objective['name']}: "
                       "set objective={name: supervised}")
    for part in ("labeled", "unlabeled"):
        if getattr(recipe.data, part) is None:
            wanted = "have labels" if part == "labeled" else "are to be labeled"
            raise BadInput(f"data.{part}: expected the corpora that {wanted}, found none: add them")
        fraction = getattr(recipe.data, part).fraction
        if fraction != 1:
            raise BadInput(f"data.{part}.fraction: expected 1, for a round draws from labels and pseudo-labels together, found {fraction:g}: make a "
                           "corpus of that part")
    if recipe.data.labeled.weights is not None and plan.share is None:
        raise BadInput("data.labeled.weights: expected --share beside them, for the sources of the pseudo-labels are not in them, found none: say it, or "
                       "leave the weights out")
    if plan.rounds < 1:
        raise BadInput(f"--rounds: expected at least 1, found {plan.rounds}")
    if plan.share is not None:
        _weights(recipe, recipe.data.unlabeled.corpora, plan.share)
    open_all(recipe.data.unlabeled.corpora)
    student = student_recipe(replace(plan, share=None), 1, plan.teacher or "", "LABELS")
    if student.initialize_from and RunFolder(storage.join(student.runs, student.name)).state() is None:  # a run that has begun knows its start
        find_start(student, None)
    readers = [Labeler.open(_place(plan, plan.teacher)).recognizer if plan.teacher else build_objective(recipe).recognizer]
    for recognizer in readers + ([build_objective(student).recognizer] if plan.rounds > 1 else []):
        _check_search(plan, recognizer)


def _check_search(plan: Rounds, recognizer: Recognizer) -> None:
    """Raise BadInput where a recognizer does not read in the plan's manner."""
    search = plan.manner.search
    if plan.own_ngram is not None and (search.beam is None or search.ngram is not None):
        found = "no --beam" if search.beam is None else "--ngram"
        raise BadInput(f"--own-ngram: expected --beam N with it, which it guides, and no --ngram, found {found}")
    search_of(recognizer, search)
    if plan.own_ngram is not None:
        some = trained_on([recognizer.charset.characters[0]], recognizer.charset, order=1)
        try:
            check_beam(recognizer.decoder, search.beam, some, search.ngram_weight)
        except ValueError as problem:
            raise BadInput(f"--own-ngram: {problem}") from None


def _place(plan: Rounds, model: str) -> str:
    """Where a model of the plan's lies: runs are looked for among the recipe's."""
    exact = pinned(model)
    return exact if exact.startswith("models:/") else str(find_model(exact, plan.recipe.runs))


def self_train(plan: Rounds, *, quiet: bool = False) -> Iterator[Round]:
    """Train the rounds, or go on where a kill stopped them; each as soon as it is finished.

    Raises:
        BadInput: what `check`, `train` and `predict` refuse.
    """
    check(plan)
    recipe = plan.recipe
    if plan.teacher is not None:
        model, done = plan.teacher, Round(0, plan.teacher, None, {})
    else:
        outcome = train(parse_recipe({**recipe.model_dump(mode="json"), "name": f"{recipe.name}-round-0"}), quiet=quiet)
        model, done = outcome.model, Round(0, outcome.place, None, outcome.metrics)
    yield done
    for number in range(1, plan.rounds + 1):
        labels = storage.join(recipe.runs, recipe.name, f"round-{number}", "labels")
        _label(plan, model, labels)
        outcome = train(student_recipe(plan, number, model, labels), quiet=quiet)
        model = outcome.model
        yield Round(number, outcome.place, Corpus.open(labels).rows, outcome.metrics)


def _label(plan: Rounds, model: str, target: str) -> None:
    """Read the unlabeled corpora with a model into the corpus `target`, unless that was done."""
    corpora = plan.recipe.data.unlabeled.corpora
    job = Job(open_all(corpora), corpora, Labeler.open(_place(plan, model)), plan.manner, storage.absolute(target), least=plan.least)
    if plan.own_ngram is not None:
        job = replace(job, manner=guided(job, plan.own_ngram))
    if is_made(job):
        return
    if storage.kind(storage.join(job.target, MANIFEST)) is not None:
        raise BadInput(f"{target}: expected the pseudo-labels of {job.labeler.name} with a confidence of {plan.least:g} or more, found those of "
                       "another model, another confidence or another search: choose another name= for these rounds")
    predict(job)


def student_recipe(plan: Rounds, number: int, model: str, labels: str) -> Recipe:
    """The recipe of round `number`: the given one on labels and pseudo-labels, from the last model or anew."""
    recipe, tree = plan.recipe, plan.recipe.model_dump(mode="json")
    tree["name"] = f"{recipe.name}-round-{number}"
    tree["data"]["labeled"]["corpus"] = [*recipe.data.labeled.corpora, labels]
    if plan.share is not None:
        tree["data"]["labeled"]["weights"] = _weights(recipe, [labels], plan.share)
    tree["data"]["unlabeled"] = None
    if plan.student is not None:
        tree["recognizer"] = {**tree["recognizer"], "name": plan.student, "options": {}}
        tree["initialize_from"] = None  # what the recipe begins with fits the recipe's own recognizer
    elif not plan.fresh:
        tree["initialize_from"] = model
    return parse_recipe(tree, "the recipe of a round")


def _weights(recipe: Recipe, corpora: list[str], share: float) -> dict[str, float]:
    """The share of each source in a batch: `share` of it to the sources of `corpora`, by their rows, the rest to the labeled ones, by the recipe's weights
    or by their rows. BadInput for a source on both sides."""
    weights: dict[str, float] = {}
    for places, part, given in ((recipe.data.labeled.corpora, 1 - share, recipe.data.labeled.weights), (corpora, share, None)):
        rows: dict[str, float] = {}
        for place in places:
            for name, counts in Corpus.open(place).manifest.sources.items():
                if counts.kept:
                    rows[name] = rows.get(name, 0) + counts.kept
        both = sorted(set(weights) & set(rows))
        if both:
            raise BadInput(f"--share: expected labeled and unlabeled sources of different names, found {both[0]} among both: leave --share out, or "
                           "ingest one of them under another name")
        parts = given or rows
        weights |= {name: part * count / sum(parts.values()) for name, count in parts.items()}
    return weights
