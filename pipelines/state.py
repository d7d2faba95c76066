"""Small files that say how things stand: read whole, typed and checked, or refused in one sentence.

A killed machine, a full disk or another program leaves such a file empty, half, full of zeros, or with something else in it. Whoever
reads one says what it must hold (a dataclass, a pydantic model, or a type such as dict[str, int]) and gets that or BadInput.
"""

from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from pipelines.errors import BadInput

T = TypeVar("T")
LONGEST_SHOWN = 60  # characters of a value in a sentence
CONTAINERS = {"dict": "keys and values", "list": "a list", "str": "a string", "int": "a number", "float": "a number", "bool": "true or false",
              "NoneType": "nothing"}


def parse_json(data: bytes, kind: type[T], file: str, remedy: str) -> T:
    """What the JSON in a file says, as `kind`; nothing is converted, so that "7" is no number and 7 no string.

    Args:
        data: the content of the file.
        file: its name, for the sentence.
        remedy: what to do about a file that is not what it should be, for the end of the sentence.

    Raises:
        BadInput: the data are empty, no text, no JSON, or of other types.
    """
    text = _text(data, file, "JSON", remedy)
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as problem:
        raise BadInput(f"{file}: {_difference(problem)}: {remedy}") from None


def parse_yaml(data: bytes, file: str, remedy: str) -> dict[str, Any]:
    """The keys and values that the YAML in a file says.

    Raises:
        BadInput: the data are empty, no text, no YAML, or something else than keys and values.
    """
    text = _text(data, file, "YAML", remedy)
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as problem:  # such as a date in the 13th month
        raise BadInput(f"{file}: expected YAML, found text that is not YAML ({_shown(' '.join(str(problem).split()), 200)}): {remedy}") from None
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise BadInput(f"{file}: expected keys and values, found {_what(tree)}: {remedy}")
    return tree


def _text(data: bytes, file: str, form: str, remedy: str) -> str:
    if not data.strip():
        raise BadInput(f"{file}: expected {form}, found an empty file: {remedy}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise BadInput(f"{file}: expected {form}, found bytes that are no text: {remedy}")
    return text


def _difference(problem: ValidationError) -> str:
    """What was expected and what was found, of the first error."""
    first = problem.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "json_invalid":
        return f"expected JSON, found text that is not JSON or ends too early ({first['ctx']['error']})"
    if first["type"] == "missing":
        return f"expected a value for {where}, found none"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"expected only keys that this version knows, found {where}"
    if not where:
        return f"expected keys and values, found {_what(first['input'])}"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"expected {message.removeprefix('a valid ')} as {where}, found {_shown(repr(first['input']), LONGEST_SHOWN)}"


def _what(value: Any) -> str:
    return CONTAINERS.get(type(value).__name__, type(value).__name__)


def _shown(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
