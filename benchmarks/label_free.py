"""How the label-free criteria go with the true accuracy: Spearman's rank correlation over the models of `one_change.py` experiments.

    python benchmarks/label_free.py benchmarks/experiments/wires.yaml [MORE.yaml …] [--folder one_change]

Every model that an experiment left is asked about its unlabeled images (pipelines/evaluation/label_free.py); its accuracy is that on the
experiment's test words. Models of different experiments are ranked apart; "picked" is the true accuracy of the model that a criterion ranks first,
beside the best there is and the mean.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from statistics import mean

import torch
import yaml
from one_change import Experiment
from variants import lines

from pipelines.evaluation.label_free import label_free


def ranks(values: list[float]) -> list[float]:
    """From 0; equal values share the mean of their places."""
    return [mean(place for place, other in enumerate(sorted(values)) if other == value) for value in values]


def spearman(one: list[float], other: list[float]) -> float:
    """The correlation of the ranks."""
    first, second = ([rank - (len(values) - 1) / 2 for rank in ranks(values)] for values in (one, other))
    size = (sum(a * a for a in first) * sum(b * b for b in second)) ** 0.5
    return sum(a * b for a, b in zip(first, second, strict=True)) / size if size else 0.0


def asked(file: str, folder: Path, images: int) -> list[tuple[str, float, dict[str, float]]]:
    """(name, accuracy, criteria) of every model of an experiment."""
    experiment = Experiment(yaml.safe_load(Path(file).read_text(encoding="utf-8")), folder)
    known = Counter(character for text in experiment.labeled.texts for character in text)
    found = []
    known_now = {experiment.digest(name) for name in experiment.tree["variants"]}  # not what an earlier state of the file asked for
    for line in (line for line in lines(folder / f"{Path(file).stem}.jsonl") if line["digest"] in known_now):
        model = folder / f"model-{line['digest']}-{line['seed']}.pt"
        if model.exists():
            criteria = label_free(experiment.started(torch.load(model, map_location="cpu")), experiment.unlabeled.images[:images], known).numbers()
            found.append((f"{line['variant']}, seed {line['seed']}", line["accuracy"], criteria))
            print(f"{found[-1][0]}: {line['accuracy']:.2f} %  " + "  ".join(f"{name} {value:.3f}" for name, value in criteria.items()), file=sys.stderr)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", metavar="FILE.yaml")
    parser.add_argument("--folder", type=Path, default=Path("one_change"))
    parser.add_argument("--images", type=int, default=1000, help="of the unlabeled ones (default 1000)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| experiment | models | criterion | rank correlation | picked, % | best, % | mean, % |\n|---|---|---|---|---|---|---|")
    for file in options.experiments:
        found = asked(file, options.folder, options.images)
        if not found:
            parser.error(f"{options.folder}: expected models that `one_change.py {file}` left, found none: run it first")
        accuracies = [accuracy for _, accuracy, _ in found]
        for criterion in found[0][2]:
            sign = -1 if criterion == "character_divergence" else 1
            values = [sign * criteria[criterion] for _, _, criteria in found]
            picked = accuracies[max(range(len(found)), key=values.__getitem__)]
            print(f"| {Path(file).stem} | {len(found)} | {criterion} | {spearman(values, accuracies):+.2f} | {picked:.2f} | {max(accuracies):.2f} "
                  f"| {mean(accuracies):.2f} |", flush=True)


if __name__ == "__main__":
    main()
