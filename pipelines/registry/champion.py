"""A run's model becomes a version, and the champion if it reads more words than the champion of today."""

import re
from dataclasses import dataclass
from pathlib import Path

import mlflow.artifacts
from mlflow.exceptions import MlflowException

from models.recognizer import Recognizer
from pipelines.corpus import storage
from pipelines.errors import BadInput, Unavailable
from pipelines.evaluation.columns import as_text
from pipelines.evaluation.measure import evaluate_set, rule_on, total
from pipelines.evaluation.metrics import Score
from pipelines.evaluation.protocols import Rule
from pipelines.evaluation.table import HEADER, rows
from pipelines.ingestion.wordsets import WordSet
from pipelines.progress import say
from pipelines.reading.weights import find_model, load_recognizer, read_description
from pipelines.registry import versions
from pipelines.tracking import find_run, is_away, prepare_store
from pipelines.training import record
from pipelines.training.runs import RunFolder


@dataclass(frozen=True)
class Trained:
    """A model folder and the MLflow run that it came from, if the store has that run."""

    folder: str | Path
    run: str | None
    recipe: str  # the name in its recipe; empty if it is not known


@dataclass(frozen=True)
class Registered:
    """What became of a registration."""

    name: str
    version: str
    champion: bool  # whether this version is the champion now
    sentence: str  # why

    @property
    def uri(self) -> str:
        """Where MLflow and this package find the version."""
        return f"models:/{self.name}/{self.version}"


def find_trained(run: str, store: str) -> Trained:
    """The model that `run` means: a run's name or folder, a model folder, or the id of a run in the MLflow store.

    Raises:
        BadInput: there is none.
    """
    if re.fullmatch("[0-9a-f]{32}", run) and not Path(run).exists():
        folder, tracked = _of_mlflow(run, store), run
    else:
        folder = find_model(run)
        where = RunFolder(storage.parent(folder))
        state = where.state()
        if state and state.status == "finished":
            record.settle(where, state, "FINISHED", {"model": str(folder)})
        tracked = state.handle.run if state and state.handle and find_run(state.handle.run, store) else None
    return Trained(folder, tracked, str(read_description(folder).get("run", "")))


def _of_mlflow(run: str, store: str) -> str | Path:
    found = find_run(run, store)
    if found is None:
        raise BadInput(f"expected a run of the MLflow store {store}, found none with the id {run}")
    folder = found.data.tags.get("model")  # where training left it; another machine may only have the artifacts
    if folder and storage.kind(folder) == "folder":
        return find_model(folder)
    try:
        return find_model(mlflow.artifacts.download_artifacts(run_id=run, artifact_path="model", tracking_uri=store))
    except (MlflowException, OSError) as problem:
        if is_away(store, problem):
            raise Unavailable(f"the MLflow store {store} does not give the model of {run} now: repeat the command when it is back") from None
        raise BadInput(f"the run {run} has no model: neither the folder {folder or '(none noted)'} nor an artifact "
                       "model/ exists; has it finished?") from None


def measure(what: str, recognizer: Recognizer, gates: list[WordSet], rules: list[Rule]) -> Score:
    """The gate sets together, read by one model and compared each by its rule; its table goes to stderr."""
    results = [evaluate_set(recognizer, words, rule=rule) for words, rule in zip(gates, rules, strict=True)]
    say(f"\n{what} on the gate:\n{as_text(rows(results), HEADER)}")
    return total(results)


def verdict(name: str, version: str, new: Score | None, champion: str | None, old: Score | None) -> tuple[bool, str]:
    """Whether a version becomes the champion, and the sentence that says why. A tie changes nothing.

    Args:
        new: what it scored on the gate; None if there is no gate.
        champion: the version that is champion now; None if there is none.
        old: what that one scored on the same words.
    """
    if champion is None or new is None or old is None:
        scored = f" with {_scored(new)} on the gate" if new else "; no gate was given"
        return True, f"version {version} of {name} is its first champion{scored}"
    compared = f"{_scored(new)} against {_scored(old)} of version {champion}"
    if new.correct > old.correct:
        gain = new.correct - old.correct
        return True, (f"version {version} of {name} is the new champion: {compared}, {gain:,} more "
                      f"(+{100 * gain / new.words:.2f} points)")
    loss = old.correct - new.correct
    difference = f"{loss:,} fewer ({-100 * loss / new.words:.2f} points)" if loss else "a tie"
    return False, (f"version {version} of {name} is not promoted, version {champion} stays champion: {compared}, "
                   f"{difference}")


def _scored(score: Score) -> str:
    return f"{score.correct:,} of {score.words:,} words ({100 * score.accuracy:.2f} %)"


def register(run: str, name: str, *, promote: bool = False, gates: list[WordSet] | None = None, rule: str | None = None) -> Registered:
    """Register a run's model under `name`; with `promote`, make it the champion if it reads more words of the gate.

    Both models are evaluated now, by the same rules: `rule`, or those of `measure.rule_on` for the new model. Everything that can fail on bad input does so before anything is registered. What a kill left half done is completed by the same call.

    Raises:
        BadInput: no such model, a gate that cannot be read, or a champion to compare with and no gate.
    """
    gates = gates or []
    versions.check_name(name)
    store, experiment = prepare_store()
    trained = find_trained(run, store)
    champion = versions.champion_of(store, name) if promote else None
    if champion and champion == versions.interrupted(store, name, trained.folder):
        with versions.registering(store, experiment, name, trained.folder, run=trained.run, tags={}) as version:
            return Registered(name, version, True, f"version {version} of {name} is the champion: an earlier call had decided so and was interrupted")
    if champion and not gates:
        raise BadInput(f"{name} has a champion (version {champion}) and --promote must compare with it: give "
                       "words to compare on, --data NAME=PATH")
    recognizer = load_recognizer(trained.folder)
    about = read_description(trained.folder)
    rules = [rule_on(words, recognizer, about, rule) for words in gates]
    new = measure("the new model", recognizer, gates, rules) if gates else None
    old = None
    if champion:
        current = load_recognizer(f"models:/{name}/{champion}")
        old = measure(f"the champion, version {champion},", current, gates, rules)
    tags = {"run_id": trained.run or "", "recipe": trained.recipe, "rule": about.get("rule", "charset")}
    tags |= {"gate_accuracy": f"{new.accuracy:.6f}", "gate_words": str(new.words)} if new else {}
    tags |= {"gate_sets": ",".join(words.name for words in gates), "gate_rules": ",".join(each.name for each in rules)}
    tags = {key: value for key, value in tags.items() if value}
    with versions.registering(store, experiment, name, trained.folder, run=trained.run, tags=tags) as version:
        if not promote:
            return Registered(name, version, False, f"version {version} of {name} is registered; without --promote the champion stays what it is")
        better, sentence = verdict(name, version, new, champion, old)
        if better:
            versions.crown(store, name, version)
        return Registered(name, version, better, sentence)
