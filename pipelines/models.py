"""`textray models`: the recognizers that there are, and what they cost."""

import argparse
import difflib
import inspect
import json
from collections.abc import Iterator, Mapping

import torch

from models.charset import Charset
from models.costs import Costs, costs
from models.recognizer import Recognizer
from models.recognizers import RECOGNIZERS, SOURCES, build, builder_named
from pipelines.arguments import Parser, add_charset, add_json
from pipelines.errors import BadInput

CHARSET = "36"
HEADER = ("name", "parameters", "multiply-adds", "input", "decoder", "source")
PARTS = ("part", "parameters", "multiply-adds")


def weightless(name: str, charset: Charset) -> Recognizer:
    """The recognizer of that name with all its defaults, as shapes alone. BadInput for an unknown name."""
    try:
        builder_named(name)
    except ValueError as problem:
        near = difflib.get_close_matches(name, RECOGNIZERS, n=1, cutoff=0.5)
        hint = problem if ".py:" in name else f"did you mean {near[0]!r}?" if near else "`textray models` lists them"
        raise BadInput(f"expected a recognizer, found {name!r}: {hint}") from None
    with torch.device("meta"):
        return build(name, charset)


def millions(count: int) -> str:
    """A count as 8.45 M or 686 M; thousands of millions as 5.05 G."""
    scaled, unit = (count / 1e9, "G") if count >= 1e9 else (count / 1e6, "M")
    return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {unit}"


def size(recognizer: Recognizer) -> str:
    """What it sees of an image: 32 x 100 gray."""
    return f"{recognizer.height} x {recognizer.width} {'gray' if recognizer.channels == 1 else 'RGB'}"


def row(name: str, recognizer: Recognizer, found: Mapping[str, Costs]) -> tuple[str, ...]:
    """A line of the table."""
    return (name, f"{found['all'].parameters:,}", millions(found["all"].multiply_adds), size(recognizer), recognizer.decoder.kind,
            SOURCES.get(name, ""))


def line(cells: tuple[str, ...], widths: tuple[int, ...], numbers: tuple[int, ...] = (1, 2)) -> str:
    """Cells in columns of these widths: numbers to the right, the rest to the left."""
    placed = [cell.rjust(width) if column in numbers else cell.ljust(width)
              for column, (cell, width) in enumerate(zip(cells, widths, strict=True))]
    return "  ".join(placed).rstrip()


def table(charset: Charset) -> Iterator[str]:
    """The lines of `textray models`, each as soon as it is known."""
    widths = (max(map(len, RECOGNIZERS)), len("000,000,000"), len("multiply-adds"), len("224 x 224 gray"), len("attention"), 0)
    yield line(HEADER, widths)
    for name in RECOGNIZERS:
        recognizer = weightless(name, charset)
        yield line(row(name, recognizer, costs(recognizer)), widths)


def details(name: str, charset: Charset) -> Iterator[str]:
    """The lines of `textray models NAME`: its source, what it sees and writes, its parts, its settings."""
    recognizer = weightless(name, charset)
    found = costs(recognizer)
    decoder = recognizer.decoder
    writes = {"ctc": "a class for each frame", "attention": f"symbol by symbol, at most {recognizer.max_length} characters",
              "parallel": f"all symbols at once, at most {recognizer.max_length} characters"}[decoder.kind]
    yield f"{name}: {SOURCES.get(name, '')}".rstrip(": ")
    yield f"reads {size(recognizer)}, {decoder.kind}: {writes}; {decoder.tokens.classes} classes with {len(charset)} characters"
    yield ""
    widths = (max(map(len, [*found, PARTS[0]])), len("000,000,000"), len("multiply-adds"))
    yield line(PARTS, widths)
    yield from (line((part, f"{each.parameters:,}", f"{each.multiply_adds:,}"), widths) for part, each in found.items())
    yield ""
    yield "settings (in a recipe: recognizer.options.KEY=VALUE)"
    yield from (f"  {setting}" for setting in settings(name))


def as_record(name: str, charset: Charset) -> dict[str, object]:
    """One recognizer for a script: what reading one image costs, what it sees, and its settings with their defaults."""
    recognizer = weightless(name, charset)
    found = costs(recognizer)
    options = {setting: parameter.default for setting, parameter in inspect.signature(builder_named(name)).parameters.items() if setting != "charset"}
    return {"name": name, "source": SOURCES.get(name, ""), "parameters": found["all"].parameters, "multiply_adds": found["all"].multiply_adds,
            "height": recognizer.height, "width": recognizer.width,
            "decoder": recognizer.decoder.kind, "max_length": recognizer.max_length, "options": options}


def settings(name: str) -> list[str]:
    """The builder's keyword arguments with their defaults, and what else may be chosen where that is known."""
    lines = []
    for setting, parameter in inspect.signature(builder_named(name)).parameters.items():
        choices = getattr(parameter.annotation, "__args__", ())
        named = [choice for choice in choices if isinstance(choice, str)]
        if setting != "charset":
            lines.append(f"{setting} = {parameter.default}" + (f"  ({', '.join(named)})" if named else ""))
    return lines


def parser() -> argparse.ArgumentParser:
    """The command line of `textray models`."""
    arguments = Parser(
        prog="textray models", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="List the recognizers with their parameters and the multiply-adds of reading one image: the products of convolutions,\n"
                    "linear layers, recurrent cells and attention. A decoder that writes symbol by symbol writes all of its steps.",
        epilog="example:\n  textray models\n  textray models trba --charset 94")
    arguments.add_argument("recognizer", nargs="?", metavar="NAME", help="one of them, in detail: its parts and its settings (default: list all)")
    arguments.renamed("--name", "NAME, such as `textray models trba`")
    add_json(arguments, "the list, or the one")
    add_charset(arguments, " (default: %(default)s)", CHARSET)
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray models`."""
    options = parser().parse_args(argv)
    try:
        charset = Charset.named(options.charset)
    except ValueError as problem:
        raise BadInput(f"--charset: {problem}") from None
    if options.json:
        names = [options.recognizer] if options.recognizer else list(RECOGNIZERS)
        print(json.dumps([as_record(name, charset) for name in names], indent=1, ensure_ascii=False, default=str))
        return 0
    for shown in details(options.recognizer, charset) if options.recognizer else table(charset):
        print(shown, flush=True)
    if not options.recognizer:
        print(f"\n{len(RECOGNIZERS)} recognizers, with {len(charset)} characters; textray models NAME shows one's parts and settings")
    return 0


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("models"))
