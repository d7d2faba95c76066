"""What the starts of a pretraining experiment of `one_change.py` know: the numbers by which a run that learns from images alone is watched.

    python benchmarks/one_change.py benchmarks/experiments/wires_pretraining.yaml
    python benchmarks/start_features.py benchmarks/experiments/wires_pretraining.yaml

A row for new weights, and one for each variant whose first stages are done: see pipelines/evaluation/features.py.
"""

import argparse
from pathlib import Path

import torch
import yaml
from one_change import Experiment, stages_of
from variants import expanded

from models.recognizer import Recognizer
from pipelines.evaluation.features import features


def row(name: str, recognizer: Recognizer, words, count: int) -> str:
    """A line of the table."""
    numbers = features(recognizer, words.images[:count], words.texts[:count]).numbers()
    return "| " + " | ".join([name, *(f"{value:.3f}" for value in numbers.values())]) + " |"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", metavar="FILE.yaml")
    parser.add_argument("--folder", type=Path, default=Path("one_change"), help="of one_change.py (default one_change)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=600, help="of the first test set (default 600)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tree = yaml.safe_load(Path(options.experiment).read_text(encoding="utf-8"))
    experiment = Experiment(expanded(tree)[0], options.folder)
    words = next(iter(experiment.tests.values()))
    print("| start | effective rank | alignment | uniformity | background | neighbour similarity |\n|---|---|---|---|---|---|")
    torch.manual_seed(options.seed)
    print(row("new weights", experiment.recognizer(), words, options.images), flush=True)
    shown = set()
    for name, sections in tree["variants"].items():
        file = options.folder / experiment.first_file(stages_of(tree, sections), options.seed) if "first" in sections else None
        if file and file.exists() and file not in shown:
            shown.add(file)
            print(row(name, experiment.started(torch.load(file, map_location="cpu")), words, options.images), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
