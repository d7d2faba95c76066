"""Compare methods over seeds: evaluate several runs of each and print one table, the mean with the spread.

    python benchmarks/seeds.py supervised=longer-0,longer-1,longer-2 ccr=ccr-0,ccr-1,ccr-2 --data SVT=… --data IIIT5K=… --data IC13=…

Every cell is the mean word accuracy in per cent over the runs, and in brackets the least and the greatest. The average is over all
words of all sets. The last row is the difference between the last and the first method, run by run (seed by seed).
"""

import argparse
from statistics import mean, stdev

import torch

from pipelines.evaluation.measure import evaluate_set, total
from pipelines.evaluation.protocols import size_note
from pipelines.ingestion.wordsets import open_sets
from pipelines.reading.weights import load_recognizer


def accuracies(run: str, runs: str, sets: list) -> list[float]:
    """Word accuracy in per cent of one run on each set, and on all words together."""
    recognizer = load_recognizer(run, runs)
    results = [evaluate_set(recognizer, words) for words in sets]
    return [100 * result.evaluation.score.accuracy for result in results] + [100 * total(results).accuracy]


def cell(values: list[float], signed: bool = False) -> str:
    """Mean, and the least and greatest value."""
    form = "{:+.2f}" if signed else "{:.2f}"
    return f"{form.format(mean(values))} ({form.format(min(values))} … {form.format(max(values))})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", metavar="NAME=RUN,RUN,…")
    parser.add_argument("--data", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--runs", default="runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sets = open_sets(arguments.data)
    found: dict[str, list[list[float]]] = {}
    words: list[int] = []
    for method in arguments.methods:
        name, _, runs = method.partition("=")
        found[name] = [accuracies(run, arguments.runs, sets) for run in runs.split(",")]
    for entry in sets:
        words.append(sum(1 for _ in entry.read()))
    header = [f"{entry.name}, {count:,} words" for entry, count in zip(sets, words)] + [f"all {sum(words):,} words"]
    print("| method | " + " | ".join(header) + " |\n|" + "---|" * (len(header) + 1))
    for name, values in found.items():
        print(f"| {name}, {len(values)} seeds | " + " | ".join(cell(list(column)) for column in zip(*values)) + " |")
    names = list(found)
    if len(names) > 1 and len(found[names[0]]) == len(found[names[-1]]):
        gains = [[b - a for a, b in zip(first, last)] for first, last in zip(found[names[0]], found[names[-1]])]
        print(f"| {names[-1]} − {names[0]} | " + " | ".join(cell(list(column), signed=True) for column in zip(*gains)) + " |")
        if len(gains) > 1:
            print(f"\nstandard deviation of the last column's difference over seeds: {stdev(gain[-1] for gain in gains):.2f} points")
    for entry, count in zip(sets, words):
        if note := size_note(entry.name, count):
            print(f"{entry.name}: {note}")


if __name__ == "__main__":
    main()
