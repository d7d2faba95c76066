"""One meaning for each name of an option through all commands, and one name for each meaning."""

import argparse
import ast
import importlib
import os
from collections import defaultdict
from pathlib import Path

import pytest

from pipelines.arguments import Parser
from pipelines.cli import COMMANDS, run

ROOT = Path(__file__).parents[2]


class Caught(Exception):
    """A parser, as a command has made it."""


def actions_of(name: str, monkeypatch) -> list[argparse.Action]:
    """All that the parser of a command knows."""
    def caught(parser, argv=None):
        raise Caught(parser)
    for asked in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(Parser, asked, caught)
    with pytest.raises(Caught) as found:
        importlib.import_module(COMMANDS[name][0]).main([])
    return found.value.args[0]._actions


def shown(actions: list[argparse.Action]) -> list[argparse.Action]:
    """The options that `--help` shows."""
    return [action for action in actions if action.option_strings and action.help != argparse.SUPPRESS]


def defined_in(folders: tuple[str, ...] = ("pipelines", "tuning")) -> dict[str, list[str]]:
    """Where each option is defined: calls of add_argument with its name."""
    found = defaultdict(list)
    for file in (file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                for name in (each.value for each in node.args if isinstance(each, ast.Constant) and str(each.value).startswith("-")):
                    found[name].append(f"{file.relative_to(ROOT)}:{node.lineno}")
    return dict(found)


def test_a_name_is_defined_once():
    """A command that wants a name for something else would have to define it again."""
    defined = defined_in()
    assert {name: places for name, places in defined.items() if len(places) > 1} == {}
    assert {"--out", "--data", "--gate", "--quiet", "-n"} <= defined.keys()


def test_an_option_of_several_commands_takes_the_same_and_says_the_same(monkeypatch):
    by_name = defaultdict(dict)
    for name in COMMANDS:
        for action in shown(actions_of(name, monkeypatch)):
            for option in action.option_strings:
                by_name[option][name] = action
    assert {"--out", "--json", "--overwrite", "--data", "--charset"} <= {option for option, actions in by_name.items() if len(actions) > 2}
    assert all(action.help for actions in by_name.values() for action in actions.values())
    for option, actions in by_name.items():
        kinds = {name: (type(action).__name__, action.nargs, action.type and action.type.__name__) for name, action in actions.items()}
        assert len(set(kinds.values())) == 1, (option, kinds)
        begins = os.path.commonprefix([action.help for action in actions.values()])
        assert len(begins) >= 12, f"{option} says {begins!r} in all of {', '.join(actions)}, and then something else in each"


@pytest.mark.parametrize("command, now", [
    ("register run --name words --gate words=corpora/words", "--data NAME=PATH"), ("register run --gate=words=x", "--data NAME=PATH"),
    ("export-model run --check words", "--data NAME=PATH"), ("models --name trba", "NAME, such as `textray models trba`"),
    ("demo --folder x", "--out FOLDER"), ("demo --data x", "--benchmarks FOLDER"), ("verify x --images", "--decode"),
    ("split x --duplicates exact", "--together near, exact or none"), ("ingest x --max-text-length 3", "--max-length N"),
    ("probe run --labels words --data words", "--labeled CORPUS"), ("probe run --name x", "--prefix NAME")])
def test_what_an_option_was_called_before_is_answered_with_its_name(command, now, capsys):
    name, *argv = command.split()
    assert run(name, argv) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"expected {now}, as `textray {name}` calls it now, found the name of an earlier version" in line


def test_old_names_are_offered_nowhere(monkeypatch):
    from pipelines.completion import options_of
    for name in COMMANDS:
        old = {option for action in actions_of(name, monkeypatch) if action.help == argparse.SUPPRESS for option in action.option_strings}
        assert not old & set(options_of(COMMANDS[name][0])), name


@pytest.mark.parametrize("command, meant", [("export x --format lmdb --out y --source A", "--sources"), ("probe r --labeled x --data y --seed 3", "--seeds"),
                                            ("split x --validaton 0.1", "--validation")])
def test_a_name_is_written_out_and_a_slip_is_answered_with_what_was_meant(command, meant, capsys):
    """An abbreviation would be a second name, which may mean something else in another command: --seed is no --seeds."""
    name, *argv = command.split()
    assert run(name, argv) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err
