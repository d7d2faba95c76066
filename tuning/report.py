"""What a sweep found, as one HTML page: every trial, parallel coordinates, learning curves, importance, the best recipe."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from markupsafe import Markup
from scipy.stats import spearmanr

from pipelines.reports.html import render, write_text
from pipelines.training.recipe import Recipe
from tuning.space import Axis, with_values
from tuning.trials import TrialResult, called, metric_of

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402  (the backend is chosen first)
from matplotlib.colors import Normalize  # noqa: E402

COLOURS = pyplot.get_cmap("viridis")
FEW = 5  # a rank correlation over fewer trials says nothing


def importance(axes: Sequence[Axis], trials: Sequence[TrialResult]) -> dict[str, float | None]:
    """Spearman's rank correlation of each searched field with what decides, in [-1, 1]; None with too few trials or no variation.

    Trials that ASHA stopped count with their last accuracy, which is what ASHA judged them by.
    """
    measured = [trial for trial in trials if trial.accuracy is not None]
    accuracies = [trial.accuracy for trial in measured]
    found: dict[str, float | None] = {}
    for axis in axes:
        values = [trial.values[axis.field] for trial in measured]
        varied = len(measured) >= FEW and len(set(values)) > 1 and len(set(accuracies)) > 1
        found[axis.field] = float(spearmanr(values, accuracies).statistic) if varied else None
    return found


def parallel_coordinates(axes: Sequence[Axis], trials: Sequence[TrialResult], decides: str = "word accuracy") -> str:
    """An SVG with one line a trial across its values and what decides; the brighter, the better."""
    measured = [trial for trial in trials if trial.accuracy is not None]
    colour = _colours([trial.accuracy for trial in measured])
    lowest, highest = min(trial.accuracy for trial in measured), max(trial.accuracy for trial in measured)
    span = (highest - lowest) or 1.0
    drawing, plot = pyplot.subplots(figsize=(9, 3.6))
    for trial in reversed(measured):
        heights = [axis.position(trial.values[axis.field]) for axis in axes] + [(trial.accuracy - lowest) / span]
        plot.plot(range(len(heights)), heights, color=colour(trial.accuracy), linestyle="--" if trial.stopped else "-",
                  linewidth=2.5 if trial is trials[0] else 1.2)
    names = [*(axis.field.replace("_", " ") for axis in axes), decides]
    ends = [*((f"{axis.low:g}", f"{axis.high:g}") for axis in axes), (f"{lowest:.1%}", f"{highest:.1%}")]
    plot.set_xticks(range(len(names)), names)
    for place, (low, high) in enumerate(ends):
        plot.axvline(place, color="grey", linewidth=0.8)
        plot.annotate(low, (place, -0.09), ha="center", color="grey", annotation_clip=False)
        plot.annotate(high, (place, 1.05), ha="center", color="grey", annotation_clip=False)
    plot.set_ylim(-0.02, 1.02)
    plot.tick_params(axis="x", pad=20, length=0, colors="grey")
    plot.set_yticks([])
    return _svg(drawing, plot)


def learning_curves(trials: Sequence[TrialResult], decides: str = "word accuracy") -> str:
    """An SVG of what decides over steps, a line a trial."""
    measured = [trial for trial in trials if trial.curve]
    colour = _colours([trial.accuracy for trial in measured])
    drawing, plot = pyplot.subplots(figsize=(9, 3))
    for trial in reversed(measured):
        steps, accuracies = zip(*trial.curve, strict=True)
        plot.plot(steps, accuracies, color=colour(trial.accuracy), marker="o", markersize=3, linestyle="--" if trial.stopped else "-")
    plot.set_xlabel("step", color="grey")
    plot.set_ylabel(decides, color="grey")
    plot.tick_params(colors="grey")
    return _svg(drawing, plot)


def _colours(accuracies: Sequence[float]):
    scale = Normalize(min(accuracies), max(accuracies))
    return lambda accuracy: COLOURS(0.85 * float(scale(accuracy)) if scale.vmax > scale.vmin else 0.5)


def _svg(drawing, plot) -> str:
    for side in plot.spines.values():
        side.set_visible(False)
    drawing.patch.set_alpha(0)
    plot.patch.set_alpha(0)
    text = io.StringIO()
    drawing.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(drawing)
    return text.getvalue()[text.getvalue().index("<svg"):]


def write_report(file: Path, recipe: Recipe, axes: Sequence[Axis], trials: Sequence[TrialResult]) -> str | Path:
    """Write the page. `trials` are ranked, the best first; at least one was measured."""
    best, decides = trials[0], called(metric_of(recipe))
    fields = [axis.field for axis in axes]
    rows = [(place, trial.name, *(f"{trial.values[name]:g}" for name in fields), trial.steps,
             "" if trial.accuracy is None else f"{trial.accuracy:.2%}",
             f"failed: {trial.error}" if trial.error else "stopped early" if trial.stopped else "finished")
            for place, trial in enumerate(trials, 1)]
    correlations = importance(axes, trials)
    known = any(value is not None for value in correlations.values())
    weights = [(name, "not known" if value is None else f"{value:+.2f}") for name, value in correlations.items()]
    reading = "Near +1: larger is better; near -1: smaller is better; near 0: no clear direction." if known else \
        f"Fewer than {FEW} trials with different outcomes: too few to say."
    validation = recipe.data.validation
    measured = f"{decides} on at most {validation.words} words of {validation.corpus}" if validation else \
        f"there are no validation words, so {decides} decides, which needs no labels and is no accuracy"
    return write_text(file, render("sweep.html", {
        "title": f"Sweep {recipe.name}", "count": len(trials), "measured": measured, "best": best.name, "accuracy": f"{best.accuracy:.2%}",
        "header": ("", "trial", *(name.replace("_", " ") for name in fields), "steps", decides, "end"), "rows": rows,
        "numbers": [0, *range(2, len(fields) + 4)], "coordinates": Markup(parallel_coordinates(axes, trials, decides)),
        "curves": Markup(learning_curves(trials, decides)), "decides": decides, "reading": reading, "weights": weights,
        "recipe": with_values(recipe, best.values, f"{recipe.name}_best").to_yaml()}))
