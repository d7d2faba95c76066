"""`textray describe`: what a corpus holds, in numbers and as a page of pictures."""

import argparse
import json
import os
import textwrap
from typing import TYPE_CHECKING

from pipelines.arguments import Parser, add_guard, add_json, add_min_confidence, add_seed
from pipelines.cluster import check_outlives
from pipelines.corpus import storage
from pipelines.corpus.account import counted, counts_table, table
from pipelines.corpus.characters import visible
from pipelines.corpus.reader import Corpus
from pipelines.corpus.tally import QUANTILES, RANGES, describe, summarize
from pipelines.errors import BadInput
from pipelines.ingestion.brought import brought_in
from pipelines.ingestion.wordsets import open_sets
from pipelines.progress import say
from pipelines.reports.corpus import write_page
from pipelines.reports.html import MARK

if TYPE_CHECKING:
    from pipelines.prediction.labeler import Reader
    from pipelines.prediction.orientation import Orientation

DESCRIPTION = """Print what a corpus holds: rows per source, rejects and why, label lengths, image sizes, characters, and what
the charsets 36, 62 and 94 cannot spell. --html writes a page to look at: images of every source, histograms, rejects,
duplicates and leaked benchmark images with their pictures."""
EXAMPLE = "example: textray describe corpora/words --html words.html"
CHARACTERS_SHOWN = 200
OUTSIDE_SHOWN = 12
DIGITS = {"aspect": 2}  # decimals in the table; 1 for everything else


def main(argv: list[str] | None = None) -> int:
    """Run `textray describe`."""
    parse = Parser(prog="textray describe", description=DESCRIPTION, epilog=EXAMPLE,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("corpus", metavar="CORPUS", help="a folder made by ingest, render or predict")
    add_json(parse, "the numbers, with every character; with --suspects how many they are, and where page and list lie")
    parse.add_argument("--html", metavar="PAGE", help="write a page with pictures, one file that needs nothing but a browser")
    parse.add_argument("--images", type=int, default=40, metavar="N", help="on the page, of each source (default: %(default)s)")
    add_seed(parse, "images on the page")
    add_guard(parse, "those of `textray ingest`; the page shows their images beside the leaked ones (default: those that the corpus names, where they are at hand)")
    parse.add_argument("--suspects", metavar="MODEL", help="instead of numbers: the labels that this model reads confidently otherwise, as a page of pictures (--html, by "
                       "default reports/suspects-CORPUS.html) and a list to correct beside it, for `textray relabel`")
    add_min_confidence(parse, 0.9, "with --suspects (default: %(default)s)")
    parse.add_argument("--most", type=int, default=500, metavar="N", help="with --suspects: how many, the surest first (default: %(default)s)")
    parse.add_argument("--orientation", metavar="MODEL", help="with --html: how many words probably stand on their head, by what this model reads in a thousand images both ways up")
    arguments = parse.parse_args(argv)
    if arguments.orientation is not None and (not arguments.html or arguments.suspects is not None):
        raise BadInput("--orientation: expected it beside --html PAGE, without --suspects, found it without a page: say where the page goes")
    if arguments.html or arguments.suspects is not None:
        check_outlives(arguments.html or "reports", "--html")
    if arguments.suspects is not None:
        return _suspects(arguments)
    if arguments.images < 0:
        raise BadInput(f"--images: expected 0 or more, found {arguments.images}: correct it")
    corpus = Corpus.open(brought_in(arguments.corpus))
    if arguments.html:
        storage.check_replaceable(arguments.html, MARK, "--html")
        tallies, size = write_page(corpus, arguments.html, arguments.images, arguments.seed, _benchmarks(corpus, arguments.guard),
                                   _orientation(corpus, arguments.orientation) if arguments.orientation else None)
        summary = summarize(corpus, tallies)
    else:
        summary = describe(corpus)
    print(json.dumps(summary, indent=1, ensure_ascii=False) if arguments.json else _text(corpus, summary))
    if arguments.html:
        (say if arguments.json else print)(f"{arguments.html}: the page, {f'{size / 1e6:,.1f} MB' if size >= 1e6 else f'{size / 1e3:,.0f} kB'}")
    return 0


def _suspects(arguments: argparse.Namespace) -> int:
    """Write the page and the list of labels that a model reads otherwise."""
    from pipelines.ingestion.relabel import read_corrections
    from pipelines.prediction.suspects import suspects, write_list
    from pipelines.reports.html import write_text
    from pipelines.reports.suspects import as_page
    if not 0 <= arguments.min_confidence <= 1 or arguments.most < 1:
        raise BadInput(f"--min-confidence {arguments.min_confidence:g} --most {arguments.most}: expected a confidence from 0 to 1 and a number of 1 or more: correct it")
    place = brought_in(arguments.corpus)
    corpus, name = Corpus.open(place), os.path.basename(place.rstrip("/"))
    page = arguments.html or storage.join("reports", f"suspects-{name}.html")
    listed = f"{page.removesuffix('.html')}.csv"
    storage.check_replaceable(page, MARK, "--html")
    storage.check_replaceable(listed, b"key,text,read,confidence,correct", "--html")
    if storage.kind(listed) == "file" and read_corrections(listed):
        raise BadInput(f"{listed}: expected a list that nobody has corrected yet, found corrections in it: take them in with textray relabel, or choose another --html")
    reader = _reader(arguments.suspects)
    found, looked = suspects(corpus, reader, arguments.min_confidence, arguments.most)
    write_list(listed, found)
    write_text(page, as_page(arguments.corpus, arguments.suspects, found, looked, arguments.min_confidence, listed, reader.rule.compared))
    if arguments.json:
        print(json.dumps({"labels": looked, "suspects": len(found), "page": page, "list": listed}, indent=1, ensure_ascii=False))
        return 0
    print(f"{len(found):,} of {looked:,} labels are read otherwise with a confidence of {arguments.min_confidence:g} or more\n{page}: pictures\n"
          f"{listed}: write what is right into its column `correct`, then: textray relabel {arguments.corpus} {listed} --out NEW")
    return 0


def _reader(model: str, *options: str) -> "Reader":
    """A model that reads with these options of `textray predict`."""
    from pipelines.evaluation.options import device_named
    from pipelines.prediction.labeler import Labeler, Manner, Reader
    from pipelines.reading.options import add_options
    choices = Parser()
    add_options(choices)
    manner = Manner.of(argparse.Namespace(batch_size=256, precision="float32", **vars(choices.parse_args(list(options)))))
    return Reader(Labeler.open(model), manner, device_named(None))


def _orientation(corpus: Corpus, model: str) -> "Orientation":
    from pipelines.prediction.orientation import orientation
    return orientation(corpus, model, _reader(model, "--both-ways-up"), _reader(model))


def _benchmarks(corpus: Corpus, given: list[str]) -> list[str]:
    """The benchmarks that are given, else those that the corpus was guarded against, if they can be opened from here."""
    named = given or corpus.manifest.made_by.get("guard", [])
    try:
        open_sets(named)
    except BadInput:
        if given:
            raise
        return []
    return named


def _text(corpus: Corpus, summary: dict) -> str:
    parts = [counts_table(corpus.manifest), _ranges(summary)]
    characters = summary["total"]["characters"]
    if characters:
        parts += [_characters(characters), _charsets(summary)]
    parts.append(f"{corpus.path}: {counted(corpus.rows, 'image')} in {counted(summary['shards'], 'shard')} "
                 f"and {counted(summary['row_groups'], 'row group')}, {summary['bytes'] / 1e6:,.1f} MB, "
                 f"manifest sha256 {corpus.sha256[:16]}…")
    return "\n\n".join(parts)


def _ranges(summary: dict) -> str:
    rows = []
    named = [*summary["sources"].items(), ("all", summary["total"])]
    for name, source in named if len(named) > 2 else named[:1]:
        for what in RANGES:
            found = source[what]
            if found is not None:
                values = (_short(found[quantile], DIGITS.get(what, 1)) for quantile in QUANTILES)
                rows.append((name, what.replace("_", " "), *values))
    return table(("source", "", *QUANTILES), rows)


def _characters(characters: dict[str, int]) -> str:
    shown = "  ".join(f"{visible(character)}\N{NO-BREAK SPACE}{count:,}"
                      for character, count in list(characters.items())[:CHARACTERS_SHOWN])
    lines = textwrap.wrap(shown, 110, break_long_words=False, break_on_hyphens=False)
    if len(characters) > CHARACTERS_SHOWN:
        lines.append(f"and {len(characters) - CHARACTERS_SHOWN:,} more, which --json lists")
    head = f"{len(characters):,} different characters, {sum(characters.values()):,} in all"
    return "\n".join([head, *lines]).replace("\N{NO-BREAK SPACE}", " ")


def _charsets(summary: dict) -> str:
    rows = []
    named = [*summary["sources"].items(), ("all", summary["total"])]
    for name, source in named if len(named) > 2 else named[:1]:
        for charset, found in source["charsets"].items() if source["labeled"] else ():
            shown = [f"{visible(character)} {count:,}" for character, count in list(found["outside"].items())[:OUTSIDE_SHOWN]]
            more = ["…"] if len(found["outside"]) > OUTSIDE_SHOWN else []
            rows.append((name, charset, f"{source['labeled']:,}", f"{found['rows_outside']:,}",
                         f"{100 * found['rows_outside'] / source['labeled']:.1f} %", f"{found['characters_outside']:,}",
                         "  ".join(shown + more)))
    lines = table(("source", "charset", "labeled", "rows outside", "", "characters outside"), [row[:-1] for row in rows]).splitlines()
    named = ["the most frequent of them", *(row[-1] for row in rows)]
    return "\n".join(f"{line}  {last}".rstrip() for line, last in zip(lines, named, strict=True))


def _short(value: float, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".")


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("describe"))
