"""`textray ingest`: foreign formats -> corpus, by Ray Data."""

import argparse
import textwrap
import time
from dataclasses import fields

from pipelines.arguments import Parser, add_guard, add_labels, add_max_errors, add_max_length, add_out, add_overwrite, finite
from pipelines.corpus import storage
from pipelines.corpus.account import counted, counts_table
from pipelines.errors import BadInput
from pipelines.ingestion.chunks import Options
from pipelines.ingestion.pipeline import ingest
from pipelines.ingestion.sources.opening import OPENED_BY
from pipelines.ingestion.sources.row import ReadOptions
from pipelines.progress import clock

DESCRIPTION = """Bring images in foreign formats into a corpus: LMDBs, WebDataset tars, Parquet files, folders of images with or without
labels, scenes with annotated words (cropped), and trees of these, on this machine or at s3://, gs://, hf://. Every row is kept, a duplicate,
filtered (not asked for) or quarantined (unusable); quarantine.parquet in the corpus lists all but the first with their reasons and pictures.
Stopped or killed, the same command continues."""
EXAMPLE = """formats, found by looking or forced as in FORMAT:PATH:
{formats}

examples:
  textray ingest data/words/train --out corpora/words --duplicates near --guard data/words/test
  textray ingest SVT=data/svt.lmdb icdar2015:data/scenes/IC15 s3://bucket/words-{{0000..0099}}.tar --out s3://bucket/corpora/words"""


def parser() -> argparse.ArgumentParser:
    """The command line of `textray ingest`."""
    defaults = Options()
    parse = Parser(prog="textray ingest", description=DESCRIPTION,
                                    epilog=EXAMPLE.format(formats=textwrap.fill(", ".join(OPENED_BY), 100, initial_indent="  ", subsequent_indent="  ")),
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("sources", nargs="+", metavar="SOURCE", help="PATH or NAME=PATH, also [NAME=]FORMAT:PATH; keys begin with the name")
    add_out(parse, "CORPUS", "the new corpus, a folder or URI", required=True)
    add_max_errors(parse)
    parse.add_argument("--min-side", type=int, default=defaults.min_side, metavar="PIXELS",
                       help="filter images whose smaller side is below this (default: %(default)s)")
    parse.add_argument("--max-aspect", type=finite, default=defaults.max_aspect, metavar="RATIO",
                       help="filter images that are longer than RATIO : 1, or higher than 1 : RATIO (default: %(default)s)")
    parse.add_argument("--min-contrast", type=int, default=defaults.min_contrast, metavar="GREY",
                       help="filter blank images, whose lightest and darkest grey values (0 to 255) differ by less (default: %(default)s)")
    parse.add_argument("--unicode", choices=("NFC", "NFKC", "NFD", "NFKD", "as is"), default=defaults.unicode,
                       help="normal form of the labels; every script is kept (default: %(default)s)")
    parse.add_argument("--duplicates", choices=("keep", "exact", "near"), default=defaults.duplicates,
                       help="exact: drop rows with the bytes of an earlier row; near: also those that show the same picture (default: keep)")
    add_guard(parse, "filter every row that is, or nearly is, one of their images")
    add_max_length(parse, 0, "filter longer ones (default: any length)")
    parse.renamed("--max-text-length", "--max-length N")
    parse.add_argument("--rows-per-shard", type=int, default=defaults.rows_per_shard, metavar="N",
                       help="default: %(default)s")
    parse.add_argument("--rows-per-group", type=int, default=defaults.rows_per_group, metavar="N",
                       help="row groups are the unit of shuffling (default: %(default)s)")
    parse.add_argument("--allow-holes", action="store_true",
                       help="bring in damaged LMDBs (holes, no num-samples) and cut tars; what is missing is quarantined")
    add_labels(parse, "images that it does not name are unlabeled")
    parse.add_argument("--only", choices=("labeled", "unlabeled"), help="filter all other rows")
    parse.add_argument("--image-column", metavar="NAME", help="of Parquet files whose column of images is not recognised")
    parse.add_argument("--text-column", metavar="NAME", help="of Parquet files whose column of labels is not recognised")
    parse.add_argument("--vertical", action="store_true", help="turn the crops of vertical words in scenes, so that they lie")
    add_overwrite(parse, "a corpus, once the new one is whole")
    return parse


def main(argv: list[str] | None = None) -> int:
    """Run `textray ingest` and print the counts per source."""
    arguments = parser().parse_args(argv)
    options = _options(arguments)
    started = time.monotonic()
    reading = ReadOptions(arguments.allow_holes, arguments.image_column, arguments.text_column, arguments.vertical, arguments.labels)
    corpus = ingest(arguments.sources, arguments.out, options, max_errors=arguments.max_errors, reading=reading,
                    guard=arguments.guard, overwrite=arguments.overwrite)
    print(counts_table(corpus.manifest))
    size = sum(shard.bytes for shard in corpus.manifest.shards) / 1e6
    print(f"\n{storage.shown(corpus.path)}: {counted(corpus.rows, 'image')} in {counted(len(corpus.manifest.shards), 'shard')}, {size:,.1f} MB, "
          f"in {clock(time.monotonic() - started)}. Look at it: textray describe {storage.shown(corpus.path)}")
    return 0


def _options(arguments: argparse.Namespace) -> Options:
    for name, least in (("min_side", 0), ("max_aspect", 1), ("min_contrast", 0), ("max_length", 0), ("rows_per_shard", 1), ("rows_per_group", 1)):
        if not least <= getattr(arguments, name) < float("inf"):
            raise BadInput(f"--{name.replace('_', '-')}: expected {least} or more, "
                           f"found {getattr(arguments, name)}: correct it")
    if not 0 <= arguments.max_errors <= 1:
        raise BadInput(f"--max-errors: expected a share from 0 to 1, found {arguments.max_errors}: "
                       "0.01 is one row in a hundred")
    return Options(**{field.name: getattr(arguments, field.name) for field in fields(Options) if field.name != "guarded"})


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("ingest"))
