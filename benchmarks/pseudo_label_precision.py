"""How many of the pseudo-labels are right, by how the unlabeled images are read: of a start of a `one_change.py` experiment.

    python benchmarks/pseudo_label_precision.py benchmarks/experiments/scene_small.yaml --ngram words.txt --lexicon words.txt [--seed 0]
    python benchmarks/pseudo_label_precision.py benchmarks/experiments/wires_small.yaml --both-ways-up

The first rows are the start's greedy readings as the methods may score them (`models/objectives/readings.py`); of CTC the confidence is the
probability of the string. Each row reads all unlabeled images, sorts them by confidence, and says what share of the surest tenths is right, and how sure the last of them is:
"0.96 at 40 %" is the threshold that keeps so many. The labels are asked for nothing else.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml
from one_change import Experiment, Words, readings

from models.objectives.readings import read
from models.recognizer import Recognizer
from pipelines.evaluation.protocols import rule_of
from pipelines.reading.batches import evaluating

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
# Of the surest frames of the runs of CTC, or of the steps of others; and what is of CTC alone.
SCORES = ("product", "geometric_mean", "minimum")
OF_STRINGS = ("string_mean",)


def ways(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any], float | None]]:
    """The name of each way to read, its search, and the confidence of the readings whose n-gram guides it."""
    both = {"both_ways_up": True} if options.both_ways_up else {}
    yield "greedily", {}, None
    if both:
        yield "greedily, both ways up", both, None
    yield "beam", {"beam": 10, **both}, None
    if options.ngram:
        yield f"beam, n-gram of {Path(options.ngram).name}", {"beam": 10, "ngram": options.ngram, **both}, None
    yield "beam, own n-gram", {"beam": 10, **both}, 0.3
    if options.lexicon:
        yield f"lexicon {Path(options.lexicon).name}", {"lexicon": options.lexicon, **both}, None


def scores(recognizer: Recognizer, words: Words, score: str, batch_size: int = 256) -> list[float]:
    """How sure the greedy readings are, by a score of the methods."""
    found = []
    with evaluating(recognizer), torch.inference_mode():
        for images in words.images.split(batch_size):
            found += read(recognizer(images.float() / 127.5 - 1).logits, recognizer.decoder.tokens, score).scores.tolist()
    return found


def row(name: str, right: list[bool], confidences: list[float]) -> str:
    """A line of the table."""
    order = sorted(range(len(right)), key=lambda place: -confidences[place])  # what reads as nothing is no label: it comes last
    kept = [order[:round(share * len(order))] for share in SHARES]
    cells = [f"{100 * mean(right[place] for place in places):.0f} (≥ {confidences[places[-1]]:.2f})" for places in kept]
    return f"| {name} | {100 * mean(right):.1f} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", metavar="FILE.yaml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="one_change", help="of one_change.py (default one_change)")
    parser.add_argument("--both-ways-up", action="store_true", help="all rows but the first read both ways up")
    parser.add_argument("--ngram", metavar="FILE")
    parser.add_argument("--lexicon", metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    experiment = Experiment(yaml.safe_load(Path(options.experiment).read_text(encoding="utf-8")), Path(options.folder))
    start, rule = experiment.started(experiment.base(options.seed)), rule_of(experiment.rule, experiment.recognizer().charset)
    labels = [rule.compared(text) for text in experiment.unlabeled.texts]
    print("| read | all, % right | " + " | ".join(f"surest {share:.0%}" for share in SHARES) + " |\n|" + "---|" * (2 + len(SHARES)))
    def compared(texts: list[str]) -> list[bool]:
        return [rule.compared(text) == label != "" for text, label in zip(texts, labels, strict=True)]
    texts, _, _ = readings(start, experiment.unlabeled)
    for score in SCORES + (OF_STRINGS if start.decoder.kind == "ctc" else ()):
        print(row(f"greedily, scored by the {score.replace('_', ' ')}", compared(texts), scores(start, experiment.unlabeled, score)), flush=True)
    for name, search, own in ways(options):
        texts, confidences, _ = readings(start, experiment.unlabeled, **experiment.guided(start, search, own))
        print(row(name, compared(texts), [sure if text else 0.0 for text, sure in zip(texts, confidences, strict=True)]), flush=True)


if __name__ == "__main__":
    main()
