"""A run's model becomes a version, and the champion if it reads more words than the champion of today, told apart by a paired test."""

import re
from dataclasses import dataclass
from pathlib import Path

import mlflow.artifacts
from mlflow.exceptions import MlflowException

from models.recognizer import Recognizer
from pipelines.corpus import storage
from pipelines.errors import BadInput, Unavailable
from pipelines.evaluation.columns import as_text
from pipelines.evaluation.comparison import Paired, check_same_words
from pipelines.evaluation.measure import Result, evaluate_set, rule_on, total
from pipelines.evaluation.metrics import Score
from pipelines.evaluation.protocols import Rule
from pipelines.evaluation.table import HEADER, rows
from pipelines.ingestion.wordsets import WordSet
from pipelines.progress import say
from pipelines.reading.weights import find_model, load_recognizer, read_description
from pipelines.registry import versions
from pipelines.registry.card import card, lineage
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


def measure(what: str, recognizer: Recognizer, gates: list[WordSet], rules: list[Rule]) -> list[Result]:
    """The gate sets, read by one model and compared each by its rule; the table goes to stderr."""
    results = [evaluate_set(recognizer, words, rule=rule, keep_worst=0) for words, rule in zip(gates, rules, strict=True)]
    say(f"\n{what} on the gate:\n{as_text(rows(results), HEADER)}")
    return results


def paired(first: list[Result], second: list[Result]) -> Paired:
    """The same words, read by two models. Raises BadInput if the sets changed between them."""
    for one, other in zip(first, second, strict=True):
        check_same_words(one, other)
    return sum((Paired.of(one.evaluation.words, other.evaluation.words) for one, other in zip(first, second, strict=True)), Paired())


def verdict(name: str, version: str, scored: Score | None, champion: str | None, found: Paired | None, min_gain: float = 0.0) -> tuple[bool, str]:
    """Whether a version becomes the champion, and the sentence that says why: only if it is told apart from the champion by McNemar's exact test on the same words.

    Args:
        scored: what it read on the gate; None if there is no gate.
        champion: the version that is champion now; None if there is none.
        found: the champion (first) and the version (second) on the same words.
        min_gain: points of accuracy that it must read more.
    """
    if champion is None or found is None:
        on_gate = f" with {_counted(scored.correct, scored.words)} on the gate" if scored else "; no gate was given"
        return True, f"version {version} of {name} is its first champion{on_gate}"
    old, new = found.both + found.only_first, found.both + found.only_second
    compared = f"{_counted(new, found.words)} against {_counted(old, found.words)} of version {champion}"
    points = f"{100 * found.difference:+.2f} points"
    chance = f"p {'< 0.001' if found.chance < 0.001 else f'= {found.chance:.3f}'}"
    difference = f"{new - old:,} more ({points})" if new > old else f"{old - new:,} fewer ({points})" if new < old else "a tie"
    if new > old and found.told_apart and 100 * found.difference >= min_gain:
        return True, f"version {version} of {name} is the new champion: {compared}, {difference}, told apart ({chance})"
    if new > old:
        difference += f", less than the {min_gain:g} that --min-gain wants" if found.told_apart else f", not told apart ({chance}): more words may tell"
    return False, f"version {version} of {name} is not promoted, version {champion} stays champion: {compared}, {difference}"


def _counted(correct: int, words: int) -> str:
    return f"{correct:,} of {words:,} words ({100 * correct / words:.2f} %)"


def register(run: str, name: str, *, promote: bool = False, gates: list[WordSet] | None = None, rule: str | None = None, min_gain: float = 0.0) -> Registered:
    """Register a run's model under `name`; with `promote`, make it the champion if it reads more words of the gate, so many that they are told apart; else the challenger.

    Both models are evaluated now, by the same rules: `rule`, or those of `measure.rule_on` for the new model. Everything that can fail on bad input does so before anything is
    registered. What a kill left half done is completed by the same call. If another model becomes champion meanwhile, it is compared with that one.

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
            sentence = f"version {version} of {name} is the champion: an earlier call had decided so and was interrupted"
            versions.describe(store, name, version, card(name, read_description(trained.folder), lineage(str(trained.folder)), (), sentence))
            return Registered(name, version, True, sentence)
    gate = _Gate(name, gates, rule, trained.folder)
    if champion:
        gate.against(champion)
    runs = lineage(str(trained.folder))
    tags = {"run_id": trained.run or "", "recipe": trained.recipe, "rule": gate.about.get("rule", "charset"), "weights_sha256": gate.about["weights_sha256"],
            "corpora": ", ".join(f"{place} {sha[:12]}" for each in runs for place, sha in each["corpora"].items())[:4000],
            "began_with": " <- ".join(each["start"] for each in runs if each["start"])[:4000]}
    tags |= gate.tags()
    tags = {key: value for key, value in tags.items() if value}
    with versions.registering(store, experiment, name, trained.folder, run=trained.run, tags=tags) as version:
        decided = _decide(store, name, version, gate, min_gain) if promote else Registered(
            name, version, False, f"version {version} of {name} is registered; without --promote the champion stays what it is")
        if not decided.champion:
            versions.challenge(store, name, version)
        versions.describe(store, name, version, card(name, gate.about, runs, gate.new, decided.sentence))
        return decided


class _Gate:
    """The words by which versions are compared, read by the new model, and by each champion that it is compared with."""

    def __init__(self, name: str, gates: list[WordSet], rule: str | None, folder: str | Path):
        self.name, self.gates = name, gates
        recognizer = load_recognizer(folder)
        self.about = read_description(folder)
        self.rules = [rule_on(words, recognizer, self.about, rule) for words in gates]
        self.new = measure("the new model", recognizer, gates, self.rules) if gates else []
        self._of: dict[str, Paired] = {}

    def against(self, champion: str) -> Paired:
        """A champion and the new model on the same words; measured once. Raises BadInput without words."""
        if not self.gates:
            raise BadInput(f"{self.name} has a champion (version {champion}) and --promote must compare with it: give words to compare on, --data NAME=PATH")
        if champion not in self._of:
            current = load_recognizer(f"models:/{self.name}/{champion}")
            self._of[champion] = paired(measure(f"the champion, version {champion},", current, self.gates, self.rules), self.new)
        return self._of[champion]

    def score(self) -> Score | None:
        """What the new model read; None without words."""
        return total(self.new) if self.new else None

    def tags(self) -> dict[str, str]:
        """Of the version."""
        score = self.score()
        numbers = {"gate_accuracy": f"{score.accuracy:.6f}", "gate_words": str(score.words)} if score else {}
        return numbers | {"gate_sets": ",".join(words.name for words in self.gates), "gate_rules": ",".join(each.name for each in self.rules)}


def _decide(store: str, name: str, version: str, gate: _Gate, min_gain: float) -> Registered:
    """Compare with the champion of now, and move the alias only if it still is: a model that became champion meanwhile is compared with, too."""
    while True:
        champion = versions.champion_of(store, name)
        better, sentence = verdict(name, version, gate.score(), champion, gate.against(champion) if champion else None, min_gain)
        if not better:
            return Registered(name, version, False, sentence)
        with versions.promoting(store, name):
            if versions.champion_of(store, name) == champion:
                versions.crown(store, name, version)
                return Registered(name, version, True, sentence)


def rollback(name: str, to: str | None = None) -> str:
    """Make the champion of before champion again, or version `to`; returns a sentence.

    Raises:
        BadInput: no such model or version, no champion, or none before it.
    """
    store, _ = prepare_store()
    champion = versions.champion_of(store, name)
    if champion is None:
        raise BadInput(f"expected a registered model with a champion, found none called {name} in {store}: `textray register RUN --name {name} --promote` makes one")
    if to is not None:
        versions.check_version(store, name, to)
    with versions.promoting(store, name):
        champion = versions.champion_of(store, name)  # of now: it may have changed while others held it
        target = to or versions.before(store, name, champion)
        if target is None:
            raise BadInput(f"{name}: expected a champion before version {champion}, found none: name the version, as --to 1")
        if target == champion:
            return f"version {champion} of {name} is the champion already"
        versions.move(store, name, target, champion)
    return f"version {target} of {name} is the champion {'again' if to is None else 'now'}; it was version {champion}"
