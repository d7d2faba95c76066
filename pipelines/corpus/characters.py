"""Characters as a reader can see them, grouped by script, and held against the named charsets."""

import unicodedata
from collections import Counter
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from models.charset import Charset

CHARSETS = ("36", "62", "94")
DOTTED_CIRCLE = "\u25cc"  # what a mark stands on when it is shown alone (Unicode standard, section 2.11)
JOINERS = "\u200c\u200d"  # they shape their neighbours, as Persian and Bengali spelling wants

# The first words of the names that Unicode gives to the letters of a script.
SCRIPTS = frozenset("""ARABIC ARMENIAN BENGALI BOPOMOFO CHEROKEE CJK COPTIC CYRILLIC DEVANAGARI ETHIOPIC GEORGIAN GOTHIC GREEK GUJARATI
    GURMUKHI HANGUL HEBREW HIRAGANA IDEOGRAPHIC JAVANESE KANNADA KATAKANA KHMER LAO LATIN MALAYALAM MONGOLIAN MYANMAR NKO OGHAM
    ORIYA RUNIC SINHALA SYRIAC TAMIL TELUGU THAANA THAI TIBETAN TIFINAGH YI""".split())
CATEGORIES = {"L": "Other letters", "M": "Combining marks", "N": "Digits", "P": "Punctuation", "S": "Symbols", "Z": "Spaces",
              "C": "Control and unassigned"}


def script(character: str) -> str:
    """The script of a letter, mark or numeral, by its Unicode name; of everything else the general category in words."""
    category, name = unicodedata.category(character)[0], unicodedata.name(character, "")
    first = name.removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ").replace("-", " ").split(" ")[0]
    if category in "LMN" and first in SCRIPTS:
        return "Han" if first in ("CJK", "IDEOGRAPHIC") else first.title()
    return CATEGORIES[category]


def visible(character: str) -> str:
    """One character, alone, in text: marks on a dotted circle, what has no shape of its own as U+XXXX."""
    if character == " ":
        return "space"
    if unicodedata.category(character)[0] == "M":
        return DOTTED_CIRCLE + character
    return character if character.isprintable() and not character.isspace() else code_point(character)


def code_point(character: str) -> str:
    """U+0041."""
    return f"U+{ord(character):04X}"


@lru_cache(maxsize=None)  # at most every character of Unicode
def outside(charset: str, character: str) -> str:
    """What the charset of that name lacks of a character, as it spells it (36 is lower case); mostly empty."""
    return _charset(charset).outside(character)


@lru_cache(maxsize=None)
def _charset(name: str) -> Charset:
    return Charset.named(name)


def size(charset: str) -> int:
    """How many characters the charset of that name has."""
    return len(_charset(charset))


def count_outside(charset: str, characters: Counter) -> dict[str, int]:
    """The characters that the charset lacks with their counts, the most frequent first."""
    found: Counter = Counter()
    for character, count in characters.items():
        for lacking in outside(charset, character):
            found[lacking] += count
    return in_order(found)


def rows_outside(charset: str, texts: pa.ChunkedArray, characters: Counter) -> int:
    """How many of the texts hold a character that the charset lacks; `characters` are those of all of them."""
    lacking = [character for character in characters if outside(charset, character)]
    if not lacking:
        return 0
    either = "[" + "".join(f"\\x{{{ord(character):X}}}" for character in lacking) + "]"
    return pc.sum(pc.match_substring_regex(texts, either)).as_py()


def in_order(characters: Counter) -> dict[str, int]:
    """Characters with their counts, the most frequent first."""
    return dict(sorted(characters.items(), key=lambda pair: (-pair[1], pair[0])))
