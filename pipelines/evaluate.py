"""`textray evaluate`: measure a recognizer on labeled images, by the rules of the benchmarks."""

import argparse
import json
import sys

from pipelines.arguments import Parser, add_json, add_out, outliving
from pipelines.corpus import storage
from pipelines.evaluation.columns import as_text
from pipelines.evaluation.gates import failed_gates, parse_gates
from pipelines.evaluation.model import Measured, read_beside
from pipelines.evaluation.options import add_reading_arguments, check_batch_size
from pipelines.evaluation.table import HEADER, rows
from pipelines.handles import shown_uri
from pipelines.ingestion.wordsets import open_sets
from pipelines.progress import say
from pipelines.reading.options import add_options
from pipelines.reading.weights import file_safe
from pipelines.reports.evaluation import SHOWN, Beside, check_place, write_results


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
    add_out(arguments, "FOLDER", "the report, a folder or URI (default: reports/evaluation-MODEL)")
    add_json(arguments, "every number, in place of the table: what evaluation.json holds, and the page's place")
    arguments.add_argument("--track", action="store_true", help="record it in MLflow, too: numbers and page, below the run that trained the model")
    arguments.add_argument("--beside", metavar="MODEL", help="another model, which reads the same words: the page shows its accuracies, and what it reads where this one is wrong")
    add_options(arguments)
    arguments.add_argument("--gate", action="append", default=[], metavar="NAME=ACCURACY",
                           help="exit with status 1 if a set, or `average`, is below this accuracy (0 to 1)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray evaluate`."""
    options = parser().parse_args(argv)
    check_batch_size(options)
    out = options.out or outliving(storage.join("reports", f"evaluation-{file_safe(options.model)}"))
    sets = open_sets(options.data)
    gates = parse_gates(options.gate, [words.name for words in sets])
    check_place(out)
    model = Measured(options.model, options)
    results = [model.read(words, SHOWN) for words in sets]
    beside = Beside(options.beside, read_beside(options.beside, options, model, results)) if options.beside else None
    write_results(out, options.model, results, model.about, model.facts(results), beside)
    if options.track:
        from pipelines.registry.evaluations import track
        say(f"evaluate: recorded as run {track(options.model, results, out)} in {shown_uri()}")
    if options.json:
        numbers = json.loads(storage.read_bytes(storage.join(out, "evaluation.json")))
        print(json.dumps({**numbers, "page": storage.join(out, "evaluation.html")}, indent=1, ensure_ascii=False))
    else:
        print(as_text(rows(results), HEADER))
        print(f"\nmade {out}/evaluation.html (the mistakes as pictures), evaluation.json (every number), "
              "predictions.jsonl (every word)")
    missed = failed_gates(gates, results)
    for sentence in missed:
        print(f"textray: {sentence}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("evaluate"))
