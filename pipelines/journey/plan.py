"""What `textray adapt` does with what there is. The choices follow what was measured (docs/results.md, docs/training.md "Which method"):

* Without labels, or with few: a recognizer learns from drawn words, then reads the user's images, and learns from what it reads surely. A beam guides
  that reading: an n-gram of the words that the user listed, of English, or, for codes that nobody listed, of what the model itself reads surely.
  50 labels of the same kind are worth about as much as two thousand images without any, and they add up: they are a share of every batch.
* With many labels they are most of every batch, and there are no pseudo-labels: they would be less right than the labels are.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from models.charset import Charset
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.ingestion.split import labeled_rows

MANY = 2_000  # labels from which on there is nothing for pseudo-labels to add
LEAST_TO_TEACH = 8  # labels: a source with a part of every batch needs as many rows
ENOUGH_TO_TEST, ENOUGH_TO_VALIDATE = 20, 300  # labels
DRAWN = {"scene": 24_000, "plain": 16_000}  # words in the two looks that were tried together
BATCH, ROUND_BATCH, PSEUDO_SHARE = 64, 112, 0.43  # drawn words a step; with pseudo-labels; their share
LEAST_STEPS, MOST_STEPS = 300, 8_000
ROUNDS = 2  # where there is time for more than one: each takes LEAST_STEPS at the least
FEW_STEPS = 1_500  # with fewer of them the larger recognizer has learned less than the smaller one


@dataclass(frozen=True)
class Wishes:
    """What the user said."""

    words: str | None = None  # a file of words like theirs
    pattern: str | None = None  # of codes like theirs
    model: str | None = None  # to begin with
    charset: str | None = None
    minutes: float = 30.0
    both_ways_up: bool = False


class Plan(BaseModel):
    """What will be done; written down once, so that a killed journey goes on as it was begun."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: int  # that teach
    method: Literal["pseudo-labels", "labels"]
    charset: str
    recognizer: str
    options: dict[str, Any] = {}
    validation: float
    test: float
    steps: int  # of the first run; 0: there is none
    rounds: int
    round_steps: int


def drawn_words(minutes: float) -> dict[str, int]:
    """How many words are drawn in each look: fewer where there is little time, of which drawing them takes a part."""
    return {look: int(count * min(1.0, max(0.1, minutes / 30))) for look, count in DRAWN.items()}


def parts_of(labels: int) -> tuple[float, float]:
    """Which shares of so many labels validate and test; the rest teaches."""
    if labels < ENOUGH_TO_TEST:
        return 0.0, 0.0
    return (0.15, 0.15) if labels >= ENOUGH_TO_VALIDATE else (0.0, 0.3)


def characters_of(wishes: Wishes, labels: list[str], drawn: list[str]) -> str:
    """The charset: what was asked for, or what the labels and the words to draw hold; English words alone are read without case, as in the benchmarks.

    Raises:
        BadInput: no charset at all.
    """
    if wishes.charset is not None:
        try:
            Charset.named(wishes.charset)
        except ValueError as problem:
            raise BadInput(f"--charset {wishes.charset}: {problem}") from None
        return wishes.charset
    held = set("".join([*labels, *drawn])) - {" "}
    if not drawn:  # English
        fits = next((name for name in ("36", "62", "94") if held <= set(Charset.named(name).characters)), None)
        return fits or "".join(sorted(held | set(Charset.named("94").characters)))
    return "".join(sorted(held))


def budget(seconds: float, rate: float, method: str, begun: bool = False) -> tuple[int, int, int]:
    """(steps of the first run, rounds, steps of each) for so many seconds of training at so many images a second. `begun`: there is a model, so no first run."""
    def steps(share: float, batch: int) -> int:
        return int(min(MOST_STEPS, max(LEAST_STEPS, share * seconds * rate / batch)))

    if method == "labels":
        return steps(1.0, BATCH), 0, 0
    share = 1.0 if begun else 0.4
    rounds = ROUNDS if seconds * rate * share / ROUND_BATCH >= ROUNDS * LEAST_STEPS else 1
    return 0 if begun else steps(1 - share, BATCH), rounds, steps(share / rounds, ROUND_BATCH)


def share_of_labels(labels: int, method: str) -> float:
    """Of a batch without pseudo-labels: more the more there are, and most of it where they are many."""
    return 0.6 if method == "labels" else min(0.3, 0.1 + labels / 5_000)


def recipe(plan: Plan, folder: Path, name: str, first: bool, start: str | None, unlabeled: Path | None = None) -> dict[str, Any]:
    """The recipe of the first run, or of the rounds, which learn from `unlabeled` too."""
    drawn = {look: folder / "corpora" / f"drawn-{look}" for look in DRAWN}
    corpora, weights = [str(place) for place in drawn.values()], {f"drawn-{look}": float(count) for look, count in DRAWN.items()}
    if plan.labels:
        share = share_of_labels(plan.labels, plan.method)
        total = sum(weights.values())
        weights = {source: (1 - share) * count / total for source, count in weights.items()} | {"labeled": share}
        corpora.append(str(labeled_place(bool(plan.test), folder)))
    tree = {"name": name, "runs": str(folder / "runs"), "recognizer": {"name": plan.recognizer, "charset": plan.charset, "options": plan.options},
            "objective": {"name": "supervised"}, "initialize_from": start,
            "data": {"labeled": {"corpus": corpora, "weights": weights, "batch_size": BATCH if first else ROUND_BATCH}},
            "optimizer": {"learning_rate": 2e-3 if first and start is None else 1e-3},
            "training": {"steps": plan.steps if first else plan.round_steps, "log_every": 50, "checkpoint_every": 100}}
    if plan.validation:
        tree["data"]["validation"] = {"corpus": str(folder / "corpora" / "labeled-validation")}
    if not first:
        tree["data"]["unlabeled"] = {"corpus": str(unlabeled), "batch_size": BATCH}
    return tree


def labeled_place(tested: bool, folder: Path) -> Path:
    """The labels that teach."""
    return folder / "corpora" / ("labeled-train" if tested else "labeled")


def usable(place: Path, charset: str) -> tuple[int, dict[str, int]]:
    """How many labels of a corpus a recognizer of that charset can learn from; and of those that it cannot, how many hold which character first."""
    known, labels = Charset.named(charset), texts_of(Corpus.open(place))
    outside = [known.outside(text) for text in labels if text]
    strange = Counter(found[0] for found in outside if found)
    return sum(not found for found in outside), dict(strange.most_common())


def named(strange: dict[str, int]) -> str:
    """Characters with their counts, for a sentence."""
    return ", ".join(f"{'the blank' if character == ' ' else repr(character)} in {count}" for character, count in list(strange.items())[:5])


def write_recipe(file: Path, tree: dict[str, Any]) -> None:
    """As YAML, unless it is there: whatever a killed journey wrote stands."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")


def texts_of(corpus: Corpus) -> list[str]:
    """The labels of a corpus."""
    return [text for table in corpus.rows_iter(["text"]) for text in table["text"].to_pylist() if text is not None] if labeled_rows(corpus) else []
