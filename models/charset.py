"""Strings <-> token ids, for CTC and for autoregressive decoders ."""

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

    def fault(self, text: str, max_length: int, frames: int | None = None) -> str | None:
        """Why a decoder cannot learn to write the text, as a short fixed phrase; None if it can.

        Args:
            max_length: characters that it writes at most.
            frames: of a CTC decoder: how many it has for them.
        """
        text = self.normalise(text)
        if not text:
            return "empty label"
        if len(text) > max_length:
            return f"longer than {max_length} characters"
        if not self.index.keys() >= set(text):
            return "characters outside the charset"
        if frames is not None and frames_needed(text) > frames:
            return f"needs more than its {frames} frames"
        return None

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


def frames_needed(text: str) -> int:
    """Frames in which CTC can write the text at the least: one for each character, and a blank between equal neighbours."""
    return len(text) + sum(one == other for one, other in zip(text, text[1:]))


@dataclass(frozen=True)
class Tokens:
    """The ids that a decoder writes: some of its own, and the charset's characters from `first_character` on.

    behind: ids of its own behind the characters, which are classes too.
    """

    charset: Charset
    first_character: int
    behind: int = 0

    @property
    def classes(self) -> int:
        """How many ids can be written, the decoder's own included: the width of the logits."""
        return self.first_character + len(self.charset) + self.behind

    def ids(self, text: str, max_length: int) -> list[int]:
        """The ids of the text's characters alone. ValueError as `Charset.positions` raises it."""
        return [self.first_character + position for position in self.charset.positions(text, max_length)]

    def is_character(self, tokens):
        """Whether ids (an int, or a tensor of any shape) are characters and not the decoder's own."""
        return (tokens >= self.first_character) & (tokens < self.first_character + len(self.charset))

    def character(self, token: int) -> str:
        """The character of an id; the empty string for one of the decoder's own."""
        return self.charset.characters[token - self.first_character] if self.is_character(token) else ""


@dataclass(frozen=True)
class CTCTokens(Tokens):
    """Ids for connectionist temporal classification: the blank, which also pads targets."""

    first_character: int = 1
    blank: int = 0


@dataclass(frozen=True)
class AttentionTokens(Tokens):
    """Ids for a decoder that writes symbol by symbol: start, end, and padding, which the loss ignores.

    fed_only: ids behind all classes that are fed and never written.
    """

    first_character: int = 2
    start: int = 0
    pad: int = 0
    end: int = 1
    fed_only: int = 0

    @property
    def symbols(self) -> int:
        """How many ids can be fed: the rows of an embedding."""
        return self.classes + self.fed_only


TABLES = ("benchmark", "fewer_labels", "parseq")


def ctc_tokens(charset: Charset, table: str = "benchmark") -> CTCTokens:
    """The ids of a repository's CTC decoders.

    benchmark, parseq: blank 0, characters from 1. fewer_labels: blank 0, padding, unknown, space, characters from 4.
    """
    _check_table(table)
    return CTCTokens(charset, first_character=4 if table == "fewer_labels" else 1)


def attention_tokens(charset: Charset, table: str = "benchmark") -> AttentionTokens:
    """The ids of a repository's autoregressive decoders.

    benchmark: start 0 (pads, too), end 1, characters from 2 (Baek et al., ICCV 2019).
    fewer_labels: padding, unknown, start, end, space, characters from 5 (Baek et al., CVPR 2021; CCR).
    parseq: end 0, characters from 1, start and padding behind them (Bautista and Atienza, ECCV 2022).
    """
    _check_table(table)
    if table == "fewer_labels":
        return AttentionTokens(charset, first_character=5, start=2, pad=0, end=3)
    if table == "parseq":
        return AttentionTokens(charset, first_character=1, behind=2, start=len(charset) + 1, pad=len(charset) + 2, end=0)
    return AttentionTokens(charset)


def _check_table(table: str) -> None:
    if table not in TABLES:
        raise ValueError(f"expected a token table ({', '.join(TABLES)}), found {table!r}")
