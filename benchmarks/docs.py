"""Pages of docs/ that are made from the code: the recipe reference from the schema, the API from the docstrings, and what marked commands print (`blocks.py`).

    python benchmarks/docs.py            # writes docs/recipes.md, docs/api.md and the blocks that are marked <!-- run -->
    python benchmarks/docs.py --check    # says which of them are not what the code says

The tests hold that they are up to date.
"""

import argparse
import inspect
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import textray
from models.objectives import OBJECTIVES
from models.recognizers import RECOGNIZERS, SOURCES
from pipelines.training.packaged import packaged
from pipelines.training.recipe import DataRecipe, OptimizerRecipe, Recipe, RecognizerRecipe, StreamRecipe, TrainingRecipe, ValidationRecipe, options_of

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.blocks import run_blocks  # noqa: E402

DOCS = Path(__file__).parents[1] / "docs"
SECTIONS = {"": Recipe, "recognizer.": RecognizerRecipe, "data.": DataRecipe, "data.labeled. and data.unlabeled.": StreamRecipe, "data.validation.": ValidationRecipe,
            "optimizer.": OptimizerRecipe, "training.": TrainingRecipe}


def recipes() -> str:
    """The recipe reference."""
    parts = ["# Recipes: every field\n\nMade from the code by `python benchmarks/docs.py`. A recipe is YAML; `key=value` on the command line changes a field by its dotted "
             "path. Editors complete recipes by `textray recipes --schema`.",
             "## The recipes that come with it\n\n`textray recipes` lists them, `textray recipes NAME` shows one with its command, its data, its cost and what it is expected to read, "
             "`--copy FILE` makes one your own. Names that end in `_8gpu` and `_32gpu` are for one node of 8 GPUs and for 32.\n\n" + _packaged()]
    for prefix, section in SECTIONS.items():
        parts.append(f"## {'`' + prefix + '`' if prefix else 'A recipe'}\n\n{_first(section.__doc__)}\n\n" + _table(section.model_json_schema(), section))
    parts.append("## `objective:`\n\n`name`, and the fields of that objective. `FILE.py:CLASS` is one of your own ([own](own.md)).")
    for name, kind in OBJECTIVES.items():
        about = _first(inspect.getdoc(kind) or "")
        options = options_of(kind)
        parts.append(f"### `{name}`\n\n{about}\n\n" + (_table(options.model_json_schema(), options) if options.model_fields else "No fields."))
    rows = "\n".join(f"| `{name}` | {SOURCES[name]} | {', '.join(f'`{field}`' for field in inspect.signature(builder).parameters if field != 'charset') or '–'} |"
                     for name, builder in RECOGNIZERS.items())
    parts.append(f"## `recognizer.name` and its `options`\n\nBeside these every recognizer has `aspect: stretch | pad | keep`.\n\n| name | source | options |\n|---|---|---|\n{rows}")
    return "\n\n".join(parts) + "\n"


def _packaged() -> str:
    """The recipes as a table: names as they are asked for, and the first sentence of each head."""
    rows = "\n".join(f"| [`{each.name}`](../recipes/{each.file.name}) | {each.kind} | {each.about.replace('|', chr(92) + '|')} |" for each in packaged())
    return f"| name | objective and recognizer | |\n|---|---|---|\n{rows}"


def _table(schema: dict[str, Any], section: Any) -> str:
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = section.model_fields[name].default
        required = section.model_fields[name].is_required()
        shown = "required" if required else f"`{_plain(default)}`"
        rows.append(f"| `{name}` | {_kind(field, schema)} | {shown} | {field.get('description', '').replace('|', chr(92) + '|')} |")
    return "| field | values | default | |\n|---|---|---|---|\n" + "\n".join(rows)


def _plain(value: Any) -> str:
    if hasattr(value, "model_dump"):
        return "its own defaults"
    return {True: "true", False: "false", None: "none"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)


def _kind(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """The values of a field, as a reader of YAML calls them."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_kind(each, schema) for each in field["anyOf"]))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{each}`" for each in field.get("enum", [field.get("const")]))
    if "$ref" in field:
        return "a section"
    limits = [f"{sign} {field[name]:g}" for name, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤")) if name in field]
    kind = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "null": "none", "array": "list", "object": "keys and values"}.get(
        field.get("type", ""), "any")
    return " ".join([kind, *limits])


def api() -> str:
    """The page of the package `textray`."""
    parts = ["# The package `textray`\n\nMade from the docstrings by `python benchmarks/docs.py`; [Python](python.md) shows it at work.", _code(inspect.getdoc(textray) or "")]
    for name in sorted(textray.__all__):
        member = getattr(textray, name)
        if name in ("finetune", "pretrain"):
            parts.append(f"## `{name}`\n\nAnother name of `train`.")
        elif inspect.isclass(member):
            methods = [f"### `{name}.{each}{_signature(value)}`\n\n{inspect.getdoc(value)}" if inspect.isfunction(value) else f"### `{name}.{each}`\n\n{inspect.getdoc(value)}"
                       for each, value in vars(member).items() if not each.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))]
            parts += [f"## `{name}`\n\n{inspect.getdoc(member)}", *methods]
        else:
            parts.append(f"## `{name}`\n\n```python\n{name}{_signature(member)}\n```\n\n{inspect.getdoc(member)}")
    return "\n\n".join(parts) + "\n"


def _signature(function: Any) -> str:
    return str(inspect.signature(function)).replace("'", "")


def _code(text: str) -> str:
    """A docstring whose indented lines are code."""
    lines, inside = [], False
    for line in text.splitlines():
        indented = line.startswith("    ") or (inside and not line)
        if indented != inside:
            lines.append("```python" if indented else "```\n")
            inside = indented
        lines.append(line.removeprefix("    ") if indented else line)
    return "\n".join([*lines, *(["```"] if inside else [])])


def _first(text: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def ran(name: str, by_hand: bool = False) -> str:
    """A page whose marked blocks hold what their commands print now."""
    return run_blocks((DOCS / name).read_text(encoding="utf-8"), by_hand)


RUN = [page.name for page in sorted(DOCS.glob("*.md")) if re.search(r"^<!-- run( by hand)? -->\n```", page.read_text(encoding="utf-8"), re.MULTILINE)]
PAGES = {"recipes.md": recipes, "api.md": api, **{name: partial(ran, name) for name in RUN}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog="example: python benchmarks/docs.py --check")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    check = parser.parse_args().check
    made = {name: ran(name, by_hand=True) if name in RUN else make() for name, make in PAGES.items()}
    old = [name for name, text in made.items() if not (DOCS / name).exists() or (DOCS / name).read_text(encoding="utf-8") != text]
    for name in old:
        if not check:
            (DOCS / name).write_text(made[name], encoding="utf-8")
        print(f"docs/{name}: {'out of date, run python benchmarks/docs.py' if check else 'written'}", file=sys.stderr)
    return int(check and bool(old))


if __name__ == "__main__":
    raise SystemExit(main())
