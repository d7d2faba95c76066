"""`textray completion`: what a shell offers is what the commands take."""

import argparse
import importlib
import subprocess

import pytest

from pipelines.cli import COMMANDS, run
from pipelines.completion import options_of, script


@pytest.mark.parametrize("name", [name for name, (module, _) in COMMANDS.items() if hasattr(importlib.import_module(module), "parser")])
def test_the_options_are_those_of_the_command(name):
    module = COMMANDS[name][0]
    offered = [action for action in importlib.import_module(module).parser()._actions if action.help != argparse.SUPPRESS]
    taken = {option for action in offered for option in action.option_strings if option.startswith("--")} - {"--help"}
    assert set(options_of(module)) == taken


def test_commands_that_share_a_parser_have_its_options():
    assert {"--resume", "--dry-run", "--gpu-memory"} <= set(options_of("pipelines.finetune")) and "--trials" in options_of("tuning.sweep")


@pytest.mark.parametrize("line, offered", [("textray fine", ["finetune"]), ("textray evaluate run --be", ["--beam", "--beside"]), ("textray help re", ["recipes", "register", "relabel", "render"]),
                                           ("textray split corpus --val", ["--validation"])])
def test_bash_completes(line, offered):
    words = line.split()
    asked = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _textray; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", script("bash") + asked], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == offered


def test_a_script_for_each_shell(capsys):
    for shell in ("bash", "zsh"):
        assert run("completion", [shell]) == 0
        assert f'eval "$(textray completion {shell})"' in capsys.readouterr().out
    assert run("completion", ["fish"]) == 2
