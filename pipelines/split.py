"""`textray split`: a corpus -> one to train on, one to validate by, one to test on."""

import argparse
import json

from pipelines.arguments import Parser, add_json, add_out, add_overwrite, add_seed, not_negative, outliving
from pipelines.corpus import storage
from pipelines.corpus.reader import Corpus
from pipelines.ingestion.brought import brought_in
from pipelines.ingestion.split import Split, checked, labeled_rows, split
from pipelines.progress import warn

DESCRIPTION = """Cut a corpus into CORPUS-train, CORPUS-validation and CORPUS-test.
A row's part is decided by its key and the seed; images that are nearly the same stay together. Validation and test
are drawn from the labeled images, those without a label stay in training; if there is no label, from all of them."""
EXAMPLE = "example: textray split corpora/words --validation 0.1 --test 0.1"


def parser() -> argparse.ArgumentParser:
    """The command line of `textray split`."""
    parse = Parser(prog="textray split", description=DESCRIPTION, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("corpus", metavar="CORPUS", help="a folder or URI made by ingest, render or predict")
    parse.add_argument("--validation", type=not_negative, default=0.1, metavar="SHARE", help="of the labeled images (default %(default)s; 0: no such part)")
    parse.add_argument("--test", type=not_negative, default=0.1, metavar="SHARE", help="of the labeled images (default %(default)s; 0: no such part)")
    add_seed(parse, "parts")
    parse.add_argument("--together", choices=("near", "exact", "none"), default="near",
                       help="which images stay in one part: that are nearly the same, the same to the byte, or none (default %(default)s)")
    parse.renamed("--duplicates", "--together near, exact or none")
    add_out(parse, "NAME", "the parts, as NAME-train, NAME-validation, NAME-test (default: CORPUS)")
    add_json(parse, "what was made")
    add_overwrite(parse, "corpora, each once the new one is whole")
    return parse


def main(argv: list[str] | None = None) -> int:
    """Run `textray split`."""
    arguments = parser().parse_args(argv)
    out = arguments.out or outliving(arguments.corpus.rstrip("/"))
    how = checked(Split(arguments.validation, arguments.test, arguments.seed, arguments.together))
    corpus = Corpus.open(brought_in(arguments.corpus))
    if not labeled_rows(corpus):
        warn(f"{arguments.corpus} holds no labels: its parts can be read, and not be marked")
    parts = split(corpus, out, how, arguments.overwrite)
    if arguments.json:
        print(json.dumps({part: {"path": made.path, "images": made.rows, "labeled": labeled_rows(made)} for part, made in parts.items()}, indent=1))
        return 0
    for part, made in parts.items():
        print(f"{part:<10} {made.rows:>11,} image{'s,' if made.rows != 1 else ', '} {labeled_rows(made):>11,} labeled: {storage.shown(made.path)}")
    if labeled_rows(parts["train"]):
        names = " ".join(f"data.{field}.corpus={out}-{part}" for field, part in (("labeled", "train"), ("validation", "validation")) if part in parts)
        print(f"next: textray finetune RECIPE {names}")
    else:
        print(f"next: textray predict MODEL {out}-train, or textray pretrain RECIPE data.unlabeled.corpus={out}-train")
    return 0


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("split"))
