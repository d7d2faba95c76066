"""`textray relabel`: a corpus with a list of corrections -> the corpus with these labels."""

import argparse

from pipelines.arguments import Parser, add_out, add_overwrite
from pipelines.corpus import storage
from pipelines.corpus.account import counted
from pipelines.corpus.reader import Corpus
from pipelines.ingestion.brought import brought_in
from pipelines.ingestion.relabel import read_corrections, relabel

DESCRIPTION = """Take a list of corrected labels into a corpus, which is written anew beside the old one.
The list is a CSV with the columns key and correct, as `textray describe CORPUS --suspects MODEL` writes it: what stands in
`correct` becomes the label, - takes the label away, an empty field leaves it."""
EXAMPLE = "example: textray relabel corpora/words reports/suspects-words.csv --out corpora/words-2"


def parser() -> argparse.ArgumentParser:
    """The command line of `textray relabel`."""
    parse = Parser(prog="textray relabel", description=DESCRIPTION, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("corpus", metavar="CORPUS", help="a folder or URI made by ingest, render or predict")
    parse.add_argument("list", metavar="LIST.csv", help="with the columns key and correct")
    add_out(parse, "CORPUS", "the new corpus, a folder or URI", required=True)
    add_overwrite(parse, "a corpus, once the new one is whole")
    return parse


def main(argv: list[str] | None = None) -> int:
    """Run `textray relabel`."""
    arguments = parser().parse_args(argv)
    corpus, corrections = Corpus.open(brought_in(arguments.corpus)), read_corrections(arguments.list)
    made = relabel(corpus, corrections, arguments.out, arguments.overwrite)
    gone = sum(text is None for text in corrections.values())
    print(f"{storage.shown(made.path)}: {counted(made.rows, 'image')}, {counted(len(corrections) - gone, 'label')} corrected, {gone:,} taken away")
    return 0


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("relabel"))
