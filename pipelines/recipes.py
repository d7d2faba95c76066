"""`textray recipes`: the recipes that come with textray, listed, shown, copied; and the schema by which an editor completes one's own."""

import argparse
import json
import textwrap
from pathlib import Path

from pipelines.arguments import Parser, add_json
from pipelines.errors import BadInput
from pipelines.training.packaged import Packaged, packaged, recipe_named

DESCRIPTION = """List the recipes that come with textray, or show one, or copy one to go on from.
A recipe can be named wherever a recipe file can: `textray finetune ccr_crnn_tiny data.labeled.corpus=...`."""
EXAMPLE = """examples:
  textray recipes
  textray recipes ccr_trba
  textray recipes ccr_trba --copy mine.yaml
  textray recipes --schema > recipe.schema.json      # then, as a recipe's first line: # yaml-language-server: $schema=recipe.schema.json"""


def parser() -> argparse.ArgumentParser:
    """The command line of `textray recipes`."""
    arguments = Parser(prog="textray recipes", description=DESCRIPTION, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("recipe", nargs="?", metavar="NAME", help="show this one (default: list all)")
    arguments.add_argument("--copy", metavar="FILE", help="write it to a new file instead, to be changed")
    add_json(arguments, "the list, or the recipe")
    arguments.add_argument("--schema", action="store_true", help="the JSON schema of recipes, with every objective's fields and defaults")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray recipes`."""
    options = parser().parse_args(argv)
    if options.schema:
        from pipelines.training.schema import schema
        print(json.dumps(schema(), indent=1, ensure_ascii=False))
    elif options.copy:
        _copy(options)
    elif options.recipe and options.json:
        print(json.dumps(recipe_named(options.recipe).tree, indent=1, ensure_ascii=False))
    elif options.recipe:
        print(recipe_named(options.recipe).text, end="")
    else:
        _list(packaged(), options.json)
    return 0


def _list(recipes: list[Packaged], as_json: bool) -> None:
    if as_json:
        print(json.dumps([{"name": each.name, "kind": each.kind, "about": each.about, "file": str(each.file)} for each in recipes], indent=1, ensure_ascii=False))
        return
    widths = [max(len(getattr(each, name)) for each in recipes) for name in ("name", "kind")]
    for each in recipes:
        print(f"{each.name:<{widths[0]}}  {each.kind:<{widths[1]}}  {textwrap.shorten(each.about, 110, placeholder=' …')}")


def _copy(options: argparse.Namespace) -> None:
    if options.recipe is None:
        raise BadInput("--copy: expected the name of a recipe before it, found none: `textray recipes` lists them")
    found, target = recipe_named(options.recipe), Path(options.copy)
    if target.is_dir():
        target /= found.file.name
    try:
        with open(target, "x", encoding="utf-8") as file:
            file.write(found.text)
    except FileExistsError:
        raise BadInput(f"--copy {target}: expected a new file, found one: choose another name") from None
    except FileNotFoundError:
        raise BadInput(f"--copy {target}: expected a folder that is there, found none: make it, or choose another place") from None
    print(f"{target}: a copy of {found.name}. Train by it: textray finetune {target}")


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("recipes"))
