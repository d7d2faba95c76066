"""Objectives and recognizers that are not in this repository: of a file of the user's own, or of an installed package.

A recipe names them `my_objective.py:Half`, a file and what to take from it, or by the name of an entry point in the group `textray.objectives` or
`textray.recognizers`. A file is executed once in each process; the driver sends its text to the workers (`remember`), which may be on machines without it.
"""

import importlib.util
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

_TEXTS: dict[str, str] = {}  # of files that this process or another has read for a run, by the names that recipes give them
_MODULES: dict[str, ModuleType] = {}  # not among sys.modules: what is not found there is pickled by value, so that other processes need no file


def remember(texts: dict[str, str]) -> None:
    """Files by name and text, for a process that may not have them."""
    _TEXTS.update(texts)


@contextmanager
def held(texts: dict[str, str]) -> Iterator[None]:
    """Files by name and text for the time of the block, whatever becomes of the files; then a process reads them anew."""
    before = dict(_TEXTS)
    _TEXTS.update(texts)
    try:
        yield
    finally:
        _TEXTS.clear()
        _TEXTS.update(before)


def texts_of(*names: str, files: Iterable[str] = ()) -> dict[str, str]:
    """The files among what recipes name, and further ones, with their text, for `remember` in another process."""
    return {file: text(file) for file in (*dict.fromkeys(name.rpartition(":")[0] for name in names if _is_file(name)), *files)}


def own(group: str, name: str) -> Any | None:
    """What `name` stands for; None where it is neither a file's nor an entry point's of the group "objectives" or "recognizers".

    Raises:
        ValueError: a file that is not there, cannot be executed, or lacks what is named.
    """
    if _is_file(name):
        return _from_file(name)
    found = [point for point in entry_points(group=f"textray.{group}") if point.name == name]
    return found[0].load() if found else None


def names_of(group: str) -> list[str]:
    """The entry points of the group "objectives" or "recognizers"."""
    return [point.name for point in entry_points(group=f"textray.{group}")]


def _is_file(name: str) -> bool:
    return name.rpartition(":")[0].endswith(".py")


def text(file: str) -> str:
    """Of a file that a recipe names. ValueError for one that cannot be read."""
    if file in _TEXTS:
        return _TEXTS[file]
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(f"expected a file {file}, found none that can be read ({problem}); give its path from where the command runs") from None


def _from_file(name: str) -> Any:
    file, _, wanted = name.rpartition(":")
    content = text(file)
    module_name = f"textray_own_{zlib.crc32(f'{file}{content}'.encode()):08x}"  # another text is another module
    if module_name not in _MODULES:
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(module_name, loader=None))
        module.__file__ = file
        sys.modules[module_name] = module  # dataclasses look their module up while it is executed
        try:
            exec(compile(content, file, "exec"), module.__dict__)  # noqa: S102
        except SyntaxError as problem:
            raise ValueError(f"{file}: expected Python, found a mistake in line {problem.lineno}: {problem.msg}") from None
        finally:
            del sys.modules[module_name]
        _MODULES[module_name] = module
    module = _MODULES[module_name]
    if not hasattr(module, wanted):
        there = [each for each, value in vars(module).items() if getattr(value, "__module__", None) == module_name]
        raise ValueError(f"{file}: expected {wanted or 'a name behind the colon'}, found {', '.join(there) or 'nothing'} there")
    return getattr(module, wanted)
