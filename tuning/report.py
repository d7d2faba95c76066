"""What a sweep found, as one HTML page and as Markdown: the question, the winner and how sure that is, every trial, what mattered, what it cost."""

import random
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from scipy.stats import spearmanr

from pipelines.evaluation.metrics import wilson_interval
from pipelines.reports.html import render
from pipelines.training.recipe import Recipe
from pipelines.training.watching import clock
from tuning.drawings import Curves, Parallel, measured
from tuning.plan import Plan
from tuning.space import Axis, with_values
from tuning.trials import TrialResult, called, metric_of
from tuning.winner import Judged

FEW = 6  # a rank correlation over fewer trials says nothing
DRAWS = 1000  # of the bootstrap
BINS = 3  # of an axis


class Weight(NamedTuple):
    """How what decides goes with an axis: Spearman's rank correlation with its 95 % interval (bootstrap over trials), in [-1, 1]."""

    value: float
    low: float
    high: float


def importance(axis: Axis, trials: Sequence[TrialResult]) -> Weight | None:
    """None with too few trials or no variation, and of choices without an order. Trials that were ended early count with their last number."""
    pairs = [(axis.position(trial.values[axis.field]), trial.accuracy) for trial in measured(trials) if axis.field in trial.values]
    value = _correlation(pairs)
    if len(pairs) < FEW or value is None or (axis.kind == "choice" and len(axis.choices) > 2):
        return None
    draw = random.Random(0)
    drawn = sorted(found for _ in range(DRAWS) if (found := _correlation(draw.choices(pairs, k=len(pairs)))) is not None)
    return Weight(value, drawn[int(0.025 * len(drawn))], drawn[int(0.975 * len(drawn))])


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    positions, reached = zip(*pairs, strict=True) if pairs else ((), ())
    return float(spearmanr(positions, reached).statistic) if len(set(positions)) > 1 and len(set(reached)) > 1 else None


class Part(NamedTuple):
    """The trials in one part of an axis."""

    name: str
    trials: int
    mean: float
    least: float
    most: float


def along(axis: Axis, trials: Sequence[TrialResult]) -> list[Part]:
    """What trials reached in each third of an axis, or with each choice, whatever their other values were."""
    found = [(trial.values[axis.field], trial.accuracy) for trial in measured(trials) if axis.field in trial.values]
    if axis.kind == "choice":
        groups = [(str(choice), [reached for value, reached in found if value == choice]) for choice in axis.choices]
    else:
        places = [(min(BINS - 1, int(BINS * axis.position(value))), value, reached) for value, reached in found]
        groups = []
        for number in range(BINS):
            inside = [(value, reached) for place, value, reached in places if place == number]
            name = f"{min(value for value, _ in inside):g} to {max(value for value, _ in inside):g}" if inside else ""
            groups.append((name, [reached for _, reached in inside]))
    return [Part(name, len(reached), mean(reached), min(reached), max(reached)) for name, reached in groups if reached]


def write_reports(folder: str | Path, recipe: Recipe, axes: Sequence[Axis], ranked: Sequence[TrialResult], judged: Judged, plan: Plan) -> list[Path]:
    """Write report.html and report.md. `ranked`: the best first; at least one was measured."""
    said = _said(recipe, axes, ranked, judged, plan)
    page, text = Path(folder, "report.html"), Path(folder, "report.md")
    page.write_text(render("sweep.html", {**said, "parallel": Parallel.of(axes, ranked, said["decides"]), "curves": Curves.of(ranked)}), encoding="utf-8")
    text.write_text(_markdown(said), encoding="utf-8")
    return [page, text]


def _said(recipe: Recipe, axes: Sequence[Axis], ranked: Sequence[TrialResult], judged: Judged, plan: Plan) -> dict[str, Any]:
    """Everything that both say."""
    best, decides = ranked[0], called(metric_of(recipe))
    own = next((trial for trial in ranked if trial.name == "trial-recipe"), None)
    validation = recipe.data.validation
    seconds = sum(trial.seconds or 0 for trial in ranked)
    more = f"; {clock(judged.seconds)} of it for further seeds" if judged.seconds else ""
    by = {"random": "at random", "tpe": "by TPE (Optuna)", "grid": "over a grid"}[plan.searcher]
    early = {"asha": "ASHA ends the worse half early", "median": "the median rule ends those below it early", "none": "all go to their last step"}[plan.scheduler]
    return {
        "title": f"Sweep {recipe.name}", "decides": decides,
        "question": f"Which {_listed([axis.name for axis in axes])} of {recipe.objective['name']} on {recipe.recognizer.name} give the most {decides}? {len(ranked):,} trials, drawn {by}; {early}.",
        "measured": f"On {(best.words or validation.words):,} validation words of {validation.corpus}, on which the trials were chosen." if metric_of(recipe) == "word_accuracy" else
                    f"{'There are no validation words' if validation is None else 'No decoder is trained'}, so {decides} decides, which is no accuracy.",
        "headline": _headline(best, own, decides, metric_of(recipe) == "word_accuracy"), "verdict": judged.verdict(best),
        "seeds": [(str(number + 1), f"{100 * one:.2f}", f"{100 * other:.2f}", f"{100 * (one - other):+.2f}") for number, (one, other) in enumerate(zip(judged.best, judged.own, strict=True))],
        "tests": [(name, f"{found['words']:,}", f"{100 * found['accuracy']:.2f}", f"{100 * found['interval_95'][0]:.2f} to {100 * found['interval_95'][1]:.2f}")
                  for name, found in judged.tests.items()],
        "header": columns(recipe, axes, ranked)[0],
        "numbers": [0, *(number for number, axis in enumerate(axes, 2) if axis.kind != "choice"), *range(len(axes) + 2, len(axes) + 6)],
        "rows": columns(recipe, axes, ranked)[1],
        "stopped": [(trial.name, trial.stopped) for trial in ranked if trial.stopped], "failed": [(trial.name, trial.error) for trial in ranked if trial.error],
        "weights": [(axis.name, *_weight(importance(axis, ranked))) for axis in axes],
        "along": [(axis.name, [(part.name, str(part.trials), f"{100 * part.mean:.2f}", f"{100 * part.least:.2f} to {100 * part.most:.2f}") for part in along(axis, ranked)])
                  for axis in axes],
        "cost": f"{clock(seconds + judged.seconds)} of training in all{more}, {clock(seconds / len(ranked))} a trial" + (f"; {plan.concurrency} at once" if plan.concurrency else "") + ".",
        "front": _front(ranked, decides) if plan.speed else [], "recipe": with_values(recipe, best.values, f"{recipe.name}_best").to_yaml()}


def columns(recipe: Recipe, axes: Sequence[Axis], ranked: Sequence[TrialResult]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table of the trials: its head and its lines."""
    header = ("", "trial", *(axis.name for axis in axes), "steps", f"{called(metric_of(recipe))} %", "images/s", "time", "end")
    return header, [_row(place, trial, axes) for place, trial in enumerate(ranked, 1)]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _headline(best: TrialResult, own: TrialResult | None, decides: str, words: bool) -> str:
    def shown(trial: TrialResult) -> str:
        if not words or not trial.words:
            return f"{100 * trial.accuracy:.2f} %"
        low, high = wilson_interval(round(trial.accuracy * trial.words), trial.words)
        return f"{100 * trial.accuracy:.2f} % ({100 * low:.1f} to {100 * high:.1f})"

    early = f", ended early at step {own.steps:,}" if own is not None and own.stopped else ""
    beside = f"; the recipe itself: {shown(own)}{early}" if own is not None and own.accuracy is not None and own is not best else ""
    return f"{best.name}: {decides} {shown(best)}{beside}."


def _row(place: int, trial: TrialResult, axes: Sequence[Axis]) -> tuple[str, ...]:
    values = (trial.values.get(axis.field) for axis in axes)
    shown = ("" if value is None else f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value).lower() if isinstance(value, bool) else str(value)
             for value in values)
    end = "failed" if trial.error else "ended early" if trial.stopped else "finished" if trial.model else "interrupted"
    return (str(place), trial.name, *shown, f"{trial.steps:,}", "" if trial.accuracy is None else f"{100 * trial.accuracy:.2f}",
            "" if trial.images_per_second is None else f"{trial.images_per_second:,.0f}", "" if trial.seconds is None else clock(trial.seconds), end)


def _weight(found: Weight | None) -> tuple[str, str, str]:
    if found is None:
        return "", "", "not known: too few trials, or choices without an order"
    said = "larger is better" if found.low > 0 else "smaller is better" if found.high < 0 else "not told from none"
    return f"{found.value:+.2f}", f"{found.low:+.2f} to {found.high:+.2f}", said


def _front(trials: Sequence[TrialResult], decides: str) -> list[tuple[str, str, str]]:
    """The trials that no other beats in both, the most accurate first."""
    found = [trial for trial in measured(trials) if trial.model and trial.images_per_second is not None]
    kept = [trial for trial in found if not any(other.accuracy >= trial.accuracy and other.images_per_second > trial.images_per_second or
                                                other.accuracy > trial.accuracy and other.images_per_second >= trial.images_per_second for other in found)]
    return [(trial.name, f"{100 * trial.accuracy:.2f}", f"{trial.images_per_second:,.0f}") for trial in kept]


def _markdown(said: dict[str, Any]) -> str:
    pieces = [f"# {said['title']}", said["question"], said["measured"], f"**{said['headline']}** {said['verdict']}"]
    if said["seeds"]:
        pieces += ["## Further seeds", _table(("seed", "best %", "recipe itself %", "difference"), said["seeds"])]
    if said["tests"]:
        pieces += ["## Test sets, read once, by the winner", _table(("set", "words", "accuracy %", "95 % interval"), said["tests"])]
    pieces += ["## Trials", _table(said["header"], said["rows"])]
    if said["front"]:
        pieces += ["## Not beaten in both", _table(("trial", f"{said['decides']} %", "images/s"), said["front"])]
    pieces += ["## What mattered", _table(("field", "rank correlation", "95 % interval", ""), said["weights"])]
    for title, rows in (("Ended early", said["stopped"]), ("Failed", said["failed"])):
        if rows:
            pieces += [f"## {title}", _table(("trial", "why"), rows)]
    return "\n\n".join([*pieces, said["cost"], "## Best recipe", f"```yaml\n{said['recipe']}```"]) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
