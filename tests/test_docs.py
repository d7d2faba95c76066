"""The pages of docs/ hold what they say: what is made from the code is what the code says, commands are real, links lead somewhere, numbers stand where they are said to."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from benchmarks import blocks
from benchmarks.docs import DOCS, PAGES
from pipelines.cli import COMMANDS
from pipelines.errors import BadInput
from pipelines.training.packaged import packaged

ROOT = DOCS.parent
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]}
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_is_made_from_the_code_is_up_to_date(page):
    assert TEXTS[page] == PAGES[page](), "run python benchmarks/docs.py"


def test_every_page_can_be_reached_from_the_readme():
    """Directly or over other pages."""
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in seen:
            seen.add(page)
            waiting += [(page.parent / link).resolve() for link in re.findall(r"\]\(([^)#:]+\.md)", page.read_text(encoding="utf-8"))]
    assert {page.name for page in DOCS.glob("*.md")} <= {page.name for page in seen}
    assert all(page.is_file() for page in seen)


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_files_and_headings(page):
    folder = ROOT if page == "README.md" else DOCS
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(TEXTS[page])):
        place, _, anchor = link.partition("#")
        if "://" not in link:
            assert not place or (folder / place).exists(), link
            assert not anchor or anchor in _sections(Path(place).name or page), link


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_of_a_page_is_one_that_its_parser_takes(page):
    """Without running it: options exist, required ones are there, and what is changed in a recipe is a field of it."""
    assert _refused(blocks.commands(TEXTS[page], page), blocks.recipes_of(TEXTS[page])) == []


def test_every_command_in_the_head_of_a_recipe_is_taken():
    commands = [command for recipe in packaged() for command in blocks.lines_of(recipe.head, recipe.name)]
    assert len(commands) >= len(packaged()) and _refused(commands, {}) == []  # each recipe says at least how it is run


def test_the_examples_in_the_help_of_every_command_are_taken(capsys):
    found = []
    for name, (module, _) in COMMANDS.items():
        with pytest.raises(SystemExit):
            importlib.import_module(module).main(["--help"])
        _, _, examples = capsys.readouterr().out.rpartition("\nexample")
        commands = list(blocks.lines_of(re.sub(r"(?m)^s?:[ \t]*", "", examples), f"textray {name} --help"))
        assert commands or name == "completion", f"textray {name} --help has no example"
        found += commands
    assert _refused(found, {}) == []


def _refused(commands, recipes):
    """The commands that their parsers do not take, with the reason."""
    refused = []
    for command in commands:
        try:
            blocks.check(command, recipes)
        except BadInput as problem:
            refused.append(f"{command.page}: {command.line}\n    {problem}")
    return refused


def test_what_a_parser_or_a_recipe_would_refuse_is_found():
    for line, sentence in (("textray evaluate my-run", "the following arguments are required: --data"), ("textray trian x", "there is no command trian"),
                           ("textray split corpora/x --validaton 0.1", "unrecognized arguments: --validaton"),
                           ("textray finetune ccr_crnn_tiny training.step=3", "there is no key 'training.step'"),
                           ("textray finetune ccr_crnn_tiny 'data.labeled={corpus: x, batchsize: 3}'", "there is no key 'data.labeled.batchsize'"),
                           ("textray pretrain recipes/ccr_crn.yaml", "there is no recipe recipes/ccr_crn.yaml")):
        [command] = blocks.commands(f"```\n{line} | head -1     # as\n```\n", "page")
        with pytest.raises(BadInput, match=re.escape(sentence)):
            blocks.check(command)
    continued, = blocks.commands("```\n$ textray finetune ccr_crnn_tiny \\\n    seed=$s; done\n```\n", "page")
    assert continued.words == ("finetune", "ccr_crnn_tiny", "seed=0")


@pytest.mark.parametrize("page", TEXTS)
def test_a_block_that_shows_what_a_command_printed_says_who_printed_it(page):
    assert not blocks.unmarked(TEXTS[page]), "mark it: docs/contributing.md, Pages"


def test_a_marked_block_holds_what_its_commands_print():
    page = blocks.run_blocks("<!-- run -->\n```\n$ textray relabel none corrected.csv --out new\nold\n$ head -1 few.csv\n```\n\n```\n$ textray doctor\n```\n")
    assert page == ("<!-- run -->\n```\n$ textray relabel none corrected.csv --out new\ntextray: error: none: expected a corpus (a folder with corpus.json), found no such folder: "
                    "make one with `textray ingest SOURCE... --out CORPUS`\n\n$ head -1 few.csv\nfile_name,text\n```\n\n```\n$ textray doctor\n```\n")


def test_numbers_that_link_to_the_results_stand_there():
    """`[+6.12 ± 0.65](results.md#section)`: each number is found in that section."""
    linked = re.findall(r"\[([^]]*\d[^]]*)\]\(results\.md#([^)]+)\)", TEXTS["choosing.md"])
    assert len(linked) > 50
    for said, anchor in linked:
        section = set(NUMBER.findall(_sections("results.md")[anchor].replace("(", " ").replace("→", " ")))
        assert {number for number in NUMBER.findall(said)} <= section, f"[{said}] is not in results.md#{anchor}"


def test_quoted_sentences_are_those_that_the_code_says():
    """A line `> sentence`, in which … stands for what differs from time to time: its other parts are found together in one file of the sources."""
    quoted = re.findall(r"^> (.+)$", TEXTS["troubleshooting.md"], re.MULTILINE)
    assert len(quoted) > 60
    unsaid = [sentence for sentence in quoted if not any(all(part in said for part in _parts(sentence)) for said in _said().values())]
    assert not unsaid, "\n".join(unsaid)


def _parts(sentence):
    return [part for part in (part.strip() for part in sentence.split("…")) if len(part) > 2]


@cache
def _said():
    """All texts of each source file; those that are put together have … where values stand."""
    files = [file for folder in ("models", "pipelines", "tuning", "textray") for file in (ROOT / folder).rglob("*.py")]
    return {file: "\n".join(_texts(ast.parse(file.read_text(encoding="utf-8")))) for file in files}


def _texts(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _prose(text):
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


@cache
def _sections(page):
    """The sections of a page by the anchors that GitHub gives their headings, each with its text up to the next heading of its rank."""
    text = re.sub(r"^```.*?^```$", lambda block: re.sub(r"^#", " #", block[0], flags=re.MULTILINE), TEXTS[page], flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"^(#+) (.+)$", text, flags=re.MULTILINE)[1:]
    ranks, titles, bodies = parts[::3], parts[1::3], parts[2::3]
    found = {}
    for index, (rank, title) in enumerate(zip(ranks, titles)):
        end = next((later for later in range(index + 1, len(ranks)) if len(ranks[later]) <= len(rank)), len(ranks))
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found[anchor] = "".join(bodies[index:end])
    return found
