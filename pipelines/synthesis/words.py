"""What synthetic words say: dictionary words, numbers, prices and codes, in the cases and lengths that signs show.

The shares of the cases follow the training crops of IIIT5K and IC15 (upper 0.47 and 0.55, title 0.24 and 0.25,
lower 0.17 and 0.14), as do digits and punctuation marks (about a tenth each).
"""

import re
import string
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

from models.charset import Charset
from pipelines.corpus.storage import read_bytes
from pipelines.errors import BadInput
from pipelines.synthesis.patterns import strings_of
from pipelines.synthesis.shares import Shares

DICTIONARY_SIZE = 100_000  # the most frequent tokens of wordfreq's English list
FLATTENING = 4.0  # rank = size * u ** FLATTENING: the 100 most frequent words get 18 %, the rarer half of them 16 %
TRIES = 25  # draws of a kind that the charset or the length may refuse, before a plain one is taken

# kind of text: share
KINDS = Shares({"word": 0.84, "number": 0.06, "price": 0.025, "code": 0.055, "single": 0.02})
CASES = Shares({"upper": 0.49, "title": 0.26, "lower": 0.21, "inner": 0.04})
PUNCTUATED = 0.10
COMMON_MARKS = ("{}.", "{}.", "{},", "{},", "{}!", "{}:", "{}?", "{}'s", "{}-{}", "{}-", "({}", "{})", "{}&{}", "{}/{}")
RARE_MARKS = ("'{}'", '"{}"', '"{}', "({})", "-{}", "#{}", "@{}", "{}@{}", "&{}", "*{}", "{}*", "{}...", "{}+", "{}_{}",
              "~{}", "<{}>", ">{}", "[{}]", "{{{}}}", "{}={}", "{}|{}", "{}^", "`{}", "{}\\{}", "{};", "{}%", "${}",
              "{}.{}")
UNFIT = re.compile(r"[\d\s]|[^\w'.&/+-]")
COARSE = re.compile(r"fuck|shit|cunt|wank|nigg|fagg?ot|whore|slut|bitch|porn|penis|vagina|blowjob|"
                    r"^rap(e|ist)|^(cock|dick|tit)s?$")
MARKS = frozenset(string.punctuation + "£€")


class Word(NamedTuple):
    """What is drawn, and the label it gets."""

    drawn: str
    text: str


class Words:
    """A source of words that a charset can write and a decoder's length can hold."""

    def __init__(self, charset: Charset, max_length: int = 25, file: str | Path | None = None, pattern: str | None = None):
        """The English list with numbers and punctuation; or a file's lines, or strings of a pattern, alike often and exactly as they stand.

        Raises BadInput if the file is missing or unreadable, or if no word is left within charset and length.
        """
        if max_length < 1:
            raise BadInput(f"expected a maximum length of at least 1 character, found {max_length}: check --max-length")
        self.charset = charset
        self.max_length = max_length
        self.verbatim = file is not None or pattern is not None
        self._unlabeled = {ord(mark): None for mark in MARKS if mark not in charset.index}
        self._allowed = frozenset(charset.characters)
        listed = strings_of(pattern) if pattern is not None else lines_of(file) if file is not None else english_words()
        self.vocabulary = [word for word in listed if self._plain(word)]
        self.refused = len(listed) - len(self.vocabulary)
        self.digits = "".join(digit for digit in string.digits if digit in charset.index)
        self.letters = "".join(letter for letter in string.ascii_letters if not charset.outside(letter))
        if not self.vocabulary and (self.verbatim or not self.digits):
            where = f"of --pattern {pattern}" if pattern is not None else f"in {file}" if self.verbatim else "in the English list"
            raise BadInput(f"expected words of at most {max_length} characters out of {charset.characters!r}, found "
                           f"none among the {len(listed)} {where}: widen --charset or --max-length, or name another "
                           "--words FILE")

    @property
    def characters(self) -> str:
        """Every character that may be drawn as part of a label."""
        if self.verbatim:
            return "".join(sorted(set().union(*self.vocabulary)))
        seen = set(self.charset.characters) - {" "}
        if not self.charset.has_capitals:
            seen |= {character.upper() for character in seen if len(character.upper()) == 1}
        return "".join(sorted(seen))

    def draw(self, random: Random) -> Word:
        """One word. What is drawn equals the label, but for punctuation that the charset cannot write: it is seen and
        not labeled, as in the benchmarks that are read with 36 characters."""
        if self.verbatim:
            word = random.choice(self.vocabulary)
            return Word(word, word)
        for _ in range(TRIES):
            drawn = self._of_kind(random, KINDS.pick(random))
            if random.random() < PUNCTUATED:
                drawn = self._punctuated(random, drawn)
            if self._fits(drawn):
                return Word(drawn, self._label(drawn))
        plain = self._plain(self._listed(random)) if self.vocabulary else self._number(random)[:self.max_length]
        return Word(plain, self._label(plain))

    def _label(self, drawn: str) -> str:
        """The drawn text without the punctuation marks that the charset lacks."""
        return drawn if self.verbatim else drawn.translate(self._unlabeled)

    def _fits(self, drawn: str) -> bool:
        """Whether the label is something, short enough, and within the charset."""
        label = self._label(drawn)
        return 0 < len(label) <= self.max_length and self._allowed.issuperset(self.charset.normalise(label))

    def _plain(self, word: str) -> str:
        """The word, or its upper case for a charset of capitals, if it fits; else the empty string."""
        forms = (word,) if self.verbatim else (word, word.upper())
        return next((form for form in forms if self._fits(form)), "")

    def _of_kind(self, random: Random, kind: str) -> str:
        """A text of one of KINDS, or a listed word where the charset has no characters for it; it may be too long."""
        if kind == "number" and self.digits or not self.vocabulary:
            return self._number(random)
        if kind == "price" and self.digits:
            ending = random.choice((".99", ".50", ".00", "%", f".{self._number(random, 2)}"))
            return random.choice("$$$£€ ").strip() + self._number(random, 3) + ending
        if kind == "code" and self.digits and self.letters:
            return self._code(random)
        if kind == "single" and self.letters:
            return random.choice(self.letters + self.digits)
        return cased(random, self._listed(random))

    def _listed(self, random: Random) -> str:
        return self.vocabulary[int(len(self.vocabulary) * random.random() ** FLATTENING)]

    def _number(self, random: Random, longest: int = 6) -> str:
        length = min(random.randint(1, longest), random.randint(1, longest) + 1)
        return "".join(random.choice(self.digits) for _ in range(length))

    def _code(self, random: Random) -> str:
        """Letters and digits as on doors, buses and number plates."""
        letters = "".join(random.choice(self.letters) for _ in range(random.randint(1, 3))).upper()
        digits = self._number(random, 4)
        joint = random.choice(("", "", "-", ":", "/", "."))
        return random.choice((letters + joint + digits, digits + joint + letters,
                              digits + joint + self._number(random, 3)))

    def _punctuated(self, random: Random, text: str) -> str:
        """The text with a mark at an end, around it, or between it and another."""
        form = random.choice(COMMON_MARKS if random.random() < 0.7 else RARE_MARKS)
        other = cased(random, self._listed(random)) if self.vocabulary else self._number(random)
        return form.format(text, other)


def cased(random: Random, word: str) -> str:
    """The word in one of the cases that signs use."""
    case = CASES.pick(random)
    if case == "upper":
        return word.upper()
    if case == "inner":
        place = random.randint(1, len(word))
        return word[:place].capitalize() + word[place:].capitalize()
    return word.capitalize() if case == "title" else word


@cache
def english_words() -> list[str]:
    """wordfreq's most frequent English tokens, most frequent first, without those that hold digits (there they are
    placeholders), odd symbols, or what no sign says."""
    from wordfreq import top_n_list
    return [word for word in top_n_list("en", DICTIONARY_SIZE) if not UNFIT.search(word) and not COARSE.search(word)]


def lines_of(file: str | Path) -> list[str]:
    """The lines of a UTF-8 file, stripped, empty ones left out. Raises BadInput if it cannot be read."""
    try:
        text = read_bytes(str(file)).decode("utf-8-sig")
    except FileNotFoundError as problem:
        raise BadInput(f"expected a file of words, one per line, at {file}, found nothing there: "
                       "check --words") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise BadInput(f"expected a UTF-8 text file of words at {file}, found one that cannot be read ({problem}): "
                       "check --words") from problem
    return [line.strip() for line in text.splitlines() if line.strip()]
