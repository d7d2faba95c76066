"""Strings <-> token ids, for CTC and for autoregressive decoders (the four-stage benchmark's token tables)."""

import string
from dataclasses import dataclass
from functools import cached_property

_NAMED = {
    "36": string.digits + string.ascii_lowercase,
    "62": string.digits + string.ascii_lowercase + string.ascii_uppercase,
    "94": string.digits + string.ascii_lowercase + string.ascii_uppercase + string.punctuation,
}


@dataclass(frozen=True)
class Charset:
    """The characters that a recognizer can write, in the order of their ids. A character is one Unicode code point."""

    characters: str

    def __post_init__(self) -> None:
        repeated = sorted({c for c in self.characters if self.characters.count(c) > 1})
        if not self.characters:
            raise ValueError("a charset needs at least one character, found an empty string: "
                             "name 36, 62 or 94, or list the characters")
        if repeated:
            raise ValueError(f"a charset holds each character once, found {repeated} more than once: "
                             "remove the repeats")

    @classmethod
    def named(cls, name: str) -> "Charset":
        """The charset called 36 (lower-case alphanumerics), 62 (mixed case) or 94 (and the ASCII punctuation).

        Any other string is taken as the characters themselves, in that order. ValueError if one of them repeats.
        """
        return cls(_NAMED.get(name, name))

    @cached_property
    def index(self) -> dict[str, int]:
        """The position of each character, from 0."""
        return {character: position for position, character in enumerate(self.characters)}

    @cached_property
    def has_capitals(self) -> bool:
        """Whether any of the characters is a capital letter, of any script."""
        return any(character != character.lower() for character in self.characters)

    def __len__(self) -> int:
        return len(self.characters)

    def normalise(self, text: str) -> str:
        """The text as this charset spells it: lower-cased when the charset has no capital letters."""
        return text if self.has_capitals else text.lower()

    def outside(self, text: str) -> str:
        """The characters of the normalised text that this charset lacks, each once, in their order in the text."""
        return "".join(dict.fromkeys(c for c in self.normalise(text) if c not in self.index))

    def positions(self, text: str, max_length: int) -> list[int]:
        """The position of every character of the normalised text.

        ValueError if the text is longer than `max_length` characters or holds a character that the charset lacks.
        """
        text = self.normalise(text)
        if len(text) > max_length:
            raise ValueError(f"expected a text of at most {max_length} characters, found {len(text)} in {text!r}: "
                             "filter long texts out, or build the recognizer with a larger max_length")
        if outside := self.outside(text):
            raise ValueError(f"expected characters of the {len(self)}-character charset, found {outside!r} in "
                             f"{text!r}: filter such texts out, or use a charset that has them")
        return [self.index[character] for character in text]


@dataclass(frozen=True)
class Tokens:
    """The ids that a decoder writes: some of its own, then the charset's characters from `first_character` on."""

    charset: Charset
    first_character: int

    @property
    def classes(self) -> int:
        """How many ids there are, the decoder's own included."""
        return self.first_character + len(self.charset)

    def ids(self, text: str, max_length: int) -> list[int]:
        """The ids of the text's characters alone. ValueError as `Charset.positions` raises it."""
        return [self.first_character + position for position in self.charset.positions(text, max_length)]

    def character(self, token: int) -> str:
        """The character of an id; the empty string for one of the decoder's own."""
        return self.charset.characters[token - self.first_character] if token >= self.first_character else ""


@dataclass(frozen=True)
class CTCTokens(Tokens):
    """Ids for connectionist temporal classification: the blank, which also pads targets."""

    first_character: int = 1
    blank: int = 0


@dataclass(frozen=True)
class AttentionTokens(Tokens):
    """Ids for an autoregressive decoder: start, which also pads (the loss ignores it), and end."""

    first_character: int = 2
    start: int = 0
    pad: int = 0
    end: int = 1
