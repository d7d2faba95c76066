"""`textray predict`: images -> strings with their confidences, as lines, as a file, or as a corpus of pseudo-labels."""

import argparse
import sys
import time

from pipelines.arguments import Parser, add_batch_size, add_json, add_min_confidence, add_out, add_overwrite
from pipelines.corpus import storage
from pipelines.corpus.account import counted
from pipelines.errors import BadInput
from pipelines.evaluation.options import add_device_arguments, device_named
from pipelines.prediction.files import as_json, writer_for
from pipelines.prediction.labeler import Labeler, Manner, Reader
from pipelines.prediction.pipeline import Job, Prediction, predict, read_here, some_readable, sure_enough
from pipelines.prediction.sources import open_all
from pipelines.prediction.tally import Tally
from pipelines.progress import clock, say
from pipelines.reading.options import add_options

ONE_LINE = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})  # a name that holds these would be taken for several columns or lines

DESCRIPTION = """Read images with a model. Without --out a line for each image goes to the standard output: its name, the text, the confidence.
  --out words.csv, words.tsv or words.jsonl   a record for each image; more than 2,000 images are read by Ray, on all workers
  --out CORPUS                                corpora with what was read as their texts: pseudo-labels, to train on as they are
What makes a corpus, or a file of more than 1,000 images, can be stopped or killed: the same command goes on, and nothing is lost or doubled."""
EXAMPLE = """examples:
  textray predict words@champion *.jpg
  textray predict my-run corpora/real --out corpora/pseudo --min-confidence 0.9
  textray predict models:/words/3 data/svt.lmdb --out svt.csv --lexicon words.txt"""


def parser() -> argparse.ArgumentParser:
    """The command line of `textray predict`."""
    arguments = Parser(prog="textray predict", description=DESCRIPTION, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", help="a run's name or folder, a model folder, or models:/NAME@champion, for short NAME@champion")
    arguments.add_argument("sources", nargs="+", metavar="SOURCE", help="an image, a folder of images, a corpus, an LMDB or whatever else `textray "
                           "ingest` takes; @FILE holds the names of images, one a line (@-: the standard input)")
    add_out(arguments, "FILE|CORPUS", "a file of readings, or a corpus, a path or URI (default: lines on the standard output)")
    add_min_confidence(arguments, None, "those below it, empty ones and images that cannot be decoded are left out (default: all are kept, but a corpus keeps "
                       "no empty readings)")
    arguments.add_argument("--keep-images", choices=("yes", "no"), help="whether what is made holds the images: a corpus does, a file does not")
    add_json(arguments, "without --out an object for each image, instead of its line")
    add_batch_size(arguments)
    add_device_arguments(arguments)
    add_options(arguments)
    add_overwrite(arguments, "a corpus, or a file of readings, once the new one is whole")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray predict`."""
    options = parser().parse_args(argv)
    _check(options)
    manner, sources = Manner.of(options), open_all(options.sources)
    device = device_named(options.device) if options.out is None else None
    started, labeler = time.monotonic(), Labeler.open(options.model)
    if options.out is None:
        return _print(sources, Reader(labeler, manner, device), options)
    target = storage.absolute(options.out)
    made = predict(Job(sources, options.sources, labeler, manner, target, options.device, options.min_confidence, options.overwrite))
    print(made.tally)
    next_step = "" if writer_for(options.out) else f" Train on it: data.labeled.corpus={options.out}"
    print(f"\n{options.out}: {_account(made)}, by {labeler.name}, in {clock(time.monotonic() - started)}.{next_step}")
    return 0


def _print(sources: list, reader: Reader, options: argparse.Namespace) -> int:
    tally, reasons = Tally(), {}
    for line in sure_enough(some_readable(read_here(sources, reader, tally), tally), options.min_confidence, reasons):
        name = line.key.translate(ONE_LINE)
        print(as_json(line, reader.labeler.name) if options.json else f"{name}\t{line.text}\t{line.confidence:.4f}", flush=True)
        if line.problem is not None:
            print(f"{name}: {line.problem}", file=sys.stderr)
    if reasons:
        say(f"predict: {_account(Prediction(tally, tally.images - sum(reasons.values()), reasons))}")
    return 0


def _account(made: Prediction) -> str:
    """`4,000 of 4,468 images kept (400 confidence below 0.9, 68 empty reading)`."""
    reasons = {**made.tally.unreadable, **made.left_out}
    listed = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1]))
    return f"{made.kept:,} of {counted(made.tally.images, 'image')} kept" + (f" ({listed})" if listed else "")


def _check(options: argparse.Namespace) -> None:
    """Raise BadInput for options that are out of range or exclude each other."""
    if options.min_confidence is not None and not 0 <= options.min_confidence <= 1:
        raise BadInput(f"--min-confidence: expected a confidence from 0 to 1, found {options.min_confidence:g}: correct it")
    if options.out is None:
        for name in ("keep_images", "overwrite"):
            if getattr(options, name):
                raise BadInput(f"--{name.replace('_', '-')}: expected --out with it, found none: say what to make")
        return
    if options.json:
        raise BadInput(f"--json: expected no --out with it, found {options.out}: name a file that ends in .jsonl")
    file = writer_for(options.out) is not None
    if not file and options.keep_images == "no":
        raise BadInput(f"--keep-images no: expected a file, for a corpus holds its images, found --out {options.out}: name one that ends in .csv, "
                       ".tsv or .jsonl; its keys are those of the source")
    if file and options.keep_images == "yes":
        raise BadInput(f"--keep-images yes: expected a corpus, which holds its images, found --out {options.out}: name a folder")


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("predict"))
