"""Strings that a pattern describes, such as the codes on labels and number plates: a regular expression, drawn from instead of searched for."""

import re
from random import Random
from re import _constants as kinds
from re import _parser as parser
from typing import Any

from pipelines.errors import BadInput

STRINGS = 50_000  # drawn once; a pattern that has fewer gives all that come
CLASSES = {kinds.CATEGORY_DIGIT: "0123456789", kinds.CATEGORY_WORD: "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"}
LONGEST = 100  # repeats
HELP = "characters, sets such as [A-Z0-9] or \\d, alternatives (A|B), and repeats with an end such as {2,4} or ?"


def strings_of(pattern: str, count: int = STRINGS) -> list[str]:
    """Different strings of a pattern, the same ones each time, in the order in which they were drawn.

    Each alternative, each number of repeats and each character of a set is as likely as the next. Raises BadInput for what is no pattern, or has strings
    without an end.
    """
    try:
        parts = parser.parse(pattern)
    except re.error as problem:
        raise BadInput(f"--pattern {pattern!r}: expected a regular expression, found {problem}: write {HELP}") from None
    random, found = Random(0), {}
    for _ in range(2 * count):
        found[_drawn(parts, random, pattern)] = None
        if len(found) == count:
            break
    found.pop("", None)
    return list(found)


def _drawn(parts: Any, random: Random, pattern: str) -> str:
    return "".join(_part(kind, value, random, pattern) for kind, value in parts)


def _part(kind: Any, value: Any, random: Random, pattern: str) -> str:
    if kind is kinds.LITERAL:
        return chr(value)
    if kind is kinds.IN:
        return random.choice(_members(value, pattern))
    if kind in (kinds.MAX_REPEAT, kinds.MIN_REPEAT, kinds.POSSESSIVE_REPEAT):
        least, most, inner = value
        if most > LONGEST:
            raise BadInput(f"--pattern {pattern!r}: expected repeats with an end of at most {LONGEST}, found * or + or {{{least},}}: write such as {{1,5}}")
        return "".join(_drawn(inner, random, pattern) for _ in range(random.randint(least, most)))
    if kind is kinds.SUBPATTERN:
        return _drawn(value[-1], random, pattern)
    if kind is kinds.BRANCH:
        return _drawn(random.choice(value[1]), random, pattern)
    if kind is kinds.AT:  # ^ and $ mean nothing here
        return ""
    raise _unknown(kind, pattern)


def _members(value: Any, pattern: str) -> str:
    """The characters of a set."""
    members = ""
    for kind, inner in value:
        if kind is kinds.LITERAL:
            members += chr(inner)
        elif kind is kinds.RANGE:
            members += "".join(map(chr, range(inner[0], inner[1] + 1)))
        elif kind is kinds.CATEGORY and inner in CLASSES:
            members += CLASSES[inner]
        else:
            raise _unknown(kind, pattern)
    return "".join(dict.fromkeys(members))


def _unknown(kind: Any, pattern: str) -> BadInput:
    return BadInput(f"--pattern {pattern!r}: expected {HELP}, found {str(kind).lower().replace('_', ' ')}, of which nothing can be drawn: write what may stand there")
