"""`textray compare`: whether one model reads more than another, on the same words."""

import argparse
import json

from pipelines.arguments import Parser, add_json, add_out, outliving
from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.evaluation.columns import as_text
from pipelines.evaluation.comparison import Paired, check_same_words, differences, pictures_of
from pipelines.evaluation.model import Measured
from pipelines.evaluation.options import add_reading_arguments, check_batch_size
from pipelines.ingestion.wordsets import WordSet, open_sets
from pipelines.reading.options import add_options
from pipelines.reading.weights import file_safe
from pipelines.reports import html
from pipelines.reports.comparison import HEADER, Compared, as_json, as_page, rows

SHOWN = 24  # pictures of each set and side


def parser() -> argparse.ArgumentParser:
    """The command line of `textray compare`."""
    arguments = Parser(
        prog="textray compare", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Read the same labeled words with two models, A and B, and say whether they are told apart: the difference of their\n"
                    "accuracies with its 95 % interval, McNemar's exact test, and a page with pictures of the words that only one reads.",
        epilog="example: textray compare words@champion my-run --data SVT=data/SVT --data own=corpora/validation")
    arguments.add_argument("a", metavar="A", help="a run's name or folder, a model folder, or models:/NAME@champion, for short NAME@champion")
    arguments.add_argument("b", metavar="B", help="another")
    add_reading_arguments(arguments)
    add_out(arguments, "FILE.html", "the page, a path or URI (default: reports/comparison-A-B.html)")
    add_json(arguments, "every number, in place of the table")
    add_options(arguments)
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray compare`."""
    options = parser().parse_args(argv)
    check_batch_size(options)
    out = options.out or outliving(storage.join("reports", f"comparison-{file_safe(options.a)}-{file_safe(options.b)}.html"))
    sets = open_sets(options.data)
    storage.check_replaceable(out, html.MARK, "--out")
    models = [Measured(name, options) for name in (options.a, options.b)]
    for words in sets:
        _check_rules(words, models)
    found = [_compared(words, models) for words in sets]
    html.write_text(out, as_page(options.a, options.b, found))
    if options.json:
        print(json.dumps(as_json(options.a, options.b, found, out), indent=1, ensure_ascii=False))
        return 0
    print(f"A {options.a}\nB {options.b}\n\n{as_text(rows(found), HEADER)}")
    print(f"\nmade {out} (pictures of the words that only one of them reads)")
    return 0


def _check_rules(words: WordSet, models: list[Measured]) -> None:
    """Raise BadInput where the two would be held against different strings."""
    rules = [model.rule(words).name for model in models]
    alphabets = [model.recognizer.charset.characters for model in models]
    if rules[0] != rules[1] or (rules[0] == "charset" and set(alphabets[0]) != set(alphabets[1])):
        found = "the rule charset for two different charsets" if rules[0] == rules[1] else " and ".join(rules)
        raise BadInput(f"{words.name}: expected one rule by which both are compared with the labels, found {found}: say which one, such as --rule 36")


def _compared(words: WordSet, models: list[Measured]) -> Compared:
    first, second = (model.read(words) for model in models)
    check_same_words(first, second)
    lost, won = differences(first.evaluation.words, second.evaluation.words, SHOWN)
    notes = tuple(dict.fromkeys([*first.notes, *second.notes]))
    return Compared(words.name, Paired.of(first.evaluation.words, second.evaluation.words), lost, won, pictures_of(words, [*lost, *won]), first.rule, notes)


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("compare"))
