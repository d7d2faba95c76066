"""`textray import-weights`: a checkpoint that somebody published, as a model of this package."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from models.charset import Charset
from models.published import LAYOUTS
from models.recognizer import Recognizer
from pipelines.arguments import Parser, add_charset, add_name, add_out
from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.handles import shown_uri
from pipelines.progress import say
from pipelines.reading.checkpoint_file import BRANCHES, read_tensors, sha256
from pipelines.reading.published import import_weights
from pipelines.reading.weights import DESCRIPTION, save_recognizer
from pipelines.registry import versions
from pipelines.tracking import prepare_store


def options_of(arguments: Sequence[str]) -> dict[str, Any]:
    """`key=value` arguments, the values read as YAML, as recipes read them. BadInput for one without a key or a value."""
    options = {}
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not key or not separator:
            raise BadInput(f"--option: expected key=value (such as width=128), found {argument!r}")
        try:
            options[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise BadInput(f"--option {argument!r}: expected a value as in YAML: quote it") from None
    return options


def charset_of(argument: str | None) -> Charset | None:
    """What --charset means: a name, the characters, or @FILE that holds them. BadInput if a character comes twice, or for no such file."""
    if argument is None:
        return None
    try:
        if argument.startswith("@") and len(argument) > 1:
            return Charset(Path(argument[1:]).read_text(encoding="utf-8").strip("\r\n"))
        return Charset.named(argument)
    except (OSError, ValueError) as problem:
        raise BadInput(f"--charset: {problem}") from None


def _free(folder: str) -> str:
    if storage.kind(storage.join(folder, DESCRIPTION)) is not None:
        raise BadInput(f"--out: expected a folder without a model, found one in {folder}: choose another, or remove it")
    found = storage.kind(folder)
    if found == "file" or (found == "folder" and storage.list_names(folder)):
        raise BadInput(f"--out: expected a free name or an empty folder, found another {found} in {folder}: choose another, or remove it")
    return folder


def register(folder: str | Path, name: str, tags: dict[str, str]) -> str:
    """Put a model folder into the registry as the next version of `name`; returns its URI."""
    store, experiment = prepare_store()
    return f"models:/{name}/{versions.add_version(store, experiment, name, folder, run=None, tags=tags)}"


def parser() -> argparse.ArgumentParser:
    """The command line of `textray import-weights`."""
    arguments = Parser(
        prog="textray import-weights", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Put a published checkpoint into the registry, or into a model folder, ready to evaluate. Nothing in the file is run.\n"
                    "Files of these are known:\n" + "\n".join(f"  {layout.source}" for layout in LAYOUTS),
        epilog="example:\n  textray import-weights TPS-ResNet-BiLSTM-Attn.pth --name trba\n"
               "  textray evaluate models:/trba/1 --data IIIT5K=data/IIIT5K")
    arguments.add_argument("file", help="a checkpoint of PyTorch: a state dict, or a dictionary that holds one")
    add_name(arguments)
    add_out(arguments, "FOLDER", "a model folder, a path or URI; without --name only that")
    add_charset(arguments, " in the file's order, or @FILE that holds them")
    arguments.add_argument("--branch", choices=BRANCHES, help="which network of a file that holds two, as those of CCR and SemiMTR may (default: online)")
    arguments.add_argument("--option", action="append", default=[], metavar="KEY=VALUE",
                           help="an option of the recognizer that the file's shapes do not tell, such as width=128; repeat for more")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray import-weights`."""
    options = parser().parse_args(argv)
    if options.name is None and options.out is None:
        raise BadInput("expected --name NAME, to register the model, or --out FOLDER, to write it, or both, found neither: add one")
    if options.name is not None:
        versions.check_name(options.name)
    charset, overrides = charset_of(options.charset), options_of(options.option)
    out = None if options.out is None else _free(options.out)
    file = storage.here(options.file, "FILE")
    state = read_tensors(file, options.branch)
    say(f"import-weights: {len(state):,} tensors in {file}")
    imported = import_weights(state, charset, overrides)
    recognizer = imported.recognizer
    origin = {"imported_from": file.name, "imported_sha256": sha256(file), "imported_layout": imported.source}
    print(_summary(recognizer, imported.source))
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_recognizer(out or Path(temporary) / "model", recognizer, origin)
        if out:
            print(f"made {out}; measure it: textray evaluate {out} --data NAME=PATH")
        if options.name:
            uri = register(folder, options.name, origin)
            print(f"made {uri} in {shown_uri()}; measure it: textray evaluate {uri} --data NAME=PATH")
    return 0


def _summary(recognizer: Recognizer, source: str) -> str:
    characters = recognizer.charset.characters
    shown = characters if len(characters) <= 100 else f"{characters[:100]}…"
    parameters = sum(parameter.numel() for parameter in recognizer.parameters())
    settings = "".join(f", {key} {value}" for key, value in recognizer.overrides.items())
    return (f"{recognizer.name}, published by {source}: {parameters:,} parameters, images of {recognizer.height} x {recognizer.width}"
            f"{settings}; {len(characters)} characters: {shown}")


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("import-weights"))
