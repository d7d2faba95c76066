"""The page of a run while it goes on and when it is done: its curves, what speaks against it, and examples of its pseudo-labels."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipelines.evaluation.look import Look
from pipelines.evaluation.pseudo_labels import Example, Examples
from pipelines.reports import html, pretraining
from pipelines.reports.curves import Curve, Point

# heading, and the numbers below it: name, what it is, whether it is a share of one
GROUPS: tuple[tuple[str, tuple[tuple[str, str, bool], ...]], ...] = (
    ("How well it reads", (
        ("word_accuracy", "of the validation words", True),
        ("one_minus_ned", "1 - normalised edit distance, of the validation words", True),
        ("unlabeled_strong_agreement", "unlabeled images that read alike as they are and in the strong view", True),
        ("unlabeled_weak_agreement", "unlabeled images that read alike as they are and in the weak view", True),
        ("unlabeled_strong_similarity", "of the readings of an image and of its strong view", True),
        ("unlabeled_mean_confidence", "of the readings of unlabeled images", True),
        ("unlabeled_confident_agreement", "confidence where the strong view reads alike, else 0", True),
        ("unlabeled_character_divergence", "of the characters read from those of the training labels, nats", False))),
    ("Pseudo-labels", (
        ("pseudo_label_accuracy", "by labels that are withheld from training", True),
        ("kept_pseudo_label_accuracy", "of those that are kept, by labels that are withheld from training", True),
        ("kept_fraction", "of the unlabeled images of a step", True),
        ("mean_score", "of what is read in them", True),
        ("agreement", "words that target and online model read alike", True))),
    ("Does it collapse?", (
        ("character_entropy", "of the characters that are read, nats", False),
        ("length_entropy", "of the lengths that are read, nats", False))),
    ("Does it learn text?", (
        ("unlabeled_neighbour_similarity", "of labels, withheld from training, of nearest neighbours; 0: no more than of any two images", False),
        ("unlabeled_background", "R squared of predicting the border's colour from the features", False),
        ("unlabeled_effective_rank", "of the frames; 1: all on a line", False),
        ("unlabeled_alignment", "squared distance of two views of an image", False),
        ("unlabeled_uniformity", "of images on the sphere, log; 0: all alike", False))),
    ("Losses", (
        ("loss", "what is minimised", False), ("recognition_loss", "on labels", False), ("consistency_loss", "on unlabeled images", False),
        ("domain_adaptation_loss", "the CORAL distance of labeled and unlabeled characters", False))),
    ("Consistency by character", tuple((f"consistency_position_{place}", "distance of the two branches where words are kept", False)
                                       for place in ("1", "2", "3", "4", "5_on"))),
    ("How fast it is", (
        ("images_per_second", "of all workers, all streams together", False),
        ("waiting_fraction", "of the time, for images; above 5 % their readers hold it up", True),
        ("flops_utilisation", "of the GPU's products in bfloat16", True),
        ("memory_gib", "at most so far: of a GPU, on CPUs of a worker's process", False))),
    ("The machine", (
        ("system/cpu_utilization_percentage", "of all CPUs", False),
        ("system/system_memory_usage_percentage", "of the machine's memory", False),
        ("system/disk_usage_percentage", "of the root disk", False),
        ("system/network_receive_megabytes_per_second", "from the network", False),
        ("system/network_transmit_megabytes_per_second", "to the network", False),
        ("system/gpu_utilization_percentage", "of the time, in which the GPU computed at all", False),
        ("system/gpu_memory_usage_percentage", "of the GPU's memory", False),
        ("system/gpu_power_usage_watts", "of the GPU", False))))
LEFT_OUT = {"step", "time", "unlabeled_images", "incomparable_words", "cer", "system/system_memory_usage_megabytes", "system/gpu_memory_usage_megabytes"}
KINDS = {"wrong": ("Kept and wrong", "The surest first. Their labels are known here, and withheld from training."),
         "kept": ("Kept", "From the surest to the least sure."), "dropped": ("Dropped", "From the surest to the least sure.")}


def as_page(name: str, about: str, steps: int, lines: Sequence[Mapping[str, float]], concerns: Sequence[str] = (),
            examples: Examples | None = None, look: Look | None = None, facts: Sequence[tuple[str, str]] = (), recipe: str = "") -> str:
    """The page.

    Args:
        about: what the run learns, in a few words.
        steps: of the whole run.
        lines: of its progress.jsonl, in order; of a step that was trained twice the later counts.
        concerns: sentences on why it may not work.
        facts: what it is made from, as (name, text) pairs.
        recipe: as a file.
    """
    found = curves_of(lines)
    last = max((line["step"] for line in lines), default=0)
    known = {name for _, group in GROUPS for name, _, _ in group}
    others = tuple((name, "", False) for name in found if name not in known)
    drawn = [(title, [_figure(name, what, found[name], share) for name, what, share in group if name in found])
             for title, group in (*GROUPS, ("Further numbers", others))]
    return html.render("run.html", {
        "title": f"Run {name}", "about": about, "step": f"{last:,.0f}", "steps": f"{steps:,}", "newer": last < steps,
        "when": f", {datetime.fromtimestamp(lines[-1]['time'], UTC):%Y-%m-%d %H:%M} UTC" if lines else "", "concerns": concerns, "facts": facts,
        "groups": [(title, figures) for title, figures in drawn if figures], "examples": examples and _examples(examples),
        "look": look and pretraining.values(look), "recipe": recipe})


def curves_of(lines: Sequence[Mapping[str, float]]) -> dict[str, list[Point]]:
    """The finite values of each number by step; of a step that was logged twice, the later."""
    found: dict[str, dict[float, float]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in LEFT_OUT and math.isfinite(value):
                found.setdefault(name, {})[line["step"]] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def _figure(name: str, what: str, points: Sequence[Point], share: bool) -> dict[str, Any]:
    title = name.removeprefix("unlabeled_").removeprefix("system/").replace("_", " ")
    return {"title": title, "what": what, "curve": Curve.of(points, title, share and all(0 <= value <= 1 for _, value in points))}


def _examples(examples: Examples) -> dict[str, Any]:
    kinds = [(title, order, [example for example in examples.examples if example.kind == kind]) for kind, (title, order) in KINDS.items()]
    return {"said": f"Of {examples.asked:,} unlabeled images at step {examples.step:,}, {examples.kept:,} kept.",
            "kinds": [{"title": title, "order": order, "pictures": [_picture(example) for example in shown]} for title, order, shown in kinds if shown]}


def _picture(example: Example) -> html.Picture:
    label = [] if example.label is None else [("label", example.label)]
    return html.Picture(example.image, [("read", example.text), *label, ("score", f"{example.score:.3f}"), ("key", example.key)],
                        frozenset({"read"} if example.kind == "wrong" else ()))
