"""`textray evaluate`: measure a recognizer on labeled images, by the rules of the benchmarks."""

import argparse
import sys

import torch

from pipelines.arguments import Parser
from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.evaluation.gates import failed_gates, parse_gates
from pipelines.evaluation.measure import evaluate_set, rule_on
from pipelines.evaluation.options import add_reading_arguments, device_named
from pipelines.evaluation.table import as_text, rows
from pipelines.ingestion.wordsets import open_sets
from pipelines.reading.searches import add_options, searches
from pipelines.reading.weights import file_safe, find_model, load_recognizer, read_description
from pipelines.reports.evaluation import check_place, write_results


def parser() -> argparse.ArgumentParser:
    """The command line of `textray evaluate`."""
    arguments = Parser(
        prog="textray evaluate", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure a model on labeled words: word accuracy with its 95 % interval, 1-NED, CER, and how honest its\n"
                    "confidence is (ECE). The known benchmarks are compared by the field's rule (36 characters, case-insensitive),\n"
                    "other sets by the model's own: by default what its charset has.",
        epilog="example:\n  textray evaluate my-run --data SVT=data/SVT --data IIIT5K=data/IIIT5K\n"
               "  textray evaluate my-run --data SVT=data/SVT --lexicon 50")
    arguments.add_argument("model", help="a run's name or folder, a model folder, or models:/NAME@champion")
    add_reading_arguments(arguments)
    arguments.add_argument("--out", metavar="FOLDER", help="where the report goes, a folder or URI (default: reports/evaluation-MODEL)")
    add_options(arguments)
    arguments.add_argument("--gate", action="append", default=[], metavar="NAME=ACCURACY",
                           help="exit with status 1 if a set, or `average`, is below this accuracy (0 to 1)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray evaluate`."""
    options = parser().parse_args(argv)
    if options.batch_size < 1:
        raise BadInput(f"--batch-size: expected at least 1, found {options.batch_size}")
    sets = open_sets(options.data)
    gates = parse_gates(options.gate, [words.name for words in sets])
    out = options.out or storage.join("reports", f"evaluation-{file_safe(options.model)}")
    check_place(out)
    device = device_named(options.device)
    folder = find_model(options.model)
    recognizer = load_recognizer(folder).to(device)
    search_of, about = searches(recognizer, options), read_description(folder)
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        results = [evaluate_set(recognizer, words, rule=rule_on(words, recognizer, about, options.rule), batch_size=options.batch_size,
                                found=search_of(words)) for words in sets]
    if options.precision != "float32":
        for result in results:
            result.notes.append(options.precision)
    write_results(out, options.model, results, about)
    print(as_text(rows(results)))
    print(f"\nmade {out}/evaluation.html (the worst mistakes), evaluation.json (every number), "
          "predictions.jsonl (every word)")
    missed = failed_gates(gates, results)
    for sentence in missed:
        print(f"textray: {sentence}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("evaluate"))
