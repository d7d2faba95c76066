"""`textray render`: a labeled corpus of synthetic words, or a sheet of them to look at."""

import argparse

from pipelines.arguments import Parser, add_charset, add_max_length, add_out, add_overwrite, add_seed, add_words
from pipelines.corpus import storage
from pipelines.progress import say
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.synthesis.sheet import write_sheet
from pipelines.synthesis.styles import STYLES

SHEET_WORDS = 64

DESCRIPTION = """Make a labeled corpus of synthetic words, or a sheet to look at. The pictures are a function of the
options alone, whatever the number of CPUs. Stopped or killed, the same command continues."""
EPILOG = """styles:
{looks}

examples:
  textray render --out corpora/synthetic -n 100000 --style scene --charset 36
  textray render --sheet look.png --style street -n 64"""


def parser() -> argparse.ArgumentParser:
    """The options of `textray render`."""
    looks = "\n".join(f"  {style.name:<8} {style.summary}" for style in STYLES.values())
    options = Parser(prog="textray render", description=DESCRIPTION, epilog=EPILOG.format(looks=looks),
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    target = options.add_mutually_exclusive_group(required=True)
    add_out(target, "CORPUS", "the new corpus, a folder or URI")
    target.add_argument("--sheet", metavar="FILE.png",
                        help="only draw the first pictures, on one contact sheet (.png or .jpg)")
    options.add_argument("-n", type=int, metavar="COUNT", help="pictures to make (default: 100000; on a sheet 64)")
    add_seed(options, "pictures")
    options.add_argument("--style", default="scene", help=f"{', '.join(STYLES)} (default: scene)")
    add_charset(options, "; 36 is letters and digits, drawn in both cases (default: %(default)s)", "94")
    add_max_length(options, 25, "longer words are not drawn (default: %(default)s)")
    add_words(options)
    options.add_argument("--fonts", metavar="FOLDER",
                         help="use the .ttf and .otf files below it, instead of the packaged fonts")
    options.add_argument("--source", default="", metavar="NAME",
                         help="name of the source in the corpus (default: the style)")
    add_overwrite(options, "a corpus, once the new one is whole")
    return options


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray render`."""
    given = parser().parse_args(argv)
    settings = Settings(given.style, given.seed, given.charset, given.max_length, given.words, given.fonts, given.pattern)
    if given.sheet:
        count = SHEET_WORDS if given.n is None else given.n
        write_sheet(given.sheet, count, settings)
        print(f"{count} pictures in style {given.style}: {given.sheet}")
        return 0
    count = 100_000 if given.n is None else given.n
    words = settings.synthesizer().words
    if words.verbatim and words.refused:
        say(f"render: {words.refused} of {words.refused + len(words.vocabulary)} {f'lines of {given.words}' if given.words else 'strings of the pattern'} left out, "
              f"being outside the charset or longer than {given.max_length}")
    corpus = render_corpus(given.out, count, settings, given.source, given.overwrite)
    print(f"{storage.shown(corpus.path)}: {corpus.rows:,} labeled pictures in style {given.style}, seed {given.seed}. "
          f"Look at it: textray describe {storage.shown(corpus.path)}")
    return 0


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("render"))
