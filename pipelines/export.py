"""`textray export`: a corpus -> LMDB, WebDataset tars or a folder, for other toolkits."""

import argparse
import time

from pipelines.arguments import Parser, add_out, add_overwrite
from pipelines.corpus.account import counted
from pipelines.errors import BadInput
from pipelines.exporting.copy import export
from pipelines.ingestion.brought import brought_in
from pipelines.progress import clock

DESCRIPTION = """Give a corpus back to other toolkits, in the order of the corpus, images byte for byte:
  lmdb         num-samples, image-%09d, label-%09d (from 1), as most scene-text toolkits read
  webdataset   tars of samples KEY.jpg + KEY.txt
  folder       images/ and labels.tsv (labels.jsonl if a text holds a tab or a line break)
Rows without a text come without label. Two exports of one corpus hold the same."""
EXAMPLE = "example: textray export corpora/words --format lmdb --out lmdb/words --sources IIIT5K,SVT"


def main(argv: list[str] | None = None) -> int:
    """Run `textray export`."""
    parse = Parser(prog="textray export", description=DESCRIPTION, epilog=EXAMPLE,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("corpus", metavar="CORPUS", help="a folder or URI made by ingest, render or predict")
    parse.add_argument("--format", required=True, choices=("lmdb", "webdataset", "folder"), help="what others read")
    add_out(parse, "PATH", "a new folder, on this machine", required=True)
    parse.add_argument("--sources", metavar="A,B", help="only these sources of the corpus")
    parse.add_argument("--rows-per-file", type=int, default=10_000, metavar="N", help="images in a tar (default: %(default)s)")
    add_overwrite(parse, "an earlier export, once the new one is whole")
    arguments = parse.parse_args(argv)
    if arguments.rows_per_file < 1:
        raise BadInput(f"--rows-per-file: expected 1 or more, found {arguments.rows_per_file}: correct it")
    started = time.monotonic()
    sources = arguments.sources.split(",") if arguments.sources is not None else None
    made = export(brought_in(arguments.corpus), arguments.out, arguments.format, sources, rows_per_file=arguments.rows_per_file,
                  overwrite=arguments.overwrite)
    print(f"{arguments.out}: {counted(made['rows'], 'image')} ({made['labeled']:,} labeled) in {_what(made)}, "
          f"{made['bytes'] / 1e6:,.1f} MB of images, in {clock(time.monotonic() - started)}. {_how_to_read(arguments.out, made)}")
    return 0


def _what(made: dict) -> str:
    if made["format"] == "lmdb":
        return "an LMDB"
    if made["format"] == "webdataset":
        return counted(len(made["files"]), "tar")
    return " and ".join(made["files"]) + (" (some texts hold tabs or line breaks)" if "labels.jsonl" in made["files"] else "")


def _how_to_read(target: str, made: dict) -> str:
    if made["format"] == "lmdb":
        return f"Other toolkits take this folder as an LMDB dataset; textray: textray ingest {target} --out CORPUS"
    if made["format"] == "webdataset":
        name, last = made["files"][0][:-len("000000.tar")], len(made["files"]) - 1
        tars = f"{name}{{000000..{last:06d}}}.tar" if last else made["files"][0]
        return f"webdataset.WebDataset('{target}/{tars}'); textray ingest {target} --out CORPUS"
    labels = "labels.jsonl has a JSON object a line (file_name, text, key)" if "labels.jsonl" in made["files"] else \
        "labels.tsv has path<TAB>text" if "labels.tsv" in made["files"] else "No image has a label"
    return f"{labels}; textray ingest {target} --out CORPUS"


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("export"))
