"""The commands on the pages of docs/: each parsed by its command's own parser, and the marked ones run, with what they print put below them.

A fenced block whose output is cheap has `<!-- run -->` on the line before it. All such blocks of a page run one after the other in one folder, in which
lie `crops/`, forty drawn codes as JPEGs, `few.csv`, labels for thirty of them, and `corrected.csv`, a label to put right. Any other block that shows what
a command printed says who printed it: `<!-- shown: WHY, OR THE SCRIPT THAT PRINTS IT -->`. `python benchmarks/docs.py` writes the former anew, and those
marked `<!-- run by hand -->`, which take too long for the tests.
"""

import argparse
import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from pipelines.cli import COMMANDS, main
from pipelines.errors import BadInput
from pipelines.training.packaged import packaged
from pipelines.training.recipe import overridden, parse_recipe

FENCE = re.compile(r"(?:^<!-- (?P<mark>run|run by hand|shown: [^\n]+) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    (?P<body>\$? ?textray .*(?:\n        .+)*)$", re.MULTILINE)
TRAINED = ("pretrain", "finetune", "self-train", "tune")  # commands whose words behind the recipe change fields of it
SHOWS = ("head", "cat", "ls")  # commands of the shell that a block may run
PATTERN = "[A-Z]{1,2}[0-9]{2,4}"


@dataclass(frozen=True)
class Command:
    """A line of a page, or of the head of a recipe, that somebody will paste."""

    page: str
    line: str
    words: tuple[str, ...]  # behind `textray`


def commands(text: str, page: str) -> Iterator[Command]:
    """All `textray …` lines of the blocks of a page."""
    for block in [*FENCE.finditer(text), *INDENTED.finditer(text)]:
        if not re.search(r"^\| ", block["body"], re.MULTILINE):  # a table that a benchmark printed
            yield from lines_of(block["body"], page)


def lines_of(body: str, page: str) -> Iterator[Command]:
    """The commands among the lines of a block; a line that ends in a backslash goes on in the next one."""
    for line in re.sub(r"\\\n\s*(?:#\s+)?", "", body).splitlines():
        bare = first_of(line.strip().removeprefix("$ ").removeprefix("#").strip())
        if bare.startswith("textray "):
            yield Command(page, line.strip(), tuple(word.replace("$s", "0") for word in shlex.split(bare)[1:]))


def first_of(line: str) -> str:
    """A line of the shell up to its first pipe, redirection, further command or comment outside of quotes; and up to a remark, which stands apart by three blanks."""
    quote = ""
    for place, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "|<>;&" or (character == "#" and line[place - 1] == " ") or (line[place:place + 3] == "   " and place > len("textray self-train ")):
            return line[:place]
    return line


class _Parsed(Exception):
    """Carries what a parser made of its words out of the command, before that does anything."""


def parsed(words: tuple[str, ...]) -> argparse.Namespace | None:
    """What the command's own parser makes of the words; None if the command answers at once (help). Raises BadInput as the command does."""
    def stopping(parse: Callable) -> Callable:
        def parse_and_stop(parser: argparse.ArgumentParser, argv: Any = None, namespace: Any = None) -> None:
            raise _Parsed(parse(parser, argv, namespace))
        return parse_and_stop

    stop = {name: stopping(getattr(argparse.ArgumentParser, name)) for name in ("parse_args", "parse_intermixed_args")}
    if words[0] not in COMMANDS:
        if words[0] in ("help", "--help", "--version"):
            return None
        raise BadInput(f"there is no command {words[0]}")
    with mock.patch.multiple(argparse.ArgumentParser, **stop), contextlib.redirect_stdout(io.StringIO()):
        try:
            importlib.import_module(COMMANDS[words[0]][0]).main(list(words[1:]))
        except _Parsed as found:
            return found.args[0]
        except SystemExit:  # --help
            return None
    raise BadInput(f"{words[0]} parses no arguments")


def check(command: Command, own: dict[str, dict] | None = None) -> None:
    """Raise BadInput for a command that its parser, or the recipe that it changes, would refuse. `own` are recipes that the page shows, by file name."""
    options = parsed(command.words)
    if options is None or command.words[0] not in TRAINED:
        return
    recipes = {each.name: yaml.safe_load(each.text) for each in packaged()} | {name.removesuffix(".yaml"): tree for name, tree in (own or {}).items()}
    name = Path(options.recipe).name.removesuffix(".yaml")
    if options.recipe.startswith("recipes/") and name not in recipes:
        raise BadInput(f"there is no recipe {options.recipe}")
    base = "ccr_crnn_tiny" if command.words[0] in ("finetune", "tune") else "seqclr_crnn_tiny" if command.words[0] == "pretrain" else "supervised_crnn_tiny"
    tree = overridden(recipes.get(name, recipes[base]), options.overrides)
    if not any(str(section.get("name", "")).partition(":")[0].endswith(".py") for section in (tree["objective"], tree["recognizer"])):  # one's own lies elsewhere
        parse_recipe(tree)


def recipes_of(text: str) -> dict[str, dict]:
    """The recipes that a page shows in full, by the name in their first line (`# sure.yaml`) or their own name."""
    found = {}
    for block in FENCE.finditer(text):
        if block["kind"] == "yaml":
            tree = yaml.safe_load(block["body"])
            if isinstance(tree, dict) and {"name", "recognizer", "objective"} <= tree.keys():
                first = re.match(r"# (\S+\.yaml)$", block["body"].partition("\n")[0])
                found[first[1] if first else f"{tree['name']}.yaml"] = tree
    return found


def unmarked(text: str) -> list[str]:
    """The blocks that show a command and what it printed, without a mark that says who printed it."""
    return [block["body"] for block in FENCE.finditer(text) if block["mark"] is None and re.search(r"^\$ ", block["body"], re.MULTILINE)
            and not all(line.startswith(("$ ", "  ")) or not line for line in block["body"].splitlines())]


def run_blocks(text: str, by_hand: bool = False) -> str:
    """A page whose marked blocks hold what their commands print now; those of `run by hand` only if asked for."""
    wanted = ("run", "run by hand") if by_hand else ("run",)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), mock.patch.dict(os.environ, {"TEXTRAY_CACHE": f"{folder}/cache", "COLUMNS": "80"}):
        os.environ.pop("RAY_ADDRESS", None)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress
            material(Path(folder))
        return FENCE.sub(lambda block: block[0] if block["mark"] not in wanted else f"<!-- {block['mark']} -->\n```{block['kind']}\n{_run(block['body'], folder)}```", text)


def material(folder: Path) -> None:
    """`crops/` and `few.csv`: forty codes, of which thirty are labeled, one of them wrongly; and `corrected.csv`, which says that one right."""
    from pipelines.synthesis.corpus import Settings, render_corpus
    rows = [row for table in render_corpus("drawn", 40, Settings(style="street", charset="0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", pattern=PATTERN)).rows_iter()
            for row in table.to_pylist()]
    (folder / "crops").mkdir()
    for number, row in enumerate(rows):
        (folder / "crops" / f"{number:04}.jpg").write_bytes(row["image"])
    labels = "".join(f"{number:04}.jpg,{row['text'][:-1] if number == 3 else row['text']}\n" for number, row in enumerate(rows[:30]))
    (folder / "few.csv").write_text(f"file_name,text\n{labels}", encoding="utf-8")
    (folder / "corrected.csv").write_text(f"key,correct\ncodes/0003.jpg,{rows[3]['text']}\n", encoding="utf-8")


def _run(body: str, folder: str) -> str:
    """A block's commands, each with what it prints below it, and a blank line between them."""
    lines = re.sub(r"\\\n\s*", "", body).splitlines()
    return "\n".join(f"{line}\n{printed(line.removeprefix('$ '), folder)}" for line in lines if line.startswith("$ "))


def printed(line: str, folder: str) -> str:
    """What a command prints: its output, and what it says of itself on stderr; without times, and without the folder that it ran in."""
    words, out, err = shlex.split(first_of(line)), io.StringIO(), io.StringIO()
    if words[0] == "textray":
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
            main(words[1:])
    elif words[0] in SHOWS:
        out.write(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    else:
        raise BadInput(f"expected textray, {', '.join(SHOWS)} in a block that is run, found {line}")
    told = "".join(f"{each}\n" for each in err.getvalue().splitlines() if each.startswith("textray: "))
    text = (out.getvalue() + told).replace(f"{folder}/", "")
    text = re.sub(r"\bin \d+:\d\d\b", "in 0:00", text)
    return re.sub(r"(manifest sha256) [0-9a-f]+…", r"\1 …", text)
