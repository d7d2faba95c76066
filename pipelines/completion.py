"""`textray completion`: a script by which a shell completes the commands of `textray`, their options, and files."""

import argparse
import ast
import importlib.util
from functools import cache
from pathlib import Path

from pipelines import cli
from pipelines.arguments import Parser

BASH = """# textray: completion for bash. Add to ~/.bashrc:  eval "$(textray completion bash)"
_textray() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" options
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands} help" -- "$word"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
        help) COMPREPLY=($(compgen -W "{commands}" -- "$word")); return ;;
{cases}
    esac
    if [[ "$word" == -* ]]; then COMPREPLY=($(compgen -W "$options --help" -- "$word")); else COMPREPLY=($(compgen -f -- "$word")); fi
}}
complete -o filenames -F _textray textray
"""
ZSH = """# textray: completion for zsh. Add to ~/.zshrc:  eval "$(textray completion zsh)"
autoload -U +X bashcompinit && bashcompinit
"""

SHARED = ("pipelines.arguments", "pipelines.reading.options", "pipelines.evaluation.options", "pipelines.training.command")  # define options of several commands


@cache
def _functions(module: str) -> dict[str, ast.FunctionDef]:
    """The functions of a module by name, from its source: importing some would take seconds."""
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
    found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module in SHARED:
            found |= {alias.asname or alias.name: each for alias in node.names if (each := _functions(node.module).get(alias.name)) is not None}
            found |= {name: each for name, each in _functions(node.module).items() if name not in found}
    return found


def options_of(module: str) -> list[str]:
    """The options of a command: those that its `main` and `parser`, and what they call, add."""
    functions, options, waiting, seen = _functions(module), [], ["main", "parser"], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in ast.walk(functions[name]):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called == "add_argument":
                    options += [each.value for each in node.args if isinstance(each, ast.Constant) and str(each.value).startswith("--")]
                waiting.append(called)
    return sorted(dict.fromkeys(options) | {"--quiet": None})


def script(shell: str) -> str:
    """The script for "bash" or "zsh"."""
    cases = "\n".join(f'        {name}) options="{" ".join(options_of(module))}" ;;' for name, (module, _) in cli.COMMANDS.items())
    made = BASH.format(commands=" ".join(cli.COMMANDS), cases=cases)
    return made if shell == "bash" else ZSH + made.partition("\n")[2]


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray completion`."""
    arguments = Parser(prog="textray completion", description="Print a script by which the shell completes the commands of textray, their options, and files.",
                       epilog='example: eval "$(textray completion bash)"', formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shell", choices=("bash", "zsh"))
    print(script(arguments.parse_args(argv).shell), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run("completion"))
