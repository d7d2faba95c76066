"""How many images a second a worker trains on: as the user says, as a run measured, or as docs/performance.md has it. Never a guess."""

import statistics
from dataclasses import dataclass

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.state import parse_yaml
from pipelines.training.journal import read_journal
from pipelines.training.recipe import Recipe


@dataclass(frozen=True)
class Rate:
    """Images per second of one worker, all its streams together, and where the number comes from."""

    images_per_second: float
    source: str


@dataclass(frozen=True)
class Measurement:
    """A rate in docs/performance.md, on the CPUs of one machine."""

    recognizer: str
    objective: str
    bf16: bool
    images_per_second: float
    machine: str


EPYC = "2 threads of an AMD EPYC with AVX-512 BF16 (docs/performance.md)"
MEASURED = (
    Measurement("crnn", "supervised", False, 46.2, EPYC),
    Measurement("crnn", "supervised", True, 102.8, EPYC),
    Measurement("trba", "supervised", True, 14.6, EPYC),
    Measurement("abinet", "supervised", False, 3.4, EPYC),
    Measurement("abinet", "supervised", True, 5.8, EPYC),
    Measurement("moran", "supervised", False, 30.9, EPYC),
    Measurement("moran", "supervised", True, 53.7, EPYC),
    Measurement("parseq", "supervised", False, 8.1, EPYC),
    Measurement("parseq", "supervised", True, 13.5, EPYC),
    Measurement("crnn_tiny", "ccr", False, 609.0, "one thread of 2 cores (docs/performance.md)"),
)


def known_rate(recipe: Recipe, *, given: float | None, gpu: bool, bf16: bool) -> Rate | None:
    """The best known rate of a worker; None if none is known.

    Args:
        given: what the user says of one worker.
        gpu: whether the recipe trains on GPUs; those of the table are CPUs.
    """
    if given is not None:
        return Rate(given, "as given")
    return measured_by_runs(recipe) or (None if gpu else measured_by_us(recipe, bf16))


def measured_by_runs(recipe: Recipe) -> Rate | None:
    """The median of what the last run beside this one measured that trained the same recognizer with the same objective at the same precision."""
    found = []
    for name in storage.list_names(recipe.runs) if storage.kind(recipe.runs) == "folder" else []:
        try:
            found += _measured_by(recipe, name)
        except (BadInput, OSError):  # no run, or one that is damaged: it says nothing
            continue
    if not found:
        return None
    _, rate, name, workers = max(found)
    return Rate(rate / workers, f"as the run {name} measured on {workers} worker{'s' if workers > 1 else ''}")


def _measured_by(recipe: Recipe, name: str) -> list[tuple[float, float, str, int]]:
    """When a run logged last, its images per second, its name, its workers; nothing of a run that is no measure for the recipe."""
    file = storage.join(recipe.runs, name, "recipe.yaml")
    before, now = parse_yaml(storage.read_bytes(file), file, ""), recipe.model_dump(mode="json")
    alike = all(before.get(part) == now[part] for part in ("recognizer", "objective"))
    training = before.get("training") or {}
    if not alike or training.get("precision") != recipe.training.precision or training.get("gpu") != recipe.training.gpu:
        return []
    lines = [line for line in read_journal(storage.join(recipe.runs, name, "progress.jsonl")) if "images_per_second" in line]
    if not lines:
        return []
    return [(lines[-1]["time"], statistics.median(line["images_per_second"] for line in lines), name, training["workers"])]


def measured_by_us(recipe: Recipe, bf16: bool) -> Rate | None:
    """The table's rate, if the recognizer is the one of that name without any options."""
    if recipe.recognizer.options:
        return None
    for one in MEASURED:
        if (one.recognizer, one.objective, one.bf16) == (recipe.recognizer.name, recipe.objective["name"], bf16):
            return Rate(one.images_per_second, f"as measured on {one.machine}")
    return None
