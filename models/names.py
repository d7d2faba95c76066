"""What a recipe can name, read from the sources without running them: a slip is answered at once, and not after PyTorch's import, which takes seconds.

These are names alone; whether a value will do is for the objectives and recognizers themselves to say.
"""

import ast
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@cache
def objectives() -> dict[str, str]:
    """The names of the objectives in this repository, each with that of its class."""
    table = _assigned("objectives/__init__.py", "OBJECTIVES")
    return {key.value: value.id for key, value in zip(table.keys, table.values, strict=True)}


@cache
def recognizers() -> list[str]:
    """The names of the recognizers in this repository."""
    return [key.value for key in _assigned("recognizers.py", "RECOGNIZERS").keys]


@cache
def fields_of(objective: str) -> list[str]:
    """The names of an objective's fields in a recipe: the keyword-only arguments of its class."""
    [arguments] = [part.args for part in _class(objectives()[objective]).body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
    return [argument.arg for argument in arguments.kwonlyargs]


def _class(name: str) -> ast.ClassDef:
    [module] = [line.module for line in _tree("objectives/__init__.py").body if isinstance(line, ast.ImportFrom) and name in {each.name for each in line.names}]
    return next(part for part in _tree(f"objectives/{module.rpartition('.')[2]}.py").body if isinstance(part, ast.ClassDef) and part.name == name)


def _assigned(file: str, name: str) -> ast.Dict:
    """The table that a file gives a name to."""
    for line in _tree(file).body:
        targets = line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return line.value
    raise LookupError(f"{file}: expected a table {name}")


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse((HERE / file).read_text(encoding="utf-8"))
